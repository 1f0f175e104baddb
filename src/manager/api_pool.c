/* SPDX-License-Identifier: Apache-2.0 */

/* Resource pools: objects that the checks before a start look at; nothing has to be done on a host. What is used of them is counted
 * when it is asked for. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/pool.h"
#include "manager/api.h"
#include "manager/check_facts.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/pools.h"

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static json_t *live(struct manager *manager, const json_t *pool)
{
        return pools_with_use(manager, pool, NULL);
}

void api_pool_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata, &(struct api_listing){.kind = "pool", .live = live});
}

void api_pool_get(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *pool = NULL;
        struct error *error = NULL;

        if (api_get_object(request, userdata, "pool", &pool, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, live(userdata, pool));
}

/* All pools as they are to be, with their use: `pool` in place of what it was. */
static int pools_to_be(
        struct manager *manager, const json_t *pool, json_t **ret_pools, struct error **ret_error)
{
        _cleanup_json_ json_t *all = NULL, *pools = json_array();
        json_t *other;
        size_t i;
        int r = inventory_objects(manager->inventory, "pool", &all, ret_error);

        if (r < 0)
                return r;
        json_array_foreach (all, i, other)
                if (pools && strcmp(json_text(other, "uid"), json_text(pool, "uid")) != 0 &&
                        json_array_append_new(pools, live(manager, other)) < 0)
                        return no_memory(ret_error);
        if (!pools || json_array_append_new(pools, live(manager, pool)) < 0)
                return no_memory(ret_error);
        *ret_pools = TAKE_PTR(pools);
        return 0;
}

/* More can be promised only of what is there; less at any time. */
static int check_room(
        struct manager *manager, const json_t *pool, const json_t *before, struct error **ret_error)
{
        _cleanup_check_facts_ struct check_facts facts = {};
        _cleanup_json_ json_t *pools = NULL;
        json_int_t room, kept;
        char a[16], b[16];
        int r;

        if (pool_reserved_bytes(json_spec(pool)) <= pool_reserved_bytes(before))
                return 0;
        r = pools_to_be(manager, pool, &pools, ret_error);
        if (r >= 0)
                r = check_facts_load_cluster(manager, &facts, ret_error);
        if (r < 0)
                return r;
        room = pool_room_bytes(facts.hosts, facts.reserved);
        kept = pool_unused_bytes(pools);
        if (kept <= room)
                return 0;
        return error_set(ret_error, ERROR_NO_RESOURCES, "Reserve less, free memory, or add a host.",
                "the hosts have %s of free memory, and resource pools would reserve %s of it",
                text_format_size((uint64_t)room, a), text_format_size((uint64_t)kept, b));
}

/* Checks the pool, records it and answers with it. before: its spec until now; NULL: it is new. */
static void record(struct http_request *request, struct manager *manager, json_t *pool, const json_t *before)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("pool/%s", json_text(pool, "name"));
        uint64_t revision = before ? json_revision(pool) : STORE_ABSENT;
        struct error *error = NULL;
        int r = object ? pool_check_spec(json_spec(pool), &error) : no_memory(&error);

        if (r >= 0 && !before)
                r = api_check_room(manager, &(struct store_query){.kind = "pool", .limit = POOLS_MAX},
                        "resource pools", "Delete one that is not used.", &error);
        if (r >= 0)
                r = check_room(manager, pool, before, &error);
        if (r >= 0) {
                store_batch_put(&batch, revision, json_incref(pool));
                r = api_commit(request, manager, &batch, before ? "pool.update" : "pool.create", object,
                        &revision, &error);
        }
        if (r >= 0 && json_object_set_new(pool, "revision", json_integer((json_int_t)revision)) < 0)
                r = no_memory(&error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, before ? 200 : 201, live(manager, pool));
}

void api_pool_create(struct http_request *request, void *userdata)
{
        json_t *body = NULL, *spec = NULL;
        _cleanup_json_ json_t *pool = NULL;
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        const char *name = NULL;
        int r;

        r = api_body_new(request, &body, &name, &spec, &error);
        if (r >= 0) {
                pool = text_uuid_new(uid) < 0 ? NULL
                                              : json_pack("{s:s, s:s, s:s, s:O, s:{}}", "kind", "pool",
                                                        "name", name, "uid", uid, "spec", spec, "status");
                r = pool ? 0 : no_memory(&error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                record(request, userdata, pool, NULL);
}

void api_pool_update(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *pool = NULL, *before = NULL;
        json_t *body = NULL, *spec = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, userdata, "pool", &pool, &error);
        if (r >= 0)
                r = api_body_spec(request, &body, &spec, &error);
        if (r >= 0) {
                before = json_incref(json_spec(pool));
                r = json_object_set(pool, "spec", spec) < 0 ? no_memory(&error) : 0;
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                record(request, userdata, pool, before);
}

/* The labels stay: whose virtual machines these are does not depend on the limits. */
void api_pool_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *pool = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, userdata, "pool", &pool, &error);
        if (r >= 0) {
                store_batch_remove(&batch, "pool", json_text(pool, "uid"), json_revision(pool));
                r = api_remove(request, userdata, pool, &batch, &error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
}

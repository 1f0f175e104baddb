/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/login_addresses.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "manager/json.h"

#define KIND "login-addresses"
#define DAY_MS (INT64_C(24) * 3600 * 1000)

static json_int_t used_ms(const json_t *item)
{
        return json_integer_value(json_object_get(item, "used_unix_ms"));
}

static bool is_recent(const struct clock *clock, const json_t *item, int64_t days)
{
        return clock_unix_ms(clock) - used_ms(item) < days * DAY_MS;
}

static size_t find(const json_t *items, const char *address)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)items, i, item)
                if (!strcmp(json_text(item, "address"), address))
                        break;
        return i;
}

bool login_address_is_known(
        struct store *store, const struct clock *clock, const char *user_uid, const char *address)
{
        _cleanup_json_ json_t *doc = NULL;
        const json_t *items, *item;

        if (store_get(store, KIND, user_uid, &doc, NULL) < 0)
                return false;
        items = json_object_get(doc, "addresses");
        item = json_array_get(items, find(items, address));
        return item && is_recent(clock, item, LOGIN_ADDRESS_DAYS);
}

/* Items are in the order of their use, the last one first. */
static int put_first(const struct clock *clock, json_t *items, const char *address)
{
        size_t at = find(items, address);

        if (at < json_array_size(items))
                json_array_remove(items, at);
        while (json_array_size(items) >= LOGIN_ADDRESSES_MAX)
                json_array_remove(items, json_array_size(items) - 1);
        return json_array_insert_new(items, 0,
                json_pack(
                        "{s:s, s:I}", "address", address, "used_unix_ms", (json_int_t)clock_unix_ms(clock)));
}

int login_address_note(struct store *store, const struct clock *clock, struct store_batch *batch,
        const char *user_uid, const char *address, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *doc = NULL;
        const json_t *item;
        json_t *items;
        int r = store_get(store, KIND, user_uid, &doc, &error);
        uint64_t revision = doc ? json_revision(doc) : STORE_ABSENT;

        if (r < 0 && r != -ENOENT)
                return error_propagate(ret_error, TAKE_PTR(error));
        if (!doc)
                doc = json_pack("{s:s, s:s, s:s, s:[]}", "kind", KIND, "uid", user_uid, "name", user_uid,
                        "addresses");
        items = json_object_get(doc, "addresses");
        item = json_array_get(items, find(items, address));
        if (item && is_recent(clock, item, 1))
                return 0;
        if (!doc || put_first(clock, items, address) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, revision, TAKE_PTR(doc));
        return 0;
}

void login_addresses_remove(struct store_batch *batch, const char *user_uid)
{
        store_batch_remove(batch, KIND, user_uid, STORE_ANY);
}

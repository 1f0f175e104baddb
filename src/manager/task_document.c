/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/task_document.h"

#include "base/doc.h"
#include "base/text.h"
#include "manager/json.h"

#define TRIM_AT_ONCE 500

static json_t *step_names(const struct task_kind *kind)
{
        json_t *names = json_array();

        for (size_t i = 0; names && i < kind->n_steps; i++)
                if (json_array_append_new(names, json_string(kind->steps[i].name)) < 0) {
                        json_decref(names);
                        return NULL;
                }
        return names;
}

static json_t *objects_of(const struct task_request *request)
{
        json_t *objects = json_array();

        for (size_t i = 0; objects && request->objects && request->objects[i]; i++)
                if (json_array_append_new(objects, json_string(request->objects[i])) < 0) {
                        json_decref(objects);
                        return NULL;
                }
        return objects;
}

static json_t *copy_or_object(const json_t *value)
{
        return value ? json_deep_copy(value) : json_object();
}

json_t *task_document_new(const struct clock *clock, const struct task_kind *kind,
        const struct task_request *request, uint64_t number)
{
        char uid[UUID_STRING_SIZE], name[32], created[32];

        if (request->uid)
                snprintf(uid, sizeof(uid), "%s", request->uid);
        else if (text_uuid_new(uid) < 0)
                return NULL;
        snprintf(name, sizeof(name), "t%010llu", (unsigned long long)number);
        text_format_time(clock_unix_ms(clock), created);
        return json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:s, s:s?, s:s, s:o},"
                         " s:{s:s, s:s, s:o, s:b, s:s, s:n, s:n, s:{s:n, s:n}, s:n, s:n, s:n}, s:{s:i, s:b, "
                         "s:I, s:o, s:o, s:s?}}",
                "kind", "task", "name", name, "uid", uid, "spec", "action", kind->action, "object",
                request->object, "by", request->by, "why", request->why, "priority",
                request->priority ?: "normal", "input", copy_or_object(request->input), "status", "state",
                "queued", "step", kind->steps[0].name, "steps", step_names(kind), "cancel_requested", 0,
                "created", created, "started", "finished", "progress", "percent", "message", "queue",
                "result", "error", "internal", "step", 0, "undoing", 0, "queued_unix_ms",
                (json_int_t)clock_unix_ms(clock), "objects", objects_of(request), "data",
                copy_or_object(request->data), "by_uid", request->by_uid);
}

json_t *task_public(const json_t *doc)
{
        json_t *copy = json_copy((json_t *)doc);

        if (copy)
                json_object_del(copy, "internal");
        return copy;
}

bool task_document_unfinished(const json_t *doc)
{
        const json_t *finished = json_object_get(json_status(doc), "finished");

        return !finished || json_is_null(finished);
}

struct surplus {
        const struct task_engine *engine;
        size_t n_left; /* so many of the oldest ended ones are too many */
};

/* A task that made others looks at how they ended before it ends itself. Those are kept where they stand: no newer one goes instead. */
static bool is_dispensable(void *userdata, const json_t *doc)
{
        struct surplus *surplus = userdata;
        const char *parent = json_text(json_object_get(json_object_get(doc, "internal"), "data"), "parent");

        if (task_document_unfinished(doc) || !surplus->n_left)
                return false;
        surplus->n_left--;
        return !*parent || !task_find(surplus->engine, parent);
}

static void count_one(void *userdata, const struct task *task)
{
        size_t *n = userdata;

        (*n)++;
}

int task_trim(struct store *store, const struct task_engine *engine, uint64_t keep, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct store_query query = {.kind = "task", .limit = STORE_LIMIT_NONE};
        struct surplus surplus = {.engine = engine};
        _cleanup_json_ json_t *old = NULL;
        size_t i, n = 0, n_unfinished = 0;
        json_t *doc;
        int r;

        task_each(engine, count_one, &n_unfinished);
        r = store_count(store, &query, &n, ret_error);
        if (r < 0 || !keep || n <= keep + n_unfinished)
                return r;
        surplus.n_left = n - keep - n_unfinished;
        query.limit = MIN(surplus.n_left, (size_t)TRIM_AT_ONCE);
        query.match = is_dispensable;
        query.userdata = &surplus;
        r = store_list(store, &query, &old, NULL, ret_error);
        if (r < 0 || !json_array_size(old))
                return r;
        json_array_foreach (old, i, doc)
                store_batch_remove(&batch, "task", json_text(doc, "uid"), STORE_ANY);
        return store_commit(store, &batch, NULL, ret_error);
}

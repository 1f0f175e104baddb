/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/stores.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/text.h"
#include "io/file.h"

#define FILE_MAX_BYTES (1 << 20)
#define FRESH_MS 5000 /* a check this old still counts */
#define CHECK_EVERY_MS 15000
#define MEASURE_EVERY_MS 600000 /* some MiB each time: WRITE_RATE_MAX_BYTES */

struct store {
        struct stores *stores;
        char *name;
        char *path;
        char *id; /* NULL until known */

        struct datastore *open; /* NULL until first needed */
        struct datastore_check *check;
        bool checked;
        bool ok;
        uint64_t checked_ms;
        bool measured; /* its rate was to be, at: */
        uint64_t measured_ms;
        struct datastore_status
                status; /* of the last check that succeeded; its rate: of the last one that measured it */
        struct error *failure; /* of the last one, when it failed */
};

struct stores {
        struct loop *loop;
        char *file;
        struct map all; /* name -> struct store */
        struct list waits;
        struct list puts;
        struct loop_source *timer;
};

struct stores_wait {
        struct list all;
        struct stores *stores;
        char **names;
        size_t n_names;
        stores_done_fn done;
        void *userdata;
        struct loop_source *defer;
        bool begun; /* the checks are: an older result does not count */
};

/* A datastore that is being added: it becomes a store when its check succeeds. */
struct put {
        struct list all;
        struct stores *stores;
        char *name;
        char *path;
        char *id;
        struct datastore_check *check;
        stores_done_fn done;
        void *userdata;
};

static void on_defer(void *userdata);

/* --- One datastore ------------------------------------------------------------------------------------------ */

static void store_free(struct store *store)
{
        if (!store)
                return;
        datastore_check_free(store->check);
        datastore_free(store->open);
        error_free(store->failure);
        free(store->name);
        free(store->path);
        free(store->id);
        free(store);
}
DEFINE_CLEANUP(struct store *, store_free)

static int store_add(
        struct stores *stores, const char *name, const char *path, const char *id, struct store **ret)
{
        _cleanup_(store_freep) struct store *store = ALLOC(struct store);
        void *old = NULL;
        int r;

        if (!store)
                return -ENOMEM;
        store->stores = stores;
        store->name = alloc_strdup(name);
        store->path = alloc_strdup(path);
        store->id = id ? alloc_strdup(id) : NULL;
        if (!store->name || !store->path || (id && !store->id))
                return -ENOMEM;
        r = map_put(&stores->all, name, store, &old);
        if (r < 0)
                return r;
        store_free(old);
        *ret = TAKE_PTR(store);
        return 0;
}

static bool store_fresh(const struct store *store)
{
        return store->checked && clock_now_ms(loop_clock(store->stores->loop)) - store->checked_ms < FRESH_MS;
}

static void store_note(struct store *store, const struct datastore_status *status, const struct error *error)
{
        bool was_ok = store->ok;

        store->checked_ms = clock_now_ms(loop_clock(store->stores->loop));
        store->ok = status != NULL;
        error_free(TAKE_PTR(store->failure));
        if (status) {
                struct write_rate before = store->status.rate;

                store->status = *status;
                if (!status->rate.write_bytes_per_s)
                        store->status.rate = before;
        } else
                (void)error_set(&store->failure, error->code, error->hint, "%s", error_message(error));
        if (!store->ok && (was_ok || !store->checked))
                log_warning("datastore %s: %s", store->name, error_message(store->failure));
        else if (store->ok && !was_ok && store->checked)
                log_info("datastore %s works again", store->name);
        store->checked = true;
}

/* --- Waiting for checks --------------------------------------------------------------------------------------- */

/* 1: all fine; 0: some are still being checked; negative: *ret_failure is the first that failed. */
static int wait_state(const struct stores_wait *wait, const struct error **ret_failure)
{
        int state = 1;

        for (size_t i = 0; i < wait->n_names; i++) {
                const struct store *store = map_get(&wait->stores->all, wait->names[i]);

                if (!store)
                        return -ENOENT;
                if (store->check || !store->checked) {
                        state = 0;
                } else if (!store->ok) {
                        *ret_failure = store->failure;
                        return -EIO;
                }
        }
        return state;
}

static void wait_finish(struct stores_wait *wait, struct error *error)
{
        stores_done_fn done = wait->done;
        void *userdata = wait->userdata;

        stores_wait_free(wait);
        done(userdata, error);
        error_free(error);
}

/* True if the wait has ended. */
static bool wait_look(struct stores_wait *wait)
{
        const struct error *failure = NULL;
        struct error *error = NULL;
        int state = wait_state(wait, &failure);

        if (state == 0 || !wait->begun)
                return false;
        if (failure)
                (void)error_set(&error, failure->code, failure->hint, "%s", error_message(failure));
        else if (state < 0)
                (void)error_set(&error, ERROR_NOT_FOUND, NULL, "a datastore was removed meanwhile");
        wait_finish(wait, error);
        return true;
}

/* A wait's call-back may end others, so each round starts over. */
static void look_at_waits(struct stores *stores)
{
        struct stores_wait *wait;
        bool again = true;

        while (again) {
                again = false;
                list_for_each (wait, &stores->waits, all) {
                        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what has ended is off the list */
                        again = wait_look(wait);
                        if (again)
                                break;
                }
        }
}

static void on_checked(void *userdata, const struct datastore_status *status, struct error *error)
{
        struct store *store = userdata;

        store->check = NULL;
        store_note(store, status, error);
        look_at_waits(store->stores);
}

/* measure: nobody waits for it. */
static void store_check(struct store *store, bool measure)
{
        struct error *error = NULL;

        if (store->check || store_fresh(store))
                return;
        if (measure) {
                store->measured = true;
                store->measured_ms = clock_now_ms(loop_clock(store->stores->loop));
        }
        if (datastore_check_start(store->stores->loop, store->name, store->path, store->id, 0, measure,
                    on_checked, store, &store->check, &error) < 0) {
                store_note(store, NULL, error);
                error_free(error);
        }
}

static bool is_to_be_measured(const struct store *store)
{
        return !store->measured ||
               clock_now_ms(loop_clock(store->stores->loop)) - store->measured_ms >= MEASURE_EVERY_MS;
}

static void on_timer(void *userdata)
{
        struct stores *stores = userdata;
        struct map_item *item, *spare;

        map_for_each (item, spare, &stores->all)
                store_check(item->value, is_to_be_measured(item->value));
        (void)loop_source_rearm(stores->timer, CHECK_EVERY_MS);
}

static int copy_names(struct stores_wait *wait, const char *const *names, size_t n_names)
{
        wait->names = alloc_array(n_names, sizeof(char *));
        if (!wait->names)
                return -ENOMEM;
        for (size_t i = 0; i < n_names; i++) {
                wait->names[i] = alloc_strdup(names[i]);
                if (!wait->names[i])
                        return -ENOMEM;
                wait->n_names++;
        }
        return 0;
}

int stores_ensure(struct stores *stores, const char *const *names, size_t n_names, stores_done_fn done,
        void *userdata, struct stores_wait **ret_wait, struct error **ret_error)
{
        struct stores_wait *wait;
        int r;

        for (size_t i = 0; i < n_names; i++) {
                if (!map_get(&stores->all, names[i]))
                        return error_set(ret_error, ERROR_NOT_FOUND,
                                "Attach the datastore to this host first.",
                                "datastore %s is not known on this host", names[i]);
        }
        wait = ALLOC(struct stores_wait);
        if (!wait)
                return error_from_errno(ret_error, ENOMEM, "datastores");
        *wait = (struct stores_wait){.stores = stores, .done = done, .userdata = userdata};
        list_init(&wait->all);
        r = copy_names(wait, names, n_names);
        if (r == 0)
                r = loop_add_defer(stores->loop, on_defer, wait, &wait->defer);
        if (r < 0) {
                stores_wait_free(wait);
                return error_from_errno(ret_error, r, "datastores");
        }
        list_append(&stores->waits, &wait->all);
        *ret_wait = wait;
        return 0;
}

/* The checks begin here and not in stores_ensure(): one that fails at once must not call back from inside it. */
static void on_defer(void *userdata)
{
        struct stores_wait *wait = userdata;

        wait->begun = true;
        for (size_t i = 0; i < wait->n_names; i++) {
                struct store *store = map_get(&wait->stores->all, wait->names[i]);

                if (store)
                        store_check(store, false);
        }
        (void)wait_look(wait);
}

void stores_wait_free(struct stores_wait *wait)
{
        if (!wait)
                return;
        list_remove(&wait->all);
        loop_source_free(wait->defer);
        for (size_t i = 0; i < wait->n_names; i++)
                free(wait->names[i]);
        free(wait->names);
        free(wait);
}

/* --- The set -------------------------------------------------------------------------------------------------- */

static json_t *to_json(const struct stores *stores)
{
        json_t *list = json_array();
        struct map_item *item, *spare;

        map_for_each (item, spare, &stores->all) {
                const struct store *store = item->value;

                if (json_array_append_new(list, json_pack("{s:s, s:s, s:s?}", "name", store->name, "path",
                                                        store->path, "id", store->id)) < 0) {
                        json_decref(list);
                        return NULL;
                }
        }
        return json_pack("{s:i, s:o}", "format", 1, "datastores", list);
}

static int save(const struct stores *stores, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = to_json(stores);
        _cleanup_free_ char *text = doc ? doc_to_text(doc) : NULL;
        int r = text ? file_write_atomic(stores->file, text, strlen(text), 0600) : -ENOMEM;

        return r < 0 ? error_from_errno(ret_error, r, "file %s", stores->file) : 0;
}

static int load_one(struct stores *stores, const json_t *item, struct error **ret_error)
{
        const char *name = NULL, *path = NULL, *id = NULL;
        struct store *store;
        int r = doc_need_string(item, "datastore", "name", NAME_MAX_CHARS, &name, ret_error);

        if (r == 0)
                r = doc_need_string(item, "datastore", "path", 4096, &path, ret_error);
        if (r == 0)
                r = doc_opt_string(item, "datastore", "id", UUID_STRING_SIZE, &id, ret_error);
        if (r < 0)
                return r;
        r = store_add(stores, name, path, id, &store);
        return r < 0 ? error_from_errno(ret_error, r, "datastore %s", name) : 0;
}

static int load(struct stores *stores, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        _cleanup_free_ char *text = NULL;
        json_t *list = NULL, *item;
        size_t len, i;
        int r = file_read(stores->file, FILE_MAX_BYTES, &text, &len);

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "file %s", stores->file);
        r = doc_parse(text, len, &doc, ret_error);
        if (r == 0)
                r = doc_opt_array(doc, "datastores.json", "datastores", STORES_MAX, &list, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (list, i, item) {
                r = load_one(stores, item, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

int stores_new(struct loop *loop, const char *state_dir, struct stores **ret_stores, struct error **ret_error)
{
        _cleanup_(stores_freep) struct stores *stores = ALLOC(struct stores);
        int r;

        if (!stores)
                return error_from_errno(ret_error, ENOMEM, "datastores");
        stores->loop = loop;
        map_init(&stores->all);
        list_init(&stores->waits);
        list_init(&stores->puts);
        stores->file = alloc_printf("%s/datastores.json", state_dir);
        if (!stores->file)
                return error_from_errno(ret_error, ENOMEM, "datastores");
        r = load(stores, ret_error);
        if (r < 0)
                return r;
        r = loop_add_timer(loop, 0, on_timer, stores, &stores->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "datastores");
        *ret_stores = TAKE_PTR(stores);
        return 0;
}

static void put_free(struct put *put)
{
        if (!put)
                return;
        list_remove(&put->all);
        datastore_check_free(put->check);
        free(put->name);
        free(put->path);
        free(put->id);
        free(put);
}
DEFINE_CLEANUP(struct put *, put_free)

void stores_free(struct stores *stores)
{
        struct stores_wait *wait, *spare_wait;
        struct put *put, *spare_put;
        struct map_item *item, *spare;

        if (!stores)
                return;
        list_for_each_safe (wait, spare_wait, &stores->waits, all)
                stores_wait_free(wait);
        list_for_each_safe (put, spare_put, &stores->puts, all)
                put_free(put);
        map_for_each (item, spare, &stores->all)
                store_free(item->value);
        map_deinit(&stores->all);
        loop_source_free(stores->timer);
        free(stores->file);
        free(stores);
}

static void on_put_checked(void *userdata, const struct datastore_status *status, struct error *error)
{
        _cleanup_(put_freep) struct put *put = userdata;
        struct stores *stores = put->stores;
        struct error *failure = NULL;
        struct store *store;
        int r;

        put->check = NULL;
        if (!status) {
                put->done(put->userdata, error);
                return;
        }
        r = store_add(stores, put->name, put->path, status->id, &store);
        if (r < 0) {
                (void)error_from_errno(&failure, r, "datastore %s", put->name);
        } else {
                store_note(store, status, NULL);
                if (save(stores, &failure) < 0)
                        store_free(map_remove(&stores->all, put->name));
        }
        put->done(put->userdata, failure);
        error_free(failure);
        look_at_waits(stores);
}

static int parse_body(
        const json_t *body, const char **ret_path, const char **ret_id, struct error **ret_error)
{
        static const char *const known[] = {"path", "id", NULL};
        int r = doc_only_keys(body, "datastore", known, ret_error);

        if (r == 0)
                r = doc_need_string(body, "datastore", "path", 4096, ret_path, ret_error);
        if (r == 0)
                r = doc_opt_string(body, "datastore", "id", UUID_STRING_SIZE, ret_id, ret_error);
        if (r == 0 && *ret_id && !text_is_uuid(*ret_id))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "datastore.id is no UUID");
        return r < 0 ? r : datastore_check_path(*ret_path, ret_error);
}

int stores_put(struct stores *stores, const char *name, const json_t *body, stores_done_fn done,
        void *userdata, struct error **ret_error)
{
        _cleanup_(put_freep) struct put *put = NULL;
        const char *path = NULL, *id = NULL;
        int r = parse_body(body, &path, &id, ret_error);

        if (r < 0)
                return r;
        if (!text_is_name(name))
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "'%.64s' is no name for a datastore", name);
        if (map_size(&stores->all) >= STORES_MAX && !map_get(&stores->all, name))
                return error_set(ret_error, ERROR_NO_RESOURCES, NULL, "this host has %d datastores already",
                        STORES_MAX);
        put = ALLOC(struct put);
        if (!put)
                return error_from_errno(ret_error, ENOMEM, "datastore %s", name);
        *put = (struct put){.stores = stores, .done = done, .userdata = userdata};
        list_init(&put->all);
        put->name = alloc_strdup(name);
        put->path = alloc_strdup(path);
        put->id = id ? alloc_strdup(id) : NULL;
        if (!put->name || !put->path || (id && !put->id))
                return error_from_errno(ret_error, ENOMEM, "datastore %s", name);
        r = datastore_check_start(
                stores->loop, name, path, id, 0, false, on_put_checked, put, &put->check, ret_error);
        if (r < 0)
                return r;
        list_append(&stores->puts, &put->all);
        TAKE_PTR(put);
        return 0;
}

int stores_remove(struct stores *stores, const char *name, struct error **ret_error)
{
        struct store *store = map_remove(&stores->all, name);
        int r;

        if (!store)
                return error_set(
                        ret_error, ERROR_NOT_FOUND, NULL, "datastore %s is not known on this host", name);
        r = save(stores, ret_error);
        store_free(store);
        look_at_waits(stores);
        return r;
}

static json_t *number_or_null(uint64_t number)
{
        return number ? json_integer((json_int_t)number) : NULL;
}

static json_t *store_status(const struct store *store)
{
        const struct datastore_status *status = &store->status;
        const char *message = store->failure   ? error_message(store->failure)
                              : store->checked ? NULL
                                               : "not checked yet";

        json_t *latency = status->latency_us ? json_real(status->latency_us / 1000.0) : NULL;

        /* Of one that was not seen yet nothing is known. */
        return json_pack("{s:s, s:s?, s:s, s:I, s:I, s:s, s:b, s:o*, s:o*, s:o*, s:o*, s:b, s:s?}", "name",
                store->name, "id", store->id, "path", store->path, "capacity_bytes",
                (json_int_t)status->capacity_bytes, "free_bytes", (json_int_t)status->free_bytes,
                "file_system", status->file_system, "shared", status->shared, "locks",
                *status->id ? json_boolean(status->locks) : NULL, "latency_ms", latency, "write_bytes_per_s",
                number_or_null(status->rate.write_bytes_per_s), "read_bytes_per_s",
                number_or_null(status->rate.read_bytes_per_s), "ok", store->ok, "message", message);
}

json_t *stores_status(const struct stores *stores, const char *name)
{
        const struct store *store = map_get(&stores->all, name);

        return store ? store_status(store) : NULL;
}

json_t *stores_list(const struct stores *stores)
{
        json_t *list = json_array();
        struct map_item *item, *spare;

        map_for_each (item, spare, &stores->all) {
                if (json_array_append_new(list, store_status(item->value)) < 0) {
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}

int stores_get(
        struct stores *stores, const char *name, const struct datastore **ret, struct error **ret_error)
{
        struct store *store = map_get(&stores->all, name);
        int r;

        if (!store)
                return error_set(ret_error, ERROR_NOT_FOUND, "Attach the datastore to this host first.",
                        "datastore %s is not known on this host", name);
        if (store->checked && !store->ok)
                return error_set(ret_error, store->failure->code, store->failure->hint, "%s",
                        error_message(store->failure));
        if (!store->open) {
                r = datastore_open(store->name, store->path, store->id, &store->open, ret_error);
                if (r < 0)
                        return r;
        }
        *ret = store->open;
        return 0;
}

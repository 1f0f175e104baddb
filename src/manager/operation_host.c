/* SPDX-License-Identifier: Apache-2.0 */

/* Tasks that bring hosts in line with what should be: datastores, switches, port groups. Data: "work", an array of
 * {"host", "kind", "name"} (uid, store kind, object's name), made when the step begins; "next", the index in it;
 * "results": {"KIND/NAME": {"HOST": answer}}; "asked": what the host was asked for by the call under way, kept
 * with its answer; "failure": the first refusal; "left_out": names of hosts that cannot be reached:
 * they are brought in line when they come back (operations_host_connected). Each call is a PUT or DELETE that may be
 * repeated. An upgrade of a distributed switch has "version" as well, and "only" (uid) when it is for one host; it ends at the first
 * refusal. */

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/switch_versions.h"

#define CALL_TIMEOUT_MS 30000u
#define CONNECT_POLL_MS 250
#define MESSAGE_MAX 256
#define MINUTE_MS (60ull * 1000)

/* Kinds in the order in which they have to be applied (port groups name switches). */
static const struct {
        const char *kind;
        const char *path;
} applied[] = {{"datastore", "datastores"}, {"switch", "switches"}, {"port-group", "port-groups"}};

static const char *path_of(const char *kind)
{
        for (size_t i = 0; i < ARRAY_SIZE(applied); i++)
                if (!strcmp(applied[i].kind, kind))
                        return applied[i].path;
        return "";
}

/* A datastore may be for some hosts only. */
static bool meant_for(const json_t *object, const char *host_name)
{
        const json_t *hosts = json_object_get(json_spec(object), "hosts");

        return !json_is_array(hosts) || doc_has_string(hosts, host_name);
}

static int add_work(json_t *work, const json_t *host, const char *kind, const json_t *object, bool removal)
{
        if (!removal && !meant_for(object, json_text(host, "name")))
                return 0;
        return json_array_append_new(work, json_pack("{s:s, s:s, s:s}", "host", json_text(host, "uid"),
                                                   "kind", kind, "name", json_text(object, "name")));
}

/* All objects for one host. */
static int work_for_host(struct manager *manager, const json_t *host, json_t *work, struct error **ret_error)
{
        for (size_t k = 0; k < ARRAY_SIZE(applied); k++) {
                struct store_query query = {.kind = applied[k].kind, .limit = STORE_LIMIT_NONE};
                _cleanup_json_ json_t *objects = NULL;
                json_t *object;
                size_t i;
                int r;

                r = store_list(manager->store, &query, &objects, NULL, ret_error);
                if (r < 0)
                        return r;
                json_array_foreach (objects, i, object)
                        if (add_work(work, host, applied[k].kind, object, false) < 0)
                                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return 0;
}

/* One object for all hosts that have been enrolled. */
static int work_for_object(struct manager *manager, const struct task *task, bool removal, json_t *work,
        struct error **ret_error)
{
        const char *kind = json_text(task_data(task), "kind"), *only = json_text(task_data(task), "only");
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory), *object = NULL;
        json_t *host;
        size_t i;
        int r;

        r = store_get(manager->store, kind, json_text(task_data(task), "name"), &object, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (hosts, i, host)
                if (strcmp(json_text(json_status(host), "state"), "enrolling") &&
                        (!*only || !strcmp(only, json_text(host, "uid"))) &&
                        add_work(work, host, kind, object, removal) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

/* A port group is where its switch is. */
static bool is_for_host(
        struct manager *manager, const char *kind, const json_t *object, const char *host_name)
{
        _cleanup_json_ json_t *its_switch = NULL;
        const char *name = switch_of_group(json_spec(object), host_name);

        return strcmp(kind, "port-group") ||
               store_get(manager->store, "switch", name, &its_switch, NULL) < 0 ||
               meant_for(its_switch, host_name);
}

static bool is_upgrade(const struct task *task)
{
        return !strcmp(task_action(task), "network.upgrade");
}

static bool is_removal(const struct task *task)
{
        return strstr(task_action(task), ".remove") != NULL;
}

static int make_work(struct manager *manager, struct task *task, struct error **ret_error)
{
        const char *host_uid = json_text(task_data(task), "host_uid");
        const json_t *host = inventory_host(manager->inventory, host_uid);
        _cleanup_json_ json_t *work = json_array();
        int r;

        if (!work)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (*host_uid)
                r = host ? work_for_host(manager, host, work, ret_error) : 0;
        else
                r = work_for_object(manager, task, is_removal(task), work, ret_error);
        if (r < 0)
                return r;
        if (json_object_set(task_data(task), "work", work) < 0 ||
                json_object_set_new(task_data(task), "next", json_integer(0)) < 0 ||
                json_object_set_new(task_data(task), "results", json_object()) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

/* ids: of datastores that the same task has found out, by name; may be NULL. */
static json_t *datastore_body(const json_t *ids, const json_t *object, const char *host_name)
{
        const json_t *spec = json_spec(object), *shared = json_object_get(spec, "shared");
        const char *path =
                json_text_or_null(json_object_get(spec, "paths"), host_name) ?: json_text(spec, "path");
        const char *id = NULL;

        /* A local datastore is another one on each host: the agent keeps, or makes, its own id. */
        if (!json_is_false(shared))
                id = json_text_or_null(ids, json_text(object, "name"))
                             ?: json_text_or_null(json_status(object), "id");
        return json_pack("{s:s, s:s?}", "path", path, "id", id);
}

static json_t *body_of(
        const json_t *ids, const char *kind, const json_t *object, const char *host_name, json_int_t version)
{
        if (!strcmp(kind, "datastore"))
                return datastore_body(ids, object, host_name);
        if (!strcmp(kind, "switch"))
                return switch_body(object, host_name, version);
        return json_pack("{s:s, s:I}", "switch", switch_of_group(json_spec(object), host_name), "vlan",
                json_integer_value(json_object_get(json_spec(object), "vlan")));
}

static const json_t *current_item(const struct task *task)
{
        size_t next = (size_t)json_integer_value(json_object_get(task_data(task), "next"));

        return json_array_get(json_object_get(task_data(task), "work"), next);
}

static int step_over(struct task *task)
{
        json_int_t next = json_integer_value(json_object_get(task_data(task), "next"));

        return json_object_set_new(task_data(task), "next", json_integer(next + 1));
}

static int skip_rest(struct task *task)
{
        size_t n = json_array_size(json_object_get(task_data(task), "work"));

        return json_object_set_new(task_data(task), "next", json_integer((json_int_t)n));
}

/* Keeps what the host said (taken over) and goes to the next item. */
static int keep_result(struct task *task, const char *host_name, json_t *answer)
{
        const json_t *item = current_item(task);
        _cleanup_free_ char *key = alloc_printf("%s/%s", json_text(item, "kind"), json_text(item, "name"));
        json_t *results = json_object_get(task_data(task), "results"), *of_object;

        of_object = key ? json_object_get(results, key) : NULL;
        if (key && !of_object) {
                of_object = json_object();
                if (json_object_set_new(results, key, of_object) < 0)
                        of_object = NULL;
        }
        if (!of_object || !answer) {
                json_decref(answer);
                return -ENOMEM;
        }
        return json_object_set_new(of_object, host_name, answer) < 0 ? -ENOMEM : step_over(task);
}

/* The id that the first host found or made in a shared datastore holds for all others. */
static int keep_id(struct task *task, const json_t *item, const json_t *body)
{
        json_t *ids = json_object_get(task_data(task), "ids");

        if (strcmp(json_text(item, "kind"), "datastore") || !json_text_or_null(body, "id"))
                return 0;
        if (!ids) {
                ids = json_object();
                if (json_object_set_new(task_data(task), "ids", ids) < 0)
                        return -ENOMEM;
        }
        if (json_object_get(ids, json_text(item, "name")))
                return 0;
        return json_object_set(ids, json_text(item, "name"), json_object_get(body, "id"));
}

static json_t *short_text(const char *text)
{
        return text ? json_stringn(text, text_fitting(text, MESSAGE_MAX)) : json_null();
}

/* Of each host of the cluster there is one in one document: what is asked for later, and a message of a line or two. */
static json_t *answer_document(const json_t *asked, const json_t *body, const struct error *error)
{
        static const char *const keys[] = {"version", "realised"};
        const char *message = error ? error_message(error) : json_text_or_null(body, "message");
        bool ok = !error && !json_is_false(json_object_get(body, "ok"));
        json_t *answer = json_pack("{s:b, s:o}", "ok", ok, "message", short_text(message));
        int r = answer ? 0 : -ENOMEM;

        if (r == 0 && !error && asked)
                r = json_object_set(answer, "asked", (json_t *)asked);
        for (size_t i = 0; r == 0 && !error && i < ARRAY_SIZE(keys); i++) {
                json_t *value = json_object_get(body, keys[i]);

                if (json_is_integer(value) || json_is_boolean(value))
                        r = json_object_set(answer, keys[i], value);
        }
        if (r == 0)
                return answer;
        json_decref(answer);
        return NULL;
}

static int keep_failure(
        struct task *task, const char *host_name, const json_t *item, const struct error *error)
{
        _cleanup_error_ struct error *failure = NULL;

        if (json_object_get(task_data(task), "failure"))
                return 0;
        error_set(&failure, error->code, error->hint, "%s %s on host %s: %s", json_text(item, "kind"),
                json_text(item, "name"), host_name, error_message(error));
        return json_object_set_new(task_data(task), "failure", error_to_json(failure));
}

/* At once, not with the end of the step: a host that reconnects meanwhile would be told the version of before. */
static int note_upgraded(
        struct manager *manager, const char *name, const char *host_name, const json_t *answer)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *object = NULL;
        uint64_t revision;
        int r = store_get(manager->store, "switch", name, &object, NULL);

        if (r == 0)
                r = switch_versions_note(object, host_name, answer, true);
        if (r < 0)
                return r;
        revision = json_revision(object);
        store_batch_put(&batch, revision, TAKE_PTR(object));
        return store_commit(manager->store, &batch, NULL, NULL);
}

/* An upgrade gave the host another version while it was told this one: it may have got them in either order. */
static bool was_overtaken(
        const struct task *task, struct manager *manager, const json_t *item, const char *host_name)
{
        const json_t *asked = json_object_get(json_object_get(task_data(task), "asked"), "version");
        _cleanup_json_ json_t *object = NULL;

        return asked && !is_upgrade(task) && !strcmp(json_text(item, "kind"), "switch") &&
               store_get(manager->store, "switch", json_text(item, "name"), &object, NULL) == 0 &&
               switch_versions_wanted(object, host_name) != json_integer_value(asked);
}

static void on_applied(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const json_t *item = current_item(task);
        const char *host_name =
                json_text(inventory_host(manager->inventory, json_text(item, "host")), "name");
        _cleanup_error_ struct error *not_ok = NULL;
        int r = 0;

        if (error && is_removal(task) && error->code == ERROR_NOT_FOUND)
                error = NULL;
        if (!error && !is_removal(task) && was_overtaken(task, manager, item, host_name)) {
                task_step_again(task, 0);
                return;
        }
        if (!error && json_is_false(json_object_get(body, "ok"))) {
                error_set(&not_ok, ERROR_CONFLICT,
                        "Repair it on that host; it is applied again when its agent reconnects.", "%s",
                        json_text_or_null(body, "message") ?: "it does not work there");
                error = not_ok;
        }
        if (error)
                r = keep_failure(task, host_name, item, error);
        else
                r = keep_id(task, item, body);
        if (r >= 0 && !error && is_upgrade(task))
                r = note_upgraded(manager, json_text(item, "name"), host_name, body);
        if (r < 0 ||
                keep_result(task, host_name,
                        answer_document(json_object_get(task_data(task), "asked"), body, error)) < 0 ||
                (error && is_upgrade(task) && skip_rest(task) < 0))
                task_step_failed(task, NULL);
        else
                task_step_again(task, 0);
}

/* Puts what the hosts said into the objects' status. */
static void record_results(struct task *task, struct manager *manager)
{
        const char *key;
        json_t *of_hosts;

        json_object_foreach (json_object_get(task_data(task), "results"), key, of_hosts) {
                const char *slash = strchr(key, '/');
                _cleanup_free_ char *kind = slash ? alloc_printf("%.*s", (int)(slash - key), key) : NULL;
                _cleanup_json_ json_t *object = NULL;
                const char *host_name;
                json_t *answer;
                uint64_t revision;
                json_t *id;

                if (!kind || store_get(manager->store, kind, slash + 1, &object, NULL) < 0)
                        continue;
                revision = json_revision(object);
                json_object_update(json_object_get(json_status(object), "hosts"), of_hosts);
                json_object_foreach (of_hosts, host_name, answer)
                        if (!strcmp(kind, "switch") &&
                                switch_versions_note(object, host_name, answer, false) < 0)
                                log_warning("switch %s: the version of host %s is not noted", slash + 1,
                                        host_name);
                id = json_object_get(json_object_get(task_data(task), "ids"), slash + 1);
                if (id && !json_is_false(json_object_get(json_spec(object), "shared")))
                        json_object_set(json_status(object), "id", id);
                store_batch_put(task_batch(task), revision, TAKE_PTR(object));
        }
}

/* What is asked of a host, without what others have told of the object: the id of a shared datastore. The caller's. */
static json_t *without_id(const json_t *body)
{
        json_t *asked = json_copy((json_t *)body);

        if (asked)
                json_object_del(asked, "id");
        return asked;
}

static void apply_item(struct task *task, struct manager *manager, const json_t *item)
{
        const char *kind = json_text(item, "kind"), *name = json_text(item, "name");
        const json_t *host = inventory_host(manager->inventory, json_text(item, "host"));
        _cleanup_free_ char *path = alloc_printf("/agent/v1/%s/%s", path_of(kind), name);
        _cleanup_json_ json_t *object = NULL, *body = NULL;
        bool removal = is_removal(task);

        if (store_get(manager->store, kind, name, &object, NULL) < 0 ||
                (!removal && !is_for_host(manager, kind, object, json_text(host, "name")))) {
                if (step_over(task) < 0)
                        task_step_failed(task, NULL);
                else
                        task_step_again(task, 0);
                return;
        }
        body = removal ? NULL
                       : body_of(json_object_get(task_data(task), "ids"), kind, object,
                                 json_text(host, "name"),
                                 json_integer_value(json_object_get(task_data(task), "version")));
        if (!path || (!removal && (!body || json_object_set_new(task_data(task), "asked", without_id(body)) <
                                                    0))) {
                task_step_failed(task, NULL);
                return;
        }
        step_say(task, "%s %s on host %s", kind, name, json_text(host, "name"));
        step_call_once(task, manager,
                &(struct agent_request){.host_uid = json_text(item, "host"),
                        .method = removal ? "DELETE" : "PUT",
                        .path = path,
                        .body = body,
                        .timeout_ms = CALL_TIMEOUT_MS},
                on_applied);
}

/* A host that cannot be reached now. 0 or -ENOMEM. */
static int leave_out(struct task *task, struct manager *manager, const json_t *item)
{
        json_t *left_out = json_object_get(task_data(task), "left_out");
        const char *name = json_text(inventory_host(manager->inventory, json_text(item, "host")), "name");

        if (!left_out) {
                left_out = json_array();
                if (json_object_set_new(task_data(task), "left_out", left_out) < 0)
                        return -ENOMEM;
        }
        if (*name && !doc_has_string(left_out, name) &&
                json_array_append_new(left_out, json_string(name)) < 0)
                return -ENOMEM;
        return step_over(task);
}

static void run_apply(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        struct error *error = NULL;
        const json_t *item;

        if (!json_object_get(task_data(task), "work") && make_work(manager, task, &error) < 0) {
                task_step_failed(task, error);
                return;
        }
        while ((item = current_item(task))) {
                if (inventory_connected(manager->inventory, json_text(item, "host"))) {
                        apply_item(task, manager, item);
                        return;
                }
                if (leave_out(task, manager, item) < 0) {
                        task_step_failed(task, NULL);
                        return;
                }
        }
        if (!is_removal(task))
                record_results(task, manager);
        task_step_done(task);
}

/* What a host refused becomes the task's error, after everything that could be done was done and recorded. */
static void run_conclude(struct task *task, void *userdata)
{
        const json_t *failure = json_object_get(task_data(task), "failure");

        if (is_upgrade(task))
                task_set_result(
                        task, json_pack("{s:O, s:O?}", "version", json_object_get(task_data(task), "version"),
                                      "left_out", json_object_get(task_data(task), "left_out")));
        if (failure)
                task_step_failed(task, error_from_json(failure));
        else
                task_step_done(task);
}

static void run_remove_object(struct task *task, void *userdata)
{
        const json_t *failure = json_object_get(task_data(task), "failure");
        struct manager *manager = userdata;
        _cleanup_json_ json_t *object = NULL;
        const char *kind = json_text(task_data(task), "kind");

        if (failure) {
                task_step_failed(task, error_from_json(failure));
                return;
        }
        if (store_get(manager->store, kind, json_text(task_data(task), "name"), &object, NULL) >= 0)
                store_batch_remove(task_batch(task), kind, json_text(object, "uid"), STORE_ANY);
        task_step_done(task);
}

/* Waits until all hosts that took part were polled anew, so that the checks know what was just applied. */
static void run_refresh_all(struct task *task, void *userdata)
{
        struct manager *manager = userdata;
        uint64_t elapsed = task_step_elapsed_ms(task), began = clock_now_ms(manager->clock) - elapsed;

        if (task_step_first(task))
                inventory_refresh(manager->inventory, NULL);
        if (inventory_fresh(manager->inventory, NULL, began) || elapsed > 10000)
                task_step_done(task);
        else
                task_step_again(task, 50);
}

static void run_connect(struct task *task, void *userdata)
{
        struct manager *manager = userdata;

        if (inventory_connected(manager->inventory, json_text(task_data(task), "host_uid"))) {
                task_step_done(task);
                return;
        }
        step_say(task, "waiting for the host's agent");
        task_step_again(task, CONNECT_POLL_MS);
}

static const struct task_step add_steps[] = {
        {.name = "connect", .run = run_connect},
        {.name = "apply", .run = run_apply},
        {.name = "refresh", .run = step_refresh},
        {.name = "conclude", .run = run_conclude},
};
const struct task_kind operation_host_add = {
        .action = "host.add",
        .steps = add_steps,
        .n_steps = ARRAY_SIZE(add_steps),
        .timeout_ms = 30 * MINUTE_MS,
};

const struct task_kind operation_host_sync = {
        .action = "host.sync",
        .steps = add_steps,
        .n_steps = ARRAY_SIZE(add_steps),
        .timeout_ms = 10 * MINUTE_MS,
};

/* What distributed switches know of it. 0 or a negative errno. */
static int forget_versions(struct task *task, struct manager *manager, const char *host_name)
{
        struct store_query query = {.kind = "switch", .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *switches = NULL;
        json_t *object;
        size_t i;
        int r = store_list(manager->store, &query, &switches, NULL, NULL);

        if (r < 0)
                return r;
        json_array_foreach (switches, i, object) {
                uint64_t revision = json_revision(object);

                if (switch_versions_forget(object, host_name))
                        store_batch_put(task_batch(task), revision, json_incref(object));
        }
        return 0;
}

/* Its certificate cannot be taken back: the agents that stay are told to take no migration from it any more. */
static void run_forget_host(struct task *task, void *userdata)
{
        const char *uid = json_text(task_data(task), "host_uid");
        struct manager *manager = userdata;
        const char *name = json_text(inventory_host(manager->inventory, uid), "name");
        char alert[INVENTORY_ALERT_NAME_SIZE];

        if (*name && forget_versions(task, manager, name) < 0) {
                task_step_failed(task, NULL);
                return;
        }
        store_batch_put(task_batch(task), STORE_ANY,
                json_pack("{s:s, s:s, s:s, s:I}", "kind", "removed-host", "uid", uid, "name", uid,
                        "created_unix_ms", (json_int_t)clock_unix_ms(manager->clock)));
        store_batch_remove(task_batch(task), "host", uid, STORE_ANY);
        inventory_alert_name(uid, alert);
        store_batch_remove(task_batch(task), "alert", alert, STORE_ANY);
        task_step_done(task);
}

static const struct task_step remove_steps[] = {
        {.name = "forget", .run = run_forget_host},
};
const struct task_kind operation_host_remove = {
        .action = "host.remove",
        .steps = remove_steps,
        .n_steps = ARRAY_SIZE(remove_steps),
        .timeout_ms = MINUTE_MS,
};

static const struct task_step apply_steps[] = {
        {.name = "apply", .run = run_apply},
        {.name = "refresh", .run = run_refresh_all},
        {.name = "conclude", .run = run_conclude},
};
const struct task_kind operation_datastore_apply = {
        .action = "datastore.apply",
        .steps = apply_steps,
        .n_steps = ARRAY_SIZE(apply_steps),
        .timeout_ms = 30 * MINUTE_MS,
};
const struct task_kind operation_network_apply = {
        .action = "network.apply",
        .steps = apply_steps,
        .n_steps = ARRAY_SIZE(apply_steps),
        .timeout_ms = 30 * MINUTE_MS,
};

/* Host by host, as the work is: the version of the next one is changed only after the one before has it. */
const struct task_kind operation_network_upgrade = {
        .action = "network.upgrade",
        .steps = apply_steps,
        .n_steps = ARRAY_SIZE(apply_steps),
        .timeout_ms = 30 * MINUTE_MS,
};

static const struct task_step remove_object_steps[] = {
        {.name = "apply", .run = run_apply},
        {.name = "refresh", .run = run_refresh_all},
        {.name = "forget", .run = run_remove_object},
};
const struct task_kind operation_datastore_remove = {
        .action = "datastore.remove",
        .steps = remove_object_steps,
        .n_steps = ARRAY_SIZE(remove_object_steps),
        .timeout_ms = 30 * MINUTE_MS,
};
const struct task_kind operation_network_remove = {
        .action = "network.remove",
        .steps = remove_object_steps,
        .n_steps = ARRAY_SIZE(remove_object_steps),
        .timeout_ms = 30 * MINUTE_MS,
};

/* Whether the host has said that it has the object as it should be, now and when it was applied. What is not wanted any more (an
 * uplink, an MTU) does not show in what it reports, where an MTU is also the uplink's: only what it was asked for last tells. */
static bool has_object(const char *kind, const json_t *object, const char *host_name, const json_t *reported)
{
        const json_t *applied_there =
                json_object_get(json_object_get(json_status(object), "hosts"), host_name);
        _cleanup_json_ json_t *wanted = body_of(NULL, kind, object, host_name, 0), *asks = without_id(wanted);
        const char *key;
        json_t *value;

        if (!asks || !json_equal(asks, json_object_get(applied_there, "asked")) ||
                !json_is_true(json_object_get(applied_there, "ok")) || !json_is_object(reported) ||
                json_is_false(json_object_get(reported, "ok")))
                return false;
        json_object_foreach (wanted, key, value)
                if (!json_is_null(value) && !json_equal(value, json_object_get(reported, key)))
                        return false;
        return true;
}

/* All that the host should have it has: after a restart of the manager, or of an agent, that is so for nearly all hosts. */
static bool is_in_line(struct manager *manager, const char *host_name)
{
        static const char *const keys[] = {"datastores", "switches", "port_groups"};
        const json_t *status = json_status(inventory_live(manager->inventory, host_name));

        static_assert(ARRAY_SIZE(keys) == ARRAY_SIZE(applied), "one list a kind");
        for (size_t k = 0; k < ARRAY_SIZE(applied); k++) {
                _cleanup_json_ json_t *objects = NULL;
                json_t *object;
                size_t i;

                if (inventory_objects(manager->inventory, applied[k].kind, &objects, NULL) < 0)
                        return false;
                json_array_foreach (objects, i, object)
                        if (meant_for(object, host_name) &&
                                !has_object(applied[k].kind, object, host_name,
                                        json_named(json_object_get(status, keys[k]),
                                                json_text(object, "name"))) &&
                                is_for_host(manager, applied[k].kind, object, host_name))
                                return false;
        }
        return true;
}

bool operations_host_connected(struct manager *manager, const json_t *host)
{
        _cleanup_free_ char *held = alloc_printf("host/%s", json_text(host, "uid"));
        _cleanup_free_ char *object = alloc_printf("host/%s", json_text(host, "name"));
        _cleanup_json_ json_t *data = json_pack("{s:s}", "host_uid", json_text(host, "uid"));
        _cleanup_error_ struct error *error = NULL;

        if (!held || !object || !data || task_holding(manager->tasks, held))
                return false;
        if (is_in_line(manager, json_text(host, "name")))
                return true;
        if (task_submit(manager->tasks,
                    &(struct task_request){.action = "host.sync",
                            .object = object,
                            .objects = (const char *const[]){held, NULL},
                            .by = "system",
                            .why = "the host has connected",
                            .priority = "high",
                            .data = data},
                    NULL, NULL, &error) < 0)
                log_warning("host %s: its datastores and networks are not applied: %s",
                        json_text(host, "name"), error_message(error));
        return !error;
}

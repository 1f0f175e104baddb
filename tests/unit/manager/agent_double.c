/* SPDX-License-Identifier: Apache-2.0 */
#include "agent_double.h"

#include "fixture.h"

#include <poll.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "io/pki.h"
#include "io/sock.h"

static json_t *values_of(json_t *object)
{
        json_t *array = json_array(), *value;
        const char *key;

        json_object_foreach (object, key, value)
                json_array_append(array, value);
        return array;
}

static void on_host(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        if (agent->n_blocks) {
                agent->n_blocks--;
                assert_int_equal(poll(NULL, 0, (int)agent->block_ms), 0);
        }

        http_request_reply_json(request, 200,
                json_pack("{s:s, s:s, s:s, s:s, s:{s:s, s:s, s:[s,s]}, s:i, s:I, s:I, s:f, s:n, s:{s:b, "
                          "s:b, s:b, s:b, s:b, s:b}, s:i, s:[{s:s, s:I}], s:O*}",
                        "uid", agent->uid, "name", "double", "version", "0.1.0", "accelerator", "tcg", "qemu",
                        "binary", "/q", "version", "7.2.0", "machines", "pc-q35-7.2", "q35", "cpus", 4,
                        "memory_bytes", (json_int_t)8 << 30, "memory_free_bytes", agent->memory_free_bytes,
                        "load1", 0.5, "cgroup", "capabilities", "switchover", agent->coordinates, "limits", 1,
                        "storage_moves", 1, "suspend", !agent->knows_no_states, "disk_work", 1, "disks_along",
                        1, "n_vms", (int)json_object_size(agent->vms), "links", "address", "127.0.0.1",
                        "speed_bps", agent->link_bps, "waiting_migrations", agent->waiting));
}

/* Answers with the document (taken over), and with what nobody asked for if it is to. */
static void reply_padded(
        struct http_request *request, const struct agent_double *agent, int status, json_t *doc)
{
        if (agent->pad && strstr(http_request_path(request), agent->pad)) {
                char *text = calloc(1, agent->pad_bytes + 1);

                assert_non_null(text);
                memset(text, 'A', agent->pad_bytes);
                json_object_set_new(json_status(doc) ?: doc, "x", json_string(text));
                free(text);
        }
        http_request_reply_json(request, status, doc);
}

static void on_vms(struct http_request *request, void *userdata)
{
        const struct agent_double *agent = userdata;

        http_request_reply_json(request, 200, values_of(agent->vms));
}

static void on_lists(struct http_request *request, void *userdata)
{
        const struct agent_double *agent = userdata;
        const char *kind = http_request_path(request) + strlen("/agent/v1/");
        json_t *out = !strcmp(kind, "datastores") ? values_of(agent->datastores) : json_array(), *value;
        const char *key;

        json_object_foreach (agent->networks, key, value)
                if (!strncmp(key, kind, strlen(kind)))
                        json_array_append(out, value);
        http_request_reply_json(request, 200, out);
}

static void on_datastore(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        const char *name = http_request_param(request, "name");
        json_t *body = NULL, *doc;
        struct error *error = NULL;
        const char *id;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        id = json_text_or_null(body, "id");
        if (id && strcmp(id, agent->shared_id)) {
                error_set(&error, ERROR_CONFLICT, NULL, "another datastore is mounted there");
                http_request_reply_error(request, error);
                return;
        }
        doc = json_pack("{s:s, s:s, s:O, s:b, s:n}", "name", name, "id", agent->shared_id, "path",
                json_object_get(body, "path"), "ok", 1, "message");
        json_object_set(agent->datastores, name, doc);
        http_request_reply_json(request, 200, doc);
}

static void hold(struct agent_double *agent, struct http_request *request)
{
        if (agent->held) {
                assert_true(agent->n_held_before < ARRAY_SIZE(agent->held_before));
                agent->held_before[agent->n_held_before++] = agent->held;
        }
        agent->held = request;
}

static void on_network(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        json_t *body = NULL, *doc;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        doc = json_deep_copy(body);
        json_object_set_new(doc, "name", json_string(http_request_param(request, "name")));
        json_object_set_new(agent->networks, http_request_path(request) + strlen("/agent/v1/"), doc);
        if (agent->hold_switch && strstr(http_request_path(request), "/switches/")) {
                agent->hold_switch = false;
                hold(agent, request);
                return;
        }
        reply_padded(request, agent, 200, json_deep_copy(doc));
}

static void set_power(json_t *vm, const char *power)
{
        json_object_update_new(json_object_get(vm, "status"),
                json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:n}", "power", power, "host", "double", "machine",
                        "pc-q35-7.2", "memory_effective_bytes",
                        json_integer_value(json_object_get(json_object_get(vm, "spec"), "memory_bytes")),
                        "accelerator", "tcg", "qemu_version", "7.2.0", "message"));
}

static void set_epoch(json_t *vm, json_int_t epoch)
{
        json_object_set_new(json_object_get(vm, "status"), "owner_epoch", json_integer(epoch));
}

static void reply_or_not_found(struct http_request *request, json_t *doc)
{
        struct error *error = NULL;

        if (doc) {
                http_request_reply_json(request, 200, json_deep_copy(doc));
                return;
        }
        error_set(&error, ERROR_NOT_FOUND, NULL, "not here");
        http_request_reply_error(request, error);
}

static bool refuse_start(struct http_request *request, const struct agent_double *agent, const json_t *vm)
{
        struct error *error = NULL;

        if (agent->refuse_start)
                error_set(&error, ERROR_QEMU_FAILED, NULL, "QEMU does not want to");
        else if (agent->refuse_for)
                error_set(&error, ERROR_STALE_EPOCH, "Ask that host.",
                        "host %s took the virtual machine with epoch 9, the last one known here is 2",
                        agent->refuse_for);
        else if (vm && !strcmp(json_text(json_status(vm), "power"), "running"))
                error_set(&error, ERROR_CONFLICT, NULL, "it is running");
        else
                return false;
        http_request_reply_error(request, error);
        return true;
}

/* As on the real one the state is beside the disks: any host resumes it, if only once. */
static bool suspend_or_restore(
        struct http_request *request, struct agent_double *agent, const char *uid, const char *verb)
{
        bool suspends = !strcmp(verb, "suspend");
        json_t *vm = json_object_get(agent->vms, uid), *body = NULL;
        struct error *error = NULL;
        json_int_t epoch;

        if (!suspends && strcmp(verb, "restore") != 0)
                return false;
        if (!suspends) {
                assert_int_equal(http_request_json(request, &body, NULL), 0);
                assert_null(json_object_get(json_status(body), "moved_cold")); /* the manager's own */
        }
        if (agent->busy) {
                error_set(&error, ERROR_BUSY, NULL, "enough are resumed");
                http_request_reply_error(request, error);
                return true;
        }
        if (agent->refuse_state) {
                if (!suspends) { /* it has taken it over, and it is as it was told */
                        epoch = json_integer_value(json_object_get(json_status(body), "owner_epoch"));
                        json_object_set(agent->vms, uid, body);
                        set_epoch(body, epoch + 1);
                }
                error_set(&error, ERROR_QEMU_FAILED, NULL, "QEMU does not want to");
                http_request_reply_error(request, error);
                return true;
        }
        if (!suspends) {
                epoch = json_integer_value(json_object_get(json_status(body), "owner_epoch"));
                vm = json_deep_copy(body);
                json_object_set_new(agent->vms, uid, vm);
                set_epoch(vm, epoch + 1);
        }
        set_power(vm, suspends ? "suspended" : agent->crash_resumed ? "crashed" : "running");
        if (!suspends && agent->crash_resumed) {
                error_set(&error, ERROR_QEMU_FAILED, NULL, "QEMU ended");
                http_request_reply_error(request, error);
                return true;
        }
        vm = json_deep_copy(vm);
        json_object_set_new(vm, "transfer", json_pack("{s:i}", suspends ? "suspend_ms" : "resume_ms", 5));
        http_request_reply_json(request, 200, vm);
        return true;
}

static void on_vm_verb(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        const char *uid = http_request_param(request, "uid"), *verb = http_request_param(request, "verb");
        json_t *vm = json_object_get(agent->vms, uid), *body = NULL;

        if (agent->forgetful && !vm && strcmp(verb, "create") && strcmp(verb, "start")) {
                reply_or_not_found(request, NULL);
                return;
        }
        if (agent->hold && !strcmp(verb, agent->hold)) {
                hold(agent, request);
                return;
        }
        if (!strcmp(verb, "create")) { /* as the real one: it tells of a VM once it was started */
                assert_int_equal(http_request_json(request, &body, NULL), 0);
                vm = json_deep_copy(body);
                set_power(vm, "stopped");
                set_epoch(vm, 0);
                http_request_reply_json(request, 200, vm);
                return;
        }
        if (!strcmp(verb, "stop") && agent->refuse_stop) {
                struct error *error = NULL;

                error_set(&error, ERROR_CONFLICT, NULL, "it is stopped");
                http_request_reply_error(request, error);
                return;
        }
        if ((!strcmp(verb, "start") && refuse_start(request, agent, vm)) ||
                suspend_or_restore(request, agent, uid, verb))
                return;
        if (!strcmp(verb, "start")) {
                assert_int_equal(http_request_json(request, &body, NULL), 0);
                agent->start_clears = http_request_query(request, "clear") != NULL;
                vm = json_deep_copy(body);
                json_object_set_new(agent->vms, uid, vm);
                agent->started_knowing = json_integer_value(json_object_get(json_status(vm), "owner_epoch"));
                set_power(vm, "running");
                set_epoch(vm, agent->started_knowing + 1);
        } else if (!strcmp(verb, "delete"))
                json_object_del(agent->vms, uid);
        else if (vm)
                set_power(vm, !strcmp(verb, "stop")    ? "stopped"
                              : !strcmp(verb, "pause") ? "paused"
                                                       : "running");
        reply_padded(request, agent, 200, vm && strcmp(verb, "delete") ? json_deep_copy(vm) : json_object());
}

static void on_disk_work(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        _cleanup_json_ json_t *disks = json_array();
        size_t i, n = strcspn(agent->fail_disk_work ?: "", " ");
        struct error *error = NULL;
        enum error_code code;
        json_t *body = NULL, *name, *size;
        const char *work;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        assert_null(json_object_get(json_object_get(body, "vm"), "snapshots")); /* the manager's own */
        json_decref(agent->disk_work);
        agent->disk_work = json_deep_copy(body);
        work = json_text(body, "work");
        if (agent->hold && !strcmp(work, agent->hold)) {
                hold(agent, request);
                return;
        }
        if (agent->fail_disk_work && n == strlen(work) && !strncmp(agent->fail_disk_work, work, n)) {
                assert_int_equal(error_code_from_string(agent->fail_disk_work + n + 1, &code), 0);
                error_set(&error, code, NULL, "the agent does not want to");
                http_request_reply_error(request, error);
                return;
        }
        if (agent->disk_work_answer) {
                http_request_reply_json(request, 200, json_deep_copy(agent->disk_work_answer));
                return;
        }
        size = json_object_get(body, "size_bytes");
        json_array_foreach (json_object_get(body, "disks"), i, name)
                json_array_append_new(disks, json_pack("{s:O, s:o}", "name", name, "size_bytes",
                                                     size ? json_incref(size) : json_integer(4 << 20)));
        http_request_reply_json(request, 200, json_pack("{s:O, s:b}", "disks", disks, "live", 0));
}

static void on_suspend_cancel(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        json_t *vm = json_object_get(agent->vms, http_request_param(request, "uid"));
        struct error *error = NULL;

        if (strcmp(json_text(json_status(vm), "power"), "suspended") != 0) {
                reply_or_not_found(request, vm);
                return;
        }
        error_set(&error, ERROR_CONFLICT, NULL, "it is suspended");
        http_request_reply_error(request, error);
}

static void on_vm(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        reply_or_not_found(request, json_object_get(agent->vms, http_request_param(request, "uid")));
}

static void on_migrate(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        json_t *body = NULL;

        if (agent->hold_migrations) {
                hold(agent, request);
                return;
        }
        assert_int_equal(http_request_json(request, &body, NULL), 0);
        if (!agent->migration)
                agent->migration = json_pack("{s:O, s:s, s:s, s:{s:i, s:i, s:i}, s:[], s:n, s:n, s:O}", "id",
                        json_object_get(body, "id"), "role", "source", "phase", "copying", "progress", "pass",
                        1, "bytes_ram", 1000, "remaining_bytes", 3000, "phases", "result", "error", "spec",
                        body);
        http_request_reply_json(request, 202, json_object());
}

static void on_migration(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        if (agent->migration)
                reply_padded(request, agent, 200, json_deep_copy(agent->migration));
        else
                reply_or_not_found(request, NULL);
}

static void on_stream_closed(void *userdata)
{
        struct agent_double *agent = userdata;

        agent->stream = NULL;
}

static void on_events(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        struct error *error = NULL;

        if (!agent->streams) {
                error_set(&error, ERROR_NOT_FOUND, NULL, "no events");
                http_request_reply_error(request, error);
                return;
        }
        agent->stream =
                http_request_reply_stream(request, "text/event-stream", 1u << 20, on_stream_closed, agent);
        assert_non_null(agent->stream);
        assert_int_equal(http_stream_send(agent->stream, ":\n\n", 3), 0);
}

void agent_double_event(struct agent_double *agent, const char *event, const json_t *doc)
{
        char *text = json_dumps(doc, JSON_COMPACT),
             *line = alloc_printf("event: %s\ndata: %s\n\n", event, text);

        assert_non_null(agent->stream);
        assert_int_equal(http_stream_send(agent->stream, line, strlen(line)), 0);
        free(text);
        free(line);
}

static void take_list(struct http_request *request, json_t **list)
{
        json_t *body = NULL;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        json_decref(*list);
        *list = json_incref(json_object_get(body, "hosts"));
        http_request_reply_json(request, 200, json_object());
}

static void on_removed_hosts(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        take_list(request, &agent->removed);
}

static void on_fenced_hosts(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        take_list(request, &agent->fenced);
}

static void on_migration_cancel(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        json_object_set_new(agent->migration, "phase", json_string("cancelled"));
        http_request_reply_json(request, 200, json_object());
}

void agent_double_switchover(struct agent_double *agent, const char *state)
{
        json_object_set_new(agent->migration, "switchover",
                json_pack("{s:s, s:s, s:i, s:i}", "state", state, "permit", "none", "waited_ms", 0, "lapsed",
                        0));
}

static void on_switchover(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        json_t *body = NULL;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        if (json_is_true(json_object_get(body, "permit"))) {
                agent->n_permits++;
                agent_double_switchover(agent, "open");
        } else
                agent->n_waits++;
        http_request_reply_json(request, 200, json_object());
}

static void on_limits(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        json_t *body = NULL;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        agent->rate_limit_bps = json_integer_value(json_object_get(body, "rate_limit_bps"));
        http_request_reply_json(request, 200, json_object());
}

/* As an agent does whose guest waits for a destination that had its disks. */
static void on_let_go(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        json_decref(TAKE_PTR(agent->waiting));
        http_request_reply_json(request, 200, json_object());
}

static void on_peer_removed(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;

        json_object_set_new(agent->migration, "phase", json_string("failed"));
        json_object_set_new(agent->migration, "record", json_string("taken-back"));
        http_request_reply_json(request, 200, json_object());
}

static void on_migration_delete(struct http_request *request, void *userdata)
{
        http_request_reply_empty(request, 204);
}

/* Done, or failed, as soon as it was asked for. */
static json_t *quick_move(const struct agent_double *agent, const json_t *body)
{
        json_t *all = json_object_get(json_object_get(json_object_get(body, "vm"), "spec"), "disks"),
               *disks = json_array(), *item, *disk;
        bool failed = false;
        size_t i, k;

        json_array_foreach (json_object_get(body, "disks"), i, item) {
                const char *to = json_text(item, "datastore");

                failed = failed || (agent->no_disks_to && !strcmp(agent->no_disks_to, to));
                json_array_foreach (all, k, disk)
                        if (!strcmp(json_text(disk, "name"), json_text(item, "name")))
                                json_array_append_new(
                                        disks, json_pack("{s:s, s:O, s:{s:s, s:O, s:s}, s:b}", "name",
                                                       json_text(disk, "name"), "from", disk, "to",
                                                       "datastore", to, "path", json_object_get(disk, "path"),
                                                       "format", "raw", "switched", !failed));
        }
        return json_pack("{s:O, s:s, s:b, s:o, s:{s:i, s:i}, s:n, s:o, s:O}", "id",
                json_object_get(body, "id"), "phase", failed ? "failed" : "switched", "live", 1, "disks",
                disks, "progress", "copied_bytes", 4, "total_bytes", 4, "result", "error",
                failed ? json_pack("{s:s, s:s}", "code", "no-space", "detail", "it is full there")
                       : json_null(),
                "request", body);
}

static json_t *move_of(const struct agent_double *agent, const char *id)
{
        return json_object_get(agent->storage_moves, id) ?: agent->storage_move;
}

static void on_storage_move_start(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        json_t *body = NULL;

        assert_int_equal(http_request_json(request, &body, NULL), 0);
        if (agent->moves_disks) {
                json_object_set_new(agent->storage_moves, json_text(body, "id"), quick_move(agent, body));
                http_request_reply_json(request, 202, json_deep_copy(move_of(agent, json_text(body, "id"))));
                return;
        }
        if (!agent->storage_move)
                agent->storage_move = json_pack("{s:O, s:s, s:b, s:[], s:{s:i, s:i}, s:n, s:n, s:O}", "id",
                        json_object_get(body, "id"), "phase", "copying", "live", 1, "disks", "progress",
                        "copied_bytes", 1, "total_bytes", 4, "result", "error", "request", body);
        json_object_set_new(
                agent->storage_move, "clears", json_boolean(http_request_query(request, "clear") != NULL));
        http_request_reply_json(request, 202, json_deep_copy(agent->storage_move));
}

static void on_storage_move(struct http_request *request, void *userdata)
{
        const struct agent_double *agent = userdata;

        reply_or_not_found(request, move_of(agent, http_request_param(request, "id")));
}

static void on_storage_move_verb(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        bool settles = !strcmp(http_request_param(request, "verb"), "settle");
        json_t *move = json_object_get(agent->storage_moves, http_request_param(request, "id"));

        if (move) {
                if (strcmp(json_text(move, "phase"), "failed") != 0)
                        json_object_set_new(move, "phase", json_string(settles ? "done" : "cancelled"));
                http_request_reply_json(request, 202, json_deep_copy(move));
                return;
        }
        if (agent->hold && !strcmp(agent->hold, "settle") && settles) {
                hold(agent, request);
                return;
        }
        if (!settles &&
                !strcmp(json_string_value(json_object_get(agent->storage_move, "phase")), "switching")) {
                struct error *error = NULL;

                (void)error_set(&error, ERROR_CONFLICT, NULL, "its disks are being switched");
                http_request_reply_error(request, error);
                return;
        }
        json_object_set_new(agent->storage_move, "phase", json_string(settles ? "done" : "cancelled"));
        if (settles) {
                json_t *body = NULL;

                assert_true(http_request_json(request, &body, NULL) >= 0);
                json_object_set(agent->storage_move, "settled_with", body);
        }
        if (!settles)
                json_object_set_new(agent->storage_move, "error",
                        json_pack("{s:s, s:s}", "code", "cancelled", "detail",
                                "the storage migration was cancelled"));
        http_request_reply_json(request, 202, json_deep_copy(agent->storage_move));
}

static void lie(struct http_request *request, const json_t *answer)
{
        const char *text = json_string_value(answer);

        if (text)
                http_request_reply_text(request, 200, "application/json", text);
        else
                http_request_reply_json(request, 200, json_deep_copy(answer));
}

static bool on_any(struct http_request *request, void *userdata)
{
        struct agent_double *agent = userdata;
        const json_t *answer;
        char key[256];

        snprintf(key, sizeof(key), "%s %s", http_request_method(request), http_request_path(request));
        json_object_set_new(
                agent->seen, key, json_integer(json_integer_value(json_object_get(agent->seen, key)) + 1));
        snprintf(agent->epoch, sizeof(agent->epoch), "%s",
                http_request_header(request, "X-Drover-Epoch") ?: "");
        snprintf(agent->peer, sizeof(agent->peer), "%s", http_request_peer_name(request) ?: "");
        assert_non_null(http_request_header(request, "X-Drover-Request"));
        answer = json_object_get(agent->lies, key);
        if (answer)
                lie(request, answer);
        return !answer;
}

static const struct http_route routes[] = {
        {"GET", "/agent/v1/host", on_host},
        {"GET", "/agent/v1/vms", on_vms},
        {"GET", "/agent/v1/datastores", on_lists},
        {"GET", "/agent/v1/switches", on_lists},
        {"GET", "/agent/v1/port-groups", on_lists},
        {"PUT", "/agent/v1/datastores/{name}", on_datastore},
        {"PUT", "/agent/v1/switches/{name}", on_network},
        {"PUT", "/agent/v1/port-groups/{name}", on_network},
        {"PUT", "/agent/v1/removed-hosts", on_removed_hosts},
        {"PUT", "/agent/v1/fenced-hosts", on_fenced_hosts},
        {"GET", "/agent/v1/events", on_events},
        {"GET", "/agent/v1/vms/{uid}", on_vm},
        {"POST", "/agent/v1/vms/{uid}/disk-work", on_disk_work},
        {"POST", "/agent/v1/vms/{uid}/{verb}", on_vm_verb},
        {"POST", "/agent/v1/vms/{uid}/suspend/cancel", on_suspend_cancel},
        {"POST", "/agent/v1/migrations", on_migrate},
        {"GET", "/agent/v1/migrations/{id}", on_migration},
        {"POST", "/agent/v1/migrations/{id}/cancel", on_migration_cancel},
        {"POST", "/agent/v1/migrations/{id}/switchover", on_switchover},
        {"POST", "/agent/v1/migrations/{id}/limits", on_limits},
        {"POST", "/agent/v1/migrations/{id}/peer-removed", on_peer_removed},
        {"POST", "/agent/v1/migrations/{id}/let-go", on_let_go},
        {"DELETE", "/agent/v1/migrations/{id}", on_migration_delete},
        {"POST", "/agent/v1/storage-moves", on_storage_move_start},
        {"GET", "/agent/v1/storage-moves/{id}", on_storage_move},
        {"POST", "/agent/v1/storage-moves/{id}/{verb}", on_storage_move_verb},
        {"DELETE", "/agent/v1/storage-moves/{id}", on_migration_delete},
};

void agent_double_init(struct agent_double *agent, struct loop *loop)
{
        struct sock_address address;

        *agent = (struct agent_double){.loop = loop,
                .listen_fd = -1,
                .shared_id = "same-everywhere",
                .memory_free_bytes = (json_int_t)6 << 30,
                .rate_limit_bps = -1};
        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &address, NULL), 0);
        assert_int_equal(sock_listen_tcp(&address, 16, &agent->listen_fd, NULL), 0);
        assert_int_equal(sock_local_address(agent->listen_fd, &address), 0);
        sock_address_format(&address, agent->address);
        assert_int_equal(pki_key_new(&agent->key_pem, NULL), 0);
        assert_int_equal(pki_csr_new(agent->key_pem, "double", &agent->csr_pem, NULL), 0);
        agent->vms = json_object();
        agent->datastores = json_object();
        agent->storage_moves = json_object();
        agent->networks = json_object();
        agent->seen = json_object();
        agent->lies = json_object();
}

void agent_double_serve(struct agent_double *agent, const char *uid, const char *cert_pem, const char *ca_pem)
{
        snprintf(agent->uid, sizeof(agent->uid), "%s", uid);
        assert_int_equal(alloc_replace(&agent->cert_pem, cert_pem), 0);
        assert_int_equal(alloc_replace(&agent->ca_pem, ca_pem), 0);
        assert_int_equal(http_server_new(agent->loop,
                                 &(struct http_server_config){.listen_fd = agent->listen_fd,
                                         .cert_pem = cert_pem,
                                         .key_pem = agent->key_pem,
                                         .client_ca_pem = ca_pem,
                                         .client_cert_required = true,
                                         .routes = routes,
                                         .n_routes = ARRAY_SIZE(routes),
                                         .admit = on_any,
                                         .userdata = agent},
                                 &agent->server, NULL),
                0);
        agent->listen_fd = -1;
}

void agent_double_stop(struct agent_double *agent)
{
        http_server_free(TAKE_PTR(agent->server));
}

void agent_double_restart(struct agent_double *agent)
{
        char *cert = TAKE_PTR(agent->cert_pem), *ca = TAKE_PTR(agent->ca_pem), uid[sizeof(agent->uid)];
        struct sock_address address;

        assert_int_equal(sock_address_parse(agent->address, 0, false, &address, NULL), 0);
        assert_int_equal(sock_listen_tcp(&address, 16, &agent->listen_fd, NULL), 0);
        memcpy(uid, agent->uid, sizeof(uid));
        agent_double_serve(agent, uid, cert, ca);
        free(cert);
        free(ca);
}

void agent_double_deinit(struct agent_double *agent)
{
        if (agent->held)
                http_request_reply_error(agent->held, NULL);
        for (size_t i = 0; i < agent->n_held_before; i++)
                http_request_reply_error(agent->held_before[i], NULL);
        agent_double_stop(agent);
        json_decref(agent->removed);
        json_decref(agent->fenced);
        free(agent->cert_pem);
        free(agent->ca_pem);
        fd_closep(&agent->listen_fd);
        pki_key_free(agent->key_pem);
        free(agent->csr_pem);
        json_decref(agent->vms);
        json_decref(agent->datastores);
        json_decref(agent->networks);
        json_decref(agent->migration);
        json_decref(agent->storage_move);
        json_decref(agent->disk_work_answer);
        json_decref(agent->disk_work);
        json_decref(agent->storage_moves);
        json_decref(agent->seen);
        json_decref(agent->waiting);
        json_decref(agent->lies);
}

int agent_double_calls(const struct agent_double *agent, const char *method_and_path)
{
        return (int)json_integer_value(json_object_get(agent->seen, method_and_path));
}

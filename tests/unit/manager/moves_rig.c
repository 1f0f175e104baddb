/* SPDX-License-Identifier: Apache-2.0 */
#include "moves_rig.h"

#include "base/doc.h"

int ask_maintenance(struct state *state, const char *body)
{
        json_t *json = json_loads(body, 0, NULL);

        assert_non_null(json);
        return call(state, "POST", "/api/v1/hosts/host1/maintenance", json);
}

/* ret_path: of its task. */
void begin_maintenance(struct state *state, const char *body, char ret_path[static 128])
{
        assert_int_equal(ask_maintenance(state, body), 202);
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
}

void end_task(struct state *state, const char *path, const char *how)
{
        resume_following(state, path);
        assert_string_equal(finish(state), how);
}

void do_maintenance(struct state *state, const char *body, const char *how)
{
        char path[128];

        begin_maintenance(state, body, path);
        end_task(state, path, how);
}

/* Of the report that is the last answer (or its result). */
const json_t *first_line(struct state *state)
{
        const json_t *result = json_object_get(json_status(state->body), "result");

        return json_array_get(json_object_get(result ?: state->body, "vms"), 0);
}

void assert_line(struct state *state, const char *outcome, const char *to)
{
        const json_t *line = first_line(state);

        assert_string_equal(json_text(line, "outcome"), outcome);
        assert_string_equal(json_text(line, "to"), to);
}

const char *action_of_try(struct state *state, size_t i)
{
        return json_text(json_array_get(json_object_get(first_line(state), "tries"), i), "action");
}

const json_t *status_of(struct state *state, const char *path)
{
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_status(state->body);
}

void assert_web(struct state *state, const char *power, const char *host)
{
        const json_t *status = status_of(state, "/api/v1/vms/web");

        assert_string_equal(json_text(status, "power"), power);
        assert_string_equal(json_text(status, "host"), host);
}

const json_t *maintenance(struct state *state)
{
        return json_object_get(status_of(state, "/api/v1/hosts/host1"), "maintenance");
}

size_t n_tasks(struct state *state, const char *action)
{
        char path[96];

        snprintf(path, sizeof(path), "/api/v1/tasks?action=%s", action);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_array_size(json_object_get(state->body, "items"));
}

void room_at(struct state *state, size_t agent, json_int_t bytes)
{
        state->agents[agent].memory_free_bytes = bytes;
        refresh_all(state);
}

/* "web" runs on host1, and no other host takes it. */
void set_a_full_stage(struct state *state)
{
        set_the_stage(state);
        room_at(state, 1, 1 << 20);
}

/* "web" is suspended, and host1 is in maintenance. */
void suspend_for_maintenance(struct state *state)
{
        set_a_full_stage(state);
        do_maintenance(state, "{\"on\": true, " SUSPEND "}", "succeeded");
}

bool web_is_suspended(struct state *state)
{
        return !strcmp(json_text(status_of(state, "/api/v1/vms/web"), "power"), "suspended");
}

bool state_is_held(struct state *state)
{
        return state->agents[0].held || state->agents[1].held;
}

json_t *stored_task(struct state *state, const char *path, uint64_t *ret_revision)
{
        json_t *doc = NULL;

        assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_int_equal(
                store_get(state->manager->store, "task", json_text(state->body, "name"), &doc, NULL), 0);
        *ret_revision = json_revision(doc);
        json_object_del(doc, "revision");
        return doc;
}

json_t *data_of(const json_t *task)
{
        return json_object_get(json_object_get(task, "internal"), "data");
}

void restart_with(struct state *state, uint64_t revision, json_t *doc)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, revision, doc);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        stop_manager(state);
        start_manager(state);
}

void cancel(struct state *state, const char *path)
{
        char verb[160];

        snprintf(verb, sizeof(verb), "%s/cancel", path);
        assert_int_equal(call(state, "POST", verb, NULL), 202);
}

const json_t *line_of(struct state *state, const char *vm)
{
        const json_t *result = json_object_get(json_status(state->body), "result");
        json_t *line;
        size_t i;

        json_array_foreach (json_object_get(result ?: state->body, "vms"), i, line)
                if (!strcmp(json_text(line, "vm"), vm))
                        return line;
        fail_msg("the report has no line of %s", vm);
        return NULL;
}

size_t n_left(struct state *state)
{
        const json_t *status = status_of(state, "/api/v1/hosts/host1"),
                     *in_maintenance = json_object_get(status, "maintenance");

        return json_array_size(json_object_get(json_is_object(in_maintenance) ? in_maintenance : status,
                json_is_object(in_maintenance) ? "left" : "to_return"));
}

void add_vm(struct state *state, const char *name)
{
        json_t *vm = vm_document(name);

        json_object_set_new(vm, "host", json_string("host1"));
        assert_int_equal(call(state, "POST", "/api/v1/vms", vm), 202);
        assert_string_equal(finish(state), "succeeded");
}

void ask_of_web(struct state *state, const char *verb, json_t *body, const char *how)
{
        char path[64];

        snprintf(path, sizeof(path), "/api/v1/vms/web/%s", verb);
        assert_int_equal(call(state, "POST", path, body), 202);
        assert_string_equal(finish(state), how);
}

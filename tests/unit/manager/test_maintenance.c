/* SPDX-License-Identifier: Apache-2.0 */

/* Maintenance of a host and schedules, through the public API. */

#include "manager_rig.h"

#include "base/doc.h"
#include "manager/schedule_spec.h"
#include "manager/schedules.h"
#include "manager/task.h"

static json_t *request(const char *text)
{
        json_t *json = json_loads(text, 0, NULL);

        assert_non_null(json);
        return json;
}

static const json_t *maintenance_of(struct state *state, const char *host)
{
        char path[96];

        snprintf(path, sizeof(path), "/api/v1/hosts/%s", host);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_object_get(json_status(state->body), "maintenance");
}

/* Asks for it; ret_path: of its task. */
static void begin_maintenance(struct state *state, const char *body, char ret_path[static 128])
{
        assert_int_equal(call(state, "POST", "/api/v1/hosts/host1/maintenance", request(body)), 202);
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
}

/* The task at that path. */
static void ask_to_cancel(struct state *state, const char *path)
{
        char cancel[160];

        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        assert_int_equal(call(state, "POST", cancel, NULL), 202);
}

static void wait_for_migration(struct state *state)
{
        for (int i = 0; i < 500 && !state->agents[0].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[0].migration);
}

static void iterate_for(struct state *state, uint64_t ms)
{
        uint64_t end = clock_now_ms(loop_clock(state->loop)) + ms;

        while (clock_now_ms(loop_clock(state->loop)) < end)
                loop_iterate(state->loop, 20);
}

static size_t n_tasks(struct state *state, const char *action)
{
        char path[96];

        snprintf(path, sizeof(path), "/api/v1/tasks?action=%s", action);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_array_size(json_object_get(state->body, "items"));
}

static const json_t *first_of(const json_t *report)
{
        return json_array_get(json_object_get(report, "vms"), 0);
}

static void host_is_emptied_takes_nothing_meanwhile_and_gets_back_what_left(void **data)
{
        struct state *state = *data;
        const json_t *report;
        char path[128];
        json_t *vm;

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        assert_string_equal(json_text(maintenance_of(state, "host1"), "state"), "entering");
        vm = vm_document("late");
        json_object_set_new(vm, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "failed");
        assert_non_null(strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"),
                "is in maintenance"));
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        report = json_object_get(json_status(state->body), "result");
        assert_int_equal(json_integer_value(json_object_get(report, "moved")), 1);
        assert_string_equal(json_text(first_of(report), "to"), "host2");
        assert_string_equal(
                json_text(json_array_get(json_object_get(first_of(report), "tries"), 0), "result"),
                "succeeded");
        assert_string_equal(json_text(maintenance_of(state, "host1"), "state"), "on");
        assert_int_equal(json_array_size(json_object_get(maintenance_of(state, "host1"), "left")), 1);

        begin_maintenance(state, "{\"on\": false, \"return\": true}", path);
        for (int i = 0; i < 500 && !state->agents[1].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[1].migration);
        assert_null(maintenance_of(state, "host1"));
}

/* Empties host1, whose "web" goes to host2. */
static void empty_host1(struct state *state)
{
        char path[128];

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void return_that_failed_can_be_repeated(void **data)
{
        struct state *state = *data;
        char path[128];

        empty_host1(state);
        state->agents[0].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": false, \"return\": true, \"policy\": []}", path);
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_null(maintenance_of(state, "host1"));
        assert_string_equal(
                json_text(json_array_get(json_object_get(json_status(state->body), "to_return"), 0), "to"),
                "host2");
        state->agents[0].memory_free_bytes = (json_int_t)8 << 30;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": false, \"return\": true}", path);
        for (int i = 0; i < 500 && !state->agents[1].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[1].migration);
}

static void what_was_moved_on_purpose_meanwhile_is_not_brought_back(void **data)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        struct state *state = *data;
        const json_t *report;
        json_t *doc = NULL, *left;
        uint64_t revision;
        char path[128];

        empty_host1(state);
        /* As if it had gone to a third host, and on to host2 by somebody's hand. */
        assert_int_equal(store_get(state->manager->store, "host", "host1", &doc, NULL), 0);
        revision = json_revision(doc);
        json_object_del(doc, "revision");
        left = json_object_get(json_object_get(json_status(doc), "maintenance"), "left");
        json_object_set_new(json_array_get(left, 0), "to", json_string("host3"));
        store_batch_put(&batch, revision, doc);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        stop_manager(state);
        start_manager(state);
        wait_status(state, "/api/v1/hosts/host1", "state", "connected");
        wait_status(state, "/api/v1/hosts/host2", "state", "connected");
        assert_int_equal(call(state, "POST", "/api/v1/hosts/host1/maintenance",
                                 request("{\"on\": false, \"return\": true, \"dry_run\": true}")),
                200);
        assert_string_equal(json_text(first_of(state->body), "outcome"), "elsewhere");
        begin_maintenance(state, "{\"on\": false, \"return\": true}", path);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        report = json_object_get(json_status(state->body), "result");
        assert_string_equal(json_text(first_of(report), "outcome"), "elsewhere");
        assert_string_equal(json_text(first_of(report), "to"), "host2");
        assert_null(state->agents[1].migration);
        assert_null(maintenance_of(state, "host1"));
        assert_int_equal(call(state, "POST", "/api/v1/hosts/host1/maintenance",
                                 request("{\"on\": false, \"return\": true}")),
                409);
}

static void what_fits_nowhere_stays_and_the_report_says_why(void **data)
{
        struct state *state = *data;
        const json_t *report;
        char path[128];

        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true, \"policy\": []}", path);
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        report = json_object_get(json_status(state->body), "result");
        assert_int_equal(json_integer_value(json_object_get(report, "stays")), 1);
        assert_non_null(strstr(json_text(first_of(report), "why"), "memory"));
        assert_non_null(
                strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"), "web: "));
        assert_string_equal(json_text(maintenance_of(state, "host1"), "state"), "incomplete");
        assert_int_equal(n_tasks(state, "vm.migrate"), 0);
}

static void guest_is_stopped_where_the_policy_says_so(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true, \"policy\": [{\"step\": \"stop\"}]}", path);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(json_integer_value(json_object_get(
                                 json_object_get(json_status(state->body), "result"), "stopped")),
                1);
        assert_string_equal(json_text(maintenance_of(state, "host1"), "state"), "on");
}

static void cancelled_it_ends_its_moves_and_opens_the_host(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        ask_to_cancel(state, path);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        assert_null(maintenance_of(state, "host1"));
}

/* As if earlier managers had been at it for so long. */
static void spend_more(struct state *state, const char *path, json_int_t ms)
{
        struct task *task;
        json_t *data;

        assert_int_equal(call(state, "GET", path, NULL), 200);
        task = (struct task *)task_find(state->manager->tasks, json_text(state->body, "uid"));
        assert_non_null(task);
        data = task_data(task);
        json_object_set_new(data, "spent_earlier_ms",
                json_integer(json_integer_value(json_object_get(data, "spent_earlier_ms")) + ms));
}

static void cancelled_it_ends_though_an_agent_does_not_answer(void **data)
{
        struct state *state = *data;
        char path[128];
        json_int_t revision;
        const json_t *first;

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        agent_double_stop(&state->agents[0]);
        ask_to_cancel(state, path);
        iterate_for(state, 2000);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_string_equal(task_state(state), "running");
        revision = json_integer_value(json_object_get(state->body, "revision"));
        assert_true(revision > 0);
        iterate_for(state, 2000);
        /* It waits, and does not write at each look. */
        assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_int_equal(json_integer_value(json_object_get(state->body, "revision")), revision);
        spend_more(state, path, 60000);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        first = first_of(json_object_get(json_status(state->body), "result"));
        assert_string_equal(json_text(first, "outcome"), "stays");
        assert_non_null(strstr(json_text(first, "why"), "has not ended yet"));
}

static bool stop_is_held(struct state *state)
{
        return state->agents[0].held;
}

/* The policy stops "web", which the agent does not answer; then it is cancelled. */
static void begin_stopping(struct state *state, char ret_path[static 128])
{
        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        state->agents[0].hold = "stop";
        begin_maintenance(state, "{\"on\": true, \"policy\": [{\"step\": \"stop\"}]}", ret_path);
        wait_until(state, stop_is_held);
        ask_to_cancel(state, ret_path);
        iterate_for(state, 1200);
}

static void cancelled_while_a_guest_powers_off_the_report_says_stopped(void **data)
{
        struct state *state = *data;
        char path[128];
        json_t *vm;

        begin_stopping(state, path);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_string_equal(task_state(state), "running");
        vm = json_object_get(state->agents[0].vms, vm_uid(state));
        json_object_set_new(json_status(vm), "power", json_string("stopped"));
        state->agents[0].hold = NULL;
        http_request_reply_json(TAKE_PTR(state->agents[0].held), 200, json_deep_copy(vm));
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        assert_string_equal(
                json_text(first_of(json_object_get(json_status(state->body), "result")), "outcome"),
                "stopped");
}

static void cancelled_while_a_guest_takes_its_time_the_report_says_so(void **data)
{
        struct state *state = *data;
        const json_t *first;
        char path[128];

        begin_stopping(state, path);
        spend_more(state, path, 60000);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        first = first_of(json_object_get(json_status(state->body), "result"));
        assert_string_equal(json_text(first, "outcome"), "stays");
        assert_non_null(strstr(json_text(first, "why"), "is being stopped"));
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
}

/* A stop that somebody has asked for themselves ends at once all the same: they do not want to wait. */
static void stop_of_a_person_ends_at_once_when_it_is_cancelled(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        state->agents[0].hold = "stop";
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/stop", NULL), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, stop_is_held);
        ask_to_cancel(state, path);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
}

/* The document of the kind as the store has it, without its revision, to be put back with put_stored(). */
static json_t *get_stored(struct state *state, const char *kind, const char *name, uint64_t *ret_revision)
{
        json_t *doc = NULL;

        assert_int_equal(store_get(state->manager->store, kind, name, &doc, NULL), 0);
        *ret_revision = json_revision(doc);
        json_object_del(doc, "revision");
        return doc;
}

static void put_stored(struct state *state, json_t *doc, uint64_t revision)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, revision, doc);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
}

static json_t *first_move(const json_t *task)
{
        return json_array_get(
                json_object_get(json_object_get(json_object_get(task, "internal"), "data"), "moves"), 0);
}

static void move_whose_task_succeeded_counts_though_the_inventory_has_not_heard_of_it(void **data)
{
        struct state *state = *data;
        char path[128], child[64];
        const json_t *report;
        uint64_t revision;
        json_t *doc;

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true, \"policy\": []}", path);
        wait_for_migration(state);
        assert_int_equal(call(state, "GET", "/api/v1/tasks?action=vm.migrate", NULL), 200);
        snprintf(child, sizeof(child), "%s",
                json_text(json_array_get(json_object_get(state->body, "items"), 0), "name"));
        /* As if the manager had ended with that record, and no agent told the next one where the guest is. */
        doc = get_stored(state, "task", child, &revision);
        json_object_set_new(json_status(doc), "state", json_string("succeeded"));
        json_object_set_new(json_status(doc), "finished", json_string("2026-01-01T00:00:00.000Z"));
        json_object_set_new(json_status(doc), "result", json_pack("{s:s}", "to", "host2"));
        put_stored(state, doc, revision);
        stop_manager(state);
        agent_double_stop(&state->agents[0]);
        agent_double_stop(&state->agents[1]);
        start_manager(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        report = json_object_get(json_status(state->body), "result");
        assert_string_equal(json_text(first_of(report), "outcome"), "moved");
        assert_string_equal(json_text(first_of(report), "to"), "host2");
        assert_int_equal(n_tasks(state, "vm.migrate"), 1);
}

static void guest_that_was_to_be_stopped_before_an_outage_is_moved_if_that_can_be_now(void **data)
{
        struct state *state = *data;
        char path[128], name[64];
        uint64_t revision;
        json_t *doc, *move;

        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(
                state, "{\"on\": true, \"policy\": [{\"step\": \"wait\"}, {\"step\": \"stop\"}]}", path);
        iterate_for(state, 1500);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        snprintf(name, sizeof(name), "%s", json_text(state->body, "name"));
        /* As if the next step's try had been recorded, and the manager had ended before it submitted the task. */
        doc = get_stored(state, "task", name, &revision);
        move = first_move(doc);
        json_array_append_new(json_object_get(move, "tries"),
                json_pack("{s:s, s:s, s:n, s:s, s:n, s:n, s:n}", "action", "stop", "step", "stop", "to",
                        "task_uid", "00000000-0000-4000-8000-000000000001", "task", "result", "why"));
        json_object_set_new(move, "n_tries", json_integer(1));
        json_object_set_new(move, "begun_epoch", json_integer((json_int_t)state->manager->epoch));
        json_object_set_new(move, "begun_ms", json_integer(0));
        json_object_set_new(move, "progress",
                json_pack("{s:i, s:i, s:i, s:b, s:i}", "rank", 2, "n_moves", 0, "n_rank_moves", 0, "acted", 1,
                        "since_ms", 0));
        put_stored(state, doc, revision);
        stop_manager(state);
        state->agents[1].memory_free_bytes = (json_int_t)8 << 30;
        start_manager(state);
        wait_for_migration(state);
        assert_int_equal(n_tasks(state, "vm.stop"), 0);
}

static void power_off_of_web(struct state *state, const char *power)
{
        json_t *vm = json_object_get(state->agents[0].vms, vm_uid(state));

        json_object_set_new(json_status(vm), "power", json_string(power));
        refresh_all(state);
}

/* What becomes of "web" when it goes off by itself while nothing takes it. */
static void assert_outcome_of(struct state *state, const char *power, const char *outcome)
{
        char path[128];

        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true, \"policy\": [{\"step\": \"wait\"}]}", path);
        iterate_for(state, 1200);
        power_off_of_web(state, power);
        resume_following(state, path);
        (void)finish(state);
        assert_string_equal(
                json_text(first_of(json_object_get(json_status(state->body), "result")), "outcome"), outcome);
}

static void guest_that_its_user_stops_meanwhile_is_off_and_not_stopped_by_the_policy(void **data)
{
        assert_outcome_of(*data, "stopped", "off");
}

static void guest_that_crashes_meanwhile_is_reported_as_crashed(void **data)
{
        assert_outcome_of(*data, "crashed", "crashed");
}

static bool pause_is_held(struct state *state)
{
        return state->agents[0].held;
}

static json_t *move_of(struct state *state)
{
        const struct task *task = task_find(state->manager->tasks, state->path);

        assert_non_null(task);
        return json_array_get(json_object_get(task_data(task), "moves"), 0);
}

static json_int_t waiting_since(struct state *state)
{
        return json_integer_value(json_object_get(json_object_get(move_of(state), "progress"), "since_ms"));
}

static bool waits_since(struct state *state)
{
        return waiting_since(state) > 0;
}

static bool is_seen_held(struct state *state)
{
        return json_object_get(move_of(state), "held_unix_ms");
}

static bool is_not_seen_held(struct state *state)
{
        return !is_seen_held(state);
}

static void time_for_which_another_task_has_a_guest_does_not_count(void **data)
{
        struct state *state = *data;
        char path[128], uid[64];
        json_int_t since_ms;
        json_t *vm;

        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true, \"policy\": [{\"step\": \"wait\"}]}", path);
        snprintf(uid, sizeof(uid), "%s", json_text(state->body, "uid"));
        state->path = uid;
        wait_until(state, waits_since);
        since_ms = waiting_since(state);
        state->agents[0].hold = "pause";
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 202);
        wait_until(state, pause_is_held);
        wait_until(state, is_seen_held);
        iterate_for(state, 100);
        state->agents[0].hold = NULL;
        vm = json_object_get(state->agents[0].vms, vm_uid(state));
        http_request_reply_json(TAKE_PTR(state->agents[0].held), 200, json_deep_copy(vm));
        state->path = uid;
        wait_until(state, is_not_seen_held);
        assert_true(waiting_since(state) >= since_ms + 100);
}

static void what_changes_at_each_look_is_not_written_at_each_look(void **data)
{
        struct state *state = *data;
        json_int_t revision;
        char path[128];

        set_the_stage(state);
        state->agents[1].memory_free_bytes = 1 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true}", path);
        iterate_for(state, 700);
        spend_more(state, path, 6000); /* what is not urgent is written, too */
        iterate_for(state, 700);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_string_equal(task_state(state), "running");
        revision = json_integer_value(json_object_get(state->body, "revision"));
        for (int i = 1; i < 3; i++) {
                state->agents[1].memory_free_bytes = i << 21; /* the cause names it */
                refresh_all(state);
                iterate_for(state, 2200);
        }
        assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_int_equal(json_integer_value(json_object_get(state->body, "revision")), revision);
}

static void audit_log_has_the_counts_of_a_report_and_not_all_of_it(void **data)
{
        struct state *state = *data;
        const json_t *entry, *result;

        empty_host1(state);
        assert_int_equal(call(state, "GET", "/api/v1/audit?action=host.maintenance&result=done", NULL), 200);
        entry = json_array_get(json_object_get(state->body, "items"), 0);
        result = json_object_get(json_object_get(entry, "detail"), "result");
        assert_int_equal(json_integer_value(json_object_get(result, "moved")), 1);
        assert_null(json_object_get(result, "vms"));
}

static void cancelled_it_is_undone_by_the_next_manager(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        ask_to_cancel(state, path);
        stop_manager(state);
        start_manager(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        assert_null(maintenance_of(state, "host1"));
        assert_int_equal(n_tasks(state, "vm.migrate"), 1);
}

static void create_vm(struct state *state, const char *name, json_int_t memory_mib)
{
        json_t *vm = vm_document(name);

        json_object_set_new(vm, "host", json_string("host1"));
        json_object_set_new(json_spec(vm), "memory_bytes", json_integer(memory_mib << 20));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

/* How often the audit log has that decision about the VM. */
static size_t n_decisions(struct state *state, const char *object, const char *decision)
{
        json_t *entry;
        size_t i, n = 0;

        assert_int_equal(call(state, "GET", "/api/v1/audit?action=vm.decide", NULL), 200);
        json_array_foreach (json_object_get(state->body, "items"), i, entry)
                n += !strcmp(json_text(entry, "object"), object) &&
                     !strcmp(json_text(json_object_get(entry, "detail"), "decision"), decision);
        return n;
}

static void cancelled_with_moves_under_way_each_decision_is_audited_once(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        create_vm(state, "big", 512);
        create_vm(state, "bigger", 768);
        create_vm(state, "tiny", 32);
        state->agents[1].memory_free_bytes = 200 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        ask_to_cancel(state, path);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        assert_int_equal(n_decisions(state, "vm/big", "stays"), 1);
        assert_int_equal(n_decisions(state, "vm/bigger", "stays"), 1);
        assert_int_equal(n_decisions(state, "vm/web", "migrate"), 1);
        assert_int_equal(n_decisions(state, "vm/tiny", "migrate"), 1);
}

/* The names in the list, as "a b c ". */
static const char *names_of(const json_t *list, const char *key, char ret[static 256])
{
        json_t *item;
        size_t i, n = 0;

        ret[0] = '\0';
        json_array_foreach ((json_t *)list, i, item)
                n += (size_t)snprintf(ret + n, 256 - n, "%s ", json_text(item, key));
        return ret;
}

static void large_ones_go_first_as_the_dry_run_says(void **data)
{
        struct state *state = *data;
        char path[128], names[256];

        set_the_stage(state);
        create_vm(state, "small", 32);
        create_vm(state, "large", 512);
        create_vm(state, "tiny", 16);
        create_vm(state, "medium", 128);
        assert_int_equal(call(state, "POST", "/api/v1/hosts/host1/maintenance",
                                 request("{\"on\": true, \"dry_run\": true}")),
                200);
        assert_string_equal(
                names_of(json_object_get(state->body, "vms"), "vm", names), "large medium web small tiny ");
        assert_int_equal(call(state, "POST", "/api/v1/queue/drain", NULL), 200);
        begin_maintenance(state, "{\"on\": true, \"give_up_ms\": 4000}", path);
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(
                names_of(json_object_get(json_object_get(json_status(state->body), "result"), "vms"), "vm",
                        names),
                "large medium web small tiny ");
        /* Newest first, or oldest: by their names, which are in the order of submission. */
        assert_int_equal(call(state, "GET", "/api/v1/audit?action=vm.decide", NULL), 200);
        {
                json_t *entry, *migrations = json_array();
                size_t i;

                json_array_foreach (json_object_get(state->body, "items"), i, entry)
                        if (!strcmp(json_text(json_object_get(entry, "detail"), "decision"), "migrate"))
                                json_array_insert(migrations, 0, entry);
                assert_string_equal(
                        names_of(migrations, "object", names), "vm/large vm/medium vm/web vm/small vm/tiny ");
                json_decref(migrations);
        }
}

static void what_fits_nowhere_does_not_keep_the_others_waiting(void **data)
{
        struct state *state = *data;
        char path[128], name[16];

        set_the_stage(state);
        for (int i = 0; i < 20; i++) {
                snprintf(name, sizeof(name), "big%d", i);
                create_vm(state, name, 512);
        }
        state->agents[1].memory_free_bytes = 200 << 20;
        refresh_all(state);
        begin_maintenance(state, "{\"on\": true}", path);
        for (int i = 0; i < 40 && !state->agents[0].migration; i++)
                iterate_for(state, 250);
        assert_non_null(state->agents[0].migration);
}

static void time_limit_of_the_whole_ends_what_waits(void **data)
{
        struct state *state = *data;
        const json_t *first;
        char path[128];

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/queue/drain", NULL), 200);
        begin_maintenance(state, "{\"on\": true, \"give_up_ms\": 1500}", path);
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        first = first_of(json_object_get(json_status(state->body), "result"));
        assert_string_equal(json_text(first, "outcome"), "stays");
        assert_string_equal(
                json_text(json_array_get(json_object_get(first, "tries"), 0), "result"), "cancelled");
        assert_int_equal(n_tasks(state, "vm.migrate"), 1);
}

static void restarted_manager_goes_on_with_the_same_move(void **data)
{
        struct state *state = *data;
        char path[128], name[64];
        const json_t *tries;

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        stop_manager(state);
        start_manager(state);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        tries = json_object_get(first_of(json_object_get(json_status(state->body), "result")), "tries");
        assert_int_equal(json_array_size(tries), 1);
        snprintf(name, sizeof(name), "%s", json_text(json_array_get(tries, 0), "task"));
        assert_int_equal(n_tasks(state, "vm.migrate"), 1);
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "items"), 0), "name"), name);
}

static void cancelled_after_a_restart_it_cancels_what_the_manager_before_began(void **data)
{
        struct state *state = *data;
        char path[128];
        const json_t *tries;

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        stop_manager(state);
        start_manager(state);
        iterate_for(state, 1500);
        ask_to_cancel(state, path);
        resume_following(state, path);
        assert_string_equal(finish(state), "cancelled");
        tries = json_object_get(first_of(json_object_get(json_status(state->body), "result")), "tries");
        assert_int_equal(json_array_size(tries), 1);
        assert_string_equal(json_text(json_array_get(tries, 0), "result"), "cancelled");
        assert_true(*json_text(json_array_get(tries, 0), "task"));
        assert_int_equal(n_tasks(state, "vm.migrate"), 1);
        assert_string_equal(
                json_text(json_status(json_array_get(json_object_get(state->body, "items"), 0)), "state"),
                "cancelled");
}

static void dry_run_says_what_would_be_done_and_does_nothing(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/hosts/host1/maintenance",
                                 request("{\"on\": true, \"dry_run\": true}")),
                200);
        assert_string_equal(json_text(first_of(state->body), "outcome"), "would-move");
        assert_string_equal(json_text(first_of(state->body), "to"), "host2");
        assert_null(maintenance_of(state, "host1"));
        assert_int_equal(n_tasks(state, "host.maintenance"), 0);
}

static void requests_that_mean_nothing_are_refused(void **data)
{
        static const struct {
                const char *body;
                int status;
        } wrong[] = {{"{}", 422}, {"{\"on\": 1}", 422}, {"{\"on\": true, \"return\": true}", 422},
                {"{\"on\": true, \"policy\": [{\"step\": \"hope\"}]}", 422},
                {"{\"on\": false, \"policy\": [{\"step\": \"suspend\"}]}", 422},
                {"{\"on\": true, \"tries\": 99}", 422}, {"{\"on\": true, \"hurry\": true}", 422},
                {"{\"on\": false}", 409}, {"{\"on\": true, \"priority\": \"now\"}", 422}};
        struct state *state = *data;

        add_host(state, &state->agents[0], "host1");
        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                int status = call(state, "POST", "/api/v1/hosts/host1/maintenance", request(wrong[i].body));

                if (status != wrong[i].status)
                        fail_msg("%s: %d", wrong[i].body, status);
        }
}

/* --- Schedules ---------------------------------------------------------------------------------------------------------- */

static void create_schedule(struct state *state, const char *spec)
{
        assert_int_equal(call(state, "POST", "/api/v1/schedules",
                                 json_pack("{s:s, s:o}", "name", "nightly", "spec", request(spec))),
                201);
}

static const json_t *newest_run(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/schedules/nightly", NULL), 200);
        return json_array_get(json_object_get(json_status(state->body), "runs"), 0);
}

static void wait_for_run(struct state *state, const char *outcome)
{
        uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;

        while (strcmp(json_text(newest_run(state), "outcome"), outcome)) {
                assert_true(clock_now_ms(loop_clock(state->loop)) < end);
                loop_iterate(state->loop, 20);
        }
}

static void schedule_runs_at_its_time_and_skips_while_the_run_goes_on(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        create_schedule(state, "{\"calendar\": \"*:*:*\", \"time_zone\": \"Europe/Berlin\", \"action\": "
                               "{\"type\": \"migrate\", "
                               "\"vms\": [\"web\", \"nobody\"], \"to\": \"host2\"}}");
        wait_for_run(state, "run");
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(newest_run(state), "task"));
        wait_for_migration(state);
        wait_for_run(state, "skipped");
        assert_string_equal(json_text(newest_run(state), "why"), "its last run has not ended");
        assert_int_equal(call(state, "POST", "/api/v1/schedules/nightly/pause", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "state"), "paused");
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(json_integer_value(json_object_get(
                                 json_object_get(json_status(state->body), "result"), "moved")),
                1);
        assert_int_equal(json_integer_value(json_object_get(
                                 json_object_get(json_status(state->body), "result"), "gone")),
                1);
        assert_int_equal(n_tasks(state, "schedule.run"), 1);
}

static void what_has_not_begun_when_the_window_ends_does_not_begin(void **data)
{
        struct state *state = *data;
        const json_t *first;

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/queue/drain", NULL), 200);
        create_schedule(state,
                "{\"calendar\": \"2190-01-01\", \"window_ms\": 2000, \"action\": {\"type\": \"migrate\", "
                "\"vms\": [\"web\"]}}");
        assert_int_equal(call(state, "POST", "/api/v1/schedules/nightly/run", NULL), 202);
        assert_string_equal(finish(state), "failed");
        first = first_of(json_object_get(json_status(state->body), "result"));
        assert_string_equal(json_text(first, "outcome"), "stays");
        assert_string_equal(
                json_text(json_array_get(json_object_get(first, "tries"), 0), "result"), "cancelled");
        assert_null(state->agents[0].migration);
}

static void run_that_was_due_while_no_manager_was_there_takes_place_once(void **data)
{
        struct state *state = *data;
        int64_t due_ms = clock_unix_ms(&clock_system) + 3000;
        char at[32];

        set_the_stage(state);
        due_ms = MAX(due_ms, clock_unix_ms(&clock_system) + 1000);
        text_format_time(due_ms, at);
        at[19] = 'Z';
        at[20] = '\0';
        assert_int_equal(
                call(state, "POST", "/api/v1/schedules",
                        json_pack("{s:s, s:{s:s, s:s, s:{s:s, s:[s]}}}", "name", "nightly", "spec", "at", at,
                                "missed", "run-once", "action", "type", "migrate", "vms", "web")),
                201);
        stop_manager(state);
        while (clock_unix_ms(&clock_system) < due_ms)
                usleep(20000);
        start_manager(state);
        wait_for_run(state, "run");
        wait_for_migration(state);
        assert_string_equal(json_text(json_status(state->body), "state"), "done");
        stop_manager(state);
        start_manager(state);
        for (int i = 0; i < 50; i++)
                loop_iterate(state->loop, 20);
        assert_int_equal(n_tasks(state, "schedule.run"), 1);
}

static void run_whose_host_is_taken_for_a_while_takes_place_then(void **data)
{
        struct state *state = *data;
        char path[128], at[32];

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        text_format_time(clock_unix_ms(&clock_system) + 2000, at);
        at[19] = 'Z';
        at[20] = '\0';
        assert_int_equal(
                call(state, "POST", "/api/v1/schedules",
                        json_pack("{s:s, s:{s:s, s:{s:s, s:s, s:b}}}", "name", "nightly", "spec", "at", at,
                                "action", "type", "maintenance", "host", "host1", "on", 1)),
                201);
        iterate_for(state, 4000);
        assert_null(newest_run(state));
        assert_int_equal(n_tasks(state, "host.maintenance"), 1);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        wait_for_run(state, "run");
        assert_int_equal(n_tasks(state, "host.maintenance"), 2);
}

static void run_tells_why_those_due_before_it_were_left_out(void **data)
{
        struct state *state = *data;
        const json_t *run;
        char path[128];

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true}", path);
        wait_for_migration(state);
        create_schedule(state, "{\"calendar\": \"*:*:*\", \"action\": {\"type\": \"maintenance\", \"host\": "
                               "\"host1\", \"on\": true}}");
        iterate_for(state, 3500);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        wait_for_run(state, "run");
        run = json_array_get(json_object_get(json_status(state->body), "runs"),
                json_array_size(json_object_get(json_status(state->body), "runs")) - 1);
        assert_true(json_integer_value(json_object_get(run, "missed")) > 1);
        assert_non_null(strstr(json_text(run, "why"), "host/host1"));
        /* Of the last one that was tried it is known, not of those before. */
        assert_non_null(strstr(json_text(run, "why"), "the manager was away, or: "));
}

static void many_that_are_due_at_once_each_run_once(void **data)
{
        enum { N = 60 };
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        int64_t now_ms = clock_unix_ms(&clock_system);
        char at[32], name[24], uid[64];
        size_t n_started = 0;

        text_format_time(now_ms - 5000, at);
        at[19] = 'Z';
        at[20] = '\0';
        for (int i = 0; i < N; i++) {
                snprintf(name, sizeof(name), "s%d", i);
                snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012d", i);
                store_batch_put(&batch, STORE_ABSENT,
                        json_pack(
                                "{s:s, s:s, s:s, s:{s:s, s:s, s:{s:s, s:[s]}}, s:{s:b, s:[]}, s:{s:I, s:[]}}",
                                "kind", "schedule", "name", name, "uid", uid, "spec", "at", at, "missed",
                                "run-once", "action", "type", "migrate", "vms", "nobody", "status", "paused",
                                0, "runs", "internal", "until_s", (json_int_t)(now_ms / 1000 - 30), "ran_s"));
        }
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        schedules_changed(state->manager->schedules);
        for (int i = 0; i < 1000 && n_started < N; i++) {
                loop_iterate(state->loop, 20);
                n_started = n_tasks(state, "schedule.run");
        }
        assert_int_equal(n_started, N);
        iterate_for(state, 300);
        assert_int_equal(n_tasks(state, "schedule.run"), N);
}

static size_t n_audited(struct state *state, const char *action)
{
        json_t *entry;
        size_t i, n = 0;

        assert_int_equal(call(state, "GET", "/api/v1/audit", NULL), 200);
        json_array_foreach (json_object_get(state->body, "items"), i, entry)
                n += !strcmp(json_text(entry, "action"), action);
        return n;
}

/* As if its time zone were not there any more, or there again. */
static void set_zone(struct state *state, const char *zone)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char uid[64];
        json_t *doc = NULL;
        uint64_t revision;

        assert_int_equal(call(state, "GET", "/api/v1/schedules/nightly", NULL), 200);
        snprintf(uid, sizeof(uid), "%s", json_text(state->body, "uid"));
        assert_int_equal(store_get(state->manager->store, "schedule", uid, &doc, NULL), 0);
        revision = json_revision(doc);
        json_object_del(doc, "revision");
        json_object_set_new(json_spec(doc), "time_zone", json_string(zone));
        store_batch_put(&batch, revision, doc);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        schedules_changed(state->manager->schedules);
        iterate_for(state, 300);
}

static void schedule_whose_zone_is_gone_is_shown_as_broken_and_hides_no_other(void **data)
{
        struct state *state = *data;

        create_schedule(state, "{\"calendar\": \"daily\", \"time_zone\": \"Europe/Berlin\", \"action\": "
                               "{\"type\": \"migrate\", \"vms\": [\"web\"]}}");
        assert_int_equal(call(state, "POST", "/api/v1/schedules",
                                 json_pack("{s:s, s:o}", "name", "other", "spec",
                                         request("{\"calendar\": \"daily\", \"action\": {\"type\": "
                                                 "\"migrate\", \"vms\": [\"web\"]}}"))),
                201);
        set_zone(state, "Mars/Olympus");
        assert_int_equal(call(state, "GET", "/api/v1/schedules", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 2);
        assert_int_equal(call(state, "GET", "/api/v1/schedules/nightly", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "state"), "broken");
        assert_non_null(strstr(json_text(json_status(state->body), "why"), "Mars/Olympus"));
        assert_int_equal(call(state, "GET", "/api/v1/schedules/other", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "state"), "active");
        schedules_changed(state->manager->schedules);
        iterate_for(state, 300);
        assert_int_equal(n_audited(state, "schedule.broken"), 1);
        set_zone(state, "Europe/Berlin");
        assert_int_equal(call(state, "GET", "/api/v1/schedules/nightly", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "state"), "active");
        assert_int_equal(n_audited(state, "schedule.mended"), 1);
}

static void write_zone(const struct state *state, const char *rule)
{
        unsigned char header[44] = "TZif2";
        char temporary[300], path[300];
        FILE *file;

        snprintf(temporary, sizeof(temporary), "%s/new", state->folder.path);
        snprintf(path, sizeof(path), "%s/Test", state->folder.path);
        file = fopen(temporary, "w");
        assert_non_null(file);
        header[39] = 1; /* one type of local time */
        fwrite(header, 1, sizeof(header), file);
        fwrite("\0\0\0\0\0\0", 1, 6, file);
        fwrite(header, 1, sizeof(header), file);
        fwrite("\0\0\0\0\0\0", 1, 6, file);
        fprintf(file, "\n%s\n", rule);
        fclose(file);
        assert_int_equal(rename(temporary, path), 0);
}

static void zone_that_was_updated_is_noticed(void **data)
{
        struct state *state = *data;
        _cleanup_schedule_spec_ struct schedule_spec spec = {};
        _cleanup_json_ json_t *json =
                request("{\"calendar\": \"daily\", \"time_zone\": \"Test\", \"action\": "
                        "{\"type\": \"migrate\", \"vms\": [\"web\"]}}");

        assert_int_equal(setenv("TZDIR", state->folder.path, 1), 0);
        write_zone(state, "AAA-1");
        assert_int_equal(schedule_spec_read(json, &spec, NULL), 0);
        assert_int_equal(time_zone_span(spec.zone, 0).offset_s, 3600);
        assert_false(schedule_spec_zone_changed(json, &spec));
        write_zone(state, "AAA-2");
        assert_true(schedule_spec_zone_changed(json, &spec));
        unsetenv("TZDIR");
}

static void schedules_that_mean_nothing_are_refused(void **data)
{
        static const char *const wrong[] = {"{}", "{\"calendar\": \"daily\"}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"dance\"}}",
                "{\"calendar\": \"daily\", \"at\": \"2199-01-01 00:00\", \"action\": {\"type\": \"migrate\", "
                "\"label\": \"a=b\"}}",
                "{\"calendar\": \"*-02-30\", \"action\": {\"type\": \"migrate\", \"label\": \"a=b\"}}",
                "{\"at\": \"2001-01-01 00:00\", \"action\": {\"type\": \"migrate\", \"label\": \"a=b\"}}",
                "{\"calendar\": \"daily\", \"time_zone\": \"Mars/Olympus\", \"action\": {\"type\": "
                "\"migrate\", \"label\": \"a=b\"}}",
                "{\"calendar\": \"daily\", \"time_zone\": \"../passwd\", \"action\": {\"type\": \"migrate\", "
                "\"label\": \"a=b\"}}",
                "{\"calendar\": \"daily\", \"time_zone\": \"tzdata.zi\", \"action\": {\"type\": \"migrate\", "
                "\"label\": \"a=b\"}}",
                "{\"calendar\": \"daily UTC\", \"time_zone\": \"Europe/Berlin\", \"action\": {\"type\": "
                "\"migrate\", \"label\": \"a=b\"}}",
                "{\"calendar\": \"daily\", \"missed\": \"panic\", \"action\": {\"type\": \"migrate\", "
                "\"label\": \"a=b\"}}",
                "{\"calendar\": \"daily\", \"window_ms\": 5, \"action\": {\"type\": \"migrate\", \"label\": "
                "\"a=b\"}}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"migrate\"}}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"migrate\", \"label\": \"a\"}}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"migrate\", \"vms\": [3]}}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"migrate\", \"label\": \"a=b\", "
                "\"policy\": [{\"step\": \"stop\"}]}}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"maintenance\", \"on\": true}}",
                "{\"calendar\": \"daily\", \"action\": {\"type\": \"maintenance\", \"host\": \"h\"}}"};
        struct state *state = *data;

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                int status = call(state, "POST", "/api/v1/schedules",
                        json_pack("{s:s, s:o}", "name", "odd", "spec", request(wrong[i])));

                if (status != 422)
                        fail_msg("%s: %d", wrong[i], status);
        }
        assert_int_equal(call(state, "GET", "/api/v1/schedules", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 0);
}

static void next_runs_are_shown_in_both_times(void **data)
{
        struct state *state = *data;
        const json_t *item;

        create_schedule(state, "{\"calendar\": \"2190-07-01 12:00\", \"time_zone\": \"Europe/Berlin\", "
                               "\"window_ms\": 3600000, "
                               "\"action\": {\"type\": \"maintenance\", \"host\": \"host1\", \"on\": true}}");
        assert_int_equal(call(state, "GET", "/api/v1/schedules/nightly/next?count=3", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 1);
        item = json_array_get(json_object_get(state->body, "items"), 0);
        assert_string_equal(json_text(item, "time"), "2190-07-01T10:00:00.000Z");
        assert_string_equal(json_text(item, "local"), "2190-07-01T12:00:00+02:00");
        assert_string_equal(json_text(item, "window_end"), "2190-07-01T13:00:00+02:00");
        assert_int_equal(
                call(state, "POST", "/api/v1/schedules/nightly/run", NULL), 404); /* there is no host1 */
        assert_int_equal(call(state, "DELETE", "/api/v1/schedules/nightly", NULL), 204);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(host_is_emptied_takes_nothing_meanwhile_and_gets_back_what_left),
                TEST(return_that_failed_can_be_repeated),
                TEST(what_was_moved_on_purpose_meanwhile_is_not_brought_back),
                TEST(what_fits_nowhere_stays_and_the_report_says_why),
                TEST(guest_is_stopped_where_the_policy_says_so),
                TEST(cancelled_it_ends_its_moves_and_opens_the_host),
                TEST(cancelled_it_ends_though_an_agent_does_not_answer),
                TEST(cancelled_while_a_guest_powers_off_the_report_says_stopped),
                TEST(cancelled_while_a_guest_takes_its_time_the_report_says_so),
                TEST(stop_of_a_person_ends_at_once_when_it_is_cancelled),
                TEST(move_whose_task_succeeded_counts_though_the_inventory_has_not_heard_of_it),
                TEST(guest_that_was_to_be_stopped_before_an_outage_is_moved_if_that_can_be_now),
                TEST(guest_that_its_user_stops_meanwhile_is_off_and_not_stopped_by_the_policy),
                TEST(guest_that_crashes_meanwhile_is_reported_as_crashed),
                TEST(time_for_which_another_task_has_a_guest_does_not_count),
                TEST(what_changes_at_each_look_is_not_written_at_each_look),
                TEST(audit_log_has_the_counts_of_a_report_and_not_all_of_it),
                TEST(cancelled_it_is_undone_by_the_next_manager),
                TEST(cancelled_with_moves_under_way_each_decision_is_audited_once),
                TEST(large_ones_go_first_as_the_dry_run_says),
                TEST(what_fits_nowhere_does_not_keep_the_others_waiting),
                TEST(time_limit_of_the_whole_ends_what_waits),
                TEST(restarted_manager_goes_on_with_the_same_move),
                TEST(cancelled_after_a_restart_it_cancels_what_the_manager_before_began),
                TEST(dry_run_says_what_would_be_done_and_does_nothing),
                TEST(requests_that_mean_nothing_are_refused),
                TEST(schedule_runs_at_its_time_and_skips_while_the_run_goes_on),
                TEST(what_has_not_begun_when_the_window_ends_does_not_begin),
                TEST(run_that_was_due_while_no_manager_was_there_takes_place_once),
                TEST(run_whose_host_is_taken_for_a_while_takes_place_then),
                TEST(run_tells_why_those_due_before_it_were_left_out),
                TEST(many_that_are_due_at_once_each_run_once),
                TEST(schedule_whose_zone_is_gone_is_shown_as_broken_and_hides_no_other),
                TEST(zone_that_was_updated_is_noticed),
                TEST(schedules_that_mean_nothing_are_refused),
                TEST(next_runs_are_shown_in_both_times),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

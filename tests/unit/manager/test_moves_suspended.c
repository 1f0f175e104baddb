/* SPDX-License-Identifier: Apache-2.0 */

/* What maintenance has suspended while something else happens: it is cancelled, hosts become silent, others suspend and resume. It is resumed, or
 * stays listed for the end of maintenance; and what others have suspended is left alone. */

#include "moves_rig.h"

#include "base/doc.h"
#include "manager/task.h"

#define ROOM ((json_int_t)8 << 30)
#define NO_ROOM (1 << 20)
#define ROOM_FOR_ONE (96 << 20) /* they have 64 MiB */

/* The outcome that is recorded in the task of that path; "" while there is none. */
static bool has_outcome(struct state *state, const char *path, const char *vm, const char *outcome)
{
        uint64_t revision;
        _cleanup_json_ json_t *doc = stored_task(state, path, &revision);
        json_t *record;
        size_t i;

        json_array_foreach (json_object_get(data_of(doc), "moves"), i, record)
                if (!strcmp(json_text(record, "name"), vm))
                        return !strcmp(json_text(record, "outcome"), outcome);
        return false;
}

static bool web_is_settled_suspended(struct state *state)
{
        return has_outcome(state, state->path, "web", "suspended");
}

static bool web_has_a_record(struct state *state)
{
        return has_outcome(state, state->path, "web", "");
}

/* As the inventory would have it, were that known of it. */
static void put_web(struct state *state, const char *power, const char *host)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *doc = NULL;
        uint64_t revision;

        assert_int_equal(store_get(state->manager->store, "vm", "web", &doc, NULL), 0);
        revision = json_revision(doc);
        json_object_del(doc, "revision");
        json_object_set_new(json_status(doc), "power", json_string(power));
        json_object_set_new(json_status(doc), "host", json_string(host));
        store_batch_put(&batch, revision, doc);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
}

static void cancelled_it_resumes_also_what_it_was_done_with(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        add_vm(state, "db");
        state->agents[0].hold = "stop"; /* somebody's task keeps this one from being looked at */
        assert_int_equal(call(state, "POST", "/api/v1/vms/db/stop", NULL), 202);
        wait_until(state, state_is_held);
        begin_maintenance(state, "{\"on\": true, " SUSPEND "}", path);
        state->path = path;
        wait_until(state, web_is_settled_suspended);
        cancel(state, path);
        end_task(state, path, "cancelled");
        assert_string_equal(json_text(line_of(state, "web"), "outcome"), "resumed");
        assert_web(state, "running", "host1");
        assert_int_equal(n_left(state), 0);
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
}

static void cancelled_it_waits_a_moment_for_room_on_its_host(void **data)
{
        struct state *state = *data;
        uint64_t end_ms;
        char path[128];

        set_a_full_stage(state);
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        wait_until(state, web_is_suspended);
        room_at(state, 0, NO_ROOM);
        cancel(state, path);
        end_ms = clock_now_ms(loop_clock(state->loop)) + 2500; /* more than between two looks at it */
        while (clock_now_ms(loop_clock(state->loop)) < end_ms)
                loop_iterate(state->loop, 20);
        assert_true(web_is_suspended(state));
        room_at(state, 0, ROOM);
        end_task(state, path, "cancelled");
        assert_line(state, "resumed", "host1");
}

/* The minute that it has for that is over. */
static void what_a_cancelled_task_could_not_resume_is_listed_and_named(void **data)
{
        struct state *state = *data;
        uint64_t revision;
        char path[128];
        json_t *doc;

        set_a_full_stage(state);
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        wait_until(state, web_is_suspended);
        room_at(state, 0, NO_ROOM);
        cancel(state, path);
        refresh_all(state);
        doc = stored_task(state, path, &revision);
        json_object_set_new(data_of(doc), "ending_ms", json_integer(-1000000));
        restart_with(state, revision, doc);
        end_task(state, path, "cancelled");
        assert_line(state, "suspended", "");
        assert_non_null(strstr(json_text(first_line(state), "why"), "memory"));
        assert_non_null(strstr(
                json_text(json_object_get(json_status(state->body), "error"), "detail"), "1 stay suspended"));
        assert_null(maintenance(state));
        assert_int_equal(n_left(state), 1);
        room_at(state, 0, ROOM);
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "resumed", "host1");
        assert_int_equal(n_left(state), 0);
}

#define N_MANY 17 /* one more than are resumed at once */

/* As if maintenance had suspended them. */
static void put_many(struct state *state)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        json_t *host = NULL, *left;

        assert_int_equal(store_get(state->manager->store, "host", "host1", &host, NULL), 0);
        left = json_object_get(json_object_get(json_status(host), "maintenance"), "left");
        for (int i = 0; i < N_MANY; i++) {
                char name[16], uid[40];

                snprintf(name, sizeof(name), "many%02d", i);
                snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012d", i);
                store_batch_put(&batch, STORE_ABSENT,
                        json_pack(
                                "{s:s, s:s, s:s, s:{s:I, s:i, s:s, s:[], s:[]}, s:{s:s, s:s, s:n}, s:{s:s}}",
                                "kind", "vm", "name", name, "uid", uid, "spec", "memory_bytes",
                                (json_int_t)1 << 20, "cpus", 1, "datastore", "shared", "disks", "nics",
                                "status", "power", "suspended", "host", "host1", "message", "internal",
                                "suspended_by", "earlier"));
                json_array_append_new(left, json_pack("{s:s, s:s, s:n, s:s}", "uid", uid, "name", name, "to",
                                                    "suspended_by", "earlier"));
        }
        store_batch_put(&batch, json_revision(host), json_deep_copy(host));
        json_decref(host);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
}

static bool sixteen_are_being_resumed(struct state *state)
{
        return n_tasks(state, "vm.resume") == N_MANY - 1;
}

/* The minute of the others is over, and they do not end. */
static void what_waits_for_its_turn_is_not_given_up_before(void **data)
{
        struct state *state = *data;
        json_t *doc, *record;
        uint64_t revision;
        char path[128];
        size_t i;

        set_a_full_stage(state);
        ask_of_web(state, "stop", NULL, "succeeded");
        do_maintenance(state, "{\"on\": true}", "succeeded");
        put_many(state);
        state->agents[1].busy = true;
        room_at(state, 1, ROOM);
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        wait_until(state, sixteen_are_being_resumed);
        cancel(state, path);
        doc = stored_task(state, path, &revision);
        json_object_set_new(data_of(doc), "ending_ms", json_integer(-1000000));
        json_array_foreach (json_object_get(data_of(doc), "moves"), i, record)
                json_object_set_new(record, "begun_ms", json_integer(-1000000));
        restart_with(state, revision, doc);
        state->agents[1].busy = false;
        end_task(state, path, "cancelled");
        assert_string_equal(json_text(line_of(state, "many16"), "outcome"), "moved-cold");
        assert_int_equal(json_integer_value(json_object_get(
                                 json_object_get(json_status(state->body), "result"), "stays")),
                0);
}

/* Its agent has noted it, and its answer never comes. */
static void cancelled_when_it_is_just_suspended_the_guest_is_resumed(void **data)
{
        struct state *state = *data;
        char path[128], uid[64];

        set_a_full_stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        state->agents[0].hold = "suspend";
        begin_maintenance(state, "{\"on\": true, " SUSPEND "}", path);
        wait_until(state, state_is_held);
        json_object_set_new(
                json_status(json_object_get(state->agents[0].vms, uid)), "power", json_string("suspended"));
        cancel(state, path);
        end_task(state, path, "cancelled");
        assert_line(state, "resumed", "host1");
        assert_web(state, "running", "host1");
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
}

static void resumption_of_which_nobody_knows_is_not_forgotten_by_the_end_of_maintenance(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        agent_double_stop(&state->agents[1]);
        wait_status(state, "/api/v1/hosts/host2", "state", "unreachable");
        put_web(state, "unknown", "host2");
        do_maintenance(state, "{\"on\": false, \"policy\": []}", "failed");
        assert_line(state, "stays", "");
        assert_int_equal(n_left(state), 1);
        agent_double_restart(&state->agents[1]);
        wait_status(state, "/api/v1/vms/web", "power", "suspended");
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "resumed", "host1");
}

static void resumption_of_which_nobody_knows_is_not_taken_for_a_move(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        begin_maintenance(
                state, "{\"on\": true, \"policy\": [{\"step\": \"suspend\", \"limit_ms\": 6000}]}", path);
        wait_until(state, web_is_suspended);
        agent_double_stop(&state->agents[1]);
        wait_status(state, "/api/v1/hosts/host2", "state", "unreachable");
        put_web(state, "unknown", "host2");
        end_task(state, path, "succeeded");
        assert_line(state, "suspended", "");
        assert_int_equal(n_left(state), 1);
}

/* While it is under way there is nothing to say; it fails, and the guest is still to be resumed. */
static void resumption_by_others_is_waited_for(void **data)
{
        struct state *state = *data;
        struct error *error = NULL;
        char path[128];

        suspend_for_maintenance(state);
        room_at(state, 1, ROOM);
        state->agents[1].hold = "restore";
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/resume", json_pack("{s:s}", "host", "host2")), 202);
        wait_until(state, state_is_held);
        begin_maintenance(state, "{\"on\": false}", path);
        state->path = path;
        wait_until(state, web_has_a_record);
        error_set(&error, ERROR_QEMU_FAILED, NULL, "QEMU does not want to");
        http_request_reply_error(TAKE_PTR(state->agents[1].held), error);
        end_task(state, path, "succeeded");
        assert_line(state, "resumed", "host1");
}

static void guest_that_others_have_suspended_since_is_left_alone(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        room_at(state, 1, ROOM);
        ask_of_web(state, "resume", NULL, "succeeded");
        ask_of_web(state, "suspend", NULL, "succeeded");
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "off", "host2");
        assert_web(state, "suspended", "host2");
        assert_int_equal(n_tasks(state, "vm.resume"), 1);
}

static bool suspending_has_failed(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/tasks?action=vm.suspend", NULL), 200);
        return !strcmp(
                json_text(json_status(json_array_get(json_object_get(state->body, "items"), 0)), "state"),
                "failed");
}

static void guest_that_others_suspend_after_it_could_not_is_left_alone(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        state->agents[0].refuse_state = true;
        begin_maintenance(
                state, "{\"on\": true, \"policy\": [{\"step\": \"suspend\"}, {\"step\": \"wait\"}]}", path);
        wait_until(state, suspending_has_failed);
        state->agents[0].refuse_state = false;
        ask_of_web(state, "suspend", NULL, "succeeded");
        end_task(state, path, "succeeded");
        assert_line(state, "off", "");
        assert_web(state, "suspended", "host1");
        assert_int_equal(n_left(state), 0);
}

static void guest_that_has_come_back_is_not_listed_any_more(void **data)
{
        struct state *state = *data;
        char path[128];

        suspend_for_maintenance(state);
        room_at(state, 0, NO_ROOM);
        do_maintenance(state, "{\"on\": false, \"policy\": []}", "failed");
        assert_int_equal(n_left(state), 1);
        room_at(state, 0, ROOM);
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        state->path = path;
        wait_until(state, web_has_a_record);
        cancel(state, path);
        end_task(state, path, "cancelled");
        assert_line(state, "resumed", "host1");
        assert_int_equal(n_left(state), 0);
}

static void guest_that_crashes_as_it_is_resumed_is_named(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        state->agents[0].crash_resumed = true;
        do_maintenance(state, "{\"on\": false}", "failed");
        assert_line(state, "crashed", "");
}

/* A manager that was killed had noted that it was paused, and did not get to suspending it. */
static void guest_that_ran_when_it_was_suspended_is_resumed(void **data)
{
        struct state *state = *data;
        uint64_t revision;
        char path[128];
        json_t *doc;

        set_a_full_stage(state);
        begin_maintenance(state,
                "{\"on\": true, \"policy\": [{\"step\": \"wait\", \"limit_ms\": 3000}, "
                "{\"step\": \"suspend\", \"limit_ms\": 1000}]}",
                path);
        state->path = path;
        wait_until(state, web_has_a_record);
        doc = stored_task(state, path, &revision);
        json_object_set_new(json_array_get(json_object_get(data_of(doc), "moves"), 0), "paused", json_true());
        restart_with(state, revision, doc);
        end_task(state, path, "succeeded");
        assert_line(state, "suspended", "");
        assert_int_equal(n_left(state), 1);
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "resumed", "host1");
}

/* A resumption that fails leaves it recorded where it was tried. */
static void repeated_it_finds_what_is_suspended_on_another_host(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        room_at(state, 1, ROOM);
        state->agents[1].refuse_state = true;
        do_maintenance(state, "{\"on\": true, " SUSPEND "}", "succeeded");
        assert_line(state, "suspended", "");
        refresh_all(state);
        assert_web(state, "suspended", "host2");
        state->agents[1].refuse_state = false;
        assert_int_equal(ask_maintenance(state, "{\"on\": true, \"dry_run\": true}"), 200);
        assert_line(state, "would-move-cold", "host2");
        do_maintenance(state, "{\"on\": true}", "succeeded");
        assert_line(state, "moved-cold", "host2");
}

static bool one_runs_on_host2(struct state *state)
{
        return json_object_size(state->agents[1].vms) >= 1;
}

static void two_that_wait_do_not_take_each_others_room(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        add_vm(state, "db");
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        wait_until(state, web_is_suspended);
        wait_status(state, "/api/v1/vms/db", "power", "suspended");
        room_at(state, 1, ROOM_FOR_ONE);
        wait_until(state, one_runs_on_host2);
        room_at(state, 1, ROOM);
        end_task(state, path, "succeeded");
        assert_string_equal(json_text(line_of(state, "web"), "outcome"), "moved-cold");
        assert_string_equal(json_text(line_of(state, "db"), "outcome"), "moved-cold");
        assert_int_equal(n_tasks(state, "vm.resume"), 2);
}

static void dry_run_of_a_repetition_says_what_it_would_do(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        assert_int_equal(ask_maintenance(state, "{\"on\": true, \"dry_run\": true}"), 200);
        assert_line(state, "would-suspend", "");
        room_at(state, 1, ROOM);
        assert_int_equal(ask_maintenance(state, "{\"on\": true, \"dry_run\": true}"), 200);
        assert_line(state, "would-move-cold", "host2");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(cancelled_it_resumes_also_what_it_was_done_with),
                TEST(cancelled_it_waits_a_moment_for_room_on_its_host),
                TEST(what_a_cancelled_task_could_not_resume_is_listed_and_named),
                TEST(what_waits_for_its_turn_is_not_given_up_before),
                TEST(cancelled_when_it_is_just_suspended_the_guest_is_resumed),
                TEST(resumption_of_which_nobody_knows_is_not_forgotten_by_the_end_of_maintenance),
                TEST(resumption_of_which_nobody_knows_is_not_taken_for_a_move),
                TEST(resumption_by_others_is_waited_for),
                TEST(guest_that_others_have_suspended_since_is_left_alone),
                TEST(guest_that_others_suspend_after_it_could_not_is_left_alone),
                TEST(guest_that_has_come_back_is_not_listed_any_more),
                TEST(guest_that_crashes_as_it_is_resumed_is_named),
                TEST(guest_that_ran_when_it_was_suspended_is_resumed),
                TEST(repeated_it_finds_what_is_suspended_on_another_host),
                TEST(two_that_wait_do_not_take_each_others_room),
                TEST(dry_run_of_a_repetition_says_what_it_would_do),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

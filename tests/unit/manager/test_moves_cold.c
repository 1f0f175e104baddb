/* SPDX-License-Identifier: Apache-2.0 */

/* Maintenance whose policy suspends: what cannot move is resumed on another host, or waits, suspended, for the end of it. And cold
 * migration of what is off. What goes wrong meanwhile is in test_moves_suspended.c. */

#include "moves_rig.h"

#include "base/doc.h"
#include "manager/task.h"

static void guest_that_cannot_move_live_is_suspended_and_resumed_on_another_host(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_maintenance(state, "{\"on\": true, " SUSPEND "}", path);
        for (int i = 0; i < 500 && !state->agents[0].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[0].migration);
        json_object_set_new(state->agents[0].migration, "error",
                json_pack("{s:s, s:s}", "code", "mover-failed", "detail", "it changes too much"));
        json_object_set_new(state->agents[0].migration, "phase", json_string("failed"));
        end_task(state, path, "succeeded");
        assert_line(state, "moved-cold", "host2");
        assert_string_equal(action_of_try(state, 0), "migrate");
        assert_string_equal(action_of_try(state, 1), "suspend");
        assert_string_equal(action_of_try(state, 2), "resume");
        assert_web(state, "running", "host2");
        assert_string_equal(json_text(maintenance(state), "state"), "on");
        assert_string_equal(
                json_text(json_array_get(json_object_get(maintenance(state), "left"), 0), "to"), "host2");
        assert_int_equal(n_tasks(state, "vm.stop"), 0);
}

static void guest_that_no_host_takes_stays_suspended_until_the_end_of_maintenance(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        assert_line(state, "suspended", "");
        assert_non_null(strstr(json_text(first_line(state), "why"), "memory"));
        assert_web(state, "suspended", "host1");
        assert_string_equal(json_text(maintenance(state), "state"), "on");
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "resumed", "host1");
        assert_web(state, "running", "host1");
        assert_null(maintenance(state));
        assert_int_equal(n_tasks(state, "vm.resume"), 1);
}

static void host_that_takes_it_in_time_gets_it(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        wait_until(state, web_is_suspended);
        room_at(state, 1, (json_int_t)8 << 30);
        end_task(state, path, "succeeded");
        assert_line(state, "moved-cold", "host2");
        assert_web(state, "running", "host2");
}

static void dry_run_says_the_same(void **data)
{
        struct state *state = *data;

        set_a_full_stage(state);
        assert_int_equal(ask_maintenance(state, "{\"on\": true, \"dry_run\": true, " SUSPEND "}"), 200);
        assert_line(state, "would-suspend", "");
        assert_non_null(strstr(json_text(first_line(state), "why"), "memory"));
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        room_at(state, 1, (json_int_t)8 << 30);
        assert_int_equal(ask_maintenance(state, "{\"on\": true, \"dry_run\": true, " SUSPEND "}"), 200);
        assert_line(state, "would-suspend", ""); /* it is to stay paused */
        assert_int_equal(n_tasks(state, "vm.suspend"), 0);
}

/* A job of QEMU's on its disks forbids live moves, and no others. */
static void dry_run_names_the_host_on_which_it_will_be_resumed(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        json_object_set_new(json_object_get(state->agents[0].vms, vm_uid(state)), "jobs",
                json_pack("[{s:s, s:s}]", "id", "nightly", "type", "backup"));
        refresh_all(state);
        assert_int_equal(ask_maintenance(state, "{\"on\": true, \"dry_run\": true, " SUSPEND "}"), 200);
        assert_line(state, "would-move-cold", "host2");
        do_maintenance(state, "{\"on\": true, " SUSPEND "}", "succeeded");
        assert_line(state, "moved-cold", "host2");
        assert_int_equal(n_tasks(state, "vm.migrate"), 0);
}

static void dry_run_of_the_end_says_what_is_resumed(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        assert_int_equal(ask_maintenance(state, "{\"on\": false, \"dry_run\": true}"), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "vms")), 1);
        assert_line(state, "would-resume", "host1");
}

static void guest_that_was_paused_stays_suspended_for_who_paused_it(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        do_maintenance(state, "{\"on\": true, " SUSPEND "}", "succeeded");
        assert_line(state, "suspended", "");
        assert_non_null(strstr(json_text(first_line(state), "why"), "paused"));
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_web(state, "suspended", "host1");
        assert_int_equal(n_tasks(state, "vm.resume"), 0);
}

static void guest_that_was_suspended_before_is_left_alone(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/suspend", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        do_maintenance(state, "{\"on\": true, " SUSPEND "}", "succeeded");
        assert_line(state, "off", "");
        do_maintenance(state, "{\"on\": false, \"return\": true}", "succeeded");
        assert_web(state, "suspended", "host1");
        assert_int_equal(n_tasks(state, "vm.resume"), 0);
}

static void cancelled_it_resumes_the_guest_where_it_was(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        wait_until(state, web_is_suspended);
        cancel(state, path);
        end_task(state, path, "cancelled");
        assert_line(state, "resumed", "host1");
        assert_web(state, "running", "host1");
        assert_null(maintenance(state));
}

static void cancelled_while_it_is_being_suspended_the_guest_runs_on(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        state->agents[0].hold = "suspend";
        begin_maintenance(state, "{\"on\": true, " SUSPEND "}", path);
        wait_until(state, state_is_held);
        cancel(state, path);
        end_task(state, path, "cancelled");
        assert_line(state, "stays", "");
        assert_web(state, "running", "host1");
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
}

static void guest_that_cannot_be_suspended_is_handled_by_the_next_step(void **data)
{
        struct state *state = *data;

        set_a_full_stage(state);
        state->agents[0].refuse_state = true;
        do_maintenance(state, "{\"on\": true, \"policy\": [{\"step\": \"suspend\"}, {\"step\": \"stop\"}]}",
                "succeeded");
        assert_line(state, "stopped", "");
        assert_string_equal(action_of_try(state, 0), "suspend");
        assert_string_equal(action_of_try(state, 1), "stop");
}

static void host_that_cannot_resume_it_is_not_asked_again(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        state->agents[1].refuse_state = true;
        begin_maintenance(
                state, "{\"on\": true, \"policy\": [{\"step\": \"suspend\", \"limit_ms\": 4000}]}", path);
        wait_until(state, web_is_suspended);
        room_at(state, 1, (json_int_t)8 << 30);
        end_task(state, path, "succeeded");
        assert_line(state, "suspended", "");
        assert_int_equal(n_tasks(state, "vm.resume"), 1);
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "resumed", "host1");
}

/* Switched off as soon as the guest is suspended; then nobody tells that it still is. */
static void guest_whose_host_is_off_already_still_counts_as_suspended(void **data)
{
        struct state *state = *data;
        char path[128];

        set_a_full_stage(state);
        state->agents[1].refuse_state = true;
        begin_maintenance(
                state, "{\"on\": true, \"policy\": [{\"step\": \"suspend\", \"limit_ms\": 5000}]}", path);
        wait_until(state, web_is_suspended);
        agent_double_stop(&state->agents[0]);
        state->agents[1].memory_free_bytes = (json_int_t)8 << 30;
        inventory_refresh(state->manager->inventory, NULL);
        end_task(state, path, "succeeded");
        assert_line(state, "suspended", "");
        assert_int_equal(n_tasks(state, "vm.resume"), 1);
        assert_int_equal(n_left(state), 1);
        do_maintenance(state, "{\"on\": false, \"policy\": [], \"tries\": 1}", "failed");
        assert_line(state, "stays", "");
        assert_int_equal(n_left(state), 1);
}

static void end_of_maintenance_that_cannot_resume_can_be_repeated(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        room_at(state, 0, 1 << 20);
        do_maintenance(state, "{\"on\": false, \"policy\": []}", "failed");
        assert_line(state, "stays", "");
        assert_null(maintenance(state));
        room_at(state, 0, (json_int_t)8 << 30);
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_line(state, "resumed", "host1");
}

static void guest_that_others_have_resumed_meanwhile_is_left_where_it_is(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        room_at(state, 1, (json_int_t)8 << 30);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/resume", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        do_maintenance(state, "{\"on\": false, \"return\": true}", "succeeded");
        assert_line(state, "elsewhere", "host2");
        assert_int_equal(n_tasks(state, "vm.migrate"), 0);
}

static void repeated_it_resumes_what_it_has_suspended_where_that_fits_now(void **data)
{
        struct state *state = *data;

        suspend_for_maintenance(state);
        room_at(state, 1, (json_int_t)8 << 30);
        do_maintenance(state, "{\"on\": true}", "succeeded");
        assert_line(state, "moved-cold", "host2");
        assert_int_equal(json_array_size(json_object_get(maintenance(state), "left")), 1);
}

static bool two_are_being_suspended(struct state *state)
{
        return n_tasks(state, "vm.suspend") == 2;
}

/* They stand still, and share the way to the datastore. */
static void no_more_than_two_are_being_suspended_at_a_time(void **data)
{
        static const char *const names[] = {"a", "b"};
        struct state *state = *data;
        uint64_t end_ms;
        char path[128];

        set_a_full_stage(state);
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                add_vm(state, names[i]);
        state->agents[0].hold = "suspend";
        begin_maintenance(state, "{\"on\": true, " SUSPEND "}", path);
        wait_until(state, two_are_being_suspended);
        end_ms = clock_now_ms(loop_clock(state->loop)) + 3000;
        while (clock_now_ms(loop_clock(state->loop)) < end_ms)
                loop_iterate(state->loop, 20);
        assert_int_equal(n_tasks(state, "vm.suspend"), 2);
}

/* The manager ends while the agent has the call, which the next one makes again. */
static void go_on_after(struct state *state, size_t agent, const char *verb)
{
        char path[128];

        set_a_full_stage(state);
        state->agents[agent].hold = verb;
        begin_maintenance(state, "{\"on\": true, " SUSPEND_AND_WAIT "}", path);
        if (!strcmp(verb, "restore")) {
                wait_until(state, web_is_suspended);
                room_at(state, 1, (json_int_t)8 << 30);
        }
        wait_until(state, state_is_held);
        stop_manager(state);
        http_request_reply_error(TAKE_PTR(state->agents[agent].held), NULL);
        state->agents[agent].hold = NULL;
        start_manager(state);
        if (!strcmp(verb, "suspend"))
                room_at(state, 1, (json_int_t)8 << 30);
        end_task(state, path, "succeeded");
        assert_line(state, "moved-cold", "host2");
        assert_int_equal(n_tasks(state, "vm.suspend"), 1);
        assert_int_equal(n_tasks(state, "vm.resume"), 1);
}

static void restarted_manager_goes_on_with_the_same_suspension(void **data)
{
        go_on_after(*data, 0, "suspend");
}

static void restarted_manager_goes_on_with_the_same_resumption(void **data)
{
        go_on_after(*data, 1, "restore");
}

/* As a later version would have recorded it, before it was downgraded. */
static void action_that_is_not_known_ends_no_guest(void **data)
{
        struct state *state = *data;
        uint64_t revision, end_ms;
        json_t *doc, *move;
        char path[128];

        set_a_full_stage(state);
        begin_maintenance(
                state, "{\"on\": true, \"give_up_ms\": 4000, \"policy\": [{\"step\": \"wait\"}]}", path);
        end_ms = clock_now_ms(loop_clock(state->loop)) + 1500;
        while (clock_now_ms(loop_clock(state->loop)) < end_ms)
                loop_iterate(state->loop, 20);
        doc = stored_task(state, path, &revision);
        move = json_array_get(
                json_object_get(json_object_get(json_object_get(doc, "internal"), "data"), "moves"), 0);
        json_array_append_new(json_object_get(move, "tries"),
                json_pack("{s:s, s:s, s:n, s:s, s:n, s:n, s:n}", "action", "teleport", "step", "teleport",
                        "to", "task_uid", "00000000-0000-4000-8000-000000000001", "task", "result", "why"));
        restart_with(state, revision, doc);
        end_task(state, path, "failed");
        assert_line(state, "stays", "");
        assert_web(state, "running", "host1");
        assert_int_equal(n_tasks(state, "vm.stop"), 0);
}

/* POSTs as a role with these permissions; the status. */
static int post_as(
        struct state *state, const char *role, json_t *permissions, const char *path, const char *body)
{
        char header[sizeof(state->headers[0])];
        int status;

        assert_int_equal(
                call(state, "POST", "/api/v1/roles",
                        json_pack("{s:s, s:{s:o}}", "name", role, "spec", "permissions", permissions)),
                201);
        assert_int_equal(
                call(state, "POST", "/api/v1/tokens", json_pack("{s:s, s:s}", "name", role, "role", role)),
                201);
        memcpy(header, state->headers[0], sizeof(header));
        snprintf(state->headers[0], sizeof(header), "Authorization: Bearer %s",
                json_text(state->body, "secret"));
        status = call(state, "POST", path, json_loads(body, 0, NULL));
        memcpy(state->headers[0], header, sizeof(header));
        return status;
}

static int ask_as(struct state *state, const char *role, json_t *permissions, const char *body)
{
        return post_as(state, role, permissions, "/api/v1/hosts/host1/maintenance", body);
}

static void policy_that_suspends_takes_the_permission_to_do_so(void **data)
{
        struct state *state = *data;

        set_a_full_stage(state);
        assert_int_equal(ask_as(state, "caretaker", json_pack("[s]", "host.operate"),
                                 "{\"on\": true, \"dry_run\": true, " SUSPEND "}"),
                403);
        assert_int_equal(ask_as(state, "caretaker2", json_pack("[s]", "host.operate"),
                                 "{\"on\": true, \"dry_run\": true}"),
                200);
        assert_int_equal(ask_as(state, "night-shift", json_pack("[s, s]", "host.operate", "vm.power"),
                                 "{\"on\": true, \"dry_run\": true, " SUSPEND "}"),
                200);
        assert_int_equal(
                post_as(state, "planner", json_pack("[s]", "schedule.manage"), "/api/v1/schedules",
                        "{\"name\": \"night\", \"spec\": {\"calendar\": \"daily\", \"action\": "
                        "{\"type\": \"maintenance\", \"host\": \"host1\", \"on\": true, " SUSPEND "}}}"),
                403);
}

/* --- Cold migration ----------------------------------------------------------------------------------------------------- */

/* The check of that code is broken. */
static void assert_broken(struct state *state, const char *to, const char *code)
{
        json_t *check;
        size_t i;

        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/migrate", json_pack("{s:s, s:b}", "to", to, "check", 1)),
                200);
        assert_true(json_is_false(json_object_get(state->body, "ok")));
        json_array_foreach (json_object_get(state->body, "checks"), i, check)
                if (!strcmp(json_text(check, "code"), code) && json_is_false(json_object_get(check, "ok")))
                        return;
        fail_msg("%s is met", code);
}

static void guest_that_is_off_is_given_to_another_host_and_starts_there(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        ask_of_web(state, "stop", NULL, "succeeded");
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host2"), "succeeded");
        assert_string_equal(json_text(json_spec(state->body), "action"), "vm.migrate-cold");
        assert_web(state, "stopped", "host2");
        refresh_all(state); /* host1 still tells of it */
        assert_web(state, "stopped", "host2");
        stop_manager(state);
        start_manager(state);
        refresh_all(state);
        assert_web(state, "stopped", "host2");
        ask_of_web(state, "start", NULL, "succeeded");
        assert_web(state, "running", "host2");
        refresh_all(state);
        assert_null(json_object_get(status_of(state, "/api/v1/vms/web"), "moved_cold"));
}

static void suspended_guest_is_given_to_another_host_and_stays_suspended(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        ask_of_web(state, "suspend", NULL, "succeeded");
        ask_of_web(state, "migrate", json_object(), "succeeded"); /* the best other host */
        refresh_all(state);
        assert_web(state, "suspended", "host2");
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host1"), "succeeded");
        refresh_all(state);
        assert_web(state, "suspended", "host1");
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host2"), "succeeded");
        ask_of_web(state, "resume", NULL, "succeeded");
        refresh_all(state);
        assert_web(state, "running", "host2");
}

/* What its new host remembers of an earlier run does not count, nor what its old one tells, when it could not be resumed. */
static void suspended_guest_that_could_not_be_resumed_there_is_still_suspended(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        ask_of_web(state, "suspend", NULL, "succeeded");
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host2"), "succeeded");
        state->agents[1].refuse_state = true;
        ask_of_web(state, "resume", json_pack("{s:s}", "host", "host2"), "failed");
        refresh_all(state);
        assert_string_equal(json_text(status_of(state, "/api/v1/vms/web"), "power"), "suspended");
}

static void old_memories_of_the_new_host_do_not_count(void **data)
{
        struct state *state = *data;
        json_t *old;

        set_the_stage(state);
        ask_of_web(state, "suspend", NULL, "succeeded");
        old = json_deep_copy(json_object_get(state->agents[0].vms, vm_uid(state)));
        json_object_set_new(json_status(old), "power", json_string("stopped"));
        json_object_set_new(json_status(old), "owner_epoch", json_integer(0));
        json_object_set_new(state->agents[1].vms, vm_uid(state), old);
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host2"), "succeeded");
        refresh_all(state);
        assert_web(state, "suspended", "host2");
}

static void host_that_could_not_have_it_is_refused(void **data)
{
        struct state *state = *data;
        json_t *vm;

        set_a_full_stage(state);
        ask_of_web(state, "suspend", NULL, "succeeded");
        assert_broken(state, "host1", "same-host");
        vm = json_object_get(state->agents[0].vms, vm_uid(state));
        json_object_set_new(json_status(vm), "qemu_version", json_string("99.0"));
        json_object_set_new(json_status(vm), "message", json_string("something new"));
        refresh_all(state);
        assert_broken(state, "host2", "saved-state");
        json_object_set_new(json_status(vm), "qemu_version", json_string("7.2.0"));
        json_object_set_new(json_status(vm), "message", json_null());
        json_object_clear(state->agents[1].datastores);
        refresh_all(state);
        assert_broken(state, "host2", "datastore");
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host2"), "failed");
        assert_web(state, "suspended", "host1");
}

static void host_without_free_memory_takes_what_is_off(void **data)
{
        struct state *state = *data;

        set_a_full_stage(state);
        ask_of_web(state, "stop", NULL, "succeeded");
        ask_of_web(state, "migrate", json_pack("{s:s}", "to", "host2"), "succeeded");
        assert_web(state, "stopped", "host2");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(guest_that_cannot_move_live_is_suspended_and_resumed_on_another_host),
                TEST(guest_that_no_host_takes_stays_suspended_until_the_end_of_maintenance),
                TEST(host_that_takes_it_in_time_gets_it),
                TEST(dry_run_says_the_same),
                TEST(dry_run_names_the_host_on_which_it_will_be_resumed),
                TEST(dry_run_of_the_end_says_what_is_resumed),
                TEST(guest_that_was_paused_stays_suspended_for_who_paused_it),
                TEST(guest_that_was_suspended_before_is_left_alone),
                TEST(cancelled_it_resumes_the_guest_where_it_was),
                TEST(cancelled_while_it_is_being_suspended_the_guest_runs_on),
                TEST(guest_that_cannot_be_suspended_is_handled_by_the_next_step),
                TEST(host_that_cannot_resume_it_is_not_asked_again),
                TEST(guest_whose_host_is_off_already_still_counts_as_suspended),
                TEST(end_of_maintenance_that_cannot_resume_can_be_repeated),
                TEST(guest_that_others_have_resumed_meanwhile_is_left_where_it_is),
                TEST(repeated_it_resumes_what_it_has_suspended_where_that_fits_now),
                TEST(no_more_than_two_are_being_suspended_at_a_time),
                TEST(restarted_manager_goes_on_with_the_same_suspension),
                TEST(restarted_manager_goes_on_with_the_same_resumption),
                TEST(action_that_is_not_known_ends_no_guest),
                TEST(guest_that_is_off_is_given_to_another_host_and_starts_there),
                TEST(suspended_guest_is_given_to_another_host_and_stays_suspended),
                TEST(suspended_guest_that_could_not_be_resumed_there_is_still_suspended),
                TEST(old_memories_of_the_new_host_do_not_count),
                TEST(host_that_could_not_have_it_is_refused),
                TEST(host_without_free_memory_takes_what_is_off),
                TEST(policy_that_suspends_takes_the_permission_to_do_so),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

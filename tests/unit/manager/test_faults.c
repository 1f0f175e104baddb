/* SPDX-License-Identifier: Apache-2.0 */

/* The manager when things go wrong: agents that die, come back, restart between call and answer, or tell old news. */

#include "manager_rig.h"

static const char *power(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        return json_text(json_status(state->body), "power");
}

static uint64_t now_ms(struct state *state)
{
        return clock_now_ms(loop_clock(state->loop));
}

/* Hosts, datastore, network; no VM. */
static void stage_without_machine(struct state *state)
{
        set_the_stage(state);
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(call(state, "DELETE", "/api/v1/vms/web", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
}

static json_t *stopped_machine(void)
{
        json_t *vm = vm_document("web");

        json_object_set_new(vm, "start", json_false());
        json_object_set_new(vm, "host", json_string("host1"));
        return vm;
}

static void created_machine_can_be_started_at_once(void **data)
{
        struct state *state = *data;

        stage_without_machine(state);
        for (int i = 0; i < 5; i++) {
                call(state, "POST", "/api/v1/vms", stopped_machine());
                assert_string_equal(finish(state), "succeeded");
                /* Rounds that began before the start, and after it. */
                inventory_refresh(state->manager->inventory, NULL);
                assert_int_equal(call(state, "POST", "/api/v1/vms/web/start", NULL), 202);
                inventory_refresh(state->manager->inventory, NULL);
                assert_string_equal(finish(state), "succeeded");
                assert_string_equal(power(state), "running");
                call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
                assert_string_equal(finish(state), "succeeded");
                assert_string_equal(power(state), "stopped");
                assert_int_equal(call(state, "DELETE", "/api/v1/vms/web", NULL), 202);
                assert_string_equal(finish(state), "succeeded");
        }
}

static void old_list_does_not_replace_newer_answer(void **data)
{
        struct state *state = *data;
        struct inventory *inventory;
        char host_uid[64], uid[64];

        set_the_stage(state);
        inventory = state->manager->inventory;
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        snprintf(host_uid, sizeof(host_uid), "%s", state->agents[0].uid);
        /* A round begins, its list without the VM is on the way, and meanwhile the host tells of it. */
        json_object_del(state->agents[0].vms, uid);
        inventory_refresh(inventory, host_uid);
        loop_iterate(state->loop, 0);
        inventory_told(inventory, host_uid, uid, inventory_vm(inventory, uid));
        for (int i = 0; i < 10; i++) {
                assert_string_not_equal(
                        json_text(json_status(inventory_vm(inventory, uid)), "power"), "unknown");
                loop_iterate(state->loop, 1);
        }
}

static void death_of_a_machine_is_seen_at_once(void **data)
{
        struct state *state = *data;
        char uid[64];
        json_t *vm;

        state->agents[0].streams = true;
        set_the_stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        while (!state->agents[0].stream)
                loop_iterate(state->loop, 20);
        vm = json_object_get(state->agents[0].vms, uid);
        json_object_set_new(json_status(vm), "power", json_string("crashed"));
        agent_double_event(&state->agents[0], "vm", vm);
        /* Well below a heartbeat: the event has done it, no round. */
        for (int i = 0; i < 50 && strcmp(power(state), "crashed"); i++)
                loop_iterate(state->loop, 5);
        assert_string_equal(power(state), "crashed");
}

static void event_of_a_migration_wakes_its_task(void **data)
{
        struct state *state = *data;
        char path[128], asked[128];
        int before;

        state->agents[0].streams = true;
        set_the_stage(state);
        while (!state->agents[0].stream)
                loop_iterate(state->loop, 20);
        begin_migration(state, path);
        snprintf(asked, sizeof(asked), "GET /agent/v1/migrations/%s",
                json_text(state->agents[0].migration, "id"));
        while (!agent_double_calls(&state->agents[0], asked))
                loop_iterate(state->loop, 20);
        before = agent_double_calls(&state->agents[0], asked);
        complete_migration(state);
        agent_double_event(&state->agents[0], "migration", state->agents[0].migration);
        for (uint64_t end = now_ms(state) + 300; now_ms(state) < end;)
                loop_iterate(state->loop, 10);
        assert_true(agent_double_calls(&state->agents[0], asked) > before);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void dead_agent_is_seen_and_its_return_too(void **data)
{
        struct state *state = *data;

        state->agents[0].streams = true;
        set_the_stage(state);
        agent_double_stop(&state->agents[0]);
        wait_status(state, "/api/v1/hosts/host1", "state", "unreachable");
        assert_string_equal(power(state), "unknown");
        agent_double_restart(&state->agents[0]);
        wait_status(state, "/api/v1/hosts/host1", "state", "connected");
        wait_status(state, "/api/v1/vms/web", "power", "running");
}

static void machine_that_its_host_lost_can_be_started_again(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        agent_double_stop(&state->agents[0]);
        wait_status(state, "/api/v1/vms/web", "power", "unknown");
        json_object_clear(state->agents[0].vms); /* the host was rebooted */
        agent_double_restart(&state->agents[0]);
        wait_status(state, "/api/v1/vms/web", "power", "crashed");
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "succeeded");
}

static void stopped_machine_of_a_lost_host_starts_elsewhere(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        agent_double_stop(&state->agents[0]);
        wait_status(state, "/api/v1/hosts/host1", "state", "unreachable");
        assert_string_equal(power(state), "stopped");
        call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host2"));
        assert_string_equal(finish(state), "succeeded");
}

static bool start_is_held(struct state *state)
{
        return state->agents[0].held;
}

static void machine_whose_start_was_not_answered_is_unknown(void **data)
{
        struct state *state = *data;

        stage_without_machine(state);
        call(state, "POST", "/api/v1/vms", stopped_machine());
        assert_string_equal(finish(state), "succeeded");
        state->agents[0].hold = "start";
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host1")), 202);
        wait_until(state, start_is_held);
        assert_string_equal(power(state), "starting");
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
        agent_double_stop(&state->agents[0]);
        wait_status(state, "/api/v1/vms/web", "power", "unknown");
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host2")), 409);
}

static void start_that_was_refused_leaves_the_machine_stopped(void **data)
{
        struct state *state = *data;

        stage_without_machine(state);
        call(state, "POST", "/api/v1/vms", stopped_machine());
        assert_string_equal(finish(state), "succeeded");
        state->agents[0].refuse_start = state->agents[1].refuse_start = true;
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "failed");
        wait_status(state, "/api/v1/vms/web", "power", "stopped");
        state->agents[0].refuse_start = state->agents[1].refuse_start = false;
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "succeeded");
}

#define N_PAST 60

static json_t *past_migration(size_t i)
{
        char uid[64], name[32];

        snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012zu", i);
        snprintf(name, sizeof(name), "t%010zu", i + 5000);
        return json_pack(
                "{s:s, s:s, s:s, s:{s:s}, s:{s:s, s:s, s:{s:s, s:s, s:i, s:i, s:{s:i, s:i}}}, s:{s:{s:s}}}",
                "kind", "task", "name", name, "uid", uid, "spec", "action", "vm.migrate", "status", "state",
                "succeeded", "finished", "2026-01-01T00:00:00Z", "result", "from", "host1", "to", "host2",
                "total_ms", 1000, "pause_ms", 5, "forecast", "total_ms", 1000, "pause_ms", 5, "internal",
                "data", "vm_uid", uid);
}

static json_int_t n_scored(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/forecast-score", NULL), 200);
        return json_integer_value(json_object_get(state->body, "n"));
}

/* In parts, between which everybody has his turn; one that ends meanwhile counts once. */
static void past_migrations_are_read_in_parts(void **data)
{
        struct state *state = *data;
        uint64_t end;

        for (size_t i = 0; i < N_PAST; i++) {
                _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

                store_batch_put(&batch, STORE_ABSENT, past_migration(i));
                assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        }
        stop_manager(state);
        start_manager(state);
        end = now_ms(state) + WAIT_MS;
        while (n_scored(state) < N_PAST) {
                assert_true(now_ms(state) < end);
                loop_iterate(state->loop, 20);
        }
        for (int i = 0; i < 10; i++)
                loop_iterate(state->loop, 20);
        assert_int_equal(n_scored(state), N_PAST);
}

/* The guest powers off while its agent is restarted, which then says that there is nothing to be stopped. */
static void stop_that_the_agent_did_before_its_restart_succeeds(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        state->agents[0].hold = "stop";
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/stop", json_object()), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, start_is_held);
        state->agents[0].hold = NULL;
        state->agents[0].refuse_stop = true;
        json_object_set_new(json_status(json_object_get(state->agents[0].vms, vm_uid(state))), "power",
                json_string("stopped"));
        agent_double_stop(&state->agents[0]);
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
        agent_double_restart(&state->agents[0]);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void start_that_the_agent_did_before_its_restart_succeeds(void **data)
{
        struct state *state = *data;
        char uid[64];
        json_t *vm;

        stage_without_machine(state);
        call(state, "POST", "/api/v1/vms", stopped_machine());
        assert_string_equal(finish(state), "succeeded");
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        vm = json_deep_copy(state->body);
        /* The agent has started it, and does not know our call any more. */
        json_object_set_new(json_status(vm), "power", json_string("running"));
        state->agents[0].hold = "start";
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host1")), 202);
        wait_until(state, start_is_held);
        state->agents[0].hold = NULL;
        json_object_set_new(state->agents[0].vms, uid, vm);
        agent_double_stop(&state->agents[0]);
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
        agent_double_restart(&state->agents[0]);
        call(state, "GET", "/api/v1/tasks?state=active", NULL);
        for (int i = 0; i < 500 && strcmp(power(state), "running"); i++)
                loop_iterate(state->loop, 20);
        call(state, "GET", "/api/v1/tasks?limit=1&action=vm.start", NULL);
        state->status = 202;
        vm = json_incref(json_array_get(json_object_get(state->body, "items"), 0));
        json_decref(state->body);
        state->body = vm;
        assert_string_equal(finish(state), "succeeded");
}

static void creation_without_answer_is_taken_back(void **data)
{
        struct state *state = *data;
        char path[128], uid[64], deleted[128];

        stage_without_machine(state);
        state->agents[0].hold = "create";
        assert_int_equal(call(state, "POST", "/api/v1/vms", stopped_machine()), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s/cancel", json_text(state->body, "name"));
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        wait_until(state, start_is_held);
        assert_int_equal(call(state, "POST", path, NULL), 202);
        http_request_reply_json(TAKE_PTR(state->agents[0].held), 200, json_object());
        assert_string_equal(finish(state), "cancelled");
        snprintf(deleted, sizeof(deleted), "POST /agent/v1/vms/%s/delete", uid);
        assert_int_equal(agent_double_calls(&state->agents[0], deleted), 1);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 404);
}

static void stop_of_a_machine_that_the_agent_forgot_succeeds(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        state->agents[0].forgetful = true;
        call(state, "POST", "/api/v1/vms/web/stop", json_object());
        json_object_clear(state->agents[0].vms);
        assert_string_equal(finish(state), "succeeded");
        assert_string_equal(power(state), "stopped");
}

static void alert_ends_though_the_manager_was_restarted(void **data)
{
        struct state *state = *data;
        char uid[64];

        set_the_stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        json_object_set_new(
                state->agents[1].vms, uid, json_deep_copy(json_object_get(state->agents[0].vms, uid)));
        do {
                loop_iterate(state->loop, 20);
                assert_int_equal(call(state, "GET", "/api/v1/alerts", NULL), 200);
        } while (!json_array_size(json_object_get(state->body, "items")));
        stop_manager(state);
        json_object_del(state->agents[1].vms, uid);
        start_manager(state);
        do {
                loop_iterate(state->loop, 20);
                assert_int_equal(call(state, "GET", "/api/v1/alerts", NULL), 200);
        } while (json_array_size(json_object_get(state->body, "items")));
}

static bool told_of_removal(struct state *state)
{
        return json_array_size(state->agents[0].removed) == 1;
}

/* A sync of the host may be under way, which keeps it for a moment. */
static bool removal_accepted(struct state *state)
{
        int status = call(state, "DELETE", state->path, NULL);

        assert_true(status == 202 || (status == 409 && !strcmp(state->code, "busy")));
        return status == 202;
}

static void remove_host(struct state *state, const char *path)
{
        state->path = path;
        wait_until(state, removal_accepted);
}

static void agents_learn_which_hosts_were_removed(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        assert_int_equal(json_array_size(state->agents[0].removed), 0);
        remove_host(state, "/api/v1/hosts/host2");
        assert_string_equal(finish(state), "succeeded");
        wait_until(state, told_of_removal);
        assert_string_equal(
                json_string_value(json_array_get(state->agents[0].removed, 0)), state->agents[1].uid);
        stop_manager(state);
        json_array_clear(state->agents[0].removed);
        start_manager(state);
        wait_until(state, told_of_removal);
}

static void host_of_a_migration_cannot_be_removed(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        assert_int_equal(call(state, "DELETE", "/api/v1/hosts/host2?force=true", NULL), 409);
        assert_string_equal(state->code, "busy");
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void machine_of_a_removed_host_can_be_started(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        agent_double_stop(&state->agents[0]);
        wait_status(state, "/api/v1/vms/web", "power", "unknown");
        remove_host(state, "/api/v1/hosts/host1?force=true");
        assert_string_equal(finish(state), "succeeded");
        wait_status(state, "/api/v1/vms/web", "power", "stopped");
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "succeeded");
}

static void cancel_with_a_reason_that_is_no_text_is_refused(void **data)
{
        struct state *state = *data;
        char path[128], *text;

        set_the_stage(state);
        begin_migration(state, path);
        snprintf(path + strlen(path), sizeof(path) - strlen(path), "/cancel");
        snprintf(state->headers[1], sizeof(state->headers[1]), "X-Drover-Reason: \xff");
        assert_int_equal(call(state, "POST", path, NULL), 400);
        snprintf(state->headers[1], sizeof(state->headers[1]), "X-Drover-Reason: because");
        assert_int_equal(call(state, "POST", path, NULL), 202);
        *state->headers[1] = '\0';
        assert_int_equal(call(state, "GET", "/api/v1/audit?limit=50", NULL), 200);
        text = json_dumps(state->body, 0);
        assert_non_null(strstr(text, "because"));
        free(text);
}

struct watcher_double {
        uint64_t last_id;
        unsigned int n_events;
        bool ended;
};

static void on_line(void *userdata, const char *line)
{
        struct watcher_double *watcher = userdata;

        if (!strncmp(line, "id: ", 4))
                assert_int_equal(text_parse_u64(line + 4, 0, INT64_MAX, &watcher->last_id), 0);
        watcher->n_events += !strncmp(line, "event: alert", 12);
}

static void on_end(void *userdata, int status, json_t *body, struct error *error)
{
        struct watcher_double *watcher = userdata;

        watcher->ended = true;
}

static void watch_events(struct state *state, const char *path, struct watcher_double *watcher)
{
        const char *headers[] = {state->headers[0], NULL};

        assert_int_equal(http_client_call(state->client,
                                 &(struct http_call_spec){.method = "GET",
                                         .address = state->address,
                                         .peer_name = "manager.drover",
                                         .path = path,
                                         .headers = headers,
                                         .timeout_ms = WAIT_MS,
                                         .line = on_line},
                                 on_end, watcher, NULL, NULL),
                0);
}

static void client_far_behind_gets_every_event(void **data)
{
        static char payload[100001];
        struct state *state = *data;
        struct watcher_double watcher = {};

        memset(payload, 'x', sizeof(payload) - 1);
        for (int i = 0; i < 150; i++) { /* 15 MB: more than is ever buffered for one client */
                _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

                store_batch_put(&batch, STORE_ANY, object_new("alert", "large", payload));
                assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        }
        watch_events(state, "/api/v1/events?since=0&kinds=alert", &watcher);
        for (uint64_t end = now_ms(state) + WAIT_MS; watcher.n_events < 150;) {
                assert_true(now_ms(state) < end);
                assert_false(watcher.ended);
                loop_iterate(state->loop, 20);
        }
}

static void stream_tells_where_to_resume_before_any_event(void **data)
{
        struct state *state = *data;
        struct watcher_double watcher = {};
        uint64_t revision = 0;

        assert_int_equal(store_revision(state->manager->store, &revision, NULL), 0);
        watch_events(state, "/api/v1/events", &watcher);
        for (int i = 0; i < 100 && !watcher.last_id; i++)
                loop_iterate(state->loop, 20);
        assert_int_equal(watcher.last_id, revision);
}

static void stream_ends_with_its_token(void **data)
{
        struct state *state = *data;
        struct watcher_double watcher = {};

        watch_events(state, "/api/v1/events", &watcher);
        for (int i = 0; i < 100 && !watcher.last_id; i++)
                loop_iterate(state->loop, 20);
        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/admin", NULL), 204);
        for (int i = 0; i < 100 && !watcher.ended; i++)
                loop_iterate(state->loop, 20);
        assert_true(watcher.ended);
}

static void guesses_at_enrolment_do_not_fill_the_audit_log(void **data)
{
        struct state *state = *data;
        json_t *entry;
        size_t i, n = 0;

        for (int k = 0; k < 20; k++)
                assert_int_equal(call(state, "POST", "/api/v1/enrol",
                                         json_pack("{s:s, s:s}", "token", "guess", "csr", "x")),
                        403);
        assert_int_equal(call(state, "GET", "/api/v1/audit?limit=50", NULL), 200);
        json_array_foreach (json_object_get(state->body, "items"), i, entry)
                n += !strcmp(json_text(entry, "action"), "host.enrol");
        assert_int_equal(n, 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(created_machine_can_be_started_at_once),
                TEST(old_list_does_not_replace_newer_answer),
                TEST(death_of_a_machine_is_seen_at_once),
                TEST(event_of_a_migration_wakes_its_task),
                TEST(dead_agent_is_seen_and_its_return_too),
                TEST(machine_that_its_host_lost_can_be_started_again),
                TEST(stopped_machine_of_a_lost_host_starts_elsewhere),
                TEST(machine_whose_start_was_not_answered_is_unknown),
                TEST(start_that_was_refused_leaves_the_machine_stopped),
                TEST(start_that_the_agent_did_before_its_restart_succeeds),
                TEST(past_migrations_are_read_in_parts),
                TEST(stop_that_the_agent_did_before_its_restart_succeeds),
                TEST(creation_without_answer_is_taken_back),
                TEST(stop_of_a_machine_that_the_agent_forgot_succeeds),
                TEST(alert_ends_though_the_manager_was_restarted),
                TEST(agents_learn_which_hosts_were_removed),
                TEST(host_of_a_migration_cannot_be_removed),
                TEST(machine_of_a_removed_host_can_be_started),
                TEST(cancel_with_a_reason_that_is_no_text_is_refused),
                TEST(client_far_behind_gets_every_event),
                TEST(stream_tells_where_to_resume_before_any_event),
                TEST(stream_ends_with_its_token),
                TEST(guesses_at_enrolment_do_not_fill_the_audit_log),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

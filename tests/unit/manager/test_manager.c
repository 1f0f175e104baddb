/* SPDX-License-Identifier: Apache-2.0 */

/* The whole manager in one process: its API over real HTTPS, two agent doubles with real mutual TLS. */

#include "manager_rig.h"

#include "base/doc.h"

static void request_without_token_is_refused(void **data)
{
        struct state *state = *data;

        snprintf(state->headers[0], sizeof(state->headers[0]), "X-Nothing: 1");
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 401);
        assert_string_equal(state->code, "unauthenticated");
        assert_int_equal(call(state, "GET", "/healthz", NULL), 200);
}

static void reader_may_read_and_no_more(void **data)
{
        struct state *state = *data;

        assert_int_equal(call(state, "POST", "/api/v1/tokens",
                                 json_pack("{s:s, s:s}", "name", "r", "role", "read-only")),
                201);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s",
                json_text(state->body, "secret"));
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 200);
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw")), 403);
        assert_string_equal(state->code, "denied");
}

static void removed_token_works_no_more(void **data)
{
        struct state *state = *data;

        assert_int_equal(call(state, "DELETE", "/api/v1/tokens/admin", NULL), 204);
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 401);
}

static void wrong_enrolment_token_is_refused(void **data)
{
        struct state *state = *data;

        assert_int_equal(call(state, "POST", "/api/v1/enrol",
                                 json_pack("{s:s, s:s}", "token", "guess", "csr", state->agents[0].csr_pem)),
                403);
}

static void enrolment_token_works_once(void **data)
{
        struct state *state = *data;
        char token[256];

        assert_int_equal(call(state, "POST", "/api/v1/hosts",
                                 json_pack("{s:s, s:s}", "name", "h", "address", "127.0.0.1:1")),
                201);
        snprintf(token, sizeof(token), "%s", json_text(state->body, "enrol_token"));
        assert_memory_equal(token, "drv1.", 5);
        assert_memory_equal(token + 5, state->manager->ca.fingerprint, 64);
        assert_int_equal(call(state, "POST", "/api/v1/enrol",
                                 json_pack("{s:s, s:s}", "token", token, "csr", state->agents[0].csr_pem)),
                200);
        assert_int_equal(call(state, "POST", "/api/v1/enrol",
                                 json_pack("{s:s, s:s}", "token", token, "csr", state->agents[0].csr_pem)),
                403);
}

static void bad_request_for_a_certificate_keeps_the_token(void **data)
{
        struct state *state = *data;
        char token[256];

        call(state, "POST", "/api/v1/hosts", json_pack("{s:s, s:s}", "name", "h", "address", "127.0.0.1:1"));
        snprintf(token, sizeof(token), "%s", json_text(state->body, "enrol_token"));
        assert_true(call(state, "POST", "/api/v1/enrol",
                            json_pack("{s:s, s:s}", "token", token, "csr", "junk")) >= 400);
        assert_int_equal(call(state, "POST", "/api/v1/enrol",
                                 json_pack("{s:s, s:s}", "token", token, "csr", state->agents[0].csr_pem)),
                200);
}

static void enrolled_host_connects_over_mutual_tls(void **data)
{
        struct state *state = *data;

        add_host(state, &state->agents[0], "host1");
        assert_string_equal(state->agents[0].peer, "manager.drover");
        assert_string_equal(state->agents[0].epoch, "1");
        assert_int_equal(json_integer_value(json_object_get(json_status(state->body), "cpus")), 4);
}

static void each_start_has_a_higher_epoch(void **data)
{
        struct state *state = *data;

        add_host(state, &state->agents[0], "host1");
        stop_manager(state);
        start_manager(state);
        wait_status(state, "/api/v1/hosts/host1", "state", "connected");
        assert_string_equal(state->agents[0].epoch, "2");
}

static void shared_datastore_has_one_id_on_all_hosts(void **data)
{
        struct state *state = *data;

        add_host(state, &state->agents[0], "host1");
        add_host(state, &state->agents[1], "host2");
        state->agents[1].shared_id = "something-else";
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s}}", "name", "shared", "spec", "path", "/srv"));
        assert_string_equal(finish(state), "failed");
        assert_non_null(
                strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"), "host2"));
        assert_int_equal(call(state, "GET", "/api/v1/datastores/shared", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "id"), "same-everywhere");
}

static void network_is_applied_again_when_a_host_comes_back(void **data)
{
        struct state *state = *data;

        call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw"));
        assert_string_equal(finish(state), "succeeded");
        add_host(state, &state->agents[0], "host1");
        for (int i = 0; i < 200 && !agent_double_calls(&state->agents[0], "PUT /agent/v1/switches/sw"); i++)
                loop_iterate(state->loop, 50);
        assert_int_equal(agent_double_calls(&state->agents[0], "PUT /agent/v1/switches/sw"), 1);
}

static void created_machine_runs_where_it_was_asked_for(void **data)
{
        struct state *state = *data;
        json_t *nic;

        set_the_stage(state);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "power"), "running");
        assert_string_equal(json_text(json_status(state->body), "host"), "host1");
        nic = json_array_get(json_object_get(json_spec(state->body), "nics"), 0);
        assert_memory_equal(json_text(nic, "mac"), "52:54:00:", 9);
}

static void machine_that_cannot_be_placed_leaves_nothing(void **data)
{
        struct state *state = *data;

        call(state, "POST", "/api/v1/vms", vm_document("web"));
        assert_string_equal(finish(state), "failed");
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 404);
}

static void mac_address_is_given_once(void **data)
{
        struct state *state = *data;
        json_t *vm = vm_document("other");
        char mac[32];

        set_the_stage(state);
        call(state, "GET", "/api/v1/vms/web", NULL);
        snprintf(mac, sizeof(mac), "%s",
                json_text(json_array_get(json_object_get(json_spec(state->body), "nics"), 0), "mac"));
        json_object_set_new(
                json_array_get(json_object_get(json_spec(vm), "nics"), 0), "mac", json_string(mac));
        assert_int_equal(call(state, "POST", "/api/v1/vms", vm), 409);
}

static bool check_fails(struct state *state)
{
        refresh_all(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate",
                                 json_pack("{s:s, s:b}", "to", "host2", "check", 1)),
                200);
        return json_is_false(json_object_get(state->body, "ok"));
}

static void check_names_what_stands_in_the_way(void **data)
{
        struct state *state = *data;
        json_t *check;
        size_t i, n_bad = 0;

        set_the_stage(state);
        /* For good: a host.sync that is still on its way must not bring it back. */
        state->agents[1].shared_id = "another-file-system";
        json_object_del(state->agents[1].datastores, "shared");
        wait_until(state, check_fails); /* a report asked for earlier may still come in */
        json_array_foreach (json_object_get(state->body, "checks"), i, check)
                if (!json_is_true(json_object_get(check, "ok"))) {
                        assert_string_equal(json_text(check, "code"), "datastore");
                        n_bad++;
                }
        assert_int_equal(n_bad, 1);
        call(state, "POST", "/api/v1/vms/web/migrate", json_pack("{s:s}", "to", "host2"));
        assert_string_equal(finish(state), "failed");
        assert_string_equal(
                json_text(json_object_get(json_status(state->body), "error"), "code"), "check-failed");
}

static void migration_is_followed_to_its_result(void **data)
{
        struct state *state = *data;
        json_t *result, *spec;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        spec = json_object_get(state->agents[0].migration, "spec");
        assert_string_equal(
                json_text(json_object_get(spec, "destination"), "address"), state->agents[1].address);
        assert_int_equal(json_integer_value(json_object_get(spec, "max_pause_ms")), 300);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        result = json_object_get(json_status(state->body), "result");
        assert_int_equal(json_integer_value(json_object_get(result, "total_ms")), 1500);
        assert_string_equal(json_text(result, "from"), "host1");
        assert_string_equal(json_text(result, "to"), "host2");
        assert_non_null(json_object_get(result, "bytes_duplicate"));
        call(state, "GET", "/api/v1/vms/web", NULL);
        assert_string_equal(json_text(json_status(state->body), "host"), "host2");
}

static void convergence_policy_reaches_the_source_as_it_was_given(void **data)
{
        struct state *state = *data;
        json_t *policy =
                json_pack("[{s:s, s:i}, {s:s}]", "step", "pause", "max_ms", 2000, "step", "throttle");
        char path[128];

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate",
                                 json_pack("{s:i, s:O}", "max_pause_ms", 2000, "converge", policy)),
                422); /* it would raise nothing */
        begin_migration(state, path);
        assert_null(json_object_get(json_object_get(state->agents[0].migration, "spec"), "converge"));
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        json_decref(TAKE_PTR(state->agents[0].migration));
        json_decref(TAKE_PTR(state->agents[1].migration));
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/web/migrate", json_pack("{s:O}", "converge", policy)), 202);
        for (int i = 0; i < 500 && !state->agents[1].migration; i++)
                loop_iterate(state->loop, 20);
        assert_true(json_equal(
                json_object_get(json_object_get(state->agents[1].migration, "spec"), "converge"), policy));
        json_decref(policy);
}

static void migration_survives_a_restart_of_the_manager(void **data)
{
        struct state *state = *data;
        char path[128], asked[128];

        set_the_stage(state);
        begin_migration(state, path);
        snprintf(asked, sizeof(asked), "GET /agent/v1/migrations/%s",
                json_text(state->agents[0].migration, "id"));
        for (int i = 0; i < 500 && !agent_double_calls(&state->agents[0], asked); i++)
                loop_iterate(state->loop, 20);
        stop_manager(state);
        start_manager(state);
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(agent_double_calls(&state->agents[0], "POST /agent/v1/migrations"), 1);
}

static void failure_is_told_after_both_hosts_were_asked(void **data)
{
        struct state *state = *data;
        char path[128], asked[128], uid[64];

        set_the_stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        begin_migration(state, path);
        json_object_set_new(state->agents[0].migration, "phase", json_string("failed"));
        json_object_set_new(state->agents[0].migration, "error",
                json_pack("{s:s, s:s}", "code", "mover-failed", "detail", "the link broke"));
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(
                json_text(json_object_get(json_status(state->body), "error"), "code"), "mover-failed");
        snprintf(asked, sizeof(asked), "GET /agent/v1/vms/%s", uid);
        assert_int_equal(agent_double_calls(&state->agents[0], asked), 1);
        assert_int_equal(agent_double_calls(&state->agents[1], asked), 1);
}

static void silent_source_makes_the_task_wait(void **data)
{
        struct state *state = *data;
        json_t *progress;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        agent_double_stop(&state->agents[0]);
        for (int i = 0; i < 500; i++) {
                call(state, "GET", path, NULL);
                progress = json_object_get(json_status(state->body), "progress");
                if (!strcmp(json_text(progress, "phase"), "waiting-for-peer"))
                        break;
                loop_iterate(state->loop, 20);
        }
        assert_string_equal(task_state(state), "running");
        assert_string_equal(json_text(progress, "phase"), "waiting-for-peer");
        /* The destination has it after all, and says so. */
        state->agents[1].migration = json_pack("{s:s, s:n, s:n}", "phase", "done", "result", "error");
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void cancel_goes_through_the_source(void **data)
{
        struct state *state = *data;
        char path[128], cancel[160];

        set_the_stage(state);
        begin_migration(state, path);
        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        assert_int_equal(call(state, "POST", cancel, NULL), 202);
        assert_string_equal(finish(state), "cancelled");
        call(state, "GET", "/api/v1/vms/web", NULL);
        assert_string_equal(json_text(json_status(state->body), "host"), "host1");
}

static void second_task_for_a_machine_is_refused_by_name(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 409);
        assert_string_equal(state->code, "busy");
}

static void migrations_beyond_the_limit_of_a_host_wait_by_priority(void **data)
{
        struct state *state = *data;
        json_t *vm = vm_document("db");
        char path[128];

        set_the_stage(state);
        json_object_set_new(vm, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
        state->config.queue_limits.host = 1;
        begin_migration(state, path);
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/db/migrate", json_pack("{s:s}", "priority", "high")), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        for (int i = 0; i < 20; i++)
                assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_string_equal(task_state(state), "queued");
        complete_migration(state);
        wait_status(state, path, "state", "running");
}

static void machine_on_two_hosts_raises_an_alert(void **data)
{
        struct state *state = *data;
        char uid[64];

        set_the_stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        json_object_set_new(
                state->agents[1].vms, uid, json_deep_copy(json_object_get(state->agents[0].vms, uid)));
        for (uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;
                clock_now_ms(loop_clock(state->loop)) < end;) {
                assert_int_equal(call(state, "GET", "/api/v1/alerts", NULL), 200);
                if (json_array_size(json_object_get(state->body, "items")))
                        break;
                loop_iterate(state->loop, 20);
        }
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 1);
        assert_string_equal(
                json_text(json_spec(json_array_get(json_object_get(state->body, "items"), 0)), "object"),
                "vm/web");
}

static void machine_of_a_lost_host_is_unknown_not_stopped(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        agent_double_stop(&state->agents[0]);
        wait_status(state, "/api/v1/hosts/host1", "state", "unreachable");
        wait_status(state, "/api/v1/vms/web", "power", "unknown");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/start", NULL), 409);
        assert_string_equal(state->code, "owner-unknown");
}

static void stale_if_match_is_refused(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        snprintf(state->headers[1], sizeof(state->headers[1]), "If-Match: \"1\"");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 412);
}

static void repeated_key_gets_the_same_task(void **data)
{
        struct state *state = *data;
        char name[64];

        snprintf(state->headers[1], sizeof(state->headers[1]), "Idempotency-Key: abc");
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw")), 202);
        snprintf(name, sizeof(name), "%s", json_text(state->body, "name"));
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw")), 202);
        assert_string_equal(json_text(state->body, "name"), name);
        assert_int_equal(call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "other")), 409);
}

static void unknown_field_is_refused_by_name(void **data)
{
        struct state *state = *data;

        assert_int_equal(call(state, "POST", "/api/v1/vms",
                                 json_pack("{s:s, s:{s:I, s:i}}", "name", "x", "spec", "memory_bytes",
                                         (json_int_t)64 << 20, "cpuz", 1)),
                422);
}

#define N_WATCHERS 60 /* more than have their turn at once */

static void count_host_events(void *userdata, const char *line)
{
        *(unsigned int *)userdata += !strcmp(line, "event: host");
}

static void ignore_end(void *userdata, int status, json_t *body, struct error *error)
{
}

static void each_of_many_watchers_hears_of_a_change_once(void **data)
{
        struct state *state = *data;
        unsigned int heard[N_WATCHERS] = {}, n = 0;
        struct http_call *calls[N_WATCHERS];

        for (size_t i = 0; i < N_WATCHERS; i++)
                assert_int_equal(http_client_call(state->client,
                                         &(struct http_call_spec){.method = "GET",
                                                 .address = state->address,
                                                 .peer_name = "manager.drover",
                                                 .path = i % 2 ? "/api/v1/events?since=0"
                                                               : "/api/v1/events?kinds=host,vm&since=0",
                                                 .headers = (const char *const[]){state->headers[0], NULL},
                                                 .timeout_ms = WAIT_MS,
                                                 .line = count_host_events},
                                         ignore_end, &heard[i], &calls[i], NULL),
                        0);
        assert_int_equal(call(state, "POST", "/api/v1/hosts",
                                 json_pack("{s:s, s:s}", "name", "late", "address", "192.0.2.1")),
                201);
        for (int i = 0; i < 1000 && n < N_WATCHERS; i++) {
                loop_iterate(state->loop, 20);
                n = 0;
                for (size_t k = 0; k < N_WATCHERS; k++)
                        n += heard[k] > 0;
        }
        for (int i = 0; i < 20; i++)
                loop_iterate(state->loop, 10);
        for (size_t k = 0; k < N_WATCHERS; k++) {
                assert_int_equal(heard[k], 1);
                http_call_cancel(calls[k]);
        }
}

static size_t n_syncs(struct state *state)
{
        json_t *task;
        size_t i, n = 0;

        assert_int_equal(call(state, "GET", "/api/v1/tasks?limit=1000", NULL), 200);
        json_array_foreach (json_object_get(state->body, "items"), i, task)
                n += !strcmp(json_text(json_spec(task), "action"), "host.sync");
        return n;
}

static void connect_again(struct state *state)
{
        stop_manager(state);
        start_manager(state);
        wait_status(state, "/api/v1/hosts/host1", "state", "connected");
        wait_status(state, "/api/v1/hosts/host2", "state", "connected");
}

/* Nothing has to be applied to a host that has it all; one that has lost something gets it again. */
static void host_that_is_in_line_is_left_alone_after_a_restart(void **data)
{
        struct state *state = *data;
        size_t before;

        set_the_stage(state);
        before = n_syncs(state);
        connect_again(state);
        assert_int_equal(n_syncs(state), before);
        json_object_del(state->agents[0].datastores, "shared");
        connect_again(state);
        assert_int_equal(n_syncs(state), before + 1);
}

static bool second_has_no_uplink(struct state *state)
{
        const json_t *sw = json_object_get(state->agents[1].networks, "switches/sw");

        return json_is_null(json_object_get(sw, "uplink")) && json_is_null(json_object_get(sw, "mtu"));
}

/* That something is not wanted any more does not show in what a host reports. */
static void host_that_was_away_learns_what_is_not_wanted_any_more(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        call(state, "PUT", "/api/v1/switches/sw",
                json_pack("{s:{s:s, s:i}}", "spec", "uplink", "eth7", "mtu", 9000));
        assert_string_equal(finish(state), "succeeded");
        assert_false(second_has_no_uplink(state));
        agent_double_stop(&state->agents[1]);
        wait_status(state, "/api/v1/hosts/host2", "state", "unreachable");
        call(state, "PUT", "/api/v1/switches/sw", json_pack("{s:{}}", "spec"));
        assert_string_equal(finish(state), "succeeded");
        agent_double_restart(&state->agents[1]);
        wait_until(state, second_has_no_uplink);
}

/* The manager could not hear the answers: that says nothing of the host. */
static void host_is_not_lost_while_the_manager_is_busy(void **data)
{
        struct state *state = *data;
        char host1[64];

        set_the_stage(state);
        snprintf(host1, sizeof(host1), "%s", state->agents[0].uid);
        state->agents[0].block_ms = 2700; /* more than a heartbeat may take */
        state->agents[0].n_blocks = 2;
        while (state->agents[0].n_blocks || !inventory_connected(state->manager->inventory, host1)) {
                assert_true(inventory_connected(state->manager->inventory, host1));
                loop_iterate(state->loop, 20);
        }
        for (int i = 0; i < 20; i++)
                loop_iterate(state->loop, 20);
        assert_true(inventory_connected(state->manager->inventory, host1));
        assert_true(state->manager->metrics.loop_longest_seconds > 2.5);
}

/* The same answer as from the store, in both directions and from any place on. */
static void hosts_and_vms_are_listed_in_pages_by_name(void **data)
{
        _cleanup_json_ json_t *listed = NULL;
        struct state *state = *data;

        set_the_stage(state);
        assert_int_equal(call(state, "GET", "/api/v1/hosts?limit=1", NULL), 200);
        assert_string_equal(json_text(state->body, "continue"), "host1");
        assert_int_equal(call(state, "GET", "/api/v1/hosts?limit=1&continue=host1", NULL), 200);
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "items"), 0), "name"), "host2");
        assert_true(json_is_null(json_object_get(state->body, "continue")));
        assert_int_equal(call(state, "GET", "/api/v1/hosts?order=desc&limit=1", NULL), 200);
        assert_string_equal(json_text(state->body, "continue"), "host2");
        assert_int_equal(call(state, "GET", "/api/v1/hosts?order=desc&continue=host2", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 1);
        assert_int_equal(call(state, "GET", "/api/v1/vms?host=host1&power=running", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 1);
        listed = json_incref(json_array_get(json_object_get(state->body, "items"), 0));
        assert_true(json_is_null(json_object_get(state->body, "continue")));
        assert_true(json_is_integer(json_object_get(state->body, "revision")));
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        assert_true(json_equal(state->body, listed));
        assert_int_equal(call(state, "GET", "/api/v1/vms?fields=name", NULL), 200);
        assert_int_equal(json_object_size(json_array_get(json_object_get(state->body, "items"), 0)), 1);
        assert_int_equal(call(state, "GET", "/api/v1/vms?host=host2", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "items")), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(request_without_token_is_refused),
                TEST(reader_may_read_and_no_more),
                TEST(removed_token_works_no_more),
                TEST(wrong_enrolment_token_is_refused),
                TEST(enrolment_token_works_once),
                TEST(bad_request_for_a_certificate_keeps_the_token),
                TEST(enrolled_host_connects_over_mutual_tls),
                TEST(each_start_has_a_higher_epoch),
                TEST(shared_datastore_has_one_id_on_all_hosts),
                TEST(network_is_applied_again_when_a_host_comes_back),
                TEST(created_machine_runs_where_it_was_asked_for),
                TEST(machine_that_cannot_be_placed_leaves_nothing),
                TEST(mac_address_is_given_once),
                TEST(check_names_what_stands_in_the_way),
                TEST(migration_is_followed_to_its_result),
                TEST(convergence_policy_reaches_the_source_as_it_was_given),
                TEST(migration_survives_a_restart_of_the_manager),
                TEST(failure_is_told_after_both_hosts_were_asked),
                TEST(silent_source_makes_the_task_wait),
                TEST(cancel_goes_through_the_source),
                TEST(second_task_for_a_machine_is_refused_by_name),
                TEST(migrations_beyond_the_limit_of_a_host_wait_by_priority),
                TEST(machine_on_two_hosts_raises_an_alert),
                TEST(machine_of_a_lost_host_is_unknown_not_stopped),
                TEST(stale_if_match_is_refused),
                TEST(repeated_key_gets_the_same_task),
                TEST(unknown_field_is_refused_by_name),
                TEST(each_of_many_watchers_hears_of_a_change_once),
                TEST(host_that_is_in_line_is_left_alone_after_a_restart),
                TEST(host_that_was_away_learns_what_is_not_wanted_any_more),
                TEST(host_is_not_lost_while_the_manager_is_busy),
                TEST(hosts_and_vms_are_listed_in_pages_by_name),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

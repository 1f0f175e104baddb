/* SPDX-License-Identifier: Apache-2.0 */
#include "manager_rig.h"

#include "base/alloc.h"
#include "base/log.h"

void start_manager(struct state *state)
{
        struct sock_address address;
        int fd = -1;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &address, NULL), 0);
        assert_int_equal(sock_listen_tcp(&address, 16, &fd, NULL), 0);
        assert_int_equal(sock_local_address(fd, &address), 0);
        sock_address_format(&address, state->address);
        assert_int_equal(leadership_new(&state->config, state->loop, fd, &state->leadership, NULL), 0);
        state->manager = leadership_manager(state->leadership);
        assert_non_null(state->manager);
        start_client(state, state->manager);
}

void start_client(struct state *state, const struct manager *manager)
{
        assert_int_equal(
                http_client_new(state->loop, &(struct http_client_config){.ca_pem = manager->ca.ca_pem},
                        &state->client, NULL),
                0);
}

void stop_manager(struct state *state)
{
        http_client_free(TAKE_PTR(state->client));
        state->manager = NULL;
        leadership_free(TAKE_PTR(state->leadership));
}

void on_reply(void *userdata, int status, json_t *body, struct error *error)
{
        struct state *state = userdata;

        json_decref(state->body);
        state->body = json_incref(body);
        state->status = status;
        snprintf(state->code, sizeof(state->code), "%s", error ? error_code_to_string(error->code) : "");
        state->answered = true;
}

int call(struct state *state, const char *method, const char *path, json_t *body)
{
        const char *headers[] = {state->headers[0], *state->headers[1] ? state->headers[1] : NULL, NULL};

        state->answered = false;
        assert_int_equal(http_client_call(state->client,
                                 &(struct http_call_spec){.method = method,
                                         .address = state->address,
                                         .peer_name = "manager.drover",
                                         .path = path,
                                         .body = body,
                                         .headers = headers,
                                         .timeout_ms = WAIT_MS},
                                 on_reply, state, NULL, NULL),
                0);
        assert_int_equal(loop_wait(state->loop, &state->answered, WAIT_MS), 0);
        json_decref(body);
        return state->status;
}

const char *task_state(struct state *state)
{
        return json_text(json_status(state->body), "state");
}

const char *finish(struct state *state)
{
        char path[128];

        assert_int_equal(state->status, 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        for (uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;
                clock_now_ms(loop_clock(state->loop)) < end;) {
                assert_int_equal(call(state, "GET", path, NULL), 200);
                if (!json_is_null(json_object_get(json_status(state->body), "finished")))
                        return task_state(state);
                loop_iterate(state->loop, 20);
        }
        fail_msg("task %s did not end: %s", json_text(state->body, "name"), task_state(state));
        return NULL;
}

void wait_status(struct state *state, const char *path, const char *key, const char *value)
{
        for (uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;
                clock_now_ms(loop_clock(state->loop)) < end;) {
                assert_int_equal(call(state, "GET", path, NULL), 200);
                if (!strcmp(json_text(json_status(state->body), key), value))
                        return;
                loop_iterate(state->loop, 20);
        }
        fail_msg("%s: %s did not become %s but is %s (%s)", path, key, value,
                json_text(json_status(state->body), key), json_text(json_status(state->body), "message"));
}

void add_host(struct state *state, struct agent_double *agent, const char *name)
{
        char path[96], token[256];

        assert_int_equal(call(state, "POST", "/api/v1/hosts",
                                 json_pack("{s:s, s:s}", "name", name, "address", agent->address)),
                201);
        snprintf(token, sizeof(token), "%s", json_text(state->body, "enrol_token"));
        assert_int_equal(
                call(state, "POST", "/api/v1/enrol",
                        json_pack("{s:s, s:s}", "token", strrchr(token, '.') + 1, "csr", agent->csr_pem)),
                200);
        agent_double_serve(agent, json_text(state->body, "host_uid"), json_text(state->body, "certificate"),
                json_text(state->body, "ca"));
        snprintf(path, sizeof(path), "/api/v1/hosts/%s", name);
        wait_status(state, path, "state", "connected");
}

int setup(void **ret)
{
        return setup_on(NULL, ret);
}

int setup_on(const char *store, void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        log_init("test", getenv("TEST_DEBUG") ? LOG_LEVEL_DEBUG : LOG_LEVEL_ERROR);
        folder_make(&state->folder);
        assert_int_equal(config_load("/nonexistent", false, &state->config, NULL), 0);
        free(state->config.state_dir);
        state->config.state_dir = strdup(state->folder.path);
        state->config.program = getenv("DROVER_MANAGER_PROGRAM"); /* passwords are checked by the real one */
        assert_int_equal(alloc_replace(&state->config.name, "manager1"), 0);
        assert_int_equal(alloc_replace(&state->config.store, store), 0);
        assert_int_equal(manager_init(&state->config, (const char *const[]){"127.0.0.1", NULL}, "admin",
                                 state->secret, NULL),
                0);
        snprintf(state->headers[0], sizeof(state->headers[0]), "Authorization: Bearer %s", state->secret);
        assert_int_equal(loop_new(&state->loop), 0);
        start_manager(state);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                agent_double_init(&state->agents[i], state->loop);
        *ret = state;
        return 0;
}

int teardown(void **data)
{
        struct state *state = *data;

        stop_manager(state); /* also one that stopped already */
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                agent_double_deinit(&state->agents[i]);
        loop_free(state->loop);
        json_decref(state->body);
        config_deinit(&state->config);
        folder_remove(&state->folder);
        free(state);
        return 0;
}

json_t *vm_document(const char *name)
{
        return json_pack("{s:s, s:{s:I, s:s, s:[{s:s}]}, s:b}", "name", name, "spec", "memory_bytes",
                (json_int_t)64 << 20, "datastore", "shared", "nics", "port_group", "net", "start", 1);
}

void set_the_stage(struct state *state)
{
        json_t *vm = vm_document("web");

        add_host(state, &state->agents[0], "host1");
        add_host(state, &state->agents[1], "host2");
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s}}", "name", "shared", "spec", "path", "/srv"));
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/switches", json_pack("{s:s}", "name", "sw"));
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/port-groups",
                json_pack("{s:s, s:{s:s}}", "name", "net", "spec", "switch", "sw"));
        assert_string_equal(finish(state), "succeeded");
        json_object_set_new(vm, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

const char *vm_uid(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        return json_text(state->body, "uid");
}

void complete_migration(struct state *state)
{
        struct agent_double *from = &state->agents[0], *to = &state->agents[1];
        char uid[64];

        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        json_object_set(to->vms, uid, json_object_get(from->vms, uid));
        json_object_del(from->vms, uid);
        json_object_set_new(from->migration, "phase", json_string("done"));
        json_object_set_new(from->migration, "result",
                json_pack("{s:i, s:i, s:i, s:s}", "total_ms", 1500, "pause_ms", 7, "passes", 3, "cipher",
                        "TLS"));
}

void begin_migration(struct state *state, char ret_path[static 128])
{
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate", json_object()), 202);
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
        for (int i = 0; i < 500 && !state->agents[0].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[0].migration);
}

void resume_following(struct state *state, const char *path)
{
        assert_int_equal(call(state, "GET", path, NULL), 200);
        state->status = 202;
}

void refresh_all(struct state *state)
{
        struct inventory *inventory = state->manager->inventory;
        uint64_t began = clock_now_ms(loop_clock(state->loop));

        inventory_refresh(inventory, NULL);
        while (!inventory_fresh(inventory, NULL, began)) {
                assert_true(clock_now_ms(loop_clock(state->loop)) < began + WAIT_MS);
                loop_iterate(state->loop, 20);
        }
}

void wait_until(struct state *state, bool (*is)(struct state *state))
{
        uint64_t end = clock_now_ms(loop_clock(state->loop)) + WAIT_MS;

        while (!is(state)) {
                assert_true(clock_now_ms(loop_clock(state->loop)) < end);
                loop_iterate(state->loop, 20);
        }
}

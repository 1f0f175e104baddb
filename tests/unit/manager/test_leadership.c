/* SPDX-License-Identifier: Apache-2.0 */

/* Two managers over one PostgreSQL database, in one process: who leads, what the other one answers, and that tasks go on where
 * they were. */

#include "manager_rig.h"
#include "store_places.h"

#include <errno.h>

#include "base/alloc.h"

#define TAKEOVER_MAX_MS 10000
#define PATIENCE 3 /* a machine that does other things as well takes so many times as long */

/* The manager of the rig leads; this one stands by. */
struct second {
        struct folder folder;
        struct config config;
        struct leadership *leadership;
        char address[64];
};

struct stage {
        struct state *state;
        struct second second;
};

static void set_store(struct config *config)
{
        char url[256];

        postgresql_server_url(&store_place_server, "drover", "drover", url);
        assert_int_equal(alloc_replace(&config->store, url), 0);
}

static void start_second(struct stage *stage)
{
        struct sock_address address;
        int fd = -1;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &address, NULL), 0);
        assert_int_equal(sock_listen_tcp(&address, 16, &fd, NULL), 0);
        assert_int_equal(sock_local_address(fd, &address), 0);
        sock_address_format(&address, stage->second.address);
        assert_int_equal(leadership_new(&stage->second.config, stage->state->loop, fd,
                                 &stage->second.leadership, NULL),
                0);
}

/* The second installation has the first one's authority and a certificate of its own. */
static void make_second(struct stage *stage)
{
        struct second *second = &stage->second;
        char ca[96];

        folder_make(&second->folder);
        assert_int_equal(config_load("/nonexistent", false, &second->config, NULL), 0);
        assert_int_equal(alloc_replace(&second->config.state_dir, second->folder.path), 0);
        assert_int_equal(alloc_replace(&second->config.name, "manager2"), 0);
        set_store(&second->config);
        snprintf(ca, sizeof(ca), "%s/pki", stage->state->folder.path);
        assert_int_equal(
                manager_join(&second->config, ca, (const char *const[]){"127.0.0.1", NULL}, NULL), 0);
        start_second(stage);
}

static int stage_setup(void **ret)
{
        struct stage *stage = calloc(1, sizeof(*stage));
        char url[256];

        store_place_postgresql.clear(NULL);
        postgresql_server_url(&store_place_server, "drover", "drover", url);
        assert_int_equal(setup_on(url, (void **)&stage->state), 0);
        make_second(stage);
        *ret = stage;
        return 0;
}

static int stage_teardown(void **data)
{
        struct stage *stage = *data;

        leadership_free(stage->second.leadership);
        teardown((void **)&stage->state);
        config_deinit(&stage->second.config);
        folder_remove(&stage->second.folder);
        free(stage);
        return 0;
}

/* From here on the rig's calls go to the second manager. */
static void call_second(struct stage *stage)
{
        snprintf(stage->state->address, sizeof(stage->state->address), "%s", stage->second.address);
}

static void wait_for_second(struct stage *stage)
{
        uint64_t end = clock_now_ms(&clock_system) + (uint64_t)PATIENCE * TAKEOVER_MAX_MS;

        while (!leadership_manager(stage->second.leadership)) {
                assert_true(clock_now_ms(&clock_system) < end);
                loop_iterate(stage->state->loop, 20);
        }
}

static void the_standby_names_the_leader_and_serves_nothing_else(void **data)
{
        struct stage *stage = *data;
        struct state *state = stage->state;

        assert_null(leadership_manager(stage->second.leadership));
        call_second(stage);
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 503);
        assert_string_equal(state->code, "not-leading");
        assert_non_null(strstr(json_text(state->body, "detail"), "manager2 stands by: manager1 leads"));
        assert_int_equal(call(state, "POST", "/api/v1/enrol", json_object()), 503);
        assert_int_equal(call(state, "GET", "/readyz", NULL), 503);
        assert_int_equal(call(state, "GET", "/healthz", NULL), 200);
        assert_int_equal(call(state, "GET", "/version", NULL), 200);
        assert_string_equal(json_text(state->body, "leader"), "manager1");
}

static void a_leader_that_ends_hands_over_at_once(void **data)
{
        struct stage *stage = *data;
        uint64_t epoch = stage->state->manager->epoch;
        char resigned[16];

        stop_manager(stage->state);
        postgresql_server_ask(
                &store_place_server, "SELECT beat = 0 FROM drover.state", resigned, sizeof(resigned));
        assert_string_equal(resigned, "t"); /* nobody has to wait for the lease */
        wait_for_second(stage);
        assert_true(leadership_manager(stage->second.leadership)->epoch > epoch);
}

static void a_running_task_goes_on_at_the_next_leader(void **data)
{
        struct stage *stage = *data;
        struct state *state = stage->state;
        uint64_t epoch = state->manager->epoch;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        stop_manager(state);
        wait_for_second(stage);
        call_second(stage);
        start_client(state, leadership_manager(stage->second.leadership));
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        /* The agents were told the later epoch. */
        assert_true(strtoull(state->agents[0].epoch, NULL, 10) > epoch);
}

static void wait_until_first(struct stage *stage, bool leads, uint64_t at_most_ms)
{
        uint64_t end = clock_now_ms(&clock_system) + PATIENCE * at_most_ms;

        while (leads != (leadership_manager(stage->state->leadership) != NULL)) {
                assert_true(clock_now_ms(&clock_system) < end);
                loop_iterate(stage->state->loop, 20);
        }
}

static void a_leader_that_was_replaced_steps_down(void **data)
{
        struct stage *stage = *data;
        struct state *state = stage->state;

        postgresql_server_sql(&store_place_server, "drover",
                "UPDATE drover.state SET term = term + 1, beat = 1, holder = 'x', server = 'manager3'");
        wait_until_first(stage, false, STORE_BEAT_MS + 1000);
        /* Whoever comes next is found at the same address. */
        assert_int_equal(call(state, "GET", "/api/v1/vms", NULL), 503);
        assert_string_equal(state->code, "not-leading");
}

static void a_leader_without_its_store_stops_before_another_may_begin_and_leads_again(void **data)
{
        struct stage *stage = *data;
        uint64_t began = clock_now_ms(&clock_system);

        leadership_free(TAKE_PTR(stage->second.leadership));
        postgresql_server_kill(&store_place_server);
        wait_until_first(stage, false, STORE_LEASE_MS + STORE_BEAT_MS);
        assert_true(clock_now_ms(&clock_system) - began >= STORE_LEASE_MS - 1000 - STORE_BEAT_MS);
        assert_int_equal(call(stage->state, "GET", "/readyz", NULL), 503);
        assert_non_null(strstr(json_text(stage->state->body, "detail"), "its store cannot be reached"));
        assert_null(strstr(json_text(stage->state->body, "detail"), "postgresql://"));
        postgresql_server_restart(&store_place_server);
        wait_until_first(stage, true, 2 * STORE_LEASE_MS);
        assert_int_equal(call(stage->state, "GET", "/readyz", NULL), 200);
}

static void a_manager_that_starts_before_its_store_waits_for_it(void **data)
{
        struct stage *stage = *data;
        struct state *state = stage->state;

        leadership_free(TAKE_PTR(stage->second.leadership));
        leadership_free(TAKE_PTR(state->leadership));
        postgresql_server_kill(&store_place_server);
        start_second(stage);
        call_second(stage);
        assert_int_equal(call(state, "GET", "/readyz", NULL), 503);
        assert_non_null(strstr(json_text(state->body, "detail"), "its store cannot be reached"));
        postgresql_server_restart(&store_place_server);
        wait_for_second(stage);
        assert_int_equal(call(state, "GET", "/readyz", NULL), 200);
}

static void a_further_manager_needs_a_shared_store_and_the_first_ones_authority(void **data)
{
        struct stage *stage = *data;
        struct config config = stage->second.config;
        _cleanup_error_ struct error *error = NULL, *missing = NULL, *again = NULL;
        static const char *const none[] = {NULL};
        char fresh[96];

        config.store = NULL;
        assert_true(manager_join(&config, stage->state->folder.path, none, &error) < 0);
        assert_int_equal(error->code, ERROR_BAD_REQUEST);
        assert_true(manager_join(&stage->second.config, stage->state->folder.path, none, &again) < 0);
        assert_int_equal(again->code, ERROR_EXISTS);
        config = stage->second.config;
        snprintf(fresh, sizeof(fresh), "%s/fresh", stage->second.folder.path);
        config.state_dir = fresh;
        assert_true(manager_join(&config, "/nonexistent", none, &missing) < 0);
        assert_non_null(strstr(missing->hint, "ca.key"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define STAGE_TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)
                STAGE_TEST(the_standby_names_the_leader_and_serves_nothing_else),
                STAGE_TEST(a_leader_that_ends_hands_over_at_once),
                STAGE_TEST(a_running_task_goes_on_at_the_next_leader),
                STAGE_TEST(a_leader_that_was_replaced_steps_down),
                STAGE_TEST(a_leader_without_its_store_stops_before_another_may_begin_and_leads_again),
                STAGE_TEST(a_manager_that_starts_before_its_store_waits_for_it),
                STAGE_TEST(a_further_manager_needs_a_shared_store_and_the_first_ones_authority),
        };
        int failed;

        if (!store_place_postgresql.begin())
                return 77; /* meson: skipped */
        failed = cmocka_run_group_tests(tests, NULL, NULL);
        store_place_postgresql.end();
        return failed;
}

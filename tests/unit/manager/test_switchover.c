/* SPDX-License-Identifier: Apache-2.0 */

/* Permits for final pauses: one at a time on a link, also when the manager starts again. */

#include "manager_rig.h"

#define LOOK_MS 1500 /* some rounds of the step that follows a migration */

/* "web" on its way from host1 to host2, "db" the other way: they share both links. Paths of their tasks. */
static void two_migrations(struct state *state, char ret_web[static 128], char ret_db[static 128])
{
        json_t *vm = vm_document("db");

        state->agents[0].coordinates = state->agents[1].coordinates = true;
        set_the_stage(state);
        json_object_set_new(vm, "host", json_string("host2"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
        begin_migration(state, ret_web);
        assert_int_equal(call(state, "POST", "/api/v1/vms/db/migrate", NULL), 202);
        snprintf(ret_db, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
        for (int i = 0; i < 500 && !state->agents[1].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[1].migration);
}

static void run_for(struct state *state, uint64_t ms)
{
        for (uint64_t end = clock_now_ms(loop_clock(state->loop)) + ms;
                clock_now_ms(loop_clock(state->loop)) < end;)
                loop_iterate(state->loop, 20);
}

static bool first_is_permitted(struct state *state)
{
        return state->agents[0].n_permits > 0;
}

static bool second_is_permitted(struct state *state)
{
        return state->agents[1].n_permits > 0;
}

static bool second_is_told_to_wait(struct state *state)
{
        return state->agents[1].n_waits > 0;
}

static void agent_that_can_ask_is_told_to(void **data)
{
        struct state *state = *data;
        char web[128], db[128];
        const json_t *spec;

        two_migrations(state, web, db);
        spec = json_object_get(state->agents[0].migration, "spec");
        assert_int_equal(
                json_integer_value(json_object_get(json_object_get(spec, "switchover"), "patience_ms")),
                15000);
}

static void agent_of_an_earlier_version_is_not(void **data)
{
        struct state *state = *data;
        char web[128];

        set_the_stage(state);
        begin_migration(state, web);
        assert_null(json_object_get(json_object_get(state->agents[0].migration, "spec"), "switchover"));
}

static void second_one_waits_until_the_first_has_passed(void **data)
{
        struct state *state = *data;
        char web[128], db[128];

        two_migrations(state, web, db);
        agent_double_switchover(&state->agents[0], "asked");
        wait_until(state, first_is_permitted);
        agent_double_switchover(&state->agents[1], "asked");
        wait_until(state, second_is_told_to_wait);
        run_for(state, LOOK_MS);
        assert_int_equal(state->agents[1].n_permits, 0);
        json_object_set_new(state->agents[0].migration, "phase", json_string("settling"));
        wait_until(state, second_is_permitted);
        assert_int_equal(state->agents[0].n_permits, 1);
}

static void permit_that_lapsed_goes_to_the_next(void **data)
{
        struct state *state = *data;
        char web[128], db[128];

        two_migrations(state, web, db);
        agent_double_switchover(&state->agents[0], "asked");
        wait_until(state, first_is_permitted);
        agent_double_switchover(&state->agents[1], "asked");
        wait_until(state, second_is_told_to_wait);
        agent_double_switchover(&state->agents[0], "closed");
        wait_until(state, second_is_permitted);
}

static void permit_is_remembered_over_a_restart(void **data)
{
        struct state *state = *data;
        char web[128], db[128];

        two_migrations(state, web, db);
        agent_double_switchover(&state->agents[0], "asked");
        wait_until(state, first_is_permitted);
        stop_manager(state);
        start_manager(state);
        agent_double_switchover(&state->agents[1], "asked");
        wait_until(state, second_is_told_to_wait);
        run_for(state, LOOK_MS);
        assert_int_equal(state->agents[1].n_permits, 0);
        json_object_set_new(state->agents[0].migration, "phase", json_string("settling"));
        wait_until(state, second_is_permitted);
}

/* It may have gone on alone while there was no manager. */
static void nothing_is_permitted_beside_a_migration_that_was_not_heard_of(void **data)
{
        struct state *state = *data;
        char web[128], db[128];

        two_migrations(state, web, db);
        stop_manager(state);
        agent_double_stop(&state->agents[0]);
        agent_double_switchover(&state->agents[1], "asked");
        start_manager(state);
        wait_until(state, second_is_told_to_wait);
        run_for(state, LOOK_MS);
        assert_int_equal(state->agents[1].n_permits, 0);
        agent_double_restart(&state->agents[0]);
        agent_double_switchover(&state->agents[0], "closed");
        wait_until(state, second_is_permitted);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(agent_that_can_ask_is_told_to),
                TEST(agent_of_an_earlier_version_is_not),
                TEST(second_one_waits_until_the_first_has_passed),
                TEST(permit_that_lapsed_goes_to_the_next),
                TEST(permit_is_remembered_over_a_restart),
                TEST(nothing_is_permitted_beside_a_migration_that_was_not_heard_of),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

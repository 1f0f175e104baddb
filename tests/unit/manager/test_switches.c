/* SPDX-License-Identifier: Apache-2.0 */

/* Versions of distributed switches: which host has which, also when hosts are away and come back in the middle of a roll-out. */

#include "manager_rig.h"

#include "base/doc.h"
#include "manager/switch_versions.h"

/* --- The document alone */

static json_t *document(void)
{
        json_t *object = json_pack("{s:s, s:{s:s, s:i}, s:{s:{}}}", "name", "lan", "spec", "type",
                "distributed", "mtu", 1400, "status", "hosts");

        assert_int_equal(switch_versions_add(object), 0);
        json_object_set_new(json_object_get(object, "spec"), "mtu", json_integer(1500));
        assert_int_equal(switch_versions_add(object), 0);
        return object;
}

static void note(json_t *object, const char *host, int version, bool upgraded)
{
        _cleanup_json_ json_t *answer = json_pack("{s:i}", "version", version);

        assert_int_equal(switch_versions_note(object, host, answer, upgraded), 0);
}

static void only_an_upgrade_changes_the_version_of_a_host(void **data)
{
        _cleanup_json_ json_t *object = document();

        note(object, "host1", 1, false);
        assert_int_equal(switch_versions_wanted(object, "host1"), 1);
        note(object, "host1", 2, true);
        note(object, "host1", 1, false); /* an answer from before */
        assert_int_equal(switch_versions_wanted(object, "host1"), 2);
}

static void host_that_was_removed_gets_the_newest_when_it_comes_again(void **data)
{
        _cleanup_json_ json_t *object = document();

        note(object, "host1", 1, false);
        assert_true(switch_versions_forget(object, "host1"));
        assert_false(switch_versions_forget(object, "host1"));
        assert_int_equal(switch_versions_wanted(object, "host1"), 2);
}

static void number_and_spec_of_a_version_belong_together(void **data)
{
        _cleanup_json_ json_t *object = document(), *first = NULL, *lost = NULL;

        first = switch_body(object, "host1", 1);
        assert_int_equal(json_integer_value(json_object_get(first, "version")), 1);
        assert_int_equal(json_integer_value(json_object_get(first, "mtu")), 1400);
        json_object_del(json_object_get(json_status(object), "versions"), "1");
        lost = switch_body(object, "host1", 1);
        assert_int_equal(json_integer_value(json_object_get(lost, "version")), 2);
        assert_int_equal(json_integer_value(json_object_get(lost, "mtu")), 1500);
}

/* --- The whole manager */

static int version_on(const struct agent_double *agent)
{
        return (int)json_integer_value(
                json_object_get(json_object_get(agent->networks, "switches/lan"), "version"));
}

static int wanted(struct state *state, const char *host)
{
        assert_int_equal(call(state, "GET", "/api/v1/switches/lan", NULL), 200);
        return (int)json_integer_value(
                json_object_get(json_object_get(json_status(state->body), "wanted"), host));
}

/* Version 1 on both hosts, version 2 on none. */
static void make_two_versions(struct state *state)
{
        add_host(state, &state->agents[0], "host1");
        add_host(state, &state->agents[1], "host2");
        call(state, "POST", "/api/v1/switches",
                json_pack("{s:s, s:{s:s, s:i}}", "name", "lan", "spec", "type", "distributed", "mtu", 1400));
        assert_string_equal(finish(state), "succeeded");
        call(state, "PUT", "/api/v1/switches/lan",
                json_pack("{s:{s:s, s:i}}", "spec", "type", "distributed", "mtu", 1500));
        assert_string_equal(finish(state), "succeeded");
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                assert_int_equal(version_on(&state->agents[i]), 1);
}

static const char *upgrade(struct state *state)
{
        assert_int_equal(call(state, "POST", "/api/v1/switches/lan/upgrade", json_object()), 202);
        return finish(state);
}

static void host_that_is_away_is_left_out_and_keeps_its_version(void **data)
{
        struct state *state = *data;
        const json_t *left_out;

        make_two_versions(state);
        agent_double_stop(&state->agents[1]);
        wait_status(state, "/api/v1/hosts/host2", "state", "unreachable");
        assert_string_equal(upgrade(state), "succeeded");
        left_out = json_object_get(json_object_get(json_status(state->body), "result"), "left_out");
        assert_int_equal(json_array_size(left_out), 1);
        assert_string_equal(json_string_value(json_array_get(left_out, 0)), "host2");
        assert_int_equal(version_on(&state->agents[0]), 2);

        agent_double_restart(&state->agents[1]);
        wait_status(state, "/api/v1/hosts/host2", "state", "connected");
        assert_int_equal(version_on(&state->agents[1]), 1);
        assert_int_equal(wanted(state, "host2"), 1);
        assert_string_equal(upgrade(state), "succeeded");
        assert_int_equal(version_on(&state->agents[1]), 2);
}

static bool is_held(struct state *state)
{
        return state->agents[0].held != NULL;
}

static bool is_at_version_2(struct state *state)
{
        return version_on(&state->agents[0]) == 2;
}

/* Its agent starts again in the middle of a roll-out: the answer of before must not bring the version of before. */
static void answer_from_before_an_upgrade_does_not_take_it_back(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];

        make_two_versions(state);
        agent_double_stop(agent);
        wait_status(state, "/api/v1/hosts/host1", "state", "unreachable");
        json_object_del(agent->networks, "switches/lan");
        agent->hold_switch = true;
        agent_double_restart(agent);
        wait_until(state, is_held); /* it was told version 1, and has not answered */
        wait_status(state, "/api/v1/hosts/host1", "state", "connected");
        assert_string_equal(upgrade(state), "succeeded");
        assert_int_equal(version_on(agent), 2);
        /* The host took up the version of before after it; its answer comes now. */
        json_object_set_new(json_object_get(agent->networks, "switches/lan"), "version", json_integer(1));
        http_request_reply_json(agent->held, 200, json_pack("{s:s, s:i}", "name", "lan", "version", 1));
        agent->held = NULL;
        wait_until(state, is_at_version_2);
        assert_int_equal(wanted(state, "host1"), 2);
}

static void upgrade_of_a_host_that_the_switch_is_not_for_is_refused(void **data)
{
        struct state *state = *data;

        add_host(state, &state->agents[0], "host1");
        add_host(state, &state->agents[1], "host2");
        call(state, "POST", "/api/v1/switches",
                json_pack("{s:s, s:{s:s, s:[s]}}", "name", "lan", "spec", "type", "distributed", "hosts",
                        "host1"));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(
                call(state, "POST", "/api/v1/switches/lan/upgrade", json_pack("{s:s}", "host", "host2")),
                409);
}

static void uplink_named_twice_is_refused(void **data)
{
        struct state *state = *data;

        assert_int_equal(call(state, "POST", "/api/v1/switches",
                                 json_pack("{s:s, s:{s:s, s:s}}", "name", "lan", "spec", "type",
                                         "distributed", "uplink", "eth1,eth2,eth1")),
                422);
}

/* A sync of the host may be under way, which keeps it for a moment. */
static bool removal_accepted(struct state *state)
{
        int status = call(state, "DELETE", "/api/v1/hosts/host2", NULL);

        assert_true(status == 202 || (status == 409 && !strcmp(state->code, "busy")));
        return status == 202;
}

static void host_that_is_removed_is_forgotten_by_its_switches(void **data)
{
        struct state *state = *data;

        make_two_versions(state);
        assert_int_equal(wanted(state, "host2"), 1);
        wait_until(state, removal_accepted);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(wanted(state, "host2"), 0);
        assert_int_equal(wanted(state, "host1"), 1);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(only_an_upgrade_changes_the_version_of_a_host),
                cmocka_unit_test(host_that_was_removed_gets_the_newest_when_it_comes_again),
                cmocka_unit_test(number_and_spec_of_a_version_belong_together),
                TEST(host_that_is_away_is_left_out_and_keeps_its_version),
                TEST(answer_from_before_an_upgrade_does_not_take_it_back),
                TEST(upgrade_of_a_host_that_the_switch_is_not_for_is_refused),
                TEST(uplink_named_twice_is_refused),
                TEST(host_that_is_removed_is_forgotten_by_its_switches),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* An agent that lies: what a host that somebody else rules can bring about with its answers is bounded to what it has. host2 is
 * that one; "web" runs on host1, unless a test says otherwise. */

#include "manager_rig.h"

#include "base/alloc.h"

#define LATER_EPOCH INT64_C(1000000000000000)

static json_t *status_of_vm(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        return json_status(state->body);
}

static void assert_home(struct state *state, const char *host)
{
        assert_string_equal(json_text(status_of_vm(state), "host"), host);
}

/* host2 says that it has it, in that state and under a later epoch. */
static void claim(struct state *state, const char *power)
{
        char uid[64];
        json_t *copy;

        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        copy = json_deep_copy(json_object_get(state->agents[0].vms, uid));
        json_object_update_new(
                json_status(copy), json_pack("{s:s, s:I}", "power", power, "owner_epoch", LATER_EPOCH));
        json_object_set_new(state->agents[1].vms, uid, copy);
}

static bool alert_is_there(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/alerts", NULL), 200);
        return json_array_size(json_object_get(state->body, "items")) != 0;
}

static bool no_alert_is_there(struct state *state)
{
        return !alert_is_there(state);
}

/* --- Other hosts' machines --------------------------------------------------------------------------------------- */

static void claim_raises_an_alert_and_changes_nothing(void **data)
{
        struct state *state = *data;
        char uid[64];

        set_the_stage(state);
        claim(state, "paused");
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        wait_until(state, alert_is_there);
        assert_home(state, "host1");
        assert_string_equal(json_text(status_of_vm(state), "power"), "running");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        assert_string_equal(
                json_text(json_status(json_object_get(state->agents[0].vms, uid)), "power"), "paused");
        refresh_all(state);
        assert_home(state, "host1");
        json_object_clear(state->agents[1].vms);
        wait_until(state, no_alert_is_there);
}

static bool stop_is_held(struct state *state)
{
        return state->agents[0].held != NULL;
}

static void claim_does_not_count_while_a_task_works_with_other_hosts(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        state->agents[0].hold = "stop";
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/stop", NULL), 202);
        wait_until(state, stop_is_held);
        claim(state, "running");
        json_object_clear(state->agents[0].vms); /* it has ended: nobody there contradicts */
        refresh_all(state);
        assert_home(state, "host1");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(claim_raises_an_alert_and_changes_nothing),
                TEST(claim_does_not_count_while_a_task_works_with_other_hosts),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* An agent that lies: what a host that somebody else rules can bring about with its answers is bounded to what it has. host2 is
 * that one; "web" runs on host1, unless a test says otherwise. */

#include <errno.h>

#include "manager_rig.h"

#include "base/alloc.h"
#include "manager/vm_spec.h"

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

/* --- What a machine is ------------------------------------------------------------------------------------------- */

/* The host where it is answers to a pause with another spec. */
static void answer_does_not_change_what_a_machine_is(void **data)
{
        struct state *state = *data;
        json_t *answer, *before;
        char path[128];

        set_the_stage(state);
        snprintf(path, sizeof(path), "POST /agent/v1/vms/%s/pause", vm_uid(state));
        before = json_deep_copy(json_spec(state->body));
        answer = json_deep_copy(state->body);
        json_object_update_new(
                json_spec(answer), json_pack("{s:{s:s, s:s}, s:i, s:s, s:[{s:s, s:s}]}", "labels", "pool",
                                           "west", "tenant", "other", "cpus", 200, "datastore", "theirs",
                                           "disks", "datastore", "shared", "path", "payroll/disk0.qcow2"));
        json_object_set_new(json_status(answer), "power", json_string("paused"));
        json_object_set_new(state->agents[0].lies, path, answer);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        assert_true(json_equal(json_spec(state->body), before));
        json_decref(before);
}

static json_t *parse(const char *text)
{
        json_t *json = json_loads(text, 0, NULL);

        assert_non_null(json);
        return json;
}

/* What vm_spec_take() makes of the two (as JSON), or NULL where it refuses. */
static json_t *taken(const char *spec, const char *reported)
{
        json_t *stored = parse(spec), *said = parse(reported), *out = NULL;
        int r = vm_spec_take(stored, "web", said, &out);

        assert_true(r == 0 || r == -EINVAL);
        json_decref(stored);
        json_decref(said);
        return out;
}

static void assert_taken(const char *spec, const char *reported, const char *wanted)
{
        json_t *out = taken(spec, reported), *right = parse(wanted);

        assert_true(json_equal(out, right));
        json_decref(out);
        json_decref(right);
}

static void what_an_agent_fills_in_is_taken(void **data)
{
        assert_taken("{\"memory_bytes\": 67108864, \"datastore\": \"d\", \"cpus\": 2, \"labels\": {\"pool\": "
                     "\"east\"},"
                     " \"disks\": [{\"size_bytes\": 1024}], \"nics\": [{\"port_group\": \"net\"}]}",
                "{\"memory_bytes\": 134217728, \"datastore\": \"other\", \"cpus\": 200, \"labels\": "
                "{\"pool\": \"west\"},"
                " \"machine\": \"q35\", \"cpu_model\": \"chosen\", \"rng\": true, \"unknown\": 1,"
                " \"disks\": [{\"name\": \"disk0\", \"datastore\": \"d\", \"path\": \"web/disk0.qcow2\","
                " \"size_bytes\": 2048, \"format\": \"qcow2\", \"bus\": \"virtio\", \"read_only\": false}],"
                " \"nics\": [{\"port_group\": \"theirs\", \"model\": \"virtio\"}]}",
                "{\"memory_bytes\": 67108864, \"datastore\": \"d\", \"cpus\": 2, \"labels\": {\"pool\": "
                "\"east\"},"
                " \"machine\": \"q35\", \"cpu_model\": \"auto\", \"rng\": true,"
                " \"disks\": [{\"name\": \"disk0\", \"datastore\": \"d\", \"path\": \"web/disk0.qcow2\","
                " \"size_bytes\": 1024, \"format\": \"qcow2\", \"bus\": \"virtio\", \"read_only\": false}],"
                " \"nics\": [{\"port_group\": \"net\", \"model\": \"virtio\"}]}");
}

#define WITH_DISK(datastore, path) \
        "{\"memory_bytes\": 67108864, \"cpu_model\": \"auto\", \"disks\": [{\"datastore\": \"" datastore \
        "\", \"path\": \"" path "\"}]}"

static void disk_that_has_moved_within_folders_of_its_name_is_where_it_is(void **data)
{
        assert_taken(WITH_DISK("d", "web/a.raw"), WITH_DISK("fast", "web/a-0123abcd4567.qcow2"),
                WITH_DISK("fast", "web/a-0123abcd4567.qcow2"));
        assert_taken(WITH_DISK("d", "images/a.raw"), WITH_DISK("d", "images/a.raw"),
                WITH_DISK("d", "images/a.raw"));
}

static void file_of_others_is_no_disk(void **data)
{
        static const char *const paths[] = {WITH_DISK("d", "payroll/a.raw"), WITH_DISK("d", "web/owner.json"),
                WITH_DISK("d", "web/../payroll/a.raw"), WITH_DISK("d", "web/x/a.raw"), WITH_DISK("d", "web"),
                WITH_DISK("d", "website/a.raw"), WITH_DISK("../d", "web/b.raw")};

        for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
                assert_null(taken(WITH_DISK("d", "web/a.raw"), paths[i]));
}

static void spec_of_the_wrong_types_is_not_taken(void **data)
{
        static const char *const specs[] = {"{\"cpus\": -1}", "{\"cpus\": 1e300}", "{\"cpus\": \"2\"}",
                "{\"machine\": 7}", "{\"disks\": [{}]}", "{\"nics\": {\"0\": 1}, \"rng\": \"yes\"}",
                "{\"firmware\": {}}"};

        for (size_t i = 0; i < ARRAY_SIZE(specs); i++) {
                assert_null(taken("{\"memory_bytes\": 67108864, \"datastore\": \"d\"}", specs[i]));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(claim_raises_an_alert_and_changes_nothing),
                TEST(claim_does_not_count_while_a_task_works_with_other_hosts),
                TEST(answer_does_not_change_what_a_machine_is),
                cmocka_unit_test(what_an_agent_fills_in_is_taken),
                cmocka_unit_test(disk_that_has_moved_within_folders_of_its_name_is_where_it_is),
                cmocka_unit_test(file_of_others_is_no_disk),
                cmocka_unit_test(spec_of_the_wrong_types_is_not_taken),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* An agent that lies: what a host that somebody else rules can bring about with its answers is bounded to what it has. host2 is
 * that one; "web" runs on host1, unless a test says otherwise. */

#include <errno.h>

#include "manager_rig.h"

#include "base/alloc.h"
#include "manager/inventory_private.h"
#include "manager/vm_spec.h"
#include "manager/vm_status.h"

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

/* --- Numbers, types and sizes ------------------------------------------------------------------------------------ */

static void status_of_the_wrong_types_is_what_it_was(void **data)
{
        static const char *const said[] = {"{\"owner_epoch\": -1}", "{\"owner_epoch\": 9223372036854775807}",
                "{\"owner_epoch\": 1e308}", "{\"owner_epoch\": \"9\"}", "{\"power\": 7}",
                "{\"power\": \"a word that is far too long for a power\"}", "{\"machine\": {}}",
                "{\"memory_effective_bytes\": -1}", "{\"message\": []}", "{\"unknown\": 1}"};
        json_t *before = parse("{\"power\": \"running\", \"owner_epoch\": 4, \"machine\": \"pc-q35-7.2\","
                               " \"memory_effective_bytes\": 5, \"message\": null, \"host\": \"h\"}");

        for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
                json_t *report = json_pack("{s:o}", "status", json_deep_copy(before)), *status,
                       *lie = parse(said[i]);

                json_object_update(json_status(report), lie);
                status = vm_status_reported(report, before, "h");
                assert_true(json_equal(status, before));
                json_decref(lie);
                json_decref(report);
                json_decref(status);
        }
        json_decref(before);
}

static void epoch_has_a_next_one_whatever_a_host_says(void **data)
{
        static const json_int_t said[] = {INT64_MAX, INT64_MIN, -1, 7};
        static const json_int_t wanted[] = {VM_EPOCH_MAX, 0, 0, 7};

        for (size_t i = 0; i < ARRAY_SIZE(said); i++) {
                json_t *vm = json_pack("{s:{s:I}}", "status", "owner_epoch", said[i]);

                assert_true(vm_status_epoch(vm) == wanted[i]);
                json_decref(vm);
        }
}

/* What host2 says of itself, changed. */
static void say_of_host(struct state *state, json_t *changes)
{
        static const char path[] = "GET /agent/v1/host";
        json_t *facts = json_pack("{s:s, s:s, s:s, s:s, s:i, s:I, s:I}", "uid", state->agents[1].uid, "name",
                "double", "version", "0.1.0", "accelerator", "tcg", "cpus", 4, "memory_bytes",
                (json_int_t)8 << 30, "memory_free_bytes", (json_int_t)6 << 30);

        json_object_update_new(facts, changes);
        json_object_set_new(state->agents[1].lies, path, facts);
}

static void numbers_that_cannot_be_are_not_reckoned_with(void **data)
{
        struct state *state = *data;
        const json_t *status;

        set_the_stage(state);
        say_of_host(state, json_pack("{s:s, s:i, s:I, s:f, s:s}", "version", "0.2.0", "cpus", -4,
                                   "memory_bytes", INT64_MAX, "memory_free_bytes", 1e300, "n_vms", "many"));
        wait_status(state, "/api/v1/hosts/host2", "version", "0.2.0");
        status = json_status(state->body);
        assert_int_equal(json_integer_value(json_object_get(status, "cpus")), 4);
        assert_true(json_integer_value(json_object_get(status, "memory_bytes")) == (json_int_t)8 << 30);
        assert_true(json_integer_value(json_object_get(status, "memory_free_bytes")) == (json_int_t)6 << 30);
}

/* A text of `n` bytes, the caller's. */
static char *padding(size_t n)
{
        char *text = calloc(1, n + 1);

        memset(text, 'x', n);
        return text;
}

static void host_that_says_too_much_of_itself_is_not_heard(void **data)
{
        struct state *state = *data;
        char *version = padding(300000);

        set_the_stage(state);
        say_of_host(state, json_pack("{s:s}", "version", version));
        free(version);
        wait_status(state, "/api/v1/hosts/host2", "state", "unreachable");
        assert_string_equal(json_text(json_status(state->body), "version"), "0.1.0");
        json_object_clear(state->agents[1].lies);
        wait_status(state, "/api/v1/hosts/host2", "state", "connected");
}

/* host2 says that it runs `n` more. */
static void bring(struct state *state, unsigned int from, unsigned int n)
{
        json_object_clear(state->agents[1].vms);
        for (unsigned int i = from; i < from + n; i++) {
                char uid[64], name[32];

                snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012u", i);
                snprintf(name, sizeof(name), "stray%u", i);
                json_object_set_new(state->agents[1].vms, uid,
                        json_pack("{s:s, s:s, s:s, s:{s:i, s:s}, s:{s:s, s:i}}", "kind", "vm", "uid", uid,
                                "name", name, "spec", "memory_bytes", 64 << 20, "datastore", "shared",
                                "status", "power", "running", "owner_epoch", 1));
        }
}

static size_t n_known(struct state *state)
{
        return map_size(&state->manager->inventory->vms);
}

static void assert_alert_is(struct state *state, const char *code)
{
        const json_t *items = json_object_get(state->body, "items");

        assert_int_equal(json_array_size(items), 1);
        assert_string_equal(json_text(json_spec(json_array_get(items, 0)), "code"), code);
}

static void machines_that_a_host_brings_are_bounded(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        bring(state, 0, 2300);
        wait_until(state, alert_is_there);
        assert_alert_is(state, "vms-refused");
        refresh_all(state);
        assert_int_equal(n_known(state), 2001); /* with "web" */
        bring(state, 5000, 2300);
        refresh_all(state);
        assert_int_equal(n_known(state), 2001);
}

static void machine_that_nobody_could_have_made_is_not_taken_in(void **data)
{
        struct state *state = *data;
        json_t *vms = state->agents[1].vms;

        set_the_stage(state);
        bring(state, 0, 3);
        json_object_set_new(json_spec(json_object_get(vms, "00000000-0000-4000-8000-000000000001")), "cpus",
                json_integer(-3));
        wait_until(state, alert_is_there);
        assert_alert_is(state, "vms-refused");
        refresh_all(state);
        assert_int_equal(call(state, "GET", "/api/v1/vms/stray0", NULL), 200);
        assert_int_equal(call(state, "GET", "/api/v1/vms/stray1", NULL), 404);
        assert_int_equal(call(state, "GET", "/api/v1/vms/stray2", NULL), 200);
        json_object_del(vms, "00000000-0000-4000-8000-000000000001");
        wait_until(state, no_alert_is_there);
}

static void progress_of_a_migration_is_a_percentage(void **data)
{
        static const double left[] = {-1e308, 1e308, -5e307, -1000};
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        for (size_t i = 0; i < ARRAY_SIZE(left); i++) {
                json_object_set_new(state->agents[0].migration, "progress",
                        json_pack("{s:i, s:f, s:f}", "pass", (int)i + 7, "bytes_ram", i == 3 ? 1000 : 1e308,
                                "remaining_bytes", left[i]));
                do {
                        loop_iterate(state->loop, 20);
                        assert_int_equal(call(state, "GET", path, NULL), 200);
                } while (json_integer_value(json_object_get(
                                 json_object_get(json_status(state->body), "progress"), "pass")) !=
                         (int)i + 7);
                assert_in_range(json_integer_value(json_object_get(
                                        json_object_get(json_status(state->body), "progress"), "percent")),
                        0, 99);
        }
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void labels_are_bounded(void **data)
{
        struct state *state = *data;
        char *text = padding(256);
        json_t *vm = vm_document("labelled"), *labels = json_object();

        set_the_stage(state);
        json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", "note", text));
        assert_int_equal(call(state, "POST", "/api/v1/vms", json_deep_copy(vm)), 422);
        json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", text, "1"));
        assert_int_equal(call(state, "POST", "/api/v1/vms", json_deep_copy(vm)), 422);
        json_object_set_new(json_spec(vm), "labels", json_pack("{s:i}", "note", 1));
        assert_int_equal(call(state, "POST", "/api/v1/vms", json_deep_copy(vm)), 422);
        for (int i = 0; i < 65; i++) {
                snprintf(text, 32, "label%d", i);
                json_object_set_new(labels, text, json_string("1"));
        }
        free(text);
        json_object_set(json_spec(vm), "labels", labels);
        assert_int_equal(call(state, "POST", "/api/v1/vms", json_deep_copy(vm)), 422);
        json_object_del(labels, "label0");
        assert_int_equal(call(state, "POST", "/api/v1/vms", vm), 202);
        assert_string_equal(finish(state), "succeeded");
        json_decref(labels);
}

/* Entry for entry of a size, asked after each: at most twice what is meant to be kept is. */
static void log_is_bounded_by_bytes(void **data)
{
        static const uint64_t sizes[] = {1000, 4 << 20, 40 << 20};
        struct log_bound bound = {};
        uint64_t revision = 0, bytes = 0;

        for (size_t k = 0; k < ARRAY_SIZE(sizes); k++)
                for (unsigned int i = 0; i < 1000; i++) {
                        uint64_t keep = log_bound_keep(&bound, ++revision, bytes += sizes[k]);

                        assert_true(bound.n_marks <= LOG_BOUND_MARKS && keep <= LOG_BOUND_ENTRIES);
                        if (i > 500 && k > 0)
                                assert_in_range(keep * sizes[k], LOG_BOUND_BYTES, 2 * LOG_BOUND_BYTES);
                        if (k == 0)
                                assert_int_equal(keep, LOG_BOUND_ENTRIES);
                }
}

static void bytes_of_what_is_recorded_are_counted(void **data)
{
        struct state *state = *data;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        uint64_t before = store_bytes_written(state->manager->store);
        char *text = padding(100000);

        store_batch_put(&batch, STORE_ANY, object_new("alert", "large", text));
        free(text);
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
        assert_in_range(store_bytes_written(state->manager->store) - before, 100000, 101000);
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
                cmocka_unit_test(status_of_the_wrong_types_is_what_it_was),
                cmocka_unit_test(epoch_has_a_next_one_whatever_a_host_says),
                TEST(numbers_that_cannot_be_are_not_reckoned_with),
                TEST(host_that_says_too_much_of_itself_is_not_heard),
                TEST(machines_that_a_host_brings_are_bounded),
                TEST(machine_that_nobody_could_have_made_is_not_taken_in),
                TEST(progress_of_a_migration_is_a_percentage),
                TEST(labels_are_bounded),
                cmocka_unit_test(log_is_bounded_by_bytes),
                TEST(bytes_of_what_is_recorded_are_counted),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

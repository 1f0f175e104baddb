/* SPDX-License-Identifier: Apache-2.0 */

/* Disks go to another datastore, through the public API: what is refused, what it takes of the queue, and that the document names a
 * copy before the agent may remove what it was copied from. */

#include "manager_rig.h"

#include "base/alloc.h"
#include "base/doc.h"

#define PATH "/api/v1/vms/store/migrate-disks"

/* The stage, the datastore "fast", and a VM "store" with one disk on "shared". */
static void set_disks(struct state *state)
{
        json_t *vm = vm_document("store");

        set_the_stage(state);
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s}}", "name", "fast", "spec", "path", "/fast"));
        assert_string_equal(finish(state), "succeeded");
        json_object_set_new(vm, "host", json_string("host1"));
        json_object_set_new(json_object_get(vm, "spec"), "disks",
                json_pack("[{s:s, s:s, s:s, s:s, s:I}]", "name", "disk0", "datastore", "shared", "path",
                        "store/disk0.raw", "format", "raw", "size_bytes", (json_int_t)1 << 20));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

static void begin(struct state *state, char ret_path[static 128])
{
        assert_int_equal(
                call(state, "POST", PATH, json_pack("{s:s, s:s}", "to_datastore", "fast", "format", "qcow2")),
                202);
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
        state->path = ret_path;
        wait_status(state, ret_path, "step", "follow");
}

static const json_t *disk_of(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/vms/store", NULL), 200);
        return json_array_get(json_object_get(json_spec(state->body), "disks"), 0);
}

static void switch_disks(struct state *state)
{
        struct agent_double *agent = &state->agents[0];

        json_object_set_new(agent->storage_move, "disks",
                json_pack("[{s:s, s:{s:s, s:s, s:s}, s:{s:s, s:s, s:s}, s:b}]", "name", "disk0", "from",
                        "datastore", "shared", "path", "store/disk0.raw", "format", "raw", "to", "datastore",
                        "fast", "path", "store/disk0-0123abcd4567.qcow2", "format", "qcow2", "switched", 1));
        json_object_set_new(
                agent->storage_move, "result", json_pack("{s:i, s:i}", "total_ms", 10, "pause_ms", 2));
        json_object_set_new(agent->storage_move, "phase", json_string("switched"));
}

static bool settle_is_asked(struct state *state)
{
        return state->agents[0].held != NULL;
}

static void document_names_the_copy_before_the_old_image_may_go(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];
        const json_t *asked;
        char path[128];

        set_disks(state);
        begin(state, path);
        asked = json_array_get(json_object_get(json_object_get(agent->storage_move, "request"), "disks"), 0);
        assert_string_equal(json_text(asked, "datastore"), "fast");
        assert_string_equal(json_text(asked, "format"), "qcow2");
        assert_string_equal(json_text(disk_of(state), "datastore"), "shared");
        agent->hold = "settle";
        switch_disks(state);
        wait_until(state, settle_is_asked);
        assert_string_equal(json_text(disk_of(state), "datastore"), "fast");
        assert_string_equal(json_text(disk_of(state), "path"), "store/disk0-0123abcd4567.qcow2");
        assert_string_equal(json_text(disk_of(state), "format"), "qcow2");
        agent->hold = NULL;
        http_request_reply_json(TAKE_PTR(agent->held), 202, json_deep_copy(agent->storage_move));
        wait_status(state, path, "state", "succeeded");
        assert_int_equal(json_integer_value(json_object_get(
                                 json_object_get(json_status(state->body), "result"), "pause_ms")),
                2);
}

static void manager_that_is_restarted_takes_it_up(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        begin(state, path);
        stop_manager(state);
        switch_disks(state);
        start_manager(state);
        wait_status(state, path, "state", "succeeded");
        assert_string_equal(json_text(disk_of(state), "datastore"), "fast");
}

static void cancel_is_passed_on_and_the_document_stays(void **data)
{
        struct state *state = *data;
        char path[128], cancel[144];

        set_disks(state);
        begin(state, path);
        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        call(state, "POST", cancel, NULL);
        wait_status(state, path, "state", "cancelled");
        assert_string_equal(json_text(disk_of(state), "datastore"), "shared");
}

/* The agent refuses it while it switches, and may go back to copying. */
static void cancel_that_is_refused_is_asked_for_again(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];
        char path[128], cancel[144], key[144];

        set_disks(state);
        begin(state, path);
        json_object_set_new(agent->storage_move, "phase", json_string("switching"));
        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        call(state, "POST", cancel, NULL);
        snprintf(key, sizeof(key), "POST /agent/v1/storage-moves/%s/cancel",
                json_text(agent->storage_move, "id"));
        while (!json_object_get(agent->seen, key))
                (void)loop_iterate(state->loop, 100);
        json_object_set_new(agent->storage_move, "phase", json_string("copying"));
        wait_status(state, path, "state", "cancelled");
}

static void it_takes_of_host_and_datastores_what_disks_cost(void **data)
{
        static const char *const wanted[] = {"host/host1", "datastore/fast", "datastore/shared"};
        static const json_int_t units[] = {4, 16, 16};
        struct state *state = *data;
        const json_t *costs;
        char path[128];

        set_disks(state);
        begin(state, path);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        costs = json_object_get(json_object_get(json_status(state->body), "queue"), "costs");
        assert_int_equal(json_array_size(costs), ARRAY_SIZE(wanted));
        for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
                assert_string_equal(json_text(json_array_get(costs, i), "resource"), wanted[i]);
                assert_int_equal(
                        json_integer_value(json_object_get(json_array_get(costs, i), "units")), units[i]);
        }
        /* And one that would need more than there is waits. */
        assert_int_equal(call(state, "POST", PATH, json_pack("{s:s}", "to_datastore", "fast")), 409);
        assert_string_equal(state->code, "busy");
}

static void datastore_that_is_busy_is_waited_for(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        state->config.queue_limits.datastore = 16;
        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:s, s:{s:I, s:s, s:[{s:s, s:s, s:s, s:s, s:I}]}, s:b}", "name", "other",
                        "host", "host1", "spec", "memory_bytes", (json_int_t)64 << 20, "datastore", "shared",
                        "disks", "name", "disk0", "datastore", "shared", "path", "other/disk0.raw", "format",
                        "raw", "size_bytes", (json_int_t)1 << 20, "start", 1));
        assert_string_equal(finish(state), "succeeded");
        begin(state, path);
        assert_int_equal(call(state, "POST", "/api/v1/vms/other/migrate-disks",
                                 json_pack("{s:s}", "to_datastore", "fast")),
                202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        for (int i = 0; i < 20; i++)
                assert_int_equal(call(state, "GET", path, NULL), 200);
        assert_string_equal(task_state(state), "queued");
        assert_int_equal(call(state, "GET", "/api/v1/queue", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "waiting")), 1);
        switch_disks(state);
        wait_status(state, path, "state", "running");
}

static void refused(struct state *state, json_t *body, int status, const char *code, const char *words)
{
        assert_int_equal(call(state, "POST", PATH, body), status);
        assert_string_equal(state->code, code);
        if (!strstr(json_text(state->body, "detail"), words))
                fail_msg("unexpected: %s", json_text(state->body, "detail"));
}

static void what_cannot_be_is_refused_with_its_cause(void **data)
{
        struct state *state = *data;

        set_disks(state);
        refused(state, json_pack("{s:i}", "to_datastore", 5), 422, "bad-document", "to_datastore");
        refused(state, json_pack("{s:{}}", "to_datastores"), 422, "bad-document", "to_datastores");
        refused(state, json_pack("{s:{s:s}, s:s}", "to_datastores", "disk0", "fast", "to_datastore", "fast"),
                422, "bad-document", "goes with neither");
        refused(state, json_pack("{s:{s:s}}", "to_datastores", "disk7", "fast"), 404, "not-found", "disk7");
        refused(state, json_pack("{s:{s:s}}", "to_datastores", "disk0", "nowhere"), 404, "not-found",
                "nowhere");
        refused(state, json_pack("{s:s}", "to_datastore", "../fast"), 422, "bad-document", "to_datastore");
        refused(state, json_pack("{s:s}", "to_datastore", "nowhere"), 404, "not-found", "nowhere");
        refused(state, json_pack("{s:s}", "to_datastore", "shared"), 409, "conflict", "there already");
        refused(state, json_pack("{s:s, s:s}", "to_datastore", "fast", "format", "vmdk"), 422,
                "not-supported", "vmdk");
        refused(state, json_pack("{s:s, s:[s]}", "to_datastore", "fast", "disks", "disk7"), 404, "not-found",
                "disk7");
        refused(state, json_pack("{s:s, s:[s]}", "to_datastore", "fast", "disks", "../d"), 422,
                "bad-document", "disks[0]");
        refused(state, json_pack("{s:s, s:i}", "to_datastore", "fast", "speed", 1), 422, "bad-document",
                "speed");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate-disks",
                                 json_pack("{s:s}", "to_datastore", "fast")),
                409);
}

static void image_of_two_virtual_machines_stays(void **data)
{
        struct state *state = *data;

        set_disks(state);
        call(state, "POST", "/api/v1/vms/store/stop",
                NULL); /* beside a running one, no other could be made of its image */
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:s, s:{s:I, s:s, s:[{s:s, s:s, s:s, s:s}]}}", "name", "twin", "host",
                        "host1", "spec", "memory_bytes", (json_int_t)64 << 20, "datastore", "shared", "disks",
                        "name", "disk0", "datastore", "shared", "path", "store/disk0.raw", "format", "raw"));
        assert_string_equal(finish(state), "succeeded");
        refused(state, json_pack("{s:s}", "to_datastore", "fast"), 409, "conflict", "twin");
}

/* A VM that is off, and has the file in the part of its document that `key` names. */
static void add_reader(struct state *state, const char *name, const char *key, const char *inner)
{
        json_t *file = json_pack("{s:s, s:s}", "datastore", "shared", "path", "store/disk0.raw");
        json_t *spec = json_pack("{s:I, s:s, s:o}", "memory_bytes", (json_int_t)64 << 20, "datastore",
                "shared", key, inner ? json_pack("{s:o}", inner, file) : file);

        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:s, s:o}", "name", name, "host", "host1", "spec", spec));
        assert_string_equal(finish(state), "succeeded");
}

static void image_that_another_boots_from_or_has_as_its_cdrom_stays(void **data)
{
        struct state *state = *data;

        set_disks(state);
        call(state, "POST", "/api/v1/vms/store/stop", NULL);
        assert_string_equal(finish(state), "succeeded");
        add_reader(state, "viewer", "cdrom", NULL);
        refused(state, json_pack("{s:s}", "to_datastore", "fast"), 409, "conflict", "viewer");
        assert_int_equal(call(state, "DELETE", "/api/v1/vms/viewer", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        add_reader(state, "booter", "boot", "kernel");
        refused(state, json_pack("{s:s}", "to_datastore", "fast"), 409, "conflict", "booter");
}

static const json_t *kept_by(struct state *state)
{
        return json_object_get(json_object_get(state->agents[0].storage_move, "settled_with"), "keep");
}

static void image_that_was_given_to_another_meanwhile_is_kept(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        call(state, "POST", "/api/v1/vms/store/stop", NULL);
        assert_string_equal(finish(state), "succeeded");
        begin(state, path);
        add_reader(state, "viewer", "cdrom", NULL);
        switch_disks(state);
        wait_status(state, path, "state", "succeeded");
        assert_int_equal(json_array_size(kept_by(state)), 1);
        assert_string_equal(json_string_value(json_array_get(kept_by(state), 0)), "disk0");
}

static void image_that_nobody_else_has_is_not_kept(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        begin(state, path);
        switch_disks(state);
        wait_status(state, path, "state", "succeeded");
        assert_true(json_is_array(kept_by(state)));
        assert_int_equal(json_array_size(kept_by(state)), 0);
}

static void image_that_was_given_to_the_same_one_again_is_kept(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *vm = NULL;
        char path[128];

        set_disks(state);
        begin(state, path);
        switch_disks(state);
        json_object_set_new(json_array_get(json_object_get(state->agents[0].storage_move, "disks"), 0),
                "from",
                json_pack("{s:s, s:s}", "datastore", "fast", "path", "store/disk0-0123abcd4567.qcow2"));
        wait_status(state, path, "state", "succeeded");
        assert_int_equal(json_array_size(kept_by(state)), 1);
}

/* What is left of earlier migrations lies in the VM's folders: it may go only while nobody else names a file there. */
static void what_is_left_may_go_only_while_nobody_else_has_files_of_the_folder(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        call(state, "POST", "/api/v1/vms/store/stop", NULL);
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms/store/start", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_true(state->agents[0].start_clears);
        call(state, "POST", "/api/v1/vms/store/stop", NULL);
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:s, s:{s:I, s:s, s:{s:s, s:s}}}", "name", "viewer", "host", "host1", "spec",
                        "memory_bytes", (json_int_t)64 << 20, "datastore", "shared", "cdrom", "datastore",
                        "fast", "path", "store/disk0-aaaabbbbcccc.raw"));
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms/store/start", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_false(state->agents[0].start_clears);
        begin(state, path);
        assert_true(json_is_false(json_object_get(state->agents[0].storage_move, "clears")));
        switch_disks(state);
        wait_status(state, path, "state", "succeeded");
}

/* As the agent reports it of a storage migration that has switched and that nobody has settled. */
static void report_moved(struct state *state, const char *from)
{
        char uid[64];

        assert_int_equal(call(state, "GET", "/api/v1/vms/store", NULL), 200);
        snprintf(uid, sizeof(uid), "%s", json_text(state->body, "uid"));
        assert_non_null(json_object_get(state->agents[0].vms, uid));
        json_object_set_new(json_object_get(state->agents[0].vms, uid), "moved_disks",
                json_pack("[{s:s, s:{s:s, s:s, s:s}, s:{s:s, s:s, s:s}, s:b}]", "name", "disk0", "from",
                        "datastore", "shared", "path", from, "format", "raw", "to", "datastore", "fast",
                        "path", "store/disk0-0123abcd4567.qcow2", "format", "qcow2", "switched", 1));
        refresh_all(state);
        inventory_review(state->manager->inventory, uid);
}

static bool names_the_copy(struct state *state)
{
        const json_t *disk = disk_of(state);

        return !strcmp(json_text(disk, "datastore"), "fast") &&
               !strcmp(json_text(disk, "path"), "store/disk0-0123abcd4567.qcow2") &&
               !strcmp(json_text(disk, "format"), "qcow2");
}

static void copies_of_a_task_that_is_no_more_are_taken_over(void **data)
{
        struct state *state = *data;

        set_disks(state);
        report_moved(state, "store/disk0.raw");
        wait_until(state, names_the_copy);
}

static void document_that_names_another_image_by_now_stays(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        report_moved(state, "store/older.raw");
        begin(state, path); /* and while a task works on it, the task says what its disks are */
        report_moved(state, "store/disk0.raw");
        for (int i = 0; i < 20; i++)
                assert_string_equal(json_text(disk_of(state), "datastore"), "shared");
        call(state, "GET", path, NULL);
        switch_disks(state);
        wait_status(state, path, "state", "succeeded");
        assert_true(names_the_copy(state));
}

/* --- Along with a migration to another host ------------------------------------------------------------------------ */

static void begin_along(struct state *state, const char *datastore)
{
        assert_int_equal(call(state, "POST", "/api/v1/vms/store/migrate",
                                 json_pack("{s:s, s:s}", "to", "host2", "to_datastore", datastore)),
                202);
}

static void follow_along(struct state *state, char ret_path[static 128])
{
        begin_along(state, "fast");
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_status(state, ret_path, "step", "follow");
}

/* As the agents do: the guest is on host2, in this state. */
static void arrive(struct state *state, const char *power, const char *phase, const char *record)
{
        struct agent_double *from = &state->agents[0], *to = &state->agents[1];
        _cleanup_json_ json_t *vm = NULL;
        char uid[64];

        assert_int_equal(call(state, "GET", "/api/v1/vms/store", NULL), 200);
        snprintf(uid, sizeof(uid), "%s", json_text(state->body, "uid"));
        vm = json_deep_copy(json_object_get(from->vms, uid));
        json_object_set_new(json_status(vm), "power", json_string(power));
        json_object_set(to->vms, uid, vm);
        json_object_del(from->vms, uid);
        json_object_set_new(from->migration, "phase", json_string(phase));
        json_object_set_new(from->migration, "record", json_string(record));
}

static void disk_that_is_in_the_folder_there_already_is_not_overwritten(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        begin(state, path); /* moves it to "fast", into a folder of the VM's name */
        switch_disks(state);
        wait_status(state, path, "state", "succeeded");
        begin_along(state, "fast");
        assert_string_equal(finish(state), "failed");
        assert_non_null(strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"),
                "disk disk0 is on datastore fast already, in a folder store"));
}

/* With a disk of its own, and one that it shares with its like. */
static void add_reader_of_base(struct state *state, const char *name)
{
        _cleanup_free_ char *path = alloc_printf("%s/disk0.raw", name);
        json_t *vm = vm_document(name);

        json_object_set_new(vm, "host", json_string("host1"));
        json_object_set_new(json_object_get(vm, "spec"), "disks",
                json_pack("[{s:s, s:s, s:s, s:s, s:I}, {s:s, s:s, s:s, s:s, s:b}]", "name", "disk0",
                        "datastore", "shared", "path", path, "format", "raw", "size_bytes",
                        (json_int_t)1 << 20, "name", "base", "datastore", "shared", "path", "base.raw",
                        "format", "raw", "read_only", 1));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

static void read_only_image_of_two_machines_holds_no_disk_back(void **data)
{
        struct state *state = *data;
        char path[128];

        set_disks(state);
        add_reader_of_base(state, "one");
        add_reader_of_base(state, "two");
        assert_int_equal(call(state, "POST", "/api/v1/vms/one/migrate",
                                 json_pack("{s:s, s:s}", "to", "host2", "to_datastore", "fast")),
                202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_status(state, path, "step", "follow");
}

static void image_that_another_was_given_meanwhile_stays_where_it_is(void **data)
{
        struct state *state = *data;
        const json_t *result;
        char path[128];

        set_disks(state);
        follow_along(state, path);
        add_reader(state, "viewer", "cdrom", NULL);
        arrive(state, "running", "done", "released");
        wait_status(state, path, "state", "succeeded");
        result = json_object_get(json_object_get(json_status(state->body), "result"), "disks_along");
        assert_string_equal(json_text(result, "left"), "shared:store/disk0.raw");
        assert_string_equal(json_text(disk_of(state), "datastore"), "fast");
}

static void what_stays_behind_is_told_by_a_task_that_fails(void **data)
{
        struct state *state = *data;
        const char *detail;
        char path[128];

        set_disks(state);
        follow_along(state, path);
        add_reader(state, "viewer", "cdrom", NULL);
        arrive(state, "crashed", "failed", "released");
        wait_status(state, path, "state", "failed");
        detail = json_text(json_object_get(json_status(state->body), "error"), "detail");
        if (!strstr(detail, "what was left behind stays: shared:store/disk0.raw"))
                fail_msg("unexpected: %s", detail);
        assert_string_equal(json_text(disk_of(state), "datastore"), "fast");
}

static void what_stays_at_the_destination_is_told_too(void **data)
{
        struct state *state = *data;
        const char *detail;
        char path[128];

        set_disks(state);
        follow_along(state, path);
        json_object_set_new(state->agents[0].migration, "record", json_string("taken-back"));
        json_object_set_new(state->agents[0].migration, "phase", json_string("failed"));
        /* It settles after its source, which it asks whose the disks are. */
        state->agents[1].migration = json_pack("{s:s, s:s}", "phase", "settling", "record", "abandoned");
        wait_status(state, path, "step", "forget");
        json_object_set_new(state->agents[1].migration, "phase", json_string("failed"));
        json_object_set_new(
                state->agents[1].migration, "left", json_string("the folder store on datastore fast"));
        wait_status(state, path, "state", "failed");
        detail = json_text(json_object_get(json_status(state->body), "error"), "detail");
        if (!strstr(detail, "what was left behind stays: the folder store on datastore fast of host host2"))
                fail_msg("unexpected: %s", detail);
        assert_string_equal(json_text(disk_of(state), "datastore"), "shared");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(document_names_the_copy_before_the_old_image_may_go),
                TEST(manager_that_is_restarted_takes_it_up),
                TEST(cancel_is_passed_on_and_the_document_stays),
                TEST(cancel_that_is_refused_is_asked_for_again),
                TEST(it_takes_of_host_and_datastores_what_disks_cost),
                TEST(datastore_that_is_busy_is_waited_for),
                TEST(what_cannot_be_is_refused_with_its_cause),
                TEST(image_of_two_virtual_machines_stays),
                TEST(image_that_another_boots_from_or_has_as_its_cdrom_stays),
                TEST(image_that_was_given_to_another_meanwhile_is_kept),
                TEST(image_that_nobody_else_has_is_not_kept),
                TEST(copies_of_a_task_that_is_no_more_are_taken_over),
                TEST(document_that_names_another_image_by_now_stays),
                TEST(image_that_was_given_to_the_same_one_again_is_kept),
                TEST(disk_that_is_in_the_folder_there_already_is_not_overwritten),
                TEST(read_only_image_of_two_machines_holds_no_disk_back),
                TEST(image_that_another_was_given_meanwhile_stays_where_it_is),
                TEST(what_stays_behind_is_told_by_a_task_that_fails),
                TEST(what_stays_at_the_destination_is_told_too),
                TEST(what_is_left_may_go_only_while_nobody_else_has_files_of_the_folder),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

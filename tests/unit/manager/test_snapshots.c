/* SPDX-License-Identifier: Apache-2.0 */

/* Larger disks and snapshots, through the public API: what the document says at each moment, whatever the agent answers. */

#include "manager_rig.h"

#include "base/alloc.h"
#include "base/doc.h"

#define VM "/api/v1/vms/store"
#define SNAPSHOTS VM "/snapshots"
#define SIZE ((json_int_t)1 << 20)

static json_t *new_vm(const char *name, const char *format)
{
        json_t *vm = vm_document(name), *disk;

        disk = json_pack("{s:s, s:s, s:s, s:I}", "name", "disk0", "datastore", "shared", "format", format,
                "size_bytes", SIZE);
        json_object_set_new(disk, "path", json_sprintf("%s/disk0.%s", name, format));
        json_object_set_new(vm, "host", json_string("host1"));
        json_object_set_new(vm, "start", json_false());
        json_object_set_new(json_object_get(vm, "spec"), "disks", json_pack("[o]", disk));
        return vm;
}

/* The stage, and a VM "store" that is off, with one qcow2 disk. */
static void set_disk(struct state *state)
{
        set_the_stage(state);
        call(state, "POST", "/api/v1/vms", new_vm("store", "qcow2"));
        assert_string_equal(finish(state), "succeeded");
}

static const json_t *vm_of(struct state *state)
{
        assert_int_equal(call(state, "GET", VM, NULL), 200);
        return state->body;
}

static const json_t *snapshot_of(struct state *state, const char *name)
{
        json_t *item;
        size_t i;

        json_array_foreach (json_object_get(vm_of(state), "snapshots"), i, item)
                if (!strcmp(json_text(item, "name"), name))
                        return item;
        return NULL;
}

static void assert_state(struct state *state, const char *name, const char *wanted)
{
        assert_string_equal(json_text(snapshot_of(state, name), "state"), wanted);
}

static json_int_t size_of(struct state *state)
{
        return json_integer_value(json_object_get(
                json_array_get(json_object_get(json_spec(vm_of(state)), "disks"), 0), "size_bytes"));
}

/* Its task's path; it has not ended. */
static void ask(struct state *state, const char *method, const char *path, json_t *body)
{
        assert_int_equal(call(state, method, path, body), 202);
}

static void done(struct state *state, const char *method, const char *path, json_t *body)
{
        ask(state, method, path, body);
        assert_string_equal(finish(state), "succeeded");
}

static void fails(struct state *state, const char *method, const char *path, json_t *body, const char *code)
{
        ask(state, method, path, body);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(json_text(json_object_get(json_status(state->body), "error"), "code"), code);
}

static void create(struct state *state, const char *name)
{
        done(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", name));
}

static void refused(struct state *state, const char *method, const char *path, json_t *body, const char *code,
        const char *words)
{
        assert_in_range(call(state, method, path, body), 400, 499);
        assert_string_equal(state->code, code);
        if (!strstr(json_text(state->body, "detail"), words))
                fail_msg("unexpected: %s", json_text(state->body, "detail"));
}

static void size_is_that_of_the_answer_and_only_grows(void **data)
{
        struct state *state = *data;

        set_disk(state);
        done(state, "POST", VM "/disks/disk0/resize", json_pack("{s:I}", "size_bytes", 2 * SIZE + 1));
        assert_int_equal(size_of(state), 2 * SIZE + 512);
        assert_string_equal(json_text(state->agents[0].disk_work, "work"), "resize");
        refused(state, "POST", VM "/disks/disk0/resize", json_pack("{s:I}", "size_bytes", SIZE), "conflict",
                "cannot be made smaller");
        refused(state, "POST", VM "/disks/disk7/resize", json_pack("{s:I}", "size_bytes", SIZE), "not-found",
                "disk7");
        refused(state, "POST", VM "/disks/disk0/resize", json_object(), "bad-document", "size_bytes");
        state->agents[0].fail_disk_work = "resize no-space";
        fails(state, "POST", VM "/disks/disk0/resize", json_pack("{s:I}", "size_bytes", 4 * SIZE),
                "no-space");
        assert_int_equal(size_of(state), 2 * SIZE + 512);
}

static void sizes_that_are_none_stay_out_of_the_document(void **data)
{
        struct state *state = *data;

        set_disk(state);
        state->agents[0].disk_work_answer = json_pack("{s:[{s:s, s:s}, {s:s, s:i}, {s:s, s:i}], s:s}",
                "disks", "name", "disk0", "size_bytes", "many", "name", "disk0", "size_bytes", -512, "name",
                "other", "size_bytes", 512, "live", "perhaps");
        done(state, "POST", VM "/disks/disk0/resize", json_pack("{s:I}", "size_bytes", 2 * SIZE));
        assert_int_equal(size_of(state), SIZE);
        create(state, "one");
        assert_state(state, "one", "ready");
        assert_int_equal(json_integer_value(json_object_get(
                                 json_array_get(json_object_get(snapshot_of(state, "one"), "disks"), 0),
                                 "size_bytes")),
                SIZE);
}

/* Of a resize, say, whose answer never came: the agent has looked at the image. */
static void each_answer_says_how_large_the_disks_are(void **data)
{
        struct state *state = *data;

        set_disk(state);
        create(state, "one");
        assert_int_equal(size_of(state), 4 << 20);
        state->agents[0].disk_work_answer =
                json_pack("{s:[{s:s, s:i}]}", "disks", "name", "disk0", "size_bytes", 8 << 20);
        done(state, "DELETE", SNAPSHOTS "/one", NULL);
        assert_int_equal(size_of(state), 8 << 20);
}

static void snapshot_is_in_the_document_before_the_agent_is_asked(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];
        char path[128], tag[64];

        set_disk(state);
        agent->hold = "snapshot";
        ask(state, "POST", SNAPSHOTS, json_pack("{s:s, s:s}", "snapshot", "one", "description", "why"));
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        state->path = path;
        wait_status(state, path, "step", "snapshot");
        while (!agent->held)
                (void)loop_iterate(state->loop, 100);
        assert_state(state, "one", "creating");
        snprintf(tag, sizeof(tag), "drover-%s", json_text(snapshot_of(state, "one"), "id"));
        assert_string_equal(json_text(agent->disk_work, "snapshot"), tag);
        agent->hold = NULL;
        stop_manager(state);
        http_request_reply_json(TAKE_PTR(agent->held), 200, json_object());
        start_manager(state); /* and asks again */
        wait_status(state, path, "state", "succeeded");
        assert_state(state, "one", "ready");
        assert_string_equal(json_text(snapshot_of(state, "one"), "description"), "why");
        assert_string_equal(json_text(snapshot_of(state, "one"), "consistency"), "off");
        assert_true(json_is_true(json_object_get(snapshot_of(state, "one"), "current")));
        assert_int_equal(call(state, "GET", SNAPSHOTS "/one", NULL), 200);
        refused(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", "one"), "exists", "one");
        refused(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", "../one"), "bad-document", "name");
        refused(state, "GET", SNAPSHOTS "/two", NULL, "not-found", "two");
}

static void snapshot_that_fails_leaves_nothing(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];

        set_disk(state);
        agent->fail_disk_work = "snapshot qemu-failed";
        fails(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", "one"), "qemu-failed");
        assert_string_equal(json_text(agent->disk_work, "work"), "delete");
        assert_null(snapshot_of(state, "one"));
}

static void snapshot_that_cannot_be_cleared_away_stays_to_be_deleted(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];
        struct error *error = NULL;
        char path[128];

        set_disk(state);
        agent->hold = "snapshot";
        agent->fail_disk_work = "delete locked";
        ask(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", "one"));
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        while (!agent->held)
                (void)loop_iterate(state->loop, 100);
        agent->hold = NULL;
        error_set(&error, ERROR_QEMU_FAILED, NULL, "QEMU does not want to");
        http_request_reply_error(TAKE_PTR(agent->held), error);
        wait_status(state, path, "state", "failed");
        assert_state(state, "one", "creating");
        refused(state, "POST", SNAPSHOTS "/one/revert", NULL, "conflict", "not complete");
        fails(state, "DELETE", SNAPSHOTS "/one", NULL, "locked");
        assert_state(state, "one", "deleting");
        agent->fail_disk_work = NULL;
        done(state, "DELETE", SNAPSHOTS "/one", NULL);
        assert_null(json_object_get(vm_of(state), "snapshots"));
}

static void snapshot_whose_task_is_cancelled_is_removed(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];
        char path[128], cancel[144];

        set_disk(state);
        agent->hold = "snapshot";
        ask(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", "one"));
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        while (!agent->held)
                (void)loop_iterate(state->loop, 100);
        agent->hold = NULL;
        call(state, "POST", cancel, NULL);
        http_request_reply_json(TAKE_PTR(agent->held), 200, json_object());
        wait_status(state, path, "state", "cancelled");
        assert_string_equal(json_text(agent->disk_work, "work"), "delete");
        assert_null(snapshot_of(state, "one"));
}

static void half_reverted_disks_are_not_started(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];

        set_disk(state);
        create(state, "one");
        create(state, "two");
        agent->fail_disk_work = "revert conflict"; /* before it has changed anything */
        fails(state, "POST", SNAPSHOTS "/one/revert", NULL, "conflict");
        assert_state(state, "one", "ready");
        agent->fail_disk_work = "revert qemu-failed";
        fails(state, "POST", SNAPSHOTS "/one/revert", NULL, "qemu-failed");
        assert_state(state, "one", "reverting");
        fails(state, "POST", VM "/start", NULL, "conflict");
        refused(state, "POST", VM "/disks/disk0/resize", json_pack("{s:I}", "size_bytes", 8 * SIZE),
                "conflict", "not completely reverted");
        refused(state, "DELETE", SNAPSHOTS "/one", NULL, "conflict", "not completely reverted");
        agent->fail_disk_work = "revert conflict"; /* which says nothing of the one before */
        fails(state, "POST", SNAPSHOTS "/two/revert", NULL, "conflict");
        assert_state(state, "two", "reverting");
        fails(state, "POST", VM "/start", NULL, "conflict");
        agent->fail_disk_work = NULL;
        done(state, "POST", SNAPSHOTS "/one/revert", NULL);
        assert_state(state, "one", "ready");
        assert_state(state, "two", "ready");
        assert_int_equal(size_of(state), 4 << 20);
        assert_true(json_is_true(json_object_get(snapshot_of(state, "one"), "current")));
        done(state, "POST", VM "/start", NULL);
        refused(state, "POST", SNAPSHOTS "/one/revert", NULL, "conflict", "is running");
}

static void wait_held(struct state *state, const struct agent_double *agent)
{
        while (!agent->held)
                (void)loop_iterate(state->loop, 100);
}

/* Its agent dies with the first call; the next one does not know what that did, and refuses. */
static void refusal_of_a_second_ask_says_nothing_of_the_first(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];
        char path[128];

        set_disk(state);
        create(state, "one");
        agent->hold = "revert";
        ask(state, "POST", SNAPSHOTS "/one/revert", NULL);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_held(state, agent);
        agent->hold = NULL;
        agent_double_stop(agent);
        http_request_reply_error(
                TAKE_PTR(agent->held), NULL); /* to nobody: the connection ended with the agent */
        agent_double_restart(agent);
        agent->fail_disk_work = "revert not-found";
        wait_status(state, path, "state", "failed");
        assert_state(state, "one", "reverting");
        fails(state, "POST", VM "/start", NULL, "conflict");
}

static bool is_mixed(struct state *state, const char *name)
{
        return json_is_true(json_object_get(snapshot_of(state, name), "mixed_disks"));
}

static void half_reverted_disks_are_started_when_somebody_accepts_them(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];

        set_disk(state);
        create(state, "one");
        create(state, "two");
        agent->fail_disk_work = "revert qemu-failed";
        fails(state, "POST", SNAPSHOTS "/one/revert", NULL, "qemu-failed");
        refused(state, "DELETE", SNAPSHOTS "/one", NULL, "conflict", "not completely reverted");
        if (!strstr(json_text(state->body, "hint"), "--accept-mixed-disks"))
                fail_msg("unexpected: %s", json_text(state->body, "hint"));
        refused(state, "DELETE", SNAPSHOTS "/one?accept_mixed_disks=1", NULL, "conflict", "not completely");
        agent->fail_disk_work = "delete busy"; /* the reverting may be at work still */
        fails(state, "DELETE", SNAPSHOTS "/one?accept_mixed_disks=true", NULL, "busy");
        assert_state(state, "one", "deleting");
        assert_true(is_mixed(state, "one"));
        refused(state, "DELETE", SNAPSHOTS "/one", NULL, "conflict", "not completely reverted");
        fails(state, "POST", VM "/start", NULL, "conflict");
        agent->fail_disk_work = NULL;
        done(state, "DELETE", SNAPSHOTS "/one?accept_mixed_disks=true", NULL);
        assert_null(snapshot_of(state, "one"));
        done(state, "POST", VM "/start", NULL);
}

static void damaged_image_does_not_keep_disks_from_being_accepted(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];

        set_disk(state);
        create(state, "one");
        create(state, "two");
        agent->fail_disk_work = "revert qemu-failed";
        fails(state, "POST", SNAPSHOTS "/one/revert", NULL, "qemu-failed");
        agent->fail_disk_work = "delete check-failed";
        fails(state, "DELETE", SNAPSHOTS "/one?accept_mixed_disks=true", NULL, "check-failed");
        assert_state(state, "one", "deleting");
        assert_false(is_mixed(state, "one"));
        done(state, "POST", VM "/start", NULL);
}

static void reverting_to_another_one_ends_what_was_mixed(void **data)
{
        struct state *state = *data;
        struct agent_double *agent = &state->agents[0];

        set_disk(state);
        create(state, "one");
        create(state, "two");
        agent->fail_disk_work = "revert qemu-failed";
        fails(state, "POST", SNAPSHOTS "/one/revert", NULL, "qemu-failed");
        agent->fail_disk_work = "delete busy";
        fails(state, "DELETE", SNAPSHOTS "/one?accept_mixed_disks=true", NULL, "busy");
        done(state, "POST", SNAPSHOTS "/two/revert", NULL);
        assert_state(state, "one", "deleting"); /* and not good again */
        assert_false(is_mixed(state, "one"));
        done(state, "POST", VM "/start", NULL);
}

static bool check_is_broken(const json_t *report, const char *code)
{
        json_t *check;
        size_t i;

        json_array_foreach (json_object_get(report, "checks"), i, check)
                if (!strcmp(json_text(check, "code"), code))
                        return !json_is_true(json_object_get(check, "ok"));
        return false;
}

static void what_copies_disks_is_refused_while_there_are_any(void **data)
{
        struct state *state = *data;

        set_disk(state);
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s}}", "name", "fast", "spec", "path", "/fast"));
        assert_string_equal(finish(state), "succeeded");
        done(state, "POST", VM "/start", NULL);
        create(state, "one");
        refused(state, "POST", VM "/migrate-disks", json_pack("{s:s}", "to_datastore", "fast"),
                "check-failed", "disk-snapshots");
        assert_int_equal(
                call(state, "POST", VM "/migrate",
                        json_pack("{s:s, s:s, s:b}", "to", "host2", "to_datastore", "fast", "check", 1)),
                200);
        assert_true(check_is_broken(state->body, "disk-snapshots"));
        assert_int_equal(
                call(state, "POST", VM "/migrate", json_pack("{s:s, s:b}", "to", "host2", "check", 1)), 200);
        assert_false(check_is_broken(state->body, "disk-snapshots"));
        done(state, "DELETE", SNAPSHOTS "/one", NULL);
        assert_int_equal(
                call(state, "POST", VM "/migrate",
                        json_pack("{s:s, s:s, s:b}", "to", "host2", "to_datastore", "fast", "check", 1)),
                200);
        assert_false(check_is_broken(state->body, "disk-snapshots"));
}

static void raw_disks_have_none(void **data)
{
        struct state *state = *data;

        set_disk(state);
        call(state, "POST", "/api/v1/vms", new_vm("rawdisk", "raw"));
        assert_string_equal(finish(state), "succeeded");
        refused(state, "POST", "/api/v1/vms/rawdisk/snapshots", json_pack("{s:s}", "snapshot", "one"),
                "check-failed", "disk-format");
        refused(state, "POST", "/api/v1/vms/web/snapshots", json_pack("{s:s}", "snapshot", "one"), "conflict",
                "no disk");
}

static void there_is_an_end_to_their_number(void **data)
{
        struct state *state = *data;
        char name[16];

        set_disk(state);
        for (int i = 0; i < 32; i++) {
                snprintf(name, sizeof(name), "s%d", i);
                create(state, name);
        }
        assert_string_equal(json_text(snapshot_of(state, "s31"), "parent"), "s30");
        fails(state, "POST", SNAPSHOTS, json_pack("{s:s}", "snapshot", "more"), "no-resources");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(size_is_that_of_the_answer_and_only_grows),
                TEST(sizes_that_are_none_stay_out_of_the_document),
                TEST(each_answer_says_how_large_the_disks_are),
                TEST(snapshot_is_in_the_document_before_the_agent_is_asked),
                TEST(snapshot_that_fails_leaves_nothing),
                TEST(snapshot_that_cannot_be_cleared_away_stays_to_be_deleted),
                TEST(snapshot_whose_task_is_cancelled_is_removed),
                TEST(half_reverted_disks_are_not_started),
                TEST(refusal_of_a_second_ask_says_nothing_of_the_first),
                TEST(half_reverted_disks_are_started_when_somebody_accepts_them),
                TEST(damaged_image_does_not_keep_disks_from_being_accepted),
                TEST(reverting_to_another_one_ends_what_was_mixed),
                TEST(what_copies_disks_is_refused_while_there_are_any),
                TEST(raw_disks_have_none),
                TEST(there_is_an_end_to_their_number),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

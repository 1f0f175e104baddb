/* SPDX-License-Identifier: Apache-2.0 */

/* Disk images changed in place on a real agent, with a real QEMU and without: larger, and with snapshots. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "io/crash_point.h"
#include "rig.h"
#include "storage/vm_folder.h"
#include "vmm/qmp.h"

#define MIB ((json_int_t)1 << 20)
#define QMP_MS 30000
#define TAG "drover-0123456789ab"

static struct rig rig;
static bool possible;

static int group_setup(void **state)
{
        possible = rig_setup(&rig);
        if (possible)
                rig_configure(&rig);
        return 0;
}

static int group_teardown(void **state)
{
        rig_teardown(&rig);
        return 0;
}

static json_t *disk(const char *name, const char *format, bool read_only)
{
        json_t *path = json_sprintf("t1/%s.%s", name, format);

        return json_pack("{s:s, s:s, s:o, s:s, s:I, s:b}", "name", name, "datastore", "local", "path", path,
                "format", format, "size_bytes", MIB, "read_only", read_only);
}

/* Its VM has two qcow2 disks, a raw one, and one that is read-only. */
static json_t *document(void)
{
        json_t *vm = rig_vm_document();

        assert_int_equal(json_object_set_new(json_object_get(vm, "spec"), "disks",
                                 json_pack("[o, o, o, o]", disk("disk0", "qcow2", false),
                                         disk("disk1", "qcow2", false), disk("disk2", "raw", false),
                                         disk("disk3", "qcow2", true))),
                0);
        return vm;
}

static json_t *document_with(const char *power)
{
        json_t *vm = document();

        assert_int_equal(json_object_set_new(vm, "status", json_pack("{s:s}", "power", power)), 0);
        return vm;
}

static int each_setup(void **state)
{
        if (possible)
                assert_int_equal(rig_vm(&rig, "create", document(), NULL), 200);
        return 0;
}

static int each_teardown(void **state)
{
        if (!possible)
                return 0;
        if (vm_find(rig.agent, RIG_VM_UID))
                (void)rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL);
        assert_int_equal(rig_vm(&rig, "delete", document(), NULL), 200);
        return 0;
}

static void run(const char *command)
{
        _cleanup_free_ char *line = alloc_printf("cd %s/store/t1 && %s", rig.folder, command);

        if (system(line) != 0) /* NOLINT(cert-env33-c) */
                fail_msg("%s", line);
}

/* names: an array, taken over. The answer is the caller's. */
static int work(
        const char *kind, json_t *names, const char *snapshot, json_int_t size_bytes, json_t **ret_body)
{
        return rig_vm(&rig, "disk-work",
                json_pack("{s:o, s:s, s:o, s:s*, s:o*}", "vm", document_with("stopped"), "work", kind,
                        "disks", names, "snapshot", snapshot, "size_bytes",
                        size_bytes ? json_integer(size_bytes) : NULL),
                ret_body);
}

static void done(const char *kind, bool live)
{
        _cleanup_json_ json_t *body = NULL;

        assert_int_equal(work(kind, json_pack("[s, s]", "disk0", "disk1"), TAG, 0, &body), 200);
        assert_int_equal(json_is_true(json_object_get(body, "live")), live);
        assert_int_equal(json_array_size(json_object_get(body, "disks")), 2);
}

static json_int_t resized(json_int_t size_bytes)
{
        _cleanup_json_ json_t *body = NULL;

        assert_int_equal(work("resize", json_pack("[s]", "disk0"), NULL, size_bytes, &body), 200);
        return json_integer_value(
                json_object_get(json_array_get(json_object_get(body, "disks"), 0), "size_bytes"));
}

static void refused(const char *kind, json_t *names, const char *snapshot, json_int_t size_bytes, int status,
        const char *words)
{
        _cleanup_json_ json_t *body = NULL;

        assert_int_equal(work(kind, names, snapshot, size_bytes, &body), status);
        if (!strstr(json_string_value(json_object_get(body, "detail")), words))
                fail_msg("unexpected: %s", json_string_value(json_object_get(body, "detail")));
}

static void test_vm_that_is_off_and_not_known_here(void **state)
{
        if (!possible)
                skip();
        assert_int_equal(resized(2 * MIB + 1), 2 * MIB + 512);
        assert_int_equal(resized(2 * MIB + 1), 2 * MIB + 512);
        refused("resize", json_pack("[s]", "disk0"), NULL, MIB, 409, "cannot be made smaller");
        run("qemu-io -f qcow2 -c 'write -P 1 0 64k' disk0.qcow2 >/dev/null");
        done("snapshot", false);
        done("snapshot", false);
        run("test $(qemu-img snapshot -l disk0.qcow2 | grep -c " TAG ") = 1");
        run("qemu-io -f qcow2 -c 'write -P 2 0 64k' disk0.qcow2 >/dev/null");
        assert_int_equal(resized(3 * MIB), 3 * MIB);
        done("revert", false);
        run("! qemu-io -f qcow2 -c 'read -P 1 0 64k' disk0.qcow2 | grep -q failed");
        assert_int_equal(resized(2 * MIB + 512), 2 * MIB + 512); /* it is as small as then again */
        done("delete", false);
        done("delete", false);
        refused("revert", json_pack("[s, s]", "disk0", "disk1"), TAG, 0, 404, "does not have the snapshot");
        run("qemu-img check -q disk0.qcow2");
        assert_null(vm_find(rig.agent, RIG_VM_UID)); /* it was known for as long as that took */
}

static void test_vm_that_runs(void **state)
{
        _cleanup_json_ json_t *body = NULL;

        if (!possible)
                skip();
        /* What a snapshot that broke off has left is of another moment. */
        run("qemu-img snapshot -c " TAG " disk1.qcow2");
        assert_int_equal(rig_vm(&rig, "start", document(), NULL), 200);
        assert_int_equal(resized(2 * MIB), 2 * MIB);
        assert_int_equal(vm_find(rig.agent, RIG_VM_UID)->config->disks[0].size_bytes, 2 * MIB);
        refused("resize", json_pack("[s]", "disk0"), NULL, MIB, 409, "cannot be made smaller");
        done("snapshot", true);
        done("snapshot", true);
        refused("revert", json_pack("[s, s]", "disk0", "disk1"), TAG, 0, 409, "runs");
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL), 200);
        run("test $(qemu-img snapshot -l disk0.qcow2 | grep -c " TAG ") = 1");
        run("test $(qemu-img snapshot -l disk1.qcow2 | grep -c " TAG ") = 1");
        assert_int_equal(rig_vm(&rig, "start", document(), NULL), 200);
        done("delete", true);
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL), 200);
        run("! qemu-img snapshot -l disk0.qcow2 | grep -q drover");
}

static void test_what_cannot_be_is_refused(void **state)
{
        static const char *const bad_names[] = {"-a", "../x", "", "a b"};

        if (!possible)
                skip();
        refused("snapshot", json_pack("[s]", "disk2"), TAG, 0, 422, "raw");
        refused("snapshot", json_pack("[s]", "disk3"), TAG, 0, 422, "read-only");
        refused("resize", json_pack("[s]", "disk3"), NULL, 2 * MIB, 422, "read-only");
        refused("resize", json_pack("[s]", "disk7"), NULL, 2 * MIB, 404, "disk7");
        refused("resize", json_pack("[s, s]", "disk0", "disk1"), NULL, 2 * MIB, 422, "disks");
        refused("snapshot", json_array(), TAG, 0, 422, "disks");
        refused("shrink", json_pack("[s]", "disk0"), TAG, 0, 422, "work");
        for (size_t i = 0; i < ARRAY_SIZE(bad_names); i++)
                refused("snapshot", json_pack("[s]", "disk0"), bad_names[i], 0, 422, "snapshot");
        assert_int_equal(rig_vm(&rig, "disk-work",
                                 json_pack("{s:o, s:s, s:[s], s:s}", "vm", document_with("running"), "work",
                                         "snapshot", "disks", "disk0", "snapshot", TAG),
                                 NULL),
                409);
}

static void test_image_that_refers_to_another_file_is_not_touched(void **state)
{
        if (!possible)
                skip();
        run("qemu-img create -q -f raw base.raw 1M && qemu-img create -q -f qcow2 -F raw -b base.raw "
            "disk0.qcow2");
        refused("snapshot", json_pack("[s, s]", "disk0", "disk1"), TAG, 0, 422, "refers to another file");
        refused("resize", json_pack("[s]", "disk0"), NULL, 2 * MIB, 422, "refers to another file");
        run("! qemu-img snapshot -l disk1.qcow2 | grep -q drover");
}

/* --- A work that is held after its first look, so that something else happens first --------------------------- */

static struct held {
        char *gate;
        struct loop_source *timer;
        void (*act)(void); /* and opens the gate, at once or later */
        bool acted;
} held;

static void open_gate(void)
{
        FILE *file = fopen(held.gate, "w");

        assert_non_null(file);
        (void)fclose(file);
}

static void look_whether_held(void *userdata)
{
        _cleanup_free_ char *at = alloc_printf("%s.held", held.gate);

        if (!held.acted && access(at, F_OK) == 0) {
                held.acted = true;
                held.act();
        }
        (void)loop_source_rearm(held.timer, 20);
}

/* False in a build without crash points. */
static bool hold(void (*act)(void))
{
        _cleanup_(crash_hold_freep) struct crash_hold *probe = NULL;
        _cleanup_free_ char *variable = NULL, *at = NULL;
        bool can;

        held = (struct held){.gate = alloc_printf("%s/gate", rig.folder), .act = act};
        at = alloc_printf("%s.held", held.gate);
        variable = alloc_printf("disk-work-looked:%s", held.gate);
        assert_int_equal(setenv("DROVER_HOLD_AT", variable, 1), 0);
        can = crash_point_hold(rig.loop, "disk-work-looked", look_whether_held, NULL, &probe);
        (void)unlink(at);
        if (can)
                assert_int_equal(loop_add_timer(rig.loop, 20, look_whether_held, NULL, &held.timer), 0);
        return can;
}

static void end_hold(void)
{
        _cleanup_free_ char *at = alloc_printf("%s.held", held.gate);

        loop_source_free(held.timer);
        (void)unlink(at);
        (void)unlink(held.gate);
        (void)unsetenv("DROVER_HOLD_AT");
        free(held.gate);
        held = (struct held){0};
}

static void take_owner(const char *host, uint64_t known_epoch, uint64_t epoch)
{
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_free_ char *path = alloc_printf("%s/store", rig.folder);

        assert_int_equal(datastore_open("local", path, NULL, &store, NULL), 0);
        assert_int_equal(vm_folder_open(store, "t1", RIG_VM_UID, &folder, NULL), 0);
        assert_int_equal(vm_folder_take_owner(folder, host, known_epoch, epoch, 0, NULL), 0);
}

static void test_vm_that_another_host_has_taken_is_not_touched(void **state)
{
        if (!possible)
                skip();
        take_owner(RIG_OTHER_UID, 0, 1);
        refused("snapshot", json_pack("[s]", "disk0"), TAG, 0, 409, "took the virtual machine");
        run("! qemu-img snapshot -l disk0.qcow2 | grep -q drover");
        take_owner(RIG_HOST_UID, 1, 2);
}

static void another_host_takes_it(void)
{
        take_owner(RIG_OTHER_UID, 0, 1);
        open_gate();
}

static void test_vm_that_another_host_takes_meanwhile_is_not_touched(void **state)
{
        if (!possible || !hold(another_host_takes_it))
                skip();
        refused("snapshot", json_pack("[s, s]", "disk0", "disk1"), TAG, 0, 409, "took the virtual machine");
        assert_true(held.acted);
        end_hold();
        run("! qemu-img snapshot -l disk0.qcow2 | grep -q drover");
        take_owner(RIG_HOST_UID, 1, 2);
}

static void on_status_told(void *userdata, const json_t *result, const struct error *error)
{
        assert_null(error);
        open_gate();
}

/* The agent asked for QEMU's status when the event came, before this reply did. */
static void on_stopped(void *userdata, const json_t *result, const struct error *error)
{
        assert_null(error);
        assert_int_equal(qmp_command(vm_find(rig.agent, RIG_VM_UID)->qmp, "query-status", NULL, -1, QMP_MS,
                                 on_status_told, NULL, NULL, NULL),
                0);
}

static void on_made(void *userdata, const json_t *result, const struct error *error)
{
        assert_null(error);
        assert_int_equal(qmp_command(vm_find(rig.agent, RIG_VM_UID)->qmp, "stop", NULL, -1, QMP_MS,
                                 on_stopped, NULL, NULL, NULL),
                0);
}

/* The snapshot is there already when it is made, and the guest is stopped, as QEMU does it when a datastore is full. */
static void qemu_stops_the_guest(void)
{
        assert_int_equal(qmp_command(vm_find(rig.agent, RIG_VM_UID)->qmp, "blockdev-snapshot-internal-sync",
                                 json_pack("{s:s, s:s}", "device", "disk0", "name", TAG), -1, QMP_MS, on_made,
                                 NULL, NULL, NULL),
                0);
}

static void test_guest_that_stops_while_a_work_fails_is_shown_as_paused(void **state)
{
        if (!possible)
                skip();
        assert_int_equal(rig_vm(&rig, "start", document(), NULL), 200);
        if (!hold(qemu_stops_the_guest))
                skip();
        assert_int_equal(work("snapshot", json_pack("[s]", "disk0"), TAG, 0, NULL), 500);
        assert_true(held.acted);
        end_hold();
        assert_true(rig_wait_power(&rig, "paused"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(
                        test_vm_that_is_off_and_not_known_here, each_setup, each_teardown),
                cmocka_unit_test_setup_teardown(test_vm_that_runs, each_setup, each_teardown),
                cmocka_unit_test_setup_teardown(test_what_cannot_be_is_refused, each_setup, each_teardown),
                cmocka_unit_test_setup_teardown(
                        test_image_that_refers_to_another_file_is_not_touched, each_setup, each_teardown),
                cmocka_unit_test_setup_teardown(
                        test_vm_that_another_host_has_taken_is_not_touched, each_setup, each_teardown),
                cmocka_unit_test_setup_teardown(
                        test_vm_that_another_host_takes_meanwhile_is_not_touched, each_setup, each_teardown),
                cmocka_unit_test_setup_teardown(test_guest_that_stops_while_a_work_fails_is_shown_as_paused,
                        each_setup, each_teardown),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* What a new agent makes of runtime files when it lacks descriptors for a while, or when a file is damaged. `sleep` stands in
 * for QEMU: nobody answers at its monitor. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/events.h"
#include "agent/storage_move_state.h"
#include "agent/vm_adopt.h"
#include "agent/vm_job.h"
#include "base/doc.h"
#include "io/child.h"
#include "io/file.h"

#define UID "33333333-3333-4333-8333-333333333333"
#define DESCRIPTORS 100 /* more than the test itself has */
#define TIMEOUT_MS 10000

struct fixture {
        char folder[32];
        char path[96], aside[104]; /* runtime file, and where a damaged one goes */
        struct agent agent;
        struct loop *loop;
        struct child *child;
        struct vm_adoption *adoption;
        struct rlimit limit; /* as it was */
        int fillers[DESCRIPTORS];
        size_t n_fillers;
        bool child_ended;
};

static void on_child_exit(void *userdata, const struct child_result *result _unused_)
{
        ((struct fixture *)userdata)->child_ended = true;
}

static int setup(void **state)
{
        struct fixture *f = test_calloc(1, sizeof(*f));

        (void)snprintf(f->folder, sizeof(f->folder), "/tmp/drover-adopt-XXXXXX");
        if (!mkdtemp(f->folder))
                return -1;
        (void)snprintf(f->path, sizeof(f->path), "%s/vms/" UID ".json", f->folder);
        (void)snprintf(f->aside, sizeof(f->aside), "%s.bad", f->path);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &f->limit), 0);
        assert_int_equal(loop_new(&f->loop), 0);
        f->agent.config.runtime_dir = f->agent.config.state_dir = f->folder;
        f->agent.loop = f->loop;
        map_init(&f->agent.vms);
        assert_int_equal(events_new(f->loop, &f->agent.events), 0);
        assert_int_equal(cgroup_new(f->folder, &f->agent.cgroup), 0);
        *state = f;
        return 0;
}

/* Leaves `n` descriptors that can still be had. */
static void leave_descriptors(struct fixture *f, int n)
{
        const struct rlimit few = {.rlim_cur = (rlim_t)(DESCRIPTORS + n), .rlim_max = f->limit.rlim_max};
        int fd;

        while ((fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) < DESCRIPTORS) {
                assert_true(fd >= 0);
                f->fillers[f->n_fillers++] = fd;
        }
        close(fd);
        assert_int_equal(fd, DESCRIPTORS);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
}

static void free_descriptors(struct fixture *f)
{
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &f->limit), 0);
        while (f->n_fillers)
                close(f->fillers[--f->n_fillers]);
}

static int teardown(void **state)
{
        struct fixture *f = *state;
        struct map_item *item, *spare;

        free_descriptors(f);
        vm_adoption_free(f->adoption);
        map_for_each (item, spare, &f->agent.vms)
                vm_free(item->value);
        map_deinit(&f->agent.vms);
        child_free(f->child);
        storage_moves_free(f->agent.storage_moves);
        events_free(f->agent.events);
        cgroup_free(f->agent.cgroup);
        loop_free(f->loop);
        assert_int_equal(file_remove_tree(f->folder), 0);
        test_free(f);
        return 0;
}

static void write_file(struct fixture *f, const char *text)
{
        char vms[64];

        (void)snprintf(vms, sizeof(vms), "%s/vms", f->folder);
        assert_int_equal(file_make_dirs(vms, 0700), 0);
        assert_int_equal(file_write_atomic(f->path, text, strlen(text), 0600), 0);
}

/* A process, and a runtime file that says that it runs the guest. */
static void run_guest(struct fixture *f, const char *power)
{
        const char *const argv[] = {"sleep", "600", NULL};
        struct child_spec spec = CHILD_SPEC_INIT;
        char text[1024];
        uint64_t start_time;

        spec.argv = argv;
        assert_int_equal(child_start(f->loop, &spec, on_child_exit, f, &f->child, NULL), 0);
        assert_int_equal(child_start_time(child_pid(f->child), &start_time), 0);
        (void)snprintf(text, sizeof(text),
                "{\"format\":1,\"pid\":%d,\"start_time\":%llu,\"n_resets\":0,\"taps\":[],\"document\":{"
                "\"kind\":\"vm\","
                "\"name\":\"t1\",\"uid\":\"" UID
                "\",\"spec\":{\"memory_bytes\":67108864,\"datastore\":\"local\"},"
                "\"status\":{\"power\":\"%s\",\"owner_epoch\":9,\"machine\":\"pc-q35-7.2\"}}}",
                (int)child_pid(f->child), (unsigned long long)start_time, power);
        write_file(f, text);
}

static void end_guest(struct fixture *f)
{
        assert_int_equal(child_kill(f->child, SIGKILL), 0);
        assert_int_equal(loop_wait(f->loop, &f->child_ended, TIMEOUT_MS), 0);
}

static void on_adopted(void *userdata _unused_)
{
}

static int adopt(struct fixture *f, struct error **ret_error)
{
        return vm_adopt_all(&f->agent, on_adopted, NULL, &f->adoption, ret_error);
}

static bool exists(const char *path)
{
        struct stat st;

        return stat(path, &st) == 0;
}

/* Iterates until the VM's power is this one. */
static void wait_power(struct fixture *f, enum vm_power power)
{
        const struct vm *vm = vm_find(&f->agent, UID);
        uint64_t until_ms = clock_now_ms(loop_clock(f->loop)) + TIMEOUT_MS;

        while (vm_power(vm) != power && clock_now_ms(loop_clock(f->loop)) < until_ms)
                (void)loop_iterate(f->loop, 100);
        assert_int_equal(vm_power(vm), power);
}

static void test_qemu_without_a_descriptor_left_is_watched_later(void **state)
{
        struct fixture *f = *state;
        const struct vm *vm;

        run_guest(f, "running");
        leave_descriptors(f, 2); /* the folder; the runtime file, then the pidfd: none is left for /proc */
        assert_int_equal(adopt(f, NULL), 0);
        vm = vm_find(&f->agent, UID);
        assert_non_null(vm);
        assert_true(vm->unwatched);
        assert_true(vm_has_qemu(vm));
        assert_int_equal(vm_power(vm), VM_POWER_UNKNOWN);
        free_descriptors(f);
        for (int i = 0; i < 200 && vm->unwatched; i++)
                (void)loop_iterate(f->loop, 50);
        assert_false(vm->unwatched);
        assert_non_null(vm->qemu);
        end_guest(f);
        wait_power(f, VM_POWER_CRASHED);
        assert_false(vm_has_qemu(vm));
}

static void test_qemu_that_ends_unwatched_is_found_ended(void **state)
{
        struct fixture *f = *state;

        run_guest(f, "running");
        leave_descriptors(f, 2);
        assert_int_equal(adopt(f, NULL), 0);
        assert_true(vm_find(&f->agent, UID)->unwatched);
        end_guest(f);
        free_descriptors(f);
        wait_power(f, VM_POWER_CRASHED);
        assert_false(vm_has_qemu(vm_find(&f->agent, UID)));
}

static void test_storage_migration_is_told_of_a_qemu_that_is_found_ended(void **state)
{
        static const char id[] = "0123abcd-4567-4890-8bcd-ef0123456789";
        _cleanup_json_ json_t *document = json_pack("{s:s, s:s, s:s, s:{s:i, s:s}}", "kind", "vm", "name",
                "t1", "uid", UID, "spec", "memory_bytes", 64 << 20, "datastore", "local");
        _cleanup_json_ json_t *record =
                json_pack("{s:i, s:s, s:[{s:s, s:{s:s, s:s, s:s}, s:{s:s, s:s, s:s}, s:b}]}", "format", 1,
                        "id", id, "disks", "name", "disk0", "from", "datastore", "local", "path",
                        "t1/disk0.raw", "format", "raw", "to", "datastore", "local", "path",
                        "t1/disk0-0123abcd4567.raw", "format", "raw", "switched", 0);
        struct fixture *f = *state;
        struct storage_move *m;

        run_guest(f, "running");
        assert_int_equal(storage_moves_new(&f->agent, &f->agent.storage_moves, NULL), 0);
        assert_int_equal(storage_move_make(&f->agent, document, record, record, &m, NULL), 0);
        leave_descriptors(f, 2);
        assert_int_equal(adopt(f, NULL), 0);
        m->live = true;
        m->phase = STORAGE_MOVE_COPYING;
        storage_move_add(m);
        assert_true(storage_move_busy(&f->agent, UID));
        end_guest(f);
        free_descriptors(f);
        wait_power(f, VM_POWER_CRASHED);
        assert_false(storage_move_busy(&f->agent, UID));
        assert_int_equal(m->phase, STORAGE_MOVE_FAILED);
}

static void test_unwatched_guest_is_not_taken_for_ended(void **state)
{
        _cleanup_error_ struct error *error = NULL;
        struct fixture *f = *state;
        struct vm *vm;

        run_guest(f, "incoming");
        leave_descriptors(f, 2);
        assert_int_equal(adopt(f, NULL), 0);
        vm = vm_find(&f->agent, UID);
        assert_int_equal(vm_power(vm), VM_POWER_INCOMING);
        assert_true(vm_discard_incoming(vm, NULL, NULL, &error) < 0);
        assert_int_equal(error->code, ERROR_BUSY);
}

static void test_runtime_file_that_cannot_be_read_now_is_no_damaged_one(void **state)
{
        _cleanup_error_ struct error *error = NULL;
        struct fixture *f = *state;

        run_guest(f, "running");
        leave_descriptors(f, 1); /* the folder */
        assert_int_equal(adopt(f, &error), -EMFILE);
        assert_non_null(strstr(error_message(error), f->path));
        free_descriptors(f);
        assert_true(exists(f->path));
        assert_false(exists(f->aside));
        assert_null(f->adoption);
        assert_int_equal(adopt(f, NULL), 0);
        assert_non_null(vm_find(&f->agent, UID)->qemu);
}

static void test_damaged_runtime_file_is_put_aside(void **state)
{
        struct fixture *f = *state;

        write_file(f, "{\"format\":1,");
        assert_int_equal(adopt(f, NULL), 0);
        assert_null(vm_find(&f->agent, UID));
        assert_false(exists(f->path));
        assert_true(exists(f->aside));
}

/* What its runtime file says of a VM whose QEMU is gone, and what it becomes. */
static void test_vm_between_memory_and_file_is_what_its_state_says(void **state)
{
        static const struct {
                const char *power, *more;
                enum vm_power becomes;
                uint64_t epoch;
        } cases[] = {
                /* Nothing was claimed while the record was read. */
                {"starting", ",\"restoring\":\"suspended\"", VM_POWER_SUSPENDED, 9},
                {"starting", ",\"restoring\":\"crashed\"", VM_POWER_CRASHED, 9},
                {"starting", ",\"restoring\":\"stopped\"", VM_POWER_STOPPED, 9},
                {"starting", "", VM_POWER_STOPPED, 10},
                {"starting", ",\"restoring\":\"suspended\",\"restore_epoch\":8,\"restore_continuing\":true",
                        VM_POWER_CRASHED, 10},
                {"suspending", "", VM_POWER_CRASHED, 10},
                {"suspended", "", VM_POWER_SUSPENDED, 9},
        };
        struct fixture *f = *state;

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char text[1024];
                struct vm *vm;

                (void)snprintf(text, sizeof(text),
                        "{\"format\":1,\"pid\":0,\"start_time\":0,\"n_resets\":0,\"taps\":[]%s,\"document\":{"
                        "\"kind\":\"vm\",\"name\":\"t1\",\"uid\":\"" UID
                        "\",\"spec\":{\"memory_bytes\":67108864,\"datastore\":\"local\"},"
                        "\"status\":{\"power\":\"%s\",\"owner_epoch\":9,\"machine\":\"pc-q35-7.2\"}}}",
                        cases[i].more, cases[i].power);
                write_file(f, text);
                assert_int_equal(adopt(f, NULL), 0);
                vm = vm_find(&f->agent, UID);
                assert_int_equal(vm_power(vm), cases[i].becomes);
                assert_int_equal(vm->config->status.owner_epoch, cases[i].epoch);
                /* A guest that may have run is never resumed from its state once more. */
                assert_int_equal(vm->restore_epoch, 0);
                assert_false(vm->restore_continuing);
                assert_false(vm->restoring);
                vm_free(vm);
                vm_adoption_free(TAKE_PTR(f->adoption));
        }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_qemu_without_a_descriptor_left_is_watched_later),
                TEST(test_qemu_that_ends_unwatched_is_found_ended),
                TEST(test_storage_migration_is_told_of_a_qemu_that_is_found_ended),
                TEST(test_unwatched_guest_is_not_taken_for_ended),
                TEST(test_runtime_file_that_cannot_be_read_now_is_no_damaged_one),
                TEST(test_damaged_runtime_file_is_put_aside),
                TEST(test_vm_between_memory_and_file_is_what_its_state_says),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* A VM on a real agent with a real QEMU: started, stopped, paused, adopted, killed, received. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/host.h"
#include "agent/vm_job.h"
#include "agent/vm_suspend.h"
#include "io/child.h"
#include "rig.h"

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

/* Every test begins without the VM. */
static int each_setup(void **state)
{
        if (possible)
                assert_int_equal(rig_vm(&rig, "create", rig_vm_document(), NULL), 200);
        return 0;
}

static int each_teardown(void **state)
{
        if (!possible)
                return 0;
        if (vm_find(rig.agent, RIG_VM_UID))
                (void)rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL);
        assert_int_equal(rig_vm(&rig, "delete", rig_vm_document(), NULL), 200);
        assert_null(vm_find(rig.agent, RIG_VM_UID));
        return 0;
}

static const char *status_text(json_t *document, const char *key)
{
        return json_string_value(json_object_get(json_object_get(document, "status"), key));
}

static json_int_t status_number(json_t *document, const char *key)
{
        return json_integer_value(json_object_get(json_object_get(document, "status"), key));
}

static pid_t start(void)
{
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), NULL), 200);
        return vm_find(rig.agent, RIG_VM_UID)->pid;
}

static bool process_exists(pid_t pid)
{
        uint64_t start_time;

        return child_start_time(pid, &start_time) == 0;
}

struct outcome {
        bool came;
        enum error_code code;
        bool failed;
};

static void on_done(void *userdata, struct error *error)
{
        struct outcome *outcome = userdata;

        outcome->came = true;
        outcome->failed = error != NULL;
        outcome->code = error ? error->code : 0;
}

static void test_start_answers_with_running_vm_and_its_epoch(void **state)
{
        json_t *document;

        if (!possible)
                skip();
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), &document), 200);
        assert_string_equal(status_text(document, "power"), "running");
        assert_string_equal(status_text(document, "host"), "host1");
        assert_string_equal(status_text(document, "cpu_model"), "qemu64");
        assert_non_null(strstr(status_text(document, "machine"), "pc-q35-"));
        assert_int_equal(status_number(document, "owner_epoch"), 1);
        json_decref(document);
}

static void test_second_start_is_refused(void **state)
{
        if (!possible)
                skip();
        start();
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), NULL), 409);
}

static void test_each_start_takes_the_next_epoch(void **state)
{
        json_t *document;

        if (!possible)
                skip();
        start();
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL), 200);
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), &document), 200);
        assert_int_equal(status_number(document, "owner_epoch"), 2);
        json_decref(document);
}

static void test_forced_stop_leaves_no_process(void **state)
{
        json_t *document;
        pid_t pid;

        if (!possible)
                skip();
        pid = start();
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), &document), 200);
        assert_string_equal(status_text(document, "power"), "stopped");
        assert_false(process_exists(pid));
        json_decref(document);
}

static void test_guest_that_ignores_the_button_runs_on(void **state)
{
        json_t *problem;

        if (!possible)
                skip();
        start();
        /* The firmware alone does not react to ACPI. */
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:i}", "timeout_ms", 200), &problem), 504);
        assert_string_equal(json_string_value(json_object_get(problem, "code")), "timed-out");
        assert_true(rig_wait_power(&rig, "running"));
        json_decref(problem);
}

static void test_pause_and_resume(void **state)
{
        json_t *document;

        if (!possible)
                skip();
        start();
        assert_int_equal(rig_vm(&rig, "pause", NULL, &document), 200);
        assert_string_equal(status_text(document, "power"), "paused");
        json_decref(document);
        assert_int_equal(rig_vm(&rig, "resume", NULL, &document), 200);
        assert_string_equal(status_text(document, "power"), "running");
        json_decref(document);
}

static void test_killed_qemu_is_noticed_with_the_reason(void **state)
{
        json_t *document;

        if (!possible)
                skip();
        assert_int_equal(kill(start(), SIGKILL), 0);
        assert_true(rig_wait_power(&rig, "crashed"));
        assert_int_equal(rig_vm(&rig, "", NULL, &document), 200);
        assert_non_null(strstr(status_text(document, "message"), "signal 9"));
        json_decref(document);
}

static void test_unknown_port_group_is_named_and_nothing_is_left(void **state)
{
        json_t *document, *problem, *nic;

        if (!possible)
                skip();
        document = rig_vm_document();
        nic = json_array_get(json_object_get(json_object_get(document, "spec"), "nics"), 0);
        json_object_set_new(nic, "port_group", json_string("nowhere"));
        assert_int_equal(rig_vm(&rig, "start", document, &problem), 404);
        assert_non_null(strstr(json_string_value(json_object_get(problem, "detail")), "nowhere"));
        json_decref(problem);
        assert_true(rig_wait_power(&rig, "stopped"));
        assert_int_equal(vm_find(rig.agent, RIG_VM_UID)->pid, 0);
}

static void test_failed_start_takes_no_epoch(void **state)
{
        json_t *document, *answer;

        if (!possible)
                skip();
        document = rig_vm_document();
        json_object_set_new(json_object_get(document, "spec"), "cpu_model", json_string("no-such-cpu"));
        assert_int_equal(rig_vm(&rig, "start", document, &answer), 500);
        assert_non_null(strstr(json_string_value(json_object_get(answer, "detail")), "no-such-cpu"));
        json_decref(answer);
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), &answer), 200);
        assert_int_equal(status_number(answer, "owner_epoch"), 1);
        json_decref(answer);
}

static int open_in_folder(const char *file, int flags)
{
        char path[96];
        int fd;

        (void)snprintf(path, sizeof(path), "%s/store/t1/%s", rig.folder, file);
        fd = open(path, flags | O_CLOEXEC, 0640);
        assert_true(fd >= 0);
        return fd;
}

/* What another host does that changes the owner record right now; until the descriptor is closed. */
static int hold_owner_lock(void)
{
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = open_in_folder("owner.lock", O_RDWR | O_CREAT);

        assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
        return fd;
}

static uint64_t epoch_here(void)
{
        return vm_find(rig.agent, RIG_VM_UID)->config->status.owner_epoch;
}

static void test_refused_claim_leaves_the_epoch_as_it_was(void **state)
{
        json_t *problem;
        int lock;

        if (!possible)
                skip();
        lock = hold_owner_lock();
        assert_true(rig_vm(&rig, "start", rig_vm_document(), &problem) >= 400);
        (void)close(lock);
        assert_string_equal(json_string_value(json_object_get(problem, "code")), "busy");
        assert_int_equal(epoch_here(), 0);
        json_decref(problem);
}

static void test_request_that_was_answered_with_busy_is_carried_out_when_it_is_repeated(void **state)
{
        int lock, first, again;

        if (!possible)
                skip();
        lock = hold_owner_lock();
        rig.request_id = "66666666-6666-4666-8666-666666666666";
        first = rig_vm(&rig, "start", rig_vm_document(), NULL);
        (void)close(lock);
        again = rig_vm(&rig, "start", rig_vm_document(), NULL);
        rig.request_id = NULL;
        assert_int_equal(first, 409);
        assert_int_equal(again, 200);
}

static void test_claim_that_is_given_up_counts_as_taken(void **state)
{
        struct outcome started = {0};
        json_t *document;
        struct vm *vm;
        int lock;

        if (!possible)
                skip();
        lock = hold_owner_lock();
        document = rig_vm_document();
        assert_int_equal(vm_start(rig.agent, document, false, false, on_done, &started, &vm, NULL), 0);
        json_decref(document);
        for (int i = 0; i < 400 && !vm->job->owner; i++)
                (void)loop_iterate(rig.loop, 50);
        assert_non_null(vm->job->owner);
        assert_int_equal(kill(vm->pid, SIGKILL), 0);
        assert_int_equal(loop_wait(rig.loop, &started.came, 20000), 0);
        (void)close(lock);
        assert_true(started.failed);
        assert_int_equal(vm_power(vm), VM_POWER_STOPPED);
        assert_int_equal(epoch_here(), 1);
}

static void test_epoch_of_a_claim_whose_document_was_not_written_is_known(void **state)
{
        int fd, flags, status, immutable, undone;
        char owner[256] = "";

        if (!possible)
                skip();
        fd = open_in_folder("vm.json", O_RDONLY);
        immutable = FS_IMMUTABLE_FL;
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
                skip(); /* this file system has no such thing */
        immutable |= flags;
        if (ioctl(fd, FS_IOC_SETFLAGS, &immutable) < 0)
                skip();
        status = rig_vm(&rig, "start", rig_vm_document(), NULL);
        undone = ioctl(fd, FS_IOC_SETFLAGS, &flags);
        (void)close(fd);
        assert_int_equal(undone, 0);
        assert_true(status >= 400);
        fd = open_in_folder("owner.json", O_RDONLY);
        assert_true(read(fd, owner, sizeof(owner) - 1) > 0);
        (void)close(fd);
        assert_non_null(strstr(owner, "\"epoch\":1,"));
        assert_int_equal(epoch_here(), 1);
}

static void test_ram_that_was_not_found_is_asked_for_again(void **state)
{
        struct vm *vm;
        uint64_t address;

        if (!possible)
                skip();
        start();
        vm = vm_find(rig.agent, RIG_VM_UID);
        address = vm->ram_address;
        assert_true(address != 0);
        vm->ram_address = 0;
        vm_refresh(vm);
        for (int i = 0; i < 200 && !vm->ram_address; i++)
                (void)loop_iterate(rig.loop, 50);
        assert_int_equal(vm->ram_address, address);
        assert_false(vm->ram_asked);
}

static void test_vm_runs_on_and_is_adopted_by_the_next_agent(void **state)
{
        const struct vm *vm;
        int ram;
        char byte;
        pid_t pid;

        if (!possible)
                skip();
        pid = start();
        rig_stop_agent(&rig);
        assert_true(process_exists(pid));
        rig_start_agent(&rig);
        vm = vm_find(rig.agent, RIG_VM_UID);
        assert_non_null(vm);
        assert_int_equal(vm->pid, pid);
        assert_int_equal(vm_power(vm), VM_POWER_RUNNING);
        assert_int_equal(vm->config->status.owner_epoch, 1);
        assert_string_equal(vm->qemu_status, "running");
        assert_int_equal(vm->n_taps, 1);
        assert_int_equal(vm_open_ram(vm, &ram, NULL), 0);
        assert_int_equal(pread(ram, &byte, 1,
                                 (off_t)(vm->ram_address + vm->config->status.memory_effective_bytes - 1)),
                1);
        close(ram);
}

static void test_paused_vm_is_adopted_as_paused(void **state)
{
        if (!possible)
                skip();
        start();
        assert_int_equal(rig_vm(&rig, "pause", NULL, NULL), 200);
        rig_stop_agent(&rig);
        rig_start_agent(&rig);
        assert_int_equal(vm_power(vm_find(rig.agent, RIG_VM_UID)), VM_POWER_PAUSED);
}

static void test_qemu_that_died_without_agent_is_reported_as_crashed(void **state)
{
        pid_t pid;

        if (!possible)
                skip();
        pid = start();
        rig_stop_agent(&rig);
        assert_int_equal(kill(pid, SIGKILL), 0);
        while (process_exists(pid)) /* until our loop reaps it */
                (void)loop_iterate(rig.loop, 10);
        rig_start_agent(&rig);
        assert_int_equal(vm_power(vm_find(rig.agent, RIG_VM_UID)), VM_POWER_CRASHED);
}

/* The agent goes away between the first thought of a QEMU and the first instruction of its guest. */
static void test_unfinished_start_is_undone_by_the_next_agent(void **state)
{
        json_t *document;
        struct vm *vm;
        pid_t pid;

        if (!possible)
                skip();
        document = rig_vm_document();
        assert_int_equal(vm_start(rig.agent, document, false, false, NULL, NULL, &vm, NULL), 0);
        json_decref(document);
        for (int i = 0; i < 200 && !vm->pid; i++)
                (void)loop_iterate(rig.loop, 50);
        pid = vm->pid;
        assert_int_equal(vm_power(vm), VM_POWER_STARTING);
        rig_stop_agent(&rig);
        assert_true(process_exists(pid));
        rig_start_agent(&rig);
        assert_true(rig_wait_power(&rig, "stopped"));
        for (int i = 0; i < 200 && process_exists(pid); i++)
                (void)loop_iterate(rig.loop, 50);
        assert_false(process_exists(pid));
        assert_int_equal(epoch_here(), 1); /* nobody can tell whether it was taken */
}

static void set_owner(const char *host, unsigned int epoch)
{
        int fd = open_in_folder("owner.json", O_WRONLY | O_TRUNC);

        assert_true(dprintf(fd,
                            "{\"format\":1,\"vm\":\"" RIG_VM_UID "\",\"owner\":\"%s\",\"epoch\":%u,"
                            "\"since\":\"2026-01-01T00:00:00.000Z\"}\n",
                            host, epoch) > 0);
        (void)close(fd);
}

static bool has_state(void)
{
        char path[96];

        (void)snprintf(path, sizeof(path), "%s/store/t1/suspend.json", rig.folder);
        return access(path, F_OK) == 0;
}

/* Also while its state is yet to be kept for the epoch that an attempt to resume it took: such a state looks out of date. */
static void test_suspended_vm_is_not_started_by_the_way(void **state)
{
        json_t *answer;

        if (!possible)
                skip();
        start();
        assert_int_equal(rig_vm(&rig, "suspend", json_object(), NULL), 200);
        assert_true(rig_wait_power(&rig, "suspended"));
        assert_true(has_state());
        set_owner(RIG_HOST_UID, 2);
        assert_int_equal(rig_vm(&rig, "start", rig_vm_document(), &answer), 409);
        assert_non_null(strstr(json_string_value(json_object_get(answer, "detail")), "suspended"));
        json_decref(answer);
        assert_int_equal(vm_power(vm_find(rig.agent, RIG_VM_UID)), VM_POWER_SUSPENDED);
        assert_true(has_state());
        vm_find(rig.agent, RIG_VM_UID)->restore_epoch = 1;
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), &answer), 200);
        assert_string_equal(status_text(answer, "power"), "running");
        assert_int_equal(status_number(answer, "owner_epoch"), 3);
        json_decref(answer);
        assert_false(has_state());
}

static void test_superseded_host_neither_suspends_nor_removes_a_state(void **state)
{
        int fd;

        if (!possible)
                skip();
        start();
        set_owner(RIG_OTHER_UID, 2);
        fd = open_in_folder("suspend.json", O_WRONLY | O_CREAT);
        (void)close(fd);
        assert_true(rig_vm(&rig, "suspend", json_object(), NULL) >= 400);
        assert_true(rig_wait_power(&rig, "crashed")); /* the VM is that host's: this guest is ended */
        assert_true(has_state());
        set_owner(RIG_HOST_UID, 2);
}

/* The guest would be stopped and an agent that starts again knew nothing of it. */
static void test_vm_is_not_suspended_when_that_cannot_be_noted(void **state)
{
        char path[96];

        if (!possible)
                skip();
        start();
        (void)snprintf(path, sizeof(path), "%s/run/vms/%s.json", rig.folder, RIG_VM_UID);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0700), 0); /* it cannot be replaced by a file */
        assert_true(rig_vm(&rig, "suspend", json_object(), NULL) >= 400);
        assert_int_equal(vm_power(vm_find(rig.agent, RIG_VM_UID)), VM_POWER_RUNNING);
        assert_string_equal(vm_find(rig.agent, RIG_VM_UID)->qemu_status, "running");
        assert_false(has_state());
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(rig_vm(&rig, "suspend", json_object(), NULL), 200);
}

static void suspend_it(void)
{
        start();
        assert_int_equal(rig_vm(&rig, "suspend", json_object(), NULL), 200);
        assert_true(rig_wait_power(&rig, "suspended"));
}

static struct vm *begin_restore(struct outcome *outcome, uint64_t timeout_ms)
{
        json_t *document = rig_vm_document();
        struct vm *vm;

        assert_int_equal(vm_restore(rig.agent, document, timeout_ms, on_done, outcome, &vm, NULL), 0);
        json_decref(document);
        return vm;
}

/* At each step that it comes to, also while QEMU has all of it and the owner record is claimed. */
static void test_cancelled_resumption_leaves_the_vm_suspended(void **state)
{
        struct outcome outcome;
        struct vm *vm;

        if (!possible)
                skip();
        suspend_it();
        for (unsigned int step = 0; step < 4; step++) {
                int lock = step == 3 ? hold_owner_lock() : -1;

                outcome = (struct outcome){};
                vm = begin_restore(&outcome, 0);
                for (int i = 0; i < 400 && !outcome.came &&
                                !(step == 0 || (step == 1 && vm->pid) ||
                                        (step == 2 && vm->qmp && vm->job->call) || vm->job->owner);
                        i++)
                        (void)loop_iterate(rig.loop, 50);
                assert_false(outcome.came);
                assert_int_equal(vm_restore_cancel(vm, NULL), 0);
                if (lock >= 0)
                        (void)close(lock);
                if (!outcome.came)
                        assert_int_equal(loop_wait(rig.loop, &outcome.came, 20000), 0);
                assert_int_equal(outcome.code, ERROR_CANCELLED);
                assert_int_equal(vm_power(vm), VM_POWER_SUSPENDED);
                assert_true(has_state());
                assert_true(vm_restore_cancel(vm, NULL) < 0);
        }
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), NULL), 200);
        assert_false(has_state());
}

static void test_resumption_that_takes_too_long_leaves_the_vm_suspended(void **state)
{
        struct outcome outcome = {};
        struct vm *vm;

        if (!possible)
                skip();
        suspend_it();
        vm = begin_restore(&outcome, 1);
        assert_int_equal(loop_wait(rig.loop, &outcome.came, 20000), 0);
        assert_int_equal(outcome.code, ERROR_TIMED_OUT);
        assert_int_equal(vm_power(vm), VM_POWER_SUSPENDED);
}

static void test_only_so_many_are_suspended_or_resumed_at_once(void **state)
{
        struct outcome outcomes[VM_STATE_TRANSFERS_MAX] = {};
        struct vm *vms[VM_STATE_TRANSFERS_MAX];
        json_t *document;
        char text[64];

        if (!possible)
                skip();
        start();
        for (size_t i = 0; i < VM_STATE_TRANSFERS_MAX; i++) {
                document = rig_vm_document();
                (void)snprintf(text, sizeof(text), "44444444-4444-4444-8444-44444444444%zu", i);
                json_object_set_new(document, "uid", json_string(text));
                (void)snprintf(text, sizeof(text), "other%zu", i);
                json_object_set_new(document, "name", json_string(text));
                assert_int_equal(vm_restore(rig.agent, document, 0, on_done, &outcomes[i], &vms[i], NULL), 0);
                json_decref(document);
        }
        assert_true(vm_state_transfer_fits(rig.agent, NULL) < 0);
        assert_int_equal(rig_vm(&rig, "suspend", json_object(), NULL), 409);
        assert_int_equal(vm_power(vm_find(rig.agent, RIG_VM_UID)), VM_POWER_RUNNING);
        for (size_t i = 0; i < VM_STATE_TRANSFERS_MAX; i++) {
                if (!outcomes[i].came)
                        assert_int_equal(loop_wait(rig.loop, &outcomes[i].came, 20000), 0);
                assert_true(outcomes[i].failed); /* they have no folder */
                vm_forget(vms[i]);
        }
        assert_int_equal(rig_vm(&rig, "suspend", json_object(), NULL), 200);
}

/* Until then the state is good on this host alone, and while it is not shut down. */
static void test_state_that_could_not_be_kept_is_kept_as_soon_as_possible(void **state)
{
        struct outcome outcome = {};
        struct vm *vm;
        int lock;

        if (!possible)
                skip();
        suspend_it();
        lock = hold_owner_lock();
        vm = begin_restore(&outcome, 0);
        assert_int_equal(loop_wait(rig.loop, &outcome.came, 20000), 0);
        assert_int_equal(outcome.code, ERROR_BUSY);
        assert_int_equal(vm->restore_epoch, 1);
        (void)close(lock);
        for (int i = 0; i < 200 && vm->restore_epoch; i++)
                (void)loop_iterate(rig.loop, 50);
        assert_int_equal(vm->restore_epoch, 0);
        assert_int_equal(vm_power(vm), VM_POWER_SUSPENDED);
        assert_int_equal(epoch_here(), 2);
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), NULL), 200);
}

static void change_record(const char *host_uid, const char *key, json_t *value)
{
        char path[96];
        json_t *record, *status;

        (void)snprintf(path, sizeof(path), "%s/store/t1/suspend.json", rig.folder);
        record = json_load_file(path, 0, NULL);
        assert_non_null(record);
        status = json_object_get(json_object_get(record, "document"), "status");
        assert_int_equal(json_object_set_new(status, key, value), 0);
        assert_int_equal(json_object_set_new(record, "host", json_string(host_uid)), 0);
        assert_int_equal(
                json_object_set_new(record, "cpu_features", json_pack("[s]", "feature-of-yesterday")), 0);
        assert_int_equal(json_dump_file(record, path, 0), 0);
        json_decref(record);
}

static void test_state_that_does_not_suit_the_host_or_the_vm_is_refused(void **state)
{
        json_t *answer;

        if (!possible)
                skip();
        suspend_it();
        change_record(RIG_OTHER_UID, "memory_effective_bytes", json_integer((json_int_t)1 << 40));
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), NULL), 409);
        change_record(RIG_OTHER_UID, "memory_effective_bytes", json_integer((64 << 20) + 8192));
        change_record(RIG_OTHER_UID, "cpu_model", json_string("host,-avx2"));
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), NULL), 422);
        for (int i = 0; i < 400 && !rig.agent->host->cpu; i++)
                (void)loop_iterate(rig.loop, 50);
        change_record(RIG_HOST_UID, "cpu_model", json_string("host"));
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), &answer), 422);
        assert_non_null(strstr(json_string_value(json_object_get(answer, "detail")), "feature-of-yesterday"));
        json_decref(answer);
        change_record(RIG_OTHER_UID, "cpu_model", json_string("qemu64"));
        assert_int_equal(rig_vm(&rig, "restore", rig_vm_document(), NULL), 200);
}

/* Changes the runtime file to what it was before the process was started. */
static void forget_pid(void)
{
        char path[96];
        json_t *file;

        (void)snprintf(path, sizeof(path), "%s/run/vms/%s.json", rig.folder, RIG_VM_UID);
        file = json_load_file(path, 0, NULL);
        assert_non_null(file);
        assert_int_equal(json_object_set_new(file, "pid", json_integer(0)), 0);
        assert_int_equal(json_object_set_new(json_object_get(json_object_get(file, "document"), "status"),
                                 "power", json_string("starting")),
                0);
        assert_int_equal(json_dump_file(file, path, 0), 0);
        json_decref(file);
}

static void test_qemu_whose_pid_was_never_noted_is_found_and_ended(void **state)
{
        pid_t pid;

        if (!possible)
                skip();
        pid = start();
        rig_stop_agent(&rig);
        forget_pid();
        rig_start_agent(&rig);
        assert_true(rig_wait_power(&rig, "stopped"));
        for (int i = 0; i < 200 && process_exists(pid); i++)
                (void)loop_iterate(rig.loop, 50);
        assert_false(process_exists(pid));
        assert_int_equal(epoch_here(), 2);
}

struct heard {
        bool running;
        bool gone;
};

static void on_line(void *userdata, const char *line)
{
        struct heard *heard = userdata;

        if (strstr(line, "\"power\":\"running\""))
                heard->running = true;
        if (strcmp(line, "event: vm-gone") == 0)
                heard->gone = true;
}

static void on_stream_end(void *userdata, int status, json_t *body, struct error *error)
{
}

static void test_events_tell_of_start_and_end(void **state)
{
        const char *const headers[] = {"X-Drover-Epoch: 1", NULL};
        struct heard heard = {0};
        struct http_call *call;
        struct http_call_spec spec = {.method = "GET",
                .peer_name = RIG_HOST_UID ".host.drover",
                .path = "/agent/v1/events",
                .headers = headers,
                .timeout_ms = 60000,
                .line = on_line};

        if (!possible)
                skip();
        spec.address = agent_listen_address(rig.agent);
        assert_int_equal(http_client_call(rig.manager, &spec, on_stream_end, &heard, &call, NULL), 0);
        /* The stream begins with what is there already, so it does not matter which of the two comes first. */
        start();
        assert_int_equal(loop_wait(rig.loop, &heard.running, 10000), 0);
        assert_int_equal(rig_vm(&rig, "stop", json_pack("{s:b}", "force", 1), NULL), 200);
        assert_int_equal(rig_vm(&rig, "delete", rig_vm_document(), NULL), 200);
        assert_int_equal(loop_wait(rig.loop, &heard.gone, 10000), 0);
        http_call_cancel(call);
        assert_int_equal(rig_vm(&rig, "create", rig_vm_document(), NULL), 200); /* for the teardown */
}

/* Counted as the kernel does, which doubles what it is asked for. */
static void test_stream_has_the_room_that_it_is_given(void **state)
{
        int pair[2], size = 0;
        socklen_t len = sizeof(size);

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        vm_stream_set_room(pair[1], 100000);
        assert_int_equal(getsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, &len), 0);
        assert_int_equal(size, 100000);
        vm_stream_set_room(pair[1], UINT64_MAX);
        assert_int_equal(getsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, &len), 0);
        assert_true(size > 100000 && size <= VM_STREAM_BYTES); /* without privileges, the kernel's limit */
        close(pair[0]);
        close(pair[1]);
}

static void test_console_shows_the_end_of_the_serial_log(void **state)
{
        char path[96];
        json_t *answer;
        FILE *log;

        if (!possible)
                skip();
        start();
        (void)snprintf(path, sizeof(path), "%s/store/t1/serial.log", rig.folder);
        log = fopen(path, "ae");
        assert_non_null(log);
        assert_true(fputs("Linux version 6.1\nlogin:", log) >= 0);
        assert_int_equal(fclose(log), 0);
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/vms/" RIG_VM_UID "/console?tail=6",
                                 NULL, &answer),
                200);
        assert_string_equal(json_string_value(json_object_get(answer, "text")), "login:");
        json_decref(answer);
}

/* --- Incoming --------------------------------------------------------------------------------------------------- */

static json_t *migrated_document(void)
{
        json_t *document = rig_vm_document();

        json_object_set_new(document, "status",
                json_pack("{s:s, s:s, s:i, s:s, s:s, s:s, s:I}", "power", "running", "host", "elsewhere",
                        "owner_epoch", 4, "machine", "pc-q35-7.2", "cpu_model", "qemu64", "accelerator",
                        "tcg", "memory_effective_bytes", (json_int_t)(64 << 20) + 8192));
        return document;
}

static void test_incoming_waits_for_its_stream_and_can_be_discarded(void **state)
{
        struct outcome started = {0}, gone = {0};
        json_t *document;
        struct vm *vm;
        pid_t pid;
        int fd;

        if (!possible)
                skip();
        document = migrated_document();
        assert_int_equal(vm_start_incoming(rig.agent, document, 4, false, on_done, &started, &vm, NULL), 0);
        json_decref(document);
        assert_int_equal(loop_wait(rig.loop, &started.came, 20000), 0);
        assert_false(started.failed);
        assert_int_equal(vm_power(vm), VM_POWER_INCOMING);
        fd = vm_take_stream_fd(vm);
        assert_true(fd >= 0);
        assert_int_equal(vm_take_stream_fd(vm), -1);
        pid = vm->pid;
        assert_int_equal(vm_discard_incoming(vm, on_done, &gone, NULL), 0);
        assert_int_equal(loop_wait(rig.loop, &gone.came, 20000), 0);
        assert_false(process_exists(pid));
        assert_null(vm_find(rig.agent, RIG_VM_UID));
        (void)close(fd);
}

static void test_incoming_without_the_sources_decisions_is_refused(void **state)
{
        struct error *error = NULL;
        json_t *document;
        struct vm *vm;

        if (!possible)
                skip();
        document = rig_vm_document();
        assert_true(vm_start_incoming(rig.agent, document, 4, false, on_done, NULL, &vm, &error) < 0);
        assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        json_decref(document);
        error_free(error);
}

static void test_incoming_may_not_be_resumed_by_a_user(void **state)
{
        struct outcome started = {0};
        json_t *document;
        struct vm *vm;

        if (!possible)
                skip();
        document = migrated_document();
        assert_int_equal(vm_start_incoming(rig.agent, document, 4, false, on_done, &started, &vm, NULL), 0);
        json_decref(document);
        assert_int_equal(loop_wait(rig.loop, &started.came, 20000), 0);
        assert_int_equal(rig_vm(&rig, "resume", NULL, NULL), 409);
        started.came = false;
        assert_int_equal(vm_discard_incoming(vm, on_done, &started, NULL), 0);
        assert_int_equal(loop_wait(rig.loop, &started.came, 20000), 0);
}

static void test_incoming_that_nobody_continues_is_discarded_by_the_next_agent(void **state)
{
        struct outcome started = {0};
        json_t *document;
        struct vm *vm;
        pid_t pid;

        if (!possible)
                skip();
        document = migrated_document();
        assert_int_equal(vm_start_incoming(rig.agent, document, 4, false, on_done, &started, &vm, NULL), 0);
        json_decref(document);
        assert_int_equal(loop_wait(rig.loop, &started.came, 20000), 0);
        pid = vm->pid;
        rig_stop_agent(&rig);
        rig_start_agent(&rig);
        for (int i = 0; i < 200 && vm_find(rig.agent, RIG_VM_UID); i++)
                (void)loop_iterate(rig.loop, 50);
        assert_null(vm_find(rig.agent, RIG_VM_UID));
        assert_false(process_exists(pid));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, each_setup, each_teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_start_answers_with_running_vm_and_its_epoch),
                TEST(test_second_start_is_refused),
                TEST(test_each_start_takes_the_next_epoch),
                TEST(test_forced_stop_leaves_no_process),
                TEST(test_guest_that_ignores_the_button_runs_on),
                TEST(test_pause_and_resume),
                TEST(test_killed_qemu_is_noticed_with_the_reason),
                TEST(test_unknown_port_group_is_named_and_nothing_is_left),
                TEST(test_failed_start_takes_no_epoch),
                TEST(test_refused_claim_leaves_the_epoch_as_it_was),
                TEST(test_request_that_was_answered_with_busy_is_carried_out_when_it_is_repeated),
                TEST(test_claim_that_is_given_up_counts_as_taken),
                TEST(test_epoch_of_a_claim_whose_document_was_not_written_is_known),
                TEST(test_ram_that_was_not_found_is_asked_for_again),
                TEST(test_vm_runs_on_and_is_adopted_by_the_next_agent),
                TEST(test_paused_vm_is_adopted_as_paused),
                TEST(test_qemu_that_died_without_agent_is_reported_as_crashed),
                TEST(test_unfinished_start_is_undone_by_the_next_agent),
                TEST(test_qemu_whose_pid_was_never_noted_is_found_and_ended),
                TEST(test_events_tell_of_start_and_end),
                TEST(test_stream_has_the_room_that_it_is_given),
                TEST(test_console_shows_the_end_of_the_serial_log),
                TEST(test_incoming_waits_for_its_stream_and_can_be_discarded),
                TEST(test_incoming_without_the_sources_decisions_is_refused),
                TEST(test_incoming_may_not_be_resumed_by_a_user),
                TEST(test_suspended_vm_is_not_started_by_the_way),
                TEST(test_superseded_host_neither_suspends_nor_removes_a_state),
                TEST(test_vm_is_not_suspended_when_that_cannot_be_noted),
                TEST(test_cancelled_resumption_leaves_the_vm_suspended),
                TEST(test_resumption_that_takes_too_long_leaves_the_vm_suspended),
                TEST(test_only_so_many_are_suspended_or_resumed_at_once),
                TEST(test_state_that_could_not_be_kept_is_kept_as_soon_as_possible),
                TEST(test_state_that_does_not_suit_the_host_or_the_vm_is_refused),
                TEST(test_incoming_that_nobody_continues_is_discarded_by_the_next_agent),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The table of powers and the runtime file, without any process. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/agent.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "io/file.h"

#define UID "33333333-3333-4333-8333-333333333333"

static char folder[] = "/tmp/drover-stateXXXXXX";
static struct agent agent;

static int setup(void **state)
{
        char vms[64];

        if (!mkdtemp(folder))
                return -1;
        agent.config.runtime_dir = folder;
        map_init(&agent.vms);
        (void)snprintf(vms, sizeof(vms), "%s/vms", folder);
        return mkdir(vms, 0700);
}

static int teardown(void **state)
{
        map_deinit(&agent.vms);
        return file_remove_tree(folder);
}

static void test_outgoing_vm_never_becomes_stopped_or_crashed_here(void **state)
{
        assert_false(vm_power_may_change(VM_POWER_OUTGOING_DONE, VM_POWER_STOPPED));
        assert_false(vm_power_may_change(VM_POWER_OUTGOING_DONE, VM_POWER_CRASHED));
        assert_true(vm_power_may_change(VM_POWER_OUTGOING_DONE, VM_POWER_RUNNING));
}

static void test_stopped_vm_must_start_before_it_runs(void **state)
{
        assert_false(vm_power_may_change(VM_POWER_STOPPED, VM_POWER_RUNNING));
        assert_true(vm_power_may_change(VM_POWER_STOPPED, VM_POWER_STARTING));
        assert_true(vm_power_may_change(VM_POWER_STARTING, VM_POWER_RUNNING));
}

static void test_only_a_running_or_paused_vm_is_handed_off(void **state)
{
        assert_true(vm_power_may_change(VM_POWER_RUNNING, VM_POWER_OUTGOING_DONE));
        assert_true(vm_power_may_change(VM_POWER_PAUSED, VM_POWER_OUTGOING_DONE));
        assert_false(vm_power_may_change(VM_POWER_INCOMING, VM_POWER_OUTGOING_DONE));
        assert_false(vm_power_may_change(VM_POWER_STARTING, VM_POWER_OUTGOING_DONE));
}

static void test_every_power_may_stay(void **state)
{
        for (enum vm_power power = 0; power < N_VM_POWERS; power++)
                assert_true(vm_power_may_change(power, power));
}

static struct vm *make_vm(void)
{
        json_t *document = json_pack("{s:s, s:s, s:s, s:{s:I, s:s}, s:{s:s, s:I, s:s}}", "kind", "vm", "name",
                "t1", "uid", UID, "spec", "memory_bytes", (json_int_t)(64 << 20), "datastore", "local",
                "status", "power", "running", "owner_epoch", (json_int_t)9, "machine", "pc-q35-7.2");
        struct vm_config *config;
        struct vm *vm;

        assert_int_equal(vm_config_from_json(document, &config, NULL), 0);
        json_decref(document);
        assert_int_equal(vm_new(&agent, config, &vm), 0);
        return vm;
}

static void test_runtime_file_brings_the_vm_back(void **state)
{
        struct vm *vm = make_vm();
        char path[128];

        vm->pid = 4711;
        vm->start_time = 123456;
        vm->n_resets = 2;
        assert_int_equal(vm_state_write(vm, NULL), 0);
        vm_free(vm);
        assert_null(vm_find(&agent, UID));
        (void)snprintf(path, sizeof(path), "%s/vms/%s.json", folder, UID);
        assert_int_equal(vm_state_read(&agent, path, &vm, NULL), 0);
        assert_ptr_equal(vm_find(&agent, UID), vm);
        assert_int_equal(vm->pid, 4711);
        assert_int_equal(vm->start_time, 123456);
        assert_int_equal(vm->n_resets, 2);
        assert_int_equal(vm_power(vm), VM_POWER_RUNNING);
        assert_int_equal(vm->config->status.owner_epoch, 9);
        assert_string_equal(vm->config->status.machine, "pc-q35-7.2");
        vm_free(vm);
}

static void damaged(const char *text)
{
        struct error *error = NULL;
        char path[128];
        struct vm *vm;

        (void)snprintf(path, sizeof(path), "%s/vms/%s.json", folder, UID);
        assert_int_equal(file_write_atomic(path, text, strlen(text), 0600), 0);
        assert_true(vm_state_read(&agent, path, &vm, &error) < 0);
        assert_non_null(error);
        assert_null(vm_find(&agent, UID));
        error_free(error);
}

static void test_damaged_runtime_files_are_refused(void **state)
{
        damaged("");
        damaged("{\"format\":1");
        damaged("{\"format\":2,\"pid\":1,\"start_time\":1,\"n_resets\":0}");
        damaged("{\"format\":1,\"pid\":-5,\"start_time\":1,\"n_resets\":0}");
        damaged("{\"format\":1,\"document\":{},\"pid\":1,\"start_time\":1,\"n_resets\":0}");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_outgoing_vm_never_becomes_stopped_or_crashed_here),
                cmocka_unit_test(test_stopped_vm_must_start_before_it_runs),
                cmocka_unit_test(test_only_a_running_or_paused_vm_is_handed_off),
                cmocka_unit_test(test_every_power_may_stay),
                cmocka_unit_test(test_runtime_file_brings_the_vm_back),
                cmocka_unit_test(test_damaged_runtime_files_are_refused),
        };

        return cmocka_run_group_tests(tests, setup, teardown);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* What src/vmm knows of QEMU, against QEMU itself. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "base/doc.h"
#include "io/file.h"
#include "qemu_fixture.h"
#include "vmm/accel_probe.h"
#include "vmm/cpu_probe.h"
#include "vmm/qemu_binary.h"

#define UID "'uid': '6f1c2f6e-5a1b-4c3d-8e2f-0123456789ab'"
#define Q35_EVERYTHING \
        "{'name': 'web1', " UID ", 'spec': {'cpus': 2, 'memory_bytes': 134217728, 'datastore': 'd'," \
        "'disks': [{'size_bytes': 1048576}, {'format': 'raw', 'size_bytes': 1048576}," \
        "{'bus': 'scsi', 'size_bytes': 1048576}, {'bus': 'scsi', 'size_bytes': 1048576, 'read_only': true}," \
        "{'bus': 'sata', 'size_bytes': 1048576}]," \
        "'cdrom': {'path': 'i'}, 'nics': [{'port_group': 'p', 'mac': '52:54:00:00:00:01'}," \
        "{'port_group': 'p', 'mac': '52:54:00:00:00:02', 'model': 'e1000'}," \
        "{'port_group': 'p', 'mac': '52:54:00:00:00:03', 'model': 'rtl8139'}]}}"
#define PC_EVERYTHING \
        "{'name': 'old1', " UID ", 'spec': {'cpus': 2, 'memory_bytes': 134217728, 'datastore': 'd'," \
        "'machine': 'pc', 'disks': [{'size_bytes': 1048576}, {'size_bytes': 1048576}," \
        "{'bus': 'scsi', 'size_bytes': 1048576}, {'bus': 'sata', 'size_bytes': 1048576}," \
        "{'bus': 'ide', 'size_bytes': 1048576}, {'bus': 'ide', 'size_bytes': 1048576}]," \
        "'cdrom': {'path': 'i'}, 'nics': [{'port_group': 'p', 'mac': '52:54:00:00:00:01'}," \
        "{'port_group': 'p', 'mac': '52:54:00:00:00:02', 'model': 'e1000'}," \
        "{'port_group': 'p', 'mac': '52:54:00:00:00:03', 'model': 'rtl8139'}]}}"
#define UEFI \
        "{'name': 'uefi1', " UID \
        ", 'spec': {'memory_bytes': 134217728, 'datastore': 'd', 'firmware': 'uefi'}}"
#define SMALL "{'name': 'small', " UID ", 'spec': {'memory_bytes': 16777216, 'datastore': 'd'}}"

struct fixture {
        struct loop *loop;
        char *folder;
        struct qemu_guest guest;
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        assert_int_equal(loop_new(&f->loop), 0);
        f->folder = qemu_test_folder();
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        qemu_guest_free(&f->guest);
        loop_free(f->loop);
        qemu_test_folder_free(f->folder);
        free(f);
        return 0;
}

static void start_run_and_quit(struct fixture *f, const char *document, const char *machine)
{
        qemu_guest_start(&f->guest, f->loop, f->folder, "host1", document, machine, false);
        qemu_guest_assert_status(&f->guest, "prelaunch");
        qemu_guest_do(&f->guest, "cont", NULL);
        qemu_guest_assert_status(&f->guest, "running");
        qemu_guest_wait(&f->guest, &f->guest.resumed);
        qemu_guest_quit(&f->guest);
}

static void q35_with_everything_runs(void **state)
{
        start_run_and_quit(*state, Q35_EVERYTHING, "pc-q35-7.2");
}

static void pc_with_everything_runs(void **state)
{
        start_run_and_quit(*state, PC_EVERYTHING, "pc-i440fx-7.2");
}

static void uefi_guest_runs(void **state)
{
        start_run_and_quit(*state, UEFI, "pc-q35-7.2");
}

/* As many devices as the document allows: every address has to be there. */
static void start_with_most_devices(struct fixture *f, const char *machine, const char *alias)
{
        char document[8192];
        size_t n = (size_t)snprintf(document, sizeof(document),
                "{'name': 'big', " UID
                ", 'spec': {'memory_bytes': 268435456, 'datastore': 'd', 'machine': '%s',"
                "'disks': [{'bus': 'scsi', 'format': 'raw', 'size_bytes': 1048576}",
                alias);

        for (int i = 1; i < VM_DISKS_MAX; i++)
                n += (size_t)snprintf(
                        document + n, sizeof(document) - n, ",{'format': 'raw', 'size_bytes': 1048576}");
        n += (size_t)snprintf(document + n, sizeof(document) - n, "],'nics': [");
        for (int i = 0; i < VM_NICS_MAX; i++)
                n += (size_t)snprintf(document + n, sizeof(document) - n,
                        "%s{'port_group': 'p', 'mac': '52:54:00:00:00:%02x'%s}", i ? "," : "", i,
                        i == 3 ? ",'model': 'e1000'" : "");
        snprintf(document + n, sizeof(document) - n, "]}}");
        start_run_and_quit(f, document, machine);
}

static void q35_with_most_devices_runs(void **state)
{
        start_with_most_devices(*state, "pc-q35-7.2", "q35");
}

static void pc_with_most_devices_runs(void **state)
{
        start_with_most_devices(*state, "pc-i440fx-7.2", "pc");
}

static void incoming_guest_waits(void **state)
{
        struct fixture *f = *state;

        qemu_guest_start(&f->guest, f->loop, f->folder, "host2", SMALL, "pc-q35-7.2", true);
        qemu_guest_assert_status(&f->guest, "inmigrate");
        qemu_guest_quit(&f->guest);
}

static void on_getfd(void *userdata, const json_t *result, const struct error *error)
{
        assert_null(error);
        *(bool *)userdata = true;
}

static void descriptor_reaches_qemu(void **state)
{
        struct fixture *f = *state;
        int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        bool came = false;

        qemu_guest_start(&f->guest, f->loop, f->folder, "host1", SMALL, "pc-q35-7.2", false);
        assert_int_equal(qmp_command(f->guest.qmp, "getfd", json_pack("{s:s}", "fdname", "x"), fd,
                                 QEMU_LIMIT_MS, on_getfd, &came, NULL, NULL),
                0);
        close(fd);
        qemu_guest_wait(&f->guest, &came);
        qemu_guest_do(&f->guest, "closefd", json_pack("{s:s}", "fdname", "x"));
        qemu_guest_quit(&f->guest);
}

static void death_of_qemu_is_a_loss(void **state)
{
        struct fixture *f = *state;

        qemu_guest_start(&f->guest, f->loop, f->folder, "host1", SMALL, "pc-q35-7.2", false);
        assert_int_equal(child_kill(f->guest.child, SIGKILL), 0);
        assert_int_equal(loop_wait(f->loop, &f->guest.lost, QEMU_LIMIT_MS), 0);
}

struct probe_result {
        bool came;
        struct qemu_binary *binary;
        enum error_code code;
        bool works;
        char reason[512];
};

static void on_probed(void *userdata, struct qemu_binary *binary, const struct error *error)
{
        struct probe_result *result = userdata;

        assert_true(!binary != !error);
        result->binary = binary;
        result->code = error ? error->code : N_ERROR_CODES;
        result->came = true;
}

static void probe_knows_the_binary(void **state)
{
        struct fixture *f = *state;
        _cleanup_(qemu_probe_freep) struct qemu_probe *probe = NULL;
        _cleanup_(qemu_binary_freep) struct qemu_binary *binary = NULL;
        struct probe_result result = {0};

        assert_int_equal(qemu_probe_start(f->loop, qemu_binary_under_test(false), QEMU_LIMIT_MS, on_probed,
                                 &result, &probe, NULL),
                0);
        assert_int_equal(loop_wait(f->loop, &result.came, QEMU_LIMIT_MS), 0);
        assert_non_null(binary = result.binary);
        assert_true(qemu_binary_at_least(binary, 7, 2));
        assert_true(vm_machine_is_versioned(qemu_binary_resolve_machine(binary, "q35")));
        assert_string_equal(qemu_binary_resolve_machine(binary, "pc-i440fx-7.2"), "pc-i440fx-7.2");
        assert_null(qemu_binary_resolve_machine(binary, "pc-q35-99.0"));
        assert_true(qemu_binary_has_capability(binary, "return-path"));
        assert_false(qemu_binary_has_capability(binary, "no-such-thing"));
}

static void probe_of_another_program_fails(void **state)
{
        struct fixture *f = *state;
        _cleanup_(qemu_probe_freep) struct qemu_probe *probe = NULL;
        struct probe_result result = {0};

        assert_int_equal(
                qemu_probe_start(f->loop, "/bin/true", QEMU_LIMIT_MS, on_probed, &result, &probe, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &result.came, QEMU_LIMIT_MS), 0);
        assert_null(result.binary);
        assert_int_equal(result.code, ERROR_QEMU_DIED);
        assert_true(qemu_probe_start(f->loop, "/nonexistent", 1, on_probed, &result, &probe, NULL) < 0);
}

static void probe_of_a_silent_program_times_out(void **state)
{
        struct fixture *f = *state;
        _cleanup_(qemu_probe_freep) struct qemu_probe *probe = NULL;
        struct probe_result result = {0};
        const char *script = "#!/bin/sh\nexec sleep 1000\n";
        char path[256];

        snprintf(path, sizeof(path), "%s/silent", f->folder);
        assert_int_equal(file_write_atomic(path, script, strlen(script), 0700), 0);
        assert_int_equal(qemu_probe_start(f->loop, path, 100, on_probed, &result, &probe, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &result.came, QEMU_LIMIT_MS), 0);
        assert_int_equal(result.code, ERROR_TIMED_OUT);
}

struct cpu_result {
        json_t *document;
        bool came;
};

static void on_cpu(void *userdata, json_t *document, const struct error *error)
{
        struct cpu_result *result = userdata;

        assert_true(!document != !error);
        if (error)
                print_message("%s\n", error_message(error));
        result->document = document;
        result->came = true;
}

static json_t *probe_cpu(struct fixture *f, const char *path)
{
        _cleanup_(cpu_probe_freep) struct cpu_probe *probe = NULL;
        struct cpu_result result = {0};

        assert_int_equal(cpu_probe_start(f->loop, path, VM_ACCELERATOR_TCG, QEMU_LIMIT_MS, on_cpu, &result,
                                 &probe, NULL),
                0);
        assert_int_equal(loop_wait(f->loop, &result.came, QEMU_LIMIT_MS), 0);
        return result.document;
}

static const json_t *model_of(const json_t *cpu, const char *name)
{
        json_t *model;
        size_t i;

        json_array_foreach (json_object_get(cpu, "models"), i, model)
                if (!strcmp(json_string_value(json_object_get(model, "name")), name))
                        return model;
        fail_msg("no model %s", name);
        return NULL;
}

static bool has(const json_t *names, const char *wanted)
{
        json_t *name;
        size_t i;

        json_array_foreach ((json_t *)names, i, name)
                if (!strcmp(json_string_value(name), wanted))
                        return true;
        return false;
}

static void cpu_probe_tells_what_guests_can_have(void **state)
{
        struct fixture *f = *state;
        _cleanup_json_ json_t *cpu = probe_cpu(f, qemu_binary_under_test(false)), *again = NULL;
        const json_t *model;

        assert_non_null(cpu);
        assert_string_equal(json_string_value(json_object_get(cpu, "accelerator")), "tcg");
        assert_string_equal(json_string_value(json_object_get(cpu, "vendor")), "AuthenticAMD");
        assert_true(has(json_object_get(cpu, "features"), "aes"));
        assert_false(has(json_object_get(cpu, "features"), "avx512f"));
        assert_false(has(json_object_get(cpu, "features"), "migratable"));
        model = model_of(cpu, "Nehalem-v1");
        assert_int_equal(json_array_size(json_object_get(model, "missing")), 0);
        assert_true(has(json_object_get(model, "features"), "sse4.2"));
        assert_false(has(json_object_get(model, "features"), "aes"));
        assert_string_equal(json_string_value(json_object_get(model, "vendor")), "GenuineIntel");
        model = model_of(cpu, "Skylake-Server-v4");
        assert_true(has(json_object_get(model, "missing"), "avx512f"));
        assert_null(json_object_get(model, "features"));
        assert_string_equal(
                json_string_value(json_object_get(model_of(cpu, "Nehalem"), "alias_of")), "Nehalem-v1");
        /* The id is that of the content, whatever order QEMU tells it in. */
        again = probe_cpu(f, qemu_binary_under_test(false));
        assert_true(json_equal(cpu, again));
        assert_int_equal(strlen(json_string_value(json_object_get(cpu, "id"))), 64);
}

static void cpu_probe_of_another_program_fails(void **state)
{
        assert_null(probe_cpu(*state, "/bin/true"));
}

static void on_accel(void *userdata, bool works, const char *reason)
{
        struct probe_result *result = userdata;

        result->came = true;
        result->works = works;
        snprintf(result->reason, sizeof(result->reason), "%s", reason);
}

static void probe_guest_runs_under_tcg(void **state)
{
        struct fixture *f = *state;
        _cleanup_(accel_probe_freep) struct accel_probe *probe = NULL;
        struct probe_result result = {0};

        assert_int_equal(accel_probe_start(f->loop, qemu_binary_under_test(false), VM_ACCELERATOR_TCG,
                                 QEMU_LIMIT_MS, on_accel, &result, &probe, NULL),
                0);
        assert_int_equal(loop_wait(f->loop, &result.came, 2 * QEMU_LIMIT_MS), 0);
        if (!result.works)
                fail_msg("%s", result.reason);
}

/* Whether KVM works is the machine's affair; that there is an answer with a reason is ours. */
static void probe_of_kvm_comes_to_an_answer(void **state)
{
        struct fixture *f = *state;
        _cleanup_(accel_probe_freep) struct accel_probe *probe = NULL;
        struct probe_result result = {0};

        assert_int_equal(accel_probe_start(f->loop, qemu_binary_under_test(false), VM_ACCELERATOR_KVM,
                                 ACCEL_PROBE_TIMEOUT_MS, on_accel, &result, &probe, NULL),
                0);
        assert_int_equal(loop_wait(f->loop, &result.came, 2 * ACCEL_PROBE_TIMEOUT_MS), 0);
        assert_true(strlen(result.reason) > 0);
        print_message("KVM %s: %s\n", result.works ? "works" : "does not work", result.reason);
}

static void guest_that_hangs_is_no_success(void **state)
{
        struct fixture *f = *state;
        _cleanup_(accel_probe_freep) struct accel_probe *probe = NULL;
        struct probe_result result = {0};

        /* No guest gets through the firmware in this time: the same as one that hangs. */
        assert_int_equal(accel_probe_start(f->loop, qemu_binary_under_test(false), VM_ACCELERATOR_TCG, 20,
                                 on_accel, &result, &probe, NULL),
                0);
        assert_int_equal(loop_wait(f->loop, &result.came, QEMU_LIMIT_MS), 0);
        assert_false(result.works);
        assert_non_null(strstr(result.reason, "did not finish in time"));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(q35_with_everything_runs),
                CASE(pc_with_everything_runs),
                CASE(uefi_guest_runs),
                CASE(q35_with_most_devices_runs),
                CASE(pc_with_most_devices_runs),
                CASE(incoming_guest_waits),
                CASE(descriptor_reaches_qemu),
                CASE(death_of_qemu_is_a_loss),
                CASE(probe_knows_the_binary),
                CASE(probe_of_another_program_fails),
                CASE(probe_of_a_silent_program_times_out),
                CASE(cpu_probe_tells_what_guests_can_have),
                CASE(cpu_probe_of_another_program_fails),
                CASE(probe_guest_runs_under_tcg),
                CASE(probe_of_kvm_comes_to_an_answer),
                CASE(guest_that_hangs_is_no_success),
        };

        if (unshare(CLONE_NEWNET) < 0) { /* for the taps */
                fprintf(stderr, "skipped: no network namespace: %s\n", strerror(errno));
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}

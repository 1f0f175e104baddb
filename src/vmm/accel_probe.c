/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/accel_probe.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "io/child.h"
#include "vmm/probe_guest.h"

#define DISK_FD 3 /* number of the boot sector's memfd in the child */
#define OUTPUT_MAX 4096
#define REASON_MAX 512
#define EXIT_CODE(value) (2 * (value) + 1) /* what isa-debug-exit makes of a value */

static const char *const modes[] = {NULL, "real mode", "protected mode", "long mode", "long mode"};

struct accel_probe {
        struct child *child;
        accel_probe_fn done;
        void *userdata;
};

/* First line of what QEMU said, for people. */
static int first_line_length(const char *output)
{
        return (int)strcspn(output, "\n");
}

static void describe(const struct child_result *result, bool works, char *reason, size_t size)
{
        bool mode_failed = result->exited && result->code >= EXIT_CODE(1) &&
                           result->code < EXIT_CODE((int)ARRAY_SIZE(modes)) && result->code % 2;
        char how[64];

        if (works)
                snprintf(reason, size, "the probe guest ran through real, protected and long mode");
        else if (result->timed_out)
                snprintf(reason, size, "the probe guest did not finish in time%s%.*s",
                        *result->output ? ": " : "", first_line_length(result->output), result->output);
        else if (mode_failed)
                snprintf(reason, size, "the probe guest computed a wrong result in %s",
                        modes[(result->code - 1) / 2]);
        else
                snprintf(reason, size, "QEMU %s: %.*s", child_result_format(result, how),
                        first_line_length(result->output), result->output);
}

static void on_exit_of_child(void *userdata, const struct child_result *result)
{
        struct accel_probe *probe = userdata;
        bool works = result->exited && result->code == EXIT_CODE(PROBE_GUEST_SUCCESS);
        char reason[REASON_MAX];

        describe(result, works, reason, sizeof(reason));
        probe->done(probe->userdata, works, reason);
}

/* A memfd with the boot sector. */
static int make_disk(int *ret_fd)
{
        _cleanup_fd_ int fd = memfd_create("drover-probe", MFD_CLOEXEC);

        if (fd < 0)
                return -errno;
        if (write(fd, probe_guest, PROBE_GUEST_SIZE) != PROBE_GUEST_SIZE)
                return -EIO;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int accel_probe_start(struct loop *loop, const char *qemu_binary, enum vm_accelerator accelerator,
        uint64_t timeout_ms, accel_probe_fn done, void *userdata, struct accel_probe **ret_probe,
        struct error **ret_error)
{
        /* With KVM the CPU model is the one that "auto" stands for: there are hosts where that alone makes
         * QEMU abort. A reset is a triple fault of the guest: it ends QEMU with code 0. */
        const char *const argv[] = {qemu_binary, "-machine", "pc", "-accel",
                vm_accelerator_to_string(accelerator), "-cpu",
                accelerator == VM_ACCELERATOR_KVM ? "host" : "qemu64", "-m", "16", "-nodefaults",
                "-no-user-config", "-display", "none", "-no-reboot", "-blockdev",
                "driver=file,node-name=probe,filename=/proc/self/fd/3", "-device", "ide-hd,drive=probe",
                "-device", "isa-debug-exit,iobase=0xf4,iosize=4", NULL};
        struct child_spec spec = CHILD_SPEC_INIT;
        _cleanup_(accel_probe_freep) struct accel_probe *probe = ALLOC(struct accel_probe);
        _cleanup_fd_ int disk_fd = -1;
        int r;

        static_assert(PROBE_GUEST_PORT == 0xf4 && DISK_FD == 3);
        if (!probe)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for an accelerator probe");
        r = make_disk(&disk_fd);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make the probe guest's disk");
        probe->done = done;
        probe->userdata = userdata;
        spec.argv = argv;
        spec.fds = &(struct child_fd){.fd = disk_fd, .target = DISK_FD};
        spec.n_fds = 1;
        spec.output_max = OUTPUT_MAX;
        spec.timeout_ms = timeout_ms;
        r = child_start(loop, &spec, on_exit_of_child, probe, &probe->child, ret_error);
        if (r < 0)
                return r;
        *ret_probe = TAKE_PTR(probe);
        return 0;
}

void accel_probe_free(struct accel_probe *probe)
{
        if (!probe)
                return;
        child_free(probe->child);
        free(probe);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/guest_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

#define BLOCK "(pc.ram)"

/* QEMU's monitor/hmp-cmds.c: "Host virtual address for 0x0 (pc.ram) is 0x7f0123400000" */
static int parse(const char *text, uint64_t *ret_address)
{
        const char *block = strstr(text, BLOCK " is 0x");
        unsigned long long address;
        char *end;

        if (!block)
                return -EBADMSG;
        errno = 0;
        address = strtoull(block + strlen(BLOCK " is "), &end, 16);
        if (errno || address == 0 || (*end && !strchr("\r\n", *end)))
                return -EBADMSG;
        *ret_address = address;
        return 0;
}

int guest_ram_ask(
        struct qmp *qmp, uint64_t timeout_ms, qmp_reply_fn reply, void *userdata, struct error **ret_error)
{
        return qmp_command(qmp, "human-monitor-command", json_pack("{s:s}", "command-line", "gpa2hva 0"), -1,
                timeout_ms, reply, userdata, NULL, ret_error);
}

int guest_ram_read_reply(const json_t *reply, uint64_t *ret_address, struct error **ret_error)
{
        const char *text = json_string_value(reply);

        if (!text || parse(text, ret_address) < 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL,
                        "QEMU does not tell where the guest's RAM is: %.100s", text ?: "no text");
        return 0;
}

int guest_ram_open(pid_t pid, int *ret_fd, struct error **ret_error)
{
        char path[32];
        int fd;

        (void)snprintf(path, sizeof(path), "/proc/%d/mem", pid);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 && (errno == EACCES || errno == EPERM))
                return error_set(ret_error, ERROR_DENIED,
                        "It needs the capability CAP_SYS_PTRACE, and kernel.yama.ptrace_scope below 3.",
                        "the memory of QEMU %d cannot be opened: %s", pid, strerror(errno));
        if (fd < 0)
                return error_from_errno(ret_error, errno, "the memory of QEMU %d cannot be opened", pid);
        *ret_fd = fd;
        return 0;
}

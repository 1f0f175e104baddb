/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <malloc.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER true /* its runtime opens files of its own */
#else
#define UNDER_SANITIZER false
#endif

#define NOBODY 65534

#define HEAPS_MAX 8 /* of malloc(), for up to WIRE_MAX_CHANNELS threads */

/* Calls without conditions: what the threads, the allocator, TLS and the loops need. No lseek(): with it, read() and write()
 * would reach all of QEMU's memory. */
static const int allowed[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev),
        SCMP_SYS(pread64), SCMP_SYS(pwrite64), SCMP_SYS(recvfrom), SCMP_SYS(recvmsg), SCMP_SYS(sendto),
        SCMP_SYS(sendmsg), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(futex), SCMP_SYS(clock_nanosleep),
        SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom),
        SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(close),
        SCMP_SYS(shutdown), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt), SCMP_SYS(rseq),
        SCMP_SYS(set_robust_list), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(rt_sigprocmask),
        SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall), SCMP_SYS(sched_yield),
        SCMP_SYS(sched_getaffinity), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(tgkill),
        SCMP_SYS(getrusage), SCMP_SYS(membarrier)};

static const int fcntl_commands[] = {F_GETFL, F_SETFL, F_DUPFD_CLOEXEC};

#define ARG(n) ((uint32_t)offsetof(struct seccomp_data, args[n]))
#define LOW(n) (ARG(n) + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 4 : 0))
#define HIGH(n) (ARG(n) + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? 0 : 4))
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* A filter of its own for pread() and pwrite(), in the kernel's classic BPF, since a libseccomp rule cannot add up: on
 * a checkpoint, which is open for reading only, and on the memory's file, at most a stripe, and from address <= offset to offset + length <= end, in 64 bits. */
static int confine_ram(const struct ram *ram, int checkpoint_fd, bool write_ram, struct error **ret_error)
{
        uint64_t start = ram->address, end = ram->address + ram->bytes;
        enum { SUM_LOW, SUM_HIGH }; /* scratch memory */
        struct sock_filter code[] = {
                LOAD(offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_pread64, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_pwrite64, 1, 0),
                ALLOW, /* every other call: the main filter's business */
                KILL,  /* pwrite: see below */
                LOAD(LOW(0)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)ram->fd, 3, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)checkpoint_fd, 0, 1),
                ALLOW, /* opened for reading */
                KILL,
                LOAD(HIGH(2)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
                KILL,
                LOAD(LOW(2)),
                BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, WIRE_STRIPE_BYTES, 0, 1),
                KILL,
                /* start <= offset */
                LOAD(HIGH(3)),
                BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(start >> 32), 5, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(start >> 32), 1, 0),
                KILL,
                LOAD(LOW(3)),
                BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)start, 1, 0),
                KILL,
                /* sum = offset + length */
                LOAD(LOW(2)),
                BPF_STMT(BPF_MISC | BPF_TAX, 0),
                LOAD(LOW(3)),
                BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
                BPF_STMT(BPF_ST, SUM_LOW),
                BPF_JUMP(BPF_JMP | BPF_JGE | BPF_X, 0, 3, 0),
                LOAD(HIGH(3)),
                BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 1),
                BPF_STMT(BPF_JMP | BPF_JA, 1),
                LOAD(HIGH(3)),
                BPF_STMT(BPF_ST, SUM_HIGH),
                /* sum <= end */
                BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(end >> 32), 0, 1),
                KILL,
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(end >> 32), 1, 0),
                ALLOW,
                BPF_STMT(BPF_LD | BPF_MEM, SUM_LOW),
                BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)end, 0, 1),
                KILL,
                ALLOW,
        };
        struct sock_fprog program = {.len = ARRAY_SIZE(code), .filter = code};

        if (write_ram) /* on to the checks instead */
                code[4] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
                return error_from_errno(ret_error, errno, "Cannot confine the guest's memory");
        return 0;
}

static int add_rules(scmp_filter_ctx filter, const int *listen_fds, size_t n_listen_fds)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(allowed); i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
        /* Memory, but never executable. */
        if (r == 0)
                r = seccomp_rule_add(
                        filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                        SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
        /* Threads, but no processes. clone3 hides its flags behind a pointer; glibc falls back to clone. */
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
                        SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
        /* No file is opened here. Should glibc have a reason of its own to try that we do not know of, it must not cost a migration. */
        if (r == 0)
                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(openat), 0);
        if (r == 0)
                r = seccomp_rule_add(
                        filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCOUTQ));
        if (r == 0)
                r = seccomp_rule_add(
                        filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, SIOCINQ));
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(fcntl_commands); i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
                        SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)fcntl_commands[i]));
        for (size_t i = 0; r == 0 && i < n_listen_fds; i++)
                r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(accept4), 1,
                        SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)listen_fds[i]));
        return r;
}

static int drop_privileges(struct error **ret_error)
{
        struct rlimit no_core = {0, 0};

        (void)setrlimit(RLIMIT_CORE, &no_core); /* guest memory must not end up in a core file */
        if (geteuid() != 0)
                return 0;
        /* In a container or user namespace the id may not exist (EINVAL) or not be ours to take (EPERM):
         * then the seccomp filter has to do alone. */
        if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
                setresuid(NOBODY, NOBODY, NOBODY) < 0) {
                if (errno != EINVAL && errno != EPERM)
                        return error_from_errno(ret_error, errno, "Cannot drop privileges");
                log_warning("The mover keeps its user id: no unprivileged id is available");
        }
        return 0;
}

int sandbox_enter(const int *listen_fds, size_t n_listen_fds, int checkpoint_fd, const struct ram *ram,
        bool write_ram, struct error **ret_error)
{
        scmp_filter_ctx filter;
        int r = drop_privileges(ret_error);

        if (r < 0)
                return r;
        /* setresuid() clears the parent-death signal and dumpability as it should; no one may attach. */
        if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                return error_from_errno(ret_error, errno, "Cannot enter the sandbox");
        /* glibc asks /proc/sys/vm/overcommit_memory before it gives back a part of a thread's heap (malloc/arena.c,
         * shrink_heap()): it is not to. Whole heaps still go. */
        (void)mallopt(M_TRIM_THRESHOLD, -1);
        /* And /sys/devices/system/cpu/online, how many heaps are worth having, once more than eight threads want one of their own
         * (arena_get2()). */
        (void)mallopt(M_ARENA_MAX, HEAPS_MAX);
        if (UNDER_SANITIZER)
                return 0;
        r = confine_ram(ram, checkpoint_fd, write_ram, ret_error);
        if (r < 0)
                return r;
        filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
        if (!filter)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the system call filter");
        r = add_rules(filter, listen_fds, n_listen_fds);
        if (r == 0)
                r = seccomp_load(filter);
        seccomp_release(filter);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot load the system call filter");
        return 0;
}

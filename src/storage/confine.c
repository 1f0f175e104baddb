/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/macros.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER true
#else
#define UNDER_SANITIZER false
#endif

static const int allowed[] = {SCMP_SYS(read), SCMP_SYS(pread64), SCMP_SYS(lseek), SCMP_SYS(write),
        SCMP_SYS(sendto), SCMP_SYS(close), SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap),
        SCMP_SYS(madvise), SCMP_SYS(futex), SCMP_SYS(fadvise64), SCMP_SYS(clock_gettime),
        SCMP_SYS(gettimeofday), SCMP_SYS(time), SCMP_SYS(getrandom), SCMP_SYS(exit), SCMP_SYS(exit_group),
        SCMP_SYS(rt_sigreturn), SCMP_SYS(restart_syscall)};

static int add_rules(scmp_filter_ctx filter)
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
        return r;
}

int confine_to_descriptors(struct error **ret_error)
{
        scmp_filter_ctx filter;
        int r;

        if (UNDER_SANITIZER)
                return 0;
        filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
        r = filter ? add_rules(filter) : -ENOMEM;
        if (r == 0)
                r = seccomp_load(filter); /* sets no_new_privs, too */
        seccomp_release(filter);
        return r < 0 ? error_from_errno(ret_error, r, "a helper process cannot be shut in") : 0;
}

/* --- Programs that are executed ---------------------------------------------------------------------------------- */

/* Of Landlock's ABI 3, which the headers of the oldest system that we build on do not have. */
#define ACCESS_TRUNCATE (UINT64_C(1) << 14)

#define ACCESS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE)
/* All that Landlock's first ABI knows. */
#define ACCESS_ALL ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

static int landlock_abi(void)
{
        return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

static int allow_fd(int ruleset, int fd, uint64_t access)
{
        const struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};

        return syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno : 0;
}

/* What is not there need not be allowed. */
static int allow_path(int ruleset, const char *path, uint64_t access)
{
        _cleanup_fd_ int fd = open(path, O_PATH | O_CLOEXEC);

        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        return allow_fd(ruleset, fd, access);
}

static int restrict_files(const char *program, const struct confine_file *files, size_t n_files, int abi)
{
        static const char *const folders[] = {"/usr", "/lib", "/lib64"};
        const uint64_t truncate_access = abi >= 3 ? ACCESS_TRUNCATE : 0;
        const struct landlock_ruleset_attr attr = {
                .handled_access_fs =
                        ACCESS_ALL | (abi >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0) | truncate_access};
        _cleanup_fd_ int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);
        int r = ruleset < 0 ? -errno : 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(folders); i++)
                r = allow_path(ruleset, folders[i], ACCESS_READ);
        if (r == 0)
                r = allow_path(ruleset, "/etc/ld.so.cache", LANDLOCK_ACCESS_FS_READ_FILE);
        if (r == 0) /* QEMU tries on it whether the kernel has the locks that it puts on images */
                r = allow_path(
                        ruleset, "/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE);
        if (r == 0)
                r = allow_path(ruleset, program, LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_EXECUTE);
        for (size_t i = 0; r == 0 && i < n_files; i++)
                r = allow_fd(ruleset, files[i].fd,
                        LANDLOCK_ACCESS_FS_READ_FILE |
                                (files[i].write ? LANDLOCK_ACCESS_FS_WRITE_FILE | truncate_access : 0));
        if (r == 0 && (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
                              syscall(SYS_landlock_restrict_self, ruleset, 0) < 0))
                r = -errno;
        return r;
}

/* What a program that converts images has no use for, and whoever has taken it over would have. */
static const int denied[] = {SCMP_SYS(socket), SCMP_SYS(socketpair), SCMP_SYS(connect), SCMP_SYS(bind),
        SCMP_SYS(listen), SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv),
        SCMP_SYS(process_vm_writev), SCMP_SYS(pidfd_open), SCMP_SYS(pidfd_getfd), SCMP_SYS(pidfd_send_signal),
        SCMP_SYS(tkill), SCMP_SYS(rt_sigqueueinfo), SCMP_SYS(kcmp), SCMP_SYS(mount), SCMP_SYS(umount2),
        SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(unshare), SCMP_SYS(setns), SCMP_SYS(fsopen),
        SCMP_SYS(fsmount), SCMP_SYS(open_tree), SCMP_SYS(move_mount), SCMP_SYS(mount_setattr),
        SCMP_SYS(open_by_handle_at), SCMP_SYS(name_to_handle_at), SCMP_SYS(bpf), SCMP_SYS(perf_event_open),
        SCMP_SYS(io_uring_setup), SCMP_SYS(userfaultfd), SCMP_SYS(add_key), SCMP_SYS(request_key),
        SCMP_SYS(keyctl), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module),
        SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(reboot), SCMP_SYS(swapon),
        SCMP_SYS(swapoff), SCMP_SYS(sethostname), SCMP_SYS(setdomainname), SCMP_SYS(settimeofday),
        SCMP_SYS(clock_settime), SCMP_SYS(adjtimex), SCMP_SYS(clock_adjtime), SCMP_SYS(iopl),
        SCMP_SYS(ioperm), SCMP_SYS(acct), SCMP_SYS(syslog), SCMP_SYS(quotactl), SCMP_SYS(chmod),
        SCMP_SYS(fchmod), SCMP_SYS(fchmodat), SCMP_SYS(chown), SCMP_SYS(lchown), SCMP_SYS(fchown),
        SCMP_SYS(fchownat), SCMP_SYS(setxattr), SCMP_SYS(lsetxattr), SCMP_SYS(removexattr),
        SCMP_SYS(lremovexattr), SCMP_SYS(utimensat), SCMP_SYS(mknod), SCMP_SYS(mknodat), SCMP_SYS(truncate),
        SCMP_SYS(creat), SCMP_SYS(utime), SCMP_SYS(utimes), SCMP_SYS(futimesat), SCMP_SYS(fsetxattr),
        SCMP_SYS(fremovexattr), SCMP_SYS(fanotify_init), SCMP_SYS(fork), SCMP_SYS(vfork),
        SCMP_SYS(rt_tgsigqueueinfo), SCMP_SYS(process_madvise), SCMP_SYS(process_mrelease),
        SCMP_SYS(move_pages), SCMP_SYS(migrate_pages), SCMP_SYS(sched_setscheduler), SCMP_SYS(sched_setparam),
        SCMP_SYS(sched_setattr), SCMP_SYS(sched_setaffinity), SCMP_SYS(setpriority), SCMP_SYS(ioprio_set),
        SCMP_SYS(shmget), SCMP_SYS(shmat), SCMP_SYS(shmctl), SCMP_SYS(msgget), SCMP_SYS(msgsnd),
        SCMP_SYS(msgrcv), SCMP_SYS(msgctl), SCMP_SYS(semget), SCMP_SYS(semop), SCMP_SYS(semtimedop),
        SCMP_SYS(semctl), SCMP_SYS(mq_open), SCMP_SYS(mq_unlink)};

/* Calls that the oldest libseccomp that we build with does not know by name; their numbers are those of every architecture (Linux,
 * scripts/syscall.tbl). */
static const int denied_by_number[] = {
        452 /* fchmodat2 */, 463 /* setxattrat */, 466 /* removexattrat */, 469 /* file_setattr */};

/* Calls of which one form alone is denied: the argument, under a mask, has this value. */
static const struct denied_form {
        int call;
        unsigned int argument;
        uint64_t mask, value;
} denied_forms[] = {
        /* Before its ABI 3 Landlock does not see that a file is emptied; and in any, access mode 3 asks it for nothing. */
        {SCMP_SYS(open), 1, O_TRUNC, O_TRUNC},
        {SCMP_SYS(open), 1, O_ACCMODE, O_ACCMODE},
        {SCMP_SYS(openat), 2, O_TRUNC, O_TRUNC},
        {SCMP_SYS(openat), 2, O_ACCMODE, O_ACCMODE},
        /* A process beside this one would outlive it, and have as much memory again; threads are had. */
        {SCMP_SYS(clone), 0, CLONE_THREAD, 0},
        /* Which sends signals to others. */
        {SCMP_SYS(fcntl), 1, UINT32_MAX, F_SETOWN},
        {SCMP_SYS(fcntl), 1, UINT32_MAX, F_SETOWN_EX},
        {SCMP_SYS(fcntl), 1, UINT32_MAX, F_SETSIG},
        /* It ends with the helper. */
        {SCMP_SYS(prctl), 0, UINT32_MAX, PR_SET_PDEATHSIG},
};

/* Their arguments are in memory, where a filter does not look: callers fall back to the calls of before. */
static const int unknown[] = {SCMP_SYS(clone3), SCMP_SYS(openat2)};

static int deny_one(scmp_filter_ctx filter, int call, int error_number)
{
        int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO((unsigned int)error_number), call, 0);

        return r == -EDOM || r == -EFAULT ? 0 : r; /* not on this architecture */
}

static int deny_forms(scmp_filter_ctx filter)
{
        int r = 0;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(denied_forms); i++) {
                const struct denied_form *form = &denied_forms[i];

                r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), form->call, 1,
                        SCMP_CMP(form->argument, SCMP_CMP_MASKED_EQ, form->mask, form->value));
                if (r == -EDOM || r == -EFAULT)
                        r = 0;
        }
        return r;
}

/* Of root's capabilities it keeps what opens the files again by the names of their descriptors, whoever has them. With no_new_privs exec gives
 * none back (Linux, cap_bprm_creds_from_file()). */
static int drop_capabilities(void)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};

        if (syscall(SYS_capget, &header, data) < 0)
                return -errno;
        data[0].permitted &= 1u << CAP_DAC_OVERRIDE;
        data[0].effective = data[0].permitted;
        data[0].inheritable = 0;
        data[1] = (struct __user_cap_data_struct){};
        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int deny_calls(void)
{
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
        const scmp_datum_t self = (scmp_datum_t)getpid(); /* exec keeps it */
        int r = filter ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(denied); i++)
                r = deny_one(filter, denied[i], EPERM);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(denied_by_number); i++)
                r = deny_one(filter, denied_by_number[i], EPERM);
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(unknown); i++)
                r = deny_one(filter, unknown[i], ENOSYS);
        if (r == 0)
                r = deny_forms(filter);
        if (r == 0)
                r = seccomp_rule_add(
                        filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(kill), 1, SCMP_A0(SCMP_CMP_NE, self));
        if (r == 0)
                r = seccomp_rule_add(
                        filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_NE, self));
        if (r == 0)
                r = seccomp_rule_add(/* to raise a limit; reading one is for everybody */
                        filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 1, SCMP_A2(SCMP_CMP_NE, 0));
        if (r == 0)
                r = seccomp_load(filter);
        seccomp_release(filter);
        return r;
}

int confine_program(const char *path, const struct confine_file *files, size_t n_files,
        uint64_t memory_max_bytes, struct error **ret_error)
{
        /* A sanitizer's allocator takes terabytes of addresses, and works until the program is there. */
        rlim_t max_bytes = UNDER_SANITIZER ? RLIM_INFINITY : memory_max_bytes;
        const struct rlimit memory = {max_bytes, max_bytes}, no_core = {};
        int abi = landlock_abi(), r;

        if (abi < 1)
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Boot a kernel that has Landlock (Linux 5.13 or later) switched on.",
                        "images that others have made cannot be read safely on this host: its kernel has no "
                        "Landlock");
        r = restrict_files(path, files, n_files, abi);
        if (r == 0 && (setrlimit(RLIMIT_AS, &memory) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0))
                r = -errno;
        if (r == 0)
                r = drop_capabilities();
        if (r == 0)
                r = deny_calls();
        return r < 0 ? error_from_errno(ret_error, r, "%s cannot be shut in", path) : 0;
}

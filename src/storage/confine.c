/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/confine.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/mman.h>

#include "base/macros.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER true
#else
#define UNDER_SANITIZER false
#endif

static const int allowed[] = {SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(sendto), SCMP_SYS(close),
        SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(madvise), SCMP_SYS(futex),
        SCMP_SYS(fadvise64), SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(time),
        SCMP_SYS(getrandom), SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(rt_sigreturn),
        SCMP_SYS(restart_syscall)};

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

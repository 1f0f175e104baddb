/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Child processes: started with exactly the descriptors they are meant to have, watched by pidfd. Also
 * processes that are no children of ours (adopted after a restart). */

#include <sys/types.h>

#include "base/error.h"
#include "io/loop.h"

struct child;

struct child_fd {
        int fd;     /* ours, stays ours */
        int target; /* its number in the child, >= 3 */
};

struct child_spec {
        const char *const *argv; /* argv[0] is a path, or a name looked up in PATH; NULL-terminated */
        const char *const *env;  /* added to our environment ("NAME=value"); may be NULL */
        const struct child_fd *fds;
        size_t n_fds;
        int stdin_fd;      /* -1: /dev/null */
        int output_fd;     /* stdout and stderr; -1: captured up to output_max bytes (the first ones) */
        size_t output_max; /* 0: discarded when output_fd is -1 */
        const char *
                cgroup_procs; /* path of a cgroup.procs file that the child enters before exec; may be NULL */
        bool own_session;     /* setsid: signals and the end of our session do not reach it */
        int nice; /* 0: as ours. Also that of its session, which it should own: see prefer() in child.c. A wish: not
                               * every host grants it */
        bool outlive; /* child_free() and our end leave it running; else it is killed (PR_SET_PDEATHSIG too)
                       */
        uint64_t timeout_ms; /* SIGKILL after it; 0: no limit */
};
#define CHILD_SPEC_INIT ((struct child_spec){.stdin_fd = -1, .output_fd = -1})

struct child_result {
        bool exited; /* by itself with `code`; else killed by signal `code` */
        int code;    /* -1 for an adopted process: not known */
        bool timed_out;
        const char *output; /* captured text, NUL-terminated; "" if none */
};

typedef void (*child_exit_fn)(void *userdata, const struct child_result *result);

/* Starts a program. exit_fn is called once from the loop when it has ended (not if child_free() comes first).
 * A program that cannot be executed is reported here, by name. */
int child_start(struct loop *loop, const struct child_spec *spec, child_exit_fn exit_fn, void *userdata,
        struct child **ret_child, struct error **ret_error);

/* Watches a process that runs already. `start_time` (field 22 of /proc/PID/stat, see child_start_time())
 * guards against a reused pid; -ESRCH when it is gone. child_free() leaves it running. */
int child_adopt(struct loop *loop, pid_t pid, uint64_t start_time, child_exit_fn exit_fn, void *userdata,
        struct child **ret_child);
int child_start_time(pid_t pid, uint64_t *ret_start_time);

pid_t child_pid(const struct child *child);
bool child_running(const struct child *child);
/* Sends a signal through the pidfd. 0, or -ESRCH. */
int child_kill(struct child *child, int signo);
void child_free(struct child *child);
DEFINE_CLEANUP(struct child *, child_free)

/* Text for people: "exited with code 1", "was killed by signal 9 (Killed)". */
char *child_result_format(const struct child_result *result, char ret[static 64]);

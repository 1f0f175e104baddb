/* SPDX-License-Identifier: Apache-2.0 */
#include "io/child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/text.h"
#include "base/torture.h"
#include "io/file.h"

/* How a start goes: everything that needs memory is made ready before fork(); the child only makes system
 * calls, and writes a struct failure into a close-on-exec pipe if one of them fails. The parent reads that
 * pipe to its end: nothing in it means that the program runs.
 *
 * A process is watched through its pidfd. One that is let go while it runs (child_free()) keeps a small
 * reaper in the loop, so that it leaves no zombie and nobody has to wait for its end. */

struct child {
        pid_t pid;
        int pid_fd;
        bool adopted;
        bool outlive;
        bool running;
        bool timed_out;
        struct loop *loop;
        struct loop_source *exit_source;
        struct loop_source *timer;
        int output_fd; /* read end, -1 unless captured */
        struct loop_source *output_source;
        struct buf output;
        child_exit_fn exit_fn;
        void *userdata;
};

enum stage { STAGE_DESCRIPTORS, STAGE_CGROUP, STAGE_SESSION, STAGE_EXEC };

struct failure {
        enum stage stage;
        int err;
};

/* What the child needs, made by the parent. */
struct plan {
        const struct child_spec *spec;
        char **env;
        int *moved; /* room for n_fds descriptors */
        int stdin_fd;
        int output_fd;
        int error_fd;
        pid_t parent;
};

static void on_exit_event(void *userdata, int fd, uint32_t events);
static void on_output(void *userdata, int fd, uint32_t events);
static void on_timeout(void *userdata);

/* ---- in the child, after fork(): only system calls ---- */

static _Noreturn void die(int error_fd, enum stage stage)
{
        const struct failure f = {stage, errno};

        (void)!write(error_fd, &f, sizeof(f)); /* smaller than PIPE_BUF: whole or not at all */
        _exit(127);
}

static void reset_signals(void)
{
        sigset_t none;

        /* The mask comes last: until then a handler of the parent cannot run here. */
        for (int i = 1; i < NSIG; i++)
                (void)signal(i, SIG_DFL);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Moves a descriptor to a number that no target has; those numbers vanish with exec. */
static int move_up(int fd, int lowest)
{
        return fcntl(fd, F_DUPFD_CLOEXEC, lowest);
}

static int place_descriptors(struct plan *p)
{
        int lowest = 3, in, out;

        for (size_t i = 0; i < p->spec->n_fds; i++)
                lowest = MAX(lowest, p->spec->fds[i].target + 1);
        p->error_fd = move_up(p->error_fd, lowest);
        in = move_up(p->stdin_fd, lowest);
        out = move_up(p->output_fd, lowest);
        if (p->error_fd < 0 || in < 0 || out < 0)
                return -1;
        for (size_t i = 0; i < p->spec->n_fds; i++) {
                p->moved[i] = move_up(p->spec->fds[i].fd, lowest);
                if (p->moved[i] < 0)
                        return -1;
        }
        /* From here on only what dup2() makes survives exec. */
        if (close_range(3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
                return -1;
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
                return -1;
        for (size_t i = 0; i < p->spec->n_fds; i++)
                if (dup2(p->moved[i], p->spec->fds[i].target) < 0)
                        return -1;
        return 0;
}

static int enter_cgroup(const char *procs_path)
{
        int fd = open(procs_path, O_WRONLY | O_CLOEXEC);

        if (fd < 0)
                return -1;
        return write(fd, "0", 1) == 1 ? 0 : -1; /* "0" is the writer itself, in cgroup v1 and v2 */
}

/* Where processes are in no group of their own, the kernel shares processor time between sessions first (sched(7),
 * "The autogroup feature"), and a process's own nice value only counts within its session. */
static void prefer(int nice_value)
{
        unsigned int size = (unsigned int)abs(nice_value) % 100;
        char text[4];
        size_t n = 0;
        int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);

        (void)setpriority(PRIO_PROCESS, 0, nice_value);
        text[n++] = nice_value < 0 ? '-' : '+'; /* no stdio after fork */
        if (size >= 10)
                text[n++] = (char)('0' + size / 10);
        text[n++] = (char)('0' + size % 10);
        if (fd < 0)
                return;
        (void)!write(fd, text, n);
        close(fd);
}

static _Noreturn void run_child(struct plan *p)
{
        const struct child_spec *spec = p->spec;
        int error_fd = p->error_fd;

        if (!spec->outlive) {
                if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                        die(error_fd, STAGE_SESSION);
                if (getppid() != p->parent) /* it died before the line above */
                        _exit(127);
        }
        if (spec->own_session && setsid() < 0)
                die(error_fd, STAGE_SESSION);
        if (spec->nice != 0)
                prefer(spec->nice);
        if (spec->cgroup_procs && enter_cgroup(spec->cgroup_procs) < 0)
                die(error_fd, STAGE_CGROUP);
        if (place_descriptors(p) < 0)
                die(p->error_fd >= 0 ? p->error_fd : error_fd, STAGE_DESCRIPTORS);
        reset_signals();
        execvpe(spec->argv[0], (char *const *)spec->argv, p->env);
        die(p->error_fd, STAGE_EXEC);
}

/* ---- in the parent ---- */

static bool env_has(const char *const *env, const char *entry)
{
        size_t name_len = strcspn(entry, "=") + 1;

        for (; env && *env; env++)
                if (!strncmp(*env, entry, name_len))
                        return true;
        return false;
}

/* Our environment with `add` put over it. The array is the caller's, its strings are not. */
static char **env_make(const char *const *add)
{
        size_t n = 0, at = 0;
        char **env;

        for (size_t i = 0; environ[i]; i++)
                n++;
        for (size_t i = 0; add && add[i]; i++)
                n++;
        env = alloc_array(n + 1, sizeof(*env));
        if (!env)
                return NULL;
        for (size_t i = 0; environ[i]; i++)
                if (!env_has(add, environ[i]))
                        env[at++] = environ[i];
        for (size_t i = 0; add && add[i]; i++)
                env[at++] = (char *)add[i];
        return env;
}

static int describe_failure(const struct child_spec *spec, const struct failure *f, struct error **ret_error)
{
        switch (f->stage) {
        case STAGE_CGROUP:
                return error_from_errno(ret_error, f->err, "cannot start %s: cannot enter control group %s",
                        spec->argv[0], spec->cgroup_procs);
        case STAGE_DESCRIPTORS:
                return error_from_errno(
                        ret_error, f->err, "cannot start %s: cannot pass its descriptors", spec->argv[0]);
        case STAGE_SESSION:
                return error_from_errno(
                        ret_error, f->err, "cannot start %s: cannot make its session", spec->argv[0]);
        case STAGE_EXEC:
                break;
        }
        error_set(ret_error, ERROR_NOT_SUPPORTED,
                f->err == ENOENT ? "Install the program, or correct its path in the configuration." : NULL,
                "cannot execute %s: %s", spec->argv[0], strerror(f->err));
        return -f->err;
}

/* Forks with all signals blocked, so that no handler of ours runs in the child. */
static pid_t fork_plan(struct plan *p)
{
        sigset_t all, old;
        pid_t pid = -1;

        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, &old);
        if (torture_point())
                errno = EAGAIN;
        else
                pid = fork();
        if (pid == 0)
                run_child(p);
        sigprocmask(SIG_SETMASK, &old, NULL);
        return pid;
}

static void reap_now(pid_t pid)
{
        siginfo_t info;

        while (waitid(P_PID, (id_t)pid, &info, WEXITED) < 0 && errno == EINTR)
                ;
}

/* Forks and waits for the exec; *ret_pid is a running program. */
static int spawn(struct plan *p, pid_t *ret_pid, struct error **ret_error)
{
        _cleanup_fd_ int read_fd = -1, write_fd = -1;
        struct failure f;
        int ends[2];
        ssize_t n;
        pid_t pid;

        if (pipe2(ends, O_CLOEXEC) < 0)
                return error_from_errno(ret_error, errno, "cannot start %s", p->spec->argv[0]);
        read_fd = ends[0];
        p->error_fd = write_fd = ends[1];
        p->parent = getpid();
        pid = fork_plan(p);
        if (pid < 0)
                return error_from_errno(ret_error, errno, "cannot start %s", p->spec->argv[0]);
        fd_closep(&write_fd);
        do
                n = read(read_fd, &f, sizeof(f));
        while (n < 0 && errno == EINTR);
        if (n == sizeof(f)) {
                reap_now(pid);
                return describe_failure(p->spec, &f, ret_error);
        }
        *ret_pid = pid;
        return 0;
}

/* Watches pid_fd; also used for processes that are not our children. */
static int watch(struct child *c)
{
        c->pid_fd = torture_point() ? -1 : pidfd_open(c->pid, 0);
        if (c->pid_fd < 0)
                return -errno ?: -ENOMEM;
        c->running = true;
        return loop_add_io(c->loop, c->pid_fd, EPOLLIN, on_exit_event, c, &c->exit_source);
}

static int prepare_output(struct child *c, const struct child_spec *spec, int null_fd, int *ret_fd)
{
        int ends[2];

        if (spec->output_fd >= 0 || !spec->output_max) {
                *ret_fd = fcntl(spec->output_fd >= 0 ? spec->output_fd : null_fd, F_DUPFD_CLOEXEC, 3);
                return *ret_fd < 0 ? -errno : 0;
        }
        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        c->output_fd = ends[0];
        *ret_fd = ends[1];
        (void)fcntl(c->output_fd, F_SETFL, O_NONBLOCK);
        buf_init(&c->output, spec->output_max);
        return loop_add_io(c->loop, c->output_fd, EPOLLIN, on_output, c, &c->output_source);
}

static struct child *child_new(struct loop *loop, child_exit_fn exit_fn, void *userdata)
{
        struct child *c = ALLOC(struct child);

        if (!c)
                return NULL;
        c->pid_fd = c->output_fd = -1;
        c->loop = loop;
        c->exit_fn = exit_fn;
        c->userdata = userdata;
        return c;
}

int child_start(struct loop *loop, const struct child_spec *spec, child_exit_fn exit_fn, void *userdata,
        struct child **ret_child, struct error **ret_error)
{
        _cleanup_(child_freep) struct child *c = child_new(loop, exit_fn, userdata);
        _cleanup_free_ char **env = env_make(spec->env);
        _cleanup_free_ int *moved = alloc_array(spec->n_fds, sizeof(int));
        _cleanup_fd_ int null_fd = -1, output_fd = -1;
        struct plan plan;
        int r;

        if (!c || !env || !moved)
                return error_from_errno(ret_error, ENOMEM, "cannot start %s", spec->argv[0]);
        null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        r = null_fd < 0 ? -errno : prepare_output(c, spec, null_fd, &output_fd);
        if (r == 0 && spec->timeout_ms)
                r = loop_add_timer(loop, spec->timeout_ms, on_timeout, c, &c->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot start %s", spec->argv[0]);
        plan = (struct plan){.spec = spec,
                .env = env,
                .moved = moved,
                .stdin_fd = spec->stdin_fd >= 0 ? spec->stdin_fd : null_fd,
                .output_fd = output_fd};
        r = spawn(&plan, &c->pid, ret_error);
        if (r < 0)
                return r;
        r = watch(c);
        if (r < 0) { /* a program that nobody watches must not run on */
                (void)kill(c->pid, SIGKILL);
                reap_now(c->pid);
                c->running = false;
                return error_from_errno(ret_error, r, "cannot watch %s", spec->argv[0]);
        }
        c->outlive = spec->outlive;
        *ret_child = TAKE_PTR(c);
        return 0;
}

int child_adopt(struct loop *loop, pid_t pid, uint64_t start_time, child_exit_fn exit_fn, void *userdata,
        struct child **ret_child)
{
        _cleanup_(child_freep) struct child *c = child_new(loop, exit_fn, userdata);
        uint64_t now_there;
        int r;

        if (!c)
                return -ENOMEM;
        c->pid = pid;
        c->adopted = c->outlive = true;
        r = watch(c);
        if (r < 0)
                return r;
        /* Asked after the pidfd is open: what it points to is what was asked about. */
        r = child_start_time(pid, &now_there);
        if (r < 0)
                return r;
        if (now_there != start_time)
                return -ESRCH;
        *ret_child = TAKE_PTR(c);
        return 0;
}

int child_start_time(pid_t pid, uint64_t *ret_start_time)
{
        _cleanup_free_ char *text = NULL;
        const char *at;
        char path[64];
        int r;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        r = file_read(path, 4096, &text, NULL);
        if (r < 0)
                return r == -ENOENT ? -ESRCH : r;
        at = strrchr(text, ')'); /* the name in field 2 may hold anything, ')' included */
        if (!at || at[1] != ' ')
                return -EBADMSG;
        if (at[2] == 'Z' || at[2] == 'X') /* field 3: the state */
                return -ESRCH;
        for (int field = 2; at && field < 22; field++)
                at = strchr(at + 1, ' ');
        if (!at)
                return -EBADMSG;
        *ret_start_time = strtoull(at + 1, NULL, 10);
        return 0;
}

pid_t child_pid(const struct child *child)
{
        return child->pid;
}

bool child_running(const struct child *child)
{
        return child->running;
}

int child_kill(struct child *child, int signo)
{
        if (!child->running)
                return -ESRCH;
        return pidfd_send_signal(child->pid_fd, signo, NULL, 0) < 0 ? -errno : 0;
}

/* Reads what is in the pipe; beyond the maximum it is thrown away, so that the program never blocks on it. */
static void drain_output(struct child *c)
{
        char data[4096];

        for (;;) {
                ssize_t n = read(c->output_fd, data, sizeof(data));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return;
                if (n <= 0) { /* all writers are gone */
                        loop_source_free(TAKE_PTR(c->output_source));
                        fd_closep(&c->output_fd);
                        return;
                }
                (void)buf_append(&c->output, data, MIN((size_t)n, c->output.max - c->output.len));
        }
}

static void on_output(void *userdata, int fd _unused_, uint32_t events _unused_)
{
        drain_output(userdata);
}

static void on_timeout(void *userdata)
{
        struct child *c = userdata;

        if (child_kill(c, SIGKILL) == 0)
                c->timed_out = true;
}

static void on_exit_event(void *userdata, int fd _unused_, uint32_t events _unused_)
{
        struct child *c = userdata;
        struct child_result result = {.exited = true, .code = -1};
        siginfo_t info = {};

        if (waitid(P_PIDFD, (id_t)c->pid_fd, &info, WEXITED | WNOHANG) == 0) {
                if (!info.si_pid)
                        return;
                result.exited = info.si_code == CLD_EXITED;
                result.code = info.si_status;
        } /* else not our child: nobody tells us more */
        c->running = false;
        loop_source_free(TAKE_PTR(c->exit_source));
        loop_source_free(TAKE_PTR(c->timer));
        if (c->output_fd >= 0)
                drain_output(c);
        loop_source_free(TAKE_PTR(c->output_source)); /* a grandchild may hold the pipe for ever */
        fd_closep(&c->output_fd);
        result.timed_out = c->timed_out;
        result.output = buf_string(&c->output);
        c->exit_fn(c->userdata, &result); /* may free c */
}

/* ---- children that are let go while they run ---- */

struct reaper {
        int pid_fd;
};

static void reaper_free(void *userdata)
{
        struct reaper *reaper = userdata;

        fd_closep(&reaper->pid_fd);
        free(reaper);
}

static int on_reap(sd_event_source *source, int fd, uint32_t events _unused_, void *userdata _unused_)
{
        siginfo_t info;

        (void)waitid(P_PIDFD, (id_t)fd, &info, WEXITED | WNOHANG);
        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        (void)sd_event_source_set_floating(source, false); /* drops the loop's reference, the only one */
        return 0;
}

/* Hands the pidfd to a source that belongs to the loop itself and ends with the process or with the loop.
 * Without memory for that, a zombie stays until our own end. */
static void leave_to_loop(struct child *c)
{
        struct reaper *reaper = ALLOC(struct reaper);
        sd_event_source *source;

        if (!reaper)
                return;
        reaper->pid_fd = TAKE_FD(c->pid_fd);
        if (sd_event_add_io(loop_sd_event(c->loop), &source, reaper->pid_fd, EPOLLIN, on_reap, reaper) < 0) {
                reaper_free(reaper);
                return;
        }
        (void)sd_event_source_set_destroy_callback(source, reaper_free);
        (void)sd_event_source_set_floating(source, true);
        sd_event_source_unref(source);
}

void child_free(struct child *child)
{
        siginfo_t info = {};

        if (!child)
                return;
        loop_source_free(child->exit_source);
        loop_source_free(child->timer);
        loop_source_free(child->output_source);
        if (child->running && !child->outlive)
                (void)child_kill(child, SIGKILL);
        if (child->running && !child->adopted) {
                (void)waitid(P_PIDFD, (id_t)child->pid_fd, &info, WEXITED | WNOHANG);
                if (!info.si_pid)
                        leave_to_loop(child);
        }
        fd_closep(&child->pid_fd);
        fd_closep(&child->output_fd);
        buf_deinit(&child->output);
        free(child);
}

char *child_result_format(const struct child_result *result, char ret[static 64])
{
        if (result->timed_out)
                snprintf(ret, 64, "ran into its time limit");
        else if (!result->exited)
                snprintf(ret, 64, "was killed by signal %d (%s)", result->code,
                        sigdescr_np(result->code) ?: "unknown");
        else if (result->code < 0)
                snprintf(ret, 64, "ended");
        else
                snprintf(ret, 64, "exited with code %d", result->code);
        return ret;
}

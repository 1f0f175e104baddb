/* SPDX-License-Identifier: Apache-2.0 */

/* The child writes one line of JSON to a pipe, {"result": ...} or {"error": problem document}, and exits. The end of
 * the pipe is the end of the work; the pidfd tells when the child can be reaped, which for one that hangs in the
 * kernel may be hours later: such a child waits in a process-wide list and is looked at when new work starts. */

#include "storage/offload.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/torture.h"

struct offload {
        struct loop_source *io;
        struct loop_source *timer;
        struct buf answer;
        char *what;
        pid_t pid;
        int fd;
        uint64_t timeout_ms;
        struct pool *pool;
        offload_done_fn done;
        void *userdata;
};

/* Children that were killed and have not ended yet (0: free), together with those at work never more than fit. Of the process, like
 * the children themselves. Those that carry a stream, which may take hours, have places of their own. */
struct pool {
        pid_t stuck[OFFLOAD_MAX_STUCK];
        size_t n_working, max;
};
static struct pool short_work = {.max = OFFLOAD_MAX_STUCK}, streams = {.max = OFFLOAD_MAX_STREAMS};
static_assert(OFFLOAD_MAX_STREAMS <= OFFLOAD_MAX_STUCK, "stuck[] has room for them");

static size_t reap_stuck(struct pool *pool)
{
        size_t n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(pool->stuck); i++) {
                if (pool->stuck[i] && waitpid(pool->stuck[i], NULL, WNOHANG) != 0)
                        pool->stuck[i] = 0;
                n += pool->stuck[i] != 0;
        }
        return n;
}

/* Ends the child and reaps it, now or some day. */
static void give_up(struct pool *pool, pid_t pid)
{
        (void)kill(pid, SIGKILL);
        if (waitpid(pid, NULL, WNOHANG) != 0)
                return;
        (void)reap_stuck(pool);
        for (size_t i = 0; i < ARRAY_SIZE(pool->stuck); i++)
                if (!pool->stuck[i]) {
                        pool->stuck[i] = pid;
                        return;
                }
}

static void write_answer(int fd, const json_t *answer)
{
        _cleanup_free_ char *text = answer ? doc_to_text(answer) : NULL;
        size_t len = text ? strlen(text) : 0, at = 0;

        while (at < len) {
                ssize_t n = write(fd, text + at, len - at);

                if (n < 0)
                        return; /* nobody listens any more */
                at += (size_t)n;
        }
}

/* Handlers and masks of the parent's loop mean nothing here. */
static void forget_signals(void)
{
        sigset_t none;

        for (int signo = 1; signo < NSIG; signo++)
                (void)signal(signo, SIG_DFL);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static void __attribute__((noreturn)) run_child(int fd, int extra_fd, offload_fn fn, void *arg)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *answer = NULL;
        json_t *result = NULL;
        int r;

        forget_signals();
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        /* Before anything can hang: what we would keep open here would stay open. */
        if (extra_fd >= 0) {
                extra_fd = fcntl(extra_fd, F_DUPFD, OFFLOAD_FD + 1); /* out of the way of the two numbers */
                if (extra_fd < 0)
                        _exit(1);
        }
        if (dup2(fd, 3) < 0 || (extra_fd >= 0 && dup2(extra_fd, OFFLOAD_FD) < 0) ||
                close_range(extra_fd >= 0 ? OFFLOAD_FD + 1 : OFFLOAD_FD, ~0U, 0) < 0)
                _exit(1);
        r = fn(arg, &result, &error);
        if (r < 0 && !error)
                (void)error_from_errno(&error, r, "operation");
        answer = r < 0 ? json_pack("{s:o}", "error", error_to_json(error))
                       : json_pack("{s:o?}", "result", result);
        write_answer(3, answer);
        _exit(0);
}

static void finish(struct offload *o, json_t *result, struct error *error)
{
        offload_done_fn done = o->done;
        void *userdata = o->userdata;

        offload_free(o);
        done(userdata, result, error);
}

static void read_answer(struct offload *o, json_t **ret_answer, struct error **ret_error)
{
        json_t *problem;

        if (!o->answer.len || doc_parse(o->answer.data, o->answer.len, ret_answer, NULL) < 0) {
                (void)error_set(ret_error, ERROR_INTERNAL, NULL, "%s: the helper process died", o->what);
                return;
        }
        problem = json_object_get(*ret_answer, "error");
        if (!problem)
                return;
        *ret_error = error_from_json(problem);
        if (!*ret_error)
                (void)error_set(ret_error, ERROR_NO_MEMORY, NULL, "%s: out of memory", o->what);
}

static void on_readable(void *userdata, int fd, uint32_t events)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *answer = NULL;
        struct offload *o = userdata;
        json_t *result;
        char data[4096];
        ssize_t n;

        n = read(fd, data, sizeof(data));
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n > 0 && !buf_append(&o->answer, data, (size_t)n))
                return;
        if (n > 0)
                (void)error_set(&error, ERROR_TOO_LARGE, NULL, "%s: the answer is too large", o->what);
        else
                read_answer(o, &answer, &error);
        result = error ? NULL : json_object_get(answer, "result");
        finish(o, json_is_null(result) ? NULL : result, error);
}

static void on_timeout(void *userdata)
{
        _cleanup_error_ struct error *error = NULL;
        struct offload *o = userdata;

        (void)error_set(&error, ERROR_TIMED_OUT, "Check the storage server and the network to it.",
                "%s: the storage did not answer within %llu ms", o->what, (unsigned long long)o->timeout_ms);
        finish(o, NULL, error);
}

static int start_child(struct offload *o, offload_fn fn, void *arg, int extra_fd)
{
        _cleanup_fd_ int read_fd = -1, write_fd = -1;
        int fds[2];

        if (torture_point() || pipe2(fds, O_CLOEXEC) < 0)
                return -EMFILE;
        read_fd = fds[0];
        write_fd = fds[1];
        if (fcntl(read_fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        o->pid = fork();
        if (o->pid < 0) {
                o->pid = 0;
                return -errno;
        }
        if (!o->pid)
                run_child(write_fd, extra_fd, fn, arg);
        o->pool->n_working++;
        o->fd = TAKE_FD(read_fd);
        return 0;
}

static int start(struct pool *pool, struct loop *loop, const char *what, offload_fn fn, void *arg, int fd,
        uint64_t timeout_ms, offload_done_fn done, void *userdata, struct offload **ret_offload,
        struct error **ret_error)
{
        _cleanup_(offload_freep) struct offload *o = NULL;
        int r;

        if (reap_stuck(pool) + pool->n_working >= pool->max)
                return error_set(ret_error, ERROR_BUSY, "Bring the storage back, or restart the host.",
                        "%s: %zu helper processes are at work already, or wait for storage that does not "
                        "answer",
                        what, pool->max);
        o = ALLOC(struct offload);
        if (!o)
                return error_from_errno(ret_error, ENOMEM, "%s", what);
        o->fd = -1;
        o->pool = pool;
        o->timeout_ms = timeout_ms;
        o->done = done;
        o->userdata = userdata;
        buf_init(&o->answer, OFFLOAD_RESULT_MAX_BYTES);
        o->what = alloc_strdup(what);
        r = o->what ? start_child(o, fn, arg, fd) : -ENOMEM;
        if (!r)
                r = loop_add_io(loop, o->fd, EPOLLIN, on_readable, o, &o->io);
        if (!r)
                r = loop_add_timer(loop, timeout_ms, on_timeout, o, &o->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "%s", what);
        *ret_offload = TAKE_PTR(o);
        return 0;
}

int offload_start(struct loop *loop, const char *what, offload_fn fn, void *arg, uint64_t timeout_ms,
        offload_done_fn done, void *userdata, struct offload **ret_offload, struct error **ret_error)
{
        return start(
                &short_work, loop, what, fn, arg, -1, timeout_ms, done, userdata, ret_offload, ret_error);
}

int offload_start_with_fd(struct loop *loop, const char *what, offload_fn fn, void *arg, int fd,
        uint64_t timeout_ms, offload_done_fn done, void *userdata, struct offload **ret_offload,
        struct error **ret_error)
{
        return start(
                &short_work, loop, what, fn, arg, fd, timeout_ms, done, userdata, ret_offload, ret_error);
}

int offload_start_stream(struct loop *loop, const char *what, offload_fn fn, void *arg, int fd,
        uint64_t timeout_ms, offload_done_fn done, void *userdata, struct offload **ret_offload,
        struct error **ret_error)
{
        return start(&streams, loop, what, fn, arg, fd, timeout_ms, done, userdata, ret_offload, ret_error);
}

void offload_free(struct offload *offload)
{
        if (!offload)
                return;
        loop_source_free(offload->io);
        loop_source_free(offload->timer);
        fd_closep(&offload->fd);
        if (offload->pid > 0) {
                offload->pool->n_working--;
                give_up(offload->pool, offload->pid);
        }
        buf_deinit(&offload->answer);
        free(offload->what);
        free(offload);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The monitor of the throw-away process is one end of a socketpair, so nothing is left on disk. Its answers come
 * from a program of the host's administrator, but are bounded and checked like everybody's. */
#include "vmm/qemu_query.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/list.h"
#include "io/child.h"
#include "vmm/qmp.h"

#define QMP_FD 3 /* number of the monitor's socket in the child */
#define OUTPUT_MAX 4096

struct qemu_query {
        char *path;
        struct child *child;
        struct qmp *qmp;
        struct error *error;   /* first failure, until it is known how the process ended */
        struct list questions; /* without an answer so far */
        bool answered;         /* everything was asked and answered */
        uint64_t timeout_ms;
        qemu_query_fn done;
        void *userdata;
};

struct question {
        struct qemu_query *query;
        struct list link;
        qemu_answer_fn answer;
};

static void question_free(struct question *question)
{
        list_remove(&question->link);
        free(question);
}

/* Keeps the first failure and ends the process; done is called when it has ended. `error` is taken over. */
static void fail(struct qemu_query *query, struct error *error)
{
        if (query->error)
                error_free(error);
        else
                query->error = error;
        (void)child_kill(query->child, SIGKILL);
}

static void on_reply(void *userdata, const json_t *result, const struct error *error)
{
        struct question *question = userdata;
        struct qemu_query *query = question->query;
        qemu_answer_fn answer = question->answer;
        struct error *failure = NULL;

        question_free(question);
        if (error && error->code != ERROR_QEMU_FAILED) { /* no answer */
                error_set(&failure, error->code, error->hint, "%s", error_message(error));
                fail(query, failure);
        } else if (answer(query, query->userdata, result, error, &failure) < 0) {
                fail(query, failure);
        } else if (list_empty(&query->questions) && !query->error) {
                query->answered = true;
                (void)child_kill(query->child, SIGKILL); /* it has nothing to save */
        }
}

int qemu_query_ask(struct qemu_query *query, const char *command, json_t *arguments, qemu_answer_fn answer,
        struct error **ret_error)
{
        struct question *question = ALLOC(struct question);
        int r;

        if (!question) {
                json_decref(arguments);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while asking QEMU");
        }
        *question = (struct question){.query = query, .answer = answer};
        list_append(&query->questions, &question->link);
        r = qmp_command(
                query->qmp, command, arguments, -1, query->timeout_ms, on_reply, question, NULL, ret_error);
        if (r < 0)
                question_free(question);
        return r;
}

static void on_lost(void *userdata, const struct error *error)
{
        struct qemu_query *query = userdata;
        struct error *copy = NULL;

        /* The process may be about to end by itself: then how it ended says more. */
        if (!query->answered && !query->error && error->code != ERROR_UNREACHABLE) {
                error_set(&copy, error->code, error->hint, "%s", error_message(error));
                fail(query, copy);
        }
}

static void on_exit_of_child(void *userdata, const struct child_result *result)
{
        struct qemu_query *query = userdata;
        _cleanup_error_ struct error *error = TAKE_PTR(query->error);
        char how[64];

        qmp_free(TAKE_PTR(query->qmp)); /* no answer may come any more */
        if (query->answered) {
                query->done(query->userdata, NULL);
                return;
        }
        if (!error || error->code == ERROR_UNREACHABLE) {
                error_free(TAKE_PTR(error));
                if (result->timed_out)
                        error_set(&error, ERROR_TIMED_OUT, "Run it by hand with -machine none.",
                                "%s did not answer in time", query->path);
                else
                        error_set(&error, ERROR_QEMU_DIED, "Run it by hand with -machine none.",
                                "%s %s: %.*s", query->path, child_result_format(result, how),
                                (int)strcspn(result->output, "\n"), result->output);
        }
        query->done(query->userdata, error);
}

/* Starts the process with one end of a socket pair; the other is the caller's. */
static int start_child(struct loop *loop, struct qemu_query *query, const char *accelerator, int *ret_fd,
        struct error **ret_error)
{
        const char *const argv[] = {query->path, "-machine", "none", "-S", "-nodefaults", "-no-user-config",
                "-display", "none", "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
                accelerator ? "-accel" : NULL, accelerator, NULL};
        _cleanup_fd_ int ours = -1, theirs = -1;
        struct child_spec spec = CHILD_SPEC_INIT;
        int fds[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                return error_from_errno(ret_error, errno, "cannot make a socket pair");
        ours = fds[0];
        theirs = fds[1];
        spec.argv = argv;
        spec.fds = &(struct child_fd){.fd = theirs, .target = QMP_FD};
        spec.n_fds = 1;
        spec.output_max = OUTPUT_MAX;
        spec.timeout_ms = query->timeout_ms;
        r = child_start(loop, &spec, on_exit_of_child, query, &query->child, ret_error);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(ours);
        return 0;
}

int qemu_query_start(struct loop *loop, const char *path, const char *accelerator, uint64_t timeout_ms,
        qemu_query_fn done, void *userdata, struct qemu_query **ret_query, struct error **ret_error)
{
        _cleanup_(qemu_query_freep) struct qemu_query *query = ALLOC(struct qemu_query);
        const struct qmp_callbacks callbacks = {.lost = on_lost, .userdata = query};
        _cleanup_fd_ int fd = -1;
        int r;

        if (!query)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while asking QEMU");
        list_init(&query->questions);
        query->path = alloc_strdup(path);
        query->timeout_ms = timeout_ms;
        query->done = done;
        query->userdata = userdata;
        if (!query->path)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while asking QEMU");
        r = start_child(loop, query, accelerator, &fd, ret_error);
        if (r == 0)
                r = qmp_new(loop, fd, timeout_ms, &callbacks, &query->qmp, ret_error);
        if (r < 0)
                return r;
        (void)TAKE_FD(fd);
        *ret_query = TAKE_PTR(query);
        return 0;
}

void qemu_query_free(struct qemu_query *query)
{
        struct question *question, *spare;

        if (!query)
                return;
        qmp_free(query->qmp);
        child_free(query->child);
        list_for_each_safe (question, spare, &query->questions, link)
                question_free(question);
        error_free(query->error);
        free(query->path);
        free(query);
}

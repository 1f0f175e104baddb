/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/mover_process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "io/child.h"
#include "io/sock.h"

#define MESSAGE_MAX_BYTES 65536
#define QUEUE_MAX 64          /* ops that wait for room in the socket; a mover that reads none is stuck */
#define CONTROL_FD_OF_MOVER 3 /* docs/internals/mover-control.md */
/* Guests on a busy host would otherwise take the processors from what is to relieve it: see
 * docs/decisions/0005-movers-come-before-guests.md. */
#define MOVER_NICE (-10)
#define NICE_PER_LEVEL 3 /* each step of nice is worth a quarter: three of them, twice */
#define END_GRACE_MS 300 /* what a mover on a network that works needs many times less of */

static const char *const role_names[] = {
        [MOVER_SOURCE] = "source",
        [MOVER_SINK] = "sink",
        [MOVER_SAMPLE] = "sample",
        [MOVER_COMPARE] = "compare",
        [MOVER_PROBE_SOURCE] = "probe-source",
        [MOVER_PROBE_SINK] = "probe-sink",
};
static_assert(ARRAY_SIZE(role_names) == N_MOVER_ROLES, "one name a role");

struct queued_op {
        struct list order;
        char *text;
        int *fds; /* duplicates, ours */
        size_t n_fds;
};

struct mover_process {
        struct loop *loop;
        struct child *child;
        int fd; /* our end of the control socket */
        struct loop_source *io;
        struct mover_process_handler handler;
        struct loop_source *grace; /* until it is killed; it was told to end */
        struct list queue;
        size_t n_queued;
        struct error *broken; /* protocol breach seen by us: we killed it */
        size_t n_pins;        /* call-backs on the stack: freeing waits for them */
        bool dead;
};

static void queued_op_free(struct queued_op *op)
{
        if (!op)
                return;
        for (size_t i = 0; i < op->n_fds; i++)
                fd_closep(&op->fds[i]);
        free(op->fds);
        if (op->text)
                explicit_bzero(op->text, strlen(op->text)); /* it may hold keys */
        free(op->text);
        free(op);
}
DEFINE_CLEANUP(struct queued_op *, queued_op_free)

static void mover_destroy(struct mover_process *mover)
{
        struct queued_op *op, *spare;

        list_for_each_safe (op, spare, &mover->queue, order) {
                list_remove(&op->order);
                queued_op_free(op);
        }
        error_free(mover->broken);
        loop_source_free(mover->grace);
        fd_closep(&mover->fd);
        free(mover);
}

/* After this, `mover` may be gone. */
static void mover_unpin(struct mover_process *mover)
{
        mover->n_pins--;
        if (mover->dead && mover->n_pins == 0)
                mover_destroy(mover);
}

static void mover_broke_protocol(struct mover_process *mover, struct error *cause)
{
        if (!mover->broken)
                mover->broken = cause;
        else
                error_free(cause);
        loop_source_free(TAKE_PTR(mover->io));
        (void)child_kill(mover->child, SIGKILL);
}

static int deliver(struct mover_process *mover, const char *text, size_t len, struct error **ret_error)
{
        _cleanup_json_ json_t *message = NULL;
        const char *event = NULL;
        int r = doc_parse(text, len, &message, ret_error);

        if (r == 0)
                r = doc_need_string(message, "message", "event", 64, &event, ret_error);
        if (r < 0)
                return r;
        if (mover->handler.event)
                mover->handler.event(mover->handler.userdata, event, message);
        return 0;
}

/* Takes one packet. 1: there may be more; 0: nothing more. The caller holds a pin. */
static int receive_one(struct mover_process *mover, char *buffer)
{
        struct error *error = NULL;
        size_t len = 0, n_fds = 0;
        int r = sock_recv_fds(mover->fd, buffer, MESSAGE_MAX_BYTES, &len, NULL, &n_fds);

        if (r == -EAGAIN || r == -EINTR)
                return 0;
        if (r < 0 || len == 0) { /* its end is reported by the pidfd */
                loop_source_free(TAKE_PTR(mover->io));
                return 0;
        }
        r = deliver(mover, buffer, len, &error);
        if (mover->dead) {
                error_free(error);
                return 0;
        }
        if (r < 0) {
                mover_broke_protocol(mover, error);
                return 0;
        }
        return 1;
}

static void receive_all(struct mover_process *mover)
{
        _cleanup_free_ char *buffer = alloc_zero(MESSAGE_MAX_BYTES);

        if (!buffer)
                return; /* level-triggered: we are called again */
        while (!mover->dead && mover->io && receive_one(mover, buffer) > 0)
                ;
}

static void flush_queue(struct mover_process *mover)
{
        struct queued_op *op, *spare;

        list_for_each_safe (op, spare, &mover->queue, order) {
                int r = sock_send_fds(mover->fd, op->text, strlen(op->text), op->fds, op->n_fds);

                if (r == -EAGAIN)
                        return;
                list_remove(&op->order); /* a failure means that it is gone: its end is reported */
                mover->n_queued--;
                queued_op_free(op);
        }
        if (mover->io)
                (void)loop_source_set_events(mover->io, EPOLLIN);
}

static void on_socket(void *userdata, int fd, uint32_t events)
{
        struct mover_process *mover = userdata;

        mover->n_pins++;
        if (events & EPOLLOUT)
                flush_queue(mover);
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive_all(mover);
        mover_unpin(mover);
}

static void on_mover_exit(void *userdata, const struct child_result *result)
{
        struct mover_process *mover = userdata;
        struct error *failure = NULL;
        char how[64];

        mover->n_pins++;
        if (mover->io)
                receive_all(mover); /* what it said last */
        loop_source_free(TAKE_PTR(mover->io));
        loop_source_free(TAKE_PTR(mover->grace));
        if (mover->broken)
                failure = TAKE_PTR(mover->broken);
        else if (!result->exited || result->code != 0)
                (void)error_set(&failure, ERROR_MOVER_FAILED,
                        "The mover's own messages are in the agent's log.", "the data mover %s",
                        child_result_format(result, how));
        if (!mover->dead)
                mover->handler.ended(mover->handler.userdata, failure);
        error_free(failure);
        mover_unpin(mover);
}

int mover_process_start(struct loop *loop, const char *binary, enum mover_role role, const char *cgroup_procs,
        int level, const struct mover_process_handler *handler, struct mover_process **ret_mover,
        struct error **ret_error)
{
        _cleanup_(mover_process_freep) struct mover_process *mover = ALLOC(struct mover_process);
        const char *const argv[] = {binary, role_names[role], NULL};
        struct child_spec spec = CHILD_SPEC_INIT;
        _cleanup_fd_ int theirs = -1;
        struct child_fd control;
        int pair[2], r;

        if (!mover)
                return error_from_errno(ret_error, ENOMEM, "data mover");
        *mover = (struct mover_process){.loop = loop, .fd = -1, .handler = *handler};
        list_init(&mover->queue);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return error_from_errno(ret_error, errno, "control socket of the data mover");
        mover->fd = pair[0];
        theirs = pair[1];
        /* Only our end: the flag belongs to the open file, and each end is one of its own. */
        if (fcntl(mover->fd, F_SETFL, O_NONBLOCK) < 0)
                return error_from_errno(ret_error, errno, "control socket of the data mover");
        r = loop_add_io(loop, mover->fd, EPOLLIN, on_socket, mover, &mover->io);
        if (r < 0)
                return error_from_errno(ret_error, r, "control socket of the data mover");
        control = (struct child_fd){.fd = theirs, .target = CONTROL_FD_OF_MOVER};
        spec.argv = argv;
        spec.fds = &control;
        spec.n_fds = 1;
        spec.output_fd = STDERR_FILENO;
        spec.own_session = true;
        spec.nice = role == MOVER_SAMPLE || role == MOVER_COMPARE ? 0 : MOVER_NICE - level * NICE_PER_LEVEL;
        spec.cgroup_procs = cgroup_procs;
        r = child_start(loop, &spec, on_mover_exit, mover, &mover->child, ret_error);
        if (r < 0)
                return r;
        *ret_mover = TAKE_PTR(mover);
        return 0;
}

static int queue_op(struct mover_process *mover, const char *text, const int *fds, size_t n_fds)
{
        _cleanup_(queued_op_freep) struct queued_op *op = NULL;

        if (mover->n_queued >= QUEUE_MAX)
                return -ENOBUFS;
        op = ALLOC(struct queued_op);
        if (!op)
                return -ENOMEM;
        list_init(&op->order);
        op->text = alloc_strdup(text);
        op->fds = alloc_array(n_fds, sizeof(int));
        if (!op->text || !op->fds)
                return -ENOMEM;
        for (size_t i = 0; i < n_fds; i++) {
                op->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
                if (op->fds[i] < 0)
                        return -errno;
                op->n_fds++;
        }
        list_append(&mover->queue, &op->order);
        mover->n_queued++;
        TAKE_PTR(op);
        return loop_source_set_events(mover->io, EPOLLIN | EPOLLOUT);
}

int mover_process_send(
        struct mover_process *mover, json_t *op, const int *fds, size_t n_fds, struct error **ret_error)
{
        _cleanup_json_ json_t *owned = op;
        _cleanup_free_ char *text = owned ? doc_to_text(owned) : NULL;
        int r;

        if (!text)
                return error_from_errno(ret_error, ENOMEM, "message to the data mover");
        if (strlen(text) > MESSAGE_MAX_BYTES)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL,
                        "message to the data mover is larger than %d bytes", MESSAGE_MAX_BYTES);
        if (!mover->io)
                return error_from_errno(ret_error, EPIPE, "message to the data mover");
        if (list_empty(&mover->queue))
                r = sock_send_fds(mover->fd, text, strlen(text), fds, n_fds);
        else
                r = -EAGAIN;
        if (r == -EAGAIN)
                r = queue_op(mover, text, fds, n_fds);
        explicit_bzero(text, strlen(text)); /* it may hold keys */
        return r < 0 ? error_from_errno(ret_error, r, "message to the data mover") : 0;
}

static void on_grace_over(void *userdata)
{
        struct mover_process *mover = userdata;

        loop_source_free(TAKE_PTR(mover->grace));
        mover_process_kill(mover);
}

void mover_process_let_end(struct mover_process *mover, const struct mover_process_handler *handler)
{
        mover->handler = *handler;
        mover->handler.event = NULL;
        if (loop_add_timer(mover->loop, END_GRACE_MS, on_grace_over, mover, &mover->grace) < 0)
                mover_process_kill(mover);
}

void mover_process_kill(struct mover_process *mover)
{
        (void)child_kill(mover->child, SIGKILL);
}

pid_t mover_process_pid(const struct mover_process *mover)
{
        return child_pid(mover->child);
}

void mover_process_free(struct mover_process *mover)
{
        if (!mover)
                return;
        mover->dead = true;
        loop_source_free(TAKE_PTR(mover->io));
        loop_source_free(TAKE_PTR(mover->grace));
        child_free(TAKE_PTR(mover->child));
        if (mover->n_pins == 0)
                mover_destroy(mover);
}

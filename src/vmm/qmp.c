/* SPDX-License-Identifier: Apache-2.0 */
/* A message from QEMU is one line of JSON; ours are written the same way. Commands go out in order from a
 * queue, each as a text of its own because of the descriptor that may belong to its first byte; QEMU takes
 * what it received last when getfd runs.
 *
 * A call lives in `calls` from qmp_command() until its answer came, even when its time is up or nobody wants
 * the answer any more: so that a late answer is told from an invented one. */
#include "vmm/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/text.h"
#include "io/sock.h"

#define RETRY_MS 10 /* between attempts to connect to a socket that is not there yet */
#define READ_CHUNK (64 << 10)
#define OUT_MAX (1 << 20)   /* longest command */
#define ERROR_TEXT_MAX 4096 /* of QEMU's words in an error */
#define NAME_TEXT_MAX 255   /* longest event name */

enum state {
        STATE_CONNECTING, /* the socket is not there yet */
        STATE_GREETING,   /* connected; QEMU speaks first */
        STATE_CAPABILITIES,
        STATE_READY,
        STATE_LOST,
};

struct qmp_call {
        struct qmp *qmp;
        struct list link;
        uint64_t id;
        char *name;
        char *text; /* NULL once sent */
        size_t text_len;
        size_t sent;
        int fd;             /* goes with the first byte; -1: none, or sent */
        qmp_reply_fn reply; /* NULL: answered with TIMED_OUT, or cancelled */
        void *userdata;
        uint64_t timeout_ms;
        struct loop_source *timer;
};

struct qmp {
        struct loop *loop;
        struct qmp_callbacks callbacks;
        enum state state;
        char *path; /* to connect to; NULL when it was handed a socket */
        int fd;
        struct loop_source *io;
        struct loop_source
                *timer; /* limit for connection and greeting; later brings on the end, see fail() */
        struct loop_source *retry_timer;
        struct error *lost_error;
        unsigned int major, minor, micro;
        struct buf in;
        size_t scanned; /* bytes of `in` without a newline */
        struct list calls;
        size_t n_calls;
        uint64_t last_id; /* 0 is the negotiation's */
        bool busy;        /* inside one of the loop's handlers: */
        bool dead;        /* qmp_free() came meanwhile, and is done at the handler's end */
};

static void on_io(void *userdata, int fd, uint32_t events);
static void on_reply_timeout(void *userdata);

static void call_free(struct qmp_call *call)
{
        if (!call)
                return;
        if (call->qmp) {
                list_remove(&call->link);
                call->qmp->n_calls--;
        }
        loop_source_free(call->timer);
        fd_closep(&call->fd);
        free(call->text);
        free(call->name);
        free(call);
}
DEFINE_CLEANUP(struct qmp_call *, call_free)

static void close_connection(struct qmp *qmp)
{
        loop_source_free(TAKE_PTR(qmp->io));
        loop_source_free(TAKE_PTR(qmp->retry_timer));
        fd_closep(&qmp->fd);
}

static void destroy(struct qmp *qmp)
{
        struct qmp_call *call, *spare;

        close_connection(qmp);
        loop_source_free(qmp->timer);
        list_for_each_safe (call, spare, &qmp->calls, link)
                call_free(call);
        buf_deinit(&qmp->in);
        error_free(qmp->lost_error);
        free(qmp->path);
        free(qmp);
}

void qmp_free(struct qmp *qmp)
{
        if (qmp && qmp->busy)
                qmp->dead = true;
        else if (qmp)
                destroy(qmp);
}

/* To be called last in a handler that called back. */
static void leave(struct qmp *qmp)
{
        qmp->busy = false;
        if (qmp->dead)
                destroy(qmp);
}

bool qmp_is_ready(const struct qmp *qmp)
{
        return qmp->state == STATE_READY;
}

/* Answers a call, which stays in the list. */
static void answer(struct qmp_call *call, const json_t *result, const struct error *error)
{
        qmp_reply_fn reply = TAKE_PTR(call->reply);

        if (reply)
                reply(call->userdata, result, error);
}

/* Answers and forgets every call. */
static void fail_calls(struct qmp *qmp)
{
        struct qmp_call *call, *spare;

        list_for_each_safe (call, spare, &qmp->calls, link) { /* no call is added any more */
                if (!qmp->dead)
                        answer(call, NULL, qmp->lost_error);
                call_free(call);
        }
}

/* Ends the connection; the callbacks follow from the loop's next round (by the timer, which is there already:
 * this cannot fail). `error` is taken over. */
static void fail(struct qmp *qmp, struct error *error)
{
        if (qmp->state == STATE_LOST) {
                error_free(error);
                return;
        }
        qmp->state = STATE_LOST;
        qmp->lost_error = error;
        close_connection(qmp);
        (void)loop_source_rearm(qmp->timer, 0);
}

static void fail_protocol(struct qmp *qmp, const char *what)
{
        struct error *error = NULL;

        error_set(&error, ERROR_PROTOCOL, NULL, "QEMU broke the monitor protocol: %s", what);
        fail(qmp, error);
}

static void fail_errno(struct qmp *qmp, int err, const char *what)
{
        struct error *error = NULL;

        error_set(&error, ERROR_UNREACHABLE, NULL, "QEMU's monitor %s: %s", what, strerror(abs(err)));
        fail(qmp, error);
}

static bool has_output(const struct qmp *qmp)
{
        const struct qmp_call *call;

        list_for_each (call, &qmp->calls, link)
                if (call->text)
                        return qmp->state == STATE_READY || call->id == 0;
        return false;
}

static void update_events(struct qmp *qmp)
{
        if (qmp->io)
                (void)loop_source_set_events(qmp->io, EPOLLIN | (has_output(qmp) ? EPOLLOUT : 0));
}

/* Sends what is left of one command: 0 when all of it is out, or negative errno. */
static int send_call(struct qmp *qmp, struct qmp_call *call)
{
        while (call->sent < call->text_len) {
                ssize_t n;

                if (call->fd >= 0) { /* one byte cannot be split from its descriptor */
                        int r = sock_send_fds(qmp->fd, call->text, 1, &call->fd, 1);

                        if (r < 0)
                                return r;
                        fd_closep(&call->fd);
                        call->sent = 1;
                        continue;
                }
                n = send(qmp->fd, call->text + call->sent, call->text_len - call->sent,
                        MSG_NOSIGNAL | MSG_DONTWAIT);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                call->sent += (size_t)n;
        }
        free(TAKE_PTR(call->text));
        return 0;
}

/* Sends queued commands until the socket is full. */
static void flush(struct qmp *qmp)
{
        struct qmp_call *call;
        int r = 0;

        list_for_each (call, &qmp->calls, link) {
                /* Until the negotiation is over, only qmp_capabilities (id 0, first in the list) may go. */
                if (qmp->state != STATE_READY && (qmp->state != STATE_CAPABILITIES || call->id != 0))
                        break;
                if (call->text)
                        r = send_call(qmp, call);
                if (r < 0)
                        break;
        }
        if (r < 0 && r != -EAGAIN)
                fail_errno(qmp, r, "cannot be written to");
        else
                update_events(qmp);
}

/* A call that is not queued yet. timeout_ms 0: no limit of its own. */
static int call_new(struct qmp *qmp, uint64_t id, const char *name, json_t *arguments, uint64_t timeout_ms,
        struct qmp_call **ret_call, struct error **ret_error)
{
        _cleanup_(call_freep) struct qmp_call *call = ALLOC(struct qmp_call);
        _cleanup_json_ json_t *message = NULL;
        _cleanup_free_ char *text = NULL;
        int r = 0;

        if (!call)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for a QMP command");
        call->fd = -1;
        call->id = id;
        call->timeout_ms = timeout_ms;
        call->name = alloc_strdup(name);
        message = json_pack(
                "{s:s,s:I,s:O*}", "execute", name, "id", (json_int_t)call->id, "arguments", arguments);
        text = message ? doc_to_text(message) : NULL;
        call->text = text ? alloc_printf("%s\n", text) : NULL;
        if (!call->name || !call->text)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for a QMP command");
        call->text_len = strlen(call->text);
        if (call->text_len > OUT_MAX)
                return error_set(ret_error, ERROR_TOO_LARGE, NULL, "the QMP command %s is too long", name);
        if (timeout_ms)
                r = loop_add_timer(qmp->loop, timeout_ms, on_reply_timeout, call, &call->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot arm a timer");
        *ret_call = TAKE_PTR(call);
        return 0;
}

/* Links a finished call into the queue; the negotiation goes before what waits for it. */
static void enqueue(struct qmp *qmp, struct qmp_call *call, bool first)
{
        call->qmp = qmp;
        qmp->n_calls++;
        list_append(first ? qmp->calls.next : &qmp->calls, &call->link);
}

int qmp_command(struct qmp *qmp, const char *name, json_t *arguments, int fd, uint64_t timeout_ms,
        qmp_reply_fn reply, void *userdata, struct qmp_call **ret_call, struct error **ret_error)
{
        _cleanup_json_ json_t *owned_arguments = arguments;
        _cleanup_(call_freep) struct qmp_call *call = NULL;
        int r;

        if (qmp->state == STATE_LOST)
                return error_set(ret_error, ERROR_UNREACHABLE, NULL,
                        "the QMP command %s cannot be sent: the connection is gone", name);
        if (qmp->n_calls >= QMP_CALLS_MAX)
                return error_set(ret_error, ERROR_BUSY, "Wait until QEMU answers again.",
                        "the QMP command %s cannot be sent: %d commands wait for an answer", name,
                        QMP_CALLS_MAX);
        r = call_new(qmp, ++qmp->last_id, name, arguments, MAX(timeout_ms, UINT64_C(1)), &call, ret_error);
        if (r < 0)
                return r;
        if (fd >= 0 && (call->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3)) < 0)
                return error_from_errno(ret_error, errno, "cannot pass a descriptor to QEMU");
        call->reply = reply;
        call->userdata = userdata;
        if (ret_call)
                *ret_call = call;
        enqueue(qmp, TAKE_PTR(call), false);
        update_events(qmp); /* on_io() sends, so that a failure is never reported from inside this function */
        return 0;
}

void qmp_call_cancel(struct qmp_call *call)
{
        if (call)
                call->reply = NULL;
}

static void on_reply_timeout(void *userdata)
{
        struct qmp_call *call = userdata;
        _cleanup_error_ struct error *error = NULL;
        struct qmp *qmp = call->qmp;
        /* What was never begun to be sent is taken back; the rest waits for its late answer. */
        bool unsent = call->text && !call->sent;

        error_set(&error, ERROR_TIMED_OUT, NULL, "QEMU did not answer the command %s within %" PRIu64 " ms",
                call->name, call->timeout_ms);
        qmp->busy = true;
        answer(call, NULL, error);
        if (unsent)
                call_free(call);
        update_events(qmp);
        leave(qmp);
}

static void on_capabilities(void *userdata, const json_t *result, const struct error *error)
{
        struct qmp *qmp = userdata;

        if (error) {
                fail_protocol(qmp, "the negotiation was refused");
                return;
        }
        (void)loop_source_disarm(qmp->timer);
        qmp->state = STATE_READY;
        if (qmp->callbacks.ready)
                qmp->callbacks.ready(qmp->callbacks.userdata, qmp->major, qmp->minor, qmp->micro);
}

/* {"QMP": {"version": {"qemu": {"major", "minor", "micro"}, "package"}, "capabilities"}} */
static void handle_greeting(struct qmp *qmp, const json_t *message)
{
        const json_t *qemu =
                json_object_get(json_object_get(json_object_get(message, "QMP"), "version"), "qemu");
        uint64_t major, minor, micro;
        struct qmp_call *call = NULL;
        struct error *error = NULL;

        if (doc_need_u64(qemu, "QMP.version.qemu", "major", 0, 1000, &major, &error) < 0 ||
                doc_need_u64(qemu, "QMP.version.qemu", "minor", 0, 1000, &minor, &error) < 0 ||
                doc_need_u64(qemu, "QMP.version.qemu", "micro", 0, 1000, &micro, &error) < 0) {
                error_free(error);
                fail_protocol(qmp, "the greeting is not one");
                return;
        }
        qmp->major = (unsigned int)major;
        qmp->minor = (unsigned int)minor;
        qmp->micro = (unsigned int)micro;
        if (call_new(qmp, 0, "qmp_capabilities", NULL, 0, &call, &error) < 0) {
                fail(qmp, error);
                return;
        }
        qmp->state = STATE_CAPABILITIES;
        call->reply = on_capabilities;
        call->userdata = qmp;
        enqueue(qmp, call, true);
        flush(qmp);
}

static void handle_event(struct qmp *qmp, const json_t *message, const char *name)
{
        const json_t *time = json_object_get(message, "timestamp");
        json_int_t seconds = json_integer_value(json_object_get(time, "seconds"));
        json_int_t us = json_integer_value(json_object_get(time, "microseconds"));
        bool given = seconds > 0 && seconds < INT64_MAX / 1000001 && us >= 0 && us < 1000000;
        const json_t *data = json_object_get(message, "data");

        if (qmp->state == STATE_READY && qmp->callbacks.event)
                qmp->callbacks.event(qmp->callbacks.userdata, name, json_is_object(data) ? data : NULL,
                        given ? seconds * 1000000 + us : 0);
}

static void handle_reply(struct qmp *qmp, const json_t *message)
{
        const json_t *id = json_object_get(message, "id"), *result = json_object_get(message, "return");
        const json_t *failure = json_object_get(message, "error");
        _cleanup_error_ struct error *error = NULL;
        struct qmp_call *call, *found = NULL;

        list_for_each (call, &qmp->calls, link)
                if (json_is_integer(id) && call->id == (uint64_t)json_integer_value(id) && !call->text) {
                        found = call;
                        break;
                }
        if (!found || !result == !failure) {
                fail_protocol(
                        qmp, found ? "an answer is neither result nor error" : "an answer to no command");
                return;
        }
        if (failure) {
                const char *words = json_string_value(json_object_get(failure, "desc")) ?: "no description";

                error_set(&error, ERROR_QEMU_FAILED, NULL, "QEMU refused the command %s: %.*s", found->name,
                        ERROR_TEXT_MAX, words);
        }
        answer(found, result, error);
        call_free(found);
}

static void handle_line(struct qmp *qmp, const char *line, size_t len)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *message = NULL;
        const char *event;

        if (strspn(line, " \t\r") == len)
                return;
        if (doc_parse(line, len, &message, &error) < 0 || !json_is_object(message)) {
                fail_protocol(qmp, error ? error_message(error) : "a message is not an object");
                return;
        }
        event = json_string_value(json_object_get(message, "event"));
        if (event && strlen(event) <= NAME_TEXT_MAX)
                handle_event(qmp, message, event);
        else if (qmp->state == STATE_GREETING)
                handle_greeting(qmp, message);
        else
                handle_reply(qmp, message);
}

/* Handles the complete lines of what was read. */
static void handle_input(struct qmp *qmp)
{
        while (qmp->state != STATE_LOST && !qmp->dead) {
                char *end = qmp->in.len > qmp->scanned
                                    ? memchr(qmp->in.data + qmp->scanned, '\n', qmp->in.len - qmp->scanned)
                                    : NULL;
                size_t len;

                if (!end) {
                        qmp->scanned = qmp->in.len;
                        break;
                }
                len = (size_t)(end - qmp->in.data);
                *end = 0;
                handle_line(qmp, qmp->in.data, len);
                buf_consume(&qmp->in, len + 1);
                qmp->scanned = 0;
        }
}

/* Reads once; more comes with the loop's next round. */
static void read_input(struct qmp *qmp)
{
        size_t room = MIN((size_t)READ_CHUNK, qmp->in.max - qmp->in.len);
        void *to = room ? buf_reserve(&qmp->in, room) : NULL;
        ssize_t n;

        if (!to) {
                fail_protocol(qmp, room ? "out of memory for a message" : "a message is too long");
                return;
        }
        n = recv(qmp->fd, to, room, MSG_DONTWAIT);
        if (n > 0) {
                buf_commit(&qmp->in, (size_t)n);
                handle_input(qmp);
        } else if (n == 0) {
                fail_errno(qmp, ECONNRESET, "closed the connection");
        } else if (errno != EAGAIN && errno != EINTR) {
                fail_errno(qmp, errno, "cannot be read");
        }
}

static void on_io(void *userdata, int fd, uint32_t events)
{
        struct qmp *qmp = userdata;

        qmp->busy = true;
        if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                read_input(qmp);
        if (qmp->state != STATE_LOST && !qmp->dead)
                flush(qmp);
        leave(qmp);
}

static void on_timer(void *userdata)
{
        struct qmp *qmp = userdata;
        struct error *error = NULL;

        if (qmp->state == STATE_LOST) {
                qmp->busy = true;
                fail_calls(qmp);
                if (!qmp->dead)
                        qmp->callbacks.lost(qmp->callbacks.userdata, qmp->lost_error);
                leave(qmp);
                return;
        }
        error_set(&error, ERROR_TIMED_OUT, "Look at QEMU's output.",
                qmp->state == STATE_CONNECTING ? "QEMU did not open its monitor socket in time"
                                               : "QEMU's monitor did not greet in time");
        fail(qmp, error);
}

/* `fd` is taken over on success. */
static int attach(struct qmp *qmp, int fd)
{
        int r;

        if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
                return -errno;
        r = loop_add_io(qmp->loop, fd, EPOLLIN, on_io, qmp, &qmp->io);
        if (r < 0)
                return r;
        qmp->fd = fd;
        qmp->state = STATE_GREETING;
        return 0;
}

static void on_retry(void *userdata)
{
        struct qmp *qmp = userdata;
        _cleanup_fd_ int fd = -1;
        int r = sock_connect_unix(qmp->path, SOCK_STREAM, &fd);

        if (r == -ENOENT || r == -ECONNREFUSED || r == -EAGAIN)
                r = loop_source_rearm(qmp->retry_timer, RETRY_MS);
        else if (r == 0 && (r = attach(qmp, fd)) == 0)
                (void)TAKE_FD(fd);
        if (r < 0)
                fail_errno(qmp, r, "cannot be connected to");
}

static struct qmp *create(struct loop *loop, uint64_t timeout_ms, const struct qmp_callbacks *callbacks)
{
        _cleanup_(qmp_freep) struct qmp *qmp = ALLOC(struct qmp);

        if (!qmp)
                return NULL;
        qmp->loop = loop;
        qmp->callbacks = *callbacks;
        qmp->fd = -1;
        buf_init(&qmp->in, QMP_MESSAGE_MAX);
        list_init(&qmp->calls);
        if (loop_add_timer(loop, timeout_ms, on_timer, qmp, &qmp->timer) < 0)
                return NULL;
        return TAKE_PTR(qmp);
}

int qmp_connect(struct loop *loop, const char *path, uint64_t timeout_ms,
        const struct qmp_callbacks *callbacks, struct qmp **ret_qmp, struct error **ret_error)
{
        _cleanup_(qmp_freep) struct qmp *qmp = create(loop, timeout_ms, callbacks);

        if (!qmp || !(qmp->path = alloc_strdup(path)) ||
                loop_add_timer(loop, 0, on_retry, qmp, &qmp->retry_timer) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for a QMP connection");
        *ret_qmp = TAKE_PTR(qmp);
        return 0;
}

int qmp_new(struct loop *loop, int fd, uint64_t timeout_ms, const struct qmp_callbacks *callbacks,
        struct qmp **ret_qmp, struct error **ret_error)
{
        _cleanup_(qmp_freep) struct qmp *qmp = create(loop, timeout_ms, callbacks);
        int r;

        if (!qmp)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for a QMP connection");
        r = attach(qmp, fd);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot watch a QMP socket");
        *ret_qmp = TAKE_PTR(qmp);
        return 0;
}

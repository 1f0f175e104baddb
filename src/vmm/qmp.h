/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Client of QEMU's monitor protocol (docs/interop/qmp-spec in QEMU): commands with an id and a time limit
 * each, answered in any order; events; descriptors sent along. Everything comes by callback from the loop,
 * nothing blocks. The peer is not trusted: messages are bounded, and one that breaks the protocol ends the
 * connection.
 *
 * A command that ran into its time limit is reported as TIMED_OUT and its late answer is ignored; the
 * connection stays. QEMU holds its big lock while it writes the last part of a migration, and answers nothing
 * meanwhile: a time-out says "blocked", not "dead" (qemu.md section 5.4). */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "io/loop.h"

#define QMP_MESSAGE_MAX (8 << 20) /* most bytes in one message from QEMU; the longest real one is 0.5 MiB */
#define QMP_CALLS_MAX 256         /* commands without an answer, timed-out ones included */

struct qmp;
struct qmp_call;

/* All may be NULL but `lost`. qmp_free() may be called from inside any of them. */
struct qmp_callbacks {
        /* Greeting and capability negotiation are done; version as in the greeting. */
        void (*ready)(void *userdata, unsigned int major, unsigned int minor, unsigned int micro);
        /* `data` is borrowed and may be NULL; unix_us is QEMU's clock (0: it gave none). */
        void (*event)(void *userdata, const char *name, const json_t *data, int64_t unix_us);
        /* The connection is gone; called once, after every pending call was answered with this error. */
        void (*lost)(void *userdata, const struct error *error);
        void *userdata;
};

/* Exactly one of `result` (the "return" member) and `error` is set; both are borrowed. An error that QEMU
 * answered has the code QEMU_FAILED and QEMU's words. */
typedef void (*qmp_reply_fn)(void *userdata, const json_t *result, const struct error *error);

/* Connects to a Unix socket; a socket that is not there yet, or does not listen yet, is tried again until
 * timeout_ms, which also bounds the greeting. After it `lost` is called. */
int qmp_connect(struct loop *loop, const char *path, uint64_t timeout_ms,
        const struct qmp_callbacks *callbacks, struct qmp **ret_qmp, struct error **ret_error);
/* The same on a connected stream socket, taken over on success. */
int qmp_new(struct loop *loop, int fd, uint64_t timeout_ms, const struct qmp_callbacks *callbacks,
        struct qmp **ret_qmp, struct error **ret_error);
/* Closes; no callback is called any more, pending calls are forgotten. Accepts NULL. */
void qmp_free(struct qmp *qmp);
DEFINE_CLEANUP(struct qmp *, qmp_free)

bool qmp_is_ready(const struct qmp *qmp);

/* Sends a command (queued until the connection is ready). `arguments` (an object, or NULL) is taken over in
 * every case. `fd` (-1: none) is duplicated and goes with the command, for getfd and add-fd. reply is called
 * once from the loop, never from inside this function; *ret_call (may be NULL) is valid until then. BUSY when
 * too many calls are open, UNREACHABLE when the connection is gone. */
int qmp_command(struct qmp *qmp, const char *name, json_t *arguments, int fd, uint64_t timeout_ms,
        qmp_reply_fn reply, void *userdata, struct qmp_call **ret_call, struct error **ret_error);
/* The reply is not wanted any more (the command itself cannot be taken back). Accepts NULL. */
void qmp_call_cancel(struct qmp_call *call);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The error object: what reaches an operator through API, CLI, task or log.
 *
 * Two classes of error (after dbus-broker): a negative errno means "forward this untouched"; a positive
 * per-function code is a condition that the direct caller must handle. Where an operator is to read about it,
 * the function also takes `struct error **ret_error` and sets it, once, at the place that knows the cause: a
 * stable code from error_code.h, a sentence that names the cause, a hint that names the way out, and the
 * object. */

#include <jansson.h>

#include "base/macros.h"

#define ERROR_CODES(X) \
        /*  NAME              wire code               HTTP  errno          title                        */ \
        X(BAD_REQUEST, "bad-request", 400, EINVAL, "The request is malformed") \
        X(BAD_DOCUMENT, "bad-document", 422, EINVAL, "The document is not valid") \
        X(UNAUTHENTICATED, "unauthenticated", 401, EACCES, "Authentication is needed") \
        X(DENIED, "denied", 403, EPERM, "The caller may not do this") \
        X(NOT_FOUND, "not-found", 404, ENOENT, "The object does not exist") \
        X(METHOD_NOT_ALLOWED, "method-not-allowed", 405, EOPNOTSUPP, "The path does not offer this method") \
        X(EXISTS, "exists", 409, EEXIST, "The object exists already") \
        X(CONFLICT, "conflict", 409, EBUSY, "The object's state does not allow this") \
        X(BUSY, "busy", 409, EBUSY, "Another task works on the object") \
        X(REVISION_MISMATCH, "revision-mismatch", 412, ESTALE, "The object was changed meanwhile") \
        X(STALE_EPOCH, "stale-epoch", 409, ESTALE, "The caller's epoch is no longer the newest") \
        X(NOT_LEADING, "not-leading", 503, EAGAIN, "Another manager leads") \
        X(TOO_LARGE, "too-large", 413, E2BIG, "The input is larger than allowed") \
        X(RATE_LIMITED, "rate-limited", 429, EAGAIN, "Too many requests") \
        X(NOT_SUPPORTED, "not-supported", 422, EOPNOTSUPP, "The host cannot do this") \
        X(CHECK_FAILED, "check-failed", 422, EINVAL, "A check before the migration failed") \
        X(NO_SPACE, "no-space", 507, ENOSPC, "The datastore is full") \
        X(NO_RESOURCES, "no-resources", 422, ENOSPC, "There is not enough room") \
        X(UNREACHABLE, "unreachable", 502, EHOSTUNREACH, "The peer cannot be reached") \
        X(PEER_FAILED, "peer-failed", 502, EREMOTEIO, "The peer reported an error") \
        X(PROTOCOL, "protocol", 502, EPROTO, "The peer broke the protocol") \
        X(TIMED_OUT, "timed-out", 504, ETIMEDOUT, "The time limit passed") \
        X(CANCELLED, "cancelled", 409, ECANCELED, "The operation was cancelled") \
        X(LOCKED, "locked", 409, EBUSY, "The disk is in use elsewhere") \
        X(QEMU_FAILED, "qemu-failed", 500, EIO, "QEMU reported an error") \
        X(QEMU_DIED, "qemu-died", 500, ESRCH, "The QEMU process ended") \
        X(MOVER_FAILED, "mover-failed", 500, EIO, "The data path failed") \
        X(VERIFY_FAILED, "verify-failed", 500, EBADMSG, "The copies of the guest's memory differ") \
        X(OWNER_ELSEWHERE, "owner-elsewhere", 409, EPERM, "Another host owns the virtual machine") \
        X(OWNER_UNKNOWN, "owner-unknown", 409, EBUSY, "It is not known which host owns the virtual machine") \
        X(NO_MEMORY, "no-memory", 503, ENOMEM, "The program ran out of memory") \
        X(INTERNAL, "internal", 500, EIO, "Internal error") \
        X(NOT_CONVERGING, "not-converging", 409, ETIME, \
                "The guest changes its memory faster than it can be sent")

enum error_code {
#define X(name, wire, http, err, title) ERROR_##name,
        ERROR_CODES(X)
#undef X
                N_ERROR_CODES,
};

struct error {
        enum error_code code;
        char *message; /* one sentence: what happened and why, with the values that matter */
        char *hint;    /* one sentence: the way out; may be NULL */
        char *object;  /* what it is about, such as "vm/web1"; may be NULL */
};

/* Sets *ret_error (freed first if set; ret_error itself may be NULL) and returns the code's negative errno,
 * so that `return error_set(...)` is one line. `hint` is copied and may be NULL. Without memory the object
 * has the code only. */
int error_set(struct error **ret_error, enum error_code code, const char *hint, const char *fmt, ...)
        _printf_(4, 5);

/* Names the object (copied) that *error is about, unless one is named already. Accepts NULL and *error NULL.
 */
void error_about(struct error **error, const char *fmt, ...) _printf_(2, 3);

/* For a plain errno (negative or positive) that has no object yet: "WHAT: strerror". Returns -abs(err). */
int error_from_errno(struct error **ret_error, int err, const char *fmt, ...) _printf_(3, 4);

void error_free(struct error *error);
DEFINE_CLEANUP(struct error *, error_free)
#define _cleanup_error_ _cleanup_(error_freep)

/* Moves `error` (owned) into *ret_error, or frees it when ret_error is NULL. Returns its negative errno. */
int error_propagate(struct error **ret_error, struct error *error);

const char *error_code_to_string(enum error_code code);
/* Returns 0 and the code, or -EINVAL for an unknown string. */
int error_code_from_string(const char *s, enum error_code *ret_code);
int error_code_to_http(enum error_code code);
int error_code_to_errno(enum error_code code); /* positive */

/* The message, or the code's title when memory was short; never NULL. NULL error: "success". */
const char *error_message(const struct error *error);

/* What these three return is below 0, always. Compilers and analysers cannot see that through the table of codes; being
 * told spares the callers a check that would never fail. */
static inline int error_is_negative(int r)
{
        if (r >= 0)
                __builtin_unreachable();
        return r;
}
#define error_set(...) error_is_negative(error_set(__VA_ARGS__))
#define error_from_errno(...) error_is_negative(error_from_errno(__VA_ARGS__))
#define error_propagate(...) error_is_negative(error_propagate(__VA_ARGS__))

/* RFC 9457 problem document {"type","title","status","code","detail","hint","object"}; NULL without memory.
 * The caller owns it. */
json_t *error_to_json(const struct error *error);

/* Reads such a document from a peer (bounded copies of untrusted text; unknown codes become PEER_FAILED).
 * Always yields an object unless memory is short (then NULL). */
struct error *error_from_json(const json_t *problem);

/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"

#define PEER_TEXT_MAX 2048 /* characters kept of a message that a peer sent */

static const struct {
        const char *wire;
        const char *title;
        int http;
        int err;
} codes[] = {
#define X(name, wire, http, err, title) [ERROR_##name] = {wire, title, http, err},
        ERROR_CODES(X)
#undef X
};
static_assert(ARRAY_SIZE(codes) == N_ERROR_CODES, "every code has a row");

static char *format(const char *fmt, va_list ap)
{
        char *s;

        return vasprintf(&s, fmt, ap) < 0 ? NULL : s;
}

static void assign(struct error **ret_error, enum error_code code, const char *hint, char *message)
{
        struct error *e;

        if (!ret_error) {
                free(message);
                return;
        }
        e = ALLOC(struct error);
        if (!e) {
                free(message);
                return;
        }
        e->code = code;
        e->message = message;
        e->hint = alloc_strdup(hint);
        error_free(*ret_error);
        *ret_error = e;
}

int(error_set)(struct error **ret_error, enum error_code code, const char *hint, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        assign(ret_error, code, hint, format(fmt, ap));
        va_end(ap);
        return -codes[code].err;
}

int(error_from_errno)(struct error **ret_error, int err, const char *fmt, ...)
{
        _cleanup_free_ char *what = NULL;
        enum error_code code;
        va_list ap;

        err = err < 0 ? -err : err ?: EIO; /* a caller that lost its errno has failed all the same */
        va_start(ap, fmt);
        what = format(fmt, ap);
        va_end(ap);
        switch (err) {
        case ENOMEM:
                code = ERROR_NO_MEMORY;
                break;
        case ENOSPC:
        case EDQUOT:
                code = ERROR_NO_SPACE;
                break;
        case ETIMEDOUT:
                code = ERROR_TIMED_OUT;
                break;
        case ECONNREFUSED:
        case EHOSTUNREACH:
        case ENETUNREACH:
                code = ERROR_UNREACHABLE;
                break;
        case ECANCELED:
                code = ERROR_CANCELLED;
                break;
        default:
                code = ERROR_INTERNAL;
        }
        assign(ret_error, code, NULL, alloc_printf("%s: %s", what ?: "operation", strerror(err)));
        return -err;
}

void error_about(struct error **error, const char *fmt, ...)
{
        va_list ap;

        if (!error || !*error || (*error)->object)
                return;
        va_start(ap, fmt);
        (*error)->object = format(fmt, ap);
        va_end(ap);
}

void error_free(struct error *error)
{
        if (!error)
                return;
        free(error->message);
        free(error->hint);
        free(error->object);
        free(error);
}

int(error_propagate)(struct error **ret_error, struct error *error)
{
        int r = error ? -codes[error->code].err : -EIO;

        if (!ret_error) {
                error_free(error);
                return r;
        }
        error_free(*ret_error);
        *ret_error = error;
        return r;
}

const char *error_code_to_string(enum error_code code)
{
        return codes[code].wire;
}

int error_code_from_string(const char *s, enum error_code *ret_code)
{
        for (size_t i = 0; s && i < N_ERROR_CODES; i++)
                if (!strcmp(codes[i].wire, s)) {
                        *ret_code = (enum error_code)i;
                        return 0;
                }
        return -EINVAL;
}

int error_code_to_http(enum error_code code)
{
        return codes[code].http;
}

int error_code_to_errno(enum error_code code)
{
        return codes[code].err;
}

const char *error_message(const struct error *error)
{
        if (!error)
                return "success";
        return error->message ?: codes[error->code].title;
}

json_t *error_to_json(const struct error *error)
{
        enum error_code code = error ? error->code : ERROR_INTERNAL;

        return json_pack("{s:s+, s:s, s:i, s:s, s:s, s:s*, s:s*}", "type",
                "urn:drover:error:", codes[code].wire, "title", codes[code].title, "status", codes[code].http,
                "code", codes[code].wire, "detail", error_message(error), "hint", error ? error->hint : NULL,
                "object", error ? error->object : NULL);
}

static char *copy_text(const json_t *problem, const char *key)
{
        const char *s = json_string_value(json_object_get(problem, key));

        return s ? alloc_printf("%.*s", PEER_TEXT_MAX, s) : NULL;
}

struct error *error_from_json(const json_t *problem)
{
        struct error *e = ALLOC(struct error);

        if (!e)
                return NULL;
        e->code = ERROR_PEER_FAILED;
        (void)error_code_from_string(json_string_value(json_object_get(problem, "code")), &e->code);
        e->message = copy_text(problem, "detail");
        e->hint = copy_text(problem, "hint");
        e->object = copy_text(problem, "object");
        return e;
}

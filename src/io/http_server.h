/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* HTTP/1.1 server (libmicrohttpd nested in the loop, no threads): a table of routes, JSON in and out,
 * requests that are answered later, server-sent events. */

#include <jansson.h>

#include "base/error.h"
#include "io/loop.h"

struct http_server;
struct http_request;
struct http_stream;

typedef void (*http_handler_fn)(struct http_request *request, void *userdata);

struct http_route {
        const char *method;      /* "GET"; a GET route answers HEAD too */
        const char *path;        /* "/api/v1/vms/{name}": a {part} matches one segment */
        http_handler_fn handler; /* called with the whole body read; must answer the request, now or later */
};

struct http_server_config {
        int listen_fd;        /* taken over, on success only */
        const char *cert_pem; /* PEM texts; cert_pem NULL: plain HTTP (tests, unix sockets) */
        const char *key_pem;
        const char *client_ca_pem;    /* not NULL: client certificates are asked for and checked against it */
        bool client_cert_required;    /* else a request without one has no peer name */
        size_t body_max_bytes;        /* 413 beyond; 0: 1 MiB */
        unsigned int connections_max; /* 0: 1000 */
        unsigned int idle_timeout_s;  /* 0: 60 */
        const struct http_route *routes;
        size_t n_routes;
        /* Called before the route's handler; answers the request itself (and returns false) to refuse. May be
         * NULL. */
        bool (*admit)(struct http_request *request, void *userdata);
        bool admit_early; /* call it when the headers are there: of whom it refuses, no body is taken in */
        void *userdata;
};

int http_server_new(struct loop *loop, const struct http_server_config *config,
        struct http_server **ret_server, struct error **ret_error);
/* New certificate for connections from now on. */
int http_server_set_certificate(
        struct http_server *server, const char *cert_pem, const char *key_pem, struct error **ret_error);
void http_server_free(struct http_server *server);
DEFINE_CLEANUP(struct http_server *, http_server_free)

/* Borrowed until the request is answered; NULL if absent. */
const char *http_request_method(const struct http_request *request);
/* As it came: still percent-encoded, without the query. Literal parts of a route match byte for byte, so that a
 * prefix checked here is the prefix that was routed. */
const char *http_request_path(const struct http_request *request);
const char *http_request_param(
        const struct http_request *request, const char *name); /* {name}, percent-decoded */
const char *http_request_query(const struct http_request *request, const char *name);
/* All query parameters as one text (the caller's) that no others have: for comparing requests. -ENOMEM. */
int http_request_query_text(const struct http_request *request, char **ret_text);
const char *http_request_header(const struct http_request *request, const char *name);
/* First DNS name (subjectAltName) of the verified client certificate, else NULL. */
const char *http_request_peer_name(const struct http_request *request);
/* "192.0.2.7" */
const char *http_request_peer_address(const struct http_request *request);
/* Raw body, NUL-terminated. */
const char *http_request_body(const struct http_request *request, size_t *ret_len);
/* The body as JSON object (owned by the request); BAD_REQUEST otherwise. */
int http_request_json(struct http_request *request, json_t **ret_json, struct error **ret_error);
/* For `admit` with admit_early: a smaller limit for this request's body. */
void http_request_limit_body(struct http_request *request, size_t max_bytes);
/* For the handler and `admit` to hang state on (such as the authenticated caller); freed with free_fn at the
 * end. */
void http_request_set_context(struct http_request *request, void *context, void (*free_fn)(void *));
void *http_request_context(const struct http_request *request);

/* Called if the client goes away before the answer; the request may still be answered (into the void), and
 * must be. */
void http_request_on_abort(struct http_request *request, loop_fn fn, void *userdata);

/* Called once, before the answer goes out, with its status and text (borrowed; "" for an empty one; NULL: there is none, or it is a stream): for
 * whoever keeps answers. */
typedef void (*http_answer_fn)(void *userdata, int status, const char *text);
void http_request_on_answer(struct http_request *request, http_answer_fn fn, void *userdata);

/* Extra header of the answer; before the reply. */
int http_request_add_header(struct http_request *request, const char *name, const char *value);

/* Answers: exactly one of these, once; the request is gone afterwards. `json` and `error` are taken over
 * (either may be NULL for lack of memory: a fixed 503 then). */
void http_request_reply_json(struct http_request *request, int status, json_t *json);
/* The same of a document that is text already (taken over, NULL: as above). */
void http_request_reply_json_text(struct http_request *request, int status, char *text);
void http_request_reply_error(struct http_request *request, struct error *error);
void http_request_reply_text(
        struct http_request *request, int status, const char *content_type, const char *text);
void http_request_reply_empty(struct http_request *request, int status);

/* Answers 200 with `content_type` ("text/event-stream", "application/x-ndjson") and keeps it open. closed_fn
 * is called once if the client goes away or is too slow (more than buffer_max_bytes unsent); the stream is
 * gone then. NULL: failed, the request was answered with an error. */
struct http_stream *http_request_reply_stream(struct http_request *request, const char *content_type,
        size_t buffer_max_bytes, loop_fn closed_fn, void *userdata);
/* Queues text. 0, or negative when the stream is about to be closed. */
int http_stream_send(struct http_stream *stream, const char *text, size_t len);
/* Bytes that the client has not taken yet. */
size_t http_stream_unsent(const struct http_stream *stream);
/* Ends it after what is queued; closed_fn is not called. */
void http_stream_close(struct http_stream *stream);
/* Ends it at once and so that the client sees that it is not all; closed_fn is not called. */
void http_stream_abort(struct http_stream *stream);

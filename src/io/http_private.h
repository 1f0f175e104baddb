/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of the HTTP server share; nobody else includes this.
 *
 *   http_server.c      the daemon in the loop, MHD's callbacks, dispatch to routes
 *   http_server_tls.c  certificates of both sides
 *   http_request.c     the request object: what handlers read, and how they answer
 *   http_stream.c      answers that stay open
 *
 * A request has up to two users: MHD, from its first header until MHD says it is finished, and the handler,
 * from dispatch until the answer. Either may end first (a client vanishes; an answer is queued), so it is
 * counted. Everything a handler may ask for is copied from MHD's memory, which goes with the connection. */

#include <gnutls/abstract.h>
#include <microhttpd.h>

#include "base/buf.h"
#include "base/list.h"
#include "io/http_path.h"
#include "io/http_server.h"

struct http_server {
        struct loop *loop;
        struct MHD_Daemon *daemon;
        struct loop_source *epoll_source;
        struct loop_source *timer; /* when MHD next wants to run without an event */
        bool round_wanted;
        struct MHD_Response *no_memory; /* the fixed 503 */
        struct list requests;
        const struct http_route *routes;
        size_t n_routes;
        size_t body_max_bytes;
        bool (*admit)(struct http_request *request, void *userdata);
        bool admit_early;
        void *userdata;

        /* TLS; NULL without */
        char *cert_pem;
        char *key_pem;
        char *client_ca_pem;
        bool client_cert_required;
};

/* One per TLS connection, MHD's "socket context". */
struct http_connection {
        struct http_server *server;
        char *peer_name; /* from the verified client certificate; may be NULL */
};

struct http_field {
        struct list link;
        char *name;
        char *value;
};

struct http_request {
        unsigned int n_refs;
        struct http_server *server;        /* NULL once MHD is finished with the request */
        struct MHD_Connection *connection; /* likewise */
        struct list link;                  /* in server->requests */

        char *method;
        char *path;
        char *peer_name;
        char peer_address[64];
        struct list headers; /* struct http_field */
        struct list query;
        struct buf body;
        size_t discarded_bytes; /* of a body that is too large */
        json_t *json;
        struct http_path_params params;
        void *context;
        void (*context_free)(void *);

        bool dispatched;
        bool answered;
        bool suspended;            /* in MHD */
        bool dead;                 /* to be closed by MHD at its next turn */
        struct loop_source *watch; /* sees the client go while suspended */
        loop_fn abort_fn;
        void *abort_userdata;
        http_answer_fn answer_fn;
        void *answer_userdata;

        struct list answer_headers;
        struct MHD_Response *response;
        unsigned int status;
        struct http_stream *stream;
};

/* http_request.c */
int http_request_new(struct http_server *server, struct MHD_Connection *connection, const char *method,
        const char *path, struct http_request **ret_request);
struct http_request *http_request_ref(struct http_request *request);
void http_request_unref(struct http_request *request);
int http_fields_add(struct list *fields, const char *name, const char *value);
/* Hands a response (owned; NULL: out of memory) to the request and lets MHD go on with it. */
void http_request_finish(struct http_request *request, int status, struct MHD_Response *response);
/* Tells the handler, once, that nobody waits for its answer. */
void http_request_aborted(struct http_request *request);

/* http_server.c: take a request out of MHD's rounds until something happens, and back in. */
void http_request_suspend(struct http_request *request);
void http_request_resume(struct http_request *request);

/* http_stream.c: MHD is finished with it. */
void http_stream_detach(struct http_stream *stream);

/* http_server_tls.c */
int http_tls_check_pair(const char *cert_pem, const char *key_pem, struct error **ret_error);
int http_tls_check_ca(const char *ca_pem, struct error **ret_error);
/* For MHD_OPTION_HTTPS_CERT_CALLBACK2. */
int http_tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info,
        gnutls_pcert_st **ret_certs, unsigned int *ret_n_certs, gnutls_ocsp_data_st **ret_ocsp,
        unsigned int *ret_n_ocsp, gnutls_privkey_t *ret_key, unsigned int *ret_flags);
/* For gnutls_session_set_verify_function(). */
int http_tls_verify(gnutls_session_t session);

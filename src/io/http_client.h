/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* HTTPS client on the loop (libcurl multi): JSON calls with a time limit each, and line streams. */

#include <jansson.h>

#include "base/error.h"
#include "io/loop.h"

struct http_client;
struct http_call;

struct http_client_config {
        const char *ca_pem;   /* trust this alone; NULL: only plain HTTP is possible */
        const char *cert_pem; /* client certificate and key; may be NULL */
        const char *key_pem;
        unsigned int connections_kept; /* idle ones, for the next call to the same peer; 0: 64 */
};

struct http_call_spec {
        const char *method;
        const char *address;         /* "192.0.2.1:8444" where to connect */
        const char *peer_name;       /* DNS name that the server's certificate must hold; NULL: plain HTTP */
        const char *path;            /* with query, percent-encoded */
        const json_t *body;          /* copied as text; may be NULL */
        const char *const *headers;  /* "Name: value", NULL-terminated; may be NULL */
        uint64_t timeout_ms;         /* whole call; must be set */
        uint64_t connect_timeout_ms; /* 0: 5,000 */
        size_t body_max_bytes;       /* of the answer; 0: 4 MiB */
        /* Sent once. Otherwise libcurl sends it again by itself when a connection that was kept ends before anything of an answer came. */
        bool own_connection;
        /* Not NULL: each whole line of a 2xx answer goes here as it comes (without its end), and `reply` has no
         * body at the end. A last line without an end is not delivered. May cancel the call. */
        void (*line)(void *userdata, const char *line);
};

/* `status` is 0 when there was no usable answer (none, too large, broken JSON); `error` is set then, and for each status >= 400 (the peer's problem
 * document turned into an error object). `body` (may be NULL; JSON answers only) and `error` are borrowed. */
typedef void (*http_reply_fn)(void *userdata, int status, json_t *body, struct error *error);

int http_client_new(struct loop *loop, const struct http_client_config *config,
        struct http_client **ret_client, struct error **ret_error);
/* Cancels what is under way (reply functions are not called). */
void http_client_free(struct http_client *client);
DEFINE_CLEANUP(struct http_client *, http_client_free)

/* reply is called once, from the loop, never from inside this function. *ret_call (may be NULL) is valid
 * until then. */
int http_client_call(struct http_client *client, const struct http_call_spec *spec, http_reply_fn reply,
        void *userdata, struct http_call **ret_call, struct error **ret_error);
/* Whether its connection stands: until then the peer has cost nothing but a packet, and may not be there at all. */
bool http_call_connected(const struct http_call *call);
/* Ends the call without calling reply. Accepts NULL. */
void http_call_cancel(struct http_call *call);

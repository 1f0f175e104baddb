/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/torture.h"
#include "io/http_private.h"
#include "io/sock.h"

/* ---- fields: headers, query parameters ---- */

int http_fields_add(struct list *fields, const char *name, const char *value)
{
        struct http_field *f = ALLOC(struct http_field);

        if (!f)
                return -ENOMEM;
        f->name = alloc_strdup(name);
        f->value = alloc_strdup(value ?: "");
        if (!f->name || !f->value) {
                free(f->name);
                free(f->value);
                free(f);
                return -ENOMEM;
        }
        list_append(fields, &f->link);
        return 0;
}

static void fields_free(struct list *fields)
{
        struct http_field *f, *spare;

        list_for_each_safe (f, spare, fields, link) {
                list_remove(&f->link);
                free(f->name);
                free(f->value);
                free(f);
        }
}

static enum MHD_Result copy_header(
        void *userdata, enum MHD_ValueKind kind _unused_, const char *name, const char *value)
{
        struct http_request *q = userdata;

        return http_fields_add(&q->headers, name, value) < 0 ? MHD_NO : MHD_YES;
}

/* A parameter whose encoding is broken is as good as absent; its route then says what is missing. */
static enum MHD_Result copy_parameter(
        void *userdata, enum MHD_ValueKind kind _unused_, const char *name, const char *value)
{
        _cleanup_free_ char *plain_name = NULL, *plain_value = NULL;
        struct http_request *q = userdata;
        int r;

        value = value ?: "";
        r = http_path_decode(name, strlen(name), &plain_name);
        if (r == 0)
                r = http_path_decode(value, strlen(value), &plain_value);
        if (r == 0)
                r = http_fields_add(&q->query, plain_name, plain_value);
        return r == -ENOMEM ? MHD_NO : MHD_YES;
}

/* ---- life ---- */

static void tell_answer(struct http_request *q, int status, const char *text)
{
        http_answer_fn fn = TAKE_PTR(q->answer_fn);

        if (fn)
                fn(q->answer_userdata, status, text);
}

static void copy_peer_address(struct http_request *q)
{
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct sock_address address;
        char text[64], *colon;

        if (!info || sock_peer_address(info->connect_fd, &address) < 0)
                return;
        sock_address_format(&address, text);
        colon = strrchr(text, ':');
        if (colon)
                *colon = '\0';
        if (*text == '[') { /* "[2001:db8::1]" */
                text[strlen(text) - 1] = '\0';
                memmove(text, text + 1, strlen(text));
        }
        memcpy(q->peer_address, text, sizeof(text));
}

static int copy_peer_name(struct http_request *q)
{
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(q->connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
        const struct http_connection *c = info ? info->socket_context : NULL;

        return c && c->peer_name ? alloc_replace(&q->peer_name, c->peer_name) : 0;
}

int http_request_new(struct http_server *server, struct MHD_Connection *connection, const char *method,
        const char *path, struct http_request **ret_request)
{
        struct http_request *q = ALLOC(struct http_request);

        if (!q)
                return -ENOMEM;
        q->n_refs = 1;
        list_init(&q->link);
        list_init(&q->headers);
        list_init(&q->query);
        list_init(&q->answer_headers);
        buf_init(&q->body, server->body_max_bytes);
        q->body.secret = true; /* it may hold keys */
        q->connection = connection;
        q->method = alloc_strdup(method);
        q->path = alloc_strdup(path);
        copy_peer_address(q);
        /* The count is negative or short when the callback stopped: compare with what there is. */
        if (!q->method || !q->path || copy_peer_name(q) < 0 ||
                MHD_get_connection_values(connection, MHD_HEADER_KIND, copy_header, q) !=
                        MHD_get_connection_values(connection, MHD_HEADER_KIND, NULL, NULL) ||
                MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, copy_parameter, q) !=
                        MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, NULL, NULL)) {
                http_request_unref(q);
                return -ENOMEM;
        }
        q->server = server;
        list_append(&server->requests, &q->link);
        *ret_request = q;
        return 0;
}

struct http_request *http_request_ref(struct http_request *q)
{
        q->n_refs++;
        return q;
}

void http_request_unref(struct http_request *q)
{
        if (--q->n_refs)
                return;
        list_remove(&q->link);
        loop_source_free(q->watch);
        tell_answer(q, 0, NULL);
        if (q->context_free)
                q->context_free(q->context);
        if (q->response)
                MHD_destroy_response(q->response);
        http_path_params_deinit(&q->params);
        json_decref(q->json);
        fields_free(&q->headers);
        fields_free(&q->query);
        fields_free(&q->answer_headers);
        buf_deinit(&q->body);
        free(q->method);
        free(q->path);
        free(q->peer_name);
        free(q);
}

/* ---- what handlers read ---- */

const char *http_request_method(const struct http_request *request)
{
        return request->method;
}

const char *http_request_path(const struct http_request *request)
{
        return request->path;
}

const char *http_request_param(const struct http_request *request, const char *name)
{
        size_t len = strlen(name);

        for (size_t i = 0; i < request->params.n; i++)
                if (request->params.items[i].name_len == len &&
                        !memcmp(request->params.items[i].name, name, len))
                        return request->params.items[i].value;
        return NULL;
}

const char *http_request_query(const struct http_request *request, const char *name)
{
        const struct http_field *f;

        list_for_each (f, &request->query, link)
                if (!strcmp(f->name, name))
                        return f->value;
        return NULL;
}

int http_request_query_text(const struct http_request *request, char **ret_text)
{
        const struct http_field *f;
        _cleanup_free_ char *text = alloc_strdup("");

        list_for_each (f, &request->query, link) {
                char *longer = text ? alloc_printf("%s%zu:%s=%zu:%s&", text, strlen(f->name), f->name,
                                              strlen(f->value), f->value)
                                    : NULL;

                free(text);
                text = longer;
        }
        if (!text)
                return -ENOMEM;
        *ret_text = TAKE_PTR(text);
        return 0;
}

const char *http_request_header(const struct http_request *request, const char *name)
{
        const struct http_field *f;

        list_for_each (f, &request->headers, link)
                if (!strcasecmp(f->name, name))
                        return f->value;
        return NULL;
}

const char *http_request_peer_name(const struct http_request *request)
{
        return request->peer_name;
}

const char *http_request_peer_address(const struct http_request *request)
{
        return request->peer_address;
}

const char *http_request_body(const struct http_request *request, size_t *ret_len)
{
        if (ret_len)
                *ret_len = request->body.len;
        return buf_string(&request->body);
}

int http_request_json(struct http_request *request, json_t **ret_json, struct error **ret_error)
{
        _cleanup_json_ json_t *json = NULL;
        int r;

        if (!request->json) {
                if (!request->body.len)
                        return error_set(ret_error, ERROR_BAD_REQUEST, "Send one JSON object in UTF-8.",
                                "the request has no body");
                r = doc_parse(request->body.data, request->body.len, &json, ret_error);
                if (r < 0)
                        return r;
                if (!json_is_object(json))
                        return error_set(ret_error, ERROR_BAD_REQUEST, "Send one JSON object in UTF-8.",
                                "the body is not a JSON object");
                request->json = TAKE_PTR(json);
        }
        *ret_json = request->json;
        return 0;
}

void http_request_limit_body(struct http_request *request, size_t max_bytes)
{
        request->body.max = MIN(request->body.max, max_bytes);
}

void http_request_set_context(struct http_request *request, void *context, void (*free_fn)(void *))
{
        if (request->context_free)
                request->context_free(request->context);
        request->context = context;
        request->context_free = free_fn;
}

void *http_request_context(const struct http_request *request)
{
        return request->context;
}

void http_request_on_abort(struct http_request *request, loop_fn fn, void *userdata)
{
        request->abort_fn = fn;
        request->abort_userdata = userdata;
}

void http_request_on_answer(struct http_request *request, http_answer_fn fn, void *userdata)
{
        request->answer_fn = fn;
        request->answer_userdata = userdata;
}

void http_request_aborted(struct http_request *request)
{
        loop_fn fn = TAKE_PTR(request->abort_fn);

        if (fn && !request->answered)
                fn(request->abort_userdata);
}

/* ---- answers ---- */

int http_request_add_header(struct http_request *request, const char *name, const char *value)
{
        return http_fields_add(&request->answer_headers, name, value);
}

static int apply_headers(const struct http_request *q, struct MHD_Response *response)
{
        const struct http_field *f;

        list_for_each (f, &q->answer_headers, link)
                if (MHD_add_response_header(response, f->name, f->value) != MHD_YES)
                        return -ENOMEM;
        return 0;
}

void http_request_finish(struct http_request *q, int status, struct MHD_Response *response)
{
        if (response && (torture_point() || apply_headers(q, response) < 0)) {
                MHD_destroy_response(response);
                response = NULL;
        }
        q->answered = true;
        q->response = response; /* NULL: the server sends its fixed 503 */
        q->status = (unsigned int)status;
        if (q->suspended)
                http_request_resume(q);
        http_request_unref(q); /* the handler's */
}

/* Takes `text` (from malloc) over; NULL gives NULL. */
static struct MHD_Response *text_response(char *text, const char *content_type)
{
        struct MHD_Response *response;

        if (!text)
                return NULL;
        response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
        if (!response) {
                free(text);
                return NULL;
        }
        /* Answers are the state of this moment, and often for this caller's eyes only. */
        if (MHD_add_response_header(response, "Content-Type", content_type) != MHD_YES ||
                MHD_add_response_header(response, "Cache-Control", "no-store") != MHD_YES ||
                MHD_add_response_header(response, "X-Content-Type-Options", "nosniff") != MHD_YES) {
                MHD_destroy_response(response);
                return NULL;
        }
        return response;
}

void http_request_reply_json(struct http_request *request, int status, json_t *json)
{
        _cleanup_json_ json_t *owned = json;

        http_request_reply_json_text(request, status, owned ? doc_to_text(owned) : NULL);
}

void http_request_reply_json_text(struct http_request *request, int status, char *text)
{
        tell_answer(request, status, text);
        http_request_finish(request, status, text_response(text, "application/json"));
}

void http_request_reply_error(struct http_request *request, struct error *error)
{
        _cleanup_error_ struct error *owned = error;
        _cleanup_json_ json_t *problem = owned ? error_to_json(owned) : NULL;
        int status = owned ? error_code_to_http(owned->code) : 503;

        /* RFC 9110 section 11.6.1: a 401 names the scheme. Without memory it goes without. */
        if (status == 401)
                (void)http_request_add_header(request, "WWW-Authenticate", "Bearer");
        http_request_finish(request, status,
                problem ? text_response(doc_to_text(problem), "application/problem+json") : NULL);
}

void http_request_reply_text(
        struct http_request *request, int status, const char *content_type, const char *text)
{
        http_request_finish(request, status, text_response(alloc_strdup(text), content_type));
}

void http_request_reply_empty(struct http_request *request, int status)
{
        static char nothing[] = "";

        tell_answer(request, status, nothing);
        http_request_finish(
                request, status, MHD_create_response_from_buffer(0, nothing, MHD_RESPMEM_PERSISTENT));
}

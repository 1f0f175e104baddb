/* SPDX-License-Identifier: Apache-2.0 */
#include "io/http_client.h"

#include <assert.h>
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/torture.h"

/* libcurl's multi interface, driven by our loop: curl names the sockets and the time it waits for, we call
 * curl_multi_socket_action() when something is due.
 *
 * curl must not be entered again from its own callbacks, but a user's function may start, cancel or free
 * anything. So curl's callbacks only store what came; users are called afterwards, by deliver(), from lists.
 * A call is counted while its user's function runs; the client is freed late when it happens in there. */

#define CONNECT_TIMEOUT_DEFAULT_MS 5000
#define BODY_MAX_DEFAULT (4 * 1024 * 1024)
#define URL_MAX_CHARS 8192
#define CONNECTIONS_KEPT_DEFAULT 64
#define DELIVER_MAX_MS \
        10 /* then others have their turn on the loop: hundreds of calls may have ended at once */

struct http_client {
        struct loop *loop;
        CURLM *multi;
        struct loop_source *timer;
        char *ca_pem;
        char *cert_pem;
        char *key_pem;
        struct list calls;     /* under way in curl */
        struct list delivered; /* with lines, or ended: their users are to be called */
        unsigned int delivering;
        bool closed;
};

struct http_call {
        unsigned int n_refs;
        struct http_client *client; /* NULL: cancelled */
        struct list link;           /* in calls */
        struct list deliver_link;   /* in delivered */
        CURL *easy;
        struct curl_slist *headers;
        struct curl_slist *connect_to;
        char *peer; /* for messages */
        char *body; /* of the request */
        struct buf answer;
        bool too_large;
        bool ended;
        CURLcode result;
        char curl_message[CURL_ERROR_SIZE];
        uint64_t timeout_ms;
        void (*line)(void *userdata, const char *line);
        http_reply_fn reply;
        void *userdata;
};

static void deliver(struct http_client *client);

/* ---- calls ---- */

static void call_unref(struct http_call *call)
{
        if (--call->n_refs)
                return;
#ifndef __clang_analyzer__ /* it does not follow the count of references through the list */
        if (call->easy)
                curl_easy_cleanup(call->easy);
        curl_slist_free_all(call->headers);
        curl_slist_free_all(call->connect_to);
        buf_deinit(&call->answer);
        free(call->peer);
        if (call->body)
                explicit_bzero(call->body, strlen(call->body)); /* it may hold keys */
        free(call->body);
        free(call);
#endif
}

/* Takes the call out of curl and off all lists; drops the client's reference. */
static void call_end(struct http_call *call)
{
        (void)curl_multi_remove_handle(call->client->multi, call->easy);
        list_remove(&call->link);
        list_remove(&call->deliver_link);
        call->client = NULL;
        call_unref(call);
}

void http_call_cancel(struct http_call *call)
{
        if (call && call->client)
                call_end(call);
}

bool http_call_connected(const struct http_call *call)
{
        long port = 0; /* of the peer; libcurl knows it from the moment of the connection on */

        (void)curl_easy_getinfo(call->easy, CURLINFO_PRIMARY_PORT, &port);
        return port != 0;
}

/* ---- curl's callbacks ---- */

static long status_of(const struct http_call *call)
{
        long status = 0;

        (void)curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
        return status;
}

static bool has_lines(const struct http_call *call)
{
        return call->line && status_of(call) / 100 == 2;
}

/* One that waits already keeps its place, however much it has to say. */
static void await_delivery(struct http_call *call)
{
        if (list_empty(&call->deliver_link))
                list_append(&call->client->delivered, &call->deliver_link);
}

static size_t on_data(char *data, size_t size, size_t n, void *userdata)
{
        struct http_call *call = userdata;

        if (buf_append(&call->answer, data, size * n) < 0) {
                call->too_large = true;
                return 0;
        }
        if (has_lines(call))
                await_delivery(call);
        return size * n;
}

static void on_event(void *userdata, int fd, uint32_t events)
{
        struct http_client *client = userdata;
        int running, mask = 0;

        if (events & EPOLLIN)
                mask |= CURL_CSELECT_IN;
        if (events & EPOLLOUT)
                mask |= CURL_CSELECT_OUT;
        if (events & (EPOLLERR | EPOLLHUP))
                mask |= CURL_CSELECT_ERR;
        (void)curl_multi_socket_action(client->multi, fd, mask, &running);
        deliver(client);
}

static void on_timer(void *userdata)
{
        struct http_client *client = userdata;
        int running;

        (void)curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
        deliver(client);
}

/* Lets a call fail for lack of memory; its user is told from the loop. (An error returned to curl would end all
 * calls, and not before curl is entered again.) */
static void give_up(CURL *easy)
{
        struct http_call *call;

        (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&call);
        call->result = CURLE_OUT_OF_MEMORY;
        call->ended = true;
        await_delivery(call);
        (void)loop_source_rearm(call->client->timer, 0);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *userdata, void *socket_data)
{
        struct http_client *client = userdata;
        struct loop_source *source = socket_data;
        uint32_t events = 0;

        if (what == CURL_POLL_REMOVE) {
                loop_source_free(source);
                return 0;
        }
        if (what & CURL_POLL_IN)
                events |= EPOLLIN;
        if (what & CURL_POLL_OUT)
                events |= EPOLLOUT;
        if (source)
                (void)loop_source_set_events(source, events);
        else if (loop_add_io(client->loop, fd, events, on_event, client, &source) < 0)
                give_up(easy);
        else
                (void)curl_multi_assign(client->multi, fd, source);
        return 0;
}

static int on_timeout_change(CURLM *multi _unused_, long timeout_ms, void *userdata)
{
        struct http_client *client = userdata;

        if (!list_empty(&client->delivered)) /* somebody is still to be told */
                timeout_ms = 0;
        if (timeout_ms < 0)
                (void)loop_source_disarm(client->timer);
        else
                (void)loop_source_rearm(client->timer, (uint64_t)timeout_ms);
        return 0;
}

/* ---- what users are told ---- */

static void describe_failure(const struct http_call *call, struct error **ret_error)
{
        const char *cause = *call->curl_message ? call->curl_message : curl_easy_strerror(call->result);

        if (call->too_large) {
                error_set(ret_error, ERROR_PROTOCOL, NULL, "the answer of %s is larger than %zu bytes",
                        call->peer, call->answer.max);
                return;
        }
        switch (call->result) {
        case CURLE_OPERATION_TIMEDOUT:
                error_set(ret_error, ERROR_TIMED_OUT, "Check the network and the load of the peer.",
                        "no answer from %s in time: %s", call->peer, cause);
                break;
        case CURLE_OUT_OF_MEMORY:
                error_set(ret_error, ERROR_NO_MEMORY, NULL, "cannot call %s: out of memory", call->peer);
                break;
        case CURLE_PEER_FAILED_VERIFICATION:
                error_set(ret_error, ERROR_UNREACHABLE,
                        "Check that the peer belongs to this cluster and that its certificate has not ended.",
                        "%s did not prove its identity: %s", call->peer, cause);
                break;
        default:
                error_set(ret_error, ERROR_UNREACHABLE,
                        "Check that the peer runs, its address and the firewalls between.",
                        "cannot reach %s: %s", call->peer, cause);
        }
}

static bool is_json(const struct http_call *call)
{
        const char *type = NULL;

        (void)curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
        return type && strstr(type, "json");
}

/* Makes of the ended transfer what the reply function gets. Returns the status. */
static int conclude(const struct http_call *call, json_t **ret_body, struct error **ret_error)
{
        _cleanup_error_ struct error *syntax = NULL;
        _cleanup_json_ json_t *body = NULL;
        long status = status_of(call);

        if (call->result != CURLE_OK) {
                describe_failure(call, ret_error);
                return 0;
        }
        if (call->answer.len && is_json(call) && !has_lines(call))
                (void)doc_parse(call->answer.data, call->answer.len, &body, &syntax);
        if (status >= 400) {
                if (json_is_object(body))
                        *ret_error = error_from_json(body);
                if (!*ret_error)
                        error_set(ret_error, ERROR_PEER_FAILED, NULL, "%s answered with HTTP status %ld",
                                call->peer, status);
        } else if (syntax) {
                error_set(ret_error, ERROR_PROTOCOL, NULL, "%s sent a broken answer: %s", call->peer,
                        error_message(syntax));
                return 0;
        }
        *ret_body = TAKE_PTR(body);
        return (int)status;
}

/* Hands over the complete lines. The user's function may cancel the call. */
static void deliver_lines(struct http_call *call)
{
        size_t at = 0;

        while (call->client && at < call->answer.len) {
                const char *start = call->answer.data + at, *end = memchr(start, '\n', call->answer.len - at);
                _cleanup_free_ char *line = NULL;
                size_t len;

                if (!end)
                        break;
                len = (size_t)(end - start);
                line = alloc_zero(len + 1);
                if (!line) { /* a line that is lost silently would be worse than an end */
                        call->result = CURLE_OUT_OF_MEMORY;
                        call->ended = true;
                        break;
                }
                memcpy(line, start, len);
                if (len && line[len - 1] == '\r')
                        line[len - 1] = '\0';
                at += len + 1;
                call->line(call->userdata, line);
        }
        buf_consume(&call->answer, at);
}

static void deliver_call(struct http_call *call)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = NULL;
        http_reply_fn reply = call->reply;
        void *userdata = call->userdata;
        int status;

        assert(call->n_refs > 0);
        call->n_refs++;
        if (has_lines(call))
                deliver_lines(call);
        if (call->client && call->ended) {
                status = conclude(call, &body, &error);
                call_end(call);
                reply(userdata, status, body, error);
        }
        call_unref(call);
}

static void collect_ended(struct http_client *client)
{
        const CURLMsg *msg;
        int left;

        while ((msg = curl_multi_info_read(client->multi, &left))) {
                struct http_call *call;

                if (msg->msg != CURLMSG_DONE)
                        continue;
                (void)curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&call);
                call->result = msg->data.result;
                call->ended = true;
                await_delivery(call);
        }
}

static void client_release(struct http_client *client)
{
        free(client->ca_pem);
        free(client->cert_pem);
        if (client->key_pem)
                explicit_bzero(client->key_pem, strlen(client->key_pem));
        free(client->key_pem);
        free(client);
}

static void deliver(struct http_client *client)
{
        const struct clock *clock = loop_clock(client->loop);
        uint64_t until_ms = clock_now_ms(clock) + DELIVER_MAX_MS;
        struct http_call *call;

        collect_ended(client);
        client->delivering++;
        while (!client->closed && (call = LIST_FIRST(&client->delivered, struct http_call, deliver_link))) {
                list_remove(&call->deliver_link);
                deliver_call(call);
                if (clock_now_ms(clock) >= until_ms)
                        break;
        }
        if (!client->closed && !list_empty(&client->delivered))
                (void)loop_source_rearm(client->timer, 0);
        if (--client->delivering == 0 && client->closed)
                client_release(client);
}

/* ---- starting a call ---- */

static bool is_url_part(const char *s, const char *also)
{
        if (!*s || strlen(s) > URL_MAX_CHARS / 2)
                return false;
        for (; *s; s++)
                if (!isalnum((unsigned char)*s) && !strchr(also, *s))
                        return false;
        return true;
}

static int check_spec(
        const struct http_client *client, const struct http_call_spec *spec, struct error **ret_error)
{
        /* What a URL may hold (RFC 3986), so that no value can end the part it stands in. */
        if (!is_url_part(spec->address, ".:[]-_") ||
                (spec->peer_name && !is_url_part(spec->peer_name, ".:[]-_")))
                return error_set(ret_error, ERROR_BAD_REQUEST, "Write it as ADDRESS:PORT.",
                        "\"%.100s\" is not an address", spec->address);
        if (*spec->path != '/' || !is_url_part(spec->path, "-._~:/?#[]@!$&'()*+,;=%"))
                return error_set(ret_error, ERROR_BAD_REQUEST, "Percent-encode the parts of the path.",
                        "\"%.100s\" is not a path", spec->path);
        if (spec->peer_name && !client->ca_pem)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Give the CA certificate of the cluster.",
                        "%s cannot be called over TLS: no CA certificate is known", spec->address);
        return 0;
}

static int append_header(struct curl_slist **list, const char *text)
{
        struct curl_slist *longer = torture_point() ? NULL : curl_slist_append(*list, text);

        if (!longer)
                return -ENOMEM;
        *list = longer;
        return 0;
}

static int build_headers(struct http_call *call, const struct http_call_spec *spec)
{
        int r = append_header(&call->headers, "Accept: application/json, */*");

        if (r == 0)
                r = append_header(&call->headers, "Expect:"); /* no 100-continue round trip */
        if (r == 0 && call->body)
                r = append_header(&call->headers, "Content-Type: application/json");
        for (size_t i = 0; r == 0 && spec->headers && spec->headers[i]; i++)
                r = append_header(&call->headers, spec->headers[i]);
        return r;
}

/* Where to connect and whom to expect there are two things: the URL names the peer, CONNECT_TO the address.
 */
static int build_address(struct http_call *call, const struct http_call_spec *spec)
{
        _cleanup_free_ char *url = NULL, *connect_to = NULL;

        if (spec->peer_name)
                url = alloc_printf("https://%s%s", spec->peer_name, spec->path);
        else
                url = alloc_printf("http://%s%s", spec->address, spec->path);
        connect_to = alloc_printf("::%s", spec->address);
        if (!url || !connect_to || append_header(&call->connect_to, connect_to) < 0)
                return -ENOMEM;
        if (curl_easy_setopt(call->easy, CURLOPT_URL, url) != CURLE_OK ||
                curl_easy_setopt(call->easy, CURLOPT_CONNECT_TO, call->connect_to) != CURLE_OK)
                return -ENOMEM;
        return 0;
}

static CURLcode set_blob(CURL *easy, CURLoption option, char *text)
{
        struct curl_blob blob = {.data = text, .len = strlen(text), .flags = CURL_BLOB_NOCOPY};

        return curl_easy_setopt(easy, option, &blob);
}

static int set_tls(CURL *easy, const struct http_client *client)
{
        CURLcode c = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);

        if (c == CURLE_OK)
                c = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
        if (c == CURLE_OK)
                c = curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
        /* The system's store would be searched beside the CA we name. */
        if (c == CURLE_OK)
                c = curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
        if (c == CURLE_OK && client->ca_pem)
                c = set_blob(easy, CURLOPT_CAINFO_BLOB, client->ca_pem);
        if (c == CURLE_OK && client->cert_pem)
                c = set_blob(easy, CURLOPT_SSLCERT_BLOB, client->cert_pem);
        if (c == CURLE_OK && client->key_pem)
                c = set_blob(easy, CURLOPT_SSLKEY_BLOB, client->key_pem);
        return c == CURLE_OK ? 0 : -ENOMEM;
}

static int set_method(CURL *easy, const char *method, const char *body)
{
        CURLcode c = CURLE_OK;

        if (!strcmp(method, "HEAD"))
                c = curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
        else if (body || !strcmp(method, "POST") || !strcmp(method, "PUT"))
                c = curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body ?: "");
        if (c == CURLE_OK)
                c = curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method);
        return c == CURLE_OK ? 0 : -ENOMEM;
}

static long to_long_ms(uint64_t ms)
{
        return ms > INT_MAX ? INT_MAX : (long)ms;
}

static int set_behaviour(struct http_call *call, const struct http_call_spec *spec)
{
        CURL *e = call->easy;
        CURLcode c = CURLE_OK;

#define SET(option, value) \
        do { \
                if (c == CURLE_OK) \
                        c = curl_easy_setopt(e, option, value); \
        } while (0)
        SET(CURLOPT_PRIVATE, call);
        SET(CURLOPT_ERRORBUFFER, call->curl_message);
        SET(CURLOPT_WRITEFUNCTION, on_data);
        SET(CURLOPT_WRITEDATA, call);
        SET(CURLOPT_HTTPHEADER, call->headers);
        SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
        SET(CURLOPT_PROTOCOLS_STR, "http,https");
        SET(CURLOPT_FOLLOWLOCATION, 0L);
        SET(CURLOPT_PROXY, ""); /* not even what the environment says */
        SET(CURLOPT_NOSIGNAL, 1L);
        SET(CURLOPT_PATH_AS_IS, 1L);
        SET(CURLOPT_TCP_KEEPALIVE, 1L);
        SET(CURLOPT_FRESH_CONNECT, spec->own_connection ? 1L : 0L);
        SET(CURLOPT_TIMEOUT_MS, to_long_ms(spec->timeout_ms));
        SET(CURLOPT_CONNECTTIMEOUT_MS, to_long_ms(spec->connect_timeout_ms ?: CONNECT_TIMEOUT_DEFAULT_MS));
#undef SET
        return c == CURLE_OK ? 0 : -ENOMEM;
}

static int call_prepare(
        struct http_call *call, const struct http_client *client, const struct http_call_spec *spec)
{
        int r;

        /* Many lines may come at once; the limit on a single line is then the default. */
        buf_init(&call->answer,
                spec->line ? BODY_MAX_DEFAULT : spec->body_max_bytes ?: (size_t)BODY_MAX_DEFAULT);
        call->peer = alloc_printf("%s%s%s%s", spec->peer_name ?: spec->address, spec->peer_name ? " (" : "",
                spec->peer_name ? spec->address : "", spec->peer_name ? ")" : "");
        if (spec->body)
                call->body = doc_to_text(spec->body);
        call->easy = torture_point() ? NULL : curl_easy_init();
        if (!call->peer || (spec->body && !call->body) || !call->easy)
                return -ENOMEM;
        r = build_headers(call, spec);
        if (r == 0)
                r = build_address(call, spec);
        if (r == 0)
                r = set_tls(call->easy, client);
        if (r == 0)
                r = set_method(call->easy, spec->method, call->body);
        return r < 0 ? r : set_behaviour(call, spec);
}

int http_client_call(struct http_client *client, const struct http_call_spec *spec, http_reply_fn reply,
        void *userdata, struct http_call **ret_call, struct error **ret_error)
{
        struct http_call *call;
        int r;

        r = check_spec(client, spec, ret_error);
        if (r < 0)
                return r;
        call = ALLOC(struct http_call);
        if (!call)
                return error_from_errno(ret_error, ENOMEM, "cannot call %s", spec->address);
        call->n_refs = 1;
        call->line = spec->line;
        call->reply = reply;
        call->userdata = userdata;
        list_init(&call->link);
        list_init(&call->deliver_link);
        r = call_prepare(call, client, spec);
        if (r == 0 && curl_multi_add_handle(client->multi, call->easy) != CURLM_OK)
                r = -ENOMEM;
        if (r < 0) {
                call_unref(call);
                return error_from_errno(ret_error, r, "cannot call %s", spec->address);
        }
        call->client = client;
        list_append(&client->calls, &call->link);
        if (ret_call)
                *ret_call = call;
        return 0;
}

/* ---- the client ---- */

static int set_up_multi(struct http_client *client, unsigned int connections_kept)
{
        client->multi = torture_point() ? NULL : curl_multi_init();
        if (!client->multi ||
                curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, on_socket) != CURLM_OK ||
                curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client) != CURLM_OK ||
                curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, on_timeout_change) != CURLM_OK ||
                curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client) != CURLM_OK ||
                curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long)connections_kept) != CURLM_OK)
                return -ENOMEM;
        return 0;
}

int http_client_new(struct loop *loop, const struct http_client_config *config,
        struct http_client **ret_client, struct error **ret_error)
{
        _cleanup_(http_client_freep) struct http_client *client = ALLOC(struct http_client);
        int r;

        if (!client)
                return error_from_errno(ret_error, ENOMEM, "cannot make the HTTP client");
        client->loop = loop;
        list_init(&client->calls);
        list_init(&client->delivered);
        r = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? 0 : -ENOMEM; /* counted, cheap again */
        if (r == 0)
                r = loop_add_timer(loop, 0, on_timer, client, &client->timer);
        if (r == 0)
                r = loop_source_disarm(client->timer);
        if (r == 0)
                r = set_up_multi(client, config->connections_kept ?: CONNECTIONS_KEPT_DEFAULT);
        if (r == 0)
                r = alloc_replace(&client->ca_pem, config->ca_pem);
        if (r == 0)
                r = alloc_replace(&client->cert_pem, config->cert_pem);
        if (r == 0)
                r = alloc_replace(&client->key_pem, config->key_pem);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make the HTTP client");
        *ret_client = TAKE_PTR(client);
        return 0;
}

void http_client_free(struct http_client *client)
{
        struct http_call *call, *spare;

        if (!client)
                return;
        list_for_each_safe (call, spare, &client->calls, link)
                call_end(call);
        if (client->multi)
                curl_multi_cleanup(client->multi); /* closes idle connections: calls on_socket */
        loop_source_free(client->timer);
        client->timer = NULL;
        client->multi = NULL;
        client->closed = true;
        if (!client->delivering)
                client_release(client);
}

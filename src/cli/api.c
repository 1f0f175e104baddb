/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/api.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"

#define ANSWER_MAX_BYTES (64U << 20)
#define EVENT_MAX_BYTES (4U << 20)
#define URL_MAX_BYTES 8192
#define CONNECT_TIMEOUT_MS 10000L
#define CALL_TIMEOUT_MS 60000L
/* With several managers: one that is frozen or cut off is given up sooner, and a standby may need a while to take over. */
#define CONNECT_TIMEOUT_OF_SEVERAL_MS 3000L
#define READ_TIMEOUT_OF_SEVERAL_MS 10000L
#define TAKEOVER_MAX_MS 15000
#define ROUND_MS 500
/* The server sends a comment each 15 s; three missed ones mean that it is gone. */
#define STREAM_SILENCE_S 45L

struct api {
        CURL *curl;
        char *servers[API_SERVERS_MAX];
        size_t n_servers;
        const char *server; /* the one in use */
        size_t current;     /* its number */
        char *reason;
        char *key;
        bool answer_lost;
        uint64_t timeout_ms;        /* of calls; 0: as usual */
        int64_t match;              /* revision for the next call's If-Match; 0: none */
        bool answered;              /* the last call, by the server, whatever it said */
        struct curl_slist *headers; /* of every call */
        const volatile sig_atomic_t *interrupts;
        sig_atomic_t interrupts_before; /* their number when the call under way began */
        char curl_error[CURL_ERROR_SIZE];
};

struct stream {
        struct buf line;
        struct buf data;
        char type[32];
        char *last_id; /* char[64] */
        api_event_fn event;
        void *userdata;
        bool ended; /* by our side */
        int error;
};

static bool host_is_local(const char *server)
{
        static const char *const local[] = {"http://localhost", "http://127.0.0.1", "http://[::1]"};

        for (size_t i = 0; i < ARRAY_SIZE(local); i++) {
                size_t n = strlen(local[i]);

                if (!strncmp(server, local[i], n) && (!server[n] || server[n] == ':'))
                        return true;
        }
        return false;
}

static int check_server(const char *server, struct error **ret_error)
{
        bool https = !strncmp(server, "https://", 8) && strlen(server) > 8;

        if (https || host_is_local(server))
                return 0;
        if (!strncmp(server, "http://", 7))
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "use https://; plain http is for this machine alone",
                        "%s would carry the API token in the clear", server);
        return error_set(ret_error, ERROR_BAD_REQUEST,
                "give one such as https://manager:8443 with -s or DROVER_SERVER",
                "'%s' is not the URL of a manager", server);
}

/* "https://a:8443, https://b:8443": one or more, each without a slash at its end. */
static int take_servers(struct api *api, const char *list, struct error **ret_error)
{
        int r = 0;

        while (r == 0 && *list) {
                size_t n = strcspn(list, ", ");
                char *server = NULL;

                if (n && api->n_servers == API_SERVERS_MAX)
                        return error_set(ret_error, ERROR_BAD_REQUEST, NULL,
                                "more than %d managers are named", API_SERVERS_MAX);
                if (n) {
                        server = alloc_printf("%.*s", (int)n, list);
                        if (!server)
                                return error_from_errno(ret_error, ENOMEM, "cannot prepare the connection");
                        for (size_t end = n; end && server[end - 1] == '/'; end--)
                                server[end - 1] = '\0';
                        api->servers[api->n_servers++] = server;
                        r = check_server(server, ret_error);
                }
                list += n + (list[n] != '\0');
        }
        if (r == 0 && !api->n_servers)
                return check_server("", ret_error);
        api->server = api->servers[0];
        return r;
}

const char *api_server(const struct api *api)
{
        return api->server;
}

static void use_next_server(struct api *api)
{
        api->current = (api->current + 1) % api->n_servers;
        api->server = api->servers[api->current];
}

static int add_header(struct curl_slist **list, const char *header)
{
        struct curl_slist *longer = header ? curl_slist_append(*list, header) : NULL;

        if (!longer)
                return -ENOMEM;
        *list = longer;
        return 0;
}

static int check_interrupts(void *userdata, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
        const struct api *api = userdata;

        return api->interrupts && *api->interrupts != api->interrupts_before;
}

int api_new(const struct settings *settings, struct api **ret_api, struct error **ret_error)
{
        _cleanup_(api_freep) struct api *api = NULL;
        _cleanup_free_ char *bearer = NULL;
        int r;

        api = ALLOC(struct api);
        if (!api)
                return error_from_errno(ret_error, ENOMEM, "cannot prepare the connection");
        r = take_servers(api, settings->server, ret_error);
        if (r < 0)
                return r;
        api->curl = curl_easy_init();
        if (settings->token) {
                bearer = alloc_printf("Authorization: Bearer %s", settings->token);
                r = add_header(&api->headers, bearer);
        }
        if (!api->curl || r < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot prepare the connection");
        curl_easy_setopt(api->curl, CURLOPT_ERRORBUFFER, api->curl_error);
        curl_easy_setopt(api->curl, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(api->curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(api->curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(api->curl, CURLOPT_XFERINFOFUNCTION, check_interrupts);
        curl_easy_setopt(api->curl, CURLOPT_XFERINFODATA, api);
        curl_easy_setopt(api->curl, CURLOPT_USERAGENT, "drover-cli");
        curl_easy_setopt(api->curl, CURLOPT_CONNECTTIMEOUT_MS,
                api->n_servers > 1 ? CONNECT_TIMEOUT_OF_SEVERAL_MS : CONNECT_TIMEOUT_MS);
        /* The API is asked directly: a proxy from the environment would see the token's requests fail. */
        curl_easy_setopt(api->curl, CURLOPT_NOPROXY, "*");
        if (settings->ca)
                curl_easy_setopt(api->curl, CURLOPT_CAINFO, settings->ca);
        *ret_api = TAKE_PTR(api);
        return 0;
}

void api_free(struct api *api)
{
        if (!api)
                return;
        curl_easy_cleanup(api->curl);
        curl_slist_free_all(api->headers);
        for (size_t i = 0; i < api->n_servers; i++)
                free(api->servers[i]);
        free(api->reason);
        free(api->key);
        free(api);
}

int api_set_reason(struct api *api, const char *reason)
{
        return alloc_replace(&api->reason, reason);
}

int api_set_key(struct api *api, const char *key)
{
        return alloc_replace(&api->key, key);
}

bool api_answer_lost(const struct api *api)
{
        return api->answer_lost;
}

int api_query(struct buf *path, const char *key, const char *value)
{
        char *escaped;
        int r;

        if (!value)
                return 0;
        escaped = curl_easy_escape(NULL, value, 0);
        if (!escaped)
                return -ENOMEM;
        r = buf_printf(path, "%c%s=%s", strchr(buf_string(path), '?') ? '&' : '?', key, escaped);
        curl_free(escaped);
        return r;
}

static size_t collect(char *data, size_t size, size_t n, void *userdata)
{
        /* curl reports CURLE_WRITE_ERROR when less is taken */
        return buf_append(userdata, data, size * n) < 0 ? 0 : size * n;
}

void api_set_interrupts(struct api *api, const volatile sig_atomic_t *interrupts)
{
        api->interrupts = interrupts;
}

static int connection_error(const struct api *api, CURLcode code, struct error **ret_error)
{
        const char *why = *api->curl_error ? api->curl_error : curl_easy_strerror(code);

        switch (code) {
        case CURLE_OPERATION_TIMEDOUT:
                return error_set(ret_error, ERROR_TIMED_OUT, "see whether drover-manager runs there",
                        "%s did not answer in time: %s", api->server, why);
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
                return error_set(ret_error, ERROR_UNREACHABLE,
                        "give the CA that the manager's certificate is from with --ca or DROVER_CA",
                        "the certificate of %s cannot be trusted: %s", api->server, why);
        case CURLE_ABORTED_BY_CALLBACK:
                return error_set(ret_error, ERROR_CANCELLED, NULL, "interrupted");
        case CURLE_WRITE_ERROR:
                return error_set(ret_error, ERROR_TOO_LARGE, "ask for less, with a filter or --limit",
                        "the answer of %s is larger than %u MiB", api->server, ANSWER_MAX_BYTES >> 20);
        case CURLE_URL_MALFORMAT:
                return error_set(ret_error, ERROR_BAD_REQUEST, "give one such as https://manager:8443",
                        "'%s' is not the URL of a manager", api->server);
        default:
                return error_set(ret_error, ERROR_UNREACHABLE,
                        "see whether drover-manager runs there, and check -s or DROVER_SERVER",
                        "cannot reach %s: %s", api->server, why);
        }
}

/* What an answer means whose body is no problem document: a proxy, or another program on that port. */
static enum error_code code_of_status(long status)
{
        switch (status) {
        case 401:
                return ERROR_UNAUTHENTICATED;
        case 403:
                return ERROR_DENIED;
        case 404:
                return ERROR_NOT_FOUND;
        case 504:
                return ERROR_TIMED_OUT;
        default:
                return ERROR_PROTOCOL;
        }
}

static int problem(const struct api *api, long status, const struct buf *answer, struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;

        if (doc_parse(buf_string(answer), answer->len, &doc, NULL) == 0 &&
                json_is_string(json_object_get(doc, "code")))
                return error_propagate(ret_error, error_from_json(doc));
        return error_set(ret_error, code_of_status(status), "see whether that is drover-manager",
                "%s answered with HTTP status %ld", api->server, status);
}

/* What is not below /api/v1, or is written in full. */
static bool is_whole(const char *path)
{
        static const char *const whole[] = {"/api/", "/version", "/metrics", "/healthz", "/readyz"};

        for (size_t i = 0; i < ARRAY_SIZE(whole); i++)
                if (!strncmp(path, whole[i], strlen(whole[i])))
                        return true;
        return false;
}

static int prepare(struct api *api, const char *method, const char *path, struct curl_slist **headers,
        struct error **ret_error)
{
        _cleanup_buf_ struct buf url;
        const char *prefix = is_whole(path) ? "" : "/api/v1";
        int r = 0;

        buf_init(&url, URL_MAX_BYTES);
        if (buf_printf(&url, "%s%s%s", api->server, prefix, path) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the request is too long");
        for (const struct curl_slist *h = api->headers; h && r == 0; h = h->next)
                r = add_header(headers, h->data);
        if (r == 0 && api->reason) {
                _cleanup_free_ char *reason = alloc_printf("X-Drover-Reason: %s", api->reason);

                r = add_header(headers, reason);
        }
        if (r == 0 && api->key && strcmp(method, "GET") != 0) {
                _cleanup_free_ char *key = alloc_printf("Idempotency-Key: %s", api->key);

                r = add_header(headers, key);
        }
        if (r == 0 && api->match) {
                char match[48];

                snprintf(match, sizeof(match), "If-Match: \"%lld\"", (long long)api->match);
                r = add_header(headers, match);
        }
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make the request");
        api->curl_error[0] = '\0';
        api->answer_lost = false;
        api->interrupts_before = api->interrupts ? *api->interrupts : 0;
        curl_easy_setopt(api->curl, CURLOPT_URL, buf_string(&url));
        curl_easy_setopt(api->curl, CURLOPT_CUSTOMREQUEST, method);
        return 0;
}

static int add_body(struct api *api, const json_t *body, const char *method, char **ret_text,
        struct curl_slist **headers, struct error **ret_error)
{
        bool sends = body || !strcmp(method, "POST") || !strcmp(method, "PUT");

        curl_easy_setopt(api->curl, CURLOPT_HTTPGET, 1L);
        if (!sends)
                return 0;
        *ret_text = body ? doc_to_text(body) : alloc_strdup("");
        if (!*ret_text || (body && add_header(headers, "Content-Type: application/json") < 0))
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        curl_easy_setopt(api->curl, CURLOPT_POSTFIELDSIZE, (long)strlen(*ret_text));
        curl_easy_setopt(api->curl, CURLOPT_POSTFIELDS, *ret_text);
        return 0;
}

/* The connection stood, and ended before the answer did. */
static bool is_loss(CURLcode code)
{
        return code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
               code == CURLE_PARTIAL_FILE;
}

static bool only_reads(const char *method)
{
        return !strcmp(method, "GET");
}

/* What a call brings: the document, or the text as it came. */
struct answer {
        json_t **json; /* may be NULL */
        char **text;   /* not NULL: instead of the document */
        int *status;   /* may be NULL */
};

/* One call of the server in use. *ret_sent: it may have been carried out. */
static int call_server(struct api *api, const char *method, const char *path, const json_t *body,
        struct answer *ret, bool *ret_sent, struct error **ret_error)
{
        bool impatient = api->n_servers > 1 && only_reads(method);
        _cleanup_buf_ struct buf answer;
        _cleanup_free_ char *text = NULL;
        struct curl_slist *headers = NULL;
        json_t *json = NULL;
        curl_off_t began_us = 0;
        CURLcode code;
        long status = 0;
        int r;

        *ret_sent = false;
        buf_init(&answer, ANSWER_MAX_BYTES);
        r = add_body(api, body, method, &text, &headers, ret_error);
        if (r == 0)
                r = prepare(api, method, path, &headers, ret_error);
        if (r < 0) {
                curl_slist_free_all(headers);
                return r;
        }
        curl_easy_setopt(api->curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(api->curl, CURLOPT_TIMEOUT_MS,
                api->timeout_ms ? (long)api->timeout_ms
                : impatient     ? READ_TIMEOUT_OF_SEVERAL_MS
                                : CALL_TIMEOUT_MS);
        curl_easy_setopt(api->curl, CURLOPT_LOW_SPEED_LIMIT, 0L);
        curl_easy_setopt(api->curl, CURLOPT_WRITEFUNCTION, collect);
        curl_easy_setopt(api->curl, CURLOPT_WRITEDATA, &answer);
        code = curl_easy_perform(api->curl);
        curl_easy_getinfo(api->curl, CURLINFO_PRETRANSFER_TIME_T, &began_us);
        *ret_sent = began_us > 0;
        curl_easy_setopt(api->curl, CURLOPT_HTTPHEADER, NULL);
        curl_slist_free_all(headers);
        api->answer_lost = is_loss(code);
        api->answered = code == CURLE_OK;
        if (code != CURLE_OK)
                return connection_error(api, code, ret_error);
        curl_easy_getinfo(api->curl, CURLINFO_RESPONSE_CODE, &status);
        if (status >= 300)
                return problem(api, status, &answer, ret_error);
        if (ret->text) {
                *ret->text = buf_take_string(&answer);
                return *ret->text ? 0 : error_from_errno(ret_error, ENOMEM, "cannot take the answer in");
        }
        if (answer.len == 0)
                json = json_null();
        else if (doc_parse(buf_string(&answer), answer.len, &json, NULL) < 0)
                return error_set(ret_error, ERROR_PROTOCOL, "see whether that is drover-manager",
                        "the answer of %s is not a JSON document", api->server);
        if (ret->status)
                *ret->status = (int)status;
        if (ret->json)
                *ret->json = json;
        else
                json_decref(json);
        return 0;
}

/* Another manager may have the answer: this one does not lead, or cannot be reached and has done nothing. */
static bool is_for_another(const struct api *api, const struct error *error, bool may_repeat)
{
        if (!error)
                return false;
        return error->code == ERROR_NOT_LEADING ||
               (may_repeat && !api->answered &&
                       (error->code == ERROR_UNREACHABLE || error->code == ERROR_TIMED_OUT));
}

/* True to go on with the next server, after a pause when all had their turn. While any of them says that it stands by, one is
 * about to take over. */
static bool try_another(
        struct api *api, const struct error *error, uint64_t began_ms, size_t *n_tried, bool *any_stands_by)
{
        if (api->n_servers < 2)
                return false;
        *any_stands_by |= error->code == ERROR_NOT_LEADING;
        use_next_server(api);
        if (++*n_tried % api->n_servers)
                return true;
        if (!*any_stands_by || clock_now_ms(&clock_system) - began_ms > TAKEOVER_MAX_MS)
                return false;
        (void)poll(NULL, 0, ROUND_MS);
        return !api->interrupts || *api->interrupts == api->interrupts_before;
}

static int call_any(struct api *api, const char *method, const char *path, const json_t *body,
        struct answer *ret, struct error **ret_error)
{
        uint64_t began_ms = clock_now_ms(&clock_system);
        bool any_stands_by = false;
        size_t n_tried = 0;

        for (;;) {
                _cleanup_error_ struct error *error = NULL;
                bool sent = false;
                int r = call_server(api, method, path, body, ret, &sent, &error);

                if (r >= 0)
                        return r;
                if (!is_for_another(api, error, !sent || only_reads(method)) ||
                        !try_another(api, error, began_ms, &n_tried, &any_stands_by))
                        return error_propagate(ret_error, TAKE_PTR(error));
        }
}

int api_call(struct api *api, const char *method, const char *path, const json_t *body, json_t **ret_json,
        int *ret_status, struct error **ret_error)
{
        int r = call_any(
                api, method, path, body, &(struct answer){.json = ret_json, .status = ret_status}, ret_error);

        api->match = 0;
        return r;
}

int api_call_text(struct api *api, const char *method, const char *path, const json_t *body, char **ret_text,
        struct error **ret_error)
{
        return call_any(api, method, path, body, &(struct answer){.text = ret_text}, ret_error);
}

void api_set_match(struct api *api, int64_t revision)
{
        api->match = revision;
}

void api_set_timeout(struct api *api, uint64_t timeout_ms)
{
        api->timeout_ms = timeout_ms;
}

/* One line of an event stream, as the WHATWG's HTML standard section 9.2 has it. */
static int take_line(struct stream *s, char *line)
{
        if (!*line) {
                _cleanup_json_ json_t *doc = NULL;

                if (s->data.len && doc_parse(buf_string(&s->data), s->data.len, &doc, NULL) == 0)
                        s->ended = !s->event(s->userdata, *s->type ? s->type : "message", doc);
                buf_clear(&s->data);
                s->type[0] = '\0';
        } else if (!strncmp(line, "data:", 5)) {
                return buf_append_string(&s->data, line + 5);
        } else if (!strncmp(line, "event:", 6)) {
                snprintf(s->type, sizeof(s->type), "%s", line + 6 + strspn(line + 6, " "));
        } else if (!strncmp(line, "id:", 3)) {
                snprintf(s->last_id, 64, "%s", line + 3 + strspn(line + 3, " "));
        }
        return 0;
}

static size_t take_stream(char *data, size_t size, size_t n, void *userdata)
{
        struct stream *s = userdata;
        size_t len = size * n;

        for (size_t i = 0; i < len; i++) {
                if (data[i] == '\r')
                        continue;
                if (data[i] != '\n') {
                        s->error = buf_append(&s->line, &data[i], 1);
                } else {
                        char *line = buf_take_string(&s->line);

                        s->error = line ? take_line(s, line) : -ENOMEM;
                        free(line);
                }
                if (s->error || s->ended)
                        return 0;
        }
        return len;
}

static int stream_server(struct api *api, const char *path, char last_id[static 64], api_event_fn event,
        void *userdata, struct error **ret_error)
{
        struct stream s = {.last_id = last_id, .event = event, .userdata = userdata};
        struct curl_slist *headers = NULL;
        char resume[96];
        CURLcode code;
        long status = 0;
        int r = 0;

        if (*last_id) {
                snprintf(resume, sizeof(resume), "Last-Event-ID: %s", last_id);
                r = add_header(&headers, resume);
        }
        r = r < 0 ? error_from_errno(ret_error, r, "cannot make the request")
                  : prepare(api, "GET", path, &headers, ret_error);
        if (r < 0) {
                curl_slist_free_all(headers);
                return r;
        }
        buf_init(&s.line, EVENT_MAX_BYTES);
        buf_init(&s.data, EVENT_MAX_BYTES);
        curl_easy_setopt(api->curl, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(api->curl, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(api->curl, CURLOPT_TIMEOUT_MS, 0L);
        curl_easy_setopt(api->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(api->curl, CURLOPT_LOW_SPEED_TIME, STREAM_SILENCE_S);
        curl_easy_setopt(api->curl, CURLOPT_WRITEFUNCTION, take_stream);
        curl_easy_setopt(api->curl, CURLOPT_WRITEDATA, &s);
        code = curl_easy_perform(api->curl);
        curl_easy_getinfo(api->curl, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_setopt(api->curl, CURLOPT_HTTPHEADER, NULL);
        curl_slist_free_all(headers);
        if (status >= 300)
                /* a problem document is one line without an end: it is still in s.line */
                r = problem(api, status, &s.line, ret_error);
        else if (s.error)
                r = error_from_errno(ret_error, s.error, "cannot take the event in");
        else if (code != CURLE_OK && !s.ended)
                r = connection_error(api, code, ret_error);
        buf_deinit(&s.line);
        buf_deinit(&s.data);
        return r;
}

int api_stream(struct api *api, const char *path, char last_id[static 64], api_event_fn event, void *userdata,
        struct error **ret_error)
{
        uint64_t began_ms = clock_now_ms(&clock_system);
        bool any_stands_by = false;
        size_t n_tried = 0;

        for (;;) {
                _cleanup_error_ struct error *error = NULL;
                int r = stream_server(api, path, last_id, event, userdata, &error);

                if (r >= 0)
                        return r;
                if (!is_for_another(api, error, true) ||
                        !try_another(api, error, began_ms, &n_tried, &any_stands_by))
                        return error_propagate(ret_error, TAKE_PTR(error));
        }
}

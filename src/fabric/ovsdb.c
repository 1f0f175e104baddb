/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovsdb.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/text.h"
#include "base/torture.h"
#include "io/sock.h"

#define DATABASE "Open_vSwitch"
#define READ_SIZE 65536
#define WORDS_MAX 200 /* of the server, in a message */
/* Messages that are no answer to what was asked, before we lose patience: a server asks for an echo now and then. */
#define STRAY_MAX 16

struct ovsdb {
        const struct clock *clock;
        char *path;
        int fd; /* -1: none */
        struct buf in;
        /* Of the message that begins at in.data: how far it was looked at, and in which state. */
        size_t scanned;
        size_t depth;
        bool in_string, after_backslash;
        uint64_t next_id;
        uint64_t not_before_ms;   /* no attempt before this */
        uint64_t behind_until_ms; /* ovs-vswitchd did not follow in time */
        char last_failure[WORDS_MAX];
};

int ovsdb_new(const char *path, const struct clock *clock, struct ovsdb **ret_db)
{
        _cleanup_(ovsdb_freep) struct ovsdb *db = ALLOC(struct ovsdb);

        if (!db)
                return -ENOMEM;
        *db = (struct ovsdb){.clock = clock, .fd = -1};
        buf_init(&db->in, OVSDB_MESSAGE_MAX);
        db->path = alloc_strdup(path);
        if (!db->path)
                return -ENOMEM;
        *ret_db = TAKE_PTR(db);
        return 0;
}

static void hang_up(struct ovsdb *db)
{
        if (db->fd >= 0)
                close(db->fd);
        db->fd = -1;
        buf_deinit(&db->in);
        buf_init(&db->in, OVSDB_MESSAGE_MAX);
        db->scanned = db->depth = 0;
        db->in_string = db->after_backslash = false;
}

void ovsdb_free(struct ovsdb *db)
{
        if (!db)
                return;
        hang_up(db);
        buf_deinit(&db->in);
        free(db->path);
        free(db);
}

const char *ovsdb_path(const struct ovsdb *db)
{
        return db->path;
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static int cannot_reach(const struct ovsdb *db, struct error **ret_error)
{
        return error_set(ret_error, ERROR_UNREACHABLE,
                "Install and start Open vSwitch on this host (openvswitch-switch), or set `openvswitch` in "
                "drover-agent.conf.",
                "cannot talk to Open vSwitch at %s: %s", db->path, db->last_failure);
}

/* Ends the connection; `why` is a negative errno of talking to the server. */
static int failed(struct ovsdb *db, int why, struct error **ret_error)
{
        hang_up(db);
        if (why == -ENOMEM)
                return no_memory(ret_error);
        if (why == -ETIMEDOUT) {
                db->not_before_ms = clock_now_ms(db->clock) + OVSDB_AGAIN_MS;
                snprintf(db->last_failure, sizeof(db->last_failure), "it did not answer in time");
                return error_set(ret_error, ERROR_TIMED_OUT, "See what keeps ovsdb-server busy (its log).",
                        "Open vSwitch's database at %s did not answer within %u ms", db->path,
                        (unsigned int)OVSDB_CALL_MS);
        }
        if (why == -EPROTO || why == -E2BIG)
                return error_set(ret_error, ERROR_PROTOCOL, "Check that ovsdb-server listens there.",
                        "what answers at %s is no database of Open vSwitch: %s", db->path,
                        why == -E2BIG ? "its answer is too large" : "its answer is not valid");
        snprintf(db->last_failure, sizeof(db->last_failure), "%s",
                why == -EPIPE ? "the connection was lost" : strerror(-why));
        return cannot_reach(db, ret_error);
}

/* A server that was restarted has closed the connection while nothing was asked of it. */
static void notice_end(struct ovsdb *db)
{
        char byte;

        if (db->fd >= 0 && recv(db->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
                hang_up(db);
}

static int connect_now(struct ovsdb *db, struct error **ret_error)
{
        int r;

        if (clock_now_ms(db->clock) < db->not_before_ms)
                return cannot_reach(db, ret_error);
        r = torture_point() ? -ECONNREFUSED : sock_connect_unix(db->path, SOCK_STREAM, &db->fd);
        return r < 0 ? failed(db, r, ret_error) : 0;
}

static int send_text(struct ovsdb *db, const char *text, size_t len, uint64_t deadline_ms)
{
        while (len > 0) {
                ssize_t n = send(db->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
                int r;

                if (n >= 0) {
                        text += n;
                        len -= (size_t)n;
                        continue;
                }
                if (errno != EAGAIN && errno != EINTR)
                        return -EPIPE;
                r = sock_wait(db->fd, POLLOUT, db->clock, deadline_ms);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int send_json(struct ovsdb *db, const json_t *message, uint64_t deadline_ms)
{
        _cleanup_free_ char *text = message ? doc_to_text(message) : NULL;

        return text ? send_text(db, text, strlen(text), deadline_ms) : -ENOMEM;
}

/* Messages follow each other without anything between. Looks at what is new in the buffer; true with the length of the first
 * message once all of it is there. Whether it is JSON is for the parser to say: what does not begin with a brace ends at once. */
static bool find_end(struct ovsdb *db, size_t *ret_len)
{
        for (; db->scanned < db->in.len; db->scanned++) {
                char c = db->in.data[db->scanned];

                if (db->in_string) {
                        if (db->after_backslash)
                                db->after_backslash = false;
                        else if (c == '\\')
                                db->after_backslash = true;
                        else if (c == '"')
                                db->in_string = false;
                        continue;
                }
                if (c == '"')
                        db->in_string = true;
                else if (c == '{' || c == '[')
                        db->depth++;
                else if (c == '}' || c == ']')
                        db->depth -= db->depth ? 1 : 0;
                else if (db->depth || c == ' ' || c == '\n' || c == '\r' || c == '\t')
                        continue;
                if (!db->depth && !db->in_string) {
                        *ret_len = ++db->scanned;
                        db->scanned = 0;
                        return true;
                }
        }
        return false;
}

static int read_more(struct ovsdb *db, uint64_t deadline_ms)
{
        int r = sock_wait(db->fd, POLLIN, db->clock, deadline_ms);
        size_t room = MIN((size_t)READ_SIZE, (size_t)OVSDB_MESSAGE_MAX - db->in.len);
        void *to;
        ssize_t n;

        if (r < 0)
                return r;
        if (!room)
                return -E2BIG;
        to = buf_reserve(&db->in, room);
        if (!to)
                return -ENOMEM;
        n = recv(db->fd, to, room, MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
        if (n == 0)
                return -EPIPE;
        buf_commit(&db->in, (size_t)n);
        return 0;
}

/* The next message; the caller's. */
static int read_message(struct ovsdb *db, uint64_t deadline_ms, json_t **ret_message)
{
        size_t len;
        int r;

        while (!find_end(db, &len)) {
                r = read_more(db, deadline_ms);
                if (r < 0)
                        return r;
        }
        r = doc_parse(db->in.data, len, ret_message, NULL);
        buf_consume(&db->in, len);
        if (r == -ENOMEM)
                return r;
        return r < 0 ? -EPROTO : 0;
}

/* The answer with this id. In between the server may ask whether we are there (section 4.1.11). */
static int read_answer(struct ovsdb *db, uint64_t id, uint64_t deadline_ms, json_t **ret_answer)
{
        for (size_t i = 0; i < STRAY_MAX; i++) {
                _cleanup_json_ json_t *message = NULL, *echo = NULL;
                int r = read_message(db, deadline_ms, &message);

                if (r < 0)
                        return r;
                if (!json_is_object(message))
                        return -EPROTO;
                if (!json_object_get(message, "method")) {
                        if ((uint64_t)json_integer_value(json_object_get(message, "id")) != id)
                                return -EPROTO;
                        *ret_answer = TAKE_PTR(message);
                        return 0;
                }
                if (strcmp(json_string_value(json_object_get(message, "method")) ?: "", "echo"))
                        continue;
                echo = json_pack("{s:O?, s:O?, s:n}", "id", json_object_get(message, "id"), "result",
                        json_object_get(message, "params"), "error");
                r = send_json(db, echo, deadline_ms);
                if (r < 0)
                        return r;
        }
        return -EPROTO;
}

/* `params` is taken over. */
static int call(struct ovsdb *db, const char *method, json_t *params, uint64_t limit_ms, json_t **ret_answer,
        struct error **ret_error)
{
        uint64_t id = ++db->next_id, deadline_ms = clock_now_ms(db->clock) + limit_ms;
        _cleanup_json_ json_t *request =
                json_pack("{s:s, s:o, s:I}", "method", method, "params", params, "id", (json_int_t)id);
        int r;

        if (!request)
                return no_memory(ret_error);
        notice_end(db);
        if (db->fd < 0) {
                r = connect_now(db, ret_error);
                if (r < 0)
                        return r;
        }
        r = send_json(db, request, deadline_ms);
        if (r == 0)
                r = read_answer(db, id, deadline_ms, ret_answer);
        return r < 0 ? failed(db, r, ret_error) : 0;
}

/* For "%.*s". */
static int words(const char *text)
{
        return (int)text_fitting(text, WORDS_MAX);
}

/* The database's own words about the first operation that it did not like. */
static int find_refusal(const json_t *results, struct error **ret_error)
{
        json_t *result;
        size_t i;

        json_array_foreach ((json_t *)results, i, result) {
                const json_t *error = json_object_get(result, "error");
                const char *details = json_string_value(json_object_get(result, "details")) ?: "",
                           *word = json_string_value(error) ?: "no reason given";

                if (!error || json_is_null(error))
                        continue;
                if (!strcmp(word, "timed out"))
                        return error_set(ret_error, ERROR_CONFLICT, "Try again.",
                                "somebody else has changed Open vSwitch's configuration meanwhile");
                return error_set(ret_error, ERROR_PEER_FAILED, "See the log of ovsdb-server.",
                        "the database of Open vSwitch refused the change: %.*s%s%.*s", words(word), word,
                        *details ? ": " : "", words(details), details);
        }
        return 0;
}

static int transact(struct ovsdb *db, json_t *operations, uint64_t limit_ms, json_t **ret_results,
        struct error **ret_error)
{
        size_t n_operations = json_array_size(operations);
        _cleanup_json_ json_t *answer = NULL;
        json_t *results, *error;
        int r;

        if (!operations || json_array_insert_new(operations, 0, json_string(DATABASE)) < 0) {
                json_decref(operations);
                return no_memory(ret_error);
        }
        r = call(db, "transact", operations, limit_ms, &answer, ret_error);
        if (r < 0)
                return r;
        error = json_object_get(answer, "error");
        if (error && !json_is_null(error)) {
                const char *word = json_string_value(error)
                                           ?: json_string_value(json_object_get(error, "error"))
                                                      ?: "no reason given";

                return error_set(ret_error, ERROR_PEER_FAILED, "See the log of ovsdb-server.",
                        "the database of Open vSwitch refused the request: %.*s", words(word), word);
        }
        results = json_object_get(answer, "result");
        r = find_refusal(results, ret_error);
        if (r < 0)
                return r;
        if (json_array_size(results) < n_operations)
                return failed(db, -EPROTO, ret_error);
        if (ret_results)
                *ret_results = json_incref(results);
        return 0;
}

int ovsdb_transact(struct ovsdb *db, json_t *operations, json_t **ret_results, struct error **ret_error)
{
        return transact(db, operations, OVSDB_CALL_MS, ret_results, ret_error);
}

/* Until no row has a cur_cfg below that number: the server answers then, or when the time is up. One that hangs costs the event
 * loop that time once, not at each change. */
static int wait_applied(struct ovsdb *db, json_int_t config, struct error **ret_error)
{
        uint64_t limit_ms = clock_now_ms(db->clock) < db->behind_until_ms ? OVSDB_HURRY_MS : OVSDB_APPLY_MS;
        json_t *wait = json_pack("[{s:s, s:s, s:[[s, s, I]], s:[s], s:s, s:[], s:I}]", "op", "wait", "table",
                "Open_vSwitch", "where", "cur_cfg", "<", config, "columns", "cur_cfg", "until", "==", "rows",
                "timeout", (json_int_t)limit_ms);
        _cleanup_error_ struct error *error = NULL;
        int r = transact(db, wait, limit_ms + OVSDB_CALL_MS, NULL, &error);

        if (r == 0)
                db->behind_until_ms = 0;
        if (r == 0 || !error || error->code != ERROR_CONFLICT)
                return r < 0 ? error_propagate(ret_error, TAKE_PTR(error)) : 0;
        db->behind_until_ms = clock_now_ms(db->clock) + OVSDB_BEHIND_MS;
        return error_set(ret_error, ERROR_TIMED_OUT,
                "Start ovs-vswitchd, or see its log for what keeps it busy.",
                "ovs-vswitchd does not carry out what was configured");
}

int ovsdb_apply(struct ovsdb *db, json_t *operations, json_t **ret_results, struct error **ret_error)
{
        size_t n = json_array_size(operations);
        _cleanup_json_ json_t *results = NULL;
        json_t *rows;
        json_int_t config;
        int r;

        if (!operations ||
                json_array_append_new(
                        operations, json_pack("{s:s, s:s, s:[], s:[[s, s, i]]}", "op", "mutate", "table",
                                            "Open_vSwitch", "where", "mutations", "next_cfg", "+=", 1)) < 0 ||
                json_array_append_new(
                        operations, json_pack("{s:s, s:s, s:[], s:[s]}", "op", "select", "table",
                                            "Open_vSwitch", "where", "columns", "next_cfg")) < 0) {
                json_decref(operations);
                return no_memory(ret_error);
        }
        r = transact(db, operations, OVSDB_CALL_MS, &results, ret_error);
        if (r < 0)
                return r;
        rows = json_object_get(json_array_get(results, n + 1), "rows");
        config = json_integer_value(json_object_get(json_array_get(rows, 0), "next_cfg"));
        if (config <= 0)
                return failed(db, -EPROTO, ret_error);
        r = wait_applied(db, config, ret_error);
        if (r == 0 && ret_results)
                *ret_results = TAKE_PTR(results);
        return r;
}

/* The list of ["set", [...]] or ["map", [...]]; NULL for anything else. */
static const json_t *tagged(const json_t *value, const char *tag)
{
        return json_array_size(value) == 2 && !strcmp(json_string_value(json_array_get(value, 0)) ?: "", tag)
                       ? json_array_get(value, 1)
                       : NULL;
}

json_t *ovsdb_set_items(const json_t *value)
{
        const json_t *items = tagged(value, "set");

        if (items)
                return json_is_array(items) ? json_copy((json_t *)items) : json_array();
        return value ? json_pack("[O]", value) : json_array();
}

json_t *ovsdb_map_object(const json_t *value)
{
        json_t *object = json_object(), *pair;
        size_t i;

        json_array_foreach ((json_t *)tagged(value, "map"), i, pair) {
                const char *key = json_string_value(json_array_get(pair, 0));
                json_t *item = json_array_get(pair, 1);

                if (object && key && item && json_object_set(object, key, item) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}

json_t *ovsdb_map_from_object(const json_t *object)
{
        json_t *pairs = json_array(), *value;
        const char *key;

        json_object_foreach ((json_t *)object, key, value)
                if (pairs && json_array_append_new(pairs, json_pack("[s, O]", key, value)) < 0) {
                        json_decref(pairs);
                        return NULL;
                }
        return pairs ? json_pack("[s, o]", "map", pairs) : NULL;
}

const char *ovsdb_uuid(const json_t *value)
{
        return json_array_size(value) == 2 &&
                               !strcmp(json_string_value(json_array_get(value, 0)) ?: "", "uuid")
                       ? (json_string_value(json_array_get(value, 1)) ?: "")
                       : "";
}

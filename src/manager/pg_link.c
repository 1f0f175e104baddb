/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/pg_link.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/torture.h"
#include "io/sock.h"

#define MESSAGE_MAX 256
#define READS_AT_ONCE 8

/* Of the URL, lists with an item for each of several servers. */
enum place { PLACE_HOST, PLACE_ADDRESS, PLACE_PORT, N_PLACES };
static const char *const places[N_PLACES] = {
        [PLACE_HOST] = "host", [PLACE_ADDRESS] = "hostaddr", [PLACE_PORT] = "port"};

struct pg_link {
        const struct clock *clock;
        char *url;
        char *name;
        /* libpq tries the servers one after the other, but does not leave one that answers nothing: the one after it is then the
         * first of the next attempt. */
        char *lists[N_PLACES]; /* NULL: not given */
        PGconn *connection;    /* NULL: none */
        bool in_transaction;
        uint64_t not_before_ms; /* no attempt to connect before this */
        char last_failure[MESSAGE_MAX];
        bool wants_password; /* the last failure has to do with it */
};

/* What the manager relies on, whatever the server's configuration says. A leader that has stopped in the middle of a
 * transaction, or a network that swallows everything, must not hold locks for longer than a takeover may take. */
static const char session_sql[] =
        "SELECT set_config('statement_timeout', '1500', false), set_config('lock_timeout', '1500', false),"
        " set_config('idle_in_transaction_session_timeout', '4000', false),"
        " set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '2', false),"
        " set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '8000', false),"
        " set_config('bytea_output', 'hex', false),"
        " set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' "
        "ELSE current_setting('synchronous_commit') END, false), current_setting('server_encoding')";

static const struct {
        const char *sqlstate; /* or how it begins */
        enum error_code code;
        const char *hint;
} failures[] = {
        {"22021", ERROR_BAD_REQUEST, "Write it in UTF-8."},
        {"25006", ERROR_CONFLICT,
                "Point `store` at the primary server (target_session_attrs=read-write), or make it "
                "writable."},
        {"53100", ERROR_NO_SPACE, "Free space on the file systems of the PostgreSQL server."},
        {"53300", ERROR_UNREACHABLE, "Raise max_connections of the PostgreSQL server."},
        {"53", ERROR_NO_RESOURCES, "Look at the PostgreSQL server's log."},
        {"57014", ERROR_TIMED_OUT, "See what keeps the PostgreSQL server busy (pg_stat_activity)."},
        {"55P03", ERROR_TIMED_OUT, "See who holds locks on the tables of the schema drover (pg_locks)."},
        {"57P", ERROR_UNREACHABLE, "Start the PostgreSQL server again."},
        {"42501", ERROR_DENIED, "Give the database to the manager's user: ALTER DATABASE ... OWNER TO ..."},
        {"42P01", ERROR_NOT_FOUND, "Restore a backup: tables of the schema drover are missing."},
        {"XX001", ERROR_INTERNAL, "The database is damaged: restore a backup."},
};

static int out_of_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* libpq's messages end with a line feed, and may have several lines. */
static void first_line(const char *text, char ret[static MESSAGE_MAX])
{
        snprintf(ret, MESSAGE_MAX, "%.*s", (int)strcspn(text, "\n"), text);
}

static const char *option(const PQconninfoOption *options, const char *keyword, const char *otherwise)
{
        for (const PQconninfoOption *o = options; o && o->keyword; o++)
                if (!strcmp(o->keyword, keyword))
                        return o->val && *o->val ? o->val : otherwise;
        return otherwise;
}

static int copy_lists(struct pg_link *link, const PQconninfoOption *options)
{
        for (size_t i = 0; i < N_PLACES; i++) {
                const char *list = option(options, places[i], NULL);

                if (list && !(link->lists[i] = alloc_strdup(list)))
                        return -ENOMEM;
        }
        return 0;
}

/* The first server becomes the last one. A port that all of them share stays. */
static void next_server_first(struct pg_link *link)
{
        char *rotated[N_PLACES] = {};
        bool whole = true;

        for (size_t i = 0; i < N_PLACES; i++) {
                const char *list = link->lists[i], *comma = list ? strchr(list, ',') : NULL;

                if (comma)
                        rotated[i] = alloc_printf("%s,%.*s", comma + 1, (int)(comma - list), list);
                whole = whole && (!comma || rotated[i]);
        }
        for (size_t i = 0; i < N_PLACES; i++) {
                if (whole && rotated[i]) {
                        free(link->lists[i]);
                        link->lists[i] = TAKE_PTR(rotated[i]);
                }
                free(rotated[i]);
        }
}

int pg_link_new(
        const char *url, const struct clock *clock, struct pg_link **ret_link, struct error **ret_error)
{
        _cleanup_(pg_link_freep) struct pg_link *link = ALLOC(struct pg_link);
        PQconninfoOption *options;
        char why[MESSAGE_MAX];
        char *message = NULL;

        if (!link)
                return out_of_memory(ret_error);
        options = PQconninfoParse(url, &message);
        if (!options) {
                first_line(message ?: "out of memory", why);
                PQfreemem(message);
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Write it as postgresql://USER@HOST/DATABASE, see drover-manager.conf(5).",
                        "the setting `store` is no URL of a PostgreSQL database: %s", why);
        }
        link->clock = clock;
        link->url = alloc_strdup(url);
        if (copy_lists(link, options) < 0) {
                PQconninfoFree(options);
                return out_of_memory(ret_error);
        }
        link->name = alloc_printf("postgresql://%s%s%s:%s/%s", option(options, "user", ""),
                *option(options, "user", "") ? "@" : "", option(options, "host", "localhost"),
                option(options, "port", "5432"), option(options, "dbname", ""));
        PQconninfoFree(options);
        if (!link->url || !link->name)
                return out_of_memory(ret_error);
        *ret_link = TAKE_PTR(link);
        return 0;
}

static void hang_up(struct pg_link *link)
{
        PQfinish(TAKE_PTR(link->connection));
}

void pg_link_free(struct pg_link *link)
{
        if (!link)
                return;
        hang_up(link);
        free(link->url);
        free(link->name);
        for (size_t i = 0; i < N_PLACES; i++)
                free(link->lists[i]);
        free(link);
}

const char *pg_link_name(const struct pg_link *link)
{
        return link->name;
}

/* 0, or -ETIMEDOUT when the socket is not ready before the deadline. */
static int wait_ready(const struct pg_link *link, short events, uint64_t deadline_ms)
{
        return sock_wait(PQsocket(link->connection), events, link->clock, deadline_ms);
}

static int cannot_reach(struct pg_link *link, struct error **ret_error)
{
        return error_set(ret_error, ERROR_UNREACHABLE,
                link->wants_password
                        ? "Check the user's password in the file that `passfile` names, and pg_hba.conf of "
                          "the server."
                        : "Start the PostgreSQL server, and check the setting `store` and the network.",
                "cannot open the store %s: %s", link->name, link->last_failure);
}

/* Remembers why, and that nobody needs to try for a while. */
static int connecting_failed(struct pg_link *link, const char *why, struct error **ret_error)
{
        first_line(why && *why ? why : "out of memory", link->last_failure);
        link->wants_password = link->connection && (PQconnectionNeedsPassword(link->connection) ||
                                                           PQconnectionUsedPassword(link->connection));
        link->not_before_ms = clock_now_ms(link->clock) + PG_LINK_AGAIN_MS;
        hang_up(link);
        return cannot_reach(link, ret_error);
}

static int finish_call(struct pg_link *link, uint64_t deadline_ms, PGresult **ret_result);

static int set_up_session(struct pg_link *link, uint64_t deadline_ms, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        int r = PQsendQuery(link->connection, session_sql) ? finish_call(link, deadline_ms, &result) : -EPIPE;

        if (r == -ETIMEDOUT)
                next_server_first(link);
        if (r < 0 || PQresultStatus(result) != PGRES_TUPLES_OK)
                return connecting_failed(link,
                        link->connection ? PQerrorMessage(link->connection) : "no answer in time", ret_error);
        if (strcmp(PQgetvalue(result, 0, PQnfields(result) - 1), "UTF8") == 0)
                return 0;
        hang_up(link);
        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                "Create the database with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0.",
                "the database %s has the encoding %s, not UTF8", link->name,
                PQgetvalue(result, 0, PQnfields(result) - 1));
}

static void on_notice(void *userdata, const char *notice)
{
        log_debug("PostgreSQL: %.*s", (int)strcspn(notice, "\n"), notice);
}

static int connect_now(struct pg_link *link, struct error **ret_error)
{
        const char *const keywords[] = {"dbname", "client_encoding", "fallback_application_name",
                places[PLACE_HOST], places[PLACE_ADDRESS], places[PLACE_PORT], NULL};
        const char *const values[] = {link->url, "UTF8", "drover-manager", link->lists[PLACE_HOST],
                link->lists[PLACE_ADDRESS], link->lists[PLACE_PORT], NULL};
        uint64_t now = clock_now_ms(link->clock), deadline_ms = now + PG_LINK_CONNECT_MS;
        PostgresPollingStatusType state = PGRES_POLLING_WRITING;

        if (now < link->not_before_ms)
                return cannot_reach(link, ret_error);
        link->connection = PQconnectStartParams(keywords, values, 1 /* "dbname" is a URL */);
        if (!link->connection || PQstatus(link->connection) == CONNECTION_BAD)
                return connecting_failed(
                        link, link->connection ? PQerrorMessage(link->connection) : NULL, ret_error);
        while (state == PGRES_POLLING_READING || state == PGRES_POLLING_WRITING) {
                if (wait_ready(link, state == PGRES_POLLING_READING ? POLLIN : POLLOUT, deadline_ms) < 0) {
                        next_server_first(link);
                        return connecting_failed(link, "no answer in time", ret_error);
                }
                state = PQconnectPoll(link->connection);
        }
        PQsetNoticeProcessor(link->connection, on_notice, NULL);
        if (state != PGRES_POLLING_OK || PQsetnonblocking(link->connection, 1) < 0)
                return connecting_failed(link, PQerrorMessage(link->connection), ret_error);
        return set_up_session(link, deadline_ms, ret_error);
}

static int flush_out(struct pg_link *link, uint64_t deadline_ms)
{
        int left, r;

        while ((left = PQflush(link->connection)) > 0) {
                r = wait_ready(link, POLLIN | POLLOUT, deadline_ms);
                if (r < 0)
                        return r;
                if (!PQconsumeInput(link->connection))
                        return -EPIPE;
        }
        return left < 0 ? -EPIPE : 0;
}

/* Sends what is queued and takes in the whole answer: the last result, or the first one that is an error. Hangs up and returns
 * -EPIPE or -ETIMEDOUT when that was not possible. */
static int finish_call(struct pg_link *link, uint64_t deadline_ms, PGresult **ret_result)
{
        _cleanup_result_ PGresult *kept = NULL;
        PGresult *next;
        int r = flush_out(link, deadline_ms);

        while (r >= 0) {
                while (r >= 0 && PQisBusy(link->connection)) {
                        r = wait_ready(link, POLLIN, deadline_ms);
                        if (r >= 0 && !PQconsumeInput(link->connection))
                                r = -EPIPE;
                }
                next = r >= 0 ? PQgetResult(link->connection) : NULL;
                if (!next)
                        break;
                if (kept && PQresultStatus(kept) == PGRES_FATAL_ERROR) {
                        PQclear(next);
                        continue;
                }
                PQclear(kept);
                kept = next;
        }
        if (r >= 0 && (!kept || PQstatus(link->connection) == CONNECTION_BAD))
                r = -EPIPE;
        if (r < 0) {
                hang_up(link);
                return r;
        }
        *ret_result = TAKE_PTR(kept);
        return 0;
}

/* An answer that is no result: an error object, or the schema's own SQLSTATE for the caller. */
static int refused(struct pg_link *link, PGresult *result, struct error **ret_error)
{
        const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE) ?: "";
        const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) ?: "no reason given";

        if (!strncmp(state, "DR", 2))
                return PG_LINK_REFUSED;
        for (size_t i = 0; i < ARRAY_SIZE(failures); i++)
                if (!strncmp(failures[i].sqlstate, state, strlen(failures[i].sqlstate)))
                        return error_set(ret_error, failures[i].code, failures[i].hint,
                                "the store %s cannot do this: %s", link->name, message);
        return error_set(ret_error, ERROR_INTERNAL, "Look at the PostgreSQL server's log.",
                "the store %s answered: %s (%s)", link->name, message, state);
}

static int lost(struct pg_link *link, int why, struct error **ret_error)
{
        snprintf(link->last_failure, sizeof(link->last_failure), "%s",
                why == -ETIMEDOUT ? "no answer in time" : "the connection was lost");
        link->wants_password = false;
        if (why == -ETIMEDOUT)
                link->not_before_ms = clock_now_ms(link->clock) + PG_LINK_AGAIN_MS;
        (void)cannot_reach(link, ret_error);
        return PG_LINK_UNKNOWN;
}

/* A server that was restarted has said so, or closed the connection, while nothing was asked of it: what is sent now would be
 * of unknown outcome. */
static void notice_end(struct pg_link *link)
{
        struct pollfd poller = {.events = POLLIN};

        for (int i = 0; link->connection && i < READS_AT_ONCE; i++) {
                poller.fd = PQsocket(link->connection);
                if (PQstatus(link->connection) == CONNECTION_OK && poll(&poller, 1, 0) <= 0)
                        return;
                if (PQstatus(link->connection) == CONNECTION_BAD || !PQconsumeInput(link->connection))
                        hang_up(link);
        }
}

int pg_link_run(struct pg_link *link, const char *sql, const char *const *params, size_t n_params,
        PGresult **ret_result, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        uint64_t deadline_ms;
        int r;

        if (torture_point())
                return error_set(ret_error, ERROR_UNREACHABLE, NULL, "the store is away");
        notice_end(link);
        if (!link->connection) {
                if (link->in_transaction)
                        return error_set(ret_error, ERROR_UNREACHABLE, "Try again.",
                                "the connection to the store %s was lost", link->name);
                r = connect_now(link, ret_error);
                if (r < 0)
                        return r;
        }
        deadline_ms =
                clock_now_ms(link->clock) + (link->in_transaction ? PG_LINK_TRANSACTION_MS : PG_LINK_CALL_MS);
        /* Without parameters `sql` may hold several statements (the simple protocol). */
        if (!(n_params ? PQsendQueryParams(link->connection, sql, (int)n_params, NULL, params, NULL, NULL, 0)
                       : PQsendQuery(link->connection, sql))) {
                hang_up(link);
                return lost(link, -EPIPE, ret_error);
        }
        r = finish_call(link, deadline_ms, &result);
        if (r < 0)
                return lost(link, r, ret_error);
        if (PQresultStatus(result) != PGRES_TUPLES_OK && PQresultStatus(result) != PGRES_COMMAND_OK) {
                r = refused(link, result, ret_error);
                if (r < 0)
                        return r;
        }
        *ret_result = TAKE_PTR(result);
        return r;
}

int pg_link_script(struct pg_link *link, const char *sql, struct error **ret_error)
{
        _cleanup_result_ PGresult *result = NULL;
        int r = pg_link_run(link, sql, NULL, 0, &result, ret_error);

        if (r == PG_LINK_REFUSED)
                return error_set(ret_error, ERROR_INTERNAL, NULL, "the store %s answered: %s", link->name,
                        PQresultErrorMessage(result));
        return r == PG_LINK_UNKNOWN ? -EHOSTUNREACH : r;
}

int pg_link_begin(struct pg_link *link, const char *sql, struct error **ret_error)
{
        int r = pg_link_script(link, sql, ret_error);

        link->in_transaction = r >= 0;
        if (r < 0)
                hang_up(link); /* it may have begun */
        return r;
}

int pg_link_end(struct pg_link *link, const char *sql, struct error **ret_error)
{
        int r = pg_link_script(link, sql, ret_error);

        link->in_transaction = false;
        if (r < 0)
                hang_up(link); /* with it ends whatever is open */
        return r;
}

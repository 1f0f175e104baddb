/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One connection to PostgreSQL (libpq) on which each call ends within a time limit: connecting, sending and waiting go
 * through poll(), and a call that takes too long ends the connection. One that was lost is made anew by the next call;
 * while the server is away, calls fail at once but for one attempt a second, so that the event loop goes on. Of several servers
 * in the URL, each is tried: the one after a server that answers nothing begins the next attempt. */

#include <libpq-fe.h>

#include "base/clock.h"
#include "base/error.h"

#define PG_LINK_CALL_MS UINT64_C(2000)    /* one call, its connection made before */
#define PG_LINK_CONNECT_MS UINT64_C(1500) /* making a connection */
/* After a connection could not be made, or a call ran out of time, nothing is tried for so long. */
#define PG_LINK_AGAIN_MS 1000
/* One call in pg_link_begin()'s transactions (upgrade of the schema, backup, restore), which no event loop waits for. */
#define PG_LINK_TRANSACTION_MS UINT64_C(600000)

struct pg_link;

/* Conditions that the caller tells apart; beside them negative errnos with an error object. */
enum pg_link_result {
        PG_LINK_REFUSED = 1, /* the statement was refused with a SQLSTATE of the schema's own ("DR...") */
        PG_LINK_UNKNOWN = 2, /* the connection ended under the call: it may have been carried out, or not */
};

/* Reads the URL ("postgresql://..."); nothing is sent. BAD_DOCUMENT when libpq does not understand it. `clock` is borrowed. */
int pg_link_new(
        const char *url, const struct clock *clock, struct pg_link **ret_link, struct error **ret_error);
void pg_link_free(struct pg_link *link);
DEFINE_CLEANUP(struct pg_link *, pg_link_free)

/* Runs one statement, which is a transaction of its own unless pg_link_begin() was called. Parameters are texts (NULL: null) and are borrowed.
 * 0 with *ret_result the caller's (PQclear), PG_LINK_REFUSED with *ret_result saying why (PQresultErrorField), PG_LINK_UNKNOWN or a
 * negative errno. */
int pg_link_run(struct pg_link *link, const char *sql, const char *const *params, size_t n_params,
        PGresult **ret_result, struct error **ret_error);
/* Runs statements without parameters or results, in one transaction unless pg_link_begin() was called. */
int pg_link_script(struct pg_link *link, const char *sql, struct error **ret_error);

/* From here on no new connection is made on the way: a transaction would be lost with the old one. */
int pg_link_begin(struct pg_link *link, const char *sql, struct error **ret_error);
/* COMMIT or ROLLBACK. */
int pg_link_end(struct pg_link *link, const char *sql, struct error **ret_error);

/* "postgresql://user@host:port/database", without what is secret; borrowed. */
const char *pg_link_name(const struct pg_link *link);

static inline void pg_result_clear(PGresult **result)
{
        PQclear(*result);
}
#define _cleanup_result_ _cleanup_(pg_result_clear)

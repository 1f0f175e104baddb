/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who calls, and what they may do: API tokens and sessions, users and roles (docs/decisions/0019).
 *
 * Secrets are opaque, 256 random bits, kept as SHA-256 only. In the store: "token" (what the API shows) and "token-hash", named
 * by the hash, which points to it; "session", named USER-UID/HASH with the hash as uid; "user", whose password is kept as argon2id; "role". A token
 * that a user has made can never do more than that user can at the moment, and ends with them. */

#include <jansson.h>

#include "base/clock.h"
#include "base/text.h"
#include "manager/access.h"
#include "manager/store.h"

#define AUTH_SECRET_SIZE 70 /* "drvt_" or "drvs_", 64 hex digits, NUL */
#define AUTH_COOKIE "__Host-drover-session"
#define AUTH_SESSION_IDLE_MS (INT64_C(30) * 60 * 1000)
#define AUTH_SESSION_MS (INT64_C(12) * 3600 * 1000)
#define AUTH_SESSIONS_MAX 32 /* of one user: one more ends the one that was used the longest ago */
#define AUTH_ROLE_ADMIN "admin"
#define AUTH_ROLE_READ_ONLY "read-only"

enum auth_kind { AUTH_TOKEN, AUTH_SESSION };

struct auth_caller {
        unsigned int n_refs;
        enum auth_kind kind;
        char name[2 * NAME_MAX_CHARS +
                  2]; /* for records: "alice", "alice/ci" (her token ci), "admin" (a token that is nobody's) */
        char user[NAME_MAX_CHARS + 1]; /* "": a token that is nobody's */
        char user_uid[UUID_STRING_SIZE];
        char role[NAME_MAX_CHARS + 1]; /* of a token */
        bool by_cookie;          /* hence sent by a browser of itself: to be proved meant by the CSRF token */
        char csrf[65];           /* of a session */
        char id[65];             /* SHA-256 of the secret */
        int64_t expires_unix_ms; /* 0: never */
        int64_t used_unix_ms;    /* of a session, as recorded */
        struct access own;       /* the token's, or the user's */
        bool owned;              /* a token of a user: */
        struct access owner;     /* what that user may do */
};
struct auth_caller *auth_caller_ref(const struct auth_caller *caller);
void auth_caller_unref(struct auth_caller *caller);
DEFINE_CLEANUP(struct auth_caller *, auth_caller_unref)

/* Who that is, whatever they are called: the user of a session, else the token; never given to another one. */
const char *auth_caller_uid(const struct auth_caller *caller);

/* Whose limits it counts against: the user with all tokens and sessions, else the token. */
const char *auth_caller_person(const struct auth_caller *caller);

bool auth_may(
        const struct auth_caller *caller, enum permission permission, const struct access_target *target);
bool auth_may_anywhere(const struct auth_caller *caller, enum permission permission);
bool auth_may_everywhere(const struct auth_caller *caller, enum permission permission);
/* May it, and leave the choice of the host to the manager? */
bool auth_may_on_any_host(
        const struct auth_caller *caller, enum permission permission, const struct access_target *target);
/* As access_tells_hosts_apart() and access_looks_at_hosts(), of what the caller may do. */
bool auth_tells_hosts_apart(const struct auth_caller *caller, const json_t *labels, const json_t *others);
bool auth_looks_at_hosts(const struct auth_caller *caller);
/* The caller could do all of this itself. DENIED names what it lacks; `what` is what it would give, such as "the role operator". */
int auth_covers(const struct auth_caller *caller, const struct access *access, const char *what,
        struct error **ret_error);

struct auth_token_spec {
        const char *name;
        const char *role;
        json_t *scope;         /* borrowed; NULL: everything */
        const json_t *owner;   /* user's document; NULL: nobody's */
        uint64_t expires_days; /* 0: never */
};
/* Puts a new token into the batch. *ret_doc is its document, the caller's. */
int auth_token_new(const struct clock *clock, struct store_batch *batch, const struct auth_token_spec *spec,
        char ret_secret[static AUTH_SECRET_SIZE], json_t **ret_doc, struct error **ret_error);
/* `token`: its document, as stored. */
bool auth_token_has_expired(const struct clock *clock, const json_t *token);
/* Takes a token away: it works no more from the commit on. */
int auth_token_remove(
        struct store *store, struct store_batch *batch, const json_t *token, struct error **ret_error);

/* EXISTS when there is an object of the kind ("user", or "token": one that is nobody's) with that name: in records both go by their
 * name alone. */
int auth_refuse_namesake(struct store *store, const char *name, const char *kind, struct error **ret_error);

/* Puts a session of the user into the batch. The CSRF token is what the session's page sends in X-CSRF-Token. */
int auth_session_new(const struct clock *clock, struct store_batch *batch, const json_t *user,
        char ret_secret[static AUTH_SECRET_SIZE], char ret_csrf[static 65], struct error **ret_error);
/* Takes all sessions of the user away but the `keep` that were used last. */
int auth_sessions_trim(struct store *store, struct store_batch *batch, const char *user_uid, size_t keep,
        struct error **ret_error);
void auth_session_remove(struct store_batch *batch, const struct auth_caller *caller);

struct auth_credentials {
        const char *authorization; /* header; may be NULL */
        const char *cookie;        /* header; looked at without an Authorization; may be NULL */
};
/* Who presents these: UNAUTHENTICATED when they are absent, unknown, expired, or their user is gone or disabled; the store's own
 * errors are no verdict and are passed on. *ret_caller is the caller's (a reference). */
int auth_check(struct store *store, const struct clock *clock, const struct auth_credentials *credentials,
        struct auth_caller **ret_caller, struct error **ret_error);
/* For what outlives a request: *caller is replaced by what it may do now. False once it may do nothing any more; an unreadable store is no verdict. */
bool auth_still(struct store *store, const struct clock *clock, struct auth_caller **caller);
/* Records, at most once a minute, that the session is in use. */
void auth_touch(struct store *store, const struct clock *clock, const struct auth_caller *caller);

/* What a role gives within a scope (NULL: everywhere); NOT_FOUND. */
int auth_role_access(struct store *store, const char *role, json_t *scope, struct access *access,
        struct error **ret_error);
/* What a user's bindings give; roles that are gone give nothing. */
int auth_user_access(
        struct store *store, const json_t *user, struct access *access, struct error **ret_error);

/* Makes the roles that every installation has, where they are missing or were other in an earlier version. */
int auth_ensure_roles(struct store *store, struct error **ret_error);

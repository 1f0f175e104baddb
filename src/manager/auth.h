/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* API tokens: opaque, 256 random bits, kept as SHA-256 only. In the store: "token" (what the API shows) and
 * "token-hash", named by the hash, which points to it. */

#include <jansson.h>

#include "base/clock.h"
#include "base/text.h"
#include "manager/store.h"

#define AUTH_SECRET_SIZE 70 /* "drvt_", 64 hex digits, NUL */

struct auth_caller {
        char name[NAME_MAX_CHARS + 1];
        bool admin;
        char token_hash[65]; /* for auth_still() */
};

/* Puts a new token into the batch. `role` is "admin" or "read-only"; expires_days 0: never. *ret_doc is the token's
 * document, the caller's. */
int auth_token_new(const struct clock *clock, struct store_batch *batch, const char *name, const char *role,
        uint64_t expires_days, char ret_secret[static AUTH_SECRET_SIZE], json_t **ret_doc,
        struct error **ret_error);

/* Takes a token away: it works no more from the commit on. */
int auth_token_remove(
        struct store *store, struct store_batch *batch, const json_t *token, struct error **ret_error);

/* Who presents this Authorization header: UNAUTHENTICATED when it is absent, unknown or expired; the store's own errors
 * are no verdict and are passed on. */
int auth_check(struct store *store, const struct clock *clock, const char *authorization,
        struct auth_caller *ret_caller, struct error **ret_error);
/* False once the caller's token was removed or has expired: for what outlives a request. */
bool auth_still(struct store *store, const struct clock *clock, const struct auth_caller *caller);

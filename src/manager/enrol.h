/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One-time tokens by which a host's agent gets its certificate. In the store: "enrol-token", named by the SHA-256 of
 * its secret, with the host's uid and its end; each host has one at most, and using it removes it. */

#include <jansson.h>

#include "manager/ca.h"
#include "manager/store.h"

struct clock;

#define ENROL_TOKEN_SIZE 160 /* "drv1." FINGERPRINT "." SECRET, and the NUL */

/* Puts a new token for the host into the batch in place of an earlier one. *ret_expires_ms: since 1970. */
int enrol_token_new(struct store *store, const struct clock *clock, const struct ca *ca, const char *host_uid,
        struct store_batch *batch, char ret_token[static ENROL_TOKEN_SIZE], int64_t *ret_expires_ms,
        struct error **ret_error);

/* Removes what the host may have. */
int enrol_token_drop(
        struct store *store, const char *host_uid, struct store_batch *batch, struct error **ret_error);

/* Redeems a secret: its removal is put into the batch, *ret_host_uid (the caller's) is set. DENIED when it is not known,
 * was used, or has expired. */
int enrol_token_use(struct store *store, const struct clock *clock, const char *secret,
        struct store_batch *batch, char **ret_host_uid, struct error **ret_error);

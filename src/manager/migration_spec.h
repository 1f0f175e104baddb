/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Signs the specification of a migration for the agents (docs/decisions/0022-signed-specification.md). */

#include <jansson.h>

#include "base/error.h"

struct ca;

/* {"spec": TEXT, "signature": HEX, "certificate": PEM}, the caller's, of a specification (taken over; NULL: no memory). TEXT is what is signed, byte by
 * byte, with the manager's own key. both: both hosts' agents take such a document, so neither has to take the other's word for less. */
int migration_spec_sign(const struct ca *ca, json_t *spec, bool both, int64_t now_unix_ms,
        json_t **ret_signed, struct error **ret_error);
/* SHA-256 of its TEXT, in hex. 0 or -ENOMEM. */
int migration_spec_digest(const json_t *signed_spec, char ret_digest[static 65]);

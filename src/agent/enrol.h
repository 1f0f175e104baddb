/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* `drover-agent enrol`: makes this host a member of a cluster. The token `drv1.FINGERPRINT.SECRET` says which CA to
 * trust, so nobody between us and the manager can take its place. */

#include "base/error.h"

struct enrol_options {
        const char *manager; /* "192.0.2.1:8443" */
        const char *token;
        const char *name;      /* NULL: what the manager calls the host */
        const char *state_dir; /* the identity goes there */
};

/* Blocks. Replaces an earlier identity only after everything succeeded. */
int enrol(const struct enrol_options *options, struct error **ret_error);

/* Splits a token: FINGERPRINT is 64 hex digits, SECRET is not empty. The pointers go into `token`, which is cut. */
int enrol_parse_token(
        char *token, const char **ret_fingerprint, const char **ret_secret, struct error **ret_error);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who this host is in the cluster: STATE-DIR/identity/{host.json,key.pem,cert.pem,ca.pem}, made by enrolment.
 */

#include "base/error.h"

struct identity {
        char *host_uid;
        char *name;
        char *cert_pem; /* first DNS name HOST-UID.host.drover */
        char *key_pem;
        char *ca_pem; /* the cluster's CA: the only one that is trusted */
};

/* NOT_FOUND with the way out (enrol) when the host was never enrolled. */
int identity_load(const char *state_dir, struct identity **ret_identity, struct error **ret_error);
/* Writes all four files (0600, folder 0700), host.json last: without it the host is not enrolled. */
int identity_store(const char *state_dir, const struct identity *identity, struct error **ret_error);
void identity_free(struct identity *identity);
DEFINE_CLEANUP(struct identity *, identity_free)

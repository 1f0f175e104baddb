/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The cluster's own certificate authority and the manager's certificate, as PEM files in STATE-DIR/pki: ca.pem, ca.key,
 * manager.pem, manager.key, addresses (what the manager's certificate is valid for, one a line). */

#include "base/error.h"
#include "io/pki.h"

#define CA_MANAGER_NAME "manager.drover" /* first DNS name of the manager's certificate */
#define CA_HOST_SUFFIX ".host.drover"    /* a host is HOST-UID.host.drover */

struct ca {
        char *ca_pem;
        char *ca_key;
        char *manager_pem;
        char *manager_key;
        char fingerprint[PKI_FINGERPRINT_SIZE]; /* of ca_pem */
};

/* Makes the authority and the manager's certificate; EXISTS when there is one. `addresses` (NULL-terminated): IP
 * addresses and DNS names under which clients reach the manager. */
int ca_create(const char *state_dir, const char *const *addresses, struct error **ret_error);

/* The same for a further manager of the cluster, with the authority in the folder `from` (ca.pem, ca.key). */
int ca_adopt(const char *state_dir, const char *from, const char *const *addresses, struct error **ret_error);

/* What a backup keeps of an authority: the contents of ca.pem, ca.key and addresses. */
struct ca_files {
        char *ca_pem;
        char *ca_key;
        char *addresses;
};
int ca_read_files(const char *state_dir, struct ca_files *ret_files, struct error **ret_error);
void ca_files_deinit(struct ca_files *files);
/* Makes the authority of a backup this state directory's, with a new manager's certificate for `addresses`, or, when there are none,
 * for those in the files. Nothing to do when it has it already; CONFLICT when it has another one. */
int ca_restore(const char *state_dir, const struct ca_files *files, const char *const *addresses,
        struct error **ret_error);

/* Reads it; renews the manager's certificate when less than 30 days of it are left. */
int ca_load(const char *state_dir, int64_t now_unix_ms, struct ca *ret_ca, struct error **ret_error);
void ca_deinit(struct ca *ca);

/* Issues a host's certificate for its request. `address` is the IP address of its agent (may be NULL). */
int ca_sign_host(const struct ca *ca, const char *csr_pem, const char *host_uid, const char *address,
        char **ret_cert_pem, struct error **ret_error);

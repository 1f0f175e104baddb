/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Keys and certificates (EC P-256, PEM texts) for the cluster's own CA, hosts and movers; digests. Texts
 * returned are NUL-terminated and the caller's (free; keys with pki_key_free). */

#include "base/error.h"

#define PKI_FINGERPRINT_SIZE 65 /* SHA-256 in hex with the NUL */

int pki_key_new(char **ret_key_pem, struct error **ret_error);
/* Wipes, then frees. Accepts NULL. */
void pki_key_free(char *key_pem);
DEFINE_CLEANUP(char *, pki_key_free)

/* Self-signed CA certificate. */
int pki_ca_new(const char *common_name, unsigned int days, char **ret_cert_pem, char **ret_key_pem,
        struct error **ret_error);
/* Self-signed end certificate, for a mover of one migration: the peer pins its fingerprint. */
int pki_self_signed(const char *common_name, unsigned int hours, char **ret_cert_pem, char **ret_key_pem,
        struct error **ret_error);
/* Request for the key, with the common name. */
int pki_csr_new(const char *key_pem, const char *common_name, char **ret_csr_pem, struct error **ret_error);
/* Checks the request's own signature and issues a certificate for server and client use. Names come from the
 * caller, never from the request: `dns_names` (NULL-terminated; the first is the identity), `ip_addresses`
 * (NULL-terminated, may be NULL). */
int pki_sign(const char *ca_cert_pem, const char *ca_key_pem, const char *csr_pem,
        const char *const *dns_names, const char *const *ip_addresses, unsigned int days, char **ret_cert_pem,
        struct error **ret_error);
/* SHA-256 of the DER form of the first certificate in the text. */
int pki_fingerprint(const char *cert_pem, char ret[static PKI_FINGERPRINT_SIZE], struct error **ret_error);
/* Seconds since 1970 at which it ends. */
int pki_not_after(const char *cert_pem, int64_t *ret_unix_s, struct error **ret_error);

/* Signature of the bytes with a private key (ECDSA over SHA-256), in hex; the caller's. */
int pki_sign_data(const char *key_pem, const void *data, size_t len, char **ret_signature_hex,
        struct error **ret_error);
/* Whether the certificate was issued by the CA for `dns_name` and is valid now, and the signature is its key's over the bytes.
 * UNAUTHENTICATED with the reason if not. */
int pki_verify_data(const char *ca_cert_pem, const char *cert_pem, const char *dns_name, const void *data,
        size_t len, const char *signature_hex, struct error **ret_error);

/* SHA-256 in hex. */
int pki_sha256_hex(const void *data, size_t len, char ret[static PKI_FINGERPRINT_SIZE]);
/* Constant-time comparison of two NUL-terminated texts. */
bool pki_equal(const char *a, const char *b);

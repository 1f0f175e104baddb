/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/x509.h>
#include <string.h>

#include "base/alloc.h"
#include "base/torture.h"
#include "io/http_private.h"

#define CHAIN_MAX 8
#define DNS_NAME_MAX 255

static gnutls_datum_t datum_of(const char *text)
{
        return (gnutls_datum_t){.data = (unsigned char *)text, .size = (unsigned int)strlen(text)};
}

int http_tls_check_pair(const char *cert_pem, const char *key_pem, struct error **ret_error)
{
        gnutls_datum_t cert = datum_of(cert_pem), key = datum_of(key_pem);
        gnutls_certificate_credentials_t credentials;
        int r;

        if (torture_point() || gnutls_certificate_allocate_credentials(&credentials) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot load the server's certificate");
        r = gnutls_certificate_set_x509_key_mem(credentials, &cert, &key, GNUTLS_X509_FMT_PEM);
        gnutls_certificate_free_credentials(credentials);
        if (r < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Both must be PEM texts, and the certificate made for this key.",
                        "the server's certificate and key cannot be used: %s", gnutls_strerror(r));
        return 0;
}

int http_tls_check_ca(const char *ca_pem, struct error **ret_error)
{
        gnutls_certificate_credentials_t credentials;
        gnutls_datum_t ca = datum_of(ca_pem);
        int r;

        if (torture_point() || gnutls_certificate_allocate_credentials(&credentials) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot load the CA certificate");
        r = gnutls_certificate_set_x509_trust_mem(credentials, &ca, GNUTLS_X509_FMT_PEM);
        gnutls_certificate_free_credentials(credentials);
        if (r <= 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "It must be a PEM text.",
                        "the CA certificate cannot be used: %s", r < 0 ? gnutls_strerror(r) : "none in it");
        return 0;
}

/* MHD has taken the session's own pointer for its connection. */
static struct http_connection *connection_of(gnutls_session_t session)
{
        const union MHD_ConnectionInfo *info =
                MHD_get_connection_info(gnutls_session_get_ptr(session), MHD_CONNECTION_INFO_SOCKET_CONTEXT);

        return info ? info->socket_context : NULL;
}

static int load_chain(const char *pem, gnutls_pcert_st **ret, unsigned int *ret_n)
{
        gnutls_datum_t text = datum_of(pem);
        unsigned int n = CHAIN_MAX;
        gnutls_pcert_st *chain;
        int r;

        chain = torture_point() ? NULL : gnutls_calloc(CHAIN_MAX, sizeof(*chain)); /* GnuTLS will free it */
        if (!chain)
                return GNUTLS_E_MEMORY_ERROR;
        r = gnutls_pcert_list_import_x509_raw(chain, &n, &text, GNUTLS_X509_FMT_PEM, 0);
        if (r < 0) {
                gnutls_free(chain);
                return r;
        }
        *ret = chain;
        *ret_n = n;
        return 0;
}

static int load_key(const char *pem, gnutls_privkey_t *ret)
{
        gnutls_datum_t text = datum_of(pem);
        gnutls_privkey_t key;
        int r;

        r = gnutls_privkey_init(&key);
        if (r < 0)
                return r;
        r = gnutls_privkey_import_x509_raw(key, &text, GNUTLS_X509_FMT_PEM, NULL, 0);
        if (r < 0) {
                gnutls_privkey_deinit(key);
                return r;
        }
        *ret = key;
        return 0;
}

/* The pair is loaded anew for each handshake and belongs to it: a certificate can then be replaced at any
 * moment, also in the middle of other handshakes. */
int http_tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info _unused_,
        gnutls_pcert_st **ret_certs, unsigned int *ret_n_certs, gnutls_ocsp_data_st **ret_ocsp,
        unsigned int *ret_n_ocsp, gnutls_privkey_t *ret_key, unsigned int *ret_flags)
{
        const struct http_connection *c = connection_of(session);
        gnutls_pcert_st *chain;
        gnutls_privkey_t key;
        unsigned int n;
        int r;

        if (!c)
                return GNUTLS_E_MEMORY_ERROR;
        r = load_key(c->server->key_pem, &key);
        if (r < 0)
                return r;
        r = load_chain(c->server->cert_pem, &chain, &n);
        if (r < 0) {
                gnutls_privkey_deinit(key);
                return r;
        }
        *ret_certs = chain;
        *ret_n_certs = n;
        *ret_ocsp = NULL;
        *ret_n_ocsp = 0;
        *ret_key = key;
        *ret_flags = GNUTLS_CERT_RETR_DEINIT_ALL;
        return 0;
}

/* First DNS name in the certificate's subjectAltName. */
static char *first_dns_name(const gnutls_datum_t *der)
{
        char name[DNS_NAME_MAX + 1];
        gnutls_x509_crt_t cert;
        char *found = NULL;

        if (gnutls_x509_crt_init(&cert) < 0)
                return NULL;
        if (gnutls_x509_crt_import(cert, der, GNUTLS_X509_FMT_DER) == 0) {
                for (unsigned int i = 0; !found; i++) {
                        size_t size = sizeof(name);
                        int type = gnutls_x509_crt_get_subject_alt_name(cert, i, name, &size, NULL);

                        if (type == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
                                break;
                        /* A NUL inside would make "a.b\0.evil" look like "a.b". */
                        if (type == GNUTLS_SAN_DNSNAME && size < sizeof(name) && !memchr(name, 0, size)) {
                                name[size] = '\0';
                                found = alloc_strdup(name);
                                break;
                        }
                }
        }
        gnutls_x509_crt_deinit(cert);
        return found;
}

int http_tls_verify(gnutls_session_t session)
{
        gnutls_typed_vdata_st purpose = {
                .type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT};
        struct http_connection *c = connection_of(session);
        const gnutls_datum_t *chain;
        unsigned int n, status;

        if (!c)
                return GNUTLS_E_MEMORY_ERROR;
        chain = gnutls_certificate_get_peers(session, &n);
        if (!chain || !n)
                return c->server->client_cert_required ? GNUTLS_E_CERTIFICATE_REQUIRED : 0;
        if (gnutls_certificate_verify_peers(session, &purpose, 1, &status) < 0 || status)
                return GNUTLS_E_CERTIFICATE_ERROR;
        free(c->peer_name); /* of an earlier handshake in the same connection */
        c->peer_name = first_dns_name(&chain[0]);
        return c->peer_name ? 0 : GNUTLS_E_CERTIFICATE_ERROR;
}

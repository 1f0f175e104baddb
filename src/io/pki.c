/* SPDX-License-Identifier: Apache-2.0 */
#include "io/pki.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "base/torture.h"

#define SERIAL_BYTES 16    /* random: unique without a register of serials */
#define BACKDATE_S 300     /* hosts' clocks differ a little */
#define SIGNATURE_MAX 512  /* of P-256: 72 at most */
#define COMMON_NAME_MAX 64 /* ub-common-name, RFC 5280 appendix A */

/* Profiles of what we issue (RFC 5280 section 4.2.1). */
#define CA_USAGE "critical,keyCertSign,cRLSign"
#define END_USAGE "critical,digitalSignature"
#define END_EXTENDED_USAGE "serverAuth,clientAuth"

DEFINE_CLEANUP(BIO *, BIO_free_all)
DEFINE_CLEANUP(EVP_PKEY *, EVP_PKEY_free)
DEFINE_CLEANUP(X509 *, X509_free)
DEFINE_CLEANUP(X509_REQ *, X509_REQ_free)
DEFINE_CLEANUP(X509_EXTENSION *, X509_EXTENSION_free)
DEFINE_CLEANUP(GENERAL_NAMES *, GENERAL_NAMES_free)
#define _cleanup_bio_ _cleanup_(BIO_free_allp)
#define _cleanup_key_ _cleanup_(EVP_PKEY_freep)
#define _cleanup_cert_ _cleanup_(X509_freep)
#define _cleanup_csr_ _cleanup_(X509_REQ_freep)

static int failed(struct error **ret_error, const char *what)
{
        char reason[160] = "out of memory";

        if (ERR_peek_last_error())
                ERR_error_string_n(ERR_peek_last_error(), reason, sizeof(reason));
        ERR_clear_error();
        return error_set(ret_error, ERROR_INTERNAL, NULL, "%s: %s", what, reason);
}

static int bad_input(struct error **ret_error, const char *what)
{
        ERR_clear_error();
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Send it as PEM text.", "%s is not valid", what);
}

/* ---- PEM ---- */

static BIO *bio_of(const char *pem)
{
        return torture_point() ? NULL : BIO_new_mem_buf(pem, -1);
}

static int no_passphrase(char *buf _unused_, int size _unused_, int rw _unused_, void *userdata _unused_)
{
        return -1; /* else OpenSSL would ask on the terminal */
}

static int read_key(const char *pem, EVP_PKEY **ret, struct error **ret_error)
{
        _cleanup_bio_ BIO *bio = bio_of(pem);
        EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;

        if (!bio)
                return failed(ret_error, "cannot read a key");
        if (!key)
                return bad_input(ret_error, "the private key");
        *ret = key;
        return 0;
}

static int read_cert(const char *pem, X509 **ret, struct error **ret_error)
{
        _cleanup_bio_ BIO *bio = bio_of(pem);
        X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, no_passphrase, NULL) : NULL;

        if (!bio)
                return failed(ret_error, "cannot read a certificate");
        if (!cert)
                return bad_input(ret_error, "the certificate");
        *ret = cert;
        return 0;
}

static char *bio_text(BIO *bio)
{
        char *data, *s;
        long len = BIO_get_mem_data(bio, &data);

        s = alloc_zero((size_t)len + 1);
        if (s)
                memcpy(s, data, (size_t)len);
        return s;
}

static char *key_text(EVP_PKEY *key)
{
        _cleanup_bio_ BIO *bio = torture_point() ? NULL : BIO_new(BIO_s_secmem());

        if (!bio || !PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL))
                return NULL;
        return bio_text(bio);
}

static char *cert_text(X509 *cert)
{
        _cleanup_bio_ BIO *bio = torture_point() ? NULL : BIO_new(BIO_s_mem());

        if (!bio || !PEM_write_bio_X509(bio, cert))
                return NULL;
        return bio_text(bio);
}

/* ---- building certificates ---- */

static EVP_PKEY *generate_key(void)
{
        return torture_point() ? NULL : EVP_EC_gen("P-256");
}

static int set_common_name(X509_NAME *name, const char *common_name)
{
        if (!*common_name || strlen(common_name) > COMMON_NAME_MAX)
                return 0;
        return X509_NAME_add_entry_by_NID(
                name, NID_commonName, MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0);
}

static int set_serial(X509 *cert)
{
        unsigned char bytes[SERIAL_BYTES];
        BIGNUM *number;
        int ok;

        if (RAND_bytes(bytes, sizeof(bytes)) != 1)
                return 0;
        bytes[0] = (unsigned char)((bytes[0] & 0x7f) | 0x40); /* positive, and always 16 bytes */
        number = BN_bin2bn(bytes, sizeof(bytes), NULL);
        ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));
        BN_free(number);
        return ok;
}

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
        _cleanup_(X509_EXTENSION_freep) X509_EXTENSION *ext = NULL;
        X509V3_CTX ctx;

        X509V3_set_ctx_nodb(&ctx);
        X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
        ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
        return ext && X509_add_ext(cert, ext, -1);
}

static int add_name(GENERAL_NAMES *names, int type, ASN1_STRING *value)
{
        GENERAL_NAME *name = value ? GENERAL_NAME_new() : NULL;

        if (!name) {
                ASN1_STRING_free(value);
                return 0;
        }
        GENERAL_NAME_set0_value(name, type, value);
        if (!sk_GENERAL_NAME_push(names, name)) {
                GENERAL_NAME_free(name);
                return 0;
        }
        return 1;
}

/* Built from values, not from OpenSSL's configuration syntax: a comma in a name must not make two. */
static int add_alternative_names(X509 *cert, const char *const *dns_names, const char *const *ip_addresses)
{
        _cleanup_(GENERAL_NAMES_freep) GENERAL_NAMES *names = GENERAL_NAMES_new();

        if (!names)
                return 0;
        for (; dns_names && *dns_names; dns_names++) {
                ASN1_STRING *s = ASN1_IA5STRING_new();

                if (s && !ASN1_STRING_set(s, *dns_names, -1)) {
                        ASN1_STRING_free(s);
                        s = NULL;
                }
                if (!add_name(names, GEN_DNS, s))
                        return 0;
        }
        for (; ip_addresses && *ip_addresses; ip_addresses++)
                if (!add_name(names, GEN_IPADD, a2i_IPADDRESS(*ip_addresses)))
                        return 0;
        return X509_add1_ext_i2d(cert, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
}

/* A certificate without extensions and signature: version 3, serial, validity, public key. */
static X509 *new_cert(EVP_PKEY *public_key, long valid_s)
{
        _cleanup_cert_ X509 *cert = torture_point() ? NULL : X509_new();

        if (!cert || !X509_set_version(cert, X509_VERSION_3) || !set_serial(cert) ||
                !X509_gmtime_adj(X509_getm_notBefore(cert), -BACKDATE_S) ||
                !X509_time_adj_ex(X509_getm_notAfter(cert), (int)(valid_s / 86400), valid_s % 86400, NULL) ||
                !X509_set_pubkey(cert, public_key))
                return NULL;
        return TAKE_PTR(cert);
}

static int hand_out(X509 *cert, EVP_PKEY *key, char **ret_cert_pem, char **ret_key_pem)
{
        _cleanup_(pki_key_freep) char *key_pem = key_text(key);
        _cleanup_free_ char *cert_pem = cert_text(cert);

        if (!key_pem || !cert_pem)
                return 0;
        *ret_cert_pem = TAKE_PTR(cert_pem);
        *ret_key_pem = TAKE_PTR(key_pem);
        return 1;
}

int pki_key_new(char **ret_key_pem, struct error **ret_error)
{
        _cleanup_key_ EVP_PKEY *key = generate_key();
        char *pem = key ? key_text(key) : NULL;

        if (!pem)
                return failed(ret_error, "cannot make a key");
        *ret_key_pem = pem;
        return 0;
}

void pki_key_free(char *key_pem)
{
        if (!key_pem)
                return;
        OPENSSL_cleanse(key_pem, strlen(key_pem));
        free(key_pem);
}

int pki_ca_new(const char *common_name, unsigned int days, char **ret_cert_pem, char **ret_key_pem,
        struct error **ret_error)
{
        _cleanup_key_ EVP_PKEY *key = generate_key();
        _cleanup_cert_ X509 *cert = key ? new_cert(key, (long)days * 86400) : NULL;

        if (!cert || !set_common_name(X509_get_subject_name(cert), common_name) ||
                !X509_set_issuer_name(cert, X509_get_subject_name(cert)) ||
                !add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
                !add_extension(cert, cert, NID_key_usage, CA_USAGE) ||
                !add_extension(cert, cert, NID_subject_key_identifier, "hash") ||
                !X509_sign(cert, key, EVP_sha256()) || !hand_out(cert, key, ret_cert_pem, ret_key_pem))
                return failed(ret_error, "cannot make the CA certificate");
        return 0;
}

int pki_self_signed(const char *common_name, unsigned int hours, char **ret_cert_pem, char **ret_key_pem,
        struct error **ret_error)
{
        const char *const names[] = {common_name, NULL};
        _cleanup_key_ EVP_PKEY *key = generate_key();
        _cleanup_cert_ X509 *cert = key ? new_cert(key, (long)hours * 3600) : NULL;

        if (!cert || !set_common_name(X509_get_subject_name(cert), common_name) ||
                !X509_set_issuer_name(cert, X509_get_subject_name(cert)) ||
                !add_extension(cert, cert, NID_basic_constraints, "critical,CA:FALSE") ||
                !add_extension(cert, cert, NID_key_usage, END_USAGE) ||
                !add_extension(cert, cert, NID_ext_key_usage, END_EXTENDED_USAGE) ||
                !add_alternative_names(cert, names, NULL) || !X509_sign(cert, key, EVP_sha256()) ||
                !hand_out(cert, key, ret_cert_pem, ret_key_pem))
                return failed(ret_error, "cannot make a certificate");
        return 0;
}

int pki_csr_new(const char *key_pem, const char *common_name, char **ret_csr_pem, struct error **ret_error)
{
        _cleanup_csr_ X509_REQ *csr = NULL;
        _cleanup_key_ EVP_PKEY *key = NULL;
        _cleanup_bio_ BIO *bio = NULL;
        char *pem = NULL;
        int r;

        r = read_key(key_pem, &key, ret_error);
        if (r < 0)
                return r;
        csr = torture_point() ? NULL : X509_REQ_new();
        bio = BIO_new(BIO_s_mem());
        if (csr && bio && X509_REQ_set_version(csr, X509_REQ_VERSION_1) &&
                set_common_name(X509_REQ_get_subject_name(csr), common_name) &&
                X509_REQ_set_pubkey(csr, key) && X509_REQ_sign(csr, key, EVP_sha256()) &&
                PEM_write_bio_X509_REQ(bio, csr))
                pem = bio_text(bio);
        if (!pem)
                return failed(ret_error, "cannot make a certificate request");
        *ret_csr_pem = pem;
        return 0;
}

static int read_csr(const char *pem, X509_REQ **ret, struct error **ret_error)
{
        _cleanup_bio_ BIO *bio = bio_of(pem);
        _cleanup_csr_ X509_REQ *csr = NULL;
        EVP_PKEY *key; /* borrowed */

        if (!bio)
                return failed(ret_error, "cannot read a certificate request");
        csr = PEM_read_bio_X509_REQ(bio, NULL, no_passphrase, NULL);
        key = csr ? X509_REQ_get0_pubkey(csr) : NULL;
        if (!key)
                return bad_input(ret_error, "the certificate request");
        if (X509_REQ_verify(csr, key) != 1) {
                ERR_clear_error();
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Make the request anew from the host's key.",
                        "the certificate request is not signed by its own key");
        }
        *ret = TAKE_PTR(csr);
        return 0;
}

int pki_sign(const char *ca_cert_pem, const char *ca_key_pem, const char *csr_pem,
        const char *const *dns_names, const char *const *ip_addresses, unsigned int days, char **ret_cert_pem,
        struct error **ret_error)
{
        _cleanup_cert_ X509 *ca = NULL, *cert = NULL;
        _cleanup_key_ EVP_PKEY *ca_key = NULL;
        _cleanup_csr_ X509_REQ *csr = NULL;
        char *pem = NULL;
        int r;

        r = read_cert(ca_cert_pem, &ca, ret_error);
        if (r == 0)
                r = read_key(ca_key_pem, &ca_key, ret_error);
        if (r == 0)
                r = read_csr(csr_pem, &csr, ret_error);
        if (r < 0)
                return r;
        cert = new_cert(X509_REQ_get0_pubkey(csr), (long)days * 86400);
        if (cert && set_common_name(X509_get_subject_name(cert), dns_names[0]) &&
                X509_set_issuer_name(cert, X509_get_subject_name(ca)) &&
                add_extension(cert, ca, NID_basic_constraints, "critical,CA:FALSE") &&
                add_extension(cert, ca, NID_key_usage, END_USAGE) &&
                add_extension(cert, ca, NID_ext_key_usage, END_EXTENDED_USAGE) &&
                add_extension(cert, ca, NID_subject_key_identifier, "hash") &&
                add_extension(cert, ca, NID_authority_key_identifier, "keyid") &&
                add_alternative_names(cert, dns_names, ip_addresses) && X509_sign(cert, ca_key, EVP_sha256()))
                pem = cert_text(cert);
        if (!pem)
                return failed(ret_error, "cannot issue a certificate");
        *ret_cert_pem = pem;
        return 0;
}

int pki_fingerprint(const char *cert_pem, char ret[static PKI_FINGERPRINT_SIZE], struct error **ret_error)
{
        unsigned char digest[EVP_MAX_MD_SIZE];
        _cleanup_cert_ X509 *cert = NULL;
        unsigned int len;
        int r;

        r = read_cert(cert_pem, &cert, ret_error);
        if (r < 0)
                return r;
        if (!X509_digest(cert, EVP_sha256(), digest, &len))
                return failed(ret_error, "cannot make the certificate's fingerprint");
        text_hex_encode(digest, len, ret);
        return 0;
}

int pki_not_after(const char *cert_pem, int64_t *ret_unix_s, struct error **ret_error)
{
        _cleanup_cert_ X509 *cert = NULL;
        struct tm tm;
        int r;

        r = read_cert(cert_pem, &cert, ret_error);
        if (r < 0)
                return r;
        if (!ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm))
                return bad_input(ret_error, "the certificate's end");
        *ret_unix_s = timegm(&tm);
        return 0;
}

/* ---- signatures over data ---- */

DEFINE_CLEANUP(EVP_MD_CTX *, EVP_MD_CTX_free)
DEFINE_CLEANUP(X509_STORE *, X509_STORE_free)
DEFINE_CLEANUP(X509_STORE_CTX *, X509_STORE_CTX_free)

int pki_sign_data(
        const char *key_pem, const void *data, size_t len, char **ret_signature_hex, struct error **ret_error)
{
        _cleanup_(EVP_MD_CTX_freep) EVP_MD_CTX *ctx = torture_point() ? NULL : EVP_MD_CTX_new();
        unsigned char signature[SIGNATURE_MAX];
        size_t signature_len = sizeof(signature);
        _cleanup_key_ EVP_PKEY *key = NULL;
        char *hex;
        int r = read_key(key_pem, &key, ret_error);

        if (r < 0)
                return r;
        if (!ctx || EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) != 1 ||
                EVP_DigestSign(ctx, signature, &signature_len, data, len) != 1)
                return failed(ret_error, "cannot sign");
        hex = alloc_zero(2 * signature_len + 1);
        if (!hex)
                return error_from_errno(ret_error, ENOMEM, "cannot sign");
        text_hex_encode(signature, signature_len, hex);
        *ret_signature_hex = hex;
        return 0;
}

static int refuse(struct error **ret_error, const char *why)
{
        ERR_clear_error();
        return error_set(ret_error, ERROR_UNAUTHENTICATED,
                "It has to be signed by a manager of this cluster, and the clocks have to be right.",
                "the signature is not accepted: %s", why);
}

/* The chain of exactly these two, for a name; the CA alone is trusted. */
static int check_issued(X509 *ca, X509 *cert, const char *dns_name, struct error **ret_error)
{
        _cleanup_(X509_STORE_freep) X509_STORE *store = torture_point() ? NULL : X509_STORE_new();
        _cleanup_(X509_STORE_CTX_freep) X509_STORE_CTX *ctx = X509_STORE_CTX_new();

        if (!store || !ctx || X509_STORE_add_cert(store, ca) != 1 ||
                X509_STORE_CTX_init(ctx, store, cert, NULL) != 1)
                return failed(ret_error, "cannot check a certificate");
        if (X509_verify_cert(ctx) != 1)
                return refuse(ret_error, X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
        if (X509_check_host(cert, dns_name, 0,
                    X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_WILDCARDS, NULL) != 1)
                return refuse(ret_error, "the certificate is of another name");
        return 0;
}

int pki_verify_data(const char *ca_cert_pem, const char *cert_pem, const char *dns_name, const void *data,
        size_t len, const char *signature_hex, struct error **ret_error)
{
        _cleanup_(EVP_MD_CTX_freep) EVP_MD_CTX *ctx = NULL;
        size_t signature_len = strlen(signature_hex) / 2;
        unsigned char signature[SIGNATURE_MAX];
        _cleanup_cert_ X509 *ca = NULL, *cert = NULL;
        int r = read_cert(ca_cert_pem, &ca, ret_error);

        if (r == 0)
                r = read_cert(cert_pem, &cert, ret_error);
        if (r == 0)
                r = check_issued(ca, cert, dns_name, ret_error);
        if (r < 0)
                return r;
        if (signature_len > sizeof(signature) || text_hex_decode(signature_hex, signature, signature_len) < 0)
                return refuse(ret_error, "it is malformed");
        ctx = EVP_MD_CTX_new();
        if (!ctx || EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, X509_get0_pubkey(cert)) != 1)
                return failed(ret_error, "cannot check a signature");
        if (EVP_DigestVerify(ctx, signature, signature_len, data, len) != 1)
                return refuse(ret_error, "it is not that of these bytes");
        return 0;
}

int pki_sha256_hex(const void *data, size_t len, char ret[static PKI_FINGERPRINT_SIZE])
{
        unsigned char digest[EVP_MAX_MD_SIZE];
        unsigned int digest_len;

        if (torture_point() || !EVP_Digest(data, len, digest, &digest_len, EVP_sha256(), NULL))
                return -ENOMEM;
        text_hex_encode(digest, digest_len, ret);
        return 0;
}

bool pki_equal(const char *a, const char *b)
{
        size_t n = strlen(a);

        return n == strlen(b) && CRYPTO_memcmp(a, b, n) == 0;
}

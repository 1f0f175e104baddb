/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "io/pki.h"
#include "unit/torture_loop.h"

struct ca {
        char *cert;
        char *key;
};

static void ca_deinit(struct ca *ca)
{
        free(ca->cert);
        pki_key_free(ca->key);
}

static X509 *x509_of(const char *pem)
{
        BIO *bio = BIO_new_mem_buf(pem, -1);
        X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);

        BIO_free(bio);
        assert_non_null(cert);
        return cert;
}

/* What OpenSSL's own verification says of a certificate under a CA. */
static int verify(const char *ca_pem, const char *pem, int purpose)
{
        X509 *ca = x509_of(ca_pem), *cert = x509_of(pem);
        X509_STORE_CTX *ctx = X509_STORE_CTX_new();
        X509_STORE *store = X509_STORE_new();
        int result;

        X509_STORE_add_cert(store, ca);
        X509_STORE_CTX_init(ctx, store, cert, NULL);
        X509_STORE_CTX_set_purpose(ctx, purpose);
        X509_verify_cert(ctx);
        result = X509_STORE_CTX_get_error(ctx);
        X509_STORE_CTX_free(ctx);
        X509_STORE_free(store);
        X509_free(ca);
        X509_free(cert);
        return result;
}

static char *issue(const struct ca *ca, const char *const *names, const char *const *ips)
{
        _cleanup_(pki_key_freep) char *key = NULL;
        _cleanup_free_ char *csr = NULL;
        char *cert = NULL;

        assert_int_equal(pki_key_new(&key, NULL), 0);
        assert_int_equal(pki_csr_new(key, "asked.example", &csr, NULL), 0);
        assert_int_equal(pki_sign(ca->cert, ca->key, csr, names, ips, 10, &cert, NULL), 0);
        return cert;
}

static void an_issued_certificate_is_good_for_server_and_client(void **state _unused_)
{
        static const char *const names[] = {"host1.host.drover", "host1.example", NULL};
        static const char *const ips[] = {"192.0.2.7", "2001:db8::7", NULL};
        _cleanup_(ca_deinit) struct ca ca = {};
        _cleanup_free_ char *pem = NULL;
        X509 *cert;

        assert_int_equal(pki_ca_new("drover CA", 3650, &ca.cert, &ca.key, NULL), 0);
        pem = issue(&ca, names, ips);
        assert_int_equal(verify(ca.cert, pem, X509_PURPOSE_SSL_SERVER), X509_V_OK);
        assert_int_equal(verify(ca.cert, pem, X509_PURPOSE_SSL_CLIENT), X509_V_OK);
        cert = x509_of(pem);
        assert_int_equal(X509_check_host(cert, "host1.example", 0, 0, NULL), 1);
        assert_int_equal(X509_check_ip_asc(cert, "192.0.2.7", 0), 1);
        assert_int_equal(X509_check_ip_asc(cert, "2001:db8::7", 0), 1);
        X509_free(cert);
}

static void names_come_from_the_caller_and_not_from_the_request(void **state _unused_)
{
        static const char *const names[] = {"given.drover", NULL};
        _cleanup_(ca_deinit) struct ca ca = {};
        _cleanup_free_ char *pem = NULL;
        X509 *cert;

        assert_int_equal(pki_ca_new("drover CA", 10, &ca.cert, &ca.key, NULL), 0);
        pem = issue(&ca, names, NULL);
        cert = x509_of(pem);
        assert_int_equal(X509_check_host(cert, "given.drover", 0, 0, NULL), 1);
        assert_int_equal(X509_check_host(cert, "asked.example", 0, 0, NULL), 0);
        X509_free(cert);
}

static void a_comma_in_a_name_does_not_make_two(void **state _unused_)
{
        static const char *const names[] = {"a.drover,DNS:manager.drover", NULL};
        _cleanup_(ca_deinit) struct ca ca = {};
        _cleanup_free_ char *pem = NULL;
        X509 *cert;

        assert_int_equal(pki_ca_new("drover CA", 10, &ca.cert, &ca.key, NULL), 0);
        pem = issue(&ca, names, NULL);
        cert = x509_of(pem);
        assert_int_equal(X509_check_host(cert, "manager.drover", 0, 0, NULL), 0);
        X509_free(cert);
}

static void another_ca_does_not_vouch(void **state _unused_)
{
        static const char *const names[] = {"a.drover", NULL};
        _cleanup_(ca_deinit) struct ca ca = {}, other = {};
        _cleanup_free_ char *pem = NULL;

        assert_int_equal(pki_ca_new("drover CA", 10, &ca.cert, &ca.key, NULL), 0);
        assert_int_equal(pki_ca_new("drover CA", 10, &other.cert, &other.key, NULL), 0);
        pem = issue(&ca, names, NULL);
        assert_int_not_equal(verify(other.cert, pem, X509_PURPOSE_SSL_SERVER), X509_V_OK);
}

static void an_issued_certificate_cannot_issue_others(void **state _unused_)
{
        static const char *const names[] = {"a.drover", NULL};
        _cleanup_(ca_deinit) struct ca ca = {};
        _cleanup_free_ char *pem = NULL;
        X509 *cert;

        assert_int_equal(pki_ca_new("drover CA", 10, &ca.cert, &ca.key, NULL), 0);
        pem = issue(&ca, names, NULL);
        cert = x509_of(pem);
        assert_int_equal(X509_check_ca(cert), 0);
        X509_free(cert);
        cert = x509_of(ca.cert);
        assert_int_equal(X509_check_ca(cert), 1);
        X509_free(cert);
}

static void a_request_with_a_foreign_signature_is_refused(void **state _unused_)
{
        static const char *const names[] = {"a.drover", NULL};
        _cleanup_(pki_key_freep) char *key = NULL, *other_key = NULL;
        _cleanup_(ca_deinit) struct ca ca = {};
        _cleanup_error_ struct error *e = NULL;
        _cleanup_free_ char *csr = NULL, *cert = NULL;
        char *forged_pem;
        EVP_PKEY *pkey;
        X509_REQ *req;
        BIO *bio;

        assert_int_equal(pki_ca_new("drover CA", 10, &ca.cert, &ca.key, NULL), 0);
        assert_int_equal(pki_key_new(&key, NULL), 0);
        assert_int_equal(pki_key_new(&other_key, NULL), 0);
        assert_int_equal(pki_csr_new(key, "a", &csr, NULL), 0);
        bio = BIO_new_mem_buf(csr, -1);
        req = PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL);
        BIO_free(bio);
        bio = BIO_new_mem_buf(other_key, -1);
        pkey = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
        BIO_free(bio);
        assert_true(X509_REQ_sign(req, pkey, EVP_sha256()) > 0); /* not the key inside */
        bio = BIO_new(BIO_s_mem());
        assert_int_equal(PEM_write_bio_X509_REQ(bio, req), 1);
        BIO_write(bio, "", 1);
        BIO_get_mem_data(bio, &forged_pem);
        assert_int_equal(pki_sign(ca.cert, ca.key, forged_pem, names, NULL, 10, &cert, &e), -EINVAL);
        assert_null(cert);
        assert_int_equal(e->code, ERROR_BAD_DOCUMENT);
        BIO_free(bio);
        X509_REQ_free(req);
        EVP_PKEY_free(pkey);
}

static void text_that_is_no_pem_is_refused(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL;
        char fingerprint[PKI_FINGERPRINT_SIZE] = "untouched", *out = NULL;
        int64_t end = 7;

        assert_int_equal(pki_fingerprint("nonsense", fingerprint, &e), -EINVAL);
        assert_string_equal(fingerprint, "untouched");
        assert_int_equal(e->code, ERROR_BAD_DOCUMENT);
        assert_int_equal(pki_not_after("", &end, NULL), -EINVAL);
        assert_int_equal(end, 7);
        assert_int_equal(pki_csr_new("-----BEGIN PRIVATE KEY-----", "a", &out, NULL), -EINVAL);
        assert_null(out);
}

static void a_self_signed_certificate_ends_when_told(void **state _unused_)
{
        _cleanup_(ca_deinit) struct ca self = {};
        char fingerprint[PKI_FINGERPRINT_SIZE];
        int64_t end, now = time(NULL);

        assert_int_equal(pki_self_signed("migration", 36, &self.cert, &self.key, NULL), 0);
        assert_int_equal(pki_not_after(self.cert, &end, NULL), 0);
        assert_in_range(end - now, 36 * 3600 - 60, 36 * 3600 + 60);
        assert_int_equal(pki_fingerprint(self.cert, fingerprint, NULL), 0);
        assert_int_equal(strlen(fingerprint), 64);
}

static void the_digest_is_sha_256(void **state _unused_)
{
        char hex[PKI_FINGERPRINT_SIZE];

        /* FIPS 180-2 appendix B.1 */
        assert_int_equal(pki_sha256_hex("abc", 3, hex), 0);
        assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static void texts_are_compared_whole(void **state _unused_)
{
        assert_true(pki_equal("abc", "abc"));
        assert_true(pki_equal("", ""));
        assert_false(pki_equal("abc", "abd"));
        assert_false(pki_equal("abc", "ab"));
        assert_false(pki_equal("ab", "abc"));
}

/* A manager's key and certificate under this CA. */
static char *issue_with_key(const struct ca *ca, const char *name, char **ret_key)
{
        const char *const names[] = {name, NULL};
        _cleanup_free_ char *csr = NULL;
        char *cert = NULL;

        assert_int_equal(pki_key_new(ret_key, NULL), 0);
        assert_int_equal(pki_csr_new(*ret_key, "x", &csr, NULL), 0);
        assert_int_equal(pki_sign(ca->cert, ca->key, csr, names, NULL, 10, &cert, NULL), 0);
        return cert;
}

static void a_signature_holds_for_its_bytes_signer_and_name_alone(void **state _unused_)
{
        _cleanup_(ca_deinit) struct ca ca = {}, other = {};
        _cleanup_(pki_key_freep) char *key = NULL, *foreign_key = NULL;
        _cleanup_free_ char *cert = NULL, *foreign = NULL, *signature = NULL, *again = NULL;

        assert_int_equal(pki_ca_new("CA", 10, &ca.cert, &ca.key, NULL), 0);
        assert_int_equal(pki_ca_new("CA", 10, &other.cert, &other.key, NULL), 0);
        cert = issue_with_key(&ca, "manager.drover", &key);
        foreign = issue_with_key(&other, "manager.drover", &foreign_key);
        assert_int_equal(pki_sign_data(key, "bytes", 5, &signature, NULL), 0);
        assert_int_equal(pki_verify_data(ca.cert, cert, "manager.drover", "bytes", 5, signature, NULL), 0);
        assert_true(pki_verify_data(ca.cert, cert, "manager.drover", "bytez", 5, signature, NULL) < 0);
        assert_true(pki_verify_data(ca.cert, cert, "manager.drover", "bytes", 4, signature, NULL) < 0);
        assert_true(pki_verify_data(ca.cert, cert, "host.drover", "bytes", 5, signature, NULL) < 0);
        assert_true(pki_verify_data(other.cert, cert, "manager.drover", "bytes", 5, signature, NULL) < 0);
        assert_int_equal(pki_sign_data(foreign_key, "bytes", 5, &again, NULL), 0);
        assert_true(pki_verify_data(ca.cert, foreign, "manager.drover", "bytes", 5, again, NULL) < 0);
        assert_true(pki_verify_data(ca.cert, cert, "manager.drover", "bytes", 5, again, NULL) < 0);
        for (size_t i = 0; i < 4; i++) {
                const char *bad[] = {"", "zz", "00", signature + 2};

                assert_true(pki_verify_data(ca.cert, cert, "manager.drover", "bytes", 5, bad[i], NULL) < 0);
        }
}

static void issue_body(void *arg _unused_)
{
        static const char *const names[] = {"a.drover", NULL};
        _cleanup_(pki_key_freep) char *key = NULL;
        _cleanup_(ca_deinit) struct ca ca = {}, self = {};
        _cleanup_free_ char *csr = NULL, *cert = NULL, *signature = NULL;
        _cleanup_error_ struct error *e = NULL;
        char fingerprint[PKI_FINGERPRINT_SIZE];
        int64_t end;

        if (torture_failed(pki_ca_new("CA", 10, &ca.cert, &ca.key, &e) < 0) ||
                torture_failed(pki_self_signed("m", 1, &self.cert, &self.key, &e) < 0) ||
                torture_failed(pki_key_new(&key, &e) < 0) ||
                torture_failed(pki_csr_new(key, "a", &csr, &e) < 0) ||
                torture_failed(pki_sign(ca.cert, ca.key, csr, names, NULL, 1, &cert, &e) < 0) ||
                torture_failed(pki_fingerprint(cert, fingerprint, &e) < 0) ||
                torture_failed(pki_not_after(cert, &end, &e) < 0) ||
                torture_failed(pki_sha256_hex("a", 1, fingerprint) < 0) ||
                torture_failed(pki_sign_data(key, "a", 1, &signature, &e) < 0) ||
                torture_failed(pki_verify_data(ca.cert, cert, "a.drover", "a", 1, signature, &e) < 0))
                return;
        assert_int_equal(verify(ca.cert, cert, X509_PURPOSE_SSL_SERVER), X509_V_OK);
}

static void issuing_survives_failing_calls(void **state _unused_)
{
        torture_loop(issue_body, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(an_issued_certificate_is_good_for_server_and_client),
                cmocka_unit_test(names_come_from_the_caller_and_not_from_the_request),
                cmocka_unit_test(a_comma_in_a_name_does_not_make_two),
                cmocka_unit_test(another_ca_does_not_vouch),
                cmocka_unit_test(an_issued_certificate_cannot_issue_others),
                cmocka_unit_test(a_request_with_a_foreign_signature_is_refused),
                cmocka_unit_test(text_that_is_no_pem_is_refused),
                cmocka_unit_test(a_self_signed_certificate_ends_when_told),
                cmocka_unit_test(the_digest_is_sha_256),
                cmocka_unit_test(texts_are_compared_whole),
                cmocka_unit_test(a_signature_holds_for_its_bytes_signer_and_name_alone),
                cmocka_unit_test(issuing_survives_failing_calls),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enrol.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>

#include "agent/api.h"
#include "agent/identity.h"
#include "base/alloc.h"
#include "base/buf.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/http_client.h"
#include "io/loop.h"
#include "io/pki.h"

#define CA_MAX_BYTES 65536
#define TIMEOUT_MS 30000
#define TOKEN_PREFIX "drv1."

int enrol_parse_token(
        char *token, const char **ret_fingerprint, const char **ret_secret, struct error **ret_error)
{
        char *fingerprint = token + strlen(TOKEN_PREFIX);
        uint8_t raw[(PKI_FINGERPRINT_SIZE - 1) / 2];
        char *dot;

        if (strncmp(token, TOKEN_PREFIX, strlen(TOKEN_PREFIX)) == 0) {
                dot = strchr(fingerprint, '.');
                if (dot && dot - fingerprint == PKI_FINGERPRINT_SIZE - 1 && dot[1]) {
                        *dot = '\0';
                        if (text_hex_decode(fingerprint, raw, sizeof(raw)) == 0) {
                                *ret_fingerprint = fingerprint;
                                *ret_secret = dot + 1;
                                return 0;
                        }
                }
        }
        return error_set(ret_error, ERROR_BAD_REQUEST,
                "Copy it from the answer of `drover host add` as a whole.",
                "the token is not of the form drv1.FINGERPRINT.SECRET");
}

static size_t take_bytes(char *data, size_t size, size_t n, void *userdata)
{
        return buf_append(userdata, data, size * n) < 0 ? 0 : size * n;
}

/* The one connection that trusts nobody: what comes is believed only if its fingerprint is the token's. */
static int fetch_ca(const char *manager, struct buf *ca, struct error **ret_error)
{
        _cleanup_free_ char *url = alloc_printf("https://%s/api/v1/ca", manager);
        CURL *easy = curl_easy_init();
        CURLcode c;
        int r = 0;

        if (!easy || !url) {
                curl_easy_cleanup(easy);
                return error_from_errno(ret_error, ENOMEM, "enrolment");
        }
        (void)curl_easy_setopt(easy, CURLOPT_URL, url);
        (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
        (void)curl_easy_setopt(easy, CURLOPT_FAILONERROR, 1L);
        (void)curl_easy_setopt(easy, CURLOPT_PROXY, "");
        (void)curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
        (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
        (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, ca);
        c = curl_easy_perform(easy);
        if (c != CURLE_OK)
                r = error_set(ret_error, ERROR_UNREACHABLE, "Check the manager's address and port.",
                        "the CA certificate cannot be fetched from %s: %s", manager, curl_easy_strerror(c));
        curl_easy_cleanup(easy);
        return r;
}

static int check_ca(const char *ca_pem, const char *fingerprint, struct error **ret_error)
{
        char real[PKI_FINGERPRINT_SIZE];
        int r = pki_fingerprint(ca_pem, real, ret_error);

        if (r < 0)
                return r;
        if (!pki_equal(real, fingerprint))
                return error_set(ret_error, ERROR_DENIED,
                        "Check that the address is the manager's; if it is, somebody is in between.",
                        "the manager's CA is not the one that the token names");
        return 0;
}

struct answer {
        bool came;
        json_t *body;
        struct error *error;
};

static void on_answer(void *userdata, int status, json_t *body, struct error *error)
{
        struct answer *answer = userdata;

        answer->came = true;
        answer->body = json_incref(body);
        if (error)
                (void)error_set(&answer->error, error->code, error->hint, "%s", error_message(error));
        else if (!body)
                (void)error_set(&answer->error, ERROR_PROTOCOL, NULL, "the manager's answer is empty");
}

static int ask(const char *manager, const char *ca_pem, const json_t *body, json_t **ret_answer,
        struct error **ret_error)
{
        const struct http_client_config config = {.ca_pem = ca_pem};
        const struct http_call_spec spec = {.method = "POST",
                .address = manager,
                .peer_name = API_MANAGER_NAME,
                .path = "/api/v1/enrol",
                .body = body,
                .timeout_ms = TIMEOUT_MS};
        _cleanup_(loop_freep) struct loop *loop = NULL;
        _cleanup_(http_client_freep) struct http_client *client = NULL;
        struct answer answer = {0};
        int r = loop_new(&loop);

        if (r < 0)
                return error_from_errno(ret_error, r, "enrolment");
        r = http_client_new(loop, &config, &client, ret_error);
        if (r == 0)
                r = http_client_call(client, &spec, on_answer, &answer, NULL, ret_error);
        if (r < 0)
                return r;
        r = loop_wait(loop, &answer.came, TIMEOUT_MS + 1000);
        if (r == 0 && !answer.error) {
                *ret_answer = answer.body;
                return 0;
        }
        json_decref(answer.body);
        return answer.error ? error_propagate(ret_error, answer.error)
                            : error_from_errno(ret_error, r, "enrolment");
}

/* Copies out of the answer what identity_store() wants. */
static int read_answer(const json_t *answer, struct identity *identity, struct error **ret_error)
{
        const char *uid = NULL, *name = NULL, *cert = NULL, *ca = NULL;
        int r = doc_need_string(answer, "answer", "host_uid", UUID_STRING_SIZE, &uid, ret_error);

        if (r == 0)
                r = doc_need_string(answer, "answer", "name", NAME_MAX_CHARS, &name, ret_error);
        if (r == 0)
                r = doc_need_string(answer, "answer", "certificate", CA_MAX_BYTES, &cert, ret_error);
        if (r == 0)
                r = doc_need_string(answer, "answer", "ca", CA_MAX_BYTES, &ca, ret_error);
        if (r < 0)
                return r;
        if (!text_is_uuid(uid) || !text_is_name(name))
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "the manager's answer holds no valid uid and name");
        identity->host_uid = alloc_strdup(uid);
        identity->name = alloc_strdup(name);
        identity->cert_pem = alloc_strdup(cert);
        identity->ca_pem = alloc_strdup(ca);
        if (!identity->host_uid || !identity->name || !identity->cert_pem || !identity->ca_pem)
                return error_from_errno(ret_error, ENOMEM, "enrolment");
        return 0;
}

/* Key and request for it; the body of the call. */
static int make_request(const struct enrol_options *options, const char *secret, struct identity *identity,
        json_t **ret_body, struct error **ret_error)
{
        _cleanup_free_ char *csr = NULL;
        json_t *body;
        int r = pki_key_new(&identity->key_pem, ret_error);

        if (r == 0)
                r = pki_csr_new(identity->key_pem, options->name ?: "drover host", &csr, ret_error);
        if (r < 0)
                return r;
        body = json_pack("{s:s, s:s, s:s*}", "token", secret, "csr", csr, "name", options->name);
        if (!body)
                return error_from_errno(ret_error, ENOMEM, "enrolment");
        *ret_body = body;
        return 0;
}

int enrol(const struct enrol_options *options, struct error **ret_error)
{
        _cleanup_free_ char *token = alloc_strdup(options->token);
        _cleanup_(identity_freep) struct identity *identity = ALLOC(struct identity);
        _cleanup_json_ json_t *body = NULL, *answer = NULL;
        _cleanup_buf_ struct buf ca;
        const char *fingerprint = NULL, *secret = NULL;
        int r;

        buf_init(&ca, CA_MAX_BYTES);
        if (!token || !identity)
                return error_from_errno(ret_error, ENOMEM, "enrolment");
        if (options->name && !text_is_name(options->name))
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "'%.64s' is no name for a host", options->name);
        r = enrol_parse_token(token, &fingerprint, &secret, ret_error);
        if (r == 0)
                r = fetch_ca(options->manager, &ca, ret_error);
        if (r == 0)
                r = check_ca(buf_string(&ca), fingerprint, ret_error);
        if (r == 0)
                r = make_request(options, secret, identity, &body, ret_error);
        if (r == 0)
                r = ask(options->manager, buf_string(&ca), body, &answer, ret_error);
        if (r == 0)
                r = read_answer(answer, identity, ret_error);
        /* The CA inside the answer came through the connection that the token vouches for, but it costs nothing to
         * check that it is the same. */
        if (r == 0)
                r = check_ca(identity->ca_pem, fingerprint, ret_error);
        return r < 0 ? r : identity_store(options->state_dir, identity, ret_error);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/enrol.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/json.h"

#define KIND "enrol-token"
#define LIFETIME_MS (3600ll * 1000)
#define SECRET_BYTES 32

static bool is_of_host(void *userdata, const json_t *doc)
{
        return !strcmp(json_text(doc, "host_uid"), userdata);
}

int enrol_token_drop(
        struct store *store, const char *host_uid, struct store_batch *batch, struct error **ret_error)
{
        struct store_query query = {
                .kind = KIND, .limit = STORE_LIMIT_NONE, .match = is_of_host, .userdata = (void *)host_uid};
        _cleanup_json_ json_t *docs = NULL;
        json_t *doc;
        size_t i;
        int r;

        r = store_list(store, &query, &docs, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc)
                store_batch_remove(batch, KIND, json_text(doc, "uid"), STORE_ANY);
        return 0;
}

int enrol_token_new(struct store *store, const struct clock *clock, const struct ca *ca, const char *host_uid,
        struct store_batch *batch, char ret_token[static ENROL_TOKEN_SIZE], int64_t *ret_expires_ms,
        struct error **ret_error)
{
        int64_t expires_ms = clock_unix_ms(clock) + LIFETIME_MS;
        char secret[2 * SECRET_BYTES + 1], hash[PKI_FINGERPRINT_SIZE];
        json_t *doc;
        int r;

        r = enrol_token_drop(store, host_uid, batch, ret_error);
        if (r < 0)
                return r;
        r = text_random_hex(SECRET_BYTES, secret);
        if (r >= 0)
                r = pki_sha256_hex(secret, strlen(secret), hash);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make an enrolment token");
        doc = json_pack("{s:s, s:s, s:s, s:s, s:I}", "kind", KIND, "uid", hash, "name", hash, "host_uid",
                host_uid, "expires_unix_ms", (json_int_t)expires_ms);
        if (!doc)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, STORE_ABSENT, doc);
        snprintf(ret_token, ENROL_TOKEN_SIZE, "drv1.%s.%s", ca->fingerprint, secret);
        *ret_expires_ms = expires_ms;
        return 0;
}

int enrol_token_use(struct store *store, const struct clock *clock, const char *secret,
        struct store_batch *batch, char **ret_host_uid, struct error **ret_error)
{
        static const char *const hint = "Make a new token with `drover host add` or POST .../enrol-token.";
        _cleanup_json_ json_t *doc = NULL;
        char hash[PKI_FINGERPRINT_SIZE];
        char *host_uid;
        int r;

        if (pki_sha256_hex(secret, strlen(secret), hash) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = store_get(store, KIND, hash, &doc, ret_error);
        if (r < 0 && r != -ENOENT)
                return r;
        if (r < 0)
                return error_set(ret_error, ERROR_DENIED, hint,
                        "the enrolment token is not known: it was used, replaced, or mistyped");
        if (clock_unix_ms(clock) >= json_integer_value(json_object_get(doc, "expires_unix_ms")))
                return error_set(ret_error, ERROR_DENIED, hint, "the enrolment token has expired");
        host_uid = alloc_strdup(json_text(doc, "host_uid"));
        if (!host_uid)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_remove(batch, KIND, hash, json_revision(doc));
        *ret_host_uid = host_uid;
        return 0;
}

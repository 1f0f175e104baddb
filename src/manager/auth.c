/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/auth.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "io/pki.h"
#include "manager/json.h"

#define SECRET_PREFIX "drvt_"
#define DAY_MS (24ll * 3600 * 1000)

static json_t *token_document(
        const struct clock *clock, const char *name, const char *role, int64_t expires_ms)
{
        char uid[UUID_STRING_SIZE], created[32], expires[32];

        if (text_uuid_new(uid) < 0)
                return NULL;
        text_format_time(clock_unix_ms(clock), created);
        text_format_time(expires_ms, expires);
        return json_pack("{s:s, s:s, s:s, s:{s:s, s:s?}, s:{s:s}, s:{s:I}}", "kind", "token", "name", name,
                "uid", uid, "spec", "role", role, "expires", expires_ms ? expires : NULL, "status", "created",
                created, "internal", "expires_unix_ms", (json_int_t)expires_ms);
}

int auth_token_new(const struct clock *clock, struct store_batch *batch, const char *name, const char *role,
        uint64_t expires_days, char ret_secret[static AUTH_SECRET_SIZE], json_t **ret_doc,
        struct error **ret_error)
{
        int64_t expires_ms = expires_days ? clock_unix_ms(clock) + (int64_t)expires_days * DAY_MS : 0;
        char secret[AUTH_SECRET_SIZE] = SECRET_PREFIX, hash[PKI_FINGERPRINT_SIZE];
        _cleanup_json_ json_t *doc = NULL, *pointer = NULL;
        int r;

        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use letters, digits, '.', '_' and '-'.",
                        "%.64s is not a name for a token", name);
        r = text_random_hex(32, secret + strlen(SECRET_PREFIX));
        if (r >= 0)
                r = pki_sha256_hex(secret, strlen(secret), hash);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make a token");
        doc = token_document(clock, name, role, expires_ms);
        pointer = json_pack("{s:s, s:s, s:s, s:O}", "kind", "token-hash", "uid", hash, "name", hash, "token",
                json_object_get(doc, "uid"));
        if (!doc || !pointer ||
                json_object_set_new(json_object_get(doc, "internal"), "hash", json_string(hash)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, STORE_ABSENT, json_incref(doc));
        store_batch_put(batch, STORE_ABSENT, TAKE_PTR(pointer));
        memcpy(ret_secret, secret, sizeof(secret));
        *ret_doc = TAKE_PTR(doc);
        return 0;
}

int auth_token_remove(
        struct store *store, struct store_batch *batch, const json_t *token, struct error **ret_error)
{
        const char *hash = json_text(json_object_get(token, "internal"), "hash");

        store_batch_remove(batch, "token", json_text(token, "uid"), json_revision(token));
        store_batch_remove(batch, "token-hash", hash, STORE_ANY);
        return 0;
}

static int refuse(struct error **ret_error, const char *message)
{
        return error_set(ret_error, ERROR_UNAUTHENTICATED,
                "Send `Authorization: Bearer TOKEN`; `drover-manager token create` on the server makes one.",
                "%s", message);
}

/* Tokens are found by their hash: there is no comparison whose time would tell anything about a secret. */
static int check_hash(struct store *store, const struct clock *clock, const char *hash, json_t **ret_token,
        struct error **ret_error)
{
        _cleanup_json_ json_t *pointer = NULL, *token = NULL;
        json_int_t expires;
        int r;

        r = store_get(store, "token-hash", hash, &pointer, ret_error);
        if (r >= 0)
                r = store_get(store, "token", json_text(pointer, "token"), &token, ret_error);
        if (r == -ENOENT)
                return refuse(ret_error, "the token is not valid");
        if (r < 0)
                return r;
        expires = json_integer_value(json_object_get(json_object_get(token, "internal"), "expires_unix_ms"));
        if (expires && clock_unix_ms(clock) >= expires)
                return refuse(ret_error, "the token has expired");
        *ret_token = TAKE_PTR(token);
        return 0;
}

int auth_check(struct store *store, const struct clock *clock, const char *authorization,
        struct auth_caller *ret_caller, struct error **ret_error)
{
        _cleanup_json_ json_t *token = NULL;
        char hash[PKI_FINGERPRINT_SIZE];
        const char *secret;
        int r;

        if (!authorization || strncasecmp(authorization, "Bearer ", 7))
                return refuse(ret_error, "the request carries no token");
        secret = authorization + 7;
        if (strlen(secret) != AUTH_SECRET_SIZE - 1)
                return refuse(ret_error, "the token is not valid");
        if (pki_sha256_hex(secret, strlen(secret), hash) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = check_hash(store, clock, hash, &token, ret_error);
        if (r < 0)
                return r;
        *ret_caller = (struct auth_caller){.admin = !strcmp(json_text(json_spec(token), "role"), "admin")};
        snprintf(ret_caller->name, sizeof(ret_caller->name), "%s", json_text(token, "name"));
        snprintf(ret_caller->token_hash, sizeof(ret_caller->token_hash), "%s", hash);
        return 0;
}

bool auth_still(struct store *store, const struct clock *clock, const struct auth_caller *caller)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *token = NULL;

        return check_hash(store, clock, caller->token_hash, &token, &error) >= 0 || !error ||
               error->code != ERROR_UNAUTHENTICATED;
}

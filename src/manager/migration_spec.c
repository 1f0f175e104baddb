/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/migration_spec.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "base/text.h"
#include "io/pki.h"
#include "manager/ca.h"

#define FORMAT 1
#define PURPOSE "drover migration specification"
#define NONCE_BYTES 16

int migration_spec_sign(const struct ca *ca, json_t *spec, bool both, int64_t now_unix_ms,
        json_t **ret_signed, struct error **ret_error)
{
        _cleanup_json_ json_t *owned = spec;
        _cleanup_free_ char *text = NULL, *signature = NULL;
        char nonce[2 * NONCE_BYTES + 1];
        json_t *out;
        int r = text_random_hex(NONCE_BYTES, nonce);

        if (r < 0)
                return error_from_errno(ret_error, r, "the migration's specification");
        if (!owned ||
                json_object_set_new(owned, "handshake",
                        json_pack("{s:i, s:s, s:I, s:s, s:b}", "format", FORMAT, "purpose", PURPOSE,
                                "issued_unix_ms", (json_int_t)now_unix_ms, "nonce", nonce, "both", both)) < 0)
                return error_from_errno(ret_error, ENOMEM, "the migration's specification");
        text = doc_to_text(owned);
        if (!text)
                return error_from_errno(ret_error, ENOMEM, "the migration's specification");
        r = pki_sign_data(ca->manager_key, text, strlen(text), &signature, ret_error);
        if (r < 0)
                return r;
        out = json_pack(
                "{s:s, s:s, s:s}", "spec", text, "signature", signature, "certificate", ca->manager_pem);
        if (!out)
                return error_from_errno(ret_error, ENOMEM, "the migration's specification");
        *ret_signed = out;
        return 0;
}

int migration_spec_digest(const json_t *signed_spec, char ret_digest[static 65])
{
        const char *text = json_string_value(json_object_get(signed_spec, "spec"));

        return text ? pki_sha256_hex(text, strlen(text), ret_digest) : -ENOMEM;
}

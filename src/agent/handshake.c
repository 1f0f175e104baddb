/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/handshake.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/identity.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/file.h"

#define SPEC_MAX_BYTES (1024 * 1024)
#define SIGNATURE_MAX 1024
#define CERTIFICATE_MAX 16384
#define NONCE_MAX 64
#define EXPECTED_MAX 256
#define FLAG_FILE "manager-signs"
#define FORMAT 1

struct expected {
        struct handshake_spec spec;
        uint64_t until_ms;
};

struct handshake {
        struct agent *agent;
        char *flag_path;
        bool needed;
        struct map expected; /* id to struct expected */
};

int handshake_new(struct agent *agent, struct handshake **ret_handshake, struct error **ret_error)
{
        _cleanup_(handshake_freep) struct handshake *h = ALLOC(struct handshake);

        if (!h)
                return error_from_errno(ret_error, ENOMEM, "agent");
        h->agent = agent;
        map_init(&h->expected);
        h->flag_path = alloc_printf("%s/" FLAG_FILE, agent->config.state_dir);
        if (!h->flag_path)
                return error_from_errno(ret_error, ENOMEM, "agent");
        h->needed = access(h->flag_path, F_OK) == 0;
        *ret_handshake = TAKE_PTR(h);
        return 0;
}

void handshake_spec_deinit(struct handshake_spec *spec)
{
        json_decref(TAKE_PTR(spec->spec));
}

static void expected_free(struct expected *expected)
{
        if (expected)
                handshake_spec_deinit(&expected->spec);
        free(expected);
}

void handshake_free(struct handshake *handshake)
{
        struct map_item *item, *spare;

        if (!handshake)
                return;
        map_for_each (item, spare, &handshake->expected)
                expected_free(item->value);
        map_deinit(&handshake->expected);
        free(handshake->flag_path);
        free(handshake);
}

bool handshake_is_needed(const struct handshake *handshake)
{
        return handshake->needed;
}

int handshake_refuse(const struct handshake *handshake, struct error **ret_error)
{
        return error_set(ret_error, ERROR_UNAUTHENTICATED,
                "Let the manager begin the migration. If an earlier version of it is in use again, remove "
                "the file "
                "manager-signs from the agents' state directories and restart them.",
                "the migration's specification is not signed, and the manager of this cluster signs them");
}

static void note_needed(struct handshake *handshake)
{
        int r;

        if (handshake->needed)
                return;
        r = file_write_atomic(handshake->flag_path, "", 0, 0600);
        if (r < 0)
                log_warning("%s cannot be written: %s", handshake->flag_path, strerror(-r));
        else
                handshake->needed = true;
}

/* Not older than agents wait for each other, and not from a future that would make it valid for longer. */
static int check_fresh(struct handshake *h, const json_t *about, struct error **ret_error)
{
        static const char *const keys[] = {"format", "issued_unix_ms", "nonce", "both", NULL};
        int64_t now = (int64_t)clock_unix_ms(loop_clock(h->agent->loop));
        uint64_t format = 0, issued = 0;
        const char *nonce = NULL;
        int r = doc_only_keys(about, "handshake", keys, ret_error);

        if (r == 0)
                r = doc_need_u64(about, "handshake", "format", FORMAT, FORMAT, &format, ret_error);
        if (r == 0)
                r = doc_need_u64(about, "handshake", "issued_unix_ms", 0, INT64_MAX, &issued, ret_error);
        if (r == 0)
                r = doc_need_string(about, "handshake", "nonce", NONCE_MAX, &nonce, ret_error);
        if (r < 0)
                return -EINVAL;
        if ((int64_t)issued < now - HANDSHAKE_FRESH_MS || (int64_t)issued > now + HANDSHAKE_FRESH_MS)
                return error_set(ret_error, ERROR_UNAUTHENTICATED,
                        "Set the clocks of manager and hosts (NTP), and begin the migration again.",
                        "the migration's specification was signed %" PRId64 " s %s by this host's clock",
                        (now > (int64_t)issued ? now - (int64_t)issued : (int64_t)issued - now) / 1000,
                        now > (int64_t)issued ? "ago" : "ahead");
        return 0;
}

int handshake_open(struct handshake *handshake, const json_t *signed_spec, struct handshake_spec *ret_spec,
        struct error **ret_error)
{
        static const char *const keys[] = {"spec", "signature", "certificate", NULL};
        const char *text = NULL, *signature = NULL, *certificate = NULL;
        _cleanup_handshake_spec_ struct handshake_spec out = {0};
        json_t *about = NULL;
        int r = doc_only_keys(signed_spec, "signed", keys, ret_error);

        if (r == 0)
                r = doc_need_string(signed_spec, "signed", "spec", SPEC_MAX_BYTES, &text, ret_error);
        if (r == 0)
                r = doc_need_string(signed_spec, "signed", "signature", SIGNATURE_MAX, &signature, ret_error);
        if (r == 0)
                r = doc_need_string(
                        signed_spec, "signed", "certificate", CERTIFICATE_MAX, &certificate, ret_error);
        if (r != 0)
                return -EINVAL;
        r = pki_verify_data(handshake->agent->identity->ca_pem, certificate, API_MANAGER_NAME, text,
                strlen(text), signature, ret_error);
        if (r == 0)
                r = doc_parse(text, strlen(text), &out.spec, ret_error);
        if (r == 0)
                r = doc_opt_object(out.spec, "", "handshake", &about, ret_error);
        if (r == 0)
                r = check_fresh(handshake, about, ret_error);
        if (r < 0)
                return r;
        if (pki_sha256_hex(text, strlen(text), out.digest) < 0)
                return error_from_errno(ret_error, ENOMEM, "the migration's specification");
        out.both = json_is_true(json_object_get(about, "both"));
        json_object_del(out.spec, "handshake");
        note_needed(handshake);
        *ret_spec = out;
        out.spec = NULL;
        return 0;
}

/* Those whose time is over; of a full table also the next to be so. */
static void prune(struct handshake *h, uint64_t now_ms)
{
        struct map_item *item, *spare, *oldest = NULL;

        map_for_each (item, spare, &h->expected) {
                struct expected *it = item->value;

                if (it->until_ms < now_ms) {
                        map_remove(&h->expected, item->key);
                        expected_free(it);
                } else if (!oldest || it->until_ms < ((struct expected *)oldest->value)->until_ms) {
                        oldest = item;
                }
        }
        if (oldest && map_size(&h->expected) >= EXPECTED_MAX) {
                struct expected *it = oldest->value;

                map_remove(&h->expected, oldest->key);
                expected_free(it);
        }
}

int handshake_expect(
        struct handshake *handshake, const char *id, const json_t *signed_spec, struct error **ret_error)
{
        uint64_t now_ms = clock_now_ms(loop_clock(handshake->agent->loop));
        struct expected *it = ALLOC(struct expected);
        void *old = NULL;
        const char *named;
        int r = it ? handshake_open(handshake, signed_spec, &it->spec, ret_error)
                   : error_from_errno(ret_error, ENOMEM, "the migration's specification");

        named = r < 0 ? "" : json_string_value(json_object_get(it->spec.spec, "id")) ?: "";
        if (r == 0 && strcmp(named, id) != 0)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "the specification is that of migration %.40s, not of %.40s", named, id);
        if (r < 0) {
                expected_free(it);
                return r;
        }
        prune(handshake, now_ms);
        it->until_ms = now_ms + HANDSHAKE_FRESH_MS;
        r = map_put(&handshake->expected, id, it, &old);
        if (r < 0) {
                expected_free(it);
                return error_from_errno(ret_error, r, "the migration's specification");
        }
        expected_free(old);
        return 0;
}

const struct handshake_spec *handshake_expected(struct handshake *handshake, const char *id)
{
        struct expected *it = map_get(&handshake->expected, id);

        return it && it->until_ms >= clock_now_ms(loop_clock(handshake->agent->loop)) ? &it->spec : NULL;
}

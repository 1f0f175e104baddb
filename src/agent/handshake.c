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
#define FLAG_MAX_BYTES 32
#define FORMAT 1

struct expected {
        struct handshake_spec spec;
        uint64_t until_ms;
};

struct handshake {
        struct agent *agent;
        char *flag_path;
        bool signs;           /* a manager signed, */
        uint64_t signs_epoch; /* which led in this epoch */
        struct map expected;  /* id to struct expected */
};

/* What cannot be read was not written by us: as if nobody had signed. */
static void read_flag(struct handshake *h)
{
        _cleanup_free_ char *text = NULL;
        size_t len;

        if (file_read(h->flag_path, FLAG_MAX_BYTES, &text, &len) == 0)
                h->signs = text_parse_u64(text, 0, INT64_MAX, &h->signs_epoch) == 0;
}

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
        read_flag(h);
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
        return handshake->signs && handshake->signs_epoch >= handshake->agent->manager_epoch;
}

int(handshake_refuse)(const struct handshake *handshake, struct error **ret_error)
{
        return error_set(ret_error, ERROR_UNAUTHENTICATED,
                "Begin the migration again, with a source whose agent is of this version.",
                "the migration's specification is not signed, and the manager of this cluster signs them");
}

/* Of the leader that this agent obeys: one that came after it may be of an earlier version. */
static void note_signs(struct handshake *handshake)
{
        uint64_t epoch = handshake->agent->manager_epoch;
        char text[FLAG_MAX_BYTES];
        int r;

        if (handshake->signs && handshake->signs_epoch == epoch)
                return;
        snprintf(text, sizeof(text), "%" PRIu64, epoch);
        r = file_write_atomic(handshake->flag_path, text, strlen(text), 0600);
        if (r < 0)
                log_warning("%s cannot be written: %s", handshake->flag_path, strerror(-r));
        handshake->signs = true;
        handshake->signs_epoch = epoch;
}

/* Not older than agents wait for each other, and not from a future that would make it valid for longer. What the manager brings
 * itself, or told before, needs no clock: it may have waited in a queue for hours. */
static int check_fresh(struct handshake *h, int64_t issued, struct error **ret_error)
{
        int64_t now = (int64_t)clock_unix_ms(loop_clock(h->agent->loop));

        if (issued >= now - HANDSHAKE_FRESH_MS && issued <= now + HANDSHAKE_FRESH_MS)
                return 0;
        return error_set(ret_error, ERROR_UNAUTHENTICATED,
                "Begin the migration again; if that does not help, set the clocks of manager and hosts "
                "(NTP).",
                "the migration's specification was signed %" PRId64 " s %s by this host's clock",
                (now > issued ? now - issued : issued - now) / 1000, now > issued ? "ago" : "ahead");
}

static int read_about(const json_t *about, int64_t *ret_issued_unix_ms, struct error **ret_error)
{
        static const char *const keys[] = {"format", "purpose", "issued_unix_ms", "nonce", "both", NULL};
        const char *purpose = NULL;
        uint64_t format = 0, issued = 0;
        const char *nonce = NULL;
        int r = doc_only_keys(about, "handshake", keys, ret_error);

        if (r == 0)
                r = doc_need_u64(about, "handshake", "format", FORMAT, FORMAT, &format, ret_error);
        if (r == 0)
                r = doc_need_u64(about, "handshake", "issued_unix_ms", 0, INT64_MAX, &issued, ret_error);
        if (r == 0)
                r = doc_need_string(about, "handshake", "nonce", NONCE_MAX, &nonce, ret_error);
        if (r == 0)
                r = doc_need_string(about, "handshake", "purpose", NONCE_MAX, &purpose, ret_error);
        if (r == 0 && strcmp(purpose, HANDSHAKE_PURPOSE) != 0)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "handshake.purpose is not %s",
                        HANDSHAKE_PURPOSE);
        if (r < 0)
                return -EINVAL;
        *ret_issued_unix_ms = (int64_t)issued;
        return 0;
}

/* Told by the manager, just before. */
static bool is_expected(struct handshake *h, const struct handshake_spec *spec)
{
        const char *id = json_string_value(json_object_get(spec->spec, "id"));
        const struct handshake_spec *expected = id ? handshake_expected(h, id) : NULL;

        return expected && pki_equal(expected->digest, spec->digest);
}

int handshake_open(struct handshake *handshake, const json_t *signed_spec, bool by_manager,
        struct handshake_spec *ret_spec, struct error **ret_error)
{
        static const char *const keys[] = {"spec", "signature", "certificate", NULL};
        const char *text = NULL, *signature = NULL, *certificate = NULL;
        _cleanup_handshake_spec_ struct handshake_spec out = {0};
        int64_t issued_unix_ms = 0;
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
                r = read_about(about, &issued_unix_ms, ret_error);
        if (r < 0)
                return r;
        if (pki_sha256_hex(text, strlen(text), out.digest) < 0)
                return error_from_errno(ret_error, ENOMEM, "the migration's specification");
        out.both = json_is_true(json_object_get(about, "both"));
        json_object_del(out.spec, "handshake");
        if (by_manager)
                note_signs(handshake);
        else if (!is_expected(handshake, &out) && (r = check_fresh(handshake, issued_unix_ms, ret_error)) < 0)
                return r;
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
        int r = it ? handshake_open(handshake, signed_spec, true, &it->spec, ret_error)
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

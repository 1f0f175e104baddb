/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/compare.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "io/checkpoint_keys.h"
#include "mover/checkpoint.h"
#include "mover/control.h"
#include "mover/ram.h"
#include "mover/sandbox.h"

#define DIGEST_DIGITS (2 * sizeof(uint64_t))
#define RUN_DIGITS (COMPARE_RUN_PAGES * DIGEST_DIGITS)
#define NICENESS 5

static_assert(WIRE_STRIPE_PAGES % COMPARE_RUN_PAGES == 0, "a run lies within a stripe");

/* --- Digests of the pages ----------------------------------------------------------------------------------------- */

void compared_pages_add(struct compared_pages *pages, uint64_t first, const uint8_t *data)
{
        uint64_t *digests = pages->digests + pages->n_runs * COMPARE_RUN_PAGES;

        pages->first[pages->n_runs++] = first;
        for (size_t i = 0; i < COMPARE_RUN_PAGES; i++, data += WIRE_PAGE_SIZE)
                digests[i] = ram_is_zero(data, WIRE_PAGE_SIZE)
                                     ? 0
                                     : checkpoint_page_digest(pages->key, first + i, data, WIRE_PAGE_SIZE);
}

json_t *compared_pages_to_json(const struct compared_pages *pages)
{
        _cleanup_free_ char *text = alloc_zero(pages->n_runs * RUN_DIGITS + 1);
        json_t *runs = json_array();

        for (uint64_t i = 0; text && i < pages->n_runs * COMPARE_RUN_PAGES; i++) {
                wire_le64 digest = htole64(pages->digests[i]);

                text_hex_encode(&digest, sizeof(digest), text + i * DIGEST_DIGITS);
        }
        for (uint64_t i = 0; i < pages->n_runs; i++)
                json_array_append_new(runs, json_integer((json_int_t)pages->first[i]));
        if (!text || json_array_size(runs) != pages->n_runs) {
                json_decref(runs);
                return NULL;
        }
        return json_pack("{s:o, s:s}", "runs", runs, "pages", text);
}

static int read_runs(const json_t *json, uint64_t n_pages, struct compared_pages *p, struct error **ret_error)
{
        json_t *runs = NULL;
        int r = doc_opt_array(json, "digests", "runs", COMPARE_RUNS_MAX, &runs, ret_error);

        for (size_t i = 0; r >= 0 && i < json_array_size(runs); i++) {
                json_int_t first = json_integer_value(json_array_get(runs, i));

                /* Rising, so that no stripe is read twice, however long the list. */
                if (!json_is_integer(json_array_get(runs, i)) || first < 0 ||
                        (i > 0 && (uint64_t)first <= p->first[i - 1]) ||
                        (uint64_t)first % COMPARE_RUN_PAGES || (uint64_t)first >= n_pages ||
                        COMPARE_RUN_PAGES > n_pages - (uint64_t)first)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "digests.runs[%zu] is no page at which a run begins, above those before", i);
                p->first[p->n_runs++] = (uint64_t)first;
        }
        return r;
}

int compared_pages_from_json(
        const json_t *json, uint64_t ram_bytes, struct compared_pages *ret_pages, struct error **ret_error)
{
        static const char *const keys[] = {"runs", "pages", NULL};
        const char *text = NULL;
        uint64_t n_digests;
        wire_le64 digest;
        int r = doc_only_keys(json, "digests", keys, ret_error);

        *ret_pages = (struct compared_pages){0};
        if (r >= 0)
                r = doc_need_string(
                        json, "digests", "pages", COMPARE_RUNS_MAX * RUN_DIGITS, &text, ret_error);
        if (r >= 0)
                r = read_runs(json, ram_bytes / WIRE_PAGE_SIZE, ret_pages, ret_error);
        if (r < 0)
                return r;
        n_digests = ret_pages->n_runs * COMPARE_RUN_PAGES;
        if (strlen(text) != n_digests * DIGEST_DIGITS)
                r = -EINVAL;
        for (uint64_t i = 0; r == 0 && i < n_digests; i++) {
                char digits[DIGEST_DIGITS + 1] = "";

                memcpy(digits, text + i * DIGEST_DIGITS, DIGEST_DIGITS);
                r = text_hex_decode(digits, &digest, sizeof(digest));
                ret_pages->digests[i] = le64toh(digest);
        }
        return r == 0 ? 0
                      : error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "digests.pages is not as many hexadecimal digits as there have to be");
}

/* --- The comparison ----------------------------------------------------------------------------------------------- */

struct comparison {
        struct compared_pages pages;
        struct checkpoint_digests kept;
        struct ram ram;              /* of the guest's size; not open */
        uint64_t n_content, n_equal; /* pages that are not zero in the guest; of these */
};

/* `comparison_key`, of 64 digits, `ram_bytes` and `digests`; descriptor: the checkpoint. */
static int set_up(struct comparison *c, const struct control_message *message, struct error **ret_error)
{
        uint8_t key[AEAD_KEY_SIZE];
        const char *hex = NULL;
        struct stat st;
        int r = doc_need_u64(message->json, "compare", "ram_bytes", WIRE_PAGE_SIZE, WIRE_MAX_RAM_BYTES,
                &c->ram.bytes, ret_error);

        if (r >= 0)
                r = doc_need_string(
                        message->json, "compare", "comparison_key", 2 * AEAD_KEY_SIZE, &hex, ret_error);
        if (r >= 0 && text_hex_decode(hex, key, sizeof(key)) < 0)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "compare.comparison_key must be 64 hexadecimal digits");
        if (r >= 0)
                r = compared_pages_from_json(
                        json_object_get(message->json, "digests"), c->ram.bytes, &c->pages, ret_error);
        if (r >= 0 && message->n_fds != 1)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The compare message brought %zu descriptors, not the checkpoint", message->n_fds);
        if (r < 0) {
                explicit_bzero(key, sizeof(key));
                return r;
        }
        r = fstat(message->fds[0], &st) < 0 ? -errno
                                            : checkpoint_digests_open(message->fds[0], (uint64_t)st.st_size,
                                                      key, c->ram.bytes, &c->kept);
        explicit_bzero(key, sizeof(key));
        return r < 0 ? error_from_errno(ret_error, r, "Cannot read what is kept of the guest") : 0;
}

/* Digests that cannot be read are those of pages that are counted as changed. */
static void compare(struct comparison *c)
{
        uint64_t at = UINT64_MAX; /* the stripe whose digests were read */
        uint64_t kept[WIRE_STRIPE_PAGES];

        for (uint64_t i = 0; i < c->pages.n_runs; i++) {
                uint64_t stripe = c->pages.first[i] / WIRE_STRIPE_PAGES;
                uint64_t first = c->pages.first[i] % WIRE_STRIPE_PAGES;

                if (stripe != at)
                        at = checkpoint_digests_read(&c->kept, stripe, kept) >= 0 ? stripe : UINT64_MAX;
                for (size_t j = 0; j < COMPARE_RUN_PAGES; j++) {
                        uint64_t digest = c->pages.digests[i * COMPARE_RUN_PAGES + j];

                        if (digest == 0)
                                continue;
                        c->n_content++;
                        c->n_equal += stripe == at && kept[first + j] == digest;
                }
        }
}

int compare_run(int control_fd, bool sandbox)
{
        _cleanup_free_ struct comparison *c = ALLOC(struct comparison);
        _cleanup_error_ struct error *error = NULL;
        struct control_message message = {0};
        int r = c ? control_receive(control_fd, &message, &error) : -ENOMEM;

        if (r >= 0 && message.op != CONTROL_COMPARE)
                r = error_set(&error, ERROR_PROTOCOL, NULL, "The agent's message is not \"compare\"");
        if (r >= 0)
                c->ram.fd = -1;
        if (r >= 0)
                r = set_up(c, &message, &error);
        if (r >= 0 && sandbox) {
                (void)setpriority(PRIO_PROCESS, 0, NICENESS);
                r = sandbox_enter(NULL, 0, message.fds[0], &c->ram, false, &error);
        }
        if (r >= 0) {
                compare(c);
                control_send(control_fd,
                        json_pack("{s:s, s:I, s:I}", "event", "compared", "pages", (json_int_t)c->n_content,
                                "equal", (json_int_t)c->n_equal),
                        false);
        } else if (error) {
                control_send_failed(control_fd, error, false);
        }
        if (c)
                explicit_bzero(c->kept.key, sizeof(c->kept.key));
        control_message_deinit(&message);
        return r < 0;
}

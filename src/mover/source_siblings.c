/* SPDX-License-Identifier: Apache-2.0 */

/* Pages whose content another guest of the same tenant sends, or has sent, from this host to the same destination (page_claims.h):
 * they go as a digest, and the sink takes them from what it shares with the other guest's sink (page_store.h). That works while
 * both are under way as well: a channel sends a digest only after all contents that it claimed before, so whoever waits for
 * one waits for something that was claimed earlier, and never in a circle.
 *
 * Only in the first pass: later the guest may be about to stop, and what changed since is rarely what another guest has. */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "mover/source_internal.h"

/* When of so many pages more than this part was missing, the destination's store is too small, or the other guest does not
 * arrive. */
#define MIN_TO_JUDGE 2048
#define MAX_MISSING_PART 0.25
#define MAX_MISSING 100000 /* in any case */

static size_t map_bytes(const struct source *source)
{
        return wire_ram_stripes(source->ram.bytes) * sizeof(uint64_t);
}

static_assert(WIRE_STRIPE_PAGES == 64, "a stripe is a word of bits");

int source_siblings_init(struct source *source, int fd, struct error **ret_error)
{
        void *map = mmap(NULL, map_bytes(source), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        int r;

        if (map == MAP_FAILED)
                return error_from_errno(ret_error, errno, "Cannot set up the list of shared pages");
        source->referred = map;
        r = page_claims_open(fd, &source->claims);
        return r < 0 ? error_from_errno(ret_error, r, "Cannot use what is shared with other guests") : 0;
}

void source_siblings_deinit(struct source *source)
{
        if (source->referred)
                munmap(source->referred, map_bytes(source));
        source->referred = NULL;
        page_claims_close(TAKE_PTR(source->claims));
}

bool source_is_unconfirmed(const struct sender *sender, uint64_t page)
{
        return sender->unconfirmed &&
               (sender->source->referred[page / WIRE_STRIPE_PAGES] >> page % WIRE_STRIPE_PAGES & 1);
}

void source_set_unconfirmed(struct sender *sender, uint64_t page, bool unconfirmed)
{
        uint64_t bit = UINT64_C(1) << page % WIRE_STRIPE_PAGES, stripe = page / WIRE_STRIPE_PAGES;
        uint64_t *word;

        if (!unconfirmed && !sender->unconfirmed)
                return;
        word = &sender->source->referred[stripe];
        *word = unconfirmed ? *word | bit : *word & ~bit;
        if (!unconfirmed)
                return;
        sender->first_referred = sender->unconfirmed ? MIN(sender->first_referred, stripe) : stripe;
        sender->last_referred = sender->unconfirmed ? MAX(sender->last_referred, stripe) : stripe;
        sender->unconfirmed = true;
}

bool source_is_shared(struct sender *sender, uint64_t page, const uint8_t *data,
        uint8_t ret_digest[static CONTENT_DIGEST_SIZE])
{
        if (page < sender->sibling_last) {
                content_digester_free(TAKE_PTR(sender->digester)); /* the first pass is over */
                return false;
        }
        sender->sibling_last = page;
        if (content_digest(sender->digester, data, WIRE_PAGE_SIZE, ret_digest) < 0 ||
                page_claims_take(sender->source->claims, ret_digest))
                return false;
        sender->n_referred++;
        return true;
}

int source_take_missing(struct sender *sender, struct error **ret_error)
{
        struct cursor cursor = cursor_of(sender->channel.payload, sender->channel.payload_len);
        struct source *source = sender->source;
        uint64_t page;

        while (cursor_u64le(&cursor, &page)) {
                struct wire_run_v1 run = {.first_page = htole64(page), .n_pages = htole32(1)};

                if (page >= ram_pages(&source->ram) ||
                        wire_page_channel(page, source->n_channels) != sender->number)
                        return error_set(
                                ret_error, ERROR_PROTOCOL, NULL, "The peer's MISSING names a wrong page");
                /* Said again after a connection was lost: it went whole meanwhile, or is among what will. After the barrier nothing
                 * is unconfirmed, and no page may follow. */
                if (!source_is_unconfirmed(sender, page))
                        continue;
                if (buf_append(&sender->missing, &run, sizeof(run)) < 0)
                        return error_set(
                                ret_error, ERROR_PROTOCOL, NULL, "The peer misses more pages than there are");
                sender->n_missing++;
        }
        if (cursor.left > 0 || sender->n_referred == 0)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer's MISSING is not valid");
        if (sender->digester && sender->n_referred > MIN_TO_JUDGE &&
                (sender->n_missing > MAX_MISSING ||
                        (double)sender->n_missing > (double)sender->n_referred * MAX_MISSING_PART)) {
                log_notice("Channel %u: what other guests should have sent is not there; no more is shared",
                        sender->number);
                content_digester_free(TAKE_PTR(sender->digester));
        }
        return 0;
}

void source_confirm_siblings(struct sender *sender)
{
        struct source *source = sender->source;

        if (!sender->unconfirmed || sender->n_siblings > 0 || sender->missing.len > 0 ||
                sender->lost.len > 0 || sender->log.acknowledged < sender->sibling_end)
                return;
        for (uint64_t i = sender->first_referred; i <= sender->last_referred; i += source->n_channels)
                source->referred[i] = 0;
        sender->unconfirmed = false;
}

int source_await_siblings(struct sender *sender, struct error **ret_error)
{
        const uint64_t *oldest = &sender->sibling_ends[sender->n_sibling_frames % MAX_SIBLING_FRAMES];
        int r = 0;

        while (r >= 0 && sender->log.acknowledged < *oldest && !sender->source->stopping) {
                enum wire_frame type;

                r = sender_handle_frame(sender, 0, &type, ret_error);
        }
        return r;
}

void source_sibling_sent(struct sender *sender)
{
        sender->sibling_end = sender->log.position;
        sender->sibling_ends[sender->n_sibling_frames++ % MAX_SIBLING_FRAMES] = sender->log.position;
}

int source_send_missing(struct sender *sender, struct error **ret_error)
{
        int r;

        if (sender->missing.len == 0)
                return 0;
        r = buf_append(&sender->lost, sender->missing.data, sender->missing.len);
        if (r < 0)
                return error_from_errno(ret_error, r, "Cannot send what the peer misses");
        buf_clear(&sender->missing);
        return sender_resend_lost(sender, ret_error);
}

int source_settle_siblings(struct sender *sender, struct error **ret_error)
{
        int r;

        content_digester_free(TAKE_PTR(sender->digester)); /* the guest is stopped */
        r = source_send_missing(sender, ret_error);
        while (r >= 0 && sender->unconfirmed && !sender->source->stopping) {
                enum wire_frame type;

                source_confirm_siblings(sender);
                if (!sender->unconfirmed)
                        break;
                r = sender_handle_frame(sender, 0, &type, ret_error);
                if (r >= 0)
                        r = source_send_missing(sender, ret_error);
        }
        return r;
}

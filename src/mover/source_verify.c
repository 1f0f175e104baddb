/* SPDX-License-Identifier: Apache-2.0 */

/* Verification of one channel's stripes while the guest is stopped (docs/protocol.md, "Verification"). First
 * the guest's real memory against what was sent: this finds pages that QEMU forgot to mark dirty. Then the
 * sink's memory against ours: this finds everything else. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "mover/source_internal.h"

#define MAX_ROUNDS 3

static int resend_page(
        struct sender *sender, uint64_t page, const uint8_t *data, bool whole, struct error **ret_error)
{
        uint64_t before = counter_get(&sender->counters.pages_sent);
        bool was_sent = page_index_is_sent(sender->source->index, page);
        int r;

        if (ram_is_zero(data, WIRE_PAGE_SIZE)) {
                if (was_sent || whole)
                        counter_add(&sender->counters.pages_verify, 1);
                return whole ? sender_add_whole_zero(sender, page, ret_error)
                             : sender_add_zero(sender, page, ret_error);
        }
        r = whole ? sender_add_whole_page(sender, page, data, ret_error)
                  : sender_add_changed_page(sender, page, data, ret_error);
        counter_add(&sender->counters.pages_verify, counter_get(&sender->counters.pages_sent) - before);
        return r;
}

static int resend_stripe(struct sender *sender, uint64_t stripe, bool whole, struct error **ret_error)
{
        const struct ram *ram = &sender->source->ram;
        uint64_t first = stripe * WIRE_STRIPE_PAGES;
        size_t len = ram_stripe_len(ram, stripe);
        int r = ram_read(ram, stripe * WIRE_STRIPE_BYTES, sender->stripe, len, ret_error);

        for (uint64_t i = 0; r >= 0 && i < len / WIRE_PAGE_SIZE; i++)
                r = resend_page(sender, first + i, sender->stripe + i * WIRE_PAGE_SIZE, whole, ret_error);
        return r;
}

static int ask(struct sender *sender, enum wire_verify_kind kind, uint64_t first, uint32_t n,
        struct error **ret_error)
{
        struct wire_verify_v1 request = {
                .kind = htole32(kind), .n_stripes = htole32(n), .first = htole64(first)};

        return sender_send(sender, WIRE_VERIFY, &request, sizeof(request), NULL, 0, ret_error);
}

/* Waits for the answer to the request and points *ret_hashes at its n hashes. */
static int answer(struct sender *sender, enum wire_verify_kind kind, uint64_t first, uint32_t n,
        const uint8_t **ret_hashes, struct error **ret_error)
{
        struct wire_verify_v1 head;
        int r = sender_await(sender, WIRE_VERIFY_REPLY, ret_error);

        if (r < 0)
                return r;
        memcpy(&head, sender->channel.payload, sizeof(head));
        if (le32toh(head.kind) != kind || le64toh(head.first) != first || le32toh(head.n_stripes) != n ||
                sender->channel.payload_len != sizeof(head) + MAX(n, 1u) * sizeof(wire_le64))
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer's VERIFY_REPLY is not valid");
        *ret_hashes = sender->channel.payload + sizeof(head);
        return 0;
}

static uint64_t hash_at(const uint8_t *hashes, uint64_t i)
{
        uint64_t raw;

        memcpy(&raw, hashes + i * sizeof(raw), sizeof(raw));
        return le64toh(raw);
}

/* Resends every stripe whose hash at the sink is another. */
static int repair(struct sender *sender, struct error **ret_error)
{
        struct source *source = sender->source;
        uint64_t n_stripes = wire_channel_stripes(source->ram.bytes, sender->number, source->n_channels);

        for (uint64_t first = 0; first < n_stripes; first += WIRE_MAX_HASHES) {
                uint32_t n = (uint32_t)MIN(n_stripes - first, (uint64_t)WIRE_MAX_HASHES);
                const uint8_t *hashes;
                int r = ask(sender, WIRE_VERIFY_STRIPES, first, n, ret_error);

                if (r >= 0)
                        r = answer(sender, WIRE_VERIFY_STRIPES, first, n, &hashes, ret_error);
                for (uint32_t i = 0; r >= 0 && i < n; i++) {
                        uint64_t stripe = sender->number + (first + i) * source->n_channels, hash;

                        r = ram_stripe_hash(
                                &source->ram, source->secret, stripe, sender->stripe, &hash, ret_error);
                        if (r >= 0 && hash != hash_at(hashes, i))
                                r = resend_stripe(sender, stripe, true, ret_error);
                }
                if (r < 0)
                        return r;
        }
        return sender_flush(sender, ret_error);
}

int source_verify_channel(struct sender *sender, struct error **ret_error)
{
        struct source *source = sender->source;
        uint64_t n_stripes = wire_ram_stripes(source->ram.bytes);
        const uint8_t *hashes;
        int r = 0;

        sender->stripe = sender->stripe ?: alloc_zero(WIRE_STRIPE_BYTES);
        if (!sender->stripe)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for verification");
        for (uint64_t stripe = sender->number; r >= 0 && stripe < n_stripes; stripe += source->n_channels) {
                r = resend_stripe(sender, stripe, false, ret_error);
                if (r >= 0)
                        r = sender_keep_alive(sender, ret_error);
                if (r >= 0)
                        r = sender_listen(sender, ret_error);
        }
        if (r >= 0)
                r = sender_flush(sender, ret_error);
        for (unsigned int round = 0; r >= 0; round++) {
                r = ask(sender, WIRE_VERIFY_TOTAL, 0, 0, ret_error);
                if (r < 0)
                        break;
                r = ram_channel_hash(&source->ram, source->secret, sender->number, source->n_channels,
                        sender->stripe, &sender->channel_hash,
                        ret_error); /* while the sink computes its own */
                if (r < 0)
                        break;
                r = answer(sender, WIRE_VERIFY_TOTAL, 0, 0, &hashes, ret_error);
                if (r < 0)
                        break;
                if (hash_at(hashes, 0) == sender->channel_hash) {
                        if (atomic_fetch_add(&source->n_verified, 1) + 1 == source->n_channels) {
                                source->verify_done_ns = clock_monotonic_ns();
                                mailbox_post(&source->mailbox, MAIL_DEVICE_STATE);
                        }
                        return 0;
                }
                if (round == MAX_ROUNDS)
                        return error_set(ret_error, ERROR_VERIFY_FAILED,
                                "The guest runs on at the source; check both hosts' memory (ECC, memtest)",
                                "The guest's memory at the destination still differs after %d repairs",
                                MAX_ROUNDS);
                r = repair(sender, ret_error);
        }
        return r;
}

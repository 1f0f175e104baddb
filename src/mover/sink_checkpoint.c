/* SPDX-License-Identifier: Apache-2.0 */

/* What this host holds of the guest from an earlier stay (checkpoint.h). Each receiver reads its channel's stripes while it has
 * nothing else to do, which at the beginning is all the time since the source waits for what it says; and places pages from it
 * when the source says that they are the same. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "mover/page_index.h"
#include "mover/sink_internal.h"

#define STRIPES_A_FRAME 8

static int make_buffers(struct receiver *receiver, struct error **ret_error)
{
        if (!receiver->recalled) {
                receiver->packed = alloc_zero(WIRE_STRIPE_BYTES);
                receiver->recalled = alloc_zero(WIRE_STRIPE_BYTES);
                receiver->recalled_stripe = UINT64_MAX;
        }
        return receiver->packed && receiver->recalled ? 0
                                                      : error_set(ret_error, ERROR_NO_MEMORY, NULL,
                                                                "No memory for the guest's earlier memory");
}

/* Into receiver->recalled. */
static int read_stripe(struct receiver *receiver, uint64_t stripe)
{
        struct sink *sink = receiver->sink;
        int r;

        if (stripe == receiver->recalled_stripe)
                return 0;
        receiver->recalled_stripe = UINT64_MAX;
        r = checkpoint_read(sink->checkpoint, receiver->codec, stripe, receiver->packed, receiver->recalled,
                ram_stripe_len(&sink->ram, stripe));
        if (r >= 0)
                receiver->recalled_stripe = stripe;
        return r;
}

/* A stripe that cannot be read is not offered. */
static bool describe(struct receiver *receiver, uint64_t stripe, struct wire_held_stripe_v1 *ret_held)
{
        struct sink *sink = receiver->sink;
        size_t n_pages = ram_stripe_len(&sink->ram, stripe) / WIRE_PAGE_SIZE;

        if (!checkpoint_has(sink->checkpoint, stripe) || read_stripe(receiver, stripe) < 0)
                return false;
        *ret_held = (struct wire_held_stripe_v1){.stripe = htole64(stripe)};
        for (size_t i = 0; i < n_pages; i++) {
                const uint8_t *page = receiver->recalled + i * WIRE_PAGE_SIZE;

                if (!ram_is_zero(page, WIRE_PAGE_SIZE))
                        ret_held->digests[i] = htole64(page_content_digest(sink->secret, page));
        }
        return true;
}

int sink_offer(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        uint64_t n_stripes =
                wire_channel_stripes(sink->ram.bytes, (unsigned int)receiver->number, sink->n_channels);
        uint8_t buffer[WIRE_HEADROOM + STRIPES_A_FRAME * sizeof(struct wire_held_stripe_v1)];
        struct wire_held_stripe_v1 held;
        struct wire_held_v1 head;
        unsigned int n_read = 0;
        size_t len = 0;
        int r = make_buffers(receiver, ret_error);

        if (r < 0)
                return r;
        for (; n_read < STRIPES_A_FRAME && receiver->n_offered < n_stripes; receiver->n_offered++) {
                uint64_t stripe = (unsigned int)receiver->number + receiver->n_offered * sink->n_channels;

                n_read += checkpoint_has(sink->checkpoint, stripe);
                if (!describe(receiver, stripe, &held))
                        continue;
                memcpy(buffer + WIRE_HEADROOM + len, &held, sizeof(held));
                len += sizeof(held);
        }
        receiver->offers = receiver->n_offered < n_stripes;
        head.covered = htole64(receiver->n_offered);
        if (n_stripes == 0)
                return 0;
        return channel_send(
                &receiver->channel, WIRE_HELD, &head, sizeof(head), buffer + WIRE_HEADROOM, len, ret_error);
}

/* Pages of one stripe; run within it. */
static int place_run(struct receiver *receiver, uint64_t first, uint64_t n, struct error **ret_error)
{
        uint64_t stripe = first / WIRE_STRIPE_PAGES;
        int r = read_stripe(receiver, stripe);

        if (r < 0) /* it was offered: the file was there */
                return error_from_errno(ret_error, r, "Cannot read the guest's memory from its earlier stay");
        return ram_write(&receiver->sink->ram, first * WIRE_PAGE_SIZE,
                receiver->recalled + first % WIRE_STRIPE_PAGES * WIRE_PAGE_SIZE, n * WIRE_PAGE_SIZE,
                ret_error);
}

int sink_place_recalled(struct receiver *receiver, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        struct sink *sink = receiver->sink;
        uint64_t left = ram_pages(&sink->ram); /* no frame needs to name a page twice */
        uint64_t first;
        uint32_t n;
        int r = sink->checkpoint ? make_buffers(receiver, ret_error)
                                 : error_set(ret_error, ERROR_PROTOCOL, NULL,
                                           "The peer recalls pages that we never had");

        while (r >= 0 && cursor.left > 0) {
                if (!cursor_u64le(&cursor, &first) || !cursor_u32le(&cursor, &n) || n == 0 || n > left ||
                        first >= ram_pages(&sink->ram) || n > ram_pages(&sink->ram) - first)
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "The peer sent an invalid RECALL frame: a run is out of bounds");
                left -= n;
                atomic_fetch_add_explicit(&sink->pages_placed, n, memory_order_relaxed);
                for (uint64_t end = first + n; r >= 0 && first < end;) {
                        uint64_t in_stripe = WIRE_STRIPE_PAGES - first % WIRE_STRIPE_PAGES;
                        uint64_t now = MIN(end - first, in_stripe);

                        if (!sink_page_is_ours(receiver, first))
                                return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                        "The peer sent an invalid RECALL frame: a page is another channel's");
                        r = place_run(receiver, first, now, ret_error);
                        first += now;
                }
        }
        return r;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* What the sinks of one tenant's guests on this host share (page_store.h): pages that came whole go into it, and pages that the
 * source only names by their digest are taken from it. They may be on their way to another guest just now; so there is a little
 * patience. */

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "mover/sink_internal.h"

/* For one page, for all of one frame, and for all of a channel's connection: of frames that wait when the guest is
 * stopped there are few (source_siblings.c). Longer than what is under way on connections that are kept as full as ours
 * (source_stats.c). */
#define PATIENCE_MS 300
#define FRAME_PATIENCE_MS 500
#define TOTAL_PATIENCE_MS 10000
/* After so many frames in turn for which it was in vain there is none any more: who promised them is gone, and it may be the stopped
 * guest that waits. */
#define MAX_IN_VAIN 2
#define LOOK_NS 1000000

void sink_share(struct receiver *receiver, const uint8_t *page)
{
        uint8_t digest[CONTENT_DIGEST_SIZE];

        if (content_digest(receiver->digester, page, WIRE_PAGE_SIZE, digest) == 0)
                page_store_add(receiver->sink->store, digest, page);
}

static bool await_page(struct receiver *receiver, const uint8_t *digest, uint64_t *left_ms, uint8_t *ret_page)
{
        struct sink *sink = receiver->sink;
        uint64_t started_ms = clock_now_ms(&clock_system), waited_ms = 0;
        uint64_t patience_ms = MIN(*left_ms, (uint64_t)PATIENCE_MS);
        bool found = page_store_find(sink->store, receiver->digester, digest, ret_page);

        if (found)
                return true;
        while (!found && waited_ms < patience_ms && !sink->stopping) {
                nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
                found = page_store_find(sink->store, receiver->digester, digest, ret_page);
                waited_ms = clock_now_ms(&clock_system) - started_ms;
        }
        *left_ms -= MIN(*left_ms, waited_ms);
        receiver->waited_ms = MIN(receiver->waited_ms + waited_ms, (uint64_t)TOTAL_PATIENCE_MS);
        return found;
}

static int send_missing(struct receiver *receiver, const uint8_t *pages, size_t len, struct error **ret_error)
{
        uint8_t buffer[WIRE_HEADROOM + WIRE_MAX_SIBLINGS * sizeof(wire_le64)];

        memcpy(buffer + WIRE_HEADROOM, pages, len);
        return channel_send(
                &receiver->channel, WIRE_MISSING, NULL, 0, buffer + WIRE_HEADROOM, len, ret_error);
}

int sink_place_siblings(struct receiver *receiver, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        struct sink *sink = receiver->sink;
        struct buf *missing = &sink->channels[receiver->number].missing;
        size_t first_missing = missing->len;
        uint64_t left_ms = receiver->n_in_vain < MAX_IN_VAIN
                                   ? MIN((uint64_t)FRAME_PATIENCE_MS, TOTAL_PATIENCE_MS - receiver->waited_ms)
                                   : 0;
        struct wire_sibling_v1 sibling;

        while (cursor_copy(&cursor, &sibling, sizeof(sibling))) {
                uint64_t page = le64toh(sibling.page);
                uint8_t content[WIRE_PAGE_SIZE];
                int r = 0;

                if (!receiver->digester || !sink_page_is_ours(receiver, page))
                        return error_set(
                                ret_error, ERROR_PROTOCOL, NULL, "The peer sent an invalid SIBLINGS frame");
                if (await_page(receiver, sibling.digest, &left_ms, content)) {
                        r = ram_write(&sink->ram, page * WIRE_PAGE_SIZE, content, sizeof(content), ret_error);
                        sink->pages_placed++;
                        sink->pages_shared++;
                } else if (buf_append(missing, &sibling.page, sizeof(sibling.page)) < 0) {
                        r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "Too many pages are missing");
                }
                if (r < 0)
                        return r;
        }
        if (cursor.left > 0)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer sent an invalid SIBLINGS frame");
        receiver->n_in_vain = missing->len == first_missing ? 0 : receiver->n_in_vain + (left_ms == 0);
        receiver->ack_now = true; /* the source waits for it before it sends what changed there */
        return missing->len == first_missing
                       ? 0
                       : send_missing(receiver, (const uint8_t *)missing->data + first_missing,
                                 missing->len - first_missing, ret_error);
}

int sink_repeat_missing(struct receiver *receiver, struct error **ret_error)
{
        const struct buf *missing = &receiver->sink->channels[receiver->number].missing;
        const size_t most = WIRE_MAX_SIBLINGS * sizeof(wire_le64);
        int r = 0;

        for (size_t at = 0; r >= 0 && at < missing->len; at += most)
                r = send_missing(receiver, (const uint8_t *)missing->data + at, MIN(missing->len - at, most),
                        ret_error);
        return r;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* What the sink does with the payload of a frame. Everything here comes from the network: each number is
 * checked before it is used. A PAGES frame is checked whole before its first byte is placed; the entries of ZERO and REFERENCES
 * frames are checked and placed one page after the other, for every page that is this channel's may be overwritten anyway, and a frame
 * that turns out to be invalid ends the migration. */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "mover/sink_internal.h"

static int invalid(enum wire_frame type, const char *what, struct error **ret_error)
{
        return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer sent an invalid %s frame: %s",
                wire_frame_name(type), what);
}

int sink_unpack(struct receiver *receiver, struct cursor *cursor, unsigned int packing, uint32_t raw_len,
        const uint8_t **ret_raw)
{
        if (raw_len == 0 || raw_len > WIRE_MAX_RAW)
                return -EPROTO;
        if (packing == WIRE_PLAIN) {
                *ret_raw = cursor->at;
                return cursor->left == raw_len ? 0 : -EPROTO;
        }
        *ret_raw = receiver->raw;
        return codec_unpack(receiver->codec, packing, cursor->at, cursor->left, receiver->raw, raw_len);
}

static uint64_t entry_at(const uint8_t *raw, uint32_t i)
{
        uint64_t entry;

        memcpy(&entry, raw + (size_t)i * sizeof(entry), sizeof(entry));
        return le64toh(entry);
}

bool sink_page_is_ours(const struct receiver *receiver, uint64_t page)
{
        const struct sink *sink = receiver->sink;

        return page < ram_pages(&sink->ram) &&
               wire_page_channel(page, sink->n_channels) == (unsigned int)receiver->number;
}

static bool entries_are_valid(
        const struct receiver *receiver, const uint8_t *raw, uint32_t n_pages, uint32_t raw_len)
{
        size_t need = n_pages * sizeof(wire_le64);

        if (raw_len < need)
                return false;
        for (uint32_t i = 0; i < n_pages; i++) {
                uint64_t entry = entry_at(raw, i);

                if ((entry & 0xffff) == 0 || !sink_page_is_ours(receiver, entry >> 16))
                        return false;
                need += (size_t)__builtin_popcountll(entry & 0xffff) * WIRE_BLOCK_SIZE;
        }
        return need == raw_len;
}

/* Blocks that follow each other both in the frame and in memory are written at once. */
struct run {
        uint64_t offset; /* in memory */
        const uint8_t *from;
        size_t len;
};

static int run_write(const struct ram *ram, struct run *run, struct error **ret_error)
{
        int r = run->len ? ram_write(ram, run->offset, run->from, run->len, ret_error) : 0;

        run->from += run->len;
        run->len = 0;
        return r;
}

static int place_page(const struct ram *ram, struct run *run, uint64_t entry, struct error **ret_error)
{
        uint64_t start = (entry >> 16) * WIRE_PAGE_SIZE;

        for (unsigned int i = 0; i < WIRE_BLOCKS_PER_PAGE; i++) {
                uint64_t offset = start + (uint64_t)i * WIRE_BLOCK_SIZE;
                int r = 0;

                if (!(entry >> i & 1))
                        continue;
                if (offset != run->offset + run->len || run->len + WIRE_BLOCK_SIZE > WIRE_STRIPE_BYTES) {
                        r = run_write(ram, run, ret_error);
                        run->offset = offset;
                }
                if (r < 0)
                        return r;
                run->len += WIRE_BLOCK_SIZE;
        }
        return 0;
}

static void share_pages(struct receiver *receiver, const uint8_t *raw, uint32_t n_pages)
{
        const uint8_t *block = raw + n_pages * sizeof(wire_le64);

        for (uint32_t i = 0; i < n_pages; i++) {
                uint64_t mask = entry_at(raw, i) & 0xffff, page = entry_at(raw, i) >> 16;

                receiver->later_pass |=
                        i == 0 && page + ram_pages(&receiver->sink->ram) / 4 < receiver->shared_last;
                receiver->shared_last = MAX(receiver->shared_last, page);
                if (mask == 0xffff && !receiver->later_pass)
                        sink_share(receiver, block);
                block += (size_t)__builtin_popcountll(mask) * WIRE_BLOCK_SIZE;
        }
}

int sink_place_pages(struct receiver *receiver, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        struct sink *sink = receiver->sink;
        struct wire_pages_v1 head;
        const uint8_t *raw;
        uint32_t n_pages, raw_len;
        struct run run = {0};
        int r = 0;

        if (!cursor_copy(&cursor, &head, sizeof(head)))
                return invalid(WIRE_PAGES, "it is too short", ret_error);
        n_pages = le32toh(head.n_pages);
        raw_len = le32toh(head.raw_len);
        if (n_pages == 0 || n_pages > WIRE_MAX_PAGES)
                return invalid(WIRE_PAGES, "its number of pages is out of bounds", ret_error);
        if (sink_unpack(receiver, &cursor, head.packing, raw_len, &raw) < 0)
                return invalid(WIRE_PAGES, "it cannot be unpacked", ret_error);
        if (!entries_are_valid(receiver, raw, n_pages, raw_len))
                return invalid(WIRE_PAGES, "its page list does not fit", ret_error);

        run.from = raw + n_pages * sizeof(wire_le64);
        for (uint32_t i = 0; r >= 0 && i < n_pages; i++)
                r = place_page(&sink->ram, &run, entry_at(raw, i), ret_error);
        if (r >= 0)
                r = run_write(&sink->ram, &run, ret_error);
        if (r < 0)
                return r;
        atomic_fetch_add_explicit(&sink->pages_placed, n_pages, memory_order_relaxed);
        if (receiver->digester)
                share_pages(receiver, raw, n_pages);
        return 0;
}

int sink_place_zero(struct receiver *receiver, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        static const uint8_t zeros[WIRE_PAGE_SIZE];
        struct sink *sink = receiver->sink;
        uint64_t left = ram_pages(&sink->ram); /* no frame needs to name a page twice */
        uint64_t first;
        uint32_t n;

        while (cursor.left > 0) {
                if (!cursor_u64le(&cursor, &first) || !cursor_u32le(&cursor, &n) || n == 0 || n > left)
                        return invalid(WIRE_ZERO, "a run is out of bounds", ret_error);
                left -= n;
                for (uint64_t page = first; page - first < n; page++) {
                        int r = sink_page_is_ours(receiver, page)
                                        ? ram_write(&sink->ram, page * WIRE_PAGE_SIZE, zeros, sizeof(zeros),
                                                  ret_error)
                                        : invalid(WIRE_ZERO, "a run is out of bounds", ret_error);

                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

int sink_place_references(struct receiver *receiver, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        const struct ram *ram = &receiver->sink->ram;
        uint8_t content[WIRE_PAGE_SIZE];
        uint64_t page, from, in_content = UINT64_MAX; /* page whose content it is */
        uint32_t n = 0;

        while (cursor.left > 0) {
                int r = 0;

                if (!cursor_u64le(&cursor, &page) || !cursor_u64le(&cursor, &from) || page == from ||
                        !sink_page_is_ours(receiver, page) || !sink_page_is_ours(receiver, from))
                        return invalid(WIRE_REFERENCES, "a page is out of bounds", ret_error);
                if (from != in_content)
                        r = ram_read(ram, from * WIRE_PAGE_SIZE, content, sizeof(content), ret_error);
                in_content = from;
                if (r >= 0)
                        r = ram_write(ram, page * WIRE_PAGE_SIZE, content, sizeof(content), ret_error);
                if (r < 0)
                        return r;
                n++;
        }
        atomic_fetch_add_explicit(&receiver->sink->pages_placed, n, memory_order_relaxed);
        return 0;
}

static int write_to_qemu(struct sink *sink, const uint8_t *data, size_t len, struct error **ret_error)
{
        while (len > 0) {
                ssize_t n = send(sink->qemu_fd, data, len, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EAGAIN)
                        return error_set(ret_error, ERROR_TIMED_OUT, "See the destination QEMU's log",
                                "The destination's QEMU took nothing for %d s", CHANNEL_SILENCE_MS / 1000);
                if (n < 0)
                        return error_set(ret_error, ERROR_QEMU_FAILED,
                                "See the destination QEMU's log for what it did not accept",
                                "The destination's QEMU refused the guest's state");
                data += n;
                len -= (size_t)n;
        }
        return 0;
}

int sink_feed_qemu(struct receiver *receiver, enum wire_frame type, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        struct sink *sink = receiver->sink;
        struct wire_bytes_v1 head;
        const uint8_t *raw;
        uint32_t raw_len;

        if (receiver->number != 0 || !cursor_copy(&cursor, &head, sizeof(head)))
                return invalid(type, "it belongs on channel 0", ret_error);
        if (type == WIRE_DEVICE && receiver->barriers == 0)
                return invalid(type, "it came before the barrier", ret_error);
        raw_len = le32toh(head.raw_len);
        if (sink_unpack(receiver, &cursor, head.packing, raw_len, &raw) < 0)
                return invalid(type, "it cannot be unpacked", ret_error);
        atomic_fetch_add_explicit(type == WIRE_DEVICE ? &sink->bytes_device : &sink->bytes_skeleton, raw_len,
                memory_order_relaxed);
        return write_to_qemu(sink, raw, raw_len, ret_error);
}

static int hash_total(struct receiver *receiver, wire_le64 *ret_hash, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        unsigned int number = (unsigned int)receiver->number;
        uint64_t hash;
        int r = ram_channel_hash(
                &sink->ram, sink->secret, number, sink->n_channels, receiver->stripe, &hash, ret_error);

        if (r < 0)
                return r;
        pthread_mutex_lock(&sink->lock);
        sink->channel_hashes[number] = hash;
        sink->hashed |= UINT64_C(1) << number;
        pthread_mutex_unlock(&sink->lock);
        *ret_hash = htole64(hash);
        return 0;
}

int sink_compute_hashes(
        struct receiver *receiver, uint8_t *ret_hashes, uint32_t *ret_n, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct wire_verify_v1 head;
        uint64_t n_stripes, first;
        uint32_t n, kind;

        if (!receiver->stripe)
                receiver->stripe = alloc_zero(WIRE_STRIPE_BYTES);
        if (!receiver->stripe)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for hashing");
        memcpy(&head, receiver->channel.payload, sizeof(head));
        kind = le32toh(head.kind);
        n = le32toh(head.n_stripes);
        first = le64toh(head.first);
        n_stripes = wire_channel_stripes(sink->ram.bytes, (unsigned int)receiver->number, sink->n_channels);
        if (kind == WIRE_VERIFY_TOTAL && n == 0 && first == 0) {
                wire_le64 hash;
                int r = hash_total(receiver, &hash, ret_error);

                if (r < 0)
                        return r;
                memcpy(ret_hashes, &hash, sizeof(hash));
                *ret_n = 1;
                return 0;
        }
        if (kind != WIRE_VERIFY_STRIPES || n == 0 || n > WIRE_MAX_HASHES || first > n_stripes ||
                n > n_stripes - first)
                return invalid(WIRE_VERIFY, "it asks for stripes that do not exist", ret_error);
        for (uint32_t i = 0; i < n; i++) {
                uint64_t stripe = (unsigned int)receiver->number + (first + i) * sink->n_channels;
                uint64_t hash;
                int r = ram_stripe_hash(&sink->ram, sink->secret, stripe, receiver->stripe, &hash, ret_error);

                if (r < 0)
                        return r;
                hash = htole64(hash);
                memcpy(ret_hashes + (size_t)i * sizeof(hash), &hash, sizeof(hash));
        }
        *ret_n = n;
        return 0;
}

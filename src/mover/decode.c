/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/decode.h"

#include <inttypes.h>

#include "mover/wire.h"

static void print_hello(struct cursor cursor, FILE *out)
{
        struct wire_hello_v1 h;

        if (!cursor_copy(&cursor, &h, sizeof(h)))
                return;
        fprintf(out,
                " version=%u compatible=%u features=%#x migration=%.36s vm=%.36s channel=%u/%u ram=%" PRIu64,
                le16toh(h.version), le16toh(h.compatible), le32toh(h.features), h.migration, h.vm,
                le16toh(h.channel), le16toh(h.n_channels), le64toh(h.ram_bytes));
}

static void print_hello_reply(struct cursor cursor, FILE *out)
{
        struct wire_hello_reply_v1 h;

        if (!cursor_copy(&cursor, &h, sizeof(h)))
                return;
        fprintf(out, " version=%u compatible=%u features=%#x channel=%u/%u", le16toh(h.version),
                le16toh(h.compatible), le32toh(h.features), le16toh(h.channel), le16toh(h.n_channels));
}

static const char *packing_name(unsigned int packing)
{
        static const char *const names[N_WIRE_PACKINGS] = {"plain", "lz4", "zstd"};

        return packing < N_WIRE_PACKINGS ? names[packing] : "unknown";
}

static void print_pages(struct cursor cursor, FILE *out)
{
        struct wire_pages_v1 h;

        if (!cursor_copy(&cursor, &h, sizeof(h)))
                return;
        fprintf(out, " pages=%u packing=%s raw=%u packed=%zu", le32toh(h.n_pages), packing_name(h.packing),
                le32toh(h.raw_len), cursor.left);
        /* The list is readable without unpacking only when nothing is packed. */
        for (uint32_t i = 0; h.packing == WIRE_PLAIN && i < le32toh(h.n_pages) && i < WIRE_MAX_PAGES; i++) {
                uint64_t entry;

                if (!cursor_u64le(&cursor, &entry))
                        return;
                fprintf(out, " %" PRIu64 ":%04x", entry >> 16, (unsigned int)(entry & 0xffff));
        }
}

static void print_runs(struct cursor cursor, FILE *out)
{
        uint64_t first;
        uint32_t n;

        while (cursor_u64le(&cursor, &first) && cursor_u32le(&cursor, &n))
                fprintf(out, " %" PRIu64 "+%u", first, n);
}

static void print_references(struct cursor cursor, FILE *out)
{
        uint64_t page, from;

        while (cursor_u64le(&cursor, &page) && cursor_u64le(&cursor, &from))
                fprintf(out, " %" PRIu64 "=%" PRIu64, page, from);
}

static void print_siblings(struct cursor cursor, FILE *out)
{
        struct wire_sibling_v1 sibling;

        while (cursor_copy(&cursor, &sibling, sizeof(sibling)))
                fprintf(out, " %" PRIu64, le64toh(sibling.page));
}

static void print_missing(struct cursor cursor, FILE *out)
{
        uint64_t page;

        while (cursor_u64le(&cursor, &page))
                fprintf(out, " %" PRIu64, page);
}

static void print_held(struct cursor cursor, FILE *out)
{
        struct wire_held_stripe_v1 stripe;
        uint64_t covered;

        if (cursor_u64le(&cursor, &covered))
                fprintf(out, " covered=%" PRIu64, covered);
        while (cursor_copy(&cursor, &stripe, sizeof(stripe)))
                fprintf(out, " %" PRIu64, le64toh(stripe.stripe));
}

static void print_bytes(struct cursor cursor, FILE *out)
{
        struct wire_bytes_v1 h;

        if (cursor_copy(&cursor, &h, sizeof(h)))
                fprintf(out, " packing=%s raw=%u packed=%zu", packing_name(h.packing), le32toh(h.raw_len),
                        cursor.left);
}

static void print_barrier(struct cursor cursor, FILE *out)
{
        uint32_t round;

        if (cursor_u32le(&cursor, &round))
                fprintf(out, " round=%u", round);
}

static void print_verify(struct cursor cursor, FILE *out)
{
        struct wire_verify_v1 h;
        uint64_t hash;

        if (!cursor_copy(&cursor, &h, sizeof(h)))
                return;
        fprintf(out, " kind=%u first=%" PRIu64 " stripes=%u", le32toh(h.kind), le64toh(h.first),
                le32toh(h.n_stripes));
        while (cursor_u64le(&cursor, &hash))
                fprintf(out, " %016" PRIx64, hash);
}

static void print_ack(struct cursor cursor, FILE *out)
{
        uint64_t bytes;

        if (cursor_u64le(&cursor, &bytes))
                fprintf(out, " bytes=%" PRIu64, bytes);
}

static void print_return(struct cursor cursor, FILE *out)
{
        uint64_t offset;

        if (cursor_u64le(&cursor, &offset))
                fprintf(out, " offset=%" PRIu64 " bytes=%zu", offset, cursor.left);
}

static void print_text(struct cursor *cursor, uint16_t len, FILE *out)
{
        char text[WIRE_MAX_TEXT + 1];

        if (wire_text_read(cursor, len, text))
                fprintf(out, " \"%s\"", text);
}

static void print_result(struct cursor cursor, FILE *out)
{
        struct wire_result_v1 h;

        if (!cursor_copy(&cursor, &h, sizeof(h)))
                return;
        fprintf(out, " outcome=%u resumed_ns=%" PRIu64, h.outcome, le64toh(h.resumed_realtime_ns));
        print_text(&cursor, le16toh(h.text_len), out);
}

static void print_abort(struct cursor cursor, FILE *out)
{
        struct wire_abort_v1 h;

        if (!cursor_copy(&cursor, &h, sizeof(h)))
                return;
        fprintf(out, " code=%u", le16toh(h.error_code));
        print_text(&cursor, le16toh(h.text_len), out);
}

static void print_disk_data(struct cursor cursor, FILE *out)
{
        struct wire_disk_data_v1 h;

        if (cursor_copy(&cursor, &h, sizeof(h)))
                fprintf(out, " disk=%u offset=%" PRIu64 " packing=%s raw=%u packed=%zu", le16toh(h.disk),
                        le64toh(h.offset), packing_name(h.packing), le32toh(h.raw_len), cursor.left);
}

static void print_disk_zero(struct cursor cursor, FILE *out)
{
        struct wire_disk_zero_v1 h;

        if (cursor_copy(&cursor, &h, sizeof(h)))
                fprintf(out, " disk=%u offset=%" PRIu64 " length=%u flags=%u", le16toh(h.disk),
                        le64toh(h.offset), le32toh(h.length), h.flags);
}

static void print_disk_flush(struct cursor cursor, FILE *out)
{
        struct wire_disk_flush_v1 h;

        if (cursor_copy(&cursor, &h, sizeof(h)))
                fprintf(out, " disk=%u serial=%" PRIu64, le16toh(h.disk), le64toh(h.serial));
}

static void print_disk_state(struct cursor cursor, FILE *out)
{
        struct wire_disk_state_v1 h;

        if (cursor_copy(&cursor, &h, sizeof(h)))
                fprintf(out, " disk=%u flushed=%" PRIu64 " error=%u", le16toh(h.disk), le64toh(h.flushed),
                        le16toh(h.error));
}

static void print_nothing(struct cursor cursor, FILE *out)
{
}

static void (*const printers[])(struct cursor cursor, FILE *out) = {
        [WIRE_HELLO] = print_hello,
        [WIRE_HELLO_REPLY] = print_hello_reply,
        [WIRE_PAGES] = print_pages,
        [WIRE_ZERO] = print_runs,
        [WIRE_SKELETON] = print_bytes,
        [WIRE_DEVICE] = print_bytes,
        [WIRE_BARRIER] = print_barrier,
        [WIRE_VERIFY] = print_verify,
        [WIRE_VERIFY_REPLY] = print_verify,
        [WIRE_ACK] = print_ack,
        [WIRE_COMMIT] = print_nothing,
        [WIRE_DELIVERED] = print_nothing,
        [WIRE_RESULT] = print_result,
        [WIRE_ABORT] = print_abort,
        [WIRE_KEEPALIVE] = print_nothing,
        [WIRE_REFERENCES] = print_references,
        [WIRE_HELD] = print_held,
        [WIRE_RECALL] = print_runs,
        [WIRE_SIBLINGS] = print_siblings,
        [WIRE_HANDED_OFF] = print_nothing,
        [WIRE_MISSING] = print_missing,
        [WIRE_RETURN_PATH] = print_return,
        [WIRE_POST_COPY] = print_nothing,
        [WIRE_DISK_DATA] = print_disk_data,
        [WIRE_DISK_ZERO] = print_disk_zero,
        [WIRE_DISK_FLUSH] = print_disk_flush,
        [WIRE_DISK_STATE] = print_disk_state,
};

int decode_frames(const uint8_t *data, size_t len, FILE *out, struct error **ret_error)
{
        struct cursor cursor = cursor_of(data, len);

        while (cursor.left > 0) {
                size_t offset = len - cursor.left;
                struct wire_header_v1 header;
                const uint8_t *payload;
                enum wire_frame type;
                uint32_t payload_len;
                int r;

                if (!cursor_copy(&cursor, &header, sizeof(header)))
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "The frame at byte %zu is cut off in its header", offset);
                r = wire_header_read(&header, WIRE_BOTH, &type, &payload_len, ret_error);
                if (r < 0)
                        return r;
                if (!cursor_bytes(&cursor, payload_len, &payload))
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "The %s frame at byte %zu is cut off", wire_frame_name(type), offset);
                fprintf(out, "%zu %s %u", offset, wire_frame_name(type), payload_len);
                printers[type](cursor_of(payload, payload_len), out);
                fputc('\n', out);
        }
        return 0;
}

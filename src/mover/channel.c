/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/channel.h"

#include <errno.h>

#include "base/alloc.h"
#include "base/clock.h"

int channel_init(struct channel *channel, struct tls_stream *tls, enum wire_side side)
{
        uint8_t *payload = alloc_zero(WIRE_MAX_PAYLOAD);

        if (!payload)
                return -ENOMEM;
        *channel = (struct channel){.tls = tls, .side = side, .payload = payload};
        channel->last_sent_ms = channel->last_received_ms = clock_now_ms(&clock_system);
        return 0;
}

void channel_deinit(struct channel *channel)
{
        free(TAKE_PTR(channel->payload));
        tls_stream_free(TAKE_PTR(channel->tls));
}

int channel_set_silent(struct channel *channel, uint64_t limit_ms, struct error **ret_error)
{
        channel->lost = channel->silent = true;
        return error_set(ret_error, ERROR_UNREACHABLE, "Check the migration network between the two hosts",
                "The peer said nothing for %llu s", (unsigned long long)(limit_ms / 1000));
}

static int io_failed(struct channel *channel, int r, struct error **ret_error)
{
        switch (r) {
        case -ETIMEDOUT:
                return channel_set_silent(channel, CHANNEL_SILENCE_MS, ret_error);
        case -ENODATA:
        case -ECONNRESET:
                channel->lost = true;
                return error_set(ret_error, ERROR_UNREACHABLE,
                        "Check the migration network and the mover on the other host",
                        "A data connection to the peer was lost");
        case -EKEYREJECTED:
                return error_set(ret_error, ERROR_UNAUTHENTICATED,
                        "Both movers must have been started for the same migration",
                        "The peer does not accept our certificate");
        default:
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer's TLS records are not valid");
        }
}

int channel_send(struct channel *channel, enum wire_frame type, const void *head, size_t head_len, void *body,
        size_t body_len, struct error **ret_error)
{
        uint8_t small[WIRE_HEADROOM + sizeof(struct wire_hello_v1)];
        size_t front = sizeof(struct wire_header_v1) + head_len;
        uint8_t *start = body_len > 0 ? (uint8_t *)body - front : small;
        int r;

        wire_header_write((struct wire_header_v1 *)start, type, (uint32_t)(head_len + body_len));
        if (head_len > 0)
                memcpy(start + sizeof(struct wire_header_v1), head, head_len);
        r = tls_stream_write(channel->tls, start, front + body_len);
        if (r < 0)
                return io_failed(channel, r, ret_error);
        channel->last_sent_ms = clock_now_ms(&clock_system);
        return 0;
}

int channel_receive(struct channel *channel, enum wire_frame *ret_type, struct error **ret_error)
{
        struct wire_header_v1 header;
        enum wire_frame type;
        uint32_t len;
        int r;

        r = tls_stream_read(channel->tls, &header, sizeof(header));
        if (r < 0)
                return io_failed(channel, r, ret_error);
        r = wire_header_read(&header, WIRE_BOTH & ~channel->side, &type, &len, ret_error);
        if (r < 0)
                return r;
        r = tls_stream_read(channel->tls, channel->payload, len);
        if (r < 0)
                return io_failed(channel, r, ret_error);
        channel->payload_len = len;
        channel->last_received_ms = clock_now_ms(&clock_system);
        *ret_type = type;
        return 0;
}

void channel_send_abort(struct channel *channel, enum error_code code, const char *text)
{
        uint8_t buffer[WIRE_HEADROOM + WIRE_MAX_TEXT];
        size_t len = strnlen(text, WIRE_MAX_TEXT);
        struct wire_abort_v1 head = {.error_code = htole16(code), .text_len = htole16((uint16_t)len)};

        memcpy(buffer + WIRE_HEADROOM, text, len);
        if (len > 0)
                (void)channel_send(
                        channel, WIRE_ABORT, &head, sizeof(head), buffer + WIRE_HEADROOM, len, NULL);
        else
                (void)channel_send(channel, WIRE_ABORT, &head, sizeof(head), NULL, 0, NULL);
}

struct error *channel_abort_error(const struct channel *channel)
{
        struct cursor cursor = cursor_of(channel->payload, channel->payload_len);
        char text[WIRE_MAX_TEXT + 1] = "";
        struct error *error = NULL;
        uint16_t code = 0, len = 0;

        if (cursor_u16le(&cursor, &code) && cursor_u16le(&cursor, &len) && len == cursor.left)
                (void)wire_text_read(&cursor, len, text);
        error_set(&error, code < N_ERROR_CODES ? (enum error_code)code : ERROR_INTERNAL, NULL,
                "The other host ended the migration: %s", text[0] ? text : "no reason given");
        return error;
}

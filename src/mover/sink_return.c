/* SPDX-License-Identifier: Apache-2.0 */

/* The return path of our QEMU, in a migration that may come to post-copy: channel 0's receiver reads it and sends it to the source as it is. All
 * of it is kept, up to a bound, and goes again when the channel's connection is replaced: the source knows by the offsets what it has.
 *
 * Two messages mean something here. The answer to STREAM_PING_ADVISED: QEMU has discarded all of its memory, and no page has come yet. Now every
 * page is touched, so that none is a hole: in post-copy a vCPU that came upon a hole would ask for a page that the source, which sent it
 * long ago or left it out as free, sends to nobody. What is read of a hole the kernel maps its zero page for (docs/decisions/0004). And SHUT: QEMU has all
 * of the guest's memory, so the source is needed no more. */

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "mover/sink_internal.h"
#include "vmm/stream_parser.h"

enum return_path_message { RETURN_SHUT = 1, RETURN_PONG = 2 }; /* qemu: migration/migration.h */

#define HEADER_BYTES 4

static int fill_memory(struct sink *sink, struct error **ret_error)
{
        _cleanup_free_ uint8_t *stripe = alloc_zero(WIRE_STRIPE_BYTES);
        uint64_t n_stripes = wire_ram_stripes(sink->ram.bytes);

        if (!stripe)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        for (uint64_t i = 0; i < n_stripes && !sink->stopping; i++) {
                int r = ram_read(
                        &sink->ram, i * WIRE_STRIPE_BYTES, stripe, ram_stripe_len(&sink->ram, i), ret_error);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int look_at(struct sink *sink, const uint8_t *message, size_t len, struct error **ret_error)
{
        uint16_t type;
        uint32_t value;

        if (len < HEADER_BYTES + sizeof(value))
                return 0;
        memcpy(&type, message, sizeof(type));
        memcpy(&value, message + HEADER_BYTES, sizeof(value));
        if (be16toh(type) == RETURN_PONG && be32toh(value) == STREAM_PING_ADVISED)
                return fill_memory(sink, ret_error);
        if (be16toh(type) == RETURN_SHUT && be32toh(value) == 0)
                sink->arrived = true;
        return 0;
}

/* Follows the messages in what QEMU wrote. */
static int follow(struct sink *sink, const uint8_t *data, size_t len, struct error **ret_error)
{
        struct sink_return *back = &sink->back;

        while (len > 0) {
                uint16_t body = 0;
                size_t need, take;

                if (back->n_message >= HEADER_BYTES)
                        memcpy(&body, back->message + 2, sizeof(body));
                need = HEADER_BYTES + be16toh(body);
                if (need > sizeof(back->message))
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "QEMU wrote what is no message of the return path");
                take = MIN(len, need - back->n_message);
                memcpy(back->message + back->n_message, data, take);
                back->n_message += take;
                data += take;
                len -= take;
                if (back->n_message == HEADER_BYTES)
                        memcpy(&body, back->message + 2, sizeof(body));
                if (back->n_message == (size_t)HEADER_BYTES + be16toh(body)) {
                        int r = look_at(sink, back->message, back->n_message, ret_error);

                        if (r < 0)
                                return r;
                        back->n_message = 0;
                }
        }
        return 0;
}

int sink_read_return(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct sink_return *back = &sink->back;
        uint8_t data[WIRE_MAX_RETURN];
        ssize_t n = recv(sink->qemu_fd, data, sizeof(data), MSG_DONTWAIT);
        int r;

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0) { /* its end is noticed elsewhere, with the cause */
                back->ended = true;
                return 0;
        }
        r = follow(sink, data, (size_t)n, ret_error);
        if (r < 0)
                return r;
        if (back->kept.len + (size_t)n > SINK_MAX_RETURN) {
                size_t half = back->kept.len / 2;

                buf_consume(&back->kept, half);
                back->start += half;
        }
        return buf_append(&back->kept, data, (size_t)n) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the return path")
                       : 0;
}

int sink_send_return(struct receiver *receiver, struct error **ret_error)
{
        struct sink_return *back = &receiver->sink->back;
        int r = 0;

        receiver->returned = MAX(receiver->returned, back->start);
        while (r >= 0 && receiver->returned < back->start + back->kept.len) {
                uint8_t body[WIRE_HEADROOM + WIRE_MAX_RETURN];
                struct wire_return_v1 head = {.offset = htole64(receiver->returned)};
                size_t at = (size_t)(receiver->returned - back->start);
                size_t len = MIN(back->kept.len - at, (size_t)WIRE_MAX_RETURN);

                memcpy(body + WIRE_HEADROOM, buf_string(&back->kept) + at, len);
                r = channel_send(&receiver->channel, WIRE_RETURN_PATH, &head, sizeof(head),
                        body + WIRE_HEADROOM, len, ret_error);
                receiver->returned += len;
        }
        if (r >= 0 && receiver->sink->arrived && !receiver->sink->committed && receiver->sink->post_copy) {
                receiver->sink->committed = true; /* from here on the source may go */
                (void)eventfd_write(receiver->sink->mailbox.event_fd, 1);
        }
        return r;
}

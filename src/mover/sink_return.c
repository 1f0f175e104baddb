/* SPDX-License-Identifier: Apache-2.0 */

/* The return path of our QEMU, in a migration that may come to post-copy: channel 0's receiver reads it and sends it to the source as it is. All
 * of it is kept, up to a bound, and goes again when the channel's connection is replaced: the source knows by the offsets what it has.
 *
 * Two messages mean something here. The answer to STREAM_PING_ADVISED: QEMU has discarded all of its memory, and no page has come yet. Now every
 * page is touched, so that none is a hole: in post-copy a vCPU that came upon a hole would ask for a page that the source, which sent it
 * long ago or left it out as free, sends to nobody. What is read of a hole the kernel maps its zero page for (docs/decisions/0004). And SHUT: QEMU has all
 * of the guest's memory, so the source is needed no more. */

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "mover/sink_internal.h"
#include "vmm/return_path.h"
#include "vmm/stream_parser.h"

static int fill_memory(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        _cleanup_free_ uint8_t *stripe = alloc_zero(WIRE_STRIPE_BYTES);
        uint64_t n_stripes = wire_ram_stripes(sink->ram.bytes);

        if (!stripe)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        for (uint64_t i = 0; i < n_stripes && !sink->stopping; i++) {
                int r = ram_read(
                        &sink->ram, i * WIRE_STRIPE_BYTES, stripe, ram_stripe_len(&sink->ram, i), ret_error);

                if (r >= 0)
                        r = sink_acknowledge(receiver, ret_error); /* it may take a while */
                if (r < 0)
                        return r;
        }
        return 0;
}

static int look_at(void *userdata, const struct return_path_message *message, struct error **ret_error)
{
        struct receiver *receiver = userdata;

        if (message->type == RETURN_PATH_PONG && message->value == STREAM_PING_ADVISED)
                return fill_memory(receiver, ret_error);
        if (message->type == RETURN_PATH_SHUT && message->value == 0)
                receiver->sink->arrived = true;
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
        r = return_path_feed(&back->path, data, (size_t)n, look_at, receiver, ret_error);
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

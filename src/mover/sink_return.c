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

int sink_fill_memory(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        _cleanup_free_ uint8_t *stripe = alloc_zero(WIRE_STRIPE_BYTES);
        uint64_t *n = &sink->back.n_filled, n_stripes = wire_ram_stripes(sink->ram.bytes);

        if (!stripe)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        for (; *n < n_stripes && !sink->stopping; ++*n) {
                int r = ram_read(&sink->ram, *n * WIRE_STRIPE_BYTES, stripe, ram_stripe_len(&sink->ram, *n),
                        ret_error);

                if (r >= 0)
                        r = sink_acknowledge(receiver, ret_error); /* it may take a while */
                if (r < 0)
                        return r; /* the next connection goes on with it */
        }
        sink->back.filling = false;
        return 0;
}

static int look_at(
        void *userdata, const struct return_path_message *message, struct error **ret_error _unused_)
{
        struct sink *sink = userdata;

        if (message->type == RETURN_PATH_PONG && message->value == STREAM_PING_ADVISED)
                sink->back.filling = true;
        if (message->type == RETURN_PATH_SHUT && message->value == 0)
                sink->arrived = true;
        return 0;
}

/* QEMU has closed it. Before post-copy its end is noticed elsewhere, with the cause; and so is that of one that has it all. */
static int end_return(struct sink *sink, struct error **ret_error)
{
        sink->back.ended = true;
        if (!sink->post_copy || sink->arrived)
                return 0;
        return error_set(ret_error, ERROR_QEMU_FAILED, "See the destination QEMU's log",
                "QEMU at the destination ended before it had all of the guest's memory");
}

int sink_read_return(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct sink_return *back = &sink->back;
        uint8_t data[WIRE_MAX_RETURN];
        ssize_t n;

        if (back->ended || back->filling)
                return 0;
        n = recv(sink->qemu_fd, data, sizeof(data), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return 0;
        if (n <= 0)
                return end_return(sink, ret_error);
        if (back->kept.len + (size_t)n > SINK_MAX_RETURN) {
                size_t half = back->kept.len / 2;

                buf_consume(&back->kept, half);
                back->start += half;
        }
        if (buf_append(&back->kept, data, (size_t)n) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the return path");
        return return_path_feed(&back->path, data, (size_t)n, look_at, sink, ret_error);
}

bool sink_has_return(const struct receiver *receiver)
{
        const struct sink_return *back = &receiver->sink->back;

        return receiver->returned < back->start + back->kept.len;
}

/* From here on the source may go. */
static void note_arrival(struct sink *sink)
{
        if (!sink->arrived || !sink->commit_read || !sink->post_copy || sink->committed)
                return;
        sink->committed = true;
        (void)eventfd_write(sink->mailbox.event_fd, 1);
}

int sink_send_return(struct receiver *receiver, struct error **ret_error)
{
        struct sink_return *back = &receiver->sink->back;
        uint8_t body[WIRE_HEADROOM + WIRE_MAX_RETURN];
        struct wire_return_v1 head;
        size_t at, len;
        int r;

        receiver->returned = MAX(receiver->returned, back->start);
        if (!sink_has_return(receiver))
                return 0;
        at = (size_t)(receiver->returned - back->start);
        len = MIN(back->kept.len - at, (size_t)WIRE_MAX_RETURN);
        head.offset = htole64(receiver->returned);
        memcpy(body + WIRE_HEADROOM, buf_string(&back->kept) + at, len);
        r = channel_send(&receiver->channel, WIRE_RETURN_PATH, &head, sizeof(head), body + WIRE_HEADROOM, len,
                ret_error);
        receiver->returned += len;
        if (r >= 0 && !sink_has_return(receiver))
                note_arrival(receiver->sink);
        return r;
}

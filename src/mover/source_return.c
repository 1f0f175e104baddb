/* SPDX-License-Identifier: Apache-2.0 */

/* The return path of a migration that may come to post-copy: what the destination's QEMU says goes on to ours. Sender 0 does that as it
 * reads the sink's frames, for a vCPU waits for the page that is asked for. Whole messages only, and not all of them: the answer to the
 * ping of the stream's parser is for the reader, until post-copy began the vote (SHUT) is the agent's, by the reader, and pages may be asked
 * for in post-copy alone. */

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "mover/source_internal.h"
#include "vmm/return_path.h"
#include "vmm/stream_parser.h"

/* QEMU reads its return path in a thread of its own, so the few bytes do not wait; SO_SNDTIMEO bounds it all the same. */
static int hand_on(struct source *source, const struct return_path_message *message, struct error **ret_error)
{
        for (size_t done = 0; done < message->len;) {
                ssize_t n = send(source->qemu_fd, message->bytes + done, message->len - done, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return error_set(ret_error, ERROR_QEMU_FAILED, "See the source QEMU's log",
                                "The source's QEMU takes nothing from its return path any more");
                done += (size_t)n;
        }
        return 0;
}

static int take_pong(
        struct source *source, const struct return_path_message *message, struct error **ret_error)
{
        if (message->value == STREAM_PING_ADVISED) {
                source->advised = true;
                (void)eventfd_write(source->reader_fd, 1);
                return 0;
        }
        if (source->post_copy &&
                (message->value == STREAM_PING_LOADED || message->value == STREAM_PING_LOADED_OLD))
                mailbox_post(&source->mailbox, MAIL_LOADED);
        return hand_on(source, message, ret_error);
}

static int take_shut(
        struct source *source, const struct return_path_message *message, struct error **ret_error)
{
        if (!source->post_copy)
                return 0;
        if (message->value != 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, "See the destination QEMU's log",
                        "The destination's QEMU could not take all of the guest's memory");
        source->shut = true;
        return hand_on(source, message, ret_error);
}

static int take_message(void *userdata, const struct return_path_message *message, struct error **ret_error)
{
        struct source *source = userdata;

        switch (message->type) {
        case RETURN_PATH_PONG:
                return take_pong(source, message, ret_error);
        case RETURN_PATH_SHUT:
                return take_shut(source, message, ret_error);
        case RETURN_PATH_PAGES_OF:
        case RETURN_PATH_PAGES:
                if (!source->post_copy)
                        break;
                counter_add(&source->pages_requested, (message->value + WIRE_PAGE_SIZE - 1) / WIRE_PAGE_SIZE);
                return hand_on(source, message, ret_error);
        }
        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                "The destination's QEMU asked for pages, but post-copy has not begun");
}

int source_take_return(struct sender *sender, struct error **ret_error)
{
        struct cursor cursor = cursor_of(sender->channel.payload, sender->channel.payload_len);
        struct source *source = sender->source;
        uint64_t offset = 0;
        const uint8_t *data;
        size_t known;

        if (sender->number != 0 || !source->start.post_copy || !cursor_u64le(&cursor, &offset) ||
                offset > source->returned_bytes)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The peer sent RETURN_PATH at a wrong time");
        /* Sent again after a lost connection, from the oldest that the sink keeps. */
        known = (size_t)MIN(source->returned_bytes - offset, (uint64_t)cursor.left);
        if (!cursor_bytes(&cursor, known, &data))
                return -EPROTO;
        source->returned_bytes += cursor.left;
        return return_path_feed(
                &source->return_path, cursor.at, cursor.left, take_message, source, ret_error);
}

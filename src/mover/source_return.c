/* SPDX-License-Identifier: Apache-2.0 */

/* The return path of a migration that may come to post-copy: what the destination's QEMU says goes on to ours. Sender 0 does that as it
 * reads the sink's frames, for a vCPU waits for the page that is asked for. Whole messages only, and not all of them: the answer to the
 * ping of the stream's parser is for the reader, and until post-copy began the vote (SHUT) is the agent's, by the reader. */

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "mover/source_internal.h"
#include "vmm/stream_parser.h"

enum return_path_message {
        RETURN_SHUT = 1,
        RETURN_PONG = 2,
        RETURN_PAGES_OF = 3,
        RETURN_PAGES = 4
}; /* qemu: migration/migration.h */

#define HEADER_BYTES 4
/* REQ_PAGES_ID, the longest that a destination sends without recovery: start, length, name of the block. */
#define MAX_MESSAGE_BYTES (HEADER_BYTES + 8 + 4 + 1 + 255)

static uint16_t get16(const uint8_t *data)
{
        uint16_t raw;

        memcpy(&raw, data, sizeof(raw));
        return be16toh(raw);
}

static uint32_t get32(const uint8_t *data)
{
        uint32_t raw;

        memcpy(&raw, data, sizeof(raw));
        return be32toh(raw);
}

/* QEMU reads its return path in a thread of its own; the few bytes never wait for long. */
static int hand_on(struct source *source, const uint8_t *message, size_t len, struct error **ret_error)
{
        for (size_t done = 0; done < len;) {
                ssize_t n = send(source->qemu_fd, message + done, len - done, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return error_set(ret_error, ERROR_QEMU_FAILED, "See the source QEMU's log",
                                "The source's QEMU has closed its return path");
                done += (size_t)n;
        }
        return 0;
}

static void take_pong(struct source *source, uint32_t value)
{
        if (value == STREAM_PING_ADVISED) {
                source->advised = true;
                (void)eventfd_write(source->reader_fd, 1);
        } else if (source->post_copy && (value == STREAM_PING_LOADED || value == STREAM_PING_LOADED_OLD)) {
                mailbox_post(&source->mailbox, MAIL_LOADED);
        }
}

static int take_message(struct source *source, const uint8_t *message, size_t len, struct error **ret_error)
{
        uint16_t type = get16(message);
        uint32_t value = len == HEADER_BYTES + 4 ? get32(message + HEADER_BYTES) : 0;

        if (type == RETURN_PONG) {
                take_pong(source, value);
                if (value == STREAM_PING_ADVISED)
                        return 0;
        }
        if (type == RETURN_PAGES_OF || type == RETURN_PAGES)
                counter_add(&source->pages_requested, 1);
        if (type == RETURN_SHUT && !source->post_copy)
                return 0;
        if (type == RETURN_SHUT && value != 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, "See the destination QEMU's log",
                        "The destination's QEMU could not take all of the guest's memory");
        if (type == RETURN_SHUT)
                source->shut = true;
        return hand_on(source, message, len, ret_error);
}

int source_take_return(struct sender *sender, struct error **ret_error)
{
        struct cursor cursor = cursor_of(sender->channel.payload, sender->channel.payload_len);
        struct source *source = sender->source;
        struct buf *message = &source->returned;
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
        if (cursor.left > 0 && buf_append(message, cursor.at, cursor.left) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the return path");
        while (message->len >= HEADER_BYTES) {
                const uint8_t *start = (const uint8_t *)buf_string(message);
                size_t len = HEADER_BYTES + (size_t)get16(start + 2);
                int r;

                if (len > MAX_MESSAGE_BYTES)
                        return error_set(ret_error, ERROR_PROTOCOL, NULL,
                                "The destination's QEMU sent what is no message of the return path");
                if (message->len < len)
                        break;
                r = take_message(source, start, len, ret_error);
                if (r < 0)
                        return r;
                buf_consume(message, len);
        }
        return 0;
}

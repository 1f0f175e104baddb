/* SPDX-License-Identifier: Apache-2.0 */

/* What a hostile source can send to a sink after HELLO: the input is a sequence of frames. The first byte picks
 * the channel. Guest memory is a mapping of exactly its size, so that a write beyond it is a crash. */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "mover/sink_internal.h"

#define RAM_PAGES 200 /* three stripes and a part */
#define DISK_BYTES (3 * WIRE_DISK_STRIPE_BYTES + 512)
#define RAM_BYTES (RAM_PAGES * WIRE_PAGE_SIZE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A checkpoint of what the memory is at first, which is not all zero. */
static void keep(struct sink *sink)
{
        static const uint8_t key[AEAD_KEY_SIZE] = {1};
        uint64_t size;

        sink->checkpoint_fd = memfd_create("checkpoint", MFD_CLOEXEC);
        if (ram_write(&sink->ram, 70 * WIRE_PAGE_SIZE, "x", 1, NULL) < 0 ||
                checkpoint_write(sink->checkpoint_fd, key, &sink->ram, &size, NULL) < 0 ||
                checkpoint_open(sink->checkpoint_fd, size, key, RAM_BYTES, &sink->checkpoint) < 0)
                abort();
}

static void set_up(struct sink *sink, struct receiver *receiver)
{
        int fd = memfd_create("ram", MFD_CLOEXEC);

        if (fd < 0 || ftruncate(fd, RAM_BYTES) < 0 || ram_init(&sink->ram, fd, 0, RAM_BYTES, NULL) < 0)
                abort();
        keep(sink);
        sink->qemu_fd = -1; /* whatever passes the checks is refused there */
        sink->n_channels = 2;
        sink->start.n_disks = 1;
        sink->start.disks[0].size_bytes = DISK_BYTES;
        sink->disks[0].client.fd = -1;
        sink->disks[0].error = ENOSPC; /* so that nothing is called */
        pthread_mutex_init(&sink->disks[0].lock, NULL);
        pthread_mutex_init(&sink->lock, NULL);
        receiver->sink = sink;
        receiver->raw = alloc_zero(WIRE_MAX_RAW + WIRE_HEADROOM);
        receiver->channel.payload = alloc_zero(WIRE_MAX_PAYLOAD);
        if (!receiver->raw || !receiver->channel.payload || codec_new(true, &receiver->codec) < 0)
                abort();
}

static int handle(struct receiver *receiver, enum wire_frame type)
{
        static uint8_t hashes[WIRE_MAX_HASHES * sizeof(wire_le64)];
        struct error *error = NULL;
        uint32_t n;

        switch (type) {
        case WIRE_PAGES:
                return sink_place_pages(receiver, NULL);
        case WIRE_ZERO:
                return sink_place_zero(receiver, NULL);
        case WIRE_REFERENCES:
                return sink_place_references(receiver, NULL);
        case WIRE_SIBLINGS:
                return sink_place_siblings(receiver, NULL);
        case WIRE_RECALL:
                return sink_place_recalled(receiver, NULL);
        case WIRE_DISK_DATA:
                return sink_write_disk(receiver, NULL);
        case WIRE_DISK_ZERO:
                return sink_zero_disk(receiver, NULL);
        case WIRE_DISK_FLUSH:
                return sink_flush_disk(receiver, NULL);
        case WIRE_SKELETON:
        case WIRE_DEVICE:
                receiver->barriers = 1;
                return sink_feed_qemu(receiver, type, NULL);
        case WIRE_VERIFY:
                return sink_compute_hashes(receiver, hashes, &n, NULL);
        case WIRE_ABORT:
                error = channel_abort_error(&receiver->channel);
                error_free(error);
                return 0;
        default:
                return 0;
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
        static struct sink sink;
        static struct receiver receiver;
        struct cursor cursor = cursor_of(data, len);
        uint8_t channel = 0;

        if (!receiver.sink)
                set_up(&sink, &receiver);
        if (!cursor_u8(&cursor, &channel))
                return 0;
        receiver.number = channel % 2;
        while (cursor.left > 0) {
                struct wire_header_v1 header;
                const uint8_t *payload;
                enum wire_frame type;
                uint32_t payload_len;

                if (!cursor_copy(&cursor, &header, sizeof(header)) ||
                        wire_header_read(&header, WIRE_SOURCE, &type, &payload_len, NULL) < 0 ||
                        !cursor_bytes(&cursor, payload_len, &payload))
                        return 0;
                memcpy(receiver.channel.payload, payload, payload_len);
                receiver.channel.payload_len = payload_len;
                if (handle(&receiver, type) < 0)
                        return 0;
        }
        return 0;
}

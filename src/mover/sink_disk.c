/* SPDX-License-Identifier: Apache-2.0 */

/* The guest's disks at the sink: what comes on a channel is written to the export of the destination's QEMU before the channel's
 * next frame is read. Channels share a disk's connection, and wait for each other.
 *
 * A disk that failed once has failed: what comes for it afterwards is dropped, and the source is told with DISK_STATE, which ends
 * the mirror there. The migration is the agents' to end. */

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "mover/sink_internal.h"

static int invalid(enum wire_frame type, const char *what, struct error **ret_error)
{
        return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer sent an invalid %s frame: %s",
                wire_frame_name(type), what);
}

int sink_disks_init(struct sink *sink, size_t first_fd, struct error **ret_error)
{
        for (unsigned int i = 0; i < sink->start.n_disks; i++) {
                const struct control_disk *disk = &sink->start.disks[i];
                int r = nbd_client_init(&sink->disks[i].client,
                        TAKE_FD(sink->start_message.fds[first_fd + i]), disk->export, disk->size_bytes,
                        sink->start.timeout_ms, ret_error);

                if (r < 0)
                        return r;
        }
        return 0;
}

void sink_disks_deinit(struct sink *sink)
{
        for (unsigned int i = 0; i < ARRAY_SIZE(sink->disks); i++)
                nbd_client_deinit(&sink->disks[i].client);
}

/* While QEMU keeps us waiting the source must not take us for dead. That the connection is lost is noticed by what follows. */
static bool go_on(void *userdata)
{
        struct receiver *receiver = userdata;
        _cleanup_error_ struct error *error = NULL;

        if (!receiver->channel.lost &&
                clock_now_ms(&clock_system) - receiver->channel.last_sent_ms > CHANNEL_KEEPALIVE_MS)
                (void)channel_send(&receiver->channel, WIRE_KEEPALIVE, NULL, 0, NULL, 0, &error);
        return !receiver->sink->stopping;
}

/* False: the migration is over. */
static bool lock_disk(struct receiver *receiver, struct sink_disk *disk)
{
        struct timespec deadline;
        int r;

        do {
                clock_gettime(CLOCK_REALTIME, &deadline);
                deadline.tv_sec++;
                r = pthread_mutex_timedlock(&disk->lock, &deadline);
        } while (r != 0 && go_on(receiver));
        return r == 0;
}

static int tell(struct receiver *receiver, unsigned int number, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct wire_disk_state_v1 state = {.disk = htole16((uint16_t)number)};

        pthread_mutex_lock(&sink->lock);
        state.flushed = htole64(sink->disks[number].flushed);
        state.error = htole16((uint16_t)sink->disks[number].error);
        pthread_mutex_unlock(&sink->lock);
        return channel_send(&receiver->channel, WIRE_DISK_STATE, &state, sizeof(state), NULL, 0, ret_error);
}

int sink_repeat_disks(struct receiver *receiver, struct error **ret_error)
{
        int r = 0;

        for (unsigned int i = 0; r >= 0 && i < receiver->sink->start.n_disks; i++)
                r = tell(receiver, i, ret_error);
        return r;
}

/* Has QEMU do it; its error is the disk's. */
static int call(struct receiver *receiver, unsigned int number, enum nbd_command command, uint16_t flags,
        uint64_t offset, uint32_t length, const void *data, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct sink_disk *disk = &sink->disks[number];
        int error = 0, r = 0;
        bool first;

        if (!lock_disk(receiver, disk))
                return 0;
        if (disk->error == 0)
                r = nbd_client_call(
                        &disk->client, command, flags, offset, length, data, go_on, receiver, &error);
        if (r == -ECANCELED) {
                pthread_mutex_unlock(&disk->lock);
                return 0;
        }
        if (r < 0)
                error = EIO;
        pthread_mutex_lock(&sink->lock);
        first = error > 0 && disk->error == 0;
        if (first)
                disk->error = MIN(error, (int)UINT16_MAX);
        pthread_mutex_unlock(&sink->lock);
        pthread_mutex_unlock(&disk->lock);
        if (!first)
                return 0;
        log_warning("Disk %u cannot be written: %s", number, strerror(error));
        return tell(receiver, number, ret_error);
}

/* Whether the range is one of this channel's, in one stripe. */
static bool range_is_ours(
        const struct receiver *receiver, unsigned int disk, uint64_t offset, uint32_t length)
{
        const struct sink *sink = receiver->sink;

        return disk < sink->start.n_disks && length > 0 && offset < sink->start.disks[disk].size_bytes &&
               length <= sink->start.disks[disk].size_bytes - offset &&
               offset / WIRE_DISK_STRIPE_BYTES == (offset + length - 1) / WIRE_DISK_STRIPE_BYTES &&
               wire_disk_channel(disk, offset, sink->n_channels) == (unsigned int)receiver->number;
}

int sink_write_disk(struct receiver *receiver, struct error **ret_error)
{
        struct cursor cursor = cursor_of(receiver->channel.payload, receiver->channel.payload_len);
        struct wire_disk_data_v1 head;
        unsigned int disk;
        uint32_t raw_len;
        const uint8_t *raw;

        if (!cursor_copy(&cursor, &head, sizeof(head)))
                return invalid(WIRE_DISK_DATA, "it is too short", ret_error);
        disk = le16toh(head.disk);
        raw_len = le32toh(head.raw_len);
        if (raw_len > WIRE_MAX_DISK_DATA || !range_is_ours(receiver, disk, le64toh(head.offset), raw_len))
                return invalid(WIRE_DISK_DATA, "its range is out of bounds", ret_error);
        if (sink_unpack(receiver, &cursor, head.packing, raw_len, &raw) < 0)
                return invalid(WIRE_DISK_DATA, "it cannot be unpacked", ret_error);
        atomic_fetch_add_explicit(&receiver->sink->bytes_disk, raw_len, memory_order_relaxed);
        return call(receiver, disk, NBD_WRITE, 0, le64toh(head.offset), raw_len, raw, ret_error);
}

int sink_zero_disk(struct receiver *receiver, struct error **ret_error)
{
        struct wire_disk_zero_v1 zero;
        unsigned int disk;
        uint32_t length;

        memcpy(&zero, receiver->channel.payload, sizeof(zero));
        disk = le16toh(zero.disk);
        length = le32toh(zero.length);
        if (!range_is_ours(receiver, disk, le64toh(zero.offset), length))
                return invalid(WIRE_DISK_ZERO, "its range is out of bounds", ret_error);
        return call(receiver, disk, NBD_WRITE_ZEROES,
                zero.flags & WIRE_DISK_KEEP_ALLOCATED ? NBD_COMMAND_NO_HOLE : 0, le64toh(zero.offset), length,
                NULL, ret_error);
}

/* The last of the channels has QEMU flush, for all of them. */
int sink_flush_disk(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct wire_disk_flush_v1 flush;
        struct sink_disk *disk;
        unsigned int number;
        uint64_t serial;
        bool last = true;
        int r;

        memcpy(&flush, receiver->channel.payload, sizeof(flush));
        number = le16toh(flush.disk);
        serial = le64toh(flush.serial);
        if (number >= sink->start.n_disks || serial == 0)
                return invalid(WIRE_DISK_FLUSH, "there is no such disk", ret_error);
        disk = &sink->disks[number];
        pthread_mutex_lock(&sink->lock);
        /* The same comes again where the connection was lost while it was answered. */
        if (serial < disk->reached[receiver->number]) {
                pthread_mutex_unlock(&sink->lock);
                return invalid(WIRE_DISK_FLUSH, "a newer one came before", ret_error);
        }
        disk->reached[receiver->number] = serial;
        for (unsigned int i = 0; i < sink->n_channels; i++)
                last &= disk->reached[i] >= serial;
        pthread_mutex_unlock(&sink->lock);
        if (!last)
                return 0;
        r = call(receiver, number, NBD_FLUSH, 0, 0, 0, NULL, ret_error);
        if (r < 0 || sink->stopping)
                return r;
        pthread_mutex_lock(&sink->lock);
        if (disk->error == 0)
                disk->flushed = MAX(disk->flushed, serial);
        pthread_mutex_unlock(&sink->lock);
        return tell(receiver, number, ret_error);
}

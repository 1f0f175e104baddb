/* SPDX-License-Identifier: Apache-2.0 */

/* The guest's disks at the source: QEMU mirrors each to an NBD server here (mover/nbd.h), a thread a disk, and what it writes goes
 * to the sink over the channels, among the guest's memory.
 *
 * A WRITE is answered when its bytes have been queued: the pool of batches bounds how many those are. A FLUSH is answered when the
 * sink's QEMU has flushed all that was written before. An error of the sink's QEMU is the answer to every later request, so it ends
 * the mirror, and is never the guest's.
 *
 * QEMU flushes when it has stopped the guest, and waits for that with the guest stopped and its monitor silent. So it is to have
 * little to wait for: what was written is flushed from here now and then, and where nothing was written since, nobody is asked. And
 * it has an end: source_expire_disks(). What comes behind BARRIER must not go to the sink: the guest may run there.
 *
 * Order: WIRE_DISK_STRIPE_BYTES in a row belong to one channel, which is first in, first out, also when its connection is replaced;
 * and a disk's requests are dealt with one after the other. So two writes to the same place do not overtake each other.
 *
 * The image at the destination is new and reads as zeroes: zeroes for a stripe that nothing else was written to do not go. */

#include "mover/source_disk.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "mover/classify.h"
#include "mover/nbd.h"
#include "mover/source_internal.h"

#define LOOK_S 1
/* From an answer to the next FLUSH of our own: at least so long, and so many times as long as that took, since the sink's channel does
 * nothing else meanwhile. */
#define OWN_FLUSH_MS 1000
#define OWN_FLUSH_SHARE 4
/* Zeroes among data go apart from so many on; the codec deals with fewer. A multiple of WIRE_PAGE_SIZE. */
#define ZERO_RUN_BYTES (32 * 1024)

int source_disks_init(struct source *source)
{
        for (unsigned int i = 0; i < source->start.n_disks; i++) {
                struct source_disk *disk = &source->disks[i];
                uint64_t n_stripes = wire_disk_stripes(source->start.disks[i].size_bytes);

                disk->source = source;
                disk->number = i;
                disk->size_bytes = source->start.disks[i].size_bytes;
                disk->fd = -1;
                pthread_mutex_init(&disk->lock, NULL);
                pthread_cond_init(&disk->changed, NULL);
                disk->written = alloc_array((n_stripes + 63) / 64, sizeof(*disk->written));
                if (!disk->written)
                        return -ENOMEM;
        }
        return 0;
}

void source_disks_deinit(struct source *source)
{
        for (unsigned int i = 0; i < ARRAY_SIZE(source->disks); i++) {
                struct source_disk *disk = &source->disks[i];

                if (!disk->source)
                        continue;
                fd_closep(&disk->fd);
                free(TAKE_PTR(disk->written));
                pthread_cond_destroy(&disk->changed);
                pthread_mutex_destroy(&disk->lock);
        }
}

int source_take_disk(struct source *source, struct control_message *message, struct error **ret_error)
{
        uint64_t number = 0;
        struct source_disk *disk;
        int r;

        if (source->start.n_disks == 0 || message->n_fds != 1)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent sent a disk that does not move");
        r = doc_need_u64(message->json, "message", "disk", 0, source->start.n_disks - 1, &number, ret_error);
        if (r < 0)
                return r;
        disk = &source->disks[number];
        if (disk->thread_started)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent sent a disk twice");
        disk->fd = TAKE_FD(message->fds[0]);
        r = pthread_create(&disk->thread, NULL, source_disk_main, disk);
        disk->thread_started = r == 0;
        return r == 0 ? 0 : error_from_errno(ret_error, r, "Cannot start a thread");
}

void source_stop_disks(struct source *source)
{
        for (unsigned int i = 0; i < source->start.n_disks; i++) {
                struct source_disk *disk = &source->disks[i];

                if (!disk->thread_started)
                        continue;
                (void)shutdown(disk->fd, SHUT_RDWR);
                pthread_mutex_lock(&disk->lock);
                pthread_cond_broadcast(&disk->changed);
                pthread_mutex_unlock(&disk->lock);
                pthread_join(disk->thread, NULL);
                disk->thread_started = false;
        }
}

static bool is_written(const struct source_disk *disk, uint64_t offset)
{
        uint64_t stripe = offset / WIRE_DISK_STRIPE_BYTES;

        return disk->written[stripe / 64] >> stripe % 64 & 1;
}

static void set_written(struct source_disk *disk, uint64_t offset)
{
        uint64_t stripe = offset / WIRE_DISK_STRIPE_BYTES;

        disk->written[stripe / 64] |= UINT64_C(1) << stripe % 64;
}

static struct batch *new_batch(
        struct source_disk *disk, enum batch_kind kind, uint64_t offset, uint64_t length)
{
        struct batch *batch = batch_pool_get_unless(&disk->source->pool, &disk->expired);

        if (batch) {
                batch->kind = kind;
                batch->disk = disk->number;
                batch->offset = offset;
                batch->length = length;
        }
        return batch;
}

/* new_batch() gave none. */
static int no_batch(const struct source_disk *disk)
{
        return disk->expired ? ETIMEDOUT : -ECANCELED;
}

/* Hands the batch over, unless it is too late: ESHUTDOWN. */
static int push(struct source_disk *disk, unsigned int channel, struct batch *batch)
{
        bool closed;

        pthread_mutex_lock(&disk->lock);
        closed = disk->closed;
        if (!closed)
                batch_queue_push(&disk->source->senders[channel].queue, batch);
        pthread_mutex_unlock(&disk->lock);
        if (closed)
                batch_pool_return(&disk->source->pool, batch);
        return closed ? ESHUTDOWN : 0;
}

/* The same for what changes the disk: it is of no use any more without that. */
static int push_change(struct source_disk *disk, struct batch *batch)
{
        int r = push(disk, wire_disk_channel(disk->number, batch->offset, disk->source->n_channels), batch);

        pthread_mutex_lock(&disk->lock);
        if (r > 0 && disk->error == 0)
                disk->error = r;
        pthread_mutex_unlock(&disk->lock);
        disk->unflushed = true;
        return r;
}

/* What is left of the range from `offset` on within its stripe, but at most `max`. */
static uint64_t piece_len(uint64_t offset, uint64_t end, uint64_t max)
{
        uint64_t stripe_end = (offset / WIRE_DISK_STRIPE_BYTES + 1) * WIRE_DISK_STRIPE_BYTES;

        return MIN(MIN(end, stripe_end) - offset, max);
}

static bool all_zero(const uint8_t *data, size_t len)
{
        return len == 0 || (data[0] == 0 && memcmp(data, data + 1, len - 1) == 0);
}

static int discard(struct source_disk *disk, uint64_t left)
{
        uint8_t data[4096];
        int r = 0;

        for (; r >= 0 && left > 0; left -= MIN(left, sizeof(data)))
                r = nbd_read(disk->fd, data, MIN(left, sizeof(data)));
        return r;
}

/* Of all that take a request: 0, or errno for its answer. -ECANCELED: the migration is over. */
static int take_write(struct source_disk *disk, const struct nbd_request *request)
{
        uint64_t end = request->offset + request->length;

        for (uint64_t offset = request->offset, len; offset < end; offset += len) {
                struct batch *batch;
                int r, error;

                len = piece_len(offset, end, BATCH_DATA_BYTES);
                batch = new_batch(disk, BATCH_DISK_DATA, offset, len);
                if (!batch) {
                        error = no_batch(disk);
                        r = error > 0 ? discard(disk, end - offset) : error;
                        return r < 0 ? r : error;
                }
                r = nbd_read(disk->fd, batch->data, len);
                counter_add(&disk->bytes, len);
                if (r < 0 || (!is_written(disk, offset) && all_zero(batch->data, len))) {
                        counter_add(&disk->bytes_zero, len);
                        batch_pool_return(&disk->source->pool, batch);
                        if (r < 0)
                                return r;
                        continue;
                }
                set_written(disk, offset);
                batch->n_bytes = len;
                error = push_change(disk, batch);
                if (error > 0) {
                        r = discard(disk, end - offset - len);
                        return r < 0 ? r : error;
                }
        }
        return 0;
}

static int take_zeroes(struct source_disk *disk, const struct nbd_request *request)
{
        uint64_t end = request->offset + request->length;

        counter_add(&disk->bytes, request->length);
        counter_add(&disk->bytes_zero, request->length);
        for (uint64_t offset = request->offset, len; offset < end; offset += len) {
                struct batch *batch;
                int r;

                len = piece_len(offset, end, WIRE_DISK_STRIPE_BYTES);
                if (!is_written(disk, offset))
                        continue;
                batch = new_batch(disk, BATCH_DISK_ZERO, offset, len);
                if (!batch)
                        return no_batch(disk);
                batch->keep_allocated =
                        request->command == NBD_WRITE_ZEROES && request->flags & NBD_COMMAND_NO_HOLE;
                r = push_change(disk, batch);
                if (r > 0)
                        return r;
        }
        return 0;
}

/* FLUSH on every channel. */
static int begin_flush(struct source_disk *disk)
{
        struct source *source = disk->source;
        uint64_t serial = ++disk->serial;

        pthread_mutex_lock(&disk->lock);
        disk->asked_ms = clock_now_ms(&clock_system);
        pthread_mutex_unlock(&disk->lock);
        for (unsigned int i = 0; i < source->n_channels; i++) {
                struct batch *batch = new_batch(disk, BATCH_DISK_FLUSH, serial, 0);
                int r = batch ? push(disk, i, batch) : no_batch(disk);

                if (r != 0)
                        return r;
        }
        disk->unflushed = false;
        return 0;
}

/* Waits for the sink's word on all that was written. */
static int take_flush(struct source_disk *disk)
{
        struct source *source = disk->source;
        int r = disk->unflushed ? begin_flush(disk) : 0;
        uint64_t serial = disk->serial;

        if (r != 0)
                return r;
        pthread_mutex_lock(&disk->lock);
        while (disk->flushed < serial && disk->error == 0 && !source->stopping &&
                !mailbox_has(&source->mailbox, MAIL_FAILED)) {
                struct timespec deadline;

                clock_gettime(CLOCK_REALTIME, &deadline);
                deadline.tv_sec += LOOK_S;
                (void)pthread_cond_timedwait(&disk->changed, &disk->lock, &deadline);
        }
        if (disk->flushed < serial)
                r = disk->error > 0 ? disk->error : -ECANCELED;
        pthread_mutex_unlock(&disk->lock);
        return r;
}

/* When the next flush of our own is due, from now: 0 also where an answer is still to come, which *ret_asked tells. */
static uint64_t until_flush_ms(struct source_disk *disk, bool *ret_asked)
{
        uint64_t now_ms = clock_now_ms(&clock_system), due_ms;

        pthread_mutex_lock(&disk->lock);
        due_ms = disk->answered_ms + MAX((uint64_t)OWN_FLUSH_MS, OWN_FLUSH_SHARE * disk->took_ms);
        *ret_asked = disk->flushed < disk->serial;
        pthread_mutex_unlock(&disk->lock);
        return due_ms > now_ms ? due_ms - now_ms : 0;
}

/* Returns when QEMU has something to say. Negative: it ends here. */
static int await_request(struct source_disk *disk)
{
        struct pollfd pfd = {.fd = disk->fd, .events = POLLIN};
        bool asked;

        for (;;) {
                uint64_t wait_ms = until_flush_ms(disk, &asked);
                int r = 0;

                if (disk->unflushed && !disk->quiet && !asked && wait_ms == 0)
                        r = begin_flush(disk);
                if (r == -ECANCELED)
                        return r;
                disk->quiet |= r > 0;
                if (asked || disk->quiet || !disk->unflushed)
                        wait_ms = LOOK_S * 1000;
                if (poll(&pfd, 1, (int)MIN(wait_ms, (uint64_t)LOOK_S * 1000)) != 0)
                        return 0;
        }
}

static int disk_error(struct source_disk *disk)
{
        int error;

        pthread_mutex_lock(&disk->lock);
        error = disk->error;
        pthread_mutex_unlock(&disk->lock);
        return error;
}

/* Negative: it ends here. */
static int serve(struct source_disk *disk, const struct nbd_request *request)
{
        bool ranged = request->command == NBD_WRITE || request->command == NBD_WRITE_ZEROES ||
                      request->command == NBD_TRIM;
        int error = disk_error(disk), r;

        if (error == 0 && ranged &&
                (request->offset > disk->size_bytes || request->length > disk->size_bytes - request->offset))
                error = request->command == NBD_WRITE ? ENOSPC : EINVAL;
        if (error == 0 && !ranged && request->command != NBD_FLUSH)
                error = request->command == NBD_READ ? EPERM : EINVAL;
        if (error > 0)
                r = discard(disk, request->command == NBD_WRITE ? request->length : 0);
        else if (request->command == NBD_WRITE)
                r = take_write(disk, request);
        else if (request->command == NBD_FLUSH)
                r = take_flush(disk);
        else
                r = take_zeroes(disk, request);
        if (r > 0)
                error = r;
        else if (r == 0 && error == 0 && request->command == NBD_FLUSH)
                error = disk_error(disk);
        return r < 0 ? r : nbd_server_reply(disk->fd, request, error);
}

void source_close_disks(struct source *source)
{
        for (unsigned int i = 0; i < source->start.n_disks; i++) {
                pthread_mutex_lock(&source->disks[i].lock);
                source->disks[i].closed = true;
                pthread_mutex_unlock(&source->disks[i].lock);
        }
}

void source_expire_disks(struct source *source)
{
        for (unsigned int i = 0; i < source->start.n_disks; i++) {
                struct source_disk *disk = &source->disks[i];

                disk->expired = true;
                pthread_mutex_lock(&disk->lock);
                if (disk->error == 0)
                        disk->error = ETIMEDOUT;
                pthread_cond_broadcast(&disk->changed);
                pthread_mutex_unlock(&disk->lock);
        }
        batch_pool_wake(&source->pool);
}

void source_disks_count(struct source *source, uint64_t *ret_bytes, uint64_t *ret_zero)
{
        *ret_bytes = *ret_zero = 0;
        for (unsigned int i = 0; i < source->start.n_disks; i++) {
                *ret_bytes += counter_get(&source->disks[i].bytes);
                *ret_zero += counter_get(&source->disks[i].bytes_zero);
        }
}

void *source_disk_main(void *userdata)
{
        struct source_disk *disk = userdata;
        int r = nbd_server_greet(disk->fd, disk->size_bytes);

        while (r >= 0) {
                struct nbd_request request;

                r = await_request(disk);
                if (r >= 0)
                        r = nbd_server_receive(disk->fd, &request);
                if (r >= 0 && request.command == NBD_DISCONNECT)
                        break;
                if (r >= 0)
                        r = serve(disk, &request);
        }
        if (r == -EPROTO)
                log_warning("Disk %u: QEMU's mirror is not understood", disk->number);
        (void)shutdown(disk->fd, SHUT_RDWR); /* main has the descriptor */
        return NULL;
}

int source_take_disk_state(struct sender *sender, struct error **ret_error)
{
        struct wire_disk_state_v1 state;
        struct source *source = sender->source;
        struct source_disk *disk;
        unsigned int number, error;

        memcpy(&state, sender->channel.payload, sizeof(state));
        number = le16toh(state.disk);
        error = le16toh(state.error);
        if (number >= source->start.n_disks)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The peer speaks of a disk that does not exist");
        disk = &source->disks[number];
        pthread_mutex_lock(&disk->lock);
        if (le64toh(state.flushed) > disk->flushed) {
                disk->flushed = le64toh(state.flushed);
                disk->answered_ms = clock_now_ms(&clock_system);
                disk->took_ms = disk->answered_ms - disk->asked_ms;
        }
        if (error > 0 && disk->error == 0)
                disk->error = (int)error;
        pthread_cond_broadcast(&disk->changed);
        pthread_mutex_unlock(&disk->lock);
        return 0;
}

/* From `from` on: how many bytes are alike, all part of a run of zeroes that is worth a frame of its own or none. */
static size_t segment_len(const uint8_t *data, size_t len, bool *ret_zero)
{
        size_t n = 0;

        *ret_zero = false;
        while (n < len) {
                size_t zeroes = 0;

                while (n + zeroes < len &&
                        all_zero(data + n + zeroes, MIN(len - n - zeroes, (size_t)WIRE_PAGE_SIZE)))
                        zeroes += MIN(len - n - zeroes, (size_t)WIRE_PAGE_SIZE);
                if (zeroes >= ZERO_RUN_BYTES || (zeroes == len && n == 0)) {
                        *ret_zero = n == 0;
                        return n > 0 ? n : zeroes;
                }
                n += zeroes > 0 ? zeroes : MIN(len - n, (size_t)WIRE_PAGE_SIZE);
        }
        return n;
}

static int send_zeroes(struct sender *sender, unsigned int disk, uint64_t offset, uint64_t len,
        bool keep_allocated, struct error **ret_error)
{
        struct wire_disk_zero_v1 zero = {.offset = htole64(offset),
                .length = htole32((uint32_t)len),
                .disk = htole16((uint16_t)disk),
                .flags = keep_allocated ? WIRE_DISK_KEEP_ALLOCATED : 0};

        counter_add(&sender->counters.bytes_disk_wire, sizeof(zero));
        return sender_send_kept(sender, WIRE_DISK_ZERO, &zero, sizeof(zero), NULL, 0, ret_error);
}

static int send_data(struct sender *sender, unsigned int disk, uint64_t offset, uint8_t *data, size_t len,
        struct error **ret_error)
{
        struct wire_disk_data_v1 head = {.offset = htole64(offset),
                .raw_len = htole32((uint32_t)len),
                .disk = htole16((uint16_t)disk)};
        bool packable = len >= 256 && classify_compressible(data, len & ~(size_t)255);
        size_t packed_len;
        void *body = sender_pack_bytes(sender, packable, data, len, &packed_len, &head.packing);

        counter_add(&sender->counters.bytes_disk_wire, sizeof(head) + packed_len);
        return sender_send_kept(sender, WIRE_DISK_DATA, &head, sizeof(head), body, packed_len, ret_error);
}

int source_send_disk(struct sender *sender, struct batch *batch, struct error **ret_error)
{
        struct wire_disk_flush_v1 flush = {
                .serial = htole64(batch->offset), .disk = htole16((uint16_t)batch->disk)};
        int r = sender_await_room(sender, ret_error);

        if (r < 0)
                return r;
        if (batch->kind == BATCH_DISK_FLUSH) {
                batch->sent = true;
                return sender_send_kept(sender, WIRE_DISK_FLUSH, &flush, sizeof(flush), NULL, 0, ret_error);
        }
        if (batch->kind == BATCH_DISK_ZERO) {
                batch->sent = true;
                return send_zeroes(
                        sender, batch->disk, batch->offset, batch->length, batch->keep_allocated, ret_error);
        }
        /* Of a connection that is lost in here, all goes again: the same, to the same place. */
        for (size_t at = 0, len; r >= 0 && at < batch->n_bytes; at += len) {
                bool zero;

                len = segment_len(batch->data + at, batch->n_bytes - at, &zero);
                batch->sent = at + len == batch->n_bytes;
                r = zero ? send_zeroes(sender, batch->disk, batch->offset + at, len, false, ret_error)
                         : send_data(
                                   sender, batch->disk, batch->offset + at, batch->data + at, len, ret_error);
        }
        return r;
}

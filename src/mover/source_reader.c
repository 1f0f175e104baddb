/* SPDX-License-Identifier: Apache-2.0 */

/* The reader: takes QEMU's stream apart and deals the pages out to the senders; speaks the return path. It
 * is the only one that reads and writes QEMU's socket. Nothing here waits for the agent: QEMU holds its big lock while it
 * writes the last phase, and whoever waits for QMP then without reading the stream waits for ever. */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "mover/source_internal.h"
#include "vmm/return_path.h"
#include "vmm/stream_parser.h"

#define READ_BYTES (1024 * 1024)
/* Partial batches wait this long for more of the stream. */
#define IDLE_FLUSH_MS 5
/* Silence that counts as the end of a stream without a closing description. */
#define SILENT_END_MS 400
/* In post-copy, what is read at a time: see POST_COPY_QUEUE_BYTES. */
#define POST_COPY_READ_BYTES (64 * 1024)
/* For the destination's QEMU to discard its memory and the sink to fill it, which goes at several GiB a second. */
#define ADVISE_LIMIT_MS(ram_bytes) (60000 + ((ram_bytes) >> 20))
#define ADVISE_LOOK_MS 500

/* So near to the end of the first pass no more is to be under way than what keeps the wire busy: once the guest is stopped it would be
 * part of the pause. */
#define TAIL_BYTES (UINT64_C(64) << 20)
#define TAIL_PART 16
#define TAIL_QUEUE_BYTES (2 * BATCH_DATA_BYTES)

struct reader {
        struct source *source;
        struct stream_parser *parser;
        struct batch *partial[WIRE_MAX_CHANNELS]; /* pages */
        struct batch *bytes;                      /* skeleton or device state, for channel 0 */
        uint64_t last_page, tail_page; /* in the first pass: taken in last; where its tail begins */
        bool voted;
        uint64_t last_read_ms;
        bool something_partial;
        uint8_t *buffer;
};

static void push(struct reader *reader, unsigned int channel, struct batch *batch)
{
        batch_queue_push(&reader->source->senders[channel].queue, batch);
}

static void push_if_full(struct reader *reader, unsigned int channel)
{
        struct batch *batch = reader->partial[channel];

        if (batch->n_entries < BATCH_MAX_ENTRIES && batch->n_bytes < reader->source->frame_bytes)
                return;
        push(reader, channel, TAKE_PTR(reader->partial[channel]));
}

static void flush_bytes(struct reader *reader)
{
        if (reader->bytes)
                push(reader, 0, TAKE_PTR(reader->bytes));
}

static void flush_partial(struct reader *reader)
{
        for (unsigned int i = 0; i < reader->source->n_channels; i++)
                if (reader->partial[i])
                        push(reader, i, TAKE_PTR(reader->partial[i]));
        flush_bytes(reader);
        reader->something_partial = false;
}

/* Before a page is taken in. */
static void follow_first_pass(struct reader *reader, uint64_t page)
{
        struct source *source = reader->source;
        bool goes_on = page >= reader->last_page;

        reader->last_page = page;
        if (source->pass_part == FIRST_PASS && page >= reader->tail_page) {
                source->pass_part = FIRST_PASS_TAIL;
                flush_partial(reader);
                batch_pool_set_limit(&source->pool, TAIL_QUEUE_BYTES); /* until main sets another */
        }
        if (!goes_on)
                source->pass_part = LATER_PASS;
}

static int batch_for_pages(
        struct reader *reader, uint64_t page, unsigned int channel, struct batch **ret_batch)
{
        struct batch *batch;

        if (reader->source->pass_part != LATER_PASS)
                follow_first_pass(reader, page);
        batch = reader->partial[channel];
        if (!batch) {
                batch = batch_pool_get(&reader->source->pool);
                if (!batch)
                        return -ECANCELED;
                batch->kind = BATCH_PAGES;
                reader->partial[channel] = batch;
                reader->something_partial = true;
        }
        *ret_batch = batch;
        return 0;
}

static int on_page(void *userdata, uint64_t page, const uint8_t *data)
{
        struct reader *reader = userdata;
        unsigned int channel = wire_page_channel(page, reader->source->n_channels);
        struct batch *batch;
        int r = batch_for_pages(reader, page, channel, &batch);

        if (r < 0)
                return r;
        batch->entries[batch->n_entries++] = page;
        memcpy(batch->data + batch->n_bytes, data, WIRE_PAGE_SIZE);
        batch->n_bytes += WIRE_PAGE_SIZE;
        counter_add(&reader->source->bytes_ram, WIRE_PAGE_SIZE);
        push_if_full(reader, channel);
        return 0;
}

static int on_zero_page(void *userdata, uint64_t page)
{
        struct reader *reader = userdata;
        unsigned int channel = wire_page_channel(page, reader->source->n_channels);
        struct batch *batch;
        int r = batch_for_pages(reader, page, channel, &batch);

        if (r < 0)
                return r;
        batch->entries[batch->n_entries++] = page | BATCH_ZERO;
        counter_add(&reader->source->bytes_zero, WIRE_PAGE_SIZE);
        push_if_full(reader, channel);
        return 0;
}

static int on_skeleton(void *userdata, const uint8_t *data, size_t len)
{
        struct reader *reader = userdata;
        enum batch_kind kind =
                stream_parser_mode(reader->parser) == STREAM_OPAQUE ? BATCH_DEVICE : BATCH_SKELETON;

        if (kind == BATCH_DEVICE)
                counter_add(&reader->source->bytes_device, len);
        if (reader->source->post_copy)
                counter_add(&reader->source->bytes_post_copy, len);
        while (len > 0) {
                size_t n;

                if (!reader->bytes) {
                        reader->bytes = batch_pool_get(&reader->source->pool);
                        if (!reader->bytes)
                                return -ECANCELED;
                        reader->bytes->kind = kind;
                        reader->something_partial = true;
                }
                n = MIN(len, BATCH_DATA_BYTES - reader->bytes->n_bytes);
                memcpy(reader->bytes->data + reader->bytes->n_bytes, data, n);
                reader->bytes->n_bytes += n;
                data += n;
                len -= n;
                if (reader->bytes->n_bytes == BATCH_DATA_BYTES)
                        flush_bytes(reader);
        }
        return 0;
}

/* QEMU writes to and reads from the same socket; these few bytes always fit into its buffer. */
static int return_path_send(struct reader *reader, enum return_path_type type, uint32_t value)
{
        uint8_t message[RETURN_PATH_VALUE_BYTES];

        return_path_put(type, value, message);
        if (send(reader->source->qemu_fd, message, sizeof(message), MSG_NOSIGNAL) != sizeof(message))
                return -EPIPE;
        return 0;
}

static int on_ping(void *userdata, uint32_t value)
{
        return return_path_send(userdata, RETURN_PATH_PONG, value);
}

/* Puts a batch without data into every queue. */
static int push_everywhere(struct reader *reader, enum batch_kind kind)
{
        for (unsigned int i = 0; i < reader->source->n_channels; i++) {
                struct batch *batch = batch_pool_get(&reader->source->pool);

                if (!batch)
                        return -ECANCELED;
                batch->kind = kind;
                push(reader, i, batch);
        }
        return 0;
}

/* The destination's QEMU discards all of its memory now. What it answers comes by source_return.c. */
static int on_advised(void *userdata)
{
        struct reader *reader = userdata;
        struct source *source = reader->source;
        struct pollfd pfd = {.fd = source->reader_fd, .events = POLLIN};
        uint64_t started_ms = clock_now_ms(&clock_system);
        eventfd_t ignored;

        flush_partial(reader);
        while (!source->advised && !source->stopping) {
                if (clock_now_ms(&clock_system) - started_ms > ADVISE_LIMIT_MS(source->ram.bytes)) {
                        struct error *error = NULL;

                        error_set(&error, ERROR_TIMED_OUT, "See the destination QEMU's log",
                                "The destination's QEMU did not get ready for post-copy in time");
                        source_fail(source, error, false);
                        return -ETIMEDOUT;
                }
                (void)poll(&pfd, 1, ADVISE_LOOK_MS);
                (void)eventfd_read(source->reader_fd, &ignored);
        }
        return source->stopping ? -ECANCELED : 0;
}

/* Every page before is placed, then the sink's QEMU is told which of them are out of date. From there on the stream goes through in small
 * steps. */
static int begin_post_copy(struct reader *reader)
{
        struct source *source = reader->source;
        struct batch *mark;
        int r;

        source_close_disks(source);
        r = push_everywhere(reader, BATCH_BARRIER);

        if (r < 0)
                return r;
        mark = batch_pool_get(&source->pool);
        if (!mark)
                return -ECANCELED;
        mark->kind = BATCH_POST_COPY;
        source->post_copy = true;
        push(reader, 0, mark);
        batch_pool_set_limit(&source->pool, POST_COPY_QUEUE_BYTES);
        mailbox_post(&source->mailbox, MAIL_POST_COPY);
        return 0;
}

/* BARRIER comes while the guest still runs, and nothing of a disk can follow it. */
static int refuse_tunnel(struct source *source, const char *reason)
{
        struct error *error = NULL;

        error_set(&error, ERROR_NOT_SUPPORTED, "Move the disks to a datastore that both hosts have",
                "Disks cannot move along, for the migration's stream is not understood: %s", reason);
        source_fail(source, error, false);
        return -ECANCELED;
}

static int on_mode_changed(void *userdata, enum stream_mode mode, const char *reason)
{
        struct reader *reader = userdata;
        struct source *source = reader->source;
        int r = 0;

        source->pass_part = LATER_PASS;
        flush_partial(reader);
        if (mode == STREAM_TUNNEL) {
                log_notice("The migration stream goes through the tunnel: %s", reason);
                if (source->start.n_disks > 0)
                        return refuse_tunnel(source, reason);
                r = push_everywhere(reader, BATCH_BARRIER);
                if (r >= 0)
                        mailbox_post(&source->mailbox, MAIL_TUNNEL);
                return r;
        }
        if (mode == STREAM_POST_COPY)
                return begin_post_copy(reader);
        source->device_state = true;
        if (source->start.verify) {
                source->verify_started_ns = clock_monotonic_ns();
                r = push_everywhere(reader, BATCH_VERIFY);
        }
        source_close_disks(source);
        if (r >= 0)
                r = push_everywhere(reader, BATCH_BARRIER);
        /* With verification, the last sender to succeed says this. */
        if (r >= 0 && !source->start.verify)
                mailbox_post(&source->mailbox, MAIL_DEVICE_STATE);
        return r;
}

static int on_read_page(void *userdata, uint64_t page, uint8_t *ret_data)
{
        struct reader *reader = userdata;

        return ram_read(&reader->source->ram, page * WIRE_PAGE_SIZE, ret_data, WIRE_PAGE_SIZE, NULL);
}

static const struct stream_parser_ops ops = {
        .page = on_page,
        .zero_page = on_zero_page,
        .skeleton = on_skeleton,
        .advised = on_advised,
        .ping = on_ping,
        .mode_changed = on_mode_changed,
        .read_page = on_read_page,
};

/* Nothing is left to read: votes, if that is allowed and QEMU has nothing left to write either. A machine
 * that does not close its stream with a description only shows that by its silence. */
static int vote_if_due(struct reader *reader)
{
        uint64_t now_ms = clock_now_ms(&clock_system);

        if (reader->voted || !reader->source->handed_off)
                return 0;
        /* In post-copy the destination's QEMU votes; before its device state nothing of a stream is whole. */
        if (stream_parser_mode(reader->parser) == STREAM_RECORDS ||
                stream_parser_mode(reader->parser) == STREAM_POST_COPY)
                return 0;
        if (!stream_parser_complete(reader->parser) && now_ms - reader->last_read_ms < SILENT_END_MS)
                return 0;
        reader->voted = true;
        return return_path_send(reader, RETURN_PATH_SHUT, 0);
}

/* Waits for QEMU or main. */
static int wait_for_stream(struct reader *reader)
{
        struct pollfd pfds[] = {{.fd = reader->source->qemu_fd, .events = POLLIN},
                {.fd = reader->source->reader_fd, .events = POLLIN}};
        eventfd_t ignored;
        bool must_vote;
        int n, r;

        /* All that is there was read, and the handoff may have been recorded meanwhile. */
        r = vote_if_due(reader);
        if (r < 0)
                return r;
        must_vote = reader->source->handed_off && !reader->voted && !reader->source->post_copy;
        n = poll(pfds, ARRAY_SIZE(pfds),
                reader->something_partial ? IDLE_FLUSH_MS
                : must_vote               ? SILENT_END_MS / 4
                                          : -1);
        if (n == 0)
                flush_partial(reader);
        if (pfds[1].revents)
                (void)eventfd_read(reader->source->reader_fd, &ignored);
        return 0;
}

static int stream_ended(struct reader *reader, struct error **ret_error)
{
        if (reader->source->post_copy && !reader->source->shut)
                return error_set(ret_error, ERROR_QEMU_FAILED, "See the source QEMU's log for the cause",
                        "QEMU at the source ended before all of the guest's memory was sent");
        if (!reader->voted && !reader->source->post_copy)
                return error_set(ret_error, ERROR_QEMU_FAILED,
                        "The guest runs on at the source; see QEMU's log for the cause",
                        "QEMU ended its migration stream before it was complete");
        flush_partial(reader);
        mailbox_post(&reader->source->mailbox, MAIL_STREAM_END);
        return 0;
}

static int read_stream(struct reader *reader, struct error **ret_error)
{
        struct source *source = reader->source;

        while (!source->stopping) {
                size_t room = source->post_copy ? POST_COPY_READ_BYTES : READ_BYTES;
                ssize_t n = recv(source->qemu_fd, reader->buffer, room, MSG_DONTWAIT);
                int r;

                if (n > 0) {
                        r = stream_parser_feed(reader->parser, reader->buffer, (size_t)n, ret_error);
                        reader->last_read_ms =
                                clock_now_ms(&clock_system); /* feeding may have waited for room */
                        /* The guest stands still: nothing may wait for company any more. */
                        if (r >= 0 && (source->post_copy ||
                                              ((size_t)n < READ_BYTES &&
                                                      stream_parser_mode(reader->parser) == STREAM_OPAQUE)))
                                flush_partial(reader);
                } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
                        return stream_ended(reader, ret_error);
                } else {
                        r = wait_for_stream(reader);
                }
                if (r < 0)
                        return r;
        }
        return -ECANCELED;
}

void *source_reader_main(void *userdata)
{
        struct source *source = userdata;
        struct stream_parser_config config = {.direct_block = source->start.block,
                .direct_bytes = source->start.ram_bytes,
                .tunnel = source->start.tunnel,
                .post_copy = source->start.post_copy};
        struct reader reader = {.source = source};
        _cleanup_free_ uint8_t *buffer = alloc_zero(READ_BYTES);
        _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
        _cleanup_error_ struct error *error = NULL;
        int r = buffer ? 0 : -ENOMEM;

        if (r >= 0)
                r = stream_parser_new(&config, &ops, &reader, &parser, &error);
        reader.tail_page = ram_pages(&source->ram);
        reader.tail_page -= MIN(reader.tail_page / TAIL_PART, TAIL_BYTES / WIRE_PAGE_SIZE);
        reader.buffer = buffer;
        reader.parser = parser;
        if (r >= 0 && config.tunnel)
                r = on_mode_changed(&reader, STREAM_TUNNEL, "the agent asked for it");
        if (r >= 0)
                r = read_stream(&reader, &error);
        if (r < 0)
                source_fail(source, TAKE_PTR(error), false);
        return NULL;
}

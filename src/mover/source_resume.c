/* SPDX-License-Identifier: Apache-2.0 */

/* When a sender's connection is lost: the agent makes another one, the sink says how far it got, and what it did not get goes
 * again. Pages are read from the guest for that: it has what was sent or something newer, and whatever is newer QEMU
 * sends again anyway, later in the same queue. So of pages only the numbers are remembered (sent_log.h). They go whole:
 * what the sink has of them is older than what the page index says. */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "mover/source_internal.h"

/* How long another connection is waited for. A stopped guest waits, too. The sink (sink.c) waits longer. */
#define RESUME_MS 30000
#define RESUME_PAUSED_MS 3000
#define LOOK_MS 500
#define PAUSE_MS 250 /* after a connection that failed at once */
#define MAX_FUTILE 5

/* The guest may be stopped meanwhile. */
static uint64_t time_left(const struct sender *sender, uint64_t lost_ms)
{
        uint64_t limit_ms = sender->source->device_state ? RESUME_PAUSED_MS : RESUME_MS;
        uint64_t spent_ms = clock_now_ms(&clock_system) - lost_ms;

        return spent_ms < limit_ms ? limit_ms - spent_ms : 0;
}

bool sender_can_resume(const struct sender *sender)
{
        return sender->resumable && sender->channel.lost && !sender->source->committed &&
               !sender->source->stopping;
}

void sender_deinit_resume(struct sender *sender)
{
        struct sent_frame *frame, *spare;
        int fd = atomic_exchange(&sender->offered_fd, -1);

        fd_closep(&fd);
        sent_log_deinit(&sender->log);
        buf_deinit(&sender->lost);
        list_for_each_safe (frame, spare, &sender->again, order)
                free(frame);
        list_init(&sender->again);
}

static int lose_runs(struct sender *sender, const void *runs, size_t n)
{
        return buf_append(&sender->lost, runs, n * sizeof(struct wire_run_v1));
}

static int lose_page(struct sender *sender, uint64_t page)
{
        struct wire_run_v1 run = {.first_page = htole64(page), .n_pages = htole32(1)};

        return lose_runs(sender, &run, 1);
}

static int lose_stage(struct sender *sender, struct stage *stage)
{
        int r = 0;

        for (unsigned int i = 0; r >= 0 && i < stage->n_entries; i++)
                r = lose_page(sender, le64toh(stage->entries[i]) >> 16);
        stage->n_entries = 0;
        stage->n_bytes = 0;
        return r;
}

/* What was to be sent next is, for the page index, at the sink already. (One page is missed when verification fails while it
 * adds it: it begins anew, and its hashes find the page.) */
static int lose_what_was_staged(struct sender *sender, struct batch *batch)
{
        int r = lose_stage(sender, sender->packable);

        if (r >= 0)
                r = lose_stage(sender, sender->plain);
        if (r >= 0)
                r = lose_runs(sender, sender->zero.runs, sender->zero.n);
        if (r >= 0)
                r = lose_runs(sender, sender->recall.runs, sender->recall.n);
        for (unsigned int i = 0; r >= 0 && i < sender->n_references; i++)
                r = lose_page(sender, le64toh(sender->references[i].page));
        for (unsigned int i = 0; r >= 0 && i < sender->n_siblings; i++)
                r = lose_page(sender, le64toh(sender->siblings[i].page));
        if (r >= 0)
                r = buf_append(&sender->lost, buf_string(&sender->missing), sender->missing.len);
        buf_clear(&sender->missing);
        sender->zero.n = sender->recall.n = sender->n_references = sender->n_siblings = 0;
        sender->stages_empty = true;
        if (!batch || batch->kind != BATCH_PAGES || batch->sent)
                return r;
        batch->sent = true;
        for (unsigned int i = 0; r >= 0 && i < batch->n_entries; i++)
                r = lose_page(sender, batch->entries[i] & ~BATCH_ZERO);
        return r;
}

/* Frames behind the sink's position: pages among the lost ones, the others into sender->again. */
static int lose_what_was_sent(struct sender *sender)
{
        struct sent_frame *frame, *spare;
        int r = 0;

        sent_log_rewind(&sender->log, &sender->again);
        list_for_each_safe (frame, spare, &sender->again, order) {
                if (!sent_frame_has_pages(frame))
                        continue;
                if (r >= 0)
                        r = lose_runs(sender, frame->data, frame->len / sizeof(struct wire_run_v1));
                list_remove(&frame->order);
                free(frame);
        }
        return r;
}

static int resend_page(struct sender *sender, uint64_t page, struct error **ret_error)
{
        uint8_t data[WIRE_PAGE_SIZE];
        int r = ram_read(&sender->source->ram, page * WIRE_PAGE_SIZE, data, sizeof(data), ret_error);

        if (r < 0)
                return r;
        return ram_is_zero(data, sizeof(data)) ? sender_add_whole_zero(sender, page, ret_error)
                                               : sender_add_whole_page(sender, page, data, ret_error);
}

int sender_resend_lost(struct sender *sender, struct error **ret_error)
{
        struct cursor cursor = cursor_of((const uint8_t *)buf_string(&sender->lost), sender->lost.len);
        uint64_t first;
        uint32_t n;
        int r = 0;

        while (r >= 0 && cursor_u64le(&cursor, &first) && cursor_u32le(&cursor, &n))
                for (uint64_t page = first; r >= 0 && page - first < n; page++)
                        r = resend_page(sender, page, ret_error);
        if (r >= 0)
                r = sender_flush(sender, ret_error);
        if (r >= 0)
                buf_clear(&sender->lost);
        return r;
}

static int resend_frames(struct sender *sender, struct error **ret_error)
{
        int r = sender_await_room(sender, ret_error);

        while (r >= 0 && !list_empty(&sender->again)) {
                struct sent_frame *frame = LIST_FIRST(&sender->again, struct sent_frame, order);
                size_t head_len = MIN(frame->len, sizeof(struct wire_bytes_v1));
                size_t body_len = frame->len - head_len;

                list_remove(&frame->order);
                memcpy(sender->out + WIRE_HEADROOM, frame->data + head_len, body_len);
                r = sender_send_kept(sender, frame->type, frame->data, head_len, sender->out + WIRE_HEADROOM,
                        body_len, ret_error);
                free(frame);
                if (r >= 0)
                        r = sender_await_room(sender, ret_error);
        }
        return r;
}

/* Has main ask the agent for a connection, unless it has one for us already, and waits for it. */
static int await_connection(struct sender *sender, uint64_t lost_ms, struct error **ret_error)
{
        struct source *source = sender->source;
        struct pollfd pfd = {.fd = sender->queue.event_fd, .events = POLLIN};
        eventfd_t ignored;
        bool asked = false;

        sender->awaiting = true;
        while (!source->stopping) {
                uint64_t left_ms = time_left(sender, lost_ms);

                sender->socket_fd = atomic_exchange(&sender->offered_fd, -1);
                if (sender->socket_fd >= 0) {
                        sender->awaiting = false;
                        return 0;
                }
                if (!asked) {
                        atomic_fetch_or(&source->channels_lost, UINT64_C(1) << sender->number);
                        (void)eventfd_write(source->mailbox.event_fd, 1);
                        asked = true;
                }
                if (left_ms == 0)
                        return error_set(ret_error, ERROR_UNREACHABLE,
                                "Check the migration network between the two hosts",
                                "A data connection was lost and could not be made again in time");
                (void)poll(&pfd, 1, (int)MIN(left_ms, (uint64_t)LOOK_MS));
                (void)eventfd_read(
                        sender->queue.event_fd, &ignored); /* the queue itself is looked at later */
        }
        return -ECANCELED;
}

static int reconnect(struct sender *sender, struct error **ret_error)
{
        uint64_t lost_ms = clock_now_ms(&clock_system);

        for (;;) {
                int r = await_connection(sender, lost_ms, ret_error);

                if (r < 0)
                        return r;
                r = sender_connect(sender, MAX(time_left(sender, lost_ms), (uint64_t)LOOK_MS), ret_error);
                if (r >= 0)
                        return 0;
                if ((sender->channel.tls && !sender->channel.lost) ||
                        (*ret_error && (*ret_error)->code == ERROR_UNAUTHENTICATED))
                        return r;
                channel_deinit(&sender->channel);
                error_free(TAKE_PTR(*ret_error));
                nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000}, NULL);
        }
}

/* Connections that are made and lost again without a byte getting through help nobody. */
static bool is_futile(struct sender *sender)
{
        bool advanced = sender->log.acknowledged > sender->acknowledged;
        bool idle = list_empty(&sender->log.frames) && list_empty(&sender->again) && sender->lost.len == 0;

        sender->acknowledged = sender->log.acknowledged;
        sender->n_futile = advanced || idle ? 0 : sender->n_futile + 1;
        return sender->n_futile > MAX_FUTILE;
}

/* The sink may have said why it ended the connection; it is shut down: reading does not wait. */
static bool ended_by_sink(struct sender *sender)
{
        _cleanup_error_ struct error *error = NULL;

        tls_stream_interrupt(sender->channel.tls); /* main has a duplicate of its socket */
        (void)sender_listen(sender, &error);
        return mailbox_has(&sender->source->mailbox, MAIL_FAILED);
}

int sender_resume(struct sender *sender, struct batch *batch, struct error **ret_error)
{
        int r;

        log_notice("Channel %u: %s", sender->number, error_message(*ret_error));
        if (ended_by_sink(sender) || is_futile(sender)) {
                sender->resumable = false;
                return -ECONNRESET;
        }
        error_free(TAKE_PTR(*ret_error));
        if (sender->channel.silent)
                sender->stalled = true;
        channel_deinit(&sender->channel);
        r = lose_what_was_staged(sender, batch);
        if (r >= 0)
                r = reconnect(sender, ret_error);
        if (r >= 0)
                r = lose_what_was_sent(sender);
        if (r < 0) {
                sender->resumable = false; /* that was it */
                return *ret_error ? r : error_from_errno(ret_error, r, "Cannot replace a lost connection");
        }
        sender->awaits_held = false; /* what was still to come of it is lost */
        sender->sibling_end = MIN(sender->sibling_end, sender->log.position);
        for (size_t i = 0; i < ARRAY_SIZE(sender->sibling_ends); i++)
                sender->sibling_ends[i] = MIN(sender->sibling_ends[i], sender->log.position);
        atomic_fetch_add(&sender->source->n_reconnects, 1);
        log_notice("Channel %u: connected again", sender->number);
        r = sender_resend_lost(sender, ret_error);
        return r < 0 ? r : resend_frames(sender, ret_error);
}

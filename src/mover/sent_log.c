/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/sent_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

/* The sink acknowledges every 8 MiB and every second; device state is what takes room here. */
#define MAX_BYTES (32 * 1024 * 1024)

void sent_log_init(struct sent_log *log, size_t max_bytes)
{
        *log = (struct sent_log){.max_bytes = max_bytes ?: MAX_BYTES};
        list_init(&log->frames);
}

void sent_log_deinit(struct sent_log *log)
{
        struct sent_frame *frame, *spare;

        list_for_each_safe (frame, spare, &log->frames, order)
                free(frame);
        sent_log_init(log, log->max_bytes);
}

bool sent_log_is_full(const struct sent_log *log)
{
        return log->bytes > log->max_bytes;
}

static int new_frame(struct sent_log *log, enum wire_frame type, size_t len, struct sent_frame **ret_frame)
{
        struct sent_frame *frame;

        frame = alloc_zero(sizeof(*frame) + len);
        if (!frame)
                return -ENOMEM;
        frame->type = type;
        frame->len = len;
        frame->end = UINT64_MAX;
        log->bytes += sizeof(*frame) + len;
        list_append(&log->frames, &frame->order);
        *ret_frame = frame;
        return 0;
}

int sent_log_add(struct sent_log *log, enum wire_frame type, const void *head, size_t head_len,
        const void *body, size_t body_len)
{
        struct sent_frame *frame;
        int r = new_frame(log, type, head_len + body_len, &frame);

        if (r < 0)
                return r;
        if (head_len > 0)
                memcpy(frame->data, head, head_len);
        if (body_len > 0)
                memcpy(frame->data + head_len, body, body_len);
        return 0;
}

int sent_log_add_pages(struct sent_log *log, enum wire_frame type, const uint64_t *pages, size_t n)
{
        struct sent_frame *frame;
        struct wire_run_v1 run = {0};
        size_t n_runs = 0;
        uint8_t *to;
        int r;

        for (size_t i = 0; i < n; i++)
                n_runs += i == 0 || pages[i] != pages[i - 1] + 1;
        r = new_frame(log, type, n_runs * sizeof(run), &frame);
        if (r < 0)
                return r;
        to = frame->data;
        for (size_t i = 0, first = 0; i < n; i++) {
                if (i + 1 < n && pages[i + 1] == pages[i] + 1)
                        continue;
                run = (struct wire_run_v1){
                        .first_page = htole64(pages[first]), .n_pages = htole32((uint32_t)(i + 1 - first))};
                memcpy(to, &run, sizeof(run));
                to += sizeof(run);
                first = i + 1;
        }
        return 0;
}

void sent_log_sent(struct sent_log *log, size_t frame_bytes)
{
        struct sent_frame *last = CONTAINER_OF(log->frames.prev, struct sent_frame, order);

        log->position += frame_bytes;
        if (!list_empty(&log->frames) && last->end == UINT64_MAX)
                last->end = log->position;
}

int sent_log_acknowledge(struct sent_log *log, uint64_t position)
{
        struct sent_frame *frame, *spare;

        if (position > log->position || position < log->acknowledged)
                return -EPROTO;
        log->acknowledged = position;
        list_for_each_safe (frame, spare, &log->frames, order) {
                if (frame->end > position)
                        break;
                list_remove(&frame->order);
                log->bytes -= sizeof(*frame) + frame->len;
                free(frame);
        }
        return 0;
}

void sent_log_rewind(struct sent_log *log, struct list *ret_frames)
{
        while (!list_empty(&log->frames)) {
                struct list *last = log->frames.prev;

                list_remove(last);
                list_prepend(ret_frames, last);
        }
        log->bytes = 0;
        log->position = log->acknowledged;
}

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a channel has sent and the sink has not acknowledged, for the case that the connection is lost. Of frames with guest
 * pages it keeps only which pages they were: their content is read from the guest again, where it is at least as new. Other
 * frames are kept whole.
 *
 * Positions count the bytes of all frames of a channel but HELLO (docs/protocol.md, "Loss of a connection"). Not
 * thread-safe: a sender owns its log. */

#include "base/list.h"
#include "mover/wire.h"

struct sent_frame {
        struct list order;
        uint64_t end; /* position behind it; UINT64_MAX: not sent yet */
        enum wire_frame type;
        size_t len;
        uint8_t data
                []; /* PAGES, ZERO, REFERENCES, RECALL, SIBLINGS: struct wire_run_v1, the pages; else the payload */
};

struct sent_log {
        struct list frames; /* struct sent_frame, oldest first */
        uint64_t position;  /* behind the last frame sent */
        uint64_t acknowledged;
        size_t bytes; /* of memory */
        size_t max_bytes;
};

/* `max_bytes`: from where on it is full; 0: the usual. */
void sent_log_init(struct sent_log *log, size_t max_bytes);
void sent_log_deinit(struct sent_log *log);

/* True when nothing should be added before something is acknowledged. */
bool sent_log_is_full(const struct sent_log *log);
/* Describes the frame that is sent next, whose payload is head and body. -ENOMEM. */
int sent_log_add(struct sent_log *log, enum wire_frame type, const void *head, size_t head_len,
        const void *body, size_t body_len);
/* The same for a frame with these pages (in any order). */
int sent_log_add_pages(struct sent_log *log, enum wire_frame type, const uint64_t *pages, size_t n);
/* A frame of so many bytes, header and all, goes out now: the one described last, or one that nobody will miss. */
void sent_log_sent(struct sent_log *log, size_t frame_bytes);

/* Forgets what ends at or before `position`. -EPROTO: the sink cannot have received that much, or takes back what it
 * acknowledged. */
int sent_log_acknowledge(struct sent_log *log, uint64_t position);
/* The connection is gone, and the next one goes on at `position` (acknowledged before): takes the frames behind it out, oldest
 * first, to the front of `ret_frames`. The caller frees them. */
void sent_log_rewind(struct sent_log *log, struct list *ret_frames);

static inline bool sent_frame_has_pages(const struct sent_frame *frame)
{
        return frame->type == WIRE_PAGES || frame->type == WIRE_ZERO || frame->type == WIRE_REFERENCES ||
               frame->type == WIRE_RECALL || frame->type == WIRE_SIBLINGS;
}

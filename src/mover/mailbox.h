/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What worker threads tell the main thread: events, each at most once, and the first failure. The main thread
 * polls `event_fd`. Any thread may post. */

#include <pthread.h>

#include "base/error.h"
#include "mover/wire.h"

enum mail {
        MAIL_READY = 1 << 0,        /* all channels are up */
        MAIL_TUNNEL = 1 << 1,       /* the source's stream is no longer parsed */
        MAIL_DEVICE_STATE = 1 << 2, /* source: the guest is stopped, its RAM was read */
        MAIL_STREAM_END = 1 << 3,   /* source: QEMU closed its stream */
        MAIL_DELIVERED = 1 << 4,    /* source: COMMIT was acknowledged */
        MAIL_RESULT = 1 << 5,       /* source: RESULT came, see mailbox.result */
        MAIL_PLACED = 1 << 6,       /* sink: all pages are in RAM */
        MAIL_COMMIT = 1 << 7,       /* sink: COMMIT was read */
        MAIL_RESULT_SENT = 1 << 8,  /* sink: RESULT left */
        MAIL_FAILED = 1 << 9,       /* see mailbox.error */
        MAIL_HANDED_OFF = 1 << 10,  /* sink: HANDED_OFF was read */
        MAIL_POST_COPY = 1 << 11,   /* source: all that comes now comes in post-copy */
        MAIL_LOADED = 1 << 12, /* source: the destination's QEMU has loaded the device state (post-copy) */
};

struct mail_result {
        enum wire_outcome outcome;
        uint64_t resumed_realtime_ns;
        char text[WIRE_MAX_TEXT + 1];
};

struct mailbox {
        pthread_mutex_t lock; /* guards all below but event_fd */
        unsigned int pending; /* enum mail bits not yet taken */
        unsigned int posted;  /* all bits ever */
        struct error *error;  /* the first */
        bool from_peer;       /* the error was the peer's ABORT */
        struct mail_result result;
        int event_fd;
};

int mailbox_init(struct mailbox *mailbox);
void mailbox_deinit(struct mailbox *mailbox);
void mailbox_post(struct mailbox *mailbox, enum mail mail);
/* Takes the error over (NULL: no memory for one). Only the first failure counts. */
void mailbox_fail(struct mailbox *mailbox, struct error *error, bool from_peer);
void mailbox_post_result(struct mailbox *mailbox, const struct mail_result *result);
/* The bits that came since the last call. */
unsigned int mailbox_take(struct mailbox *mailbox);
bool mailbox_has(struct mailbox *mailbox, enum mail mail);

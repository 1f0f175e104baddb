/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A disk of the guest at the source; see source_disk.c. */

#include <pthread.h>
#include <stdatomic.h>

#include "mover/wire.h"

struct source;
struct sender;
struct batch;
struct control_message;

struct source_disk {
        struct source *source; /* NULL: there is none of this number */
        unsigned int number;
        uint64_t size_bytes;
        int fd; /* main opens and closes it */
        pthread_t thread;
        bool thread_started;

        /* The thread's own. */
        uint64_t *written; /* a bit a stripe: something but zeroes was written */
        uint64_t serial;   /* of the newest FLUSH */
        bool unflushed;    /* something was queued since */
        bool quiet;        /* it has failed or is closed: no flush of our own any more */

        pthread_mutex_t lock; /* guards all in this group; taken before those of the pool and the queues */
        pthread_cond_t changed;
        uint64_t flushed;     /* serial of the newest FLUSH that the sink has answered */
        uint64_t asked_ms;    /* when the newest FLUSH was queued */
        uint64_t answered_ms; /* when one was answered last, and how long that took */
        uint64_t took_ms;
        int error;   /* errno, the first: of the sink's QEMU, or of what cannot go any more; 0: none */
        bool closed; /* BARRIER is queued: nothing of a disk may follow */

        atomic_bool expired; /* nothing is waited for any more */

        atomic_uint_fast64_t bytes, bytes_zero; /* that were written, and of these zeroes */
};

int source_disks_init(struct source *source);
void source_disks_deinit(struct source *source);
/* Main: the agent's op "disk", the connection of QEMU's mirror. */
int source_take_disk(struct source *source, struct control_message *message, struct error **ret_error);
/* Main: the threads come back. The pool of batches has been stopped. */
void source_stop_disks(struct source *source);
/* Reader: BARRIER comes next. What a mirror still writes afterwards is refused. */
void source_close_disks(struct source *source);
/* Main: the guest is stopped, and has waited for the disks for long enough: whatever a mirror waits for, or asks from now on, is
 * answered with ETIMEDOUT. */
void source_expire_disks(struct source *source);
/* Main: what all disks were written, and how much of that was zero. */
void source_disks_count(struct source *source, uint64_t *ret_bytes, uint64_t *ret_zero);
void *source_disk_main(void *disk);
/* Sender: takes the DISK_STATE frame in the channel's payload; sends a batch of a disk. */
int source_take_disk_state(struct sender *sender, struct error **ret_error);
int source_send_disk(struct sender *sender, struct batch *batch, struct error **ret_error);

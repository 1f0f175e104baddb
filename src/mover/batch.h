/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Batches of work between the source's reader and its senders: a fixed pool of preallocated batches, and a
 * queue per sender. A batch is owned by whoever holds it: reader, queue, sender, pool. The pool is where
 * backpressure comes from: batch_pool_get() waits while too many bytes are under way. */

#include <pthread.h>
#include <stdatomic.h>

#include "mover/wire.h"

#define BATCH_MAX_ENTRIES WIRE_MAX_PAGES
#define BATCH_DATA_BYTES WIRE_STRIPE_BYTES
#define BATCH_ZERO (UINT64_C(1) << 63) /* in an entry: the page is zero and has no data */

enum batch_kind {
        BATCH_PAGES,    /* entries: page numbers; data: the pages without BATCH_ZERO, in order */
        BATCH_SKELETON, /* data: n_bytes */
        BATCH_DEVICE,   /* data: n_bytes; sent at once */
        BATCH_VERIFY,   /* compare this channel's stripes with the guest's memory, then with the sink */
        BATCH_BARRIER,  /* flush, then BARRIER */
        BATCH_HANDED_OFF,
        BATCH_POST_COPY,  /* POST_COPY */
        BATCH_COMMIT,     /* flush, then COMMIT */
        BATCH_DISK_DATA,  /* data: n_bytes of a disk */
        BATCH_DISK_ZERO,  /* so many bytes of a disk are zero: length */
        BATCH_DISK_FLUSH, /* offset: its serial number */
};

struct batch {
        struct batch *next;
        enum batch_kind kind;
        unsigned int n_entries;
        size_t n_bytes;    /* in data */
        unsigned int disk; /* of the kinds that are about one: which, where and how much */
        uint64_t offset, length;
        bool keep_allocated; /* BATCH_DISK_ZERO: no hole shall be made of it */
        bool sent; /* its frame, if it has one of its own, went out or will go again with what was lost */
        uint64_t entries[BATCH_MAX_ENTRIES];
        uint8_t data[BATCH_DATA_BYTES];
};

static inline bool batch_is_of_disk(const struct batch *batch)
{
        return batch->kind == BATCH_DISK_DATA || batch->kind == BATCH_DISK_ZERO ||
               batch->kind == BATCH_DISK_FLUSH;
}

struct batch_pool {
        pthread_mutex_t lock; /* guards all below */
        pthread_cond_t changed;
        struct batch *free;
        size_t bytes_under_way; /* data of batches that are queued or being sent */
        size_t limit_bytes;
        bool stopped;
        void *memory;
};

/* -ENOMEM. */
int batch_pool_init(struct batch_pool *pool, unsigned int n_batches);
void batch_pool_deinit(struct batch_pool *pool);
/* An empty batch; waits for one, and for the bytes under way to fall below the limit. NULL: stopped. */
struct batch *batch_pool_get(struct batch_pool *pool);
/* The same, and NULL as well once *give_up is set, which batch_pool_wake() has everybody look at. */
struct batch *batch_pool_get_unless(struct batch_pool *pool, const atomic_bool *give_up);
void batch_pool_wake(struct batch_pool *pool);
/* Gives a batch back that was not queued. */
void batch_pool_return(struct batch_pool *pool, struct batch *batch);
/* Gives a batch back that was queued. */
void batch_pool_put(struct batch_pool *pool, struct batch *batch);
void batch_pool_set_limit(struct batch_pool *pool, size_t limit_bytes);
size_t batch_pool_under_way(struct batch_pool *pool);
/* Wakes and refuses everyone. */
void batch_pool_stop(struct batch_pool *pool);

struct batch_queue {
        pthread_mutex_t lock; /* guards first, last */
        struct batch *first, *last;
        int event_fd; /* readable when a batch was pushed; for the consumer's poll */
        struct batch_pool *pool;
};

int batch_queue_init(struct batch_queue *queue, struct batch_pool *pool);
void batch_queue_deinit(struct batch_queue *queue);
/* Hands the batch over. */
void batch_queue_push(struct batch_queue *queue, struct batch *batch);
/* The oldest batch, or NULL at once. */
struct batch *batch_queue_pop(struct batch_queue *queue);

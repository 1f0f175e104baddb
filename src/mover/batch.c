/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/batch.h"

#include <errno.h>
#include <sys/eventfd.h>

#include "base/alloc.h"

int batch_pool_init(struct batch_pool *pool, unsigned int n_batches)
{
        struct batch *batches = alloc_array(n_batches, sizeof(*batches));

        if (!batches)
                return -ENOMEM;
        *pool = (struct batch_pool){.memory = batches, .limit_bytes = SIZE_MAX};
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->changed, NULL);
        for (unsigned int i = 0; i < n_batches; i++) {
                batches[i].next = pool->free;
                pool->free = &batches[i];
        }
        return 0;
}

void batch_pool_deinit(struct batch_pool *pool)
{
        if (!pool->memory)
                return;
        pthread_cond_destroy(&pool->changed);
        pthread_mutex_destroy(&pool->lock);
        free(TAKE_PTR(pool->memory));
}

struct batch *batch_pool_get(struct batch_pool *pool)
{
        static const atomic_bool never = false;

        return batch_pool_get_unless(pool, &never);
}

struct batch *batch_pool_get_unless(struct batch_pool *pool, const atomic_bool *give_up)
{
        struct batch *batch = NULL;

        pthread_mutex_lock(&pool->lock);
        while (!pool->stopped && !*give_up && (!pool->free || pool->bytes_under_way >= pool->limit_bytes))
                pthread_cond_wait(&pool->changed, &pool->lock);
        if (!pool->stopped && !*give_up) {
                batch = pool->free;
                pool->free = batch->next;
        }
        pthread_mutex_unlock(&pool->lock);
        if (batch) {
                batch->next = NULL;
                batch->n_entries = 0;
                batch->n_bytes = 0;
                batch->sent = batch->keep_allocated = false;
        }
        return batch;
}

void batch_pool_return(struct batch_pool *pool, struct batch *batch)
{
        batch->n_bytes = 0;
        batch_pool_put(pool, batch);
}

void batch_pool_put(struct batch_pool *pool, struct batch *batch)
{
        pthread_mutex_lock(&pool->lock);
        pool->bytes_under_way -= batch->n_bytes;
        batch->next = pool->free;
        pool->free = batch;
        pthread_cond_broadcast(&pool->changed);
        pthread_mutex_unlock(&pool->lock);
}

void batch_pool_set_limit(struct batch_pool *pool, size_t limit_bytes)
{
        pthread_mutex_lock(&pool->lock);
        pool->limit_bytes = limit_bytes;
        pthread_cond_broadcast(&pool->changed);
        pthread_mutex_unlock(&pool->lock);
}

void batch_pool_wake(struct batch_pool *pool)
{
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->changed);
        pthread_mutex_unlock(&pool->lock);
}

size_t batch_pool_under_way(struct batch_pool *pool)
{
        size_t bytes;

        pthread_mutex_lock(&pool->lock);
        bytes = pool->bytes_under_way;
        pthread_mutex_unlock(&pool->lock);
        return bytes;
}

void batch_pool_stop(struct batch_pool *pool)
{
        pthread_mutex_lock(&pool->lock);
        pool->stopped = true;
        pthread_cond_broadcast(&pool->changed);
        pthread_mutex_unlock(&pool->lock);
}

int batch_queue_init(struct batch_queue *queue, struct batch_pool *pool)
{
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        if (fd < 0)
                return -errno;
        *queue = (struct batch_queue){.event_fd = fd, .pool = pool};
        pthread_mutex_init(&queue->lock, NULL);
        return 0;
}

void batch_queue_deinit(struct batch_queue *queue)
{
        if (!queue->pool)
                return;
        fd_closep(&queue->event_fd);
        pthread_mutex_destroy(&queue->lock);
        queue->pool = NULL;
}

void batch_queue_push(struct batch_queue *queue, struct batch *batch)
{
        pthread_mutex_lock(&queue->pool->lock);
        queue->pool->bytes_under_way += batch->n_bytes;
        pthread_mutex_unlock(&queue->pool->lock);

        pthread_mutex_lock(&queue->lock);
        batch->next = NULL;
        if (queue->last)
                queue->last->next = batch;
        else
                queue->first = batch;
        queue->last = batch;
        pthread_mutex_unlock(&queue->lock);
        (void)eventfd_write(queue->event_fd, 1); /* EAGAIN: it is readable already */
}

struct batch *batch_queue_pop(struct batch_queue *queue)
{
        struct batch *batch;
        eventfd_t ignored;

        pthread_mutex_lock(&queue->lock);
        batch = queue->first;
        if (batch) {
                queue->first = batch->next;
                if (!queue->first)
                        queue->last = NULL;
        } else {
                /* Under the lock, so that a push cannot come between the look and the reset. */
                (void)eventfd_read(queue->event_fd, &ignored);
        }
        pthread_mutex_unlock(&queue->lock);
        return batch;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Backpressure between the reader and the senders. */

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
// clang-format on

#include "mover/batch.h"

#define N_BATCHES 4
#define BATCH_BYTES 1000

struct rig {
        struct batch_pool pool;
        struct batch_queue queue;
};

static void rig_init(struct rig *rig)
{
        assert_int_equal(batch_pool_init(&rig->pool, N_BATCHES), 0);
        assert_int_equal(batch_queue_init(&rig->queue, &rig->pool), 0);
        for (int i = 0; i < N_BATCHES; i++) {
                struct batch *batch = batch_pool_get(&rig->pool);

                batch->n_bytes = BATCH_BYTES;
                batch_queue_push(&rig->queue, batch);
        }
}

static void rig_deinit(struct rig *rig)
{
        batch_queue_deinit(&rig->queue);
        batch_pool_deinit(&rig->pool);
}

static void *send_all(void *userdata)
{
        struct rig *rig = userdata;
        struct batch *batch;

        while ((batch = batch_queue_pop(&rig->queue)) != NULL)
                batch_pool_put(&rig->pool, batch);
        return NULL;
}

static void *stop(void *userdata)
{
        struct rig *rig = userdata;

        batch_pool_stop(&rig->pool);
        return NULL;
}

static void drain_while(void *(*other)(void *rig), size_t limit_bytes, size_t *ret_under_way)
{
        struct rig rig = {0};
        pthread_t thread;

        rig_init(&rig);
        assert_int_equal(batch_pool_under_way(&rig.pool), N_BATCHES * BATCH_BYTES);
        batch_pool_drain(&rig.pool, N_BATCHES * BATCH_BYTES); /* returns at once */
        assert_int_equal(pthread_create(&thread, NULL, other, &rig), 0);
        batch_pool_drain(&rig.pool, limit_bytes);
        *ret_under_way = batch_pool_under_way(&rig.pool);
        pthread_join(thread, NULL);
        rig_deinit(&rig);
}

static void test_draining_ends_when_so_little_is_left(void **state)
{
        size_t under_way;

        drain_while(send_all, BATCH_BYTES, &under_way);
        assert_true(under_way <= BATCH_BYTES);
        drain_while(send_all, 0, &under_way);
        assert_int_equal(under_way, 0);
}

static void test_draining_ends_when_the_pool_is_stopped(void **state)
{
        size_t under_way;

        drain_while(stop, 0, &under_way);
        assert_int_equal(under_way, N_BATCHES * BATCH_BYTES);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_draining_ends_when_so_little_is_left),
                cmocka_unit_test(test_draining_ends_when_the_pool_is_stopped),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

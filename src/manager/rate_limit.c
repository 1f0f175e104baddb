/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/rate_limit.h"

#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/alloc.h"

#define WAYS 8

/* A bucket holds time: full at burst * interval, and one attempt costs one interval. */
struct bucket {
        uint64_t key; /* 0: free. A keyed hash: who wants two keys to share a bucket cannot find them */
        uint64_t level_ms;
        uint64_t at_ms; /* when it had that level */
};

struct rate_limit {
        const struct clock *clock;
        uint64_t seed;
        size_t n_rows;
        uint64_t full_ms, interval_ms;
        struct bucket buckets[];
};

struct rate_limit *rate_limit_new(
        const struct clock *clock, size_t n_keys, uint32_t burst, uint32_t interval_ms)
{
        size_t n_rows = MAX(n_keys / WAYS, (size_t)1);
        struct rate_limit *limit = alloc_zero(sizeof(*limit) + n_rows * WAYS * sizeof(struct bucket));

        if (!limit)
                return NULL;
        limit->clock = clock;
        limit->n_rows = n_rows;
        limit->interval_ms = interval_ms;
        limit->full_ms = (uint64_t)burst * interval_ms;
        /* Without random numbers the keys are merely guessable. */
        if (getrandom(&limit->seed, sizeof(limit->seed), GRND_NONBLOCK) != sizeof(limit->seed))
                limit->seed = (uint64_t)(uintptr_t)limit;
        return limit;
}

void rate_limit_free(struct rate_limit *limit)
{
        free(limit);
}

static uint64_t level_of(const struct rate_limit *limit, const struct bucket *bucket, uint64_t now_ms)
{
        return bucket->key ? MIN(bucket->level_ms + (now_ms - bucket->at_ms), limit->full_ms)
                           : limit->full_ms + 1;
}

/* The key's bucket, brought up to date; a new one takes the place of the fullest of its row. */
static struct bucket *find(struct rate_limit *limit, const char *text)
{
        uint64_t now_ms = clock_now_ms(limit->clock),
                 key = XXH3_64bits_withSeed(text, strlen(text), limit->seed) | 1;
        struct bucket *row = limit->buckets + (key >> 8) % limit->n_rows * WAYS, *fullest = row;

        for (size_t i = 0; i < WAYS; i++) {
                if (row[i].key == key) {
                        row[i].level_ms = level_of(limit, &row[i], now_ms);
                        row[i].at_ms = now_ms;
                        return &row[i];
                }
                if (level_of(limit, &row[i], now_ms) > level_of(limit, fullest, now_ms))
                        fullest = &row[i];
        }
        *fullest = (struct bucket){.key = key, .level_ms = limit->full_ms, .at_ms = now_ms};
        return fullest;
}

bool rate_limit_has(struct rate_limit *limit, const char *key, uint64_t *ret_wait_ms)
{
        const struct bucket *bucket = find(limit, key);

        if (bucket->level_ms >= limit->interval_ms)
                return true;
        if (ret_wait_ms)
                *ret_wait_ms = limit->interval_ms - bucket->level_ms;
        return false;
}

bool rate_limit_take(struct rate_limit *limit, const char *key, uint64_t *ret_wait_ms)
{
        if (!rate_limit_has(limit, key, ret_wait_ms))
                return false;
        find(limit, key)->level_ms -= limit->interval_ms;
        return true;
}

void rate_limit_refund(struct rate_limit *limit, const char *key)
{
        struct bucket *bucket = find(limit, key);

        bucket->level_ms = MIN(bucket->level_ms + limit->interval_ms, limit->full_ms);
}

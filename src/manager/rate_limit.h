/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Token buckets by key (an address, a user's name, a caller) in bounded memory: a table of fixed size, in which the fullest bucket of
 * a row gives way to a new key. A key that makes many attempts has an empty bucket, and so is the last to be forgotten. */

#include "base/clock.h"

struct rate_limit;

/* `burst` at once, then one each `interval_ms`. Memory is taken here, once: about 32 bytes for each of n_keys. NULL without. */
struct rate_limit *rate_limit_new(
        const struct clock *clock, size_t n_keys, uint32_t burst, uint32_t interval_ms);
void rate_limit_free(struct rate_limit *limit);

/* Takes one; false, and *ret_wait_ms (may be NULL) until there will be one, when there is none. */
bool rate_limit_take(struct rate_limit *limit, const char *key, uint64_t *ret_wait_ms);
/* Whether there is one, without taking it. */
bool rate_limit_has(struct rate_limit *limit, const char *key, uint64_t *ret_wait_ms);
/* Gives one back: what was attempted turned out to be all right. */
void rate_limit_refund(struct rate_limit *limit, const char *key);

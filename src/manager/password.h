/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Passwords are kept as argon2id (libsodium: 19 MiB, 2 passes; RFC 9106, OWASP). To hash takes tens of milliseconds and that much memory, which
 * the event loop has no time for: each runs in a process of its own, "drover-manager password-worker", a few at once at most. */

#include "base/error.h"
#include "io/loop.h"

#define PASSWORD_MIN_CHARS 10
#define PASSWORD_MAX_CHARS 1024
#define PASSWORD_HASH_SIZE 128

struct password_pool;

/* `program`: of the worker, such as "/proc/self/exe"; borrowed. */
int password_pool_new(struct loop *loop, const char *program, struct password_pool **ret_pool);
/* Jobs under way end with CANCELLED: their functions are called from here. */
void password_pool_free(struct password_pool *pool);

/* `hash`: a new one, NULL when `error` (borrowed) says why there is none. */
typedef void (*password_hash_fn)(void *userdata, const char *hash, struct error *error);
/* RATE_LIMITED when too many wait. The function is called once, later. */
int password_hash(struct password_pool *pool, const char *password, password_hash_fn fn, void *userdata,
        struct error **ret_error);
/* `error` (borrowed) with fits == false: it could not be found out. */
typedef void (*password_verify_fn)(void *userdata, bool fits, struct error *error);
struct password_attempt {
        const char *hash; /* NULL: takes as long as with one, and does not fit */
        const char *password;
        bool stranger; /* who may be anybody: of those half as many are taken, and they come after all others */
};
/* RATE_LIMITED when too many wait. */
int password_verify(struct password_pool *pool, const struct password_attempt *attempt, password_verify_fn fn,
        void *userdata, struct error **ret_error);

/* The worker: reads from fd, writes its answer to standard output. The exit status. */
int password_worker(int fd);

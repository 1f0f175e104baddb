/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Runs a function that may block (a hung NFS server) in a forked child and gives its answer to the loop.
 *
 * Why a process and not a thread: a call on a hung hard mount sits in the kernel, where nothing ends it; a
 * thread would pin the agent (even its exit) and needs locks in everything it calls. A child is simply given up:
 * after the time limit it is killed, and if it cannot die it is reaped whenever the mount comes back. At most
 * OFFLOAD_MAX_STUCK such children may be left; then new work is refused at once instead of piling up. The child
 * closes every inherited descriptor first, so that it keeps no tap, socket or lock alive. */

#include <jansson.h>

#include "base/error.h"
#include "io/loop.h"

#define OFFLOAD_MAX_STUCK 32
#define OFFLOAD_MAX_STREAMS 8 /* of those that carry a stream, which count apart */
#define OFFLOAD_RESULT_MAX_BYTES (256 * 1024)

struct offload;

/* Runs in the child: 0 and a JSON object or array (may stay NULL), or a negative errno with an error set. `arg`
 * is what was given to offload_start(), as it was then; changes to memory are lost, descriptors other than 0, 1,
 * 2 are closed: open what is needed by path. */
typedef int (*offload_fn)(void *arg, json_t **ret_result, struct error **ret_error);
/* Exactly one of result (may be NULL as well for a function without one) and error; both borrowed. */
typedef void (*offload_done_fn)(void *userdata, json_t *result, struct error *error);

/* `done` is called once from the loop, never from inside; with TIMED_OUT after timeout_ms. `arg` is not needed
 * after the call. `what` names the work in messages ("check of datastore shared"). */
int offload_start(struct loop *loop, const char *what, offload_fn fn, void *arg, uint64_t timeout_ms,
        offload_done_fn done, void *userdata, struct offload **ret_offload, struct error **ret_error);
/* The same with one descriptor (duplicated; the caller's stays the caller's), which the child has as OFFLOAD_FD. */
#define OFFLOAD_FD 4
int offload_start_with_fd(struct loop *loop, const char *what, offload_fn fn, void *arg, int fd,
        uint64_t timeout_ms, offload_done_fn done, void *userdata, struct offload **ret_offload,
        struct error **ret_error);
/* The same for a stream, which may take hours: it takes no place of other work. BUSY when OFFLOAD_MAX_STREAMS are at work. */
int offload_start_stream(struct loop *loop, const char *what, offload_fn fn, void *arg, int fd,
        uint64_t timeout_ms, offload_done_fn done, void *userdata, struct offload **ret_offload,
        struct error **ret_error);
/* Gives the work up; `done` is not called. Accepts NULL. Not for one whose `done` was called: that one is gone. */
void offload_free(struct offload *offload);
DEFINE_CLEANUP(struct offload *, offload_free)

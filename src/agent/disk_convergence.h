/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* When a copy of disks, which follows the guest's writes in the background, may be switched to, and which help it gets when it
 * does not come that far. Pure: numbers in, decision out; storage_move_live.c gathers the numbers and carries out.
 *
 * The guest is stopped while the rest is copied, so the copies may be switched to when what remains, at the rate that was measured
 * last, fits into the bound on the pause. While what remains reaches new lows every few seconds, or is seconds of work of which less is added than
 * done, that is waited for. When not, the steps of the policy (base/converge.h) are taken one after the other: wait, raise the bound, throttle what the guest writes
 * to those disks to a smaller and smaller part of the copy's rate. A step that brings a new low goes on; after the last one the
 * migration gives up. */

#include <jansson.h>

#include "base/converge.h"
#include "base/macros.h"

#define DISK_CONVERGENCE_MAX_ENTRIES 32
#define DISK_CONVERGENCE_SETTLE_TRIES 5

struct disk_convergence_status {
        uint64_t now_ms;          /* monotonic */
        uint64_t copied_bytes;    /* since the copy began, of all disks */
        uint64_t remaining_bytes; /* likewise; grows with what the guest writes */
        uint64_t rate_limit;      /* of the copy, bytes a second of all disks; 0: none */
        bool counted;             /* every job knows what it has to copy */
        bool whole;               /* every job had copied all of it once */
};

struct disk_convergence_entry {
        enum converge_step step;
        const char *why; /* static */
        uint64_t at_ms;  /* since the copy began */
        uint64_t remaining_bytes, written_bytes_per_s, path_bytes_per_s;
        uint64_t max_pause_ms;
        unsigned int throttle_percent;
};

struct disk_convergence {
        struct converge_policy policy;
        uint64_t started_ms;
        uint64_t max_pause_ms; /* the bound in force */
        unsigned int
                throttle_percent; /* 0: none. What the guest writes gets 100 minus this of the copy's rate */
        size_t n_begun;           /* steps begun; the last of them is in force */
        uint64_t level_ms;        /* when it, or its present level, began */
        bool started;             /* numbers came in */
        uint64_t sample_ms, sample_copied_bytes, sample_remaining_bytes;
        uint64_t path_bytes_per_s, written_bytes_per_s; /* as measured; 0: not known */
        uint64_t low_bytes, low_ms;                     /* the least that remained, and when */
        uint64_t progress_bytes, progress_ms; /* what was copied when that last changed; 0: not known */
        uint64_t still_ms;                    /* for so long nothing was copied; 0: it goes on */
        unsigned int n_unsettled;             /* times that the rest took too long */
        struct disk_convergence_entry entries[DISK_CONVERGENCE_MAX_ENTRIES];
        size_t n_entries;
};

enum disk_convergence_action {
        DISK_CONVERGENCE_GO_ON,
        DISK_CONVERGENCE_SWITCH,   /* what remains fits into the pause */
        DISK_CONVERGENCE_THROTTLE, /* the guest, to disk_convergence_write_limit() */
        DISK_CONVERGENCE_GIVE_UP,
};

/* `policy` without post-copy. */
void disk_convergence_init(struct disk_convergence *c, const struct converge_policy *policy,
        uint64_t max_pause_ms, uint64_t now_ms);
/* Takes new numbers in, some times a second while the guest runs. */
enum disk_convergence_action disk_convergence_update(
        struct disk_convergence *c, const struct disk_convergence_status *status);
/* True when what remains fits into the bound. */
bool disk_convergence_fits(const struct disk_convergence *c, const struct disk_convergence_status *status);
/* The guest was stopped and what remained took too long; it runs again. False: often enough. */
bool disk_convergence_unsettled(struct disk_convergence *c, uint64_t now_ms);
/* Bytes a second that the guest may write to each of the disks; never so little that a guest takes it for dead. */
uint64_t disk_convergence_write_limit(const struct disk_convergence *c, size_t n_disks);

/* What let it converge: "copy", "quiet-moment", "longer-pause", "throttle". */
const char *disk_convergence_by(const struct disk_convergence *c);
/* [{step, why, at_ms, remaining_bytes, written_bytes_per_s, path_bytes_per_s, max_pause_ms, throttle_percent}]; the caller's, NULL without
 * memory. */
json_t *disk_convergence_record(const struct disk_convergence *c);
/* NOT_CONVERGING, with the rates and what was tried; TIMED_OUT when the copy stood still. The caller's. */
struct error *disk_convergence_error(const struct disk_convergence *c);

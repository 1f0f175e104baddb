/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Requests that take more work than the event loop can do at once, such as to go through a million audit entries: it is done in slices of
 * a few milliseconds, between which the loop does all else. Whoever has such a request embeds a struct api_scan, first. */

#include "base/error.h"
#include "base/list.h"

struct api_scan;
struct http_request;
struct loop_source;
struct manager;

struct api_scan {
        struct list link;
        struct manager *manager;
        struct http_request *request; /* NULL: it was answered, or is a stream now */
        struct loop_source *timer;
        char person[65]; /* whose it is: auth_caller_person() */
        bool streams; /* set before it begins: what it finds is sent at once, to a reader who may be slow */
        bool brief;   /* set before it begins: takes a moment only, and no place from those that take long */
        bool aborted; /* nobody waits for the answer */
        uint64_t wait_ms; /* set by the step: not before that */
        bool reader_full; /* set by the step, with wait_ms: until the client has taken some of what it got */
        uint64_t full_since_ms; /* 0: it is not */
        bool slow;              /* it was full for too long: from then on it shares a place with all such */
        /* Does a little. 1: there is more to do; 0: the scan is finished, and its request answered. */
        int (*step)(struct api_scan *scan, struct error **ret_error);
        /* Frees all of it, this struct included. */
        void (*free)(struct api_scan *scan);
};

struct api_scans {
        struct list scans;
        size_t n, n_slow, n_brief; /* of `n` those that are slow, or brief */
        uint64_t slow_turn_ms;     /* when the next of the slow ones may work */
};
void api_scans_init(struct api_scans *scans);
/* Requests under way are answered with an error. */
void api_scans_deinit(struct api_scans *scans);

/* Begins it; `step` and `free` are set. RATE_LIMITED when there are too many, also of one caller. On an error it is the caller's still, and the
 * request is not answered. */
int api_scan_begin(struct api_scan *scan, struct http_request *request, struct manager *manager,
        struct error **ret_error);
/* Ends it, with that error (taken over; NULL: out of memory) if it was not answered; one that breaks an answer off goes into the log (NULL: its
 * client's doing). */
void api_scan_fail(struct api_scan *scan, struct error *error);
void api_scan_end(struct api_scan *scan);

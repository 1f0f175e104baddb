/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a migration will take: total time, pause and bytes, and whether it ends by itself. Pure: from what was measured of the
 * guest and of the path (drover-mover sample, probe) it goes through drover's own pre-copy pass by pass, by the rules of the
 * mover (src/mover/switchover.c, codec_choice.c). Sizes are bytes, times seconds, rates bytes a second. */

#include <jansson.h>

#include "base/error.h"

#define FORECAST_LEVELS_MAX 8
#define FORECAST_LOOKS_MAX 8
#define FORECAST_RECORDS_MAX 8 /* that are learned from */

struct forecast_level {
        char name[16];
        double ratio;       /* raw / packed, of pages that are worth packing */
        double bytes_per_s; /* raw, of one core */
        double delta_ratio; /* of changed blocks */
};

struct forecast_look {
        double interval_s;
        double page_bytes;  /* of the guest's pages, changed within the interval */
        double block_bytes; /* of the blocks in them that changed */
};

struct forecast_guest {
        double ram_bytes;
        double zero_share;           /* of all pages */
        double duplicate_share;      /* of pages with content: equal to another */
        double incompressible_share; /* of pages with content, by bytes */
        double held_share; /* of pages with content: the destination keeps them from an earlier stay */
        double held_pages; /* that were looked at for this; 0: the destination keeps nothing */
        struct forecast_level levels[FORECAST_LEVELS_MAX];
        size_t n_levels;
        struct forecast_look looks[FORECAST_LOOKS_MAX]; /* by interval */
        size_t n_looks;
        double sampled_pages;     /* the fewest of the looks: how sure the changes are; 0: none were seen */
        double cores, idle_cores; /* of the source; idle_cores below 0: not known */
        double load;              /* of the source: tasks that run or want to */
};

struct forecast_path {
        double bytes_per_s;
        double spread; /* 0.1: it may be a tenth more or less */
        double rtt_s;
};

struct forecast_terms {
        double max_pause_s;
        double rate_limit; /* bytes a second; 0: none */
        bool verify;       /* both memories are compared in the pause */
        double prepare_s;  /* until QEMU begins to send: destination, connections */
        double prepare_spread;
};

struct forecast_range {
        double low, expected, high;
};

struct forecast {
        struct forecast_range total_s, pause_s, bytes;
        unsigned int passes;      /* expected */
        bool converges;           /* without slowing the guest down */
        bool throttled_converges; /* it does when slowed down; true if it need not be */
        const char *codec;        /* borrowed from the guest */
        double pass_dirty_bytes;  /* that the guest changes in its last passes */
        double needed_bytes_per_s; /* of the path, to end without slowing the guest down; 0: not known, or not needed */
        bool cpu_bound;            /* processors, not the path, set the pace of the first pass */
};

/* Bytes of pages that change within `seconds`: what was seen, between and beyond it a curve that levels off as far as the last
 * two looks show it does. Never decreasing, at most the memory. */
double forecast_dirty(const struct forecast_guest *guest, double seconds);

/* The guest must have at least one level; path->bytes_per_s > 0. */
void forecast_run(const struct forecast_guest *guest, const struct forecast_path *path,
        const struct forecast_terms *terms, struct forecast *ret_forecast);

/* Factors that past forecasts would have needed, and how far apart those of single migrations were (factors below and above). */
struct forecast_factor {
        double factor, low, high; /* 1: nothing is known; 0 < low <= 1 <= high */
};
struct forecast_lesson {
        struct forecast_factor total, pause, bytes;
        size_t n; /* migrations; 0: all factors are 1 */
};

/* What `records` (as forecast_score() takes them, of migrations like the one that is forecast) teach. Few teach less than many:
 * constants that were fitted elsewhere are wrong by much the same factor each time, but one migration may just have been unlucky. */
void forecast_learn(const json_t *records, struct forecast_lesson *ret_lesson);
/* Applies it to what forecast_run() returned. */
void forecast_correct(struct forecast *forecast, const struct forecast_lesson *lesson);

/* From the agent's document (docs/internals/agent-api.md). BAD_DOCUMENT when it is not one. */
int forecast_read_guest(const json_t *sample, struct forecast_guest *ret_guest, struct error **ret_error);
/* {total_ms: {low, expected, high}, pause_ms, bytes_wire, converges, ...}, the caller's; NULL without memory. `lesson`: what was
 * applied, which forecast_learn() of a later day must know. */
json_t *forecast_to_json(const struct forecast *forecast, const struct forecast_path *path,
        const struct forecast_terms *terms, const struct forecast_lesson *lesson);

/* How good forecasts were. `records`: array of {forecast, outcome: {total_ms, pause_ms, bytes_wire}}, as the results of
 * migrations have them. {n, kinds: [{kind, n, in_range, in_range_share, median_error}]}: median of |outcome - expected| / outcome;
 * null without any. The caller's; NULL without memory. */
json_t *forecast_score(const json_t *records);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* When a schedule's runs begin, and which of them are left out. Pure: the time is a parameter, zones are values.
 *
 * Each run stands for one due time, and none is ever run twice, whatever the clock does: due times that were run are kept in the
 * state (the newest SCHEDULE_RAN_MAX; of those before the oldest one kept, none runs any more), which is recorded in the same
 * transaction as the run's task. The one exception: a clock that was more than SCHEDULE_AHEAD_MAX_S ahead for more runs than are
 * kept; those that are not kept run again at their time, for otherwise the schedule would stand still until then.
 *
 * A run that cannot begin within SCHEDULE_LATE_S of its time, for the manager was away or its clock jumped ahead, is a missed one.
 * By policy it is left out, or the latest of the missed ones is made up for as soon as possible, unless its window has ended. */

#include "base/error.h"
#include "cluster/calendar.h"

#define SCHEDULE_LATE_S 60
#define SCHEDULE_TRY_S 600 /* how long one without a window that could not begin is tried again */
#define SCHEDULE_AHEAD_MAX_S (2 * 86400)
#define SCHEDULE_RAN_MAX 64
#define SCHEDULE_MISSED_MAX 1000 /* more are not counted: that takes time */
#define SCHEDULE_WINDOW_MAX_S (30 * 86400)

enum schedule_missed { SCHEDULE_MISSED_SKIP, SCHEDULE_MISSED_RUN_ONCE };

struct schedule_rule {
        struct calendar calendar;
        int64_t at_s; /* once, at that time; INT64_MIN: by the calendar */
        const struct time_zone *zone;
        int64_t window_s; /* what has not started so long after the due time does not start; 0: no end */
        enum schedule_missed missed;
};

/* "2026-12-24T22:00[:SS]" (or with a space) in the zone, or with "Z" or "+01:00" behind it: one time. Local times that are left out
 * or come twice as in calendar.h. BAD_DOCUMENT. */
int schedule_parse_at(
        const char *text, const struct time_zone *zone, int64_t *ret_s, struct error **ret_error);

struct schedule_state {
        int64_t until_s; /* due times up to here were decided about */
        int64_t tried_s; /* this due time could not begin, and is tried again; INT64_MIN: none */
        int64_t floor_s; /* due times up to here do not run any more; INT64_MIN: none */
        int64_t ran_s[SCHEDULE_RAN_MAX]; /* ascending */
        size_t n_ran;
};
/* Of a schedule that begins now. */
void schedule_begin(struct schedule_state *state, int64_t now_s);

/* The first due time after after_s that may run; -ENOENT: none. */
int schedule_next(const struct schedule_rule *rule, const struct schedule_state *state, int64_t after_s,
        int64_t *ret_s);

struct schedule_decision {
        enum {
                SCHEDULE_WAIT, /* nothing is due */
                SCHEDULE_RUN,  /* due_s is to run now */
                SCHEDULE_SKIP, /* due_s, the latest, was missed */
        } verdict;
        int64_t due_s;
        size_t n_missed; /* left out, due_s of SCHEDULE_SKIP included */
        int64_t until_s; /* the run must not start anything after this; INT64_MAX: no end */
        bool clock_back; /* the clock was set back since the last decision */
        bool forgotten;  /* it had been ahead for so many runs that some of them may come again */
        bool changed;    /* the state has to be recorded, also when nothing is due */
};
/* Decides about now_s, and brings the state (of which it can be recorded with what is done) up to that. busy: its last run has not
 * ended; what is due is then left out. */
void schedule_decide(const struct schedule_rule *rule, struct schedule_state *state, int64_t now_s, bool busy,
        struct schedule_decision *ret_decision);

/* What the run of due_s needs was taken for a while: it is tried again while its window is open, without one for SCHEDULE_TRY_S. In place
 * of the state that schedule_decide() has brought up to date, to the state before. */
void schedule_note_tried(struct schedule_state *state, int64_t due_s);

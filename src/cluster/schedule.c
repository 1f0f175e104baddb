/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/schedule.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"

#define AT_HINT \
        "Write it as \"2026-12-24 22:00\" (in the schedule's time zone), or as " \
        "\"2026-12-24T22:00:00+01:00\"."

static int refuse_at(const char *text, struct error **ret_error)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT, AT_HINT, "\"%.40s\" is no time", text);
}

/* "Z", "+01:00" at the end of the text: where it begins, and the offset. */
static const char *find_offset(const char *text, int *ret_s)
{
        size_t len = strlen(text);
        const char *at;
        uint64_t h, m;
        char part[3] = "";

        *ret_s = 0;
        if (len && (text[len - 1] == 'Z' || text[len - 1] == 'z'))
                return text + len - 1;
        if (len < 12)
                return NULL;
        at = text + len - 6;
        memcpy(part, at + 1, 2);
        if ((*at != '+' && *at != '-') || at[3] != ':' || text_parse_u64(part, 0, 23, &h) < 0 ||
                text_parse_u64(at + 4, 0, 59, &m) < 0)
                return NULL;
        *ret_s = (int)(h * 3600 + m * 60) * (*at == '-' ? -1 : 1);
        return at;
}

int schedule_parse_at(
        const char *text, const struct time_zone *zone, int64_t *ret_s, struct error **ret_error)
{
        _cleanup_(time_zone_freep) struct time_zone *utc = time_zone_utc();
        char plain[32];
        struct calendar calendar;
        int offset_s = 0;
        const char *suffix = find_offset(text, &offset_s);
        size_t len = suffix ? (size_t)(suffix - text) : strlen(text);

        if (!utc)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (len < strlen("2026-12-24 22:00") || len > strlen("2026-12-24 22:00:00") ||
                strspn(text, "0123456789-:T ") < len)
                return refuse_at(text, ret_error);
        snprintf(plain, sizeof(plain), "%.*s", (int)len, text);
        if (plain[10] == 'T')
                plain[10] = ' ';
        if (plain[10] != ' ' || plain[4] != '-' || plain[7] != '-' ||
                calendar_parse(plain, &calendar, NULL) < 0 ||
                calendar_next(&calendar, suffix ? utc : zone, -1, ret_s) < 0)
                return refuse_at(text, ret_error);
        *ret_s -= offset_s;
        return 0;
}

void schedule_begin(struct schedule_state *state, int64_t now_s)
{
        *state = (struct schedule_state){.until_s = now_s, .floor_s = INT64_MIN, .tried_s = INT64_MIN};
}

static bool has_run(const struct schedule_state *state, int64_t due_s)
{
        for (size_t i = 0; i < state->n_ran; i++)
                if (state->ran_s[i] == due_s)
                        return true;
        return due_s <= state->floor_s;
}

static void note_run(struct schedule_state *state, int64_t due_s)
{
        size_t i;

        if (state->n_ran == SCHEDULE_RAN_MAX) {
                /* The earliest gives way: this very one, when the others were run by a clock that was ahead. */
                if (due_s < state->ran_s[0]) {
                        state->floor_s = MAX(state->floor_s, due_s);
                        return;
                }
                state->floor_s = MAX(state->floor_s, state->ran_s[0]);
                memmove(state->ran_s, state->ran_s + 1, --state->n_ran * sizeof(*state->ran_s));
        }
        for (i = state->n_ran++; i && state->ran_s[i - 1] > due_s; i--)
                state->ran_s[i] = state->ran_s[i - 1];
        state->ran_s[i] = due_s;
}

/* The first due time after after_s, whether it has run or not. */
static int due_after(const struct schedule_rule *rule, int64_t after_s, int64_t *ret_s)
{
        if (rule->at_s == INT64_MIN)
                return calendar_next(&rule->calendar, rule->zone, after_s, ret_s);
        if (after_s >= rule->at_s)
                return -ENOENT;
        *ret_s = rule->at_s;
        return 0;
}

int schedule_next(
        const struct schedule_rule *rule, const struct schedule_state *state, int64_t after_s, int64_t *ret_s)
{
        int64_t due_s = MAX(after_s, state->floor_s);
        int r;

        do
                r = due_after(rule, due_s, &due_s);
        while (r == 0 && has_run(state, due_s));
        if (r == 0)
                *ret_s = due_s;
        return r;
}

/* The latest due time in (after, until]: looked for in a span before the end that is doubled until something is in it. */
static bool latest_due(const struct schedule_rule *rule, int64_t after_s, int64_t until_s, int64_t *ret_s)
{
        int64_t span_s = 1, begin_s, due_s;

        if (due_after(rule, after_s, &due_s) < 0 || due_s > until_s)
                return false;
        do {
                begin_s = until_s - after_s > span_s ? until_s - span_s : after_s;
                if (due_after(rule, begin_s, &due_s) == 0 && due_s <= until_s) {
                        do
                                *ret_s = due_s;
                        while (due_after(rule, due_s, &due_s) == 0 && due_s <= until_s);
                        return true;
                }
                span_s *= 2;
        } while (begin_s > after_s);
        return false;
}

/* How many due times that may run are in (after, before). */
static size_t count_due(const struct schedule_rule *rule, const struct schedule_state *state, int64_t after_s,
        int64_t before_s)
{
        size_t n = 0;

        for (int64_t due_s = after_s; n < SCHEDULE_MISSED_MAX; n++)
                if (schedule_next(rule, state, due_s, &due_s) < 0 || due_s >= before_s)
                        break;
        return n;
}

/* How long after its due time a run may begin. tried: it could not begin in time, for what it needs was taken. */
static int64_t open_for_s(const struct schedule_rule *rule, bool tried)
{
        if (rule->window_s)
                return rule->window_s;
        return tried && rule->missed == SCHEDULE_MISSED_SKIP ? SCHEDULE_TRY_S : INT64_MAX;
}

void schedule_note_tried(struct schedule_state *state, int64_t due_s)
{
        state->tried_s = due_s;
}

void schedule_decide(const struct schedule_rule *rule, struct schedule_state *state, int64_t now_s, bool busy,
        struct schedule_decision *ret_decision)
{
        struct schedule_decision decision = {.verdict = SCHEDULE_WAIT, .until_s = INT64_MAX};
        int64_t due_s, late_s;
        bool runs;

        if (now_s < state->until_s) {
                decision.clock_back = decision.changed = true;
                state->until_s = now_s;
                /* A clock that was far ahead for many runs must not stop the schedule until that date. */
                if (state->floor_s > now_s + SCHEDULE_AHEAD_MAX_S) {
                        decision.forgotten = true;
                        state->floor_s = now_s;
                }
        }
        if (latest_due(rule, state->until_s, now_s, &due_s)) {
                late_s = now_s - due_s;
                runs = (late_s <= SCHEDULE_LATE_S || rule->missed == SCHEDULE_MISSED_RUN_ONCE ||
                               due_s == state->tried_s) &&
                       late_s < open_for_s(rule, due_s == state->tried_s);
                decision.changed = true;
                decision.n_missed = count_due(rule, state, state->until_s, due_s);
                decision.due_s = due_s;
                if (rule->window_s)
                        decision.until_s = due_s + rule->window_s;
                if (!has_run(state, due_s)) {
                        decision.verdict = runs && !busy ? SCHEDULE_RUN : SCHEDULE_SKIP;
                        decision.n_missed += decision.verdict == SCHEDULE_SKIP;
                } else if (decision.n_missed)
                        decision.verdict = SCHEDULE_SKIP;
                if (decision.verdict == SCHEDULE_RUN)
                        note_run(state, due_s);
                state->until_s = due_s;
        }
        *ret_decision = decision;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/calendar.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/civil.h"
#include "base/text.h"

#define DAY_S 86400
#define HINT \
        "Write [WEEKDAYS] [YEAR-MONTH-DAY] [HOUR:MINUTE[:SECOND]] [ZONE], such as \"Mon..Fri 22:00\" or " \
        "\"*-*-01 " \
        "03:30 Europe/Berlin\"."

static bool set_has(const struct calendar_set *set, unsigned int n)
{
        return set->bits[n / 64] >> (n % 64) & 1;
}

static void set_add(struct calendar_set *set, unsigned int n)
{
        set->bits[n / 64] |= UINT64_C(1) << (n % 64);
}

/* --- Parsing ------------------------------------------------------------------------------------------------------------ */

struct range {
        const char *what;
        unsigned int min, max;
        unsigned int base;   /* of the bits */
        unsigned int digits; /* at least, 0: any */
};
static const struct range years = {"year", CALENDAR_YEAR_MIN, CALENDAR_YEAR_MAX, CALENDAR_YEAR_MIN, 4};
static const struct range months = {"month", 1, 12, 0, 0}, days = {"day", 1, 31, 0, 0};
static const struct range hours = {"hour", 0, 23, 0, 0}, minutes = {"minute", 0, 59, 0, 0},
                          seconds = {"second", 0, 59, 0, 0};

static const struct {
        const char *word, *text;
} shorthands[] = {
        {"minutely", "*-*-* *:*:00"},
        {"hourly", "*-*-* *:00:00"},
        {"daily", "*-*-* 00:00:00"},
        {"weekly", "Mon *-*-* 00:00:00"},
        {"monthly", "*-*-01 00:00:00"},
        {"quarterly", "*-01,04,07,10-01 00:00:00"},
        {"semiannually", "*-01,07-01 00:00:00"},
        {"yearly", "*-01-01 00:00:00"},
        {"annually", "*-01-01 00:00:00"},
};

static int refuse(struct error **ret_error, const char *what, const char *text, size_t len)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT, HINT, "calendar expression: \"%.*s\" is no %s",
                (int)MIN(len, (size_t)64), text, what);
}

/* A number of the range at *at, which is moved behind it. */
static bool take_number(const char **at, const char *end, const struct range *range, unsigned int *ret)
{
        unsigned int n = 0, n_digits = 0;

        for (; *at < end && **at >= '0' && **at <= '9' && n < 100000; ++*at, n_digits++)
                n = n * 10 + (unsigned int)(**at - '0');
        *ret = n;
        return n_digits && n_digits >= range->digits;
}

/* "a", "a..b", "a/n", "a..b/n", a star for all; `downwards`: counted from the end, hence from a to 1. */
static bool add_item(
        const char *at, const char *end, const struct range *range, bool downwards, struct calendar_set *set)
{
        unsigned int from = range->min, to = range->max, step = 1;
        static const struct range any = {.max = UINT32_MAX};
        bool star = at < end && *at == '*', bounded = star;

        if (star)
                at++;
        else if (!take_number(&at, end, range, &from) || from < range->min || from > range->max)
                return false;
        if (!star && end - at >= 2 && !strncmp(at, "..", 2)) {
                at += 2;
                bounded = true;
                if (downwards || !take_number(&at, end, range, &to) || to > range->max || to < from)
                        return false;
        }
        if (at < end && *at == '/') {
                at++;
                bounded = true;
                if (!take_number(&at, end, &any, &step) || !step)
                        return false;
        }
        if (at != end)
                return false;
        if (downwards && bounded && !star)
                for (unsigned int n = from; n >= 1; n = n > step ? n - step : 0)
                        set_add(set, n - range->base);
        else
                for (unsigned int n = from; n <= (bounded ? to : from); n += MIN(step, range->max + 1))
                        set_add(set, n - range->base);
        return true;
}

static int parse_set(const char *at, const char *end, const struct range *range, bool downwards,
        struct calendar_set *ret, struct error **ret_error)
{
        *ret = (struct calendar_set){};
        for (const char *item = at;; item++) {
                const char *stop = memchr(item, ',', (size_t)(end - item)) ?: end;

                if (!add_item(item, stop, range, downwards, ret))
                        return refuse(ret_error, range->what, item, (size_t)(stop - item));
                if (stop == end)
                        return 0;
                item = stop;
        }
}

static const char *const weekday_names[] = {
        "Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};

/* The weekday that the text begins with, by three letters or in full. */
static bool take_weekday(const char **at, const char *end, unsigned int *ret)
{
        for (unsigned int i = 0; i < ARRAY_SIZE(weekday_names); i++) {
                size_t left = (size_t)(end - *at), full = strlen(weekday_names[i]);

                if (left < 3 || strncasecmp(*at, weekday_names[i], 3))
                        continue;
                *at += left >= full && !strncasecmp(*at, weekday_names[i], full) ? full : 3;
                *ret = i;
                return *at == end || **at == ',' || **at == '.';
        }
        return false;
}

/* "Mon..Wed,Sun"; a range may go past Sunday. */
static bool parse_weekdays(const char *at, const char *end, unsigned int *ret)
{
        unsigned int set = 0, from, to;

        for (;; at++) {
                if (!take_weekday(&at, end, &from))
                        return false;
                to = from;
                if (end - at >= 2 && !strncmp(at, "..", 2)) {
                        at += 2;
                        if (!take_weekday(&at, end, &to))
                                return false;
                }
                for (unsigned int i = from;; i = (i + 1) % 7) {
                        set |= 1u << i;
                        if (i == to)
                                break;
                }
                if (at == end)
                        break;
                if (*at != ',')
                        return false;
        }
        *ret = set;
        return true;
}

/* "[YEAR-]MONTH-DAY"; a tilde before the day counts from the month's end. */
static int parse_date(const char *at, const char *end, struct calendar *calendar, struct error **ret_error)
{
        const char *dash = memchr(at, '-', (size_t)(end - at)), *tilde = memchr(at, '~', (size_t)(end - at)),
                   *day, *second;
        int r = 0;

        second = dash ? memchr(dash + 1, '-', (size_t)(end - dash - 1)) : NULL;
        day = tilde ?: second ?: dash;
        if (!day || (tilde && (second || (dash && dash > tilde))) ||
                (second && memchr(second + 1, '-', (size_t)(end - second - 1))))
                return refuse(ret_error, "date", at, (size_t)(end - at));
        if (dash && day != dash) {
                r = parse_set(at, dash, &years, false, &calendar->years, ret_error);
                at = dash + 1;
        }
        if (r >= 0)
                r = parse_set(at, day, &months, false, &calendar->months, ret_error);
        if (r >= 0 && tilde) {
                calendar->days = (struct calendar_set){};
                r = parse_set(day + 1, end, &days, true, &calendar->days_from_end, ret_error);
        } else if (r >= 0)
                r = parse_set(day + 1, end, &days, false, &calendar->days, ret_error);
        return r;
}

static int parse_time(const char *at, const char *end, struct calendar *calendar, struct error **ret_error)
{
        const char *colon = memchr(at, ':', (size_t)(end - at)), *second;
        int r;

        if (!colon)
                return refuse(ret_error, "time", at, (size_t)(end - at));
        r = parse_set(at, colon, &hours, false, &calendar->hours, ret_error);
        second = memchr(colon + 1, ':', (size_t)(end - colon - 1));
        if (r >= 0)
                r = parse_set(colon + 1, second ?: end, &minutes, false, &calendar->minutes, ret_error);
        if (r >= 0 && second)
                r = parse_set(second + 1, end, &seconds, false, &calendar->seconds, ret_error);
        return r;
}

/* A name of the tz database that is safe as a file's name in it. */
static bool parse_zone(const char *at, size_t len, char ret[static CALENDAR_ZONE_SIZE])
{
        if (len >= CALENDAR_ZONE_SIZE)
                return false;
        memcpy(ret, at, len);
        ret[len] = '\0';
        return text_is_relative_path(ret) &&
               strspn(ret, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-_/") == len;
}

enum { PART_WEEKDAYS, PART_DATE, PART_TIME, PART_ZONE };

/* A word of the expression; next: the first part that may still come. */
static int parse_word(
        const char *at, size_t len, unsigned int *next, struct calendar *calendar, struct error **ret_error)
{
        const char *end = at + len;
        bool letter = (*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z');
        unsigned int part = letter ? PART_ZONE : memchr(at, ':', len) ? PART_TIME : PART_DATE;

        if (letter && parse_weekdays(at, end, &calendar->weekdays))
                part = PART_WEEKDAYS;
        if (part < *next)
                return refuse(ret_error, "part that can stand there", at, len);
        if (part == PART_ZONE && (*next == PART_WEEKDAYS || !parse_zone(at, len, calendar->zone)))
                return refuse(ret_error, "weekday, shorthand or time zone", at, len);
        *next = part + 1;
        if (part == PART_DATE)
                return parse_date(at, end, calendar, ret_error);
        return part == PART_TIME ? parse_time(at, end, calendar, ret_error) : 0;
}

static void set_all(struct calendar_set *set, const struct range *range)
{
        *set = (struct calendar_set){};
        for (unsigned int n = range->min; n <= range->max; n++)
                set_add(set, n - range->base);
}

static bool is_full(const struct calendar_set *set, const struct range *range)
{
        for (unsigned int n = range->min; n <= range->max; n++)
                if (!set_has(set, n - range->base))
                        return false;
        return true;
}

static int parse_words(
        const char *at, unsigned int *next, struct calendar *calendar, struct error **ret_error)
{
        for (at += strspn(at, " "); *at; at += strspn(at, " ")) {
                size_t len = strcspn(at, " ");
                int r = parse_word(at, len, next, calendar, ret_error);

                if (r < 0)
                        return r;
                at += len;
        }
        return 0;
}

/* The text of the shorthand that stands at the beginning, and how long it is; NULL: none. */
static const char *shorthand_of(const char *text, size_t *ret_len)
{
        *ret_len = strcspn(text, " ");
        for (size_t i = 0; i < ARRAY_SIZE(shorthands); i++)
                if (strlen(shorthands[i].word) == *ret_len &&
                        !strncasecmp(text, shorthands[i].word, *ret_len))
                        return shorthands[i].text;
        return NULL;
}

int calendar_parse(const char *text, struct calendar *ret_calendar, struct error **ret_error)
{
        struct calendar calendar = {.weekdays = 0x7f, .hours = {{1}}, .minutes = {{1}}, .seconds = {{1}}};
        unsigned int next = 0;
        const char *shorthand;
        size_t len;
        int r = 0;

        if (strlen(text) > CALENDAR_TEXT_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, HINT,
                        "calendar expression: it has more than %d characters", CALENDAR_TEXT_MAX);
        set_all(&calendar.years, &years);
        set_all(&calendar.months, &months);
        set_all(&calendar.days, &days);
        text += strspn(text, " ");
        shorthand = shorthand_of(text, &len);
        if (shorthand) {
                r = parse_words(shorthand, &next, &calendar, ret_error);
                text += len;
        }
        if (r >= 0)
                r = parse_words(text, &next, &calendar, ret_error);
        if (r < 0)
                return r;
        if (!next)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, HINT, "calendar expression: it is empty");
        calendar.every_hour = is_full(&calendar.hours, &hours);
        *ret_calendar = calendar;
        return 0;
}

/* --- Which time comes next ---------------------------------------------------------------------------------------------- */

static bool has_day(
        const struct calendar *calendar, int64_t day, int64_t year, unsigned int month, unsigned int of_month)
{
        unsigned int from_end = civil_month_days(year, month) - of_month + 1;

        return (set_has(&calendar->days, of_month) || set_has(&calendar->days_from_end, from_end)) &&
               (calendar->weekdays >> civil_weekday(day) & 1);
}

/* The first second of the day that is in the sets, from `from` on. */
static bool time_of_day(const struct calendar *calendar, unsigned int from, unsigned int *ret)
{
        for (unsigned int h = from / 3600; h < 24; h++, from = h * 3600) {
                if (!set_has(&calendar->hours, h))
                        continue;
                for (unsigned int m = from / 60 % 60; m < 60; m++, from = h * 3600 + m * 60) {
                        if (!set_has(&calendar->minutes, m))
                                continue;
                        for (unsigned int s = from % 60; s < 60; s++)
                                if (set_has(&calendar->seconds, s)) {
                                        *ret = h * 3600 + m * 60 + s;
                                        return true;
                                }
                }
        }
        return false;
}

/* The first local time in [from, until), as seconds since 1970 of a clock without zone. */
static bool local_next(const struct calendar *calendar, int64_t from_s, int64_t until_s, int64_t *ret_s)
{
        int64_t day = civil_day_of(from_s), year;
        unsigned int of_day = (unsigned int)(from_s - day * DAY_S), month, of_month, found;

        while (day * DAY_S < until_s) {
                civil_date(day, &year, &month, &of_month);
                if (year > CALENDAR_YEAR_MAX)
                        return false;
                if (year < CALENDAR_YEAR_MIN ||
                        !set_has(&calendar->years, (unsigned int)(year - CALENDAR_YEAR_MIN)))
                        day = civil_days(year + 1, 1, 1);
                else if (!set_has(&calendar->months, month))
                        day = civil_days(month == 12 ? year + 1 : year, month % 12 + 1, 1);
                else if (has_day(calendar, day, year, month, of_month) &&
                         time_of_day(calendar, of_day, &found)) {
                        *ret_s = day * DAY_S + found;
                        return *ret_s < until_s;
                } else
                        day++;
                of_day = 0;
        }
        return false;
}

int calendar_next(
        const struct calendar *calendar, const struct time_zone *zone, int64_t after_s, int64_t *ret_s)
{
        int64_t end_s = civil_days(CALENDAR_YEAR_MAX + 1, 1, 2) * DAY_S, from_s = after_s + 1;

        while (from_s < end_s) {
                struct time_zone_span span = time_zone_span(zone, from_s), before = span;
                int64_t local_s = from_s + span.offset_s, until_s, found_s;

                if (span.begin_s != INT64_MIN)
                        before = time_zone_span(zone, span.begin_s - 1);
                /* What fell into the gap before this span. */
                if (!calendar->every_hour && from_s == span.begin_s && before.offset_s < span.offset_s &&
                        local_next(calendar, from_s + before.offset_s, local_s, &found_s)) {
                        *ret_s = from_s;
                        return 0;
                }
                /* What came before already. */
                if (!calendar->every_hour && before.offset_s > span.offset_s)
                        local_s = MAX(local_s, span.begin_s + before.offset_s);
                until_s = MIN(span.end_s, end_s) + span.offset_s;
                if (local_next(calendar, local_s, until_s, &found_s)) {
                        *ret_s = found_s - span.offset_s;
                        return 0;
                }
                from_s = span.end_s;
        }
        return -ENOENT;
}

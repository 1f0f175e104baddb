/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/time_zone.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/civil.h"

#define HEADER_SIZE 44
#define TYPE_SIZE 6
#define OFFSET_MAX_S (26 * 3600) /* RFC 9636, section 3.2: more than -25 h, less than 26 h */
#define RULE_TIME_MAX_H 167      /* version 3 of the format */
#define DAY_S 86400

/* When in a year a rule's change takes place. */
struct when {
        enum {
                WHEN_MONTH,
                WHEN_JULIAN,
                WHEN_DAY
        } kind;                        /* "Mm.w.d", "Jn" (29 February is not counted), "n" */
        unsigned int month, week, day; /* day: of the week, or n */
        int32_t time_s;                /* of the local time before the change */
};

/* The footer: a POSIX TZ string. */
struct rule {
        bool is_set;
        bool has_dst;
        int32_t std_s, dst_s; /* east of UTC */
        struct when to_dst, to_std;
};

struct time_zone {
        size_t n;          /* transitions */
        int64_t *at_s;     /* ascending */
        int32_t *offset_s; /* from at_s on */
        int32_t first_s;   /* before the first one */
        struct rule rule;
};

/* --- Reading ------------------------------------------------------------------------------------------------------------ */

struct counts {
        uint32_t isut, isstd, leap, time, type, chars;
};

static uint32_t be32(const uint8_t *p)
{
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static int64_t be64(const uint8_t *p)
{
        return (int64_t)((uint64_t)be32(p) << 32 | be32(p + 4));
}

/* A header, and the number of bytes behind it with times of time_size bytes. */
static int read_header(
        const uint8_t *data, size_t size, size_t time_size, struct counts *ret, size_t *ret_body)
{
        if (size < HEADER_SIZE || memcmp(data, "TZif", 4))
                return -EINVAL;
        if (data[4] < '2')
                return -EOPNOTSUPP;
        *ret = (struct counts){be32(data + 20), be32(data + 24), be32(data + 28), be32(data + 32),
                be32(data + 36), be32(data + 40)};
        if (ret->isut > size || ret->isstd > size || ret->leap > size || ret->time > size || !ret->type ||
                ret->type > 256 || ret->chars > size)
                return -EINVAL;
        *ret_body = ret->time * (time_size + 1) + (size_t)ret->type * TYPE_SIZE + ret->chars +
                    ret->leap * (time_size + 4) + ret->isstd + ret->isut;
        return *ret_body > size - HEADER_SIZE ? -EINVAL : 0;
}

static int read_offset(const uint8_t *types, uint32_t n, uint8_t i, int32_t *ret)
{
        int32_t offset;

        if (i >= n)
                return -EINVAL;
        offset = (int32_t)be32(types + (size_t)i * TYPE_SIZE);
        if (offset < -OFFSET_MAX_S || offset > OFFSET_MAX_S)
                return -EINVAL;
        *ret = offset;
        return 0;
}

static int read_transitions(struct time_zone *zone, const uint8_t *body, const struct counts *counts)
{
        const uint8_t *indices = body + (size_t)counts->time * 8, *types = indices + counts->time;
        int r = read_offset(types, counts->type, 0, &zone->first_s);

        zone->at_s = alloc_array(counts->time + 1, sizeof(*zone->at_s));
        zone->offset_s = alloc_array(counts->time + 1, sizeof(*zone->offset_s));
        if (!zone->at_s || !zone->offset_s)
                return -ENOMEM;
        for (zone->n = 0; zone->n < counts->time && r == 0; zone->n++) {
                zone->at_s[zone->n] = be64(body + zone->n * 8);
                if ((zone->n && zone->at_s[zone->n] <= zone->at_s[zone->n - 1]) ||
                        zone->at_s[zone->n] < -TIME_ZONE_RANGE_S || zone->at_s[zone->n] > TIME_ZONE_RANGE_S)
                        return -EINVAL;
                r = read_offset(types, counts->type, indices[zone->n], &zone->offset_s[zone->n]);
        }
        return r;
}

/* --- The footer --------------------------------------------------------------------------------------------------------- */

static bool take(const char **at, char c)
{
        if (**at != c)
                return false;
        ++*at;
        return true;
}

static int take_number(const char **at, unsigned int max, unsigned int *ret)
{
        unsigned int n = 0;

        if (**at < '0' || **at > '9')
                return -EINVAL;
        for (; **at >= '0' && **at <= '9'; ++*at) {
                n = n * 10 + (unsigned int)(**at - '0');
                if (n > max)
                        return -EINVAL;
        }
        *ret = n;
        return 0;
}

/* "[+-]hh[:mm[:ss]]" */
static int take_time(const char **at, unsigned int hours_max, int32_t *ret_s)
{
        bool negative = take(at, '-');
        unsigned int h, m = 0, s = 0;
        int r;

        if (!negative)
                (void)take(at, '+');
        r = take_number(at, hours_max, &h);
        if (r == 0 && take(at, ':'))
                r = take_number(at, 59, &m);
        if (r == 0 && take(at, ':'))
                r = take_number(at, 59, &s);
        if (r == 0)
                *ret_s = (int32_t)(h * 3600 + m * 60 + s) * (negative ? -1 : 1);
        return r;
}

/* "CET", or "<+1030>" */
static int skip_name(const char **at)
{
        const char *begin = *at;

        if (take(at, '<')) {
                *at += strcspn(*at, ">");
                return take(at, '>') ? 0 : -EINVAL;
        }
        while ((**at >= 'A' && **at <= 'Z') || (**at >= 'a' && **at <= 'z'))
                ++*at;
        return *at - begin >= 3 ? 0 : -EINVAL;
}

static int take_when(const char **at, struct when *ret)
{
        int r;

        *ret = (struct when){.kind = WHEN_DAY, .time_s = 2 * 3600};
        if (take(at, 'M')) {
                ret->kind = WHEN_MONTH;
                r = take_number(at, 12, &ret->month);
                if (r == 0)
                        r = take(at, '.') ? take_number(at, 5, &ret->week) : -EINVAL;
                if (r == 0)
                        r = take(at, '.') ? take_number(at, 6, &ret->day) : -EINVAL;
                if (r == 0 && (!ret->month || !ret->week))
                        r = -EINVAL;
        } else {
                if (take(at, 'J'))
                        ret->kind = WHEN_JULIAN;
                r = take_number(at, 365, &ret->day);
                if (r == 0 && ret->kind == WHEN_JULIAN && !ret->day)
                        r = -EINVAL;
        }
        if (r == 0 && take(at, '/'))
                r = take_time(at, RULE_TIME_MAX_H, &ret->time_s);
        return r;
}

/* POSIX.1-2017, 8.3, TZ; offsets there count to the west. */
static int parse_rule(const char *text, struct rule *ret)
{
        const char *at = text;
        int32_t west_s = 0;
        int r;

        r = skip_name(&at);
        if (r == 0)
                r = take_time(&at, 24, &west_s);
        ret->std_s = -west_s;
        ret->dst_s = ret->std_s + 3600;
        if (r == 0 && *at) {
                ret->has_dst = true;
                r = skip_name(&at);
                if (r == 0 && *at != ',') {
                        r = take_time(&at, 24, &west_s);
                        ret->dst_s = -west_s;
                }
                if (r == 0)
                        r = take(&at, ',') ? take_when(&at, &ret->to_dst) : -EINVAL;
                if (r == 0)
                        r = take(&at, ',') ? take_when(&at, &ret->to_std) : -EINVAL;
        }
        ret->is_set = true;
        return r == 0 && *at ? -EINVAL : r;
}

/* Between two newlines; empty: the last offset stays. */
static int read_footer(struct time_zone *zone, const uint8_t *data, size_t size)
{
        const char *text = (const char *)data + 1, *end;
        char copy[96];

        if (!size || *data != '\n')
                return -EINVAL;
        end = memchr(text, '\n', size - 1);
        if (!end || (size_t)(end - text) >= sizeof(copy) || memchr(text, '\0', (size_t)(end - text)))
                return -EINVAL;
        memcpy(copy, text, (size_t)(end - text));
        copy[end - text] = '\0';
        return *copy ? parse_rule(copy, &zone->rule) : 0;
}

int time_zone_parse(const void *data, size_t size, struct time_zone **ret_zone)
{
        _cleanup_(time_zone_freep) struct time_zone *zone = ALLOC(struct time_zone);
        const uint8_t *at = data;
        struct counts counts;
        size_t body;
        int r;

        if (!zone)
                return -ENOMEM;
        /* Twice: with times of 32 bits, for programs of before 2005, and of 64. */
        r = read_header(at, size, 4, &counts, &body);
        if (r < 0)
                return r;
        at += HEADER_SIZE + body;
        size -= HEADER_SIZE + body;
        r = read_header(at, size, 8, &counts, &body);
        if (r == 0 && counts.leap)
                r = -EOPNOTSUPP;
        if (r == 0)
                r = read_transitions(zone, at + HEADER_SIZE, &counts);
        if (r == 0)
                r = read_footer(zone, at + HEADER_SIZE + body, size - HEADER_SIZE - body);
        if (r < 0)
                return r;
        *ret_zone = TAKE_PTR(zone);
        return 0;
}

struct time_zone *time_zone_utc(void)
{
        return ALLOC(struct time_zone);
}

void time_zone_free(struct time_zone *zone)
{
        if (!zone)
                return;
        free(zone->at_s);
        free(zone->offset_s);
        free(zone);
}

/* --- Looking up --------------------------------------------------------------------------------------------------------- */

/* When the change takes place in that year, in local time. */
static int64_t when_in(const struct when *when, int64_t year)
{
        int64_t first = civil_days(year, when->kind == WHEN_MONTH ? when->month : 1, 1), day;
        unsigned int length;

        switch (when->kind) {
        case WHEN_MONTH:
                length = civil_month_days(year, when->month);
                day = (when->day + 7 - civil_weekday(first)) % 7 + (when->week - 1) * 7;
                while (day >= length)
                        day -= 7; /* "5" is the last one */
                break;
        case WHEN_JULIAN:
                day = when->day - 1 + (when->day >= 60 && civil_month_days(year, 2) == 29);
                break;
        default:
                day = when->day;
        }
        return (first + day) * DAY_S + when->time_s;
}

/* Where the rule alone counts. Changes of two years before and after are looked at: local and UTC years differ, and a rule's time may be a
 * week before or behind its day. */
static struct time_zone_span span_of_rule(const struct rule *rule, int64_t unix_s)
{
        struct time_zone_span span = {INT64_MIN, INT64_MAX, rule->std_s};
        int64_t year;
        unsigned int month, day;

        if (!rule->has_dst)
                return span;
        civil_date(civil_day_of(unix_s), &year, &month, &day);
        for (int64_t y = year - 2; y <= year + 2; y++) {
                const struct {
                        int64_t at_s;
                        int32_t offset_s;
                } changes[] = {{when_in(&rule->to_std, y) - rule->dst_s, rule->std_s},
                        {when_in(&rule->to_dst, y) - rule->std_s, rule->dst_s}};

                for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
                        if (changes[i].at_s > unix_s)
                                span.end_s = MIN(span.end_s, changes[i].at_s);
                        else if (changes[i].at_s >= span.begin_s) {
                                span.begin_s = changes[i].at_s;
                                span.offset_s = changes[i].offset_s;
                        }
        }
        return span;
}

struct time_zone_span time_zone_span(const struct time_zone *zone, int64_t unix_s)
{
        struct time_zone_span span = {INT64_MIN, INT64_MAX, zone->first_s};
        size_t low = 0, high = zone->n; /* the first transition after unix_s is in [low, high] */

        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (zone->at_s[middle] <= unix_s)
                        low = middle + 1;
                else
                        high = middle;
        }
        if (low == zone->n && zone->rule.is_set) {
                span = span_of_rule(&zone->rule, unix_s);
                if (zone->n)
                        span.begin_s = MAX(span.begin_s, zone->at_s[zone->n - 1]);
                return span;
        }
        if (low) {
                span.begin_s = zone->at_s[low - 1];
                span.offset_s = zone->offset_s[low - 1];
        }
        if (low < zone->n)
                span.end_s = zone->at_s[low];
        return span;
}

char *time_zone_format(const struct time_zone *zone, int64_t unix_s, char ret[static 32])
{
        int32_t offset_s = time_zone_span(zone, unix_s).offset_s;
        unsigned int apart_s = (unsigned int)(offset_s < 0 ? -offset_s : offset_s);
        int64_t local_s = unix_s + offset_s, days = civil_day_of(local_s), year;
        unsigned int of_day = (unsigned int)(local_s - days * DAY_S), month, day;

        civil_date(days, &year, &month, &day);
        snprintf(ret, 32, "%04u-%02u-%02uT%02u:%02u:%02u%c%02u:%02u", (unsigned int)year % 10000, month % 100,
                day % 100, of_day / 3600 % 100, of_day / 60 % 60, of_day % 60, offset_s < 0 ? '-' : '+',
                apart_s / 3600 % 100, apart_s / 60 % 60);
        return ret;
}

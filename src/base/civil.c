/* SPDX-License-Identifier: Apache-2.0 */
#include "base/civil.h"

#define ERA_DAYS 146097    /* 400 years */
#define ERA_TO_1970 719468 /* from 0000-03-01 */
#define DAY_S 86400

static int64_t floor_div(int64_t a, int64_t b)
{
        return a / b - (a % b < 0);
}

int64_t civil_days(int64_t year, unsigned int month, unsigned int day)
{
        /* Years begin in March, so that the leap day is a year's last one. */
        int64_t y = month <= 2 ? year - 1 : year, era = floor_div(y, 400);
        unsigned int of_era = (unsigned int)(y - era * 400);
        unsigned int of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;

        return era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - ERA_TO_1970;
}

void civil_date(int64_t days, int64_t *ret_year, unsigned int *ret_month, unsigned int *ret_day)
{
        int64_t era = floor_div(days + ERA_TO_1970, ERA_DAYS);
        unsigned int n = (unsigned int)(days + ERA_TO_1970 - era * ERA_DAYS);
        unsigned int of_era = (n - n / 1460 + n / 36524 - n / (ERA_DAYS - 1)) / 365;
        unsigned int of_year = n - (365 * of_era + of_era / 4 - of_era / 100);
        unsigned int month = (5 * of_year + 2) / 153;

        *ret_day = of_year - (153 * month + 2) / 5 + 1;
        *ret_month = month < 10 ? month + 3 : month - 9;
        *ret_year = era * 400 + of_era + (*ret_month <= 2);
}

unsigned int civil_weekday(int64_t days)
{
        int64_t n = (days + 4) % 7; /* 1970-01-01 was a Thursday */

        return (unsigned int)(n < 0 ? n + 7 : n);
}

unsigned int civil_month_days(int64_t year, unsigned int month)
{
        return (unsigned int)(civil_days(month == 12 ? year + 1 : year, month % 12 + 1, 1) -
                              civil_days(year, month, 1));
}

int64_t civil_day_of(int64_t seconds)
{
        return floor_div(seconds, DAY_S);
}

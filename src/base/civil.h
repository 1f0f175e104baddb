/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The proleptic Gregorian calendar in days since 1970-01-01; no time zones and no leap seconds, hence no state. */

#include "base/macros.h"

/* Days since 1970-01-01 of the date; month 1 to 12, day 1 to 31 of a year from 0 on. (H. Hinnant, "chrono-Compatible Low-Level Date
 * Algorithms", days_from_civil.) */
int64_t civil_days(int64_t year, unsigned int month, unsigned int day);
/* The date of that day. */
void civil_date(int64_t days, int64_t *ret_year, unsigned int *ret_month, unsigned int *ret_day);
/* 0: Sunday, to 6: Saturday. */
unsigned int civil_weekday(int64_t days);
/* 28 to 31. */
unsigned int civil_month_days(int64_t year, unsigned int month);
/* The whole days of a number of seconds, rounded down also before 1970. */
int64_t civil_day_of(int64_t seconds);

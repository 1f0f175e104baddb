/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Logging to stderr: one line a message. Under systemd (JOURNAL_STREAM set) lines carry the <N> priority
 * prefix, else a UTC time stamp. Contract (after systemd's): libraries log at debug only and return errors;
 * whoever decides logs once, at the level an operator should see. No secrets in messages. Thread-safe: one
 * write() per line. */

#include "base/macros.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_NOTICE, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Name of the program for the prefix (not copied) and the highest level that is written. */
void log_init(const char *program, enum log_level max_level);
/* "error" .. "debug"; -EINVAL for another word. */
int log_level_from_string(const char *s, enum log_level *ret_level);
void log_write(enum log_level level, const char *fmt, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

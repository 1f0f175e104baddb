/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Text that people type and that names things: identifiers, sizes, durations, rates, times. */

#include "base/error.h"
#include "base/macros.h"

#define NAME_MAX_CHARS 63
#define UUID_STRING_SIZE 37 /* with the NUL */

/* True for [A-Za-z0-9][A-Za-z0-9._-]{0,62}: what VMs, hosts, datastores, switches and port groups are called.
 * Such a name is safe as a file name, a QEMU id and part of an option string. */
bool text_is_name(const char *s);

/* True for a canonical lower-case UUID. */
bool text_is_uuid(const char *s);
/* Random (version 4) UUID. 0 or negative errno. */
int text_uuid_new(char ret_uuid[static UUID_STRING_SIZE]);
/* `n_bytes` random bytes as lower-case hex; ret_hex holds 2 * n_bytes + 1. 0 or negative errno. */
int text_random_hex(size_t n_bytes, char *ret_hex);

/* How many of the first `max_bytes` bytes of a text in UTF-8 can be kept without cutting a character in two. */
size_t text_fitting(const char *s, size_t max_bytes);

void text_hex_encode(const void *data, size_t len, char *ret_hex); /* 2 * len + 1 characters */
/* Exactly 2 * len hex digits, else -EINVAL. */
int text_hex_decode(const char *hex, void *ret_data, size_t len);

/* True for a path relative to a folder that cannot leave it: no leading '/', no empty, "." or ".." component,
 * no control character, at most 255 characters. */
bool text_is_relative_path(const char *s);

/* "4GiB", "4G", "512M", "65536": bytes; K, M, G, T are powers of 1024 (KB, MB, GB, TB of 1000). -EINVAL or
 * -ERANGE. */
int text_parse_size(const char *s, uint64_t *ret_bytes);
/* "100ms", "2s", "1m", "1h"; a plain number is milliseconds. */
int text_parse_duration_ms(const char *s, uint64_t *ret_ms);
/* "1gbit", "100mbit", "10G" (bits per second, powers of 1000). */
int text_parse_rate(const char *s, uint64_t *ret_bits_per_s);
/* Decimal number, whole string. -EINVAL or -ERANGE outside [min, max]. */
int text_parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret);

/* "1.5 GiB", "512 B": at most 15 characters. Returns ret. */
char *text_format_size(uint64_t bytes, char ret[static 16]);
/* "950 ms", "2.1 s", "3 min 20 s". */
char *text_format_duration_ms(uint64_t ms, char ret[static 24]);
/* "941 Mbit/s". */
char *text_format_rate(uint64_t bits_per_s, char ret[static 20]);
/* RFC 3339 UTC with milliseconds, "2026-11-21T10:00:00.123Z", from milliseconds since 1970. */
char *text_format_time(int64_t unix_ms, char ret[static 32]);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Paths of routes: matching "/api/v1/vms/{name}" and percent-decoding (RFC 3986 section 2.1). No I/O. */

#include "base/macros.h"

#define HTTP_PATH_MAX_PARAMS 8

struct http_path_params {
        size_t n;
        struct {
                const char *name; /* inside the pattern, name_len characters */
                size_t name_len;
                char *value; /* decoded, owned */
        } items[HTTP_PATH_MAX_PARAMS];
};

void http_path_params_deinit(struct http_path_params *params);

/* Decodes the first `len` characters of `s` into a new string. -EINVAL for a broken sequence or a NUL,
 * -ENOMEM. */
int http_path_decode(const char *s, size_t len, char **ret);

/* Whether the path has the pattern's shape; its {parts} are not decoded. */
bool http_path_fits(const char *pattern, const char *path);

/* Compares `path` (as it came, still encoded, without the query) with a pattern. Literal segments must be
 * equal byte for byte: a prefix that `admit` checks is then the prefix that was routed. A {name} takes one
 * non-empty segment, decoded. 1: matches, *ret filled; 0: does not; -EINVAL: it would, but a part is not
 * validly encoded; -ENOMEM. */
int http_path_match(const char *pattern, const char *path, struct http_path_params *ret);

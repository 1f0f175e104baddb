/* SPDX-License-Identifier: Apache-2.0 */
#include "io/http_path.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"

void http_path_params_deinit(struct http_path_params *params)
{
        for (size_t i = 0; i < params->n; i++)
                free(params->items[i].value);
        params->n = 0;
}

int http_path_decode(const char *s, size_t len, char **ret)
{
        _cleanup_free_ char *out = alloc_zero(len + 1);
        size_t n = 0;

        if (!out)
                return -ENOMEM;
        for (size_t i = 0; i < len; i++) {
                char hex[3] = "";

                if (s[i] != '%') {
                        out[n++] = s[i];
                        continue;
                }
                if (len - i < 3)
                        return -EINVAL;
                memcpy(hex, s + i + 1, 2);
                if (text_hex_decode(hex, &out[n], 1) < 0 || !out[n])
                        return -EINVAL;
                n++;
                i += 2;
        }
        *ret = TAKE_PTR(out);
        return 0;
}

/* Literal segments only; nothing is decoded yet. */
bool http_path_fits(const char *pattern, const char *path)
{
        for (;;) {
                size_t pattern_len = strcspn(pattern, "/"), path_len = strcspn(path, "/");

                if (*pattern == '{') {
                        if (!path_len)
                                return false;
                } else if (pattern_len != path_len || memcmp(pattern, path, path_len)) {
                        return false;
                }
                pattern += pattern_len;
                path += path_len;
                if (*pattern != *path)
                        return false;
                if (!*path)
                        return true;
                pattern++;
                path++;
        }
}

int http_path_match(const char *pattern, const char *path, struct http_path_params *ret)
{
        struct http_path_params params = {};

        if (!http_path_fits(pattern, path))
                return 0;
        for (;;) {
                size_t pattern_len = strcspn(pattern, "/"), path_len = strcspn(path, "/");

                if (*pattern == '{') {
                        int r;

                        assert(params.n < HTTP_PATH_MAX_PARAMS);
                        r = http_path_decode(path, path_len, &params.items[params.n].value);
                        if (r < 0) {
                                http_path_params_deinit(&params);
                                return r;
                        }
                        params.items[params.n].name = pattern + 1;
                        params.items[params.n].name_len = pattern_len - 2;
                        params.n++;
                }
                if (!path[path_len])
                        break;
                pattern += pattern_len + 1;
                path += path_len + 1;
        }
        *ret = params;
        return 1;
}

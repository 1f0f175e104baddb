/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/per_host.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "base/text.h"

static int not_taken(const char *option, const char *text, struct error **ret_error)
{
        return error_set(ret_error, ERROR_BAD_REQUEST, "write it as HOST=VALUE",
                "option --%s: '%s' is not valid", option, text);
}

int per_host_map(
        const struct arguments *arguments, const char *option, json_t **ret, struct error **ret_error)
{
        _cleanup_json_ json_t *map = NULL;
        size_t position = 0;

        for (const char *text; (text = arguments_next(arguments, option, &position));) {
                const char *value = strchr(text, '=');
                char host[NAME_MAX_CHARS + 1];
                json_t *item;

                if (!value || !value[1] || (size_t)(value - text) >= sizeof(host))
                        return not_taken(option, text, ret_error);
                snprintf(host, sizeof(host), "%.*s", (int)(value - text), text);
                item = json_string(value + 1);
                if (!text_is_name(host) || !item) {
                        json_decref(item);
                        return not_taken(option, text, ret_error);
                }
                map = map ?: json_object();
                if (json_object_set_new(map, host, item) < 0)
                        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        }
        *ret = TAKE_PTR(map);
        return 0;
}

int per_host_list(
        const struct arguments *arguments, const char *option, json_t **ret, struct error **ret_error)
{
        _cleanup_json_ json_t *list = NULL;
        size_t position = 0;

        for (const char *text; (text = arguments_next(arguments, option, &position));) {
                list = list ?: json_array();
                if (json_array_append_new(list, json_string(text)) < 0)
                        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        }
        *ret = TAKE_PTR(list);
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/collection.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cli/task.h"

#define PATH_MAX_BYTES 4096
#define PAGES_MAX 10000 /* a server that never ends a list is broken */

static int get_page(struct cli *cli, const char *path, const char *continue_at, json_t **ret_page,
        struct error **ret_error)
{
        _cleanup_buf_ struct buf full;

        buf_init(&full, PATH_MAX_BYTES);
        if (buf_append_string(&full, path) < 0 || api_query(&full, "continue", continue_at) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the request is too long");
        return api_call(cli->api, "GET", buf_string(&full), NULL, ret_page, NULL, ret_error);
}

static void cut(json_t *items, uint64_t limit)
{
        while (limit && json_array_size(items) > limit)
                json_array_remove(items, json_array_size(items) - 1);
}

int collection_get(
        struct cli *cli, const char *path, uint64_t limit, json_t **ret_list, struct error **ret_error)
{
        _cleanup_json_ json_t *list = NULL;
        json_t *items = NULL;

        for (unsigned int n = 0; n < PAGES_MAX; n++) {
                const char *next = json_string_value(json_object_get(list, "continue"));
                _cleanup_json_ json_t *page = NULL;
                int r = get_page(cli, path, next, &page, ret_error);

                if (r < 0)
                        return r;
                if (!json_is_array(json_object_get(page, "items")))
                        return error_set(ret_error, ERROR_PROTOCOL, "see whether that is drover-manager",
                                "the answer to %s is no list", path);
                if (!list)
                        list = json_incref(page);
                else if (json_array_extend(items, json_object_get(page, "items")) < 0 ||
                         json_object_set(list, "continue", json_object_get(page, "continue") ?: json_null()) <
                                 0)
                        return error_from_errno(ret_error, ENOMEM, "cannot read the list");
                items = json_object_get(list, "items");
                if (!json_is_string(json_object_get(list, "continue")) ||
                        (limit && json_array_size(items) >= limit)) {
                        cut(items, limit);
                        *ret_list = TAKE_PTR(list);
                        return 0;
                }
        }
        return error_set(ret_error, ERROR_TOO_LARGE, "ask for less, with a filter", "%s does not end", path);
}

int collection_print(struct cli *cli, const char *path, uint64_t limit, const struct output_column *columns,
        struct error **ret_error)
{
        _cleanup_json_ json_t *list = NULL;
        int r = collection_get(cli, path, limit, &list, ret_error);

        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, list, ret_error);
        return output_table(cli, json_object_get(list, "items"), columns, ret_error);
}

int collection_show(struct cli *cli, const char *collection, const char *name, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", collection, name);
        _cleanup_json_ json_t *doc = NULL;
        int r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        r = api_call(cli->api, "GET", path, NULL, &doc, NULL, ret_error);
        return r < 0 ? r : output_document(cli, doc, ret_error);
}

int collection_get_some(struct cli *cli, const struct arguments *arguments, const char *collection,
        const char *suffix, const char *option, uint64_t number, json_t **ret_answer,
        struct error **ret_error)
{
        _cleanup_free_ char *path = NULL;

        (void)arguments_number(arguments, option, &number);
        path = alloc_printf("%s/%s%s%llu", collection, arguments_operand(arguments, 0), suffix,
                (unsigned long long)number);
        return path ? api_call(cli->api, "GET", path, NULL, ret_answer, NULL, ret_error)
                    : error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

int collection_act(struct cli *cli, const char *method, const char *collection, const char *name,
        const char *suffix, json_t *body, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s%s", collection, name, suffix);

        if (!path) {
                json_decref(body);
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        }
        return task_request(cli, method, path, body, ret_error);
}

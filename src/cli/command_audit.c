/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>

#include "base/doc.h"
#include "cli/collection.h"

#define PATH_MAX_BYTES 2048
#define LIMIT_DEFAULT 50
#define EXPORT_PAGE "1000"
/* A million entries are gone through in slices between all else that the manager does. */
#define LONG_TIMEOUT_MS (UINT64_C(15) * 60 * 1000)

static const struct output_column columns[] = {{"SEQ", "seq", false}, {"TIME", "time", false},
        {"WHO", "who", false}, {"FROM", "from", false}, {"ACTION", "action", false},
        {"OBJECT", "object", false}, {"RESULT", "result", false}, {"WHY", "why", false}, {0}};

static int make_path(
        const struct arguments *arguments, const char *limit, struct buf *path, struct error **ret_error)
{
        static const char *const filters[] = {"who", "object", "action", "result", "since", "until"};
        int r = buf_append_string(path, "/audit");

        if (r >= 0)
                r = api_query(path, "limit", limit);
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(filters); i++)
                r = api_query(path, filters[i], arguments_text(arguments, filters[i]));
        return r < 0 ? error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the filter is too long") : 0;
}

int command_audit_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        uint64_t limit = LIMIT_DEFAULT;
        _cleanup_buf_ struct buf path;
        char limit_text[24];
        int r;

        (void)arguments_number(arguments, "limit", &limit);
        snprintf(limit_text, sizeof(limit_text), "%llu", (unsigned long long)limit);
        buf_init(&path, PATH_MAX_BYTES);
        r = make_path(arguments, limit_text, &path, ret_error);
        if (r < 0)
                return r;
        api_set_timeout(cli->api, LONG_TIMEOUT_MS);
        return collection_print(cli, buf_string(&path), limit, columns, ret_error);
}

int command_audit_verify(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *verdict = NULL;
        int r;

        api_set_timeout(cli->api, LONG_TIMEOUT_MS);
        r = api_call(cli->api, "GET", "/audit/verify", NULL, &verdict, NULL, ret_error);
        if (r < 0)
                return r;
        if (!json_is_true(json_object_get(verdict, "ok")))
                cli->status = EXIT_STATUS_FAILED;
        return output_document(cli, verdict, ret_error);
}

/* The text that the hash is of, but for the hash itself: keys sorted, compact, a line each. */
static int print_lines(const struct cli *cli, const json_t *items, struct error **ret_error)
{
        json_t *entry;
        size_t i;

        json_array_foreach ((json_t *)items, i, entry) {
                char *text;

                json_object_del(entry, "revision");
                text = doc_to_canonical_text(entry);
                if (!text)
                        return error_from_errno(ret_error, ENOMEM, "cannot print the entry");
                fprintf(cli->out, "%s\n", text);
                free(text);
        }
        return ferror(cli->out) ? error_from_errno(ret_error, EIO, "cannot write the output") : 0;
}

int command_audit_export(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *page = NULL;
        const char *after = NULL;

        api_set_timeout(cli->api, LONG_TIMEOUT_MS);
        do {
                _cleanup_buf_ struct buf path;
                json_t *next = NULL;
                int r;

                buf_init(&path, PATH_MAX_BYTES);
                r = make_path(arguments, EXPORT_PAGE, &path, ret_error);
                if (r >= 0 &&
                        (api_query(&path, "order", "asc") < 0 || api_query(&path, "continue", after) < 0))
                        r = error_set(ret_error, ERROR_BAD_REQUEST, NULL, "the filter is too long");
                if (r >= 0)
                        r = api_call(cli->api, "GET", buf_string(&path), NULL, &next, NULL, ret_error);
                if (r >= 0)
                        r = print_lines(cli, json_object_get(next, "items"), ret_error);
                json_decref(page);
                page = next;
                if (r < 0)
                        return r;
                after = json_string_value(json_object_get(page, "continue"));
        } while (after);
        return 0;
}

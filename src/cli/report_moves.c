/* SPDX-License-Identifier: Apache-2.0 */

/* What became of many virtual machines: one line each, and what was tried. */

#include <errno.h>

#include "base/doc.h"
#include "cli/output.h"
#include "cli/report.h"

static const struct output_column columns[] = {{"VM", "vm", false}, {"OUTCOME", "outcome", false},
        {"TO", "to", false}, {"TRIES", "n_tries", false}, {"WHY", "why", false}, {0}};

bool report_has_moves(const json_t *result)
{
        return json_is_array(json_object_get(result, "vms"));
}

int report_moves(const struct cli *cli, const json_t *result, struct error **ret_error)
{
        _cleanup_json_ json_t *items = json_deep_copy(json_object_get(result, "vms"));
        json_t *item;
        size_t i;
        int r = items ? 0 : -ENOMEM;

        json_array_foreach (items, i, item)
                r |= json_object_set_new(item, "n_tries",
                        json_integer((json_int_t)json_array_size(json_object_get(item, "tries"))));
        if (r < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot print the report");
        return output_table(cli, items, columns, ret_error);
}

int report_plan(struct cli *cli, const char *path, json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *request = body, *report = NULL;
        int r = api_call(cli->api, "POST", path, request, &report, NULL, ret_error);

        if (r < 0)
                return r;
        return cli->format == OUTPUT_TABLE ? report_moves(cli, report, ret_error)
                                           : output_document(cli, report, ret_error);
}

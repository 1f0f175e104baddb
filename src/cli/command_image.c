/* SPDX-License-Identifier: Apache-2.0 */

/* drover vm import-disk, vm export-disk */

#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cli/api.h"
#include "cli/arguments.h"
#include "cli/cli.h"
#include "cli/task.h"

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* {"datastore", "path"} of an operand DATASTORE:PATH; the caller's. */
static int read_file(const char *text, json_t **ret_body, struct error **ret_error)
{
        const char *colon = strchr(text, ':');
        _cleanup_free_ char *datastore = colon ? alloc_printf("%.*s", (int)(colon - text), text) : NULL;

        if (!colon || !datastore || !text_is_name(datastore) || !text_is_relative_path(colon + 1))
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "Write it as DATASTORE:PATH, with the path from the datastore's folder on and no "
                        "\"..\" in it.",
                        "'%s' is no file on a datastore", text);
        *ret_body = json_pack("{s:s, s:s}", "datastore", datastore, "path", colon + 1);
        return *ret_body ? 0 : no_memory(ret_error);
}

/* The same with "timeout_ms". */
static int begin_body(
        const struct arguments *arguments, const char *file, json_t **ret_body, struct error **ret_error)
{
        uint64_t number;
        int r = read_file(file, ret_body, ret_error);

        if (r == 0 && arguments_number(arguments, "give-up", &number) &&
                json_object_set_new(*ret_body, "timeout_ms", json_integer((json_int_t)number)) < 0)
                r = no_memory(ret_error);
        return r;
}

/* Options that go into the request as they are, under another name where one is told. */
static int add_texts(json_t *body, const struct arguments *arguments, const char *const (*names)[2],
        size_t n_names, struct error **ret_error)
{
        for (size_t i = 0; i < n_names; i++) {
                const char *text = arguments_text(arguments, names[i][0]);

                if (text && json_object_set_new(body, names[i][1], json_string(text)) < 0)
                        return no_memory(ret_error);
        }
        return 0;
}

int command_vm_import_disk(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        static const char *const texts[][2] = {{"format", "format"}, {"sha256", "sha256"},
                {"to-datastore", "to_datastore"}, {"to-format", "to_format"}, {"name", "name"},
                {"bus", "bus"}};
        _cleanup_free_ char *path = alloc_printf("/vms/%s/import-disk", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *body = NULL;
        int r = path ? 0 : no_memory(ret_error);

        if (r == 0)
                r = begin_body(arguments, arguments_operand(arguments, 1), &body, ret_error);
        if (r == 0)
                r = add_texts(body, arguments, texts, ARRAY_SIZE(texts), ret_error);
        return r < 0 ? r : task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
}

int command_vm_export_disk(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/vms/%s/export-disk", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *body = NULL;
        int r = path ? 0 : no_memory(ret_error);

        if (r == 0)
                r = begin_body(arguments, arguments_operand(arguments, 2), &body, ret_error);
        if (r == 0 && (json_object_set_new(body, "disk", json_string(arguments_operand(arguments, 1))) < 0 ||
                              (arguments_flag(arguments, "stream") &&
                                      json_object_set_new(body, "stream", json_true()) < 0)))
                r = no_memory(ret_error);
        return r < 0 ? r : task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* drover vm import, vm export, vm import-disk, vm export-disk */

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

/* "shared:incoming/web.ova" -> "web"; the caller's. */
static int name_of(const char *appliance, char **ret_name, struct error **ret_error)
{
        const char *at = strrchr(appliance, '/'), *dot;

        at = at ? at + 1 : strchr(appliance, ':') + 1;
        dot = strrchr(at, '.');
        *ret_name = alloc_printf("%.*s", dot ? (int)(dot - at) : (int)strlen(at), at);
        if (!*ret_name)
                return no_memory(ret_error);
        return text_is_name(*ret_name)
                       ? 0
                       : error_set(ret_error, ERROR_BAD_REQUEST, "Give one with --name.",
                                 "'%s' is not a name that a virtual machine can have", *ret_name);
}

static int add_net_map(json_t *body, const struct arguments *arguments, struct error **ret_error)
{
        json_t *map = json_object();
        size_t position = 0;

        if (json_object_set_new(body, "net_map", map) < 0)
                return no_memory(ret_error);
        for (const char *text; (text = arguments_next(arguments, "net-map", &position));) {
                const char *equals = strrchr(text, '=');
                _cleanup_free_ char *network =
                        equals ? alloc_printf("%.*s", (int)(equals - text), text) : NULL;

                if (!equals)
                        return error_set(ret_error, ERROR_BAD_REQUEST, "write it as NETWORK=PORTGROUP",
                                "option --net-map: '%s' has no '='", text);
                if (!network || json_object_set_new(map, network, json_string(equals + 1)) < 0)
                        return no_memory(ret_error);
        }
        return 0;
}

int command_vm_import(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        static const char *const texts[][2] = {{"name", "name"}, {"to-datastore", "to_datastore"},
                {"to-format", "to_format"}, {"bus", "bus"}, {"host", "host"}};
        const char *appliance = arguments_operand(arguments, 0);
        _cleanup_json_ json_t *body = NULL;
        _cleanup_free_ char *name = NULL;
        int r = begin_body(arguments, appliance, &body, ret_error);

        if (r == 0 && !arguments_text(arguments, "name")) {
                r = name_of(appliance, &name, ret_error);
                if (r == 0 && json_object_set_new(body, "name", json_string(name)) < 0)
                        r = no_memory(ret_error);
        }
        if (r == 0)
                r = add_texts(body, arguments, texts, ARRAY_SIZE(texts), ret_error);
        if (r == 0)
                r = add_net_map(body, arguments, ret_error);
        return r < 0 ? r : task_request(cli, "POST", "/vm-imports", TAKE_PTR(body), ret_error);
}

int command_vm_export(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/vms/%s/export", arguments_operand(arguments, 0));
        _cleanup_json_ json_t *body = NULL;
        int r = path ? begin_body(arguments, arguments_operand(arguments, 1), &body, ret_error)
                     : no_memory(ret_error);

        return r < 0 ? r : task_request(cli, "POST", path, TAKE_PTR(body), ret_error);
}

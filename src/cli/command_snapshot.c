/* SPDX-License-Identifier: Apache-2.0 */

/* Snapshots of virtual machines, and the sizes of their disks. */

#include <errno.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cli/cli.h"
#include "cli/collection.h"

static const struct output_column columns[] = {{"NAME", "name", false}, {"CREATED", "created", false},
        {"STATE", "state", false}, {"CURRENT", "current", false}, {"PARENT", "parent", false},
        {"CONSISTENCY", "consistency", false}, {"DISKS", "disks", true},
        {"DESCRIPTION", "description", false}, {0}};

static int no_memory(struct error **ret_error)
{
        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
}

static int act(struct cli *cli, const struct arguments *arguments, const char *method, const char *verb,
        struct error **ret_error)
{
        _cleanup_free_ char *suffix = alloc_printf("/snapshots/%s%s", arguments_operand(arguments, 1), verb);

        return suffix ? collection_act(
                                cli, method, "/vms", arguments_operand(arguments, 0), suffix, NULL, ret_error)
                      : no_memory(ret_error);
}

int command_vm_snapshot_create(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        json_t *body = json_pack("{s:s, s:s*}", "snapshot", arguments_operand(arguments, 1), "description",
                arguments_text(arguments, "description"));

        return body ? collection_act(cli, "POST", "/vms", arguments_operand(arguments, 0), "/snapshots", body,
                              ret_error)
                    : no_memory(ret_error);
}

int command_vm_snapshot_list(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("/vms/%s/snapshots", arguments_operand(arguments, 0));

        return path ? collection_print(cli, path, 0, columns, ret_error) : no_memory(ret_error);
}

int command_vm_snapshot_show(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *collection = alloc_printf("/vms/%s/snapshots", arguments_operand(arguments, 0));

        return collection ? collection_show(cli, collection, arguments_operand(arguments, 1), ret_error)
                          : no_memory(ret_error);
}

int command_vm_snapshot_revert(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return act(cli, arguments, "POST", "/revert", ret_error);
}

int command_vm_snapshot_delete(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        return act(cli, arguments, "DELETE",
                arguments_flag(arguments, "accept-mixed-disks") ? "?accept_mixed_disks=true" : "", ret_error);
}

int command_vm_disk_resize(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_free_ char *suffix = alloc_printf("/disks/%s/resize", arguments_operand(arguments, 1));
        json_t *body = NULL;
        uint64_t size_bytes;

        if (text_parse_size(arguments_operand(arguments, 2), &size_bytes) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Write it as 20G, or 512M.",
                        "%.64s is no size", arguments_operand(arguments, 2));
        body = json_pack("{s:I}", "size_bytes", (json_int_t)size_bytes);
        if (!suffix || !body) {
                json_decref(body);
                return no_memory(ret_error);
        }
        return collection_act(cli, "POST", "/vms", arguments_operand(arguments, 0), suffix, body, ret_error);
}

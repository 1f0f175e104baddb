/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/scope_option.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "cannot make the request");
}

static int put(json_t **object, const char *key, const char *value, struct error **ret_error)
{
        json_t *text = json_string(value);

        if (!text)
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "the value of %s is not UTF-8 text", key);
        if (!*object)
                *object = json_object();
        return !*object || json_object_set_new(*object, key, text) < 0 ? no_memory(ret_error) : 0;
}

int labels_option(
        const struct arguments *arguments, const char *option, json_t **object, struct error **ret_error)
{
        const char *text;
        size_t position = 0;

        while ((text = arguments_next(arguments, option, &position))) {
                const char *equals = strchr(text, '=');
                char key[64];
                int r;

                if (!equals || equals == text || (size_t)(equals - text) >= sizeof(key))
                        return error_set(ret_error, ERROR_BAD_REQUEST, "write it as --label KEY=VALUE",
                                "--%s: %s is not KEY=VALUE", option, text);
                snprintf(key, sizeof(key), "%.*s", (int)(equals - text), text);
                r = put(object, key, equals + 1, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* One word for both: the virtual machines and the hosts that bear it. */
static int put_both(const struct arguments *arguments, const char *option, const char *key, json_t **vms,
        json_t **hosts, struct error **ret_error)
{
        const char *value = arguments_text(arguments, option);
        int r = value ? put(vms, key, value, ret_error) : 0;

        return r < 0 || !value ? r : put(hosts, key, value, ret_error);
}

static int put_folder(const struct arguments *arguments, json_t **vms, struct error **ret_error)
{
        const char *folder = arguments_text(arguments, "folder");
        char value[256];
        int n;

        if (!folder)
                return 0;
        n = snprintf(value, sizeof(value), "%s%s", folder,
                *folder && folder[strlen(folder) - 1] == '/' ? "" : "/");
        if (n < 0 || n >= (int)sizeof(value))
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "--folder: the value is too long");
        return put(vms, "folder", value, ret_error);
}

int scope_option(const struct arguments *arguments, json_t **ret_scope, struct error **ret_error)
{
        _cleanup_json_ json_t *vms = NULL, *hosts = NULL;
        int r;

        r = put_both(arguments, "pool", "pool", &vms, &hosts, ret_error);
        if (r >= 0)
                r = put_folder(arguments, &vms, ret_error);
        if (r >= 0)
                r = labels_option(arguments, "label", &vms, ret_error);
        if (r >= 0)
                r = labels_option(arguments, "host-label", &hosts, ret_error);
        if (r < 0 || (!vms && !hosts))
                return r;
        *ret_scope = json_pack("{s:O*, s:O*}", "vms", vms, "hosts", hosts);
        return *ret_scope ? 0 : no_memory(ret_error);
}

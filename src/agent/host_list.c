/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/host_list.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/file.h"

#define FILE_MAX_BYTES (1u << 20)
#define HOSTS_MAX 20000

struct host_list {
        char *name;
        char *path;
        json_t *hosts; /* array of uids */
};

static int check(const char *name, const json_t *document, json_t **ret_hosts, struct error **ret_error)
{
        static const char *const known[] = {"hosts", NULL};
        json_t *hosts = NULL, *host;
        size_t i;
        int r = doc_only_keys(document, name, known, ret_error);

        if (r == 0)
                r = doc_opt_array(document, name, "hosts", HOSTS_MAX, &hosts, ret_error);
        if (r < 0)
                return r;
        if (!hosts)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "%s: hosts is missing", name);
        json_array_foreach (hosts, i, host)
                if (!json_is_string(host) || !text_is_uuid(json_string_value(host)))
                        return error_set(
                                ret_error, ERROR_BAD_DOCUMENT, NULL, "%s: hosts[%zu] is no uid", name, i);
        *ret_hosts = hosts;
        return 0;
}

static int load(struct host_list *list, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *document = NULL;
        json_t *hosts;
        int r = file_read(list->path, FILE_MAX_BYTES, &text, NULL);

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "%s", list->path);
        r = doc_parse(text, strlen(text), &document, ret_error);
        if (r == 0)
                r = check(list->name, document, &hosts, ret_error);
        if (r < 0)
                return r;
        json_decref(list->hosts);
        list->hosts = json_incref(hosts);
        return 0;
}

int host_list_new(
        const char *state_dir, const char *name, struct host_list **ret_list, struct error **ret_error)
{
        _cleanup_(host_list_freep) struct host_list *list = ALLOC(struct host_list);
        int r;

        if (!list)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        list->name = alloc_strdup(name);
        list->path = alloc_printf("%s/%s.json", state_dir, name);
        list->hosts = json_array();
        if (!list->name || !list->path || !list->hosts)
                return error_from_errno(ret_error, ENOMEM, "%s", name);
        r = load(list, ret_error);
        if (r < 0)
                return r;
        *ret_list = TAKE_PTR(list);
        return 0;
}

void host_list_free(struct host_list *list)
{
        if (!list)
                return;
        free(list->name);
        free(list->path);
        json_decref(list->hosts);
        free(list);
}

int host_list_set(struct host_list *list, const json_t *document, struct error **ret_error)
{
        _cleanup_json_ json_t *copy = NULL;
        _cleanup_free_ char *text = NULL;
        json_t *hosts;
        int r = check(list->name, document, &hosts, ret_error);

        if (r < 0)
                return r;
        if (json_equal(hosts, list->hosts))
                return 0;
        copy = json_deep_copy(hosts);
        text = doc_to_text(document);
        r = copy && text ? file_write_atomic(list->path, text, strlen(text), 0600) : -ENOMEM;
        if (r < 0)
                return error_from_errno(ret_error, r, "%s cannot be written", list->path);
        json_decref(list->hosts);
        list->hosts = TAKE_PTR(copy);
        return 0;
}

bool host_list_has(const struct host_list *list, const char *host_uid)
{
        json_t *host;
        size_t i;

        json_array_foreach (list->hosts, i, host)
                if (strcmp(json_string_value(host), host_uid) == 0)
                        return true;
        return false;
}

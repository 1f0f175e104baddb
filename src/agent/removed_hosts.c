/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/removed_hosts.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/file.h"

#define FILE_MAX_BYTES (1u << 20)
#define HOSTS_MAX 20000

struct removed_hosts {
        char *path;
        json_t *hosts; /* array of uids */
};

static int check(const json_t *document, json_t **ret_hosts, struct error **ret_error)
{
        static const char *const known[] = {"hosts", NULL};
        json_t *hosts = NULL, *host;
        size_t i;
        int r = doc_only_keys(document, "removed-hosts", known, ret_error);

        if (r == 0)
                r = doc_opt_array(document, "removed-hosts", "hosts", HOSTS_MAX, &hosts, ret_error);
        if (r < 0)
                return r;
        if (!hosts)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "removed-hosts: hosts is missing");
        json_array_foreach (hosts, i, host)
                if (!json_is_string(host) || !text_is_uuid(json_string_value(host)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "removed-hosts: hosts[%zu] is no uid", i);
        *ret_hosts = hosts;
        return 0;
}

static int load(struct removed_hosts *removed, struct error **ret_error)
{
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *document = NULL;
        json_t *hosts;
        int r = file_read(removed->path, FILE_MAX_BYTES, &text, NULL);

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "%s", removed->path);
        r = doc_parse(text, strlen(text), &document, ret_error);
        if (r == 0)
                r = check(document, &hosts, ret_error);
        if (r < 0)
                return r;
        json_decref(removed->hosts);
        removed->hosts = json_incref(hosts);
        return 0;
}

int removed_hosts_new(const char *state_dir, struct removed_hosts **ret_removed, struct error **ret_error)
{
        _cleanup_(removed_hosts_freep) struct removed_hosts *removed = ALLOC(struct removed_hosts);
        int r;

        if (!removed)
                return error_from_errno(ret_error, ENOMEM, "removed hosts");
        removed->path = alloc_printf("%s/removed-hosts.json", state_dir);
        removed->hosts = json_array();
        if (!removed->path || !removed->hosts)
                return error_from_errno(ret_error, ENOMEM, "removed hosts");
        r = load(removed, ret_error);
        if (r < 0)
                return r;
        *ret_removed = TAKE_PTR(removed);
        return 0;
}

void removed_hosts_free(struct removed_hosts *removed)
{
        if (!removed)
                return;
        free(removed->path);
        json_decref(removed->hosts);
        free(removed);
}

int removed_hosts_set(struct removed_hosts *removed, const json_t *document, struct error **ret_error)
{
        _cleanup_json_ json_t *copy = NULL;
        _cleanup_free_ char *text = NULL;
        json_t *hosts;
        int r = check(document, &hosts, ret_error);

        if (r < 0)
                return r;
        if (json_equal(hosts, removed->hosts))
                return 0;
        copy = json_deep_copy(hosts);
        text = doc_to_text(document);
        r = copy && text ? file_write_atomic(removed->path, text, strlen(text), 0600) : -ENOMEM;
        if (r < 0)
                return error_from_errno(ret_error, r, "%s cannot be written", removed->path);
        json_decref(removed->hosts);
        removed->hosts = TAKE_PTR(copy);
        return 0;
}

bool removed_hosts_has(const struct removed_hosts *removed, const char *host_uid)
{
        json_t *host;
        size_t i;

        json_array_foreach (removed->hosts, i, host)
                if (strcmp(json_string_value(host), host_uid) == 0)
                        return true;
        return false;
}

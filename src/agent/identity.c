/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/identity.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/file.h"
#include "io/pki.h"

#define IDENTITY_MAX_BYTES 65536
#define ENROL_HINT "Enrol the host: drover-agent enrol --manager ADDRESS --token TOKEN."

static int read_part(const char *folder, const char *file, char **ret, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", folder, file);
        int r = path ? file_read(path, IDENTITY_MAX_BYTES, ret, NULL) : -ENOMEM;

        if (r == -ENOENT)
                return error_set(ret_error, ERROR_NOT_FOUND, ENROL_HINT,
                        "this host is not enrolled: %s is missing", path);
        if (r < 0)
                return error_from_errno(ret_error, r, "identity file %s/%s", folder, file);
        return 0;
}

static int parse_host(const char *text, struct identity *identity, struct error **ret_error)
{
        static const char *const known[] = {"format", "uid", "name", NULL};
        _cleanup_json_ json_t *doc = NULL;
        const char *uid = NULL, *name = NULL;
        uint64_t format;
        int r = doc_parse(text, strlen(text), &doc, ret_error);

        if (r < 0)
                return r;
        r = doc_only_keys(doc, "identity", known, ret_error);
        if (r == 0)
                r = doc_need_u64(doc, "identity", "format", 1, 1, &format, ret_error);
        if (r == 0)
                r = doc_need_string(doc, "identity", "uid", UUID_STRING_SIZE, &uid, ret_error);
        if (r == 0)
                r = doc_need_string(doc, "identity", "name", NAME_MAX_CHARS, &name, ret_error);
        if (r < 0)
                return r;
        if (!text_is_uuid(uid) || !text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, ENROL_HINT, "the host's identity is damaged");
        identity->host_uid = alloc_strdup(uid);
        identity->name = alloc_strdup(name);
        if (!identity->host_uid || !identity->name)
                return error_from_errno(ret_error, ENOMEM, "identity");
        return 0;
}

int identity_load(const char *state_dir, struct identity **ret_identity, struct error **ret_error)
{
        _cleanup_(identity_freep) struct identity *identity = ALLOC(struct identity);
        _cleanup_free_ char *folder = alloc_printf("%s/identity", state_dir);
        _cleanup_free_ char *host = NULL;
        int r;

        if (!identity || !folder)
                return error_from_errno(ret_error, ENOMEM, "identity");
        r = read_part(folder, "host.json", &host, ret_error);
        if (r == 0)
                r = parse_host(host, identity, ret_error);
        if (r == 0)
                r = read_part(folder, "key.pem", &identity->key_pem, ret_error);
        if (r == 0)
                r = read_part(folder, "cert.pem", &identity->cert_pem, ret_error);
        if (r == 0)
                r = read_part(folder, "ca.pem", &identity->ca_pem, ret_error);
        if (r < 0)
                return r;
        *ret_identity = TAKE_PTR(identity);
        return 0;
}

static int write_part(const char *folder, const char *file, const char *text, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", folder, file);
        int r = path ? file_write_atomic(path, text, strlen(text), 0600) : -ENOMEM;

        return r < 0 ? error_from_errno(ret_error, r, "identity file %s/%s", folder, file) : 0;
}

int identity_store(const char *state_dir, const struct identity *identity, struct error **ret_error)
{
        _cleanup_free_ char *folder = alloc_printf("%s/identity", state_dir);
        _cleanup_json_ json_t *doc =
                json_pack("{s:i, s:s, s:s}", "format", 1, "uid", identity->host_uid, "name", identity->name);
        _cleanup_free_ char *host = doc ? doc_to_text(doc) : NULL;
        int r;

        if (!folder || !host)
                return error_from_errno(ret_error, ENOMEM, "identity");
        r = file_make_dirs(folder, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "folder %s", folder);
        r = write_part(folder, "ca.pem", identity->ca_pem, ret_error);
        if (r == 0)
                r = write_part(folder, "cert.pem", identity->cert_pem, ret_error);
        if (r == 0)
                r = write_part(folder, "key.pem", identity->key_pem, ret_error);
        if (r == 0)
                r = write_part(folder, "host.json", host, ret_error);
        return r;
}

void identity_free(struct identity *identity)
{
        if (!identity)
                return;
        free(identity->host_uid);
        free(identity->name);
        free(identity->cert_pem);
        pki_key_free(identity->key_pem);
        free(identity->ca_pem);
        free(identity);
}

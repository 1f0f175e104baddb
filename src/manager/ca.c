/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/ca.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "io/file.h"

#define CA_DAYS 7300
#define CERTIFICATE_DAYS 1095
#define RENEW_BEFORE_MS (30ll * 24 * 3600 * 1000)
#define PEM_MAX_BYTES 65536
#define ADDRESSES_MAX 64

static char *pki_path(const char *state_dir, const char *name)
{
        return alloc_printf("%s/pki/%s", state_dir, name);
}

static int write_file(
        const char *state_dir, const char *name, const char *text, mode_t mode, struct error **ret_error)
{
        _cleanup_free_ char *path = pki_path(state_dir, name);
        int r;

        r = path ? file_write_atomic(path, text, strlen(text), mode) : -ENOMEM;
        return r < 0 ? error_from_errno(ret_error, r, "cannot write %s", path ?: name) : 0;
}

static int read_file(const char *state_dir, const char *name, char **ret_text, struct error **ret_error)
{
        _cleanup_free_ char *path = pki_path(state_dir, name);
        int r;

        r = path ? file_read(path, PEM_MAX_BYTES, ret_text, NULL) : -ENOMEM;
        if (r == -ENOENT)
                return error_set(ret_error, ERROR_NOT_FOUND, "Run `drover-manager init` first.",
                        "there is no certificate authority: %s does not exist", path);
        return r < 0 ? error_from_errno(ret_error, r, "cannot read %s", path ?: name) : 0;
}

static bool is_ip(const char *s)
{
        uint8_t raw[16];

        return inet_pton(AF_INET, s, raw) == 1 || inet_pton(AF_INET6, s, raw) == 1;
}

/* Issues the manager's certificate with a new key and writes both. */
static int issue_manager(const char *state_dir, const char *ca_pem, const char *ca_key,
        const char *const *addresses, struct error **ret_error)
{
        const char *dns[ADDRESSES_MAX + 3] = {CA_MANAGER_NAME, "localhost"};
        const char *ips[ADDRESSES_MAX + 3] = {"127.0.0.1", "::1"};
        _cleanup_(pki_key_freep) char *key = NULL;
        _cleanup_free_ char *csr = NULL, *cert = NULL;
        size_t n_dns = 2, n_ips = 2;
        int r;

        for (size_t i = 0; addresses[i]; i++) {
                if (i >= ADDRESSES_MAX)
                        return error_set(ret_error, ERROR_TOO_LARGE, NULL,
                                "at most %d addresses are possible", ADDRESSES_MAX);
                if (is_ip(addresses[i]))
                        ips[n_ips++] = addresses[i];
                else
                        dns[n_dns++] = addresses[i];
        }
        r = pki_key_new(&key, ret_error);
        if (r >= 0)
                r = pki_csr_new(key, CA_MANAGER_NAME, &csr, ret_error);
        if (r >= 0)
                r = pki_sign(ca_pem, ca_key, csr, dns, ips, CERTIFICATE_DAYS, &cert, ret_error);
        if (r >= 0)
                r = write_file(state_dir, "manager.key", key, 0600, ret_error);
        return r < 0 ? r : write_file(state_dir, "manager.pem", cert, 0644, ret_error);
}

static int write_addresses(const char *state_dir, const char *const *addresses, struct error **ret_error)
{
        _cleanup_buf_ struct buf text;

        buf_init(&text, PEM_MAX_BYTES);
        for (size_t i = 0; addresses[i]; i++)
                if (buf_printf(&text, "%s\n", addresses[i]) < 0)
                        return error_set(ret_error, ERROR_TOO_LARGE, NULL, "the addresses are too long");
        return write_file(state_dir, "addresses", buf_string(&text), 0644, ret_error);
}

static int refuse_second(const char *state_dir, struct error **ret_error)
{
        _cleanup_free_ char *path = pki_path(state_dir, "ca.pem");

        if (!path)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (access(path, F_OK) != 0)
                return 0;
        return error_set(ret_error, ERROR_EXISTS, "Remove the state directory to begin again with no hosts.",
                "there is a certificate authority already: %s", path);
}

/* Writes all files of a manager whose authority this is. */
static int install(const char *state_dir, const char *cert, const char *key, const char *const *addresses,
        struct error **ret_error)
{
        _cleanup_free_ char *folder = pki_path(state_dir, "");
        int r;

        if (!folder)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = file_make_dirs(folder, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make %s", folder);
        r = write_addresses(state_dir, addresses, ret_error);
        if (r >= 0)
                r = issue_manager(state_dir, cert, key, addresses, ret_error);
        if (r >= 0)
                r = write_file(state_dir, "ca.key", key, 0600, ret_error);
        /* Last: its presence says that all the others are there. */
        return r < 0 ? r : write_file(state_dir, "ca.pem", cert, 0644, ret_error);
}

int ca_create(const char *state_dir, const char *const *addresses, struct error **ret_error)
{
        _cleanup_free_ char *cert = NULL;
        _cleanup_(pki_key_freep) char *key = NULL;
        int r;

        r = refuse_second(state_dir, ret_error);
        if (r >= 0)
                r = pki_ca_new("drover cluster CA", CA_DAYS, &cert, &key, ret_error);
        return r < 0 ? r : install(state_dir, cert, key, addresses, ret_error);
}

static int read_from(const char *folder, const char *name, char **ret_text, struct error **ret_error)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", folder, name);
        int r = path ? file_read(path, PEM_MAX_BYTES, ret_text, NULL) : -ENOMEM;

        return r < 0 ? error_set(ret_error, ERROR_NOT_FOUND,
                               "Copy ca.pem and ca.key from pki/ in the first manager's state directory.",
                               "cannot read %s: %s", path ?: name, strerror(-r))
                     : 0;
}

int ca_adopt(const char *state_dir, const char *from, const char *const *addresses, struct error **ret_error)
{
        _cleanup_free_ char *cert = NULL;
        _cleanup_(pki_key_freep) char *key = NULL;
        int r;

        r = refuse_second(state_dir, ret_error);
        if (r >= 0)
                r = read_from(from, "ca.pem", &cert, ret_error);
        if (r >= 0)
                r = read_from(from, "ca.key", &key, ret_error);
        return r < 0 ? r : install(state_dir, cert, key, addresses, ret_error);
}

/* Splits the text in place, one address a line. */
static void split_addresses(char *text, const char *ret_addresses[static ADDRESSES_MAX + 1])
{
        char *rest = NULL;
        size_t n = 0;

        for (char *line = strtok_r(text, "\n", &rest); line && n < ADDRESSES_MAX;
                line = strtok_r(NULL, "\n", &rest))
                ret_addresses[n++] = line;
        ret_addresses[n] = NULL;
}

int ca_read_files(const char *state_dir, struct ca_files *ret_files, struct error **ret_error)
{
        struct ca_files files = {};
        int r;

        r = read_file(state_dir, "ca.pem", &files.ca_pem, ret_error);
        if (r >= 0)
                r = read_file(state_dir, "ca.key", &files.ca_key, ret_error);
        if (r >= 0)
                r = read_file(state_dir, "addresses", &files.addresses, ret_error);
        if (r < 0) {
                ca_files_deinit(&files);
                return r;
        }
        *ret_files = files;
        return 0;
}

void ca_files_deinit(struct ca_files *files)
{
        free(files->ca_pem);
        pki_key_free(files->ca_key);
        free(files->addresses);
        *files = (struct ca_files){};
}

int ca_restore(const char *state_dir, const struct ca_files *files, const char *const *addresses,
        struct error **ret_error)
{
        _cleanup_free_ char *text = alloc_strdup(files->addresses), *path = pki_path(state_dir, "ca.pem"),
                            *present = NULL;
        const char *recorded[ADDRESSES_MAX + 1];
        int r;

        if (!text || !path)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (access(path, F_OK) == 0) {
                r = read_file(state_dir, "ca.pem", &present, ret_error);
                if (r < 0 || !strcmp(present, files->ca_pem))
                        return r;
                return error_set(ret_error, ERROR_CONFLICT,
                        "Restore into an empty state directory; the hosts trust the backup's authority.",
                        "the state directory has another certificate authority: %s", path);
        }
        split_addresses(text, recorded);
        return install(
                state_dir, files->ca_pem, files->ca_key, addresses[0] ? addresses : recorded, ret_error);
}

static int renew(const char *state_dir, const struct ca *ca, struct error **ret_error)
{
        const char *addresses[ADDRESSES_MAX + 1];
        _cleanup_free_ char *text = NULL;
        int r;

        r = read_file(state_dir, "addresses", &text, ret_error);
        if (r < 0)
                return r;
        split_addresses(text, addresses);
        return issue_manager(state_dir, ca->ca_pem, ca->ca_key, addresses, ret_error);
}

static int load_manager(const char *state_dir, struct ca *ca, struct error **ret_error)
{
        int r;

        free(TAKE_PTR(ca->manager_pem));
        pki_key_free(TAKE_PTR(ca->manager_key));
        r = read_file(state_dir, "manager.pem", &ca->manager_pem, ret_error);
        return r < 0 ? r : read_file(state_dir, "manager.key", &ca->manager_key, ret_error);
}

int ca_load(const char *state_dir, int64_t now_unix_ms, struct ca *ret_ca, struct error **ret_error)
{
        struct ca ca = {};
        int64_t end_s = 0;
        int r;

        r = read_file(state_dir, "ca.pem", &ca.ca_pem, ret_error);
        if (r >= 0)
                r = read_file(state_dir, "ca.key", &ca.ca_key, ret_error);
        if (r >= 0)
                r = load_manager(state_dir, &ca, ret_error);
        if (r >= 0)
                r = pki_fingerprint(ca.ca_pem, ca.fingerprint, ret_error);
        if (r >= 0)
                r = pki_not_after(ca.manager_pem, &end_s, ret_error);
        if (r >= 0 && end_s * 1000 < now_unix_ms + RENEW_BEFORE_MS) {
                r = renew(state_dir, &ca, ret_error);
                if (r >= 0)
                        r = load_manager(state_dir, &ca, ret_error);
        }
        if (r < 0) {
                ca_deinit(&ca);
                return r;
        }
        *ret_ca = ca;
        return 0;
}

void ca_deinit(struct ca *ca)
{
        free(ca->ca_pem);
        pki_key_free(ca->ca_key);
        free(ca->manager_pem);
        pki_key_free(ca->manager_key);
        *ca = (struct ca){};
}

int ca_sign_host(const struct ca *ca, const char *csr_pem, const char *host_uid, const char *address,
        char **ret_cert_pem, struct error **ret_error)
{
        _cleanup_free_ char *name = alloc_printf("%s" CA_HOST_SUFFIX, host_uid);
        const char *dns[] = {name, NULL};
        const char *ips[] = {address && is_ip(address) ? address : NULL, NULL};

        if (!name)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return pki_sign(ca->ca_pem, ca->ca_key, csr_pem, dns, ips, CERTIFICATE_DAYS, ret_cert_pem, ret_error);
}

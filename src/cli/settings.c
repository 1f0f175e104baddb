/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/settings.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <string.h>

#include "base/alloc.h"
#include "io/file.h"

#define CONFIG_MAX_BYTES (64 * 1024)
#define TOKEN_MAX_BYTES 4096
#define SERVER_DEFAULT "https://localhost:8443"

/* Values as found, before tokens are read from their files. */
struct sources {
        char *server;
        char *token; /* the token, or an absolute path */
        char *ca;
        char *unknown_key;
        int error;
};

static void sources_deinit(struct sources *s)
{
        free(s->server);
        free(s->token);
        free(s->ca);
        free(s->unknown_key);
}

static int read_entry(void *userdata, const char *section, const char *name, const char *value)
{
        struct sources *s = userdata;
        char **field = NULL;

        if (!strcmp(name, "server"))
                field = &s->server;
        else if (!strcmp(name, "token_file"))
                field = &s->token;
        else if (!strcmp(name, "ca"))
                field = &s->ca;
        else
                field = &s->unknown_key;
        if (alloc_replace(field, field == &s->unknown_key ? name : value) < 0)
                s->error = -ENOMEM;
        return s->error == 0;
}

/* "" when there is no home. */
static char *config_path(const char *file)
{
        const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");

        if (base && *base == '/')
                return alloc_printf("%s/drover/%s", base, file);
        return home && *home == '/' ? alloc_printf("%s/.config/drover/%s", home, file) : alloc_strdup("");
}

static int read_config(struct sources *sources, struct error **ret_error)
{
        _cleanup_free_ char *path = config_path("config.ini"), *text = NULL;
        int line, r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot read the configuration");
        if (!*path)
                return 0;
        r = file_read(path, CONFIG_MAX_BYTES, &text, NULL);
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot read %s", path);
        line = ini_parse_string(text, read_entry, sources);
        if (sources->error)
                return error_from_errno(ret_error, sources->error, "cannot read %s", path);
        if (line)
                return error_set(ret_error, ERROR_BAD_REQUEST, "lines are 'key = value' or '[section]'",
                        "%s: line %d is not valid", path, line);
        if (sources->unknown_key)
                return error_set(ret_error, ERROR_BAD_REQUEST, "the keys are: server, token_file, ca",
                        "%s: there is no setting '%s'", path, sources->unknown_key);
        return 0;
}

static int override(char **field, const char *value, struct error **ret_error)
{
        if (!value || !*value)
                return 0;
        return alloc_replace(field, value) < 0
                       ? error_from_errno(ret_error, ENOMEM, "cannot read the settings")
                       : 0;
}

/* A token goes into a header line: printable, no blanks. */
static bool is_token(const char *s)
{
        for (const char *c = s; *c; c++)
                if (!isgraph((unsigned char)*c))
                        return false;
        return *s;
}

static int resolve_token(const char *source, bool is_file, char **ret_token, struct error **ret_error)
{
        _cleanup_free_ char *token = NULL;
        int r;

        if (!source)
                return 0;
        if (!is_file && *source != '/') {
                token = alloc_strdup(source);
                if (!token)
                        return error_from_errno(ret_error, ENOMEM, "cannot read the token");
        } else {
                r = file_read(source, TOKEN_MAX_BYTES, &token, NULL);
                if (r < 0)
                        return error_set(ret_error, ERROR_BAD_REQUEST,
                                "give the file that holds your API token with -t or DROVER_TOKEN",
                                "cannot read the token file %s: %s", source, strerror(-r));
                token[strcspn(token, "\r\n")] = '\0';
        }
        if (!is_token(token))
                return error_set(ret_error, ERROR_BAD_REQUEST, "make one with 'drover token create'",
                        "%s%s holds no API token", is_file || *source == '/' ? "" : "DROVER_TOKEN",
                        is_file || *source == '/' ? source : "");
        *ret_token = TAKE_PTR(token);
        return 0;
}

/* Two lines: the server as it was named, and the secret. Without such a file there is no session. */
static int read_session(const char *server, char **ret_token, struct error **ret_error)
{
        _cleanup_free_ char *path = config_path("session"), *text = NULL;
        size_t len = strlen(server);
        char *secret;
        int r;

        if (!path)
                return error_from_errno(ret_error, ENOMEM, "cannot read the session");
        r = *path ? file_read(path, TOKEN_MAX_BYTES, &text, NULL) : -ENOENT;
        if (r == -ENOENT || r == -ENOTDIR)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot read %s", path);
        /* What was begun with one server is nothing that another should see. */
        if (strncmp(text, server, len) || text[len] != '\n')
                return 0;
        secret = text + len + 1;
        secret[strcspn(secret, "\r\n")] = '\0';
        if (is_token(secret) && alloc_replace(ret_token, secret) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot read the session");
        return 0;
}

int settings_keep_session(const char *server, const char *secret, struct error **ret_error)
{
        _cleanup_free_ char *path = config_path("session"), *folder = config_path(""), *text = NULL;
        int r;

        if (!path || !folder)
                return error_from_errno(ret_error, ENOMEM, "cannot keep the session");
        if (!*path)
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, "Set HOME.", "there is no home to keep the session in");
        if (!secret)
                return unlink(path) < 0 && errno != ENOENT
                               ? error_from_errno(ret_error, errno, "cannot remove %s", path)
                               : 0;
        text = alloc_printf("%s\n%s\n", server, secret);
        r = text ? file_make_dirs(folder, 0700) : -ENOMEM;
        if (r >= 0)
                r = file_write_atomic(path, text, strlen(text), 0600);
        return r < 0 ? error_from_errno(ret_error, r, "cannot write %s", path) : 0;
}

int settings_load(const struct arguments *arguments, struct settings *ret, struct error **ret_error)
{
        _cleanup_(sources_deinit) struct sources s = {0};
        _cleanup_(settings_deinit) struct settings settings = {0};
        const char *token_file = arguments_text(arguments, "token");
        int r = read_config(&s, ret_error);

        if (r < 0)
                return r;
        if ((r = override(&s.server, getenv("DROVER_SERVER"), ret_error)) < 0 ||
                (r = override(&s.token, getenv("DROVER_TOKEN"), ret_error)) < 0 ||
                (r = override(&s.ca, getenv("DROVER_CA"), ret_error)) < 0 ||
                (r = override(&s.server, arguments_text(arguments, "server"), ret_error)) < 0 ||
                (r = override(&s.token, token_file, ret_error)) < 0 ||
                (r = override(&s.ca, arguments_text(arguments, "ca"), ret_error)) < 0)
                return r;
        r = resolve_token(s.token, token_file, &settings.token, ret_error);
        if (r < 0)
                return r;
        r = s.server ? 0 : override(&s.server, SERVER_DEFAULT, ret_error);
        if (r >= 0 && !s.token)
                r = read_session(s.server, &settings.token, ret_error);
        if (r < 0)
                return r;
        settings.server = TAKE_PTR(s.server);
        settings.ca = TAKE_PTR(s.ca);
        ret->server = TAKE_PTR(settings.server);
        ret->token = TAKE_PTR(settings.token);
        ret->ca = TAKE_PTR(settings.ca);
        return 0;
}

void settings_deinit(struct settings *settings)
{
        free(settings->server);
        free(settings->token);
        free(settings->ca);
        *settings = (struct settings){0};
}

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which server, which token, which CA: options, then environment, then ~/.config/drover/config.ini. Without any token: the session that
 * `drover login` began with that server, in ~/.config/drover/session. */

#include "cli/arguments.h"

struct settings {
        char *server; /* "https://manager:8443", or several with commas between */
        char *token;  /* NULL: none */
        char *ca;     /* file with the manager's CA; NULL: the system's */
};

/* Reads all three sources. BAD_REQUEST names the source of what is wrong. `*ret` is untouched on failure. */
int settings_load(const struct arguments *arguments, struct settings *ret, struct error **ret_error);

/* Keeps a session's secret for this server (mode 0600), or forgets it (secret NULL). */
int settings_keep_session(const char *server, const char *secret, struct error **ret_error);
void settings_deinit(struct settings *settings);

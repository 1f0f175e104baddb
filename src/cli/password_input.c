/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/password_input.h"

#include <errno.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

static int take_line(FILE *from, char ret[static PASSWORD_SIZE], struct error **ret_error)
{
        if (!fgets(ret, PASSWORD_SIZE, from))
                return error_set(ret_error, ERROR_CANCELLED, NULL, "no password was given");
        ret[strcspn(ret, "\r\n")] = '\0';
        return *ret ? 0 : error_set(ret_error, ERROR_CANCELLED, NULL, "the password is empty");
}

static int read_file(const char *path, char ret[static PASSWORD_SIZE], struct error **ret_error)
{
        FILE *file = strcmp(path, "-") ? fopen(path, "re") : stdin;
        int r;

        if (!file)
                return error_from_errno(ret_error, errno, "cannot read %s", path);
        r = take_line(file, ret, ret_error);
        if (file != stdin)
                fclose(file);
        return r;
}

int password_read(const struct cli *cli, const char *path, const char *prompt, char ret[static PASSWORD_SIZE],
        struct error **ret_error)
{
        struct termios before, silent;
        bool hidden;
        int r;

        if (path)
                return read_file(path, ret, ret_error);
        if (!cli->in)
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "give a file that holds it with --password-file",
                        "there is no terminal at which to type the password");
        hidden = tcgetattr(fileno(cli->in), &before) == 0;
        if (hidden) {
                silent = before;
                silent.c_lflag &= ~(tcflag_t)ECHO;
                hidden = tcsetattr(fileno(cli->in), TCSAFLUSH, &silent) == 0;
        }
        fputs(prompt, cli->err);
        fflush(cli->err);
        r = take_line(cli->in, ret, ret_error);
        if (hidden) {
                (void)tcsetattr(fileno(cli->in), TCSAFLUSH, &before);
                fputc('\n', cli->err);
        }
        return r;
}

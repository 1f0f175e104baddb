/* SPDX-License-Identifier: Apache-2.0 */
#include <curl/curl.h>
#include <locale.h>
#include <signal.h>
#include <sys/ioctl.h>

#include "cli/program.h"

/* Columns of the terminal behind `fd`; 0: it is none. */
static unsigned int terminal_width(int fd)
{
        struct winsize size;

        if (!isatty(fd))
                return 0;
        return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

int main(int argc, char **argv)
{
        int status;

        /* `drover vm list | head -1` ends quietly, with an error from the write */
        (void)signal(SIGPIPE, SIG_IGN);
        setlocale(LC_CTYPE, "");
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
                fputs("drover: error: cannot initialise the HTTP library\n", stderr);
                return 1;
        }
        status = program_run(argc, (const char *const *)argv,
                isatty(STDIN_FILENO) && isatty(STDERR_FILENO) ? stdin : NULL, stdout, stderr,
                terminal_width(STDOUT_FILENO), terminal_width(STDERR_FILENO));
        curl_global_cleanup();
        return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/program.h"

#include <errno.h>

#include "cli/cli.h"
#include "cli/output.h"
#include "cli/usage.h"

static int print_error(FILE *err, const struct error *error, enum exit_status status)
{
        fputs("drover: error: ", err);
        output_text(err, error_message(error), false);
        fputc('\n', err);
        if (error && error->hint) {
                fputs("hint: ", err);
                output_text(err, error->hint, false);
                fputc('\n', err);
        }
        fflush(err);
        return status;
}

/* --help and --version, wherever they stand on the line. True when that was all. */
static bool answer_at_once(const struct arguments *arguments, FILE *out)
{
        if (arguments_flag(arguments, "version")) {
                fputs("drover " DROVER_VERSION "\n", out);
                return true;
        }
        if (!arguments_flag(arguments, "help"))
                return false;
        if (arguments->command)
                usage_command(out, arguments->command);
        else if (arguments->n_words)
                usage_group(out, arguments->words, arguments->n_words);
        else
                usage_program(out);
        return true;
}

static int connect_to_server(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        int r = settings_load(arguments, &cli->settings, ret_error);

        if (r == 0)
                r = api_new(&cli->settings, &cli->api, ret_error);
        if (r == 0 && api_set_reason(cli->api, arguments_text(arguments, "why")) < 0)
                r = error_from_errno(ret_error, ENOMEM, "cannot prepare the connection");
        return r;
}

int program_run(int argc, const char *const *argv, FILE *in, FILE *out, FILE *err, unsigned int width,
        unsigned int err_width)
{
        _cleanup_error_ struct error *error = NULL;
        struct arguments arguments;
        struct cli cli = {.in = in,
                .out = out,
                .err = err,
                .width = width,
                .err_width = err_width,
                .clock = &clock_system};
        uint64_t format = OUTPUT_TABLE;
        int r = arguments_parse(&arguments, argc, argv, &error);

        if (r < 0)
                return print_error(err, error, EXIT_STATUS_USAGE);
        if (answer_at_once(&arguments, out))
                return fflush(out) ? EXIT_STATUS_FAILED : EXIT_STATUS_DONE;
        (void)arguments_number(&arguments, "output", &format);
        (void)arguments_number(&arguments, "timeout", &cli.wait_limit_ms);
        cli.format = (enum output_format)format;
        cli.no_wait = arguments_flag(&arguments, "no-wait");
        cli.quiet = arguments_flag(&arguments, "quiet");
        if (!arguments.command->offline)
                r = connect_to_server(&cli, &arguments, &error);
        if (r == 0)
                r = arguments.command->run(&cli, &arguments, &error);
        if (r == 0 && fflush(out))
                r = error_from_errno(&error, errno, "cannot write the output");
        api_free(cli.api);
        settings_deinit(&cli.settings);
        return r < 0 ? print_error(err, error, exit_status_of(error)) : (int)cli.status;
}

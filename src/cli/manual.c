/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/manual.h"

#include <string.h>

#include "cli/usage.h"

/* Text with what roff would take for itself escaped. */
static void print_text(FILE *out, const char *text)
{
        if (*text == '.' || *text == '\'')
                fputs("\\&", out);
        for (; *text; text++) {
                if (*text == '\\')
                        fputs("\\e", out);
                else if (*text == '-')
                        fputs("\\-", out);
                else if (text[0] == '\n' && text[1] == '\n')
                        fputs("\n.PP", out);
                else
                        fputc(*text, out);
        }
}

static void print_option(FILE *out, const struct option_spec *option)
{
        fputs(".TP\n", out);
        if (option->letter)
                fprintf(out, "\\fB\\-%c\\fR, ", option->letter);
        fputs("\\fB\\-\\-", out);
        print_text(out, option->name);
        fputs("\\fR", out);
        if (option->value) {
                fputs(" \\fI", out);
                print_text(out, option->value);
                fputs("\\fR", out);
        }
        fputc('\n', out);
        print_text(out, option->help);
        fputs(option->required ? " (needed)\n" : "\n", out);
}

static void print_command(FILE *out, const struct command *command)
{
        char line[USAGE_LINE_SIZE];

        usage_line(command, line);
        fputs(".SS \"", out);
        print_text(out, line + strlen("usage: drover "));
        fputs("\"\n", out);
        print_text(out, command->summary);
        fputs(".\n", out);
        if (command->details) {
                fputs(".PP\n", out);
                print_text(out, command->details);
                fputc('\n', out);
        }
        for (const struct option_spec *o = command->options; o && o->name; o++)
                print_option(out, o);
}

void manual_write(FILE *out)
{
        fputs(".\\\" Made by 'drover man' from the command table.\n"
              ".TH DROVER 1 \"\" \"drover " DROVER_VERSION "\" \"User Commands\"\n"
              ".SH NAME\ndrover \\- move running virtual machines between QEMU hosts and manage them\n"
              ".SH SYNOPSIS\n.B drover\n[\\fIglobal options\\fR] \\fICOMMAND\\fR [\\fIoptions\\fR]\n"
              ".SH DESCRIPTION\n"
              "drover is a client of drover\\-manager's public API. Documents and tables go to standard "
              "output, progress "
              "and messages to standard error. Commands that start a task wait for its end unless "
              "\\fB\\-\\-no\\-wait\\fR "
              "is given; Ctrl\\-C detaches from a task, and a second Ctrl\\-C within two seconds cancels "
              "it.\n"
              ".SH GLOBAL OPTIONS\n",
                out);
        for (const struct option_spec *o = global_options; o->name; o++)
                print_option(out, o);
        fputs(".SH COMMANDS\n", out);
        for (size_t i = 0; i < n_command_table; i++)
                if (!command_table[i].hidden)
                        print_command(out, &command_table[i]);
        fputs(".SH EXIT STATUS\n", out);
#define X(name, number, meaning) fprintf(out, ".TP\n\\fB%d\\fR\n%s\n", number, meaning);
        EXIT_STATUSES(X)
#undef X
        fputs(".SH ENVIRONMENT\n", out);
        for (const struct usage_variable *v = usage_variables; v->name; v++) {
                fprintf(out, ".TP\n\\fB%s\\fR\n", v->name);
                print_text(out, v->meaning);
                fputc('\n', out);
        }
        fputs(".SH FILES\n.TP\n\\fI~/.config/drover/config.ini\\fR\n"
              "Settings \\fBserver\\fR, \\fBtoken_file\\fR and \\fBca\\fR, one \"key = value\" a line; "
              "options and "
              "environment win over it.\n"
              ".SH EXAMPLES\n.nf\n"
              "drover vm create web1 \\-\\-memory 4G \\-\\-cpus 2 \\-\\-disk shared:20G \\-\\-net default "
              "\\-\\-start\n"
              "drover vm migrate web1 \\-\\-to host2 \\-\\-check\n"
              "drover vm migrate web1 \\-\\-to host2 \\-\\-max\\-pause 100ms\n"
              "drover \\-o json task list \\-\\-active | jq \\-r '.items[].name'\n"
              ".fi\n.SH SEE ALSO\n.BR drover\\-manager (8),\n.BR drover\\-agent (8),\n.BR drover\\-mover "
              "(8)\n",
                out);
}

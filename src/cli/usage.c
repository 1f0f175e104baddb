/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/usage.h"

#include <string.h>

#define TEXT_COLUMNS 100

const struct usage_variable usage_variables[] = {
        {"DROVER_SERVER",
                "the manager's URL, or those of several managers over one store, separated by commas"},
        {"DROVER_TOKEN", "the API token itself or, when it begins with '/', the file that holds it"},
        {"DROVER_CA", "file with the certificate of the CA that the manager is trusted by"},
        {NULL, NULL},
};

char *usage_line(const struct command *command, char ret[static USAGE_LINE_SIZE])
{
        size_t used = (size_t)snprintf(ret, USAGE_LINE_SIZE, "usage: drover %s", command->words);

        for (const struct operand_spec *p = command->operands; p->name && used < USAGE_LINE_SIZE; p++)
                used += (size_t)snprintf(
                        ret + used, USAGE_LINE_SIZE - used, p->optional ? " [%s]" : " %s", p->name);
        for (const struct option_spec *o = command->options; o && o->name && used < USAGE_LINE_SIZE; o++)
                if (o->required)
                        used += (size_t)snprintf(
                                ret + used, USAGE_LINE_SIZE - used, " --%s %s", o->name, o->value);
        if (command->options && used < USAGE_LINE_SIZE)
                snprintf(ret + used, USAGE_LINE_SIZE - used, " [options]");
        return ret;
}

/* Wraps a paragraph at TEXT_COLUMNS; each line begins with `indent` spaces. */
static void print_wrapped(FILE *out, const char *text, int indent)
{
        int column = 0;

        while (*text) {
                size_t n = strcspn(text, " \n");

                if (column && column + 1 + (int)n > TEXT_COLUMNS) {
                        fputc('\n', out);
                        column = 0;
                }
                column += fprintf(out, "%*s%.*s", column ? 1 : indent, "", (int)n, text);
                text += n;
                if (*text == '\n') {
                        fputc('\n', out);
                        column = 0;
                }
                text += *text != '\0';
        }
        fputc('\n', out);
}

static void print_options(FILE *out, const struct option_spec *options)
{
        for (const struct option_spec *o = options; o && o->name; o++) {
                char left[128];
                int n = snprintf(left, sizeof(left), "  %c%c%s--%s%s%s", o->letter ? '-' : ' ',
                        o->letter ?: ' ', o->letter ? ", " : "  ", o->name, o->value ? " " : "",
                        o->value ?: "");

                if (n < 30)
                        fprintf(out, "%-30s%s\n", left, o->help);
                else
                        fprintf(out, "%s\n%30s%s\n", left, "", o->help);
        }
}

void usage_group(FILE *out, const char *const *words, size_t n_words)
{
        for (size_t i = 0; i < n_command_table; i++) {
                const struct command *c = &command_table[i];
                char left[96];
                size_t used;

                if (c->hidden || !command_starts_with(c, words, n_words))
                        continue;
                used = (size_t)snprintf(left, sizeof(left), "  %s", c->words);
                for (const struct operand_spec *p = c->operands; p->name && used < sizeof(left); p++)
                        used += (size_t)snprintf(
                                left + used, sizeof(left) - used, p->optional ? " [%s]" : " %s", p->name);
                fprintf(out, "%-38s %s\n", left, c->summary);
        }
}

void usage_program(FILE *out)
{
        fputs("drover moves running virtual machines between QEMU hosts and manages them.\n\n"
              "usage: drover [global options] COMMAND [options]\n\ncommands:\n",
                out);
        usage_group(out, NULL, 0);
        fputs("\nglobal options:\n", out);
        print_options(out, global_options);
        fputs("\nenvironment:\n", out);
        for (const struct usage_variable *v = usage_variables; v->name; v++)
                fprintf(out, "  %-28s%s\n", v->name, v->meaning);
        fputs("\nexit status:\n", out);
#define X(name, number, meaning) fprintf(out, "  %-28d%s\n", number, meaning);
        EXIT_STATUSES(X)
#undef X
        fputs("\n'drover COMMAND --help' tells more.\n", out);
}

void usage_command(FILE *out, const struct command *command)
{
        char line[USAGE_LINE_SIZE];

        fprintf(out, "drover %s: %s\n\n%s\n", command->words, command->summary, usage_line(command, line));
        if (command->details) {
                fputc('\n', out);
                print_wrapped(out, command->details, 0);
        }
        if (command->options) {
                fputs("\noptions:\n", out);
                print_options(out, command->options);
        }
        fputs("\nglobal options:\n", out);
        print_options(out, global_options);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cli/output.h"

static double number_of(const json_t *doc, const char *path)
{
        return json_number_value(output_lookup(doc, path));
}

static const char *text_of(const json_t *doc, const char *path)
{
        return json_string_value(output_lookup(doc, path)) ?: "";
}

static void print_time(const struct cli *cli, const char *name, const json_t *range)
{
        char expected[24], low[24], high[24];

        fprintf(cli->out, "  %-14s%s (%s to %s)\n", name,
                text_format_duration_ms((uint64_t)number_of(range, "expected"), expected),
                text_format_duration_ms((uint64_t)number_of(range, "low"), low),
                text_format_duration_ms((uint64_t)number_of(range, "high"), high));
}

static void print_size(const struct cli *cli, const char *name, const json_t *range)
{
        char expected[16], low[16], high[16];

        fprintf(cli->out, "  %-14s%s (%s to %s)\n", name,
                text_format_size((uint64_t)number_of(range, "expected"), expected),
                text_format_size((uint64_t)number_of(range, "low"), low),
                text_format_size((uint64_t)number_of(range, "high"), high));
}

static void print_line(const struct cli *cli, const char *name, const char *text)
{
        if (!*text)
                return;
        fprintf(cli->out, "  %-14s", name);
        output_text(cli->out, text, false);
        fputc('\n', cli->out);
}

static void print_destination(const struct cli *cli, const json_t *to)
{
        static const char *const methods[][2] = {{"probe", "tried just now"},
                {"past-migrations", "what past migrations achieved"},
                {"interface-speed", "what the interface claims"}};
        const json_t *rate = output_lookup(to, "path.rate_bps");
        const char *method = text_of(to, "path.method");
        _cleanup_free_ char *text = rate ? output_value_text(rate, "path.rate_bps") : NULL;

        fputs("to ", cli->out);
        output_text(cli->out, text_of(to, "to"), false);
        fputc('\n', cli->out);
        if (output_lookup(to, "error")) {
                print_line(cli, "not known", text_of(to, "error.detail"));
                return;
        }
        print_time(cli, "total", output_lookup(to, "total_ms"));
        print_time(cli, "pause", output_lookup(to, "pause_ms"));
        print_size(cli, "sent", output_lookup(to, "bytes_wire"));
        for (size_t i = 0; i < ARRAY_SIZE(methods); i++)
                if (!strcmp(methods[i][0], method))
                        method = methods[i][1];
        fprintf(cli->out, "  %-14s%s, round trip %.1f ms; ", "path", text ?: "?",
                number_of(to, "path.rtt_us") / 1000);
        output_text(cli->out, method, false);
        fputc('\n', cli->out);
        if (output_lookup(to, "held_share"))
                fprintf(cli->out, "  %-14s%.0f %% of its memory from an earlier stay\n", "keeps",
                        100 * number_of(to, "held_share"));
        if (number_of(to, "learned.migrations") > 0)
                fprintf(cli->out, "  %-14sby what %.0f earlier migration%s took\n", "corrected",
                        number_of(to, "learned.migrations"),
                        number_of(to, "learned.migrations") > 1 ? "s" : "");
        print_line(cli, "ends by itself", json_is_true(output_lookup(to, "converges")) ? "yes" : "no");
        print_line(cli, "because", text_of(to, "reason"));
        print_line(cli, "way out", text_of(to, "way_out"));
}

static void print_guest(const struct cli *cli, const json_t *answer)
{
        const json_t *looks = output_lookup(answer, "sample.dirty"), *last;
        char size[16];

        output_text(cli->out, text_of(answer, "vm"), false);
        fputs(" on ", cli->out);
        output_text(cli->out, text_of(answer, "from"), false);
        fprintf(cli->out, "\n  %-14s%s, %.0f %% zero; of the rest %.0f %% repeated, %.0f %% incompressible\n",
                "memory", text_format_size((uint64_t)number_of(answer, "sample.ram_bytes"), size),
                100 * number_of(answer, "sample.zero_share"),
                100 * number_of(answer, "sample.duplicate_share"),
                100 * number_of(answer, "sample.incompressible_share"));
        last = json_array_get(looks, json_array_size(looks) - 1);
        if (last)
                fprintf(cli->out, "  %-14s%s of pages in %.1f s\n", "changes",
                        text_format_size((uint64_t)number_of(last, "page_bytes"), size),
                        number_of(last, "interval_ms") / 1000);
}

static int print_score(struct cli *cli, struct error **ret_error)
{
        static const char *const names[][2] = {
                {"total_ms", "total time"}, {"pause_ms", "pause"}, {"bytes_wire", "bytes sent"}};
        _cleanup_json_ json_t *score = NULL;
        json_t *kind;
        size_t i;
        int r = api_call(cli->api, "GET", "/forecast-score", NULL, &score, NULL, ret_error);

        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, score, ret_error);
        fprintf(cli->out, "%.0f migrations with a forecast\n", number_of(score, "n"));
        json_array_foreach (json_object_get(score, "kinds"), i, kind) {
                const char *name = text_of(kind, "kind");

                for (size_t j = 0; j < ARRAY_SIZE(names); j++)
                        if (!strcmp(names[j][0], name))
                                name = names[j][1];
                if (number_of(kind, "n") < 1)
                        continue;
                fputs("  ", cli->out);
                output_text(cli->out, name, false);
                fprintf(cli->out, "%*s%.0f of %.0f within the range (%.0f %%), median error %.0f %%\n",
                        (int)MAX(14 - (int)strlen(name), 1), "", number_of(kind, "in_range"),
                        number_of(kind, "n"), 100 * number_of(kind, "in_range_share"),
                        100 * number_of(kind, "median_error"));
        }
        return 0;
}

int command_vm_forecast(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        _cleanup_json_ json_t *body = NULL, *answer = NULL;
        const char *vm = arguments->n_operands ? arguments_operand(arguments, 0) : NULL;
        _cleanup_free_ char *path = NULL;
        json_t *to;
        uint64_t number;
        size_t i;
        int r;

        if (arguments_flag(arguments, "score"))
                return print_score(cli, ret_error);
        if (!vm)
                return error_set(ret_error, ERROR_BAD_REQUEST, "'drover help vm forecast' has the details",
                        "VM is missing (or --score)");
        body = json_pack("{s:s*}", "to", arguments_text(arguments, "to"));
        path = alloc_printf("/vms/%s/forecast", vm);
        if (!body || !path)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        if (arguments_number(arguments, "max-pause", &number))
                json_object_set_new(body, "max_pause_ms", json_integer((json_int_t)number));
        if (arguments_number(arguments, "rate-limit", &number))
                json_object_set_new(body, "rate_limit_bps", json_integer((json_int_t)number));
        if (arguments_flag(arguments, "verify"))
                json_object_set_new(body, "verify", json_true());
        r = api_call(cli->api, "POST", path, body, &answer, NULL, ret_error);
        if (r < 0)
                return r;
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        print_guest(cli, answer);
        json_array_foreach (json_object_get(answer, "destinations"), i, to)
                print_destination(cli, to);
        return 0;
}

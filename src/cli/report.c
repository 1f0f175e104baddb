/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/report.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "cli/output.h"

#define LABEL_WIDTH 14

static double number_of(const json_t *doc, const char *key)
{
        const json_t *value = json_object_get(doc, key);

        return json_is_number(value) ? json_number_value(value) : -1;
}

static const char *text_of(const json_t *doc, const char *key)
{
        return json_string_value(json_object_get(doc, key));
}

static void label(const struct cli *cli, const char *text)
{
        fprintf(cli->out, "  %-*s", LABEL_WIDTH, text);
}

static void field(const struct cli *cli, const json_t *result, const char *key, const char *name)
{
        const char *text = text_of(result, key);

        if (!text)
                return;
        label(cli, name);
        output_text(cli->out, text, false);
        fputc('\n', cli->out);
}

static const char *size_text(double bytes, char ret[static 16])
{
        return text_format_size(bytes > 0 ? (uint64_t)bytes : 0, ret);
}

/* A pause is worth its tenths below ten milliseconds. */
static const char *pause_text(double ms, char ret[static 24])
{
        if (ms >= 10)
                return text_format_duration_ms((uint64_t)(ms + 0.5), ret);
        snprintf(ret, 24, "%.1f ms", ms);
        return ret;
}

static void print_memory(const struct cli *cli, const json_t *result)
{
        static const struct {
                const char *key, *words;
                bool if_any;
        } saved[] = {{"bytes_zero", "zero pages", false}, {"bytes_duplicate", "duplicates", false},
                {"bytes_recalled", "of them kept there", true},
                {"bytes_shared", "of them shared with other machines", true},
                {"bytes_delta", "deltas", false}};
        double ram = number_of(result, "bytes_ram"), wire = number_of(result, "bytes_wire"),
               passes = number_of(result, "passes");
        char a[16], b[16];
        bool any = false;

        if (ram >= 0 && wire >= 0) {
                label(cli, "memory");
                fprintf(cli->out, "%s read", size_text(ram, a));
                if (passes >= 0)
                        fprintf(cli->out, " in %.0f pass%s", passes, passes > 1 ? "es" : "");
                fprintf(cli->out, ", %s sent", size_text(wire, b));
                if (wire > 0)
                        fprintf(cli->out, " (%.1f : 1)", ram / wire);
                fputc('\n', cli->out);
        }
        for (size_t i = 0; i < ARRAY_SIZE(saved); i++) {
                double bytes = number_of(result, saved[i].key);

                if (bytes < 0 || (bytes < 1 && saved[i].if_any))
                        continue;
                if (!any)
                        label(cli, "of that");
                fprintf(cli->out, "%s%s %s", any ? ", " : "", size_text(bytes, a), saved[i].words);
                any = true;
        }
        if (any)
                fputc('\n', cli->out);
}

/* With one address there is nothing to tell apart. */
static void print_addresses(const struct cli *cli, const json_t *paths)
{
        size_t i;
        json_t *path;
        char bytes[32];

        json_array_foreach (paths, i, path) {
                const char *device = text_of(path, "device"), *address = text_of(path, "address");

                if (json_array_size(paths) < 2)
                        continue;
                label(cli, device && *device ? device : "address");
                fprintf(cli->out, "%s to ", size_text(number_of(path, "bytes"), bytes));
                output_text(cli->out, address ?: "", false);
                if (number_of(path, "mtu") > 0)
                        fprintf(cli->out, ", packets of %.0f bytes", number_of(path, "mtu"));
                fputs(json_is_false(json_object_get(path, "up")) ? ", failed\n" : "\n", cli->out);
        }
}

/* "wait from 14 s on, throttle up to 61 % from 44 s on": each step once, with the last that was done in it. */
static void print_convergence(const struct cli *cli, const json_t *steps)
{
        const json_t *step, *next;
        double began_ms = -1;
        char text[24];
        bool any = false;
        size_t i;

        json_array_foreach (steps, i, step) {
                const char *name = text_of(step, "step") ?: "?";
                double pause_ms = number_of(step, "max_pause_ms"),
                       percent = number_of(step, "throttle_percent");

                began_ms = began_ms < 0 ? number_of(step, "at_ms") : began_ms;
                next = json_array_get(steps, i + 1);
                if (next && !strcmp(text_of(next, "step") ?: "?", name))
                        continue;
                if (!any)
                        label(cli, "help");
                fputs(any ? ", " : "", cli->out);
                output_text(cli->out, name, false);
                if (!strcmp(name, "pause") && pause_ms >= 0)
                        fprintf(cli->out, " up to %s", text_format_duration_ms((uint64_t)pause_ms, text));
                if (!strcmp(name, "throttle") && percent >= 0)
                        fprintf(cli->out, " up to %.0f %%", percent);
                if (began_ms >= 0)
                        fprintf(cli->out, " from %s on", text_format_duration_ms((uint64_t)began_ms, text));
                any = true;
                began_ms = -1;
        }
        if (any)
                fputc('\n', cli->out);
}

static void print_post_copy(const struct cli *cli, const json_t *post_copy)
{
        double ms = number_of(post_copy, "ms"), pages = number_of(post_copy, "pages_requested");
        char text[24], bytes[16];

        if (!json_is_object(post_copy) || ms < 0 || pages < 0)
                return;
        label(cli, "post-copy");
        fprintf(cli->out,
                "%s until all of the memory had come, %s, %.0f page%s asked for; the memory was not "
                "compared\n",
                text_format_duration_ms((uint64_t)ms, text), size_text(number_of(post_copy, "bytes"), bytes),
                pages, pages == 1 ? "" : "s");
}

static void print_path(const struct cli *cli, const json_t *result)
{
        double channels = number_of(result, "channels"), reconnects = number_of(result, "reconnects");
        const char *cipher = text_of(result, "cipher");

        if (channels >= 0) {
                label(cli, "path");
                fprintf(cli->out, "%.0f connection%s", channels, channels > 1 ? "s" : "");
                fputs(cipher ? ", " : "", cli->out);
                output_text(cli->out, cipher ?: "", false);
                if (reconnects > 0)
                        fprintf(cli->out, ", %.0f replaced", reconnects);
                fputc('\n', cli->out);
        }
        print_addresses(cli, json_object_get(result, "paths"));
        field(cli, result, "converged_by", "converged by");
        print_convergence(cli, json_object_get(result, "convergence"));
        print_post_copy(cli, json_object_get(result, "post_copy"));
        if (json_is_true(json_object_get(result, "verified"))) {
                label(cli, "verified");
                fputs("memory is equal on both sides\n", cli->out);
        }
}

/* What was not as it should be in the destination's network, and how the guest was taken there. */
static void print_network(const struct cli *cli, const json_t *result)
{
        const json_t *checks = json_object_get(json_object_get(result, "network"), "checks"), *check;
        const json_t *arrival = json_object_get(result, "arrival");
        const char *by = text_of(json_array_get(json_object_get(arrival, "nics"), 0), "verified_by");
        double gap = number_of(arrival, "gap_ms");
        char text[24];
        size_t i;

        json_array_foreach (checks, i, check) {
                if (json_is_true(json_object_get(check, "ok")))
                        continue;
                label(cli, "warning");
                output_text(cli->out, text_of(check, "code") ?: "?", false);
                fputs(": ", cli->out);
                output_text(cli->out, text_of(check, "cause") ?: "", false);
                fputc('\n', cli->out);
        }
        if (!by)
                return;
        label(cli, "arrival");
        fputs(!strcmp(by, "answer")    ? "its network answers it there"
                : !strcmp(by, "frame") ? "its network reaches it there"
                                       : "nothing of its network was seen there yet",
                cli->out);
        if (gap >= 0)
                fprintf(cli->out, "; away for %s", pause_text(gap, text));
        fputc('\n', cli->out);
}

static void print_phases(const struct cli *cli, const json_t *phases)
{
        const json_t *phase;
        char text[24];
        size_t i;

        if (!json_array_size(phases))
                return;
        label(cli, "phases");
        json_array_foreach (phases, i, phase) {
                double ms = number_of(phase, "ms");

                fputs(i ? ", " : "", cli->out);
                output_text(cli->out, text_of(phase, "name") ?: "?", false);
                fprintf(cli->out, " %s", text_format_duration_ms(ms > 0 ? (uint64_t)(ms + 0.5) : 0, text));
        }
        fputc('\n', cli->out);
}

/* "disk disk0  shared:web1/disk0.raw -> fast:web1/disk0-0123abcd4567.qcow2" */
static void print_disk(const struct cli *cli, const json_t *disk)
{
        static const char *const ends[] = {"from", "to"};

        label(cli, text_of(disk, "name") ?: "?");
        for (size_t i = 0; i < ARRAY_SIZE(ends); i++) {
                const json_t *place = json_object_get(disk, ends[i]);

                fputs(i ? " -> " : "", cli->out);
                output_text(cli->out, text_of(place, "datastore") ?: "?", false);
                fputc(':', cli->out);
                output_text(cli->out, text_of(place, "path") ?: "?", false);
        }
        fputc('\n', cli->out);
}

/* That travelled along. */
static void print_along(const struct cli *cli, const json_t *along)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(along, "disks"), i, disk)
                print_disk(cli, disk);
        if (along)
                field(cli, along, "left", "left over");
}

static int flushed(const struct cli *cli, struct error **ret_error)
{
        if (fflush(cli->out) == 0 && !ferror(cli->out))
                return 0;
        return error_from_errno(ret_error, EIO, "cannot write the output");
}

int report_migration(const struct cli *cli, const char *vm, const json_t *result, struct error **ret_error)
{
        double total = number_of(result, "total_ms"), pause = number_of(result, "pause_ms");
        char text[24];

        output_text(cli->out, vm, false);
        fputs(" moved from ", cli->out);
        output_text(cli->out, text_of(result, "from") ?: "?", false);
        fputs(" to ", cli->out);
        output_text(cli->out, text_of(result, "to") ?: "?", false);
        fprintf(cli->out, " in %s", text_format_duration_ms(total > 0 ? (uint64_t)total : 0, text));
        if (pause >= 0)
                fprintf(cli->out, ", paused for %s", pause_text(pause, text));
        fputc('\n', cli->out);
        print_memory(cli, result);
        print_along(cli, json_object_get(result, "disks_along"));
        print_path(cli, result);
        print_network(cli, result);
        print_phases(cli, json_object_get(result, "phases"));
        return flushed(cli, ret_error);
}

/* Hosts that a roll-out could not reach. */
static void print_left_out(const struct cli *cli, const json_t *left_out)
{
        json_t *name;
        size_t i;

        json_array_foreach ((json_t *)left_out, i, name) {
                fputs(i ? ", " : "not reached, and left out (run it again when they are back): ", cli->out);
                output_text(cli->out, json_string_value(name) ?: "?", false);
        }
        if (json_array_size(left_out))
                fputc('\n', cli->out);
}

static int report_disks(
        const struct cli *cli, const char *object, const json_t *result, struct error **ret_error)
{
        double total_ms = number_of(result, "total_ms"), pause_ms = number_of(result, "pause_ms");
        json_t *disk;
        char text[24];
        size_t i;

        output_text(cli->out, strchr(object, '/') ? strchr(object, '/') + 1 : object, false);
        fputs(": disks moved", cli->out);
        if (total_ms >= 0)
                fprintf(cli->out, " in %s", text_format_duration_ms((uint64_t)total_ms, text));
        if (pause_ms >= 0)
                fprintf(cli->out, ", paused for %s", pause_text(pause_ms, text));
        fputc('\n', cli->out);
        json_array_foreach (json_object_get(result, "disks"), i, disk) {
                print_disk(cli, disk);
        }
        label(cli, "copied");
        fprintf(cli->out, "%s\n", size_text(number_of(result, "bytes_copied"), text));
        field(cli, result, "left", "left over");
        return flushed(cli, ret_error);
}

static int report_cold(
        const struct cli *cli, const char *object, const json_t *result, struct error **ret_error)
{
        const char *name = strchr(object, '/') ? strchr(object, '/') + 1 : object;

        fprintf(cli->out, "%s: on %s now, and %s as before\n", name, text_of(result, "to") ?: "-",
                text_of(result, "power") ?: "off");
        return flushed(cli, ret_error);
}

/* What an import or export has made, and its checksum. */
static int report_image(
        const struct cli *cli, const char *object, const json_t *result, struct error **ret_error)
{
        const json_t *disk = json_object_get(result, "disk"), *source = json_object_get(result, "source");
        const char *name = json_string_value(disk) ?: text_of(disk, "name");
        char text[24];

        output_text(cli->out, strchr(object, '/') ? strchr(object, '/') + 1 : object, false);
        if (json_is_object(source)) {
                fprintf(cli->out, ": disk %s of %s made\n", name ?: "?",
                        size_text(number_of(disk, "size_bytes"), text));
                label(cli, json_is_true(json_object_get(source, "verified")) ? "verified" : "sha256");
                fprintf(cli->out, "%s (the image)\n", text_of(source, "sha256") ?: "?");
        } else {
                fprintf(cli->out, ":%s%s written to %s:%s, %s\n", name ? " disk " : "", name ?: "",
                        text_of(result, "datastore") ?: "?", text_of(result, "path") ?: "?",
                        size_text(number_of(result, "bytes"), text));
                label(cli, "sha256");
                fprintf(cli->out, "%s\n", text_of(result, "sha256") ?: "?");
        }
        return flushed(cli, ret_error);
}

static int report_import(
        const struct cli *cli, const char *object, const json_t *result, struct error **ret_error)
{
        json_t *disk;
        char text[24];
        size_t i;

        output_text(cli->out, strchr(object, '/') ? strchr(object, '/') + 1 : object, false);
        fputs(": imported, and off\n", cli->out);
        json_array_foreach (json_object_get(result, "disks"), i, disk) {
                const json_t *source = json_object_get(disk, "source");

                label(cli, text_of(disk, "name") ?: "disk");
                fprintf(cli->out, "%s, sha256 %s%s\n", size_text(number_of(disk, "size_bytes"), text),
                        text_of(source, "sha256") ?: "?",
                        json_is_true(json_object_get(source, "verified")) ? ", as its manifest says" : "");
        }
        return flushed(cli, ret_error);
}

int report_task(const struct cli *cli, const json_t *task, struct error **ret_error)
{
        const char *action = json_string_value(output_lookup(task, "spec.action")) ?: "task",
                   *object = json_string_value(output_lookup(task, "spec.object")) ?: "";
        const json_t *result = output_lookup(task, "status.result");

        if (!strcmp(action, "vm.migrate") && json_is_object(result))
                return report_migration(
                        cli, strchr(object, '/') ? strchr(object, '/') + 1 : object, result, ret_error);
        if (report_has_moves(result))
                return report_moves(cli, result, ret_error);
        if (!strcmp(action, "vm.migrate-disks") && json_is_object(result))
                return report_disks(cli, object, result, ret_error);
        if (!strcmp(action, "vm.migrate-cold") && json_is_object(result))
                return report_cold(cli, object, result, ret_error);
        if (!strcmp(action, "vm.import"))
                return report_import(cli, object, result, ret_error);
        if (!strcmp(action, "vm.import-disk") || !strcmp(action, "vm.export-disk") ||
                !strcmp(action, "vm.export"))
                return report_image(cli, object, result, ret_error);
        output_text(cli->out, object, false);
        fputs(": ", cli->out);
        output_text(cli->out, action, false);
        fputs(" done\n", cli->out);
        print_left_out(cli, json_object_get(result, "left_out"));
        return flushed(cli, ret_error);
}

static bool is_warning(const json_t *check)
{
        return !json_is_true(json_object_get(check, "ok")) &&
               !strcmp(text_of(check, "severity") ?: "", "warning");
}

static void print_check(const struct cli *cli, const json_t *check)
{
        const char *cause = text_of(check, "cause"), *way_out = text_of(check, "way_out");
        bool ok = json_is_true(json_object_get(check, "ok"));

        fprintf(cli->out, "  %-8s", ok ? "ok" : is_warning(check) ? "WARNING" : "FAILED");
        output_text(cli->out, text_of(check, "code") ?: "?", false);
        if (cause) {
                fputs(": ", cli->out);
                output_text(cli->out, cause, false);
        }
        if (way_out) {
                fputs("\n          way out: ", cli->out);
                output_text(cli->out, way_out, false);
        }
        fputc('\n', cli->out);
}

/* What forbids the move, then what makes it a worse one, then what is fine. */
static void print_check_groups(const struct cli *cli, const json_t *checks)
{
        const json_t *check;
        size_t i;

        for (int group = 0; group < 3; group++)
                json_array_foreach (checks, i, check) {
                        bool ok = json_is_true(json_object_get(check, "ok"));

                        if (group == (ok ? 2 : is_warning(check) ? 1 : 0))
                                print_check(cli, check);
                }
}

int report_checks(const struct cli *cli, const json_t *report, struct error **ret_error)
{
        static const struct output_column columns[] = {{"HOST", "host", false}, {"OK", "ok", false},
                {"SCORE", "score", false}, {"REASONS", "reasons", false}, {0}};
        const json_t *ranking = json_object_get(report, "ranking");
        bool ok = json_is_true(json_object_get(report, "ok"));

        output_text(cli->out, text_of(report, "vm") ?: "?", false);
        fputs(ok ? " can move" : " cannot move", cli->out);
        if (text_of(report, "to")) {
                fputs(" to ", cli->out);
                output_text(cli->out, text_of(report, "to"), false);
        }
        fputc('\n', cli->out);
        print_check_groups(cli, json_object_get(report, "checks"));
        if (json_array_size(ranking)) {
                fputc('\n', cli->out);
                return output_table(cli, ranking, columns, ret_error);
        }
        return flushed(cli, ret_error);
}

/* A line with the score of each, and the reasons below. key: of its name. */
static void print_ranking(const struct cli *cli, const json_t *ranking, const char *key)
{
        const json_t *item, *reason;
        size_t i, k;

        json_array_foreach (ranking, i, item) {
                if (json_is_true(json_object_get(item, "ok")))
                        fprintf(cli->out, "  %5.1f  ", number_of(item, "score"));
                else
                        fputs("  UNFIT  ", cli->out);
                output_text(cli->out, text_of(item, key) ?: "?", false);
                fputc('\n', cli->out);
                json_array_foreach (json_object_get(item, "reasons"), k, reason) {
                        fputs("           ", cli->out);
                        output_text(cli->out, json_string_value(reason) ?: "", false);
                        fputc('\n', cli->out);
                }
        }
}

int report_advice(const struct cli *cli, const json_t *advice, struct error **ret_error)
{
        const json_t *ranking = json_object_get(advice, "ranking");
        bool starts = !strcmp(text_of(advice, "action") ?: "", "start");
        double n_hosts = number_of(advice, "n_hosts");

        output_text(cli->out, text_of(advice, "vm") ?: "?", false);
        if (text_of(advice, "from")) {
                fputs(" is on ", cli->out);
                output_text(cli->out, text_of(advice, "from"), false);
        }
        if (json_is_true(json_object_get(advice, "ok"))) {
                fputs(starts ? "; best started on " : "; best moved to ", cli->out);
                output_text(cli->out, text_of(json_array_get(ranking, 0), "host") ?: "?", false);
                fputc('\n', cli->out);
        } else
                fputs("; no other host can take it\n", cli->out);
        print_ranking(cli, ranking, "host");
        if (n_hosts > (double)json_array_size(ranking))
                fprintf(cli->out, "and %.0f more; --all shows them\n",
                        n_hosts - (double)json_array_size(ranking));
        return flushed(cli, ret_error);
}

int report_disk_advice(const struct cli *cli, const json_t *advice, struct error **ret_error)
{
        const json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(advice, "disks"), i, disk) {
                const char *to = text_of(disk, "to");

                output_text(cli->out, text_of(disk, "disk") ?: "?", false);
                fputs(" is on ", cli->out);
                output_text(cli->out, text_of(disk, "datastore") ?: "?", false);
                fputs(to ? "; best moved to " : "; no other datastore can take it", cli->out);
                output_text(cli->out, to ?: "", false);
                fputc('\n', cli->out);
                print_ranking(cli, json_object_get(disk, "ranking"), "datastore");
        }
        if (!json_array_size(json_object_get(advice, "disks")))
                fputs("It has no disk that can be moved.\n", cli->out);
        return flushed(cli, ret_error);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <stdarg.h>
#include <string.h>

#include "base/text.h"
#include "cli/output.h"

#define LINE_SIZE 320
#define BAR_CELLS 20
#define SPARSE_MS 5000

/* A line that is put together from parts and never overflows. */
struct line {
        char *text;
        size_t size;
        size_t used;
};

static void add(struct line *line, const char *fmt, ...) _printf_(2, 3);
static void add(struct line *line, const char *fmt, ...)
{
        size_t left = line->size - line->used;
        va_list ap;
        int n;

        va_start(ap, fmt);
        n = vsnprintf(line->text + line->used, left, fmt, ap);
        va_end(ap);
        line->used += MIN((size_t)MAX(n, 0), left - 1);
}

static const char *text_at(const json_t *doc, const char *path)
{
        return json_string_value(output_lookup(doc, path));
}

/* Negative when absent. */
static double number_at(const json_t *doc, const char *path)
{
        const json_t *value = output_lookup(doc, path);

        return json_is_number(value) ? json_number_value(value) : -1;
}

static const char *phase_of(const json_t *task)
{
        const char *phase = text_at(task, "status.progress.phase") ?: text_at(task, "status.step");

        return phase ?: text_at(task, "status.state") ?: "";
}

static void add_bar(struct line *line, double percent)
{
        int full = (int)(CLAMP(percent, 0, 100) * BAR_CELLS / 100);

        add(line, "  [%.*s%.*s] %3.0f %%", full, "####################", BAR_CELLS - full,
                "--------------------", CLAMP(percent, 0, 100));
}

/* Guest bytes retired per second say more than wire bytes, but both are asked for: rate is what the link carries. */
static void add_migration(struct line *line, const json_t *progress)
{
        double pass = number_at(progress, "pass"), rate = number_at(progress, "rate_bps"),
               left = number_at(progress, "remaining_bytes"),
               dirty = number_at(progress, "dirty_pages_per_s");
        char text[24];

        if (pass >= 0)
                add(line, "  pass %.0f", pass);
        if (rate >= 0)
                add(line, "  %s", text_format_rate((uint64_t)rate, text));
        if (left >= 0)
                add(line, "  %s left", text_format_size((uint64_t)left, text));
        if (dirty >= 0)
                add(line, "  dirty %.0f pages/s", dirty);
}

void progress_line(const json_t *task, uint64_t elapsed_ms, char *ret, size_t size)
{
        const json_t *progress = output_lookup(task, "status.progress");
        const char *object = text_at(task, "spec.object") ?: "", *from = text_at(progress, "from"),
                   *to = text_at(progress, "to"), *message = text_at(progress, "message");
        struct line line = {ret, size, 0};
        double percent = number_at(progress, "percent"), task_ms = number_at(progress, "elapsed_ms");
        char text[24];

        add(&line, "%s", strchr(object, '/') ? strchr(object, '/') + 1 : object);
        if (from && to)
                add(&line, " %s -> %s", from, to);
        add(&line, "  %s", phase_of(task));
        if (percent >= 0)
                add_bar(&line, percent);
        if (number_at(progress, "rate_bps") >= 0)
                add_migration(&line, progress);
        else if (message)
                add(&line, "  %s", message);
        add(&line, "  %s", text_format_duration_ms(task_ms >= 0 ? (uint64_t)task_ms : elapsed_ms, text));
}

void progress_init(struct progress *progress, const struct cli *cli)
{
        *progress = (struct progress){.err = cli->err, .width = cli->err_width, .silent = cli->quiet};
}

void progress_end(struct progress *progress)
{
        if (progress->line_open)
                fputs("\r\033[K", progress->err);
        progress->line_open = false;
        fflush(progress->err);
}

void progress_note(struct progress *progress, const char *message)
{
        progress_end(progress);
        fputs("drover: ", progress->err);
        output_text(progress->err, message, false);
        fputc('\n', progress->err);
}

void progress_show(struct progress *progress, const json_t *task, uint64_t elapsed_ms)
{
        char line[LINE_SIZE];
        bool changed;

        if (progress->silent)
                return;
        progress_line(task, elapsed_ms, line,
                progress->width ? MIN((size_t)progress->width, sizeof(line)) : sizeof(line));
        if (progress->width) {
                fputs("\r\033[K", progress->err);
                output_text(progress->err, line, false);
                progress->line_open = true;
                fflush(progress->err);
                return;
        }
        changed = strncmp(progress->last_phase, phase_of(task), sizeof(progress->last_phase) - 1);
        if (!changed && elapsed_ms - progress->last_ms < SPARSE_MS)
                return;
        snprintf(progress->last_phase, sizeof(progress->last_phase), "%s", phase_of(task));
        progress->last_ms = elapsed_ms;
        output_text(progress->err, line, false);
        fputc('\n', progress->err);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include <errno.h>
#include <string.h>
#include <yaml.h>

#include "base/alloc.h"
#include "base/text.h"

#define COLUMNS_MAX 12
#define COLUMN_WIDTH_MIN 6
#define VALUE_MAX_BYTES (1 << 20)
#define FIELD_PATH_MAX 512
#define DEPTH_MAX 64

static int flushed(FILE *out, struct error **ret_error)
{
        if (fflush(out) == 0 && !ferror(out))
                return 0;
        return error_from_errno(ret_error, errno ?: EIO, "cannot write the output");
}

int output_json(FILE *out, const json_t *doc, struct error **ret_error)
{
        if (json_dumpf(doc, out, JSON_INDENT(2) | JSON_ENCODE_ANY) < 0)
                return error_from_errno(ret_error, EIO, "cannot write the output");
        fputc('\n', out);
        return flushed(out, ret_error);
}

/* Plain YAML scalars that a YAML 1.1 reader takes for something else than text. */
static bool looks_typed(const char *s)
{
        static const char *const words[] = {"", "~", "null", "true", "false", "yes", "no", "on", "off", "y",
                "n", ".nan", ".inf", "<<", "="};

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (!strcasecmp(s, words[i]))
                        return true;
        return strchr("0123456789+-.", *s);
}

static int yaml_scalar(yaml_emitter_t *emitter, const char *text, bool quoted)
{
        yaml_event_t event;

        return yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, (int)strlen(text),
                       1, 1, quoted ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_ANY_SCALAR_STYLE) &&
               yaml_emitter_emit(emitter, &event);
}

static int yaml_value(yaml_emitter_t *emitter, const json_t *value, unsigned int depth);

static int yaml_collection(yaml_emitter_t *emitter, const json_t *value, unsigned int depth)
{
        bool object = json_is_object(value);
        yaml_event_t event;
        const char *key;
        json_t *item;
        size_t i;
        int ok = object ? yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
                        : yaml_sequence_start_event_initialize(
                                  &event, NULL, NULL, 1, YAML_BLOCK_SEQUENCE_STYLE);

        ok = ok && yaml_emitter_emit(emitter, &event);
        if (object)
                json_object_foreach ((json_t *)value, key, item)
                        ok = ok && yaml_scalar(emitter, key, looks_typed(key)) &&
                             yaml_value(emitter, item, depth + 1);
        else
                json_array_foreach (value, i, item)
                        ok = ok && yaml_value(emitter, item, depth + 1);
        ok = ok && (object ? yaml_mapping_end_event_initialize(&event)
                           : yaml_sequence_end_event_initialize(&event));
        return ok && yaml_emitter_emit(emitter, &event);
}

static int yaml_value(yaml_emitter_t *emitter, const json_t *value, unsigned int depth)
{
        _cleanup_free_ char *text = NULL;

        if (depth > DEPTH_MAX)
                return 0;
        if (json_is_object(value) || json_is_array(value))
                return yaml_collection(emitter, value, depth);
        if (json_is_string(value))
                return yaml_scalar(emitter, json_string_value(value), looks_typed(json_string_value(value)));
        text = json_dumps(value, JSON_ENCODE_ANY);
        return text && yaml_scalar(emitter, text, false);
}

static int yaml_document(yaml_emitter_t *emitter, const json_t *doc)
{
        yaml_event_t event;

        return yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING) &&
               yaml_emitter_emit(emitter, &event) &&
               yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1) &&
               yaml_emitter_emit(emitter, &event) && yaml_value(emitter, doc, 0) &&
               yaml_document_end_event_initialize(&event, 1) && yaml_emitter_emit(emitter, &event) &&
               yaml_stream_end_event_initialize(&event) && yaml_emitter_emit(emitter, &event);
}

int output_yaml(FILE *out, const json_t *doc, struct error **ret_error)
{
        yaml_emitter_t emitter;
        int ok;

        if (!yaml_emitter_initialize(&emitter))
                return error_from_errno(ret_error, ENOMEM, "cannot write the output");
        yaml_emitter_set_output_file(&emitter, out);
        yaml_emitter_set_unicode(&emitter, 1);
        yaml_emitter_set_width(&emitter, -1);
        ok = yaml_document(&emitter, doc);
        yaml_emitter_delete(&emitter);
        return ok ? flushed(out, ret_error) : error_from_errno(ret_error, EIO, "cannot write the output");
}

int output_record(const struct cli *cli, const json_t *doc, struct error **ret_error)
{
        if (cli->format == OUTPUT_YAML) {
                fputs("---\n", cli->out);
                return output_yaml(cli->out, doc, ret_error);
        }
        if (json_dumpf(doc, cli->out, JSON_COMPACT) < 0)
                return error_from_errno(ret_error, EIO, "cannot write the output");
        fputc('\n', cli->out);
        return flushed(cli->out, ret_error);
}

void output_text(FILE *out, const char *text, bool lines)
{
        for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
                /* C0, DEL, and the C1 controls in their UTF-8 form: a terminal obeys all of them */
                if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f) {
                        fputc('?', out);
                        c++;
                } else if ((*c < 0x20 && !(lines && (*c == '\n' || *c == '\t'))) || *c == 0x7f) {
                        fputc('?', out);
                } else {
                        fputc(*c, out);
                }
        }
}

const json_t *output_lookup(const json_t *doc, const char *path)
{
        while (doc && *path) {
                size_t n = strcspn(path, ".");
                char key[64];

                snprintf(key, sizeof(key), "%.*s", (int)n, path);
                doc = json_object_get(doc, key);
                path += n + (path[n] == '.');
        }
        return doc;
}

static bool ends_with(const char *s, const char *end)
{
        size_t n = strlen(s), m = strlen(end);

        return n >= m && !strcmp(s + n - m, end);
}

static char *number_text(double number, const char *path)
{
        char text[24];

        if (number >= 0 && ends_with(path, "_bytes"))
                return alloc_strdup(text_format_size((uint64_t)number, text));
        if (number >= 0 && ends_with(path, "_ms"))
                return alloc_strdup(text_format_duration_ms((uint64_t)(number + 0.5), text));
        if (number >= 0 && ends_with(path, "_bytes_per_s"))
                return alloc_printf("%s/s", text_format_size((uint64_t)number, text));
        if (number >= 0 && ends_with(path, "_bps"))
                return alloc_strdup(text_format_rate((uint64_t)number, text));
        return NULL;
}

/* "a, b" of a list of plain values. */
static char *list_text(const json_t *list)
{
        _cleanup_buf_ struct buf text;
        json_t *item;
        size_t i;

        buf_init(&text, VALUE_MAX_BYTES);
        json_array_foreach (list, i, item) {
                _cleanup_free_ char *one = output_value_text(item, "");

                if (!one || buf_printf(&text, "%s%s", i ? ", " : "", one) < 0)
                        return NULL;
        }
        return buf_take_string(&text);
}

char *output_value_text(const json_t *value, const char *path)
{
        char *text = NULL;

        if (!value || json_is_null(value))
                return alloc_strdup("-");
        if (json_is_boolean(value))
                return alloc_strdup(json_is_true(value) ? "yes" : "no");
        if (json_is_string(value))
                return alloc_strdup(json_string_value(value));
        if (json_is_number(value) && *path)
                text = number_text(json_number_value(value), path);
        if (json_is_array(value) && !json_is_object(json_array_get(value, 0)))
                return list_text(value);
        return text ?: json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
}

/* Characters of UTF-8 text; wide ones count once, which at worst misaligns a line. */
static size_t text_columns(const char *s)
{
        size_t n = 0;

        for (; *s; s++)
                n += ((unsigned char)*s & 0xc0) != 0x80;
        return n;
}

/* Prints the text in `width` columns; the last one is an ellipsis when it has more. */
static void print_cell(FILE *out, char *text, size_t width, bool last)
{
        size_t columns = text_columns(text);

        if (columns > width) {
                char *end = text;

                for (size_t kept = 0; kept + 1 < width; kept++) {
                        end++;
                        while (((unsigned char)*end & 0xc0) == 0x80)
                                end++;
                }
                *end = '\0';
                columns = width;
                output_text(out, text, false);
                fputs("…", out);
        } else {
                output_text(out, text, false);
        }
        if (!last)
                fprintf(out, "%*s", (int)(width - columns + 2), "");
}

/* Takes from the widest column until the line fits. */
static void fit(size_t *widths, size_t n, unsigned int terminal)
{
        for (;;) {
                size_t total = 2 * (n - 1), widest = 0;

                for (size_t c = 0; c < n; c++) {
                        total += widths[c];
                        if (widths[c] > widths[widest])
                                widest = c;
                }
                if (!terminal || total <= terminal || widths[widest] <= COLUMN_WIDTH_MIN)
                        return;
                widths[widest]--;
        }
}

static char *cell_text(const json_t *item, const struct output_column *column)
{
        const json_t *value = output_lookup(item, column->path);

        if (!column->count)
                return output_value_text(value, column->path);
        return alloc_printf("%zu", json_is_object(value) ? json_object_size(value) : json_array_size(value));
}

static void free_cells(char **cells, size_t n)
{
        for (size_t i = 0; cells && i < n; i++)
                free(cells[i]);
        free(cells);
}

int output_table(const struct cli *cli, const json_t *items, const struct output_column *columns,
        struct error **ret_error)
{
        size_t n_columns = 0, n_rows = json_array_size(items) + 1, widths[COLUMNS_MAX] = {0};
        char **cells;

        while (columns[n_columns].heading)
                n_columns++;
        cells = alloc_array(n_rows * n_columns, sizeof(*cells));
        if (!cells)
                return error_from_errno(ret_error, ENOMEM, "cannot write the table");
        for (size_t i = 0; i < n_rows * n_columns; i++) {
                const struct output_column *column = &columns[i % n_columns];
                size_t row = i / n_columns;

                cells[i] = row ? cell_text(json_array_get(items, row - 1), column)
                               : alloc_strdup(column->heading);
                if (!cells[i]) {
                        free_cells(cells, i);
                        return error_from_errno(ret_error, ENOMEM, "cannot write the table");
                }
                widths[i % n_columns] = MAX(widths[i % n_columns], text_columns(cells[i]));
        }
        fit(widths, n_columns, cli->width);
        for (size_t i = 0; i < n_rows * n_columns; i++) {
                bool last = i % n_columns == n_columns - 1;

                print_cell(cli->out, cells[i], widths[i % n_columns], last);
                if (last)
                        fputc('\n', cli->out);
        }
        free_cells(cells, n_rows * n_columns);
        return flushed(cli->out, ret_error);
}

static int print_fields(FILE *out, const json_t *value, const char *path, size_t width, size_t *widest)
{
        char longer[FIELD_PATH_MAX];
        const char *key;
        json_t *item;
        size_t i;
        int r = 0;

        if (json_is_object(value) && json_object_size(value)) {
                json_object_foreach ((json_t *)value, key, item) {
                        snprintf(longer, sizeof(longer), "%s%s%s", path, *path ? "." : "", key);
                        r = r < 0 ? r : print_fields(out, item, longer, width, widest);
                }
                return r;
        }
        if (json_is_array(value) && json_is_object(json_array_get(value, 0))) {
                json_array_foreach (value, i, item) {
                        snprintf(longer, sizeof(longer), "%s[%zu]", path, i);
                        r = r < 0 ? r : print_fields(out, item, longer, width, widest);
                }
                return r;
        }
        *widest = MAX(*widest, text_columns(path));
        if (out) {
                _cleanup_free_ char *text = output_value_text(value, path);

                if (!text)
                        return -ENOMEM;
                output_text(out, path, false);
                fprintf(out, "%*s", (int)(width - text_columns(path) + 2), "");
                output_text(out, text, false);
                fputc('\n', out);
        }
        return 0;
}

int output_document(const struct cli *cli, const json_t *doc, struct error **ret_error)
{
        size_t width = 0;
        int r;

        if (cli->format == OUTPUT_JSON)
                return output_json(cli->out, doc, ret_error);
        if (cli->format == OUTPUT_YAML)
                return output_yaml(cli->out, doc, ret_error);
        (void)print_fields(NULL, doc, "", 0, &width);
        r = print_fields(cli->out, doc, "", width, &width);
        return r < 0 ? error_from_errno(ret_error, r, "cannot write the fields")
                     : flushed(cli->out, ret_error);
}

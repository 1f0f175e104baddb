/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Documents on standard output: as JSON, as YAML, or as tables for people. Text from the API is untrusted as
 * far as the terminal goes: control characters are never printed. */

#include "cli/cli.h"

/* The document as it came, indented. 0 or negative errno with *ret_error. */
int output_json(FILE *out, const json_t *doc, struct error **ret_error);
int output_yaml(FILE *out, const json_t *doc, struct error **ret_error);
/* One line of JSON, or one YAML document, for streams. */
int output_record(const struct cli *cli, const json_t *doc, struct error **ret_error);

/* Prints `doc` as -o says; as a table it is a list of fields, "spec.cpus  2". */
int output_document(const struct cli *cli, const json_t *doc, struct error **ret_error);

/* A column: heading, and where in an item its value is ("status.host"). The last part of the path says how it is
 * shown: *_bytes as size, *_ms as duration, *_bps as rate, *_bytes_per_s as size a second. `count` shows how many items a list or object has. */
struct output_column {
        const char *heading;
        const char *path;
        bool count;
};

/* Prints a list's items (array) as a table, cut to the terminal; columns end with a NULL heading. */
int output_table(const struct cli *cli, const json_t *items, const struct output_column *columns,
        struct error **ret_error);

/* Value at a dotted path; NULL if there is none. Borrowed. */
const json_t *output_lookup(const json_t *doc, const char *path);
/* Its text for people, "-" for absent and null; the caller frees. NULL without memory. */
char *output_value_text(const json_t *value, const char *path);
/* Prints untrusted text without its control characters (newlines too unless `lines`). */
void output_text(FILE *out, const char *text, bool lines);

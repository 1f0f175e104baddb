/* SPDX-License-Identifier: Apache-2.0 */
/* Any call of the API, for what has no command of its own. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "cli/output.h"
#include "io/file.h"

#define BODY_MAX_BYTES (1u << 20)

/* "-" is standard input, which is no regular file. */
static int read_text(const char *path, char **ret_text, struct error **ret_error)
{
        _cleanup_buf_ struct buf text;
        size_t n;
        int r = 0;

        if (strcmp(path, "-") != 0) {
                r = file_read(path, BODY_MAX_BYTES, ret_text, NULL);
                return r < 0 ? error_from_errno(ret_error, r, "cannot read %s", path) : 0;
        }
        buf_init(&text, BODY_MAX_BYTES);
        do {
                char part[4096];

                n = fread(part, 1, sizeof(part), stdin);
                r = buf_append(&text, part, n);
        } while (r == 0 && n);
        *ret_text = r == 0 ? buf_take_string(&text) : NULL;
        return *ret_text ? 0 : error_from_errno(ret_error, r ?: ENOMEM, "cannot read standard input");
}

static int read_body(const struct arguments *arguments, json_t **ret_body, struct error **ret_error)
{
        const char *path = arguments_text(arguments, "data");
        _cleanup_free_ char *text = NULL;
        int r = path ? read_text(path, &text, ret_error) : 0;

        return r < 0 || !path ? r : doc_parse(text, strlen(text), ret_body, ret_error);
}

int command_api(struct cli *cli, const struct arguments *arguments, struct error **ret_error)
{
        static const char *const methods[] = {"GET", "POST", "PUT", "DELETE"};
        const char *method = arguments_operand(arguments, 0), *path = arguments_operand(arguments, 1);
        _cleanup_json_ json_t *body = NULL, *doc = NULL;
        _cleanup_free_ char *text = NULL;
        size_t i = 0;
        int r;

        while (i < ARRAY_SIZE(methods) && strcasecmp(methods[i], method))
                i++;
        if (i == ARRAY_SIZE(methods) || *path != '/')
                return error_set(ret_error, ERROR_BAD_REQUEST, "such as: drover api GET /vms", "%s",
                        i == ARRAY_SIZE(methods) ? "METHOD is GET, POST, PUT or DELETE"
                                                 : "PATH begins with '/'");
        r = read_body(arguments, &body, ret_error);
        if (r >= 0 && arguments_text(arguments, "key") &&
                api_set_key(cli->api, arguments_text(arguments, "key")) < 0)
                r = error_from_errno(ret_error, ENOMEM, "cannot make the request");
        if (r >= 0)
                r = api_call_text(cli->api, methods[i], path, body, &text, ret_error);
        if (r < 0)
                return r;
        if (*text && doc_parse(text, strlen(text), &doc, NULL) == 0)
                return cli->format == OUTPUT_YAML ? output_yaml(cli->out, doc, ret_error)
                                                  : output_json(cli->out, doc, ret_error);
        output_text(cli->out, text, true);
        return 0;
}

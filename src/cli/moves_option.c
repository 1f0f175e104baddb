/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/moves_option.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"

#define FORM \
        "write it as STEP[,STEP...] of other-host, wait[=TIME], suspend[=TIME], stop[=TIME] and power-off, " \
        "or " \
        "none, such as other-host,wait=10m,suspend"

/* "wait=10m" as {"step", "limit_ms"}; which words there are is the manager's to know. */
static int append_step(json_t *list, const char *word, struct error **ret_error)
{
        size_t len = strcspn(word, "=");
        uint64_t limit_ms = 0;
        json_t *step;

        if (!len || (word[len] && text_parse_duration_ms(word + len + 1, &limit_ms) < 0))
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, FORM, "option --policy: '%s' is not valid", word);
        step = json_pack("{s:s%}", "step", word, len);
        if (step && word[len] &&
                json_object_set_new(step, "limit_ms", json_integer((json_int_t)limit_ms)) < 0) {
                json_decref(step);
                step = NULL;
        }
        if (json_array_append_new(list, step) < 0)
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, FORM, "option --policy: '%s' is not valid", word);
        return 0;
}

static int add_policy(const char *text, json_t *request, struct error **ret_error)
{
        _cleanup_free_ char *copy = alloc_strdup(text);
        _cleanup_json_ json_t *list = json_array();
        char *position = NULL;
        int r = 0;

        if (!copy || !list)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        if (strcmp(text, "none") != 0)
                for (char *word = strtok_r(copy, ",", &position); word && r == 0;
                        word = strtok_r(NULL, ",", &position))
                        r = append_step(list, word, ret_error);
        if (r == 0 && json_object_set(request, "policy", list) < 0)
                r = error_from_errno(ret_error, ENOMEM, "cannot make the request");
        return r;
}

int moves_options(const struct arguments *arguments, json_t *request, struct error **ret_error)
{
        static const char *const numbers[][2] = {
                {"tries", "tries"}, {"max-pause", "max_pause_ms"}, {"give-up", "give_up_ms"}};
        const char *policy = arguments_text(arguments, "policy"),
                   *priority = arguments_text(arguments, "priority");
        uint64_t number;
        int r = policy ? add_policy(policy, request, ret_error) : 0;

        if (r < 0)
                return r;
        if (priority)
                r = json_object_set_new(request, "priority", json_string(priority));
        for (size_t i = 0; i < ARRAY_SIZE(numbers) && r == 0; i++)
                if (arguments_number(arguments, numbers[i][0], &number))
                        r = json_object_set_new(request, numbers[i][1], json_integer((json_int_t)number));
        return r < 0 ? error_from_errno(ret_error, ENOMEM, "cannot make the request") : 0;
}

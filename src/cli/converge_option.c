/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/converge_option.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/converge.h"
#include "base/doc.h"
#include "base/text.h"

#define FORM \
        "write it as STEP[,STEP...] of wait[=TIME], pause=TIME, throttle[=PERCENT] and, as the last one, " \
        "post-copy, or none, such as wait=30s,pause=2s,throttle"

/* What each step's value is called in the document; those of times are in ms. */
static const char *const keys[] = {[CONVERGE_WAIT] = "ms",
        [CONVERGE_PAUSE] = "max_ms",
        [CONVERGE_THROTTLE] = "max_percent",
        [CONVERGE_POST_COPY] = NULL};

static int read_value(enum converge_step step, const char *value, uint64_t *ret)
{
        uint64_t number;
        int r;

        if (step == CONVERGE_THROTTLE)
                return text_parse_u64(
                        value, CONVERGE_MIN_THROTTLE_PERCENT, CONVERGE_MAX_THROTTLE_PERCENT, ret);
        r = text_parse_duration_ms(value, &number);
        if (r < 0)
                return r;
        if (number < 1 ||
                number > (step == CONVERGE_WAIT ? CONVERGE_MAX_WAIT_MS : (uint64_t)CONVERGE_MAX_PAUSE_MS))
                return -ERANGE;
        *ret = number;
        return 0;
}

static int append_step(json_t *list, char *word, struct error **ret_error)
{
        char *value = strchr(word, '=');
        enum converge_step step;
        uint64_t number = 0;
        json_t *item;

        if (value)
                *value++ = '\0';
        if (converge_step_from_string(word, &step) < 0)
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, FORM, "option --converge: '%s' is no step", word);
        if (step == CONVERGE_PAUSE && !value)
                return error_set(ret_error, ERROR_BAD_REQUEST, FORM,
                        "option --converge: 'pause' does not say how long it may become");
        if (value && !keys[step])
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, FORM, "option --converge: '%s' takes no value", word);
        if (value && read_value(step, value, &number) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, FORM, "option --converge: %s cannot be '%s'",
                        word, value);
        item = json_pack("{s:s}", "step", word);
        if (value && item)
                json_object_set_new(item, keys[step], json_integer((json_int_t)number));
        return json_array_append_new(list, item) < 0
                       ? error_from_errno(ret_error, ENOMEM, "cannot make the request")
                       : 0;
}

int converge_option(const char *text, json_t **ret_list, struct error **ret_error)
{
        _cleanup_free_ char *copy = alloc_strdup(text);
        _cleanup_json_ json_t *list = json_array();
        char *position = NULL;
        int r = 0;

        if (!copy || !list)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        if (strcmp(text, "none") != 0) {
                for (char *word = strtok_r(copy, ",", &position); word && r == 0;
                        word = strtok_r(NULL, ",", &position))
                        r = append_step(list, word, ret_error);
                if (r == 0 && json_array_size(list) == 0)
                        r = error_set(
                                ret_error, ERROR_BAD_REQUEST, FORM, "option --converge: no step is named");
        }
        if (r < 0)
                return r;
        *ret_list = TAKE_PTR(list);
        return 0;
}

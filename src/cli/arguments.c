/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/arguments.h"

#include <errno.h>
#include <string.h>

#include "base/text.h"
#include "cli/usage.h"

static const struct option_spec *find_by_name(const struct option_spec *options, const char *name, size_t len)
{
        for (const struct option_spec *o = options; o && o->name; o++)
                if (strlen(o->name) == len && !strncmp(o->name, name, len))
                        return o;
        return NULL;
}

static const struct option_spec *find_by_letter(const struct option_spec *options, char letter)
{
        for (const struct option_spec *o = options; o && o->name; o++)
                if (o->letter == letter)
                        return o;
        return NULL;
}

static const char *nearest_option(const struct option_spec *options, const char *typed, size_t *distance)
{
        const char *best = NULL;

        for (const struct option_spec *o = options; o && o->name; o++) {
                size_t d = text_distance(typed, o->name, 2);

                if (d < *distance) {
                        best = o->name;
                        *distance = d;
                }
        }
        return best;
}

static int unknown_option(const struct arguments *a, const char *typed, struct error **ret_error)
{
        const struct option_spec *own = a->command ? a->command->options : NULL;
        const char *near, *near_global;
        size_t distance = 3;
        char hint[160], name[48];

        snprintf(name, sizeof(name), "%.*s", (int)strcspn(typed, "="), typed);
        near = nearest_option(own, name + strspn(name, "-"), &distance);
        near_global = nearest_option(global_options, name + strspn(name, "-"), &distance);
        if (near || near_global)
                snprintf(hint, sizeof(hint), "did you mean --%s?", near_global ?: near);
        else
                snprintf(hint, sizeof(hint), "'drover %s%s--help' lists the options",
                        a->command ? a->command->words : "", a->command ? " " : "");
        return error_set(ret_error, ERROR_BAD_REQUEST, hint, "'drover%s%s' has no option '%s'",
                a->command ? " " : "", a->command ? a->command->words : "", name);
}

static bool choice_index(const char *choices, const char *text, uint64_t *ret)
{
        size_t len = strlen(text);
        uint64_t i = 0;

        for (const char *s = choices;; s++, i++) {
                size_t n = strcspn(s, "|");

                if (n == len && !strncmp(s, text, n)) {
                        *ret = i;
                        return true;
                }
                s += n;
                if (!*s)
                        return false;
        }
}

/* `r` when the number could not be read, -ERANGE outside the option's bounds; a maximum of 0 is none. */
static int in_bounds(const struct option_spec *option, int r, const uint64_t *number)
{
        if (r < 0)
                return r;
        return *number < option->min || (option->max && *number > option->max) ? -ERANGE : 0;
}

/* 0, -EINVAL or -ERANGE; *ret_form says what the value should look like. */
static int read_value(
        const struct option_spec *option, const char *text, uint64_t *ret, const char **ret_form)
{
        *ret_form = option->value;
        switch (option->kind) {
        case VALUE_FLAG:
        case VALUE_TEXT:
        case VALUE_FILE:
                *ret_form = "a value that is not empty";
                return *text ? 0 : -EINVAL;
        case VALUE_NAME:
                *ret_form = "a name: letters, digits, '.', '_' and '-', at most 63";
                return text_is_name(text) ? 0 : -EINVAL;
        case VALUE_NUMBER:
                *ret_form = "a whole number";
                return text_parse_u64(text, option->min, option->max ?: UINT64_MAX, ret);
        case VALUE_SIZE:
                *ret_form = "a size such as 512M or 4GiB";
                return in_bounds(option, text_parse_size(text, ret), ret);
        case VALUE_DURATION:
                *ret_form = "a time such as 300ms, 20s or 5m";
                return in_bounds(option, text_parse_duration_ms(text, ret), ret);
        case VALUE_RATE:
                *ret_form = "a rate such as 500mbit or 10gbit";
                return in_bounds(option, text_parse_rate(text, ret), ret);
        case VALUE_CHOICE:
                return choice_index(option->value, text, ret) ? 0 : -EINVAL;
        }
        return -EINVAL;
}

static int bad_value(
        const struct option_spec *option, const char *text, int r, const char *form, struct error **ret_error)
{
        char hint[256], low[24], high[24];

        if (option->kind == VALUE_CHOICE)
                snprintf(hint, sizeof(hint), "give one of: %s", option->value);
        else
                snprintf(hint, sizeof(hint), "give %s", form);
        if (r != -ERANGE)
                return error_set(ret_error, ERROR_BAD_REQUEST, hint, "option --%s: '%s' is not valid",
                        option->name, text);
        if (option->kind == VALUE_SIZE) {
                text_format_size(option->min, low);
                text_format_size(option->max, high);
        } else if (option->kind == VALUE_DURATION) {
                text_format_duration_ms(option->min, low);
                text_format_duration_ms(option->max, high);
        } else {
                snprintf(low, sizeof(low), "%llu", (unsigned long long)option->min);
                snprintf(high, sizeof(high), "%llu", (unsigned long long)option->max);
        }
        return error_set(ret_error, ERROR_BAD_REQUEST, hint, "option --%s: '%s' is not between %s and %s",
                option->name, text, low, high);
}

static int add_value(
        struct arguments *a, const struct option_spec *option, const char *text, struct error **ret_error)
{
        const char *form;
        uint64_t number = 0;
        int r;

        if (a->n_values >= ARRAY_SIZE(a->values))
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "there are more than %zu options",
                        ARRAY_SIZE(a->values));
        for (size_t i = 0; i < a->n_values; i++)
                if (a->values[i].option == option && !option->repeat && option->kind != VALUE_FLAG)
                        return error_set(ret_error, ERROR_BAD_REQUEST, "give it once",
                                "option --%s is given twice", option->name);
        if (option->kind != VALUE_FLAG) {
                r = read_value(option, text, &number, &form);
                if (r < 0)
                        return bad_value(option, text, r, form, ret_error);
        }
        a->values[a->n_values++] = (struct argument_value){option, text, number};
        return 0;
}

/* The word after the option; NULL with *ret_error when the line ends there. */
static const char *need_value(
        const struct option_spec *option, const char *const *next, struct error **ret_error)
{
        const char *value = *next;
        char hint[256];

        if (value)
                return value;
        snprintf(hint, sizeof(hint), "write --%s %s", option->name, option->value);
        (void)error_set(ret_error, ERROR_BAD_REQUEST, hint, "option --%s needs a value", option->name);
        return NULL;
}

/* "--name", "--name=value", "--name value". *used_next when the next word was the value. */
static int read_long(struct arguments *a, const char *word, const char *const *next, bool *used_next,
        struct error **ret_error)
{
        const struct option_spec *option = NULL;
        size_t len = strcspn(word + 2, "=");
        const char *value = word[2 + len] ? word + 3 + len : NULL;

        if (a->command)
                option = find_by_name(a->command->options, word + 2, len);
        option = option ?: find_by_name(global_options, word + 2, len);
        if (!option)
                return unknown_option(a, word, ret_error);
        if (option->kind == VALUE_FLAG && value)
                return error_set(ret_error, ERROR_BAD_REQUEST, "write it without '='",
                        "option --%s takes no value", option->name);
        if (option->kind != VALUE_FLAG && !value) {
                value = need_value(option, next, ret_error);
                if (!value)
                        return -EINVAL;
                *used_next = true;
        }
        return add_value(a, option, value, ret_error);
}

/* "-q", "-ojson", "-o json", "-qo json". */
static int read_short(struct arguments *a, const char *word, const char *const *next, bool *used_next,
        struct error **ret_error)
{
        for (const char *letter = word + 1; *letter; letter++) {
                const struct option_spec *option = find_by_letter(global_options, *letter);
                const char *value = NULL;
                int r;

                if (!option)
                        return unknown_option(a, word, ret_error);
                if (option->kind != VALUE_FLAG && letter[1]) {
                        value = letter + 1;
                } else if (option->kind != VALUE_FLAG) {
                        value = need_value(option, next, ret_error);
                        if (!value)
                                return -EINVAL;
                        *used_next = true;
                }
                r = add_value(a, option, value, ret_error);
                if (r < 0 || value)
                        return r;
        }
        return 0;
}

static int unknown_command(const struct arguments *a, struct error **ret_error)
{
        const char *near = command_nearest(a->words, a->n_words);
        char hint[160], typed[128] = "";

        for (size_t i = 0, used = 0; i < a->n_words && used < sizeof(typed); i++)
                used += (size_t)snprintf(
                        typed + used, sizeof(typed) - used, "%s%s", i ? " " : "", a->words[i]);
        if (near)
                snprintf(hint, sizeof(hint), "did you mean 'drover %s'?", near);
        else
                snprintf(hint, sizeof(hint), "'drover --help' lists the commands");
        return error_set(ret_error, ERROR_BAD_REQUEST, hint, "there is no command '%s'", typed);
}

static bool begins_a_command(const struct arguments *a)
{
        for (size_t i = 0; i < n_command_table; i++)
                if (command_starts_with(&command_table[i], a->words, a->n_words))
                        return true;
        return false;
}

static int read_word(struct arguments *a, const char *word, struct error **ret_error)
{
        const struct operand_spec *operand;
        uint64_t size_bytes;
        char hint[USAGE_LINE_SIZE];

        if (!a->command) {
                a->words[a->n_words++] = word;
                a->command = command_find(a->words, a->n_words);
                /* "vm lst web1": wait for one more word only while the words so far lead somewhere */
                return a->command || begins_a_command(a) ? 0 : unknown_command(a, ret_error);
        }
        operand = a->n_operands < COMMAND_OPERANDS_MAX ? &a->command->operands[a->n_operands] : NULL;
        if (!operand || !operand->name)
                return error_set(ret_error, ERROR_BAD_REQUEST, usage_line(a->command, hint),
                        "'%s' is one word too many for 'drover %s'", word, a->command->words);
        if (operand->kind == VALUE_SIZE && text_parse_size(word, &size_bytes) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Write it as 40G, or 512M.",
                        "%s: '%s' is not a size", operand->name, word);
        if (operand->kind == VALUE_NAME && !text_is_name(word))
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "a name has letters, digits, '.', '_' and '-', and at most 63 of them",
                        "%s: '%s' is not a name", operand->name, word);
        if (!*word)
                return error_set(ret_error, ERROR_BAD_REQUEST, usage_line(a->command, hint), "%s is empty",
                        operand->name);
        a->operands[a->n_operands++] = word;
        return 0;
}

static int group_alone(const struct arguments *a, struct error **ret_error)
{
        char hint[320] = "one of: ", word[COMMAND_WORD_SIZE], last[COMMAND_WORD_SIZE] = "";
        size_t used = strlen(hint);

        for (size_t i = 0; i < n_command_table && used < sizeof(hint); i++) {
                if (command_table[i].hidden ||
                        !command_starts_with(&command_table[i], a->words, a->n_words) ||
                        !command_word(&command_table[i], a->n_words, word) || !strcmp(word, last))
                        continue;
                used += (size_t)snprintf(hint + used, sizeof(hint) - used, "%s%s", *last ? ", " : "", word);
                snprintf(last, sizeof(last), "%s", word);
        }
        return error_set(ret_error, ERROR_BAD_REQUEST, hint, "'drover%s%s%s%s' needs one more word",
                a->n_words ? " " : "", a->n_words ? a->words[0] : "", a->n_words > 1 ? " " : "",
                a->n_words > 1 ? a->words[1] : "");
}

static int check_complete(const struct arguments *a, struct error **ret_error)
{
        const struct command *c = a->command;
        char hint[USAGE_LINE_SIZE];

        if (!c)
                return group_alone(a, ret_error);
        if (c->operands[a->n_operands].name && !c->operands[a->n_operands].optional)
                return error_set(ret_error, ERROR_BAD_REQUEST, usage_line(c, hint), "'drover %s' needs %s",
                        c->words, c->operands[a->n_operands].name);
        for (const struct option_spec *o = c->options; o && o->name; o++)
                if (o->required && !arguments_text(a, o->name))
                        return error_set(ret_error, ERROR_BAD_REQUEST, usage_line(c, hint),
                                "'drover %s' needs option --%s", c->words, o->name);
        return 0;
}

int arguments_parse(struct arguments *a, int argc, const char *const *argv, struct error **ret_error)
{
        bool only_words = false;

        *a = (struct arguments){0};
        for (int i = 1; i < argc; i++) {
                const char *word = argv[i], *const *next = &argv[i + 1];
                bool used_next = false;
                int r;

                if (!only_words && !strcmp(word, "--")) {
                        only_words = true;
                        continue;
                }
                if (!only_words && !strncmp(word, "--", 2))
                        r = read_long(a, word, next, &used_next, ret_error);
                else if (!only_words && word[0] == '-' && word[1])
                        r = read_short(a, word, next, &used_next, ret_error);
                else
                        r = read_word(a, word, ret_error);
                if (r < 0)
                        return r;
                i += used_next;
        }
        if (arguments_flag(a, "help") || arguments_flag(a, "version"))
                return 0;
        return check_complete(a, ret_error);
}

static const struct argument_value *last_value(const struct arguments *a, const char *name)
{
        for (size_t i = a->n_values; i-- > 0;)
                if (!strcmp(a->values[i].option->name, name))
                        return &a->values[i];
        return NULL;
}

bool arguments_flag(const struct arguments *a, const char *name)
{
        return last_value(a, name);
}

const char *arguments_text(const struct arguments *a, const char *name)
{
        const struct argument_value *v = last_value(a, name);

        return v ? v->text : NULL;
}

bool arguments_number(const struct arguments *a, const char *name, uint64_t *ret)
{
        const struct argument_value *v = last_value(a, name);

        if (v)
                *ret = v->number;
        return v;
}

const char *arguments_next(const struct arguments *a, const char *name, size_t *position)
{
        while (*position < a->n_values) {
                const struct argument_value *v = &a->values[(*position)++];

                if (!strcmp(v->option->name, name))
                        return v->text;
        }
        return NULL;
}

const char *arguments_operand(const struct arguments *a, size_t i)
{
        return i < a->n_operands ? a->operands[i] : NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/pool_options.h"

#include <errno.h>
#include <string.h>

#define COUNT_MAX 10000000
#define MEMORY_MAX_BYTES (1ULL << 54)

#define LIMIT_OPTIONS \
        {.name = "cpus", \
                .kind = VALUE_NUMBER, \
                .value = "N", \
                .max = COUNT_MAX, \
                .help = "virtual processors of those that run"}, \
                {.name = "memory", \
                        .kind = VALUE_SIZE, \
                        .value = "SIZE", \
                        .max = MEMORY_MAX_BYTES, \
                        .help = "memory of those that run"}, \
                {.name = "vms", \
                        .kind = VALUE_NUMBER, \
                        .value = "N", \
                        .max = COUNT_MAX, \
                        .help = "virtual machines that run"}, \
        { \
                .name = "reserve-memory", .kind = VALUE_SIZE, .value = "SIZE", .max = MEMORY_MAX_BYTES, \
                .help = "memory of the hosts that is kept for the pool" \
        }

const struct option_spec pool_create_options[] = {
        LIMIT_OPTIONS,
        {0},
};

const struct option_spec pool_set_options[] = {
        LIMIT_OPTIONS,
        {.name = "lift",
                .kind = VALUE_CHOICE,
                .value = "cpus|memory|vms|reserve-memory",
                .repeat = true,
                .help = "no such limit or reservation any more; may be repeated"},
        {0},
};

static const struct {
        const char *option, *part, *key;
} fields[] = {
        {"cpus", "limits", "cpus"},
        {"memory", "limits", "memory_bytes"},
        {"vms", "limits", "vms"},
        {"reserve-memory", "reservation", "memory_bytes"},
};

static bool is_lifted(const struct arguments *arguments, const char *option)
{
        const char *word;
        size_t at = 0;

        while ((word = arguments_next(arguments, "lift", &at)))
                if (!strcmp(word, option))
                        return true;
        return false;
}

static int put(json_t *spec, size_t i, uint64_t number)
{
        json_t *part = json_object_get(spec, fields[i].part);

        if (!part) {
                part = json_object();
                if (json_object_set_new(spec, fields[i].part, part) < 0)
                        return -ENOMEM;
        }
        return json_object_set_new(part, fields[i].key, json_integer((json_int_t)number)) < 0 ? -ENOMEM : 0;
}

int pool_options_apply(const struct arguments *arguments, json_t *spec, struct error **ret_error)
{
        for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
                bool lifted = is_lifted(arguments, fields[i].option);
                uint64_t number;

                if (lifted)
                        (void)json_object_del(json_object_get(spec, fields[i].part), fields[i].key);
                if (!arguments_number(arguments, fields[i].option, &number))
                        continue;
                if (lifted)
                        return error_set(ret_error, ERROR_BAD_REQUEST, "give one of the two",
                                "--%s is given, and --lift %s", fields[i].option, fields[i].option);
                if (put(spec, i, number) < 0)
                        return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        }
        return 0;
}

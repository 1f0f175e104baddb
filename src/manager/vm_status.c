/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/vm_status.h"

#include <string.h>

#include "base/doc.h"
#include "base/macros.h"
#include "manager/json.h"

#define BYTES_MAX (INT64_C(1) << 60)

/* Texts of so many bytes at most; 0: a number from 0 to `max`. */
static const struct {
        const char *key;
        size_t max_chars;
        json_int_t max;
} fields[] = {{"power", 32, 0}, {"owner_epoch", 0, VM_EPOCH_MAX}, {"machine", 64, 0}, {"cpu_model", 511, 0},
        {"accelerator", 16, 0}, {"memory_effective_bytes", 0, BYTES_MAX}, {"qemu_version", 64, 0},
        {"message", 2048, 0}};

static bool is_right(size_t i, const json_t *value)
{
        if (json_is_null(value))
                return true;
        return fields[i].max_chars ? json_is_string(value) && json_string_length(value) <= fields[i].max_chars
                                   : json_is_integer(value) && json_integer_value(value) >= 0 &&
                                             json_integer_value(value) <= fields[i].max;
}

json_t *vm_status_reported(const json_t *report, const json_t *before, const char *host_name)
{
        json_t *status = json_pack("{s:s}", "host", host_name);

        for (size_t i = 0; status && i < ARRAY_SIZE(fields); i++) {
                json_t *value = json_object_get(json_status(report), fields[i].key);

                if (value && !is_right(i, value))
                        value = json_object_get(before, fields[i].key);
                if (value && json_object_set(status, fields[i].key, value) < 0) {
                        json_decref(status);
                        return NULL;
                }
        }
        return status;
}

json_int_t vm_status_epoch(const json_t *vm)
{
        json_int_t epoch = json_integer_value(json_object_get(json_status(vm), "owner_epoch"));

        return epoch < 0 ? 0 : MIN(epoch, VM_EPOCH_MAX);
}

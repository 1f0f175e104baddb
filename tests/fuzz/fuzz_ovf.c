/* SPDX-License-Identifier: Apache-2.0 */

/* A description of a virtual machine from another product; the same bytes also as a manifest. */

#include <assert.h>
#include <string.h>

#include "base/doc.h"
#include "storage/ovf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_description(const json_t *description)
{
        const json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(description, "disks"), i, disk) {
                const char *file = json_string_value(json_object_get(disk, "file"));

                assert(file && *file && !strchr(file, '/') && strcmp(file, "..") != 0);
        }
        assert(json_is_integer(json_object_get(description, "memory_bytes")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_error_ struct error *error = NULL, *other = NULL;
        _cleanup_json_ json_t *description = NULL, *digests = NULL;

        if (ovf_parse((const char *)data, size, "fuzz.ovf", &description, &error) < 0)
                assert(error && error->message);
        else
                check_description(description);
        if (ovf_parse_manifest((const char *)data, size, "fuzz.mf", &digests, &other) < 0)
                assert(other && other->message);
        return 0;
}

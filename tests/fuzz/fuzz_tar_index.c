/* SPDX-License-Identifier: Apache-2.0 */

/* An archive that somebody sends as an appliance. */

#include <assert.h>
#include <string.h>

#include "storage/tar_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
        const uint8_t *data;
        size_t size;
};

static ssize_t read_input(void *userdata, uint64_t offset, void *data, size_t len)
{
        const struct input *input = userdata;
        size_t n = offset >= input->size ? 0 : MIN(len, input->size - (size_t)offset);

        if (n)
                memcpy(data, input->data + offset, n);
        return (ssize_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static struct tar_member members[TAR_MEMBERS_MAX];
        struct input input = {data, size};
        _cleanup_error_ struct error *error = NULL;
        size_t n = 0;

        if (tar_index(read_input, &input, size, "fuzz.ova", members, &n, &error) < 0) {
                assert(error && error->message);
                return 0;
        }
        assert(n <= TAR_MEMBERS_MAX);
        for (size_t i = 0; i < n; i++) {
                assert(members[i].offset <= size && members[i].size <= size - members[i].offset);
                assert(*members[i].name && !strchr(members[i].name, '/'));
        }
        return 0;
}

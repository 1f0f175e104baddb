/* SPDX-License-Identifier: Apache-2.0 */

/* The return path of QEMU: where it is cut makes no difference, and what is handed out is what came, in order. The first byte of the input
 * chooses the pieces. */

#include <assert.h>
#include <string.h>

#include "vmm/return_path.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
        const uint8_t *input;
        size_t n_handed_out;
        int r;
};

static int compare(
        void *userdata, const struct return_path_message *message, struct error **ret_error _unused_)
{
        struct outcome *outcome = userdata;

        assert(message->len >= RETURN_PATH_VALUE_BYTES && message->len <= RETURN_PATH_MAX_BYTES);
        assert(memcmp(message->bytes, outcome->input + outcome->n_handed_out, message->len) == 0);
        outcome->n_handed_out += message->len;
        return 0;
}

static struct outcome feed(const uint8_t *data, size_t size, size_t piece)
{
        struct outcome outcome = {.input = data};
        struct return_path path = {0};

        for (size_t at = 0; at < size && outcome.r == 0; at += piece)
                outcome.r =
                        return_path_feed(&path, data + at, MIN(piece, size - at), compare, &outcome, NULL);
        return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct outcome whole, pieces;

        if (size < 2)
                return 0;
        whole = feed(data + 1, size - 1, size);
        pieces = feed(data + 1, size - 1, data[0] % 16 + 1);
        assert(whole.r == pieces.r && whole.n_handed_out == pieces.n_handed_out);
        return 0;
}

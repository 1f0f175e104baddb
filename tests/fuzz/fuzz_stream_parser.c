/* SPDX-License-Identifier: Apache-2.0 */

/* QEMU's migration stream, cut into pieces of odd sizes. The first byte says how. */

#include <string.h>

#include "vmm/stream_parser.h"

#define RAM_BYTES (512 * STREAM_PAGE_SIZE)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint64_t sum; /* makes sure that every byte handed out is read */

static int on_page(void *userdata, uint64_t page, const uint8_t *data)
{
        if (page >= RAM_BYTES / STREAM_PAGE_SIZE)
                abort();
        for (size_t i = 0; i < STREAM_PAGE_SIZE; i++)
                sum += data[i];
        return 0;
}

static int on_zero_page(void *userdata, uint64_t page)
{
        if (page >= RAM_BYTES / STREAM_PAGE_SIZE)
                abort();
        return 0;
}

static int on_skeleton(void *userdata, const uint8_t *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                sum += data[i];
        return 0;
}

static int on_ping(void *userdata, uint32_t value)
{
        return 0;
}

static int on_mode_changed(void *userdata, enum stream_mode mode, const char *reason)
{
        return 0;
}

static int on_read_page(void *userdata, uint64_t page, uint8_t *ret_data)
{
        if (page >= RAM_BYTES / STREAM_PAGE_SIZE)
                abort();
        memset(ret_data, 0, STREAM_PAGE_SIZE);
        return 0;
}

static const struct stream_parser_ops ops = {
        on_page, on_zero_page, on_skeleton, on_ping, on_mode_changed, on_read_page};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
        struct stream_parser_config config = {.direct_block = "pc.ram", .direct_bytes = RAM_BYTES};
        _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
        size_t chunk;

        if (len < 1 || stream_parser_new(&config, &ops, NULL, &parser, NULL) < 0)
                return 0;
        chunk = data[0] ? data[0] : 65536;
        for (size_t at = 1; at < len; at += chunk)
                if (stream_parser_feed(parser, data + at, MIN(chunk, len - at), NULL) < 0)
                        return 0;
        (void)stream_parser_complete(parser);
        return 0;
}

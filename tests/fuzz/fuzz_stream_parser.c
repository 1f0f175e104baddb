/* SPDX-License-Identifier: Apache-2.0 */

/* The parser of QEMU's migration stream: whatever comes, pages lie inside the guest's memory, no byte is handed
 * out twice or before the mode that it belongs to, and where the stream is cut makes no difference. The first
 * byte of the input chooses the pieces, its highest bit a migration that may come to post-copy. */

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/stream_parser.h"

#define RAM_PAGES 512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a parser handed out, as numbers that do not depend on how skeleton bytes were grouped. */
struct outcome {
        uint64_t digest; /* of pages, pings, modes and skeleton bytes in order */
        uint64_t n_skeleton, offset;
        int r;
        enum stream_mode mode;
        bool complete;
        char machine[256];
};

static void digest(struct outcome *o, const void *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                o->digest = (o->digest ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001b3);
}

static int on_page(void *userdata, uint64_t page, const uint8_t *data)
{
        struct outcome *o = userdata;

        assert(page < RAM_PAGES && o->mode == STREAM_RECORDS);
        digest(o, &page, sizeof(page));
        digest(o, data, STREAM_PAGE_SIZE);
        return 0;
}

static int on_zero_page(void *userdata, uint64_t page)
{
        struct outcome *o = userdata;

        assert(page < RAM_PAGES && o->mode == STREAM_RECORDS);
        digest(o, &page, sizeof(page));
        return 0;
}

static int on_skeleton(void *userdata, const uint8_t *data, size_t len)
{
        struct outcome *o = userdata;

        assert(len > 0);
        digest(o, data, len);
        o->n_skeleton += len;
        return 0;
}

static int on_ping(void *userdata, uint32_t value)
{
        struct outcome *o = userdata;

        assert(o->mode == STREAM_RECORDS);
        digest(o, &value, sizeof(value));
        return 0;
}

static int on_mode_changed(void *userdata, enum stream_mode mode, const char *reason)
{
        struct outcome *o = userdata;

        assert(o->mode == STREAM_RECORDS && mode != STREAM_RECORDS && *reason);
        o->mode = mode;
        digest(o, "mode", 4);
        return 0;
}

static int on_read_page(void *userdata, uint64_t page, uint8_t *ret_data)
{
        assert(page < RAM_PAGES);
        memset(ret_data, (int)page, STREAM_PAGE_SIZE);
        return 0;
}

static int on_advised(void *userdata)
{
        struct outcome *o = userdata;

        assert(o->mode == STREAM_RECORDS);
        digest(o, "advised", 7);
        return 0;
}

static const struct stream_parser_ops ops = {
        on_page, on_zero_page, on_skeleton, on_ping, on_mode_changed, on_read_page, on_advised};

/* Each piece is as long as the rule says: 0 all at once, else a sequence that comes around. */
static struct outcome parse(const uint8_t *data, size_t size, uint8_t rule, bool post_copy)
{
        struct stream_parser_config config = {.direct_block = "pc.ram",
                .direct_bytes = RAM_PAGES * STREAM_PAGE_SIZE,
                .post_copy = post_copy};
        _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
        _cleanup_error_ struct error *error = NULL;
        struct outcome o = {.digest = UINT64_C(0xcbf29ce484222325)};
        uint32_t turn = rule;

        if (stream_parser_new(&config, &ops, &o, &parser, NULL) < 0)
                return (struct outcome){.r = -ENOMEM};
        while (o.r >= 0 && size > 0) {
                size_t piece = rule == 0 ? size : MIN(size, (size_t)(turn >> 16) % (rule * 8u) + 1);

                turn = turn * 1664525 + 1013904223;
                o.r = stream_parser_feed(parser, data, piece, &error);
                data += piece;
                size -= piece;
        }
        assert((o.r < 0) == (error != NULL));
        assert(stream_parser_mode(parser) == o.mode);
        o.complete = stream_parser_complete(parser);
        assert(!o.complete || o.mode != STREAM_RECORDS);
        o.offset = stream_parser_offset(parser);
        snprintf(o.machine, sizeof(o.machine), "%s", stream_parser_machine(parser));
        return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct outcome whole, cut;

        if (size < 1)
                return 0;
        whole = parse(data + 1, size - 1, 0, data[0] >> 7);
        cut = parse(data + 1, size - 1, (data[0] & 0x7f) | 1, data[0] >> 7);
        assert(whole.r == cut.r && whole.digest == cut.digest && whole.n_skeleton == cut.n_skeleton);
        assert(whole.mode == cut.mode && (whole.r < 0 || whole.offset == cut.offset));
        assert(strcmp(whole.machine, cut.machine) == 0);
        assert(whole.r < 0 || whole.complete == cut.complete);
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Incremental parser of the migration stream that a QEMU source writes (QEMU 7.2 to 11.1; grammar from
 * migration/savevm.c and migration/ram.c, summarised in docs/internals/qemu-stream.md).
 *
 * It splits the stream in two: pages of one RAM block (the "direct" block) are handed out as page numbers
 * and contents, and everything else is handed out as bytes for the destination's QEMU, in order: the
 * *skeleton*. Pages of other blocks are part of the skeleton and re-emitted with an explicit block name,
 * because the CONTINUE flag of the original may refer to a page that was taken out. Commands 1 and 2
 * (return path) are taken out and reported; command 11 (switchover start) stays, since only machine types
 * from 10.0 on send it, which no older destination has. When the first byte of device state comes, everything that
 * follows is opaque: it has no lengths, so it is handed out verbatim.
 *
 * What the parser does not know switches it to *tunnel* mode for ever: all bytes from there on are verbatim
 * skeleton. That is slower, and never wrong, if the caller places all pages that it was handed before it
 * delivers the first byte of the tunnel.
 *
 * With `post_copy` commands 1 and 2 stay, since the destination's QEMU has to answer on the return path, and command 3 (advise), upon
 * which it discards all of its memory, is followed by a ping of our own, STREAM_PING_ADVISED: no page may be placed before the answer to it has
 * come. The first command 6 (discard) is the end of parsing. Every page that was handed out before must be placed before it is delivered, and
 * none later: from there on the destination's QEMU alone knows which pages are there.
 *
 * Input may be cut anywhere. Nothing is allocated after stream_parser_new(). */

#include "base/error.h"

#define STREAM_PAGE_SIZE 4096
#define STREAM_BLOCK_NAME_MAX 255
/* Value of the ping that is added. QEMU's own are 1 to 4 and, from 10.2 on, STREAM_PING_LOADED (qemu: migration/savevm.h). */
#define STREAM_PING_ADVISED 0xd50ad715u
/* Value of the pings that are the last in the package with the device state: answered when it is loaded. */
#define STREAM_PING_LOADED_OLD 3u
#define STREAM_PING_LOADED 0x42u

struct stream_parser;

enum stream_mode {
        STREAM_RECORDS, /* parsing */
        STREAM_OPAQUE,  /* RAM is complete, device state follows, verbatim */
        STREAM_TUNNEL,  /* something unknown: verbatim */
        STREAM_POST_COPY, /* the guest is stopped, and what is missing of its RAM follows after its device state, verbatim */
};

/* All callbacks return 0, or a negative errno that stream_parser_feed() hands on. */
struct stream_parser_ops {
        /* A page of the direct block; `data` (STREAM_PAGE_SIZE bytes) is valid during the call. */
        int (*page)(void *userdata, uint64_t page, const uint8_t *data);
        int (*zero_page)(void *userdata, uint64_t page);
        /* Bytes for the destination's QEMU. In the other modes too: see stream_parser_mode(). */
        int (*skeleton)(void *userdata, const uint8_t *data, size_t len);
        /* COMMAND 2: the caller owes the source a PONG with this value on the return path. */
        int (*ping)(void *userdata, uint32_t value);
        /* The mode was left: called before the first byte of the new one is handed out. `reason` is text for
         * the log. */
        int (*mode_changed)(void *userdata, enum stream_mode mode, const char *reason);
        /* Tunnel mode starts while the stream's CONTINUE flag refers to the direct block: fill in the present
         * content of `page`, which is then emitted with the block's name, so that the destination's QEMU
         * has the same "last block" as the source. */
        int (*read_page)(void *userdata, uint64_t page, uint8_t *ret_data);
        /* Command 3 and the ping behind it were handed out (post_copy only): nothing may be placed before that is answered. */
        int (*advised)(void *userdata);
};

struct stream_parser_config {
        const char *direct_block; /* "pc.ram" */
        uint64_t direct_bytes;    /* its size; pages beyond are an error */
        bool tunnel;              /* do not parse at all */
        bool post_copy; /* may come to it: see above. Without this the commands for it are unknown ones */
};

/* `ops` and `userdata` are borrowed. */
int stream_parser_new(const struct stream_parser_config *config, const struct stream_parser_ops *ops,
        void *userdata, struct stream_parser **ret_parser, struct error **ret_error);
void stream_parser_free(struct stream_parser *parser);
DEFINE_CLEANUP(struct stream_parser *, stream_parser_free)

/* Consumes all of `data`. PROTOCOL (-EPROTO) when the stream contradicts itself or the configuration; the
 * parser is unusable after any error. */
int stream_parser_feed(
        struct stream_parser *parser, const uint8_t *data, size_t len, struct error **ret_error);

enum stream_mode stream_parser_mode(const struct stream_parser *parser);
/* True if the stream is whole at this very byte: in opaque or tunnel mode (post-copy has no such mark), the last bytes are QEMU's closing
 * description of the device state (record 06, a length, JSON text). Only then may the return path be told
 * to shut: QEMU 7.2 closes its socket on that message, even while it still writes. False for ever for machines
 * with suppress-vmdesc=on. */
bool stream_parser_complete(const struct stream_parser *parser);
/* Bytes consumed so far. */
uint64_t stream_parser_offset(const struct stream_parser *parser);
/* "pc-i440fx-7.2" once seen, else "". */
const char *stream_parser_machine(const struct stream_parser *parser);

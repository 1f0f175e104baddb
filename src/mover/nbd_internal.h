/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* NBD's bytes on the wire, for nbd_server.c and nbd_client.c. */

#include <assert.h>
#include <endian.h>

#include "mover/nbd.h"

#define NBD_MAGIC UINT64_C(0x4e42444d41474943)        /* NBDMAGIC */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* IHAVEOPT */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x3e889045565a9)
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_REPLY_MAGIC 0x67446698u

#define NBD_FIXED_NEWSTYLE (1u << 0) /* flags of both greetings */
#define NBD_NO_ZEROES (1u << 1)

enum nbd_option { NBD_OPT_EXPORT_NAME = 1, NBD_OPT_ABORT = 2, NBD_OPT_INFO = 6, NBD_OPT_GO = 7 };
#define NBD_MAX_OPTION (64 * 1024)
#define NBD_MAX_OPTIONS 64 /* of one greeting */

#define NBD_REP_ACK 1u
#define NBD_REP_INFO 3u
#define NBD_REP_ERROR (1u << 31) /* or'ed with a number */
#define NBD_REP_ERR_UNSUP (NBD_REP_ERROR | 1u)
#define NBD_REP_ERR_INVALID (NBD_REP_ERROR | 3u)

enum nbd_info { NBD_INFO_EXPORT = 0, NBD_INFO_BLOCK_SIZE = 3 };

/* Of an export. */
#define NBD_HAS_FLAGS (1u << 0)
#define NBD_READ_ONLY (1u << 1)
#define NBD_SEND_FLUSH (1u << 2)
#define NBD_SEND_TRIM (1u << 5)
#define NBD_SEND_WRITE_ZEROES (1u << 6)

#define _nbd_packed_ __attribute__((packed))

struct _nbd_packed_ nbd_greeting {
        uint64_t magic, option_magic;
        uint16_t flags;
};

struct _nbd_packed_ nbd_option_head {
        uint64_t magic;
        uint32_t option, length;
};

struct _nbd_packed_ nbd_option_reply {
        uint64_t magic;
        uint32_t option, type, length;
};

struct _nbd_packed_ nbd_info_export {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
};

struct _nbd_packed_ nbd_info_block_size {
        uint16_t type;
        uint32_t min, preferred, max;
};

struct _nbd_packed_ nbd_request_head {
        uint32_t magic;
        uint16_t flags, command;
        uint64_t handle, offset;
        uint32_t length;
};

struct _nbd_packed_ nbd_simple_reply {
        uint32_t magic, error;
        uint64_t handle;
};

static_assert(sizeof(struct nbd_greeting) == 18, "NBD");
static_assert(sizeof(struct nbd_option_head) == 16, "NBD");
static_assert(sizeof(struct nbd_option_reply) == 20, "NBD");
static_assert(sizeof(struct nbd_info_export) == 12, "NBD");
static_assert(sizeof(struct nbd_info_block_size) == 14, "NBD");
static_assert(sizeof(struct nbd_request_head) == 28, "NBD");
static_assert(sizeof(struct nbd_simple_reply) == 16, "NBD");

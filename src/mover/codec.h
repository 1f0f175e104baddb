/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Compression of batches: lz4 and zstd at the few levels that are worth having on this path. One codec
 * object per thread; its memory is allocated once. */

#include "mover/wire.h"

/* NAME, name for people and the control protocol's stats, packing on the wire, level, zstd's hashLog (0: the level's own),
 * throughput of one core in MB/s, ratio on guest memory without zero pages (measured on a Debian guest, 256 KiB batches: the first
 * guess, until this migration has its own numbers).
 *
 * hashLog 13 at level 1: a table of 32 KiB, which stays in the first-level cache beside the data, in place of 64. Measured with zstd
 * 1.5.4 and 256 KiB batches of a Debian guest running PostgreSQL: 6 % faster, output 0.6 % larger; batches of 16 to 128 KiB have
 * it by default. */
#define CODEC_LEVELS(X) \
        X(NONE, "none", WIRE_PLAIN, 0, 0, 8000, 1.0) \
        X(LZ4, "lz4", WIRE_LZ4, 2, 0, 1000, 1.8) \
        X(ZSTD_1, "zstd-1", WIRE_ZSTD, 1, 13, 450, 2.4) \
        X(ZSTD_3, "zstd-3", WIRE_ZSTD, 3, 0, 240, 2.55) \
        X(ZSTD_6, "zstd-6", WIRE_ZSTD, 6, 0, 80, 2.7)

enum codec_level {
#define X(name, text, packing, level, hash_log, mbps, ratio) CODEC_##name,
        CODEC_LEVELS(X)
#undef X
                N_CODEC_LEVELS,
};

struct codec;

/* -ENOMEM. `unpack_only` needs much less memory. */
int codec_new(bool unpack_only, struct codec **ret_codec);
void codec_free(struct codec *codec);
DEFINE_CLEANUP(struct codec *, codec_free)

const char *codec_level_name(enum codec_level level);
enum wire_packing codec_level_packing(enum codec_level level);

/* Packs `len` bytes into dst, which has room for `len` bytes. Returns the packed length, or 0 when that
 * would not save at least 1/32 of it (then send it plain). */
size_t codec_pack(struct codec *codec, enum codec_level level, const void *src, size_t len, void *dst);

/* Unpacks into exactly raw_len bytes; -EPROTO when the input is not that. */
int codec_unpack(
        struct codec *codec, unsigned int packing, const void *src, size_t len, void *dst, size_t raw_len);

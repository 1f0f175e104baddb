/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/codec.h"

#include <errno.h>
#include <lz4.h>
#include <zstd.h>

#include "base/alloc.h"

struct codec {
        void *lz4_state;
        ZSTD_CCtx *zstd_pack;
        ZSTD_DCtx *zstd_unpack;
};

static const struct {
        const char *name;
        enum wire_packing packing;
        int level, hash_log;
} levels[] = {
#define X(name, text, packing, level, hash_log, mbps, ratio) {text, packing, level, hash_log},
        CODEC_LEVELS(X)
#undef X
};
static_assert(ARRAY_SIZE(levels) == N_CODEC_LEVELS, "one row a level");

int codec_new(bool unpack_only, struct codec **ret_codec)
{
        _cleanup_(codec_freep) struct codec *codec = ALLOC(struct codec);

        if (!codec)
                return -ENOMEM;
        codec->zstd_unpack = ZSTD_createDCtx();
        if (!codec->zstd_unpack)
                return -ENOMEM;
        if (!unpack_only) {
                codec->lz4_state = alloc_zero((size_t)LZ4_sizeofState());
                codec->zstd_pack = ZSTD_createCCtx();
                if (!codec->lz4_state || !codec->zstd_pack)
                        return -ENOMEM;
        }
        *ret_codec = TAKE_PTR(codec);
        return 0;
}

void codec_free(struct codec *codec)
{
        if (!codec)
                return;
        free(codec->lz4_state);
        ZSTD_freeCCtx(codec->zstd_pack);
        ZSTD_freeDCtx(codec->zstd_unpack);
        free(codec);
}

const char *codec_level_name(enum codec_level level)
{
        return levels[level].name;
}

enum wire_packing codec_level_packing(enum codec_level level)
{
        return levels[level].packing;
}

static size_t pack_zstd(
        struct codec *codec, enum codec_level level, const void *src, size_t len, void *dst, size_t room);

size_t codec_pack(struct codec *codec, enum codec_level level, const void *src, size_t len, void *dst)
{
        size_t room = len - len / 32;
        size_t n = 0;

        if (room == 0)
                return 0;
        if (levels[level].packing == WIRE_LZ4) {
                int r = LZ4_compress_fast_extState(
                        codec->lz4_state, src, dst, (int)len, (int)room, levels[level].level);
                n = r > 0 ? (size_t)r : 0;
        } else if (levels[level].packing == WIRE_ZSTD) {
                n = pack_zstd(codec, level, src, len, dst, room);
        }
        return n;
}

int codec_unpack(
        struct codec *codec, unsigned int packing, const void *src, size_t len, void *dst, size_t raw_len)
{
        switch (packing) {
        case WIRE_PLAIN:
                if (len != raw_len)
                        return -EPROTO;
                memcpy(dst, src, len);
                return 0;
        case WIRE_LZ4:
                return LZ4_decompress_safe(src, dst, (int)len, (int)raw_len) == (int)raw_len ? 0 : -EPROTO;
        case WIRE_ZSTD:
                return ZSTD_decompressDCtx(codec->zstd_unpack, dst, raw_len, src, len) == raw_len ? 0
                                                                                                  : -EPROTO;
        }
        return -EPROTO;
}

/* Parameters stay in the context: each level sets both. */
static size_t pack_zstd(
        struct codec *codec, enum codec_level level, const void *src, size_t len, void *dst, size_t room)
{
        size_t n = ZSTD_CCtx_setParameter(codec->zstd_pack, ZSTD_c_compressionLevel, levels[level].level);

        if (!ZSTD_isError(n))
                n = ZSTD_CCtx_setParameter(codec->zstd_pack, ZSTD_c_hashLog, levels[level].hash_log);
        if (!ZSTD_isError(n))
                n = ZSTD_compress2(codec->zstd_pack, dst, room, src, len);
        return ZSTD_isError(n) ? 0 : n;
}

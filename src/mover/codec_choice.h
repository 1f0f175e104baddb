/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Chooses the codec level that moves most guest memory a second. Pure: numbers in, level out.
 *
 * A level's rate is bounded by the cores that pack (cores x MB/s a core) and by the wire (bytes/s x ratio);
 * the level with the highest bound wins. What this migration has measured for a level replaces the table's
 * guess; guesses for the others are scaled by how far off the guess for the measured level was. */

#include "mover/codec.h"

struct codec_sample {
        uint64_t raw_bytes; /* 0: not measured */
        uint64_t packed_bytes;
        uint64_t pack_ns; /* wall time of the packing threads */
};

struct codec_choice_input {
        struct codec_sample samples[N_CODEC_LEVELS];
        enum codec_level current;
        uint64_t wire_bytes_per_s; /* what the connections take together when kept busy; 0: not known yet */
        unsigned int n_cores;      /* that can pack at a time */
        uint32_t features;         /* WIRE_FEATURE_* */
};

enum codec_level codec_choose(const struct codec_choice_input *input);

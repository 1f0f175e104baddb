/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Chooses the codec level that moves most guest memory a second. Pure: numbers in, level out.
 *
 * A level's rate is bounded by the cores that pack (cores x MB/s a core) and by the wire (bytes/s x ratio), counting the
 * pages that no level packs; the level with the highest bound wins. What this migration has measured for a level lately replaces the
 * table's guess; the guess is scaled by how far off the one for the best known level is. Numbers that nothing
 * new comes for lose their weight within about two seconds, so that one bad moment does not rule out a level
 * for good; and now and then a batch goes at a neighbouring level (codec_probe()). */

#include "mover/codec.h"

struct codec_sample {
        uint64_t raw_bytes; /* 0: not measured */
        uint64_t packed_bytes;
        uint64_t
                cpu_ns; /* processor time of packing: time spent waiting for a processor is no level's fault */
};

struct codec_choice_input {
        struct codec_sample samples[N_CODEC_LEVELS];
        enum codec_level current;
        uint64_t wire_bytes_per_s; /* what the connections take together when kept busy; 0: not known yet */
        double n_cores;            /* that can pack at a time: codec_cores() */
        double total_cores;        /* of the host; with other_s_per_byte */
        double other_s_per_byte; /* processor time that goes with each byte packed besides packing it, when there is none to spare: reading,
                                      placing, the guest, QEMU; 0: there is some to spare */
        bool must_converge; /* the guest changes faster than it is sent: what that costs in bytes does not count */
        double plain_share; /* of the bytes, 0 to 1: not worth packing */
        uint32_t features;  /* WIRE_FEATURE_* */
};

/* Fades what is known and adds what was packed since the last call, in nothing or in something. Called ten
 * times a second. */
void codec_sample_add(struct codec_sample *sample, const struct codec_sample *more);

struct codec_room {
        unsigned int n_cpus; /* that the process may use */
        unsigned int n_senders;
        double cpu_share; /* part (above 0, up to 1) of the time in which a sender wanted to compute that it was running */
        bool wire_blocks;     /* the connections, not the processors, set the pace */
        double packing_cores; /* in use for packing now */
        double idle_cores;    /* of the host, unused now; below 0: not known */
};

/* How many cores can pack. While the wire blocks, QEMU and the reader stand still as well; otherwise one core is theirs, and
 * on a host without idle processors packing gets no more than it has: what a cheaper level leaves over, all that feeds the
 * senders can use. */
double codec_cores(const struct codec_room *room);

/* The level to use now: one step from the present one towards the best. Called ten times a second. */
enum codec_level codec_choose(const struct codec_choice_input *input);

/* The level for a sender's `n`th batch when `level` is in use: mostly that, now and then a neighbour, to keep
 * the numbers fresh. While the wire blocks, packing costs nothing that is missed: then it is the next stronger
 * one, and more often. */
enum codec_level codec_probe(enum codec_level level, unsigned int n, bool wire_blocks);

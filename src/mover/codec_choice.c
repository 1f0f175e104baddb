/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/codec_choice.h"

/* A change must promise this much, so that noise does not make the level swing. */
#define GAIN_TO_CHANGE 1.08
/* One that sends b times the bytes must promise so many times b: they are other people's as well, and what the wire takes is measured
 * too high while it is not the bottleneck (at 1 Gbit/s, with 1.2 whatever the bytes, a third of the moves fell to lz4, sent 7 % more
 * and took 8 % longer). */
#define GAIN_TO_PACK_LESS 1.15
/* A measurement over so many bytes counts as much as the guess. */
#define GUESS_WEIGHT_BYTES (256 * 1024)
/* What a measurement keeps of its weight with each call of codec_sample_add(): 3 % after a second. */
#define SAMPLE_FADE 0.7
#define PROBE_EVERY 24
#define PROBE_EVERY_BLOCKED 8
/* Packing that has hardly begun has not shown yet what it gets. */
#define MIN_CORES 0.1

static const struct {
        double bytes_per_s;
        double ratio;
} guesses[] = {
#define X(name, text, packing, level, hash_log, mbps, ratio) {mbps * 1e6, ratio},
        CODEC_LEVELS(X)
#undef X
};

static bool allowed(const struct codec_choice_input *input, enum codec_level level)
{
        switch (codec_level_packing(level)) {
        case WIRE_LZ4:
                return input->features & WIRE_FEATURE_LZ4;
        case WIRE_ZSTD:
                return input->features & WIRE_FEATURE_ZSTD;
        default:
                return true;
        }
}

static uint64_t fade(uint64_t n)
{
        return (uint64_t)((double)n * SAMPLE_FADE);
}

void codec_sample_add(struct codec_sample *sample, const struct codec_sample *more)
{
        *sample = (struct codec_sample){.raw_bytes = fade(sample->raw_bytes) + more->raw_bytes,
                .packed_bytes = fade(sample->packed_bytes) + more->packed_bytes,
                .cpu_ns = fade(sample->cpu_ns) + more->cpu_ns};
}

double codec_cores(const struct codec_room *room)
{
        double available = room->wire_blocks ? room->n_cpus : MAX(room->n_cpus, 2u) - 1;

        if (!room->wire_blocks && room->idle_cores >= 0)
                available = CLAMP(room->packing_cores + room->idle_cores, MIN_CORES, available);
        return MIN(available, room->n_senders * room->cpu_share);
}

/* Weight of the measurement against the guess, 0 to 1. */
static double trust(const struct codec_sample *s)
{
        if (s->packed_bytes == 0 || s->cpu_ns == 0)
                return 0;
        return (double)s->raw_bytes / (double)(s->raw_bytes + GUESS_WEIGHT_BYTES);
}

static double blend(double guess, double measured, double weight)
{
        return guess + (measured - guess) * weight;
}

static double measured_speed(const struct codec_sample *s)
{
        return (double)s->raw_bytes * 1e9 / (double)s->cpu_ns;
}

static double measured_ratio(const struct codec_sample *s)
{
        return (double)s->raw_bytes / (double)s->packed_bytes;
}

/* How this guest and machine differ from the table, from the packing level that is known best (else 1). */
static void scale_of(const struct codec_choice_input *input, double *ret_speed, double *ret_ratio)
{
        double best = 0;

        *ret_speed = *ret_ratio = 1;
        for (enum codec_level i = CODEC_LZ4; i < N_CODEC_LEVELS; i++) {
                const struct codec_sample *s = &input->samples[i];
                double weight = trust(s);

                if (weight <= best)
                        continue;
                best = weight;
                *ret_speed = blend(1, measured_speed(s) / guesses[i].bytes_per_s, weight);
                *ret_ratio = blend(1, measured_ratio(s) / guesses[i].ratio, weight);
        }
}

/* What the processors allow at this speed of packing. Where they are all busy, a faster level only shortens its own part of the
 * work (Amdahl's law). */
static double processor_rate(const struct codec_choice_input *input, double speed)
{
        return input->other_s_per_byte > 0 ? input->total_cores / (input->other_s_per_byte + 1 / speed)
                                           : speed * input->n_cores;
}

struct promise {
        double rate;   /* guest bytes a second */
        double packed; /* wire bytes for each guest byte */
};

static struct promise promise_of(const struct codec_choice_input *input, enum codec_level level,
        double speed_scale, double ratio_scale)
{
        const struct codec_sample *s = &input->samples[level];
        double speed = guesses[level].bytes_per_s;
        double ratio = 1, plain_share = MIN(input->plain_share, 0.99), packed;

        if (level != CODEC_NONE) {
                double weight = trust(s);

                speed *= speed_scale;
                ratio = MAX(1.0, guesses[level].ratio * ratio_scale);
                if (weight > 0) {
                        speed = blend(speed, measured_speed(s), weight);
                        ratio = blend(ratio, measured_ratio(s), weight);
                }
        }
        packed = plain_share + (1 - plain_share) / ratio;
        return (struct promise){.rate = MIN(processor_rate(input, speed) / (1 - plain_share),
                                        (double)input->wire_bytes_per_s / packed),
                .packed = packed};
}

enum codec_level codec_choose(const struct codec_choice_input *input)
{
        double speed_scale, ratio_scale, best_rate;
        struct promise present;
        enum codec_level best = input->current, next;

        if (input->wire_bytes_per_s == 0)
                return input->current;
        scale_of(input, &speed_scale, &ratio_scale);
        present = promise_of(input, best, speed_scale, ratio_scale);
        best_rate = present.rate;
        for (enum codec_level i = 0; i < N_CODEC_LEVELS; i++) {
                struct promise promise = promise_of(input, i, speed_scale, ratio_scale);
                double needed = i > input->current || input->must_converge
                                        ? GAIN_TO_CHANGE
                                        : GAIN_TO_PACK_LESS * MAX(promise.packed / present.packed, 1.0);
                double rate = promise.rate / needed;

                if (i != input->current && allowed(input, i) && rate > best_rate) {
                        best = i;
                        best_rate = rate;
                }
        }
        /* One step: the next level's own numbers come before a guess about the one after it is acted on. */
        next = input->current;
        while (next != best) {
                next = best > next ? next + 1 : next - 1;
                if (allowed(input, next))
                        break;
        }
        return next;
}

enum codec_level codec_probe(enum codec_level level, unsigned int n, bool wire_blocks)
{
        unsigned int every = wire_blocks ? PROBE_EVERY_BLOCKED : PROBE_EVERY;
        bool stronger = level + 1 < N_CODEC_LEVELS && (wire_blocks || n / every % 2 == 1);

        if (n % every != 0)
                return level;
        if (stronger)
                return level + 1;
        return level > CODEC_LZ4 ? level - 1 : level;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/codec_choice.h"

/* A change must promise this much, so that noise does not make the level swing. */
#define GAIN_TO_CHANGE 1.08
/* Fewer bytes than this say nothing about a level. */
#define MIN_SAMPLE_BYTES (512 * 1024)

static const struct {
        double bytes_per_s;
        double ratio;
} guesses[] = {
#define X(name, text, packing, level, mbps, ratio) {mbps * 1e6, ratio},
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

static bool measured(const struct codec_choice_input *input, enum codec_level level)
{
        const struct codec_sample *s = &input->samples[level];

        return s->raw_bytes >= MIN_SAMPLE_BYTES && s->packed_bytes > 0 && s->pack_ns > 0;
}

/* How this guest and machine differ from the table, from the measured level that packs (else 1). */
static void scale_of(const struct codec_choice_input *input, double *ret_speed, double *ret_ratio)
{
        *ret_speed = *ret_ratio = 1;
        for (enum codec_level i = CODEC_LZ4; i < N_CODEC_LEVELS; i++) {
                const struct codec_sample *s = &input->samples[i];
                double gain;

                if (!measured(input, i))
                        continue;
                *ret_speed = (double)s->raw_bytes * 1e9 / (double)s->pack_ns / guesses[i].bytes_per_s;
                gain = (double)s->raw_bytes / (double)s->packed_bytes;
                *ret_ratio = gain / guesses[i].ratio;
        }
}

static double rate_of(const struct codec_choice_input *input, enum codec_level level, double speed_scale,
        double ratio_scale)
{
        const struct codec_sample *s = &input->samples[level];
        double speed = guesses[level].bytes_per_s * (level == CODEC_NONE ? 1 : speed_scale);
        double ratio = level == CODEC_NONE ? 1 : MAX(1.0, guesses[level].ratio * ratio_scale);

        if (measured(input, level) && level != CODEC_NONE) {
                speed = (double)s->raw_bytes * 1e9 / (double)s->pack_ns;
                ratio = (double)s->raw_bytes / (double)s->packed_bytes;
        }
        return MIN(speed * input->n_cores, ratio * (double)input->wire_bytes_per_s);
}

enum codec_level codec_choose(const struct codec_choice_input *input)
{
        double speed_scale, ratio_scale, best_rate;
        enum codec_level best = input->current;

        if (input->wire_bytes_per_s == 0)
                return input->current;
        scale_of(input, &speed_scale, &ratio_scale);
        best_rate = rate_of(input, best, speed_scale, ratio_scale) * GAIN_TO_CHANGE;
        for (enum codec_level i = 0; i < N_CODEC_LEVELS; i++) {
                double rate = rate_of(input, i, speed_scale, ratio_scale);

                if (i != input->current && allowed(input, i) && rate > best_rate) {
                        best = i;
                        best_rate = rate;
                }
        }
        return best;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/classify.h"

#include <string.h>

#define SAMPLE_BYTES 256
#define SAMPLE_RUN 32 /* consecutive bytes taken at each place */
/* Five standard deviations above random. */
#define RANDOM_MAX 630

bool classify_compressible(const uint8_t *data, size_t len)
{
        size_t step = len / (SAMPLE_BYTES / SAMPLE_RUN);
        uint16_t count[256] = {0};
        unsigned int sum = 0;

        for (size_t place = 0; place < SAMPLE_BYTES / SAMPLE_RUN; place++) {
                const uint8_t *run = data + place * step;

                /* A count's square grows by 2c + 1 with each hit. */
                for (size_t i = 0; i < SAMPLE_RUN; i++)
                        sum += 2u * count[run[i]]++ + 1;
        }
        return sum > RANDOM_MAX;
}

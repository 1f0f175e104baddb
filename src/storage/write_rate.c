/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/write_rate.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/macros.h"

#define PIECE_BYTES ((size_t)256 << 10)
#define SLOW_NS UINT64_C(50000000) /* a round that takes this long is the last one */

/* What each round writes, and what comes out of it is by the last: a small one is mostly latency. */
static const size_t rounds_bytes[] = {
        64u << 10, 256u << 10, 1u << 20, WRITE_RATE_MAX_BYTES - (64u << 10) - (256u << 10) - (1u << 20)};

static uint64_t per_second(size_t bytes, uint64_t took_ns)
{
        return (uint64_t)((double)bytes * 1e9 / (double)MAX(took_ns, UINT64_C(1)));
}

static bool write_round(int fd, const char *piece, size_t bytes)
{
        while (bytes > 0) {
                ssize_t n = write(fd, piece, MIN(bytes, PIECE_BYTES));

                if (n <= 0)
                        return false;
                bytes -= (size_t)n;
        }
        return fdatasync(fd) == 0;
}

static uint64_t read_back(int fd, char *piece, size_t bytes)
{
        uint64_t began_ns;
        size_t done = 0;

        /* Clean by now, so that it goes; a file system without a cache of its own (tmpfs) keeps it, and is that fast. */
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        began_ns = clock_monotonic_ns();
        while (done < bytes && clock_monotonic_ns() - began_ns < SLOW_NS) {
                ssize_t n = pread(fd, piece, MIN(bytes - done, PIECE_BYTES), (off_t)done);

                if (n <= 0)
                        return 0;
                done += (size_t)n;
        }
        return per_second(done, clock_monotonic_ns() - began_ns);
}

void write_rate_measure(int fd, struct write_rate *ret_rate)
{
        _cleanup_free_ char *piece = alloc_array(PIECE_BYTES, 1);
        struct write_rate rate = {};
        size_t written = 0;
        uint64_t took_ns = 0;

        *ret_rate = rate;
        for (size_t n = 0; piece && n < PIECE_BYTES; n += 256)
                if (getrandom(piece + n, 256, 0) != 256)
                        return;
        for (size_t i = 0; piece && i < ARRAY_SIZE(rounds_bytes) && took_ns < SLOW_NS; i++) {
                uint64_t began_ns = clock_monotonic_ns();

                if (!write_round(fd, piece, rounds_bytes[i]))
                        return;
                took_ns = clock_monotonic_ns() - began_ns;
                written += rounds_bytes[i];
                rate.write_bytes_per_s = per_second(rounds_bytes[i], took_ns);
        }
        if (written)
                rate.read_bytes_per_s = read_back(fd, piece, written);
        *ret_rate = rate;
}

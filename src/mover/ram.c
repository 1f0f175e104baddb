/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/ram.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

int ram_map(struct ram *ram, int fd, uint64_t bytes, bool writable, struct error **ret_error)
{
        struct stat st;
        void *map;

        if (bytes == 0 || bytes % WIRE_PAGE_SIZE != 0 || bytes > WIRE_MAX_RAM_BYTES)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Give the size in whole pages of 4 KiB",
                        "The guest's memory cannot have %llu bytes", (unsigned long long)bytes);
        if (fstat(fd, &st) < 0)
                return error_from_errno(ret_error, errno, "Cannot look at the guest's memory");
        if ((uint64_t)st.st_size < bytes)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The guest's memory file has %lld bytes instead of %llu", (long long)st.st_size,
                        (unsigned long long)bytes);
        map = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED)
                return error_from_errno(ret_error, errno, "Cannot map the guest's memory");
        if (writable) /* takes effect where the administrator allows huge pages for shared memory */
                (void)madvise(map, bytes, MADV_HUGEPAGE);
        *ram = (struct ram){.map = map, .bytes = bytes, .fd = fd};
        return 0;
}

void ram_unmap(struct ram *ram)
{
        if (ram->map)
                munmap(ram->map, ram->bytes);
        ram->map = NULL;
}

bool ram_is_hole(const struct ram *ram, uint64_t offset, uint64_t len)
{
        off_t data = lseek(ram->fd, (off_t)offset, SEEK_DATA);

        if (data < 0)
                return errno == ENXIO;
        return (uint64_t)data >= offset + len;
}

bool ram_is_zero(const uint8_t *data, size_t len)
{
        uint64_t any = 0;

        for (size_t i = 0; i < len; i += 64) {
                uint64_t words[8];

                memcpy(words, data + i, sizeof(words));
                for (size_t j = 0; j < ARRAY_SIZE(words); j++)
                        any |= words[j];
                if (any)
                        return false;
        }
        return true;
}

uint64_t ram_stripe_hash(const struct ram *ram, const uint8_t *secret, uint64_t stripe)
{
        static const uint8_t zeros[WIRE_STRIPE_BYTES];
        uint64_t offset = stripe * WIRE_STRIPE_BYTES;
        size_t len = (size_t)MIN((uint64_t)WIRE_STRIPE_BYTES, ram->bytes - offset);
        const uint8_t *data = ram_is_hole(ram, offset, len) ? zeros : ram->map + offset;

        return XXH3_64bits_withSecret(data, len, secret, WIRE_SECRET_SIZE);
}

uint64_t ram_channel_hash(
        const struct ram *ram, const uint8_t *secret, unsigned int channel, unsigned int n_channels)
{
        uint64_t n_stripes = wire_ram_stripes(ram->bytes);
        uint64_t chain[2] = {0, 0}; /* hash so far, next stripe's hash */

        for (uint64_t stripe = channel; stripe < n_stripes; stripe += n_channels) {
                chain[1] = ram_stripe_hash(ram, secret, stripe);
                chain[0] = XXH3_64bits_withSecret(chain, sizeof(chain), secret, WIRE_SECRET_SIZE);
        }
        return chain[0];
}

uint64_t ram_total_hash(const uint64_t *channel_hashes, unsigned int n_channels)
{
        return XXH3_64bits(channel_hashes, n_channels * sizeof(channel_hashes[0]));
}

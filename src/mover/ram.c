/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/ram.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

int ram_init(struct ram *ram, int fd, uint64_t address, uint64_t bytes, struct error **ret_error)
{
        struct ram r = {.fd = fd, .address = address, .bytes = bytes};
        uint8_t byte;

        if (bytes == 0 || bytes % WIRE_PAGE_SIZE != 0 || bytes > WIRE_MAX_RAM_BYTES)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Give the size in whole pages of 4 KiB",
                        "The guest's memory cannot have %llu bytes", (unsigned long long)bytes);
        if (address % WIRE_PAGE_SIZE != 0 || address > (uint64_t)INT64_MAX - bytes)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The guest's memory cannot lie at address %#llx", (unsigned long long)address);
        if (ram_read(&r, 0, &byte, 1, NULL) < 0 || ram_read(&r, bytes - 1, &byte, 1, NULL) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The guest's memory of %llu bytes is not at address %#llx", (unsigned long long)bytes,
                        (unsigned long long)address);
        *ram = r;
        return 0;
}

/* n: what the call returned; 0: the address space has no process any more. */
static int failed(const char *what, ssize_t n, struct error **ret_error)
{
        if (n == 0)
                return error_set(ret_error, ERROR_QEMU_DIED, NULL,
                        "Cannot %s the guest's memory: QEMU has ended", what);
        return error_from_errno(ret_error, errno, "Cannot %s the guest's memory", what);
}

int ram_read(const struct ram *ram, uint64_t offset, void *data, size_t len, struct error **ret_error)
{
        for (size_t done = 0; done < len;) {
                ssize_t n = pread(
                        ram->fd, (uint8_t *)data + done, len - done, (off_t)(ram->address + offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return failed("read", n, ret_error);
                done += (size_t)n;
        }
        return 0;
}

int ram_write(const struct ram *ram, uint64_t offset, const void *data, size_t len, struct error **ret_error)
{
        for (size_t done = 0; done < len;) {
                ssize_t n = pwrite(ram->fd, (const uint8_t *)data + done, len - done,
                        (off_t)(ram->address + offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return failed("write", n, ret_error);
                done += (size_t)n;
        }
        return 0;
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

int ram_stripe_hash(const struct ram *ram, const uint8_t *secret, uint64_t stripe, uint8_t *buffer,
        uint64_t *ret_hash, struct error **ret_error)
{
        size_t len = ram_stripe_len(ram, stripe);
        int r = ram_read(ram, stripe * WIRE_STRIPE_BYTES, buffer, len, ret_error);

        if (r < 0)
                return r;
        *ret_hash = XXH3_64bits_withSecret(buffer, len, secret, WIRE_SECRET_SIZE);
        return 0;
}

int ram_channel_hash(const struct ram *ram, const uint8_t *secret, unsigned int channel,
        unsigned int n_channels, uint8_t *buffer, uint64_t *ret_hash, struct error **ret_error)
{
        uint64_t n_stripes = wire_ram_stripes(ram->bytes);
        uint64_t chain[2] = {0, 0}; /* hash so far, next stripe's hash */

        for (uint64_t stripe = channel; stripe < n_stripes; stripe += n_channels) {
                int r = ram_stripe_hash(ram, secret, stripe, buffer, &chain[1], ret_error);

                if (r < 0)
                        return r;
                chain[0] = XXH3_64bits_withSecret(chain, sizeof(chain), secret, WIRE_SECRET_SIZE);
        }
        *ret_hash = chain[0];
        return 0;
}

uint64_t ram_total_hash(const uint64_t *channel_hashes, unsigned int n_channels)
{
        return XXH3_64bits(channel_hashes, n_channels * sizeof(channel_hashes[0]));
}

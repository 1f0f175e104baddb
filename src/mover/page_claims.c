/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/page_claims.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"

#define WAYS 8
#define N_BUCKETS (PAGE_CLAIMS_BYTES / sizeof(uint64_t) / WAYS)

struct page_claims {
        _Atomic uint64_t *tags; /* 0: free */
};

int page_claims_open(int fd, struct page_claims **ret_claims)
{
        void *memory = mmap(NULL, PAGE_CLAIMS_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        struct page_claims *claims;

        if (memory == MAP_FAILED)
                return -errno;
        claims = ALLOC(struct page_claims);
        if (!claims) {
                munmap(memory, PAGE_CLAIMS_BYTES);
                return -ENOMEM;
        }
        claims->tags = memory;
        *ret_claims = claims;
        return 0;
}

void page_claims_close(struct page_claims *claims)
{
        if (!claims)
                return;
        munmap(claims->tags, PAGE_CLAIMS_BYTES);
        free(claims);
}

bool page_claims_take(struct page_claims *claims, const uint8_t digest[static CONTENT_DIGEST_SIZE])
{
        _Atomic uint64_t *bucket;
        uint64_t tag, where;

        memcpy(&where, digest, sizeof(where));
        memcpy(&tag, digest + 8, sizeof(tag));
        tag |= 1;
        bucket = claims->tags + where % N_BUCKETS * WAYS;
        for (unsigned int i = 0; i < WAYS; i++) {
                uint64_t there = atomic_load_explicit(&bucket[i], memory_order_relaxed);

                if (there == 0 && atomic_compare_exchange_strong(&bucket[i], &there, tag))
                        return true;
                if (there == tag) /* also when another one was just quicker */
                        return false;
        }
        atomic_store_explicit(&bucket[tag / 2 % WAYS], tag, memory_order_relaxed);
        return true;
}

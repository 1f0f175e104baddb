/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/duplicates.h"

#include <errno.h>

#include "base/alloc.h"

#define MIN_SLOTS 64 /* a power of two */
#define MAX_SLOTS (UINT64_C(1) << 22)
/* Low bits of a slot: page number + 1; 0: empty. The rest: that much of the content's digest. */
#define PAGE_BITS 36
#define PAGE_MASK ((UINT64_C(1) << PAGE_BITS) - 1)

static_assert(WIRE_MAX_RAM_BYTES / WIRE_PAGE_SIZE < PAGE_MASK, "page numbers fit");
static_assert(MAX_SLOTS <= PAGE_MASK + 1, "the digest's other bits choose the slot");

struct duplicates {
        uint64_t mask;   /* number of slots - 1 */
        uint64_t *slots; /* in sets of two, the one used last before the other */
};

int duplicates_new(uint64_t n_pages, struct duplicates **ret_duplicates)
{
        struct duplicates *duplicates = ALLOC(struct duplicates);
        uint64_t n = MIN_SLOTS;

        if (!duplicates)
                return -ENOMEM;
        while (n < n_pages && n < MAX_SLOTS)
                n *= 2;
        duplicates->mask = n - 1;
        duplicates->slots = alloc_array(n, sizeof(uint64_t));
        if (!duplicates->slots) {
                free(duplicates);
                return -ENOMEM;
        }
        *ret_duplicates = duplicates;
        return 0;
}

void duplicates_free(struct duplicates *duplicates)
{
        if (!duplicates)
                return;
        free(duplicates->slots);
        free(duplicates);
}

bool duplicates_find(struct duplicates *duplicates, const struct page_index *index, uint64_t page,
        uint64_t digest, uint64_t *ret_from)
{
        uint64_t *set = &duplicates->slots[digest & duplicates->mask & ~UINT64_C(1)];
        uint64_t found = set[0];

        if ((found ^ digest) > PAGE_MASK) { /* the older of the two becomes the newer, or goes */
                found = set[1];
                set[1] = set[0];
        }
        if (found != 0 && (found ^ digest) <= PAGE_MASK) {
                uint64_t from = (found & PAGE_MASK) - 1;

                if (from < page && page_index_same(index, from, page)) {
                        set[0] = found;
                        *ret_from = from;
                        return true;
                }
        }
        set[0] = (digest & ~PAGE_MASK) | (page + 1);
        return false;
}

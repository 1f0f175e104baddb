/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/page_index.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "base/alloc.h"

struct row {
        uint64_t block[WIRE_BLOCKS_PER_PAGE];
};

struct page_index {
        const uint8_t *secret;
        uint64_t n_pages;
        struct row *rows;  /* mapped; 2 MiB at a time come with the first page sent of each 64 MiB of guest */
        uint64_t *nonzero; /* a bit a page; one word is one stripe, so words have one owner */
};

static_assert(WIRE_STRIPE_PAGES == 64, "a word of the bitmap is one stripe");

int page_index_new(uint64_t n_pages, const uint8_t *secret, struct page_index **ret_index)
{
        _cleanup_(page_index_freep) struct page_index *index = ALLOC(struct page_index);
        void *rows;

        if (!index)
                return -ENOMEM;
        index->secret = secret;
        index->n_pages = n_pages;
        index->nonzero = alloc_array((n_pages + 63) / 64, sizeof(uint64_t));
        if (!index->nonzero)
                return -ENOMEM;
        rows = mmap(NULL, n_pages * sizeof(struct row), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (rows == MAP_FAILED)
                return -errno;
        /* One fault in place of 512. A kernel without huge pages refuses. */
        (void)madvise(rows, n_pages * sizeof(struct row), MADV_HUGEPAGE);
        index->rows = rows;
        *ret_index = TAKE_PTR(index);
        return 0;
}

void page_index_free(struct page_index *index)
{
        if (!index)
                return;
        if (index->rows)
                munmap(index->rows, index->n_pages * sizeof(struct row));
        free(index->nonzero);
        free(index);
}

static uint64_t block_hash(const uint8_t *secret, const uint8_t *page, unsigned int block)
{
        return XXH3_64bits_withSecret(
                page + (size_t)block * WIRE_BLOCK_SIZE, WIRE_BLOCK_SIZE, secret, WIRE_SECRET_SIZE);
}

uint16_t page_index_update(struct page_index *index, uint64_t page, const uint8_t *data)
{
        struct row *row = &index->rows[page];
        uint64_t bit = UINT64_C(1) << (page % 64);
        unsigned int mask = 0;

        for (unsigned int i = 0; i < WIRE_BLOCKS_PER_PAGE; i++) {
                uint64_t hash = block_hash(index->secret, data, i);

                if (row->block[i] != hash)
                        mask |= 1u << i;
                row->block[i] = hash;
        }
        if (!(index->nonzero[page / 64] & bit)) {
                index->nonzero[page / 64] |= bit;
                mask = 0xffff;
        }
        return (uint16_t)mask;
}

bool page_index_set_zero(struct page_index *index, uint64_t page)
{
        uint64_t bit = UINT64_C(1) << (page % 64);

        if (!(index->nonzero[page / 64] & bit))
                return false;
        index->nonzero[page / 64] &= ~bit;
        return true;
}

bool page_index_is_sent(const struct page_index *index, uint64_t page)
{
        return index->nonzero[page / 64] >> (page % 64) & 1;
}

static uint64_t row_digest(const struct row *row)
{
        wire_le64 hashes[WIRE_BLOCKS_PER_PAGE];

        for (unsigned int i = 0; i < WIRE_BLOCKS_PER_PAGE; i++)
                hashes[i] = htole64(row->block[i]);
        return XXH3_64bits(hashes, sizeof(hashes));
}

uint64_t page_index_digest(const struct page_index *index, uint64_t page)
{
        return row_digest(&index->rows[page]);
}

uint64_t page_content_digest(const uint8_t *secret, const uint8_t *data)
{
        struct row row;

        for (unsigned int i = 0; i < WIRE_BLOCKS_PER_PAGE; i++)
                row.block[i] = block_hash(secret, data, i);
        return row_digest(&row);
}

bool page_index_same(const struct page_index *index, uint64_t a, uint64_t b)
{
        return page_index_is_sent(index, a) && page_index_is_sent(index, b) &&
               memcmp(&index->rows[a], &index->rows[b], sizeof(struct row)) == 0;
}

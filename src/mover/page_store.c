/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/page_store.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"

#define WAYS 8           /* places of the index where a digest may stand */
#define PAGES_A_BUCKET 4 /* twice as many places as pages */
#define DIGEST_WORDS (CONTENT_DIGEST_SIZE / 8)
#define PAGE_WORDS (WIRE_PAGE_SIZE / 8)

/* Other processes write all of this at any time: each word is read and written as one. */
struct slot {
        _Atomic uint64_t digest[DIGEST_WORDS];
        _Atomic uint64_t content[PAGE_WORDS];
};

struct head {
        _Atomic uint64_t next; /* slot that is written next; only ever grows */
        uint64_t reserved[7];
};

struct bucket {
        _Atomic uint32_t slots[WAYS]; /* number + 1; 0: free */
};

struct page_store {
        void *memory;
        uint64_t size;
        uint64_t n_slots, n_buckets;
        struct head *head;
        struct bucket *buckets;
        struct slot *slots;
};

uint64_t page_store_size(uint64_t n_pages)
{
        uint64_t n_buckets = n_pages / PAGES_A_BUCKET + 1;

        return sizeof(struct head) + n_buckets * sizeof(struct bucket) + n_pages * sizeof(struct slot);
}

/* Of the most pages that fit. */
static uint64_t pages_in(uint64_t size)
{
        uint64_t n = size / (sizeof(struct slot) + sizeof(struct bucket) / PAGES_A_BUCKET);

        while (n > 0 && page_store_size(n) > size)
                n--;
        return MIN(n, (uint64_t)UINT32_MAX - 1);
}

int page_store_open(int fd, uint64_t size, struct page_store **ret_store)
{
        struct page_store *store;
        uint64_t n_slots = pages_in(size);
        void *memory;

        if (n_slots == 0)
                return -EINVAL;
        memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
                return -errno;
        store = ALLOC(struct page_store);
        if (!store) {
                munmap(memory, size);
                return -ENOMEM;
        }
        *store = (struct page_store){.memory = memory,
                .size = size,
                .n_slots = n_slots,
                .n_buckets = n_slots / PAGES_A_BUCKET + 1};
        store->head = memory;
        store->buckets = (struct bucket *)(store->head + 1);
        store->slots = (struct slot *)(store->buckets + store->n_buckets);
        *ret_store = store;
        return 0;
}

void page_store_close(struct page_store *store)
{
        if (!store)
                return;
        munmap(store->memory, store->size);
        free(store);
}

static void write_words(_Atomic uint64_t *to, const uint8_t *from, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                uint64_t word;

                memcpy(&word, from + i * 8, 8);
                atomic_store_explicit(&to[i], word, memory_order_relaxed);
        }
}

static void read_words(_Atomic uint64_t *from, uint8_t *to, size_t n)
{
        for (size_t i = 0; i < n; i++) {
                uint64_t word = atomic_load_explicit(&from[i], memory_order_relaxed);

                memcpy(to + i * 8, &word, 8);
        }
}

static bool has_digest(struct slot *slot, const uint8_t *digest)
{
        uint8_t there[CONTENT_DIGEST_SIZE];

        read_words(slot->digest, there, DIGEST_WORDS);
        return memcmp(there, digest, CONTENT_DIGEST_SIZE) == 0;
}

static uint64_t first_word(const uint8_t *digest)
{
        uint64_t word;

        memcpy(&word, digest, 8);
        return word;
}

static struct bucket *bucket_of(struct page_store *store, const uint8_t *digest)
{
        return &store->buckets[first_word(digest) % store->n_buckets];
}

/* NULL: not there. The number comes from memory that others write: it is checked. */
static struct slot *slot_at(struct page_store *store, _Atomic uint32_t *place)
{
        uint32_t number = atomic_load_explicit(place, memory_order_acquire);

        return number > 0 && number <= store->n_slots ? &store->slots[number - 1] : NULL;
}

/* A free place, or one whose page was overwritten, or any. */
static _Atomic uint32_t *place_for(struct page_store *store, struct bucket *bucket, const uint8_t *digest)
{
        for (unsigned int i = 0; i < WAYS; i++) {
                struct slot *slot = slot_at(store, &bucket->slots[i]);
                uint8_t there[CONTENT_DIGEST_SIZE];

                if (!slot)
                        return &bucket->slots[i];
                read_words(slot->digest, there, DIGEST_WORDS);
                if (bucket_of(store, there) != bucket)
                        return &bucket->slots[i];
        }
        return &bucket->slots[digest[8] % WAYS];
}

void page_store_add(
        struct page_store *store, const uint8_t digest[static CONTENT_DIGEST_SIZE], const uint8_t *page)
{
        struct bucket *bucket = bucket_of(store, digest);
        uint64_t number;
        struct slot *slot;

        for (unsigned int i = 0; i < WAYS; i++) {
                slot = slot_at(store, &bucket->slots[i]);
                if (slot && has_digest(slot, digest))
                        return;
        }
        number = atomic_fetch_add_explicit(&store->head->next, 1, memory_order_relaxed) % store->n_slots;
        slot = &store->slots[number];
        write_words(slot->digest, digest, DIGEST_WORDS);
        write_words(slot->content, page, PAGE_WORDS);
        atomic_store_explicit(place_for(store, bucket, digest), (uint32_t)number + 1, memory_order_release);
}

bool page_store_find(struct page_store *store, struct content_digester *digester,
        const uint8_t digest[static CONTENT_DIGEST_SIZE], uint8_t *ret_page)
{
        struct bucket *bucket = bucket_of(store, digest);

        for (unsigned int i = 0; i < WAYS; i++) {
                struct slot *slot = slot_at(store, &bucket->slots[i]);
                uint8_t real[CONTENT_DIGEST_SIZE];

                if (!slot || !has_digest(slot, digest))
                        continue;
                read_words(slot->content, ret_page, PAGE_WORDS);
                if (content_digest(digester, ret_page, WIRE_PAGE_SIZE, real) == 0 &&
                        memcmp(real, digest, CONTENT_DIGEST_SIZE) == 0)
                        return true;
        }
        return false;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/checkpoint.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "io/checkpoint_keys.h"

#define MAGIC "DROVERCP"
#define VERSION 2               /* 1: without digests */
#define INDEX_NUMBER UINT64_MAX /* of the index as a sealed piece; stripes have their own numbers */

struct _packed_ header_v1 {
        char magic[8];
        wire_le32 version;
        wire_le32 reserved;
        wire_le64 ram_bytes;
};

struct _packed_ entry_v1 {
        wire_le64 offset; /* in the file */
        wire_le32 len;    /* there; 0: the stripe is zero; that of the stripe: not compressed */
        uint8_t tag[AEAD_TAG_SIZE];
};

/* Of version 2; one for each stripe, in a row before the index. Its number under the comparison key is the stripe's. */
struct _packed_ digests_v2 {
        wire_le64 pages[WIRE_STRIPE_PAGES]; /* checkpoint_page_digest(); 0: a page of zeros, or none */
        uint8_t tag[AEAD_TAG_SIZE];
};

struct _packed_ tail_v1 {
        wire_le64 index_offset;
        uint8_t tag[AEAD_TAG_SIZE]; /* of the index: an entry for each stripe */
};

static_assert(sizeof(struct header_v1) == 24, "file format");
static_assert(sizeof(struct entry_v1) == 28, "file format");
static_assert(sizeof(struct digests_v2) == 528, "file format");
static_assert(sizeof(struct tail_v1) == 24, "file format");

struct checkpoint {
        int fd;
        uint8_t key[AEAD_KEY_SIZE];
        uint64_t n_stripes;
        struct entry_v1 *entries;
};

struct writer {
        int fd;
        const uint8_t *key;
        uint8_t comparison_key[AEAD_KEY_SIZE], page_key[AEAD_KEY_SIZE];
        uint64_t offset;
        struct codec *codec;
        struct entry_v1 *entries; /* of each stripe, as the next */
        struct digests_v2 *digests;
        uint8_t *stripe, *packed; /* WIRE_STRIPE_BYTES each */
};

static int write_all(struct writer *w, const void *data, size_t len)
{
        for (size_t done = 0; done < len;) {
                ssize_t n = write(w->fd, (const uint8_t *)data + done, len - done);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t)n;
        }
        w->offset += len;
        return 0;
}

static int write_stripe(struct writer *w, uint64_t stripe, size_t len, struct entry_v1 *ret_entry)
{
        size_t packed = codec_pack(w->codec, CODEC_LZ4, w->stripe, len, w->packed);
        uint8_t *data = packed > 0 ? w->packed : w->stripe;
        struct entry_v1 entry = {.offset = htole64(w->offset)};
        int r;

        len = packed > 0 ? packed : len;
        entry.len = htole32((uint32_t)len);
        r = aead_seal(w->key, stripe, data, len, data, entry.tag);
        if (r >= 0)
                r = write_all(w, data, len);
        *ret_entry = entry;
        return r;
}

static void digest_stripe(struct writer *w, uint64_t stripe, size_t len)
{
        for (size_t i = 0; i < len / WIRE_PAGE_SIZE; i++) {
                const uint8_t *page = w->stripe + i * WIRE_PAGE_SIZE;

                if (!ram_is_zero(page, WIRE_PAGE_SIZE))
                        w->digests[stripe].pages[i] = htole64(checkpoint_page_digest(
                                w->page_key, stripe * WIRE_STRIPE_PAGES + i, page, WIRE_PAGE_SIZE));
        }
}

static int write_digests(struct writer *w, uint64_t n)
{
        int r = 0;

        for (uint64_t i = 0; r >= 0 && i < n; i++)
                r = aead_seal(w->comparison_key, i, w->digests[i].pages, sizeof(w->digests[i].pages),
                        w->digests[i].pages, w->digests[i].tag);
        return r >= 0 ? write_all(w, w->digests, n * sizeof(*w->digests)) : r;
}

static int write_index(struct writer *w, uint64_t n)
{
        struct tail_v1 tail = {.index_offset = htole64(w->offset)};
        size_t len = n * sizeof(*w->entries);
        int r = aead_seal(w->key, INDEX_NUMBER, w->entries, len, w->entries, tail.tag);

        if (r >= 0)
                r = write_all(w, w->entries, len);
        return r >= 0 ? write_all(w, &tail, sizeof(tail)) : r;
}

static int write_memory(struct writer *w, const struct ram *ram, struct error **ret_error)
{
        struct header_v1 header = {
                .magic = MAGIC, .version = htole32(VERSION), .ram_bytes = htole64(ram->bytes)};
        uint64_t n = wire_ram_stripes(ram->bytes);
        int r = write_all(w, &header, sizeof(header));

        for (uint64_t stripe = 0; r >= 0 && stripe < n; stripe++) {
                size_t len = ram_stripe_len(ram, stripe);

                r = ram_read(ram, stripe * WIRE_STRIPE_BYTES, w->stripe, len, ret_error);
                if (r < 0 || ram_is_zero(w->stripe, len))
                        continue;
                digest_stripe(w, stripe, len); /* before it is encrypted in place */
                r = write_stripe(w, stripe, len, &w->entries[stripe]);
        }
        if (r >= 0)
                r = write_digests(w, n);
        return r >= 0 ? write_index(w, n) : r;
}

int checkpoint_write(int fd, const uint8_t key[static AEAD_KEY_SIZE], const struct ram *ram,
        uint64_t *ret_bytes, struct error **ret_error)
{
        _cleanup_(codec_freep) struct codec *codec = NULL;
        _cleanup_free_ uint8_t *stripe = alloc_zero(WIRE_STRIPE_BYTES),
                               *packed = alloc_zero(WIRE_STRIPE_BYTES);
        _cleanup_free_ struct entry_v1 *entries =
                alloc_array(wire_ram_stripes(ram->bytes), sizeof(struct entry_v1));
        _cleanup_free_ struct digests_v2 *digests =
                alloc_array(wire_ram_stripes(ram->bytes), sizeof(struct digests_v2));
        struct writer w = {.fd = fd,
                .key = key,
                .entries = entries,
                .digests = digests,
                .stripe = stripe,
                .packed = packed};
        int r = codec_new(false, &codec);

        if (r < 0 || !stripe || !packed || !entries || !digests)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory to keep the guest's memory");
        w.codec = codec;
        r = checkpoint_comparison_key(key, w.comparison_key);
        if (r >= 0)
                r = checkpoint_page_key(key, w.page_key);
        if (r >= 0)
                r = write_memory(&w, ram, ret_error);
        explicit_bzero(w.comparison_key, sizeof(w.comparison_key));
        explicit_bzero(w.page_key, sizeof(w.page_key));
        if (r < 0)
                return *ret_error ? r : error_from_errno(ret_error, r, "Cannot keep the guest's memory");
        *ret_bytes = w.offset;
        return 0;
}

static int read_at(int fd, uint64_t offset, void *data, size_t len)
{
        for (size_t done = 0; done < len;) {
                ssize_t n = pread(fd, (uint8_t *)data + done, len - done, (off_t)(offset + done));

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EBADMSG;
                done += (size_t)n;
        }
        return 0;
}

/* Entries are what was sealed: but the key's holder may have written nonsense. */
static bool entries_are_valid(const struct checkpoint *c, uint64_t size)
{
        for (uint64_t i = 0; i < c->n_stripes; i++) {
                uint64_t offset = le64toh(c->entries[i].offset);
                uint32_t len = le32toh(c->entries[i].len);

                if (len > WIRE_STRIPE_BYTES || offset > size || len > size - offset)
                        return false;
        }
        return true;
}

/* Header and tail of a file for a guest of ram_bytes, of this version or of an earlier one. */
static int read_ends(
        int fd, uint64_t size, uint64_t ram_bytes, uint32_t *ret_version, struct tail_v1 *ret_tail)
{
        size_t index_len = wire_ram_stripes(ram_bytes) * sizeof(struct entry_v1);
        struct header_v1 header;
        int r;

        if (size < sizeof(header) + index_len + sizeof(*ret_tail))
                return -EBADMSG;
        r = read_at(fd, 0, &header, sizeof(header));
        if (r >= 0)
                r = read_at(fd, size - sizeof(*ret_tail), ret_tail, sizeof(*ret_tail));
        if (r < 0)
                return r;
        *ret_version = le32toh(header.version);
        if (memcmp(header.magic, MAGIC, sizeof(header.magic)) != 0 || *ret_version < 1 ||
                *ret_version > VERSION || le64toh(header.ram_bytes) != ram_bytes ||
                le64toh(ret_tail->index_offset) != size - sizeof(*ret_tail) - index_len)
                return -EBADMSG;
        return 0;
}

int checkpoint_open(int fd, uint64_t size, const uint8_t key[static AEAD_KEY_SIZE], uint64_t ram_bytes,
        struct checkpoint **ret_checkpoint)
{
        _cleanup_(checkpoint_freep) struct checkpoint *c = ALLOC(struct checkpoint);
        uint32_t version;
        struct tail_v1 tail;
        size_t len;
        int r;

        if (!c)
                return -ENOMEM;
        c->fd = fd;
        memcpy(c->key, key, sizeof(c->key));
        c->n_stripes = wire_ram_stripes(ram_bytes);
        len = c->n_stripes * sizeof(*c->entries);
        r = read_ends(fd, size, ram_bytes, &version, &tail);
        if (r < 0)
                return r;
        c->entries = alloc_array(c->n_stripes, sizeof(*c->entries));
        if (!c->entries)
                return -ENOMEM;
        r = read_at(fd, size - sizeof(tail) - len, c->entries, len);
        if (r >= 0)
                r = aead_open(c->key, INDEX_NUMBER, c->entries, len, c->entries, tail.tag);
        if (r >= 0 && !entries_are_valid(c, size))
                r = -EBADMSG;
        if (r < 0)
                return r;
        *ret_checkpoint = TAKE_PTR(c);
        return 0;
}

void checkpoint_free(struct checkpoint *c)
{
        if (!c)
                return;
        explicit_bzero(c->key, sizeof(c->key));
        free(c->entries);
        free(c);
}

bool checkpoint_has(const struct checkpoint *c, uint64_t stripe)
{
        return stripe < c->n_stripes && c->entries[stripe].len != 0;
}

int checkpoint_read(const struct checkpoint *c, struct codec *codec, uint64_t stripe, uint8_t *packed,
        uint8_t *ret_data, size_t len)
{
        const struct entry_v1 *entry = &c->entries[stripe];
        size_t stored;
        uint8_t *to;
        int r;

        if (!checkpoint_has(c, stripe))
                return -ENOENT;
        stored = le32toh(entry->len);
        to = stored == len ? ret_data : packed;
        r = read_at(c->fd, le64toh(entry->offset), to, stored);
        if (r >= 0)
                r = aead_open(c->key, stripe, to, stored, to, entry->tag);
        if (r < 0 || stored == len)
                return r;
        return codec_unpack(codec, WIRE_LZ4, packed, stored, ret_data, len) < 0 ? -EBADMSG : 0;
}

int checkpoint_digests_read(const struct checkpoint_digests *digests, uint64_t stripe,
        uint64_t ret_digests[static WIRE_STRIPE_PAGES])
{
        struct digests_v2 sealed;
        int r;

        if (stripe >= digests->n_stripes)
                return -ENOENT;
        r = read_at(digests->fd, digests->offset + stripe * sizeof(sealed), &sealed, sizeof(sealed));
        if (r >= 0)
                r = aead_open(
                        digests->key, stripe, sealed.pages, sizeof(sealed.pages), sealed.pages, sealed.tag);
        for (size_t i = 0; r >= 0 && i < WIRE_STRIPE_PAGES; i++)
                ret_digests[i] = le64toh(sealed.pages[i]);
        return r;
}

int checkpoint_digests_open(int fd, uint64_t size, const uint8_t comparison_key[static AEAD_KEY_SIZE],
        uint64_t ram_bytes, struct checkpoint_digests *ret_digests)
{
        uint64_t n = wire_ram_stripes(ram_bytes), index_offset, first[WIRE_STRIPE_PAGES];
        uint32_t version;
        struct tail_v1 tail;
        int r = read_ends(fd, size, ram_bytes, &version, &tail);

        if (r < 0)
                return r;
        if (version < 2)
                return -EOPNOTSUPP;
        index_offset = le64toh(tail.index_offset);
        if (index_offset < sizeof(struct header_v1) + n * sizeof(struct digests_v2))
                return -EBADMSG;
        *ret_digests = (struct checkpoint_digests){
                .fd = fd, .n_stripes = n, .offset = index_offset - n * sizeof(struct digests_v2)};
        memcpy(ret_digests->key, comparison_key, AEAD_KEY_SIZE);
        return checkpoint_digests_read(ret_digests, 0, first);
}

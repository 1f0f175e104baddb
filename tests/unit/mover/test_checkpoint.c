/* SPDX-License-Identifier: Apache-2.0 */

/* A guest's memory that is kept when it leaves, and used when it comes back. */

#include "mover_fixture.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/text.h"
#include "io/checkpoint_keys.h"
#include "io/sock.h"
#include "mover/checkpoint.h"
#include "mover/compare.h"

#define STRIPES 5
#define RAM_BYTES ((STRIPES - 1) * WIRE_STRIPE_BYTES + 3 * WIRE_PAGE_SIZE)
#define MARK "device state"

static const uint8_t key[AEAD_KEY_SIZE] = {1, 2, 3}, other_key[AEAD_KEY_SIZE] = {1, 2, 4};

struct kept {
        int fd;
        uint64_t size;
        uint8_t ram[RAM_BYTES];
};

static int temporary_file(void)
{
        int fd = memfd_create("file", MFD_CLOEXEC);

        assert_true(fd >= 0);
        return fd;
}

static uint64_t size_of(int fd)
{
        struct stat st;

        assert_int_equal(fstat(fd, &st), 0);
        return (uint64_t)st.st_size;
}

/* Stripe 1 is zero, 2 cannot be compressed, the last is short. */
static struct kept *keep(void)
{
        struct kept *kept = ALLOC(struct kept);
        struct ram ram = {.fd = temporary_file(), .bytes = RAM_BYTES};
        uint32_t random = 1;

        assert_non_null(kept);
        for (size_t i = 0; i < RAM_BYTES; i++) {
                random = random * 1664525 + 1013904223;
                kept->ram[i] = i / WIRE_STRIPE_BYTES == 1   ? 0
                               : i / WIRE_STRIPE_BYTES == 2 ? (uint8_t)(random >> 24)
                                                            : (uint8_t)(i / 100);
        }
        assert_int_equal(ram_write(&ram, 0, kept->ram, RAM_BYTES, NULL), 0);
        kept->fd = temporary_file();
        assert_int_equal(checkpoint_write(kept->fd, key, &ram, &kept->size, NULL), 0);
        assert_int_equal(kept->size, size_of(kept->fd));
        close(ram.fd);
        return kept;
}

static void drop(struct kept *kept)
{
        close(kept->fd);
        free(kept);
}

static size_t stripe_len(uint64_t stripe)
{
        return stripe == STRIPES - 1 ? 3 * WIRE_PAGE_SIZE : WIRE_STRIPE_BYTES;
}

/* Number of stripes that can be read; what is read is right. */
static unsigned int read_all(const struct kept *kept, const struct checkpoint *checkpoint)
{
        uint8_t *packed = alloc_zero(WIRE_STRIPE_BYTES), *data = alloc_zero(WIRE_STRIPE_BYTES);
        struct codec *codec;
        unsigned int n = 0;

        assert_int_equal(codec_new(true, &codec), 0);
        for (uint64_t i = 0; i < STRIPES; i++) {
                int r = checkpoint_read(checkpoint, codec, i, packed, data, stripe_len(i));

                assert_true(r == 0 || r == -EBADMSG || r == -ENOENT);
                assert_int_equal(r != -ENOENT, checkpoint_has(checkpoint, i));
                if (r != 0)
                        continue;
                assert_memory_equal(data, kept->ram + i * WIRE_STRIPE_BYTES, stripe_len(i));
                n++;
        }
        codec_free(codec);
        free(packed);
        free(data);
        return n;
}

static void test_kept_memory_can_be_read(void **state)
{
        struct kept *kept = keep();
        struct checkpoint *checkpoint;

        assert_int_equal(checkpoint_open(kept->fd, kept->size, key, RAM_BYTES, &checkpoint), 0);
        assert_false(checkpoint_has(checkpoint, 1));
        assert_int_equal(read_all(kept, checkpoint), STRIPES - 1);
        assert_true(kept->size < 2 * WIRE_STRIPE_BYTES); /* what can be is compressed */
        checkpoint_free(checkpoint);
        drop(kept);
}

static void test_file_holds_nothing_that_can_be_read_without_the_key(void **state)
{
        struct kept *kept = keep();
        uint8_t *file = mmap(NULL, kept->size, PROT_READ, MAP_SHARED, kept->fd, 0);
        struct checkpoint *checkpoint;

        assert_true(file != MAP_FAILED);
        for (uint64_t i = 0; i < STRIPES; i++)
                if (i != 1)
                        assert_null(memmem(file, kept->size, kept->ram + i * WIRE_STRIPE_BYTES, 64));
        assert_int_equal(checkpoint_open(kept->fd, kept->size, other_key, RAM_BYTES, &checkpoint), -EBADMSG);
        munmap(file, kept->size);
        drop(kept);
}

static void test_checkpoint_of_another_size_is_none(void **state)
{
        struct kept *kept = keep();
        struct checkpoint *checkpoint;

        for (int i = -1; i < 3; i++)
                if (i != 0)
                        assert_int_equal(
                                checkpoint_open(kept->fd, kept->size, key,
                                        (uint64_t)((int64_t)RAM_BYTES + i * WIRE_PAGE_SIZE), &checkpoint),
                                -EBADMSG);
        drop(kept);
}

/* Whichever byte is changed, whatever is still read is right. */
static void test_changed_file_is_noticed(void **state)
{
        struct kept *kept = keep();

        for (uint64_t at = 0; at < kept->size; at += at < 64 || at > kept->size - 300 ? 1 : 4099) {
                struct checkpoint *checkpoint;
                uint8_t byte;
                int r;

                assert_int_equal(pread(kept->fd, &byte, 1, (off_t)at), 1);
                byte ^= 0x10;
                assert_int_equal(pwrite(kept->fd, &byte, 1, (off_t)at), 1);
                r = checkpoint_open(kept->fd, kept->size, key, RAM_BYTES, &checkpoint);
                if (r == 0) {
                        assert_true(read_all(kept, checkpoint) >= STRIPES - 2);
                        checkpoint_free(checkpoint);
                }
                byte ^= 0x10;
                assert_int_equal(pwrite(kept->fd, &byte, 1, (off_t)at), 1);
        }
        drop(kept);
}

static void test_cut_file_is_noticed(void **state)
{
        struct kept *kept = keep();
        struct checkpoint *checkpoint;

        for (uint64_t size = 0; size < kept->size; size += 997)
                assert_int_equal(checkpoint_open(kept->fd, size, key, RAM_BYTES, &checkpoint), -EBADMSG);
        drop(kept);
}

static json_int_t source_stat(const struct fixture *f, const char *name)
{
        return json_integer_value(json_object_get(f->source.stats, name));
}

static void stream_all(struct fixture *f)
{
        fixture_stream_start(f);
        fixture_stream_pages(f, 0, fixture_pages(f), true);
        fixture_stream_device(f, MARK, sizeof(MARK));
}

/* A guest that leaves; returns the checkpoint. */
static int leave(void)
{
        int fd = temporary_file();
        struct fixture *f = fixture_new(&(struct fixture_options){.keep_fd = fd});

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_fill(f, 0, fixture_pages(f), 1);
        stream_all(f);
        fixture_finish(f);
        fixture_free(f);
        assert_true(size_of(fd) > 0);
        return fd;
}

/* It comes back with some pages changed, some become zero, some no longer zero. */
static json_int_t come_back(const struct fixture_options *options)
{
        struct fixture *f = fixture_new(options);
        uint64_t n = fixture_pages(f);
        json_int_t recalled;

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_fill(f, 0, n, 1);
        fixture_fill(f, 300, 20, 2);
        memset(f->source_ram + 700 * WIRE_PAGE_SIZE, 0, 20 * WIRE_PAGE_SIZE);
        memset(f->source_ram + 900 * WIRE_PAGE_SIZE, 7, 20 * WIRE_PAGE_SIZE);
        f->source_ram[1500 * WIRE_PAGE_SIZE + 9] ^= 1;
        stream_all(f);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        recalled = source_stat(f, "bytes_recalled");
        assert_true(recalled <= source_stat(f, "bytes_duplicate"));
        fixture_free(f);
        return recalled / WIRE_PAGE_SIZE;
}

static void test_returning_guest_sends_what_changed(void **state)
{
        int fd = leave();
        json_int_t n_held = FIXTURE_PAGES * 2 / 3; /* the rest is zero */

        for (unsigned int n_channels = 1; n_channels <= 16; n_channels *= 4) {
                json_int_t recalled =
                        come_back(&(struct fixture_options){.held_fd = fd, .n_channels = n_channels});

                assert_in_range(recalled, n_held - 70, n_held);
        }
        close(fd);
}

static void test_returning_guest_is_verified(void **state)
{
        int fd = leave();

        assert_true(come_back(&(struct fixture_options){.held_fd = fd, .verify = true}) > 1000);
        close(fd);
}

static void test_damaged_checkpoint_only_costs_time(void **state)
{
        int fd = leave();
        uint64_t size = size_of(fd);
        json_int_t recalled;

        assert_int_equal(pwrite(fd, "damage", 6, (off_t)size / 2), 6);
        recalled = come_back(&(struct fixture_options){.held_fd = fd});
        assert_in_range(recalled, 1000, FIXTURE_PAGES * 2 / 3 - 40); /* a stripe is missing */
        assert_int_equal(pwrite(fd, "damage", 6, (off_t)size - 6), 6);
        assert_int_equal(come_back(&(struct fixture_options){.held_fd = fd}), 0);
        assert_int_equal(ftruncate(fd, 0), 0);
        assert_int_equal(come_back(&(struct fixture_options){.held_fd = fd}), 0);
        close(fd);
}

static void test_recall_of_what_is_not_the_channels_is_refused(void **state)
{
        static const struct {
                uint64_t first;
                uint32_t n;
        } bad[] = {{FIXTURE_PAGES, 1}, {UINT64_MAX, 1}, {FIXTURE_PAGES - 1, 2}, {WIRE_STRIPE_PAGES, 1},
                {WIRE_STRIPE_PAGES - 1, 2}, {0, 0}, {0, UINT32_MAX}};
        int fd = leave();

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct fixture *f = fixture_new(&(struct fixture_options){.no_source = true, .held_fd = fd});
                struct tls_stream *stream = fixture_connect(f);
                struct wire_hello_v1 hello = fixture_hello();
                struct wire_run_v1 run = {.first_page = htole64(bad[i].first), .n_pages = htole32(bad[i].n)};

                fixture_frame(stream, WIRE_HELLO, &hello, sizeof(hello));
                fixture_frame(stream, WIRE_RECALL, &run, sizeof(run));
                fixture_wait_failed(&f->sink, "code", "protocol");
                tls_stream_free(stream);
                fixture_free(f);
        }
        close(fd);
}

/* What `drover-mover compare` answers, with the comparison key of a checkpoint's; the caller's. `digests` is taken over. */
static json_t *compare(const struct kept *kept, const uint8_t *with_key, json_t *digests)
{
        char hex[2 * AEAD_KEY_SIZE + 1], answer[1024];
        uint8_t comparison_key[AEAD_KEY_SIZE];
        json_t *op, *event;
        int fds[2];
        char *text;
        ssize_t n;

        assert_int_equal(checkpoint_comparison_key(with_key, comparison_key), 0);
        text_hex_encode(comparison_key, AEAD_KEY_SIZE, hex);
        op = json_pack("{s:s, s:s, s:i, s:o}", "op", "compare", "comparison_key", hex, "ram_bytes",
                (int)RAM_BYTES, "digests", digests);
        text = json_dumps(op, 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(sock_send_fds(fds[0], text, strlen(text), &kept->fd, 1), 0);
        (void)compare_run(fds[1], false);
        n = recv(fds[0], answer, sizeof(answer), 0);
        assert_true(n > 0);
        event = json_loadb(answer, (size_t)n, 0, NULL);
        assert_non_null(event);
        free(text);
        json_decref(op);
        close(fds[0]);
        close(fds[1]);
        return event;
}

static void test_comparison_counts_pages_that_are_still_the_same(void **state)
{
        struct compared_pages *pages = ALLOC(struct compared_pages);
        struct kept *kept = keep();
        json_t *event;

        assert_non_null(pages);
        assert_int_equal(checkpoint_page_key(key, pages->key), 0);
        compared_pages_add(pages, 0, kept->ram);                     /* as it was */
        compared_pages_add(pages, 64, kept->ram);                    /* zero there, something here */
        memset(kept->ram + 128 * WIRE_PAGE_SIZE, 0, WIRE_PAGE_SIZE); /* zero now: not sent, not counted */
        kept->ram[129 * WIRE_PAGE_SIZE] ^= 1;
        compared_pages_add(pages, 128, kept->ram + 128 * WIRE_PAGE_SIZE);
        event = compare(kept, key, compared_pages_to_json(pages));
        assert_string_equal(json_string_value(json_object_get(event, "event")), "compared");
        assert_int_equal(json_integer_value(json_object_get(event, "pages")), 23);
        assert_int_equal(json_integer_value(json_object_get(event, "equal")), 14);
        json_decref(event);
        free(pages);
        drop(kept);
}

static void test_comparison_with_what_it_cannot_read_or_understand_fails(void **state)
{
        static const char *const bad[] = {"{}", "{'runs': [], 'pages': 'ab'}", "{'runs': [4], 'pages': %P}",
                "{'runs': [264], 'pages': %P}", "{'runs': [-8], 'pages': %P}",
                "{'runs': [8, 8], 'pages': %PP}", "{'runs': [16, 8], 'pages': %PP}",
                "{'runs': [0], 'pages': 'ab'}", "{'runs': [0], 'pages': %P, 'more': 1}"};
        struct compared_pages *pages = ALLOC(struct compared_pages);
        struct kept *kept = keep();
        json_t *good, *event;

        assert_non_null(pages);
        compared_pages_add(pages, 0, kept->ram);
        good = compared_pages_to_json(pages);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                char *text = strdup(bad[i]), *at;
                json_t *digests;

                while ((at = strchr(text, '\'')))
                        *at = '"';
                while ((at = strchr(text, '%'))) {
                        const char *value = json_string_value(json_object_get(good, "pages"));
                        bool twice = at[1] == 'P' && at[2] == 'P';
                        char *longer = alloc_printf("%.*s\"%s%s\"%s", (int)(at - text), text, value,
                                twice ? value : "", at + 2 + twice);

                        free(text);
                        text = longer;
                }
                digests = json_loads(text, 0, NULL);
                assert_non_null(digests);
                event = compare(kept, key, digests);
                assert_string_equal(json_string_value(json_object_get(event, "code")), "bad-document");
                json_decref(event);
                free(text);
        }
        event = compare(kept, other_key, json_incref(good));
        assert_string_equal(json_string_value(json_object_get(event, "event")), "failed");
        json_decref(event);
        json_decref(good);
        free(pages);
        drop(kept);
}

/* What a forecast hands out opens neither the memory nor the index, and makes no digest. */
static void test_comparison_key_opens_digests_only(void **state)
{
        uint8_t comparison_key[AEAD_KEY_SIZE], page_key[AEAD_KEY_SIZE], other[AEAD_KEY_SIZE];
        uint64_t digests[WIRE_STRIPE_PAGES];
        struct kept *kept = keep();
        struct checkpoint *checkpoint;
        struct checkpoint_digests opened;

        assert_int_equal(checkpoint_comparison_key(key, comparison_key), 0);
        assert_int_equal(checkpoint_page_key(key, page_key), 0);
        assert_memory_not_equal(comparison_key, key, AEAD_KEY_SIZE);
        assert_memory_not_equal(comparison_key, page_key, AEAD_KEY_SIZE);
        assert_int_equal(
                checkpoint_open(kept->fd, kept->size, comparison_key, RAM_BYTES, &checkpoint), -EBADMSG);
        assert_int_equal(checkpoint_open(kept->fd, kept->size, page_key, RAM_BYTES, &checkpoint), -EBADMSG);
        assert_int_equal(checkpoint_digests_open(kept->fd, kept->size, key, RAM_BYTES, &opened), -EBADMSG);
        assert_int_equal(
                checkpoint_digests_open(kept->fd, kept->size, page_key, RAM_BYTES, &opened), -EBADMSG);
        assert_int_equal(checkpoint_comparison_key(other_key, other), 0);
        assert_int_equal(checkpoint_digests_open(kept->fd, kept->size, other, RAM_BYTES, &opened), -EBADMSG);
        assert_int_equal(
                checkpoint_digests_open(kept->fd, kept->size, comparison_key, RAM_BYTES, &opened), 0);
        assert_int_equal(checkpoint_digests_read(&opened, 0, digests), 0);
        for (size_t i = 0; i < WIRE_STRIPE_PAGES; i++) {
                const uint8_t *page = kept->ram + i * WIRE_PAGE_SIZE;

                assert_true(digests[i] == checkpoint_page_digest(page_key, i, page, WIRE_PAGE_SIZE));
                assert_true(digests[i] != checkpoint_page_digest(comparison_key, i, page, WIRE_PAGE_SIZE));
                assert_true(digests[i] != checkpoint_page_digest(page_key, i + 1, page, WIRE_PAGE_SIZE));
        }
        assert_int_equal(checkpoint_digests_read(&opened, 1, digests), 0);
        for (size_t i = 0; i < WIRE_STRIPE_PAGES; i++)
                assert_true(digests[i] == 0);
        assert_int_equal(checkpoint_digests_read(&opened, STRIPES, digests), -ENOENT);
        drop(kept);
}

/* Whose digests are of another checkpoint's key has nothing in common with what is kept. */
static void test_digests_for_one_host_serve_no_other(void **state)
{
        struct compared_pages *pages = ALLOC(struct compared_pages);
        struct kept *kept = keep();
        json_t *event;

        assert_non_null(pages);
        assert_int_equal(checkpoint_page_key(other_key, pages->key), 0);
        compared_pages_add(pages, 0, kept->ram);
        event = compare(kept, key, compared_pages_to_json(pages));
        assert_int_equal(json_integer_value(json_object_get(event, "pages")), COMPARE_RUN_PAGES);
        assert_int_equal(json_integer_value(json_object_get(event, "equal")), 0);
        json_decref(event);
        free(pages);
        drop(kept);
}

/* A file of version 1 lacks the digests; what else there is, is the same. */
static void test_file_of_version_1_serves_migrations_and_no_forecast(void **state)
{
        struct compared_pages *pages = ALLOC(struct compared_pages);
        struct kept *kept = keep();
        struct checkpoint *checkpoint;
        json_t *event;

        assert_non_null(pages);
        assert_int_equal(pwrite(kept->fd, &(uint8_t){1}, 1, 8), 1);
        assert_int_equal(checkpoint_open(kept->fd, kept->size, key, RAM_BYTES, &checkpoint), 0);
        assert_int_equal(read_all(kept, checkpoint), STRIPES - 1);
        checkpoint_free(checkpoint);
        event = compare(kept, key, compared_pages_to_json(pages));
        assert_string_equal(json_string_value(json_object_get(event, "event")), "failed");
        json_decref(event);
        free(pages);
        assert_int_equal(pwrite(kept->fd, &(uint8_t){3}, 1, 8), 1);
        assert_int_equal(checkpoint_open(kept->fd, kept->size, key, RAM_BYTES, &checkpoint), -EBADMSG);
        drop(kept);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_kept_memory_can_be_read),
                cmocka_unit_test(test_file_holds_nothing_that_can_be_read_without_the_key),
                cmocka_unit_test(test_checkpoint_of_another_size_is_none),
                cmocka_unit_test(test_changed_file_is_noticed),
                cmocka_unit_test(test_cut_file_is_noticed),
                cmocka_unit_test(test_returning_guest_sends_what_changed),
                cmocka_unit_test(test_returning_guest_is_verified),
                cmocka_unit_test(test_damaged_checkpoint_only_costs_time),
                cmocka_unit_test(test_recall_of_what_is_not_the_channels_is_refused),
                cmocka_unit_test(test_comparison_counts_pages_that_are_still_the_same),
                cmocka_unit_test(test_comparison_with_what_it_cannot_read_or_understand_fails),
                cmocka_unit_test(test_comparison_key_opens_digests_only),
                cmocka_unit_test(test_digests_for_one_host_serve_no_other),
                cmocka_unit_test(test_file_of_version_1_serves_migrations_and_no_forecast),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Guests that share what they have in common; what the others should have sent may be missing. */

#include "mover_fixture.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "mover/page_claims.h"
#include "mover/page_store.h"

#define MARK "device state"
#define PASSES 4
#define PAGES_WITH_CONTENT (FIXTURE_PAGES * 2 / 3)

static const uint8_t key[CONTENT_KEY_SIZE] = {7};

static int shared_file(uint64_t size)
{
        int fd = memfd_create("shared", MFD_CLOEXEC);

        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        return fd;
}

struct shared {
        int claims, store;
};

static struct shared share(uint64_t n_pages)
{
        return (struct shared){shared_file(PAGE_CLAIMS_BYTES), shared_file(page_store_size(n_pages))};
}

static void share_end(struct shared *shared)
{
        close(shared->claims);
        close(shared->store);
}

static void make_page(uint32_t number, uint8_t *page)
{
        for (size_t i = 0; i < WIRE_PAGE_SIZE; i++)
                page[i] = (uint8_t)(number + i * (number % 13 + 1));
        memcpy(page, &number, sizeof(number));
}

static void test_store_is_a_ring(void **state)
{
        enum { SLOTS = 100, PAGES = 250 };
        int fd = shared_file(page_store_size(SLOTS));
        struct content_digester *digester;
        struct page_store *store, *other;
        uint8_t page[WIRE_PAGE_SIZE], found[WIRE_PAGE_SIZE], digest[CONTENT_DIGEST_SIZE];
        unsigned int n_found = 0;

        assert_int_equal(content_digester_new(key, &digester), 0);
        assert_int_equal(page_store_open(fd, page_store_size(SLOTS), &store), 0);
        assert_int_equal(page_store_open(fd, page_store_size(SLOTS), &other), 0);
        for (uint32_t i = 0; i < PAGES; i++) {
                make_page(i, page);
                assert_int_equal(content_digest(digester, page, sizeof(page), digest), 0);
                page_store_add(store, digest, page);
                page_store_add(store, digest, page); /* takes no more room */
        }
        for (uint32_t i = 0; i < PAGES; i++) {
                bool there;

                make_page(i, page);
                assert_int_equal(content_digest(digester, page, sizeof(page), digest), 0);
                there = page_store_find(other, digester, digest, found);
                if (i < PAGES - SLOTS)
                        assert_false(there);
                if (there)
                        assert_memory_equal(found, page, sizeof(page));
                n_found += there;
        }
        assert_in_range(n_found, SLOTS * 9 / 10, SLOTS); /* some fall out of a full bucket */
        page_store_close(store);
        page_store_close(other);
        content_digester_free(digester);
        close(fd);
}

static void test_content_that_was_made_up_is_not_found(void **state)
{
        uint64_t size = page_store_size(8);
        int fd = shared_file(size);
        struct content_digester *digester;
        struct page_store *store;
        uint8_t page[WIRE_PAGE_SIZE], digest[CONTENT_DIGEST_SIZE];

        assert_int_equal(content_digester_new(key, &digester), 0);
        assert_int_equal(page_store_open(fd, size, &store), 0);
        make_page(1, page);
        assert_int_equal(content_digest(digester, page, sizeof(page), digest), 0);
        page[100] ^= 1;
        page_store_add(store, digest, page);
        assert_false(page_store_find(store, digester, digest, page));
        /* Nor does rubbish in all of the memory lead anywhere. */
        for (uint64_t at = 0; at < size; at += 64) {
                uint8_t rubbish[64];

                memset(rubbish, (int)(at % 251 + 1), sizeof(rubbish));
                assert_true(pwrite(fd, rubbish, MIN(sizeof(rubbish), size - at), (off_t)at) > 0);
        }
        assert_false(page_store_find(store, digester, digest, page));
        page_store_add(store, digest, page);
        page_store_close(store);
        content_digester_free(digester);
        close(fd);
}

static void test_store_too_small_is_refused(void **state)
{
        int fd = shared_file(100);
        struct page_store *store;

        assert_int_equal(page_store_open(fd, 100, &store), -EINVAL);
        close(fd);
}

static void test_content_is_claimed_once(void **state)
{
        int fd = shared_file(PAGE_CLAIMS_BYTES);
        struct page_claims *one, *other;
        uint8_t digest[CONTENT_DIGEST_SIZE] = {1, 2, 3};

        assert_int_equal(page_claims_open(fd, &one), 0);
        assert_int_equal(page_claims_open(fd, &other), 0);
        for (uint32_t i = 0; i < 5000; i++) {
                memcpy(digest, &i, sizeof(i));
                memcpy(digest + 8, &i, sizeof(i));
                digest[12] = 1;
                assert_true(page_claims_take(i % 2 ? one : other, digest));
                assert_false(page_claims_take(one, digest));
                assert_false(page_claims_take(other, digest));
        }
        page_claims_close(one);
        page_claims_close(other);
        close(fd);
}

static uint32_t next_random(uint32_t *state)
{
        *state = *state * 1664525 + 1013904223;
        return *state >> 8;
}

static void *stream_passes(void *userdata)
{
        struct fixture *f = userdata;
        uint64_t n = fixture_pages(f);
        uint32_t random = 5;

        fixture_fill(f, 0, n, 1);
        fixture_stream_start(f);
        for (unsigned int pass = 0; pass < PASSES; pass++) {
                for (uint64_t page = 0; pass > 0 && page < n; page++) {
                        uint8_t *data = f->source_ram + page * WIRE_PAGE_SIZE;
                        uint32_t r = next_random(&random);

                        if (r % 3 == 0)
                                data[r / 8 % WIRE_PAGE_SIZE] ^= 0x5a;
                        else if (r % 11 == 0)
                                memset(data, (int)(r / 64 % 4), WIRE_PAGE_SIZE);
                        else if (r % 13 == 0)
                                memcpy(data, f->source_ram + r % n * WIRE_PAGE_SIZE, WIRE_PAGE_SIZE);
                }
                fixture_stream_pages(f, 0, n, pass == PASSES - 1);
        }
        fixture_stream_device(f, MARK, sizeof(MARK));
        return NULL;
}

static json_int_t source_stat(const struct fixture *f, const char *name)
{
        return json_integer_value(json_object_get(f->source.stats, name));
}

static json_int_t finish(struct fixture *f)
{
        json_int_t shared;

        fixture_finish(f);
        fixture_assert_ram_equal(f);
        shared = source_stat(f, "bytes_shared") / WIRE_PAGE_SIZE;
        fixture_free(f);
        return shared;
}

/* How many of its pages went as what another guest had sent. */
static json_int_t move(const struct shared *shared, unsigned int n_channels, bool verify)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.claims_fd = shared->claims,
                .store_fd = shared->store,
                .n_channels = n_channels,
                .verify = verify});

        json_decref(fixture_wait(&f->source, "ready"));
        (void)stream_passes(f);
        return finish(f);
}

static void test_guests_in_turn_share(void **state)
{
        for (unsigned int n_channels = 1; n_channels <= 4; n_channels++) {
                struct shared shared = share(FIXTURE_PAGES * 2);
                json_int_t first = move(&shared, n_channels, false);

                assert_in_range(first, 0,
                        PAGES_WITH_CONTENT / 2); /* what it has several times itself, on other channels */
                assert_in_range(move(&shared, 5 - n_channels, false), PAGES_WITH_CONTENT / 2, FIXTURE_PAGES);
                assert_in_range(move(&shared, n_channels, true), PAGES_WITH_CONTENT / 2, FIXTURE_PAGES);
                share_end(&shared);
        }
}

static void test_guests_at_once_share(void **state)
{
        enum { GUESTS = 4 };
        struct shared shared = share(FIXTURE_PAGES * 2);
        struct fixture *guests[GUESTS];
        pthread_t streamers[GUESTS];
        json_int_t n_shared = 0;

        for (unsigned int i = 0; i < GUESTS; i++) {
                guests[i] = fixture_new(&(struct fixture_options){.claims_fd = shared.claims,
                        .store_fd = shared.store,
                        .n_channels = 3,
                        .verify = i % 2});
                json_decref(fixture_wait(&guests[i]->source, "ready"));
        }
        for (unsigned int i = 0; i < GUESTS; i++)
                assert_int_equal(pthread_create(&streamers[i], NULL, stream_passes, guests[i]), 0);
        for (unsigned int i = 0; i < GUESTS; i++)
                pthread_join(streamers[i], NULL);
        for (unsigned int i = 0; i < GUESTS; i++)
                n_shared += finish(guests[i]);
        assert_true(n_shared > (GUESTS - 1) * PAGES_WITH_CONTENT / 2);
        share_end(&shared);
}

/* The other guest's migration failed, or the destination's agent has begun anew. */
static void test_what_never_came_is_sent(void **state)
{
        for (unsigned int n_channels = 1; n_channels <= 3; n_channels += 2) {
                struct shared shared = share(FIXTURE_PAGES * 2);

                (void)move(&shared, 2, false);
                close(shared.store);
                shared.store = shared_file(page_store_size(FIXTURE_PAGES));
                assert_true(move(&shared, n_channels, n_channels == 3) > 0);
                share_end(&shared);
        }
}

static void test_store_may_be_much_too_small(void **state)
{
        struct shared shared = share(64);

        (void)move(&shared, 2, false);
        assert_true(move(&shared, 2, false) > 0);
        assert_true(move(&shared, 3, true) > 0);
        share_end(&shared);
}

/* Half of what it refers to is missing, while its connections end. */
static void test_lost_connections_lose_no_shared_page(void **state)
{
        for (unsigned int round = 0; round < 3; round++) {
                struct shared shared = share(PAGES_WITH_CONTENT / 2);
                struct fixture *f;
                uint32_t random = round;
                pthread_t streamer;

                (void)move(&shared, 2, false);
                f = fixture_new(&(struct fixture_options){.claims_fd = shared.claims,
                        .store_fd = shared.store,
                        .n_channels = 2,
                        .codec = "none",
                        .rate_limit_bps = 64 * 1000 * 1000,
                        .verify = round == 2});
                json_decref(fixture_wait(&f->source, "ready"));
                assert_int_equal(pthread_create(&streamer, NULL, stream_passes, f), 0);
                for (unsigned int i = 0; i < 6; i++) {
                        nanosleep(&(struct timespec){.tv_nsec = next_random(&random) % 120 * 1000000}, NULL);
                        fixture_cut(f, i % 2);
                        fixture_reconnect(f, i % 2, true);
                }
                pthread_join(streamer, NULL);
                (void)finish(f);
                share_end(&shared);
        }
}

/* The sink says again what was missing when a connection is replaced; behind the barrier it must not be sent any more. */
static void test_nothing_is_sent_again_behind_the_barrier(void **state)
{
        for (unsigned int channel = 0; channel < 2; channel++) {
                struct shared shared = share(FIXTURE_PAGES * 2);
                struct fixture *f;

                (void)move(&shared, 2, false);
                close(shared.store);
                shared.store = shared_file(page_store_size(FIXTURE_PAGES));
                f = fixture_new(&(struct fixture_options){
                        .claims_fd = shared.claims, .store_fd = shared.store, .n_channels = 2});
                json_decref(fixture_wait(&f->source, "ready"));
                (void)stream_passes(f);
                json_decref(fixture_wait(&f->source, "device-state"));
                fixture_cut(f, channel);
                fixture_reconnect(f, channel, true);
                assert_true(finish(f) > 0);
                share_end(&shared);
        }
}

static void test_siblings_that_are_not_the_channels_are_refused(void **state)
{
        static const uint64_t bad[] = {FIXTURE_PAGES, UINT64_MAX, WIRE_STRIPE_PAGES};
        struct shared shared = share(64);

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct fixture *f =
                        fixture_new(&(struct fixture_options){.no_source = true, .store_fd = shared.store});
                struct tls_stream *stream = fixture_connect(f);
                struct wire_hello_v1 hello = fixture_hello();
                struct wire_sibling_v1 sibling = {.page = htole64(bad[i])};

                fixture_frame(stream, WIRE_HELLO, &hello, sizeof(hello));
                fixture_frame(stream, WIRE_SIBLINGS, &sibling, sizeof(sibling));
                fixture_wait_failed(&f->sink, "code", "protocol");
                tls_stream_free(stream);
                fixture_free(f);
        }
        share_end(&shared);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_store_is_a_ring),
                cmocka_unit_test(test_content_that_was_made_up_is_not_found),
                cmocka_unit_test(test_store_too_small_is_refused),
                cmocka_unit_test(test_content_is_claimed_once),
                cmocka_unit_test(test_guests_in_turn_share),
                cmocka_unit_test(test_guests_at_once_share),
                cmocka_unit_test(test_what_never_came_is_sent),
                cmocka_unit_test(test_store_may_be_much_too_small),
                cmocka_unit_test(test_lost_connections_lose_no_shared_page),
                cmocka_unit_test(test_nothing_is_sent_again_behind_the_barrier),
                cmocka_unit_test(test_siblings_that_are_not_the_channels_are_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

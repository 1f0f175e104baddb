/* SPDX-License-Identifier: Apache-2.0 */

/* A sink whose peer holds the right certificate and misbehaves, and strangers who do not hold it. */

#include "mover_fixture.h"

#include <netinet/in.h>
#include <string.h>

#include "io/pki.h"

#define RAM_PAGES FIXTURE_PAGES

static struct fixture *sink_only(void)
{
        return fixture_new(&(struct fixture_options){.no_source = true});
}

static void assert_hello_refused(const struct wire_hello_v1 *hello)
{
        struct fixture *f = sink_only();
        struct tls_stream *stream = fixture_connect(f);

        fixture_frame(stream, WIRE_HELLO, hello, sizeof(*hello));
        fixture_wait_failed(&f->sink, "code", "protocol");
        tls_stream_free(stream);
        fixture_free(f);
}

/* Says a proper HELLO as channel 0 of 2, then sends one bad frame. */
static void assert_frame_refused(enum wire_frame type, const void *payload, size_t len)
{
        struct fixture *f = sink_only();
        struct tls_stream *stream = fixture_connect(f);
        struct wire_hello_v1 hello = fixture_hello();

        fixture_frame(stream, WIRE_HELLO, &hello, sizeof(hello));
        fixture_frame(stream, type, payload, len);
        fixture_wait_failed(&f->sink, "code", "protocol");
        assert_int_equal(fixture_join(&f->sink), 1);
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_hello_of_a_newer_incompatible_version_is_refused(void **state)
{
        struct wire_hello_v1 hello = fixture_hello();

        hello.compatible = htole16(WIRE_VERSION + 1);
        assert_hello_refused(&hello);
}

static void test_hello_for_another_migration_is_refused(void **state)
{
        struct wire_hello_v1 hello = fixture_hello();

        hello.migration[0] = 'f';
        assert_hello_refused(&hello);
}

static void test_hello_with_another_memory_size_is_refused(void **state)
{
        struct wire_hello_v1 hello = fixture_hello();

        hello.ram_bytes = htole64(WIRE_PAGE_SIZE);
        assert_hello_refused(&hello);
}

static void test_hello_with_too_many_channels_is_refused(void **state)
{
        struct wire_hello_v1 hello = fixture_hello();

        hello.n_channels = htole16(WIRE_MAX_CHANNELS + 1);
        assert_hello_refused(&hello);
}

static void test_channel_that_comes_twice_is_refused(void **state)
{
        struct fixture *f = sink_only();
        struct tls_stream *first = fixture_connect(f), *second = fixture_connect(f);
        struct wire_hello_v1 hello = fixture_hello();

        hello.features &= htole32(~WIRE_FEATURE_RESUME); /* with it, the second takes the first one's place */
        fixture_frame(first, WIRE_HELLO, &hello, sizeof(hello));
        fixture_frame(second, WIRE_HELLO, &hello, sizeof(hello));
        fixture_wait_failed(&f->sink, "message", "contradict");
        tls_stream_free(first);
        tls_stream_free(second);
        fixture_free(f);
}

struct pages {
        struct wire_pages_v1 head;
        wire_le64 entry;
        uint8_t block[WIRE_BLOCK_SIZE];
} __attribute__((packed));

static struct pages one_block(uint64_t page)
{
        return (struct pages){.head = {.n_pages = htole32(1), .raw_len = htole32(8 + WIRE_BLOCK_SIZE)},
                .entry = htole64(page << 16 | 1)};
}

static void test_page_outside_of_memory_is_refused(void **state)
{
        struct pages pages = one_block(RAM_PAGES / 128 * 128 + 128 * 100);

        assert_frame_refused(WIRE_PAGES, &pages, sizeof(pages));
}

static void test_page_of_another_channel_is_refused(void **state)
{
        struct pages pages = one_block(WIRE_STRIPE_PAGES);

        assert_frame_refused(WIRE_PAGES, &pages, sizeof(pages));
}

static void test_pages_whose_lengths_do_not_add_up_are_refused(void **state)
{
        struct pages pages = one_block(0);

        pages.entry = htole64(3); /* two blocks announced, one sent */
        assert_frame_refused(WIRE_PAGES, &pages, sizeof(pages));
}

static void test_garbage_instead_of_packed_pages_is_refused(void **state)
{
        for (uint8_t packing = WIRE_LZ4; packing <= N_WIRE_PACKINGS; packing++) {
                struct pages pages = one_block(0);

                pages.head.packing = packing;
                assert_frame_refused(WIRE_PAGES, &pages, sizeof(pages));
        }
}

static void test_zero_run_beyond_memory_is_refused(void **state)
{
        struct wire_run_v1 run = {.first_page = htole64(0), .n_pages = htole32(UINT32_MAX)};

        assert_frame_refused(WIRE_ZERO, &run, sizeof(run));
}

static void test_reference_to_a_page_that_is_not_the_channels_is_refused(void **state)
{
        const uint64_t others[] = {0 /* itself */, WIRE_STRIPE_PAGES, RAM_PAGES, UINT64_MAX};

        for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
                struct wire_reference_v1 to = {.page = htole64(0), .from = htole64(others[i])};
                struct wire_reference_v1 of = {.page = htole64(others[i]), .from = htole64(0)};

                assert_frame_refused(WIRE_REFERENCES, &to, sizeof(to));
                assert_frame_refused(WIRE_REFERENCES, &of, sizeof(of));
        }
}

static void test_siblings_without_a_store_are_refused(void **state)
{
        struct wire_sibling_v1 sibling = {.page = htole64(3)};

        assert_frame_refused(WIRE_SIBLINGS, &sibling, sizeof(sibling));
}

static void test_recall_without_a_checkpoint_is_refused(void **state)
{
        struct wire_run_v1 run = {.first_page = htole64(3), .n_pages = htole32(1)};

        assert_frame_refused(WIRE_RECALL, &run, sizeof(run));
}

static void test_device_state_before_the_barrier_is_refused(void **state)
{
        struct __attribute__((packed)) {
                struct wire_bytes_v1 head;
                char byte;
        } device = {.head = {.raw_len = htole32(1)}};

        assert_frame_refused(WIRE_DEVICE, &device, sizeof(device));
}

static void test_commit_before_the_barrier_is_refused(void **state)
{
        assert_frame_refused(WIRE_COMMIT, "", 0);
}

static void test_handed_off_twice_is_refused(void **state)
{
        struct fixture *f = sink_only();
        struct tls_stream *stream = fixture_connect(f);
        struct wire_hello_v1 hello = fixture_hello();

        fixture_frame(stream, WIRE_HELLO, &hello, sizeof(hello));
        fixture_frame(stream, WIRE_HANDED_OFF, "", 0);
        fixture_frame(stream, WIRE_HANDED_OFF, "", 0);
        fixture_wait_failed(&f->sink, "message", "HANDED_OFF");
        assert_int_equal(fixture_join(&f->sink), 1);
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_hashes_of_stripes_that_do_not_exist_are_refused(void **state)
{
        struct wire_verify_v1 verify = {
                .kind = htole32(WIRE_VERIFY_STRIPES), .n_stripes = htole32(1), .first = htole64(UINT64_MAX)};

        assert_frame_refused(WIRE_VERIFY, &verify, sizeof(verify));
}

static void test_frame_that_only_a_sink_may_send_is_refused(void **state)
{
        assert_frame_refused(WIRE_DELIVERED, "", 0);
}

static void test_frame_with_a_wrong_length_is_refused(void **state)
{
        assert_frame_refused(WIRE_BARRIER, "", 0);
}

static void test_strangers_do_not_disturb_the_migration(void **state)
{
        struct fixture *f = sink_only();
        struct tls_stream *stream;
        struct wire_hello_v1 hello = fixture_hello();
        struct wire_header_v1 header;

        for (int i = 0; i < 5; i++) {
                int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

                assert_int_equal(
                        connect(fd, (struct sockaddr *)&f->sink_address, sizeof(struct sockaddr_in)), 0);
                assert_true(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) == 18);
                close(fd);
        }
        stream = fixture_connect(f);
        fixture_frame(stream, WIRE_HELLO, &hello, sizeof(hello));
        assert_int_equal(tls_stream_read(stream, &header, sizeof(header)), 0);
        assert_int_equal(header.type, WIRE_HELLO_REPLY);
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_source_with_another_certificate_is_no_source(void **state)
{
        static const char other[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        struct fixture *f = fixture_new(&(struct fixture_options){.wrong_pin = other});

        fixture_wait_failed(&f->source, "code", "unauthenticated");
        fixture_free(f);
}

/* Both were started for this migration, by agents that were given other specifications, or one of them none. */
static void test_movers_of_two_specifications_do_not_talk(void **state)
{
        static const char one[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        static const char two[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdee";
        static const char *const given[][2] = {{one, two}, {one, NULL}};

        for (size_t i = 0; i < 2; i++) {
                struct fixture *f =
                        fixture_new(&(struct fixture_options){.digests = {given[i][0], given[i][1]}});

                fixture_wait_failed(&f->source, "code", i == 0 ? "unreachable" : "unauthenticated");
                fixture_free(f);
        }
}

static void test_movers_of_one_specification_talk(void **state)
{
        static const char one[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        struct fixture *f = fixture_new(&(struct fixture_options){.digests = {one, one}});

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_free(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_hello_of_a_newer_incompatible_version_is_refused),
                cmocka_unit_test(test_hello_for_another_migration_is_refused),
                cmocka_unit_test(test_hello_with_another_memory_size_is_refused),
                cmocka_unit_test(test_hello_with_too_many_channels_is_refused),
                cmocka_unit_test(test_channel_that_comes_twice_is_refused),
                cmocka_unit_test(test_page_outside_of_memory_is_refused),
                cmocka_unit_test(test_page_of_another_channel_is_refused),
                cmocka_unit_test(test_pages_whose_lengths_do_not_add_up_are_refused),
                cmocka_unit_test(test_garbage_instead_of_packed_pages_is_refused),
                cmocka_unit_test(test_zero_run_beyond_memory_is_refused),
                cmocka_unit_test(test_reference_to_a_page_that_is_not_the_channels_is_refused),
                cmocka_unit_test(test_recall_without_a_checkpoint_is_refused),
                cmocka_unit_test(test_siblings_without_a_store_are_refused),
                cmocka_unit_test(test_device_state_before_the_barrier_is_refused),
                cmocka_unit_test(test_commit_before_the_barrier_is_refused),
                cmocka_unit_test(test_handed_off_twice_is_refused),
                cmocka_unit_test(test_hashes_of_stripes_that_do_not_exist_are_refused),
                cmocka_unit_test(test_frame_that_only_a_sink_may_send_is_refused),
                cmocka_unit_test(test_frame_with_a_wrong_length_is_refused),
                cmocka_unit_test(test_strangers_do_not_disturb_the_migration),
                cmocka_unit_test(test_source_with_another_certificate_is_no_source),
                cmocka_unit_test(test_movers_of_two_specifications_do_not_talk),
                cmocka_unit_test(test_movers_of_one_specification_talk),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

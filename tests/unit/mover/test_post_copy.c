/* SPDX-License-Identifier: Apache-2.0 */

/* Post-copy through the movers, with the test in the place of both agents and both QEMUs: what goes verbatim in both directions, when, and
 * that lost connections take nothing along. */

#include "mover_fixture.h"

#include <string.h>
#include <sys/socket.h>

static const uint8_t discard[] = {8, 0, 6, 0, 3, 0, 1, 'x'};
static const uint8_t advised[] = {0, 2, 0, 4, 0xd5, 0x0a, 0xd7, 0x15};
static const uint8_t loaded[] = {0, 2, 0, 4, 0, 0, 0, 3};
static const uint8_t wants_pages[] = {0, 4, 0, 12, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 16, 0};
static const uint8_t shut_well[] = {0, 1, 0, 4, 0, 0, 0, 0};

/* The destination's QEMU says something. */
static void say(struct fixture *f, const void *message, size_t len)
{
        assert_int_equal(send(f->sink_qemu, message, len, MSG_NOSIGNAL), len);
}

/* The source's QEMU hears it, and nothing before it. */
static void hear(struct fixture *f, const void *message, size_t len)
{
        uint8_t heard[64];

        assert_int_equal(recv(f->source_qemu, heard, len, MSG_WAITALL), len);
        assert_memory_equal(heard, message, len);
}

#define FEW_PAGES 8 /* which fit into QEMU's socket, though nobody reads it */

static struct fixture *begin(void)
{
        const struct fixture_options options = {.n_channels = 3, .post_copy = true};
        struct fixture *f = fixture_new(&options);

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_fill(f, 0, fixture_pages(f), 1);
        fixture_stream_start(f);
        fixture_stream_pages(f, 0, FEW_PAGES, false);
        return f;
}

static void come_to_post_copy(struct fixture *f)
{
        say(f, advised, sizeof(advised));
        fixture_stream_pages(f, FEW_PAGES, fixture_pages(f) - FEW_PAGES, false);
        fixture_stream(f, discard, sizeof(discard));
        json_decref(fixture_wait(&f->source, "post-copy"));
        json_decref(fixture_wait(&f->sink, "placed"));
        fixture_assert_ram_equal(f);
}

static void commit(struct fixture *f)
{
        say(f, loaded, sizeof(loaded));
        hear(f, loaded, sizeof(loaded));
        json_decref(fixture_wait(&f->source, "loaded"));
        fixture_send(&f->source, json_pack("{s:s}", "op", "commit"));
        json_decref(fixture_wait(&f->sink, "commit"));
        fixture_send(&f->sink, json_pack("{s:s, s:s, s:i, s:s}", "op", "result", "outcome", "running",
                                       "resumed_realtime_ns", 12345, "message", "well"));
        json_decref(fixture_wait(&f->source, "result"));
}

/* Returns how many pages were asked for, by the source's last word. */
static json_int_t finish(struct fixture *f)
{
        json_int_t n_requested;
        json_t *stats;

        say(f, shut_well, sizeof(shut_well));
        hear(f, shut_well, sizeof(shut_well));
        (void)shutdown(f->source_qemu, SHUT_RDWR);
        json_decref(fixture_wait(&f->source, "stream-end"));
        stats = fixture_wait(&f->source, "stats");
        n_requested = json_integer_value(json_object_get(stats, "pages_requested"));
        json_decref(stats);
        assert_int_equal(fixture_join(&f->source), 0);
        assert_int_equal(fixture_join(&f->sink), 0);
        (void)shutdown(f->sink_qemu, SHUT_RD);
        fixture_join_reader(f);
        return n_requested;
}

static void test_page_requests_go_back_until_all_memory_has_come(void **state)
{
        static const char tail[] = "device state, and pages that were asked for";
        struct fixture *f = begin();

        come_to_post_copy(f);
        commit(f);
        say(f, wants_pages, sizeof(wants_pages));
        hear(f, wants_pages, sizeof(wants_pages));
        fixture_stream(f, tail, sizeof(tail));
        fixture_await_fed(f, tail, sizeof(tail)); /* QEMU says that it has everything only then */
        assert_int_equal(finish(f), 1);
        assert_true(f->fed.len > sizeof(discard) + sizeof(tail));
        assert_memory_equal(f->fed.data + f->fed.len - sizeof(tail), tail, sizeof(tail));
        assert_memory_equal(
                f->fed.data + f->fed.len - sizeof(tail) - sizeof(discard), discard, sizeof(discard));
        fixture_free(f);
}

static void test_no_page_is_placed_before_qemu_has_discarded_its_memory(void **state)
{
        struct fixture *f = begin();

        /* Time enough for a source that does not wait. */
        json_decref(fixture_wait(&f->source, "stats"));
        json_decref(fixture_wait(&f->source, "stats"));
        for (uint64_t i = 0; i < f->options.ram_bytes; i++)
                assert_int_equal(f->sink_ram[i], 0);
        come_to_post_copy(f);
        commit(f);
        assert_int_equal(finish(f), 0);
        fixture_free(f);
}

static void test_lost_connection_takes_no_request_along(void **state)
{
        static const char tail[] = "the last pages";
        struct fixture *f = begin();

        come_to_post_copy(f);
        commit(f);
        for (unsigned int i = 0; i < 3; i++) {
                fixture_cut(f, 0);
                say(f, wants_pages, sizeof(wants_pages));
                fixture_reconnect(f, 0, true);
                hear(f, wants_pages, sizeof(wants_pages));
        }
        fixture_stream(f, tail, sizeof(tail));
        fixture_await_fed(f, tail, sizeof(tail)); /* QEMU says that it has everything only then */
        assert_int_equal(finish(f), 3);
        assert_memory_equal(f->fed.data + f->fed.len - sizeof(tail), tail, sizeof(tail));
        fixture_free(f);
}

static void test_source_qemu_that_ends_in_post_copy_ends_the_path(void **state)
{
        struct fixture *f = begin();

        come_to_post_copy(f);
        commit(f);
        (void)shutdown(f->source_qemu, SHUT_RDWR);
        fixture_wait_failed(&f->source, "message", "before all of the guest's memory was sent");
        assert_int_equal(fixture_join(&f->source), 1);
        assert_int_equal(fixture_join(&f->sink), 1);
        fixture_free(f);
}

static void test_migration_that_did_not_need_post_copy_ends_as_ever(void **state)
{
        const struct fixture_options options = {.n_channels = 2, .post_copy = true, .verify = true};
        struct fixture *f = fixture_new(&options);

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_fill(f, 0, fixture_pages(f), 1);
        fixture_stream_start(f);
        say(f, advised, sizeof(advised));
        fixture_stream_pages(f, 0, fixture_pages(f), true);
        fixture_stream_device(f, "devices", 7);
        say(f, shut_well, sizeof(shut_well)); /* of a QEMU with a return path: no vote of ours */
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        fixture_free(f);
}

/* The sink's frames are read up to this one. */
static void await_frame(struct tls_stream *stream, enum wire_frame type)
{
        struct wire_header_v1 header;
        uint8_t payload[4096];

        do {
                assert_int_equal(tls_stream_wait_readable(stream, 10000), 1);
                assert_int_equal(tls_stream_read(stream, &header, sizeof(header)), 0);
                assert_true(le32toh(header.payload_len) <= sizeof(payload));
                assert_int_equal(tls_stream_read(stream, payload, le32toh(header.payload_len)), 0);
        } while (header.type != type);
}

static struct tls_stream *join_alone(struct fixture *f)
{
        struct tls_stream *stream = fixture_connect(f);
        struct wire_hello_v1 hello = fixture_hello();

        hello.n_channels = htole16(1);
        fixture_frame(stream, WIRE_HELLO, &hello, sizeof(hello));
        await_frame(stream, WIRE_HELLO_REPLY);
        return stream;
}

/* A sink in post-copy, and the test in the place of its source. */
static struct fixture *begin_alone(struct tls_stream **ret_stream)
{
        static const struct wire_barrier_v1 barrier;
        const struct fixture_options options = {.no_source = true, .post_copy = true};
        struct fixture *f = fixture_new(&options);

        *ret_stream = join_alone(f);
        fixture_frame(*ret_stream, WIRE_BARRIER, &barrier, sizeof(barrier));
        fixture_frame(*ret_stream, WIRE_POST_COPY, NULL, 0);
        fixture_frame(*ret_stream, WIRE_HANDED_OFF, NULL, 0);
        json_decref(fixture_wait(&f->sink, "handed-off"));
        return f;
}

static void test_commit_whose_answer_was_lost_is_answered_again(void **state)
{
        struct tls_stream *stream;
        struct fixture *f = begin_alone(&stream);

        fixture_frame(stream, WIRE_COMMIT, NULL, 0);
        await_frame(stream, WIRE_DELIVERED);
        json_decref(fixture_wait(&f->sink, "commit"));
        tls_stream_free(stream);
        stream = join_alone(f);
        fixture_frame(stream, WIRE_COMMIT, NULL, 0);
        await_frame(stream, WIRE_DELIVERED);
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_result_goes_again_over_the_next_connection(void **state)
{
        struct tls_stream *stream;
        struct fixture *f = begin_alone(&stream);

        fixture_frame(stream, WIRE_COMMIT, NULL, 0);
        json_decref(fixture_wait(&f->sink, "commit"));
        tls_stream_free(stream); /* before there is a result */
        fixture_send(&f->sink, json_pack("{s:s, s:s, s:i, s:s}", "op", "result", "outcome", "running",
                                       "resumed_realtime_ns", 12345, "message", "well"));
        for (unsigned int i = 0; i < 2; i++) {
                stream = join_alone(f);
                await_frame(stream, WIRE_RESULT);
                tls_stream_free(stream);
        }
        fixture_free(f);
}

/* QEMU may have all of the memory before COMMIT is there: until then the sink is of no use without its source, and says so. */
static void test_loss_before_commit_counts_although_all_memory_has_come(void **state)
{
        struct tls_stream *stream;
        struct fixture *f = begin_alone(&stream);

        say(f, shut_well, sizeof(shut_well));
        await_frame(stream, WIRE_RETURN_PATH);
        fixture_frame(stream, WIRE_HANDED_OFF, NULL, 0); /* for the second time */
        fixture_wait_failed(&f->sink, "code", "protocol");
        assert_int_equal(fixture_join(&f->sink), 1);
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_qemu_that_ends_before_it_has_all_memory_ends_the_path(void **state)
{
        struct tls_stream *stream;
        struct fixture *f = begin_alone(&stream);

        (void)shutdown(f->sink_qemu, SHUT_RDWR);
        fixture_wait_failed(&f->sink, "message", "before it had all of the guest's memory");
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_commit_twice_without_post_copy_is_refused(void **state)
{
        static const struct wire_barrier_v1 barrier;
        const struct fixture_options options = {.no_source = true, .post_copy = true};
        struct fixture *f = fixture_new(&options);
        struct tls_stream *stream = join_alone(f);

        fixture_frame(stream, WIRE_BARRIER, &barrier, sizeof(barrier));
        fixture_frame(stream, WIRE_COMMIT, NULL, 0);
        json_decref(fixture_wait(&f->sink, "commit"));
        fixture_frame(stream, WIRE_COMMIT, NULL, 0);
        await_frame(stream, WIRE_DELIVERED);
        assert_int_not_equal(tls_stream_read(stream, (uint8_t[sizeof(struct wire_header_v1)]){0},
                                     sizeof(struct wire_header_v1)),
                0);
        tls_stream_free(stream);
        fixture_free(f);
}

static void test_pages_may_be_asked_for_in_post_copy_only(void **state)
{
        struct fixture *f = begin();

        say(f, advised, sizeof(advised));
        say(f, wants_pages, sizeof(wants_pages));
        fixture_wait_failed(&f->source, "message", "post-copy has not begun");
        assert_int_equal(fixture_join(&f->source), 1);
        assert_int_equal(fixture_join(&f->sink), 1);
        fixture_free(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_page_requests_go_back_until_all_memory_has_come),
                cmocka_unit_test(test_no_page_is_placed_before_qemu_has_discarded_its_memory),
                cmocka_unit_test(test_lost_connection_takes_no_request_along),
                cmocka_unit_test(test_source_qemu_that_ends_in_post_copy_ends_the_path),
                cmocka_unit_test(test_migration_that_did_not_need_post_copy_ends_as_ever),
                cmocka_unit_test(test_commit_whose_answer_was_lost_is_answered_again),
                cmocka_unit_test(test_result_goes_again_over_the_next_connection),
                cmocka_unit_test(test_loss_before_commit_counts_although_all_memory_has_come),
                cmocka_unit_test(test_qemu_that_ends_before_it_has_all_memory_ends_the_path),
                cmocka_unit_test(test_commit_twice_without_post_copy_is_refused),
                cmocka_unit_test(test_pages_may_be_asked_for_in_post_copy_only),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

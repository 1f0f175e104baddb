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

        /* As QEMU does it: whatever was placed before would be gone. */
        memset(f->sink_ram, 0, f->options.ram_bytes);
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

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_page_requests_go_back_until_all_memory_has_come),
                cmocka_unit_test(test_no_page_is_placed_before_qemu_has_discarded_its_memory),
                cmocka_unit_test(test_lost_connection_takes_no_request_along),
                cmocka_unit_test(test_source_qemu_that_ends_in_post_copy_ends_the_path),
                cmocka_unit_test(test_migration_that_did_not_need_post_copy_ends_as_ever),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

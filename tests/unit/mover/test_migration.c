/* SPDX-License-Identifier: Apache-2.0 */

/* Source and sink together: what the source's QEMU writes and what arrives at the destination. */

#include "mover_fixture.h"

#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#define MARK "device state"

/* Sends all of memory, then passes over changed parts of it, then stops the guest. */
static void copy_with_dirty_passes(struct fixture *f)
{
        uint64_t n = fixture_pages(f);

        fixture_fill(f, 0, n, 1);
        fixture_stream_start(f);
        fixture_stream_pages(f, 0, n, false);
        for (uint32_t pass = 2; pass < 6; pass++) {
                fixture_fill(f, n / pass, 200, pass);
                memset(f->source_ram + pass * 100 * WIRE_PAGE_SIZE, 0, 3 * WIRE_PAGE_SIZE); /* become zero */
                f->source_ram[pass * 111 * WIRE_PAGE_SIZE + 1000] ^= 0xff;                  /* one block */
                fixture_stream_pages(f, 0, n, false);
        }
        fixture_stream_pages(f, n / 2, 10, true);
        fixture_stream_device(f, MARK, sizeof(MARK));
}

static void migrate(const struct fixture_options *options)
{
        struct fixture *f = fixture_new(options);

        json_decref(fixture_wait(&f->source, "ready"));
        copy_with_dirty_passes(f);
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        fixture_free(f);
}

static void test_memory_arrives_over_one_channel(void **state)
{
        migrate(&(struct fixture_options){.n_channels = 1});
}

static void test_memory_arrives_over_four_channels(void **state)
{
        migrate(&(struct fixture_options){.n_channels = 4});
}

static void test_memory_arrives_over_as_many_channels_as_there_may_be(void **state)
{
        migrate(&(struct fixture_options){.n_channels = WIRE_MAX_CHANNELS});
}

static void test_memory_arrives_without_compression(void **state)
{
        migrate(&(struct fixture_options){.codec = "none"});
}

static void test_memory_arrives_with_lz4(void **state)
{
        migrate(&(struct fixture_options){.codec = "lz4"});
}

static void test_memory_arrives_with_zstd(void **state)
{
        migrate(&(struct fixture_options){.codec = "zstd"});
}

static void test_memory_arrives_under_a_rate_limit(void **state)
{
        migrate(&(struct fixture_options){.rate_limit_bps = 80 * 1000 * 1000});
}

static void test_memory_arrives_with_verification(void **state)
{
        migrate(&(struct fixture_options){.verify = true, .n_channels = 3});
}

static void test_destination_qemu_gets_skeleton_and_device_state_in_order(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});
        size_t len = sizeof(MARK) + 1 + 8; /* and the closing description */

        json_decref(fixture_wait(&f->source, "ready"));
        copy_with_dirty_passes(f);
        fixture_finish(f);
        fixture_join_reader(f);
        assert_memory_equal(f->fed.data, "QEVM", 4);
        assert_true(f->fed.len < 1000); /* no page of pc.ram is among it */
        assert_memory_equal(f->fed.data + f->fed.len - len, "\4" MARK "\0\0\6\0\0\0\2{}", len);
        fixture_free(f);
}

static void test_unchanged_pages_are_not_sent_again(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});
        uint64_t n = fixture_pages(f);

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_fill(f, 0, n, 1);
        fixture_stream_start(f);
        for (int i = 0; i < 3; i++)
                fixture_stream_pages(f, 0, n, false);
        fixture_stream_pages(f, 0, 1, true);
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        /* Two thirds of the pages are not zero; they went once. */
        assert_true(json_integer_value(json_object_get(f->source.stats, "pages_sent")) <=
                    (json_int_t)n * 2 / 3 + 1);
        fixture_free(f);
}

/* `content` 0 is zero. */
static void fill_page(struct fixture *f, uint64_t page, uint8_t content)
{
        uint8_t *data = f->source_ram + page * WIRE_PAGE_SIZE;

        memset(data, content, WIRE_PAGE_SIZE);
        for (size_t i = 0; content && i < WIRE_PAGE_SIZE; i += WIRE_BLOCK_SIZE)
                data[i] = (uint8_t)(i / WIRE_BLOCK_SIZE);
}

static json_int_t source_stat(const struct fixture *f, const char *name)
{
        return json_integer_value(json_object_get(f->source.stats, name));
}

static void test_equal_pages_go_once(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.n_channels = 1, .codec = "none"});
        uint64_t n = fixture_pages(f);

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream_start(f);
        for (uint64_t page = 0; page < n; page++)
                fill_page(f, page, (uint8_t)(1 + page % 5));
        fixture_stream_pages(f, 0, n, true);
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        assert_int_equal(source_stat(f, "bytes_duplicate"), (json_int_t)((n - 5) * WIRE_PAGE_SIZE));
        assert_true(source_stat(f, "bytes_wire") < (json_int_t)(n * WIRE_PAGE_SIZE / 50));
        fixture_free(f);
}

/* The page that another equals changes in the same pass, before or behind it. */
static void test_reference_means_the_content_of_its_time(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.n_channels = 1});

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream_start(f);
        fill_page(f, 10, 1);
        fill_page(f, 20, 2);
        fixture_stream_pages(f, 0, fixture_pages(f), false);
        fill_page(f, 10, 2); /* as 20 was */
        fill_page(f, 20, 3);
        fixture_stream_pages(f, 0, fixture_pages(f), false);
        fill_page(f, 30, 2); /* as 10 is */
        fixture_stream_pages(f, 0, fixture_pages(f), false);
        fill_page(f, 10, 0);
        fill_page(f, 40, 2); /* as 30 is */
        fixture_stream_pages(f, 0, fixture_pages(f), true);
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        assert_int_equal(source_stat(f, "bytes_duplicate") % WIRE_PAGE_SIZE, 0);
        fixture_free(f);
}

/* Few contents, so that nearly every page is a duplicate of one that changes soon. */
static void test_equal_pages_that_change_arrive(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.n_channels = 3});
        uint64_t n = fixture_pages(f);
        uint32_t random = 1;

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream_start(f);
        for (unsigned int pass = 0; pass < 30; pass++) {
                uint64_t first = pass * 50 % n;

                for (uint64_t page = first; page < n; page++) {
                        random = random * 1664525 + 1013904223;
                        if (random >> 30 == 0 || pass == 0)
                                fill_page(f, page, (uint8_t)(random >> 24 & 7));
                }
                fixture_stream_pages(f, first, n - first, pass == 29);
        }
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        fixture_free(f);
}

static void test_zero_pages_leave_the_memory_unallocated(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream_start(f);
        fixture_stream_pages(f, 0, fixture_pages(f), true);
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        assert_int_equal(lseek(f->sink_ram_fd, 0, SEEK_DATA), -1); /* ENXIO: all hole */
        fixture_free(f);
}

static void copy_once(struct fixture *f)
{
        fixture_fill(f, 0, fixture_pages(f), 1);
        fixture_stream_start(f);
        fixture_stream_pages(f, 0, fixture_pages(f), false);
        fixture_stream_pages(f, 0, 1, true);
}

static void test_verification_repairs_what_qemu_forgot(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.verify = true});

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        f->source_ram[4 * WIRE_PAGE_SIZE + 77] ^= 1; /* never marked dirty */
        memset(f->source_ram + 7 * WIRE_PAGE_SIZE, 0, WIRE_PAGE_SIZE);
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        assert_int_equal(json_integer_value(json_object_get(f->source.stats, "pages_resent_by_verify")), 2);
        fixture_free(f);
}

static void test_verification_repairs_what_the_destination_lost(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.verify = true, .rate_limit_bps = 0});

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        /* The last page that is not zero has arrived, and what came before on its channel; page 5 and 9 lie in
         * the other channel's first stripe or in this one's: sent long before. */
        while (((volatile uint8_t *)f->sink_ram)[(fixture_pages(f) - 2) * WIRE_PAGE_SIZE] !=
                f->source_ram[(fixture_pages(f) - 2) * WIRE_PAGE_SIZE])
                sched_yield();
        f->sink_ram[5 * WIRE_PAGE_SIZE] ^= 1;
        f->sink_ram[9 * WIRE_PAGE_SIZE] = 1; /* a zero page */
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        fixture_assert_ram_equal(f);
        fixture_free(f);
}

static void test_both_sides_report_the_same_memory_hash(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.verify = true});
        const char *hash;

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        fixture_stream_device(f, MARK, sizeof(MARK));
        fixture_finish(f);
        json_t *last = fixture_wait(&f->sink, "stats");
        hash = json_string_value(json_object_get(f->source.stats, "ram_hash"));
        assert_non_null(hash);
        assert_string_equal(hash, json_string_value(json_object_get(last, "ram_hash")));
        json_decref(last);
        fixture_free(f);
}

static void test_tunnel_passes_everything_on(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.tunnel = true});
        char text[100000];

        memset(text, 'x', sizeof(text));
        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream(f, text, sizeof(text));
        fixture_send(&f->source, json_pack("{s:s}", "op", "stopped"));
        fixture_finish(f);
        fixture_join_reader(f);
        assert_int_equal(f->fed.len, sizeof(text));
        assert_memory_equal(f->fed.data, text, sizeof(text));
        fixture_free(f);
}

static void test_no_vote_before_the_handoff_is_recorded(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});
        uint32_t vote;

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        fixture_stream_device(f, MARK, sizeof(MARK));
        json_decref(fixture_wait(&f->source, "device-state"));
        assert_false(fixture_vote(f, &vote, 200));
        fixture_free(f);
}

static void assert_no_vote(struct fixture *f)
{
        uint32_t vote;

        assert_false(fixture_vote(f, &vote, 2000)); /* the socket is closed: QEMU resumes its guest */
}

static void test_abort_by_the_source_reaches_the_destination(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        fixture_send(
                &f->source, json_pack("{s:s, s:s}", "op", "abort", "reason", "the user changed their mind"));
        fixture_wait_failed(&f->source, "code", "cancelled");
        fixture_wait_failed(&f->sink, "peer_reason", "changed their mind");
        assert_int_equal(fixture_join(&f->source), 1);
        assert_int_equal(fixture_join(&f->sink), 1);
        assert_no_vote(f);
        fixture_free(f);
}

static void test_abort_by_the_destination_reaches_the_source(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream_start(f);
        fixture_send(&f->sink, json_pack("{s:s, s:s}", "op", "abort", "reason", "no room"));
        fixture_wait_failed(&f->source, "peer_reason", "no room");
        assert_int_equal(fixture_join(&f->sink), 1);
        fixture_free(f);
}

static void test_lost_connection_fails_both_sides_without_a_vote(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){.n_channels = 3});

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        fixture_stream_device(f, MARK, sizeof(MARK)); /* a stopped guest does not wait long for another one */
        json_decref(fixture_wait(&f->source, "device-state"));
        assert_int_equal(shutdown(f->channel_fds[1], SHUT_RDWR), 0);
        json_decref(fixture_wait(&f->source, "failed"));
        json_decref(fixture_wait(&f->sink, "failed"));
        assert_int_equal(fixture_join(&f->source), 1);
        assert_int_equal(fixture_join(&f->sink), 1);
        assert_no_vote(f);
        fixture_free(f);
}

static void test_stream_that_ends_early_is_a_failure(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        (void)shutdown(f->source_qemu, SHUT_WR);
        fixture_wait_failed(&f->source, "code", "qemu-failed");
        fixture_free(f);
}

static void test_broken_stream_is_a_failure(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        fixture_stream(f, "this is no migration stream", 27);
        fixture_wait_failed(&f->source, "code", "protocol");
        fixture_free(f);
}

static void test_agent_that_goes_away_ends_the_source(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        fd_closep(&f->source.control_fd);
        assert_int_equal(fixture_join(&f->source), 1);
        json_decref(fixture_wait(&f->sink, "failed"));
        fixture_free(f);
}

static void test_result_reaches_the_source_when_the_destination_gave_up(void **state)
{
        struct fixture *f = fixture_new(&(struct fixture_options){0});
        uint32_t vote;

        json_decref(fixture_wait(&f->source, "ready"));
        copy_once(f);
        fixture_stream_device(f, MARK, sizeof(MARK));
        json_decref(fixture_wait(&f->source, "device-state"));
        fixture_send(&f->source, json_pack("{s:s}", "op", "handed-off"));
        json_decref(fixture_wait(&f->sink, "handed-off"));
        assert_true(fixture_vote(f, &vote, 5000));
        fixture_send(&f->source, json_pack("{s:s}", "op", "commit"));
        json_decref(fixture_wait(&f->source, "delivered"));
        fixture_send(&f->sink, json_pack("{s:s, s:s}", "op", "result", "outcome", "abandoned"));
        json_t *result = fixture_wait(&f->source, "result");
        assert_string_equal(json_string_value(json_object_get(result, "outcome")), "abandoned");
        json_decref(result);
        fixture_free(f);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_memory_arrives_over_one_channel),
                cmocka_unit_test(test_memory_arrives_over_four_channels),
                cmocka_unit_test(test_memory_arrives_over_as_many_channels_as_there_may_be),
                cmocka_unit_test(test_memory_arrives_without_compression),
                cmocka_unit_test(test_memory_arrives_with_lz4),
                cmocka_unit_test(test_memory_arrives_with_zstd),
                cmocka_unit_test(test_memory_arrives_under_a_rate_limit),
                cmocka_unit_test(test_memory_arrives_with_verification),
                cmocka_unit_test(test_destination_qemu_gets_skeleton_and_device_state_in_order),
                cmocka_unit_test(test_unchanged_pages_are_not_sent_again),
                cmocka_unit_test(test_equal_pages_go_once),
                cmocka_unit_test(test_reference_means_the_content_of_its_time),
                cmocka_unit_test(test_equal_pages_that_change_arrive),
                cmocka_unit_test(test_zero_pages_leave_the_memory_unallocated),
                cmocka_unit_test(test_verification_repairs_what_qemu_forgot),
                cmocka_unit_test(test_verification_repairs_what_the_destination_lost),
                cmocka_unit_test(test_both_sides_report_the_same_memory_hash),
                cmocka_unit_test(test_tunnel_passes_everything_on),
                cmocka_unit_test(test_no_vote_before_the_handoff_is_recorded),
                cmocka_unit_test(test_abort_by_the_source_reaches_the_destination),
                cmocka_unit_test(test_abort_by_the_destination_reaches_the_source),
                cmocka_unit_test(test_lost_connection_fails_both_sides_without_a_vote),
                cmocka_unit_test(test_stream_that_ends_early_is_a_failure),
                cmocka_unit_test(test_broken_stream_is_a_failure),
                cmocka_unit_test(test_agent_that_goes_away_ends_the_source),
                cmocka_unit_test(test_result_reaches_the_source_when_the_destination_gave_up),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

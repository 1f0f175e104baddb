/* SPDX-License-Identifier: Apache-2.0 */

/* The mover's parts without threads and sockets: page index, codecs and their choice, classification,
 * switchover decision, decoder. */

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <errno.h>
#include <math.h>
#include <string.h>

#include "io/file.h"
#include "mover/classify.h"
#include "mover/codec_choice.h"
#include "mover/decode.h"
#include "mover/duplicates.h"
#include "mover/meters.h"
#include "mover/page_index.h"
#include "mover/sent_log.h"
#include "mover/switchover.h"

static uint8_t secret[WIRE_SECRET_SIZE] = {1, 2, 3};

static void fill_random(uint8_t *data, size_t len)
{
        uint32_t x = 1;

        for (size_t i = 0; i < len; i++) {
                x = x * 1664525 + 1013904223;
                data[i] = (uint8_t)(x >> 24);
        }
}

static void fill_text(uint8_t *data, size_t len)
{
        for (size_t i = 0; i < len; i++)
                data[i] = (uint8_t) "the quick brown fox jumps over the lazy dog "[(i * 7 + i / 44) % 44];
}

static void test_first_version_of_a_page_goes_whole(void **state)
{
        _cleanup_(page_index_freep) struct page_index *index = NULL;
        uint8_t page[WIRE_PAGE_SIZE] = {1};

        assert_int_equal(page_index_new(100, secret, &index), 0);
        assert_int_equal(page_index_update(index, 70, page), 0xffff);
}

static void test_only_changed_blocks_go_again(void **state)
{
        _cleanup_(page_index_freep) struct page_index *index = NULL;
        uint8_t page[WIRE_PAGE_SIZE] = {1};

        assert_int_equal(page_index_new(100, secret, &index), 0);
        (void)page_index_update(index, 70, page);
        assert_int_equal(page_index_update(index, 70, page), 0);
        page[0] = 2;
        page[4095] = 2;
        assert_int_equal(page_index_update(index, 70, page), 0x8001);
        page[256] = 2;
        assert_int_equal(page_index_update(index, 70, page), 0x0002);
}

static void test_zero_page_goes_only_where_something_else_was(void **state)
{
        _cleanup_(page_index_freep) struct page_index *index = NULL;
        uint8_t page[WIRE_PAGE_SIZE] = {1};

        assert_int_equal(page_index_new(100, secret, &index), 0);
        assert_false(page_index_set_zero(index, 3));
        (void)page_index_update(index, 3, page);
        assert_true(page_index_set_zero(index, 3));
        assert_false(page_index_set_zero(index, 3));
        assert_int_equal(page_index_update(index, 3, page), 0xffff); /* all blocks: zeros lie there now */
}

/* An index and a table of what was sent. */
struct pages {
        struct page_index *index;
        struct duplicates *duplicates;
        uint64_t from; /* found last */
};

static struct pages pages_new(void)
{
        struct pages p = {0};

        assert_int_equal(page_index_new(100, secret, &p.index), 0);
        assert_int_equal(duplicates_new(100, &p.duplicates), 0);
        return p;
}

static void pages_free(struct pages *p)
{
        duplicates_free(p->duplicates);
        page_index_free(p->index);
}

static void record(struct pages *p, uint64_t page, uint8_t content)
{
        uint8_t data[WIRE_PAGE_SIZE] = {content};

        (void)page_index_update(p->index, page, data);
}

static bool find(struct pages *p, uint64_t page)
{
        return duplicates_find(p->duplicates, p->index, page, page_index_digest(p->index, page), &p->from);
}

static void test_page_of_a_content_sent_before_is_found(void **state)
{
        struct pages p = pages_new();

        record(&p, 5, 'a');
        assert_false(find(&p, 5));
        assert_false(find(&p, 5)); /* not of itself */
        record(&p, 6, 'b');
        assert_false(find(&p, 6));
        record(&p, 7, 'a');
        assert_true(find(&p, 7));
        assert_int_equal(p.from, 5);
        pages_free(&p);
}

static void test_page_that_has_changed_since_is_no_duplicate(void **state)
{
        struct pages p = pages_new();

        record(&p, 5, 'a');
        assert_false(find(&p, 5));
        record(&p, 5, 'b');
        record(&p, 7, 'a');
        assert_false(find(&p, 7)); /* and 7 is remembered now */
        (void)page_index_set_zero(p.index, 7);
        record(&p, 8, 'a');
        assert_false(find(&p, 8));
        pages_free(&p);
}

static void test_page_behind_is_no_duplicate(void **state)
{
        struct pages p = pages_new();

        record(&p, 50, 'a');
        assert_false(find(&p, 50));
        record(&p, 7, 'a');
        assert_false(find(&p, 7));
        record(&p, 8, 'a');
        assert_true(find(&p, 8));
        assert_int_equal(p.from, 7);
        pages_free(&p);
}

static size_t n_frames(struct list *frames)
{
        struct sent_frame *frame;
        size_t n = 0;

        list_for_each (frame, frames, order)
                n++;
        return n;
}

/* Digests that choose the same place in the table, whatever the key. */
static void test_two_contents_of_one_place_are_both_found(void **state)
{
        struct pages p = pages_new();
        const uint64_t one = UINT64_C(1) << 40, other = UINT64_C(2) << 40;

        for (uint64_t page = 0; page < 10; page++)
                record(&p, page, (uint8_t)(1 + page % 2));
        assert_false(duplicates_find(p.duplicates, p.index, 0, one, &p.from));
        assert_false(duplicates_find(p.duplicates, p.index, 1, other, &p.from));
        for (uint64_t page = 2; page < 10; page++) {
                assert_true(duplicates_find(p.duplicates, p.index, page, page % 2 ? other : one, &p.from));
                assert_int_equal(p.from, page % 2);
        }
        pages_free(&p);
}

static void test_log_keeps_what_was_not_acknowledged_in_order(void **state)
{
        const uint64_t pages[] = {7, 8, 9, 20, 3};
        struct sent_frame *frame, *spare;
        struct wire_run_v1 runs[3];
        struct sent_log log;
        struct list again;

        sent_log_init(&log, 0);
        list_init(&again);
        assert_int_equal(sent_log_add(&log, WIRE_SKELETON, "he", 2, "ad", 2), 0);
        sent_log_sent(&log, 12);
        sent_log_sent(&log, 8); /* KEEPALIVE */
        assert_int_equal(sent_log_add_pages(&log, WIRE_PAGES, pages, ARRAY_SIZE(pages)), 0);
        sent_log_sent(&log, 1000);
        assert_int_equal(sent_log_add(&log, WIRE_BARRIER, "zero", 4, NULL, 0), 0);
        sent_log_sent(&log, 12);
        assert_int_equal(log.position, 1032);
        assert_int_equal(sent_log_acknowledge(&log, 1033), -EPROTO); /* never sent */
        assert_int_equal(sent_log_acknowledge(&log, 1019), 0);       /* a part of PAGES is none */
        assert_int_equal(n_frames(&log.frames), 2);
        assert_int_equal(sent_log_acknowledge(&log, 12), -EPROTO); /* taken back */
        sent_log_rewind(&log, &again);
        assert_int_equal(log.position, 1019);
        assert_int_equal(n_frames(&log.frames), 0);
        assert_int_equal(n_frames(&again), 2);
        frame = CONTAINER_OF(again.next, struct sent_frame, order);
        assert_true(sent_frame_has_pages(frame));
        assert_int_equal(frame->len, sizeof(runs));
        memcpy(runs, frame->data, sizeof(runs));
        assert_int_equal(le64toh(runs[0].first_page), 7);
        assert_int_equal(le32toh(runs[0].n_pages), 3);
        assert_int_equal(le64toh(runs[2].first_page), 3);
        list_for_each_safe (frame, spare, &again, order)
                free(frame);
        sent_log_deinit(&log);
}

static void test_log_that_is_full_says_so(void **state)
{
        static uint8_t body[WIRE_MAX_RAW];
        struct sent_log log;

        sent_log_init(&log, 0);
        while (!sent_log_is_full(&log)) {
                assert_int_equal(sent_log_add(&log, WIRE_DEVICE, NULL, 0, body, sizeof(body)), 0);
                sent_log_sent(&log, sizeof(body));
                assert_true(log.position < UINT64_C(64) << 20);
        }
        assert_int_equal(sent_log_acknowledge(&log, log.position), 0);
        assert_false(sent_log_is_full(&log));
        sent_log_deinit(&log);
}

static void test_every_level_packs_and_unpacks(void **state)
{
        static uint8_t raw[256 * 1024], packed[sizeof(raw)], again[sizeof(raw)];
        _cleanup_(codec_freep) struct codec *codec = NULL;

        fill_text(raw, sizeof(raw));
        assert_int_equal(codec_new(false, &codec), 0);
        for (enum codec_level i = CODEC_LZ4; i < N_CODEC_LEVELS; i++) {
                size_t n = codec_pack(codec, i, raw, sizeof(raw), packed);

                assert_true(n > 0 && n < sizeof(raw) / 4);
                memset(again, 0, sizeof(again));
                assert_int_equal(
                        codec_unpack(codec, codec_level_packing(i), packed, n, again, sizeof(again)), 0);
                assert_memory_equal(raw, again, sizeof(raw));
                assert_int_equal(
                        codec_unpack(codec, codec_level_packing(i), packed, n, again, sizeof(again) - 1),
                        -EPROTO);
        }
}

/* One context packs at all levels in turn, and some packing fails in between: nothing of it may stay. */
static void test_a_level_packs_the_same_after_any_other(void **state)
{
        static uint8_t raw[256 * 1024], random[sizeof(raw)], first[sizeof(raw)], later[sizeof(raw)];

        fill_random(random, sizeof(random));
        for (size_t i = 0; i < sizeof(raw); i += 8) /* of 4096 words: more than a small table keeps apart */
                memcpy(raw + i, random + (random[i] + 256 * random[i + 1]) % 4096 * 8, 8);
        for (enum codec_level i = CODEC_LZ4; i < N_CODEC_LEVELS; i++) {
                _cleanup_(codec_freep) struct codec *fresh = NULL, *used = NULL;
                size_t n;

                assert_int_equal(codec_new(false, &fresh), 0);
                assert_int_equal(codec_new(false, &used), 0);
                n = codec_pack(fresh, i, raw, sizeof(raw), first);
                assert_true(n > 0);
                for (enum codec_level before = CODEC_LZ4; before < N_CODEC_LEVELS; before++) {
                        (void)codec_pack(used, before, raw, sizeof(raw), later);
                        assert_int_equal(codec_pack(used, before, random, sizeof(random), later), 0);
                        assert_int_equal(codec_pack(used, i, raw, sizeof(raw), later), n);
                        assert_memory_equal(first, later, n);
                }
        }
}

static void test_random_data_is_not_packed(void **state)
{
        static uint8_t raw[65536], packed[sizeof(raw)];
        _cleanup_(codec_freep) struct codec *codec = NULL;

        fill_random(raw, sizeof(raw));
        assert_int_equal(codec_new(false, &codec), 0);
        for (enum codec_level i = CODEC_NONE; i < N_CODEC_LEVELS; i++)
                assert_int_equal(codec_pack(codec, i, raw, sizeof(raw), packed), 0);
}

static void test_random_pages_are_recognised(void **state)
{
        static uint8_t data[256 * WIRE_PAGE_SIZE];
        unsigned int n = 0;

        fill_random(data, sizeof(data));
        for (size_t i = 0; i < 256; i++)
                n += classify_compressible(data + i * WIRE_PAGE_SIZE, WIRE_PAGE_SIZE);
        assert_true(n <= 2);
        fill_text(data, sizeof(data));
        for (size_t i = 0; i < 256; i++)
                assert_true(classify_compressible(data + i * WIRE_PAGE_SIZE, WIRE_PAGE_SIZE));
}

static enum codec_level level_at(uint64_t wire_bytes_per_s, double n_cores)
{
        struct codec_choice_input input = {.current = CODEC_LZ4,
                .wire_bytes_per_s = wire_bytes_per_s,
                .n_cores = n_cores,
                .features = WIRE_FEATURES_ALL};

        for (int i = 0; i < 5; i++) /* until it stays */
                input.current = codec_choose(&input);
        return input.current;
}

static void test_gigabit_link_gets_zstd_1(void **state)
{
        assert_int_equal(level_at(117 * 1000 * 1000, 1), CODEC_ZSTD_1);
}

static void test_slow_link_gets_a_high_level(void **state)
{
        assert_true(level_at(12 * 1000 * 1000, 1) >= CODEC_ZSTD_3);
}

static void test_link_faster_than_the_processor_gets_no_codec(void **state)
{
        assert_int_equal(level_at(UINT64_C(3000) * 1000 * 1000, 1), CODEC_NONE);
}

static void test_unknown_link_keeps_the_level(void **state)
{
        assert_int_equal(level_at(0, 4), CODEC_LZ4);
}

static void test_level_that_the_peer_lacks_is_not_chosen(void **state)
{
        struct codec_choice_input input = {.current = CODEC_LZ4,
                .wire_bytes_per_s = 12 * 1000 * 1000,
                .n_cores = 1,
                .features = WIRE_FEATURE_LZ4};

        assert_int_equal(codec_choose(&input), CODEC_LZ4);
}

static void test_data_that_packs_badly_gets_a_cheap_level(void **state)
{
        struct codec_choice_input input = {.current = CODEC_ZSTD_1,
                .wire_bytes_per_s = 117 * 1000 * 1000,
                .n_cores = 1,
                .features = WIRE_FEATURES_ALL};

        input.samples[CODEC_ZSTD_1] = (struct codec_sample){
                .raw_bytes = 10000000, .packed_bytes = 9700000, .cpu_ns = UINT64_C(125000000)};
        assert_true(codec_choose(&input) <= CODEC_LZ4);
}

static void test_fewer_bytes_are_given_up_for_much_or_to_converge(void **state)
{
        /* zstd at 450 MB/s on one core, ratio 2.4; lz4 promises 1.33 times the bytes at twice the speed or more. */
        struct codec_choice_input input = {.current = CODEC_ZSTD_1,
                .wire_bytes_per_s = 350 * 1000 * 1000,
                .n_cores = 1,
                .features = WIRE_FEATURES_ALL};

        assert_int_equal(codec_choose(&input), CODEC_ZSTD_1); /* 630 for 450 MB/s */
        input.must_converge = true;
        assert_int_equal(codec_choose(&input), CODEC_LZ4);
        input.must_converge = false;
        input.wire_bytes_per_s = 500 * 1000 * 1000; /* 900 for 450 MB/s */
        assert_int_equal(codec_choose(&input), CODEC_LZ4);
}

/* Both processors are busy, a quarter of that with packing: lz4 would halve the quarter, and need the wire more. */
static void test_busy_host_keeps_packing(void **state)
{
        struct codec_choice_input input = {.current = CODEC_ZSTD_1,
                .wire_bytes_per_s = 160 * 1000 * 1000,
                .n_cores = 0.5,
                .features = WIRE_FEATURES_ALL};

        input.samples[CODEC_ZSTD_1] = (struct codec_sample){
                .raw_bytes = 100000000, .packed_bytes = 20000000, .cpu_ns = UINT64_C(145000000)};
        assert_int_equal(codec_choose(&input), CODEC_LZ4);
        input.total_cores = 2;
        input.other_s_per_byte = 1.5 / 345e6;
        assert_int_equal(codec_choose(&input), CODEC_ZSTD_1);
}

/* Gigabit, one core; a burst of lz4 that looked bad: a fiftieth of the table's speed. */
static void bad_lz4_moment(struct codec_choice_input *ret_input)
{
        *ret_input = (struct codec_choice_input){.current = CODEC_LZ4,
                .wire_bytes_per_s = 117 * 1000 * 1000,
                .n_cores = 1,
                .features = WIRE_FEATURES_ALL,
                .samples[CODEC_LZ4] = {.raw_bytes = 50 * 1000 * 1000,
                        .packed_bytes = 28 * 1000 * 1000,
                        .cpu_ns = UINT64_C(2400) * 1000 * 1000}};
}

static void test_old_measurement_gives_way_to_the_table(void **state)
{
        struct codec_choice_input input;

        bad_lz4_moment(&input);
        input.current = codec_choose(&input);
        assert_int_equal(input.current, CODEC_NONE);
        for (int tick = 0; tick < 25; tick++)
                codec_sample_add(&input.samples[CODEC_LZ4], &(struct codec_sample){0});
        input.current = codec_choose(&input);
        assert_int_equal(input.current, CODEC_LZ4); /* a step at a time */
        assert_int_equal(codec_choose(&input), CODEC_ZSTD_1);
}

static void test_fresh_measurement_corrects_a_bad_one(void **state)
{
        const struct codec_sample good = {
                .raw_bytes = 10 * 1000 * 1000, .packed_bytes = 5500 * 1000, .cpu_ns = 10 * 1000 * 1000};
        struct codec_choice_input input;

        bad_lz4_moment(&input);
        input.current = CODEC_NONE;
        for (int tick = 0; tick < 8; tick++)
                codec_sample_add(&input.samples[CODEC_LZ4], &good);
        assert_true(codec_choose(&input) >= CODEC_LZ4);
}

static double cores(unsigned int n_cpus, unsigned int n_senders, double cpu_share, bool wire_blocks)
{
        return codec_cores(&(struct codec_room){.n_cpus = n_cpus,
                .n_senders = n_senders,
                .cpu_share = cpu_share,
                .wire_blocks = wire_blocks,
                .idle_cores = -1});
}

static void test_busy_machine_gets_a_cheaper_level(void **state)
{
        /* Two processors of which the senders get a tenth. */
        double n_cores = cores(2, 2, 0.1, true);

        assert_true(level_at(117 * 1000 * 1000, n_cores) < level_at(117 * 1000 * 1000, 2));
}

static void test_all_cores_pack_while_the_wire_blocks(void **state)
{
        assert_true(cores(4, 4, 1, true) > 3.9);
        assert_true(cores(4, 4, 1, false) < 3.1);
        assert_true(cores(1, 4, 1, false) > 0.9); /* never none */
        assert_true(cores(8, 2, 1, true) < 2.1);  /* a sender packs on one core */
}

static void test_without_idle_processors_packing_gets_what_it_has(void **state)
{
        struct codec_room room = {.n_cpus = 4, .n_senders = 4, .cpu_share = 1, .packing_cores = 0.5};

        assert_true(fabs(codec_cores(&room) - 0.5) < 0.01);
        room.idle_cores = 1;
        assert_true(fabs(codec_cores(&room) - 1.5) < 0.01);
        room.idle_cores = 4;
        assert_true(fabs(codec_cores(&room) - 3) < 0.01); /* one is QEMU's and the reader's */
        room.idle_cores = room.packing_cores = 0;
        assert_true(codec_cores(&room) > 0.05); /* never none */
        room.wire_blocks = true;
        assert_true(fabs(codec_cores(&room) - 4) < 0.01);
}

static void test_pages_that_nothing_packs_make_the_wire_matter(void **state)
{
        struct codec_choice_input input = {
                .wire_bytes_per_s = 118 * 1000 * 1000, .n_cores = 1, .features = WIRE_FEATURES_ALL};

        /* As measured for a guest a quarter of which is random: packed alone, lz4 would not be bound by the wire. */
        input.samples[CODEC_LZ4] = (struct codec_sample){64 << 20, (64 << 20) / 3, 160 * 1000 * 1000};
        input.samples[CODEC_ZSTD_1] = (struct codec_sample){64 << 20, (64 << 20) / 5, 200 * 1000 * 1000};
        input.current = CODEC_LZ4;
        assert_int_equal(codec_choose(&input), CODEC_LZ4);
        input.plain_share = 0.25;
        assert_int_equal(codec_choose(&input), CODEC_ZSTD_1);
}

static unsigned int n_probes(enum codec_level level, bool wire_blocks, enum codec_level probe)
{
        unsigned int n = 0;

        for (unsigned int i = 1; i <= 960; i++)
                n += codec_probe(level, i, wire_blocks) == probe;
        return n;
}

static void test_uncompressed_migration_still_probes_lz4(void **state)
{
        assert_true(n_probes(CODEC_NONE, false, CODEC_LZ4) >= 10);
        assert_true(n_probes(CODEC_NONE, false, CODEC_NONE) >= 900);
}

static void test_blocked_wire_probes_the_next_stronger_level(void **state)
{
        for (enum codec_level i = CODEC_NONE; i + 1 < N_CODEC_LEVELS; i++) {
                assert_true(n_probes(i, true, i + 1) >= 100);
                assert_int_equal(n_probes(i, true, i) + n_probes(i, true, i + 1), 960);
        }
        assert_true(n_probes(N_CODEC_LEVELS - 1, true, N_CODEC_LEVELS - 2) > 0);
}

static struct switchover_status status_at(uint64_t pass, uint64_t remaining_bytes)
{
        return (struct switchover_status){.remaining_bytes = remaining_bytes,
                .dirty_sync_count = pass,
                .qemu_bytes_per_s = 1e8,
                .possible_bytes_per_s = 100 * 1000 * 1000,
                .drain_ms = 10};
}

static void test_downtime_limit_stays_within_the_users_bound(void **state)
{
        struct switchover s;

        switchover_init(&s, 100);
        for (uint64_t pass = 1; pass < 20; pass++) {
                struct switchover_status status = status_at(pass, 50000000);
                uint64_t limit_ms = switchover_update(&s, &status);

                assert_true(limit_ms >= 1 && limit_ms <= 100 - 10);
        }
        assert_true(s.downtime_limit_ms > 80); /* and is used in the end */
}

static void test_downtime_limit_is_never_zero(void **state)
{
        struct switchover_status status = status_at(5, 1);
        struct switchover s;

        switchover_init(&s, 1);
        assert_int_equal(switchover_update(&s, &status), 1);
}

#define MIB (UINT64_C(1) << 20)

static void test_zero_pages_do_not_make_the_wire_look_slow(void **state)
{
        /* A gigabit wire, half of it used a moment ago at two guest bytes a wire byte, now hardly. */
        assert_int_equal(switchover_possible_rate(112 * MIB, 56 * MIB, 112 * MIB), 224 * MIB);
        assert_int_equal(switchover_possible_rate(112 * MIB, 1 * MIB, 2 * MIB), 224 * MIB);
        assert_int_equal(switchover_possible_rate(112 * MIB, 1000, 4096), 0);
}

static void test_rate_that_was_reached_is_possible(void **state)
{
        assert_int_equal(switchover_possible_rate(0, 100 * MIB, 150 * MIB), 150 * MIB);
        assert_int_equal(switchover_possible_rate(50 * MIB, 100 * MIB, 150 * MIB), 150 * MIB);
}

static void test_nearly_empty_buffer_drains_at_once(void **state)
{
        assert_int_equal(switchover_drain_ms(80 * 1024, 112 * MIB, 250 * 1024), 0);
        assert_int_equal(switchover_drain_ms(112 * MIB, 112 * MIB, 1), 1000);
        assert_int_equal(switchover_drain_ms(MIB, 0, 10 * MIB), 100);
        assert_int_equal(switchover_drain_ms(1, 0, 0), 1000);
        assert_int_equal(switchover_drain_ms(100 * MIB, 1, 1), 10000);
}

static void test_zero_region_does_not_shrink_the_downtime_limit(void **state)
{
        struct switchover_status status = status_at(2, 5000000);
        struct switchover s;
        uint64_t before;

        switchover_init(&s, 100);
        before = switchover_update(&s, &status);
        status.possible_bytes_per_s = switchover_possible_rate(112 * MIB, 250 * 1024, 300 * 1024);
        status.drain_ms = switchover_drain_ms(80 * 1024, 112 * MIB, 250 * 1024);
        assert_true(switchover_update(&s, &status) >= before);
}

static void test_backlog_shrinks_the_downtime_limit(void **state)
{
        struct switchover_status status = status_at(2, 5000000);
        struct switchover s;
        uint64_t before;

        switchover_init(&s, 100);
        before = switchover_update(&s, &status);
        status.possible_bytes_per_s /= 4; /* QEMU writes four times what can leave */
        assert_true(switchover_update(&s, &status) <= before / 4 + 1);
}

static void test_shrinking_passes_converge(void **state)
{
        struct switchover s;
        uint64_t remaining = UINT64_C(1) << 30;

        switchover_init(&s, 100);
        for (uint64_t pass = 1; pass < 15; pass++, remaining /= 2) {
                struct switchover_status status = status_at(pass, remaining);

                (void)switchover_update(&s, &status);
                assert_true(switchover_converging(&s));
        }
}

static void test_whole_pause_is_offered_at_once_where_that_is_wanted(void **state)
{
        struct switchover_status status = status_at(1, 50000000);
        struct switchover s;
        uint64_t part_ms;

        switchover_init(&s, 1000);
        part_ms = switchover_update(&s, &status);
        s.whole_pause = true;
        assert_in_range(switchover_update(&s, &status), part_ms * 7, 1000);
}

static void test_passes_without_progress_do_not_converge(void **state)
{
        struct switchover s;

        switchover_init(&s, 100);
        for (uint64_t pass = 1; pass < 8; pass++) {
                struct switchover_status status = status_at(pass, UINT64_C(1) << 28);

                (void)switchover_update(&s, &status);
        }
        assert_false(switchover_converging(&s));
}

static void test_meter_forgets_what_is_older_than_its_window(void **state)
{
        struct meter meter = {0};

        for (uint64_t i = 0; i < 10; i++)
                meter_add(&meter, i * 1000, i * 100000000);
        for (uint64_t i = 10; i < 30; i++)
                meter_add(&meter, 9000, i * 100000000);
        assert_int_equal(meter_rate(&meter), 0);
}

static void test_busy_wire_teaches_its_capacity(void **state)
{
        uint64_t capacity = 200 * MIB;

        assert_int_equal(meter_capacity(0, 10 * MIB, 100000000, 100000000), 100 * MIB);
        for (int i = 0; i < 20; i++)
                capacity = meter_capacity(capacity, 10 * MIB, 100000000, 100000000);
        assert_true(capacity < 101 * MIB);
}

static void test_short_writes_say_little_about_the_wire(void **state)
{
        /* 1 MiB into the sockets' buffers in a thousandth of the time. */
        assert_true(meter_capacity(100 * MIB, MIB, 1000000, 1000000000) < 101 * MIB);
}

static void assert_golden(const char *name)
{
        char path[512];
        _cleanup_free_ char *frames = NULL, *expected = NULL, *text = NULL;
        size_t len = 0, text_len = 0;
        FILE *out = open_memstream(&text, &text_len);

        snprintf(path, sizeof(path), "%s/%s.bin", GOLDEN_DIR, name);
        assert_int_equal(file_read(path, 1 << 20, &frames, &len), 0);
        snprintf(path, sizeof(path), "%s/%s.txt", GOLDEN_DIR, name);
        assert_int_equal(file_read(path, 1 << 20, &expected, NULL), 0);
        assert_int_equal(decode_frames((const uint8_t *)frames, len, out, NULL), 0);
        assert_int_equal(fclose(out), 0);
        assert_string_equal(text, expected);
}

static void test_golden_frames_of_a_source_decode(void **state)
{
        assert_golden("source");
}

static void test_golden_frames_of_a_sink_decode(void **state)
{
        assert_golden("sink");
}

static void test_cut_recording_is_refused(void **state)
{
        _cleanup_free_ char *frames = NULL;
        size_t len = 0;
        _cleanup_file_ FILE *out = fopen("/dev/null", "we");

        assert_int_equal(file_read(GOLDEN_DIR "/source.bin", 1 << 20, &frames, &len), 0);
        assert_int_equal(decode_frames((const uint8_t *)frames, len - 1, out, NULL), -EPROTO);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_first_version_of_a_page_goes_whole),
                cmocka_unit_test(test_only_changed_blocks_go_again),
                cmocka_unit_test(test_zero_page_goes_only_where_something_else_was),
                cmocka_unit_test(test_page_of_a_content_sent_before_is_found),
                cmocka_unit_test(test_page_that_has_changed_since_is_no_duplicate),
                cmocka_unit_test(test_page_behind_is_no_duplicate),
                cmocka_unit_test(test_two_contents_of_one_place_are_both_found),
                cmocka_unit_test(test_log_keeps_what_was_not_acknowledged_in_order),
                cmocka_unit_test(test_log_that_is_full_says_so),
                cmocka_unit_test(test_every_level_packs_and_unpacks),
                cmocka_unit_test(test_a_level_packs_the_same_after_any_other),
                cmocka_unit_test(test_random_data_is_not_packed),
                cmocka_unit_test(test_random_pages_are_recognised),
                cmocka_unit_test(test_gigabit_link_gets_zstd_1),
                cmocka_unit_test(test_slow_link_gets_a_high_level),
                cmocka_unit_test(test_link_faster_than_the_processor_gets_no_codec),
                cmocka_unit_test(test_unknown_link_keeps_the_level),
                cmocka_unit_test(test_level_that_the_peer_lacks_is_not_chosen),
                cmocka_unit_test(test_data_that_packs_badly_gets_a_cheap_level),
                cmocka_unit_test(test_fewer_bytes_are_given_up_for_much_or_to_converge),
                cmocka_unit_test(test_busy_host_keeps_packing),
                cmocka_unit_test(test_old_measurement_gives_way_to_the_table),
                cmocka_unit_test(test_fresh_measurement_corrects_a_bad_one),
                cmocka_unit_test(test_busy_machine_gets_a_cheaper_level),
                cmocka_unit_test(test_all_cores_pack_while_the_wire_blocks),
                cmocka_unit_test(test_without_idle_processors_packing_gets_what_it_has),
                cmocka_unit_test(test_pages_that_nothing_packs_make_the_wire_matter),
                cmocka_unit_test(test_uncompressed_migration_still_probes_lz4),
                cmocka_unit_test(test_blocked_wire_probes_the_next_stronger_level),
                cmocka_unit_test(test_downtime_limit_stays_within_the_users_bound),
                cmocka_unit_test(test_downtime_limit_is_never_zero),
                cmocka_unit_test(test_zero_pages_do_not_make_the_wire_look_slow),
                cmocka_unit_test(test_rate_that_was_reached_is_possible),
                cmocka_unit_test(test_nearly_empty_buffer_drains_at_once),
                cmocka_unit_test(test_zero_region_does_not_shrink_the_downtime_limit),
                cmocka_unit_test(test_backlog_shrinks_the_downtime_limit),
                cmocka_unit_test(test_shrinking_passes_converge),
                cmocka_unit_test(test_whole_pause_is_offered_at_once_where_that_is_wanted),
                cmocka_unit_test(test_passes_without_progress_do_not_converge),
                cmocka_unit_test(test_meter_forgets_what_is_older_than_its_window),
                cmocka_unit_test(test_busy_wire_teaches_its_capacity),
                cmocka_unit_test(test_short_writes_say_little_about_the_wire),
                cmocka_unit_test(test_golden_frames_of_a_source_decode),
                cmocka_unit_test(test_golden_frames_of_a_sink_decode),
                cmocka_unit_test(test_cut_recording_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

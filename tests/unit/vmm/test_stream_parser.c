/* SPDX-License-Identifier: Apache-2.0 */

/* The stream parser on a real stream (QEMU 7.2, see make_stream_golden.py) and on small ones made by hand. */

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <zstd.h>

#include "base/buf.h"
#include "io/file.h"
#include "vmm/stream_parser.h"

#define GOLDEN_PAGES 512
#define GOLDEN_BYTES (GOLDEN_PAGES * STREAM_PAGE_SIZE)
#define MAX_BYTES (4 * 1024 * 1024)

/* What a parser handed out. */
struct seen {
        struct buf skeleton;
        uint8_t ram[GOLDEN_BYTES];
        unsigned int n_pages, n_zero, n_pings, n_modes;
        enum stream_mode mode;
        size_t skeleton_before_mode;
        int n_advised;
        size_t skeleton_before_advised;
        uint32_t ping;
};

static int on_page(void *userdata, uint64_t page, const uint8_t *data)
{
        struct seen *seen = userdata;

        seen->n_pages++;
        memcpy(seen->ram + page * STREAM_PAGE_SIZE, data, STREAM_PAGE_SIZE);
        return 0;
}

static int on_zero_page(void *userdata, uint64_t page)
{
        struct seen *seen = userdata;

        seen->n_zero++;
        memset(seen->ram + page * STREAM_PAGE_SIZE, 0, STREAM_PAGE_SIZE);
        return 0;
}

static int on_skeleton(void *userdata, const uint8_t *data, size_t len)
{
        return buf_append(&((struct seen *)userdata)->skeleton, data, len);
}

static int on_ping(void *userdata, uint32_t value)
{
        struct seen *seen = userdata;

        seen->n_pings++;
        seen->ping = value;
        return 0;
}

static int on_mode_changed(void *userdata, enum stream_mode mode, const char *reason)
{
        struct seen *seen = userdata;

        seen->n_modes++;
        seen->mode = mode;
        seen->skeleton_before_mode = seen->skeleton.len;
        return 0;
}

static int on_read_page(void *userdata, uint64_t page, uint8_t *ret_data)
{
        memset(ret_data, 0xee, STREAM_PAGE_SIZE);
        return 0;
}

static int on_advised(void *userdata)
{
        struct seen *seen = userdata;

        seen->n_advised++;
        seen->skeleton_before_advised = seen->skeleton.len;
        return 0;
}

static const struct stream_parser_ops ops = {
        on_page, on_zero_page, on_skeleton, on_ping, on_mode_changed, on_read_page, on_advised};

static struct seen *seen_new(void)
{
        struct seen *seen = calloc(1, sizeof(*seen));

        assert_non_null(seen);
        buf_init(&seen->skeleton, MAX_BYTES);
        return seen;
}

static void seen_free(struct seen *seen)
{
        buf_deinit(&seen->skeleton);
        free(seen);
}

/* Feeds all of `data` in pieces of chunk bytes; returns what the first failing feed returned. */
static int parse_as(
        struct seen *seen, const char *block, bool post_copy, const void *data, size_t len, size_t chunk)
{
        struct stream_parser_config config = {
                .direct_block = block, .direct_bytes = GOLDEN_BYTES, .post_copy = post_copy};
        _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
        int r = stream_parser_new(&config, &ops, seen, &parser, NULL);

        for (size_t at = 0; r >= 0 && at < len; at += chunk)
                r = stream_parser_feed(parser, (const uint8_t *)data + at, MIN(chunk, len - at), NULL);
        return r;
}

static int parse(struct seen *seen, const char *block, const void *data, size_t len, size_t chunk)
{
        return parse_as(seen, block, false, data, len, chunk);
}

static void put(struct buf *buf, const void *data, size_t len)
{
        assert_int_equal(buf_append(buf, data, len), 0);
}

static void put8(struct buf *buf, uint8_t value)
{
        put(buf, &value, 1);
}

static void put32(struct buf *buf, uint32_t value)
{
        value = htobe32(value);
        put(buf, &value, sizeof(value));
}

static void put64(struct buf *buf, uint64_t value)
{
        value = htobe64(value);
        put(buf, &value, sizeof(value));
}

static uint8_t *golden;
static size_t golden_len;

static int load_golden(void **state)
{
        _cleanup_free_ char *packed = NULL;
        size_t packed_len = 0;

        assert_int_equal(file_read(GOLDEN_DIR "/stream-7.2.zst", MAX_BYTES, &packed, &packed_len), 0);
        golden = malloc(MAX_BYTES);
        assert_non_null(golden);
        golden_len = ZSTD_decompress(golden, MAX_BYTES, packed, packed_len);
        assert_false(ZSTD_isError(golden_len));
        return 0;
}

static int free_golden(void **state)
{
        free(golden);
        return 0;
}

static void test_real_stream_yields_every_page_with_its_content(void **state)
{
        struct seen *seen = seen_new();

        assert_int_equal(parse(seen, "pc.ram", golden, golden_len, golden_len), 0);
        assert_int_equal(seen->n_pages + seen->n_zero, GOLDEN_PAGES);
        for (uint32_t page = 0; page < GOLDEN_PAGES; page++) {
                uint32_t expected = page % 7 == 0 ? page : 0;

                for (size_t i = 0; i < STREAM_PAGE_SIZE; i += sizeof(expected))
                        assert_memory_equal(
                                seen->ram + page * STREAM_PAGE_SIZE + i, &expected, sizeof(expected));
        }
        seen_free(seen);
}

static void test_real_stream_becomes_opaque_at_the_device_state(void **state)
{
        struct seen *seen = seen_new();

        assert_int_equal(parse(seen, "pc.ram", golden, golden_len, golden_len), 0);
        assert_int_equal(seen->n_modes, 1);
        assert_int_equal(seen->mode, STREAM_OPAQUE);
        /* SECTION_FULL, and the device named "timer" first. */
        assert_int_equal(seen->skeleton.data[seen->skeleton_before_mode], 4);
        assert_memory_equal(seen->skeleton.data + seen->skeleton_before_mode + 6, "timer", 5);
        seen_free(seen);
}

static void test_cutting_the_stream_anywhere_changes_nothing(void **state)
{
        static const size_t chunks[] = {1, 2, 3, 7, 8, 9, 13, 4095, 4096, 4097, 4104, 65536};
        struct seen *whole = seen_new();

        assert_int_equal(parse(whole, "pc.ram", golden, golden_len, golden_len), 0);
        for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
                struct seen *cut = seen_new();

                assert_int_equal(parse(cut, "pc.ram", golden, golden_len, chunks[i]), 0);
                assert_int_equal(cut->skeleton.len, whole->skeleton.len);
                assert_memory_equal(cut->skeleton.data, whole->skeleton.data, whole->skeleton.len);
                assert_memory_equal(cut->ram, whole->ram, sizeof(whole->ram));
                assert_int_equal(cut->skeleton_before_mode, whole->skeleton_before_mode);
                seen_free(cut);
        }
        seen_free(whole);
}

static void test_stream_is_complete_at_its_last_byte_only(void **state)
{
        struct stream_parser_config config = {.direct_block = "pc.ram", .direct_bytes = GOLDEN_BYTES};
        static const size_t chunks[] = {1, 1000, 65536};

        for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
                _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
                struct seen *seen = seen_new();

                assert_int_equal(stream_parser_new(&config, &ops, seen, &parser, NULL), 0);
                for (size_t at = 0; at < golden_len; at += chunks[i]) {
                        assert_false(stream_parser_complete(parser));
                        assert_int_equal(stream_parser_feed(
                                                 parser, golden + at, MIN(chunks[i], golden_len - at), NULL),
                                0);
                }
                assert_true(stream_parser_complete(parser));
                seen_free(seen);
        }
}

static void test_length_that_looks_like_a_description_does_not_hide_the_end(void **state)
{
        static const char text[0x0600] = {'{', [0x05ff] = '}'};
        struct seen *seen = seen_new();
        struct stream_parser_config config = {
                .direct_block = "pc.ram", .direct_bytes = GOLDEN_BYTES, .tunnel = true};
        _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put8(&stream, 0);
        put8(&stream, 6);
        put32(&stream, sizeof(text)); /* 00 00 06 00 */
        put(&stream, text, sizeof(text));
        memset(stream.data + 7, 'x', sizeof(text) - 2);
        assert_int_equal(stream_parser_new(&config, &ops, seen, &parser, NULL), 0);
        assert_int_equal(stream_parser_feed(parser, (uint8_t *)stream.data, stream.len, NULL), 0);
        assert_true(stream_parser_complete(parser));
        buf_deinit(&stream);
        seen_free(seen);
}

static void test_skeleton_is_a_stream_without_the_direct_block(void **state)
{
        struct seen *first = seen_new(), *again = seen_new();

        assert_int_equal(parse(first, "pc.ram", golden, golden_len, golden_len), 0);
        assert_true(first->skeleton.len < golden_len);
        assert_int_equal(parse(again, "pc.ram", first->skeleton.data, first->skeleton.len, 100), 0);
        assert_int_equal(again->n_pages + again->n_zero, 0);
        assert_int_equal(again->mode, STREAM_OPAQUE);
        assert_int_equal(again->skeleton.len, first->skeleton.len);
        assert_memory_equal(again->skeleton.data, first->skeleton.data, first->skeleton.len);
        seen_free(first);
        seen_free(again);
}

/* Small streams: file header, configuration, START of ram (section 2) with the blocks pc.ram and vga. */

static void put_name(struct buf *buf, const char *name)
{
        put8(buf, (uint8_t)strlen(name));
        put(buf, name, strlen(name));
}

static void put_page(struct buf *buf, uint64_t page, const char *block, uint8_t fill)
{
        uint8_t data[STREAM_PAGE_SIZE];

        memset(data, fill, sizeof(data));
        put64(buf, page * STREAM_PAGE_SIZE | 0x08 | (block ? 0 : 0x20));
        if (block)
                put_name(buf, block);
        put(buf, data, sizeof(data));
}

static void put_end_of_section(struct buf *buf)
{
        put64(buf, 0x10);
        put8(buf, 0x7e);
        put32(buf, 2);
}

static void put_head(struct buf *buf)
{
        put32(buf, 0x5145564d);
        put32(buf, 3);
        put8(buf, 7);
        put32(buf, 2);
        put(buf, "pc", 2);
}

static void put_ram_start(struct buf *buf)
{
        put8(buf, 1);
        put32(buf, 2);
        put_name(buf, "ram");
        put32(buf, 0);
        put32(buf, 4);
        put64(buf, (GOLDEN_BYTES + STREAM_PAGE_SIZE) | 0x04);
        put_name(buf, "pc.ram");
        put64(buf, GOLDEN_BYTES);
        put_name(buf, "vga");
        put64(buf, STREAM_PAGE_SIZE);
        put_end_of_section(buf);
}

static void put_part(struct buf *buf, uint8_t type)
{
        put8(buf, type);
        put32(buf, 2);
}

static void small_stream(struct buf *buf)
{
        buf_init(buf, MAX_BYTES);
        put_head(buf);
        put_ram_start(buf);
}

static void test_continue_flag_refers_across_sections(void **state)
{
        struct seen *seen = seen_new();
        struct buf stream;

        small_stream(&stream);
        put_part(&stream, 2);
        put_page(&stream, 1, "pc.ram", 0x11);
        put_end_of_section(&stream);
        put_part(&stream, 2);
        put_page(&stream, 2, NULL, 0x22);
        assert_int_equal(parse(seen, "pc.ram", stream.data, stream.len, 5), 0);
        assert_int_equal(seen->n_pages, 2);
        assert_int_equal(seen->ram[2 * STREAM_PAGE_SIZE], 0x22);
        buf_deinit(&stream);
        seen_free(seen);
}

static void test_kept_pages_carry_their_blocks_name(void **state)
{
        struct seen *seen = seen_new();
        struct buf stream, expected;

        small_stream(&stream);
        small_stream(&expected);
        put_part(&stream, 2);
        put_part(&expected, 2);
        put_page(&stream, 0, "vga", 1);
        put_page(&expected, 0, "vga", 1);
        put_page(&stream, 3, "pc.ram", 2);
        put_page(&stream, 0, "vga", 3);
        put_page(&expected, 0, "vga", 3);
        put_page(&stream, 0, NULL, 4);
        put_page(&expected, 0, "vga", 4); /* no CONTINUE */
        put_end_of_section(&stream);
        put_end_of_section(&expected);
        assert_int_equal(parse(seen, "pc.ram", stream.data, stream.len, 1000), 0);
        assert_int_equal(seen->skeleton.len, expected.len);
        assert_memory_equal(seen->skeleton.data, expected.data, expected.len);
        buf_deinit(&stream);
        buf_deinit(&expected);
        seen_free(seen);
}

static void test_return_path_commands_are_taken_out(void **state)
{
        static const uint8_t open_path[] = {8, 0, 1, 0, 0}, ping[] = {8, 0, 2, 0, 4, 0, 0, 0, 9};
        struct seen *seen = seen_new();
        struct buf stream, expected;

        buf_init(&stream, MAX_BYTES);
        buf_init(&expected, MAX_BYTES);
        put_head(&stream);
        put(&stream, open_path, sizeof(open_path));
        put(&stream, ping, sizeof(ping));
        put_ram_start(&stream);
        put_head(&expected);
        put_ram_start(&expected);
        assert_int_equal(parse(seen, "pc.ram", stream.data, stream.len, 1), 0);
        assert_int_equal(seen->n_pings, 1);
        assert_int_equal(seen->ping, 9);
        assert_int_equal(seen->skeleton.len, expected.len);
        assert_memory_equal(seen->skeleton.data, expected.data, expected.len);
        buf_deinit(&stream);
        buf_deinit(&expected);
        seen_free(seen);
}

static void test_switchover_start_is_kept(void **state)
{
        static const uint8_t command[] = {8, 0, 11, 0, 0};
        struct seen *seen = seen_new();
        struct buf stream;

        small_stream(&stream);
        put(&stream, command, sizeof(command));
        assert_int_equal(parse(seen, "pc.ram", stream.data, stream.len, 3), 0);
        assert_int_equal(seen->skeleton.len, stream.len);
        assert_int_equal(seen->n_modes, 0);
        buf_deinit(&stream);
        seen_free(seen);
}

/* Everything from the unknown on must come out as it went in. */
static void assert_tunnel(struct buf *stream, const void *tail, size_t tail_len)
{
        size_t before = stream->len;

        put(stream, tail, tail_len);
        for (size_t chunk = 1; chunk < 9; chunk++) {
                struct seen *seen = seen_new();

                assert_int_equal(parse(seen, "pc.ram", stream->data, stream->len, chunk), 0);
                assert_int_equal(seen->mode, STREAM_TUNNEL);
                assert_int_equal(seen->n_modes, 1);
                assert_int_equal(seen->skeleton_before_mode, before);
                assert_int_equal(seen->skeleton.len, stream->len);
                assert_memory_equal(seen->skeleton.data, stream->data, stream->len);
                seen_free(seen);
        }
}

static void test_early_device_state_goes_through_the_tunnel(void **state)
{
        static const uint8_t full[] = {4, 0, 0, 0, 9, 5, 'v', 'i', 'r', 't', 'o', 0, 0, 0, 0, 1, 2, 3};
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put_head(&stream);
        assert_tunnel(&stream, full, sizeof(full));
        buf_deinit(&stream);
}

static void test_other_iterative_device_goes_through_the_tunnel(void **state)
{
        static const uint8_t vfio[] = {
                1, 0, 0, 0, 9, 4, 'v', 'f', 'i', 'o', 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff};
        struct buf stream;

        small_stream(&stream);
        assert_tunnel(&stream, vfio, sizeof(vfio));
        buf_deinit(&stream);
}

static void test_postcopy_advise_goes_through_the_tunnel(void **state)
{
        static const uint8_t advise[] = {8, 0, 3, 0, 0, 1, 2, 3};
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put_head(&stream);
        assert_tunnel(&stream, advise, sizeof(advise));
        buf_deinit(&stream);
}

static const uint8_t open_return_path[] = {8, 0, 1, 0, 0};
static const uint8_t advise_command[] = {8, 0, 3, 0, 16, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0};

static void test_advise_is_followed_by_a_ping_and_holds_pages_up(void **state)
{
        static const uint8_t ping[] = {8, 0, 2, 0, 4, 0xd5, 0x0a, 0xd7, 0x15};
        struct buf stream, expected;

        buf_init(&stream, MAX_BYTES);
        buf_init(&expected, MAX_BYTES);
        put_head(&stream);
        put(&stream, open_return_path, sizeof(open_return_path));
        put(&stream, advise_command, sizeof(advise_command));
        put(&expected, stream.data, stream.len);
        put(&expected, ping, sizeof(ping));
        for (size_t chunk = 1; chunk < 9; chunk++) {
                struct seen *seen = seen_new();

                assert_int_equal(parse_as(seen, "pc.ram", true, stream.data, stream.len, chunk), 0);
                assert_int_equal(seen->n_advised, 1);
                assert_int_equal(seen->n_pings, 0); /* the destination's QEMU answers */
                assert_int_equal(seen->skeleton_before_advised, expected.len);
                assert_int_equal(seen->skeleton.len, expected.len);
                assert_memory_equal(seen->skeleton.data, expected.data, expected.len);
                seen_free(seen);
        }
        buf_deinit(&stream);
        buf_deinit(&expected);
}

/* What follows must come out as it went in, whatever it looks like. */
static void test_first_discard_begins_post_copy(void **state)
{
        static const uint8_t tail[] = {8, 0, 6, 0, 3, 0, 1, 'x', 0, 6, 0, 0, 0, 2, '{', '}', 1, 2, 3};
        struct buf stream;

        small_stream(&stream);
        for (size_t chunk = 1; chunk < 9; chunk++) {
                struct seen *seen = seen_new();
                size_t before = stream.len;

                put(&stream, tail, sizeof(tail));
                assert_int_equal(parse_as(seen, "pc.ram", true, stream.data, stream.len, chunk), 0);
                assert_int_equal(seen->n_modes, 1);
                assert_int_equal(seen->mode, STREAM_POST_COPY);
                assert_int_equal(seen->skeleton.len - seen->skeleton_before_mode, sizeof(tail));
                assert_memory_equal(seen->skeleton.data + seen->skeleton_before_mode, tail, sizeof(tail));
                stream.len = before;
                seen_free(seen);
        }
        buf_deinit(&stream);
}

static void test_discard_without_post_copy_goes_through_the_tunnel(void **state)
{
        static const uint8_t discard[] = {8, 0, 6, 0, 3, 0, 1, 'x'};
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put_head(&stream);
        assert_tunnel(&stream, discard, sizeof(discard));
        buf_deinit(&stream);
}

static void test_unknown_configuration_goes_through_the_tunnel(void **state)
{
        static const uint8_t caps[] = {5, 4, 'c', 'a', 'p', 's', 0, 0, 0, 1, 9, 9};
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put_head(&stream);
        assert_tunnel(&stream, caps, sizeof(caps));
        buf_deinit(&stream);
}

static void test_tunnel_after_direct_pages_first_restores_the_last_block(void **state)
{
        struct seen *seen = seen_new();
        struct buf stream, expected;

        small_stream(&stream);
        small_stream(&expected);
        put_part(&stream, 2);
        put_part(&expected, 2);
        put_page(&stream, 5, "pc.ram", 1);
        put64(&stream, 0x40 | 0x20); /* XBZRLE in the same block */
        put_page(&expected, 5, "pc.ram", 0xee);
        put64(&expected, 0x40 | 0x20);
        assert_int_equal(parse(seen, "pc.ram", stream.data, stream.len, 11), 0);
        assert_int_equal(seen->mode, STREAM_TUNNEL);
        assert_int_equal(seen->skeleton.len, expected.len);
        assert_memory_equal(seen->skeleton.data, expected.data, expected.len);
        buf_deinit(&stream);
        buf_deinit(&expected);
        seen_free(seen);
}

static void test_tunnel_between_sections_restores_the_last_block_in_a_section(void **state)
{
        static const uint8_t advise[] = {8, 0, 3, 0, 0};
        struct seen *seen = seen_new();
        struct buf stream, expected;

        small_stream(&stream);
        small_stream(&expected);
        for (int i = 0; i < 2; i++) {
                struct buf *buf = i == 0 ? &stream : &expected;

                put_part(buf, 2);
                if (i == 0)
                        put_page(buf, 5, "pc.ram", 1);
                put_end_of_section(buf);
        }
        put_part(&expected, 2);
        put_page(&expected, 5, "pc.ram", 0xee);
        put_end_of_section(&expected);
        put(&stream, advise, sizeof(advise));
        put(&expected, advise, sizeof(advise));
        assert_int_equal(parse(seen, "pc.ram", stream.data, stream.len, stream.len), 0);
        assert_int_equal(seen->skeleton.len, expected.len);
        assert_memory_equal(seen->skeleton.data, expected.data, expected.len);
        buf_deinit(&stream);
        buf_deinit(&expected);
        seen_free(seen);
}

static void assert_refused(struct buf *stream)
{
        struct seen *seen = seen_new();

        assert_int_equal(parse(seen, "pc.ram", stream->data, stream->len, 17), -EPROTO);
        seen_free(seen);
        buf_deinit(stream);
}

static void test_page_outside_of_memory_is_refused(void **state)
{
        struct buf stream;

        small_stream(&stream);
        put_part(&stream, 2);
        put_page(&stream, GOLDEN_PAGES, "pc.ram", 1);
        assert_refused(&stream);
}

static void test_continue_without_a_block_is_refused(void **state)
{
        struct buf stream;

        small_stream(&stream);
        put_part(&stream, 2);
        put_page(&stream, 0, NULL, 1);
        assert_refused(&stream);
}

static void test_memory_of_another_size_is_refused(void **state)
{
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put_head(&stream);
        put8(&stream, 1);
        put32(&stream, 2);
        put_name(&stream, "ram");
        put64(&stream, 4);
        put64(&stream, STREAM_PAGE_SIZE | 0x04);
        put_name(&stream, "pc.ram");
        put64(&stream, STREAM_PAGE_SIZE);
        assert_refused(&stream);
}

static void test_wrong_magic_is_refused(void **state)
{
        struct buf stream;

        buf_init(&stream, MAX_BYTES);
        put64(&stream, 0x1122334455667788);
        assert_refused(&stream);
}

static void test_missing_footer_is_refused(void **state)
{
        struct buf stream;

        small_stream(&stream);
        put_part(&stream, 2);
        put64(&stream, 0x10);
        put_part(&stream, 2);
        assert_refused(&stream);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_real_stream_yields_every_page_with_its_content),
                cmocka_unit_test(test_real_stream_becomes_opaque_at_the_device_state),
                cmocka_unit_test(test_cutting_the_stream_anywhere_changes_nothing),
                cmocka_unit_test(test_stream_is_complete_at_its_last_byte_only),
                cmocka_unit_test(test_length_that_looks_like_a_description_does_not_hide_the_end),
                cmocka_unit_test(test_skeleton_is_a_stream_without_the_direct_block),
                cmocka_unit_test(test_continue_flag_refers_across_sections),
                cmocka_unit_test(test_kept_pages_carry_their_blocks_name),
                cmocka_unit_test(test_return_path_commands_are_taken_out),
                cmocka_unit_test(test_switchover_start_is_kept),
                cmocka_unit_test(test_early_device_state_goes_through_the_tunnel),
                cmocka_unit_test(test_other_iterative_device_goes_through_the_tunnel),
                cmocka_unit_test(test_postcopy_advise_goes_through_the_tunnel),
                cmocka_unit_test(test_advise_is_followed_by_a_ping_and_holds_pages_up),
                cmocka_unit_test(test_first_discard_begins_post_copy),
                cmocka_unit_test(test_discard_without_post_copy_goes_through_the_tunnel),
                cmocka_unit_test(test_unknown_configuration_goes_through_the_tunnel),
                cmocka_unit_test(test_tunnel_after_direct_pages_first_restores_the_last_block),
                cmocka_unit_test(test_tunnel_between_sections_restores_the_last_block_in_a_section),
                cmocka_unit_test(test_page_outside_of_memory_is_refused),
                cmocka_unit_test(test_continue_without_a_block_is_refused),
                cmocka_unit_test(test_memory_of_another_size_is_refused),
                cmocka_unit_test(test_wrong_magic_is_refused),
                cmocka_unit_test(test_missing_footer_is_refused),
        };

        return cmocka_run_group_tests(tests, load_golden, free_golden);
}

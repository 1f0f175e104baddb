/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "base/cursor.h"

static void getters_read_both_byte_orders(void **state _unused_)
{
        const uint8_t bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c};
        struct cursor c = cursor_of(bytes, sizeof(bytes));
        uint16_t be, le;
        uint64_t wide;

        assert_true(cursor_u16be(&c, &be));
        assert_true(cursor_u16le(&c, &le));
        assert_true(cursor_u64be(&c, &wide));
        assert_int_equal(be, 0x0102);
        assert_int_equal(le, 0x0403);
        assert_true(wide == UINT64_C(0x05060708090a0b0c));
        assert_int_equal(c.left, 0);
}

static void a_value_that_is_not_whole_is_refused_and_untouched(void **state _unused_)
{
        struct cursor c = cursor_of("abc", 3);
        uint32_t v = 77;

        assert_false(cursor_u32le(&c, &v));
        assert_int_equal(v, 77);
        assert_int_equal(c.left, 3);
}

static void nothing_succeeds_after_a_failure(void **state _unused_)
{
        struct cursor c = cursor_of("abc", 3);
        const uint8_t *at = NULL;
        uint8_t byte;

        assert_false(cursor_bytes(&c, 4, &at));
        assert_false(cursor_u8(&c, &byte));
        assert_false(cursor_bytes(&c, 0, &at));
        assert_null(at);
}

static void a_huge_length_does_not_wrap(void **state _unused_)
{
        struct cursor c = cursor_of("abc", 3);
        const uint8_t *at;

        assert_false(cursor_bytes(&c, SIZE_MAX, &at));
}

static void zero_bytes_can_be_had_at_the_end(void **state _unused_)
{
        struct cursor c = cursor_of("a", 1);
        const uint8_t *at;
        uint8_t byte;

        assert_true(cursor_u8(&c, &byte));
        assert_true(cursor_bytes(&c, 0, &at));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(getters_read_both_byte_orders),
                cmocka_unit_test(a_value_that_is_not_whole_is_refused_and_untouched),
                cmocka_unit_test(nothing_succeeds_after_a_failure),
                cmocka_unit_test(a_huge_length_does_not_wrap),
                cmocka_unit_test(zero_bytes_can_be_had_at_the_end),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

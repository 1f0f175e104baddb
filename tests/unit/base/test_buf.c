/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "unit/torture_loop.h"

static void append_keeps_a_terminator(void **state _unused_)
{
        _cleanup_buf_ struct buf b;

        buf_init(&b, 100);
        assert_string_equal(buf_string(&b), "");
        assert_int_equal(buf_append(&b, "ab\0c", 4), 0);
        assert_int_equal(b.len, 4);
        assert_memory_equal(b.data, "ab\0c", 5);
}

static void a_zero_append_allocates_a_string(void **state _unused_)
{
        _cleanup_buf_ struct buf b;

        buf_init(&b, 100);
        assert_int_equal(buf_append(&b, NULL, 0), 0);
        assert_int_equal(b.len, 0);
        assert_string_equal(buf_string(&b), "");
}

static void the_maximum_can_be_reached_but_not_passed(void **state _unused_)
{
        _cleanup_buf_ struct buf b;

        buf_init(&b, 10);
        assert_int_equal(buf_append_string(&b, "0123456789"), 0);
        assert_int_equal(buf_append(&b, "x", 1), -E2BIG);
        assert_string_equal(b.data, "0123456789");
}

static void printf_that_does_not_fit_changes_nothing(void **state _unused_)
{
        _cleanup_buf_ struct buf b;

        buf_init(&b, 8);
        assert_int_equal(buf_printf(&b, "%d-", 42), 0);
        assert_int_equal(buf_printf(&b, "%s", "too long"), -E2BIG);
        assert_string_equal(b.data, "42-");
}

static void consume_moves_the_rest_to_the_front(void **state _unused_)
{
        _cleanup_buf_ struct buf b;

        buf_init(&b, 1000);
        assert_int_equal(buf_append_string(&b, "one two"), 0);
        buf_consume(&b, 4);
        assert_string_equal(b.data, "two");
        buf_clear(&b);
        assert_string_equal(buf_string(&b), "");
        buf_clear(&b);
}

static void reserve_and_commit_fill_in_place(void **state _unused_)
{
        _cleanup_buf_ struct buf b;
        char *to;

        buf_init(&b, 5);
        assert_null(buf_reserve(&b, 6));
        to = buf_reserve(&b, 5);
        assert_non_null(to);
        memcpy(to, "hello", 5);
        buf_commit(&b, 5);
        assert_string_equal(b.data, "hello");
}

static void a_taken_string_is_the_callers_and_leaves_an_empty_buffer(void **state _unused_)
{
        _cleanup_buf_ struct buf b;
        _cleanup_free_ char *first = NULL, *second = NULL;

        buf_init(&b, 100);
        assert_int_equal(buf_append_string(&b, "text"), 0);
        first = buf_take_string(&b);
        second = buf_take_string(&b);
        assert_string_equal(first, "text");
        assert_string_equal(second, "");
        assert_int_equal(buf_append_string(&b, "again"), 0);
        assert_string_equal(b.data, "again");
}

static void grow_body(void *arg _unused_)
{
        _cleanup_buf_ struct buf b;
        _cleanup_free_ char *s = NULL;

        buf_init(&b, 100000);
        for (int i = 0; i < 2000; i++) {
                size_t before = b.len;

                if (torture_failed(buf_printf(&b, "%d,", i) < 0)) {
                        assert_int_equal(b.len, before);
                        return;
                }
        }
        s = buf_take_string(&b);
        if (torture_failed(!s))
                return;
        assert_memory_equal(s, "0,1,2,3,", 8);
}

static void growth_survives_failing_allocations(void **state _unused_)
{
        torture_loop(grow_body, NULL);
}

/* What a block that was freed holds is not ours to look at: so another allocation is asked for the same block. */
static void a_secret_leaves_nothing_in_the_memory_that_it_had(void **state)
{
        static const char secret[] = "correct horse battery staple, and many more words of that kind";
        struct buf buf;
        char *again;

        buf_init(&buf, 4096);
        buf.secret = true;
        for (int i = 0; i < 20; i++) /* it moves meanwhile */
                assert_int_equal(buf_append_string(&buf, secret), 0);
        assert_memory_equal(buf.data + 19 * strlen(secret), secret, sizeof(secret));
        buf_deinit(&buf);
        assert_true(buf.secret);
        for (size_t size = 257; size < 4096; size = size * 2 - 1) {
                again = malloc(size);
                assert_non_null(again);
                assert_null(memmem(again, size, secret + 20, sizeof(secret) - 20));
                free(again);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(append_keeps_a_terminator),
                cmocka_unit_test(a_zero_append_allocates_a_string),
                cmocka_unit_test(the_maximum_can_be_reached_but_not_passed),
                cmocka_unit_test(printf_that_does_not_fit_changes_nothing),
                cmocka_unit_test(consume_moves_the_rest_to_the_front),
                cmocka_unit_test(reserve_and_commit_fill_in_place),
                cmocka_unit_test(a_taken_string_is_the_callers_and_leaves_an_empty_buffer),
                cmocka_unit_test(a_secret_leaves_nothing_in_the_memory_that_it_had),
                cmocka_unit_test(growth_survives_failing_allocations),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>

#include "base/map.h"
#include "unit/torture_loop.h"

static void what_is_put_is_found(void **state _unused_)
{
        _cleanup_(map_deinit) struct map m;
        int one, two;

        map_init(&m);
        assert_null(map_get(&m, "a"));
        assert_int_equal(map_put(&m, "a", &one, NULL), 0);
        assert_int_equal(map_put(&m, "b", &two, NULL), 0);
        assert_ptr_equal(map_get(&m, "a"), &one);
        assert_ptr_equal(map_get(&m, "b"), &two);
        assert_null(map_get(&m, "c"));
        assert_int_equal(map_size(&m), 2);
}

static void a_second_put_replaces_and_returns_the_old_value(void **state _unused_)
{
        _cleanup_(map_deinit) struct map m;
        int one, two;
        void *old = &two;

        map_init(&m);
        assert_int_equal(map_put(&m, "a", &one, &old), 0);
        assert_null(old);
        assert_int_equal(map_put(&m, "a", &two, &old), 0);
        assert_ptr_equal(old, &one);
        assert_int_equal(map_size(&m), 1);
}

static void removal_returns_the_value_once(void **state _unused_)
{
        _cleanup_(map_deinit) struct map m;
        int one;

        map_init(&m);
        assert_null(map_remove(&m, "a"));
        assert_int_equal(map_put(&m, "a", &one, NULL), 0);
        assert_ptr_equal(map_remove(&m, "a"), &one);
        assert_null(map_remove(&m, "a"));
        assert_int_equal(map_size(&m), 0);
}

static void keys_are_copied(void **state _unused_)
{
        _cleanup_(map_deinit) struct map m;
        char key[] = "abc";
        int one;

        map_init(&m);
        assert_int_equal(map_put(&m, key, &one, NULL), 0);
        key[0] = 'x';
        assert_ptr_equal(map_get(&m, "abc"), &one);
}

static void iteration_is_in_order_of_insertion_and_stands_removal(void **state _unused_)
{
        _cleanup_(map_deinit) struct map m;
        struct map_item *item;
        struct map_item *spare;
        char key[16];
        int seen = 0;

        map_init(&m);
        for (int i = 0; i < 100; i++) {
                snprintf(key, sizeof(key), "%d", i);
                assert_int_equal(map_put(&m, key, &seen, NULL), 0);
        }
        map_for_each (item, spare, &m) {
                snprintf(key, sizeof(key), "%d", seen++);
                assert_string_equal(item->key, key);
                if (seen % 2)
                        map_remove(&m, key);
        }
        assert_int_equal(seen, 100);
        assert_int_equal(map_size(&m), 50);
        assert_null(map_get(&m, "0"));
        assert_non_null(map_get(&m, "99"));
}

static void fill_body(void *arg _unused_)
{
        _cleanup_(map_deinit) struct map m;
        char key[16];
        int value;

        map_init(&m);
        for (int i = 0; i < 40; i++) { /* the table grows twice on the way */
                snprintf(key, sizeof(key), "%d", i);
                if (torture_failed(map_put(&m, key, &value, NULL) < 0)) {
                        assert_int_equal(map_size(&m), i);
                        assert_null(map_get(&m, key));
                        return;
                }
        }
        assert_int_equal(map_size(&m), 40);
}

static void a_failed_put_leaves_the_map_as_it_was(void **state _unused_)
{
        torture_loop(fill_body, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_is_put_is_found),
                cmocka_unit_test(a_second_put_replaces_and_returns_the_old_value),
                cmocka_unit_test(removal_returns_the_value_once),
                cmocka_unit_test(keys_are_copied),
                cmocka_unit_test(iteration_is_in_order_of_insertion_and_stands_removal),
                cmocka_unit_test(a_failed_put_leaves_the_map_as_it_was),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

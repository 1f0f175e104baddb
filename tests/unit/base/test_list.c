/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "base/list.h"

struct item {
        int n;
        struct list link;
};

static void items_come_in_order_of_appending(void **state _unused_)
{
        struct item items[3] = {{.n = 0}, {.n = 1}, {.n = 2}};
        struct list head = LIST_INIT(head);
        const struct item *item;
        int n = 0;

        assert_true(list_empty(&head));
        for (int i = 0; i < 3; i++)
                list_append(&head, &items[i].link);
        list_for_each (item, &head, link)
                assert_int_equal(item->n, n++);
        assert_int_equal(n, 3);
        assert_ptr_equal(LIST_FIRST(&head, struct item, link), &items[0]);
}

static void removing_twice_or_what_is_in_no_list_is_harmless(void **state _unused_)
{
        struct item a = {}, b = {};
        struct list head;

        list_init(&head);
        list_remove(&a.link); /* all zero: never in a list */
        list_append(&head, &a.link);
        list_append(&head, &b.link);
        list_remove(&a.link);
        list_remove(&a.link);
        assert_ptr_equal(LIST_FIRST(&head, struct item, link), &b);
        list_remove(&b.link);
        assert_null(LIST_FIRST(&head, struct item, link));
}

static void the_current_item_may_be_freed_in_the_safe_loop(void **state _unused_)
{
        struct item *item, *spare;
        struct list head;
        int n = 0;

        list_init(&head);
        for (int i = 0; i < 10; i++) {
                item = calloc(1, sizeof(*item));
                assert_non_null(item);
                list_append(&head, &item->link);
        }
        list_for_each_safe (item, spare, &head, link) {
                list_remove(&item->link);
                free(item);
                n++;
        }
        assert_int_equal(n, 10);
        assert_true(list_empty(&head));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(items_come_in_order_of_appending),
                cmocka_unit_test(removing_twice_or_what_is_in_no_list_is_harmless),
                cmocka_unit_test(the_current_item_may_be_freed_in_the_safe_loop),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

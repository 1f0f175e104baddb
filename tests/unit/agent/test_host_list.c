/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/host_list.h"
#include "base/doc.h"
#include "io/file.h"

#define GONE "11111111-1111-4111-8111-111111111111"
#define HERE "22222222-2222-4222-8222-222222222222"

static char folder[32];

static int setup(void **state)
{
        (void)snprintf(folder, sizeof(folder), "/tmp/drover-removed-XXXXXX");
        return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
        return file_remove_tree(folder);
}

static int set(struct host_list *list, json_t *document)
{
        int r = host_list_set(list, document, NULL);

        json_decref(document);
        return r;
}

static void test_nobody_is_removed_at_first(void **state)
{
        _cleanup_(host_list_freep) struct host_list *list = NULL;

        assert_int_equal(host_list_new(folder, "removed-hosts", &list, NULL), 0);
        assert_false(host_list_has(list, GONE));
}

static void test_list_survives_a_restart(void **state)
{
        struct host_list *list = NULL;

        assert_int_equal(host_list_new(folder, "removed-hosts", &list, NULL), 0);
        assert_int_equal(set(list, json_pack("{s:[s]}", "hosts", GONE)), 0);
        host_list_free(list);
        assert_int_equal(host_list_new(folder, "removed-hosts", &list, NULL), 0);
        assert_true(host_list_has(list, GONE));
        assert_false(host_list_has(list, HERE));
        host_list_free(list);
}

static void test_bad_list_changes_nothing(void **state)
{
        _cleanup_(host_list_freep) struct host_list *list = NULL;

        assert_int_equal(host_list_new(folder, "removed-hosts", &list, NULL), 0);
        assert_int_equal(set(list, json_pack("{s:[s]}", "hosts", GONE)), 0);
        assert_true(set(list, json_pack("{s:[s]}", "hosts", "../x")) < 0);
        assert_true(set(list, json_pack("{s:[i]}", "hosts", 1)) < 0);
        assert_true(set(list, json_object()) < 0);
        assert_true(set(list, json_pack("{s:[], s:i}", "hosts", "more", 1)) < 0);
        assert_true(host_list_has(list, GONE));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_nobody_is_removed_at_first),
                TEST(test_list_survives_a_restart),
                TEST(test_bad_list_changes_nothing),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

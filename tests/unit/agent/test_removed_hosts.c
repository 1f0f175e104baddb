/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent/removed_hosts.h"
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

static int set(struct removed_hosts *removed, json_t *document)
{
        int r = removed_hosts_set(removed, document, NULL);

        json_decref(document);
        return r;
}

static void test_nobody_is_removed_at_first(void **state)
{
        _cleanup_(removed_hosts_freep) struct removed_hosts *removed = NULL;

        assert_int_equal(removed_hosts_new(folder, &removed, NULL), 0);
        assert_false(removed_hosts_has(removed, GONE));
}

static void test_list_survives_a_restart(void **state)
{
        struct removed_hosts *removed = NULL;

        assert_int_equal(removed_hosts_new(folder, &removed, NULL), 0);
        assert_int_equal(set(removed, json_pack("{s:[s]}", "hosts", GONE)), 0);
        removed_hosts_free(removed);
        assert_int_equal(removed_hosts_new(folder, &removed, NULL), 0);
        assert_true(removed_hosts_has(removed, GONE));
        assert_false(removed_hosts_has(removed, HERE));
        removed_hosts_free(removed);
}

static void test_bad_list_changes_nothing(void **state)
{
        _cleanup_(removed_hosts_freep) struct removed_hosts *removed = NULL;

        assert_int_equal(removed_hosts_new(folder, &removed, NULL), 0);
        assert_int_equal(set(removed, json_pack("{s:[s]}", "hosts", GONE)), 0);
        assert_true(set(removed, json_pack("{s:[s]}", "hosts", "../x")) < 0);
        assert_true(set(removed, json_pack("{s:[i]}", "hosts", 1)) < 0);
        assert_true(set(removed, json_object()) < 0);
        assert_true(set(removed, json_pack("{s:[], s:i}", "hosts", "more", 1)) < 0);
        assert_true(removed_hosts_has(removed, GONE));
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

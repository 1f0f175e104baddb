/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>

#include "agent/request_cache.h"

struct waited {
        unsigned int n_calls;
        int status;
        bool failed;
};

static struct clock_manual clock_now;
static struct request_cache *cache;

static void on_answer(void *userdata, int status, json_t *json, struct error *error)
{
        struct waited *waited = userdata;

        waited->n_calls++;
        waited->status = status;
        waited->failed = error != NULL;
        json_decref(json);
        error_free(error);
}

static int begin(const char *id, const char *what, struct waited *waited, struct request_entry **ret_entry,
        int *ret_status)
{
        json_t *json = NULL;
        int r = request_cache_begin(cache, id, what, on_answer, waited, ret_entry, ret_status, &json, NULL);

        json_decref(json);
        return r;
}

static void answer(struct request_entry *entry, int status)
{
        json_t *json = json_object();

        request_entry_done(entry, status, json);
        json_decref(json);
}

static void test_answer_is_known_for_ten_minutes(void **state)
{
        struct request_entry *entry;
        int status = 0;

        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        answer(entry, 202);
        clock_manual_advance(&clock_now, REQUEST_CACHE_KEEP_MS);
        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_KNOWN);
        assert_int_equal(status, 202);
        clock_manual_advance(&clock_now, 1);
        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        answer(entry, 200);
}

static void test_repeat_waits_for_the_first(void **state)
{
        struct request_entry *entry, *none;
        struct waited waited = {0};
        int status = 0;

        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        assert_int_equal(begin("a", "POST /x", &waited, &none, &status), REQUEST_WAITS);
        assert_int_equal(waited.n_calls, 0);
        answer(entry, 201);
        assert_int_equal(waited.n_calls, 1);
        assert_int_equal(waited.status, 201);
        assert_false(waited.failed);
}

static void test_dropped_request_is_new_again_and_fails_those_who_wait(void **state)
{
        struct request_entry *entry, *again;
        struct waited waited = {0};
        int status = 0;

        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        assert_int_equal(begin("a", "POST /x", &waited, &again, &status), REQUEST_WAITS);
        request_entry_drop(entry);
        assert_true(waited.failed);
        assert_int_equal(begin("a", "POST /x", NULL, &again, &status), REQUEST_NEW);
        answer(again, 200);
}

static void test_same_id_for_something_else_is_refused(void **state)
{
        struct request_entry *entry;
        int status = 0;

        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        assert_int_equal(begin("a", "POST /y", NULL, &entry, &status), -EINVAL);
        answer(entry, 200);
}

static void test_waiters_are_bounded(void **state)
{
        struct request_entry *entry, *none;
        struct waited waited = {0};
        int status = 0;

        assert_int_equal(begin("a", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        for (int i = 0; i < REQUEST_WAITERS_MAX; i++)
                assert_int_equal(begin("a", "POST /x", &waited, &none, &status), REQUEST_WAITS);
        assert_int_equal(begin("a", "POST /x", &waited, &none, &status), -EBUSY);
        answer(entry, 200);
        assert_int_equal(waited.n_calls, REQUEST_WAITERS_MAX);
}

static void test_full_table_gives_up_the_oldest_answer(void **state)
{
        struct request_entry *entry;
        char id[16];
        int status = 0;

        for (int i = 0; i <= REQUEST_CACHE_MAX; i++) {
                (void)snprintf(id, sizeof(id), "%d", i);
                assert_int_equal(begin(id, "POST /x", NULL, &entry, &status), REQUEST_NEW);
                answer(entry, 200);
        }
        assert_int_equal(begin("1", "POST /x", NULL, &entry, &status), REQUEST_KNOWN);
        assert_int_equal(begin("0", "POST /x", NULL, &entry, &status), REQUEST_NEW);
        answer(entry, 200);
}

static int setup(void **state)
{
        clock_manual_init(&clock_now, 0);
        return request_cache_new(&clock_now.clock, &cache);
}

static int teardown(void **state)
{
        request_cache_free(cache);
        return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(test_answer_is_known_for_ten_minutes),
                TEST(test_repeat_waits_for_the_first),
                TEST(test_dropped_request_is_new_again_and_fails_those_who_wait),
                TEST(test_same_id_for_something_else_is_refused),
                TEST(test_waiters_are_bounded),
                TEST(test_full_table_gives_up_the_oldest_answer),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "unit/torture_loop.h"

static json_t *parse(const char *text)
{
        json_t *j = NULL;

        assert_int_equal(doc_parse(text, strlen(text), &j, NULL), 0);
        return j;
}

static void broken_text_is_refused_with_its_place(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL;
        json_t *j = NULL;

        assert_int_equal(doc_parse("{\"a\":\n x}", 9, &j, &e), -EINVAL);
        assert_null(j);
        assert_int_equal(e->code, ERROR_BAD_REQUEST);
        assert_non_null(strstr(e->message, "line 2"));
}

static void duplicate_keys_and_trailing_text_are_refused(void **state _unused_)
{
        json_t *j = NULL;

        assert_int_equal(doc_parse("{\"a\":1,\"a\":2}", 13, &j, NULL), -EINVAL);
        assert_int_equal(doc_parse("{} {}", 5, &j, NULL), -EINVAL);
        assert_int_equal(doc_parse("7", 1, &j, NULL), -EINVAL);
        assert_null(j);
}

static void deep_nesting_is_an_error_and_no_crash(void **state _unused_)
{
        static char text[200000];
        json_t *j = NULL;

        memset(text, '[', sizeof(text));
        assert_int_equal(doc_parse(text, sizeof(text), &j, NULL), -EINVAL);
}

static void the_canonical_text_does_not_depend_on_order(void **state _unused_)
{
        _cleanup_json_ json_t *a = parse("{\"b\": 1, \"a\": [2]}"), *b = parse("{\"a\":[2],\"b\":1}");
        _cleanup_free_ char *ta = doc_to_canonical_text(a), *tb = doc_to_canonical_text(b);
        _cleanup_free_ char *plain = doc_to_text(a);

        assert_string_equal(ta, "{\"a\":[2],\"b\":1}");
        assert_string_equal(ta, tb);
        assert_string_equal(plain, "{\"b\":1,\"a\":[2]}");
}

static void an_error_names_the_field(void **state _unused_)
{
        _cleanup_json_ json_t *j = parse("{\"cpus\": \"four\"}");
        _cleanup_error_ struct error *e = NULL;
        uint64_t cpus = 1;

        assert_int_equal(doc_opt_u64(j, "spec", "cpus", 1, 8, &cpus, &e), -EINVAL);
        assert_int_equal(cpus, 1);
        assert_int_equal(e->code, ERROR_BAD_DOCUMENT);
        assert_string_equal(e->message, "field spec.cpus must be an integer");
}

static void absent_and_null_are_the_same(void **state _unused_)
{
        _cleanup_json_ json_t *j = parse("{\"a\": null}");
        _cleanup_error_ struct error *e = NULL;
        const char *s = "default";

        assert_int_equal(doc_opt_string(j, "", "a", 10, &s, NULL), 0);
        assert_int_equal(doc_opt_string(j, "", "b", 10, &s, NULL), 0);
        assert_string_equal(s, "default");
        assert_int_equal(doc_need_string(j, "", "a", 10, &s, &e), -ENOENT);
        assert_string_equal(e->message, "field a is missing");
}

static void numbers_are_checked_against_their_range(void **state _unused_)
{
        _cleanup_json_ json_t *j = parse("{\"n\": 9, \"m\": -1, \"r\": 1.5}");
        uint64_t v = 5;

        assert_int_equal(doc_need_u64(j, "", "n", 0, 9, &v, NULL), 0);
        assert_int_equal(v, 9);
        assert_int_equal(doc_need_u64(j, "", "n", 0, 8, &v, NULL), -EINVAL);
        assert_int_equal(doc_need_u64(j, "", "m", 0, UINT64_MAX, &v, NULL), -EINVAL);
        assert_int_equal(doc_need_u64(j, "", "r", 0, UINT64_MAX, &v, NULL), -EINVAL);
        assert_int_equal(v, 9);
}

static void strings_are_bounded_and_without_nul(void **state _unused_)
{
        _cleanup_json_ json_t *j = json_pack("{s:s}", "s", "12345");
        const char *s = NULL;
        json_t *raw;

        assert_int_equal(doc_need_string(j, "", "s", 5, &s, NULL), 0);
        assert_string_equal(s, "12345");
        assert_int_equal(doc_need_string(j, "", "s", 4, &s, NULL), -EINVAL);
        raw = json_stringn("a\0b", 3);
        assert_int_equal(json_object_set_new(j, "z", raw), 0);
        assert_int_equal(doc_need_string(j, "", "z", 10, &s, NULL), -EINVAL);
}

static void objects_arrays_and_booleans_are_typed(void **state _unused_)
{
        _cleanup_json_ json_t *j = parse("{\"o\": {}, \"a\": [1, 2], \"b\": true}");
        json_t *v = NULL;
        bool b = false;

        assert_int_equal(doc_opt_object(j, "", "o", &v, NULL), 0);
        assert_true(json_is_object(v));
        assert_int_equal(doc_opt_object(j, "", "a", &v, NULL), -EINVAL);
        assert_int_equal(doc_opt_array(j, "", "a", 2, &v, NULL), 0);
        assert_int_equal(doc_opt_array(j, "", "a", 1, &v, NULL), -EINVAL);
        assert_int_equal(doc_opt_bool(j, "", "b", &b, NULL), 0);
        assert_true(b);
        assert_int_equal(doc_opt_bool(j, "", "a", &b, NULL), -EINVAL);
}

static void an_unknown_field_is_named(void **state _unused_)
{
        static const char *const keys[] = {"name", NULL};
        _cleanup_json_ json_t *j = parse("{\"name\": \"a\", \"nmae\": \"b\"}");
        _cleanup_error_ struct error *e = NULL;

        assert_int_equal(doc_only_keys(j, "spec", keys, &e), -EINVAL);
        assert_string_equal(e->message, "field spec.nmae is not known");
        json_object_del(j, "nmae");
        assert_int_equal(doc_only_keys(j, "spec", keys, NULL), 0);
}

static void round_trip_body(void *arg _unused_)
{
        _cleanup_error_ struct error *e = NULL;
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *j = NULL;

        if (torture_failed(doc_parse("{\"a\":1}", 7, &j, &e) < 0))
                return;
        text = doc_to_canonical_text(j);
        if (torture_failed(!text))
                return;
        assert_string_equal(text, "{\"a\":1}");
}

static void a_round_trip_survives_failing_allocations(void **state _unused_)
{
        torture_loop(round_trip_body, NULL);
}

/* What a block that was freed holds is not ours to look at: so another allocation is asked for the same block. */
static bool is_found_again(void)
{
        static const char secret[] = "correct horse battery staple, and many more words of that kind";
        _cleanup_free_ char *again = NULL;

        json_decref(json_string(secret));
        again = malloc(sizeof(secret));
        assert_non_null(again);
        return memmem(again, sizeof(secret), secret + 20, sizeof(secret) - 20) != NULL;
}

static void documents_leave_nothing_in_memory_where_that_is_said(void **state)
{
        _cleanup_json_ json_t *key = NULL;
        json_malloc_t give;
        json_free_t take;

        json_get_alloc_funcs(&give, &take);
        (void)is_found_again(); /* it is, unless the allocator overwrites what it gets back */
        doc_wipe_freed();
        assert_false(is_found_again());
        key = json_string("secret");
        doc_wipe_string(key);
        assert_memory_equal(json_string_value(key), "\0\0\0\0\0\0", 7);
        doc_wipe_string(NULL);
        json_decref(TAKE_PTR(key));
        json_set_alloc_funcs(give, take);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(broken_text_is_refused_with_its_place),
                cmocka_unit_test(duplicate_keys_and_trailing_text_are_refused),
                cmocka_unit_test(deep_nesting_is_an_error_and_no_crash),
                cmocka_unit_test(the_canonical_text_does_not_depend_on_order),
                cmocka_unit_test(an_error_names_the_field),
                cmocka_unit_test(absent_and_null_are_the_same),
                cmocka_unit_test(numbers_are_checked_against_their_range),
                cmocka_unit_test(strings_are_bounded_and_without_nul),
                cmocka_unit_test(objects_arrays_and_booleans_are_typed),
                cmocka_unit_test(an_unknown_field_is_named),
                cmocka_unit_test(documents_leave_nothing_in_memory_where_that_is_said),
                cmocka_unit_test(a_round_trip_survives_failing_allocations),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

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
#include "base/error.h"
#include "unit/torture_loop.h"

static void setting_returns_the_codes_errno(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL;

        assert_int_equal(
                error_set(&e, ERROR_LOCKED, "Stop it there.", "disk %s is in use on %s", "d1", "host2"),
                -EBUSY);
        assert_int_equal(e->code, ERROR_LOCKED);
        assert_string_equal(e->message, "disk d1 is in use on host2");
        assert_string_equal(e->hint, "Stop it there.");
        assert_null(e->object);
        assert_int_equal(error_set(NULL, ERROR_NOT_FOUND, NULL, "x"), -ENOENT);
}

static void a_second_error_replaces_the_first(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL;

        error_set(&e, ERROR_LOCKED, NULL, "first");
        error_set(&e, ERROR_BUSY, NULL, "second");
        assert_string_equal(e->message, "second");
}

static void the_first_object_named_stays(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL;

        error_about(NULL, "x");
        error_about(&e, "x");
        error_set(&e, ERROR_BUSY, NULL, "m");
        error_about(&e, "vm/%s", "web1");
        error_about(&e, "host/a");
        assert_string_equal(e->object, "vm/web1");
}

static void errno_values_get_the_fitting_code(void **state _unused_)
{
        static const struct {
                int err;
                enum error_code code;
        } cases[] = {
                {ENOMEM, ERROR_NO_MEMORY},
                {-ENOSPC, ERROR_NO_SPACE},
                {ETIMEDOUT, ERROR_TIMED_OUT},
                {-ECONNREFUSED, ERROR_UNREACHABLE},
                {EIO, ERROR_INTERNAL},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct error *e = NULL;

                assert_int_equal(error_from_errno(&e, cases[i].err, "reading %s", "f"), -abs(cases[i].err));
                assert_int_equal(e->code, cases[i].code);
                assert_memory_equal(e->message, "reading f: ", 11);
        }
}

static void every_code_has_its_own_word(void **state _unused_)
{
        for (int i = 0; i < N_ERROR_CODES; i++) {
                enum error_code code = N_ERROR_CODES;

                assert_int_equal(error_code_from_string(error_code_to_string((enum error_code)i), &code), 0);
                assert_int_equal(code, i);
                assert_in_range(error_code_to_http((enum error_code)i), 400, 599);
                assert_true(error_code_to_errno((enum error_code)i) > 0);
        }
        enum error_code code = ERROR_BUSY;
        assert_int_equal(error_code_from_string("no-such", &code), -EINVAL);
        assert_int_equal(error_code_from_string(NULL, &code), -EINVAL);
        assert_int_equal(code, ERROR_BUSY);
}

static void a_problem_document_goes_there_and_back(void **state _unused_)
{
        _cleanup_error_ struct error *e = NULL, *back = NULL;
        _cleanup_json_ json_t *j = NULL;

        error_set(&e, ERROR_NO_SPACE, "Free some.", "datastore %s is full", "shared");
        error_about(&e, "datastore/shared");
        j = error_to_json(e);
        assert_string_equal(json_string_value(json_object_get(j, "type")), "urn:drover:error:no-space");
        assert_int_equal(json_integer_value(json_object_get(j, "status")), 507);
        back = error_from_json(j);
        assert_int_equal(back->code, ERROR_NO_SPACE);
        assert_string_equal(back->message, "datastore shared is full");
        assert_string_equal(back->hint, "Free some.");
        assert_string_equal(back->object, "datastore/shared");
}

static void what_a_peer_sends_is_bounded_and_never_trusted(void **state _unused_)
{
        _cleanup_json_ json_t *j = json_object();
        _cleanup_error_ struct error *e = NULL, *none = NULL;
        char long_text[5000];

        memset(long_text, 'x', sizeof(long_text) - 1);
        long_text[sizeof(long_text) - 1] = '\0';
        json_object_set_new(j, "code", json_string("invented"));
        json_object_set_new(j, "detail", json_string(long_text));
        json_object_set_new(j, "hint", json_integer(7));
        e = error_from_json(j);
        assert_int_equal(e->code, ERROR_PEER_FAILED);
        assert_int_equal(strlen(e->message), 2048);
        assert_null(e->hint);
        none = error_from_json(NULL);
        assert_int_equal(none->code, ERROR_PEER_FAILED);
        assert_string_equal(error_message(none), "The peer reported an error");
}

static void propagation_moves_or_frees(void **state _unused_)
{
        _cleanup_error_ struct error *to = NULL;
        struct error *from = NULL;

        error_set(&from, ERROR_BUSY, NULL, "m");
        assert_int_equal(error_propagate(&to, TAKE_PTR(from)), -EBUSY);
        assert_string_equal(error_message(to), "m");
        error_set(&from, ERROR_BUSY, NULL, "m");
        assert_int_equal(error_propagate(NULL, TAKE_PTR(from)), -EBUSY);
        assert_string_equal(error_message(NULL), "success");
}

static void set_body(void *arg _unused_)
{
        _cleanup_error_ struct error *e = NULL;

        assert_int_equal(error_set(&e, ERROR_BUSY, "hint", "message"), -EBUSY);
        error_about(&e, "vm/a");
        assert_non_null(error_message(e));
        if (torture_failed(!e || !e->hint))
                return;
        assert_string_equal(e->message, "message");
}

static void without_memory_the_errno_is_still_right(void **state _unused_)
{
        torture_loop(set_body, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(setting_returns_the_codes_errno),
                cmocka_unit_test(a_second_error_replaces_the_first),
                cmocka_unit_test(the_first_object_named_stays),
                cmocka_unit_test(errno_values_get_the_fitting_code),
                cmocka_unit_test(every_code_has_its_own_word),
                cmocka_unit_test(a_problem_document_goes_there_and_back),
                cmocka_unit_test(what_a_peer_sends_is_bounded_and_never_trusted),
                cmocka_unit_test(propagation_moves_or_frees),
                cmocka_unit_test(without_memory_the_errno_is_still_right),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

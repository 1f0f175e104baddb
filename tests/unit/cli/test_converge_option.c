/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/converge_option.h"

#include <errno.h>

#include "base/doc.h"
#include "capture.h"

static void test_steps_become_items_in_their_order(void **state)
{
        static const struct {
                const char *text;
                const char *expected;
        } cases[] = {
                {"none", "[]"},
                {"wait", "[{\"step\":\"wait\"}]"},
                {"throttle=80,pause=2s,wait=30s",
                        "[{\"max_percent\":80,\"step\":\"throttle\"},{\"max_ms\":2000,\"step\":\"pause\"},"
                        "{\"ms\":30000,\"step\":\"wait\"}]"},
                {"wait,post-copy", "[{\"step\":\"wait\"},{\"step\":\"post-copy\"}]"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_json_ json_t *json = NULL;
                _cleanup_free_ char *text = NULL;

                assert_int_equal(converge_option(cases[i].text, &json, NULL), 0);
                text = doc_to_canonical_text(json);
                assert_string_equal(text, cases[i].expected);
        }
}

static void test_what_is_no_step_is_refused_by_name(void **state)
{
        static const char *const cases[][2] = {{"pray", "pray"}, {"", "no step"}, {"pause", "pause"},
                {"pause=2h", "2h"}, {"wait=x", "x"}, {"wait=0", "0"}, {"throttle=100", "100"},
                {"throttle=9", "9"}, {"wait,pray=7", "pray"}, {"post-copy=3", "post-copy"}};

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_error_ struct error *e = NULL;
                json_t *json = NULL;

                assert_int_equal(converge_option(cases[i][0], &json, &e), -EINVAL);
                assert_null(json);
                assert_int_equal(e->code, ERROR_BAD_REQUEST);
                assert_non_null(strstr(error_message(e), cases[i][1]));
                assert_non_null(strstr(e->hint, "wait=30s,pause=2s,throttle"));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_steps_become_items_in_their_order),
                cmocka_unit_test(test_what_is_no_step_is_refused_by_name),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

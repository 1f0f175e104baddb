/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "io/http_path.h"
#include "unit/torture_loop.h"

static void literal_paths_match_byte_for_byte(void **state _unused_)
{
        struct http_path_params p = {};

        assert_int_equal(http_path_match("/api/v1/vms", "/api/v1/vms", &p), 1);
        assert_int_equal(p.n, 0);
        for (const char *const *other = (const char *[]){"/api/v1/vm", "/api/v1/vms/", "/api/v1/vmsx",
                     "/api/v1", "api/v1/vms", "/api//v1/vms", "/api/v1/%76ms", "/API/v1/vms", "", "/", "*",
                     "/api/v1/x/../vms", NULL};
                *other; other++)
                assert_int_equal(http_path_match("/api/v1/vms", *other, &p), 0);
        assert_int_equal(http_path_match("/", "/", &p), 1);
}

static void a_parameter_takes_one_segment_decoded(void **state _unused_)
{
        struct http_path_params p = {};

        assert_int_equal(http_path_match("/vms/{name}/disks/{disk}", "/vms/a%2Fb%20c/disks/0", &p), 1);
        assert_int_equal(p.n, 2);
        assert_memory_equal(p.items[0].name, "name", p.items[0].name_len);
        assert_string_equal(p.items[0].value, "a/b c");
        assert_string_equal(p.items[1].value, "0");
        http_path_params_deinit(&p);
        assert_int_equal(http_path_match("/vms/{name}", "/vms/a/b", &p), 0);
        assert_int_equal(http_path_match("/vms/{name}", "/vms/", &p), 0);
        assert_int_equal(http_path_match("/vms/{name}", "/vms", &p), 0);
}

static void a_broken_encoding_is_an_error_only_where_the_shape_fits(void **state _unused_)
{
        struct http_path_params p = {};

        for (const char *const *bad =
                        (const char *[]){"/vms/%", "/vms/%4", "/vms/%zz", "/vms/a%00b", "/vms/%+1", NULL};
                *bad; bad++) {
                assert_int_equal(http_path_match("/vms/{name}", *bad, &p), -EINVAL);
                assert_int_equal(http_path_match("/hosts/{name}", *bad, &p), 0);
        }
        assert_int_equal(p.n, 0);
}

static void match_body(void *arg _unused_)
{
        struct http_path_params p = {};

        if (torture_failed(http_path_match("/{a}/{b}/{c}", "/1/2/3", &p) < 0))
                return;
        assert_string_equal(p.items[2].value, "3");
        http_path_params_deinit(&p);
}

static void matching_survives_failing_allocations(void **state _unused_)
{
        torture_loop(match_body, NULL);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(literal_paths_match_byte_for_byte),
                cmocka_unit_test(a_parameter_takes_one_segment_decoded),
                cmocka_unit_test(a_broken_encoding_is_an_error_only_where_the_shape_fits),
                cmocka_unit_test(matching_survives_failing_allocations),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

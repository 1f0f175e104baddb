/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../torture_loop.h"
#include "base/doc.h"
#include "cluster/cpu_model.h"

static json_t *cpu(void)
{
        json_t *doc = json_pack("{s:[s,s,s], s:[{s:s, s:[]}, {s:s, s:[s,s]}]}", "features", "aes", "avx",
                "x2apic", "models", "name", "Nehalem-v1", "missing", "name", "Skylake-Server-v4", "missing",
                "avx512f", "pcid");

        assert_non_null(doc);
        return doc;
}

/* The names, with spaces between. */
static void assert_missing(const char *model, const json_t *here, const json_t *there, const char *expected)
{
        _cleanup_json_ json_t *missing = NULL;
        char got[256] = "";
        json_t *name;
        size_t i;

        assert_int_equal(cpu_model_missing(model, here, there, &missing), 0);
        json_array_foreach (missing, i, name)
                snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s%s", i ? " " : "",
                        json_string_value(name));
        assert_string_equal(got, expected);
}

static void model_that_fits_lacks_nothing(void **state)
{
        _cleanup_json_ json_t *there = cpu();

        assert_missing("Nehalem-v1", NULL, there, "");
        assert_missing("Nehalem-v1,+aes,+x2apic", NULL, there, "");
}

static void what_a_model_lacks_is_listed_in_order(void **state)
{
        _cleanup_json_ json_t *there = cpu();

        assert_missing("Skylake-Server-v4", NULL, there, "avx512f pcid");
        assert_missing("Nehalem-v1,+sha_ni,+aes,+fsrm", NULL, there, "fsrm sha-ni");
}

static void what_is_taken_out_is_not_needed(void **state)
{
        _cleanup_json_ json_t *there = cpu();

        assert_missing("Skylake-Server-v4,-avx512f,-pcid", NULL, there, "");
        assert_missing("Skylake-Server-v4,-avx512f", NULL, there, "pcid");
}

static void other_names_of_a_feature_are_understood(void **state)
{
        _cleanup_json_ json_t *there = json_pack("{s:[s,s], s:[{s:s, s:[]}]}", "features", "pni", "sse4.1",
                "models", "name", "qemu64-v1", "missing");

        assert_missing("qemu64-v1,+sse3,+sse4_1,+sse4-2", NULL, there, "sse4.2");
}

static void whole_hosts_are_compared(void **state)
{
        _cleanup_json_ json_t *there = cpu(), *here = json_pack("{s:[s,s]}", "features", "aes", "sha-ni");

        assert_missing("max", here, there, "sha-ni");
        assert_missing("host", there, there, "");
        assert_missing("host", NULL, there, "");
}

static void unknown_model_is_unknown(void **state)
{
        _cleanup_json_ json_t *there = cpu(), *missing = NULL;

        assert_int_equal(cpu_model_missing("Epyc", NULL, there, &missing), CPU_MODEL_UNKNOWN);
        assert_int_equal(cpu_model_missing("", NULL, there, &missing), CPU_MODEL_UNKNOWN);
        assert_null(missing);
}

static void missing_once(void *there)
{
        _cleanup_json_ json_t *missing = NULL;

        (void)torture_failed(cpu_model_missing("Skylake-Server-v4,+sha-ni", NULL, there, &missing) < 0);
}

static void memory_may_run_out(void **state)
{
        _cleanup_json_ json_t *there = cpu();

        torture_loop(missing_once, there);
}

static void document_that_is_not_as_agreed_is_refused(void **state _unused_)
{
        static const char *const bad[] = {"[]", "{}",
                "{\"id\": \"a\", \"accelerator\": \"kvm\", \"features\": [1, \"aes\"], \"models\": []}",
                "{\"id\": \"a\", \"accelerator\": \"kvm\", \"features\": [], \"models\": [\"x\"]}",
                "{\"id\": \"a\", \"accelerator\": \"kvm\", \"features\": [], \"models\": [{\"name\": \"m\", "
                "\"missing\": [null]}]}",
                "{\"id\": \"\", \"accelerator\": \"kvm\", \"features\": [], \"models\": []}",
                "{\"id\": \"a\", \"accelerator\": \"kvm\", \"features\": {}, \"models\": []}"};
        json_t *good = json_loads("{\"id\": \"a\", \"accelerator\": \"kvm\", \"vendor\": \"GenuineIntel\", "
                                  "\"features\": [\"aes\"], "
                                  "\"models\": [{\"name\": \"m\", \"missing\": [\"vmx\"], \"alias_of\": "
                                  "null, \"migration_safe\": true}]}",
                0, NULL);

        assert_true(cpu_document_is_valid(good));
        json_decref(good);
        assert_false(cpu_document_is_valid(NULL));
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                json_t *document = json_loads(bad[i], 0, NULL);

                assert_non_null(document);
                assert_false(cpu_document_is_valid(document));
                json_decref(document);
        }
}

static void model_is_a_name_and_signed_features(void **state _unused_)
{
        assert_true(cpu_model_is_valid("Westmere-v1"));
        assert_true(cpu_model_is_valid("Westmere-v1,+aes,-vmx"));
        assert_false(cpu_model_is_valid(""));
        assert_false(cpu_model_is_valid("Westmere-v1,aes"));
        assert_false(cpu_model_is_valid("Westmere-v1,"));
        assert_false(cpu_model_is_valid("Westmere-v1,,+aes"));
        assert_false(cpu_model_is_valid("Westmere v1"));
        assert_false(cpu_model_is_valid("x,+a=on"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(document_that_is_not_as_agreed_is_refused),
                cmocka_unit_test(model_is_a_name_and_signed_features),
                cmocka_unit_test(model_that_fits_lacks_nothing),
                cmocka_unit_test(what_a_model_lacks_is_listed_in_order),
                cmocka_unit_test(what_is_taken_out_is_not_needed),
                cmocka_unit_test(other_names_of_a_feature_are_understood),
                cmocka_unit_test(whole_hosts_are_compared),
                cmocka_unit_test(unknown_model_is_unknown),
                cmocka_unit_test(memory_may_run_out),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

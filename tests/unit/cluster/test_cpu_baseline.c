/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "cluster/cpu_baseline.h"

/* Names with spaces between. */
static json_t *words(const char *text)
{
        json_t *list = json_array();

        for (const char *at = text; *at; at += strspn(at, " ")) {
                size_t n = strcspn(at, " ");

                json_array_append_new(list, json_stringn(at, n));
                at += n;
        }
        return list;
}

static json_t *model(const char *name, const char *vendor, const char *features)
{
        return json_pack("{s:s, s:[], s:n, s:b, s:b, s:s, s:o}", "name", name, "missing", "alias_of",
                "migration_safe", 1, "deprecated", 0, "vendor", vendor, "features", words(features));
}

static json_t *lacking(const char *name, const char *missing)
{
        return json_pack("{s:s, s:o, s:n, s:b, s:b}", "name", name, "missing", words(missing), "alias_of",
                "migration_safe", 1, "deprecated", 0);
}

/* new: has avx, so that Sandy lacks nothing. */
static json_t *host(const char *name, const char *accelerator, const char *vendor, bool is_new)
{
        json_t *doc = json_pack("{s:s, s:{s:s, s:s, s:s, s:o, s:[o, o, o]}}", "name", name, "cpu", "id",
                is_new ? "new" : "old", "accelerator", accelerator, "vendor", vendor, "features",
                words(is_new ? "aes avx sse2 sse4.2" : "aes sse2 sse4.2"), "models",
                model("Core-v1", "GenuineIntel", "sse2"), model("Nehalem-v1", "GenuineIntel", "sse2 sse4.2"),
                is_new ? model("Sandy-v1", "GenuineIntel", "avx sse2 sse4.2") : lacking("Sandy-v1", "avx"));

        assert_non_null(doc);
        return doc;
}

static void assert_words(const json_t *list, const char *expected)
{
        _cleanup_json_ json_t *wanted = words(expected);

        if (!json_equal(list, wanted))
                fail_msg("%s is not %s", json_dumps(list, 0), expected);
}

static const char *text(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static void largest_model_that_all_offer_is_the_baseline(void **state)
{
        _cleanup_json_ json_t *hosts = json_pack("[o, o, o]", host("a", "tcg", "AuthenticAMD", true),
                                      host("b", "tcg", "AuthenticAMD", false),
                                      host("c", "tcg", "AuthenticAMD", true)),
                              *got = cpu_baseline_compute(hosts);

        assert_string_equal(text(got, "model"), "Nehalem-v1");
        assert_true(json_is_null(json_object_get(got, "reason")));
        assert_words(json_object_get(got, "features"), "sse2 sse4.2");
        assert_words(json_object_get(got, "spare"), "aes");
}

static void hosts_that_lower_it_are_named_with_what_they_take_away(void **state)
{
        _cleanup_json_ json_t *hosts = json_pack("[o, o, o]", host("a", "tcg", "AuthenticAMD", true),
                                      host("b", "tcg", "AuthenticAMD", false),
                                      host("c", "tcg", "AuthenticAMD", true)),
                              *got = cpu_baseline_compute(hosts);
        const json_t *kinds = json_object_get(got, "kinds"), *old = json_array_get(kinds, 1);

        assert_int_equal(json_array_size(kinds), 2);
        assert_words(json_object_get(json_array_get(kinds, 0), "hosts"), "a c");
        assert_true(json_is_null(json_object_get(json_array_get(kinds, 0), "lowers")));
        assert_words(json_object_get(json_array_get(kinds, 0), "lacks"), "");
        assert_words(json_object_get(old, "hosts"), "b");
        assert_string_equal(text(json_object_get(old, "lowers"), "model"), "Sandy-v1");
        assert_words(json_object_get(json_object_get(old, "lowers"), "features"), "avx");
        assert_words(json_object_get(old, "lacks"), "avx");
}

static void deprecated_models_are_not_taken(void **state)
{
        _cleanup_json_ json_t *hosts = json_pack("[o]", host("a", "tcg", "AuthenticAMD", false)), *got = NULL;
        json_t *models = json_object_get(json_object_get(json_array_get(hosts, 0), "cpu"), "models");

        json_object_set_new(json_array_get(models, 1), "deprecated", json_true());
        got = cpu_baseline_compute(hosts);
        assert_string_equal(text(got, "model"), "Core-v1");
}

static void hosts_of_another_accelerator_do_not_count(void **state)
{
        _cleanup_json_ json_t *hosts = json_pack("[o, o]", host("a", "kvm", "GenuineIntel", true),
                                      host("b", "tcg", "AuthenticAMD", false)),
                              *got = cpu_baseline_compute(hosts);

        assert_string_equal(text(got, "accelerator"), "kvm");
        assert_string_equal(text(got, "model"), "Sandy-v1");
        assert_words(json_object_get(got, "others"), "b");
}

static void no_model_is_safe_between_vendors(void **state)
{
        json_t *amd = host("b", "kvm", "AuthenticAMD", true);
        _cleanup_json_ json_t *hosts = NULL, *got = NULL;

        json_object_set_new(json_object_get(amd, "cpu"), "id", json_string("amd"));
        hosts = json_pack("[o, o]", host("a", "kvm", "GenuineIntel", true), amd);
        got = cpu_baseline_compute(hosts);
        assert_true(json_is_null(json_object_get(got, "model")));
        assert_string_equal(text(got, "reason"),
                "the hosts have processors of different vendors, between which no guest can move safely");
}

static void nothing_is_known_of_no_hosts(void **state)
{
        _cleanup_json_ json_t *hosts = json_array(), *got = cpu_baseline_compute(hosts);

        assert_true(json_is_null(json_object_get(got, "model")));
        assert_string_equal(text(got, "reason"), "no host has told which processors guests can have there");
}

static json_t *vm(const char *name, const char *wanted, const char *has, const char *power)
{
        return json_pack("{s:s, s:{s:s}, s:{s:s, s:s, s:s}}", "name", name, "spec", "cpu_model", wanted,
                "status", "power", power, "host", "a", "cpu_model", has);
}

static void plan_names_hosts_and_running_machines(void **state)
{
        _cleanup_json_ json_t *hosts = json_pack("[o, o]", host("a", "tcg", "AuthenticAMD", true),
                                      host("b", "tcg", "AuthenticAMD", false)),
                              *vms = json_pack("[o, o, o, o]", vm("follower", "auto", "Sandy-v1", "running"),
                                      vm("own", "Sandy-v1,+aes", "Sandy-v1,+aes", "paused"),
                                      vm("there", "auto", "Nehalem-v1", "running"),
                                      vm("off", "auto", "Sandy-v1", "stopped")),
                              *plan = cpu_baseline_plan(hosts, vms, "Nehalem-v1"), *higher = NULL,
                              *unknown = NULL;
        const json_t *list = json_object_get(plan, "vms"), *item;

        assert_int_equal(json_array_size(json_object_get(plan, "hosts")), 0);
        assert_int_equal(json_array_size(list), 2);
        assert_string_equal(text(json_array_get(list, 0), "vm"), "follower");
        assert_words(json_object_get(json_array_get(list, 0), "more"), "avx");
        assert_true(json_is_true(json_object_get(json_array_get(list, 0), "follows")));
        assert_string_equal(text(json_array_get(list, 1), "vm"), "own");
        assert_words(json_object_get(json_array_get(list, 1), "more"), "aes avx");
        assert_false(json_is_true(json_object_get(json_array_get(list, 1), "follows")));
        higher = cpu_baseline_plan(hosts, vms, "Sandy-v1,+sha-ni");
        item = json_array_get(json_object_get(higher, "hosts"), 1);
        assert_string_equal(text(item, "host"), "b");
        assert_words(json_object_get(item, "missing"), "avx sha-ni");
        unknown = cpu_baseline_plan(hosts, vms, "Epyc-v9");
        assert_true(json_is_true(
                json_object_get(json_array_get(json_object_get(unknown, "hosts"), 0), "unknown")));
}

static void plan_names_suspended_machines_also_of_hosts_that_are_gone(void **state)
{
        _cleanup_json_ json_t *hosts = json_pack("[o]", host("b", "tcg", "AuthenticAMD", true)),
                              *vms = json_pack("[o, o]", vm("saved", "auto", "Sandy-v1", "suspended"),
                                      vm("off", "auto", "Sandy-v1", "stopped")),
                              *plan = cpu_baseline_plan(hosts, vms, "Nehalem-v1");
        const json_t *list = json_object_get(plan, "vms");

        assert_int_equal(json_array_size(list), 1);
        assert_string_equal(text(json_array_get(list, 0), "vm"), "saved");
        assert_words(json_object_get(json_array_get(list, 0), "more"), "avx");
        assert_true(json_is_true(json_object_get(json_array_get(list, 0), "suspended")));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(largest_model_that_all_offer_is_the_baseline),
                cmocka_unit_test(hosts_that_lower_it_are_named_with_what_they_take_away),
                cmocka_unit_test(deprecated_models_are_not_taken),
                cmocka_unit_test(hosts_of_another_accelerator_do_not_count),
                cmocka_unit_test(no_model_is_safe_between_vendors),
                cmocka_unit_test(nothing_is_known_of_no_hosts),
                cmocka_unit_test(plan_names_hosts_and_running_machines),
                cmocka_unit_test(plan_names_suspended_machines_also_of_hosts_that_are_gone),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

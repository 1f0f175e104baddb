/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about room for the disks of a virtual machine that is to be made. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "cluster/checks.h"

#define GIB ((json_int_t)1 << 30)

/* A host that tells of 100 GiB, of which 40 are free, and a new disk of 10 on "shared", whose limit is 1.5. */
struct state {
        json_t *vm, *target, *datastores;
};

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        state->vm = json_pack("{s:s, s:s, s:{s:I, s:s, s:[{s:s, s:s, s:I}]}, s:{}}", "name", "web", "uid",
                "u-web", "spec", "memory_bytes", GIB, "datastore", "shared", "disks", "name", "disk0",
                "datastore", "shared", "size_bytes", 10 * GIB, "status");
        state->target = json_pack("{s:s, s:s, s:{s:[{s:s, s:s, s:b, s:I, s:I}]}}", "name", "b", "uid", "b",
                "status", "datastores", "name", "shared", "id", "id-1", "ok", 1, "capacity_bytes", 100 * GIB,
                "free_bytes", 40 * GIB);
        state->datastores =
                json_pack("[{s:s, s:{s:b, s:f}}]", "name", "shared", "spec", "shared", 1, "overcommit", 1.5);
        assert_non_null(state->vm);
        assert_non_null(state->target);
        assert_non_null(state->datastores);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        json_decref(state->vm);
        json_decref(state->target);
        json_decref(state->datastores);
        free(state);
        return 0;
}

static const char *text(const json_t *item, const char *key)
{
        return json_string_value(json_object_get(item, key)) ?: "";
}

static json_t *spec(struct state *state)
{
        return json_object_get(json_array_get(state->datastores, 0), "spec");
}

/* Of these rules that one alone is broken, and says this; code NULL: none. */
static void assert_only(const json_t *report, const char *severity, const char *code, const char *cause)
{
        static const char *const codes[] = {"datastore-maintenance", "datastore-limit", "datastore-space"};
        size_t i, k, n = 0;
        json_t *item;

        json_array_foreach ((json_t *)report, i, item)
                for (k = 0; k < sizeof(codes) / sizeof(*codes); k++) {
                        if (strcmp(text(item, "code"), codes[k]) != 0 ||
                                json_is_true(json_object_get(item, "ok")))
                                continue;
                        assert_non_null(code);
                        assert_string_equal(text(item, "code"), code);
                        assert_string_equal(text(item, "severity"), severity);
                        assert_string_equal(text(item, "cause"), cause);
                        assert_true(strlen(text(item, "way_out")) > 10);
                        n++;
                }
        assert_int_equal(n, code ? 1 : 0);
}

/* With so much provisioned on it, on "b" and elsewhere, and reserved there. What is asked for is one of those of a shared one. */
static json_t *run(
        const struct state *state, bool creates, json_int_t here, json_int_t elsewhere, json_int_t reserved)
{
        struct checks_input input = {.vm = state->vm, .datastores = state->datastores, .creates = creates};
        _cleanup_json_ json_t *provisioned = json_pack("{s:{s:I, s:{s:I, s:I}}}", "shared", "bytes",
                                      here + elsewhere, "hosts", "b", here, "a", elsewhere),
                              *on_way = json_pack("{s:{s:I, s:{s:I}}}", "shared", "bytes", reserved, "hosts",
                                      "b", reserved);
        json_t *report;

        input.provisioned = provisioned;
        input.reserved_disks = on_way;
        report = checks_of(&input, state->target);
        assert_non_null(report);
        return report;
}

static void new_disk_within_the_limit_of_the_datastore_is_fine(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        report = run(state, true, 10 * GIB, 130 * GIB, 10 * GIB);
        assert_only(report, NULL, NULL, NULL);
}

static void new_disk_beyond_the_limit_of_the_datastore_is_refused(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        report = run(state, true, 10 * GIB, 130 * GIB, 10 * GIB + 1);
        assert_only(report, "error", "datastore-limit",
                "10 GiB more would be too much for the datastore shared: 140 GiB are promised there, and "
                "150 GiB may be (1.50 times its 100 GiB)");
}

static void local_datastore_counts_what_is_on_that_host(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL, *over = NULL;

        json_object_set_new(spec(state), "shared", json_false());
        report = run(state, true, 130 * GIB, 500 * GIB, 10 * GIB);
        assert_only(report, NULL, NULL, NULL);
        over = run(state, true, 130 * GIB, 0, 10 * GIB + 1);
        assert_only(over, "error", "datastore-limit",
                "10 GiB more would be too much for the datastore shared on host b: 140 GiB are promised "
                "there, and 150 GiB may be (1.50 times its 100 GiB)");
}

static void datastore_without_a_limit_takes_any_promise(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_object_del(spec(state), "overcommit");
        report = run(state, true, 0, 5000 * GIB, 0);
        assert_only(report, NULL, NULL, NULL);
}

static void room_that_a_full_disk_would_lack_is_worth_a_warning(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_object_set_new(
                json_array_get(json_object_get(json_object_get(state->target, "status"), "datastores"), 0),
                "free_bytes", json_integer(GIB));
        report = run(state, true, 10 * GIB, 0, 0);
        assert_only(report, "warning", "datastore-space",
                "only 1.0 GiB are free on the datastore shared for a disk of up to 10 GiB");
}

static void datastore_in_maintenance_takes_no_new_disk(void **data)
{
        struct state *state = *data;
        json_t *datastore = json_array_get(state->datastores, 0);
        _cleanup_json_ json_t *report = NULL, *start = NULL;

        assert_int_equal(json_object_set_new(
                                 datastore, "status", json_pack("{s:{s:s}}", "maintenance", "state", "on")),
                0);
        report = run(state, true, 10 * GIB, 0, 0);
        assert_only(report, "error", "datastore-maintenance", "the datastore shared is in maintenance");
        start = run(state, false, 10 * GIB, 0, 0); /* what is there may start */
        assert_only(start, NULL, NULL, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(new_disk_within_the_limit_of_the_datastore_is_fine),
                TEST(new_disk_beyond_the_limit_of_the_datastore_is_refused),
                TEST(local_datastore_counts_what_is_on_that_host),
                TEST(datastore_without_a_limit_takes_any_promise),
                TEST(room_that_a_full_disk_would_lack_is_worth_a_warning),
                TEST(datastore_in_maintenance_takes_no_new_disk),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

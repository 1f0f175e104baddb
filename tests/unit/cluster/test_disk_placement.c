/* SPDX-License-Identifier: Apache-2.0 */

/* Which datastore a disk goes to: the order, and what is in the way, in these words. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../torture_loop.h"
#include "base/doc.h"
#include "cluster/disk_placement.h"

#define GIB ((json_int_t)1 << 30)

struct state {
        json_t *vm, *host, *datastores, *provisioned, *reserved;
};

static json_t *seen(const char *name, json_int_t free_bytes, double latency_ms)
{
        return json_pack("{s:s, s:I, s:I, s:f, s:s, s:b}", "name", name, "capacity_bytes", 100 * GIB,
                "free_bytes", free_bytes, "latency_ms", latency_ms, "file_system", "ext4", "ok", 1);
}

/* "web" on host a with a large disk0 and a small disk1 on "old", and a read-only one; "big" is empty and slow, "quick" half full. */
static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        state->vm = json_pack("{s:s, s:{s:[{s:s, s:s, s:I}, {s:s, s:s, s:I}, {s:s, s:s, s:b}]}, s:{s:s}}",
                "name", "web", "spec", "disks", "name", "disk0", "datastore", "old", "size_bytes", 40 * GIB,
                "name", "disk1", "datastore", "old", "size_bytes", 5 * GIB, "name", "base", "datastore",
                "old", "read_only", 1, "status", "host", "a");
        state->host = json_pack("{s:s, s:{s:[o, o, o]}}", "name", "a", "status", "datastores",
                seen("old", 10 * GIB, 1), seen("big", 100 * GIB, 40), seen("quick", 50 * GIB, 1));
        state->datastores = json_pack("[{s:s, s:{s:b}}, {s:s, s:{s:b}}, {s:s, s:{s:b}}, {s:s, s:{s:b}}]",
                "name", "old", "spec", "shared", 1, "name", "big", "spec", "shared", 1, "name", "quick",
                "spec", "shared", 1, "name", "else", "spec", "shared", 1);
        state->provisioned = json_object();
        state->reserved = json_object();
        assert_non_null(state->vm);
        assert_non_null(state->host);
        assert_non_null(state->datastores);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        json_decref(state->vm);
        json_decref(state->host);
        json_decref(state->datastores);
        json_decref(state->provisioned);
        json_decref(state->reserved);
        free(state);
        return 0;
}

static struct disk_placement_input input_of(const struct state *state)
{
        return (struct disk_placement_input){.vm = state->vm,
                .host = state->host,
                .datastores = state->datastores,
                .provisioned = state->provisioned,
                .reserved = state->reserved};
}

static json_t *run(const struct state *state)
{
        struct disk_placement_input input = input_of(state);
        json_t *report = disk_placement(&input);

        assert_non_null(report);
        return report;
}

static const json_t *disk(const json_t *report, size_t i)
{
        return json_array_get(json_object_get(report, "disks"), i);
}

static const char *text(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static json_t *datastore(const struct state *state, size_t i)
{
        return json_array_get(state->datastores, i);
}

static json_t *there(const struct state *state, size_t i)
{
        return json_array_get(json_object_get(json_object_get(state->host, "status"), "datastores"), i);
}

/* The check of that code in the line about that datastore; NULL: it is met. */
static const json_t *broken(const json_t *disk, const char *name, const char *code)
{
        json_t *line, *check;
        size_t i, k;

        json_array_foreach (json_object_get(disk, "ranking"), i, line)
                json_array_foreach (json_object_get(line, "checks"), k, check)
                        if (!strcmp(text(line, "datastore"), name) && !strcmp(text(check, "code"), code))
                                return check;
        return NULL;
}

static void quick_storage_with_room_comes_first_and_what_is_not_there_last(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = run(state);
        const json_t *ranking = json_object_get(disk(report, 1), "ranking");

        assert_true(json_is_true(json_object_get(report, "ok")));
        assert_int_equal(json_array_size(json_object_get(report, "disks")), 2); /* not the read-only one */
        assert_int_equal(json_array_size(ranking), 3);                          /* nor where it is */
        assert_string_equal(text(disk(report, 1), "disk"), "disk1");
        assert_string_equal(text(json_array_get(ranking, 2), "datastore"), "else");
        assert_string_equal(text(broken(disk(report, 1), "else", "datastore"), "cause"),
                "host a, where the virtual machine is, does not have the datastore else");
}

/* The large one takes what the small one then has no room for. */
static void disks_that_go_to_one_datastore_are_counted_together(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        assert_int_equal(json_object_set_new(
                                 json_object_get(datastore(state, 2), "spec"), "overcommit", json_real(0.42)),
                0);
        assert_int_equal(json_object_set_new(there(state, 1), "latency_ms", json_real(5000)), 0);
        report = run(state);
        assert_string_equal(text(disk(report, 0), "to"), "quick");
        assert_string_equal(text(disk(report, 1), "to"), "big");
        assert_string_equal(text(broken(disk(report, 1), "quick", "datastore-limit"), "cause"),
                "5.0 GiB more would be too much for the datastore quick: 40 GiB are promised there, and "
                "42 GiB may be (0.42 times its 100 GiB)");
}

static void what_tasks_bring_there_counts(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        assert_int_equal(
                json_object_set_new(json_object_get(datastore(state, 2), "spec"), "overcommit", json_real(1)),
                0);
        json_object_set_new(
                state->provisioned, "quick", json_pack("{s:I, s:{}}", "bytes", 50 * GIB, "hosts"));
        json_object_set_new(state->reserved, "quick", json_pack("{s:I, s:{}}", "bytes", 20 * GIB, "hosts"));
        report = run(state);
        assert_string_equal(text(disk(report, 0), "to"), "big");
        assert_non_null(broken(disk(report, 0), "quick", "datastore-limit"));
}

static void closed_and_broken_datastores_are_no_choice(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL, *choice = NULL;
        _cleanup_error_ struct error *error = NULL;

        json_object_set_new(
                datastore(state, 1), "status", json_pack("{s:{s:s}}", "maintenance", "state", "entering"));
        json_object_set_new(there(state, 2), "ok", json_false());
        json_object_set_new(there(state, 2), "message", json_string("stale handle"));
        report = run(state);
        assert_false(json_is_true(json_object_get(report, "ok")));
        assert_true(json_is_null(json_object_get(disk(report, 0), "to")));
        assert_string_equal(text(broken(disk(report, 0), "big", "datastore-maintenance"), "cause"),
                "the datastore big is in maintenance");
        assert_string_equal(text(broken(disk(report, 0), "quick", "datastore"), "cause"),
                "the datastore quick does not work on host a: stale handle");
        assert_true(disk_placement_choice(report, &choice, &error) < 0);
        assert_int_equal(error->code, ERROR_CHECK_FAILED);
        assert_string_equal(
                error_message(error), "no datastore takes disk disk0: the datastore big is in maintenance");
}

static void what_ties_it_to_its_host_is_worth_a_warning(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_object_set_new(json_object_get(datastore(state, 2), "spec"), "shared", json_false());
        report = run(state);
        assert_non_null(broken(disk(report, 1), "quick", "datastore-local"));
        assert_null(broken(disk(report, 1), "big", "datastore-local"));
        assert_true(json_is_true(json_object_get(report, "ok")));
}

static void evacuation_asks_for_the_disks_there_and_avoids_what_failed(void **data)
{
        struct state *state = *data;
        struct disk_placement_input input = input_of(state);
        _cleanup_json_ json_t *report = NULL, *choice = NULL, *avoid = json_pack("{s:b}", "quick", 1);

        json_object_set_new(json_array_get(json_object_get(json_object_get(state->vm, "spec"), "disks"), 1),
                "datastore", json_string("big"));
        input.from = "old";
        input.avoid = avoid;
        report = disk_placement(&input);
        assert_non_null(report);
        assert_int_equal(disk_placement_choice(report, &choice, NULL), 0);
        assert_int_equal(json_object_size(choice), 1);
        assert_string_equal(text(choice, "disk0"), "big");
}

static void place_once(void *arg)
{
        const struct state *state = arg;
        struct disk_placement_input input = input_of(state);
        _cleanup_json_ json_t *report = disk_placement(&input);

        if (torture_failed(!report))
                return;
        assert_int_equal(json_array_size(json_object_get(report, "disks")), 2);
}

static void want_of_memory_is_told(void **data)
{
        torture_loop(place_once, *data);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(quick_storage_with_room_comes_first_and_what_is_not_there_last),
                TEST(disks_that_go_to_one_datastore_are_counted_together),
                TEST(what_tasks_bring_there_counts),
                TEST(closed_and_broken_datastores_are_no_choice),
                TEST(what_ties_it_to_its_host_is_worth_a_warning),
                TEST(evacuation_asks_for_the_disks_there_and_avoids_what_failed),
                TEST(want_of_memory_is_told),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

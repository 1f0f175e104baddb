/* SPDX-License-Identifier: Apache-2.0 */

/* Maintenance of a datastore, through the public API: it is closed, its disks go to others within a bounded number of tries, and one report
 * says what became of each virtual machine. */

#include "manager_rig.h"

#include "base/alloc.h"
#include "base/doc.h"

#define GIB ((json_int_t)1 << 30)
#define PATH "/api/v1/datastores/old/maintenance"

static void set_room(struct state *state, const char *name, json_int_t capacity, double latency_ms)
{
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                json_object_update_new(json_object_get(state->agents[i].datastores, name),
                        json_pack("{s:I, s:I, s:f}", "capacity_bytes", capacity, "free_bytes", capacity,
                                "latency_ms", latency_ms));
}

static void add_datastore(struct state *state, const char *name, double latency_ms)
{
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s, s:i}}", "name", name, "spec", "path", "/fast", "overcommit", 1));
        assert_string_equal(finish(state), "succeeded");
        set_room(state, name, 100 * GIB, latency_ms);
}

/* With its folder on "shared", unless it is named. */
static void add_vm(
        struct state *state, const char *name, const char *host, const char *folder, json_int_t gib)
{
        _cleanup_free_ char *path = alloc_printf("%s/disk0.raw", name);

        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:s, s:{s:I, s:s, s:[{s:s, s:s, s:s, s:s, s:I}]}}", "name", name, "host",
                        host, "spec", "memory_bytes", (json_int_t)64 << 20, "datastore", folder, "disks",
                        "name", "disk0", "datastore", "old", "path", path, "format", "raw", "size_bytes",
                        gib * GIB));
        assert_string_equal(finish(state), "succeeded");
}

/* "old" to be left, "quick" and "slow" to go to; "a" on host1 and "b" on host2 have disks on "old", whose moves end at once. */
static void set_old_stage(struct state *state)
{
        set_the_stage(state);
        add_datastore(state, "old", 1);
        add_datastore(state, "quick", 1);
        add_datastore(state, "slow", 45);
        set_room(state, "shared", GIB, 1);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                state->agents[i].moves_disks = true;
        refresh_all(state);
        call(state, "PUT", "/api/v1/datastores/shared",
                json_pack("{s:{s:s, s:i}}", "spec", "path", "/srv", "overcommit", 1));
        assert_string_equal(finish(state), "succeeded");
        set_room(state, "shared", GIB, 1);
        refresh_all(state);
        add_vm(state, "a", "host1", "shared", 30);
        add_vm(state, "b", "host2", "shared", 20);
}

static int ask(struct state *state, const char *body)
{
        return call(state, "POST", PATH, json_loads(body, 0, NULL));
}

static void do_maintenance(struct state *state, const char *body, const char *how)
{
        assert_int_equal(ask(state, body), 202);
        assert_string_equal(finish(state), how);
}

static const json_t *line_of(struct state *state, const char *vm)
{
        const json_t *report = json_object_get(state->body, "vms")
                                       ? state->body
                                       : json_object_get(json_status(state->body), "result");
        json_t *line;
        size_t i;

        json_array_foreach (json_object_get(report, "vms"), i, line)
                if (!strcmp(json_text(line, "vm"), vm))
                        return line;
        fail_msg("no line about %s", vm);
        return NULL;
}

static void assert_line(struct state *state, const char *vm, const char *outcome, const char *to)
{
        const json_t *line = line_of(state, vm);

        assert_string_equal(json_text(line, "outcome"), outcome);
        assert_string_equal(json_text(line, "to"), to);
}

static const char *maintenance_state(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/datastores/old", NULL), 200);
        return json_text(json_object_get(json_status(state->body), "maintenance"), "state");
}

static const char *place_of(struct state *state, const char *vm)
{
        char path[64];

        snprintf(path, sizeof(path), "/api/v1/vms/%s", vm);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_text(json_array_get(json_object_get(json_spec(state->body), "disks"), 0), "datastore");
}

static void disks_go_to_the_best_datastores_and_it_stays_closed_until_it_ends(void **data)
{
        struct state *state = *data;

        set_old_stage(state);
        do_maintenance(state, "{\"on\": true}", "succeeded");
        assert_line(state, "a", "moved", "quick");
        assert_line(state, "b", "moved", "quick");
        assert_string_equal(place_of(state, "a"), "quick");
        assert_string_equal(maintenance_state(state), "on");
        call(state, "POST", "/api/v1/vms/a/migrate-disks", json_pack("{s:s}", "to_datastore", "old"));
        assert_string_equal(state->code, "check-failed");
        assert_non_null(strstr(json_text(state->body, "detail"), "datastore-maintenance"));
        do_maintenance(state, "{\"on\": false}", "succeeded");
        assert_string_equal(maintenance_state(state), "");
        assert_string_equal(place_of(state, "a"), "quick");
        assert_int_equal(ask(state, "{\"on\": false}"), 409);
}

static void dry_run_says_who_would_go_where_counting_those_before(void **data)
{
        struct state *state = *data;

        set_old_stage(state);
        set_room(state, "quick", 35 * GIB, 1);
        refresh_all(state);
        assert_int_equal(ask(state, "{\"on\": true, \"dry_run\": true}"), 200);
        assert_line(state, "a", "would-move", "quick"); /* the larger one first */
        assert_line(state, "b", "would-move", "slow");
        assert_string_equal(place_of(state, "a"), "old");
        assert_string_equal(maintenance_state(state), "");
}

static void next_best_datastore_takes_what_the_best_one_did_not(void **data)
{
        struct state *state = *data;
        const json_t *tries;

        set_old_stage(state);
        state->agents[0].no_disks_to = "quick";
        do_maintenance(state, "{\"on\": true}", "succeeded");
        assert_line(state, "b", "moved", "quick");
        assert_line(state, "a", "moved", "slow");
        tries = json_object_get(line_of(state, "a"), "tries");
        assert_int_equal(json_array_size(tries), 2);
        assert_string_equal(json_text(json_array_get(tries, 0), "result"), "failed");
        assert_string_equal(json_text(json_array_get(tries, 0), "to"), "quick");
        assert_string_equal(json_text(json_array_get(tries, 1), "step"), "other-datastore");
}

static void what_fits_nowhere_stays_and_the_report_says_why(void **data)
{
        struct state *state = *data;

        set_old_stage(state);
        set_room(state, "quick", 25 * GIB, 1);
        set_room(state, "slow", 25 * GIB, 45);
        refresh_all(state);
        do_maintenance(state, "{\"on\": true, \"wait_ms\": 0}", "failed");
        assert_non_null(strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"),
                "of 2 virtual machines 1 still have disks on datastore old and 0 other files; a: no "
                "datastore takes "
                "disk disk0"));
        assert_line(state, "a", "stays", "");
        assert_line(state, "b", "moved", "quick");
        assert_string_equal(maintenance_state(state), "incomplete");
        set_room(state, "slow", 100 * GIB, 45);
        refresh_all(state);
        do_maintenance(state, "{\"on\": true}", "succeeded");
        assert_line(state, "a", "moved", "slow");
        assert_string_equal(maintenance_state(state), "on");
}

static void folder_that_cannot_move_is_told(void **data)
{
        struct state *state = *data;

        set_old_stage(state);
        add_vm(state, "c", "host1", "old", 5);
        do_maintenance(state, "{\"on\": true}", "failed");
        assert_line(state, "c", "files-stay", "quick");
        assert_string_equal(json_text(line_of(state, "c"), "why"), "its folder cannot be moved by this");
        assert_line(state, "a", "moved", "quick");
        assert_string_equal(maintenance_state(state), "incomplete");
}

static bool both_are_under_way(struct state *state)
{
        return state->agents[0].storage_move && state->agents[1].storage_move;
}

static void cancelled_it_is_open_again_and_copies_under_way_are_cancelled(void **data)
{
        struct state *state = *data;
        char path[128], cancel[144];

        set_old_stage(state);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                state->agents[i].moves_disks = false; /* they go on copying */
        assert_int_equal(ask(state, "{\"on\": true}"), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, both_are_under_way);
        assert_string_equal(maintenance_state(state), "entering");
        assert_int_equal(ask(state, "{\"on\": false}"), 409); /* the task works on it */
        snprintf(cancel, sizeof(cancel), "%s/cancel", path);
        assert_int_equal(call(state, "POST", cancel, NULL), 202);
        wait_status(state, path, "state", "cancelled");
        assert_string_equal(maintenance_state(state), "");
        assert_string_equal(place_of(state, "a"), "old");
}

static void manager_that_is_restarted_goes_on(void **data)
{
        struct state *state = *data;
        char path[128];

        set_old_stage(state);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                state->agents[i].moves_disks = false;
        assert_int_equal(ask(state, "{\"on\": true}"), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, both_are_under_way);
        stop_manager(state);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++) {
                json_t *move = state->agents[i].storage_move;

                json_object_set_new(move, "disks",
                        json_pack("[{s:s, s:{s:s, s:s}, s:{s:s, s:s, s:s}, s:b}]", "name", "disk0", "from",
                                "datastore", "old", "path", "x/disk0.raw", "to", "datastore", "quick", "path",
                                i ? "b/disk0-1.raw" : "a/disk0-1.raw", "format", "raw", "switched", 1));
                json_object_set_new(move, "phase", json_string("switched"));
        }
        start_manager(state);
        wait_status(state, path, "state", "succeeded");
        assert_line(state, "a", "moved", "quick");
        assert_int_equal(json_array_size(json_object_get(line_of(state, "a"), "tries")), 1);
        assert_string_equal(place_of(state, "b"), "quick");
}

static void disk_that_comes_meanwhile_is_moved_too(void **data)
{
        struct state *state = *data;
        char path[128];

        set_old_stage(state);
        state->agents[0].moves_disks = state->agents[1].moves_disks = false;
        assert_int_equal(ask(state, "{\"on\": true}"), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, both_are_under_way);
        /* Made now it is refused: the datastore is closed. */
        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:{s:I, s:s, s:[{s:s, s:s, s:I}]}}", "name", "late", "spec", "memory_bytes",
                        (json_int_t)64 << 20, "datastore", "shared", "disks", "name", "disk0", "datastore",
                        "old", "size_bytes", GIB));
        assert_string_equal(finish(state), "failed");
        assert_non_null(strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"),
                "the datastore old is in maintenance"));
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++) {
                json_object_set_new(state->agents[i].storage_move, "disks", json_array());
                json_object_set_new(state->agents[i].storage_move, "phase", json_string("switched"));
                state->agents[i].moves_disks = true;
        }
        wait_status(state, path, "state", "succeeded"); /* their second tries */
        assert_int_equal(json_array_size(json_object_get(line_of(state, "a"), "tries")), 2);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(disks_go_to_the_best_datastores_and_it_stays_closed_until_it_ends),
                TEST(dry_run_says_who_would_go_where_counting_those_before),
                TEST(next_best_datastore_takes_what_the_best_one_did_not),
                TEST(what_fits_nowhere_stays_and_the_report_says_why),
                TEST(folder_that_cannot_move_is_told),
                TEST(cancelled_it_is_open_again_and_copies_under_way_are_cancelled),
                TEST(manager_that_is_restarted_goes_on),
                TEST(disk_that_comes_meanwhile_is_moved_too),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

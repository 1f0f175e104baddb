/* SPDX-License-Identifier: Apache-2.0 */

/* Datastores through the public API: what is known of them, and how much of them may be promised. */

#include "manager_rig.h"

#include "base/alloc.h"
#include "base/doc.h"

#define GIB ((json_int_t)1 << 30)

/* What the agents say of it from now on. */
static void set_room(struct state *state, const char *name, json_int_t capacity, json_int_t free_bytes)
{
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++) {
                json_t *doc = json_object_get(state->agents[i].datastores, name);

                assert_non_null(doc);
                json_object_update_new(
                        doc, json_pack("{s:I, s:I, s:s, s:f, s:I, s:I}", "capacity_bytes", capacity,
                                     "free_bytes", free_bytes - (json_int_t)i, "file_system", "nfs",
                                     "latency_ms", 1.5 + (double)i, "write_bytes_per_s",
                                     (json_int_t)100000000, "read_bytes_per_s", (json_int_t)200000000));
        }
        refresh_all(state);
}

static void add_datastore(struct state *state, const char *name, bool shared, double overcommit)
{
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s, s:b, s:o}}", "name", name, "spec", "path", "/fast", "shared", shared,
                        "overcommit", overcommit > 0 ? json_real(overcommit) : json_null()));
        assert_string_equal(finish(state), "succeeded");
}

/* How the creation of a VM with such a disk ends. */
static const char *create_vm(
        struct state *state, const char *name, const char *host, const char *datastore, json_int_t size_bytes)
{
        call(state, "POST", "/api/v1/vms",
                json_pack("{s:s, s:s*, s:{s:I, s:s, s:[{s:s, s:s, s:s, s:I}]}}", "name", name, "host", host,
                        "spec", "memory_bytes", (json_int_t)64 << 20, "datastore", "shared", "disks", "name",
                        "disk0", "datastore", datastore, "format", "raw", "size_bytes", size_bytes));
        return finish(state);
}

static const json_t *status_of(struct state *state, const char *name)
{
        char path[128];

        snprintf(path, sizeof(path), "/api/v1/datastores/%s", name);
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_status(state->body);
}

static json_int_t number(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

static void facts_are_what_the_hosts_say_now_and_what_disks_were_promised(void **data)
{
        struct state *state = *data;
        const json_t *status, *host;

        set_the_stage(state);
        set_room(state, "shared", 100 * GIB, 40 * GIB);
        assert_string_equal(create_vm(state, "a", "host1", "shared", 30 * GIB), "succeeded");
        assert_string_equal(create_vm(state, "b", "host2", "shared", 20 * GIB), "succeeded");
        status = status_of(state, "shared");
        assert_int_equal(number(status, "capacity_bytes"), 100 * GIB);
        assert_int_equal(number(status, "free_bytes"), 40 * GIB - 1); /* of the host that sees less */
        assert_int_equal(number(status, "provisioned_bytes"), 50 * GIB);
        assert_int_equal(number(status, "reserved_bytes"), 0);
        assert_string_equal(json_text(status, "file_system"), "nfs");
        assert_true(json_number_value(json_object_get(status, "latency_ms")) == 2.5);
        host = json_object_get(json_object_get(status, "hosts"), "host2");
        assert_int_equal(number(host, "free_bytes"), 40 * GIB - 1);
        assert_true(json_is_true(json_object_get(host, "ok")));
        call(state, "DELETE", "/api/v1/vms/a", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(number(status_of(state, "shared"), "provisioned_bytes"), 20 * GIB);
}

static void local_datastore_is_told_by_hosts_and_in_sum(void **data)
{
        struct state *state = *data;
        const json_t *status, *hosts;

        set_the_stage(state);
        add_datastore(state, "local", false, 0);
        set_room(state, "local", 10 * GIB, 4 * GIB);
        assert_string_equal(create_vm(state, "a", "host2", "local", 3 * GIB), "succeeded");
        status = status_of(state, "local");
        assert_int_equal(number(status, "capacity_bytes"), 20 * GIB);
        assert_int_equal(number(status, "provisioned_bytes"), 3 * GIB);
        hosts = json_object_get(status, "hosts");
        assert_int_equal(number(json_object_get(hosts, "host1"), "provisioned_bytes"), 0);
        assert_int_equal(number(json_object_get(hosts, "host2"), "provisioned_bytes"), 3 * GIB);
}

static void list_has_the_same(void **data)
{
        struct state *state = *data;
        const json_t *first;

        set_the_stage(state);
        set_room(state, "shared", 100 * GIB, 40 * GIB);
        assert_string_equal(create_vm(state, "a", "host1", "shared", 30 * GIB), "succeeded");
        assert_int_equal(call(state, "GET", "/api/v1/datastores", NULL), 200);
        first = json_array_get(json_object_get(state->body, "items"), 0);
        assert_int_equal(number(json_status(first), "provisioned_bytes"), 30 * GIB);
        assert_int_equal(number(json_status(first), "write_bytes_per_s"), 100000000);
}

static void what_goes_beyond_the_limit_is_not_created(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        add_datastore(state, "fast", true, 1.5);
        set_room(state, "fast", 100 * GIB, 90 * GIB);
        assert_string_equal(create_vm(state, "a", NULL, "fast", 100 * GIB), "succeeded");
        assert_string_equal(create_vm(state, "b", "host1", "fast", 51 * GIB), "failed");
        assert_non_null(strstr(json_text(json_object_get(json_status(state->body), "error"), "detail"),
                "datastore-limit: 51 GiB more would be too much for the datastore fast: 100 GiB are promised "
                "there, and 150 GiB may be"));
        assert_string_equal(create_vm(state, "c", NULL, "fast", 51 * GIB), "failed");
        assert_string_equal(create_vm(state, "d", NULL, "fast", 50 * GIB), "succeeded");
}

static void host_whose_local_datastore_has_room_is_chosen(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        add_datastore(state, "local", false, 1);
        set_room(state, "local", 10 * GIB, 10 * GIB);
        assert_string_equal(create_vm(state, "a", "host1", "local", 8 * GIB), "succeeded");
        assert_string_equal(create_vm(state, "b", NULL, "local", 5 * GIB), "succeeded");
        assert_int_equal(call(state, "GET", "/api/v1/vms/b", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "host"), "host2");
}

static void limit_must_make_sense(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        for (size_t i = 0; i < 3; i++) {
                json_t *ratio = i == 0 ? json_real(0.01) : i == 1 ? json_integer(1001) : json_string("2");

                assert_int_equal(call(state, "POST", "/api/v1/datastores",
                                         json_pack("{s:s, s:{s:s, s:o}}", "name", "fast", "spec", "path",
                                                 "/fast", "overcommit", ratio)),
                        422);
                assert_string_equal(state->code, "bad-document");
        }
        assert_int_equal(call(state, "POST", "/api/v1/datastores",
                                 json_pack("{s:s, s:{s:s}}", "name", "best", "spec", "path", "/fast")),
                422);
}

/* Three shared ones with room, and "store" on host1 with a disk of 30 GiB and one of 10 on "shared". */
static void set_disks(struct state *state)
{
        set_the_stage(state);
        add_datastore(state, "fast", true, 1);
        add_datastore(state, "slow", true, 1);
        set_room(state, "shared", 100 * GIB, 40 * GIB);
        set_room(state, "fast", 35 * GIB, 35 * GIB);
        set_room(state, "slow", 200 * GIB, 20 * GIB);
        call(state, "POST", "/api/v1/vms",
                json_pack(
                        "{s:s, s:s, s:{s:I, s:s, s:[{s:s, s:s, s:s, s:s, s:I}, {s:s, s:s, s:s, s:s, s:I}]}}",
                        "name", "store", "host", "host1", "spec", "memory_bytes", (json_int_t)64 << 20,
                        "datastore", "shared", "disks", "name", "disk0", "datastore", "shared", "path",
                        "store/disk0.raw", "format", "raw", "size_bytes", 30 * GIB, "name", "disk1",
                        "datastore", "shared", "path", "store/disk1.raw", "format", "raw", "size_bytes",
                        10 * GIB));
        assert_string_equal(finish(state), "succeeded");
}

static int move_disks(struct state *state, const char *body)
{
        return call(state, "POST", "/api/v1/vms/store/migrate-disks", json_loads(body, 0, NULL));
}

/* Where the agent was told to put it. */
static const char *asked_for(struct state *state, const char *disk)
{
        json_t *asked = json_object_get(json_object_get(state->agents[0].storage_move, "request"), "disks"),
               *item;
        size_t i;

        json_array_foreach (asked, i, item)
                if (!strcmp(json_text(item, "name"), disk))
                        return json_text(item, "datastore");
        return "";
}

static void follow(struct state *state)
{
        char path[128];

        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_status(state, path, "step", "follow");
}

static void advice_ranks_the_datastores_for_each_disk(void **data)
{
        struct state *state = *data;
        const json_t *disks, *first, *second;

        set_disks(state);
        assert_int_equal(call(state, "GET", "/api/v1/vms/store/disk-advice", NULL), 200);
        assert_string_equal(json_text(state->body, "host"), "host1");
        disks = json_object_get(state->body, "disks");
        assert_int_equal(json_array_size(disks), 2);
        first = json_array_get(disks, 0);
        second = json_array_get(disks, 1);
        assert_string_equal(
                json_text(first, "to"), "fast"); /* it chooses first, and "slow" has no room for it */
        assert_string_equal(json_text(second, "to"), "slow");
        assert_string_equal(
                json_text(
                        json_array_get(json_object_get(json_array_get(json_object_get(second, "ranking"), 1),
                                               "checks"),
                                0),
                        "code"),
                "datastore-limit");
}

static void best_datastores_are_chosen_where_none_is_named(void **data)
{
        struct state *state = *data;
        const json_t *costs;

        set_disks(state);
        assert_int_equal(move_disks(state, "{}"), 202);
        follow(state);
        assert_string_equal(asked_for(state, "disk0"), "fast");
        assert_string_equal(asked_for(state, "disk1"), "slow");
        costs = json_object_get(json_object_get(json_status(state->body), "queue"), "costs");
        assert_int_equal(json_array_size(costs), 4); /* the host, and three datastores */
        assert_string_equal(
                json_text(json_object_get(json_status(state->body), "progress"), "to"), "fast, slow");
        assert_int_equal(number(status_of(state, "fast"), "reserved_bytes"), 30 * GIB);
        assert_int_equal(number(status_of(state, "slow"), "reserved_bytes"), 10 * GIB);
}

static void each_disk_can_have_its_own_datastore(void **data)
{
        struct state *state = *data;

        set_disks(state);
        assert_int_equal(move_disks(state, "{\"to_datastores\": {\"disk1\": \"fast\"}}"), 202);
        follow(state);
        assert_string_equal(asked_for(state, "disk0"), "");
        assert_string_equal(asked_for(state, "disk1"), "fast");
}

static void disks_that_go_together_must_fit_together(void **data)
{
        struct state *state = *data;

        set_disks(state);
        assert_int_equal(move_disks(state, "{\"to_datastore\": \"fast\"}"), 422);
        assert_string_equal(state->code, "check-failed");
        assert_non_null(
                strstr(json_text(state->body, "detail"), "datastore-limit: 10 GiB more would be too much for "
                                                         "the datastore fast: 30 GiB are promised there"));
        assert_int_equal(move_disks(state, "{\"to_datastore\": \"fast\", \"disks\": [\"disk0\"]}"), 202);
}

/* What a task brings there is not promised twice. */
static void copy_under_way_takes_its_room(void **data)
{
        struct state *state = *data;

        set_disks(state);
        assert_string_equal(create_vm(state, "other", "host2", "shared", 10 * GIB), "succeeded");
        assert_int_equal(move_disks(state, "{\"to_datastore\": \"fast\", \"disks\": [\"disk0\"]}"), 202);
        follow(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/other/migrate-disks",
                                 json_pack("{s:s}", "to_datastore", "fast")),
                422);
        assert_non_null(strstr(json_text(state->body, "detail"), "30 GiB are promised there"));
        assert_string_equal(create_vm(state, "third", "host2", "fast", 10 * GIB), "failed");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(facts_are_what_the_hosts_say_now_and_what_disks_were_promised),
                TEST(local_datastore_is_told_by_hosts_and_in_sum),
                TEST(list_has_the_same),
                TEST(what_goes_beyond_the_limit_is_not_created),
                TEST(host_whose_local_datastore_has_room_is_chosen),
                TEST(limit_must_make_sense),
                TEST(advice_ranks_the_datastores_for_each_disk),
                TEST(best_datastores_are_chosen_where_none_is_named),
                TEST(each_disk_can_have_its_own_datastore),
                TEST(disks_that_go_together_must_fit_together),
                TEST(copy_under_way_takes_its_room),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

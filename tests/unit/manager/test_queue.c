/* SPDX-License-Identifier: Apache-2.0 */

/* The queue of migrations, through the public API: what waits, for what, in which order, and what stays after a restart. */

#include "manager_rig.h"

#include <sqlite3.h>

#include "base/doc.h"
#include "base/torture.h"
#include "manager/migration_queue.h"
#include "manager/migration_queue_private.h"
#include "manager/operations.h"

/* A second virtual machine on host1, running. */
static void add_vm(struct state *state, const char *name)
{
        json_t *vm = vm_document(name);

        json_object_set_new(vm, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

/* Asks for a migration; ret_path: of its task. */
static void migrate(struct state *state, const char *vm, json_t *body, char ret_path[static 128])
{
        char path[128];

        snprintf(path, sizeof(path), "/api/v1/vms/%s/migrate", vm);
        assert_int_equal(call(state, "POST", path, body), 202);
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
}

static const json_t *queue_of(struct state *state, const char *path)
{
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return json_object_get(json_status(state->body), "queue");
}

/* "web" is on its way, "db" and "mail" wait for host1, which takes one. Paths of their tasks. */
static void fill(
        struct state *state, char ret_web[static 128], char ret_db[static 128], char ret_mail[static 128])
{
        set_the_stage(state);
        add_vm(state, "db");
        add_vm(state, "mail");
        state->config.queue_limits.host = 1;
        begin_migration(state, ret_web);
        migrate(state, "db", NULL, ret_db);
        migrate(state, "mail", json_pack("{s:s}", "priority", "high"), ret_mail);
}

static void waiting_task_says_its_place_and_what_it_waits_for(void **data)
{
        struct state *state = *data;
        char web[128], db[128], mail[128];
        const json_t *queue, *blocker;

        fill(state, web, db, mail);
        queue = queue_of(state, db);
        assert_string_equal(task_state(state), "queued");
        assert_int_equal(json_integer_value(json_object_get(queue, "position")), 2);
        assert_int_equal(json_integer_value(json_object_get(queue, "length")), 2);
        assert_non_null(strstr(json_text(queue, "message"), "host of host1: 1 of 1"));
        blocker = json_array_get(json_object_get(queue, "waits_for"), 0);
        assert_string_equal(json_text(blocker, "resource"), "host/host1");
        assert_int_equal(json_integer_value(json_object_get(blocker, "used")), 1);
        assert_int_equal(json_integer_value(json_object_get(blocker, "limit")), 1);
        queue = queue_of(state, mail);
        assert_int_equal(json_integer_value(json_object_get(queue, "position")), 1);
}

static void record_of_a_started_task_holds_what_it_took(void **data)
{
        struct state *state = *data;
        char web[128], db[128], mail[128];
        const json_t *queue, *costs;

        fill(state, web, db, mail);
        queue = queue_of(state, web);
        costs = json_object_get(queue, "costs");
        assert_true(*json_text(queue, "queued") && *json_text(queue, "started"));
        assert_true(json_is_integer(json_object_get(queue, "waited_ms")));
        assert_int_equal(json_array_size(costs), 6); /* both hosts, both networks, the datastore, memory */
        assert_string_equal(json_text(json_array_get(costs, 0), "resource"), "host/host1");
        assert_int_equal(json_integer_value(json_object_get(json_array_get(costs, 0), "units")), 1);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(costs, 0), "limit")), 1);
}

static void next_one_starts_when_one_ends_by_priority(void **data)
{
        struct state *state = *data;
        char web[128], db[128], mail[128];

        fill(state, web, db, mail);
        complete_migration(state);
        wait_status(state, mail, "state", "running");
        assert_int_equal(call(state, "GET", db, NULL), 200);
        assert_string_equal(task_state(state), "queued");
}

static void drained_queue_starts_nothing_until_it_is_resumed(void **data)
{
        struct state *state = *data;
        char path[128];
        const json_t *queue;

        set_the_stage(state);
        snprintf(state->headers[1], sizeof(state->headers[1]), "X-Drover-Reason: switch is replaced");
        assert_int_equal(call(state, "POST", "/api/v1/queue/drain", NULL), 200);
        state->headers[1][0] = '\0';
        assert_string_equal(json_text(state->body, "state"), "drained");
        assert_string_equal(json_text(json_object_get(state->body, "drained"), "why"), "switch is replaced");
        migrate(state, "web", NULL, path);
        for (int i = 0; i < 20; i++)
                queue = queue_of(state, path);
        assert_string_equal(task_state(state), "queued");
        assert_non_null(strstr(json_text(queue, "message"), "the queue was drained by "));
        assert_int_equal(call(state, "POST", "/api/v1/queue/resume", NULL), 200);
        assert_string_equal(json_text(state->body, "state"), "open");
        wait_status(state, path, "state", "running");
}

static void order_holdings_and_drain_survive_a_restart(void **data)
{
        struct state *state = *data;
        char web[128], db[128], mail[128];

        fill(state, web, db, mail);
        assert_int_equal(call(state, "POST", "/api/v1/queue/drain", NULL), 200);
        stop_manager(state);
        start_manager(state);
        assert_int_equal(call(state, "GET", "/api/v1/queue", NULL), 200);
        assert_string_equal(json_text(state->body, "state"), "drained");
        assert_int_equal(json_array_size(json_object_get(state->body, "running")), 1);
        assert_int_equal(json_array_size(json_object_get(state->body, "waiting")), 2);
        assert_string_equal(
                json_text(json_array_get(json_object_get(state->body, "waiting"), 0), "object"), "vm/mail");
        assert_int_equal(call(state, "POST", "/api/v1/queue/resume", NULL), 200);
        for (int i = 0; i < 20; i++)
                queue_of(state, mail);
        assert_string_equal(task_state(state), "queued"); /* what runs holds host1 still */
        complete_migration(state);
        wait_status(state, mail, "state", "running");
}

static void cancelled_in_the_queue_it_never_starts(void **data)
{
        struct state *state = *data;
        char web[128], db[128], mail[128], cancel[160];

        fill(state, web, db, mail);
        snprintf(cancel, sizeof(cancel), "%s/cancel", mail);
        assert_int_equal(call(state, "POST", cancel, NULL), 202);
        wait_status(state, mail, "state", "cancelled");
        assert_true(json_is_null(json_object_get(json_status(state->body), "started")));
        complete_migration(state);
        wait_status(state, db, "state", "running");
}

static void promised_bandwidth_is_waited_for(void **data)
{
        struct state *state = *data;
        char web[128], db[128];
        const json_t *queue;

        set_the_stage(state);
        add_vm(state, "db");
        migrate(state, "web", json_pack("{s:I}", "min_bandwidth_bps", (json_int_t)700000000), web);
        wait_status(state, web, "state", "running");
        migrate(state, "db", json_pack("{s:I}", "min_bandwidth_bps", (json_int_t)400000000), db);
        queue = queue_of(state, db);
        assert_string_equal(task_state(state), "queued");
        assert_non_null(strstr(json_text(queue, "message"), "0.7 Gbit/s of 1 Gbit/s, 0.4 Gbit/s needed"));
}

static void more_bandwidth_than_the_link_has_is_refused_at_once(void **data)
{
        struct state *state = *data;
        char path[128];

        set_the_stage(state);
        migrate(state, "web", json_pack("{s:I}", "min_bandwidth_bps", (json_int_t)2000000000), path);
        wait_status(state, path, "state", "failed");
        assert_string_equal(
                json_text(json_object_get(json_status(state->body), "error"), "code"), "check-failed");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate",
                                 json_pack("{s:i, s:i}", "min_bandwidth_bps", 2000, "rate_limit_bps", 1000)),
                422);
}

/* Each of the two fits where it goes, but not both: the first one's guest is not in the host's report yet. */
static void memory_that_is_decided_for_another_is_not_free(void **data)
{
        struct state *state = *data;
        char web[128], db[128];
        const json_t *queue;

        set_the_stage(state);
        add_vm(state, "db");
        state->agents[1].memory_free_bytes = ((json_int_t)64 << 20) * 3 / 2;
        refresh_all(state);
        state->agents[0].hold_migrations = true; /* the first one is not prepared yet */
        migrate(state, "web", NULL, web);
        wait_status(state, web, "step", "start");
        migrate(state, "db", NULL, db);
        queue = queue_of(state, db);
        assert_string_equal(task_state(state), "queued");
        assert_non_null(strstr(json_text(queue, "message"), "memory of host2"));
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
}

/* Room on host2 for one and a half of the guests. */
static void leave_little_room(struct state *state)
{
        state->agents[1].memory_free_bytes = ((json_int_t)64 << 20) * 3 / 2;
        refresh_all(state);
}

/* Its start was decided, and its host does not know it yet: the migration waits, where it failed its check before. */
static void memory_of_a_guest_that_starts_is_not_free(void **data)
{
        struct state *state = *data;
        json_t *vm = vm_document("db");
        char web[128];
        const json_t *queue;

        set_the_stage(state);
        json_object_set_new(vm, "host", json_string("host2"));
        json_object_set_new(vm, "start", json_false());
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
        leave_little_room(state);
        state->agents[1].hold = "start";
        assert_int_equal(
                call(state, "POST", "/api/v1/vms/db/start", json_pack("{s:s}", "host", "host2")), 202);
        for (int i = 0; i < 500 && !state->agents[1].held; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[1].held);
        migrate(state, "web", json_pack("{s:s}", "to", "host2"), web);
        queue = queue_of(state, web);
        assert_string_equal(task_state(state), "queued");
        assert_non_null(strstr(json_text(queue, "message"), "memory of host2"));
        state->agents[1].hold = NULL;
        http_request_reply_error(TAKE_PTR(state->agents[1].held), NULL); /* it does not start */
        wait_status(state, web, "state", "running");
}

/* The host told of the guest, but its own numbers are from before. */
static void memory_is_counted_only_by_facts_from_after_the_guest_came(void **data)
{
        struct state *state = *data;
        struct inventory *inventory;
        char host2[64], web[64];

        set_the_stage(state);
        inventory = state->manager->inventory;
        snprintf(web, sizeof(web), "%s", vm_uid(state));
        snprintf(host2, sizeof(host2), "%s", state->agents[1].uid);
        loop_iterate(state->loop, 0);
        for (uint64_t now = clock_now_ms(state->manager->clock);
                clock_now_ms(state->manager->clock) < now + 2;)
                continue; /* so that the last facts are from before */
        inventory_told(inventory, host2, web, json_object_get(state->agents[0].vms, web));
        assert_non_null(inventory_report(inventory, host2, web));
        assert_false(inventory_counts_memory(inventory, host2, web));
        json_object_set(state->agents[1].vms, web, json_object_get(state->agents[0].vms, web));
        refresh_all(state);
        assert_true(inventory_counts_memory(inventory, host2, web));
}

/* "web" comes first and nobody knows yet where to: "db", which does know, does not wait for it. */
static void one_without_a_place_keeps_nothing_free(void **data)
{
        struct state *state = *data;
        char web[128], db[128];

        set_the_stage(state);
        add_vm(state, "db");
        state->config.queue_limits.host = 1;
        state->manager->queue->ranking_budget_ms = 0;
        migrate(state, "web", json_pack("{s:s}", "priority", "critical"), web);
        migrate(state, "db", json_pack("{s:s}", "to", "host2"), db);
        wait_status(state, db, "state", "running");
        assert_int_equal(call(state, "GET", web, NULL), 200);
        assert_string_equal(task_state(state), "queued");
}

static void on_the_store(struct state *state, const char *sql)
{
        char path[160];
        sqlite3 *db = NULL;

        snprintf(path, sizeof(path), "%s/manager.db", state->folder.path);
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
        sqlite3_close(db);
}

/* The store does not take the start; when it does again, the place that was chosen is none any more. */
static void choice_that_was_not_recorded_is_made_anew(void **data)
{
        struct state *state = *data;
        char web[128];

        set_the_stage(state);
        on_the_store(state, "CREATE TRIGGER refuse BEFORE UPDATE ON object WHEN NEW.kind = 'task' AND "
                            "json_extract(NEW.doc, '$.status.state') = 'running' "
                            "BEGIN SELECT RAISE(ABORT, 'not now'); END");
        migrate(state, "web", NULL, web);
        for (int i = 0; i < 10; i++)
                loop_iterate(state->loop, 20);
        assert_int_equal(call(state, "GET", web, NULL), 200);
        state->agents[1].memory_free_bytes = 0;
        refresh_all(state);
        on_the_store(state, "DROP TRIGGER refuse");
        wait_status(state, web, "state", "failed");
        assert_non_null(strstr(
                json_text(json_object_get(json_status(state->body), "error"), "detail"), "no host fits"));
}

/* Nobody waits as far as is known, but then nothing is known. */
static void plan_that_could_not_be_made_is_tried_again(void **data)
{
#ifdef DROVER_TORTURE
        struct state *state = *data;
        struct migration_queue *queue = state->manager->queue;

        set_the_stage(state);
        assert_true(migration_queue_next_ms(queue) == UINT64_MAX);
        migration_queue_changed(queue);
        torture_arm(1);
        assert_null(migration_queue_plan(queue));
        torture_arm(0);
        assert_true(migration_queue_next_ms(queue) < 1000);
        assert_non_null(migration_queue_plan(queue) ?: NULL);
        assert_true(migration_queue_next_ms(queue) == UINT64_MAX);
#else
        skip(); /* allocations fail in a build with -Dtorture=true only */
#endif
}

/* Before anything begins, too, and not for the ranking's sake only. */
static void check_looks_at_promised_bandwidth(void **data)
{
        struct state *state = *data;
        json_t *check;
        bool told = false;
        size_t i;

        set_the_stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate",
                                 json_pack("{s:s, s:b, s:I}", "to", "host2", "check", 1, "min_bandwidth_bps",
                                         (json_int_t)2000000000)),
                200);
        assert_false(json_is_true(json_object_get(state->body, "ok")));
        json_array_foreach (json_object_get(state->body, "checks"), i, check)
                if (!strcmp(json_text(check, "code"), "bandwidth") &&
                        !json_is_true(json_object_get(check, "ok")))
                        told = strstr(json_text(check, "cause"), "2 Gbit/s were asked for") != NULL;
        assert_true(told);
        assert_int_equal(json_array_size(json_object_get(state->body, "ranking")), 1);
}

/* A task that names its destination does not look at all the others. */
static void task_that_knows_where_it_goes_ranks_nobody(void **data)
{
        struct state *state = *data;
        const struct task *task;
        _cleanup_json_ json_t *report = NULL;
        char web[128], object[64];

        set_the_stage(state);
        snprintf(object, sizeof(object), "vm/%s", vm_uid(state));
        assert_int_equal(call(state, "POST", "/api/v1/queue/drain", NULL), 200);
        migrate(state, "web", json_pack("{s:s}", "to", "host2"), web);
        task = task_holding(state->manager->tasks, object);
        assert_non_null(task);
        assert_int_equal(
                operation_migrate_check(state->manager, inventory_vm(state->manager->inventory, object + 3),
                        "host2", task, &report, NULL),
                0);
        assert_true(json_is_true(json_object_get(report, "ok")));
        assert_int_equal(json_array_size(json_object_get(report, "ranking")), 0);
}

static int load(struct state *state, const char *text, struct config *ret_config, struct error **ret_error)
{
        char path[128];

        snprintf(path, sizeof(path), "%s/manager.conf", state->folder.path);
        assert_int_equal(file_write_atomic(path, text, strlen(text), 0600), 0);
        return config_load(path, true, ret_config, ret_error);
}

static void limits_are_those_of_the_configuration(void **data)
{
        static const char *const bad[] = {"host-cost-limit = 0", "datastore-cost-limit = many",
                "network-cost-limit = -1", "network-cost-limit-10g = 100001", "priority-step = 86401"};
        struct config config = {};

        assert_int_equal(
                load(*data, "[manager]\nhost-cost-limit = 2\npriority-step = 0\n", &config, NULL), 0);
        assert_int_equal(config.queue_limits.host, 2);
        assert_int_equal(config.queue_limits.level_ms, 0);
        assert_int_equal(config.queue_limits.datastore, 128);
        config_deinit(&config);
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                _cleanup_error_ struct error *error = NULL;
                char text[96];

                snprintf(text, sizeof(text), "[manager]\n%s\n", bad[i]);
                assert_true(load(*data, text, &config, &error) < 0);
                assert_non_null(strstr(error_message(error), bad[i]));
        }
}

static bool low_one_is_limited(struct state *state)
{
        return state->agents[1].rate_limit_bps > 0;
}

static bool low_one_is_free(struct state *state)
{
        return state->agents[1].rate_limit_bps == 0;
}

/* "db" the other way, so that its source is another agent; a critical one has eight times the part of a low one. */
static void links_are_shared_by_priority_while_they_are_shared(void **data)
{
        struct state *state = *data;
        json_t *vm = vm_document("db");
        char web[128], db[128];

        state->agents[0].link_bps = state->agents[1].link_bps = 9000000000;
        set_the_stage(state);
        json_object_set_new(vm, "host", json_string("host2"));
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
        migrate(state, "db", json_pack("{s:s}", "priority", "low"), db);
        wait_status(state, db, "step", "follow");
        migrate(state, "web", json_pack("{s:s}", "priority", "critical"), web);
        wait_until(state, low_one_is_limited);
        assert_int_equal(state->agents[1].rate_limit_bps, 1000000000);
        assert_int_equal(json_integer_value(json_object_get(
                                 json_object_get(state->agents[0].migration, "spec"), "rate_limit_bps")),
                8000000000);
        complete_migration(state);
        wait_until(state, low_one_is_free);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(waiting_task_says_its_place_and_what_it_waits_for),
                TEST(record_of_a_started_task_holds_what_it_took),
                TEST(next_one_starts_when_one_ends_by_priority),
                TEST(drained_queue_starts_nothing_until_it_is_resumed),
                TEST(order_holdings_and_drain_survive_a_restart),
                TEST(cancelled_in_the_queue_it_never_starts),
                TEST(promised_bandwidth_is_waited_for),
                TEST(more_bandwidth_than_the_link_has_is_refused_at_once),
                TEST(memory_that_is_decided_for_another_is_not_free),
                TEST(memory_of_a_guest_that_starts_is_not_free),
                TEST(memory_is_counted_only_by_facts_from_after_the_guest_came),
                TEST(one_without_a_place_keeps_nothing_free),
                TEST(choice_that_was_not_recorded_is_made_anew),
                TEST(plan_that_could_not_be_made_is_tried_again),
                TEST(check_looks_at_promised_bandwidth),
                TEST(task_that_knows_where_it_goes_ranks_nobody),
                TEST(limits_are_those_of_the_configuration),
                TEST(links_are_shared_by_priority_while_they_are_shared),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

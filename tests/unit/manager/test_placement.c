/* SPDX-License-Identifier: Apache-2.0 */

/* What is looked at before a move, through the whole manager: affinity rules, advice, tasks in the way. */

#include <string.h>

#include "base/doc.h"
#include "cluster/placement.h"
#include "manager_rig.h"

static size_t n_rankings;

/* Counts, by the linker's --wrap, and asks the real one. */
json_t *__real_placement_rank(
        const struct checks_input *checks, const json_t *hosts, const json_t *forecasts);
json_t *__wrap_placement_rank(
        const struct checks_input *checks, const json_t *hosts, const json_t *forecasts);
json_t *__wrap_placement_rank(const struct checks_input *checks, const json_t *hosts, const json_t *forecasts)
{
        n_rankings++;
        return __real_placement_rank(checks, hosts, forecasts);
}

static json_t *rule(const char *name, const char *type, const char *vm, const char *other_or_host)
{
        bool about_hosts = !strcmp(type, "run-on") || !strcmp(type, "keep-off");

        return about_hosts ? json_pack("{s:s, s:{s:s, s:[s], s:[s]}}", "name", name, "spec", "type", type,
                                     "vms", vm, "hosts", other_or_host)
                           : json_pack("{s:s, s:{s:s, s:[s,s]}}", "name", name, "spec", "type", type, "vms",
                                     vm, other_or_host);
}

/* "web" runs on host1, "db" on host2. */
static void two_machines(struct state *state)
{
        json_t *db = vm_document("db");

        set_the_stage(state);
        json_object_set_new(db, "host", json_string("host2"));
        assert_int_equal(call(state, "POST", "/api/v1/vms", db), 202);
        assert_string_equal(finish(state), "succeeded");
}

static const json_t *check_of(struct state *state, const char *code)
{
        json_t *check;
        size_t i;

        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate",
                                 json_pack("{s:s, s:b}", "to", "host2", "check", 1)),
                200);
        json_array_foreach (json_object_get(state->body, "checks"), i, check)
                if (!strcmp(json_text(check, "code"), code))
                        return check;
        return NULL;
}

static void rule_forbids_what_breaks_it_and_says_so(void **data)
{
        struct state *state = *data;
        const json_t *check;

        two_machines(state);
        assert_int_equal(
                call(state, "POST", "/api/v1/affinity-rules", rule("spread", "keep-apart", "web", "db")),
                201);
        assert_int_equal(json_array_size(json_object_get(json_status(state->body), "broken")), 0);
        check = check_of(state, "affinity");
        assert_string_equal(json_text(check, "cause"), "rule spread keeps it apart from db on host host2");
        assert_false(json_is_true(json_object_get(state->body, "ok")));
        call(state, "POST", "/api/v1/vms/web/migrate", json_pack("{s:s}", "to", "host2"));
        assert_string_equal(finish(state), "failed");
        assert_string_equal(
                json_text(json_object_get(json_status(state->body), "error"), "code"), "check-failed");
}

static void rule_that_should_be_kept_only_warns(void **data)
{
        struct state *state = *data;
        json_t *wanted;

        two_machines(state);
        wanted = rule("prefer", "run-on", "web", "host1");
        json_object_set_new(json_spec(wanted), "mode", json_string("should"));
        assert_int_equal(call(state, "POST", "/api/v1/affinity-rules", wanted), 201);
        assert_string_equal(json_text(check_of(state, "affinity-preference"), "severity"), "warning");
        assert_true(json_is_true(json_object_get(state->body, "ok")));
}

static void contradiction_is_refused_by_name(void **data)
{
        struct state *state = *data;

        two_machines(state);
        call(state, "POST", "/api/v1/affinity-rules", rule("pair", "keep-together", "web", "db"));
        assert_int_equal(state->status, 201);
        assert_int_equal(json_array_size(json_object_get(json_status(state->body), "broken")), 2);
        assert_int_equal(
                call(state, "POST", "/api/v1/affinity-rules", rule("spread", "keep-apart", "web", "db")),
                409);
        assert_string_equal(state->code, "conflict");
        assert_string_equal(json_text(state->body, "detail"),
                "rule spread keeps web and db apart, and they are kept together by rule pair");
        assert_int_equal(call(state, "GET", "/api/v1/affinity-rules/spread", NULL), 404);
}

static void rule_is_changed_and_removed(void **data)
{
        struct state *state = *data;

        two_machines(state);
        call(state, "POST", "/api/v1/affinity-rules", rule("only", "run-on", "web", "host1"));
        assert_false(json_is_true(json_object_get(check_of(state, "affinity"), "ok")));
        assert_int_equal(call(state, "PUT", "/api/v1/affinity-rules/only",
                                 json_pack("{s:{s:s, s:[s], s:[s]}}", "spec", "type", "keep-off", "vms",
                                         "web", "hosts", "host1")),
                200);
        assert_true(json_is_true(json_object_get(check_of(state, "affinity"), "ok")));
        call(state, "GET", "/api/v1/affinity-rules/only", NULL);
        assert_string_equal(
                json_string_value(json_array_get(json_object_get(json_status(state->body), "broken"), 0)),
                "web is on host host1: rule only keeps it off host host1");
        assert_int_equal(call(state, "DELETE", "/api/v1/affinity-rules/only", NULL), 204);
        assert_null(check_of(state, "affinity"));
}

static void rule_about_something_unknown_is_refused(void **data)
{
        struct state *state = *data;

        two_machines(state);
        assert_int_equal(
                call(state, "POST", "/api/v1/affinity-rules", rule("r", "run-on", "web", "host9")), 422);
        assert_string_equal(json_text(state->body, "detail"), "there is no host host9");
        assert_int_equal(
                call(state, "POST", "/api/v1/affinity-rules", rule("r", "keep-apart", "web", "nobody")), 422);
        assert_string_equal(json_text(state->body, "detail"), "there is no virtual machine nobody");
        assert_int_equal(call(state, "POST", "/api/v1/affinity-rules",
                                 json_pack("{s:s, s:{s:s, s:[s,s], s:i}}", "name", "r", "spec", "type",
                                         "keep-apart", "vms", "web", "db", "weight", 3)),
                422);
        assert_non_null(strstr(json_text(state->body, "detail"), "weight"));
}

static void advice_ranks_the_other_hosts(void **data)
{
        struct state *state = *data;
        const json_t *best;

        set_the_stage(state);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web/advice", NULL), 200);
        assert_string_equal(json_text(state->body, "action"), "migrate");
        assert_string_equal(json_text(state->body, "from"), "host1");
        assert_int_equal(json_integer_value(json_object_get(state->body, "n_hosts")), 1);
        best = json_array_get(json_object_get(state->body, "ranking"), 0);
        assert_string_equal(json_text(best, "host"), "host2");
        assert_true(json_is_true(json_object_get(best, "ok")));
        assert_true(json_number_value(json_object_get(best, "score")) > 0);
        assert_true(json_array_size(json_object_get(best, "reasons")) >= 2);
}

static void advice_for_a_stopped_machine_ranks_all_hosts(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(call(state, "GET", "/api/v1/vms/web/advice", NULL), 200);
        assert_string_equal(json_text(state->body, "action"), "start");
        assert_int_equal(json_array_size(json_object_get(state->body, "ranking")), 2);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web/advice?limit=1", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "ranking")), 1);
        assert_int_equal(json_integer_value(json_object_get(state->body, "n_hosts")), 2);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web/advice?limit=0", NULL), 400);
}

static void advice_names_each_failed_check_of_the_unfit(void **data)
{
        struct state *state = *data;
        const json_t *host;

        two_machines(state);
        call(state, "POST", "/api/v1/affinity-rules", rule("spread", "keep-apart", "web", "db"));
        call(state, "GET", "/api/v1/vms/web/advice", NULL);
        assert_true(json_is_false(json_object_get(state->body, "ok")));
        host = json_array_get(json_object_get(state->body, "ranking"), 0);
        assert_string_equal(
                json_text(json_array_get(json_object_get(host, "checks"), 0), "code"), "affinity");
        assert_string_equal(json_string_value(json_array_get(json_object_get(host, "reasons"), 0)),
                "affinity: rule spread keeps it apart from db on host host2");
}

static void task_on_the_machine_is_in_the_way_of_others_only(void **data)
{
        struct state *state = *data;
        const json_t *check;
        char path[128];

        set_the_stage(state);
        begin_migration(state, path);
        check = check_of(state, "vm-task");
        assert_false(json_is_true(json_object_get(check, "ok")));
        assert_non_null(strstr(json_text(check, "cause"), "(vm.migrate) works on the virtual machine"));
        complete_migration(state);
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
}

static void machines_on_their_way_count_at_their_destination(void **data)
{
        struct state *state = *data;
        json_t *wide = vm_document("wide");
        const json_t *check;

        set_the_stage(state);
        assert_true(json_is_true(json_object_get(check_of(state, "cpu-load"), "ok")));
        json_object_set_new(json_spec(wide), "cpus", json_integer(4));
        json_object_set_new(wide, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", wide);
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms/wide/migrate", json_pack("{s:s}", "to", "host2"));
        assert_int_equal(state->status, 202);
        for (int i = 0; i < 500 && !state->agents[0].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[0].migration);
        check = check_of(state, "cpu-load");
        assert_true(json_is_false(json_object_get(check, "ok")));
        assert_non_null(strstr(json_text(check, "cause"), "and 5 virtual processors to come"));
}

static void policy_of_the_cluster_without_hosts_that_tell_is_refused(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        assert_int_equal(
                call(state, "PUT", "/api/v1/cluster/cpu", json_pack("{s:{s:s}}", "spec", "policy", "auto")),
                422);
        assert_string_equal(state->code, "check-failed");
        assert_string_equal(
                json_text(state->body, "detail"), "no host has told which processors guests can have there");
        assert_int_equal(
                call(state, "PUT", "/api/v1/cluster/cpu", json_pack("{s:{s:s}}", "spec", "policy", "a b")),
                422);
        assert_int_equal(
                call(state, "PUT", "/api/v1/cluster/cpu", json_pack("{s:{s:s}}", "spec", "policy", "host")),
                422);
        assert_int_equal(call(state, "GET", "/api/v1/cluster/cpu", NULL), 200);
        assert_string_equal(json_text(json_spec(state->body), "policy"), "none");
}

/* The object keeps what the user wrote. */
static void model_of_the_cluster_is_what_the_agent_is_told(void **data)
{
        struct state *state = *data;
        json_t *doc;

        set_the_stage(state);
        assert_int_equal(call(state, "PUT", "/api/v1/cluster/cpu",
                                 json_pack("{s:{s:s}}", "spec", "policy", "Nehalem-v1")),
                200);
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host1"));
        assert_string_equal(finish(state), "succeeded");
        doc = json_object_get(state->agents[0].vms, vm_uid(state));
        assert_string_equal(json_text(json_spec(doc), "cpu_model"), "Nehalem-v1");
        assert_string_equal(json_text(json_spec(state->body), "cpu_model"), "auto");
}

/* A machine of the pool that does not run. */
static void make_in_pool(struct state *state, const char *name)
{
        json_t *vm = vm_document(name);

        json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", "pool", "sales"));
        json_object_del(vm, "start");
        call(state, "POST", "/api/v1/vms", vm);
        assert_string_equal(finish(state), "succeeded");
}

static void make_pool(struct state *state, const char *part, const char *key, json_int_t number)
{
        assert_int_equal(call(state, "POST", "/api/v1/pools",
                                 json_pack("{s:s, s:{s:{s:I}}}", "name", "sales", "spec", part, key, number)),
                201);
}

static json_int_t used(struct state *state, const char *key)
{
        assert_int_equal(call(state, "GET", "/api/v1/pools/sales", NULL), 200);
        return json_integer_value(json_object_get(json_object_get(json_status(state->body), "used"), key));
}

static const char *failure(struct state *state)
{
        const json_t *error = json_object_get(json_status(state->body), "error");

        assert_string_equal(json_text(error, "code"), "check-failed");
        return json_text(error, "detail");
}

static bool create_is_held(struct state *state)
{
        return state->agents[0].held;
}

/* What is being made does not run yet by its document: the task that will start it counts. */
static void two_starts_at_once_do_not_both_take_the_last_place(void **data)
{
        struct state *state = *data;
        json_t *vm = vm_document("a");

        set_the_stage(state);
        make_in_pool(state, "b");
        make_pool(state, "limits", "vms", 1);
        assert_int_equal(used(state, "vms"), 0);
        state->agents[0].hold = "create";
        json_object_set_new(json_spec(vm), "labels", json_pack("{s:s}", "pool", "sales"));
        json_object_set_new(vm, "host", json_string("host1"));
        call(state, "POST", "/api/v1/vms", vm);
        wait_until(state, create_is_held);
        assert_int_equal(call(state, "GET", "/api/v1/vms/a", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "power"), "stopped");
        assert_int_equal(used(state, "vms"), 1);
        assert_int_equal(used(state, "memory_bytes"), (json_int_t)64 << 20);
        call(state, "POST", "/api/v1/vms/b/start", json_pack("{s:s}", "host", "host2"));
        assert_string_equal(finish(state), "failed");
        assert_string_equal(failure(state), "pool-limit: at most 1 of pool sales may run at once, and 1 do");
        /* Once it has failed, its place is free again. */
        state->agents[0].hold = NULL;
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
        for (int i = 0; i < 500 && used(state, "vms"); i++)
                loop_iterate(state->loop, 20);
        call(state, "POST", "/api/v1/vms/b/start", json_pack("{s:s}", "host", "host2"));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(used(state, "vms"), 1);
        call(state, "POST", "/api/v1/vms/b/pause", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(used(state, "vms"), 1);
        call(state, "POST", "/api/v1/vms/b/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(used(state, "vms"), 0);
}

#define N_STARTS 20

/* As after a power cut. */
static void starts_at_once_rank_the_hosts_once_each(void **data)
{
        struct state *state = *data;
        char name[16], paths[N_STARTS][128];

        set_the_stage(state);
        for (int i = 0; i < N_STARTS; i++) {
                json_t *vm;

                snprintf(name, sizeof(name), "vm%d", i);
                vm = vm_document(name);
                json_object_set_new(vm, "start", json_false());
                call(state, "POST", "/api/v1/vms", vm);
                assert_string_equal(finish(state), "succeeded");
        }
        n_rankings = 0;
        for (int i = 0; i < N_STARTS; i++) { /* in one handler: all are there when the first has its turn */
                _cleanup_json_ json_t *data_of = NULL, *doc = NULL;
                char object[80], vm_uid_of[64];

                snprintf(name, sizeof(name), "vm%d", i);
                snprintf(vm_uid_of, sizeof(vm_uid_of), "%s",
                        json_text(inventory_vm_named(state->manager->inventory, name), "uid"));
                snprintf(object, sizeof(object), "vm/%s", vm_uid_of);
                data_of = json_pack("{s:s}", "vm_uid", vm_uid_of);
                assert_int_equal(task_submit(state->manager->tasks,
                                         &(struct task_request){.action = "vm.start",
                                                 .object = object,
                                                 .objects = (const char *const[]){object, NULL},
                                                 .by = "tester",
                                                 .data = data_of},
                                         NULL, &doc, NULL),
                        0);
                snprintf(paths[i], sizeof(paths[i]), "/api/v1/tasks/%s", json_text(doc, "name"));
        }
        for (int i = 0; i < N_STARTS; i++) {
                resume_following(state, paths[i]);
                assert_string_equal(finish(state), "succeeded");
        }
        assert_int_equal(n_rankings, N_STARTS);
}

static void advice_for_a_machine_beyond_the_limits_says_so_of_each_host(void **data)
{
        struct state *state = *data;
        json_t *host;
        size_t i;

        set_the_stage(state);
        make_in_pool(state, "b");
        make_pool(state, "limits", "memory_bytes", (json_int_t)32 << 20);
        assert_int_equal(call(state, "GET", "/api/v1/vms/b/advice", NULL), 200);
        assert_int_equal(json_array_size(json_object_get(state->body, "ranking")), 2);
        json_array_foreach (json_object_get(state->body, "ranking"), i, host)
                assert_string_equal(
                        json_text(json_array_get(json_object_get(host, "checks"), 0), "code"), "pool-limit");
}

/* Each host has 6 GiB free. */
static void what_is_reserved_is_there_and_not_for_others(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        make_in_pool(state, "b");
        assert_int_equal(call(state, "POST", "/api/v1/pools",
                                 json_pack("{s:s, s:{s:{s:I}}}", "name", "sales", "spec", "reservation",
                                         "memory_bytes", (json_int_t)13 << 30)),
                422);
        assert_string_equal(json_text(state->body, "detail"),
                "the hosts have 12 GiB of free memory, and resource pools would reserve 13 GiB of it");
        make_pool(state, "reservation", "memory_bytes", ((json_int_t)12 << 30) - ((json_int_t)32 << 20));
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host1"));
        assert_string_equal(finish(state), "failed");
        assert_string_equal(failure(state),
                "pool-reservation: the virtual machine takes 64 MiB of memory that no resource pool "
                "reserves, and of that the hosts have 32 MiB (12 GiB free, 12 GiB reserved)");
        call(state, "POST", "/api/v1/vms/b/start", json_pack("{s:s}", "host", "host1"));
        assert_string_equal(finish(state), "succeeded");
        /* Less may be reserved, whatever is free. */
        assert_int_equal(call(state, "PUT", "/api/v1/pools/sales",
                                 json_pack("{s:{s:{s:i}}}", "spec", "reservation", "memory_bytes", 1 << 30)),
                200);
        call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host1"));
        assert_string_equal(finish(state), "succeeded");
}

/* As the host that has it reports. */
static void let_be_suspended(struct state *state, const char *name)
{
        char path[64];

        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++) {
                const char *uid;
                json_t *vm;

                json_object_foreach (state->agents[i].vms, uid, vm)
                        if (!strcmp(json_text(vm, "name"), name))
                                json_object_set_new(json_status(vm), "power", json_string("suspended"));
        }
        refresh_all(state);
        snprintf(path, sizeof(path), "/api/v1/vms/%s", name);
        wait_status(state, path, "power", "suspended");
}

static void assert_agents_are_too_old(struct state *state, const char *path, json_t *body)
{
        const json_t *error;

        assert_int_equal(call(state, "POST", path, body), 202);
        assert_string_equal(finish(state), "failed");
        error = json_object_get(json_status(state->body), "error");
        assert_string_equal(json_text(error, "code"), "not-supported");
        assert_non_null(strstr(json_text(error, "detail"), "does not know of suspended virtual machines"));
}

static void machine_is_suspended_and_started_again_only_by_agents_that_know_of_it(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                state->agents[i].knows_no_states = true;
        refresh_all(state);
        assert_agents_are_too_old(state, "/api/v1/vms/web/suspend", json_object());
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        assert_string_equal(json_text(json_status(state->body), "power"), "running");
        let_be_suspended(state, "web");
        assert_agents_are_too_old(state, "/api/v1/vms/web/resume", json_object());
        let_be_suspended(state, "web");
        assert_agents_are_too_old(state, "/api/v1/vms/web/start", json_pack("{s:b}", "discard_state", 1));
}

static void suspended_machine_takes_its_place_in_the_pool_anew(void **data)
{
        struct state *state = *data;

        set_the_stage(state);
        make_in_pool(state, "b");
        call(state, "POST", "/api/v1/vms/b/start", json_pack("{s:s}", "host", "host2"));
        assert_string_equal(finish(state), "succeeded");
        make_pool(state, "limits", "memory_bytes", (json_int_t)64 << 20);
        assert_int_equal(used(state, "vms"), 1);
        let_be_suspended(state, "b");
        assert_int_equal(used(state, "vms"), 0);
        assert_int_equal(
                call(state, "PUT", "/api/v1/pools/sales",
                        json_pack("{s:{s:{s:I}}}", "spec", "limits", "memory_bytes", (json_int_t)32 << 20)),
                200);
        call(state, "POST", "/api/v1/vms/b/resume", json_pack("{s:s}", "host", "host2"));
        assert_string_equal(finish(state), "failed");
        assert_string_equal(failure(state), "pool-limit: pool sales may use 32 MiB of memory, 0 B are in "
                                            "use, and the virtual machine has "
                                            "64 MiB");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(rule_forbids_what_breaks_it_and_says_so),
                TEST(rule_that_should_be_kept_only_warns),
                TEST(contradiction_is_refused_by_name),
                TEST(rule_is_changed_and_removed),
                TEST(rule_about_something_unknown_is_refused),
                TEST(advice_ranks_the_other_hosts),
                TEST(advice_for_a_stopped_machine_ranks_all_hosts),
                TEST(advice_names_each_failed_check_of_the_unfit),
                TEST(task_on_the_machine_is_in_the_way_of_others_only),
                TEST(machines_on_their_way_count_at_their_destination),
                TEST(policy_of_the_cluster_without_hosts_that_tell_is_refused),
                TEST(model_of_the_cluster_is_what_the_agent_is_told),
                TEST(two_starts_at_once_do_not_both_take_the_last_place),
                TEST(starts_at_once_rank_the_hosts_once_each),
                TEST(advice_for_a_machine_beyond_the_limits_says_so_of_each_host),
                TEST(what_is_reserved_is_there_and_not_for_others),
                TEST(machine_is_suspended_and_started_again_only_by_agents_that_know_of_it),
                TEST(suspended_machine_takes_its_place_in_the_pool_anew),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

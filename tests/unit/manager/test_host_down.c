/* SPDX-License-Identifier: Apache-2.0 */

/* A host that does not come back: it is confirmed down, its machines start elsewhere, the migrations that waited for it end;
 * and what follows when it comes back all the same. */

#include <unistd.h>

#include "manager_rig.h"

#include "manager/inventory_private.h"

static json_t *status_of_vm(struct state *state)
{
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 200);
        return json_status(state->body);
}

static const char *power(struct state *state)
{
        return json_text(status_of_vm(state), "power");
}

static const char *home(struct state *state)
{
        return json_text(status_of_vm(state), "host");
}

static json_int_t epoch(struct state *state)
{
        return json_integer_value(json_object_get(status_of_vm(state), "owner_epoch"));
}

static struct agent_double *agent_of(struct state *state, const char *host)
{
        return &state->agents[!strcmp(host, "host1") ? 0 : 1];
}

/* With event streams: the death of a host is seen at once. */
static void stage(struct state *state)
{
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                state->agents[i].streams = true;
        set_the_stage(state);
        for (size_t i = 0; i < ARRAY_SIZE(state->agents); i++)
                while (!state->agents[i].stream)
                        loop_iterate(state->loop, 20);
}

/* As when its power fails: the agent is gone with all that it had. */
static void let_die(struct state *state, const char *host)
{
        struct agent_double *agent = agent_of(state, host);
        char path[64];

        agent_double_stop(agent);
        json_object_clear(agent->vms);
        json_decref(agent->migration);
        agent->migration = NULL;
        snprintf(path, sizeof(path), "/api/v1/hosts/%s", host);
        wait_status(state, path, "state", "unreachable");
}

static bool confirmation_accepted(struct state *state)
{
        int status = call(state, "POST", state->path, NULL);

        /* The second attempt to reach it may be under way still. */
        assert_true(status == 200 || (status == 409 && !strcmp(state->code, "conflict")));
        return status == 200;
}

static void confirm_down(struct state *state, const char *host)
{
        char path[64];

        snprintf(path, sizeof(path), "/api/v1/hosts/%s/confirm-down", host);
        state->path = path;
        wait_until(state, confirmation_accepted);
        state->path = NULL;
}

static void let_die_and_confirm(struct state *state, const char *host)
{
        let_die(state, host);
        confirm_down(state, host);
}

static void let_return(struct state *state, const char *host)
{
        char path[64];

        agent_double_restart(agent_of(state, host));
        snprintf(path, sizeof(path), "/api/v1/hosts/%s", host);
        wait_status(state, path, "state", "connected");
        refresh_all(state);
}

static bool audit_has(struct state *state, const char *action, const char *who)
{
        json_t *entry;
        size_t i;

        assert_int_equal(call(state, "GET", "/api/v1/audit?limit=100", NULL), 200);
        json_array_foreach (json_object_get(state->body, "items"), i, entry)
                if (!strcmp(json_text(entry, "action"), action) && !strcmp(json_text(entry, "who"), who) &&
                        !strcmp(json_text(entry, "object"), "host/host1"))
                        return true;
        return false;
}

static const char *error_of_task(struct state *state, const char *key)
{
        return json_text(json_object_get(json_status(state->body), "error"), key);
}

static void assert_says(struct state *state, const char *part)
{
        const char *detail = error_of_task(state, "detail");

        if (!strstr(detail, part))
                fail_msg("'%s' is not in: %s", part, detail);
}

/* --- Confirming it --------------------------------------------------------------------------------------------- */

static void host_that_answers_is_not_down(void **data)
{
        struct state *state = *data;

        stage(state);
        assert_int_equal(call(state, "POST", "/api/v1/hosts/host1/confirm-down", NULL), 409);
        assert_string_equal(state->code, "conflict");
        assert_null(json_object_get(json_object_get(state->body, "status"), "confirmed_down"));
        assert_string_equal(power(state), "running");
}

static void machines_of_a_host_that_is_down_have_crashed(void **data)
{
        struct state *state = *data;
        const json_t *down;

        stage(state);
        let_die(state, "host1");
        wait_status(state, "/api/v1/vms/web", "power", "unknown");
        confirm_down(state, "host1");
        down = json_object_get(json_status(state->body), "confirmed_down");
        assert_string_equal(json_text(down, "by"), "admin");
        assert_true(*json_text(down, "since"));
        assert_string_equal(json_text(json_status(state->body), "message"), "confirmed down by admin");
        assert_string_equal(power(state), "crashed");
        assert_string_equal(json_text(status_of_vm(state), "message"), "host host1 was confirmed down");
        assert_true(audit_has(state, "host.confirm-down", "admin"));
}

static void machine_that_was_off_stays_off(void **data)
{
        struct state *state = *data;

        stage(state);
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        let_die_and_confirm(state, "host1");
        assert_string_equal(power(state), "stopped");
}

static void confirmation_survives_a_restart_of_the_manager(void **data)
{
        struct state *state = *data;

        stage(state);
        let_die_and_confirm(state, "host1");
        stop_manager(state);
        start_manager(state);
        wait_status(state, "/api/v1/hosts/host1", "message", "confirmed down by admin");
        wait_status(state, "/api/v1/hosts/host1", "state", "unreachable");
        assert_string_equal(power(state), "crashed");
        confirm_down(state, "host1"); /* once more, to no effect */
        assert_string_equal(power(state), "crashed");
}

static bool told_of_host1(struct state *state)
{
        const json_t *list = state->agents[1].fenced;

        return json_array_size(list) == 1 &&
               !strcmp(json_string_value(json_array_get(list, 0)), state->agents[0].uid);
}

static bool told_of_nobody(struct state *state)
{
        return state->agents[1].fenced && json_array_size(state->agents[1].fenced) == 0;
}

static void agents_learn_which_hosts_are_down(void **data)
{
        struct state *state = *data;

        stage(state);
        assert_true(told_of_nobody(state));
        let_die_and_confirm(state, "host1");
        wait_until(state, told_of_host1);
        stop_manager(state);
        json_array_clear(state->agents[1].fenced);
        start_manager(state);
        wait_until(state, told_of_host1);
        let_return(state, "host1");
        wait_until(state, told_of_nobody);
        assert_int_equal(json_array_size(state->agents[0].fenced), 0);
}

static void return_of_the_host_withdraws_it_for_good(void **data)
{
        struct state *state = *data;

        stage(state);
        let_die_and_confirm(state, "host1");
        let_return(state, "host1");
        assert_int_equal(call(state, "GET", "/api/v1/hosts/host1", NULL), 200);
        assert_null(json_object_get(json_status(state->body), "confirmed_down"));
        assert_true(audit_has(state, "host.withdraw-down", "system"));
        let_die(state, "host1");
        stop_manager(state);
        start_manager(state);
        wait_status(state, "/api/v1/hosts/host1", "state", "unreachable");
        assert_int_equal(call(state, "GET", "/api/v1/hosts/host1", NULL), 200);
        assert_null(json_object_get(json_status(state->body), "confirmed_down"));
}

/* A sync of the host may be under way, which keeps it for a moment. */
static bool removal_accepted(struct state *state)
{
        int status = call(state, "DELETE", "/api/v1/hosts/host1?force=true", NULL);

        assert_true(status == 202 || (status == 409 && !strcmp(state->code, "busy")));
        return status == 202;
}

static void removal_takes_the_host_off_the_list(void **data)
{
        struct state *state = *data;

        stage(state);
        let_die_and_confirm(state, "host1");
        wait_until(state, told_of_host1);
        assert_int_equal(call(state, "DELETE", "/api/v1/hosts/host1", NULL), 409); /* its machine */
        wait_until(state, removal_accepted);
        assert_string_equal(finish(state), "succeeded");
        wait_until(state, told_of_nobody);
        assert_string_equal(power(state), "crashed");
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_string_equal(home(state), "host2");
}

/* --- Its machines ------------------------------------------------------------------------------------------------ */

static void start_elsewhere(struct state *state)
{
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "running");
}

static void machine_starts_elsewhere_knowing_a_later_epoch(void **data)
{
        struct state *state = *data;
        json_int_t before;

        stage(state);
        before = epoch(state);
        let_die_and_confirm(state, "host1");
        start_elsewhere(state);
        /* The dead host may have taken one that it could not tell of. */
        assert_int_equal(state->agents[1].started_knowing, before + 1);
        assert_int_equal(epoch(state), before + 2);
}

static void start_on_the_host_that_is_down_is_refused(void **data)
{
        struct state *state = *data;

        stage(state);
        let_die_and_confirm(state, "host1");
        call(state, "POST", "/api/v1/vms/web/start", json_pack("{s:s}", "host", "host1"));
        assert_string_equal(finish(state), "failed");
        assert_string_equal(error_of_task(state, "code"), "check-failed");
        assert_string_equal(power(state), "crashed");
}

static void refusal_for_a_later_owner_names_the_host(void **data)
{
        struct state *state = *data;

        stage(state);
        let_die_and_confirm(state, "host1");
        state->agents[1].refuse_for = state->agents[0].uid;
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(error_of_task(state, "code"), "stale-epoch");
        assert_says(state, "host host1 took the virtual machine with epoch 9");
        assert_string_equal(error_of_task(state, "hint"), "Ask that host.");
}

static json_t *report_of(struct state *state, const char *power_there)
{
        json_t *doc = json_deep_copy(json_object_get(state->agents[0].vms, vm_uid(state)));

        json_object_set_new(json_status(doc), "power", json_string(power_there));
        return doc;
}

static void old_news_of_the_host_do_not_move_its_machine_back(void **data)
{
        struct state *state = *data;
        json_t *crashed;
        char uid[64];

        stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        crashed = report_of(state, "crashed");
        let_die_and_confirm(state, "host1");
        start_elsewhere(state);
        json_object_set_new(state->agents[0].vms, uid, crashed);
        let_return(state, "host1");
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "running");
        call(state, "POST", "/api/v1/vms/web/stop", json_pack("{s:b}", "force", 1));
        assert_string_equal(finish(state), "succeeded");
        refresh_all(state);
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "stopped");
        json_object_clear(state->agents[1].vms); /* as after a reboot */
        refresh_all(state);
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "stopped");
}

/* The administrator was wrong. While the later owner cannot be asked the older one is not taken for it. */
static void copy_of_an_earlier_epoch_does_not_count(void **data)
{
        struct state *state = *data;
        json_t *running;
        char uid[64];

        stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        running = report_of(state, "running");
        let_die_and_confirm(state, "host1");
        start_elsewhere(state);
        agent_double_stop(&state->agents[1]);
        wait_status(state, "/api/v1/vms/web", "power", "unknown");
        json_object_set_new(state->agents[0].vms, uid, running);
        agent_double_restart(&state->agents[0]);
        wait_status(state, "/api/v1/hosts/host1", "state", "connected");
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "unknown");
        let_return(state, "host2");
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "running");
        do {
                loop_iterate(state->loop, 20);
                assert_int_equal(call(state, "GET", "/api/v1/alerts", NULL), 200);
        } while (!json_array_size(json_object_get(state->body, "items")));
        assert_string_equal(home(state), "host2");
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/pause", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        refresh_all(state);
        assert_string_equal(home(state), "host2");
        assert_string_equal(power(state), "paused");
}

static void machine_that_runs_there_after_all_is_running(void **data)
{
        struct state *state = *data;
        json_t *running;
        char uid[64];

        stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        running = report_of(state, "running");
        let_die_and_confirm(state, "host1");
        assert_string_equal(power(state), "crashed");
        json_object_set_new(state->agents[0].vms, uid, running);
        let_return(state, "host1");
        assert_string_equal(power(state), "running");
        assert_string_equal(home(state), "host1");
}

static void machine_is_deleted_by_another_host(void **data)
{
        struct state *state = *data;
        char deleted[128];

        stage(state);
        snprintf(deleted, sizeof(deleted), "POST /agent/v1/vms/%s/delete", vm_uid(state));
        let_die_and_confirm(state, "host1");
        assert_int_equal(call(state, "DELETE", "/api/v1/vms/web", NULL), 202);
        assert_string_equal(finish(state), "succeeded");
        assert_int_equal(agent_double_calls(&state->agents[1], deleted), 1);
        assert_int_equal(call(state, "GET", "/api/v1/vms/web", NULL), 404);
}

static void machine_whose_files_nobody_else_has_is_not_deleted(void **data)
{
        struct state *state = *data;

        stage(state);
        let_die_and_confirm(state, "host1");
        json_object_del(state->agents[1].datastores, "shared");
        inventory_refresh(state->manager->inventory, state->agents[1].uid);
        for (int i = 0; i < 25; i++)
                loop_iterate(state->loop, 20);
        assert_int_equal(call(state, "DELETE", "/api/v1/vms/web", NULL), 202);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(error_of_task(state, "code"), "unreachable");
        assert_string_equal(power(state), "crashed");
}

static bool stop_is_held(struct state *state)
{
        return state->agents[0].held;
}

static void task_does_not_wait_for_a_host_that_is_down(void **data)
{
        struct state *state = *data;
        char path[128];

        stage(state);
        state->agents[0].hold = "stop";
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/stop", json_object()), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, stop_is_held);
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
        let_die_and_confirm(state, "host1");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(power(state), "crashed");
        start_elsewhere(state);
}

/* --- Migrations ------------------------------------------------------------------------------------------------- */

static bool waits_for_peer(struct state *state)
{
        assert_int_equal(call(state, "GET", state->path, NULL), 200);
        return !strcmp(json_text(json_object_get(json_status(state->body), "progress"), "phase"),
                "waiting-for-peer");
}

/* Begins one whose task then cannot go on without `host`. */
static void migrate_until_dead(struct state *state, const char *host, char ret_path[static 128])
{
        stage(state);
        begin_migration(state, ret_path);
        let_die(state, host);
}

static void end_at_source(struct state *state, const char *phase, bool keeps)
{
        json_t *migration = state->agents[0].migration;

        json_object_set_new(migration, "phase", json_string(phase));
        json_object_set_new(migration, "error",
                json_pack("{s:s, s:s}", "code", "mover-failed", "detail", "the data path ended"));
        if (!keeps)
                json_object_clear(state->agents[0].vms);
}

static void machine_stays_when_its_destination_is_down(void **data)
{
        struct state *state = *data;
        char path[128];

        migrate_until_dead(state, "host2", path);
        end_at_source(state, "failed", true);
        state->path = path;
        wait_until(state, waits_for_peer);
        confirm_down(state, "host2");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(error_of_task(state, "code"), "mover-failed");
        assert_says(
                state, "host host2 was confirmed down; the virtual machine stays on host host1: the data");
        assert_string_equal(power(state), "running");
        assert_string_equal(home(state), "host1");
}

/* Which of the two wrote the last record is not known: the source may have taken the VM back and ended, too. */
static void machine_that_its_dead_destination_owned_can_be_started(void **data)
{
        struct state *state = *data;
        json_int_t before;
        char path[128];

        migrate_until_dead(state, "host2", path);
        before = epoch(state);
        end_at_source(state, "failed", false);
        confirm_down(state, "host2");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_says(state, "handed over to host host2, which was confirmed down");
        assert_string_equal(power(state), "crashed");
        assert_string_equal(home(state), "host2");
        assert_string_equal(json_text(status_of_vm(state), "message"), "host host2 was confirmed down");
        assert_int_equal(epoch(state), before + 2);
        call(state, "POST", "/api/v1/vms/web/start", NULL);
        assert_string_equal(finish(state), "succeeded");
        assert_string_equal(home(state), "host1");
        assert_int_equal(state->agents[0].started_knowing, before + 2);
}

static void destination_of_a_dead_source_has_the_machine(void **data)
{
        struct state *state = *data;
        json_t *vm;
        char path[128], uid[64];

        stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        begin_migration(state, path);
        vm = json_deep_copy(json_object_get(state->agents[0].vms, uid));
        let_die_and_confirm(state, "host1");
        json_object_set_new(json_status(vm), "power", json_string("incoming"));
        json_object_set(state->agents[1].vms, uid, vm);
        state->agents[1].migration = json_pack("{s:s, s:n, s:n}", "phase", "switching", "result", "error");
        state->path = path;
        wait_until(state, waits_for_peer);
        json_object_set_new(json_status(vm), "power", json_string("running"));
        json_object_set_new(json_status(vm), "owner_epoch", json_integer(2));
        json_decref(vm);
        json_object_set_new(state->agents[1].migration, "phase", json_string("done"));
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        assert_string_equal(power(state), "running");
        assert_string_equal(home(state), "host2");
}

/* Before it died it may have taken the VM back, which takes two epochs. */
static void machine_that_died_with_its_source_can_be_started(void **data)
{
        struct state *state = *data;
        json_int_t before;
        char path[128];

        migrate_until_dead(state, "host1", path);
        before = epoch(state);
        state->agents[1].migration = json_pack("{s:s, s:n, s:{s:s, s:s}}", "phase", "failed", "result",
                "error", "code", "cancelled", "detail", "the source is down");
        confirm_down(state, "host1");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_says(state, "host host1 was confirmed down before host host2 had the virtual machine");
        assert_string_equal(power(state), "crashed");
        assert_string_equal(home(state), "host1");
        assert_int_equal(epoch(state), before + 2);
        start_elsewhere(state);
}

static void migration_that_its_dead_source_may_have_begun_is_settled(void **data)
{
        struct state *state = *data;
        json_t *vm;
        char path[128], uid[64];

        stage(state);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        vm = json_deep_copy(json_object_get(state->agents[0].vms, uid));
        json_object_set_new(json_status(vm), "power", json_string("incoming"));
        json_object_set_new(state->agents[1].vms, uid, vm);
        state->agents[0].hold_migrations = true;
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate", json_object()), 202);
        snprintf(path, sizeof(path), "/api/v1/tasks/%s", json_text(state->body, "name"));
        wait_until(state, stop_is_held);
        http_request_reply_error(TAKE_PTR(state->agents[0].held), NULL);
        let_die_and_confirm(state, "host1");
        state->path = path;
        wait_until(state, waits_for_peer); /* the destination has not given up yet */
        json_object_clear(state->agents[1].vms);
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(power(state), "crashed");
}

static void migration_between_two_dead_hosts_ends(void **data)
{
        struct state *state = *data;
        char path[128];

        migrate_until_dead(state, "host1", path);
        let_die_and_confirm(state, "host2");
        confirm_down(state, "host1");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_says(state, "the hosts host1 and host2 were both confirmed down");
        assert_string_equal(power(state), "crashed");
}

/* --- With disks that travel along -------------------------------------------------------------------------------- */

static void add_datastore(struct state *state, const char *name)
{
        call(state, "POST", "/api/v1/datastores",
                json_pack("{s:s, s:{s:s}}", "name", name, "spec", "path", "/srv2"));
        assert_string_equal(finish(state), "succeeded");
}

static char along_id[64]; /* of the migration that was begun last */

/* A migration from datastore "shared" to "other", of which the source waits for the destination's word. */
static void begin_along(struct state *state, char ret_path[static 128])
{
        stage(state);
        add_datastore(state, "other");
        refresh_all(state);
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/migrate",
                                 json_pack("{s:s, s:s}", "to", "host2", "to_datastore", "other")),
                202);
        snprintf(ret_path, 128, "/api/v1/tasks/%s", json_text(state->body, "name"));
        for (int i = 0; i < 500 && !state->agents[0].migration; i++)
                loop_iterate(state->loop, 20);
        assert_non_null(state->agents[0].migration);
        snprintf(along_id, sizeof(along_id), "%s", json_text(state->agents[0].migration, "id"));
        json_object_set_new(state->agents[0].migration, "phase", json_string("waiting-for-peer"));
}

static void run_for(struct state *state, uint64_t ms)
{
        uint64_t until_ms = clock_now_ms(&clock_system) + ms;

        while (clock_now_ms(&clock_system) < until_ms)
                loop_iterate(state->loop, 20);
}

static bool task_is_running(struct state *state, const char *path)
{
        assert_int_equal(call(state, "GET", path, NULL), 200);
        return !strcmp(json_text(json_status(state->body), "state"), "running");
}

static int n_words(struct state *state, const char *word)
{
        char key[160];

        snprintf(key, sizeof(key), "POST /agent/v1/migrations/%s/%s", along_id, word);
        return agent_double_calls(&state->agents[0], key);
}

static int n_words_of_removal(struct state *state)
{
        return n_words(state, "peer-removed");
}

/* The source at host1 says that it waits for host2's word. */
static void wait_at_source(struct state *state)
{
        if (!state->agents[0].waiting)
                state->agents[0].waiting =
                        json_pack("[{s:s, s:s}]", "id", along_id, "peer", state->agents[1].uid);
}

static void remove_host(struct state *state, const char *path)
{
        assert_int_equal(call(state, "DELETE", path, NULL), 202);
        assert_string_equal(finish(state), "succeeded");
}

static void removal_of_the_destination_gives_its_disks_up_while_the_task_lasts(void **data)
{
        struct state *state = *data;
        char path[128];

        begin_along(state, path);
        wait_at_source(state);
        let_die_and_confirm(state, "host2");
        run_for(state, 1500);
        assert_true(task_is_running(state, path));
        assert_int_equal(n_words_of_removal(state), 0);
        assert_int_equal(n_words(state, "let-go"), 0);
        remove_host(state, "/api/v1/hosts/host2?force=true");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_true(n_words_of_removal(state) > 0);
        assert_string_equal(power(state), "running");
        assert_string_equal(home(state), "host1");
}

/* The guest ran there, and may have gone on to a third host since. */
static void removal_after_the_task_gives_nothing_up(void **data)
{
        struct state *state = *data;
        char path[128], uid[64];
        json_t *vm, *migration;

        begin_along(state, path);
        snprintf(uid, sizeof(uid), "%s", vm_uid(state));
        vm = json_deep_copy(json_object_get(state->agents[0].vms, uid));
        migration =
                TAKE_PTR(state->agents[0].migration); /* its source has nothing to say of it for a while */
        state->agents[0].forgetful = true;
        json_object_set_new(state->agents[1].vms, uid, vm);
        state->agents[1].migration =
                json_pack("{s:s, s:s, s:n, s:n}", "phase", "done", "record", "owner", "result", "error");
        resume_following(state, path);
        assert_string_equal(finish(state), "succeeded");
        state->agents[0].migration = migration;
        wait_at_source(state);
        run_for(state, 2500);
        assert_int_equal(n_words(state, "let-go"), 0); /* host2 can tell it */
        remove_host(state, "/api/v1/hosts/host2?force=true");
        run_for(state, 2500);
        assert_int_equal(n_words_of_removal(state), 0);
        assert_int_equal(n_words(state, "let-go"), 1);
}

/* Nobody can be asked, so the VM may be started again; the source that comes back later is not to wait for ever. */
static void source_of_a_task_that_ended_without_it_is_told_to_let_go(void **data)
{
        struct state *state = *data;
        char path[128];

        begin_along(state, path);
        let_die_and_confirm(state, "host1");
        let_die_and_confirm(state, "host2");
        remove_host(state, "/api/v1/hosts/host2?force=true");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(power(state), "crashed");
        assert_string_equal(json_text(json_spec(state->body), "datastore"), "shared");
        wait_at_source(state);
        let_return(state, "host1");
        run_for(state, 2500);
        assert_int_equal(n_words_of_removal(state), 0);
        assert_int_equal(n_words(state, "let-go"), 1);
}

static void disks_of_two_dead_hosts_are_waited_for(void **data)
{
        struct state *state = *data;
        json_int_t before;
        char path[128];

        begin_along(state, path);
        before = epoch(state);
        let_die_and_confirm(state, "host1");
        let_die_and_confirm(state, "host2");
        run_for(state, 2500);
        assert_true(
                task_is_running(state, path)); /* it keeps the VM: nobody starts it from the older disks */
        assert_int_equal(call(state, "POST", "/api/v1/vms/web/start", NULL), 409);
        state->agents[1].migration =
                json_pack("{s:s, s:s, s:n, s:n}", "phase", "done", "record", "owner", "result", "error");
        let_return(state, "host2");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(power(state), "crashed");
        assert_string_equal(json_text(json_spec(state->body), "datastore"), "other");
        assert_true(epoch(state) > before);
}

static void source_that_took_its_disks_back_is_believed_though_both_are_down(void **data)
{
        struct state *state = *data;
        json_int_t before;
        char path[128];

        begin_along(state, path);
        before = epoch(state);
        let_die(state, "host2");
        end_at_source(state, "failed", false);
        json_object_set_new(state->agents[0].migration, "record", json_string("taken-back"));
        confirm_down(state, "host2");
        resume_following(state, path);
        assert_string_equal(finish(state), "failed");
        assert_string_equal(power(state), "crashed");
        assert_string_equal(json_text(json_spec(state->body), "datastore"), "shared");
        assert_int_equal(epoch(state), before + 2); /* as the record there says */
}

#define N_SILENT 4

/* Addresses where no connection is taken: the kernel drops what comes once the line of those not yet accepted is full. */
struct silent {
        int fds[N_SILENT];
        char address[64];
};

static void silent_init(struct silent *silent)
{
        struct sock_address address;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &address, NULL), 0);
        assert_int_equal(sock_listen_tcp(&address, 0, &silent->fds[0], NULL), 0);
        assert_int_equal(sock_local_address(silent->fds[0], &address), 0);
        sock_address_format(&address, silent->address);
        for (size_t i = 1; i < N_SILENT; i++)
                assert_int_equal(sock_connect_tcp_start(&address, &silent->fds[i]), 0);
}

static void silent_deinit(struct silent *silent)
{
        for (size_t i = 0; i < N_SILENT; i++)
                close(silent->fds[i]);
}

/* As an earlier start has recorded it. */
static void record_host(struct state *state, const char *name, const char *address)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, STORE_ABSENT,
                json_pack("{s:s, s:s, s:s, s:{s:s}, s:{s:s}}", "kind", "host", "uid", name, "name", name,
                        "spec", "address", address, "status", "state", "connected"));
        assert_int_equal(store_commit(state->manager->store, &batch, NULL, NULL), 0);
}

static const struct host *host_named(struct state *state, const char *name)
{
        return map_get(&state->manager->inventory->hosts_by_name, name);
}

static bool is_tried_without_a_place(struct state *state)
{
        const struct host *host = host_named(state, "silent");

        return host->call && !host->returning && !state->manager->inventory->n_returning;
}

/* What does not even take a connection costs nothing: it must not keep others waiting that are there. */
static void host_that_takes_no_connection_keeps_no_place(void **data)
{
        struct state *state = *data;
        struct silent silent;

        silent_init(&silent);
        record_host(state, "silent", silent.address);
        wait_until(state, is_tried_without_a_place);
        silent_deinit(&silent);
}

static bool is_in_line(struct state *state)
{
        return !list_empty(&host_named(state, "tried")->waiting);
}

static bool is_out_of_line(struct state *state)
{
        return !is_in_line(state);
}

static void nothing(void *userdata)
{
}

/* One that was tried in vain lets those go first that were not tried yet. */
static void host_that_failed_waits_for_those_not_yet_tried(void **data)
{
        struct state *state = *data;
        struct inventory *inventory = state->manager->inventory;
        struct host new = {.inventory = inventory};

        record_host(state, "tried", "127.0.0.1:1"); /* nobody listens */
        wait_status(state, "/api/v1/hosts/tried", "state", "unreachable");
        assert_int_equal(loop_add_timer(state->loop, WAIT_MS, nothing, NULL, &new.timer), 0);
        list_append(&inventory->waiting[0], &new.waiting);
        wait_until(state, is_in_line);
        for (int i = 0; i < 20; i++) {
                loop_iterate(state->loop, 20);
                assert_true(is_in_line(state) && !host_named(state, "tried")->call);
        }
        list_remove(&new.waiting);
        wait_until(state, is_out_of_line);
        loop_source_free(new.timer);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(host_that_answers_is_not_down),
                TEST(machines_of_a_host_that_is_down_have_crashed),
                TEST(machine_that_was_off_stays_off),
                TEST(confirmation_survives_a_restart_of_the_manager),
                TEST(agents_learn_which_hosts_are_down),
                TEST(return_of_the_host_withdraws_it_for_good),
                TEST(removal_takes_the_host_off_the_list),
                TEST(machine_starts_elsewhere_knowing_a_later_epoch),
                TEST(start_on_the_host_that_is_down_is_refused),
                TEST(refusal_for_a_later_owner_names_the_host),
                TEST(old_news_of_the_host_do_not_move_its_machine_back),
                TEST(copy_of_an_earlier_epoch_does_not_count),
                TEST(machine_that_runs_there_after_all_is_running),
                TEST(machine_is_deleted_by_another_host),
                TEST(machine_whose_files_nobody_else_has_is_not_deleted),
                TEST(task_does_not_wait_for_a_host_that_is_down),
                TEST(machine_stays_when_its_destination_is_down),
                TEST(machine_that_its_dead_destination_owned_can_be_started),
                TEST(destination_of_a_dead_source_has_the_machine),
                TEST(machine_that_died_with_its_source_can_be_started),
                TEST(migration_that_its_dead_source_may_have_begun_is_settled),
                TEST(migration_between_two_dead_hosts_ends),
                TEST(removal_of_the_destination_gives_its_disks_up_while_the_task_lasts),
                TEST(removal_after_the_task_gives_nothing_up),
                TEST(disks_of_two_dead_hosts_are_waited_for),
                TEST(source_of_a_task_that_ended_without_it_is_told_to_let_go),
                TEST(source_that_took_its_disks_back_is_believed_though_both_are_down),
                TEST(host_that_takes_no_connection_keeps_no_place),
                TEST(host_that_failed_waits_for_those_not_yet_tried),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

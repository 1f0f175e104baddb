/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/manager.h"
#include "manager/forecasts.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/crash_point.h"
#include "io/file.h"
#include "manager/api.h"
#include "manager/audit.h"
#include "manager/auth.h"
#include "manager/json.h"
#include "manager/migration_queue.h"
#include "manager/operations.h"
#include "manager/password.h"
#include "manager/schedules.h"
#include "manager/switchover_arbiter.h"

#define HOUSEKEEPING_MS (60u * 1000)
#define CHORE_MS 50u /* between two of its parts */
#define IDEMPOTENCY_MS (24ll * 3600 * 1000)
#define EXPIRE_AT_ONCE 500
#define DAY_MS (24ll * 3600 * 1000)
#define BODY_MAX_BYTES (1u << 20)
#define CONNECTIONS_MAX 2000
#define AGENT_CONNECTIONS_KEPT 10000 /* one for the heartbeat of each host, and then some */
#define REMOVED_HOST_MS \
        (1100ll * 24 * 3600 * 1000) /* a little longer than a host's certificate lives (ca.c) */

int manager_open_store(const struct config *config, const struct clock *clock, struct store **ret_store,
        struct error **ret_error)
{
        _cleanup_free_ char *where = config->store ? alloc_strdup(config->store)
                                                   : alloc_printf("sqlite:%s/manager.db", config->state_dir);

        if (!where)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return store_open(where, clock, ret_store, ret_error);
}

static void on_commit(void *userdata)
{
        struct manager *manager = userdata;

        if (manager->inventory)
                inventory_follow(manager->inventory);
        if (manager->watch)
                watch_poke(manager->watch);
}

/* While a task holds a VM, a host's silence about it says nothing; now it does. */
static void review_vms(struct manager *manager)
{
        _cleanup_json_ json_t *ended = TAKE_PTR(manager->ended_vms);
        json_t *uid;
        size_t i;

        json_array_foreach (ended, i, uid)
                inventory_review(manager->inventory, json_string_value(uid));
}

static void run_tasks(void *userdata)
{
        struct manager *manager = userdata;
        uint64_t next_ms;

        task_engine_run(manager->tasks);
        review_vms(manager);
        next_ms = MIN(task_engine_next_ms(manager->tasks), migration_queue_next_ms(manager->queue));
        if (next_ms == UINT64_MAX)
                loop_source_disarm(manager->tasks_timer);
        else
                loop_source_rearm(manager->tasks_timer, next_ms);
}

void manager_wake(struct manager *manager)
{
        loop_source_rearm(manager->tasks_wake, 0);
}

static void wake_tasks(void *userdata)
{
        manager_wake(userdata);
}

static void task_ended(void *userdata, const struct task *task, enum task_state state, const json_t *doc)
{
        struct manager *manager = userdata;
        const json_t *status = json_status(doc);
        const char *vm_uid = json_text(task_data(task), "vm_uid");

        migration_queue_changed(manager->queue);
        switchover_arbiter_forget(manager->switchovers, task);
        if (*json_text(task_data(task), "parent"))
                task_poke(manager->tasks, json_text(task_data(task), "parent"));
        if (!manager->ended_vms)
                manager->ended_vms = json_array();
        /* Without memory the next full round does it. */
        if (!strcmp(task_action(task), "host.remove"))
                (void)json_array_append_new(manager->ended_vms, json_null());
        else if (*vm_uid)
                (void)json_array_append_new(manager->ended_vms, json_string(vm_uid));
        if (state == TASK_SUCCEEDED)
                log_info("task %s (%s %s) succeeded", task_name(task), task_action(task),
                        json_text(json_spec(doc), "object"));
        else
                log_warning("task %s (%s %s) %s: %s", task_name(task), task_action(task),
                        json_text(json_spec(doc), "object"), task_state_to_string(state),
                        json_text(json_object_get(status, "error"), "detail"));
        forecasts_task_changed(manager->forecasts, doc);
        if (!strcmp(task_action(task), "vm.migrate-disks"))
                metrics_storage_migration(
                        &manager->metrics, state == TASK_SUCCEEDED, json_object_get(status, "result"));
        if (!strcmp(task_action(task), "vm.migrate"))
                metrics_migration(
                        &manager->metrics, state == TASK_SUCCEEDED, json_object_get(status, "result"));
}

struct age {
        int64_t created_before_ms;
};

static bool is_old(void *userdata, const json_t *doc)
{
        const struct age *age = userdata;

        return json_integer_value(json_object_get(doc, "created_unix_ms")) < age->created_before_ms;
}

/* Forgets what is of the kind and older than max_age_ms. */
static int expire(struct manager *manager, const char *kind, int64_t max_age_ms, struct error **ret_error)
{
        struct age age = {.created_before_ms = clock_unix_ms(manager->clock) - max_age_ms};
        struct store_query query = {.kind = kind, .limit = EXPIRE_AT_ONCE, .match = is_old, .userdata = &age};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *docs = NULL;
        json_t *doc;
        size_t i;
        int r;

        r = store_list(manager->store, &query, &docs, NULL, ret_error);
        if (r < 0 || !json_array_size(docs))
                return r;
        json_array_foreach (docs, i, doc)
                store_batch_remove(&batch, kind, json_text(doc, "uid"), STORE_ANY);
        return store_commit(manager->store, &batch, NULL, ret_error);
}

static int keep_tasks(struct manager *manager, struct error **ret_error)
{
        return task_trim(manager->store, manager->tasks, manager->config->task_retention, ret_error);
}

static int keep_audit(struct manager *manager, struct error **ret_error)
{
        return audit_trim(manager->store, manager->config->audit_retention,
                clock_unix_ms(manager->clock) - (int64_t)manager->config->audit_retention_days * DAY_MS,
                ret_error);
}

static int expire_answers(struct manager *manager, struct error **ret_error)
{
        return expire(manager, "idempotency", IDEMPOTENCY_MS, ret_error);
}

static int expire_sessions(struct manager *manager, struct error **ret_error)
{
        return expire(manager, "session", AUTH_SESSION_MS, ret_error);
}

static int expire_hosts(struct manager *manager, struct error **ret_error)
{
        return expire(manager, "removed-host", REMOVED_HOST_MS, ret_error);
}

/* What the inventory could not follow yet stays in the log. */
static int keep_log(struct manager *manager, struct error **ret_error)
{
        uint64_t revision = 0;
        int r = store_revision(manager->store, &revision, ret_error);

        if (r < 0 || !inventory_is_current(manager->inventory))
                return r;
        return store_trim_log(manager->store,
                log_bound_keep(&manager->log_bound, revision, store_bytes_written(manager->store)),
                ret_error);
}

static int review_elsewhere(struct manager *manager, struct error **ret_error)
{
        inventory_review(manager->inventory, NULL);
        return 0;
}

static int (*const chores[])(struct manager *manager, struct error **ret_error) = {
        keep_tasks, keep_audit, expire_answers, expire_sessions, expire_hosts, keep_log, review_elsewhere};

/* Keeps what grows with time within its bounds: once a minute all of it, but one after the other, for each may take a while. */
static void on_housekeeping(void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_error_ struct error *error = NULL;

        if (chores[manager->chore](manager, &error) < 0)
                log_warning("housekeeping failed: %s", error_message(error));
        manager->chore = (manager->chore + 1) % ARRAY_SIZE(chores);
        loop_source_rearm(manager->housekeeping, manager->chore ? CHORE_MS : HOUSEKEEPING_MS);
}

static int make_sources(struct manager *manager, struct error **ret_error)
{
        int r;

        r = loop_add_timer(manager->loop, 0, run_tasks, manager, &manager->tasks_wake);
        if (r >= 0)
                r = loop_add_timer(manager->loop, 0, run_tasks, manager, &manager->tasks_timer);
        if (r >= 0)
                r = loop_add_timer(
                        manager->loop, HOUSEKEEPING_MS, on_housekeeping, manager, &manager->housekeeping);
        return r < 0 ? error_from_errno(ret_error, r, "cannot set up timers") : 0;
}

/* Where tests kill a manager: "vm.migrate-before-follow", "vm.create-after-undo-start", ... */
static bool at_step(void *userdata, const struct task *task, const char *point)
{
        char name[128];

        snprintf(name, sizeof(name), "%s-%s", task_action(task), point);
        name[strcspn(name, ":")] = '-';
        crash_point(name);
        return false;
}

static int make_tasks(struct manager *manager, struct error **ret_error)
{
        return task_engine_new(&(struct task_engine_config){.store = manager->store,
                                       .clock = manager->clock,
                                       .kinds = operation_kinds,
                                       .userdata = manager,
                                       .wake = wake_tasks,
                                       .ended = task_ended,
                                       .crash = at_step},
                &manager->tasks, ret_error);
}

static int make_client(struct manager *manager, struct error **ret_error)
{
        return http_client_new(manager->loop,
                &(struct http_client_config){.ca_pem = manager->ca.ca_pem,
                        .cert_pem = manager->ca.manager_pem,
                        .key_pem = manager->ca.manager_key,
                        .connections_kept = AGENT_CONNECTIONS_KEPT},
                &manager->agents, ret_error);
}

static int make_server(struct manager *manager, int listen_fd, struct error **ret_error)
{
        size_t n_routes;
        const struct http_route *routes = api_routes(&n_routes);

        return http_server_new(manager->loop,
                &(struct http_server_config){.listen_fd = listen_fd,
                        .cert_pem = manager->ca.manager_pem,
                        .key_pem = manager->ca.manager_key,
                        .body_max_bytes = BODY_MAX_BYTES,
                        .connections_max = CONNECTIONS_MAX,
                        .routes = routes,
                        .n_routes = n_routes,
                        .admit = api_admit,
                        .admit_early = true,
                        .userdata = manager},
                &manager->server, ret_error);
}

static bool shows(void *userdata, const struct auth_caller *caller, const char *kind, const json_t *doc)
{
        return api_shows(userdata, caller, kind, doc);
}

/* Hosts and virtual machines, for who watches them. */
static int each_seen(void *userdata, int (*fn)(void *fn_userdata, const char *kind, const json_t *doc),
        void *fn_userdata, uint64_t *ret_revision)
{
        static const char *const kinds[] = {"host", "vm"};
        struct manager *manager = userdata;
        int r = 0;

        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                struct store_query query = {.kind = kinds[i], .limit = STORE_LIMIT_NONE};
                _cleanup_json_ json_t *docs = NULL;
                bool more = false;
                json_t *doc;
                size_t k;

                if (inventory_list(manager->inventory, &query, &docs, &more) < 0)
                        return -ENOMEM;
                json_array_foreach (docs, k, doc)
                        if (r >= 0)
                                r = fn(fn_userdata, kinds[i], doc);
        }
        *ret_revision = inventory_followed(manager->inventory);
        return r;
}

int manager_new(const struct config *config, struct loop *loop, struct store *store, uint64_t epoch,
        int listen_fd, struct manager **ret_manager, struct error **ret_error)
{
        _cleanup_(manager_freep) struct manager *manager = ALLOC(struct manager);
        int r;

        if (!manager)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        manager->config = config;
        manager->loop = loop;
        manager->store = store;
        manager->epoch = epoch;
        manager->clock = loop_clock(loop);
        api_scans_init(&manager->scans);
        loop_share_init(&manager->share, manager->clock);
        metrics_init(&manager->metrics);
        loop_on_busy(loop, metrics_loop, &manager->metrics);
        r = ca_load(config->state_dir, clock_unix_ms(manager->clock), &manager->ca, ret_error);
        if (r < 0)
                return r;
        store_on_commit(manager->store, on_commit, manager);
        r = make_sources(manager, ret_error);
        if (r >= 0)
                r = make_client(manager, ret_error);
        if (r >= 0)
                r = auth_ensure_roles(manager->store, ret_error);
        if (r >= 0 && (api_limits_init(&manager->limits, manager->clock, config->request_rate) < 0 ||
                              password_pool_new(loop, config->program, &manager->passwords) < 0))
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r >= 0)
                r = watch_new(loop, manager->store, api_public_kind, shows, each_seen, manager,
                        &manager->watch, ret_error);
        if (r >= 0)
                r = inventory_new(manager, &manager->inventory, ret_error);
        if (r >= 0) {
                r = forecasts_new(manager, &manager->forecasts);
                if (r < 0)
                        error_from_errno(ret_error, r, "forecasts");
        }
        if (r >= 0)
                r = migration_queue_new(manager, &manager->queue, ret_error);
        if (r >= 0 && switchover_arbiter_new(manager, &manager->switchovers) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r >= 0)
                r = make_tasks(manager, ret_error);
        if (r >= 0)
                r = schedules_new(manager, &manager->schedules, ret_error);
        if (r >= 0)
                r = make_server(manager, listen_fd, ret_error);
        if (r < 0)
                return r;
        *ret_manager = TAKE_PTR(manager);
        return 0;
}

void manager_free(struct manager *manager)
{
        if (!manager)
                return;
        loop_on_busy(manager->loop, NULL, NULL);
        store_on_commit(manager->store, NULL, NULL);
        schedules_free(manager->schedules);
        /* Then tasks: they cancel their calls, and write nothing. Then nothing is left that answers requests. */
        task_engine_free(manager->tasks);
        migration_queue_free(manager->queue);
        switchover_arbiter_free(manager->switchovers);
        password_pool_free(manager->passwords);
        api_scans_deinit(&manager->scans);
        watch_free(manager->watch);
        forecasts_free(manager->forecasts);
        inventory_free(manager->inventory);
        http_client_free(manager->agents);
        http_server_free(manager->server);
        loop_source_free(manager->tasks_wake);
        loop_source_free(manager->tasks_timer);
        loop_source_free(manager->housekeeping);
        json_decref(manager->ended_vms);
        api_limits_deinit(&manager->limits);
        ca_deinit(&manager->ca);
        metrics_deinit(&manager->metrics);
        free(manager);
}

int manager_create_token(const struct config *config, const char *name, const char *role,
        uint64_t expires_days, char ret_secret[static 70], struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_(store_closep) struct store *store = NULL;
        _cleanup_free_ char *object = alloc_printf("token/%s", name);
        _cleanup_access_ struct access access = {};
        _cleanup_json_ json_t *token = NULL;
        char secret[AUTH_SECRET_SIZE];
        int r;

        r = manager_open_store(config, &clock_system, &store, ret_error);
        if (r >= 0)
                r = auth_refuse_namesake(store, name, "user", ret_error);
        if (r >= 0 && strcmp(role, AUTH_ROLE_ADMIN) && strcmp(role, AUTH_ROLE_READ_ONLY))
                /* Those two come with the first start of the manager. */
                r = auth_role_access(store, role, NULL, &access, ret_error);
        if (r >= 0)
                r = audit_add(store, &clock_system, &batch,
                        &(struct audit_entry){.who = "local-administrator",
                                .action = "token.create",
                                .object = object,
                                .result = "done"},
                        ret_error);
        if (r >= 0)
                r = auth_token_new(&clock_system, &batch,
                        &(struct auth_token_spec){.name = name, .role = role, .expires_days = expires_days},
                        secret, &token, ret_error);
        if (r >= 0)
                r = store_commit(store, &batch, NULL, ret_error);
        if (r < 0)
                return r;
        memcpy(ret_secret, secret, sizeof(secret));
        explicit_bzero(secret, sizeof(secret));
        return 0;
}

int manager_init(const struct config *config, const char *const *addresses, const char *token_name,
        char ret_secret[static 70], struct error **ret_error)
{
        int r;

        r = file_make_dirs(config->state_dir, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make %s", config->state_dir);
        r = ca_create(config->state_dir, addresses, ret_error);
        if (r < 0)
                return r;
        return manager_create_token(config, token_name, "admin", 0, ret_secret, ret_error);
}

int manager_join(const struct config *config, const char *ca_folder, const char *const *addresses,
        struct error **ret_error)
{
        int r;

        if (!config->store)
                return error_set(ret_error, ERROR_BAD_REQUEST,
                        "Set `store = postgresql://...` in the settings of both managers first.",
                        "a further manager needs a store that it shares with the first one");
        r = file_make_dirs(config->state_dir, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot make %s", config->state_dir);
        return ca_adopt(config->state_dir, ca_folder, addresses, ret_error);
}

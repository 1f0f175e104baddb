/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The manager's parts, put together: what handlers and steps get as userdata. One loop, no threads, no locks. */

#include "io/http_client.h"
#include "io/http_server.h"
#include "io/loop.h"
#include "manager/api_access.h"
#include "manager/api_scan.h"
#include "manager/ca.h"
#include "manager/config.h"
#include "manager/inventory.h"
#include "manager/log_bound.h"
#include "manager/loop_share.h"
#include "manager/metrics.h"
#include "manager/store.h"
#include "manager/task.h"
#include "manager/watch.h"

struct forecasts;
struct migration_queue;
struct password_pool;
struct schedules;
struct switchover_arbiter;

struct manager {
        const struct config *config;
        struct loop *loop;
        const struct clock *clock;
        struct store *store; /* borrowed */
        struct ca ca;
        uint64_t
                epoch; /* the term for which this manager leads; in each call to an agent, which refuses a lower one */
        struct http_client *agents;
        struct inventory *inventory;
        struct forecasts *forecasts;
        struct task_engine *tasks;
        struct migration_queue *queue;
        struct schedules *schedules;
        struct switchover_arbiter *switchovers;
        json_t *ended_vms; /* array: uids of VMs whose tasks ended in this round of the engine; null: a host went */
        struct loop_source *tasks_wake; /* deferred task_engine_run() */
        struct loop_source *tasks_timer;
        struct loop_source *housekeeping;
        size_t chore; /* of housekeeping, the next one */
        struct log_bound log_bound;
        struct watch *watch;
        struct api_scans scans;
        struct loop_share share;
        struct password_pool *passwords;
        struct api_limits limits;
        struct metrics metrics;
        uint64_t n_unaudited_denials;  /* refused requests that are not in the audit log */
        uint64_t n_refused_enrolments; /* not in the audit log yet */
        uint64_t refused_audited_ms;
        struct http_server *server;
};

/* Leads, for the term that store_lead() gave: loads tasks and hosts, and listens on listen_fd (taken over on success). `config`,
 * `loop` and `store` stay the caller's and must outlive the manager. */
int manager_new(const struct config *config, struct loop *loop, struct store *store, uint64_t epoch,
        int listen_fd, struct manager **ret_manager, struct error **ret_error);
/* Calls under way are cancelled; nothing is written any more. */
void manager_free(struct manager *manager);
/* The tasks are looked at soon: one of them may be able to go on. */
void manager_wake(struct manager *manager);
DEFINE_CLEANUP(struct manager *, manager_free)

/* Opens the store that the settings name. */
int manager_open_store(const struct config *config, const struct clock *clock, struct store **ret_store,
        struct error **ret_error);

/* Makes the state directory, the authority and the first token (admin). EXISTS when it was done before. */
int manager_init(const struct config *config, const char *const *addresses, const char *token_name,
        char ret_secret[static 70], struct error **ret_error);
/* Makes the state directory of a further manager over the same store, with the first one's authority (ca.pem and ca.key in
 * ca_folder). */
int manager_join(const struct config *config, const char *ca_folder, const char *const *addresses,
        struct error **ret_error);
/* Makes another token, also beside a running manager. */
int manager_create_token(const struct config *config, const char *name, const char *role,
        uint64_t expires_days, char ret_secret[static 70], struct error **ret_error);

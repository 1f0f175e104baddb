/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The manager's parts, put together: what handlers and steps get as userdata. One loop, no threads, no locks. */

#include "io/http_client.h"
#include "io/http_server.h"
#include "io/loop.h"
#include "manager/ca.h"
#include "manager/config.h"
#include "manager/inventory.h"
#include "manager/metrics.h"
#include "manager/store.h"
#include "manager/task.h"
#include "manager/watch.h"

struct forecasts;
struct migration_queue;
struct switchover_arbiter;

struct manager {
        const struct config *config;
        struct loop *loop;
        const struct clock *clock;
        struct store *store;
        struct ca ca;
        uint64_t epoch; /* of this start; in each call to an agent */
        struct http_client *agents;
        struct inventory *inventory;
        struct forecasts *forecasts;
        struct task_engine *tasks;
        struct migration_queue *queue;
        struct switchover_arbiter *switchovers;
        json_t *ended_vms; /* array: uids of VMs whose tasks ended in this round of the engine; null: a host went */
        struct loop_source *tasks_wake; /* deferred task_engine_run() */
        struct loop_source *tasks_timer;
        struct loop_source *housekeeping;
        struct watch *watch;
        struct metrics metrics;
        uint64_t n_refused_enrolments; /* not in the audit log yet */
        uint64_t refused_audited_ms;
        struct http_server *server;
};

/* Opens the store, takes the next epoch, loads tasks and hosts, and listens on listen_fd (taken over on success).
 * `config` and `loop` stay the caller's and must outlive the manager. */
int manager_new(const struct config *config, struct loop *loop, int listen_fd, struct manager **ret_manager,
        struct error **ret_error);
void manager_free(struct manager *manager);
/* The tasks are looked at soon: one of them may be able to go on. */
void manager_wake(struct manager *manager);
DEFINE_CLEANUP(struct manager *, manager_free)

/* Makes the state directory, the authority and the first token (admin). EXISTS when it was done before. */
int manager_init(const struct config *config, const char *const *addresses, const char *token_name,
        char ret_secret[static 70], struct error **ret_error);
/* Makes another token, also beside a running manager. */
int manager_create_token(const struct config *config, const char *name, const char *role,
        uint64_t expires_days, char ret_secret[static 70], struct error **ret_error);

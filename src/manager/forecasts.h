/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Forecasts of migrations: what the source's agent measured, put through the model (cluster/forecast.h) for each destination.
 * What was measured last of each VM is remembered for a while, so that a migration that begins meanwhile takes its forecast
 * along into its result; from those results follows how good forecasts are, and what a path carried before. */

#include <jansson.h>

#include "base/error.h"

struct manager;
struct forecasts;

int forecasts_new(struct manager *manager, struct forecasts **ret_forecasts);
/* What waits for an agent ends without an answer. Accepts NULL. */
void forecasts_free(struct forecasts *forecasts);

/* A task has ended (document): what it tells of migrations is remembered. */
void forecasts_task_changed(struct forecasts *forecasts, const json_t *task);

/* For the result of a migration that begins now: {total_ms, pause_ms, bytes_wire, ...} as in docs/openapi.json, the caller's;
 * NULL when nothing was measured lately. `input`: of the migration (max_pause_ms, rate_limit_bps, verify). */
json_t *forecasts_for_migration(
        struct manager *manager, const json_t *vm, const char *to_name, const json_t *input);

/* What a migration of the VM (document) would cost by host: {host name: {"total_ms", "method"}}, the caller's; NULL without memory.
 * "forecast" where the guest and the path were measured lately, else "past-migrations": its memory, or what its last migration
 * sent, at the rate that past ones had to that host, or to any. Hosts of which nothing is known are left out. */
json_t *forecasts_costs(struct manager *manager, const json_t *vm);

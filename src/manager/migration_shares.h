/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How much of the links each running migration may use (cluster/bandwidth.h): told to its source's agent with the specification, and again
 * whenever others came or went. */

#include <jansson.h>

struct manager;
struct task;

/* Limit for the migration in bit/s, its own (input's rate_limit_bps) included; 0: none. */
json_int_t migration_share_bps(struct manager *manager, const struct task *task);

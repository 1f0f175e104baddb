/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A dry run of what moves.h does: what would become of each virtual machine. Hosts are ranked for each of them, which takes milliseconds
 * with a thousand hosts: it goes on in slices, until its request is answered. */

#include <jansson.h>

#include "base/error.h"

struct http_request;
struct manager;
struct moves_plan;

/* vms: documents, which are kept and sorted; to: the host to go to, or NULL; policy: as evacuation_policy_read() takes it. */
int moves_plan_new(const json_t **vms, size_t n, const char *to, const json_t *policy,
        struct moves_plan **ret_plan, struct error **ret_error);
void moves_plan_free(struct moves_plan *plan);
DEFINE_CLEANUP(struct moves_plan *, moves_plan_free)

/* The host that the maintenance task of that name has closed counts as open. -ENOMEM. */
int moves_plan_reopens(struct moves_plan *plan, const char *task);
/* One of the vms is suspended, and is to be resumed; except: on another host than that; NULL: on any. -ENOMEM. */
int moves_plan_resumes(struct moves_plan *plan, const json_t *vm, const char *except);
/* One more for the report, which needs nothing. -ENOMEM. */
int moves_plan_add_settled(struct moves_plan *plan, const json_t *vm, const char *outcome, const char *to);

/* Answers the request, now or later: with the report of moves.h, whose outcomes are "would-move", "would-wait", "would-stop", ..., nothing being
 * done. Takes the plan over. */
void moves_plan_reply(struct moves_plan *plan, struct http_request *request, struct manager *manager);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which virtual machines have something on a datastore, and where their disks could go. */

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"

struct http_request;
struct manager;

/* The VM (document) has its folder, a disk, a CD-ROM or a kernel there. */
bool moves_disks_uses(const json_t *vm, const char *datastore);
/* VMs (documents, borrowed from vms) that do, those with the largest disks there first. *ret_vms: the caller's to free. -ENOMEM. */
int moves_disks_find(const json_t *vms, const char *datastore, const json_t ***ret_vms, size_t *ret_n);
/* What of it does not move with its disks, in words, the caller's; NULL without memory; "": nothing. */
char *moves_disks_remainder(const json_t *vm, const char *datastore);
/* Has disks there that can move. */
bool moves_disks_has_movable(const json_t *vm, const char *datastore);

/* Where those could go now: {disk: datastore}, the caller's; or the reason why not. avoid: {datastore}: not these; NULL: any; reserved: beside what tasks bring
 * (as in cluster/datastore_place.h); NULL: nothing, else what was chosen is added to it. */
int moves_disks_choose(struct manager *manager, const json_t *vm, const char *datastore, const json_t *avoid,
        json_t *reserved, json_t **ret_choice, struct error **ret_error);
/* "fast, slow" of such a choice: each datastore once. The caller's; NULL without memory. */
char *moves_disks_targets(const json_t *choice);

/* Answers the request, now or later, with what the evacuation of that datastore would do, as moves_plan_reply() has it of hosts. */
void moves_disks_plan_reply(struct http_request *request, struct manager *manager, const char *datastore);

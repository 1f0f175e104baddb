/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the agents say, and what follows from it for hosts and VMs.
 *
 * Each host has a heartbeat (its facts, every second), a round with all its lists every ten seconds, and the agent's
 * event stream, which tells of VMs and migrations at once; while the stream is down the VMs are asked for with each
 * heartbeat. Two heartbeats that fail make a host unreachable (within 5 s, at once when its agent refuses; up to 13 s later while
 * the manager itself is too busy to hear answers); one round that ends well makes it connected again.
 *
 * The status of a VM is merged from all reports. A VM is where an agent says it runs; a host that cannot be asked makes
 * its VMs `unknown`, never `stopped`, but for those that were stopped already: only the manager starts them. A VM that
 * its host, when asked, does not have and that no task works on does not run: `crashed`, or `stopped` if it was being
 * started; so is one on a host that was confirmed down. A report never replaces a newer one: each bears the moment at which
 * it was asked for. What a host says that ran the VM once counts nothing against a later owner epoch, and what another one
 * says counts nothing while the host where the VM is recorded has it (docs/decisions/0040). */

#include <jansson.h>

#include "base/error.h"
#include "io/http_client.h"
#include "manager/store.h"

struct inventory;
struct manager;

int inventory_new(struct manager *manager, struct inventory **ret_inventory, struct error **ret_error);
void inventory_free(struct inventory *inventory);

/* Follows the store: hosts and VMs that were added, changed or removed. Called after each commit. When that fails it is tried again
 * by itself until it succeeds; each change is counted as followed only when all that it changes here has been changed. */
void inventory_follow(struct inventory *inventory);
/* The change of the store up to which what is in memory is followed: the revision of inventory_list(). */
uint64_t inventory_followed(const struct inventory *inventory);
/* False: a change is known that could not be followed yet. */
bool inventory_is_current(const struct inventory *inventory);

/* The host's document with live facts in place of recorded ones; new, the caller's. */
json_t *inventory_live_host(const struct inventory *inventory, const json_t *host);
/* Array of all hosts' live documents; the caller's (its items are shared: read only). */
json_t *inventory_live_hosts(const struct inventory *inventory);
/* {host uid: what its agent says of the processors that guests can have there (docs/internals/agent-api.md)} of the hosts of which
 * it is known; the caller's (its items are shared: read only). */
json_t *inventory_cpus(const struct inventory *inventory);
/* The same of one host, borrowed; NULL: it is not known. */
const json_t *inventory_cpu(const struct inventory *inventory, const char *host_uid);
/* Array of all VM documents; the caller's (its items are shared: read only). */
json_t *inventory_vms(const struct inventory *inventory);

/* Live document of one host, by uid or name; borrowed until the next event. NULL: there is none, or no memory. */
const json_t *inventory_live(const struct inventory *inventory, const char *name_or_uid);
/* Array of the other VMs that have a MAC address of this one (document), or a disk image of it that one of the two may write to; the
 * caller's (its items are shared). */
json_t *inventory_vms_beside(const struct inventory *inventory, const json_t *vm);
/* What all VMs' disks come to on each datastore, as cluster/datastore_place.h takes it, by the hosts that the VMs are on ("": none);
 * borrowed until the next event. NULL without memory. */
const json_t *inventory_provisioned(struct inventory *inventory);
/* True when another VM names a file in a folder of this one's name, on any datastore. */
bool inventory_folder_is_shared(const struct inventory *inventory, const json_t *vm);
/* Array of the VMs that bear that name as their label "pool", the caller's (its items are shared: read only); NULL without memory. */
json_t *inventory_vms_of_pool(const struct inventory *inventory, const char *pool);
/* Lists VMs or hosts (kind "vm" or "host") as store_list() does, from memory, as of inventory_followed(); the items are shared: read
 * only. 0 or -ENOMEM. */
int inventory_list(
        struct inventory *inventory, const struct store_query *query, json_t **ret_docs, bool *ret_more);
/* The document of a VM as it is in memory now (borrowed from here), as text without what is internal; borrowed until the next event. It is
 * written once for each document. NULL: it is another document, or no memory. */
const char *inventory_vm_text(struct inventory *inventory, const json_t *vm);
/* Array of all objects of the kind "datastore", "switch", "port-group", "affinity-rule" or "pool" (no other), by name. The reference is the
 * caller's; the array and its items are what others get too, and must not be changed. */
int inventory_objects(
        struct inventory *inventory, const char *kind, json_t **ret_docs, struct error **ret_error);

/* Borrowed document as last recorded, by uid or name; NULL. */
const json_t *inventory_host(const struct inventory *inventory, const char *name_or_uid);
const json_t *inventory_vm(const struct inventory *inventory, const char *uid);
const json_t *inventory_vm_named(const struct inventory *inventory, const char *name);
/* What the host said of the VM last: its agent's document, borrowed; NULL: it does not have it, as far as is known. */
const json_t *inventory_report(const struct inventory *inventory, const char *host_uid, const char *vm_uid);
/* The memory of the VM is in the facts of the host: its QEMU was there before the host was asked for them. */
bool inventory_counts_memory(const struct inventory *inventory, const char *host_uid, const char *vm_uid);
bool inventory_connected(const struct inventory *inventory, const char *host_uid);
/* It was asked and did not answer; false also for a host that nobody was asked about yet, and for one that is not known. */
bool inventory_unreachable(const struct inventory *inventory, const char *host_uid);
/* An administrator has stated that the host is down with all that ran there, and its agent has not answered since. */
bool inventory_confirmed_down(const struct inventory *inventory, const char *host_uid);

/* It was taken out of the cluster. */
bool inventory_removed(const struct inventory *inventory, const char *host_uid);

/* What a host answered to a task about one of its VMs (a document; NULL: the host does not have it): as good as an event,
 * and newer than any list that is under way. */
void inventory_told(
        struct inventory *inventory, const char *host_uid, const char *vm_uid, const json_t *report);
/* Looks at the reports about the VM again: the task that worked on it has ended. NULL: at all VMs whose host is not in the
 * inventory any more. */
void inventory_review(struct inventory *inventory, const char *vm_uid);
/* The same for all VMs that the host reports or that are recorded there. */
void inventory_review_host(struct inventory *inventory, const char *host_uid);

/* Polls the host (NULL: all hosts) at once, datastores and networks included. */
void inventory_refresh(struct inventory *inventory, const char *host_uid);
/* True when a whole poll of the host (NULL: of each connected host) that began at or after `since_ms` (loop clock) has
 * ended. */
bool inventory_fresh(const struct inventory *inventory, const char *host_uid, uint64_t since_ms);

/* Each host has answered or failed to since this process began to lead; before that, what is not connected says nothing. */
bool inventory_settled(const struct inventory *inventory);

/* The name of the alert that a host says that it has VMs which are not taken into the inventory. It goes with the host. */
#define INVENTORY_ALERT_NAME_SIZE 64
void inventory_alert_name(const char *host_uid, char ret[static INVENTORY_ALERT_NAME_SIZE]);

struct agent_request {
        const char *host_uid;
        const char *method;
        const char *path;
        const json_t *body;     /* may be NULL */
        const char *request_id; /* NULL: a new one */
        uint64_t timeout_ms;
        size_t body_max_bytes;                          /* of the answer; 0: 4 MiB */
        bool own_connection;                            /* as http_client_call() has it */
        uint64_t connect_timeout_ms;                    /* 0: 5 s, or timeout_ms if that is less */
        void (*line)(void *userdata, const char *line); /* for streams, as http_client_call() has it */
};
/* Calls an agent: TLS with the host's certificate checked, the manager's epoch and a request id in the headers. The
 * reply function and `ret_call` as http_client_call() has them. */
int agent_call(struct manager *manager, const struct agent_request *request, http_reply_fn reply,
        void *userdata, struct http_call **ret_call, struct error **ret_error);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Rules that a virtual machine and a host must meet before the one is started on, or moved to, the other. Pure
 * functions of API documents (docs/openapi.json: Vm, Host, ...): no I/O, no state. Each rule has a stable code
 * (docs/checks.md lists them) and says the exact cause and the way out; one that is broken either forbids the move
 * (error) or makes it a worse one (warning).
 *
 * What does not depend on the host is worked out once, so that one virtual machine can be held against a thousand
 * hosts without going through all virtual machines each time. */

#include <stdbool.h>

#include <jansson.h>

#include "base/error.h"

struct checks_input {
        const json_t *vm;     /* document with spec and status */
        const json_t *source; /* host document; NULL: not running anywhere (create, start) */
        const json_t *
                home; /* not running: the host that it was on last, whose datastores hold its files; or NULL */

        bool resumes; /* not running, and its memory is to be resumed: `home` suspended it, spec and status say with what */

        bool creates; /* not there yet: its new disks, which `provisioned` has already, are to be made */

        /* The rest may be NULL: nothing is known, and the rules about it are met. */
        bool takes_disks;                           /* along, to a datastore of the destination */
        const json_t *provisioned, *reserved_disks; /* as in datastore_place.h; for `creates` */
        const json_t *vms;                          /* array of all VM documents */
        const json_t *
                jobs; /* array of {"id", "type"}: what its QEMU does with its disks besides running the guest */
        const json_t *
                tasks; /* array of {"name", "action", "vm_uid", "host_uid", "to"}: the unfinished tasks but for the
                              * one that asks. vm_uid: that it works on; host_uid: likewise; to: name of the host that it
                              * brings that VM to */
        const char *asking; /* name of one of these tasks that is in nobody's way: it asks; or NULL */
        const char *
                reopening; /* name of the task that has closed a host for maintenance and now gives back what it took; or NULL */
        const json_t *
                reserved; /* {host uid: {"memory_bytes", "cpus"}}: for VMs that tasks bring there and that the host
                                 * does not count yet */
        /* Arrays of the documents that say what the hosts should have. */
        const json_t *datastores, *switches, *port_groups;
        const json_t *affinity_rules; /* array of documents */
        const json_t *
                pools; /* array of documents with their use but for this VM (pool.h): its own, and those that reserve */
        const json_t *hosts;        /* array of all host documents, whose memory pools reserve */
        uint64_t min_bandwidth_bps; /* that the migration was to be promised; 0: nothing */
        const json_t *cpus; /* {host uid: document of GET /agent/v1/cpu (docs/internals/agent-api.md)} */
};

struct checks;

/* Borrows the documents for as long as it lives. NULL without memory. */
struct checks *checks_new(const struct checks_input *input);
/* Accepts NULL. */
void checks_free(struct checks *checks);
DEFINE_CLEANUP(struct checks *, checks_free)

/* Holds the VM against a host (document). Array of {"code", "severity", "ok", "object", "cause", "way_out"} in the order
 * of the rules, the caller's; NULL without memory. severity is "error" or "warning"; for a rule that is met, cause and
 * way_out are null. */
json_t *checks_run(const struct checks *checks, const json_t *target);

/* The same, but of the rules that are broken only: most are met, and nobody is told of those when a thousand hosts are ranked. */
json_t *checks_broken(const struct checks *checks, const json_t *target);

/* checks_run() for one host, without anything to prepare. */
json_t *checks_of(const struct checks_input *input, const json_t *target);

/* True when no rule whose severity is error is broken. */
bool checks_ok(const json_t *report);
/* Number of rules that are broken and are warnings. */
size_t checks_n_warnings(const json_t *report);

/* 0, or sets CHECK_FAILED naming the first error and how many there are. */
int checks_to_error(const json_t *report, struct error **ret_error);

/* The VM (document) occupies a host: it runs there, or may. */
bool checks_is_live(const json_t *vm);

/* Memory, in bytes, that a VM takes at its host, and that a host (by its status) has room for: what is free now, but never more
 * than what is not promised, for guests touch their memory long after they started. */
json_int_t checks_memory_need(const json_t *vm);
json_int_t checks_memory_room(const json_t *status);

/* What a host's (document) connection to the network of migrations carries, in bit/s, by the speed that its interfaces claim; 0: not
 * known. checks_promised_bps(): what can be promised of it; 1 Gbit/s where it is not known. */
uint64_t checks_link_bps(const json_t *host);
uint64_t checks_promised_bps(const json_t *host);

/* Calls fn for each name of a datastore that the VM's spec uses, each once; stops at the first negative result
 * and returns it. */
int checks_each_datastore(
        const json_t *vm_spec, int (*fn)(void *userdata, const char *datastore), void *userdata);

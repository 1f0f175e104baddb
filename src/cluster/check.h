/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the rules share; only checks.c and check_*.c include this. A rule is a function that looks at one virtual machine
 * and one host and tells, for each object that it is about, whether it is met. Code, severity and the usual way out
 * stand in the table of checks.c. */

#include <jansson.h>

#include "base/alloc.h"
#include "base/macros.h"
#include "cluster/checks.h"

enum check_severity { CHECK_ERROR, CHECK_WARNING };

struct check;

struct check_rule {
        const char *code;
        enum check_severity severity;
        bool move_only; /* asks for a VM that runs */
        void (*look)(struct check *check);
        const char *way_out;
};

/* What is known before a host is looked at. */
struct checks {
        struct checks_input input;
        const json_t *spec, *status; /* of the VM */
        json_t *spec_without_cdrom;
        json_t *mac_owners;  /* {MAC of one of its NICs, lower case: name of the other VM that has it} */
        json_t *image_users; /* {"DATASTORE:PATH": [{"vm", "host"}]}: live VMs that use one of its images */
        json_t *affinity;    /* affinity_of_vm() */
        json_int_t pools_unused_bytes,
                room_bytes; /* pool_unused_bytes() of the pools, pool_room_bytes() of the hosts */
};

/* One run. */
struct check {
        const struct checks *checks;
        const struct checks_input *input; /* of checks */
        const json_t *spec, *status;      /* of the VM */
        const json_t *target;             /* host document */
        const json_t *host;               /* its status */
        const char *host_name;
        const struct check_rule *rule;
        bool broken_only; /* what is met need not be told */
        json_t *out;
        int result; /* -ENOMEM, or 0 */
};

/* The rule is met as far as `object` (what it is about; may be NULL) goes. */
void check_met(struct check *check, const char *object);
/* It is not; the rest is the cause. way_out NULL: the rule's usual one. */
void check_broken(struct check *check, const char *object, const char *way_out, const char *fmt, ...)
        _printf_(4, 5);
/* One of the two. */
void check_tell(struct check *check, const char *object, bool broken, const char *fmt, ...) _printf_(4, 5);

/* What is worked out beforehand. 0 or -ENOMEM. */
int check_network_prepare(struct checks *checks);
int check_storage_prepare(struct checks *checks);
int check_affinity_prepare(struct checks *checks);
void check_pool_prepare(struct checks *checks);

/* "" when absent or no string. */
const char *check_text(const json_t *object, const char *key);
/* Of a document. */
const json_t *check_status(const json_t *document);
/* The item of an array whose "name" it is, or NULL. */
const json_t *check_named(const json_t *array, const char *name);

/* The rules, in the order of the table. */
#define CHECK_RULES(X) \
        X(host_connected) \
        X(host_same) \
        X(host_maintenance) \
        X(host_task) \
        X(host_version) \
        X(vm_running) \
        X(vm_disks_active) \
        X(vm_backup) \
        X(vm_task) \
        X(machine_type) \
        X(machine_qemu_version) \
        X(machine_saved_state) \
        X(machine_accelerator) \
        X(machine_cpu_model) \
        X(machine_cpu_vendor) \
        X(machine_cpus) \
        X(machine_load) \
        X(machine_memory) \
        X(pool_limit) \
        X(pool_reservation) \
        X(storage_datastores) \
        X(storage_cdrom) \
        X(storage_locks) \
        X(storage_in_use) \
        X(storage_snapshots) \
        X(storage_closed) \
        X(storage_limit) \
        X(storage_space) \
        X(network_port_groups) \
        X(network_switches) \
        X(network_uplinks) \
        X(network_applied) \
        X(network_mtu) \
        X(network_switch_type) \
        X(network_switch_version) \
        X(network_drift) \
        X(network_macs) \
        X(network_foreign_macs) \
        X(network_bandwidth) \
        X(affinity_must) \
        X(affinity_should)
#define X(name) void check_##name(struct check *check);
CHECK_RULES(X)
#undef X

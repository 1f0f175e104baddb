/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a caller may do, and to what: permissions, scopes and grants, without I/O (docs/decisions/0019).
 *
 * A grant is a set of permissions within a scope. A scope selects virtual machines and hosts by their labels:
 * {"vms": {"pool": "east"}, "hosts": {"pool": "east"}}. With "vms" alone they may be on, and go to, any host, but no host is in it as such; with "hosts" alone a VM is in
 * it by the host where it is. A value that ends in '/'
 * is a folder: "prod/" selects prod and what is below it, such as prod/web. Objects other than VMs and hosts, and tasks about
 * those, are in no scope but the widest, which is NULL. Whatever one operation touches (a VM, the host that it leaves, the one
 * that it goes to) has to be in the scope of one and the same grant. */

#include <jansson.h>

#include "base/error.h"

#define PERMISSIONS(X) \
        X(HOST_READ, "host.read", "see hosts") \
        X(HOST_MANAGE, "host.manage", "add, enrol, change and remove hosts") \
        X(HOST_OPERATE, "host.operate", "state that a host is down, put it into maintenance") \
        X(VM_READ, "vm.read", "see virtual machines, forecasts and advice") \
        X(VM_CREATE, "vm.create", "create virtual machines") \
        X(VM_DELETE, "vm.delete", "delete virtual machines") \
        X(VM_POWER, "vm.power", "start, stop, pause, suspend and resume virtual machines") \
        X(VM_MIGRATE, "vm.migrate", "migrate virtual machines and their disks, and check migrations") \
        X(VM_CONSOLE, "vm.console", "read consoles of virtual machines") \
        X(TASK_READ, "task.read", "see tasks") \
        X(TASK_CANCEL, "task.cancel", "cancel tasks") \
        X(QUEUE_READ, "queue.read", "see the queue of migrations") \
        X(QUEUE_MANAGE, "queue.manage", "drain and resume the queue") \
        X(SCHEDULE_READ, "schedule.read", "see schedules") \
        X(SCHEDULE_MANAGE, "schedule.manage", \
                "make, change, run and remove schedules of what one may do oneself") \
        X(DATASTORE_READ, "datastore.read", "see datastores") \
        X(DATASTORE_USE, "datastore.use", \
                "name files that are on datastores: as disks, CD-ROM, kernel; move disks between " \
                "datastores") \
        X(DATASTORE_MANAGE, "datastore.manage", "add, change and remove datastores") \
        X(NETWORK_READ, "network.read", "see switches and port groups") \
        X(NETWORK_USE, "network.use", "connect virtual machines to port groups") \
        X(NETWORK_MANAGE, "network.manage", "add, change and remove switches and port groups") \
        X(AFFINITY_READ, "affinity.read", "see affinity rules") \
        X(AFFINITY_MANAGE, "affinity.manage", "make, change and remove affinity rules") \
        X(POOL_READ, "pool.read", "see resource pools, and what is used of them") \
        X(POOL_MANAGE, "pool.manage", "make, change and remove resource pools") \
        X(CLUSTER_READ, "cluster.read", "see the cluster's settings") \
        X(CLUSTER_MANAGE, "cluster.manage", "change the cluster's settings") \
        X(ACCESS_READ, "access.read", "see users, roles and everybody's tokens") \
        X(ACCESS_MANAGE, "access.manage", "manage users, roles and everybody's tokens") \
        X(TOKEN_OWN, "token.own", "make, see and revoke tokens of one's own") \
        X(AUDIT_READ, "audit.read", "read, verify and export the audit log") \
        X(ALERT_READ, "alert.read", "see alerts") \
        X(EVENT_READ, "event.read", "watch changes of what may be seen") \
        X(METRICS_READ, "metrics.read", "read the manager's metrics")

enum permission {
#define X(name, wire, help) PERMISSION_##name,
        PERMISSIONS(X)
#undef X
                N_PERMISSIONS,
};
const char *permission_to_string(enum permission permission);
/* [{"name", "description"}] of all; the caller's. NULL without memory. */
json_t *permission_documents(void);
/* An array of names as a set; "vm.*", "*.read" and "*" stand for several. BAD_DOCUMENT names the one that is none. */
int permission_set_read(
        const json_t *names, const char *where, uint64_t *ret_permissions, struct error **ret_error);

struct access_grant {
        uint64_t permissions; /* bits 1 << PERMISSION_... */
        json_t *scope;        /* NULL: everything */
};
struct access {
        struct access_grant *grants;
        size_t n_grants;
};
void access_deinit(struct access *access);
#define _cleanup_access_ _cleanup_(access_deinit)
/* The scope is copied by reference; an empty one is NULL's equal. */
int access_add(struct access *access, uint64_t permissions, json_t *scope);

/* BAD_DOCUMENT unless it is a scope. */
int access_scope_check(const json_t *scope, const char *where, struct error **ret_error);

/* What an operation touches: labels (NULL: none are set) of each. Without VM and hosts it is something else. */
struct access_target {
        bool has_vm;
        bool is_new; /* to be made: it may have no labels but those that the scope selects by */
        const json_t *vm_labels;
        size_t n_hosts;
        const json_t *host_labels[2];
};
bool access_permits(
        const struct access *access, enum permission permission, const struct access_target *target);
/* In some scope, if only in a narrow one. */
bool access_anywhere(const struct access *access, enum permission permission);
bool access_everywhere(const struct access *access, enum permission permission);
/* Whether a grant of the permission that reaches the VM restricts hosts: a destination has to be chosen with care. */
bool access_any_host(
        const struct access *access, enum permission permission, const struct access_target *target);

/* Whether hosts with these labels and with those are not the same to some grant: a host that got the others, and what is on it, may have
 * come into sight or left it. */
bool access_tells_hosts_apart(const struct access *access, const json_t *labels, const json_t *others);
/* Whether some grant depends on hosts' labels. */
bool access_looks_at_hosts(const struct access *access);

/* The grant gives nothing that `access` has not. */
bool access_covers(const struct access *access, const struct access_grant *grant);

/* For people: [{"permissions": [...], "scope": {...}|null}]; the caller's. */
json_t *access_document(const struct access *access);

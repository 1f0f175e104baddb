/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The routes of the public API: the one table. Each line says who may call it; there is no route without. What is
 * described for them is docs/openapi.json, which a test compares with this.
 *
 *   X(method, path, handler, permission, scope)
 *
 * The permission is needed (PERMISSION_...) within the scope that the request is about:
 *
 *   PUBLIC    nobody has to authenticate; no permission
 *   SELF      any authenticated caller, about itself; no permission
 *   ALL       everywhere: a permission within a scope does not do
 *   LIST      somewhere; the list has only what is within its scope
 *   OWN       everywhere, or the permission token.own for the caller's own tokens: the handler tells them apart
 *   HOST      the host {name}
 *   VM        the virtual machine {name}, and the host where it is
 *   VM_HOST   these, and the host that the body's `to` (`host` for a start) names
 *   VM_NEW    the virtual machine in the body, and the host that it names; its labels may be those alone that the scope selects by. What it names on
 *             datastores and networks needs datastore.use and network.use, everywhere
 *   POOL      the pool {name}: in the scopes that have all virtual machines of it
 *   TASK      what the task {name} is about; one's own tasks in any scope
 *
 * Where a host is left to the manager's choice, a scope that restricts hosts does not do: see api_access.c. */

#define V1 "/api/v1"
#define API_ROUTES(X) \
        X("GET", V1 "/hosts", host_list, HOST_READ, LIST) \
        X("POST", V1 "/hosts", host_create, HOST_MANAGE, ALL) \
        X("GET", V1 "/hosts/{name}", host_get, HOST_READ, HOST) \
        X("PUT", V1 "/hosts/{name}", host_update, HOST_MANAGE, ALL) \
        X("DELETE", V1 "/hosts/{name}", host_delete, HOST_MANAGE, ALL) \
        X("POST", V1 "/hosts/{name}/enrol-token", host_enrol_token, HOST_MANAGE, ALL) \
        X("POST", V1 "/hosts/{name}/confirm-down", host_confirm_down, HOST_OPERATE, ALL) \
        X("POST", V1 "/hosts/{name}/maintenance", host_maintenance, HOST_OPERATE, ALL) \
        X("POST", V1 "/enrol", enrol, NONE, PUBLIC) \
        X("GET", V1 "/vms", vm_list, VM_READ, LIST) \
        X("POST", V1 "/vms", vm_create, VM_CREATE, VM_NEW) \
        X("POST", V1 "/vm-imports", vm_import, VM_IMAGE, ALL) \
        X("GET", V1 "/vms/{name}", vm_get, VM_READ, VM) \
        X("DELETE", V1 "/vms/{name}", vm_delete, VM_DELETE, VM) \
        X("POST", V1 "/vms/{name}/start", vm_start, VM_POWER, VM_HOST) \
        X("POST", V1 "/vms/{name}/stop", vm_stop, VM_POWER, VM) \
        X("POST", V1 "/vms/{name}/pause", vm_pause, VM_POWER, VM) \
        X("POST", V1 "/vms/{name}/resume", vm_resume, VM_POWER, VM_HOST) \
        X("POST", V1 "/vms/{name}/suspend", vm_suspend, VM_POWER, VM) \
        X("POST", V1 "/vms/{name}/migrate", vm_migrate, VM_MIGRATE, VM_HOST) \
        X("POST", V1 "/vms/{name}/migrate-disks", vm_migrate_disks, VM_MIGRATE, VM) \
        X("POST", V1 "/vms/{name}/disks/{disk}/resize", vm_resize_disk, VM_DISK, VM) \
        X("GET", V1 "/vms/{name}/snapshots", vm_snapshot_list, VM_READ, VM) \
        X("POST", V1 "/vms/{name}/snapshots", vm_snapshot_create, VM_SNAPSHOT, VM) \
        X("GET", V1 "/vms/{name}/snapshots/{snapshot}", vm_snapshot_get, VM_READ, VM) \
        X("DELETE", V1 "/vms/{name}/snapshots/{snapshot}", vm_snapshot_delete, VM_SNAPSHOT, VM) \
        X("POST", V1 "/vms/{name}/snapshots/{snapshot}/revert", vm_snapshot_revert, VM_SNAPSHOT, VM) \
        X("POST", V1 "/vms/{name}/export", vm_export, VM_IMAGE, VM) \
        X("POST", V1 "/vms/{name}/import-disk", vm_import_disk, VM_IMAGE, VM) \
        X("POST", V1 "/vms/{name}/export-disk", vm_export_disk, VM_IMAGE, VM) \
        X("GET", V1 "/vms/{name}/advice", vm_advice, VM_READ, VM) \
        X("GET", V1 "/vms/{name}/disk-advice", vm_disk_advice, VM_READ, VM) \
        X("GET", V1 "/vms/{name}/console", vm_console, VM_CONSOLE, VM) \
        X("POST", V1 "/vms/{name}/forecast", vm_forecast, VM_MIGRATE, VM_HOST) \
        X("GET", V1 "/forecast-score", forecast_score, VM_READ, ALL) \
        X("GET", V1 "/tasks", task_list, TASK_READ, LIST) \
        X("GET", V1 "/tasks/{name}", task_get, TASK_READ, TASK) \
        X("POST", V1 "/tasks/{name}/cancel", task_cancel, TASK_CANCEL, TASK) \
        X("GET", V1 "/queue", queue_get, QUEUE_READ, ALL) \
        X("POST", V1 "/queue/drain", queue_drain, QUEUE_MANAGE, ALL) \
        X("POST", V1 "/queue/resume", queue_resume, QUEUE_MANAGE, ALL) \
        X("GET", V1 "/datastores", datastore_list, DATASTORE_READ, ALL) \
        X("POST", V1 "/datastores", datastore_create, DATASTORE_MANAGE, ALL) \
        X("GET", V1 "/datastores/{name}", datastore_get, DATASTORE_READ, ALL) \
        X("PUT", V1 "/datastores/{name}", datastore_update, DATASTORE_MANAGE, ALL) \
        X("DELETE", V1 "/datastores/{name}", datastore_delete, DATASTORE_MANAGE, ALL) \
        X("POST", V1 "/datastores/{name}/maintenance", datastore_maintenance, DATASTORE_MANAGE, ALL) \
        X("GET", V1 "/switches", switch_list, NETWORK_READ, ALL) \
        X("POST", V1 "/switches", switch_create, NETWORK_MANAGE, ALL) \
        X("GET", V1 "/switches/{name}", switch_get, NETWORK_READ, ALL) \
        X("PUT", V1 "/switches/{name}", switch_update, NETWORK_MANAGE, ALL) \
        X("DELETE", V1 "/switches/{name}", switch_delete, NETWORK_MANAGE, ALL) \
        X("POST", V1 "/switches/{name}/upgrade", switch_upgrade, NETWORK_MANAGE, ALL) \
        X("GET", V1 "/port-groups", port_group_list, NETWORK_READ, ALL) \
        X("POST", V1 "/port-groups", port_group_create, NETWORK_MANAGE, ALL) \
        X("GET", V1 "/port-groups/{name}", port_group_get, NETWORK_READ, ALL) \
        X("PUT", V1 "/port-groups/{name}", port_group_update, NETWORK_MANAGE, ALL) \
        X("DELETE", V1 "/port-groups/{name}", port_group_delete, NETWORK_MANAGE, ALL) \
        X("GET", V1 "/affinity-rules", affinity_rule_list, AFFINITY_READ, ALL) \
        X("POST", V1 "/affinity-rules", affinity_rule_create, AFFINITY_MANAGE, ALL) \
        X("GET", V1 "/affinity-rules/{name}", affinity_rule_get, AFFINITY_READ, ALL) \
        X("PUT", V1 "/affinity-rules/{name}", affinity_rule_update, AFFINITY_MANAGE, ALL) \
        X("DELETE", V1 "/affinity-rules/{name}", affinity_rule_delete, AFFINITY_MANAGE, ALL) \
        X("GET", V1 "/pools", pool_list, POOL_READ, LIST) \
        X("POST", V1 "/pools", pool_create, POOL_MANAGE, ALL) \
        X("GET", V1 "/pools/{name}", pool_get, POOL_READ, POOL) \
        X("PUT", V1 "/pools/{name}", pool_update, POOL_MANAGE, ALL) \
        X("DELETE", V1 "/pools/{name}", pool_delete, POOL_MANAGE, ALL) \
        X("GET", V1 "/schedules", schedule_list, SCHEDULE_READ, ALL) \
        X("POST", V1 "/schedules", schedule_create, SCHEDULE_MANAGE, ALL) \
        X("GET", V1 "/schedules/{name}", schedule_get, SCHEDULE_READ, ALL) \
        X("PUT", V1 "/schedules/{name}", schedule_update, SCHEDULE_MANAGE, ALL) \
        X("DELETE", V1 "/schedules/{name}", schedule_delete, SCHEDULE_MANAGE, ALL) \
        X("GET", V1 "/schedules/{name}/next", schedule_next, SCHEDULE_READ, ALL) \
        X("POST", V1 "/schedules/{name}/run", schedule_run, SCHEDULE_MANAGE, ALL) \
        X("POST", V1 "/schedules/{name}/pause", schedule_pause, SCHEDULE_MANAGE, ALL) \
        X("POST", V1 "/schedules/{name}/resume", schedule_resume, SCHEDULE_MANAGE, ALL) \
        X("GET", V1 "/cluster/cpu", cluster_cpu_get, CLUSTER_READ, ALL) \
        X("PUT", V1 "/cluster/cpu", cluster_cpu_update, CLUSTER_MANAGE, ALL) \
        X("POST", V1 "/login", login, NONE, PUBLIC) \
        X("GET", V1 "/session", session_get, NONE, SELF) \
        X("DELETE", V1 "/session", session_delete, NONE, SELF) \
        X("GET", V1 "/whoami", whoami, NONE, SELF) \
        X("GET", V1 "/users", user_list, ACCESS_READ, ALL) \
        X("POST", V1 "/users", user_create, ACCESS_MANAGE, ALL) \
        X("GET", V1 "/users/{name}", user_get, ACCESS_READ, ALL) \
        X("PUT", V1 "/users/{name}", user_update, ACCESS_MANAGE, ALL) \
        X("DELETE", V1 "/users/{name}", user_delete, ACCESS_MANAGE, ALL) \
        X("PUT", V1 "/users/{name}/password", user_password, ACCESS_MANAGE, ALL) \
        X("PUT", V1 "/password", own_password, NONE, SELF) \
        X("GET", V1 "/roles", role_list, ACCESS_READ, ALL) \
        X("POST", V1 "/roles", role_create, ACCESS_MANAGE, ALL) \
        X("GET", V1 "/roles/{name}", role_get, ACCESS_READ, ALL) \
        X("PUT", V1 "/roles/{name}", role_update, ACCESS_MANAGE, ALL) \
        X("DELETE", V1 "/roles/{name}", role_delete, ACCESS_MANAGE, ALL) \
        X("GET", V1 "/permissions", permission_list, ACCESS_READ, ALL) \
        X("GET", V1 "/tokens", token_list, ACCESS_READ, OWN) \
        X("POST", V1 "/tokens", token_create, ACCESS_MANAGE, OWN) \
        X("GET", V1 "/tokens/{name}", token_get, ACCESS_READ, OWN) \
        X("DELETE", V1 "/tokens/{name}", token_delete, ACCESS_MANAGE, OWN) \
        X("GET", V1 "/ca", ca, NONE, PUBLIC) \
        X("GET", V1 "/audit", audit_list, AUDIT_READ, ALL) \
        X("GET", V1 "/audit/verify", audit_verify, AUDIT_READ, ALL) \
        X("GET", V1 "/audit/export", audit_export, AUDIT_READ, ALL) \
        X("GET", V1 "/alerts", alert_list, ALERT_READ, ALL) \
        X("GET", V1 "/events", events, EVENT_READ, LIST) \
        X("GET", "/api/openapi.json", openapi, NONE, PUBLIC) \
        X("GET", "/healthz", healthz, NONE, PUBLIC) \
        X("GET", "/readyz", readyz, NONE, PUBLIC) \
        X("GET", "/version", version, NONE, PUBLIC) \
        X("GET", "/metrics", metrics, METRICS_READ, ALL)

/* SPDX-License-Identifier: Apache-2.0 */

/* The table of rules and how they are run; the rules themselves are in check_*.c by what they are about. */

#include "cluster/checks.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "cluster/check.h"
#include "cluster/datastore_place.h"

#define E CHECK_ERROR
#define W CHECK_WARNING

static const struct check_rule rules[] = {
        {"host-connected", E, false, check_host_connected,
                "Bring the host's agent and network back, or choose another host."},
        {"same-host", E, true, check_host_same, "Name another host with --to."},
        {"host-maintenance", E, false, check_host_maintenance,
                "Choose another host, or end it with `drover host maintenance HOST --off`."},
        {"host-task", E, false, check_host_task, "Wait for that task or cancel it, or choose another host."},
        {"host-version", W, true, check_host_version,
                "Upgrade drover there first: an older agent may not know all that the virtual machine has."},
        {"vm-running", E, true, check_vm_running, "Start or resume it first."},
        {"disks-active", E, true, check_vm_disks_active,
                "Wait until its hosts have settled who has it; `drover vm show` tells."},
        {"backup", E, true, check_vm_backup, "Wait until it has ended, or end it."},
        {"vm-task", E, false, check_vm_task, "Wait for that task, or cancel it."},
        {"machine-type", E, false, check_machine_type,
                "Upgrade QEMU on that host, or choose a host whose QEMU is at least as new as the source's."},
        {"qemu-version", W, true, check_machine_qemu_version,
                "Upgrade QEMU there, or choose a host whose QEMU is at least as new: QEMU is tested for "
                "moves from "
                "older to newer."},
        {"saved-state", E, false, check_machine_saved_state,
                "Resume it on the host that it was suspended on, or on one whose QEMU is at least as new."},
        {"accelerator", E, false, check_machine_accelerator,
                "Choose a host with KVM, or enable virtualisation in that host's firmware."},
        {"cpu-model", E, false, check_machine_cpu_model,
                "Choose a host that has them, or give the virtual machine a CPU model that all hosts have."},
        {"cpu-vendor", E, false, check_machine_cpu_vendor,
                "Choose a host whose processors are of the same vendor, or move it while it is off."},
        {"cpus", E, false, check_machine_cpus,
                "Choose a host with more processors, or give the virtual machine fewer."},
        {"cpu-load", W, false, check_machine_load, "Choose a host with less to do; --check ranks them."},
        {"memory", E, false, check_machine_memory, "Free memory on that host, or choose another one."},
        {"pool-limit", E, false, check_pool_limit,
                "Stop another virtual machine of the pool, or raise its limit (`drover pool set`)."},
        {"pool-reservation", E, false, check_pool_reservation,
                "Free memory, add a host, or lower a reservation (`drover pool list`)."},
        {"datastore", E, false, check_storage_datastores,
                "Mount the shared datastore on that host, or move the disks to one that both hosts share."},
        {"cdrom", E, false, check_storage_cdrom,
                "Eject the CD-ROM, or copy its image to a datastore that both hosts share."},
        {"disk-lock", E, true, check_storage_locks,
                "Mount it with locks on that host (without nolock or local_lock)."},
        {"disk-in-use", E, false, check_storage_in_use, "Stop that virtual machine first."},
        {"disk-snapshots", E, true, check_storage_snapshots,
                "Delete its snapshots first (`drover vm snapshot list`), or leave its disks where they are."},
        {"datastore-maintenance", E, false, check_storage_closed, DATASTORE_CLOSED_WAY_OUT},
        {"datastore-limit", E, false, check_storage_limit, DATASTORE_OVER_WAY_OUT},
        {"datastore-space", W, false, check_storage_space, DATASTORE_SHORT_WAY_OUT},
        {"port-group", E, false, check_network_port_groups,
                "Add the port group to that host, or choose another host."},
        {"switch", E, false, check_network_switches,
                "Repair the switch on that host (`drover host show` has what it reports), or choose another "
                "host."},
        {"uplink", E, false, check_network_uplinks,
                "Plug the cable in or repair the port, or choose another host."},
        {"network-applied", E, false, check_network_applied,
                "Repair what keeps it from being applied; it is applied again when the host's agent "
                "reconnects, or "
                "with the next change."},
        {"mtu", W, true, check_network_mtu, "Give the switch the same MTU on both hosts."},
        {"switch-type", E, true, check_network_switch_type,
                "Choose a host whose port group is on the distributed switch, or allow it for the port group "
                "(--allow-standard)."},
        {"switch-version", W, true, check_network_switch_version,
                "Give both hosts the same version (`drover network switch upgrade`)."},
        {"switch-drift", W, false, check_network_drift,
                "See `drover network switch show`; the agent mends what it can within seconds."},
        {"mac", E, false, check_network_macs, "Give one of the two network cards another address."},
        {"mac-on-host", E, false, check_network_foreign_macs,
                "Take that device away, or give it or the network card another address."},
        {"bandwidth", E, true, check_network_bandwidth,
                "Ask for less with --min-bandwidth, or give the host a faster link for migrations."},
        {"affinity", E, false, check_affinity_must,
                "Choose a host that the rule allows, or change the rule (`drover affinity show`)."},
        {"affinity-preference", W, false, check_affinity_should, "Choose a host that the rule prefers."},
};

#undef E
#undef W

const char *check_text(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

const json_t *check_status(const json_t *document)
{
        return json_object_get(document, "status");
}

const json_t *check_named(const json_t *array, const char *name)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)array, i, item)
                if (!strcmp(check_text(item, "name"), name))
                        return item;
        return NULL;
}

bool checks_is_live(const json_t *vm)
{
        const char *power = check_text(check_status(vm), "power");

        return *power && strcmp(power, "stopped") && strcmp(power, "crashed") && strcmp(power, "suspended");
}

/* cause NULL: the rule is met. */
static void say(struct check *check, const char *object, const char *cause, const char *way_out)
{
        const char *severity = check->rule->severity == CHECK_WARNING ? "warning" : "error";
        json_t *item;

        if (!cause && check->broken_only)
                return;
        item = json_pack("{s:s, s:s, s:b, s:s?, s:s?, s:s?}", "code", check->rule->code, "severity", severity,
                "ok", cause == NULL, "object", object, "cause", cause, "way_out", way_out);

        if (!item || json_array_append_new(check->out, item) < 0)
                check->result = -ENOMEM;
}

void check_met(struct check *check, const char *object)
{
        say(check, object, NULL, NULL);
}

static void say_broken(
        struct check *check, const char *object, const char *way_out, const char *fmt, va_list ap)
{
        _cleanup_free_ char *cause = alloc_vprintf(fmt, ap);

        if (cause)
                say(check, object, cause, way_out ?: check->rule->way_out);
        else
                check->result = -ENOMEM; /* it must not count as met */
}

void check_broken(struct check *check, const char *object, const char *way_out, const char *fmt, ...)
{
        va_list ap;

        va_start(ap, fmt);
        say_broken(check, object, way_out, fmt, ap);
        va_end(ap);
}

void check_tell(struct check *check, const char *object, bool broken, const char *fmt, ...)
{
        va_list ap;

        if (!broken) {
                check_met(check, object);
                return;
        }
        va_start(ap, fmt);
        say_broken(check, object, NULL, fmt, ap);
        va_end(ap);
}

struct checks *checks_new(const struct checks_input *input)
{
        _cleanup_(checks_freep) struct checks *checks = ALLOC(struct checks);

        if (!checks)
                return NULL;
        *checks = (struct checks){.input = *input,
                .spec = json_object_get(input->vm, "spec"),
                .status = check_status(input->vm)};
        if (check_network_prepare(checks) < 0 || check_storage_prepare(checks) < 0 ||
                check_affinity_prepare(checks) < 0)
                return NULL;
        check_pool_prepare(checks);
        return TAKE_PTR(checks);
}

void checks_free(struct checks *checks)
{
        if (!checks)
                return;
        json_decref(checks->spec_without_cdrom);
        json_decref(checks->mac_owners);
        json_decref(checks->image_users);
        json_decref(checks->affinity);
        free(checks);
}

static json_t *run(const struct checks *checks, const json_t *target, bool broken_only)
{
        struct check check = {.checks = checks,
                .broken_only = broken_only,
                .input = &checks->input,
                .spec = checks->spec,
                .status = checks->status,
                .target = target,
                .host = check_status(target),
                .host_name = check_text(target, "name"),
                .out = json_array()};

        if (!check.out)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
                check.rule = &rules[i];
                if (!rules[i].move_only || checks->input.source)
                        rules[i].look(&check);
        }
        if (check.result < 0) {
                json_decref(check.out);
                return NULL;
        }
        return check.out;
}

json_t *checks_run(const struct checks *checks, const json_t *target)
{
        return run(checks, target, false);
}

json_t *checks_broken(const struct checks *checks, const json_t *target)
{
        return run(checks, target, true);
}

json_t *checks_of(const struct checks_input *input, const json_t *target)
{
        _cleanup_(checks_freep) struct checks *checks = checks_new(input);

        return checks ? checks_run(checks, target) : NULL;
}

static bool is_broken(const json_t *item, const char *severity)
{
        return !json_is_true(json_object_get(item, "ok")) && !strcmp(check_text(item, "severity"), severity);
}

static size_t count_broken(const json_t *report, const char *severity, const json_t **ret_first)
{
        json_t *item;
        size_t i, n = 0;

        json_array_foreach ((json_t *)report, i, item) {
                if (!is_broken(item, severity))
                        continue;
                if (ret_first && !n)
                        *ret_first = item;
                n++;
        }
        return n;
}

bool checks_ok(const json_t *report)
{
        return count_broken(report, "error", NULL) == 0;
}

size_t checks_n_warnings(const json_t *report)
{
        return count_broken(report, "warning", NULL);
}

int checks_to_error(const json_t *report, struct error **ret_error)
{
        const json_t *first = NULL;
        size_t n = count_broken(report, "error", &first);

        if (!n)
                return 0;
        if (n == 1)
                return error_set(ret_error, ERROR_CHECK_FAILED, check_text(first, "way_out"), "%s: %s",
                        check_text(first, "code"), check_text(first, "cause"));
        return error_set(ret_error, ERROR_CHECK_FAILED, check_text(first, "way_out"),
                "%s: %s (and %zu more; see them all with --check)", check_text(first, "code"),
                check_text(first, "cause"), n - 1);
}

/* json_object used as a set, so that a datastore used by many disks is visited once. */
static int visit(json_t *seen, const char *name, int (*fn)(void *, const char *), void *userdata)
{
        if (!*name || json_object_get(seen, name))
                return 0;
        if (json_object_set_new(seen, name, json_true()) < 0)
                return -ENOMEM;
        return fn(userdata, name);
}

int checks_each_datastore(
        const json_t *vm_spec, int (*fn)(void *userdata, const char *datastore), void *userdata)
{
        _cleanup_json_ json_t *seen = json_object();
        const json_t *boot = json_object_get(vm_spec, "boot");
        json_t *disk;
        size_t i;
        int r;

        if (!seen)
                return -ENOMEM;
        r = visit(seen, check_text(vm_spec, "datastore"), fn, userdata);
        json_array_foreach (json_object_get(vm_spec, "disks"), i, disk)
                if (r >= 0)
                        r = visit(seen, check_text(disk, "datastore"), fn, userdata);
        if (r >= 0)
                r = visit(seen, check_text(json_object_get(vm_spec, "cdrom"), "datastore"), fn, userdata);
        /* QEMU opens kernel and initrd again at the destination. */
        if (r >= 0)
                r = visit(seen, check_text(json_object_get(boot, "kernel"), "datastore"), fn, userdata);
        if (r >= 0)
                r = visit(seen, check_text(json_object_get(boot, "initrd"), "datastore"), fn, userdata);
        return r;
}

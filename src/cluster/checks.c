/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/checks.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <strings.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"

struct run {
        const struct checks_input *input;
        const json_t *spec;
        const json_t *status;
        const char *target_name;
        json_t *out;
        int result;
};

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static const json_t *status_of(const json_t *document)
{
        return json_object_get(document, "status");
}

/* The cause is printf-like and freed here; NULL cause: the rule is met. */
static void say(struct run *run, const char *code, const char *object, char *cause, const char *way_out)
{
        json_t *item = json_pack("{s:s, s:b, s:s?, s:s?, s:s?}", "code", code, "ok", cause == NULL, "object",
                object, "cause", cause, "way_out", cause ? way_out : NULL);

        if (!item || json_array_append_new(run->out, item) < 0)
                run->result = -ENOMEM;
        free(cause);
}

/* alloc_printf() for a cause: without memory the rule must not count as met. */
#define CAUSE(run, ...) \
        ({ \
                char *_cause = alloc_printf(__VA_ARGS__); \
                if (!_cause) \
                        (run)->result = -ENOMEM; \
                _cause; \
        })

static void rule_host_connected(struct run *run)
{
        const char *state = text_of(status_of(run->input->target), "state");
        char *cause = NULL;

        if (strcmp(state, "connected"))
                cause = CAUSE(run, "host %s is %s", run->target_name, *state ? state : "not known");
        say(run, "host-connected", run->target_name, cause,
                "Bring the host's agent and network back, or choose another host.");
}

static void rule_same_host(struct run *run)
{
        char *cause = NULL;

        if (!run->input->source)
                return;
        if (!strcmp(text_of(run->input->source, "uid"), text_of(run->input->target, "uid")))
                cause = CAUSE(run, "the virtual machine is on host %s already", run->target_name);
        say(run, "same-host", run->target_name, cause, "Name another host with --to.");
}

static void rule_vm_running(struct run *run)
{
        const char *power = text_of(run->status, "power");
        char *cause = NULL;

        if (!run->input->source)
                return;
        if (strcmp(power, "running"))
                cause = CAUSE(run, "the virtual machine is %s, not running", *power ? power : "unknown");
        say(run, "vm-running", NULL, cause,
                !strcmp(power, "unknown") ? "Wait until its host is connected again."
                                          : "Start or resume it first.");
}

static bool knows_machine(const json_t *machines, const char *machine)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)machines, i, item) {
                const char *name = json_is_string(item) ? json_string_value(item) : text_of(item, "name");

                if (name && !strcmp(name, machine))
                        return true;
        }
        return false;
}

static void rule_machine_type(struct run *run)
{
        const json_t *qemu = json_object_get(status_of(run->input->target), "qemu");
        const char *machine = text_of(run->status, "machine");
        char *cause = NULL;

        if (!*machine)
                machine = text_of(run->spec, "machine");
        /* An unversioned type (or none) is resolved by the host that starts it. */
        if (!*machine || (!run->input->source && !strchr(machine, '-')))
                return;
        if (!knows_machine(json_object_get(qemu, "machines"), machine))
                cause = CAUSE(run, "QEMU %s on host %s does not know the machine type %s",
                        *text_of(qemu, "version") ? text_of(qemu, "version") : "(unknown version)",
                        run->target_name, machine);
        say(run, "machine-type", run->target_name, cause,
                "Upgrade QEMU on that host, or choose a host whose QEMU is at least as new as the source's.");
}

static void rule_accelerator(struct run *run)
{
        const char *wanted = text_of(run->spec, "accelerator");
        const char *has = text_of(status_of(run->input->target), "accelerator");
        char *cause = NULL;

        if (run->input->source && *text_of(run->status, "accelerator"))
                wanted = text_of(run->status, "accelerator");
        if (!strcmp(wanted, "kvm") && strcmp(has, "kvm"))
                cause = CAUSE(run, "the virtual machine needs KVM and host %s has %s only", run->target_name,
                        *has ? has : "no accelerator");
        say(run, "accelerator", run->target_name, cause,
                "Choose a host with KVM, or enable virtualisation in that host's firmware.");
}

json_int_t checks_memory_room(const json_t *status)
{
        json_int_t free_bytes = json_integer_value(json_object_get(status, "memory_free_bytes"));
        json_int_t total = json_integer_value(json_object_get(status, "memory_bytes"));
        json_int_t promised = json_integer_value(json_object_get(status, "memory_vms_bytes"));

        return promised > 0 ? MAX(MIN(free_bytes, total - promised), 0) : free_bytes;
}

json_int_t checks_memory_need(const json_t *vm)
{
        json_int_t need = json_integer_value(json_object_get(status_of(vm), "memory_effective_bytes"));

        return need > 0 ? need
                        : json_integer_value(json_object_get(json_object_get(vm, "spec"), "memory_bytes"));
}

static void rule_memory(struct run *run)
{
        json_int_t need = checks_memory_need(run->input->vm);
        json_int_t has = checks_memory_room(status_of(run->input->target));
        char *cause = NULL;

        if (need > has) {
                char a[16], b[16];

                cause = CAUSE(run, "the virtual machine has %s of memory and host %s has room for %s",
                        text_format_size((uint64_t)need, a), run->target_name,
                        text_format_size(has > 0 ? (uint64_t)has : 0, b));
        }
        say(run, "memory", run->target_name, cause, "Free memory on that host, or choose another one.");
}

static const json_t *find_named(const json_t *array, const char *name)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)array, i, item)
                if (!strcmp(text_of(item, "name"), name))
                        return item;
        return NULL;
}

static int rule_one_datastore(void *userdata, const char *name)
{
        struct run *run = userdata;
        const json_t *there = find_named(json_object_get(status_of(run->input->target), "datastores"), name);
        const json_t *home = run->input->source ?: run->input->home;
        const char *id = text_of(there, "id");
        char *cause = NULL;

        if (!there)
                cause = CAUSE(run, "host %s does not have the datastore %s", run->target_name, name);
        else if (!json_is_true(json_object_get(there, "ok")))
                cause = CAUSE(run, "the datastore %s does not work on host %s: %s", name, run->target_name,
                        *text_of(there, "message") ? text_of(there, "message") : "no reason given");
        else if (home) {
                const json_t *here = find_named(json_object_get(status_of(home), "datastores"), name);

                if (!*id || strcmp(id, text_of(here, "id")))
                        cause = CAUSE(run,
                                "the datastore %s on host %s is another one (id %s) than on host %s (id %s)",
                                name, run->target_name, *id ? id : "none", text_of(home, "name"),
                                *text_of(here, "id") ? text_of(here, "id") : "none");
        }
        say(run, "datastore", name, cause,
                "Mount the shared datastore on that host, or move the disks to one that both hosts share.");
        return run->result;
}

static void rule_datastores(struct run *run)
{
        if (checks_each_datastore(run->spec, rule_one_datastore, run) < 0)
                run->result = -ENOMEM;
}

static void rule_port_groups(struct run *run)
{
        const json_t *known = json_object_get(status_of(run->input->target), "port_groups");
        const json_t *switches = json_object_get(status_of(run->input->target), "switches");
        json_t *nic;
        size_t i;

        json_array_foreach (json_object_get(run->spec, "nics"), i, nic) {
                const char *name = text_of(nic, "port_group");
                const json_t *group = find_named(known, name);
                const json_t *its_switch = find_named(switches, text_of(group, "switch"));
                char *cause = NULL;

                if (!group)
                        cause = CAUSE(run, "host %s does not have the port group %s", run->target_name, name);
                else if (json_is_false(json_object_get(its_switch, "ok")))
                        cause = CAUSE(run, "the switch %s of port group %s does not work on host %s: %s",
                                text_of(group, "switch"), name, run->target_name,
                                *text_of(its_switch, "message") ? text_of(its_switch, "message")
                                                                : "no reason given");
                say(run, "port-group", name, cause,
                        "Repair the switch on that host (`drover network` shows what it reports), or choose "
                        "another "
                        "host.");
        }
}

/* The VM that has this MAC address as well, or NULL. */
static const json_t *mac_owner(const struct run *run, const char *mac)
{
        json_t *vm, *nic;
        size_t i, k;

        json_array_foreach ((json_t *)run->input->vms, i, vm) {
                if (!strcmp(text_of(vm, "uid"), text_of(run->input->vm, "uid")))
                        continue;
                json_array_foreach (json_object_get(json_object_get(vm, "spec"), "nics"), k, nic)
                        if (!strcasecmp(text_of(nic, "mac"), mac))
                                return vm;
        }
        return NULL;
}

static void rule_macs(struct run *run)
{
        json_t *nic;
        size_t i;

        json_array_foreach (json_object_get(run->spec, "nics"), i, nic) {
                const char *mac = text_of(nic, "mac");
                const json_t *other = *mac ? mac_owner(run, mac) : NULL;
                char *cause = NULL;

                if (other)
                        cause = CAUSE(run, "the MAC address %s is also that of the virtual machine %s", mac,
                                text_of(other, "name"));
                say(run, "mac", mac, cause, "Give one of the two network cards another address.");
        }
}

static void (*const rules[])(struct run *run) = {
        rule_host_connected,
        rule_same_host,
        rule_vm_running,
        rule_machine_type,
        rule_accelerator,
        rule_memory,
        rule_datastores,
        rule_port_groups,
        rule_macs,
};

json_t *checks_run(const struct checks_input *input)
{
        struct run run = {
                .input = input,
                .spec = json_object_get(input->vm, "spec"),
                .status = status_of(input->vm),
                .target_name = text_of(input->target, "name"),
                .out = json_array(),
        };

        if (!run.out)
                return NULL;
        for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
                rules[i](&run);
        if (run.result < 0) {
                json_decref(run.out);
                return NULL;
        }
        return run.out;
}

bool checks_ok(const json_t *checks)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)checks, i, item)
                if (!json_is_true(json_object_get(item, "ok")))
                        return false;
        return true;
}

int checks_to_error(const json_t *checks, struct error **ret_error)
{
        const json_t *first = NULL;
        size_t i, n_failed = 0;
        json_t *item;

        json_array_foreach ((json_t *)checks, i, item) {
                if (json_is_true(json_object_get(item, "ok")))
                        continue;
                first = first ?: item;
                n_failed++;
        }
        if (!first)
                return 0;
        if (n_failed == 1)
                return error_set(ret_error, ERROR_CHECK_FAILED, text_of(first, "way_out"), "%s: %s",
                        text_of(first, "code"), text_of(first, "cause"));
        return error_set(ret_error, ERROR_CHECK_FAILED, text_of(first, "way_out"),
                "%s: %s (and %zu more; see them all with --check)", text_of(first, "code"),
                text_of(first, "cause"), n_failed - 1);
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
        r = visit(seen, text_of(vm_spec, "datastore"), fn, userdata);
        json_array_foreach (json_object_get(vm_spec, "disks"), i, disk)
                if (r >= 0)
                        r = visit(seen, text_of(disk, "datastore"), fn, userdata);
        if (r >= 0)
                r = visit(seen, text_of(json_object_get(vm_spec, "cdrom"), "datastore"), fn, userdata);
        /* QEMU opens kernel and initrd again at the destination. */
        if (r >= 0)
                r = visit(seen, text_of(json_object_get(boot, "kernel"), "datastore"), fn, userdata);
        if (r >= 0)
                r = visit(seen, text_of(json_object_get(boot, "initrd"), "datastore"), fn, userdata);
        return r;
}

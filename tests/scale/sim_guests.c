/* SPDX-License-Identifier: Apache-2.0 */

/* Virtual machines that are documents and nothing more, of the size and kind that a company has. */

#include "sim.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/json.h"

json_int_t sim_guest_memory(const json_t *vm)
{
        return json_integer_value(json_object_get(json_status(vm), "memory_effective_bytes"));
}

static bool has_qemu(const json_t *vm)
{
        const char *power = json_text(json_status(vm), "power");

        return strcmp(power, "stopped") && strcmp(power, "crashed");
}

static json_t *disk(const char *name, const char *vm, const char *datastore)
{
        return json_pack("{s:s, s:s, s:o, s:I, s:s, s:s, s:b}", "name", name, "datastore", datastore, "path",
                json_sprintf("%s/%s.qcow2", vm, name), "size_bytes", 40 * SIM_GIB, "format", "qcow2", "bus",
                "virtio", "read_only", 0);
}

static json_t *spec_of(const struct sim *sim, size_t number, const char *name)
{
        static const int memory_gib[] = {2, 4, 4, 8, 8, 8, 16, 4};
        static const char *const tiers[] = {"web", "app", "db", "batch"};
        char datastore[32], mac[24];

        snprintf(datastore, sizeof(datastore), "shared%zu", number % sim->options.n_datastores + 1);
        snprintf(mac, sizeof(mac), "52:54:%02x:%02x:%02x:%02x", (unsigned int)(number >> 24) & 0xff,
                (unsigned int)(number >> 16) & 0xff, (unsigned int)(number >> 8) & 0xff,
                (unsigned int)number & 0xff);
        return json_pack(
                "{s:i, s:I, s:s, s:s, s:s, s:s, s:s, s:[o,o], s:[{s:s, s:s, s:s}], s:b, s:b, s:b, s:b, "
                "s:{s:o, s:s}}",
                "cpus", (int)(number % 4) + 1, "memory_bytes",
                memory_gib[number % ARRAY_SIZE(memory_gib)] * SIM_GIB, "machine", "q35", "cpu_model", "auto",
                "accelerator", "kvm", "firmware", "uefi", "datastore", datastore, "disks",
                disk("system", name, datastore), disk("data", name, datastore), "nics", "port_group",
                "default", "mac", mac, "model", "virtio", "rng", 1, "balloon", 1, "free_page_reporting", 1,
                "guest_agent", 1, "labels", "tenant", json_sprintf("tenant%02zu", number % 40), "tier",
                tiers[number % ARRAY_SIZE(tiers)]);
}

static json_t *status_of(const json_t *spec)
{
        return json_pack("{s:s, s:i, s:s, s:s, s:s, s:O, s:s, s:n}", "power", "running", "owner_epoch", 1,
                "machine", "pc-q35-7.2", "cpu_model", "qemu64", "accelerator", "kvm",
                "memory_effective_bytes", json_object_get(spec, "memory_bytes"), "qemu_version", "7.2.17",
                "message");
}

int sim_guests_init(struct sim_host *host)
{
        const struct sim *sim = host->sim;

        for (size_t i = 0; i < sim->options.n_vms; i++) {
                size_t number = host->number * sim->options.n_vms + i;
                char name[32], uid[40];
                json_t *spec, *vm;

                snprintf(name, sizeof(name), "vm%05zu", number + 1);
                snprintf(uid, sizeof(uid), "%08zx-0000-4000-8000-%012zx", number, host->number);
                spec = spec_of(sim, number, name);
                vm = json_pack("{s:s, s:s, s:s, s:i, s:o, s:o}", "kind", "vm", "name", name, "uid", uid,
                        "revision", 0, "spec", spec, "status", status_of(spec));
                if (!vm || json_object_set_new(host->vms, uid, vm) < 0)
                        return -ENOMEM;
                host->promised += sim_guest_memory(vm);
        }
        return 0;
}

json_t *sim_guest(const struct sim_host *host, const char *uid)
{
        return json_object_get(host->vms, uid);
}

void sim_guest_put(struct sim_host *host, json_t *vm, const char *power, json_int_t epoch)
{
        const char *uid = json_text(vm, "uid");
        const json_t *before = sim_guest(host, uid);
        json_t *status = json_status(vm);

        if (before && has_qemu(before))
                host->promised -= sim_guest_memory(before);
        if (!json_is_integer(json_object_get(status, "memory_effective_bytes")))
                json_object_set(
                        status, "memory_effective_bytes", json_object_get(json_spec(vm), "memory_bytes"));
        json_object_update_new(
                status, json_pack("{s:s, s:I, s:s, s:s, s:s, s:s, s:n}", "power", power, "owner_epoch", epoch,
                                "machine", "pc-q35-7.2", "cpu_model", "qemu64", "accelerator", "kvm",
                                "qemu_version", "7.2.17", "message"));
        json_object_set_new(host->vms, uid, vm);
        if (has_qemu(vm))
                host->promised += sim_guest_memory(vm);
        events_publish(host->events, "vm", vm);
}

void sim_guest_gone(struct sim_host *host, const char *uid)
{
        json_t *vm = sim_guest(host, uid);
        _cleanup_json_ json_t *gone = NULL;

        if (!vm)
                return;
        if (has_qemu(vm))
                host->promised -= sim_guest_memory(vm);
        gone = json_pack("{s:s, s:s}", "uid", uid, "name", json_text(vm, "name"));
        json_object_del(host->vms, uid);
        events_publish(host->events, "vm-gone", gone);
}

/* --- The API ------------------------------------------------------------------------------------------------------ */

static void reply_not_here(struct http_request *request, const char *uid)
{
        struct error *error = NULL;

        error_set(&error, ERROR_NOT_FOUND, NULL, "this host has no virtual machine %.40s", uid);
        sim_reply_error(request, error);
}

void sim_vm_list(struct http_request *request, void *userdata)
{
        const struct sim_host *host = userdata;
        json_t *list = json_array(), *vm;
        const char *key;

        json_object_foreach (host->vms, key, vm)
                json_array_append(list, vm);
        http_request_reply_json(request, 200, list);
}

void sim_vm_get(struct http_request *request, void *userdata)
{
        const char *uid = http_request_param(request, "uid");
        json_t *vm = sim_guest(userdata, uid);

        if (vm)
                http_request_reply_json(request, 200, json_incref(vm));
        else
                reply_not_here(request, uid);
}

void sim_vm_console(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 200, json_pack("{s:s}", "text", "simulated\n"));
}

/* Create and start bring a document; the others are about one that is here. */
void sim_vm_verb(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        const char *uid = http_request_param(request, "uid"), *verb = http_request_param(request, "verb");
        bool brings = !strcmp(verb, "create") || !strcmp(verb, "start");
        json_t *body = NULL, *vm = sim_guest(host, uid);
        json_int_t epoch = json_integer_value(json_object_get(json_status(vm), "owner_epoch"));
        struct error *error = NULL;

        if (brings && http_request_json(request, &body, &error) < 0) {
                sim_reply_error(request, error);
                return;
        }
        if (!brings && !vm) {
                reply_not_here(request, uid);
                return;
        }
        if (!strcmp(verb, "delete")) {
                sim_guest_gone(host, uid);
                sim_reply(request, 200, json_object());
                return;
        }
        vm = json_deep_copy(brings ? body : vm);
        if (brings)
                epoch = json_integer_value(json_object_get(json_status(vm), "owner_epoch"));
        sim_guest_put(host, vm,
                !strcmp(verb, "create") || !strcmp(verb, "stop") ? "stopped"
                : !strcmp(verb, "pause")                         ? "paused"
                                                                 : "running",
                !strcmp(verb, "start") ? epoch + 1 : epoch);
        sim_reply(request, 200, json_deep_copy(sim_guest(host, uid)));
}

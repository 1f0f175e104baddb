/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about what QEMU and the hardware of the destination can do, and whether there is room. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/doc.h"
#include "base/text.h"
#include "cluster/check.h"
#include "cluster/cpu_model.h"

static bool knows_machine(const json_t *machines, const char *machine)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)machines, i, item) {
                const char *name = json_is_string(item) ? json_string_value(item) : check_text(item, "name");

                if (!strcmp(name, machine))
                        return true;
        }
        return false;
}

void check_machine_type(struct check *check)
{
        const json_t *qemu = json_object_get(check->host, "qemu");
        const char *machine = check_text(check->status, "machine"), *version = check_text(qemu, "version");

        if (!*machine)
                machine = check_text(check->spec, "machine");
        /* An unversioned type (or none) is resolved by the host that starts it. */
        if (!*machine || (!check->input->source && !strchr(machine, '-')))
                return;
        check_tell(check, check->host_name, !knows_machine(json_object_get(qemu, "machines"), machine),
                "QEMU %s on host %s does not know the machine type %s",
                *version ? version : "(unknown version)", check->host_name, machine);
}

void check_machine_qemu_version(struct check *check)
{
        const char *here = check_text(check->status, "qemu_version");
        const char *there = check_text(json_object_get(check->host, "qemu"), "version");
        bool older = *here && *there && strverscmp(there, here) < 0;

        check_tell(check, check->host_name, older,
                "the virtual machine runs on QEMU %s and host %s has the older QEMU %s", here,
                check->host_name, there);
}

/* "10.0.8" as 10 * 1000 + 0; 0: no version. What a QEMU reads of another's memory depends on no more. */
static unsigned long release(const char *version)
{
        char *rest = NULL;
        unsigned long major = strtoul(version, &rest, 10);

        return *rest == '.' ? major * 1000 + strtoul(rest + 1, NULL, 10) : 0;
}

/* The host that the guest runs on, or whose processor it had when it was suspended; NULL: none, or not known. */
static const json_t *origin(const struct check *check)
{
        const struct checks_input *input = check->input;

        return input->source ?: input->resumes ? input->home : NULL;
}

void check_machine_saved_state(struct check *check)
{
        const char *here = check_text(check->status, "qemu_version"),
                   *model = check_text(check->spec, "cpu_model");
        const char *there = check_text(json_object_get(check->host, "qemu"), "version");
        const char *home = check_text(check->input->home, "uid");

        if (!check->input->resumes)
                return;
        if (release(there) < release(here) && release(there))
                check_broken(check, check->host_name, NULL,
                        "it was suspended by QEMU %s, and host %s has the older QEMU %s", here,
                        check->host_name, there);
        else
                check_tell(check, check->host_name,
                        cpu_model_is_of_host(model) && strcmp(home, check_text(check->target, "uid")) != 0,
                        "it was suspended with the processor of its host (cpu_model host), which is not host "
                        "%s",
                        check->host_name);
}

/* The one that the guest has, or is to have: "kvm", "tcg", "auto" or nothing. */
static const char *accelerator(const struct check *check)
{
        const char *has = check->input->source ? check_text(check->status, "accelerator") : "";

        return *has ? has : check_text(check->spec, "accelerator");
}

void check_machine_accelerator(struct check *check)
{
        const char *wanted = accelerator(check);
        const char *has = check_text(check->host, "accelerator");

        check_tell(check, check->host_name, !strcmp(wanted, "kvm") && strcmp(has, "kvm"),
                "the virtual machine needs KVM and host %s has %s only", check->host_name,
                *has ? has : "no accelerator");
}

/* The processor that the VM has; "auto" and nothing: the host that starts it will decide. */
static const char *cpu_model(const struct check *check)
{
        const char *model = check->input->source ? check_text(check->status, "cpu_model") : "";

        if (!*model)
                model = check_text(check->spec, "cpu_model");
        return strcmp(model, "auto") ? model : "";
}

/* What a host offers with KVM says nothing about a guest that is emulated there. */
static bool is_about(const json_t *cpu, const char *accelerator)
{
        return !*accelerator || !strcmp(accelerator, "auto") ||
               !strcmp(check_text(cpu, "accelerator"), accelerator);
}

void check_machine_cpu_model(struct check *check)
{
        const json_t *here = json_object_get(check->input->cpus, check_text(origin(check), "uid"));
        const json_t *there = json_object_get(check->input->cpus, check_text(check->target, "uid"));
        const char *model = cpu_model(check);
        _cleanup_json_ json_t *missing = NULL;
        _cleanup_free_ char *names = NULL;
        int r;

        if (!*model || !there || !is_about(there, accelerator(check)))
                return;
        r = cpu_model_missing(model, here, there, &missing);
        if (r == CPU_MODEL_UNKNOWN) {
                check_broken(check, model, "Upgrade QEMU on that host, or choose another host or CPU model.",
                        "QEMU on host %s does not know the CPU model %s", check->host_name, model);
                return;
        }
        names = r == 0 ? cpu_model_names_text(missing) : NULL;
        if (!names)
                check->result = -ENOMEM;
        else
                check_tell(check, model, json_array_size(missing) > 0,
                        "guests on host %s cannot have these features of the CPU model %s: %s",
                        check->host_name, model, names);
}

/* A guest chooses between instructions and remedies by the vendor that it saw when it started. */
void check_machine_cpu_vendor(struct check *check)
{
        const json_t *here = json_object_get(check->input->cpus, check_text(origin(check), "uid"));
        const json_t *there = json_object_get(check->input->cpus, check_text(check->target, "uid"));
        const char *has = check_text(here, "vendor"), *would = check_text(there, "vendor");

        if (!strcmp(accelerator(check), "kvm") && *has && *would)
                check_tell(check, check->host_name, strcmp(has, would) != 0,
                        "the virtual machine runs on processors of %s, and those of host %s are of %s", has,
                        check->host_name, would);
}

static json_int_t integer(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

/* For VMs that are on their way to the host and that it does not count yet. */
static json_int_t reserved(const struct check *check, const char *key)
{
        return integer(json_object_get(check->input->reserved, check_text(check->target, "uid")), key);
}

static json_int_t vm_cpus(const struct check *check)
{
        json_int_t cpus = integer(check->spec, "cpus");

        return cpus > 0 ? cpus : 1;
}

void check_machine_cpus(struct check *check)
{
        json_int_t need = vm_cpus(check), has = integer(check->host, "cpus");

        check_tell(check, check->host_name, has > 0 && need > has,
                "the virtual machine has %lld virtual processors and host %s has %lld processors",
                (long long)need, check->host_name, (long long)has);
}

/* Load counts tasks that run or want to. A VM that starts is taken to use its processors, as are those on their way. */
void check_machine_load(struct check *check)
{
        double load = json_number_value(json_object_get(check->host, "load1"));
        double cpus = json_number_value(json_object_get(check->host, "cpus"));
        json_int_t coming = vm_cpus(check) + reserved(check, "cpus");

        check_tell(check, check->host_name, cpus > 0 && load + (double)coming > cpus,
                "host %s has %.0f processors, a load of %.1f, and %lld virtual processors to come",
                check->host_name, cpus, load, (long long)coming);
}

json_int_t checks_memory_room(const json_t *status)
{
        json_int_t free_bytes = integer(status, "memory_free_bytes");
        json_int_t promised = integer(status, "memory_vms_bytes");

        return promised > 0 ? MAX(MIN(free_bytes, integer(status, "memory_bytes") - promised), 0)
                            : free_bytes;
}

json_int_t checks_memory_need(const json_t *vm)
{
        json_int_t need = integer(check_status(vm), "memory_effective_bytes");

        return need > 0 ? need : integer(json_object_get(vm, "spec"), "memory_bytes");
}

void check_machine_memory(struct check *check)
{
        json_int_t need = checks_memory_need(check->input->vm);
        json_int_t has = MAX(checks_memory_room(check->host) - reserved(check, "memory_bytes"), 0);
        json_int_t coming = reserved(check, "memory_bytes");
        _cleanup_free_ char *apart = NULL;
        char a[16], b[16], c[16];

        if (need <= has) {
                check_met(check, check->host_name);
                return;
        }
        if (coming > 0)
                apart = alloc_printf(", apart from %s for those on their way there",
                        text_format_size((uint64_t)coming, c));
        check_broken(check, check->host_name, NULL,
                "the virtual machine has %s of memory and host %s has room for %s%s",
                text_format_size((uint64_t)need, a), check->host_name, text_format_size((uint64_t)has, b),
                apart ?: "");
}

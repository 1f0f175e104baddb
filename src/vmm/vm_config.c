/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing goes from the outside in: each object is checked for unknown fields, then each field for its type and
 * range, then what several fields say together (duplicates, buses against the machine). Every message names
 * the field by its path in the document. */
#include "vmm/vm_config.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/drives.h"
#include "base/text.h"
#include "base/torture.h"

#define PATH_MAX_CHARS 255
#define APPEND_MAX_CHARS 2047
#define MACHINE_MAX_CHARS 63
#define MESSAGE_MAX_CHARS 4095
#define LABEL_KEY_MAX_CHARS 63
#define LABEL_VALUE_MAX_CHARS 255
#define DISK_SIZE_MAX (UINT64_C(1) << 50)
#define WHERE_SIZE 40 /* "spec.disks[N]" for any N */

static const char *const accelerator_names[] = {"auto", "kvm", "tcg"};
static const char *const firmware_names[] = {"bios", "uefi"};
static const char *const format_names[] = {"raw", "qcow2"};
static const char *const bus_names[] = {"virtio", "scsi", "sata", "ide"};
static const char *const nic_model_names[] = {"virtio", "e1000", "rtl8139"};
static const char *const power_names[] = {"unknown", "stopped", "starting", "running", "paused", "incoming",
        "outgoing-done", "crashed", "suspending", "suspended"};

static_assert(ARRAY_SIZE(accelerator_names) == N_VM_ACCELERATORS);
static_assert(ARRAY_SIZE(firmware_names) == N_VM_FIRMWARES);
static_assert(ARRAY_SIZE(format_names) == N_VM_FORMATS);
static_assert(ARRAY_SIZE(bus_names) == N_VM_BUSES);
static_assert(ARRAY_SIZE(nic_model_names) == N_VM_NIC_MODELS);
static_assert(ARRAY_SIZE(power_names) == N_VM_POWERS);

const char *vm_accelerator_to_string(enum vm_accelerator accelerator)
{
        return accelerator_names[accelerator];
}

const char *vm_power_to_string(enum vm_power power)
{
        return power_names[power];
}

const char *vm_format_to_string(enum vm_format format)
{
        return format_names[format];
}

const char *vm_firmware_to_string(enum vm_firmware firmware)
{
        return firmware_names[firmware];
}

const char *vm_bus_to_string(enum vm_bus bus)
{
        return bus_names[bus];
}

const char *vm_nic_model_to_string(enum vm_nic_model model)
{
        return nic_model_names[model];
}

/* Index of `s` in the table, or -EINVAL. */
static int name_index(const char *const *names, size_t n_names, const char *s)
{
        for (size_t i = 0; i < n_names; i++)
                if (!strcmp(names[i], s))
                        return (int)i;
        return -EINVAL;
}

int vm_accelerator_from_string(const char *s, enum vm_accelerator *ret)
{
        int i = name_index(accelerator_names, N_VM_ACCELERATORS, s);

        if (i < 0)
                return i;
        *ret = (enum vm_accelerator)i;
        return 0;
}

int vm_power_from_string(const char *s, enum vm_power *ret)
{
        int i = name_index(power_names, N_VM_POWERS, s);

        if (i < 0)
                return i;
        *ret = (enum vm_power)i;
        return 0;
}

/* What follows `prefix` in `s`, or NULL. */
static const char *after(const char *s, const char *prefix)
{
        size_t n = strlen(prefix);

        return strncmp(s, prefix, n) ? NULL : s + n;
}

bool vm_machine_is_versioned(const char *machine)
{
        return strcmp(machine, "q35") && strcmp(machine, "pc");
}

bool vm_machine_is_valid(const char *machine)
{
        const char *version = after(machine, "pc-q35-") ?: after(machine, "pc-i440fx-");

        if (!vm_machine_is_versioned(machine))
                return true;
        /* The version goes into an option string of QEMU: text_is_name() has no comma in it. */
        return version && isdigit((unsigned char)*version) && text_is_name(version) &&
               strlen(machine) <= MACHINE_MAX_CHARS;
}

bool vm_config_same_disks(const struct vm_config *a, const struct vm_config *b)
{
        if (a->n_disks != b->n_disks)
                return false;
        for (size_t i = 0; i < a->n_disks; i++)
                if (strcmp(a->disks[i].name, b->disks[i].name) != 0 ||
                        strcmp(a->disks[i].datastore, b->disks[i].datastore) != 0 ||
                        strcmp(a->disks[i].path, b->disks[i].path) != 0)
                        return false;
        return true;
}

enum vm_chipset vm_chipset_of(const char *machine)
{
        return drives_machine_is_q35(machine) ? VM_CHIPSET_Q35 : VM_CHIPSET_PC;
}

bool vm_cpu_model_is_valid(const char *cpu_model)
{
        const char *s = cpu_model;

        if (strlen(cpu_model) > VM_CPU_MODEL_MAX)
                return false;
        for (bool first = true; first || *s == ','; first = false) {
                size_t n;

                if (!first && *++s != '+' && *s != '-')
                        return false;
                s += !first;
                if (!isalnum((unsigned char)*s))
                        return false;
                n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
                s += n;
        }
        return !*s;
}

bool vm_mac_normalise(const char *mac, char ret[static VM_MAC_SIZE])
{
        char text[VM_MAC_SIZE];
        uint8_t bytes[6];
        uint8_t any = 0;

        if (strlen(mac) != VM_MAC_SIZE - 1)
                return false;
        for (size_t i = 0; i < VM_MAC_SIZE - 1; i++) {
                if (i % 3 == 2 ? mac[i] != ':' : !isxdigit((unsigned char)mac[i]))
                        return false;
                text[i] = (char)tolower((unsigned char)mac[i]);
        }
        text[VM_MAC_SIZE - 1] = 0;
        for (size_t i = 0; i < sizeof(bytes); i++) {
                bytes[i] = (uint8_t)strtoul(text + 3 * i, NULL, 16);
                any |= bytes[i];
        }
        if ((bytes[0] & 1) || !any) /* multicast and broadcast, or no address at all */
                return false;
        memcpy(ret, text, VM_MAC_SIZE);
        return true;
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while reading a VM document");
}

static int invalid(
        struct error **ret_error, const char *where, const char *key, const char *hint, const char *what)
{
        return error_set(
                ret_error, ERROR_BAD_DOCUMENT, hint, "field %s%s%s %s", where, *where ? "." : "", key, what);
}

/* Optional string, copied; *ret stays as it is when the field is absent. */
static int copy_string(const json_t *obj, const char *where, const char *key, size_t max_len, char **ret,
        struct error **ret_error)
{
        const char *s = NULL;
        int r = doc_opt_string(obj, where, key, max_len, &s, ret_error);

        if (r < 0 || !s)
                return r;
        return alloc_replace(ret, s) < 0 ? no_memory(ret_error) : 0;
}

/* Optional name of an object. */
static int copy_name(
        const json_t *obj, const char *where, const char *key, char **ret, struct error **ret_error)
{
        int r = copy_string(obj, where, key, NAME_MAX_CHARS, ret, ret_error);

        if (r < 0 || !*ret || text_is_name(*ret))
                return r;
        return invalid(ret_error, where, key,
                "Use up to 63 letters, digits, '.', '_' and '-', with a letter or digit first.",
                "is not a name");
}

/* Optional word out of a table; *ret stays as it is when the field is absent. */
static int read_word(const json_t *obj, const char *where, const char *key, const char *const *names,
        size_t n_names, unsigned int *ret, struct error **ret_error)
{
        const char *s = NULL;
        char hint[128] = "Use one of:";
        int r = doc_opt_string(obj, where, key, NAME_MAX_CHARS, &s, ret_error);

        if (r < 0 || !s)
                return r;
        r = name_index(names, n_names, s);
        if (r >= 0) {
                *ret = (unsigned int)r;
                return 0;
        }
        for (size_t i = 0; i < n_names; i++)
                snprintf(hint + strlen(hint), sizeof(hint) - strlen(hint), " %s", names[i]);
        return invalid(ret_error, where, key, hint, "has an unknown value");
}

static int copy_path(
        const json_t *obj, const char *where, const char *key, char **ret, struct error **ret_error)
{
        int r = copy_string(obj, where, key, PATH_MAX_CHARS, ret, ret_error);

        if (r < 0 || !*ret || text_is_relative_path(*ret))
                return r;
        return invalid(ret_error, where, key,
                "Give a path relative to the datastore, without '.', '..' and control characters.",
                "is not a path inside a datastore");
}

/* {"datastore", "path"}; the datastore may be absent here, see set_default_datastores(). */
static int read_file(
        const json_t *obj, const char *where, const char *key, struct vm_file *ret, struct error **ret_error)
{
        static const char *const keys[] = {"datastore", "path", NULL};
        char here[WHERE_SIZE];
        json_t *file = NULL;
        int r = doc_opt_object(obj, where, key, &file, ret_error);

        if (r < 0 || !file)
                return r;
        snprintf(here, sizeof(here), "%s.%s", where, key);
        if ((r = doc_only_keys(file, here, keys, ret_error)) < 0 ||
                (r = copy_name(file, here, "datastore", &ret->datastore, ret_error)) < 0 ||
                (r = copy_path(file, here, "path", &ret->path, ret_error)) < 0)
                return r;
        return ret->path ? 0 : invalid(ret_error, here, "path", NULL, "is missing");
}

static int read_boot(struct vm_config *config, const json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"kernel", "initrd", "append", NULL};
        const char *where = "spec.boot";
        json_t *boot = NULL;
        int r = doc_opt_object(spec, "spec", "boot", &boot, ret_error);

        if (r < 0 || !boot)
                return r;
        if ((r = doc_only_keys(boot, where, keys, ret_error)) < 0 ||
                (r = read_file(boot, where, "kernel", &config->kernel, ret_error)) < 0 ||
                (r = read_file(boot, where, "initrd", &config->initrd, ret_error)) < 0 ||
                (r = copy_string(boot, where, "append", APPEND_MAX_CHARS, &config->append, ret_error)) < 0)
                return r;
        if (!config->kernel.path && (config->initrd.path || config->append))
                return invalid(ret_error, where, "kernel", "Name a kernel, or leave initrd and append out.",
                        "is missing");
        return 0;
}

static int read_disk(struct vm_config *config, const json_t *json, size_t index, struct error **ret_error)
{
        static const char *const keys[] = {
                "name", "datastore", "path", "size_bytes", "format", "bus", "read_only", NULL};
        struct vm_disk *disk = &config->disks[index];
        unsigned int format = VM_FORMAT_QCOW2, bus = VM_BUS_VIRTIO;
        char where[WHERE_SIZE];
        int r;

        snprintf(where, sizeof(where), "spec.disks[%zu]", index);
        if ((r = doc_only_keys(json, where, keys, ret_error)) < 0 ||
                (r = copy_name(json, where, "name", &disk->name, ret_error)) < 0 ||
                (r = copy_name(json, where, "datastore", &disk->datastore, ret_error)) < 0 ||
                (r = copy_path(json, where, "path", &disk->path, ret_error)) < 0 ||
                (r = doc_opt_u64(
                         json, where, "size_bytes", 512, DISK_SIZE_MAX, &disk->size_bytes, ret_error)) < 0 ||
                (r = read_word(json, where, "format", format_names, N_VM_FORMATS, &format, ret_error)) < 0 ||
                (r = read_word(json, where, "bus", bus_names, N_VM_BUSES, &bus, ret_error)) < 0 ||
                (r = doc_opt_bool(json, where, "read_only", &disk->read_only, ret_error)) < 0)
                return r;
        disk->format = (enum vm_format)format;
        disk->bus = (enum vm_bus)bus;
        if (disk->size_bytes % 512)
                return invalid(ret_error, where, "size_bytes", NULL, "is not a multiple of 512");
        if (disk->read_only && (disk->bus == VM_BUS_SATA || disk->bus == VM_BUS_IDE))
                return invalid(ret_error, where, "read_only", "Use the bus virtio or scsi for it.",
                        "is not possible: SATA and IDE know no read-only disks");
        if (!disk->name && !(disk->name = alloc_printf("disk%zu", index)))
                return no_memory(ret_error);
        if (!disk->path && !(disk->path = alloc_printf(
                                     "%s/%s.%s", config->name, disk->name, format_names[disk->format])))
                return no_memory(ret_error);
        return 0;
}

static int read_disks(struct vm_config *config, const json_t *spec, struct error **ret_error)
{
        json_t *disks = NULL;
        int r = doc_opt_array(spec, "spec", "disks", VM_DISKS_MAX, &disks, ret_error);

        if (r < 0 || !disks)
                return r;
        config->disks = alloc_array(json_array_size(disks), sizeof(*config->disks));
        if (!config->disks)
                return no_memory(ret_error);
        config->n_disks = json_array_size(disks);
        for (size_t i = 0; i < config->n_disks; i++)
                if ((r = read_disk(config, json_array_get(disks, i), i, ret_error)) < 0)
                        return r;
        return 0;
}

static int read_nic(struct vm_nic *nic, const json_t *json, const char *where, struct error **ret_error)
{
        static const char *const keys[] = {"port_group", "mac", "model", NULL};
        unsigned int model = VM_NIC_VIRTIO;
        const char *mac = NULL;
        int r;

        if ((r = doc_only_keys(json, where, keys, ret_error)) < 0 ||
                (r = copy_name(json, where, "port_group", &nic->port_group, ret_error)) < 0 ||
                (r = doc_opt_string(json, where, "mac", VM_MAC_SIZE - 1, &mac, ret_error)) < 0 ||
                (r = read_word(json, where, "model", nic_model_names, N_VM_NIC_MODELS, &model, ret_error)) <
                        0)
                return r;
        if (!nic->port_group)
                return invalid(ret_error, where, "port_group", NULL, "is missing");
        if (mac && !vm_mac_normalise(mac, nic->mac))
                return invalid(ret_error, where, "mac",
                        "Give it like 52:54:00:12:34:56, or leave it out to have one chosen.",
                        "is not a unicast Ethernet address");
        nic->model = (enum vm_nic_model)model;
        return 0;
}

static int read_nics(struct vm_config *config, const json_t *spec, struct error **ret_error)
{
        json_t *nics = NULL;
        int r = doc_opt_array(spec, "spec", "nics", VM_NICS_MAX, &nics, ret_error);

        if (r < 0 || !nics)
                return r;
        config->nics = alloc_array(json_array_size(nics), sizeof(*config->nics));
        if (!config->nics)
                return no_memory(ret_error);
        config->n_nics = json_array_size(nics);
        for (size_t i = 0; i < config->n_nics; i++) {
                char where[WHERE_SIZE];

                snprintf(where, sizeof(where), "spec.nics[%zu]", i);
                if ((r = read_nic(&config->nics[i], json_array_get(nics, i), where, ret_error)) < 0)
                        return r;
        }
        return 0;
}

static bool label_key_is_valid(const char *key)
{
        size_t n = strspn(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-");

        return n && !key[n] && n <= LABEL_KEY_MAX_CHARS;
}

static int read_labels(struct vm_config *config, const json_t *spec, struct error **ret_error)
{
        json_t *labels = NULL, *value;
        const char *key;
        int r = doc_opt_object(spec, "spec", "labels", &labels, ret_error);

        if (r < 0)
                return r;
        config->labels = torture_point() ? NULL : labels ? json_deep_copy(labels) : json_object();
        if (!config->labels)
                return no_memory(ret_error);
        if (json_object_size(config->labels) > VM_LABELS_MAX)
                return invalid(ret_error, "spec", "labels", NULL, "has too many items");
        json_object_foreach (config->labels, key, value) {
                const char *s;

                if (!label_key_is_valid(key))
                        return invalid(ret_error, "spec", "labels",
                                "Use up to 63 letters, digits, '.', '_', '/' and '-' as the key.",
                                "has a key that is not valid");
                if ((r = doc_need_string(
                             config->labels, "spec.labels", key, LABEL_VALUE_MAX_CHARS, &s, ret_error)) < 0)
                        return r;
        }
        return 0;
}

static int read_machine(struct vm_config *config, const json_t *spec, struct error **ret_error)
{
        unsigned int accelerator = VM_ACCELERATOR_AUTO, firmware = VM_FIRMWARE_BIOS;
        int r;

        if ((r = copy_string(spec, "spec", "machine", MACHINE_MAX_CHARS, &config->machine, ret_error)) < 0 ||
                (r = copy_string(
                         spec, "spec", "cpu_model", VM_CPU_MODEL_MAX, &config->cpu_model, ret_error)) < 0 ||
                (r = read_word(spec, "spec", "accelerator", accelerator_names, N_VM_ACCELERATORS,
                         &accelerator, ret_error)) < 0 ||
                (r = read_word(
                         spec, "spec", "firmware", firmware_names, N_VM_FIRMWARES, &firmware, ret_error)) < 0)
                return r;
        config->accelerator = (enum vm_accelerator)accelerator;
        config->firmware = (enum vm_firmware)firmware;
        if ((!config->machine && alloc_replace(&config->machine, "q35") < 0) ||
                (!config->cpu_model && alloc_replace(&config->cpu_model, "auto") < 0))
                return no_memory(ret_error);
        if (!vm_machine_is_valid(config->machine))
                return invalid(ret_error, "spec", "machine",
                        "Use q35, pc, or a versioned name such as pc-q35-7.2.", "is not a machine type");
        if (!vm_cpu_model_is_valid(config->cpu_model))
                return invalid(ret_error, "spec", "cpu_model",
                        "Use auto, or a model that QEMU knows, optionally with ,+FEATURE and ,-FEATURE.",
                        "is not a CPU model");
        return 0;
}

/* One owned copy where the document left the datastore out. */
static int default_datastore(char **datastore, const char *from, struct error **ret_error)
{
        if (*datastore)
                return 0;
        return alloc_replace(datastore, from) < 0 ? no_memory(ret_error) : 0;
}

/* The folder is where the first disk is, unless it is said; everything else is where the folder is. */
static int set_default_datastores(struct vm_config *config, struct error **ret_error)
{
        struct vm_file *files[] = {&config->kernel, &config->initrd, &config->cdrom};
        int r;

        if (!config->datastore && config->n_disks && config->disks[0].datastore &&
                alloc_replace(&config->datastore, config->disks[0].datastore) < 0)
                return no_memory(ret_error);
        if (!config->datastore)
                return invalid(ret_error, "spec", "datastore",
                        "Name the datastore of the VM's folder, or that of its first disk.", "is missing");
        for (size_t i = 0; i < config->n_disks; i++)
                if ((r = default_datastore(&config->disks[i].datastore, config->datastore, ret_error)) < 0)
                        return r;
        for (size_t i = 0; i < ARRAY_SIZE(files); i++)
                if (files[i]->path &&
                        (r = default_datastore(&files[i]->datastore, config->datastore, ret_error)) < 0)
                        return r;
        return 0;
}

static int check_disks(const struct vm_config *config, struct error **ret_error)
{
        size_t n_on[N_VM_BUSES] = {0};

        for (size_t i = 0; i < config->n_disks; i++) {
                const struct vm_disk *disk = &config->disks[i];

                n_on[disk->bus]++;
                for (size_t j = 0; j < i; j++) {
                        const struct vm_disk *other = &config->disks[j];

                        if (!strcmp(disk->name, other->name))
                                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                        "Give each disk its own name.",
                                        "spec.disks[%zu] and spec.disks[%zu] are both named %s", j, i,
                                        disk->name);
                        if (!strcmp(disk->datastore, other->datastore) && !strcmp(disk->path, other->path))
                                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                        "Give each disk its own image.",
                                        "spec.disks[%zu] and spec.disks[%zu] are both the image %s on %s", j,
                                        i, disk->path, disk->datastore);
                }
        }
        return drives_check(&(struct drives){.machine = config->machine,
                                    .cdrom = config->cdrom.path != NULL,
                                    .n_ide = n_on[VM_BUS_IDE],
                                    .n_sata = n_on[VM_BUS_SATA]},
                ret_error);
}

static int check_nics(const struct vm_config *config, struct error **ret_error)
{
        for (size_t i = 0; i < config->n_nics; i++)
                for (size_t j = 0; j < i; j++)
                        if (*config->nics[i].mac && !strcmp(config->nics[i].mac, config->nics[j].mac))
                                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                                        "Give each NIC its own address.",
                                        "spec.nics[%zu] and spec.nics[%zu] both have the MAC address %s", j,
                                        i, config->nics[i].mac);
        return 0;
}

static int read_spec(struct vm_config *config, const json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"cpus", "memory_bytes", "machine", "cpu_model", "accelerator",
                "firmware", "datastore", "boot", "disks", "cdrom", "nics", "rng", "balloon",
                "free_page_reporting", "guest_agent", "labels", NULL};
        uint64_t cpus = 1;
        int r;

        config->rng = config->balloon = config->guest_agent = true;
        if ((r = doc_only_keys(spec, "spec", keys, ret_error)) < 0 ||
                (r = doc_opt_u64(spec, "spec", "cpus", 1, VM_CPUS_MAX, &cpus, ret_error)) < 0 ||
                (r = doc_need_u64(spec, "spec", "memory_bytes", VM_MEMORY_MIN, VM_MEMORY_MAX,
                         &config->memory_bytes, ret_error)) < 0 ||
                (r = read_machine(config, spec, ret_error)) < 0 ||
                (r = copy_name(spec, "spec", "datastore", &config->datastore, ret_error)) < 0 ||
                (r = read_boot(config, spec, ret_error)) < 0 ||
                (r = read_disks(config, spec, ret_error)) < 0 ||
                (r = read_file(spec, "spec", "cdrom", &config->cdrom, ret_error)) < 0 ||
                (r = read_nics(config, spec, ret_error)) < 0 ||
                (r = doc_opt_bool(spec, "spec", "rng", &config->rng, ret_error)) < 0 ||
                (r = doc_opt_bool(spec, "spec", "balloon", &config->balloon, ret_error)) < 0 ||
                (r = doc_opt_bool(
                         spec, "spec", "free_page_reporting", &config->free_page_reporting, ret_error)) < 0 ||
                (r = doc_opt_bool(spec, "spec", "guest_agent", &config->guest_agent, ret_error)) < 0 ||
                (r = read_labels(config, spec, ret_error)) < 0)
                return r;
        config->cpus = (unsigned int)cpus;
        if (config->free_page_reporting && !config->balloon)
                return invalid(ret_error, "spec", "free_page_reporting", NULL, "needs the balloon");
        if (config->memory_bytes % 4096)
                return invalid(ret_error, "spec", "memory_bytes", NULL, "is not a multiple of 4096");
        if ((r = set_default_datastores(config, ret_error)) < 0 || (r = check_disks(config, ret_error)) < 0)
                return r;
        return check_nics(config, ret_error);
}

static int read_status(struct vm_config *config, const json_t *document, struct error **ret_error)
{
        static const char *const keys[] = {"power", "host", "owner_epoch", "machine", "cpu_model",
                "accelerator", "memory_effective_bytes", "qemu_version", "message", NULL};
        struct vm_status *status = &config->status;
        unsigned int power = VM_POWER_UNKNOWN, accelerator = VM_ACCELERATOR_AUTO;
        json_t *json = NULL;
        int r = doc_opt_object(document, "", "status", &json, ret_error);

        if (r < 0 || !json)
                return r;
        if ((r = doc_only_keys(json, "status", keys, ret_error)) < 0 ||
                (r = read_word(json, "status", "power", power_names, N_VM_POWERS, &power, ret_error)) < 0 ||
                (r = copy_name(json, "status", "host", &status->host, ret_error)) < 0 ||
                (r = doc_opt_u64(
                         json, "status", "owner_epoch", 0, INT64_MAX, &status->owner_epoch, ret_error)) < 0 ||
                (r = copy_string(json, "status", "machine", MACHINE_MAX_CHARS, &status->machine, ret_error)) <
                        0 ||
                (r = copy_string(
                         json, "status", "cpu_model", VM_CPU_MODEL_MAX, &status->cpu_model, ret_error)) < 0 ||
                (r = read_word(json, "status", "accelerator", accelerator_names, N_VM_ACCELERATORS,
                         &accelerator, ret_error)) < 0 ||
                (r = doc_opt_u64(json, "status", "memory_effective_bytes", 0, VM_MEMORY_MAX * 2,
                         &status->memory_effective_bytes, ret_error)) < 0 ||
                (r = copy_string(json, "status", "qemu_version", NAME_MAX_CHARS, &status->qemu_version,
                         ret_error)) < 0 ||
                (r = copy_string(json, "status", "message", MESSAGE_MAX_CHARS, &status->message, ret_error)) <
                        0)
                return r;
        if (status->machine &&
                (!vm_machine_is_valid(status->machine) || !vm_machine_is_versioned(status->machine)))
                return invalid(ret_error, "status", "machine", NULL, "is not a versioned machine type");
        if (status->cpu_model && !vm_cpu_model_is_valid(status->cpu_model))
                return invalid(ret_error, "status", "cpu_model", NULL, "is not a CPU model");
        status->power = (enum vm_power)power;
        status->accelerator = (enum vm_accelerator)accelerator;
        config->has_status = true;
        return 0;
}

static int read_head(struct vm_config *config, const json_t *document, struct error **ret_error)
{
        static const char *const keys[] = {"kind", "name", "uid", "revision", "spec", "status", NULL};
        const char *kind = "vm";
        int r;

        if ((r = doc_only_keys(document, "", keys, ret_error)) < 0 ||
                (r = doc_opt_string(document, "", "kind", NAME_MAX_CHARS, &kind, ret_error)) < 0 ||
                (r = copy_name(document, "", "name", &config->name, ret_error)) < 0 ||
                (r = copy_string(document, "", "uid", UUID_STRING_SIZE - 1, &config->uid, ret_error)) < 0 ||
                (r = doc_opt_u64(document, "", "revision", 0, INT64_MAX, &config->revision, ret_error)) < 0)
                return r;
        if (strcmp(kind, "vm"))
                return invalid(ret_error, "", "kind", NULL, "must be \"vm\"");
        if (!config->name)
                return invalid(ret_error, "", "name", NULL, "is missing");
        if (config->uid && !text_is_uuid(config->uid))
                return invalid(ret_error, "", "uid", NULL, "is not a lower-case UUID");
        return 0;
}

int vm_config_from_json(const json_t *document, struct vm_config **ret_config, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = ALLOC(struct vm_config);
        json_t *spec = NULL;
        int r;

        if (!config)
                return no_memory(ret_error);
        if ((r = read_head(config, document, ret_error)) < 0 ||
                (r = doc_opt_object(document, "", "spec", &spec, ret_error)) < 0)
                return r;
        if (!spec)
                return invalid(ret_error, "", "spec", NULL, "is missing");
        if ((r = read_spec(config, spec, ret_error)) < 0 ||
                (r = read_status(config, document, ret_error)) < 0)
                return r;
        *ret_config = TAKE_PTR(config);
        return 0;
}

/* Writing: an object is given up as a whole when one member cannot be made. json_object_set_new() frees the
 * value and fails for a NULL value or object, so that failures add up in *failed. */
static void put(json_t *obj, const char *key, json_t *value, bool *failed)
{
        *failed |= json_object_set_new(obj, key, value) < 0;
}

static void put_string(json_t *obj, const char *key, const char *s, bool *failed)
{
        put(obj, key, s ? json_string(s) : json_null(), failed);
}

static void put_u64(json_t *obj, const char *key, uint64_t n, bool *failed)
{
        put(obj, key, json_integer((json_int_t)n), failed);
}

static json_t *file_to_json(const struct vm_file *file, bool *failed)
{
        json_t *json = json_object();

        put_string(json, "datastore", file->datastore, failed);
        put_string(json, "path", file->path, failed);
        return json;
}

static json_t *boot_to_json(const struct vm_config *config, bool *failed)
{
        json_t *json = json_object();

        put(json, "kernel", file_to_json(&config->kernel, failed), failed);
        if (config->initrd.path)
                put(json, "initrd", file_to_json(&config->initrd, failed), failed);
        if (config->append)
                put_string(json, "append", config->append, failed);
        return json;
}

static json_t *disks_to_json(const struct vm_config *config, bool *failed)
{
        json_t *json = json_array();

        for (size_t i = 0; i < config->n_disks; i++) {
                const struct vm_disk *disk = &config->disks[i];
                json_t *item = json_object();

                put_string(item, "name", disk->name, failed);
                put_string(item, "datastore", disk->datastore, failed);
                put_string(item, "path", disk->path, failed);
                if (disk->size_bytes)
                        put_u64(item, "size_bytes", disk->size_bytes, failed);
                put_string(item, "format", format_names[disk->format], failed);
                put_string(item, "bus", bus_names[disk->bus], failed);
                put(item, "read_only", json_boolean(disk->read_only), failed);
                *failed |= json_array_append_new(json, item) < 0;
        }
        return json;
}

static json_t *nics_to_json(const struct vm_config *config, bool *failed)
{
        json_t *json = json_array();

        for (size_t i = 0; i < config->n_nics; i++) {
                const struct vm_nic *nic = &config->nics[i];
                json_t *item = json_object();

                put_string(item, "port_group", nic->port_group, failed);
                if (*nic->mac)
                        put_string(item, "mac", nic->mac, failed);
                put_string(item, "model", nic_model_names[nic->model], failed);
                *failed |= json_array_append_new(json, item) < 0;
        }
        return json;
}

static json_t *spec_to_json(const struct vm_config *config, bool *failed)
{
        json_t *json = json_object();

        put_u64(json, "cpus", config->cpus, failed);
        put_u64(json, "memory_bytes", config->memory_bytes, failed);
        put_string(json, "machine", config->machine, failed);
        put_string(json, "cpu_model", config->cpu_model, failed);
        put_string(json, "accelerator", accelerator_names[config->accelerator], failed);
        put_string(json, "firmware", firmware_names[config->firmware], failed);
        put_string(json, "datastore", config->datastore, failed);
        if (config->kernel.path)
                put(json, "boot", boot_to_json(config, failed), failed);
        put(json, "disks", disks_to_json(config, failed), failed);
        if (config->cdrom.path)
                put(json, "cdrom", file_to_json(&config->cdrom, failed), failed);
        put(json, "nics", nics_to_json(config, failed), failed);
        put(json, "rng", json_boolean(config->rng), failed);
        put(json, "balloon", json_boolean(config->balloon), failed);
        if (config->free_page_reporting) /* agents of before know no such field */
                put(json, "free_page_reporting", json_true(), failed);
        put(json, "guest_agent", json_boolean(config->guest_agent), failed);
        put(json, "labels", json_deep_copy(config->labels), failed);
        return json;
}

static json_t *status_to_json(const struct vm_status *status, bool *failed)
{
        json_t *json = json_object();

        put_string(json, "power", power_names[status->power], failed);
        put_string(json, "host", status->host, failed);
        put_u64(json, "owner_epoch", status->owner_epoch, failed);
        put_string(json, "machine", status->machine, failed);
        put_string(json, "cpu_model", status->cpu_model, failed);
        put_string(json, "accelerator", accelerator_names[status->accelerator], failed);
        put_u64(json, "memory_effective_bytes", status->memory_effective_bytes, failed);
        put_string(json, "qemu_version", status->qemu_version, failed);
        put_string(json, "message", status->message, failed);
        return json;
}

json_t *vm_config_to_json(const struct vm_config *config)
{
        bool failed = torture_point();
        json_t *json = json_object();

        put_string(json, "kind", "vm", &failed);
        put_string(json, "name", config->name, &failed);
        if (config->uid)
                put_string(json, "uid", config->uid, &failed);
        if (config->revision)
                put_u64(json, "revision", config->revision, &failed);
        put(json, "spec", spec_to_json(config, &failed), &failed);
        if (config->has_status)
                put(json, "status", status_to_json(&config->status, &failed), &failed);
        if (failed) {
                json_decref(json);
                return NULL;
        }
        return json;
}

static void file_deinit(struct vm_file *file)
{
        free(file->datastore);
        free(file->path);
}

static void status_deinit(struct vm_status *status)
{
        free(status->host);
        free(status->machine);
        free(status->cpu_model);
        free(status->qemu_version);
        free(status->message);
}

void vm_config_free(struct vm_config *config)
{
        if (!config)
                return;
        for (size_t i = 0; i < config->n_disks; i++) {
                free(config->disks[i].name);
                free(config->disks[i].datastore);
                free(config->disks[i].path);
        }
        for (size_t i = 0; i < config->n_nics; i++)
                free(config->nics[i].port_group);
        free(config->disks);
        free(config->nics);
        file_deinit(&config->kernel);
        file_deinit(&config->initrd);
        file_deinit(&config->cdrom);
        status_deinit(&config->status);
        json_decref(config->labels);
        free(config->append);
        free(config->datastore);
        free(config->cpu_model);
        free(config->machine);
        free(config->uid);
        free(config->name);
        free(config);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/vm_spec.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/drives.h"
#include "base/mac.h"
#include "base/text.h"
#include "manager/json.h"

#define CPUS_MAX 255
#define MEMORY_MIN (16ull << 20)
#define MEMORY_MAX (16ull << 40)
#define DISKS_MAX 64
#define NICS_MAX 16
#define APPEND_MAX 4096
#define CPU_MODEL_MAX 511
#define LABELS_MAX 64
#define LABEL_KEY_MAX_CHARS 63
#define LABEL_VALUE_MAX_CHARS 255
#define DISK_MAX_BYTES (8ull << 50)

static int bad_value(
        struct error **ret_error, const char *where, const char *key, const char *value, const char *allowed)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s.%s is \"%.64s\", allowed is %s",
                where, key, value, allowed);
}

static int check_name(
        const json_t *obj, const char *where, const char *key, bool needed, struct error **ret_error)
{
        const char *name = NULL;
        int r;

        r = needed ? doc_need_string(obj, where, key, NAME_MAX_CHARS, &name, ret_error)
                   : doc_opt_string(obj, where, key, NAME_MAX_CHARS, &name, ret_error);
        if (r >= 0 && name && !text_is_name(name))
                r = bad_value(ret_error, where, key, name, "a name");
        return r;
}

/* `words` is a NULL-terminated list. */
static int check_word(const json_t *obj, const char *where, const char *key, const char *const *words,
        const char *allowed, struct error **ret_error)
{
        const char *word = NULL;
        int r;

        r = doc_opt_string(obj, where, key, 64, &word, ret_error);
        if (r < 0 || !word)
                return r;
        for (; *words; words++)
                if (!strcmp(*words, word))
                        return 0;
        return bad_value(ret_error, where, key, word, allowed);
}

bool vm_spec_path_is_record(const char *path)
{
        static const char *const names[] = {"vm.json", "owner.json", "owner.lock", "nvram.fd", "serial.log",
                "suspend.json", "storage-move.json"};
        const char *name = strrchr(path, '/'), *end;

        name = name ? name + 1 : path;
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (!strncasecmp(names[i], name, strlen(names[i])))
                        return true;
        end = strrchr(name, '.');
        return end && !strncasecmp(name, "suspend.", 8) && !strcasecmp(end, ".state");
}

static int check_path(const json_t *obj, const char *where, bool needed, struct error **ret_error)
{
        const char *path = NULL;
        int r;

        r = needed ? doc_need_string(obj, where, "path", 255, &path, ret_error)
                   : doc_opt_string(obj, where, "path", 255, &path, ret_error);
        if (r >= 0 && path && !text_is_relative_path(path))
                r = bad_value(ret_error, where, "path", path, "a path inside the datastore");
        /* As a disk they could be written by a guest: who owns a virtual machine would be its word. */
        if (r >= 0 && path && vm_spec_path_is_record(path))
                r = bad_value(ret_error, where, "path", path, "a disk, not a record of a virtual machine");
        return r;
}

static int check_file(
        const json_t *parent, const char *parent_where, const char *key, struct error **ret_error)
{
        static const char *const keys[] = {"datastore", "path", NULL};
        json_t *file = NULL;
        char where[64];
        int r;

        snprintf(where, sizeof(where), "%s.%s", parent_where, key);
        r = doc_opt_object(parent, parent_where, key, &file, ret_error);
        if (r < 0 || !file)
                return r;
        r = doc_only_keys(file, where, keys, ret_error);
        if (r >= 0)
                r = check_name(file, where, "datastore", false, ret_error);
        return r < 0 ? r : check_path(file, where, true, ret_error);
}

static int check_boot(const json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"kernel", "initrd", "append", NULL};
        const char *append = NULL;
        json_t *boot = NULL;
        int r;

        r = doc_opt_object(spec, "spec", "boot", &boot, ret_error);
        if (r < 0 || !boot)
                return r;
        r = doc_only_keys(boot, "spec.boot", keys, ret_error);
        if (r >= 0)
                r = check_file(boot, "spec.boot", "kernel", ret_error);
        if (r >= 0)
                r = check_file(boot, "spec.boot", "initrd", ret_error);
        return r < 0 ? r : doc_opt_string(boot, "spec.boot", "append", APPEND_MAX, &append, ret_error);
}

static int check_disk(const json_t *disk, const char *where, struct error **ret_error)
{
        static const char *const keys[] = {
                "name", "datastore", "path", "size_bytes", "format", "bus", "read_only", NULL};
        static const char *const formats[] = {"raw", "qcow2", NULL};
        static const char *const buses[] = {"virtio", "scsi", "sata", "ide", NULL};
        uint64_t size = 0;
        bool read_only;
        int r;

        r = doc_only_keys(disk, where, keys, ret_error);
        if (r >= 0)
                r = check_name(disk, where, "name", false, ret_error);
        if (r >= 0)
                r = check_name(disk, where, "datastore", false, ret_error);
        if (r >= 0)
                r = check_path(disk, where, false, ret_error);
        if (r >= 0)
                r = doc_opt_u64(disk, where, "size_bytes", 512, DISK_MAX_BYTES, &size, ret_error);
        if (r >= 0)
                r = check_word(disk, where, "format", formats, "raw or qcow2", ret_error);
        if (r >= 0)
                r = check_word(disk, where, "bus", buses, "virtio, scsi, sata or ide", ret_error);
        return r < 0 ? r : doc_opt_bool(disk, where, "read_only", &read_only, ret_error);
}

static int check_nic(const json_t *nic, const char *where, struct error **ret_error)
{
        static const char *const keys[] = {"port_group", "mac", "model", NULL};
        static const char *const models[] = {"virtio", "e1000", "rtl8139", NULL};
        uint8_t raw[MAC_SIZE];
        const char *mac = NULL;
        int r;

        r = doc_only_keys(nic, where, keys, ret_error);
        if (r >= 0)
                r = check_name(nic, where, "port_group", true, ret_error);
        if (r >= 0)
                r = doc_opt_string(nic, where, "mac", 32, &mac, ret_error);
        if (r >= 0 && mac && (mac_parse(mac, raw) < 0 || !mac_is_unicast(raw)))
                r = bad_value(ret_error, where, "mac", mac, "a unicast MAC address");
        return r < 0 ? r : check_word(nic, where, "model", models, "virtio, e1000 or rtl8139", ret_error);
}

static int check_each(const json_t *spec, const char *key, size_t max,
        int (*check)(const json_t *item, const char *where, struct error **ret_error),
        struct error **ret_error)
{
        json_t *array = NULL, *item;
        char where[64];
        size_t i;
        int r;

        r = doc_opt_array(spec, "spec", key, max, &array, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (array, i, item) {
                snprintf(where, sizeof(where), "spec.%s[%zu]", key, i);
                r = check(item, where, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int check_scalars(const json_t *spec, struct error **ret_error)
{
        static const char *const accelerators[] = {"auto", "kvm", "tcg", NULL};
        static const char *const firmwares[] = {"bios", "uefi", NULL};
        static const char *const flags[] = {"rng", "balloon", "free_page_reporting", "guest_agent"};
        uint64_t cpus = 1, memory = 0;
        const char *text = NULL;
        bool flag;
        int r;

        r = doc_opt_u64(spec, "spec", "cpus", 1, CPUS_MAX, &cpus, ret_error);
        if (r >= 0)
                r = doc_need_u64(spec, "spec", "memory_bytes", MEMORY_MIN, MEMORY_MAX, &memory, ret_error);
        if (r >= 0 && memory % 4096)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.memory_bytes must be a multiple of 4096");
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "machine", 64, &text, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "cpu_model", CPU_MODEL_MAX, &text, ret_error);
        if (r >= 0)
                r = check_word(spec, "spec", "accelerator", accelerators, "auto, kvm or tcg", ret_error);
        if (r >= 0)
                r = check_word(spec, "spec", "firmware", firmwares, "bios or uefi", ret_error);
        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(flags); i++)
                r = doc_opt_bool(spec, "spec", flags[i], &flag, ret_error);
        if (r >= 0 && json_is_true(json_object_get(spec, "free_page_reporting")) &&
                json_is_false(json_object_get(spec, "balloon")))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Leave out one of the two.",
                        "field spec.free_page_reporting needs the balloon, and spec.balloon is false");
        return r;
}

static bool is_label_key(const char *key)
{
        size_t n = strspn(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/-");

        return n && !key[n] && n <= LABEL_KEY_MAX_CHARS;
}

static int check_labels(const json_t *spec, struct error **ret_error)
{
        json_t *labels = NULL, *value;
        const char *key, *text;
        int r = doc_opt_object(spec, "spec", "labels", &labels, ret_error);

        if (r >= 0 && json_object_size(labels) > LABELS_MAX)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec.labels has more than %d items",
                        LABELS_MAX);
        json_object_foreach (labels, key, value) {
                if (r >= 0 && !is_label_key(key))
                        r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                                "Use up to 63 letters, digits, '.', '_', '/' and '-'.",
                                "field spec.labels: %.64s cannot be used as a label", key);
                if (r >= 0)
                        r = doc_need_string(
                                labels, "spec.labels", key, LABEL_VALUE_MAX_CHARS, &text, ret_error);
        }
        return r;
}

/* The machine that an agent takes when none is named is q35. */
static int check_drives(const json_t *spec, struct error **ret_error)
{
        struct drives drives = {.machine = json_text_or_null(spec, "machine") ?: "q35",
                .cdrom = json_is_object(json_object_get(spec, "cdrom"))};
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(spec, "disks"), i, disk) {
                drives.n_ide += !strcmp(json_text(disk, "bus"), "ide");
                drives.n_sata += !strcmp(json_text(disk, "bus"), "sata");
        }
        return drives_check(&drives, ret_error);
}

int vm_spec_check(const json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"cpus", "memory_bytes", "machine", "cpu_model", "accelerator",
                "firmware", "datastore", "boot", "disks", "cdrom", "nics", "rng", "balloon",
                "free_page_reporting", "guest_agent", "labels", NULL};
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = check_scalars(spec, ret_error);
        if (r >= 0)
                r = check_labels(spec, ret_error);
        if (r >= 0)
                r = check_name(spec, "spec", "datastore", false, ret_error);
        if (r >= 0)
                r = check_boot(spec, ret_error);
        if (r >= 0)
                r = check_file(spec, "spec", "cdrom", ret_error);
        if (r >= 0)
                r = check_each(spec, "disks", DISKS_MAX, check_disk, ret_error);
        if (r >= 0)
                r = check_each(spec, "nics", NICS_MAX, check_nic, ret_error);
        if (r >= 0)
                r = check_drives(spec, ret_error);
        if (r >= 0 && !json_text_or_null(spec, "datastore") &&
                !json_array_size(json_object_get(spec, "disks")))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Name the datastore for the VM's folder in spec.datastore.",
                        "the virtual machine has neither a disk nor a datastore");
        return r;
}

int vm_spec_fill(json_t *spec, struct error **ret_error)
{
        const json_t *wanted = json_object_get(spec, "free_page_reporting");
        bool on = wanted ? json_is_true(wanted) : !json_is_false(json_object_get(spec, "balloon"));

        /* "Off" is left out: agents of before know no such field. */
        json_object_del(spec, "free_page_reporting");
        return !on || json_object_set_new(spec, "free_page_reporting", json_true()) == 0
                       ? 0
                       : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

struct taken {
        const json_t *vms;
        const json_t *spec;
        const json_t *except; /* NIC */
};

static bool has_mac(const json_t *spec, const char *mac, const json_t *except)
{
        json_t *nic;
        size_t i;

        json_array_foreach (json_object_get(spec, "nics"), i, nic)
                if (nic != except && !strcasecmp(json_text(nic, "mac"), mac))
                        return true;
        return false;
}

static bool is_taken(void *userdata, const char *mac)
{
        const struct taken *taken = userdata;
        json_t *vm;
        size_t i;

        if (has_mac(taken->spec, mac, taken->except))
                return true;
        json_array_foreach ((json_t *)taken->vms, i, vm)
                if (has_mac(json_spec(vm), mac, NULL))
                        return true;
        return false;
}

static int assign(json_t *nic, struct taken *taken, struct error **ret_error)
{
        const char *wanted = json_text_or_null(nic, "mac");
        uint8_t raw[MAC_SIZE];
        char mac[MAC_STRING_SIZE];
        uint32_t hint = 0;

        taken->except = nic;
        if (wanted) {
                if (mac_parse(wanted, raw) < 0)
                        return bad_value(ret_error, "spec.nics", "mac", wanted, "a MAC address");
                if (is_taken(taken, mac_format(raw, mac)))
                        return error_set(ret_error, ERROR_CONFLICT, "Leave it out to be given a free one.",
                                "the MAC address %s is in use in this cluster", mac);
        } else {
                if (getrandom(&hint, sizeof(hint), 0) != sizeof(hint))
                        return error_set(ret_error, ERROR_INTERNAL, NULL, "there are no random numbers");
                if (mac_next_free(hint, is_taken, taken, raw) < 0)
                        return error_set(ret_error, ERROR_NO_RESOURCES, NULL, "no MAC address is free");
                mac_format(raw, mac);
        }
        if (json_object_set_new(nic, "mac", json_string(mac)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

int vm_spec_assign_macs(json_t *spec, const json_t *vms, struct error **ret_error)
{
        struct taken taken = {.vms = vms, .spec = spec};
        json_t *nic;
        size_t i;
        int r;

        json_array_foreach (json_object_get(spec, "nics"), i, nic) {
                r = assign(nic, &taken, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* --- What an agent filled in ------------------------------------------------------------------------------------- */

static bool has(const json_t *obj, const char *key)
{
        const json_t *value = json_object_get(obj, key);

        return value && !json_is_null(value);
}

/* `keys` is a NULL-terminated list. */
static int fill(json_t *obj, const json_t *from, const char *const *keys)
{
        for (; json_is_object(obj) && *keys; keys++)
                if (!has(obj, *keys) && has(from, *keys) &&
                        json_object_set(obj, *keys, json_object_get(from, *keys)) < 0)
                        return -ENOMEM;
        return 0;
}

bool vm_spec_path_is_own(const char *vm_name, const char *path)
{
        size_t n = strlen(vm_name);

        return n && !strncmp(path, vm_name, n) && path[n] == '/' && path[n + 1] &&
               !strchr(path + n + 1, '/') && text_is_relative_path(path) && !vm_spec_path_is_record(path);
}

int vm_spec_take_place(json_t *disk, const char *vm_name, const json_t *place)
{
        static const char *const keys[] = {"datastore", "path", "format"};

        if (!text_is_name(json_text(place, "datastore")) ||
                !vm_spec_path_is_own(vm_name, json_text(place, "path")))
                return -EINVAL;
        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                if (json_is_string(json_object_get(place, keys[i])) &&
                        json_object_set(disk, keys[i], json_object_get(place, keys[i])) < 0)
                        return -ENOMEM;
        return 0;
}

static int fill_disk(json_t *disk, const char *vm_name, const json_t *from)
{
        static const char *const keys[] = {
                "name", "datastore", "size_bytes", "format", "bus", "read_only", NULL};
        const char *path = json_text(from, "path");
        int r = 0;

        /* The default, or where it is since a storage migration that nobody here knows of. */
        if (*path && strcmp(json_text(disk, "path"), path) != 0)
                r = vm_spec_take_place(disk, vm_name, from);
        return r < 0 ? r : fill(disk, from, keys);
}

static int fill_devices(json_t *spec, const char *vm_name, const json_t *reported)
{
        static const char *const nic_keys[] = {"mac", "model", NULL};
        json_t *disks = json_object_get(spec, "disks"), *nics = json_object_get(spec, "nics"), *item;
        const json_t *their_disks = json_object_get(reported, "disks"),
                     *their_nics = json_object_get(reported, "nics");
        size_t i;
        int r = 0;

        if (json_array_size(disks) != json_array_size(their_disks) ||
                json_array_size(nics) != json_array_size(their_nics))
                return -EINVAL;
        json_array_foreach (disks, i, item)
                if (r >= 0)
                        r = fill_disk(item, vm_name, json_array_get(their_disks, i));
        json_array_foreach (nics, i, item)
                if (r >= 0)
                        r = fill(item, json_array_get(their_nics, i), nic_keys);
        return r;
}

int vm_spec_take(const json_t *spec, const char *vm_name, const json_t *reported, json_t **ret_spec)
{
        static const char *const keys[] = {"cpus", "machine", "accelerator", "firmware", "datastore", "rng",
                "balloon", "guest_agent", NULL};
        static const char *const file_keys[] = {"datastore", NULL}, *const files[] = {"kernel", "initrd"};
        _cleanup_json_ json_t *copy = json_deep_copy(spec);
        _cleanup_error_ struct error *error = NULL;
        int r = copy ? fill(copy, reported, keys) : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(files); i++)
                r = fill(json_object_get(json_object_get(copy, "boot"), files[i]),
                        json_object_get(json_object_get(reported, "boot"), files[i]), file_keys);
        if (r >= 0)
                r = fill(json_object_get(copy, "cdrom"), json_object_get(reported, "cdrom"), file_keys);
        if (r >= 0)
                r = fill_devices(copy, vm_name, reported);
        if (r >= 0 && !has(copy, "cpu_model"))
                r = json_object_set_new(copy, "cpu_model", json_string("auto")) < 0 ? -ENOMEM : 0;
        if (r >= 0 && vm_spec_check(copy, &error) < 0)
                r = -EINVAL;
        if (r >= 0)
                *ret_spec = TAKE_PTR(copy);
        return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
/* The layout is fixed, so that it depends on the document alone:
 *
 *   q35, bus pcie.0                              pc, bus pci.0
 *   0x01      VGA                                0x02      VGA
 *   0x02-0x03 root ports of virtio NICs 0-15     0x03      SCSI controller
 *   0x04      root port: SCSI controller         0x04      virtio-serial (guest agent)
 *   0x05      root port: virtio-serial           0x05      RNG
 *   0x06      root port: RNG                     0x06      balloon
 *   0x07      root port: balloon                 0x07      AHCI controller
 *   0x08      root port: bridge to plain PCI,    0x08-0x17 NICs 0-15
 *             NICs that are not virtio at 1-16   0x18-0x1f virtio disks 0-63, eight to a slot
 *   0x10-0x17 root ports of virtio disks 0-63, eight to a slot
 *   0x1f      ICH9 with the SATA controller (CD-ROM drive: port 5; pc: IDE, secondary slave)
 *
 * A device is numbered among its like in the order of the document, so that function 0 of a slot is always
 * there when another one is. Root ports carry one device each: PCI Express devices are modern-only virtio and
 * need no I/O space. Options that exist in JSON form are written in it (QEMU 7.2 takes it for -object,
 * -blockdev, -netdev and -device), so that no text of the document needs escaping; in the others commas are
 * doubled.
 *
 * Option ROMs of NICs are left out (romfile ""): nothing boots from them, and each is a RAM block whose size
 * would have to be the same on both hosts. */
#include "vmm/command_line.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"

#define ARGS_MAX 1024        /* 64 disks take 8 arguments each, 16 NICs 6, all else under 100 */
#define ADDRESS_SIZE 16      /* "0x10.0x7" */
#define BUS_SIZE 24          /* "rp-disk63" */
#define SERIAL_MAX_CHARS 20  /* of a disk: what virtio-blk and ATA can tell the guest */
#define CDROM_BOOTINDEX 1000 /* after every disk */
#define IDE_CDROM_UNIT 3     /* secondary slave */
#define SATA_CDROM_PORT 5

struct builder {
        const struct vm_config *config;
        const struct command_line_env *env;
        bool q35;
        char **argv;
        size_t n_argv;
        bool failed;                /* memory was short: checked once, at the end */
        unsigned int n_virtio_nics; /* given an address so far */
        unsigned int n_plain_nics;
        unsigned int n_virtio_disks;
        unsigned int n_scsi_disks;
        unsigned int n_sata_disks;
        unsigned int n_ide_disks;
};

char *command_line_disk_node(size_t index, char ret[static COMMAND_LINE_NODE_SIZE])
{
        snprintf(ret, COMMAND_LINE_NODE_SIZE, "disk%zu", index);
        return ret;
}

bool command_line_is_disk_device(const char *qdev, size_t index)
{
        char id[COMMAND_LINE_NODE_SIZE];
        size_t len = (size_t)snprintf(id, sizeof(id), "dev-disk%zu", index);
        const char *at = strstr(qdev, id);

        return at && (at == qdev || at[-1] == '/') && (at[len] == '\0' || at[len] == '/');
}

uint64_t command_line_effective_memory(
        uint64_t memory_bytes, enum vm_accelerator accelerator, unsigned int qemu_major)
{
        bool loses_dirty_pages = accelerator == VM_ACCELERATOR_TCG && qemu_major < 9;

        return loses_dirty_pages && memory_bytes % (256 << 10) == 0 ? memory_bytes + (8 << 10) : memory_bytes;
}

void command_line_free(char **argv)
{
        for (char **arg = argv; arg && *arg; arg++)
                free(*arg);
        free(argv);
}

/* Takes over `arg` (NULL: memory was short). */
static void add_owned(struct builder *b, char *arg)
{
        assert(b->n_argv < ARGS_MAX);
        if (!arg)
                b->failed = true;
        else
                b->argv[b->n_argv++] = arg;
}

static void add(struct builder *b, const char *arg)
{
        add_owned(b, alloc_strdup(arg));
}

static void add_option(struct builder *b, const char *option, const char *value)
{
        add(b, option);
        add(b, value);
}

/* `json` is taken over and may be NULL (memory was short). */
static void add_json(struct builder *b, const char *option, json_t *json)
{
        add(b, option);
        add_owned(b, json ? doc_to_text(json) : NULL);
        json_decref(json);
}

/* Adds the pairs of `more` (taken over) to `json`. */
static json_t *merge(json_t *json, json_t *more)
{
        if (!json || !more || json_object_update(json, more) < 0) {
                json_decref(json);
                json = NULL;
        }
        json_decref(more);
        return json;
}

/* The text with commas doubled, for options that have no JSON form. */
static char *escape_commas(const char *s)
{
        char *escaped = alloc_zero(2 * strlen(s) + 1);
        char *at = escaped;

        if (!escaped)
                return NULL;
        for (; *s; s++) {
                *at++ = *s;
                if (*s == ',')
                        *at++ = ',';
        }
        return escaped;
}

static void add_basics(struct builder *b)
{
        const struct vm_config *config = b->config;
        const struct command_line_env *env = b->env;

        add(b, env->qemu_binary);
        add(b, "-name");
        add_owned(b, alloc_printf("guest=%s,debug-threads=on", config->name));
        add_option(b, "-uuid", config->uid);
        add(b, "-no-user-config");
        add(b, "-nodefaults");
        add(b, "-S");
        add_option(b, "-msg", "timestamp=on");
        if (env->sandbox)
                add_option(b, "-sandbox",
                        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        add(b, "-machine");
        add_owned(b,
                alloc_printf("%s,memory-backend=" COMMAND_LINE_RAM_ID "%s,dump-guest-core=off,vmport=off",
                        env->machine,
                        config->firmware == VM_FIRMWARE_UEFI ? ",pflash0=ovmf-code,pflash1=ovmf-vars" : ""));
        add_option(b, "-accel", vm_accelerator_to_string(env->accelerator));
        /* enforce: a missing feature has to be an error. CPUID is not in the migration stream, so the guest
         * would silently get another CPU (qemu.md section 13). */
        add(b, "-cpu");
        add_owned(b, alloc_printf("%s,enforce", env->cpu_model));
        add(b, "-smp");
        add_owned(b, alloc_printf("%u,sockets=1,cores=%u,threads=1", config->cpus, config->cpus));
        add(b, "-m");
        add_owned(b, alloc_printf("size=%" PRIu64 "k", env->memory_bytes >> 10));
        add_option(b, "-rtc", "base=utc");
        add_option(b, "-boot", "menu=off,strict=on");
}

/* Anonymous memory: docs/decisions/0004-guest-ram-stays-anonymous.md. The canonical-path switch is for machine types up to
 * 3.1, which would call the block "/objects/pc.ram". */
static void add_memory(struct builder *b)
{
        add_json(b, "-object",
                json_pack("{s:s,s:s,s:I,s:b}", "qom-type", "memory-backend-ram", "id", COMMAND_LINE_RAM_ID,
                        "size", (json_int_t)b->env->memory_bytes, "x-use-canonical-path-for-ramblock-id", 0));
}

/* A listening Unix socket as character device; `log` may be NULL. */
static void add_chardev(struct builder *b, const char *id, const char *socket, const char *log)
{
        _cleanup_free_ char *path = escape_commas(socket);
        _cleanup_free_ char *logfile = log ? escape_commas(log) : NULL;

        add(b, "-chardev");
        add_owned(
                b, !path || (log && !logfile)
                           ? NULL
                           : alloc_printf("socket,id=%s,path=%s,server=on,wait=off%s%s%s", id, path,
                                     log ? ",logfile=" : "", log ? logfile : "", log ? ",logappend=on" : ""));
}

static void add_consoles(struct builder *b)
{
        const struct command_line_env *env = b->env;

        add_chardev(b, "qmp", env->qmp_socket, NULL);
        add_option(b, "-mon", "chardev=qmp,mode=control");
        add_chardev(b, "serial", env->serial_socket, env->serial_log);
        add_json(b, "-device",
                json_pack("{s:s,s:s,s:s}", "driver", "isa-serial", "id", "serial0", "chardev", "serial"));
        add_json(b, "-device",
                json_pack("{s:s,s:s,s:s,s:s}", "driver", "VGA", "id", "video0", "bus",
                        b->q35 ? "pcie.0" : "pci.0", "addr", b->q35 ? "0x1" : "0x2"));
        add_option(b, "-display", "none");
        if (env->vnc_socket) {
                _cleanup_free_ char *path = escape_commas(env->vnc_socket);

                add(b, "-vnc");
                add_owned(b, path ? alloc_printf("unix:%s", path) : NULL);
        }
}

/* A PCI Express root port at slot.function; `name` gives the id of the bus behind it. */
static void add_root_port(struct builder *b, const char *bus, unsigned int slot, unsigned int function)
{
        char address[ADDRESS_SIZE];

        snprintf(address, sizeof(address), "0x%x.0x%x", slot, function);
        add_json(b, "-device",
                json_pack("{s:s,s:s,s:s,s:s,s:b,s:i,s:i,s:i}", "driver", "pcie-root-port", "id", bus, "bus",
                        "pcie.0", "addr", address, "multifunction", 1, "chassis", (int)(slot * 8 + function),
                        "port", (int)(slot * 8 + function), "slot", 0));
}

/* Adds a device (taken over) that has a place of its own: behind a root port `name` at `q35_slot`, or at `pc_slot`
 * of the plain bus. */
static void add_pci_device(
        struct builder *b, const char *name, unsigned int q35_slot, unsigned int pc_slot, json_t *device)
{
        char bus[BUS_SIZE] = "pci.0", address[ADDRESS_SIZE] = "0x0";

        if (b->q35) {
                snprintf(bus, sizeof(bus), "rp-%s", name);
                add_root_port(b, bus, q35_slot, 0);
        } else {
                snprintf(address, sizeof(address), "0x%x", pc_slot);
        }
        add_json(b, "-device", merge(device, json_pack("{s:s,s:s}", "bus", bus, "addr", address)));
}

static bool has_disk_on(const struct vm_config *config, enum vm_bus bus)
{
        for (size_t i = 0; i < config->n_disks; i++)
                if (config->disks[i].bus == bus)
                        return true;
        return false;
}

static bool has_plain_nic(const struct vm_config *config)
{
        for (size_t i = 0; i < config->n_nics; i++)
                if (config->nics[i].model != VM_NIC_VIRTIO)
                        return true;
        return false;
}

/* What disks and NICs are attached to, and the devices that exist once. */
static void add_controllers(struct builder *b)
{
        const struct vm_config *config = b->config;

        if (has_disk_on(config, VM_BUS_SCSI))
                add_pci_device(b, "scsi", 0x4, 0x3,
                        json_pack("{s:s,s:s}", "driver", "virtio-scsi-pci", "id", "scsi0"));
        if (config->guest_agent) {
                add_pci_device(b, "serial", 0x5, 0x4,
                        json_pack("{s:s,s:s}", "driver", "virtio-serial-pci", "id", "vserial0"));
                add_chardev(b, "agent", b->env->guest_agent_socket, NULL);
                add_json(b, "-device",
                        json_pack("{s:s,s:s,s:s,s:i,s:s,s:s}", "driver", "virtserialport", "id", "agent0",
                                "bus", "vserial0.0", "nr", 1, "chardev", "agent", "name",
                                "org.qemu.guest_agent.0"));
        }
        if (config->rng) {
                add_json(b, "-object", json_pack("{s:s,s:s}", "qom-type", "rng-builtin", "id", "entropy0"));
                add_pci_device(b, "rng", 0x6, 0x5,
                        json_pack("{s:s,s:s,s:s}", "driver", "virtio-rng-pci", "id", "rng0", "rng",
                                "entropy0"));
        }
        if (config->balloon)
                add_pci_device(b, "balloon", 0x7, 0x6,
                        json_pack("{s:s,s:s,s:b,s:b}", "driver", "virtio-balloon-pci", "id", "balloon0",
                                "deflate-on-oom", 1, "free-page-reporting", config->free_page_reporting));
        if (!b->q35 && has_disk_on(config, VM_BUS_SATA))
                add_json(b, "-device",
                        json_pack("{s:s,s:s,s:s,s:s}", "driver", "ahci", "id", "ahci0", "bus", "pci.0",
                                "addr", "0x7"));
        if (b->q35 && has_plain_nic(config))
                add_pci_device(
                        b, "pci", 0x8, 0, json_pack("{s:s,s:s}", "driver", "pcie-pci-bridge", "id", "pci.1"));
}

/* File node and format node of an image. Locking "on" refuses a file that another QEMU has open for writing:
 * the second fence under the owner record. Under -incoming the image stays inactive, without locks, until the
 * guest is continued. */
static void add_image(struct builder *b, const char *node, const char *format, const char *path,
        bool read_only, bool direct)
{
        char file_node[COMMAND_LINE_NODE_SIZE];

        snprintf(file_node, sizeof(file_node), "%s-file", node);
        add_json(b, "-blockdev",
                json_pack("{s:s,s:s,s:s,s:b,s:s,s:s,s:{s:b,s:b}}", "driver", "file", "node-name", file_node,
                        "filename", path, "read-only", read_only, "locking", "on", "discard", "unmap",
                        "cache", "direct", direct, "no-flush", 0));
        add_json(b, "-blockdev",
                json_pack("{s:s,s:s,s:s,s:b,s:s,s:{s:b,s:b}}", "driver", format, "node-name", node, "file",
                        file_node, "read-only", read_only, "discard", "unmap", "cache", "direct", direct,
                        "no-flush", 0));
}

static void add_firmware(struct builder *b)
{
        if (b->config->firmware != VM_FIRMWARE_UEFI)
                return;
        add_image(b, "ovmf-code", "raw", b->env->ovmf_code_path, true, false);
        add_image(b, "ovmf-vars", "raw", b->env->nvram_path, false, false);
}

/* Where an ATA drive is attached: "ide.N" is a port of q35's SATA controller, or a channel of pc's IDE one. */
static json_t *ide_place(unsigned int unit)
{
        char bus[BUS_SIZE];

        snprintf(bus, sizeof(bus), "ide.%u", unit / 2);
        return json_pack("{s:s,s:i}", "bus", bus, "unit", (int)(unit % 2));
}

static json_t *sata_place(const struct builder *b, unsigned int port)
{
        char bus[BUS_SIZE];

        snprintf(bus, sizeof(bus), b->q35 ? "ide.%u" : "ahci0.%u", port);
        return json_pack("{s:s,s:i}", "bus", bus, "unit", 0);
}

static json_t *virtio_disk_place(struct builder *b)
{
        unsigned int n = b->n_virtio_disks++;
        char bus[BUS_SIZE] = "pci.0", address[ADDRESS_SIZE] = "0x0";

        if (b->q35) {
                snprintf(bus, sizeof(bus), "rp-disk%u", n);
                add_root_port(b, bus, 0x10 + n / 8, n % 8);
                return json_pack("{s:s,s:s}", "bus", bus, "addr", address);
        }
        snprintf(address, sizeof(address), "0x%x.0x%x", 0x18 + n / 8, n % 8);
        return json_pack("{s:s,s:s,s:b}", "bus", bus, "addr", address, "multifunction", 1);
}

static void add_disk(struct builder *b, size_t index)
{
        static const char *const drivers[N_VM_BUSES] = {
                [VM_BUS_VIRTIO] = "virtio-blk-pci",
                [VM_BUS_SCSI] = "scsi-hd",
                [VM_BUS_SATA] = "ide-hd",
                [VM_BUS_IDE] = "ide-hd",
        };
        const struct vm_disk *disk = &b->config->disks[index];
        const struct command_line_disk *image = &b->env->disks[index];
        char node[COMMAND_LINE_NODE_SIZE], id[COMMAND_LINE_NODE_SIZE + 4];
        json_t *place, *device;

        command_line_disk_node(index, node);
        snprintf(id, sizeof(id), "dev-%s", node);
        add_image(b, node, vm_format_to_string(disk->format), image->path, disk->read_only, image->direct);
        switch (disk->bus) {
        case VM_BUS_VIRTIO:
                place = virtio_disk_place(b);
                break;
        case VM_BUS_SCSI:
                place = json_pack("{s:s,s:i,s:i,s:i}", "bus", "scsi0.0", "channel", 0, "scsi-id",
                        (int)b->n_scsi_disks++, "lun", 0);
                break;
        case VM_BUS_SATA:
                place = sata_place(b, b->n_sata_disks++);
                break;
        default:
                place = ide_place(b->n_ide_disks++);
        }
        device = json_pack("{s:s,s:s,s:s,s:i}", "driver", drivers[disk->bus], "id", id, "drive", node,
                "bootindex", (int)index + 1);
        if (device && strlen(disk->name) <= SERIAL_MAX_CHARS)
                device = merge(device, json_pack("{s:s}", "serial", disk->name));
        add_json(b, "-device", merge(device, place));
}

static void add_cdrom(struct builder *b)
{
        if (!b->config->cdrom.path)
                return;
        add_image(b, "cdrom", "raw", b->env->cdrom_path, true, false);
        add_json(b, "-device",
                merge(json_pack("{s:s,s:s,s:s,s:i}", "driver", "ide-cd", "id", "dev-cdrom", "drive", "cdrom",
                              "bootindex", CDROM_BOOTINDEX),
                        b->q35 ? sata_place(b, SATA_CDROM_PORT) : ide_place(IDE_CDROM_UNIT)));
}

/* Where a NIC is attached, with its root port if it has one. */
static json_t *nic_place(struct builder *b, size_t index)
{
        char bus[BUS_SIZE] = "pci.0", address[ADDRESS_SIZE] = "0x0";

        if (!b->q35) {
                snprintf(address, sizeof(address), "0x%x", 0x8 + (unsigned int)index);
        } else if (b->config->nics[index].model == VM_NIC_VIRTIO) {
                unsigned int n = b->n_virtio_nics++;

                snprintf(bus, sizeof(bus), "rp-nic%u", n);
                add_root_port(b, bus, 0x2 + n / 8, n % 8);
        } else {
                snprintf(bus, sizeof(bus), "pci.1");
                snprintf(address, sizeof(address), "0x%x", 1 + b->n_plain_nics++);
        }
        return json_pack("{s:s,s:s}", "bus", bus, "addr", address);
}

static void add_nic(struct builder *b, size_t index)
{
        static const char *const drivers[N_VM_NIC_MODELS] = {
                [VM_NIC_VIRTIO] = "virtio-net-pci",
                [VM_NIC_E1000] = "e1000",
                [VM_NIC_RTL8139] = "rtl8139",
        };
        const struct vm_nic *nic = &b->config->nics[index];
        const struct command_line_nic *tap = &b->env->nics[index];
        char netdev_id[BUS_SIZE], id[BUS_SIZE], fd[16], vhost_fd[16];
        json_t *netdev, *place;

        snprintf(netdev_id, sizeof(netdev_id), "net%zu", index);
        snprintf(id, sizeof(id), "nic%zu", index);
        snprintf(fd, sizeof(fd), "%d", tap->tap_fd);
        snprintf(vhost_fd, sizeof(vhost_fd), "%d", tap->vhost_fd);
        netdev = json_pack("{s:s,s:s,s:s}", "type", "tap", "id", netdev_id, "fd", fd);
        if (netdev && tap->vhost_fd >= 0 && nic->model == VM_NIC_VIRTIO)
                netdev = merge(netdev, json_pack("{s:b,s:s}", "vhost", 1, "vhostfd", vhost_fd));
        add_json(b, "-netdev", netdev);
        place = nic_place(b, index);
        add_json(b, "-device",
                merge(json_pack("{s:s,s:s,s:s,s:s,s:s}", "driver", drivers[nic->model], "id", id, "netdev",
                              netdev_id, "mac", nic->mac, "romfile", ""),
                        place));
}

static void add_boot(struct builder *b)
{
        const struct vm_config *config = b->config;

        if (config->kernel.path)
                add_option(b, "-kernel", b->env->kernel_path);
        if (config->initrd.path)
                add_option(b, "-initrd", b->env->initrd_path);
        if (config->append)
                add_option(b, "-append", config->append);
        if (b->env->incoming)
                add_option(b, "-incoming", "defer");
}

static int check_config(
        const struct vm_config *config, const struct command_line_env *env, struct error **ret_error)
{
        if (!config->uid)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Take the document from the manager.",
                        "the document of VM %s has no uid", config->name);
        for (size_t i = 0; i < config->n_nics; i++)
                if (!*config->nics[i].mac)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Take the document from the manager.",
                                "spec.nics[%zu] of VM %s has no MAC address", i, config->name);
        if (vm_chipset_of(env->machine) != vm_chipset_of(config->machine))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Clear status.machine when the machine type of a stopped VM is changed.",
                        "VM %s asks for the machine %s, but was started as %s", config->name, config->machine,
                        env->machine);
        return 0;
}

/* The agent's part: a mismatch is a mistake in the program, not in the document. */
static int check_env(
        const struct vm_config *config, const struct command_line_env *env, struct error **ret_error)
{
        bool uefi = config->firmware == VM_FIRMWARE_UEFI;
        const char *wrong = NULL;

        if (!env->qemu_binary || !env->machine || !vm_machine_is_valid(env->machine) ||
                !vm_machine_is_versioned(env->machine))
                wrong = "qemu_binary, machine";
        else if (env->accelerator != VM_ACCELERATOR_KVM && env->accelerator != VM_ACCELERATOR_TCG)
                wrong = "accelerator";
        else if (!env->cpu_model || !strcmp(env->cpu_model, "auto") || !vm_cpu_model_is_valid(env->cpu_model))
                wrong = "cpu_model";
        else if (env->memory_bytes < config->memory_bytes || env->memory_bytes % 4096)
                wrong = "memory_bytes";
        else if (env->n_disks != config->n_disks || env->n_nics != config->n_nics)
                wrong = "disks, nics";
        else if ((config->cdrom.path && !env->cdrom_path) || (config->kernel.path && !env->kernel_path) ||
                 (config->initrd.path && !env->initrd_path))
                wrong = "cdrom_path, kernel_path, initrd_path";
        else if (uefi && (!env->ovmf_code_path || !env->nvram_path))
                wrong = "ovmf_code_path, nvram_path";
        else if (!env->qmp_socket || !env->serial_socket || !env->serial_log ||
                 (config->guest_agent && !env->guest_agent_socket))
                wrong = "sockets";
        return wrong ? error_set(ret_error, ERROR_INTERNAL, NULL,
                               "the command line of VM %s cannot be made: %s missing or wrong", config->name,
                               wrong)
                     : 0;
}

int command_line_build(const struct vm_config *config, const struct command_line_env *env, char ***ret_argv,
        struct error **ret_error)
{
        struct builder b = {.config = config, .env = env};
        _cleanup_(command_line_freep) char **argv = NULL;
        int r;

        if ((r = check_env(config, env, ret_error)) < 0 || (r = check_config(config, env, ret_error)) < 0)
                return r;
        argv = b.argv = alloc_array(ARGS_MAX + 1, sizeof(*argv));
        if (!argv)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for a command line");
        b.q35 = vm_chipset_of(env->machine) == VM_CHIPSET_Q35;
        add_basics(&b);
        add_memory(&b);
        add_firmware(&b);
        add_consoles(&b);
        add_controllers(&b);
        for (size_t i = 0; i < config->n_disks; i++)
                add_disk(&b, i);
        add_cdrom(&b);
        for (size_t i = 0; i < config->n_nics; i++)
                add_nic(&b, i);
        add_boot(&b);
        if (b.failed)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory for a command line");
        *ret_argv = TAKE_PTR(argv);
        return 0;
}

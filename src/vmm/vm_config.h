/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The VM document (docs/vm-document.md) as a struct: parsed with every rule checked, and written back. What
 * comes out of vm_config_from_json() can be used as it is: names are safe as file names and QEMU ids, paths
 * cannot leave their datastore, counts and sizes are in range, nothing is there twice, and every disk fits
 * its bus and machine. Nothing here knows about hosts or files: that is the agent's part. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"

#define VM_DISKS_MAX 64
#define VM_NICS_MAX 16
#define VM_CPUS_MAX 255
#define VM_LABELS_MAX 64
#define VM_MEMORY_MIN (UINT64_C(16) << 20)
#define VM_MEMORY_MAX (UINT64_C(16) << 40)
#define VM_CPU_MODEL_MAX 511 /* characters */
#define VM_MAC_SIZE 18       /* "52:54:00:12:34:56" with the NUL */

enum vm_accelerator { VM_ACCELERATOR_AUTO, VM_ACCELERATOR_KVM, VM_ACCELERATOR_TCG, N_VM_ACCELERATORS };
enum vm_firmware { VM_FIRMWARE_BIOS, VM_FIRMWARE_UEFI, N_VM_FIRMWARES };
enum vm_format { VM_FORMAT_RAW, VM_FORMAT_QCOW2, N_VM_FORMATS };
enum vm_bus { VM_BUS_VIRTIO, VM_BUS_SCSI, VM_BUS_SATA, VM_BUS_IDE, N_VM_BUSES };
enum vm_nic_model { VM_NIC_VIRTIO, VM_NIC_E1000, VM_NIC_RTL8139, N_VM_NIC_MODELS };
enum vm_chipset { VM_CHIPSET_Q35, VM_CHIPSET_PC };
enum vm_power {
        VM_POWER_UNKNOWN,
        VM_POWER_STOPPED,
        VM_POWER_STARTING,
        VM_POWER_RUNNING,
        VM_POWER_PAUSED,
        VM_POWER_INCOMING,      /* waits for its migration */
        VM_POWER_OUTGOING_DONE, /* handed off, not yet released */
        VM_POWER_CRASHED,
        VM_POWER_SUSPENDING, /* its state is being written */
        VM_POWER_SUSPENDED,  /* no process; its memory is in a file beside its disks */
        N_VM_POWERS
};

/* A file on a datastore. */
struct vm_file {
        char *datastore; /* NULL: there is no such file */
        char *path;      /* relative to the datastore */
};

struct vm_disk {
        char *name;
        char *datastore;
        char *path;          /* relative to the datastore */
        uint64_t size_bytes; /* multiple of 512; 0: not given, the image exists */
        enum vm_format format;
        enum vm_bus bus;
        bool read_only;
};

struct vm_nic {
        char *port_group;
        char mac[VM_MAC_SIZE]; /* lower case; "" until the manager has given one */
        enum vm_nic_model model;
};

struct vm_status {
        enum vm_power power;
        char *host; /* NULL: on none */
        uint64_t owner_epoch;
        char *machine;                   /* versioned, as first started; NULL before */
        char *cpu_model;                 /* in effect; NULL before the first start */
        enum vm_accelerator accelerator; /* AUTO: not decided */
        uint64_t memory_effective_bytes; /* 0: not decided */
        char *qemu_version;
        char *message;
};

struct vm_config {
        char *name;
        char *uid;         /* canonical UUID; NULL until the manager has given one */
        uint64_t revision; /* 0: not stored yet */

        unsigned int cpus;
        uint64_t memory_bytes;
        char *machine; /* "q35", "pc", or versioned */
        char *cpu_model;
        enum vm_accelerator accelerator;
        enum vm_firmware firmware;
        char *datastore; /* of the VM's folder */
        struct vm_file kernel;
        struct vm_file initrd;
        char *append; /* kernel command line; NULL when none was given */
        struct vm_file cdrom;
        struct vm_disk *disks;
        size_t n_disks;
        struct vm_nic *nics;
        size_t n_nics;
        bool rng;
        bool balloon;
        bool free_page_reporting; /* by the balloon: what the guest frees goes back to the host, and is zero */
        bool guest_agent;
        json_t *labels; /* object of strings, never NULL */

        bool has_status; /* the document had a status */
        struct vm_status status;
};

/* Checks the whole document and fills in the defaults. 0 and an object that the caller owns, or BAD_DOCUMENT
 * naming the field and the rule (or NO_MEMORY). */
int vm_config_from_json(const json_t *document, struct vm_config **ret_config, struct error **ret_error);

/* The document with all defaults written out, in the order of docs/vm-document.md; `status` only when
 * has_status. NULL without memory. The caller owns it. */
json_t *vm_config_to_json(const struct vm_config *config);

/* Accepts NULL. */
void vm_config_free(struct vm_config *config);
DEFINE_CLEANUP(struct vm_config *, vm_config_free)

/* True when both have the same disks by name, in the same order, in the same places. */
bool vm_config_same_disks(const struct vm_config *a, const struct vm_config *b);

/* Which chipset the machine name (as in spec.machine or status.machine) stands for. */
enum vm_chipset vm_chipset_of(const char *machine);
/* True for "q35", "pc", "pc-q35-N.N", "pc-i440fx-N.N" (also with a distribution's suffix, such as "-rhel"). */
bool vm_machine_is_valid(const char *machine);
/* True unless the name is one of the aliases "q35" and "pc". */
bool vm_machine_is_versioned(const char *machine);
/* True for a model name, optionally followed by ",+feature" and ",-feature". */
bool vm_cpu_model_is_valid(const char *cpu_model);
/* Writes the canonical lower-case form; false for what is no unicast Ethernet address. */
bool vm_mac_normalise(const char *mac, char ret[static VM_MAC_SIZE]);

/* Names as in the document; never NULL for a value in range. The readers return 0 or -EINVAL. */
const char *vm_accelerator_to_string(enum vm_accelerator accelerator);
int vm_accelerator_from_string(const char *s, enum vm_accelerator *ret);
const char *vm_power_to_string(enum vm_power power);
int vm_power_from_string(const char *s, enum vm_power *ret);
const char *vm_format_to_string(enum vm_format format);
const char *vm_firmware_to_string(enum vm_firmware firmware);
const char *vm_bus_to_string(enum vm_bus bus);
const char *vm_nic_model_to_string(enum vm_nic_model model);

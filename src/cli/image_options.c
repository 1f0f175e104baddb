/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/image_options.h"

#define GIVE_UP_OPTION \
        { \
                .name = "give-up", .kind = VALUE_DURATION, .value = "TIME", .min = 1000, .max = 604800000, \
                .help = "end it if it takes longer; default 24h" \
        }

const struct option_spec vm_import_disk_options[] = {
        {.name = "format",
                .kind = VALUE_CHOICE,
                .value = "raw|qcow2|vmdk|vhdx|vdi|vhd",
                .help = "what the image is; default: what its name ends in"},
        {.name = "sha256",
                .kind = VALUE_TEXT,
                .value = "DIGEST",
                .help = "refuse it unless this is its checksum; default: what a file IMAGE.sha256 beside it "
                        "says"},
        {.name = "to-datastore",
                .kind = VALUE_NAME,
                .value = "NAME",
                .names_of = "datastores",
                .help = "where the disk is made; default: where the folder of the virtual machine is"},
        {.name = "to-format", .kind = VALUE_CHOICE, .value = "raw|qcow2", .help = "default qcow2"},
        {.name = "name",
                .kind = VALUE_NAME,
                .value = "NAME",
                .help = "of the disk; default: disk0, disk1, ..."},
        {.name = "bus", .kind = VALUE_CHOICE, .value = "virtio|scsi|sata|ide", .help = "default virtio"},
        GIVE_UP_OPTION,
        {0},
};

const struct option_spec vm_import_options[] = {
        {.name = "name",
                .kind = VALUE_NAME,
                .value = "NAME",
                .help = "of the virtual machine; default: the file's name without its ending"},
        {.name = "net-map",
                .kind = VALUE_TEXT,
                .repeat = true,
                .value = "NETWORK=PORTGROUP",
                .help = "NICs on this network of the appliance go to that port group; without one they are "
                        "left "
                        "out; may be repeated"},
        {.name = "to-datastore",
                .kind = VALUE_NAME,
                .value = "NAME",
                .names_of = "datastores",
                .help = "where the virtual machine is made; default: where the appliance is"},
        {.name = "to-format",
                .kind = VALUE_CHOICE,
                .value = "raw|qcow2",
                .help = "of its disks; default qcow2"},
        {.name = "bus",
                .kind = VALUE_CHOICE,
                .value = "virtio|scsi|sata|ide",
                .help = "of its disks; default sata"},
        {.name = "host",
                .kind = VALUE_NAME,
                .value = "HOST",
                .names_of = "hosts",
                .help = "which host does it; default: one that has the datastores"},
        GIVE_UP_OPTION,
        {0},
};

const struct option_spec vm_export_options[] = {
        GIVE_UP_OPTION,
        {0},
};

const struct option_spec vm_export_disk_options[] = {
        {.name = "stream",
                .help = "a vmdk that is compressed and read from its beginning to its end, as appliances "
                        "have "
                        "it"},
        GIVE_UP_OPTION,
        {0},
};

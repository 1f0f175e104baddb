/* SPDX-License-Identifier: Apache-2.0 */
#include "base/drives.h"

#include <string.h>

#define WAY_OUT "Use another bus for some of them, such as virtio or scsi."

bool drives_machine_is_q35(const char *machine)
{
        return !strcmp(machine, "q35") || !strncmp(machine, "pc-q35-", strlen("pc-q35-"));
}

int drives_check(const struct drives *drives, struct error **ret_error)
{
        bool q35 = drives_machine_is_q35(drives->machine);

        if (q35 && drives->n_ide)
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Use the bus virtio, scsi or sata, or the machine pc.",
                        "the machine %s has no IDE controller", drives->machine);
        if (drives->n_ide + (!q35 && drives->cdrom) > DRIVES_IDE_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, WAY_OUT,
                        "the IDE controller takes %d drives, the CD-ROM drive included", DRIVES_IDE_MAX);
        if (drives->n_sata + (q35 && drives->cdrom) > DRIVES_SATA_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, WAY_OUT,
                        "the SATA controller takes %d drives%s", DRIVES_SATA_MAX,
                        q35 ? ", the CD-ROM drive included" : "");
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which controllers for drives the machine types have, and how many drives these take (QEMU, hw/i386/pc_q35.c and pc_piix.c: an ICH9 with six
 * SATA ports, a PIIX3 with two IDE channels of two drives). Both the manager, before work is done for a machine, and the agent ask. */

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define DRIVES_IDE_MAX 4
#define DRIVES_SATA_MAX 6

/* Disks by bus; the CD-ROM drive is on SATA with q35 and on IDE with pc. */
struct drives {
        const char *machine; /* "q35", "pc", or a versioned name */
        bool cdrom;
        size_t n_ide, n_sata;
};

bool drives_machine_is_q35(const char *machine);

/* 0, or BAD_DOCUMENT: the machine has no such controller, or too few ports on it. */
int drives_check(const struct drives *drives, struct error **ret_error);

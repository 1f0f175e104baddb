/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What accel_probe.c and its guest, probe_guest.S, agree on. Read by the assembler too. */

#define PROBE_GUEST_PORT 0xf4
#define PROBE_GUEST_SUCCESS 0x2a
#define PROBE_GUEST_SIZE 512

#ifndef __ASSEMBLER__
/* The boot sector. */
extern const unsigned char probe_guest[PROBE_GUEST_SIZE];
#endif

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the kernel knows of a network interface. */

#include <stdint.h>

/* Largest packet; 0 when there is no such interface. */
unsigned int netdev_mtu(const char *name);
/* What its link carries, in bit/s; 0 when its driver does not say. */
uint64_t netdev_speed_bps(const char *name);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* MAC addresses of guests: text form, validity, and the generator that the manager hands them out with. */

#include "base/macros.h"

#define MAC_SIZE 6
#define MAC_STRING_SIZE 18 /* "52:54:00:12:34:56" and the NUL */

/* Reads six two-digit hex bytes separated by ':' or '-', any case, nothing around them. 0 or -EINVAL. */
int mac_parse(const char *s, uint8_t ret_mac[static MAC_SIZE]);

/* Lower case with ':'. Returns ret. */
char *mac_format(const uint8_t mac[static MAC_SIZE], char ret[static MAC_STRING_SIZE]);

/* True for an address that a NIC may have: unicast (lowest bit of the first byte clear) and not all zero. */
bool mac_is_unicast(const uint8_t mac[static MAC_SIZE]);

/* True for addresses of the prefix that is handed out, 52:54:00 (locally administered, the one that QEMU and
 * libvirt use). */
bool mac_is_generated(const uint8_t mac[static MAC_SIZE]);

/* True if somebody has the address `mac` (text form of mac_format()) already. */
typedef bool (*mac_taken_fn)(void *userdata, const char *mac);

/* First free address of 52:54:00:00:00:01 .. 52:54:00:ff:ff:ff, looked for upwards from `hint` (its lower 24
 * bits; wraps around), so that with a random or a last-given hint few look-ups are needed and an address just
 * released is not given out again at once. 0, or -ENOSPC when all 16,777,215 are taken. */
int mac_next_free(uint32_t hint, mac_taken_fn taken, void *userdata, uint8_t ret_mac[static MAC_SIZE]);

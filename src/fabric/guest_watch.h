/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Listens at a guest's tap to what the guest sends, and learns its addresses from it (guest_addresses.h). Questions and answers of ARP and
 * neighbour discovery are all looked at, of other packets one in sixteen, and none of what the guest is sent; never more than a few
 * hundred frames a second, whatever the guest does. */

#include "fabric/guest_addresses.h"
#include "io/loop.h"

struct guest_watch;

/* 0, or a negative errno: then nothing is known of this guest. */
int guest_watch_new(
        struct loop *loop, const char *tap, const uint8_t mac[static MAC_SIZE], struct guest_watch **ret);
void guest_watch_free(struct guest_watch *watch);
DEFINE_CLEANUP(struct guest_watch *, guest_watch_free)

/* Borrowed; what was sent up to now is in it. */
struct guest_addresses *guest_watch_addresses(struct guest_watch *watch);

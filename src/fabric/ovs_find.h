/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One question to ovs-vswitchd, from the event loop: at which port of this host has the bridge learned an address? Part of ovs.c. */

#include <net/if.h>

#include "base/mac.h"
#include "io/loop.h"

struct ovs_find;
struct ovs_view;

#define OVS_FIND_MS 500

/* `port` is that of somebody on this host who is not drover's (compare ovs_foreign_macs()), or ""; also when no answer came in OVS_FIND_MS. Once, from
 * the loop; the question may be freed inside. */
typedef void (*ovs_found_fn)(void *userdata, const char *port);

/* control: ovs-vswitchd's socket. seen: borrowed while this lives; it may be another view by the time of the answer. 0 or a negative errno. */
int ovs_find_new(struct loop *loop, const char *control, const struct ovs_view *seen, const char *bridge,
        const uint8_t mac[static MAC_SIZE], ovs_found_fn found, void *userdata, struct ovs_find **ret_find);
/* Accepts NULL. */
void ovs_find_free(struct ovs_find *find);
DEFINE_CLEANUP(struct ovs_find *, ovs_find_free)

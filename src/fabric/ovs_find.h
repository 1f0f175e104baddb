/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One question to ovs-vswitchd, from the event loop: which addresses has the bridge learned at ports of this host, or at which port one of them? Part of ovs.c. */

#include <jansson.h>
#include <net/if.h>

#include "base/mac.h"
#include "io/loop.h"

struct ovs_find;
struct ovs_view;

#define OVS_FIND_MS 500

/* `port` is that of somebody on this host who is not drover's (compare ovs_list_macs()), or ""; also when no answer came in OVS_FIND_MS. Once, from
 * the loop; the question may be freed inside. */
typedef void (*ovs_found_fn)(void *userdata, const char *port);
/* Likewise; `macs` is borrowed. NULL: they are not known. */
typedef void (*ovs_listed_fn)(void *userdata, json_t *macs);

struct ovs_find_handler {
        const uint8_t *mac; /* of MAC_SIZE, copied; for `found` */
        ovs_found_fn found; /* one of the two */
        ovs_listed_fn listed;
        void *userdata;
};

/* control: ovs-vswitchd's socket. seen: borrowed while this lives; it may be another view by the time of the answer. 0 or a negative errno. */
int ovs_find_new(struct loop *loop, const char *control, const struct ovs_view *seen, const char *bridge,
        const struct ovs_find_handler *handler, struct ovs_find **ret_find);
/* Accepts NULL. */
void ovs_find_free(struct ovs_find *find);
DEFINE_CLEANUP(struct ovs_find *, ovs_find_free)

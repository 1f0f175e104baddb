/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a guest's own frames tell of its place in the network: which addresses it has, and which of its neighbours are its
 * gateways. A neighbour is a gateway when the guest sends it packets for an address that it never asked for by ARP or neighbour
 * solicitation. Pure: frames in, addresses out. A guest can tell lies here; whoever uses this asks the network before it
 * believes them. */

#include "fabric/frame.h"

#define GUEST_ADDRESSES_MAX 4
#define GUEST_GATEWAYS_MAX 2
#define GUEST_NEIGHBOURS_MAX 16

struct guest_neighbour {
        struct ip_address address;
        uint8_t mac[MAC_SIZE]; /* all zero: not known */
};

struct guest_addresses {
        uint8_t mac[MAC_SIZE];
        struct ip_address own[GUEST_ADDRESSES_MAX]; /* the one that was used last first */
        size_t n_own;
        struct guest_neighbour neighbours[GUEST_NEIGHBOURS_MAX]; /* likewise */
        size_t n_neighbours;
        struct {
                uint8_t mac[MAC_SIZE];
                struct ip_address evidence; /* the address behind it that something was sent to */
        } routers[GUEST_GATEWAYS_MAX];      /* likewise */
        size_t n_routers;
};

void guest_addresses_init(struct guest_addresses *addresses, const uint8_t mac[static MAC_SIZE]);
/* A frame that the guest sent. */
void guest_addresses_take(struct guest_addresses *addresses, const struct frame *frame);
/* Known from elsewhere, such as the host that the guest came from; where, and that it is a gateway, is taken as true until the
 * guest shows something else. */
void guest_addresses_seed(struct guest_addresses *addresses, const struct ip_address *own);
void guest_addresses_seed_neighbour(
        struct guest_addresses *addresses, const struct guest_neighbour *neighbour);
void guest_addresses_seed_gateway(struct guest_addresses *addresses, const struct guest_neighbour *gateway);
/* Up to GUEST_GATEWAYS_MAX; how many. */
size_t guest_addresses_gateways(
        const struct guest_addresses *addresses, struct guest_neighbour ret[static GUEST_GATEWAYS_MAX]);

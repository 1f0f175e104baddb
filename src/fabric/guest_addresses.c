/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/guest_addresses.h"

#include <string.h>

void guest_addresses_init(struct guest_addresses *addresses, const uint8_t mac[static MAC_SIZE])
{
        *addresses = (struct guest_addresses){0};
        memcpy(addresses->mac, mac, MAC_SIZE);
}

static bool is_known(const uint8_t *mac)
{
        static const uint8_t none[MAC_SIZE] = {0};

        return memcmp(mac, none, MAC_SIZE) != 0;
}

void guest_addresses_seed(struct guest_addresses *addresses, const struct ip_address *own)
{
        size_t at = 0;

        if (!ip_address_is_unicast(own))
                return;
        while (at < addresses->n_own && !ip_address_equal(&addresses->own[at], own))
                at++;
        if (at == addresses->n_own && addresses->n_own < GUEST_ADDRESSES_MAX)
                addresses->n_own++;
        at = MIN(at, (size_t)GUEST_ADDRESSES_MAX - 1);
        memmove(addresses->own + 1, addresses->own, at * sizeof(addresses->own[0]));
        addresses->own[0] = *own;
}

/* What was taken for an address behind a router is a neighbour's. */
static void retract(struct guest_addresses *a, const struct ip_address *address)
{
        for (size_t i = a->n_routers; i-- > 0;) {
                if (!ip_address_equal(&a->routers[i].evidence, address))
                        continue;
                a->n_routers--;
                memmove(a->routers + i, a->routers + i + 1, (a->n_routers - i) * sizeof(a->routers[0]));
        }
}

/* mac NULL: not known from this frame. */
static void take_neighbour(struct guest_addresses *a, const struct ip_address *address, const uint8_t *mac)
{
        struct guest_neighbour it = {.address = *address};
        size_t at = 0;

        if (!ip_address_is_unicast(address))
                return;
        while (at < a->n_neighbours && !ip_address_equal(&a->neighbours[at].address, address))
                at++;
        if (at < a->n_neighbours)
                it = a->neighbours[at];
        else if (a->n_neighbours < GUEST_NEIGHBOURS_MAX)
                a->n_neighbours++;
        if (mac && mac_is_unicast(mac))
                memcpy(it.mac, mac, MAC_SIZE);
        at = MIN(at, (size_t)GUEST_NEIGHBOURS_MAX - 1);
        memmove(a->neighbours + 1, a->neighbours, at * sizeof(a->neighbours[0]));
        a->neighbours[0] = it;
        retract(a, address);
}

static void take_router(struct guest_addresses *a, const uint8_t *mac, const struct ip_address *evidence)
{
        size_t at = 0;

        while (at < a->n_routers && memcmp(a->routers[at].mac, mac, MAC_SIZE) != 0)
                at++;
        if (at == a->n_routers && a->n_routers < GUEST_GATEWAYS_MAX)
                a->n_routers++;
        at = MIN(at, (size_t)GUEST_GATEWAYS_MAX - 1);
        memmove(a->routers + 1, a->routers, at * sizeof(a->routers[0]));
        memcpy(a->routers[0].mac, mac, MAC_SIZE);
        a->routers[0].evidence = *evidence;
}

static const struct guest_neighbour *neighbour_of(
        const struct guest_addresses *a, const struct ip_address *address)
{
        for (size_t i = 0; i < a->n_neighbours; i++)
                if (ip_address_equal(&a->neighbours[i].address, address))
                        return &a->neighbours[i];
        return NULL;
}

static bool has(const struct guest_addresses *a, const struct ip_address *address)
{
        for (size_t i = 0; i < a->n_own; i++)
                if (ip_address_equal(&a->own[i], address))
                        return true;
        return false;
}

static void take_packet(struct guest_addresses *a, const struct frame *f)
{
        if (!has(a, &f->sender) || !ip_address_is_unicast(&f->target) || !mac_is_unicast(f->to))
                return;
        if (neighbour_of(a, &f->target))
                take_neighbour(a, &f->target, f->to);
        else
                take_router(a, f->to, &f->target);
}

void guest_addresses_take(struct guest_addresses *addresses, const struct frame *frame)
{
        if (memcmp(frame->from, addresses->mac, MAC_SIZE) != 0)
                return; /* of something behind the guest */
        switch (frame->kind) {
        case FRAME_ASK:
        case FRAME_ANSWER:
                if (memcmp(frame->sender_mac, addresses->mac, MAC_SIZE) != 0)
                        return; /* it answers for somebody else */
                guest_addresses_seed(addresses, &frame->sender);
                if (!ip_address_equal(&frame->sender, &frame->target))
                        take_neighbour(
                                addresses, &frame->target, mac_is_unicast(frame->to) ? frame->to : NULL);
                break;
        case FRAME_IP:
                take_packet(addresses, frame);
                break;
        case FRAME_OTHER:
        case FRAME_TEST:
        case FRAME_TEST_ECHO:
                break;
        }
}

void guest_addresses_seed_neighbour(
        struct guest_addresses *addresses, const struct guest_neighbour *neighbour)
{
        if (mac_is_unicast(neighbour->mac))
                take_neighbour(addresses, &neighbour->address, neighbour->mac);
}

void guest_addresses_seed_gateway(struct guest_addresses *addresses, const struct guest_neighbour *gateway)
{
        static const struct ip_address none = {0};

        if (!ip_address_is_unicast(&gateway->address) || !mac_is_unicast(gateway->mac))
                return;
        take_neighbour(addresses, &gateway->address, gateway->mac);
        take_router(addresses, gateway->mac, &none);
}

size_t guest_addresses_gateways(
        const struct guest_addresses *addresses, struct guest_neighbour ret[static GUEST_GATEWAYS_MAX])
{
        size_t n = 0;

        for (size_t i = 0; i < addresses->n_routers; i++)
                for (size_t k = 0; k < addresses->n_neighbours && n < GUEST_GATEWAYS_MAX; k++) {
                        const struct guest_neighbour *it = &addresses->neighbours[k];

                        if (is_known(it->mac) && !memcmp(it->mac, addresses->routers[i].mac, MAC_SIZE)) {
                                ret[n++] = *it;
                                break;
                        }
                }
        return n;
}

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Tells the network where a guest now is.
 *
 * Each round does two things. The bridge's forwarding entry for the MAC is pointed at the guest's tap through
 * netlink: until the migration the local bridge knew the MAC behind its uplink. Then a RARP frame (as QEMU's
 * own announcement, net/announce.c) and, where an IPv4 address is known, an ARP announcement (RFC 5227, a
 * request for the own address) go out from the bridge device: with the guest's MAC as source, to every port,
 * so that the switches behind the uplink learn it. Sending on the tap itself would be wrong: such a frame goes
 * to the guest. Sending on the uplink would leave out other ports, and the local bridge does not learn from
 * what it sends itself, hence the explicit entry. */

#include "base/error.h"
#include "base/mac.h"
#include "io/loop.h"
#include "io/netlink.h"

struct announce;

struct announce_spec {
        const char *bridge;
        const char *tap;
        uint8_t mac[MAC_SIZE];
        const char *ipv4;      /* "192.0.2.7", or NULL: RARP only */
        unsigned int n_rounds; /* 0: ANNOUNCE_ROUNDS_DEFAULT; at most 1,000 */
};

#define ANNOUNCE_ROUNDS_DEFAULT 10

/* The pause before round n (from 0) after the one before, in ms: 0, 50, 100, 100, ... then 1,000 from round 10
 * on; rounds are at 0, 50, 150, 250, 350, ... */
uint64_t announce_delay_ms(unsigned int round);

/* Sends the first round at once and the others from the loop. `done` (may be NULL) is called from the loop
 * after the last round. `netlink` is borrowed. Errors: no such bridge, no right to send, a bad address. A round
 * that fails later (link down for a moment) is counted and logged, the next is tried. */
int announce_start(struct loop *loop, struct netlink *netlink, const struct announce_spec *spec, loop_fn done,
        void *userdata, struct announce **ret_announce, struct error **ret_error);
/* Ends it after so many rounds, if it is to have more. */
void announce_shorten(struct announce *announce, unsigned int n_rounds);
/* Frames sent so far. */
unsigned int announce_n_sent(const struct announce *announce);
/* Stops and frees; accepts NULL. */
void announce_free(struct announce *announce);
DEFINE_CLEANUP(struct announce *, announce_free)

#define ANNOUNCE_FRAME_SIZE 60 /* minimum Ethernet frame without FCS */
/* The frames, for tests and for other senders. */
void announce_make_rarp(const uint8_t mac[static MAC_SIZE], uint8_t ret_frame[static ANNOUNCE_FRAME_SIZE]);
/* `ipv4` in network byte order. */
void announce_make_arp(const uint8_t mac[static MAC_SIZE], const uint8_t ipv4[static 4],
        uint8_t ret_frame[static ANNOUNCE_FRAME_SIZE]);

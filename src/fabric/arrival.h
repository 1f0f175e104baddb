/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Watches a guest's new port until the network has brought something to it there.
 *
 * Beside the announcement (announce.h) a neighbour, best the gateway, is asked for its MAC address, with the guest's own MAC address, which is here from now
 * on, and without an IP address (an ARP probe, RFC 5227): no neighbour writes anything down, however old what is known of the guest is. The answer
 * comes to the guest's port only if all switches between know where the guest is. For IPv6, where such answers would go to all, one neighbour is asked at its own MAC
 * address, as the guest: it answers the guest alone, and is not told where the guest is. */

#include "base/error.h"
#include "fabric/guest_addresses.h"
#include "io/loop.h"

struct arrival;
struct ovs_speaker;

struct arrival_spec {
        const char *bridge, *tap;
        uint8_t mac[MAC_SIZE];
        struct ip_address target; /* family 0: nobody is asked */
        /* With a target of IPv6: where it is, and the guest's address that it can answer. */
        uint8_t target_mac[MAC_SIZE];
        struct ip_address sender;
        /* Asks in the guest's name where the bridge is one of Open vSwitch; taken over. NULL: the bridge's own port does. */
        struct ovs_speaker *speaker;
        uint64_t limit_ms;
};

struct arrival_result {
        bool over;
        unsigned int n_asked;
        /* CLOCK_REALTIME; 0: did not come. */
        int64_t from_guest_ns; /* its first frame */
        int64_t to_guest_ns;   /* the first frame to it */
        int64_t answer_ns;     /* of the target */
};

/* `done` (may be NULL) once, from the loop: a target of IPv4 answered; with another one, or none, a frame came to the guest; or the time is over. */
int arrival_start(struct loop *loop, const struct arrival_spec *spec, loop_fn done, void *userdata,
        struct arrival **ret_arrival, struct error **ret_error);
const struct arrival_result *arrival_result(const struct arrival *arrival);
/* Accepts NULL. */
void arrival_free(struct arrival *arrival);
DEFINE_CLEANUP(struct arrival *, arrival_free)

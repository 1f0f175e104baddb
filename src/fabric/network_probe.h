/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Asks the network behind a port group who has some addresses, and whether frames of its MTU reach another host's port of it.
 *
 * The questions go out of the bridge device, to every port, with the bridge's own MAC address and without an IP address
 * (RFC 5227 "ARP probe", RFC 4862 "duplicate address detection"): no switch learns a guest's address by them, no
 * station writes anything down, and the kernel takes no part in the answers. Test frames have an EtherType of their own and go to the other bridge's
 * address alone, which sends them back while a probe with their nonce runs there, with another nonce that both were given on another way. */

#include "base/error.h"
#include "fabric/frame.h"
#include "io/loop.h"

struct network_probe;

#define NETWORK_PROBE_TARGETS_MAX 8
#define NETWORK_PROBE_ANSWERS_MAX 32

struct network_probe_spec {
        const char *bridge;
        const struct ip_address *targets;
        size_t n_targets;
        uint8_t nonce[FRAME_NONCE_SIZE]; /* of test frames */
        /* Of what is sent back. Whoever is at the other bridge knows it already, and no frame to it has it: a station that only sees the test frames
         * cannot make up an echo. */
        uint8_t echo_nonce[FRAME_NONCE_SIZE];
        const uint8_t *peer_mac; /* where test frames go; NULL: none are sent */
        uint32_t mtu;       /* of the port group: the size of the larger test frame, without its header */
        uint64_t listen_ms; /* at least, for further answers to what was answered */
        uint64_t limit_ms;  /* for all; 0: until it is freed, for one that only has to send back */
};

struct network_probe_answer {
        struct ip_address address;
        uint8_t mac[MAC_SIZE]; /* that answers for it */
        unsigned int n;
};

/* MAC address and MTU of a bridge (or another interface). 0 or a negative errno. */
int network_probe_interface(const char *bridge, uint8_t ret_mac[static MAC_SIZE], uint32_t *ret_mtu);

/* `done` once, from the loop: everything was answered, or nothing came for a while after the last question, or the time is over; the probe may be
 * freed inside, and takes frames until it is. May be NULL. */
int network_probe_start(struct loop *loop, const struct network_probe_spec *spec, loop_fn done,
        void *userdata, struct network_probe **ret_probe, struct error **ret_error);
/* Accepts NULL. */
void network_probe_free(struct network_probe *probe);
DEFINE_CLEANUP(struct network_probe *, network_probe_free)

/* All up to now; borrowed. */
const struct network_probe_answer *network_probe_answers(const struct network_probe *probe, size_t *ret_n);
/* How many rounds of questions were sent. */
unsigned int network_probe_n_rounds(const struct network_probe *probe);
/* Whether test frames of that size came back. */
bool network_probe_came_back(const struct network_probe *probe, bool is_large);

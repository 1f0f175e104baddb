/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the answers to a network proof mean (docs/decisions/0021-network-proof.md): pure, for migration_network.c.
 *
 * The guest runs at the source while its future port at the destination is tried. So its own answer is no sign of a conflict but the proof that
 * the port is on its segment: it must come, and the source, which sees the guest's port, must have seen the guest give it. What answers at the
 * destination and not from there is somebody else. And what does not answer there counts only if it answers at the source: what can have another
 * reason is a warning. */

#include <jansson.h>

#include "base/error.h"
#include "fabric/guest_addresses.h"

#define NETWORK_PROOF_OTHERS_MAX 8

struct network_proof_address {
        struct ip_address address;
        unsigned int
                n_guest; /* answers that the guest was seen to give to the destination's questions (ARP) */
        unsigned int n_there; /* answers that came there from the guest's MAC address */
        bool unsure;          /* n_guest may be too small: the guest's answers could not all be seen */
        unsigned int n_guest_here, n_here; /* likewise for the source's own questions: the control */
        struct network_proof_other {
                uint8_t mac[MAC_SIZE];
                bool at_source;             /* it answers there too */
        } others[NETWORK_PROOF_OTHERS_MAX]; /* other MAC addresses that answer for it at the destination */
        size_t n_others;
};

struct network_proof_gateway {
        struct ip_address address;
        bool there, at_source;
        bool same; /* from one MAC address at both */
};

struct network_proof_nic {
        unsigned int nic;
        const char *port_group, *source, *destination; /* names for people */
        uint8_t mac[MAC_SIZE];
        const char *problem; /* why nothing was tried; NULL: it was */
        const char *
                local_port; /* of the destination's switch, that has seen the MAC address at itself; NULL: none */
        struct network_proof_address addresses[GUEST_ADDRESSES_MAX];
        size_t n_addresses;
        struct network_proof_gateway gateways[GUEST_GATEWAYS_MAX];
        size_t n_gateways;
        bool small, large; /* test frames reached the other host's port and came back */
        uint32_t mtu;      /* that the large ones had */
};

/* Codes, in the order of the checks; docs/checks.md. */
#define NETWORK_PROOF_CODES(X) \
        X(SEGMENT, "network-segment") \
        X(MAC, "network-mac") \
        X(ADDRESS, "network-address") \
        X(GATEWAY, "network-gateway") \
        X(MTU, "network-mtu") \
        X(MADE, "network-proof")

enum network_proof_code {
#define X(name, text) NETWORK_PROOF_##name,
        NETWORK_PROOF_CODES(X)
#undef X
                N_NETWORK_PROOF_CODES,
};

/* Appends to `checks` what was found of this NIC: items like those of the manager's checks (code, severity, ok, object, cause, way_out). What
 * `accepted` (array of codes, may be NULL) names is a warning at most. 0 or -ENOMEM. */
int network_proof_judge(const struct network_proof_nic *nic, const json_t *accepted, json_t *checks);
/* The first error among them, and how many more there are; 0 without one. */
int network_proof_error(const json_t *checks, struct error **ret_error);

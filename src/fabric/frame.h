/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The few Ethernet frames that proofs of a network send and understand: ARP (RFC 826, probes as in RFC 5227), IPv6 neighbour
 * solicitations and advertisements (RFC 4861, 4862), the addresses of other IP packets, and our own test frames. What is
 * parsed comes from guests and from the network: nothing in it is believed but its form. */

#include "base/mac.h"
#include "base/macros.h"

struct ip_address {
        uint8_t family; /* 4 or 6; 0: none */
        uint8_t bytes[16];
};
#define IP_ADDRESS_STRING_SIZE 46 /* INET6_ADDRSTRLEN */

/* Numeric. 0 or -EINVAL. */
int ip_address_parse(const char *text, struct ip_address *ret);
/* "" for none. Returns ret. */
char *ip_address_format(const struct ip_address *address, char ret[static IP_ADDRESS_STRING_SIZE]);
bool ip_address_equal(const struct ip_address *a, const struct ip_address *b);
/* True for what one station alone can have: no group, broadcast, unspecified or loopback address. */
bool ip_address_is_unicast(const struct ip_address *address);

enum frame_kind {
        FRAME_OTHER,     /* not understood, or not well formed */
        FRAME_ASK,       /* ARP request, neighbour solicitation */
        FRAME_ANSWER,    /* ARP reply, neighbour advertisement */
        FRAME_IP,        /* any other packet */
        FRAME_TEST,      /* ours */
        FRAME_TEST_ECHO, /* sent back by whoever it was for */
};

#define FRAME_NONCE_SIZE 16
struct frame {
        enum frame_kind kind;
        uint8_t to[MAC_SIZE], from[MAC_SIZE];
        /* ASK: who asks (family 0: a probe, by somebody without an address), and for what. ANSWER: who has it, and for whom
         * (family 0 in an advertisement to all). IP: source and destination. */
        struct ip_address sender, target;
        uint8_t sender_mac
                [MAC_SIZE]; /* ANSWER: the address that is announced; ASK of ARP: whose it is said to be */
        bool is_large;      /* TEST, TEST_ECHO */
        uint8_t nonce[FRAME_NONCE_SIZE];
};

/* The first `len` bytes of a frame, which may have more. Never fails: see FRAME_OTHER. */
void frame_parse(const void *data, size_t len, struct frame *ret_frame);

#define FRAME_MIN_SIZE 60 /* Ethernet's, without FCS */
#define FRAME_ASK_SIZE 86 /* a solicitation with its option; ARP has FRAME_MIN_SIZE */
#define FRAME_HEADER_SIZE 14
/* Local experimental EtherType 1 (IEEE 802): no station takes it for something else. */
#define FRAME_TEST_TYPE 0x88b5

/* Asks who has `target`, as somebody without an address (RFC 5227, RFC 4862: nobody learns anything from it), or, with `sender`
 * not NULL, as `sender`. to: NULL for the group that such questions go to. A solicitation to one station does not say where the sender is: it answers, and
 * writes nothing down either (RFC 4861, section 7.2.3). Returns the length. */
size_t frame_make_ask(const uint8_t from[static MAC_SIZE], const uint8_t *to, const struct ip_address *sender,
        const struct ip_address *target, uint8_t ret_frame[static FRAME_ASK_SIZE]);

/* Header and payload of a test frame; the caller adds zeros up to the size that it wants. */
void frame_make_test(const uint8_t from[static MAC_SIZE], const uint8_t to[static MAC_SIZE],
        const uint8_t nonce[static FRAME_NONCE_SIZE], bool echo, bool is_large,
        uint8_t ret_frame[static FRAME_MIN_SIZE]);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Counts the answers of ARP that a guest gives, by who asked, at its tap: with a socket of its own, which a busy guest's other packets do not
 * fill. Whoever wants to know makes one, and it is nobody else's: what one of them counts, or its end, is of no matter to another. */

#include "fabric/guest_addresses.h"
#include "io/loop.h"

struct answer_count;

/* From now on, of the guest with that MAC address, for these addresses (at most GUEST_ADDRESSES_MAX). 0 or a negative errno. */
int answer_count_new(struct loop *loop, const char *tap, const uint8_t mac[static MAC_SIZE],
        const struct ip_address *addresses, size_t n, struct answer_count **ret_count);
/* Accepts NULL. */
void answer_count_free(struct answer_count *count);
DEFINE_CLEANUP(struct answer_count *, answer_count_free)

/* Up to now. False: some may have been missed. */
bool answer_count_read(struct answer_count *count, const uint8_t asker[static MAC_SIZE],
        const struct ip_address *address, unsigned int *ret_n);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Finds out how large packets really reach a host: ICMP echo requests of several sizes that may not be fragmented. An interface that
 * is set up for jumbo frames says nothing about the switches behind it; those drop what is too large without a word, and
 * a TCP connection, whose small packets pass, would stand still at its first large one (RFC 2923, "black hole"; RFC 4821). */

#include "base/error.h"
#include "io/loop.h"
#include "io/sock.h"

struct path_mtu;

/* Once, from the loop. `mtu`: the largest packet that was answered; 0: none was (ICMP may be filtered). The probe may be freed
 * inside. */
typedef void (*path_mtu_fn)(void *userdata, unsigned int mtu);

/* Sends requests of `largest` bytes (IP header and all) and of common smaller sizes through the interface `device` ("": as the
 * routes say), and waits limit_ms for the first answer. Needs CAP_NET_RAW. */
int path_mtu_start(struct loop *loop, const struct sock_address *address, const char *device,
        unsigned int largest, uint64_t limit_ms, path_mtu_fn fn, void *userdata, struct path_mtu **ret_probe,
        struct error **ret_error);
/* No call-back afterwards. Accepts NULL. */
void path_mtu_free(struct path_mtu *probe);
DEFINE_CLEANUP(struct path_mtu *, path_mtu_free)

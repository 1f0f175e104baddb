/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Packet sockets (packet(7)) on one interface, with a filter in the kernel, so that a busy guest's traffic costs no wake-up. */

#include <linux/filter.h>

#include "base/error.h"
#include "io/loop.h"

enum packet_wanted {
        PACKET_INCOMING = 0, /* what the interface receives: of a tap, what the guest sends */
        PACKET_OUTGOING_TOO = 1,
        PACKET_TIMES =
                2, /* when the kernel had each frame: as long as anybody wants that, it reads the clock for every frame of the host */
};

/* Raw, non-blocking. wanted: of enum packet_wanted. A filter says how many bytes of a frame are wanted; 0: not this one. buffer_bytes: room for frames
 * that were not read yet. -ENODEV, or whatever the kernel says (-EPERM without CAP_NET_RAW). */
int packet_socket_open(const char *interface, unsigned int wanted, const struct sock_filter *filter,
        size_t n_filter, size_t buffer_bytes, int *ret_fd);
/* Another filter, for what comes from now on. 0 or a negative errno: the one before stays. */
int packet_socket_set_filter(int fd, const struct sock_filter *filter, size_t n_filter);
/* Nothing comes in any more, and a later round of the loop closes it, since that takes long (loop_close_later()). *fd: -1 then; -1 is nothing. */
void packet_socket_close(struct loop *loop, int *fd);

struct packet_info {
        size_t size_bytes;   /* of the whole frame */
        int64_t realtime_ns; /* when the kernel had it, CLOCK_REALTIME; 0 without PACKET_TIMES */
        bool tagged;         /* it had a VLAN tag, which the kernel has taken off */
        bool outgoing;       /* the interface sends it: to the guest, at a tap */
};
/* Up to `size` bytes of the next frame: their number, or -EAGAIN or another errno. */
int packet_socket_receive(int fd, void *data, size_t size, size_t *ret_len, struct packet_info *ret_info);

/* How many frames it had no room for since the last call. */
unsigned int packet_socket_n_lost(int fd);

/* 0, or a negative errno: -EMSGSIZE for more than the interface's MTU. */
int packet_socket_send(int fd, const void *frame, size_t len);

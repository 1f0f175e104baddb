/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Sockets: addresses, listening, connecting, passing descriptors. All descriptors are CLOEXEC; those for a
 * loop are non-blocking. */

#include <net/if.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/macros.h"

#define SOCK_MAX_FDS 80 /* descriptors in one message */

struct sock_address {
        struct sockaddr_storage storage;
        socklen_t len;
};

/* "192.0.2.1:8444", "[2001:db8::1]:8444", or without a port (then default_port). Numeric only unless
 * `resolve`, which may block and is for start-up and the CLI. */
int sock_address_parse(const char *s, uint16_t default_port, bool resolve, struct sock_address *ret,
        struct error **ret_error);
/* Several of them with commas (and spaces) between, none twice, 1 to `max`. */
int sock_address_list_parse(const char *s, uint16_t default_port, size_t max, struct sock_address *ret,
        size_t *ret_n, struct error **ret_error);
/* "192.0.2.1:8444" */
char *sock_address_format(const struct sock_address *address, char ret[static 64]);
uint16_t sock_address_port(const struct sock_address *address);
void sock_address_set_port(struct sock_address *address, uint16_t port);

/* Listening, non-blocking TCP socket; port 0 takes a free one. */
int sock_listen_tcp(const struct sock_address *address, int backlog, int *ret_fd, struct error **ret_error);
/* The socket's own / its peer's address. */
int sock_local_address(int fd, struct sock_address *ret);
int sock_peer_address(int fd, struct sock_address *ret);

/* Starts a non-blocking connect; wait for EPOLLOUT, then ask sock_connect_result(): 0 or negative errno. */
int sock_connect_tcp_start(const struct sock_address *address, int *ret_fd);
/* The same through the interface `device` ("": as the routes say), with segments for packets of at most `mtu` bytes (0: of the
 * interface). */
int sock_connect_tcp_via(
        const struct sock_address *address, const char *device, unsigned int mtu, int *ret_fd);
int sock_connect_result(int fd);

/* Waits until the socket is ready for `events` (poll(2)), or has failed. 0, -ETIMEDOUT at the deadline (monotonic, of the clock), or another negative
 * errno. For calls with a limit outside an event loop. */
int sock_wait(int fd, short events, const struct clock *clock, uint64_t deadline_ms);

/* A peer that acknowledges nothing for limit_ms, or answers no keep-alive for as long, breaks the connection with ETIMEDOUT
 * (tcp(7): TCP_USER_TIMEOUT), also under a write that blocks. Connections accepted from a listening socket have its
 * limit. 0 or negative errno. */
int sock_set_peer_limit(int fd, uint64_t limit_ms);

/* What the kernel measured on a TCP connection: its round trip, and the largest packets that it sends. 0 or negative errno. */
int sock_measure_tcp(int fd, uint64_t *ret_rtt_us, unsigned int *ret_mtu);

/* The kernel's way to control congestion on a TCP connection, by name ("cubic", "bbr"). Setting: 0 or negative errno, -ENOENT where the
 * kernel has no such way. */
#define SOCK_CONGESTION_SIZE 16 /* the kernel's TCP_CA_NAME_MAX */
int sock_set_congestion(int fd, const char *name);
int sock_congestion(int fd, char ret_name[static SOCK_CONGESTION_SIZE]);

/* Interfaces of this host that work, by the order of their addresses, that reach `address` without a router: up to `max` names. How many. */
size_t sock_devices_on_link(const struct sock_address *address, char ret[][IFNAMSIZ], size_t max);
/* Name of the interface that has a connected socket's local address; false when there is none. */
bool sock_local_device(int fd, char ret[static IFNAMSIZ]);

/* AF_UNIX; `type` is SOCK_STREAM or SOCK_SEQPACKET; a stale socket file is replaced. Paths longer than
 * sun_path are reached through /proc/self/fd. The socket file is for its owner only (0600; chmod it to open it
 * up). -EADDRINUSE when somebody listens there, -EEXIST when it is no socket; -EAGAIN from connect when the
 * listener's queue is full. Both descriptors are non-blocking. */
int sock_listen_unix(const char *path, int type, int *ret_fd);
int sock_connect_unix(const char *path, int type, int *ret_fd);

/* One message with up to SOCK_MAX_FDS descriptors (SCM_RIGHTS; they stay the caller's). -EAGAIN when it would
 * block, -EINVAL for an empty message, -EMSGSIZE when a stream socket took a part only. */
int sock_send_fds(int fd, const void *data, size_t len, const int *fds, size_t n_fds);
/* Receives one message. Descriptors (CLOEXEC) become the caller's; n_fds is in: room, out: got. *ret_len 0:
 * the peer closed. -EMSGSIZE when the message or the descriptors do not fit (all are closed then). */
int sock_recv_fds(int fd, void *data, size_t size, size_t *ret_len, int *fds, size_t *n_fds);

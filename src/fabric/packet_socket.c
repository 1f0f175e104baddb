/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/packet_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/torture.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23 /* Linux 4.20 */
#endif

/* Bound only once the filter stands: nothing comes in that was not asked for. What an interface sends is cloned for each socket that
 * would see it, before any filter; so whoever does not want that says so to the kernel. */
static int set_up(int fd, const char *interface, unsigned int wanted, const struct sock_filter *filter,
        size_t n_filter, size_t buffer_bytes)
{
        const int on = 1, room = (int)buffer_bytes;
        struct sockaddr_ll where = {.sll_family = AF_PACKET,
                .sll_protocol = htons(ETH_P_ALL),
                .sll_ifindex = (int)if_nametoindex(interface)};
        int r = where.sll_ifindex ? packet_socket_set_filter(fd, filter, n_filter) : -ENODEV;

        if (r < 0)
                return r;
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)) < 0 ||
                setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &on, sizeof(on)) < 0)
                return -errno;
        if ((wanted & PACKET_TIMES) && setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) < 0)
                return -errno;
        if (!(wanted & PACKET_OUTGOING_TOO))
                (void)setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)); /* else below */
        return bind(fd, (struct sockaddr *)&where, sizeof(where)) < 0 ? -errno : 0;
}

int packet_socket_open(const char *interface, unsigned int wanted, const struct sock_filter *filter,
        size_t n_filter, size_t buffer_bytes, int *ret_fd)
{
        _cleanup_fd_ int fd =
                torture_point() ? -1 : socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int r;

        if (fd < 0)
                return -(errno ?: EIO);
        r = set_up(fd, interface, wanted, filter, n_filter, buffer_bytes);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int packet_socket_set_filter(int fd, const struct sock_filter *filter, size_t n_filter)
{
        const struct sock_fprog program = {
                .len = (unsigned short)n_filter, .filter = (struct sock_filter *)(uintptr_t)filter};

        return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

void packet_socket_close(struct loop *loop, int *fd)
{
        static const struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};

        if (*fd < 0)
                return;
        (void)packet_socket_set_filter(*fd, nothing, ARRAY_SIZE(nothing));
        loop_close_later(loop, *fd);
        *fd = -1;
}

int packet_socket_receive(int fd, void *data, size_t size, size_t *ret_len, struct packet_info *ret_info)
{
        union {
                struct cmsghdr header;
                char room[CMSG_SPACE(sizeof(struct timespec)) + CMSG_SPACE(sizeof(struct tpacket_auxdata))];
        } control;
        struct sockaddr_ll from = {0};
        struct iovec part = {.iov_base = data, .iov_len = size};
        struct msghdr message = {.msg_name = &from,
                .msg_namelen = sizeof(from),
                .msg_iov = &part,
                .msg_iovlen = 1,
                .msg_control = &control,
                .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &message, MSG_DONTWAIT | MSG_TRUNC);
        struct packet_info info = {.outgoing = from.sll_pkttype == PACKET_OUTGOING};

        if (n < 0)
                return -errno;
        info.size_bytes = (size_t)n;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                struct timespec at;
                struct tpacket_auxdata more;

                if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
                        memcpy(&more, CMSG_DATA(c), sizeof(more));
                        info.size_bytes = more.tp_len; /* the filter has cut the frame */
                        info.tagged = (more.tp_status & TP_STATUS_VLAN_VALID) != 0;
                } else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
                        memcpy(&at, CMSG_DATA(c), sizeof(at));
                        info.realtime_ns = (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
                }
        }
        *ret_len = MIN((size_t)n, size);
        *ret_info = info;
        return 0;
}

unsigned int packet_socket_n_lost(int fd)
{
        struct tpacket_stats stats = {0};
        socklen_t len = sizeof(stats);

        return getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len) < 0 ? 1 : stats.tp_drops;
}

int packet_socket_send(int fd, const void *frame, size_t len)
{
        return send(fd, frame, len, MSG_DONTWAIT) < 0 ? -errno : 0;
}

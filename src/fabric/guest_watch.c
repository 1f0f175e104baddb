/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/guest_watch.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>

#include "base/alloc.h"
#include "fabric/packet_socket.h"

#define BUFFER_BYTES (64 * 1024)
#define WANTED_BYTES 128
#define ROUND_FRAMES 16 /* then others have their turn */
#define REST_MS 50
#define DRAIN_FRAMES 512
struct guest_watch {
        struct loop *loop;
        struct loop_source *io, *rest;
        int fd;
        struct guest_addresses addresses;
};

/* Offsets are those of Ethernet without a VLAN tag. */
static const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_ARP, 13, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IP, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IPV6, 0, 10),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20), /* next header */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 2),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 54), /* its type */
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, ND_NEIGHBOR_SOLICIT, 5, 0),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 1, 4, 0), /* to a group */
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_RANDOM)),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 15),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 1),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, ND_NEIGHBOR_ADVERT, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, WANTED_BYTES),
};

/* False: there are no more. */
static bool take_next(struct guest_watch *watch)
{
        uint8_t data[WANTED_BYTES];
        struct packet_info info;
        struct frame f;
        size_t len;
        int r = packet_socket_receive(watch->fd, data, sizeof(data), &len, &info);

        if (r < 0)
                return r == -EINTR;
        if (info.outgoing || info.tagged)
                return true;
        frame_parse(data, len, &f);
        guest_addresses_take(&watch->addresses, &f);
        return true;
}

static void drain(struct guest_watch *watch)
{
        for (unsigned int i = 0; i < DRAIN_FRAMES && take_next(watch); i++)
                ;
}

static void on_rest_over(void *userdata)
{
        struct guest_watch *watch = userdata;

        (void)loop_source_set_events(watch->io, EPOLLIN);
}

static void on_frames(void *userdata, int fd _unused_, uint32_t events _unused_)
{
        struct guest_watch *watch = userdata;

        for (unsigned int i = 0; i < ROUND_FRAMES; i++)
                if (!take_next(watch))
                        break;
        if (loop_source_set_events(watch->io, 0) == 0)
                (void)loop_source_rearm(watch->rest, REST_MS);
}

int guest_watch_new(
        struct loop *loop, const char *tap, const uint8_t mac[static MAC_SIZE], struct guest_watch **ret)
{
        _cleanup_(guest_watch_freep) struct guest_watch *watch = ALLOC(struct guest_watch);
        int r;

        if (!watch)
                return -ENOMEM;
        watch->loop = loop;
        watch->fd = -1;
        guest_addresses_init(&watch->addresses, mac);
        r = packet_socket_open(tap, PACKET_INCOMING, filter, ARRAY_SIZE(filter), BUFFER_BYTES, &watch->fd);
        if (r == 0)
                r = loop_add_io(loop, watch->fd, EPOLLIN, on_frames, watch, &watch->io);
        if (r == 0)
                r = loop_add_timer(loop, REST_MS, on_rest_over, watch, &watch->rest);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(watch);
        return 0;
}

void guest_watch_free(struct guest_watch *watch)
{
        if (!watch)
                return;
        loop_source_free(watch->io);
        loop_source_free(watch->rest);
        packet_socket_close(watch->loop, &watch->fd);
        free(watch);
}

struct guest_addresses *guest_watch_addresses(struct guest_watch *watch)
{
        drain(watch);
        return &watch->addresses;
}

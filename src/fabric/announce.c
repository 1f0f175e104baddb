/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/announce.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/torture.h"
#include "fabric/packet_socket.h"

#define MAX_ROUNDS 1000

struct announce {
        struct loop *loop;
        struct netlink *netlink;
        struct loop_source *timer;
        int fd;
        int bridge_index;
        char tap[IFNAMSIZ];
        uint8_t mac[MAC_SIZE];
        uint8_t rarp[ANNOUNCE_FRAME_SIZE];
        uint8_t arp[ANNOUNCE_FRAME_SIZE];
        bool has_arp;
        unsigned int round;
        unsigned int n_rounds;
        unsigned int n_sent;
        loop_fn done;
        void *userdata;
};

/* Ethernet header and ARP body of RFC 826 / RFC 903, byte by byte. */
struct frame_v1 {
        uint8_t to[6], from[6];
        uint16_t type_be;
        uint16_t hardware_be, protocol_be;
        uint8_t hardware_len, protocol_len;
        uint16_t operation_be;
        uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
        uint8_t padding[18];
} __attribute__((packed));
static_assert(sizeof(struct frame_v1) == ANNOUNCE_FRAME_SIZE, "minimum Ethernet frame");

static struct frame_v1 make_frame(const uint8_t mac[static MAC_SIZE], uint16_t type, uint16_t operation)
{
        struct frame_v1 f = {.type_be = htons(type),
                .hardware_be = htons(ARPHRD_ETHER),
                .protocol_be = htons(ETHERTYPE_IP),
                .hardware_len = 6,
                .protocol_len = 4,
                .operation_be = htons(operation)};

        memset(f.to, 0xff, sizeof(f.to));
        memcpy(f.from, mac, MAC_SIZE);
        memcpy(f.sender_mac, mac, MAC_SIZE);
        return f;
}

void announce_make_rarp(const uint8_t mac[static MAC_SIZE], uint8_t ret_frame[static ANNOUNCE_FRAME_SIZE])
{
        struct frame_v1 f = make_frame(mac, ETHERTYPE_REVARP, ARPOP_RREQUEST);

        memcpy(f.target_mac, mac, MAC_SIZE);
        memcpy(ret_frame, &f, sizeof(f));
}

void announce_make_arp(const uint8_t mac[static MAC_SIZE], const uint8_t ipv4[static 4],
        uint8_t ret_frame[static ANNOUNCE_FRAME_SIZE])
{
        struct frame_v1 f = make_frame(mac, ETHERTYPE_ARP, ARPOP_REQUEST);

        memcpy(f.sender_ip, ipv4, 4);
        memcpy(f.target_ip, ipv4, 4);
        memcpy(ret_frame, &f, sizeof(f));
}

uint64_t announce_delay_ms(unsigned int round)
{
        return round == 0 ? 0 : round == 1 ? 50 : round < 10 ? 100 : 1000;
}

static int send_frame(struct announce *a, const uint8_t frame[static ANNOUNCE_FRAME_SIZE])
{
        struct sockaddr_ll to = {
                .sll_family = AF_PACKET, .sll_ifindex = a->bridge_index, .sll_halen = MAC_SIZE};

        memset(to.sll_addr, 0xff, MAC_SIZE);
        if (sendto(a->fd, frame, ANNOUNCE_FRAME_SIZE, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof(to)) < 0)
                return -errno;
        a->n_sent++;
        return 0;
}

/* The entry first: the answer to a frame may come back before the next line runs. It is set in each round, since
 * frames of the guest that are still on their way from its old host would turn it back. */
static int send_round(struct announce *a)
{
        int r, r2;

        r = netlink_fdb_replace(a->netlink, a->tap, a->mac);
        if (r < 0)
                log_debug("announcement: the bridge did not take the entry for %s: %s", a->tap, strerror(-r));
        r = send_frame(a, a->rarp);
        if (a->has_arp) {
                r2 = send_frame(a, a->arp);
                r = r < 0 ? r : r2;
        }
        a->round++;
        return r;
}

static void on_timer(void *userdata)
{
        struct announce *a = userdata;
        int r;

        if (a->round >= a->n_rounds) {
                packet_socket_close(a->loop, &a->fd); /* we are kept for as long as the guest runs */
                if (a->done)
                        a->done(a->userdata); /* may free us */
                return;
        }
        r = send_round(a);
        if (r < 0)
                log_debug("announcement on %s, round %u: %s", a->tap, a->round, strerror(-r));
        r = loop_source_rearm(a->timer, a->round < a->n_rounds ? announce_delay_ms(a->round) : 0);
        if (r < 0)
                log_warning("the announcement on %s ends early: %s", a->tap, strerror(-r));
}

static int fill(struct announce *a, const struct announce_spec *spec, struct error **ret_error)
{
        uint8_t ipv4[4];

        a->n_rounds = MIN(spec->n_rounds ?: ANNOUNCE_ROUNDS_DEFAULT, (unsigned int)MAX_ROUNDS);
        snprintf(a->tap, sizeof(a->tap), "%s", spec->tap);
        memcpy(a->mac, spec->mac, MAC_SIZE);
        if (!mac_is_unicast(spec->mac))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Give the NIC a unicast MAC address.",
                        "a guest's MAC address cannot be a group address or zero");
        announce_make_rarp(spec->mac, a->rarp);
        if (spec->ipv4) {
                if (inet_pton(AF_INET, spec->ipv4, ipv4) != 1)
                        return error_set(
                                ret_error, ERROR_BAD_DOCUMENT, NULL, "\"%s\" is no IPv4 address", spec->ipv4);
                announce_make_arp(spec->mac, ipv4, a->arp);
                a->has_arp = true;
        }
        a->bridge_index = (int)if_nametoindex(spec->bridge);
        if (!a->bridge_index)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "there is no bridge %s", spec->bridge);
        return 0;
}

int announce_start(struct loop *loop, struct netlink *netlink, const struct announce_spec *spec, loop_fn done,
        void *userdata, struct announce **ret_announce, struct error **ret_error)
{
        _cleanup_(announce_freep) struct announce *a = ALLOC(struct announce);
        int r;

        if (!a)
                return error_from_errno(ret_error, ENOMEM, "cannot announce the guest");
        *a = (struct announce){
                .loop = loop, .netlink = netlink, .fd = -1, .done = done, .userdata = userdata};
        r = fill(a, spec, ret_error);
        if (r < 0)
                return r;
        /* Protocol 0: for sending only, nothing is ever received into it. */
        a->fd = torture_point() ? -1 : socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (a->fd < 0)
                return error_from_errno(ret_error, errno ?: EIO, "cannot open a packet socket");
        r = send_round(a);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot announce the guest on %s", spec->bridge);
        r = loop_add_timer(loop, announce_delay_ms(a->round), on_timer, a, &a->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot arm the announcement's timer");
        *ret_announce = TAKE_PTR(a);
        return 0;
}

void announce_shorten(struct announce *announce, unsigned int n_rounds)
{
        announce->n_rounds = MIN(announce->n_rounds, n_rounds);
}

unsigned int announce_n_sent(const struct announce *announce)
{
        return announce->n_sent;
}

void announce_free(struct announce *announce)
{
        if (!announce)
                return;
        loop_source_free(announce->timer);
        packet_socket_close(announce->loop, &announce->fd);
        free(announce);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/guest_watch.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
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
#define ASKERS_MAX 64
#define COUNT_BUFFER_BYTES (256 * 1024)
#define COUNT_FRAMES 2048

struct asker {
        uint8_t mac[MAC_SIZE];
        struct ip_address asked_for;
        unsigned int n;
};

struct guest_watch {
        struct loop *loop;
        struct loop_source *io, *rest;
        int fd;
        struct guest_addresses addresses;
        char tap[IFNAMSIZ];
        int count_fd; /* -1: nothing is counted */
        bool missed;
        struct ip_address counted[GUEST_ADDRESSES_MAX];
        size_t n_counted;
        struct asker askers[ASKERS_MAX];
        size_t n_askers;
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

static const struct sock_filter answers_only[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_ARP, 0, 2),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARPOP_REPLY, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, WANTED_BYTES),
};

static struct asker *asker_of(struct guest_watch *watch, const uint8_t *mac, const struct ip_address *address)
{
        for (size_t i = 0; i < watch->n_askers; i++)
                if (!memcmp(watch->askers[i].mac, mac, MAC_SIZE) &&
                        ip_address_equal(&watch->askers[i].asked_for, address))
                        return &watch->askers[i];
        return NULL;
}

static void count(struct guest_watch *watch, const struct frame *f)
{
        struct asker *asker;
        size_t i = 0;

        while (i < watch->n_counted && !ip_address_equal(&watch->counted[i], &f->sender))
                i++;
        if (f->kind != FRAME_ANSWER || memcmp(f->from, watch->addresses.mac, MAC_SIZE) != 0 ||
                i == watch->n_counted)
                return;
        asker = asker_of(watch, f->to, &f->sender);
        if (!asker && watch->n_askers < ASKERS_MAX) {
                asker = &watch->askers[watch->n_askers++];
                *asker = (struct asker){.asked_for = f->sender};
                memcpy(asker->mac, f->to, MAC_SIZE);
        }
        if (asker)
                asker->n++;
        else
                watch->missed = true;
}

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
        watch->fd = watch->count_fd = -1;
        snprintf(watch->tap, sizeof(watch->tap), "%s", tap);
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
        packet_socket_close(watch->loop, &watch->count_fd);
        free(watch);
}

struct guest_addresses *guest_watch_addresses(struct guest_watch *watch)
{
        drain(watch);
        return &watch->addresses;
}

void guest_watch_count(struct guest_watch *watch, const struct ip_address *addresses, size_t n)
{
        watch->n_askers = 0;
        watch->n_counted = MIN(n, (size_t)GUEST_ADDRESSES_MAX);
        for (size_t i = 0; i < watch->n_counted; i++)
                watch->counted[i] = addresses[i];
        guest_watch_stop_counting(watch);
        watch->missed = packet_socket_open(watch->tap, PACKET_INCOMING, answers_only,
                                ARRAY_SIZE(answers_only), COUNT_BUFFER_BYTES, &watch->count_fd) < 0;
}

static void count_all(struct guest_watch *watch)
{
        uint8_t data[WANTED_BYTES];
        struct packet_info info;
        unsigned int i = 0;
        struct frame f;
        size_t len;

        while (i++ < COUNT_FRAMES &&
                packet_socket_receive(watch->count_fd, data, sizeof(data), &len, &info) == 0) {
                frame_parse(data, len, &f);
                if (!info.outgoing && !info.tagged)
                        count(watch, &f);
        }
        watch->missed |= i > COUNT_FRAMES || packet_socket_n_lost(watch->count_fd) > 0;
}

bool guest_watch_n_answers(struct guest_watch *watch, const uint8_t asker[static MAC_SIZE],
        const struct ip_address *address, unsigned int *ret_n)
{
        const struct asker *it;

        if (watch->count_fd >= 0)
                count_all(watch);
        it = asker_of(watch, asker, address);
        *ret_n = it ? it->n : 0;
        return watch->count_fd >= 0 && !watch->missed;
}

void guest_watch_stop_counting(struct guest_watch *watch)
{
        packet_socket_close(watch->loop, &watch->count_fd);
}

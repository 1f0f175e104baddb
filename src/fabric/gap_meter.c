/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/gap_meter.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>

#include "base/alloc.h"
#include "fabric/network_probe.h"
#include "fabric/packet_socket.h"

#define BUFFER_BYTES (64 * 1024)
#define WANTED_BYTES 64
#define ROUND_FRAMES 32

struct gap_meter {
        struct loop *loop;
        struct loop_source *io, *asks;
        int fd;
        char bridge[IFNAMSIZ];
        uint8_t mac[MAC_SIZE];
        struct ip_address address;
        uint8_t question[FRAME_ASK_SIZE];
        size_t question_len;
        int64_t stopped_ns, first_ns;
        unsigned int n_asked;
};

static const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_ARP, 0, 2),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARPOP_REPLY, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, WANTED_BYTES),
};

/* A bridge has the lowest of its ports' addresses: another one when the guest's port here goes. */
static int make_question(struct gap_meter *meter)
{
        uint8_t own[MAC_SIZE];
        uint32_t mtu;
        int r = network_probe_interface(meter->bridge, own, &mtu);

        if (r == 0)
                meter->question_len = frame_make_ask(own, meter->mac, NULL, &meter->address, meter->question);
        return r;
}

static void on_ask(void *userdata)
{
        struct gap_meter *meter = userdata;

        if (meter->n_asked++ >= GAP_METER_LIMIT_MS / GAP_METER_INTERVAL_MS) {
                loop_source_free(TAKE_PTR(meter->asks));
                loop_source_free(TAKE_PTR(meter->io));
                return;
        }
        (void)make_question(meter);
        (void)packet_socket_send(meter->fd, meter->question, meter->question_len);
        (void)loop_source_rearm(meter->asks, GAP_METER_INTERVAL_MS);
}

static void take(struct gap_meter *meter, const struct frame *f, int64_t at_ns)
{
        if (f->kind != FRAME_ANSWER || memcmp(f->sender_mac, meter->mac, MAC_SIZE) != 0 ||
                !ip_address_equal(&f->sender, &meter->address) || at_ns <= meter->stopped_ns)
                return;
        meter->first_ns = at_ns;
        loop_source_free(TAKE_PTR(meter->asks));
}

static void on_frames(void *userdata, int fd, uint32_t events _unused_)
{
        struct gap_meter *meter = userdata;

        for (unsigned int i = 0; i < ROUND_FRAMES && !meter->first_ns; i++) {
                uint8_t data[WANTED_BYTES];
                struct packet_info info;
                struct frame f;
                size_t len;

                if (packet_socket_receive(fd, data, sizeof(data), &len, &info) < 0)
                        return;
                if (info.outgoing || info.tagged)
                        continue;
                frame_parse(data, len, &f);
                take(meter, &f, info.realtime_ns);
        }
        if (meter->first_ns)
                loop_source_free(TAKE_PTR(meter->io));
}

int gap_meter_start(struct loop *loop, const char *bridge, const uint8_t mac[static MAC_SIZE],
        const struct ip_address *address, int64_t stopped_ns, struct gap_meter **ret_meter)
{
        _cleanup_(gap_meter_freep) struct gap_meter *meter = ALLOC(struct gap_meter);
        int r;

        if (!meter)
                return -ENOMEM;
        *meter = (struct gap_meter){.loop = loop, .fd = -1, .address = *address, .stopped_ns = stopped_ns};
        memcpy(meter->mac, mac, MAC_SIZE);
        snprintf(meter->bridge, sizeof(meter->bridge), "%s", bridge);
        r = make_question(meter);
        if (r == 0)
                r = packet_socket_open(bridge, PACKET_INCOMING | PACKET_TIMES, filter, ARRAY_SIZE(filter),
                        BUFFER_BYTES, &meter->fd);
        if (r == 0)
                r = loop_add_io(loop, meter->fd, EPOLLIN, on_frames, meter, &meter->io);
        if (r == 0)
                r = loop_add_timer(loop, 0, on_ask, meter, &meter->asks);
        if (r < 0)
                return r;
        *ret_meter = TAKE_PTR(meter);
        return 0;
}

bool gap_meter_result(const struct gap_meter *meter, int64_t *ret_first_ns)
{
        if (!meter->first_ns)
                return false;
        *ret_first_ns = meter->first_ns;
        return true;
}

bool gap_meter_asks(const struct gap_meter *meter)
{
        return meter->asks != NULL;
}

void gap_meter_free(struct gap_meter *meter)
{
        if (!meter)
                return;
        loop_source_free(meter->io);
        loop_source_free(meter->asks);
        packet_socket_close(meter->loop, &meter->fd);
        free(meter);
}

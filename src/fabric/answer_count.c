/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/answer_count.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <string.h>

#include "base/alloc.h"
#include "fabric/packet_socket.h"

#define ASKERS_MAX 64
#define BUFFER_BYTES (256 * 1024)
#define WANTED_BYTES 128
#define FRAMES_MAX 2048 /* at once */

struct asker {
        uint8_t mac[MAC_SIZE];
        struct ip_address asked_for;
        unsigned int n;
};

struct answer_count {
        struct loop *loop;
        int fd;
        uint8_t mac[MAC_SIZE]; /* the guest's */
        bool missed;
        struct ip_address addresses[GUEST_ADDRESSES_MAX];
        size_t n_addresses;
        struct asker askers[ASKERS_MAX];
        size_t n_askers;
};

static const struct sock_filter answers_only[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_ARP, 0, 2),
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARPOP_REPLY, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, WANTED_BYTES),
};

int answer_count_new(struct loop *loop, const char *tap, const uint8_t mac[static MAC_SIZE],
        const struct ip_address *addresses, size_t n, struct answer_count **ret_count)
{
        _cleanup_(answer_count_freep) struct answer_count *count = ALLOC(struct answer_count);
        int r;

        if (!count)
                return -ENOMEM;
        count->loop = loop;
        count->fd = -1;
        memcpy(count->mac, mac, MAC_SIZE);
        count->n_addresses = MIN(n, (size_t)GUEST_ADDRESSES_MAX);
        for (size_t i = 0; i < count->n_addresses; i++)
                count->addresses[i] = addresses[i];
        r = packet_socket_open(
                tap, PACKET_INCOMING, answers_only, ARRAY_SIZE(answers_only), BUFFER_BYTES, &count->fd);
        if (r < 0)
                return r;
        *ret_count = TAKE_PTR(count);
        return 0;
}

void answer_count_free(struct answer_count *count)
{
        if (!count)
                return;
        packet_socket_close(count->loop, &count->fd);
        free(count);
}

static struct asker *asker_of(
        struct answer_count *count, const uint8_t *mac, const struct ip_address *address)
{
        for (size_t i = 0; i < count->n_askers; i++)
                if (!memcmp(count->askers[i].mac, mac, MAC_SIZE) &&
                        ip_address_equal(&count->askers[i].asked_for, address))
                        return &count->askers[i];
        return NULL;
}

static void take(struct answer_count *count, const struct frame *f)
{
        struct asker *asker;
        size_t i = 0;

        while (i < count->n_addresses && !ip_address_equal(&count->addresses[i], &f->sender))
                i++;
        if (f->kind != FRAME_ANSWER || memcmp(f->from, count->mac, MAC_SIZE) != 0 || i == count->n_addresses)
                return;
        asker = asker_of(count, f->to, &f->sender);
        if (!asker && count->n_askers < ASKERS_MAX) {
                asker = &count->askers[count->n_askers++];
                *asker = (struct asker){.asked_for = f->sender};
                memcpy(asker->mac, f->to, MAC_SIZE);
        }
        if (asker)
                asker->n++;
        else
                count->missed = true;
}

static void take_all(struct answer_count *count)
{
        uint8_t data[WANTED_BYTES];
        struct packet_info info;
        unsigned int i = 0;
        struct frame f;
        size_t len;

        while (i++ < FRAMES_MAX && packet_socket_receive(count->fd, data, sizeof(data), &len, &info) == 0) {
                frame_parse(data, len, &f);
                if (!info.outgoing && !info.tagged)
                        take(count, &f);
        }
        count->missed |= i > FRAMES_MAX || packet_socket_n_lost(count->fd) > 0;
}

bool answer_count_read(struct answer_count *count, const uint8_t asker[static MAC_SIZE],
        const struct ip_address *address, unsigned int *ret_n)
{
        const struct asker *it;

        take_all(count);
        it = asker_of(count, asker, address);
        *ret_n = it ? it->n : 0;
        return !count->missed;
}

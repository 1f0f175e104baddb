/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/network_probe.h"

#include <errno.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/alloc.h"
#include "fabric/packet_socket.h"

#define BUFFER_BYTES (256 * 1024)
#define WANTED_BYTES 128
#define ROUND_FRAMES 64
#define ROUNDS_MAX 6
#define ROUND_MS 80
#define ECHOES_MAX 32 /* to whoever knows the nonce */
#define FRAME_MAX 65550

struct network_probe {
        struct loop *loop;
        struct loop_source *io, *rounds, *end;
        int fd;
        uint8_t mac[MAC_SIZE], peer_mac[MAC_SIZE], nonce[FRAME_NONCE_SIZE], echo_nonce[FRAME_NONCE_SIZE];
        bool tests;
        uint32_t mtu;
        struct ip_address targets[NETWORK_PROBE_TARGETS_MAX];
        size_t n_targets;
        struct network_probe_answer answers[NETWORK_PROBE_ANSWERS_MAX];
        size_t n_answers;
        bool small, large;
        unsigned int n_rounds, n_echoes;
        uint64_t started_ms, listen_ms;
        bool over;
        loop_fn done;
        void *userdata;
};

static const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_ARP, 7, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FRAME_TEST_TYPE, 6, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_IPV6, 0, 4),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 20),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 2),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 54),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ND_NEIGHBOR_ADVERT, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, WANTED_BYTES),
};

int network_probe_interface(const char *bridge, uint8_t ret_mac[static MAC_SIZE], uint32_t *ret_mtu)
{
        _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifreq request = {0};

        if (fd < 0)
                return -errno;
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
        if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
                return -errno;
        if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
                return -EOPNOTSUPP;
        memcpy(ret_mac, request.ifr_hwaddr.sa_data, MAC_SIZE);
        if (ioctl(fd, SIOCGIFMTU, &request) < 0)
                return -errno;
        *ret_mtu = (uint32_t)request.ifr_mtu;
        return 0;
}

static void send_test(struct network_probe *p, const uint8_t *to, bool echo, bool is_large, size_t size)
{
        _cleanup_free_ uint8_t *frame = NULL;

        size = CLAMP(size, (size_t)FRAME_MIN_SIZE, (size_t)FRAME_MAX);
        frame = alloc_zero(size);
        if (!frame)
                return;
        frame_make_test(p->mac, to, echo ? p->echo_nonce : p->nonce, echo, is_large, frame);
        (void)packet_socket_send(p->fd, frame, size); /* what cannot leave does not come back */
}

static bool is_answered(const struct network_probe *p, const struct ip_address *target)
{
        for (size_t i = 0; i < p->n_answers; i++)
                if (ip_address_equal(&p->answers[i].address, target))
                        return true;
        return false;
}

static bool is_complete(const struct network_probe *p)
{
        for (size_t i = 0; i < p->n_targets; i++)
                if (!is_answered(p, &p->targets[i]))
                        return false;
        return !p->tests || (p->small && p->large);
}

static void finish(struct network_probe *p)
{
        if (p->over)
                return;
        p->over = true;
        loop_source_free(TAKE_PTR(p->rounds));
        loop_source_free(TAKE_PTR(p->end));
        if (p->done)
                p->done(p->userdata); /* may free us */
}

static void take_all(struct network_probe *p);

/* On a busy host it may be late, and answers wait to be read. */
static void on_end(void *userdata)
{
        take_all(userdata);
        finish(userdata);
}

static void send_round(struct network_probe *p)
{
        uint8_t frame[FRAME_ASK_SIZE];

        /* What was answered is asked again too: another station with the address may have been slower. */
        for (size_t i = 0; i < p->n_targets; i++) {
                size_t len = frame_make_ask(p->mac, NULL, NULL, &p->targets[i], frame);

                (void)packet_socket_send(p->fd, frame, len);
        }
        if (p->tests && !p->small)
                send_test(p, p->peer_mac, false, false, FRAME_MIN_SIZE);
        if (p->tests && !p->large)
                send_test(p, p->peer_mac, false, true, p->mtu + (size_t)FRAME_HEADER_SIZE);
        p->n_rounds++;
}

static void on_round(void *userdata)
{
        struct network_probe *p = userdata;

        take_all(p);
        if (is_complete(p) && clock_now_ms(loop_clock(p->loop)) - p->started_ms >= p->listen_ms) {
                finish(p);
                return;
        }
        if (p->n_rounds == ROUNDS_MAX) {
                finish(p);
                return;
        }
        send_round(p);
        /* The last question is listened for as long as the first at least. */
        (void)loop_source_rearm(
                p->rounds, p->n_rounds == ROUNDS_MAX ? MAX(ROUND_MS, p->listen_ms) : (uint64_t)ROUND_MS);
}

static void take_answer(struct network_probe *p, const struct frame *f)
{
        size_t i = 0;

        while (i < p->n_targets && !ip_address_equal(&p->targets[i], &f->sender))
                i++;
        if (i == p->n_targets)
                return;
        for (i = 0; i < p->n_answers; i++)
                if (ip_address_equal(&p->answers[i].address, &f->sender) &&
                        !memcmp(p->answers[i].mac, f->sender_mac, MAC_SIZE))
                        break;
        if (i == NETWORK_PROBE_ANSWERS_MAX)
                return;
        if (i == p->n_answers) {
                p->answers[p->n_answers++] = (struct network_probe_answer){.address = f->sender};
                memcpy(p->answers[i].mac, f->sender_mac, MAC_SIZE);
        }
        p->answers[i].n++;
}

static void take_frame(struct network_probe *p, const struct frame *f, size_t size)
{
        bool to_us = !memcmp(f->to, p->mac, MAC_SIZE);

        if (f->kind == FRAME_ANSWER)
                take_answer(p, f);
        else if (f->kind == FRAME_TEST && to_us && !memcmp(f->nonce, p->nonce, FRAME_NONCE_SIZE) &&
                 p->n_echoes++ < ECHOES_MAX)
                send_test(p, f->from, true, f->is_large, size);
        else if (f->kind == FRAME_TEST_ECHO && to_us && p->tests &&
                 !memcmp(f->nonce, p->echo_nonce, FRAME_NONCE_SIZE) &&
                 !memcmp(f->from, p->peer_mac, MAC_SIZE)) {
                p->small |= !f->is_large;
                p->large |= f->is_large && size >= p->mtu + (size_t)FRAME_HEADER_SIZE;
        }
}

static void take_all(struct network_probe *p)
{
        for (unsigned int i = 0; i < ROUND_FRAMES; i++) {
                uint8_t data[WANTED_BYTES];
                struct packet_info info;
                struct frame f;
                size_t len;

                if (packet_socket_receive(p->fd, data, sizeof(data), &len, &info) < 0)
                        break;
                if (info.outgoing || info.tagged)
                        continue;
                frame_parse(data, len, &f);
                take_frame(p, &f, info.size_bytes);
        }
}

static void on_frames(void *userdata, int fd _unused_, uint32_t events _unused_)
{
        take_all(userdata);
}

static int arm(struct network_probe *p, uint64_t limit_ms)
{
        int r = loop_add_io(p->loop, p->fd, EPOLLIN, on_frames, p, &p->io);

        if (r == 0 && limit_ms)
                r = loop_add_timer(p->loop, limit_ms, on_end, p, &p->end);
        if (r == 0 && (p->n_targets || p->tests))
                r = loop_add_timer(p->loop, ROUND_MS, on_round, p, &p->rounds);
        return r;
}

int network_probe_start(struct loop *loop, const struct network_probe_spec *spec, loop_fn done,
        void *userdata, struct network_probe **ret_probe, struct error **ret_error)
{
        _cleanup_(network_probe_freep) struct network_probe *p = ALLOC(struct network_probe);
        uint32_t own_mtu = 0;
        int r;

        if (!p)
                return error_from_errno(ret_error, ENOMEM, "probe of the network");
        *p = (struct network_probe){.loop = loop,
                .fd = -1,
                .n_targets = MIN(spec->n_targets, (size_t)NETWORK_PROBE_TARGETS_MAX),
                .tests = spec->peer_mac != NULL,
                .started_ms = clock_now_ms(loop_clock(loop)),
                .listen_ms = spec->listen_ms,
                .done = done,
                .userdata = userdata};
        memcpy(p->nonce, spec->nonce, FRAME_NONCE_SIZE);
        memcpy(p->echo_nonce, spec->echo_nonce, FRAME_NONCE_SIZE);
        for (size_t i = 0; i < p->n_targets; i++)
                p->targets[i] = spec->targets[i];
        if (spec->peer_mac)
                memcpy(p->peer_mac, spec->peer_mac, MAC_SIZE);
        r = network_probe_interface(spec->bridge, p->mac, &own_mtu);
        p->mtu = MIN(spec->mtu, own_mtu);
        if (r == 0)
                r = packet_socket_open(
                        spec->bridge, PACKET_INCOMING, filter, ARRAY_SIZE(filter), BUFFER_BYTES, &p->fd);
        if (r == 0)
                r = arm(p, spec->limit_ms);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot probe the network on %s", spec->bridge);
        if (p->rounds)
                send_round(p);
        *ret_probe = TAKE_PTR(p);
        return 0;
}

void network_probe_free(struct network_probe *probe)
{
        if (!probe)
                return;
        loop_source_free(probe->io);
        loop_source_free(probe->rounds);
        loop_source_free(probe->end);
        packet_socket_close(probe->loop, &probe->fd);
        free(probe);
}

const struct network_probe_answer *network_probe_answers(const struct network_probe *probe, size_t *ret_n)
{
        *ret_n = probe->n_answers;
        return probe->answers;
}

unsigned int network_probe_n_rounds(const struct network_probe *probe)
{
        return probe->n_rounds;
}

bool network_probe_came_back(const struct network_probe *probe, bool is_large)
{
        return is_large ? probe->large : probe->small;
}

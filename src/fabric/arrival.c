/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/arrival.h"

#include <assert.h>
#include <errno.h>
#include <net/ethernet.h>
#include <string.h>

#include "base/alloc.h"
#include "fabric/announce.h"
#include "fabric/ovs_speaker.h"
#include "fabric/packet_socket.h"

#define BUFFER_BYTES (64 * 1024)
#define WANTED_BYTES 128
#define ROUND_FRAMES 32

struct arrival {
        struct loop *loop;
        struct loop_source *io, *asks, *end;
        int tap_fd, bridge_fd;
        struct arrival_spec spec;
        struct arrival_result result;
        loop_fn done;
        void *userdata;
};

#define N_FILTER 14

/* Frames from the guest's address and to it, up to the first of each, and the answers of ARP to it: what a busy guest is sent for as long as its
 * arrival is watched fills nothing and wakes nobody. */
static void make_filter(const struct arrival *a, struct sock_filter ret[static N_FILTER])
{
        const uint8_t *mac = a->spec.mac;
        uint32_t high4 = (uint32_t)mac[0] << 24 | (uint32_t)mac[1] << 16 | (uint32_t)mac[2] << 8 | mac[3];
        uint32_t low2 = (uint32_t)mac[4] << 8 | mac[5], high2 = (uint32_t)mac[0] << 8 | mac[1];
        uint32_t low4 = (uint32_t)mac[2] << 24 | (uint32_t)mac[3] << 16 | (uint32_t)mac[4] << 8 | mac[5];
        const struct sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high4, 0, 2),
                BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 4),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low2, 6, 0),
                BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 6),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, high2, 0, 3),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, low4, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, a->result.from_guest_ns ? 0 : WANTED_BYTES),
                BPF_STMT(BPF_RET | BPF_K, 0),
                BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ETHERTYPE_ARP, 1, 0),
                BPF_STMT(BPF_RET | BPF_K, a->result.to_guest_ns ? 0 : WANTED_BYTES),
                BPF_STMT(BPF_RET | BPF_K, WANTED_BYTES),
        };

        static_assert(ARRAY_SIZE(filter) == N_FILTER, "room for the filter");
        memcpy(ret, filter, sizeof(filter));
}

static void narrow(struct arrival *a)
{
        struct sock_filter filter[N_FILTER];

        make_filter(a, filter);
        (void)packet_socket_set_filter(
                a->tap_fd, filter, ARRAY_SIZE(filter)); /* else more comes in than is needed */
}

/* Sends only. */
static const struct sock_filter no_filter[] = {BPF_STMT(BPF_RET | BPF_K, 0)};

static bool asks(const struct arrival *a)
{
        return a->spec.target.family != 0;
}

/* What comes to it when nobody was asked by ARP may be an answer of another kind, and is as good: it was for the guest's address. */
static bool has_arrived(const struct arrival *a)
{
        return a->spec.target.family == 4 ? a->result.answer_ns : a->result.to_guest_ns;
}

static void finish(void *userdata)
{
        struct arrival *a = userdata;

        if (a->result.over)
                return;
        a->result.over = true;
        loop_source_free(TAKE_PTR(a->io));
        loop_source_free(TAKE_PTR(a->asks));
        loop_source_free(TAKE_PTR(a->end));
        packet_socket_close(a->loop, &a->tap_fd);
        packet_socket_close(a->loop, &a->bridge_fd);
        if (a->done)
                a->done(a->userdata); /* may free us */
}

static void take(struct arrival *a, const struct frame *f, const struct packet_info *info)
{
        if (info->outgoing) {
                if (memcmp(f->to, a->spec.mac, MAC_SIZE) != 0)
                        return; /* our own announcement, which goes to every port */
                a->result.to_guest_ns = a->result.to_guest_ns ?: info->realtime_ns;
                if (asks(a) && f->kind == FRAME_ANSWER && ip_address_equal(&f->sender, &a->spec.target))
                        a->result.answer_ns = info->realtime_ns;
        } else if (!memcmp(f->from, a->spec.mac, MAC_SIZE)) {
                a->result.from_guest_ns = a->result.from_guest_ns ?: info->realtime_ns;
        }
}

static void on_frames(void *userdata, int fd, uint32_t events _unused_)
{
        struct arrival *a = userdata;

        bool from_guest = a->result.from_guest_ns, to_guest = a->result.to_guest_ns;

        for (unsigned int i = 0; i < ROUND_FRAMES; i++) {
                uint8_t data[WANTED_BYTES];
                struct packet_info info;
                struct frame f;
                size_t len;

                if (packet_socket_receive(fd, data, sizeof(data), &len, &info) < 0)
                        break;
                if (info.tagged)
                        continue;
                frame_parse(data, len, &f);
                take(a, &f, &info);
                if (has_arrived(a))
                        return finish(a);
        }
        if (from_guest != (a->result.from_guest_ns != 0) || to_guest != (a->result.to_guest_ns != 0))
                narrow(a);
}

static void ask(struct arrival *a)
{
        uint8_t frame[FRAME_ASK_SIZE];
        bool directly = a->spec.target.family == 6;
        size_t len = frame_make_ask(a->spec.mac, directly ? a->spec.target_mac : NULL,
                directly ? &a->spec.sender : NULL, &a->spec.target, frame);

        /* The next one may get through. */
        (void)(a->spec.speaker ? ovs_speaker_say(a->spec.speaker, frame, len)
                               : packet_socket_send(a->bridge_fd, frame, len));
        a->result.n_asked++;
}

static void on_ask(void *userdata)
{
        struct arrival *a = userdata;

        ask(a);
        (void)loop_source_rearm(a->asks, announce_delay_ms(a->result.n_asked));
}

int arrival_start(struct loop *loop, const struct arrival_spec *spec, loop_fn done, void *userdata,
        struct arrival **ret_arrival, struct error **ret_error)
{
        _cleanup_(arrival_freep) struct arrival *a = ALLOC(struct arrival);
        struct sock_filter filter[N_FILTER];
        int r;

        if (!a) {
                ovs_speaker_free(spec->speaker);
                return error_from_errno(ret_error, ENOMEM, "the guest's arrival");
        }
        *a = (struct arrival){.loop = loop,
                .tap_fd = -1,
                .bridge_fd = -1,
                .spec = *spec,
                .done = done,
                .userdata = userdata};
        a->spec.bridge = a->spec.tap = NULL; /* borrowed */
        make_filter(a, filter);
        r = packet_socket_open(spec->tap, PACKET_OUTGOING_TOO | PACKET_TIMES, filter, ARRAY_SIZE(filter),
                BUFFER_BYTES, &a->tap_fd);
        if (r == 0 && asks(a) && !a->spec.speaker)
                r = packet_socket_open(spec->bridge, PACKET_INCOMING, no_filter, ARRAY_SIZE(no_filter),
                        BUFFER_BYTES, &a->bridge_fd);
        if (r == 0)
                r = loop_add_io(loop, a->tap_fd, EPOLLIN, on_frames, a, &a->io);
        if (r == 0)
                r = loop_add_timer(loop, spec->limit_ms, finish, a, &a->end);
        if (r == 0 && asks(a))
                r = loop_add_timer(loop, announce_delay_ms(1), on_ask, a, &a->asks);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot watch the guest's arrival at %s", spec->tap);
        if (asks(a))
                ask(a);
        *ret_arrival = TAKE_PTR(a);
        return 0;
}

const struct arrival_result *arrival_result(const struct arrival *arrival)
{
        return &arrival->result;
}

void arrival_free(struct arrival *arrival)
{
        if (!arrival)
                return;
        loop_source_free(arrival->io);
        loop_source_free(arrival->asks);
        loop_source_free(arrival->end);
        packet_socket_close(arrival->loop, &arrival->tap_fd);
        packet_socket_close(arrival->loop, &arrival->bridge_fd);
        ovs_speaker_free(arrival->spec.speaker);
        free(arrival);
}

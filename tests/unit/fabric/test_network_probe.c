/* SPDX-License-Identifier: Apache-2.0 */

/* Two hosts' bridges, br1 and br2, with a cable between them. A guest is at a tap of br1: this test is the guest, and reads and writes its frames. */

#include "netns.h"

#include <linux/if_tun.h>
#include <poll.h>

#include "fabric/announce.h"
#include "fabric/answer_count.h"
#include "fabric/arrival.h"
#include "fabric/gap_meter.h"
#include "fabric/guest_watch.h"
#include "fabric/network_probe.h"
#include "fabric/packet_socket.h"
#include "fabric/tap.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"
#define VNET_HEADER 10

static const uint8_t mac[MAC_SIZE] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
static const uint8_t forged[MAC_SIZE] = {0x02, 0, 0, 0, 0, 0x66};

struct fixture {
        struct netlink *netlink;
        struct loop *loop;
        struct loop_source *guest, *forger;
        int forger_fd;
        uint8_t forgers_nonce[FRAME_NONCE_SIZE], forges_as[MAC_SIZE];
        bool knows_nonce; /* else the forger sends back what it saw */
        unsigned int n_forged;
        int tap_fd;
        char tap[IFNAMSIZ];
        struct ip_address own, own6, gateway;
        unsigned int copies; /* of each answer that the guest gives */
        bool lies;           /* it answers for everybody, too */
        bool mute, tags;     /* what it sends has a VLAN tag */
        bool done;
        unsigned int n_asked; /* questions that came to the guest */
        struct frame last;
};

static struct ip_address ip(const char *text)
{
        struct ip_address address;

        assert_int_equal(ip_address_parse(text, &address), 0);
        return address;
}

static void guest_sends(struct fixture *f, const uint8_t *frame, size_t len)
{
        uint8_t data[VNET_HEADER + 2048] = {0};

        if (f->tags) {
                static const uint8_t tag[] = {0x81, 0, 0, 5};

                memcpy(data + VNET_HEADER, frame, 12);
                memcpy(data + VNET_HEADER + 12, tag, sizeof(tag));
                memcpy(data + VNET_HEADER + 16, frame + 12, len - 12);
                len += sizeof(tag);
        } else {
                memcpy(data + VNET_HEADER, frame, len);
        }
        assert_int_equal(write(f->tap_fd, data, VNET_HEADER + len), VNET_HEADER + len);
}

static void guest_answers(
        struct fixture *f, const uint8_t *as, const struct ip_address *address, const struct frame *question)
{
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len = frame_make_ask(as, question->from, address, &question->sender, frame);

        frame[21] = 2; /* reply */
        memcpy(frame + 32, question->from, MAC_SIZE);
        guest_sends(f, frame, len);
}

/* To all: the question came from nobody (RFC 4862). */
static void guest_advertises(struct fixture *f)
{
        static const uint8_t all_mac[MAC_SIZE] = {0x33, 0x33, 0, 0, 0, 1};
        static const uint8_t all_nodes[16] = {0xff, 2, [15] = 1};
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len = frame_make_ask(mac, all_mac, &f->own6, &f->own6, frame);

        frame[54] = 136; /* neighbour advertisement */
        memcpy(frame + 38, all_nodes, sizeof(all_nodes));
        frame[58] = 0x20; /* override */
        frame[78] = 2;    /* target link-layer address */
        guest_sends(f, frame, len);
}

static void on_guest(void *userdata, int fd, uint32_t events _unused_)
{
        struct fixture *f = userdata;
        uint8_t data[VNET_HEADER + 2048];
        ssize_t len;

        while ((len = read(fd, data, sizeof(data))) > VNET_HEADER) {
                struct frame q;

                frame_parse(data + VNET_HEADER, (size_t)len - VNET_HEADER, &q);
                if (q.kind == FRAME_ASK && ip_address_equal(&q.target, &f->own6))
                        guest_advertises(f);
                if (q.kind != FRAME_ASK || q.target.family != 4)
                        continue;
                f->last = q;
                f->n_asked++;
                if (f->mute)
                        continue;
                for (unsigned int i = 0; i < f->copies && ip_address_equal(&q.target, &f->own); i++)
                        guest_answers(f, mac, &f->own, &q);
                if (f->lies)
                        guest_answers(f, forged, &q.target, &q);
        }
}

static int set_up(void **state)
{
        struct fixture *f = test_calloc(1, sizeof(*f));
        struct tap_spec spec = {.vm_uid = UID, .port_group = "default", .bridge = "br1", .mtu = 1500};

        netns_enter();
        netns_run("ip link add br1 type bridge forward_delay 0 && ip link add br2 type bridge forward_delay "
                  "0 && "
                  "ip link add up1 type veth peer name up2 && ip link set up1 master br1 && ip link set up2 "
                  "master br2 && "
                  "ip link set up1 up && ip link set up2 up && ip link set br1 up && ip link set br2 up");
        assert_int_equal(netlink_new(&f->netlink, NULL), 0);
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(tap_open(f->netlink, &spec, &f->tap_fd, f->tap, NULL), 0);
        assert_int_equal(loop_add_io(f->loop, f->tap_fd, EPOLLIN, on_guest, f, &f->guest), 0);
        f->own = ip("192.0.2.7");
        f->own6 = ip("2001:db8::7");
        f->forger_fd = -1;
        f->gateway = ip("192.0.2.1");
        f->copies = 1;
        *state = f;
        return 0;
}

static int tear_down(void **state)
{
        struct fixture *f = *state;

        loop_source_free(f->guest);
        loop_source_free(f->forger);
        packet_socket_close(f->loop, &f->forger_fd);
        close(f->tap_fd);
        loop_free(f->loop);
        netlink_free(f->netlink);
        test_free(f);
        return 0;
}

static void on_done(void *userdata)
{
        ((struct fixture *)userdata)->done = true;
}

/* Asks on br2 for the guest's address and sends test frames to br1, where a probe sends them back. */
static struct network_probe *probe(struct fixture *f, const struct ip_address *targets, size_t n)
{
        struct network_probe_spec echo = {.bridge = "br1", .nonce = {7}, .echo_nonce = {9}, .mtu = 1500};
        struct network_probe_spec spec = {.bridge = "br2",
                .targets = targets,
                .n_targets = n,
                .nonce = {7},
                .echo_nonce = {9},
                .mtu = 1500,
                .listen_ms = 100,
                .limit_ms = 60000}; /* it ends with its last question */
        struct network_probe *here = NULL, *there = NULL;
        uint8_t peer[MAC_SIZE];
        uint32_t mtu;

        assert_int_equal(network_probe_interface("br1", peer, &mtu), 0);
        spec.peer_mac = peer;
        assert_int_equal(network_probe_start(f->loop, &echo, NULL, NULL, &here, NULL), 0);
        assert_int_equal(network_probe_start(f->loop, &spec, on_done, f, &there, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 120000), 0);
        network_probe_free(here);
        return there;
}

static unsigned int n_answers(const struct network_probe *p, const uint8_t *from)
{
        const struct network_probe_answer *answers;
        unsigned int sum = 0;
        size_t n;

        answers = network_probe_answers(p, &n);
        for (size_t i = 0; i < n; i++)
                if (!memcmp(answers[i].mac, from, MAC_SIZE))
                        sum += answers[i].n;
        return sum;
}

static void the_guest_answers_from_the_other_host(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = probe(f, &f->own, 1);

        assert_true(n_answers(p, mac) >= 1 && n_answers(p, mac) <= network_probe_n_rounds(p));
        assert_true(network_probe_came_back(p, false));
        assert_true(network_probe_came_back(p, true));
        /* It is a probe as in RFC 5227: it names nobody. */
        assert_int_equal(f->last.sender.family, 0);
}

static void no_bridge_learns_the_guest_at_the_destination(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;
        char port[IFNAMSIZ];

        f->mute = true;
        p = probe(f, &f->own, 1);
        assert_true(f->n_asked > 0);
        assert_int_equal(netlink_fdb_find(f->netlink, "br1", mac, port), -ENOENT);
        assert_int_equal(netlink_fdb_find(f->netlink, "br2", mac, port), -ENOENT);
}

static void frames_that_are_too_large_for_the_way_do_not_come_back(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;

        netns_run("ip link set up1 mtu 1400");
        p = probe(f, &f->own, 1);
        assert_true(network_probe_came_back(p, false));
        assert_false(network_probe_came_back(p, true));
}

static void nothing_comes_back_from_another_segment(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;

        netns_run("ip link set up1 nomaster");
        p = probe(f, &f->own, 1);
        assert_int_equal(n_answers(p, mac), 0);
        assert_false(network_probe_came_back(p, false));
}

static void test_frames_with_another_nonce_are_not_sent_back(void **state)
{
        struct fixture *f = *state;
        struct network_probe_spec echo = {.bridge = "br1", .nonce = {8}, .echo_nonce = {9}, .mtu = 1500};
        _cleanup_(network_probe_freep) struct network_probe *here = NULL, *there = NULL;
        struct network_probe_spec spec = {
                .bridge = "br2", .nonce = {7}, .echo_nonce = {9}, .mtu = 1500, .limit_ms = 60000};
        uint8_t peer[MAC_SIZE];
        uint32_t mtu;

        assert_int_equal(network_probe_interface("br1", peer, &mtu), 0);
        spec.peer_mac = peer;
        assert_int_equal(network_probe_start(f->loop, &echo, NULL, NULL, &here, NULL), 0);
        assert_int_equal(network_probe_start(f->loop, &spec, on_done, f, &there, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 120000), 0);
        assert_false(network_probe_came_back(there, false));
}

/* A station of the wrong segment, which sees the test frames. */
static void on_forger(void *userdata, int fd, uint32_t events _unused_)
{
        struct fixture *f = userdata;
        uint8_t data[128];
        struct packet_info info;
        size_t len;

        while (packet_socket_receive(fd, data, sizeof(data), &len, &info) == 0) {
                uint8_t echo[1514] = {0};
                struct frame it;

                frame_parse(data, len, &it);
                if (it.kind != FRAME_TEST)
                        continue;
                frame_make_test(f->forges_as, it.from, f->knows_nonce ? f->forgers_nonce : it.nonce, true,
                        it.is_large, echo);
                assert_int_equal(
                        packet_socket_send(fd, echo, it.is_large ? sizeof(echo) : (size_t)FRAME_MIN_SIZE), 0);
                f->n_forged++;
        }
}

static void begin_to_forge(struct fixture *f)
{
        static const struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, 128)};
        uint32_t mtu;

        netns_run("ip link set up1 nomaster"); /* may change the bridge's address */
        assert_int_equal(network_probe_interface("br1", f->forges_as, &mtu), 0);
        assert_int_equal(
                packet_socket_open("up1", PACKET_INCOMING, all, ARRAY_SIZE(all), 65536, &f->forger_fd), 0);
        assert_int_equal(loop_add_io(f->loop, f->forger_fd, EPOLLIN, on_forger, f, &f->forger), 0);
}

static void an_echo_of_one_that_only_saw_the_test_frame_does_not_count(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;

        begin_to_forge(f);
        p = probe(f, &f->own, 1);
        assert_true(f->n_forged > 0);
        assert_false(network_probe_came_back(p, false) || network_probe_came_back(p, true));
}

/* The test above would see one that is taken. */
static void an_echo_with_the_other_nonce_counts_from_the_other_bridge_alone(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL, *other = NULL;

        f->knows_nonce = true;
        f->forgers_nonce[0] = 9;
        begin_to_forge(f);
        p = probe(f, &f->own, 1);
        assert_true(network_probe_came_back(p, false) && network_probe_came_back(p, true));
        memcpy(f->forges_as, forged, MAC_SIZE);
        f->n_forged = 0;
        f->done = false;
        other = probe(f, &f->own, 1);
        assert_true(f->n_forged > 0);
        assert_false(network_probe_came_back(other, false) || network_probe_came_back(other, true));
}

/* Addresses of IPv6 alone: the guest's advertisements come to both bridges, each counts them, and the guest's watch knows the address. */
static void a_guest_with_ipv6_alone_answers_both(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;
        unsigned int n = 0;
        uint8_t asker[MAC_SIZE];
        uint32_t mtu;

        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own6, 1, &count), 0);
        p = probe(f, &f->own6, 1);
        assert_true(n_answers(p, mac) >= 1);
        assert_true(network_probe_came_back(p, false));
        assert_int_equal(guest_watch_addresses(watch)->n_own, 1);
        assert_true(ip_address_equal(&guest_watch_addresses(watch)->own[0], &f->own6));
        /* Whom they were for is not known: they are not counted. */
        assert_int_equal(network_probe_interface("br2", asker, &mtu), 0);
        assert_true(answer_count_read(count, asker, &f->own6, &n));
        assert_int_equal(n, 0);
}

/* It is in another network then, of which nothing is tried. */
static void tagged_frames_of_a_guest_are_left_alone(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;
        uint8_t asker[MAC_SIZE];
        unsigned int n = 0;
        uint32_t mtu;

        f->tags = true;
        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &count), 0);
        p = probe(f, &f->own, 1);
        assert_true(f->n_asked > 0);
        assert_int_equal(n_answers(p, mac), 0);
        assert_true(network_probe_came_back(p, false));
        assert_int_equal(network_probe_interface("br2", asker, &mtu), 0);
        assert_true(answer_count_read(count, asker, &f->own, &n));
        assert_int_equal(n, 0);
        assert_int_equal(guest_watch_addresses(watch)->n_own, 0);
}

/* An address that nobody answers for ends the probe soon after the last question, long before its limit. */
static void silence_ends_with_the_last_question(void **state)
{
        struct fixture *f = *state;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;
        struct network_probe_spec spec = {
                .bridge = "br2", .targets = &f->gateway, .n_targets = 1, .mtu = 1500, .limit_ms = 3600000};

        f->mute = true;
        assert_int_equal(network_probe_start(f->loop, &spec, on_done, f, &p, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 60000), 0);
        assert_int_equal(network_probe_n_rounds(p), 6);
}

static void what_the_guest_answers_is_counted_where_it_is(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;
        uint8_t asker[MAC_SIZE];
        unsigned int n = 0;
        uint32_t mtu;

        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &count), 0);
        p = probe(f, &f->own, 1);
        assert_int_equal(network_probe_interface("br2", asker, &mtu), 0);
        assert_true(answer_count_read(count, asker, &f->own, &n));
        assert_int_equal(n, n_answers(p, mac));
        assert_int_equal(guest_watch_addresses(watch)->n_own, 1);
}

/* A guest that answers too often, and for others: it counts against itself, and nothing of it is remembered as another's. */
static void a_guest_that_forges_answers_harms_itself_at_most(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        struct ip_address targets[] = {f->own, f->gateway};
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        _cleanup_(network_probe_freep) struct network_probe *p = NULL;
        uint8_t asker[MAC_SIZE];
        unsigned int n = 0;
        uint32_t mtu;

        f->copies = 40;
        f->lies = true;
        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &count), 0);
        p = probe(f, targets, 2);
        assert_int_equal(network_probe_interface("br2", asker, &mtu), 0);
        assert_true(!answer_count_read(count, asker, &f->own, &n) || n >= n_answers(p, mac));
        assert_true(n_answers(p, forged) > 0);
        assert_int_equal(guest_watch_addresses(watch)->n_own, 1);
        assert_int_equal(guest_watch_addresses(watch)->n_routers, 0);
}

/* More frames than are read at once, and than there is room for: the watch goes on, and learns what comes afterwards. */
static void a_flood_does_not_stop_the_watch(void **state)
{
        struct fixture *f = *state;
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        struct ip_address address = ip("10.0.0.1");
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len;

        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        for (int i = 0; i < 5000; i++) {
                address.bytes[2] = (uint8_t)(i >> 8);
                address.bytes[3] = (uint8_t)(i | 1);
                len = frame_make_ask(mac, NULL, &address, &f->gateway, frame);
                guest_sends(f, frame, len);
        }
        (void)guest_watch_addresses(watch);
        len = frame_make_ask(mac, NULL, &f->own, &f->gateway, frame);
        guest_sends(f, frame, len);
        assert_true(ip_address_equal(&guest_watch_addresses(watch)->own[0], &f->own));
}

static void arrival_is_the_answer_at_the_guests_new_port(void **state)
{
        struct fixture *f = *state;
        _cleanup_(arrival_freep) struct arrival *arrival = NULL;
        struct arrival_spec spec = {.bridge = "br1", .tap = f->tap, .target = f->own, .limit_ms = 3000};
        static const uint8_t moved[MAC_SIZE] = {0x52, 0x54, 0, 0, 0, 9};

        /* Here it is the neighbour that is played: it answers the one that has arrived, and the answer passes the port of both. */
        memcpy(spec.mac, moved, MAC_SIZE);
        assert_int_equal(netlink_fdb_replace(f->netlink, f->tap, moved), 0);
        netns_run("ip link add ct0 type veth peer name ct1 && ip link set ct0 master br2 && ip link set ct0 "
                  "up && "
                  "ip link set ct1 up && ip address add 192.0.2.7/24 dev ct1");
        f->mute = true;
        assert_int_equal(arrival_start(f->loop, &spec, on_done, f, &arrival, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 120000), 0);
        assert_true(arrival_result(arrival)->answer_ns > 0);
        assert_true(arrival_result(arrival)->n_asked >= 1);
        assert_int_equal(arrival_result(arrival)->from_guest_ns, 0); /* the questions were not its own */
        /* What a third station hears of it, which has the address that was asked for, too: nothing that it could write down. */
        for (int i = 0; i < 50 && f->n_asked == 0; i++)
                (void)loop_iterate(f->loop, 20);
        assert_true(f->n_asked > 0);
        assert_int_equal(f->last.sender.family, 0);
        assert_memory_equal(f->last.from, moved, MAC_SIZE);
}

/* The neighbour is the kernel's, which answers no solicitation that is not well formed. */
static void arrival_with_ipv6_alone_is_the_neighbours_answer_to_the_guest(void **state)
{
        struct fixture *f = *state;
        _cleanup_(arrival_freep) struct arrival *arrival = NULL;
        struct arrival_spec spec = {.bridge = "br1",
                .tap = f->tap,
                .target = ip("2001:db8::9"),
                .sender = f->own6,
                .limit_ms = 3000};
        uint32_t mtu;

        /* It knows where the guest is, as neighbours do to whom the guest has spoken. */
        netns_run("ip address add 2001:db8::9/64 dev br2 nodad && "
                  "ip neighbour add 2001:db8::7 lladdr 52:54:00:12:34:56 dev br2");
        assert_int_equal(network_probe_interface("br2", spec.target_mac, &mtu), 0);
        memcpy(spec.mac, mac, MAC_SIZE);
        assert_int_equal(arrival_start(f->loop, &spec, on_done, f, &arrival, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 5000), 0);
        assert_true(arrival_result(arrival)->to_guest_ns > 0);
        assert_int_equal(arrival_result(arrival)->answer_ns, arrival_result(arrival)->to_guest_ns);
        assert_true(arrival_result(arrival)->n_asked >= 1);
}

static void without_an_answer_arrival_ends_with_its_time(void **state)
{
        struct fixture *f = *state;
        _cleanup_(arrival_freep) struct arrival *arrival = NULL;
        struct arrival_spec spec = {.bridge = "br1", .tap = f->tap, .target = f->gateway, .limit_ms = 200};

        memcpy(spec.mac, mac, MAC_SIZE);
        assert_int_equal(arrival_start(f->loop, &spec, on_done, f, &arrival, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 120000), 0);
        assert_true(arrival_result(arrival)->over);
        assert_int_equal(arrival_result(arrival)->answer_ns, 0);
}

/* Its own packets fill what there is room for while it answers: its answers are counted all the same. */
static void a_busy_guests_answers_are_counted(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        uint8_t frame[1514] = {0}, asker[MAC_SIZE];
        struct frame q = {.kind = FRAME_ASK};
        unsigned int n = 0;

        memcpy(frame, forged, MAC_SIZE);
        memcpy(frame + MAC_SIZE, mac, MAC_SIZE);
        frame[12] = 8;
        frame[14] = 0x45;
        memcpy(asker, forged, MAC_SIZE);
        memcpy(q.from, asker, MAC_SIZE);
        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &count), 0);
        for (int i = 0; i < 3000; i++) {
                guest_sends(f, frame, sizeof(frame));
                if (i % 1000 == 999)
                        guest_answers(f, mac, &f->own, &q);
        }
        assert_true(answer_count_read(count, asker, &f->own, &n));
        assert_int_equal(n, 3);
}

/* One that answers more often than can be counted is not taken to have answered less. */
static void answers_that_were_missed_are_told(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        _cleanup_(guest_watch_freep) struct guest_watch *watch = NULL;
        struct frame q = {.kind = FRAME_ASK};
        unsigned int n = 0;

        memcpy(q.from, forged, MAC_SIZE);
        assert_int_equal(guest_watch_new(f->loop, f->tap, mac, &watch), 0);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &count), 0);
        for (int i = 0; i < 5000; i++)
                guest_answers(f, mac, &f->own, &q);
        assert_false(answer_count_read(count, forged, &f->own, &n));
}

/* As of a proof that is over late, when the next one of the same guest has begun. */
static void two_counts_do_not_touch_each_other(void **state)
{
        struct fixture *f = *state;
        _cleanup_(answer_count_freep) struct answer_count *count = NULL;
        struct answer_count *late = NULL;
        struct frame q = {.kind = FRAME_ASK};
        unsigned int n = 0;

        memcpy(q.from, forged, MAC_SIZE);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &late), 0);
        guest_answers(f, mac, &f->own, &q);
        assert_int_equal(answer_count_new(f->loop, f->tap, mac, &f->own, 1, &count), 0);
        answer_count_free(late);
        guest_answers(f, mac, &f->own, &q);
        assert_true(answer_count_read(count, forged, &f->own, &n));
        assert_int_equal(n, 1);
}

static void the_gap_ends_with_the_first_answer_after_the_stop(void **state)
{
        struct fixture *f = *state;
        _cleanup_(gap_meter_freep) struct gap_meter *meter = NULL;
        int64_t first = 0, heard = 0, stopped = (int64_t)clock_realtime_ns();

        f->mute = true;
        assert_int_equal(gap_meter_start(f->loop, "br2", mac, &f->own, stopped, &meter), 0);
        for (int i = 0; i < 20000 && f->n_asked < 2; i++)
                (void)loop_iterate(f->loop, 20);
        assert_false(gap_meter_result(meter, &first));
        assert_true(gap_meter_asks(meter) && f->n_asked >= 2);
        heard = (int64_t)clock_realtime_ns();
        f->mute = false;
        for (int i = 0; i < 20000 && !gap_meter_result(meter, &first); i++)
                (void)loop_iterate(f->loop, 20);
        assert_true(first >= heard && heard > stopped);
        assert_false(gap_meter_asks(meter));
}

static void a_guest_that_never_answers_is_not_asked_for_ever(void **state)
{
        struct fixture *f = *state;
        _cleanup_(gap_meter_freep) struct gap_meter *meter = NULL;
        int64_t first;

        f->mute = true;
        assert_int_equal(
                gap_meter_start(f->loop, "br2", mac, &f->own, (int64_t)clock_realtime_ns(), &meter), 0);
        for (int i = 0; i < 20000 && gap_meter_asks(meter); i++)
                (void)loop_iterate(f->loop, 20);
        assert_false(gap_meter_asks(meter) || gap_meter_result(meter, &first));
        assert_true(f->n_asked <= GAP_METER_LIMIT_MS / GAP_METER_INTERVAL_MS);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(the_guest_answers_from_the_other_host),
                CASE(no_bridge_learns_the_guest_at_the_destination),
                CASE(frames_that_are_too_large_for_the_way_do_not_come_back),
                CASE(nothing_comes_back_from_another_segment),
                CASE(test_frames_with_another_nonce_are_not_sent_back),
                CASE(an_echo_of_one_that_only_saw_the_test_frame_does_not_count),
                CASE(an_echo_with_the_other_nonce_counts_from_the_other_bridge_alone),
                CASE(a_guest_with_ipv6_alone_answers_both),
                CASE(tagged_frames_of_a_guest_are_left_alone),
                CASE(silence_ends_with_the_last_question),
                CASE(what_the_guest_answers_is_counted_where_it_is),
                CASE(a_guest_that_forges_answers_harms_itself_at_most),
                CASE(a_flood_does_not_stop_the_watch),
                CASE(arrival_is_the_answer_at_the_guests_new_port),
                CASE(arrival_with_ipv6_alone_is_the_neighbours_answer_to_the_guest),
                CASE(without_an_answer_arrival_ends_with_its_time),
                CASE(a_busy_guests_answers_are_counted),
                CASE(answers_that_were_missed_are_told),
                CASE(two_counts_do_not_touch_each_other),
                CASE(the_gap_ends_with_the_first_answer_after_the_stop),
                CASE(a_guest_that_never_answers_is_not_asked_for_ever),
        };

        netns_enter();
        if (access("/dev/net/tun", R_OK | W_OK) < 0) {
                fprintf(stderr, "skipped: no /dev/net/tun\n");
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}

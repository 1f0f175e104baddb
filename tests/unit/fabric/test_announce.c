/* SPDX-License-Identifier: Apache-2.0 */
#include "netns.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <poll.h>
#include <sys/socket.h>

#include "fabric/announce.h"
#include "fabric/ifname.h"
#include "fabric/tap.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"

static const uint8_t mac[MAC_SIZE] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

/* A bridge with a guest's tap and an uplink; "cable" is where the physical switch would be. */
struct fixture {
        struct netlink *netlink;
        struct loop *loop;
        int tap_fd;
        char tap[IFNAMSIZ];
        int cable_fd;
        bool done;
};

static int open_cable(void)
{
        struct sockaddr_ll where = {.sll_family = AF_PACKET,
                .sll_protocol = htons(ETH_P_ALL),
                .sll_ifindex = (int)if_nametoindex("cable")};
        int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&where, sizeof(where)), 0);
        return fd;
}

static int set_up(void **state)
{
        struct fixture *f = test_calloc(1, sizeof(*f));
        struct tap_spec spec = {.vm_uid = UID, .port_group = "default", .bridge = "br0", .mtu = 1500};

        netns_enter();
        netns_run(
                "ip link add br0 type bridge forward_delay 0 && ip link add nic type veth peer name cable && "
                "ip link set nic master br0 && ip link set nic up && ip link set cable up && ip link set br0 "
                "up");
        assert_int_equal(netlink_new(&f->netlink, NULL), 0);
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(tap_open(f->netlink, &spec, &f->tap_fd, f->tap, NULL), 0);
        f->cable_fd = open_cable();
        *state = f;
        return 0;
}

static int tear_down(void **state)
{
        struct fixture *f = *state;

        close(f->cable_fd);
        close(f->tap_fd);
        loop_free(f->loop);
        netlink_free(f->netlink);
        test_free(f);
        return 0;
}

/* The type of the next frame that the guest's MAC sent out of the host, or 0 after the time. */
static uint16_t wait_frame(struct fixture *f, int timeout_ms, uint8_t frame[static ANNOUNCE_FRAME_SIZE])
{
        struct pollfd p = {.fd = f->cable_fd, .events = POLLIN};
        uint8_t data[2048];

        while (poll(&p, 1, timeout_ms) == 1) {
                ssize_t len = recv(f->cable_fd, data, sizeof(data), 0);

                if (len < ANNOUNCE_FRAME_SIZE || memcmp(data + 6, mac, MAC_SIZE))
                        continue; /* the kernel's own IPv6 chatter */
                memcpy(frame, data, ANNOUNCE_FRAME_SIZE);
                return (uint16_t)(data[12] << 8 | data[13]);
        }
        return 0;
}

static uint16_t next_frame(struct fixture *f, uint8_t frame[static ANNOUNCE_FRAME_SIZE])
{
        return wait_frame(f, 2000, frame);
}

static void on_done(void *userdata)
{
        ((struct fixture *)userdata)->done = true;
}

static struct announce *start(struct fixture *f, const char *ipv4, unsigned int n_rounds)
{
        struct announce_spec spec = {.bridge = "br0", .tap = f->tap, .ipv4 = ipv4, .n_rounds = n_rounds};
        struct announce *announce = NULL;

        memcpy(spec.mac, mac, MAC_SIZE);
        assert_int_equal(announce_start(f->loop, f->netlink, &spec, on_done, f, &announce, NULL), 0);
        return announce;
}

static void test_rarp_has_qemus_bytes(void **state)
{
        static const uint8_t golden[ANNOUNCE_FRAME_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54,
                0x00, 0x12, 0x34, 0x56, 0x80, 0x35, 0, 1, 0x08, 0, 6, 4, 0, 3, 0x52, 0x54, 0x00, 0x12, 0x34,
                0x56, 0, 0, 0, 0, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
        uint8_t frame[ANNOUNCE_FRAME_SIZE];

        announce_make_rarp(mac, frame);
        assert_memory_equal(frame, golden, sizeof(golden));
}

static void test_arp_announces_the_address_as_rfc_5227_says(void **state)
{
        static const uint8_t golden[ANNOUNCE_FRAME_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54,
                0x00, 0x12, 0x34, 0x56, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1, 0x52, 0x54, 0x00, 0x12, 0x34,
                0x56, 192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7};
        uint8_t frame[ANNOUNCE_FRAME_SIZE];

        announce_make_arp(mac, (uint8_t[]){192, 0, 2, 7}, frame);
        assert_memory_equal(frame, golden, sizeof(golden));
}

static void test_rounds_come_at_0_50_150_250_ms(void **state)
{
        uint64_t at = 0, expected[] = {0, 50, 150, 250, 350};

        for (unsigned int i = 0; i < ARRAY_SIZE(expected); i++)
                assert_int_equal(at += announce_delay_ms(i), expected[i]);
        assert_int_equal(announce_delay_ms(10), 1000);
}

static void test_rarp_and_arp_leave_through_the_uplink(void **state)
{
        _cleanup_(announce_freep) struct announce *announce = start(*state, "192.0.2.7", 1);
        uint8_t frame[ANNOUNCE_FRAME_SIZE];

        assert_int_equal(next_frame(*state, frame), ETHERTYPE_REVARP);
        assert_int_equal(next_frame(*state, frame), ETHERTYPE_ARP);
        assert_memory_equal(frame + 28, ((uint8_t[]){192, 0, 2, 7}), 4);
        assert_int_equal(announce_n_sent(announce), 2);
}

static void test_without_an_address_only_rarp_is_sent(void **state)
{
        struct fixture *f = *state;
        _cleanup_(announce_freep) struct announce *announce = start(f, NULL, 3);
        uint8_t frame[ANNOUNCE_FRAME_SIZE];

        assert_int_equal(loop_wait(f->loop, &f->done, 5000), 0);
        assert_int_equal(announce_n_sent(announce), 3);
        for (int i = 0; i < 3; i++)
                assert_int_equal(next_frame(f, frame), ETHERTYPE_REVARP);
}

/* Sockets for whole frames in our network namespace. */
static unsigned int n_packet_sockets(void)
{
        FILE *file = fopen("/proc/self/net/packet", "re");
        unsigned int n = 0;
        int c;

        assert_non_null(file);
        while ((c = fgetc(file)) != EOF)
                n += c == '\n';
        (void)fclose(file);
        return n - 1; /* the heading */
}

/* The caller keeps it for as long as its guest runs. */
static void test_no_socket_is_kept_when_all_is_said(void **state)
{
        struct fixture *f = *state;
        unsigned int before = n_packet_sockets();
        _cleanup_(announce_freep) struct announce *announce = start(f, NULL, 2);

        assert_int_equal(n_packet_sockets(), before + 1);
        assert_int_equal(loop_wait(f->loop, &f->done, 5000), 0);
        for (int i = 0; i < 50 && n_packet_sockets() != before; i++)
                (void)loop_iterate(f->loop, 20);
        assert_int_equal(n_packet_sockets(), before);
        assert_int_equal(announce_n_sent(announce), 2);
}

static void test_the_local_bridge_learns_the_tap(void **state)
{
        struct fixture *f = *state;
        struct announce *announce;
        char port[IFNAMSIZ];

        /* As on a host that heard the guest from elsewhere before. */
        assert_int_equal(netlink_fdb_find(f->netlink, "br0", mac, port), -ENOENT);
        assert_int_equal(netlink_fdb_replace(f->netlink, "nic", mac), 0);
        assert_int_equal(netlink_fdb_find(f->netlink, "br0", mac, port), 0);
        assert_string_equal(port, "nic");
        announce = start(f, NULL, 1);
        assert_int_equal(netlink_fdb_find(f->netlink, "br0", mac, port), 0);
        assert_string_equal(port, f->tap);
        announce_free(announce);
}

static void test_the_switch_behind_the_uplink_learns_the_port(void **state)
{
        struct fixture *f = *state;
        struct announce *announce;
        char port[IFNAMSIZ];

        netns_run("ip link add phys type bridge forward_delay 0 && ip link set phys up && ip link set cable "
                  "master phys");
        assert_int_equal(netlink_fdb_find(f->netlink, "phys", mac, port), -ENOENT);
        announce = start(f, NULL, 1);
        assert_int_equal(netlink_fdb_find(f->netlink, "phys", mac, port), 0);
        assert_string_equal(port, "cable");
        announce_free(announce);
}

static void test_each_round_corrects_the_bridge_again(void **state)
{
        struct fixture *f = *state;
        _cleanup_(announce_freep) struct announce *announce = start(f, NULL, 2);
        char port[IFNAMSIZ];

        /* A late frame of the guest from its old host. */
        assert_int_equal(netlink_fdb_replace(f->netlink, "nic", mac), 0);
        assert_int_equal(loop_wait(f->loop, &f->done, 5000), 0);
        assert_int_equal(netlink_fdb_find(f->netlink, "br0", mac, port), 0);
        assert_string_equal(port, f->tap);
}

static void test_the_learned_entry_is_an_ordinary_one(void **state)
{
        struct fixture *f = *state;
        struct announce *announce = start(f, NULL, 1);

        /* A permanent one would pin the MAC here when the guest has moved on. */
        netns_run("bridge fdb show br br0 | grep '^52:54:00:12:34:56 ' | grep -qv -e permanent -e static");
        announce_free(announce);
}

static void test_stopped_announcements_send_no_more(void **state)
{
        struct fixture *f = *state;
        struct announce *announce = start(f, NULL, 100);
        uint8_t frame[ANNOUNCE_FRAME_SIZE];
        bool never = false;

        assert_int_equal(next_frame(f, frame), ETHERTYPE_REVARP);
        announce_free(announce);
        assert_int_equal(loop_wait(f->loop, &never, 120), -ETIMEDOUT);
        assert_int_equal(wait_frame(f, 0, frame), 0);
}

static void test_bad_input_is_refused(void **state)
{
        struct fixture *f = *state;
        struct announce_spec spec = {.bridge = "br0", .tap = f->tap, .mac = {0x52, 0x54, 0, 0, 0, 1}};
        struct announce *announce = NULL;

        spec.ipv4 = "192.0.2.777";
        assert_int_equal(announce_start(f->loop, f->netlink, &spec, NULL, NULL, &announce, NULL), -EINVAL);
        spec.ipv4 = NULL;
        spec.mac[0] = 0x53;
        assert_int_equal(announce_start(f->loop, f->netlink, &spec, NULL, NULL, &announce, NULL), -EINVAL);
        spec.mac[0] = 0x52;
        spec.bridge = "br77";
        assert_int_equal(announce_start(f->loop, f->netlink, &spec, NULL, NULL, &announce, NULL), -ENOENT);
        assert_null(announce);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_rarp_has_qemus_bytes),
                cmocka_unit_test(test_arp_announces_the_address_as_rfc_5227_says),
                cmocka_unit_test(test_rounds_come_at_0_50_150_250_ms),
                CASE(test_rarp_and_arp_leave_through_the_uplink),
                CASE(test_without_an_address_only_rarp_is_sent),
                CASE(test_no_socket_is_kept_when_all_is_said),
                CASE(test_the_local_bridge_learns_the_tap),
                CASE(test_the_switch_behind_the_uplink_learns_the_port),
                CASE(test_each_round_corrects_the_bridge_again),
                CASE(test_the_learned_entry_is_an_ordinary_one),
                CASE(test_stopped_announcements_send_no_more),
                CASE(test_bad_input_is_refused),
        };

        netns_enter();
        if (access("/dev/net/tun", R_OK | W_OK) < 0) {
                fprintf(stderr, "skipped: no /dev/net/tun\n");
                return 77;
        }
        return cmocka_run_group_tests(tests, NULL, NULL);
}

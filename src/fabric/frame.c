/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/frame.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>

#define _packed_ __attribute__((packed))
#define MAX_HOPS 255 /* of neighbour discovery: proves that no router was in between */

struct _packed_ ethernet_v1 {
        uint8_t to[6], from[6];
        uint16_t type_be;
};
static_assert(sizeof(struct ethernet_v1) == FRAME_HEADER_SIZE, "Ethernet");

struct _packed_ arp_v1 {
        uint16_t hardware_be, protocol_be;
        uint8_t hardware_len, protocol_len;
        uint16_t operation_be;
        uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};
static_assert(sizeof(struct arp_v1) == 28, "RFC 826 for IPv4 over Ethernet");

struct _packed_ ipv6_v1 {
        uint8_t version_class_flow[4];
        uint16_t payload_be;
        uint8_t next_header, hops;
        uint8_t source[16], destination[16];
};
static_assert(sizeof(struct ipv6_v1) == 40, "RFC 8200");

/* Solicitation and advertisement have the same form (RFC 4861, sections 4.3 and 4.4). */
struct _packed_ neighbour_v1 {
        uint8_t type, code;
        uint16_t checksum_be;
        uint8_t flags[4];
        uint8_t target[16];
        /* the one option that matters, if it is there */
        uint8_t option, option_len;
        uint8_t option_mac[6];
};
static_assert(sizeof(struct neighbour_v1) == 32, "RFC 4861");
#define NEIGHBOUR_MIN_SIZE 24

struct _packed_ test_v1 {
        uint8_t magic[8];
        uint8_t nonce[FRAME_NONCE_SIZE];
        uint8_t echo, large;
};
static const uint8_t test_magic[8] = {'D', 'R', 'O', 'V', 'E', 'R', 'N', 'P'};

int ip_address_parse(const char *text, struct ip_address *ret)
{
        struct ip_address address = {.family = strchr(text, ':') ? 6 : 4};

        if (inet_pton(address.family == 6 ? AF_INET6 : AF_INET, text, address.bytes) != 1)
                return -EINVAL;
        *ret = address;
        return 0;
}

char *ip_address_format(const struct ip_address *address, char ret[static IP_ADDRESS_STRING_SIZE])
{
        ret[0] = '\0';
        if (address->family)
                (void)inet_ntop(address->family == 6 ? AF_INET6 : AF_INET, address->bytes, ret,
                        IP_ADDRESS_STRING_SIZE);
        return ret;
}

bool ip_address_equal(const struct ip_address *a, const struct ip_address *b)
{
        return a->family == b->family && !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

bool ip_address_is_unicast(const struct ip_address *address)
{
        static const uint8_t loopback6[16] = {[15] = 1}, none6[16] = {0};

        if (address->family == 4)
                return address->bytes[0] != 0 && address->bytes[0] != 127 && address->bytes[0] < 224;
        return address->family == 6 && address->bytes[0] != 0xff && memcmp(address->bytes, loopback6, 16) &&
               memcmp(address->bytes, none6, 16);
}

static struct ip_address address_of(uint8_t family, const uint8_t *bytes)
{
        static const uint8_t none[16] = {0};
        struct ip_address address = {0};
        size_t len = family == 4 ? 4 : 16;

        if (!memcmp(bytes, none, len))
                return address;
        address.family = family;
        memcpy(address.bytes, bytes, len);
        return address;
}

static void parse_arp(const uint8_t *data, size_t len, struct frame *f)
{
        struct arp_v1 arp;
        uint16_t operation;

        if (len < sizeof(arp))
                return;
        memcpy(&arp, data, sizeof(arp));
        operation = ntohs(arp.operation_be);
        if (ntohs(arp.hardware_be) != ARPHRD_ETHER || ntohs(arp.protocol_be) != ETHERTYPE_IP ||
                arp.hardware_len != 6 || arp.protocol_len != 4 ||
                (operation != ARPOP_REQUEST && operation != ARPOP_REPLY))
                return;
        f->kind = operation == ARPOP_REQUEST ? FRAME_ASK : FRAME_ANSWER;
        f->sender = address_of(4, arp.sender_ip);
        f->target = address_of(4, arp.target_ip);
        memcpy(f->sender_mac, arp.sender_mac, MAC_SIZE);
}

static void parse_neighbour(const uint8_t *data, size_t len, const struct ipv6_v1 *ip, struct frame *f)
{
        struct neighbour_v1 n = {0};
        bool asks;

        if (len < NEIGHBOUR_MIN_SIZE || ip->hops != MAX_HOPS)
                return;
        memcpy(&n, data, MIN(len, sizeof(n)));
        asks = n.type == ND_NEIGHBOR_SOLICIT;
        if ((!asks && n.type != ND_NEIGHBOR_ADVERT) || n.code != 0)
                return;
        f->kind = asks ? FRAME_ASK : FRAME_ANSWER;
        f->sender = asks ? address_of(6, ip->source) : address_of(6, n.target);
        f->target = asks ? address_of(6, n.target) : address_of(6, ip->destination);
        if (!asks && !ip_address_is_unicast(&f->target))
                f->target = (struct ip_address){0};
        memcpy(f->sender_mac, f->from, MAC_SIZE);
        if (len >= sizeof(n) && n.option_len == 1 &&
                n.option == (asks ? ND_OPT_SOURCE_LINKADDR : ND_OPT_TARGET_LINKADDR))
                memcpy(f->sender_mac, n.option_mac, MAC_SIZE);
}

static void parse_ipv6(const uint8_t *data, size_t len, struct frame *f)
{
        struct ipv6_v1 ip;

        if (len < sizeof(ip))
                return;
        memcpy(&ip, data, sizeof(ip));
        if (ip.version_class_flow[0] >> 4 != 6)
                return;
        if (ip.next_header == IPPROTO_ICMPV6)
                parse_neighbour(data + sizeof(ip), len - sizeof(ip), &ip, f);
        if (f->kind != FRAME_OTHER)
                return;
        f->kind = FRAME_IP;
        f->sender = address_of(6, ip.source);
        f->target = address_of(6, ip.destination);
}

static void parse_ipv4(const uint8_t *data, size_t len, struct frame *f)
{
        if (len < 20 || data[0] >> 4 != 4)
                return;
        f->kind = FRAME_IP;
        f->sender = address_of(4, data + 12);
        f->target = address_of(4, data + 16);
}

static void parse_test(const uint8_t *data, size_t len, struct frame *f)
{
        struct test_v1 test;

        if (len < sizeof(test))
                return;
        memcpy(&test, data, sizeof(test));
        if (memcmp(test.magic, test_magic, sizeof(test_magic)) || test.echo > 1 || test.large > 1)
                return;
        f->kind = test.echo ? FRAME_TEST_ECHO : FRAME_TEST;
        f->is_large = test.large;
        memcpy(f->nonce, test.nonce, sizeof(f->nonce));
}

void frame_parse(const void *data, size_t len, struct frame *ret_frame)
{
        struct frame f = {.kind = FRAME_OTHER};
        struct ethernet_v1 header;

        if (len >= sizeof(header)) {
                const uint8_t *rest = (const uint8_t *)data + sizeof(header);

                memcpy(&header, data, sizeof(header));
                memcpy(f.to, header.to, MAC_SIZE);
                memcpy(f.from, header.from, MAC_SIZE);
                len -= sizeof(header);
                switch (ntohs(header.type_be)) {
                case ETHERTYPE_ARP:
                        parse_arp(rest, len, &f);
                        break;
                case ETHERTYPE_IPV6:
                        parse_ipv6(rest, len, &f);
                        break;
                case ETHERTYPE_IP:
                        parse_ipv4(rest, len, &f);
                        break;
                case FRAME_TEST_TYPE:
                        parse_test(rest, len, &f);
                        break;
                default:
                        break;
                }
        }
        *ret_frame = f;
}

static void make_header(const uint8_t *from, const uint8_t *to, uint16_t type, uint8_t *ret)
{
        struct ethernet_v1 header = {.type_be = htons(type)};

        memcpy(header.from, from, MAC_SIZE);
        memcpy(header.to, to, MAC_SIZE);
        memcpy(ret, &header, sizeof(header));
}

static size_t make_arp(const uint8_t *from, const uint8_t *to, const struct ip_address *sender,
        const struct ip_address *target, uint8_t *ret)
{
        static const uint8_t everybody[MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
        struct arp_v1 arp = {.hardware_be = htons(ARPHRD_ETHER),
                .protocol_be = htons(ETHERTYPE_IP),
                .hardware_len = 6,
                .protocol_len = 4,
                .operation_be = htons(ARPOP_REQUEST)};

        memcpy(arp.sender_mac, from, MAC_SIZE);
        if (sender)
                memcpy(arp.sender_ip, sender->bytes, 4);
        memcpy(arp.target_ip, target->bytes, 4);
        memset(ret, 0, FRAME_MIN_SIZE);
        make_header(from, to ?: everybody, ETHERTYPE_ARP, ret);
        memcpy(ret + FRAME_HEADER_SIZE, &arp, sizeof(arp));
        return FRAME_MIN_SIZE;
}

/* RFC 1071, over 16-bit words in network byte order. */
static uint32_t add_up(const void *data, size_t len, uint32_t sum)
{
        const uint8_t *bytes = data;

        for (size_t i = 0; i + 1 < len; i += 2)
                sum += (uint32_t)(bytes[i] << 8 | bytes[i + 1]);
        return sum;
}

static uint16_t checksum6(const struct ipv6_v1 *ip, const void *payload, size_t len)
{
        uint32_t sum = add_up(ip->source, 16, add_up(ip->destination, 16, (uint32_t)len + IPPROTO_ICMPV6));

        sum = add_up(payload, len, sum);
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return htons((uint16_t)~sum);
}

/* Without a sender there is no option either, and to one station there need be none (RFC 4861, section 4.3). */
static size_t make_solicitation(const uint8_t *from, const uint8_t *to, const struct ip_address *sender,
        const struct ip_address *target, uint8_t *ret)
{
        const uint8_t *t = target->bytes;
        const uint8_t group_mac[MAC_SIZE] = {0x33, 0x33, 0xff, t[13], t[14], t[15]};
        const uint8_t group[16] = {0xff, 2, [11] = 1, [12] = 0xff, t[13], t[14], t[15]};
        bool tells = sender && !(to && mac_is_unicast(to));
        size_t len = tells ? sizeof(struct neighbour_v1) : NEIGHBOUR_MIN_SIZE;
        struct ipv6_v1 ip = {.version_class_flow = {0x60},
                .payload_be = htons((uint16_t)len),
                .next_header = IPPROTO_ICMPV6,
                .hops = MAX_HOPS};
        struct neighbour_v1 n = {
                .type = ND_NEIGHBOR_SOLICIT, .option = ND_OPT_SOURCE_LINKADDR, .option_len = 1};

        if (sender)
                memcpy(ip.source, sender->bytes, 16);
        memcpy(ip.destination, to ? target->bytes : group, 16);
        memcpy(n.target, target->bytes, 16);
        memcpy(n.option_mac, from, MAC_SIZE);
        n.checksum_be = checksum6(&ip, &n, len);
        make_header(from, to ?: group_mac, ETHERTYPE_IPV6, ret);
        memcpy(ret + FRAME_HEADER_SIZE, &ip, sizeof(ip));
        memcpy(ret + FRAME_HEADER_SIZE + sizeof(ip), &n, len);
        return FRAME_HEADER_SIZE + sizeof(ip) + len;
}

size_t frame_make_ask(const uint8_t from[static MAC_SIZE], const uint8_t *to, const struct ip_address *sender,
        const struct ip_address *target, uint8_t ret_frame[static FRAME_ASK_SIZE])
{
        return target->family == 6 ? make_solicitation(from, to, sender, target, ret_frame)
                                   : make_arp(from, to, sender, target, ret_frame);
}

void frame_make_test(const uint8_t from[static MAC_SIZE], const uint8_t to[static MAC_SIZE],
        const uint8_t nonce[static FRAME_NONCE_SIZE], bool echo, bool is_large,
        uint8_t ret_frame[static FRAME_MIN_SIZE])
{
        struct test_v1 test = {.echo = echo, .large = is_large};

        memcpy(test.magic, test_magic, sizeof(test_magic));
        memcpy(test.nonce, nonce, FRAME_NONCE_SIZE);
        memset(ret_frame, 0, FRAME_MIN_SIZE);
        make_header(from, to, FRAME_TEST_TYPE, ret_frame);
        memcpy(ret_frame + FRAME_HEADER_SIZE, &test, sizeof(test));
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <errno.h>
#include <stdio.h>

#include <cmocka.h>

#include "fabric/frame.h"
#include "fabric/guest_addresses.h"

static const uint8_t guest[MAC_SIZE] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
static const uint8_t gateway[MAC_SIZE] = {0x02, 0, 0, 0, 0, 1};
static const uint8_t host[MAC_SIZE] = {0x02, 0, 0, 0, 0, 2};

static struct ip_address ip(const char *text)
{
        struct ip_address address;

        assert_int_equal(ip_address_parse(text, &address), 0);
        return address;
}

static struct frame parse(const void *data, size_t len)
{
        struct frame f;

        frame_parse(data, len, &f);
        return f;
}

static void test_probe_has_the_bytes_of_rfc_5227(void **state)
{
        static const uint8_t golden[FRAME_MIN_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0,
                0x02, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1, 0x02, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 0, 192, 0, 2, 7};
        struct ip_address target = ip("192.0.2.7");
        uint8_t frame[FRAME_ASK_SIZE];

        assert_int_equal(frame_make_ask(host, NULL, NULL, &target, frame), FRAME_MIN_SIZE);
        assert_memory_equal(frame, golden, sizeof(golden));
}

static void test_probe_of_an_address_names_no_sender(void **state)
{
        struct ip_address target = ip("192.0.2.7");
        uint8_t frame[FRAME_ASK_SIZE];
        struct frame f = parse(frame, frame_make_ask(host, NULL, NULL, &target, frame));

        assert_int_equal(f.kind, FRAME_ASK);
        assert_int_equal(f.sender.family, 0);
        assert_true(ip_address_equal(&f.target, &target));
        assert_memory_equal(f.from, host, MAC_SIZE);
}

/* Solicitation for 2001:db8::7 from nobody; its checksum was worked out by hand over the pseudo header of RFC 8200, section 8.1. */
static void test_solicitation_is_that_of_duplicate_address_detection(void **state)
{
        struct ip_address target = ip("2001:db8::7");
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len = frame_make_ask(host, NULL, NULL, &target, frame);
        static const uint8_t head[] = {
                0x33, 0x33, 0xff, 0, 0, 7, 0x02, 0, 0, 0, 0, 2, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255};
        uint32_t sum = 24 + 58;
        struct frame f;

        assert_int_equal(len, 14 + 40 + 24);
        assert_memory_equal(frame, head, sizeof(head));
        for (size_t i = 22; i < len; i += 2) /* a right checksum makes the sum of all words 0xffff */
                sum += (uint32_t)(frame[i] << 8 | frame[i + 1]);
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        assert_int_equal(sum, 0xffff);
        f = parse(frame, len);
        assert_int_equal(f.kind, FRAME_ASK);
        assert_int_equal(f.sender.family, 0);
        assert_true(ip_address_equal(&f.target, &target));
}

static void test_a_solicitation_with_a_sender_tells_its_mac(void **state)
{
        struct ip_address target = ip("2001:db8::1"), sender = ip("2001:db8::7");
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len = frame_make_ask(guest, NULL, &sender, &target, frame);
        struct frame f = parse(frame, len);

        assert_int_equal(len, FRAME_ASK_SIZE);
        assert_true(ip_address_equal(&f.sender, &sender));
        assert_memory_equal(f.sender_mac, guest, MAC_SIZE);
}

static void test_a_solicitation_to_one_station_does_not_tell_the_senders_mac(void **state)
{
        struct ip_address target = ip("2001:db8::1"), sender = ip("2001:db8::7");
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len = frame_make_ask(guest, gateway, &sender, &target, frame);
        struct frame f = parse(frame, len);

        assert_int_equal(len, FRAME_ASK_SIZE - 8); /* without the option */
        assert_int_equal(f.kind, FRAME_ASK);
        assert_memory_equal(f.to, gateway, MAC_SIZE);
        assert_true(ip_address_equal(&f.sender, &sender));
        assert_true(ip_address_equal(&f.target, &target));
}

static void test_a_test_frame_comes_through(void **state)
{
        uint8_t nonce[FRAME_NONCE_SIZE] = {1, 2, 3}, frame[FRAME_MIN_SIZE];
        struct frame f;

        frame_make_test(host, gateway, nonce, true, true, frame);
        f = parse(frame, sizeof(frame));
        assert_int_equal(f.kind, FRAME_TEST_ECHO);
        assert_true(f.is_large);
        assert_memory_equal(f.nonce, nonce, sizeof(nonce));
        assert_memory_equal(f.to, gateway, MAC_SIZE);
}

static void test_each_frame_that_is_cut_short_is_nothing(void **state)
{
        struct ip_address v4 = ip("192.0.2.7"), v6 = ip("2001:db8::7");
        uint8_t nonce[FRAME_NONCE_SIZE] = {0}, frame[FRAME_ASK_SIZE];

        frame_make_ask(host, NULL, NULL, &v4, frame);
        for (size_t len = 0; len < 14 + 28; len++)
                assert_int_equal(parse(frame, len).kind, FRAME_OTHER);
        frame_make_test(host, guest, nonce, false, false, frame);
        for (size_t len = 0; len < 14 + 26; len++)
                assert_int_equal(parse(frame, len).kind, FRAME_OTHER);
        frame_make_ask(host, NULL, NULL, &v6, frame);
        for (size_t len = 0; len < 14 + 40; len++)
                assert_int_equal(parse(frame, len).kind, FRAME_OTHER);
        for (size_t len = 14 + 40; len < 14 + 40 + 24; len++)
                assert_int_equal(parse(frame, len).kind, FRAME_IP);
}

static void test_an_advertisement_from_behind_a_router_is_none(void **state)
{
        struct ip_address v6 = ip("2001:db8::7");
        uint8_t frame[FRAME_ASK_SIZE];
        size_t len = frame_make_ask(host, NULL, NULL, &v6, frame);

        frame[14 + 7] = 254; /* hop limit */
        assert_int_equal(parse(frame, len).kind, FRAME_IP);
}

static void test_addresses_are_read_and_written(void **state)
{
        char text[IP_ADDRESS_STRING_SIZE];
        struct ip_address address;

        assert_string_equal(ip_address_format(&(struct ip_address){0}, text), "");
        address = ip("2001:db8::7");
        assert_string_equal(ip_address_format(&address, text), "2001:db8::7");
        assert_int_equal(ip_address_parse("192.0.2.777", &address), -EINVAL);
        assert_int_equal(ip_address_parse("", &address), -EINVAL);
        for (size_t i = 0; i < 6; i++) {
                address = ip((const char *[]){
                        "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "ff02::1", "::1"}[i]);
                assert_false(ip_address_is_unicast(&address));
        }
}

/* --- What a guest's frames tell --- */

static void says(struct guest_addresses *a, enum frame_kind kind, const uint8_t *to, const char *sender,
        const char *target)
{
        struct frame f = {.kind = kind, .sender = ip(sender), .target = ip(target)};

        memcpy(f.from, guest, MAC_SIZE);
        memcpy(f.sender_mac, guest, MAC_SIZE);
        memcpy(f.to, to, MAC_SIZE);
        guest_addresses_take(a, &f);
}

static const uint8_t everybody[MAC_SIZE] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static void test_an_asking_guest_tells_its_address(void **state)
{
        struct guest_addresses a;
        struct guest_neighbour gateways[GUEST_GATEWAYS_MAX];
        struct ip_address own = ip("192.0.2.7");

        guest_addresses_init(&a, guest);
        says(&a, FRAME_ASK, everybody, "192.0.2.7", "192.0.2.1");
        assert_int_equal(a.n_own, 1);
        assert_true(ip_address_equal(&a.own[0], &own));
        assert_int_equal(guest_addresses_gateways(&a, gateways), 0);
}

static void test_what_leads_to_others_is_the_gateway(void **state)
{
        struct guest_addresses a;
        struct guest_neighbour gateways[GUEST_GATEWAYS_MAX];
        struct ip_address address = ip("192.0.2.1");

        guest_addresses_init(&a, guest);
        says(&a, FRAME_ASK, everybody, "192.0.2.7", "192.0.2.1");
        says(&a, FRAME_IP, gateway, "192.0.2.7", "198.51.100.9");
        assert_int_equal(guest_addresses_gateways(&a, gateways), 0); /* who has that MAC is not known yet */
        says(&a, FRAME_ANSWER, gateway, "192.0.2.7", "192.0.2.1");
        assert_int_equal(guest_addresses_gateways(&a, gateways), 1);
        assert_true(ip_address_equal(&gateways[0].address, &address));
        assert_memory_equal(gateways[0].mac, gateway, MAC_SIZE);
}

static void test_a_neighbour_is_no_gateway(void **state)
{
        struct guest_addresses a;
        struct guest_neighbour gateways[GUEST_GATEWAYS_MAX];

        guest_addresses_init(&a, guest);
        says(&a, FRAME_ANSWER, host, "192.0.2.7", "192.0.2.3");
        says(&a, FRAME_IP, host, "192.0.2.7", "192.0.2.3");
        assert_int_equal(guest_addresses_gateways(&a, gateways), 0);
        /* Its packets came before its question, which the agent missed. */
        says(&a, FRAME_IP, gateway, "192.0.2.7", "192.0.2.4");
        says(&a, FRAME_ANSWER, gateway, "192.0.2.7", "192.0.2.4");
        assert_int_equal(guest_addresses_gateways(&a, gateways), 0);
}

static void test_what_a_guest_says_for_others_is_not_believed(void **state)
{
        struct frame f = {.kind = FRAME_ANSWER, .sender = ip("192.0.2.9"), .target = ip("192.0.2.1")};
        struct guest_addresses a;

        guest_addresses_init(&a, guest);
        memcpy(f.from, host, MAC_SIZE);
        memcpy(f.sender_mac, host, MAC_SIZE);
        guest_addresses_take(&a, &f);
        memcpy(f.from, guest, MAC_SIZE); /* and in its own frame, for another */
        guest_addresses_take(&a, &f);
        says(&a, FRAME_IP, gateway, "192.0.2.9", "198.51.100.9");
        assert_int_equal(a.n_own + a.n_neighbours + a.n_routers, 0);
}

static void test_a_flood_pushes_out_only_the_oldest(void **state)
{
        struct guest_addresses a;
        struct ip_address last = ip("10.0.3.231");
        char text[32];

        guest_addresses_init(&a, guest);
        for (int i = 0; i < 1000; i++) {
                snprintf(text, sizeof(text), "10.0.%d.%d", i / 256, i % 256);
                if (i % 256)
                        says(&a, FRAME_ASK, everybody, text, "10.1.0.1");
                says(&a, FRAME_ASK, everybody, "10.0.3.231", i % 256 ? text : "10.9.9.9");
        }
        assert_int_equal(a.n_own, GUEST_ADDRESSES_MAX);
        assert_int_equal(a.n_neighbours, GUEST_NEIGHBOURS_MAX);
        assert_true(ip_address_equal(&a.own[0], &last));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_probe_has_the_bytes_of_rfc_5227),
                cmocka_unit_test(test_probe_of_an_address_names_no_sender),
                cmocka_unit_test(test_solicitation_is_that_of_duplicate_address_detection),
                cmocka_unit_test(test_a_solicitation_with_a_sender_tells_its_mac),
                cmocka_unit_test(test_a_solicitation_to_one_station_does_not_tell_the_senders_mac),
                cmocka_unit_test(test_a_test_frame_comes_through),
                cmocka_unit_test(test_each_frame_that_is_cut_short_is_nothing),
                cmocka_unit_test(test_an_advertisement_from_behind_a_router_is_none),
                cmocka_unit_test(test_addresses_are_read_and_written),
                cmocka_unit_test(test_an_asking_guest_tells_its_address),
                cmocka_unit_test(test_what_leads_to_others_is_the_gateway),
                cmocka_unit_test(test_a_neighbour_is_no_gateway),
                cmocka_unit_test(test_what_a_guest_says_for_others_is_not_believed),
                cmocka_unit_test(test_a_flood_pushes_out_only_the_oldest),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

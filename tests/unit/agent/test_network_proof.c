/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/network_proof.h"
#include "base/doc.h"

static const uint8_t guest[MAC_SIZE] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
static const uint8_t other[MAC_SIZE] = {0x02, 0, 0, 0, 0, 9};

static struct ip_address ip(const char *text)
{
        struct ip_address address;

        assert_int_equal(ip_address_parse(text, &address), 0);
        return address;
}

/* All is well: the guest answers the destination's three questions, so does its gateway, and test frames come back. */
static struct network_proof_nic good(void)
{
        struct network_proof_nic nic = {.port_group = "lan",
                .source = "host1",
                .destination = "host2",
                .addresses = {{.address = ip("192.0.2.7"),
                        .n_guest = 3,
                        .n_there = 3,
                        .n_guest_here = 3,
                        .n_here = 3}},
                .n_addresses = 1,
                .gateways = {{.address = ip("192.0.2.1"), .there = true, .at_source = true, .same = true}},
                .n_gateways = 1,
                .small = true,
                .large = true,
                .mtu = 9000};

        memcpy(nic.mac, guest, MAC_SIZE);
        return nic;
}

/* The items that are not met, as "code severity" with commas between, and the cause of the first. */
static const char *broken(
        const struct network_proof_nic *nic, const char *accepted, char ret_cause[static 400])
{
        _cleanup_json_ json_t *checks = json_array(), *list = accepted ? json_pack("[s]", accepted) : NULL;
        static char text[400];
        json_t *item;
        size_t i;

        text[0] = ret_cause[0] = '\0';
        assert_int_equal(network_proof_judge(nic, list, checks), 0);
        json_array_foreach (checks, i, item) {
                const char *way_out = json_string_value(json_object_get(item, "way_out"));

                if (json_is_true(json_object_get(item, "ok")))
                        continue;
                assert_non_null(way_out);
                if (!*ret_cause)
                        snprintf(ret_cause, 400, "%s", json_string_value(json_object_get(item, "cause")));
                snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s %s", *text ? ", " : "",
                        json_string_value(json_object_get(item, "code")),
                        json_string_value(json_object_get(item, "severity")));
        }
        return text;
}

static char cause[400];

static void a_good_network_meets_all(void **state)
{
        struct network_proof_nic nic = good();

        assert_string_equal(broken(&nic, NULL, cause), "");
}

static void the_guests_own_answer_proves_the_segment(void **state)
{
        struct network_proof_nic nic = good();

        nic.small = nic.large = false; /* a switch that passes no test frames on */
        assert_string_equal(broken(&nic, NULL, cause), "network-mtu warning");
}

static void without_the_guests_answer_the_segment_is_the_wrong_one(void **state)
{
        struct network_proof_nic nic = good();

        nic.small = nic.large = nic.gateways[0].there = nic.gateways[0].same = false;
        nic.addresses[0].n_guest = nic.addresses[0].n_there = 0;
        assert_string_equal(broken(&nic, NULL, cause), "network-segment error");
        assert_string_equal(cause, "the port group lan on host host2 leads to another network segment: the "
                                   "virtual machine's own address "
                                   "192.0.2.7 answers on host host1 and not there, and test frames between "
                                   "the two hosts are lost");
}

static void an_answer_that_the_guest_did_not_give_is_no_proof(void **state)
{
        struct network_proof_nic nic = good();

        /* A copy of the guest on another segment, with the same addresses. */
        nic.small = nic.large = nic.gateways[0].there = nic.gateways[0].same = false;
        nic.addresses[0].n_guest = 0;
        assert_string_equal(broken(&nic, NULL, cause), "network-segment error, network-mac warning");
}

static void a_guest_without_an_address_is_judged_by_test_frames(void **state)
{
        struct network_proof_nic nic = good();

        nic.n_addresses = nic.n_gateways = 0;
        assert_string_equal(broken(&nic, NULL, cause), "network-gateway warning");
        /* It may be that switches do not pass them on: nothing else was heard that could be missed. */
        nic.small = nic.large = false;
        assert_string_equal(broken(&nic, NULL, cause),
                "network-segment warning, network-gateway warning, network-mtu warning");
        assert_non_null(strstr(cause, "is not known"));
}

/* A private VLAN: the hosts' ports do not reach each other, and both reach the gateway. */
static void hosts_that_reach_one_gateway_may_be_kept_apart(void **state)
{
        struct network_proof_nic nic = good();

        nic.small = nic.large = false;
        nic.addresses[0].n_guest = nic.addresses[0].n_there = 0;
        assert_string_equal(broken(&nic, NULL, cause), "network-segment warning, network-mtu warning");
        nic.gateways[0].same = false; /* another router with that address, in another segment */
        assert_string_equal(broken(&nic, NULL, cause), "network-segment error");
}

/* Their answers go to all: whose they are is not known. */
static void answers_of_ipv6_prove_no_segment(void **state)
{
        struct network_proof_nic nic = good();

        nic.n_gateways = 0;
        nic.addresses[0] =
                (struct network_proof_address){.address = ip("2001:db8::7"), .n_there = 3, .n_here = 3};
        assert_string_equal(broken(&nic, NULL, cause), "network-gateway warning");
        nic.small = nic.large = false;
        assert_string_equal(broken(&nic, NULL, cause),
                "network-segment warning, network-gateway warning, network-mtu warning");
        nic.addresses[0].n_there = 0;
        assert_string_equal(broken(&nic, NULL, cause), "network-segment error");
}

/* A fabric that knows all addresses answers by itself; the guest is asked by nobody (EVPN, RFC 7432, section 10). */
static void a_network_that_answers_in_the_guests_stead_is_no_conflict(void **state)
{
        struct network_proof_nic nic = good();

        nic.addresses[0].n_guest = 0;
        assert_string_equal(broken(&nic, NULL, cause), "network-mac warning");
        nic = good();
        nic.addresses[0].n_there = 6; /* beside the guest, at both hosts */
        nic.addresses[0].n_here = 6;
        assert_string_equal(broken(&nic, NULL, cause), "network-mac warning");
        nic.addresses[0].n_here = 3;
        assert_string_equal(broken(&nic, NULL, cause), "network-mac error");
}

static void a_guest_that_is_silent_for_good_is_not_held_against_the_port(void **state)
{
        struct network_proof_nic nic = good();

        nic.addresses[0] = (struct network_proof_address){.address = ip("192.0.2.7")};
        assert_string_equal(broken(&nic, NULL, cause), "");
}

static void more_answers_than_the_guest_gave_are_anothers(void **state)
{
        struct network_proof_nic nic = good();

        nic.addresses[0].n_there = 4;
        assert_string_equal(broken(&nic, NULL, cause), "network-mac error");
        assert_string_equal(cause, "the MAC address 52:54:00:12:34:56 is taken in the network of port group "
                                   "lan at host host2: 4 answers "
                                   "for 192.0.2.7 came from it there, and the virtual machine gave 3");
        nic.addresses[0].n_there = 2; /* one was lost */
        assert_string_equal(broken(&nic, NULL, cause), "");
}

static void a_mac_at_a_port_of_the_destination_is_taken(void **state)
{
        struct network_proof_nic nic = good();

        nic.local_port = "veth7";
        assert_string_equal(broken(&nic, NULL, cause), "network-mac error");
        assert_string_equal(cause, "the MAC address 52:54:00:12:34:56 is taken on host host2: something at "
                                   "its port veth7 uses it");
}

static void an_address_that_others_have_there_alone_is_taken(void **state)
{
        struct network_proof_nic nic = good();

        nic.addresses[0].n_others = 1;
        memcpy(nic.addresses[0].others[0].mac, other, MAC_SIZE);
        assert_string_equal(broken(&nic, NULL, cause), "network-address error");
        /* A router that answers for all, or a conflict that was there before. */
        nic.addresses[0].others[0].at_source = true;
        assert_string_equal(broken(&nic, NULL, cause), "network-address warning");
}

static void each_other_holder_of_an_address_is_judged_by_itself(void **state)
{
        struct network_proof_nic nic = good();

        nic.addresses[0].n_others = 2;
        memcpy(nic.addresses[0].others[0].mac, other, MAC_SIZE);
        nic.addresses[0].others[1].at_source = true;
        assert_string_equal(broken(&nic, NULL, cause), "network-address error, network-address warning");
        nic.addresses[0].others[0].at_source = true;
        nic.addresses[0].others[1].at_source = false;
        assert_string_equal(broken(&nic, NULL, cause), "network-address warning, network-address error");
}

static void a_gateway_counts_only_if_it_answers_at_the_source(void **state)
{
        struct network_proof_nic nic = good();

        nic.gateways[0].there = false;
        assert_string_equal(broken(&nic, NULL, cause), "network-gateway error");
        assert_string_equal(
                cause, "the gateway 192.0.2.1 answers in port group lan on host host1 and not on host host2");
        nic.gateways[0].at_source = false;
        assert_string_equal(broken(&nic, NULL, cause), "network-gateway warning");
}

static void large_packets_that_are_lost_are_told(void **state)
{
        struct network_proof_nic nic = good();

        nic.large = false;
        assert_string_equal(broken(&nic, NULL, cause), "network-mtu error");
        assert_non_null(strstr(cause, "does not carry packets of 9000 bytes"));
}

static void what_is_accepted_is_a_warning(void **state)
{
        _cleanup_json_ json_t *checks = json_array(), *list = json_pack("[s]", "network-gateway");
        struct network_proof_nic nic = good();

        nic.gateways[0].there = false;
        assert_string_equal(broken(&nic, "network-gateway", cause), "network-gateway warning");
        assert_string_equal(broken(&nic, "network-mtu", cause), "network-gateway error");
        assert_int_equal(network_proof_judge(&nic, list, checks), 0);
        assert_int_equal(network_proof_error(checks, NULL), 0);
}

static void a_destination_that_cannot_try_is_a_warning(void **state)
{
        struct network_proof_nic nic = good();

        nic.problem = "the destination's version of drover cannot do that";
        assert_string_equal(broken(&nic, NULL, cause), "network-proof warning");
}

static void the_first_error_is_told_and_the_number_of_others(void **state)
{
        _cleanup_json_ json_t *checks = json_array();
        _cleanup_error_ struct error *error = NULL;
        struct network_proof_nic nic = good();

        nic.local_port = "veth7";
        nic.large = false;
        assert_int_equal(network_proof_judge(&nic, NULL, checks), 0);
        assert_true(network_proof_error(checks, &error) < 0);
        assert_int_equal(error->code, ERROR_CHECK_FAILED);
        assert_non_null(strstr(error_message(error), "network-mac: the MAC address"));
        assert_non_null(strstr(error_message(error), "(and 1 more)"));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(a_good_network_meets_all),
                cmocka_unit_test(the_guests_own_answer_proves_the_segment),
                cmocka_unit_test(without_the_guests_answer_the_segment_is_the_wrong_one),
                cmocka_unit_test(an_answer_that_the_guest_did_not_give_is_no_proof),
                cmocka_unit_test(a_guest_without_an_address_is_judged_by_test_frames),
                cmocka_unit_test(hosts_that_reach_one_gateway_may_be_kept_apart),
                cmocka_unit_test(answers_of_ipv6_prove_no_segment),
                cmocka_unit_test(a_network_that_answers_in_the_guests_stead_is_no_conflict),
                cmocka_unit_test(each_other_holder_of_an_address_is_judged_by_itself),
                cmocka_unit_test(a_guest_that_is_silent_for_good_is_not_held_against_the_port),
                cmocka_unit_test(more_answers_than_the_guest_gave_are_anothers),
                cmocka_unit_test(a_mac_at_a_port_of_the_destination_is_taken),
                cmocka_unit_test(an_address_that_others_have_there_alone_is_taken),
                cmocka_unit_test(a_gateway_counts_only_if_it_answers_at_the_source),
                cmocka_unit_test(large_packets_that_are_lost_are_told),
                cmocka_unit_test(what_is_accepted_is_a_warning),
                cmocka_unit_test(a_destination_that_cannot_try_is_a_warning),
                cmocka_unit_test(the_first_error_is_told_and_the_number_of_others),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

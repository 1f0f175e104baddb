/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/network_proof.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"

static const char *const codes[] = {
#define X(name, text) [NETWORK_PROOF_##name] = text,
        NETWORK_PROOF_CODES(X)
#undef X
};

static const char *const ways_out[] = {
        [NETWORK_PROOF_SEGMENT] = "Look at the uplink and the VLAN of the port group on both hosts and at "
                                  "the switches between them, "
                                  "choose another host, or accept it with --accept network-segment.",
        [NETWORK_PROOF_MAC] = "Find what has the address there and give one of the two another one.",
        [NETWORK_PROOF_ADDRESS] = "Find what has the address there and give one of the two another one.",
        [NETWORK_PROOF_GATEWAY] =
                "Look at the way from the host's uplink to the gateway, choose another host, or "
                "accept it with --accept network-gateway.",
        [NETWORK_PROOF_MTU] =
                "Set the MTU of the switches between the hosts, or a smaller one on the virtual switch "
                "and in the guest, or accept it with --accept network-mtu.",
        [NETWORK_PROOF_MADE] = "Nothing has to be done; what could not be tried is not known to work.",
};
static_assert(ARRAY_SIZE(codes) == N_NETWORK_PROOF_CODES && ARRAY_SIZE(ways_out) == N_NETWORK_PROOF_CODES,
        "every code has its words");

struct judge {
        const struct network_proof_nic *nic;
        const json_t *accepted;
        json_t *checks;
        int result;
};

static void put(struct judge *j, enum network_proof_code code, bool ok, bool forbids, const char *cause)
{
        bool is_error = forbids && !doc_has_string(j->accepted, codes[code]);
        json_t *item = json_pack("{s:s, s:s, s:b, s:s, s:s?, s:s?}", "code", codes[code], "severity",
                is_error ? "error" : "warning", "ok", ok, "object", j->nic->port_group, "cause",
                ok ? NULL : cause, "way_out", ok ? NULL : ways_out[code]);

        if (json_array_append_new(j->checks, item) < 0)
                j->result = -ENOMEM;
}

static void met(struct judge *j, enum network_proof_code code)
{
        put(j, code, true, true, NULL);
}

static void broken(struct judge *j, enum network_proof_code code, bool forbids, const char *fmt, ...)
        _printf_(4, 5);

static void broken(struct judge *j, enum network_proof_code code, bool forbids, const char *fmt, ...)
{
        _cleanup_free_ char *cause = NULL;
        va_list ap;

        va_start(ap, fmt);
        cause = alloc_vprintf(fmt, ap);
        va_end(ap);
        put(j, code, false, forbids, cause ?: "out of memory");
}

/* The guest's own answer came there. Neighbour advertisements go to all, so of those it is not known who gave them: they prove nothing. */
static bool guest_answered(const struct network_proof_address *a)
{
        return a->address.family == 4 && a->n_there > 0 && (a->n_guest > 0 || a->unsure);
}

/* It answers at the source, so it would answer there; and what came there in its name was not its answer. */
static bool is_missed(const struct network_proof_address *a)
{
        if (a->address.family == 6)
                return a->n_here > 0 && a->n_there == 0;
        return (a->n_guest_here > 0 || (a->unsure && a->n_here > 0)) && !guest_answered(a);
}

static bool reaches(const struct network_proof_nic *nic)
{
        bool any = nic->small;

        for (size_t i = 0; i < nic->n_addresses; i++)
                any |= guest_answered(&nic->addresses[i]);
        return any;
}

/* Hosts that a private VLAN keeps apart have the way out in common. */
static bool shares_gateway(const struct network_proof_nic *nic)
{
        for (size_t i = 0; i < nic->n_gateways; i++)
                if (nic->gateways[i].same)
                        return true;
        return false;
}

/* True: nothing more has to be looked at. */
static bool judge_segment(struct judge *j)
{
        const struct network_proof_nic *nic = j->nic;
        char address[IP_ADDRESS_STRING_SIZE] = "";

        for (size_t i = 0; i < nic->n_addresses; i++) /* people know it by that of IPv4, if it has one */
                if (is_missed(&nic->addresses[i]) && (!*address || nic->addresses[i].address.family == 4))
                        ip_address_format(&nic->addresses[i].address, address);
        if (reaches(nic)) {
                met(j, NETWORK_PROOF_SEGMENT);
                return false;
        }
        if (*address && !shares_gateway(nic)) {
                broken(j, NETWORK_PROOF_SEGMENT, true,
                        "the port group %s on host %s leads to another network segment: the virtual "
                        "machine's own "
                        "address %s answers on host %s and not there, and test frames between the two hosts "
                        "are lost",
                        nic->port_group, nic->destination, address, nic->source);
                return true;
        }
        broken(j, NETWORK_PROOF_SEGMENT, false,
                "it is not known whether the port group %s on host %s leads to the same network segment as "
                "on "
                "host %s: test frames between them are lost, and %s",
                nic->port_group, nic->destination, nic->source,
                *address ? "the virtual machine does not answer there, but its gateway does"
                         : "the virtual machine answers at none of its addresses that are known");
        return false;
}

/* Who has the guest's MAC address there, too. Where the fabric answers in the guest's stead (ARP suppression), the guest is not asked at all, or
 * the same happens at the source. */
static void judge_mac(struct judge *j)
{
        const struct network_proof_nic *nic = j->nic;
        char mac[MAC_STRING_SIZE], address[IP_ADDRESS_STRING_SIZE];

        mac_format(nic->mac, mac);
        if (nic->local_port) {
                broken(j, NETWORK_PROOF_MAC, true,
                        "the MAC address %s is taken on host %s: something at its port %s uses it", mac,
                        nic->destination, nic->local_port);
                return;
        }
        for (size_t i = 0; i < nic->n_addresses; i++) {
                const struct network_proof_address *a = &nic->addresses[i];
                bool here = a->n_here > a->n_guest_here;

                if (a->address.family != 4 || a->unsure || a->n_there <= a->n_guest)
                        continue;
                broken(j, NETWORK_PROOF_MAC, a->n_guest > 0 && !here,
                        "the MAC address %s is taken in the network of port group %s at host %s: %u answers "
                        "for %s "
                        "came from it there, and the virtual machine gave %u%s",
                        mac, nic->port_group, nic->destination, a->n_there,
                        ip_address_format(&a->address, address), a->n_guest,
                        here              ? "; it is so at the source too"
                        : a->n_guest == 0 ? ", so the network may have answered in its stead"
                                          : "");
                return;
        }
        met(j, NETWORK_PROOF_MAC);
}

static void judge_addresses(struct judge *j)
{
        const struct network_proof_nic *nic = j->nic;
        char mac[MAC_STRING_SIZE], address[IP_ADDRESS_STRING_SIZE];
        bool any = false;

        for (size_t i = 0; i < nic->n_addresses; i++) {
                const struct network_proof_address *a = &nic->addresses[i];

                for (size_t k = 0; k < a->n_others; k++) {
                        any = true;
                        broken(j, NETWORK_PROOF_ADDRESS, !a->others[k].at_source,
                                "the virtual machine's address %s is taken in the network of port group %s "
                                "at host %s: %s answers for it%s",
                                ip_address_format(&a->address, address), nic->port_group, nic->destination,
                                mac_format(a->others[k].mac, mac),
                                a->others[k].at_source ? ", as it does at the source" : "");
                }
        }
        if (!any)
                met(j, NETWORK_PROOF_ADDRESS);
}

static void judge_gateways(struct judge *j)
{
        const struct network_proof_nic *nic = j->nic;
        char address[IP_ADDRESS_STRING_SIZE];

        if (nic->n_gateways == 0)
                broken(j, NETWORK_PROOF_GATEWAY, false,
                        "the gateway of the virtual machine in port group %s is not known: it sent nothing "
                        "through "
                        "one since it came to host %s",
                        nic->port_group, nic->source);
        for (size_t i = 0; i < nic->n_gateways; i++) {
                const struct network_proof_gateway *g = &nic->gateways[i];

                ip_address_format(&g->address, address);
                if (g->there)
                        met(j, NETWORK_PROOF_GATEWAY);
                else if (g->at_source)
                        broken(j, NETWORK_PROOF_GATEWAY, true,
                                "the gateway %s answers in port group %s on host %s and not on host %s",
                                address, nic->port_group, nic->source, nic->destination);
                else
                        broken(j, NETWORK_PROOF_GATEWAY, false,
                                "the gateway %s of port group %s answers on neither host", address,
                                nic->port_group);
        }
}

static void judge_mtu(struct judge *j)
{
        const struct network_proof_nic *nic = j->nic;

        if (nic->large)
                met(j, NETWORK_PROOF_MTU);
        else if (nic->small)
                broken(j, NETWORK_PROOF_MTU, true,
                        "the network between the hosts %s and %s does not carry packets of %u bytes, the MTU "
                        "of port "
                        "group %s: the guest's larger ones would be lost",
                        nic->source, nic->destination, nic->mtu, nic->port_group);
        else
                broken(j, NETWORK_PROOF_MTU, false,
                        "whether the network of port group %s carries packets of %u bytes is not known: its "
                        "switches "
                        "do not pass test frames on",
                        nic->port_group, nic->mtu);
}

int network_proof_judge(const struct network_proof_nic *nic, const json_t *accepted, json_t *checks)
{
        struct judge j = {.nic = nic, .accepted = accepted, .checks = checks};
        bool other_segment;

        if (nic->problem) {
                broken(&j, NETWORK_PROOF_MADE, false,
                        "the network of port group %s at host %s was not tried: %s", nic->port_group,
                        nic->destination, nic->problem);
                return j.result;
        }
        other_segment = judge_segment(&j);
        judge_mac(&j);
        judge_addresses(&j);
        if (!other_segment) { /* else both would only follow from that */
                judge_gateways(&j);
                judge_mtu(&j);
        }
        return j.result;
}

static const char *text(const json_t *item, const char *key)
{
        return json_string_value(json_object_get(item, key)) ?: "";
}

int network_proof_error(const json_t *checks, struct error **ret_error)
{
        const json_t *first = NULL, *item;
        size_t i, n = 0;

        json_array_foreach ((json_t *)checks, i, item) {
                if (json_is_true(json_object_get(item, "ok")) || strcmp(text(item, "severity"), "error") != 0)
                        continue;
                first = first ?: item;
                n++;
        }
        if (n == 0)
                return 0;
        if (n == 1)
                return error_set(ret_error, ERROR_CHECK_FAILED, text(first, "way_out"), "%s: %s",
                        text(first, "code"), text(first, "cause"));
        return error_set(ret_error, ERROR_CHECK_FAILED, text(first, "way_out"), "%s: %s (and %zu more)",
                text(first, "code"), text(first, "cause"), n - 1);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The network proof of a migration (docs/decisions/0021-network-proof.md). When the destination has prepared, its taps are plugged in. Then, beside the
 * copy, both hosts ask on each port group for the guest's addresses and gateways, the destination sends test frames to the
 * source's bridge, which sends them back, and the source counts what its guest answered. network_proof.c judges. The guest is not paused
 * before this is over (migration_switchover.c): after UNHEARD_MS and CALL_TIMEOUT_MS at the latest, and what was not answered by then is a warning.
 *
 * It never outlives what it is for: migration_network_end() ends this side's part when the migration is to end, when its journal says who has the VM next, and
 * when it is settled. Nothing of it is durable: an agent that starts again ends its migrations. */

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/migration_state.h"
#include "agent/network_proof.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "fabric/answer_count.h"
#include "fabric/foreign_macs.h"
#include "fabric/guest_watch.h"
#include "fabric/network_probe.h"
#include "fabric/ovs.h"
#include "fabric/vswitch.h"
#include "io/crash_point.h"

#define LISTEN_MS 200 /* for a second answer; what answers nobody ends it after 600 (network_probe.c) */
#define LIMIT_MS 1000 /* of the destination, should its timers be late */
#define CALL_TIMEOUT_MS 2000 /* a destination that does not answer is not waited for any longer */
#define UNHEARD_MS 3000      /* likewise */
#define STALE_MS 60000       /* a copy may take hours, and a network changes meanwhile */
#define ASK_AGAIN_MS 600     /* in doubt, as long as no more time has passed */
#define NAME_MAX_BYTES 64
#define ACCEPTED_MAX 16
#define NEIGHBOURS_MAX 4 /* that the destination is told of */
#define STATUS_NOT_FOUND 404
#define PROBLEM_MAX 256
#define MOVED "the address of the bridge %s changed meanwhile"

/* --- The source ------------------------------------------------------------------------------------------ */

struct nic_proof {
        struct network_probe *
                probe; /* the same questions here, and test frames are sent back; NULL: it could not be made */
        struct guest_watch *watch;  /* of the VM; NULL: nothing is known of the guest */
        struct answer_count *count; /* of what the guest answers; NULL: it is not known */
        char bridge[IFNAMSIZ];
        uint8_t bridge_mac[MAC_SIZE];
        uint32_t mtu;
        char nonce[2 * FRAME_NONCE_SIZE + 1], echo_nonce[2 * FRAME_NONCE_SIZE + 1];
        struct network_proof_nic facts;
        struct guest_neighbour gateways[GUEST_GATEWAYS_MAX];
        uint8_t gateway_macs[GUEST_GATEWAYS_MAX][MAC_SIZE]; /* that answered for them at the destination */
        /* Of `facts`, which is judged when the answer that named the port, and perhaps the VM, are gone. */
        char local_port[IFNAMSIZ], port_group[NAME_MAX_CHARS + 1];
        char problem[PROBLEM_MAX];
};

struct migration_network {
        struct http_call *call;
        struct crash_hold *hold; /* a test holds the proof, and not the migration */
        struct nic_proof nics[VM_NICS_MAX];
        size_t n_nics, n_asked; /* of those the destination is asked about */
        uint64_t started_ms, ended_ms, ms;
        bool over;
        bool one_nonce; /* the destination is of a version that knows of one alone */
        json_t *checks;
        const char *source, *destination; /* names of the hosts, of the spec */
        const json_t *accepted;           /* of the spec */
};

int migration_network_init(struct migration *m, struct error **ret_error)
{
        static const char *const keys[] = {"accept", "source", "destination", NULL};
        struct migration_network *network;
        json_t *wanted = NULL, *accepted = NULL;
        const char *source = "", *destination = "";
        int r = doc_opt_object(m->spec, "", "network_proof", &wanted, ret_error);

        if (r < 0 || !wanted)
                return r;
        r = doc_only_keys(wanted, "network_proof", keys, ret_error);
        if (r == 0)
                r = doc_need_string(wanted, "network_proof", "source", NAME_MAX_BYTES, &source, ret_error);
        if (r == 0)
                r = doc_need_string(
                        wanted, "network_proof", "destination", NAME_MAX_BYTES, &destination, ret_error);
        if (r == 0)
                r = doc_opt_array(wanted, "network_proof", "accept", ACCEPTED_MAX, &accepted, ret_error);
        if (r < 0)
                return r;
        network = ALLOC(struct migration_network);
        if (!network || !(network->checks = json_array())) {
                free(network);
                return error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
        }
        network->source = source;
        network->destination = destination;
        network->accepted = accepted;
        m->source.network = network;
        return 0;
}

/* All there is room for: the VM, whose NICs were counted, may have lost them since. */
static void end_probes(struct migration_network *network)
{
        for (size_t i = 0; i < ARRAY_SIZE(network->nics); i++)
                network_probe_free(TAKE_PTR(network->nics[i].probe));
}

/* Nothing is asked, heard or counted any more. */
static void end_asking(struct migration_network *network)
{
        http_call_cancel(TAKE_PTR(network->call));
        crash_hold_free(TAKE_PTR(network->hold));
        end_probes(network);
        for (size_t i = 0; i < ARRAY_SIZE(network->nics); i++)
                answer_count_free(TAKE_PTR(network->nics[i].count));
}

void migration_network_free(struct migration_network *network)
{
        if (!network)
                return;
        end_asking(network);
        json_decref(network->checks);
        free(network);
}

void migration_network_end(struct migration *m)
{
        if (m->role == MIGRATION_SOURCE_SIDE && m->source.network)
                end_asking(m->source.network);
        else if (m->role == MIGRATION_DESTINATION_SIDE)
                migration_network_answer_free(TAKE_PTR(m->destination.network));
}

bool migration_network_pending(const struct migration *m)
{
        return m->source.network && !m->source.network->over;
}

static uint64_t now_ms(const struct migration *m)
{
        return clock_now_ms(loop_clock(m->agent->loop));
}

static void finish(struct migration *m)
{
        struct migration_network *network = m->source.network;
        struct error *e = NULL;
        int r = 0;

        for (size_t i = 0; i < network->n_nics && r == 0; i++) {
                network->nics[i].facts.problem = *network->nics[i].problem ? network->nics[i].problem : NULL;
                r = network_proof_judge(&network->nics[i].facts, network->accepted, network->checks);
        }
        end_asking(network);
        network->over = true;
        network->ended_ms = now_ms(m);
        network->ms = network->ended_ms - network->started_ms;
        if (r == 0)
                r = network_proof_error(network->checks, &e);
        else
                r = error_from_errno(&e, ENOMEM, "the network proof could not be judged");
        log_info("migration %s: the network at the destination was tried in %llu ms: %s", m->id,
                (unsigned long long)network->ms, r < 0 ? error_message(e) : "nothing forbids it");
        if (r < 0)
                migration_stop(m, e);
        else if (m->source.poll)
                loop_source_rearm(m->source.poll, 0); /* the guest's pause may wait for this */
        migration_kick(m);
        migration_publish(m);
}

bool migration_network_answered(const struct migration *m, size_t *ret_nic, uint8_t ret_mac[static MAC_SIZE],
        struct ip_address *ret_address)
{
        const struct migration_network *network = m->source.network;

        for (size_t i = 0; network && network->over && i < network->n_nics; i++)
                for (size_t k = 0; k < network->nics[i].facts.n_addresses; k++) {
                        const struct network_proof_address *a = &network->nics[i].facts.addresses[k];

                        if (a->n_guest == 0)
                                continue;
                        *ret_nic = network->nics[i].facts.nic;
                        memcpy(ret_mac, network->nics[i].facts.mac, MAC_SIZE);
                        *ret_address = a->address;
                        return true;
                }
        return false;
}

/* Nothing came of any of them. */
static void give_up(struct migration *m, const char *problem)
{
        struct migration_network *network = m->source.network;

        for (size_t i = 0; i < network->n_nics; i++)
                if (!*network->nics[i].problem)
                        snprintf(network->nics[i].problem, PROBLEM_MAX, "%s", problem);
        finish(m);
}

static bool is_mac(const struct network_probe_answer *a, const uint8_t *mac)
{
        return !memcmp(a->mac, mac, MAC_SIZE);
}

/* How the same questions were answered here. */
static void take_control(struct nic_proof *nic)
{
        const struct network_probe_answer *answers;
        struct network_proof_nic *facts = &nic->facts;
        size_t n;

        answers = network_probe_answers(nic->probe, &n);
        for (size_t k = 0; k < n; k++) {
                for (size_t i = 0; i < facts->n_addresses; i++) {
                        struct network_proof_address *a = &facts->addresses[i];

                        if (!ip_address_equal(&a->address, &answers[k].address))
                                continue;
                        if (is_mac(&answers[k], facts->mac))
                                a->n_here += answers[k].n;
                        for (size_t o = 0; o < a->n_others; o++)
                                a->others[o].at_source |= is_mac(&answers[k], a->others[o].mac);
                }
                for (size_t i = 0; i < facts->n_gateways; i++) {
                        if (!ip_address_equal(&facts->gateways[i].address, &answers[k].address))
                                continue;
                        facts->gateways[i].at_source = true;
                        facts->gateways[i].same |=
                                facts->gateways[i].there && is_mac(&answers[k], nic->gateway_macs[i]);
                }
        }
}

static void take_other(struct network_proof_address *a, const uint8_t *mac)
{
        if (a->n_others < NETWORK_PROOF_OTHERS_MAX)
                memcpy(a->others[a->n_others++].mac, mac, MAC_SIZE);
}

/* One item for each pair of IP and MAC address. */
static void take_answer(struct nic_proof *nic, const json_t *item)
{
        struct network_proof_nic *facts = &nic->facts;
        const char *text = json_string_value(json_object_get(item, "address"));
        const char *mac_text = json_string_value(json_object_get(item, "mac"));
        json_int_t n = json_integer_value(json_object_get(item, "n"));
        struct ip_address address;
        uint8_t mac[MAC_SIZE];

        if (!text || !mac_text || ip_address_parse(text, &address) < 0 || mac_parse(mac_text, mac) < 0 ||
                n < 1)
                return;
        for (size_t i = 0; i < facts->n_gateways; i++)
                if (ip_address_equal(&facts->gateways[i].address, &address)) {
                        facts->gateways[i].there = true;
                        memcpy(nic->gateway_macs[i], mac, MAC_SIZE);
                }
        for (size_t i = 0; i < facts->n_addresses; i++) {
                struct network_proof_address *a = &facts->addresses[i];

                if (!ip_address_equal(&a->address, &address))
                        continue;
                if (!memcmp(mac, facts->mac, MAC_SIZE))
                        a->n_there += (unsigned int)MIN(n, (json_int_t)1000);
                else
                        take_other(a, mac);
        }
}

static void take_report(struct nic_proof *nic, const json_t *report)
{
        struct network_proof_nic *facts = &nic->facts;
        const char *problem = json_string_value(json_object_get(report, "problem"));
        const char *mac_text = json_string_value(json_object_get(report, "mac"));
        json_t *answers = json_object_get(report, "answers"), *item;
        uint8_t their_mac[MAC_SIZE];
        size_t i;

        if (problem || !mac_text || mac_parse(mac_text, their_mac) < 0) {
                snprintf(nic->problem, sizeof(nic->problem), "%.200s",
                        problem ?: "the destination's answer is not understood");
                return;
        }
        json_array_foreach (answers, i, item)
                take_answer(nic, item);
        facts->small = json_is_true(json_object_get(report, "small"));
        facts->large = json_is_true(json_object_get(report, "large"));
        facts->mtu = MIN(nic->mtu, (uint32_t)json_integer_value(json_object_get(report, "mtu")));
        snprintf(nic->local_port, sizeof(nic->local_port), "%s",
                json_string_value(json_object_get(report, "local_port")) ?: "");
        facts->local_port = *nic->local_port ? nic->local_port : NULL;
        take_control(nic); /* before what the guest gave is counted */
        for (i = 0; i < facts->n_addresses; i++) {
                struct network_proof_address *a = &facts->addresses[i];

                a->unsure = !nic->watch || !nic->count ||
                            !answer_count_read(nic->count, nic->bridge_mac, &a->address, &a->n_guest_here) ||
                            !answer_count_read(nic->count, their_mac, &a->address, &a->n_guest);
        }
}

static struct guest_watch *watch_of(const struct vm *vm, size_t nic)
{
        return vm && vm->watches && nic < vm->n_taps ? vm->watches[nic] : NULL;
}

static void ask_again(struct migration *m);

/* A bridge that was given no address has the lowest of its ports': another one when a port comes or goes. Frames to the one before were lost. */
static bool has_moved(const char *bridge, const uint8_t *mac)
{
        uint8_t now[MAC_SIZE];
        uint32_t mtu;

        return network_probe_interface(bridge, now, &mtu) == 0 && memcmp(now, mac, MAC_SIZE) != 0;
}

/* What came there in the guest's name was not its own answer, up to now: a guest on a busy host may only be slow. */
static bool is_doubtful(const struct nic_proof *nic)
{
        for (size_t i = 0; !*nic->problem && i < nic->facts.n_addresses; i++) {
                const struct network_proof_address *a = &nic->facts.addresses[i];

                if (a->address.family == 4 && !a->unsure && a->n_there > 0 && a->n_guest == 0)
                        return true;
        }
        return false;
}

/* Neither test frames nor the guest were heard, at the source either: without an answer of the guest no wrong segment would be noticed. */
static bool is_unheard(const struct nic_proof *nic)
{
        if (*nic->problem || nic->facts.small || nic->facts.n_addresses == 0)
                return false;
        for (size_t i = 0; i < nic->facts.n_addresses; i++)
                if (nic->facts.addresses[i].n_there > 0 || nic->facts.addresses[i].n_here > 0)
                        return false;
        return true;
}

static bool is_to_be_asked_again(const struct migration *m)
{
        const struct migration_network *network = m->source.network;
        uint64_t ms = now_ms(m) - network->started_ms;

        for (size_t i = 0; i < network->n_nics; i++)
                if ((ms < ASK_AGAIN_MS && is_doubtful(&network->nics[i])) ||
                        (ms < UNHEARD_MS && is_unheard(&network->nics[i])))
                        return true;
        return false;
}

static void on_hold_over(void *userdata)
{
        struct migration *m = userdata;

        crash_hold_free(TAKE_PTR(m->source.network->hold));
        finish(m);
}

/* Everything is known that will be. */
static void conclude(struct migration *m)
{
        struct migration_network *network = m->source.network;

        for (size_t i = 0; i < network->n_nics; i++) {
                struct nic_proof *nic = &network->nics[i];

                if (!*nic->problem && has_moved(nic->bridge, nic->bridge_mac))
                        snprintf(nic->problem, sizeof(nic->problem), MOVED, nic->bridge);
        }
        if (!crash_point_hold(m->agent->loop, "source-network", on_hold_over, m, &network->hold))
                finish(m);
}

static void on_reports(void *userdata, int status, json_t *body, struct error *error)
{
        struct migration *m = userdata;
        struct migration_network *network = m->source.network;
        json_t *reports = json_object_get(body, "nics"), *report;
        size_t i;

        network->call = NULL;
        if (status == STATUS_NOT_FOUND)
                return give_up(m, "the destination's version of drover cannot do that");
        /* It may be of a version that sends test frames back with the nonce that they had: then that is how it is tried. */
        if (error && error->code == ERROR_BAD_DOCUMENT && !network->one_nonce) {
                network->one_nonce = true;
                return ask_again(m);
        }
        if (error)
                return give_up(m, error_message(error));
        /* The guest's QEMU may have ended, and its ports with it. */
        for (i = 0; i < network->n_nics; i++)
                network->nics[i].watch = watch_of(migration_vm(m), network->nics[i].facts.nic);
        json_array_foreach (reports, i, report) {
                json_int_t nic = json_integer_value(json_object_get(report, "nic"));

                for (size_t k = 0; k < network->n_nics; k++)
                        if (network->nics[k].facts.nic == nic && !*network->nics[k].problem)
                                take_report(&network->nics[k], report);
        }
        if (json_array_size(reports) < network->n_asked)
                return give_up(m, "the destination's answer is not understood");
        if (is_to_be_asked_again(m))
                return ask_again(m);
        conclude(m);
}

/* What is known of the guest. `before`: when it was asked the last time; what came then goes on to be counted, there and here, since an answer may
 * be under way from one to the next. */
static void take_guest(
        struct migration *m, struct nic_proof *nic, const char *tap, const struct network_proof_nic *before)
{
        const struct guest_addresses *known;
        struct network_proof_nic *facts = &nic->facts;

        if (!nic->watch)
                return;
        known = guest_watch_addresses(nic->watch);
        if (before->n_addresses) {
                facts->n_addresses = before->n_addresses;
                for (size_t i = 0; i < before->n_addresses; i++)
                        facts->addresses[i] =
                                (struct network_proof_address){.address = before->addresses[i].address,
                                        .n_there = before->addresses[i].n_there,
                                        .n_here = before->addresses[i].n_here};
        } else {
                answer_count_free(TAKE_PTR(nic->count));
                (void)answer_count_new(m->agent->loop, tap, nic->facts.mac, known->own, known->n_own,
                        &nic->count); /* without it nothing is concluded from what came */
                facts->n_addresses = known->n_own;
                for (size_t i = 0; i < known->n_own; i++)
                        facts->addresses[i].address = known->own[i];
        }
        facts->n_gateways = guest_addresses_gateways(known, nic->gateways);
        for (size_t i = 0; i < facts->n_gateways; i++)
                facts->gateways[i].address = nic->gateways[i].address;
}

static size_t targets_of(const struct network_proof_nic *facts, struct ip_address *ret)
{
        size_t n = 0;

        for (size_t i = 0; i < facts->n_addresses; i++)
                ret[n++] = facts->addresses[i].address;
        for (size_t i = 0; i < facts->n_gateways; i++)
                ret[n++] = facts->gateways[i].address;
        return n;
}

static int prepare_nic(struct migration *m, const struct vm *vm, size_t index, struct error **ret_error)
{
        struct migration_network *network = m->source.network;
        struct nic_proof *nic = &network->nics[index];
        const struct vm_nic *config = &vm->config->nics[index];
        struct ip_address targets[NETWORK_PROBE_TARGETS_MAX];
        struct network_probe_spec spec = {.targets = targets};
        struct vswitch_port_group group;
        const struct network_proof_nic before = nic->facts; /* no addresses: it is the first time */

        *nic = (struct nic_proof){.watch = vm->watches ? vm->watches[index] : NULL,
                .count = nic->count,
                .facts = {.nic = (unsigned int)index,
                        .port_group = nic->port_group,
                        .source = network->source,
                        .destination = network->destination}};
        snprintf(nic->port_group, sizeof(nic->port_group), "%s", config->port_group);
        /* As it was seen last: whoever is asked now may keep the loop waiting, and other guests may be paused. */
        if (vswitch_set_look_up_port_group(vm->agent->switches, config->port_group, &group) < 0)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "the port group %s is not there",
                        config->port_group);
        if (mac_parse(config->mac, nic->facts.mac) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "NIC %zu has no MAC address", index);
        take_guest(m, nic, vm->taps[index].name, &before);
        spec.bridge = group.station;
        snprintf(nic->bridge, sizeof(nic->bridge), "%s", group.station);
        spec.n_targets = targets_of(&nic->facts, targets);
        spec.mtu = nic->mtu = group.mtu;
        if (getrandom(spec.nonce, sizeof(spec.nonce), 0) != sizeof(spec.nonce) ||
                getrandom(spec.echo_nonce, sizeof(spec.echo_nonce), 0) != sizeof(spec.echo_nonce) ||
                network_probe_interface(group.station, nic->bridge_mac, &nic->mtu) < 0)
                return error_from_errno(ret_error, EIO, "the port group %s", config->port_group);
        if (m->source.network->one_nonce)
                memcpy(spec.echo_nonce, spec.nonce, sizeof(spec.nonce));
        text_hex_encode(spec.nonce, sizeof(spec.nonce), nic->nonce);
        text_hex_encode(spec.echo_nonce, sizeof(spec.echo_nonce), nic->echo_nonce);
        return network_probe_start(m->agent->loop, &spec, NULL, NULL, &nic->probe, ret_error);
}

static json_t *neighbours_json(const struct guest_neighbour *neighbours, size_t n)
{
        char mac[MAC_STRING_SIZE], text[IP_ADDRESS_STRING_SIZE];
        json_t *list = json_array();

        for (size_t i = 0; list && i < n; i++)
                if (mac_is_unicast(neighbours[i].mac) &&
                        json_array_append_new(list, json_pack("{s:s, s:s}", "address",
                                                            ip_address_format(&neighbours[i].address, text),
                                                            "mac", mac_format(neighbours[i].mac, mac))) < 0) {
                        json_decref(list);
                        return NULL;
                }
        return list;
}

/* With what the destination's agent shall know of the guest when it runs there. */
static json_t *question(const struct nic_proof *nic)
{
        const struct guest_addresses *known = nic->watch ? guest_watch_addresses(nic->watch) : NULL;
        char bridge_mac[MAC_STRING_SIZE], text[IP_ADDRESS_STRING_SIZE];
        json_t *addresses = json_array(), *out;
        int r = addresses ? 0 : -1;

        for (size_t i = 0; r == 0 && i < nic->facts.n_addresses; i++)
                r = json_array_append_new(
                        addresses, json_string(ip_address_format(&nic->facts.addresses[i].address, text)));
        out = json_pack("{s:i, s:s, s:s, s:s*, s:I, s:o, s:o, s:o}", "nic", (int)nic->facts.nic, "peer_mac",
                mac_format(nic->bridge_mac, bridge_mac), "nonce", nic->nonce, "echo_nonce",
                strcmp(nic->echo_nonce, nic->nonce) ? nic->echo_nonce : NULL, "mtu", (json_int_t)nic->mtu,
                "addresses", addresses, "gateways", neighbours_json(nic->gateways, nic->facts.n_gateways),
                "neighbours",
                neighbours_json(known ? known->neighbours : NULL,
                        known ? MIN(known->n_neighbours, (size_t)NEIGHBOURS_MAX) : 0));
        if (r < 0) {
                json_decref(out);
                return NULL;
        }
        return out;
}

static int ask_destination(struct migration *m, json_t *nics, struct error **ret_error)
{
        _cleanup_json_ json_t *body = json_pack("{s:o}", "nics", nics);
        _cleanup_free_ char *path = alloc_printf("/agent/v1/peer/migrations/%s/network", m->id);
        char name[NAME_MAX_BYTES];
        struct http_call_spec spec = {.method = "POST",
                .address = m->peer_address,
                .peer_name = name,
                .path = path,
                .body = body,
                .timeout_ms = CALL_TIMEOUT_MS};

        if (!body || !path)
                return error_from_errno(ret_error, ENOMEM, "no question");
        snprintf(name, sizeof(name), "%s.host.drover", m->peer_uid);
        return http_client_call(m->agent->client, &spec, on_reports, m, &m->source.network->call, ret_error);
}

static void ask_all(struct migration *m)
{
        struct migration_network *network = m->source.network;
        const struct vm *vm = migration_vm(m);
        _cleanup_error_ struct error *e = NULL;
        json_t *nics = json_array();

        network->n_nics = vm ? MIN(vm->n_taps, vm->config->n_nics) : 0;
        for (size_t i = 0; i < network->n_nics; i++) {
                struct error *why = NULL;

                if (prepare_nic(m, vm, i, &why) < 0)
                        snprintf(network->nics[i].problem, PROBLEM_MAX, "%s", error_message(why));
                else if (json_array_append_new(nics, question(&network->nics[i])) < 0)
                        snprintf(network->nics[i].problem, PROBLEM_MAX, "out of memory");
                error_free(why);
        }
        network->n_asked = json_array_size(nics);
        if (network->n_asked == 0) {
                json_decref(nics);
                return finish(m);
        }
        if (ask_destination(m, nics, &e) < 0)
                give_up(m, error_message(e));
}

static void ask_again(struct migration *m)
{
        end_probes(m->source.network);
        ask_all(m);
}

void migration_network_begin(struct migration *m)
{
        struct migration_network *network = m->source.network;

        if (!network || network->over || network->call || m->stop_wanted || m->settled)
                return;
        network->started_ms = now_ms(m);
        ask_all(m);
}

void migration_network_refresh(struct migration *m)
{
        struct migration_network *network = m->source.network;

        if (!network || !network->over || m->stop_wanted || now_ms(m) - network->ended_ms < STALE_MS)
                return;
        log_debug("migration %s: the network is tried again before the pause", m->id);
        (void)json_array_clear(network->checks);
        for (size_t i = 0; i < network->n_nics; i++)
                network->nics[i].facts.n_addresses = 0; /* nothing of then counts */
        network->over = false;
        migration_network_begin(m);
}

json_t *migration_network_document(const struct migration *m)
{
        const struct migration_network *network = m->role == MIGRATION_SOURCE_SIDE ? m->source.network : NULL;

        return network && network->over
                       ? json_pack("{s:I, s:O}", "ms", (json_int_t)network->ms, "checks", network->checks)
                       : NULL;
}

/* --- The destination ------------------------------------------------------------------------------------- */

struct nic_answer {
        struct network_answer *all;
        struct network_probe *probe;
        struct ovs_find *find;
        unsigned int nic;
        uint8_t mac[MAC_SIZE], bridge_mac[MAC_SIZE];
        uint32_t mtu;
        char bridge[IFNAMSIZ], switch_uplink[IFNAMSIZ], tap[IFNAMSIZ]; /* the guest's */
        char station[IFNAMSIZ];                                        /* where frames are sent and heard */
        bool distributed;                                              /* the bridge is one of Open vSwitch */
        char local_port[IFNAMSIZ]; /* of another with its address; "": none */
        char problem[PROBLEM_MAX];
        bool over;
};

struct network_answer {
        struct migration *m;
        struct http_request *request;
        struct nic_answer nics[VM_NICS_MAX];
        size_t n_nics;
        struct loop_source *reply;
        struct crash_hold *hold; /* a test holds the answer, and not the migration */
};

void migration_network_answer_free(struct network_answer *all)
{
        if (!all)
                return;
        if (all->request) {
                struct error *e = NULL;

                error_set(&e, ERROR_CANCELLED, NULL, "the migration ends at the destination");
                http_request_reply_error(TAKE_PTR(all->request), e);
        }
        for (size_t i = 0; i < all->n_nics; i++) {
                network_probe_free(all->nics[i].probe);
                ovs_find_free(all->nics[i].find);
        }
        loop_source_free(all->reply);
        crash_hold_free(all->hold);
        free(all);
}

/* Where on this host the guest's address is, though it is not the guest's. Who is at a port is seen when it speaks, and the guest's own answers
 * come in at the uplink: so it is looked before the first question, and after the last. ovs-vswitchd is asked once, see on_probed(). */
static void find_local_port(struct agent *agent, struct nic_answer *nic)
{
        if (!*nic->local_port && !nic->distributed)
                (void)foreign_macs_find_port(
                        agent->netlink, nic->bridge, nic->mac, nic->tap, nic->switch_uplink, nic->local_port);
}

static json_t *answers_json(const struct network_probe *probe)
{
        char address[IP_ADDRESS_STRING_SIZE], mac[MAC_STRING_SIZE];
        const struct network_probe_answer *answers;
        json_t *list = json_array();
        size_t n;

        answers = network_probe_answers(probe, &n);
        for (size_t i = 0; list && i < n; i++)
                json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "address",
                                                    ip_address_format(&answers[i].address, address), "mac",
                                                    mac_format(answers[i].mac, mac), "n", (int)answers[i].n));
        return list;
}

static json_t *report_of(struct agent *agent, struct nic_answer *nic)
{
        char bridge_mac[MAC_STRING_SIZE];

        if (nic->probe && has_moved(nic->station, nic->bridge_mac)) {
                network_probe_free(TAKE_PTR(nic->probe));
                snprintf(nic->problem, sizeof(nic->problem), MOVED, nic->station);
        }
        if (!nic->probe)
                return json_pack("{s:i, s:s}", "nic", (int)nic->nic, "problem", nic->problem);
        find_local_port(agent, nic);
        return json_pack("{s:i, s:s, s:I, s:o, s:b, s:b, s:s*}", "nic", (int)nic->nic, "mac",
                mac_format(nic->bridge_mac, bridge_mac), "mtu", (json_int_t)nic->mtu, "answers",
                answers_json(nic->probe), "small", network_probe_came_back(nic->probe, false), "large",
                network_probe_came_back(nic->probe, true), "local_port",
                *nic->local_port ? nic->local_port : NULL);
}

static void on_reply(void *userdata);

static void on_reply_held(void *userdata)
{
        struct network_answer *all = userdata;

        crash_hold_free(TAKE_PTR(all->hold));
        on_reply(all);
}

static void on_reply(void *userdata)
{
        struct network_answer *all = userdata;
        struct migration *m = all->m;
        json_t *nics;

        if (all->hold ||
                crash_point_hold(m->agent->loop, "destination-network", on_reply_held, all, &all->hold))
                return;
        nics = json_array();
        for (size_t i = 0; nics && i < all->n_nics; i++)
                json_array_append_new(nics, report_of(m->agent, &all->nics[i]));
        http_request_reply_json(TAKE_PTR(all->request), 200, json_pack("{s:o}", "nics", nics));
        migration_network_answer_free(TAKE_PTR(m->destination.network));
}

static void reply_when_over(struct network_answer *all)
{
        for (size_t i = 0; i < all->n_nics; i++)
                if (!all->nics[i].over)
                        return;
        if (!all->reply && loop_add_defer(all->m->agent->loop, on_reply, all, &all->reply) < 0)
                migration_network_answer_free(TAKE_PTR(all->m->destination.network));
}

static void nic_is_over(struct nic_answer *nic)
{
        nic->over = true;
        reply_when_over(nic->all);
}

static void on_found(void *userdata, const char *port)
{
        struct nic_answer *nic = userdata;

        ovs_find_free(TAKE_PTR(nic->find));
        snprintf(nic->local_port, sizeof(nic->local_port), "%s", port);
        nic_is_over(nic);
}

static void on_probed(void *userdata)
{
        struct nic_answer *nic = userdata;
        struct agent *agent = nic->all->m->agent;

        if (!nic->distributed ||
                ovs_find_port(agent->ovs, agent->loop, nic->bridge, nic->mac, on_found, nic, &nic->find) < 0)
                nic_is_over(nic);
}

static int read_neighbour(
        const json_t *item, const char *key, struct guest_neighbour *ret, struct error **ret_error)
{
        const char *text = json_string_value(json_object_get(item, "address"));
        const char *mac = json_string_value(json_object_get(item, "mac"));

        if (!text || !mac || ip_address_parse(text, &ret->address) < 0 || mac_parse(mac, ret->mac) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "nics[].%s is not valid", key);
        return 0;
}

/* Whom to ask for. A guest that comes here brings along what is known of it: the source's agent may seed what it likes, and it is the one
 * that gave us the guest. */
static int read_targets(const json_t *question, struct guest_addresses *known, struct ip_address *ret,
        size_t *ret_n, struct error **ret_error)
{
        json_t *addresses = NULL, *gateways = NULL, *neighbours = NULL, *item;
        struct guest_neighbour it;
        size_t i, n = 0;
        int r = doc_opt_array(question, "nics[]", "addresses", GUEST_ADDRESSES_MAX, &addresses, ret_error);

        if (r == 0)
                r = doc_opt_array(question, "nics[]", "gateways", GUEST_GATEWAYS_MAX, &gateways, ret_error);
        if (r == 0)
                r = doc_opt_array(question, "nics[]", "neighbours", NEIGHBOURS_MAX, &neighbours, ret_error);
        for (i = json_array_size(neighbours); r == 0 && i-- > 0;) {
                r = read_neighbour(json_array_get(neighbours, i), "neighbours", &it, ret_error);
                if (r == 0 && known)
                        guest_addresses_seed_neighbour(known, &it);
        }
        if (r < 0)
                return r;
        json_array_foreach (addresses, i, item) {
                if (!json_is_string(item) || ip_address_parse(json_string_value(item), &ret[n]) < 0)
                        return error_set(
                                ret_error, ERROR_BAD_DOCUMENT, NULL, "nics[].addresses is not valid");
                n++;
        }
        for (i = n; known && i-- > 0;) /* the newest last, as the guest would show them */
                guest_addresses_seed(known, &ret[i]);
        json_array_foreach (gateways, i, item) {
                r = read_neighbour(item, "gateways", &it, ret_error);
                if (r < 0)
                        return r;
                if (known)
                        guest_addresses_seed_gateway(known, &it);
                ret[n++] = it.address;
        }
        *ret_n = n;
        return 0;
}

static void note_uplink(struct agent *agent, const char *port_group, struct nic_answer *nic)
{
        _cleanup_json_ json_t *group = vswitch_set_port_group_status(agent->switches, port_group),
                              *its = NULL;
        const char *name = json_string_value(json_object_get(group, "switch"));

        its = name ? vswitch_set_switch_status(agent->switches, name) : NULL;
        snprintf(nic->switch_uplink, sizeof(nic->switch_uplink), "%s",
                json_string_value(json_object_get(its, "uplink")) ?: "");
}

static int begin_nic(
        struct network_answer *all, const struct vm *vm, const json_t *question, struct error **ret_error)
{
        static const char *const keys[] = {
                "nic", "addresses", "gateways", "neighbours", "peer_mac", "nonce", "echo_nonce", "mtu", NULL};
        struct nic_answer *nic = &all->nics[all->n_nics];
        struct ip_address targets[NETWORK_PROBE_TARGETS_MAX];
        struct network_probe_spec spec = {.targets = targets, .listen_ms = LISTEN_MS, .limit_ms = LIMIT_MS};
        const char *peer_mac = "", *nonce = "", *echo_nonce = NULL;
        struct vswitch_port_group group;
        uint64_t index = 0, mtu = 0;
        uint8_t mac[MAC_SIZE];
        int r = doc_only_keys(question, "nics[]", keys, ret_error);

        if (r == 0)
                r = doc_need_u64(question, "nics[]", "nic", 0, VM_NICS_MAX - 1, &index, ret_error);
        if (r == 0)
                r = doc_need_u64(
                        question, "nics[]", "mtu", VSWITCH_MTU_MIN, VSWITCH_MTU_MAX, &mtu, ret_error);
        if (r == 0)
                r = doc_need_string(question, "nics[]", "peer_mac", MAC_STRING_SIZE, &peer_mac, ret_error);
        if (r == 0)
                r = doc_need_string(question, "nics[]", "nonce", 2 * FRAME_NONCE_SIZE, &nonce, ret_error);
        if (r == 0)
                r = doc_opt_string(
                        question, "nics[]", "echo_nonce", 2 * FRAME_NONCE_SIZE, &echo_nonce, ret_error);
        echo_nonce = echo_nonce ?: nonce; /* of a source of an earlier version */
        if (r == 0 &&
                (index >= vm->n_taps || index >= vm->config->n_nics || mac_parse(peer_mac, mac) < 0 ||
                        !mac_is_unicast(mac) || text_hex_decode(nonce, spec.nonce, FRAME_NONCE_SIZE) < 0 ||
                        text_hex_decode(echo_nonce, spec.echo_nonce, FRAME_NONCE_SIZE) < 0))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "nics[%zu] is not valid", all->n_nics);
        if (r == 0)
                r = read_targets(question,
                        vm->watches && vm->watches[index] ? guest_watch_addresses(vm->watches[index]) : NULL,
                        targets, &spec.n_targets, ret_error);
        if (r < 0)
                return r;
        *nic = (struct nic_answer){.all = all, .nic = (unsigned int)index};
        all->n_nics++;
        spec.peer_mac = mac;
        if (vswitch_set_look_up_port_group(
                    all->m->agent->switches, vm->config->nics[index].port_group, &group) == 0 &&
                mac_parse(vm->config->nics[index].mac, nic->mac) == 0 &&
                network_probe_interface(group.station, nic->bridge_mac, &nic->mtu) == 0) {
                nic->mtu = MIN(nic->mtu, (uint32_t)mtu);
                spec.mtu = nic->mtu;
                spec.bridge = group.station;
                snprintf(nic->bridge, sizeof(nic->bridge), "%s", group.bridge);
                snprintf(nic->station, sizeof(nic->station), "%s", group.station);
                nic->distributed = group.ovs != NULL;
                snprintf(nic->tap, sizeof(nic->tap), "%s", vm->taps[index].name);
                if (!nic->distributed)
                        note_uplink(all->m->agent, vm->config->nics[index].port_group, nic);
                find_local_port(all->m->agent, nic);
                (void)network_probe_start(all->m->agent->loop, &spec, on_probed, nic, &nic->probe, ret_error);
        }
        if (nic->probe)
                return 0;
        nic->over = true;
        snprintf(nic->problem, sizeof(nic->problem), "%s",
                ret_error && *ret_error ? error_message(*ret_error) : "the port group is not there");
        if (ret_error)
                error_free(TAKE_PTR(*ret_error));
        return 0;
}

static int begin_answer(struct migration *m, struct http_request *request, struct error **ret_error)
{
        static const char *const keys[] = {"nics", NULL};
        struct network_answer *all;
        const struct vm *vm = migration_vm(m);
        json_t *body = NULL, *nics = NULL, *question;
        size_t i;
        int r = http_request_json(request, &body, ret_error);

        if (r == 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r == 0)
                r = doc_opt_array(body, "", "nics", VM_NICS_MAX, &nics, ret_error);
        if (r == 0 && (!vm || m->role != MIGRATION_DESTINATION_SIDE || m->record != HANDOFF_PREPARED ||
                              m->stop_wanted || m->settled || m->destination.network))
                r = error_set(ret_error, ERROR_CONFLICT, NULL,
                        "migration %s is not in a state in which its network can be tried", m->id);
        if (r < 0)
                return r;
        all = ALLOC(struct network_answer);
        if (!all)
                return error_from_errno(ret_error, ENOMEM, "the network cannot be tried");
        all->m = m;
        json_array_foreach (nics, i, question) {
                r = begin_nic(all, vm, question, ret_error);
                if (r < 0) {
                        migration_network_answer_free(all);
                        return r;
                }
        }
        all->request = request;
        m->destination.network = all;
        reply_when_over(all);
        return 0;
}

void migration_network_answer(struct migration *m, struct http_request *request)
{
        struct error *e = NULL;

        if (begin_answer(m, request, &e) < 0)
                http_request_reply_error(request, e);
}

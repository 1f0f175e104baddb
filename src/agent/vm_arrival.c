/* SPDX-License-Identifier: Apache-2.0 */

/* A guest that a migration brought here: it is announced until the network answers it at its new ports (fabric/arrival.h), and when that was is
 * told to the host that it came from. */

#include <string.h>

#include "agent/agent.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/log.h"
#include "fabric/announce.h"
#include "fabric/arrival.h"
#include "fabric/guest_watch.h"
#include "fabric/ovs.h"
#include "fabric/vswitch.h"

#define LIMIT_MS 5000
#define ROUNDS_MAX 15 /* of announcements: as long */

/* What answered needs no more of them than the usual ones. */
static void on_arrived(void *userdata)
{
        struct vm *vm = userdata;

        for (size_t i = 0; vm->arrivals && i < vm->n_taps; i++)
                if (vm->arrivals[i] && arrival_result(vm->arrivals[i])->over && vm->announces[i])
                        announce_shorten(vm->announces[i], ANNOUNCE_ROUNDS_DEFAULT);
}

/* The guest's address that this neighbour of IPv6 can answer itself: on the same /64, as those of a link are. */
static const struct ip_address *sender_for(
        const struct guest_addresses *known, const struct guest_neighbour *neighbour)
{
        for (size_t i = 0; i < known->n_own && mac_is_unicast(neighbour->mac); i++)
                if (known->own[i].family == 6 && !memcmp(known->own[i].bytes, neighbour->address.bytes, 8))
                        return &known->own[i];
        return NULL;
}

/* The first of them that can be asked; of IPv4, whose answers come to the asker alone whoever asks, if there is one. */
static void choose_among(const struct guest_addresses *known, const struct guest_neighbour *neighbours,
        size_t n, uint8_t family, struct arrival_spec *spec)
{
        for (size_t i = 0; i < n && !spec->target.family; i++) {
                const struct ip_address *sender = family == 6 ? sender_for(known, &neighbours[i]) : NULL;

                if (neighbours[i].address.family != family || (family == 6 && !sender))
                        continue;
                spec->target = neighbours[i].address;
                if (!sender)
                        return;
                spec->sender = *sender;
                memcpy(spec->target_mac, neighbours[i].mac, MAC_SIZE);
        }
}

/* The gateway, or else the neighbour that the guest spoke to last. */
static void choose_target(struct guest_watch *watch, struct arrival_spec *spec)
{
        const struct guest_addresses *known = guest_watch_addresses(watch);
        struct guest_neighbour gateways[GUEST_GATEWAYS_MAX];
        size_t n = guest_addresses_gateways(known, gateways);

        for (uint8_t family = 4; family <= 6; family += 2) {
                choose_among(known, gateways, n, family, spec);
                choose_among(known, known->neighbours, known->n_neighbours, family, spec);
        }
}

static void watch_nic(struct vm *vm, size_t index)
{
        const struct vm_nic *nic = &vm->config->nics[index];
        struct arrival_spec spec = {.tap = vm->taps[index].name, .limit_ms = LIMIT_MS};
        _cleanup_error_ struct error *error = NULL;
        struct vswitch_port_group group;

        if (vswitch_set_look_up_port_group(vm->agent->switches, nic->port_group, &group) < 0 ||
                mac_parse(nic->mac, spec.mac) < 0)
                return;
        spec.bridge = group.bridge;
        /* Open vSwitch would learn the guest's address at whatever port asks in its name. */
        if ((!group.ovs || ovs_speak_for(group.ovs, group.bridge, spec.tap, &spec.speaker) == 0) &&
                vm->watches && vm->watches[index])
                choose_target(vm->watches[index], &spec);
        if (arrival_start(vm->agent->loop, &spec, on_arrived, vm, &vm->arrivals[index], &error) < 0)
                log_debug("VM %s: %s", vm->name, error_message(error));
}

void vm_arrive(struct vm *vm)
{
        vm_announce_rounds(vm, ROUNDS_MAX);
        if (!vm->arrivals)
                vm->arrivals = alloc_array(vm->n_taps, sizeof(*vm->arrivals));
        for (size_t i = 0; vm->arrivals && i < vm->n_taps && i < vm->config->n_nics; i++) {
                arrival_free(TAKE_PTR(vm->arrivals[i]));
                watch_nic(vm, i);
        }
}

void vm_leave_arrival(struct vm *vm)
{
        for (size_t i = 0; vm->arrivals && i < vm->n_taps; i++)
                arrival_free(vm->arrivals[i]);
        free(TAKE_PTR(vm->arrivals));
}

json_t *vm_arrival_document(const struct vm *vm)
{
        json_t *list = vm->arrivals ? json_array() : NULL;

        for (size_t i = 0; list && i < vm->n_taps; i++) {
                const struct arrival_result *r = vm->arrivals[i] ? arrival_result(vm->arrivals[i]) : NULL;

                if (r)
                        json_array_append_new(list,
                                json_pack("{s:i, s:b, s:i, s:I, s:I, s:I}", "nic", (int)i, "over",
                                        r->over || r->n_asked == 0, "asked", (int)r->n_asked, "from_guest_ns",
                                        (json_int_t)r->from_guest_ns, "to_guest_ns",
                                        (json_int_t)r->to_guest_ns, "answer_ns", (json_int_t)r->answer_ns));
        }
        return list;
}

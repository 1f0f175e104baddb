/* SPDX-License-Identifier: Apache-2.0 */

/* What the source records of the guest's arrival: how the destination saw it (vm_arrival.c), and for how long the guest did not answer another station
 * on its network, which is this host (fabric/gap_meter.h). */

#include <string.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/migration_state.h"
#include "agent/vm.h"
#include "base/log.h"
#include "fabric/gap_meter.h"
#include "fabric/vswitch.h"

#define WAIT_MS 6000 /* a little more than the destination watches */

/* Asked is for what the guest itself answered for just before: an address that it had once may be another's now, and one that it is about to
 * take is not answered for yet, so that no question is a conflict to it (RFC 5227). */
void migration_arrival_stopped(struct migration *m)
{
        const struct vm *vm = migration_vm(m);
        struct vswitch_port_group group;
        struct ip_address address;
        uint8_t mac[MAC_SIZE];
        size_t nic;

        if (m->source.gap || !vm || !migration_network_answered(m, &nic, mac, &address) ||
                nic >= vm->config->n_nics ||
                vswitch_set_look_up_port_group(m->agent->switches, vm->config->nics[nic].port_group, &group) <
                        0)
                return;
        (void)gap_meter_start(m->agent->loop, group.station, mac, &address, m->source.stopped_unix_us * 1000,
                &m->source.gap);
}

void migration_arrival_take(struct migration *m, const json_t *body)
{
        json_t *arrival = json_object_get(body, "arrival");

        if (m->role != MIGRATION_SOURCE_SIDE || !json_is_array(arrival))
                return;
        json_decref(m->source.arrival);
        m->source.arrival = json_incref(arrival);
}

bool migration_arrival_pending(const struct migration *m)
{
        uint64_t waited_ms = clock_now_ms(loop_clock(m->agent->loop)) - m->source.resumed_ms;
        json_t *nic;
        size_t i;

        if (!m->source.arrival || migration_peer_fenced(m) || waited_ms > WAIT_MS)
                return false;
        if (m->source.gap && gap_meter_asks(m->source.gap))
                return true;
        json_array_foreach (m->source.arrival, i, nic)
                if (!json_is_true(json_object_get(nic, "over")))
                        return true;
        return false;
}

/* Since the guest was stopped, on this host's clock; null for what did not come. */
static json_t *since_stop(const struct migration *m, const json_t *nic, const char *key)
{
        int64_t at_ns = json_integer_value(json_object_get(nic, key));

        if (!at_ns || !m->source.stopped_unix_us)
                return json_null();
        return json_real((double)(at_ns - m->clock_offset_ns - m->source.stopped_unix_us * 1000) / 1e6);
}

static const char *verified_by(const json_t *nic)
{
        return json_integer_value(json_object_get(nic, "answer_ns"))     ? "answer"
               : json_integer_value(json_object_get(nic, "to_guest_ns")) ? "frame"
                                                                         : "nothing";
}

static json_t *nics_of(const struct migration *m)
{
        json_t *list = json_array(), *nic;
        size_t i;

        json_array_foreach (m->source.arrival, i, nic)
                json_array_append_new(
                        list, json_pack("{s:O, s:s, s:O, s:o, s:o, s:o}", "nic", json_object_get(nic, "nic"),
                                      "verified_by", verified_by(nic), "asked", json_object_get(nic, "asked"),
                                      "answer_ms", since_stop(m, nic, "answer_ns"), "first_frame_to_ms",
                                      since_stop(m, nic, "to_guest_ns"), "first_frame_from_ms",
                                      since_stop(m, nic, "from_guest_ns")));
        return list;
}

/* Without an address to ask for: the guest's own stop, and its first frame there. */
static json_t *gap_by_frames(const struct migration *m)
{
        json_t *nic = json_array_get(m->source.arrival, 0);
        int64_t from = json_integer_value(json_object_get(nic, "from_guest_ns"));
        int64_t to = json_integer_value(json_object_get(nic, "to_guest_ns"));
        int64_t first = from && to ? MIN(from, to) : from + to;

        if (!first || !m->source.stopped_unix_us)
                return json_pack("{s:n}", "gap_ms");
        return json_pack("{s:f, s:s, s:s}", "gap_ms",
                (double)(first - m->clock_offset_ns - m->source.stopped_unix_us * 1000) / 1e6, "gap_between",
                "the guest's stop at the source, and the first frame to or from it at the destination",
                "gap_clock", "CLOCK_REALTIME of both hosts, less the offset between them (pause_clock)");
}

json_t *migration_arrival_document(const struct migration *m)
{
        int64_t first_ns = 0;
        json_t *doc;

        if (!m->source.arrival)
                return NULL;
        if (m->source.gap && gap_meter_result(m->source.gap, &first_ns))
                doc = json_pack("{s:f, s:s, s:s}", "gap_ms",
                        (double)(first_ns - m->source.stopped_unix_us * 1000) / 1e6, "gap_between",
                        "the guest's stop at the source and its first answer from the destination, to "
                        "questions of the source's host every 5 ms",
                        "gap_clock",
                        "CLOCK_REALTIME of the source's host, as QEMU stamped the stop and the kernel the "
                        "answer");
        else
                doc = gap_by_frames(m);
        if (doc)
                json_object_set_new(doc, "nics", nics_of(m));
        return doc;
}

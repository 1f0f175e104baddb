/* SPDX-License-Identifier: Apache-2.0 */

/* What a migration took, as its source records it when the guest has left. */

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/migration_state.h"
#include "base/doc.h"

static int64_t pause_ns(const struct migration *m)
{
        if (!m->source.stopped_unix_us || !m->source.resumed_unix_ns)
                return -1;
        return m->source.resumed_unix_ns - m->clock_offset_ns - m->source.stopped_unix_us * 1000;
}

/* When the guest was paused, on this host's clock, and who permitted it. */
static json_t *switchover_record(const struct migration *m)
{
        json_t *record = migration_switchover_document(m) ?: json_pack("{s:s}", "permit", "none");
        json_int_t stopped_us = m->source.stopped_unix_us;
        int64_t pause = pause_ns(m);

        json_object_set_new(record, "stopped_unix_ms", json_real((double)stopped_us / 1000));
        if (pause >= 0)
                json_object_set_new(record, "resumed_unix_ms",
                        json_real((double)stopped_us / 1000 + (double)pause / 1e6));
        return record;
}

void migration_build_result(struct migration *m)
{
        static const char *const copied[] = {"bytes_ram", "bytes_wire", "bytes_zero", "bytes_duplicate",
                "bytes_recalled", "bytes_shared", "bytes_delta", "bytes_device", "pages_sent",
                "pages_resent_by_verify", "channels", "reconnects", "cipher", "rtt_us", "codec", "tunnel",
                "verified", "verify_ms", "ram_hash", "cpu_ms", "capacity_bps", NULL};
        static const char *const of_disks[] = {"bytes_disk", "bytes_disk_zero", "bytes_disk_wire", NULL};
        json_t *result = json_object();
        uint64_t end = m->source.resumed_ms ?: clock_now_ms(loop_clock(m->agent->loop));
        int64_t pause = pause_ns(m);
        char address[64], own_fingerprint[PKI_FINGERPRINT_SIZE] = "";

        if (!result)
                return;
        if (m->cert_pem)
                (void)pki_fingerprint(m->cert_pem, own_fingerprint, NULL);
        json_object_set_new(result, "total_ms", json_integer((json_int_t)(end - m->started_ms)));
        json_object_set_new(result, "pause_ms", pause < 0 ? json_null() : json_real((double)pause / 1e6));
        json_object_set_new(result, "pause_clock",
                json_pack("{s:s, s:I, s:I}", "method",
                        "STOP and RESUME as stamped by each QEMU, corrected by the offset between "
                        "the hosts' "
                        "clocks "
                        "(shortest of several exchanges)",
                        "offset_us", (json_int_t)(m->clock_offset_ns / 1000), "error_us",
                        (json_int_t)(m->clock_rtt_ns / 2000)));
        json_object_set_new(result, "passes", json_integer((json_int_t)m->source.n_passes));
        for (size_t i = 0; copied[i]; i++) {
                json_t *v = json_object_get(m->progress, copied[i]);

                if (v)
                        json_object_set(result, copied[i], v);
        }
        for (size_t i = 0; m->disks && of_disks[i]; i++)
                json_object_set(result, of_disks[i], json_object_get(m->progress, of_disks[i]));
        migration_converge_result(m, result);
        json_object_set_new(result, "switchover", switchover_record(m));
        if (m->source.network)
                json_object_set_new(result, "network", migration_network_document(m) ?: json_null());
        if (m->source.arrival)
                json_object_set_new(result, "arrival", migration_arrival_document(m) ?: json_null());
        if (m->source.kept)
                json_object_set(result, "checkpoint", m->source.kept);
        if (*m->spec_digest)
                json_object_set_new(result, "handshake",
                        json_pack("{s:s, s:s, s:s}", "digest", m->spec_digest, "source_key", own_fingerprint,
                                "destination_key", m->source.peer_fingerprint));
        json_object_set_new(result, "from", json_string(agent_host_uid(m->agent)));
        json_object_set_new(result, "to", json_string(m->peer_uid));
        json_object_set_new(result, "data_address",
                json_string(sock_address_format(&m->source.data_addresses[0], address)));
        if (m->source.paths)
                json_object_set(result, "paths", m->source.paths);
        json_decref(m->result);
        m->result = result;
}

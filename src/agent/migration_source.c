/* SPDX-License-Identifier: Apache-2.0 */

/* The source's side of a migration. First a fixed way: the destination prepares everything, clocks are compared, data
 * connections are made, the mover gets them, QEMU is set up and told to migrate. From then on each event (of QEMU, the
 * mover, the peer, a timer) leads to one question to handoff.c and one action.
 *
 * QEMU and the data path never wait for each other through us: QMP is asynchronous, and may be silent while QEMU writes its
 * final phase; the way to abort is to close the stream, upon which QEMU resumes the guest by itself. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/data_connections.h"
#include "agent/migration.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "fabric/gap_meter.h"
#include "io/file.h"
#include "io/sock.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"
#include "vmm/vm_config.h"

#define PREPARE_TIMEOUT_MS 90000
#define PREPARE_TRIES 10 /* one a tick, while the destination is not there yet or not free yet */
#define CONNECT_TIMEOUT_MS 10000
#define QMP_TIMEOUT_MS 10000
#define POLL_MS 200
/* The stream's room: what the connections take in STREAM_MS, up to MAX_STREAM_PACKS bytes of memory for each on the wire. */
#define STREAM_MS 10
#define MAX_STREAM_PACKS 4.0
#define MIN_STREAM_BYTES (256 * 1024.0)
#define STATS_TO_FIT 3 /* two a second */
#define CLOCK_SAMPLES 5
#define FIRST_ASK_AFTER_COMMIT_MS 1000
#define COMPLETES_ALONE_MS 30000 /* of a destination, after the path ended */
#define STREAM_NAME "drover-migration"
#define CERTIFICATE_HOURS (8 * 24)

void migration_source_next_stage(struct migration *m)
{
        m->source.stage++;
        m->source.stage_busy = false;
        migration_kick(m);
}

static void stage_failed(struct migration *m, struct error *error)
{
        m->source.stage_busy = false;
        migration_stop(m, error);
}

static struct error *copy_error(const struct error *error)
{
        struct error *copy = NULL;

        if (error) {
                error_set(&copy, error->code, error->hint, "%s", error_message(error));
                if (error->object)
                        error_about(&copy, "%s", error->object);
        }
        return copy;
}

/* What was used goes into the record. */
void migration_source_close_connections(struct migration *m)
{
        if (!m->source.connections)
                return;
        json_decref(m->source.paths);
        m->source.paths = data_connections_document(m->source.connections);
        data_connections_free(TAKE_PTR(m->source.connections));
}

void migration_source_leave_monitor(struct migration *m)
{
        qmp_call_cancel(TAKE_PTR(m->source.poll_call));
        qmp_call_cancel(TAKE_PTR(m->source.stage_call));
        qmp_call_cancel(TAKE_PTR(m->source.post_copy_call));
        migration_setup_free(TAKE_PTR(m->source.setup));
}

/* The file with the guest's memory, if one was begun, is complete or of no use. */
void migration_source_end_keeping(struct migration *m, bool complete)
{
        loop_source_free(TAKE_PTR(m->source.keep_limit));
        if (!m->source.keeping)
                return;
        m->source.keeping = false;
        if (!checkpoints_end(m->agent->checkpoints, m->vm_uid, m->source.keeping_bytes, complete))
                json_decref(TAKE_PTR(m->source.kept));
}

void migration_source_deinit(struct migration *m)
{
        migration_source_end_keeping(m, false);
        explicit_bzero(m->source.checkpoint_key, sizeof(m->source.checkpoint_key));
        migration_switchover_deinit(m);
        migration_network_free(TAKE_PTR(m->source.network));
        gap_meter_free(TAKE_PTR(m->source.gap));
        json_decref(TAKE_PTR(m->source.arrival));
        json_decref(TAKE_PTR(m->source.kept));
        fd_closep(&m->source.qemu_fd);
        migration_source_close_connections(m);
        json_decref(TAKE_PTR(m->source.paths));
        loop_source_free(TAKE_PTR(m->source.poll));
        loop_source_free(TAKE_PTR(m->source.post_copy_limit));
        migration_source_leave_monitor(m);
}

/* --- The way to the running copy ------------------------------------------------------------------------- */

/* A destination of an earlier version names one address. */
static int read_data_addresses(struct migration *m, const json_t *body, struct error **ret_error)
{
        const json_t *list = json_object_get(body, "data_addresses");
        const char *only = NULL;
        int r;

        if (!json_is_array(list) || json_array_size(list) == 0) {
                r = doc_need_string(body, "", "data_address", 80, &only, ret_error);
                m->source.n_data_addresses = 1;
                return r < 0 ? r
                             : sock_address_parse(only, 0, false, &m->source.data_addresses[0], ret_error);
        }
        m->source.n_data_addresses = MIN(json_array_size(list), (size_t)DATA_PATHS_MAX);
        for (size_t i = 0; i < m->source.n_data_addresses; i++) {
                r = sock_address_parse(json_string_value(json_array_get(list, i)) ?: "", 0, false,
                        &m->source.data_addresses[i], ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void on_prepared(void *userdata, int status _unused_, json_t *body, struct error *error)
{
        struct migration *m = userdata;
        const char *fingerprint = NULL, *sibling_key = NULL, *digest = NULL;
        uint64_t max_channels = DATA_CHANNELS_MAX, window_bytes = 0;
        struct error *e = NULL;

        m->call = NULL;
        if (error && (error->code == ERROR_UNREACHABLE || error->code == ERROR_BUSY) &&
                ++m->source.n_refused < PREPARE_TRIES) {
                /* Its agent may be restarting, or cleaning up after an earlier attempt: the next tick tries again. */
                m->source.stage_busy = false;
                return;
        }
        if (error && error->code == ERROR_BAD_DOCUMENT && m->source.keys_told) {
                /* It may be of an earlier version: then what is kept is of no use. */
                m->source.peer_without_keys = true;
                explicit_bzero(m->source.checkpoint_key, sizeof(m->source.checkpoint_key));
                m->source.stage_busy = false;
                return migration_kick(m);
        }
        if (error && error->code == ERROR_BAD_DOCUMENT && migration_post_copy_allowed(m)) {
                error_set(&e, ERROR_NOT_SUPPORTED,
                        "Leave post-copy out of --converge, or install this version of drover there too.",
                        "the destination may be of a version without post-copy: %s", error_message(error));
                return stage_failed(m, e);
        }
        if (error)
                return stage_failed(m, copy_error(error));
        if (read_data_addresses(m, body, &e) < 0 ||
                doc_need_string(body, "", "fingerprint", PKI_FINGERPRINT_SIZE - 1, &fingerprint, &e) < 0 ||
                doc_opt_u64(body, "", "max_channels", 1, UINT16_MAX, &max_channels, &e) < 0 ||
                doc_opt_u64(body, "", "channel_limit", 1, UINT16_MAX, &max_channels, &e) < 0 ||
                doc_opt_u64(body, "", "window_bytes", 0, INT64_MAX, &window_bytes, &e) < 0 ||
                doc_opt_string(body, "", "sibling_key", SIBLING_KEY_HEX, &sibling_key, &e) < 0 ||
                doc_opt_string(body, "", "spec_digest", PKI_FINGERPRINT_SIZE - 1, &digest, &e) < 0)
                return stage_failed(m, e);
        if (m->signed_spec && !pki_equal(digest ?: "", m->spec_digest)) {
                error_set(&e, ERROR_PROTOCOL, "See the agents' logs on both hosts.",
                        "the destination did not prepare by the same specification");
                return stage_failed(m, e);
        }
        snprintf(m->source.peer_fingerprint, sizeof(m->source.peer_fingerprint), "%s", fingerprint);
        if (sibling_key &&
                text_hex_decode(sibling_key, (uint8_t[SIBLING_KEY_HEX / 2]){0}, SIBLING_KEY_HEX / 2) == 0)
                snprintf(m->source.sibling_key, sizeof(m->source.sibling_key), "%s", sibling_key);
        m->source.max_channels = (unsigned int)MIN(max_channels, (uint64_t)DATA_CHANNELS_MAX);
        m->source.window_bytes = MIN(window_bytes, data_connections_send_window());
        m->source.clock_samples_left = CLOCK_SAMPLES;
        migration_network_begin(m);
        migration_source_next_stage(m);
}

/* The spec for the peer, with what we found out since: the VM as it is now, and our mover's certificate. */
static json_t *peer_spec(struct migration *m, const char *fingerprint)
{
        json_t *spec = json_deep_copy(m->spec), *vm = vm_document(migration_vm(m));
        json_t *keys = checkpoints_keys(m->agent->checkpoints, m->vm_uid);

        (void)json_object_set_new(spec, "disks_from", migration_disks_from(m)); /* if there are any */
        json_object_del(spec, "converge"); /* the source's matter alone, and unknown to earlier versions */
        json_object_del(spec, "switchover");
        json_object_del(spec, "network_proof");
        if (migration_post_copy_allowed(m))
                json_object_set_new(spec, "post_copy", json_true());
        if (checkpoints_wanted(m->agent->checkpoints) && !m->source.peer_without_keys &&
                !m->source.checkpoint_key[0] &&
                text_random_hex(CHECKPOINT_KEY_HEX / 2, m->source.checkpoint_key) < 0)
                m->source.checkpoint_key[0] = '\0';
        if (keys && m->source.checkpoint_key[0])
                json_object_set_new(keys, agent_host_uid(m->agent), json_string(m->source.checkpoint_key));
        /* A destination of an earlier version does not know of them. */
        m->source.keys_told = spec && keys && json_object_size(keys) > 0 && !m->source.peer_without_keys;
        if (m->source.keys_told)
                json_object_set(spec, "checkpoint_keys", keys);
        json_decref(keys);
        if (!spec || !vm || json_object_set(spec, "vm", vm) < 0 ||
                json_object_set_new(spec, "source_fingerprint", json_string(fingerprint)) < 0) {
                json_decref(spec);
                spec = NULL;
        }
        json_decref(vm);
        return spec;
}

/* What was signed as it was signed; beside it what only this host knows. */
static json_t *signed_request(const struct migration *m, json_t *spec)
{
        static const char *const ours[] = {
                "vm", "source_fingerprint", "post_copy", "checkpoint_keys", "disks_from"};
        json_t *body = json_pack("{s:O}", "signed", m->signed_spec);

        for (size_t i = 0; body && i < ARRAY_SIZE(ours); i++)
                if (json_object_get(spec, ours[i]))
                        json_object_set(body, ours[i], json_object_get(spec, ours[i]));
        json_decref(spec);
        return body;
}

static void ask_destination(struct migration *m)
{
        _cleanup_json_ json_t *spec = NULL;
        char fingerprint[PKI_FINGERPRINT_SIZE], name[64];
        struct error *e = NULL;
        struct http_call_spec call = {
                .method = "POST",
                .address = m->peer_address,
                .peer_name = name,
                .path = "/agent/v1/peer/migrations",
                .timeout_ms = PREPARE_TIMEOUT_MS,
        };

        snprintf(name, sizeof(name), "%s.host.drover", m->peer_uid);
        if ((!m->cert_pem &&
                    pki_self_signed("drover-mover", CERTIFICATE_HOURS, &m->cert_pem, &m->key_pem, &e) < 0) ||
                pki_fingerprint(m->cert_pem, fingerprint, &e) < 0)
                return stage_failed(m, e);
        spec = peer_spec(m, fingerprint);
        if (spec && m->signed_spec)
                spec = signed_request(m, spec);
        if (!spec)
                return stage_failed(m, NULL);
        call.body = spec;
        if (http_client_call(m->agent->client, &call, on_prepared, m, &m->call, &e) < 0)
                return stage_failed(m, e);
        m->source.stage_busy = true;
}

static void measure_clock(struct migration *m)
{
        if (m->call)
                return;
        m->ask_not_before_ms = m->ask_delay_ms = 0;
        if (!m->source.clock_samples_left--)
                return migration_source_next_stage(m);
        migration_peer_ask(m, false);
        m->peer = (struct
                handoff_peer){}; /* only the clock matters here; the answer is asked for again when it counts */
}

static void on_connected(void *userdata, struct error *error)
{
        struct migration *m = userdata;

        if (error)
                return stage_failed(m, copy_error(error));
        migration_source_next_stage(m);
}

/* The mover gets another connection for a channel. */
static void on_replaced(void *userdata, unsigned int channel, unsigned int path, int fd, struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        if (!m->mover || (m->source.commit_sent && !migration_is_serving(m)))
                return; /* it is over, or it no longer matters */
        if (error) {
                error_set(&e, ERROR_PEER_FAILED, "See the agent's log on the destination's host.",
                        "a data connection was lost, and the mover at the destination takes no other: %s",
                        error_message(error));
                if (migration_is_serving(m))
                        migration_abort_path(m); /* or both sides wait for a connection that never comes */
                return migration_stop(m, e);
        }
        log_notice("migration %s: channel %u has another connection, on path %u", m->id, channel, path);
        (void)mover_process_send(m->mover,
                json_pack("{s:s, s:i, s:i}", "op", "channel", "channel", (int)channel, "path", (int)path),
                &fd, 1, NULL); /* `ended` tells if it is gone */
}

static void connect_channels(struct migration *m)
{
        const struct data_connections_spec spec = {.addresses = m->source.data_addresses,
                .n_addresses = m->source.n_data_addresses,
                .n_channels = (unsigned int)migration_spec_u64(m, "channels", 0),
                .max_channels = m->source.max_channels,
                .window_bytes = m->source.window_bytes,
                .limit_ms = MIGRATION_PEER_LIMIT_MS};
        const struct data_connections_handler handler = {on_connected, on_replaced, m};
        struct error *e = NULL;

        if (data_connections_new(m->agent->loop, &spec, &handler, &m->source.connections, &e) < 0)
                return stage_failed(m, e);
        m->source.stage_busy = true;
}

/* The mover lost a connection: it gets another one. */
static void reconnect(struct migration *m, const json_t *message)
{
        json_int_t channel = json_integer_value(json_object_get(message, "channel"));

        if (!m->source.connections || channel < 0 || channel >= data_connections_count(m->source.connections))
                return;
        log_notice("migration %s: channel %d lost its connection", m->id, (int)channel);
        data_connections_lost(m->source.connections, (unsigned int)channel,
                (unsigned int)json_integer_value(json_object_get(message, "path")),
                json_is_true(json_object_get(message, "stalled")));
}

static void note_rtt(struct migration *m, const json_t *message)
{
        json_int_t rtt_us = json_integer_value(json_object_get(message, "rtt_us"));

        if (rtt_us > 0 && (!m->source.least_rtt_us || (uint64_t)rtt_us < m->source.least_rtt_us))
                m->source.least_rtt_us = (uint64_t)rtt_us;
}

static void take_stats(struct migration *m, const json_t *message)
{
        if (m->source.connections)
                data_connections_take_stats(m->source.connections, message,
                        m->source.replaces && m->record == HANDOFF_OUTGOING && !m->source.stopped_unix_us);
        note_rtt(m, message);
        migration_take_stats(m, message);
        migration_disks_progress(m);
}

static void on_mover_event(void *userdata, const char *event, const json_t *message);
static void on_mover_ended(void *userdata, struct error *failure);

/* TCG before QEMU 9.0 loses dirty pages by itself (QEMU commit 03bfc2188f mends it): the memory is compared then. */
bool migration_verifies(const struct migration *m, const struct vm *vm)
{
        const json_t *v = json_object_get(m->spec, "verify");

        if (json_is_boolean(v))
                return json_is_true(v);
        return vm->config->status.accelerator == VM_ACCELERATOR_TCG && vm->config->status.qemu_version &&
               strtoul(vm->config->status.qemu_version, NULL, 10) < 9;
}

static json_t *start_message(struct migration *m, const struct vm *vm)
{
        return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:I, s:b, s:s, s:I, s:I}", "op",
                "start", "migration", m->id, "vm", m->vm_uid, "ram_address", (json_int_t)vm->ram_address,
                "ram_bytes", (json_int_t)vm->config->status.memory_effective_bytes, "block", VM_RAM_BLOCK,
                "cert_pem", m->cert_pem, "key_pem", m->key_pem, "peer_fingerprint",
                m->source.peer_fingerprint, "max_pause_ms",
                (json_int_t)migration_spec_u64(m, "max_pause_ms", MIGRATION_DEFAULT_MAX_PAUSE_MS), "verify",
                migration_verifies(m, vm), "codec", migration_spec_string(m, "codec") ?: "auto",
                "rate_limit_bps", (json_int_t)migration_spec_u64(m, "rate_limit_bps", 0), "timeout_ms",
                (json_int_t)CONNECT_TIMEOUT_MS);
}

/* True with a file for the guest's memory. */
static bool begin_keeping(struct migration *m, const struct vm *vm, int *ret_fd)
{
        int r;

        if (!m->source.checkpoint_key[0] || migration_post_copy_allowed(m))
                return false;
        r = checkpoints_begin(m->agent->checkpoints, m->vm_uid,
                (uint64_t)vm->config->status.memory_effective_bytes, ret_fd);
        if (r < 0)
                log_notice("migration %s: the guest's memory will not be kept: %s", m->id, strerror(-r));
        m->source.keeping = r == 0;
        m->source.keeping_bytes = (uint64_t)vm->config->status.memory_effective_bytes;
        return r == 0;
}

static void on_stream(void *userdata, int stream_fd, int qemu_fd, struct error *error)
{
        struct mover_process_handler handler = {on_mover_event, on_mover_ended, userdata};
        _cleanup_fd_ int stream = stream_fd, qemu_end = qemu_fd, ram = -1;
        struct migration *m = userdata;
        struct vm *vm = migration_vm(m);
        _cleanup_fd_ int checkpoint = -1;
        int fds[4 + DATA_CHANNELS_MAX], shared = -1;
        unsigned int n_channels;
        size_t n_fds;
        struct error *e = NULL;
        _cleanup_json_ json_t *start = NULL;

        m->n_pending--;
        if (error)
                return stage_failed(m, copy_error(error));
        if (!vm || m->stop_wanted || !m->source.connections) {
                m->source.stage_busy = false;
                return migration_kick(m);
        }
        n_channels = data_connections_count(m->source.connections);
        n_fds = 2 + n_channels;
        if (vm_open_ram(vm, &ram, &e) < 0)
                return stage_failed(m, e);
        fds[0] = stream;
        fds[1] = ram;
        memcpy(fds + 2, data_connections_sockets(m->source.connections), n_channels * sizeof(int));
        start = start_message(m, vm);
        (void)json_object_set_new(start, "disks", migration_disks_start(m)); /* likewise */
        if (start && migration_post_copy_allowed(m))
                json_object_set_new(start, "post_copy", json_true());
        if (start && *m->spec_digest)
                json_object_set_new(start, "spec_digest", json_string(m->spec_digest));
        if (start)
                json_object_set_new(start, "paths", data_connections_paths(m->source.connections));
        if (start && begin_keeping(m, vm, &checkpoint)) {
                json_object_set_new(start, "checkpoint_key", json_string(m->source.checkpoint_key));
                fds[n_fds++] = checkpoint;
        }
        if (start && m->source.sibling_key[0] &&
                siblings_open_claims(m->agent->siblings, m->peer_uid, m->source.sibling_key, &shared) == 0) {
                json_object_set_new(start, "sibling_key", json_string(m->source.sibling_key));
                fds[n_fds++] = shared;
        }
        if (mover_process_start(m->agent->loop, m->agent->config.mover, MOVER_SOURCE,
                    cgroup_movers(m->agent->cgroup), migration_level(m), &handler, &m->mover, &e) < 0 ||
                mover_process_send(m->mover, TAKE_PTR(start), fds, n_fds, &e) < 0)
                return stage_failed(m, e);
        data_connections_handed_over(m->source.connections);
        m->source.qemu_fd = TAKE_FD(qemu_end);
}

static void start_mover(struct migration *m)
{
        struct error *e = NULL;

        if (vm_open_outgoing_stream(migration_vm(m), STREAM_NAME, on_stream, m, &e) < 0)
                return stage_failed(m, e);
        m->n_pending++;
        m->source.stage_busy = true; /* until the mover says `ready` */
}

static void on_setup(void *userdata, const struct error *error)
{
        struct migration *m = userdata;

        if (error)
                return stage_failed(m, copy_error(error));
        migration_source_next_stage(m);
}

static void setup_qemu(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (!vm->qmp || migration_setup_start(vm->qmp, MIGRATION_SOURCE,
                                &(struct migration_needs){.throttle = convergence_allows(
                                                                  &m->source.convergence, CONVERGE_THROTTLE),
                                        .hold = migration_switchover_wanted(m),
                                        .pause = m->disks != NULL,
                                        .post_copy = migration_post_copy_allowed(m)},
                                QMP_TIMEOUT_MS, on_setup, m, &m->source.setup, &e) < 0)
                return stage_failed(m, e);
        m->source.stage_busy = true;
}

static void send_qemu_status(struct migration *m, const struct migration_info *info)
{
        json_t *op = json_pack("{s:s, s:I, s:I, s:I, s:f}", "op", "qemu-status", "remaining_bytes",
                (json_int_t)info->ram_remaining_bytes, "dirty_pages_per_s",
                (json_int_t)info->dirty_pages_per_s, "dirty_sync_count", (json_int_t)info->dirty_sync_count,
                "mbps", info->mbps);
        double idle_cores;

        if (op && idle_meter_read(&m->source.idle, &idle_cores))
                json_object_set_new(op, "idle_cores", json_real(idle_cores));
        (void)mover_process_send(m->mover, op, NULL, 0, NULL); /* `ended` tells if it is gone */
        if (!m->progress)
                m->progress = json_object();
        if (m->progress) {
                json_object_set_new(
                        m->progress, "remaining_bytes", json_integer((json_int_t)info->ram_remaining_bytes));
                json_object_set_new(
                        m->progress, "dirty_pages_per_s", json_integer((json_int_t)info->dirty_pages_per_s));
                json_object_set_new(m->progress, "pass", json_integer((json_int_t)info->dirty_sync_count));
                json_object_set_new(
                        m->progress, "ram_total_bytes", json_integer((json_int_t)info->ram_total_bytes));
                json_object_set_new(m->progress, "throttle_percent",
                        json_integer((json_int_t)m->source.convergence.throttle_percent));
        }
        m->source.n_passes = MAX(m->source.n_passes, info->dirty_sync_count);
}

static void on_poll_answer(void *userdata, const json_t *result, const struct error *error)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        struct migration *m = userdata;

        m->source.poll_call = NULL;
        if (error || migration_info_parse(result, &info, NULL) < 0)
                return;
        if (info.status == MIGRATION_STATUS_FAILED && info.error && !m->stop_wanted) {
                struct error *e = NULL;

                error_set(&e, ERROR_QEMU_FAILED, NULL, "QEMU ended the migration: %s", info.error);
                return stage_failed(m, e);
        }
        if (info.status == MIGRATION_STATUS_PRE_SWITCHOVER)
                migration_disks_end(m);
        if (migration_switchover_poll(m, &info))
                return;
        if (m->mover)
                send_qemu_status(m, &info);
        migration_converge_poll(m, &info);
}

static void on_poll(void *userdata)
{
        struct migration *m = userdata;
        struct vm *vm = migration_vm(m);

        if (m->settled)
                return;
        loop_source_rearm(m->source.poll, POLL_MS);
        if (vm && vm->qmp && m->mover && !m->source.poll_call &&
                (m->record == HANDOFF_OUTGOING || m->qemu == HANDOFF_QEMU_SERVING))
                (void)qmp_command(vm->qmp, "query-migrate", NULL, -1, QMP_TIMEOUT_MS, on_poll_answer, m,
                        &m->source.poll_call, NULL);
}

static void on_migrate_answer(void *userdata, const json_t *result _unused_, const struct error *error)
{
        struct migration *m = userdata;

        m->source.stage_call = NULL;
        if (error)
                return stage_failed(m, copy_error(error));
        if (loop_add_timer(m->agent->loop, POLL_MS, on_poll, m, &m->source.poll) < 0)
                log_warning("migration %s: no timer for progress", m->id);
        migration_source_next_stage(m);
}

static void start_migrate(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;
        double ignored;

        /* Where nobody coordinates the pause (post-copy), nothing else keeps QEMU from it: migration_source_finish() of migration_network.c kicks. */
        if (!migration_switchover_wanted(m) && migration_network_pending(m))
                return;

        (void)idle_meter_read(&m->source.idle, &ignored); /* the first poll tells what was idle since */
        migration_switchover_begin(m);
        if (m->stop_wanted) /* the network was tried again, and is not what it was */
                return;
        if (!vm->qmp || qmp_command(vm->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" STREAM_NAME), -1,
                                QMP_TIMEOUT_MS, on_migrate_answer, m, &m->source.stage_call, &e) < 0)
                return stage_failed(m, e);
        m->source.stage_busy = true;
        m->qemu = HANDOFF_QEMU_MIGRATING;
        migration_set_phase(m, MIGRATION_COPYING);
}

static void advance(struct migration *m)
{
        static void (*const stages[])(struct migration *) = {
                [STAGE_DISKS] = migration_disks_look,
                [STAGE_ASK_DESTINATION] = ask_destination,
                [STAGE_MEASURE_CLOCK] = measure_clock,
                [STAGE_CONNECT] = connect_channels,
                [STAGE_MOVER] = start_mover,
                [STAGE_SETUP_QEMU] = setup_qemu,
                [STAGE_MIRROR] = migration_disks_mirror,
                [STAGE_MIGRATE] = start_migrate,
        };

        if (!m->source.stage_busy && m->source.stage < STAGE_RUNNING)
                stages[m->source.stage](m);
}

/* --- Events ---------------------------------------------------------------------------------------------- */

/* After the first moments, in which connections only pick up speed, the room between QEMU and the mover becomes what the
 * connections take in STREAM_MS. Large enough, and the two need not wait for each other's turns on a busy host
 * (docs/decisions/0005); too large, and it adds to the pause. Then our descriptor goes: see vm_stream_fn. */
static void fit_stream(struct migration *m, const json_t *stats)
{
        double capacity = (double)json_integer_value(json_object_get(stats, "capacity_bps")) / 8;
        double wire = (double)json_integer_value(json_object_get(stats, "rate_bps"));
        double memory = (double)json_integer_value(json_object_get(stats, "effective_bps"));
        double packs = wire > 0 ? CLAMP(memory / wire, 1.0, MAX_STREAM_PACKS) : 1;

        if (m->source.qemu_fd < 0 || m->source.stream_fitted || capacity <= 0 ||
                ++m->source.n_stats < STATS_TO_FIT)
                return;
        vm_stream_set_room(
                m->source.qemu_fd, (uint64_t)MAX(capacity * packs * STREAM_MS / 1000, MIN_STREAM_BYTES));
        m->source.stream_fitted = true;
        if (!migration_post_copy_allowed(m)) /* which changes it once more */
                fd_closep(&m->source.qemu_fd);
}

static void take_result(struct migration *m, const json_t *message)
{
        const char *outcome = json_string_value(json_object_get(message, "outcome")) ?: "";

        if (!strcmp(outcome, "running")) {
                m->source.result_running = true;
                m->source.resumed_unix_ns =
                        json_integer_value(json_object_get(message, "resumed_realtime_ns"));
        } else if (!strcmp(outcome, "abandoned")) {
                struct error *e = NULL;

                m->source.result_abandoned = true;
                error_set(&e, ERROR_PEER_FAILED, NULL, "the destination gave up: %s",
                        json_string_value(json_object_get(message, "message")) ?: "no reason given");
                migration_stop(m, e);
        }
}

/* `reason` is taken over. Once COMMIT was sent the end of the path decides nothing: the destination completes by itself if it has
 * everything, and only it knows. Told to end, it would give the guest back instead, or not, whichever it hears first. One that has not
 * done so in COMPLETES_ALONE_MS (its mover may hang) is told all the same: the guest is stopped meanwhile. */
static void take_path_failure(struct migration *m, struct error *reason)
{
        if (!m->source.commit_sent || migration_is_serving(m))
                return migration_stop(m, reason);
        log_notice("migration %s of vm %s: the destination is asked what became of it: %s", m->id, m->vm_uid,
                error_message(reason));
        m->ask_not_before_ms = 0;
        if (!m->source.path_failed_ms)
                m->source.path_failed_ms = clock_now_ms(loop_clock(m->agent->loop));
        if (m->stop_reason)
                error_free(reason);
        else
                m->stop_reason = reason; /* should it say that it gave up */
        migration_kick(m);
}

/* 0 bytes: it did not work out. */
static void take_checkpoint(struct migration *m, const json_t *message)
{
        json_int_t bytes = json_integer_value(json_object_get(message, "bytes"));
        json_int_t ms = json_integer_value(json_object_get(message, "ms"));

        if (bytes > 0 && !m->source.kept)
                m->source.kept = json_pack("{s:I, s:I}", "bytes", bytes, "ms", ms);
}

static void on_mover_event(void *userdata, const char *event, const json_t *message)
{
        struct migration *m = userdata;

        if (!strcmp(event, "stats")) {
                take_stats(m, message);
                fit_stream(m, message);
                return;
        }
        if (!strcmp(event, "failed"))
                return take_path_failure(m, migration_mover_error(message));
        if (!strcmp(event, "ready") && m->source.stage == STAGE_MOVER) {
                if (!m->progress)
                        m->progress = json_object();
                json_object_update(m->progress, (json_t *)message);
                json_object_del(m->progress, "event");
                note_rtt(m, message);
                m->source.replaces = json_is_true(json_object_get(message, "replaces"));
                migration_source_next_stage(m);
        } else if (!strcmp(event, "switchover")) {
                migration_switchover_limit(m,
                        (uint64_t)MAX(json_integer_value(json_object_get(message, "downtime_limit_ms")), 1));
        } else if (!strcmp(event, "device-state")) {
                m->source.device_state = true;
                migration_post_copy_device_state(m);
        } else if (!strcmp(event, "post-copy")) {
                migration_set_phase(m, MIGRATION_POST_COPY);
        } else if (!strcmp(event, "loaded")) {
                m->source.loaded = true;
        } else if (!strcmp(event, "checkpoint")) {
                take_checkpoint(m, message);
        } else if (!strcmp(event, "channel-lost")) {
                reconnect(m, message);
        } else if (!strcmp(event, "result")) {
                take_result(m, message);
        }
        migration_kick(m);
}

static void on_mover_ended(void *userdata, struct error *failure)
{
        struct migration *m = userdata;

        migration_close_path(m);
        migration_source_close_connections(m);
        migration_source_end_keeping(m, m->source.kept != NULL);
        if (failure && !m->source.result_running) {
                struct error *e = NULL;

                error_set(&e, ERROR_MOVER_FAILED, "Start the migration again.",
                        "the data path at the source ended: %s", error_message(failure));
                take_path_failure(m, e);
        }
        migration_refresh_qemu(m);
        migration_kick(m);
}

void migration_source_stopped(struct migration *m, int64_t unix_us)
{
        if (m->source.stopped_unix_us)
                return;
        if (m->source.post_copy == POST_COPY_NONE)
                fd_closep(&m->source.qemu_fd);
        m->source.stopped_unix_us = unix_us ?: (int64_t)(clock_realtime_ns() / 1000);
        migration_switchover_stopped(m);
        migration_set_phase(m, MIGRATION_SWITCHING);
        if (m->mover)
                (void)mover_process_send(m->mover, migration_disks_stopped(m), NULL, 0, NULL);
}

void migration_source_event(struct migration *m, const char *event, const json_t *data, int64_t unix_us)
{
        const char *status = json_string_value(json_object_get(data, "status")) ?: "";

        if (!strcmp(event, "STOP") && m->source.stage == STAGE_RUNNING) {
                migration_source_stopped(m, unix_us);
        } else if (!strcmp(event, "MIGRATION_PASS")) {
                m->source.n_passes =
                        MAX(m->source.n_passes, (uint64_t)json_integer_value(json_object_get(data, "pass")));
                migration_switchover_pass(m);
        } else if (!strcmp(event, "MIGRATION")) {
                switch (migration_status_from_string(status)) {
                case MIGRATION_STATUS_COMPLETED:
                        m->qemu = HANDOFF_QEMU_COMPLETED;
                        m->source.completed = true;
                        m->source.completed_ms = clock_now_ms(loop_clock(m->agent->loop));
                        break;
                case MIGRATION_STATUS_FAILED:
                case MIGRATION_STATUS_CANCELLED:
                        m->qemu = migration_post_copy_state(m, HANDOFF_QEMU_RUNNING);
                        if (!m->stop_wanted) {
                                struct error *e = NULL;

                                error_set(&e, ERROR_QEMU_FAILED, NULL,
                                        "QEMU at the source ended the migration (%s)", status);
                                migration_stop(m, e);
                        }
                        break;
                case MIGRATION_STATUS_PRE_SWITCHOVER:
                        migration_disks_end(m);
                        m->qemu = HANDOFF_QEMU_MIGRATING;
                        break;
                default:
                        m->qemu = migration_post_copy_state(m, HANDOFF_QEMU_MIGRATING);
                }
        } else if (!strcmp(event, "RESET") && m->progress) {
                json_object_set_new(m->progress, "guest_resets",
                        json_integer(json_integer_value(json_object_get(m->progress, "guest_resets")) + 1));
        }
}

/* --- Actions --------------------------------------------------------------------------------------------- */

static void abort_path(struct migration *m)
{
        struct vm *vm = migration_vm(m);

        if (m->source.stage < STAGE_RUNNING) {
                http_call_cancel(TAKE_PTR(m->call));
                migration_source_close_connections(m);
                m->source.stage_busy = false;
                m->source.stage = STAGE_RUNNING;
        }
        migration_source_end_keeping(m, false);
        migration_disks_undo(m);
        migration_abort_path(m); /* with the mover ends QEMU's stream: it resumes the guest by itself */
        m->stop_wanted = true;
        /* A migration whose stream is still full of our silence may need a push; harmless when it has ended. */
        if (vm && vm->qmp && m->qemu != HANDOFF_QEMU_RUNNING)
                (void)qmp_command(
                        vm->qmp, "migrate_cancel", NULL, -1, QMP_TIMEOUT_MS, NULL, NULL, NULL, NULL);
        migration_refresh_qemu(m);
}

static void send_commit(struct migration *m)
{
        struct error *e = NULL;

        if (migration_hold(m, "source-commit"))
                return;
        if (migration_vm(m) && vm_set_handed_off(migration_vm(m), &e) < 0) {
                log_warning("%s", error_message(e)); /* the journal says it already */
                error_free(TAKE_PTR(e));
        }
        m->source.commit_sent = true;
        /* The answer comes through the data path; asking now would only keep the destination's agent busy. */
        m->ask_not_before_ms = clock_now_ms(loop_clock(m->agent->loop)) + FIRST_ASK_AFTER_COMMIT_MS;
        if (mover_process_send(m->mover, json_pack("{s:s}", "op", "commit"), NULL, 0, &e) < 0)
                migration_stop(m, e);
}

bool migration_record_handed_off(struct migration *m)
{
        struct error *e = NULL;

        if (m->record == HANDOFF_OUTGOING) {
                if (migration_hold(m, "source-switching"))
                        return false;
                if (migration_set_record(m, HANDOFF_HANDED_OFF, m->epoch + 1, &e) < 0) {
                        migration_stop(m, e);
                        return false;
                }
                migration_set_phase(m, MIGRATION_HANDED_OFF);
        }
        return !migration_hold(m, "source-handed-off");
}

static void hand_off(struct migration *m)
{
        struct error *e = NULL;

        if (m->source.voted || !migration_disks_ended(m) || !migration_record_handed_off(m))
                return;
        m->source.voted = true;
        migration_disks_give(m);
        if (mover_process_send(m->mover, json_pack("{s:s}", "op", "handed-off"), NULL, 0, &e) < 0)
                migration_stop(m, e);
}

static bool destination_is_late(const struct migration *m)
{
        return m->source.path_failed_ms &&
               clock_now_ms(loop_clock(m->agent->loop)) - m->source.path_failed_ms >= COMPLETES_ALONE_MS;
}

static struct handoff_source_facts facts_of(const struct migration *m)
{
        return (struct handoff_source_facts){
                .record = m->record,
                .qemu = m->qemu,
                .completed = m->source.completed,
                .mover_alive = m->path_alive,
                .stop_wanted = m->stop_wanted || destination_is_late(m),
                .loaded = m->source.loaded,
                .commit_sent = m->source.commit_sent,
                .result_running = m->source.result_running,
                .result_abandoned = m->source.result_abandoned,
                .peer_fenced = migration_peer_fenced(m),
                .apart = m->disks != NULL,
                .given = m->disks && m->disks->given,
                .peer_removed = m->disks && m->disks->peer_removed,
                .left = m->disks && m->source.lost,
                .peer = m->peer,
        };
}

enum handoff_qemu migration_source_tells(const struct migration *m)
{
        const struct handoff_source_facts facts = facts_of(m);

        return handoff_source_tells(&facts);
}

void migration_source_step(struct migration *m)
{
        const struct handoff_source_facts facts = facts_of(m);
        enum handoff_source_action action = handoff_source_decide(&facts);

        if (m->record == HANDOFF_OUTGOING)
                migration_disks_step(m);
        switch (action) {
        case HANDOFF_SOURCE_WAIT:
                if (m->record == HANDOFF_OUTGOING && m->source.stage < STAGE_RUNNING) {
                        if (!migration_hold(m, "source-prepare"))
                                advance(m);
                } else if (m->source.post_copy != POST_COPY_NONE &&
                           m->source.post_copy != POST_COPY_SKIPPED) {
                        migration_post_copy_step(m);
                } else if (m->source.stage == STAGE_RUNNING && !migration_hold(m, "source-copying") &&
                           m->source.device_state && m->mover && m->qemu == HANDOFF_QEMU_MIGRATING) {
                        hand_off(m);
                }
                break;
        case HANDOFF_SOURCE_ABORT:
                abort_path(m);
                break;
        case HANDOFF_SOURCE_GIVE:
                migration_disks_give(m);
                break;
        case HANDOFF_SOURCE_COMMIT:
                send_commit(m);
                break;
        case HANDOFF_SOURCE_ASK:
        case HANDOFF_SOURCE_ASK_ABORT:
                if (!m->path_alive)
                        migration_set_phase(m, MIGRATION_WAITING_FOR_PEER);
                migration_peer_ask(m, action == HANDOFF_SOURCE_ASK_ABORT);
                break;
        case HANDOFF_SOURCE_TAKE_BACK:
                if (m->source.lost)
                        migration_source_end_lost_copy(m);
                else
                        migration_source_take_back(m, m->epoch + 1);
                break;
        case HANDOFF_SOURCE_TAKE_BACK_UNCLAIMED:
                if (m->source.lost)
                        migration_source_end_lost_copy(m);
                else
                        migration_source_take_back(m, m->epoch);
                break;
        case HANDOFF_SOURCE_RELEASE:
                migration_source_release(m);
                break;
        case HANDOFF_SOURCE_FAILED:
                migration_source_fail(m);
                break;
        case HANDOFF_SOURCE_DONE:
                migration_source_finish(m);
                break;
        }
}

void migration_source_begin(struct migration *m)
{
        migration_kick(m);
}

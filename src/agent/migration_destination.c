/* SPDX-License-Identifier: Apache-2.0 */

/* The destination's side of a migration: QEMU is started and waits, the mover waits for the source's connections, then the
 * source is answered. When everything has come (QEMU has loaded the device state, COMMIT was read) `owner` is written and
 * the guest continued; handoff.c decides, also about everything that goes wrong. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/data_connections.h"
#include "agent/migration.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/owner_record.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/sock.h"
#include "vmm/migration_params.h"
#include "vmm/vm_config.h"

#define CERTIFICATE_HOURS (8 * 24)
#define CONNECT_TIMEOUT_MS 60000 /* the source compares clocks and connects meanwhile */
#define OLD_CHANNELS_MAX 16      /* what a source of an earlier version takes for an answer */
#define LISTEN_BACKLOG DATA_CHANNELS_MAX
#define LOAD_LIMIT_MS 60000       /* for QEMU to load what has all come, and in post-copy to be taken over */
#define CUT_STREAM_LIMIT_MS 15000 /* for QEMU to load or end once its data path is gone */
#define LIMIT_AGAIN_MS 1000
#define ERROR_TEXT_MAX 1024
/* After a restart of the agent in post-copy: a QEMU that says nothing for so long has a thread with its big lock at a page that never
 * comes. */
#define SILENT_LIMIT_MS 15000

static void close_listening(struct migration *m)
{
        for (size_t i = 0; i < m->destination.n_listen_fds; i++)
                fd_closep(&m->destination.listen_fds[i]);
        m->destination.n_listen_fds = 0;
}

void migration_destination_deinit(struct migration *m)
{
        if (m->destination.prepare) {
                struct error *e = NULL;

                error_set(&e, ERROR_CANCELLED, NULL, "the destination's agent is ending");
                http_request_reply_error(TAKE_PTR(m->destination.prepare), e);
        }
        close_listening(m);
        migration_network_answer_free(TAKE_PTR(m->destination.network));
        json_decref(TAKE_PTR(m->destination.checkpoint_keys));
        json_decref(TAKE_PTR(m->destination.data_addresses));
        loop_source_free(TAKE_PTR(m->destination.limit));
}

/* Refuses the source's request and gives up. */
void migration_destination_failed(struct migration *m, struct error *error)
{
        struct error *copy = NULL;

        error_set(&copy, error ? error->code : ERROR_NO_MEMORY, error ? error->hint : NULL,
                "the destination: %s", error_message(error));
        if (m->destination.prepare)
                http_request_reply_error(TAKE_PTR(m->destination.prepare), copy);
        else
                error_free(copy);
        migration_stop(m, error);
}

/* Post-copy, or what may come to it: the source can hardly take the guest back, so what is refused here is tried again for as long as
 * the rest of the memory can come. */
static bool is_only_way(const struct migration *m)
{
        return migration_post_copy_allowed(m) && !m->destination.arrived && m->path_alive;
}

/* Gives up for this reason (taken over), or tries again: then the reason is for the case that it never succeeds. */
static void give_up_or_wait(struct migration *m, struct error *reason)
{
        if (!is_only_way(m))
                return migration_stop(m, reason);
        log_warning("migration %s: %s; trying again", m->id, error_message(reason));
        if (!m->stop_reason)
                m->stop_reason = TAKE_PTR(reason);
        error_free(reason);
        migration_refused(m);
}

static void on_limit(void *userdata)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        if (m->qemu == HANDOFF_QEMU_LOADING)
                error_set(&e, ERROR_TIMED_OUT, NULL,
                        "QEMU at the destination neither finished loading the guest nor ended");
        else if (m->qemu == HANDOFF_QEMU_LOADED && m->record == HANDOFF_PREPARED && m->disks &&
                 !m->disks->closed)
                error_set(&e, ERROR_TIMED_OUT, NULL,
                        "QEMU at the destination did not end the exports of the disks that came");
        else if (is_only_way(m) && !m->destination.may_have_run)
                error_set(&e, ERROR_TIMED_OUT, NULL,
                        "the destination could not take the virtual machine over in time");
        if (!e) { /* `cont` may be under way, and be refused */
                loop_source_rearm(m->destination.limit, LIMIT_AGAIN_MS);
                return;
        }
        migration_stop(m, e);
}

/* A QEMU that then still loads, or waits for us in post-copy, is given up. The first limit counts. */
static void arm_limit(struct migration *m, uint64_t limit_ms)
{
        if (!m->destination.limit)
                (void)loop_add_timer(m->agent->loop, limit_ms, on_limit, m, &m->destination.limit);
}

static void answer_source(struct migration *m)
{
        json_t *answer;

        if (migration_hold(m, "destination-prepare"))
                return;
        answer = json_pack("{s:O, s:O, s:s, s:i, s:i, s:I, s:I}", "data_address",
                json_array_get(m->destination.data_addresses, 0), "data_addresses",
                m->destination.data_addresses, "fingerprint", m->destination.own_fingerprint, "max_channels",
                OLD_CHANNELS_MAX, "channel_limit", DATA_CHANNELS_MAX, "window_bytes",
                (json_int_t)data_connections_receive_window(), "realtime_ns",
                (json_int_t)clock_realtime_ns());
        if (answer && m->destination.sibling_key[0])
                json_object_set_new(answer, "sibling_key", json_string(m->destination.sibling_key));
        if (answer && *m->spec_digest)
                json_object_set_new(answer, "spec_digest", json_string(m->spec_digest));
        http_request_reply_json(TAKE_PTR(m->destination.prepare), 201, answer);
        migration_set_phase(m, MIGRATION_COPYING);
}

static void on_claimed(void *userdata, uint64_t epoch _unused_, struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        m->claim = NULL;
        m->claimed = !error;
        if (error) {
                error_set(&e, error->code, error->hint, "the destination cannot take the virtual machine: %s",
                        error_message(error));
                if (error->code == ERROR_STALE_EPOCH)
                        migration_stop(m, e);
                else
                        give_up_or_wait(m, e);
        }
        migration_kick(m);
}

/* The owner record gets this host's claim before the guest can run here. Whoever reads it later, when this host is down, knows
 * whether the guest may have run. Begun as soon as the source has given the VM up, while QEMU still loads. */
static void claim(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->claim || m->claimed || m->stop_wanted || m->record != HANDOFF_PREPARED || !vm)
                return;
        if (owner_record_take(vm, m->epoch, m->epoch + 1, on_claimed, m, &m->claim, &e) < 0)
                on_claimed(m, 0, e);
        error_free(e);
}

static void on_mover_event(void *userdata, const char *event, const json_t *message)
{
        struct migration *m = userdata;

        if (!strcmp(event, "stats"))
                return migration_take_stats(m, message);
        if (!strcmp(event, "failed")) { /* no reason to give up what may be complete: handoff.c decides */
                if (!m->stop_reason)
                        m->stop_reason = migration_mover_error(message);
                return;
        }
        if (!strcmp(event, "ready")) {
                m->destination.ready = true;
        } else if (!strcmp(event, "placed")) {
                (void)migration_disks_closed(m);
                migration_set_phase(m, MIGRATION_SWITCHING);
        } else if (!strcmp(event, "handed-off")) {
                claim(m);
        } else if (!strcmp(event, "commit")) {
                m->destination.commit_read = true;
                migration_refresh_qemu(m); /* in post-copy its state is loaded by now */
                arm_limit(m, LOAD_LIMIT_MS);
        }
        migration_kick(m);
}

static void on_mover_ended(void *userdata, struct error *failure)
{
        struct migration *m = userdata;

        migration_close_path(m);
        if (failure && !m->stop_reason && m->record == HANDOFF_PREPARED)
                error_set(&m->stop_reason, ERROR_MOVER_FAILED, NULL,
                        "the data path at the destination ended: %s", error_message(failure));
        arm_limit(m, CUT_STREAM_LIMIT_MS);
        if (m->destination.prepare) {
                struct error *e = NULL;

                error_set(&e, ERROR_MOVER_FAILED, NULL, "the data path did not start");
                migration_destination_failed(m, e);
        }
        migration_refresh_qemu(m);
        migration_kick(m);
}

static int listen_on(struct migration *m, struct sock_address *address, struct error **ret_error)
{
        struct sock_address local;
        char text[64];
        int fd = -1, r;

        sock_address_set_port(address, 0);
        r = sock_listen_tcp(address, LISTEN_BACKLOG, &fd, ret_error);
        if (r < 0)
                return r;
        m->destination.listen_fds[m->destination.n_listen_fds++] = fd;
        r = sock_set_peer_limit(fd, MIGRATION_PEER_LIMIT_MS);
        if (r == 0)
                r = sock_local_address(fd, &local);
        if (r == 0)
                r = json_array_append_new(
                        m->destination.data_addresses, json_string(sock_address_format(&local, text)));
        return r < 0 ? error_from_errno(ret_error, r, "cannot listen for the migration's data") : 0;
}

/* Where the source's connections go: the addresses for migrations, else the one that the source reached us at. One that cannot
 * be listened on, such as that of an interface that is down, is left out while there are others. */
static int listen_for_data(struct migration *m, struct error **ret_error)
{
        const json_t *own = json_object_get(m->spec, "destination");
        const char *text = json_string_value(json_object_get(own, "migration_address"))
                ?: m->agent->config.migration_address
                ?: json_string_value(json_object_get(own, "address"));
        struct sock_address addresses[DATA_PATHS_MAX];
        struct error *first = NULL;
        size_t n = 0;
        int r = sock_address_list_parse(text, 0, DATA_PATHS_MAX, addresses, &n, ret_error);

        m->destination.data_addresses = json_array();
        for (size_t i = 0; r == 0 && i < n; i++) {
                struct error *e = NULL;

                if (listen_on(m, &addresses[i], &e) < 0)
                        log_warning("migration %s: %s", m->id, error_message(e));
                if (!first)
                        first = TAKE_PTR(e);
                error_free(e);
        }
        if (r == 0 && json_array_size(m->destination.data_addresses) == 0) {
                *ret_error = TAKE_PTR(first);
                r = -EADDRNOTAVAIL;
        }
        error_free(first);
        return r;
}

static json_t *start_message(struct migration *m, const struct vm *vm)
{
        return json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:s, s:s, s:s, s:I}", "op", "start", "migration",
                m->id, "vm", m->vm_uid, "ram_address", (json_int_t)vm->ram_address, "ram_bytes",
                (json_int_t)vm->config->status.memory_effective_bytes, "block", VM_RAM_BLOCK, "cert_pem",
                m->cert_pem, "key_pem", m->key_pem, "peer_fingerprint",
                migration_spec_string(m, "source_fingerprint") ?: "", "timeout_ms",
                (json_int_t)CONNECT_TIMEOUT_MS);
}

/* Of what this host kept of the guest; NULL: none. */
static const char *checkpoint_key(const struct migration *m)
{
        return json_string_value(json_object_get(m->destination.checkpoint_keys, agent_host_uid(m->agent)));
}

/* The guest runs here: what was kept of it is out of date, and other hosts' keys are ours to keep. */
static void settle_checkpoints(struct migration *m)
{
        json_object_del(m->destination.checkpoint_keys, agent_host_uid(m->agent));
        checkpoints_drop(m->agent->checkpoints, m->vm_uid);
        checkpoints_set_keys(m->agent->checkpoints, m->vm_uid, m->destination.checkpoint_keys);
        json_decref(TAKE_PTR(m->destination.checkpoint_keys));
}

/* disk_fds: connections to the exports of the disks that move. */
static int start_mover(
        struct migration *m, struct vm *vm, const int *disk_fds, size_t n_disk_fds, struct error **ret_error)
{
        const struct mover_process_handler handler = {on_mover_event, on_mover_ended, m};
        _cleanup_fd_ int stream = vm_take_stream_fd(vm), ram = -1;
        const char *key = checkpoint_key(m);
        _cleanup_fd_ int checkpoint = -1;
        size_t n_fds = 2;
        json_t *start;
        int fds[4 + DATA_PATHS_MAX + WIRE_MAX_DISKS], shared = -1, r;

        r = pki_self_signed("drover-mover", CERTIFICATE_HOURS, &m->cert_pem, &m->key_pem, ret_error);
        if (r == 0)
                r = pki_fingerprint(m->cert_pem, m->destination.own_fingerprint, ret_error);
        if (r == 0)
                r = vm_open_ram(vm, &ram, ret_error);
        if (r == 0)
                r = listen_for_data(m, ret_error);
        if (r == 0)
                r = mover_process_start(m->agent->loop, m->agent->config.mover, MOVER_SINK,
                        cgroup_movers(m->agent->cgroup), migration_level(m), &handler, &m->mover, ret_error);
        if (r < 0)
                return r;
        fds[0] = stream;
        fds[1] = ram;
        for (size_t i = 0; i < m->destination.n_listen_fds; i++)
                fds[n_fds++] = m->destination.listen_fds[i];
        for (size_t i = 0; i < n_disk_fds; i++)
                fds[n_fds++] = disk_fds[i];
        start = start_message(m, vm);
        if (start && m->disks)
                json_object_set_new(start, "disks", migration_disks_start(m));
        if (start && *m->spec_digest)
                json_object_set_new(start, "spec_digest", json_string(m->spec_digest));
        if (start && migration_post_copy_allowed(m))
                json_object_set_new(start, "post_copy", json_true());
        if (start && key && checkpoints_open(m->agent->checkpoints, m->vm_uid, &checkpoint) == 0) {
                json_object_set_new(start, "checkpoint_key", json_string(key));
                fds[n_fds++] = checkpoint;
        }
        if (start && siblings_open_store(m->agent->siblings,
                             json_string_value(json_object_get(vm->config->labels, SIBLING_LABEL)), &shared,
                             m->destination.sibling_key) == 0) {
                json_object_set_new(start, "sibling_key", json_string(m->destination.sibling_key));
                fds[n_fds++] = shared;
        }
        r = mover_process_send(m->mover, start, fds, n_fds, ret_error);
        close_listening(m);
        return r;
}

static void on_incoming(void *userdata, struct error *error)
{
        struct migration *m = userdata;
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        m->n_pending--;
        m->destination.starting = false;
        m->destination.made_vm = !error;
        if (error) {
                error_set(&e, error->code, error->hint, "%s", error_message(error));
                m->qemu = HANDOFF_QEMU_GONE;
                return migration_destination_failed(m, e);
        }
        m->qemu = HANDOFF_QEMU_LOADING;
        if (m->stop_wanted || !vm)
                return migration_kick(m);
        if (m->disks)
                migration_disks_export(m);
        else
                migration_destination_ready(m, NULL, 0);
}

void migration_destination_ready(struct migration *m, const int *disk_fds, size_t n_disk_fds)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->stop_wanted || !vm)
                return migration_kick(m);
        if (start_mover(m, vm, disk_fds, n_disk_fds, &e) < 0)
                migration_destination_failed(m, e);
}

void migration_destination_start(struct migration *m, const json_t *document)
{
        struct error *e = NULL;
        struct vm *vm;

        m->qemu = HANDOFF_QEMU_GONE;
        if (m->stop_wanted)
                return migration_kick(m);
        if (vm_start_incoming(m->agent, document, m->epoch, migration_post_copy_allowed(m), on_incoming, m,
                    &vm, &e) < 0)
                return migration_destination_failed(m, e);
        m->n_pending++;
        m->destination.starting = true;
        m->qemu = HANDOFF_QEMU_LOADING;
}

/* Without the note, or `owner` written afterwards, an agent that starts again takes a guest whose QEMU is silent for one that
 * waits for its memory. */
void migration_destination_arrived(struct migration *m)
{
        _cleanup_error_ struct error *e = NULL;

        if (m->destination.arrived)
                return;
        m->destination.arrived = true;
        if (m->record == HANDOFF_OWNER && m->destination.post_copy && migration_note(m, "arrived", &e) < 0)
                log_warning("%s", error_message(e));
}

void migration_destination_event(struct migration *m, const char *event, const json_t *data, int64_t unix_us)
{
        const char *status = json_string_value(json_object_get(data, "status"));

        if (!strcmp(event, "RESUME") && m->record == HANDOFF_OWNER && !m->destination.resumed_unix_us) {
                m->destination.resumed_unix_us = unix_us ?: (int64_t)(clock_realtime_ns() / 1000);
        } else if (!strcmp(event, "MIGRATION") &&
                   migration_status_from_string(status) == MIGRATION_STATUS_POSTCOPY) {
                m->destination.post_copy = true;
        } else if (!strcmp(event, "SHUTDOWN") && json_is_true(json_object_get(data, "guest"))) {
                if (m->record == HANDOFF_OWNER)
                        migration_destination_arrived(
                                m); /* the guest ends by its own doing, and needs no more */
        } else if (!strcmp(event, "MIGRATION") &&
                   migration_status_from_string(status) == MIGRATION_STATUS_COMPLETED) {
                migration_destination_arrived(m);
                if (m->qemu != HANDOFF_QEMU_RUNNING && m->qemu != HANDOFF_QEMU_GONE)
                        m->qemu = HANDOFF_QEMU_LOADED;
        } else if (!strcmp(event, "MIGRATION") &&
                   migration_status_from_string(status) == MIGRATION_STATUS_FAILED) {
                struct error *e = NULL;

                error_set(&e, ERROR_QEMU_FAILED,
                        "Compare the QEMU versions and the virtual machine's devices on both hosts.",
                        "QEMU at the destination could not load the guest's state");
                migration_stop(m, e);
        }
}

/* --- Actions --------------------------------------------------------------------------------------------- */

static void tell_result(struct migration *m, const char *outcome)
{
        char text[ERROR_TEXT_MAX] = "";

        if (m->stop_reason)
                snprintf(text, sizeof(text), "%s", error_message(m->stop_reason));
        if (m->mover)
                (void)mover_process_send(m->mover,
                        json_pack("{s:s, s:s, s:I, s:s}", "op", "result", "outcome", outcome,
                                "resumed_realtime_ns", (json_int_t)m->destination.resumed_unix_us * 1000,
                                "message", text),
                        NULL, 0, NULL);
}

/* Whoever starts the VM next has to know of this epoch, also when it ended here before QEMU said that it ran. */
static void set_epoch(const struct migration *m, struct vm *vm)
{
        _cleanup_error_ struct error *e = NULL;

        if (vm_set_epoch(vm, m->epoch + 1, &e) < 0)
                log_warning("%s", error_message(e));
}

/* What the new owner owes the world once the guest runs; also after a restart. */
static void take_possession(struct migration *m)
{
        struct vm *vm = migration_vm(m);

        if (m->destination.announced || !vm || m->qemu != HANDOFF_QEMU_RUNNING)
                return;
        m->destination.announced = true;
        vm_arrive(vm);
        settle_checkpoints(m);
        set_epoch(m, vm);
}

static void on_continued(void *userdata, struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        m->n_pending--;
        m->destination.continuing = false;
        if (error) {
                log_error("vm %s is this host's now but does not continue: %s", m->vm_uid,
                        error_message(error));
                if (error->code == ERROR_QEMU_FAILED && !m->destination.recovered) {
                        m->destination.may_have_run =
                                false; /* QEMU said no, to the first `cont` it ever got */
                        error_set(&e, ERROR_QEMU_FAILED, error->hint,
                                "the destination could not continue the guest: %s", error_message(error));
                        give_up_or_wait(m, e);
                } else {
                        migration_refused(m);
                }
                migration_refresh_qemu(m);
                return;
        }
        m->qemu = HANDOFF_QEMU_RUNNING;
        if (!m->destination.resumed_unix_us)
                m->destination.resumed_unix_us = (int64_t)(clock_realtime_ns() / 1000);
        tell_result(m, "running");
        take_possession(m);
        migration_set_phase(m, m->destination.post_copy && !m->destination.arrived ? MIGRATION_POST_COPY
                                                                                   : MIGRATION_SETTLING);
        migration_kick(m);
}

static void continue_guest(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->destination.continuing || !vm || migration_must_wait(m) ||
                migration_hold(m, "destination-owner"))
                return;
        if (vm_continue(vm, on_continued, m, &e) < 0) {
                log_error("vm %s cannot be continued: %s", m->vm_uid, error_message(e));
                error_free(e);
                return;
        }
        m->n_pending++;
        m->destination.may_have_run = true;
        m->destination.continuing = true;
}

static void own(struct migration *m)
{
        struct error *e = NULL;

        if (migration_must_wait(m) || migration_hold(m, "destination-loaded") || !migration_disks_closed(m))
                return;
        /* On the source's word alone only if the claim still stands: it may have taken the record back before its agent was
         * restarted, and does not know any more. */
        if (!m->destination.commit_read && !m->destination.claim_stands)
                m->claimed = false;
        m->destination.claim_stands = true;
        if (!m->claimed)
                return claim(m);
        if (migration_set_record(m, HANDOFF_OWNER, m->epoch + 1, &e) < 0) /* it can still be abandoned */
                return give_up_or_wait(m, e);
        migration_set_phase(m, MIGRATION_HANDED_OFF);
        continue_guest(m);
}

static void on_discarded(void *userdata, struct error *error)
{
        struct migration *m = userdata;

        m->n_pending--;
        m->destination.discarding = false;
        if (error)
                log_error("the guest of migration %s cannot be removed: %s", m->id, error_message(error));
        else
                m->qemu = HANDOFF_QEMU_GONE;
        migration_kick(m);
}

/* QEMU dies first; only then may the journal say that it never will run the guest. */
static void abandon(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        migration_disks_cancel(m);
        if (m->destination.discarding || m->destination.continuing || m->destination.starting)
                return;
        owner_record_change_free(TAKE_PTR(m->claim));
        if (vm && m->destination.made_vm) {
                /* Its monitor is silent, and what it is doing is not known; but `cont` never came before `owner`. */
                if (vm_power(vm) != VM_POWER_INCOMING && m->record != HANDOFF_PREPARED)
                        return;
                if (vm_discard_incoming(vm, on_discarded, m, &e) < 0) {
                        log_error("%s", error_message(e));
                        error_free(e);
                        return;
                }
                m->n_pending++;
                m->destination.discarding = true;
                return;
        }
        m->qemu = HANDOFF_QEMU_GONE;
        if (m->record != HANDOFF_ABANDONED &&
                migration_set_record(m, HANDOFF_ABANDONED, m->epoch + 1, &e) < 0) {
                log_error("%s", error_message(e));
                error_free(e);
                return;
        }
        tell_result(m, "abandoned");
        migration_set_phase(m, MIGRATION_SETTLING);
        migration_kick(m);
}

/* The rest of the guest's memory never comes. Its end comes back here. */
static void end_guest(struct migration *m)
{
        static const char reason[] =
                "the guest was ended: its migration was cut off in post-copy, before all of its "
                "memory had come";
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->destination.continuing || m->destination.ending || !vm)
                return;
        log_error("vm %s: %s", m->vm_uid, reason);
        if (vm_end_lost(vm, reason, &e) < 0)
                log_error("%s", error_message(e));
        else
                m->destination.ending = true;
        error_free(e);
}

/* Abandoned here: the record is kept until the source has settled, for it may have to ask. */
static void fail(struct migration *m)
{
        const struct handoff_peer *p = &m->peer;

        migration_detach(m);
        if (m->destination.released || migration_peer_fenced(m) ||
                (p->answered && (p->record == HANDOFF_TAKEN_BACK || p->record == HANDOFF_NONE))) {
                if (migration_disks_removed(m))
                        migration_settle(m, MIGRATION_FAILED);
                return;
        }
        migration_peer_ask(m, false);
}

static void finish(struct migration *m)
{
        struct vm *vm = migration_vm(m);

        if (m->destination.continuing)
                return;
        take_possession(m);
        migration_set_phase(m, MIGRATION_SETTLING);
        if (m->qemu == HANDOFF_QEMU_RUNNING && migration_hold(m, "destination-done"))
                return;
        if (m->qemu == HANDOFF_QEMU_GONE && m->destination.post_copy)
                migration_close_path(m); /* the source would serve it for ever */
        if (vm && m->qemu == HANDOFF_QEMU_GONE) {
                set_epoch(m, vm);
                vm_set_ended(vm, "QEMU ended when the virtual machine had just arrived");
        }
        migration_detach(m);
        if (m->destination.released || migration_peer_fenced(m)) {
                error_free(TAKE_PTR(m->stop_reason));
                return migration_settle(m, MIGRATION_DONE);
        }
        migration_peer_ask(m, false);
        if (m->peer.answered && m->peer.record == HANDOFF_RELEASED)
                m->destination.released = true;
}

static struct handoff_destination_facts facts_of(const struct migration *m)
{
        return (struct handoff_destination_facts){
                .record = m->record,
                .qemu = m->qemu,
                .mover_alive = m->path_alive,
                .commit_read = m->destination.commit_read,
                .post_copy = m->destination.post_copy,
                .arrived = m->destination.arrived,
                .silent = m->destination.recovered &&
                          clock_now_ms(loop_clock(m->agent->loop)) - m->started_ms > SILENT_LIMIT_MS,
                .stop_wanted = m->stop_wanted,
                .may_have_run = m->destination.may_have_run,
                .peer_fenced = migration_peer_fenced(m),
                .peer = m->peer,
        };
}

enum handoff_record migration_destination_tells(const struct migration *m)
{
        const struct handoff_destination_facts facts = facts_of(m);

        return handoff_destination_tells(&facts);
}

enum handoff_qemu migration_destination_tells_qemu(const struct migration *m)
{
        const struct handoff_destination_facts facts = facts_of(m);

        return handoff_destination_tells_qemu(&facts);
}

void migration_destination_step(struct migration *m)
{
        const struct handoff_destination_facts facts = facts_of(m);

        if (m->destination.recovered && m->record == HANDOFF_PREPARED)
                arm_limit(m, CUT_STREAM_LIMIT_MS); /* its mover died with the agent before */
        switch (handoff_destination_decide(&facts)) {
        case HANDOFF_DESTINATION_WAIT:
                if (m->destination.prepare && m->destination.ready)
                        answer_source(m);
                else if (m->phase != MIGRATION_PREPARING)
                        (void)migration_hold(m, "destination-copying");
                break;
        case HANDOFF_DESTINATION_ASK:
                migration_set_phase(m, MIGRATION_WAITING_FOR_PEER);
                migration_peer_ask(m, false);
                break;
        case HANDOFF_DESTINATION_OWN:
                own(m);
                break;
        case HANDOFF_DESTINATION_CONTINUE:
                continue_guest(m);
                break;
        case HANDOFF_DESTINATION_ABANDON:
                abandon(m);
                break;
        case HANDOFF_DESTINATION_END:
                end_guest(m);
                break;
        case HANDOFF_DESTINATION_FAILED:
                fail(m);
                break;
        case HANDOFF_DESTINATION_DONE:
                finish(m);
                break;
        }
}

void migration_destination_begin(struct migration *m, struct http_request *request)
{
        m->destination.prepare = request;
        if (m->disks)
                migration_disks_arrive(m);
        else
                migration_destination_start(m, json_object_get(m->spec, "vm"));
        migration_kick(m);
}

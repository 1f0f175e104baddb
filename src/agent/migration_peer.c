/* SPDX-License-Identifier: Apache-2.0 */

/* The exchange between the two agents of a migration: what each tells the other of its journal and QEMU, how the source
 * asks the destination to give up or tells it that it may forget, and how the offset between their clocks is measured.
 * Silence is never taken for an answer: without one, asking goes on with growing pauses. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/handshake.h"
#include "agent/identity.h"
#include "agent/migration.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "vmm/vm_config.h"

#define CALL_TIMEOUT_MS 5000
#define ASK_FIRST_MS 200
#define ASK_MAX_MS 10000
#define PEER_NAME_MAX 64

/* HTTP status of a peer that does not know the migration (any more). */
#define STATUS_NOT_FOUND 404

static const struct clock *clock_of(const struct migration *m)
{
        return loop_clock(m->agent->loop);
}

/* NTP's rule (RFC 5905, section 8): the exchange with the shortest round trip has the least error, at most half of it. */
static void measure_clock(struct migration *m, json_int_t peer_ns)
{
        uint64_t now = clock_realtime_ns(), rtt = now - m->call_started_ns;

        if (peer_ns <= 0 || now < m->call_started_ns || (m->clock_rtt_ns && rtt >= m->clock_rtt_ns))
                return;
        m->clock_rtt_ns = MAX(rtt, (uint64_t)1);
        m->clock_offset_ns = (int64_t)peer_ns - (int64_t)(m->call_started_ns + rtt / 2);
}

/* After an answer: the next one may be worth having soon. */
static void ask_again(struct migration *m)
{
        m->ask_delay_ms = 0;
        m->ask_not_before_ms = clock_now_ms(clock_of(m)) + ASK_FIRST_MS;
}

/* After silence. */
static void ask_later(struct migration *m)
{
        m->ask_delay_ms = m->ask_delay_ms ? MIN(m->ask_delay_ms * 2, (uint64_t)ASK_MAX_MS) : ASK_FIRST_MS;
        m->ask_not_before_ms = clock_now_ms(clock_of(m)) + m->ask_delay_ms;
}

static void take_answer(struct migration *m, const json_t *body)
{
        struct handoff_peer peer = {.answered = true, .record = HANDOFF_NONE, .qemu = HANDOFF_QEMU_UNKNOWN};
        json_int_t resumed = json_integer_value(json_object_get(body, "resumed_realtime_ns"));

        if (handoff_record_from_string(json_string_value(json_object_get(body, "record")), &peer.record) <
                        0 ||
                handoff_qemu_from_string(json_string_value(json_object_get(body, "qemu")), &peer.qemu) < 0) {
                log_warning("migration %s: the peer's answer about it is not understood", m->id);
                ask_later(m);
                return;
        }
        migration_arrival_take(m, body);
        peer.arrived = json_is_true(json_object_get(body, "arrived"));
        measure_clock(m, json_integer_value(json_object_get(body, "realtime_ns")));
        m->peer = peer;
        if (m->role == MIGRATION_SOURCE_SIDE && resumed > 0)
                m->source.resumed_unix_ns = resumed;
        if (m->role == MIGRATION_DESTINATION_SIDE && json_is_true(json_object_get(body, "settled")))
                m->destination.released = true;
        ask_again(m);
}

static void on_answer(void *userdata, int status, json_t *body, struct error *error)
{
        struct migration *m = userdata;

        m->call = NULL;
        if (status == STATUS_NOT_FOUND) {
                /* Its agent runs and has no journal of it: for a source that asks, nothing is known; for a destination,
                 * the source has settled without it. */
                m->peer = (struct handoff_peer){.answered = true, .record = HANDOFF_NONE};
                if (m->role == MIGRATION_DESTINATION_SIDE)
                        m->destination.released = true;
                ask_again(m);
        } else if (error) {
                log_debug("migration %s: the peer does not answer: %s", m->id, error_message(error));
                ask_later(m);
        } else {
                take_answer(m, body);
        }
        migration_kick(m);
}

static int call_peer(
        struct migration *m, const char *method, const char *suffix, const json_t *body, http_reply_fn reply)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/peer/migrations/%s%s", m->id, suffix);
        char name[PEER_NAME_MAX];
        struct http_call_spec spec = {
                .method = method,
                .address = m->peer_address,
                .peer_name = name,
                .path = path,
                .body = body,
                .timeout_ms = CALL_TIMEOUT_MS,
        };

        if (!path)
                return -ENOMEM;
        snprintf(name, sizeof(name), "%s.host.drover", m->peer_uid);
        m->call_started_ns = clock_realtime_ns();
        return http_client_call(m->agent->client, &spec, reply, m, &m->call, NULL);
}

void migration_peer_ask(struct migration *m, bool abort)
{
        _cleanup_json_ json_t *body = NULL;

        if (m->call || clock_now_ms(clock_of(m)) < m->ask_not_before_ms)
                return;
        if (abort)
                body = json_pack("{s:s}", "reason",
                        m->stop_reason ? error_message(m->stop_reason) : "the source takes it back");
        if (call_peer(m, abort ? "POST" : "GET", abort ? "/abort" : "", body, on_answer) < 0)
                ask_later(m);
}

static void on_notified(void *userdata, int status, json_t *body, struct error *error)
{
        struct migration *m = userdata;

        m->call = NULL;
        if (status == STATUS_NOT_FOUND || !error) {
                m->source.notified = true;
                if (body) {
                        measure_clock(m, json_integer_value(json_object_get(body, "realtime_ns")));
                        migration_arrival_take(m, body);
                }
        } else {
                ask_later(m);
        }
        migration_kick(m);
}

void migration_peer_notify_released(struct migration *m)
{
        if (m->call || clock_now_ms(clock_of(m)) < m->ask_not_before_ms)
                return;
        if (call_peer(m, "POST", "/released", NULL, on_notified) < 0)
                ask_later(m);
}

json_t *migration_peer_document(const struct migration *m)
{
        json_int_t resumed =
                m->role == MIGRATION_DESTINATION_SIDE ? m->destination.resumed_unix_us * 1000 : 0;

        enum handoff_record record =
                m->role == MIGRATION_DESTINATION_SIDE ? migration_destination_tells(m) : m->record;
        enum handoff_qemu qemu = m->role == MIGRATION_SOURCE_SIDE ? migration_source_tells(m)
                                                                  : migration_destination_tells_qemu(m);

        const struct vm *vm = m->role == MIGRATION_DESTINATION_SIDE && m->destination.announced
                                      ? vm_find(m->agent, m->vm_uid)
                                      : NULL;

        return json_pack("{s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:b, s:b, s:I, s:I, s:o*}", "id", m->id, "vm",
                m->vm_uid, "role", m->role == MIGRATION_SOURCE_SIDE ? "source" : "destination", "record",
                handoff_record_to_string(record), "epoch", (json_int_t)m->epoch, "qemu",
                handoff_qemu_to_string(qemu), "phase", migration_phase_to_string(m->phase), "settled",
                m->settled, "arrived", m->role == MIGRATION_DESTINATION_SIDE && m->destination.arrived,
                "resumed_realtime_ns", resumed, "realtime_ns", (json_int_t)clock_realtime_ns(), "arrival",
                vm ? vm_arrival_document(vm) : NULL);
}

/* The caller must be the other host of this very migration. NULL after the request was answered. */
static struct migration *peer_migration(struct agent *agent, struct http_request *request)
{
        const char *id = http_request_param(request, "id"), *caller = http_request_peer_name(request);
        struct migration *m = migration_find(agent, id);
        char wanted[PEER_NAME_MAX];
        struct error *e = NULL;

        if (m) {
                snprintf(wanted, sizeof(wanted), "%s.host.drover", m->peer_uid);
                if (caller && !strcmp(caller, wanted))
                        return m;
                error_set(&e, ERROR_DENIED, NULL, "%.64s takes no part in migration %s",
                        caller ?: "the caller", m->id);
        } else {
                migration_unknown(agent, id, &e);
        }
        http_request_reply_error(request, e);
        return NULL;
}

void migration_api_peer_get(struct agent *agent, struct http_request *request)
{
        struct migration *m = peer_migration(agent, request);

        if (!m)
                return;
        if (!m->settled)
                migration_refresh_qemu(m);
        http_request_reply_json(request, 200, migration_peer_document(m));
}

void migration_api_peer_abort(struct agent *agent, struct http_request *request)
{
        struct migration *m = peer_migration(agent, request);
        struct error *e = NULL;

        if (!m)
                return;
        if (m->role == MIGRATION_DESTINATION_SIDE && m->record == HANDOFF_PREPARED) {
                error_set(&e, ERROR_CANCELLED, NULL, "the source ended the migration");
                migration_stop(m, e);
        }
        http_request_reply_json(request, 200, migration_peer_document(m));
}

void migration_api_peer_released(struct agent *agent, struct http_request *request)
{
        struct migration *m = peer_migration(agent, request);

        if (!m)
                return;
        if (m->role == MIGRATION_DESTINATION_SIDE && m->record == HANDOFF_OWNER) {
                m->destination.released = true;
                migration_kick(m);
        }
        http_request_reply_json(request, 200, migration_peer_document(m));
}

void migration_api_peer_network(struct agent *agent, struct http_request *request)
{
        struct migration *m = peer_migration(agent, request);

        if (m)
                migration_network_answer(m, request);
}

/* Why this host cannot be the destination for the caller, or 0. */
static int check_prepare(
        struct agent *agent, const struct migration *m, const char *caller, struct error **ret_error)
{
        const struct migration *earlier = migration_disks_linger(agent, m->vm_uid);
        const struct vm *vm = migration_vm(m);
        char wanted[PEER_NAME_MAX];

        snprintf(wanted, sizeof(wanted), "%s.host.drover", m->peer_uid);
        if (!caller || strcmp(caller, wanted))
                return error_set(ret_error, ERROR_DENIED, NULL,
                        "%.64s is not the source that the migration names", caller ?: "the caller");
        if (migration_peer_fenced(m))
                return error_set(ret_error, ERROR_CONFLICT,
                        "Try again when the manager has seen the source again.",
                        "the destination was told that the source is down");
        if (migration_disks_refused(m, ret_error) < 0)
                return -EOPNOTSUPP;
        if (migration_find(agent, m->id))
                return error_set(ret_error, ERROR_EXISTS, "Begin again under a new id.",
                        "migration %s exists already here", m->id);
        if (earlier) {
                migration_end_earlier(agent, m);
                return error_set(ret_error, ERROR_BUSY,
                        "Try again in a few seconds; if that host is gone for good, remove it from the "
                        "cluster.",
                        "the destination has disks of an earlier migration of %s, about which it waits for "
                        "the "
                        "word of host %s",
                        m->vm_uid, earlier->peer_uid);
        }
        if (migration_vm_busy(agent, m->vm_uid)) {
                migration_end_earlier(agent, m);
                return error_set(ret_error, ERROR_BUSY, "Try again in a few seconds.",
                        "the destination is still cleaning up an earlier migration of %s", m->vm_uid);
        }
        if (vm && (vm_has_qemu(vm) || vm->job ||
                          (vm_power(vm) != VM_POWER_STOPPED && vm_power(vm) != VM_POWER_CRASHED &&
                                  vm_power(vm) != VM_POWER_SUSPENDED)))
                return error_set(ret_error, ERROR_CONFLICT, "Ask the manager which host owns it.",
                        "the destination has virtual machine %s already", m->vm_uid);
        return 0;
}

/* What a VM is made of, of its document; the caller's; NULL: it is no document. The CPU model that is in effect is a matter of the host where it was started,
 * labels are no part of the machine, and how large a disk is, its image says: of a disk that grew while nobody could tell the manager so, the two say different things. */
static json_t *parts_of(const json_t *vm)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        _cleanup_json_ json_t *document = NULL;
        json_t *parts, *disk;
        size_t i;

        if (!vm || vm_config_from_json(vm, &config, NULL) < 0)
                return NULL;
        document = vm_config_to_json(config);
        parts = json_incref(json_object_get(document, "spec"));
        json_object_del(parts, "cpu_model");
        json_object_del(parts, "labels");
        json_array_foreach (json_object_get(parts, "disks"), i, disk)
                json_object_del(disk, "size_bytes");
        return parts;
}

/* The source says how the VM is now, and the manager what it is. */
static int check_same_vm(const json_t *told, const json_t *now, struct error **ret_error)
{
        const char *uid = json_string_value(json_object_get(told, "uid"));
        const char *uid_now = json_string_value(json_object_get(now, "uid"));
        _cleanup_json_ json_t *a = parts_of(told), *b = parts_of(now);

        if (uid && uid_now && !strcmp(uid, uid_now) && a && b && json_equal(a, b))
                return 0;
        return error_set(ret_error, ERROR_CONFLICT,
                "Compare the virtual machine's document with its vm.json, and begin the migration again.",
                "the virtual machine that the source describes is not the one of the signed specification");
}

/* The signed specification, and what the source adds to it. */
static int new_from_signed(
        struct agent *agent, const json_t *body, struct migration **ret, struct error **ret_error)
{
        static const char *const keys[] = {
                "signed", "vm", "source_fingerprint", "post_copy", "checkpoint_keys", "disks_from", NULL};
        static const char *const not_ours[] = {"converge", "switchover", "network_proof"};
        _cleanup_handshake_spec_ struct handshake_spec opened = {0};
        const struct handshake_spec *expected;
        int r = doc_only_keys(body, "", keys, ret_error);

        if (r == 0)
                r = handshake_open(
                        agent->handshake, json_object_get(body, "signed"), false, &opened, ret_error);
        if (r == 0)
                r = check_same_vm(json_object_get(opened.spec, "vm"), json_object_get(body, "vm"), ret_error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(not_ours); i++)
                json_object_del(opened.spec, not_ours[i]);
        for (size_t i = 1; keys[i]; i++)
                if (json_object_get(body, keys[i]) &&
                        json_object_set(opened.spec, keys[i], json_object_get(body, keys[i])) < 0)
                        return error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
        r = migration_new(agent, MIGRATION_DESTINATION_SIDE, opened.spec, ret, ret_error);
        if (r < 0)
                return r;
        snprintf((*ret)->spec_digest, sizeof((*ret)->spec_digest), "%s", opened.digest);
        expected = handshake_expected(agent->handshake, (*ret)->id);
        if (!expected || pki_equal(expected->digest, opened.digest))
                return 0;
        return error_set(ret_error, ERROR_UNAUTHENTICATED, "Begin the migration again.",
                "the manager told this host another specification of migration %s than the source",
                (*ret)->id);
}

static bool same_number(const json_t *a, const json_t *b, const char *key)
{
        return json_integer_value(json_object_get(a, key)) == json_integer_value(json_object_get(b, key));
}

static const char *text_in(const json_t *spec, const char *object, const char *key)
{
        return json_string_value(json_object_get(json_object_get(spec, object), key)) ?: "";
}

/* Of a source of an earlier version, which cannot pass on what was signed: it has to be what the manager told us itself. */
static int check_expected(
        struct agent *agent, const struct migration *m, const json_t *body, struct error **ret_error)
{
        const struct handshake_spec *expected = handshake_expected(agent->handshake, m->id);

        if (!expected)
                return handshake_is_needed(agent->handshake) ? handshake_refuse(agent->handshake, ret_error)
                                                             : 0;
        if (expected->both)
                return handshake_refuse(agent->handshake, ret_error);
        if (!same_number(expected->spec, body, "epoch") ||
                strcmp(text_in(expected->spec, "source", "host"), text_in(body, "source", "host")) != 0 ||
                strcmp(text_in(expected->spec, "destination", "host"),
                        text_in(body, "destination", "host")) != 0)
                return error_set(ret_error, ERROR_UNAUTHENTICATED, "Begin the migration again.",
                        "the manager told this host another specification of migration %s than the source",
                        m->id);
        return check_same_vm(json_object_get(expected->spec, "vm"), json_object_get(body, "vm"), ret_error);
}

static int new_from_source(
        struct agent *agent, struct http_request *request, struct migration **ret, struct error **ret_error)
{
        json_t *body = NULL;
        int r = http_request_json(request, &body, ret_error);

        if (r < 0)
                return r;
        if (json_object_get(body, "signed"))
                return new_from_signed(agent, body, ret, ret_error);
        r = migration_new(agent, MIGRATION_DESTINATION_SIDE, body, ret, ret_error);
        return r < 0 ? r : check_expected(agent, *ret, body, ret_error);
}

void migration_api_peer_prepare(struct agent *agent, struct http_request *request)
{
        _cleanup_(migration_freep) struct migration *m = NULL;
        struct error *e = NULL;
        int r = new_from_source(agent, request, &m, &e);

        if (r == 0) {
                m->destination.checkpoint_keys = json_incref(json_object_get(m->spec, "checkpoint_keys"));
                json_object_del(m->spec, "checkpoint_keys");
        }
        if (r == 0)
                r = check_prepare(agent, m, http_request_peer_name(request), &e);
        if (r == 0)
                r = migration_register(m, &e);
        if (r != 0)
                return http_request_reply_error(request, e);
        m->qemu = HANDOFF_QEMU_GONE;
        migration_destination_begin(TAKE_PTR(m), request);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/migration.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/checkpoints.h"
#include "agent/host_list.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/owner_record.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/crash_point.h"
#include "io/file.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"
#include "vmm/vm_config.h"

#define RETRY_MAX_MS 10000
#define TICK_MS 500     /* how often an unsettled migration looks again at QEMU and its peer */
#define SETTLED_MAX 256 /* remembered for the manager; the oldest go first */
#define ADDRESS_MAX 80
#define ADDRESSES_MAX 640

struct migrations {
        char *folder; /* of the journals */
        struct map by_id;
        /* Journals that cannot be read: migration id to VM uid. What they say is not known, so that VM is busy and the peer
         * gets no answer until somebody has looked. */
        struct map unreadable;
};

static const char *const phase_names[] = {
#define X(name, text) [MIGRATION_##name] = text,
        MIGRATION_PHASES(X)
#undef X
};
static_assert(ARRAY_SIZE(phase_names) == N_MIGRATION_PHASES, "every phase has a name");

const char *migration_phase_to_string(enum migration_phase phase)
{
        return phase_names[phase];
}

/* --- The object ------------------------------------------------------------------------------------------ */

const char *migration_spec_string(const struct migration *m, const char *key)
{
        return json_string_value(json_object_get(m->spec, key));
}

int migration_level(const struct migration *m)
{
        static const char *const names[] = {"low", "normal", "high", "critical"};
        const char *priority = migration_spec_string(m, "priority") ?: "normal";

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (!strcmp(names[i], priority))
                        return (int)i - 1;
        return 0;
}

uint64_t migration_spec_u64(const struct migration *m, const char *key, uint64_t fallback)
{
        const json_t *v = json_object_get(m->spec, key);

        return json_is_integer(v) && json_integer_value(v) > 0 ? (uint64_t)json_integer_value(v) : fallback;
}

static int check_side(const json_t *spec, const char *side, const char **ret_uid, const char **ret_address,
        struct error **ret_error)
{
        static const char *const keys[] = {"host", "address", "migration_address", NULL};
        json_t *obj = NULL;
        const char *unused = NULL;
        int r = doc_opt_object(spec, "", side, &obj, ret_error);

        if (r == 0 && !obj)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s is missing", side);
        if (r == 0)
                r = doc_only_keys(obj, side, keys, ret_error);
        if (r == 0)
                r = doc_need_string(obj, side, "host", UUID_STRING_SIZE - 1, ret_uid, ret_error);
        if (r == 0)
                r = doc_need_string(obj, side, "address", ADDRESS_MAX, ret_address, ret_error);
        if (r == 0)
                r = doc_opt_string(obj, side, "migration_address", ADDRESSES_MAX, &unused, ret_error);
        if (r == 0 && !text_is_uuid(*ret_uid))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field %s.host is not a UUID", side);
        return r;
}

/* Everything but the VM document, which whoever starts the VM validates. */
static int check_spec(const json_t *spec, enum migration_role role, const char *own_uid, const char **ret_id,
        const char **ret_peer_uid, const char **ret_peer_address, uint64_t *ret_epoch,
        struct error **ret_error)
{
        static const char *const keys[] = {"id", "vm", "epoch", "source", "destination", "source_fingerprint",
                "max_pause_ms", "channels", "codec", "verify", "rate_limit_bps", "timeout_ms", "priority",
                "checkpoint_keys", "converge", "switchover", "post_copy", "network_proof", "disks",
                "disks_from", NULL};
        const char *source_uid = "", *source_address = "", *destination_uid = "", *destination_address = "";
        const char *codec = "auto", *text = NULL;
        uint64_t number = 0;
        json_t *vm = NULL;
        bool flag = false;
        int r = doc_only_keys(spec, "", keys, ret_error);

        if (r == 0)
                r = doc_need_string(spec, "", "id", UUID_STRING_SIZE - 1, ret_id, ret_error);
        if (r == 0 && !text_is_uuid(*ret_id))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field id is not a UUID");
        if (r == 0)
                r = doc_opt_object(spec, "", "vm", &vm, ret_error);
        if (r == 0 && !text_is_uuid(json_string_value(json_object_get(vm, "uid"))))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field vm has no valid uid");
        if (r == 0)
                r = doc_need_u64(spec, "", "epoch", 1, INT64_MAX - 2, ret_epoch, ret_error);
        if (r == 0)
                r = check_side(spec, "source", &source_uid, &source_address, ret_error);
        if (r == 0)
                r = check_side(spec, "destination", &destination_uid, &destination_address, ret_error);
        if (r == 0)
                r = doc_opt_u64(spec, "", "max_pause_ms", 1, 600000, &number, ret_error);
        if (r == 0)
                r = doc_opt_u64(spec, "", "channels", 0, DATA_CHANNELS_MAX, &number, ret_error);
        if (r == 0)
                r = doc_opt_u64(spec, "", "rate_limit_bps", 0, INT64_MAX, &number, ret_error);
        if (r == 0)
                r = doc_opt_u64(spec, "", "timeout_ms", 0, 7 * 86400000ull, &number, ret_error);
        if (r == 0)
                r = doc_opt_string(spec, "", "codec", 8, &codec, ret_error);
        if (r == 0)
                r = doc_opt_string(
                        spec, "", "source_fingerprint", PKI_FINGERPRINT_SIZE - 1, &text, ret_error);
        if (r == 0)
                r = doc_opt_bool(spec, "", "verify", &flag, ret_error);
        if (r == 0)
                r = doc_opt_bool(spec, "", "post_copy", &flag, ret_error);
        if (r == 0 && json_object_get(spec, "post_copy") && role == MIGRATION_SOURCE_SIDE)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Name the step in field converge.",
                        "field post_copy is not for the source");
        if (r == 0 && json_object_get(spec, "checkpoint_keys") && role == MIGRATION_SOURCE_SIDE)
                r = error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "field checkpoint_keys is not for the source");
        if (r == 0 && json_object_get(spec, "checkpoint_keys"))
                r = checkpoints_check_keys(json_object_get(spec, "checkpoint_keys"), ret_error);
        if (r < 0)
                return -EINVAL;
        if (strcmp(codec, "auto") && strcmp(codec, "none") && strcmp(codec, "lz4") && strcmp(codec, "zstd"))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use auto, none, lz4 or zstd.",
                        "field codec is \"%s\", which is not known", codec);
        if (!strcmp(source_uid, destination_uid))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Choose another destination.",
                        "source and destination are the same host");
        if (strcmp(role == MIGRATION_SOURCE_SIDE ? source_uid : destination_uid, own_uid))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Send the spec to the host it names.",
                        "this host is not the migration's %s",
                        role == MIGRATION_SOURCE_SIDE ? "source" : "destination");
        *ret_peer_uid = role == MIGRATION_SOURCE_SIDE ? destination_uid : source_uid;
        *ret_peer_address = role == MIGRATION_SOURCE_SIDE ? destination_address : source_address;
        return 0;
}

int migration_new(struct agent *agent, enum migration_role role, const json_t *spec,
        struct migration **ret_migration, struct error **ret_error)
{
        _cleanup_(migration_freep) struct migration *m = NULL;
        const char *id = NULL, *peer_uid = NULL, *peer_address = NULL;
        uint64_t epoch = 0;
        int r = check_spec(
                spec, role, agent_host_uid(agent), &id, &peer_uid, &peer_address, &epoch, ret_error);

        if (r < 0)
                return r;
        m = ALLOC(struct migration);
        if (!m)
                return error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
        m->agent = agent;
        m->role = role;
        m->epoch = epoch;
        m->path_alive = true;
        if (role == MIGRATION_SOURCE_SIDE)
                m->source.qemu_fd = -1;
        snprintf(m->id, sizeof(m->id), "%s", id);
        snprintf(m->vm_uid, sizeof(m->vm_uid), "%s",
                json_string_value(json_object_get(json_object_get(spec, "vm"), "uid")));
        m->spec = json_deep_copy(spec);
        m->peer_uid = alloc_strdup(peer_uid);
        m->peer_address = alloc_strdup(peer_address);
        m->started_ms = clock_now_ms(loop_clock(agent->loop));
        if (!m->spec || !m->peer_uid || !m->peer_address)
                return error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
        r = role == MIGRATION_SOURCE_SIDE ? migration_converge_init(m, ret_error) : 0;
        if (r == 0 && role == MIGRATION_SOURCE_SIDE)
                r = migration_switchover_init(m, ret_error);
        if (r == 0 && role == MIGRATION_SOURCE_SIDE)
                r = migration_network_init(m, ret_error);
        if (r == 0)
                r = migration_disks_init(m, ret_error);
        if (r < 0)
                return r;
        *ret_migration = TAKE_PTR(m);
        return 0;
}

static void stop_timers(struct migration *m)
{
        loop_source_free(TAKE_PTR(m->deadline));
        loop_source_free(TAKE_PTR(m->tick));
        loop_source_free(TAKE_PTR(m->step));
        loop_source_free(TAKE_PTR(m->report));
        owner_record_change_free(TAKE_PTR(m->claim));
        crash_hold_free(TAKE_PTR(m->hold));
        loop_source_free(TAKE_PTR(m->forget));
        qmp_call_cancel(TAKE_PTR(m->refresh_call));
        m->refreshing = false;
}

void migration_free(struct migration *m)
{
        if (!m)
                return;
        stop_timers(m);
        if (m->role == MIGRATION_SOURCE_SIDE)
                migration_source_deinit(m);
        else
                migration_destination_deinit(m);
        migration_disks_free(m);
        http_call_cancel(m->call);
        mover_process_free(m->mover);
        mover_process_free(m->leaving);
        journal_free(m->journal);
        json_decref(m->spec);
        json_decref(m->signed_spec);
        json_decref(m->progress);
        json_decref(m->result);
        error_free(m->stop_reason);
        free(m->peer_uid);
        free(m->peer_address);
        free(m->cert_pem);
        pki_key_free(m->key_pem);
        free(m);
}

struct migration *migration_find(struct agent *agent, const char *id)
{
        return agent->migrations && id ? map_get(&agent->migrations->by_id, id) : NULL;
}

bool migration_must_wait(const struct migration *m)
{
        return clock_now_ms(loop_clock(m->agent->loop)) < m->retry_not_before_ms;
}

void migration_refused(struct migration *m)
{
        m->retry_delay_ms = m->retry_delay_ms ? MIN(m->retry_delay_ms * 2, (uint64_t)RETRY_MAX_MS) : TICK_MS;
        m->retry_not_before_ms = clock_now_ms(loop_clock(m->agent->loop)) + m->retry_delay_ms;
}

struct vm *migration_vm(const struct migration *m)
{
        return m->detached ? NULL : vm_find(m->agent, m->vm_uid);
}

void migration_detach(struct migration *m)
{
        struct vm *vm = migration_vm(m);

        if (m->detached)
                return;
        qmp_call_cancel(TAKE_PTR(m->refresh_call));
        m->refreshing = false;
        m->detached = true;
        if (vm)
                vm_refresh(vm); /* what its QEMU did meanwhile was ours to judge; not any more */
}

static void on_tick(void *userdata)
{
        struct migration *m = userdata;

        loop_source_rearm(m->tick, TICK_MS);
        migration_refresh_qemu(m);
        migration_kick(m);
}

static void on_deadline(void *userdata)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        if (migration_is_serving(m)) { /* nothing can be taken back, unless QEMU needs it no more */
                loop_source_rearm(m->deadline, TICK_MS);
                return;
        }
        error_set(&e, ERROR_TIMED_OUT, "Raise the time limit, or the bound on the pause.",
                "the migration did not finish within its time limit");
        migration_stop(m, e);
}

static int add_timers(struct migration *m)
{
        int r = loop_add_timer(m->agent->loop, TICK_MS, on_tick, m, &m->tick);

        if (r == 0 && m->role == MIGRATION_SOURCE_SIDE)
                r = loop_add_timer(m->agent->loop, migration_spec_u64(m, "timeout_ms", 3600000), on_deadline,
                        m, &m->deadline);
        return r;
}

static json_t *record_json(const struct migration *m, enum handoff_record record, uint64_t epoch)
{
        return json_pack("{s:s, s:I, s:I}", "record", handoff_record_to_string(record), "epoch",
                (json_int_t)epoch, "time_ms", (json_int_t)clock_unix_ms(loop_clock(m->agent->loop)));
}

void migration_forget(struct migration *m)
{
        struct migrations *all = m->agent->migrations;

        (void)journal_remove(all->folder, m->id, m->vm_uid);
        map_remove(&all->by_id, m->id);
        migration_free(m);
}

static void on_forget(void *userdata)
{
        struct migration *m = userdata;

        if (m->n_pending)
                loop_source_rearm(m->forget, TICK_MS);
        else
                migration_forget(m);
}

void migration_forget_when_settled(struct migration *m)
{
        m->forget_wanted = true;
        if (m->settled && !migration_disks_peer_may_ask(m) && !m->forget &&
                loop_add_timer(m->agent->loop, 0, on_forget, m, &m->forget) < 0)
                log_warning("migration %s: no timer to forget it", m->id); /* prune() does */
}

void migration_for_each(struct agent *agent, void (*fn)(void *userdata, struct migration *m), void *userdata)
{
        struct map_item *item, *spare;

        if (!agent->migrations)
                return;
        map_for_each (item, spare, &agent->migrations->by_id)
                fn(userdata, item->value);
}

static void note_pause(void *userdata, struct migration *m)
{
        bool *pauses = userdata;

        *pauses = *pauses || m->phase == MIGRATION_SWITCHING || m->phase == MIGRATION_HANDED_OFF;
}

bool migration_pauses_guest(struct agent *agent)
{
        bool pauses = false;

        migration_for_each(agent, note_pause, &pauses);
        return pauses;
}

/* Forgets the oldest settled migrations beyond the bound. */
static void prune(struct migrations *all)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &all->by_id) {
                struct migration *m = item->value;

                if (map_size(&all->by_id) <= SETTLED_MAX)
                        return;
                if (m->settled && !m->n_pending && !migration_disks_peer_may_ask(m))
                        migration_forget(m);
        }
}

int migration_register(struct migration *m, struct error **ret_error)
{
        enum handoff_record first = m->role == MIGRATION_SOURCE_SIDE ? HANDOFF_OUTGOING : HANDOFF_PREPARED;
        _cleanup_json_ json_t *record = record_json(m, first, m->epoch);
        struct migrations *all = m->agent->migrations;
        int r;

        if (!record || json_object_set_new(record, "role", json_integer(m->role)) < 0 ||
                json_object_set(record, "spec", m->spec) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
        prune(all);
        r = journal_create(all->folder, m->id, m->vm_uid, record, &m->journal, ret_error);
        if (r < 0)
                return r;
        m->record = first;
        m->record_epoch = m->epoch;
        r = add_timers(m);
        if (r == 0)
                r = map_put(&all->by_id, m->id, m, NULL);
        if (r < 0) {
                (void)journal_remove(all->folder, m->id, m->vm_uid);
                return error_from_errno(ret_error, r, "cannot begin a migration");
        }
        migration_set_phase(m, MIGRATION_PREPARING);
        return 0;
}

int migration_set_record(
        struct migration *m, enum handoff_record record, uint64_t epoch, struct error **ret_error)
{
        _cleanup_json_ json_t *json = record_json(m, record, epoch);
        const char *flag = NULL;
        int r;

        if (m->role == MIGRATION_SOURCE_SIDE && m->source.lost)
                flag = "lost";
        else if (m->role == MIGRATION_SOURCE_SIDE && record == HANDOFF_RELEASED && m->source.completed)
                flag = "completed";
        else if (m->role == MIGRATION_DESTINATION_SIDE && record == HANDOFF_OWNER &&
                 m->destination.post_copy && !m->destination.arrived)
                flag = "post_copy";
        if (json && flag && json_object_set_new(json, flag, json_true()) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot write the journal of migration %s", m->id);
        assert(handoff_record_may_follow(m->record, record));
        if (!json)
                return error_from_errno(ret_error, ENOMEM, "cannot write the journal of migration %s", m->id);
        r = journal_append(m->journal, json, ret_error);
        if (r < 0)
                return r;
        m->record = record;
        m->record_epoch = epoch;
        migration_network_end(m); /* the guest has stopped, or is to stay */
        log_info("migration %s of vm %s: %s, epoch %llu", m->id, m->vm_uid, handoff_record_to_string(record),
                (unsigned long long)epoch);
        return 0;
}

int migration_note(struct migration *m, const char *flag, struct error **ret_error)
{
        _cleanup_json_ json_t *json = record_json(m, m->record, m->record_epoch);

        if (!json || json_object_set_new(json, flag, json_true()) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot write the journal of migration %s", m->id);
        return journal_append(m->journal, json, ret_error);
}

void migration_set_phase(struct migration *m, enum migration_phase phase)
{
        if (m->n_history && m->phase == phase)
                return;
        m->phase = phase;
        if (m->n_history < MIGRATION_MAX_PHASES) {
                m->history[m->n_history].phase = phase;
                m->history[m->n_history++].started_ms = clock_now_ms(loop_clock(m->agent->loop));
        }
        migration_publish(m);
}

void migration_stop(struct migration *m, struct error *reason)
{
        _cleanup_error_ struct error *e = reason;

        if (m->settled)
                return;
        if (!m->stop_wanted)
                log_notice("migration %s of vm %s is to end: %s", m->id, m->vm_uid, error_message(e));
        m->stop_wanted = true;
        if (!m->stop_reason)
                m->stop_reason = TAKE_PTR(e);
        migration_network_end(m);
        migration_kick(m);
}

static int write_report(struct migration *m, struct error **ret_error)
{
        _cleanup_json_ json_t *line = record_json(m, m->record, m->record_epoch);

        if (!line || json_object_set_new(line, "settled", json_string(phase_names[m->phase])) < 0 ||
                (m->result && json_object_set(line, "result", m->result) < 0) ||
                (m->disks && !migration_disks_peer_may_ask(m) &&
                        json_object_set_new(line, "heard", json_true()) < 0) ||
                (m->disks && m->disks->stays && json_object_set_new(line, "stays", json_true()) < 0) ||
                (m->stop_reason && json_object_set_new(line, "error", error_to_json(m->stop_reason)) < 0))
                return error_from_errno(ret_error, ENOMEM, "cannot write the journal of migration %s", m->id);
        return journal_append(m->journal, line, ret_error);
}

static void on_report(void *userdata)
{
        struct migration *m = userdata;

        if (write_report(m, NULL) < 0)
                loop_source_rearm(m->report, TICK_MS);
        else
                loop_source_free(TAKE_PTR(m->report));
}

/* Without this line nothing is wrong, but an agent that starts again would ask the peer about all of it once more. */
static void report(struct migration *m)
{
        _cleanup_error_ struct error *e = NULL;

        if (write_report(m, &e) == 0)
                return;
        log_warning("migration %s of vm %s has settled, which is written down later: %s", m->id, m->vm_uid,
                error_message(e));
        if (loop_add_timer(m->agent->loop, TICK_MS, on_report, m, &m->report) < 0)
                log_warning("migration %s: no timer for that", m->id);
}

void migration_settle(struct migration *m, enum migration_phase phase)
{
        if (m->settled)
                return;
        m->settled = true;
        stop_timers(m);
        migration_network_end(m);
        migration_close_path(m);
        migration_set_phase(m, phase);
        report(m);
        if (migration_vm(m))
                vm_refresh(migration_vm(m)); /* what its QEMU did meanwhile was ours to judge; not any more */
        log_info("migration %s of vm %s: %s%s%s", m->id, m->vm_uid, phase_names[phase],
                m->stop_reason ? ": " : "", m->stop_reason ? error_message(m->stop_reason) : "");
        migration_publish(m);
        if (m->forget_wanted)
                migration_forget_when_settled(m);
}

static void on_step(void *userdata)
{
        struct migration *m = userdata;

        loop_source_free(TAKE_PTR(m->step));
        if (m->settled || m->hold)
                return;
        if (m->role == MIGRATION_SOURCE_SIDE)
                migration_source_step(m);
        else
                migration_destination_step(m);
}

void migration_kick(struct migration *m)
{
        if (m->settled || m->step)
                return;
        if (loop_add_defer(m->agent->loop, on_step, m, &m->step) < 0)
                log_warning("migration %s: out of memory, trying again at the next tick", m->id);
}

static void on_hold_over(void *userdata)
{
        struct migration *m = userdata;

        crash_hold_free(TAKE_PTR(m->hold));
        migration_kick(m);
}

bool migration_hold(struct migration *m, const char *point)
{
        char mark[48];

        if (m->hold)
                return true;
        snprintf(mark, sizeof(mark), ":%s:", point);
        if (strstr(m->passed_points, mark))
                return false;
        if (strlen(m->passed_points) + strlen(mark) < sizeof(m->passed_points))
                memcpy(m->passed_points + strlen(m->passed_points), mark, strlen(mark) + 1);
        crash_point(point);
        return crash_point_hold(m->agent->loop, point, on_hold_over, m, &m->hold);
}

static void path_ended(struct migration *m)
{
        m->path_alive = false;
        if (m->role == MIGRATION_SOURCE_SIDE)
                fd_closep(&m->source.qemu_fd);
}

void migration_close_path(struct migration *m)
{
        mover_process_free(TAKE_PTR(m->mover));
        path_ended(m);
}

static void on_left(void *userdata, struct error *failure _unused_)
{
        struct migration *m = userdata;

        mover_process_free(TAKE_PTR(m->leaving));
        if (!m->settled)
                migration_refresh_qemu(m);
}

void migration_abort_path(struct migration *m)
{
        const struct mover_process_handler handler = {.ended = on_left, .userdata = m};

        path_ended(m);
        if (!m->mover)
                return;
        (void)mover_process_send(m->mover,
                json_pack("{s:s, s:s}", "op", "abort", "reason",
                        m->stop_reason ? error_message(m->stop_reason) : "aborted"),
                NULL, 0, NULL);
        mover_process_let_end(m->mover, &handler);
        m->leaving = TAKE_PTR(m->mover);
}

void migration_take_stats(struct migration *m, const json_t *message)
{
        _cleanup_json_ json_t *stats = json_copy((json_t *)message);

        if (!stats)
                return;
        json_object_del(stats, "event");
        if (m->progress)
                json_object_update(m->progress, stats);
        else
                m->progress = json_incref(stats);
        migration_publish(m);
}

struct error *migration_mover_error(const json_t *message)
{
        enum error_code code = ERROR_MOVER_FAILED;
        const char *text = json_string_value(json_object_get(message, "message"));
        struct error *e = NULL;

        (void)error_code_from_string(json_string_value(json_object_get(message, "code")), &code);
        error_set(&e, code, NULL, "the data path failed: %s", text ?: "no reason given");
        return e;
}

bool migration_peer_fenced(const struct migration *m)
{
        return host_list_has(m->agent->fenced_hosts, m->peer_uid) ||
               host_list_has(m->agent->removed_hosts, m->peer_uid);
}

struct migration *migration_find_by_vm(struct agent *agent, const char *vm_uid)
{
        struct map_item *item, *spare;

        if (!agent->migrations)
                return NULL;
        map_for_each (item, spare, &agent->migrations->by_id) {
                struct migration *m = item->value;

                if (!m->settled && !m->detached && !strcmp(m->vm_uid, vm_uid))
                        return m;
        }
        return NULL;
}

void migration_end_earlier(struct agent *agent, const struct migration *newer)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &agent->migrations->by_id) {
                struct migration *m = item->value;
                struct error *e = NULL;

                if (m->settled || m->role != MIGRATION_DESTINATION_SIDE || m->record == HANDOFF_OWNER ||
                        strcmp(m->vm_uid, newer->vm_uid) != 0 || strcmp(m->peer_uid, newer->peer_uid) != 0 ||
                        newer->epoch < m->epoch)
                        continue;
                error_set(&e, ERROR_CANCELLED, NULL,
                        "the source began another migration of the virtual machine");
                m->destination.released = true;
                migration_stop(m, e);
        }
}

void migration_vm_leave_monitor(struct agent *agent, const struct vm *vm)
{
        struct map_item *item, *spare;

        if (!agent->migrations)
                return;
        map_for_each (item, spare, &agent->migrations->by_id) {
                struct migration *m = item->value;

                if (m->detached || strcmp(m->vm_uid, vm->uid))
                        continue;
                qmp_call_cancel(TAKE_PTR(m->refresh_call));
                m->refreshing = false;
                migration_disks_leave_monitor(m);
                if (m->role == MIGRATION_SOURCE_SIDE)
                        migration_source_leave_monitor(m);
        }
}

bool migration_vm_busy(struct agent *agent, const char *vm_uid)
{
        struct map_item *item, *spare;

        if (!agent->migrations)
                return false;
        map_for_each (item, spare, &agent->migrations->unreadable)
                if (!strcmp(item->value, vm_uid))
                        return true;
        return migration_find_by_vm(agent, vm_uid) != NULL;
}

bool migration_unreadable(struct agent *agent, const char *id)
{
        return agent->migrations && id && map_get(&agent->migrations->unreadable, id);
}

/* --- Recovery -------------------------------------------------------------------------------------------- */

static void restore_records(struct migration *m)
{
        size_t i;
        json_t *line;

        json_array_foreach ((json_t *)journal_records(m->journal), i, line) {
                const char *settled = json_string_value(json_object_get(line, "settled"));

                (void)handoff_record_from_string(
                        json_string_value(json_object_get(line, "record")), &m->record);
                if (m->role == MIGRATION_SOURCE_SIDE) {
                        m->source.lost |= json_is_true(json_object_get(line, "lost"));
                        m->source.completed |= json_is_true(json_object_get(line, "completed"));
                        if (m->disks)
                                m->disks->peer_removed |= json_is_true(json_object_get(line, "peer_removed"));
                        if (json_is_true(json_object_get(line, "held")))
                                m->source.post_copy = POST_COPY_STOPPING;
                } else {
                        m->destination.post_copy |= json_is_true(json_object_get(line, "post_copy"));
                        m->destination.arrived |= json_is_true(json_object_get(line, "arrived"));
                        m->destination.released |= json_is_true(json_object_get(line, "heard"));
                        if (m->disks)
                                m->disks->stays |= json_is_true(json_object_get(line, "stays"));
                }
                m->record_epoch = (uint64_t)json_integer_value(json_object_get(line, "epoch"));
                if (!settled)
                        continue;
                m->settled = true;
                for (size_t p = 0; p < N_MIGRATION_PHASES; p++)
                        if (!strcmp(phase_names[p], settled))
                                m->phase = (enum migration_phase)p;
                m->result = json_deep_copy(json_object_get(line, "result"));
                if (json_object_get(line, "error"))
                        m->stop_reason = error_from_json(json_object_get(line, "error"));
        }
}

static void note_unreadable(
        struct agent *agent, const char *id, const char *vm_uid, const struct error *error)
{
        char *uid = alloc_strdup(vm_uid);

        log_error("migration %s of vm %s: %s; the virtual machine cannot be used here until that is settled",
                id, vm_uid, error_message(error));
        if (!uid || map_put(&agent->migrations->unreadable, id, uid, NULL) < 0)
                free(uid);
}

/* After a restart: whether what bears the VM's uid here, if anything, is a later incarnation, begun when this migration only
 * waited for its peer. The runtime file has the epoch: e until the guest was taken over or had left. */
static bool vm_moved_on(const struct migration *m)
{
        const struct vm *vm = vm_find(m->agent, m->vm_uid);
        uint64_t epoch = vm ? vm->config->status.owner_epoch : 0;

        switch (m->record) {
        case HANDOFF_RELEASED:
                return vm && epoch != m->epoch;
        case HANDOFF_OWNER: /* in post-copy a guest that was taken over may miss some of its memory still */
                return vm && epoch > m->epoch + (m->destination.post_copy && !m->destination.arrived);
        case HANDOFF_ABANDONED: /* its QEMU was dead before the record was written */
                return true;
        default:
                return false;
        }
}

static void restore_side(struct migration *m)
{
        const struct vm *vm = migration_vm(m);
        enum vm_power power = vm ? vm_power(vm) : VM_POWER_STOPPED;

        m->path_alive = false;
        if (m->role == MIGRATION_SOURCE_SIDE) {
                m->source.stage = STAGE_RUNNING;
                m->source.commit_sent = true; /* not known: so it may have been */
                if (m->record == HANDOFF_HANDED_OFF)
                        m->source.path_failed_ms = clock_now_ms(loop_clock(m->agent->loop));
                migration_post_copy_restore(m);
                m->source.completed |= power == VM_POWER_OUTGOING_DONE && !migration_is_serving(m);
        } else {
                m->destination.may_have_run = m->record == HANDOFF_OWNER;
                m->destination.recovered = true;
                m->destination.made_vm = vm && (m->record == HANDOFF_OWNER || power == VM_POWER_INCOMING ||
                                                       power == VM_POWER_UNKNOWN);
        }
        if (vm_moved_on(m)) {
                m->qemu = HANDOFF_QEMU_GONE;
                m->detached = true;
        }
}

/* After a restart: movers are gone, memory is gone; what is durable and what QEMU says must do. */
static void recover_one(void *userdata, const char *id, const char *vm_uid)
{
        _cleanup_(migration_freep) struct migration *m = NULL;
        _cleanup_(journal_freep) struct journal *journal = NULL;
        _cleanup_error_ struct error *e = NULL;
        struct agent *agent = userdata;
        const json_t *first;

        if (journal_open(agent->migrations->folder, id, vm_uid, &journal, &e) < 0) {
                if (e && e->code == ERROR_NOT_FOUND)
                        (void)journal_remove(agent->migrations->folder, id, vm_uid); /* never begun */
                else
                        note_unreadable(agent, id, vm_uid, e);
                return;
        }
        first = json_array_get(journal_records(journal), 0);
        if (migration_new(agent, (enum migration_role)json_integer_value(json_object_get(first, "role")),
                    json_object_get(first, "spec"), &m, &e) < 0) {
                note_unreadable(agent, id, vm_uid, e);
                return;
        }
        m->journal = TAKE_PTR(journal);
        restore_records(m);
        restore_side(m);
        if (map_put(&agent->migrations->by_id, m->id, m, NULL) < 0 || (!m->settled && add_timers(m) < 0)) {
                map_remove(&agent->migrations->by_id, m->id);
                error_from_errno(&e, ENOMEM, "it cannot be recovered");
                note_unreadable(agent, id, vm_uid, e);
                return;
        }
        if (!m->settled) {
                log_notice("migration %s of vm %s: taken up after a restart, journal says %s", m->id,
                        m->vm_uid, handoff_record_to_string(m->record));
                if (m->record == HANDOFF_OUTGOING || m->record == HANDOFF_HANDED_OFF ||
                        m->record == HANDOFF_PREPARED) {
                        struct error *why = NULL;

                        error_set(&why, ERROR_MOVER_FAILED, "Start the migration again.",
                                "the agent was restarted during the migration");
                        if (m->record == HANDOFF_OUTGOING)
                                migration_stop(m, why);
                        else
                                m->stop_reason = why;
                }
                migration_refresh_qemu(m);
        }
        (void)TAKE_PTR(m);
}

static void on_discarded(void *userdata _unused_, struct error *error)
{
        if (error)
                log_warning("a guest that was left waiting for its migration could not be removed: %s",
                        error_message(error));
}

void migration_discard_orphan(struct agent *agent, struct vm *vm)
{
        if (vm_power(vm) == VM_POWER_INCOMING && !migration_vm_busy(agent, vm->uid))
                (void)vm_discard_incoming(vm, on_discarded, NULL, NULL);
}

int migration_recover_all(struct agent *agent)
{
        struct migrations *all = ALLOC(struct migrations);
        struct map_item *item, *spare;
        int r;

        if (!all)
                return -ENOMEM;
        map_init(&all->by_id);
        map_init(&all->unreadable);
        all->folder = alloc_printf("%s/migrations", agent->config.state_dir);
        agent->migrations = all;
        r = all->folder ? file_make_dirs(all->folder, 0700) : -ENOMEM;
        if (r == 0)
                r = journal_for_each(all->folder, recover_one, agent);
        if (r < 0)
                return r;
        map_for_each (item, spare, &agent->vms)
                migration_discard_orphan(agent, item->value);
        return 0;
}

void migration_free_all(struct agent *agent)
{
        struct map_item *item, *spare;

        if (!agent->migrations)
                return;
        map_for_each (item, spare, &agent->migrations->by_id)
                migration_free(item->value);
        map_deinit(&agent->migrations->by_id);
        map_for_each (item, spare, &agent->migrations->unreadable)
                free(item->value);
        map_deinit(&agent->migrations->unreadable);
        free(agent->migrations->folder);
        free(TAKE_PTR(agent->migrations));
}

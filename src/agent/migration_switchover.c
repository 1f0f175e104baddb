/* SPDX-License-Identifier: Apache-2.0 */

/* The final pauses of migrations that use one link must not meet: the manager permits them one after the other. The source asks when
 * the rest is about to fit into the pause, and keeps QEMU from stopping the guest until the manager has answered.
 *
 *      closed -> asked -> open -> (the guest stops)
 *        '---<----------<---'      the permit was over before: asked for again
 *
 * Who coordinates may go away at any time. Its word is good for so long only: an `asked` that hears nothing for `patience_ms` goes on
 * alone, and the record says so; the manager says "wait" as long as it lives. A permit ends by itself too, so
 * that a guest that does not come to its pause does not keep the link from others. An agent that starts again ends its
 * migrations, so nothing of this is durable here.
 *
 * QEMU from 8.1 on waits by itself (capability switchover-ack). Earlier ones stop the guest as soon as little enough is left, which
 * may be a moment after they began; they are held by next to no bandwidth (migration_hold_build()), from when EARLY_BYTES are left, so
 * that they cannot come to the end while the command is on its way. docs/decisions/0012. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/vm.h"
#include "base/doc.h"
#include "base/log.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"
#include "vmm/vm_config.h"

#define QMP_TIMEOUT_MS 10000
/* The permit is asked for so long before the rest fits into the pause: about two polls, and the way to the manager and back. */
#define AHEAD_MS 400
/* Zero pages go through QEMU at some GB/s, and it is looked at five times a second. */
#define EARLY_BYTES (UINT64_C(2) << 30)
/* A guest that is held while it changes more than this would have too much to send afterwards: where QEMU waits by itself, it
 * goes on copying instead. */
#define HOLD_MAX_DIRTY_BYTES_PER_S (1u << 20)
/* An answer that comes sooner is not worth it: a QEMU that is let go sleeps for up to 100 ms more. */
#define SPIN_MS 100
#define LITTLE_BYTES (1u << 20) /* is sent in no time, however fast the path is */
#define LIMIT_CLOSED_MS 1       /* for QEMU's downtime limit: see migration_params.c */
#define LIMIT_MAX_MS UINT64_C(2000000)
#define PATIENCE_MIN_MS 1000
#define PATIENCE_MAX_MS 600000
#define ALONE_MS 10000 /* without a word of the manager: as long as a permit, then it asks again */
#define PERMIT_MIN_MS 100
#define PERMIT_MAX_MS 600000

static struct switchover_gate *gate_of(struct migration *m)
{
        return &m->source.gate;
}

static uint64_t now_ms(const struct migration *m)
{
        return clock_now_ms(loop_clock(m->agent->loop));
}

int migration_switchover_init(struct migration *m, struct error **ret_error)
{
        static const char *const keys[] = {"patience_ms", NULL};
        json_t *wanted = NULL;
        int r = doc_opt_object(m->spec, "", "switchover", &wanted, ret_error);

        if (r < 0 || !wanted)
                return r;
        r = doc_only_keys(wanted, "switchover", keys, ret_error);
        if (r == 0)
                r = doc_need_u64(wanted, "switchover", "patience_ms", PATIENCE_MIN_MS, PATIENCE_MAX_MS,
                        &gate_of(m)->patience_ms, ret_error);
        /* Post-copy pauses the guest by itself, and does not ask (docs/decisions/0012). */
        if (r == 0 && !migration_post_copy_allowed(m))
                gate_of(m)->state = SWITCHOVER_CLOSED;
        return r;
}

void migration_switchover_deinit(struct migration *m)
{
        loop_source_free(TAKE_PTR(gate_of(m)->timer));
}

bool migration_switchover_wanted(const struct migration *m)
{
        return m->source.gate.state != SWITCHOVER_FREE;
}

/* --- QEMU ------------------------------------------------------------------------------------------------- */

static void set_parameters(struct migration *m, json_t *arguments)
{
        struct vm *vm = migration_vm(m);

        if (vm && vm->qmp)
                (void)qmp_command(vm->qmp, "migrate-set-parameters", arguments, -1, QMP_TIMEOUT_MS, NULL,
                        NULL, NULL, NULL);
        else
                json_decref(arguments);
}

static void set_limit(struct migration *m, uint64_t limit_ms)
{
        set_parameters(m,
                json_pack("{s:I}", "downtime-limit", (json_int_t)CLAMP(limit_ms, UINT64_C(1), LIMIT_MAX_MS)));
}

static void hold(struct migration *m, bool on)
{
        if (gate_of(m)->held == on)
                return;
        gate_of(m)->held = on;
        set_parameters(m, migration_hold_build(on));
}

/* QEMU, which waits by itself, may stop the guest. */
static void tell(struct migration *m)
{
        struct switchover_gate *gate = gate_of(m);

        if (gate->exact && !gate->told && m->mover)
                gate->told = mover_process_send(
                                     m->mover, json_pack("{s:s}", "op", "switchover"), NULL, 0, NULL) == 0;
}

static void let_go(struct migration *m)
{
        if (gate_of(m)->limit_ms)
                set_limit(m, gate_of(m)->limit_ms);
        hold(m, false);
}

/* --- Asking ----------------------------------------------------------------------------------------------- */

static void on_timer(void *userdata);

static void set_timer(struct migration *m, uint64_t delay_ms)
{
        struct switchover_gate *gate = gate_of(m);

        if (gate->timer)
                loop_source_rearm(gate->timer, delay_ms);
        else if (loop_add_timer(m->agent->loop, delay_ms, on_timer, m, &gate->timer) < 0)
                log_warning("migration %s: no timer for its switchover", m->id);
}

static void use_permit(struct migration *m);

static void leave_asked(struct migration *m, bool by_manager)
{
        struct switchover_gate *gate = gate_of(m);

        gate->waited_ms += now_ms(m) - gate->asked_ms;
        /* What was said of its progress is as old as the question, and what it did meanwhile was to wait. */
        json_object_del(m->progress, "converging");
        convergence_resume(&m->source.convergence, now_ms(m), gate->pass);
        gate->by_manager = by_manager;
        gate->state = SWITCHOVER_OPEN;
        if (!by_manager)
                set_timer(m, ALONE_MS);
        let_go(m);
        use_permit(m);
        migration_publish(m);
}

static void ask(struct migration *m)
{
        struct switchover_gate *gate = gate_of(m);

        migration_network_refresh(m);
        /* It comes again, at the latest with the next poll; unless what was found at once ends the migration. */
        if (migration_network_pending(m) || m->stop_wanted)
                return;
        gate->state = SWITCHOVER_ASKED;
        gate->asked_ms = now_ms(m);
        set_timer(m, gate->patience_ms);
        if (!gate->timer) { /* without a limit nobody waits */
                leave_asked(m, false);
                return;
        }
        migration_publish(m);
}

static bool is_near(const struct migration *m);

static void lapse(struct migration *m)
{
        struct switchover_gate *gate = gate_of(m);

        log_debug("migration %s: the guest did not come to its pause while that was permitted", m->id);
        gate->n_lapsed++;
        gate->state = SWITCHOVER_CLOSED;
        set_limit(m, LIMIT_CLOSED_MS);
        if (!gate->exact && is_near(m)) { /* not at the next look: it may stop the guest before */
                hold(m, true);
                ask(m);
        }
        migration_publish(m);
}

static void on_timer(void *userdata)
{
        struct migration *m = userdata;
        struct switchover_gate *gate = gate_of(m);

        if (m->settled || m->source.stopped_unix_us)
                return;
        if (gate->state == SWITCHOVER_ASKED) {
                log_warning(
                        "migration %s: nobody permits or forbids its switchover: it goes on alone", m->id);
                leave_asked(m, false);
        } else if (gate->state == SWITCHOVER_OPEN) {
                lapse(m);
        }
}

void migration_switchover_begin(struct migration *m)
{
        const struct vm *vm = migration_vm(m);
        struct switchover_gate *gate = gate_of(m);

        if (gate->state != SWITCHOVER_CLOSED)
                return;
        gate->exact = m->source.setup && migration_setup_holds(m->source.setup);
        gate->remaining_bytes = vm ? (uint64_t)vm->config->status.memory_effective_bytes : 0;
        gate->polled_ms = now_ms(m);
        if (gate->exact || gate->remaining_bytes > EARLY_BYTES)
                return;
        hold(m, true);
        ask(m);
}

/* How fast the rest gets less, pages without content included; the last value that is known. */
static void measure(struct migration *m, const struct migration_info *info)
{
        struct switchover_gate *gate = gate_of(m);
        uint64_t elapsed_ms = MAX(now_ms(m) - gate->polled_ms, UINT64_C(1)), rest = info->ram_remaining_bytes;
        uint64_t shrunk = gate->remaining_bytes > rest ? gate->remaining_bytes - rest : 0;
        uint64_t path = (uint64_t)json_integer_value(json_object_get(m->progress, "effective_bps")) / 8;
        uint64_t capacity = (uint64_t)json_integer_value(json_object_get(m->progress, "capacity_bps")) / 8;

        if (shrunk || path || capacity)
                gate->bytes_per_s = MAX(shrunk * 1000 / elapsed_ms, MAX(path, capacity));
        gate->threshold_bytes = (uint64_t)(info->mbps * 125 * (double)gate->limit_ms);
        gate->remaining_bytes = rest;
        gate->polled_ms = now_ms(m);
        if (info->dirty_sync_count != gate->pass) {
                gate->pass = info->dirty_sync_count;
                gate->pass_bytes = rest;
        }
}

/* Whether so much can be sent in the time that the pause may take, and a little before it; or QEMU would think so. */
static bool is_little(const struct migration *m, uint64_t bytes)
{
        double ms = (double)(m->source.convergence.max_pause_ms + AHEAD_MS);

        return bytes <= LITTLE_BYTES || bytes <= m->source.gate.threshold_bytes ||
               (double)bytes <= (double)m->source.gate.bytes_per_s * ms / 1000;
}

/* In the first pass what is left counts. Later on, what the pass began with: its end says nothing, for a guest that changes
 * more than fits begins the next one with as much. */
static bool is_near(const struct migration *m)
{
        const struct switchover_gate *gate = &m->source.gate;

        if (!migration_disks_fit(m))
                return false;
        if (!gate->exact && gate->remaining_bytes <= EARLY_BYTES)
                return true;
        return is_little(m, gate->pass > 1 ? gate->pass_bytes : gate->remaining_bytes);
}

/* Its word is not given before the pause is near: it cannot be taken back. A permit that comes to nothing is given back. */
static void use_permit(struct migration *m)
{
        struct switchover_gate *gate = gate_of(m);

        if (!gate->exact || gate->told || gate->pass <= 1)
                return;
        if (is_near(m))
                tell(m);
        else if (gate->by_manager)
                lapse(m);
}

bool migration_switchover_poll(struct migration *m, const struct migration_info *info)
{
        struct switchover_gate *gate = gate_of(m);
        bool calm = info->dirty_pages_per_s * info->page_size_bytes <= HOLD_MAX_DIRTY_BYTES_PER_S;

        if (gate->state == SWITCHOVER_FREE || info->status != MIGRATION_STATUS_ACTIVE ||
                m->record != HANDOFF_OUTGOING || m->stop_wanted || m->source.stopped_unix_us)
                return false;
        measure(m, info);
        if (gate->state == SWITCHOVER_CLOSED && is_near(m)) {
                if (!gate->exact)
                        hold(m, true);
                ask(m);
        }
        if ((gate->state == SWITCHOVER_CLOSED || gate->state == SWITCHOVER_OPEN) && !gate->exact &&
                m->disks) {
                /* It would stop the guest by itself, however much is left of the disks. */
                bool early = !migration_disks_fit(m) && gate->remaining_bytes <= EARLY_BYTES;

                if (early || gate->state == SWITCHOVER_OPEN || !is_near(m))
                        hold(m, early);
                if (early)
                        return true;
        }
        if (gate->state == SWITCHOVER_OPEN)
                use_permit(m);
        if (gate->state != SWITCHOVER_ASKED)
                return false;
        /* With little left, one that waits by itself goes round without rest (it looks for what changed in each turn). */
        if (gate->exact && now_ms(m) >= gate->asked_ms + SPIN_MS)
                hold(m, calm);
        return true;
}

/* Each pass is looked at as it begins, until QEMU may stop the guest. */
void migration_switchover_pass(struct migration *m)
{
        const struct switchover_gate *gate = gate_of(m);

        if (m->source.poll && (gate->state == SWITCHOVER_CLOSED ||
                                      (gate->state == SWITCHOVER_OPEN && gate->exact && !gate->told)))
                loop_source_rearm(m->source.poll, 0);
}

/* --- Answers ---------------------------------------------------------------------------------------------- */

int migration_switchover_answer(struct migration *m, const json_t *body, struct error **ret_error)
{
        static const char *const keys[] = {"permit", "ms", NULL};
        uint64_t ms = PERMIT_MIN_MS;
        bool permit = false;
        int r = doc_only_keys(body, "", keys, ret_error);

        if (r == 0)
                r = doc_opt_bool(body, "", "permit", &permit, ret_error);
        if (r == 0)
                r = permit ? doc_need_u64(body, "", "ms", PERMIT_MIN_MS, PERMIT_MAX_MS, &ms, ret_error) : 0;
        if (r < 0)
                return r;
        if (m->role != MIGRATION_SOURCE_SIDE || m->settled || m->stop_wanted || m->source.stopped_unix_us ||
                m->source.gate.state != SWITCHOVER_ASKED)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        "migration %s does not wait for its switchover to be permitted", m->id);
        if (permit)
                leave_asked(m, true);
        set_timer(m, permit ? ms : gate_of(m)->patience_ms);
        return 0;
}

void migration_switchover_limit(struct migration *m, uint64_t limit_ms)
{
        struct switchover_gate *gate = gate_of(m);

        gate->limit_ms = limit_ms;
        if (gate->state == SWITCHOVER_FREE || gate->state == SWITCHOVER_OPEN)
                set_limit(m, limit_ms);
}

void migration_switchover_stopped(struct migration *m)
{
        migration_arrival_stopped(m);
        loop_source_free(TAKE_PTR(gate_of(m)->timer));
        /* One that stopped by itself, as when it was shut down, is not held up any more. */
        if (gate_of(m)->state == SWITCHOVER_CLOSED || gate_of(m)->state == SWITCHOVER_ASKED)
                let_go(m);
        tell(m);
}

json_t *migration_switchover_document(const struct migration *m)
{
        static const char *const states[] = {
                [SWITCHOVER_CLOSED] = "closed", [SWITCHOVER_ASKED] = "asked", [SWITCHOVER_OPEN] = "open"};
        const struct switchover_gate *gate = &m->source.gate;

        if (m->role != MIGRATION_SOURCE_SIDE || gate->state == SWITCHOVER_FREE)
                return NULL;
        return json_pack("{s:s, s:s, s:I, s:i}", "state", states[gate->state], "permit",
                gate->state != SWITCHOVER_OPEN ? "none"
                : gate->by_manager             ? "manager"
                                               : "alone",
                "waited_ms", (json_int_t)gate->waited_ms, "lapsed", (int)gate->n_lapsed);
}

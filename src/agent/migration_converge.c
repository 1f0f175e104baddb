/* SPDX-License-Identifier: Apache-2.0 */

/* Carries out what convergence.c decides: the bound on the pause is the mover's matter, the throttle QEMU's. */

#include "agent/agent.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/vm.h"
#include "base/doc.h"
#include "base/log.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"
#include "vmm/vm_config.h"

#define QMP_TIMEOUT_MS 10000

int migration_converge_init(struct migration *m, struct error **ret_error)
{
        uint64_t max_pause_ms = migration_spec_u64(m, "max_pause_ms", MIGRATION_DEFAULT_MAX_PAUSE_MS);
        struct converge_policy policy;
        int r = converge_policy_read(m->spec, max_pause_ms, &policy, ret_error);

        if (r == 0)
                convergence_init(&m->source.convergence, &policy, max_pause_ms,
                        clock_now_ms(loop_clock(m->agent->loop)));
        return r;
}

static void offer_pause(struct migration *m)
{
        (void)mover_process_send(m->mover,
                json_pack("{s:s, s:I, s:b}", "op", "limits", "max_pause_ms",
                        (json_int_t)m->source.convergence.max_pause_ms, "whole_pause", true),
                NULL, 0, NULL); /* `ended` tells if it is gone */
}

/* From now on every pass that dirties anything slows the guest down, in large steps. QEMU takes the throttle away by itself
 * at the end. */
static void throttle(struct migration *m, struct vm *vm)
{
        unsigned int max_percent = m->source.convergence.policy.max_throttle_percent;

        if (vm && vm->qmp)
                (void)qmp_command(vm->qmp, "migrate-set-parameters", migration_throttle_build(max_percent),
                        -1, QMP_TIMEOUT_MS, NULL, NULL, NULL, NULL);
}

static void say(const struct migration *m, const struct vm *vm)
{
        const struct convergence *c = &m->source.convergence;
        const struct convergence_entry *e = c->n_entries ? &c->entries[c->n_entries - 1] : NULL;

        if (e)
                log_notice(
                        "migration %s: VM %s changes its memory faster than it can be sent: %s (%s), pause "
                        "of up to %llu ms, throttle %u %%",
                        m->id, vm ? vm->name : m->vm_uid, converge_step_to_string(e->step), e->why,
                        (unsigned long long)e->max_pause_ms, e->throttle_percent);
}

void migration_converge_poll(struct migration *m, const struct migration_info *info)
{
        struct convergence *c = &m->source.convergence;
        const struct convergence_status status = {
                .now_ms = clock_now_ms(loop_clock(m->agent->loop)),
                .pass = info->dirty_sync_count,
                .remaining_bytes = info->ram_remaining_bytes,
                .dirty_bytes_per_s = info->dirty_pages_per_s * info->page_size_bytes,
                .path_bytes_per_s =
                        (uint64_t)json_integer_value(json_object_get(m->progress, "effective_bps")) / 8,
                .throttle_percent = info->cpu_throttle_percent,
                .progress = !json_is_false(json_object_get(m->progress, "converging")),
        };
        struct vm *vm = migration_vm(m);
        size_t n_entries = c->n_entries;

        if (info->status != MIGRATION_STATUS_ACTIVE || m->record != HANDOFF_OUTGOING || m->stop_wanted ||
                m->source.stopped_unix_us || !m->mover)
                return;
        switch (convergence_update(c, &status)) {
        case CONVERGENCE_GO_ON:
                break;
        case CONVERGENCE_WAIT:
        case CONVERGENCE_SET_PAUSE:
                offer_pause(m);
                break;
        case CONVERGENCE_THROTTLE:
                throttle(m, vm);
                break;
        case CONVERGENCE_POST_COPY:
                migration_post_copy_begin(m, &status);
                break;
        case CONVERGENCE_GIVE_UP:
                migration_stop(m, convergence_error(c, &status));
        }
        if (c->n_entries == n_entries)
                return;
        say(m, vm);
        json_object_set_new(m->progress, "convergence", convergence_record(c));
}

void migration_converge_result(const struct migration *m, json_t *result)
{
        const struct convergence *c = &m->source.convergence;

        json_object_set_new(result, "converged_by", json_string(convergence_by(c)));
        migration_post_copy_result(m, result);
        json_object_set_new(result, "convergence", convergence_record(c));
        json_object_set_new(result, "max_pause_ms", json_integer((json_int_t)c->max_pause_ms));
        json_object_set_new(result, "throttle_percent", json_integer((json_int_t)c->throttle_percent));
}

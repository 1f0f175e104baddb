/* SPDX-License-Identifier: Apache-2.0 */

/* How the source's side of a migration ends, once handoff.c has decided: it takes the VM back and continues its guest, or lets go of it, and tells
 * its peer. */

#include <string.h>

#include "agent/agent.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/owner_record.h"
#include "agent/vm.h"
#include "base/log.h"
#include "fabric/gap_meter.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
#define KEEP_LIMIT_MS 120000 /* for writing the guest's memory to a file, once it has left */

static void end_served(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        migration_post_copy_say_lost(m);
        if (vm && vm_end_lost(vm, error_message(m->stop_reason), &e) < 0)
                log_error("%s", error_message(e));
        error_free(e);
}

static void on_continued(void *userdata, struct error *error)
{
        struct migration *m = userdata;

        m->n_pending--;
        m->source.continuing = false;
        if (error && error->code == ERROR_QEMU_FAILED && m->qemu == HANDOFF_QEMU_SERVING) {
                end_served(m); /* QEMU cannot go back */
        } else if (error) {
                log_error("vm %s is this host's again but does not continue: %s", m->vm_uid,
                        error_message(error));
                migration_refused(m);
        } else {
                m->source.post_copy = POST_COPY_NONE;
                m->qemu = HANDOFF_QEMU_RUNNING;
        }
        migration_refresh_qemu(m);
}

/* Another host has the VM: what is paused here may not run again. */
static void lose(struct migration *m, const struct error *error)
{
        struct error *reason = NULL;

        error_set(&reason, error->code, error->hint, "the source keeps its copy of the guest stopped: %s",
                error_message(error));
        error_free(m->stop_reason);
        m->stop_reason = reason;
        m->source.lost = true;
}

static void on_reclaimed(void *userdata, uint64_t epoch _unused_, struct error *error)
{
        struct migration *m = userdata;
        bool abandoned =
                m->source.result_abandoned || (m->peer.answered && m->peer.record == HANDOFF_ABANDONED);
        bool needs_proof = m->record != HANDOFF_TAKEN_BACK && !abandoned;
        bool stopped = m->qemu == HANDOFF_QEMU_COMPLETED || m->qemu == HANDOFF_QEMU_HELD ||
                       m->qemu == HANDOFF_QEMU_SERVING;
        bool committed = m->qemu == HANDOFF_QEMU_COMPLETED || m->qemu == HANDOFF_QEMU_SERVING;

        m->claim = NULL;
        if (error)
                log_error("migration %s of vm %s: %s", m->id, m->vm_uid, error_message(error));
        if (error && error->code == ERROR_STALE_EPOCH &&
                (stopped || (m->disks && m->qemu == HANDOFF_QEMU_GONE)))
                lose(m, error);
        else if (error && needs_proof && committed)
                migration_refused(m); /* without the record nothing says that the VM is ours */
        else
                m->claimed = true; /* the destination's word is enough: the record may be behind */
        migration_kick(m);
}

static void reclaim(struct migration *m, struct vm *vm, uint64_t known_epoch)
{
        struct error *e = NULL;

        if (m->claim)
                return;
        if (owner_record_take(vm, known_epoch, m->epoch + 2, on_reclaimed, m, &m->claim, &e) < 0)
                on_reclaimed(m, 0, e);
        error_free(e);
}

/* known_epoch: the latest that the owner record may have, for the VM to be ours to take. */
void migration_source_take_back(struct migration *m, uint64_t known_epoch)
{
        struct vm *vm = migration_vm(m);
        uint64_t epoch = m->epoch + 2;
        struct error *e = NULL;

        if (m->source.continuing || migration_must_wait(m))
                return;
        migration_set_phase(m, MIGRATION_SETTLING);
        migration_close_path(m);
        if (vm && (vm_has_qemu(vm) || m->disks) &&
                !m->claimed) /* who starts it from its disks goes by the record */
                return reclaim(m, vm, known_epoch);
        if (m->record != HANDOFF_TAKEN_BACK && migration_set_record(m, HANDOFF_TAKEN_BACK, epoch, &e) < 0) {
                log_error("%s", error_message(e));
                error_free(e);
                return;
        }
        if (vm && vm_set_epoch(vm, epoch, &e) < 0) {
                log_warning("%s", error_message(e));
                error_free(TAKE_PTR(e));
        }
        if (!vm || !vm_has_qemu(vm)) {
                m->qemu = HANDOFF_QEMU_GONE;
                return migration_kick(m);
        }
        if (m->qemu == HANDOFF_QEMU_SERVING && m->source.said_lost)
                return end_served(m);
        /* It refuses, unless it never got so far; and shall not get there now. */
        if (m->qemu == HANDOFF_QEMU_SERVING && vm->qmp)
                (void)qmp_command(
                        vm->qmp, "migrate_cancel", NULL, -1, QMP_TIMEOUT_MS, NULL, NULL, NULL, NULL);
        if (m->qemu != HANDOFF_QEMU_COMPLETED && m->qemu != HANDOFF_QEMU_HELD &&
                m->qemu != HANDOFF_QEMU_SERVING)
                return migration_kick(m);
        if (vm_continue(vm, on_continued, m, &e) == 0) {
                m->n_pending++;
                m->source.continuing = true;
        }
        error_free(e);
}

static void on_released(void *userdata, struct error *error)
{
        struct migration *m = userdata;

        m->n_pending--;
        m->source.continuing = false;
        if (error)
                log_error("vm %s has left, but its QEMU here does not end: %s", m->vm_uid,
                        error_message(error));
        else
                m->qemu = HANDOFF_QEMU_GONE;
        migration_kick(m);
}

static void on_keeping_too_long(void *userdata)
{
        struct migration *m = userdata;

        log_notice("migration %s: keeping the guest's memory takes too long", m->id);
        migration_source_end_keeping(m, false);
        if (m->mover)
                mover_process_kill(m->mover);
        migration_kick(m);
}

/* The mover still writes the guest's memory to a file, out of its QEMU. Its end comes back here. */
static bool still_keeping(struct migration *m)
{
        if (!m->source.keeping || !m->mover || !m->source.result_running)
                return false;
        if (!m->source.keep_limit && loop_add_timer(m->agent->loop, KEEP_LIMIT_MS, on_keeping_too_long, m,
                                             &m->source.keep_limit) < 0)
                mover_process_kill(m->mover);
        return true;
}

void migration_source_release(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->source.continuing)
                return;
        if (m->record != HANDOFF_RELEASED) {
                m->source.resumed_ms = clock_now_ms(loop_clock(m->agent->loop));
                if (migration_hold(m, "source-done"))
                        return;
                if (migration_set_record(m, HANDOFF_RELEASED, m->epoch + 1, &e) < 0) {
                        log_error("%s", error_message(e));
                        error_free(e);
                        return;
                }
                migration_set_phase(m, MIGRATION_SETTLING);
                m->ask_not_before_ms = 0;
        }
        checkpoints_set_keys(m->agent->checkpoints, m->vm_uid, NULL); /* they are where the guest is now */
        if (still_keeping(m))
                return;
        if (!vm) {
                m->qemu = HANDOFF_QEMU_GONE;
                return migration_kick(m);
        }
        if (vm_release(vm, on_released, m, &e) == 0) {
                m->n_pending++;
                m->source.continuing = true;
        }
        error_free(e);
}

void migration_source_end_lost_copy(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->record == HANDOFF_HANDED_OFF)
                return migration_source_release(m);
        if (m->source.continuing || !vm)
                return;
        if (vm_release(vm, on_released, m, &e) == 0) {
                m->n_pending++;
                m->source.continuing = true;
        }
        error_free(e);
}

/* The guest runs here (or ended here). The destination is told; should that not reach it, it asks by itself. */
void migration_source_fail(struct migration *m)
{
        struct vm *vm = migration_vm(m);

        migration_source_end_keeping(m, false);
        explicit_bzero(m->source.checkpoint_key, sizeof(m->source.checkpoint_key));
        gap_meter_free(TAKE_PTR(m->source.gap)); /* nobody asks a guest that stays */
        if (migration_is_serving(m) && m->record == HANDOFF_TAKEN_BACK && m->qemu == HANDOFF_QEMU_GONE)
                migration_post_copy_say_lost(m);
        if (m->mover || m->path_alive)
                migration_close_path(m);
        if (!migration_disks_undone(m))
                return;
        if (!m->peer.answered || (m->peer.record != HANDOFF_ABANDONED && m->peer.record != HANDOFF_NONE)) {
                migration_set_phase(m, MIGRATION_SETTLING);
                if (m->ask_delay_ms < 1000)
                        return migration_peer_ask(
                                m, true); /* a few tries; it comes again with the answer or the tick */
        }
        if (m->source.setup && vm && vm->qmp)
                (void)migration_setup_restore(m->source.setup, NULL, NULL, NULL);
        if (vm && vm_power(vm) == VM_POWER_RUNNING && m->source.stopped_unix_us)
                vm_announce(vm);
        if (vm)
                vm_set_ended(vm, "QEMU ended while the virtual machine was being handed over; it is "
                                 "this host's");
        migration_source_close_connections(m); /* the setup stays until its settings are back */
        loop_source_free(TAKE_PTR(m->source.poll));
        migration_settle(m, m->cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
}

void migration_source_finish(struct migration *m)
{
        migration_detach(m);
        if (!migration_post_copy_outcome_known(m))
                return;
        if (!m->source.notified && !migration_peer_fenced(m))
                return migration_peer_notify_released(m);
        if (m->source.lost) {
                migration_source_deinit(m);
                return migration_settle(m, MIGRATION_FAILED);
        }
        if (migration_arrival_pending(m))
                return migration_peer_ask(m, false);
        error_free(TAKE_PTR(m->stop_reason)); /* what came too late to matter */
        migration_source_close_connections(m);
        migration_build_result(m);
        migration_source_deinit(m);
        migration_settle(m, MIGRATION_DONE);
}

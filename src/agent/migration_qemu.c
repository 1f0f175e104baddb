/* SPDX-License-Identifier: Apache-2.0 */

/* What QEMU says of itself, and what is made of it: m->qemu. */

#include <string.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/migration_state.h"
#include "agent/vm.h"
#include "vmm/migration_params.h"
#include "vmm/qmp.h"

#define SOON_MS 10            /* for what takes a moment */
#define QUERY_TIMEOUT_MS 5000 /* QMP is silent while QEMU writes its final phase */

/* `status` was asked before `run_state`: whatever happens in between, a guest that completed is never taken for one that
 * resumed. */
static enum handoff_qemu source_state(
        const struct migration *m, enum migration_status status, const char *run_state)
{
        if (!strcmp(run_state, "postmigrate"))
                return HANDOFF_QEMU_COMPLETED;
        if (m->qemu == HANDOFF_QEMU_COMPLETED && m->record == HANDOFF_HANDED_OFF)
                return HANDOFF_QEMU_COMPLETED; /* only we could have continued it */
        if (migration_is_serving(m))           /* the same, once it was taken back */
                return m->record == HANDOFF_TAKEN_BACK && !strcmp(run_state, "running")
                               ? HANDOFF_QEMU_RUNNING
                               : HANDOFF_QEMU_SERVING;
        if (status ==
                MIGRATION_STATUS_COMPLETED) /* of the incoming migration that once brought the guest here */
                return m->record == HANDOFF_HANDED_OFF ? HANDOFF_QEMU_UNKNOWN : HANDOFF_QEMU_RUNNING;
        if (status != MIGRATION_STATUS_NONE && !migration_status_is_final(status))
                return HANDOFF_QEMU_MIGRATING;
        if (!strcmp(run_state, "finish-migrate"))
                return HANDOFF_QEMU_MIGRATING;
        return strcmp(run_state, "running") ? migration_post_copy_state(m, HANDOFF_QEMU_RUNNING)
                                            : HANDOFF_QEMU_RUNNING;
}

static enum handoff_qemu destination_state(
        const struct migration *m, enum migration_status status, const char *run_state)
{
        if (!strcmp(run_state, "running"))
                return HANDOFF_QEMU_RUNNING;
        if (m->qemu == HANDOFF_QEMU_LOADED) /* the event was faster than this answer */
                return HANDOFF_QEMU_LOADED;
        if (status == MIGRATION_STATUS_POSTCOPY && strcmp(run_state, "inmigrate"))
                return HANDOFF_QEMU_LOADED;
        return status == MIGRATION_STATUS_COMPLETED && strcmp(run_state, "inmigrate") ? HANDOFF_QEMU_LOADED
                                                                                      : HANDOFF_QEMU_LOADING;
}

static void on_refresh_status(void *userdata, const json_t *result, const struct error *error)
{
        struct migration *m = userdata;
        const char *run_state = json_string_value(json_object_get(result, "status"));

        m->refresh_call = NULL;
        m->refreshing = false;
        if (error || !run_state)
                return;
        m->qemu = m->role == MIGRATION_SOURCE_SIDE ? source_state(m, m->refresh_status, run_state)
                                                   : destination_state(m, m->refresh_status, run_state);
        if (m->role == MIGRATION_SOURCE_SIDE && m->qemu == HANDOFF_QEMU_COMPLETED)
                m->source.completed = true;
        /* In post-copy COMMIT is here before QEMU has said that it is ready to run the guest, which it is in a moment. */
        if (m->role == MIGRATION_DESTINATION_SIDE && m->destination.post_copy && m->destination.commit_read &&
                m->qemu == HANDOFF_QEMU_LOADING && m->tick)
                loop_source_rearm(m->tick, SOON_MS);
        migration_kick(m);
}

static void on_refresh_migrate(void *userdata, const json_t *result, const struct error *error)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        struct migration *m = userdata;
        struct vm *vm = migration_vm(m);

        m->refresh_call = NULL;
        m->refreshing = false;
        if (error || !vm || !vm->qmp || migration_info_parse(result, &info, NULL) < 0)
                return;
        m->refresh_status = info.status;
        if (m->role == MIGRATION_DESTINATION_SIDE) {
                m->destination.post_copy |= info.status == MIGRATION_STATUS_POSTCOPY;
                if (info.status == MIGRATION_STATUS_COMPLETED)
                        migration_destination_arrived(m);
        }
        if (qmp_command(vm->qmp, "query-status", NULL, -1, QUERY_TIMEOUT_MS, on_refresh_status, m,
                    &m->refresh_call, NULL) == 0)
                m->refreshing = true;
}

void migration_refresh_qemu(struct migration *m)
{
        struct vm *vm = migration_vm(m);

        if (m->detached || (m->role == MIGRATION_DESTINATION_SIDE && m->destination.starting))
                return;
        if (!vm || !vm_has_qemu(vm) || (m->role == MIGRATION_DESTINATION_SIDE && !m->destination.made_vm)) {
                m->qemu = HANDOFF_QEMU_GONE;
                migration_kick(m);
                return;
        }
        if (m->refreshing || !vm->qmp)
                return;
        if (qmp_command(vm->qmp, "query-migrate", NULL, -1, QUERY_TIMEOUT_MS, on_refresh_migrate, m,
                    &m->refresh_call, NULL) == 0)
                m->refreshing = true;
}

void migration_vm_event(
        struct agent *agent, struct vm *vm, const char *event, const json_t *data, int64_t unix_us)
{
        struct migration *m = migration_find_by_vm(agent, vm->uid);

        if (!m)
                return;
        if (m->role == MIGRATION_SOURCE_SIDE)
                migration_source_event(m, event, data, unix_us);
        else
                migration_destination_event(m, event, data, unix_us);
        migration_kick(m);
}

void migration_vm_gone(struct agent *agent, struct vm *vm)
{
        struct migration *m = migration_find_by_vm(agent, vm->uid);

        if (!m)
                return;
        qmp_call_cancel(TAKE_PTR(m->refresh_call));
        m->refreshing = false;
        m->qemu = HANDOFF_QEMU_GONE;
        if (m->record == HANDOFF_OUTGOING || m->record == HANDOFF_PREPARED ||
                (m->record == HANDOFF_HANDED_OFF && !m->source.completed)) {
                struct error *e = NULL;
                char words[512];

                error_set(&e, vm->guest_shutdown ? ERROR_CONFLICT : ERROR_QEMU_DIED, NULL,
                        vm->guest_shutdown ? "the guest shut itself down during the migration%s"
                                           : "QEMU ended during the migration: %s",
                        vm->guest_shutdown ? "" : vm_last_words(vm, words));
                migration_stop(m, e);
        }
        migration_kick(m);
}

static void on_orphan_status(void *userdata, const json_t *result, const struct error *error)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        struct vm *vm = userdata;

        if (!error && migration_info_parse(result, &info, NULL) == 0 &&
                info.status == MIGRATION_STATUS_POSTCOPY && !migration_vm_busy(vm->agent, vm->uid))
                (void)vm_end_lost(vm,
                        "the guest was ended: it is in post-copy, and nothing is known here of its migration",
                        NULL);
}

void migration_vm_connected(struct agent *agent, struct vm *vm)
{
        struct migration *m = migration_find_by_vm(agent, vm->uid);

        if (m)
                return migration_refresh_qemu(m);
        /* A journal that was lost cannot say that the guest's memory still came: then the rest never comes. */
        if (!migration_vm_busy(agent, vm->uid))
                (void)qmp_command(vm->qmp, "query-migrate", NULL, -1, QUERY_TIMEOUT_MS, on_orphan_status, vm,
                        NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The source of disks that travel along. QEMU mirrors them to the mover before it is told to migrate, and goes on while memory is copied. It stops
 * the guest at the end (pause-before-switchover) and waits; the mirrors are ended, which copies the rest, and QEMU goes on to its
 * device state. What resumes the guest after that makes the copies out of date, and COMMIT impossible. */

#include "agent/migration_disks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/mover_process.h"
#include "agent/owner_record.h"
#include "agent/stores.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "storage/move_record.h"
#include "vmm/qmp.h"
#include "vmm/vm_config.h"

#define QMP_TIMEOUT_MS 10000
/* Beyond the bound on the pause, for what is left to copy once the guest is stopped. */
#define SPARE_MS 2000
/* For QEMU to end what goes nowhere any more. Then the VM is its owner's again; jobs that are left keep others from its disks. */
#define UNDO_LIMIT_MS 60000

static json_t *disks_of(const json_t *vm)
{
        return json_object_get(json_object_get(vm, "spec"), "disks");
}

static int take_indexes(struct migration *m, struct error **ret_error)
{
        struct migration_disks *d = m->disks;
        json_t *disk;
        size_t i;

        json_array_foreach (disks_of(json_object_get(m->spec, "vm")), i, disk) {
                if (json_is_true(json_object_get(disk, "read_only")))
                        continue;
                if (d->n == WIRE_MAX_DISKS)
                        return error_set(ret_error, ERROR_NOT_SUPPORTED, NULL,
                                "at most %d disks can travel along with a migration", WIRE_MAX_DISKS);
                d->indexes[d->n++] = i;
        }
        return d->n > 0 ? 0
                        : error_set(ret_error, ERROR_NOT_SUPPORTED, NULL,
                                  "the virtual machine has no disk that could travel along");
}

int migration_disks_init(struct migration *m, struct error **ret_error)
{
        static const char *const keys[] = {"datastore", NULL};
        json_t *wanted = NULL;
        int r = doc_opt_object(m->spec, "", "disks", &wanted, ret_error);

        if (r < 0 || !wanted)
                return r;
        m->disks = ALLOC(struct migration_disks);
        if (!m->disks)
                return error_from_errno(ret_error, ENOMEM, "cannot begin a migration");
        r = doc_only_keys(wanted, "disks", keys, ret_error);
        if (r == 0)
                r = doc_need_string(
                        wanted, "disks", "datastore", NAME_MAX_CHARS, &m->disks->datastore, ret_error);
        if (r == 0 && migration_post_copy_allowed(m))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Leave post-copy out of --converge.",
                        "there is no post-copy of disks");
        return r == 0 ? take_indexes(m, ret_error) : r;
}

int migration_disks_refused(const struct migration *m, struct error **ret_error)
{
        if (!m->disks || !strcmp(m->agent->config.disks_along, "yes"))
                return 0;
        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                "Take disks-along = no out of drover-agent.conf there.",
                "host %s takes no part in migrations that take disks along", m->agent->config.name);
}

void migration_disks_free(struct migration *m)
{
        struct migration_disks *d = TAKE_PTR(m->disks);

        if (!d)
                return;
        disk_mirrors_free(d->mirrors);
        owner_record_change_free(d->give);
        loop_source_free(d->limit);
        qmp_call_cancel(d->call);
        stores_wait_free(d->wait);
        offload_free(d->offload);
        image_job_free(d->image);
        disk_exports_free(d->exports);
        json_decref(d->document);
        free(d);
}

void migration_disks_leave_monitor(struct migration *m)
{
        if (!m->disks)
                return;
        qmp_call_cancel(TAKE_PTR(m->disks->call));
        if (m->disks->mirrors)
                disk_mirrors_leave_monitor(m->disks->mirrors);
        if (m->disks->exports)
                disk_exports_leave_monitor(m->disks->exports);
}

json_t *migration_disks_start(const struct migration *m)
{
        const struct migration_disks *d = m->disks;
        json_t *list = d ? json_array() : NULL;

        for (size_t i = 0; list && i < d->n; i++) {
                uint64_t size =
                        m->role == MIGRATION_SOURCE_SIDE ? disk_mirrors_size(d->mirrors, i) : d->sizes[i];
                char name[DISK_EXPORT_NAME_SIZE];

                (void)json_array_append_new(list, json_pack("{s:I, s:s}", "size_bytes", (json_int_t)size,
                                                          "export", disk_export_name(d->indexes[i], name)));
        }
        return list;
}

/* As a storage migration of this id would name them: nobody else makes such names. */
json_t *migration_disks_document(const struct migration *m)
{
        _cleanup_json_ json_t *document = json_deep_copy(json_object_get(m->spec, "vm"));
        const char *vm_name = json_string_value(json_object_get(document, "name"));
        int r = vm_name ? json_object_set_new(json_object_get(document, "spec"), "datastore",
                                  json_string(m->disks->datastore))
                        : -1;

        for (size_t i = 0; r == 0 && i < m->disks->n; i++) {
                json_t *disk = json_array_get(disks_of(document), m->disks->indexes[i]);
                const char *format = json_string_value(json_object_get(disk, "format")) ?: "";
                char name[32];
                _cleanup_free_ char *path = NULL;

                snprintf(name, sizeof(name), "disk%zu", m->disks->indexes[i]);
                path = move_record_path(vm_name, json_string_value(json_object_get(disk, "name")) ?: name,
                        m->id, strcmp(format, "raw") ? IMAGE_QCOW2 : IMAGE_RAW);
                r = !path || json_object_set_new(disk, "datastore", json_string(m->disks->datastore)) < 0 ||
                                    json_object_set_new(disk, "path", json_string(path)) < 0
                            ? -1
                            : 0;
        }
        return r == 0 ? TAKE_PTR(document) : NULL;
}

/* --- Stages -------------------------------------------------------------------------------------------------- */

static bool give_to_mover(void *userdata, size_t number, int fd)
{
        struct migration *m = userdata;

        return m->mover &&
               mover_process_send(m->mover, json_pack("{s:s, s:i}", "op", "disk", "disk", (int)number), &fd,
                       1, NULL) == 0;
}

static struct error *copy_of(const struct error *error)
{
        struct error *copy = NULL;

        error_set(&copy, error ? error->code : ERROR_NO_MEMORY, error ? error->hint : NULL, "%s",
                error_message(error));
        return copy;
}

static void on_continue(void *userdata, const json_t *result, const struct error *error)
{
        struct migration *m = userdata;

        m->disks->call = NULL;
        if (error)
                migration_stop(m, copy_of(error));
}

/* Both are alike now, and stay so until QEMU is told. */
static void go_on(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        loop_source_free(TAKE_PTR(m->disks->limit));
        if (m->disks->continued || m->stop_wanted || migration_hold(m, "source-mirrored"))
                return;
        m->disks->continued = true;
        if (!vm || !vm->qmp)
                error_set(&e, ERROR_QEMU_FAILED, NULL, "the monitor of QEMU at the source does not answer");
        else
                (void)qmp_command(vm->qmp, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"),
                        -1, QMP_TIMEOUT_MS, on_continue, m, &m->disks->call, &e);
        if (e)
                migration_stop(m, e);
}

void migration_disks_step(struct migration *m)
{
        enum disk_mirrors_state state;

        if (!m->disks || !m->disks->mirrors || m->stop_wanted)
                return;
        state = disk_mirrors_state(m->disks->mirrors);
        if ((m->source.stage == STAGE_DISKS && state == DISK_MIRRORS_KNOWN) ||
                (m->source.stage == STAGE_MIRROR && state == DISK_MIRRORS_READY &&
                        !migration_hold(m, "source-mirroring")))
                migration_source_next_stage(m);
        else if (m->source.stage == STAGE_RUNNING && state == DISK_MIRRORS_ENDED)
                go_on(m);
}

static void on_mirrors_changed(void *userdata)
{
        struct migration *m = userdata;

        if (disk_mirrors_state(m->disks->mirrors) == DISK_MIRRORS_FAILED) {
                m->source.stage_busy &= m->source.stage == STAGE_RUNNING;
                migration_stop(m, copy_of(disk_mirrors_error(m->disks->mirrors)));
        }
        migration_kick(m);
}

static int make_mirrors(struct migration *m)
{
        const struct disk_mirrors_handler handler = {give_to_mover, on_mirrors_changed, m};

        return disk_mirrors_new(
                m->agent, m->vm_uid, m->id, m->disks->indexes, m->disks->n, &handler, &m->disks->mirrors);
}

void migration_disks_look(struct migration *m)
{
        if (!m->disks)
                return migration_source_next_stage(m);
        if (make_mirrors(m) < 0)
                return migration_stop(m, NULL);
        m->source.stage_busy = true;
        disk_mirrors_look(m->disks->mirrors);
}

void migration_disks_mirror(struct migration *m)
{
        struct converge_policy policy;

        if (!m->disks)
                return migration_source_next_stage(m);
        m->source.stage_busy = true;
        migration_set_phase(m, MIGRATION_COPYING);
        policy = converge_policy_without(&m->source.convergence.policy, CONVERGE_THROTTLE);
        disk_mirrors_begin(m->disks->mirrors, &policy, m->source.convergence.max_pause_ms);
}

json_t *migration_disks_from(const struct migration *m)
{
        _cleanup_json_ json_t *sizes = json_array(), *used = json_array();
        const struct vm *vm = migration_vm(m);
        const struct datastore *store;

        if (!m->disks || !vm || stores_get(m->agent->stores, vm->config->datastore, &store, NULL) < 0)
                return NULL;
        for (size_t i = 0; i < m->disks->n; i++)
                if (json_array_append_new(
                            sizes, json_integer((json_int_t)disk_mirrors_size(m->disks->mirrors, i))) < 0 ||
                        json_array_append_new(
                                used, json_integer((json_int_t)disk_mirrors_used(m->disks->mirrors, i))) < 0)
                        return NULL;
        return json_pack("{s:s, s:O, s:O}", "left_store", store->id, "sizes", sizes, "used", used);
}

bool migration_disks_fit(const struct migration *m)
{
        return !m->disks || (m->disks->mirrors && disk_mirrors_fit(m->disks->mirrors));
}

void migration_disks_progress(const struct migration *m)
{
        json_t *progress = m->disks && m->disks->mirrors ? disk_mirrors_progress(m->disks->mirrors) : NULL;
        const struct vm *vm = migration_vm(m);

        if (!progress || !m->progress)
                return json_decref(progress);
        if (vm)
                (void)json_object_set_new(progress, "memory_bytes",
                        json_integer((json_int_t)vm->config->status.memory_effective_bytes));
        (void)json_object_set_new(m->progress, "disks", progress);
}

/* --- The end ------------------------------------------------------------------------------------------------- */

static uint64_t patience_ms(const struct migration *m)
{
        uint64_t disks_ms = m->disks->mirrors ? disk_mirrors_max_pause_ms(m->disks->mirrors) : 0;

        return MAX(m->source.convergence.max_pause_ms, disks_ms) + SPARE_MS;
}

static void on_limit(void *userdata)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        loop_source_free(TAKE_PTR(m->disks->limit));
        if (m->disks->continued || m->stop_wanted)
                return;
        error_set(&e, ERROR_NOT_CONVERGING,
                "Raise the bound on the pause, or migrate when the guest writes less.",
                "the rest of the disks was not copied within %llu ms, while the guest was stopped",
                (unsigned long long)patience_ms(m));
        migration_stop(m, e);
}

json_t *migration_disks_stopped(struct migration *m)
{
        json_t *op = json_pack("{s:s}", "op", "stopped");

        if (!op || !m->disks)
                return op;
        json_object_set_new(op, "disk_limit_ms", json_integer((json_int_t)patience_ms(m)));
        if (!m->disks->limit &&
                loop_add_timer(m->agent->loop, patience_ms(m), on_limit, m, &m->disks->limit) < 0)
                log_warning("migration %s: no timer for the end of its mirrors", m->id);
        return op;
}

void migration_disks_end(struct migration *m)
{
        if (!m->disks || !m->disks->mirrors || m->stop_wanted)
                return;
        migration_source_stopped(
                m, 0); /* the event may have been lost with the monitor, and nothing else would end a pause */
        disk_mirrors_end(m->disks->mirrors);
}

bool migration_disks_ended(struct migration *m)
{
        struct error *e = NULL;

        if (!m->disks || m->disks->continued)
                return true;
        error_set(&e, ERROR_QEMU_FAILED, NULL,
                "QEMU did not wait for the end of the disks' mirrors before its device state");
        migration_stop(m, e);
        return false;
}

static void on_given(void *userdata, uint64_t epoch, struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        m->disks->give = NULL;
        m->disks->given = !error;
        if (error) {
                error_set(&e, error->code, error->hint,
                        "the owner record at the source cannot be made to name the destination: %s",
                        error_message(error));
                migration_stop(m, e);
        }
        migration_kick(m);
}

void migration_disks_give(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (!m->disks || m->disks->give || m->disks->given || m->stop_wanted || !vm)
                return;
        if (owner_record_give(vm, m->peer_uid, m->epoch, m->epoch + 1, on_given, m, &m->disks->give, &e) < 0)
                on_given(m, 0, e);
        error_free(e);
}

int migration_disks_give_up_peer(struct migration *m, struct error **ret_error)
{
        int r;

        if (m->role != MIGRATION_SOURCE_SIDE || !m->disks || m->settled)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        "migration %s does not wait here for a destination that has its disks", m->id);
        if (m->disks->peer_removed)
                return 0;
        r = migration_note(m, "peer_removed", ret_error);
        if (r < 0)
                return r;
        log_notice("migration %s of vm %s: the destination was removed from the cluster; what is there is "
                   "given up",
                m->id, m->vm_uid);
        m->disks->peer_removed = true;
        migration_kick(m);
        return 0;
}

int migration_disks_let_go(struct migration *m, struct error **ret_error)
{
        int r;

        if (m->role != MIGRATION_SOURCE_SIDE || !m->disks || m->settled || m->record != HANDOFF_HANDED_OFF ||
                m->path_alive)
                return error_set(ret_error, ERROR_CONFLICT, NULL,
                        "migration %s does not wait here for a destination that has its disks", m->id);
        if (m->source.lost)
                return 0;
        r = migration_note(m, "lost", ret_error);
        if (r < 0)
                return r;
        m->source.lost = true;
        error_free(TAKE_PTR(m->stop_reason));
        error_set(&m->stop_reason, ERROR_PEER_FAILED, NULL,
                "the destination was removed from the cluster, and the migration's task has ended: what was "
                "kept here of the guest is ended");
        log_notice("migration %s of vm %s: %s", m->id, m->vm_uid, error_message(m->stop_reason));
        migration_kick(m);
        return 0;
}

static void note_waiting(void *userdata, struct migration *m)
{
        if (m->role == MIGRATION_SOURCE_SIDE && m->disks && !m->settled && !m->detached &&
                m->phase == MIGRATION_WAITING_FOR_PEER)
                (void)json_array_append_new(
                        userdata, json_pack("{s:s, s:s}", "id", m->id, "peer", m->peer_uid));
}

json_t *migration_disks_waiting(struct agent *agent)
{
        json_t *list = json_array();

        if (list)
                migration_for_each(agent, note_waiting, list);
        return list;
}

/* --- Undoing ------------------------------------------------------------------------------------------------- */

void migration_disks_undo(struct migration *m)
{
        if (!m->disks)
                return;
        loop_source_free(TAKE_PTR(m->disks->limit));
        qmp_call_cancel(TAKE_PTR(m->disks->call));
        if (!m->disks->mirrors && make_mirrors(m) < 0) /* of an agent before this one */
                return;
        if (disk_mirrors_state(m->disks->mirrors) != DISK_MIRRORS_ENDED)
                disk_mirrors_undo(m->disks->mirrors);
}

bool migration_disks_undone(struct migration *m)
{
        uint64_t now_ms = clock_now_ms(loop_clock(m->agent->loop));
        enum disk_mirrors_state state;

        if (!m->disks)
                return true;
        migration_disks_undo(m);
        state = m->disks->mirrors ? disk_mirrors_state(m->disks->mirrors) : DISK_MIRRORS_UNDOING;
        if (state == DISK_MIRRORS_GONE || state == DISK_MIRRORS_ENDED)
                return true;
        if (!m->disks->undo_began_ms)
                m->disks->undo_began_ms = now_ms;
        if (now_ms - m->disks->undo_began_ms < UNDO_LIMIT_MS)
                return false;
        log_warning("migration %s of vm %s: its mirrors are left in QEMU, which does not answer or end them: "
                    "they have nowhere to write to",
                m->id, m->vm_uid);
        return true;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Migrations as documents, and the routes through which the manager starts, watches, cancels and forgets them. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/handshake.h"
#include "agent/migration.h"
#include "agent/migration_disks.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/storage_move.h"
#include "agent/vm.h"
#include "base/doc.h"
#include "base/log.h"
#include "vmm/vm_config.h"

static json_t *history_json(const struct migration *m)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < m->n_history; i++) {
                uint64_t start = m->history[i].started_ms - m->started_ms;
                uint64_t end = i + 1 < m->n_history ? m->history[i + 1].started_ms - m->started_ms
                               : m->settled         ? start
                                            : clock_now_ms(loop_clock(m->agent->loop)) - m->started_ms;

                json_array_append_new(list,
                        json_pack("{s:s, s:I, s:I}", "name", migration_phase_to_string(m->history[i].phase),
                                "start_ms", (json_int_t)start, "ms", (json_int_t)(end - start)));
        }
        return list;
}

json_t *migration_document(const struct migration *m)
{
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:O*, s:o*, s:O*, s:o*, s:o*, s:o*, s:o*}", "id",
                m->id, "vm", m->vm_uid, "role", m->role == MIGRATION_SOURCE_SIDE ? "source" : "destination",
                "phase", migration_phase_to_string(m->phase), "record", handoff_record_to_string(m->record),
                "epoch", (json_int_t)m->epoch, "progress", m->progress, "phases", history_json(m), "result",
                m->result, "error", m->stop_reason ? error_to_json(m->stop_reason) : NULL, "switchover",
                migration_switchover_document(m), "network", migration_network_document(m), "left",
                migration_disks_left(m));
}

void migration_publish(struct migration *m)
{
        agent_publish(m->agent, "migration", migration_document(m));
}

static void append_document(void *userdata, struct migration *m)
{
        json_array_append_new(userdata, migration_document(m));
}

json_t *migration_documents(struct agent *agent)
{
        json_t *list = json_array();

        if (list)
                migration_for_each(agent, append_document, list);
        return list;
}

/* The destination opens what the specification names. */
static int check_disks(const struct migration *m, const struct vm *vm, struct error **ret_error)
{
        _cleanup_(vm_config_freep) struct vm_config *config = NULL;
        int r = vm_config_from_json(json_object_get(m->spec, "vm"), &config, ret_error);

        if (r < 0 || vm_config_same_disks(config, vm->config))
                return r;
        return error_set(ret_error, ERROR_CONFLICT,
                "After a storage migration, try again in a moment; else stop and start it, so that both "
                "agree.",
                "%s runs with other disks than its document names", vm->name);
}

/* Why this migration cannot begin, or 0. */
static int check_start(struct agent *agent, const struct migration *m, struct error **ret_error)
{
        const struct vm *vm = migration_vm(m);

        if (!vm)
                return error_set(ret_error, ERROR_NOT_FOUND, "Ask the manager where the virtual machine is.",
                        "this host has no virtual machine %s", m->vm_uid);
        if (migration_vm_busy(agent, m->vm_uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "another migration of %s is under way", vm->name);
        if (storage_move_busy(agent, m->vm_uid))
                return error_set(ret_error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "the disks of %s are being moved to another datastore", vm->name);
        if (json_array_size(
                    vm->jobs)) /* such as one of a storage migration that was given up, whose datastore hangs */
                return error_set(ret_error, ERROR_BUSY, "Wait until it has ended, or end it.",
                        "QEMU works on a disk of %s", vm->name);
        if (migration_peer_fenced(m))
                return error_set(ret_error, ERROR_CONFLICT, "Choose another destination.",
                        "the destination is known to be down");
        if (vm_power(vm) != VM_POWER_RUNNING)
                return error_set(ret_error, ERROR_CONFLICT,
                        vm_power(vm) == VM_POWER_PAUSED ? "Resume it first." : "Start it first.",
                        "%s is %s; a live migration needs a running virtual machine", vm->name,
                        vm_power_to_string(vm_power(vm)));
        if (vm->config->status.owner_epoch != m->epoch)
                return error_set(ret_error, ERROR_STALE_EPOCH, "Read the virtual machine's document again.",
                        "the migration names owner epoch %llu, %s is at %llu", (unsigned long long)m->epoch,
                        vm->name, (unsigned long long)vm->config->status.owner_epoch);
        if (migration_disks_refused(m, ret_error) < 0)
                return -EOPNOTSUPP;
        if (m->disks && !migration_switchover_wanted(m))
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Name switchover.patience_ms in the specification.",
                        "disks travel along only where QEMU is held until what is left of them fits into the "
                        "pause");
        if (migration_post_copy_allowed(m) && migration_verifies(m, vm))
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Leave post-copy out of --converge, or accept the risk with --no-verify.",
                        "emulation before QEMU 9.0 loses changes to memory, so memory is compared, which is "
                        "not possible in post-copy");
        return check_disks(m, vm, ret_error);
}

/* {"signed": {...}}, or the specification itself, of a manager that does not sign. */
static int new_from_manager(
        struct agent *agent, struct http_request *request, struct migration **ret, struct error **ret_error)
{
        static const char *const keys[] = {"signed", NULL};
        _cleanup_handshake_spec_ struct handshake_spec opened = {0};
        json_t *body = NULL, *signed_spec;
        int r = http_request_json(request, &body, ret_error);

        if (r < 0)
                return r;
        signed_spec = json_object_get(body, "signed");
        if (!signed_spec)
                return migration_new(agent, MIGRATION_SOURCE_SIDE, body, ret, ret_error);
        r = doc_only_keys(body, "", keys, ret_error);
        if (r == 0)
                r = handshake_open(agent->handshake, signed_spec, true, &opened, ret_error);
        if (r == 0)
                r = migration_new(agent, MIGRATION_SOURCE_SIDE, opened.spec, ret, ret_error);
        if (r == 0 && opened.both) {
                (*ret)->signed_spec = json_incref(signed_spec);
                snprintf((*ret)->spec_digest, sizeof((*ret)->spec_digest), "%s", opened.digest);
        }
        return r;
}

void migration_api_expect(struct agent *agent, struct http_request *request)
{
        const char *id = http_request_param(request, "id");
        struct error *e = NULL;
        json_t *body = NULL;

        if (http_request_json(request, &body, &e) < 0 || handshake_expect(agent->handshake, id, body, &e) < 0)
                return api_reply_error(request, e);
        api_reply_json(request, 200,
                json_pack(
                        "{s:s, s:s}", "id", id, "digest", handshake_expected(agent->handshake, id)->digest));
}

void migration_api_start(struct agent *agent, struct http_request *request)
{
        _cleanup_(migration_freep) struct migration *m = NULL;
        const struct migration *same;
        struct error *e = NULL;
        int r = new_from_manager(agent, request, &m, &e);

        if (r != 0)
                return api_reply_error(request, e);
        same = migration_find(agent, m->id);
        if (same && same->role == m->role &&
                !strcmp(same->vm_uid, m->vm_uid)) /* a manager that lost our answer */
                return api_reply_json(request, 202, migration_document(same));
        if (same)
                r = error_set(&e, ERROR_EXISTS, "Begin again under a new id.",
                        "migration %s exists already and is another one", m->id);
        if (r == 0)
                r = check_start(agent, m, &e);
        if (r == 0)
                r = migration_register(m, &e);
        if (r != 0)
                return api_reply_error(request, e);
        m->qemu = HANDOFF_QEMU_RUNNING;
        api_reply_json(request, 202, migration_document(m));
        migration_source_begin(TAKE_PTR(m));
}

void migration_api_list(struct agent *agent, struct http_request *request)
{
        http_request_reply_json(request, 200, json_pack("{s:o}", "items", migration_documents(agent)));
}

int migration_unknown(struct agent *agent, const char *id, struct error **ret_error)
{
        if (migration_unreadable(agent, id))
                return error_set(ret_error, ERROR_OWNER_UNKNOWN,
                        "Find out on which host the virtual machine runs, then remove the journal and "
                        "restart the agent.",
                        "the journal of migration %.40s cannot be read on this host", id);
        return error_set(ret_error, ERROR_NOT_FOUND, NULL, "this host knows no migration %.40s", id ?: "");
}

/* The migration named in the path, or NULL after the request was answered. */
static struct migration *request_migration(struct agent *agent, struct http_request *request)
{
        const char *id = http_request_param(request, "id");
        struct migration *m = migration_find(agent, id);
        struct error *e = NULL;

        if (m)
                return m;
        migration_unknown(agent, id, &e);
        http_request_reply_error(request, e);
        return NULL;
}

void migration_api_get(struct agent *agent, struct http_request *request)
{
        struct migration *m = request_migration(agent, request);

        if (m)
                http_request_reply_json(request, 200, migration_document(m));
}

void migration_api_cancel(struct agent *agent, struct http_request *request)
{
        struct migration *m = request_migration(agent, request);
        struct error *e = NULL;

        if (!m)
                return;
        if (m->settled || m->role != MIGRATION_SOURCE_SIDE ||
                (m->record != HANDOFF_OUTGOING && (m->record != HANDOFF_HANDED_OFF || m->source.commit_sent ||
                                                          migration_is_serving(m)))) {
                error_set(&e, ERROR_CONFLICT, NULL,
                        m->role != MIGRATION_SOURCE_SIDE ? "only the source can cancel migration %s"
                        : m->settled                     ? "migration %s has ended already"
                                     : "migration %s cannot be cancelled any more: the virtual machine was "
                                       "handed over",
                        m->id);
                log_notice("%s", error_message(e));
                return api_reply_error(request, e);
        }
        error_set(&e, ERROR_CANCELLED, NULL, "the migration was cancelled");
        m->cancelled = true;
        migration_stop(m, e);
        api_reply_json(request, 202, migration_document(m));
}

void migration_api_switchover(struct agent *agent, struct http_request *request)
{
        struct migration *m = request_migration(agent, request);
        struct error *e = NULL;
        json_t *body;

        if (!m)
                return;
        if (http_request_json(request, &body, &e) < 0 || migration_switchover_answer(m, body, &e) < 0)
                return api_reply_error(request, e);
        api_reply_json(request, 200, migration_document(m));
}

/* The rate may change at any time; the spec's own limit is the manager's to keep to. */
void migration_api_limits(struct agent *agent, struct http_request *request)
{
        static const char *const keys[] = {"rate_limit_bps", NULL};
        struct migration *m = request_migration(agent, request);
        uint64_t rate_bps = 0;
        struct error *e = NULL;
        json_t *body;
        int r;

        if (!m)
                return;
        r = http_request_json(request, &body, &e);
        if (r == 0)
                r = doc_only_keys(body, "", keys, &e);
        if (r == 0)
                r = doc_need_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &rate_bps, &e);
        if (r == 0 && (m->role != MIGRATION_SOURCE_SIDE || m->settled))
                r = error_set(&e, ERROR_CONFLICT, NULL, "migration %s sends nothing from here", m->id);
        if (r == 0 && json_object_set_new(m->spec, "rate_limit_bps", json_integer((json_int_t)rate_bps)) < 0)
                r = error_from_errno(&e, ENOMEM, "cannot limit migration %s", m->id);
        if (r < 0)
                return api_reply_error(request, e);
        if (m->mover) /* otherwise it starts with it */
                (void)mover_process_send(m->mover,
                        json_pack("{s:s, s:I}", "op", "limits", "rate_limit_bps", (json_int_t)rate_bps), NULL,
                        0, NULL);
        api_reply_json(request, 200, migration_document(m));
}

static void tell(struct agent *agent, struct http_request *request,
        int (*word)(struct migration *m, struct error **ret_error))
{
        struct migration *m = request_migration(agent, request);
        struct error *e = NULL;

        if (!m)
                return;
        if (word(m, &e) < 0)
                return api_reply_error(request, e);
        api_reply_json(request, 200, migration_document(m));
}

void migration_api_peer_was_removed(struct agent *agent, struct http_request *request)
{
        tell(agent, request, migration_disks_give_up_peer);
}

void migration_api_let_go(struct agent *agent, struct http_request *request)
{
        tell(agent, request, migration_disks_let_go);
}

void migration_api_forget(struct agent *agent, struct http_request *request)
{
        struct migration *m = request_migration(agent, request);
        struct error *e = NULL;

        if (!m)
                return;
        if (migration_disks_peer_may_ask(m)) {
                error_set(&e, ERROR_CONFLICT, NULL,
                        "the source of migration %s may still ask whose the disks are", m->id);
                return http_request_reply_error(request, e);
        }
        /* Of a destination the manager hears nothing more than of the source, which is settled first. */
        if (m->settled ? m->n_pending > 0 : m->role == MIGRATION_DESTINATION_SIDE) {
                migration_forget_when_settled(m);
                return http_request_reply_json(request, 202, migration_document(m));
        }
        if (!m->settled) {
                error_set(&e, ERROR_CONFLICT, "Cancel it, or wait for its end.", "migration %s is under way",
                        m->id);
                return http_request_reply_error(request, e);
        }
        migration_forget(m);
        http_request_reply_empty(request, 204);
}

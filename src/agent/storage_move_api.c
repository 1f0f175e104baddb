/* SPDX-License-Identifier: Apache-2.0 */

/* Storage migrations as documents, and the routes through which the manager starts, watches, cancels, settles and forgets them. */

#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/storage_move_state.h"
#include "base/doc.h"

static json_t *disks_json(const struct storage_move *m)
{
        _cleanup_json_ json_t *record = move_record_to_json(m->record);
        json_t *list = json_incref(json_object_get(record, "disks"));

        for (size_t i = 0; list && i < m->record->n_disks; i++) {
                json_t *disk = json_array_get(list, i);

                if (json_object_set_new(
                            disk, "copied_bytes", json_integer((json_int_t)m->disks[i].copied_bytes)) < 0 ||
                        json_object_set_new(
                                disk, "total_bytes", json_integer((json_int_t)m->disks[i].total_bytes)) < 0 ||
                        json_object_set_new(disk, "size_bytes",
                                json_integer((json_int_t)m->disks[i].virtual_bytes)) < 0) {
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}

json_t *storage_move_document(const struct storage_move *m)
{
        uint64_t copied = 0, total = 0;

        for (size_t i = 0; i < m->record->n_disks; i++) {
                copied += m->disks[i].copied_bytes;
                total += m->disks[i].total_bytes;
        }
        return json_pack("{s:s, s:s, s:s, s:b, s:o, s:{s:I, s:I}, s:O?, s:o?, s:s?}", "id", m->id, "vm",
                m->config->uid, "phase", storage_move_phase_to_string(m->phase), "live", m->live, "disks",
                disks_json(m), "progress", "copied_bytes", (json_int_t)copied, "total_bytes",
                (json_int_t)total, "result", m->result, "error", m->error ? error_to_json(m->error) : NULL,
                "left", m->left);
}

static struct storage_move *request_move(struct http_request *request)
{
        const char *id = http_request_param(request, "id");
        struct storage_move *m = storage_move_find(api_agent(request), id);
        struct error *error = NULL;

        if (m)
                return m;
        if (storage_move_is_unreadable(api_agent(request), id))
                (void)error_set(&error, ERROR_OWNER_UNKNOWN,
                        "Find out which images QEMU has open (/proc/PID/fd), make storage-move.json say so, "
                        "then "
                        "remove the journal and restart the agent.",
                        "the journal of storage migration %.40s cannot be read on this host", id);
        else
                (void)error_set(&error, ERROR_NOT_FOUND, NULL, "this host knows no storage migration %.40s",
                        id ?: "");
        api_reply_error(request, error);
        return NULL;
}

void storage_move_api_start(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        struct storage_move *m = NULL;
        const struct storage_move *same;
        struct error *error = NULL;
        json_t *body = NULL;
        int r = http_request_json(request, &body, &error);

        if (r >= 0) {
                same = storage_move_find(agent, json_string_value(json_object_get(body, "id")));
                if (same) /* a manager that lost our answer */
                        return api_reply_json(request, 202, storage_move_document(same));
                r = storage_move_read_request(agent, body, &m, &error);
        }
        if (r >= 0)
                storage_move_let_go_of_switched(storage_move_of_vm(agent, m->config->uid));
        if (r >= 0 && storage_move_of_vm(agent, m->config->uid))
                r = error_set(&error, ERROR_BUSY, "Wait for it to end, or cancel it.",
                        "another storage migration of VM %s is under way", m->config->name);
        if (r >= 0)
                r = storage_move_journal(m, &error);
        if (r < 0) {
                storage_move_free(m);
                return api_reply_error(request, error);
        }
        m->keep_earlier = http_request_query(request, "clear") == NULL;
        storage_move_add(m);
        m->started_ms = clock_now_ms(loop_clock(agent->loop));
        api_reply_json(request, 202, storage_move_document(m));
        storage_move_begin(m);
}

void storage_move_api_list(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 200, json_pack("{s:o}", "items", storage_move_documents(userdata)));
}

void storage_move_api_get(struct http_request *request, void *agent)
{
        const struct storage_move *m = request_move(request);

        if (m)
                http_request_reply_json(request, 200, storage_move_document(m));
}

void storage_move_api_cancel(struct http_request *request, void *agent)
{
        struct storage_move *m = request_move(request);
        struct error *error = NULL;

        if (!m)
                return;
        if (m->phase > STORAGE_MOVE_COPYING) {
                (void)error_set(&error, ERROR_CONFLICT, NULL,
                        m->phase == STORAGE_MOVE_UNDOING || storage_move_has_ended(m)
                                ? "storage migration %s has ended already, or is about to"
                                : "storage migration %s cannot be cancelled any more: its disks are being "
                                  "switched",
                        m->id);
                return api_reply_error(request, error);
        }
        (void)error_set(&error, ERROR_CANCELLED, NULL,
                "the storage migration was cancelled; the disks are where they were");
        m->cancelled = true;
        storage_move_stop(m, error);
        api_reply_json(request, 202, storage_move_document(m));
}

/* {"keep": [NAME, ...]}: of these disks the old image stays. */
static int read_keep(struct http_request *request, struct storage_move *m, struct error **ret_error)
{
        static const char *const keys[] = {"keep", NULL};
        json_t *body = NULL, *names = NULL;
        int r = http_request_json(request, &body, ret_error);

        if (r >= 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r >= 0)
                r = doc_opt_array(body, "", "keep", MOVE_RECORD_DISKS_MAX, &names, ret_error);
        for (size_t i = 0; r >= 0 && i < m->record->n_disks; i++)
                m->disks[i].keep = names && doc_has_string(names, m->record->disks[i].name);
        return r < 0 ? r : 0;
}

void storage_move_api_settle(struct http_request *request, void *agent)
{
        struct storage_move *m = request_move(request);
        struct error *error = NULL;

        if (!m)
                return;
        if (m->phase < STORAGE_MOVE_SWITCHED) {
                (void)error_set(&error, ERROR_CONFLICT, NULL, "storage migration %s is %s", m->id,
                        storage_move_phase_to_string(m->phase));
                return api_reply_error(request, error);
        }
        if (m->phase == STORAGE_MOVE_SWITCHED) {
                if (read_keep(request, m, &error) < 0)
                        return api_reply_error(request, error);
                storage_move_enter(m, STORAGE_MOVE_SETTLING);
                m->n_tries = 0;
                storage_move_point(m, "storage-move-settling", storage_move_clear);
        }
        api_reply_json(request, 202, storage_move_document(m));
}

void storage_move_api_forget(struct http_request *request, void *agent)
{
        struct storage_move *m = request_move(request);
        _cleanup_free_ char *path = NULL;
        struct error *error = NULL;

        if (!m)
                return;
        if (!storage_move_has_ended(m)) {
                (void)error_set(&error, ERROR_CONFLICT, "Cancel it first.",
                        "storage migration %s has not ended", m->id);
                return api_reply_error(request, error);
        }
        path = storage_move_journal_path(m);
        if (path)
                (void)unlink(path);
        storage_move_free(m);
        api_reply_json(request, 200, json_object());
}

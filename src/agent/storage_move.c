/* SPDX-License-Identifier: Apache-2.0 */

/* Keeps the storage migrations of this host, with a journal each, STATE-DIR/storage-moves/ID.VM.json (both UUIDs): {"format": 1, "phase", "vm":
 * document, "record": as in the VM's folder, "live", "was_running", "rate_bytes_per_s", "timeout_ms", "error", "result", "left", "wanted", "nodes", "allocated_bytes"}. The journal is
 * how an agent that starts again knows that there is something to look after; which image is the disk, the record in the folder
 * says alone. */

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/storage_move_state.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/crash_point.h"
#include "io/file.h"
#include "storage/image.h"
#include "vmm/qmp.h"

#define JOURNAL_MAX_BYTES (4 << 20)
#define OLD_NAME_CHARS (UUID_STRING_SIZE - 1 + strlen(".json"))
#define COMMIT_AGAIN_MS 1000
#define CLEAR_AGAIN_MS 2000
#define CLEAR_TRIES 5
#define RECOVER_AGAIN_MS 2000
#define RECORD_PATIENCE_MS 60000 /* for a record that cannot be read, or an owner that is not known */

struct storage_moves {
        struct agent *agent;
        char *folder;
        struct list all;        /* of struct storage_move */
        struct list unreadable; /* of struct unreadable */
};

/* A journal that makes no sense: nobody knows what QEMU was told, so the VM is left alone until somebody has looked. */
struct unreadable {
        struct list link;
        char id[UUID_STRING_SIZE];
        char vm_uid
                [UUID_STRING_SIZE]; /* "": in a journal of an earlier version, whose name does not say it */
};

static const char *const phases[N_STORAGE_MOVE_PHASES] = {
        [STORAGE_MOVE_PREPARING] = "preparing",
        [STORAGE_MOVE_COPYING] = "copying",
        [STORAGE_MOVE_SWITCHING] = "switching",
        [STORAGE_MOVE_UNDOING] = "undoing",
        [STORAGE_MOVE_SWITCHED] = "switched",
        [STORAGE_MOVE_SETTLING] = "settling",
        [STORAGE_MOVE_DONE] = "done",
        [STORAGE_MOVE_FAILED] = "failed",
        [STORAGE_MOVE_CANCELLED] = "cancelled",
};
static_assert(ARRAY_SIZE(phases) == N_STORAGE_MOVE_PHASES, "every phase has a name");

static void recover(struct storage_move *m);

const char *storage_move_phase_to_string(enum storage_move_phase phase)
{
        return phases[phase];
}

bool storage_move_has_ended(const struct storage_move *m)
{
        return m->phase >= STORAGE_MOVE_DONE;
}

/* --- Memory -------------------------------------------------------------------------------------------------- */

static void leave_waits(struct storage_move *m)
{
        stores_wait_free(TAKE_PTR(m->wait));
        image_job_free(TAKE_PTR(m->image));
        opening_free(TAKE_PTR(m->opening));
        qmp_call_cancel(TAKE_PTR(m->call));
        loop_source_free(TAKE_PTR(m->timer));
        crash_hold_free(TAKE_PTR(m->hold));
}

void storage_move_free(struct storage_move *m)
{
        if (!m)
                return;
        list_remove(&m->all);
        leave_waits(m);
        offload_free(m->offload);
        vm_config_free(m->config);
        move_record_free(m->record);
        free(m->disks);
        error_free(m->error);
        free(m->left);
        json_decref(m->result);
        json_decref(m->wanted);
        free(m);
}

int storage_moves_new(struct agent *agent, struct storage_moves **ret_moves, struct error **ret_error)
{
        struct storage_moves *moves = ALLOC(struct storage_moves);
        int r;

        if (!moves)
                return error_from_errno(ret_error, ENOMEM, "storage migrations");
        moves->agent = agent;
        list_init(&moves->all);
        list_init(&moves->unreadable);
        moves->folder = alloc_printf("%s/storage-moves", agent->config.state_dir);
        r = moves->folder ? file_make_dirs(moves->folder, 0700) : -ENOMEM;
        if (r < 0) {
                r = error_from_errno(ret_error, r, "folder for journals of storage migrations");
                storage_moves_free(moves);
                return r;
        }
        *ret_moves = moves;
        return 0;
}

void storage_moves_free(struct storage_moves *moves)
{
        struct storage_move *m, *spare;
        struct unreadable *one, *next;

        if (!moves)
                return;
        list_for_each_safe (m, spare, &moves->all, all)
                storage_move_free(m);
        list_for_each_safe (one, next, &moves->unreadable, link) {
                list_remove(&one->link);
                free(one);
        }
        free(moves->folder);
        free(moves);
}

struct storage_move *storage_move_find(struct agent *agent, const char *id)
{
        struct storage_move *m;

        list_for_each (m, &agent->storage_moves->all, all)
                if (!m->in_background && !strcmp(m->id, id ?: ""))
                        return m;
        return NULL;
}

struct storage_move *storage_move_of_vm(struct agent *agent, const char *vm_uid)
{
        struct storage_move *m;

        if (!agent->storage_moves)
                return NULL;
        list_for_each (m, &agent->storage_moves->all, all)
                /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): what has ended is off the list */
                if (!storage_move_has_ended(m) && !strcmp(m->config->uid, vm_uid))
                        return m;
        return NULL;
}

bool storage_move_busy(struct agent *agent, const char *vm_uid)
{
        const struct storage_move *m = storage_move_of_vm(agent, vm_uid);
        const struct unreadable *one;

        if (agent->storage_moves)
                list_for_each (one, &agent->storage_moves->unreadable, link)
                        if (!strcmp(one->vm_uid, vm_uid))
                                return true;
        return m && m->phase < STORAGE_MOVE_SWITCHED;
}

bool storage_move_is_unreadable(struct agent *agent, const char *id)
{
        const struct unreadable *one;

        list_for_each (one, &agent->storage_moves->unreadable, link)
                if (!strcmp(one->id, id ?: ""))
                        return true;
        return false;
}

json_t *storage_move_moved(struct agent *agent, const char *vm_uid)
{
        const struct storage_move *m = storage_move_of_vm(agent, vm_uid);
        _cleanup_json_ json_t *record = NULL;
        json_t *list, *disk;
        size_t i;

        if (!m || m->in_background || m->phase != STORAGE_MOVE_SWITCHED)
                return NULL;
        record = move_record_to_json(m->record);
        list = json_array();
        json_array_foreach (json_object_get(record, "disks"), i, disk)
                if (json_is_true(json_object_get(disk, "switched")))
                        (void)json_array_append(list, disk);
        return list;
}

bool storage_move_stops_guest(struct agent *agent, const char *vm_uid)
{
        const struct storage_move *m = storage_move_of_vm(agent, vm_uid);

        return m && m->guest_stopped;
}

json_t *storage_move_documents(struct agent *agent)
{
        json_t *list = json_array();
        const struct storage_move *m;

        list_for_each (m, &agent->storage_moves->all, all)
                if (list && !m->in_background)
                        (void)json_array_append_new(list, storage_move_document(m));
        return list;
}

void storage_move_add(struct storage_move *m)
{
        list_append(&m->agent->storage_moves->all, &m->all);
}

struct vm *storage_move_vm(const struct storage_move *m)
{
        return vm_find(m->agent, m->config->uid);
}

/* --- Journal ------------------------------------------------------------------------------------------------- */

char *storage_move_journal_path(const struct storage_move *m)
{
        return alloc_printf("%s/%s.%s.json", m->agent->storage_moves->folder, m->id, m->config->uid);
}

/* Of QEMU, that the disks had before: an agent that comes after the switch closes them. */
static json_t *nodes_json(const struct storage_move *m)
{
        json_t *nodes = json_array();

        for (size_t i = 0; i < m->record->n_disks; i++)
                (void)json_array_append_new(nodes, json_string(m->disks[i].source_node));
        return nodes;
}

static void read_nodes(struct storage_move *m, const json_t *nodes)
{
        for (size_t i = 0; i < m->record->n_disks; i++) {
                const char *node = json_string_value(json_array_get(nodes, i)) ?: "";

                if (strlen(node) < sizeof(m->disks[i].source_node))
                        memcpy(m->disks[i].source_node, node, strlen(node) + 1);
        }
}

static json_t *sizes_json(const struct storage_move *m)
{
        json_t *sizes = json_array();

        for (size_t i = 0; i < m->record->n_disks; i++)
                (void)json_array_append_new(sizes, json_integer((json_int_t)m->disks[i].allocated_bytes));
        return sizes;
}

void storage_move_take_sizes(struct storage_move *m, const json_t *json)
{
        const json_t *sizes = json_object_get(json, "allocated_bytes");

        for (size_t i = 0; i < m->record->n_disks; i++)
                m->disks[i].allocated_bytes = (uint64_t)json_integer_value(json_array_get(sizes, i));
}

static json_t *journal_json(const struct storage_move *m)
{
        return json_pack("{s:i, s:s, s:o, s:o, s:b, s:b, s:I, s:I, s:o?, s:O?, s:s?, s:O?, s:o, s:o}",
                "format", 1, "phase", phases[m->phase], "vm", vm_config_to_json(m->config), "record",
                move_record_to_json(m->record), "live", m->live, "was_running", m->was_running,
                "rate_bytes_per_s", (json_int_t)m->rate_bytes_per_s, "timeout_ms", (json_int_t)m->timeout_ms,
                "error", m->error ? error_to_json(m->error) : NULL, "result", m->result, "left", m->left,
                "wanted", m->wanted, "nodes", nodes_json(m), "allocated_bytes", sizes_json(m));
}

int storage_move_journal(const struct storage_move *m, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *json = journal_json(m);
        _cleanup_free_ char *path = storage_move_journal_path(m);
        _cleanup_free_ char *text = json ? doc_to_text(json) : NULL;
        int r = path && text ? file_write_atomic(path, text, strlen(text), 0600) : -ENOMEM;

        if (r >= 0)
                return 0;
        r = error_from_errno(&error, r, "journal of storage migration %s", m->id);
        if (!ret_error)
                log_error("%s", error_message(error));
        return ret_error ? error_propagate(ret_error, TAKE_PTR(error)) : r;
}

/* Its report says whether copies wait for the manager's document. */
static void tell_of_vm(const struct storage_move *m)
{
        const struct vm *vm = storage_move_vm(m);

        if (vm && !m->in_background)
                agent_publish(m->agent, "vm", vm_report(vm));
}

void storage_move_enter(struct storage_move *m, enum storage_move_phase phase)
{
        m->phase = phase;
        log_info("storage migration %s of VM %s: %s%s%s", m->id, m->config->name, phases[phase],
                m->error && phase >= STORAGE_MOVE_UNDOING ? ": " : "",
                m->error && phase >= STORAGE_MOVE_UNDOING ? error_message(m->error) : "");
        if (!m->in_background)
                (void)storage_move_journal(m, NULL);
        if (phase == STORAGE_MOVE_SWITCHED || phase == STORAGE_MOVE_SETTLING)
                tell_of_vm(m);
}

static int read_phase(const json_t *json, enum storage_move_phase *ret_phase)
{
        const char *word = json_string_value(json_object_get(json, "phase")) ?: "";

        for (size_t i = 0; i < N_STORAGE_MOVE_PHASES; i++)
                if (!strcmp(phases[i], word)) {
                        *ret_phase = (enum storage_move_phase)i;
                        return 0;
                }
        return -EINVAL;
}

/* A journal is written before the record, so it may say of a disk that its copy has taken over when that never was recorded, and the VM
 * was started from where the disks were. What has taken over, QEMU says while it lives, and else the record alone. */
static void forget_switched(struct storage_move *m)
{
        for (size_t i = 0; i < m->record->n_disks; i++)
                m->record->disks[i].switched = false;
}

static int from_journal(
        struct agent *agent, const json_t *json, struct storage_move **ret, struct error **ret_error)
{
        _cleanup_(storage_move_freep) struct storage_move *m = NULL;
        const json_t *problem = json_object_get(json, "error");
        const char *left = json_string_value(json_object_get(json, "left"));
        json_t *result = json_object_get(json, "result");
        enum storage_move_phase phase;
        int r = storage_move_make(agent, json_object_get(json, "vm"), json_object_get(json, "record"),
                json_object_get(json, "wanted") ?: json, &m, ret_error);

        if (r >= 0)
                r = doc_need_u64(
                        json, "journal", "rate_bytes_per_s", 0, INT64_MAX, &m->rate_bytes_per_s, ret_error);
        if (r >= 0)
                r = doc_need_u64(json, "journal", "timeout_ms", 0, INT64_MAX, &m->timeout_ms, ret_error);
        if (r < 0)
                return r;
        if (read_phase(json, &phase) < 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "its phase is unknown");
        m->phase = phase;
        if (phase < STORAGE_MOVE_SWITCHED)
                forget_switched(m);
        m->recorded = true;
        m->live = json_is_true(json_object_get(json, "live"));
        m->throttled = m->live; /* it may be: nobody wrote that down */
        m->was_running = json_is_true(json_object_get(json, "was_running"));
        m->error = json_is_object(problem) ? error_from_json(problem) : NULL;
        m->result =
                json_is_object(result) ? json_incref(result) : NULL; /* null: it is still to be measured */
        if (left && alloc_replace(&m->left, left) < 0)
                return error_from_errno(ret_error, ENOMEM, "storage migration");
        m->cancelled = m->error && m->error->code == ERROR_CANCELLED;
        read_nodes(m, json_object_get(json, "nodes"));
        storage_move_take_sizes(m, json);
        *ret = TAKE_PTR(m);
        return 0;
}

/* `name` is one of is_journal(). */
static int add_unreadable(struct agent *agent, const char *name)
{
        struct unreadable *one = ALLOC(struct unreadable);

        if (!one)
                return -ENOMEM;
        list_init(&one->link);
        memcpy(one->id, name, UUID_STRING_SIZE - 1);
        if (strlen(name) > OLD_NAME_CHARS)
                memcpy(one->vm_uid, name + UUID_STRING_SIZE, UUID_STRING_SIZE - 1);
        list_append(&agent->storage_moves->unreadable, &one->link);
        return 0;
}

/* Of an earlier version, under a name that does not say whose it is. */
static int rename_journal(const struct storage_move *m, const char *path, const char *name)
{
        _cleanup_free_ char *wanted = storage_move_journal_path(m);

        if (!wanted)
                return -ENOMEM;
        return strlen(name) > OLD_NAME_CHARS || rename(path, wanted) == 0 ? 0 : -errno;
}

static int read_journal(struct agent *agent, const char *name)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", agent->storage_moves->folder, name);
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *json = NULL;
        _cleanup_free_ char *text = NULL;
        struct storage_move *m = NULL;
        size_t len;
        int r = path ? file_read(path, JOURNAL_MAX_BYTES, &text, &len) : -ENOMEM;

        if (r < 0)
                return r;
        r = doc_parse(text, len, &json, &error);
        if (r >= 0)
                r = from_journal(agent, json, &m, &error);
        if (r == -ENOMEM)
                return r;
        if (r < 0) {
                log_error("journal %s of a storage migration makes no sense, and its virtual machine is left "
                          "alone: "
                          "%s",
                        path, error_message(error));
                return add_unreadable(agent, name);
        }
        if (storage_move_find(agent, m->id)) { /* renamed just now: readdir() may give it once more */
                storage_move_free(m);
                return 0;
        }
        list_append(&agent->storage_moves->all, &m->all);
        r = rename_journal(m, path, name);
        if (r < 0)
                return r;
        if (m->phase < STORAGE_MOVE_SWITCHED)
                recover(m);
        else if (m->phase == STORAGE_MOVE_SETTLING)
                m->phase = STORAGE_MOVE_SWITCHED; /* the manager says it again */
        return 0;
}

/* "ID.VM.json", or of an earlier version "ID.json" */
static bool is_journal(const char *name)
{
        size_t len = strlen(name);

        return (len == OLD_NAME_CHARS || len == OLD_NAME_CHARS + UUID_STRING_SIZE) &&
               !strcmp(name + len - strlen(".json"), ".json") && name[UUID_STRING_SIZE - 1] == '.';
}

int storage_move_recover_all(struct agent *agent)
{
        DIR *dir = opendir(agent->storage_moves->folder);
        const struct dirent *entry;
        int r = 0;

        if (!dir)
                return -errno;
        while (r == 0 && (errno = 0, entry = readdir(dir)))
                if (is_journal(entry->d_name))
                        r = read_journal(agent, entry->d_name);
        (void)closedir(dir);
        return r;
}

/* --- Common steps -------------------------------------------------------------------------------------------- */

void storage_move_again(struct storage_move *m, uint64_t delay_ms, loop_fn fn)
{
        loop_source_free(TAKE_PTR(m->timer));
        if (loop_add_timer(m->agent->loop, delay_ms, fn, m, &m->timer) < 0)
                log_error("storage migration %s: no timer, it does not go on before the agent is restarted",
                        m->id);
}

static void on_hold_over(void *userdata)
{
        struct storage_move *m = userdata;

        crash_hold_free(TAKE_PTR(m->hold));
        m->then(m);
}

void storage_move_point(struct storage_move *m, const char *name, void (*then)(struct storage_move *m))
{
        m->then = then;
        if (!crash_point_hold(m->agent->loop, name, on_hold_over, m, &m->hold))
                then(m);
}

static void undo(struct storage_move *m)
{
        storage_move_enter(m, STORAGE_MOVE_UNDOING);
        if (m->live)
                storage_move_live_undo(m);
        else
                storage_move_conclude(m);
}

void storage_move_stop(struct storage_move *m, struct error *error)
{
        if (m->error || m->phase >= STORAGE_MOVE_UNDOING || m->committing)
                error_free(error);
        else
                m->error = error;
        if (m->phase >= STORAGE_MOVE_UNDOING || m->committing)
                return;
        leave_waits(m);
        offload_free(TAKE_PTR(m->offload));
        m->reading = false;
        undo(m);
}

void storage_move_stop_copy(struct storage_move *m, const struct error *error)
{
        struct error *copy = NULL;

        (void)error_set(&copy, error->code, error->hint, "%s", error_message(error));
        storage_move_stop(m, copy);
}

/* --- Commit -------------------------------------------------------------------------------------------------- */

static void try_commit(void *userdata);

/* The VM is another host's, which started it from where the disks were: nothing was written. False: its QEMU cannot be ended. */
bool storage_move_lost(struct storage_move *m, const struct error *error)
{
        _cleanup_error_ struct error *failure = NULL;
        struct vm *vm = storage_move_vm(m);

        if (m->live && vm && vm_has_qemu(vm) && vm_end_lost(vm, error_message(error), &failure) < 0) {
                log_error("VM %s: %s", m->config->name, error_message(failure));
                return false;
        }
        m->committing = false;
        forget_switched(m);
        if (!m->error)
                (void)error_set(&m->error, error->code, error->hint, "%s", error_message(error));
        if (m->live && vm && vm_has_qemu(vm))
                return true; /* its end goes on with it */
        if (m->phase == STORAGE_MOVE_UNDOING)
                storage_move_conclude(m);
        else
                storage_move_stop(m, NULL);
        return true;
}

static bool is_waiting_for_long(struct storage_move *m)
{
        uint64_t now_ms = clock_now_ms(loop_clock(m->agent->loop));

        m->waiting_ms = m->waiting_ms ?: now_ms;
        return now_ms - m->waiting_ms > RECORD_PATIENCE_MS;
}

/* Who owns the VM is asked before anything is written, so one whose owner is unknown at every try was not switched; where an earlier try came
 * to no end, nothing is removed. After a minute of it the guest must not run on: another host may have it. */
static void on_committed(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;

        m->offload = NULL;
        if (error && error->code == ERROR_STALE_EPOCH && storage_move_lost(m, error))
                return;
        if (error) { /* it may have been written nevertheless: only a success is an answer */
                /* The VM was suspended meanwhile, as far as anybody can tell: nothing was written. */
                if (error->code == ERROR_CONFLICT && !m->live && !m->unclear && storage_move_lost(m, error))
                        return;
                m->unclear =
                        m->unclear || (error->code != ERROR_OWNER_UNKNOWN && error->code != ERROR_CONFLICT);
                if (error->code != ERROR_OWNER_UNKNOWN)
                        m->waiting_ms = 0;
                else if (is_waiting_for_long(m) && storage_move_lost(m, error))
                        return;
                log_error("storage migration %s of VM %s: its record cannot be written, which is tried "
                          "again: %s",
                        m->id, m->config->name, error_message(error));
                storage_move_again(m, COMMIT_AGAIN_MS, try_commit);
                return;
        }
        m->committed = true;
        storage_move_point(m, "storage-move-committed", m->then);
}

static void try_commit(void *userdata)
{
        struct storage_move *m = userdata;
        _cleanup_error_ struct error *error = NULL;

        if (storage_move_work(m, STORAGE_MOVE_WRITE, NULL, on_committed, &error) < 0)
                on_committed(m, NULL, error);
}

void storage_move_commit(struct storage_move *m, void (*then)(struct storage_move *m))
{
        m->committing = true;
        m->then = then;
        try_commit(m);
}

/* --- End ----------------------------------------------------------------------------------------------------- */

static void try_clear(void *userdata);
static int take_place(struct vm_config *config, const struct move_disk *moved);

static void end(struct storage_move *m)
{
        if (m->in_background) {
                if (m->left)
                        log_warning("VM %s: what a storage migration left is not removed yet: %s",
                                m->config->name, m->left);
                storage_move_free(m);
                return;
        }
        storage_move_enter(m, !m->error      ? STORAGE_MOVE_DONE
                              : m->cancelled ? STORAGE_MOVE_CANCELLED
                                             : STORAGE_MOVE_FAILED);
}

int storage_move_note_kept(struct storage_move *m, const json_t *cleared)
{
        const char *kept = json_string_value(json_object_get(cleared, "kept"));
        char *text;

        if (!kept)
                return 0;
        text = alloc_printf("%s%s%s stays: it is outside the virtual machine's folder, or in use",
                m->left ?: "", m->left ? "; " : "", kept);
        if (!text)
                return -ENOMEM;
        free(m->left);
        m->left = text;
        return 0;
}

static void on_cleared(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;
        int r = 0;

        m->offload = NULL;
        if (error && ++m->n_tries < CLEAR_TRIES) {
                storage_move_again(m, CLEAR_AGAIN_MS, try_clear);
                return;
        }
        if (error)
                r = alloc_replace(&m->left, error_message(error));
        else
                r = storage_move_note_kept(m, result);
        if (r < 0)
                log_error("storage migration %s: out of memory", m->id);
        end(m);
}

static void try_clear(void *userdata)
{
        struct storage_move *m = userdata;
        _cleanup_error_ struct error *error = NULL;

        if (storage_move_work(m, STORAGE_MOVE_CLEAR, m->id, on_cleared, &error) < 0)
                on_cleared(m, NULL, error);
}

/* What it took, once; whatever was not measured in this process is null. */
static void make_result(struct storage_move *m)
{
        uint64_t now_ms = clock_now_ms(loop_clock(m->agent->loop)), bytes = 0;
        json_t *total = m->started_ms ? json_integer((json_int_t)(now_ms - m->started_ms)) : json_null();
        json_t *pause = m->live && m->was_running && m->stopped_ms
                                ? json_integer((json_int_t)(now_ms - m->stopped_ms))
                                : json_null();

        for (size_t i = 0; i < m->record->n_disks; i++)
                bytes += m->record->disks[i].switched ? m->disks[i].allocated_bytes : 0;
        json_decref(m->result);
        m->result = json_pack("{s:o, s:o, s:I, s:b}", "total_ms", total, "pause_ms", pause, "bytes_copied",
                (json_int_t)bytes, "live", m->live);
        if (m->result && m->live) {
                (void)json_object_set_new(
                        m->result, "converged_by", json_string(disk_convergence_by(&m->convergence)));
                (void)json_object_set_new(m->result, "convergence", disk_convergence_record(&m->convergence));
                (void)json_object_set_new(
                        m->result, "max_pause_ms", json_integer((json_int_t)m->convergence.max_pause_ms));
        }
}

void storage_move_clear(struct storage_move *m)
{
        try_clear(m);
}

/* The record names the copies: so does everything else from now on. */
static void take_places(struct storage_move *m)
{
        struct vm *vm = storage_move_vm(m);
        int r = 0;

        for (size_t i = 0; vm && i < m->record->n_disks && r >= 0; i++)
                if (m->record->disks[i].switched)
                        r = take_place(vm->config, &m->record->disks[i]);
        if (r < 0)
                log_error("VM %s: out of memory for its disks' names; its record in the folder has them",
                        m->config->name);
        if (vm)
                vm_changed(vm);
}

void storage_move_conclude(struct storage_move *m)
{
        if (move_record_any_switched(m->record))
                take_places(m);
        m->committing = false;
        if (!m->result)
                make_result(m);
        m->n_tries = 0;
        if (move_record_any_switched(m->record))
                storage_move_enter(m, STORAGE_MOVE_SWITCHED);
        else if (m->recorded)
                try_clear(m);
        else
                end(m);
}

void storage_move_measure(struct storage_move *m)
{
        make_result(m);
}

/* --- Recovery ------------------------------------------------------------------------------------------------ */

static void ask_stores(void *userdata);

static bool has_qemu(const struct storage_move *m)
{
        const struct vm *vm = storage_move_vm(m);

        return m->live && vm && vm_has_qemu(vm);
}

static void interrupted(struct storage_move *m, const char *what)
{
        struct error *error = NULL;

        (void)error_set(&error, ERROR_PEER_FAILED, "Begin again.", "%s", what);
        storage_move_stop(m, error);
}

static void go_on(struct storage_move *m)
{
        if (has_qemu(m))
                storage_move_live_resume(m);
        else if (m->phase == STORAGE_MOVE_UNDOING || move_record_any_switched(m->record))
                storage_move_conclude(m);
        else if (m->live)
                interrupted(m, "QEMU ended while the disks were being moved; they are where they were");
        else
                interrupted(m, "the agent ended during the copy; the disks are where they were");
}

/* A QEMU that lives tells by itself which images it has, and the record is written anew; else the record alone says it, to the next
 * start: this migration ends without a word about it, and removes nothing. */
static void on_record_unread(struct storage_move *m, const struct error *error)
{
        if (error->code != ERROR_CONFLICT && !is_waiting_for_long(m)) {
                log_warning("storage migration %s: its record cannot be read, which is tried again: %s",
                        m->id, error_message(error));
                storage_move_again(m, RECOVER_AGAIN_MS, ask_stores);
                return;
        }
        m->reading = false;
        m->waiting_ms = 0;
        if (has_qemu(m)) {
                storage_move_live_resume(m);
                return;
        }
        if (!m->error)
                (void)error_set(&m->error, error->code, error->hint, "%s", error_message(error));
        if (alloc_replace(&m->left,
                    "which images are of no use any more, the record in the virtual machine's folder says") <
                0)
                log_error("storage migration %s: out of memory", m->id);
        m->recorded = false;
        storage_move_conclude(m);
}

static void on_record_read(void *userdata, json_t *result, struct error *error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        struct storage_move *m = userdata;

        m->offload = NULL;
        m->reading = error != NULL;
        if (error) {
                on_record_unread(m, error);
                return;
        }
        m->waiting_ms = 0;
        if (json_is_object(result) && move_record_from_json(result, &record, NULL) >= 0 &&
                !strcmp(record->id, m->id) && record->n_disks == m->record->n_disks) {
                move_record_free(m->record);
                m->record = TAKE_PTR(record);
                m->committed = m->committing = move_record_any_switched(m->record);
        }
        go_on(m);
}

static void on_recovery_stores(void *userdata, struct error *error)
{
        _cleanup_error_ struct error *failure = NULL;
        struct storage_move *m = userdata;

        m->wait = NULL;
        if (error)
                on_record_unread(m, error);
        else if (storage_move_work(m, STORAGE_MOVE_READ, NULL, on_record_read, &failure) < 0)
                on_record_unread(m, failure);
}

static void ask_stores(void *userdata)
{
        struct storage_move *m = userdata;
        const char *name = m->config->datastore;

        if (stores_ensure(m->agent->stores, &name, 1, on_recovery_stores, m, &m->wait, NULL) < 0)
                storage_move_again(m, RECOVER_AGAIN_MS, ask_stores);
}

static void recover(struct storage_move *m)
{
        m->reading = true;
        ask_stores(m);
}

void storage_move_vm_gone(struct agent *agent, struct vm *vm)
{
        struct storage_move *m = agent->storage_moves ? storage_move_of_vm(agent, vm->uid) : NULL;

        if (!m || !m->live || m->phase >= STORAGE_MOVE_SWITCHED)
                return;
        m->guest_stopped = false;
        qmp_call_cancel(TAKE_PTR(m->call));
        if (m->reading || (m->committing && !m->committed))
                return; /* QEMU may have, or had, switched; the record's answer is on its way */
        loop_source_free(TAKE_PTR(m->timer));
        crash_hold_free(TAKE_PTR(m->hold));
        if (m->committed) {
                storage_move_conclude(m);
                return;
        }
        if (m->phase == STORAGE_MOVE_UNDOING) {
                if (!m->offload)
                        storage_move_conclude(m);
                return;
        }
        /* Not recorded: the guest was stopped since before the switch, so the source has all that it wrote. */
        forget_switched(m);
        interrupted(m, "QEMU ended while the disks were being moved; they are where they were");
}

void storage_move_vm_leave_monitor(struct agent *agent, const struct vm *vm)
{
        struct storage_move *m = agent->storage_moves ? storage_move_of_vm(agent, vm->uid) : NULL;

        if (m && m->call) {
                qmp_call_cancel(TAKE_PTR(m->call));
                storage_move_again(m, 500, storage_move_on_resume);
        }
}

/* --- Start of a VM ------------------------------------------------------------------------------------------- */

static bool is_place(const struct vm_disk *disk, const struct move_place *place)
{
        return !strcmp(disk->datastore, place->datastore) && !strcmp(disk->path, place->path);
}

static struct vm_disk *disk_of(struct vm_config *config, const char *name)
{
        for (size_t i = 0; i < config->n_disks; i++)
                if (!strcmp(config->disks[i].name, name))
                        return &config->disks[i];
        return NULL;
}

/* Makes the document name the copy of this disk. -ENOMEM. */
static int take_place(struct vm_config *config, const struct move_disk *moved)
{
        struct vm_disk *disk = disk_of(config, moved->name);

        if (!disk)
                return 0;
        if (alloc_replace(&disk->datastore, moved->to.datastore) < 0 ||
                alloc_replace(&disk->path, moved->to.path) < 0)
                return -ENOMEM;
        disk->format = moved->to.format == IMAGE_RAW ? VM_FORMAT_RAW : VM_FORMAT_QCOW2;
        return 0;
}

void storage_move_let_go_of_switched(struct storage_move *m)
{
        _cleanup_free_ char *path = NULL;

        if (!m || m->phase != STORAGE_MOVE_SWITCHED)
                return;
        path = storage_move_journal_path(m);
        if (path)
                (void)unlink(path);
        m->phase = STORAGE_MOVE_DONE;
        tell_of_vm(m);
        storage_move_free(m);
}

/* The manager knows where its disks are: what the record has besides is of no use any more. */
void storage_move_clear_record(struct vm *vm, const struct move_record *record)
{
        _cleanup_json_ json_t *document = vm_document(vm), *json = move_record_to_json(record);
        struct storage_move *m = NULL;

        storage_move_let_go_of_switched(storage_move_of_vm(vm->agent, vm->uid));
        if (storage_move_of_vm(vm->agent, vm->uid) || !document || !json ||
                storage_move_make(vm->agent, document, json, json, &m, NULL) < 0)
                return;
        m->in_background = true;
        m->phase = STORAGE_MOVE_SETTLING;
        m->n_tries = CLEAR_TRIES;
        list_append(&vm->agent->storage_moves->all, &m->all);
        try_clear(m);
}

/* *ret_known: the document names all copies that have taken over already. */
static int apply(struct vm *vm, const struct move_record *record, bool *ret_known, struct error **ret_error)
{
        bool known = true;
        int r;

        for (size_t i = 0; i < record->n_disks; i++) {
                const struct vm_disk *disk = disk_of(vm->config, record->disks[i].name);

                if (!record->disks[i].switched || !disk || !is_place(disk, &record->disks[i].from))
                        continue;
                known = false;
                log_notice("VM %s: disk %s is %s:%s, by the record of a storage migration that the manager "
                           "has not "
                           "heard of",
                        vm->name, disk->name, record->disks[i].to.datastore, record->disks[i].to.path);
                r = take_place(vm->config, &record->disks[i]);
                if (r < 0)
                        return error_from_errno(ret_error, r, "VM %s", vm->name);
        }
        *ret_known = known;
        return 0;
}

int storage_move_apply_record(struct vm *vm, struct move_record **ret_left, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        bool known = false;
        int r = move_record_read(vm->folder, &record, ret_error);

        if (r >= 0 && record)
                r = apply(vm, record, &known, ret_error);
        if (r >= 0)
                *ret_left = known ? TAKE_PTR(record) : NULL;
        return r;
}

int storage_move_apply_json(struct vm *vm, const json_t *json, struct error **ret_error)
{
        _cleanup_(move_record_freep) struct move_record *record = NULL;
        bool known;
        int r;

        if (!json_is_object(json))
                return 0;
        r = move_record_from_json(json, &record, ret_error);
        return r < 0 ? r : apply(vm, record, &known, ret_error);
}

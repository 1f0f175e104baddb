/* SPDX-License-Identifier: Apache-2.0 */

/* A storage migration of a VM that has a QEMU. The copies are opened in QEMU beside the disks, as descriptors that QEMU is
 * given (add-fd; a path could be made to mean another file), and a mirror job each follows in the background what the guest writes. When what remains to
 * be copied fits into the pause (disk_convergence.h), the guest is stopped, the rest is copied, the jobs are completed, QEMU is asked
 * which node each device has, the record is replaced and the guest goes on. A rest that takes too long lets the guest go on where it
 * was, and the copy with it.
 *
 * Not copy-mode write-blocking, in which the guest's own writes go to both: in QEMU 7.2 to 10.0 a job that fails, or is cancelled, frees its
 * bitmap of writes under way before those of the guest have ended (block/mirror.c, mirror_run() and active_write_settle()), which
 * corrupts the heap and ends the guest.
 *
 * How far it is, is asked of QEMU (query-jobs, query-block) at every turn and not kept: so an agent that starts again, or lost the
 * monitor for a while, goes on by the phase alone. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/storage_move_state.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/crash_point.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 30000
#define FOLLOW_MS 200
#define SWITCH_POLL_MS 5
#define SETTLE_SPARE_MS \
        2000 /* beyond the bound on the pause, for what is left to copy once the guest is stopped */
#define COMPLETE_PATIENCE_MS 15000 /* for QEMU to put the copies in place */
#define UNDO_PATIENCE_MS 30000     /* for writes to the copy that were under way */
#define AGAIN_MS 500
#define ID_SIZE 32
/* As good as no limit (QEMU's include/qemu/throttle.h, THROTTLE_VALUE_MAX). To have none, QEMU waits until nothing is under way on the
 * disk, its job's writes to the copy included: with a copy that hangs, it would wait for ever, and the guest with it. */
#define NO_LIMIT_BYTES_PER_S 1000000000000000

static void attach_next(struct storage_move *m);
static void follow(void *userdata);
static void begin_switch(struct storage_move *m);
static void throttle_next(struct storage_move *m);
static void speed_next(struct storage_move *m);
static void look_for_nodes(struct storage_move *m, qmp_reply_fn reply);
static void let_go_next(struct storage_move *m);
static void undo_jobs(void *userdata);

/* --- Names and commands -------------------------------------------------------------------------------------- */

static char *job_id(const struct storage_move *m, size_t disk, char ret[static ID_SIZE])
{
        snprintf(ret, ID_SIZE, "move-%.8s-disk%zu", m->id, m->disks[disk].index);
        return ret;
}

/* "disk0-0123abcd", of the migration's id; its file node has "-file" behind it. */
static char *copy_node(const struct storage_move *m, size_t disk, char ret[static COMMAND_LINE_NODE_SIZE])
{
        snprintf(ret, COMMAND_LINE_NODE_SIZE, "disk%zu-%.8s", m->disks[disk].index, m->id);
        return ret;
}

static char *file_node(const char *node, char ret[static COMMAND_LINE_NODE_SIZE + 8])
{
        snprintf(ret, COMMAND_LINE_NODE_SIZE + 8, "%s-file", node);
        return ret;
}

/* The limit is that of all together. */
static uint64_t job_speed(const struct storage_move *m)
{
        return m->rate_bytes_per_s ? MAX(m->rate_bytes_per_s / m->record->n_disks, (uint64_t)1) : 0;
}

static int command(struct storage_move *m, const char *name, json_t *arguments, int fd, qmp_reply_fn reply,
        struct error **ret_error)
{
        struct vm *vm = storage_move_vm(m);

        if (!vm || !vm->qmp) {
                json_decref(arguments);
                return error_set(ret_error, ERROR_UNREACHABLE, NULL, "the monitor of VM %s does not answer",
                        m->config->name);
        }
        return qmp_command(vm->qmp, name, arguments, fd, QMP_TIMEOUT_MS, reply, m, &m->call, ret_error);
}

void storage_move_on_resume(void *userdata)
{
        storage_move_live_resume(userdata);
}

/* Sends a command whose failure to be sent passes: the monitor comes back, or QEMU has ended, of which we are told. */
static void send(struct storage_move *m, const char *name, json_t *arguments, qmp_reply_fn reply)
{
        _cleanup_error_ struct error *error = NULL;

        if (command(m, name, arguments, -1, reply, &error) < 0)
                storage_move_again(m, AGAIN_MS, storage_move_on_resume);
}

/* True when QEMU has not answered, which says nothing of the command: it is gone on with by the phase. */
static bool is_silent(struct storage_move *m, const struct error *error)
{
        if (!error || error->code == ERROR_QEMU_FAILED)
                return false;
        storage_move_again(m, AGAIN_MS, storage_move_on_resume);
        return true;
}

/* --- What QEMU says ------------------------------------------------------------------------------------------ */

/* A guest that sleeps (S3) is not stopped by QEMU before 9.0, and may wake at any moment. */
static bool may_run(const json_t *status)
{
        return json_is_true(json_object_get(status, "running")) ||
               !strcmp(json_string_value(json_object_get(status, "status")) ?: "", "suspended");
}

/* Takes the jobs of an answer to query-jobs over. *ret_problem: what the first one that failed says, borrowed; or NULL. */
static void take_jobs(struct storage_move *m, const json_t *result, const char **ret_problem)
{
        *ret_problem = NULL;
        for (size_t i = 0; i < m->record->n_disks; i++) {
                struct storage_move_disk *disk = &m->disks[i];
                char id[ID_SIZE];
                json_t *job;
                size_t k;

                disk->job_runs = disk->job_ended = disk->job_ready = false;
                json_array_foreach ((json_t *)result, k, job) {
                        const char *status = json_string_value(json_object_get(job, "status")) ?: "";
                        json_int_t now = json_integer_value(json_object_get(job, "current-progress"));
                        json_int_t total = json_integer_value(json_object_get(job, "total-progress"));

                        if (strcmp(json_string_value(json_object_get(job, "id")) ?: "", job_id(m, i, id)) !=
                                0)
                                continue;
                        disk->job_ended = !strcmp(status, "concluded") || !strcmp(status, "null");
                        disk->job_runs = !disk->job_ended;
                        disk->job_ready = !strcmp(status, "ready") && now >= total;
                        disk->copied_bytes = (uint64_t)MAX(now, 0);
                        disk->total_bytes = (uint64_t)MAX(total, 0);
                        if (!*ret_problem)
                                *ret_problem = json_string_value(json_object_get(job, "error"));
                }
        }
}

static bool any_job_runs(const struct storage_move *m)
{
        for (size_t i = 0; i < m->record->n_disks; i++)
                if (m->disks[i].job_runs)
                        return true;
        return false;
}

/* Takes the nodes of an answer to query-block over. False: the device of some disk is not there. */
static bool take_nodes(struct storage_move *m, const json_t *result)
{
        for (size_t i = 0; i < m->record->n_disks; i++) {
                json_t *device;
                size_t k;

                m->disks[i].node[0] = '\0';
                json_array_foreach ((json_t *)result, k, device) {
                        const char *qdev = json_string_value(json_object_get(device, "qdev"));
                        const char *node = json_string_value(
                                json_object_get(json_object_get(device, "inserted"), "node-name"));

                        if (qdev && node && command_line_is_disk_device(qdev, m->disks[i].index) &&
                                strlen(node) < sizeof(m->disks[i].node)) {
                                memcpy(m->disks[i].node, node, strlen(node) + 1);
                                snprintf(m->disks[i].device, sizeof(m->disks[i].device), "%s", qdev);
                        }
                }
                if (!m->disks[i].node[0])
                        return false;
        }
        return true;
}

static bool is_on_copy(const struct storage_move *m, size_t disk)
{
        char node[COMMAND_LINE_NODE_SIZE];

        return !strcmp(m->disks[disk].node, copy_node(m, disk, node));
}

static void look_for_nodes(struct storage_move *m, qmp_reply_fn reply)
{
        send(m, "query-block", NULL, reply);
}

/* QEMU's words about the copy: what the datastore has no room for is said as such. */
static void stop_for(struct storage_move *m, const char *what, const char *words)
{
        struct error *error = NULL;

        if (strstr(words, "No space left") || strstr(words, "quota exceeded"))
                (void)error_set(&error, ERROR_NO_SPACE, "Free space on it, or choose another datastore.",
                        "%s: there is no room left on the datastore; the disks are where they were", what);
        else
                (void)error_set(&error, ERROR_QEMU_FAILED, NULL, "%s: %s; the disks are where they were",
                        what, words);
        storage_move_stop(m, error);
}

static bool failed(struct storage_move *m, const char *what, const struct error *error)
{
        if (!error)
                return false;
        if (!is_silent(m, error))
                stop_for(m, what, error_message(error));
        return true;
}

/* --- Attaching ----------------------------------------------------------------------------------------------- */

static void start_following(struct storage_move *m)
{
        disk_convergence_init(&m->convergence, &m->convergence.policy, m->convergence.max_pause_ms,
                clock_now_ms(loop_clock(m->agent->loop)));
        follow(m);
}

static void on_mirror(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (failed(m, "the copy cannot begin", error))
                return;
        m->at++;
        attach_next(m);
}

static void on_copy_opened(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char id[ID_SIZE], node[COMMAND_LINE_NODE_SIZE];

        m->call = NULL;
        if (failed(m, "QEMU cannot open the copy", error))
                return;
        send(m, "blockdev-mirror",
                json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:s, s:s, s:b}", "job-id", job_id(m, m->at, id),
                        "device", m->disks[m->at].source_node, "target", copy_node(m, m->at, node), "sync",
                        "full", "copy-mode", "background", "speed", (json_int_t)job_speed(m),
                        "on-source-error", "report", "on-target-error", "report", "auto-dismiss", 0),
                on_mirror);
}

static void on_file_opened(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char node[COMMAND_LINE_NODE_SIZE], file[COMMAND_LINE_NODE_SIZE + 8];

        m->call = NULL;
        if (failed(m, "QEMU cannot open the copy", error))
                return;
        (void)copy_node(m, m->at, node);
        send(m, "blockdev-add",
                json_pack("{s:s, s:s, s:s, s:s, s:{s:b, s:b}}", "driver",
                        image_format_to_string(m->record->disks[m->at].to.format), "node-name", node, "file",
                        file_node(node, file), "discard", "unmap", "cache", "direct", m->disks[m->at].direct,
                        "no-flush", 0),
                on_copy_opened);
}

static void on_fd_added(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        json_int_t set = json_integer_value(json_object_get(result, "fdset-id"));
        char node[COMMAND_LINE_NODE_SIZE], file[COMMAND_LINE_NODE_SIZE + 8], path[48];

        m->call = NULL;
        if (failed(m, "QEMU does not take the copy", error))
                return;
        snprintf(path, sizeof(path), "/dev/fdset/%" JSON_INTEGER_FORMAT, set);
        send(m, "blockdev-add",
                json_pack("{s:s, s:s, s:s, s:s, s:s, s:{s:b, s:b}}", "driver", "file", "node-name",
                        file_node(copy_node(m, m->at, node), file), "filename", path, "locking", "on",
                        "discard", "unmap", "cache", "direct", m->disks[m->at].direct, "no-flush", 0),
                on_file_opened);
}

/* QEMU from 9.1 on takes a descriptor of a set only if its O_DIRECT is what it wants. */
static void on_attach_opened(void *userdata, const int *fds, struct error *error)
{
        struct storage_move *m = userdata;
        char node[COMMAND_LINE_NODE_SIZE];
        _cleanup_fd_ int fd = fds[0];
        struct error *failure = NULL;

        m->opening = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        m->disks[m->at].direct = fcntl(fd, F_GETFL) & O_DIRECT;
        if (command(m, "add-fd", json_pack("{s:s}", "opaque", copy_node(m, m->at, node)), fd, on_fd_added,
                    &failure) < 0)
                storage_move_stop(m, failure);
}

static int attach(struct storage_move *m, struct error **ret_error)
{
        struct opening_file file;
        int r = storage_move_file(m, &m->record->disks[m->at].to, O_RDWR, &file, ret_error);

        file.direct = true;
        return r < 0 ? r : storage_move_open(m, &file, 1, on_attach_opened, ret_error);
}

static void attach_next(struct storage_move *m)
{
        struct error *error = NULL;

        if (m->at == m->record->n_disks) {
                storage_move_enter(m, STORAGE_MOVE_COPYING);
                storage_move_point(m, "storage-move-copying", start_following);
        } else if (attach(m, &error) < 0)
                storage_move_stop(m, error);
}

static void on_nodes_before(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (failed(m, "QEMU does not tell its disks", error))
                return;
        if (!take_nodes(m, result)) {
                stop_for(m, "the copy cannot begin", "QEMU does not have all of the disks");
                return;
        }
        for (size_t i = 0; i < m->record->n_disks; i++)
                memcpy(m->disks[i].source_node, m->disks[i].node, sizeof(m->disks[i].source_node));
        m->at = 0;
        attach_next(m);
}

void storage_move_live_begin(struct storage_move *m)
{
        look_for_nodes(m, on_nodes_before);
}

/* --- Following ----------------------------------------------------------------------------------------------- */

static bool is_late(struct storage_move *m)
{
        uint64_t now_ms = clock_now_ms(loop_clock(m->agent->loop));
        struct error *error = NULL;

        if (!m->started_ms) /* an agent that took it up gives it its time anew */
                m->started_ms = now_ms;
        if (!m->timeout_ms || now_ms - m->started_ms < m->timeout_ms)
                return false;
        (void)error_set(&error, ERROR_TIMED_OUT, "Give it more time, or a higher rate limit.",
                "the disks were not copied within the time limit; they are where they were");
        storage_move_stop(m, error);
        return true;
}

/* What remains, and whether that is known. False: a job is gone, of which *ret_problem tells. */
static bool take_status(struct storage_move *m, const json_t *jobs, struct disk_convergence_status *ret,
        const char **ret_problem)
{
        struct disk_convergence_status status = {.now_ms = clock_now_ms(loop_clock(m->agent->loop)),
                .rate_limit = m->rate_bytes_per_s,
                .counted = true,
                .whole = true};

        take_jobs(m, jobs, ret_problem);
        for (size_t i = 0; i < m->record->n_disks; i++) {
                struct storage_move_disk *disk = &m->disks[i];

                if (!disk->job_runs)
                        return false;
                disk->was_ready = disk->was_ready || disk->job_ready;
                status.copied_bytes += disk->copied_bytes;
                status.remaining_bytes += disk->total_bytes - MIN(disk->total_bytes, disk->copied_bytes);
                status.counted = status.counted && (disk->was_ready || disk->total_bytes > 0);
                status.whole = status.whole && disk->was_ready;
        }
        *ret = status;
        return true;
}

static void on_throttled(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (error)
                log_warning(
                        "VM %s: QEMU does not throttle a disk: %s", m->config->name, error_message(error));
        m->at++;
        throttle_next(m);
}

/* Bytes a second; 0: QEMU limits nothing. */
static uint64_t write_limit(const struct storage_move *m)
{
        if (m->phase == STORAGE_MOVE_COPYING && m->convergence.throttle_percent)
                return disk_convergence_write_limit(&m->convergence, m->record->n_disks);
        return any_job_runs(m) ? NO_LIMIT_BYTES_PER_S : 0;
}

/* The guest's writes to each of the disks, or with nothing in force no longer; then `then`. */
static void throttle_next(struct storage_move *m)
{
        uint64_t limit = write_limit(m);

        if (m->at == m->record->n_disks) {
                m->throttled = limit != 0;
                m->after_throttle(m);
                return;
        }
        send(m, "block_set_io_throttle",
                json_pack("{s:s, s:i, s:i, s:I, s:i, s:i, s:i}", "id", m->disks[m->at].device, "bps", 0,
                        "bps_rd", 0, "bps_wr", (json_int_t)limit, "iops", 0, "iops_rd", 0, "iops_wr", 0),
                on_throttled);
}

static void set_throttle(struct storage_move *m, void (*then)(struct storage_move *m))
{
        m->at = 0;
        m->after_throttle = then;
        m->throttled = true;
        throttle_next(m);
}

static void follow_on(struct storage_move *m)
{
        storage_move_again(m, FOLLOW_MS, follow);
}

static void on_speed_set(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (failed(m, "QEMU does not take the copy's rate", error))
                return;
        m->at++;
        speed_next(m);
}

static void speed_next(struct storage_move *m)
{
        char id[ID_SIZE];

        if (m->at == m->record->n_disks)
                m->after_throttle(m);
        else
                send(m, "block-job-set-speed",
                        json_pack(
                                "{s:s, s:I}", "device", job_id(m, m->at, id), "speed", (json_int_t)m->speed),
                        on_speed_set);
}

/* Of each job, in bytes a second, 0: no limit; then `then`. */
static void set_speed(struct storage_move *m, uint64_t speed, void (*then)(struct storage_move *m))
{
        m->at = m->rate_bytes_per_s ? 0 : m->record->n_disks;
        m->speed = speed;
        m->after_throttle = then;
        speed_next(m);
}

static void say_help(const struct storage_move *m)
{
        const struct disk_convergence_entry *e = &m->convergence.entries[m->convergence.n_entries - 1];

        log_notice("VM %s writes to its disks faster than they are copied: %s (%s), pause of up to %" PRIu64
                   " ms, throttle %u %%",
                m->config->name, converge_step_to_string(e->step), e->why, e->max_pause_ms,
                e->throttle_percent);
}

static void on_followed(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        struct disk_convergence_status status;
        size_t n_entries = m->convergence.n_entries;
        enum disk_convergence_action action;
        const char *problem;

        m->call = NULL;
        if (failed(m, "QEMU does not tell how far the copy is", error))
                return;
        if (!take_status(m, result, &status, &problem)) {
                stop_for(m, "the copy of a disk failed", problem ?: "QEMU has given it up");
                return;
        }
        if (is_late(m))
                return;
        action = disk_convergence_update(&m->convergence, &status);
        if (m->convergence.n_entries > n_entries)
                say_help(m);
        switch (action) {
        case DISK_CONVERGENCE_GO_ON:
                follow_on(m);
                break;
        case DISK_CONVERGENCE_SWITCH:
                storage_move_point(m, "storage-move-ready", begin_switch);
                break;
        case DISK_CONVERGENCE_THROTTLE:
                set_throttle(m, follow_on);
                break;
        case DISK_CONVERGENCE_GIVE_UP:
                storage_move_stop(m, disk_convergence_error(&m->convergence));
        }
}

static void follow(void *userdata)
{
        send(userdata, "query-jobs", NULL, on_followed);
}

/* --- The switch ---------------------------------------------------------------------------------------------- */

static void poll_before(void *userdata);
static void poll_after(void *userdata);

static void begin_letting_go(struct storage_move *m)
{
        m->at = 0;
        let_go_next(m);
}

static void on_throttled_nodes(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (!error && take_nodes(m, result))
                set_throttle(m, begin_letting_go);
        else
                begin_letting_go(m);
}

static void finish(struct storage_move *m)
{
        if (m->throttled) /* an agent that has just started does not know the devices */
                look_for_nodes(m, on_throttled_nodes);
        else
                begin_letting_go(m);
}

static void on_continued(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        struct vm *vm = storage_move_vm(m);

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (error)
                log_error(
                        "VM %s: QEMU does not continue the guest: %s", m->config->name, error_message(error));
        if (error && !m->error)
                (void)error_set(&m->error, ERROR_QEMU_FAILED, "Look at the guest, and resume it.",
                        "the disks moved, but QEMU does not continue the guest: %s", error_message(error));
        if (!m->result) /* else measured when the guest went on */
                storage_move_measure(m);
        /* Whoever resumes this must not take the guest for one that is stopped. */
        m->guest_stopped = m->was_running = false;
        (void)storage_move_journal(m, NULL);
        if (vm)
                vm_refresh(vm);
        finish(m);
}

static void continue_guest(struct storage_move *m)
{
        if (m->was_running)
                send(m, "cont", NULL, on_continued);
        else
                finish(m);
}

static void on_commit(struct storage_move *m)
{
        const struct vm *vm = storage_move_vm(m);

        if (vm && vm_has_qemu(vm))
                continue_guest(m);
        else
                storage_move_conclude(m);
}

static void commit(struct storage_move *m)
{
        storage_move_commit(m, on_commit);
}

static void on_nodes_after(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        bool all = true;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (error || !take_nodes(m, result)) { /* a guess could lose data */
                storage_move_again(m, AGAIN_MS, storage_move_on_resume);
                return;
        }
        for (size_t i = 0; i < m->record->n_disks; i++) {
                m->record->disks[i].switched = is_on_copy(m, i);
                all = all && m->record->disks[i].switched;
        }
        if (!all && !m->error)
                (void)error_set(&m->error, ERROR_QEMU_FAILED, NULL, "QEMU did not switch all of the disks");
        if (move_record_any_switched(m->record))
                storage_move_point(m, "storage-move-pivoted", commit);
        else {
                storage_move_enter(m, STORAGE_MOVE_UNDOING);
                undo_jobs(m);
        }
}

static void on_polled_after(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        const char *problem;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        take_jobs(m, result, &problem);
        if (problem && !m->error)
                (void)error_set(
                        &m->error, ERROR_QEMU_FAILED, NULL, "the switch to the copy failed: %s", problem);
        if (!error && !any_job_runs(m))
                look_for_nodes(m, on_nodes_after);
        else if (clock_now_ms(loop_clock(m->agent->loop)) - m->completing_ms > COMPLETE_PATIENCE_MS)
                stop_for(m, "the switch to the copy failed", "QEMU does not complete it");
        else
                storage_move_again(m, SWITCH_POLL_MS, poll_after);
}

static void poll_after(void *userdata)
{
        send(userdata, "query-jobs", NULL, on_polled_after);
}

/* An error is the job's own, which is asked for afterwards. */
static void on_completed(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char id[ID_SIZE];

        m->call = NULL;
        if (is_silent(m, error))
                return;
        while (m->at < m->record->n_disks && !m->disks[m->at].job_runs)
                m->at++;
        if (m->at == m->record->n_disks) {
                poll_after(m);
                return;
        }
        (void)job_id(m, m->at++, id);
        send(m, "job-complete", json_pack("{s:s}", "id", id), on_completed);
}

static void complete_jobs(struct storage_move *m)
{
        m->completing_ms = clock_now_ms(loop_clock(m->agent->loop));
        m->at = 0;
        on_completed(m, NULL, NULL);
}

static void on_going_on(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        struct vm *vm = storage_move_vm(m);

        m->call = NULL;
        if (failed(m, "QEMU does not continue the guest", error))
                return;
        m->guest_stopped = m->was_running = false;
        if (vm)
                vm_refresh(vm);
        storage_move_enter(m, STORAGE_MOVE_COPYING);
        if (disk_convergence_unsettled(&m->convergence, clock_now_ms(loop_clock(m->agent->loop))))
                set_speed(m, job_speed(m), follow_on);
        else
                storage_move_stop(m, disk_convergence_error(&m->convergence));
}

static void let_guest_go_on(struct storage_move *m)
{
        if (m->was_running)
                send(m, "cont", NULL, on_going_on);
        else
                on_going_on(m, NULL, NULL);
}

/* The rest takes longer than it may: nothing was switched, so the guest goes on where it was, and the copy with it. The journal says so
 * only once it does: an agent that starts again before stops it anew, and does not leave it stopped. */
static void go_on_copying(struct storage_move *m)
{
        log_warning("storage migration %s of VM %s: the rest was not copied in time; the guest goes on where "
                    "it was",
                m->id, m->config->name);
        storage_move_point(m, "storage-move-unsettled", let_guest_go_on);
}

/* The guest is stopped: only the rest is left to copy. Jobs that have ended were completed by an agent before us. */
static void on_polled_before(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        uint64_t now_ms = clock_now_ms(loop_clock(m->agent->loop));
        const char *problem;
        bool ready = true;

        m->call = NULL;
        if (failed(m, "QEMU does not tell how far the copy is", error))
                return;
        take_jobs(m, result, &problem);
        for (size_t i = 0; i < m->record->n_disks; i++)
                ready = ready && (m->disks[i].job_ready || !m->disks[i].job_runs);
        if (problem)
                stop_for(m, "the copy of a disk failed", problem);
        else if (ready)
                storage_move_point(m, "storage-move-stopped", complete_jobs);
        else if (now_ms - m->stopped_ms > m->convergence.max_pause_ms + SETTLE_SPARE_MS)
                go_on_copying(m);
        else
                storage_move_again(m, SWITCH_POLL_MS, poll_before);
}

static void poll_before(void *userdata)
{
        send(userdata, "query-jobs", NULL, on_polled_before);
}

static void on_stopped_status(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        struct error *cause = NULL;

        m->call = NULL;
        if (failed(m, "QEMU does not tell whether the guest runs", error))
                return;
        if (!may_run(result)) {
                poll_before(m);
                return;
        }
        (void)error_set(&cause, ERROR_NOT_SUPPORTED, "Wake it, or use QEMU 9.0 or later.",
                "the guest sleeps (ACPI S3), and this QEMU cannot keep it from waking during the switch; the "
                "disks are where they were");
        storage_move_stop(m, cause);
}

static void on_stopped(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (!failed(m, "QEMU does not stop the guest", error))
                send(m, "query-status", NULL, on_stopped_status);
}

static void stop_guest(struct storage_move *m)
{
        m->stopped_ms = clock_now_ms(loop_clock(m->agent->loop));
        if (!m->was_running) {
                poll_before(m);
                return;
        }
        m->guest_stopped = true;
        send(m, "stop", NULL, on_stopped);
}

static void on_status(void *userdata, const json_t *result, const struct error *reply_error)
{
        struct storage_move *m = userdata;
        struct error *error = NULL;

        m->call = NULL;
        if (failed(m, "QEMU does not tell whether the guest runs", reply_error))
                return;
        if (!m->guest_stopped)
                m->was_running = may_run(result);
        m->phase = STORAGE_MOVE_SWITCHING;
        if (storage_move_journal(m, &error) < 0) {
                m->phase = STORAGE_MOVE_COPYING;
                storage_move_stop(m, error);
                return;
        }
        stop_guest(m);
}

static void ask_status(struct storage_move *m)
{
        send(m, "query-status", NULL, on_status);
}

/* Asked of QEMU: what we last heard may be old, and a guest that runs during the switch writes to the copy alone. What was written
 * while the copies were flushed may be too much again. */
static void on_rest(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        struct disk_convergence_status status;
        const char *problem;

        m->call = NULL;
        if (failed(m, "QEMU does not tell how far the copy is", error))
                return;
        if (!take_status(m, result, &status, &problem))
                stop_for(m, "the copy of a disk failed", problem ?: "QEMU has given it up");
        else if (disk_convergence_fits(&m->convergence, &status))
                set_speed(m, 0, ask_status); /* the guest does not wait for the rate limit */
        else
                follow_on(m);
}

static void on_tried(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;

        m->offload = NULL;
        if (error && error->code == ERROR_STALE_EPOCH && storage_move_lost(m, error))
                return;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        storage_move_take_sizes(m, result);
        send(m, "query-jobs", NULL, on_rest);
}

/* What the switch needs is tried while the guest runs: the copies take a flush, the record can be written, and the VM is ours. What fails
 * or hangs here costs the guest nothing. */
static void begin_switch(struct storage_move *m)
{
        struct error *error = NULL;

        if (storage_move_work(m, STORAGE_MOVE_READY, NULL, on_tried, &error) < 0)
                storage_move_stop(m, error);
}

/* --- Letting go ---------------------------------------------------------------------------------------------- */

/* Nodes that nobody uses any more: of a disk that switched its old ones, else its copy's; then the descriptors behind copies'
 * nodes. What cannot be removed stays until QEMU ends, and is in nobody's way. */

static const char *node_to_drop(
        const struct storage_move *m, size_t disk, char copy[static COMMAND_LINE_NODE_SIZE])
{
        return m->record->disks[disk].switched ? m->disks[disk].source_node : copy_node(m, disk, copy);
}

static void on_fd_removed(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        m->at++;
        let_go_next(m);
}

static json_int_t fdset_of(const json_t *sets, const char *opaque)
{
        json_t *set, *fd;
        size_t i, k;

        json_array_foreach ((json_t *)sets, i, set) {
                json_array_foreach (json_object_get(set, "fds"), k, fd) {
                        if (!strcmp(json_string_value(json_object_get(fd, "opaque")) ?: "", opaque))
                                return json_integer_value(json_object_get(set, "fdset-id"));
                }
        }
        return -1;
}

static void on_fdsets(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char copy[COMMAND_LINE_NODE_SIZE];
        json_int_t set;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        set = fdset_of(result, node_to_drop(m, m->at, copy));
        if (set >= 0)
                send(m, "remove-fd", json_pack("{s:I}", "fdset-id", set), on_fd_removed);
        else
                on_fd_removed(m, NULL, NULL);
}

static void on_file_closed(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (!is_silent(m, error))
                send(m, "query-fdsets", NULL, on_fdsets);
}

static void on_node_closed(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char copy[COMMAND_LINE_NODE_SIZE], file[COMMAND_LINE_NODE_SIZE + 8];

        m->call = NULL;
        if (!is_silent(m, error))
                send(m, "blockdev-del",
                        json_pack("{s:s}", "node-name", file_node(node_to_drop(m, m->at, copy), file)),
                        on_file_closed);
}

static void on_dismissed(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char copy[COMMAND_LINE_NODE_SIZE];
        const char *node = node_to_drop(m, m->at, copy);

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (*node)
                send(m, "blockdev-del", json_pack("{s:s}", "node-name", node), on_node_closed);
        else
                on_fd_removed(m, NULL, NULL);
}

static void let_go_next(struct storage_move *m)
{
        char id[ID_SIZE];

        if (m->at < m->record->n_disks)
                send(m, "job-dismiss", json_pack("{s:s}", "id", job_id(m, m->at, id)), on_dismissed);
        else
                storage_move_conclude(m);
}

/* --- Undo ---------------------------------------------------------------------------------------------------- */

static void on_undo_nodes(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (error || !take_nodes(m, result)) {
                storage_move_again(m, AGAIN_MS, storage_move_on_resume);
                return;
        }
        for (size_t i = 0; i < m->record->n_disks; i++)
                m->record->disks[i].switched = is_on_copy(m, i);
        if (move_record_any_switched(m->record)) /* its job was faster than our giving up */
                commit(m);
        else if (m->guest_stopped)
                continue_guest(m);
        else
                finish(m);
}

/* A job ends only when its writes have, and those to a datastore that hangs do not. It was told to end and will; the guest runs on its
 * disks meanwhile. */
static void leave_jobs(struct storage_move *m)
{
        if (alloc_replace(&m->left, "QEMU still waits for writes to the copy, which does not answer; what it "
                                    "has is removed by the next "
                                    "start of the virtual machine") < 0)
                log_error("storage migration %s: out of memory", m->id);
        m->recorded = false; /* as far as this migration goes */
        storage_move_conclude(m);
}

static void on_undo_jobs(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        const char *problem;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        take_jobs(m, result, &problem);
        if (!error && any_job_runs(m) && !m->guest_stopped &&
                clock_now_ms(loop_clock(m->agent->loop)) - m->undoing_ms > UNDO_PATIENCE_MS)
                leave_jobs(m);
        else if (error || any_job_runs(m))
                storage_move_again(m, SWITCH_POLL_MS * 4, undo_jobs);
        else
                look_for_nodes(m, on_undo_nodes);
}

static void on_job_cancelled(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        char id[ID_SIZE];

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (m->at == m->record->n_disks) {
                undo_jobs(m);
                return;
        }
        (void)job_id(m, m->at++, id);
        send(m, "job-cancel", json_pack("{s:s}", "id", id), on_job_cancelled);
}

static void undo_jobs(void *userdata)
{
        send(userdata, "query-jobs", NULL, on_undo_jobs);
}

static void cancel_jobs(struct storage_move *m)
{
        m->at = 0;
        on_job_cancelled(m, NULL, NULL);
}

static void on_undo_devices(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        for (size_t i = 0; i < m->record->n_disks; i++)
                m->disks[i].job_runs = true; /* as far as is known */
        if (!error && take_nodes(m, result))
                set_throttle(m, cancel_jobs);
        else
                cancel_jobs(m);
}

/* What slows the guest down ends first: the jobs need not end, or not soon. */
void storage_move_live_undo(struct storage_move *m)
{
        const struct vm *vm = storage_move_vm(m);

        if (!vm || !vm_has_qemu(vm)) {
                storage_move_conclude(m);
                return;
        }
        m->undoing_ms = clock_now_ms(loop_clock(m->agent->loop));
        if (m->throttled) /* an agent that has just started does not know the devices */
                look_for_nodes(m, on_undo_devices);
        else
                cancel_jobs(m);
}

/* --- Resuming ------------------------------------------------------------------------------------------------ */

static void on_resumed_nodes(void *userdata, const json_t *result, const struct error *error)
{
        struct storage_move *m = userdata;
        bool on_copies = true;

        m->call = NULL;
        if (is_silent(m, error))
                return;
        if (error || !take_nodes(m, result)) {
                storage_move_again(m, AGAIN_MS, storage_move_on_resume);
                return;
        }
        for (size_t i = 0; i < m->record->n_disks; i++) {
                on_copies = on_copies && is_on_copy(m, i);
                if (!m->disks[i].source_node[0] && !is_on_copy(m, i))
                        memcpy(m->disks[i].source_node, m->disks[i].node, sizeof(m->disks[i].source_node));
        }
        if (m->phase == STORAGE_MOVE_COPYING)
                follow(m);
        else if (on_copies)
                on_nodes_after(m, result, NULL);
        else
                stop_guest(m);
}

/* A copy took over in an agent before us, which did not note the old node (an older version): its name is that of the command line, or
 * that of a copy made before, which then stays. */
static void forget_nodes(struct storage_move *m)
{
        for (size_t i = 0; i < m->record->n_disks; i++)
                if (!m->disks[i].source_node[0])
                        command_line_disk_node(m->disks[i].index, m->disks[i].source_node);
}

void storage_move_live_resume(struct storage_move *m)
{
        const struct vm *vm = storage_move_vm(m);
        struct error *error = NULL;

        if (!vm || !vm_has_qemu(vm) || m->phase >= STORAGE_MOVE_SWITCHED)
                return; /* we were, or are about to be, told of its end */
        if (!vm->qmp || !qmp_is_ready(vm->qmp)) {
                storage_move_again(m, AGAIN_MS, storage_move_on_resume);
                return;
        }
        if (m->phase == STORAGE_MOVE_SWITCHING || m->phase == STORAGE_MOVE_UNDOING)
                m->guest_stopped = m->was_running;
        if (m->committing && !m->committed)
                return; /* the record's answer is on its way */
        if (m->committed) {
                forget_nodes(m);
                on_commit(m);
        } else if (m->phase == STORAGE_MOVE_UNDOING)
                storage_move_live_undo(m);
        else if (m->phase == STORAGE_MOVE_PREPARING) {
                (void)error_set(&error, ERROR_PEER_FAILED, "Begin again.",
                        "the agent ended, or lost QEMU's monitor, before the copy began; the disks are where "
                        "they were");
                storage_move_stop(m, error);
        } else
                look_for_nodes(m, on_resumed_nodes);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* How the end and the undoing go is asked of QEMU (query-jobs) at every turn and not kept, so they stand a monitor that goes away, and
 * the latter an agent that starts again.
 *
 * Copying is in the background for the reason that storage_move_live.c gives. A job ends by block-job-cancel once it is ready and the
 * guest is stopped: without `force` QEMU copies the rest and flushes first, and the source stays what the guest's device has. */

#include "agent/disk_mirrors.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/agent.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "vmm/command_line.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
#define FOLLOW_MS 200
#define END_POLL_MS 2
#define UNDO_POLL_MS 50
#define AGAIN_MS 500
#define ID_SIZE COMMAND_LINE_NODE_SIZE

struct mirror {
        size_t index; /* in the VM's document */
        char node[COMMAND_LINE_NODE_SIZE];
        uint64_t size_bytes, used_bytes;
        uint64_t copied_bytes, total_bytes;
        bool ready;
        bool cancelled; /* was told to end, by this agent */
        bool ended;     /* and has, well */
};

struct disk_mirrors {
        struct agent *agent;
        char *vm_uid;
        char digits[9]; /* of the migration's id */
        struct disk_mirrors_handler handler;
        enum disk_mirrors_state state;
        struct error *error;
        struct disk_convergence convergence;
        bool fits;
        size_t at; /* mirror that is worked on */
        struct qmp_call *call;
        struct loop_source *timer, *tell;
        size_t n;
        struct mirror mirrors[];
};

static void turn(void *userdata);
static void open_next(struct disk_mirrors *m);
static void remove_next(struct disk_mirrors *m);

/* Of the job, of the node and of the descriptor alike. */
static char *name_of(const struct disk_mirrors *m, size_t number, char ret[static ID_SIZE])
{
        snprintf(ret, ID_SIZE, "along%zu-%s", m->mirrors[number].index, m->digits);
        return ret;
}

static void on_tell(void *userdata)
{
        struct disk_mirrors *m = userdata;

        loop_source_free(TAKE_PTR(m->tell));
        m->handler.changed(m->handler.userdata);
}

static void enter(struct disk_mirrors *m, enum disk_mirrors_state state)
{
        m->state = state;
        if (!m->tell && loop_add_defer(m->agent->loop, on_tell, m, &m->tell) < 0)
                log_warning("VM %s: out of memory for its mirrors", m->vm_uid);
}

static void again(struct disk_mirrors *m, uint64_t delay_ms)
{
        int r = m->timer ? loop_source_rearm(m->timer, delay_ms)
                         : loop_add_timer(m->agent->loop, delay_ms, turn, m, &m->timer);

        if (r < 0)
                log_error("VM %s: no timer for its mirrors", m->vm_uid);
}

/* `error` is taken over. */
static void fail(struct disk_mirrors *m, struct error *error)
{
        if (m->error)
                error_free(error);
        else
                m->error = error;
        enter(m, DISK_MIRRORS_FAILED);
}

static void fail_with(struct disk_mirrors *m, const char *what, size_t number, const char *words)
{
        bool full = strstr(words, "No space left") || strstr(words, "quota exceeded");
        struct error *e = NULL;

        error_set(&e, full ? ERROR_NO_SPACE : ERROR_QEMU_FAILED,
                full ? "Free space on the destination's datastore, or choose another." : NULL,
                "%s of disk %zu: %s", what, m->mirrors[number].index, words);
        fail(m, e);
}

/* False: QEMU is not there, or its monitor is not. */
static bool ask(struct disk_mirrors *m, const char *name, json_t *arguments, int fd, qmp_reply_fn reply)
{
        struct vm *vm = vm_find(m->agent, m->vm_uid);

        if (vm && vm->qmp)
                return qmp_command(vm->qmp, name, arguments, fd, QMP_TIMEOUT_MS, reply, m, &m->call, NULL) ==
                       0;
        json_decref(arguments);
        return false;
}

/* --- What QEMU has ------------------------------------------------------------------------------------------- */

/* "dev-disk3", alone or within a path of QEMU's object model. */
static bool is_device(const char *qdev, size_t index)
{
        char id[ID_SIZE];
        size_t len = (size_t)snprintf(id, sizeof(id), "dev-disk%zu", index);
        const char *at = strstr(qdev, id);

        return at && (at == qdev || at[-1] == '/') && (at[len] == '\0' || at[len] == '/');
}

static bool take_device(struct mirror *mirror, const json_t *devices)
{
        json_t *device;
        size_t i;

        json_array_foreach ((json_t *)devices, i, device) {
                const char *qdev = json_string_value(json_object_get(device, "qdev"));
                const json_t *inserted = json_object_get(device, "inserted");
                const char *node = json_string_value(json_object_get(inserted, "node-name"));
                const json_t *image = json_object_get(inserted, "image");
                json_int_t size = json_integer_value(json_object_get(image, "virtual-size"));
                json_int_t used = json_integer_value(json_object_get(image, "actual-size"));

                if (!qdev || !node || size <= 0 || !is_device(qdev, mirror->index) ||
                        strlen(node) >= sizeof(mirror->node))
                        continue;
                memcpy(mirror->node, node, strlen(node) + 1);
                mirror->size_bytes = (uint64_t)size;
                mirror->used_bytes = used > 0 ? MIN((uint64_t)used, (uint64_t)size) : (uint64_t)size;
                return true;
        }
        return false;
}

static void on_devices(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;

        m->call = NULL;
        for (size_t i = 0; i < m->n; i++)
                if (error || !take_device(&m->mirrors[i], result))
                        return fail_with(m, "the size", i,
                                error ? error_message(error) : "QEMU does not have this disk");
        enter(m, DISK_MIRRORS_KNOWN);
}

void disk_mirrors_look(struct disk_mirrors *m)
{
        m->state = DISK_MIRRORS_LOOKING;
        if (!ask(m, "query-block", NULL, -1, on_devices))
                fail_with(m, "the size", 0, "the monitor does not answer");
}

/* --- Opening ------------------------------------------------------------------------------------------------- */

static bool opening_failed(struct disk_mirrors *m, const struct error *error)
{
        m->call = NULL;
        if (error)
                fail_with(m, "the mirror to the destination", m->at, error_message(error));
        return error != NULL;
}

static void on_mirror(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;

        if (opening_failed(m, error))
                return;
        m->at++;
        open_next(m);
}

static void on_node(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;
        char name[ID_SIZE];

        if (opening_failed(m, error))
                return;
        (void)name_of(m, m->at, name);
        if (!ask(m, "blockdev-mirror",
                    json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "job-id", name, "device",
                            m->mirrors[m->at].node, "target", name, "sync", "full", "copy-mode", "background",
                            "on-source-error", "report", "on-target-error", "report", "auto-dismiss", 0),
                    -1, on_mirror))
                fail_with(m, "the mirror to the destination", m->at, "the monitor does not answer");
}

static void on_fd(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;
        char name[ID_SIZE];

        if (opening_failed(m, error))
                return;
        (void)name_of(m, m->at, name);
        if (!ask(m, "blockdev-add",
                    json_pack("{s:s, s:s, s:{s:s, s:s}, s:s, s:s}", "driver", "nbd", "node-name", name,
                            "server", "type", "fd", "str", name, "export", "", "discard", "unmap"),
                    -1, on_node))
                fail_with(m, "the mirror to the destination", m->at, "the monitor does not answer");
}

static void open_next(struct disk_mirrors *m)
{
        char name[ID_SIZE];
        int pair[2];

        if (m->at == m->n) {
                enter(m, DISK_MIRRORS_COPYING);
                again(m, FOLLOW_MS);
                return;
        }
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return fail_with(m, "the mirror to the destination", m->at, strerror(errno));
        if (!m->handler.give(m->handler.userdata, m->at, pair[0]) ||
                !ask(m, "getfd", json_pack("{s:s}", "fdname", name_of(m, m->at, name)), pair[1], on_fd))
                fail_with(
                        m, "the mirror to the destination", m->at, "the data path, or the monitor, is gone");
        (void)close(pair[0]);
        (void)close(pair[1]);
}

void disk_mirrors_begin(struct disk_mirrors *m, const struct converge_policy *policy, uint64_t max_pause_ms)
{
        disk_convergence_init(
                &m->convergence, policy, max_pause_ms, clock_now_ms(loop_clock(m->agent->loop)));
        m->state = DISK_MIRRORS_OPENING;
        m->at = 0;
        open_next(m);
}

/* --- Jobs ---------------------------------------------------------------------------------------------------- */

/* NULL: QEMU has no such job. */
static const json_t *job_of(const struct disk_mirrors *m, size_t number, const json_t *jobs)
{
        char name[ID_SIZE];
        json_t *job;
        size_t i;

        (void)name_of(m, number, name);
        json_array_foreach ((json_t *)jobs, i, job)
                if (!strcmp(json_string_value(json_object_get(job, "id")) ?: "", name))
                        return job;
        return NULL;
}

static bool is(const json_t *job, const char *status)
{
        return !strcmp(json_string_value(json_object_get(job, "status")) ?: "", status);
}

/* False: a mirror has failed. */
static bool take_progress(struct disk_mirrors *m, const json_t *jobs, struct disk_convergence_status *status)
{
        for (size_t i = 0; i < m->n; i++) {
                struct mirror *mirror = &m->mirrors[i];
                const json_t *job = job_of(m, i, jobs);
                json_int_t copied = json_integer_value(json_object_get(job, "current-progress"));
                json_int_t total = json_integer_value(json_object_get(job, "total-progress"));

                if (!job || is(job, "concluded") || is(job, "aborting") || is(job, "null")) {
                        fail_with(m, "the mirror to the destination", i,
                                json_string_value(json_object_get(job, "error")) ?: "QEMU has given it up");
                        return false;
                }
                mirror->ready |= is(job, "ready");
                mirror->copied_bytes = (uint64_t)MAX(copied, 0);
                mirror->total_bytes = (uint64_t)MAX(total, 0);
                status->copied_bytes += mirror->copied_bytes;
                status->remaining_bytes +=
                        mirror->total_bytes - MIN(mirror->copied_bytes, mirror->total_bytes);
                status->counted &= mirror->ready || mirror->total_bytes > 0;
                status->whole &= mirror->ready;
        }
        return true;
}

static void follow(struct disk_mirrors *m, const json_t *jobs)
{
        struct disk_convergence_status status = {
                .now_ms = clock_now_ms(loop_clock(m->agent->loop)), .counted = true, .whole = true};
        enum disk_convergence_action action;

        if (!take_progress(m, jobs, &status))
                return;
        action = disk_convergence_update(&m->convergence, &status);
        m->fits = status.whole && disk_convergence_fits(&m->convergence, &status);
        if (action == DISK_CONVERGENCE_GIVE_UP)
                return fail(m, disk_convergence_error(&m->convergence));
        if (m->state == DISK_MIRRORS_COPYING && m->fits)
                enter(m, DISK_MIRRORS_READY);
        again(m, FOLLOW_MS);
}

static void forget_told(struct disk_mirrors *m)
{
        for (size_t i = 0; i < m->n; i++)
                m->mirrors[i].cancelled = false;
}

static void on_told(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;

        m->call = NULL;
        if (error && m->state == DISK_MIRRORS_UNDOING) { /* a job that has not ended is told again */
                forget_told(m);
                return again(m, AGAIN_MS);
        }
        turn(m); /* whatever came of it is seen there */
}

/* One command at a time towards no job at all; true when there is none. */
static bool settle_jobs(struct disk_mirrors *m, const json_t *jobs)
{
        bool force = m->state == DISK_MIRRORS_UNDOING, any = false;
        char name[ID_SIZE];

        for (size_t i = 0; i < m->n; i++) {
                struct mirror *mirror = &m->mirrors[i];
                const json_t *job = job_of(m, i, jobs);
                const char *problem = json_string_value(json_object_get(job, "error"));

                (void)name_of(m, i, name);
                if (!job && !force && !mirror->ended) {
                        fail_with(m, "the mirror to the destination", i, "QEMU has given it up");
                        return false;
                }
                if (!job || is(job, "null"))
                        continue;
                any = true;
                if (is(job, "concluded")) {
                        if (!force && (problem || !mirror->cancelled)) {
                                fail_with(m, "the mirror to the destination", i,
                                        problem ?: "it ended too early");
                                return false;
                        }
                        mirror->ended = !problem;
                        if (ask(m, "job-dismiss", json_pack("{s:s}", "id", name), -1, on_told))
                                return false;
                } else if (!mirror->cancelled && (force || is(job, "ready"))) {
                        mirror->cancelled = true;
                        if (ask(m, "block-job-cancel",
                                    json_pack("{s:s, s:b}", "device", name, "force", force), -1, on_told))
                                return false;
                }
        }
        if (any)
                again(m, force ? UNDO_POLL_MS : END_POLL_MS);
        return !any;
}

static void on_removed(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;

        m->call = NULL;
        /* The monitor, or a job that has not let go of it yet; else there is no such node. */
        if (error && (error->code != ERROR_QEMU_FAILED || strstr(error_message(error), "in use")))
                return again(m, AGAIN_MS);
        m->at++;
        remove_next(m);
}

static void remove_next(struct disk_mirrors *m)
{
        char name[ID_SIZE];

        if (m->at == m->n)
                return enter(m, m->state == DISK_MIRRORS_UNDOING ? DISK_MIRRORS_GONE : DISK_MIRRORS_ENDED);
        if (!ask(m, "blockdev-del", json_pack("{s:s}", "node-name", name_of(m, m->at, name)), -1, on_removed))
                again(m, AGAIN_MS);
}

static void on_jobs(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_mirrors *m = userdata;

        m->call = NULL;
        if (error)
                return again(m, AGAIN_MS);
        if (m->state == DISK_MIRRORS_COPYING || m->state == DISK_MIRRORS_READY)
                return follow(m, result);
        if (!settle_jobs(m, result))
                return;
        m->at = 0;
        remove_next(m);
}

/* Looks at QEMU, in the states in which that leads to something. */
static void turn(void *userdata)
{
        struct disk_mirrors *m = userdata;
        struct vm *vm = vm_find(m->agent, m->vm_uid);

        if (m->call || m->state < DISK_MIRRORS_COPYING || m->state == DISK_MIRRORS_ENDED ||
                m->state == DISK_MIRRORS_FAILED || m->state == DISK_MIRRORS_GONE)
                return;
        if (m->state == DISK_MIRRORS_UNDOING && (!vm || !vm_has_qemu(vm)))
                return enter(m, DISK_MIRRORS_GONE);
        if (!ask(m, "query-jobs", NULL, -1, on_jobs))
                again(m, AGAIN_MS);
}

static void turn_to(struct disk_mirrors *m, enum disk_mirrors_state state)
{
        qmp_call_cancel(TAKE_PTR(m->call));
        m->state = state;
        forget_told(m);
        again(m, 0);
}

void disk_mirrors_end(struct disk_mirrors *m)
{
        if (m->state == DISK_MIRRORS_COPYING || m->state == DISK_MIRRORS_READY)
                turn_to(m, DISK_MIRRORS_ENDING);
}

void disk_mirrors_undo(struct disk_mirrors *m)
{
        if (m->state != DISK_MIRRORS_UNDOING && m->state != DISK_MIRRORS_GONE)
                turn_to(m, DISK_MIRRORS_UNDOING);
}

void disk_mirrors_leave_monitor(struct disk_mirrors *m)
{
        qmp_call_cancel(TAKE_PTR(m->call));
        if (m->state == DISK_MIRRORS_UNDOING) /* what it was told may not have come there */
                forget_told(m);
        if (m->state == DISK_MIRRORS_LOOKING || m->state == DISK_MIRRORS_OPENING)
                fail_with(m, "the mirror to the destination", 0, "the monitor was lost");
        else
                again(m, AGAIN_MS);
}

/* --- The object ---------------------------------------------------------------------------------------------- */

int disk_mirrors_new(struct agent *agent, const char *vm_uid, const char *id, const size_t *indexes, size_t n,
        const struct disk_mirrors_handler *handler, struct disk_mirrors **ret_mirrors)
{
        _cleanup_(disk_mirrors_freep) struct disk_mirrors *m =
                alloc_zero(sizeof(*m) + n * sizeof(struct mirror));

        if (!m)
                return -ENOMEM;
        m->agent = agent;
        m->handler = *handler;
        m->n = n;
        m->vm_uid = alloc_strdup(vm_uid);
        if (!m->vm_uid)
                return -ENOMEM;
        snprintf(m->digits, sizeof(m->digits), "%.8s", id);
        for (size_t i = 0; i < n; i++)
                m->mirrors[i].index = indexes[i];
        *ret_mirrors = TAKE_PTR(m);
        return 0;
}

void disk_mirrors_free(struct disk_mirrors *m)
{
        if (!m)
                return;
        qmp_call_cancel(m->call);
        loop_source_free(m->timer);
        loop_source_free(m->tell);
        error_free(m->error);
        free(m->vm_uid);
        free(m);
}

enum disk_mirrors_state disk_mirrors_state(const struct disk_mirrors *m)
{
        return m->state;
}

const struct error *disk_mirrors_error(const struct disk_mirrors *m)
{
        return m->error;
}

uint64_t disk_mirrors_size(const struct disk_mirrors *m, size_t number)
{
        return m->mirrors[number].size_bytes;
}

uint64_t disk_mirrors_used(const struct disk_mirrors *m, size_t number)
{
        return m->mirrors[number].used_bytes;
}

uint64_t disk_mirrors_max_pause_ms(const struct disk_mirrors *m)
{
        return m->convergence.max_pause_ms;
}

bool disk_mirrors_fit(const struct disk_mirrors *m)
{
        return m->fits;
}

json_t *disk_mirrors_progress(const struct disk_mirrors *m)
{
        uint64_t copied = 0, total = 0;

        for (size_t i = 0; i < m->n; i++) {
                copied += m->mirrors[i].copied_bytes;
                total += m->mirrors[i].total_bytes;
        }
        return json_pack("{s:I, s:I}", "copied_bytes", (json_int_t)copied, "total_bytes", (json_int_t)total);
}

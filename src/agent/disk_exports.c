/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/disk_exports.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/sock.h"
#include "mover/wire.h"
#include "vmm/command_line.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
#define AGAIN_MS 100

struct disk_exports {
        struct agent *agent;
        char *vm_uid;
        char *path; /* of the socket, while it is there */
        size_t indexes[WIRE_MAX_DISKS];
        size_t n, at;
        disk_exports_fn done;
        void (*closed)(void *userdata);
        void *userdata;
        struct qmp_call *call;
        struct loop_source *timer;
};

static void export_next(struct disk_exports *e);
static void try_close(void *userdata);

char *disk_export_name(size_t index, char ret[static DISK_EXPORT_NAME_SIZE])
{
        snprintf(ret, DISK_EXPORT_NAME_SIZE, "disk%zu", index);
        return ret;
}

static bool ask(struct disk_exports *e, const char *name, json_t *arguments, qmp_reply_fn reply)
{
        struct vm *vm = vm_find(e->agent, e->vm_uid);

        if (vm && vm->qmp)
                return qmp_command(vm->qmp, name, arguments, -1, QMP_TIMEOUT_MS, reply, e, &e->call, NULL) ==
                       0;
        json_decref(arguments);
        return false;
}

static void remove_socket(struct disk_exports *e)
{
        if (e->path)
                (void)unlink(e->path);
        free(TAKE_PTR(e->path));
}

static void finish(struct disk_exports *e, const int *fds, const char *words)
{
        disk_exports_fn done = TAKE_PTR(e->done);
        _cleanup_error_ struct error *error = NULL;

        remove_socket(e);
        if (words)
                error_set(&error, ERROR_QEMU_FAILED, NULL,
                        "QEMU at the destination does not let its disks be written: %s", words);
        if (done)
                done(e->userdata, words ? NULL : fds, e->n, error);
}

static bool failed(struct disk_exports *e, const struct error *error)
{
        e->call = NULL;
        if (error)
                finish(e, NULL, error_message(error));
        return error != NULL;
}

/* They wait in the server's backlog until QEMU takes them. */
static void connect_all(struct disk_exports *e)
{
        int fds[WIRE_MAX_DISKS], r = 0;
        size_t n = 0;

        for (; r == 0 && n < e->n; n += r == 0)
                r = sock_connect_unix(e->path, SOCK_STREAM, &fds[n]);
        if (r == 0)
                return finish(e, fds, NULL);
        while (n > 0)
                (void)close(fds[--n]);
        finish(e, NULL, strerror(-r));
}

static void on_exported(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_exports *e = userdata;

        if (failed(e, error))
                return;
        e->at++;
        export_next(e);
}

static void export_next(struct disk_exports *e)
{
        char name[DISK_EXPORT_NAME_SIZE], node[COMMAND_LINE_NODE_SIZE];

        if (e->at == e->n)
                return connect_all(e);
        if (!ask(e, "block-export-add",
                    json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id",
                            disk_export_name(e->indexes[e->at], name), "node-name",
                            command_line_disk_node(e->indexes[e->at], node), "name", name, "writable", 1),
                    on_exported))
                finish(e, NULL, "its monitor does not answer");
}

static void on_server(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_exports *e = userdata;

        if (!failed(e, error))
                export_next(e);
}

static struct disk_exports *exports_new(struct agent *agent, const char *vm_uid, void *userdata)
{
        struct disk_exports *e = ALLOC(struct disk_exports);

        if (!e)
                return NULL;
        e->agent = agent;
        e->userdata = userdata;
        e->vm_uid = alloc_strdup(vm_uid);
        if (e->vm_uid)
                return e;
        free(e);
        return NULL;
}

int disk_exports_adopt(
        struct agent *agent, const char *vm_uid, void *userdata, struct disk_exports **ret_exports)
{
        *ret_exports = exports_new(agent, vm_uid, userdata);
        return *ret_exports ? 0 : -ENOMEM;
}

int disk_exports_open(struct agent *agent, const char *vm_uid, const size_t *indexes, size_t n,
        disk_exports_fn done, void *userdata, struct disk_exports **ret_exports, struct error **ret_error)
{
        struct disk_exports *e = exports_new(agent, vm_uid, userdata);
        const struct vm *vm = vm_find(agent, vm_uid);

        if (!e || !vm || n > WIRE_MAX_DISKS) {
                disk_exports_free(e);
                return error_from_errno(ret_error, vm ? ENOMEM : ENOENT, "exports of the disks");
        }
        memcpy(e->indexes, indexes, n * sizeof(*indexes));
        e->n = n;
        e->done = done;
        e->path = vm_runtime_path(vm, "disks.sock");
        if (e->path)
                (void)unlink(e->path);
        if (!e->path || !ask(e, "nbd-server-start",
                                json_pack("{s:{s:s, s:{s:s}}, s:i}", "addr", "type", "unix", "data", "path",
                                        e->path, "max-connections", (int)n),
                                on_server)) {
                disk_exports_free(e);
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL, "the monitor of QEMU does not answer");
        }
        *ret_exports = e;
        return 0;
}

/* --- Closing ------------------------------------------------------------------------------------------------- */

static void try_again(struct disk_exports *e)
{
        int r = e->timer ? loop_source_rearm(e->timer, AGAIN_MS)
                         : loop_add_timer(e->agent->loop, AGAIN_MS, try_close, e, &e->timer);

        if (r < 0)
                log_error("VM %s: no timer for the end of its disks' exports", e->vm_uid);
}

/* Its error is that there is no server. */
static void on_stopped(void *userdata, const json_t *result, const struct error *error)
{
        struct disk_exports *e = userdata;
        void (*closed)(void *) = e->closed;

        e->call = NULL;
        if (error && error->code != ERROR_QEMU_FAILED)
                return try_again(e);
        e->closed = NULL;
        closed(e->userdata);
}

static void try_close(void *userdata)
{
        struct disk_exports *e = userdata;

        if (!e->call && e->closed && !ask(e, "nbd-server-stop", NULL, on_stopped))
                try_again(e);
}

void disk_exports_close(struct disk_exports *e, void (*closed)(void *userdata))
{
        e->done = NULL;
        qmp_call_cancel(TAKE_PTR(e->call));
        remove_socket(e);
        e->closed = closed;
        try_close(e);
}

void disk_exports_leave_monitor(struct disk_exports *e)
{
        qmp_call_cancel(TAKE_PTR(e->call));
        if (e->closed)
                try_again(e);
        else if (e->done)
                finish(e, NULL, "its monitor was lost");
}

void disk_exports_free(struct disk_exports *e)
{
        if (!e)
                return;
        qmp_call_cancel(e->call);
        loop_source_free(e->timer);
        remove_socket(e);
        free(e->vm_uid);
        free(e);
}

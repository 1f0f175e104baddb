/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/opening.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/alloc.h"
#include "io/sock.h"
#include "storage/beneath.h"
#include "storage/offload.h"

static_assert(OPENING_FILES_MAX <= SOCK_MAX_FDS, "all descriptors go in one message");

struct opening {
        struct offload *offload;
        int socket; /* our end; the child sends the descriptors through the other */
        size_t n_files;
        opening_done_fn done;
        void *userdata;
};

/* For the child. */
struct args {
        const struct opening_file *files;
        size_t n_files;
};

static void close_all(int fds[static OPENING_FILES_MAX])
{
        for (size_t i = 0; i < OPENING_FILES_MAX; i++) {
                fd_closep(&fds[i]);
                fds[i] = -1;
        }
}

/* --- In the child -------------------------------------------------------------------------------------------- */

static int make_folders(const struct datastore *store, const char *path)
{
        const char *slash = strrchr(path, '/');
        char folder[256];

        if (!slash)
                return 0;
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path), path);
        return beneath_make_dirs(store->fd, folder, 0750);
}

/* O_DIRECT is refused at open() by file systems that lack it. */
static void make_direct(int fd)
{
        _cleanup_fd_ int probe = -1;
        char path[32];

        (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        probe = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
        if (probe >= 0)
                (void)fcntl(fd, F_SETFL, O_DIRECT);
}

static int open_file(const struct opening_file *file, int *ret_fd, struct error **ret_error)
{
        _cleanup_(datastore_freep) struct datastore *store = NULL;
        _cleanup_fd_ int fd = -1;
        char name[512];
        int r = datastore_open(
                file->datastore->name, file->datastore->path, file->datastore->id, &store, ret_error);

        if (r < 0)
                return r;
        r = text_is_relative_path(file->path) ? 0 : -EXDEV;
        if (r == 0 && (file->flags & O_CREAT))
                r = make_folders(store, file->path);
        if (r == 0)
                r = beneath_open_file(
                        store->fd, file->path, file->flags, file->flags & O_CREAT ? 0640 : 0, &fd);
        if (r < 0)
                return beneath_failed(r, store->name, file->path, ret_error);
        snprintf(name, sizeof(name), "%s: %s", store->name, file->path);
        r = file->is_image ? image_check_header(fd, file->format, name, ret_error) : 0;
        if (r < 0)
                return r;
        if (file->direct)
                make_direct(fd);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int open_in_child(void *arg, json_t **ret_result, struct error **ret_error)
{
        const struct args *args = arg;
        int fds[OPENING_FILES_MAX] = {-1, -1};
        int r = 0;

        for (size_t i = 0; i < args->n_files && r == 0; i++)
                r = open_file(&args->files[i], &fds[i], ret_error);
        if (r < 0)
                return r;
        r = sock_send_fds(OFFLOAD_FD, "f", 1, fds, args->n_files);
        return r < 0 ? error_from_errno(ret_error, r, "descriptors") : 0;
}

/* --- Here ---------------------------------------------------------------------------------------------------- */

static int receive(const struct opening *opening, int fds[static OPENING_FILES_MAX])
{
        size_t len = 0, n = opening->n_files;
        char byte;
        int r = sock_recv_fds(opening->socket, &byte, 1, &len, fds, &n);

        return r < 0 ? r : len == 1 && n == opening->n_files ? 0 : -EPROTO;
}

static void on_opened(void *userdata, json_t *result, struct error *error)
{
        _cleanup_(opening_freep) struct opening *opening = userdata;
        int fds[OPENING_FILES_MAX] = {-1, -1}, r;
        _cleanup_error_ struct error *failure = NULL;
        opening_done_fn done = opening->done;
        void *receiver = opening->userdata;

        opening->offload = NULL;
        if (!error) {
                r = receive(opening, fds);
                if (r < 0) {
                        close_all(fds);
                        (void)error_from_errno(&failure, r, "descriptors");
                }
        }
        opening_free(TAKE_PTR(opening));
        done(receiver, fds, error ?: failure);
}

int opening_start(struct loop *loop, const struct opening_file *files, size_t n_files, uint64_t timeout_ms,
        opening_done_fn done, void *userdata, struct opening **ret_opening, struct error **ret_error)
{
        _cleanup_(opening_freep) struct opening *opening = ALLOC(struct opening);
        struct args args = {.files = files, .n_files = n_files};
        _cleanup_fd_ int theirs = -1;
        int pair[2], r;

        assert(n_files > 0 && n_files <= OPENING_FILES_MAX);
        if (!opening)
                return error_from_errno(ret_error, ENOMEM, "%s", files[0].path);
        *opening = (struct opening){.socket = -1, .n_files = n_files, .done = done, .userdata = userdata};
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return error_from_errno(ret_error, errno, "%s", files[0].path);
        opening->socket = pair[0];
        theirs = pair[1];
        r = offload_start_with_fd(loop, "opening of a file on a datastore", open_in_child, &args, theirs,
                timeout_ms, on_opened, opening, &opening->offload, ret_error);
        if (r < 0)
                return r;
        *ret_opening = TAKE_PTR(opening);
        return 0;
}

void opening_free(struct opening *opening)
{
        if (!opening)
                return;
        offload_free(opening->offload);
        fd_closep(&opening->socket);
        free(opening);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "io/crash_point.h"

#ifdef DROVER_CRASH_POINTS

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>

#include "base/alloc.h"
#include "base/log.h"

struct crash_hold {
        struct loop_source *source;
        int inotify_fd;
        char *file;
        loop_fn resume;
        void *userdata;
};

/* If the variable has "NAME" or "NAME:FILE" for this name in its list: true, and FILE, the caller's, or NULL. */
static bool variable_names(const char *variable, const char *name, char **ret_file)
{
        size_t len = strlen(name);

        for (const char *at = getenv(variable); at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
                size_t item_len = strcspn(at, ",");

                if (strncmp(at, name, len) != 0 || (len != item_len && at[len] != ':'))
                        continue;
                *ret_file = len == item_len ? NULL
                                            : alloc_printf("%.*s", (int)(item_len - len - 1), at + len + 1);
                return true;
        }
        return false;
}

void crash_point(const char *name)
{
        _cleanup_free_ char *once = NULL;

        if (!variable_names("DROVER_CRASH_AT", name, &once))
                return;
        if (once) {
                int fd = open(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

                if (fd < 0)
                        return;
                close(fd);
        }
        log_warning("crash point '%s': killing ourselves as asked by DROVER_CRASH_AT", name);
        (void)raise(SIGKILL);
}

static void on_folder_change(void *userdata, int fd, uint32_t events)
{
        struct crash_hold *hold = userdata;
        char ignored[4096];

        while (read(fd, ignored, sizeof(ignored)) > 0)
                ;
        if (access(hold->file, F_OK) < 0)
                return;
        loop_source_free(TAKE_PTR(hold->source));
        hold->resume(hold->userdata);
}

static int watch_folder(struct crash_hold *hold, struct loop *loop)
{
        _cleanup_free_ char *folder = alloc_strdup(hold->file);
        char *slash = folder ? strrchr(folder, '/') : NULL;

        if (!slash || slash == folder)
                return -EINVAL;
        *slash = '\0';
        hold->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (hold->inotify_fd < 0 || inotify_add_watch(hold->inotify_fd, folder, IN_CREATE | IN_MOVED_TO) < 0)
                return -errno;
        return loop_add_io(loop, hold->inotify_fd, EPOLLIN, on_folder_change, hold, &hold->source);
}

static void announce_hold(const char *file)
{
        _cleanup_free_ char *held = alloc_printf("%s.held", file);
        _cleanup_fd_ int fd = held ? open(held, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

        if (fd < 0)
                log_error("cannot create %s.held", file);
}

bool crash_point_hold(
        struct loop *loop, const char *name, loop_fn resume, void *userdata, struct crash_hold **ret_hold)
{
        _cleanup_(crash_hold_freep) struct crash_hold *hold = NULL;
        _cleanup_free_ char *file = NULL;

        crash_point(name);
        if (!variable_names("DROVER_HOLD_AT", name, &file) || !file || access(file, F_OK) == 0)
                return false;
        hold = ALLOC(struct crash_hold);
        if (!hold)
                return false;
        *hold = (struct crash_hold){
                .inotify_fd = -1, .file = alloc_strdup(file), .resume = resume, .userdata = userdata};
        if (!hold->file || watch_folder(hold, loop) < 0) {
                log_error("cannot hold at '%s': no absolute path of an existing folder in '%s'", name, file);
                return false;
        }
        /* Created between our first look and the watch? */
        if (access(file, F_OK) == 0)
                return false;
        announce_hold(file);
        log_warning("holding at '%s' until %s exists", name, file);
        *ret_hold = TAKE_PTR(hold);
        return true;
}

void crash_hold_free(struct crash_hold *hold)
{
        if (!hold)
                return;
        loop_source_free(hold->source);
        fd_closep(&hold->inotify_fd);
        free(hold->file);
        free(hold);
}

#else

void crash_point(const char *name)
{
}

bool crash_point_hold(
        struct loop *loop, const char *name, loop_fn resume, void *userdata, struct crash_hold **ret_hold)
{
        return false;
}

void crash_hold_free(struct crash_hold *hold)
{
}

#endif

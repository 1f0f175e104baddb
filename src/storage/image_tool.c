/* SPDX-License-Identifier: Apache-2.0 */
#include "storage/image_tool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/buf.h"
#include "storage/confine.h"

#define OUTPUT_MAX_BYTES ((size_t)64 * 1024)
#define WORDS_MAX 512
#define TICK_MS 200
#define FIRST_FD 3
#define OUT_OF_THE_WAY 64
/* qemu-img needs some 300 MiB of address space; what a header claims may make it ask for more. */
#define MEMORY_MAX_BYTES (UINT64_C(2) << 30)

/* Where the program is; the caller's. */
static char *find_program(const char *name)
{
        const char *at = getenv("PATH") ?: "/usr/bin:/bin";

        while (*at) {
                size_t len = strcspn(at, ":");
                char *path = alloc_printf("%.*s/%s", (int)len, at, name);

                if (!path)
                        return NULL;
                if (*path == '/' && access(path, X_OK) == 0)
                        return path;
                free(path);
                at += len;
                at += *at == ':';
        }
        return NULL;
}

static int place_descriptors(const struct image_tool *tool, int *output_fd)
{
        int moved[IMAGE_TOOL_FILES_MAX];

        *output_fd = fcntl(*output_fd, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
        for (size_t i = 0; i < tool->n_files; i++) {
                moved[i] = fcntl(tool->files[i].fd, F_DUPFD_CLOEXEC, OUT_OF_THE_WAY);
                if (moved[i] < 0)
                        return -errno;
        }
        if (*output_fd < 0 || dup2(*output_fd, 1) < 0 || dup2(*output_fd, 2) < 0)
                return -errno;
        for (size_t i = 0; i < tool->n_files; i++)
                if (dup2(moved[i], FIRST_FD + (int)i) < 0)
                        return -errno;
        return close_range(FIRST_FD + (unsigned int)tool->n_files, ~0U, CLOSE_RANGE_CLOEXEC) < 0 ? -errno : 0;
}

static void __attribute__((noreturn))
run_program(const struct image_tool *tool, const char *path, int output_fd, pid_t parent)
{
        static const char *const env[] = {"LC_ALL=C", "PATH=/usr/bin:/bin", "MALLOC_ARENA_MAX=2", NULL};
        struct confine_file files[IMAGE_TOOL_FILES_MAX];
        _cleanup_error_ struct error *error = NULL;
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) /* it died before the line above */
                _exit(126);
        if (null_fd < 0 || dup2(null_fd, 0) < 0 || place_descriptors(tool, &output_fd) < 0)
                _exit(126);
        for (size_t i = 0; i < tool->n_files; i++)
                files[i] = (struct confine_file){.fd = FIRST_FD + (int)i, .write = tool->files[i].write};
        if (confine_program(path, files, tool->n_files, MEMORY_MAX_BYTES, &error) >= 0)
                (void)execve(path, (char *const *)tool->argv, (char *const *)env);
        (void)!dprintf(1, "%s: %s%s%s\n", path, error ? error_message(error) : strerror(errno),
                error && error->hint ? " " : "", error && error->hint ? error->hint : "");
        _exit(127);
}

/* To its end, or to the maximum: the rest is thrown away, so that the program never waits. The tick's result; the program is killed then. */
static int read_output(
        const struct image_tool *tool, pid_t pid, int fd, struct buf *output, struct error **ret_error)
{
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        char data[4096];
        int r = 0;

        for (;;) {
                int ready = poll(&wait, 1, TICK_MS);
                bool broken = ready < 0 && errno != EINTR;
                ssize_t n;

                if (tool->tick && r == 0) {
                        r = tool->tick(tool->userdata, ret_error);
                        if (r < 0)
                                (void)kill(pid, SIGKILL);
                }
                if (broken)
                        return r;
                if (ready <= 0)
                        continue;
                n = read(fd, data, sizeof(data));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return r;
                (void)buf_append(output, data, MIN((size_t)n, output->max - output->len));
        }
}

static int failed(const struct image_tool *tool, int status, const char *output, struct error **ret_error)
{
        char words[WORDS_MAX];

        if (strstr(output, "No space left on device") || strstr(output, "Disk quota exceeded"))
                return error_set(ret_error, ERROR_NO_SPACE, "Free space on the datastore, or enlarge it.",
                        "%s: the datastore is full", tool->name);
        if (strstr(output, "Failed to get") && strstr(output, "lock"))
                return error_set(ret_error, ERROR_LOCKED, "Stop the virtual machine that uses it.",
                        "%s is in use by a running QEMU, on this or another host", tool->name);
        if (strstr(output, "no Landlock"))
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Boot a kernel that has Landlock (Linux 5.13 or later) switched on.",
                        "images that others have made cannot be read safely on this host: its kernel has no "
                        "Landlock");
        if (!strncmp(output, "qemu-img: ", 10))
                output += 10;
        snprintf(words, sizeof(words), "%.*s", (int)MIN(strcspn(output, "\n"), sizeof(words) - 1), output);
        if (WIFSIGNALED(status))
                return error_set(ret_error, ERROR_QEMU_FAILED,
                        "The image may be damaged, or made to do harm.",
                        "%s: qemu-img was killed by signal %d%s%s", tool->name, WTERMSIG(status),
                        *words ? ": " : "", words);
        return error_set(ret_error, ERROR_QEMU_FAILED, NULL, "%s: qemu-img exited with code %d%s%s",
                tool->name, WEXITSTATUS(status), *words ? ": " : "", words);
}

int image_tool_run(const struct image_tool *tool, char **ret_output, struct error **ret_error)
{
        _cleanup_free_ char *path = find_program(tool->argv[0]);
        _cleanup_fd_ int read_fd = -1, write_fd = -1;
        struct buf output;
        int fds[2], status = 0, r = 0;
        pid_t pid, parent = getpid();

        if (!path)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Install the package qemu-utils.",
                        "there is no program %s on this host", tool->argv[0]);
        if (pipe2(fds, O_CLOEXEC) < 0)
                return error_from_errno(ret_error, errno, "%s", tool->name);
        read_fd = fds[0];
        write_fd = fds[1];
        pid = fork();
        if (pid < 0)
                return error_from_errno(ret_error, errno, "%s", tool->name);
        if (!pid)
                run_program(tool, path, write_fd, parent);
        fd_closep(&write_fd);
        write_fd = -1;
        buf_init(&output, OUTPUT_MAX_BYTES);
        r = read_output(tool, pid, read_fd, &output, ret_error);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        if (r == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
                r = failed(tool, status, buf_string(&output), ret_error);
        else if (r == 0 && ret_output) {
                *ret_output = alloc_strdup(buf_string(&output));
                r = *ret_output ? 0 : error_from_errno(ret_error, ENOMEM, "%s", tool->name);
        }
        buf_deinit(&output);
        return r;
}

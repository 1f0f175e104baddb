/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/alloc.h"
#include "base/log.h"

#define MOUNT "/sys/fs/cgroup"
#define CGROUP2_MAGIC 0x63677270 /* linux/magic.h */

/* What QEMU needs beside guest RAM: itself, video memory, page tables, I/O buffers of many disks; page cache of
 * images opened without O_DIRECT is reclaimed, not refused. Measured on idle guests: 60 to 150 MiB. */
#define OVERHEAD_BYTES (UINT64_C(512) << 20)
#define TASKS_BASE 256 /* I/O threads: QEMU's pool alone has up to 64 */
#define TASKS_PER_VCPU 4
#define WEIGHT_PER_VCPU 100
#define MOVERS_VCPUS 10 /* about what nice -10 is against 0, see docs/decisions/0005 */

struct cgroup {
        char *root; /* absolute; NULL: not available */
        char *status;
        char *movers; /* cgroup.procs; NULL: not available */
};

static int write_text(const char *path, const char *text)
{
        _cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, text, strlen(text)) < 0)
                return -errno;
        return 0;
}

static int write_file(const char *folder, const char *file, const char *text)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", folder, file);

        return path ? write_text(path, text) : -ENOMEM;
}

/* Controllers are handed down level by level, and only where no process sits in the group itself. */
static int enable_controllers(const char *folder)
{
        return write_file(folder, "cgroup.subtree_control", "+memory +cpu +pids");
}

/* Makes root and its parents with the controllers on; the step that failed is named in *ret_status. */
static int prepare_root(const char *root, char **ret_status)
{
        _cleanup_free_ char *path = alloc_strdup(root);
        struct statfs fs;
        int r;

        if (!path)
                return -ENOMEM;
        if (statfs(MOUNT, &fs) < 0 || fs.f_type != CGROUP2_MAGIC) {
                *ret_status = alloc_strdup("no limits: " MOUNT " is no cgroup v2 hierarchy on this host");
                return -EOPNOTSUPP;
        }
        for (char *slash = path + strlen(MOUNT);; slash = strchr(slash + 1, '/')) {
                char kept = slash ? *slash : '\0';

                if (slash)
                        *slash = '\0';
                if (mkdir(path, 0755) < 0 && errno != EEXIST)
                        r = -errno;
                else
                        r = enable_controllers(path);
                if (r < 0) {
                        *ret_status = alloc_printf("no limits: %s cannot be used: %s", path, strerror(-r));
                        return r;
                }
                if (!slash || kept == '\0')
                        return 0;
                *slash = kept;
        }
}

static void make_movers_group(struct cgroup *cgroup)
{
        _cleanup_free_ char *folder = alloc_printf("%s/movers", cgroup->root);
        char weight[16];
        int r = folder ? 0 : -ENOMEM;

        (void)snprintf(weight, sizeof(weight), "%d", WEIGHT_PER_VCPU * MOVERS_VCPUS);
        if (r == 0 && mkdir(folder, 0755) < 0 && errno != EEXIST)
                r = -errno;
        if (r == 0)
                r = write_file(folder, "cpu.weight", weight);
        if (r == 0)
                cgroup->movers = alloc_printf("%s/cgroup.procs", folder);
        else
                log_warning("no control group for data movers: %s", strerror(-r));
}

int cgroup_new(const char *root, struct cgroup **ret_cgroup)
{
        _cleanup_(cgroup_freep) struct cgroup *cgroup = ALLOC(struct cgroup);
        _cleanup_free_ char *path = root[0] == '/' ? alloc_strdup(root) : alloc_printf(MOUNT "/%s", root);

        if (!cgroup || !path)
                return -ENOMEM;
        if (strncmp(path, MOUNT "/", strlen(MOUNT "/")) != 0)
                cgroup->status = alloc_printf("no limits: cgroup-root %s is not below " MOUNT, path);
        else if (prepare_root(path, &cgroup->status) == 0) {
                cgroup->status = alloc_printf("cgroup v2 at %s: memory, cpu, pids", path);
                cgroup->root = TAKE_PTR(path);
                make_movers_group(cgroup);
        }
        if (!cgroup->status)
                return -ENOMEM;
        *ret_cgroup = TAKE_PTR(cgroup);
        return 0;
}

void cgroup_free(struct cgroup *cgroup)
{
        if (!cgroup)
                return;
        free(cgroup->root);
        free(cgroup->status);
        free(cgroup->movers);
        free(cgroup);
}

const char *cgroup_movers(const struct cgroup *cgroup)
{
        return cgroup->movers;
}

bool cgroup_available(const struct cgroup *cgroup)
{
        return cgroup->root != NULL;
}

const char *cgroup_status(const struct cgroup *cgroup)
{
        return cgroup->status;
}

static int set_limits(const char *folder, uint64_t memory_bytes, unsigned int cpus)
{
        char text[32];
        int r;

        (void)snprintf(text, sizeof(text), "%" PRIu64, memory_bytes + memory_bytes / 32 + OVERHEAD_BYTES);
        r = write_file(folder, "memory.max", text);
        if (r == 0) {
                (void)snprintf(text, sizeof(text), "%u", TASKS_BASE + TASKS_PER_VCPU * cpus);
                r = write_file(folder, "pids.max", text);
        }
        if (r == 0) {
                (void)snprintf(text, sizeof(text), "%u", MIN(WEIGHT_PER_VCPU * cpus, 10000U));
                r = write_file(folder, "cpu.weight", text);
        }
        return r;
}

int cgroup_make(const struct cgroup *cgroup, const char *vm_uid, uint64_t memory_bytes, unsigned int cpus,
        char **ret_procs, struct error **ret_error)
{
        _cleanup_free_ char *folder = NULL;
        _cleanup_free_ char *procs = NULL;
        int r;

        if (!cgroup->root) {
                *ret_procs = NULL;
                return 0;
        }
        folder = alloc_printf("%s/%s", cgroup->root, vm_uid);
        procs = alloc_printf("%s/%s/cgroup.procs", cgroup->root, vm_uid);
        if (!folder || !procs)
                return error_from_errno(ret_error, ENOMEM, "cgroup");
        if (mkdir(folder, 0755) < 0 && errno != EEXIST)
                return error_from_errno(ret_error, errno, "cgroup %s", folder);
        r = set_limits(folder, memory_bytes, cpus);
        if (r < 0)
                return error_from_errno(ret_error, r, "limits of cgroup %s", folder);
        *ret_procs = TAKE_PTR(procs);
        return 0;
}

void cgroup_remove(const struct cgroup *cgroup, const char *vm_uid)
{
        _cleanup_free_ char *folder = cgroup->root ? alloc_printf("%s/%s", cgroup->root, vm_uid) : NULL;

        if (folder && rmdir(folder) < 0 && errno != ENOENT)
                log_warning("cgroup %s cannot be removed: %s", folder, strerror(errno));
}

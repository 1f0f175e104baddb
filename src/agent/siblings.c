/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/siblings.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/list.h"
#include "base/text.h"
#include "mover/page_claims.h"

#define MEMORIES_MAX 8 /* at a time; the one that was not asked for the longest makes room */
#define KEEP_MS (10 * 60 * 1000)
#define LOOK_MS (60 * 1000)

struct shared_memory {
        struct list list;
        char *name; /* what it is of */
        char key[SIBLING_KEY_HEX + 1];
        int fd;
        uint64_t used_ms;
};

struct siblings {
        struct loop *loop;
        struct loop_source *timer;
        uint64_t max_bytes;
        struct list memories; /* struct shared_memory, used last first */
        size_t n_memories;
};

static void memory_free(struct siblings *siblings, struct shared_memory *memory)
{
        list_remove(&memory->list);
        siblings->n_memories--;
        fd_closep(&memory->fd);
        free(memory->name);
        free(memory);
}

static void on_time(void *userdata)
{
        struct siblings *siblings = userdata;
        uint64_t now_ms = clock_now_ms(loop_clock(siblings->loop));
        struct shared_memory *memory, *spare;

        loop_source_rearm(siblings->timer, LOOK_MS);
        list_for_each_safe (memory, spare, &siblings->memories, list)
                if (now_ms - memory->used_ms > KEEP_MS)
                        memory_free(siblings, memory);
}

int siblings_new(struct loop *loop, uint64_t max_bytes, struct siblings **ret_siblings)
{
        struct siblings *siblings = ALLOC(struct siblings);
        int r;

        if (!siblings)
                return -ENOMEM;
        *siblings = (struct siblings){.loop = loop, .max_bytes = max_bytes};
        list_init(&siblings->memories);
        r = loop_add_timer(loop, LOOK_MS, on_time, siblings, &siblings->timer);
        if (r < 0) {
                free(siblings);
                return r;
        }
        *ret_siblings = siblings;
        return 0;
}

void siblings_free(struct siblings *siblings)
{
        struct shared_memory *memory, *spare;

        if (!siblings)
                return;
        list_for_each_safe (memory, spare, &siblings->memories, list)
                memory_free(siblings, memory);
        loop_source_free(siblings->timer);
        free(siblings);
}

/* Of a size that no mover can change: one that was cut short would end the others with SIGBUS. */
static int make_file(uint64_t size, int *ret_fd)
{
        _cleanup_fd_ int fd = memfd_create("drover-siblings", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
                fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* `name` is taken over. `key`: NULL: a new one. */
static int make_memory(struct siblings *siblings, char *name, const char *key, uint64_t size,
        struct shared_memory **ret_memory)
{
        struct shared_memory *memory = ALLOC(struct shared_memory);
        int r = memory ? 0 : -ENOMEM;

        if (r == 0) {
                *memory = (struct shared_memory){.fd = -1};
                if (key)
                        snprintf(memory->key, sizeof(memory->key), "%s", key);
                else
                        r = text_random_hex(SIBLING_KEY_HEX / 2, memory->key);
        }
        if (r == 0)
                r = make_file(size, &memory->fd);
        if (r < 0) {
                free(memory);
                free(name);
                return r;
        }
        memory->name = name;
        if (siblings->n_memories == MEMORIES_MAX)
                memory_free(siblings, CONTAINER_OF(siblings->memories.prev, struct shared_memory, list));
        list_prepend(&siblings->memories, &memory->list);
        siblings->n_memories++;
        *ret_memory = memory;
        return 0;
}

/* By name; made when it is not there. `name` is taken over. */
static int get_memory(struct siblings *siblings, char *name, const char *key, uint64_t size,
        struct shared_memory **ret_memory)
{
        struct shared_memory *memory, *found = NULL;
        int r = 0;

        if (!name)
                return -ENOMEM;
        list_for_each (memory, &siblings->memories, list)
                if (!found && strcmp(memory->name, name) == 0)
                        found = memory;
        if (found) {
                list_remove(&found->list);
                list_prepend(&siblings->memories, &found->list);
                free(name);
        } else {
                r = make_memory(siblings, name, key, size, &found);
        }
        if (r < 0)
                return r;
        found->used_ms = clock_now_ms(loop_clock(siblings->loop));
        *ret_memory = found;
        return 0;
}

int siblings_open_store(
        struct siblings *siblings, const char *tenant, int *ret_fd, char ret_key[static SIBLING_KEY_HEX + 1])
{
        struct shared_memory *memory;
        int r;

        if (!tenant || !*tenant || siblings->max_bytes == 0)
                return -EOPNOTSUPP;
        r = get_memory(siblings, alloc_printf("pages of %s", tenant), NULL, siblings->max_bytes, &memory);
        if (r < 0)
                return r;
        *ret_fd = memory->fd;
        memcpy(ret_key, memory->key, sizeof(memory->key));
        return 0;
}

int siblings_open_claims(struct siblings *siblings, const char *peer_uid, const char *key, int *ret_fd)
{
        struct shared_memory *memory;
        int r = get_memory(
                siblings, alloc_printf("sent to %s %s", peer_uid, key), key, PAGE_CLAIMS_BYTES, &memory);

        if (r == 0)
                *ret_fd = memory->fd;
        return r;
}

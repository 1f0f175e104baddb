/* SPDX-License-Identifier: Apache-2.0 */

/* A storage migration of a VM that is off: qemu-img copies one disk after the other, with the source locked against every QEMU, then
 * the record is replaced. A copy that broke off is made anew. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/storage_move_state.h"
#include "agent/stores.h"
#include "agent/vm_job.h"
#include "base/log.h"

static void copy_next(struct storage_move *m);

static void on_copied(void *userdata, const struct image_info *info, struct error *error)
{
        struct storage_move *m = userdata;

        m->image = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        m->disks[m->at].copied_bytes = m->disks[m->at].total_bytes;
        m->at++;
        copy_next(m);
}

static void on_synced(void *userdata, json_t *result, struct error *error)
{
        struct storage_move *m = userdata;

        m->offload = NULL;
        if (error) {
                storage_move_stop_copy(m, error);
                return;
        }
        storage_move_take_sizes(m, result);
        for (size_t i = 0; i < m->record->n_disks; i++)
                m->record->disks[i].switched = true;
        storage_move_enter(m, STORAGE_MOVE_SWITCHING);
        storage_move_commit(m, storage_move_conclude);
}

/* Flushed once: a failed flush is told once by the kernel, and the next one succeeds without the data. */
static void commit(struct storage_move *m)
{
        struct error *error = NULL;

        if (storage_move_work(m, STORAGE_MOVE_SYNC, NULL, on_synced, &error) < 0)
                storage_move_stop(m, error);
}

/* What is left of the time limit; 1 when there is nothing. */
static uint64_t time_left_ms(const struct storage_move *m)
{
        uint64_t spent_ms = clock_now_ms(loop_clock(m->agent->loop)) - m->started_ms;

        return !m->timeout_ms ? 0 : spent_ms < m->timeout_ms ? m->timeout_ms - spent_ms : 1;
}

static void on_opened(void *userdata, const int *fds, struct error *error)
{
        struct storage_move *m = userdata;
        const struct move_disk *disk = &m->record->disks[m->at];
        struct error *failure = NULL;
        char name[400];

        m->opening = NULL;
        snprintf(name, sizeof(name), "%s: %s", disk->from.datastore, disk->from.path);
        if (error)
                storage_move_stop_copy(m, error);
        else if (image_copy_opened(m->agent->loop, name, fds[0], disk->from.format, fds[1], disk->to.format,
                         m->rate_bytes_per_s, time_left_ms(m), on_copied, m, &m->image, &failure) < 0)
                storage_move_stop(m, failure);
}

static void copy_next(struct storage_move *m)
{
        const struct move_disk *disk;
        struct opening_file files[2];
        struct error *error = NULL;
        int r;

        if (m->at == m->record->n_disks) {
                storage_move_point(m, "storage-move-ready", commit);
                return;
        }
        disk = &m->record->disks[m->at];
        r = storage_move_file(m, &disk->from, O_RDONLY, &files[0], &error);
        files[0].is_image = true;
        if (r >= 0)
                r = storage_move_file(m, &disk->to, O_RDWR, &files[1], &error);
        if (r >= 0)
                r = storage_move_open(m, files, 2, on_opened, &error);
        if (r < 0)
                storage_move_stop(m, error);
}

static void begin(struct storage_move *m)
{
        m->at = 0;
        copy_next(m);
}

void storage_move_cold_begin(struct storage_move *m)
{
        storage_move_enter(m, STORAGE_MOVE_COPYING);
        storage_move_point(m, "storage-move-copying", begin);
}

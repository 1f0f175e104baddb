/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A drover-mover process and its control socket (docs/internals/mover-control.md). It dies with us: the
 * control socket closes, and it gives up. */

#include <jansson.h>

#include "base/error.h"
#include "io/loop.h"

struct mover_process;

struct mover_process_handler {
        /* A message with "event"; borrowed. Messages that are not valid JSON end the mover (see `ended`). */
        void (*event)(void *userdata, const char *event, const json_t *message);
        /* Once, from the loop, when the process is gone and all its events were delivered: `failure` is NULL
         * after exit code 0, else the reason (borrowed). The mover_process is still to be freed. */
        void (*ended)(void *userdata, struct error *failure);
        void *userdata;
};

enum mover_role {
        MOVER_SOURCE,
        MOVER_SINK,
        MOVER_SAMPLE,
        MOVER_COMPARE,
        MOVER_PROBE_SOURCE,
        MOVER_PROBE_SINK,
        N_MOVER_ROLES
};

/* Runs `binary` source|sink|sample|compare|probe-source|probe-sink. */
/* cgroup_procs: of the group it is to be in (cgroup_movers()); may be NULL. `level`: of its migration's priority, 0 for normal; each
 * level gets twice the processor time of the one below where there is not enough for all. */
int mover_process_start(struct loop *loop, const char *binary, enum mover_role role, const char *cgroup_procs,
        int level, const struct mover_process_handler *handler, struct mover_process **ret_mover,
        struct error **ret_error);

/* Sends an op (taken over, also on failure; NULL: no memory). Descriptors stay the caller's, at most
 * SOCK_MAX_FDS. Never blocks: what the socket cannot take now is queued in order, within a bound. -EPIPE when
 * the mover is gone
 * (`ended` tells why). */
int mover_process_send(
        struct mover_process *mover, json_t *op, const int *fds, size_t n_fds, struct error **ret_error);

/* For one that was told to end (op abort): it gets the time to tell its peer, then SIGKILL. Its events count no more, and
 * `handler` takes the place of the old one (its `event` is not used). */
void mover_process_let_end(struct mover_process *mover, const struct mover_process_handler *handler);
/* SIGKILL; `ended` follows. */
void mover_process_kill(struct mover_process *mover);
pid_t mover_process_pid(const struct mover_process *mover);

/* Kills it if it runs; no call-backs afterwards. May be called from inside one. Accepts NULL. */
void mover_process_free(struct mover_process *mover);
DEFINE_CLEANUP(struct mover_process *, mover_process_free)

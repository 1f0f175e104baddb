/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What this process does: it leads (a struct manager runs), or it stands by (struct standby answers) and takes the lead when the
 * leader gives it up or falls silent. With a store that no other manager shares it leads from the start.
 *
 *      waiting for the store -> standing by -> leading
 *                                   ^-------------'   another one leads, or it is not known what the store holds
 *
 * Safety does not depend on any of this being in time: the store and the agents refuse whoever has an older term. */

#include "base/error.h"
#include "io/loop.h"
#include "manager/config.h"

struct leadership;

/* Opens the store and begins; listens on listen_fd (taken over on success). A store that cannot be reached is waited for; any
 * other error of it is returned. `config` and `loop` are borrowed. */
int leadership_new(const struct config *config, struct loop *loop, int listen_fd,
        struct leadership **ret_leadership, struct error **ret_error);
/* Gives the lead up, if it has it: another manager takes over within STORE_BEAT_MS. */
void leadership_free(struct leadership *leadership);
DEFINE_CLEANUP(struct leadership *, leadership_free)

/* The manager while this process leads, else NULL; borrowed. */
struct manager *leadership_manager(const struct leadership *leadership);

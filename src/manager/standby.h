/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The API of a manager that does not lead: it names the one that does (not-leading, 503), for everything but /healthz and
 * /version. It serves no reads: what is live in them only the leader knows (docs/decisions/0016). */

#include "base/error.h"
#include "io/loop.h"

struct standby;

/* Listens on listen_fd (taken over on success). `state_dir` has the certificates; `name` is this manager's (borrowed). */
int standby_new(struct loop *loop, const char *state_dir, const char *name, int listen_fd,
        struct standby **ret_standby, struct error **ret_error);
void standby_free(struct standby *standby);

/* Who leads, or, when that is not known, why (either may be NULL; copied). Whoever asks is told, so it must not be a secret. */
void standby_tell(struct standby *standby, const char *leader, const char *why);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Makes one of a migration's data connections, from the source's agent to the destination's mover. */

#include "base/error.h"
#include "io/loop.h"
#include "io/sock.h"

struct data_connector;

/* Once, from the loop: `fd` is connected and becomes the callee's, or it is -1 and `error` (borrowed) says why. The connector
 * may be freed inside. */
typedef void (*data_connector_fn)(void *userdata, unsigned int channel, int fd, struct error *error);

/* `limit_ms`: see sock_set_peer_limit(). With `persist`, failures are no reason to stop trying, unless nobody listens at the
 * address any more. */
int data_connector_start(struct loop *loop, const struct sock_address *address, uint64_t limit_ms,
        unsigned int channel, bool persist, data_connector_fn fn, void *userdata,
        struct data_connector **ret_connector, struct error **ret_error);
/* No call-back afterwards. Accepts NULL. */
void data_connector_free(struct data_connector *connector);
DEFINE_CLEANUP(struct data_connector *, data_connector_free)

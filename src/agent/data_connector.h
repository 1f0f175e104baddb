/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Makes one of a migration's data connections, from the source's agent to the destination's mover. */

#include "agent/data_paths.h"
#include "base/error.h"
#include "io/loop.h"

struct data_connector;

/* Once, from the loop: `fd` is connected, on paths->path_of[channel], and becomes the callee's, or it is -1 and `error` (borrowed)
 * says why. The connector may be freed inside. */
typedef void (*data_connector_fn)(void *userdata, unsigned int channel, int fd, struct error *error);

enum data_connector_mode {
        DATA_CONNECT,   /* some times, on paths that seem to work */
        DATA_RECONNECT, /* until it works, or all paths refused it in turn: nobody listens any more */
        DATA_TRY,       /* once, on `path` */
};

struct data_connector_spec {
        struct data_paths *paths; /* borrowed; which are up, and where the channel is, are noted there */
        uint64_t limit_ms;        /* see sock_set_peer_limit() */
        unsigned int channel;
        unsigned int path; /* for DATA_TRY */
        enum data_connector_mode mode;
        data_connector_fn fn;
        void *userdata;
};

int data_connector_start(struct loop *loop, const struct data_connector_spec *spec,
        struct data_connector **ret_connector, struct error **ret_error);
/* No call-back afterwards. Accepts NULL. */
void data_connector_free(struct data_connector *connector);
DEFINE_CLEANUP(struct data_connector *, data_connector_free)

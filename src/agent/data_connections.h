/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* All data connections of a migration, on the source's side: one for each channel, spread over the destination's addresses. They
 * are made before the mover starts; afterwards lost ones are replaced, over another address when one stands still, and moved
 * when that is faster or an address works again. */

#include <jansson.h>

#include "agent/data_paths.h"
#include "base/error.h"
#include "io/loop.h"

struct data_connections;

struct data_connections_spec {
        const struct sock_address *addresses; /* of the destination's mover */
        size_t n_addresses;                   /* 1 to DATA_PATHS_MAX */
        unsigned int n_channels;              /* 0: as many as the paths need */
        unsigned int max_channels;            /* 1 to DATA_CHANNELS_MAX */
        uint64_t window_bytes;                /* that a connection can have under way; 0: not known */
        uint64_t limit_ms; /* of a connection on which nothing is acknowledged, see sock_set_peer_limit() */
};

/* From the loop, or from the call that led to it. Nothing may be freed inside. */
struct data_connections_handler {
        /* All are made, or one cannot be (`error`, borrowed). */
        void (*connected)(void *userdata, struct error *error);
        /* Another connection for a channel; `fd` is borrowed. -1: a lost one cannot be replaced (`error`, borrowed). */
        void (*replaced)(
                void *userdata, unsigned int channel, unsigned int path, int fd, struct error *error);
        void *userdata;
};

/* Begins to find out what the paths can take, and to connect. */
int data_connections_new(struct loop *loop, const struct data_connections_spec *spec,
        const struct data_connections_handler *handler, struct data_connections **ret_connections,
        struct error **ret_error);
/* Closes what was not handed over. No call-back afterwards. Accepts NULL. */
void data_connections_free(struct data_connections *connections);
DEFINE_CLEANUP(struct data_connections *, data_connections_free)

unsigned int data_connections_count(const struct data_connections *connections);
/* The mover has got the sockets (borrowed until then) in the order of the channels. */
const int *data_connections_sockets(const struct data_connections *connections);
json_t *data_connections_paths(const struct data_connections *connections); /* of each channel */
void data_connections_handed_over(struct data_connections *connections);

/* The mover lost a channel's connection, which was on `path`. `stalled`: that stands still. */
void data_connections_lost(
        struct data_connections *connections, unsigned int channel, unsigned int path, bool stalled);
/* The mover's `stats`. `may_move`: the guest runs, and the destination can take other connections. */
void data_connections_take_stats(struct data_connections *connections, const json_t *stats, bool may_move);
/* For the record; the caller's. */
json_t *data_connections_document(const struct data_connections *connections);
/* What the kernel lets one connection have under way at most, from here or to here; bytes. */
uint64_t data_connections_send_window(void);
uint64_t data_connections_receive_window(void);

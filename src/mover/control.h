/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Control messages between agent and mover, as in docs/internals/mover-control.md: JSON packets with
 * descriptors on a SOCK_SEQPACKET socket. Used by the mover's main thread only. */

#include "base/doc.h"
#include "base/text.h"
#include "io/aead.h"
#include "io/content_digest.h"
#include "mover/wire.h"

#define CONTROL_MAX_PACKET (64 * 1024)
#define CONTROL_MAX_FDS (4 + WIRE_MAX_CHANNELS + WIRE_MAX_DISKS)

enum control_op {
        CONTROL_START,
        CONTROL_HANDED_OFF,
        CONTROL_COMMIT,
        CONTROL_STOPPED,
        CONTROL_SWITCHOVER,
        CONTROL_LIMITS,
        CONTROL_ABORT,
        CONTROL_RESULT,
        CONTROL_QEMU_STATUS,
        CONTROL_CHANNEL,
        CONTROL_SAMPLE,
        CONTROL_PROBE,
        CONTROL_COMPARE,
        CONTROL_DISK,
        N_CONTROL_OPS,
};

/* One packet. Strings are borrowed from `json`. */
struct control_message {
        enum control_op op;
        json_t *json;
        int fds[CONTROL_MAX_FDS]; /* owned; take with TAKE_FD */
        size_t n_fds;
};

/* 0 and a message; -ENODATA, with an error for the peer: the agent is gone; PROTOCOL or BAD_DOCUMENT otherwise. Blocks. */
int control_receive(int fd, struct control_message *ret_message, struct error **ret_error);
void control_message_deinit(struct control_message *message);

/* Sends an event; takes `event` over. With `droppable`, does not wait for room. */
void control_send(int fd, json_t *event, bool droppable);
/* {"event": "failed", ...}; `peer_reason`: the error came from the peer. */
void control_send_failed(int fd, const struct error *error, bool from_peer);

struct control_disk {
        uint64_t size_bytes;
        const char *export; /* sink: its name at QEMU's NBD server */
};

/* The fields of op start. */
struct control_start {
        const char *migration, *vm, *block, *cert_pem, *key_pem, *peer_fingerprint, *codec;
        const char *spec_digest; /* that the peer must have been given too; NULL: it is not compared */
        uint64_t ram_address, ram_bytes, max_pause_ms, rate_limit_bps, timeout_ms;
        bool verify, tunnel;
        bool post_copy;      /* may come to it: both QEMUs are set up for that */
        bool has_checkpoint; /* its file is the last descriptor but for shared memory, its key this one */
        uint8_t checkpoint_key[AEAD_KEY_SIZE];
        struct control_disk disks[WIRE_MAX_DISKS]; /* that move as well */
        unsigned int n_disks;
        bool has_siblings; /* memory shared with other guests' movers is the last descriptor; key of the digests */
        uint8_t sibling_key[CONTENT_KEY_SIZE];
};
int control_parse_start(
        const struct control_message *message, struct control_start *ret_start, struct error **ret_error);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Frames over one TLS connection. One thread owns a channel. */

#include "io/tls.h"
#include "mover/wire.h"

/* A peer that says nothing for this long is dead; each side sends something at least every
 * CHANNEL_KEEPALIVE_MS. */
#define CHANNEL_SILENCE_MS 30000
#define CHANNEL_KEEPALIVE_MS 3000
/* A connection on which nothing came for so long is replaced, while the guest runs. */
#define CHANNEL_STALL_MS 10000

struct channel {
        struct tls_stream *tls;
        enum wire_side side; /* ours */
        bool lost;           /* the connection ended or stands still; nobody broke the protocol */
        bool silent;         /* lost, because it stands still */
        uint64_t last_sent_ms;
        uint64_t last_received_ms;
        uint8_t *payload; /* of the frame received last; WIRE_MAX_PAYLOAD bytes */
        uint32_t payload_len;
};

/* Takes the stream over, on success only. */
int channel_init(struct channel *channel, struct tls_stream *tls, enum wire_side side);
void channel_deinit(struct channel *channel);

/* Sends a frame whose payload is head and body (either may be empty) with one write: `body` must have
 * WIRE_HEADROOM writable bytes in front of it if body_len > 0. */
int channel_send(struct channel *channel, enum wire_frame type, const void *head, size_t head_len, void *body,
        size_t body_len, struct error **ret_error);
/* The next frame; its payload is in channel->payload until the next call. Waits up to CHANNEL_SILENCE_MS. */
int channel_receive(struct channel *channel, enum wire_frame *ret_type, struct error **ret_error);
/* Notes that the peer has been silent for too long; returns UNREACHABLE. */
int channel_set_silent(struct channel *channel, uint64_t limit_ms, struct error **ret_error);
/* ABORT frame, as far as the connection still takes it. */
void channel_send_abort(struct channel *channel, enum error_code code, const char *text);
/* Turns a received ABORT into the error that the peer meant. */
struct error *channel_abort_error(const struct channel *channel);

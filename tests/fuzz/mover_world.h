/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The world around one mover, for the fuzzers of the wire format's two ends: its agent, its QEMU and the mover
 * on the other host, played from a script by one thread. The mover itself is the real one, with its threads and
 * sockets; only TLS is left out (plain_tls.c).
 *
 * A script is a list of steps: a byte (high half: what, low half: which channel), a length (16 bits, little
 * endian, cut at the end of the input), that many bytes. */

#include <pthread.h>
#include <stdatomic.h>

#include "base/cursor.h"
#include "mover/wire.h"

#define WORLD_MIGRATION "11111111-2222-4333-8444-555555555555"
#define WORLD_VM "66666666-7777-4888-9999-aaaaaaaaaaaa"
#define WORLD_CHANNELS_MAX 3
#define WORLD_RAM_PAGES (3 * WIRE_STRIPE_PAGES + 2)
#define WORLD_RAM_BYTES (WORLD_RAM_PAGES * WIRE_PAGE_SIZE)

enum world_step {
        STEP_RAW,       /* bytes on the channel */
        STEP_HELLO,     /* the peer's HELLO or HELLO_REPLY, the bytes XORed onto it */
        STEP_FRAME,     /* first byte: its type; the rest: its payload */
        STEP_AGENT,     /* a packet from the agent */
        STEP_WAIT,      /* until all that was sent has been taken */
        STEP_QEMU,      /* bytes of QEMU's stream */
        STEP_QEMU_HEAD, /* a stream up to its first page */
        STEP_PAGES,     /* a section; 2 bytes a page: its number, and 0 or what it is filled with */
        STEP_DEVICE,    /* the last section, the bytes as device state, the closing description */
        N_WORLD_STEPS,
};

struct world {
        bool source;    /* the mover's side */
        bool post_copy; /* it may come to that: highest bit of the script's first byte */
        struct cursor script;
        unsigned int n_channels;
        int control_fd;
        int qemu_fd;
        int deaf_fd; /* that takes nothing more: the world is silent on it; -1 */
        int channel_fds[WORLD_CHANNELS_MAX];
        int ram_fd;
        uint8_t *ram;
        atomic_bool over; /* the mover has returned */
        pthread_t thread;
};

/* Memory, and the mover's descriptors for the start message in order: QEMU's socket, RAM, connections or
 * listener. They are the caller's. */
void world_init(struct world *world, bool source, const uint8_t *script, size_t size);
/* Sends the start message with these additional members, and begins to play. */
void world_start(struct world *world, const char *members, const int *fds, size_t n_fds);
/* After the mover has returned. */
void world_deinit(struct world *world);

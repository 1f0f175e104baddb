/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A source and a sink mover as threads of this process, over loopback, with the test in the place of both
 * agents and both QEMUs. */

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "io/tls.h"
#include "mover/wire.h"

#define FIXTURE_MIGRATION "11111111-2222-4333-8444-555555555555"
#define FIXTURE_VM "66666666-7777-4888-9999-aaaaaaaaaaaa"
#define FIXTURE_SECTION 2 /* section id of "ram" */
#define FIXTURE_PAGES 2050
#define FIXTURE_KEY "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" /* of checkpoints */

struct fixture_options {
        unsigned int n_channels; /* 0: 2 */
        uint64_t ram_bytes;      /* 0: FIXTURE_PAGES */
        const char *codec;       /* NULL: "auto" */
        bool verify, tunnel;
        bool post_copy; /* both sides; the stream then begins with the commands for it */
        uint64_t rate_limit_bps;
        const char *wrong_pin; /* the sink expects this fingerprint */
        const char
                *digests[2]; /* of the specification, as the source and the sink were given it; NULL: none */
        bool no_source;      /* the test connects by itself */
        int receive_buffer;  /* of the sink's sockets, beyond the system's limit: needs root; 0: as usual */
        bool hold_qemu;      /* the destination's QEMU reads nothing before fixture_release_qemu() */
        int keep_fd;         /* checkpoint that the source writes; 0: none */
        int held_fd;         /* checkpoint that the sink uses; 0: none */
        int claims_fd;       /* shared with other sources; 0: nothing is shared */
        uint64_t disk_bytes; /* of the one disk that moves as well; 0: none. Its export is called "disk" */
        int disk_fd;         /* the sink's connection to the server of it */
        int store_fd;        /* shared with other sinks; 0: nothing is shared */
};

struct fixture_mover {
        int control_fd; /* the agent's end */
        int theirs;
        pthread_t thread;
        bool started;
        int exit_code;
        json_t *stats;     /* the newest */
        bool device_state; /* this event came */
};

struct fixture {
        struct fixture_options options;
        uint8_t *source_ram, *sink_ram; /* shared mappings of the two memfds */
        int source_ram_fd, sink_ram_fd;
        int source_qemu, sink_qemu;         /* QEMU's ends of the stream sockets */
        int channel_fds[WIRE_MAX_CHANNELS]; /* duplicates of the data sockets */
        struct fixture_mover source, sink;
        struct sockaddr_storage sink_address;
        char *certs[2], *keys[2]; /* source, sink */
        char pins[2][65];
        pthread_t reader; /* destination QEMU: collects what it is fed */
        bool reader_started;
        atomic_bool qemu_held;
        pthread_mutex_t fed_lock; /* while the reader runs */
        struct buf fed;
};

struct fixture *fixture_new(const struct fixture_options *options);
void fixture_free(struct fixture *f);

/* Agent. */
void fixture_send(struct fixture_mover *mover, json_t *message);
/* The next event of this name, others (stats, switchover) are skipped; fails the test after 20 s or on
 * another `failed`. The caller owns it. */
json_t *fixture_wait(struct fixture_mover *mover, const char *event);
/* The event `failed`, whose member `key` must contain `part`. */
void fixture_wait_failed(struct fixture_mover *mover, const char *key, const char *part);
/* Waits for the mover's end and returns its exit code. */
int fixture_join(struct fixture_mover *mover);
/* handed-off, stream-end, commit, result: from the device state to the end; both must exit with 0. */
void fixture_finish(struct fixture *f);

/* Hands the source the connection of a mirror; its other end. */
int fixture_mirror(struct fixture *f);

/* Destination QEMU: waits until the last that it was fed is this. */
void fixture_await_fed(struct fixture *f, const void *tail, size_t len);
void fixture_release_qemu(struct fixture *f);
/* Destination QEMU: waits for the end of its stream; then f->fed is complete. */
void fixture_join_reader(struct fixture *f);

/* Source QEMU. */
void fixture_stream(struct fixture *f, const void *data, size_t len);
void fixture_stream_start(struct fixture *f); /* header, configuration, START of ram */
/* One PART (or END) section with these pages of the source's RAM as they are now. */
void fixture_stream_pages(struct fixture *f, uint64_t first, uint64_t n, bool end);
/* Device state after the END section. */
void fixture_stream_device(struct fixture *f, const void *data, size_t len);
/* Reads the 8 bytes of a return path message; false when there is none within timeout_ms. */
bool fixture_vote(struct fixture *f, uint32_t *ret_value, int timeout_ms);

/* Fills source RAM: zero, text-like and random pages; `seed` changes it. */
void fixture_fill(struct fixture *f, uint64_t first, uint64_t n, uint32_t seed);
/* A connection to the sink, as anybody can make one. */
int fixture_connect_socket(struct fixture *f);
/* A TLS connection to the sink as the source would make it. */
struct tls_stream *fixture_connect(struct fixture *f);
/* What it says first, as channel 0 of 2, and how it says anything. */
struct wire_hello_v1 fixture_hello(void);
void fixture_frame(struct tls_stream *stream, enum wire_frame type, const void *payload, size_t len);
uint64_t fixture_pages(const struct fixture *f);
void fixture_assert_ram_equal(struct fixture *f);

/* Ends a channel's connection; returns when the source has noticed. */
void fixture_cut(struct fixture *f, unsigned int channel);
/* Hands the source another connection for it: a good one, or one that ends at once. */
void fixture_reconnect(struct fixture *f, unsigned int channel, bool good);

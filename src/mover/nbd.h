/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* NBD between a mover and its QEMU over a connected Unix socket: as much of the protocol (doc/proto.md of the NBD project) as a
 * mirrored disk needs. Fixed newstyle handshake, simple replies, commands WRITE, WRITE_ZEROES, TRIM and FLUSH. Everything is
 * big-endian and packed.
 *
 * The source's mover is the server whose client is the mirror of the source's QEMU (source_disk.c); the sink's mover is the client
 * of the destination QEMU's export (sink_disk.c). Calls block; whoever wants to end one shuts the socket down. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define NBD_MAX_WRITE (32 * 1024 * 1024) /* bytes of one WRITE: what QEMU uses where nothing is said */
#define NBD_MAX_NAME 255

enum nbd_command {
        NBD_READ = 0,
        NBD_WRITE = 1,
        NBD_DISCONNECT = 2,
        NBD_FLUSH = 3,
        NBD_TRIM = 4,
        NBD_WRITE_ZEROES = 6
};

#define NBD_COMMAND_NO_HOLE (1u << 1) /* of WRITE_ZEROES: the range stays allocated */

/* Errors in replies have the numbers of errno on Linux. */
struct nbd_request {
        uint16_t command; /* enum nbd_command, or one that we do not know */
        uint16_t flags;
        uint64_t handle;
        uint64_t offset;
        uint32_t length;
};

/* Server: greets a client of an export of so many bytes, whatever name it asks for. 0; -ECONNRESET when the client ended it. */
int nbd_server_greet(int fd, uint64_t size_bytes);
/* The next request; the bytes of a WRITE follow, which the caller reads with nbd_read(). -ECONNRESET: the client is gone;
 * -EPROTO: nothing that follows can be understood. */
int nbd_server_receive(int fd, struct nbd_request *ret_request);
/* Answers it; `error` 0 or positive errno. */
int nbd_server_reply(int fd, const struct nbd_request *request, int error);
/* Exactly len bytes. -ECONNRESET at the end. */
int nbd_read(int fd, void *data, size_t len);

struct nbd_client {
        int fd; /* owned; -1: broken or never there */
        uint64_t size_bytes;
        uint64_t handle;
};

/* Takes the connection over, and greets the server within limit_ms. QEMU_FAILED when the export is not there, not of this size, or
 * does not take what we need. */
int nbd_client_init(struct nbd_client *client, int fd, const char *name, uint64_t size_bytes,
        uint64_t limit_ms, struct error **ret_error);
void nbd_client_deinit(struct nbd_client *client);
/* One command, from request to reply. While the server keeps us waiting, go_on() is called about once a second; when it says no,
 * the call gives up with -ECANCELED. -ECONNRESET, -EPROTO: the connection is of no use any more. 0: *ret_error is the server's
 * verdict, 0 or positive errno. */
int nbd_client_call(struct nbd_client *client, enum nbd_command command, uint16_t flags, uint64_t offset,
        uint32_t length, const void *data, bool (*go_on)(void *userdata), void *userdata, int *ret_error);

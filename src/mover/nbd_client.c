/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "mover/nbd_internal.h"

#define TURN_MS 1000

/* Sends (to_send) or receives all of it, with a call of go_on() for each TURN_MS that nothing moves. */
static int transfer(struct nbd_client *client, void *data, size_t len, bool to_send, bool (*go_on)(void *),
        void *userdata)
{
        struct pollfd pfd = {.fd = client->fd, .events = to_send ? POLLOUT : POLLIN};

        while (len > 0) {
                ssize_t n = to_send ? send(client->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT)
                                    : recv(client->fd, data, len, MSG_DONTWAIT);

                if (n > 0) {
                        data = (char *)data + n;
                        len -= (size_t)n;
                        continue;
                }
                if (n == 0 || (errno != EAGAIN && errno != EINTR))
                        return -ECONNRESET;
                if (poll(&pfd, 1, TURN_MS) == 0 && !go_on(userdata))
                        return -ECANCELED;
        }
        return 0;
}

struct deadline {
        uint64_t at_ms;
};

static bool before(void *userdata)
{
        const struct deadline *deadline = userdata;

        return clock_now_ms(&clock_system) < deadline->at_ms;
}

static int send_go(struct nbd_client *client, const char *name, struct deadline *deadline)
{
        struct _nbd_packed_ {
                uint32_t client_flags;
                struct nbd_option_head head;
                uint32_t name_len;
                char name[NBD_MAX_NAME + 2]; /* and the number of wishes: 0 */
        } go = {.client_flags = htobe32(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES),
                .head = {.magic = htobe64(NBD_OPTION_MAGIC), .option = htobe32(NBD_OPT_GO)}};
        size_t len = strnlen(name, NBD_MAX_NAME);

        go.head.length = htobe32((uint32_t)(sizeof(go.name_len) + len + 2));
        go.name_len = htobe32((uint32_t)len);
        memcpy(go.name, name, len);
        return transfer(client, &go, sizeof(go) - sizeof(go.name) + len + 2, true, before, deadline);
}

/* Reads replies to GO up to its end; *ret_flags 0 when the server says no. */
static int receive_export(
        struct nbd_client *client, uint64_t *ret_size, uint16_t *ret_flags, struct deadline *deadline)
{
        *ret_flags = 0;
        for (int i = 0; i < NBD_MAX_OPTIONS; i++) {
                uint8_t data[1024];
                struct nbd_option_reply reply;
                struct nbd_info_export export;
                uint32_t length, type;
                int r = transfer(client, &reply, sizeof(reply), false, before, deadline);

                if (r < 0)
                        return r;
                length = be32toh(reply.length);
                type = be32toh(reply.type);
                if (be64toh(reply.magic) != NBD_OPTION_REPLY_MAGIC || length > sizeof(data))
                        return -EPROTO;
                r = transfer(client, data, length, false, before, deadline);
                if (r < 0)
                        return r;
                if (type & NBD_REP_ERROR)
                        *ret_flags = 0;
                if (type != NBD_REP_INFO)
                        return 0;
                memcpy(&export, data, sizeof(export));
                if (length == sizeof(export) && be16toh(export.type) == NBD_INFO_EXPORT) {
                        *ret_size = be64toh(export.size);
                        *ret_flags = be16toh(export.flags);
                }
        }
        return -EPROTO;
}

int nbd_client_init(struct nbd_client *client, int fd, const char *name, uint64_t size_bytes,
        uint64_t limit_ms, struct error **ret_error)
{
        struct deadline deadline = {clock_now_ms(&clock_system) + limit_ms};
        const uint16_t need = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_WRITE_ZEROES;
        struct nbd_greeting greeting;
        uint64_t size = 0;
        uint16_t flags = 0;
        int r;

        *client = (struct nbd_client){.fd = fd, .size_bytes = size_bytes};
        r = transfer(client, &greeting, sizeof(greeting), false, before, &deadline);
        if (r >= 0 &&
                (be64toh(greeting.magic) != NBD_MAGIC || be64toh(greeting.option_magic) != NBD_OPTION_MAGIC ||
                        !(be16toh(greeting.flags) & NBD_FIXED_NEWSTYLE) ||
                        !(be16toh(greeting.flags) & NBD_NO_ZEROES)))
                r = -EPROTO;
        if (r >= 0)
                r = send_go(client, name, &deadline);
        if (r >= 0)
                r = receive_export(client, &size, &flags, &deadline);
        if (r < 0)
                return error_set(ret_error, ERROR_QEMU_FAILED, "See the destination QEMU's log",
                        "The destination's QEMU does not offer disk \"%s\": %s", name, strerror(-r));
        if ((flags & need) != need || flags & NBD_READ_ONLY)
                return error_set(ret_error, ERROR_QEMU_FAILED, "See the destination QEMU's log",
                        "The destination's QEMU does not let disk \"%s\" be written", name);
        if (size != size_bytes)
                return error_set(ret_error, ERROR_QEMU_FAILED, NULL,
                        "The destination's disk \"%s\" has %llu bytes instead of %llu", name,
                        (unsigned long long)size, (unsigned long long)size_bytes);
        return 0;
}

void nbd_client_deinit(struct nbd_client *client)
{
        fd_closep(&client->fd);
}

static int call(struct nbd_client *client, const struct nbd_request_head *head, const void *data,
        uint32_t length, bool (*go_on)(void *), void *userdata, int *ret_error)
{
        struct nbd_simple_reply reply;
        int r = transfer(client, (void *)head, sizeof(*head), true, go_on, userdata);

        if (r >= 0 && data)
                r = transfer(client, (void *)data, length, true, go_on, userdata);
        if (r >= 0)
                r = transfer(client, &reply, sizeof(reply), false, go_on, userdata);
        if (r < 0)
                return r;
        if (be32toh(reply.magic) != NBD_REPLY_MAGIC || reply.handle != head->handle ||
                be32toh(reply.error) > INT32_MAX)
                return -EPROTO;
        *ret_error = (int)be32toh(reply.error);
        return 0;
}

int nbd_client_call(struct nbd_client *client, enum nbd_command command, uint16_t flags, uint64_t offset,
        uint32_t length, const void *data, bool (*go_on)(void *userdata), void *userdata, int *ret_error)
{
        const struct nbd_request_head head = {.magic = htobe32(NBD_REQUEST_MAGIC),
                .flags = htobe16(flags),
                .command = htobe16((uint16_t)command),
                .handle = ++client->handle,
                .offset = htobe64(offset),
                .length = htobe32(length)};
        int r = client->fd < 0 ? -ECONNRESET : call(client, &head, data, length, go_on, userdata, ret_error);

        if (r < 0) /* in the middle of something */
                nbd_client_deinit(client);
        return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/nbd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "mover/nbd_internal.h"

#define PREFERRED_BLOCK 65536

int nbd_read(int fd, void *data, size_t len)
{
        while (len > 0) {
                ssize_t n = recv(fd, data, len, 0);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return -ECONNRESET;
                data = (char *)data + n;
                len -= (size_t)n;
        }
        return 0;
}

static int write_all(int fd, const void *data, size_t len)
{
        while (len > 0) {
                ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return -ECONNRESET;
                data = (const char *)data + n;
                len -= (size_t)n;
        }
        return 0;
}

static int skip(int fd, size_t len)
{
        char data[4096];
        int r = 0;

        for (; r >= 0 && len > 0; len -= MIN(len, sizeof(data)))
                r = nbd_read(fd, data, MIN(len, sizeof(data)));
        return r;
}

static int reply_option(int fd, uint32_t option, uint32_t type, const void *data, size_t len)
{
        struct nbd_option_reply reply = {.magic = htobe64(NBD_OPTION_REPLY_MAGIC),
                .option = htobe32(option),
                .type = htobe32(type),
                .length = htobe32((uint32_t)len)};
        int r = write_all(fd, &reply, sizeof(reply));

        return r < 0 ? r : write_all(fd, data, len);
}

static uint16_t export_flags(void)
{
        return NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES;
}

/* INFO and GO: what they ask for is told without looking, for more may be told than was asked. */
static int describe(int fd, uint32_t option, uint32_t length, uint64_t size_bytes)
{
        const struct nbd_info_export export = {.type = htobe16(NBD_INFO_EXPORT),
                .size = htobe64(size_bytes),
                .flags = htobe16(export_flags())};
        const struct nbd_info_block_size block_size = {.type = htobe16(NBD_INFO_BLOCK_SIZE),
                .min = htobe32(1),
                .preferred = htobe32(PREFERRED_BLOCK),
                .max = htobe32(NBD_MAX_WRITE)};
        int r = skip(fd, length);

        if (r >= 0)
                r = reply_option(fd, option, NBD_REP_INFO, &export, sizeof(export));
        if (r >= 0)
                r = reply_option(fd, option, NBD_REP_INFO, &block_size, sizeof(block_size));
        return r < 0 ? r : reply_option(fd, option, NBD_REP_ACK, NULL, 0);
}

/* The oldest way in: no answer but the export itself. */
static int enter(int fd, uint32_t length, uint64_t size_bytes, bool no_zeroes)
{
        static const char zeroes[124];
        struct _nbd_packed_ {
                uint64_t size;
                uint16_t flags;
        } export = {htobe64(size_bytes), htobe16(export_flags())};
        int r = skip(fd, length);

        if (r >= 0)
                r = write_all(fd, &export, sizeof(export));
        return r < 0 || no_zeroes ? r : write_all(fd, zeroes, sizeof(zeroes));
}

int nbd_server_greet(int fd, uint64_t size_bytes)
{
        const struct nbd_greeting greeting = {.magic = htobe64(NBD_MAGIC),
                .option_magic = htobe64(NBD_OPTION_MAGIC),
                .flags = htobe16(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)};
        uint32_t client_flags;
        int r = write_all(fd, &greeting, sizeof(greeting));

        if (r >= 0)
                r = nbd_read(fd, &client_flags, sizeof(client_flags));
        if (r < 0)
                return r;
        client_flags = be32toh(client_flags);
        if (!(client_flags & NBD_FIXED_NEWSTYLE) || client_flags & ~(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES))
                return -EPROTO;
        for (int i = 0; r >= 0 && i < NBD_MAX_OPTIONS; i++) {
                struct nbd_option_head head;
                uint32_t option, length;

                r = nbd_read(fd, &head, sizeof(head));
                if (r < 0)
                        return r;
                option = be32toh(head.option);
                length = be32toh(head.length);
                if (be64toh(head.magic) != NBD_OPTION_MAGIC || length > NBD_MAX_OPTION)
                        return -EPROTO;
                switch (option) {
                case NBD_OPT_EXPORT_NAME:
                        return enter(fd, length, size_bytes, client_flags & NBD_NO_ZEROES);
                case NBD_OPT_GO:
                        return describe(fd, option, length, size_bytes);
                case NBD_OPT_INFO:
                        r = describe(fd, option, length, size_bytes);
                        break;
                case NBD_OPT_ABORT:
                        (void)reply_option(fd, option, NBD_REP_ACK, NULL, 0);
                        return -ECONNRESET;
                default: /* structured replies among them: simple ones will do */
                        r = skip(fd, length);
                        if (r >= 0)
                                r = reply_option(fd, option, NBD_REP_ERR_UNSUP, NULL, 0);
                }
        }
        return r < 0 ? r : -EPROTO;
}

int nbd_server_receive(int fd, struct nbd_request *ret_request)
{
        struct nbd_request_head head;
        int r = nbd_read(fd, &head, sizeof(head));

        if (r < 0)
                return r;
        if (be32toh(head.magic) != NBD_REQUEST_MAGIC)
                return -EPROTO;
        *ret_request = (struct nbd_request){.command = be16toh(head.command),
                .flags = be16toh(head.flags),
                .handle = head.handle,
                .offset = be64toh(head.offset),
                .length = be32toh(head.length)};
        return ret_request->command == NBD_WRITE && ret_request->length > NBD_MAX_WRITE ? -EPROTO : 0;
}

int nbd_server_reply(int fd, const struct nbd_request *request, int error)
{
        const struct nbd_simple_reply reply = {.magic = htobe32(NBD_REPLY_MAGIC),
                .error = htobe32((uint32_t)error),
                .handle = request->handle};

        return write_all(fd, &reply, sizeof(reply));
}

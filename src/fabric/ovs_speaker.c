/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs_speaker.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "io/sock.h"

#define VERSION 1
#define HELLO 0
#define PACKET_OUT 13
#define NO_BUFFER UINT32_MAX
#define ACTION_OUTPUT 0
#define PORT_NORMAL 0xfffa
#define PORT_MAX 65279
#define DISCARD_SIZE 2048
#define DISCARD_MAX 64 /* reads, of what ovs-vswitchd has to say */

struct __attribute__((packed)) header {
        uint8_t version, type;
        uint16_t length, xid_high, xid_low;
};
static_assert(sizeof(struct header) == 8, "ofp_header");

struct __attribute__((packed)) packet_out {
        struct header header;
        uint32_t buffer_id;
        uint16_t in_port, actions_len;
        uint16_t action_type, action_len, action_port, action_max_len;
        uint8_t frame[OVS_SPEAKER_FRAME_MAX];
};
static_assert(offsetof(struct packet_out, frame) == 24, "ofp_packet_out with one ofp_action_output");

struct ovs_speaker {
        int fd;
        uint16_t port;
        struct packet_out message; /* the last one; of it the socket has no room yet for: */
        size_t sent, size;
};

/* What is left of the message. -EAGAIN: some still is; it goes before the next one, or ovs-vswitchd would take that for its end. */
static int send_rest(struct ovs_speaker *speaker)
{
        while (speaker->sent < speaker->size) {
                ssize_t n = send(speaker->fd, (const uint8_t *)&speaker->message + speaker->sent,
                        speaker->size - speaker->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                speaker->sent += (size_t)n;
        }
        return 0;
}

int ovs_speaker_new(const char *db_path, const char *bridge, uint16_t port, struct ovs_speaker **ret_speaker)
{
        const char *slash = strrchr(db_path, '/');
        _cleanup_(ovs_speaker_freep) struct ovs_speaker *speaker = NULL;
        _cleanup_free_ char *path = NULL;
        int r;

        if (!slash || !port || port > PORT_MAX)
                return -EINVAL;
        path = alloc_printf("%.*s/%s.mgmt", (int)(slash - db_path), db_path, bridge);
        speaker = ALLOC(struct ovs_speaker);
        if (!path || !speaker)
                return -ENOMEM;
        *speaker = (struct ovs_speaker){.fd = -1, .port = port, .size = sizeof(struct header)};
        speaker->message.header =
                (struct header){.version = VERSION, .type = HELLO, .length = htobe16(sizeof(struct header))};
        r = sock_connect_unix(path, SOCK_STREAM, &speaker->fd);
        if (r == 0)
                r = send_rest(speaker);
        if (r < 0)
                return r;
        *ret_speaker = TAKE_PTR(speaker);
        return 0;
}

void ovs_speaker_free(struct ovs_speaker *speaker)
{
        if (!speaker)
                return;
        if (speaker->fd >= 0)
                close(speaker->fd);
        free(speaker);
}

/* What ovs-vswitchd says is of no interest: its own hello, which ports have changed. */
static int discard(int fd)
{
        uint8_t data[DISCARD_SIZE];

        for (int i = 0; i < DISCARD_MAX; i++) {
                ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);

                if (n == 0)
                        return -EPIPE;
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        }
        return 0;
}

int ovs_speaker_say(struct ovs_speaker *speaker, const void *frame, size_t len)
{
        size_t size = offsetof(struct packet_out, frame) + len;
        int r;

        if (len > sizeof(speaker->message.frame))
                return -EMSGSIZE;
        r = discard(speaker->fd);
        if (r == 0)
                r = send_rest(speaker);
        if (r < 0)
                return r;
        speaker->message = (struct packet_out){
                .header = {.version = VERSION, .type = PACKET_OUT, .length = htobe16((uint16_t)size)},
                .buffer_id = NO_BUFFER,
                .in_port = htobe16(speaker->port),
                .actions_len = htobe16(8),
                .action_type = htobe16(ACTION_OUTPUT),
                .action_len = htobe16(8),
                .action_port = htobe16(PORT_NORMAL)};
        memcpy(speaker->message.frame, frame, len);
        speaker->sent = 0;
        speaker->size = size;
        return send_rest(speaker);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The connections of the source's channels, as main sees them: it takes them from the agent, tells it when one is lost, and gives
 * one up that stands still. Each is on one of the sink's addresses, its path. */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/log.h"
#include "mover/source_internal.h"

/* Frames, and with them what is held for each channel, are smaller where there are many: 64 channels with what 4 take would
 * not fit the memory that a mover may have. zstd finds little more in 256 KiB than in 64. */
#define MANY_CHANNELS 8
#define SMALL_FRAME_BYTES (64 * 1024)
/* And where a full one on each channel takes longer than this to leave. */
#define FRAMES_MS 40
/* Nothing was acknowledged for so long, or for so many round trips, though the kernel sent it twice again. Others on the same path
 * that go on mean that packets get lost, rather than the path: then there is more time. */
#define STALL_MS 1000
#define STALL_ROUND_TRIPS 6
#define STALL_ALONE_MS 3000
#define STALL_RETRANSMITS 2
/* A connection goes on when something was acknowledged within this. */
#define ALIVE_MS 500

size_t source_frame_bytes(const struct source *source, uint64_t bytes_per_s)
{
        bool slow = bytes_per_s > 0 &&
                    bytes_per_s * FRAMES_MS / 1000 < (uint64_t)source->n_channels * WIRE_STRIPE_BYTES;

        return slow || source->n_channels > MANY_CHANNELS ? SMALL_FRAME_BYTES : WIRE_STRIPE_BYTES;
}

int source_take_connections(struct source *source, struct control_message *message, size_t first, size_t n,
        struct error **ret_error)
{
        const json_t *paths = json_object_get(message->json, "paths");
        const int one = 1;

        source->n_channels = (unsigned int)n;
        source->frame_bytes = source_frame_bytes(source, 0);
        for (unsigned int i = 0; i < n; i++) {
                struct sender *sender = &source->senders[i];
                int fd = TAKE_FD(message->fds[first + i]);
                int r;

                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                r = sender_init(sender, source, i, fd);
                if (r < 0)
                        return error_from_errno(ret_error, r, "Cannot set up a channel");
                sender->path = (unsigned int)json_integer_value(json_array_get(paths, i));
        }
        return 0;
}

int source_take_connection(struct source *source, struct control_message *message, struct error **ret_error)
{
        uint64_t number = 0, path = 0;
        struct sender *sender;
        const int one = 1;
        int old, wake_fd;
        int r = doc_need_u64(
                message->json, "message", "channel", 0, source->n_channels - 1, &number, ret_error);

        if (r >= 0)
                r = doc_opt_u64(message->json, "message", "path", 0, WIRE_MAX_PATHS - 1, &path, ret_error);
        if (r < 0)
                return r;
        if (message->n_fds != 1)
                return error_set(ret_error, ERROR_PROTOCOL, NULL,
                        "The agent sent %zu connections for a channel", message->n_fds);
        sender = &source->senders[number];
        /* Nothing is moved once the last pages are on their way. */
        if (!sender->awaiting && source->device_state)
                return 0;
        wake_fd = fcntl(message->fds[0], F_DUPFD_CLOEXEC, 3);
        if (wake_fd < 0)
                return error_from_errno(ret_error, errno, "Cannot take a connection");
        (void)shutdown(sender->wake_fd, SHUT_RDWR); /* the sender notices, and finds the other one */
        fd_closep(&sender->wake_fd);
        sender->wake_fd = wake_fd;
        sender->path = (unsigned int)path;
        sender->stalled = sender->given_up = false;
        (void)setsockopt(message->fds[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        old = atomic_exchange(&sender->offered_fd, TAKE_FD(message->fds[0]));
        fd_closep(&old);
        (void)eventfd_write(sender->queue.event_fd, 1);
        return 0;
}

void source_tell_lost(struct source *source)
{
        uint64_t lost = atomic_exchange(&source->channels_lost, 0);

        for (unsigned int i = 0; i < source->n_channels; i++)
                if (lost >> i & 1)
                        control_send(source->control_fd,
                                json_pack("{s:s, s:i, s:i, s:b}", "event", "channel-lost", "channel", (int)i,
                                        "path", (int)source->senders[i].path, "stalled",
                                        source->senders[i].stalled),
                                false);
}

static bool get_tcp_info(const struct sender *sender, struct tcp_info *ret_info)
{
        socklen_t len = sizeof(*ret_info);

        *ret_info = (struct tcp_info){0};
        return !sender->awaiting && getsockopt(sender->wake_fd, IPPROTO_TCP, TCP_INFO, ret_info, &len) == 0;
}

static bool stands_still(const struct tcp_info *info, bool path_alive)
{
        uint64_t limit_ms = path_alive ? STALL_ALONE_MS : STALL_MS;

        limit_ms = MAX(limit_ms, (uint64_t)info->tcpi_rtt * STALL_ROUND_TRIPS / 1000);
        return info->tcpi_unacked > 0 && info->tcpi_retransmits >= STALL_RETRANSMITS &&
               info->tcpi_last_ack_recv > limit_ms;
}

/* The kernel's own limit (see sock_set_peer_limit()) is for when all stand still: nobody can tell then how long. */
void source_look_for_stalls(struct source *source)
{
        struct tcp_info infos[WIRE_MAX_CHANNELS];
        bool known[WIRE_MAX_CHANNELS], path_alive[WIRE_MAX_PATHS] = {0}, any_alive = false;

        if (source->n_channels < 2 || !mailbox_has(&source->mailbox, MAIL_READY) || source->committed)
                return;
        for (unsigned int i = 0; i < source->n_channels; i++) {
                known[i] = get_tcp_info(&source->senders[i], &infos[i]);
                if (known[i] && infos[i].tcpi_retransmits == 0 &&
                        infos[i].tcpi_last_ack_recv <= ALIVE_MS + infos[i].tcpi_rtt / 1000)
                        any_alive = path_alive[source->senders[i].path % WIRE_MAX_PATHS] = true;
        }
        for (unsigned int i = 0; any_alive && i < source->n_channels; i++) {
                struct sender *sender = &source->senders[i];
                bool alive = path_alive[sender->path % WIRE_MAX_PATHS];

                if (!known[i] || sender->given_up || !sender->resumable || !stands_still(&infos[i], alive))
                        continue;
                log_notice("Channel %u: nothing was acknowledged for %u ms", i, infos[i].tcpi_last_ack_recv);
                sender->given_up = true;
                sender->stalled = !alive;
                (void)shutdown(sender->wake_fd, SHUT_RDWR);
        }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "mover/sandbox.h"
#include "mover/sink_internal.h"

#define STATS_MS 500
/* How long a channel may be without a connection. The source tries to make another for 30 s, or 3 s once its guest is stopped
 * (source_resume.c), from when it noticed: that may be 10 s later. */
#define LOST_MS 60000
#define LOST_PAUSED_MS 10000
#define LOST_POST_COPY_MS 50000 /* the guest is of no use meanwhile, and of none at all afterwards */
/* A channel with more pages missing than this ends the migration: the source stops naming any long before. */
#define MAX_MISSING_BYTES (16 * 1024 * 1024)
/* Receivers that hang in the network are cut off after this. */
#define STOP_GRACE_S 1

void sink_fail(struct sink *sink, struct error *error, bool from_peer)
{
        if (sink->stopping || sink->committed) {
                sink->peer_gone = true;
                error_free(error);
                (void)eventfd_write(sink->mailbox.event_fd, 1);
                return;
        }
        mailbox_fail(&sink->mailbox, error, from_peer);
}

/* One that is of no use is none. */
static void open_store(struct sink *sink, int fd)
{
        struct stat st;
        int r = fstat(fd, &st) < 0 ? -errno : page_store_open(fd, (uint64_t)st.st_size, &sink->store);

        if (r < 0)
                log_notice("The pages of other guests cannot be used: %s", strerror(-r));
}

static int take_descriptors(struct sink *sink, struct error **ret_error)
{
        struct control_message *message = &sink->start_message;
        struct timeval limit = {.tv_sec = CHANNEL_SILENCE_MS / 1000};
        size_t n_files = (size_t)sink->start.has_checkpoint + sink->start.has_siblings;
        size_t n_other = 2 + n_files + sink->start.n_disks;
        int flags, r;

        if (message->n_fds < n_other + 1 || message->n_fds > n_other + WIRE_MAX_PATHS)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The start message brought %zu descriptors, not QEMU's socket, the RAM file and "
                        "1 to %d listening sockets",
                        message->n_fds, WIRE_MAX_PATHS);
        sink->qemu_fd = TAKE_FD(message->fds[0]);
        sink->ram_fd = TAKE_FD(message->fds[1]);
        sink->n_listen_fds = message->n_fds - n_other;
        for (size_t i = 0; i < sink->n_listen_fds; i++)
                sink->listen_fds[i] = TAKE_FD(message->fds[2 + i]);
        if (sink->start.has_checkpoint)
                sink->checkpoint_fd = TAKE_FD(message->fds[message->n_fds - n_files]);
        if (sink->start.has_siblings)
                open_store(sink, message->fds[message->n_fds - 1]);
        r = sink_disks_init(sink, 2 + sink->n_listen_fds, ret_error);
        if (r < 0)
                return r;
        flags = fcntl(sink->qemu_fd, F_GETFL);
        if (flags < 0 || fcntl(sink->qemu_fd, F_SETFL, flags & ~O_NONBLOCK) < 0 ||
                setsockopt(sink->qemu_fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
                return error_from_errno(ret_error, errno, "Cannot use QEMU's socket");
        for (size_t i = 0; i < sink->n_listen_fds; i++) {
                flags = fcntl(sink->listen_fds[i], F_GETFL);
                if (flags < 0 || fcntl(sink->listen_fds[i], F_SETFL, flags | O_NONBLOCK) < 0)
                        return error_from_errno(ret_error, errno, "Cannot use a listening socket");
        }
        return 0;
}

/* One that is of no use is none. */
static void open_checkpoint(struct sink *sink)
{
        struct stat st;
        int r;

        if (sink->checkpoint_fd < 0)
                return;
        r = fstat(sink->checkpoint_fd, &st) < 0
                    ? -errno
                    : checkpoint_open(sink->checkpoint_fd, (uint64_t)st.st_size, sink->start.checkpoint_key,
                              sink->ram.bytes, &sink->checkpoint);
        explicit_bzero(sink->start.checkpoint_key, sizeof(sink->start.checkpoint_key));
        if (r < 0)
                log_notice("The guest's memory from its earlier stay cannot be used: %s", strerror(-r));
}

static int set_up(struct sink *sink, struct error **ret_error)
{
        int r = control_parse_start(&sink->start_message, &sink->start, ret_error);

        if (r >= 0)
                r = take_descriptors(sink, ret_error);
        if (r >= 0)
                r = ram_init(
                        &sink->ram, sink->ram_fd, sink->start.ram_address, sink->start.ram_bytes, ret_error);
        if (r < 0)
                return r;
        open_checkpoint(sink);
        r = tls_context_new(true, sink->start.cert_pem, sink->start.key_pem, sink->start.peer_fingerprint,
                &sink->tls, ret_error);
        if (r >= 0 && sink->start.spec_digest)
                r = tls_context_agree_on(sink->tls, sink->start.spec_digest, ret_error);
        return r;
}

static void receiver_deinit(struct receiver *receiver)
{
        channel_deinit(&receiver->channel);
        codec_free(TAKE_PTR(receiver->codec));
        content_digester_free(TAKE_PTR(receiver->digester));
        free(TAKE_PTR(receiver->raw));
        free(TAKE_PTR(receiver->stripe));
        free(TAKE_PTR(receiver->packed));
        free(TAKE_PTR(receiver->recalled));
        fd_closep(&receiver->socket_fd);
        fd_closep(&receiver->wake_fd);
        receiver->state = RECEIVER_FREE;
}

/* Frees the places of connections that have ended, and counts those that run. */
static unsigned int reap(struct sink *sink)
{
        unsigned int n_running = 0;

        for (unsigned int i = 0; i < SINK_MAX_CONNECTIONS; i++) {
                struct receiver *receiver = &sink->receivers[i];

                if (receiver->state == RECEIVER_DONE) {
                        pthread_join(receiver->thread, NULL);
                        receiver_deinit(receiver);
                }
                n_running += receiver->state == RECEIVER_RUNNING;
        }
        return n_running;
}

/* All places are taken, by strangers for the most part: one of them has to go, so that the source, which tries again, finds
 * one. */
static void turn_one_away(struct sink *sink)
{
        bool done = false;

        pthread_mutex_lock(&sink->lock);
        for (unsigned int i = 0; !done && i < SINK_MAX_CONNECTIONS; i++) {
                done = sink->receivers[i].state == RECEIVER_RUNNING && sink->receivers[i].number < 0;
                if (done)
                        (void)shutdown(sink->receivers[i].wake_fd, SHUT_RDWR);
        }
        pthread_mutex_unlock(&sink->lock);
}

static void start_receiver(struct sink *sink, int fd)
{
        _cleanup_fd_ int owned = fd;
        struct receiver *receiver = NULL;
        int one = 1;

        for (unsigned int i = 0; !receiver && i < SINK_MAX_CONNECTIONS; i++)
                if (sink->receivers[i].state == RECEIVER_FREE)
                        receiver = &sink->receivers[i];
        if (!receiver) {
                turn_one_away(sink);
                return;
        }
        *receiver =
                (struct receiver){.sink = sink, .socket_fd = -1, .number = -1, .serial = ++sink->n_accepted};
        receiver->wake_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (receiver->wake_fd < 0)
                return;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        receiver->socket_fd = TAKE_FD(owned);
        receiver->state = RECEIVER_RUNNING;
        if (pthread_create(&receiver->thread, NULL, sink_receiver_main, receiver) != 0)
                receiver_deinit(receiver);
}

static void accept_one(struct sink *sink, int listen_fd)
{
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

        if (fd >= 0)
                start_receiver(sink, fd);
}

static void stop_listening(struct sink *sink)
{
        for (size_t i = 0; i < sink->n_listen_fds; i++)
                fd_closep(&sink->listen_fds[i]);
        sink->n_listen_fds = 0;
}

static void send_stats(struct sink *sink, bool droppable)
{
        struct rusage usage;
        uint64_t hashes[WIRE_MAX_CHANNELS];
        bool hashed;
        char hex[17];
        json_t *event;

        getrusage(RUSAGE_SELF, &usage);
        event = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "event", "stats", "phase",
                sink->committed                            ? "finishing"
                : sink->post_copy                          ? "post-copy"
                : mailbox_has(&sink->mailbox, MAIL_PLACED) ? "switching"
                : mailbox_has(&sink->mailbox, MAIL_READY)  ? "copying"
                                                           : "connecting",
                "pages_shared", (json_int_t)sink->pages_shared, "bytes_disk", (json_int_t)sink->bytes_disk,
                "bytes_wire", (json_int_t)sink->bytes_received, "pages_placed",
                (json_int_t)sink->pages_placed, "bytes_device", (json_int_t)sink->bytes_device, "cpu_ms",
                (json_int_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
                        (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000);
        pthread_mutex_lock(&sink->lock);
        hashed = sink->n_channels > 0 && sink->hashed == wire_all_channels(sink->n_channels);
        memcpy(hashes, sink->channel_hashes, sizeof(hashes));
        pthread_mutex_unlock(&sink->lock);
        if (event && hashed) {
                snprintf(hex, sizeof(hex), "%016llx",
                        (unsigned long long)ram_total_hash(hashes, sink->n_channels));
                json_object_set_new(event, "ram_hash", json_string(hex));
        }
        control_send(sink->control_fd, event, droppable);
}

static void send_event(struct sink *sink, const char *name)
{
        control_send(sink->control_fd, json_pack("{s:s}", "event", name), false);
}

/* 0 go on, 1 done, -1 failed. */
static int handle_mail(struct sink *sink)
{
        unsigned int mail = mailbox_take(&sink->mailbox);

        reap(sink);
        if (mail & MAIL_READY && !sink->resumable)
                stop_listening(sink); /* nobody else has business here */
        if (mail & MAIL_PLACED)
                send_event(sink, "placed");
        if (mail & MAIL_HANDED_OFF)
                send_event(sink, "handed-off");
        if (mail & MAIL_COMMIT) {
                if (sink->committed)
                        stop_listening(sink);
                send_event(sink, "commit");
        }
        if (mail & MAIL_RESULT_SENT && (!sink->post_copy || sink->result.outcome != WIRE_RUNNING))
                return 1;
        return mail & MAIL_FAILED ? -1 : 0;
}

/* The agent's verdict: handed to channel 0's receiver. */
static int take_result(struct sink *sink, const json_t *message, struct error **ret_error)
{
        const char *outcome = json_string_value(json_object_get(message, "outcome"));
        const char *text = json_string_value(json_object_get(message, "message")) ?: "";
        json_int_t resumed_ns = json_integer_value(json_object_get(message, "resumed_realtime_ns"));

        if (!outcome || (strcmp(outcome, "running") != 0 && strcmp(outcome, "abandoned") != 0))
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent's result has no valid outcome");
        pthread_mutex_lock(&sink->lock);
        sink->result.outcome = strcmp(outcome, "running") == 0 ? WIRE_RUNNING : WIRE_ABANDONED;
        sink->result.resumed_realtime_ns = (uint64_t)MAX(resumed_ns, 0);
        snprintf(sink->result.text, sizeof(sink->result.text), "%s", text);
        pthread_mutex_unlock(&sink->lock);
        (void)eventfd_write(sink->result_fd, 1);
        sink->have_result = true;
        return 0;
}

static int handle_control(struct sink *sink, struct error **ret_error)
{
        struct control_message message;
        int r = control_receive(sink->control_fd, &message, ret_error);

        if (r < 0)
                return r;
        if (message.op == CONTROL_RESULT) {
                r = take_result(sink, message.json, ret_error);
        } else if (message.op == CONTROL_ABORT) {
                const char *reason = json_string_value(json_object_get(message.json, "reason"));

                r = error_set(ret_error, ERROR_CANCELLED, NULL, "%.200s",
                        reason ?: "The destination's agent ended the migration");
        } else {
                r = error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent sent a message for a source");
        }
        control_message_deinit(&message);
        return r;
}

/* UNREACHABLE when a channel has been without a connection for too long. */
static int check_lost_channels(struct sink *sink, struct error **ret_error)
{
        uint64_t limit_ms = sink->post_copy          ? LOST_POST_COPY_MS
                            : sink->bytes_device > 0 ? LOST_PAUSED_MS
                                                     : LOST_MS;
        uint64_t now_ms;
        bool too_long = false;

        if (sink->committed)
                return 0;
        pthread_mutex_lock(&sink->lock);
        now_ms = clock_now_ms(&clock_system); /* not before the time of any loss */
        for (unsigned int i = 0; i < sink->n_channels; i++)
                too_long |= (sink->present >> i & 1) && !sink->channels[i].receiver &&
                            now_ms - sink->channels[i].lost_ms > limit_ms;
        pthread_mutex_unlock(&sink->lock);
        return too_long ? error_set(ret_error, ERROR_UNREACHABLE,
                                  "Check the migration network and the mover on the other host",
                                  "A data connection was lost and the source did not make another")
                        : 0;
}

static int serve(struct sink *sink, struct error **ret_error)
{
        uint64_t next_stats_ms = clock_now_ms(&clock_system) + STATS_MS;
        uint64_t connected_by_ms = clock_now_ms(&clock_system) + sink->start.timeout_ms;

        for (;;) {
                struct pollfd pfds[2 + WIRE_MAX_PATHS] = {{.fd = sink->control_fd, .events = POLLIN},
                        {.fd = sink->mailbox.event_fd, .events = POLLIN}};
                size_t n_listening = sink->n_listen_fds;
                uint64_t now_ms = clock_now_ms(&clock_system);
                int r = 0;

                if (now_ms >= next_stats_ms) {
                        send_stats(sink, true);
                        next_stats_ms = now_ms + STATS_MS;
                        r = check_lost_channels(sink, ret_error);
                        if (r < 0)
                                return r;
                }
                if (now_ms > connected_by_ms && !mailbox_has(&sink->mailbox, MAIL_READY))
                        return error_set(ret_error, ERROR_TIMED_OUT,
                                "Check the migration network between the two hosts",
                                "The source did not open its channels within %llu ms",
                                (unsigned long long)sink->start.timeout_ms);
                for (size_t i = 0; i < n_listening; i++)
                        pfds[2 + i] = (struct pollfd){.fd = sink->listen_fds[i], .events = POLLIN};
                if (poll(pfds, 2 + n_listening, (int)(next_stats_ms - now_ms)) <= 0)
                        continue;
                if (pfds[1].revents)
                        r = handle_mail(sink);
                for (size_t i = 0; r == 0 && i < MIN(n_listening, sink->n_listen_fds); i++)
                        if (pfds[2 + i].revents)
                                accept_one(sink, sink->listen_fds[i]);
                if (r == 0 && pfds[0].revents)
                        r = handle_control(sink, ret_error);
                if (r == 0 && sink->peer_gone && sink->have_result)
                        r = 1; /* there is no one left to tell */
                if (r != 0)
                        return r;
        }
}

/* Makes all receivers come back, which tell the source why, and joins them. `error`: NULL after a good end. */
static void stop_receivers(struct sink *sink, bool failed, const struct error *error)
{
        struct timespec deadline;

        pthread_mutex_lock(&sink->lock);
        /* After COMMIT the source would take it for the destination's word; that comes from the agents. */
        sink->aborted = failed && !sink->mailbox.from_peer && !sink->committed;
        sink->abort_code = error ? error->code : ERROR_NO_MEMORY;
        snprintf(sink->abort_text, sizeof(sink->abort_text), "%s", error_message(error));
        sink->stopping = true;
        pthread_cond_broadcast(&sink->changed);
        pthread_mutex_unlock(&sink->lock);
        (void)eventfd_write(sink->stop_fd, 1);
        if (failed)
                (void)shutdown(sink->qemu_fd, SHUT_RDWR);
        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += STOP_GRACE_S;
        for (unsigned int i = 0; i < SINK_MAX_CONNECTIONS; i++) {
                struct receiver *receiver = &sink->receivers[i];

                if (receiver->state == RECEIVER_FREE)
                        continue;
                if (pthread_timedjoin_np(receiver->thread, NULL, &deadline) == 0)
                        continue;
                (void)shutdown(receiver->wake_fd, SHUT_RDWR);
                pthread_join(receiver->thread, NULL);
        }
}

static void sink_deinit(struct sink *sink)
{
        for (unsigned int i = 0; i < SINK_MAX_CONNECTIONS; i++)
                if (sink->receivers[i].state != RECEIVER_FREE)
                        receiver_deinit(&sink->receivers[i]);
        for (size_t i = 0; i < ARRAY_SIZE(sink->channels); i++)
                buf_deinit(&sink->channels[i].missing);
        buf_deinit(&sink->back.kept);
        sink_disks_deinit(sink);
        for (size_t i = 0; i < ARRAY_SIZE(sink->disks); i++)
                pthread_mutex_destroy(&sink->disks[i].lock);
        page_store_close(TAKE_PTR(sink->store));
        checkpoint_free(TAKE_PTR(sink->checkpoint));
        fd_closep(&sink->checkpoint_fd);
        tls_context_free(TAKE_PTR(sink->tls));
        mailbox_deinit(&sink->mailbox);
        pthread_cond_destroy(&sink->changed);
        pthread_mutex_destroy(&sink->lock);
        fd_closep(&sink->qemu_fd);
        fd_closep(&sink->ram_fd);
        stop_listening(sink);
        fd_closep(&sink->result_fd);
        fd_closep(&sink->stop_fd);
        control_message_deinit(&sink->start_message);
        free(sink);
}

static int run(struct sink *sink, bool sandbox, struct error **ret_error)
{
        int r = control_receive(sink->control_fd, &sink->start_message, ret_error);

        if (r >= 0 && sink->start_message.op != CONTROL_START)
                r = error_set(ret_error, ERROR_PROTOCOL, NULL, "The agent's first message is not \"start\"");
        if (r >= 0)
                r = set_up(sink, ret_error);
        if (r >= 0 && sandbox)
                r = sandbox_enter(sink->listen_fds, sink->n_listen_fds, sink->checkpoint_fd, &sink->ram, true,
                        ret_error);
        if (r < 0)
                return r;
        send_event(sink, "ready");
        r = serve(sink, ret_error);
        stop_receivers(sink, r < 0, *ret_error ?: sink->mailbox.error);
        send_stats(sink, false);
        return r;
}

int sink_run(int control_fd, bool sandbox)
{
        struct sink *sink = ALLOC(struct sink);
        _cleanup_error_ struct error *error = NULL;
        int r = sink ? 0 : -ENOMEM;

        if (sink) {
                sink->control_fd = control_fd;
                sink->qemu_fd = sink->ram_fd = sink->checkpoint_fd = -1;
                for (size_t i = 0; i < ARRAY_SIZE(sink->channels); i++)
                        buf_init(&sink->channels[i].missing, MAX_MISSING_BYTES);
                buf_init(&sink->back.kept, SINK_MAX_RETURN);
                for (size_t i = 0; i < ARRAY_SIZE(sink->disks); i++) {
                        sink->disks[i].client.fd = -1;
                        pthread_mutex_init(&sink->disks[i].lock, NULL);
                }
                pthread_mutex_init(&sink->lock, NULL);
                pthread_cond_init(&sink->changed, NULL);
                sink->result_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                sink->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                r = sink->result_fd < 0 || sink->stop_fd < 0 ? -errno : mailbox_init(&sink->mailbox);
        }
        if (r >= 0)
                r = run(sink, sandbox, &error);
        if (r < 0) {
                bool from_peer = sink && sink->mailbox.from_peer;

                if (!error && sink)
                        error = TAKE_PTR(sink->mailbox.error);
                control_send_failed(control_fd, error, from_peer);
        }
        if (sink)
                sink_deinit(sink);
        return r > 0 ? 0 : 1;
}

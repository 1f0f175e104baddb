/* SPDX-License-Identifier: Apache-2.0 */

/* A receiver: one connection of the sink, from the TLS handshake to the end. Until the handshake is done the
 * peer may be anybody, and its failure is nobody's but its own; from then on it is the source, and what it
 * does wrong ends the migration. */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "mover/sink_internal.h"

#define HANDSHAKE_MS 10000
#define ACK_BYTES (8 * 1024 * 1024)
#define ACK_BYTES_DISKS (2 * 1024 * 1024) /* the source keeps all of a disk until it is acknowledged */
#define ACK_MS 1000
#define WAIT_MS 500

static int check_hello(
        const struct receiver *receiver, const struct wire_hello_v1 *hello, struct error **ret_error)
{
        const struct control_start *start = &receiver->sink->start;
        unsigned int n = le16toh(hello->n_channels);

        if (memcmp(hello->magic, WIRE_MAGIC, sizeof(hello->magic)) != 0 ||
                le16toh(hello->compatible) > WIRE_VERSION || le16toh(hello->version) < WIRE_COMPATIBLE)
                return error_set(ret_error, ERROR_PROTOCOL, "Use the same drover version on both hosts",
                        "The source's mover (version %u) does not fit ours (version %u)",
                        le16toh(hello->version), WIRE_VERSION);
        if (memcmp(hello->migration, start->migration, sizeof(hello->migration)) != 0 ||
                memcmp(hello->vm, start->vm, sizeof(hello->vm)) != 0)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The source moves another guest than we expect");
        if (le32toh(hello->page_size) != WIRE_PAGE_SIZE || le64toh(hello->ram_bytes) != start->ram_bytes)
                return error_set(ret_error, ERROR_PROTOCOL,
                        "Start the destination's QEMU with the memory size of the source's",
                        "The source's guest has %llu bytes of memory instead of %llu",
                        (unsigned long long)le64toh(hello->ram_bytes), (unsigned long long)start->ram_bytes);
        if (n == 0 || n > WIRE_MAX_CHANNELS || le16toh(hello->channel) >= n)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The source opened channel %u of %u",
                        le16toh(hello->channel), n);
        return 0;
}

/* The source has given the channel's connection up: what has it still comes to an end. False: it takes too long, or the source
 * has given up this one as well. */
static bool replace_locked(struct sink *sink, struct sink_channel *channel, uint64_t serial)
{
        struct timespec deadline;
        int r = 0;

        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += CHANNEL_SILENCE_MS / 1000;
        while (channel->receiver && r == 0 && !sink->stopping && channel->serial == serial) {
                (void)shutdown(channel->receiver->wake_fd, SHUT_RDWR);
                r = pthread_cond_timedwait(&sink->changed, &sink->lock, &deadline);
        }
        return !channel->receiver && channel->serial == serial;
}

/* Takes its place among the channels; all must agree on what they have in common. A channel that comes again replaces its lost
 * connection. */
static int join(struct receiver *receiver, const struct wire_hello_v1 *hello, bool *ret_again,
        struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        unsigned int n = le16toh(hello->n_channels), number = le16toh(hello->channel);
        bool resumable = le32toh(hello->features) & WIRE_FEATURE_RESUME;
        struct sink_channel *channel = &sink->channels[number];
        bool agreed, again, outdated, in_time, complete;

        pthread_mutex_lock(&sink->lock);
        if (sink->n_channels == 0) {
                sink->n_channels = n;
                sink->resumable = resumable;
                memcpy(sink->secret, hello->secret, sizeof(sink->secret));
        }
        again = sink->present >> number & 1;
        agreed = sink->n_channels == n && sink->resumable == resumable &&
                 memcmp(sink->secret, hello->secret, sizeof(sink->secret)) == 0 && (!again || resumable);
        channel->serial = MAX(channel->serial, receiver->serial);
        in_time = !agreed || !again || replace_locked(sink, channel, receiver->serial);
        outdated = channel->serial != receiver->serial;
        if (agreed && in_time) {
                sink->present |= UINT64_C(1) << number;
                channel->receiver = receiver;
                sink->peer_gone = false;
                receiver->position = receiver->acked_bytes = channel->position;
                receiver->barriers = channel->barriers;
                receiver->number = (int)number;
        }
        complete = sink->present == wire_all_channels(n);
        pthread_mutex_unlock(&sink->lock);
        if (!agreed)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The source's channels contradict each other");
        if (outdated) { /* the source has given it up, and made another since */
                receiver->channel.lost = true;
                return error_set(ret_error, ERROR_UNREACHABLE, NULL, "A connection came too late");
        }
        if (!in_time)
                return channel_set_silent(&receiver->channel, CHANNEL_SILENCE_MS, ret_error);
        if (complete)
                mailbox_post(&sink->mailbox, MAIL_READY);
        *ret_again = again;
        return 0;
}

/* The connection is gone, the channel is not. */
static void leave(struct receiver *receiver)
{
        struct sink *sink = receiver->sink;
        struct sink_channel *channel;

        if (receiver->number < 0)
                return;
        pthread_mutex_lock(&sink->lock);
        channel = &sink->channels[receiver->number];
        channel->receiver = NULL;
        channel->position = receiver->position;
        channel->lost_ms = clock_now_ms(&clock_system);
        pthread_cond_broadcast(&sink->changed);
        pthread_mutex_unlock(&sink->lock);
}

static int send_ack(struct receiver *receiver, struct error **ret_error)
{
        struct wire_ack_v1 ack = {.bytes_received = htole64(receiver->position)};

        receiver->ack_now = false;
        receiver->acked_bytes = receiver->position;
        receiver->acked_ms = clock_now_ms(&clock_system);
        return channel_send(&receiver->channel, WIRE_ACK, &ack, sizeof(ack), NULL, 0, ret_error);
}

static int greet(struct receiver *receiver, struct error **ret_error)
{
        struct wire_hello_reply_v1 reply = {.magic = WIRE_MAGIC,
                .version = htole16(WIRE_VERSION),
                .compatible = htole16(WIRE_COMPATIBLE)};
        struct wire_hello_v1 hello;
        enum wire_frame type;
        uint32_t features;
        bool again = false;
        int r = channel_receive(&receiver->channel, &type, ret_error);

        if (r < 0)
                return r;
        if (type != WIRE_HELLO)
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The source does not begin with HELLO");
        memcpy(&hello, receiver->channel.payload, sizeof(hello));
        r = check_hello(receiver, &hello, ret_error);
        if (r >= 0)
                r = join(receiver, &hello, &again, ret_error);
        if (r < 0)
                return r;
        features = le32toh(hello.features) & WIRE_FEATURES_ALL;
        if (!receiver->sink->checkpoint)
                features &= ~WIRE_FEATURE_CHECKPOINT;
        if (!receiver->sink->store)
                features &= ~WIRE_FEATURE_SIBLINGS;
        if (receiver->sink->start.n_disks == 0)
                features &= ~WIRE_FEATURE_DISKS;
        if (!receiver->sink->start.post_copy)
                features &= ~WIRE_FEATURE_POST_COPY;
        if (features & WIRE_FEATURE_SIBLINGS &&
                content_digester_new(receiver->sink->start.sibling_key, &receiver->digester) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        receiver->offers = !again && features & WIRE_FEATURE_CHECKPOINT;
        reply.features = htole32(features);
        reply.channel = hello.channel;
        reply.n_channels = hello.n_channels;
        r = channel_send(&receiver->channel, WIRE_HELLO_REPLY, &reply, sizeof(reply), NULL, 0, ret_error);
        if (r >= 0 && again)
                r = sink_repeat_missing(receiver, ret_error);
        if (r >= 0 && again)
                r = sink_repeat_disks(receiver, ret_error);
        return r >= 0 && again ? send_ack(receiver, ret_error) : r;
}

static bool all_reached(const struct sink *sink, uint32_t barriers)
{
        for (unsigned int i = 0; i < sink->n_channels; i++)
                if (sink->channels[i].barriers < barriers)
                        return false;
        return true;
}

static int pass_barrier(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct timespec deadline;
        int r = 0;

        clock_gettime(CLOCK_REALTIME, &deadline);
        deadline.tv_sec += CHANNEL_SILENCE_MS / 1000;
        pthread_mutex_lock(&sink->lock);
        receiver->barriers = ++sink->channels[receiver->number].barriers;
        pthread_cond_broadcast(&sink->changed);
        while (receiver->number == 0 && r == 0 && !sink->stopping && !all_reached(sink, receiver->barriers))
                r = pthread_cond_timedwait(&sink->changed, &sink->lock, &deadline);
        pthread_mutex_unlock(&sink->lock);
        if (r != 0)
                return error_set(ret_error, ERROR_UNREACHABLE, "Check the migration network",
                        "The other channels did not reach the barrier within %d s",
                        CHANNEL_SILENCE_MS / 1000);
        if (receiver->number == 0 && !sink->stopping)
                mailbox_post(&sink->mailbox, MAIL_PLACED);
        return 0;
}

static int take_handed_off(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;

        if (receiver->number != 0 || sink->committed || mailbox_has(&sink->mailbox, MAIL_HANDED_OFF))
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The source sent HANDED_OFF at a wrong time");
        mailbox_post(&sink->mailbox, MAIL_HANDED_OFF);
        return 0;
}

/* What comes from here on is of use only together with the rest of it. */
static int take_post_copy(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;

        if (receiver->number != 0 || receiver->barriers == 0 || !sink->start.post_copy || sink->post_copy ||
                sink->bytes_device > 0)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The source sent POST_COPY at a wrong time");
        sink->post_copy = true;
        return 0;
}

static int take_commit(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;

        if (receiver->number != 0 || receiver->barriers == 0 || (sink->commit_read && !sink->post_copy))
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The source sent COMMIT at a wrong time");
        if (!sink->commit_read) { /* in post-copy it comes again if our answer was lost with its connection */
                sink->commit_read = true;
                if (!sink->post_copy || sink->arrived)
                        sink->committed = true;
                mailbox_post(&sink->mailbox, MAIL_COMMIT);
        }
        return channel_send(&receiver->channel, WIRE_DELIVERED, NULL, 0, NULL, 0, ret_error);
}

static int answer_verify(struct receiver *receiver, struct error **ret_error)
{
        uint8_t *hashes = receiver->raw + WIRE_HEADROOM;
        struct wire_verify_v1 head;
        uint32_t n;
        int r = sink_compute_hashes(receiver, hashes, &n, ret_error);

        if (r < 0)
                return r;
        memcpy(&head, receiver->channel.payload, sizeof(head)); /* the answer repeats the question */
        return channel_send(&receiver->channel, WIRE_VERIFY_REPLY, &head, sizeof(head), hashes,
                n * sizeof(wire_le64), ret_error);
}

/* Memory or disks, which are the guest's once it runs here. */
static bool changes_guest(enum wire_frame type)
{
        return type == WIRE_PAGES || type == WIRE_ZERO || type == WIRE_REFERENCES || type == WIRE_RECALL ||
               type == WIRE_SIBLINGS || type == WIRE_DISK_DATA || type == WIRE_DISK_ZERO ||
               type == WIRE_DISK_FLUSH;
}

static int deal_with(struct receiver *receiver, enum wire_frame type, struct error **ret_error)
{
        atomic_fetch_add_explicit(&receiver->sink->bytes_received,
                sizeof(struct wire_header_v1) + receiver->channel.payload_len, memory_order_relaxed);
        if (receiver->barriers > 0 && changes_guest(type)) /* the guest may run here */
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The source sent %s at a wrong time",
                        wire_frame_name(type));
        switch (type) {
        case WIRE_PAGES:
                return sink_place_pages(receiver, ret_error);
        case WIRE_ZERO:
                return sink_place_zero(receiver, ret_error);
        case WIRE_REFERENCES:
                return sink_place_references(receiver, ret_error);
        case WIRE_RECALL:
                return sink_place_recalled(receiver, ret_error);
        case WIRE_SIBLINGS:
                return sink_place_siblings(receiver, ret_error);
        case WIRE_DISK_DATA:
                return sink_write_disk(receiver, ret_error);
        case WIRE_DISK_ZERO:
                return sink_zero_disk(receiver, ret_error);
        case WIRE_DISK_FLUSH:
                return sink_flush_disk(receiver, ret_error);
        case WIRE_SKELETON:
        case WIRE_DEVICE:
                return sink_feed_qemu(receiver, type, ret_error);
        case WIRE_BARRIER:
                receiver->offers = false; /* the guest is stopped: nothing may wait for the disk */
                return pass_barrier(receiver, ret_error);
        case WIRE_VERIFY:
                receiver->offers = false;
                return answer_verify(receiver, ret_error);
        case WIRE_HANDED_OFF:
                return take_handed_off(receiver, ret_error);
        case WIRE_POST_COPY:
                return take_post_copy(receiver, ret_error);
        case WIRE_COMMIT:
                return take_commit(receiver, ret_error);
        case WIRE_KEEPALIVE:
                return 0;
        case WIRE_ABORT:
                sink_fail(receiver->sink, channel_abort_error(&receiver->channel), true);
                return 0;
        default:
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The source sent %s at a wrong time",
                        wire_frame_name(type));
        }
}

static int handle_frame(struct receiver *receiver, struct error **ret_error)
{
        enum wire_frame type;
        int r = channel_receive(&receiver->channel, &type, ret_error);

        if (r >= 0)
                r = deal_with(receiver, type, ret_error);
        if (r >= 0)
                receiver->position += sizeof(struct wire_header_v1) + receiver->channel.payload_len;
        return r;
}

int sink_acknowledge(struct receiver *receiver, struct error **ret_error)
{
        uint64_t now_ms = clock_now_ms(&clock_system);
        uint64_t ack_bytes = receiver->sink->start.n_disks > 0 ? ACK_BYTES_DISKS : ACK_BYTES;

        if (!receiver->ack_now && receiver->position - receiver->acked_bytes < ack_bytes &&
                now_ms - receiver->acked_ms < ACK_MS)
                return 0;
        return send_ack(receiver, ret_error);
}

static int send_result(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        struct wire_result_v1 head = {0};
        uint8_t body[WIRE_HEADROOM + WIRE_MAX_TEXT];
        size_t len;
        int r;

        pthread_mutex_lock(&sink->lock);
        len = strnlen(sink->result.text, WIRE_MAX_TEXT);
        head.resumed_realtime_ns = htole64(sink->result.resumed_realtime_ns);
        head.outcome = (uint8_t)sink->result.outcome;
        head.text_len = htole16((uint16_t)len);
        memcpy(body + WIRE_HEADROOM, sink->result.text, len);
        pthread_mutex_unlock(&sink->lock);
        r = channel_send(
                &receiver->channel, WIRE_RESULT, &head, sizeof(head), body + WIRE_HEADROOM, len, ret_error);
        receiver->result_told = r >= 0;
        if (r >= 0)
                mailbox_post(&sink->mailbox, MAIL_RESULT_SENT);
        return r;
}

/* Channel 0, in a migration that may come to post-copy: what QEMU says, and a result that a lost connection took along. */
static int serve_return(struct receiver *receiver, struct error **ret_error)
{
        struct sink *sink = receiver->sink;
        int r = sink_read_return(receiver, ret_error);

        if (r >= 0 && sink->back.filling)
                r = sink_fill_memory(receiver, ret_error);
        if (r >= 0)
                r = sink_send_return(receiver, ret_error);
        if (r >= 0 && sink->post_copy && sink->have_result && !receiver->result_told)
                r = send_result(receiver, ret_error);
        return r;
}

/* Waits for the source or, on channel 0, for the result; 1 when there is something to receive. */
static int wait_for_work(struct receiver *receiver, struct error **ret_error)
{
        struct pollfd pfds[] = {{.fd = tls_stream_fd(receiver->channel.tls), .events = POLLIN},
                {.fd = receiver->number == 0 ? receiver->sink->result_fd : -1, .events = POLLIN},
                {.fd = receiver->sink->stop_fd, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
        bool returns = receiver->number == 0 && receiver->sink->start.post_copy;
        uint64_t now_ms;
        int limit_ms = WAIT_MS, n;
        eventfd_t ignored;

        if (returns) {
                int r = serve_return(receiver, ret_error);

                if (r < 0)
                        return r;
                if (!receiver->sink->back.ended)
                        pfds[3].fd = receiver->sink->qemu_fd;
                if (sink_has_return(receiver))
                        limit_ms = 0;
        }
        if (tls_stream_wait_readable(receiver->channel.tls, 0))
                return 1;
        if (receiver->offers)
                return sink_offer(receiver, ret_error);
        n = poll(pfds, ARRAY_SIZE(pfds), limit_ms);
        if (n > 0 && pfds[1].revents) {
                (void)eventfd_read(receiver->sink->result_fd, &ignored);
                return receiver->result_told ? 0 : send_result(receiver, ret_error);
        }
        if (n > 0)
                return pfds[0].revents != 0;
        now_ms = clock_now_ms(&clock_system);
        if (now_ms - receiver->channel.last_received_ms > CHANNEL_SILENCE_MS)
                return channel_set_silent(&receiver->channel, CHANNEL_SILENCE_MS, ret_error);
        return 0;
}

static int receive(struct receiver *receiver, struct error **ret_error)
{
        int r = greet(receiver, ret_error);

        while (r >= 0 && !receiver->sink->stopping) {
                r = wait_for_work(receiver, ret_error);
                if (r > 0)
                        r = handle_frame(receiver, ret_error);
                if (r >= 0)
                        r = sink_acknowledge(receiver, ret_error);
        }
        return r;
}

static int connect_channel(struct receiver *receiver)
{
        _cleanup_error_ struct error *error = NULL;
        struct tls_stream *stream;
        int r;

        r = tls_stream_new(receiver->sink->tls, TAKE_FD(receiver->socket_fd),
                MIN(receiver->sink->start.timeout_ms, (uint64_t)HANDSHAKE_MS), CHANNEL_SILENCE_MS, &stream,
                &error);
        if (r < 0) {
                log_debug("A connection was refused: %s", error_message(error));
                return r;
        }
        r = channel_init(&receiver->channel, stream, WIRE_SINK);
        if (r < 0) {
                tls_stream_free(stream);
                return r;
        }
        receiver->raw = alloc_zero(WIRE_MAX_RAW + WIRE_HEADROOM);
        if (!receiver->raw)
                return -ENOMEM;
        return codec_new(true, &receiver->codec);
}

/* Why main stops us, if it is no good end. */
static void tell_source(struct receiver *receiver)
{
        struct sink *sink = receiver->sink;

        pthread_mutex_lock(&sink->lock);
        if (sink->aborted && !sink->committed) /* COMMIT may have been read since */
                channel_send_abort(&receiver->channel, sink->abort_code, sink->abort_text);
        pthread_mutex_unlock(&sink->lock);
}

/* The source may replace the connection; main waits for that. Or it has given up this one before HELLO. */
static bool may_come_back(const struct receiver *receiver)
{
        const struct sink *sink = receiver->sink;

        return receiver->channel.lost && sink->resumable && !sink->stopping && !sink->committed;
}

void *sink_receiver_main(void *userdata)
{
        struct receiver *receiver = userdata;
        struct sink *sink = receiver->sink;
        _cleanup_error_ struct error *error = NULL;

        if (connect_channel(receiver) >= 0) {
                int r = receive(receiver, &error);

                if (r < 0 && may_come_back(receiver)) {
                        log_notice("Channel %d: %s", receiver->number, error_message(error));
                        error_free(TAKE_PTR(error));
                        r = 0;
                }
                if (r < 0 && !sink->stopping && !sink->committed)
                        channel_send_abort(&receiver->channel, error ? error->code : ERROR_NO_MEMORY,
                                error_message(error));
                if (error)
                        sink_fail(sink, TAKE_PTR(error), false);
                else
                        tell_source(receiver);
        }
        leave(receiver);
        receiver->state = RECEIVER_DONE;
        (void)eventfd_write(sink->mailbox.event_fd, 1); /* main frees the place */
        return NULL;
}

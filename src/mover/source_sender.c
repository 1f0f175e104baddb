/* SPDX-License-Identifier: Apache-2.0 */

/* A sender: takes batches of raw pages from the reader, finds out which blocks changed, packs and sends
 * them, and listens to what the sink says on the same channel.
 *
 * Order: pages are staged (packable and plain ones apart, zero pages in runs) and the stages are sent in any
 * order; so two versions of a page must never be staged at a time. QEMU walks its bitmap upwards, a page comes
 * again only after the walk has begun anew: the stages are flushed whenever the page number goes down. References are staged as
 * well, and sent after all else that was staged before them: what they name is a page further down, whose content is
 * either at the sink already or in the same stages, and cannot change before the page number goes down. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "mover/classify.h"
#include "mover/codec_choice.h"
#include "mover/source_internal.h"

/* A stage that no page was added to for so long is sent as it is. */
#define IDLE_FLUSH_MS 5
#define NSEC_PER_SEC UINT64_C(1000000000)
#define MAX_PACE_SLEEP_NS (50 * 1000 * 1000)
/* A page of which fewer blocks changed goes as a delta: looking for its like costs more than that packs to. */
#define MIN_BLOCKS_TO_REFER 4
/* What is kept of a channel where all that disks write is kept: the sink then acknowledges more often (sink_receiver.c). */
#define DISK_LOG_BYTES (8 * 1024 * 1024)

int sender_init(struct sender *sender, struct source *source, unsigned int number, int socket_fd)
{
        int r;

        sender->source = source;
        sender->number = number;
        sender->socket_fd = socket_fd;
        sender->stages_empty = true;
        sender->zero.type = WIRE_ZERO;
        sender->recall.type = WIRE_RECALL;
        sender->offered_fd = -1;
        sent_log_init(&sender->log, source->start.n_disks > 0 ? DISK_LOG_BYTES : 0);
        buf_init(&sender->lost, MAX_LOST_BYTES);
        buf_init(&sender->missing, MAX_LOST_BYTES);
        list_init(&sender->again);
        sender->wake_fd = fcntl(socket_fd, F_DUPFD_CLOEXEC, 3);
        if (sender->wake_fd < 0)
                return -errno;
        r = batch_queue_init(&sender->queue, &source->pool);
        if (r < 0)
                return r;
        sender->packable = ALLOC(struct stage);
        sender->plain = ALLOC(struct stage);
        sender->out = alloc_zero(WIRE_HEADROOM + WIRE_MAX_RAW);
        if (!sender->packable || !sender->plain || !sender->out)
                return -ENOMEM;
        return codec_new(false, &sender->codec);
}

void sender_deinit(struct sender *sender)
{
        if (!sender->source)
                return;
        channel_deinit(&sender->channel);
        batch_queue_deinit(&sender->queue);
        codec_free(TAKE_PTR(sender->codec));
        duplicates_free(TAKE_PTR(sender->duplicates));
        content_digester_free(TAKE_PTR(sender->digester));
        buf_deinit(&sender->missing);
        free(TAKE_PTR(sender->packable));
        free(TAKE_PTR(sender->plain));
        free(TAKE_PTR(sender->out));
        free(TAKE_PTR(sender->stripe));
        sender_deinit_resume(sender);
        fd_closep(&sender->wake_fd);
        fd_closep(&sender->socket_fd);
        sender->source = NULL;
}

static uint64_t thread_cpu_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * NSEC_PER_SEC + (uint64_t)t.tv_nsec;
}

/* Waits until `bytes` may go under the rate limit, which all senders share. */
static void pace(struct source *source, size_t bytes)
{
        uint64_t rate = counter_get(&source->pace_bytes_per_s);
        uint64_t now = clock_monotonic_ns();
        uint64_t slot, next = counter_get(&source->pace_next_ns);

        if (rate == 0)
                return;
        do {
                slot = MAX(next, now);
        } while (!atomic_compare_exchange_weak(
                &source->pace_next_ns, &next, slot + bytes * NSEC_PER_SEC / rate));
        while (!source->stopping && (now = clock_monotonic_ns()) < slot) {
                uint64_t wait = MIN(slot - now, (uint64_t)MAX_PACE_SLEEP_NS);

                nanosleep(&(struct timespec){.tv_nsec = (long)wait}, NULL);
        }
}

int sender_send(struct sender *sender, enum wire_frame type, const void *head, size_t head_len, void *body,
        size_t body_len, struct error **ret_error)
{
        size_t bytes = sizeof(struct wire_header_v1) + head_len + body_len;
        uint64_t paced = clock_monotonic_ns(), started, started_cpu;
        int r;

        pace(sender->source, head_len + body_len);
        started = clock_monotonic_ns();
        started_cpu = thread_cpu_ns();
        sent_log_sent(&sender->log, bytes);
        r = channel_send(&sender->channel, type, head, head_len, body, body_len, ret_error);
        counter_add(&sender->counters.pace_ns, started - paced);
        counter_add(&sender->counters.write_ns, clock_monotonic_ns() - started);
        counter_add(&sender->counters.write_cpu_ns, thread_cpu_ns() - started_cpu);
        counter_add(&sender->counters.wire_bytes, bytes);
        return r;
}

static int take_ack(struct sender *sender, struct error **ret_error)
{
        struct cursor cursor = cursor_of(sender->channel.payload, sender->channel.payload_len);
        uint64_t position = 0;

        if (!sender->resumable)
                return 0;
        if (!cursor_u64le(&cursor, &position) || sent_log_acknowledge(&sender->log, position) < 0)
                return error_set(
                        ret_error, ERROR_PROTOCOL, NULL, "The peer acknowledges what it cannot have");
        source_confirm_siblings(sender);
        return 0;
}

/* Comes before anything is taken out of a stage or batch: a connection that is lost in here must not take it along. */
int sender_await_room(struct sender *sender, struct error **ret_error)
{
        int r = 0;

        while (r >= 0 && sent_log_is_full(&sender->log)) {
                r = sender_await(sender, WIRE_ACK, ret_error);
                if (r >= 0)
                        r = take_ack(sender, ret_error);
        }
        return r;
}

int sender_send_kept(struct sender *sender, enum wire_frame type, const void *head, size_t head_len,
        void *body, size_t body_len, struct error **ret_error)
{
        if (sender->resumable && sent_log_add(&sender->log, type, head, head_len, body, body_len) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        return sender_send(sender, type, head, head_len, body, body_len, ret_error);
}

/* Before the frame with these pages is sent. */
static int log_pages(struct sender *sender, enum wire_frame type, const uint64_t *pages, size_t n,
        struct error **ret_error)
{
        return sender->resumable && sent_log_add_pages(&sender->log, type, pages, n) < 0
                       ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel")
                       : 0;
}

static enum codec_level next_level(struct sender *sender)
{
        struct source *source = sender->source;
        enum codec_level level = atomic_load_explicit(&source->level, memory_order_relaxed);

        if (source->fixed_codec)
                return level;
        return codec_probe(
                level, ++sender->n_packed, atomic_load_explicit(&source->wire_blocks, memory_order_relaxed));
}

/* Packs `raw` into sender->out; returns what is to be sent and in which packing. `raw` has headroom. */
static void *pack(struct sender *sender, enum codec_level level, void *raw, size_t raw_len, size_t *ret_len,
        uint8_t *ret_packing)
{
        size_t n = 0;

        if (level != CODEC_NONE) {
                uint64_t started = clock_monotonic_ns(), started_cpu = thread_cpu_ns();

                n = codec_pack(sender->codec, level, raw, raw_len, sender->out + WIRE_HEADROOM);
                counter_add(&sender->counters.level[level].raw, raw_len);
                counter_add(&sender->counters.level[level].packed, n > 0 ? n : raw_len);
                counter_add(&sender->counters.level[level].cpu_ns, thread_cpu_ns() - started_cpu);
                counter_add(&sender->counters.pack_ns, clock_monotonic_ns() - started);
        }
        if (n == 0) {
                *ret_len = raw_len;
                *ret_packing = WIRE_PLAIN;
                return raw;
        }
        *ret_len = n;
        *ret_packing = (uint8_t)codec_level_packing(level);
        return sender->out + WIRE_HEADROOM;
}

static int flush_stage(struct sender *sender, struct stage *stage, bool packable, struct error **ret_error)
{
        size_t entries_len = stage->n_entries * sizeof(stage->entries[0]);
        uint8_t *raw = (uint8_t *)stage + offsetof(struct stage, blocks) - entries_len;
        size_t raw_len = entries_len + stage->n_bytes, len;
        struct wire_pages_v1 head = {
                .n_pages = htole32(stage->n_entries), .raw_len = htole32((uint32_t)raw_len)};
        uint64_t pages[WIRE_MAX_PAGES];
        unsigned int n_pages = stage->n_entries;
        void *body;
        int r;

        if (n_pages == 0)
                return 0;
        r = sender_await_room(sender, ret_error);
        if (r < 0)
                return r;
        for (unsigned int i = 0; i < n_pages; i++)
                pages[i] = le64toh(stage->entries[i]) >> 16;
        counter_add(packable ? &sender->counters.packable_bytes : &sender->counters.plain_bytes, raw_len);
        memmove(raw, stage->entries, entries_len);
        body = pack(sender, packable ? next_level(sender) : CODEC_NONE, raw, raw_len, &len, &head.packing);
        stage->n_entries = 0;
        stage->n_bytes = 0;
        r = log_pages(sender, WIRE_PAGES, pages, n_pages, ret_error);
        return r < 0 ? r : sender_send(sender, WIRE_PAGES, &head, sizeof(head), body, len, ret_error);
}

static int flush_runs(struct sender *sender, struct run_stage *stage, struct error **ret_error)
{
        uint8_t buffer[WIRE_HEADROOM + sizeof(stage->runs)];
        size_t len = stage->n * sizeof(stage->runs[0]);
        int r;

        if (len == 0)
                return 0;
        r = sender_await_room(sender, ret_error);
        if (r < 0)
                return r;
        memcpy(buffer + WIRE_HEADROOM, stage->runs, len);
        stage->n = 0;
        return sender_send_kept(sender, stage->type, NULL, 0, buffer + WIRE_HEADROOM, len, ret_error);
}

/* A frame of entries that begin with a page each. */
static int send_entries(struct sender *sender, enum wire_frame type, const void *entries, size_t entry_len,
        unsigned int n, struct error **ret_error)
{
        uint8_t buffer[WIRE_HEADROOM + MAX(WIRE_MAX_REFERENCES * sizeof(struct wire_reference_v1),
                                               WIRE_MAX_SIBLINGS * sizeof(struct wire_sibling_v1))];
        uint64_t pages[MAX(WIRE_MAX_REFERENCES, WIRE_MAX_SIBLINGS)];
        int r;

        memcpy(buffer + WIRE_HEADROOM, entries, n * entry_len);
        for (unsigned int i = 0; i < n; i++) {
                wire_le64 page;

                memcpy(&page, (const uint8_t *)entries + i * entry_len, sizeof(page));
                pages[i] = le64toh(page);
        }
        r = log_pages(sender, type, pages, n, ret_error);
        return r < 0 ? r
                     : sender_send(sender, type, NULL, 0, buffer + WIRE_HEADROOM, n * entry_len, ret_error);
}

static int flush_references(struct sender *sender, struct error **ret_error)
{
        unsigned int n = sender->n_references;
        int r = n > 0 ? sender_await_room(sender, ret_error) : 0;

        if (r < 0 || n == 0)
                return r;
        sender->n_references = 0;
        return send_entries(
                sender, WIRE_REFERENCES, sender->references, sizeof(sender->references[0]), n, ret_error);
}

static int flush_siblings(struct sender *sender, struct error **ret_error)
{
        unsigned int n = sender->n_siblings;
        int r = n > 0 ? sender_await_room(sender, ret_error) : 0;

        if (r >= 0 && n > 0)
                r = source_await_siblings(sender, ret_error);
        if (r < 0 || n == 0)
                return r;
        sender->n_siblings = 0;
        r = send_entries(sender, WIRE_SIBLINGS, sender->siblings, sizeof(sender->siblings[0]), n, ret_error);
        source_sibling_sent(sender);
        return r;
}

int sender_flush(struct sender *sender, struct error **ret_error)
{
        int r = flush_runs(sender, &sender->zero, ret_error);

        if (r >= 0)
                r = flush_runs(sender, &sender->recall, ret_error);
        if (r >= 0)
                r = flush_stage(sender, sender->packable, true, ret_error);
        if (r >= 0)
                r = flush_stage(sender, sender->plain, false, ret_error);
        if (r >= 0)
                r = flush_siblings(sender, ret_error);
        if (r >= 0)
                r = flush_references(sender, ret_error);
        sender->stages_empty = true;
        return r;
}

/* Must come before a page is staged. */
static int keep_order(struct sender *sender, uint64_t page, struct error **ret_error)
{
        int r = 0;

        if (!sender->stages_empty && page <= sender->last_page)
                r = sender_flush(sender, ret_error);
        sender->last_page = page;
        sender->stages_empty = false;
        return r;
}

static int stage_blocks(
        struct sender *sender, uint64_t page, uint16_t mask, const uint8_t *data, struct error **ret_error)
{
        const struct source *source = sender->source;
        /* At level none as well, unless it is fixed: what packs must be known to be probed. */
        bool may_pack = !source->fixed_codec ||
                        atomic_load_explicit(&source->level, memory_order_relaxed) != CODEC_NONE;
        bool packable = may_pack && classify_compressible(data, WIRE_PAGE_SIZE);
        struct stage *stage = packable ? sender->packable : sender->plain;
        int r = keep_order(sender, page, ret_error);

        if (r < 0)
                return r;
        if (stage->n_entries == WIRE_MAX_PAGES || stage->n_bytes + WIRE_PAGE_SIZE > source->frame_bytes) {
                r = flush_stage(sender, stage, packable, ret_error);
                if (r < 0)
                        return r;
        }
        stage->entries[stage->n_entries++] = htole64(page << 16 | mask);
        if (mask == 0xffff) {
                memcpy(stage->blocks + stage->n_bytes, data, WIRE_PAGE_SIZE);
                stage->n_bytes += WIRE_PAGE_SIZE;
        } else {
                for (unsigned int i = 0; i < WIRE_BLOCKS_PER_PAGE; i++)
                        if (mask >> i & 1) {
                                memcpy(stage->blocks + stage->n_bytes, data + (size_t)i * WIRE_BLOCK_SIZE,
                                        WIRE_BLOCK_SIZE);
                                stage->n_bytes += WIRE_BLOCK_SIZE;
                        }
                counter_add(&sender->counters.bytes_delta, WIRE_PAGE_SIZE);
        }
        counter_add(&sender->counters.pages_sent, 1);
        return 0;
}

static int stage_run(struct sender *sender, struct run_stage *stage, uint64_t page, struct error **ret_error)
{
        struct wire_run_v1 *last;
        int r = keep_order(sender, page, ret_error);

        if (r < 0)
                return r;
        last = stage->n > 0 ? &stage->runs[stage->n - 1] : NULL;
        if (last && le64toh(last->first_page) + le32toh(last->n_pages) == page) {
                last->n_pages = htole32(le32toh(last->n_pages) + 1);
                return 0;
        }
        if (stage->n == WIRE_MAX_RUNS) {
                r = flush_runs(sender, stage, ret_error);
                if (r < 0)
                        return r;
        }
        stage->runs[stage->n++] = (struct wire_run_v1){.first_page = htole64(page), .n_pages = htole32(1)};
        return 0;
}

static int stage_recall(struct sender *sender, uint64_t page, struct error **ret_error)
{
        counter_add(&sender->counters.pages_sent, 1);
        counter_add(&sender->counters.bytes_recalled, WIRE_PAGE_SIZE);
        return stage_run(sender, &sender->recall, page, ret_error);
}

static int stage_reference(struct sender *sender, uint64_t page, uint64_t from, struct error **ret_error)
{
        int r = keep_order(sender, page, ret_error);

        if (r >= 0 && sender->n_references == WIRE_MAX_REFERENCES) {
                r = sender_flush(sender, ret_error);
                sender->stages_empty = false;
        }
        if (r < 0)
                return r;
        sender->references[sender->n_references++] =
                (struct wire_reference_v1){.page = htole64(page), .from = htole64(from)};
        counter_add(&sender->counters.pages_sent, 1);
        counter_add(&sender->counters.bytes_referenced, WIRE_PAGE_SIZE);
        return 0;
}

static int stage_sibling(
        struct sender *sender, uint64_t page, const uint8_t *digest, struct error **ret_error)
{
        struct wire_sibling_v1 *sibling;
        int r = keep_order(sender, page, ret_error);

        if (r >= 0 && sender->n_siblings == WIRE_MAX_SIBLINGS) {
                r = sender_flush(sender, ret_error);
                sender->stages_empty = false;
        }
        if (r < 0)
                return r;
        sibling = &sender->siblings[sender->n_siblings++];
        sibling->page = htole64(page);
        memcpy(sibling->digest, digest, sizeof(sibling->digest));
        source_set_unconfirmed(sender, page, true);
        counter_add(&sender->counters.pages_sent, 1);
        counter_add(&sender->counters.bytes_shared, WIRE_PAGE_SIZE);
        return 0;
}

int sender_add_changed_page(
        struct sender *sender, uint64_t page, const uint8_t *data, struct error **ret_error)
{
        struct source *source = sender->source;
        uint16_t mask = page_index_update(source->index, page, data);
        uint8_t content[CONTENT_DIGEST_SIZE];
        uint64_t digest, from;
        bool held = false;
        int r;

        if (mask != 0 && source_is_unconfirmed(sender, page)) { /* a change to what? */
                source_set_unconfirmed(sender, page, false);
                return stage_blocks(sender, page, 0xffff, data, ret_error);
        }
        if (__builtin_popcount(mask) < MIN_BLOCKS_TO_REFER)
                return mask == 0 ? 0 : stage_blocks(sender, page, mask, data, ret_error);
        digest = page_index_digest(source->index, page);
        r = source_is_held(sender, page, digest, &held, ret_error);
        if (r < 0)
                return r;
        if (held)
                return stage_recall(sender, page, ret_error);
        if (sender->duplicates && duplicates_find(sender->duplicates, source->index, page, digest, &from) &&
                !source_is_unconfirmed(sender, from))
                return stage_reference(sender, page, from, ret_error);
        if (sender->digester && mask == 0xffff && source_is_shared(sender, page, data, content))
                return stage_sibling(sender, page, content, ret_error);
        return stage_blocks(sender, page, mask, data, ret_error);
}

int sender_add_whole_page(struct sender *sender, uint64_t page, const uint8_t *data, struct error **ret_error)
{
        (void)page_index_update(sender->source->index, page, data);
        source_set_unconfirmed(sender, page, false);
        return stage_blocks(sender, page, 0xffff, data, ret_error);
}

int sender_add_zero(struct sender *sender, uint64_t page, struct error **ret_error)
{
        source_set_unconfirmed(sender, page, false);
        return page_index_set_zero(sender->source->index, page)
                       ? stage_run(sender, &sender->zero, page, ret_error)
                       : 0;
}

int sender_add_whole_zero(struct sender *sender, uint64_t page, struct error **ret_error)
{
        (void)page_index_set_zero(sender->source->index, page);
        source_set_unconfirmed(sender, page, false);
        return stage_run(sender, &sender->zero, page, ret_error);
}

static int send_pages(struct sender *sender, const struct batch *batch, struct error **ret_error)
{
        const uint8_t *data = batch->data;
        int r = 0;

        /* All of it counts as dealt with: what fails either goes again (source_resume.c) or not at all. */
        for (unsigned int i = 0; i < batch->n_entries; i++) {
                uint64_t page = batch->entries[i] & ~BATCH_ZERO;

                if (batch->entries[i] & BATCH_ZERO) {
                        if (r >= 0)
                                r = sender_add_zero(sender, page, ret_error);
                        counter_add(&sender->counters.zero_retired, WIRE_PAGE_SIZE);
                } else {
                        uint64_t before = counter_get(&sender->counters.pages_sent);

                        if (r >= 0)
                                r = sender_add_changed_page(sender, page, data, ret_error);
                        data += WIRE_PAGE_SIZE;
                        if (r >= 0 && counter_get(&sender->counters.pages_sent) == before)
                                counter_add(&sender->counters.bytes_unchanged, WIRE_PAGE_SIZE);
                        counter_add(&sender->counters.bytes_retired, WIRE_PAGE_SIZE);
                }
        }
        return r;
}

void *sender_pack_bytes(struct sender *sender, bool packable, const void *data, size_t len, size_t *ret_len,
        uint8_t *ret_packing)
{
        const void *body = pack(
                sender, packable ? next_level(sender) : CODEC_NONE, (void *)data, len, ret_len, ret_packing);

        if (body == data) /* no headroom there */
                memcpy(sender->out + WIRE_HEADROOM, data, len);
        return sender->out + WIRE_HEADROOM;
}

static int send_bytes(
        struct sender *sender, enum wire_frame type, struct batch *batch, struct error **ret_error)
{
        struct wire_bytes_v1 head = {.raw_len = htole32((uint32_t)batch->n_bytes)};
        size_t len;
        void *body = sender_pack_bytes(sender, true, batch->data, batch->n_bytes, &len, &head.packing);

        batch->sent = true;
        return sender_send_kept(sender, type, &head, sizeof(head), body, len, ret_error);
}

static int send_batch(struct sender *sender, struct batch *batch, struct error **ret_error)
{
        struct wire_barrier_v1 barrier = {0};
        int r;

        if (batch->kind == BATCH_PAGES)
                return send_pages(sender, batch, ret_error);
        if (batch_is_of_disk(batch)) /* its order among the pages does not matter */
                return source_send_disk(sender, batch, ret_error);
        r = sender_flush(sender, ret_error);
        if (r >= 0)
                r = sender_await_room(sender, ret_error);
        if (r < 0)
                return r;
        switch (batch->kind) {
        case BATCH_SKELETON:
                return send_bytes(sender, WIRE_SKELETON, batch, ret_error);
        case BATCH_DEVICE:
                return send_bytes(sender, WIRE_DEVICE, batch, ret_error);
        case BATCH_VERIFY:
                sender->awaits_held = false; /* the guest is stopped */
                r = source_settle_siblings(sender, ret_error);
                if (r < 0)
                        return r;
                r = source_verify_channel(sender, ret_error);
                batch->sent = r >= 0; /* once is enough; without success all of it is done again */
                return r;
        case BATCH_BARRIER:
                r = source_settle_siblings(sender, ret_error);
                if (r < 0)
                        return r;
                batch->sent = true;
                return sender_send_kept(sender, WIRE_BARRIER, &barrier, sizeof(barrier), NULL, 0, ret_error);
        case BATCH_POST_COPY:
                batch->sent = true;
                return sender_send_kept(sender, WIRE_POST_COPY, NULL, 0, NULL, 0, ret_error);
        case BATCH_HANDED_OFF:
                batch->sent = true;
                return sender_send_kept(sender, WIRE_HANDED_OFF, NULL, 0, NULL, 0, ret_error);
        case BATCH_COMMIT:
                if (sender->source->post_copy) { /* the guest's memory follows */
                        batch->sent = true;
                        return sender_send_kept(sender, WIRE_COMMIT, NULL, 0, NULL, 0, ret_error);
                }
                sender->source->committed = true;
                return sender_send(sender, WIRE_COMMIT, NULL, 0, NULL, 0, ret_error);
        case BATCH_PAGES:
        case BATCH_DISK_DATA:
        case BATCH_DISK_ZERO:
        case BATCH_DISK_FLUSH:
                break;
        }
        return 0;
}

int source_read_result(
        const struct channel *channel, struct mail_result *ret_result, struct error **ret_error)
{
        struct cursor cursor = cursor_of(channel->payload, channel->payload_len);
        struct mail_result result = {0};
        uint8_t outcome = 0, reserved;
        uint16_t len = 0;

        if (!cursor_u64le(&cursor, &result.resumed_realtime_ns) || !cursor_u8(&cursor, &outcome) ||
                !cursor_u8(&cursor, &reserved) || !cursor_u16le(&cursor, &len) || len != cursor.left ||
                !wire_text_read(&cursor, len, result.text) ||
                (outcome != WIRE_RUNNING && outcome != WIRE_ABANDONED))
                return error_set(ret_error, ERROR_PROTOCOL, NULL, "The peer's RESULT is not valid");
        result.outcome = outcome;
        *ret_result = result;
        return 0;
}

static int handle_result(struct sender *sender, struct error **ret_error)
{
        struct mail_result result;
        int r = source_read_result(&sender->channel, &result, ret_error);

        if (r >= 0)
                mailbox_post_result(&sender->source->mailbox, &result);
        return r;
}

int sender_handle_frame(
        struct sender *sender, enum wire_frame expected, enum wire_frame *ret_type, struct error **ret_error)
{
        enum wire_frame type;
        int r = channel_receive(&sender->channel, &type, ret_error);

        if (r < 0)
                return r;
        *ret_type = type;
        if (type == expected)
                return 0;
        switch (type) {
        case WIRE_ACK:
                return take_ack(sender, ret_error);
        case WIRE_HELD:
                return source_take_held(sender, ret_error);
        case WIRE_MISSING:
                return source_take_missing(sender, ret_error);
        case WIRE_DISK_STATE:
                return source_take_disk_state(sender, ret_error);
        case WIRE_RETURN_PATH:
                return source_take_return(sender, ret_error);
        case WIRE_KEEPALIVE:
                return 0;
        case WIRE_ABORT:
                source_fail(sender->source, channel_abort_error(&sender->channel), true);
                return 0;
        case WIRE_DELIVERED:
                if (!sender->source->committed && !sender->source->post_copy)
                        break;
                mailbox_post(&sender->source->mailbox, MAIL_DELIVERED);
                return 0;
        case WIRE_RESULT:
                return handle_result(sender, ret_error);
        default:
                break;
        }
        return error_set(
                ret_error, ERROR_PROTOCOL, NULL, "The peer sent %s at a wrong time", wire_frame_name(type));
}

int sender_await(struct sender *sender, enum wire_frame type, struct error **ret_error)
{
        enum wire_frame got;
        int r;

        do {
                r = sender_handle_frame(sender, type, &got, ret_error);
        } while (r >= 0 && got != type && !sender->source->stopping);
        return r < 0 ? r : got == type ? 0 : -ECANCELED;
}

/* What the sink's first answer makes possible. */
static int set_up_features(struct sender *sender, uint32_t features, struct error **ret_error)
{
        struct source *source = sender->source;
        uint64_t n_stripes = wire_channel_stripes(source->ram.bytes, sender->number, source->n_channels);

        sender->cipher = tls_stream_cipher(sender->channel.tls);
        sender->resumable = features & WIRE_FEATURE_RESUME;
        sender->awaits_held = features & WIRE_FEATURE_CHECKPOINT;
        if (source->start.post_copy && (!(features & WIRE_FEATURE_POST_COPY) || !sender->resumable))
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Leave post-copy out of --converge, or install the newer drover there too",
                        "The destination's mover does not know post-copy");
        if (source->start.n_disks > 0 && !(features & WIRE_FEATURE_DISKS))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Install the newer drover there too",
                        "The destination's mover does not know disks");
        if (features & WIRE_FEATURE_REFERENCES &&
                duplicates_new(n_stripes * WIRE_STRIPE_PAGES, &sender->duplicates) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        if (features & WIRE_FEATURE_SIBLINGS && sender->resumable &&
                content_digester_new(source->start.sibling_key, &sender->digester) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        if (atomic_fetch_add(&source->n_up, 1) + 1 == source->n_channels)
                mailbox_post(&source->mailbox, MAIL_READY);
        return 0;
}

int sender_connect(struct sender *sender, uint64_t limit_ms, struct error **ret_error)
{
        struct source *source = sender->source;
        struct wire_hello_v1 hello = {.magic = WIRE_MAGIC,
                .version = htole16(WIRE_VERSION),
                .compatible = htole16(WIRE_COMPATIBLE),
                .features = htole32(source->features),
                .channel = htole16((uint16_t)sender->number),
                .n_channels = htole16((uint16_t)source->n_channels),
                .page_size = htole32(WIRE_PAGE_SIZE),
                .ram_bytes = htole64(source->start.ram_bytes)};
        struct wire_hello_reply_v1 reply;
        struct tls_stream *stream;
        int r;

        r = tls_stream_new(
                source->tls, TAKE_FD(sender->socket_fd), limit_ms, CHANNEL_SILENCE_MS, &stream, ret_error);
        if (r < 0)
                return r;
        r = channel_init(&sender->channel, stream, WIRE_SOURCE);
        if (r < 0) {
                tls_stream_free(stream);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for a channel");
        }
        memcpy(hello.migration, source->start.migration, sizeof(hello.migration));
        memcpy(hello.vm, source->start.vm, sizeof(hello.vm));
        memcpy(hello.secret, source->secret, sizeof(hello.secret));
        r = channel_send(&sender->channel, WIRE_HELLO, &hello, sizeof(hello), NULL, 0, ret_error);
        if (r < 0)
                return r;
        if (sender->cipher && !tls_stream_wait_readable(stream, (int)limit_ms))
                return channel_set_silent(&sender->channel, limit_ms, ret_error);
        r = sender_await(sender, WIRE_HELLO_REPLY, ret_error);
        if (r < 0)
                return r;
        memcpy(&reply, sender->channel.payload, sizeof(reply));
        if (memcmp(reply.magic, WIRE_MAGIC, sizeof(reply.magic)) != 0 ||
                le16toh(reply.compatible) > WIRE_VERSION || le16toh(reply.channel) != sender->number ||
                (le32toh(reply.features) & WIRE_FEATURES_BASE) != WIRE_FEATURES_BASE)
                return error_set(ret_error, ERROR_PROTOCOL, "Use the same drover version on both hosts",
                        "The peer's mover (version %u) does not fit ours (version %u)",
                        le16toh(reply.version), WIRE_VERSION);
        if (!sender->cipher)
                return set_up_features(sender, le32toh(reply.features) & source->features, ret_error);
        r = sender_await(sender, WIRE_ACK, ret_error); /* how far it got over the connection before */
        return r < 0 ? r : take_ack(sender, ret_error);
}

int sender_keep_alive(struct sender *sender, struct error **ret_error)
{
        if (clock_now_ms(&clock_system) - sender->channel.last_sent_ms <= CHANNEL_KEEPALIVE_MS)
                return 0;
        return sender_send(sender, WIRE_KEEPALIVE, NULL, 0, NULL, 0, ret_error);
}

/* Nothing is queued: waits for the queue or the sink, and does what is due by time. */
static int idle(struct sender *sender, struct error **ret_error)
{
        struct pollfd pfds[] = {{.fd = sender->queue.event_fd, .events = POLLIN},
                {.fd = tls_stream_fd(sender->channel.tls), .events = POLLIN}};
        uint64_t now_ms, silence_ms;
        int n = poll(pfds, ARRAY_SIZE(pfds), sender->stages_empty ? 500 : IDLE_FLUSH_MS);

        if (n != 0)
                return 0;
        if (!sender->stages_empty)
                return sender_flush(sender, ret_error);
        now_ms = clock_now_ms(&clock_system);
        /* Once the guest is stopped, the sink may be busy for longer: it hashes, and waits for its QEMU. */
        silence_ms =
                sender->resumable && !sender->source->device_state ? CHANNEL_STALL_MS : CHANNEL_SILENCE_MS;
        if (now_ms - sender->channel.last_received_ms > silence_ms)
                return channel_set_silent(&sender->channel, silence_ms, ret_error);
        return sender_keep_alive(sender, ret_error);
}

int sender_listen(struct sender *sender, struct error **ret_error)
{
        enum wire_frame type;
        int r = 0;

        while (r >= 0 && !sender->source->stopping && tls_stream_wait_readable(sender->channel.tls, 0))
                r = sender_handle_frame(sender, 0, &type, ret_error);
        return r;
}

static int run(struct sender *sender, struct error **ret_error)
{
        struct source *source = sender->source;
        int r = sender_connect(sender, source->start.timeout_ms, ret_error);

        while (r >= 0 && !source->stopping) {
                struct batch *batch = batch_queue_pop(&sender->queue);

                if (batch)
                        r = send_batch(sender, batch, ret_error);
                else if (!source->stopping) /* pop() may have swallowed the wake-up */
                        r = idle(sender, ret_error);
                if (r >= 0)
                        r = sender_listen(sender, ret_error);
                if (r >= 0)
                        r = source_send_missing(sender, ret_error);
                while (r < 0 && sender_can_resume(sender)) {
                        r = sender_resume(sender, batch, ret_error);
                        if (r >= 0 && batch && !batch->sent)
                                r = send_batch(sender, batch, ret_error);
                }
                if (batch)
                        batch_pool_put(&source->pool, batch);
        }
        return r;
}

void *source_sender_main(void *userdata)
{
        struct sender *sender = userdata;
        _cleanup_error_ struct error *error = NULL;

        /* After COMMIT the sink may close when it likes; only channel 0 still has something to hear. */
        if (run(sender, &error) < 0 && (sender->number == 0 || !sender->source->committed))
                source_fail(sender->source, TAKE_PTR(error), false);
        return NULL;
}

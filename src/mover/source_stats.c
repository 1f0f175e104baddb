/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/source_stats.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

/* Time's worth of data under way between reader and wire, and unsent in the sockets: long enough to keep the
 * wire busy, short enough that QEMU sees the wire's rate (docs/internals/qemu-stream.md, "Backpressure"). */
#define QUEUE_MS 60
/* In the first pass more of it may be under way, which the wire lives on while QEMU goes through zero pages; near its end less, so that
 * little is left for the pause. */
#define FIRST_PASS_QUEUE_MS 200
#define TAIL_QUEUE_MS 20
#define SOCKET_MS 20
#define MIN_QUEUE_BYTES (2 * BATCH_DATA_BYTES)
#define MIN_SOCKET_BYTES (16 * 1024)
#define MAX_SOCKET_BYTES (1024 * 1024)
#define STATS_EVERY_TICKS 5
/* The codec's level changes when that was better so many times in turn. Single measurements swing: what the connections take seems
 * more while their buffers fill, and packing seems slow while something else has the processor. */
#define TICKS_TO_CHANGE 3
/* A host with fewer idle processors is busy; and from a packing that takes less of them nothing can be told. */
#define SPARE_CORES 0.3
#define MIN_PACKING_CORES 0.1
/* Part of what is known about the senders' time that is kept from tick to tick. */
#define TIME_FADE 0.7
/* The wire blocks if at least so much of a sender's time, all together, goes into waiting for it. */
#define BLOCKED_PART 0.8
/* Less time of packing than this says nothing about the share of the processors that we get. */
#define MIN_PACK_NS 1000000

static unsigned int usable_cpus(void)
{
        cpu_set_t set;

        /* Fails where there are more processors than a set holds. */
        if (sched_getaffinity(0, sizeof(set), &set) == 0)
                return (unsigned int)CPU_COUNT(&set);
        return (unsigned int)MAX(1, sysconf(_SC_NPROCESSORS_ONLN));
}

void source_stats_init(struct source_stats *stats, struct source *source)
{
        uint64_t now_ns = clock_monotonic_ns();

        *stats = (struct source_stats){.source = source,
                .n_cpus = usable_cpus(),
                .time_at_ns = now_ns,
                .write_at_ns = now_ns,
                .cpu_share = 1,
                .idle_cores = -1};
        stats->choice.n_cores = codec_cores(&(struct codec_room){
                .n_cpus = stats->n_cpus, .n_senders = source->n_channels, .cpu_share = 1, .idle_cores = -1});
        stats->choice.features = source->features;
        switchover_init(&stats->switchover, source->start.max_pause_ms);
}

static uint64_t sum(struct source *source, size_t counter_offset)
{
        uint64_t total = 0;

        for (unsigned int i = 0; i < source->n_channels; i++)
                total += counter_get((counter *)((char *)&source->senders[i].counters + counter_offset));
        return total;
}
#define SUM(source, member) sum(source, offsetof(struct sender_counters, member))

/* Bytes that the kernel still holds for the peer, beyond what a full line has on its way: that takes no longer than the trips that the
 * switchover counts apart. *ret_rtt_us: the longest of the connections', without queues. */
static uint64_t socket_backlog(struct source *source, uint64_t bytes_per_s, uint64_t *ret_rtt_us)
{
        uint64_t total = 0, longest_us = 0;

        for (unsigned int i = 0; i < source->n_channels; i++) {
                struct tcp_info info = {0};
                socklen_t len = sizeof(info);
                uint64_t rtt_us = 0, on_its_way;
                int pending = 0;

                if (getsockopt(source->senders[i].wake_fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
                        rtt_us = info.tcpi_min_rtt > 0 ? info.tcpi_min_rtt : info.tcpi_rtt;
                on_its_way = bytes_per_s / source->n_channels * rtt_us / 1000000;
                if (ioctl(source->senders[i].wake_fd, SIOCOUTQ, &pending) == 0)
                        total += (uint64_t)pending - MIN((uint64_t)pending, on_its_way);
                longest_us = MAX(longest_us, rtt_us);
        }
        if (longest_us > 0)
                *ret_rtt_us = longest_us;
        return total;
}

/* How fast the connections take data when they are kept busy. While several senders wait for one slow link,
 * their write times add up to more than the time that passed: then the link was busy all of it. Time in which
 * a writing thread waited for a processor is not the link's. */
static void measure_wire(struct source_stats *stats, uint64_t now_ns)
{
        uint64_t ns = SUM(stats->source, write_ns), bytes = SUM(stats->source, wire_bytes);
        uint64_t cpu_ns = SUM(stats->source, write_cpu_ns);
        uint64_t d_bytes = bytes - stats->write_bytes_before;
        double d_cpu_ns = (double)(cpu_ns - stats->write_cpu_ns_before);
        double d_ns = (double)(ns - stats->write_ns_before) - d_cpu_ns * (1 / stats->cpu_share - 1);
        uint64_t elapsed_ns = now_ns - stats->write_at_ns;
        uint64_t busy_ns = MIN((uint64_t)MAX(d_ns, d_cpu_ns), elapsed_ns);

        if (d_bytes < 64 * 1024 || busy_ns == 0)
                return; /* keep adding up until it means something */
        stats->write_ns_before = ns;
        stats->write_cpu_ns_before = cpu_ns;
        stats->write_bytes_before = bytes;
        stats->write_at_ns = now_ns;
        stats->choice.wire_bytes_per_s =
                meter_capacity(stats->choice.wire_bytes_per_s, d_bytes, busy_ns, elapsed_ns);
}

static void measure_levels(struct source_stats *stats)
{
        for (enum codec_level i = 0; i < N_CODEC_LEVELS; i++) {
                struct codec_sample now = {.raw_bytes = SUM(stats->source, level[i].raw),
                        .packed_bytes = SUM(stats->source, level[i].packed),
                        .cpu_ns = SUM(stats->source, level[i].cpu_ns)};
                struct codec_sample *before = &stats->samples_before[i];
                struct codec_sample more = {.raw_bytes = now.raw_bytes - before->raw_bytes,
                        .packed_bytes = now.packed_bytes - before->packed_bytes,
                        .cpu_ns = now.cpu_ns - before->cpu_ns};

                codec_sample_add(&stats->choice.samples[i], &more);
                *before = now;
        }
}

static void measure_plain(struct source_stats *stats)
{
        uint64_t plain = SUM(stats->source, plain_bytes), packable = SUM(stats->source, packable_bytes);
        struct codec_sample more = {
                .raw_bytes = plain - stats->plain_before, .packed_bytes = packable - stats->packable_before};

        stats->plain_before = plain;
        stats->packable_before = packable;
        codec_sample_add(&stats->plain, &more);
        stats->choice.plain_share = (double)stats->plain.raw_bytes /
                                    MAX(1.0, (double)(stats->plain.raw_bytes + stats->plain.packed_bytes));
}

static void fade_in(struct sender_times *recent, const struct sender_times *now, struct sender_times *before)
{
        recent->pack_ns = recent->pack_ns * TIME_FADE + now->pack_ns - before->pack_ns;
        recent->pack_cpu_ns = recent->pack_cpu_ns * TIME_FADE + now->pack_cpu_ns - before->pack_cpu_ns;
        recent->write_ns = recent->write_ns * TIME_FADE + now->write_ns - before->write_ns;
        recent->write_cpu_ns = recent->write_cpu_ns * TIME_FADE + now->write_cpu_ns - before->write_cpu_ns;
        *before = *now;
}

/* What the senders waited for: the wire, or a processor. A thread that wants to compute and does not run loses
 * as much time while it writes as while it packs; only what is left of the writing is the wire's. */
static void measure_waiting(struct source_stats *stats, uint64_t now_ns)
{
        struct source *source = stats->source;
        struct sender_times now = {.pack_ns = (double)SUM(source, pack_ns),
                .write_ns = (double)(SUM(source, write_ns) + SUM(source, pace_ns)),
                .write_cpu_ns = (double)SUM(source, write_cpu_ns)};
        struct sender_times *recent = &stats->times;
        double blocked_ns;

        for (enum codec_level i = 0; i < N_CODEC_LEVELS; i++)
                now.pack_cpu_ns += (double)SUM(source, level[i].cpu_ns);
        fade_in(recent, &now, &stats->times_before);
        stats->time_ns = stats->time_ns * TIME_FADE + (double)(now_ns - stats->time_at_ns);
        stats->time_at_ns = now_ns;
        if (recent->pack_ns >= MIN_PACK_NS)
                stats->cpu_share = CLAMP(recent->pack_cpu_ns / recent->pack_ns, 0.01, 1.0);
        else
                stats->cpu_share += (1 - stats->cpu_share) * (1 - TIME_FADE);
        blocked_ns = recent->write_ns - recent->write_cpu_ns / stats->cpu_share;
        source->wire_blocks = blocked_ns >= BLOCKED_PART * stats->time_ns;
        stats->choice.n_cores = codec_cores(&(struct codec_room){.n_cpus = stats->n_cpus,
                .n_senders = source->n_channels,
                .cpu_share = stats->cpu_share,
                .wire_blocks = source->wire_blocks,
                .packing_cores = recent->pack_cpu_ns / stats->time_ns,
                .idle_cores = stats->idle_cores});
}

/* On a host whose processors are all busy: how much of their time goes with each byte that is packed. */
static void measure_other_work(struct source_stats *stats)
{
        double packing_cores = stats->times.pack_cpu_ns / stats->time_ns;
        double raw_bytes = 0, cpu_ns = 0, rate;

        for (enum codec_level i = 0; i < N_CODEC_LEVELS; i++) {
                raw_bytes += (double)stats->choice.samples[i].raw_bytes;
                cpu_ns += (double)stats->choice.samples[i].cpu_ns;
        }
        stats->choice.total_cores = stats->n_cpus;
        stats->choice.other_s_per_byte = 0;
        if (stats->source->wire_blocks || stats->idle_cores < 0 || stats->idle_cores > SPARE_CORES ||
                packing_cores < MIN_PACKING_CORES || cpu_ns < MIN_PACK_NS)
                return;
        rate = raw_bytes * 1e9 / cpu_ns * packing_cores;
        stats->choice.other_s_per_byte = MAX(0.0, stats->n_cpus - packing_cores - stats->idle_cores) / rate;
}

static void choose_level(struct source_stats *stats)
{
        struct source *source = stats->source;
        uint64_t rate_limit = counter_get(&source->pace_bytes_per_s);
        enum codec_level wanted;

        if (source->fixed_codec)
                return;
        stats->choice.current = source->level;
        stats->choice.must_converge =
                stats->switchover.passes_without_progress > 0 || stats->switchover.whole_pause;
        if (rate_limit > 0 && stats->choice.wire_bytes_per_s > rate_limit)
                stats->choice.wire_bytes_per_s = rate_limit;
        wanted = codec_choose(&stats->choice);
        if (wanted == source->level || (wanted > source->level) != (stats->n_wanted > 0))
                stats->n_wanted = 0;
        if (wanted != source->level)
                stats->n_wanted += wanted > source->level ? 1 : -1;
        /* Until it is known what the host's processors have to spare, nothing is asked of them that is not free. */
        if (wanted > source->level && stats->idle_cores < 0 && !source->wire_blocks)
                return;
        if (abs(stats->n_wanted) >= TICKS_TO_CHANGE)
                source->level = wanted;
}

/* Bytes that QEMU wrote and the reader has not read. */
static uint64_t stream_backlog(struct source *source)
{
        int pending = 0;

        return ioctl(source->qemu_fd, SIOCINQ, &pending) == 0 ? (uint64_t)pending : 0;
}

static uint64_t queue_ms(const struct source *source)
{
        switch ((enum pass_part)source->pass_part) {
        case FIRST_PASS:
                return FIRST_PASS_QUEUE_MS;
        case FIRST_PASS_TAIL:
                return TAIL_QUEUE_MS;
        case LATER_PASS:
                break;
        }
        return QUEUE_MS;
}

static void bound_buffers(struct source_stats *stats)
{
        struct source *source = stats->source;
        uint64_t backlog = socket_backlog(source, stats->choice.wire_bytes_per_s, &stats->rtt_us);
        /* In a tunnel there are no pages to count. */
        uint64_t rate = stats->tunnel ? stats->wire_bytes_per_s : stats->retired_bytes_per_s;
        uint64_t under_way = batch_pool_under_way(&source->pool);
        /* What the first pass has in advance is gone before it ends. */
        uint64_t queued =
                (source->pass_part == FIRST_PASS ? MIN(under_way, rate * TAIL_QUEUE_MS / 1000) : under_way) +
                stream_backlog(source);
        /* Guest bytes become wire bytes in this proportion. */
        double ratio = stats->retired_bytes_per_s > 0
                               ? CLAMP((double)stats->wire_bytes_per_s / (double)stats->retired_bytes_per_s,
                                         0.01, 1.0)
                               : 1.0;
        int low_water = (int)CLAMP(stats->choice.wire_bytes_per_s * SOCKET_MS / 1000 / source->n_channels,
                (uint64_t)MIN_SOCKET_BYTES, (uint64_t)MAX_SOCKET_BYTES);

        stats->buffered_bytes = backlog + (uint64_t)((double)queued * ratio);
        stats->drain_ms = switchover_drain_ms(
                stats->buffered_bytes, stats->choice.wire_bytes_per_s, stats->wire_bytes_per_s);
        if (rate > 0 && !source->post_copy) { /* which has bounds of its own */
                source->frame_bytes = source_frame_bytes(source, rate);
                batch_pool_set_limit(
                        &source->pool, MAX((size_t)MIN_QUEUE_BYTES, rate * queue_ms(source) / 1000));
        }
        if (source->post_copy) {
                batch_pool_set_limit(&source->pool, POST_COPY_QUEUE_BYTES);
                low_water = MIN_SOCKET_BYTES;
        }
        for (unsigned int i = 0; i < source->n_channels; i++)
                (void)setsockopt(source->senders[i].wake_fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low_water,
                        sizeof(low_water));
}

static void decide_switchover(struct source_stats *stats)
{
        uint64_t limit_ms;

        if (stats->source->device_state || stats->source->post_copy || stats->status.dirty_sync_count == 0)
                return;
        stats->status.possible_bytes_per_s = switchover_possible_rate(
                stats->choice.wire_bytes_per_s, stats->wire_bytes_per_s, stats->retired_bytes_per_s);
        stats->status.drain_ms = stats->drain_ms;
        stats->status.rtt_us = stats->rtt_us;
        limit_ms = switchover_update(&stats->switchover, &stats->status);
        /* Small steps are not worth a command. */
        if (stats->limit_sent_ms > 0 && limit_ms * 10 < stats->limit_sent_ms * 12 &&
                limit_ms * 12 > stats->limit_sent_ms * 10)
                return;
        stats->limit_sent_ms = limit_ms;
        control_send(stats->source->control_fd,
                json_pack("{s:s, s:I}", "event", "switchover", "downtime_limit_ms", (json_int_t)limit_ms),
                false);
}

void source_stats_tick(struct source_stats *stats)
{
        struct source *source = stats->source;
        uint64_t now_ns = clock_monotonic_ns();

        meter_add(&stats->wire, SUM(source, wire_bytes), now_ns);
        meter_add(&stats->retired, SUM(source, bytes_retired), now_ns);
        meter_add(&stats->zero, SUM(source, zero_retired), now_ns);
        stats->wire_bytes_per_s = meter_rate(&stats->wire);
        stats->retired_bytes_per_s = meter_rate(&stats->retired);
        measure_waiting(stats, now_ns);
        measure_wire(stats, now_ns);
        measure_levels(stats);
        measure_plain(stats);
        measure_other_work(stats);
        choose_level(stats);
        bound_buffers(stats);
        if (++stats->n_ticks % STATS_EVERY_TICKS == 0)
                source_stats_send(stats, true);
}

void source_stats_qemu(struct source_stats *stats, const json_t *message)
{
        const json_t *idle = json_object_get(message, "idle_cores");

        stats->status.remaining_bytes =
                (uint64_t)MAX(0, json_integer_value(json_object_get(message, "remaining_bytes")));
        stats->status.dirty_sync_count =
                (uint64_t)MAX(0, json_integer_value(json_object_get(message, "dirty_sync_count")));
        stats->status.qemu_bytes_per_s =
                MAX(0.0, json_number_value(json_object_get(message, "mbps"))) * 1e6 / 8;
        stats->idle_cores = json_is_number(idle) ? json_number_value(idle) : -1;
        decide_switchover(stats);
}

static const char *phase(struct source *source)
{
        if (mailbox_has(&source->mailbox, MAIL_STREAM_END))
                return "finishing";
        if (source->post_copy)
                return "post-copy";
        if (source->device_state)
                return "switching";
        return mailbox_has(&source->mailbox, MAIL_READY) ? "copying" : "connecting";
}

static uint64_t cpu_ms(void)
{
        struct rusage usage;

        getrusage(RUSAGE_SELF, &usage);
        return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
               (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* TLS 1.3 adds 5 bytes of header, 1 of type and 16 of tag to each record of up to 16 KiB. */
static uint64_t with_tls(uint64_t bytes)
{
        return bytes + bytes / 16384 * 22;
}

static void add_verify(json_t *event, struct source *source)
{
        uint64_t hashes[WIRE_MAX_CHANNELS];
        char hex[17];

        for (unsigned int i = 0; i < source->n_channels; i++)
                hashes[i] = source->senders[i].channel_hash;
        snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)ram_total_hash(hashes, source->n_channels));
        json_object_set_new(event, "ram_hash", json_string(hex));
        json_object_set_new(event, "verify_ms",
                json_integer((json_int_t)((source->verify_done_ns - source->verify_started_ns) / 1000000)));
}

/* What each channel has sent, and how long it took: from that the agent knows what each path can take. */
static void add_channels(json_t *event, struct source *source)
{
        json_t *bytes = json_array(), *write_us = json_array();

        for (unsigned int i = 0; i < source->n_channels; i++) {
                struct sender_counters *counters = &source->senders[i].counters;

                json_array_append_new(bytes, json_integer((json_int_t)counter_get(&counters->wire_bytes)));
                json_array_append_new(
                        write_us, json_integer((json_int_t)counter_get(&counters->write_ns) / 1000));
        }
        json_object_set_new(event, "channel_bytes", bytes);
        json_object_set_new(event, "channel_write_us", write_us);
}

void source_stats_send(struct source_stats *stats, bool droppable)
{
        struct source *source = stats->source;
        bool verified = source->n_verified == source->n_channels;
        uint64_t bytes_disk, bytes_disk_zero;

        source_disks_count(source, &bytes_disk, &bytes_disk_zero);
        const struct {
                const char *name;
                uint64_t value;
        } numbers[] = {{"pass", stats->status.dirty_sync_count}, {"bytes_disk", bytes_disk},
                {"bytes_disk_zero", bytes_disk_zero}, {"bytes_disk_wire", SUM(source, bytes_disk_wire)},
                {"bytes_ram", counter_get(&source->bytes_ram)},
                {"bytes_wire", with_tls(SUM(source, wire_bytes))},
                {"bytes_zero", counter_get(&source->bytes_zero)},
                {"bytes_duplicate", SUM(source, bytes_unchanged) + SUM(source, bytes_referenced) +
                                            SUM(source, bytes_recalled) + SUM(source, bytes_shared)},
                {"bytes_shared", SUM(source, bytes_shared)}, {"bytes_recalled", SUM(source, bytes_recalled)},
                {"bytes_delta", SUM(source, bytes_delta)},
                {"pages_requested", counter_get(&source->pages_requested)},
                {"bytes_post_copy", counter_get(&source->bytes_post_copy)},
                {"bytes_device", counter_get(&source->bytes_device)}, {"pages_sent", SUM(source, pages_sent)},
                {"pages_resent_by_verify", SUM(source, pages_verify)},
                {"rate_bps", stats->wire_bytes_per_s * 8},
                {"effective_bps", (stats->retired_bytes_per_s + meter_rate(&stats->zero)) * 8},
                {"capacity_bps", stats->choice.wire_bytes_per_s * 8},
                {"buffered_bytes", stats->buffered_bytes}, {"drain_ms", stats->drain_ms},
                {"remaining_bytes", stats->status.remaining_bytes},
                {"passes_without_progress", stats->switchover.passes_without_progress},
                {"channels", source->n_channels}, {"reconnects", source->n_reconnects},
                {"rtt_us", stats->rtt_us}, {"cpu_ms", cpu_ms()}};
        json_t *event = json_pack("{s:s, s:s, s:s, s:b, s:b, s:b}", "event", "stats", "phase", phase(source),
                "codec", codec_level_name(source->level), "converging",
                switchover_converging(&stats->switchover), "tunnel", stats->tunnel, "verified", verified);

        if (!event)
                return;
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
                json_object_set_new(event, numbers[i].name, json_integer((json_int_t)numbers[i].value));
        add_channels(event, source);
        if (verified)
                add_verify(event, source);
        control_send(source->control_fd, event, droppable);
}

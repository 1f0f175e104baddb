/* SPDX-License-Identifier: Apache-2.0 */

/* A sample: runs of 8 pages, one at a random place in each of up to 4,096 equal parts of the guest's memory. They are read
 * four times: at first, and 0.25, 1 and 3 seconds later. From the first look follow the shares of zero, repeated and
 * incompressible pages and what each codec level makes of the others, in frames as the source makes them. From the later ones
 * follows how much was changed within each time, in pages and in blocks: three intervals, because pages that are written over
 * and over count once in a pass, however long it is.
 *
 * What QEMU offers (calc-dirty-rate, since 5.2) tells a rate over one interval and nothing of content, and its dirty-bitmap mode
 * slows the guest down: hence this way. */

#include "mover/sample.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <xxhash.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "mover/classify.h"
#include "mover/codec.h"
#include "mover/compare.h"
#include "mover/control.h"
#include "mover/sandbox.h"

#define RUN_PAGES COMPARE_RUN_PAGES
#define RUN_BYTES (RUN_PAGES * WIRE_PAGE_SIZE)
#define MAX_RUNS 4096   /* 128 MiB are read at each look */
#define CONTENT_EVERY 8 /* of the runs one in so many is packed: up to 16 MiB */
#define FRAME_BYTES WIRE_MAX_PAGE_DATA
#define MAX_DELTA_BYTES (1024 * 1024) /* of changed blocks that are packed */
#define KEEPERS_MAX 8
#define NICENESS 5
#define MAX_LOOK_MS 20000 /* on a host so busy that a look takes longer, there is nothing to be learned */

static const unsigned int looks_ms[] = {250, 1000, 3000};
#define N_LOOKS ARRAY_SIZE(looks_ms)

struct packed {
        uint64_t raw, packed, cpu_ns;
};

/* A content of pages that are not zero, and how often it was seen. */
struct content {
        uint64_t digest;
        uint64_t n; /* 0: free */
};
#define N_SLOTS ((size_t)2 * MAX_RUNS * RUN_PAGES)

struct look {
        double interval_ms;
        uint64_t pages, blocks; /* changed since the first look */
};

/* A host that keeps the guest's memory of an earlier stay. */
struct keeper {
        const char *host; /* borrowed from the message */
        struct compared_pages pages;
};

struct sample {
        int control_fd;
        struct ram ram;
        uint8_t secret[WIRE_SECRET_SIZE];
        struct codec *codec;
        uint64_t n_runs, n_pages; /* looked at */
        uint64_t *run_at;         /* first page of each */
        uint64_t (*hashes)[WIRE_BLOCKS_PER_PAGE];
        struct content
                *contents; /* N_SLOTS, by open addressing: qsort() would ask the system for its memory */
        uint64_t n_content, n_zero; /* pages */
        struct keeper *keepers;     /* hosts that have something to compare with */
        size_t n_keepers;
        uint64_t compared_every; /* of the runs: one in so many */
        uint8_t *run, *frame, *out, *delta;
        size_t n_frame, n_delta;
        uint64_t plain_bytes, packable_bytes;
        struct packed levels[N_CODEC_LEVELS], deltas[N_CODEC_LEVELS];
        struct look looks[N_LOOKS];
        double base_ms; /* middle of the first look */
};

static uint64_t cpu_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static double now_ms(void)
{
        return (double)clock_monotonic_ns() / 1e6;
}

static int choose_runs(struct sample *s, struct error **ret_error)
{
        uint64_t n_possible = MAX(ram_pages(&s->ram) / RUN_PAGES, UINT64_C(1));
        uint32_t *places;
        int r = 0;

        s->n_runs = MIN(n_possible, (uint64_t)MAX_RUNS);
        s->n_pages = s->n_runs * RUN_PAGES;
        s->run_at = alloc_array(s->n_runs, sizeof(*s->run_at));
        s->hashes = alloc_array(s->n_pages, sizeof(*s->hashes));
        s->contents = alloc_array(N_SLOTS, sizeof(*s->contents));
        s->run = alloc_zero(RUN_BYTES);
        s->frame = alloc_zero(FRAME_BYTES);
        s->out = alloc_zero(FRAME_BYTES);
        s->delta = alloc_zero(MAX_DELTA_BYTES);
        places = alloc_array(s->n_runs, sizeof(*places));
        if (!s->run_at || !s->hashes || !s->contents || !s->run || !s->frame || !s->out || !s->delta ||
                !places)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the sample");
        if (r == 0 && getrandom(s->secret, sizeof(s->secret), 0) != (ssize_t)sizeof(s->secret))
                r = error_from_errno(ret_error, errno, "Cannot make a random key");
        for (uint64_t i = 0; r == 0 && i < s->n_runs; i++) {
                uint64_t first = n_possible * i / s->n_runs, end = n_possible * (i + 1) / s->n_runs;

                if (i % 64 == 0 &&
                        getrandom(places + i, MIN(s->n_runs - i, (uint64_t)64) * sizeof(*places), 0) < 0)
                        r = error_from_errno(ret_error, errno, "Cannot choose pages");
                s->run_at[i] = (first + places[i] % (end - first)) * RUN_PAGES;
        }
        free(places);
        return r;
}

/* `page_keys` NULL: nobody keeps anything. */
static int choose_compared(struct sample *s, const json_t *page_keys, struct error **ret_error)
{
        const char *host;
        json_t *key;

        s->compared_every = (s->n_runs + COMPARE_RUNS_MAX - 1) / COMPARE_RUNS_MAX;
        if (json_object_size(page_keys) == 0)
                return 0;
        if (json_object_size(page_keys) > KEEPERS_MAX)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "sample.page_keys are more than %d",
                        KEEPERS_MAX);
        s->keepers = alloc_array(json_object_size(page_keys), sizeof(*s->keepers));
        if (!s->keepers)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the sample");
        json_object_foreach ((json_t *)page_keys, host, key) {
                struct keeper *keeper = &s->keepers[s->n_keepers++];

                keeper->host = host;
                if (!json_is_string(key) ||
                        text_hex_decode(json_string_value(key), keeper->pages.key, AEAD_KEY_SIZE) < 0)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "sample.page_keys must be 64 hexadecimal digits each");
        }
        return 0;
}

/* Pages of guests smaller than a run do not exist; the smallest guest has 16 MiB. */
static int set_up(struct sample *s, const struct control_message *message, struct error **ret_error)
{
        uint64_t address = 0, bytes = 0;
        json_t *page_keys = NULL;
        int r = doc_need_u64(
                message->json, "sample", "ram_bytes", RUN_BYTES, WIRE_MAX_RAM_BYTES, &bytes, ret_error);

        if (r >= 0)
                r = doc_need_u64(message->json, "sample", "ram_address", 0, INT64_MAX, &address, ret_error);
        if (r >= 0)
                r = doc_opt_object(message->json, "sample", "page_keys", &page_keys, ret_error);
        if (r >= 0 && message->n_fds != 1)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "The sample message brought %zu descriptors, not the guest's memory", message->n_fds);
        if (r >= 0)
                r = ram_init(&s->ram, message->fds[0], address, bytes, ret_error);
        if (r >= 0 && codec_new(false, &s->codec) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the sample");
        if (r >= 0)
                r = choose_runs(s, ret_error);
        return r >= 0 ? choose_compared(s, page_keys, ret_error) : r;
}

static void pack_all(struct sample *s, struct packed *levels, const uint8_t *data, size_t len)
{
        if (len == 0)
                return;
        for (enum codec_level i = CODEC_LZ4; i < N_CODEC_LEVELS; i++) {
                uint64_t started = cpu_ns();
                size_t n = codec_pack(s->codec, i, data, len, s->out);

                levels[i].cpu_ns += cpu_ns() - started;
                levels[i].raw += len;
                levels[i].packed += n > 0 ? n : len;
        }
}

static void add_content(struct sample *s, const uint8_t *data)
{
        if (!classify_compressible(data, WIRE_PAGE_SIZE)) {
                s->plain_bytes += WIRE_PAGE_SIZE;
                return;
        }
        s->packable_bytes += WIRE_PAGE_SIZE;
        memcpy(s->frame + s->n_frame, data, WIRE_PAGE_SIZE);
        s->n_frame += WIRE_PAGE_SIZE;
        if (s->n_frame == FRAME_BYTES) {
                pack_all(s, s->levels, s->frame, s->n_frame);
                s->n_frame = 0;
        }
}

static void hash_page(const struct sample *s, const uint8_t *data, uint64_t *ret_hashes)
{
        for (size_t i = 0; i < WIRE_BLOCKS_PER_PAGE; i++)
                ret_hashes[i] = XXH3_64bits_withSecret(
                        data + i * WIRE_BLOCK_SIZE, WIRE_BLOCK_SIZE, s->secret, WIRE_SECRET_SIZE);
}

static void count_content(struct sample *s, uint64_t digest)
{
        size_t i = digest % N_SLOTS;

        while (s->contents[i].n > 0 && s->contents[i].digest != digest)
                i = (i + 1) % N_SLOTS;
        s->contents[i].digest = digest;
        s->contents[i].n++;
        s->n_content++;
}

static void first_look_at(struct sample *s, uint64_t run, uint64_t page, const uint8_t *data)
{
        hash_page(s, data, s->hashes[page]);
        if (ram_is_zero(data, WIRE_PAGE_SIZE)) {
                s->n_zero++;
                return;
        }
        count_content(s, XXH3_64bits(s->hashes[page], WIRE_BLOCKS_PER_PAGE * sizeof(s->hashes[page][0])));
        if (run % CONTENT_EVERY == 0)
                add_content(s, data);
}

static void later_look_at(struct sample *s, struct look *look, uint64_t page, const uint8_t *data)
{
        uint64_t hashes[WIRE_BLOCKS_PER_PAGE];
        unsigned int n = 0;

        hash_page(s, data, hashes);
        for (size_t i = 0; i < WIRE_BLOCKS_PER_PAGE; i++) {
                if (hashes[i] == s->hashes[page][i])
                        continue;
                n++;
                if (look == &s->looks[N_LOOKS - 1] && s->n_delta < MAX_DELTA_BYTES) {
                        memcpy(s->delta + s->n_delta, data + i * WIRE_BLOCK_SIZE, WIRE_BLOCK_SIZE);
                        s->n_delta += WIRE_BLOCK_SIZE;
                }
        }
        look->pages += n > 0;
        look->blocks += n;
}

/* look NULL: the first. Runs are read in the same order each time, so that the interval is about the same for all. */
static int look(struct sample *s, struct look *look, struct error **ret_error)
{
        double started = now_ms(), middle;

        for (uint64_t i = 0; i < s->n_runs; i++) {
                int r = ram_read(&s->ram, s->run_at[i] * WIRE_PAGE_SIZE, s->run, RUN_BYTES, ret_error);

                if (r < 0)
                        return r;
                for (size_t k = 0; !look && i % s->compared_every == 0 && k < s->n_keepers; k++)
                        compared_pages_add(&s->keepers[k].pages, s->run_at[i], s->run);
                for (uint64_t j = 0; j < RUN_PAGES; j++) {
                        const uint8_t *data = s->run + j * WIRE_PAGE_SIZE;

                        if (look)
                                later_look_at(s, look, i * RUN_PAGES + j, data);
                        else
                                first_look_at(s, i, i * RUN_PAGES + j, data);
                }
                if (now_ms() - started > MAX_LOOK_MS)
                        return error_set(ret_error, ERROR_TIMED_OUT, "Try again when the host is less busy.",
                                "Looking at the guest's memory takes too long");
        }
        middle = (started + now_ms()) / 2;
        if (look)
                look->interval_ms = middle - s->base_ms;
        else
                s->base_ms = middle;
        return 0;
}

/* 0 in time; -ECANCELED when the agent spoke or left. */
static int wait_until(const struct sample *s, double due_ms)
{
        struct pollfd pfd = {.fd = s->control_fd, .events = POLLIN};
        double left = due_ms - now_ms();

        return poll(&pfd, 1, left > 0 ? (int)left + 1 : 0) > 0 ? -ECANCELED : 0;
}

/* Part of the guest's pages with content that repeat an earlier one. Of n pages in every f-th part of the memory, contents seen
 * once count as n times 1/f different ones, those seen again as one: right for contents that are few and frequent or of their
 * own, too low for those that occur twice or so. */
static double duplicate_share(const struct sample *s)
{
        double scale = (double)ram_pages(&s->ram) / (double)s->n_pages;
        double different = 0;

        if (s->n_content == 0)
                return 0;
        for (size_t i = 0; i < N_SLOTS; i++)
                different += s->contents[i].n == 1 ? scale : s->contents[i].n > 0;
        return MAX(0.0, 1 - different / ((double)s->n_content * scale));
}

static json_t *levels_document(const struct sample *s)
{
        json_t *list = json_array();

        for (enum codec_level i = CODEC_LZ4; list && i < N_CODEC_LEVELS; i++) {
                const struct packed *p = &s->levels[i], *d = &s->deltas[i];

                json_array_append_new(
                        list, json_pack("{s:s, s:f, s:f, s:f}", "name", codec_level_name(i), "ratio",
                                      p->packed ? (double)p->raw / (double)p->packed : 1.0, "bytes_per_s",
                                      p->cpu_ns ? (double)p->raw * 1e9 / (double)p->cpu_ns : 0.0,
                                      "delta_ratio", d->packed ? (double)d->raw / (double)d->packed : 1.0));
        }
        return list;
}

static json_t *dirty_document(const struct sample *s)
{
        double scale = (double)ram_pages(&s->ram) / (double)s->n_pages;
        json_t *list = json_array();

        for (size_t i = 0; list && i < N_LOOKS; i++)
                json_array_append_new(
                        list, json_pack("{s:f, s:f, s:f, s:I}", "interval_ms", s->looks[i].interval_ms,
                                      "page_bytes", (double)s->looks[i].pages * scale * WIRE_PAGE_SIZE,
                                      "block_bytes", (double)s->looks[i].blocks * scale * WIRE_BLOCK_SIZE,
                                      "sampled_pages", (json_int_t)s->looks[i].pages));
        return list;
}

static json_t *document(struct sample *s)
{
        double content = (double)(s->plain_bytes + s->packable_bytes);

        return json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:o, s:o, s:f, s:I}", "event", "sample", "ram_bytes",
                (json_int_t)s->ram.bytes, "sampled_pages", (json_int_t)s->n_pages, "zero_share",
                (double)s->n_zero / (double)s->n_pages, "duplicate_share", duplicate_share(s),
                "incompressible_share", content > 0 ? (double)s->plain_bytes / content : 0.0, "levels",
                levels_document(s), "dirty", dirty_document(s), "ms", now_ms() - s->base_ms, "cpu_ms",
                (json_int_t)(cpu_ns() / 1000000));
}

/* An event for each host, since all together do not fit into one. */
static void send_digests(const struct sample *s)
{
        for (size_t i = 0; i < s->n_keepers; i++)
                control_send(s->control_fd,
                        json_pack("{s:s, s:s, s:o}", "event", "digests", "host", s->keepers[i].host,
                                "digests", compared_pages_to_json(&s->keepers[i].pages)),
                        false);
}

static void drop_keepers(struct sample *s)
{
        for (size_t i = 0; i < s->n_keepers; i++)
                explicit_bzero(s->keepers[i].pages.key, AEAD_KEY_SIZE);
        free(s->keepers);
}

static int work(struct sample *s, struct error **ret_error)
{
        int r = look(s, NULL, ret_error);

        for (size_t i = 0; r >= 0 && i < N_LOOKS; i++) {
                r = wait_until(s, s->base_ms + looks_ms[i]);
                if (r >= 0)
                        r = look(s, &s->looks[i], ret_error);
                if (r >= 0 && i == 0) {
                        pack_all(s, s->levels, s->frame, s->n_frame);
                        s->n_frame = 0;
                }
        }
        for (size_t at = 0; r >= 0 && at < s->n_delta; at += FRAME_BYTES)
                pack_all(s, s->deltas, s->delta + at, MIN(s->n_delta - at, (size_t)FRAME_BYTES));
        return r;
}

int sample_run(int control_fd, bool sandbox)
{
        _cleanup_error_ struct error *error = NULL;
        struct control_message message = {0};
        struct sample s = {.control_fd = control_fd};
        int r = control_receive(control_fd, &message, &error);

        if (r >= 0 && message.op != CONTROL_SAMPLE)
                r = error_set(&error, ERROR_PROTOCOL, NULL, "The agent's message is not \"sample\"");
        if (r >= 0)
                r = set_up(&s, &message, &error);
        if (r >= 0 && sandbox) {
                (void)setpriority(PRIO_PROCESS, 0, NICENESS);
                r = sandbox_enter(NULL, 0, -1, &s.ram, false, &error);
        }
        if (r >= 0)
                r = work(&s, &error);
        if (r >= 0) {
                send_digests(&s);
                control_send(control_fd, document(&s), false);
        } else if (error) {
                control_send_failed(control_fd, error, false);
        }
        drop_keepers(&s);
        free(s.run_at);
        free(s.hashes);
        free(s.contents);
        free(s.run);
        free(s.frame);
        free(s.out);
        free(s.delta);
        codec_free(s.codec);
        control_message_deinit(&message);
        return r < 0;
}

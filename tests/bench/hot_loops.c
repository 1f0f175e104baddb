/* SPDX-License-Identifier: Apache-2.0 */

/* The data path's innermost loops, and the manager's ranking of hosts, over input that is the same on every machine, to be counted by callgrind
 * (tests/bench/instructions.py).
 *
 * Usage: hot_loops NAME   (without: the names). What happens in measured_NAME() counts, what prepares it does not. */

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/alloc.h"
#include "cluster/placement.h"
#include "mover/batch.h"
#include "mover/classify.h"
#include "mover/codec.h"
#include "mover/duplicates.h"
#include "mover/page_index.h"
#include "mover/wire.h"
#include "vmm/stream_parser.h"

#define N_PAGES 2048
#define N_FRAMES 20000
#define N_BATCHES 5000
#define RAM_SECTION 2
#define FLAG_ZERO 0x02
#define FLAG_MEM_SIZE 0x04
#define FLAG_PAGE 0x08
#define FLAG_EOS 0x10
#define FLAG_CONTINUE 0x20
#define MAX_STREAM ((size_t)N_PAGES * (WIRE_PAGE_SIZE + 16))
/* QEMU's writes are that large, and a socket hands them out in pieces that fit nothing. */
#define FEED_BYTES 100003

/* Stays a function of its own, under its name. */
#ifdef __clang__
#define _measured_ __attribute__((noinline))
#else
#define _measured_ __attribute__((noipa))
#endif

/* So that nothing is left out as useless. */
static volatile uint64_t result;

static uint8_t *pages;
static uint8_t secret[WIRE_SECRET_SIZE];

/* The output step of splitmix64 (Steele et al. 2014). */
static uint64_t mix64(uint64_t x)
{
        x += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

/* Of eight pages one is zero, two are random, one is what another one is too, four are text. */
static void fill(void)
{
        static const char words[8][9] = {"the page", " was at ", "another ", "host and", " arrives",
                " before ", "it stops", " running"};

        for (uint64_t page = 0; page < N_PAGES; page++) {
                uint8_t *at = pages + page * WIRE_PAGE_SIZE;
                uint64_t kind = page % 8, seed = kind == 3 ? 3 : page;

                for (uint64_t i = 0; kind != 0 && i < WIRE_PAGE_SIZE / 8; i++) {
                        uint64_t value = mix64(seed << 32 | i);

                        memcpy(at + i * 8, kind < 3 ? (const void *)&value : words[value % 8], 8);
                }
        }
        for (uint64_t i = 0; i < WIRE_SECRET_SIZE; i++)
                secret[i] = (uint8_t)mix64(~i);
}

static const uint8_t *page_at(uint64_t page)
{
        return pages + page * WIRE_PAGE_SIZE;
}

static bool is_zero(uint64_t page)
{
        return page % 8 == 0;
}

_measured_ void measured_classify(void);
_measured_ void measured_classify(void)
{
        for (uint64_t page = 0; page < N_PAGES; page++)
                if (!is_zero(page))
                        result += classify_compressible(page_at(page), WIRE_PAGE_SIZE);
}

_measured_ void measured_page_index(struct page_index *index);
_measured_ void measured_page_index(struct page_index *index)
{
        for (uint64_t page = 0; page < N_PAGES; page++)
                result += is_zero(page) ? page_index_set_zero(index, page)
                                        : page_index_update(index, page, page_at(page));
        for (uint64_t page = 0; page < N_PAGES; page++)
                result += page_index_digest(index, page) ^ page_content_digest(secret, page_at(page));
}

/* All pages for the first time, and once more after a block of each has changed. */
static void run_page_index(void)
{
        _cleanup_(page_index_freep) struct page_index *index = NULL;

        if (page_index_new(N_PAGES, secret, &index) < 0)
                abort();
        measured_page_index(index);
        for (uint64_t page = 0; page < N_PAGES; page++)
                if (!is_zero(page))
                        pages[page * WIRE_PAGE_SIZE + page % 16 * WIRE_BLOCK_SIZE] ^= 1;
        measured_page_index(index);
}

_measured_ void measured_duplicates(struct duplicates *duplicates, const struct page_index *index);
_measured_ void measured_duplicates(struct duplicates *duplicates, const struct page_index *index)
{
        uint64_t from;

        for (uint64_t page = 0; page < N_PAGES; page++)
                if (!is_zero(page))
                        result += duplicates_find(
                                duplicates, index, page, page_index_digest(index, page), &from);
}

static void run_duplicates(void)
{
        _cleanup_(page_index_freep) struct page_index *index = NULL;
        struct duplicates *duplicates = NULL;

        if (page_index_new(N_PAGES, secret, &index) < 0 || duplicates_new(N_PAGES, &duplicates) < 0)
                abort();
        for (uint64_t page = 0; page < N_PAGES; page++)
                if (!is_zero(page))
                        page_index_update(index, page, page_at(page));
        measured_duplicates(duplicates, index);
        duplicates_free(duplicates);
}

_measured_ void measured_batch(struct batch_pool *pool, struct batch_queue *queue);
_measured_ void measured_batch(struct batch_pool *pool, struct batch_queue *queue)
{
        for (unsigned int i = 0; i < N_BATCHES; i++) {
                struct batch *batch = batch_pool_get(pool);

                batch->n_bytes = WIRE_PAGE_SIZE;
                batch_queue_push(queue, batch);
                batch_pool_put(pool, batch_queue_pop(queue));
        }
}

static void run_batch(void)
{
        struct batch_pool pool;
        struct batch_queue queue;

        if (batch_pool_init(&pool, 4) < 0 || batch_queue_init(&queue, &pool) < 0)
                abort();
        measured_batch(&pool, &queue);
        batch_queue_deinit(&queue);
        batch_pool_deinit(&pool);
}

_measured_ void measured_codec(struct codec *codec, uint8_t *packed, uint8_t *unpacked);
_measured_ void measured_codec(struct codec *codec, uint8_t *packed, uint8_t *unpacked)
{
        for (uint64_t page = 0; page < N_PAGES; page += WIRE_STRIPE_PAGES)
                for (enum codec_level level = CODEC_LZ4; level < N_CODEC_LEVELS; level++) {
                        size_t n = codec_pack(codec, level, page_at(page), WIRE_STRIPE_BYTES, packed);

                        if (n > 0)
                                result += (uint64_t)codec_unpack(codec, codec_level_packing(level), packed, n,
                                        unpacked, WIRE_STRIPE_BYTES);
                }
}

static void run_codec(void)
{
        _cleanup_(codec_freep) struct codec *codec = NULL;
        uint8_t *packed = alloc_zero(WIRE_STRIPE_BYTES), *unpacked = alloc_zero(WIRE_STRIPE_BYTES);

        if (!packed || !unpacked || codec_new(false, &codec) < 0)
                abort();
        measured_codec(codec, packed, unpacked);
        free(packed);
        free(unpacked);
}

_measured_ void measured_wire(void);
_measured_ void measured_wire(void)
{
        struct wire_header_v1 header;
        enum wire_frame type;
        uint32_t len;

        for (uint32_t i = 0; i < N_FRAMES; i++) {
                wire_header_write(&header, i % 2 == 0 ? WIRE_PAGES : WIRE_ZERO, 12 + (i % 1000 + 1) * 12);
                if (wire_header_read(&header, WIRE_SOURCE, &type, &len, NULL) < 0)
                        abort();
                result += type + len + wire_page_channel(i, 3);
        }
}

static int on_page(void *userdata, uint64_t page, const uint8_t *data)
{
        result += page + *data;
        return 0;
}

static int on_zero_page(void *userdata, uint64_t page)
{
        result += page;
        return 0;
}

static int on_skeleton(void *userdata, const uint8_t *data, size_t len)
{
        result += len;
        return 0;
}

static int on_ping(void *userdata, uint32_t value)
{
        return 0;
}

static int on_mode_changed(void *userdata, enum stream_mode mode, const char *reason)
{
        abort();
}

static int on_read_page(void *userdata, uint64_t page, uint8_t *ret_data)
{
        abort();
}

_measured_ void measured_stream_parser(struct stream_parser *parser, const uint8_t *stream, size_t len);
_measured_ void measured_stream_parser(struct stream_parser *parser, const uint8_t *stream, size_t len)
{
        for (size_t at = 0; at < len; at += FEED_BYTES)
                if (stream_parser_feed(parser, stream + at, MIN((size_t)FEED_BYTES, len - at), NULL) < 0)
                        abort();
}

static uint8_t *put(uint8_t *to, const void *data, size_t len)
{
        memcpy(to, data, len);
        return to + len;
}

static uint8_t *put_u32(uint8_t *to, uint32_t value)
{
        value = htobe32(value);
        return put(to, &value, sizeof(value));
}

static uint8_t *put_u64(uint8_t *to, uint64_t value)
{
        value = htobe64(value);
        return put(to, &value, sizeof(value));
}

static uint8_t *put_footer(uint8_t *to)
{
        return put_u32(put(put_u64(to, FLAG_EOS), "\x7e", 1), RAM_SECTION);
}

/* What QEMU 7.2 writes in one pass over all pages (docs/internals/qemu-stream.md). */
static size_t make_stream(uint8_t *stream)
{
        uint8_t *to = put_u32(put(stream, "QEVM", 4), 3);

        to = put(put_u32(put(to, "\x07", 1), 10), "pc-q35-7.2", 10);
        to = put(put_u32(put(to, "\x01", 1), RAM_SECTION), "\x03ram", 4);
        to = put_u64(put_u32(put_u32(to, 0), 4), (uint64_t)N_PAGES * WIRE_PAGE_SIZE | FLAG_MEM_SIZE);
        to = put_footer(put_u64(put(to, "\x06pc.ram", 7), (uint64_t)N_PAGES * WIRE_PAGE_SIZE));
        to = put_u32(put(to, "\x02", 1), RAM_SECTION);
        for (uint64_t page = 0; page < N_PAGES; page++) {
                to = put_u64(to, page * WIRE_PAGE_SIZE | (is_zero(page) ? FLAG_ZERO : FLAG_PAGE) |
                                         (page > 0 ? FLAG_CONTINUE : 0));
                if (page == 0)
                        to = put(to, "\x06pc.ram", 7);
                to = is_zero(page) ? put(to, "", 1) : put(to, page_at(page), WIRE_PAGE_SIZE);
        }
        return (size_t)(put_footer(to) - stream);
}

static void run_stream_parser(void)
{
        static const struct stream_parser_ops ops = {
                on_page, on_zero_page, on_skeleton, on_ping, on_mode_changed, on_read_page};
        struct stream_parser_config config = {
                .direct_block = "pc.ram", .direct_bytes = (uint64_t)N_PAGES * WIRE_PAGE_SIZE};
        _cleanup_(stream_parser_freep) struct stream_parser *parser = NULL;
        uint8_t *stream = alloc_zero(MAX_STREAM);
        size_t len = stream ? make_stream(stream) : 0;

        if (!stream || stream_parser_new(&config, &ops, NULL, &parser, NULL) < 0)
                abort();
        measured_stream_parser(parser, stream, len);
        free(stream);
}

#define N_HOSTS 1000
#define N_VMS 20000
#define N_RULES 200

static json_t *rank_host(int number)
{
        char name[16];

        snprintf(name, sizeof(name), "host%d", number);
        return json_pack(
                "{s:s, s:s, s:{s:s, s:s, s:s, s:{s:s, s:[s,s]}, s:i, s:I, s:I, s:I, s:f, s:{s:f, s:f, s:f},"
                " s:[{s:s, s:s, s:b, s:b, s:f}], s:[{s:s, s:s, s:i, s:b, s:b}], s:[{s:s, s:s, s:i, s:b}]}}",
                "name", name, "uid", name, "status", "state", "connected", "version", "0.1.0", "accelerator",
                "tcg", "qemu", "version", "7.2.22", "machines", "pc-q35-7.1", "pc-q35-7.2", "cpus", 32,
                "memory_bytes", (json_int_t)256 << 30, "memory_free_bytes",
                (json_int_t)(16 + number % 100) << 30, "memory_vms_bytes", (json_int_t)64 << 30, "load1",
                (double)(number % 40), "pressure", "cpu", (double)(number % 10), "memory", 0.0, "io",
                (double)(number % 7), "datastores", "name", "shared", "id", "id", "ok", 1, "locks", 1,
                "latency_ms", 1.0 + number % 20, "switches", "name", "lan", "uplink", "eth1", "mtu", 1500,
                "carrier", number % 50 != 0, "ok", number % 50 != 0, "port_groups", "name", "net", "switch",
                "lan", "vlan", number % 30 == 0, "ok", 1);
}

static json_t *rank_vm(int number)
{
        char name[16], host[16], mac[18], path[32];

        snprintf(name, sizeof(name), "vm%d", number);
        snprintf(host, sizeof(host), "host%d", number % N_HOSTS);
        snprintf(mac, sizeof(mac), "52:54:00:%02x:%02x:%02x", number >> 16, (number >> 8) & 0xff,
                number & 0xff);
        snprintf(path, sizeof(path), "%s/disk0.qcow2", name);
        return json_pack(
                "{s:s, s:s, s:{s:i, s:I, s:[{s:s, s:s}], s:[{s:s, s:s}]}, s:{s:s, s:s, s:s, s:s, s:s}}",
                "name", name, "uid", name, "spec", "cpus", 2, "memory_bytes", (json_int_t)4 << 30, "disks",
                "datastore", "shared", "path", path, "nics", "port_group", "net", "mac", mac, "status",
                "power", "running", "host", host, "machine", "pc-q35-7.2", "accelerator", "tcg",
                "qemu_version", "7.2.22");
}

static json_t *rank_rule(int number)
{
        char name[16], a[16], b[16];

        snprintf(name, sizeof(name), "rule%d", number);
        snprintf(a, sizeof(a), "vm%d", number % 2 ? 0 : number);
        snprintf(b, sizeof(b), "vm%d", number + 1000);
        return json_pack("{s:s, s:{s:s, s:s, s:[s,s], s:[]}}", "name", name, "spec", "type", "keep-apart",
                "mode", number % 3 ? "must" : "should", "vms", a, b, "hosts");
}

static json_t *rank_list(int n, json_t *(*make)(int number))
{
        json_t *list = json_array();

        for (int i = 0; i < n; i++)
                if (json_array_append_new(list, make(i)) < 0)
                        abort();
        return list;
}

_measured_ static void measured_rank(const struct checks_input *input, const json_t *hosts)
{
        json_t *ranking = placement_rank(input, hosts, NULL);

        result += json_array_size(ranking);
        json_decref(ranking);
}

/* The manager's answer to "where to?": one virtual machine against all hosts of a large cluster. */
static void run_rank(void)
{
        json_t *hosts = rank_list(N_HOSTS, rank_host), *vms = rank_list(N_VMS, rank_vm),
               *rules = rank_list(N_RULES, rank_rule);

        measured_rank(&(struct checks_input){.vm = json_array_get(vms, 0),
                              .source = json_array_get(hosts, 0),
                              .vms = vms,
                              .affinity_rules = rules},
                hosts);
        json_decref(hosts);
        json_decref(vms);
        json_decref(rules);
}

static const struct loop {
        const char *name;
        void (*run)(void);
} loops[] = {
        {"classify", measured_classify},
        {"page_index", run_page_index},
        {"duplicates", run_duplicates},
        {"batch", run_batch},
        {"codec", run_codec},
        {"wire", measured_wire},
        {"stream_parser", run_stream_parser},
        {"rank", run_rank},
};

int main(int argc, char **argv)
{
        pages = alloc_zero((size_t)N_PAGES * WIRE_PAGE_SIZE);
        if (!pages)
                return 1;
        fill();
        for (size_t i = 0; i < ARRAY_SIZE(loops); i++) {
                if (argc < 2)
                        puts(loops[i].name);
                else if (strcmp(argv[1], loops[i].name) == 0)
                        loops[i].run();
        }
        free(pages);
        return 0;
}

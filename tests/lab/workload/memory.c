/* SPDX-License-Identifier: Apache-2.0 */

/* Memory that knows what it should hold.
 *
 * A page is 64 blocks of 64 bytes. For every page a slot says its kind, its version and the version at which
 * the whole page was last rewritten (base). From these the content of each block follows: a write in style
 * "line" makes version v and rewrites the header (block 0) and block 1 + (v - 1) % 63 with content derived from
 * (page, v); a write in style "page" derives all blocks from v and sets base = v. A page that arrives in an
 * older version, torn, or in another page's place differs from what its slot tells. The slots lie in guest memory
 * as well; a slot and its page that are both old still do not match the total of writes, which lies in a third place. */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "workload.h"

enum {
        BLOCK_SIZE = 64,
        N_BLOCKS = PAGE_SIZE / BLOCK_SIZE,
        TICK_NS = 2000000,
        SCAN_TICK_NS = 10000000,
        SCAN_PAGES_PER_TICK = 16,
        VERIFY_PAGES_PER_LOCK = 64,
};

/* What a page holds. */
enum kind {
        KIND_TEXT,   /* words: compresses about five times */
        KIND_RANDOM, /* does not compress */
        KIND_ZERO,   /* alternates between all zero and text */
        KIND_SAME,   /* whole pages of which only a few different ones exist in the whole memory */
};

static const char *const contents[] = {"text", "random", "zero", "same", "mixed"};
enum { CONTENT_MIXED = 4 };
static const char *const orders[] = {"sequential", "random", "hot"};
enum order {
        ORDER_SEQUENTIAL,
        ORDER_RANDOM,
        ORDER_HOT, /* nine of ten writes go to a tenth of the pages */
};
static const char *const styles[] = {"line", "page"};
enum style {
        STYLE_LINE,
        STYLE_PAGE,
};

struct slot {
        uint64_t version;
        uint64_t base;
        enum kind kind;
};

struct header {
        uint64_t magic;
        uint64_t page;
        uint64_t version;
        uint64_t base;
        uint64_t kind;
        uint64_t unused[3];
};
_Static_assert(sizeof(struct header) == BLOCK_SIZE, "the header is block 0");

static const uint64_t page_magic = UINT64_C(0x64726f7665722031);

static struct {
        pthread_mutex_t lock; /* over everything here */
        uint8_t *pages;
        struct slot *slots;
        size_t n_pages;
        size_t n_span; /* pages 0 to n_span - 1 are being changed */
        unsigned content;
        uint64_t rate;
        enum order order;
        enum style style;
        uint64_t n_writes;
        uint64_t random;
        size_t next;
        size_t scan_next;
        uint64_t n_checked;
        uint64_t n_full_checks;
} memory = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char words[64][4] = {
        "the ",
        "of  ",
        "and ",
        "to  ",
        "in  ",
        "a   ",
        "is  ",
        "that",
        "for ",
        "it  ",
        "as  ",
        "was ",
        "with",
        "be  ",
        "by  ",
        "on  ",
        "not ",
        "he  ",
        "I   ",
        "this",
        "are ",
        "or  ",
        "his ",
        "from",
        "at  ",
        "whic",
        "but ",
        "have",
        "an  ",
        "had ",
        "they",
        "you ",
        "were",
        "thei",
        "one ",
        "all ",
        "we  ",
        "can ",
        "her ",
        "has ",
        "ther",
        "been",
        "if  ",
        "more",
        "when",
        "will",
        "woul",
        "who ",
        "so  ",
        "no  ",
        "out ",
        "up  ",
        "into",
        "them",
        "then",
        "host",
        "disk",
        "move",
        "page",
        "copy",
        "time",
        "send",
        "wait",
        "done",
};

static void text_block(uint8_t *out, uint64_t seed)
{
        for (int half = 0; half < 2; half++) {
                uint64_t bits = mix64(seed + (uint64_t)half);

                for (int i = 0; i < 8; i++, bits >>= 6)
                        memcpy(out + half * 32 + i * 4, words[bits & 63], 4);
        }
}

static void random_block(uint8_t *out, uint64_t seed)
{
        for (uint64_t i = 0; i < 8; i++) {
                uint64_t value = mix64(seed + i);

                memcpy(out + i * 8, &value, 8);
        }
}

/* The version that wrote block of a page last. */
static uint64_t block_version(const struct slot *slot, unsigned block)
{
        uint64_t offset = block - 1, last;

        if (slot->version < offset + 1)
                return slot->base;
        last = slot->version - (slot->version - 1 - offset) % (N_BLOCKS - 1);
        return last > slot->base ? last : slot->base;
}

/* The seed of a block; seeds of different (page, version, block) lie at least 8 apart, see random_block(). */
static uint64_t block_seed(uint64_t page, uint64_t version, unsigned block)
{
        return mix64(page * UINT64_C(0x9e3779b97f4a7c15) + version) + block * UINT64_C(16);
}

static void make_header(uint8_t *out, size_t page, const struct slot *slot)
{
        struct header header = {page_magic, page, slot->version, slot->base, slot->kind, {0}};

        memcpy(out, &header, sizeof(header));
}

static void make_block(uint8_t *out, size_t page, const struct slot *slot, unsigned block)
{
        uint8_t *to = out + block * BLOCK_SIZE;

        switch (slot->kind) {
        case KIND_ZERO:
                if (slot->version % 2 == 0)
                        memset(to, 0, BLOCK_SIZE);
                else
                        text_block(to, block_seed(page, slot->version, block));
                break;
        case KIND_SAME:
                text_block(to, block_seed(0, slot->version % 4, block));
                break;
        case KIND_TEXT:
        case KIND_RANDOM:
                if (block == 0)
                        make_header(to, page, slot);
                else if (slot->kind == KIND_TEXT)
                        text_block(to, block_seed(page, block_version(slot, block), block));
                else
                        random_block(to, block_seed(page, block_version(slot, block), block));
                break;
        }
}

static void make_page(uint8_t *out, size_t page, const struct slot *slot)
{
        for (unsigned block = 0; block < N_BLOCKS; block++)
                make_block(out, page, slot, block);
}

static enum kind kind_of(unsigned content, size_t page)
{
        static const enum kind mixed[8] = {
                KIND_TEXT, KIND_RANDOM, KIND_TEXT, KIND_ZERO, KIND_TEXT, KIND_RANDOM, KIND_TEXT, KIND_SAME};

        return content == CONTENT_MIXED ? mixed[mix64(page) % 8] : (enum kind)content;
}

/* Gives page its next version. */
static void write_page(size_t page)
{
        struct slot *slot = &memory.slots[page];
        uint8_t *at = memory.pages + page * PAGE_SIZE;
        bool whole = memory.style == STYLE_PAGE || slot->kind == KIND_ZERO || slot->kind == KIND_SAME;

        slot->version++;
        memory.n_writes++;
        if (whole) {
                slot->base = slot->version;
                make_page(at, page, slot);
        } else {
                make_block(at, page, slot, 1 + (unsigned)((slot->version - 1) % (N_BLOCKS - 1)));
                make_header(at, page, slot);
        }
}

static void check_page(size_t page)
{
        const struct slot *slot = &memory.slots[page];
        const uint8_t *at = memory.pages + page * PAGE_SIZE;
        uint8_t expected[PAGE_SIZE];
        struct header found;
        size_t i = 0;

        make_page(expected, page, slot);
        memory.n_checked++;
        if (memcmp(at, expected, PAGE_SIZE) == 0)
                return;
        while (at[i] == expected[i])
                i++;
        memcpy(&found, at, sizeof(found));
        fault("memory page %zu of %zu (at %p) kind %u is not version %" PRIu64 " (base %" PRIu64
              "): byte %zu differs; "
              "its header says page %" PRIu64 " version %" PRIu64,
                page, memory.n_pages, (const void *)at, slot->kind, slot->version, slot->base, i, found.page,
                found.version);
}

static size_t choose_page(void)
{
        memory.random = mix64(memory.random + 1);
        switch (memory.order) {
        case ORDER_SEQUENTIAL:
                break;
        case ORDER_RANDOM:
                return memory.random % memory.n_span;
        case ORDER_HOT:
                if (memory.random % 10 != 0 && memory.n_span >= 10)
                        return (memory.random >> 8) % (memory.n_span / 10);
                return (memory.random >> 8) % memory.n_span;
        }
        memory.next = (memory.next + 1) % memory.n_span;
        return memory.next;
}

/* Changes pages at the set rate. What the guest could not do in time (it was paused, or is too slow) is not
 * made up for beyond a tenth of a second: the rate is a promise, not a debt. */
static void *dirty_loop(void *unused)
{
        uint64_t at_ns = monotonic_ns(), last_ns = at_ns, owed = 0;

        for (;;) {
                uint64_t now_ns, elapsed_ns;

                at_ns += TICK_NS;
                sleep_until(at_ns);
                now_ns = monotonic_ns();
                elapsed_ns = now_ns - last_ns;
                last_ns = now_ns;
                if (elapsed_ns > 100000000)
                        elapsed_ns = 100000000;
                if (now_ns > at_ns + 100000000)
                        at_ns = now_ns;

                pthread_mutex_lock(&memory.lock);
                if (memory.n_span > 0) {
                        owed += memory.rate * elapsed_ns;
                        for (uint64_t n = owed / 1000000000; n > 0; n--)
                                write_page(choose_page());
                        owed %= 1000000000;
                }
                pthread_mutex_unlock(&memory.lock);
        }
        return NULL;
}

static void *scan_loop(void *unused)
{
        uint64_t at_ns = monotonic_ns();

        for (;;) {
                uint64_t now_ns = monotonic_ns();

                at_ns = (now_ns > at_ns ? now_ns : at_ns) + SCAN_TICK_NS;
                sleep_until(at_ns);
                pthread_mutex_lock(&memory.lock);
                for (int i = 0; i < SCAN_PAGES_PER_TICK && memory.n_pages > 0; i++) {
                        memory.scan_next = (memory.scan_next + 1) % memory.n_pages;
                        check_page(memory.scan_next);
                }
                pthread_mutex_unlock(&memory.lock);
        }
        return NULL;
}

void memory_start(void)
{
        start_thread(dirty_loop, NULL);
        start_thread(scan_loop, NULL);
}

static bool parse_number(const char *text, uint64_t maximum, uint64_t *ret)
{
        char *end;
        unsigned long long value;

        if (text == NULL || *text < '0' || *text > '9')
                return false;
        value = strtoull(text, &end, 10);
        if (*end != '\0' || value > maximum)
                return false;
        *ret = value;
        return true;
}

/* The place of text in table; an absent text means the first. */
static bool parse_choice(const char *text, const char *const *table, size_t n, unsigned *ret)
{
        for (unsigned i = 0; i < n; i++)
                if (text == NULL || strcmp(text, table[i]) == 0) {
                        *ret = i;
                        return true;
                }
        return false;
}

const char *memory_resize(const char *mebibytes, const char *content)
{
        uint64_t size;
        unsigned choice;
        size_t n_pages;
        uint8_t *pages;
        struct slot *slots;

        if (!parse_number(mebibytes, 1 << 20, &size))
                return "memory SIZE_MIB [text|random|zero|same|mixed]";
        if (!parse_choice(content, contents, sizeof(contents) / sizeof(contents[0]), &choice))
                return "content is one of text, random, zero, same, mixed";
        n_pages = size * 256;
        if (n_pages == 0)
                return "memory of 0 MiB makes no sense";

        pthread_mutex_lock(&memory.lock);
        if (memory.n_pages > 0) {
                /* So that a test that looks for a page in the guest's RAM finds none of a former life. */
                memset(memory.pages, 0, memory.n_pages * PAGE_SIZE);
                munmap(memory.pages, memory.n_pages * PAGE_SIZE);
                munmap(memory.slots, memory.n_pages * sizeof(*slots));
                memory.n_pages = memory.n_span = 0;
        }
        pages = mmap(NULL, n_pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        slots = mmap(
                NULL, n_pages * sizeof(*slots), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (pages == MAP_FAILED || slots == MAP_FAILED) {
                pthread_mutex_unlock(&memory.lock);
                return "the guest has not that much memory";
        }
        memory.pages = pages;
        memory.slots = slots;
        memory.n_pages = memory.n_span = n_pages;
        memory.content = choice;
        memory.n_writes = 0;
        memory.next = memory.scan_next = 0;
        for (size_t page = 0; page < n_pages; page++) {
                slots[page].kind = kind_of(choice, page);
                make_page(pages + page * PAGE_SIZE, page, &slots[page]);
        }
        pthread_mutex_unlock(&memory.lock);
        return NULL;
}

const char *memory_dirty(
        const char *pages_per_s, const char *span_mebibytes, const char *order, const char *style)
{
        uint64_t rate, span = 0;
        unsigned order_choice, style_choice;

        if (!parse_number(pages_per_s, 10000000, &rate))
                return "dirty PAGES_PER_S [SPAN_MIB] [sequential|random|hot] [line|page]";
        if (span_mebibytes != NULL && !parse_number(span_mebibytes, 1 << 20, &span))
                return "the span is in MiB";
        if (!parse_choice(order, orders, sizeof(orders) / sizeof(orders[0]), &order_choice))
                return "order is one of sequential, random, hot";
        if (!parse_choice(style, styles, sizeof(styles) / sizeof(styles[0]), &style_choice))
                return "style is one of line, page";

        pthread_mutex_lock(&memory.lock);
        memory.n_span = span == 0 || span * 256 > memory.n_pages ? memory.n_pages : span * 256;
        memory.rate = rate;
        memory.order = (enum order)order_choice;
        memory.style = (enum style)style_choice;
        pthread_mutex_unlock(&memory.lock);
        return NULL;
}

void memory_verify(void)
{
        uint64_t total = 0;
        size_t page = 0;
        bool more = true;

        /* Pages in small lots, so that the workload goes on while they are checked. */
        while (more) {
                pthread_mutex_lock(&memory.lock);
                for (int i = 0; i < VERIFY_PAGES_PER_LOCK && page < memory.n_pages; i++)
                        check_page(page++);
                more = page < memory.n_pages;
                pthread_mutex_unlock(&memory.lock);
        }
        pthread_mutex_lock(&memory.lock);
        for (page = 0; page < memory.n_pages; page++)
                total += memory.slots[page].version;
        if (total != memory.n_writes)
                fault("memory pages were written %" PRIu64 " times, their versions add up to %" PRIu64,
                        memory.n_writes, total);
        memory.n_full_checks++;
        pthread_mutex_unlock(&memory.lock);
}

void memory_status(FILE *out)
{
        pthread_mutex_lock(&memory.lock);
        fprintf(out,
                "\"memory_pages\": %zu, \"memory_content\": \"%s\", \"dirty_span_pages\": %zu, "
                "\"dirty_pages_per_s\": %" PRIu64 ", \"page_writes\": %" PRIu64
                ", \"pages_checked\": %" PRIu64 ", \"memory_full_checks\": %" PRIu64 ", ",
                memory.n_pages, contents[memory.content], memory.n_span, memory.rate, memory.n_writes,
                memory.n_checked, memory.n_full_checks);
        pthread_mutex_unlock(&memory.lock);
}

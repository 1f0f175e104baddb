/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/stream_parser.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"

/* How it works: a state is a handler and the number of bytes that it needs. feed() gives each handler exactly
 * that many contiguous bytes, straight from the input where they lie in it whole (the usual case for pages),
 * else collected in `carry`. A handler sets the next state. Bytes that may turn out to open something unknown
 * wait in `held` until that is decided. */

#define FILE_MAGIC 0x5145564du /* "QEVM" */
#define FILE_VERSION 3
#define MACHINE_NAME_MAX 255

enum record_type { /* migration/savevm.h */
        RECORD_EOF = 0x00,
        RECORD_SECTION_START = 0x01,
        RECORD_SECTION_PART = 0x02,
        RECORD_SECTION_END = 0x03,
        RECORD_SECTION_FULL = 0x04,
        RECORD_SUBSECTION = 0x05,
        RECORD_DESCRIPTION = 0x06,
        RECORD_CONFIGURATION = 0x07,
        RECORD_COMMAND = 0x08,
        RECORD_SECTION_FOOTER = 0x7e,
};

enum command {
        COMMAND_OPEN_RETURN_PATH = 1,
        COMMAND_PING = 2,
        COMMAND_POSTCOPY_ADVISE = 3,
        COMMAND_POSTCOPY_RAM_DISCARD = 6,
        COMMAND_SWITCHOVER_START = 11,
};

#define ADVISE_BYTES 16 /* page sizes; none without RAM in post-copy, which we never have */

enum ram_flag { /* migration/ram.c */
        RAM_ZERO = 0x02,
        RAM_MEM_SIZE = 0x04,
        RAM_PAGE = 0x08,
        RAM_EOS = 0x10,
        RAM_CONTINUE = 0x20,
        RAM_MULTIFD_FLUSH = 0x200,
        RAM_FLAGS = 0xfff,
};

/* A place in verbatim bytes that may be the closing description. */
struct candidate {
        uint64_t offset; /* of its type byte; 0: unused */
        uint8_t head[5]; /* length and first character of the text, as far as seen */
        unsigned int n_head;
};
/* JSON text holds no control characters, so after the true one there can be false ones in its length only. */
#define N_CANDIDATES 4

typedef int (*state_fn)(struct stream_parser *p, const uint8_t *data);

struct stream_parser {
        const struct stream_parser_ops *ops;
        void *userdata;
        char direct_block[STREAM_BLOCK_NAME_MAX + 1];
        uint8_t direct_block_len;
        uint64_t direct_bytes;
        bool post_copy;

        enum stream_mode mode;
        state_fn state;
        size_t need;
        uint64_t offset;
        struct error **ret_error; /* of the running feed() */

        uint8_t carry[STREAM_PAGE_SIZE];
        size_t n_carry;
        uint8_t held[512]; /* not yet emitted bytes of the record that is being recognised */
        size_t n_held;

        char machine[MACHINE_NAME_MAX + 1];
        bool ram_started, ram_ending, ram_ended, in_ram_section;
        uint32_t ram_section_id;
        uint64_t mem_size_left;
        uint8_t mem_name_len;

        uint64_t word; /* header of the page being read */
        uint8_t block[STREAM_BLOCK_NAME_MAX + 1];
        uint8_t block_len; /* 0: no page came yet */
        bool block_is_direct;
        uint64_t last_direct_page;
        uint16_t command;
        uint16_t command_len;

        struct candidate candidates[N_CANDIDATES]; /* the newest */
        unsigned int next_candidate;
        uint8_t last_byte; /* of the verbatim bytes */
};

static int at_record(struct stream_parser *p, const uint8_t *data);
static int at_ram_word(struct stream_parser *p, const uint8_t *data);

static uint16_t get16(const uint8_t *data)
{
        uint16_t raw;

        memcpy(&raw, data, sizeof(raw));
        return be16toh(raw);
}

static uint32_t get32(const uint8_t *data)
{
        uint32_t raw;

        memcpy(&raw, data, sizeof(raw));
        return be32toh(raw);
}

static uint64_t get64(const uint8_t *data)
{
        uint64_t raw;

        memcpy(&raw, data, sizeof(raw));
        return be64toh(raw);
}

static int next(struct stream_parser *p, state_fn state, size_t need)
{
        p->state = state;
        p->need = need;
        return 0;
}

static int emit(struct stream_parser *p, const void *data, size_t len)
{
        return p->ops->skeleton(p->userdata, data, len);
}

static void hold(struct stream_parser *p, const uint8_t *data, size_t len)
{
        /* Headers only: 1 + 5 + 255 + 8 bytes at most, so this cannot overflow. */
        memcpy(p->held + p->n_held, data, len);
        p->n_held += len;
}

static int emit_held(struct stream_parser *p)
{
        size_t n = p->n_held;

        p->n_held = 0;
        return n > 0 ? emit(p, p->held, n) : 0;
}

static int broken(struct stream_parser *p, const char *what)
{
        return error_set(p->ret_error, ERROR_PROTOCOL,
                "The guest runs on at the source; report the QEMU version and its machine type",
                "QEMU's migration stream is not valid at byte %llu: %s", (unsigned long long)p->offset, what);
}

static int emit_page_header(struct stream_parser *p, uint64_t word)
{
        uint64_t raw = htobe64(word);
        uint8_t header[sizeof(raw) + 1 + STREAM_BLOCK_NAME_MAX];

        memcpy(header, &raw, sizeof(raw));
        header[sizeof(raw)] = p->block_len;
        memcpy(header + sizeof(raw) + 1, p->block, p->block_len);
        return emit(p, header, sizeof(raw) + 1 + p->block_len);
}

/* In front of a tunnel: makes the destination's "last block" the direct one again, by sending a page of it
 * once more; between sections, in a PART section of its own. */
static int emit_block_reminder(struct stream_parser *p)
{
        uint64_t eos = htobe64(RAM_EOS);
        uint32_t id = htobe32(p->ram_section_id);
        uint8_t open[5] = {RECORD_SECTION_PART}, footer[5] = {RECORD_SECTION_FOOTER};
        uint8_t page[STREAM_PAGE_SIZE];
        int r;

        memcpy(open + 1, &id, sizeof(id));
        memcpy(footer + 1, &id, sizeof(id));
        r = p->ops->read_page(p->userdata, p->last_direct_page, page);
        if (r >= 0 && !p->in_ram_section)
                r = emit(p, open, sizeof(open));
        if (r >= 0)
                r = emit_page_header(p, p->last_direct_page * STREAM_PAGE_SIZE | RAM_PAGE);
        if (r >= 0)
                r = emit(p, page, sizeof(page));
        if (r < 0 || p->in_ram_section)
                return r;
        r = emit(p, &eos, sizeof(eos));
        return r < 0 ? r : emit(p, footer, sizeof(footer));
}

/* Leaves parsing; what is held is the first that goes out in the new mode. */
static int leave(struct stream_parser *p, enum stream_mode mode, const char *reason)
{
        int r;

        p->mode = mode;
        p->state = NULL;
        p->need = 0;
        r = p->ops->mode_changed(p->userdata, mode, reason);
        if (r >= 0 && mode == STREAM_TUNNEL && p->block_len > 0 && p->block_is_direct)
                r = emit_block_reminder(p);
        return r < 0 ? r : emit_held(p);
}

static int at_footer(struct stream_parser *p, const uint8_t *data)
{
        if (data[0] != RECORD_SECTION_FOOTER || get32(data + 1) != p->ram_section_id)
                return broken(p, "a RAM section has no footer");
        p->in_ram_section = false;
        p->ram_ended = p->ram_ending;
        next(p, at_record, 1);
        return emit(p, data, 5);
}

static int after_page(struct stream_parser *p)
{
        return next(p, at_ram_word, 8);
}

static int at_page_data(struct stream_parser *p, const uint8_t *data)
{
        uint64_t page = (p->word & ~(uint64_t)RAM_FLAGS) / STREAM_PAGE_SIZE;
        int r;

        after_page(p);
        if (p->block_is_direct)
                return p->ops->page(p->userdata, page, data);
        r = emit_page_header(p, p->word & ~(uint64_t)RAM_CONTINUE);
        return r < 0 ? r : emit(p, data, STREAM_PAGE_SIZE);
}

static int at_zero_fill(struct stream_parser *p, const uint8_t *data)
{
        uint64_t page = (p->word & ~(uint64_t)RAM_FLAGS) / STREAM_PAGE_SIZE;
        int r;

        if (data[0] != 0)
                return broken(p, "a uniform page is not zero");
        after_page(p);
        if (p->block_is_direct)
                return p->ops->zero_page(p->userdata, page);
        r = emit_page_header(p, p->word & ~(uint64_t)RAM_CONTINUE);
        return r < 0 ? r : emit(p, data, 1);
}

static int page_body(struct stream_parser *p)
{
        uint64_t address = p->word & ~(uint64_t)RAM_FLAGS;

        if (p->block_is_direct) {
                if (address >= p->direct_bytes)
                        return broken(p, "a page lies outside of the guest's memory");
                p->last_direct_page = address / STREAM_PAGE_SIZE;
        }
        if (p->word & RAM_ZERO)
                return next(p, at_zero_fill, 1);
        return next(p, at_page_data, STREAM_PAGE_SIZE);
}

static int at_block_name(struct stream_parser *p, const uint8_t *data)
{
        memcpy(p->block, data, p->block_len);
        p->block_is_direct = p->block_len == p->direct_block_len &&
                             memcmp(p->block, p->direct_block, p->direct_block_len) == 0;
        return page_body(p);
}

static int at_block_len(struct stream_parser *p, const uint8_t *data)
{
        if (data[0] == 0)
                return broken(p, "a RAM block has no name");
        p->block_len = data[0];
        return next(p, at_block_name, data[0]);
}

static int at_mem_size_name(struct stream_parser *p, const uint8_t *data);

static int at_mem_size_len(struct stream_parser *p, const uint8_t *data)
{
        p->mem_name_len = data[0];
        next(p, at_mem_size_name, (size_t)data[0] + 8);
        return emit(p, data, 1);
}

static int at_mem_size_name(struct stream_parser *p, const uint8_t *data)
{
        uint64_t used = get64(data + p->mem_name_len);

        if (used > p->mem_size_left)
                return broken(p, "the list of RAM blocks does not add up");
        if (p->mem_name_len == p->direct_block_len &&
                memcmp(data, p->direct_block, p->direct_block_len) == 0 && used != p->direct_bytes)
                return broken(p, "the guest's memory has another size than announced");
        p->mem_size_left -= used;
        if (p->mem_size_left > 0)
                next(p, at_mem_size_len, 1);
        else
                next(p, at_ram_word, 8);
        return emit(p, data, (size_t)p->mem_name_len + 8);
}

static int at_ram_word(struct stream_parser *p, const uint8_t *data)
{
        uint64_t word = get64(data);

        switch (word & RAM_FLAGS) {
        case RAM_PAGE | RAM_CONTINUE:
        case RAM_ZERO | RAM_CONTINUE:
                p->word = word;
                if (p->block_len == 0)
                        return broken(p, "the first page names no RAM block");
                return page_body(p);
        case RAM_PAGE:
        case RAM_ZERO:
                p->word = word;
                return next(p, at_block_len, 1);
        case RAM_MEM_SIZE:
                p->mem_size_left = word & ~(uint64_t)RAM_FLAGS;
                if (p->mem_size_left > 0)
                        next(p, at_mem_size_len, 1);
                return emit(p, data, 8);
        case RAM_EOS:
                next(p, at_footer, 5);
                return emit(p, data, 8);
        case RAM_MULTIFD_FLUSH:
                return emit(p, data, 8);
        }
        hold(p, data, 8);
        return leave(p, STREAM_TUNNEL, "a RAM record of an unknown kind");
}

static int enter_ram_section(struct stream_parser *p)
{
        p->in_ram_section = true;
        next(p, at_ram_word, 8);
        return emit_held(p);
}

static int at_section_continued(struct stream_parser *p, const uint8_t *data)
{
        uint8_t type = p->held[0];

        hold(p, data, 4);
        if (!p->ram_started || get32(data) != p->ram_section_id)
                return leave(p, STREAM_TUNNEL, "a section of another device came between the RAM sections");
        p->ram_ending = type == RECORD_SECTION_END;
        return enter_ram_section(p);
}

static int at_section_name(struct stream_parser *p, const uint8_t *data)
{
        uint32_t section_id = get32(p->held + 1);
        uint8_t name_len = p->held[5];

        hold(p, data, (size_t)name_len + 8);
        if (name_len != 3 || memcmp(data, "ram", 3) != 0)
                return leave(p, STREAM_TUNNEL, "another device migrates in sections beside RAM");
        if (p->ram_started)
                return broken(p, "RAM starts twice");
        p->ram_started = true;
        p->ram_section_id = section_id;
        return enter_ram_section(p);
}

static int at_section_head(struct stream_parser *p, const uint8_t *data)
{
        hold(p, data, 5);
        return next(p, at_section_name, (size_t)data[4] + 8);
}

static int at_ping(struct stream_parser *p, const uint8_t *data)
{
        p->n_held = 0;
        next(p, at_record, 1);
        return p->ops->ping(p->userdata, get32(data));
}

static int at_forwarded_ping(struct stream_parser *p, const uint8_t *data)
{
        hold(p, data, 4);
        next(p, at_record, 1);
        return emit_held(p);
}

static int at_advise(struct stream_parser *p, const uint8_t *data)
{
        static const uint8_t ping[] = {RECORD_COMMAND, 0, COMMAND_PING, 0, 4, STREAM_PING_ADVISED >> 24,
                STREAM_PING_ADVISED >> 16 & 0xff, STREAM_PING_ADVISED >> 8 & 0xff,
                STREAM_PING_ADVISED & 0xff};
        int r;

        hold(p, data, ADVISE_BYTES);
        next(p, at_record, 1);
        r = emit_held(p);
        if (r >= 0)
                r = emit(p, ping, sizeof(ping));
        return r < 0 ? r : p->ops->advised(p->userdata);
}

/* Commands that only a migration with post-copy has, or has in another way. */
static int at_post_copy_command(struct stream_parser *p)
{
        if (p->command == COMMAND_PING && p->command_len == 4)
                return next(p, at_forwarded_ping, 4);
        if (p->command == COMMAND_OPEN_RETURN_PATH && p->command_len == 0) {
                next(p, at_record, 1);
                return emit_held(p);
        }
        if (p->command == COMMAND_POSTCOPY_ADVISE && p->command_len == ADVISE_BYTES && !p->ram_started)
                return next(p, at_advise, ADVISE_BYTES);
        if (p->command == COMMAND_POSTCOPY_RAM_DISCARD && p->ram_started && !p->ram_ended)
                return leave(p, STREAM_POST_COPY, "the guest goes on at the destination");
        return leave(p, STREAM_TUNNEL, "a command of an unknown kind");
}

static int at_command(struct stream_parser *p, const uint8_t *data)
{
        p->command = get16(data);
        p->command_len = get16(data + 2);
        hold(p, data, 4);
        if (p->post_copy && p->command != COMMAND_SWITCHOVER_START)
                return at_post_copy_command(p);
        if (p->command == COMMAND_PING && p->command_len == 4)
                return next(p, at_ping, 4);
        if (p->command == COMMAND_OPEN_RETURN_PATH && p->command_len == 0) {
                p->n_held = 0;
                return next(p, at_record, 1);
        }
        if (p->command == COMMAND_SWITCHOVER_START && p->command_len == 0) {
                next(p, at_record, 1);
                return emit_held(p);
        }
        return leave(p, STREAM_TUNNEL, "a command of an unknown kind");
}

static int at_record(struct stream_parser *p, const uint8_t *data)
{
        hold(p, data, 1);
        if (data[0] == RECORD_COMMAND)
                return next(p, at_command, 4);
        if (p->ram_ended)
                return leave(p, STREAM_OPAQUE, "RAM is complete");
        switch (data[0]) {
        case RECORD_SECTION_START:
                return next(p, at_section_head, 5);
        case RECORD_SECTION_PART:
        case RECORD_SECTION_END:
                return next(p, at_section_continued, 4);
        }
        return leave(p, STREAM_TUNNEL, "device state came before RAM was complete");
}

/* After the configuration: subsections without a length, of which only the one with the VM's UUID is known. */
static int at_record_or_subsection(struct stream_parser *p, const uint8_t *data);

static int at_uuid(struct stream_parser *p, const uint8_t *data)
{
        next(p, at_record_or_subsection, 1);
        return emit(p, data, 16);
}

static int at_subsection_name(struct stream_parser *p, const uint8_t *data)
{
        static const char known[] = "configuration/uuid";
        uint8_t name_len = p->held[1];

        hold(p, data, (size_t)name_len + 4);
        if (name_len != sizeof(known) - 1 || memcmp(data, known, sizeof(known) - 1) != 0)
                return leave(p, STREAM_TUNNEL, "an unknown part of the configuration");
        next(p, at_uuid, 16);
        return emit_held(p);
}

static int at_subsection_len(struct stream_parser *p, const uint8_t *data)
{
        hold(p, data, 1);
        return next(p, at_subsection_name, (size_t)data[0] + 4);
}

static int at_record_or_subsection(struct stream_parser *p, const uint8_t *data)
{
        if (data[0] != RECORD_SUBSECTION)
                return at_record(p, data);
        hold(p, data, 1);
        return next(p, at_subsection_len, 1);
}

static int at_machine(struct stream_parser *p, const uint8_t *data)
{
        size_t len = p->need;

        memcpy(p->machine, data, len);
        p->machine[len] = '\0';
        next(p, at_record_or_subsection, 1);
        return emit(p, data, len);
}

static int at_machine_len(struct stream_parser *p, const uint8_t *data)
{
        uint32_t len = get32(data);

        if (len == 0 || len > MACHINE_NAME_MAX)
                return broken(p, "the machine type has no sensible name");
        next(p, at_machine, len);
        return emit(p, data, 4);
}

static int at_first_record(struct stream_parser *p, const uint8_t *data)
{
        if (data[0] != RECORD_CONFIGURATION) {
                hold(p, data, 1);
                return leave(p, STREAM_TUNNEL, "the machine type is too old to send its name");
        }
        next(p, at_machine_len, 4);
        return emit(p, data, 1);
}

static int at_file_header(struct stream_parser *p, const uint8_t *data)
{
        if (get32(data) != FILE_MAGIC || get32(data + 4) != FILE_VERSION)
                return broken(p, "it does not start with QEMU's magic number and version 3");
        next(p, at_first_record, 1);
        return emit(p, data, 8);
}

int stream_parser_new(const struct stream_parser_config *config, const struct stream_parser_ops *ops,
        void *userdata, struct stream_parser **ret_parser, struct error **ret_error)
{
        size_t name_len = strlen(config->direct_block);
        struct stream_parser *p;

        if (name_len == 0 || name_len > STREAM_BLOCK_NAME_MAX || config->direct_bytes == 0 ||
                config->direct_bytes % STREAM_PAGE_SIZE != 0)
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Give the RAM block's name and its size in whole pages",
                        "The guest's memory block is not described properly");
        p = ALLOC(struct stream_parser);
        if (!p)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "No memory for the stream parser");
        p->ops = ops;
        p->userdata = userdata;
        memcpy(p->direct_block, config->direct_block, name_len);
        p->direct_block_len = (uint8_t)name_len;
        p->direct_bytes = config->direct_bytes;
        p->post_copy = config->post_copy;
        p->mode = config->tunnel ? STREAM_TUNNEL : STREAM_RECORDS;
        next(p, at_file_header, 8);
        *ret_parser = p;
        return 0;
}

void stream_parser_free(struct stream_parser *parser)
{
        free(parser);
}

/* One step of records mode; returns how much of the input it took, or an error. */
static ssize_t step(struct stream_parser *p, const uint8_t *data, size_t len)
{
        size_t need = p->need;
        size_t take;
        int r;

        if (p->n_carry == 0 && len >= need) {
                r = p->state(p, data);
                return r < 0 ? r : (ssize_t)need;
        }
        take = MIN(need - p->n_carry, len);
        memcpy(p->carry + p->n_carry, data, take);
        p->n_carry += take;
        if (p->n_carry < need)
                return (ssize_t)take;
        p->n_carry = 0;
        r = p->state(p, p->carry);
        return r < 0 ? r : (ssize_t)take;
}

/* Notes in verbatim bytes, which start at p->offset, where the closing description may begin. */
static void look_for_end(struct stream_parser *p, const uint8_t *data, size_t len)
{
        const uint8_t *at = data;

        for (unsigned int i = 0; i < N_CANDIDATES; i++) {
                struct candidate *c = &p->candidates[i];

                for (size_t j = 0; c->offset > 0 && c->n_head < sizeof(c->head) && j < len; j++)
                        c->head[c->n_head++] = data[j];
        }
        while ((at = memchr(at, RECORD_DESCRIPTION, len - (size_t)(at - data)))) {
                uint8_t before = at > data ? at[-1] : p->last_byte;
                size_t left = len - (size_t)(++at - data);

                if (before == RECORD_EOF) {
                        struct candidate *c = &p->candidates[p->next_candidate++ % N_CANDIDATES];

                        c->offset = p->offset + len - left - 1;
                        c->n_head = (unsigned int)MIN(left, sizeof(c->head));
                        memcpy(c->head, at, c->n_head);
                }
        }
        p->last_byte = data[len - 1];
}

bool stream_parser_complete(const struct stream_parser *parser)
{
        for (unsigned int i = 0; parser->mode != STREAM_POST_COPY && i < N_CANDIDATES; i++) {
                const struct candidate *c = &parser->candidates[i];

                if (c->offset > 0 && c->n_head == sizeof(c->head) && c->head[4] == '{' &&
                        parser->last_byte == '}' && parser->offset == c->offset + 5 + get32(c->head))
                        return true;
        }
        return false;
}

int stream_parser_feed(
        struct stream_parser *parser, const uint8_t *data, size_t len, struct error **ret_error)
{
        parser->ret_error = ret_error;
        while (len > 0) {
                ssize_t taken;

                if (parser->mode != STREAM_RECORDS) {
                        if (parser->mode != STREAM_POST_COPY)
                                look_for_end(parser, data, len);
                        parser->offset += len;
                        return emit(parser, data, len);
                }
                taken = step(parser, data, len);
                if (taken < 0)
                        return (int)taken;
                parser->offset += (size_t)taken;
                data += taken;
                len -= (size_t)taken;
        }
        return 0;
}

enum stream_mode stream_parser_mode(const struct stream_parser *parser)
{
        return parser->mode;
}

uint64_t stream_parser_offset(const struct stream_parser *parser)
{
        return parser->offset;
}

const char *stream_parser_machine(const struct stream_parser *parser)
{
        return parser->machine;
}

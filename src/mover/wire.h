/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Wire format between two movers, byte by byte as in docs/protocol.md. Everything is little-endian and
 * packed; every size and count has a maximum that the receiver checks before it uses or stores anything.
 *
 * A frame is a header and a payload. What each frame's payload begins with is the struct of its name; the
 * rest follows directly. */

#include <assert.h>
#include <endian.h>

#include "base/cursor.h"
#include "base/error.h"

#define WIRE_MAGIC "DROVERMV"
#define WIRE_VERSION 1    /* what we speak */
#define WIRE_COMPATIBLE 1 /* the oldest version that can talk to us */

#define WIRE_PAGE_SIZE 4096
#define WIRE_BLOCK_SIZE 256 /* a page is sent in blocks; only changed ones go */
#define WIRE_BLOCKS_PER_PAGE (WIRE_PAGE_SIZE / WIRE_BLOCK_SIZE)
#define WIRE_STRIPE_PAGES 64 /* so many consecutive pages belong to one channel */
#define WIRE_STRIPE_BYTES (WIRE_STRIPE_PAGES * WIRE_PAGE_SIZE)

#define WIRE_MAX_CHANNELS 64
#define WIRE_MAX_PATHS 8 /* addresses of a sink */
#define WIRE_MAX_RAM_BYTES (UINT64_C(1) << 46)
#define WIRE_MAX_PAGES 1024 /* in one PAGES frame */
#define WIRE_MAX_PAGE_DATA (256 * 1024)
#define WIRE_MAX_RAW (WIRE_MAX_PAGE_DATA + WIRE_MAX_PAGES * 8)
#define WIRE_MAX_RUNS 1024       /* in one ZERO or RECALL frame */
#define WIRE_MAX_HELD 32         /* stripes in one HELD frame */
#define WIRE_MAX_HASHES 4096     /* in one VERIFY_REPLY frame */
#define WIRE_MAX_REFERENCES 1024 /* in one REFERENCES frame */
#define WIRE_MAX_SIBLINGS 512    /* in one SIBLINGS or MISSING frame */
#define WIRE_MAX_RETURN 4096     /* bytes in one RETURN_PATH frame */
#define WIRE_MAX_TEXT 1024
#define WIRE_MAX_DISKS 16
#define WIRE_MAX_DISK_BYTES (UINT64_C(1) << 50)
#define WIRE_MAX_DISK_DATA WIRE_MAX_PAGE_DATA /* bytes in one DISK_DATA frame, unpacked */
#define WIRE_DISK_STRIPE_BYTES (1024 * 1024)  /* so many bytes in a row of a disk belong to one channel */
#define WIRE_SECRET_SIZE 192                  /* XXH3 secret */
/* Room that a sender keeps in front of a payload for the frame header and the payload's head. */
#define WIRE_HEADROOM 64

typedef uint16_t wire_le16;
typedef uint32_t wire_le32;
typedef uint64_t wire_le64;
#define _packed_ __attribute__((packed))

/* Who may send a frame. */
enum wire_side { WIRE_SOURCE = 1, WIRE_SINK = 2, WIRE_BOTH = 3 };

/* The frames: NAME, number, sender, smallest and largest payload. */
#define WIRE_FRAMES(X) \
        X(HELLO, 1, WIRE_SOURCE, sizeof(struct wire_hello_v1), sizeof(struct wire_hello_v1)) \
        X(HELLO_REPLY, 2, WIRE_SINK, sizeof(struct wire_hello_reply_v1), sizeof(struct wire_hello_reply_v1)) \
        X(PAGES, 3, WIRE_SOURCE, sizeof(struct wire_pages_v1) + 1, \
                sizeof(struct wire_pages_v1) + WIRE_MAX_RAW) \
        X(ZERO, 4, WIRE_SOURCE, sizeof(struct wire_run_v1), WIRE_MAX_RUNS * sizeof(struct wire_run_v1)) \
        X(SKELETON, 5, WIRE_SOURCE, sizeof(struct wire_bytes_v1) + 1, \
                sizeof(struct wire_bytes_v1) + WIRE_MAX_RAW) \
        X(DEVICE, 6, WIRE_SOURCE, sizeof(struct wire_bytes_v1) + 1, \
                sizeof(struct wire_bytes_v1) + WIRE_MAX_RAW) \
        X(BARRIER, 7, WIRE_SOURCE, sizeof(struct wire_barrier_v1), sizeof(struct wire_barrier_v1)) \
        X(VERIFY, 8, WIRE_SOURCE, sizeof(struct wire_verify_v1), sizeof(struct wire_verify_v1)) \
        X(VERIFY_REPLY, 9, WIRE_SINK, sizeof(struct wire_verify_v1) + 8, \
                sizeof(struct wire_verify_v1) + WIRE_MAX_HASHES * 8) \
        X(ACK, 10, WIRE_SINK, sizeof(struct wire_ack_v1), sizeof(struct wire_ack_v1)) \
        X(COMMIT, 11, WIRE_SOURCE, 0, 0) \
        X(DELIVERED, 12, WIRE_SINK, 0, 0) \
        X(RESULT, 13, WIRE_SINK, sizeof(struct wire_result_v1), \
                sizeof(struct wire_result_v1) + WIRE_MAX_TEXT) \
        X(ABORT, 14, WIRE_BOTH, sizeof(struct wire_abort_v1), sizeof(struct wire_abort_v1) + WIRE_MAX_TEXT) \
        X(KEEPALIVE, 15, WIRE_BOTH, 0, 0) \
        X(REFERENCES, 16, WIRE_SOURCE, sizeof(struct wire_reference_v1), \
                WIRE_MAX_REFERENCES * sizeof(struct wire_reference_v1)) \
        X(HELD, 17, WIRE_SINK, sizeof(struct wire_held_v1), \
                sizeof(struct wire_held_v1) + WIRE_MAX_HELD * sizeof(struct wire_held_stripe_v1)) \
        X(RECALL, 18, WIRE_SOURCE, sizeof(struct wire_run_v1), WIRE_MAX_RUNS * sizeof(struct wire_run_v1)) \
        X(SIBLINGS, 19, WIRE_SOURCE, sizeof(struct wire_sibling_v1), \
                WIRE_MAX_SIBLINGS * sizeof(struct wire_sibling_v1)) \
        X(HANDED_OFF, 20, WIRE_SOURCE, 0, 0) \
        X(MISSING, 21, WIRE_SINK, sizeof(wire_le64), WIRE_MAX_SIBLINGS * sizeof(wire_le64)) \
        X(RETURN_PATH, 22, WIRE_SINK, sizeof(struct wire_return_v1) + 1, \
                sizeof(struct wire_return_v1) + WIRE_MAX_RETURN) \
        X(POST_COPY, 23, WIRE_SOURCE, 0, 0) \
        X(DISK_DATA, 32, WIRE_SOURCE, sizeof(struct wire_disk_data_v1) + 1, \
                sizeof(struct wire_disk_data_v1) + WIRE_MAX_DISK_DATA) \
        X(DISK_ZERO, 33, WIRE_SOURCE, sizeof(struct wire_disk_zero_v1), sizeof(struct wire_disk_zero_v1)) \
        X(DISK_FLUSH, 34, WIRE_SOURCE, sizeof(struct wire_disk_flush_v1), sizeof(struct wire_disk_flush_v1)) \
        X(DISK_STATE, 35, WIRE_SINK, sizeof(struct wire_disk_state_v1), sizeof(struct wire_disk_state_v1))

enum wire_frame {
#define X(name, number, side, min, max) WIRE_##name = (number),
        WIRE_FRAMES(X)
#undef X
};

#define WIRE_MAX_PAYLOAD (WIRE_MAX_RAW + 64)

struct _packed_ wire_header_v1 {
        wire_le32 payload_len;
        uint8_t type;        /* enum wire_frame */
        uint8_t reserved[3]; /* 0 */
};

/* Features: what both sides offer is used. */
#define WIRE_FEATURE_LZ4 (1u << 0)
#define WIRE_FEATURE_ZSTD (1u << 1)
#define WIRE_FEATURE_PARTIAL_PAGES (1u << 2) /* PAGES entries with some of the blocks */
#define WIRE_FEATURE_VERIFY (1u << 3)
#define WIRE_FEATURE_REFERENCES (1u << 4)
#define WIRE_FEATURE_RESUME (1u << 5)     /* a lost connection may be replaced */
#define WIRE_FEATURE_CHECKPOINT (1u << 6) /* the sink has memory of this guest from before, and sends HELD */
#define WIRE_FEATURE_SIBLINGS \
        (1u << 7) /* the sink has a store of pages that it shares with other guests' sinks */
#define WIRE_FEATURE_POST_COPY \
        (1u << 8) /* the sink hands on what its QEMU says on the return path, and takes POST_COPY */
#define WIRE_FEATURE_DISKS (1u << 9) /* the guest's disks come, too */
/* What every version has; a peer without one of these is refused. */
#define WIRE_FEATURES_BASE \
        (WIRE_FEATURE_LZ4 | WIRE_FEATURE_ZSTD | WIRE_FEATURE_PARTIAL_PAGES | WIRE_FEATURE_VERIFY)
#define WIRE_FEATURES_ALL \
        (WIRE_FEATURES_BASE | WIRE_FEATURE_REFERENCES | WIRE_FEATURE_RESUME | WIRE_FEATURE_CHECKPOINT | \
                WIRE_FEATURE_SIBLINGS | WIRE_FEATURE_POST_COPY | WIRE_FEATURE_DISKS)

/* First frame of each channel. */
struct _packed_ wire_hello_v1 {
        char magic[8];
        wire_le16 version;
        wire_le16 compatible;
        wire_le32 features;
        char migration[36]; /* UUIDs as text */
        char vm[36];
        wire_le16 channel;
        wire_le16 n_channels;
        wire_le32 page_size;
        wire_le64 ram_bytes;
        uint8_t secret[WIRE_SECRET_SIZE]; /* key of the hashes of VERIFY; the same on all channels */
};

struct _packed_ wire_hello_reply_v1 {
        char magic[8];
        wire_le16 version;
        wire_le16 compatible;
        wire_le32 features; /* those of the HELLO that the sink takes */
        wire_le16 channel;
        wire_le16 n_channels;
};

/* How the bytes after a head are packed. */
enum wire_packing { WIRE_PLAIN = 0, WIRE_LZ4 = 1, WIRE_ZSTD = 2, N_WIRE_PACKINGS };

/* Unpacked: n_pages entries (le64), then their blocks in order. An entry is page number << 16 | mask; bit i
 * of the mask: block i follows. */
struct _packed_ wire_pages_v1 {
        wire_le32 n_pages; /* 1 to WIRE_MAX_PAGES */
        wire_le32 raw_len; /* unpacked */
        uint8_t packing;
        uint8_t reserved[3];
};

/* ZERO: pages that became zero. RECALL: pages that are what they are in the sink's checkpoint. */
struct _packed_ wire_run_v1 {
        wire_le64 first_page;
        wire_le32 n_pages; /* at least 1, all in one stripe or in stripes of this channel */
};

/* A page that becomes what another page of the same channel is at the sink. */
struct _packed_ wire_reference_v1 {
        wire_le64 page;
        wire_le64 from;
};

/* A page of a content that another guest's sink at the same host has, or will have soon; the digest is what
 * io/content_digest.h makes with the key that both agents know. MISSING: numbers (le64) of pages for which that was not so. */
struct _packed_ wire_sibling_v1 {
        wire_le64 page;
        uint8_t digest[16];
};

/* What the sink's checkpoint holds: a head, then stripes of the channel. A page's digest is XXH3-64 over the 16 hashes of its
 * blocks (le64; XXH3-64 with the secret of HELLO); 0: the page is not held. */
struct _packed_ wire_held_v1 {
        wire_le64 covered; /* of the channel's stripes, counted from its first, all was said up to this one */
};
struct _packed_ wire_held_stripe_v1 {
        wire_le64 stripe;
        wire_le64 digests[WIRE_STRIPE_PAGES];
};

/* SKELETON and DEVICE: bytes for the destination's QEMU, channel 0 only. */
struct _packed_ wire_bytes_v1 {
        wire_le32 raw_len;
        uint8_t packing;
        uint8_t reserved[3];
};

/* What the sink's QEMU wrote to its return path; bytes follow. Channel 0. */
struct _packed_ wire_return_v1 {
        wire_le64 offset; /* of the first byte, in all that it wrote */
};

/* On every channel; what follows on channel 0 is delivered after all channels have reached it. */
struct _packed_ wire_barrier_v1 {
        wire_le32 round; /* 0, 1, ... */
};

/* Asks for hashes of the channel's stripes in the sink's memory; the reply repeats the head and appends the
 * hashes (le64): one of all stripes for TOTAL, one per stripe for STRIPES. */
enum wire_verify_kind { WIRE_VERIFY_TOTAL = 0, WIRE_VERIFY_STRIPES = 1 };
struct _packed_ wire_verify_v1 {
        wire_le32 kind;
        wire_le32 n_stripes; /* STRIPES: 1 to WIRE_MAX_HASHES; TOTAL: 0 */
        wire_le64 first;     /* index among the channel's stripes; TOTAL: 0 */
};

struct _packed_ wire_ack_v1 {
        wire_le64
                bytes_received; /* of the channel's frames but HELLO, headers and payloads, over all its connections; all is placed */
};

/* Bytes of a disk, all in one stripe; they follow, packed. */
struct _packed_ wire_disk_data_v1 {
        wire_le64 offset;
        wire_le32 raw_len; /* unpacked, 1 to WIRE_MAX_DISK_DATA */
        wire_le16 disk;
        uint8_t packing;
        uint8_t reserved;
};

/* Bytes of a disk that become zero, all in one stripe. */
#define WIRE_DISK_KEEP_ALLOCATED 1 /* flag: the image shall have room for them */
struct _packed_ wire_disk_zero_v1 {
        wire_le64 offset;
        wire_le32 length; /* at least 1 */
        wire_le16 disk;
        uint8_t flags;
        uint8_t reserved;
};

/* On every channel: once all have reached it, what came before is made durable. */
struct _packed_ wire_disk_flush_v1 {
        wire_le64 serial; /* 1, 2, ... for each disk */
        wire_le16 disk;
        uint8_t reserved[6];
};

/* What became of that. */
struct _packed_ wire_disk_state_v1 {
        wire_le64 flushed; /* serial of the newest flush that is done; 0: none */
        wire_le16 disk;
        wire_le16 error; /* errno on Linux, from there on what comes for the disk is dropped; 0: none */
        uint8_t reserved[4];
};

enum wire_outcome { WIRE_RUNNING = 1, WIRE_ABANDONED = 2 };
struct _packed_ wire_result_v1 {
        wire_le64 resumed_realtime_ns;
        uint8_t outcome;
        uint8_t reserved;
        wire_le16 text_len; /* text follows */
};

struct _packed_ wire_abort_v1 {
        wire_le16 error_code; /* enum error_code of the sender, for display; unknown values are INTERNAL */
        wire_le16 text_len;   /* text follows */
};

static_assert(sizeof(struct wire_header_v1) == 8, "wire format");
static_assert(sizeof(struct wire_hello_v1) == 296, "wire format");
static_assert(sizeof(struct wire_hello_reply_v1) == 20, "wire format");
static_assert(sizeof(struct wire_pages_v1) == 12, "wire format");
static_assert(sizeof(struct wire_run_v1) == 12, "wire format");
static_assert(sizeof(struct wire_reference_v1) == 16, "wire format");
static_assert(sizeof(struct wire_sibling_v1) == 24, "wire format");
static_assert(sizeof(struct wire_held_v1) == 8, "wire format");
static_assert(sizeof(struct wire_held_stripe_v1) == 520, "wire format");
static_assert(sizeof(struct wire_bytes_v1) == 8, "wire format");
static_assert(sizeof(struct wire_return_v1) == 8, "wire format");
static_assert(sizeof(struct wire_barrier_v1) == 4, "wire format");
static_assert(sizeof(struct wire_verify_v1) == 16, "wire format");
static_assert(sizeof(struct wire_ack_v1) == 8, "wire format");
static_assert(sizeof(struct wire_disk_data_v1) == 16, "wire format");
static_assert(sizeof(struct wire_disk_zero_v1) == 16, "wire format");
static_assert(sizeof(struct wire_disk_flush_v1) == 16, "wire format");
static_assert(sizeof(struct wire_disk_state_v1) == 16, "wire format");
static_assert(sizeof(struct wire_result_v1) == 12, "wire format");
static_assert(sizeof(struct wire_abort_v1) == 4, "wire format");
static_assert(WIRE_HEADROOM >= sizeof(struct wire_header_v1) + sizeof(struct wire_pages_v1), "wire format");
static_assert(WIRE_MAX_PAYLOAD >= sizeof(struct wire_verify_v1) + WIRE_MAX_HASHES * 8, "wire format");

/* Checks a header against the table: 0 and type and length, or PROTOCOL. `side` is who sent it. */
int wire_header_read(const struct wire_header_v1 *header, enum wire_side side, enum wire_frame *ret_type,
        uint32_t *ret_len, struct error **ret_error);
void wire_header_write(struct wire_header_v1 *ret_header, enum wire_frame type, uint32_t payload_len);
/* "PAGES"; NULL for a number that is not assigned. */
const char *wire_frame_name(unsigned int type);

/* A bit for each of n (1 to 64) channels. */
static inline uint64_t wire_all_channels(unsigned int n)
{
        return UINT64_MAX >> (WIRE_MAX_CHANNELS - n);
}

/* Channel that carries a page, and how pages are counted in stripes. */
static inline unsigned int wire_page_channel(uint64_t page, unsigned int n_channels)
{
        return (unsigned int)(page / WIRE_STRIPE_PAGES % n_channels);
}

static inline uint64_t wire_ram_stripes(uint64_t ram_bytes)
{
        return (ram_bytes + WIRE_STRIPE_BYTES - 1) / WIRE_STRIPE_BYTES;
}

/* Number of the stripes that belong to `channel`: stripes channel, channel + n, channel + 2n, ... */
static inline uint64_t wire_channel_stripes(uint64_t ram_bytes, unsigned int channel, unsigned int n_channels)
{
        uint64_t n = wire_ram_stripes(ram_bytes);

        return n > channel ? (n - channel + n_channels - 1) / n_channels : 0;
}

/* Channel that carries a part of a disk, and in how many stripes it is divided. */
static inline unsigned int wire_disk_channel(unsigned int disk, uint64_t offset, unsigned int n_channels)
{
        return (unsigned int)((offset / WIRE_DISK_STRIPE_BYTES + disk) % n_channels);
}

static inline uint64_t wire_disk_stripes(uint64_t size_bytes)
{
        return (size_bytes + WIRE_DISK_STRIPE_BYTES - 1) / WIRE_DISK_STRIPE_BYTES;
}

/* Reads a text of len bytes after a head into ret (NUL-terminated, control characters replaced). */
bool wire_text_read(struct cursor *cursor, size_t len, char ret[static WIRE_MAX_TEXT + 1]);

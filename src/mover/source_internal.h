/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The source's parts and which thread owns what. Threads: main (control socket, decisions, statistics), one
 * reader (QEMU's stream), one sender per channel (index rows and codec of its pages, TLS). They share the
 * pool, the queues and the mailbox, which lock for themselves, and the atomics below.
 *
 *   QEMU ==stream==> reader --batches--> sender 0 ==TLS==> sink
 *          <=votes==   |    --batches--> sender 1 ==TLS==> sink
 *                      '-- mail --> main --JSON--> agent
 */

#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "mover/batch.h"
#include "mover/channel.h"
#include "mover/checkpoint.h"
#include "mover/codec.h"
#include "mover/control.h"
#include "mover/duplicates.h"
#include "mover/mailbox.h"
#include "mover/page_claims.h"
#include "mover/page_index.h"
#include "mover/ram.h"
#include "mover/sent_log.h"
#include "mover/source_disk.h"
#include "mover/switchover.h"
#include "vmm/return_path.h"

/* In post-copy, what is under way between the reader and the wire. A page that a vCPU waits for has all of it in front of it. */
#define POST_COPY_QUEUE_BYTES (96 * 1024)

typedef atomic_uint_fast64_t counter;

static inline void counter_add(counter *c, uint64_t n)
{
        atomic_fetch_add_explicit(c, n, memory_order_relaxed);
}

static inline uint64_t counter_get(counter *c)
{
        return atomic_load_explicit(c, memory_order_relaxed);
}

/* Written by one sender, read by main. */
struct sender_counters {
        counter bytes_retired; /* guest bytes that were dealt with: sent, partly sent, found unchanged */
        counter zero_retired;  /* guest bytes of zero pages that were dealt with; not in bytes_retired */
        counter pages_sent;
        counter bytes_delta;      /* guest bytes of pages of which only blocks went */
        counter bytes_unchanged;  /* guest bytes of pages that were dirty but equal */
        counter bytes_referenced; /* guest bytes of pages that went as references */
        counter bytes_recalled;   /* guest bytes of pages that the sink had from before */
        counter bytes_shared;     /* guest bytes of pages that the sink has from other guests */
        counter bytes_disk_wire;  /* payloads of frames of disks */
        counter pages_verify;     /* resent by verification */
        counter write_ns;
        counter wire_bytes;   /* in write_ns */
        counter write_cpu_ns; /* of write_ns: the thread computed */
        counter pace_ns;      /* waited for the rate limit */
        counter pack_ns;
        counter plain_bytes;    /* not worth packing */
        counter packable_bytes; /* packed or, at level none, not */
        struct {
                counter raw, packed;
                counter cpu_ns; /* of pack_ns: the thread computed */
        } level[N_CODEC_LEVELS];
};

/* Pages of one kind that wait to be packed: entries, then blocks; contiguous when flushed. */
struct stage {
        unsigned int n_entries;
        size_t n_bytes; /* of blocks */
        uint8_t headroom[WIRE_HEADROOM];
        wire_le64 entries[WIRE_MAX_PAGES];
        uint8_t blocks[WIRE_MAX_PAGE_DATA];
};
static_assert(offsetof(struct stage, blocks) == offsetof(struct stage, entries) + WIRE_MAX_PAGES * 8,
        "entries and blocks touch");

#define MAX_SIBLING_FRAMES \
        4 /* on their way: each may have to wait at the sink, in the end with the guest stopped */
#define MAX_LOST_BYTES (64 * 1024 * 1024) /* of runs of lost pages */

/* Pages that need no content: zero ones, and those that the sink has a checkpoint of. */
struct run_stage {
        enum wire_frame type;
        unsigned int n;
        struct wire_run_v1 runs[WIRE_MAX_RUNS];
};

struct source;

struct sender {
        struct source *source;
        unsigned int number;
        int socket_fd;        /* until the TLS stream takes it */
        int wake_fd;          /* duplicate of the socket: main shuts it down to interrupt the thread */
        unsigned int path;    /* main: which of the sink's addresses the connection goes to */
        bool given_up;        /* main: it stood still, and was shut down */
        atomic_bool stalled;  /* the connection was lost because its whole path stands still, as it seems */
        atomic_bool awaiting; /* the thread: it has no connection and waits for another */
        pthread_t thread;
        bool thread_started;
        struct batch_queue queue;
        struct sender_counters counters;

        /* The thread's own. */
        struct channel channel;
        struct codec *codec;
        struct duplicates *duplicates; /* NULL: the sink takes no references */
        struct stage *packable, *plain;
        struct run_stage zero, recall;
        struct wire_reference_v1 references[WIRE_MAX_REFERENCES];
        unsigned int n_references;
        uint64_t last_page; /* newest in the stages; they are flushed before page numbers go down */
        bool stages_empty;
        unsigned int n_packed;
        uint8_t *out; /* packed batch, behind WIRE_HEADROOM bytes */
        uint64_t channel_hash;
        uint8_t *stripe; /* WIRE_STRIPE_BYTES of the guest's memory, while verifying */

        /* source_checkpoint.c */
        bool awaits_held;      /* the sink still says what it holds */
        uint64_t held_covered; /* of the channel's stripes: of so many it has said all */
        uint64_t held_wait_ns; /* spent waiting for that */

        /* source_siblings.c */
        struct content_digester *digester; /* NULL: nothing is shared */
        struct wire_sibling_v1 siblings[WIRE_MAX_SIBLINGS];
        unsigned int n_siblings;
        uint64_t sibling_last;                     /* newest page that was asked about */
        uint64_t sibling_end;                      /* position behind the last SIBLINGS frame */
        uint64_t sibling_ends[MAX_SIBLING_FRAMES]; /* behind the last ones; a ring */
        unsigned int n_sibling_frames;             /* sent, in all */
        bool unconfirmed; /* bits in source->referred are set, of stripes from the first to the last */
        uint64_t first_referred, last_referred;
        uint64_t n_referred, n_missing; /* pages, in all */
        struct buf missing;             /* struct wire_run_v1 */

        /* source_resume.c */
        const char *cipher;    /* once HELLO was answered; NULL before */
        atomic_bool resumable; /* a lost connection may be replaced: the sink can do it. Main reads it */
        struct sent_log log;
        struct buf lost;       /* struct wire_run_v1: pages that may not have arrived */
        struct list again;     /* struct sent_frame: other frames that have not */
        atomic_int offered_fd; /* main: a new connection; -1: none */
        uint64_t acknowledged; /* when the connection was lost last */
        unsigned int n_futile; /* losses since something was acknowledged */
};

/* Where QEMU is in the guest's memory. */
enum pass_part { FIRST_PASS, FIRST_PASS_TAIL, LATER_PASS };

struct source {
        struct control_start start; /* strings borrowed from start_message */
        struct control_message start_message;
        int control_fd, qemu_fd, ram_fd;
        int reader_fd; /* eventfd: main wakes the reader */
        uint8_t secret[WIRE_SECRET_SIZE];
        struct ram ram;
        struct tls_context *tls;
        struct mailbox mailbox;
        unsigned int told; /* main: enum mail bits that the agent knows of */
        struct batch_pool pool;
        struct batch
                *marks[2]; /* for HANDED_OFF and COMMIT: main must not have to wait for one of the pool's */
        struct page_index *index;
        uint64_t *
                held; /* mapped: digest of each page in the sink's checkpoint, 0: not in it. A stripe has one owner */
        struct page_claims *claims; /* shared with the movers of the tenant's other guests; NULL: none */
        uint64_t *
                referred; /* mapped, a word a stripe: pages that SIBLINGS named, and the sink has not confirmed. A stripe has one owner */
        int checkpoint_fd; /* to keep the guest's memory in afterwards; -1: not wanted */
        uint8_t checkpoint_key[AEAD_KEY_SIZE];
        struct sender senders[WIRE_MAX_CHANNELS];
        struct source_disk disks[WIRE_MAX_DISKS];
        uint64_t disks_due_ms; /* main: then nothing waits for them any more; 0: no limit */
        unsigned int n_channels;
        atomic_size_t frame_bytes; /* main: of pages in a batch, and in a frame, at most */
        pthread_t reader;
        bool reader_started;
        uint32_t features; /* offered; fixed before the threads start */
        bool fixed_codec;  /* not "auto"; fixed before the threads start */

        atomic_bool stopping;
        atomic_bool handed_off;            /* main: the vote may be sent */
        _Atomic(enum pass_part) pass_part; /* reader */
        atomic_bool device_state;          /* reader: seen */
        atomic_bool committed;             /* sender 0: COMMIT goes out, and nothing comes after it */
        atomic_bool advised;   /* sender 0: the destination's QEMU has answered STREAM_PING_ADVISED */
        atomic_bool post_copy; /* reader: began */
        atomic_bool shut;      /* sender 0: the destination's QEMU has all of the memory, and ours was told */
        atomic_uint n_up;      /* senders whose HELLO was answered */
        atomic_uint n_verified;             /* senders whose verification succeeded */
        atomic_uint_fast64_t channels_lost; /* bit a channel: main has still to tell the agent */
        atomic_uint n_reconnects;           /* lost connections that were replaced */
        atomic_uint level;                  /* enum codec_level in use */
        atomic_bool wire_blocks;            /* the connections, not the processors, set the pace */
        atomic_uint_fast64_t pace_next_ns;  /* when the next byte may go, under a rate limit */
        atomic_uint_fast64_t pace_bytes_per_s;

        /* Sender 0, see source_return.c */
        struct return_path return_path;
        uint64_t returned_bytes; /* of it, that came */

        counter bytes_post_copy; /* reader */
        counter pages_requested; /* sender 0: pages that the destination's QEMU asked for */
        counter bytes_ram;       /* reader: page bytes read, zero pages not counted */
        counter bytes_zero;      /* reader: guest bytes of zero pages */
        counter bytes_device;
        counter verify_started_ns, verify_done_ns;
};

/* Reports the failure (owned; may be NULL for lack of memory) unless the source is being stopped anyway. */
void source_fail(struct source *source, struct error *error, bool from_peer);

/* Thread functions. */
void *source_reader_main(void *source);
void *source_sender_main(void *sender);

int sender_init(struct sender *sender, struct source *source, unsigned int number, int socket_fd);
void sender_deinit(struct sender *sender);

/* For source_verify.c, on the sender's thread. */
/* Sends what changed since the last version. */
int sender_add_changed_page(
        struct sender *sender, uint64_t page, const uint8_t *data, struct error **ret_error);
int sender_add_zero(struct sender *sender, uint64_t page, struct error **ret_error);
/* The same, whatever was sent before. */
int sender_add_whole_zero(struct sender *sender, uint64_t page, struct error **ret_error);
int sender_add_whole_page(
        struct sender *sender, uint64_t page, const uint8_t *data, struct error **ret_error);
int sender_flush(struct sender *sender, struct error **ret_error);
/* Handles frames until one of the given type came, which stays in the channel's payload. */
int sender_await(struct sender *sender, enum wire_frame type, struct error **ret_error);

/* Sends a frame; see channel_send(). The second one is for those that are kept whole until the sink has them: whose pages, if there
 * are any, are runs. */
int sender_send(struct sender *sender, enum wire_frame type, const void *head, size_t head_len, void *body,
        size_t body_len, struct error **ret_error);
int sender_send_kept(struct sender *sender, enum wire_frame type, const void *head, size_t head_len,
        void *body, size_t body_len, struct error **ret_error);
/* Waits for room among what is kept; the sink acknowledges at least once a second. */
int sender_await_room(struct sender *sender, struct error **ret_error);
/* TLS and HELLO over sender->socket_fd within limit_ms; after the first time also what the sink has received is learned. */
int sender_connect(struct sender *sender, uint64_t limit_ms, struct error **ret_error);
/* Receives one frame from the sink and handles it. `expected`: a type that the caller waits for (0: none) and handles itself. */
int sender_handle_frame(
        struct sender *sender, enum wire_frame expected, enum wire_frame *ret_type, struct error **ret_error);
/* Packs bytes into the sender's output, if they are said to be packable; returns what to send, with headroom, and how it is packed. */
void *sender_pack_bytes(struct sender *sender, bool packable, const void *data, size_t len, size_t *ret_len,
        uint8_t *ret_packing);
/* KEEPALIVE when it is due. */
int sender_keep_alive(struct sender *sender, struct error **ret_error);
/* Handles what the sink has sent, without waiting. */
int sender_listen(struct sender *sender, struct error **ret_error);

/* source_checkpoint.c */
/* Room for what the sink holds. */
int source_checkpoint_init(struct source *source, struct error **ret_error);
void source_checkpoint_deinit(struct source *source);
/* Takes the HELD frame in the channel's payload. */
int source_take_held(struct sender *sender, struct error **ret_error);
/* Whether the sink has a page of this digest in the page's place; waits until it has said so. */
int source_is_held(
        struct sender *sender, uint64_t page, uint64_t digest, bool *ret_held, struct error **ret_error);
/* Keeps the stopped guest's memory, if that is wanted, and tells the agent. */
void source_keep_checkpoint(struct source *source);

/* source_siblings.c */
int source_siblings_init(struct source *source, int fd, struct error **ret_error);
void source_siblings_deinit(struct source *source);
/* Whether another guest has sent this page's content to the sink, or is about to; else this one does. */
bool source_is_shared(struct sender *sender, uint64_t page, const uint8_t *data,
        uint8_t ret_digest[static CONTENT_DIGEST_SIZE]);
/* True while it is not known what the sink has in the page's place. */
bool source_is_unconfirmed(const struct sender *sender, uint64_t page);
void source_set_unconfirmed(struct sender *sender, uint64_t page, bool unconfirmed);
/* Takes the MISSING frame in the channel's payload. */
int source_take_missing(struct sender *sender, struct error **ret_error);
/* After an acknowledgement, or a flush: notes what is confirmed. */
void source_confirm_siblings(struct sender *sender);
/* Waits until another SIBLINGS frame may go; source_sibling_sent() follows. */
int source_await_siblings(struct sender *sender, struct error **ret_error);
void source_sibling_sent(struct sender *sender);
/* Sends pages that were missing. */
int source_send_missing(struct sender *sender, struct error **ret_error);
/* The same, until nothing is unconfirmed. */
int source_settle_siblings(struct sender *sender, struct error **ret_error);

/* source_return.c */
/* Takes the RETURN_PATH frame in the channel's payload. */
int source_take_return(struct sender *sender, struct error **ret_error);

/* source_connections.c, on the main thread */
/* Descriptors of the start message from `first` on: a connection for each channel, and which path each is on. */
int source_take_connections(struct source *source, struct control_message *message, size_t first, size_t n,
        struct error **ret_error);
/* Largest frame that is good for so many channels when so many guest bytes leave in a second; 0: not known. Small ones pack a little less,
 * but keep memory and what is on its way bounded. */
size_t source_frame_bytes(const struct source *source, uint64_t bytes_per_s);
/* op channel: a connection in the place of a lost one, or of one that is to be given up for it. */
int source_take_connection(struct source *source, struct control_message *message, struct error **ret_error);
/* Tells the agent of channels that lost their connection. */
void source_tell_lost(struct source *source);
/* Gives up connections on which nothing arrives any more while others go on. */
void source_look_for_stalls(struct source *source);

/* source_resume.c */
/* True when the last failure was the connection's, and another one may take its place. */
bool sender_can_resume(const struct sender *sender);
/* Has the agent make another connection and sends again, as it is now, what did not arrive. `batch` (or NULL): under way when
 * the connection was lost; its pages are among it, and it is marked as sent. Takes the failure's error and returns 0, or the
 * reason why it cannot be mended (sender_can_resume() tells whether this can be tried again). */
int sender_resume(struct sender *sender, struct batch *batch, struct error **ret_error);
void sender_deinit_resume(struct sender *sender);
/* Sends the pages in sender->lost again, whole, as they are in the guest now. */
int sender_resend_lost(struct sender *sender, struct error **ret_error);

/* Reads the RESULT frame in the channel's payload; PROTOCOL when it is not valid. */
int source_read_result(
        const struct channel *channel, struct mail_result *ret_result, struct error **ret_error);

/* Compares the channel's part of the stopped guest's memory with what was sent, resends, then has the sink's
 * memory compared; VERIFY_FAILED when they still differ. */
int source_verify_channel(struct sender *sender, struct error **ret_error);

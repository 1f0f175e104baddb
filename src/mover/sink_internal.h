/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The sink's parts. Threads: main (control socket, accepting), one receiver per connection. Guest memory and
 * the bitmap are divided by stripes: only the receiver of a stripe's channel touches it. Only channel 0's
 * receiver writes to QEMU. */

#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "mover/channel.h"
#include "mover/checkpoint.h"
#include "mover/codec.h"
#include "mover/control.h"
#include "mover/mailbox.h"
#include "mover/nbd.h"
#include "mover/page_store.h"
#include "mover/ram.h"
#include "vmm/return_path.h"

/* All channels may be replaced at once, while their old connections still have their places; and a few more, so that strangers who
 * connect cannot take all at once. */
#define SINK_MAX_CONNECTIONS (2 * WIRE_MAX_CHANNELS + 8)

struct sink;

enum receiver_state { RECEIVER_FREE, RECEIVER_RUNNING, RECEIVER_DONE };

struct receiver {
        struct sink *sink;
        int socket_fd;   /* until the TLS stream takes it */
        int wake_fd;     /* duplicate, for main to interrupt */
        uint64_t serial; /* of the connections, in the order in which they were accepted, from 1 */
        pthread_t thread;
        _Atomic enum receiver_state state; /* main: FREE to RUNNING and DONE to FREE; the thread: to DONE */

        /* The thread's own. */
        struct channel channel;
        int number; /* channel number; -1 before HELLO */
        struct codec *codec;
        uint8_t *raw;      /* WIRE_MAX_RAW bytes, unpacked */
        uint8_t *stripe;   /* WIRE_STRIPE_BYTES, for hashing; made when it is needed */
        uint64_t position; /* see struct sink_channel */
        uint64_t acked_bytes, acked_ms;
        uint32_t barriers;
        uint64_t n_offered; /* of the channel's stripes: what the checkpoint has of so many was said */
        bool offers;        /* there is more to say */
        uint8_t *packed, *recalled;        /* WIRE_STRIPE_BYTES each; made when they are needed */
        uint64_t recalled_stripe;          /* which is in `recalled` */
        struct content_digester *digester; /* NULL: nothing is shared */
        unsigned int n_in_vain;            /* frames in turn whose patience was of no use */
        uint64_t waited_ms;                /* for pages of others, in all */
        uint64_t shared_last;              /* newest page that was shared */
        bool later_pass;                   /* what comes now is of no use to others */
        bool ack_now;
        uint64_t returned; /* offset behind what was sent of the return path over this connection */
        bool result_told;  /* over this connection */
};

/* A channel outlives its connections. */
struct sink_channel {
        struct receiver *receiver; /* NULL: its connection is lost */
        uint64_t serial;           /* of its newest connection */
        uint64_t position; /* bytes of the frames but HELLO that were dealt with; of lost connections only */
        uint64_t lost_ms;  /* since when there is no connection */
        uint32_t barriers;
        struct buf
                missing; /* le64, of the channel's thread: pages that SIBLINGS named in vain; they may still be missing */
};

/* A disk of the guest at the destination; see sink_disk.c. Locks in order: the disk's, the sink's. */
struct sink_disk {
        pthread_mutex_t lock; /* guards the client, and is held during a call */
        struct nbd_client client;

        /* Under the sink's lock; `error` is set under both. */
        uint64_t reached[WIRE_MAX_CHANNELS]; /* serial of each channel's newest flush */
        uint64_t flushed;                    /* of the newest that is done */
        int error;                           /* errno, the first; 0: none */
};

#define SINK_MAX_RETURN \
        (4 * 1024 * 1024) /* kept for a connection that is replaced: 300,000 pages that were asked for */

/* What QEMU wrote to its return path. Channel 0's thread owns it. */
struct sink_return {
        struct buf kept;
        uint64_t start; /* offset of the first byte that is kept */
        struct return_path path;
        bool filling; /* QEMU has discarded its memory, and of it so many stripes are filled: */
        uint64_t n_filled;
        bool ended; /* QEMU closed it */
};

struct sink {
        struct control_start start; /* strings borrowed from start_message */
        struct control_message start_message;
        int control_fd, qemu_fd, ram_fd;
        int listen_fds[WIRE_MAX_PATHS];
        size_t n_listen_fds; /* 0 once nobody else may come */
        struct ram ram;
        int checkpoint_fd;             /* -1: none */
        struct checkpoint *checkpoint; /* what we hold of the guest from before; NULL: nothing */
        struct page_store *store;      /* shared with the sinks of the tenant's other guests; NULL: none */
        struct sink_disk disks[WIRE_MAX_DISKS];
        struct tls_context *tls;
        struct mailbox mailbox;
        struct receiver receivers[SINK_MAX_CONNECTIONS];
        uint64_t n_accepted;
        atomic_bool have_result; /* main: the agent said how it ended */
        int stop_fd;             /* eventfd: readable for ever when the receivers have to stop */
        int result_fd;           /* eventfd: `result` is set, for channel 0's receiver */
        struct sink_return back;

        pthread_mutex_t lock; /* guards all in this group */
        pthread_cond_t changed;
        unsigned int n_channels; /* 0: no HELLO yet */
        uint64_t present;        /* bit a channel: its HELLO came */
        bool resumable;          /* the source can replace a lost connection */
        struct sink_channel channels[WIRE_MAX_CHANNELS];
        uint8_t secret[WIRE_SECRET_SIZE]; /* fixed with the first HELLO */
        uint64_t channel_hashes[WIRE_MAX_CHANNELS];
        uint64_t hashed; /* bit a channel */
        struct mail_result result;
        bool aborted; /* the source is to be told why */
        enum error_code abort_code;
        char abort_text[WIRE_MAX_TEXT + 1];

        atomic_bool stopping;
        /* COMMIT was read, and in post-copy all of the memory is there: losing the source is no failure any more. */
        atomic_bool committed;
        atomic_bool commit_read;
        atomic_bool post_copy;             /* POST_COPY was read */
        atomic_bool arrived;               /* then: QEMU has all of the memory */
        atomic_bool peer_gone;             /* after that */
        atomic_uint_fast64_t pages_shared; /* taken from the store */
        atomic_uint_fast64_t bytes_received, bytes_disk, pages_placed, bytes_skeleton, bytes_device;
};

/* Reports a failure (owned) unless the sink is being stopped anyway. */
void sink_fail(struct sink *sink, struct error *error, bool from_peer);

/* Thread function, gets a struct receiver. */
void *sink_receiver_main(void *receiver);

/* Frames that change guest memory; on the receiver's thread. PROTOCOL for anything out of bounds. */
int sink_place_pages(struct receiver *receiver, struct error **ret_error);
int sink_place_zero(struct receiver *receiver, struct error **ret_error);
int sink_place_references(struct receiver *receiver, struct error **ret_error);
/* Says what the checkpoint has of the channel's next stripes. */
int sink_offer(struct receiver *receiver, struct error **ret_error);
int sink_place_recalled(struct receiver *receiver, struct error **ret_error);
int sink_place_siblings(struct receiver *receiver, struct error **ret_error);
/* What came whole may serve other guests. */
void sink_share(struct receiver *receiver, const uint8_t *page);
/* Says again which pages were missing: the frame that said so may have been lost with its connection. */
int sink_repeat_missing(struct receiver *receiver, struct error **ret_error);
bool sink_page_is_ours(const struct receiver *receiver, uint64_t page);
/* Unpacks what is left of a payload; plain data stays where it is. -EPROTO. */
int sink_unpack(struct receiver *receiver, struct cursor *cursor, unsigned int packing, uint32_t raw_len,
        const uint8_t **ret_raw);
/* sink_disk.c: greets QEMU's NBD server, whose connections are the start message's from `first_fd` on. */
int sink_disks_init(struct sink *sink, size_t first_fd, struct error **ret_error);
void sink_disks_deinit(struct sink *sink);
/* DISK_DATA, DISK_ZERO and DISK_FLUSH. */
int sink_write_disk(struct receiver *receiver, struct error **ret_error);
int sink_zero_disk(struct receiver *receiver, struct error **ret_error);
int sink_flush_disk(struct receiver *receiver, struct error **ret_error);
/* Says again how each disk is: the frame that said so may have been lost with its connection. */
int sink_repeat_disks(struct receiver *receiver, struct error **ret_error);
/* SKELETON and DEVICE. */
int sink_feed_qemu(struct receiver *receiver, enum wire_frame type, struct error **ret_error);
/* Sends ACK after so many bytes or so much time; it also is what keeps the source from taking us for dead. */
int sink_acknowledge(struct receiver *receiver, struct error **ret_error);
/* sink_return.c: takes what QEMU has written to its return path; fills its memory if that is due; sends the source a frame of what
 * it has not got over this connection; whether there is more of that. */
int sink_read_return(struct receiver *receiver, struct error **ret_error);
int sink_fill_memory(struct receiver *receiver, struct error **ret_error);
int sink_send_return(struct receiver *receiver, struct error **ret_error);
bool sink_has_return(const struct receiver *receiver);
/* VERIFY: the hashes asked for (le64, up to WIRE_MAX_HASHES). */
int sink_compute_hashes(
        struct receiver *receiver, uint8_t *ret_hashes, uint32_t *ret_n, struct error **ret_error);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who owns a VM: the rules of the handoff as pure functions of what is known. The migration code gathers
 * facts, asks here what to do, does it, and asks again; there is no other place that decides. The same rules
 * are the model handoff.pml, which `make test` checks with spin; docs/handoff.md explains them.
 *
 * Why it is safe, in four sentences. COMMIT is sent only after the source's QEMU reported its migration
 * completed, from where it never resumes by itself. The destination takes over only with COMMIT in hand, or
 * when the source confirms that it wrote `handed-off` and its QEMU completed; and only with its claim in the owner
 * record on the datastore. The source takes back only what provably never got COMMIT, or what the destination has durably
 * abandoned after it killed its own QEMU. When nobody can tell, the record decides: claimed, the source lets go of its copy;
 * not claimed, the source's own claim keeps the destination from ever running it.
 *
 * Where the two sides see different datastores (`apart`), there is an owner record on each, and the disks travel along (docs/decisions/0034):
 * the destination claims its own, and the source writes the destination into its own before COMMIT, so that nobody takes what it leaves behind for
 * the VM. What the destination's record says is then known only through its agent; a host that is down is waited for until the
 * manager says, for this migration, that it was removed from the cluster; or, when its task has ended
 * meanwhile, that this copy is not to wait any longer.
 *
 * In post-copy the guest runs at the destination while its memory is still coming (docs/decisions/0009-post-copy.md). From its beginning on the
 * source's QEMU cannot go back, so nothing is cancelled; COMMIT goes when the destination has loaded the device state; and without
 * the data path the memory never comes: then the guest ends, wherever it was.
 */

#include "base/macros.h"

/* What the journal of one side says last. */
#define HANDOFF_RECORDS(X) \
        X(NONE, "none")             /* no journal: the migration is unknown here */ \
        X(OUTGOING, "outgoing")     /* source: owns the VM and copies it */ \
        X(HANDED_OFF, "handed-off") /* source: the destination may take epoch + 1 */ \
        X(TAKEN_BACK, "taken-back") /* source: owns the VM again, under a new epoch */ \
        X(RELEASED, "released")     /* source: the VM has left; nothing of it remains here */ \
        X(PREPARED, "prepared")     /* destination: QEMU waits, owns nothing */ \
        X(OWNER, "owner")           /* destination: owns the VM */ \
        X(ABANDONED, "abandoned")   /* destination: will never own it; its QEMU is dead */

enum handoff_record {
#define X(name, text) HANDOFF_##name,
        HANDOFF_RECORDS(X)
#undef X
                N_HANDOFF_RECORDS,
};

/* What a side's QEMU is doing. */
#define HANDOFF_QEMUS(X) \
        X(UNKNOWN, "unknown")     /* not asked yet, or QMP does not answer (the final phase blocks it) */ \
        X(RUNNING, "running")     /* the guest runs, or can by itself: no migration holds it */ \
        X(MIGRATING, "migrating") /* source: migration under way; resumes by itself when it fails */ \
        X(COMPLETED, "completed") /* source: postmigrate: stays stopped until told otherwise */ \
        X(HELD, "held") /* source: the agent stopped the guest for post-copy, which has not begun; so it stays */ \
        X(SERVING, \
                "serving") /* source: post-copy was begun, or may have been: it never runs the guest by itself */ \
        X(LOADING, "loading") /* destination: waits for, or reads, its state */ \
        X(LOADED, "loaded")   /* destination: has everything, stopped */ \
        X(GONE, "gone")       /* the process has ended */

enum handoff_qemu {
#define X(name, text) HANDOFF_QEMU_##name,
        HANDOFF_QEMUS(X)
#undef X
                N_HANDOFF_QEMUS,
};

const char *handoff_record_to_string(enum handoff_record record);
int handoff_record_from_string(const char *s, enum handoff_record *ret); /* -EINVAL */
const char *handoff_qemu_to_string(enum handoff_qemu qemu);
int handoff_qemu_from_string(const char *s, enum handoff_qemu *ret); /* -EINVAL */

/* True if a journal whose last record is `from` may get `to` next. */
bool handoff_record_may_follow(enum handoff_record from, enum handoff_record to);

enum handoff_claim { HANDOFF_CLAIM_UNKNOWN, HANDOFF_UNCLAIMED, HANDOFF_CLAIMED };

/* What a side knows of its peer: only from an answer that it asked for, never from silence. */
struct handoff_peer {
        bool answered; /* in this round; records are monotonic, so an old answer stays true for what it
                          promised */
        enum handoff_record record;
        enum handoff_qemu qemu;
        bool arrived; /* destination: it has all of the guest's memory, or the guest has ended by its own doing */
        enum handoff_claim
                claim; /* apart, of a destination without a journal: what the owner record on its datastore says */
};

struct handoff_source_facts {
        enum handoff_record record;
        enum handoff_qemu qemu;
        bool completed;      /* QEMU did, whatever became of it since: it cannot have run the guest again */
        bool mover_alive;    /* the data path still works on it */
        bool stop_wanted;    /* cancelled, timed out, or failed: end it where that is still possible */
        bool loaded;         /* post-copy: the destination's QEMU has the device state */
        bool commit_sent;    /* told to the mover, or possibly told before a restart of the agent */
        bool result_running; /* the destination's word through the data path: it wrote `owner` and runs */
        bool result_abandoned;
        bool peer_fenced; /* the manager's word that the destination's host is down, and all that ran there */
        bool apart;       /* each side has an owner record that the other does not see */
        bool given;       /* apart: the one here names the destination */
        /* apart: the manager's word for this migration, while its task still keeps the VM: the destination's host was removed, and what is there
         * is given up. That the host was removed says nothing by itself: the guest may have gone on from it before. */
        bool peer_removed;
        /* apart: the manager's word once its task has ended, or that of the record here: the destination was removed, and whoever has the VM has it
         * without this copy. */
        bool left;
        struct handoff_peer peer;
};

enum handoff_source_action {
        HANDOFF_SOURCE_WAIT,   /* the next event decides */
        HANDOFF_SOURCE_ABORT,  /* close the data path; QEMU resumes the guest by itself */
        HANDOFF_SOURCE_COMMIT, /* tell the mover to send COMMIT */
        HANDOFF_SOURCE_GIVE, /* apart: write the destination into the owner record here; stop_wanted if that fails */
        HANDOFF_SOURCE_ASK,       /* ask the destination, again and again; the guest stays paused meanwhile */
        HANDOFF_SOURCE_ASK_ABORT, /* like ASK, and ask it to abandon unless it owns the VM */
        HANDOFF_SOURCE_TAKE_BACK, /* write `taken-back`, continue the guest if it is stopped (and end its QEMU if that
                                     refuses, as it does in post-copy), tell the destination */
        /* The destination will never tell: take it back if the owner record shows that it has not claimed the VM, and
         * RELEASE if it has. Taking back changes the record, so that a claim cannot come later. */
        HANDOFF_SOURCE_TAKE_BACK_UNCLAIMED,
        HANDOFF_SOURCE_RELEASE, /* write `released`, end QEMU without touching the disks, tell the destination
                                 */
        HANDOFF_SOURCE_FAILED,  /* settled: the guest runs here, or it ended here by its own doing */
        HANDOFF_SOURCE_DONE,    /* settled: it is the destination's */
};

enum handoff_source_action handoff_source_decide(const struct handoff_source_facts *facts);

/* What the source tells the destination about its QEMU: `completed` also of one that completed and has ended since, and of one that
 * may have begun post-copy and has lost the path: its guest was stopped before `handed-off`, and is continued only with the
 * destination's word or the source's own claim. A destination that has all of the memory may go on. One that just ended is `gone`: it
 * may have resumed the guest before, and what the destination has loaded would be out of date. */
enum handoff_qemu handoff_source_tells(const struct handoff_source_facts *facts);

struct handoff_destination_facts {
        enum handoff_record record;
        enum handoff_qemu qemu;
        bool mover_alive;
        bool commit_read; /* COMMIT came, hence everything before it */
        bool stop_wanted; /* asked by the source, timed out, or QEMU refused to continue the guest */
        bool post_copy;   /* its memory comes, or came, after the device state */
        bool arrived;     /* ... all of it */
        bool silent; /* QEMU's monitor has not answered for long: a thread of it waits for what never comes */
        bool may_have_run; /* `cont` was sent, or may have been before a restart of the agent */
        bool peer_fenced;
        struct handoff_peer peer;
};

enum handoff_destination_action {
        HANDOFF_DESTINATION_WAIT,
        HANDOFF_DESTINATION_ASK,      /* ask the source until it answers */
        HANDOFF_DESTINATION_OWN,      /* claim the owner record, write `owner`, then continue the guest */
        HANDOFF_DESTINATION_CONTINUE, /* `owner` is written: continue the guest */
        HANDOFF_DESTINATION_ABANDON,  /* kill QEMU, then write `abandoned` */
        HANDOFF_DESTINATION_END,      /* kill QEMU: the rest of the guest's memory never comes */
        HANDOFF_DESTINATION_FAILED,   /* settled: abandoned, nothing of it remains here */
        HANDOFF_DESTINATION_DONE, /* the guest runs here (or has ended here since); ask until the source has
                                     released */
};

enum handoff_destination_action handoff_destination_decide(const struct handoff_destination_facts *facts);

/* What the destination tells the source about its record: `owner` only once the guest may have run, for the source keeps
 * its paused copy until then. */
enum handoff_record handoff_destination_tells(const struct handoff_destination_facts *facts);
/* And about its QEMU: a guest whose memory has not all come yet is not `running`. */
enum handoff_qemu handoff_destination_tells_qemu(const struct handoff_destination_facts *facts);

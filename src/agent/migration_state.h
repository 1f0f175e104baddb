/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the migration*.c files share: one `struct migration` per migration and side. It lives in agent->migrations from its
 * first journal record until it is forgotten. Everything runs on the agent's loop. */

#include <jansson.h>

#include "agent/checkpoints.h"
#include "agent/convergence.h"
#include "agent/data_paths.h"
#include "agent/handoff.h"
#include "agent/idle_meter.h"
#include "agent/journal.h"
#include "agent/siblings.h"
#include "base/error.h"
#include "base/mac.h"
#include "base/map.h"
#include "base/text.h"
#include "io/http_client.h"
#include "io/http_server.h"
#include "io/loop.h"
#include "io/pki.h"
#include "vmm/migration_params.h"

struct agent;
struct crash_hold;
struct gap_meter;
struct ip_address;
struct migration_disks;
struct migration_network;
struct network_answer;
struct data_connections;
struct mover_process;
struct owner_record_change;
struct qmp_call;
struct vm;

#define MIGRATION_MAX_PHASES 12
/* Post-copy is refused where the rest of the memory takes longer than the longest pause that may be asked for, or a page so long that a guest hardly
 * moves: with 200 ms it gets five of them a second. */
#define POST_COPY_LIMIT_MS CONVERGE_MAX_PAUSE_MS
#define POST_COPY_MAX_RTT_MS 200
#define MIGRATION_DEFAULT_MAX_PAUSE_MS 300
/* How long a data connection may go unacknowledged. Between STOP and the vote the guest waits this long for a network that was cut. */
#define MIGRATION_PEER_LIMIT_MS 10000

enum migration_role { MIGRATION_SOURCE_SIDE, MIGRATION_DESTINATION_SIDE };

/* What docs/internals/agent-api.md calls "phase". */
#define MIGRATION_PHASES(X) \
        X(PREPARING, "preparing") \
        X(COPYING, "copying") \
        X(SWITCHING, "switching")   /* the guest is paused */ \
        X(HANDED_OFF, "handed-off") /* the record is written */ \
        X(POST_COPY, "post-copy")   /* the guest goes on at the destination, and its memory follows */ \
        X(SETTLING, "settling")     /* the outcome is known, the rest is cleaning up */ \
        X(WAITING_FOR_PEER, "waiting-for-peer") \
        X(DONE, "done") \
        X(FAILED, "failed") \
        X(CANCELLED, "cancelled")

enum migration_phase {
#define X(name, text) MIGRATION_##name,
        MIGRATION_PHASES(X)
#undef X
                N_MIGRATION_PHASES,
};

/* The way of the source up to the running copy; afterwards handoff.c decides alone. */
enum migration_stage {
        STAGE_DISKS,           /* those that travel along: how large they are */
        STAGE_ASK_DESTINATION, /* it prepares: QEMU, ports, disks, mover */
        STAGE_MEASURE_CLOCK,
        STAGE_CONNECT,
        STAGE_MOVER,
        STAGE_SETUP_QEMU,
        STAGE_MIRROR, /* the disks, until what remains fits into the pause */
        STAGE_MIGRATE,
        STAGE_RUNNING,
};

/* Whether the final pause may begin: see migration_switchover.c. */
enum switchover_state {
        SWITCHOVER_FREE,   /* nobody coordinates it */
        SWITCHOVER_CLOSED, /* not yet; the migration is not that far */
        SWITCHOVER_ASKED,  /* the manager is asked, QEMU is held */
        SWITCHOVER_OPEN,
};

struct switchover_gate {
        enum switchover_state state;
        bool exact;      /* QEMU waits for our word; otherwise it is held by its bandwidth from early on */
        bool told;       /* it has our word, which cannot be taken back */
        bool held;       /* its bandwidth is next to nothing */
        bool by_manager; /* OPEN: the manager has permitted it; false: it was silent */
        uint64_t patience_ms;
        uint64_t asked_ms;        /* when; monotonic */
        uint64_t waited_ms;       /* in all times that it was asked */
        unsigned int n_lapsed;    /* permits that were over before the guest stopped */
        uint64_t limit_ms;        /* what the mover wants QEMU's downtime limit to be; 0: it did not say */
        uint64_t remaining_bytes; /* at the last poll */
        uint64_t polled_ms;
        uint64_t bytes_per_s;     /* how fast that got less, or the path's rate */
        uint64_t threshold_bytes; /* below which QEMU stops the guest, by the limit that the mover wants */
        uint64_t pass;
        uint64_t pass_bytes;       /* that it began with */
        struct loop_source *timer; /* ASKED: end of the patience; OPEN: end of the permit */
};

/* How far it came, see migration_post_copy.c. In all but the first QEMU does not continue the guest by itself. */
enum post_copy_stage {
        POST_COPY_NONE,
        POST_COPY_STOPPING, /* `held` is noted; QMP `stop` was sent, or may have been before a restart */
        POST_COPY_STOPPED,
        POST_COPY_BEGUN,  /* so was `migrate-start-postcopy`: QEMU is SERVING */
        POST_COPY_SKIPPED /* QEMU came to its device state without it: the usual way */
};

struct migration_source_state {
        struct gap_meter *gap;             /* migration_arrival.c; NULL: the guest's address is not known */
        json_t *arrival;                   /* as the destination saw it; NULL: it did not say */
        struct migration_network *network; /* migration_network.c; NULL: the network is not to be tried */
        enum migration_stage stage;
        bool stage_busy;        /* an asynchronous operation of the stage is under way */
        unsigned int n_refused; /* attempts that found the destination away or busy */
        unsigned int clock_samples_left;
        struct sock_address data_addresses[DATA_PATHS_MAX]; /* of the destination's mover */
        size_t n_data_addresses;
        uint64_t window_bytes; /* of a connection, the smaller of what both ends allow; 0: not known */
        unsigned int max_channels;
        char peer_fingerprint[PKI_FINGERPRINT_SIZE];
        char sibling_key[SIBLING_KEY_HEX + 1]; /* "": the destination shares nothing */
        struct data_connections *connections;
        json_t *paths; /* what was used, once they are closed */
        bool replaces; /* the destination takes other connections for its channels */
        struct migration_setup *setup;
        int qemu_fd; /* -1; of QEMU's end of the stream, until its room is fitted */
        bool stream_fitted;
        unsigned int n_stats;     /* seen with that */
        struct loop_source *poll; /* query-migrate, five times a second while copying */
        struct idle_meter idle;   /* read at each poll */
        struct qmp_call *poll_call;
        struct qmp_call *stage_call;

        bool device_state;       /* the mover saw the first byte of it */
        bool completed;          /* see handoff.h */
        bool voted;              /* op handed-off is sent */
        bool commit_sent;        /* or may have been sent before a restart */
        uint64_t path_failed_ms; /* after COMMIT was sent; 0: it did not */
        bool result_running;
        bool result_abandoned;
        bool continuing;       /* cont, or the release, is under way */
        bool lost;             /* the owner record names another host: the copy here is out of date */
        bool notified;         /* the destination acknowledged `released` */
        uint64_t least_rtt_us; /* that the mover saw: without what waits in the network; 0: not known */
        enum post_copy_stage post_copy;
        bool loaded;    /* see handoff.h */
        bool said_lost; /* stop_reason tells that the guest is gone */
        struct qmp_call *post_copy_call;
        struct loop_source *post_copy_limit; /* from its beginning until COMMIT */
        uint64_t post_copy_started_ms, completed_ms;
        int64_t stopped_unix_us;                     /* QEMU's own stamp of STOP */
        int64_t resumed_unix_ns;                     /* the destination's stamp of RESUME, on its clock */
        uint64_t resumed_ms;                         /* our monotonic clock when we learned of it */
        char checkpoint_key[CHECKPOINT_KEY_HEX + 1]; /* "": the guest's memory is not kept */
        bool keeping;                                /* its file is begun */
        uint64_t keeping_bytes;                      /* of the guest's memory, then */
        bool keys_told;                              /* the destination got keys of checkpoints */
        bool peer_without_keys;                      /* it does not know of them */
        json_t *kept;                                /* {bytes, ms}, when it is complete */
        struct loop_source *keep_limit;
        uint64_t n_passes;
        struct convergence convergence;
        struct switchover_gate gate;
};

struct migration_destination_state {
        struct network_answer *network; /* the network is being tried for the source */
        struct http_request *prepare;   /* unanswered request of the source */
        int listen_fds[DATA_PATHS_MAX];
        size_t n_listen_fds;
        json_t *data_addresses;                     /* where they listen, ports and all */
        char own_fingerprint[PKI_FINGERPRINT_SIZE]; /* of our mover's certificate */
        char sibling_key[SIBLING_KEY_HEX + 1];      /* "": nothing is shared */
        bool commit_read;
        json_t *checkpoint_keys; /* of the guest, by host; not in the spec, which is journalled; NULL: none, or lost in a restart */
        bool starting;           /* QEMU is being started */
        bool made_vm;            /* the VM here is this migration's own: it alone may be discarded */
        bool announced;          /* on the network */
        bool ready;              /* everything is prepared: the source may be answered */
        bool may_have_run;       /* see handoff.h */
        bool post_copy, arrived; /* likewise */
        bool ending;             /* QEMU is being killed for it */
        bool claim_stands;       /* was looked at since the source confirmed */
        bool recovered;          /* by a new agent: what the old one sent to QEMU is not known */
        bool continuing;
        bool discarding;
        bool released; /* the source says it holds nothing any more */
        int64_t resumed_unix_us;
        struct loop_source *limit; /* for a QEMU that neither loads nor ends once its data path is gone */
};

struct migration {
        struct agent *agent;
        struct migration_disks *disks; /* that travel along, migration_disks.h; NULL: none */
        char id[UUID_STRING_SIZE];
        char vm_uid[UUID_STRING_SIZE];
        enum migration_role role;
        json_t *spec;
        json_t *signed_spec; /* as the manager signed it, for the destination; NULL: it does not, or the destination cannot take it */
        char spec_digest
                [PKI_FINGERPRINT_SIZE]; /* of what both sides were given, compared by the movers too; "": not signed */
        uint64_t epoch;                 /* of the VM while the source owned it */
        char *peer_uid;
        char *peer_address;

        struct journal *journal;
        enum handoff_record record;
        uint64_t record_epoch; /* that the last record was written with */
        enum handoff_qemu qemu;
        struct handoff_peer peer;

        enum migration_phase phase;
        struct {
                enum migration_phase phase;
                uint64_t started_ms;
        } history[MIGRATION_MAX_PHASES];
        size_t n_history;
        uint64_t started_ms; /* monotonic */
        json_t *progress;    /* the mover's last stats, with what QEMU said */
        json_t *result;
        struct error *stop_reason; /* why it is to be ended; the first one counts */
        bool stop_wanted;
        bool cancelled;
        bool settled;
        struct loop_source *report; /* tries again to write the last line of the journal */
        bool forget_wanted;         /* the manager needs no more of it; it goes when it is settled */
        struct loop_source *forget; /* then */
        unsigned int
                n_pending; /* operations of the VM whose call-back is still to come: not to be freed before */

        struct mover_process *mover;
        struct mover_process
                *leaving; /* a mover that was told to end, and is not part of the path any more */
        bool path_alive;  /* the data path works, or will */
        char *cert_pem;
        char *key_pem;

        struct loop_source *deadline;
        struct loop_source *tick; /* looks again: QEMU's state, the peer */
        struct loop_source *step; /* deferred step, so that call-backs do not nest */
        /* Destination: epoch + 1 in the owner record, before `owner`; source: epoch + 2, before `taken-back`. */
        struct owner_record_change *claim;
        bool claimed;
        /* The VM's part in this is over, for good: it may be started, stopped, moved on, and whatever bears its uid is looked at
         * no more. Only the peer has still to hear of the end. */
        bool detached;

        bool refreshing;
        struct qmp_call *refresh_call;
        enum migration_status refresh_status;

        uint64_t retry_delay_ms; /* growing, while QEMU refuses to continue the guest */
        uint64_t retry_not_before_ms;

        struct http_call *call; /* exchange with the peer under way */
        uint64_t call_started_ns;
        uint64_t ask_delay_ms;
        uint64_t ask_not_before_ms;
        int64_t clock_offset_ns; /* peer's clock minus ours, from the exchange with the shortest round trip */
        uint64_t clock_rtt_ns;   /* 0: not measured */

        struct crash_hold *hold;
        char passed_points[256]; /* ":name:" of the points that were passed */

        union {
                struct migration_source_state source;
                struct migration_destination_state destination;
        };
};

const char *migration_phase_to_string(enum migration_phase phase);

/* --- migration.c --- */

/* Checks the spec and makes the object, without journal. The spec is copied. */
int migration_new(struct agent *agent, enum migration_role role, const json_t *spec,
        struct migration **ret_migration, struct error **ret_error);
void migration_free(struct migration *m);
DEFINE_CLEANUP(struct migration *, migration_free)
/* NULL if unknown here. */
struct migration *migration_find(struct agent *agent, const char *id);
/* A new migration of the VM from the same source proves that the source has given up the one that this destination still
 * keeps, unless it owns the VM: ends it at once. */
void migration_end_earlier(struct agent *agent, const struct migration *newer);
void migration_for_each(struct agent *agent, void (*fn)(void *userdata, struct migration *m), void *userdata);
/* Removes a settled one with its journal and frees it. */
void migration_forget(struct migration *m);
/* The same once it is settled and nothing of it is under way: from the loop, at once or later. */
void migration_forget_when_settled(struct migration *m);
/* First journal record, and into the registry (which owns it from then on). */
int migration_register(struct migration *m, struct error **ret_error);
/* Writes the next journal record (allowed ones only) with this epoch. On failure nothing was decided. */
int migration_set_record(
        struct migration *m, enum handoff_record record, uint64_t epoch, struct error **ret_error);
/* Writes the present record again with `flag` set in it. */
int migration_note(struct migration *m, const char *flag, struct error **ret_error);
void migration_set_phase(struct migration *m, enum migration_phase phase);
/* The migration is to end; the first reason is kept (taken over; NULL: unknown). */
void migration_stop(struct migration *m, struct error *reason);
/* The last state: `phase` DONE, FAILED or CANCELLED; result and journal are completed and the world is told. */
void migration_settle(struct migration *m, enum migration_phase phase);
/* Runs the side's step from the loop's next round. */
void migration_kick(struct migration *m);
/* Crash point; true when a test holds the migration here: return, the step comes again. */
bool migration_hold(struct migration *m, const char *point);
/* True while a step that QEMU refused has to wait before it is tried again; migration_refused() notes a refusal. */
bool migration_must_wait(const struct migration *m);
void migration_refused(struct migration *m);
struct vm *migration_vm(const struct migration *m); /* NULL when the VM is gone, or this is detached */
/* See `detached`. */
void migration_detach(struct migration *m);
/* The manager says that the peer's host is down, or no part of the cluster any more: it will never answer, and nothing runs there. */
bool migration_peer_fenced(const struct migration *m);
/* Ends the mover if there is one; the data path is gone. */
void migration_close_path(struct migration *m);
/* The same, but the mover tells its peer why first, if it can. */
void migration_abort_path(struct migration *m);
/* Takes the mover's `stats` into m->progress. */
void migration_take_stats(struct migration *m, const json_t *message);
/* The error of the mover's `failed`; the caller's. */
struct error *migration_mover_error(const json_t *message);
const char *migration_spec_string(const struct migration *m, const char *key); /* NULL if absent */
/* Of its priority: 0 for normal, which is what absent means. */
int migration_level(const struct migration *m);
uint64_t migration_spec_u64(const struct migration *m, const char *key, uint64_t fallback);

/* The migration that holds the VM (there is at most one), or NULL. */
struct migration *migration_find_by_vm(struct agent *agent, const char *vm_uid);

/* --- migration_qemu.c --- */

/* Asks QEMU where it stands; the answer sets m->qemu and kicks. */
void migration_refresh_qemu(struct migration *m);

/* --- migration_api.c --- */
/* The error for an id that migration_find() does not find: NOT_FOUND, or OWNER_UNKNOWN for one whose journal cannot be read. */
int migration_unknown(struct agent *agent, const char *id, struct error **ret_error);
void migration_publish(struct migration *m);
json_t *migration_document(const struct migration *m); /* the caller's; NULL without memory */

/* --- migration_peer.c --- */

/* Asks the peer once what its journal says (POST abort instead when `abort`), unless an exchange is under way or it is too
 * early after the last failure; the answer sets m->peer and kicks. */
void migration_peer_ask(struct migration *m, bool abort);
/* Tells the destination that the source holds nothing any more. `done` state: source.notified. */
void migration_peer_notify_released(struct migration *m);
/* {id, vm, role, record, epoch, qemu, phase, settled, realtime_ns, ...} */
json_t *migration_peer_document(const struct migration *m);

/* --- migration_converge.c --- */

/* Reads the policy of the spec, and begins: nothing was needed yet. BAD_DOCUMENT. */
int migration_converge_init(struct migration *m, struct error **ret_error);
/* Takes a new answer of query-migrate, and does what it leads to. */
void migration_converge_poll(struct migration *m, const struct migration_info *info);
/* {converged_by, convergence, max_pause_ms, throttle_percent} into the result. */
void migration_converge_result(const struct migration *m, json_t *result);

/* --- migration_switchover.c --- */

/* Reads the field `switchover` of the spec. BAD_DOCUMENT. */
int migration_switchover_init(struct migration *m, struct error **ret_error);
void migration_switchover_deinit(struct migration *m);
/* Somebody coordinates the final pause: QEMU is to be set up to be held. */
bool migration_switchover_wanted(const struct migration *m);
/* QEMU is set up, and is told to migrate next. */
void migration_switchover_begin(struct migration *m);
/* Takes a new answer of query-migrate. True while QEMU is held: what it says then tells nothing of how the migration gets on. */
bool migration_switchover_poll(struct migration *m, const struct migration_info *info);
/* A pass has ended: the next look at QEMU comes at once if that may lead to asking. */
void migration_switchover_pass(struct migration *m);
/* The mover names a downtime limit: to be set in QEMU now, or when the pause is permitted. */
void migration_switchover_limit(struct migration *m, uint64_t limit_ms);
/* The guest has stopped. */
void migration_switchover_stopped(struct migration *m);
/* The manager's word: {"permit": true, "ms": N}, or {"permit": false}: wait on. CONFLICT when nobody waits for it. */
int migration_switchover_answer(struct migration *m, const json_t *body, struct error **ret_error);
/* {"state", "permit", "waited_ms", "lapsed"}, the caller's; NULL: nobody coordinates it. */
json_t *migration_switchover_document(const struct migration *m);

/* --- migration_network.c --- */

/* Source. Reads `network_proof` of the spec. BAD_DOCUMENT. */
int migration_network_init(struct migration *m, struct error **ret_error);
void migration_network_free(struct migration_network *network);
/* The destination has prepared. What is found stops the migration, or is recorded. Nothing is begun for one that is to end. */
void migration_network_begin(struct migration *m);
/* The pause is near: what was found more than a minute ago is tried again (migration_network_pending() then). */
void migration_network_refresh(struct migration *m);
/* An IPv4 address that the guest itself was seen to answer for when the destination asked: NIC, its MAC address. False: none. */
bool migration_network_answered(const struct migration *m, size_t *ret_nic, uint8_t ret_mac[static MAC_SIZE],
        struct ip_address *ret_address);
/* It is not known yet whether the guest may go there: it is not paused before. */
bool migration_network_pending(const struct migration *m);
/* {"ms", "checks"}, the caller's; NULL: nothing was tried, or not to the end. */
json_t *migration_network_document(const struct migration *m);
/* Either side: its part in the proof ends, if there is one under way, with all that belongs to it. What was found before stays; a source that waits is told by the
 * destination that the migration ends. */
void migration_network_end(struct migration *m);
/* Destination. Tries the network for the source; answers later. */
void migration_network_answer(struct migration *m, struct http_request *request);
void migration_network_answer_free(struct network_answer *answer);

/* --- migration_result.c, at the source --- */
void migration_build_result(struct migration *m); /* into m->result */

/* --- migration_arrival.c, at the source --- */

/* The guest has stopped. */
void migration_arrival_stopped(struct migration *m);
/* What the destination told of it. */
void migration_arrival_take(struct migration *m, const json_t *body);
/* More will be known in a moment. */
bool migration_arrival_pending(const struct migration *m);
/* {"gap_ms", "gap_between", "gap_clock", "nics"}, the caller's; NULL: nothing is known. */
json_t *migration_arrival_document(const struct migration *m);

/* --- migration_post_copy.c, at the source but for the first --- */

bool migration_post_copy_allowed(const struct migration *m);
/* Judges the network and stops the guest, or stops the migration. */
void migration_post_copy_begin(struct migration *m, const struct convergence_status *status);
/* What comes next, once the guest is stopped. */
void migration_post_copy_step(struct migration *m);
/* QEMU came to its device state without post-copy. */
void migration_post_copy_device_state(struct migration *m);
static inline bool migration_is_serving(const struct migration *m)
{
        return m->role == MIGRATION_SOURCE_SIDE && m->source.post_copy == POST_COPY_BEGUN;
}

/* After a restart: the stage that the journal's `held` and the record leave possible. */
void migration_post_copy_restore(struct migration *m);
/* What QEMU is, of which its monitor says `otherwise`. */
enum handoff_qemu migration_post_copy_state(const struct migration *m, enum handoff_qemu otherwise);
/* The reason of the migration's end becomes that the guest is gone. */
void migration_post_copy_say_lost(struct migration *m);
/* False while it is not known whether all of the memory has come to the destination (it is asked then); the guest was lost if not. */
bool migration_post_copy_outcome_known(struct migration *m);
/* {post_copy: {ms, pages_requested, bytes}} into the result, if it came to that. */
void migration_post_copy_result(const struct migration *m, json_t *result);

/* --- migration_source.c, migration_destination.c --- */
void migration_source_step(struct migration *m);
void migration_source_event(struct migration *m, const char *event, const json_t *data, int64_t unix_us);
void migration_source_deinit(struct migration *m);
/* The guest was stopped, at that time (0: now): limits of the pause begin, once. */
void migration_source_stopped(struct migration *m, int64_t unix_us);
/* Whether the memory of both sides is compared: as the spec says, else where QEMU is known to lose some of it. */
bool migration_verifies(const struct migration *m, const struct vm *vm);
/* Writes `handed-off` if that is not done. False when it failed, which ends the migration, or is held by a test: it comes again. */
bool migration_record_handed_off(struct migration *m);
/* Gives up what waits for an answer of QEMU's monitor. */
void migration_source_leave_monitor(struct migration *m);
/* The stage has done its part. */
void migration_source_next_stage(struct migration *m);
/* The prepared answer of the destination. */
void migration_source_begin(struct migration *m);
/* What was used of the data connections goes into the record. */
void migration_source_close_connections(struct migration *m);
/* The file with the guest's memory, if one was begun, is complete or of no use. */
void migration_source_end_keeping(struct migration *m, bool complete);

/* --- migration_source_end.c: what handoff.c decided; each comes again until it is done --- */

/* known_epoch: the latest that the owner record may have, for the VM to be ours to take. */
void migration_source_take_back(struct migration *m, uint64_t known_epoch);
void migration_source_release(struct migration *m);
/* The owner record names another host, or the manager says that one has the VM: QEMU ends here. */
void migration_source_end_lost_copy(struct migration *m);
/* The guest runs here, or ended here: settled, once nothing of the disks' mirrors is left. */
void migration_source_fail(struct migration *m);
/* It is the destination's: settled, once that knows. */
void migration_source_finish(struct migration *m);

void migration_destination_begin(struct migration *m, struct http_request *request);
/* QEMU is started for the VM of this document, and waits; then the mover, with connections to the exports of its disks. */
void migration_destination_start(struct migration *m, const json_t *document);
void migration_destination_ready(struct migration *m, const int *disk_fds, size_t n_disk_fds);
/* It cannot be prepared, for this reason (taken over). */
void migration_destination_failed(struct migration *m, struct error *error);
void migration_destination_step(struct migration *m);
void migration_destination_event(struct migration *m, const char *event, const json_t *data, int64_t unix_us);
void migration_destination_deinit(struct migration *m);
/* QEMU has all of the guest's memory, or the guest has shut itself down. */
void migration_destination_arrived(struct migration *m);
/* What the peer is told: see handoff.h. */
enum handoff_qemu migration_source_tells(const struct migration *m);
enum handoff_record migration_destination_tells(const struct migration *m);
enum handoff_qemu migration_destination_tells_qemu(const struct migration *m);

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/handoff.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static const char *const record_names[] = {
#define X(name, text) [HANDOFF_##name] = text,
        HANDOFF_RECORDS(X)
#undef X
};
static_assert(ARRAY_SIZE(record_names) == N_HANDOFF_RECORDS, "every record has a name");

static const char *const qemu_names[] = {
#define X(name, text) [HANDOFF_QEMU_##name] = text,
        HANDOFF_QEMUS(X)
#undef X
};
static_assert(ARRAY_SIZE(qemu_names) == N_HANDOFF_QEMUS, "every state has a name");

#define BIT(record) (1u << HANDOFF_##record)

/* For each record, which ones may follow it in one journal. */
static const unsigned int followers[N_HANDOFF_RECORDS] = {
        [HANDOFF_NONE] = BIT(OUTGOING) | BIT(PREPARED),
        [HANDOFF_OUTGOING] = BIT(HANDED_OFF) | BIT(TAKEN_BACK),
        [HANDOFF_HANDED_OFF] = BIT(TAKEN_BACK) | BIT(RELEASED),
        [HANDOFF_PREPARED] = BIT(OWNER) | BIT(ABANDONED),
        [HANDOFF_OWNER] = BIT(ABANDONED), /* only while the guest certainly never ran there */
};

static int find_name(const char *const *names, size_t n, const char *s)
{
        for (size_t i = 0; s && i < n; i++)
                if (!strcmp(names[i], s))
                        return (int)i;
        return -EINVAL;
}

const char *handoff_record_to_string(enum handoff_record record)
{
        return record_names[record];
}

int handoff_record_from_string(const char *s, enum handoff_record *ret)
{
        int r = find_name(record_names, N_HANDOFF_RECORDS, s);

        if (r < 0)
                return r;
        *ret = (enum handoff_record)r;
        return 0;
}

const char *handoff_qemu_to_string(enum handoff_qemu qemu)
{
        return qemu_names[qemu];
}

int handoff_qemu_from_string(const char *s, enum handoff_qemu *ret)
{
        int r = find_name(qemu_names, N_HANDOFF_QEMUS, s);

        if (r < 0)
                return r;
        *ret = (enum handoff_qemu)r;
        return 0;
}

bool handoff_record_may_follow(enum handoff_record from, enum handoff_record to)
{
        return followers[from] & (1u << to);
}

/* Nothing but the agent continues the guest, and post-copy has not begun. */
static enum handoff_source_action decide_held(const struct handoff_source_facts *f)
{
        if (!f->mover_alive)
                return HANDOFF_SOURCE_TAKE_BACK;
        return f->stop_wanted ? HANDOFF_SOURCE_ABORT : HANDOFF_SOURCE_WAIT;
}

/* The VM is still the source's by right: nothing was handed off. */
static enum handoff_source_action decide_outgoing(const struct handoff_source_facts *f)
{
        switch (f->qemu) {
        case HANDOFF_QEMU_GONE:
                return HANDOFF_SOURCE_FAILED;
        case HANDOFF_QEMU_COMPLETED: /* cannot be reached by our protocol (no vote before the record): it is
                                        ours */
                return HANDOFF_SOURCE_TAKE_BACK;
        case HANDOFF_QEMU_HELD:
                return decide_held(f);
        case HANDOFF_QEMU_RUNNING:
                return f->stop_wanted && !f->mover_alive   ? HANDOFF_SOURCE_FAILED
                       : f->stop_wanted || !f->mover_alive ? HANDOFF_SOURCE_ABORT
                                                           : HANDOFF_SOURCE_WAIT;
        default:
                return f->stop_wanted || !f->mover_alive ? HANDOFF_SOURCE_ABORT : HANDOFF_SOURCE_WAIT;
        }
}

/* What is left behind here still looks like the VM. */
static bool is_ungiven(const struct handoff_source_facts *f)
{
        return f->apart && !f->given;
}

/* ... and its QEMU has ended: that it had completed is of no use to the destination any more. */
static bool cannot_be_given(const struct handoff_source_facts *f)
{
        return is_ungiven(f) && f->stop_wanted && f->qemu == HANDOFF_QEMU_GONE;
}

/* The record that decides is the destination's own. Nobody reads it but its agent, and a host that is down may have run the guest. */
static enum handoff_source_action decide_apart(const struct handoff_source_facts *f)
{
        if (f->left)
                return HANDOFF_SOURCE_RELEASE;
        /* Also with its QEMU gone: the disks are here, and nobody has newer ones. */
        if (f->peer_removed && !f->mover_alive)
                return HANDOFF_SOURCE_TAKE_BACK;
        if (f->peer.answered && f->peer.record == HANDOFF_NONE && f->peer.claim == HANDOFF_UNCLAIMED)
                return HANDOFF_SOURCE_TAKE_BACK;
        if (f->peer.answered && f->peer.record == HANDOFF_NONE && f->peer.claim == HANDOFF_CLAIMED)
                return HANDOFF_SOURCE_RELEASE;
        if (!f->given && !f->stop_wanted && f->completed)
                return HANDOFF_SOURCE_GIVE; /* without it nothing is confirmed */
        /* Also what ended here, where it cannot be given: nothing will confirm it to a destination without COMMIT. */
        if (f->stop_wanted && (f->qemu == HANDOFF_QEMU_COMPLETED || cannot_be_given(f)))
                return HANDOFF_SOURCE_ASK_ABORT;
        return HANDOFF_SOURCE_ASK;
}

/* COMMIT may be on its way or not; only the destination knows what it made of it. */
static enum handoff_source_action decide_unsure(const struct handoff_source_facts *f)
{
        if (f->result_running || (f->peer.answered && f->peer.record == HANDOFF_OWNER))
                return HANDOFF_SOURCE_RELEASE;
        if (f->result_abandoned || (f->peer.answered && f->peer.record == HANDOFF_ABANDONED))
                return HANDOFF_SOURCE_TAKE_BACK;
        if (f->apart)
                return decide_apart(f);
        /* Nobody will ever say what became of it: a host that is down, or one that has forgotten the migration. While the
         * data path works, the host is not down, whatever the manager was told. */
        if ((f->peer_fenced && !f->mover_alive) || (f->peer.answered && f->peer.record == HANDOFF_NONE))
                return f->qemu == HANDOFF_QEMU_GONE ? HANDOFF_SOURCE_RELEASE
                                                    : HANDOFF_SOURCE_TAKE_BACK_UNCLAIMED;
        /* Usually the data path brings the answer before we get to ask. Without it the destination completes by itself
         * if it has everything (it asks us); when it is to stop, it must say first that it did. What ended here can only
         * go on there. */
        return f->stop_wanted && f->qemu == HANDOFF_QEMU_COMPLETED ? HANDOFF_SOURCE_ASK_ABORT
                                                                   : HANDOFF_SOURCE_ASK;
}

/* QEMU only serves pages from here on. Nobody is asked before the path ends: the destination lives on it. Afterwards it is always asked,
 * even if COMMIT was not sent: a QEMU that needed post-copy no more may complete by itself, and the destination go by that. */
static enum handoff_source_action decide_serving(const struct handoff_source_facts *f)
{
        if (!f->mover_alive)
                return decide_unsure(f);
        if (f->result_abandoned)
                return HANDOFF_SOURCE_TAKE_BACK;
        return f->loaded && !f->commit_sent ? HANDOFF_SOURCE_COMMIT : HANDOFF_SOURCE_WAIT;
}

/* QEMU completed, and COMMIT was not sent. */
static enum handoff_source_action decide_commit(const struct handoff_source_facts *f)
{
        if (!is_ungiven(f))
                return HANDOFF_SOURCE_COMMIT;
        return f->stop_wanted ? HANDOFF_SOURCE_ABORT : HANDOFF_SOURCE_GIVE;
}

static enum handoff_source_action decide_handed_off(const struct handoff_source_facts *f)
{
        bool may_still;

        switch (f->qemu) {
        case HANDOFF_QEMU_RUNNING: /* it resumed by itself, so it never completed, so COMMIT was never sent */
                return HANDOFF_SOURCE_TAKE_BACK;
        case HANDOFF_QEMU_COMPLETED:
                return f->mover_alive && !f->commit_sent ? decide_commit(f) : decide_unsure(f);
        case HANDOFF_QEMU_SERVING:
                return decide_serving(f);
        case HANDOFF_QEMU_HELD:
                return decide_held(f);
        case HANDOFF_QEMU_GONE:
                if (f->mover_alive && !f->commit_sent)
                        return f->completed ? decide_commit(f) : HANDOFF_SOURCE_ABORT;
                return decide_unsure(f);
        default:
                /* It will either complete or resume by itself. COMMIT may have been sent where QEMU says nothing (as after a restart), and
                 * the destination complete by itself: a monitor that is silent for a moment is no reason to have it abandon. QEMU is
                 * asked again; the caller's time limit turns one that stays silent into stop_wanted. */
                may_still = f->mover_alive || (f->qemu == HANDOFF_QEMU_UNKNOWN && f->commit_sent);
                return may_still && !f->stop_wanted ? HANDOFF_SOURCE_WAIT : HANDOFF_SOURCE_ABORT;
        }
}

static enum handoff_source_action decide_taken_back(const struct handoff_source_facts *f)
{
        switch (f->qemu) {
        case HANDOFF_QEMU_COMPLETED:
        case HANDOFF_QEMU_HELD:
        case HANDOFF_QEMU_SERVING:
                return HANDOFF_SOURCE_TAKE_BACK;
        case HANDOFF_QEMU_RUNNING:
        case HANDOFF_QEMU_GONE:
                return HANDOFF_SOURCE_FAILED;
        default:
                return HANDOFF_SOURCE_WAIT;
        }
}

enum handoff_source_action handoff_source_decide(const struct handoff_source_facts *facts)
{
        switch (facts->record) {
        case HANDOFF_OUTGOING:
                return decide_outgoing(facts);
        case HANDOFF_HANDED_OFF:
                return decide_handed_off(facts);
        case HANDOFF_TAKEN_BACK: /* a crash may have come between the record and `cont` */
                return decide_taken_back(facts);
        case HANDOFF_RELEASED:
                return facts->qemu == HANDOFF_QEMU_GONE ? HANDOFF_SOURCE_DONE : HANDOFF_SOURCE_RELEASE;
        default:
                return HANDOFF_SOURCE_FAILED;
        }
}

enum handoff_qemu handoff_source_tells(const struct handoff_source_facts *facts)
{
        bool ended = facts->completed && facts->qemu == HANDOFF_QEMU_GONE && !cannot_be_given(facts);
        bool served = facts->qemu == HANDOFF_QEMU_SERVING && !facts->mover_alive;

        enum handoff_qemu tells = ended || served ? HANDOFF_QEMU_COMPLETED : facts->qemu;

        /* The destination may go by that without COMMIT. */
        return tells == HANDOFF_QEMU_COMPLETED && is_ungiven(facts) ? HANDOFF_QEMU_UNKNOWN : tells;
}

/* The source's QEMU cannot run again by itself, and the source's journal says that we may take the VM. */
static bool source_confirms(const struct handoff_peer *peer)
{
        return peer->answered && peer->record == HANDOFF_HANDED_OFF && peer->qemu == HANDOFF_QEMU_COMPLETED;
}

/* It keeps the VM, or has forgotten the migration; or it has released the VM without our word, because somebody said that we
 * are down, and the VM may have been started elsewhere; or its guest ended, nobody knows whether it ran before. */
static bool source_never_confirms(const struct handoff_peer *peer)
{
        return peer->answered && (peer->record != HANDOFF_HANDED_OFF || peer->qemu == HANDOFF_QEMU_GONE);
}

/* Post-copy: some of it is still at the source. */
static bool memory_is_coming(const struct handoff_destination_facts *f)
{
        return f->post_copy && !f->arrived;
}

static enum handoff_destination_action decide_prepared(const struct handoff_destination_facts *f)
{
        if (f->qemu == HANDOFF_QEMU_GONE || f->stop_wanted || (f->qemu == HANDOFF_QEMU_UNKNOWN && f->silent))
                return HANDOFF_DESTINATION_ABANDON;
        if (f->qemu == HANDOFF_QEMU_LOADED && memory_is_coming(f)) {
                /* Without the path it never comes, and the source's word alone does not bring it either. */
                if (!f->mover_alive)
                        return HANDOFF_DESTINATION_ABANDON;
                return f->commit_read ? HANDOFF_DESTINATION_OWN : HANDOFF_DESTINATION_WAIT;
        }
        if (f->qemu == HANDOFF_QEMU_LOADED) {
                if (f->commit_read || source_confirms(&f->peer))
                        return HANDOFF_DESTINATION_OWN;
                if (f->mover_alive)
                        return HANDOFF_DESTINATION_WAIT;
                /* A source that is down may have continued its guest before: what is loaded here is too old then. */
                return source_never_confirms(&f->peer) || f->peer_fenced ? HANDOFF_DESTINATION_ABANDON
                                                                         : HANDOFF_DESTINATION_ASK;
        }
        /* With the data path gone, QEMU finds its stream cut and ends, unless it has read everything already:
         * then it will be `loaded` in a moment. The caller's time limit turns a QEMU that does neither into
         * stop_wanted. */
        return HANDOFF_DESTINATION_WAIT;
}

/* The source still holds its paused copy while `handoff_destination_tells` has not said `owner`. */
static bool can_give_back(const struct handoff_destination_facts *f)
{
        return !f->may_have_run && (f->qemu == HANDOFF_QEMU_GONE || f->qemu == HANDOFF_QEMU_LOADED);
}

static enum handoff_destination_action decide_owner(const struct handoff_destination_facts *f)
{
        bool cut_off = memory_is_coming(f) && !f->mover_alive;

        if (cut_off && f->qemu == HANDOFF_QEMU_LOADED && !f->may_have_run)
                return HANDOFF_DESTINATION_ABANDON;
        if (cut_off && (f->qemu == HANDOFF_QEMU_LOADED || f->qemu == HANDOFF_QEMU_RUNNING ||
                               (f->qemu == HANDOFF_QEMU_UNKNOWN && f->silent)))
                return HANDOFF_DESTINATION_END;
        if (f->qemu == HANDOFF_QEMU_RUNNING && memory_is_coming(f))
                return HANDOFF_DESTINATION_WAIT;
        if (can_give_back(f) && (f->qemu == HANDOFF_QEMU_GONE || f->stop_wanted))
                return HANDOFF_DESTINATION_ABANDON;
        switch (f->qemu) {
        case HANDOFF_QEMU_LOADED:
                return HANDOFF_DESTINATION_CONTINUE;
        case HANDOFF_QEMU_RUNNING:
        case HANDOFF_QEMU_GONE:
                return HANDOFF_DESTINATION_DONE;
        default: /* a monitor that is silent says nothing: not that the guest runs, nor that it ended */
                return HANDOFF_DESTINATION_WAIT;
        }
}

enum handoff_record handoff_destination_tells(const struct handoff_destination_facts *facts)
{
        if (facts->record == HANDOFF_OWNER && (can_give_back(facts) || facts->qemu == HANDOFF_QEMU_LOADED ||
                                                      facts->qemu == HANDOFF_QEMU_UNKNOWN))
                return HANDOFF_PREPARED;
        return facts->record;
}

enum handoff_qemu handoff_destination_tells_qemu(const struct handoff_destination_facts *facts)
{
        return facts->qemu == HANDOFF_QEMU_RUNNING && memory_is_coming(facts) ? HANDOFF_QEMU_LOADING
                                                                              : facts->qemu;
}

enum handoff_destination_action handoff_destination_decide(const struct handoff_destination_facts *facts)
{
        switch (facts->record) {
        case HANDOFF_PREPARED:
                return decide_prepared(facts);
        case HANDOFF_OWNER:
                return decide_owner(facts);
        default: /* a crash may have come between the record and the end of what was left */
                return facts->qemu == HANDOFF_QEMU_GONE ? HANDOFF_DESTINATION_FAILED
                                                        : HANDOFF_DESTINATION_ABANDON;
        }
}

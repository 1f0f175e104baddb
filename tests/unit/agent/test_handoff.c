/* SPDX-License-Identifier: Apache-2.0 */

/* The rules of the handoff: the single ones that matter most by name, and a random walk of two sides with faults at every
 * step, in which the real decision functions drive what the model handoff.pml drives in spin. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "agent/handoff.h"

static void commit_waits_until_qemu_completed(void **state _unused_)
{
        struct handoff_source_facts f = {
                .record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_MIGRATING, .mover_alive = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_WAIT);
        f.qemu = HANDOFF_QEMU_COMPLETED;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_COMMIT);
}

static void silence_is_no_answer(void **state _unused_)
{
        struct handoff_source_facts f = {
                .record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_COMPLETED, .commit_sent = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK);
        f.stop_wanted = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK_ABORT);
        f.peer = (struct handoff_peer){true, HANDOFF_PREPARED, HANDOFF_QEMU_LOADED};
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK_ABORT);
}

/* As after a restart of the source's agent, which cannot know whether COMMIT was sent. */
static void a_monitor_that_is_silent_after_commit_is_waited_for(void **state _unused_)
{
        struct handoff_source_facts f = {
                .record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_UNKNOWN, .commit_sent = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_WAIT);
        f.stop_wanted = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
        /* Before COMMIT it resumes by itself. */
        f.stop_wanted = f.commit_sent = false;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
        /* And one that is known to go on migrating has not completed. */
        f.commit_sent = true;
        f.qemu = HANDOFF_QEMU_MIGRATING;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
}

static void self_resumed_source_takes_back(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_RUNNING};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
}

static void cancel_before_the_record_aborts(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_OUTGOING,
                .qemu = HANDOFF_QEMU_MIGRATING,
                .mover_alive = true,
                .stop_wanted = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
        f.mover_alive = false;
        f.qemu = HANDOFF_QEMU_RUNNING;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_FAILED);
}

static void post_copy_commits_once_the_state_is_loaded_and_serves_to_the_end(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_SERVING,
                .mover_alive = true,
                .stop_wanted = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_WAIT); /* nothing is cancelled any more */
        f.loaded = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_COMMIT);
        f.commit_sent = f.result_running = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_WAIT);
        f.qemu = HANDOFF_QEMU_COMPLETED;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
}

static void post_copy_that_is_cut_off_runs_nowhere(void **state _unused_)
{
        struct handoff_source_facts s = {.record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_SERVING};
        struct handoff_destination_facts d = {.record = HANDOFF_PREPARED,
                .qemu = HANDOFF_QEMU_LOADED,
                .post_copy = true,
                .commit_read = true};

        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_ASK);
        s.commit_sent = true;
        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_ASK);
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ABANDON);
        d.record = HANDOFF_OWNER;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ABANDON);
        d.qemu = HANDOFF_QEMU_RUNNING;
        d.may_have_run = true;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_END);
        assert_int_equal(handoff_destination_tells_qemu(&d), HANDOFF_QEMU_LOADING);
        d.qemu = HANDOFF_QEMU_UNKNOWN;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_WAIT);
        d.silent = true;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_END);
        d.qemu = HANDOFF_QEMU_RUNNING;
        d.arrived = true;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_DONE);
        assert_int_equal(handoff_destination_tells_qemu(&d), HANDOFF_QEMU_RUNNING);
}

/* All of its memory is there, but COMMIT never came: as without post-copy. */
static void post_copy_that_has_arrived_asks_like_any_other(void **state _unused_)
{
        struct handoff_destination_facts d = {
                .record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_LOADED, .post_copy = true, .arrived = true};

        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ASK);
        d.peer = (struct handoff_peer){true, HANDOFF_HANDED_OFF, HANDOFF_QEMU_COMPLETED, false};
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_OWN);
        d.peer.qemu = HANDOFF_QEMU_SERVING; /* it still has the path, and may yet need post-copy no more */
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ASK);
        d.arrived = false;
        d.mover_alive = true;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_WAIT);
}

/* An agent that was restarted cannot know whether post-copy was begun; a destination that loaded everything as without it must not wait
 * for ever. */
static void source_that_may_have_begun_post_copy_ends_the_wait(void **state _unused_)
{
        struct handoff_destination_facts d = {.record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_LOADED};
        struct handoff_source_facts s = {
                .record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_SERVING, .commit_sent = true};

        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_ASK);
        d.peer = (struct handoff_peer){true, s.record, handoff_source_tells(&s), false};
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_OWN);
        s.peer = (struct handoff_peer){true, HANDOFF_ABANDONED, HANDOFF_QEMU_GONE, false};
        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_TAKE_BACK);
}

/* After a restart of its agent: a thread of QEMU may wait for a page with the big lock. `cont` was never sent. */
static void silent_qemu_that_owns_nothing_is_given_up(void **state _unused_)
{
        struct handoff_destination_facts d = {.record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_UNKNOWN};

        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_WAIT);
        d.silent = true;
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ABANDON);
}

static void guest_held_for_post_copy_is_continued_when_it_does_not_begin(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_HELD,
                .mover_alive = true,
                .stop_wanted = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
        f.mover_alive = false;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
        f.record = HANDOFF_OUTGOING;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
}

static void source_qemu_that_completed_and_ended_is_committed(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_GONE,
                .completed = true,
                .mover_alive = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_COMMIT);
        assert_int_equal(handoff_source_tells(&f), HANDOFF_QEMU_COMPLETED);
        f.mover_alive = false;
        f.stop_wanted = true; /* the destination has the only copy: it is not asked to give that up */
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK);
}

static void source_qemu_that_just_ended_may_have_run_the_guest_on(void **state _unused_)
{
        struct handoff_source_facts f = {
                .record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_GONE, .mover_alive = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
        assert_int_equal(handoff_source_tells(&f), HANDOFF_QEMU_GONE);
}

static void nobody_tells_then_the_owner_record_decides(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_COMPLETED,
                .commit_sent = true,
                .peer_fenced = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK_UNCLAIMED);
        f.peer_fenced = false;
        f.peer = (struct handoff_peer){true, HANDOFF_NONE, HANDOFF_QEMU_UNKNOWN};
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK_UNCLAIMED);
        f.qemu = HANDOFF_QEMU_GONE;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
}

static void what_the_destination_said_counts_more_than_its_host_being_down(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_COMPLETED,
                .commit_sent = true,
                .peer_fenced = true,
                .peer = {true, HANDOFF_OWNER, HANDOFF_QEMU_RUNNING}};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
        f.peer.record = HANDOFF_ABANDONED;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
}

static void destination_needs_commit_or_confirmation(void **state _unused_)
{
        struct handoff_destination_facts f = {
                .record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_LOADED, .mover_alive = true};

        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_WAIT);
        f.mover_alive = false;
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_ASK);
        f.peer = (struct handoff_peer){true, HANDOFF_HANDED_OFF, HANDOFF_QEMU_MIGRATING};
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_ASK);
        f.peer.qemu = HANDOFF_QEMU_COMPLETED;
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_OWN);
        f.peer = (struct handoff_peer){};
        f.commit_read = true;
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_OWN);
}

static void source_that_cannot_confirm_ends_the_wait(void **state _unused_)
{
        static const struct handoff_peer answers[] = {
                {true, HANDOFF_HANDED_OFF, HANDOFF_QEMU_GONE},
                {true, HANDOFF_RELEASED, HANDOFF_QEMU_GONE},
                {true, HANDOFF_RELEASED, HANDOFF_QEMU_COMPLETED},
                {true, HANDOFF_TAKEN_BACK, HANDOFF_QEMU_RUNNING},
                {true, HANDOFF_OUTGOING, HANDOFF_QEMU_RUNNING},
                {true, HANDOFF_NONE, HANDOFF_QEMU_UNKNOWN},
        };
        struct handoff_destination_facts f = {.record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_LOADED};

        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                f.peer = answers[i];
                assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_ABANDON);
        }
        f.commit_read = true; /* that is enough by itself */
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_OWN);
}

static void commit_without_loaded_state_is_not_enough(void **state _unused_)
{
        struct handoff_destination_facts f = {.record = HANDOFF_PREPARED,
                .qemu = HANDOFF_QEMU_LOADING,
                .mover_alive = true,
                .commit_read = true};

        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_WAIT);
        f.qemu = HANDOFF_QEMU_GONE;
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_ABANDON);
}

static void owner_that_never_ran_gives_back(void **state _unused_)
{
        struct handoff_destination_facts f = {.record = HANDOFF_OWNER, .qemu = HANDOFF_QEMU_GONE};

        assert_int_equal(handoff_destination_tells(&f), HANDOFF_PREPARED);
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_ABANDON);
        f.may_have_run = true;
        assert_int_equal(handoff_destination_tells(&f), HANDOFF_OWNER);
        assert_int_equal(handoff_destination_decide(&f), HANDOFF_DESTINATION_DONE);
}

static void records_only_go_forward(void **state _unused_)
{
        assert_true(handoff_record_may_follow(HANDOFF_OUTGOING, HANDOFF_HANDED_OFF));
        assert_true(handoff_record_may_follow(HANDOFF_PREPARED, HANDOFF_OWNER));
        assert_false(handoff_record_may_follow(HANDOFF_RELEASED, HANDOFF_TAKEN_BACK));
        assert_false(handoff_record_may_follow(HANDOFF_TAKEN_BACK, HANDOFF_RELEASED));
        assert_false(handoff_record_may_follow(HANDOFF_ABANDONED, HANDOFF_OWNER));
        assert_false(handoff_record_may_follow(HANDOFF_OWNER, HANDOFF_PREPARED));
}

/* --- The random walk ------------------------------------------------------------------------------------- */

/* The owner record on the datastore. */
enum claim { OLD_OWNER, DESTINATION_CLAIMED, SOURCE_CLAIMED };

struct world {
        struct handoff_source_facts s;
        struct handoff_destination_facts d;
        enum claim claim; /* the owner record; with s.apart the destination's */
        enum claim left;  /* with s.apart: that of the folder that stays behind */
        bool s_up, d_up, link, voted, all_data, fed, commit_net;
        bool d_down;   /* its host, for good */
        bool d_ran;    /* ever */
        bool s_ran_on; /* after its last page was taken: what the destination has is out of date */
        bool d_lost;   /* the destination forgot all: its disk was replaced */
        bool nowhere; /* neither could be asked when the task ended: the VM may have been started from the source's folder */
        bool s_settled, d_settled, lost;
        unsigned int faults_left;
        bool post_copy; /* the policy has it, and it comes to that */
        bool held;      /* its migration has failed, which an agent that was restarted does not know */
        bool holding;   /* the guest is stopped for it: a QEMU that is MIGRATING does not continue it */
        bool began;     /* QEMU is in it */
};

static uint64_t random_state;

static unsigned int pick(unsigned int n)
{
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        return (unsigned int)(random_state >> 33) % n;
}

static void check_safety(const struct world *w)
{
        assert_false(w->s.qemu == HANDOFF_QEMU_RUNNING && w->d.qemu == HANDOFF_QEMU_RUNNING);
        assert_false(w->s.qemu == HANDOFF_QEMU_MIGRATING && !w->voted && w->d.qemu == HANDOFF_QEMU_RUNNING);
        assert_false(w->d.record == HANDOFF_OWNER &&
                     (w->s.record == HANDOFF_OUTGOING || w->s.record == HANDOFF_TAKEN_BACK) &&
                     !w->s.peer_removed);
        /* A copy that was left behind never runs; unless somebody has given up the other. */
        assert_false(w->d_ran && w->s.qemu == HANDOFF_QEMU_RUNNING && !w->s.peer_removed);
        if (w->s.apart && w->d_ran && !w->s.peer_removed) {
                assert_int_equal(w->claim, DESTINATION_CLAIMED);
                assert_int_equal(w->left, DESTINATION_CLAIMED); /* nobody starts it from there */
        }
        assert_false(w->s_ran_on && w->d.qemu == HANDOFF_QEMU_RUNNING);
        assert_false(w->nowhere && w->s.qemu == HANDOFF_QEMU_RUNNING);
}

static void source_record(struct world *w, enum handoff_record record)
{
        if (w->s.record != record)
                assert_true(handoff_record_may_follow(w->s.record, record));
        w->s.record = record;
}

static void destination_record(struct world *w, enum handoff_record record)
{
        if (w->d.record != record)
                assert_true(handoff_record_may_follow(w->d.record, record));
        w->d.record = record;
}

/* One step: `stop`, the record, the command. */
static void begin_post_copy(struct world *w)
{
        struct handoff_source_facts *s = &w->s;

        if (!w->holding) {
                w->holding = true;
        } else if (s->record == HANDOFF_OUTGOING) {
                source_record(w, HANDOFF_HANDED_OFF);
        } else {
                s->qemu = HANDOFF_QEMU_SERVING;
                w->voted = true;
                w->began = pick(4); /* or QEMU needs it no more */
        }
}

static enum claim *own_record(struct world *w)
{
        return w->s.apart ? &w->left : &w->claim;
}

static void step_source(struct world *w)
{
        struct handoff_source_facts *s = &w->s;
        enum handoff_source_action action;

        if (!w->s_up || w->s_settled)
                return;
        action = handoff_source_decide(s);
        switch (action) {
        case HANDOFF_SOURCE_WAIT:
                if (w->post_copy && s->mover_alive && !w->voted && s->qemu == HANDOFF_QEMU_MIGRATING) {
                        if (w->holding && s->record == HANDOFF_HANDED_OFF && !pick(4))
                                w->voted = true; /* QEMU needs it no more */
                        else
                                begin_post_copy(w);
                } else if (s->qemu == HANDOFF_QEMU_MIGRATING && s->mover_alive) {
                        if (s->record == HANDOFF_OUTGOING)
                                source_record(w, HANDOFF_HANDED_OFF);
                        else
                                w->voted = true;
                }
                break;
        case HANDOFF_SOURCE_ABORT:
                s->mover_alive = false;
                s->stop_wanted = true;
                break;
        case HANDOFF_SOURCE_GIVE:
                assert_true(s->apart && !s->given);
                w->left = DESTINATION_CLAIMED;
                s->given = true;
                if (w->faults_left && !pick(4)) { /* written or not: it is not known to be */
                        w->faults_left--;
                        s->given = false;
                        s->stop_wanted = true;
                }
                break;
        case HANDOFF_SOURCE_COMMIT:
                s->commit_sent = true;
                w->commit_net = true;
                break;
        case HANDOFF_SOURCE_ASK:
        case HANDOFF_SOURCE_ASK_ABORT:
                if (w->d_lost && w->link && !w->d_down)
                        s->peer = (struct handoff_peer){true, HANDOFF_NONE, HANDOFF_QEMU_UNKNOWN, false,
                                w->claim == DESTINATION_CLAIMED ? HANDOFF_CLAIMED : HANDOFF_UNCLAIMED};
                if (!w->d_up || !w->link || w->d_lost)
                        break;
                if (action == HANDOFF_SOURCE_ASK_ABORT && w->d.record == HANDOFF_PREPARED)
                        w->d.stop_wanted = true;
                s->peer = (struct handoff_peer){true, handoff_destination_tells(&w->d), w->d.qemu};
                break;
        case HANDOFF_SOURCE_TAKE_BACK:
                s->mover_alive = false;
                if (*own_record(w) != SOURCE_CLAIMED)
                        *own_record(w) = SOURCE_CLAIMED;
                else if (s->record == HANDOFF_TAKEN_BACK &&
                         (s->qemu == HANDOFF_QEMU_COMPLETED || s->qemu == HANDOFF_QEMU_HELD))
                        s->qemu = HANDOFF_QEMU_RUNNING;
                else if (s->record == HANDOFF_TAKEN_BACK && s->qemu == HANDOFF_QEMU_SERVING) {
                        s->qemu = w->began ? HANDOFF_QEMU_GONE : HANDOFF_QEMU_RUNNING;
                        w->lost |= w->began;
                } else
                        source_record(w, HANDOFF_TAKEN_BACK);
                break;
        case HANDOFF_SOURCE_TAKE_BACK_UNCLAIMED:
                assert_false(s->apart);
                s->mover_alive = false;
                if (w->claim == DESTINATION_CLAIMED) {
                        source_record(w, HANDOFF_RELEASED);
                        w->lost = true;
                } else if (w->claim == OLD_OWNER) {
                        w->claim = SOURCE_CLAIMED;
                } else {
                        source_record(w, HANDOFF_TAKEN_BACK);
                }
                break;
        case HANDOFF_SOURCE_RELEASE:
                if (s->record == HANDOFF_RELEASED)
                        s->qemu = HANDOFF_QEMU_GONE;
                else
                        source_record(w, HANDOFF_RELEASED);
                w->lost |= s->apart && s->peer.record == HANDOFF_NONE && w->d.qemu == HANDOFF_QEMU_GONE;
                break;
        case HANDOFF_SOURCE_FAILED:
        case HANDOFF_SOURCE_DONE:
                s->mover_alive = false;
                w->s_settled = true;
                break;
        }
}

static void step_destination(struct world *w)
{
        struct handoff_destination_facts *d = &w->d;

        if (!w->d_up || w->d_settled)
                return;
        switch (handoff_destination_decide(d)) {
        case HANDOFF_DESTINATION_WAIT:
                break;
        case HANDOFF_DESTINATION_ASK:
                if (w->s_up && w->link)
                        d->peer = (struct handoff_peer){true, w->s.record, handoff_source_tells(&w->s)};
                break;
        case HANDOFF_DESTINATION_OWN:
                if (w->claim == SOURCE_CLAIMED)
                        d->stop_wanted = true;
                else if (w->claim == OLD_OWNER)
                        w->claim = DESTINATION_CLAIMED;
                else
                        destination_record(w, HANDOFF_OWNER);
                break;
        case HANDOFF_DESTINATION_CONTINUE:
                d->may_have_run = w->d_ran = true;
                d->qemu = HANDOFF_QEMU_RUNNING;
                break;
        case HANDOFF_DESTINATION_ABANDON:
                if (d->qemu != HANDOFF_QEMU_GONE)
                        d->qemu = HANDOFF_QEMU_GONE;
                else
                        destination_record(w, HANDOFF_ABANDONED);
                break;
        case HANDOFF_DESTINATION_END:
                d->qemu = HANDOFF_QEMU_GONE;
                w->lost = true;
                break;
        case HANDOFF_DESTINATION_FAILED:
        case HANDOFF_DESTINATION_DONE:
                w->d_settled = w->s_settled || w->s.record == HANDOFF_RELEASED;
                break;
        }
}

static void step_world(struct world *w)
{
        struct handoff_source_facts *s = &w->s;
        struct handoff_destination_facts *d = &w->d;

        switch (pick(w->s.apart ? 9 : 8)) {
        case 0: /* QEMU at the source */
                if (s->qemu == HANDOFF_QEMU_RUNNING && s->record == HANDOFF_OUTGOING && s->mover_alive &&
                        !s->stop_wanted)
                        s->qemu = HANDOFF_QEMU_MIGRATING;
                else if (s->qemu == HANDOFF_QEMU_MIGRATING && w->voted && (s->mover_alive || pick(2)))
                        s->qemu = HANDOFF_QEMU_COMPLETED;
                else if (s->qemu == HANDOFF_QEMU_MIGRATING && !s->mover_alive) {
                        s->qemu = w->holding ? HANDOFF_QEMU_HELD : HANDOFF_QEMU_RUNNING;
                        w->s_ran_on = !w->holding;
                }
                if (s->qemu == HANDOFF_QEMU_SERVING && w->began && s->mover_alive && d->mover_alive &&
                        w->link && (d->qemu == HANDOFF_QEMU_LOADED || d->qemu == HANDOFF_QEMU_RUNNING)) {
                        if (d->arrived) /* which its vote tells */
                                s->qemu = HANDOFF_QEMU_COMPLETED;
                        d->arrived = true;
                } else if (s->qemu == HANDOFF_QEMU_SERVING && !w->began && w->voted && !w->held &&
                           (s->mover_alive || pick(2))) {
                        s->qemu = HANDOFF_QEMU_COMPLETED;
                }
                s->completed |= w->s_up && s->qemu == HANDOFF_QEMU_COMPLETED;
                break;
        case 1: /* QEMU at the destination */
                if (d->qemu == HANDOFF_QEMU_LOADING && w->fed)
                        d->qemu = HANDOFF_QEMU_LOADED;
                else if (d->qemu == HANDOFF_QEMU_LOADING && !d->mover_alive)
                        d->qemu = HANDOFF_QEMU_GONE;
                d->post_copy |= w->began && d->qemu == HANDOFF_QEMU_LOADED;
                s->loaded |= d->post_copy && s->mover_alive && d->mover_alive && w->link &&
                             s->qemu == HANDOFF_QEMU_SERVING && d->qemu == HANDOFF_QEMU_LOADED;
                break;
        case 2: /* the data path */
                if (w->began) {
                        s->mover_alive &= s->qemu != HANDOFF_QEMU_GONE || d->arrived;
                        d->mover_alive &= d->qemu != HANDOFF_QEMU_GONE;
                }
                if (!w->link || !s->mover_alive || !d->mover_alive) {
                        if (!w->commit_net || !w->all_data || !w->link || !d->mover_alive) {
                                s->mover_alive = d->mover_alive = false;
                                w->commit_net = false;
                        }
                } else if (s->qemu == HANDOFF_QEMU_MIGRATING || s->qemu == HANDOFF_QEMU_COMPLETED ||
                           s->qemu == HANDOFF_QEMU_SERVING || w->commit_net) {
                        w->all_data = true;
                }
                break;
        case 3:
                w->fed |= w->all_data && d->mover_alive;
                if (w->link && s->mover_alive && d->mover_alive && w->s_up &&
                        w->d_up) { /* the RESULT frame */
                        s->result_running |= d->qemu == HANDOFF_QEMU_RUNNING;
                        s->result_abandoned |= d->record == HANDOFF_ABANDONED;
                }
                break;
        case 4:
                if (w->commit_net && d->mover_alive && w->d_up && w->all_data) {
                        w->commit_net = false;
                        d->commit_read = true;
                } else if (w->voted && w->claim == OLD_OWNER) { /* begun when HANDED_OFF was told */
                        w->claim = DESTINATION_CLAIMED;
                }
                break;
        case 5:
                step_source(w);
                break;
        case 6:
                step_destination(w);
                break;
        case 8:
                /* The task ends while neither can be asked, and nothing of the guest runs or can by itself. */
                w->nowhere |= w->s.apart && w->d_down && !w->s_up && !w->s.peer_removed &&
                              w->s.record == HANDOFF_HANDED_OFF &&
                              (w->s.qemu == HANDOFF_QEMU_COMPLETED || w->s.qemu == HANDOFF_QEMU_GONE);
                break;
        default: /* what broke comes back; what does not, somebody says so in the end, and what is wrong is taken back */
                w->s_up = w->link = true;
                w->d_up = !w->d_down && !w->d_lost;
                w->s.peer_fenced = w->d_down;
                w->s.peer_removed |= w->s.apart && w->d_down && !w->nowhere && !pick(4);
                w->s.left |= w->nowhere;
        }
}

static void crash_source_agent(struct world *w)
{
        w->s_up = false;
        w->s.mover_alive = w->s.stop_wanted = w->s.loaded = w->s.given = false;
        /* It is not known whether the command was sent. */
        w->held |= w->s.qemu == HANDOFF_QEMU_HELD;
        if (w->holding && w->s.record == HANDOFF_HANDED_OFF &&
                (w->s.qemu == HANDOFF_QEMU_MIGRATING || w->s.qemu == HANDOFF_QEMU_HELD))
                w->s.qemu = HANDOFF_QEMU_SERVING;
        w->s.completed &= w->s.commit_sent; /* in the runtime file before COMMIT leaves */
        w->s.commit_sent = true;
        w->s.result_running = w->s.result_abandoned = false;
        w->s.peer = (struct handoff_peer){};
        if (w->s.record == HANDOFF_OUTGOING)
                w->s.stop_wanted = true;
}

static void kill_source_qemu(struct world *w)
{
        w->lost |= w->d.post_copy && !w->d.arrived;
        w->lost |= w->d.qemu != HANDOFF_QEMU_RUNNING &&
                   (w->d.record != HANDOFF_OWNER || w->d.qemu != HANDOFF_QEMU_LOADED);
        w->s.qemu = HANDOFF_QEMU_GONE;
        w->s.stop_wanted |= w->s_up && (w->s.record == HANDOFF_OUTGOING || !w->s.completed);
}

static void fault(struct world *w)
{
        if (!w->faults_left || pick(12))
                return;
        w->faults_left--;
        switch (pick(10)) {
        case 9: /* the manager is wrong */
                w->s.peer_fenced = true;
                break;
        case 8:
                kill_source_qemu(w);
                break;
        case 7: /* power off, and never back; or the disk with the journals is gone, and so is all that ran */
                w->d_down = pick(2);
                w->d_lost = !w->d_down;
                w->d_up = w->d.mover_alive = false;
                w->lost |= w->d.record == HANDOFF_OWNER || w->s.qemu == HANDOFF_QEMU_GONE;
                w->d.qemu = HANDOFF_QEMU_GONE;
                w->d_settled = true;
                break;
        case 0:
                crash_source_agent(w);
                break;
        case 1:
                w->d_up = false;
                w->d.mover_alive = w->d.stop_wanted = w->d.commit_read = false;
                w->d.peer = (struct handoff_peer){};
                w->d.may_have_run = w->d.record == HANDOFF_OWNER;
                w->lost |= w->d.may_have_run && w->d.qemu == HANDOFF_QEMU_GONE; /* two faults at once */
                break;
        case 2:
                w->s.mover_alive = false;
                break;
        case 3:
                w->d.mover_alive = false;
                break;
        case 4:
                w->link = false;
                break;
        case 5:
                w->s.stop_wanted |= w->s.record == HANDOFF_OUTGOING;
                break;
        case 6:
                w->lost |= w->d.may_have_run || w->s.qemu == HANDOFF_QEMU_GONE;
                w->d.qemu = HANDOFF_QEMU_GONE;
                break;
        }
}

static void walk(bool apart)
{
        unsigned int moved = 0, kept = 0, nobodys = 0, moved_by_post_copy = 0, kept_from_post_copy = 0;

        for (unsigned int run = 0; run < 200000; run++) {
                struct world w = {
                        .s = {.record = HANDOFF_OUTGOING,
                                .qemu = HANDOFF_QEMU_RUNNING,
                                .mover_alive = true,
                                .apart = apart},
                        .d = {.record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_LOADING, .mover_alive = true},
                        .s_up = true,
                        .d_up = true,
                        .link = true,
                        .post_copy = !apart && run / 5 % 2,
                        .faults_left = run % 5,
                };

                random_state = run * 7919 + 1;
                for (unsigned int i = 0; i < 3000 && !(w.s_settled && w.d_settled); i++) {
                        step_world(&w);
                        fault(&w);
                        check_safety(&w);
                }
                if (!w.s_settled || !w.d_settled)
                        fail_msg("run %u does not settle: source %s/%s, destination %s/%s", run,
                                handoff_record_to_string(w.s.record), handoff_qemu_to_string(w.s.qemu),
                                handoff_record_to_string(w.d.record), handoff_qemu_to_string(w.d.qemu));
                if (w.nowhere) {
                        assert_int_equal(w.s.record, HANDOFF_RELEASED);
                        assert_true(w.s.qemu == HANDOFF_QEMU_GONE && w.d.qemu == HANDOFF_QEMU_GONE);
                        nobodys++;
                        continue;
                }
                if (w.lost)
                        continue;
                assert_true((w.s.qemu == HANDOFF_QEMU_RUNNING) != (w.d.qemu == HANDOFF_QEMU_RUNNING));
                moved += w.d.qemu == HANDOFF_QEMU_RUNNING;
                kept += w.s.qemu == HANDOFF_QEMU_RUNNING;
                moved_by_post_copy += w.began && w.d.qemu == HANDOFF_QEMU_RUNNING;
                kept_from_post_copy += w.post_copy && w.s.qemu == HANDOFF_QEMU_RUNNING;
        }
        assert_true(apart || (moved_by_post_copy > 1000 && kept_from_post_copy > 1000));
        assert_true(!apart || nobodys > 10);
        assert_true(moved > 1000 && kept > 1000); /* the walk went both ways */
}

static void random_walks_keep_one_owner_and_settle(void **state _unused_)
{
        walk(false);
}

static void random_walks_without_a_common_datastore_keep_one_owner_and_settle(void **state _unused_)
{
        walk(true);
}

static void what_is_left_behind_names_the_destination_before_commit(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_COMPLETED,
                .completed = true,
                .mover_alive = true,
                .apart = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_GIVE);
        assert_int_equal(handoff_source_tells(&f), HANDOFF_QEMU_UNKNOWN); /* or it would do without COMMIT */
        f.stop_wanted = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ABORT);
        f.mover_alive = false;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK_ABORT);
        f.stop_wanted = false;
        f.mover_alive = f.given = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_COMMIT);
        assert_int_equal(handoff_source_tells(&f), HANDOFF_QEMU_COMPLETED);
}

/* Its record is where it is. */
static void host_that_is_down_with_its_datastore_is_waited_for(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_COMPLETED,
                .completed = true,
                .commit_sent = true,
                .peer_fenced = true,
                .given = true,
                .apart = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK);
        f.peer_removed = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
        f.qemu = HANDOFF_QEMU_GONE; /* the disks are here all the same */
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
        f.qemu = HANDOFF_QEMU_COMPLETED;
        f.mover_alive = true; /* then it is not down */
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK);
        f.result_running = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
}

/* Or both would ask each other for ever: the one waits for a record that is never written, the other for a confirmation that needs it. */
static void completed_guest_that_cannot_be_given_and_has_ended_is_given_up(void **state _unused_)
{
        struct handoff_source_facts s = {
                .record = HANDOFF_HANDED_OFF, .qemu = HANDOFF_QEMU_GONE, .completed = true, .apart = true};
        struct handoff_destination_facts d = {.record = HANDOFF_PREPARED, .qemu = HANDOFF_QEMU_LOADED};

        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_GIVE);
        d.peer = (struct handoff_peer){true, s.record, handoff_source_tells(&s), false};
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ASK);
        s.stop_wanted = true;
        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_ASK_ABORT);
        d.peer = (struct handoff_peer){true, s.record, handoff_source_tells(&s), false};
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_ABANDON);
        s.given = true; /* then the destination has the only copy of the memory */
        assert_int_equal(handoff_source_decide(&s), HANDOFF_SOURCE_ASK);
        d.peer = (struct handoff_peer){true, s.record, handoff_source_tells(&s), false};
        assert_int_equal(handoff_destination_decide(&d), HANDOFF_DESTINATION_OWN);
}

/* After its task, in which the VM may have been started from either folder. */
static void source_that_nobody_else_can_tell_hears_it_from_the_manager(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_GONE,
                .commit_sent = true,
                .given = true,
                .apart = true};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK);
        f.left = true;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
        f.peer_removed = true; /* it was said later */
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
        f.qemu = HANDOFF_QEMU_COMPLETED;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
        f.peer = (struct handoff_peer){true, HANDOFF_ABANDONED, HANDOFF_QEMU_GONE, false};
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK); /* somebody could */
}

static void destination_without_a_journal_reads_its_own_record(void **state _unused_)
{
        struct handoff_source_facts f = {.record = HANDOFF_HANDED_OFF,
                .qemu = HANDOFF_QEMU_COMPLETED,
                .completed = true,
                .commit_sent = true,
                .given = true,
                .apart = true,
                .peer = {.answered = true, .record = HANDOFF_NONE}};

        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_ASK); /* it did not say */
        f.peer.claim = HANDOFF_CLAIMED;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_RELEASE);
        f.peer.claim = HANDOFF_UNCLAIMED;
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
        f.given = false; /* what the destination says needs no more here */
        assert_int_equal(handoff_source_decide(&f), HANDOFF_SOURCE_TAKE_BACK);
}

static void names_read_back(void **state _unused_)
{
        enum handoff_record record;
        enum handoff_qemu qemu;

        for (int i = 0; i < N_HANDOFF_RECORDS; i++) {
                assert_int_equal(
                        handoff_record_from_string(handoff_record_to_string((enum handoff_record)i), &record),
                        0);
                assert_int_equal(record, i);
        }
        for (int i = 0; i < N_HANDOFF_QEMUS; i++) {
                assert_int_equal(
                        handoff_qemu_from_string(handoff_qemu_to_string((enum handoff_qemu)i), &qemu), 0);
                assert_int_equal(qemu, i);
        }
        assert_true(handoff_record_from_string("owned", &record) < 0);
        assert_true(handoff_qemu_from_string(NULL, &qemu) < 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(commit_waits_until_qemu_completed),
                cmocka_unit_test(silence_is_no_answer),
                cmocka_unit_test(a_monitor_that_is_silent_after_commit_is_waited_for),
                cmocka_unit_test(self_resumed_source_takes_back),
                cmocka_unit_test(cancel_before_the_record_aborts),
                cmocka_unit_test(source_qemu_that_completed_and_ended_is_committed),
                cmocka_unit_test(post_copy_commits_once_the_state_is_loaded_and_serves_to_the_end),
                cmocka_unit_test(post_copy_that_is_cut_off_runs_nowhere),
                cmocka_unit_test(post_copy_that_has_arrived_asks_like_any_other),
                cmocka_unit_test(silent_qemu_that_owns_nothing_is_given_up),
                cmocka_unit_test(source_that_may_have_begun_post_copy_ends_the_wait),
                cmocka_unit_test(guest_held_for_post_copy_is_continued_when_it_does_not_begin),
                cmocka_unit_test(source_qemu_that_just_ended_may_have_run_the_guest_on),
                cmocka_unit_test(nobody_tells_then_the_owner_record_decides),
                cmocka_unit_test(what_the_destination_said_counts_more_than_its_host_being_down),
                cmocka_unit_test(destination_needs_commit_or_confirmation),
                cmocka_unit_test(source_that_cannot_confirm_ends_the_wait),
                cmocka_unit_test(commit_without_loaded_state_is_not_enough),
                cmocka_unit_test(owner_that_never_ran_gives_back),
                cmocka_unit_test(records_only_go_forward),
                cmocka_unit_test(what_is_left_behind_names_the_destination_before_commit),
                cmocka_unit_test(host_that_is_down_with_its_datastore_is_waited_for),
                cmocka_unit_test(completed_guest_that_cannot_be_given_and_has_ended_is_given_up),
                cmocka_unit_test(source_that_nobody_else_can_tell_hears_it_from_the_manager),
                cmocka_unit_test(destination_without_a_journal_reads_its_own_record),
                cmocka_unit_test(random_walks_keep_one_owner_and_settle),
                cmocka_unit_test(random_walks_without_a_common_datastore_keep_one_owner_and_settle),
                cmocka_unit_test(names_read_back),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

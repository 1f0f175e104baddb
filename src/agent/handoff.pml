/* SPDX-License-Identifier: Apache-2.0 */
/* The handoff of a VM between two agents, for spin. It states the rules of handoff.c with what surrounds them: two QEMUs,
 * two movers, two agents with durable journals and volatile memory, the owner record on the datastore, a network that can be
 * cut, a manager that says (rightly or wrongly) that the destination's host is down, and faults at any step.
 *
 * Safety:   the guest never runs on both hosts, the two journals never both claim it, and a copy that was left behind never
 *           runs: the source's once the guest ran at the destination, the destination's once it ran on at the source.
 * Liveness: when faults stop and what can come back is back, the guest runs on exactly one host and the other keeps nothing,
 *           or it is gone everywhere, which only a fault can bring about that `lost` counts. No run is endless (faults are
 *           bounded, every step is taken for something new), so this needs no fairness; it is checked in every final state.
 *
 * It also has the rules of post-copy: docs/decisions/0009-post-copy.md. With APART the two sides see different datastores, each with an owner
 * record of its own, and the disks travel along (docs/decisions/0034; without post-copy).
 *
 * Each BREAK_ takes one rule away, and must be found by the check, or the check proves nothing. dev/spin runs it all. The C
 * code's crash points are the boundaries between the atomic steps here; their names stand beside. */

#ifndef FAULTS
#define FAULTS 3
#endif

mtype = { OUTGOING, HANDED_OFF, TAKEN_BACK, RELEASED };         /* source journal */
mtype = { PREPARED, OWNER, ABANDONED, FORGOTTEN };              /* destination journal; FORGOTTEN: the file is gone */
mtype = { OLD, CLAIMED, RECLAIMED, ELSEWHERE };                 /* owner record: epoch e; e + 1, destination; e + 2, source; later, another host */
mtype = { RUN, FINAL, COMPLETED, HOLDING, HELD, SERVING, LOADING, LOADED, GONE }; /* QEMUs */
/* Of post-copy (docs/decisions/0009): HOLDING: stopped by the agent before it begins, so QEMU does not continue the guest by itself. HELD:
 * the same, and the migration has failed. SERVING: begun, or possibly. HOLDING and SERVING may still complete as without it, if QEMU
 * finds the rest small enough. */
mtype = { NOTHING, CONFIRMS, REFUSES };                         /* answers; NOTHING: none yet, or one that decides nothing */

/* durable */
mtype sj = OUTGOING, dj = PREPARED;
mtype record = OLD;          /* on the common datastore; APART: in the destination's folder, where only its agent can read it */
#ifdef APART
mtype s_record = OLD;        /* in the source's folder: OLD; CLAIMED: names the destination; RECLAIMED. Who starts the VM from there goes by it */
bool s_given = false;        /* it is known to be CLAIMED */
bool s_refused = false;      /* it could not be written */
bool removed = false;        /* the manager's word for this migration: the destination's host was removed, and what is there is given up */
bool host_removed = false;   /* it was; also of a host that is well, once the guest has gone on from it */
bool task = true;            /* the manager's task keeps the VM: nobody moves or starts it */
bool moved_on = false;       /* for the properties alone: the guest has gone on from the destination, with its disks, and runs at a third host */
bool nowhere = false;        /* it has ended: neither side could be asked, and none will be; so the VM may be started from the source's folder */
bool left = false;           /* the manager's word after the task: the source is not to wait any longer */
bool mirrored = false;       /* the disks at the destination are what they are at the source, where the guest is stopped */
#ifdef BREAK_SWITCH_UNMIRRORED
#define MIRRORED true
#else
#define MIRRORED mirrored
#endif
#define GAVE s_given
#define RECLAIM s_record = (s_record == ELSEWHERE -> ELSEWHERE : RECLAIMED)
#else
#define MIRRORED true
#define GAVE true
#define RECLAIM record = RECLAIMED
#endif
#define UNCLAIMED (record != CLAIMED)
/* processes and network */
mtype sq = RUN, dq = LOADING;
bool sa = true, da = true;   /* agents */
bool sm = true, dm = true;   /* movers; each dies with its agent */
bool link = true;
bool d_down = false;         /* the destination's host, for good */
bool fenced = false;         /* the manager's word that it is */
/* in QEMU, movers and sockets */
bool voted = false;          /* the source's QEMU was given SHUT(0); HANDED_OFF left for the destination with it */
bool all_data = false;       /* the whole stream is in the destination mover's hands */
bool fed = false;            /* ... and in the destination QEMU's socket */
bool commit_net = false;     /* COMMIT is on its way, behind all data */
bool failed = false;         /* the source's QEMU has given its migration up, while it was not to continue the guest */
bool pc = false;             /* in post-copy: "all data" is then the device state, and pages follow */
bool arrived = false;        /* ... all of them */
/* memory of the agents; what is volatile is cleared when they end */
bool s_stop = false, s_commit_sent = false, s_claimed = false;
bool s_completed = false;    /* the source's QEMU was seen completed */
mtype s_peer = NOTHING;
bool d_stop = false, d_commit_read = false, d_claimed = false, d_may_have_run = false;
mtype d_peer = NOTHING;
/* for the properties alone */
bool d_ran = false;          /* the guest ran at the destination */
bool s_ran_on = false;       /* ... and at the source after the last page was taken */
bool lost = false;           /* a fault took what alone could run the guest */
bool cancelled = false;
byte faults = 0;

/* handoff_destination_tells(): `owner` only once its guest may have run. */
#define D_TELLS ((dj == PREPARED || (dj == OWNER && (dq == LOADED || (dq == GONE && !d_may_have_run)))) -> NOTHING : dj)
/* handoff_source_tells(), and what the destination makes of it. A QEMU that ended tells nothing, unless it is known to have
 * completed: it may have resumed the guest before. */
#ifdef BREAK_GONE_CONFIRMS
#define CAN_CONFIRM (sj == HANDED_OFF && (sq == COMPLETED || sq == GONE))
#else
#ifdef BREAK_SERVING_WAITS
#define CAN_CONFIRM (sj == HANDED_OFF && (sq == COMPLETED || (sq == GONE && s_completed)))
#else
#ifdef BREAK_CONFIRM_UNGIVEN
#define CAN_CONFIRM (sj == HANDED_OFF && (sq == COMPLETED || (sq == GONE && s_completed)))
#else
#define CAN_CONFIRM (sj == HANDED_OFF && GAVE && (sq == COMPLETED || (sq == SERVING && !sm) || (sq == GONE && s_completed)))
#endif
#endif
#endif
#ifdef BREAK_RELEASED_UNHEARD
#define CANNOT (sj == OUTGOING || sj == TAKEN_BACK || (sj == HANDED_OFF && sq == GONE))
#else
#ifdef APART
/* What has completed and ended says nothing while the source's record may still be given; never, once it cannot be. */
#ifdef BREAK_UNGIVEN_WAITS
#define CANNOT (sj != HANDED_OFF || (sq == GONE && !s_completed))
#else
#define CANNOT (sj != HANDED_OFF || (sq == GONE && (!s_completed || STOP_WANTED)))
#endif
#else
#define CANNOT (sj != HANDED_OFF || sq == GONE)
#endif
#endif
#define S_TELLS (CAN_CONFIRM -> CONFIRMS : (CANNOT -> REFUSES : NOTHING))

#ifdef APART
#define STOP_WANTED (s_stop || s_refused)
#else
#define STOP_WANTED s_stop
#endif
/* Where the source's QEMU stays as it is until it is told otherwise. */
#define STOPPED (sq == COMPLETED || sq == HELD || sq == SERVING)
#define UNSURE (sj == HANDED_OFF && (sq == COMPLETED || sq == GONE || sq == SERVING))
#ifdef BREAK_SERVING_TAKES_BACK
#define NOBODY_ELSE_RUNS (sq == RUN || sq == HELD || (sq == SERVING && !sm))
#else
#define NOBODY_ELSE_RUNS (sq == RUN || sq == HELD)
#endif
#define GIVEN_BACK ((sj == OUTGOING && sq == HELD) || (sj == HANDED_OFF && (NOBODY_ELSE_RUNS || (UNSURE && s_peer == ABANDONED))))
#ifdef APART
/* The destination's record is read by its agent. A host that is down tells nothing, and is waited for until it is removed. */
#ifdef BREAK_APART_FENCED
#define SILENT_FOR_GOOD (fenced && !sm)
#else
#ifdef BREAK_REMOVED_IS_GIVEN_UP
#define SILENT_FOR_GOOD (host_removed && !sm)
#else
#define SILENT_FOR_GOOD (removed && !sm)
#endif
#endif
#define READABLE (s_peer == FORGOTTEN && da && link)
#define NOBODY_TELLS (UNSURE && !left && s_peer != OWNER && s_peer != ABANDONED && (SILENT_FOR_GOOD || READABLE))
#define SEEN_UNCLAIMED (UNCLAIMED || SILENT_FOR_GOOD)
#else
#define NOBODY_TELLS (UNSURE && s_peer != OWNER && s_peer != ABANDONED && ((fenced && !sm) || s_peer == FORGOTTEN))
#define SEEN_UNCLAIMED UNCLAIMED
#endif
/* Without a fault nothing may be lost. */
#define LOST lost = (lost || faults > 0)
/* In post-copy the guest is of no use without the way to its pages. */
#define PAGES_MISSING (pc && !arrived)
#define CUT_OFF (PAGES_MISSING && !dm)
#define MAY_OWN (dj == PREPARED && dq == LOADED && !d_stop && !CUT_OFF && \
                 (d_commit_read || (!PAGES_MISSING && d_peer == CONFIRMS)))

/* The source's QEMU by itself: migration/migration.c, return-path on. */
active proctype SourceQemu()
{
  do
  :: atomic { sq == RUN && sm && sj == OUTGOING && !s_stop -> sq = FINAL } /* crash point source-switching */
  :: atomic { sq == FINAL && voted -> sq = COMPLETED } /* also when the mover died after the vote was read */
#ifdef BREAK_POSTCOPY_WITHOUT_STOP
  :: atomic { sq == SERVING && !sm -> sq = RUN }            /* QEMU 10.0 continues a guest that it stopped itself */
#endif
  :: atomic { sq == SERVING && pc && !arrived && sm && dm && link && (dq == LOADED || dq == RUN) -> arrived = true }
  :: atomic { sq == SERVING && arrived && sm && dm && link -> sq = COMPLETED }
  :: atomic { (sq == HOLDING || (sq == SERVING && !pc && !failed)) && voted -> sq = COMPLETED } /* without it after all */
  :: atomic { (sq == HOLDING || (sq == SERVING && !pc && !failed)) && !sm -> failed = true; if :: sq == HOLDING -> sq = HELD :: else fi }
#ifdef APART
  :: atomic { sq == FINAL && !sm -> sq = RUN; s_ran_on = true; mirrored = false }
#else
  :: atomic { sq == FINAL && !sm -> sq = RUN; s_ran_on = true } /* stream or return path closed: resumes */
#endif
  od
}

active proctype DestinationQemu()
{
  do
  :: atomic { dq == LOADING && fed -> dq = LOADED }         /* crash point destination-loaded */
  :: atomic { dq == LOADING && !dm && !fed -> dq = GONE }   /* stream cut: exits */
  od
}

/* The movers and the sockets between them. */
active proctype DataPath()
{
  do
  :: atomic { dm && link && !all_data && MIRRORED && ((sm && (sq == FINAL || sq == HOLDING || sq == COMPLETED || sq == SERVING)) || commit_net) -> all_data = true }
  :: atomic { dm && all_data && !fed -> fed = true }
  :: atomic { commit_net && dm && da && all_data && link -> commit_net = false; d_commit_read = true }
  :: atomic { commit_net && !(sm && dm) -> commit_net = false }
  :: atomic { !link && (sm || dm) -> sm = false; dm = false }  /* peer silent: both give up */
  :: atomic { sm && !dm -> sm = false }
  :: atomic { sm && PAGES_MISSING && sq == GONE -> sm = false } /* QEMU's stream ended too early */
  :: atomic { dm && pc && dq == GONE -> dm = false }
  :: atomic { dm && !sm && !commit_net -> dm = false }
  od
}

active proctype SourceAgent()
{
  do
  /* OUTGOING */
  :: atomic { sa && sj == OUTGOING && sm && (s_stop || sq == GONE) -> sm = false }       /* ABORT */
#ifdef APART
  /* The mirrors have ended well; only then QEMU goes on to its device state (pause-before-switchover) */
  :: atomic { sa && sj == OUTGOING && sq == FINAL && sm && !s_stop && !mirrored -> mirrored = true }
#endif
  :: atomic { sa && sj == OUTGOING && sq == FINAL && sm && !s_stop && MIRRORED -> sj = HANDED_OFF }  /* crash point source-handed-off */
  /* HANDED_OFF */
  :: atomic { sa && sj == HANDED_OFF && sq == FINAL && sm && !voted -> voted = true }
#ifdef BREAK_COMMIT_EARLY
  :: atomic { sa && sj == HANDED_OFF && sq == FINAL && sm && !s_commit_sent -> s_commit_sent = true; commit_net = true }
#endif
#ifdef BREAK_BELIEVE_SILENCE
  :: atomic { sa && UNSURE && !link -> sj = TAKEN_BACK }
#endif
  :: atomic { sa && sj == HANDED_OFF && sq == COMPLETED && !s_completed -> s_completed = true }
#ifdef BREAK_COMMIT_UNGIVEN
  :: atomic { sa && sj == HANDED_OFF && s_completed && sm && !s_commit_sent ->
       s_commit_sent = true; commit_net = true }
#else
  :: atomic { sa && sj == HANDED_OFF && s_completed && sm && !s_commit_sent && GAVE ->   /* crash point source-commit */
       s_commit_sent = true; commit_net = true }
#endif
#ifdef APART
  /* GIVE: whoever reads the record in the source's folder learns that the VM has left, before it can run elsewhere */
  :: atomic { sa && sj == HANDED_OFF && (sq == FINAL || sq == COMPLETED || (sq == GONE && s_completed)) && !s_given && !s_refused ->
       if :: s_record == ELSEWHERE -> s_refused = true :: else -> s_record = CLAIMED; s_given = true fi }
  :: atomic { sa && sj == HANDED_OFF && s_completed && sm && !s_given && (s_stop || s_refused) -> sm = false } /* ABORT */
#endif
  /* post-copy: `stop`, the record, then the command that begins it; nothing is cancelled from there on. COMMIT goes when the
   * destination's QEMU has acknowledged the device state */
#ifndef APART
  :: atomic { sa && sj == OUTGOING && sq == RUN && sm && !s_stop -> sq = HOLDING } /* the journal says before that it is to be */
  :: atomic { sa && sj == OUTGOING && sq == HOLDING && sm && !s_stop -> sj = HANDED_OFF }
#endif
  :: atomic { sa && sj == HANDED_OFF && sq == HOLDING && sm && !s_stop && !voted ->
       sq = SERVING; voted = true; if :: pc = true :: skip fi }
  :: atomic { sa && sj == HANDED_OFF && sq == HOLDING && sm && !s_stop && !voted -> voted = true }  /* QEMU needs it no more */
  :: atomic { sa && sq == SERVING && !pc && sm -> sq = HOLDING }                         /* the same, noticed later */
  :: atomic { sa && sj == HANDED_OFF && sq == HOLDING && sm && s_stop -> sm = false } /* ABORT */
  :: atomic { sa && sj == HANDED_OFF && sq == SERVING && pc && sm && dm && link && dq == LOADED && !s_commit_sent ->
       s_commit_sent = true; commit_net = true }
#ifndef BREAK_DEAD_SOURCE_WAITS
  :: atomic { sa && sj == HANDED_OFF && sq == GONE && !s_completed && sm && !s_commit_sent -> sm = false } /* ABORT */
#endif
#ifndef BREAK_NEVER_ASK
  :: atomic { sa && da && link && UNSURE && D_TELLS != NOTHING && s_peer != D_TELLS -> s_peer = D_TELLS } /* ASK, or RESULT */
#endif
#if defined(APART) && !defined(BREAK_UNGIVEN_WAITS)
  :: atomic { sa && da && link && sj == HANDED_OFF && (sq == COMPLETED || (sq == GONE && !s_given)) && STOP_WANTED && dj == PREPARED && !d_stop ->
       d_stop = true }                                                                   /* ASK_ABORT */
#else
  :: atomic { sa && da && link && sj == HANDED_OFF && sq == COMPLETED && STOP_WANTED && dj == PREPARED && !d_stop ->
       d_stop = true }                                                                   /* ASK_ABORT */
#endif
#ifdef BREAK_SERVING_RELEASED
  :: atomic { sa && UNSURE && s_peer == OWNER -> sj = RELEASED }
#else
  :: atomic { sa && UNSURE && s_peer == OWNER && (sq != SERVING || !sm) -> sj = RELEASED } /* crash point source-done */
#endif
  /* TAKE_BACK: claim, record, continue. The claim may fail: what the destination abandoned needs no other proof. */
  :: atomic { sa && (GIVEN_BACK || sj == TAKEN_BACK) && (sq == RUN || STOPPED) && !s_claimed ->
       s_claimed = true; if :: RECLAIM :: skip fi }
  :: atomic { sa && GIVEN_BACK && (s_claimed || sq == GONE) -> sj = TAKEN_BACK }
  :: atomic { sa && sj == TAKEN_BACK && (sq == COMPLETED || sq == HELD) && s_claimed -> sq = RUN }
  /* In post-copy QEMU refuses: the guest is started anew. The rules do not rest on that. */
  :: atomic { sa && sj == TAKEN_BACK && sq == SERVING && s_claimed -> if :: sq = RUN :: pc -> sq = GONE; LOST fi }
  /* TAKE_BACK_UNCLAIMED: the same, but only with the record, and only from the old one. */
#ifdef BREAK_FENCED_BLIND
  :: atomic { sa && NOBODY_TELLS && STOPPED && !s_claimed -> s_claimed = true; RECLAIM }
#else
  :: atomic { sa && NOBODY_TELLS && STOPPED && !s_claimed && SEEN_UNCLAIMED -> s_claimed = true; RECLAIM }
#endif
  :: atomic { sa && NOBODY_TELLS && STOPPED && !s_claimed && !SEEN_UNCLAIMED -> sj = RELEASED; lost = true }
  :: atomic { sa && NOBODY_TELLS && STOPPED && s_claimed -> sj = TAKEN_BACK }
#ifdef APART
  :: atomic { sa && UNSURE && left && !sm && s_peer != OWNER && s_peer != ABANDONED -> sj = RELEASED }
  /* its disks are here */
  :: atomic { sa && NOBODY_TELLS && sq == GONE && SEEN_UNCLAIMED -> sj = TAKEN_BACK; if :: RECLAIM :: skip fi }
  :: atomic { sa && NOBODY_TELLS && sq == GONE && !SEEN_UNCLAIMED -> sj = RELEASED }
#else
  :: atomic { sa && NOBODY_TELLS && sq == GONE -> sj = RELEASED }
#endif
  /* after the record */
  :: atomic { sa && (sj == TAKEN_BACK || sj == RELEASED) && sm -> sm = false }
  :: atomic { sa && sj == RELEASED && sq != GONE -> sq = GONE }
  od
}

active proctype DestinationAgent()
{
  do
  /* PREPARED */
  :: atomic { da && dj == PREPARED && dq == GONE -> dj = ABANDONED }
  :: atomic { da && dj == PREPARED && d_stop && dq != GONE -> dq = GONE }                /* kill first */
  :: atomic { da && dj == PREPARED && !d_stop && !d_claimed && (voted || MAY_OWN) ->     /* claim: early, or when it is needed */
#ifdef BREAK_CLAIM_BLIND
       record = CLAIMED; d_claimed = true }
#else
       if :: record == RECLAIMED -> d_stop = true :: else -> record = CLAIMED; d_claimed = true fi }
#endif
#ifdef BREAK_OWN_UNCLAIMED
  :: atomic { da && MAY_OWN -> dj = OWNER }
#else
  /* without COMMIT only if the claim still stands: the source may have taken the record back before it was restarted */
  :: atomic { da && MAY_OWN && d_claimed && (d_commit_read || record == CLAIMED) -> dj = OWNER } /* crash point destination-owner */
  :: atomic { da && MAY_OWN && d_claimed && !d_commit_read && record == RECLAIMED -> d_stop = true }
#endif
#ifdef BREAK_TAKE_OVER_UNCONFIRMED
  :: atomic { da && sa && link && dj == PREPARED && dq == LOADED && !d_stop && !dm && d_claimed && sj == HANDED_OFF -> dj = OWNER }
#endif
  :: atomic { da && sa && link && dj == PREPARED && dq == LOADED && !dm && !d_commit_read && S_TELLS != NOTHING &&
              d_peer != S_TELLS -> d_peer = S_TELLS }                                    /* ASK */
  :: atomic { da && dj == PREPARED && dq == LOADED && CUT_OFF -> dq = GONE }
  :: atomic { da && dj == PREPARED && dq == LOADED && !dm && !d_commit_read && d_peer == REFUSES -> dq = GONE }
  :: atomic { da && dj == PREPARED && dq == LOADING && !dm && fed && !d_stop && faults > 0 -> d_stop = true } /* time limit */
  /* OWNER, ABANDONED */
  :: atomic { da && dj == OWNER && dq == LOADED && !CUT_OFF -> dq = RUN; d_may_have_run = true; d_ran = true } /* crash point destination-done */
  :: atomic { da && dj == OWNER && dq == LOADED && CUT_OFF -> dq = GONE; if :: d_may_have_run -> LOST :: else fi }
  /* LOST: the rest of its memory never comes */
  :: atomic { da && (dj == OWNER || dj == FORGOTTEN) && dq == RUN && CUT_OFF -> dq = GONE; LOST }
  :: atomic { da && dj == OWNER && dq == GONE && !d_may_have_run -> dj = ABANDONED }
  :: atomic { da && dj == ABANDONED && dq != GONE -> dq = GONE }
  /* no journal: what waits for a migration that nobody knows is removed; a guest that runs is left alone */
  :: atomic { da && dj == FORGOTTEN && (dq == LOADING || dq == LOADED) -> dq = GONE }
  od
}

/* A claim is written by a child process: one that was begun may land late, whatever became of its agent. */
active proctype Claim()
{
  atomic { voted && record == OLD -> record = CLAIMED }
}

/* What the end of the destination's agent takes with it. Afterwards `owner` may mean that the guest ran. */
#define FORGET_DESTINATION da = false; dm = false; d_stop = false; d_commit_read = false; d_claimed = false; \
       d_peer = NOTHING; d_may_have_run = (dj == OWNER)

active proctype Faults()
{
  do
  :: atomic { !cancelled && sa -> cancelled = true; s_stop = true }                      /* cancel, or the source's time limit */
  /* agents */
  :: atomic { faults < FAULTS && sa -> faults++; sa = false; sm = false; s_stop = false; s_peer = NOTHING; s_claimed = false;
       if :: sj == HANDED_OFF && (sq == HOLDING || sq == HELD) -> sq = SERVING :: else fi; /* not known: so it may be */
#ifdef APART
       s_given = false; s_refused = false;
#endif
       s_completed = s_completed && s_commit_sent;  /* the VM's runtime file says so before COMMIT leaves */
       s_commit_sent = true }                       /* after a restart: possibly */
  :: atomic { faults < FAULTS && da -> faults++; FORGET_DESTINATION;
       if :: dj == OWNER && dq == GONE -> lost = true :: else fi }
  /* movers, network */
  :: atomic { faults < FAULTS && sm -> faults++; sm = false }
  :: atomic { faults < FAULTS && dm -> faults++; dm = false }
  :: atomic { faults < FAULTS && link -> faults++; link = false }
  /* QEMUs; a guest whose destination gave up while its source died is lost as well */
  :: atomic { faults < FAULTS && dq != GONE -> faults++;
       if :: sq == GONE || d_ran || (dj == OWNER && (d_may_have_run || !da)) -> lost = true :: else fi; dq = GONE }
  :: atomic { faults < FAULTS && sq != GONE -> faults++;
       if :: !PAGES_MISSING && (dq == RUN || (dj == OWNER && dq == LOADED)) :: else -> lost = true fi; sq = GONE }
  /* the datastore does not answer to the destination's claim */
  :: atomic { faults < FAULTS && da && dj == PREPARED && !d_stop && !d_claimed && (voted || MAY_OWN) -> faults++; d_stop = true }
  /* the destination's host goes down for good, or comes back without its journals */
  :: atomic { faults < FAULTS && !d_down -> faults++; FORGET_DESTINATION; d_down = true;
       if :: sq == GONE || d_ran -> lost = true :: else fi; dq = GONE }
  :: atomic { faults < FAULTS && dj != FORGOTTEN -> faults++; FORGET_DESTINATION; dj = FORGOTTEN;
       if :: sq == GONE && dq != RUN -> lost = true :: else fi }
  /* the manager is wrong, and may take its word back */
  :: atomic { faults < FAULTS && !fenced -> faults++; fenced = true }
  :: atomic { fenced && !d_down -> fenced = false }
  /* what comes back, comes back */
  :: atomic { d_down && !fenced -> fenced = true }
#ifdef APART
  :: atomic { faults < FAULTS && sa && sj == HANDED_OFF && !s_given && !s_refused -> faults++; s_refused = true }
  /* The task ends with the source's last word, or with that of a destination whose guest runs (whether the source was heard or not); then the
   * guest may go on, and the host be removed, which is well. While the task lasts, only a host that is confirmed down is removed. */
  :: atomic { task && ((sa && (sj == TAKEN_BACK || sj == RELEASED)) || (da && dj == OWNER && dq == RUN)) -> task = false }
  :: atomic { !task && da && dj == OWNER && dq == RUN && !moved_on -> moved_on = true; dq = GONE }
  :: atomic { !host_removed && ((d_down && fenced) || moved_on) -> host_removed = true;
       if :: moved_on && !d_down -> FORGET_DESTINATION; d_down = true :: else fi }
  /* Neither can be asked: the source's host was confirmed down, the destination's removed. What is stopped there may come back. */
  :: atomic { task && host_removed && !sa && (sq == GONE || (sj == HANDED_OFF && sq == COMPLETED && !removed)) -> task = false; nowhere = true }
  :: atomic { nowhere && s_record != ELSEWHERE -> s_record = ELSEWHERE }                  /* started from the source's folder */
#ifndef BREAK_NEVER_LEFT
  :: atomic { host_removed && !task && sa && sj == HANDED_OFF && !left -> left = true }
#endif
#ifdef BREAK_REMOVED_LATE
  :: atomic { host_removed && !removed -> removed = true }
#else
  :: atomic { host_removed && task && !removed -> removed = true }
#endif
#endif
  :: atomic { !sa -> sa = true }
  :: atomic { !da && !d_down -> da = true }
  :: atomic { !link -> link = true }
  od
}

#define ONE_RUNS !(sq == RUN && dq == RUN)
#define ONE_CLAIMS !(dj == OWNER && (sj == OUTGOING || sj == TAKEN_BACK))
#define NEVER_STALE !(d_ran && sq == RUN)
#define NEVER_REWOUND !(s_ran_on && dq == RUN)

#ifdef APART
/* Once the guest ran at the destination, nobody can start it from what it left behind, and the destination's record says so. What a host that was
 * removed for good had is given up. */
#define ALL_SAFE (ONE_RUNS && NEVER_REWOUND && !(moved_on && sq == RUN) && !(s_record == ELSEWHERE && (sq == RUN || dq == RUN)) && (removed || (ONE_CLAIMS && NEVER_STALE && (!d_ran || (s_record != OLD && record == CLAIMED && mirrored)))))
/* The guest has gone on at a third host; or it is nobody's, and starts from the source's folder. Nothing of it waits on either side. */
#define GIVEN_UP ((removed && sq == RUN && dq == GONE) || ((moved_on || nowhere) && sj != HANDED_OFF && sq == GONE && dq == GONE))
#else
#define ALL_SAFE (ONE_RUNS && ONE_CLAIMS && NEVER_STALE && NEVER_REWOUND)
#define GIVEN_UP false
#endif
ltl safe { [] (ALL_SAFE) } /* the next four in one search */
ltl one_runs { [] ONE_RUNS }
ltl one_claims { [] ONE_CLAIMS }
ltl never_stale { [] NEVER_STALE }
ltl never_rewound { [] NEVER_REWOUND }
ltl never_arrives_later { [] !arrived }  /* ... and this */
ltl never_arrives { [] (dq != RUN) }     /* must be found false: the way is open */
ltl settles { <> [] ((sq == RUN && dq == GONE && dj != OWNER) || (dq == RUN && sq == GONE) ||
                     (lost && sq == GONE && dq == GONE) || GIVEN_UP) }

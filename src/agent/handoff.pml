/* SPDX-License-Identifier: Apache-2.0 */
/* The handoff of a VM between two agents, for spin. It states the rules of handoff.c with what surrounds them: two QEMUs,
 * two movers, two agents with durable journals and volatile memory, a network that can be cut, and faults at any step.
 *
 * Safety:   the guest never runs on both hosts, and the two journals never both claim it.
 * Liveness: when faults stop and both agents are back and connected, the guest runs on exactly one host for ever, unless a
 *           fault killed the only QEMU that held it.
 *
 * dev/spin runs it. The C code's crash points are the boundaries between the atomic steps here; their names stand beside. */

#ifndef FAULTS
#define FAULTS 3
#endif

mtype = { OUTGOING, HANDED_OFF, TAKEN_BACK, RELEASED };         /* source journal */
mtype = { PREPARED, OWNER, ABANDONED };                         /* destination journal */
mtype = { RUN, FINAL, COMPLETED, LOADING, LOADED, GONE, NOTHING }; /* QEMUs; NOTHING: no answer yet */

/* durable */
mtype sj = OUTGOING, dj = PREPARED;
/* processes and network */
mtype sq = RUN, dq = LOADING;
bool sa = true, da = true;   /* agents */
bool sm = true, dm = true;   /* movers; each dies with its agent */
bool link = true;
/* in QEMU, movers and sockets */
bool voted = false;          /* the source's QEMU was given SHUT(0) */
bool all_data = false;       /* the whole stream is in the destination mover's hands */
bool fed = false;            /* ... and in the destination QEMU's socket */
bool commit_net = false;     /* COMMIT is on its way */
/* volatile memory of the agents */
bool s_stop = false, s_commit_sent = false;
mtype s_peer = NOTHING;
bool d_stop = false, d_commit_read = false;
mtype d_peer = NOTHING, d_peer_qemu = NOTHING;
bool d_may_have_run = false;

/* The destination says `owner` only once its guest may have run. */
#define GIVE_BACK (!d_may_have_run && (dq == GONE || dq == LOADED))
#define TOLD ((dj == OWNER && (GIVE_BACK || dq == LOADED)) -> PREPARED : dj)

bool lost = false;           /* a fault killed the QEMU that alone could run the guest */
bool cancelled = false;
byte faults = 0;

/* The source's QEMU by itself: migration/migration.c, return-path on. */
active proctype SourceQemu()
{
  do
  :: atomic { sq == RUN && sm && sj == OUTGOING && !s_stop -> sq = FINAL }   /* crash point source-switching */
  :: atomic { sq == FINAL && voted -> sq = COMPLETED }      /* also when the mover died after the vote was read */
  :: atomic { sq == FINAL && !sm -> sq = RUN }              /* stream or return path closed: resumes */
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
  :: atomic { sm && dm && link && (sq == FINAL || sq == COMPLETED) && !all_data -> all_data = true }
  :: atomic { dm && all_data && !fed -> fed = true }
  :: atomic { commit_net && dm && da && all_data && link -> commit_net = false; d_commit_read = true }
  :: atomic { commit_net && !dm -> commit_net = false }
  :: atomic { commit_net && !link -> commit_net = false }
  :: atomic { !link && (sm || dm) -> sm = false; dm = false }  /* peer silent: both give up */
  :: atomic { sm && !dm -> sm = false }
  :: atomic { dm && !sm && !commit_net -> dm = false }
  od
}

active proctype SourceAgent()
{
  do
  /* OUTGOING */
  :: atomic { sa && sj == OUTGOING && sm && s_stop -> sm = false }                       /* ABORT */
  :: atomic { sa && sj == OUTGOING && sq == FINAL && sm && !s_stop -> sj = HANDED_OFF }  /* crash point source-handed-off */
  :: atomic { sa && sj == OUTGOING && sq == COMPLETED -> sj = TAKEN_BACK }
  /* HANDED_OFF */
  :: atomic { sa && sj == HANDED_OFF && sq == FINAL && sm && !voted -> voted = true }
  :: atomic { sa && sj == HANDED_OFF && sq == RUN -> sj = TAKEN_BACK }
#ifdef BREAK_COMMIT_EARLY /* what the rules forbid: each BREAK_ must be found by the check, or the check proves nothing */
  :: atomic { sa && sj == HANDED_OFF && sq == FINAL && sm && !s_commit_sent -> s_commit_sent = true; commit_net = true }
#endif
#ifdef BREAK_BELIEVE_SILENCE
  :: atomic { sa && sj == HANDED_OFF && sq == COMPLETED && !link -> sj = TAKEN_BACK }
#endif
  :: atomic { sa && sj == HANDED_OFF && sq == COMPLETED && sm && !s_commit_sent ->       /* crash point source-commit */
       s_commit_sent = true; commit_net = true }
  :: atomic { sa && sj == HANDED_OFF && (sq == COMPLETED || sq == GONE) && s_peer == OWNER ->
       sj = RELEASED }                                                                   /* crash point source-done */
  :: atomic { sa && sj == HANDED_OFF && (sq == COMPLETED || sq == GONE) && s_peer == ABANDONED -> sj = TAKEN_BACK }
  :: atomic { sa && da && link && sj == HANDED_OFF && (sq == COMPLETED || sq == GONE) && s_peer != TOLD ->
       s_peer = TOLD }                                                                     /* ASK (also the RESULT frame) */
  :: atomic { sa && da && link && sj == HANDED_OFF && (sq == COMPLETED || sq == GONE) && s_stop &&
              dj == PREPARED && !d_stop -> d_stop = true }                               /* ASK_ABORT */
  /* after the record */
  :: atomic { sa && sj == TAKEN_BACK && sq == COMPLETED -> sq = RUN }                    /* epoch + 2, cont */
  :: atomic { sa && sj == TAKEN_BACK && sm -> sm = false }
  :: atomic { sa && sj == RELEASED && sq != GONE -> sq = GONE }
  od
}

active proctype DestinationAgent()
{
  do
  /* PREPARED */
  :: atomic { da && dj == PREPARED && dq == GONE -> dj = ABANDONED }
  :: atomic { da && dj == PREPARED && d_stop && dq != GONE -> dq = GONE }                /* kill first */
  :: atomic { da && dj == PREPARED && dq == LOADED && !d_stop && d_commit_read -> dj = OWNER } /* crash point destination-owner */
  :: atomic { da && dj == PREPARED && dq == LOADED && !d_stop && d_peer == HANDED_OFF &&
              (d_peer_qemu == COMPLETED || d_peer_qemu == GONE) -> dj = OWNER }
  :: atomic { da && dj == PREPARED && dq == LOADED && !dm && !d_commit_read &&
              (d_peer == OUTGOING || d_peer == TAKEN_BACK) -> dq = GONE }
#ifdef BREAK_TAKE_OVER_UNCONFIRMED
  :: atomic { da && dj == PREPARED && dq == LOADED && !d_stop && !dm && d_peer == HANDED_OFF -> dj = OWNER }
#endif
  :: atomic { da && sa && link && dj == PREPARED && dq == LOADED && !dm && !d_commit_read &&
              (d_peer != sj || d_peer_qemu != sq) -> d_peer = sj; d_peer_qemu = sq }     /* ASK */
  :: atomic { da && dj == PREPARED && dq == LOADING && !dm && fed && !d_stop && faults > 0 -> d_stop = true } /* time limit */
  /* OWNER, ABANDONED */
  :: atomic { da && dj == OWNER && dq == LOADED -> dq = RUN; d_may_have_run = true }     /* crash point destination-done */
  :: atomic { da && dj == OWNER && dq == GONE && !d_may_have_run -> dj = ABANDONED }
  :: atomic { da && dj == ABANDONED && dq != GONE -> dq = GONE }
  od
}

active proctype Faults()
{
  do
  :: atomic { !cancelled && sa -> cancelled = true; s_stop = true }                      /* cancel, or the source's time limit */
  :: atomic { faults < FAULTS && sa -> faults++; sa = false; sm = false;
       s_stop = false; s_peer = NOTHING; s_commit_sent = true }                          /* after a restart: possibly sent */
  :: atomic { faults < FAULTS && da -> faults++; da = false; dm = false;
       d_stop = false; d_commit_read = false; d_peer = NOTHING; d_peer_qemu = NOTHING;
       d_may_have_run = (dj == OWNER) }                                                  /* after a restart: not known */
  :: atomic { faults < FAULTS && sm -> faults++; sm = false }
  :: atomic { faults < FAULTS && dm -> faults++; dm = false }
  :: atomic { faults < FAULTS && dq != GONE -> faults++;
       if :: dj == OWNER && (d_may_have_run || !da || sj != HANDED_OFF) -> lost = true :: sq == GONE -> lost = true :: else fi; dq = GONE }
  :: atomic { faults < FAULTS && sq != GONE -> faults++;
       if :: dj != OWNER && dq != LOADED && dq != RUN -> lost = true
          :: sj != HANDED_OFF && dj != OWNER -> lost = true
          :: else fi; sq = GONE }
  :: atomic { faults < FAULTS && link -> faults++; link = false }
  :: atomic { !sa -> sa = true }
  :: atomic { !da -> da = true }
  :: atomic { !link -> link = true }
  od
}

ltl one_runs { [] !(sq == RUN && dq == RUN) }
ltl never_arrives { [] (dq != RUN) }     /* must be found false: the way is open */
ltl one_claims { [] !(dj == OWNER && (sj == OUTGOING || sj == TAKEN_BACK)) }
ltl settles { <> [] (lost || (sq == RUN && dq != RUN && dj != OWNER) || (dq == RUN && sq != RUN) ||
                     (sq == GONE && dq == GONE)) }

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Moving many virtual machines by one task, so that it ends: for each of them a bounded number of tries, then the fall-backs of a
 * policy in their order, then it stays where it is and the report says why. Pure. docs/decisions/0018 has the reasons. */

#include <jansson.h>

#include "base/error.h"

#define EVACUATION_FALLBACKS(X) \
        X(OTHER_HOST, "other-host") /* the next best host, of those that it has not failed to go to */ \
        X(WAIT, "wait")             /* until something fits, up to a limit */ \
        X(SUSPEND, "suspend")       /* to its datastore, and resumed on the best host: moved cold */ \
        X(STOP, "stop")             /* the guest is asked to power off */ \
        X(POWER_OFF, "power-off")

enum evacuation_fallback {
#define X(name, text) EVACUATION_##name,
        EVACUATION_FALLBACKS(X)
#undef X
                N_EVACUATION_FALLBACKS,
};

#define EVACUATION_TRIES_DEFAULT 3u
#define EVACUATION_TRIES_MAX 10u
#define EVACUATION_WAIT_DEFAULT_MS (UINT64_C(600) * 1000)
#define EVACUATION_SUSPEND_DEFAULT_MS (UINT64_C(60) * 1000)
#define EVACUATION_STOP_DEFAULT_MS (UINT64_C(120) * 1000)
#define EVACUATION_LIMIT_MAX_MS (UINT64_C(24) * 3600 * 1000)
#define EVACUATION_AGAIN_MS 15000 /* between tries while it waits */

struct evacuation_policy {
        unsigned int
                tries; /* migrations of one virtual machine; while it waits, as many again; and as many resumptions */
        size_t n;
        struct {
                enum evacuation_fallback fallback;
                uint64_t
                        limit_ms; /* of WAIT; of SUSPEND, for a host that resumes it; what STOP gives the guest; else 0 */
        } steps[N_EVACUATION_FALLBACKS];
};

/* Reads "tries" and "policy" (array of {"step", "limit_ms"}) of the object, or the defaults: other-host, then wait. may_stop: the
 * steps that suspend a guest or end it are allowed. BAD_DOCUMENT. */
int evacuation_policy_read(
        const json_t *object, bool may_stop, struct evacuation_policy *ret_policy, struct error **ret_error);
/* Whether some step suspends guests or ends them, which takes the permission to do so. */
bool evacuation_policy_uses_power(const struct evacuation_policy *policy);
/* How long what is suspended waits for a host that resumes it: the step's own limit, or its default; for the end of maintenance (brings_back), which
 * has no such step, as long as WAIT does. Milliseconds. */
uint64_t evacuation_patience_ms(const struct evacuation_policy *policy, bool brings_back);
/* The word for what is done at that rank: "first", one of the fall-backs, or "stays". */
const char *evacuation_rank_to_string(const struct evacuation_policy *policy, unsigned int rank);

/* How far one virtual machine has come; all zero in the beginning. Recorded with the task. */
struct evacuation_progress {
        unsigned int rank;    /* 0: the first try; then the policy's steps; behind them it stays */
        unsigned int n_moves; /* so far */
        unsigned int n_rank_moves;
        bool acted;       /* SUSPEND, STOP and POWER_OFF are done once */
        int64_t since_ms; /* this rank began */
        unsigned int n_resumes;
        int64_t suspended_ms; /* since when it is looked for a host that resumes it; 0: it was not yet */
        bool lost_race; /* such a host had no room any more when it came to it: that is tried again, but not for ever */
};

struct evacuation_facts {
        int64_t now_ms;
        int64_t last_end_ms;  /* of its last try; 0: there was none */
        bool runs;            /* it can be migrated */
        bool may_stop;        /* and its host can be asked to suspend or end it */
        bool fits;            /* some host would take it */
        bool fits_other;      /* one that it has not failed to go to */
        bool closed;          /* nothing starts any more; but what is suspended may be resumed */
        bool suspended;       /* on behalf of this, or perhaps: then `fits_other` is about a resumption */
        bool unclear;         /* it may have been resumed: that it turns out is waited for */
        uint64_t patience_ms; /* how long, and for a host that resumes it */
};

enum evacuation_act {
        EVACUATION_ACT_WAIT,
        EVACUATION_ACT_MIGRATE,       /* to the best host */
        EVACUATION_ACT_MIGRATE_OTHER, /* to the best of those that it has not failed to go to */
        EVACUATION_ACT_SUSPEND,
        EVACUATION_ACT_RESUME, /* on the best host of those that it has not failed to be resumed on */
        EVACUATION_ACT_STOP,
        EVACUATION_ACT_POWER_OFF,
        EVACUATION_ACT_LEAVE, /* nothing is left to be done: it stays, or stays suspended */
};

/* What to do with it now, no try of it being under way; brings the progress up to that. */
enum evacuation_act evacuation_next(const struct evacuation_policy *policy,
        struct evacuation_progress *progress, const struct evacuation_facts *facts);

/* Sorts documents of virtual machines into the order in which they go: large ones first, for small ones fit into what is left. */
void evacuation_sort(const json_t **vms, size_t n);

/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/evacuation.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "cluster/checks.h"

static const char *const words[] = {
#define X(name, text) [EVACUATION_##name] = text,
        EVACUATION_FALLBACKS(X)
#undef X
};

#define HINT \
        "Allowed are other-host, wait, suspend, stop and power-off, each once, in the order in which they " \
        "are " \
        "to be tried."

static const uint64_t default_limits_ms[N_EVACUATION_FALLBACKS] = {
        [EVACUATION_WAIT] = EVACUATION_WAIT_DEFAULT_MS,
        [EVACUATION_SUSPEND] = EVACUATION_SUSPEND_DEFAULT_MS,
        [EVACUATION_STOP] = EVACUATION_STOP_DEFAULT_MS};

static int find_word(const char *word, enum evacuation_fallback *ret)
{
        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (!strcmp(words[i], word)) {
                        *ret = (enum evacuation_fallback)i;
                        return 0;
                }
        return -EINVAL;
}

static bool uses_power(enum evacuation_fallback fallback)
{
        return fallback == EVACUATION_SUSPEND || fallback == EVACUATION_STOP ||
               fallback == EVACUATION_POWER_OFF;
}

static int read_step(
        const json_t *item, bool may_stop, struct evacuation_policy *policy, struct error **ret_error)
{
        static const char *const keys[] = {"step", "limit_ms", NULL};
        enum evacuation_fallback fallback = EVACUATION_OTHER_HOST;
        const char *word = NULL;
        uint64_t limit_ms;
        int r;

        r = doc_only_keys(item, "policy", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(item, "policy", "step", 32, &word, ret_error);
        if (r < 0)
                return r;
        if (find_word(word, &fallback) < 0)
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, HINT, "policy: there is no step \"%.32s\"", word);
        for (size_t i = 0; i < policy->n; i++)
                if (policy->steps[i].fallback == fallback)
                        return error_set(
                                ret_error, ERROR_BAD_DOCUMENT, HINT, "policy: %s is there twice", word);
        if (!may_stop && uses_power(fallback))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Only maintenance of a host suspends or ends guests.", "policy: %s is not for this",
                        word);
        limit_ms = default_limits_ms[fallback];
        if (!limit_ms && json_is_integer(json_object_get(item, "limit_ms")))
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, "Leave it out.", "policy: %s has no time limit", word);
        r = doc_opt_u64(item, "policy", "limit_ms", 1000, EVACUATION_LIMIT_MAX_MS, &limit_ms, ret_error);
        if (r < 0)
                return r;
        policy->steps[policy->n].fallback = fallback;
        policy->steps[policy->n++].limit_ms = limit_ms;
        return 0;
}

int evacuation_policy_read(
        const json_t *object, bool may_stop, struct evacuation_policy *ret_policy, struct error **ret_error)
{
        struct evacuation_policy policy = {};
        uint64_t tries = EVACUATION_TRIES_DEFAULT;
        json_t *steps = NULL, *item;
        size_t i;
        int r;

        r = doc_opt_u64(object, "", "tries", 1, EVACUATION_TRIES_MAX, &tries, ret_error);
        if (r >= 0)
                r = doc_opt_array(object, "", "policy", N_EVACUATION_FALLBACKS, &steps, ret_error);
        json_array_foreach (steps, i, item)
                if (r >= 0)
                        r = read_step(item, may_stop, &policy, ret_error);
        if (r < 0)
                return r;
        policy.tries = (unsigned int)tries;
        if (!steps) {
                policy.n = 2;
                policy.steps[0].fallback = EVACUATION_OTHER_HOST;
                policy.steps[1].fallback = EVACUATION_WAIT;
                policy.steps[1].limit_ms = EVACUATION_WAIT_DEFAULT_MS;
        }
        *ret_policy = policy;
        return 0;
}

bool evacuation_policy_uses_power(const struct evacuation_policy *policy)
{
        for (size_t i = 0; i < policy->n; i++)
                if (uses_power(policy->steps[i].fallback))
                        return true;
        return false;
}

const char *evacuation_rank_to_string(const struct evacuation_policy *policy, unsigned int rank)
{
        if (!rank)
                return "first";
        return rank <= policy->n ? words[policy->steps[rank - 1].fallback] : "stays";
}

static enum evacuation_act move(struct evacuation_progress *progress, enum evacuation_act act)
{
        progress->n_moves++;
        progress->n_rank_moves++;
        return act;
}

/* Also when the clock was set back since its last try. */
static bool is_time_again(const struct evacuation_facts *facts)
{
        return facts->now_ms >= facts->last_end_ms + EVACUATION_AGAIN_MS ||
               facts->now_ms < facts->last_end_ms;
}

static enum evacuation_act act_once(
        struct evacuation_progress *progress, const struct evacuation_facts *facts, enum evacuation_act act)
{
        if (progress->acted || !facts->may_stop)
                return EVACUATION_ACT_LEAVE;
        progress->acted = true;
        return act;
}

uint64_t evacuation_patience_ms(const struct evacuation_policy *policy, bool brings_back)
{
        enum evacuation_fallback step = brings_back ? EVACUATION_WAIT : EVACUATION_SUSPEND;

        for (size_t i = 0; i < policy->n; i++)
                if (policy->steps[i].fallback == step)
                        return policy->steps[i].limit_ms;
        return brings_back ? 0 : EVACUATION_SUSPEND_DEFAULT_MS;
}

/* It is away from where it was; all there is to do is to let it run again. */
static enum evacuation_act act_of_suspended(const struct evacuation_policy *policy,
        struct evacuation_progress *progress, const struct evacuation_facts *facts)
{
        bool waits;

        if (!progress->suspended_ms || facts->now_ms < progress->suspended_ms)
                progress->suspended_ms = facts->now_ms;
        waits = (uint64_t)(facts->now_ms - progress->suspended_ms) < facts->patience_ms;
        if (facts->unclear)
                return waits ? EVACUATION_ACT_WAIT : EVACUATION_ACT_LEAVE;
        if (progress->n_resumes >= policy->tries)
                return EVACUATION_ACT_LEAVE;
        if (facts->fits_other && (waits || !progress->lost_race)) {
                progress->n_resumes++;
                return EVACUATION_ACT_RESUME;
        }
        return waits ? EVACUATION_ACT_WAIT : EVACUATION_ACT_LEAVE;
}

/* What the present rank has left to do; LEAVE: nothing. */
static enum evacuation_act act_of_rank(const struct evacuation_policy *policy,
        struct evacuation_progress *progress, const struct evacuation_facts *facts)
{
        uint64_t limit_ms;

        if (!progress->rank)
                return facts->runs && facts->fits && !progress->n_rank_moves
                               ? move(progress, EVACUATION_ACT_MIGRATE)
                               : EVACUATION_ACT_LEAVE;
        limit_ms = policy->steps[progress->rank - 1].limit_ms;
        switch (policy->steps[progress->rank - 1].fallback) {
        case EVACUATION_OTHER_HOST:
                if (facts->runs && facts->fits_other && progress->n_moves < policy->tries)
                        return move(progress, EVACUATION_ACT_MIGRATE_OTHER);
                return EVACUATION_ACT_LEAVE;
        case EVACUATION_WAIT:
                /* A clock that was set back begins the waiting anew. */
                if (facts->now_ms < progress->since_ms)
                        progress->since_ms = facts->now_ms;
                if ((uint64_t)(facts->now_ms - progress->since_ms) >= limit_ms ||
                        progress->n_rank_moves >= policy->tries)
                        return EVACUATION_ACT_LEAVE;
                if (facts->runs && facts->fits && is_time_again(facts))
                        return move(progress, EVACUATION_ACT_MIGRATE);
                return EVACUATION_ACT_WAIT;
        case EVACUATION_SUSPEND:
                return act_once(progress, facts, EVACUATION_ACT_SUSPEND);
        case EVACUATION_STOP:
                return act_once(progress, facts, EVACUATION_ACT_STOP);
        case EVACUATION_POWER_OFF:
                return act_once(progress, facts, EVACUATION_ACT_POWER_OFF);
        case N_EVACUATION_FALLBACKS:
                break;
        }
        return EVACUATION_ACT_LEAVE;
}

enum evacuation_act evacuation_next(const struct evacuation_policy *policy,
        struct evacuation_progress *progress, const struct evacuation_facts *facts)
{
        if (facts->suspended)
                return act_of_suspended(policy, progress, facts);
        while (!facts->closed && progress->rank <= policy->n) {
                enum evacuation_act act = act_of_rank(policy, progress, facts);

                if (act != EVACUATION_ACT_LEAVE)
                        return act;
                *progress = (struct evacuation_progress){.rank = progress->rank + 1,
                        .n_moves = progress->n_moves,
                        .n_resumes = progress->n_resumes,
                        .since_ms = facts->now_ms};
        }
        return EVACUATION_ACT_LEAVE;
}

static int larger_first(const void *a, const void *b)
{
        const json_t *x = *(const json_t *const *)a, *y = *(const json_t *const *)b;
        json_int_t x_bytes = checks_memory_need(x), y_bytes = checks_memory_need(y);

        if (x_bytes != y_bytes)
                return x_bytes > y_bytes ? -1 : 1;
        return strcmp(json_string_value(json_object_get(x, "name")) ?: "",
                json_string_value(json_object_get(y, "name")) ?: "");
}

void evacuation_sort(const json_t **vms, size_t n)
{
        if (n)
                qsort(vms, n, sizeof(*vms), larger_first);
}

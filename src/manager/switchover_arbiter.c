/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/switchover_arbiter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/map.h"
#include "cluster/queue.h"
#include "cluster/switchovers.h"
#include "manager/json.h"
#include "manager/manager.h"

#define LEVEL_MS 5000 /* what a level of priority is worth among those that wait for a link */
#define WORD_AGAIN_MS 4000
/* After a permit is over, for an agent that does not answer: the longest pause that counts. */
#define AWAY_MS 30000

struct switchover_arbiter {
        struct manager *manager;
        uint64_t began_ms;
        struct map heard; /* uids of the tasks whose migration's status was seen by this process */
};

int switchover_arbiter_new(struct manager *manager, struct switchover_arbiter **ret_arbiter)
{
        struct switchover_arbiter *arbiter = ALLOC(struct switchover_arbiter);

        if (!arbiter)
                return -ENOMEM;
        arbiter->manager = manager;
        arbiter->began_ms = clock_now_ms(manager->clock);
        map_init(&arbiter->heard);
        *ret_arbiter = arbiter;
        return 0;
}

void switchover_arbiter_free(struct switchover_arbiter *arbiter)
{
        if (!arbiter)
                return;
        map_deinit(&arbiter->heard);
        free(arbiter);
}

void switchover_arbiter_forget(struct switchover_arbiter *arbiter, const struct task *task)
{
        map_remove(&arbiter->heard, task_uid(task));
}

static int64_t unix_ms(const struct switchover_arbiter *arbiter)
{
        return clock_unix_ms(arbiter->manager->clock);
}

static json_t *record_of(const struct task *task)
{
        return json_object_get(task_data(task), "switchover");
}

static bool is_in(const struct task *task, const char *state)
{
        return !strcmp(json_text(record_of(task), "state"), state);
}

/* Enters a state, with its time. */
static int enter(struct switchover_arbiter *arbiter, struct task *task, const char *state)
{
        json_t *record = record_of(task);
        char key[32];

        if (!record) {
                record = json_object();
                if (!record || json_object_set_new(task_data(task), "switchover", record) < 0)
                        return -ENOMEM;
        }
        snprintf(key, sizeof(key), "%s_unix_ms", state);
        return json_object_set_new(record, "state", json_string(state)) |
               json_object_set_new(record, key, json_integer(unix_ms(arbiter)));
}

/* --- Who has which link ----------------------------------------------------------------------------------- */

struct gathering {
        struct switchover_arbiter *arbiter;
        const struct task *asking;
        struct switchover_claim *claims;
        size_t n_claims;
        struct map links; /* host uid -> number + 1 */
        size_t n_links;
        size_t own; /* claim of the task that asks */
        int result;
};

static size_t link_of(struct gathering *g, const char *host_uid)
{
        uintptr_t known = (uintptr_t)map_get(&g->links, host_uid);

        if (known)
                return (size_t)known - 1;
        if (map_put(&g->links, host_uid, (void *)(uintptr_t)(g->n_links + 1), NULL) < 0)
                g->result = -ENOMEM;
        return g->n_links++;
}

/* Its agent cannot be asked, and what was permitted must be over. */
static bool is_lost(const struct gathering *g, const struct task *task)
{
        json_int_t misses = json_integer_value(json_object_get(task_data(task), "source_misses"));
        json_int_t since = json_integer_value(json_object_get(record_of(task), "permitted_unix_ms"));

        return misses > 0 && unix_ms(g->arbiter) > since + SWITCHOVER_PERMIT_MS + AWAY_MS;
}

/* It asks, and its agent cannot be asked any more: it may go on alone after its patience, and is lost after that. */
static bool is_missed(const struct gathering *g, const struct task *task, bool *ret_lost)
{
        json_int_t misses = json_integer_value(json_object_get(task_data(task), "source_misses"));
        json_int_t asked = json_integer_value(json_object_get(record_of(task), "asked_unix_ms"));
        json_int_t word = json_integer_value(json_object_get(record_of(task), "word_unix_ms"));

        *ret_lost = unix_ms(g->arbiter) >
                    MAX(asked, word) + SWITCHOVER_PATIENCE_MS + SWITCHOVER_PERMIT_MS + AWAY_MS;
        return misses > 0 && is_in(task, "asked");
}

/* Nobody knows how far it is: it was under way before we began, and has not been heard of. */
static bool is_unknown(const struct gathering *g, const struct task *task)
{
        const struct switchover_arbiter *arbiter = g->arbiter;

        return !map_get(&arbiter->heard, task_uid(task)) &&
               clock_now_ms(arbiter->manager->clock) < arbiter->began_ms + SWITCHOVER_PATIENCE_MS;
}

static void gather(void *userdata, const struct task *task)
{
        struct gathering *g = userdata;
        const char *from = json_text(task_data(task), "host_uid"), *to = json_text(task_data(task), "to_uid");
        enum queue_priority priority = QUEUE_NORMAL;
        struct switchover_claim claim = {};
        struct switchover_claim *grown;
        bool missed, lost = false;

        if (strcmp(task_action(task), "vm.migrate") || !task_running(task) || !*from || !*to)
                return;
        missed = is_missed(g, task, &lost);
        if (missed && lost)
                return;
        claim.holds = task != g->asking &&
                      (missed || (is_in(task, "permitted") && !is_lost(g, task)) || is_unknown(g, task));
        if (!claim.holds && !is_in(task, "asked"))
                return;
        grown = alloc_resize(g->claims, g->n_claims + 1, sizeof(*grown));
        if (!grown) {
                g->result = -ENOMEM;
                return;
        }
        g->claims = grown;
        (void)queue_priority_from_string(task_priority(task), &priority);
        claim.rank_ms = json_integer_value(json_object_get(record_of(task), "asked_unix_ms")) -
                        (int64_t)priority * LEVEL_MS;
        claim.links[0] = link_of(g, from);
        claim.links[1] = link_of(g, to);
        if (task == g->asking)
                g->own = g->n_claims;
        g->claims[g->n_claims++] = claim;
}

/* Whether the task, which asks, may pause its guest now. */
static int decide(struct switchover_arbiter *arbiter, const struct task *task, bool *ret_granted)
{
        struct gathering g = {.arbiter = arbiter, .asking = task, .own = SIZE_MAX};
        int r;

        map_init(&g.links);
        task_each(arbiter->manager->tasks, gather, &g);
        r = g.result < 0 ? g.result : switchovers_grant(g.claims, g.n_claims, g.n_links);
        if (r >= 0)
                *ret_granted = g.own < g.n_claims && g.claims[g.own].granted;
        free(g.claims);
        map_deinit(&g.links);
        return r;
}

/* --- What the source says --------------------------------------------------------------------------------- */

static void poke_waiting(void *userdata, const struct task *task)
{
        if (is_in(task, "asked"))
                task_poke(userdata, task_uid(task));
}

/* It has left the link; those that wait for it look again. */
static int release(struct switchover_arbiter *arbiter, struct task *task)
{
        if (!is_in(task, "permitted") && !is_in(task, "asked"))
                return 0;
        if (enter(arbiter, task, "over") < 0)
                return -ENOMEM;
        task_each(arbiter->manager->tasks, poke_waiting, arbiter->manager->tasks);
        return 0;
}

/* The guest is not paused on its way any more. */
static bool has_passed(const char *phase)
{
        static const char *const passed[] = {
                "settling", "waiting-for-peer", "done", "failed", "cancelled", NULL};

        for (size_t i = 0; passed[i]; i++)
                if (!strcmp(passed[i], phase))
                        return true;
        return false;
}

/* The agent goes on alone after its patience: it has to hear that we live, now and then. */
static json_t *wait_word(struct switchover_arbiter *arbiter, struct task *task)
{
        json_int_t last = json_integer_value(json_object_get(record_of(task), "word_unix_ms"));

        if (unix_ms(arbiter) < last + WORD_AGAIN_MS && unix_ms(arbiter) >= last)
                return NULL;
        (void)json_object_set_new(record_of(task), "word_unix_ms", json_integer(unix_ms(arbiter)));
        return json_pack("{s:b}", "permit", 0);
}

/* It asks, for the first time or again: a permit that it had before is over. */
static int answer(
        struct switchover_arbiter *arbiter, struct task *task, json_t **ret_answer, struct error **ret_error)
{
        bool granted = false;
        int r = is_in(task, "asked") ? 0 : enter(arbiter, task, "asked");

        if (r >= 0)
                r = decide(arbiter, task, &granted);
        if (r >= 0 && granted)
                r = enter(arbiter, task, "permitted");
        if (r < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (!granted) {
                *ret_answer = wait_word(arbiter, task);
                return 0;
        }
        r = task_checkpoint(task, ret_error);
        if (r < 0) { /* it is not permitted before that is on record */
                (void)json_object_set_new(record_of(task), "state", json_string("asked"));
                return r;
        }
        *ret_answer = json_pack("{s:b, s:i}", "permit", 1, "ms", SWITCHOVER_PERMIT_MS);
        return 0;
}

int switchover_arbiter_hear(struct switchover_arbiter *arbiter, struct task *task, const json_t *status,
        json_t **ret_answer, struct error **ret_error)
{
        const char *state = json_text(json_object_get(status, "switchover"), "state");
        int r = map_put(&arbiter->heard, task_uid(task), arbiter, NULL);

        *ret_answer = NULL;
        if (r >= 0 && (has_passed(json_text(status, "phase")) || !strcmp(state, "closed")))
                r = release(arbiter, task);
        else if (r >= 0 && !strcmp(state, "asked"))
                return answer(arbiter, task, ret_answer, ret_error);
        else if (r >= 0 && !strcmp(state, "open") && !is_in(task, "permitted"))
                r = enter(arbiter, task, "permitted"); /* alone, while we were away: it uses the link */
        return r < 0 ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory") : 0;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The queue of migrations: costs, order, what waits for what; and what must hold under any load. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cluster/queue.h"
#include "unit/torture_loop.h"

static struct queue *queue_make(const struct queue_limits *limits)
{
        struct queue *queue = NULL;

        assert_int_equal(queue_new(limits, &queue), 0);
        return queue;
}

static size_t resource(struct queue *queue, enum queue_kind kind, const char *name, uint64_t limit)
{
        size_t index = 0;

        assert_int_equal(queue_resource(queue, kind, name, limit, &index), 0);
        return index;
}

/* A live migration between two hosts that take `limit` each. */
static void add(struct queue *queue, const char *name, enum queue_priority priority, int64_t queued_ms,
        const char *from, const char *to, uint64_t limit, bool running)
{
        struct queue_demand demands[] = {
                {resource(queue, QUEUE_HOST, from, limit), 1}, {resource(queue, QUEUE_HOST, to, limit), 1}};
        struct queue_choice choice = {&demands[1], 1};

        assert_int_equal(queue_add(queue, &(struct queue_job){.name = name,
                                                  .priority = priority,
                                                  .queued_ms = queued_ms,
                                                  .running = running,
                                                  .demands = demands,
                                                  .n_demands = running ? 2 : 1,
                                                  .choices = &choice,
                                                  .n_choices = !running}),
                0);
}

static bool starts(const struct queue *queue, const char *name)
{
        const struct queue_verdict *verdict = queue_verdict(queue, name);

        assert_non_null(verdict);
        return verdict->starts;
}

static void costs_are_those_of_the_model(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;

        assert_int_equal(queue_cost(QUEUE_HOST, false), 1);
        assert_int_equal(queue_cost(QUEUE_HOST, true), 4);
        assert_int_equal(queue_cost(QUEUE_DATASTORE, false), 1);
        assert_int_equal(queue_cost(QUEUE_DATASTORE, true), 16);
        assert_int_equal(queue_cost(QUEUE_NETWORK, true), 1);
        assert_int_equal(limits.host, 8);
        assert_int_equal(limits.datastore, 128);
        assert_int_equal(queue_network_limit(&limits, 0), 4);
        assert_int_equal(queue_network_limit(&limits, UINT64_C(1000000000)), 4);
        assert_int_equal(queue_network_limit(&limits, UINT64_C(10000000000)), 8);
}

static void what_does_not_fit_waits_and_says_for_what(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);
        const struct queue_verdict *verdict;

        add(queue, "r1", QUEUE_NORMAL, 0, "host1", "host2", 2, true);
        add(queue, "r2", QUEUE_NORMAL, 0, "host1", "host3", 2, true);
        add(queue, "w", QUEUE_NORMAL, 0, "host1", "host4", 2, false);
        assert_int_equal(queue_decide(queue), 0);
        verdict = queue_verdict(queue, "w");
        assert_false(verdict->starts);
        assert_int_equal(verdict->position, 1);
        assert_int_equal(verdict->n_blockers, 1);
        assert_string_equal(verdict->blockers[0].name, "host1");
        assert_int_equal(verdict->blockers[0].used, 2);
        assert_int_equal(verdict->blockers[0].limit, 2);
        assert_string_equal(queue_waiting(queue, 0), "w");
        assert_null(queue_waiting(queue, 1));
}

static void higher_priority_comes_first(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);

        add(queue, "a", QUEUE_LOW, 1, "h1", "h2", 1, false);
        add(queue, "b", QUEUE_CRITICAL, 2, "h1", "h2", 1, false);
        add(queue, "c", QUEUE_HIGH, 0, "h1", "h2", 1, false);
        assert_int_equal(queue_decide(queue), 0);
        assert_true(starts(queue, "b"));
        assert_string_equal(queue_waiting(queue, 0), "c");
        assert_string_equal(queue_waiting(queue, 1), "a");
}

static void waiting_for_longer_than_a_level_is_worth_more(void **data)
{
        const struct queue_limits limits = {
                .host = 8, .datastore = 128, .network = 4, .network_fast = 8, .level_ms = 1000};
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);

        add(queue, "old", QUEUE_LOW, 0, "h1", "h2", 1, false);
        add(queue, "new", QUEUE_NORMAL, 1001, "h1", "h2", 1, false);
        assert_int_equal(queue_decide(queue), 0);
        assert_true(starts(queue, "old"));
        assert_false(starts(queue, "new"));
}

static void who_waits_for_something_else_is_overtaken(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);

        add(queue, "r", QUEUE_NORMAL, 0, "h1", "h2", 1, true);
        add(queue, "first", QUEUE_CRITICAL, 1, "h1", "h2", 1, false);
        add(queue, "other", QUEUE_LOW, 2, "h3", "h4", 1, false);
        assert_int_equal(queue_decide(queue), 0);
        assert_false(starts(queue, "first"));
        assert_true(starts(queue, "other"));
}

/* Eight units wanted at once by the first in the queue: what becomes free must not go to those behind it. */
static void small_jobs_do_not_starve_a_large_one(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);
        size_t h1 = resource(queue, QUEUE_HOST, "h1", 8);
        const struct queue_demand one = {h1, 1}, eight = {h1, 8};
        const struct queue_choice here = {NULL, 0};

        queue_add(queue, &(struct queue_job){.name = "r", .running = true, .demands = &one, .n_demands = 1});
        queue_add(queue, &(struct queue_job){.name = "large",
                                 .queued_ms = 1,
                                 .demands = &eight,
                                 .n_demands = 1,
                                 .choices = &here,
                                 .n_choices = 1});
        queue_add(queue, &(struct queue_job){.name = "small",
                                 .queued_ms = 2,
                                 .demands = &one,
                                 .n_demands = 1,
                                 .choices = &here,
                                 .n_choices = 1});
        assert_int_equal(queue_decide(queue), 0);
        assert_false(starts(queue, "large"));
        assert_false(starts(queue, "small"));
        assert_int_equal(queue_verdict(queue, "small")->blockers[0].kept, 8);
}

static void more_than_the_limit_runs_alone(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);
        const struct queue_demand demand = {resource(queue, QUEUE_HOST, "h1", 2), 4};
        const struct queue_choice here = {NULL, 0};

        queue_add(queue,
                &(struct queue_job){
                        .name = "a", .demands = &demand, .n_demands = 1, .choices = &here, .n_choices = 1});
        queue_add(queue, &(struct queue_job){.name = "b",
                                 .queued_ms = 1,
                                 .demands = &demand,
                                 .n_demands = 1,
                                 .choices = &here,
                                 .n_choices = 1});
        assert_int_equal(queue_decide(queue), 0);
        assert_true(starts(queue, "a"));
        assert_false(starts(queue, "b"));
}

static void the_best_place_with_room_is_taken(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);
        struct queue_demand full = {resource(queue, QUEUE_HOST, "full", 0), 1};
        const struct queue_demand memory[] = {{resource(queue, QUEUE_MEMORY, "small", 10), 8},
                {resource(queue, QUEUE_MEMORY, "large", 100), 8}};
        const struct queue_choice choices[] = {{&memory[0], 1}, {&memory[1], 1}};

        full.units = 0;
        for (const char *const *name = (const char *const[]){"a", "b", NULL}; *name; name++)
                queue_add(queue, &(struct queue_job){.name = *name,
                                         .demands = &full,
                                         .n_demands = 1,
                                         .choices = choices,
                                         .n_choices = 2});
        assert_int_equal(queue_decide(queue), 0);
        assert_true(starts(queue, "a"));
        assert_int_equal(queue_verdict(queue, "a")->choice, 0);
        assert_true(starts(queue, "b"));
        assert_int_equal(queue_verdict(queue, "b")->choice, 1);
}

static void held_jobs_keep_nothing_from_others(void **data)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = queue_make(&limits);
        const struct queue_demand demand = {resource(queue, QUEUE_HOST, "h1", 1), 1};
        const struct queue_choice here = {NULL, 0};

        queue_add(queue, &(struct queue_job){.name = "held",
                                 .held = true,
                                 .demands = &demand,
                                 .n_demands = 1,
                                 .choices = &here,
                                 .n_choices = 1});
        queue_add(queue, &(struct queue_job){.name = "free",
                                 .queued_ms = 1,
                                 .demands = &demand,
                                 .n_demands = 1,
                                 .choices = &here,
                                 .n_choices = 1});
        assert_int_equal(queue_decide(queue), 0);
        assert_false(starts(queue, "held"));
        assert_int_equal(queue_verdict(queue, "held")->n_blockers, 0);
        assert_true(starts(queue, "free"));
}

static void decide_about_one(void *unused)
{
        const struct queue_limits limits = QUEUE_LIMITS_DEFAULT;
        _cleanup_(queue_freep) struct queue *queue = NULL;
        struct queue_demand demand = {.units = 1};
        const struct queue_choice here = {&demand, 1};
        int r = queue_new(&limits, &queue);

        if (torture_failed(r < 0))
                return;
        r = queue_resource(queue, QUEUE_HOST, "h1", 1, &demand.resource);
        if (torture_failed(r < 0))
                return;
        r = queue_add(queue, &(struct queue_job){.name = "a", .choices = &here, .n_choices = 1});
        if (torture_failed(r < 0))
                return;
        r = queue_decide(queue);
        if (torture_failed(r < 0))
                return;
        assert_true(starts(queue, "a"));
}

static void lack_of_memory_is_an_error_like_any_other(void **data)
{
        torture_loop(decide_about_one, NULL);
}

/* --- Under any load --------------------------------------------------------------------------------------- */

#define N_HOSTS 5
#define N_JOBS 300
#define TICK_MS 1000
#define HOST_LIMIT 8
#define DATASTORE_LIMIT 40

enum state { ABSENT, WAITING, RUNNING, ENDED };

struct sim_job {
        char name[8];
        enum state state;
        enum queue_priority priority;
        int64_t arrives, started;
        int64_t lasts;
        size_t from, to; /* to == N_HOSTS: anywhere */
        bool with_disks;
};

struct sim {
        uint64_t seed;
        struct sim_job jobs[N_JOBS];
        int64_t now;
        const struct queue_limits *limits;
};

static uint64_t random_below(struct sim *sim, uint64_t bound)
{
        sim->seed = sim->seed * UINT64_C(6364136223846793005) + 1442695040888963407;
        return (sim->seed >> 33) % bound;
}

static void sim_init(struct sim *sim, uint64_t seed, const struct queue_limits *limits)
{
        *sim = (struct sim){.seed = seed, .limits = limits};
        for (size_t i = 0; i < N_JOBS; i++) {
                struct sim_job *job = &sim->jobs[i];

                snprintf(job->name, sizeof(job->name), "j%05zu", i);
                job->priority = (enum queue_priority)random_below(sim, N_QUEUE_PRIORITIES);
                job->arrives = (int64_t)random_below(sim, N_JOBS) * TICK_MS / 4;
                job->lasts = (int64_t)(1 + random_below(sim, 20)) * TICK_MS;
                job->from = random_below(sim, N_HOSTS);
                job->to = random_below(sim, 3) ? (job->from + 1 + random_below(sim, N_HOSTS - 1)) % N_HOSTS
                                               : N_HOSTS;
                job->with_disks = !random_below(sim, 4);
        }
}

static struct queue_demand host_demand(struct queue *queue, const struct sim_job *job, size_t host)
{
        char name[8];

        snprintf(name, sizeof(name), "h%zu", host);
        return (struct queue_demand){
                resource(queue, QUEUE_HOST, name, HOST_LIMIT), queue_cost(QUEUE_HOST, job->with_disks)};
}

static void sim_add(struct queue *queue, const struct sim_job *job)
{
        struct queue_demand own[3], there[N_HOSTS];
        struct queue_choice choices[N_HOSTS];
        struct queue_job spec = {.name = job->name,
                .priority = job->priority,
                .queued_ms = job->arrives,
                .running = job->state == RUNNING,
                .demands = own,
                .choices = choices};

        own[spec.n_demands++] = host_demand(queue, job, job->from);
        own[spec.n_demands++] =
                (struct queue_demand){resource(queue, QUEUE_DATASTORE, "shared", DATASTORE_LIMIT),
                        queue_cost(QUEUE_DATASTORE, job->with_disks)};
        if (job->state == RUNNING)
                own[spec.n_demands++] = host_demand(queue, job, job->to);
        for (size_t host = 0; job->state == WAITING && host < N_HOSTS; host++) {
                if (host == job->from || (job->to < N_HOSTS && host != job->to))
                        continue;
                there[spec.n_choices] = host_demand(queue, job, host);
                choices[spec.n_choices] = (struct queue_choice){&there[spec.n_choices], 1};
                spec.n_choices++;
        }
        assert_int_equal(queue_add(queue, &spec), 0);
}

/* The host that the job's choice means: choices are the hosts in order, without its own. */
static size_t chosen(const struct sim_job *job, size_t choice)
{
        if (job->to < N_HOSTS)
                return job->to;
        return choice < job->from ? choice : choice + 1;
}

static struct queue *sim_queue(struct sim *sim)
{
        struct queue *queue = queue_make(sim->limits);

        for (size_t i = 0; i < N_JOBS; i++) {
                struct sim_job *job = &sim->jobs[i];

                if (job->state == ABSENT && job->arrives <= sim->now)
                        job->state = WAITING;
                if (job->state == RUNNING && job->started + job->lasts <= sim->now)
                        job->state = ENDED;
                if (job->state == WAITING || job->state == RUNNING)
                        sim_add(queue, job);
        }
        assert_int_equal(queue_decide(queue), 0);
        return queue;
}

/* Of two jobs that want the very same, the one that starts is the first of the order. */
static void assert_order(const struct sim *sim, const struct queue *queue)
{
        for (size_t i = 0; i < N_JOBS; i++)
                for (size_t k = 0; k < N_JOBS; k++) {
                        const struct sim_job *a = &sim->jobs[i], *b = &sim->jobs[k];
                        int64_t level = (int64_t)sim->limits->level_ms;

                        if (a->state != WAITING || b->state != WAITING || a->from != b->from ||
                                a->to != b->to || a->with_disks != b->with_disks ||
                                a->arrives - a->priority * level >= b->arrives - b->priority * level)
                                continue;
                        assert_true(starts(queue, a->name) || !starts(queue, b->name));
                }
}

static bool sim_step(struct sim *sim)
{
        _cleanup_(queue_freep) struct queue *queue = sim_queue(sim);
        bool all_ended = true;

        for (size_t i = 0; i < queue_n_resources(queue); i++) {
                struct queue_usage usage = queue_usage(queue, i);

                assert_true(usage.used <= usage.limit);
        }
        assert_order(sim, queue);
        for (size_t i = 0; i < N_JOBS; i++) {
                struct sim_job *job = &sim->jobs[i];

                if (job->state == WAITING && starts(queue, job->name)) {
                        job->to = chosen(job, queue_verdict(queue, job->name)->choice);
                        job->state = RUNNING;
                        job->started = sim->now;
                }
                all_ended = all_ended && job->state == ENDED;
        }
        sim->now += TICK_MS;
        return !all_ended;
}

static void limits_hold_and_all_come_to_an_end_under_any_load(void **data)
{
        const struct queue_limits limits = {
                .host = 8, .datastore = 128, .network = 4, .network_fast = 8, .level_ms = 10000};

        for (uint64_t seed = 1; seed <= 20; seed++) {
                struct sim sim;
                size_t n_steps = 0;

                sim_init(&sim, seed, &limits);
                while (sim_step(&sim))
                        assert_true(++n_steps < 20 * N_JOBS);
        }
}

/* An endless stream of critical jobs that fill the host, and a low one that needs half of it. */
static void nothing_starves_beside_a_stream_of_critical_jobs(void **data)
{
        const struct queue_limits limits = {
                .host = 8, .datastore = 128, .network = 4, .network_fast = 8, .level_ms = 10000};
        struct sim sim;
        struct sim_job *low = &sim.jobs[0];

        sim_init(&sim, 7, &limits);
        for (size_t i = 0; i < N_JOBS; i++) {
                sim.jobs[i] = (struct sim_job){.priority = QUEUE_CRITICAL,
                        .arrives = (int64_t)i * TICK_MS / 3, /* faster than they are done */
                        .lasts = (int64_t)(3 + i % 3) * TICK_MS,
                        .from = 0,
                        .to = 1};
                snprintf(sim.jobs[i].name, sizeof(sim.jobs[i].name), "j%05zu", i);
        }
        low->priority = QUEUE_LOW;
        low->with_disks = true;
        while (low->state != RUNNING) {
                assert_true(sim_step(&sim));
                /* Whatever came more than three levels' time later is behind it, and what is under way ends. */
                assert_true(sim.now <= 3 * 10000 + 40 * TICK_MS);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(costs_are_those_of_the_model),
                cmocka_unit_test(what_does_not_fit_waits_and_says_for_what),
                cmocka_unit_test(higher_priority_comes_first),
                cmocka_unit_test(waiting_for_longer_than_a_level_is_worth_more),
                cmocka_unit_test(who_waits_for_something_else_is_overtaken),
                cmocka_unit_test(small_jobs_do_not_starve_a_large_one),
                cmocka_unit_test(more_than_the_limit_runs_alone),
                cmocka_unit_test(the_best_place_with_room_is_taken),
                cmocka_unit_test(held_jobs_keep_nothing_from_others),
                cmocka_unit_test(lack_of_memory_is_an_error_like_any_other),
                cmocka_unit_test(limits_hold_and_all_come_to_an_end_under_any_load),
                cmocka_unit_test(nothing_starves_beside_a_stream_of_critical_jobs),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

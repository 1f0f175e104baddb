/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/forecast.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/macros.h"

/* What QEMU writes and the mover reads, compares and encrypts of pages with content, and goes through of zero pages, while
 * processors are free. Measured in the lab (2 cores for both hosts); faster hosts are faster, and mostly wait for the network. */
#define STREAM_BYTES_PER_S 550e6
#define ZERO_BYTES_PER_S 2500e6
/* What the destination reads, decrypts, unpacks and hashes of what it keeps. */
#define HELD_BYTES_PER_S 600e6
/* A byte that was sent costs headers of TLS and frames. */
#define FRAMING 1.006
/* The codec cannot be chosen before something was packed, and is probed with: what remains of the best one. */
#define CODEC_SHARE 0.95
/* A page that went as a reference, or a delta's entry. */
#define ENTRY_BYTES 8.0
#define ZERO_RUN_BYTES 2.0
#define DEVICE_BYTES 30e3
/* Between two looks of the agent and the mover at QEMU (POLL_MS, TICK_MS), half of both on average. */
#define DECISION_S 0.15
/* STOP to RESUME without memory or network: device state, records on both sides, loading (docs/bench.md: 31 ms). */
#define SWITCH_S 0.028
#define RTTS_OF_PAUSE 3.0
#define VERIFY_BYTES_PER_S 2200e6
/* Of waiting for a processor: tasks that sleep now and then get theirs sooner, and movers come before guests
 * (docs/decisions/0005). Fitted to migrations on hosts with a load of up to 14. */
#define SLOWNESS_EXPONENT 0.9
#define MOVER_EXPONENT 0.4
/* Where no processor is idle the migration takes from the guest as well: it writes so much less meanwhile. */
#define TAKEN_FROM_GUEST 1.5
#define LOAD_S 0.006 /* as switchover.c has it */
#define FIRST_SHARE 8
#define PROGRESS_RATIO 0.9
#define PASSES_TO_GIVE_UP 3
#define PASSES_TO_WARM_UP 2
#define PASSES_MAX 60
/* As codec_choice.c and source.c have them. */
#define USUAL_LEVEL "zstd-1"
#define GAIN_TO_CHANGE 1.08
#define GAIN_TO_PACK_LESS 1.15
/* So many migrations count as much as the model. */
#define LESSON_WEIGHT 1.0
#define LESSON_MAX 2.5
#define LESSON_SPREAD_MAX 1.6
#define HELD_RUN_PAGES 8 /* looked at side by side: they are often of one kind */
#define THROTTLE_FIRST 0.4
#define THROTTLE_STEP 0.2
#define THROTTLE_MAX 0.99

/* --- The guest ---------------------------------------------------------------------------------------------------- */

static double at_look(const struct forecast_look *look, bool blocks)
{
        return blocks ? look->block_bytes : look->page_bytes;
}

/* a * (1 - exp(-t / tau)) through the last two looks; tau 0: it does not level off. */
static void fit_curve(const struct forecast_guest *guest, bool blocks, double *ret_a, double *ret_tau)
{
        const struct forecast_look *last = &guest->looks[guest->n_looks - 1], *before = last - 1;
        double y = at_look(last, blocks), ratio, low = 0.01, high;

        *ret_tau = 0;
        if (guest->n_looks < 2 || y <= 0 || at_look(before, blocks) <= 0)
                return;
        ratio = y / at_look(before, blocks);
        if (ratio >= 0.97 * last->interval_s / before->interval_s)
                return;
        high = 100 * last->interval_s;
        for (int i = 0; i < 60; i++) {
                double tau = sqrt(low * high);

                if ((1 - exp(-last->interval_s / tau)) / (1 - exp(-before->interval_s / tau)) > ratio)
                        high = tau;
                else
                        low = tau;
        }
        *ret_tau = low;
        *ret_a = y / (1 - exp(-last->interval_s / low));
}

static double changed(const struct forecast_guest *guest, double seconds, bool blocks)
{
        struct forecast_look before = {0};
        double a = 0, tau, y;

        if (guest->n_looks == 0)
                return 0;
        for (size_t i = 0; i < guest->n_looks; i++) {
                const struct forecast_look *look = &guest->looks[i];

                if (seconds <= look->interval_s)
                        return at_look(&before, blocks) + (at_look(look, blocks) - at_look(&before, blocks)) *
                                                                  (seconds - before.interval_s) /
                                                                  (look->interval_s - before.interval_s);
                before = *look;
        }
        fit_curve(guest, blocks, &a, &tau);
        y = at_look(&before, blocks);
        if (tau > 0)
                y = MAX(y, a * (1 - exp(-seconds / tau)));
        else
                y *= seconds / before.interval_s;
        return MIN(y, guest->ram_bytes);
}

double forecast_dirty(const struct forecast_guest *guest, double seconds)
{
        return changed(guest, MAX(seconds, 0.0), false);
}

/* --- Passes ------------------------------------------------------------------------------------------------------- */

struct pace {
        const struct forecast_guest *guest;
        double wire;     /* bytes a second */
        double stream;   /* guest bytes a second, of pages with content */
        double cores;    /* that pack */
        double dirtying; /* factor: of a guest that is slowed down, or of uncertainty */
        double slow; /* factor, at least 1: a task gets a processor in 1 / slow of the time that it wants one */
        double saturated; /* 0 to 1: packing takes from what else there is to compute */
        const struct forecast_level *level;
};

struct outcome {
        double total_s, pause_s, bytes, dirty, needed;
        unsigned int passes;
        bool converges, throttled_converges, cpu_bound;
};

/* Seconds to send content: packable bytes at the level, plain ones as they are. The processors' and the wire's parts overlap. */
static double send_time(
        const struct pace *p, double read, double packable, double packed, double wire, bool *ret_cpu)
{
        double stream = read / p->stream;
        double pack = p->level->bytes_per_s > 0 ? packable / (p->level->bytes_per_s * p->cores) : 0;
        double cpu = MAX(stream, pack) + p->saturated * MIN(stream, pack);
        double net = (packed + wire) * FRAMING / p->wire;

        if (ret_cpu)
                *ret_cpu = cpu > net;
        return MAX(cpu, net);
}

static void first_pass(const struct pace *p, double *ret_s, double *ret_bytes, bool *ret_cpu)
{
        const struct forecast_guest *g = p->guest;
        double content = g->ram_bytes * (1 - g->zero_share);
        double held = content * g->held_share;
        double unique = (content - held) * (1 - g->duplicate_share);
        double plain = unique * g->incompressible_share, packable = unique - plain;
        double other = plain + (content - held - unique) / 4096 * 2 * ENTRY_BYTES +
                       held / 4096 * ZERO_RUN_BYTES +
                       g->ram_bytes * g->zero_share / 4096 * ZERO_RUN_BYTES / 64;
        double packed = packable / p->level->ratio;

        *ret_s = MAX(send_time(p, content, packable, packed, other, ret_cpu),
                         held / HELD_BYTES_PER_S * p->slow) +
                 g->ram_bytes * g->zero_share / ZERO_BYTES_PER_S * p->slow;
        *ret_bytes = (packed + other) * FRAMING;
}

/* What was changed in `seconds`: pages, and what they take on the wire. */
static double dirty_after(const struct pace *p, double seconds, double *ret_blocks)
{
        double s = seconds * p->dirtying;

        *ret_blocks = changed(p->guest, s, true);
        return changed(p->guest, s, false);
}

static double pass_bytes(const struct pace *p, double pages, double blocks)
{
        return (blocks / MAX(p->level->delta_ratio, 1.0) + pages / 4096 * ENTRY_BYTES / 2) * FRAMING;
}

static double pass_time(const struct pace *p, double pages, double blocks)
{
        double bytes = pass_bytes(p, pages, blocks);

        double pack = p->level->bytes_per_s > 0 ? blocks / (p->level->bytes_per_s * p->cores) : 0;

        return MAX(pages / p->stream + p->saturated * pack, bytes / p->wire);
}

/* The level that the mover will settle on: it begins with USUAL_LEVEL, and leaves that for a gain only (codec_choice.c). */
static const struct forecast_level *best_level(const struct pace *pace)
{
        struct pace p = *pace;
        double seconds[FORECAST_LEVELS_MAX], bytes[FORECAST_LEVELS_MAX], most = 1;
        size_t usual = 0, best;

        for (size_t i = 0; i < p.guest->n_levels; i++) {
                p.level = &p.guest->levels[i];
                first_pass(&p, &seconds[i], &bytes[i], NULL);
                if (!strcmp(p.level->name, USUAL_LEVEL))
                        usual = i;
        }
        best = usual;
        for (size_t i = 0; i < p.guest->n_levels; i++) {
                double needed =
                        i > usual ? GAIN_TO_CHANGE : GAIN_TO_PACK_LESS * MAX(bytes[i] / bytes[usual], 1.0);
                double gain = seconds[usual] / seconds[i] / needed;

                if (i != usual && gain > most) {
                        best = i;
                        most = gain;
                }
        }
        return &p.guest->levels[best];
}

/* The pause: what is left, the trips, the device state, and the comparison. */
static double pause_of(const struct pace *p, const struct forecast_path *path,
        const struct forecast_terms *terms, double pages, double blocks)
{
        double s = SWITCH_S * p->slow + path->rtt_s * RTTS_OF_PAUSE + pass_time(p, pages, blocks) +
                   DEVICE_BYTES / p->wire;

        return terms->verify ? s + p->guest->ram_bytes / VERIFY_BYTES_PER_S * pow(p->slow, MOVER_EXPONENT)
                             : s;
}

static void simulate(const struct pace *pace, const struct forecast_path *path,
        const struct forecast_terms *terms, struct outcome *o)
{
        double budget = MAX(terms->max_pause_s - LOAD_S - path->rtt_s, 0.001);
        double least = INFINITY, pass_s, bytes, pages = 0, blocks = 0, throttle = 0;
        unsigned int without_progress = 0;
        struct pace p = *pace;

        *o = (struct outcome){.converges = true};
        first_pass(&p, &pass_s, &bytes, &o->cpu_bound);
        o->total_s = terms->prepare_s + pass_s + DECISION_S;
        o->bytes = bytes;
        for (o->passes = 1; o->passes < PASSES_MAX; o->passes++) {
                double time;

                pages = dirty_after(&p, pass_s, &blocks);
                time = pass_time(&p, pages, blocks);
                if (o->passes + 1 > PASSES_TO_WARM_UP) {
                        without_progress = pages < least * PROGRESS_RATIO ? 0 : without_progress + 1;
                        least = MIN(least, pages);
                }
                if (time <= budget / (FIRST_SHARE >> MIN(without_progress, 3u)))
                        break;
                if (without_progress >= PASSES_TO_GIVE_UP) {
                        if (o->converges) /* what would have been enough */
                                o->needed = pass_bytes(&p, pages, blocks) / budget;
                        o->converges = false;
                        throttle =
                                throttle > 0 ? MIN(throttle + THROTTLE_STEP, THROTTLE_MAX) : THROTTLE_FIRST;
                        p.dirtying = pace->dirtying * (1 - throttle);
                }
                o->total_s += MAX(time, 0.01);
                o->bytes += pass_bytes(&p, pages, blocks);
                pass_s = MAX(time, 0.01);
        }
        o->dirty = pages;
        o->throttled_converges = o->passes < PASSES_MAX;
        /* QEMU looks every 100 ms; what is changed until then goes in the pause. */
        o->bytes += pass_bytes(&p, pages, blocks) + DEVICE_BYTES;
        o->pause_s = pause_of(&p, path, terms, pages, blocks);
        o->total_s += o->pause_s;
}

/* As codec_cores() has it. */
static double cores_of(const struct forecast_guest *g)
{
        double most = MAX(g->cores, 2.0) - 1;

        return g->idle_cores < 0 ? most : CLAMP(g->idle_cores, MIN(0.5, most), most);
}

/* 0 to 1: how far there is none idle. */
static double saturation(const struct forecast_guest *g)
{
        return g->idle_cores < 0 ? 0 : 1 - MIN(g->idle_cores / 2, 1.0);
}

/* With `load` others that want a processor, one more gets so much less. But the load is a minute's average: where processors were
 * idle just now it tells of what has ended. */
static double slowness(const struct forecast_guest *g)
{
        double slow = pow((1 + g->load) / MAX(g->cores, 1.0), SLOWNESS_EXPONENT);

        return g->idle_cores < 0 ? MAX(1.0, slow) : 1 + MAX(0.0, slow - 1) * saturation(g);
}

static struct pace pace_of(const struct forecast_guest *guest, const struct forecast_path *path,
        const struct forecast_terms *terms, double faster)
{
        double wire = path->bytes_per_s * (faster > 1 ? 1 + path->spread : faster < 1 ? 1 - path->spread : 1);
        struct pace p = {.guest = guest,
                .wire = terms->rate_limit > 0 ? MIN(wire, terms->rate_limit) : wire,
                .slow = slowness(guest) / faster,
                .cores = cores_of(guest) * faster * CODEC_SHARE,
                .saturated = saturation(guest),
                .dirtying = 1};

        p.dirtying = 1 / (1 + TAKEN_FROM_GUEST * p.saturated);
        p.stream = STREAM_BYTES_PER_S / p.slow;

        p.level = best_level(&p);
        return p;
}

/* How far the share that was found in runs of pages may be from the true one. */
static double held_noise(const struct forecast_guest *guest)
{
        double h = guest->held_share;

        return guest->held_pages > 0
                       ? 0.01 + 2 * sqrt(h * (1 - h) / MAX(guest->held_pages / HELD_RUN_PAGES, 1.0))
                       : 0;
}

void forecast_run(const struct forecast_guest *guest, const struct forecast_path *path,
        const struct forecast_terms *terms, struct forecast *ret_forecast)
{
        /* The fewer changes were seen, the less is known of how many there are (Poisson). */
        double noise = 0.15 + (guest->sampled_pages > 0 ? MIN(1 / sqrt(guest->sampled_pages), 1.0) : 0);
        struct forecast_terms low_terms = *terms, high_terms = *terms;
        /* How long a busy host stays so busy, nobody knows. */
        double faster = 1.3 + 0.06 * MIN(slowness(guest) - 1, 5.0);
        struct forecast_guest low_guest = *guest, high_guest = *guest;
        struct pace low, expected, high;
        struct outcome l, e, h;

        low_guest.held_share = MIN(guest->held_share + held_noise(guest), 1.0);
        high_guest.held_share = MAX(guest->held_share - held_noise(guest), 0.0);
        low = pace_of(&low_guest, path, terms, faster);
        expected = pace_of(guest, path, terms, 1);
        high = pace_of(&high_guest, path, terms, 1 / faster);
        low.dirtying *= 1 - noise;
        high.dirtying *= 1 + noise;
        low_terms.prepare_s *= 1 - terms->prepare_spread;
        high_terms.prepare_s *= 1 + terms->prepare_spread;
        simulate(&low, path, &low_terms, &l);
        simulate(&expected, path, terms, &e);
        simulate(&high, path, &high_terms, &h);
        *ret_forecast = (struct forecast){
                .total_s = {MIN(l.total_s, e.total_s) * 0.92, e.total_s, MAX(h.total_s, e.total_s) * 1.05},
                .pause_s = {MIN(l.pause_s, e.pause_s) * 0.75, e.pause_s, MAX(h.pause_s, e.pause_s) * 1.5},
                .bytes = {MIN(l.bytes, e.bytes) * 0.9, e.bytes, MAX(h.bytes, e.bytes) * 1.12},
                .passes = e.passes,
                .converges = e.converges,
                .throttled_converges = e.throttled_converges,
                .codec = expected.level->name,
                .pass_dirty_bytes = e.dirty,
                .needed_bytes_per_s = e.needed,
                .cpu_bound = e.cpu_bound,
        };
}

/* --- Lessons ------------------------------------------------------------------------------------------------------ */

static int compare_doubles(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

static double number(const json_t *object, const char *key, double otherwise)
{
        const json_t *value = json_object_get(object, key);

        return json_is_number(value) ? json_number_value(value) : otherwise;
}

/* Sorts the values. */
static double median(double *values, size_t n)
{
        qsort(values, n, sizeof(*values), compare_doubles);
        return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

static struct forecast_factor learn_kind(const json_t *records, const char *kind, size_t *n_learned)
{
        double needed[FORECAST_RECORDS_MAX], middle, weight;
        size_t n = 0;

        for (size_t i = 0; i < json_array_size(records) && n < FORECAST_RECORDS_MAX; i++) {
                const json_t *record = json_array_get(records, i),
                             *forecast = json_object_get(record, "forecast");
                double expected = number(json_object_get(forecast, kind), "expected", 0);
                double outcome = number(json_object_get(record, "outcome"), kind, 0);

                /* Without what had been learned by then: else each correction would undo the one before. */
                expected /= MAX(number(json_object_get(forecast, "learned"), kind, 1), 1 / LESSON_MAX);
                if (expected > 0 && outcome > 0)
                        needed[n++] = outcome / expected;
        }
        *n_learned = MAX(*n_learned, n);
        if (n == 0)
                return (struct forecast_factor){1, 1, 1};
        middle = median(needed, n);
        weight = (double)n / ((double)n + LESSON_WEIGHT);
        return (struct forecast_factor){CLAMP(pow(middle, weight), 1 / LESSON_MAX, LESSON_MAX),
                CLAMP(needed[0] / middle, 1 / LESSON_SPREAD_MAX, 1.0),
                CLAMP(needed[n - 1] / middle, 1.0, LESSON_SPREAD_MAX)};
}

void forecast_learn(const json_t *records, struct forecast_lesson *ret_lesson)
{
        size_t n = 0;

        ret_lesson->total = learn_kind(records, "total_ms", &n);
        ret_lesson->pause = learn_kind(records, "pause_ms", &n);
        ret_lesson->bytes = learn_kind(records, "bytes_wire", &n);
        ret_lesson->n = n;
}

static void correct(struct forecast_range *range, const struct forecast_factor *by)
{
        range->expected *= by->factor;
        range->low = MIN(range->low * by->factor, range->expected * by->low);
        range->high = MAX(range->high * by->factor, range->expected * by->high);
}

void forecast_correct(struct forecast *forecast, const struct forecast_lesson *lesson)
{
        correct(&forecast->total_s, &lesson->total);
        correct(&forecast->pause_s, &lesson->pause);
        correct(&forecast->bytes, &lesson->bytes);
}

/* --- Documents ---------------------------------------------------------------------------------------------------- */

static void read_lists(const json_t *sample, struct forecast_guest *g)
{
        const json_t *levels = json_object_get(sample, "levels"), *looks = json_object_get(sample, "dirty"),
                     *item;

        for (size_t i = 0; i < MIN(json_array_size(levels), (size_t)FORECAST_LEVELS_MAX - 1); i++) {
                struct forecast_level *level = &g->levels[g->n_levels++];

                item = json_array_get(levels, i);
                snprintf(level->name, sizeof(level->name), "%s",
                        json_string_value(json_object_get(item, "name")) ?: "?");
                level->ratio = MAX(number(item, "ratio", 1), 1.0);
                level->bytes_per_s = number(item, "bytes_per_s", 0);
                level->delta_ratio = MAX(number(item, "delta_ratio", 1), 1.0);
        }
        for (size_t i = 0; i < MIN(json_array_size(looks), (size_t)FORECAST_LOOKS_MAX); i++) {
                struct forecast_look *look = &g->looks[g->n_looks];
                const struct forecast_look *before = look - 1;
                double sampled;

                item = json_array_get(looks, i);
                *look = (struct forecast_look){number(item, "interval_ms", 0) / 1000,
                        number(item, "page_bytes", 0), number(item, "block_bytes", 0)};
                sampled = number(item, "sampled_pages", 0);
                if (look->interval_s <= (i > 0 ? before->interval_s : 0))
                        continue;
                if (g->n_looks > 0) { /* a page that was changed back is one that QEMU sends */
                        look->page_bytes = MAX(look->page_bytes, before->page_bytes);
                        look->block_bytes = MAX(look->block_bytes, before->block_bytes);
                }
                g->sampled_pages = MAX(g->sampled_pages, sampled);
                g->n_looks++;
        }
}

int forecast_read_guest(const json_t *sample, struct forecast_guest *ret_guest, struct error **ret_error)
{
        struct forecast_guest g = {
                .ram_bytes = number(sample, "ram_bytes", 0),
                .zero_share = CLAMP(number(sample, "zero_share", 0), 0.0, 1.0),
                .duplicate_share = CLAMP(number(sample, "duplicate_share", 0), 0.0, 1.0),
                .incompressible_share = CLAMP(number(sample, "incompressible_share", 0), 0.0, 1.0),
                .cores = number(sample, "cores", 1),
                .idle_cores = number(sample, "idle_cores", -1),
                .load = number(sample, "load1", 0),
                .levels = {{.name = "none", .ratio = 1, .delta_ratio = 1}},
                .n_levels = 1,
        };

        read_lists(sample, &g);
        if (g.ram_bytes <= 0 || g.n_levels < 2)
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Install agent and manager of the same version.",
                        "the agent's sample of the guest is not understood");
        *ret_guest = g;
        return 0;
}

static json_t *range_json(const struct forecast_range *range, double unit)
{
        return json_pack("{s:f, s:f, s:f}", "low", range->low * unit, "expected", range->expected * unit,
                "high", range->high * unit);
}

/* Why it does not end by itself, and what would help; borrowed from `text`. */
static void explain(const struct forecast *f, const struct forecast_path *path,
        const struct forecast_terms *terms, char *reason, char *way_out, size_t size)
{
        snprintf(reason, size,
                "it changes %.0f MB of pages while a pass of them is sent, more than fits into a pause of "
                "%.0f ms at %.0f Mbit/s%s",
                f->pass_dirty_bytes / 1e6, terms->max_pause_s * 1000, path->bytes_per_s * 8 / 1e6,
                f->throttled_converges ? "; it will be slowed down until it does"
                                       : "; slowing it down does not suffice either");
        snprintf(way_out, size,
                f->needed_bytes_per_s > path->bytes_per_s
                        ? "Migrate when it is less busy, allow a longer pause (--max-pause), or give it a "
                          "path of %.0f Mbit/s."
                        : "Migrate when it is less busy, or allow a longer pause (--max-pause).",
                f->needed_bytes_per_s * 8 / 1e6);
}

json_t *forecast_to_json(const struct forecast *f, const struct forecast_path *path,
        const struct forecast_terms *terms, const struct forecast_lesson *lesson)
{
        char reason[256], way_out[256];
        json_t *doc = json_pack("{s:o, s:o, s:o, s:b, s:b, s:i, s:s, s:s, s:n, s:n, s:{s:i, s:f, s:f, s:f}}",
                "total_ms", range_json(&f->total_s, 1e3), "pause_ms", range_json(&f->pause_s, 1e3),
                "bytes_wire", range_json(&f->bytes, 1), "converges", f->converges, "throttled_converges",
                f->throttled_converges, "passes", (int)f->passes, "codec", f->codec, "bound_by",
                f->cpu_bound ? "processors" : "path", "reason", "way_out", "learned", "migrations",
                (int)lesson->n, "total_ms", lesson->total.factor, "pause_ms", lesson->pause.factor,
                "bytes_wire", lesson->bytes.factor);

        if (doc && !f->converges) {
                explain(f, path, terms, reason, way_out, sizeof(reason));
                json_object_set_new(doc, "reason", json_string(reason));
                json_object_set_new(doc, "way_out", json_string(way_out));
        }
        return doc;
}

/* --- Score -------------------------------------------------------------------------------------------------------- */

static json_t *score_kind(const json_t *records, const char *kind, double *errors)
{
        size_t n = 0, in_range = 0;

        for (size_t i = 0; i < json_array_size(records); i++) {
                const json_t *record = json_array_get(records, i);
                const json_t *range = json_object_get(json_object_get(record, "forecast"), kind);
                double outcome = number(json_object_get(record, "outcome"), kind, -1);

                if (!json_is_object(range) || outcome <= 0)
                        continue;
                in_range += outcome >= number(range, "low", 0) && outcome <= number(range, "high", -1);
                errors[n++] = fabs(outcome - number(range, "expected", 0)) / outcome;
        }
        return json_pack("{s:s, s:I, s:I, s:o, s:o}", "kind", kind, "n", (json_int_t)n, "in_range",
                (json_int_t)in_range, "in_range_share",
                n ? json_real((double)in_range / (double)n) : json_null(), "median_error",
                n ? json_real(median(errors, n)) : json_null());
}

json_t *forecast_score(const json_t *records)
{
        double *errors = alloc_array(MAX(json_array_size(records), (size_t)1), sizeof(*errors));
        json_t *doc = NULL;

        if (errors)
                doc = json_pack("{s:I, s:[o, o, o]}", "n", (json_int_t)json_array_size(records), "kinds",
                        score_kind(records, "total_ms", errors), score_kind(records, "pause_ms", errors),
                        score_kind(records, "bytes_wire", errors));
        free(errors);
        return doc;
}

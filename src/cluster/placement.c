/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/placement.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"

#define WARNING_COST 15.0
/* Its files may still be in memory there, and its users know it there; but a warning or a much better host counts more. */
#define HOME_BONUS 10.0
/* A write that is flushed: a good local disk takes less than the first, one that hinders its guests more than the second. */
#define LATENCY_GOOD_MS 2.0
#define LATENCY_BAD_MS 50.0
/* A migration that takes less than the first costs nothing worth counting, and one as long as the second all there is to lose. */
#define MIGRATION_SHORT_MS 2000.0
#define MIGRATION_LONG_MS 600000.0

#define NUMBER_MAX 1e18

struct candidate {
        const char *name;
        json_t *reasons, *checks;
        double score;
        size_t n_errors;
        bool ok;
        bool preferred;
};

/* What a measure looks at. */
struct view {
        const json_t *vm, *host; /* host: its status */
        const json_t *forecast;  /* NULL: none */
        char reason[160];        /* for the measure to fill in */
};

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

/* What hosts say of themselves may be anything: within what every conversion below stands. */
static double number_of(const json_t *object, const char *key)
{
        return CLAMP(json_number_value(json_object_get(object, key)), -NUMBER_MAX, NUMBER_MAX);
}

/* Bytes, bit/s or ms, for people. */
static uint64_t amount(double value)
{
        return value > 0 ? (uint64_t)value : 0;
}

/* 1 at or below good, 0 at or above bad, even steps of the logarithm between. */
static double grade(double value, double good, double bad)
{
        return CLAMP(log(bad / MAX(value, good)) / log(bad / good), 0.0, 1.0);
}

/* The measures: 0 to 1, or below 0 for "not known". */

static double memory_left(struct view *view)
{
        double total = number_of(view->host, "memory_bytes");
        double left = MAX(number_of(view->host, "memory_free_bytes") -
                                  number_of(json_object_get(view->vm, "spec"), "memory_bytes"),
                0.0);
        char text[16];

        snprintf(view->reason, sizeof(view->reason), "%s of memory would stay free",
                text_format_size(amount(left), text));
        return total > 0 ? MIN(left / total, 1.0) : 0.0;
}

static double idle_cpu(struct view *view)
{
        double cpus = number_of(view->host, "cpus"), load = number_of(view->host, "load1");

        snprintf(view->reason, sizeof(view->reason), "load %.2f on %.0f CPUs", load, cpus);
        return cpus > 0 ? CLAMP(1.0 - load / cpus, 0.0, 1.0) : 0.0;
}

/* The share of time in which some task waited; the worst of the three decides. */
static double no_pressure(struct view *view)
{
        static const char *const what[] = {"cpu", "memory", "io"};
        const json_t *pressure = json_object_get(view->host, "pressure");
        const char *worst = NULL;
        double most = 0;

        for (size_t i = 0; i < ARRAY_SIZE(what); i++) {
                if (!json_is_number(json_object_get(pressure, what[i])))
                        continue;
                if (worst && number_of(pressure, what[i]) <= most)
                        continue;
                worst = what[i];
                most = number_of(pressure, what[i]);
        }
        if (!worst)
                return -1;
        snprintf(view->reason, sizeof(view->reason), "tasks wait for %s in %.0f %% of the time", worst, most);
        return CLAMP(1.0 - most / 100.0, 0.0, 1.0);
}

static double spare_bandwidth(struct view *view)
{
        const json_t *network = json_object_get(view->host, "network");
        double speed = number_of(network, "speed_bps");
        double used = MAX(number_of(network, "rx_bps"), number_of(network, "tx_bps"));
        char a[20], b[20];

        if (speed <= 0)
                return -1;
        snprintf(view->reason, sizeof(view->reason), "%s of %s in use on %s",
                text_format_rate(amount(used), a), text_format_rate(amount(speed), b),
                text_of(network, "interface"));
        return CLAMP(1.0 - used / speed, 0.0, 1.0);
}

struct slowest {
        const json_t *datastores;
        const char *name;
        double latency_ms;
};

static int look_at_datastore(void *userdata, const char *name)
{
        struct slowest *slowest = userdata;
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)slowest->datastores, i, item) {
                const json_t *latency = json_object_get(item, "latency_ms");

                if (strcmp(text_of(item, "name"), name) || !json_is_number(latency) ||
                        (slowest->name && json_number_value(latency) <= slowest->latency_ms))
                        continue;
                slowest->name = name;
                slowest->latency_ms = json_number_value(latency);
        }
        return 0;
}

static double quick_storage(struct view *view)
{
        struct slowest slowest = {.datastores = json_object_get(view->host, "datastores")};

        (void)checks_each_datastore(json_object_get(view->vm, "spec"), look_at_datastore, &slowest);
        if (!slowest.name)
                return -1;
        snprintf(view->reason, sizeof(view->reason), "writes to datastore %s take %.1f ms", slowest.name,
                slowest.latency_ms);
        return grade(slowest.latency_ms, LATENCY_GOOD_MS, LATENCY_BAD_MS);
}

static double cheap_migration(struct view *view)
{
        double ms = number_of(view->forecast, "total_ms");
        char text[24];

        if (ms <= 0)
                return -1;
        snprintf(view->reason, sizeof(view->reason), "the migration would take about %s",
                text_format_duration_ms(amount(ms), text));
        return grade(ms, MIGRATION_SHORT_MS, MIGRATION_LONG_MS);
}

static const struct {
        double weight;
        double (*measure)(struct view *view);
} measures[] = {{40, memory_left}, {25, idle_cpu}, {15, no_pressure}, {10, spare_bandwidth},
        {5, quick_storage}, {5, cheap_migration}};

/* What was cut to fit may end in the middle of a character, which JSON does not allow. */
static json_t *reason_json(const char *text)
{
        size_t len = strlen(text);
        json_t *reason = json_string(text);

        for (size_t cut = 1; !reason && cut < 4 && cut <= len; cut++)
                reason = json_stringn(text, len - cut);
        return reason;
}

static int add_reason(json_t *reasons, const char *text)
{
        return json_array_append_new(reasons, reason_json(text)) < 0 ? -ENOMEM : 0;
}

static int add_score(
        struct candidate *candidate, const json_t *vm, const json_t *host, const json_t *forecasts)
{
        struct view view = {.vm = vm,
                .host = json_object_get(host, "status"),
                .forecast = json_object_get(forecasts, candidate->name)};
        double sum = 0, weights = 0;

        for (size_t i = 0; i < ARRAY_SIZE(measures); i++) {
                double value = measures[i].measure(&view);

                if (value < 0)
                        continue;
                sum += measures[i].weight * value;
                weights += measures[i].weight;
                if (add_reason(candidate->reasons, view.reason) < 0)
                        return -ENOMEM;
        }
        candidate->score = CLAMP(100 * sum / weights + (candidate->preferred ? HOME_BONUS : 0.0) -
                                         WARNING_COST * (double)checks_n_warnings(candidate->checks),
                0.0, 100.0);
        if (!candidate->preferred)
                return 0;
        return add_reason(candidate->reasons, "the virtual machine was here before");
}

/* The report has only what is broken. */
static int keep_broken(struct candidate *candidate, const json_t *report)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)report, i, item) {
                bool warning = !strcmp(text_of(item, "severity"), "warning");
                _cleanup_free_ char *reason = NULL;

                reason = alloc_printf("%s%s: %s", warning ? "warning: " : "", text_of(item, "code"),
                        text_of(item, "cause"));
                if (!reason || json_array_append(candidate->checks, item) < 0)
                        return -ENOMEM;
                /* What forbids it comes first. */
                if (warning ? add_reason(candidate->reasons, reason) < 0
                            : json_array_insert_new(
                                      candidate->reasons, candidate->n_errors++, json_string(reason)) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int judge(struct candidate *candidate, const struct checks *checks, const struct checks_input *input,
        const json_t *host, const json_t *forecasts)
{
        _cleanup_json_ json_t *report = checks_broken(checks, host);

        candidate->name = text_of(host, "name");
        candidate->preferred = input->home && !strcmp(text_of(input->home, "uid"), text_of(host, "uid"));
        candidate->ok = report && checks_ok(report);
        candidate->reasons = json_array();
        candidate->checks = json_array();
        if (!report || !candidate->reasons || !candidate->checks || keep_broken(candidate, report) < 0)
                return -ENOMEM;
        return candidate->ok ? add_score(candidate, input->vm, host, forecasts) : 0;
}

static int compare(const void *a, const void *b)
{
        const struct candidate *x = a, *y = b;

        if (x->ok != y->ok)
                return x->ok ? -1 : 1;
        if (x->n_errors != y->n_errors)
                return x->n_errors < y->n_errors ? -1 : 1;
        if (x->score > y->score || x->score < y->score)
                return x->score > y->score ? -1 : 1;
        if (x->preferred != y->preferred)
                return x->preferred ? -1 : 1;
        return strcmp(x->name, y->name);
}

static json_t *to_json(struct candidate *candidates, size_t n)
{
        json_t *out = json_array();

        for (size_t i = 0; out && i < n; i++) {
                /* One decimal: scores are for people and must not differ by rounding of the last bit. */
                double score = (double)(int64_t)(candidates[i].score * 10.0 + 0.5) / 10.0;
                json_t *item = json_pack("{s:s, s:b, s:f, s:O, s:O}", "host", candidates[i].name, "ok",
                        candidates[i].ok, "score", score, "reasons", candidates[i].reasons, "checks",
                        candidates[i].checks);

                if (!item || json_array_append_new(out, item) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        }
        return out;
}

struct placement {
        struct checks_input input;
        const json_t *hosts, *forecasts;
        struct checks *checks;
        struct candidate *candidates;
        size_t n_candidates, next;
};

struct placement *placement_new(
        const struct checks_input *input, const json_t *hosts, const json_t *forecasts)
{
        struct placement *placement = ALLOC(struct placement);

        if (!placement)
                return NULL;
        *placement = (struct placement){.input = *input, .hosts = hosts, .forecasts = forecasts};
        placement->checks = checks_new(&placement->input);
        placement->candidates = alloc_array(json_array_size(hosts) + 1, sizeof(*placement->candidates));
        if (!placement->checks || !placement->candidates) {
                placement_free(placement);
                return NULL;
        }
        return placement;
}

void placement_free(struct placement *placement)
{
        if (!placement)
                return;
        for (size_t i = 0; i < placement->n_candidates; i++) {
                json_decref(placement->candidates[i].reasons);
                json_decref(placement->candidates[i].checks);
        }
        checks_free(placement->checks);
        free(placement->candidates);
        free(placement);
}

int placement_step(struct placement *placement, size_t n_hosts)
{
        const struct checks_input *input = &placement->input;
        size_t end = json_array_size(placement->hosts);

        end = MIN(end, placement->next + MIN(n_hosts, end));
        while (placement->next < end) {
                const json_t *host = json_array_get(placement->hosts, placement->next++);

                if (input->source && !strcmp(text_of(host, "uid"), text_of(input->source, "uid")))
                        continue;
                if (judge(&placement->candidates[placement->n_candidates++], placement->checks, input, host,
                            placement->forecasts) < 0)
                        return -ENOMEM;
        }
        return placement->next < json_array_size(placement->hosts);
}

json_t *placement_ranking(struct placement *placement)
{
        qsort(placement->candidates, placement->n_candidates, sizeof(*placement->candidates), compare);
        return to_json(placement->candidates, placement->n_candidates);
}

json_t *placement_rank(const struct checks_input *input, const json_t *hosts, const json_t *forecasts)
{
        _cleanup_(placement_freep) struct placement *placement = placement_new(input, hosts, forecasts);

        return placement && placement_step(placement, SIZE_MAX) >= 0 ? placement_ranking(placement) : NULL;
}

int placement_best(const json_t *ranking, const char **ret_host, struct error **ret_error)
{
        const json_t *first = json_array_get(ranking, 0);
        const json_t *reasons = json_object_get(first, "reasons");

        if (!first)
                return error_set(ret_error, ERROR_NO_RESOURCES, "Add a host with `drover host add`.",
                        "there is no host to choose from");
        if (!json_is_true(json_object_get(first, "ok")))
                return error_set(ret_error, ERROR_NO_RESOURCES,
                        "Name a host to see what it lacks, or add one.",
                        "no host fits; the first one, %s: %s", text_of(first, "host"),
                        json_string_value(json_array_get(reasons, 0)) ?: "no reason given");
        *ret_host = text_of(first, "host");
        return 0;
}

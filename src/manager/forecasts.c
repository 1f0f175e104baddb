/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/forecasts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/forecast.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define MEASURE_TIMEOUT_MS 90000
#define DESTINATIONS_MAX 8 /* that are probed for one forecast */
#define RECENT_MS (10 * 60 * 1000)
#define MAX_PAUSE_MS_DEFAULT 300
/* The newest migrations between two hosts that say what their path carries. */
#define PAST_MAX 5
#define PREPARE_MS_DEFAULT 300.0
#define PREPARE_SPREAD_DEFAULT 0.5
#define PREPARE_SPREAD_KNOWN 0.3
#define PROBE_SPREAD 0.12
#define PAST_SPREAD 0.2
#define DEVICE_SPREAD 0.5
#define SCORED_MAX 1000
#define COSTS_PAST_MAX 500
/* So many migrations are remembered, the newest of all: of a VM, or a pair of hosts, that has not been among them lately, nothing is
 * known from before. */
#define HISTORY_MAX 2000
#define HISTORY_AT_ONCE 10 /* documents of some 20 KB */
#define HISTORY_AGAIN_MS 20
#define HISTORY_FAILED_MS 5000
#define MIGRATION_TEXT "\"action\":\"vm.migrate\""

struct forecasts {
        struct manager *manager;
        struct list waiting;
        json_t *measured;           /* VM uid -> {taken_ms, from, sample, paths} */
        json_t *history;            /* array of the newest migrations that succeeded, oldest first */
        struct loop_source *reader; /* reads them, the newest first; those that end meanwhile are added */
        char *read_to;              /* name of the last one that was read; NULL: none yet */
        size_t n_since;             /* of the history, at its end: that have ended since reading began */
};

/* A request that waits for the agent. */
struct wait {
        struct forecasts *owner;
        struct list order;
        struct http_request *request;
        struct http_call *call;
        json_t *vm, *input, *to; /* to: names of the destinations */
        char *from;
};

static void read_history(void *userdata);

int forecasts_new(struct manager *manager, struct forecasts **ret_forecasts)
{
        struct forecasts *forecasts = ALLOC(struct forecasts);

        if (!forecasts)
                return -ENOMEM;
        forecasts->manager = manager;
        list_init(&forecasts->waiting);
        forecasts->measured = json_object();
        forecasts->history = json_array();
        if (!forecasts->measured || !forecasts->history ||
                loop_add_timer(manager->loop, 0, read_history, forecasts, &forecasts->reader) < 0) {
                forecasts_free(forecasts);
                return -ENOMEM;
        }
        *ret_forecasts = forecasts;
        return 0;
}

static void wait_free(struct wait *wait)
{
        if (!wait)
                return;
        list_remove(&wait->order);
        http_call_cancel(wait->call);
        json_decref(wait->vm);
        json_decref(wait->input);
        json_decref(wait->to);
        free(wait->from);
        free(wait);
}
DEFINE_CLEANUP(struct wait *, wait_free)

void forecasts_free(struct forecasts *forecasts)
{
        struct wait *wait, *spare;

        if (!forecasts)
                return;
        list_for_each_safe (wait, spare, &forecasts->waiting, order)
                wait_free(wait);
        loop_source_free(forecasts->reader);
        free(forecasts->read_to);
        json_decref(forecasts->measured);
        json_decref(forecasts->history);
        free(forecasts);
}

/* --- What past migrations say ------------------------------------------------------------------------------------- */

struct past_query {
        const char *from, *to, *vm_uid; /* NULL: any */
        bool forecast;                  /* only those that had one */
};

static bool is_past(void *userdata, const json_t *doc)
{
        return !strcmp(json_text(json_spec(doc), "action"), "vm.migrate") &&
               !strcmp(json_text(json_status(doc), "state"), "succeeded") &&
               json_is_object(json_object_get(json_status(doc), "result"));
}

/* What questions are asked about. */
static json_t *remembered(const json_t *task)
{
        return json_pack("{s:s, s:{s:O}, s:{s:{s:O*}}}", "name", json_text(task, "name"), "status", "result",
                json_object_get(json_status(task), "result"), "internal", "data", "vm_uid",
                json_object_get(json_object_get(json_object_get(task, "internal"), "data"), "vm_uid"));
}

void forecasts_task_changed(struct forecasts *forecasts, const json_t *task)
{
        json_t *history = forecasts->history;

        if (!is_past(NULL, task))
                return;
        if (json_array_append_new(history, remembered(task)) < 0) {
                log_debug("forecasts: no memory for migration %s", json_text(task, "name"));
                return;
        }
        forecasts->n_since++;
        if (json_array_size(history) > HISTORY_MAX)
                json_array_remove(history, 0);
}

/* It had not ended when reading began, and was added when it did. */
static bool is_known(const struct forecasts *forecasts, const json_t *task)
{
        size_t n = json_array_size(forecasts->history), since = MIN(forecasts->n_since, n);

        for (size_t i = n - since; i < n; i++)
                if (!strcmp(json_text(json_array_get(forecasts->history, i), "name"),
                            json_text(task, "name")))
                        return true;
        return false;
}

/* What was read is older than all that is there, but for what has ended since. */
static void take_older(struct forecasts *forecasts, const json_t *docs)
{
        json_t *doc;
        size_t i;

        json_array_foreach ((json_t *)docs, i, doc) {
                if (json_array_size(forecasts->history) >= HISTORY_MAX)
                        break;
                if (is_past(NULL, doc) && !is_known(forecasts, doc) &&
                        json_array_insert_new(forecasts->history, 0, remembered(doc)) < 0)
                        log_debug("forecasts: no memory for migration %s", json_text(doc, "name"));
        }
}

/* The store has them among thousands of other tasks: a few at a time, and rankings go by those that were read. */
static void read_history(void *userdata)
{
        struct forecasts *forecasts = userdata;
        struct store_query query = {.kind = "task",
                .after = forecasts->read_to,
                .descending = true,
                .limit = HISTORY_AT_ONCE,
                .text = MIGRATION_TEXT};
        _cleanup_json_ json_t *docs = NULL;
        _cleanup_error_ struct error *error = NULL;
        bool more = false;
        int r = store_list(forecasts->manager->store, &query, &docs, &more, &error);

        if (r >= 0 && more)
                r = alloc_replace(&forecasts->read_to,
                        json_text(json_array_get(docs, json_array_size(docs) - 1), "name"));
        if (r < 0) {
                log_warning("forecasts: past migrations are read later: %s", error_message(error));
                (void)loop_source_rearm(forecasts->reader, HISTORY_FAILED_MS);
                return;
        }
        take_older(forecasts, docs);
        if (more && json_array_size(forecasts->history) < HISTORY_MAX)
                (void)loop_source_rearm(forecasts->reader, HISTORY_AGAIN_MS);
}

static bool answers(const struct past_query *query, const json_t *task)
{
        const json_t *result = json_object_get(json_status(task), "result");
        const json_t *data = json_object_get(json_object_get(task, "internal"), "data");

        return (!query->from || !strcmp(json_text(result, "from"), query->from)) &&
               (!query->to || !strcmp(json_text(result, "to"), query->to)) &&
               (!query->vm_uid || !strcmp(json_text(data, "vm_uid"), query->vm_uid)) &&
               (!query->forecast || json_is_object(json_object_get(result, "forecast")));
}

/* The newest first. */
static json_t *past_tasks(
        struct manager *manager, struct past_query past, size_t limit, struct error **ret_error)
{
        struct forecasts *forecasts = manager->forecasts;
        _cleanup_json_ json_t *docs = json_array();

        if (!docs) {
                error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                return NULL;
        }
        for (size_t i = json_array_size(forecasts->history); i-- > 0 && json_array_size(docs) < limit;) {
                json_t *task = json_array_get(forecasts->history, i);

                if (answers(&past, task) && json_array_append(docs, task) < 0) {
                        error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                        return NULL;
                }
        }
        return TAKE_PTR(docs);
}

static double number_at(const json_t *object, const char *key)
{
        return json_number_value(json_object_get(object, key));
}

static int compare_doubles(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

/* 0 without any. */
static double median(double *values, size_t n)
{
        if (n == 0)
                return 0;
        qsort(values, n, sizeof(*values), compare_doubles);
        return values[n / 2];
}

static double preparing_ms(const json_t *result)
{
        const json_t *phases = json_object_get(result, "phases");

        for (size_t i = 0; i < json_array_size(phases); i++)
                if (!strcmp(json_text(json_array_get(phases, i), "name"), "preparing"))
                        return number_at(json_array_get(phases, i), "ms");
        return 0;
}

struct past {
        double rate_bps, rtt_us, prepare_ms; /* medians; 0: not known */
        size_t n;
};

static struct past past_of(struct manager *manager, const char *from, const char *to)
{
        _cleanup_json_ json_t *tasks =
                past_tasks(manager, (struct past_query){.from = from, .to = to}, PAST_MAX, NULL);
        double rates[PAST_MAX], rtts[PAST_MAX], prepares[PAST_MAX];
        size_t n_rates = 0, n_rtts = 0, n_prepares = 0;

        for (size_t i = 0; i < json_array_size(tasks) && i < PAST_MAX; i++) {
                const json_t *result = json_object_get(json_status(json_array_get(tasks, i)), "result");

                if (number_at(result, "capacity_bps") > 0)
                        rates[n_rates++] = number_at(result, "capacity_bps");
                if (number_at(result, "rtt_us") > 0)
                        rtts[n_rtts++] = number_at(result, "rtt_us");
                if (preparing_ms(result) > 0)
                        prepares[n_prepares++] = preparing_ms(result);
        }
        return (struct past){.rate_bps = median(rates, n_rates),
                .rtt_us = median(rtts, n_rtts),
                .prepare_ms = median(prepares, n_prepares),
                .n = n_rates};
}

/* [{forecast, outcome}] */
static json_t *records_of(const json_t *tasks)
{
        json_t *records = json_array(), *task;
        size_t i;

        json_array_foreach ((json_t *)tasks, i, task) {
                json_t *result = json_object_get(json_status(task), "result");

                json_array_append_new(
                        records, json_pack("{s:O, s:O}", "forecast", json_object_get(result, "forecast"),
                                         "outcome", result));
        }
        return records;
}

/* From the VM's own migrations, else from all. */
static struct forecast_lesson lesson_for(struct manager *manager, const json_t *vm)
{
        _cleanup_json_ json_t *tasks =
                past_tasks(manager, (struct past_query){.vm_uid = json_text(vm, "uid"), .forecast = true},
                        FORECAST_RECORDS_MAX, NULL);
        _cleanup_json_ json_t *records = NULL;
        struct forecast_lesson lesson;

        if (json_array_size(tasks) == 0) {
                json_decref(tasks);
                tasks = past_tasks(
                        manager, (struct past_query){.forecast = true}, FORECAST_RECORDS_MAX, NULL);
        }
        records = records_of(tasks);
        forecast_learn(records, &lesson);
        return lesson;
}

/* --- The forecast ------------------------------------------------------------------------------------------------- */

/* QEMU's TCG before 9.0 loses dirty pages: there the agent compares memories by itself (migration_source.c). */
static bool verifies(const json_t *vm, const json_t *input)
{
        const json_t *wanted = json_object_get(input, "verify");

        if (json_is_boolean(wanted))
                return json_is_true(wanted);
        return !strcmp(json_text(json_status(vm), "accelerator"), "tcg") &&
               strtoul(json_text(json_status(vm), "qemu_version"), NULL, 10) < 9;
}

static const json_t *path_to(const json_t *paths, const char *host_uid)
{
        json_t *path;
        size_t i;

        json_array_foreach ((json_t *)paths, i, path)
                if (!strcmp(json_text(path, "host"), host_uid))
                        return path;
        return NULL;
}

/* Which of the three it is to be: the probe, what past migrations achieved, or what the interface says it can. False: nothing
 * is known. *ret_document names it. */
static bool choose_path(
        const json_t *probed, const struct past *past, struct forecast_path *ret_path, json_t **ret_document)
{
        double probe = number_at(probed, "rate_bps"), device = number_at(probed, "device_bps");
        double rate = probe > 0 ? probe : past->rate_bps > 0 ? past->rate_bps : device;
        double rtt_us = probe > 0 ? number_at(probed, "rtt_us") : past->rtt_us;
        const char *method = probe > 0 ? "probe" : past->rate_bps > 0 ? "past-migrations" : "interface-speed";

        if (rate <= 0)
                return false;
        *ret_path = (struct forecast_path){.bytes_per_s = rate / 8,
                .rtt_s = rtt_us / 1e6,
                .spread = probe > 0            ? PROBE_SPREAD
                          : past->rate_bps > 0 ? PAST_SPREAD
                                               : DEVICE_SPREAD};
        *ret_document = json_pack("{s:s, s:I, s:I, s:s?, s:I, s:I}", "method", method, "rate_bps",
                (json_int_t)rate, "rtt_us", (json_int_t)rtt_us, "device", json_text_or_null(probed, "device"),
                "past_rate_bps", (json_int_t)past->rate_bps, "past_migrations", (json_int_t)past->n);
        return *ret_document != NULL;
}

/* What the destination keeps of the guest from an earlier stay, as its agent found. */
static void read_held(const json_t *probed, struct forecast_guest *guest)
{
        const json_t *held = json_object_get(probed, "held");
        double pages = number_at(held, "pages");

        if (pages <= 0)
                return;
        guest->held_pages = pages;
        guest->held_share = CLAMP(number_at(held, "equal") / pages, 0.0, 1.0);
}

static double input_number(const json_t *input, const char *key, double otherwise)
{
        const json_t *value = json_object_get(input, key);

        return json_is_number(value) ? json_number_value(value) : otherwise;
}

static int forecast_to(struct manager *manager, const json_t *vm, const json_t *input, const json_t *measured,
        const struct forecast_lesson *lesson, const char *to_name, json_t **ret_forecast,
        struct error **ret_error)
{
        const json_t *host = inventory_host(manager->inventory, to_name);
        const json_t *probed = path_to(json_object_get(measured, "paths"), json_text(host, "uid"));
        struct past past = past_of(manager, json_text(measured, "from"), to_name);
        struct past anywhere = past.n ? past : past_of(manager, NULL, NULL);
        struct forecast_terms terms = {
                .max_pause_s = input_number(input, "max_pause_ms", MAX_PAUSE_MS_DEFAULT) / 1000,
                .rate_limit = input_number(input, "rate_limit_bps", 0) / 8,
                .verify = verifies(vm, input),
                .prepare_s = (anywhere.prepare_ms > 0 ? anywhere.prepare_ms : PREPARE_MS_DEFAULT) / 1000,
                .prepare_spread = anywhere.prepare_ms > 0 ? PREPARE_SPREAD_KNOWN : PREPARE_SPREAD_DEFAULT};
        struct forecast_guest guest;
        struct forecast_path path;
        struct forecast forecast;
        json_t *doc, *path_doc = NULL;
        int r = forecast_read_guest(json_object_get(measured, "sample"), &guest, ret_error);

        if (r < 0)
                return r;
        read_held(probed, &guest);
        if (!choose_path(probed, &past, &path, &path_doc)) {
                const json_t *problem = json_object_get(probed, "error");

                if (json_is_object(problem))
                        *ret_error = error_from_json(problem);
                else
                        error_set(ret_error, ERROR_UNREACHABLE, NULL,
                                "nothing is known of the path between host %s and host %s",
                                json_text(measured, "from"), to_name);
                return -ENETUNREACH;
        }
        forecast_run(&guest, &path, &terms, &forecast);
        forecast_correct(&forecast, lesson);
        doc = forecast_to_json(&forecast, &path, &terms, lesson);
        if (!doc || json_object_set_new(doc, "to", json_string(to_name)) < 0 ||
                json_object_set_new(doc, "path", path_doc) < 0 ||
                json_object_set_new(doc, "max_pause_ms", json_real(terms.max_pause_s * 1000)) < 0 ||
                (guest.held_pages > 0 &&
                        json_object_set_new(doc, "held_share", json_real(guest.held_share)) < 0) ||
                json_object_set(doc, "taken_unix_ms", json_object_get(measured, "taken_unix_ms")) < 0) {
                json_decref(doc);
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        *ret_forecast = doc;
        return 0;
}

static json_t *forecast_all(struct manager *manager, const json_t *vm, const json_t *input,
        const json_t *measured, const json_t *to)
{
        struct forecast_lesson lesson = lesson_for(manager, vm);
        json_t *list = json_array(), *name;
        size_t i;

        json_array_foreach ((json_t *)to, i, name) {
                _cleanup_error_ struct error *error = NULL;
                json_t *doc = NULL;

                if (forecast_to(manager, vm, input, measured, &lesson, json_string_value(name), &doc,
                            &error) < 0) {
                        _cleanup_error_ struct error *named = error ? error_with_names(manager, error) : NULL;

                        doc = json_pack(
                                "{s:O, s:o*}", "to", name, "error", named ? error_to_json(named) : NULL);
                }
                json_array_append_new(list, doc);
        }
        return list;
}

/* What was measured of the VM where it is; NULL: nothing, or too long ago. */
static const json_t *recently_measured(const struct manager *manager, const json_t *vm)
{
        const json_t *measured = json_object_get(manager->forecasts->measured, json_text(vm, "uid"));

        if (!measured ||
                clock_unix_ms(manager->clock) - (int64_t)number_at(measured, "taken_unix_ms") > RECENT_MS ||
                strcmp(json_text(measured, "from"), json_text(json_status(vm), "host")))
                return NULL;
        return measured;
}

json_t *forecasts_for_migration(
        struct manager *manager, const json_t *vm, const char *to_name, const json_t *input)
{
        const json_t *measured = recently_measured(manager, vm);
        _cleanup_error_ struct error *error = NULL;
        struct forecast_lesson lesson;
        json_t *doc = NULL;

        if (!measured)
                return NULL;
        lesson = lesson_for(manager, vm);
        (void)forecast_to(manager, vm, input, measured, &lesson, to_name, &doc, &error);
        return doc;
}

/* --- Costs of all hosts --------------------------------------------------------------------------------------------- */

/* One pass over the newest migrations that left this host: {destination: [rates]}. */
static json_t *rates_from(struct manager *manager, const char *from)
{
        _cleanup_json_ json_t *tasks =
                past_tasks(manager, (struct past_query){.from = from}, COSTS_PAST_MAX, NULL);
        json_t *rates = json_object(), *task;
        size_t i;

        json_array_foreach (tasks, i, task) {
                const json_t *result = json_object_get(json_status(task), "result");
                json_t *to = json_object_get(rates, json_text(result, "to"));

                if (number_at(result, "capacity_bps") <= 0)
                        continue;
                if (!to) {
                        to = json_array();
                        json_object_set_new(rates, json_text(result, "to"), to);
                }
                json_array_append_new(to, json_real(number_at(result, "capacity_bps")));
        }
        return rates;
}

static double median_of(const json_t *numbers)
{
        _cleanup_free_ double *values = alloc_array(json_array_size(numbers) + 1, sizeof(*values));
        size_t n = json_array_size(numbers);

        for (size_t i = 0; values && i < n; i++)
                values[i] = json_number_value(json_array_get(numbers, i));
        return values ? median(values, n) : 0;
}

/* Of all hosts that the rates are about; 0: none. */
static double median_rate(const json_t *rates)
{
        _cleanup_json_ json_t *medians = json_array();
        const char *to;
        json_t *numbers;

        json_object_foreach ((json_t *)rates, to, numbers)
                json_array_append_new(medians, json_real(median_of(numbers)));
        return median_of(medians);
}

static double bytes_to_send(struct manager *manager, const json_t *vm)
{
        _cleanup_json_ json_t *tasks =
                past_tasks(manager, (struct past_query){.vm_uid = json_text(vm, "uid")}, 1, NULL);
        const json_t *result = json_object_get(json_status(json_array_get(tasks, 0)), "result");
        double memory = number_at(json_status(vm), "memory_effective_bytes");

        if (number_at(result, "bytes_wire") > 0)
                return number_at(result, "bytes_wire");
        return memory > 0 ? memory : number_at(json_spec(vm), "memory_bytes");
}

static void add_past_costs(struct manager *manager, const json_t *vm, json_t *costs)
{
        _cleanup_json_ json_t *rates = rates_from(manager, json_text(json_status(vm), "host"));
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory);
        double usual = median_rate(rates), bytes = bytes_to_send(manager, vm);
        json_t *host;
        size_t i;

        json_array_foreach (hosts, i, host) {
                const char *name = json_text(host, "name");
                double own = median_of(json_object_get(rates, name));
                double rate = own > 0 ? own : usual;

                if (rate > 0)
                        json_object_set_new(costs, name,
                                json_pack("{s:f, s:s}", "total_ms", PREPARE_MS_DEFAULT + 8000 * bytes / rate,
                                        "method", "past-migrations"));
        }
}

static void add_forecast_costs(struct manager *manager, const json_t *vm, json_t *costs)
{
        const json_t *measured = recently_measured(manager, vm), *paths = json_object_get(measured, "paths");
        struct forecast_lesson lesson;
        json_t *path;
        size_t i;

        if (!measured)
                return;
        lesson = lesson_for(manager, vm);
        json_array_foreach ((json_t *)paths, i, path) {
                const json_t *host = inventory_host(manager->inventory, json_text(path, "host"));
                _cleanup_error_ struct error *error = NULL;
                _cleanup_json_ json_t *doc = NULL;

                if (host && forecast_to(manager, vm, NULL, measured, &lesson, json_text(host, "name"), &doc,
                                    &error) >= 0)
                        json_object_set_new(costs, json_text(host, "name"),
                                json_pack("{s:f, s:s}", "total_ms",
                                        number_at(json_object_get(doc, "total_ms"), "expected"), "method",
                                        "forecast"));
        }
}

json_t *forecasts_costs(struct manager *manager, const json_t *vm)
{
        json_t *costs = json_object();

        if (costs) {
                add_past_costs(manager, vm, costs);
                add_forecast_costs(manager, vm, costs);
        }
        return costs;
}

/* --- Measuring ---------------------------------------------------------------------------------------------------- */

/* Forgets what is too old to be of use. */
static void remember(struct forecasts *forecasts, const char *vm_uid, json_t *measured)
{
        int64_t now = clock_unix_ms(forecasts->manager->clock);
        const char *uid;
        json_t *old;
        void *spare;

        json_object_foreach_safe(forecasts->measured, spare, uid, old)
        {
                if (now - (int64_t)number_at(old, "taken_unix_ms") > RECENT_MS)
                        json_object_del(forecasts->measured, uid);
        }
        (void)json_object_set(forecasts->measured, vm_uid, measured);
}

static void on_measured(void *userdata, int status, json_t *body, struct error *error)
{
        _cleanup_(wait_freep) struct wait *wait = userdata;
        struct manager *manager = wait->owner->manager;
        _cleanup_json_ json_t *measured = NULL;
        json_t *sample = json_object_get(body, "sample");

        wait->call = NULL;
        if (error && error->code == ERROR_NOT_FOUND && !strstr(error_message(error), "VM ")) {
                struct error *e = NULL;

                error_set(&e, ERROR_NOT_SUPPORTED, "Upgrade that host.",
                        "the agent of host %s is of an earlier version and takes no samples", wait->from);
                http_request_reply_error(wait->request, e);
                return;
        }
        if (error) {
                http_request_reply_error(wait->request, error_with_names(manager, error));
                return;
        }
        measured = json_pack("{s:I, s:s, s:O*, s:O*}", "taken_unix_ms",
                (json_int_t)clock_unix_ms(manager->clock), "from", wait->from, "sample", sample, "paths",
                json_object_get(body, "paths"));
        if (!measured) {
                http_request_reply_error(wait->request, NULL);
                return;
        }
        remember(wait->owner, json_text(wait->vm, "uid"), measured);
        http_request_reply_json(wait->request, 200,
                json_pack("{s:s, s:s, s:O, s:O*, s:o}", "vm", json_text(wait->vm, "name"), "from", wait->from,
                        "taken_unix_ms", json_object_get(measured, "taken_unix_ms"), "sample", sample,
                        "destinations", forecast_all(manager, wait->vm, wait->input, measured, wait->to)));
}

/* {destinations: [...]} for the agent. */
static json_t *agent_body(struct manager *manager, const json_t *to)
{
        json_t *list = json_array(), *name;
        size_t i;

        json_array_foreach ((json_t *)to, i, name) {
                const json_t *host = inventory_host(manager->inventory, json_string_value(name)),
                             *spec = json_spec(host);

                json_array_append_new(
                        list, json_pack("{s:s, s:s, s:s*}", "host", json_text(host, "uid"), "address",
                                      json_text(spec, "address"), "migration_address",
                                      json_text_or_null(spec, "migration_address")));
        }
        return json_pack("{s:o}", "destinations", list);
}

/* The asked-for destination, or all that pass the checks. */
static int choose_destinations(
        struct manager *manager, const json_t *vm, const char *to, json_t **ret_to, struct error **ret_error)
{
        _cleanup_json_ json_t *report = NULL, *list = json_array();
        const json_t *ranking, *host = to ? inventory_host(manager->inventory, to) : NULL;
        const char *from = json_text(json_status(vm), "host");
        int r;

        if (to && !host)
                return error_set(
                        ret_error, ERROR_NOT_FOUND, "See `drover host list`.", "there is no host %.64s", to);
        if (to && !strcmp(json_text(host, "name"), from))
                return error_set(ret_error, ERROR_CONFLICT, "Name another host.",
                        "the virtual machine is on host %s already", from);
        if (to) {
                json_array_append_new(list, json_string(json_text(host, "name")));
        } else {
                r = operation_migrate_check(manager, vm, NULL, NULL, &report, ret_error);
                if (r < 0)
                        return r;
                ranking = json_object_get(report, "ranking");
                for (size_t i = 0; i < json_array_size(ranking) && json_array_size(list) < DESTINATIONS_MAX;
                        i++) {
                        const json_t *rank = json_array_get(ranking, i);

                        if (json_is_true(json_object_get(rank, "ok")))
                                json_array_append(list, json_object_get(rank, "host"));
                }
                if (json_array_size(list) == 0)
                        return error_set(ret_error, ERROR_NO_RESOURCES, "See `drover vm migrate VM --check`.",
                                "no host can take the virtual machine");
        }
        *ret_to = TAKE_PTR(list);
        return 0;
}

static int read_forecast(struct http_request *request, json_t **ret_body, struct error **ret_error)
{
        static const char *const keys[] = {"to", "max_pause_ms", "rate_limit_bps", "verify", NULL};
        const char *to = NULL;
        uint64_t number;
        json_t *body = NULL;
        bool flag;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = doc_opt_string(body, "", "to", NAME_MAX_CHARS, &to, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "max_pause_ms", 1, 600000, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "rate_limit_bps", 0, INT64_MAX, &number, ret_error);
        if (r >= 0)
                r = doc_opt_bool(body, "", "verify", &flag, ret_error);
        if (r >= 0)
                *ret_body = body;
        return r;
}

static int check_vm(
        struct manager *manager, const json_t *vm, const json_t **ret_host, struct error **ret_error)
{
        const char *power = json_text(json_status(vm), "power"), *name = json_text(json_status(vm), "host");
        const json_t *host = inventory_host(manager->inventory, name);

        if (strcmp(power, "running"))
                return error_set(ret_error, ERROR_CONFLICT,
                        !strcmp(power, "paused") ? "Resume it first." : "Start it first.",
                        "the virtual machine is %s; a forecast needs a running one", power);
        if (!host || inventory_unreachable(manager->inventory, json_text(host, "uid")))
                return error_set(ret_error, ERROR_UNREACHABLE, "Bring the host's agent back first.",
                        "host %s, on which the virtual machine runs, cannot be reached", name);
        *ret_host = host;
        return 0;
}

void api_vm_forecast(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_(wait_freep) struct wait *wait = ALLOC(struct wait);
        _cleanup_json_ json_t *vm = NULL, *to = NULL, *agent = NULL;
        _cleanup_free_ char *path = NULL;
        struct error *error = NULL;
        const json_t *host = NULL;
        json_t *body = NULL;
        int r = wait ? 0 : error_set(&error, ERROR_NO_MEMORY, NULL, "out of memory");

        if (wait)
                list_init(&wait->order);
        if (r >= 0)
                r = api_get_object(request, manager, "vm", &vm, &error);
        if (r >= 0)
                r = read_forecast(request, &body, &error);
        if (r >= 0)
                r = check_vm(manager, vm, &host, &error);
        if (r >= 0)
                r = choose_destinations(manager, vm, json_text_or_null(body, "to"), &to, &error);
        if (r < 0)
                return http_request_reply_error(request, error);
        agent = agent_body(manager, to);
        path = alloc_printf("/agent/v1/vms/%s/sample", json_text(vm, "uid"));
        wait->owner = manager->forecasts;
        wait->request = request;
        wait->vm = json_incref(vm);
        wait->input = json_incref(body);
        wait->to = json_incref(to);
        wait->from = alloc_strdup(json_text(host, "name"));
        r = agent && path && wait->from ? agent_call(manager,
                                                  &(struct agent_request){.host_uid = json_text(host, "uid"),
                                                          .method = "POST",
                                                          .path = path,
                                                          .body = agent,
                                                          .timeout_ms = MEASURE_TIMEOUT_MS},
                                                  on_measured, wait, &wait->call, &error)
                                        : -ENOMEM;
        if (r < 0)
                return http_request_reply_error(request, error);
        list_append(&manager->forecasts->waiting, &wait->order);
        TAKE_PTR(wait);
}

/* --- Score -------------------------------------------------------------------------------------------------------- */

void api_forecast_score(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        struct error *error = NULL;
        _cleanup_json_ json_t *tasks =
                past_tasks(manager, (struct past_query){.forecast = true}, SCORED_MAX, &error);
        _cleanup_json_ json_t *records = records_of(tasks);

        if (error)
                return http_request_reply_error(request, error);
        http_request_reply_json(request, 200, records ? forecast_score(records) : NULL);
}

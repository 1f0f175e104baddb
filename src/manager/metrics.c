/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/metrics.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/file.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_costs.h"
#include "manager/migration_queue.h"
#include "manager/pools.h"
#include "manager/version.h"

#define STATM_MAX_BYTES 256

/* Upper bounds; from a pause that nobody notices to a migration that takes an hour. */
static const double migration_bounds[] = {0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600};
static const double queue_bounds[] = {0.1, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 43200};
static const double pause_bounds[] = {0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5};
static const double loop_bounds[] = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};
static_assert(ARRAY_SIZE(loop_bounds) == METRICS_N_BUCKETS, "one bound a bucket");
static_assert(ARRAY_SIZE(migration_bounds) == METRICS_N_BUCKETS, "one bound a bucket");
static_assert(ARRAY_SIZE(queue_bounds) == METRICS_N_BUCKETS, "one bound a bucket");
static_assert(ARRAY_SIZE(pause_bounds) == METRICS_N_BUCKETS, "one bound a bucket");

/* MigrationResult.switchover.permit */
static const char *const metrics_permits[] = {"manager", "alone", "none"};
static_assert(ARRAY_SIZE(metrics_permits) == METRICS_N_PERMITS, "one counter a word");

static void observe(struct metrics_histogram *histogram, const double *bounds, double value)
{
        size_t i = 0;

        while (i < METRICS_N_BUCKETS && value > bounds[i])
                i++;
        histogram->counts[i]++;
        histogram->n++;
        histogram->sum += value;
}

static uint64_t count_of(const json_t *result, const char *key)
{
        double value = json_number_value(json_object_get(result, key));

        return value > 0 ? (uint64_t)value : 0;
}

static void count_permit(struct metrics *metrics, const json_t *result)
{
        const char *permit = json_text(json_object_get(result, "switchover"), "permit");

        for (size_t i = 0; i < METRICS_N_PERMITS; i++)
                metrics->switchovers[i] += !strcmp(metrics_permits[i], permit);
}

void metrics_migration(struct metrics *metrics, bool succeeded, const json_t *result)
{
        if (!succeeded) {
                metrics->migrations_failed++;
                return;
        }
        metrics->migrations_succeeded++;
        metrics->bytes_ram += count_of(result, "bytes_ram");
        metrics->bytes_wire += count_of(result, "bytes_wire");
        count_permit(metrics, result);
        if (!json_is_true(json_object_get(result, "measured")))
                return;
        observe(&metrics->migration_seconds, migration_bounds,
                json_number_value(json_object_get(result, "total_ms")) / 1000.0);
        if (json_is_number(json_object_get(result, "pause_ms")))
                observe(&metrics->pause_seconds, pause_bounds,
                        json_number_value(json_object_get(result, "pause_ms")) / 1000.0);
}

void metrics_storage_migration(struct metrics *metrics, bool succeeded, const json_t *result)
{
        if (!succeeded) {
                metrics->storage_migrations_failed++;
                return;
        }
        metrics->storage_migrations_succeeded++;
        metrics->bytes_disks += count_of(result, "bytes_copied");
}

void metrics_queued(struct metrics *metrics, enum queue_priority priority, uint64_t waited_ms)
{
        observe(&metrics->queue_seconds[priority], queue_bounds, (double)waited_ms / 1000.0);
}

void metrics_loop(void *metrics, uint64_t ns)
{
        struct metrics *m = metrics;
        double seconds = (double)ns / 1e9;

        observe(&m->loop_seconds, loop_bounds, seconds);
        m->loop_longest_seconds = MAX(m->loop_longest_seconds, seconds);
}

static void write_head(struct buf *out, const char *name, const char *help, const char *type)
{
        buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* One series of a histogram; `label`: such as priority="low", or "". */
static void write_series(struct buf *out, const char *name, const char *label,
        const struct metrics_histogram *histogram, const double *bounds)
{
        const char *comma = *label ? "," : "";
        uint64_t n = 0;

        for (size_t i = 0; i < METRICS_N_BUCKETS; i++) {
                n += histogram->counts[i];
                buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, label, comma, bounds[i], n);
        }
        buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, label, comma, histogram->n);
        if (*label)
                buf_printf(out, "%s_sum{%s} %.6f\n%s_count{%s} %" PRIu64 "\n", name, label, histogram->sum,
                        name, label, histogram->n);
        else
                buf_printf(
                        out, "%s_sum %.6f\n%s_count %" PRIu64 "\n", name, histogram->sum, name, histogram->n);
}

static void write_histogram(struct buf *out, const char *name, const char *help,
        const struct metrics_histogram *histogram, const double *bounds)
{
        write_head(out, name, help, "histogram");
        write_series(out, name, "", histogram, bounds);
}

static void write_counter(struct buf *out, const char *name, const char *help, uint64_t value)
{
        buf_printf(out, "# HELP %s %s\n# TYPE %s counter\n%s %" PRIu64 "\n", name, help, name, name, value);
}

/* --- Objects by state: from memory, for a scrape must not read thousands of documents ------------------------------------- */

#define WORDS_MAX 16

struct gauge {
        const char *name, *help, *label;
        const char *const *words; /* NULL-terminated: always one line each */
        uint64_t counts[WORDS_MAX];
};

/* The word itself, of the gauge; NULL: it has no such. */
static const char *count_word(struct gauge *gauge, const char *word)
{
        for (size_t i = 0; gauge->words[i] && i < WORDS_MAX; i++)
                if (!strcmp(gauge->words[i], word)) {
                        gauge->counts[i]++;
                        return gauge->words[i];
                }
        return NULL;
}

static void write_gauge(struct buf *out, const struct gauge *gauge)
{
        write_head(out, gauge->name, gauge->help, "gauge");
        for (size_t i = 0; gauge->words[i] && i < WORDS_MAX; i++)
                buf_printf(out, "%s{%s=\"%s\"} %" PRIu64 "\n", gauge->name, gauge->label, gauge->words[i],
                        gauge->counts[i]);
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static int write_hosts(struct manager *manager, struct buf *out, struct error **ret_error)
{
        static const char *const states[] = {"enrolling", "connecting", "connected", "unreachable", NULL};
        struct gauge gauge = {"drover_hosts", "Hosts by state.", "state", states, {}};
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory);
        json_t *host;
        size_t i;

        if (!hosts)
                return no_memory(ret_error);
        json_array_foreach (hosts, i, host)
                count_word(&gauge, json_text(json_status(host), "state"));
        write_gauge(out, &gauge);
        return 0;
}

static int write_vms(struct manager *manager, struct buf *out, struct error **ret_error)
{
        static const char *const powers[] = {"stopped", "starting", "running", "paused", "incoming",
                "outgoing-done", "crashed", "unknown", "suspending", "suspended", NULL};
        static const char *const states[] = {"creating", "ready", "reverting", "deleting", NULL};
        struct gauge gauge = {"drover_vms", "Virtual machines by power state.", "power", powers, {}};
        struct gauge snapshots = {
                "drover_snapshots", "Snapshots of virtual machines by state.", "state", states, {}};
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        json_t *vm, *snapshot;
        size_t i, k;

        if (!vms)
                return no_memory(ret_error);
        json_array_foreach (vms, i, vm) {
                count_word(&gauge, json_text(json_status(vm), "power"));
                json_array_foreach (json_object_get(vm, "snapshots"), k, snapshot)
                        count_word(&snapshots, json_text(snapshot, "state"));
        }
        write_gauge(out, &gauge);
        write_gauge(out, &snapshots);
        return 0;
}

/* At most POOLS_MAX of them, whose names are names and need no quoting. */
static void write_pool_gauge(struct buf *out, const json_t *pools, const char *name, const char *help,
        const char *part, const char *group, const char *key)
{
        json_t *pool;
        size_t i;

        write_head(out, name, help, "gauge");
        json_array_foreach ((json_t *)pools, i, pool) {
                const json_t *value =
                        json_object_get(json_object_get(json_object_get(pool, part), group), key);

                if (json_is_integer(value))
                        buf_printf(out, "%s{pool=\"%s\"} %" JSON_INTEGER_FORMAT "\n", name,
                                json_text(pool, "name"), json_integer_value(value));
        }
}

static int write_pools(struct manager *manager, struct buf *out, struct error **ret_error)
{
        static const struct {
                const char *name, *help, *part, *group, *key;
        } gauges[] = {
                {"drover_pool_vms", "Virtual machines of a resource pool that run.", "status", "used", "vms"},
                {"drover_pool_cpus", "Their virtual processors.", "status", "used", "cpus"},
                {"drover_pool_memory_bytes", "Their memory.", "status", "used", "memory_bytes"},
                {"drover_pool_vms_limit", "How many may run.", "spec", "limits", "vms"},
                {"drover_pool_cpus_limit", "How many virtual processors they may have.", "spec", "limits",
                        "cpus"},
                {"drover_pool_memory_limit_bytes", "How much memory they may have.", "spec", "limits",
                        "memory_bytes"},
                {"drover_pool_memory_reserved_bytes", "Memory of the hosts that is kept for them.", "spec",
                        "reservation", "memory_bytes"},
        };
        _cleanup_json_ json_t *docs = NULL, *pools = json_array();
        json_t *doc;
        size_t i;
        int r = inventory_objects(manager->inventory, "pool", &docs, ret_error);

        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc)
                if (!pools || json_array_append_new(pools, pools_with_use(manager, doc, NULL)) < 0)
                        return no_memory(ret_error);
        for (i = 0; i < ARRAY_SIZE(gauges); i++)
                write_pool_gauge(out, pools, gauges[i].name, gauges[i].help, gauges[i].part, gauges[i].group,
                        gauges[i].key);
        return 0;
}

/* One line a datastore, also of a local one, as the API has it in sum: the number of lines does not grow with the hosts. */
static void write_datastore_gauge(struct buf *out, const json_t *datastores, const char *name,
        const char *help, const char *key, double unit)
{
        json_t *doc;
        size_t i;

        write_head(out, name, help, "gauge");
        json_array_foreach ((json_t *)datastores, i, doc) {
                const json_t *value = json_object_get(json_status(doc), key);

                if (json_is_number(value))
                        buf_printf(out, "%s{datastore=\"%s\"} %.15g\n", name, json_text(doc, "name"),
                                json_number_value(value) / unit);
        }
}

static int write_datastores(struct manager *manager, struct buf *out, struct error **ret_error)
{
        static const struct {
                const char *name, *help, *key;
                double unit;
        } gauges[] = {
                {"drover_datastore_capacity_bytes", "Size of a datastore.", "capacity_bytes", 1},
                {"drover_datastore_free_bytes", "What is free there.", "free_bytes", 1},
                {"drover_datastore_provisioned_bytes", "Virtual sizes of the disks there.",
                        "provisioned_bytes", 1},
                {"drover_datastore_reserved_bytes", "The same of disks on their way there.", "reserved_bytes",
                        1},
                {"drover_datastore_latency_seconds", "Of a small write until it is safe.", "latency_ms",
                        1000},
                {"drover_datastore_write_bytes_per_second", "Rate of writing when it was tried last.",
                        "write_bytes_per_s", 1},
                {"drover_datastore_read_bytes_per_second", "Rate of reading when it was tried last.",
                        "read_bytes_per_s", 1},
        };
        _cleanup_json_ json_t *docs = NULL, *with = json_array(),
                              *reserved = datastores_reserved(manager, NULL);
        json_t *doc;
        size_t i;
        int r = inventory_objects(manager->inventory, "datastore", &docs, ret_error);

        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc)
                if (!with || !reserved ||
                        json_array_append_new(with, datastores_with_facts(manager, doc, reserved)) < 0)
                        return no_memory(ret_error);
        for (i = 0; i < ARRAY_SIZE(gauges); i++)
                write_datastore_gauge(
                        out, with, gauges[i].name, gauges[i].help, gauges[i].key, gauges[i].unit);
        write_head(out, "drover_datastore_overcommit_limit_ratio",
                "How many times its size may be promised; without a limit there is no line.", "gauge");
        json_array_foreach (with, i, doc)
                if (json_is_number(json_object_get(json_spec(doc), "overcommit")))
                        buf_printf(out, "drover_datastore_overcommit_limit_ratio{datastore=\"%s\"} %.15g\n",
                                json_text(doc, "name"),
                                json_number_value(json_object_get(json_spec(doc), "overcommit")));
        return 0;
}

static const char *const task_states[] = {
        "queued", "running", "undoing", "succeeded", "failed", "cancelled", NULL};

static const char *known_state(const char *state)
{
        for (size_t i = 0; task_states[i]; i++)
                if (!strcmp(task_states[i], state))
                        return task_states[i];
        return NULL;
}

void metrics_init(struct metrics *metrics)
{
        map_init(&metrics->task_states);
}

void metrics_deinit(struct metrics *metrics)
{
        map_deinit(&metrics->task_states);
}

static void forget_task_states(struct metrics *metrics)
{
        map_deinit(&metrics->task_states);
        metrics->task_states_known = false;
}

void metrics_task(struct metrics *metrics, const char *uid, const char *state)
{
        const char *known = state ? known_state(state) : NULL;

        if (!metrics->task_states_known)
                return;
        if (!known)
                map_remove(&metrics->task_states, uid);
        else if (map_put(&metrics->task_states, uid, (void *)known, NULL) < 0)
                forget_task_states(metrics); /* they are read again */
}

void metrics_tasks_changed(struct metrics *metrics)
{
        forget_task_states(metrics);
}

static bool take_task_state(void *userdata, const json_t *task)
{
        struct metrics *metrics = userdata;

        metrics_task(metrics, json_text(task, "uid"), json_text(json_status(task), "state"));
        return false; /* the document is not needed any more */
}

static int write_tasks(struct manager *manager, struct buf *out, struct error **ret_error)
{
        struct gauge gauge = {"drover_tasks", "Retained tasks by state.", "state", task_states, {}};
        struct metrics *metrics = &manager->metrics;
        struct store_query query = {
                .kind = "task", .limit = STORE_LIMIT_NONE, .match = take_task_state, .userdata = metrics};
        struct map_item *item, *spare;
        _cleanup_json_ json_t *none = NULL;

        if (!metrics->task_states_known) {
                metrics->task_states_known = true;
                if (store_list(manager->store, &query, &none, NULL, ret_error) < 0) {
                        forget_task_states(metrics);
                        return -EIO;
                }
        }
        map_for_each (item, spare, &metrics->task_states)
                count_word(&gauge, item->value);
        write_gauge(out, &gauge);
        return 0;
}

static int write_alerts(struct manager *manager, struct buf *out, struct error **ret_error)
{
        struct store_query query = {.kind = "alert", .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *docs = NULL;
        int r;

        r = store_list(manager->store, &query, &docs, NULL, ret_error);
        if (r >= 0)
                buf_printf(out,
                        "# HELP drover_alerts Things that a person must look at now.\n"
                        "# TYPE drover_alerts gauge\ndrover_alerts %zu\n",
                        json_array_size(docs));
        return r;
}

static void count_queued(void *userdata, const struct task *task)
{
        enum queue_priority priority = QUEUE_NORMAL;
        uint64_t *counts = userdata;

        if (!task_queued(task) || !migration_is_queued(task))
                return;
        (void)queue_priority_from_string(task_priority(task), &priority);
        counts[priority]++;
}

static void write_queue(struct manager *manager, struct buf *out)
{
        uint64_t counts[N_QUEUE_PRIORITIES] = {};
        char label[32];

        task_each(manager->tasks, count_queued, counts);
        write_head(out, "drover_queue_length", "Migrations that wait to be started.", "gauge");
        for (size_t i = 0; i < N_QUEUE_PRIORITIES; i++)
                buf_printf(out, "drover_queue_length{priority=\"%s\"} %" PRIu64 "\n",
                        queue_priority_to_string((enum queue_priority)i), counts[i]);
        write_head(
                out, "drover_queue_wait_seconds", "How long migrations waited to be started.", "histogram");
        for (size_t i = 0; i < N_QUEUE_PRIORITIES; i++) {
                snprintf(label, sizeof(label), "priority=\"%s\"",
                        queue_priority_to_string((enum queue_priority)i));
                write_series(out, "drover_queue_wait_seconds", label, &manager->metrics.queue_seconds[i],
                        queue_bounds);
        }
        write_head(out, "drover_switchovers_total", "Final pauses of migrations by who permitted them.",
                "counter");
        for (size_t i = 0; i < METRICS_N_PERMITS; i++)
                buf_printf(out, "drover_switchovers_total{permit=\"%s\"} %" PRIu64 "\n", metrics_permits[i],
                        manager->metrics.switchovers[i]);
        write_head(out, "drover_queue_drained", "1 while nothing in the queue may start.", "gauge");
        buf_printf(out, "drover_queue_drained %d\n", migration_queue_is_drained(manager->queue));
}

static const char *const request_words[] = {
        [METRICS_ADMITTED] = "admitted",
        [METRICS_UNAUTHENTICATED] = "unauthenticated",
        [METRICS_DENIED] = "denied",
        [METRICS_LIMITED] = "limited",
};
static_assert(ARRAY_SIZE(request_words) == N_METRICS_REQUESTS, "one word a result");

static void write_api(const struct metrics *metrics, struct buf *out)
{
        write_head(
                out, "drover_api_requests_total", "Requests by whether the caller may send them.", "counter");
        for (size_t i = 0; i < N_METRICS_REQUESTS; i++)
                buf_printf(out, "drover_api_requests_total{result=\"%s\"} %" PRIu64 "\n", request_words[i],
                        metrics->requests[i]);
        write_head(out, "drover_logins_total", "Attempts to log in with a password.", "counter");
        buf_printf(out,
                "drover_logins_total{result=\"succeeded\"} %" PRIu64 "\n"
                "drover_logins_total{result=\"failed\"} %" PRIu64 "\n",
                metrics->logins_succeeded, metrics->logins_failed);
}

/* What Prometheus's client libraries tell of a process, under the same names; left out where /proc does not say. */
static void write_process(struct buf *out)
{
        struct rusage usage;
        _cleanup_free_ char *text = NULL;
        uint64_t pages = 0;
        char *resident;

        if (getrusage(RUSAGE_SELF, &usage) == 0) {
                write_head(out, "process_cpu_seconds_total", "CPU time of the manager.", "counter");
                buf_printf(out, "process_cpu_seconds_total %.3f\n",
                        (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                                (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
        }
        resident = file_read("/proc/self/statm", STATM_MAX_BYTES, &text, NULL) < 0 ? NULL : strchr(text, ' ');
        if (!resident)
                return;
        resident++;
        resident[strcspn(resident, " ")] = '\0';
        if (text_parse_u64(resident, 0, UINT32_MAX, &pages) < 0)
                return;
        write_head(out, "process_resident_memory_bytes", "Memory of the manager.", "gauge");
        buf_printf(
                out, "process_resident_memory_bytes %" PRIu64 "\n", pages * (uint64_t)sysconf(_SC_PAGESIZE));
}

int metrics_write(struct manager *manager, struct buf *out, struct error **ret_error)
{
        const struct metrics *metrics = &manager->metrics;
        int r;

        buf_printf(out,
                "# HELP drover_build_info Version of the manager.\n# TYPE drover_build_info gauge\n"
                "drover_build_info{version=\"%s\"} 1\n",
                DROVER_VERSION);
        r = write_hosts(manager, out, ret_error);
        if (r >= 0)
                r = write_vms(manager, out, ret_error);
        if (r >= 0)
                r = write_pools(manager, out, ret_error);
        if (r >= 0)
                r = write_datastores(manager, out, ret_error);
        if (r >= 0)
                r = write_tasks(manager, out, ret_error);
        if (r >= 0)
                r = write_alerts(manager, out, ret_error);
        if (r < 0)
                return r;
        buf_printf(out,
                "# HELP drover_migrations_total Ended migrations.\n# TYPE drover_migrations_total counter\n"
                "drover_migrations_total{result=\"succeeded\"} %" PRIu64 "\n"
                "drover_migrations_total{result=\"failed\"} %" PRIu64 "\n",
                metrics->migrations_succeeded, metrics->migrations_failed);
        buf_printf(out,
                "# HELP drover_storage_migrations_total Ended migrations of disks to other datastores.\n"
                "# TYPE drover_storage_migrations_total counter\n"
                "drover_storage_migrations_total{result=\"succeeded\"} %" PRIu64 "\n"
                "drover_storage_migrations_total{result=\"failed\"} %" PRIu64 "\n",
                metrics->storage_migrations_succeeded, metrics->storage_migrations_failed);
        write_counter(out, "drover_storage_migration_bytes_total",
                "Bytes on disk that such migrations wrote.", metrics->bytes_disks);
        write_queue(manager, out);
        write_counter(out, "drover_migration_ram_bytes_total", "Guest memory read by migrations.",
                metrics->bytes_ram);
        write_counter(
                out, "drover_migration_wire_bytes_total", "Bytes that migrations sent.", metrics->bytes_wire);
        write_counter(out, "drover_agent_calls_total", "Calls to agents.", metrics->agent_calls);
        write_counter(out, "drover_agent_call_failures_total", "Polls of agents that failed.",
                metrics->agent_call_failures);
        write_histogram(out, "drover_manager_loop_seconds",
                "How long each handler of the manager's event loop ran; nothing else is done meanwhile.",
                &metrics->loop_seconds, loop_bounds);
        write_head(out, "drover_manager_loop_longest_seconds",
                "The longest of them since the manager began to lead.", "gauge");
        buf_printf(out, "drover_manager_loop_longest_seconds %.6f\n", metrics->loop_longest_seconds);
        write_histogram(out, "drover_migration_duration_seconds", "Duration of migrations.",
                &metrics->migration_seconds, migration_bounds);
        write_histogram(out, "drover_migration_pause_seconds", "How long guests were paused by migrations.",
                &metrics->pause_seconds, pause_bounds);
        write_api(metrics, out);
        write_process(out);
        return 0;
}

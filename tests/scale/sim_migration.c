/* SPDX-License-Identifier: Apache-2.0 */

/* Simulated migrations: prepare, copy for some seconds, ask for the final pause as the real source does (docs/decisions/0012), hand
 * over, settle. Both hosts are in this process, so that there is no peer protocol; what the manager sees of it is the same. */

#include "sim.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "manager/json.h"

#define TICK_MS 500 /* progress is told this often, as the real agent does */

enum sim_phase { PREPARING, COPYING, SWITCHING, HANDED_OFF, SETTLING, DONE, FAILED, CANCELLED, N_PHASES };

static const char *const phase_names[] = {
        "preparing", "copying", "switching", "handed-off", "settling", "done", "failed", "cancelled"};
static_assert(ARRAY_SIZE(phase_names) == N_PHASES, "every phase has a name");

struct sim_migration {
        struct sim *sim;
        struct sim_host *from, *to;
        char id[40], vm_uid[40];
        json_t *vm; /* as it was at the start */
        json_int_t epoch, rate_limit_bps;
        enum sim_phase phase;
        uint64_t began_ms, phase_began_ms, copy_ms, prepare_ms;
        json_t *history;
        const char *switchover; /* "closed", "asked", "open" */
        const char *permit;
        uint64_t asked_ms, word_ms, waited_ms, patience_ms;
        bool lapsed;
        struct error *error;
        struct loop_source *timer;
};

static uint64_t now_ms(const struct sim_migration *m)
{
        return clock_now_ms(loop_clock(m->sim->loop));
}

static bool is_over(const struct sim_migration *m)
{
        return m->phase >= DONE;
}

static void migration_free(struct sim_migration *m)
{
        if (!m)
                return;
        loop_source_free(m->timer);
        error_free(m->error);
        json_decref(m->vm);
        json_decref(m->history);
        free(m);
}

void sim_migrations_deinit(struct sim *sim)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &sim->migrations)
                migration_free(item->value);
        map_deinit(&sim->migrations);
}

/* --- Documents ---------------------------------------------------------------------------------------------------- */

static json_t *progress_of(const struct sim_migration *m)
{
        json_int_t all = sim_guest_memory(m->vm), done = 0;
        uint64_t elapsed = m->phase == COPYING ? now_ms(m) - m->phase_began_ms : 0;

        if (m->phase == COPYING)
                done = (json_int_t)((double)all * MIN((double)elapsed / (double)m->copy_ms, 1.0));
        else if (m->phase > COPYING)
                done = all;
        return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:i, s:I}", "pass",
                elapsed > m->copy_ms ? 2 : 1, "bytes_ram", done, "remaining_bytes", all - done, "bytes_wire",
                done / 4, "bytes_zero", done / 2, "bytes_duplicate", done / 10, "bytes_delta", done / 50,
                "dirty_pages_per_s", (json_int_t)(elapsed * 7 % 5000), "throughput_bps",
                (json_int_t)8 * all / 4 * 1000 / (json_int_t)m->copy_ms, "codec", "zstd", "channels", 4,
                "rate_limit_bps", m->rate_limit_bps);
}

static json_t *result_of(const struct sim_migration *m)
{
        json_int_t all = sim_guest_memory(m->vm);

        return json_pack("{s:I, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:i, s:s, s:s, s:O, s:{s:s, s:I, s:b}}",
                "total_ms", (json_int_t)(now_ms(m) - m->began_ms), "pause_ms", 12, "passes", 2, "bytes_ram",
                all, "bytes_wire", all / 4, "bytes_zero", all / 2, "bytes_duplicate", all / 10, "bytes_delta",
                all / 50, "channels", 4, "cipher", "TLS_AES_128_GCM_SHA256", "converged_by", "itself",
                "phases", m->history, "switchover", "permit", m->permit, "waited_ms",
                (json_int_t)m->waited_ms, "lapsed", m->lapsed);
}

static json_t *document_of(const struct sim_migration *m)
{
        return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:o, s:O, s:o?, s:o?, s:{s:s, s:s, s:I, s:b}}", "id",
                m->id, "vm", m->vm_uid, "role", "source", "phase", phase_names[m->phase], "record",
                m->phase >= HANDED_OFF && m->phase <= DONE ? "handed-off" : "outgoing", "epoch", m->epoch,
                "progress", progress_of(m), "phases", m->history, "result",
                m->phase == DONE ? result_of(m) : NULL, "error", m->error ? error_to_json(m->error) : NULL,
                "switchover", "state", m->switchover, "permit", m->permit, "waited_ms",
                (json_int_t)m->waited_ms, "lapsed", m->lapsed);
}

static void publish(const struct sim_migration *m)
{
        _cleanup_json_ json_t *document = document_of(m);

        events_publish(m->from->events, "migration", document);
}

/* --- The course of it --------------------------------------------------------------------------------------------- */

static void count(struct sim_migration *m, int by)
{
        struct sim_counts *counts = &m->sim->counts;

        counts->now += (uint64_t)by;
        m->from->n_migrations += (uint64_t)by;
        m->to->n_migrations += (uint64_t)by;
        counts->most_at_once = MAX(counts->most_at_once, counts->now);
        counts->most_on_a_host = MAX(counts->most_on_a_host, MAX(m->from->n_migrations, m->to->n_migrations));
}

static void enter(struct sim_migration *m, enum sim_phase phase)
{
        uint64_t now = now_ms(m);

        json_array_append_new(m->history, json_pack("{s:s, s:I, s:I}", "name", phase_names[m->phase],
                                                  "start_ms", (json_int_t)(m->phase_began_ms - m->began_ms),
                                                  "ms", (json_int_t)(now - m->phase_began_ms)));
        m->phase = phase;
        m->phase_began_ms = now;
        if (is_over(m)) {
                count(m, -1);
                m->sim->counts.done += phase == DONE;
                m->sim->counts.failed += phase == FAILED;
                m->sim->counts.cancelled += phase == CANCELLED;
                loop_source_disarm(m->timer);
        }
        publish(m);
}

/* The destination prepares: that needs room, which the manager should have seen to. */
static void prepare(struct sim_migration *m)
{
        json_t *vm = json_deep_copy(m->vm);

        if (m->to->promised + sim_guest_memory(m->vm) > m->sim->host_memory) {
                m->sim->counts.memory_exceeded++;
                error_set(&m->error, ERROR_NO_RESOURCES, NULL, "the destination %s has no room", m->to->name);
                json_decref(vm);
                enter(m, FAILED);
                return;
        }
        sim_guest_put(m->to, vm, "incoming", m->epoch);
        enter(m, COPYING);
        loop_source_rearm(m->timer, TICK_MS);
}

static void pause_counts(struct sim_migration *m, int by)
{
        m->from->n_pauses += (uint64_t)by;
        m->to->n_pauses += (uint64_t)by;
        m->sim->counts.most_on_a_link =
                MAX(m->sim->counts.most_on_a_link, MAX(m->from->n_pauses, m->to->n_pauses));
}

static void begin_pause(struct sim_migration *m, const char *permit)
{
        m->switchover = "open";
        m->permit = permit;
        m->waited_ms = now_ms(m) - m->asked_ms;
        m->lapsed = strcmp(permit, "manager") != 0;
        m->sim->counts.without_permit += m->lapsed;
        pause_counts(m, 1);
        enter(m, SWITCHING);
        loop_source_rearm(m->timer, 20 + sim_random(m->sim, 60));
}

static void copy_on(struct sim_migration *m)
{
        const struct sim *sim = m->sim;

        if (now_ms(m) < m->phase_began_ms + m->copy_ms || sim->counts.most_at_once < sim->options.at_once) {
                publish(m);
                loop_source_rearm(m->timer, TICK_MS);
                return;
        }
        if (!m->patience_ms) { /* nobody coordinates */
                m->asked_ms = now_ms(m);
                begin_pause(m, "none");
                return;
        }
        if (!strcmp(m->switchover, "closed")) {
                m->switchover = "asked";
                m->asked_ms = m->word_ms = now_ms(m);
        } else if (now_ms(m) >= m->word_ms + m->patience_ms) {
                begin_pause(m, "alone");
                return;
        }
        publish(m);
        loop_source_rearm(m->timer, TICK_MS);
}

static void arrive(struct sim_migration *m)
{
        json_t *vm = json_deep_copy(m->vm);

        pause_counts(m, -1);
        sim_guest_put(m->to, vm, "running", m->epoch + 1);
        sim_guest_gone(m->from, m->vm_uid);
        m->switchover = "closed";
        enter(m, SETTLING);
        loop_source_rearm(m->timer, 50);
}

static void on_timer(void *userdata)
{
        struct sim_migration *m = userdata;

        switch (m->phase) {
        case PREPARING:
                prepare(m);
                break;
        case COPYING:
                copy_on(m);
                break;
        case SWITCHING:
                enter(m, HANDED_OFF);
                loop_source_rearm(m->timer, 10 + sim_random(m->sim, 30));
                break;
        case HANDED_OFF:
                arrive(m);
                break;
        case SETTLING:
                enter(m, DONE);
                break;
        case DONE:
        case FAILED:
        case CANCELLED:
        case N_PHASES:
                break;
        }
}

/* --- The API ------------------------------------------------------------------------------------------------------ */

static int check_start(
        const struct sim_host *host, const json_t *spec, const json_t *vm, struct error **ret_error)
{
        const json_t *to = json_object_get(spec, "destination");

        if (!vm)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "this host has no such virtual machine");
        if (strcmp(json_text(json_status(vm), "power"), "running"))
                return error_set(
                        ret_error, ERROR_CONFLICT, NULL, "it is %s", json_text(json_status(vm), "power"));
        if (json_integer_value(json_object_get(json_status(vm), "owner_epoch")) !=
                json_integer_value(json_object_get(spec, "epoch")))
                return error_set(ret_error, ERROR_STALE_EPOCH, NULL, "its epoch is another one");
        if (!map_get(&host->sim->by_uid, json_text(to, "host")))
                return error_set(ret_error, ERROR_PEER_FAILED, NULL, "the destination is not simulated here");
        return 0;
}

static struct sim_migration *migration_new(struct sim_host *host, const json_t *spec, const json_t *vm)
{
        const struct sim_options *options = &host->sim->options;
        struct sim_migration *m = ALLOC(struct sim_migration);
        uint64_t spread = options->copy_max_ms - options->copy_min_ms;

        if (!m)
                return NULL;
        *m = (struct sim_migration){.sim = host->sim,
                .from = host,
                .to = map_get(&host->sim->by_uid, json_text(json_object_get(spec, "destination"), "host")),
                .vm = json_deep_copy(vm),
                .epoch = json_integer_value(json_object_get(spec, "epoch")),
                .rate_limit_bps = json_integer_value(json_object_get(spec, "rate_limit_bps")),
                .prepare_ms = 200 + sim_random(host->sim, 500),
                .copy_ms = options->copy_min_ms + sim_random(host->sim, spread + 1),
                .history = json_array(),
                .switchover = "closed",
                .permit = "none",
                .patience_ms = (uint64_t)json_integer_value(
                        json_object_get(json_object_get(spec, "switchover"), "patience_ms"))};
        snprintf(m->id, sizeof(m->id), "%s", json_text(spec, "id"));
        snprintf(m->vm_uid, sizeof(m->vm_uid), "%s", json_text(vm, "uid"));
        m->began_ms = m->phase_began_ms = now_ms(m);
        if (!m->vm || !m->history ||
                loop_add_timer(m->sim->loop, m->prepare_ms, on_timer, m, &m->timer) < 0 ||
                map_put(&m->sim->migrations, m->id, m, NULL) < 0) {
                migration_free(m);
                return NULL;
        }
        m->sim->counts.migrations++;
        count(m, 1);
        return m;
}

void sim_migration_start(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        struct sim_migration *m;
        struct error *error = NULL;
        json_t *spec = NULL, *vm;
        int r;

        r = http_request_json(request, &spec, &error);
        m = r < 0 ? NULL : map_get(&host->sim->migrations, json_text(spec, "id"));
        if (m) { /* a manager that lost our answer */
                sim_reply(request, 202, document_of(m));
                return;
        }
        vm = r < 0 ? NULL : sim_guest(host, json_text(json_object_get(spec, "vm"), "uid"));
        if (r >= 0)
                r = check_start(host, spec, vm, &error);
        m = r < 0 ? NULL : migration_new(host, spec, vm);
        if (!m && r >= 0)
                r = error_set(&error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r < 0)
                sim_reply_error(request, error);
        else
                sim_reply(request, 202, document_of(m));
}

void sim_migration_list(struct http_request *request, void *userdata)
{
        const struct sim_host *host = userdata;
        json_t *items = json_array();
        struct map_item *item, *spare;

        map_for_each (item, spare, &host->sim->migrations) {
                const struct sim_migration *m = item->value;

                if (m->from == host)
                        json_array_append_new(items, document_of(m));
        }
        http_request_reply_json(request, 200, json_pack("{s:o}", "items", items));
}

/* NULL: the request was answered. The destination knows of it as well, and says the same. */
static struct sim_migration *find(struct http_request *request, struct sim_host *host)
{
        const char *id = http_request_param(request, "id");
        struct sim_migration *m = map_get(&host->sim->migrations, id);
        struct error *error = NULL;

        if (m && (m->from == host || m->to == host))
                return m;
        error_set(&error, ERROR_NOT_FOUND, NULL, "this host knows no migration %.40s", id);
        sim_reply_error(request, error);
        return NULL;
}

void sim_migration_get(struct http_request *request, void *userdata)
{
        const struct sim_migration *m = find(request, userdata);

        if (m)
                http_request_reply_json(request, 200, document_of(m));
}

static void refuse(struct http_request *request, const char *why)
{
        struct error *error = NULL;

        error_set(&error, ERROR_CONFLICT, NULL, "%s", why);
        sim_reply_error(request, error);
}

void sim_migration_cancel(struct http_request *request, void *userdata)
{
        struct sim_migration *m = find(request, userdata);

        if (!m)
                return;
        if (m->phase > COPYING) {
                refuse(request, "it cannot be cancelled any more");
                return;
        }
        if (m->phase == COPYING)
                sim_guest_gone(m->to, m->vm_uid);
        error_set(&m->error, ERROR_CANCELLED, NULL, "the migration was cancelled");
        enter(m, CANCELLED);
        sim_reply(request, 202, document_of(m));
}

void sim_migration_switchover(struct http_request *request, void *userdata)
{
        struct sim_migration *m = find(request, userdata);
        struct error *error = NULL;
        json_t *body = NULL;

        if (!m)
                return;
        if (http_request_json(request, &body, &error) < 0) {
                sim_reply_error(request, error);
                return;
        }
        if (m->phase != COPYING || strcmp(m->switchover, "asked")) {
                refuse(request, "it does not ask");
                return;
        }
        m->word_ms = now_ms(m);
        if (json_is_true(json_object_get(body, "permit")))
                begin_pause(m, "manager");
        sim_reply(request, 200, document_of(m));
}

void sim_migration_limits(struct http_request *request, void *userdata)
{
        struct sim_migration *m = find(request, userdata);
        struct error *error = NULL;
        json_t *body = NULL;

        if (!m)
                return;
        if (http_request_json(request, &body, &error) < 0) {
                sim_reply_error(request, error);
                return;
        }
        m->rate_limit_bps = json_integer_value(json_object_get(body, "rate_limit_bps"));
        sim_reply(request, 200, document_of(m));
}

void sim_migration_forget(struct http_request *request, void *userdata)
{
        struct sim_migration *m = find(request, userdata);

        if (!m)
                return;
        if (!is_over(m)) {
                refuse(request, "it is under way");
                return;
        }
        if (m->from == (struct sim_host *)userdata) { /* the destination is told first */
                map_remove(&m->sim->migrations, m->id);
                migration_free(m);
        }
        http_request_reply_empty(request, 204);
}

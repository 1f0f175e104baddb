/* SPDX-License-Identifier: Apache-2.0 */

/* One host's agent. Rounds of calls on a timer say whether it is reachable and what it has; its event stream says the same
 * of VMs and migrations at once. An event that is lost costs nothing: the next full round has the whole state. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "manager/inventory_private.h"
#include "manager/json.h"
#include "manager/migration_along.h"
#include "manager/operations.h"

/* A host whose network is cut right after a heartbeat counts as unreachable after HEARTBEAT + FIRST + SECOND at most, one
 * whose agent ended as soon as the event stream has. */
#define HEARTBEAT_MS 1000u
#define FIRST_TIMEOUT_MS 2500u
#define SECOND_TIMEOUT_MS 1500u
#define FAILURES_UNTIL_UNREACHABLE 2
#define AGAIN_MS 250u /* after a failure */
/* A call that was not answered in time says nothing of the host if our own loop was busy for this part of it, and until just now. So
 * many in a row are not counted, and one more after a failure: a host that is gone is found out at most 4 * (FIRST + AGAIN) + SECOND +
 * AGAIN later for it, 12.75 s, and only while we are saturated. The other way round, a manager that loses hosts because it is busy
 * has all their machines to record, and then all of them to connect to: it would not get out of that again. */
#define BUSY_SHARE 0.7
#define EXCUSED_MAX 4
#define EXCUSED_AFTER_FAILURE_MAX 1
#define FULL_ROUND_EVERY 10

/* What an agent says is kept in memory and on record. */
#define FACTS_MAX_BYTES (256u << 10)
#define LIST_MAX_BYTES (512u << 10)
#define ANSWER_MAX_BYTES (64u << 10)
#define VMS_MAX_BYTES (4u << 20)
#define COUNT_MAX (INT64_C(1) << 52)
#define EVENT_MAX_BYTES (64u << 10)

/* While unreachable: a connection attempt repeats its first packet after 1 s, so that one of 2 s notices a network that is
 * back within about a second; an agent that starts under load may then take its time to answer. */
#define RETURN_CONNECT_TIMEOUT_MS 2000u
#define RETURN_TIMEOUT_MS 8000u

/* Connecting costs both sides milliseconds of processor time. When all hosts are to be connected to, after a start or when our own network
 * is back, each gets its turn: else all of them would run out of time together, again and again. One that has not even taken the
 * connection after a moment costs nothing, and does not keep others waiting: its call goes on without a place. */
#define PLACE_MS 300u
#define RETURNING_MAX 128
#define RETURNING_MAX_SATURATED 16
#define SATURATION_WINDOW_MS 500
#define WAITING_AGAIN_MS 1000u

#define STREAM_TIMEOUT_MS (24ull * 3600 * 1000)
#define STREAM_RETRY_MS 10000u /* an agent that offers none, or no more */

static const struct {
        const char *path;
        const char *key;  /* where the answer goes in `facts`; NULL: it is the facts, or none */
        size_t max_bytes; /* of the answer: all facts together are recorded as one document */
} poll_steps[] = {
        [POLL_HOST] = {"/agent/v1/host", NULL, FACTS_MAX_BYTES},
        [POLL_CPU] = {"/agent/v1/cpu", NULL, LIST_MAX_BYTES},
        [POLL_REMOVED_HOSTS] = {"/agent/v1/removed-hosts", NULL, ANSWER_MAX_BYTES},
        [POLL_FENCED_HOSTS] = {"/agent/v1/fenced-hosts", NULL, ANSWER_MAX_BYTES},
        [POLL_VMS] = {"/agent/v1/vms", NULL, VMS_MAX_BYTES},
        [POLL_DATASTORES] = {"/agent/v1/datastores", "datastores", LIST_MAX_BYTES},
        [POLL_SWITCHES] = {"/agent/v1/switches", "switches", LIST_MAX_BYTES},
        [POLL_PORT_GROUPS] = {"/agent/v1/port-groups", "port_groups", LIST_MAX_BYTES},
};

static void round_next(struct host *host);

/* The list that the step sends; N_HOST_LISTS: it asks for something. */
static enum host_list_kind list_of(enum poll_step step)
{
        switch (step) {
        case POLL_REMOVED_HOSTS:
                return HOST_LIST_REMOVED;
        case POLL_FENCED_HOSTS:
                return HOST_LIST_FENCED;
        default:
                return N_HOST_LISTS;
        }
}

static bool is_enrolling(const struct host *host)
{
        return !strcmp(json_text(json_status(host->doc), "state"), "enrolling");
}

/* --- Event stream ----------------------------------------------------------------------------------------------- */

static void take_event(struct host *host, const char *text)
{
        struct inventory *inventory = host->inventory;
        _cleanup_json_ json_t *doc = NULL;
        char uid[64];

        size_t len = strlen(text);

        if (len > EVENT_MAX_BYTES || doc_parse(text, len, &doc, NULL) < 0)
                return;
        if (!strcmp(host->event, "migration")) {
                task_poke(inventory->manager->tasks, json_text(doc, "id"));
                return;
        }
        snprintf(uid, sizeof(uid), "%s", json_text(doc, "uid"));
        if (!strcmp(host->event, "vm-gone")
                        ? host_take_report(host, uid, NULL) < 0
                        : strcmp(host->event, "vm") || host_take_report(host, uid, doc) < 0)
                return;
        inventory_merge_vm(inventory, uid);
}

/* The wire form of the HTML standard, section 9.2; the agent's data is one line. */
static void on_line(void *userdata, const char *line)
{
        struct host *host = userdata;

        host->stream_works = true;
        if (!strncmp(line, "event: ", 7))
                snprintf(host->event, sizeof(host->event), "%s", line + 7);
        else if (!strncmp(line, "data: ", 6))
                take_event(host, line + 6);
}

static void on_stream_end(void *userdata, int status, json_t *body, struct error *error)
{
        struct host *host = userdata;

        host->stream = NULL;
        host->stream_works = false;
        log_debug("host %s: event stream ended: %s", host_name_of(host), error_message(error));
        if (status >= 400)
                host->stream_not_before_ms = inventory_now_ms(host->inventory) + STREAM_RETRY_MS;
        host_poll_soon(host); /* it has ended, or restarts: see which */
}

static void stream_close(struct host *host)
{
        http_call_cancel(TAKE_PTR(host->stream));
        host->stream_works = false;
}

static void stream_open(struct host *host)
{
        struct inventory *inventory = host->inventory;
        _cleanup_error_ struct error *error = NULL;
        struct agent_request request = {.host_uid = host_uid_of(host),
                .method = "GET",
                .path = "/agent/v1/events",
                .timeout_ms = STREAM_TIMEOUT_MS,
                .line = on_line};

        if (host->stream || inventory_now_ms(inventory) < host->stream_not_before_ms)
                return;
        *host->event = '\0';
        if (agent_call(inventory->manager, &request, on_stream_end, host, &host->stream, &error) < 0)
                log_debug("host %s: no event stream: %s", host_name_of(host), error_message(error));
}

/* --- Turns ------------------------------------------------------------------------------------------------------- */

/* Most of the loop's time was used until just now. */
static bool is_saturated(struct inventory *inventory)
{
        uint64_t now_ms = inventory_now_ms(inventory), window_ms = now_ms - inventory->window_ms;
        double busy_s = inventory->manager->metrics.loop_seconds.sum;

        if (window_ms >= SATURATION_WINDOW_MS) {
                inventory->saturated =
                        busy_s - inventory->window_busy_s > BUSY_SHARE * (double)window_ms / 1000;
                inventory->window_ms = now_ms;
                inventory->window_busy_s = busy_s;
        }
        return inventory->saturated;
}

/* Those that were tried in vain leave room for those that were not tried yet. */
static bool has_room(struct inventory *inventory, bool again)
{
        size_t max = is_saturated(inventory) ? RETURNING_MAX_SATURATED : RETURNING_MAX;

        return inventory->n_returning < max && (!again || list_empty(&inventory->waiting[0]));
}

/* False: later; it is called again. */
static bool take_turn(struct host *host)
{
        struct inventory *inventory = host->inventory;
        bool again = host->n_failures > 0;

        if (host->connected || host->returning)
                return true;
        if (!has_room(inventory, again)) {
                if (list_empty(&host->waiting)) /* else it keeps its place in the line */
                        list_append(&inventory->waiting[again], &host->waiting);
                loop_source_rearm(host->timer, WAITING_AGAIN_MS);
                return false;
        }
        list_remove(&host->waiting);
        host->returning = true;
        inventory->n_returning++;
        return true;
}

static void end_turn(struct host *host)
{
        struct inventory *inventory = host->inventory;
        struct host *next = LIST_FIRST(&inventory->waiting[0], struct host, waiting);

        if (!host->returning)
                return;
        if (!next)
                next = LIST_FIRST(&inventory->waiting[1], struct host, waiting);
        host->returning = false;
        inventory->n_returning--;
        if (next)
                loop_source_rearm(next->timer, 0);
}

/* --- Rounds ------------------------------------------------------------------------------------------------------ */

static void round_ended(struct host *host)
{
        uint64_t took_ms = inventory_now_ms(host->inventory) - host->round_began_ms;
        uint64_t delay_ms = HEARTBEAT_MS;

        if (host->n_failures)
                /* What was refused at once is not asked again at once for ever. */
                delay_ms = host->connected || took_ms >= HEARTBEAT_MS ? AGAIN_MS : HEARTBEAT_MS;
        else if (host->want_full)
                delay_ms = 0;
        end_turn(host);
        loop_source_rearm(host->timer, delay_ms);
}

static void round_failed(struct host *host, const char *why)
{
        bool was_connected = host->connected;

        host->n_failures++;
        host->n_excused = 0;
        log_debug("host %s: no answer (%u): %s", host_name_of(host), host->n_failures, why);
        host->inventory->manager->metrics.agent_call_failures++;
        if (was_connected && host->n_failures < FAILURES_UNTIL_UNREACHABLE) {
                round_ended(host);
                return;
        }
        host->connected = false;
        host_touched(host);
        memset(host->lists_sent, 0, sizeof(host->lists_sent));
        stream_close(host);
        round_ended(host);
        if (was_connected)
                log_warning("host %s is unreachable: %s", host_name_of(host), why);
        if (!is_enrolling(host))
                host_record(host,
                        was_connected || host->n_failures > FAILURES_UNTIL_UNREACHABLE ? "unreachable"
                                                                                       : "connecting",
                        why);
        if (was_connected || host->n_failures == 1)
                inventory_merge_host(host);
}

/* Its answer may be waiting in the socket. Without this, a manager that has too much to do for a moment would lose all its hosts, and
 * then have all of them to connect to again. */
static bool we_were_late(const struct host *host, const struct error *error)
{
        struct inventory *inventory = host->inventory;
        double took_s = (double)(inventory_now_ms(inventory) - host->call_began_ms) / 1000;
        double busy_s = inventory->manager->metrics.loop_seconds.sum - host->busy_s;

        return error->code == ERROR_TIMED_OUT && took_s > 0 &&
               inventory_excuses(host, busy_s / took_s, is_saturated(inventory));
}

bool inventory_excuses(const struct host *host, double busy_share, bool saturated)
{
        unsigned int max = host->n_failures ? EXCUSED_AFTER_FAILURE_MAX : EXCUSED_MAX;

        return host->connected && host->n_excused < max && busy_share > BUSY_SHARE && saturated;
}

static void round_done(struct host *host)
{
        bool was_connected = host->connected;

        host->n_failures = 0;
        host->n_excused = 0;
        host->connected = true;
        if (!was_connected)
                host_touched(host);
        if (host->this_full)
                host->full_round_began_ms = host->round_began_ms;
        round_ended(host);
        stream_open(host);
        host_record(host, "connected", NULL);
        if (!was_connected || host->vms_asked_ms == host->round_began_ms)
                inventory_merge_host(host);
        if (!was_connected)
                log_notice("host %s is connected", host_name_of(host));
        /* Last: what is started by it may change the set of hosts. */
        if (!was_connected || host->sync_missed)
                host->sync_missed = !operations_host_connected(host->inventory->manager, host->doc);
}

/* Numbers that are reckoned with are none that could not be. */
static bool is_fact(const char *key, const json_t *value)
{
        static const char *const counts[] = {
                "cpus", "memory_bytes", "memory_free_bytes", "memory_vms_bytes", "n_vms"};

        for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
                if (!strcmp(key, counts[i]))
                        return json_is_integer(value) && json_integer_value(value) >= 0 &&
                               json_integer_value(value) <= COUNT_MAX;
        return true;
}

static int take_facts(struct host *host, const json_t *body)
{
        json_t *facts;

        if (strcmp(json_text(body, "uid"), host_uid_of(host)))
                return -EINVAL;
        facts = json_object();
        if (!facts)
                return -ENOMEM;
        for (size_t i = 0; i < inventory_n_live_keys; i++) {
                const char *key = inventory_live_keys[i];
                json_t *said = json_object_get(body, key),
                       *value = said && is_fact(key, said) ? said : json_object_get(host->facts, key);

                if (value && json_object_set(facts, key, value) < 0) {
                        json_decref(facts);
                        return -ENOMEM;
                }
        }
        json_decref(host->facts);
        host->facts = facts;
        host->facts_ms = host->round_began_ms;
        host_touched(host);
        return 0;
}

static bool knows_cpu(const struct host *host)
{
        const char *id = json_text(host->facts, "cpu_id");

        return !*id || map_get(&host->inventory->cpus, id);
}

static int take_answer(struct host *host, json_t *body)
{
        /* Lists come as an array, or as an object with the array in "items". */
        json_t *items = json_is_array(body) ? body : json_object_get(body, "items");

        if (host->step == POLL_HOST)
                return take_facts(host, body);
        if (host->step == POLL_CPU) {
                inventory_take_cpu(host->inventory, json_text(host->facts, "cpu_id"), body);
                return 0;
        }
        if (!json_is_array(items))
                return -EINVAL;
        if (host->step == POLL_VMS)
                return host_take_list(host, items, host->round_began_ms);
        host_touched(host);
        return json_object_set(host->facts, poll_steps[host->step].key, items) < 0 ? -ENOMEM : 0;
}

/* Whether the round may go on. */
static bool list_answered(struct host *host, enum host_list_kind list, int status, const struct error *error)
{
        if (!status || (error && error->code == ERROR_STALE_EPOCH))
                return false;
        /* An agent of an older version does not know of such a list; one that cannot write is asked again. */
        if (!error || status == 404 || status == 405)
                host->lists_sent[list] = host->list_sending;
        else if (host->this_full)
                log_warning("host %s did not take the list %s: %s", host_name_of(host),
                        poll_steps[host->step].path, error_message(error));
        return true;
}

static bool is_wanted(const struct host *host, enum poll_step step)
{
        enum host_list_kind list = list_of(step);

        if (list != N_HOST_LISTS)
                return host->lists_sent[list] != host->inventory->lists[list].generation;
        if (step == POLL_CPU)
                return !knows_cpu(host);
        if (step == POLL_VMS)
                return host->this_full || !host->stream_works;
        return step == POLL_HOST || host->this_full;
}

/* Without its processors the host can do everything all the same. */
static bool may_refuse(const struct host *host, int status)
{
        return host->step == POLL_CPU && status != 0;
}

static void on_answer(void *userdata, int status, json_t *body, struct error *error)
{
        struct host *host = userdata;
        enum host_list_kind list = list_of(host->step);

        host->call = NULL;
        if (error && we_were_late(host, error)) {
                host->n_excused++;
                host->want_full |= host->this_full;
                log_debug("host %s: no answer while the manager was busy", host_name_of(host));
                loop_source_rearm(host->timer, AGAIN_MS);
                return;
        }
        if (list != N_HOST_LISTS ? !list_answered(host, list, status, error)
                                 : error && !may_refuse(host, status)) {
                round_failed(host, error_message(error));
                return;
        }
        if (list == N_HOST_LISTS && !error && take_answer(host, body) < 0) {
                round_failed(host, "its agent's answer is not understood, or it is another host's agent");
                return;
        }
        if (host->step == POLL_HOST) {
                host_came_back(host);
                migration_along_hear(host->inventory->manager, host_uid_of(host),
                        json_object_get(body, "waiting_migrations"));
        }
        host->step++;
        round_next(host);
}

static uint64_t timeout_of(const struct host *host)
{
        if (!host->connected)
                return RETURN_TIMEOUT_MS;
        return host->n_failures ? SECOND_TIMEOUT_MS : FIRST_TIMEOUT_MS;
}

static void round_next(struct host *host)
{
        struct inventory *inventory = host->inventory;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *body = NULL;
        struct agent_request request = {.host_uid = host_uid_of(host), .method = "GET"};
        enum host_list_kind list;

        while (host->step < N_POLL_STEPS && !is_wanted(host, host->step))
                host->step++;
        if (host->step == N_POLL_STEPS) {
                round_done(host);
                return;
        }
        list = list_of(host->step);
        if (list != N_HOST_LISTS) {
                body = json_pack("{s:O}", "hosts", inventory->lists[list].uids);
                request.method = "PUT";
                request.body = body;
                host->list_sending = inventory->lists[list].generation;
        }
        request.path = poll_steps[host->step].path;
        request.body_max_bytes = poll_steps[host->step].max_bytes;
        request.timeout_ms = timeout_of(host);
        request.connect_timeout_ms = host->connected ? 0 : RETURN_CONNECT_TIMEOUT_MS;
        host->call_began_ms = inventory_now_ms(inventory);
        host->busy_s = inventory->manager->metrics.loop_seconds.sum;
        if (agent_call(inventory->manager, &request, on_answer, host, &host->call, &error) >= 0)
                return;
        host->call = NULL;
        round_failed(host, error_message(error));
}

static void on_timer(void *userdata)
{
        struct host *host = userdata;

        if (host->call && !http_call_connected(host->call))
                end_turn(host); /* PLACE_MS are over */
        /* Until its agent has a certificate there is nobody to ask. */
        if (is_enrolling(host) || host->call || !take_turn(host))
                return;
        host->this_full = host->want_full || !host->connected || host->n_rounds % FULL_ROUND_EVERY == 0;
        host->want_full = false;
        host->n_rounds++;
        host->step = POLL_HOST;
        host->round_began_ms = inventory_now_ms(host->inventory);
        if (host->returning)
                loop_source_rearm(host->timer, PLACE_MS);
        round_next(host);
}

bool host_is_unreachable(const struct host *host)
{
        bool answers = host->connected || (host->call && host->step > POLL_HOST);

        return !answers && host->n_failures >= FAILURES_UNTIL_UNREACHABLE;
}

void host_poll_soon(struct host *host)
{
        /* One that is under way goes on first; its end starts the next one at once if that is wanted (round_ended). */
        if (!host->call)
                loop_source_rearm(host->timer, 0);
}

int host_poll_init(struct host *host)
{
        return loop_add_timer(host->inventory->manager->loop, 0, on_timer, host, &host->timer);
}

void host_poll_deinit(struct host *host)
{
        stream_close(host);
        http_call_cancel(TAKE_PTR(host->call));
        list_remove(&host->waiting);
        end_turn(host);
        loop_source_free(TAKE_PTR(host->timer));
}

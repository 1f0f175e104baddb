/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/inventory.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/text.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define POLL_INTERVAL_MS 2000
#define POLL_TIMEOUT_MS 5000
#define FULL_POLL_EVERY 5
#define FAILURES_UNTIL_UNREACHABLE 2
#define FOLLOW_AT_ONCE 1000
#define AGENT_PORT_DEFAULT 8444

/* The calls of one poll, in order; the first two are made each time. */
enum poll_step { POLL_HOST, POLL_VMS, POLL_DATASTORES, POLL_SWITCHES, POLL_PORT_GROUPS, N_POLL_STEPS };

static const struct {
        const char *path;
        const char *key; /* where the answer goes in `facts`; NULL: it is the facts */
} poll_steps[] = {
        [POLL_HOST] = {"/agent/v1/host", NULL},
        [POLL_VMS] = {"/agent/v1/vms", "vms"},
        [POLL_DATASTORES] = {"/agent/v1/datastores", "datastores"},
        [POLL_SWITCHES] = {"/agent/v1/switches", "switches"},
        [POLL_PORT_GROUPS] = {"/agent/v1/port-groups", "port_groups"},
};

struct host {
        struct inventory *inventory;
        json_t *doc;   /* as recorded */
        json_t *facts; /* what its agent said last: the keys of HostStatus */
        json_t *vms;   /* array of VM documents of its last report; NULL: none yet */
        uint64_t vms_asked_ms;
        struct http_call *call;
        struct loop_source *timer;
        enum poll_step step;
        unsigned int n_polls;
        unsigned int n_failures;
        uint64_t poll_began_ms;
        uint64_t full_poll_began_ms; /* of the last one that ended well; 0: none */
        bool want_full;
        bool this_full;
        bool connected;
};

struct inventory {
        struct manager *manager;
        struct map hosts;    /* uid -> struct host */
        struct map vms;      /* uid -> json_t, as recorded */
        struct map suspects; /* VM uid -> struct suspicion */
        uint64_t followed;   /* change log position */
        bool following;
};

/* A VM that two hosts reported as running: an alert once both say so again when asked after this moment. */
struct suspicion {
        uint64_t since_ms;
        bool alerted;
};

static void poll_start(struct host *host);
static void merge_vm(struct inventory *inventory, const char *uid);

static const char *uid_of(const struct host *host)
{
        return json_text(host->doc, "uid");
}

static const char *name_of(const struct host *host)
{
        return json_text(host->doc, "name");
}

static uint64_t now_ms(const struct inventory *inventory)
{
        return clock_now_ms(inventory->manager->clock);
}

int agent_call(struct manager *manager, const struct agent_request *request, http_reply_fn reply,
        void *userdata, struct http_call **ret_call, struct error **ret_error)
{
        const json_t *host = inventory_host(manager->inventory, request->host_uid);
        const char *address = json_text(json_spec(host), "address");
        char epoch[48], id[80], fresh[UUID_STRING_SIZE];
        _cleanup_free_ char *peer = NULL;
        int r;

        if (!host)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL,
                        "the host %s is not in the inventory any more", request->host_uid);
        r = text_uuid_new(fresh);
        peer = alloc_printf("%s" CA_HOST_SUFFIX, request->host_uid);
        if (r < 0 || !peer)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        snprintf(epoch, sizeof(epoch), "X-Drover-Epoch: %llu", (unsigned long long)manager->epoch);
        snprintf(id, sizeof(id), "X-Drover-Request: %s", request->request_id ?: fresh);
        manager->metrics.agent_calls++;
        return http_client_call(manager->agents,
                &(struct http_call_spec){.method = request->method,
                        .address = address,
                        .peer_name = peer,
                        .path = request->path,
                        .body = request->body,
                        .headers = (const char *const[]){epoch, id, NULL},
                        .timeout_ms = request->timeout_ms,
                        .connect_timeout_ms = MIN(request->timeout_ms, (uint64_t)POLL_TIMEOUT_MS)},
                reply, userdata, ret_call, ret_error);
}

static void host_free(struct host *host)
{
        if (!host)
                return;
        http_call_cancel(host->call);
        loop_source_free(host->timer);
        json_decref(host->doc);
        json_decref(host->facts);
        json_decref(host->vms);
        free(host);
}
DEFINE_CLEANUP(struct host *, host_free)

static const char *const live_keys[] = {"version", "accelerator", "qemu", "cpus", "memory_bytes",
        "memory_free_bytes", "memory_vms_bytes", "uptime_s", "pressure", "load1", "cgroup", "capabilities",
        "n_vms", "datastores", "switches", "port_groups"};

/* Too restless to be recorded with each poll; the API overlays the live values. */
static const char *const restless_keys[] = {"memory_free_bytes", "memory_vms_bytes", "uptime_s", "pressure",
        "load1", "n_vms", "datastores", "switches", "port_groups"};

static bool in_list(const char *key, const char *const *list, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (!strcmp(list[i], key))
                        return true;
        return false;
}

static json_t *live_status(const struct host *host, const json_t *recorded)
{
        json_t *status = json_copy((json_t *)recorded);

        for (size_t i = 0; status && i < ARRAY_SIZE(live_keys); i++) {
                json_t *value = json_object_get(host->facts, live_keys[i]);

                if (value && json_object_set(status, live_keys[i], value) < 0) {
                        json_decref(status);
                        return NULL;
                }
        }
        /* Recorded by an earlier start of the manager and not confirmed yet. */
        if (status && !host->connected && !strcmp(json_text(status, "state"), "connected") &&
                json_object_set_new(status, "state", json_string("connecting")) < 0) {
                json_decref(status);
                return NULL;
        }
        return status;
}

json_t *inventory_live_host(const struct inventory *inventory, const json_t *doc)
{
        const struct host *host = map_get(&inventory->hosts, json_text(doc, "uid"));
        _cleanup_json_ json_t *copy = json_copy((json_t *)doc);
        json_t *status;

        if (!copy)
                return NULL;
        if (host) {
                status = live_status(host, json_status(doc));
                if (!status || json_object_set_new(copy, "status", status) < 0)
                        return NULL;
        }
        return TAKE_PTR(copy);
}

json_t *inventory_live_hosts(const struct inventory *inventory)
{
        _cleanup_json_ json_t *out = json_array();
        struct map_item *item, *spare;

        if (!out)
                return NULL;
        map_for_each (item, spare, &inventory->hosts) {
                const struct host *host = item->value;
                json_t *live = inventory_live_host(inventory, host->doc);

                if (!live || json_array_append_new(out, live) < 0)
                        return NULL;
        }
        return TAKE_PTR(out);
}

json_t *inventory_vms(const struct inventory *inventory)
{
        _cleanup_json_ json_t *out = json_array();
        struct map_item *item, *spare;

        if (!out)
                return NULL;
        map_for_each (item, spare, &inventory->vms)
                if (json_array_append(out, item->value) < 0)
                        return NULL;
        return TAKE_PTR(out);
}

const json_t *inventory_host(const struct inventory *inventory, const char *name_or_uid)
{
        const struct host *host = map_get(&inventory->hosts, name_or_uid);
        struct map_item *item, *spare;

        if (host)
                return host->doc;
        map_for_each (item, spare, &inventory->hosts) {
                host = item->value;
                if (!strcmp(name_of(host), name_or_uid))
                        return host->doc;
        }
        return NULL;
}

const json_t *inventory_vm(const struct inventory *inventory, const char *uid)
{
        return map_get(&inventory->vms, uid);
}

bool inventory_connected(const struct inventory *inventory, const char *host_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);

        return host && host->connected;
}

static bool host_fresh(const struct host *host, uint64_t since_ms)
{
        return host->full_poll_began_ms >= since_ms && host->full_poll_began_ms;
}

bool inventory_fresh(const struct inventory *inventory, const char *host_uid, uint64_t since_ms)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->hosts) {
                const struct host *host = item->value;

                if (host_uid ? !strcmp(item->key, host_uid) && !host_fresh(host, since_ms)
                             : host->connected && !host_fresh(host, since_ms))
                        return false;
        }
        return true;
}

void inventory_refresh(struct inventory *inventory, const char *host_uid)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->hosts) {
                struct host *host = item->value;

                if (host_uid && strcmp(item->key, host_uid))
                        continue;
                host->want_full = true;
                /* A poll under way goes on first; its end starts the next one at once (poll_ended). */
                if (!host->call)
                        loop_source_rearm(host->timer, 0);
        }
}

/* Records the host's state and lasting facts when they differ from what is recorded. */
static void record_host(struct host *host, const char *state, const char *message)
{
        struct manager *manager = host->inventory->manager;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *doc = json_deep_copy(host->doc);
        json_t *status = json_status(doc);
        /* The same state for another reason is not worth a write every two seconds. */
        bool changed = strcmp(json_text(status, "state"), state) != 0;
        char since[32];
        int r = 0;

        for (size_t i = 0; i < ARRAY_SIZE(live_keys); i++) {
                json_t *value = json_object_get(host->facts, live_keys[i]);

                if (!value || json_equal(value, json_object_get(status, live_keys[i])))
                        continue;
                r |= json_object_set(status, live_keys[i], value);
                changed = changed || !in_list(live_keys[i], restless_keys, ARRAY_SIZE(restless_keys));
        }
        if (!changed || !doc)
                return;
        if (strcmp(json_text(status, "state"), state))
                r |= json_object_set_new(
                        status, "since", json_string(text_format_time(clock_unix_ms(manager->clock), since)));
        r |= json_object_set_new(status, "state", json_string(state));
        r |= json_object_set_new(status, "message", message ? json_string(message) : json_null());
        if (r < 0)
                return;
        store_batch_put(&batch, json_revision(host->doc), TAKE_PTR(doc));
        r = store_commit(manager->store, &batch, NULL, &error);
        if (r < 0)
                log_warning("host %s: cannot record its state: %s", name_of(host), error_message(error));
}

/* Each VM that this host reports, or that is recorded here. */
static void merge_host(struct host *host)
{
        struct inventory *inventory = host->inventory;
        struct map_item *item, *spare;
        json_t *vm;
        size_t i;

        json_array_foreach (host->vms, i, vm)
                merge_vm(inventory, json_text(vm, "uid"));
        map_for_each (item, spare, &inventory->vms)
                if (!strcmp(json_text(json_status(item->value), "host"), name_of(host)))
                        merge_vm(inventory, item->key);
}

static void poll_failed(struct host *host, const char *why)
{
        bool was_connected = host->connected;

        host->n_failures++;
        host->inventory->manager->metrics.agent_call_failures++;
        if (host->n_failures < FAILURES_UNTIL_UNREACHABLE && was_connected)
                return;
        host->connected = false;
        if (was_connected)
                log_warning("host %s is unreachable: %s", name_of(host), why);
        if (strcmp(json_text(json_status(host->doc), "state"), "enrolling"))
                record_host(host,
                        was_connected || host->n_failures > FAILURES_UNTIL_UNREACHABLE ? "unreachable"
                                                                                       : "connecting",
                        why);
        merge_host(host);
}

static void poll_ended(struct host *host)
{
        bool again = host->want_full;

        loop_source_rearm(host->timer, again && host->n_failures == 0 ? 0 : POLL_INTERVAL_MS);
}

static void connected(struct host *host)
{
        bool was_connected = host->connected;

        host->n_failures = 0;
        host->connected = true;
        record_host(host, "connected", NULL);
        merge_host(host);
        if (was_connected)
                return;
        log_notice("host %s is connected", name_of(host));
        operations_host_connected(host->inventory->manager, host->doc);
}

static int take_facts(struct host *host, json_t *body)
{
        json_t *facts;

        if (strcmp(json_text(body, "uid"), uid_of(host)))
                return -EINVAL;
        facts = json_object();
        if (!facts)
                return -ENOMEM;
        for (size_t i = 0; i < ARRAY_SIZE(live_keys); i++) {
                json_t *value =
                        json_object_get(body, live_keys[i]) ?: json_object_get(host->facts, live_keys[i]);

                if (value && json_object_set(facts, live_keys[i], value) < 0) {
                        json_decref(facts);
                        return -ENOMEM;
                }
        }
        json_decref(host->facts);
        host->facts = facts;
        return 0;
}

/* Lists come as an array, or as an object with the array in "items". */
static json_t *items_of(json_t *body)
{
        return json_is_array(body) ? body : json_object_get(body, "items");
}

static int take_answer(struct host *host, json_t *body)
{
        json_t *items = items_of(body);

        if (host->step == POLL_HOST)
                return take_facts(host, body);
        if (!json_is_array(items))
                return -EINVAL;
        if (host->step != POLL_VMS)
                return json_object_set(host->facts, poll_steps[host->step].key, items) < 0 ? -ENOMEM : 0;
        json_decref(host->vms);
        host->vms = json_incref(items);
        host->vms_asked_ms = host->poll_began_ms;
        return 0;
}

static void poll_next(struct host *host);

static void on_poll_reply(void *userdata, int status, json_t *body, struct error *error)
{
        struct host *host = userdata;

        host->call = NULL;
        if (error) {
                poll_failed(host, error_message(error));
                poll_ended(host);
                return;
        }
        if (take_answer(host, body) < 0) {
                poll_failed(host, "its agent's answer is not understood, or it is another host's agent");
                poll_ended(host);
                return;
        }
        host->step++;
        if (host->step < (host->this_full ? (enum poll_step)N_POLL_STEPS : POLL_DATASTORES)) {
                poll_next(host);
                return;
        }
        if (host->this_full)
                host->full_poll_began_ms = host->poll_began_ms;
        /* Last: what is started by it may change the set of hosts. */
        poll_ended(host);
        connected(host);
}

static void poll_next(struct host *host)
{
        _cleanup_error_ struct error *error = NULL;
        struct agent_request request = {.host_uid = uid_of(host),
                .method = "GET",
                .path = poll_steps[host->step].path,
                .timeout_ms = POLL_TIMEOUT_MS};

        if (agent_call(host->inventory->manager, &request, on_poll_reply, host, &host->call, &error) >= 0)
                return;
        host->call = NULL;
        poll_failed(host, error_message(error));
        poll_ended(host);
}

static void poll_start(struct host *host)
{
        host->this_full = host->want_full || !host->connected || host->n_polls % FULL_POLL_EVERY == 0;
        host->want_full = false;
        host->n_polls++;
        host->step = POLL_HOST;
        host->poll_began_ms = now_ms(host->inventory);
        poll_next(host);
}

static void on_timer(void *userdata)
{
        struct host *host = userdata;

        /* Until its agent has a certificate there is nobody to ask. */
        if (!strcmp(json_text(json_status(host->doc), "state"), "enrolling"))
                return;
        if (!host->call)
                poll_start(host);
}

static const char *const status_keys[] = {"power", "owner_epoch", "machine", "cpu_model", "accelerator",
        "memory_effective_bytes", "qemu_version", "message"};

/* How much a report says about where the VM is; two that run outrank whatever else is reported. */
static const struct {
        const char *power;
        int rank;
} power_ranks[] = {{"running", 7}, {"paused", 6}, {"starting", 5}, {"outgoing-done", 4}, {"incoming", 3},
        {"crashed", 2}, {"stopped", 1}};

static int rank_of(const json_t *report)
{
        const char *power = json_text(json_status(report), "power");

        for (size_t i = 0; i < ARRAY_SIZE(power_ranks); i++)
                if (!strcmp(power_ranks[i].power, power))
                        return power_ranks[i].rank;
        return 0;
}

static json_t *report_of(const struct host *host, const char *vm_uid)
{
        json_t *vm;
        size_t i;

        json_array_foreach (host->vms, i, vm)
                if (!strcmp(json_text(vm, "uid"), vm_uid))
                        return vm;
        return NULL;
}

struct reports {
        struct host *best; /* NULL: nobody reports it */
        json_t *report;
        struct host *running[2]; /* the first two that say `running` */
        size_t n_running;
        bool recorded_silent; /* the host it is recorded on cannot be asked */
};

static bool better(
        const struct reports *reports, const struct host *host, const json_t *report, const char *recorded)
{
        json_int_t epoch = json_integer_value(json_object_get(json_status(report), "owner_epoch"));
        json_int_t best = json_integer_value(json_object_get(json_status(reports->report), "owner_epoch"));

        if (!reports->best || rank_of(report) != rank_of(reports->report))
                return !reports->best || rank_of(report) > rank_of(reports->report);
        return epoch != best ? epoch > best : !strcmp(name_of(host), recorded);
}

static void collect(const struct inventory *inventory, const json_t *vm, struct reports *ret)
{
        const char *recorded = json_text(json_status(vm), "host");
        struct map_item *item, *spare;

        *ret = (struct reports){};
        map_for_each (item, spare, &inventory->hosts) {
                struct host *host = item->value;
                json_t *report;

                if (!host->connected) {
                        ret->recorded_silent |= !strcmp(name_of(host), recorded);
                        continue;
                }
                report = report_of(host, json_text(vm, "uid"));
                if (!report)
                        continue;
                if (!strcmp(json_text(json_status(report), "power"), "running")) {
                        if (ret->n_running < ARRAY_SIZE(ret->running))
                                ret->running[ret->n_running] = host;
                        ret->n_running++;
                }
                if (better(ret, host, report, recorded)) {
                        ret->best = host;
                        ret->report = report;
                }
        }
}

static void raise_alert(struct inventory *inventory, const json_t *vm, const struct reports *reports)
{
        struct manager *manager = inventory->manager;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(vm, "name"));
        _cleanup_free_ char *name = alloc_printf("split-brain-%.8s", json_text(vm, "uid"));
        _cleanup_free_ char *message =
                alloc_printf("%s runs on two hosts at once: %s and %s; stop one copy now", object,
                        name_of(reports->running[0]), name_of(reports->running[1]));
        _cleanup_json_ json_t *doc = NULL;
        char since[32];

        log_error("SPLIT BRAIN: %s", message ?: "a virtual machine runs on two hosts");
        doc = json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:[s,s]}, s:{s:s, s:s}}", "kind", "alert", "name", name,
                "uid", name, "spec", "code", "split-brain", "object", object, "hosts",
                name_of(reports->running[0]), name_of(reports->running[1]), "status", "message", message,
                "since", text_format_time(clock_unix_ms(manager->clock), since));
        if (!doc)
                return;
        if (audit_add(manager->store, manager->clock, &batch,
                    &(struct audit_entry){.who = "system",
                            .action = "alert.split-brain",
                            .object = object,
                            .why = message,
                            .result = "alert"},
                    &error) < 0)
                log_error("cannot audit the alert: %s", error_message(error));
        store_batch_put(&batch, STORE_ANY, TAKE_PTR(doc));
        if (store_commit(manager->store, &batch, NULL, &error) < 0)
                log_error("cannot record the alert: %s", error_message(error));
}

static void end_alert(struct inventory *inventory, const json_t *vm)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        char name[64];

        snprintf(name, sizeof(name), "split-brain-%.8s", json_text(vm, "uid"));
        store_batch_remove(&batch, "alert", name, STORE_ANY);
        if (store_commit(inventory->manager->store, &batch, NULL, NULL) >= 0)
                log_notice("the alert about %s is over", json_text(vm, "name"));
}

/* Reports are taken at different moments: around a switchover two hosts may seem to run a VM. Only when both say so
 * again after being asked anew is it true. */
static void watch_split_brain(struct inventory *inventory, const json_t *vm, const struct reports *reports)
{
        const char *uid = json_text(vm, "uid");
        struct suspicion *suspicion = map_get(&inventory->suspects, uid);

        if (reports->n_running < 2) {
                if (suspicion && suspicion->alerted)
                        end_alert(inventory, vm);
                free(map_remove(&inventory->suspects, uid));
                return;
        }
        if (!suspicion) {
                suspicion = ALLOC(struct suspicion);
                if (!suspicion || map_put(&inventory->suspects, uid, suspicion, NULL) < 0) {
                        free(suspicion);
                        return;
                }
                suspicion->since_ms = now_ms(inventory);
                inventory_refresh(inventory, uid_of(reports->running[0]));
                inventory_refresh(inventory, uid_of(reports->running[1]));
                return;
        }
        if (suspicion->alerted || reports->running[0]->vms_asked_ms <= suspicion->since_ms ||
                reports->running[1]->vms_asked_ms <= suspicion->since_ms)
                return;
        suspicion->alerted = true;
        raise_alert(inventory, vm, reports);
}

static json_t *status_unknown(const json_t *vm, const char *message)
{
        json_t *status = json_copy(json_status(vm));

        if (status && (json_object_set_new(status, "power", json_string("unknown")) < 0 ||
                              json_object_set_new(status, "message", json_string(message)) < 0)) {
                json_decref(status);
                return NULL;
        }
        return status;
}

static json_t *status_reported(const struct reports *reports)
{
        json_t *status = json_pack("{s:s}", "host", name_of(reports->best));

        for (size_t i = 0; status && i < ARRAY_SIZE(status_keys); i++) {
                json_t *value = json_object_get(json_status(reports->report), status_keys[i]);

                if (value && json_object_set(status, status_keys[i], value) < 0) {
                        json_decref(status);
                        return NULL;
                }
        }
        return status;
}

static json_t *merged_status(const json_t *vm, const struct reports *reports)
{
        const char *host = json_text(json_status(vm), "host");

        if (reports->recorded_silent && rank_of(reports->report) < 5) {
                _cleanup_free_ char *message = alloc_printf("its host %s cannot be reached", host);

                return message ? status_unknown(vm, message) : NULL;
        }
        if (reports->best)
                return status_reported(reports);
        /* A host tells of what it runs or ran since its agent started; a VM that was left stopped needs no witness. */
        if (!*host || !strcmp(json_text(json_status(vm), "power"), "stopped"))
                return json_incref(json_status(vm));
        return status_unknown(vm, "no host reports it any more");
}

/* A VM that an agent has and the store does not: taken into the inventory, so that nothing runs unseen. */
static void adopt(struct inventory *inventory, const char *uid)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *vm = json_pack("{s:s}", "uid", uid), *status = NULL;
        _cleanup_free_ char *object = alloc_printf("vm/%s", uid);
        struct reports reports;
        json_t *doc;

        if (!vm || !object || !text_is_uuid(uid) || task_holding(inventory->manager->tasks, object))
                return;
        collect(inventory, vm, &reports);
        if (!reports.best || rank_of(reports.report) < 5 || !text_is_name(json_text(reports.report, "name")))
                return;
        status = status_reported(&reports);
        doc = json_pack("{s:s, s:s, s:s, s:O, s:O}", "kind", "vm", "name", json_text(reports.report, "name"),
                "uid", uid, "spec", json_spec(reports.report), "status", status);
        if (!doc)
                return;
        store_batch_put(&batch, STORE_ABSENT, doc);
        if (store_commit(inventory->manager->store, &batch, NULL, &error) < 0)
                log_debug("cannot take %s into the inventory: %s", uid, error_message(error));
        else
                log_notice("host %s runs the virtual machine %s, which was not in the inventory; it is now",
                        name_of(reports.best), json_text(reports.report, "name"));
}

static void merge_vm(struct inventory *inventory, const char *uid)
{
        const json_t *vm = inventory_vm(inventory, uid);
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *status = NULL, *doc = NULL;
        struct reports reports;

        if (!vm) {
                adopt(inventory, uid);
                return;
        }
        collect(inventory, vm, &reports);
        watch_split_brain(inventory, vm, &reports);
        status = merged_status(vm, &reports);
        if (!status || json_equal(status, json_status(vm)))
                return;
        doc = json_copy((json_t *)vm);
        if (!doc || json_object_set(doc, "status", status) < 0)
                return;
        store_batch_put(&batch, json_revision(vm), TAKE_PTR(doc));
        if (store_commit(inventory->manager->store, &batch, NULL, &error) < 0)
                log_debug("vm %s: status not recorded: %s", json_text(vm, "name"), error_message(error));
}

static int host_put(struct inventory *inventory, const char *uid, const json_t *doc)
{
        _cleanup_(host_freep) struct host *host = NULL;
        struct host *known = map_get(&inventory->hosts, uid);
        int r;

        if (known) {
                bool moved = strcmp(json_text(json_spec(known->doc), "address"),
                                     json_text(json_spec(doc), "address")) ||
                             !strcmp(json_text(json_status(known->doc), "state"), "enrolling");

                json_decref(known->doc);
                known->doc = json_incref((json_t *)doc);
                if (moved && !known->call)
                        loop_source_rearm(known->timer, 0);
                return 0;
        }
        host = ALLOC(struct host);
        if (!host)
                return -ENOMEM;
        host->inventory = inventory;
        host->doc = json_incref((json_t *)doc);
        host->facts = json_object();
        r = loop_add_timer(inventory->manager->loop, 0, on_timer, host, &host->timer);
        if (r >= 0)
                r = map_put(&inventory->hosts, uid, host, NULL);
        if (r < 0)
                return r;
        TAKE_PTR(host);
        return 0;
}

static int follow_one(void *userdata, const struct store_event *event)
{
        struct inventory *inventory = userdata;
        void *old = NULL;
        int r = 0;

        inventory->followed = event->seq;
        if (!strcmp(event->kind, "host")) {
                if (event->removed)
                        host_free(map_remove(&inventory->hosts, event->uid));
                else
                        r = host_put(inventory, event->uid, event->doc);
        } else if (!strcmp(event->kind, "vm")) {
                if (event->removed)
                        old = map_remove(&inventory->vms, event->uid);
                else {
                        r = map_put(&inventory->vms, event->uid, json_incref((json_t *)event->doc), &old);
                        if (r < 0)
                                json_decref((json_t *)event->doc);
                }
                json_decref(old);
                if (event->removed)
                        free(map_remove(&inventory->suspects, event->uid));
        }
        return r;
}

void inventory_follow(struct inventory *inventory)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t before;

        do {
                before = inventory->followed;
                if (store_changes(inventory->manager->store, before, FOLLOW_AT_ONCE, follow_one, inventory,
                            &error) < 0) {
                        log_error("cannot follow the store: %s", error_message(error));
                        return;
                }
        } while (inventory->followed > before);
}

static int load_kind(struct inventory *inventory, const char *kind, struct error **ret_error)
{
        struct store_query query = {.kind = kind, .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *docs = NULL;
        json_t *doc;
        size_t i;
        int r;

        r = store_list(inventory->manager->store, &query, &docs, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (docs, i, doc) {
                struct store_event event = {
                        .seq = inventory->followed, .kind = kind, .uid = json_text(doc, "uid"), .doc = doc};

                r = follow_one(inventory, &event);
                if (r < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return 0;
}

int inventory_new(struct manager *manager, struct inventory **ret_inventory, struct error **ret_error)
{
        struct inventory *inventory = ALLOC(struct inventory);
        int r;

        if (!inventory)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        inventory->manager = manager;
        map_init(&inventory->hosts);
        map_init(&inventory->vms);
        map_init(&inventory->suspects);
        r = store_revision(manager->store, &inventory->followed, ret_error);
        if (r >= 0)
                r = load_kind(inventory, "host", ret_error);
        if (r >= 0)
                r = load_kind(inventory, "vm", ret_error);
        if (r < 0) {
                inventory_free(inventory);
                return r;
        }
        *ret_inventory = inventory;
        return 0;
}

void inventory_free(struct inventory *inventory)
{
        struct map_item *item, *spare;

        if (!inventory)
                return;
        map_for_each (item, spare, &inventory->hosts)
                host_free(item->value);
        map_for_each (item, spare, &inventory->vms)
                json_decref(item->value);
        map_for_each (item, spare, &inventory->suspects)
                free(item->value);
        map_deinit(&inventory->hosts);
        map_deinit(&inventory->vms);
        map_deinit(&inventory->suspects);
        free(inventory);
}

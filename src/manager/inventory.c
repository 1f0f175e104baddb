/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/inventory.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/text.h"
#include "cluster/cpu_model.h"
#include "manager/audit.h"
#include "manager/inventory_private.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define CONNECT_TIMEOUT_MS UINT64_C(5000)
#define FOLLOW_AT_ONCE 1000
#define FOLLOW_AGAIN_MS 250u /* after a failure */

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
                        .body_max_bytes = request->body_max_bytes,
                        .own_connection = request->own_connection,
                        .connect_timeout_ms =
                                request->connect_timeout_ms ?: MIN(request->timeout_ms, CONNECT_TIMEOUT_MS),
                        .line = request->line},
                reply, userdata, ret_call, ret_error);
}

static void host_free(struct host *host)
{
        if (!host)
                return;
        host_poll_deinit(host);
        host_reports_deinit(host);
        json_decref(host->doc);
        json_decref(host->facts);
        json_decref(host->live);
        free(host);
}
DEFINE_CLEANUP(struct host *, host_free)

const char *const inventory_live_keys[] = {"version", "accelerator", "qemu", "cpus", "memory_bytes",
        "memory_free_bytes", "memory_vms_bytes", "uptime_s", "pressure", "load1", "cgroup", "capabilities",
        "cpu_id", "network", "n_vms", "links", "migration_address", "datastores", "switches", "port_groups"};
const size_t inventory_n_live_keys = ARRAY_SIZE(inventory_live_keys);

/* Too restless to be recorded with each poll; the API overlays the live values. */
static const char *const restless_keys[] = {"network", "memory_free_bytes", "memory_vms_bytes", "uptime_s",
        "pressure", "load1", "n_vms", "datastores", "switches", "port_groups"};

static bool in_list(const char *key, const char *const *list, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (!strcmp(list[i], key))
                        return true;
        return false;
}

/* Why its agent does not answer matters no more. */
static int add_confirmation(json_t *status)
{
        const json_t *down = json_object_get(status, "confirmed_down");
        _cleanup_free_ char *message = NULL;

        if (!json_is_object(down))
                return 0;
        message = alloc_printf("confirmed down by %s", json_text(down, "by"));
        return message ? json_object_set_new(status, "message", json_string(message)) : -1;
}

static json_t *live_status(const struct host *host, const json_t *recorded)
{
        json_t *status = json_copy((json_t *)recorded);

        for (size_t i = 0; status && i < ARRAY_SIZE(inventory_live_keys); i++) {
                json_t *value = json_object_get(host->facts, inventory_live_keys[i]);

                if (value && json_object_set(status, inventory_live_keys[i], value) < 0) {
                        json_decref(status);
                        return NULL;
                }
        }
        if (status && add_confirmation(status) < 0) {
                json_decref(status);
                return NULL;
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

/* Hosts tell of themselves once a second, and are asked about more often than that. Borrowed. */
static json_t *live_of(const struct inventory *inventory, struct host *host)
{
        if (!host->live)
                host->live = inventory_live_host(inventory, host->doc);
        return host->live;
}

static struct host *host_of(const struct inventory *inventory, const char *name_or_uid)
{
        return map_get(&inventory->hosts, name_or_uid) ?: map_get(&inventory->hosts_by_name, name_or_uid);
}

const json_t *inventory_live(const struct inventory *inventory, const char *name_or_uid)
{
        struct host *host = host_of(inventory, name_or_uid);

        return host ? live_of(inventory, host) : NULL;
}

json_t *inventory_live_hosts(const struct inventory *inventory)
{
        _cleanup_json_ json_t *out = json_array();
        struct map_item *item, *spare;

        if (!out)
                return NULL;
        map_for_each (item, spare, &inventory->hosts) {
                json_t *live = live_of(inventory, item->value);

                if (!live || json_array_append(out, live) < 0)
                        return NULL;
        }
        return TAKE_PTR(out);
}

static int keep_cpu(struct inventory *inventory, const char *id, const json_t *document)
{
        void *old = NULL;
        int r = map_put(&inventory->cpus, id, (void *)document, &old);

        if (r == 0)
                json_incref((json_t *)document);
        json_decref(old);
        return r;
}

static bool is_of_some_host(const struct inventory *inventory, const char *cpu_id)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->hosts)
                if (!strcmp(host_cpu_id(item->value), cpu_id))
                        return true;
        return false;
}

/* Hosts come and go, and one that tells of other processors at each poll must not fill the store. */
static void drop_other_cpus(struct inventory *inventory, struct store_batch *batch)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->cpus) {
                if (is_of_some_host(inventory, item->key))
                        continue;
                store_batch_remove(batch, "cpu", item->key, STORE_ANY);
                json_decref(item->value);
                map_remove(&inventory->cpus, item->key);
        }
}

void inventory_take_cpu(struct inventory *inventory, const char *id, json_t *document)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        json_t *record;

        if (!cpu_document_is_valid(document) || strcmp(json_text(document, "id"), id) != 0) {
                log_debug("what guests can have on a host with processors %.64s was not understood", id);
                return;
        }
        drop_other_cpus(inventory, &batch);
        if (map_get(&inventory->cpus, id) || keep_cpu(inventory, id, document) < 0)
                return;
        record =
                json_pack("{s:s, s:s, s:s, s:O}", "kind", "cpu", "uid", id, "name", id, "document", document);
        if (!record)
                return;
        store_batch_put(&batch, STORE_ANY, record);
        if (store_commit(inventory->manager->store, &batch, NULL, &error) < 0)
                log_warning("what guests can have on some hosts is not recorded: %s", error_message(error));
}

/* Of those that no host is like any more, after an upgrade or a removal, nothing is kept. */
static int load_cpus(struct inventory *inventory, struct error **ret_error)
{
        struct store_query query = {.kind = "cpu", .limit = STORE_LIMIT_NONE};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *records = NULL;
        json_t *record;
        size_t i;
        int r;

        r = store_list(inventory->manager->store, &query, &records, NULL, ret_error);
        json_array_foreach (records, i, record) {
                const char *id = json_text(record, "uid");

                if (!is_of_some_host(inventory, id) ||
                        !cpu_document_is_valid(json_object_get(record, "document")))
                        store_batch_remove(&batch, "cpu", id, STORE_ANY);
                else if (r >= 0 && keep_cpu(inventory, id, json_object_get(record, "document")) < 0)
                        r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        return r < 0 || !batch.n_changes ? r
                                         : store_commit(inventory->manager->store, &batch, NULL, ret_error);
}

const json_t *inventory_cpu(const struct inventory *inventory, const char *host_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);

        return host ? map_get(&inventory->cpus, host_cpu_id(host)) : NULL;
}

json_t *inventory_cpus(const struct inventory *inventory)
{
        _cleanup_json_ json_t *out = json_object();
        struct map_item *item, *spare;

        if (!out)
                return NULL;
        map_for_each (item, spare, &inventory->hosts) {
                json_t *cpu = map_get(&inventory->cpus, host_cpu_id(item->value));

                if (cpu && json_object_set(out, item->key, cpu) < 0)
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
        map_for_each (item, spare, &inventory->vms) {
                const struct vm_entry *entry = item->value;

                if (json_array_append(out, entry->doc) < 0)
                        return NULL;
        }
        return TAKE_PTR(out);
}

const json_t *inventory_host(const struct inventory *inventory, const char *name_or_uid)
{
        const struct host *host = host_of(inventory, name_or_uid);

        return host ? host->doc : NULL;
}

const json_t *inventory_vm(const struct inventory *inventory, const char *uid)
{
        const struct vm_entry *entry = map_get(&inventory->vms, uid);

        return entry ? entry->doc : NULL;
}

const char *inventory_vm_text(struct inventory *inventory, const json_t *vm)
{
        struct vm_entry *entry = map_get(&inventory->vms, json_text(vm, "uid"));
        _cleanup_json_ json_t *public = NULL;

        if (!entry || entry->doc != vm)
                return NULL;
        if (entry->text)
                return entry->text;
        public = task_public(vm);
        entry->text = public ? doc_to_text(public) : NULL;
        return entry->text;
}

const json_t *inventory_report(const struct inventory *inventory, const char *host_uid, const char *vm_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);
        const struct report *report = host ? map_get(&host->reports, vm_uid) : NULL;

        return report ? report->doc : NULL;
}

bool inventory_counts_memory(const struct inventory *inventory, const char *host_uid, const char *vm_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);
        const struct report *report = host ? map_get(&host->reports, vm_uid) : NULL;

        return report && report->doc && report->qemu_since_ms && report->qemu_since_ms <= host->facts_ms;
}

bool inventory_connected(const struct inventory *inventory, const char *host_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);

        return host && host->connected;
}

bool inventory_unreachable(const struct inventory *inventory, const char *host_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);

        return host && host_is_unreachable(host);
}

bool inventory_confirmed_down(const struct inventory *inventory, const char *host_uid)
{
        const struct host *host = map_get(&inventory->hosts, host_uid);

        return host && host_is_confirmed_down(host->doc);
}

bool inventory_removed(const struct inventory *inventory, const char *host_uid)
{
        return doc_has_string(inventory->lists[HOST_LIST_REMOVED].uids, host_uid);
}

static bool host_fresh(const struct host *host, uint64_t since_ms)
{
        return host->full_round_began_ms >= since_ms && host->full_round_began_ms;
}

bool inventory_fresh(const struct inventory *inventory, const char *host_uid, uint64_t since_ms)
{
        const struct host *host = host_uid ? map_get(&inventory->hosts, host_uid) : NULL;
        struct map_item *item, *spare;

        if (host_uid)
                return !host || host_fresh(host, since_ms);
        map_for_each (item, spare, &inventory->hosts) {
                host = item->value;
                if (host->connected && !host_fresh(host, since_ms))
                        return false;
        }
        return true;
}

bool inventory_settled(const struct inventory *inventory)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->hosts) {
                const struct host *host = item->value;
                bool enrolling = !strcmp(json_text(json_status(host->doc), "state"), "enrolling");

                if (!enrolling && !host->full_round_began_ms && !host_is_unreachable(host))
                        return false;
        }
        return true;
}

static void refresh(struct host *host)
{
        host->want_full = true;
        host_poll_soon(host);
}

void inventory_refresh(struct inventory *inventory, const char *host_uid)
{
        struct host *host = host_uid ? map_get(&inventory->hosts, host_uid) : NULL;
        struct map_item *item, *spare;

        if (host)
                refresh(host);
        if (host_uid)
                return;
        map_for_each (item, spare, &inventory->hosts)
                refresh(item->value);
}

void inventory_told(
        struct inventory *inventory, const char *host_uid, const char *vm_uid, const json_t *report)
{
        struct host *host = map_get(&inventory->hosts, host_uid);

        if (host && host_take_report(host, vm_uid, report) < 0)
                log_debug("host %s: no memory for its report; the next round has it", host_name_of(host));
}

void inventory_review(struct inventory *inventory, const char *vm_uid)
{
        if (vm_uid)
                inventory_merge_vm(inventory, vm_uid);
        else
                inventory_merge_elsewhere(inventory);
}

void inventory_review_host(struct inventory *inventory, const char *host_uid)
{
        struct host *host = map_get(&inventory->hosts, host_uid);

        if (host)
                inventory_merge_host(host);
}

void host_came_back(struct host *host)
{
        struct manager *manager = host->inventory->manager;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("host/%s", host_name_of(host));
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *doc = NULL;
        uint64_t revision = json_revision(host->doc);
        int r;

        if (!host_is_confirmed_down(host->doc))
                return;
        doc = json_deep_copy(host->doc);
        if (!doc || json_object_del(json_status(doc), "confirmed_down") < 0)
                return; /* without memory its next answer does it */
        r = audit_add(manager->store, manager->clock, &batch,
                &(struct audit_entry){.who = "system",
                        .action = "host.withdraw-down",
                        .object = object,
                        .why = "the host's agent has answered again",
                        .result = "done"},
                &error);
        if (r >= 0) {
                store_batch_put(&batch, revision, TAKE_PTR(doc));
                r = store_commit(manager->store, &batch, NULL, &error);
        }
        if (r < 0)
                log_error("host %s: cannot withdraw that it is down: %s", host_name_of(host),
                        error_message(error));
        else
                log_notice("host %s was confirmed down, and is back", host_name_of(host));
}

void host_record(struct host *host, const char *state, const char *message)
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

        for (size_t i = 0; i < ARRAY_SIZE(inventory_live_keys); i++) {
                json_t *value = json_object_get(host->facts, inventory_live_keys[i]);

                if (!value || json_equal(value, json_object_get(status, inventory_live_keys[i])))
                        continue;
                r |= json_object_set(status, inventory_live_keys[i], value);
                changed =
                        changed || !in_list(inventory_live_keys[i], restless_keys, ARRAY_SIZE(restless_keys));
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
                log_warning("host %s: cannot record its state: %s", host_name_of(host), error_message(error));
}

static void host_remove(struct inventory *inventory, const char *uid)
{
        struct host *host = map_remove(&inventory->hosts, uid);

        if (host)
                index_host_removed(inventory, host);
        host_free(host);
}

/* Each of the following can be repeated after a failure half way. */
static int host_put(struct inventory *inventory, const char *uid, const json_t *doc)
{
        _cleanup_(host_freep) struct host *host = NULL;
        struct host *known = map_get(&inventory->hosts, uid);
        int r;

        /* No host is renamed; what the store says of it all the same is followed. */
        if (known && strcmp(host_name_of(known), json_text(doc, "name")) != 0) {
                host_remove(inventory, uid);
                known = NULL;
        }
        if (known) {
                bool moved = strcmp(json_text(json_spec(known->doc), "address"),
                                     json_text(json_spec(doc), "address")) ||
                             !strcmp(json_text(json_status(known->doc), "state"), "enrolling");

                json_decref(known->doc);
                known->doc = json_incref((json_t *)doc);
                host_touched(known);
                if (moved)
                        host_poll_soon(known);
                return index_host_put(inventory, known);
        }
        host = ALLOC(struct host);
        if (!host)
                return -ENOMEM;
        host->inventory = inventory;
        host->doc = json_incref((json_t *)doc);
        host->facts = json_object();
        map_init(&host->reports);
        list_init(&host->vms);
        list_init(&host->waiting);
        r = host->facts ? host_poll_init(host) : -ENOMEM;
        if (r >= 0)
                r = map_put(&inventory->hosts, uid, host, NULL);
        if (r < 0)
                return r;
        return index_host_put(inventory, TAKE_PTR(host));
}

static void vm_entry_free(struct vm_entry *entry)
{
        if (!entry)
                return;
        json_decref(entry->doc);
        json_decref(entry->keys);
        free(entry->text);
        free(entry);
}

static int vm_put(struct inventory *inventory, const char *uid, const json_t *doc)
{
        struct vm_entry *entry = map_get(&inventory->vms, uid);
        _cleanup_json_ json_t *before = NULL;
        int r;

        if (!entry) {
                entry = ALLOC(struct vm_entry);
                if (entry)
                        list_init(&entry->at_host);
                r = entry ? map_put(&inventory->vms, uid, entry, NULL) : -ENOMEM;
                if (r < 0) {
                        free(entry);
                        return r;
                }
        }
        before = entry->doc;
        entry->doc = json_incref((json_t *)doc);
        free(TAKE_PTR(entry->text));
        entry->changed_ms = inventory_now_ms(inventory);
        return index_vm_put(inventory, entry, before);
}

static void vm_remove(struct inventory *inventory, const char *uid)
{
        struct vm_entry *entry = map_remove(&inventory->vms, uid);

        if (entry)
                index_vm_removed(inventory, entry);
        vm_entry_free(entry);
        inventory_merge_forget(inventory, uid);
}

/* Puts a host on a list or takes it off; every agent gets the new one. */
static int list_change(struct inventory *inventory, enum host_list_kind kind, const char *uid, bool listed)
{
        struct host_list *list = &inventory->lists[kind];
        struct map_item *item, *spare;
        json_t *known;
        size_t i;

        json_array_foreach (list->uids, i, known)
                if (!strcmp(json_string_value(known), uid))
                        break;
        if (listed == (i < json_array_size(list->uids)))
                return 0;
        if (listed ? json_array_append_new(list->uids, json_string(uid)) < 0
                   : json_array_remove(list->uids, i) < 0)
                return -ENOMEM;
        list->generation++;
        map_for_each (item, spare, &inventory->hosts)
                host_poll_soon(item->value);
        return 0;
}

/* Takes one change up; not counted as followed when it fails. 0 or -ENOMEM. */
static int apply(struct inventory *inventory, const struct store_event *event)
{
        if (!strcmp(event->kind, "host")) {
                int r = 0;

                if (event->removed)
                        host_remove(inventory, event->uid);
                else
                        r = host_put(inventory, event->uid, event->doc);
                return r < 0 ? r
                             : list_change(inventory, HOST_LIST_FENCED, event->uid,
                                       !event->removed && host_is_confirmed_down(event->doc));
        } else if (!strcmp(event->kind, "vm")) {
                if (!event->removed)
                        return vm_put(inventory, event->uid, event->doc);
                vm_remove(inventory, event->uid);
        } else if (!strcmp(event->kind, "removed-host")) {
                /* Their certificates stay valid for TLS. */
                return list_change(inventory, HOST_LIST_REMOVED, event->uid, !event->removed);
        } else if (!strcmp(event->kind, "task"))
                metrics_task(&inventory->manager->metrics, event->uid,
                        event->removed ? NULL : json_text(json_status(event->doc), "state"));
        else
                index_changed(inventory, event->kind);
        return 0;
}

static int follow_one(void *userdata, const struct store_event *event)
{
        struct inventory *inventory = userdata;
        int r = apply(inventory, event);

        inventory->half_applied = r < 0;
        if (r >= 0)
                inventory->followed = event->seq;
        return r;
}

static int load_kind(struct inventory *inventory, const char *kind, struct error **ret_error);

/* Takes away what of the kind is in memory, but not in `seen` (uid: true). */
static int drop_others(
        struct inventory *inventory, const char *kind, const struct map *known, const json_t *seen)
{
        struct map_item *item, *spare;
        int r = 0;

        map_for_each (item, spare, known) {
                char uid[64];

                if (json_object_get(seen, item->key))
                        continue;
                snprintf(uid, sizeof(uid), "%s", item->key); /* the item goes with it */
                r |= apply(inventory, &(struct store_event){.removed = true, .kind = kind, .uid = uid});
        }
        return r;
}

/* The log does not reach back to where memory is, after it could not be followed for long: all of it is read again. */
static int load_anew(struct inventory *inventory, struct error **ret_error)
{
        static const char *const kinds[] = {"removed-host", "host", "vm"};
        uint64_t revision = 0;
        int r = store_revision(inventory->manager->store, &revision, ret_error);

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(kinds); i++) {
                r = load_kind(inventory, kinds[i], ret_error);
                inventory->half_applied |= r < 0;
        }
        if (r < 0)
                return r;
        inventory->half_applied = false;
        index_changed(inventory, NULL);
        metrics_tasks_changed(&inventory->manager->metrics);
        log_warning(
                "the store's log was shortened before it was followed: all hosts and virtual machines were "
                "read anew");
        inventory->followed = revision;
        return 0;
}

void inventory_follow(struct inventory *inventory)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t before;
        int r;

        do {
                before = inventory->followed;
                r = store_changes(
                        inventory->manager->store, before, FOLLOW_AT_ONCE, follow_one, inventory, &error);
                if (r < 0 && error && error->code == ERROR_REVISION_MISMATCH) {
                        error_free(TAKE_PTR(error));
                        r = load_anew(inventory, &error);
                }
        } while (r >= 0 && inventory->followed > before);
        if (r < 0 && !inventory->lags)
                log_error("cannot follow the store, and try again: %s",
                        error ? error_message(error) : strerror(-r));
        inventory->lags = r < 0;
        if (r < 0)
                loop_source_rearm(inventory->follow_again, FOLLOW_AGAIN_MS);
}

uint64_t inventory_followed(const struct inventory *inventory)
{
        return inventory->followed;
}

bool inventory_is_current(const struct inventory *inventory)
{
        return !inventory->lags;
}

static void on_follow_again(void *userdata)
{
        struct inventory *inventory = userdata;

        if (inventory->lags)
                inventory_follow(inventory);
}

/* The revision of what is in memory; 0: nothing is. */
static uint64_t revision_of(const struct inventory *inventory, const char *kind, const char *uid)
{
        if (!strcmp(kind, "host"))
                return json_revision(inventory_host(inventory, uid));
        return strcmp(kind, "vm") ? 0 : json_revision(inventory_vm(inventory, uid));
}

static int note_all(json_t *docs, json_t *seen)
{
        json_t *doc;
        size_t i;

        json_array_foreach (docs, i, doc)
                if (json_object_set_new(seen, json_text(doc, "uid"), json_true()) < 0)
                        return -ENOMEM;
        return 0;
}

static int take_all(struct inventory *inventory, const char *kind, json_t *docs)
{
        json_t *doc;
        size_t i;

        json_array_foreach (docs, i, doc) {
                const char *uid = json_text(doc, "uid");
                int r = 0;

                /* What has not changed counts as unchanged for those who ask since when, too. */
                if (inventory->half_applied || revision_of(inventory, kind, uid) != json_revision(doc))
                        r = apply(inventory,
                                &(struct store_event){
                                        .seq = inventory->followed, .kind = kind, .uid = uid, .doc = doc});
                if (r < 0)
                        return r;
        }
        return 0;
}

static int load_kind(struct inventory *inventory, const char *kind, struct error **ret_error)
{
        struct store_query query = {.kind = kind, .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *docs = NULL, *seen = json_object();
        int r;

        r = store_list(inventory->manager->store, &query, &docs, NULL, ret_error);
        if (r < 0)
                return r;
        r = seen ? 0 : -ENOMEM;
        /* Before any is taken up: a name may be another one's now. Removed hosts are not dropped: one that the store has forgotten stays on
         * its list until the next start. */
        if (r >= 0)
                r = note_all(docs, seen);
        if (r >= 0 && !strcmp(kind, "host"))
                r = drop_others(inventory, kind, &inventory->hosts, seen);
        if (r >= 0 && !strcmp(kind, "vm"))
                r = drop_others(inventory, kind, &inventory->vms, seen);
        if (r >= 0)
                r = take_all(inventory, kind, docs);
        return r < 0 ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory") : 0;
}

static int lists_init(struct inventory *inventory)
{
        for (size_t i = 0; i < N_HOST_LISTS; i++) {
                inventory->lists[i] = (struct host_list){.uids = json_array(), .generation = 1};
                if (!inventory->lists[i].uids)
                        return -ENOMEM;
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
        map_init(&inventory->cpus);
        map_init(&inventory->suspects);
        list_init(&inventory->waiting[0]);
        list_init(&inventory->waiting[1]);
        index_init(inventory);
        r = lists_init(inventory) < 0 || loop_add_timer(manager->loop, FOLLOW_AGAIN_MS, on_follow_again,
                                                 inventory, &inventory->follow_again) < 0
                    ? error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory")
                    : store_revision(manager->store, &inventory->followed, ret_error);
        if (r >= 0)
                r = load_kind(inventory, "removed-host", ret_error);
        if (r >= 0)
                r = load_kind(inventory, "host", ret_error);
        if (r >= 0)
                r = load_kind(inventory, "vm", ret_error);
        if (r >= 0)
                r = load_cpus(inventory, ret_error);
        if (r >= 0)
                r = inventory_merge_load(inventory, ret_error);
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
        loop_source_free(inventory->follow_again);
        map_for_each (item, spare, &inventory->hosts)
                host_free(item->value);
        map_for_each (item, spare, &inventory->vms) {
                struct vm_entry *entry = item->value;

                vm_entry_free(entry);
        }
        index_deinit(inventory);
        map_for_each (item, spare, &inventory->cpus)
                json_decref(item->value);
        inventory_merge_deinit(inventory);
        map_deinit(&inventory->cpus);
        map_deinit(&inventory->hosts);
        map_deinit(&inventory->vms);
        for (size_t i = 0; i < N_HOST_LISTS; i++)
                json_decref(inventory->lists[i].uids);
        free(inventory);
}

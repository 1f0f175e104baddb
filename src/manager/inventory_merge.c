/* SPDX-License-Identifier: Apache-2.0 */

/* From what hosts report about VMs to each VM's status: see inventory.h for the rules. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "manager/audit.h"
#include "manager/inventory_private.h"
#include "manager/json.h"
#include "manager/vm_spec.h"
#include "manager/vm_status.h"

/* A VM that two hosts reported as theirs: an alert once both say so again when asked after this moment. */
struct suspicion {
        uint64_t since_ms;
        bool alerted;
};

/* How much a report says about where the VM is; two that run outrank whatever else is reported. `unknown` is a QEMU that
 * lives but does not answer: more than all that has none. */
static const struct {
        const char *power;
        int rank;
} power_ranks[] = {{"running", 8}, {"paused", 7}, {"starting", 6}, {"unknown", 5}, {"outgoing-done", 4},
        {"incoming", 3}, {"suspending", 7}, {"suspended", 2}, {"crashed", 2}, {"stopped", 1}};

#define HOST_VMS_MAX 2000 /* that a host can bring into the inventory by saying that it has them */
#define MERGE_AT_ONCE 64  /* changes in a transaction: if one cannot be made, so many are made one by one */
#define RANK_LIVE 6       /* `starting` and more: it is there, whatever a silent host would say */
#define RANK_QEMU 5       /* a process that has the guest, or may have it */

static const char *power_of(const json_t *vm)
{
        return json_text(json_status(vm), "power");
}

static int rank_of(const json_t *report)
{
        for (size_t i = 0; i < ARRAY_SIZE(power_ranks); i++)
                if (!strcmp(power_ranks[i].power, power_of(report)))
                        return power_ranks[i].rank;
        return 0;
}

/* --- Reports --------------------------------------------------------------------------------------------------- */

static void report_free(struct report *report, const char *vm_uid)
{
        index_report_removed(report->host->inventory, vm_uid, report);
        json_decref(report->doc);
        free(report);
}

void host_reports_deinit(struct host *host)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &host->reports)
                report_free(item->value, item->key);
        map_deinit(&host->reports);
}

/* A process that may have the guest: what memory it has is promised. */
static bool has_qemu(const json_t *report)
{
        const char *power = power_of(report);

        return *power && strcmp(power, "stopped") && strcmp(power, "crashed") && strcmp(power, "suspended");
}

static struct report *report_new(struct host *host, const char *vm_uid)
{
        struct report *report = ALLOC(struct report);

        if (!report)
                return NULL;
        list_init(&report->of_vm);
        report->host = host;
        if (index_report_added(host->inventory, vm_uid, report) < 0) {
                free(report);
                return NULL;
        }
        if (map_put(&host->reports, vm_uid, report, NULL) < 0) {
                report_free(report, vm_uid);
                return NULL;
        }
        return report;
}

/* Does nothing when there is a newer one. */
static int put_report(struct host *host, const char *vm_uid, const json_t *doc, uint64_t at_ms)
{
        struct report *report = map_get(&host->reports, vm_uid);

        if (report && report->at_ms > at_ms)
                return 0;
        if (!report && map_size(&host->reports) >= HOST_VMS_MAX && !map_get(&host->inventory->vms, vm_uid)) {
                host->n_unheard++;
                return 0;
        }
        if (!report)
                report = report_new(host, vm_uid);
        if (!report)
                return -ENOMEM;
        /* In the moment in which it is heard of: the host's memory may have been told before in the same round. */
        if (!has_qemu(doc))
                report->qemu_since_ms = 0;
        else if (!report->qemu_since_ms)
                report->qemu_since_ms = inventory_now_ms(host->inventory);
        json_decref(report->doc);
        report->doc = json_incref((json_t *)doc);
        report->at_ms = at_ms;
        return 0;
}

int host_take_report(struct host *host, const char *vm_uid, const json_t *doc)
{
        return text_is_uuid(vm_uid) ? put_report(host, vm_uid, doc, inventory_now_ms(host->inventory)) : 0;
}

/* `vm_uid` may be the map's own. */
static void remove_report(struct host *host, const char *vm_uid)
{
        char uid[64];

        snprintf(uid, sizeof(uid), "%s", vm_uid);
        report_free(map_remove(&host->reports, uid), uid);
}

int host_take_list(struct host *host, const json_t *list, uint64_t asked_ms)
{
        struct map_item *item, *spare;
        json_t *doc;
        size_t i;
        int r;

        host->n_unheard = 0;
        json_array_foreach ((json_t *)list, i, doc) {
                const struct report *known = map_get(&host->reports, json_text(doc, "uid"));

                /* Told in the very millisecond in which the list was asked for: later than the list, perhaps. */
                if (!text_is_uuid(json_text(doc, "uid")) || (known && known->at_ms == asked_ms))
                        continue;
                r = put_report(host, json_text(doc, "uid"), doc, asked_ms);
                if (r < 0)
                        return r;
        }
        /* What is not in the list is not there, unless it was told of since. */
        map_for_each (item, spare, &host->reports) {
                const struct report *report = item->value;

                if (report->at_ms < asked_ms)
                        remove_report(host, item->key);
        }
        host->vms_asked_ms = asked_ms;
        return 0;
}

static const struct report *report_of(const struct host *host, const char *vm_uid)
{
        const struct report *report = map_get(&host->reports, vm_uid);

        return report && report->doc ? report : NULL;
}

struct copy {
        struct host *host;
        uint64_t at_ms; /* of its report */
};

struct reports {
        struct host *best; /* NULL: nobody reports it */
        const json_t *report;
        struct copy copies[2]; /* the first two that say `running`, or the VM's host and one that claims it */
        size_t n_copies;
        struct host *recorded; /* where the VM is recorded; NULL: nowhere, or that host was removed */
        const struct report *
                home; /* what that host, which is connected, says of the VM that lives there; NULL: it does not */
        const struct task *holding; /* the task that works on it; NULL: none */
        bool unasked;               /* the host where it is recorded as living has not had its say yet */
        bool ignored;               /* another host says that it has it, and does not count */
};

/* A process counts more than none; then the later owner, for of a host that was away too long an old copy may be left. */
static bool better(
        const struct reports *reports, const struct host *host, const json_t *report, const char *recorded)
{
        int rank = rank_of(report), best_rank = rank_of(reports->report);

        if (!reports->best)
                return true;
        if ((rank >= RANK_QEMU) != (best_rank >= RANK_QEMU))
                return rank >= RANK_QEMU;
        if (vm_status_epoch(report) != vm_status_epoch(reports->report))
                return vm_status_epoch(report) > vm_status_epoch(reports->report);
        if (rank != best_rank)
                return rank > best_rank;
        return !strcmp(host_name_of(host), recorded);
}

/* A host goes on telling of a VM that it ran once: that it has stopped there says nothing any more. Of one that was given to another host while it was
 * off (operation_cold.c) neither does what is told of its last run: that is recorded, until it is to run again. */
static bool is_past(
        const json_t *vm, const struct host *host, const struct host *recorded, const json_t *report)
{
        bool moved_cold = json_is_true(json_object_get(json_status(vm), "moved_cold"));

        if (rank_of(report) >= RANK_LIVE)
                return false;
        if (vm_status_epoch(report) < vm_status_epoch(vm))
                return host != recorded || moved_cold;
        return moved_cold && host != recorded && vm_status_epoch(report) == vm_status_epoch(vm) &&
               !has_qemu(vm);
}

static const struct task *holding(const struct inventory *inventory, const char *uid)
{
        char object[64];

        snprintf(object, sizeof(object), "vm/%.36s", uid);
        return inventory->manager->tasks ? task_holding(inventory->manager->tasks, object) : NULL;
}

static bool is_of_task(const struct task *task, const struct host *host)
{
        return !strcmp(json_text(task_data(task), "host_uid"), host_uid_of(host)) ||
               !strcmp(json_text(task_data(task), "to_uid"), host_uid_of(host));
}

/* A host speaks for the VMs that it has. What another one says of a VM does not count while the host where it is recorded has it, or has
 * not been asked yet since we began to lead: its word alone, and any epoch that it likes, would bring the VM under it. Nor does it while
 * a task works on the VM with other hosts. */
static bool counts(const struct reports *reports, const struct host *host)
{
        if (host == reports->recorded || (reports->holding && is_of_task(reports->holding, host)))
                return true;
        return !reports->home && !reports->unasked &&
               (!reports->holding || !*json_text(task_data(reports->holding), "host_uid"));
}

static void collect_begin(const struct inventory *inventory, const json_t *vm, struct reports *ret)
{
        struct host *recorded = map_get(&inventory->hosts_by_name, json_text(json_status(vm), "host"));
        const struct report *home = recorded ? report_of(recorded, json_text(vm, "uid")) : NULL;
        bool lives = home && recorded->connected && rank_of(home->doc) >= RANK_LIVE;

        *ret = (struct reports){.recorded = recorded,
                .home = lives ? home : NULL,
                .holding = holding(inventory, json_text(vm, "uid")),
                .unasked = recorded && !recorded->connected && !host_is_unreachable(recorded) &&
                           !host_is_confirmed_down(recorded->doc) && has_qemu(vm)};
}

static void add_copy(struct reports *reports, const struct report *report)
{
        if (reports->n_copies < ARRAY_SIZE(reports->copies))
                reports->copies[reports->n_copies] = (struct copy){report->host, report->at_ms};
        reports->n_copies++;
}

static void collect(const struct inventory *inventory, const json_t *vm, struct reports *ret)
{
        const char *recorded = json_text(json_status(vm), "host");
        const struct reported *reported = index_reported(inventory, json_text(vm, "uid"));
        const struct report *report, *claim = NULL;

        collect_begin(inventory, vm, ret);
        if (!reported)
                return;
        list_for_each (report, &reported->reports, of_vm) {
                struct host *host = report->host;

                if (!host->connected || !report->doc)
                        continue;
                if (is_past(vm, host, ret->recorded, report->doc))
                        continue;
                if (!strcmp(power_of(report->doc), "running"))
                        add_copy(ret, report);
                if (!counts(ret, host)) {
                        bool lives = rank_of(report->doc) >= RANK_LIVE;

                        ret->ignored |= lives;
                        if (ret->home && lives &&
                                vm_status_epoch(report->doc) > vm_status_epoch(ret->home->doc))
                                claim = report;
                } else if (better(ret, host, report->doc, recorded)) {
                        ret->best = host;
                        ret->report = report->doc;
                }
        }
        if (claim && ret->n_copies < 2) {
                ret->n_copies = 0;
                add_copy(ret, ret->home);
                add_copy(ret, claim);
        }
}

/* --- Split brain ------------------------------------------------------------------------------------------------ */

static void alert_name(const char *vm_uid, char ret[static 64])
{
        snprintf(ret, 64, "split-brain-%.36s", vm_uid);
}

static void raise_alert(struct inventory *inventory, const json_t *vm, const struct reports *reports)
{
        struct manager *manager = inventory->manager;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *object = alloc_printf("vm/%s", json_text(vm, "name"));
        _cleanup_free_ char *message =
                alloc_printf("%s runs on two hosts at once: %s and %s; stop one copy now", object ?: "a VM",
                        host_name_of(reports->copies[0].host), host_name_of(reports->copies[1].host));
        _cleanup_json_ json_t *doc = NULL;
        char since[32], name[64];

        log_error("SPLIT BRAIN: %s", message ?: "a virtual machine runs on two hosts");
        alert_name(json_text(vm, "uid"), name);
        doc = json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:s, s:[s,s]}, s:{s:s, s:s}}", "kind", "alert", "name",
                name, "uid", name, "spec", "code", "split-brain", "object", object, "vm_uid",
                json_text(vm, "uid"), "hosts", host_name_of(reports->copies[0].host),
                host_name_of(reports->copies[1].host), "status", "message", message, "since",
                text_format_time(clock_unix_ms(manager->clock), since));
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

static bool end_alert(struct inventory *inventory, const char *vm_uid)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        char name[64];

        alert_name(vm_uid, name);
        store_batch_remove(&batch, "alert", name, STORE_ANY);
        if (store_commit(inventory->manager->store, &batch, NULL, &error) >= 0)
                return true;
        log_error("cannot end the alert %s: %s", name, error_message(error));
        return false;
}

static void suspect(struct inventory *inventory, const char *uid, const struct reports *reports)
{
        struct suspicion *suspicion = ALLOC(struct suspicion);

        if (!suspicion || map_put(&inventory->suspects, uid, suspicion, NULL) < 0) {
                free(suspicion);
                return;
        }
        suspicion->since_ms = inventory_now_ms(inventory);
        inventory_refresh(inventory, host_uid_of(reports->copies[0].host));
        inventory_refresh(inventory, host_uid_of(reports->copies[1].host));
}

/* Reports are of different moments: around a switchover two hosts may seem to have a VM. Only when both say so again after
 * being asked anew is it true. */
static void watch_split_brain(struct inventory *inventory, const json_t *vm, const struct reports *reports)
{
        const char *uid = json_text(vm, "uid");
        struct suspicion *suspicion = map_get(&inventory->suspects, uid);

        if (reports->n_copies < 2) {
                if (suspicion && (!suspicion->alerted || end_alert(inventory, uid)))
                        free(map_remove(&inventory->suspects, uid));
                return;
        }
        if (!suspicion) {
                suspect(inventory, uid, reports);
                return;
        }
        if (suspicion->alerted || reports->copies[0].at_ms <= suspicion->since_ms ||
                reports->copies[1].at_ms <= suspicion->since_ms)
                return;
        suspicion->alerted = true;
        raise_alert(inventory, vm, reports);
}

void inventory_merge_forget(struct inventory *inventory, const char *uid)
{
        struct suspicion *suspicion = map_get(&inventory->suspects, uid);

        /* An alert goes with the next round's merge of this uid, which nobody reports or records then; not from here, inside
         * a commit. */
        if (suspicion && !suspicion->alerted)
                free(map_remove(&inventory->suspects, uid));
}

int inventory_merge_load(struct inventory *inventory, struct error **ret_error)
{
        struct store_query query = {.kind = "alert", .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *alerts = NULL;
        json_t *alert;
        size_t i;
        int r;

        r = store_list(inventory->manager->store, &query, &alerts, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (alerts, i, alert) {
                struct host *host = map_get(&inventory->hosts, json_text(json_spec(alert), "host_uid"));
                struct suspicion *suspicion;

                if (host)
                        host->alerted = true;
                if (strcmp(json_text(json_spec(alert), "code"), "split-brain") != 0)
                        continue;
                suspicion = ALLOC(struct suspicion);

                if (!suspicion || map_put(&inventory->suspects, json_text(json_spec(alert), "vm_uid"),
                                          suspicion, NULL) < 0) {
                        free(suspicion);
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
                }
                suspicion->alerted = true;
        }
        return 0;
}

void inventory_merge_deinit(struct inventory *inventory)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->suspects)
                free(item->value);
        map_deinit(&inventory->suspects);
}

/* --- Status ------------------------------------------------------------------------------------------------------ */

static bool is_held(const struct inventory *inventory, const char *uid)
{
        return !inventory->manager->tasks || holding(inventory, uid);
}

static json_t *status_with(const json_t *vm, const char *power, const char *message)
{
        json_t *status = json_copy(json_status(vm));

        if (status && (json_object_set_new(status, "power", json_string(power)) < 0 ||
                              json_object_set_new(
                                      status, "message", message ? json_string(message) : json_null()) < 0)) {
                json_decref(status);
                return NULL;
        }
        return status;
}

static json_t *status_reported(const json_t *vm, const struct reports *reports)
{
        return vm_status_reported(reports->report, json_status(vm), host_name_of(reports->best));
}

/* Its host was asked after the last change and does not have it. */
static json_t *status_gone(const json_t *vm, const char *host)
{
        _cleanup_free_ char *message = NULL;

        if (!strcmp(power_of(vm), "starting"))
                return status_with(vm, "stopped", NULL);
        message = alloc_printf("host %s does not have it any more; it, or its QEMU, ended unseen", host);
        return message ? status_with(vm, "crashed", message) : NULL;
}

/* A start that it could not tell of any more may have taken the next epoch: that one counts as used. */
static json_t *status_confirmed_down(const json_t *vm, const char *host)
{
        _cleanup_free_ char *message = alloc_printf("host %s was confirmed down", host);
        json_t *status = message ? status_with(vm, "crashed", message) : NULL;

        if (status && json_object_set_new(status, "owner_epoch", json_integer(vm_status_epoch(vm) + 1)) < 0) {
                json_decref(status);
                return NULL;
        }
        return status;
}

static json_t *status_removed_host(const json_t *vm, const char *host)
{
        _cleanup_free_ char *message = alloc_printf(
                "its host %s was removed; make sure that it does not run there before it is started", host);

        return message ? status_with(vm, "stopped", message) : NULL;
}

/* Nobody reports it. */
static json_t *status_absent(
        struct inventory *inventory, const struct vm_entry *vm, const struct reports *reports)
{
        const char *uid = json_text(vm->doc, "uid"), *name = json_text(json_status(vm->doc), "host");
        const struct host *host = reports->recorded;
        const struct report *gone = host ? map_get(&host->reports, uid) : NULL;

        if (!*name || is_held(inventory, uid))
                return json_incref(json_status(vm->doc));
        if (!host)
                return status_removed_host(vm->doc, name);
        if (host->vms_asked_ms > vm->changed_ms || (gone && gone->at_ms >= vm->changed_ms))
                return status_gone(vm->doc, name);
        inventory_refresh(inventory, host_uid_of(host));
        return json_incref(json_status(vm->doc));
}

/* A copy that should have ended, on a host that had the VM before: the one that has it since, under a later epoch, cannot
 * be asked. */
static bool is_outdated(const struct reports *reports, const json_t *vm)
{
        return reports->recorded && !reports->recorded->connected && reports->best != reports->recorded &&
               vm_status_epoch(reports->report) < vm_status_epoch(vm);
}

static json_t *merged_status(
        struct inventory *inventory, const struct vm_entry *vm, const struct reports *reports)
{
        const char *power = power_of(vm->doc);
        /* A host goes on telling of the run before until it has begun the new one. */
        bool starts = !strcmp(power, "starting") && is_held(inventory, json_text(vm->doc, "uid"));
        bool ended = !strcmp(power, "stopped") || !strcmp(power, "crashed") || !strcmp(power, "suspended");

        if (reports->best && rank_of(reports->report) >= RANK_LIVE &&
                (ended || !is_outdated(reports, vm->doc)))
                return status_reported(vm->doc, reports);
        if (reports->unasked && reports->ignored)
                return json_incref(json_status(vm->doc));
        if (reports->recorded && !reports->recorded->connected) {
                _cleanup_free_ char *message =
                        alloc_printf("its host %s cannot be reached", host_name_of(reports->recorded));

                if (ended)
                        return json_incref(json_status(vm->doc));
                if (host_is_confirmed_down(reports->recorded->doc))
                        return status_confirmed_down(vm->doc, host_name_of(reports->recorded));
                return message ? status_with(vm->doc, "unknown", message) : NULL;
        }
        if (reports->best && !starts)
                return status_reported(vm->doc, reports);
        return ended ? json_incref(json_status(vm->doc)) : status_absent(inventory, vm, reports);
}

static void count_room(struct host *host)
{
        const struct vm_entry *vm;
        size_t n = 0;

        list_for_each (vm, &host->vms, at_host)
                n++;
        host->n_room = HOST_VMS_MAX - MIN(n, HOST_VMS_MAX);
        host->n_refused = 0;
}

/* What it says is a VM like those that are made here, and not one too many. */
static bool may_bring(struct host *host, const json_t *report)
{
        _cleanup_error_ struct error *error = NULL;

        if (!host->n_room || !text_is_name(json_text(report, "name")) ||
                vm_spec_check(json_spec(report), &error) < 0)
                return false;
        host->n_room--;
        return true;
}

/* A VM that an agent has and the store does not: taken into the inventory, so that nothing runs unseen. */
static void adopt(struct inventory *inventory, const char *uid, struct store_batch *batch)
{
        _cleanup_json_ json_t *vm = json_pack("{s:s}", "uid", uid), *status = NULL;
        struct reports reports;
        json_t *doc;

        if (!vm || !text_is_uuid(uid) || is_held(inventory, uid))
                return;
        collect(inventory, vm, &reports);
        if (!reports.best || rank_of(reports.report) < RANK_LIVE)
                return;
        if (!may_bring(reports.best, reports.report)) {
                reports.best->n_refused++;
                return;
        }
        status = status_reported(NULL, &reports);
        doc = json_pack("{s:s, s:s, s:s, s:O, s:O}", "kind", "vm", "name", json_text(reports.report, "name"),
                "uid", uid, "spec", json_spec(reports.report), "status", status);
        if (!doc)
                return;
        store_batch_put(batch, STORE_ABSENT, doc);
}

/* An alert about a VM that was deleted meanwhile. */
static void end_orphaned_alert(struct inventory *inventory, const char *uid)
{
        if (map_get(&inventory->suspects, uid) && end_alert(inventory, uid))
                free(map_remove(&inventory->suspects, uid));
}

static bool is_at(const json_t *disk, const json_t *place)
{
        return !strcmp(json_text(disk, "datastore"), json_text(place, "datastore")) &&
               !strcmp(json_text(disk, "path"), json_text(place, "path"));
}

/* Disks whose copies have taken over in a storage migration that no task here knows of (any more): the VM runs on them, and would be
 * started and moved with the old images. The whole "spec", the caller's; NULL: there is nothing to be changed. */
static json_t *spec_with_moved(
        const struct inventory *inventory, const json_t *vm, const struct reports *reports)
{
        const json_t *moved = json_object_get(reports->report, "moved_disks");
        json_t *spec, *disk, *one, *to;
        bool changed = false;
        size_t i, k;

        if (!json_array_size(moved) || is_held(inventory, json_text(vm, "uid")))
                return NULL;
        spec = json_deep_copy(json_spec(vm));
        json_array_foreach ((json_t *)moved, k, one)
                json_array_foreach (json_object_get(spec, "disks"), i, disk) {
                        to = json_object_get(one, "to");
                        if (strcmp(json_text(disk, "name"), json_text(one, "name")) != 0 ||
                                !is_at(disk, json_object_get(one, "from")) ||
                                vm_spec_take_place(disk, json_text(vm, "name"), to) < 0)
                                continue;
                        changed = true;
                        log_notice("vm %s: disk %s is %s:%s since a storage migration whose task did not end",
                                json_text(vm, "name"), json_text(disk, "name"), json_text(to, "datastore"),
                                json_text(to, "path"));
                }
        if (changed)
                return spec;
        json_decref(spec);
        return NULL;
}

/* Puts into the batch what is to be changed. */
static void merge_vm(struct inventory *inventory, const char *uid, struct store_batch *batch)
{
        const struct vm_entry *vm = map_get(&inventory->vms, uid);
        _cleanup_json_ json_t *status = NULL, *spec = NULL, *doc = NULL;
        struct reports reports;

        if (!vm) {
                end_orphaned_alert(inventory, uid);
                adopt(inventory, uid, batch);
                return;
        }
        collect(inventory, vm->doc, &reports);
        watch_split_brain(inventory, vm->doc, &reports);
        status = merged_status(inventory, vm, &reports);
        spec = spec_with_moved(inventory, vm->doc, &reports);
        if (!status || (!spec && json_equal(status, json_status(vm->doc))))
                return;
        doc = json_copy(vm->doc);
        if (!doc || json_object_set(doc, "status", status) < 0 ||
                (spec && json_object_set(doc, "spec", spec) < 0))
                return;
        store_batch_put(batch, json_revision(vm->doc), TAKE_PTR(doc));
}

/* 0 also when there is nothing to be changed. */
static int merge_commit(
        struct inventory *inventory, const struct store_batch *batch, struct error **ret_error)
{
        int r = batch->n_changes ? store_commit(inventory->manager->store, batch, NULL, ret_error)
                                 : batch->result;

        for (size_t i = 0; r >= 0 && i < batch->n_changes; i++) {
                const struct store_change *change = &batch->changes[i];

                if (change->expected == STORE_ABSENT)
                        log_notice("host %s runs the virtual machine %s, which was not in the inventory",
                                json_text(json_status(change->doc), "host"), change->name);
        }
        return r;
}

void inventory_merge_vm(struct inventory *inventory, const char *uid)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;

        merge_vm(inventory, uid, &batch);
        if (merge_commit(inventory, &batch, &error) < 0)
                log_debug("vm %s: status not recorded: %s", uid, error_message(error));
}

/* The report says what is recorded: with thousands of VMs most merges end here. */
static bool is_known(const struct inventory *inventory, const struct host *host, const char *uid)
{
        const struct vm_entry *vm = map_get(&inventory->vms, uid);
        const struct report *report = report_of(host, uid);

        return vm && report && host->connected && !map_get(&inventory->suspects, uid) &&
               !strcmp(json_text(json_status(vm->doc), "host"), host_name_of(host)) &&
               !strcmp(power_of(vm->doc), power_of(report->doc)) &&
               !strcmp(json_text(json_status(vm->doc), "message"),
                       json_text(json_status(report->doc), "message")) &&
               vm_status_epoch(vm->doc) == vm_status_epoch(report->doc);
}

/* Some of them, from `begin` on, in one transaction, for each waits for the disk. One change that cannot be made, such as a name that
 * is taken, keeps no other from being made. */
static void merge_some(struct inventory *inventory, const json_t *uids, size_t begin, size_t end)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;

        for (size_t i = begin; i < end; i++)
                merge_vm(inventory, json_string_value(json_array_get(uids, i)), &batch);
        if (merge_commit(inventory, &batch, &error) >= 0)
                return;
        log_debug("%zu changes of virtual machines are recorded one by one: %s", batch.n_changes,
                error_message(error));
        for (size_t i = begin; i < end; i++)
                inventory_merge_vm(inventory, json_string_value(json_array_get(uids, i)));
}

/* Merging changes documents, moves VMs between hosts, and may take VMs in: what is to be merged is written down before. When this
 * returns all are: whoever knows that a host was asked counts on it. */
static void merge_all(struct inventory *inventory, const json_t *uids)
{
        for (size_t i = 0; i < json_array_size(uids); i += MERGE_AT_ONCE)
                merge_some(inventory, uids, i, MIN(i + MERGE_AT_ONCE, json_array_size(uids)));
}

void inventory_alert_name(const char *host_uid, char ret[static INVENTORY_ALERT_NAME_SIZE])
{
        snprintf(ret, INVENTORY_ALERT_NAME_SIZE, "vms-refused-%.36s", host_uid);
}

static json_t *refusal_alert(const struct host *host, const char *name)
{
        const struct clock *clock = host->inventory->manager->clock;
        _cleanup_free_ char *object = alloc_printf("host/%s", host_name_of(host));
        _cleanup_free_ char *message = alloc_printf(
                "%s says that it has virtual machines that are not taken into the inventory (%zu): "
                "more than %d, or such as no manager has made",
                object ?: "a host", host->n_unheard + host->n_refused, HOST_VMS_MAX);
        char since[32];

        return json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:s, s:[s]}, s:{s:s, s:s}}", "kind", "alert", "name",
                name, "uid", name, "spec", "code", "vms-refused", "object", object, "host_uid",
                host_uid_of(host), "hosts", host_name_of(host), "status", "message", message, "since",
                text_format_time(clock_unix_ms(clock), since));
}

/* One alert for all that are not taken in; it ends with them. */
static void watch_refusals(struct host *host)
{
        struct manager *manager = host->inventory->manager;
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_error_ struct error *error = NULL;
        bool refuses = host->n_unheard + host->n_refused > 0;
        char name[INVENTORY_ALERT_NAME_SIZE];
        json_t *alert = NULL;

        if (refuses == host->alerted)
                return;
        inventory_alert_name(host_uid_of(host), name);
        if (refuses) {
                alert = refusal_alert(host, name);
                if (!alert)
                        return; /* without memory the next round does it */
                log_warning("%s", json_text(json_status(alert), "message"));
                store_batch_put(&batch, STORE_ANY, alert);
        } else
                store_batch_remove(&batch, "alert", name, STORE_ANY);
        if (store_commit(manager->store, &batch, NULL, &error) >= 0)
                host->alerted = refuses;
        else
                log_error("cannot record the alert %s: %s", name, error_message(error));
}

void inventory_merge_host(struct host *host)
{
        struct inventory *inventory = host->inventory;
        _cleanup_json_ json_t *uids = json_array(); /* without memory the next round does it */
        struct map_item *item, *spare;
        const struct vm_entry *vm;

        map_for_each (item, spare, &host->reports)
                if (!is_known(inventory, host, item->key))
                        json_array_append_new(uids, json_string(item->key));
        list_for_each (vm, &host->vms, at_host)
                if (!map_get(&host->reports, json_text(vm->doc, "uid")))
                        json_array_append_new(uids, json_string(json_text(vm->doc, "uid")));
        map_for_each (item, spare, &inventory->suspects)
                if (!map_get(&inventory->vms, item->key) && !map_get(&host->reports, item->key))
                        json_array_append_new(uids, json_string(item->key));
        count_room(host);
        merge_all(inventory, uids);
        watch_refusals(host);
}

void inventory_merge_elsewhere(struct inventory *inventory)
{
        _cleanup_json_ json_t *uids = json_array();
        const struct vm_entry *vm;

        list_for_each (vm, &inventory->elsewhere, at_host)
                if (*json_text(json_status(vm->doc), "host"))
                        json_array_append_new(uids, json_string(json_text(vm->doc, "uid")));
        merge_all(inventory, uids);
}

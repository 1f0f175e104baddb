/* SPDX-License-Identifier: Apache-2.0 */

/* Data of the task: left: the document as it was, for the source to remove; cleared: that was done; left_over: why something of it was not; left_shared:
 * names of the disks whose images another VM uses; left_there: what was made at the destination and is not removed, null: nothing. */

#include "manager/migration_along.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/datastore_place.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/task.h"

#define CALL_TIMEOUT_MS 130000u
#define LET_GO_TIMEOUT_MS 10000u
#define WAITING_MAX 16 /* told at a time to one host */
#define AGAIN_MS 1000
#define CLEAR_MAX_MS 60000
#define REMOVAL_MAX_MS 10000

static const char *datastore_of(const json_t *options)
{
        return options ? json_text_or_null(options, "to_datastore") : NULL;
}

static json_t *disks_of(const json_t *vm)
{
        return json_object_get(json_spec(vm), "disks");
}

static bool travels(const json_t *disk)
{
        return !json_is_true(json_object_get(disk, "read_only"));
}

static int check_capable(const json_t *host, const char *name, struct error **ret_error)
{
        if (json_is_true(json_object_get(json_object_get(json_status(host), "capabilities"), "disks_along")))
                return 0;
        return error_set(ret_error, ERROR_NOT_SUPPORTED,
                "Take disks-along = no out of drover-agent.conf there, and restart the agent; an agent that "
                "does "
                "not know it is to be upgraded first.",
                "host %s does not take part in migrations that take disks along", name);
}

static int check_datastore(
        struct manager *manager, const json_t *to, const char *datastore, struct error **ret_error)
{
        const json_t *live = inventory_live(manager->inventory, json_text(to, "uid"));
        const json_t *there = json_named(json_object_get(json_status(live), "datastores"), datastore);

        if (!there)
                return error_set(ret_error, ERROR_CHECK_FAILED, "`drover datastore show` lists its hosts.",
                        "host %s does not have the datastore %s", json_text(to, "name"), datastore);
        if (!json_is_true(json_object_get(there, "ok")))
                return error_set(ret_error, ERROR_CHECK_FAILED, "Mend it first.",
                        "the datastore %s does not work on host %s: %s", datastore, json_text(to, "name"),
                        json_text_or_null(there, "message") ?: "no reason given");
        return 0;
}

/* All that travels, together. */
static int check_room(struct manager *manager, const json_t *vm, const json_t *to, const char *datastore,
        struct error **ret_error)
{
        const json_t *live = inventory_live(manager->inventory, json_text(to, "uid")), *doc;
        _cleanup_json_ json_t *docs = NULL, *reserved = datastores_reserved(manager, vm);
        _cleanup_free_ char *cause = NULL;
        struct datastore_place place;
        uint64_t bytes = 0;
        json_t *disk;
        size_t i;
        int r = reserved ? inventory_objects(manager->inventory, "datastore", &docs, ret_error)
                         : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");

        doc = r < 0 ? NULL : json_named(docs, datastore);
        if (!doc)
                return r;
        json_array_foreach (disks_of(vm), i, disk)
                bytes += datastore_disk_bytes(disk);
        place = datastore_place_of(doc, live, inventory_provisioned(manager->inventory), reserved);
        if (datastore_place_is_closed(&place, &cause))
                return error_set(ret_error, ERROR_CHECK_FAILED, DATASTORE_CLOSED_WAY_OUT,
                        "datastore-maintenance: %s", cause ?: "out of memory");
        if (datastore_place_is_over(&place, bytes, &cause))
                return error_set(ret_error, ERROR_CHECK_FAILED, DATASTORE_OVER_WAY_OUT, "datastore-limit: %s",
                        cause ?: "out of memory");
        return 0;
}

static bool is_in_folder(const json_t *vm, const char *path)
{
        const char *name = json_text(vm, "name");

        return !strncmp(path, name, strlen(name)) && path[strlen(name)] == '/';
}

/* The folder there has to be a new one: not where a disk of the VM is already. Only the agents can tell of other files. */
static int check_folder(const json_t *vm, const json_t *from_live, const json_t *to_live,
        const char *datastore, struct error **ret_error)
{
        const json_t *here = json_named(json_object_get(json_status(from_live), "datastores"), datastore);
        const json_t *there = json_named(json_object_get(json_status(to_live), "datastores"), datastore);
        json_t *disk;
        size_t i;

        if (!here || strcmp(json_text(here, "id"), json_text(there, "id")) != 0)
                return 0;
        json_array_foreach (disks_of(vm), i, disk)
                if (!strcmp(json_text(disk, "datastore"), datastore) &&
                        is_in_folder(vm, json_text(disk, "path")))
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Choose another datastore; or migrate it without the disks, if its own is "
                                "there as well.",
                                "disk %s is on datastore %s already, in a folder %s", json_text(disk, "name"),
                                datastore, json_text(vm, "name"));
        return 0;
}

static json_t *those_that_travel(const json_t *vm)
{
        json_t *list = json_array(), *disk;
        size_t i;

        json_array_foreach (disks_of(vm), i, disk)
                if (list && travels(disk) && json_array_append(list, disk) < 0) {
                        json_decref(list);
                        return NULL;
                }
        return list;
}

static int check_alone(struct manager *manager, const json_t *vm, struct error **ret_error)
{
        _cleanup_json_ json_t *wanted = those_that_travel(vm);

        return wanted ? operation_storage_check_alone(
                                manager, vm, wanted, "Give that one an image of its own first.", ret_error)
                      : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static json_t *rest_of(const json_t *vm)
{
        json_t *rest = json_deep_copy(vm), *disks = disks_of(rest);

        for (size_t i = json_array_size(disks); i-- > 0;)
                if (travels(json_array_get(disks, i)))
                        json_array_remove(disks, i);
        json_object_del(json_spec(rest), "datastore");
        return rest;
}

int migration_along_check(struct manager *manager, const json_t *vm, const json_t *options, json_t **ret_rest,
        struct error **ret_error)
{
        const char *datastore = datastore_of(options), *to_name = datastore ? json_text(options, "to") : "";
        const json_t *from, *to;
        json_t *rest;
        int r;

        if (!datastore) {
                *ret_rest = json_incref((json_t *)vm);
                return 0;
        }
        from = inventory_host(manager->inventory, json_text(json_status(vm), "host"));
        to = inventory_host(manager->inventory, to_name);
        if (!from || !to)
                return error_set(ret_error, ERROR_CONFLICT, "Name it with --to.",
                        "disks travel along to a host that has to be named, from one that the virtual "
                        "machine is on");
        r = check_capable(from, json_text(from, "name"), ret_error);
        if (r >= 0)
                r = check_capable(to, to_name, ret_error);
        if (r >= 0)
                r = check_datastore(manager, to, datastore, ret_error);
        if (r >= 0)
                r = check_room(manager, vm, to, datastore, ret_error);
        if (r >= 0)
                r = check_folder(vm, inventory_live(manager->inventory, json_text(from, "uid")),
                        inventory_live(manager->inventory, json_text(to, "uid")), datastore, ret_error);
        if (r >= 0)
                r = check_alone(manager, vm, ret_error);
        if (r < 0)
                return r;
        rest = rest_of(vm);
        if (!rest)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_rest = rest;
        return 0;
}

json_t *migration_along_spec(const struct task *task)
{
        const char *datastore = datastore_of(task_input(task));

        return datastore ? json_pack("{s:s}", "datastore", datastore) : NULL;
}

/* --- The document -------------------------------------------------------------------------------------------- */

/* As the agents name it (storage/move_record.h). The caller's. */
static char *path_there(const struct task *task, const json_t *vm, const json_t *disk)
{
        const char *uid = task_uid(task);
        char digits[13];
        size_t n = 0;

        for (; *uid && n < sizeof(digits) - 1; uid++)
                if (*uid != '-')
                        digits[n++] = *uid;
        digits[n] = '\0';
        return alloc_printf("%s/%s-%s.%s", json_text(vm, "name"), json_text(disk, "name"), digits,
                json_text(disk, "format"));
}

static int take_places(const struct task *task, json_t *doc)
{
        const char *datastore = datastore_of(task_input(task));
        json_t *disk;
        size_t i;
        int r = json_object_set_new(json_spec(doc), "datastore", json_string(datastore));

        json_array_foreach (disks_of(doc), i, disk) {
                _cleanup_free_ char *path = travels(disk) ? path_there(task, doc, disk) : NULL;

                if (path)
                        r |= json_object_set_new(disk, "datastore", json_string(datastore)) |
                             json_object_set_new(disk, "path", json_string(path));
                else if (travels(disk))
                        r = -1;
        }
        return r < 0 ? -ENOMEM : 0;
}

/* Of the epoch that the record there has by now. */
static int remember_left(struct task *task, const json_t *vm)
{
        json_t *left = vm_for_agent(vm);
        json_int_t epoch = json_integer_value(json_object_get(task_data(task), "epoch"));

        if (!left || json_object_set_new(json_status(left), "owner_epoch", json_integer(epoch + 1)) < 0) {
                json_decref(left);
                return -ENOMEM;
        }
        return json_object_set_new(task_data(task), "left", left);
}

bool migration_along(const struct task *task)
{
        return datastore_of(task_input(task)) != NULL;
}

int migration_along_take_places(struct task *task, json_t *doc)
{
        _cleanup_json_ json_t *before = json_deep_copy(doc);

        if (!migration_along(task))
                return 0;
        if (!before || take_places(task, doc) < 0)
                return -ENOMEM;
        /* What names the new places already must not be taken for what was left behind. */
        return json_equal(before, doc) || json_object_get(task_data(task), "left")
                       ? 0
                       : remember_left(task, before);
}

int migration_along_record(struct task *task, struct manager *manager)
{
        const json_t *vm = inventory_vm(manager->inventory, json_text(task_data(task), "vm_uid"));
        _cleanup_json_ json_t *doc = migration_along(task) && vm ? json_deep_copy(vm) : NULL;

        if (!migration_along(task) || !vm)
                return 0;
        if (!doc || migration_along_take_places(task, doc) < 0)
                return -ENOMEM;
        if (!json_equal(doc, vm))
                store_batch_put(task_batch(task), json_revision(vm), TAKE_PTR(doc));
        return 0;
}

/* --- What was left behind ------------------------------------------------------------------------------------ */

/* "VM/DISK-0123456789ab.raw": a name that only a migration makes, and removes wherever it is. */
static bool is_made(const char *path)
{
        const char *dash = strrchr(path, '-');
        size_t n = 0;

        while (dash && isxdigit((unsigned char)dash[1 + n]))
                n++;
        return n == 12 && dash[1 + n] == '.';
}

static bool is_removed(const json_t *left, const json_t *shared, const json_t *disk)
{
        const char *path = json_text(disk, "path");
        bool at_home = !strcmp(json_text(disk, "datastore"), json_text(json_spec(left), "datastore"));

        return travels(disk) && !doc_has_string(shared, json_text(disk, "name")) &&
               is_in_folder(left, path) && (at_home || is_made(path));
}

/* Images that stay: others use them, or they are outside the folder; the caller's; NULL: none. */
static json_t *kept_of(const json_t *left, const json_t *shared)
{
        const char *datastore = json_text(json_spec(left), "datastore");
        json_t *text = NULL, *disk;
        size_t i;

        json_array_foreach (disks_of(left), i, disk) {
                const char *path = json_text(disk, "path"), *there = json_text(disk, "datastore");
                json_t *longer;

                if (is_removed(left, shared, disk))
                        continue;
                if (!travels(disk) && (strcmp(there, datastore) != 0 || !is_in_folder(left, path)))
                        continue; /* it is none of what moved */
                longer = json_sprintf(
                        "%s%s%s:%s", text ? json_string_value(text) : "", text ? ", " : "", there, path);
                json_decref(text);
                text = longer;
        }
        return text;
}

static void on_cleared(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        json_t *data = task_data(task);
        json_t *why = NULL;

        if (error && error->code != ERROR_NOT_FOUND && task_step_elapsed_ms(task) < CLEAR_MAX_MS &&
                !inventory_confirmed_down(manager->inventory, json_text(data, "host_uid"))) {
                step_say(task, "what was left behind is not removed yet: %s", error_message(error));
                task_step_again(task, AGAIN_MS);
                return;
        }
        if (error && error->code != ERROR_NOT_FOUND)
                why = json_sprintf("the virtual machine's folder on datastore %s of host %s: %s",
                        json_text(json_spec(json_object_get(data, "left")), "datastore"),
                        json_text(data, "from"), error_message(error));
        else
                why = kept_of(json_object_get(data, "left"), json_object_get(data, "left_shared"));
        if ((why && json_object_set_new(data, "left_over", why) < 0) ||
                json_object_set_new(data, "cleared", json_true()) < 0)
                task_step_failed(task, NULL);
        else
                task_step_again(task, 0);
}

/* What was left, but without the images that another VM has been given meanwhile; the caller's. */
static json_t *removable(struct task *task, struct manager *manager, const json_t *left)
{
        _cleanup_json_ json_t *shared = operation_storage_shared(manager, left), *doc = json_deep_copy(left);
        json_t *disks = disks_of(doc);

        if (!shared || !doc)
                return NULL;
        for (size_t i = json_array_size(disks); i-- > 0;)
                if (doc_has_string(shared, json_text(json_array_get(disks, i), "name")))
                        json_array_remove(disks, i);
        return json_object_set(task_data(task), "left_shared", shared) < 0 ? NULL : TAKE_PTR(doc);
}

static void remember_there(struct task *task, json_t *text)
{
        if (json_object_set_new(task_data(task), "left_there", text ?: json_null()) < 0)
                task_step_failed(task, NULL);
        else
                task_step_again(task, 0);
}

/* What was made at the destination is removed by that, once it has heard that the VM stays; or it says what is not. */
static void on_there(struct task *task, struct manager *manager, json_t *body, struct error *error)
{
        const char *host = json_text(task_data(task), "to_uid"), *phase = json_text(body, "phase");
        const char *stays = json_text_or_null(body, "left");
        bool ended = !*phase || !strcmp(phase, "failed") || !strcmp(phase, "done");

        if (stays)
                remember_there(
                        task, json_sprintf("%s of host %s", stays, json_text(task_data(task), "to_name")));
        else if (error ? error->code == ERROR_NOT_FOUND && inventory_host(manager->inventory, host) : ended)
                remember_there(task, NULL);
        else if (task_step_elapsed_ms(task) < REMOVAL_MAX_MS &&
                 !inventory_confirmed_down(manager->inventory, host) &&
                 inventory_host(manager->inventory, host))
                task_step_again(task, AGAIN_MS);
        else
                remember_there(task,
                        json_sprintf("what was made on datastore %s of host %s, unless that removes it later",
                                datastore_of(task_input(task)), json_text(task_data(task), "to_name")));
}

static bool look_there(struct task *task, struct manager *manager)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/migrations/%s", task_uid(task));

        if (!migration_along(task) || json_object_get(task_data(task), "left_there"))
                return false;
        if (!path)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(task_data(task), "to_uid"),
                                .method = "GET",
                                .path = path,
                                .timeout_ms = LET_GO_TIMEOUT_MS},
                        on_there);
        return true;
}

bool migration_along_clear(struct task *task, struct manager *manager)
{
        json_t *data = task_data(task), *left = json_object_get(data, "left");
        const char *where = json_text(data, "where");
        _cleanup_json_ json_t *body = NULL;
        _cleanup_free_ char *path = NULL;

        if (!left)
                return strcmp(where, "to") != 0 && look_there(task, manager);
        /* Where neither side has the VM, they may be the only ones that are left. */
        if (json_is_true(json_object_get(data, "cleared")) ||
                (strcmp(where, "to") != 0 && strcmp(where, "lost") != 0))
                return false;
        path = alloc_printf("/agent/v1/vms/%s/delete?left=1", json_text(data, "vm_uid"));
        body = removable(task, manager, left);
        if (!path || !body)
                task_step_failed(task, NULL);
        else
                step_call_once(task, manager,
                        &(struct agent_request){.host_uid = json_text(data, "host_uid"),
                                .method = "POST",
                                .path = path,
                                .body = body,
                                .timeout_ms = CALL_TIMEOUT_MS},
                        on_cleared);
        return true;
}

static void on_let_go(void *userdata _unused_, int status, json_t *body _unused_, struct error *error)
{
        if (error)
                log_notice("a source that waits for a removed host was not told (%d): %s", status,
                        error_message(error)); /* it says again that it waits */
}

/* While the task lasts it tells the source itself, which may take the VM back. Afterwards the VM may have been started from either folder. */
void migration_along_hear(struct manager *manager, const char *host_uid, const json_t *waiting)
{
        json_t *one;
        size_t i;

        json_array_foreach ((json_t *)waiting, i, one) {
                const char *id = json_text(one, "id");
                _cleanup_free_ char *path = NULL;

                if (i == WAITING_MAX) /* the others in a later round */
                        return;
                if (!text_is_uuid(id) || task_find(manager->tasks, id) ||
                        !inventory_removed(manager->inventory, json_text(one, "peer")))
                        continue;
                path = alloc_printf("/agent/v1/migrations/%s/let-go", id);
                if (path)
                        (void)agent_call(manager,
                                &(struct agent_request){.host_uid = host_uid,
                                        .method = "POST",
                                        .path = path,
                                        .timeout_ms = LET_GO_TIMEOUT_MS},
                                on_let_go, NULL, NULL, NULL);
        }
}

char *migration_along_stays(const struct task *task)
{
        const json_t *data = task_data(task), *left = json_object_get(data, "left");
        const char *over = json_text_or_null(data, "left_over");
        const char *there = json_text_or_null(data, "left_there");

        if (there)
                return alloc_strdup(there);
        if (!left || (json_is_true(json_object_get(data, "cleared")) && !over))
                return NULL;
        if (over)
                return alloc_strdup(over);
        return alloc_printf("the folder %s on datastore %s of host %s", json_text(left, "name"),
                json_text(json_spec(left), "datastore"), json_text(data, "from"));
}

static json_t *place_of(const json_t *disk)
{
        return json_pack(
                "{s:s, s:s}", "datastore", json_text(disk, "datastore"), "path", json_text(disk, "path"));
}

int migration_along_result(const struct task *task, json_t *result)
{
        const json_t *left = json_object_get(task_data(task), "left");
        const char *datastore = datastore_of(task_input(task));
        _cleanup_json_ json_t *list = json_array();
        json_t *disk;
        size_t i;

        if (!datastore || !left)
                return 0;
        json_array_foreach (disks_of(left), i, disk) {
                _cleanup_free_ char *path = travels(disk) ? path_there(task, left, disk) : NULL;

                if (path &&
                        json_array_append_new(list,
                                json_pack("{s:s, s:o, s:{s:s, s:s}}", "name", json_text(disk, "name"), "from",
                                        place_of(disk), "to", "datastore", datastore, "path", path)) < 0)
                        return -ENOMEM;
        }
        return json_object_set_new(result, "disks_along",
                json_pack("{s:s, s:O, s:s?}", "datastore", datastore, "disks", list, "left",
                        json_text_or_null(task_data(task), "left_over")));
}

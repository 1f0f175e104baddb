/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/snapshots.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/macros.h"
#include "manager/json.h"

#define ID_DIGITS 12
#define MIXED "mixed_disks"

static const char *const state_names[] = {"creating", "ready", "reverting", "deleting"};
static_assert(ARRAY_SIZE(state_names) == N_SNAPSHOT_STATES, "every state has a name");

const char *snapshot_state_to_string(enum snapshot_state state)
{
        return state_names[state];
}

static json_t *all(const json_t *vm)
{
        return json_object_get(vm, "snapshots");
}

json_t *snapshots_find(const json_t *vm, const char *name)
{
        return (json_t *)json_named(all(vm), name); /* as changeable as the document */
}

bool snapshot_is(const json_t *snapshot, enum snapshot_state state)
{
        return !strcmp(json_text(snapshot, "state"), state_names[state]);
}

int snapshot_set_state(json_t *snapshot, enum snapshot_state state)
{
        return json_object_set_new(snapshot, "state", json_string(state_names[state])) < 0 ? -ENOMEM : 0;
}

char *snapshot_tag(const json_t *snapshot, char ret[static SNAPSHOT_TAG_SIZE])
{
        snprintf(ret, SNAPSHOT_TAG_SIZE, "drover-%.*s", ID_DIGITS, json_text(snapshot, "id"));
        return ret;
}

json_t *snapshots_reverting(const json_t *vm)
{
        json_t *item;
        size_t i;

        json_array_foreach (all(vm), i, item)
                if (snapshot_is(item, SNAPSHOT_REVERTING) || json_object_get(item, MIXED))
                        return item;
        return NULL;
}

int snapshots_check_reverted(const json_t *vm, struct error **ret_error)
{
        const json_t *reverting = snapshots_reverting(vm);

        return reverting
                       ? error_set(ret_error, ERROR_CONFLICT,
                                 "Revert it again, to the same snapshot or another; or delete that one, and "
                                 "take the disks as they are, of two moments: drover vm snapshot delete VM "
                                 "SNAPSHOT --accept-mixed-disks.",
                                 "the virtual machine was not completely reverted to its snapshot %s",
                                 json_text(reverting, "name"))
                       : 0;
}

int snapshots_begin_revert(json_t *vm, const char *name)
{
        json_t *other = snapshots_reverting(vm);

        if (other)
                snapshot_accept_mixed(other);
        if (other && snapshot_is(other, SNAPSHOT_REVERTING) && snapshot_set_state(other, SNAPSHOT_READY) < 0)
                return -ENOMEM;
        return snapshot_set_state(snapshots_find(vm, name), SNAPSHOT_REVERTING);
}

int snapshot_begin_delete(json_t *snapshot)
{
        if (snapshot_is(snapshot, SNAPSHOT_REVERTING) &&
                json_object_set_new(snapshot, MIXED, json_true()) < 0)
                return -ENOMEM;
        return snapshot_set_state(snapshot, SNAPSHOT_DELETING);
}

void snapshot_accept_mixed(json_t *snapshot)
{
        (void)json_object_del(snapshot, MIXED);
}

bool snapshots_have_disk(const json_t *vm, const char *disk)
{
        json_t *item;
        size_t i;

        json_array_foreach (all(vm), i, item)
                if (!disk || json_named(json_object_get(item, "disks"), disk))
                        return true;
        return false;
}

/* Those that a snapshot has: the others nobody writes to. */
static json_t *places(const json_t *vm)
{
        _cleanup_json_ json_t *list = json_array();
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (!json_is_true(json_object_get(disk, "read_only")) &&
                        json_array_append_new(list,
                                json_pack("{s:O, s:O, s:O, s:O*}", "name", json_object_get(disk, "name"),
                                        "datastore", json_object_get(disk, "datastore"), "path",
                                        json_object_get(disk, "path"), "size_bytes",
                                        json_object_get(disk, "size_bytes"))) < 0)
                        return NULL;
        return TAKE_PTR(list);
}

static const char *current_of(const json_t *vm)
{
        json_t *item;
        size_t i;

        json_array_foreach (all(vm), i, item)
                if (json_is_true(json_object_get(item, "current")))
                        return json_text(item, "name");
        return NULL;
}

/* The first digits of a UUID, without its dashes. */
static void id_of(const char *uid, char ret[static ID_DIGITS + 1])
{
        size_t n = 0;

        for (; *uid && n < ID_DIGITS; uid++)
                if (*uid != '-')
                        ret[n++] = *uid;
        ret[n] = '\0';
}

int snapshots_add(json_t *vm, const char *name, const char *uid, const char *description, const char *created,
        struct error **ret_error)
{
        json_t *list = all(vm), *disks, *one;
        const char *power = json_text(json_status(vm), "power");
        bool runs = !strcmp(power, "running") || !strcmp(power, "paused");
        char id[ID_DIGITS + 1];

        if (snapshots_find(vm, name))
                return error_set(ret_error, ERROR_EXISTS, "Give it another name, or delete that one.",
                        "there is a snapshot %s already", name);
        if (json_array_size(list) >= SNAPSHOTS_MAX)
                return error_set(ret_error, ERROR_NO_RESOURCES, "Delete one first.",
                        "the virtual machine has %d snapshots, and cannot have more", SNAPSHOTS_MAX);
        if (!list) {
                list = json_array();
                if (json_object_set_new(vm, "snapshots", list) < 0)
                        return error_from_errno(ret_error, ENOMEM, "snapshot %s", name);
        }
        id_of(uid, id);
        disks = places(vm);
        one = disks ? json_pack("{s:s, s:s, s:s, s:s, s:s, s:b, s:s?, s:s, s:s, s:o}", "name", name, "id", id,
                              "description", description ?: "", "created", created, "state",
                              state_names[SNAPSHOT_CREATING], "current", false, "parent", current_of(vm),
                              "power", power, "consistency", runs ? "crash" : "off", "disks", disks)
                    : NULL;
        return json_array_append_new(list, one) < 0 ? error_from_errno(ret_error, ENOMEM, "snapshot %s", name)
                                                    : 0;
}

int snapshots_set_current(json_t *vm, const char *name)
{
        json_t *item;
        size_t i;

        json_array_foreach (all(vm), i, item)
                if (json_object_set_new(
                            item, "current", json_boolean(!strcmp(json_text(item, "name"), name))) < 0)
                        return -ENOMEM;
        return 0;
}

int snapshots_drop(json_t *vm, const char *name)
{
        json_t *list = all(vm), *gone = snapshots_find(vm, name), *item, *parent;
        size_t i, at = 0;

        if (!gone)
                return 0;
        parent = snapshots_find(vm, json_text(gone, "parent"));
        if (parent && json_is_true(json_object_get(gone, "current")) &&
                json_object_set_new(parent, "current", json_true()) < 0)
                return -ENOMEM;
        json_array_foreach (list, i, item) {
                if (item == gone)
                        at = i;
                else if (!strcmp(json_text(item, "parent"), name) &&
                         json_object_set(item, "parent", json_object_get(gone, "parent")) < 0)
                        return -ENOMEM;
        }
        (void)json_array_remove(list, at);
        if (!json_array_size(list))
                (void)json_object_del(vm, "snapshots");
        return 0;
}

bool snapshot_is_of(const json_t *snapshot, const char *uid)
{
        char id[ID_DIGITS + 1];

        id_of(uid, id);
        return !strcmp(json_text(snapshot, "id"), id);
}

static bool is_there(const json_t *vm, const json_t *disk)
{
        const json_t *now = json_named(json_object_get(json_spec(vm), "disks"), json_text(disk, "name"));

        return now && !strcmp(json_text(now, "datastore"), json_text(disk, "datastore")) &&
               !strcmp(json_text(now, "path"), json_text(disk, "path"));
}

json_t *snapshot_disks_there(const json_t *vm, const json_t *snapshot)
{
        _cleanup_json_ json_t *names = json_array();
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(snapshot, "disks"), i, disk)
                if (is_there(vm, disk) && json_array_append(names, json_object_get(disk, "name")) < 0)
                        return NULL;
        return TAKE_PTR(names);
}

int snapshot_check_disks(const json_t *vm, const json_t *snapshot, struct error **ret_error)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(snapshot, "disks"), i, disk)
                if (!is_there(vm, disk))
                        return error_set(ret_error, ERROR_CONFLICT, "Delete this snapshot.",
                                "disk %s is not the image any more that the snapshot %s is in (%s:%s)",
                                json_text(disk, "name"), json_text(snapshot, "name"),
                                json_text(disk, "datastore"), json_text(disk, "path"));
        return 0;
}

int snapshots_take_sizes(json_t *where, const json_t *disks)
{
        const json_t *disk;
        json_t *mine;
        size_t i;

        json_array_foreach (json_object_get(where, "disks"), i, mine) {
                disk = json_named(disks, json_text(mine, "name"));
                if (disk && json_object_set(mine, "size_bytes", json_object_get(disk, "size_bytes")) < 0)
                        return -ENOMEM;
        }
        return 0;
}

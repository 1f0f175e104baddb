/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about the VM's files: the same datastore on both hosts, locks that work between hosts, images that nobody else
 * uses; room for new disks. */

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "cluster/check.h"
#include "cluster/datastore_place.h"

static const json_t *datastore_of(const json_t *host_status, const char *name)
{
        return check_named(json_object_get(host_status, "datastores"), name);
}

/* Its id on the host that has the files. A host that is down since before the manager began says nothing any more; of a shared
 * datastore the manager has kept the id. */
static const char *id_at_home(const struct check *check, const json_t *home, const char *name)
{
        const char *id = check_text(datastore_of(check_status(home), name), "id");
        const json_t *known = check_named(check->input->datastores, name);

        return *id || json_is_false(json_object_get(json_object_get(known, "spec"), "shared"))
                       ? id
                       : check_text(json_object_get(known, "status"), "id");
}

/* Whether the VM's files in that datastore cannot be had there; *ret_cause (the caller's) says why, or is NULL without
 * memory. */
static bool cannot_have(const struct check *check, const char *name, char **ret_cause)
{
        const json_t *home = check->input->source ?: check->input->home;
        const json_t *there = datastore_of(check->host, name);
        const char *id = check_text(there, "id"), *id_here, *message = check_text(there, "message");

        if (!there) {
                *ret_cause = alloc_printf("host %s does not have the datastore %s", check->host_name, name);
                return true;
        }
        if (!json_is_true(json_object_get(there, "ok"))) {
                *ret_cause = alloc_printf("the datastore %s does not work on host %s: %s", name,
                        check->host_name, *message ? message : "no reason given");
                return true;
        }
        id_here = id_at_home(check, home, name);
        if (!home || (*id && !strcmp(id, id_here)))
                return false;
        *ret_cause = alloc_printf(
                "the datastore %s on host %s is another one (id %s) than on host %s (id %s)", name,
                check->host_name, *id ? id : "none", check_text(home, "name"), *id_here ? id_here : "none");
        return true;
}

static void tell_datastore(struct check *check, const char *name)
{
        _cleanup_free_ char *cause = NULL;

        if (cannot_have(check, name, &cause))
                check_broken(check, name, NULL, "%s", cause ?: "out of memory");
        else
                check_met(check, name);
}

static int one_datastore(void *userdata, const char *name)
{
        struct check *check = userdata;

        tell_datastore(check, name);
        return check->result;
}

void check_storage_datastores(struct check *check)
{
        if (checks_each_datastore(check->checks->spec_without_cdrom, one_datastore, check) < 0)
                check->result = -ENOMEM;
}

/* It is needed, but not by the guest's data: there is another way out. */
void check_storage_cdrom(struct check *check)
{
        const char *name = check_text(json_object_get(check->spec, "cdrom"), "datastore");

        if (*name)
                tell_datastore(check, name);
}

/* A host whose agent does not say has locks. */
static int one_lock(void *userdata, const char *name)
{
        struct check *check = userdata;
        const json_t *host = check->target;

        if (json_is_false(json_object_get(datastore_of(check_status(check->input->source), name), "locks")))
                host = check->input->source;
        check_tell(check, name,
                json_is_false(json_object_get(datastore_of(check_status(host), name), "locks")),
                "the datastore %s is mounted on host %s so that its locks end at that host: two hosts "
                "could open one disk",
                name, check_text(host, "name"));
        return check->result;
}

void check_storage_locks(struct check *check)
{
        if (checks_each_datastore(check->checks->spec_without_cdrom, one_lock, check) < 0)
                check->result = -ENOMEM;
}

static const json_t *disks_of(const json_t *vm_spec)
{
        return json_object_get(vm_spec, "disks");
}

static char *image_key(const json_t *disk)
{
        return alloc_printf("%s:%s", check_text(disk, "datastore"), check_text(disk, "path"));
}

/* An image that both only read is nobody's alone. */
static bool both_read(const json_t *a, const json_t *b)
{
        return json_is_true(json_object_get(a, "read_only")) && json_is_true(json_object_get(b, "read_only"));
}

static const json_t *same_image(const json_t *disks, const json_t *disk)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)disks, i, item)
                if (!strcmp(check_text(item, "path"), check_text(disk, "path")) &&
                        !strcmp(check_text(item, "datastore"), check_text(disk, "datastore")))
                        return item;
        return NULL;
}

static int note_images(struct checks *checks, const json_t *vm)
{
        json_t *disk;
        size_t i;

        json_array_foreach ((json_t *)disks_of(json_object_get(vm, "spec")), i, disk) {
                const json_t *own =
                        *check_text(disk, "path") ? same_image(disks_of(checks->spec), disk) : NULL;
                _cleanup_free_ char *key = NULL;
                json_t *users;

                if (!own || both_read(own, disk))
                        continue;
                key = image_key(disk);
                users = key ? json_object_get(checks->image_users, key) : NULL;
                if (key && !users) {
                        users = json_array();
                        if (json_object_set_new(checks->image_users, key, users) < 0)
                                return -ENOMEM;
                }
                if (json_array_append_new(users, json_pack("{s:s, s:s}", "vm", check_text(vm, "name"), "host",
                                                         check_text(check_status(vm), "host"))) < 0)
                        return -ENOMEM;
        }
        return 0;
}

int check_storage_prepare(struct checks *checks)
{
        json_t *vm;
        size_t i;

        checks->image_users = json_object();
        checks->spec_without_cdrom = json_copy((json_t *)checks->spec) ?: json_object();
        if (!checks->image_users || !checks->spec_without_cdrom)
                return -ENOMEM;
        json_object_del(checks->spec_without_cdrom, "cdrom");
        json_array_foreach ((json_t *)checks->input.vms, i, vm) {
                if (!checks_is_live(vm) ||
                        !strcmp(check_text(vm, "uid"), check_text(checks->input.vm, "uid")))
                        continue;
                if (note_images(checks, vm) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* Datastores of one name on two hosts may be two. */
static bool is_reached_from(const struct check *check, const json_t *user, const char *datastore)
{
        const json_t *wanted = json_object_get(check_named(check->input->datastores, datastore), "spec");

        return !strcmp(check_text(user, "host"), check->host_name) ||
               (wanted && !json_is_false(json_object_get(wanted, "shared")));
}

static const json_t *user_of(const struct check *check, const char *key, const char *datastore)
{
        json_t *user;
        size_t i;

        json_array_foreach (json_object_get(check->checks->image_users, key), i, user)
                if (is_reached_from(check, user, datastore))
                        return user;
        return NULL;
}

void check_storage_in_use(struct check *check)
{
        json_t *disk;
        size_t i;

        json_array_foreach ((json_t *)disks_of(check->spec), i, disk) {
                _cleanup_free_ char *key = image_key(disk);
                const json_t *user = key ? user_of(check, key, check_text(disk, "datastore")) : NULL;

                if (!key)
                        check->result = -ENOMEM;
                else if (*check_text(disk, "path"))
                        check_tell(check, key, user != NULL,
                                "the disk image %s is in use by the virtual machine %s on host %s", key,
                                check_text(user, "vm"), check_text(user, "host"));
        }
}

/* What a copy of a disk has is what the disk holds, not what its image has besides. */
void check_storage_snapshots(struct check *check)
{
        json_t *snapshots = json_object_get(check->input->vm, "snapshots"), *one;
        size_t i;

        if (!check->input->takes_disks)
                return;
        json_array_foreach (snapshots, i, one)
                check_broken(check, check_text(one, "name"), NULL,
                        "its disks would travel along, and the snapshot %s would not",
                        check_text(one, "name"));
        if (!json_array_size(snapshots))
                check_met(check, NULL);
}

/* --- Of one that is to be made ------------------------------------------------------------------------------ */

/* What its disks come to there. */
static uint64_t need_of(const struct check *check, const char *datastore)
{
        uint64_t bytes = 0;
        json_t *disk;
        size_t i;

        json_array_foreach ((json_t *)disks_of(check->spec), i, disk)
                if (!strcmp(check_text(disk, "datastore"), datastore))
                        bytes += datastore_disk_bytes(disk);
        return bytes;
}

/* The place as it is without this VM, whose disks a shared datastore counts already. False: the datastore is not known. */
static bool place_of(
        const struct check *check, const char *name, uint64_t need_bytes, struct datastore_place *ret_place)
{
        const json_t *datastore = check_named(check->input->datastores, name);

        if (!datastore)
                return false;
        *ret_place = datastore_place_of(
                datastore, check->target, check->input->provisioned, check->input->reserved_disks);
        if (!ret_place->host)
                ret_place->provisioned_bytes -= MIN(need_bytes, ret_place->provisioned_bytes);
        return true;
}

/* Calls fn for each datastore to which it brings something that will be written to. */
static void each_new_place(struct check *check, int (*fn)(void *userdata, const char *name))
{
        _cleanup_json_ json_t *spec = NULL, *disks = json_array();
        json_t *disk;
        size_t i;

        if (!check->input->creates)
                return;
        json_array_foreach ((json_t *)disks_of(check->spec), i, disk)
                if (!json_is_true(json_object_get(disk, "read_only")) && json_array_append(disks, disk) < 0)
                        check->result = -ENOMEM;
        spec = json_pack("{s:s*, s:O}", "datastore",
                json_string_value(json_object_get(check->spec, "datastore")), "disks", disks);
        if (!spec || checks_each_datastore(spec, fn, check) < 0)
                check->result = -ENOMEM;
}

static int tell_place(struct check *check, const char *name,
        bool (*is_broken)(const struct datastore_place *place, uint64_t bytes, char **ret_cause))
{
        uint64_t need_bytes = need_of(check, name);
        _cleanup_free_ char *cause = NULL;
        struct datastore_place place;

        if (!place_of(check, name, need_bytes, &place))
                return 0;
        if (is_broken(&place, need_bytes, &cause))
                check_broken(check, name, NULL, "%s", cause ?: "out of memory");
        else
                check_met(check, name);
        return check->result;
}

static bool is_closed(const struct datastore_place *place, uint64_t bytes, char **ret_cause)
{
        return datastore_place_is_closed(place, ret_cause);
}

static int one_closed(void *userdata, const char *name)
{
        return tell_place(userdata, name, is_closed);
}

void check_storage_closed(struct check *check)
{
        each_new_place(check, one_closed);
}

static int one_limit(void *userdata, const char *name)
{
        return tell_place(userdata, name, datastore_place_is_over);
}

void check_storage_limit(struct check *check)
{
        each_new_place(check, one_limit);
}

static int one_space(void *userdata, const char *name)
{
        return tell_place(userdata, name, datastore_place_is_short);
}

void check_storage_space(struct check *check)
{
        each_new_place(check, one_space);
}

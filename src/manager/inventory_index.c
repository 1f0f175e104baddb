/* SPDX-License-Identifier: Apache-2.0 */

/* The inventory's ways to what is asked for often, so that nothing has to be looked for among thousands: names, the VMs of a
 * host, what hosts say of one VM, who uses a MAC address or a disk image, what disks come to on each datastore, documents of other
 * kinds as they were read last. */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/mac.h"
#include "cluster/datastore_place.h"
#include "cluster/pool.h"
#include "manager/inventory_private.h"
#include "manager/json.h"

/* --- The VMs of a host --------------------------------------------------------------------------------------------- */

static struct list *place_of(struct inventory *inventory, const struct vm_entry *vm)
{
        struct host *host = map_get(&inventory->hosts_by_name, json_text(json_status(vm->doc), "host"));

        return host ? &host->vms : &inventory->elsewhere;
}

int index_host_put(struct inventory *inventory, struct host *host)
{
        struct vm_entry *vm, *spare;

        if (map_get(&inventory->hosts_by_name, host_name_of(host)) == host)
                return 0;
        inventory->hosts_sorted.good = false;
        if (map_put(&inventory->hosts_by_name, host_name_of(host), host, NULL) < 0)
                return -ENOMEM;
        list_for_each_safe (vm, spare, &inventory->elsewhere, at_host)
                if (!strcmp(json_text(json_status(vm->doc), "host"), host_name_of(host))) {
                        list_remove(&vm->at_host);
                        list_append(&host->vms, &vm->at_host);
                        vm->at = &host->vms;
                }
        return 0;
}

void index_host_removed(struct inventory *inventory, struct host *host)
{
        struct vm_entry *vm, *spare;

        if (map_get(&inventory->hosts_by_name, host_name_of(host)) == host)
                map_remove(&inventory->hosts_by_name, host_name_of(host));
        list_for_each_safe (vm, spare, &host->vms, at_host) {
                list_remove(&vm->at_host);
                list_append(&inventory->elsewhere, &vm->at_host);
                vm->at = &inventory->elsewhere;
        }
        inventory->hosts_sorted.good = false;
}

/* --- Who uses what -------------------------------------------------------------------------------------------------- */

/* Keys are "mac/ADDRESS", "image/DATASTORE:PATH" of those that may write to it, "reads/DATASTORE:PATH" of those that only read: such
 * as an installation medium, which thousands may have, and which is nobody's alone; and "pool/NAME" of those that bear its label. */
struct users {
        struct vm_entry **vms;
        size_t n_vms, room;
};

static void users_free(struct users *users)
{
        free(users->vms);
        free(users);
}

static int add_user(struct inventory *inventory, const char *key, struct vm_entry *vm)
{
        struct users *users = map_get(&inventory->users, key);
        struct vm_entry **grown;
        size_t room;

        if (!users) {
                users = ALLOC(struct users);
                if (!users || map_put(&inventory->users, key, users, NULL) < 0) {
                        free(users);
                        return -ENOMEM;
                }
        }
        if (users->n_vms == users->room) {
                room = users->room ? 2 * users->room : 1;
                grown = alloc_resize(users->vms, room, sizeof(struct vm_entry *));
                if (!grown)
                        return -ENOMEM;
                users->vms = grown;
                users->room = room;
        }
        users->vms[users->n_vms++] = vm;
        return 0;
}

static void remove_user(struct inventory *inventory, const char *key, const struct vm_entry *vm)
{
        struct users *users = map_get(&inventory->users, key);

        for (size_t i = 0; users && i < users->n_vms; i++)
                if (users->vms[i] == vm) {
                        users->vms[i] = users->vms[--users->n_vms];
                        break;
                }
        if (users && !users->n_vms)
                users_free(map_remove(&inventory->users, key));
}

static int add_key(json_t *keys, const char *kind, const char *first, const char *second)
{
        return json_array_append_new(keys, json_sprintf("%s/%s:%s", kind, first, second)) < 0 ? -ENOMEM : 0;
}

/* A file that only is read: CD-ROM, kernel. */
static int add_read(json_t *keys, const json_t *file)
{
        return *json_text(file, "path")
                       ? add_key(keys, "reads", json_text(file, "datastore"), json_text(file, "path"))
                       : 0;
}

/* What the VM has for itself, its addresses and images, what it reads, and what it has a part in, its pool. The caller's; NULL without memory. */
static json_t *keys_of(const json_t *vm)
{
        const json_t *spec = json_spec(vm);
        _cleanup_json_ json_t *keys = json_array();
        char text[MAC_STRING_SIZE];
        uint8_t mac[MAC_SIZE];
        json_t *item;
        size_t i;
        int r = 0;

        json_array_foreach (json_object_get(spec, "nics"), i, item)
                if (mac_parse(json_text(item, "mac"), mac) >= 0)
                        r |= add_key(keys, "mac", mac_format(mac, text), "");
        json_array_foreach (json_object_get(spec, "disks"), i, item)
                if (*json_text(item, "path"))
                        r |= add_key(keys,
                                json_is_true(json_object_get(item, "read_only")) ? "reads" : "image",
                                json_text(item, "datastore"), json_text(item, "path"));
        r |= add_read(keys, json_object_get(spec, "cdrom"));
        r |= add_read(keys, json_object_get(json_object_get(spec, "boot"), "kernel"));
        r |= add_read(keys, json_object_get(json_object_get(spec, "boot"), "initrd"));
        if (*pool_of(vm))
                r |= add_key(keys, "pool", pool_of(vm), "");
        return keys && r == 0 ? TAKE_PTR(keys) : NULL;
}

static void drop_keys(struct inventory *inventory, struct vm_entry *vm)
{
        _cleanup_json_ json_t *keys = TAKE_PTR(vm->keys);
        json_t *key;
        size_t i;

        json_array_foreach (keys, i, key)
                remove_user(inventory, json_string_value(key), vm);
}

static int take_keys(struct inventory *inventory, struct vm_entry *vm)
{
        json_t *key;
        size_t i;

        vm->keys = keys_of(vm->doc);
        if (!vm->keys)
                return -ENOMEM;
        json_array_foreach (vm->keys, i, key)
                if (add_user(inventory, json_string_value(key), vm) < 0) {
                        drop_keys(inventory, vm);
                        return -ENOMEM;
                }
        return 0;
}

/* --- VMs ------------------------------------------------------------------------------------------------------------ */

int index_vm_put(struct inventory *inventory, struct vm_entry *vm, const json_t *before)
{
        struct list *place = place_of(inventory, vm);
        const char *name = json_text(vm->doc, "name");

        /* Before anything can fail: when this is told again, `before` is the new document. */
        if (strcmp(json_text(json_status(before), "host"), json_text(json_status(vm->doc), "host")) != 0 ||
                !json_equal(json_object_get(json_spec(before), "disks"),
                        json_object_get(json_spec(vm->doc), "disks")))
                json_decref(TAKE_PTR(inventory->provisioned));
        if (vm->keys && !json_equal(json_spec(before), json_spec(vm->doc)))
                drop_keys(inventory, vm);
        if (vm->at != place) {
                list_remove(&vm->at_host);
                list_append(place, &vm->at_host);
        }
        vm->at = place;
        if (map_get(&inventory->vms_by_name, name) != vm) { /* it is new, or has another name */
                if (before && map_get(&inventory->vms_by_name, json_text(before, "name")) == vm)
                        map_remove(&inventory->vms_by_name, json_text(before, "name"));
                inventory->vms_sorted.good = false;
                if (map_put(&inventory->vms_by_name, name, vm, NULL) < 0)
                        return -ENOMEM;
        }
        return vm->keys ? 0 : take_keys(inventory, vm);
}

void index_vm_removed(struct inventory *inventory, struct vm_entry *vm)
{
        list_remove(&vm->at_host);
        drop_keys(inventory, vm);
        json_decref(TAKE_PTR(inventory->provisioned));
        if (map_get(&inventory->vms_by_name, json_text(vm->doc, "name")) == vm)
                map_remove(&inventory->vms_by_name, json_text(vm->doc, "name"));
        inventory->vms_sorted.good = false;
}

const json_t *inventory_provisioned(struct inventory *inventory)
{
        _cleanup_json_ json_t *sums = inventory->provisioned ? NULL : json_object();
        struct map_item *item, *spare;
        json_t *disk;
        size_t i;

        if (inventory->provisioned || !sums)
                return inventory->provisioned;
        map_for_each (item, spare, &inventory->vms) {
                const struct vm_entry *vm = item->value;

                json_array_foreach (json_object_get(json_spec(vm->doc), "disks"), i, disk)
                        if (datastore_place_add(sums, json_text(disk, "datastore"),
                                    json_text(json_status(vm->doc), "host"), datastore_disk_bytes(disk)) < 0)
                                return NULL;
        }
        inventory->provisioned = TAKE_PTR(sums);
        return inventory->provisioned;
}

const json_t *inventory_vm_named(const struct inventory *inventory, const char *name)
{
        const struct vm_entry *vm = map_get(&inventory->vms_by_name, name);

        return vm ? vm->doc : NULL;
}

static int others_under(const struct inventory *inventory, const char *key, const json_t *vm, json_t *out)
{
        const struct users *users = map_get(&inventory->users, key);

        for (size_t i = 0; users && i < users->n_vms; i++)
                if (strcmp(json_text(users->vms[i]->doc, "uid"), json_text(vm, "uid")) &&
                        json_array_append(out, users->vms[i]->doc) < 0)
                        return -ENOMEM;
        return 0;
}

/* The other users of what is under the key: who only reads looks for those that write, who writes for both. */
static int add_beside(const struct inventory *inventory, const char *key, const json_t *vm, json_t *out)
{
        static const char image[] = "image/", reads[] = "reads/", pool[] = "pool/";
        _cleanup_free_ char *other = NULL;
        bool only_reads = !strncmp(key, reads, strlen(reads));
        int r;

        if (!strncmp(key, pool, strlen(pool)))
                return 0;
        if (!only_reads && strncmp(key, image, strlen(image)) != 0)
                return others_under(inventory, key, vm, out);
        other = alloc_printf("%s%s", only_reads ? image : reads, strchr(key, '/') + 1);
        if (!other)
                return -ENOMEM;
        r = others_under(inventory, other, vm, out);
        return r < 0 || only_reads ? r : others_under(inventory, key, vm, out);
}

json_t *inventory_vms_beside(const struct inventory *inventory, const json_t *vm)
{
        _cleanup_json_ json_t *keys = keys_of(vm), *out = json_array();
        json_t *key;
        size_t i;

        if (!keys || !out)
                return NULL;
        json_array_foreach (keys, i, key)
                if (add_beside(inventory, json_string_value(key), vm, out) < 0)
                        return NULL;
        return TAKE_PTR(out);
}

/* "image/DATASTORE:NAME/..." or "reads/...": names of datastores have neither sign. */
static bool is_under(const char *key, const char *name)
{
        const char *path =
                strncmp(key, "image/", 6) == 0 || strncmp(key, "reads/", 6) == 0 ? strchr(key, ':') : NULL;
        size_t len = strlen(name);

        return path && !strncmp(path + 1, name, len) && path[1 + len] == '/';
}

bool inventory_folder_is_shared(const struct inventory *inventory, const json_t *vm)
{
        const char *name = json_text(vm, "name"), *uid = json_text(vm, "uid");
        struct map_item *item, *spare;

        map_for_each (item, spare, (struct map *)&inventory->users) {
                const struct users *users = item->value;

                if (!is_under(item->key, name))
                        continue;
                for (size_t i = 0; i < users->n_vms; i++)
                        if (strcmp(json_text(users->vms[i]->doc, "uid"), uid) != 0)
                                return true;
        }
        return false;
}

json_t *inventory_vms_of_pool(const struct inventory *inventory, const char *pool)
{
        _cleanup_free_ char *key = alloc_printf("pool/%s:", pool);
        const struct users *users = key ? map_get(&inventory->users, key) : NULL;
        _cleanup_json_ json_t *out = key ? json_array() : NULL;

        for (size_t i = 0; users && i < users->n_vms; i++)
                if (json_array_append(out, users->vms[i]->doc) < 0)
                        return NULL;
        return TAKE_PTR(out);
}

/* --- Reports -------------------------------------------------------------------------------------------------------- */

struct reported *index_reported(const struct inventory *inventory, const char *vm_uid)
{
        return map_get(&inventory->reported, vm_uid);
}

int index_report_added(struct inventory *inventory, const char *vm_uid, struct report *report)
{
        struct reported *reported = index_reported(inventory, vm_uid);

        if (!reported) {
                reported = ALLOC(struct reported);
                if (!reported)
                        return -ENOMEM;
                list_init(&reported->reports);
                if (map_put(&inventory->reported, vm_uid, reported, NULL) < 0) {
                        free(reported);
                        return -ENOMEM;
                }
        }
        list_append(&reported->reports, &report->of_vm);
        return 0;
}

void index_report_removed(struct inventory *inventory, const char *vm_uid, struct report *report)
{
        struct reported *reported = index_reported(inventory, vm_uid);

        list_remove(&report->of_vm);
        if (reported && list_empty(&reported->reports))
                free(map_remove(&inventory->reported, vm_uid));
}

/* --- Lists by name --------------------------------------------------------------------------------------------------- */

/* Both begin with their document. */
static const json_t *doc_of(const void *item)
{
        return *(json_t *const *)item;
}
static_assert(
        offsetof(struct vm_entry, doc) == 0 && offsetof(struct host, doc) == 0, "doc_of() counts on it");

static int compare(const void *a, const void *b)
{
        return strcmp(json_text(doc_of(*(const void *const *)a), "name"),
                json_text(doc_of(*(const void *const *)b), "name"));
}

/* In the order of names; made anew after one came, went or was renamed. */
static const struct sorted *sorted_of(struct inventory *inventory, const char *kind)
{
        bool vms = !strcmp(kind, "vm");
        struct sorted *sorted = vms ? &inventory->vms_sorted : &inventory->hosts_sorted;
        const struct map *map = vms ? &inventory->vms : &inventory->hosts;
        struct map_item *item, *spare;
        size_t n = 0;

        if (sorted->good)
                return sorted;
        free(sorted->items);
        *sorted = (struct sorted){.items = alloc_array(map_size(map) + 1, sizeof(void *))};
        if (!sorted->items)
                return NULL;
        map_for_each (item, spare, map)
                sorted->items[n++] = item->value;
        qsort(sorted->items, n, sizeof(void *), compare);
        sorted->n_items = n;
        sorted->good = true;
        return sorted;
}

/* How many names come before `name`; `same`: it is among them. */
static size_t count_before(const struct sorted *sorted, const char *name, bool same)
{
        size_t low = 0, high = sorted->n_items;

        while (low < high) {
                size_t middle = (low + high) / 2;
                int order = strcmp(json_text(doc_of(sorted->items[middle]), "name"), name);

                if (order < 0 || (same && order == 0))
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

int inventory_list(
        struct inventory *inventory, const struct store_query *query, json_t **ret_docs, bool *ret_more)
{
        const struct sorted *sorted = sorted_of(inventory, query->kind);
        const char *after = query->after && *query->after ? query->after : NULL;
        _cleanup_json_ json_t *docs = json_array();
        size_t begin = 0, end;
        bool more = false;

        if (!sorted || !docs)
                return -ENOMEM;
        end = sorted->n_items;
        if (after && query->descending)
                end = count_before(sorted, after, false);
        else if (after)
                begin = count_before(sorted, after, true);
        for (size_t i = begin; i < end && !more; i++) {
                json_t *doc = (json_t *)doc_of(sorted->items[query->descending ? end - 1 - (i - begin) : i]);

                if (query->match && !query->match(query->userdata, doc))
                        continue;
                more = json_array_size(docs) >= query->limit;
                if (!more && json_array_append(docs, doc) < 0)
                        return -ENOMEM;
        }
        *ret_docs = TAKE_PTR(docs);
        *ret_more = more;
        return 0;
}

/* --- Documents of other kinds ------------------------------------------------------------------------------------------ */

static const char *const kept_kinds[] = {"datastore", "switch", "port-group", "affinity-rule", "pool"};
static_assert(ARRAY_SIZE(kept_kinds) == INVENTORY_N_KEPT, "one list a kind");

void index_changed(struct inventory *inventory, const char *kind)
{
        for (size_t i = 0; i < INVENTORY_N_KEPT; i++)
                if (!kind || !strcmp(kept_kinds[i], kind))
                        json_decref(TAKE_PTR(inventory->kept[i]));
}

int inventory_objects(
        struct inventory *inventory, const char *kind, json_t **ret_docs, struct error **ret_error)
{
        struct store_query query = {.kind = kind, .limit = STORE_LIMIT_NONE};
        size_t i = 0;
        int r = 0;

        while (i < INVENTORY_N_KEPT && strcmp(kept_kinds[i], kind) != 0)
                i++;
        assert(i < INVENTORY_N_KEPT);
        if (!inventory->kept[i])
                r = store_list(inventory->manager->store, &query, &inventory->kept[i], NULL, ret_error);
        if (r >= 0)
                *ret_docs = json_incref(inventory->kept[i]);
        return r;
}

/* ------------------------------------------------------------------------------------------------------------------------ */

void index_init(struct inventory *inventory)
{
        map_init(&inventory->hosts_by_name);
        map_init(&inventory->vms_by_name);
        map_init(&inventory->users);
        map_init(&inventory->reported);
        list_init(&inventory->elsewhere);
}

void index_deinit(struct inventory *inventory)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &inventory->users)
                users_free(item->value);
        map_for_each (item, spare, &inventory->reported)
                free(item->value);
        map_deinit(&inventory->hosts_by_name);
        map_deinit(&inventory->vms_by_name);
        map_deinit(&inventory->users);
        map_deinit(&inventory->reported);
        free(inventory->vms_sorted.items);
        free(inventory->hosts_sorted.items);
        for (size_t i = 0; i < INVENTORY_N_KEPT; i++)
                json_decref(inventory->kept[i]);
        json_decref(inventory->provisioned);
}

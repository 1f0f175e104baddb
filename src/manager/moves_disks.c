/* SPDX-License-Identifier: Apache-2.0 */

/* A datastore that is to be left: what moves.c does with virtual machines and hosts, with disks and datastores. All disks that a virtual machine
 * has there go in one try (vm.migrate-disks), each to the best other datastore of its host. Its folder, a CD-ROM and what is read-only cannot be
 * moved: one that has such things there ends as "files-stay". */

#include "manager/moves_disks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "cluster/datastore_place.h"
#include "cluster/disk_placement.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/moves_private.h"

/* --- Who has something there --------------------------------------------------------------------------------------------- */

static bool is_on(const json_t *file, const char *datastore)
{
        return !strcmp(json_text(file, "datastore"), datastore);
}

static bool is_movable(const json_t *disk, const char *datastore)
{
        return is_on(disk, datastore) && !json_is_true(json_object_get(disk, "read_only"));
}

static uint64_t movable_bytes(const json_t *vm, const char *datastore)
{
        uint64_t bytes = 0;
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                bytes += is_movable(disk, datastore) ? datastore_disk_bytes(disk) : 0;
        return bytes;
}

bool moves_disks_has_movable(const json_t *vm, const char *datastore)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (is_movable(disk, datastore))
                        return true;
        return false;
}

/* What does not move with the disks. */
static bool has_read_only(const json_t *vm, const char *datastore)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (is_on(disk, datastore) && !is_movable(disk, datastore))
                        return true;
        return false;
}

static bool boots_from(const json_t *vm, const char *datastore)
{
        const json_t *boot = json_object_get(json_spec(vm), "boot");

        return is_on(json_object_get(boot, "kernel"), datastore) ||
               is_on(json_object_get(boot, "initrd"), datastore);
}

char *moves_disks_remainder(const json_t *vm, const char *datastore)
{
        const struct {
                bool there;
                const char *what;
        } things[] = {{is_on(json_spec(vm), datastore), "folder"},
                {has_read_only(vm, datastore), "read-only disk"},
                {is_on(json_object_get(json_spec(vm), "cdrom"), datastore), "CD-ROM"},
                {boots_from(vm, datastore), "kernel"}};
        char *text = alloc_strdup("");

        for (size_t i = 0; i < ARRAY_SIZE(things) && text; i++) {
                char *longer = things[i].there
                                       ? alloc_printf("%s%s%s", text, *text ? ", " : "its ", things[i].what)
                                       : NULL;

                if (!things[i].there)
                        continue;
                free(text);
                text = longer;
        }
        return text;
}

bool moves_disks_uses(const json_t *vm, const char *datastore)
{
        return is_on(json_spec(vm), datastore) || moves_disks_has_movable(vm, datastore) ||
               has_read_only(vm, datastore) || is_on(json_object_get(json_spec(vm), "cdrom"), datastore) ||
               boots_from(vm, datastore);
}

struct found {
        const json_t *vm;
        uint64_t bytes;
};

static int larger_first(const void *a, const void *b)
{
        const struct found *x = a, *y = b;

        if (x->bytes != y->bytes)
                return x->bytes > y->bytes ? -1 : 1;
        return strcmp(json_text(x->vm, "name"), json_text(y->vm, "name"));
}

int moves_disks_find(const json_t *vms, const char *datastore, const json_t ***ret_vms, size_t *ret_n)
{
        _cleanup_free_ struct found *found = alloc_array(json_array_size(vms) + 1, sizeof(*found));
        const json_t **list = alloc_array(json_array_size(vms) + 1, sizeof(*list));
        json_t *vm;
        size_t i, n = 0;

        if (!vms || !found || !list) {
                free(list);
                return -ENOMEM;
        }
        json_array_foreach ((json_t *)vms, i, vm)
                if (moves_disks_uses(vm, datastore))
                        found[n++] = (struct found){vm, movable_bytes(vm, datastore)};
        if (n)
                qsort(found, n, sizeof(*found), larger_first);
        for (i = 0; i < n; i++)
                list[i] = found[i].vm;
        *ret_vms = list;
        *ret_n = n;
        return 0;
}

/* --- Where to ------------------------------------------------------------------------------------------------------------ */

/* What a request for it would be refused for. */
static int check_power(const json_t *vm, struct error **ret_error)
{
        static const char *const allowed[] = {"running", "paused", "stopped", "crashed"};
        const char *power = json_text(json_status(vm), "power");

        for (size_t i = 0; i < ARRAY_SIZE(allowed); i++)
                if (!strcmp(power, allowed[i]))
                        return 0;
        return error_set(ret_error, ERROR_CONFLICT,
                "Its disks can be moved while it runs, is paused, or is off.", "the virtual machine is %s",
                power);
}

static int add_all(json_t *sums, const json_t *more)
{
        const char *datastore, *host;
        json_t *sum, *bytes;

        json_object_foreach ((json_t *)more, datastore, sum)
                json_object_foreach (json_object_get(sum, "hosts"), host, bytes)
                        if (datastore_place_add(sums, datastore, host, (uint64_t)json_integer_value(bytes)) <
                                0)
                                return -ENOMEM;
        return 0;
}

static int add_choice(json_t *reserved, const json_t *vm, const json_t *choice)
{
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(json_spec(vm), "disks"), i, disk)
                if (*json_text(choice, json_text(disk, "name")) &&
                        datastore_place_add(reserved, json_text(choice, json_text(disk, "name")),
                                json_text(json_status(vm), "host"), datastore_disk_bytes(disk)) < 0)
                        return -ENOMEM;
        return 0;
}

int moves_disks_choose(struct manager *manager, const json_t *vm, const char *datastore, const json_t *avoid,
        json_t *reserved, json_t **ret_choice, struct error **ret_error)
{
        _cleanup_datastores_facts_ struct datastores_facts facts = {};
        _cleanup_json_ json_t *report = NULL, *choice = NULL;
        struct disk_placement_input input;
        int r = check_power(vm, ret_error);

        if (r >= 0)
                r = datastores_facts_load(manager, vm, &facts, ret_error);
        if (r < 0)
                return r;
        if (!facts.host)
                return error_set(
                        ret_error, ERROR_CONFLICT, "Start it once.", "the virtual machine is on no host");
        if (add_all(facts.reserved, reserved) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        input = datastores_facts_input(&facts);
        input.from = datastore;
        input.avoid = avoid;
        report = disk_placement(&input);
        if (!report)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = disk_placement_choice(report, &choice, ret_error);
        if (r >= 0 && reserved && add_choice(reserved, vm, choice) < 0)
                r = error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r < 0)
                return r;
        *ret_choice = TAKE_PTR(choice);
        return 0;
}

char *moves_disks_targets(const json_t *choice)
{
        _cleanup_json_ json_t *seen = json_object();
        char *text = alloc_strdup("");
        const char *disk;
        json_t *target;

        json_object_foreach ((json_t *)choice, disk, target) {
                const char *name = json_string_value(target) ?: "";
                char *longer = NULL;

                if (json_object_get(seen, name))
                        continue;
                if (text && json_object_set_new(seen, name, json_true()) >= 0)
                        longer = alloc_printf("%s%s%s", text, *text ? ", " : "", name);
                free(text);
                text = longer;
        }
        return text;
}

/* --- The aim ------------------------------------------------------------------------------------------------------------- */

static int newcomers(struct moves_round *round, const json_t *known)
{
        _cleanup_json_ json_t *vms = inventory_vms(round->manager->inventory);
        _cleanup_free_ const json_t **found = NULL;
        size_t n = 0, n_new = 0;

        if (moves_disks_find(vms, round->datastore, &found, &n) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                if (!json_object_get(known, json_text(found[i], "uid")))
                        found[n_new++] = found[i];
        return n_new ? moves_add(round->task, found, n_new) : 0;
}

/* Where its last try that succeeded has brought them. */
static const char *where(const json_t *record)
{
        const char *to = NULL;
        json_t *try;
        size_t i;

        json_array_foreach (json_object_get(record, "tries"), i, try)
                if (moves_try_succeeded(try))
                        to = json_text_or_null(try, "to");
        return to;
}

static bool is_settled(struct moves_round *round, json_t *record, const json_t *vm)
{
        _cleanup_free_ char *rest = NULL, *why = NULL;

        if (!vm) {
                moves_set_outcome(round, record, "gone", NULL);
                return true;
        }
        if (moves_disks_has_movable(vm, round->datastore))
                return false;
        rest = moves_disks_remainder(vm, round->datastore);
        if (!rest || !*rest) {
                moves_set_outcome(round, record, "moved", where(record));
                return true;
        }
        why = alloc_printf("%s cannot be moved by this", rest);
        moves_set_why(round, record, why);
        moves_set_outcome(round, record, "files-stay", where(record));
        return true;
}

/* Those that its disks have failed to go to. */
static json_t *failed_before(const json_t *record)
{
        json_t *avoid = json_object(), *try, *target;
        const char *disk;
        size_t i;

        json_array_foreach (json_object_get(record, "tries"), i, try) {
                if (moves_try_is_open(try) || moves_try_succeeded(try))
                        continue;
                json_object_foreach (json_object_get(try, "disks"), disk, target)
                        if (json_object_set_new(avoid, json_string_value(target) ?: "", json_true()) < 0) {
                                json_decref(avoid);
                                return NULL;
                        }
        }
        return avoid;
}

/* The best choices, among all and among those that have not failed; NULL: there is none, and why. False: not now. */
static bool look_for_datastores(
        struct moves_round *round, json_t *record, const json_t *vm, json_t **ret_any, json_t **ret_other)
{
        _cleanup_json_ json_t *avoid = failed_before(record);
        _cleanup_error_ struct error *error = NULL, *of_others = NULL;
        uint64_t began_ns = clock_monotonic_ns();

        if (!avoid || !moves_may_check(round, record))
                return false;
        if (moves_disks_choose(round->manager, vm, round->datastore, NULL, NULL, ret_any, &error) < 0)
                moves_set_why(round, record, error_message(error));
        else if (!json_object_size(avoid))
                *ret_other = json_incref(*ret_any);
        else if (moves_disks_choose(
                         round->manager, vm, round->datastore, avoid, NULL, ret_other, &of_others) < 0)
                *ret_other = NULL;
        loop_share_spend(&round->manager->share, clock_monotonic_ns() - began_ns);
        return true;
}

static void begin(struct moves_round *round, json_t *record, json_t *choice, unsigned int rank)
{
        const char *word = evacuation_rank_to_string(&round->policy, rank);
        _cleanup_free_ char *to = moves_disks_targets(choice);

        if (!strcmp(word, "other-host"))
                word = "other-datastore";
        moves_try_begin(round, record, MOVES_MOVE_DISKS, to, word);
        if (!to || json_object_set(moves_last_try(record), "disks", choice) < 0)
                round->failed = true;
}

static void decide(struct moves_round *round, json_t *record, const json_t *vm)
{
        struct evacuation_facts facts = {.now_ms = round->now_ms,
                .last_end_ms = json_integer_value(json_object_get(record, "end_unix_ms")),
                .runs = true,
                .closed = round->closed};
        _cleanup_json_ json_t *any = NULL, *other = NULL;
        struct evacuation_progress progress;
        enum evacuation_act what;

        if (!facts.closed) {
                if (moves_is_held(round, record) || moves_is_too_soon(round, record) ||
                        round->n_active >= MOVES_AT_ONCE_MAX)
                        return;
                if (!look_for_datastores(round, record, vm, &any, &other))
                        return;
        }
        facts.fits = any != NULL;
        facts.fits_other = other != NULL;
        progress = moves_progress(record);
        what = evacuation_next(&round->policy, &progress, &facts);
        moves_set_progress(round, record, &progress);
        if (what == EVACUATION_ACT_MIGRATE || what == EVACUATION_ACT_MIGRATE_OTHER)
                begin(round, record, what == EVACUATION_ACT_MIGRATE ? any : other, progress.rank);
        else if (what == EVACUATION_ACT_WAIT)
                moves_look_again_later(round, record);
        else
                moves_leave(round, record, "stays");
}

/* What had begun before it was closed may still bring disks there. */
static bool awaits_arrivals(const struct moves_round *round)
{
        _cleanup_json_ json_t *reserved = round->closed ? NULL : datastores_reserved(round->manager, NULL);

        return json_object_get(reserved, round->datastore) != NULL;
}

const struct moves_aim moves_disks_aim = {
        .newcomers = newcomers,
        .is_settled = is_settled,
        .decide = decide,
        .awaits_arrivals = awaits_arrivals,
};

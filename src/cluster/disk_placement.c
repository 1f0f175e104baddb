/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/disk_placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/checks.h"
#include "cluster/datastore_place.h"

#define WARNING_COST 15.0
/* A write that is flushed, and data written: a good disk does better than the first, one that hinders its guests worse than the second. */
#define LATENCY_GOOD_MS 2.0
#define LATENCY_BAD_MS 50.0
#define RATE_GOOD_BYTES_PER_S 1e9
#define RATE_BAD_BYTES_PER_S 1e7

struct candidate {
        struct datastore_place place;
        json_t *reasons, *checks;
        double score;
        size_t n_errors;
        bool ok;
};

/* One disk, as it is placed. */
struct seeker {
        const json_t *disk;
        uint64_t bytes;
        json_t *result;
        size_t i;
};

static const char *text_of(const json_t *object, const char *key)
{
        return json_string_value(json_object_get(object, key)) ?: "";
}

static const json_t *named(const json_t *array, const char *name)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)array, i, item)
                if (!strcmp(text_of(item, "name"), name))
                        return item;
        return NULL;
}

/* --- Checks --------------------------------------------------------------------------------------------------- */

/* Takes the cause over; NULL: no memory for it. */
static int add_check(
        json_t *checks, const char *code, bool error, const char *object, char *cause, const char *way_out)
{
        int r = cause ? json_array_append_new(
                                checks, json_pack("{s:s, s:s, s:b, s:s, s:s, s:s}", "code", code, "severity",
                                                error ? "error" : "warning", "ok", 0, "object", object,
                                                "cause", cause, "way_out", way_out))
                      : -1;

        free(cause);
        return r < 0 ? -ENOMEM : 0;
}

static bool is_absent(const struct datastore_place *place, const char *host, char **ret_cause)
{
        if (!place->there)
                *ret_cause =
                        alloc_printf("host %s, where the virtual machine is, does not have the datastore %s",
                                host, place->name);
        else if (!place->works)
                *ret_cause = alloc_printf("the datastore %s does not work on host %s: %s", place->name, host,
                        place->message ?: "no reason given");
        return !place->there || !place->works;
}

/* It would lose what it has: that it can move to another host without its disks. */
static bool is_lonelier(
        const struct disk_placement_input *input, const json_t *disk, const struct datastore_place *place)
{
        const json_t *now = named(input->datastores, text_of(disk, "datastore"));

        return place->host && now && !json_is_false(json_object_get(json_object_get(now, "spec"), "shared"));
}

static int look(const struct disk_placement_input *input, const json_t *disk,
        const struct datastore_place *place, json_t *checks)
{
        const char *host = text_of(input->host, "name"), *object = place->name;
        bool there = !strcmp(text_of(disk, "datastore"), object);
        uint64_t bytes = there ? 0 : datastore_disk_bytes(disk);
        char *cause = NULL;
        int r = 0;

        if (is_absent(place, host, &cause))
                return add_check(checks, "datastore", true, object, cause,
                        "Attach and mend it there: `drover datastore show` lists its hosts.");
        if (datastore_place_is_closed(place, &cause))
                r = add_check(checks, "datastore-maintenance", true, object, cause, DATASTORE_CLOSED_WAY_OUT);
        if (r >= 0 && datastore_place_is_over(place, bytes, &cause))
                r = add_check(checks, "datastore-limit", true, object, cause, DATASTORE_OVER_WAY_OUT);
        if (r >= 0 && datastore_place_is_short(place, bytes, &cause))
                r = add_check(checks, "datastore-space", false, object, cause, DATASTORE_SHORT_WAY_OUT);
        if (r >= 0 && is_lonelier(input, disk, place))
                r = add_check(checks, "datastore-local", false, object,
                        alloc_printf(
                                "the datastore %s is one of host %s alone: from there the virtual machine "
                                "cannot be migrated without its disks",
                                place->name, host),
                        "Choose a datastore that the hosts share.");
        return r;
}

static struct datastore_place place_of(const struct disk_placement_input *input, const json_t *datastore)
{
        return datastore_place_of(datastore, input->host, input->provisioned, input->reserved);
}

json_t *disk_placement_checks(
        const struct disk_placement_input *input, const json_t *disk, const json_t *datastore)
{
        struct datastore_place place = place_of(input, datastore);
        _cleanup_json_ json_t *checks = json_array();

        return !checks || look(input, disk, &place, checks) < 0 ? NULL : TAKE_PTR(checks);
}

/* --- Scores --------------------------------------------------------------------------------------------------- */

/* 1 at good, 0 at bad, even steps of the logarithm between. */
static double grade(double value, double good, double bad)
{
        return CLAMP(log(bad / MAX(value, 1e-9)) / log(bad / good), 0.0, 1.0);
}

/* A measure: 0 to 1, or below 0 for "not known"; `reason` is for it to fill in. */

static double room_free(const struct datastore_place *place, double bytes, char reason[static 160])
{
        double capacity = (double)place->capacity_bytes,
               left = (double)place->free_bytes - (double)place->reserved_bytes - bytes;
        char text[16], of[16];

        if (capacity <= 0)
                return -1;
        snprintf(reason, 160, "%s of %s would stay free with the disk full",
                text_format_size((uint64_t)MAX(left, 0.0), text), text_format_size((uint64_t)capacity, of));
        return CLAMP(left / capacity, 0.0, 1.0);
}

static double room_unpromised(const struct datastore_place *place, double bytes, char reason[static 160])
{
        double capacity = (double)place->capacity_bytes,
               promised = (double)place->provisioned_bytes + (double)place->reserved_bytes + bytes;

        if (capacity <= 0)
                return -1;
        snprintf(reason, 160, "%.0f %% of its capacity would be promised", 100.0 * promised / capacity);
        return 1.0 / (1.0 + promised / capacity);
}

static double quick(const struct datastore_place *place, double bytes, char reason[static 160])
{
        if (place->latency_ms < 0)
                return -1;
        snprintf(reason, 160, "a small write takes %.1f ms there", place->latency_ms);
        return grade(place->latency_ms, LATENCY_GOOD_MS, LATENCY_BAD_MS);
}

static double rate(const struct datastore_place *place, double bytes, char reason[static 160])
{
        char text[16];

        if (place->write_bytes_per_s <= 0)
                return -1;
        snprintf(reason, 160, "%s a second were written there when it was tried",
                text_format_size((uint64_t)place->write_bytes_per_s, text));
        return grade(place->write_bytes_per_s, RATE_GOOD_BYTES_PER_S, RATE_BAD_BYTES_PER_S);
}

static const struct {
        double weight;
        double (*measure)(const struct datastore_place *place, double bytes, char reason[static 160]);
} measures[] = {{3.0, room_free}, {1.0, room_unpromised}, {2.0, quick}, {1.0, rate}};

static int add_reason(json_t *reasons, const char *reason)
{
        return *reason && json_array_append_new(reasons, json_string(reason)) < 0 ? -ENOMEM : 0;
}

static int judge(const struct disk_placement_input *input, const json_t *disk, struct candidate *candidate)
{
        double sum = 0, weights = 0, bytes = (double)datastore_disk_bytes(disk);
        size_t n_warnings;
        json_t *check;
        size_t i;

        candidate->checks = json_array();
        candidate->reasons = json_array();
        if (!candidate->checks || !candidate->reasons ||
                look(input, disk, &candidate->place, candidate->checks) < 0)
                return -ENOMEM;
        json_array_foreach (candidate->checks, i, check)
                if (add_reason(candidate->reasons, text_of(check, "cause")) < 0)
                        return -ENOMEM;
        candidate->ok = checks_ok(candidate->checks);
        n_warnings = checks_n_warnings(candidate->checks);
        candidate->n_errors = json_array_size(candidate->checks) - n_warnings;
        for (i = 0; i < ARRAY_SIZE(measures) && candidate->place.works; i++) {
                char reason[160] = "";
                double value = measures[i].measure(&candidate->place, bytes, reason);

                if (value < 0)
                        continue;
                sum += value * measures[i].weight;
                weights += measures[i].weight;
                if (add_reason(candidate->reasons, reason) < 0)
                        return -ENOMEM;
        }
        if (candidate->ok && weights > 0)
                candidate->score = MAX(100.0 * sum / weights - WARNING_COST * (double)n_warnings, 0.0);
        return 0;
}

static int best_first(const void *a, const void *b)
{
        const struct candidate *x = a, *y = b;

        if (x->ok != y->ok)
                return x->ok ? -1 : 1;
        if (!x->ok && x->n_errors != y->n_errors)
                return x->n_errors < y->n_errors ? -1 : 1;
        if (x->score != y->score)
                return x->score > y->score ? -1 : 1;
        return strcmp(x->place.name, y->place.name);
}

static json_t *ranking_of(const struct candidate *candidates, size_t n)
{
        _cleanup_json_ json_t *ranking = json_array();

        for (size_t i = 0; i < n; i++)
                if (!ranking || json_array_append_new(ranking,
                                        json_pack("{s:s, s:b, s:f, s:O, s:O}", "datastore",
                                                candidates[i].place.name, "ok", candidates[i].ok, "score",
                                                round(candidates[i].score * 10) / 10, "reasons",
                                                candidates[i].reasons, "checks", candidates[i].checks)) < 0)
                        return NULL;
        return TAKE_PTR(ranking);
}

/* Not the one where it is, which is no choice. */
static json_t *rank(const struct disk_placement_input *input, const json_t *disk)
{
        size_t n_all = json_array_size(input->datastores), n = 0, i;
        struct candidate *candidates = alloc_array(n_all + 1, sizeof(*candidates));
        json_t *datastore, *ranking = NULL;
        int r = candidates ? 0 : -ENOMEM;

        json_array_foreach ((json_t *)input->datastores, i, datastore) {
                const char *name = text_of(datastore, "name");

                if (r < 0 || !strcmp(name, text_of(disk, "datastore")) || json_object_get(input->avoid, name))
                        continue;
                candidates[n] = (struct candidate){.place = place_of(input, datastore)};
                r = judge(input, disk, &candidates[n++]);
        }
        if (r >= 0) {
                qsort(candidates, n, sizeof(*candidates), best_first);
                ranking = ranking_of(candidates, n);
        }
        for (i = 0; i < n; i++) {
                json_decref(candidates[i].reasons);
                json_decref(candidates[i].checks);
        }
        free(candidates);
        return ranking;
}

/* --- All disks ------------------------------------------------------------------------------------------------ */

static bool is_wanted(const struct disk_placement_input *input, const json_t *disk)
{
        if (input->from && strcmp(text_of(disk, "datastore"), input->from) != 0)
                return false;
        return input->disks ? doc_has_string(input->disks, text_of(disk, "name"))
                            : !json_is_true(json_object_get(disk, "read_only"));
}

static int largest_first(const void *a, const void *b)
{
        const struct seeker *x = a, *y = b;

        if (x->bytes != y->bytes)
                return x->bytes > y->bytes ? -1 : 1;
        return x->i < y->i ? -1 : x->i > y->i;
}

static int in_order(const void *a, const void *b)
{
        const struct seeker *x = a, *y = b;

        return x->i < y->i ? -1 : x->i > y->i;
}

/* reserved: grows by what the disk takes where it goes. */
static int place_disk(const struct disk_placement_input *input, struct seeker *seeker, json_t *reserved)
{
        json_t *ranking = rank(input, seeker->disk), *first = json_array_get(ranking, 0);
        bool ok = json_is_true(json_object_get(first, "ok"));
        const char *to = ok ? text_of(first, "datastore") : NULL;

        if (!ranking)
                return -ENOMEM;
        seeker->result = json_pack("{s:s, s:s, s:O?, s:b, s:s?, s:O}", "disk", text_of(seeker->disk, "name"),
                "datastore", text_of(seeker->disk, "datastore"), "size_bytes",
                json_object_get(seeker->disk, "size_bytes"), "ok", ok, "to", to, "ranking", ranking);
        if (to && seeker->result &&
                datastore_place_add(reserved, to, text_of(input->host, "name"), seeker->bytes) < 0)
                json_decref(TAKE_PTR(seeker->result));
        json_decref(ranking);
        return seeker->result ? 0 : -ENOMEM;
}

static json_t *report_of(struct seeker *seekers, size_t n)
{
        _cleanup_json_ json_t *disks = json_array();
        bool ok = n > 0;

        qsort(seekers, n, sizeof(*seekers), in_order);
        for (size_t i = 0; i < n; i++) {
                ok = ok && json_is_true(json_object_get(seekers[i].result, "ok"));
                if (!disks || json_array_append(disks, seekers[i].result) < 0)
                        return NULL;
        }
        return json_pack("{s:b, s:O}", "ok", ok, "disks", disks);
}

json_t *disk_placement(const struct disk_placement_input *input)
{
        const json_t *all = json_object_get(json_object_get(input->vm, "spec"), "disks");
        _cleanup_json_ json_t *reserved = input->reserved ? json_deep_copy(input->reserved) : json_object();
        struct seeker *seekers = alloc_array(json_array_size(all) + 1, sizeof(*seekers));
        struct disk_placement_input growing = *input;
        json_t *disk, *report = NULL;
        size_t i, n = 0;
        int r = reserved && seekers ? 0 : -ENOMEM;

        growing.reserved = reserved;
        json_array_foreach ((json_t *)all, i, disk)
                if (r >= 0 && is_wanted(input, disk))
                        seekers[n++] =
                                (struct seeker){.disk = disk, .bytes = datastore_disk_bytes(disk), .i = i};
        if (r >= 0)
                qsort(seekers, n, sizeof(*seekers), largest_first);
        for (i = 0; i < n && r >= 0; i++)
                r = place_disk(&growing, &seekers[i], reserved);
        if (r >= 0)
                report = report_of(seekers, n);
        for (i = 0; i < n; i++)
                json_decref(seekers[i].result);
        free(seekers);
        return report;
}

static int no_place(const json_t *disk, struct error **ret_error)
{
        const json_t *nearest = json_array_get(json_object_get(disk, "ranking"), 0), *checks = NULL;
        const char *cause = "the host has no other datastore", *way_out = "Add one: `drover datastore add`.";

        json_t *check;
        size_t i;

        checks = json_object_get(nearest, "checks");
        json_array_foreach ((json_t *)checks, i, check)
                if (!strcmp(text_of(check, "severity"), "error")) {
                        cause = text_of(check, "cause");
                        way_out = text_of(check, "way_out");
                        break;
                }
        return error_set(ret_error, ERROR_CHECK_FAILED, way_out, "no datastore takes disk %s: %s",
                text_of(disk, "disk"), cause);
}

int disk_placement_choice(const json_t *report, json_t **ret_choice, struct error **ret_error)
{
        _cleanup_json_ json_t *choice = json_object();
        json_t *disk;
        size_t i;

        json_array_foreach (json_object_get(report, "disks"), i, disk) {
                if (!json_is_string(json_object_get(disk, "to")))
                        return no_place(disk, ret_error);
                if (!choice ||
                        json_object_set(choice, text_of(disk, "disk"), json_object_get(disk, "to")) < 0)
                        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        if (!json_object_size(choice))
                return error_set(ret_error, ERROR_CONFLICT, "`drover vm show` lists its disks.",
                        "the virtual machine has no disk to be moved");
        *ret_choice = TAKE_PTR(choice);
        return 0;
}

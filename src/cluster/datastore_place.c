/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/datastore_place.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/macros.h"
#include "base/text.h"

#define NUMBER_MAX 1e18

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

/* What hosts say of themselves may be anything. */
static double number_of(const json_t *object, const char *key)
{
        return CLAMP(json_number_value(json_object_get(object, key)), 0.0, NUMBER_MAX);
}

/* host NULL: on all. */
static uint64_t sum_of(const json_t *sums, const char *datastore, const char *host)
{
        const json_t *sum = json_object_get(sums, datastore);
        json_int_t bytes = json_integer_value(
                host ? json_object_get(json_object_get(sum, "hosts"), host) : json_object_get(sum, "bytes"));

        return bytes > 0 ? (uint64_t)bytes : 0;
}

struct datastore_place datastore_place_of(
        const json_t *datastore, const json_t *host, const json_t *provisioned, const json_t *reserved)
{
        const char *name = text_of(datastore, "name");
        const json_t *spec = json_object_get(datastore, "spec"),
                     *status = json_object_get(datastore, "status"),
                     *item = named(json_object_get(json_object_get(host, "status"), "datastores"), name),
                     *latency = json_object_get(item, "latency_ms");
        bool local = json_is_false(json_object_get(spec, "shared"));
        struct datastore_place place = {.name = name,
                .host = local ? text_of(host, "name") : NULL,
                .there = item != NULL,
                .works = json_is_true(json_object_get(item, "ok")),
                .closed = json_is_object(json_object_get(status, "maintenance")),
                .message = json_string_value(json_object_get(item, "message")),
                .file_system = text_of(item, "file_system"),
                .capacity_bytes = (uint64_t)number_of(item, "capacity_bytes"),
                .free_bytes = (uint64_t)number_of(item, "free_bytes"),
                .latency_ms = json_is_number(latency) ? number_of(item, "latency_ms") : -1,
                .write_bytes_per_s = number_of(item, "write_bytes_per_s"),
                .read_bytes_per_s = number_of(item, "read_bytes_per_s"),
                .overcommit = number_of(spec, "overcommit")};

        place.provisioned_bytes = sum_of(provisioned, name, place.host);
        place.reserved_bytes = sum_of(reserved, name, place.host);
        return place;
}

static int add_to(json_t *object, const char *key, uint64_t bytes)
{
        json_int_t sum = json_integer_value(json_object_get(object, key));

        return json_object_set_new(object, key, json_integer(sum + (json_int_t)bytes)) < 0 ? -ENOMEM : 0;
}

int datastore_place_add(json_t *sums, const char *datastore, const char *host, uint64_t bytes)
{
        json_t *sum = json_object_get(sums, datastore);

        if (!sum) {
                sum = json_pack("{s:i, s:{}}", "bytes", 0, "hosts");
                if (json_object_set_new(sums, datastore, sum) < 0)
                        return -ENOMEM;
        }
        return add_to(sum, "bytes", bytes) < 0 ? -ENOMEM : add_to(json_object_get(sum, "hosts"), host, bytes);
}

uint64_t datastore_disk_bytes(const json_t *disk)
{
        return json_is_true(json_object_get(disk, "read_only")) ? 0 : (uint64_t)number_of(disk, "size_bytes");
}

/* " on host host1" of a local one. */
static const char *on_host(const struct datastore_place *place, char text[static 80])
{
        text[0] = '\0';
        if (place->host)
                snprintf(text, 80, " on host %.64s", place->host);
        return text;
}

bool datastore_place_is_closed(const struct datastore_place *place, char **ret_cause)
{
        if (place->closed)
                *ret_cause = alloc_printf("the datastore %s is in maintenance", place->name);
        return place->closed;
}

bool datastore_place_is_over(const struct datastore_place *place, uint64_t more_bytes, char **ret_cause)
{
        double promised = (double)place->provisioned_bytes + (double)place->reserved_bytes;
        double limit = place->overcommit * (double)place->capacity_bytes;
        char host[80], more[16], has[16], may[16], capacity[16];

        /* Of one whose size is not known nothing can be said. */
        if (!more_bytes || place->overcommit <= 0 || !place->capacity_bytes ||
                promised + (double)more_bytes <= limit)
                return false;
        *ret_cause =
                alloc_printf("%s more would be too much for the datastore %s%s: %s are promised there, and "
                             "%s may be (%.2f times its %s)",
                        text_format_size(more_bytes, more), place->name, on_host(place, host),
                        text_format_size((uint64_t)promised, has),
                        text_format_size((uint64_t)MIN(limit, NUMBER_MAX), may), place->overcommit,
                        text_format_size(place->capacity_bytes, capacity));
        return true;
}

bool datastore_place_is_short(const struct datastore_place *place, uint64_t more_bytes, char **ret_cause)
{
        char host[80], more[16], free_text[16];

        if (!more_bytes || !place->capacity_bytes || more_bytes <= place->free_bytes)
                return false;
        *ret_cause = alloc_printf("only %s are free on the datastore %s%s for a disk of up to %s",
                text_format_size(place->free_bytes, free_text), place->name, on_host(place, host),
                text_format_size(more_bytes, more));
        return true;
}

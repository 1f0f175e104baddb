/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/pool.h"

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "base/macros.h"
#include "base/text.h"
#include "cluster/checks.h"

#define COUNT_MAX 10000000u
#define MEMORY_MAX_BYTES \
        (UINT64_C(1) << 54) /* POOLS_MAX of them, and the memory of all hosts, can be added up */

static json_int_t integer(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

static int check_limits(const json_t *limits, struct error **ret_error)
{
        static const char *const keys[] = {"cpus", "memory_bytes", "vms", NULL};
        uint64_t number;
        int r = doc_only_keys(limits, "spec.limits", keys, ret_error);

        if (r >= 0)
                r = doc_opt_u64(limits, "spec.limits", "cpus", 0, COUNT_MAX, &number, ret_error);
        if (r >= 0)
                r = doc_opt_u64(
                        limits, "spec.limits", "memory_bytes", 0, MEMORY_MAX_BYTES, &number, ret_error);
        return r < 0 ? r : doc_opt_u64(limits, "spec.limits", "vms", 0, COUNT_MAX, &number, ret_error);
}

static int check_reservation(const json_t *reservation, const json_t *limits, struct error **ret_error)
{
        static const char *const keys[] = {"memory_bytes", NULL};
        uint64_t bytes = 0, limit = UINT64_MAX;
        char a[16], b[16];
        int r = doc_only_keys(reservation, "spec.reservation", keys, ret_error);

        if (r >= 0)
                r = doc_opt_u64(reservation, "spec.reservation", "memory_bytes", 0, MEMORY_MAX_BYTES, &bytes,
                        ret_error);
        if (r >= 0 && limits)
                r = doc_opt_u64(
                        limits, "spec.limits", "memory_bytes", 0, MEMORY_MAX_BYTES, &limit, ret_error);
        if (r >= 0 && bytes > limit)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, "Reserve less, or raise the limit.",
                        "the pool would reserve %s of memory, of which its limit allows %s",
                        text_format_size(bytes, a), text_format_size(limit, b));
        return r;
}

int pool_check_spec(const json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"limits", "reservation", NULL};
        json_t *limits = NULL, *reservation = NULL;
        int r = doc_only_keys(spec, "spec", keys, ret_error);

        if (r >= 0)
                r = doc_opt_object(spec, "spec", "limits", &limits, ret_error);
        if (r >= 0)
                r = doc_opt_object(spec, "spec", "reservation", &reservation, ret_error);
        if (r >= 0 && limits)
                r = check_limits(limits, ret_error);
        return r < 0 || !reservation ? r : check_reservation(reservation, limits, ret_error);
}

const char *pool_of(const json_t *vm)
{
        const json_t *labels = json_object_get(json_object_get(vm, "spec"), "labels");

        return json_string_value(json_object_get(labels, POOL_LABEL)) ?: "";
}

json_t *pool_no_use(void)
{
        return json_pack("{s:i, s:i, s:i}", "cpus", 0, "memory_bytes", 0, "vms", 0);
}

static int add(json_t *use, const char *key, json_int_t more)
{
        return json_object_set_new(use, key, json_integer(integer(use, key) + more)) < 0 ? -ENOMEM : 0;
}

json_int_t pool_memory_need(const json_t *vm)
{
        return integer(json_object_get(vm, "spec"), "memory_bytes");
}

int pool_add_use(json_t *use, const json_t *vm)
{
        json_int_t cpus = integer(json_object_get(vm, "spec"), "cpus");
        int r = add(use, "cpus", MAX(cpus, 1));

        if (r == 0)
                r = add(use, "memory_bytes", pool_memory_need(vm));
        return r < 0 ? r : add(use, "vms", 1);
}

json_int_t pool_reserved_bytes(const json_t *spec)
{
        return integer(json_object_get(spec, "reservation"), "memory_bytes");
}

json_int_t pool_unused_bytes(const json_t *pools)
{
        json_int_t sum = 0;
        json_t *pool;
        size_t i;

        json_array_foreach ((json_t *)pools, i, pool) {
                const json_t *use = json_object_get(json_object_get(pool, "status"), "used");
                json_int_t reserved = pool_reserved_bytes(json_object_get(pool, "spec"));

                sum += MAX(reserved - integer(use, "memory_bytes"), 0);
        }
        return sum;
}

static bool takes_guests(const json_t *status)
{
        const char *state = json_string_value(json_object_get(status, "state")) ?: "";

        return !strcmp(state, "connected") && !json_is_object(json_object_get(status, "maintenance"));
}

json_int_t pool_room_bytes(const json_t *hosts, const json_t *reserved)
{
        json_int_t sum = 0;
        json_t *host;
        size_t i;

        json_array_foreach ((json_t *)hosts, i, host) {
                const json_t *status = json_object_get(host, "status");
                const char *uid = json_string_value(json_object_get(host, "uid")) ?: "";
                json_int_t coming = integer(json_object_get(reserved, uid), "memory_bytes");

                /* What hosts say of themselves may be anything. */
                if (takes_guests(status))
                        sum += CLAMP(checks_memory_room(status) - coming, 0, (json_int_t)1 << 50);
        }
        return sum;
}

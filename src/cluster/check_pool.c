/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about resource pools (pool.h). They are about starts: a virtual machine that moves takes nothing more than it has. */

#include <errno.h>
#include <string.h>

#include "base/doc.h"
#include "base/text.h"
#include "cluster/check.h"
#include "cluster/pool.h"

static json_int_t integer(const json_t *object, const char *key)
{
        return json_integer_value(json_object_get(object, key));
}

static const json_t *use_of(const json_t *pool)
{
        return json_object_get(check_status(pool), "used");
}

static void limit_broken(struct check *check, const char *pool, const char *key, json_int_t limit,
        json_int_t used, json_int_t need)
{
        char a[16], b[16], c[16];

        if (!strcmp(key, "vms"))
                check_broken(check, pool, NULL, "at most %lld of pool %s may run at once, and %lld do",
                        (long long)limit, pool, (long long)used);
        else if (!strcmp(key, "cpus"))
                check_broken(check, pool, NULL,
                        "pool %s may use %lld virtual processors, %lld are in use, and the virtual machine "
                        "has %lld",
                        pool, (long long)limit, (long long)used, (long long)need);
        else
                check_broken(check, pool, NULL,
                        "pool %s may use %s of memory, %s are in use, and the virtual machine has %s", pool,
                        text_format_size((uint64_t)limit, a), text_format_size((uint64_t)used, b),
                        text_format_size((uint64_t)need, c));
}

/* NULL: it is of none, or of one that is but a label. */
static const json_t *own_pool(const struct check *check)
{
        return check_named(check->input->pools, pool_of(check->input->vm));
}

static void tell_limits(struct check *check, const json_t *pool, const json_t *need)
{
        static const char *const keys[] = {"cpus", "memory_bytes", "vms"};
        const json_t *limits = json_object_get(json_object_get(pool, "spec"), "limits");
        const char *name = check_text(pool, "name");
        bool met = true;

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
                const json_t *limit = json_object_get(limits, keys[i]);
                json_int_t used = integer(use_of(pool), keys[i]);

                if (!json_is_integer(limit) || integer(need, keys[i]) <= json_integer_value(limit) - used)
                        continue;
                met = false;
                limit_broken(check, name, keys[i], json_integer_value(limit), used, integer(need, keys[i]));
        }
        if (met)
                check_met(check, name);
}

void check_pool_limit(struct check *check)
{
        const json_t *pool = check->input->source ? NULL : own_pool(check);
        _cleanup_json_ json_t *need = NULL;

        if (!pool)
                return;
        need = pool_no_use();
        if (!need || pool_add_use(need, check->input->vm) < 0)
                check->result = -ENOMEM;
        else
                tell_limits(check, pool, need);
}

/* What of the need is kept for the VM's own pool and not used yet. */
static json_int_t own_part(const struct check *check, json_int_t need)
{
        const json_t *pool = own_pool(check);
        json_int_t left =
                pool_reserved_bytes(json_object_get(pool, "spec")) - integer(use_of(pool), "memory_bytes");

        return CLAMP(left, 0, need);
}

/* A reservation is of the memory of all hosts together: the rule "memory" looks at the single host. */
void check_pool_reservation(struct check *check)
{
        json_int_t room = check->checks->room_bytes, kept = check->checks->pools_unused_bytes, need, taken;
        char a[16], b[16], c[16], d[16];

        if (check->input->source || !kept)
                return;
        need = pool_memory_need(check->input->vm);
        taken = need - own_part(check, need);
        check_tell(check, NULL, taken > 0 && taken > room - kept,
                "the virtual machine takes %s of memory that no resource pool reserves, and of that the "
                "hosts have %s (%s free, %s reserved)",
                text_format_size((uint64_t)taken, a), text_format_size((uint64_t)MAX(room - kept, 0), b),
                text_format_size((uint64_t)room, c), text_format_size((uint64_t)kept, d));
}

void check_pool_prepare(struct checks *checks)
{
        const struct checks_input *input = &checks->input;

        if (input->source)
                return;
        checks->pools_unused_bytes = pool_unused_bytes(input->pools);
        if (checks->pools_unused_bytes)
                checks->room_bytes = pool_room_bytes(input->hosts, input->reserved);
}

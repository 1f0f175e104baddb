/* SPDX-License-Identifier: Apache-2.0 */

/* Advice: all hosts for a virtual machine, the best first, and why. A thousand hosts are ranked in pieces, between which the loop does all
 * else; what they are ranked by is collected at the beginning. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cluster/placement.h"
#include "manager/api.h"
#include "manager/api_scan.h"
#include "manager/check_facts.h"
#include "manager/cluster_cpu.h"
#include "manager/forecasts.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/operations.h"

#define LIMIT_MAX 100000u
#define AT_ONCE 16 /* hosts between two looks at the clock */

struct advice {
        struct api_scan base;
        json_t *vm; /* as it is to be judged */
        bool moves; /* else it is to be started */
        struct check_facts facts;
        json_t *costs;
        struct placement *placement; /* NULL: not begun */
        json_t *ranking;             /* NULL: not all hosts were judged */
        uint64_t limit;
};

static void advice_free(struct api_scan *base)
{
        struct advice *advice = CONTAINER_OF(base, struct advice, base);

        placement_free(advice->placement);
        check_facts_deinit(&advice->facts);
        json_decref(advice->ranking);
        json_decref(advice->costs);
        json_decref(advice->vm);
        free(advice);
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static int collect(struct advice *advice, struct error **ret_error)
{
        int r = check_facts_load(
                advice->base.manager, advice->vm, advice->moves, NULL, &advice->facts, ret_error);

        return r < 0 ? r : 1;
}

static int find_costs(struct advice *advice, struct error **ret_error)
{
        advice->costs = advice->moves ? forecasts_costs(advice->base.manager, advice->vm) : json_object();
        return advice->costs ? 1 : no_memory(ret_error);
}

static int begin(struct advice *advice, struct error **ret_error)
{
        struct checks_input input = check_facts_input(&advice->facts);

        advice->placement = placement_new(&input, advice->facts.hosts, advice->costs);
        return advice->placement ? 1 : no_memory(ret_error);
}

/* The best `limit` only; how many there were is told. */
static json_t *document(const struct advice *advice)
{
        json_t *ranking = advice->ranking;
        size_t n = json_array_size(ranking);
        bool ok = json_is_true(json_object_get(json_array_get(ranking, 0), "ok"));

        while (json_array_size(ranking) > advice->limit)
                json_array_remove(ranking, json_array_size(ranking) - 1);
        return json_pack("{s:s, s:s, s:s?, s:b, s:O, s:I}", "vm", json_text(advice->vm, "name"), "action",
                advice->moves ? "migrate" : "start", "from",
                advice->moves ? json_text_or_null(json_status(advice->vm), "host") : NULL, "ok", ok,
                "ranking", ranking, "n_hosts", (json_int_t)n);
}

/* Each of these takes some milliseconds with a thousand hosts, or is divided. */
static int step(struct api_scan *base, struct error **ret_error)
{
        struct advice *advice = CONTAINER_OF(base, struct advice, base);
        int r;

        if (!advice->facts.vm)
                return collect(advice, ret_error);
        if (!advice->costs)
                return find_costs(advice, ret_error);
        if (!advice->placement)
                return begin(advice, ret_error);
        r = advice->ranking ? 0 : placement_step(advice->placement, AT_ONCE);
        if (r != 0)
                return r < 0 ? no_memory(ret_error) : 1;
        if (!advice->ranking) {
                advice->ranking = placement_ranking(advice->placement);
                return advice->ranking ? 1 : no_memory(ret_error);
        }
        http_request_reply_json(TAKE_PTR(base->request), 200, document(advice));
        return 0;
}

static int advice_new(struct manager *manager, const json_t *vm, uint64_t limit, struct advice **ret_advice,
        struct error **ret_error)
{
        struct advice *advice = ALLOC(struct advice);
        const char *power = json_text(json_status(vm), "power");
        int r = 0;

        if (!advice)
                return no_memory(ret_error);
        advice->base.step = step;
        advice->base.free = advice_free;
        advice->base.brief = true;
        advice->limit = limit;
        advice->moves = strcmp(power, "stopped") && strcmp(power, "crashed") && strcmp(power, "suspended");
        if (advice->moves)
                advice->vm = json_incref((json_t *)vm);
        else
                r = cluster_cpu_resolve(manager, vm, &advice->vm, ret_error);
        if (r < 0) {
                advice_free(&advice->base);
                return r;
        }
        *ret_advice = advice;
        return 0;
}

void api_vm_advice(struct http_request *request, void *userdata)
{
        const char *wanted = http_request_query(request, "limit");
        _cleanup_json_ json_t *vm = NULL;
        struct advice *advice = NULL;
        uint64_t limit = UINT64_MAX;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, userdata, "vm", &vm, &error);
        if (r >= 0 && wanted && text_parse_u64(wanted, 1, LIMIT_MAX, &limit) < 0)
                r = error_set(&error, ERROR_BAD_REQUEST, NULL, "limit must be 1 to %u", LIMIT_MAX);
        if (r >= 0)
                r = advice_new(userdata, vm, limit, &advice, &error);
        if (r >= 0)
                r = api_scan_begin(&advice->base, request, userdata, &error);
        if (r >= 0)
                return;
        if (advice)
                advice_free(&advice->base);
        http_request_reply_error(request, error);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The queue as people see it: what each task waits for, and all of it at once. */

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_costs.h"
#include "manager/migration_queue.h"
#include "manager/migration_queue_private.h"

#define MESSAGE_MAX 2048

static char *amount(enum queue_kind kind, uint64_t units, char ret[static 24])
{
        char size[16];

        if (kind == QUEUE_MEMORY)
                snprintf(ret, 24, "%s", text_format_size(units, size));
        else if (kind == QUEUE_BANDWIDTH)
                snprintf(ret, 24, "%.4g Gbit/s", (double)units / 1e9);
        else
                snprintf(ret, 24, "%llu", (unsigned long long)units);
        return ret;
}

/* "host host1: 8 of 8" */
static int describe_blocker(struct buf *out, const struct queue_blocker *blocker)
{
        char used[24], limit[24], needs[24], kept[24];
        int r;

        r = buf_printf(out, "%s%s of %s: %s of %s", *buf_string(out) ? ", " : "",
                queue_kind_to_string(blocker->kind), blocker->name,
                amount(blocker->kind, blocker->used, used), amount(blocker->kind, blocker->limit, limit));
        if (r >= 0 && blocker->needs > 1)
                r = buf_printf(out, ", %s needed", amount(blocker->kind, blocker->needs, needs));
        if (r >= 0 && blocker->kept)
                r = buf_printf(out, ", %s kept for what waits before it",
                        amount(blocker->kind, blocker->kept, kept));
        return r;
}

static json_t *message_of(const struct migration_queue *queue, const struct queue_verdict *verdict)
{
        _cleanup_buf_ struct buf text;

        buf_init(&text, MESSAGE_MAX);
        if (queue->drained)
                return json_sprintf("the queue was drained by %s at %s: nothing starts until it is resumed",
                        json_text(queue->drained, "by"), json_text(queue->drained, "since"));
        if (!verdict->n_blockers)
                return json_string("waits until those before it have found a place");
        for (size_t i = 0; i < verdict->n_blockers; i++)
                if (describe_blocker(&text, &verdict->blockers[i]) < 0)
                        break;
        return json_sprintf("waits for %s", buf_string(&text));
}

static json_t *blockers_of(const struct queue_verdict *verdict)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < verdict->n_blockers; i++) {
                const struct queue_blocker *b = &verdict->blockers[i];

                json_array_append_new(list, json_pack("{s:o, s:I, s:I, s:I, s:I}", "resource",
                                                    migration_resource_name(b->kind, b->name), "used",
                                                    (json_int_t)b->used, "kept", (json_int_t)b->kept, "limit",
                                                    (json_int_t)b->limit, "needs", (json_int_t)b->needs));
        }
        return list;
}

json_t *migration_queue_live_task(struct migration_queue *queue, const json_t *doc)
{
        json_t *copy = json_copy((json_t *)doc), *status;
        const struct queue *plan;
        const struct queue_verdict *verdict;

        if (!copy || strcmp(json_text(json_status(doc), "state"), "queued"))
                return copy;
        plan = migration_queue_plan(queue);
        verdict = plan ? queue_verdict(plan, json_text(doc, "uid")) : NULL;
        status = verdict && verdict->position ? json_copy(json_status(doc)) : NULL;
        if (!status)
                return copy;
        if (json_object_set_new(status, "queue",
                    json_pack("{s:s, s:I, s:I, s:o, s:o}", "queued", json_text(status, "created"), "position",
                            (json_int_t)verdict->position, "length", (json_int_t)queue->n_waiting,
                            "waits_for", blockers_of(verdict), "message", message_of(queue, verdict))) < 0 ||
                json_object_set_new(status, "progress",
                        json_pack("{s:n, s:o}", "percent", "message", message_of(queue, verdict))) < 0 ||
                json_object_set_new(copy, "status", status) < 0) {
                json_decref(copy);
                return NULL;
        }
        return copy;
}

struct listing {
        const struct queue *plan;
        json_t *running;
        json_t **waiting; /* by position - 1 */
        size_t n_waiting;
        struct migration_queue *queue;
};

static json_t *line_of(const struct listing *l, const struct task *task)
{
        char queued[32];

        return json_pack("{s:s, s:s, s:s, s:s}", "task", task_name(task), "object", task_object(task),
                "priority", task_priority(task), "queued",
                text_format_time(task_queued_unix_ms(task), queued));
}

static void list_one(void *userdata, const struct task *task)
{
        struct listing *l = userdata;
        const struct queue_verdict *verdict =
                migration_is_queued(task) ? queue_verdict(l->plan, task_uid(task)) : NULL;
        json_t *line = verdict ? line_of(l, task) : NULL;

        if (!line)
                return;
        if (verdict->position && verdict->position <= l->n_waiting) {
                json_object_set_new(line, "position", json_integer((json_int_t)verdict->position));
                json_object_set_new(line, "message", message_of(l->queue, verdict));
                json_object_set_new(line, "waits_for", blockers_of(verdict));
                l->waiting[verdict->position - 1] = line;
        } else
                json_array_append_new(l->running, line);
}

static json_t *resources_of(const struct queue *plan)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < queue_n_resources(plan); i++) {
                struct queue_usage usage = queue_usage(plan, i);

                json_array_append_new(
                        list, json_pack("{s:o, s:I, s:I}", "resource",
                                      migration_resource_name(usage.kind, usage.name), "used",
                                      (json_int_t)usage.used, "limit", (json_int_t)usage.limit));
        }
        return list;
}

json_t *migration_queue_document(struct migration_queue *queue)
{
        const struct queue *plan = migration_queue_plan(queue); /* before n_waiting is looked at */
        struct listing l = {.plan = plan, .queue = queue, .n_waiting = queue->n_waiting};
        _cleanup_json_ json_t *waiting = json_array();
        _cleanup_free_ json_t **places = alloc_array(queue->n_waiting + 1, sizeof(json_t *));

        l.running = json_array();
        l.waiting = places;
        if (!l.plan || !places || !waiting || !l.running) {
                json_decref(l.running);
                return NULL;
        }
        task_each(queue->manager->tasks, list_one, &l);
        for (size_t i = 0; i < l.n_waiting; i++)
                if (places[i])
                        json_array_append_new(waiting, places[i]);
        return json_pack("{s:s, s:s, s:s, s:O?, s:I, s:o, s:O, s:o}", "kind", QUEUE_DOCUMENT_KIND, "name",
                QUEUE_DOCUMENT_KIND, "state", queue->drained ? "drained" : "open", "drained", queue->drained,
                "length", (json_int_t)json_array_size(waiting), "running", l.running, "waiting", waiting,
                "resources", resources_of(l.plan));
}

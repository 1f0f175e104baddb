/* SPDX-License-Identifier: Apache-2.0 */

/* How much processor time a manager that begins to lead needs to look through a store full of migrations that have ended: build/tests/unit/manager/bench_takeover
 * [N [STORE]] prints that until the unfinished tasks are found, as it is done and with each document parsed, and that of a part of the
 * history as forecasts.c reads it. Not a test: it judges nothing. */

#include "fixture.h"

#include <stdlib.h>
#include <time.h>

#include "base/doc.h"
#include "manager/task.h"
#include "manager/task_document.h"

#define BATCH 100
#define HISTORY_AT_ONCE 10

static const struct task_step steps[] = {{.name = "check"}};
static const struct task_kind kind = {
        .action = "vm.migrate", .steps = steps, .n_steps = 1, .timeout_ms = 60000};
static const struct task_kind *const kinds[] = {&kind, NULL};

static json_t *text_of(size_t n)
{
        char *text = calloc(1, n + 1);
        json_t *json;

        assert_non_null(text);
        memset(text, 'Q', n);
        json = json_string(text);
        free(text);
        return json;
}

/* Its parts as large as those of a migration: specification and signature, what the source measured, the result made of it. */
static json_t *migration(size_t i)
{
        char uid[64], name[32];
        json_t *measured = json_array(), *doc;

        snprintf(uid, sizeof(uid), "00000000-0000-4000-8000-%012zu", i);
        snprintf(name, sizeof(name), "t%010zu", i);
        for (int k = 0; k < 80; k++)
                json_array_append_new(measured,
                        json_pack("{s:s, s:f, s:I, s:I}", "name", "pass", "ms", 12.5 * k, "bytes_ram",
                                (json_int_t)k << 30, "bytes_wire", (json_int_t)k << 20));
        doc = json_pack("{s:s, s:s, s:s, s:{s:s, s:s, s:s, s:{}}, s:{s:s, s:s, s:{s:O, s:o, s:s, s:s}}, "
                        "s:{s:i, s:{s:s, s:o, "
                        "s:{s:O, s:s}}}}",
                "kind", "task", "name", name, "uid", uid, "spec", "action", "vm.migrate", "object", "vm/web1",
                "priority", "normal", "input", "status", "state", "succeeded", "finished",
                "2026-01-01T00:00:00Z", "result", "phases", measured, "handshake", text_of(4000), "from",
                "host1", "to", "host2", "internal", "step", 0, "data", "vm_uid", uid, "signed", text_of(4000),
                "outcome", "phases", measured, "phase", "done");
        assert_non_null(doc);
        json_decref(measured);
        return doc;
}

static void fill(struct store *store, size_t n)
{
        for (size_t i = 0; i < n; i += BATCH) {
                _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

                for (size_t k = i; k < MIN(i + BATCH, n); k++)
                        store_batch_put(&batch, STORE_ANY, migration(k));
                assert_int_equal(store_commit(store, &batch, NULL, NULL), 0);
        }
}

/* Of the processor, so that other programs change it little. */
static double now_ms(void)
{
        struct timespec spent;

        assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent), 0);
        return (double)spent.tv_sec * 1e3 + (double)spent.tv_nsec / 1e6;
}

static bool is_unfinished(void *userdata, const json_t *doc)
{
        return task_document_unfinished(doc);
}

static void list_all(struct store *store, const struct store_query *query, const char *what)
{
        _cleanup_json_ json_t *docs = NULL;
        double began = now_ms();

        assert_int_equal(store_list(store, query, &docs, NULL, NULL), 0);
        printf("%-60s %8.0f ms\n", what, now_ms() - began);
}

static void load(struct store *store)
{
        struct task_engine *engine = NULL;
        double began = now_ms();

        assert_int_equal(
                task_engine_new(
                        &(struct task_engine_config){.store = store, .clock = &clock_system, .kinds = kinds},
                        &engine, NULL),
                0);
        printf("%-60s %8.0f ms\n", "unfinished tasks, as they are found", now_ms() - began);
        task_engine_free(engine);
}

int main(int argc, char **argv)
{
        size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
        struct store *store = NULL;
        struct folder folder;
        char *text;
        json_t *one = migration(0);

        folder_make(&folder);
        if (argc > 2)
                assert_int_equal(store_open(argv[2], &clock_system, &store, NULL), 0);
        else
                store = store_open_in(&folder);
        text = doc_to_text(one);
        printf("%zu migrations of %zu bytes\n", n, strlen(text));
        fill(store, n);
        for (int i = 0; i < 3; i++) {
                load(store);
                list_all(store,
                        &(struct store_query){
                                .kind = "task", .limit = STORE_LIMIT_NONE, .match = is_unfinished},
                        "unfinished tasks, each document parsed");
                list_all(store,
                        &(struct store_query){.kind = "task",
                                .descending = true,
                                .limit = HISTORY_AT_ONCE,
                                .text = "\"action\":\"vm.migrate\""},
                        "history, one part of it");
                list_all(store, &(struct store_query){.kind = "task", .descending = true, .limit = 2000},
                        "history, 2,000 at once");
        }
        free(text);
        json_decref(one);
        store_close(store);
        folder_remove(&folder);
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/task.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/report.h"

#define POLL_MS 250
#define SECOND_INTERRUPT_MS 2000
#define SUBMIT_AGAIN_MAX_MS 60000
/* A manager that restarts or fails over is waited for; the task goes on without it. */
#define MANAGER_GONE_MAX_MS (10 * 60 * 1000)

struct watch {
        struct cli *cli;
        struct progress progress;
        json_t *task; /* newest state */
        char *path;
        const char *name; /* in `path` */
        uint64_t started_ms;
        uint64_t gone_since_ms;  /* manager not reachable; 0: it is */
        sig_atomic_t interrupts; /* handled so far */
};

static const char *state_of(const json_t *task)
{
        return json_string_value(output_lookup(task, "status.state")) ?: "";
}

static bool has_ended(const json_t *task)
{
        const char *state = state_of(task);

        return !strcmp(state, "succeeded") || !strcmp(state, "failed") || !strcmp(state, "cancelled");
}

/* What says nothing of the task: the manager is away, or short of something. */
static bool is_passing(enum error_code code)
{
        return code == ERROR_UNREACHABLE || code == ERROR_NOT_LEADING || code == ERROR_TIMED_OUT ||
               code == ERROR_NO_MEMORY || code == ERROR_NO_SPACE || code == ERROR_RATE_LIMITED ||
               code == ERROR_INTERNAL || code == ERROR_PROTOCOL; /* a proxy before a manager that restarts */
}

/* Asks for the newest state. An error that means "the manager is away just now" is 0 for MANAGER_GONE_MAX_MS. */
static int refresh(struct watch *w, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t now_ms = clock_now_ms(w->cli->clock);
        json_t *task = NULL;

        if (api_call(w->cli->api, "GET", w->path, NULL, &task, NULL, &error) == 0) {
                json_decref(w->task);
                w->task = task;
                w->gone_since_ms = 0;
                return 0;
        }
        if (error && error->code == ERROR_CANCELLED)
                return 0;
        if (!error || !is_passing(error->code))
                return error_propagate(ret_error, TAKE_PTR(error));
        if (!w->gone_since_ms) {
                w->gone_since_ms = now_ms ?: 1;
                progress_note(
                        &w->progress, "the manager cannot be reached; the task goes on, waiting for it");
        }
        if (now_ms - w->gone_since_ms < MANAGER_GONE_MAX_MS)
                return 0;
        return error_propagate(ret_error, TAKE_PTR(error));
}

/* True when the user has let go of the task. A second Ctrl-C asks the manager to cancel it instead. */
static bool detach(struct watch *w)
{
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *cancel = NULL;

        w->interrupts = interrupt_count;
        progress_end(&w->progress);
        fprintf(w->cli->err,
                "drover: the task goes on; follow it with 'drover task watch %s'\n"
                "drover: press Ctrl-C again to cancel it\n",
                w->name);
        if (!interrupt_wait(w->interrupts, SECOND_INTERRUPT_MS)) {
                w->cli->status = EXIT_STATUS_DETACHED;
                return true;
        }
        w->interrupts = interrupt_count;
        cancel = alloc_printf("%s/cancel", w->path);
        if (cancel && api_call(w->cli->api, "POST", cancel, NULL, NULL, NULL, &error) == 0)
                progress_note(&w->progress, "cancelling");
        else
                progress_note(&w->progress, error_message(error));
        return false;
}

static int watch_to_end(struct watch *w, struct error **ret_error)
{
        struct cli *cli = w->cli;
        int r;

        while (!has_ended(w->task)) {
                uint64_t waited_ms = clock_now_ms(cli->clock) - w->started_ms;
                char limit[24];

                progress_show(&w->progress, w->task, waited_ms);
                if (cli->wait_limit_ms && waited_ms >= cli->wait_limit_ms)
                        return error_set(ret_error, ERROR_TIMED_OUT, "follow it with 'drover task watch'",
                                "task %s has not ended within %s; it goes on", w->name,
                                text_format_duration_ms(cli->wait_limit_ms, limit));
                if (interrupt_wait(w->interrupts, POLL_MS) && detach(w))
                        return 0;
                r = refresh(w, ret_error);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int print_end(struct cli *cli, const json_t *task, struct error **ret_error)
{
        const json_t *problem = output_lookup(task, "status.error"),
                     *result = output_lookup(task, "status.result");
        struct error *error = NULL;
        int r;

        if (cli->format != OUTPUT_TABLE) {
                r = output_document(cli, task, ret_error);
                if (r < 0)
                        return r;
        }
        if (!strcmp(state_of(task), "succeeded"))
                return cli->format == OUTPUT_TABLE ? report_task(cli, task, ret_error) : 0;
        if (cli->format == OUTPUT_TABLE && report_has_moves(result)) {
                r = report_moves(cli, result, ret_error);
                if (r < 0)
                        return r;
        }
        if (json_is_object(problem)) {
                error = error_from_json(problem);
                error_about(&error, "%s", json_string_value(output_lookup(task, "spec.object")) ?: "task");
                return error_propagate(ret_error, error);
        }
        return error_set(ret_error,
                !strcmp(state_of(task), "cancelled") ? ERROR_CANCELLED : ERROR_PEER_FAILED, NULL,
                "task %s ended as %s", json_string_value(json_object_get(task, "name")) ?: "?",
                state_of(task));
}

int task_follow(struct cli *cli, const json_t *task, struct error **ret_error)
{
        struct watch w = {.cli = cli, .started_ms = clock_now_ms(cli->clock)};
        const char *name = json_string_value(json_object_get(task, "name"));
        int r = 0;

        if (!name || !text_is_name(name))
                return error_set(ret_error, ERROR_PROTOCOL, "see whether that is drover-manager",
                        "the manager's answer names no task");
        w.path = alloc_printf("/tasks/%s", name);
        if (!w.path)
                return error_from_errno(ret_error, ENOMEM, "cannot follow the task");
        w.name = w.path + strlen("/tasks/");
        w.task = json_incref((json_t *)task);
        w.interrupts = interrupt_count;
        progress_init(&w.progress, cli);
        interrupt_install();
        api_set_interrupts(cli->api, &interrupt_count);
        r = watch_to_end(&w, ret_error);
        progress_end(&w.progress);
        if (r == 0 && has_ended(w.task))
                r = print_end(cli, w.task, ret_error);
        json_decref(w.task);
        free(w.path);
        return r;
}

/* The answer may be lost when the manager is restarted; the key makes the repeat harmless: it gets the same task. */
static int submit(struct cli *cli, const char *method, const char *path, const json_t *body,
        json_t **ret_answer, struct error **ret_error)
{
        uint64_t until_ms = clock_now_ms(cli->clock) + SUBMIT_AGAIN_MAX_MS;
        char key[UUID_STRING_SIZE];
        bool lost = false;
        int r;

        if (text_uuid_new(key) < 0 || api_set_key(cli->api, key) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot make the request");
        for (;;) {
                _cleanup_error_ struct error *error = NULL;

                r = api_call(cli->api, method, path, body, ret_answer, NULL, &error);
                lost = lost || api_answer_lost(cli->api);
                if (r == 0 || !lost || !error || !is_passing(error->code) ||
                        clock_now_ms(cli->clock) >= until_ms || interrupt_wait(interrupt_count, POLL_MS)) {
                        if (r < 0)
                                r = error_propagate(ret_error, TAKE_PTR(error));
                        break;
                }
        }
        (void)api_set_key(cli->api, NULL);
        return r;
}

int task_request(
        struct cli *cli, const char *method, const char *path, json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *request = body, *answer = NULL;
        int r = submit(cli, method, path, request, &answer, ret_error);

        if (r < 0)
                return r;
        if (strcmp(json_string_value(json_object_get(answer, "kind")) ?: "", "task"))
                return json_is_null(answer) ? 0 : output_document(cli, answer, ret_error);
        if (!cli->no_wait)
                return task_follow(cli, answer, ret_error);
        if (cli->format != OUTPUT_TABLE)
                return output_document(cli, answer, ret_error);
        output_text(cli->out, json_string_value(json_object_get(answer, "name")) ?: "", false);
        fputc('\n', cli->out);
        return 0;
}

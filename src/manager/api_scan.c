/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/api_scan.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "io/http_server.h"
#include "io/loop.h"
#include "manager/api.h"
#include "manager/manager.h"

#define SCANS_MAX 8                      /* at work at once */
#define SCANS_PER_CALLER (SCANS_MAX / 2) /* nobody alone takes them from all others */
#define SLOW_MAX 56 /* beside them, of those whose readers take little: these cost memory, but little work */
#define BRIEF_MAX 64
#define BRIEF_PER_CALLER (BRIEF_MAX / 2)
#define PATIENCE_MS 1000 /* so long a reader that is too slow keeps its place */
#define SLICE_MS 4
#define BETWEEN_MS 2

void api_scans_init(struct api_scans *scans)
{
        scans->n = scans->n_slow = scans->n_brief = 0;
        scans->slow_turn_ms = 0;
        list_init(&scans->scans);
}

void api_scan_end(struct api_scan *scan)
{
        list_remove(&scan->link);
        scan->manager->scans.n--;
        scan->manager->scans.n_slow -= scan->slow;
        scan->manager->scans.n_brief -= scan->brief;
        loop_source_free(scan->timer);
        scan->free(scan);
}

void api_scan_fail(struct api_scan *scan, struct error *error)
{
        if (scan->request)
                http_request_reply_error(scan->request, error);
        else {
                /* In the middle of an answer, which can only break off. */
                if (error)
                        log_warning("an answer to %s is broken off: %s", scan->person, error_message(error));
                error_free(error);
        }
        api_scan_end(scan);
}

void api_scans_deinit(struct api_scans *scans)
{
        struct api_scan *scan, *spare;

        list_for_each_safe (scan, spare, &scans->scans, link) {
                struct error *error = NULL;

                error_set(&error, ERROR_CANCELLED, "Try again.", "the manager ends");
                api_scan_fail(scan, error);
        }
}

static bool has_room(const struct api_scans *scans)
{
        return scans->n - scans->n_brief - scans->n_slow < SCANS_MAX;
}

/* Readers who are slower than the log is read share one place: they cannot keep others out, and their work together is what one has. */
static void lose_place_if_slow(struct api_scan *scan)
{
        uint64_t now_ms = clock_now_ms(scan->manager->clock);

        if (scan->slow)
                return;
        if (!scan->reader_full)
                scan->full_since_ms = 0;
        else if (!scan->full_since_ms)
                scan->full_since_ms = now_ms;
        else if (now_ms - scan->full_since_ms >= PATIENCE_MS) {
                scan->slow = true;
                scan->manager->scans.n_slow++;
        }
}

/* Slow ones take turns: each has its next one behind those that have asked before. */
static uint64_t next_wait_ms(struct api_scan *scan)
{
        struct api_scans *scans = &scan->manager->scans;
        uint64_t wait_ms = MAX(scan->wait_ms, (uint64_t)BETWEEN_MS), now_ms, at_ms;

        if (!scan->slow)
                return wait_ms;
        now_ms = clock_now_ms(scan->manager->clock);
        at_ms = MAX(now_ms + wait_ms, scans->slow_turn_ms);
        scans->slow_turn_ms = at_ms + SLICE_MS + BETWEEN_MS;
        return at_ms - now_ms;
}

static void on_timer(void *userdata)
{
        struct api_scan *scan = userdata;
        const struct clock *clock = scan->manager->clock;
        uint64_t until_ms = clock_now_ms(clock) + SLICE_MS;
        struct error *error = NULL;
        int r = 1;

        scan->wait_ms = 0;
        scan->reader_full = false;
        if (scan->aborted)
                r = error_set(&error, ERROR_CANCELLED, NULL, "the client is gone");
        while (r > 0 && !scan->wait_ms && clock_now_ms(clock) < until_ms)
                r = scan->step(scan, &error);
        if (r < 0)
                api_scan_fail(scan, error);
        else if (r == 0)
                api_scan_end(scan);
        else {
                lose_place_if_slow(scan);
                loop_source_rearm(scan->timer, next_wait_ms(scan));
        }
}

static void on_abort(void *userdata)
{
        struct api_scan *scan = userdata;

        scan->aborted = true;
}

static size_t n_of(const struct api_scans *scans, const char *person, bool brief)
{
        struct api_scan *scan;
        size_t n = 0;

        list_for_each (scan, &scans->scans, link)
                n += scan->brief == brief && !strcmp(scan->person, person);
        return n;
}

static bool may_begin(const struct api_scans *scans, const struct api_scan *scan, const char *person)
{
        size_t n_mine = n_of(scans, person, scan->brief);

        if (scan->brief)
                return scans->n_brief < BRIEF_MAX && n_mine < BRIEF_PER_CALLER;
        return has_room(scans) && (!scan->streams || scans->n_slow < SLOW_MAX) && n_mine < SCANS_PER_CALLER;
}

int api_scan_begin(struct api_scan *scan, struct http_request *request, struct manager *manager,
        struct error **ret_error)
{
        const char *person = auth_caller_person(api_caller(request));
        struct api_scans *scans = &manager->scans;

        if (!may_begin(scans, scan, person))
                return error_set(ret_error, ERROR_RATE_LIMITED, "Try again when they have ended.",
                        "%zu requests of this kind are under way already",
                        scan->brief ? scans->n_brief : scans->n - scans->n_brief);
        if (loop_add_timer(manager->loop, 0, on_timer, scan, &scan->timer) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        scan->manager = manager;
        scan->request = request;
        snprintf(scan->person, sizeof(scan->person), "%s", person);
        list_append(&scans->scans, &scan->link);
        scans->n++;
        scans->n_brief += scan->brief;
        http_request_on_abort(request, on_abort, scan);
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/api_scan.h"

#include <errno.h>
#include <string.h>

#include "io/http_server.h"
#include "io/loop.h"
#include "manager/api.h"
#include "manager/manager.h"

#define SCANS_MAX 8                      /* at work at once */
#define SCANS_PER_CALLER (SCANS_MAX / 2) /* nobody alone takes them from all others */
#define SCANS_OPEN_MAX 64 /* with those whose readers take little: these cost memory, but no work */
#define BRIEF_MAX 64
#define BRIEF_PER_CALLER (BRIEF_MAX / 2)
#define PATIENCE_MS 1000 /* so long a reader that takes nothing keeps its place */
#define PARKED_MS 50
#define SLICE_MS 4
#define BETWEEN_MS 2

void api_scans_init(struct api_scans *scans)
{
        scans->n = scans->n_parked = scans->n_brief = 0;
        list_init(&scans->scans);
}

void api_scan_end(struct api_scan *scan)
{
        list_remove(&scan->link);
        scan->manager->scans.n--;
        scan->manager->scans.n_parked -= scan->parked;
        scan->manager->scans.n_brief -= scan->brief;
        loop_source_free(scan->timer);
        scan->free(scan);
}

void api_scan_fail(struct api_scan *scan, struct error *error)
{
        if (scan->request)
                http_request_reply_error(scan->request, error);
        else
                error_free(error);
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
        return scans->n - scans->n_brief - scans->n_parked < SCANS_MAX;
}

/* One whose reader takes nothing gives its place up until it does: slow readers alone cannot keep all others out. */
static void keep_or_lose_place(struct api_scan *scan)
{
        uint64_t now_ms = clock_now_ms(scan->manager->clock);

        if (!scan->reader_full)
                scan->full_since_ms = 0;
        else if (!scan->full_since_ms)
                scan->full_since_ms = now_ms;
        else if (now_ms - scan->full_since_ms >= PATIENCE_MS) {
                scan->parked = true;
                scan->manager->scans.n_parked++;
        }
}

static bool take_place(struct api_scan *scan)
{
        if (!scan->parked)
                return true;
        if (!has_room(&scan->manager->scans))
                return false;
        scan->parked = false;
        scan->manager->scans.n_parked--;
        return true;
}

static void on_timer(void *userdata)
{
        struct api_scan *scan = userdata;
        const struct clock *clock = scan->manager->clock;
        uint64_t until_ms = clock_now_ms(clock) + SLICE_MS;
        struct error *error = NULL;
        int r = 1;

        if (!scan->aborted && !take_place(scan)) {
                loop_source_rearm(scan->timer, PARKED_MS);
                return;
        }
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
                keep_or_lose_place(scan);
                loop_source_rearm(scan->timer, MAX(scan->wait_ms, (uint64_t)BETWEEN_MS));
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
        return has_room(scans) && scans->n - scans->n_brief < SCANS_OPEN_MAX && n_mine < SCANS_PER_CALLER;
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

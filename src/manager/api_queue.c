/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/doc.h"
#include "manager/api.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_queue.h"

void api_queue_get(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;

        http_request_reply_json(request, 200, migration_queue_document(manager->queue));
}

static void set_drained(struct http_request *request, struct manager *manager, bool drained)
{
        static const char *const no_keys[] = {NULL};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *change = NULL;
        _cleanup_free_ char *why = NULL;
        struct error *error = NULL;
        json_t *body = NULL;
        int r;

        r = api_body(request, no_keys, &body, &error);
        if (r >= 0)
                r = api_reason(request, &why, &error);
        if (r >= 0 && migration_queue_set_drained(
                              manager->queue, drained, api_caller(request)->name, why, &batch, &change) < 0)
                r = error_set(&error, ERROR_NO_MEMORY, NULL, "out of memory");
        if (r >= 0)
                r = api_commit(request, manager, &batch, drained ? "queue.drain" : "queue.resume", "queue",
                        NULL, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        migration_queue_take_drained(manager->queue, change);
        manager_wake(manager);
        http_request_reply_json(request, 200, migration_queue_document(manager->queue));
}

void api_queue_drain(struct http_request *request, void *userdata)
{
        set_drained(request, userdata, true);
}

void api_queue_resume(struct http_request *request, void *userdata)
{
        set_drained(request, userdata, false);
}

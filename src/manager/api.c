/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/api.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/pki.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/manager.h"

#define LIMIT_DEFAULT 500
#define LIMIT_MAX 1000
#define KEY_MAX 128
#define REASON_MAX 512
#define PUBLIC_BODY_MAX_BYTES (64u << 10) /* an enrolment: a token and a certificate request */

#define V1 "/api/v1"
static const struct http_route routes[] = {
        {"GET", V1 "/hosts", api_host_list},
        {"POST", V1 "/hosts", api_host_create},
        {"GET", V1 "/hosts/{name}", api_host_get},
        {"PUT", V1 "/hosts/{name}", api_host_update},
        {"DELETE", V1 "/hosts/{name}", api_host_delete},
        {"POST", V1 "/hosts/{name}/enrol-token", api_host_enrol_token},
        {"POST", V1 "/hosts/{name}/confirm-down", api_host_confirm_down},
        {"POST", V1 "/hosts/{name}/maintenance", api_host_maintenance},
        {"POST", V1 "/enrol", api_enrol},
        {"GET", V1 "/vms", api_vm_list},
        {"POST", V1 "/vms", api_vm_create},
        {"GET", V1 "/vms/{name}", api_vm_get},
        {"DELETE", V1 "/vms/{name}", api_vm_delete},
        {"POST", V1 "/vms/{name}/start", api_vm_start},
        {"POST", V1 "/vms/{name}/stop", api_vm_stop},
        {"POST", V1 "/vms/{name}/pause", api_vm_pause},
        {"POST", V1 "/vms/{name}/resume", api_vm_resume},
        {"POST", V1 "/vms/{name}/migrate", api_vm_migrate},
        {"GET", V1 "/vms/{name}/advice", api_vm_advice},
        {"GET", V1 "/vms/{name}/console", api_vm_console},
        {"POST", V1 "/vms/{name}/forecast", api_vm_forecast},
        {"GET", V1 "/forecast-score", api_forecast_score},
        {"GET", V1 "/tasks", api_task_list},
        {"GET", V1 "/tasks/{name}", api_task_get},
        {"POST", V1 "/tasks/{name}/cancel", api_task_cancel},
        {"GET", V1 "/queue", api_queue_get},
        {"POST", V1 "/queue/drain", api_queue_drain},
        {"POST", V1 "/queue/resume", api_queue_resume},
        {"GET", V1 "/datastores", api_datastore_list},
        {"POST", V1 "/datastores", api_datastore_create},
        {"GET", V1 "/datastores/{name}", api_datastore_get},
        {"PUT", V1 "/datastores/{name}", api_datastore_update},
        {"DELETE", V1 "/datastores/{name}", api_datastore_delete},
        {"GET", V1 "/switches", api_switch_list},
        {"POST", V1 "/switches", api_switch_create},
        {"GET", V1 "/switches/{name}", api_switch_get},
        {"PUT", V1 "/switches/{name}", api_switch_update},
        {"DELETE", V1 "/switches/{name}", api_switch_delete},
        {"POST", V1 "/switches/{name}/upgrade", api_switch_upgrade},
        {"GET", V1 "/port-groups", api_port_group_list},
        {"POST", V1 "/port-groups", api_port_group_create},
        {"GET", V1 "/port-groups/{name}", api_port_group_get},
        {"PUT", V1 "/port-groups/{name}", api_port_group_update},
        {"DELETE", V1 "/port-groups/{name}", api_port_group_delete},
        {"GET", V1 "/affinity-rules", api_affinity_rule_list},
        {"POST", V1 "/affinity-rules", api_affinity_rule_create},
        {"GET", V1 "/affinity-rules/{name}", api_affinity_rule_get},
        {"PUT", V1 "/affinity-rules/{name}", api_affinity_rule_update},
        {"DELETE", V1 "/affinity-rules/{name}", api_affinity_rule_delete},
        {"GET", V1 "/schedules", api_schedule_list},
        {"POST", V1 "/schedules", api_schedule_create},
        {"GET", V1 "/schedules/{name}", api_schedule_get},
        {"PUT", V1 "/schedules/{name}", api_schedule_update},
        {"DELETE", V1 "/schedules/{name}", api_schedule_delete},
        {"GET", V1 "/schedules/{name}/next", api_schedule_next},
        {"POST", V1 "/schedules/{name}/run", api_schedule_run},
        {"POST", V1 "/schedules/{name}/pause", api_schedule_pause},
        {"POST", V1 "/schedules/{name}/resume", api_schedule_resume},
        {"GET", V1 "/cluster/cpu", api_cluster_cpu_get},
        {"PUT", V1 "/cluster/cpu", api_cluster_cpu_update},
        {"GET", V1 "/tokens", api_token_list},
        {"POST", V1 "/tokens", api_token_create},
        {"GET", V1 "/tokens/{name}", api_token_get},
        {"DELETE", V1 "/tokens/{name}", api_token_delete},
        {"GET", V1 "/whoami", api_whoami},
        {"GET", V1 "/ca", api_ca},
        {"GET", V1 "/audit", api_audit_list},
        {"GET", V1 "/audit/verify", api_audit_verify},
        {"GET", V1 "/alerts", api_alert_list},
        {"GET", V1 "/events", api_events},
        {"GET", "/api/openapi.json", api_openapi},
        {"GET", "/healthz", api_healthz},
        {"GET", "/readyz", api_readyz},
        {"GET", "/version", api_version},
        {"GET", "/metrics", api_metrics},
};

/* Open to callers without a token: nothing here tells or changes anything that needs one. */
static const char *const public_paths[] = {
        V1 "/enrol", V1 "/ca", "/api/openapi.json", "/healthz", "/readyz", "/version"};

const struct http_route *api_routes(size_t *ret_n)
{
        *ret_n = ARRAY_SIZE(routes);
        return routes;
}

static bool is_public(const char *path)
{
        for (size_t i = 0; i < ARRAY_SIZE(public_paths); i++)
                if (!strcmp(public_paths[i], path))
                        return true;
        return false;
}

static bool only_reads(const struct http_request *request)
{
        const char *method = http_request_method(request);

        return !strcmp(method, "GET") || !strcmp(method, "HEAD");
}

static void audit_denied(
        struct http_request *request, struct manager *manager, const struct auth_caller *caller)
{
        _cleanup_json_ json_t *path = json_string(http_request_path(request)); /* NULL: no UTF-8 */
        _cleanup_error_ struct error *error = NULL;

        if (audit_write(manager->store, manager->clock,
                    &(struct audit_entry){.who = caller->name,
                            .from = http_request_peer_address(request),
                            .action = http_request_method(request),
                            .object = path ? http_request_path(request) : "a path that is no UTF-8",
                            .result = "denied"},
                    &error) < 0)
                log_warning("cannot write to the audit log: %s", error_message(error));
}

bool api_admit(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        struct auth_caller *caller;
        struct error *error = NULL;

        if (is_public(http_request_path(request))) {
                http_request_limit_body(request, PUBLIC_BODY_MAX_BYTES);
                return true;
        }
        caller = ALLOC(struct auth_caller);
        if (!caller) {
                http_request_reply_error(request, NULL);
                return false;
        }
        if (auth_check(manager->store, manager->clock, http_request_header(request, "Authorization"), caller,
                    &error) < 0) {
                free(caller);
                http_request_add_header(request, "WWW-Authenticate", "Bearer realm=\"drover\"");
                http_request_reply_error(request, error);
                return false;
        }
        if (!caller->admin && !only_reads(request)) {
                audit_denied(request, manager, caller);
                error_set(&error, ERROR_DENIED, "Use a token with the role admin.",
                        "the token %s may only read", caller->name);
                free(caller);
                http_request_reply_error(request, error);
                return false;
        }
        http_request_set_context(request, caller, free);
        return true;
}

const struct auth_caller *api_caller(const struct http_request *request)
{
        return http_request_context(request);
}

static int page_of(const struct http_request *request, const struct api_listing *listing,
        struct store_query *ret_query, struct error **ret_error)
{
        const char *limit = http_request_query(request, "limit"),
                   *order = http_request_query(request, "order");
        uint64_t n = LIMIT_DEFAULT;

        if (limit && text_parse_u64(limit, 1, LIMIT_MAX, &n) < 0)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "limit must be 1 to %d", LIMIT_MAX);
        if (order && strcmp(order, "asc") && strcmp(order, "desc"))
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL, "order must be asc or desc");
        *ret_query = (struct store_query){
                .kind = listing->kind,
                .after = http_request_query(request, "continue"),
                .descending = order ? !strcmp(order, "desc") : listing->newest_first,
                .limit = n,
                .match = listing->match,
                .userdata = listing->userdata,
        };
        return 0;
}

static int show_items(struct manager *manager, const struct api_listing *listing, json_t *docs)
{
        json_t *doc;
        size_t i;

        json_array_foreach (docs, i, doc) {
                json_t *shown = listing->live ? listing->live(manager, doc) : json_incref(doc);

                if (!shown)
                        return -ENOMEM;
                json_object_del(shown, "internal");
                if (json_array_set_new(docs, i, shown) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int make_list(struct http_request *request, struct manager *manager, const struct api_listing *listing,
        json_t **ret_list, struct error **ret_error)
{
        _cleanup_free_ char *next = NULL;
        _cleanup_json_ json_t *docs = NULL;
        struct store_query query;
        uint64_t revision = 0;
        bool more = false;
        int r;

        r = page_of(request, listing, &query, ret_error);
        if (r >= 0)
                r = store_revision(manager->store, &revision, ret_error);
        if (r >= 0)
                r = store_list(manager->store, &query, &docs, &more, ret_error);
        if (r < 0)
                return r;
        if (more)
                next = alloc_strdup(json_text(json_array_get(docs, json_array_size(docs) - 1), "name"));
        if (show_items(manager, listing, docs) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *ret_list = json_pack(
                "{s:O, s:s?, s:I}", "items", docs, "continue", next, "revision", (json_int_t)revision);
        return *ret_list ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

void api_reply_list(struct http_request *request, struct manager *manager, const struct api_listing *listing)
{
        struct error *error = NULL;
        json_t *list = NULL;

        if (make_list(request, manager, listing, &list, &error) < 0)
                http_request_reply_error(request, error);
        else
                http_request_reply_json(request, 200, list);
}

int api_check_if_match(struct http_request *request, const json_t *doc, struct error **ret_error)
{
        const char *wanted = http_request_header(request, "If-Match");
        char etag[32];

        if (!wanted || !strcmp(wanted, "*"))
                return 0;
        snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)json_revision(doc));
        if (!strcmp(wanted, etag))
                return 0;
        error_set(ret_error, ERROR_REVISION_MISMATCH, "Read the object again and repeat the change.",
                "the object has revision %s now, not %.40s", etag, wanted);
        return -ESTALE;
}

int api_get_object(struct http_request *request, struct manager *manager, const char *kind, json_t **ret_doc,
        struct error **ret_error)
{
        _cleanup_json_ json_t *doc = NULL;
        int r;

        r = store_get(manager->store, kind, http_request_param(request, "name"), &doc, ret_error);
        if (r >= 0 && !only_reads(request))
                r = api_check_if_match(request, doc, ret_error);
        if (r < 0)
                return r;
        *ret_doc = TAKE_PTR(doc);
        return 0;
}

void api_reply_object(struct http_request *request, int status, json_t *doc)
{
        char etag[32];

        if (doc) {
                snprintf(etag, sizeof(etag), "\"%llu\"", (unsigned long long)json_revision(doc));
                json_object_del(doc, "internal");
                http_request_add_header(request, "ETag", etag);
        }
        http_request_reply_json(request, status, doc);
}

int api_body(
        struct http_request *request, const char *const *keys, json_t **ret_body, struct error **ret_error)
{
        json_t *body = NULL;
        size_t len = 0;
        int r;

        http_request_body(request, &len);
        if (!len) {
                *ret_body = NULL;
                return 0;
        }
        r = http_request_json(request, &body, ret_error);
        if (r >= 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r < 0)
                return r;
        *ret_body = body;
        return 0;
}

int api_body_name(const json_t *body, const char **ret_name, struct error **ret_error)
{
        const char *name = NULL;
        int r;

        r = doc_need_string(body, "", "name", NAME_MAX_CHARS, &name, ret_error);
        if (r < 0)
                return r;
        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Begin with a letter or digit; then letters, digits, '.', '_' and '-', 63 at most.",
                        "%.64s cannot be used as a name", name);
        *ret_name = name;
        return 0;
}

bool api_filter(const struct http_request *request, const char *key, const char *value)
{
        const char *wanted = http_request_query(request, key);

        return !wanted || !strcmp(wanted, value);
}

int api_reason(const struct http_request *request, char **ret_reason, struct error **ret_error)
{
        const char *why = http_request_header(request, "X-Drover-Reason");
        _cleanup_json_ json_t *text = why ? json_string(why) : NULL;
        size_t len;

        if (!why)
                return 0;
        if (!text)
                return error_set(ret_error, ERROR_BAD_REQUEST, "Send it in UTF-8.",
                        "X-Drover-Reason is no valid text");
        len = strlen(why);
        if (len > REASON_MAX)
                /* Not in the middle of a character. */
                for (len = REASON_MAX; len && ((unsigned char)why[len] & 0xc0) == 0x80;)
                        len--;
        *ret_reason = alloc_printf("%.*s", (int)len, why);
        return *ret_reason ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* Idempotency-Key: the record is named by a hash of caller and key, and holds a hash of the request, so that a key that
 * is used for something else is noticed. */
struct idempotency {
        char name[PKI_FINGERPRINT_SIZE];
        char request[PKI_FINGERPRINT_SIZE];
};

static int idempotency_of(struct http_request *request, struct idempotency *ret, struct error **ret_error)
{
        const char *key = http_request_header(request, "Idempotency-Key");
        const char *body = http_request_body(request, NULL);
        _cleanup_free_ char *named = NULL, *what = NULL;

        *ret = (struct idempotency){};
        if (!key)
                return 0;
        if (!*key || strlen(key) > KEY_MAX)
                return error_set(ret_error, ERROR_BAD_REQUEST, NULL,
                        "Idempotency-Key must have 1 to %d characters", KEY_MAX);
        named = alloc_printf("%s\n%s", api_caller(request)->name, key);
        what = alloc_printf(
                "%s\n%s\n%s", http_request_method(request), http_request_path(request), body ?: "");
        if (!named || !what || pki_sha256_hex(named, strlen(named), ret->name) < 0 ||
                pki_sha256_hex(what, strlen(what), ret->request) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return 0;
}

static void reply_task(struct http_request *request, json_t *doc)
{
        char location[96];

        if (doc) {
                snprintf(location, sizeof(location), V1 "/tasks/%s", json_text(doc, "name"));
                http_request_add_header(request, "Location", location);
        }
        api_reply_object(request, 202, doc);
}

bool api_repeated(struct http_request *request, struct manager *manager)
{
        _cleanup_json_ json_t *record = NULL;
        struct idempotency idempotency = {0};
        struct error *error = NULL;
        json_t *task = NULL;
        int r;

        r = idempotency_of(request, &idempotency, &error);
        if (r >= 0 && !*idempotency.name)
                return false;
        if (r >= 0) {
                r = store_get(manager->store, "idempotency", idempotency.name, &record, &error);
                if (r == -ENOENT) {
                        error_free(error);
                        return false;
                }
        }
        if (r >= 0 && strcmp(json_text(record, "request"), idempotency.request))
                r = error_set(&error, ERROR_CONFLICT, "Use a new key for each operation.",
                        "the Idempotency-Key was used for another request");
        if (r >= 0)
                r = store_get(manager->store, "task", json_text(record, "task"), &task, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply_task(request, task);
        return true;
}

static void record_key(struct manager *manager, const struct idempotency *idempotency, const char *task_uid,
        struct store_batch *batch)
{
        json_t *record = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "kind", "idempotency", "uid",
                idempotency->name, "name", idempotency->name, "request", idempotency->request, "task",
                task_uid, "created_unix_ms", (json_int_t)clock_unix_ms(manager->clock));

        store_batch_put(batch, STORE_ABSENT, record);
}

void api_submit(struct http_request *request, struct manager *manager, struct task_request *task,
        struct store_batch *batch)
{
        _cleanup_batch_ struct store_batch own = STORE_BATCH_INIT;
        _cleanup_free_ char *reason = NULL;
        struct idempotency idempotency = {0};
        char uid[UUID_STRING_SIZE];
        struct error *error = NULL;
        json_t *doc = NULL;
        int r;

        batch = batch ?: &own;
        r = api_reason(request, &reason, &error);
        if (r >= 0)
                r = idempotency_of(request, &idempotency, &error);
        if (r >= 0 && text_uuid_new(uid) < 0)
                r = error_set(&error, ERROR_INTERNAL, NULL, "there are no random numbers");
        if (r >= 0 && *idempotency.name)
                record_key(manager, &idempotency, uid, batch);
        if (r >= 0) {
                task->uid = uid;
                task->by = api_caller(request) ? api_caller(request)->name : "system";
                task->from = http_request_peer_address(request);
                task->why = reason;
                r = task_submit(manager->tasks, task, batch, &doc, &error);
        }
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply_task(request, doc);
}

int api_commit(struct http_request *request, struct manager *manager, struct store_batch *batch,
        const char *action, const char *object, uint64_t *ret_revision, struct error **ret_error)
{
        _cleanup_free_ char *reason = NULL;
        _cleanup_batch_ struct store_batch all = STORE_BATCH_INIT;
        int r;

        r = api_reason(request, &reason, ret_error);
        if (r < 0)
                return r;
        r = audit_add(manager->store, manager->clock, &all,
                &(struct audit_entry){.who = api_caller(request) ? api_caller(request)->name : "anonymous",
                        .from = http_request_peer_address(request),
                        .action = action,
                        .object = object,
                        .why = reason,
                        .result = "done"},
                ret_error);
        if (r < 0)
                return r;
        /* The object's change comes last: its revision is the one that is returned. */
        for (size_t i = 0; i < batch->n_changes; i++) {
                const struct store_change *change = &batch->changes[i];

                if (change->remove)
                        store_batch_remove(&all, change->kind, change->uid, change->expected);
                else
                        store_batch_put(&all, change->expected, json_incref(change->doc));
        }
        return store_commit(manager->store, &all, ret_revision, ret_error);
}

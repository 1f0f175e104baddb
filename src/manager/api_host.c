/* SPDX-License-Identifier: Apache-2.0 */

/* Hosts and their enrolment. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/sock.h"
#include "manager/api.h"
#include "manager/audit.h"
#include "manager/enrol.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/migration_along.h"

#define AGENT_PORT 8444
#define ADDRESS_MAX 128
#define ADDRESSES_MAX 640
/* As many as a migration uses. */
#define MIGRATION_ADDRESSES_MAX 8
#define CSR_MAX 16384
#define LABELS_MAX 64
#define LABEL_VALUE_MAX_CHARS 255
#define REFUSED_AUDIT_MS 60000

static bool match(void *userdata, const json_t *doc)
{
        return api_filter(userdata, "state", json_text(json_status(doc), "state"));
}

static json_t *live(struct manager *manager, const json_t *doc)
{
        return inventory_live_host(manager->inventory, doc);
}

void api_host_list(struct http_request *request, void *userdata)
{
        api_reply_list(request, userdata,
                &(struct api_listing){.kind = "host",
                        .match = match,
                        .userdata = request,
                        .live = live,
                        .in_memory = true});
}

void api_host_get(struct http_request *request, void *userdata)
{
        _cleanup_json_ json_t *host = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;

        if (api_get_object(request, manager, "host", &host, &error) < 0)
                http_request_reply_error(request, error);
        else
                api_reply_object(request, 200, live(manager, host));
}

/* Labels as virtual machines have them: pool=east. */
static int read_labels(const json_t *from, const char *where, json_t **ret_labels, struct error **ret_error)
{
        const char *label, *text = NULL;
        json_t *labels = NULL, *value;
        int r;

        r = doc_opt_object(from, where, "labels", &labels, ret_error);
        if (r >= 0 && json_object_size(labels) > LABELS_MAX)
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field labels has more than %d items",
                        LABELS_MAX);
        if (r < 0)
                return r;
        json_object_foreach (labels, label, value) {
                if (!text_is_name(label))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "field labels: %.64s cannot be used as a label", label);
                r = doc_need_string(labels, "labels", label, LABEL_VALUE_MAX_CHARS, &text, ret_error);
                if (r < 0)
                        return r;
        }
        *ret_labels = labels;
        return 0;
}

/* The spec of a host from a document with address and migration_address: checked, in its usual form, new. */
static int read_spec(const json_t *from, const char *where, json_t **ret_spec, struct error **ret_error)
{
        const char *address = NULL, *migration = NULL;
        struct sock_address parsed, several[MIGRATION_ADDRESSES_MAX];
        json_t *labels = NULL;
        char text[64];
        size_t n;
        int r;

        r = doc_need_string(from, where, "address", ADDRESS_MAX, &address, ret_error);
        if (r >= 0)
                r = doc_opt_string(from, where, "migration_address", ADDRESSES_MAX, &migration, ret_error);
        if (r >= 0)
                r = read_labels(from, where, &labels, ret_error);
        if (r >= 0)
                r = sock_address_parse(address, AGENT_PORT, false, &parsed, ret_error);
        if (r < 0)
                return r;
        sock_address_format(&parsed, text);
        if (migration)
                r = sock_address_list_parse(
                        migration, AGENT_PORT, ARRAY_SIZE(several), several, &n, ret_error);
        if (r < 0)
                return r;
        *ret_spec = json_pack(
                "{s:s, s:s?, s:O*}", "address", text, "migration_address", migration, "labels", labels);
        return *ret_spec ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static int read_host(
        struct http_request *request, struct manager *manager, json_t **ret_host, struct error **ret_error)
{
        static const char *const keys[] = {"name", "address", "migration_address", "labels", NULL};
        char uid[UUID_STRING_SIZE], since[32];
        const char *name = NULL;
        json_t *body = NULL, *spec = NULL;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = api_body_name(body, &name, ret_error);
        if (r >= 0)
                r = read_spec(body, "", &spec, ret_error);
        if (r < 0)
                return r;
        text_format_time(clock_unix_ms(manager->clock), since);
        if (text_uuid_new(uid) < 0) {
                json_decref(spec);
                return error_set(ret_error, ERROR_INTERNAL, NULL, "there are no random numbers");
        }
        *ret_host = json_pack("{s:s, s:s, s:s, s:o, s:{s:s, s:s, s:s}}", "kind", "host", "name", name, "uid",
                uid, "spec", spec, "status", "state", "enrolling", "since", since, "message",
                "waits for `drover-agent enrol`");
        return *ret_host ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

static void reply_enrol(struct http_request *request, struct manager *manager, const char *uid,
        const char *token, int64_t expires_ms)
{
        _cleanup_json_ json_t *stored = NULL;
        struct error *error = NULL;
        char expires[32];

        if (store_get(manager->store, "host", uid, &stored, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        http_request_reply_json(request, 201,
                json_pack("{s:o, s:s, s:s}", "host", live(manager, stored), "enrol_token", token, "expires",
                        text_format_time(expires_ms, expires)));
}

/* Commits the batch with a new token for the host, and answers with both. */
static void give_token(struct http_request *request, struct manager *manager, const json_t *host,
        const char *action, struct store_batch *batch)
{
        _cleanup_free_ char *object = alloc_printf("host/%s", json_text(host, "name"));
        char token[ENROL_TOKEN_SIZE];
        struct error *error = NULL;
        int64_t expires_ms = 0;
        int r;

        r = enrol_token_new(manager->store, manager->clock, &manager->ca, json_text(host, "uid"), batch,
                token, &expires_ms, &error);
        if (r >= 0)
                r = api_commit(request, manager, batch, action, object, NULL, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                reply_enrol(request, manager, json_text(host, "uid"), token, expires_ms);
}

void api_host_create(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *host = NULL;
        struct error *error = NULL;

        if (read_host(request, userdata, &host, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        store_batch_put(&batch, STORE_ABSENT, json_incref(host));
        give_token(request, userdata, host, "host.create", &batch);
}

void api_host_enrol_token(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *host = NULL;
        struct error *error = NULL;

        if (api_get_object(request, userdata, "host", &host, &error) < 0)
                http_request_reply_error(request, error);
        else
                give_token(request, userdata, host, "host.enrol-token", &batch);
}

void api_host_update(struct http_request *request, void *userdata)
{
        static const char *const keys[] = {"spec", NULL}, *const spec_keys[] = {"address",
                                                                  "migration_address", "labels", NULL};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *host = NULL;
        struct manager *manager = userdata;
        json_t *body = NULL, *wanted = NULL, *spec = NULL;
        _cleanup_free_ char *object = NULL;
        struct error *error = NULL;
        uint64_t revision = 0;
        int r;

        r = api_get_object(request, manager, "host", &host, &error);
        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = doc_opt_object(body, "", "spec", &wanted, &error);
        if (r >= 0)
                r = doc_only_keys(wanted, "spec", spec_keys, &error);
        if (r >= 0)
                r = read_spec(wanted, "spec", &spec, &error);
        if (r >= 0) {
                revision = json_revision(host);
                object = alloc_printf("host/%s", json_text(host, "name"));
                if (!object || json_object_set_new(host, "spec", spec) < 0)
                        r = error_set(&error, ERROR_NO_MEMORY, NULL, "out of memory");
        }
        if (r >= 0) {
                store_batch_put(&batch, revision, json_incref(host));
                r = api_commit(request, manager, &batch, "host.update", object, &revision, &error);
        }
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        json_object_set_new(host, "revision", json_integer((json_int_t)revision));
        api_reply_object(request, 200, live(manager, host));
}

/* What the manager can see for itself must not contradict the administrator. */
static int refuse_if_up(struct manager *manager, const json_t *host, struct error **ret_error)
{
        const char *uid = json_text(host, "uid"), *name = json_text(host, "name");
        int r;

        if (inventory_unreachable(manager->inventory, uid))
                return 0;
        if (inventory_connected(manager->inventory, uid))
                r = error_set(ret_error, ERROR_CONFLICT,
                        "A host that is to be switched off is left by its virtual machines first.",
                        "the agent of host %s answers: the host is not down", name);
        else
                r = error_set(ret_error, ERROR_CONFLICT, "Try again in a few seconds.",
                        "whether the agent of host %s answers is not known yet", name);
        error_about(ret_error, "host/%s", name);
        return r;
}

static int confirm_down(struct http_request *request, struct manager *manager, json_t *host,
        uint64_t *ret_revision, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("host/%s", json_text(host, "name"));
        char since[32];

        text_format_time(clock_unix_ms(manager->clock), since);
        if (!object || json_object_set_new(json_status(host), "confirmed_down",
                               json_pack("{s:s, s:s}", "since", since, "by", api_caller(request)->name)) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(&batch, *ret_revision, json_incref(host));
        return api_commit(request, manager, &batch, "host.confirm-down", object, ret_revision, ret_error);
}

void api_host_confirm_down(struct http_request *request, void *userdata)
{
        static const char *const no_keys[] = {NULL};
        _cleanup_json_ json_t *host = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        uint64_t revision = 0;
        json_t *body = NULL;
        int r;

        r = api_get_object(request, manager, "host", &host, &error);
        if (r >= 0)
                r = api_body(request, no_keys, &body, &error);
        if (r >= 0)
                r = refuse_if_up(manager, host, &error);
        revision = json_revision(host);
        /* Said again, it is as true as before. */
        if (r >= 0 && !inventory_confirmed_down(manager->inventory, json_text(host, "uid")))
                r = confirm_down(request, manager, host, &revision, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        log_warning("host %s was confirmed down by %s", json_text(host, "name"), api_caller(request)->name);
        inventory_review_host(manager->inventory, json_text(host, "uid"));
        json_object_set_new(host, "revision", json_integer((json_int_t)revision));
        api_reply_object(request, 200, live(manager, host));
}

static int refuse_with_vms(struct manager *manager, const json_t *host, struct error **ret_error)
{
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        json_t *vm;
        size_t i;

        json_array_foreach (vms, i, vm)
                if (!strcmp(json_text(json_status(vm), "host"), json_text(host, "name")))
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Migrate or delete its virtual machines first, or use force.",
                                "the virtual machine %s is on host %s", json_text(vm, "name"),
                                json_text(host, "name"));
        return 0;
}

struct user {
        struct manager *manager;
        const char *host_uid;
        const struct task *task;
};

/* A migration with its disks waits for a destination that is down, which may have the newest ones: that the host is removed tells that
 * those are given up (docs/decisions/0034). */
static bool waits_for_removal(const struct user *user, const struct task *task)
{
        return !strcmp(task_action(task), "vm.migrate") && migration_along(task) &&
               !strcmp(json_text(task_data(task), "to_uid"), user->host_uid) &&
               inventory_confirmed_down(user->manager->inventory, user->host_uid);
}

static void find_user(void *userdata, const struct task *task)
{
        static const char *const keys[] = {"host_uid", "to_uid"};
        struct user *user = userdata;

        for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
                if (!strcmp(json_text(task_data(task), keys[i]), user->host_uid) &&
                        !waits_for_removal(user, task))
                        user->task = task;
}

/* Also with force: who owns a machine that is being migrated would be asked of nobody. */
static int refuse_with_tasks(struct manager *manager, const json_t *host, struct error **ret_error)
{
        struct user user = {.manager = manager, .host_uid = json_text(host, "uid")};

        task_each(manager->tasks, find_user, &user);
        return user.task ? error_set(ret_error, ERROR_BUSY, "Wait for that task, or cancel it.",
                                   "task %s (%s) works with host %s", task_name(user.task),
                                   task_action(user.task), json_text(host, "name"))
                         : 0;
}

void api_host_delete(struct http_request *request, void *userdata)
{
        const char *force = http_request_query(request, "force");
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *held = NULL, *object = NULL;
        _cleanup_json_ json_t *host = NULL, *data = NULL;
        struct manager *manager = userdata;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, "host", &host, &error);
        if (r >= 0)
                r = refuse_with_tasks(manager, host, &error);
        if (r >= 0 && (!force || strcmp(force, "true")))
                r = refuse_with_vms(manager, host, &error);
        if (r >= 0)
                r = enrol_token_drop(manager->store, json_text(host, "uid"), &batch, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        held = alloc_printf("host/%s", json_text(host, "uid"));
        object = alloc_printf("host/%s", json_text(host, "name"));
        data = json_pack("{s:s}", "host_uid", json_text(host, "uid"));
        if (!held || !object || !data)
                http_request_reply_error(request, NULL);
        else
                api_submit(request, manager,
                        &(struct task_request){.action = "host.remove",
                                .object = object,
                                .objects = (const char *const[]){held, NULL},
                                .data = data},
                        &batch);
}

/* Submits what finishes the enrolment, in one transaction with the token's end and the host's new state. */
static int finish_enrolment(struct http_request *request, struct manager *manager, json_t *host,
        struct store_batch *batch, struct error **ret_error)
{
        _cleanup_free_ char *held = alloc_printf("host/%s", json_text(host, "uid"));
        _cleanup_free_ char *object = alloc_printf("host/%s", json_text(host, "name"));
        _cleanup_json_ json_t *data = json_pack("{s:s}", "host_uid", json_text(host, "uid"));
        uint64_t revision = json_revision(host);
        char since[32];

        text_format_time(clock_unix_ms(manager->clock), since);
        if (!held || !object || !data ||
                json_object_set_new(json_status(host), "state", json_string("connecting")) < 0 ||
                json_object_set_new(json_status(host), "since", json_string(since)) < 0 ||
                json_object_set_new(
                        json_status(host), "message", json_string("enrolled; waits for its agent")) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        store_batch_put(batch, revision, json_incref(host));
        return task_submit(manager->tasks,
                &(struct task_request){.action = "host.add",
                        .object = object,
                        .objects = (const char *const[]){held, NULL},
                        .by = "system",
                        .from = http_request_peer_address(request),
                        .why = "the host's agent has enrolled",
                        .data = data},
                batch, NULL, ret_error);
}

static int enrol(
        struct http_request *request, struct manager *manager, json_t **ret_answer, struct error **ret_error)
{
        static const char *const keys[] = {"token", "csr", "name", "qemu", NULL};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *host_uid = NULL, *cert = NULL, *address = NULL;
        _cleanup_json_ json_t *host = NULL;
        const char *secret = NULL, *csr = NULL;
        json_t *body = NULL;
        char *port;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = doc_need_string(body, "", "token", ENROL_TOKEN_SIZE, &secret, ret_error);
        if (r >= 0)
                r = doc_need_string(body, "", "csr", CSR_MAX, &csr, ret_error);
        if (r < 0)
                return r;
        /* The whole token is accepted as well as its secret part. */
        if (!strncmp(secret, "drv1.", 5) && strrchr(secret, '.'))
                secret = strrchr(secret, '.') + 1;
        r = enrol_token_use(manager->store, manager->clock, secret, &batch, &host_uid, ret_error);
        if (r >= 0)
                r = store_get(manager->store, "host", host_uid, &host, ret_error);
        if (r < 0)
                return r;
        address = alloc_strdup(json_text(json_spec(host), "address"));
        port = address ? strrchr(address, ':') : NULL;
        if (port)
                *port = '\0';
        r = ca_sign_host(&manager->ca, csr, host_uid, address, &cert, ret_error);
        if (r >= 0)
                r = finish_enrolment(request, manager, host, &batch, ret_error);
        if (r < 0)
                return r;
        *ret_answer = json_pack("{s:s, s:s, s:s, s:s}", "host_uid", host_uid, "name", json_text(host, "name"),
                "certificate", cert, "ca", manager->ca.ca_pem);
        return *ret_answer ? 0 : error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* Anybody may try, as often as they like: one entry a minute at most, or they would push out what matters. */
static void audit_refused(struct http_request *request, struct manager *manager, const struct error *error)
{
        uint64_t now_ms = clock_now_ms(manager->clock);
        _cleanup_error_ struct error *failure = NULL;
        _cleanup_json_ json_t *detail = NULL;

        manager->n_refused_enrolments++;
        if (manager->refused_audited_ms && now_ms < manager->refused_audited_ms + REFUSED_AUDIT_MS)
                return;
        detail = json_pack("{s:I}", "attempts", (json_int_t)manager->n_refused_enrolments);
        if (audit_write(manager->store, manager->clock,
                    &(struct audit_entry){.who = "anonymous",
                            .from = http_request_peer_address(request),
                            .action = "host.enrol",
                            .why = error_message(error),
                            .result = "denied",
                            .detail = detail},
                    &failure) < 0) {
                log_warning("cannot write to the audit log: %s", error_message(failure));
                return;
        }
        manager->n_refused_enrolments = 0;
        manager->refused_audited_ms = now_ms;
}

void api_enrol(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        struct error *error = NULL;
        json_t *answer = NULL;

        if (enrol(request, manager, &answer, &error) >= 0) {
                http_request_reply_json(request, 200, answer);
                return;
        }
        if (error && error->code == ERROR_DENIED)
                audit_refused(request, manager, error);
        http_request_reply_error(request, error);
}

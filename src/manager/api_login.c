/* SPDX-License-Identifier: Apache-2.0 */

/* Logging in and out, one's own session and password. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "manager/api.h"
#include "manager/api_access.h"
#include "manager/audit.h"
#include "manager/json.h"
#include "manager/login_addresses.h"
#include "manager/manager.h"
#include "manager/operations.h"
#include "manager/password.h"

#define COOKIE_ATTRIBUTES "; Path=/; Secure; HttpOnly; SameSite=Strict"
#define TOO_MANY "there were too many attempts to log in"

struct login {
        struct http_request *request;
        struct manager *manager;
        char user[NAME_MAX_CHARS + 1];
        char address[API_ADDRESS_KEY_SIZE], pair[API_ADDRESS_KEY_SIZE + NAME_MAX_CHARS + 1]; /* in limits */
        json_t *doc; /* the user's, as it was when the password was sent; NULL: there is none */
        bool cookie;
        bool familiar;         /* the user has logged in from that address before */
        uint64_t user_wait_ms; /* 0: the user's limit had room for it */
};

static void login_free(struct login *login)
{
        json_decref(login->doc);
        free(login);
}

static int audit_refusal(struct login *login, struct error **ret_error)
{
        /* Its name is what somebody typed: it goes nowhere but to where it stands for an object. */
        _cleanup_free_ char *object = alloc_printf("user/%s", login->user);

        return audit_write(login->manager->store, login->manager->clock,
                &(struct audit_entry){.who = "anonymous",
                        .from = http_request_peer_address(login->request),
                        .action = "login",
                        .object = object,
                        .result = "denied"},
                ret_error);
}

static void refuse(struct login *login)
{
        _cleanup_error_ struct error *failure = NULL;
        struct error *error = NULL;

        login->manager->metrics.logins_failed++;
        if (rate_limit_take(login->manager->limits.denied, login->address, NULL) &&
                audit_refusal(login, &failure) < 0)
                log_warning("cannot write to the audit log: %s", error_message(failure));
        if (login->user_wait_ms) {
                api_reply_limited(login->request, login->user_wait_ms, TOO_MANY);
                return;
        }
        error_set(&error, ERROR_UNAUTHENTICATED, "Ask an administrator to set a new password.",
                "user and password do not fit");
        http_request_reply_error(login->request, error);
}

static void set_cookie(struct http_request *request, const char *secret, int64_t max_age_s)
{
        char text[256];

        snprintf(text, sizeof(text), AUTH_COOKIE "=%s; Max-Age=%lld" COOKIE_ATTRIBUTES, secret,
                (long long)max_age_s);
        (void)http_request_add_header(request, "Set-Cookie", text);
        explicit_bzero(text, sizeof(text));
}

static int commit_session(struct login *login, char ret_secret[static AUTH_SECRET_SIZE],
        char ret_csrf[static 65], struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_free_ char *object = alloc_printf("user/%s", json_text(login->doc, "name"));
        int r;

        r = auth_sessions_trim(login->manager->store, &batch, json_text(login->doc, "uid"),
                AUTH_SESSIONS_MAX - 1, ret_error);
        if (r >= 0)
                r = auth_session_new(
                        login->manager->clock, &batch, login->doc, ret_secret, ret_csrf, ret_error);
        if (r >= 0)
                r = login_address_note(login->manager->store, login->manager->clock, &batch,
                        json_text(login->doc, "uid"), login->address, ret_error);
        if (r >= 0)
                r = audit_add(login->manager->store, login->manager->clock, &batch,
                        &(struct audit_entry){.who = json_text(login->doc, "name"),
                                .from = http_request_peer_address(login->request),
                                .action = "login",
                                .object = object,
                                .result = "done"},
                        ret_error);
        return r < 0 ? r : store_commit(login->manager->store, &batch, NULL, ret_error);
}

static void accept(struct login *login)
{
        char secret[AUTH_SECRET_SIZE] = "", csrf[65], expires[32];
        struct error *error = NULL;
        json_t *answer;

        if (commit_session(login, secret, csrf, &error) < 0) {
                http_request_reply_error(login->request, error);
                return;
        }
        text_format_time(clock_unix_ms(login->manager->clock) + AUTH_SESSION_MS, expires);
        answer = json_pack("{s:s, s:s, s:s?, s:s?, s:I}", "user", json_text(login->doc, "name"), "expires",
                expires, "secret", login->cookie ? NULL : secret, "csrf_token", login->cookie ? csrf : NULL,
                "idle_s", (json_int_t)AUTH_SESSION_IDLE_MS / 1000);
        if (login->cookie)
                set_cookie(login->request, secret, AUTH_SESSION_MS / 1000);
        http_request_reply_json(login->request, 200, answer);
        explicit_bzero(secret, sizeof(secret));
}

/* The user as it is now: it may have been disabled, or got another password, while this one was looked at. */
static bool is_unchanged(struct login *login)
{
        _cleanup_json_ json_t *now = NULL;

        return login->doc &&
               store_get(login->manager->store, "user", json_text(login->doc, "uid"), &now, NULL) >= 0 &&
               json_revision(now) == json_revision(login->doc) &&
               !json_is_true(json_object_get(json_spec(now), "disabled"));
}

static void on_verified(void *userdata, bool fits, struct error *error)
{
        struct login *login = userdata;
        struct api_limits *limits = &login->manager->limits;

        if (error) {
                http_request_reply_error(login->request, error_copy(error));
        } else if (!fits || (login->user_wait_ms && !login->familiar) || !is_unchanged(login)) {
                refuse(login);
        } else {
                login->manager->metrics.logins_succeeded++;
                rate_limit_refund(limits->login_pairs, login->pair);
                rate_limit_refund(limits->login_addresses, login->address);
                if (!login->user_wait_ms)
                        rate_limit_refund(limits->login_users, login->user);
                accept(login);
        }
        login_free(login);
}

static int read_login(struct http_request *request, const char **ret_user, const char **ret_password,
        bool *ret_cookie, struct error **ret_error)
{
        static const char *const keys[] = {"user", "password", "cookie", NULL};
        json_t *body = NULL;
        int r;

        r = api_body(request, keys, &body, ret_error);
        if (r >= 0)
                r = doc_need_string(body, "", "user", NAME_MAX_CHARS, ret_user, ret_error);
        if (r >= 0 && !text_is_name(*ret_user))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "field user is no name of a user");
        if (r >= 0)
                r = doc_need_string(body, "", "password", PASSWORD_MAX_CHARS, ret_password, ret_error);
        return r < 0 ? r : doc_opt_bool(body, "", "cookie", ret_cookie, ret_error);
}

/* Three limits, for users that there are and for those that there are not. By user and address together, and by address: who has used up
 * one of these is told so at once. By user alone, which anybody can use up from some addresses: the password is looked at all the same, and a right
 * one from where the user has logged in before is taken. Whatever else was tried gets one answer, after the same time: it does not tell who has logged
 * in from where. */
static bool is_limited(struct login *login)
{
        struct api_limits *limits = &login->manager->limits;
        uint64_t wait_ms = 0;

        /* The pair first: a program with an old password does not use up the address for all others there. */
        if (!rate_limit_has(limits->login_pairs, login->pair, &wait_ms) ||
                !rate_limit_take(limits->login_addresses, login->address, &wait_ms)) {
                api_reply_limited(login->request, wait_ms, TOO_MANY);
                return true;
        }
        (void)rate_limit_take(limits->login_pairs, login->pair, NULL);
        (void)rate_limit_take(limits->login_users, login->user, &login->user_wait_ms);
        return false;
}

static struct login *login_new(
        struct http_request *request, struct manager *manager, const char *user, bool cookie)
{
        struct login *login = ALLOC(struct login);

        if (!login)
                return NULL;
        login->request = request;
        login->manager = manager;
        login->cookie = cookie;
        snprintf(login->user, sizeof(login->user), "%s", user);
        api_address_key(http_request_peer_address(request), login->address);
        snprintf(login->pair, sizeof(login->pair), "%s %s", login->address, login->user);
        return login;
}

/* Else a page elsewhere could log a browser in as somebody whom its author knows, and see what is then done as them. */
static bool is_from_own_page(const struct http_request *request)
{
        const char *type = http_request_header(request, "Content-Type"),
                   *site = http_request_header(request, "Sec-Fetch-Site");

        return type && !strncasecmp(type, "application/json", 16) &&
               (!site || !strcmp(site, "same-origin") || !strcmp(site, "none"));
}

/* Who is meant, if there is such a user. As much is read for one that there is not. */
static int find_user(struct login *login, struct error **ret_error)
{
        struct manager *manager = login->manager;
        _cleanup_error_ struct error *error = NULL;
        bool known;
        int r;

        r = store_get(manager->store, "user", login->user, &login->doc, &error);
        if (r < 0 && r != -ENOENT)
                return error_propagate(ret_error, TAKE_PTR(error));
        /* By the name that the limit is on, not by a uid beside it. */
        if (login->doc && strcmp(json_text(login->doc, "name"), login->user)) {
                json_decref(login->doc);
                login->doc = NULL;
        }
        known = login_address_is_known(manager->store, manager->clock,
                login->doc ? json_text(login->doc, "uid") : login->user, login->address);
        login->familiar = login->doc && known;
        return 0;
}

void api_login(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        const char *user = NULL, *password = NULL;
        struct error *error = NULL;
        struct login *login;
        bool cookie = false;
        int r;

        r = read_login(request, &user, &password, &cookie, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        if (cookie && !is_from_own_page(request)) {
                error_set(&error, ERROR_DENIED,
                        "Send Content-Type: application/json from the manager's own page.",
                        "another site may not log a browser in");
                http_request_reply_error(request, error);
                return;
        }
        login = login_new(request, manager, user, cookie);
        if (!login) {
                http_request_reply_error(request, NULL);
                return;
        }
        if (is_limited(login)) {
                login_free(login);
                return;
        }
        r = find_user(login, &error);
        if (r >= 0)
                r = password_verify(manager->passwords,
                        &(struct password_attempt){
                                .hash = json_text_or_null(
                                        json_object_get(login->doc, "internal"), "password"),
                                .password = password,
                                .stranger = !login->familiar},
                        on_verified, login, &error);
        if (r < 0) {
                login_free(login);
                http_request_reply_error(request, error);
        }
}

/* --- Whoever has logged in ------------------------------------------------------------------------------------------- */

void api_whoami(struct http_request *request, void *userdata)
{
        const struct auth_caller *caller = api_caller(request);

        http_request_reply_json(request, 200,
                json_pack("{s:s, s:s?, s:s?, s:s, s:o, s:o*}", "name", caller->name, "role",
                        *caller->role ? caller->role : NULL, "user", *caller->user ? caller->user : NULL,
                        "kind", caller->kind == AUTH_TOKEN ? "token" : "session", "grants",
                        access_document(&caller->own), "owner_grants",
                        caller->owned ? access_document(&caller->owner) : NULL));
}

void api_session_get(struct http_request *request, void *userdata)
{
        const struct auth_caller *caller = api_caller(request);
        struct error *error = NULL;
        char expires[32];

        if (caller->kind != AUTH_SESSION) {
                error_set(&error, ERROR_NOT_FOUND, "`POST /api/v1/login` begins one.",
                        "this is a token, no session");
                http_request_reply_error(request, error);
                return;
        }
        http_request_reply_json(request, 200,
                json_pack("{s:s, s:s, s:s, s:I}", "user", caller->user, "expires",
                        text_format_time(caller->expires_unix_ms, expires), "csrf_token", caller->csrf,
                        "idle_s", (json_int_t)AUTH_SESSION_IDLE_MS / 1000));
}

void api_session_delete(struct http_request *request, void *userdata)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        const struct auth_caller *caller = api_caller(request);
        _cleanup_free_ char *object = alloc_printf("user/%s", caller->user);
        struct error *error = NULL;
        int r = 0;

        if (caller->kind != AUTH_SESSION)
                r = error_set(&error, ERROR_CONFLICT, "`drover token revoke` ends a token.",
                        "this is a token, no session");
        if (r >= 0) {
                auth_session_remove(&batch, caller);
                r = api_commit(request, userdata, &batch, "logout", object, NULL, &error);
        }
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        if (caller->by_cookie)
                set_cookie(request, "", 0);
        http_request_reply_empty(request, 204);
}

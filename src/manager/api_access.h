/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who may call which route for what: authentication, limits and permissions in front of each handler of api_routes.h. */

#include <jansson.h>

#include "manager/access.h"
#include "manager/auth.h"
#include "manager/rate_limit.h"

struct http_request;
struct manager;

struct api_limits {
        struct rate_limit *requests;        /* of each token or session; NULL: none */
        struct rate_limit *token_requests;  /* of all tokens of a user together: sessions have their own */
        struct rate_limit *denied;          /* entries in the audit log about what each caller was refused */
        struct rate_limit *login_pairs;     /* attempts to log in, by user and address together ... */
        struct rate_limit *login_users;     /* ... by user ... */
        struct rate_limit *login_addresses; /* ... and by address */
        struct rate_limit *
                own_passwords; /* attempts to change one's own, by user: others' attempts to log in use it up not */
};
/* request_rate: a second for each token or session, and twice that for all tokens of a user; 0: no limit. */
int api_limits_init(struct api_limits *limits, const struct clock *clock, uint64_t request_rate);
void api_limits_deinit(struct api_limits *limits);

/* What an address counts as in limits: one of IPv6 as its /64, for a single customer has all of that. */
#define API_ADDRESS_KEY_SIZE 64
void api_address_key(const char *address, char ret_key[static API_ADDRESS_KEY_SIZE]);

/* Answers RATE_LIMITED with Retry-After. */
void api_reply_limited(struct http_request *request, uint64_t wait_ms, const char *what);

/* Answers with an error that a handler has found; a refusal (DENIED) goes into the audit log, as those before the handler do. */
void api_reply_refusal(struct http_request *request, struct manager *manager, struct error *error);

/* Whether the caller may see an object: for lists, events, and whoever shows several kinds at once. `doc` is as in the store; NULL: unknown. */
bool api_shows(
        struct manager *manager, const struct auth_caller *caller, const char *kind, const json_t *doc);
/* The same text, static, for a kind that anybody may see; else NULL. */
const char *api_public_kind(const char *kind);
/* It is a token of the caller's user. */
bool api_own_token(const struct auth_caller *caller, const json_t *token);

/* What the caller's name stands for in records; "anonymous" without a caller. */
const char *api_who(const struct http_request *request);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What tests of the whole manager share: it runs in the test's process, its API is called over real HTTPS, and two agent
 * doubles serve with real mutual TLS. */

#include "agent_double.h"
#include "fixture.h"

#include "io/http_client.h"
#include "io/sock.h"
#include "manager/auth.h"
#include "manager/leadership.h"
#include "manager/manager.h"

#define WAIT_MS 20000

struct state {
        struct folder folder;
        struct config config;
        struct loop *loop;
        struct leadership *leadership;
        struct manager *manager; /* it leads */
        struct http_client *client;
        char address[64];
        char secret[AUTH_SECRET_SIZE];
        char headers[2][160]; /* Authorization, and one more */
        struct agent_double agents[2];
        /* the last answer */
        bool answered;
        int status;
        json_t *body;
        char code[64];
        const char *path; /* what a condition that is waited for asks about */
};

void start_manager(struct state *state);
void stop_manager(struct state *state);
void on_reply(void *userdata, int status, json_t *body, struct error *error);
/* Takes the body over; returns the status. The answer stays in state->body. */
int call(struct state *state, const char *method, const char *path, json_t *body);
const char *task_state(struct state *state);
/* Follows the task of the last answer to its end; its document is the last answer then. */
const char *finish(struct state *state);
/* Iterates until the object's status has the value. */
void wait_status(struct state *state, const char *path, const char *key, const char *value);
void add_host(struct state *state, struct agent_double *agent, const char *name);
/* Calls go through a client that trusts this manager's authority. */
void start_client(struct state *state, const struct manager *manager);
int setup(void **ret);
/* With a store as the setting of that name has it. */
int setup_on(const char *store, void **ret);
int teardown(void **data);
json_t *vm_document(const char *name);
/* Two hosts, a shared datastore, a network and a running VM "web" on host1. */
void set_the_stage(struct state *state);
const char *vm_uid(struct state *state);
/* What the two agents would have done. */
void complete_migration(struct state *state);
/* Starts the migration of "web" and waits until the source has it. */
void begin_migration(struct state *state, char ret_path[static 128]);
void resume_following(struct state *state, const char *path);
/* Waits until both hosts were asked for everything anew. */
void refresh_all(struct state *state);
/* Iterates until `is` says so; fails the test otherwise. */
void wait_until(struct state *state, bool (*is)(struct state *state));
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Simulated agents: one process that speaks the agent's API (docs/internals/agent-api.md) for hundreds of hosts, each with its own
 * address, key, certificate and TLS server, with virtual machines and migrations that are invented. It loads a real manager, and
 * keeps its own account of what the manager makes it do.
 *
 *   agents.c        the program: options, enrolment, what it counted
 *   sim_host.c      one host: its server, facts, lists
 *   sim_guests.c    documents of virtual machines, and what is done with them
 *   sim_migration.c migrations: phases and times as the real ones have them, nothing is copied
 */

#include <jansson.h>

#include "agent/events.h"
#include "agent/request_cache.h"
#include "base/map.h"
#include "io/http_client.h"
#include "io/http_server.h"
#include "io/loop.h"

#define SIM_GIB ((json_int_t)1 << 30)
#define SIM_MEMORY_A_VM (13 * SIM_GIB) /* of the host: about half of it is in use */
#define SIM_HOST_CPUS 64

struct sim_options {
        const char *manager; /* "127.0.0.1:8443" */
        char *ca_pem;
        char *authorization;               /* header */
        size_t n_hosts, n_vms;             /* VMs of each host */
        size_t n_datastores;               /* VMs are spread over shared1, shared2, ... */
        uint64_t copy_min_ms, copy_max_ms; /* how long a migration copies */
        size_t at_once;                    /* no copy ends before so many migrations were under way at once */
};

/* What happened here, whatever the manager's records say. */
struct sim_counts {
        uint64_t calls;
        uint64_t migrations, done, failed, cancelled;
        uint64_t now, most_at_once;
        uint64_t most_on_a_host;  /* as source and destination */
        uint64_t most_on_a_link;  /* final pauses at the same time; more than one is wrong */
        uint64_t without_permit;  /* final pauses that nobody had permitted */
        uint64_t memory_exceeded; /* destinations that had no room */
};

struct sim;

struct sim_host {
        struct sim *sim;
        size_t number;
        char name[32];
        char uid[64];
        char address[64]; /* "127.1.0.1:40001" */
        char ip[32];
        int listen_fd; /* until it serves */
        char *key_pem;
        struct http_server *server;
        struct events *events;
        struct request_cache *requests;
        uint64_t epoch;                              /* highest of a manager */
        json_t *vms;                                 /* uid -> document */
        json_t *datastores, *switches, *port_groups; /* name -> document */
        json_int_t promised;                         /* bytes of its VMs */
        uint64_t n_migrations, n_pauses;
        unsigned int enrolment; /* step */
};

struct sim {
        struct loop *loop;
        struct sim_options options;
        struct http_client *client;
        struct sim_host *hosts;
        struct map by_uid;      /* host uid -> struct sim_host */
        struct map migrations;  /* id -> struct sim_migration */
        json_t *cpu;            /* GET /agent/v1/cpu */
        json_int_t host_memory; /* bytes */
        size_t n_begun, n_serving;
        struct sim_counts counts;
        uint64_t random; /* state of sim_random() */
        int result;
};

/* 0 to n - 1; the same sequence in each run. */
uint64_t sim_random(struct sim *sim, uint64_t n);

/* sim_host.c: listens on a free port of an address of its own; serves once it has a certificate. */
int sim_host_init(struct sim *sim, struct sim_host *host, size_t number, struct error **ret_error);
int sim_host_serve(struct sim_host *host, const char *cert_pem, const char *ca_pem, struct error **ret_error);
void sim_host_deinit(struct sim_host *host);
/* Answers and keeps the answer for repeats; json and error are taken over. */
void sim_reply(struct http_request *request, int status, json_t *json);
void sim_reply_error(struct http_request *request, struct error *error);
struct sim_host *sim_host_of(const struct http_request *request);

/* sim_guests.c */
int sim_guests_init(struct sim_host *host);
/* The VM's document on the host, borrowed; NULL. */
json_t *sim_guest(const struct sim_host *host, const char *uid);
/* Puts the document there (taken over) with that power and epoch, and tells of it. */
void sim_guest_put(struct sim_host *host, json_t *vm, const char *power, json_int_t epoch);
/* It is not there any more, and the host says so. */
void sim_guest_gone(struct sim_host *host, const char *uid);
json_int_t sim_guest_memory(const json_t *vm);
void sim_vm_list(struct http_request *request, void *userdata);
void sim_vm_get(struct http_request *request, void *userdata);
void sim_vm_verb(struct http_request *request, void *userdata);
void sim_vm_console(struct http_request *request, void *userdata);

/* sim_migration.c */
void sim_migrations_deinit(struct sim *sim);
void sim_migration_start(struct http_request *request, void *userdata);
void sim_migration_list(struct http_request *request, void *userdata);
void sim_migration_get(struct http_request *request, void *userdata);
void sim_migration_cancel(struct http_request *request, void *userdata);
void sim_migration_switchover(struct http_request *request, void *userdata);
void sim_migration_limits(struct http_request *request, void *userdata);
void sim_migration_forget(struct http_request *request, void *userdata);

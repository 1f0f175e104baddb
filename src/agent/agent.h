/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The agent of one host: what every part of src/agent shares. There is one `struct agent` per process
 * (several in tests), owned by main.c. Fields are read by all files of this folder and changed by the one
 * named beside them. Everything runs on the one event loop. */

#include <jansson.h>

#include "agent/config.h"
#include "base/error.h"
#include "base/list.h"
#include "base/map.h"
#include "io/loop.h"

struct agent_startup;
struct cgroup;
struct checkpoints;
struct siblings;
struct events;
struct forecasts;
struct handshake;
struct host;
struct http_client;
struct http_server;
struct identity;
struct image_jobs;
struct migrations;
struct netlink;
struct ovs;
struct host_list;
struct request_cache;
struct storage_moves;
struct stores;
struct vswitch_set;

struct agent {
        struct loop *loop; /* borrowed */
        struct agent_config config;
        struct identity *identity; /* identity.h: host uid, certificate, key, CA */

        struct http_server *server;
        struct http_client
                *client; /* calls to peers: mTLS with our certificate, trusts the cluster's CA alone */

        struct map vms;                  /* uid -> struct vm; vm.c */
        struct list creations;           /* creations and deletions under way; vm_create.c */
        struct list switch_lists;        /* requests that wait for Open vSwitch; switch_list.c */
        struct netlink *netlink;         /* rtnetlink of our network namespace */
        struct ovs *ovs;                 /* Open vSwitch, for distributed switches */
        struct loop_source *tending;     /* mends what changed on them behind our back */
        unsigned int n_put_off;          /* times in a row that they were not, for a guest that is paused */
        struct vswitch_set *switches;    /* switches and port groups; api_config.c keeps them on disk */
        struct stores *stores;           /* stores.h: datastores */
        struct events *events;           /* events.h: subscribers of GET /agent/v1/events */
        struct host *host;               /* host.h: QEMU's version, accelerator, facts */
        struct cgroup *cgroup;           /* cgroup.h: a group for each VM, where there is cgroup v2 */
        struct request_cache *requests;  /* request_cache.h: answers by X-Drover-Request */
        struct host_list *removed_hosts; /* host_list.h: whose certificates count no more */
        struct host_list *fenced_hosts;  /* which are known to be down */
        struct checkpoints *checkpoints; /* checkpoints.h: memory of guests that left */
        struct siblings *siblings;       /* siblings.h: memory that guests of a tenant have in common */
        struct forecasts *forecasts;     /* forecast.h: samples and probes under way */
        struct handshake *handshake;     /* handshake.h: signed specifications of migrations */
        uint64_t manager_epoch;          /* highest seen, durable before it is acted on; api.c */
        struct storage_moves *storage_moves; /* storage_move.h: disks that go to other datastores */
        struct image_jobs *image_jobs;       /* image_jobs.h: conversion of images */
        struct migrations *migrations;       /* migration.c's own state; NULL until migration_recover_all() */

        struct agent_startup *startup; /* agent.c: what agent_start() has to do still; NULL afterwards */
        int lock_fd;                   /* STATE-DIR/lock: one agent at a time */
        char *address;                 /* where the API listens, once it does */
        bool adopted; /* every VM of an earlier run was looked at; only then is the API open */
};

/* Loads identity, epoch and what was configured; applies switches and datastores; no VM is touched and no
 * port is opened yet. `config` is moved from on success. */
int agent_new(
        struct loop *loop, struct agent_config *config, struct agent **ret_agent, struct error **ret_error);

/* Adopts the VMs of an earlier run, recovers their migrations (migration_recover_all()), then opens the API
 * on config.listen and calls `ready` from the loop. A failure ends up in the loop's exit code. */
int agent_start(struct agent *agent, loop_fn ready, void *userdata, struct error **ret_error);

/* Leaves VMs running; movers end with us. Accepts NULL. */
void agent_free(struct agent *agent);
DEFINE_CLEANUP(struct agent *, agent_free)

const char *agent_host_uid(const struct agent *agent);
/* "192.0.2.1:8444": where the API really listens (a test asks for port 0). */
const char *agent_listen_address(const struct agent *agent);

/* Sends a server-sent event ("vm", "vm-gone", "migration") to all subscribers. The document is taken over;
 * NULL (no memory) is ignored: the next event carries the whole state again. */
void agent_publish(struct agent *agent, const char *event, json_t *document);

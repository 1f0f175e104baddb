/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A small agent inside the test's process: docs/internals/agent-api.md over the real HTTP server with real mutual TLS,
 * with virtual machines that are documents and nothing more. */

#include <jansson.h>

#include "io/http_server.h"
#include "io/loop.h"

struct agent_double {
        struct loop *loop;
        struct http_server *server;
        int listen_fd; /* until it serves */
        char address[64];
        char *key_pem;
        char *csr_pem;
        char uid[64];
        json_t *vms;              /* uid -> document, as this host reports it */
        json_t *datastores;       /* name -> document */
        json_t *networks;         /* "switches/NAME", "port-groups/NAME" -> document */
        json_t *migration;        /* status document; NULL: none */
        json_t *waiting;          /* its sources that wait, [{"id", "peer"}]; NULL: it says nothing of such */
        json_t *storage_move;     /* status document of a storage migration; NULL: none */
        json_t *storage_moves;    /* id -> the same, of those that it does by itself (moves_disks) */
        json_t *disk_work_answer; /* instead of a true one; NULL: none */
        json_t *disk_work;        /* the last request for one; NULL: none */
        const char *
                fail_disk_work; /* those of this kind end with this error ("revert qemu-failed"); NULL: none do */
        json_t *seen;           /* "METHOD PATH" -> number of calls */
        char epoch[32];         /* of the last call */
        char peer[64];          /* certificate name of the last caller */
        json_t *removed;        /* the list of removed hosts; NULL: never sent */
        json_t *fenced;         /* the list of hosts that are confirmed down; NULL: never sent */
        struct http_stream *stream; /* to the manager; NULL: none */
        bool streams;               /* offers events */
        json_int_t memory_free_bytes;
        json_int_t link_bps; /* 0: its interface does not say */
        bool coordinates;    /* its migrations ask before their final pause: see agent_double_switchover() */
        unsigned int n_permits, n_waits; /* answers to that */
        json_int_t rate_limit_bps;       /* that its migration was told last; -1: nothing */
        bool moves_disks;                /* storage migrations end by themselves, at once */
        const char *no_disks_to;         /* those to this datastore fail */
        bool refuse_start;
        bool refuse_stop;           /* it is stopped */
        bool knows_no_states;       /* it is of a version before suspending */
        bool refuse_state;          /* suspending and resuming fail */
        bool crash_resumed;         /* what is resumed is taken, and ends */
        bool busy;                  /* nothing is resumed now */
        const char *refuse_for;     /* uid: start is refused since that host has a later epoch */
        json_int_t started_knowing; /* owner epoch of the document that was to be started last */
        bool start_clears;    /* the last start was told that nobody else has files of the VM\'s folder */
        bool forgetful;       /* answers 404 for what it does not have */
        const char *hold;     /* this verb is not answered, but kept in `held` */
        bool hold_migrations; /* nor is a request for a migration */
        bool hold_switch;     /* nor is the next switch that is put */
        const char *pad; /* answers below paths that have this in them are pad_bytes longer; NULL: none */
        size_t pad_bytes;
        struct http_request *held;           /* to be answered by the test, or at the end */
        struct http_request *held_before[8]; /* those before it, at the end */
        size_t n_held_before;
        char *cert_pem, *ca_pem;
        unsigned int
                n_blocks; /* so many times its answer about the host holds the whole loop, the manager's too, for block_ms */
        unsigned int block_ms;
        const char *shared_id; /* what is on the disk of shared datastores */
        json_t *lies; /* "METHOD PATH" -> what it answers whatever is true; as a string: that text as it is */
};

/* Listens on a free port of 127.0.0.1; answers nobody before agent_double_serve(). */
void agent_double_init(struct agent_double *agent, struct loop *loop);
/* With what enrolment gave. */
void agent_double_serve(
        struct agent_double *agent, const char *uid, const char *cert_pem, const char *ca_pem);
/* As when the host dies: connections are refused. */
void agent_double_stop(struct agent_double *agent);
/* The same host again, after agent_double_stop(). */
void agent_double_restart(struct agent_double *agent);
/* Sends an event; the manager must be listening. */
void agent_double_event(struct agent_double *agent, const char *event, const json_t *doc);
void agent_double_deinit(struct agent_double *agent);

/* Its migration is in this state of its switchover ("closed", "asked", "open"). */
void agent_double_switchover(struct agent_double *agent, const char *state);

int agent_double_calls(const struct agent_double *agent, const char *method_and_path);

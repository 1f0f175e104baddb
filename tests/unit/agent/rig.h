/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A real agent for tests: its own network namespace, a cluster CA of its own, a temporary folder, requests over mutual
 * TLS, real QEMU (TCG, firmware only), the mover that DROVER_MOVER names. Needs root. */

#include <jansson.h>

#include "agent/agent.h"
#include "io/http_client.h"

#define RIG_HOST_UID "11111111-1111-4111-8111-111111111111"
#define RIG_OTHER_UID "22222222-2222-4222-8222-222222222222"
#define RIG_VM_UID "33333333-3333-4333-8333-333333333333"

struct rig {
        char folder[32];
        struct loop *loop;
        struct agent *agent;
        char *ca_pem;
        char *ca_key_pem;
        struct http_client *manager; /* certificate manager.drover */
        struct http_client *host;    /* certificate of another host */
        bool ready;
        /* Headers of the next request; NULL: none. */
        const char *epoch;
        const char *request_id;
};

/* False: this machine cannot (no root); the test is to be skipped. Fails the test on any other trouble. */
bool rig_setup(struct rig *rig);
/* Kills what QEMU is left and removes everything. */
void rig_teardown(struct rig *rig);

/* Starts the agent (again). */
void rig_start_agent(struct rig *rig);
/* Ends it as SIGTERM does: VMs run on. */
void rig_stop_agent(struct rig *rig);

/* Sends a request and waits: returns the HTTP status; *ret_body (may be NULL) is the caller's, and for a problem
 * {"code", "detail"}. */
int rig_call(struct rig *rig, struct http_client *client, const char *method, const char *path, json_t *body,
        json_t **ret_body);

/* A certificate of the cluster for this name, with its key; the caller's. */
void rig_issue(struct rig *rig, const char *dns_name, char **ret_cert, char **ret_key);

/* Makes datastore "local", switch "sw0" and port group "default". */
void rig_configure(struct rig *rig);
/* Document of a VM without disks; the caller's. */
json_t *rig_vm_document(void);
/* Calls METHOD /agent/v1/vms/UID/VERB. */
int rig_vm(struct rig *rig, const char *verb, json_t *body, json_t **ret_body);
/* Iterates the loop until the VM has this power; false after 20 s. */
bool rig_wait_power(struct rig *rig, const char *power);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Facts about this host: QEMU, the accelerator that works, processors, memory, load. */

#include <jansson.h>

#include "agent/host_network.h"
#include "base/error.h"
#include "io/loop.h"
#include "vmm/qemu_binary.h"
#include "vmm/vm_config.h"

struct agent;

struct host {
        struct agent *agent;
        struct qemu_binary *qemu;
        enum vm_accelerator
                accelerator; /* what "auto" means here: KVM where a guest really runs on it, else TCG */
        bool kvm_works;
        char *kvm_reason; /* what the probe saw */

        struct host_network network;
        json_t *cpu; /* document of vmm/cpu_probe.h; NULL: not known (yet) */

        struct qemu_probe *qemu_probe;
        struct accel_probe *accel_probe;
        struct cpu_probe *cpu_probe;
        void (*done)(void *userdata, struct error *error);
        void *userdata;
};

/* Probes QEMU, then KVM (unless the configuration says tcg); `done` is called once from the loop (error borrowed). Which
 * processors guests can have is found out afterwards: nothing waits for it. */
int host_new(struct agent *agent, void (*done)(void *userdata, struct error *error), void *userdata,
        struct host **ret_host, struct error **ret_error);
/* Accepts NULL. */
void host_free(struct host *host);
DEFINE_CLEANUP(struct host *, host_free)

/* The answer of GET /agent/v1/host; NULL without memory. */
json_t *host_document(struct agent *agent);

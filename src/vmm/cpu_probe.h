/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which processors a guest can be given on this host, asked of QEMU with the accelerator that guests run on: under KVM that is
 * what the hardware, its firmware and the kernel leave over, under TCG what that QEMU emulates. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "io/loop.h"
#include "vmm/vm_config.h"

struct cpu_probe;

/* `document` is the callee's from now on; NULL on failure, then `error` (borrowed) is set:
 *
 * {"id": hash of all the rest, "accelerator", "vendor", "features": [names that a guest can have and migrate with],
 *  "models": [{"name", "missing": [names of features that it would need], "alias_of": null for "X-vN" and those without versions,
 *              "migration_safe", "deprecated"; of one that lacks nothing and is no alias also "vendor", "features": [names]}]}
 *
 * Names are spelled with '-', as QEMU lists them, sorted. */
typedef void (*cpu_probe_fn)(void *userdata, json_t *document, const struct error *error);

/* Asks the binary at `path`; done is called once, from the loop. */
int cpu_probe_start(struct loop *loop, const char *path, enum vm_accelerator accelerator, uint64_t timeout_ms,
        cpu_probe_fn done, void *userdata, struct cpu_probe **ret_probe, struct error **ret_error);
/* Ends it without a call of `done`; also to be called after it. Accepts NULL. */
void cpu_probe_free(struct cpu_probe *probe);
DEFINE_CLEANUP(struct cpu_probe *, cpu_probe_free)

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Does a guest really run on an accelerator? A /dev/kvm that opens proves nothing: there are hosts (nested
 * ones above all) whose KVM runs the firmware and hangs where the guest leaves real mode, or makes QEMU
 * abort. So a small guest (probe_guest.S) runs through real, protected and long mode with paging, works a
 * little in each, and reports through the isa-debug-exit device; its QEMU is a child with a time limit. */

#include "base/error.h"
#include "base/macros.h"
#include "io/loop.h"
#include "vmm/vm_config.h"

#define ACCEL_PROBE_TIMEOUT_MS 10000 /* a guest that works needs less than 1 s, under load and TCG included */

struct accel_probe;

/* `reason` says what was seen: a sentence for logs and the host's status, borrowed. */
typedef void (*accel_probe_fn)(void *userdata, bool works, const char *reason);

/* Runs the probe guest on `accelerator` (KVM or TCG); done is called once, from the loop. Fails at once only
 * when the child cannot be started. The caller keeps the result: probe once at start-up. */
int accel_probe_start(struct loop *loop, const char *qemu_binary, enum vm_accelerator accelerator,
        uint64_t timeout_ms, accel_probe_fn done, void *userdata, struct accel_probe **ret_probe,
        struct error **ret_error);
/* Ends it without a call of `done`; also to be called after it. Accepts NULL. */
void accel_probe_free(struct accel_probe *probe);
DEFINE_CLEANUP(struct accel_probe *, accel_probe_free)

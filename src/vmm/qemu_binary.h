/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a QEMU binary can do, asked of the binary itself: a throw-away process with machine "none" answers
 * QMP queries and is killed. */

#include "base/error.h"
#include "base/macros.h"
#include "io/loop.h"

struct qemu_machine {
        char *name;  /* "pc-q35-7.2" */
        char *alias; /* "q35"; NULL if none */
        unsigned int cpus_max;
        bool deprecated;
};

struct qemu_binary {
        char *path;
        unsigned int major, minor, micro;
        char *package; /* the distribution's version string; may be "" */
        struct qemu_machine *machines;
        size_t n_machines;
        char **capabilities; /* names of the migration capabilities */
        size_t n_capabilities;
        bool kvm_present; /* built with KVM: says nothing about guests, see accel_probe.h */
};

struct qemu_probe;

/* `binary` is the callee's from now on (qemu_binary_free); NULL on failure, then `error` (borrowed) is set. */
typedef void (*qemu_probe_fn)(void *userdata, struct qemu_binary *binary, const struct error *error);

/* Asks the binary at `path`; done is called once, from the loop. NOT_SUPPORTED for a QEMU before 7.2. */
int qemu_probe_start(struct loop *loop, const char *path, uint64_t timeout_ms, qemu_probe_fn done,
        void *userdata, struct qemu_probe **ret_probe, struct error **ret_error);
/* Ends it without a call of `done`; also to be called after it. Accepts NULL. */
void qemu_probe_free(struct qemu_probe *probe);
DEFINE_CLEANUP(struct qemu_probe *, qemu_probe_free)

/* Accepts NULL. */
void qemu_binary_free(struct qemu_binary *binary);
DEFINE_CLEANUP(struct qemu_binary *, qemu_binary_free)

/* The versioned name of an alias ("q35" gives "pc-q35-7.2") or of a name that it knows; borrowed. NULL when
 * this QEMU does not know the machine. */
const char *qemu_binary_resolve_machine(const struct qemu_binary *binary, const char *machine);
bool qemu_binary_has_capability(const struct qemu_binary *binary, const char *name);
bool qemu_binary_at_least(const struct qemu_binary *binary, unsigned int major, unsigned int minor);
/* "7.2.22"; the caller frees it. NULL without memory. */
char *qemu_binary_version(const struct qemu_binary *binary);

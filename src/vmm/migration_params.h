/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How QEMU is set up for a migration, and how its answers about one are read (qemu.md sections 4, 5, 14).
 * Capabilities and parameters outlive a migration inside QEMU, and an unknown name makes the whole command
 * fail: so the present ones are asked first, only known ones are set, and the former values are kept to be
 * restored. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/qmp.h"

enum migration_side { MIGRATION_SOURCE, MIGRATION_DESTINATION };

/* What a migration may come to need. QEMU takes capabilities before it only. */
struct migration_needs {
        bool throttle; /* source: auto-converge */
        bool hold; /* source: the guest is not stopped before it is allowed: switchover-ack, from QEMU 8.1 on */
        bool one_way;   /* source: into a file, from where nothing comes back: no return-path */
        bool post_copy; /* both sides: postcopy-ram, and return-path */
        bool pause;     /* source: pause-before-switchover: QEMU waits when it has stopped the guest */
};

/* Arguments of migrate-set-capabilities from the answer of query-migrate-capabilities. At the source:
 * events, return-path on; at the destination: events, late-block-activate (where it exists); at both what `needs` says. Every other
 * capability that changes the stream or the rules off. *ret_restore has the former values of the changed
 * ones. Both are the caller's. NOT_SUPPORTED when QEMU lacks a capability that we cannot do without. */
int migration_capabilities_build(enum migration_side side, const struct migration_needs *needs,
        const json_t *current, json_t **ret_set, json_t **ret_restore, struct error **ret_error);

/* Arguments of migrate-set-parameters for the source from the answer of query-migrate-parameters: no bandwidth
 * limit of QEMU's own, a throttle that stays idle until migration_throttle_build(), `downtime_limit_ms` (1 to 2,000,000; never 0, which stops the guest too early). */
int migration_parameters_build(uint64_t downtime_limit_ms, const json_t *current, json_t **ret_set,
        json_t **ret_restore, struct error **ret_error);

/* As far as QEMU throttles by its own decision: the least that it can be told, and nothing that a guest would notice. */
#define MIGRATION_THROTTLE_IDLE_PERCENT 1u

/* Arguments of migrate-set-parameters that begin to throttle the vCPUs of a guest that does not converge, where a pass ends
 * and up to `max_percent` (1 to 99) of the time; only with auto-converge on. The caller's; NULL without memory. */
json_t *migration_throttle_build(unsigned int max_percent);

/* Arguments of migrate-set-parameters that all but stop QEMU's writing (`hold`), or let it go on. Before QEMU 8.1 it then never comes to the
 * end of what it has to send: in each 100 ms it writes the head of a section and finds its share used up (migration/ram.c,
 * ram_save_iterate(); its bytes count as they are put, not as they are flushed). Later ones write 32 KiB in each 100 ms.
 * The caller's; NULL without memory. */
json_t *migration_hold_build(bool hold);

/* Does the above over QMP: queries, then sets; `done` is called once from the loop with NULL or the error
 * (borrowed). */
struct migration_setup;
typedef void (*migration_setup_fn)(void *userdata, const struct error *error);
int migration_setup_start(struct qmp *qmp, enum migration_side side, const struct migration_needs *needs,
        uint64_t timeout_ms, migration_setup_fn done, void *userdata, struct migration_setup **ret_setup,
        struct error **ret_error);
/* After `done`: QEMU will wait for a message on the return path before it stops the guest. */
bool migration_setup_holds(const struct migration_setup *setup);
/* Puts the former values back (after a migration that did not happen); `done` may be NULL. */
int migration_setup_restore(
        struct migration_setup *setup, migration_setup_fn done, void *userdata, struct error **ret_error);
/* Forgets it: no call of `done` any more. To be called before qmp_free() or after its `lost`. Accepts NULL. */
void migration_setup_free(struct migration_setup *setup);
DEFINE_CLEANUP(struct migration_setup *, migration_setup_free)

enum migration_status {
        MIGRATION_STATUS_NONE, /* QEMU knows of no migration */
        MIGRATION_STATUS_SETUP,
        MIGRATION_STATUS_ACTIVE,
        MIGRATION_STATUS_PRE_SWITCHOVER,
        MIGRATION_STATUS_DEVICE,
        MIGRATION_STATUS_POSTCOPY, /* any of its states */
        MIGRATION_STATUS_WAIT_UNPLUG,
        MIGRATION_STATUS_CANCELLING,
        MIGRATION_STATUS_FAILING, /* 11.0 and later */
        MIGRATION_STATUS_CANCELLED,
        MIGRATION_STATUS_FAILED,
        MIGRATION_STATUS_COMPLETED,
        MIGRATION_STATUS_OTHER, /* a word that this version does not know */
        N_MIGRATION_STATUSES
};

/* From the words of QMP ("pre-switchover"); unknown ones give OTHER. */
enum migration_status migration_status_from_string(const char *s);
const char *migration_status_to_string(enum migration_status status);
/* True for cancelled, failed, completed. */
bool migration_status_is_final(enum migration_status status);

/* The answer of query-migrate. Values that QEMU did not give are 0. The event "completed" (and this status) comes
 * a moment before QEMU has filled in total_ms and downtime_ms and before the run state goes from finish-migrate
 * to postmigrate (seen on 7.2): who needs those asks again. */
struct migration_info {
        enum migration_status status;
        uint64_t total_ms;
        uint64_t downtime_ms; /* only when completed */
        uint64_t setup_ms;
        uint64_t ram_total_bytes;
        uint64_t ram_remaining_bytes;
        uint64_t ram_transferred_bytes;
        uint64_t dirty_pages_per_s;
        uint64_t dirty_sync_count;
        uint64_t page_size_bytes;
        double mbps;
        unsigned int cpu_throttle_percent;
        char *error;   /* QEMU's description of a failure; NULL if none */
        char *blocked; /* first reason why migration is blocked; NULL if none */
};
#define MIGRATION_INFO_INIT ((struct migration_info){.status = MIGRATION_STATUS_NONE})

/* 0, or PROTOCOL for an answer that is none. *ret is untouched on failure, else the caller deinits it. */
int migration_info_parse(const json_t *answer, struct migration_info *ret, struct error **ret_error);
void migration_info_deinit(struct migration_info *info);
#define _cleanup_migration_info_ _cleanup_(migration_info_deinit)

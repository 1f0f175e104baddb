/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/migration_params.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"

#define CAPABILITIES_MAX 256
#define WORD_MAX 255
#define DOWNTIME_LIMIT_MAX_MS UINT64_C(2000000) /* QEMU's MAX_MIGRATE_DOWNTIME */

/* Until the mover names a limit. Small, so that QEMU does not stop the guest by itself; never 0, with which QEMU
 * switches over on the mere estimate that nothing is left (qemu.md section 5.2). */
#define DOWNTIME_LIMIT_START_MS 1

/* auto-converge slows the guest's vCPUs when two passes dirtied more than this share of what they sent. Backpressure makes
 * QEMU's idea of "sent" the true one; its default of 50 would slow guests down that converge by themselves. The agent
 * lowers it when the mover sees no progress and the policy has come to the throttle (docs/internals/mover-control.md); until then
 * QEMU's own decision comes to MIGRATION_THROTTLE_IDLE_PERCENT. */
#define THROTTLE_TRIGGER_PERCENT 100
#define THROTTLE_INITIAL_PERCENT 40
#define THROTTLE_INCREMENT_PERCENT 20

/* What each side needs on. Everything else that exists and is on is turned off: unknown capabilities of later
 * versions too, since each changes the stream or the rules that the mover and the handoff stand on. */
static const char *const source_on[] = {"events", "return-path", NULL};
static const char *const destination_on[] = {"events", "late-block-activate", NULL};
static const char *const throttle_on[] = {"auto-converge", NULL};
static const char *const post_copy_on[] = {"postcopy-ram", "return-path", NULL};

#define HOLD_CAPABILITY "switchover-ack"
#define PAUSE_CAPABILITY "pause-before-switchover"
/* Not 0, which is no limit; QEMU divides it by ten for each 100 ms, and that must not be 0 either. */
#define HOLD_BYTES_PER_S 10

static bool is_in(const char *const *names, const char *name)
{
        for (; *names; names++)
                if (!strcmp(*names, name))
                        return true;
        return false;
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while setting up a migration");
}

static int bad_answer(struct error **ret_error, const char *command)
{
        return error_set(ret_error, ERROR_PROTOCOL, NULL, "QEMU's answer to %s is not understood", command);
}

/* Appends {"capability", "state"}. */
static bool append_capability(json_t *list, const char *name, bool state)
{
        return json_array_append_new(list, json_pack("{s:s,s:b}", "capability", name, "state", state)) == 0;
}

static bool is_wanted(enum migration_side side, const struct migration_needs *needs, const char *name)
{
        if (needs->one_way && !strcmp(name, "return-path"))
                return false;
        return is_in(side == MIGRATION_SOURCE ? source_on : destination_on, name) ||
               (side == MIGRATION_SOURCE && needs->throttle && is_in(throttle_on, name)) ||
               (side == MIGRATION_SOURCE && needs->hold && !strcmp(name, HOLD_CAPABILITY)) ||
               (side == MIGRATION_SOURCE && needs->pause && !strcmp(name, PAUSE_CAPABILITY)) ||
               (needs->post_copy && is_in(post_copy_on, name));
}

int migration_capabilities_build(enum migration_side side, const struct migration_needs *needs,
        const json_t *current, json_t **ret_set, json_t **ret_restore, struct error **ret_error)
{
        _cleanup_json_ json_t *set = json_array(), *restore = json_array();
        json_t *set_arguments, *restore_arguments;
        bool has_return_path = false, has_post_copy = false;

        if (!json_is_array(current) || json_array_size(current) > CAPABILITIES_MAX)
                return bad_answer(ret_error, "query-migrate-capabilities");
        for (size_t i = 0; i < json_array_size(current); i++) {
                const json_t *item = json_array_get(current, i);
                bool state = false, wanted;
                const char *name;

                if (doc_need_string(item, "", "capability", WORD_MAX, &name, NULL) < 0 ||
                        doc_opt_bool(item, "", "state", &state, NULL) < 0)
                        return bad_answer(ret_error, "query-migrate-capabilities");
                has_return_path |= !strcmp(name, "return-path");
                has_post_copy |= !strcmp(name, "postcopy-ram");
                wanted = is_wanted(side, needs, name);
                if (wanted == state)
                        continue;
                if (!append_capability(set, name, wanted) || !append_capability(restore, name, state))
                        return no_memory(ret_error);
        }
        if (side == MIGRATION_SOURCE && !has_return_path)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Use QEMU 7.2 or later.",
                        "this QEMU has no return path for migrations");
        if (needs->post_copy && !has_post_copy)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Leave post-copy out of --converge.",
                        "this QEMU does not know post-copy");
        set_arguments = json_pack("{s:O}", "capabilities", set);
        restore_arguments = json_pack("{s:O}", "capabilities", restore);
        if (!set_arguments || !restore_arguments) {
                json_decref(set_arguments);
                json_decref(restore_arguments);
                return no_memory(ret_error);
        }
        *ret_set = set_arguments;
        *ret_restore = restore_arguments;
        return 0;
}

int migration_parameters_build(uint64_t downtime_limit_ms, const json_t *current, json_t **ret_set,
        json_t **ret_restore, struct error **ret_error)
{
        uint64_t limit = CLAMP(downtime_limit_ms, UINT64_C(1), DOWNTIME_LIMIT_MAX_MS);
        uint64_t old_limit = 300, old_bandwidth = 0, old_trigger = 50;
        uint64_t old_initial = 20, old_increment = 10, old_max = 99; /* QEMU's defaults */
        json_t *set, *restore;

        if (doc_opt_u64(current, "", "downtime-limit", 0, DOWNTIME_LIMIT_MAX_MS, &old_limit, NULL) < 0 ||
                doc_opt_u64(current, "", "max-bandwidth", 0, INT64_MAX, &old_bandwidth, NULL) < 0 ||
                doc_opt_u64(current, "", "throttle-trigger-threshold", 1, 100, &old_trigger, NULL) < 0 ||
                doc_opt_u64(current, "", "cpu-throttle-initial", 1, 99, &old_initial, NULL) < 0 ||
                doc_opt_u64(current, "", "cpu-throttle-increment", 1, 99, &old_increment, NULL) < 0 ||
                doc_opt_u64(current, "", "max-cpu-throttle", 1, 99, &old_max, NULL) < 0 ||
                !json_is_object(current))
                return bad_answer(ret_error, "query-migrate-parameters");
        set = json_pack("{s:I,s:I,s:i,s:i,s:i,s:i}", "max-bandwidth", (json_int_t)0, "downtime-limit",
                (json_int_t)limit, "throttle-trigger-threshold", THROTTLE_TRIGGER_PERCENT,
                "cpu-throttle-initial", (int)MIGRATION_THROTTLE_IDLE_PERCENT, "cpu-throttle-increment",
                (int)MIGRATION_THROTTLE_IDLE_PERCENT, "max-cpu-throttle",
                (int)MIGRATION_THROTTLE_IDLE_PERCENT);
        restore = json_pack("{s:I,s:I,s:I,s:I,s:I,s:I}", "max-bandwidth", (json_int_t)old_bandwidth,
                "downtime-limit", (json_int_t)old_limit, "throttle-trigger-threshold",
                (json_int_t)old_trigger, "cpu-throttle-initial", (json_int_t)old_initial,
                "cpu-throttle-increment", (json_int_t)old_increment, "max-cpu-throttle", (json_int_t)old_max);
        if (!set || !restore) {
                json_decref(set);
                json_decref(restore);
                return no_memory(ret_error);
        }
        *ret_set = set;
        *ret_restore = restore;
        return 0;
}

json_t *migration_throttle_build(unsigned int max_percent)
{
        return json_pack("{s:i, s:i, s:i, s:i}", "throttle-trigger-threshold", 1, "cpu-throttle-initial",
                (int)MIN(max_percent, (unsigned int)THROTTLE_INITIAL_PERCENT), "cpu-throttle-increment",
                THROTTLE_INCREMENT_PERCENT, "max-cpu-throttle", (int)max_percent);
}

json_t *migration_hold_build(bool hold)
{
        return json_pack("{s:i}", "max-bandwidth", hold ? HOLD_BYTES_PER_S : 0);
}

/* The steps over QMP, in order; the destination leaves the parameters out. */
enum step {
        STEP_QUERY_CAPABILITIES,
        STEP_SET_CAPABILITIES,
        STEP_QUERY_PARAMETERS,
        STEP_SET_PARAMETERS,
        STEP_RESTORE_CAPABILITIES,
        STEP_RESTORE_PARAMETERS,
        STEP_DONE,
        N_STEPS,
};

static const char *const step_commands[] = {"query-migrate-capabilities", "migrate-set-capabilities",
        "query-migrate-parameters", "migrate-set-parameters", "migrate-set-capabilities",
        "migrate-set-parameters", NULL};
static_assert(ARRAY_SIZE(step_commands) == N_STEPS);

struct migration_setup {
        struct qmp *qmp;
        enum migration_side side;
        struct migration_needs needs;
        bool holds;
        enum step step;
        struct qmp_call *call;    /* NULL between the steps */
        json_t *set;              /* arguments of the set command to come */
        json_t *old_capabilities; /* NULL until they were changed */
        json_t *old_parameters;
        uint64_t timeout_ms;
        migration_setup_fn done;
        void *userdata;
};

static void on_answer(void *userdata, const json_t *result, const struct error *error);

static void finish(struct migration_setup *setup, const struct error *error)
{
        migration_setup_fn done = TAKE_PTR(setup->done);

        setup->step = STEP_DONE;
        if (done)
                done(setup->userdata, error);
}

/* Sends the command of the present step. `arguments` is taken over. */
static int send_step(struct migration_setup *setup, json_t *arguments, struct error **ret_error)
{
        return qmp_command(setup->qmp, step_commands[setup->step], arguments, -1, setup->timeout_ms,
                on_answer, setup, &setup->call, ret_error);
}

static bool has_capability(const json_t *list, const char *wanted)
{
        json_t *item;
        size_t i;

        json_array_foreach ((json_t *)list, i, item) {
                const char *name = json_string_value(json_object_get(item, "capability"));

                if (name && !strcmp(name, wanted))
                        return true;
        }
        return false;
}

/* What the answer of the present step leads to. */
static int take_answer(struct migration_setup *setup, const json_t *result, struct error **ret_error)
{
        switch (setup->step) {
        case STEP_QUERY_CAPABILITIES:
                setup->holds = setup->needs.hold && has_capability(result, HOLD_CAPABILITY);
                return migration_capabilities_build(
                        setup->side, &setup->needs, result, &setup->set, &setup->old_capabilities, ret_error);
        case STEP_QUERY_PARAMETERS:
                return migration_parameters_build(
                        DOWNTIME_LIMIT_START_MS, result, &setup->set, &setup->old_parameters, ret_error);
        default:
                return 0;
        }
}

static enum step next_step(const struct migration_setup *setup)
{
        switch (setup->step) {
        case STEP_SET_CAPABILITIES:
                return setup->side == MIGRATION_SOURCE ? STEP_QUERY_PARAMETERS : STEP_DONE;
        case STEP_SET_PARAMETERS:
                return STEP_DONE;
        case STEP_RESTORE_CAPABILITIES:
                return setup->old_parameters ? STEP_RESTORE_PARAMETERS : STEP_DONE;
        default:
                return setup->step + 1;
        }
}

static void on_answer(void *userdata, const json_t *result, const struct error *error)
{
        struct migration_setup *setup = userdata;
        _cleanup_error_ struct error *failure = NULL;
        json_t *arguments;

        setup->call = NULL;
        if (error) {
                finish(setup, error);
                return;
        }
        if (take_answer(setup, result, &failure) < 0) {
                finish(setup, failure);
                return;
        }
        setup->step = next_step(setup);
        if (setup->step == STEP_DONE) {
                finish(setup, NULL);
                return;
        }
        arguments = setup->step == STEP_RESTORE_PARAMETERS ? TAKE_PTR(setup->old_parameters)
                                                           : TAKE_PTR(setup->set);
        if (send_step(setup, arguments, &failure) < 0)
                finish(setup, failure);
}

int migration_setup_start(struct qmp *qmp, enum migration_side side, const struct migration_needs *needs,
        uint64_t timeout_ms, migration_setup_fn done, void *userdata, struct migration_setup **ret_setup,
        struct error **ret_error)
{
        _cleanup_(migration_setup_freep) struct migration_setup *setup = ALLOC(struct migration_setup);
        int r;

        if (!setup)
                return no_memory(ret_error);
        *setup = (struct migration_setup){.qmp = qmp,
                .side = side,
                .needs = *needs,
                .timeout_ms = timeout_ms,
                .done = done,
                .userdata = userdata};
        r = send_step(setup, NULL, ret_error);
        if (r < 0)
                return r;
        *ret_setup = TAKE_PTR(setup);
        return 0;
}

bool migration_setup_holds(const struct migration_setup *setup)
{
        return setup->holds;
}

int migration_setup_restore(
        struct migration_setup *setup, migration_setup_fn done, void *userdata, struct error **ret_error)
{
        int r;

        if (setup->step != STEP_DONE)
                return error_set(ret_error, ERROR_BUSY, NULL, "the setup of a migration is still under way");
        if (!setup->old_capabilities) /* it never came that far: an empty list changes nothing */
                setup->old_capabilities = json_pack("{s:[]}", "capabilities");
        if (!setup->old_capabilities)
                return no_memory(ret_error);
        setup->step = STEP_RESTORE_CAPABILITIES;
        r = send_step(setup, TAKE_PTR(setup->old_capabilities), ret_error);
        if (r < 0) {
                setup->step = STEP_DONE;
                return r;
        }
        setup->done = done;
        setup->userdata = userdata;
        return 0;
}

void migration_setup_free(struct migration_setup *setup)
{
        if (!setup)
                return;
        qmp_call_cancel(setup->call);
        json_decref(setup->set);
        json_decref(setup->old_capabilities);
        json_decref(setup->old_parameters);
        free(setup);
}

/* "none" is QEMU's word for "a migration was never started". */
static const char *const status_names[] = {"none", "setup", "active", "pre-switchover", "device",
        "postcopy-active", "wait-unplug", "cancelling", "failing", "cancelled", "failed", "completed",
        "other"};
static_assert(ARRAY_SIZE(status_names) == N_MIGRATION_STATUSES);

enum migration_status migration_status_from_string(const char *s)
{
        for (size_t i = 0; i < MIGRATION_STATUS_OTHER; i++)
                if (!strcmp(s, status_names[i]))
                        return (enum migration_status)i;
        return strncmp(s, "postcopy-", strlen("postcopy-")) ? MIGRATION_STATUS_OTHER
                                                            : MIGRATION_STATUS_POSTCOPY;
}

const char *migration_status_to_string(enum migration_status status)
{
        return status_names[status];
}

bool migration_status_is_final(enum migration_status status)
{
        return status == MIGRATION_STATUS_CANCELLED || status == MIGRATION_STATUS_FAILED ||
               status == MIGRATION_STATUS_COMPLETED;
}

/* 0 for what is absent, no integer, or negative. */
static uint64_t number(const json_t *obj, const char *key)
{
        json_int_t n = json_integer_value(json_object_get(obj, key));

        return n > 0 ? (uint64_t)n : 0;
}

int migration_info_parse(const json_t *answer, struct migration_info *ret, struct error **ret_error)
{
        const json_t *status = json_object_get(answer, "status"), *ram = json_object_get(answer, "ram");
        const char *failure = json_string_value(json_object_get(answer, "error-desc"));
        const char *blocked =
                json_string_value(json_array_get(json_object_get(answer, "blocked-reasons"), 0));
        struct migration_info info = MIGRATION_INFO_INIT;

        if (!json_is_object(answer) || (status && !json_is_string(status)))
                return bad_answer(ret_error, "query-migrate");
        if (status)
                info.status = migration_status_from_string(json_string_value(status));
        info.total_ms = number(answer, "total-time");
        info.downtime_ms = number(answer, "downtime");
        info.setup_ms = number(answer, "setup-time");
        info.cpu_throttle_percent =
                (unsigned int)MIN(number(answer, "cpu-throttle-percentage"), UINT64_C(100));
        info.ram_total_bytes = number(ram, "total");
        info.ram_remaining_bytes = number(ram, "remaining");
        info.ram_transferred_bytes = number(ram, "transferred");
        info.dirty_pages_per_s = number(ram, "dirty-pages-rate");
        info.dirty_sync_count = number(ram, "dirty-sync-count");
        info.page_size_bytes = number(ram, "page-size");
        info.mbps = json_number_value(json_object_get(ram, "mbps"));
        info.error = alloc_strdup(failure);
        info.blocked = alloc_strdup(blocked);
        if ((failure && !info.error) || (blocked && !info.blocked)) {
                migration_info_deinit(&info);
                return no_memory(ret_error);
        }
        *ret = info;
        return 0;
}

void migration_info_deinit(struct migration_info *info)
{
        free(TAKE_PTR(info->error));
        free(TAKE_PTR(info->blocked));
}

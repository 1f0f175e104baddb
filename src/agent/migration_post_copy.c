/* SPDX-License-Identifier: Apache-2.0 */

/* Post-copy at the source (docs/decisions/0009-post-copy.md), one step after the other: the network is judged, the journal notes that the guest is
 * to be held, QMP `stop`, `handed-off` is written, `migrate-start-postcopy`. Up to that command the migration can be ended like any other, with
 * the one difference that QEMU does not continue a guest that was stopped before: the agent does. From there on QEMU serves pages until it
 * says `completed`, and is never continued. */

#include <string.h>

#include "agent/agent.h"
#include "agent/migration.h"
#include "agent/migration_state.h"
#include "agent/mover_process.h"
#include "agent/vm.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/file.h"
#include "vmm/qmp.h"

#define QMP_TIMEOUT_MS 10000
/* From the command until the destination's QEMU has loaded the device state. Nothing is sent meanwhile that could show a QEMU that hangs. */
#define BEGIN_LIMIT_MS 60000
#define POST_COPY_STREAM_BYTES (64 * 1024) /* room between QEMU and the mover */

bool migration_post_copy_allowed(const struct migration *m)
{
        return m->role == MIGRATION_SOURCE_SIDE
                       ? convergence_allows(&m->source.convergence, CONVERGE_POST_COPY)
                       : json_is_true(json_object_get(m->spec, "post_copy"));
}

/* What the destination misses comes by itself at the path's rate, so a guest stands still that long at most, all in all, wherever it reaches; and
 * a round trip for each page that it cannot wait for. Where that adds up to more than the longest pause that anybody may ask for, it is no
 * help. */
static int judge_network(
        const struct migration *m, const struct convergence_status *s, struct error **ret_error)
{
        uint64_t rtt_ms = m->source.least_rtt_us / 1000;
        json_int_t bps = json_integer_value(json_object_get(m->progress, "capacity_bps"))
                                 ?: json_integer_value(json_object_get(m->progress, "rate_bps"));
        /* Of the wire: in post-copy every page goes whole. */
        uint64_t rate = MAX((uint64_t)MAX(bps, (json_int_t)0) / 8, UINT64_C(1));
        uint64_t whole_ms = (uint64_t)((double)s->remaining_bytes * 1000 / (double)rate);
        char needs[24], left[16], path[16];

        if (whole_ms <= POST_COPY_LIMIT_MS && rtt_ms <= POST_COPY_MAX_RTT_MS)
                return 0;
        return error_set(ret_error, ERROR_NOT_CONVERGING,
                "Use a faster path, or try again when the guest is less busy.",
                "post-copy was refused: the guest would have to fetch %s at %s a second (%s) over a round "
                "trip of %llu ms; bounds are %d s and %d ms",
                text_format_size(s->remaining_bytes, left), text_format_size(rate, path),
                text_format_duration_ms(whole_ms, needs), (unsigned long long)rtt_ms,
                POST_COPY_LIMIT_MS / 1000, POST_COPY_MAX_RTT_MS);
}

static void on_stopped(void *userdata, const json_t *result _unused_, const struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        m->source.post_copy_call = NULL;
        if (error) {
                error_set(&e, error->code, error->hint, "the guest could not be stopped for post-copy: %s",
                        error_message(error));
                return migration_stop(m, e);
        }
        m->source.post_copy = POST_COPY_STOPPED;
        migration_kick(m);
}

void migration_post_copy_begin(struct migration *m, const struct convergence_status *status)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;
        int r = 0;

        if (json_is_true(json_object_get(m->progress, "tunnel")))
                r = error_set(&e, ERROR_NOT_SUPPORTED, "Leave post-copy out of --converge.",
                        "post-copy was refused: QEMU's migration stream has parts that drover does not know");
        if (r == 0)
                r = judge_network(m, status, &e);
        /* Before it is stopped, so that this costs it nothing: an agent that starts again knows that it may stand still. */
        if (r == 0)
                r = migration_note(m, "held", &e);
        if (r == 0) {
                m->source.post_copy = POST_COPY_STOPPING;
                r = vm && vm->qmp ? qmp_command(vm->qmp, "stop", NULL, -1, QMP_TIMEOUT_MS, on_stopped, m,
                                            &m->source.post_copy_call, &e)
                                  : error_set(&e, ERROR_QEMU_FAILED, NULL, "QEMU's monitor does not answer");
        }
        if (r < 0)
                migration_stop(m, e);
}

static void on_begun(void *userdata, const json_t *result _unused_, const struct error *error)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        m->source.post_copy_call = NULL;
        /* A monitor that is silent, or was lost, says nothing: what the stream brings decides, or the time limit. */
        if (!error || error->code != ERROR_QEMU_FAILED || m->source.post_copy != POST_COPY_BEGUN)
                return;
        m->source.post_copy = POST_COPY_STOPPED; /* QEMU said no */
        m->qemu = HANDOFF_QEMU_MIGRATING;
        error_set(&e, error->code, error->hint, "post-copy could not be begun: %s", error_message(error));
        migration_stop(m, e);
}

static void on_begin_limit(void *userdata)
{
        struct migration *m = userdata;
        struct error *e = NULL;

        loop_source_free(TAKE_PTR(m->source.post_copy_limit));
        if (m->source.post_copy != POST_COPY_BEGUN || m->source.commit_sent)
                return;
        error_set(&e, ERROR_TIMED_OUT, "See the logs of both QEMUs.",
                "the guest's device state did not reach the destination within %d s of the beginning of "
                "post-copy",
                BEGIN_LIMIT_MS / 1000);
        migration_stop(m, e);
        migration_abort_path(m);
        migration_kick(m);
}

/* The mover first: without it, nothing has begun. */
static void begin(struct migration *m, struct vm *vm)
{
        struct error *e = NULL;

        m->source.voted = true;
        if (mover_process_send(m->mover, json_pack("{s:s}", "op", "handed-off"), NULL, 0, &e) < 0 ||
                loop_add_timer(
                        m->agent->loop, BEGIN_LIMIT_MS, on_begin_limit, m, &m->source.post_copy_limit) < 0 ||
                qmp_command(vm->qmp, "migrate-start-postcopy", NULL, -1, QMP_TIMEOUT_MS, on_begun, m,
                        &m->source.post_copy_call, &e) < 0)
                return migration_stop(m, e);
        m->source.post_copy = POST_COPY_BEGUN;
        m->source.post_copy_started_ms = clock_now_ms(loop_clock(m->agent->loop));
        m->qemu = HANDOFF_QEMU_SERVING;
}

void migration_post_copy_step(struct migration *m)
{
        struct vm *vm = migration_vm(m);
        struct error *e = NULL;

        if (m->source.post_copy == POST_COPY_STOPPING && !m->source.post_copy_call) {
                error_set(&e, ERROR_QEMU_FAILED, NULL,
                        "QEMU's monitor was lost when the guest was to be stopped");
                return migration_stop(m, e);
        }
        if (m->source.post_copy != POST_COPY_STOPPED || !m->mover)
                return;
        if (m->source.device_state) { /* the last pass was already the last */
                m->source.post_copy = POST_COPY_SKIPPED;
                return migration_kick(m);
        }
        if (!migration_record_handed_off(m))
                return;
        if (!vm || !vm->qmp)
                return; /* the tick comes again */
        /* A page that the guest waits for comes behind what is in there. */
        if (m->source.qemu_fd >= 0)
                vm_stream_set_room(m->source.qemu_fd, POST_COPY_STREAM_BYTES);
        fd_closep(&m->source.qemu_fd);
        begin(m, vm);
}

void migration_post_copy_device_state(struct migration *m)
{
        if (m->source.post_copy != POST_COPY_BEGUN || m->source.loaded)
                return;
        /* QEMU found the rest small enough after all and completes as without post-copy, so nothing is served. */
        m->source.post_copy = POST_COPY_SKIPPED;
        if (m->qemu == HANDOFF_QEMU_SERVING)
                m->qemu = HANDOFF_QEMU_MIGRATING;
}

void migration_post_copy_restore(struct migration *m)
{
        if (m->source.post_copy == POST_COPY_NONE)
                return;
        m->source.post_copy = m->record == HANDOFF_OUTGOING ? POST_COPY_STOPPING : POST_COPY_BEGUN;
        if (migration_is_serving(m))
                m->qemu = HANDOFF_QEMU_SERVING; /* whether its monitor answers or not */
}

enum handoff_qemu migration_post_copy_state(const struct migration *m, enum handoff_qemu otherwise)
{
        if (migration_is_serving(m))
                return HANDOFF_QEMU_SERVING;
        return m->source.post_copy != POST_COPY_NONE && otherwise == HANDOFF_QEMU_RUNNING ? HANDOFF_QEMU_HELD
                                                                                          : otherwise;
}

void migration_post_copy_say_lost(struct migration *m)
{
        struct error *reason = NULL;

        if (m->source.said_lost)
                return;
        m->source.said_lost = true;
        error_set(&reason, m->stop_reason ? m->stop_reason->code : ERROR_PEER_FAILED,
                "Start the virtual machine: its disks are as after a power failure.",
                "the virtual machine is off: post-copy was cut off before all of the guest's memory had come "
                "(%s)",
                m->stop_reason ? error_message(m->stop_reason) : "the other host ended it");
        error_free(m->stop_reason);
        m->stop_reason = reason;
}

bool migration_post_copy_outcome_known(struct migration *m)
{
        const struct handoff_peer *peer = &m->peer;

        if (!migration_is_serving(m) || m->source.completed || m->source.lost)
                return true;
        if (peer->answered && peer->record == HANDOFF_OWNER &&
                (peer->arrived || peer->qemu == HANDOFF_QEMU_RUNNING)) {
                m->source.completed = true; /* it had all of the memory before its path to us ended */
                return true;
        }
        /* An agent that has just started says little at first. */
        if (!migration_peer_fenced(m) &&
                !(peer->answered && (peer->qemu == HANDOFF_QEMU_GONE || peer->record == HANDOFF_NONE ||
                                            peer->record == HANDOFF_ABANDONED))) {
                migration_peer_ask(m, false);
                return false;
        }
        migration_post_copy_say_lost(m);
        m->source.lost = true;
        return true;
}

void migration_post_copy_result(const struct migration *m, json_t *result)
{
        uint64_t began_ms = m->source.post_copy_started_ms, ended_ms = m->source.completed_ms;

        if (!migration_is_serving(m))
                return;
        json_object_set_new(result, "post_copy",
                json_pack("{s:I, s:I, s:I}", "ms",
                        (json_int_t)(ended_ms > began_ms ? ended_ms - began_ms : 0), "pages_requested",
                        json_integer_value(json_object_get(m->progress, "pages_requested")), "bytes",
                        json_integer_value(json_object_get(m->progress, "bytes_post_copy"))));
}

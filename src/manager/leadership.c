/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/leadership.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/pki.h"
#include "manager/ca.h"
#include "manager/manager.h"
#include "manager/standby.h"

/* A leader that could not show itself for so long stops before another one may begin. */
#define STOP_AFTER_MS (UINT64_C(1) * STORE_LEASE_MS - 1000)

struct leadership {
        const struct config *config;
        struct loop *loop;
        int listen_fd;
        char holder[PKI_FINGERPRINT_SIZE]; /* of the manager's certificate: no two installations share it */
        struct store *store;               /* NULL: not reached yet */
        struct manager *manager;           /* leading */
        struct standby *standby;           /* or standing by */
        struct loop_source *timer;
        uint64_t renewed_ms;
        char why_not_renewed[256]; /* "": the last attempt did not fail */
        bool lost;
        char said[256]; /* last, about why it does not lead */
};

static uint64_t now_ms(const struct leadership *l)
{
        return clock_now_ms(loop_clock(l->loop));
}

/* Both servers take their own descriptor over, one after the other. */
static int listening(const struct leadership *l, int *ret_fd, struct error **ret_error)
{
        int fd = fcntl(l->listen_fd, F_DUPFD_CLOEXEC, 3);

        if (fd < 0)
                return error_from_errno(ret_error, errno, "cannot listen");
        *ret_fd = fd;
        return 0;
}

static int stand_by(struct leadership *l, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        int r;

        r = listening(l, &fd, ret_error);
        if (r >= 0)
                r = standby_new(l->loop, l->config->state_dir, l->config->name, fd, &l->standby, ret_error);
        if (r >= 0)
                TAKE_FD(fd);
        return r;
}

static int begin_to_lead(struct leadership *l, uint64_t term, struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        int r;

        standby_free(TAKE_PTR(l->standby));
        r = listening(l, &fd, ret_error);
        if (r >= 0)
                r = manager_new(l->config, l->loop, l->store, term, fd, &l->manager, ret_error);
        if (r < 0)
                return r;
        TAKE_FD(fd);
        l->renewed_ms = now_ms(l);
        r = store_renew(l->store, ret_error); /* loading took its time */
        if (r < 0)
                return r;
        *l->why_not_renewed = *l->said = '\0';
        log_notice("leading, term %llu", (unsigned long long)term);
        return 0;
}

/* What anybody may know of it, who has shown no token: nothing of the database and its place. */
static const char *in_public(enum error_code code)
{
        switch (code) {
        case ERROR_UNREACHABLE:
        case ERROR_TIMED_OUT:
                return "its store cannot be reached";
        case ERROR_STALE_EPOCH:
                return "another manager took the lead";
        default:
                return "something is wrong with its store";
        }
}

static void step_down(struct leadership *l, enum error_code code, const char *why)
{
        _cleanup_error_ struct error *error = NULL;

        log_warning("leading no longer: %s", why);
        manager_free(TAKE_PTR(l->manager));
        l->lost = false;
        /* Without effect when another one has taken the lead; else nobody has to wait for our silence. */
        if (l->store && store_resign(l->store, &error) < 0)
                log_debug("cannot resign: %s", error_message(error));
        error_free(TAKE_PTR(error));
        if (!l->standby && stand_by(l, &error) < 0)
                log_error("cannot stand by: %s", error_message(error));
        if (l->standby)
                standby_tell(l->standby, NULL, in_public(code));
}

/* Why it does not lead: to the log when that is news, and to whoever asks. */
static void tell(struct leadership *l, const char *leader, const struct error *why)
{
        char text[sizeof(l->said)];

        if (leader)
                snprintf(text, sizeof(text), "standing by: %s leads", leader);
        else
                snprintf(text, sizeof(text), "%s", error_message(why));
        if (strcmp(text, l->said) && leader)
                log_notice("%s", text);
        else if (strcmp(text, l->said))
                log_error("%s", text);
        snprintf(l->said, sizeof(l->said), "%s", text);
        if (l->standby)
                standby_tell(l->standby, leader, why ? in_public(why->code) : NULL);
}

/* From inside the store's calls: nothing that is under way may be freed here. */
static void on_lost(void *userdata)
{
        struct leadership *l = userdata;

        l->lost = true;
        loop_source_rearm(l->timer, 0);
}

static int open_store(struct leadership *l, struct error **ret_error)
{
        int r = manager_open_store(l->config, loop_clock(l->loop), &l->store, ret_error);

        if (r >= 0)
                store_on_lost(l->store, on_lost, l);
        return r;
}

static int try_to_lead(struct leadership *l, struct error **ret_error)
{
        struct store_leader leader = {};
        int r;

        if (!l->store) {
                r = open_store(l, ret_error);
                if (r < 0)
                        return r;
        }
        r = store_lead(l->store, l->holder, l->config->name, &leader, ret_error);
        if (r == 1)
                tell(l, leader.server, NULL);
        if (r != 0)
                return MIN(r, 0);
        r = begin_to_lead(l, leader.term, ret_error);
        if (r < 0) /* what it had begun to load may be half of it */
                step_down(l, (*ret_error)->code, error_message(*ret_error));
        return r;
}

/* After a failure the store is not asked beyond STOP_AFTER_MS, for that may take a while. After a mere silence (a handler that took
 * long, SIGSTOP) it is: what it answers is true. */
static void renew(struct leadership *l)
{
        _cleanup_error_ struct error *error = NULL;
        uint64_t asked_ms = now_ms(l), silent_ms;
        bool too_late = *l->why_not_renewed && asked_ms - l->renewed_ms >= STOP_AFTER_MS;
        int r = l->lost || too_late ? 0 : store_renew(l->store, &error);

        if (l->lost) {
                step_down(l, error ? error->code : ERROR_STALE_EPOCH,
                        error ? error_message(error) : "the store has to be read anew");
        } else if (too_late) {
                step_down(l, ERROR_UNREACHABLE, l->why_not_renewed);
        } else if (r >= 0) {
                l->renewed_ms = asked_ms;
                *l->why_not_renewed = '\0';
        } else {
                snprintf(l->why_not_renewed, sizeof(l->why_not_renewed), "%s", error_message(error));
                log_warning("cannot renew the lead: %s", error_message(error));
                silent_ms = MIN(now_ms(l) - l->renewed_ms, STOP_AFTER_MS);
                loop_source_rearm(l->timer, MIN(STOP_AFTER_MS - silent_ms, STORE_BEAT_MS));
        }
}

static void on_timer(void *userdata)
{
        struct leadership *l = userdata;
        _cleanup_error_ struct error *error = NULL;

        loop_source_rearm(l->timer, STORE_BEAT_MS);
        if (l->manager)
                return renew(l);
        if (!l->standby && stand_by(l, &error) < 0)
                log_error("cannot stand by: %s", error_message(error));
        error_free(TAKE_PTR(error));
        if (try_to_lead(l, &error) < 0)
                tell(l, NULL, error);
}

static int find_holder(struct leadership *l, struct error **ret_error)
{
        struct ca ca = {};
        int r = ca_load(l->config->state_dir, clock_unix_ms(loop_clock(l->loop)), &ca, ret_error);

        if (r < 0)
                return r;
        r = pki_fingerprint(ca.manager_pem, l->holder, ret_error);
        ca_deinit(&ca);
        return r;
}

/* A database that is away, full, read-only for now or busy: waited for, like any standby does. */
static bool may_mend(const struct error *error)
{
        return error && (error->code == ERROR_UNREACHABLE || error->code == ERROR_TIMED_OUT ||
                                error->code == ERROR_NO_SPACE || error->code == ERROR_NO_RESOURCES ||
                                error->code == ERROR_CONFLICT);
}

/* The first attempt: a store that is away is waited for, standing by; what else is wrong with it an administrator has to mend. */
static int begin(struct leadership *l, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r = stand_by(l, ret_error);

        if (r < 0)
                return r;
        r = try_to_lead(l, &error);
        if (r < 0 && !may_mend(error))
                return error_propagate(ret_error, TAKE_PTR(error));
        if (r < 0)
                tell(l, NULL, error);
        return 0;
}

int leadership_new(const struct config *config, struct loop *loop, int listen_fd,
        struct leadership **ret_leadership, struct error **ret_error)
{
        _cleanup_(leadership_freep) struct leadership *l = ALLOC(struct leadership);
        int r;

        if (!l)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        *l = (struct leadership){.config = config, .loop = loop, .listen_fd = listen_fd};
        r = loop_add_timer(loop, STORE_BEAT_MS, on_timer, l, &l->timer);
        if (r < 0)
                error_from_errno(ret_error, r, "cannot set up timers");
        if (r >= 0)
                r = find_holder(l, ret_error);
        if (r >= 0)
                r = begin(l, ret_error);
        if (r < 0) {
                l->listen_fd = -1;
                return r;
        }
        *ret_leadership = TAKE_PTR(l);
        return 0;
}

void leadership_free(struct leadership *l)
{
        bool led;
        int r;

        if (!l)
                return;
        led = l->manager;
        loop_source_free(l->timer);
        manager_free(l->manager);
        standby_free(l->standby);
        r = led ? store_resign(l->store, NULL) : 1;
        if (r < 0)
                log_notice("another manager will take over after %u s", STORE_LEASE_MS / 1000);
        else if (r == 0)
                log_notice("gave up the lead: another manager may take over at once");
        else if (led)
                log_notice("another manager had taken the lead already");
        store_close(l->store);
        if (l->listen_fd >= 0)
                close(l->listen_fd);
        free(l);
}

struct manager *leadership_manager(const struct leadership *leadership)
{
        return leadership->manager;
}

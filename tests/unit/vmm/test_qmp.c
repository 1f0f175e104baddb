/* SPDX-License-Identifier: Apache-2.0 */
/* The client against a peer that the test plays on the other end of a socketpair, byte by byte. (Against a real
 * QEMU: test_qemu_process.c.) */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/macros.h"
#include "base/torture.h"
#include "io/sock.h"
#include "vmm/qmp.h"

#define GREETING \
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": " \
        "\"\"}, " \
        "\"capabilities\": [\"oob\"]}}\r\n"
#define LONG_MS 5000

struct reply {
        bool came;
        bool failed;
        enum error_code code;
        json_int_t value;
};

struct fixture {
        struct loop *loop;
        struct qmp *qmp;
        int peer;
        bool ready;
        bool lost;
        enum error_code lost_code;
        size_t n_events;
        int64_t event_us;
        bool free_in_callback;
};

static void on_ready(void *userdata, unsigned int major, unsigned int minor, unsigned int micro)
{
        struct fixture *f = userdata;

        assert_int_equal(major, 7);
        assert_int_equal(minor, 2);
        assert_int_equal(micro, 22);
        f->ready = true;
}

static void on_event(void *userdata, const char *name, const json_t *data, int64_t unix_us)
{
        struct fixture *f = userdata;

        f->n_events++;
        f->event_us = unix_us;
        if (f->free_in_callback) {
                qmp_free(f->qmp);
                f->qmp = NULL;
        }
}

static void on_lost(void *userdata, const struct error *error)
{
        struct fixture *f = userdata;

        assert_false(f->lost);
        f->lost = true;
        f->lost_code = error->code;
}

static void on_reply(void *userdata, const json_t *result, const struct error *error)
{
        struct reply *reply = userdata;

        assert_false(reply->came);
        assert_true(!result != !error);
        reply->came = true;
        reply->failed = error != NULL;
        reply->code = error ? error->code : N_ERROR_CODES;
        reply->value = json_integer_value(json_object_get(result, "value"));
}

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));
        const struct qmp_callbacks callbacks = {
                .ready = on_ready, .event = on_event, .lost = on_lost, .userdata = f};
        int fds[2];

        assert_non_null(f);
        assert_int_equal(loop_new(&f->loop), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        f->peer = fds[1];
        assert_int_equal(qmp_new(f->loop, fds[0], LONG_MS, &callbacks, &f->qmp, NULL), 0);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        qmp_free(f->qmp);
        loop_free(f->loop);
        if (f->peer >= 0)
                close(f->peer);
        free(f);
        return 0;
}

static void peer_says(struct fixture *f, const char *text)
{
        assert_int_equal(send(f->peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* The next line that the client sent, as JSON. */
static json_t *peer_hears(struct fixture *f)
{
        char line[4096];
        size_t n = 0;
        json_t *json;

        while (n == 0 || line[n - 1] != '\n') {
                ssize_t r = recv(f->peer, line + n, 1, MSG_DONTWAIT);

                if (r == 1)
                        n++;
                else
                        assert_true(loop_iterate(f->loop, LONG_MS) >= 0);
                assert_true(n < sizeof(line));
        }
        json = json_loadb(line, n, 0, NULL);
        assert_non_null(json);
        return json;
}

static json_int_t peer_hears_command(struct fixture *f, const char *name)
{
        json_t *json = peer_hears(f);
        json_int_t id = json_integer_value(json_object_get(json, "id"));

        assert_string_equal(json_string_value(json_object_get(json, "execute")), name);
        json_decref(json);
        return id;
}

static void peer_answers(struct fixture *f, json_int_t id, int value)
{
        char text[128];

        snprintf(text, sizeof(text), "{\"return\": {\"value\": %d}, \"id\": %lld}\r\n", value, (long long)id);
        peer_says(f, text);
}

static void negotiate(struct fixture *f)
{
        peer_says(f, GREETING);
        peer_answers(f, peer_hears_command(f, "qmp_capabilities"), 0);
        assert_int_equal(loop_wait(f->loop, &f->ready, LONG_MS), 0);
}

static void command(struct fixture *f, const char *name, uint64_t timeout_ms, struct reply *reply)
{
        assert_int_equal(qmp_command(f->qmp, name, NULL, -1, timeout_ms, on_reply, reply, NULL, NULL), 0);
}

static void assert_protocol_error(struct fixture *f)
{
        assert_int_equal(loop_wait(f->loop, &f->lost, LONG_MS), 0);
        assert_int_equal(f->lost_code, ERROR_PROTOCOL);
}

static void negotiates_capabilities_first(void **state)
{
        struct fixture *f = *state;
        struct reply reply = {0};

        command(f, "query-status", LONG_MS, &reply); /* before the greeting: has to wait */
        negotiate(f);
        peer_answers(f, peer_hears_command(f, "query-status"), 7);
        assert_int_equal(loop_wait(f->loop, &reply.came, LONG_MS), 0);
        assert_int_equal(reply.value, 7);
}

static void answers_may_come_in_any_order(void **state)
{
        struct fixture *f = *state;
        struct reply first = {0}, second = {0};
        json_int_t id1, id2;

        negotiate(f);
        command(f, "one", LONG_MS, &first);
        command(f, "two", LONG_MS, &second);
        id1 = peer_hears_command(f, "one");
        id2 = peer_hears_command(f, "two");
        peer_answers(f, id2, 2);
        peer_answers(f, id1, 1);
        assert_int_equal(loop_wait(f->loop, &first.came, LONG_MS), 0);
        assert_true(second.came);
        assert_int_equal(first.value, 1);
        assert_int_equal(second.value, 2);
}

static void message_in_single_bytes_is_read(void **state)
{
        struct fixture *f = *state;
        static const char greeting[] = GREETING;

        for (size_t i = 0; greeting[i]; i++) {
                assert_int_equal(send(f->peer, greeting + i, 1, 0), 1);
                assert_true(loop_iterate(f->loop, 100) >= 0);
        }
        peer_answers(f, peer_hears_command(f, "qmp_capabilities"), 0);
        assert_int_equal(loop_wait(f->loop, &f->ready, LONG_MS), 0);
}

static void refusal_of_qemu_fails_the_command_only(void **state)
{
        struct fixture *f = *state;
        struct reply reply = {0};
        char text[160];

        negotiate(f);
        command(f, "cont", LONG_MS, &reply);
        snprintf(text, sizeof(text),
                "{\"id\": %lld, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n",
                (long long)peer_hears_command(f, "cont"));
        peer_says(f, text);
        assert_int_equal(loop_wait(f->loop, &reply.came, LONG_MS), 0);
        assert_int_equal(reply.code, ERROR_QEMU_FAILED);
        assert_true(qmp_is_ready(f->qmp));
}

static void timeout_keeps_the_connection_and_late_answer_is_ignored(void **state)
{
        struct fixture *f = *state;
        struct reply blocked = {0}, next = {0};
        json_int_t id;

        negotiate(f);
        command(f, "query-migrate", 20, &blocked);
        id = peer_hears_command(f, "query-migrate");
        assert_int_equal(loop_wait(f->loop, &blocked.came, LONG_MS), 0);
        assert_int_equal(blocked.code, ERROR_TIMED_OUT);
        command(f, "query-status", LONG_MS, &next);
        peer_answers(f, id, 1);
        peer_answers(f, peer_hears_command(f, "query-status"), 2);
        assert_int_equal(loop_wait(f->loop, &next.came, LONG_MS), 0);
        assert_int_equal(next.value, 2);
        assert_false(f->lost);
}

static void command_of_a_silent_peer_is_not_sent_after_its_time(void **state)
{
        struct fixture *f = *state;
        struct reply late = {0}, next = {0};

        command(f, "cont", 10, &late); /* no greeting yet */
        assert_int_equal(loop_wait(f->loop, &late.came, LONG_MS), 0);
        assert_int_equal(late.code, ERROR_TIMED_OUT);
        negotiate(f);
        command(f, "query-status", LONG_MS, &next);
        (void)peer_hears_command(f, "query-status"); /* and not "cont" */
}

static void cancelled_call_is_not_answered(void **state)
{
        struct fixture *f = *state;
        struct reply cancelled = {0}, next = {0};
        struct qmp_call *call = NULL;

        negotiate(f);
        assert_int_equal(qmp_command(f->qmp, "one", NULL, -1, LONG_MS, on_reply, &cancelled, &call, NULL), 0);
        command(f, "two", LONG_MS, &next);
        peer_answers(f, peer_hears_command(f, "one"), 1);
        qmp_call_cancel(call);
        peer_answers(f, peer_hears_command(f, "two"), 2);
        assert_int_equal(loop_wait(f->loop, &next.came, LONG_MS), 0);
        assert_false(cancelled.came);
}

static void loss_fails_every_pending_call(void **state)
{
        struct fixture *f = *state;
        struct reply first = {0}, second = {0};

        negotiate(f);
        command(f, "one", LONG_MS, &first);
        command(f, "two", LONG_MS, &second);
        (void)peer_hears_command(f, "one");
        close(f->peer);
        f->peer = -1;
        assert_int_equal(loop_wait(f->loop, &f->lost, LONG_MS), 0);
        assert_true(first.came && first.failed && second.came && second.failed);
        assert_int_equal(f->lost_code, ERROR_UNREACHABLE);
        assert_int_equal(
                qmp_command(f->qmp, "x", json_object(), -1, 1, on_reply, &first, NULL, NULL), -EHOSTUNREACH);
}

static void descriptor_goes_with_its_command(void **state)
{
        struct fixture *f = *state;
        struct reply getfd = {0};
        int file = open("/dev/null", O_RDONLY | O_CLOEXEC), got[2];
        char data[512];
        size_t n, n_fds = 2;

        negotiate(f);
        assert_int_equal(qmp_command(f->qmp, "getfd", json_pack("{s:s}", "fdname", "m"), file, LONG_MS,
                                 on_reply, &getfd, NULL, NULL),
                0);
        close(file); /* the client has its own */
        assert_true(loop_iterate(f->loop, LONG_MS) >= 0);
        assert_int_equal(sock_recv_fds(f->peer, data, sizeof(data), &n, got, &n_fds), 0);
        assert_int_equal(n_fds, 1);
        assert_true(n >= 1 && data[0] == '{');
        close(got[0]);
}

static void events_are_passed_on(void **state)
{
        struct fixture *f = *state;

        negotiate(f);
        peer_says(f,
                "{\"timestamp\": {\"seconds\": 1700000000, \"microseconds\": 25}, \"event\": \"STOP\"}\r\n");
        while (!f->n_events)
                assert_true(loop_iterate(f->loop, LONG_MS) >= 0);
        assert_int_equal(f->event_us, 1700000000000025);
}

static void client_may_be_freed_from_its_callback(void **state)
{
        struct fixture *f = *state;
        struct reply reply = {0};

        negotiate(f);
        f->free_in_callback = true;
        command(f, "one", LONG_MS, &reply);
        peer_says(f, "{\"event\": \"STOP\"}\r\n{\"event\": \"RESUME\"}\r\n");
        while (f->qmp)
                assert_true(loop_iterate(f->loop, LONG_MS) >= 0);
        assert_int_equal(f->n_events, 1);
        assert_false(reply.came);
}

static void answer_to_no_command_ends_the_connection(void **state)
{
        struct fixture *f = *state;

        negotiate(f);
        peer_answers(f, 4711, 0);
        assert_protocol_error(f);
}

static void answer_before_its_command_was_sent_ends_the_connection(void **state)
{
        struct fixture *f = *state;
        struct reply reply = {0};

        command(f, "one", LONG_MS, &reply); /* gets the id 1, and waits for the greeting */
        peer_says(f, GREETING "{\"return\": {}, \"id\": 1}\r\n");
        assert_protocol_error(f);
        assert_true(reply.failed);
}

static void greeting_that_is_none_ends_the_connection(void **state)
{
        static const char *const greetings[] = {"{}\n", "{\"QMP\": []}\n", "[]\n", "7\n", "{\"QMP\"\n",
                "\xff\xfe\n",
                "{\"QMP\": {\"version\": {\"qemu\": {\"major\": -1, \"minor\": 2, \"micro\": 3}}}}\n",
                "{\"QMP\": {\"version\": {\"qemu\": {\"major\": \"7\", \"minor\": 2, \"micro\": 3}}}}\n"};

        for (size_t i = 0; i < ARRAY_SIZE(greetings); i++) {
                void *own = NULL;

                setup(&own);
                peer_says(own, greetings[i]);
                assert_protocol_error(own);
                teardown(&own);
        }
}

static void truncated_message_is_a_loss(void **state)
{
        struct fixture *f = *state;

        negotiate(f);
        peer_says(f, "{\"return\": {\"val");
        close(f->peer);
        f->peer = -1;
        assert_int_equal(loop_wait(f->loop, &f->lost, LONG_MS), 0);
}

static void endless_message_ends_the_connection(void **state)
{
        struct fixture *f = *state;
        static char junk[64 << 10];
        size_t sent = 0;

        negotiate(f);
        memset(junk, ' ', sizeof(junk));
        while (!f->lost) {
                ssize_t n = send(f->peer, junk, sizeof(junk), MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n > 0)
                        sent += (size_t)n;
                assert_true(loop_iterate(f->loop, 100) >= 0);
                assert_true(sent < 2 * (size_t)QMP_MESSAGE_MAX);
        }
        assert_int_equal(f->lost_code, ERROR_PROTOCOL);
}

static void silent_peer_runs_into_the_limit(void **state)
{
        struct fixture *f = *state;
        struct fixture own = {.loop = f->loop};
        const struct qmp_callbacks callbacks = {.lost = on_lost, .userdata = &own};
        int fds[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        assert_int_equal(qmp_new(f->loop, fds[0], 20, &callbacks, &own.qmp, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &own.lost, LONG_MS), 0);
        assert_int_equal(own.lost_code, ERROR_TIMED_OUT);
        qmp_free(own.qmp);
        close(fds[1]);
}

static void socket_that_never_appears_runs_into_the_limit(void **state)
{
        struct fixture *f = *state;
        struct fixture own = {.loop = f->loop};
        const struct qmp_callbacks callbacks = {.lost = on_lost, .userdata = &own};

        assert_int_equal(qmp_connect(f->loop, "/nonexistent/qmp.sock", 50, &callbacks, &own.qmp, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &own.lost, LONG_MS), 0);
        assert_int_equal(own.lost_code, ERROR_TIMED_OUT);
        qmp_free(own.qmp);
}

static void too_many_open_calls_are_refused(void **state)
{
        struct fixture *f = *state;
        static struct reply replies[QMP_CALLS_MAX];

        negotiate(f);
        for (size_t i = 0; i < QMP_CALLS_MAX; i++)
                command(f, "x", LONG_MS, &replies[i]);
        assert_int_equal(qmp_command(f->qmp, "x", NULL, -1, LONG_MS, on_reply, NULL, NULL, NULL), -EBUSY);
}

#ifdef DROVER_TORTURE
/* One whole session; true when the command was answered by the peer. */
static bool session(struct fixture *f)
{
        const struct qmp_callbacks callbacks = {
                .ready = on_ready, .event = on_event, .lost = on_lost, .userdata = f};
        struct reply reply = {0};
        int fds[2];
        bool done;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        f->peer = fds[1];
        if (qmp_new(f->loop, fds[0], LONG_MS, &callbacks, &f->qmp, NULL) < 0) {
                close(fds[0]);
                return false;
        }
        if (qmp_command(f->qmp, "x", json_object(), -1, LONG_MS, on_reply, &reply, NULL, NULL) < 0)
                return false;
        /* What the peer says is known beforehand: the ids are 0 and 1. */
        peer_says(f, GREETING);
        for (int rounds = 0; rounds < 20 && !f->lost; rounds++) {
                if (rounds == 5)
                        peer_answers(f, 0, 0);
                if (rounds == 10)
                        peer_answers(f, 1, 1);
                (void)loop_iterate(f->loop, 0);
        }
        done = reply.came && !reply.failed;
        assert_true(done || f->lost); /* nothing may get lost without a word */
        return done;
}

static void every_fallible_call_may_fail(void **state)
{
        bool over = false;

        for (uint64_t nth = 1; !over; nth++) {
                struct fixture f = {.peer = -1};
                bool done;

                assert_int_equal(loop_new(&f.loop), 0);
                torture_arm(nth);
                done = session(&f);
                over = torture_count() < nth;
                torture_arm(0);
                assert_true(done || !over);
                qmp_free(f.qmp);
                loop_free(f.loop);
                close(f.peer);
        }
}
#endif

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
        const struct CMUnitTest tests[] = {
                CASE(negotiates_capabilities_first),
                CASE(answers_may_come_in_any_order),
                CASE(message_in_single_bytes_is_read),
                CASE(refusal_of_qemu_fails_the_command_only),
                CASE(timeout_keeps_the_connection_and_late_answer_is_ignored),
                CASE(command_of_a_silent_peer_is_not_sent_after_its_time),
                CASE(cancelled_call_is_not_answered),
                CASE(loss_fails_every_pending_call),
                CASE(descriptor_goes_with_its_command),
                CASE(events_are_passed_on),
                CASE(client_may_be_freed_from_its_callback),
                CASE(answer_to_no_command_ends_the_connection),
                CASE(answer_before_its_command_was_sent_ends_the_connection),
                CASE(greeting_that_is_none_ends_the_connection),
                CASE(truncated_message_is_a_loss),
                CASE(endless_message_ends_the_connection),
                CASE(silent_peer_runs_into_the_limit),
                CASE(socket_that_never_appears_runs_into_the_limit),
                CASE(too_many_open_calls_are_refused),
#ifdef DROVER_TORTURE
                cmocka_unit_test(every_fallible_call_may_fail),
#endif
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

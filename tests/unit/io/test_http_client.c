/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "unit/io/http_fixture.h"

static void several_calls_run_side_by_side(void **state)
{
        _cleanup_answer_ struct answer a = {}, b = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/who", .timeout_ms = WAIT_MS};

        assert_int_equal(http_client_call(f->client, &spec, on_reply, &a, NULL, NULL), 0);
        assert_int_equal(http_client_call(f->client, &spec, on_reply, &b, NULL, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &a.done, WAIT_MS), 0);
        assert_int_equal(loop_wait(f->loop, &b.done, WAIT_MS), 0);
        assert_int_equal(a.status, 200);
        assert_int_equal(b.status, 200);
}

static void a_problem_document_becomes_an_error_object(void **state)
{
        _cleanup_answer_ struct answer a = {};

        fixture_call(*state, "GET", "/problem", NULL, &a);
        assert_int_equal(a.status, 409);
        assert_int_equal(a.code, ERROR_LOCKED);
        assert_string_equal(a.message, "the disk is in use");
        assert_string_equal(answer_text(&a, "hint"), "Stop it there.");
}

static void a_broken_json_answer_is_a_protocol_error(void **state)
{
        _cleanup_answer_ struct answer a = {};

        fixture_call(*state, "GET", "/broken", NULL, &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.code, ERROR_PROTOCOL);
        assert_null(a.body);
}

static void an_answer_larger_than_allowed_is_a_protocol_error(void **state)
{
        _cleanup_answer_ struct answer a = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {.method = "GET",
                .address = f->address,
                .path = "/large",
                .timeout_ms = WAIT_MS,
                .body_max_bytes = 4000};

        fixture_call_spec(f, &spec, &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.code, ERROR_PROTOCOL);
        assert_non_null(strstr(a.message, "4000"));
}

static void a_redirect_is_not_followed(void **state)
{
        _cleanup_answer_ struct answer a = {};
        struct fixture *f = *state;

        fixture_call(f, "GET", "/redirect", NULL, &a);
        assert_int_equal(a.status, 302);
        assert_int_equal(f->n_handled, 0);
}

static void a_peer_that_is_not_there_is_unreachable(void **state)
{
        _cleanup_answer_ struct answer a = {};
        struct fixture *f = *state;

        close(fixture_listen(f->address));
        fixture_call(f, "GET", "/who", NULL, &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.code, ERROR_UNREACHABLE);
        assert_non_null(strstr(a.message, f->address));
}

static void a_peer_that_never_answers_times_out(void **state)
{
        _cleanup_answer_ struct answer a = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/park", .timeout_ms = 50};

        fixture_call_spec(f, &spec, &a);
        assert_int_equal(a.status, 0);
        assert_int_equal(a.code, ERROR_TIMED_OUT);
        assert_int_equal(loop_wait(f->loop, &f->aborted, WAIT_MS), 0); /* and the server learns of it */
}

static void count_slowly(void *userdata, int status, json_t *body _unused_, struct error *error _unused_)
{
        uint64_t until_ms = clock_now_ms(&clock_system) + 20;
        size_t *n = userdata;

        while (clock_now_ms(&clock_system) < until_ms)
                ;
        (*n)++;
}

/* What took its part of the loop's time leaves the rest for the next turn. */
static void calls_that_end_at_once_do_not_hold_the_loop(void **state)
{
        struct fixture *f = *state;
        _cleanup_fd_ int listening = fixture_listen(f->address); /* nobody answers */
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/", .timeout_ms = 100};
        uint64_t until_ms;
        size_t n = 0, before;

        for (int i = 0; i < 5; i++)
                assert_int_equal(http_client_call(f->client, &spec, count_slowly, &n, NULL, NULL), 0);
        for (until_ms = clock_now_ms(&clock_system) + 50; clock_now_ms(&clock_system) < until_ms;)
                assert_int_equal(loop_iterate(f->loop, 1), 0);
        usleep(200000);
        while (n < 5) {
                before = n;
                assert_int_equal(loop_iterate(f->loop, WAIT_MS), 0);
                assert_true(n <= before + 1);
        }
}

static void a_peer_that_speaks_something_else_is_an_error(void **state)
{
        _cleanup_answer_ struct answer a = {};
        _cleanup_fd_ int listening = -1, fd = -1;
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/", .timeout_ms = WAIT_MS};

        listening = fixture_listen(f->address);
        assert_int_equal(http_client_call(f->client, &spec, on_reply, &a, NULL, NULL), 0);
        while (fd < 0) {
                assert_int_equal(loop_iterate(f->loop, 1), 0);
                fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        }
        assert_int_equal(send(fd, "220 mail ready\r\n", 16, MSG_NOSIGNAL), 16);
        shutdown(fd, SHUT_WR);
        assert_int_equal(loop_wait(f->loop, &a.done, WAIT_MS), 0);
        assert_int_equal(a.status, 0);
        assert_int_not_equal(a.code, -1);
}

static void values_that_would_change_the_url_are_refused(void **state)
{
        struct fixture *f = *state;
        const struct http_call_spec bad[] = {
                {.method = "GET", .address = "127.0.0.1:1/x", .path = "/", .timeout_ms = 1},
                {.method = "GET", .address = "user@127.0.0.1:1", .path = "/", .timeout_ms = 1},
                {.method = "GET", .address = f->address, .path = "no-slash", .timeout_ms = 1},
                {.method = "GET", .address = f->address, .path = "/a b", .timeout_ms = 1},
                {.method = "GET", .address = f->address, .path = "/a\r\nX: y", .timeout_ms = 1},
                {.method = "GET", .address = f->address, .path = "/", .peer_name = "a/b", .timeout_ms = 1},
                {.method = "GET", .address = f->address, .path = "/", .peer_name = "a", .timeout_ms = 1},
        };

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                _cleanup_error_ struct error *e = NULL;

                assert_int_equal(http_client_call(f->client, &bad[i], on_reply, NULL, NULL, &e), -EINVAL);
                assert_int_equal(e->code, ERROR_BAD_REQUEST);
        }
}

/* ---- ending calls ---- */

static void a_cancelled_call_is_silent(void **state)
{
        _cleanup_answer_ struct answer a = {}, other = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/park", .timeout_ms = WAIT_MS};
        struct http_call *call;

        assert_int_equal(http_client_call(f->client, &spec, on_reply, &a, &call, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        http_call_cancel(call);
        http_call_cancel(NULL);
        fixture_call(f, "GET", "/who", NULL, &other);
        assert_int_equal(a.n_replies, 0);
}

static void a_client_freed_with_calls_is_silent(void **state)
{
        _cleanup_answer_ struct answer a = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/park", .timeout_ms = WAIT_MS};

        assert_int_equal(http_client_call(f->client, &spec, on_reply, &a, NULL, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        http_client_free(TAKE_PTR(f->client));
        assert_int_equal(loop_wait(f->loop, &f->aborted, WAIT_MS), 0);
        assert_int_equal(a.n_replies, 0);
}

struct chain {
        struct fixture *f;
        struct http_call *other;
        bool done;
        int n_replies;
};

static void reply_frees_all(void *userdata, int status, json_t *body _unused_, struct error *error _unused_)
{
        struct chain *c = userdata;

        assert_int_equal(status, 200);
        c->n_replies++;
        c->done = true;
        http_client_free(TAKE_PTR(c->f->client));
}

static void the_client_may_be_freed_by_a_reply(void **state)
{
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/who", .timeout_ms = WAIT_MS};
        struct chain c = {.f = f};

        for (int i = 0; i < 3; i++)
                assert_int_equal(http_client_call(f->client, &spec, reply_frees_all, &c, NULL, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &c.done, WAIT_MS), 0);
        for (int i = 0; i < 10; i++)
                assert_int_equal(loop_iterate(f->loop, 1), 0);
        assert_int_equal(c.n_replies, 1);
}

static void reply_starts_another(
        void *userdata, int status, json_t *body _unused_, struct error *error _unused_)
{
        struct chain *c = userdata;
        const struct http_call_spec spec = {
                .method = "GET", .address = c->f->address, .path = "/who", .timeout_ms = WAIT_MS};

        assert_int_equal(status, 200);
        c->done = ++c->n_replies == 3;
        if (!c->done)
                assert_int_equal(
                        http_client_call(c->f->client, &spec, reply_starts_another, c, NULL, NULL), 0);
}

static void a_reply_may_start_the_next_call(void **state)
{
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/who", .timeout_ms = WAIT_MS};
        struct chain c = {.f = f};

        assert_int_equal(http_client_call(f->client, &spec, reply_starts_another, &c, NULL, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &c.done, WAIT_MS), 0);
}

static void reply_cancels_the_other(
        void *userdata, int status _unused_, json_t *body _unused_, struct error *error _unused_)
{
        struct chain *c = userdata;

        c->n_replies++;
        c->done = true;
        http_call_cancel(TAKE_PTR(c->other));
}

static void a_reply_may_cancel_a_call_that_ended_in_the_same_round(void **state)
{
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/who", .timeout_ms = WAIT_MS};
        _cleanup_answer_ struct answer other = {};
        struct chain c = {.f = f};

        assert_int_equal(http_client_call(f->client, &spec, reply_cancels_the_other, &c, NULL, NULL), 0);
        assert_int_equal(http_client_call(f->client, &spec, on_reply, &other, &c.other, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &c.done, WAIT_MS), 0);
        for (int i = 0; i < 10; i++)
                assert_int_equal(loop_iterate(f->loop, 1), 0);
        assert_true(c.n_replies + other.n_replies <= 2);
        assert_int_equal(c.n_replies, 1);
}

/* ---- lines ---- */

struct lines {
        struct answer answer; /* first: replies come here */
        char text[1024];
        int n;
        int cancel_at;
        struct http_call *call;
        bool enough;
};

static void on_line(void *userdata, const char *line)
{
        struct lines *l = userdata;
        size_t len = strlen(l->text);

        snprintf(l->text + len, sizeof(l->text) - len, "%s|", line);
        l->enough = ++l->n == l->cancel_at;
        if (l->enough)
                http_call_cancel(TAKE_PTR(l->call));
}

static void start_lines(struct fixture *f, struct lines *l, const char *path)
{
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = path, .timeout_ms = WAIT_MS, .line = on_line};

        assert_int_equal(http_client_call(f->client, &spec, on_reply, l, &l->call, NULL), 0);
}

static void send_text(struct fixture *f, const char *text)
{
        assert_int_equal(http_stream_send(f->stream, text, strlen(text)), 0);
}

static void lines_come_whole_and_as_they_are_sent(void **state)
{
        struct fixture *f = *state;
        struct lines l = {};

        start_lines(f, &l, "/stream");
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        send_text(f, "one\nt");
        while (!l.n)
                assert_int_equal(loop_iterate(f->loop, 10), 0);
        assert_string_equal(l.text, "one|");
        send_text(f, "wo\r\n\nthree\nrest");
        http_stream_close(TAKE_PTR(f->stream));
        assert_int_equal(loop_wait(f->loop, &l.answer.done, WAIT_MS), 0);
        assert_string_equal(l.text, "one|two||three|");
        assert_int_equal(l.answer.status, 200);
        assert_null(l.answer.body);
}

static void a_call_may_be_cancelled_by_its_own_line(void **state)
{
        struct lines l = {.cancel_at = 2};
        struct fixture *f = *state;

        start_lines(f, &l, "/stream");
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        send_text(f, "one\ntwo\nthree\n");
        assert_int_equal(loop_wait(f->loop, &l.enough, WAIT_MS), 0);
        assert_int_equal(loop_wait(f->loop, &f->closed, WAIT_MS), 0);
        assert_string_equal(l.text, "one|two|");
        assert_int_equal(l.answer.n_replies, 0);
}

static void an_error_answer_to_a_line_call_is_an_error(void **state)
{
        struct fixture *f = *state;
        struct lines l = {};

        start_lines(f, &l, "/problem");
        assert_int_equal(loop_wait(f->loop, &l.answer.done, WAIT_MS), 0);
        assert_int_equal(l.n, 0);
        assert_int_equal(l.answer.status, 409);
        assert_int_equal(l.answer.code, ERROR_LOCKED);
        answer_deinit(&l.answer);
}

static void a_stream_that_breaks_off_is_an_error(void **state)
{
        struct fixture *f = *state;
        struct lines l = {};

        start_lines(f, &l, "/stream");
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        send_text(f, "one\n");
        while (!l.n)
                assert_int_equal(loop_iterate(f->loop, 10), 0);
        http_server_free(TAKE_PTR(f->server));
        assert_int_equal(loop_wait(f->loop, &l.answer.done, WAIT_MS), 0);
        assert_int_equal(l.answer.status, 0);
        assert_int_equal(l.answer.code, ERROR_UNREACHABLE);
}

/* ---- torture ---- */

static void call_body(void *arg _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f = {};
        struct http_server_config server = {};
        struct http_client_config client = {};
        _cleanup_error_ struct error *e = NULL;
        _cleanup_json_ json_t *body = json_pack("{s:i}", "a", 1);
        _cleanup_answer_ struct answer a = {};
        struct http_call_spec spec = {.method = "POST", .path = "/echo", .body = body, .timeout_ms = WAIT_MS};

        if (torture_failed(loop_new(&f.loop) < 0) ||
                torture_failed(fixture_start_server(&f, &server, &e) < 0) ||
                torture_failed(http_client_new(f.loop, &client, &f.client, &e) < 0))
                return;
        spec.address = f.address;
        if (torture_failed(http_client_call(f.client, &spec, on_reply, &a, NULL, &e) < 0))
                return;
        assert_int_equal(loop_wait(f.loop, &a.done, WAIT_MS), 0); /* answered in any case */
        if (torture_failed(a.status != 201))
                return;
        assert_true(json_equal(a.body, body) || torture_injected());
}

static void a_call_survives_failing_allocations_on_both_sides(void **state _unused_)
{
        torture_loop(call_body, NULL);
}

static void stream_body(void *arg _unused_)
{
        _cleanup_(fixture_deinit) struct fixture f = {};
        struct http_server_config server = {};
        struct http_client_config client = {};
        struct lines l = {};
        struct http_call_spec spec = {
                .method = "GET", .path = "/stream", .line = on_line, .timeout_ms = WAIT_MS};

        if (torture_failed(loop_new(&f.loop) < 0) ||
                torture_failed(fixture_start_server(&f, &server, NULL) < 0) ||
                torture_failed(http_client_new(f.loop, &client, &f.client, NULL) < 0))
                return;
        spec.address = f.address;
        if (torture_failed(http_client_call(f.client, &spec, on_reply, &l, NULL, NULL) < 0))
                return;
        while (!f.parked_arrived && !l.answer.done)
                assert_int_equal(loop_iterate(f.loop, 10), 0);
        if (f.stream && !torture_failed(http_stream_send(f.stream, "one\n", 4) < 0))
                http_stream_close(TAKE_PTR(f.stream));
        assert_int_equal(loop_wait(f.loop, &l.answer.done, WAIT_MS), 0);
        if (!torture_failed(l.answer.status != 200))
                assert_string_equal(l.text, "one|");
        answer_deinit(&l.answer);
}

static void a_stream_survives_failing_allocations_on_both_sides(void **state _unused_)
{
        torture_loop(stream_body, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, plain_set_up, plain_tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(several_calls_run_side_by_side),
                TEST(a_problem_document_becomes_an_error_object),
                TEST(a_broken_json_answer_is_a_protocol_error),
                TEST(an_answer_larger_than_allowed_is_a_protocol_error),
                TEST(a_redirect_is_not_followed),
                TEST(a_peer_that_is_not_there_is_unreachable),
                TEST(a_peer_that_never_answers_times_out),
                TEST(calls_that_end_at_once_do_not_hold_the_loop),
                TEST(a_peer_that_speaks_something_else_is_an_error),
                TEST(values_that_would_change_the_url_are_refused),
                TEST(a_cancelled_call_is_silent),
                TEST(a_client_freed_with_calls_is_silent),
                TEST(the_client_may_be_freed_by_a_reply),
                TEST(a_reply_may_start_the_next_call),
                TEST(a_reply_may_cancel_a_call_that_ended_in_the_same_round),
                TEST(lines_come_whole_and_as_they_are_sent),
                TEST(a_call_may_be_cancelled_by_its_own_line),
                TEST(an_error_answer_to_a_line_call_is_an_error),
                TEST(a_stream_that_breaks_off_is_an_error),
                cmocka_unit_test(a_call_survives_failing_allocations_on_both_sides),
                cmocka_unit_test(a_stream_survives_failing_allocations_on_both_sides),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

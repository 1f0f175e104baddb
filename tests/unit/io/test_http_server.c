/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include "unit/io/http_fixture.h"

#include "io/http_private.h"

static void a_handler_sees_all_parts_of_the_request(void **state)
{
        const struct http_call_spec spec = {.method = "GET",
                .address = ((struct fixture *)*state)->address,
                .path = "/vms/a%2Fb?x=1&q=c+d%26%2B",
                .headers = (const char *const[]){"X-Test: yes", NULL},
                .timeout_ms = WAIT_MS};
        _cleanup_answer_ struct answer a = {};

        fixture_call_spec(*state, &spec, &a);
        assert_int_equal(a.status, 200);
        assert_string_equal(answer_text(&a, "path"), "/vms/a%2Fb");
        assert_string_equal(answer_text(&a, "name"), "a/b");
        assert_string_equal(answer_text(&a, "q"), "c d&+");
        assert_string_equal(answer_text(&a, "x"), "yes");
        assert_string_equal(answer_text(&a, "from"), "127.0.0.1");
        assert_string_equal(answer_text(&a, "peer"), "(none)");
}

static void head_is_get_without_a_body(void **state)
{
        int fd = raw_connect(*state, "HEAD /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        const char *text = raw_read_until(*state, fd, "never there");

        assert_non_null(strstr(text, "HTTP/1.1 200"));
        assert_non_null(strstr(text, "Content-Type: application/json"));
        assert_string_equal(strstr(text, "\r\n\r\n"), "\r\n\r\n");
        close(fd);
}

static void an_unknown_path_is_a_problem_document(void **state)
{
        _cleanup_answer_ struct answer a = {};

        fixture_call(*state, "GET", "/none", NULL, &a);
        assert_int_equal(a.status, 404);
        assert_int_equal(a.code, ERROR_NOT_FOUND);
        assert_string_equal(answer_text(&a, "code"), "not-found");
        assert_non_null(strstr(a.message, "/none"));
}

static void a_wrong_method_names_the_right_ones(void **state)
{
        int fd = raw_connect(*state, "PUT /who HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        const char *text = raw_read_until(*state, fd, "}");

        assert_non_null(strstr(text, "HTTP/1.1 405"));
        assert_non_null(strstr(text, "Allow: GET, DELETE\r\n"));
        assert_non_null(strstr(text, "application/problem+json"));
        close(fd);
}

static void a_path_with_a_broken_encoding_is_refused(void **state)
{
        int fd = raw_connect(*state, "GET /vms/%zz HTTP/1.1\r\nHost: x\r\n\r\n");

        assert_non_null(strstr(raw_read_until(*state, fd, "}"), "HTTP/1.1 400"));
        close(fd);
}

static void a_json_body_arrives(void **state)
{
        _cleanup_json_ json_t *body = json_pack("{s:[i,i]}", "a", 1, 2);
        _cleanup_answer_ struct answer a = {};

        fixture_call(*state, "POST", "/echo", body, &a);
        assert_int_equal(a.status, 201);
        assert_true(json_equal(a.body, body));
}

static void a_body_in_chunks_arrives(void **state)
{
        int fd = raw_connect(*state, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                                     "5\r\n{\"a\":\r\n2\r\n1}\r\n0\r\n\r\n");

        assert_non_null(strstr(raw_read_until(*state, fd, "}"), "{\"a\":1}"));
        close(fd);
}

static void what_is_no_json_object_is_refused(void **state)
{
        _cleanup_json_ json_t *array = json_pack("[i]", 1);
        _cleanup_answer_ struct answer none = {}, wrong = {};
        int fd;

        fixture_call(*state, "POST", "/echo", NULL, &none);
        assert_int_equal(none.status, 400);
        assert_int_equal(none.code, ERROR_BAD_REQUEST);
        fixture_call(*state, "POST", "/echo", array, &wrong);
        assert_int_equal(wrong.status, 400);
        fd = raw_connect(*state, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{\"a\":");
        assert_non_null(strstr(raw_read_until(*state, fd, "}"), "HTTP/1.1 400"));
        close(fd);
}

static void a_body_of_just_the_maximum_is_taken(void **state)
{
        char text[1200], body[1001];
        int fd;

        snprintf(body, sizeof(body), "{\"a\":\"%0992d\"}", 0);
        assert_int_equal(strlen(body), 1000);
        snprintf(
                text, sizeof(text), "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s", body);
        fd = raw_connect(*state, text);
        assert_non_null(strstr(raw_read_until(*state, fd, "}"), "HTTP/1.1 201"));
        close(fd);
}

static void an_announced_body_that_is_too_large_is_refused_unread(void **state)
{
        int fd = raw_connect(*state,
                "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n");
        const char *text = raw_read_until(*state, fd, "}");

        assert_memory_equal(text, "HTTP/1.1 413", 12);
        assert_non_null(strstr(text, "too-large"));
        close(fd);
}

static void a_chunked_body_that_grows_too_large_is_refused(void **state)
{
        char text[4096];
        int fd;

        snprintf(text, sizeof(text),
                "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                "800\r\n%02048d\r\n0\r\n\r\n",
                0);
        fd = raw_connect(*state, text);
        assert_non_null(strstr(raw_read_until(*state, fd, "}"), "HTTP/1.1 413"));
        close(fd);
}

static void a_chunked_body_without_end_ends_the_connection(void **state)
{
        int fd = raw_connect(*state, "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        static char chunk[65536 + 16];
        size_t sent = 0;

        snprintf(chunk, sizeof(chunk), "10000\r\n%065536d\r\n", 0);
        for (size_t at = 0; sent < 32u * 1024 * 1024;) {
                ssize_t n = send(fd, chunk + at, strlen(chunk) - at, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno != EAGAIN)
                        break;
                sent += n > 0 ? (size_t)n : 0;
                at = n > 0 ? (at + (size_t)n) % strlen(chunk) : at;
                assert_int_equal(loop_iterate(((struct fixture *)*state)->loop, 0), 0);
        }
        assert_in_range(sent, 1024 * 1024, 16 * 1024 * 1024);
        close(fd);
}

static void the_first_of_two_headers_that_differ_in_case_is_found(void **state)
{
        int fd = raw_connect(*state, "GET /who HTTP/1.1\r\nhost: x\r\nX-TEST: upper\r\n\r\n");

        assert_non_null(strstr(raw_read_until(*state, fd, "}"), "\"x\":\"upper\""));
        close(fd);
}

static void admission_can_refuse_before_the_handler(void **state)
{
        struct fixture *f = *state;
        const char *text;
        int fd;

        f->admit_refuses = true;
        fd = raw_connect(f, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n");
        text = raw_read_until(f, fd, "}");
        assert_non_null(strstr(text, "HTTP/1.1 401"));
        assert_non_null(strstr(text, "WWW-Authenticate: Bearer"));
        assert_int_equal(f->n_handled, 0);
        close(fd);
}

static void early_admission_takes_no_body_from_whom_it_refuses(void **state)
{
        struct fixture *f = *state;
        int fd;

        f->server->admit_early = true;
        f->admit_refuses = true;
        fd = raw_connect(f, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n");
        assert_non_null(strstr(raw_read_until(f, fd, "}"), "HTTP/1.1 401"));
        close(fd);
        assert_int_equal(f->n_handled, 0);
}

static void early_admission_lets_the_others_through(void **state)
{
        _cleanup_json_ json_t *body = json_pack("{s:i}", "a", 1);
        struct fixture *f = *state;
        _cleanup_answer_ struct answer a = {};

        f->server->admit_early = true;
        fixture_call(f, "POST", "/echo", body, &a);
        assert_int_equal(a.status, 201);
}

static void several_requests_share_a_connection(void **state)
{
        int fd = raw_connect(*state, "GET /who HTTP/1.1\r\nHost: x\r\n\r\n"
                                     "GET /vms/two HTTP/1.1\r\nHost: x\r\n\r\n");

        assert_non_null(strstr(raw_read_until(*state, fd, "\"two\""), "HTTP/1.1 200"));
        close(fd);
}

/* ---- answers that come later ---- */

static void an_answer_may_come_later(void **state)
{
        _cleanup_answer_ struct answer late = {}, other = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/park", .timeout_ms = WAIT_MS};

        assert_int_equal(http_client_call(f->client, &spec, on_reply, &late, NULL, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        fixture_call(f, "GET", "/who", NULL, &other); /* the server is not held up meanwhile */
        assert_false(late.done);
        http_request_reply_json(TAKE_PTR(f->parked), 200, json_pack("{s:i}", "n", 7));
        assert_int_equal(loop_wait(f->loop, &late.done, WAIT_MS), 0);
        assert_int_equal(json_integer_value(json_object_get(late.body, "n")), 7);
        assert_false(f->aborted);
}

static void one_handler_may_answer_anothers_request(void **state)
{
        _cleanup_answer_ struct answer late = {}, other = {};
        struct fixture *f = *state;
        const struct http_call_spec spec = {
                .method = "GET", .address = f->address, .path = "/park", .timeout_ms = WAIT_MS};

        assert_int_equal(http_client_call(f->client, &spec, on_reply, &late, NULL, NULL), 0);
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        fixture_call(f, "POST", "/release", NULL, &other);
        assert_int_equal(loop_wait(f->loop, &late.done, WAIT_MS), 0);
        assert_int_equal(late.status, 204);
}

static void a_client_that_vanishes_is_noticed_and_the_answer_is_lost_harmlessly(void **state)
{
        _cleanup_answer_ struct answer other = {};
        struct fixture *f = *state;
        int fd = raw_connect(f, "GET /park HTTP/1.1\r\nHost: x\r\nX-Test: kept\r\n\r\n");

        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        close(fd);
        assert_int_equal(loop_wait(f->loop, &f->aborted, WAIT_MS), 0);
        /* By the next answer MHD has closed the connection; the request can still be asked. */
        fixture_call(f, "GET", "/who", NULL, &other);
        assert_string_equal(http_request_header(f->parked, "X-Test"), "kept");
        assert_string_equal(http_request_path(f->parked), "/park");
        http_request_reply_json(TAKE_PTR(f->parked), 200, json_object());
}

static void a_vanished_client_cannot_have_a_stream(void **state)
{
        struct fixture *f = *state;
        int fd = raw_connect(f, "GET /park HTTP/1.1\r\nHost: x\r\n\r\n");
        struct http_stream *s;

        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        close(fd);
        assert_int_equal(loop_wait(f->loop, &f->aborted, WAIT_MS), 0);
        for (int i = 0; i < 10; i++)
                assert_int_equal(loop_iterate(f->loop, 1), 0);
        s = http_request_reply_stream(TAKE_PTR(f->parked), "text/event-stream", 100, on_closed, f);
        assert_null(s);
        assert_false(f->closed);
}

static void the_abort_function_may_answer(void **state)
{
        _cleanup_answer_ struct answer other = {};
        struct fixture *f = *state;
        int fd = raw_connect(f, "GET /park-answer HTTP/1.1\r\nHost: x\r\n\r\n");

        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        close(fd);
        assert_int_equal(loop_wait(f->loop, &f->aborted, WAIT_MS), 0);
        assert_null(f->parked);
        fixture_call(f, "GET", "/who", NULL, &other);
        assert_int_equal(other.status, 200);
}

static void a_client_that_vanishes_in_its_body_bothers_nobody(void **state)
{
        _cleanup_answer_ struct answer other = {};
        struct fixture *f = *state;
        int fd = raw_connect(f, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"a\":");

        for (int i = 0; i < 5; i++)
                assert_int_equal(loop_iterate(f->loop, 1), 0);
        close(fd);
        fixture_call(f, "GET", "/who", NULL, &other);
        assert_int_equal(other.status, 200);
}

static void the_server_may_end_with_requests_open(void **state)
{
        struct fixture *f = *state;
        int parked = raw_connect(f, "GET /park HTTP/1.1\r\nHost: x\r\n\r\n"), streaming;

        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        f->parked_arrived = false;
        streaming = raw_connect(f, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        http_server_free(TAKE_PTR(f->server));
        assert_true(f->aborted);
        assert_true(f->closed);
        http_request_reply_json(TAKE_PTR(f->parked), 200, json_object());
        close(parked);
        close(streaming);
}

/* ---- streams ---- */

static int open_stream(struct fixture *f, const char *request)
{
        int fd = raw_connect(f, request);

        assert_int_equal(loop_wait(f->loop, &f->parked_arrived, WAIT_MS), 0);
        assert_non_null(f->stream);
        return fd;
}

#define GET_STREAM "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"

static void what_is_sent_into_a_stream_arrives_at_once(void **state)
{
        struct fixture *f = *state;
        int fd = open_stream(f, GET_STREAM);

        assert_non_null(strstr(raw_read_until(f, fd, "\r\n\r\n"), "application/x-ndjson"));
        for (int i = 0; i < 5; i++) {
                char text[32];

                snprintf(text, sizeof(text), "{\"n\":%d}\n", i);
                assert_int_equal(http_stream_send(f->stream, text, strlen(text)), 0);
                assert_non_null(strstr(raw_read_until(f, fd, text), text));
        }
        http_stream_close(TAKE_PTR(f->stream));
        raw_read_until(f, fd, "0\r\n\r\n"); /* the last chunk: a regular end */
        assert_false(f->closed);
        close(fd);
}

static void what_was_queued_before_the_close_is_still_sent(void **state)
{
        struct fixture *f = *state;
        int fd = open_stream(f, GET_STREAM);

        assert_int_equal(http_stream_send(f->stream, "one\n", 4), 0);
        assert_int_equal(http_stream_send(f->stream, "two\n", 4), 0);
        http_stream_close(TAKE_PTR(f->stream));
        assert_non_null(strstr(raw_read_until(f, fd, "0\r\n\r\n"), "one\ntwo\n"));
        close(fd);
}

static void a_reader_that_leaves_closes_the_stream(void **state)
{
        struct fixture *f = *state;
        int fd = open_stream(f, GET_STREAM);

        raw_read_until(f, fd, "\r\n\r\n");
        close(fd);
        assert_int_equal(loop_wait(f->loop, &f->closed, WAIT_MS), 0);
}

static void a_slow_reader_is_dropped(void **state)
{
        _cleanup_answer_ struct answer other = {};
        struct fixture *f = *state;
        int fd = open_stream(f, GET_STREAM), r = 0;
        char text[1024];
        size_t sent = 0;

        memset(text, 'x', sizeof(text));
        while (r == 0 && sent < 64u * 1024 * 1024) {
                r = http_stream_send(f->stream, text, sizeof(text));
                sent += sizeof(text);
                if (r == 0 && sent % 32768 == 0)
                        assert_int_equal(loop_iterate(f->loop, 0), 0);
        }
        assert_int_equal(r, -E2BIG);
        assert_false(f->closed); /* told from the loop, not from inside the call */
        assert_int_equal(http_stream_send(f->stream, "x", 1), -EPIPE);
        assert_int_equal(loop_wait(f->loop, &f->closed, WAIT_MS), 0);
        fixture_call(f, "GET", "/who", NULL, &other);
        assert_int_equal(other.status, 200);
        close(fd);
}

static void one_message_larger_than_the_buffer_drops_the_reader(void **state)
{
        static char text[STREAM_MAX_BYTES + 1];
        struct fixture *f = *state;
        int fd = open_stream(f, GET_STREAM);

        assert_int_equal(http_stream_send(f->stream, text, sizeof(text)), -E2BIG);
        assert_int_equal(loop_wait(f->loop, &f->closed, WAIT_MS), 0);
        close(fd);
}

static void a_reader_that_keeps_up_gets_everything_in_order(void **state)
{
        struct fixture *f = *state;
        int fd = open_stream(f, "GET /stream HTTP/1.0\r\n\r\n"); /* no chunks: bytes as they are */
        unsigned int sent = 0, expected = 0;
        char text[65536], *body;
        size_t len = 0;

        body = strstr(raw_read_until(f, fd, "\r\n\r\n"), "\r\n\r\n");
        assert_string_equal(body, "\r\n\r\n");
        while (expected < 20000) {
                ssize_t n;

                while (sent < 20000 && sent < expected + 1000) {
                        char line[16];

                        snprintf(line, sizeof(line), "%u\n", sent++);
                        assert_int_equal(http_stream_send(f->stream, line, strlen(line)), 0);
                }
                assert_int_equal(loop_iterate(f->loop, 1), 0);
                n = recv(fd, text + len, sizeof(text) - 1 - len, MSG_DONTWAIT);
                if (n <= 0)
                        continue;
                len += (size_t)n;
                text[len] = '\0';
                char *at = text;
                for (char *end; (end = strchr(at, '\n')); at = end + 1)
                        assert_int_equal(strtoul(at, NULL, 10), expected++);
                len -= (size_t)(at - text);
                memmove(text, at, len);
        }
        close(fd);
}

static void head_of_a_stream_ends_at_once(void **state)
{
        struct fixture *f = *state;
        int fd = raw_connect(f, "HEAD /stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");

        assert_non_null(strstr(raw_read_until(f, fd, "never there"), "HTTP/1.1 200"));
        assert_int_equal(loop_wait(f->loop, &f->closed, WAIT_MS), 0);
        close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, plain_set_up, plain_tear_down)

int main(void)
{
        const struct CMUnitTest tests[] = {
                TEST(a_handler_sees_all_parts_of_the_request),
                TEST(head_is_get_without_a_body),
                TEST(an_unknown_path_is_a_problem_document),
                TEST(a_wrong_method_names_the_right_ones),
                TEST(a_path_with_a_broken_encoding_is_refused),
                TEST(a_json_body_arrives),
                TEST(a_body_in_chunks_arrives),
                TEST(what_is_no_json_object_is_refused),
                TEST(a_body_of_just_the_maximum_is_taken),
                TEST(an_announced_body_that_is_too_large_is_refused_unread),
                TEST(a_chunked_body_that_grows_too_large_is_refused),
                TEST(a_chunked_body_without_end_ends_the_connection),
                TEST(the_first_of_two_headers_that_differ_in_case_is_found),
                TEST(admission_can_refuse_before_the_handler),
                TEST(early_admission_takes_no_body_from_whom_it_refuses),
                TEST(early_admission_lets_the_others_through),
                TEST(several_requests_share_a_connection),
                TEST(an_answer_may_come_later),
                TEST(one_handler_may_answer_anothers_request),
                TEST(a_client_that_vanishes_is_noticed_and_the_answer_is_lost_harmlessly),
                TEST(a_vanished_client_cannot_have_a_stream),
                TEST(the_abort_function_may_answer),
                TEST(a_client_that_vanishes_in_its_body_bothers_nobody),
                TEST(the_server_may_end_with_requests_open),
                TEST(what_is_sent_into_a_stream_arrives_at_once),
                TEST(what_was_queued_before_the_close_is_still_sent),
                TEST(a_reader_that_leaves_closes_the_stream),
                TEST(a_slow_reader_is_dropped),
                TEST(one_message_larger_than_the_buffer_drops_the_reader),
                TEST(a_reader_that_keeps_up_gets_everything_in_order),
                TEST(head_of_a_stream_ends_at_once),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above first */
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "io/file.h"
#include "io/sock.h"
#include "unit/torture_loop.h"

static void addresses_are_read_and_written(void **state _unused_)
{
        static const char *const cases[][2] = {
                {"192.0.2.1:8444", "192.0.2.1:8444"},
                {"192.0.2.1", "192.0.2.1:99"},
                {"[2001:db8::1]:8444", "[2001:db8::1]:8444"},
                {"[2001:db8::1]", "[2001:db8::1]:99"},
                {"2001:db8::1", "[2001:db8::1]:99"},
                {"0.0.0.0:0", "0.0.0.0:0"},
        };
        struct sock_address a;
        char text[64];

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                assert_int_equal(sock_address_parse(cases[i][0], 99, false, &a, NULL), 0);
                assert_string_equal(sock_address_format(&a, text), cases[i][1]);
        }
}

static void lists_of_addresses_are_read(void **state _unused_)
{
        static const char *const bad[] = {"", "192.0.2.1,", "192.0.2.1 192.0.2.2", "192.0.2.1,192.0.2.1",
                "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4", "192.0.2.1, host"};
        struct sock_address a[3];
        char text[64];
        size_t n = 0;

        assert_int_equal(
                sock_address_list_parse("192.0.2.1, 2001:db8::1 ,\t[2001:db8::2]:5", 9, 3, a, &n, NULL), 0);
        assert_int_equal(n, 3);
        assert_string_equal(sock_address_format(&a[0], text), "192.0.2.1:9");
        assert_string_equal(sock_address_format(&a[1], text), "[2001:db8::1]:9");
        assert_string_equal(sock_address_format(&a[2], text), "[2001:db8::2]:5");
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
                assert_int_equal(sock_address_list_parse(bad[i], 9, 3, a, &n, NULL), -EINVAL);
}

static void what_is_no_address_is_refused_by_name(void **state _unused_)
{
        static const char *const bad[] = {"", ":1", "host:1", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1",
                "[::1", "[::1]x", "[]:1", "1.2.3.4:1:2", "1.2.3.4 :1"};

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                _cleanup_error_ struct error *e = NULL;
                struct sock_address a = {.len = 7};

                assert_int_equal(sock_address_parse(bad[i], 99, false, &a, &e), -EINVAL);
                assert_int_equal(a.len, 7);
                assert_non_null(strstr(e->message, bad[i]));
                assert_non_null(e->hint);
        }
}

static void a_name_is_resolved_only_when_asked_to(void **state _unused_)
{
        struct sock_address a;

        assert_int_equal(sock_address_parse("localhost:5", 0, false, &a, NULL), -EINVAL);
        assert_int_equal(sock_address_parse("localhost:5", 0, true, &a, NULL), 0);
        assert_int_equal(sock_address_port(&a), 5);
}

static void connect_to(const struct sock_address *to, int *ret_fd, int *ret_result)
{
        struct pollfd p = {.events = POLLOUT};

        assert_int_equal(sock_connect_tcp_start(to, &p.fd), 0);
        assert_int_equal(poll(&p, 1, 10000), 1);
        *ret_fd = p.fd;
        *ret_result = sock_connect_result(p.fd);
}

static void a_listening_socket_accepts(void **state _unused_)
{
        _cleanup_fd_ int listening = -1, fd = -1;
        struct sock_address any, here, peer;
        char a[64], b[64];
        int result;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &any, NULL), 0);
        assert_int_equal(sock_listen_tcp(&any, 5, &listening, NULL), 0);
        assert_int_equal(sock_local_address(listening, &here), 0);
        assert_int_not_equal(sock_address_port(&here), 0);
        connect_to(&here, &fd, &result);
        assert_int_equal(result, 0);
        assert_int_equal(sock_peer_address(fd, &peer), 0);
        assert_string_equal(sock_address_format(&peer, a), sock_address_format(&here, b));
        assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

static void a_refused_connection_says_so(void **state _unused_)
{
        _cleanup_fd_ int listening = -1, fd = -1;
        struct sock_address any, here;
        int result;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &any, NULL), 0);
        assert_int_equal(sock_listen_tcp(&any, 5, &listening, NULL), 0);
        assert_int_equal(sock_local_address(listening, &here), 0);
        fd_closep(&listening);
        connect_to(&here, &fd, &result);
        assert_int_equal(result, -ECONNREFUSED);
}

static void a_taken_port_is_named_in_the_error(void **state _unused_)
{
        _cleanup_fd_ int first = -1, second = -1;
        _cleanup_error_ struct error *e = NULL;
        struct sock_address any, here;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &any, NULL), 0);
        assert_int_equal(sock_listen_tcp(&any, 5, &first, NULL), 0);
        assert_int_equal(sock_local_address(first, &here), 0);
        assert_int_equal(sock_listen_tcp(&here, 5, &second, &e), -EADDRINUSE);
        assert_int_equal(second, -1);
        assert_non_null(strstr(e->message, "127.0.0.1:"));
}

/* ---- AF_UNIX ---- */

struct unix_test {
        char folder[64];
        char path[512];
};

static void unix_set_up(struct unix_test *t, const char *name)
{
        snprintf(t->folder, sizeof(t->folder), "/tmp/drover-test-sock-XXXXXX");
        assert_non_null(mkdtemp(t->folder));
        snprintf(t->path, sizeof(t->path), "%s/%s", t->folder, name);
}

static void unix_listen_and_connect(const char *path)
{
        _cleanup_fd_ int listening = -1, client = -1;
        struct stat st;

        assert_int_equal(sock_listen_unix(path, SOCK_STREAM, &listening), 0);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(sock_connect_unix(path, SOCK_STREAM, &client), 0);
}

static void a_unix_socket_is_its_owners_only(void **state _unused_)
{
        struct unix_test t;

        unix_set_up(&t, "s");
        unix_listen_and_connect(t.path);
        file_remove_tree(t.folder);
}

static void a_path_longer_than_the_address_works(void **state _unused_)
{
        struct unix_test t;
        char folder[300];

        unix_set_up(&t, "");
        snprintf(folder, sizeof(folder), "%s/%0150d", t.folder, 1);
        assert_int_equal(mkdir(folder, 0700), 0);
        snprintf(t.path, sizeof(t.path), "%s/socket", folder);
        unix_listen_and_connect(t.path);
        file_remove_tree(t.folder);
}

static void a_stale_socket_is_replaced_but_a_living_one_is_not(void **state _unused_)
{
        _cleanup_fd_ int first = -1, second = -1;
        struct unix_test t;

        unix_set_up(&t, "s");
        assert_int_equal(sock_listen_unix(t.path, SOCK_SEQPACKET, &first), 0);
        assert_int_equal(sock_listen_unix(t.path, SOCK_SEQPACKET, &second), -EADDRINUSE);
        assert_int_equal(sock_listen_unix(t.path, SOCK_STREAM, &second), -EADDRINUSE);
        fd_closep(&first);
        assert_int_equal(sock_connect_unix(t.path, SOCK_SEQPACKET, &second), -ECONNREFUSED);
        assert_int_equal(sock_listen_unix(t.path, SOCK_SEQPACKET, &second), 0);
        file_remove_tree(t.folder);
}

static void a_file_in_the_sockets_place_is_not_removed(void **state _unused_)
{
        struct unix_test t;
        int fd = -1;

        unix_set_up(&t, "s");
        assert_int_equal(file_write_atomic(t.path, "x", 1, 0600), 0);
        assert_int_equal(sock_listen_unix(t.path, SOCK_STREAM, &fd), -EEXIST);
        assert_int_equal(access(t.path, F_OK), 0);
        file_remove_tree(t.folder);
}

/* ---- descriptors ---- */

static void descriptors_arrive_and_work(void **state _unused_)
{
        int pair[2], pipe_ends[2], got[4];
        size_t n = ARRAY_SIZE(got), len;
        char data[16];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, pair), 0);
        assert_int_equal(pipe(pipe_ends), 0);
        assert_int_equal(sock_recv_fds(pair[1], data, sizeof(data), &len, got, &n), -EAGAIN);
        assert_int_equal(sock_send_fds(pair[0], "hello", 5, pipe_ends, 2), 0);
        assert_int_equal(sock_recv_fds(pair[1], data, sizeof(data), &len, got, &n), 0);
        assert_int_equal(len, 5);
        assert_int_equal(n, 2);
        assert_true(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
        assert_int_equal(write(got[1], "x", 1), 1);
        assert_int_equal(read(pipe_ends[0], data, 1), 1);
        for (int i = 0; i < 2; i++) {
                close(got[i]);
                close(pipe_ends[i]);
                close(pair[i]);
        }
}

static void the_end_of_the_connection_is_a_length_of_zero(void **state _unused_)
{
        size_t n = 0, len = 1;
        int pair[2];
        char byte;

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        assert_int_equal(sock_send_fds(pair[0], "", 0, NULL, 0), -EINVAL);
        close(pair[0]);
        assert_int_equal(sock_recv_fds(pair[1], &byte, 1, &len, NULL, &n), 0);
        assert_int_equal(len, 0);
        close(pair[1]);
}

static int highest_fd(void)
{
        int fd = dup(0);

        close(fd);
        return fd;
}

static void descriptors_without_room_are_all_closed(void **state _unused_)
{
        int pair[2], got[1], fds[3] = {0, 0, 0}, before;
        size_t n = 1, len = 99;
        char data[16];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        before = highest_fd();
        assert_int_equal(sock_send_fds(pair[0], "hello", 5, fds, 3), 0);
        assert_int_equal(sock_recv_fds(pair[1], data, sizeof(data), &len, got, &n), -EMSGSIZE);
        assert_int_equal(len, 99);
        assert_int_equal(highest_fd(), before);
        close(pair[0]);
        close(pair[1]);
}

static void a_message_without_room_is_refused(void **state _unused_)
{
        int pair[2], fd = 0, before, got[1];
        size_t n = 1, len = 99;
        char data[4];

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        before = highest_fd();
        assert_int_equal(sock_send_fds(pair[0], "hello", 5, &fd, 1), 0);
        assert_int_equal(sock_recv_fds(pair[1], data, sizeof(data), &len, got, &n), -EMSGSIZE);
        assert_int_equal(highest_fd(), before);
        close(pair[0]);
        close(pair[1]);
}

static void as_many_descriptors_as_promised_fit(void **state _unused_)
{
        int pair[2], fds[SOCK_MAX_FDS] = {}, got[SOCK_MAX_FDS];
        size_t n = SOCK_MAX_FDS, len;
        char byte;

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
        assert_int_equal(sock_send_fds(pair[0], "x", 1, fds, SOCK_MAX_FDS + 1), -EINVAL);
        assert_int_equal(sock_send_fds(pair[0], "x", 1, fds, SOCK_MAX_FDS), 0);
        assert_int_equal(sock_recv_fds(pair[1], &byte, 1, &len, got, &n), 0);
        assert_int_equal(n, SOCK_MAX_FDS);
        for (size_t i = 0; i < n; i++)
                close(got[i]);
        close(pair[0]);
        close(pair[1]);
}

static void sockets_body(void *arg)
{
        _cleanup_fd_ int listening = -1, unix_fd = -1, client = -1;
        _cleanup_error_ struct error *e = NULL;
        const struct unix_test *t = arg;
        struct sock_address any;

        if (torture_failed(sock_address_parse("127.0.0.1:0", 0, false, &any, &e) < 0) ||
                torture_failed(sock_listen_tcp(&any, 5, &listening, &e) < 0) ||
                torture_failed(sock_listen_unix(t->path, SOCK_STREAM, &unix_fd) < 0) ||
                torture_failed(sock_connect_unix(t->path, SOCK_STREAM, &client) < 0))
                return;
        assert_true(client >= 0);
}

static void making_sockets_survives_failing_calls(void **state _unused_)
{
        struct unix_test t;

        unix_set_up(&t, "s");
        torture_loop(sockets_body, &t);
        file_remove_tree(t.folder);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(addresses_are_read_and_written),
                cmocka_unit_test(lists_of_addresses_are_read),
                cmocka_unit_test(what_is_no_address_is_refused_by_name),
                cmocka_unit_test(a_name_is_resolved_only_when_asked_to),
                cmocka_unit_test(a_listening_socket_accepts),
                cmocka_unit_test(a_refused_connection_says_so),
                cmocka_unit_test(a_taken_port_is_named_in_the_error),
                cmocka_unit_test(a_unix_socket_is_its_owners_only),
                cmocka_unit_test(a_path_longer_than_the_address_works),
                cmocka_unit_test(a_stale_socket_is_replaced_but_a_living_one_is_not),
                cmocka_unit_test(a_file_in_the_sockets_place_is_not_removed),
                cmocka_unit_test(descriptors_arrive_and_work),
                cmocka_unit_test(the_end_of_the_connection_is_a_length_of_zero),
                cmocka_unit_test(descriptors_without_room_are_all_closed),
                cmocka_unit_test(a_message_without_room_is_refused),
                cmocka_unit_test(as_many_descriptors_as_promised_fit),
                cmocka_unit_test(making_sockets_survives_failing_calls),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

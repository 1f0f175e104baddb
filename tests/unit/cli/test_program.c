/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/program.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "capture.h"
#include "io/file.h"
#include "io/http_server.h"
#include "io/sock.h"

/* The manager's part is a real HTTP server in a child, with answers that the request's own names choose: a VM called
 * like an error code is answered with that error; a task called "succeeded-2" succeeds when it is asked for the second
 * time, "failed-1" fails with the code "locked". */

struct server {
        pid_t pid;
        char url[64];
        char *folder; /* HOME of the program under test */
};

static struct server server;

static json_t *task_document(const char *name, const char *state)
{
        json_t *error = !strcmp(state, "failed") ? json_pack("{s:s, s:s, s:s}", "code", "locked", "detail",
                                                           "disk in use", "hint", "stop the other one")
                                                 : json_null();

        return json_pack("{s:s, s:s, s:{s:s, s:s}, s:{s:s, s:s, s:{s:i, s:s}, s:n, s:o}}", "kind", "task",
                "name", name, "spec", "action", "vm.start", "object", "vm/web1", "status", "state", state,
                "step", "start", "progress", "percent", 50, "message", "starting", "result", "error", error);
}

static void get_vm(struct http_request *request, void *userdata)
{
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        enum error_code code;

        if (error_code_from_string(name, &code) == 0) {
                error_set(&error, code, "a way out", "it is %s", name);
                http_request_reply_error(request, error);
        } else if (!strcmp(name, "garbage")) {
                http_request_reply_text(request, 200, "text/plain", "no JSON");
        } else if (!strcmp(name, "proxy")) {
                http_request_reply_text(request, 503, "text/html", "<h1>Service Unavailable</h1>");
        } else {
                http_request_reply_json(request, 200, json_pack("{s:s, s:s}", "kind", "vm", "name", name));
        }
}

static void start_vm(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 202, task_document(http_request_param(request, "name"), "queued"));
}

static void confirm_down(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 200,
                json_pack("{s:s, s:s, s:{s:{s:s}}}", "kind", "host", "name",
                        http_request_param(request, "name"), "status", "confirmed_down", "by", "admin"));
}

static void get_task(struct http_request *request, void *userdata)
{
        static unsigned int asked;
        const char *name = http_request_param(request, "name"), *dash = strrchr(name, '-');
        char state[32];

        asked++;
        snprintf(state, sizeof(state), "%.*s", (int)(dash ? dash - name : 0), name);
        if (dash && asked >= (unsigned int)(dash[1] - '0')) {
                asked = 0;
                http_request_reply_json(request, 200, task_document(name, state));
        } else {
                http_request_reply_json(request, 200, task_document(name, "running"));
        }
}

/* Two pages: the second one when it is asked for. */
static void list_vms(struct http_request *request, void *userdata)
{
        const char *at = http_request_query(request, "continue");

        http_request_reply_json(request, 200,
                json_pack("{s:[{s:s, s:{s:s}}], s:s?, s:i}", "items", "name", at ? "second" : "first",
                        "status", "host", http_request_query(request, "host") ?: "-", "continue",
                        at ? NULL : "a b&c", "revision", 7));
}

static void migrate(struct http_request *request, void *userdata)
{
        json_t *body = NULL;
        struct error *error = NULL;

        if (http_request_json(request, &body, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        http_request_reply_json(request, 200,
                json_pack("{s:b, s:s, s:O, s:[], s:[]}", "ok",
                        !strcmp(http_request_param(request, "name"), "movable"), "vm",
                        http_request_param(request, "name"), "to", json_object_get(body, "to"), "checks",
                        "ranking"));
}

static void revoke_token(struct http_request *request, void *userdata)
{
        http_request_reply_empty(request, 204);
}

/* That of "carol" alone is known to come with her tokens' end. */
static void put_password(struct http_request *request, void *userdata)
{
        json_t *body = NULL, *revokes;
        struct error *error = NULL;

        if (http_request_json(request, &body, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        revokes = json_object_get(body, "revoke_tokens");
        if (strcmp(http_request_param(request, "name"), "carol") ? !revokes : json_is_true(revokes)) {
                http_request_reply_empty(request, 204);
                return;
        }
        error_set(&error, ERROR_BAD_DOCUMENT, NULL, "field revoke_tokens is not known");
        http_request_reply_error(request, error);
}

/* The token and the reason, as they arrived. */
static void whoami(struct http_request *request, void *userdata)
{
        http_request_reply_json(request, 200,
                json_pack("{s:s?, s:s?}", "name", http_request_header(request, "Authorization"), "server",
                        http_request_header(request, "X-Drover-Reason")));
}

static void events(struct http_request *request, void *userdata)
{
        static const char text[] = ": hello\n\nid: 5\nevent: vm\ndata: "
                                   "{\"revision\":5,\"kind\":\"vm\",\"op\":\"put\",\"name\":\"web1\"}\n\n";
        static const char gone[] = "id: 6\nevent: vm\ndata: "
                                   "{\"revision\":6,\"kind\":\"vm\",\"op\":\"delete\",\"name\":\"web1\"}\n\n";
        const char *last = http_request_header(request, "Last-Event-ID");
        struct http_stream *stream;

        if (last && !strcmp(last, "6")) {
                struct error *error = NULL;

                error_set(&error, ERROR_DENIED, NULL, "the token was revoked");
                http_request_reply_error(request, error);
                return;
        }
        stream = http_request_reply_stream(request, "text/event-stream", 65536, NULL, NULL);
        if (!stream)
                return;
        (void)http_stream_send(stream, last ? gone : text, strlen(last ? gone : text));
        http_stream_close(stream);
}

static const struct http_route routes[] = {
        {"GET", "/api/v1/vms", list_vms},
        {"GET", "/api/v1/vms/{name}", get_vm},
        {"POST", "/api/v1/hosts/{name}/confirm-down", confirm_down},
        {"POST", "/api/v1/vms/{name}/start", start_vm},
        {"POST", "/api/v1/vms/{name}/migrate", migrate},
        {"GET", "/api/v1/tasks/{name}", get_task},
        {"DELETE", "/api/v1/tokens/{name}", revoke_token},
        {"PUT", "/api/v1/users/{name}/password", put_password},
        {"GET", "/api/v1/events", events},
        {"GET", "/version", whoami},
};

/* Stands by for so many requests, then leads. */
static bool stand_by(struct http_request *request, void *userdata)
{
        int *n_left = userdata;
        struct error *error = NULL;

        if (*n_left == 0)
                return true;
        --*n_left;
        error_set(&error, ERROR_NOT_LEADING, "ask that one", "manager2 stands by: manager1 leads");
        http_request_reply_error(request, error);
        return false;
}

static void serve(int fd, int n_standby)
{
        struct http_server_config config = {.listen_fd = fd,
                .routes = routes,
                .n_routes = ARRAY_SIZE(routes),
                .admit = stand_by,
                .userdata = &n_standby};
        struct http_server *http = NULL;
        struct loop *loop = NULL;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (loop_new(&loop) < 0 || http_server_new(loop, &config, &http, NULL) < 0)
                _exit(1);
        (void)loop_run(loop);
        _exit(0);
}

static pid_t spawn(int n_standby, char ret_url[static 64])
{
        struct sock_address address;
        int fd = -1;
        pid_t pid;

        assert_int_equal(sock_address_parse("127.0.0.1:0", 0, false, &address, NULL), 0);
        assert_int_equal(sock_listen_tcp(&address, 16, &fd, NULL), 0);
        assert_int_equal(sock_local_address(fd, &address), 0);
        snprintf(ret_url, 64, "http://127.0.0.1:%u", sock_address_port(&address));
        pid = fork();
        if (pid == 0)
                serve(fd, n_standby);
        close(fd);
        return pid;
}

static int start_server(void **state)
{
        char folder[] = "/tmp/drover-cli-XXXXXX";

        server.pid = spawn(0, server.url);
        assert_non_null(mkdtemp(folder));
        server.folder = alloc_strdup(folder);
        curl_global_init(CURL_GLOBAL_DEFAULT);
        setenv("HOME", folder, 1);
        unsetenv("XDG_CONFIG_HOME");
        unsetenv("DROVER_CA");
        return 0;
}

static int stop_server(void **state)
{
        kill(server.pid, SIGKILL);
        waitpid(server.pid, NULL, 0);
        file_remove_tree(server.folder);
        free(server.folder);
        curl_global_cleanup();
        return 0;
}

static int default_environment(void **state)
{
        setenv("DROVER_SERVER", server.url, 1);
        setenv("DROVER_TOKEN", "secret", 1);
        return 0;
}

/* What is typed at the terminal; NULL: there is none. */
static FILE *answers;

/* Runs "drover LINE" (words split at blanks); out and err are to be freed. */
static int run(const char *line, char **ret_out, char **ret_err)
{
        _cleanup_free_ char *copy = alloc_strdup(line);
        struct capture out, err;
        const char *argv[24] = {"drover"};
        int argc = 1, status;

        for (char *save, *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
                argv[argc++] = word;
        capture_begin(&out);
        capture_begin(&err);
        status = program_run(argc, argv, answers, out.file, err.file, 0, 0);
        *ret_out = alloc_strdup(capture_text(&out));
        *ret_err = alloc_strdup(capture_text(&err));
        capture_end(&out);
        capture_end(&err);
        return status;
}

static void assert_run(const char *line, int status, const char *out_part, const char *err_part)
{
        _cleanup_free_ char *out = NULL, *err = NULL;
        int got = run(line, &out, &err);

        if (got != status)
                fail_msg("'%s' ended with %d, not %d: %s", line, got, status, err);
        assert_contains(out, out_part);
        assert_contains(err, err_part);
}

static void test_errors_of_the_server_become_exit_statuses(void **state)
{
        static const struct {
                const char *name;
                int status;
        } cases[] = {{"internal", 1}, {"bad-document", 1}, {"not-found", 3}, {"denied", 4},
                {"unauthenticated", 4}, {"conflict", 5}, {"busy", 5}, {"locked", 5}, {"timed-out", 6},
                {"unreachable", 1}};

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                _cleanup_free_ char *line = alloc_printf("vm show %s", cases[i].name),
                                    *message = alloc_printf(
                                            "drover: error: it is %s\nhint: a way out\n", cases[i].name);

                assert_run(line, cases[i].status, "", message);
        }
}

static void test_a_wrong_command_line_is_status_2_and_sends_nothing(void **state)
{
        setenv("DROVER_SERVER", "http://127.0.0.1:1", 1);
        assert_run("vm shw web1", 2, "", "did you mean 'drover vm show'?");
        assert_run("vm create web1 --memory 1G --disk 10G", 2, "", "option --disk");
        assert_run("datastore add shared srv/vms", 2, "", "PATH: 'srv/vms' is not absolute");
}

static void test_an_answer_that_is_not_the_managers_is_refused(void **state)
{
        assert_run("vm show garbage", 1, "", "is not a JSON document");
        assert_run("vm show proxy", 1, "", "HTTP status 503");
}

static void test_no_server_there_is_an_error_with_a_way_out(void **state)
{
        setenv("DROVER_SERVER", "http://127.0.0.1:1", 1);
        assert_run("vm list", 1, "", "cannot reach http://127.0.0.1:1");
}

static void use_servers(const char *first, const char *second)
{
        _cleanup_free_ char *both = alloc_printf("%s,%s", first, second);

        setenv("DROVER_SERVER", both, 1);
}

static void test_of_several_managers_one_that_answers_is_found(void **state)
{
        use_servers("http://127.0.0.1:1/", server.url);
        assert_run("vm show web1 -o json", 0, "\"web1\"", "");
        assert_run("events", 4, "delete  web1", "the token was revoked");
        use_servers("http://127.0.0.1:1", "http://127.0.0.1:2");
        assert_run("vm list", 1, "", "cannot reach http://127.0.0.1:2");
        use_servers("http://127.0.0.1:1", "ftp://manager");
        assert_run("vm list", 2, "", "'ftp://manager' is not the URL");
}

static void test_of_several_managers_the_one_that_leads_answers(void **state)
{
        char standby[64];
        pid_t pid = spawn(-1, standby);

        use_servers(standby, server.url);
        assert_run("vm show web1 -o json", 0, "\"web1\"", "");
        assert_run("vm start web1 --no-wait", 0, "web1", "");
        setenv("DROVER_SERVER", standby, 1);
        assert_run("vm show web1", 1, "", "manager2 stands by: manager1 leads");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
}

static void test_a_takeover_by_the_standby_is_waited_for(void **state)
{
        char standby[64];
        pid_t pid = spawn(3, standby);

        use_servers("http://127.0.0.1:1", standby);
        assert_run("vm start web1 --no-wait", 0, "web1", "");
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
}

static void test_the_token_does_not_cross_a_network_in_the_clear(void **state)
{
        setenv("DROVER_SERVER", "http://192.0.2.1:8443", 1);
        assert_run("vm list", 2, "", "would carry the API token in the clear");
        setenv("DROVER_SERVER", "http://127.0.0.1.example.org:8443", 1);
        assert_run("vm list", 2, "", "in the clear");
        setenv("DROVER_SERVER", "ftp://manager", 1);
        assert_run("vm list", 2, "", "'ftp://manager' is not the URL");
}

static void test_documents_go_to_standard_output(void **state)
{
        assert_run("vm show web1 -o json", 0, "{\n  \"kind\": \"vm\",\n  \"name\": \"web1\"\n}\n", "");
        assert_run("vm show web1 -o yaml", 0, "kind: vm\nname: web1\n", "");
        assert_run("vm show web1", 0, "kind  vm\nname  web1\n", "");
}

static void test_lists_are_read_to_their_last_page(void **state)
{
        _cleanup_free_ char *out = NULL, *err = NULL;

        assert_int_equal(run("vm list --host host1", &out, &err), 0);
        assert_contains(out, "first ");
        assert_contains(out, "second ");
        assert_contains(out, "host1");
}

static void test_waits_for_a_task_with_progress_on_standard_error(void **state)
{
        assert_run("vm start succeeded-2", 0, "vm/web1: vm.start done",
                "web1  start  [##########----------]  50 %");
        assert_run("vm start succeeded-1 -q", 0, "done", "");
}

static void test_the_error_of_a_task_is_the_commands(void **state)
{
        assert_run("vm start failed-1", 5, "", "drover: error: disk in use\nhint: stop the other one\n");
        assert_run("vm start cancelled-1", 1, "", "ended as cancelled");
        assert_run("-o json vm start failed-1", 5, "\"state\": \"failed\"", "disk in use");
}

static void test_no_wait_prints_the_task(void **state)
{
        _cleanup_free_ char *out = NULL, *err = NULL;

        assert_int_equal(run("vm start succeeded-9 --no-wait", &out, &err), 0);
        assert_string_equal(out, "succeeded-9\n");
        assert_run("vm start succeeded-9 --no-wait -o json", 0, "\"kind\": \"task\"", "");
}

static void test_a_time_limit_on_waiting_is_status_6(void **state)
{
        assert_run("vm start forever --timeout 1ms", 6, "",
                "task forever has not ended within 1 ms; it goes on");
}

static void test_checks_that_fail_are_status_1(void **state)
{
        assert_run("vm migrate movable --to host2 --check", 0, "movable can move to host2", "");
        assert_run("vm migrate stuck --to host2 --check", 1, "stuck cannot move to host2", "");
}

static void test_an_answer_without_a_body_is_success(void **state)
{
        assert_run("token revoke old", 0, "", "");
}

static void write_file(const char *name, const char *text, char **ret_path)
{
        *ret_path = alloc_printf("%s/%s", server.folder, name);
        assert_int_equal(file_write_atomic(*ret_path, text, strlen(text), 0600), 0);
}

static void test_token_and_reason_are_sent(void **state)
{
        _cleanup_free_ char *file = NULL, *line = NULL;

        assert_run("version --why maintenance", 0, "server.name    Bearer secret\nserver.server  maintenance",
                "");
        write_file("token", "from-file\n", &file);
        line = alloc_printf("version -t %s", file);
        assert_run(line, 0, "Bearer from-file", "");
        setenv("DROVER_TOKEN", file, 1);
        assert_run("version", 0, "Bearer from-file", "");
}

static void test_tokens_end_with_a_password_only_when_that_is_asked_for(void **state)
{
        _cleanup_free_ char *file = NULL, *plain = NULL, *revoking = NULL;

        write_file("password", "correct horse battery\n", &file);
        plain = alloc_printf("user password alice --password-file %s", file);
        revoking = alloc_printf("user password carol --password-file %s --revoke-tokens", file);
        assert_run(plain, 0, "", "");
        assert_run(revoking, 0, "", "");
}

static void test_a_token_that_is_none_is_refused(void **state)
{
        _cleanup_free_ char *file = NULL, *line = NULL;

        write_file("bad", "two words\n", &file);
        line = alloc_printf("version -t %s", file);
        assert_run(line, 2, "", "holds no API token");
        assert_run("version -t /nonexistent/token", 2, "", "cannot read the token file /nonexistent/token");
        setenv("DROVER_TOKEN", "a\r\nX-Evil: 1", 1);
        assert_run("version", 2, "", "DROVER_TOKEN holds no API token");
}

static void test_the_configuration_file_is_read_and_the_environment_wins(void **state)
{
        _cleanup_free_ char *folder = alloc_printf("%s/.config/drover", server.folder), *file = NULL,
                            *text = alloc_printf("[drover]\nserver = %s/\n", server.url);

        assert_int_equal(file_make_dirs(folder, 0700), 0);
        write_file(".config/drover/config.ini", text, &file);
        unsetenv("DROVER_SERVER");
        assert_run("vm show web1", 0, "web1", "");
        setenv("DROVER_SERVER", "http://127.0.0.1:1", 1);
        assert_run("vm show web1", 1, "", "127.0.0.1:1");
        assert_int_equal(file_write_atomic(file, "serber = x\n", 11, 0600), 0);
        assert_run("vm show web1", 2, "", "there is no setting 'serber'");
        assert_int_equal(unlink(file), 0);
}

static void test_events_are_followed_across_a_reconnect(void **state)
{
        assert_run("events", 4, "5  vm  put  web1\n6  vm  delete  web1\n", "the token was revoked");
}

static void type_in(const char *text)
{
        answers = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
        assert_non_null(answers);
}

static int leave_terminal(void **state)
{
        if (answers)
                fclose(answers);
        answers = NULL;
        return 0;
}

static void test_a_host_is_confirmed_down_by_typing_yes(void **state)
{
        type_in("yes\n");
        assert_run("host confirm-down host2", 0, "Host host2 is confirmed down", "powered off");
}

static void test_any_other_answer_leaves_the_host_as_it_is(void **state)
{
        static const char *const refusals[] = {"no\n", "y\n", "yes please\n", "\n", "yes"};

        /* The server cannot be reached: a request would fail with another message. */
        setenv("DROVER_SERVER", "http://127.0.0.1:1", 1);
        for (size_t i = 0; i < ARRAY_SIZE(refusals); i++) {
                type_in(refusals[i]);
                assert_run("host confirm-down host2", 1, "", "nothing was changed");
                leave_terminal(state);
        }
}

static void test_without_a_terminal_a_host_is_confirmed_down_with_yes_only(void **state)
{
        assert_run("host confirm-down host2", 2, "", "add --yes");
        assert_run("host confirm-down host2 --yes", 0, "Host host2 is confirmed down", "");
        assert_run("-o json host confirm-down host2 --yes", 0, "\"by\": \"admin\"", "");
}

static void test_help_is_status_0(void **state)
{
        assert_run("--help", 0, "usage: drover [global options] COMMAND", "");
        assert_run("vm create --help", 0, "--memory SIZE", "");
        assert_run("help network", 0, "network switch add NAME", "");
        assert_run("--version", 0, "drover ", "");
        assert_run("help nonsense", 2, "", "there is no command 'nonsense'");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup(test_errors_of_the_server_become_exit_statuses, default_environment),
                cmocka_unit_test_setup(
                        test_a_wrong_command_line_is_status_2_and_sends_nothing, default_environment),
                cmocka_unit_test_setup(
                        test_an_answer_that_is_not_the_managers_is_refused, default_environment),
                cmocka_unit_test_setup(test_no_server_there_is_an_error_with_a_way_out, default_environment),
                cmocka_unit_test_setup(
                        test_the_token_does_not_cross_a_network_in_the_clear, default_environment),
                cmocka_unit_test_setup(
                        test_of_several_managers_one_that_answers_is_found, default_environment),
                cmocka_unit_test_setup(
                        test_of_several_managers_the_one_that_leads_answers, default_environment),
                cmocka_unit_test_setup(test_a_takeover_by_the_standby_is_waited_for, default_environment),
                cmocka_unit_test_setup(test_documents_go_to_standard_output, default_environment),
                cmocka_unit_test_setup(test_lists_are_read_to_their_last_page, default_environment),
                cmocka_unit_test_setup(
                        test_waits_for_a_task_with_progress_on_standard_error, default_environment),
                cmocka_unit_test_setup(test_the_error_of_a_task_is_the_commands, default_environment),
                cmocka_unit_test_setup(test_no_wait_prints_the_task, default_environment),
                cmocka_unit_test_setup(test_a_time_limit_on_waiting_is_status_6, default_environment),
                cmocka_unit_test_setup(test_checks_that_fail_are_status_1, default_environment),
                cmocka_unit_test_setup(test_an_answer_without_a_body_is_success, default_environment),
                cmocka_unit_test_setup(
                        test_tokens_end_with_a_password_only_when_that_is_asked_for, default_environment),
                cmocka_unit_test_setup(test_token_and_reason_are_sent, default_environment),
                cmocka_unit_test_setup(test_a_token_that_is_none_is_refused, default_environment),
                cmocka_unit_test_setup(
                        test_the_configuration_file_is_read_and_the_environment_wins, default_environment),
                cmocka_unit_test_setup(test_events_are_followed_across_a_reconnect, default_environment),
                cmocka_unit_test_setup_teardown(
                        test_a_host_is_confirmed_down_by_typing_yes, default_environment, leave_terminal),
                cmocka_unit_test_setup_teardown(
                        test_any_other_answer_leaves_the_host_as_it_is, default_environment, leave_terminal),
                cmocka_unit_test_setup(
                        test_without_a_terminal_a_host_is_confirmed_down_with_yes_only, default_environment),
                cmocka_unit_test_setup(test_help_is_status_0, default_environment),
        };

        return cmocka_run_group_tests_name("cli-program", tests, start_server, stop_server);
}

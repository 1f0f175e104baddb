/* SPDX-License-Identifier: Apache-2.0 */
#include "openvswitch.h"

#include "base/doc.h"
#include "fabric/ovsdb.h"
#include "io/sock.h"

static json_t *select_root(void)
{
        return json_pack("[{s:s, s:s, s:[], s:[s]}]", "op", "select", "table", "Open_vSwitch", "where",
                "columns", "next_cfg");
}

static struct ovsdb *open_db(const char *path)
{
        struct ovsdb *db = NULL;

        assert_int_equal(ovsdb_new(path, &clock_system, &db), 0);
        return db;
}

static void assert_fails(struct ovsdb *db, json_t *operations, enum error_code code, const char *words)
{
        _cleanup_error_ struct error *error = NULL;
        json_t *told;

        assert_true(ovsdb_transact(db, operations, NULL, &error) < 0);
        assert_non_null(error);
        if (error->code != code || !strstr(error_message(error), words))
                fail_msg("unexpected error %s: %s", error_code_to_string(error->code), error_message(error));
        told = json_string(error_message(error));
        assert_non_null(told); /* it can be told to whoever asks */
        json_decref(told);
}

/* --- A real server */

static int start(void **state)
{
        static struct openvswitch ovs;

        openvswitch_start(&ovs);
        *state = &ovs;
        return 0;
}

static int stop(void **state)
{
        openvswitch_stop(*state);
        return 0;
}

static void reads_and_writes(void **state)
{
        struct openvswitch *ovs = *state;
        struct ovsdb *db = open_db(ovs->socket);
        _cleanup_json_ json_t *results = NULL;
        char answer[64];

        assert_int_equal(ovsdb_transact(db, select_root(), &results, NULL), 0);
        assert_int_equal(json_array_size(json_object_get(json_array_get(results, 0), "rows")), 1);
        assert_int_equal(
                ovsdb_transact(db,
                        json_pack("[{s:s, s:s, s:[], s:{s:[s, [[s, s]]]}}]", "op", "update", "table",
                                "Open_vSwitch", "where", "row", "external_ids", "map", "who", "drover"),
                        NULL, NULL),
                0);
        openvswitch_ask("get Open_vSwitch . external_ids:who", answer, sizeof(answer));
        assert_string_equal(answer, "drover");
        ovsdb_free(db);
}

static void tells_the_words_of_a_refusal(void **state)
{
        struct openvswitch *ovs = *state;
        struct ovsdb *db = open_db(ovs->socket);

        assert_fails(db, json_pack("[{s:s}]", "op", "bogus"), ERROR_PEER_FAILED, "No operation \"bogus\"");
        assert_fails(db,
                json_pack("[{s:s, s:s, s:{s:s}}]", "op", "insert", "table", "Bridge", "row", "colour", "red"),
                ERROR_PEER_FAILED, "colour");
        ovsdb_free(db);
}

/* A condition of a transaction, when somebody else was faster. */
static void tells_that_somebody_else_was_faster(void **state)
{
        struct openvswitch *ovs = *state;
        struct ovsdb *db = open_db(ovs->socket);

        assert_fails(db,
                json_pack("[{s:s, s:s, s:[], s:[s], s:s, s:[{s:i}], s:i}]", "op", "wait", "table",
                        "Open_vSwitch", "where", "columns", "next_cfg", "until", "==", "rows", "next_cfg",
                        123456, "timeout", 0),
                ERROR_CONFLICT, "somebody else has changed");
        ovsdb_free(db);
}

static void connects_again_after_a_restart(void **state)
{
        struct openvswitch *ovs = *state;
        struct ovsdb *db = open_db(ovs->socket);

        assert_int_equal(ovsdb_transact(db, select_root(), NULL, NULL), 0);
        openvswitch_end(&ovs->database);
        assert_fails(db, select_root(), ERROR_UNREACHABLE, "cannot talk to Open vSwitch at ");
        openvswitch_start_database(ovs);
        assert_int_equal(ovsdb_transact(db, select_root(), NULL, NULL), 0);
        ovsdb_free(db);
}

static void says_when_the_switch_daemon_does_not_follow(void **state)
{
        struct openvswitch *ovs = *state;
        struct ovsdb *db = open_db(ovs->socket);
        _cleanup_error_ struct error *error = NULL;

        uint64_t first_ms = 0, least_ms = UINT64_MAX;

        /* The first one is waited for; those after it, which may as well hang, are not waited for as long. */
        for (int i = 0; i < 4; i++) {
                uint64_t began_ms = clock_now_ms(&clock_system);

                error_free(TAKE_PTR(error));
                assert_true(ovsdb_apply(db, json_array(), NULL, &error) < 0);
                assert_int_equal(error->code, ERROR_TIMED_OUT);
                assert_string_equal(
                        error_message(error), "ovs-vswitchd does not carry out what was configured");
                if (i == 0)
                        first_ms = clock_now_ms(&clock_system) - began_ms;
                else
                        least_ms = MIN(least_ms, clock_now_ms(&clock_system) - began_ms);
        }
        assert_true(least_ms < first_ms);
        openvswitch_start_vswitch(ovs);
        assert_int_equal(ovsdb_apply(db, json_array(), NULL, NULL), 0);
        ovsdb_free(db);
}

/* --- A server that lies */

struct liar {
        const char *says;    /* sent in answer to the first request */
        const char *forever; /* then again and again; NULL: nothing */
        bool hangs_up;
        const char *then; /* sent when another request, or an answer, came */
};

static void take_request(int fd)
{
        char text[4096];

        (void)!read(fd, text, sizeof(text));
}

static void say_all(int fd, const char *text)
{
        (void)!write(fd, text, strlen(text));
}

static void serve(int listener, const struct liar *liar)
{
        int fd;

        signal(SIGPIPE, SIG_DFL);
        for (;;) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
                        usleep(1000);
                take_request(fd);
                say_all(fd, liar->says);
                if (liar->then) {
                        take_request(fd);
                        say_all(fd, liar->then);
                }
                while (liar->forever)
                        say_all(fd, liar->forever);
                if (!liar->hangs_up)
                        pause();
                close(fd);
        }
}

static void against_liar(const struct liar *liar, enum error_code code, const char *words)
{
        char folder[] = "/tmp/drover-liar-XXXXXX", path[64];
        struct ovsdb *db;
        int listener;
        pid_t pid;

        assert_non_null(mkdtemp(folder));
        snprintf(path, sizeof(path), "%s/db.sock", folder);
        assert_int_equal(sock_listen_unix(path, SOCK_STREAM, &listener), 0);
        pid = fork();
        if (pid == 0)
                serve(listener, liar);
        db = open_db(path);
        if (words)
                assert_fails(db, select_root(), code, words);
        else
                assert_int_equal(ovsdb_transact(db, select_root(), NULL, NULL), 0);
        ovsdb_free(db);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        close(listener);
        unlink(path);
        rmdir(folder);
}

static void refuses_what_is_no_json(void **state)
{
        against_liar(&(struct liar){.says = "HTTP/1.1 400 Bad Request\r\n\r\n"}, ERROR_PROTOCOL, "not valid");
        against_liar(&(struct liar){.says = "{\"id\":1,}"}, ERROR_PROTOCOL, "not valid");
        against_liar(&(struct liar){.says = "}"}, ERROR_PROTOCOL, "not valid");
}

static void refuses_answers_to_other_questions(void **state)
{
        against_liar(&(struct liar){.says = "{\"id\":7,\"result\":[{}],\"error\":null}"}, ERROR_PROTOCOL,
                "not valid");
        against_liar(&(struct liar){.says = "[1]"}, ERROR_PROTOCOL, "not valid");
        against_liar(&(struct liar){.says = "{\"id\":1,\"result\":[],\"error\":null}"}, ERROR_PROTOCOL,
                "not valid");
}

/* The message is UTF-8 all the same. */
static void cuts_the_words_of_a_refusal_between_characters(void **state)
{
        static char says[1024];
        size_t len = (size_t)snprintf(says, sizeof(says), "{\"id\":1,\"result\":null,\"error\":\"x");

        for (int i = 0; i < 150; i++)
                len += (size_t)snprintf(says + len, sizeof(says) - len, "\xc3\xa9");
        snprintf(says + len, sizeof(says) - len, "\"}");
        against_liar(&(struct liar){.says = says}, ERROR_PEER_FAILED, "\xc3\xa9");
}

static void tells_a_refusal_of_the_whole_request(void **state)
{
        against_liar(
                &(struct liar){
                        .says = "{\"id\":1,\"result\":null,\"error\":{\"error\":\"unknown database\"}}"},
                ERROR_PEER_FAILED, "unknown database");
}

static void bounds_what_it_takes_in(void **state)
{
        static char chunk[65536];

        memset(chunk, '[', sizeof(chunk) - 1);
        against_liar(&(struct liar){.says = "", .forever = chunk}, ERROR_PROTOCOL, "too large");
        memset(chunk, 'a', sizeof(chunk) - 1);
        against_liar(&(struct liar){.says = "{\"", .forever = chunk}, ERROR_PROTOCOL, "too large");
}

static void loses_patience_with_messages_that_are_no_answer(void **state)
{
        against_liar(
                &(struct liar){.says = "", .forever = "{\"method\":\"update\",\"params\":[],\"id\":null}"},
                ERROR_PROTOCOL, "not valid");
}

static void says_that_the_connection_was_lost(void **state)
{
        against_liar(&(struct liar){.says = "{\"id\":1,\"res", .hangs_up = true}, ERROR_UNREACHABLE,
                "the connection was lost");
}

static void answers_an_echo_first(void **state)
{
        against_liar(&(struct liar){.says = "{\"method\":\"echo\",\"params\":[],\"id\":\"echo\"}",
                             .then = " {\"id\":1,\"result\":[{\"rows\":[]}],\"error\":null}\n"},
                0, NULL);
}

static void gives_up_on_a_silent_server_and_leaves_it_alone_for_a_while(void **state)
{
        struct clock_manual clock;
        char folder[] = "/tmp/drover-liar-XXXXXX", path[64];
        struct ovsdb *db = NULL;
        int listener;

        clock_manual_init(&clock, 0);
        assert_non_null(mkdtemp(folder));
        snprintf(path, sizeof(path), "%s/db.sock", folder);
        assert_int_equal(sock_listen_unix(path, SOCK_STREAM, &listener), 0);
        assert_int_equal(ovsdb_new(path, &clock.clock, &db), 0);
        /* The clock stands still: it is poll() that ends the wait. */
        assert_fails(db, select_root(), ERROR_TIMED_OUT, "did not answer within 1000 ms");
        assert_fails(db, select_root(), ERROR_UNREACHABLE, "it did not answer in time");
        clock_manual_advance(&clock, OVSDB_AGAIN_MS);
        assert_fails(db, select_root(), ERROR_TIMED_OUT, "did not answer within 1000 ms");
        ovsdb_free(db);
        close(listener);
        unlink(path);
        rmdir(folder);
}

/* --- Values */

static void reads_sets_and_maps_in_each_form(void **state)
{
        _cleanup_json_ json_t *values =
                json_loads("[[\"set\",[1,2]],7,[\"set\",[]],[\"uuid\",\"u\"],[\"set\",3],"
                           "[\"map\",[[\"a\",\"b\"]]],[\"map\",5],[\"map\",[[1]]]]",
                        0, NULL);
        static const size_t sizes[] = {2, 1, 0, 1, 0};

        for (size_t i = 0; i < 5; i++) {
                _cleanup_json_ json_t *items = ovsdb_set_items(json_array_get(values, i));

                assert_int_equal(json_array_size(items), sizes[i]);
        }
        assert_string_equal(ovsdb_uuid(json_array_get(values, 3)), "u");
        assert_string_equal(ovsdb_uuid(json_array_get(values, 1)), "");
        for (size_t i = 5; i < 8; i++) {
                _cleanup_json_ json_t *object = ovsdb_map_object(json_array_get(values, i));

                assert_int_equal(json_object_size(object), i == 5);
        }
}

int main(void)
{
        const struct CMUnitTest with_server[] = {
                cmocka_unit_test(reads_and_writes),
                cmocka_unit_test(tells_the_words_of_a_refusal),
                cmocka_unit_test(tells_that_somebody_else_was_faster),
                cmocka_unit_test(connects_again_after_a_restart),
                cmocka_unit_test(says_when_the_switch_daemon_does_not_follow),
        };
        const struct CMUnitTest with_liar[] = {
                cmocka_unit_test(refuses_what_is_no_json),
                cmocka_unit_test(refuses_answers_to_other_questions),
                cmocka_unit_test(cuts_the_words_of_a_refusal_between_characters),
                cmocka_unit_test(tells_a_refusal_of_the_whole_request),
                cmocka_unit_test(bounds_what_it_takes_in),
                cmocka_unit_test(loses_patience_with_messages_that_are_no_answer),
                cmocka_unit_test(says_that_the_connection_was_lost),
                cmocka_unit_test(answers_an_echo_first),
                cmocka_unit_test(gives_up_on_a_silent_server_and_leaves_it_alone_for_a_while),
                cmocka_unit_test(reads_sets_and_maps_in_each_form),
        };
        int r;

        netns_enter();
        r = cmocka_run_group_tests_name("liar", with_liar, NULL, NULL);
        return r ? r : cmocka_run_group_tests_name("server", with_server, start, stop);
}

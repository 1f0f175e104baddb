/* SPDX-License-Identifier: Apache-2.0 */

/* What is PostgreSQL's alone: a server that is away, hangs or refuses, and who leads of several managers. */

#include "store_places.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/text.h"
#include "manager/pg_link.h"

struct state {
        struct clock_manual clock;
        struct store *a, *b; /* of two managers */
        int lost;            /* how often a was told that it leads no longer */
};

static struct store *open_as(const struct clock *clock)
{
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;
        char url[256];

        postgresql_server_url(&store_place_server, "drover", "drover", url);
        if (store_open(url, clock, &store, &error) < 0)
                fail_msg("%s", error_message(error));
        return store;
}

static void on_lost(void *userdata)
{
        ++*(int *)userdata;
}

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        store_place_postgresql.clear(NULL);
        clock_manual_init(&state->clock, 0);
        state->a = open_as(&clock_system);
        state->b = open_as(&state->clock.clock);
        store_on_lost(state->a, on_lost, &state->lost);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        store_close(state->a);
        store_close(state->b);
        free(state);
        return 0;
}

static int put(struct store *store, const char *name, struct error **ret_error)
{
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;

        store_batch_put(&batch, STORE_ANY, object_new("vm", name, "1"));
        return store_commit(store, &batch, NULL, ret_error);
}

static bool is_there(struct store *store, const char *name)
{
        json_t *doc = NULL;
        int r = store_get(store, "vm", name, &doc, NULL);

        json_decref(doc);
        assert_true(r == 0 || r == -ENOENT);
        return r == 0;
}

static void lead(struct store *store, const char *name, struct store_leader *ret_leader)
{
        assert_int_equal(store_lead(store, name, name, ret_leader, NULL), 0);
}

/* --- Leadership ---------------------------------------------------------------------------------------------------- */

static void the_second_manager_is_told_who_leads(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};

        lead(state->a, "manager1", &leader);
        assert_int_equal(store_lead(state->b, "manager2", "manager2", &leader, NULL), 1);
        assert_string_equal(leader.server, "manager1");
        assert_int_equal(leader.term, 1);
}

static void a_leader_that_shows_itself_is_not_replaced(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};

        lead(state->a, "manager1", &leader);
        for (int i = 0; i < 10; i++) {
                assert_int_equal(store_lead(state->b, "manager2", "manager2", &leader, NULL), 1);
                clock_manual_advance(&state->clock, STORE_LEASE_MS - 1);
                assert_int_equal(store_renew(state->a, NULL), 0);
        }
}

/* However late it comes back, as after SIGSTOP, it can change nothing any more. */
static void a_silent_leader_is_replaced_and_its_transactions_are_refused(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store_leader first = {}, second = {};

        lead(state->a, "manager1", &first);
        assert_int_equal(store_lead(state->b, "manager2", "manager2", &second, NULL), 1);
        clock_manual_advance(&state->clock, STORE_LEASE_MS);
        lead(state->b, "manager2", &second);
        assert_true(second.term > first.term);
        assert_int_equal(put(state->a, "late", &error), -ESTALE);
        assert_int_equal(error->code, ERROR_STALE_EPOCH);
        assert_non_null(strstr(error->message, "manager2"));
        assert_int_equal(state->lost, 1);
        assert_false(is_there(state->b, "late"));
        assert_int_equal(put(state->b, "in-time", NULL), 0);
}

static void a_replaced_leader_learns_of_it_when_it_shows_itself(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store_leader leader = {};

        lead(state->a, "manager1", &leader);
        assert_int_equal(store_lead(state->b, "manager2", "manager2", &leader, NULL), 1);
        clock_manual_advance(&state->clock, STORE_LEASE_MS);
        lead(state->b, "manager2", &leader);
        assert_int_equal(store_renew(state->a, &error), -ESTALE);
        assert_int_equal(error->code, ERROR_STALE_EPOCH);
        assert_int_equal(state->lost, 1);
        /* It gives up nothing but what it had. */
        assert_int_equal(store_resign(state->a, NULL), 1);
        assert_int_equal(store_renew(state->b, NULL), 0);
        assert_int_equal(put(state->a, "late", NULL), -ESTALE);
}

static void a_leader_that_resigned_is_replaced_at_once(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};

        lead(state->a, "manager1", &leader);
        assert_int_equal(store_resign(state->a, NULL), 0);
        lead(state->b, "manager2", &leader);
}

static void the_same_installation_need_not_wait_for_its_dead_process(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};

        lead(state->a, "manager1", &leader);
        lead(state->b, "manager1", &leader);
        assert_int_equal(leader.term, 2);
        assert_int_equal(put(state->a, "late", NULL), -ESTALE);
}

static void one_of_two_that_want_to_replace_it_does(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};
        struct store *c = open_as(&state->clock.clock);

        lead(state->a, "manager1", &leader);
        assert_int_equal(store_lead(state->b, "manager2", "manager2", &leader, NULL), 1);
        assert_int_equal(store_lead(c, "manager3", "manager3", &leader, NULL), 1);
        clock_manual_advance(&state->clock, STORE_LEASE_MS);
        lead(c, "manager3", &leader);
        assert_int_equal(store_lead(state->b, "manager2", "manager2", &leader, NULL), 1);
        assert_string_equal(leader.server, "manager3");
        store_close(c);
}

static void whoever_never_led_may_write_beside_the_leader(void **data)
{
        struct state *state = *data;
        struct store_leader leader = {};

        lead(state->a, "manager1", &leader);
        assert_int_equal(put(state->b, "token", NULL), 0);
        assert_true(is_there(state->a, "token"));
}

/* --- A server in trouble ------------------------------------------------------------------------------------------- */

static void a_server_that_was_restarted_is_not_noticed_by_the_next_call(void **data)
{
        struct state *state = *data;

        assert_int_equal(put(state->a, "before", NULL), 0);
        postgresql_server_kill(&store_place_server);
        postgresql_server_restart(&store_place_server);
        assert_int_equal(put(state->a, "after", NULL), 0);
        assert_true(is_there(state->a, "before"));
}

static uint64_t milliseconds_of_a_commit(struct store *store, struct error **ret_error)
{
        uint64_t began = clock_now_ms(&clock_system);

        assert_true(put(store, "a", ret_error) < 0);
        return clock_now_ms(&clock_system) - began;
}

static void a_server_that_is_away_is_named_and_costs_no_time(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL, *again = NULL;

        postgresql_server_kill(&store_place_server);
        assert_true(put(state->a, "a", &error) < 0);
        assert_true(put(state->a, "a", &again) < 0); /* not even tried */
        postgresql_server_restart(&store_place_server);
        assert_int_equal(error->code, ERROR_UNREACHABLE);
        assert_non_null(strstr(error->message, "cannot open the store postgresql://drover@"));
        assert_non_null(error->hint);
        assert_string_equal(again->message, error->message);
}

static void freeze(const char *application, int signo)
{
        char pid[32];
        uint64_t number = 0;

        postgresql_server_ask(&store_place_server, application, pid, sizeof(pid));
        assert_int_equal(text_parse_u64(pid, 2, INT32_MAX, &number), 0);
        assert_int_equal(kill((pid_t)number, signo), 0);
}

/* The server's process behind the store that was opened first. */
#define OLDEST_SESSION \
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'drover-manager' ORDER BY backend_start " \
        "LIMIT 1"

static void a_server_that_hangs_holds_nobody_up_for_long(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store_leader leader = {};
        uint64_t ms;

        lead(state->a, "manager1", &leader);
        freeze(OLDEST_SESSION, SIGSTOP);
        ms = milliseconds_of_a_commit(state->a, &error);
        freeze(OLDEST_SESSION, SIGCONT);
        assert_true(ms >= PG_LINK_CALL_MS - 100);
        assert_int_equal(error->code, ERROR_UNREACHABLE);
        /* Whether that was carried out is not known: the manager has to load everything anew, and till then nothing is written. */
        assert_int_equal(state->lost, 1);
        assert_int_equal(put(state->a, "b", NULL), -ESTALE);
        assert_int_equal(store_resign(state->a, NULL), -EHOSTUNREACH); /* not even tried */
        (void)poll(NULL, 0, PG_LINK_AGAIN_MS);
        assert_int_equal(store_resign(state->a, NULL), 0);
        lead(state->a, "manager1", &leader);
        assert_int_equal(leader.term, 2);
        assert_int_equal(put(state->a, "b", NULL), 0);
}

static void a_lock_that_somebody_holds_ends_a_call_in_time(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        char url[256];
        PGconn *other;

        postgresql_server_url(&store_place_server, "admin", "drover", url);
        other = PQconnectdb(url);
        PQclear(PQexec(other, "BEGIN"));
        PQclear(PQexec(other, "LOCK TABLE drover.state"));
        assert_true(put(state->a, "a", &error) < 0);
        assert_int_equal(error->code,
                ERROR_TIMED_OUT); /* the server said so: the link's own limit would have cost the lead */
        assert_int_equal(state->lost, 0);
        PQfinish(other);
        assert_int_equal(put(state->a, "a", NULL), 0);
}

/* The first of two servers takes connections and says nothing, like one whose packets are swallowed. */
static void a_silent_server_does_not_hide_the_next_one(void **data _unused_)
{
        struct sockaddr_un silent = {.sun_family = AF_UNIX};
        uint64_t end = clock_now_ms(&clock_system) + 10 * STORE_LEASE_MS;
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        _cleanup_error_ struct error *error = NULL;
        _cleanup_free_ char *url = NULL;
        struct pg_link *link = NULL;
        struct folder folder;

        folder_make(&folder);
        snprintf(silent.sun_path, sizeof(silent.sun_path), "%s/.s.PGSQL.5432", folder.path);
        assert_int_equal(bind(fd, (struct sockaddr *)&silent, sizeof(silent)), 0);
        assert_int_equal(listen(fd, 16), 0);
        url = alloc_printf(
                "postgresql://drover@/drover?host=%s,%s", folder.path, store_place_server.socket_folder);
        assert_int_equal(pg_link_new(url, &clock_system, &link, NULL), 0);
        while (pg_link_script(link, "SELECT 1", &error) < 0) {
                if (clock_now_ms(&clock_system) >= end)
                        fail_msg("%s", error_message(error));
                (void)poll(NULL, 0, 50);
        }
        pg_link_free(link);
        close(fd);
        folder_remove(&folder);
}

static void a_name_that_is_not_utf8_is_nobodys(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        json_t *doc = NULL;

        assert_true(store_get(state->a, "vm", "\xff", &doc, &error) < 0);
        assert_int_equal(error->code, ERROR_BAD_REQUEST);
        assert_int_equal(put(state->a, "a", NULL), 0);
}

/* A manager of this version that stands by, while one of a newer version led and took the schema further. */
static void a_newer_schema_is_not_led(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        struct store_leader leader = {};
        char version[24], back[96];

        postgresql_server_ask(
                &store_place_server, "SELECT version FROM drover.state", version, sizeof(version));
        postgresql_server_sql(&store_place_server, "drover", "UPDATE drover.state SET version = 99");
        assert_true(store_lead(state->a, "manager1", "manager1", &leader, &error) < 0);
        assert_non_null(strstr(error->message, "99"));
        snprintf(back, sizeof(back), "UPDATE drover.state SET version = %s", version);
        postgresql_server_sql(&store_place_server, "drover", back);
        lead(state->a, "manager1", &leader);
}

/* --- What opening says --------------------------------------------------------------------------------------------- */

static void assert_refused(const char *url, enum error_code code, const char *message, const char *hint)
{
        _cleanup_error_ struct error *error = NULL;
        struct store *store = NULL;

        assert_true(store_open(url, &clock_system, &store, &error) < 0);
        assert_null(store);
        if (!strstr(error->message, message) || !strstr(error->hint ?: "", hint))
                fail_msg("%s: %s (%s)", url, error->message, error->hint ?: "no hint");
        assert_int_equal(error->code, code);
        assert_null(strstr(error->message, "secret"));
}

/* The server's own file: its owner and mode stay. */
static void write_hba(const char *text)
{
        _cleanup_free_ char *path = alloc_printf("%s/data/pg_hba.conf", store_place_server.folder);
        FILE *file = fopen(path, "w");

        assert_non_null(file);
        fputs(text, file);
        assert_int_equal(fclose(file), 0);
        postgresql_server_sql(&store_place_server, "postgres", "SELECT pg_reload_conf()");
}

static void a_wrong_password_is_named_and_not_repeated(void **data)
{
        _cleanup_free_ char *url =
                alloc_printf("postgresql://locked:secret@/drover?host=%s", store_place_server.socket_folder);

        postgresql_server_sql(&store_place_server, "postgres", "CREATE ROLE locked LOGIN PASSWORD 'another'");
        write_hba("local all locked scram-sha-256\nlocal all all trust\n");
        assert_refused(url, ERROR_UNREACHABLE, "password authentication failed", "passfile");
        write_hba("local all all trust\n");
        postgresql_server_sql(&store_place_server, "postgres", "DROP ROLE locked");
}

static void what_cannot_be_a_store_is_refused(void **data)
{
        _cleanup_free_ char *nowhere =
                alloc_printf("postgresql://drover@/drover?host=%s/none", store_place_server.socket_folder);
        char url[256];

        postgresql_server_url(&store_place_server, "drover", "none", url);
        assert_refused(url, ERROR_UNREACHABLE, "database \"none\" does not exist", "`store`");
        assert_refused(
                nowhere, ERROR_UNREACHABLE, "No such file or directory", "Start the PostgreSQL server");
        assert_refused("postgresql://h/d?colour=red", ERROR_BAD_DOCUMENT, "colour", "postgresql://USER@HOST");
        assert_refused("mysql://h/d", ERROR_BAD_DOCUMENT, "names no store", "sqlite:/ABSOLUTE/PATH");
        assert_refused("sqlite:relative.db", ERROR_BAD_DOCUMENT, "names no store", "sqlite:/ABSOLUTE/PATH");
}

static void a_database_of_another_encoding_is_refused(void **data)
{
        char url[256];

        postgresql_server_sql(&store_place_server, "postgres",
                "CREATE DATABASE latin OWNER drover ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
        postgresql_server_url(&store_place_server, "drover", "latin", url);
        assert_refused(url, ERROR_NOT_SUPPORTED, "has the encoding LATIN1", "ENCODING 'UTF8'");
        postgresql_server_sql(&store_place_server, "postgres", "DROP DATABASE latin");
}

static void a_database_that_belongs_to_somebody_else_is_refused(void **data)
{
        char url[256];

        postgresql_server_sql(&store_place_server, "postgres", "CREATE DATABASE other");
        postgresql_server_url(&store_place_server, "drover", "other", url);
        assert_refused(url, ERROR_DENIED, "permission denied", "ALTER DATABASE");
        postgresql_server_sql(&store_place_server, "postgres", "DROP DATABASE other");
}

static void managers_that_start_together_make_one_schema(void **data)
{
        enum { MANAGERS = 4 };
        pid_t pids[MANAGERS];
        char url[256];

        postgresql_server_url(&store_place_server, "drover", "drover", url);
        store_place_postgresql.clear(NULL);
        for (int i = 0; i < MANAGERS; i++) {
                pids[i] = fork();
                if (pids[i] == 0) {
                        struct store *store = NULL;

                        _exit(store_open(url, &clock_system, &store, NULL) < 0 || put(store, "a", NULL) < 0);
                }
        }
        for (int i = 0; i < MANAGERS; i++) {
                int status = -1;

                assert_true(waitpid(pids[i], &status, 0) == pids[i]);
                assert_int_equal(status, 0);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(the_second_manager_is_told_who_leads),
                TEST(a_leader_that_shows_itself_is_not_replaced),
                TEST(a_silent_leader_is_replaced_and_its_transactions_are_refused),
                TEST(a_replaced_leader_learns_of_it_when_it_shows_itself),
                TEST(a_leader_that_resigned_is_replaced_at_once),
                TEST(the_same_installation_need_not_wait_for_its_dead_process),
                TEST(one_of_two_that_want_to_replace_it_does),
                TEST(whoever_never_led_may_write_beside_the_leader),
                TEST(a_server_that_was_restarted_is_not_noticed_by_the_next_call),
                TEST(a_server_that_is_away_is_named_and_costs_no_time),
                TEST(a_server_that_hangs_holds_nobody_up_for_long),
                TEST(a_lock_that_somebody_holds_ends_a_call_in_time),
                TEST(a_silent_server_does_not_hide_the_next_one),
                TEST(a_name_that_is_not_utf8_is_nobodys),
                TEST(a_newer_schema_is_not_led),
                TEST(a_wrong_password_is_named_and_not_repeated),
                TEST(what_cannot_be_a_store_is_refused),
                TEST(a_database_of_another_encoding_is_refused),
                TEST(a_database_that_belongs_to_somebody_else_is_refused),
                TEST(managers_that_start_together_make_one_schema),
        };
        int failed;

        if (!store_place_postgresql.begin())
                return 77; /* meson: skipped */
        failed = cmocka_run_group_tests(tests, NULL, NULL);
        store_place_postgresql.end();
        return failed;
}

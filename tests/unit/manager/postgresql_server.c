/* SPDX-License-Identifier: Apache-2.0 */
#include "postgresql_server.h"

#include "fixture.h"

#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TRIES 600 /* of 50 ms */

/* PostgreSQL's programs: DROVER_POSTGRESQL, or the newest of Debian's. */
static bool find_program(const char *name, char ret[static 256])
{
        const char *folder = getenv("DROVER_POSTGRESQL");
        char pattern[128];
        glob_t found = {};

        if (folder) {
                snprintf(ret, 256, "%s/%s", folder, name);
                return true;
        }
        snprintf(pattern, sizeof(pattern), "/usr/lib/postgresql/*/bin/%s", name);
        if (glob(pattern, 0, NULL, &found) != 0)
                return false;
        snprintf(ret, 256, "%s", found.gl_pathv[found.gl_pathc - 1]);
        globfree(&found);
        return true;
}

static const struct passwd *unprivileged(void)
{
        const struct passwd *user = geteuid() == 0 ? getpwnam("postgres") : NULL;

        return user ?: geteuid() == 0 ? getpwnam("nobody") : NULL;
}

/* In the child: without root's rights, with its output in FOLDER/postgresql.log, gone when the test is. */
static void become_server(const struct postgresql_server *server)
{
        const struct passwd *user = unprivileged();
        char log[96];
        int fd;

        snprintf(log, sizeof(log), "%s/postgresql.log", server->folder);
        fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
                _exit(126);
        if (user && (setgroups(0, NULL) < 0 || setgid(user->pw_gid) < 0 || setuid(user->pw_uid) < 0))
                _exit(126);
        prctl(PR_SET_PDEATHSIG, SIGQUIT);
        if (chdir("/") < 0)
                _exit(126);
}

static pid_t spawn(const struct postgresql_server *server, const char *const *argv)
{
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
                become_server(server);
                execv(argv[0], (char *const *)argv);
                _exit(127);
        }
        return pid;
}

static void ignore(void *userdata, const char *notice)
{
}

static PGconn *try_admin(const struct postgresql_server *server, const char *database)
{
        PGconn *connection;
        char url[256];

        postgresql_server_url(server, "admin", database, url);
        connection = PQconnectdb(url);
        PQsetNoticeProcessor(connection, ignore, NULL);
        return connection;
}

static void launch(struct postgresql_server *server)
{
        char program[256], data[96], sockets[128];
        const char *argv[] = {program, "-D", data, "-c", sockets, "-c", "listen_addresses=", "-c",
                "fsync=off", "-c", "max_connections=20", NULL};

        assert_true(find_program("postgres", program));
        snprintf(data, sizeof(data), "%s/data", server->folder);
        snprintf(sockets, sizeof(sockets), "unix_socket_directories=%s", server->socket_folder);
        server->pid = spawn(server, argv);
        for (int i = 0; i < START_TRIES; i++) {
                PGconn *connection = try_admin(server, "postgres");
                bool up = PQstatus(connection) == CONNECTION_OK;

                PQfinish(connection);
                if (up)
                        return;
                assert_int_equal(waitpid(server->pid, NULL, WNOHANG), 0);
                poll(NULL, 0, 50);
        }
        fail_msg("PostgreSQL does not start, see %s/postgresql.log", server->folder);
}

bool postgresql_server_start(struct postgresql_server *server, const char *folder)
{
        char program[256], data[96];
        const char *argv[] = {program, "-D", data, "-U", "admin", "-A", "trust", "-E", "UTF8",
                "--locale=C.UTF-8", "--no-sync", "--no-instructions", NULL};
        const struct passwd *user = unprivileged();
        int status = 0;

        if (!find_program("initdb", program))
                return false;
        *server = (struct postgresql_server){};
        snprintf(server->folder, sizeof(server->folder), "%s", folder);
        snprintf(server->socket_folder, sizeof(server->socket_folder), "%s", folder);
        snprintf(data, sizeof(data), "%s/data", folder);
        assert_int_equal(mkdir(data, 0700), 0);
        if (user) {
                assert_int_equal(chown(data, user->pw_uid, user->pw_gid), 0);
                assert_int_equal(chown(folder, user->pw_uid, user->pw_gid), 0);
        }
        assert_int_equal(chmod(folder, 0755), 0);
        assert_true(waitpid(spawn(server, argv), &status, 0) > 0);
        assert_int_equal(status, 0);
        launch(server);
        postgresql_server_sql(server, "postgres", "CREATE ROLE drover LOGIN");
        postgresql_server_sql(server, "postgres", "CREATE DATABASE drover OWNER drover");
        return true;
}

void postgresql_server_kill(struct postgresql_server *server)
{
        assert_int_equal(kill(server->pid, SIGQUIT), 0);
        assert_true(waitpid(server->pid, NULL, 0) == server->pid);
        server->pid = 0;
}

void postgresql_server_restart(struct postgresql_server *server)
{
        launch(server);
}

void postgresql_server_stop(struct postgresql_server *server)
{
        if (server->pid)
                postgresql_server_kill(server);
}

static void ask(
        const struct postgresql_server *server, const char *database, const char *sql, char *ret, size_t size)
{
        PGconn *connection = try_admin(server, database);
        PGresult *result = PQexec(connection, sql);
        ExecStatusType status = PQresultStatus(result);

        if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
                fail_msg("%s: %s", sql, PQerrorMessage(connection));
        if (ret)
                snprintf(ret, size, "%s", PQgetvalue(result, 0, 0));
        PQclear(result);
        PQfinish(connection);
}

void postgresql_server_sql(const struct postgresql_server *server, const char *database, const char *sql)
{
        ask(server, database, sql, NULL, 0);
}

void postgresql_server_ask(const struct postgresql_server *server, const char *sql, char *ret, size_t size)
{
        ask(server, "drover", sql, ret, size);
}

void postgresql_server_url(
        const struct postgresql_server *server, const char *user, const char *database, char ret[static 256])
{
        snprintf(ret, 256, "postgresql://%s@/%s?host=%s", user, database, server->socket_folder);
}

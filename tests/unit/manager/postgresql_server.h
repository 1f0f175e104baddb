/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A PostgreSQL server of the tests' own: a cluster in the test's folder, reached by a socket there alone, run by the user
 * "postgres" where the tests run as root (PostgreSQL refuses to be root). */

#include <stdbool.h>
#include <sys/types.h>

struct postgresql_server {
        char folder[64]; /* the caller's; it must exist */
        char socket_folder[80];
        pid_t pid;
};

/* Makes the cluster, with the superuser "admin", the role "drover" and its database "drover" (both without a password), and starts it. False
 * when PostgreSQL is not installed. Failures fail the test. */
bool postgresql_server_start(struct postgresql_server *server, const char *folder);
/* Ends it as a crash would (SIGQUIT), or starts it again; the cluster stays. */
void postgresql_server_kill(struct postgresql_server *server);
void postgresql_server_restart(struct postgresql_server *server);
/* As superuser; fails the test when it fails. */
void postgresql_server_sql(const struct postgresql_server *server, const char *database, const char *sql);
/* One value, as text. */
void postgresql_server_ask(const struct postgresql_server *server, const char *sql, char *ret, size_t size);
void postgresql_server_url(
        const struct postgresql_server *server, const char *user, const char *database, char ret[static 256]);
void postgresql_server_stop(struct postgresql_server *server);

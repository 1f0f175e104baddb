/* SPDX-License-Identifier: Apache-2.0 */

/* The guest's TCP services, one line a request, one line an answer.
 *
 * Port 7000, counter: "N" is answered by "N COUNT SUM BOOT", where COUNT and SUM are of all numbers sent on this connection;
 * they live nowhere but here, so that only the very same connection to the very same guest can give the right ones.
 *
 * Port 7001, commands: see COMMANDS. Answers begin with "ok" or "error"; `status` answers with a JSON object. */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "workload.h"

enum {
        MAX_CONNECTIONS = 64,
        MAX_WORDS = 6,
        MAX_ANSWER = 2048,
};

static struct {
        pthread_mutex_t lock;
        unsigned n_connections;
        uint64_t n_accepted;
        uint64_t boot; /* another one after each boot */
} server = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void answer_word(char *answer, const char *problem)
{
        if (problem != NULL)
                snprintf(answer, MAX_ANSWER, "error %s", problem);
        else
                snprintf(answer, MAX_ANSWER, "ok");
}

static void command_status(char **words, char *answer)
{
        FILE *out = fmemopen(answer, MAX_ANSWER, "w");
        char first[512];

        if (out == NULL)
                return;
        fault_first(first, sizeof(first));
        for (char *c = first; *c != '\0'; c++)
                if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
                        *c = '\'';
        fputc('{', out);
        memory_status(out);
        disk_status(out);
        clock_status(out);
        pthread_mutex_lock(&server.lock);
        fprintf(out, "\"boot\": \"%016" PRIx64 "\", \"connections\": %u, \"accepted\": %" PRIu64 ", ",
                server.boot, server.n_connections, server.n_accepted);
        pthread_mutex_unlock(&server.lock);
        fprintf(out, "\"faults\": %" PRIu64 ", \"first_fault\": \"%s\"}", fault_count(), first);
        fclose(out);
}

static void command_verify(char **words, char *answer)
{
        char first[512];

        memory_verify();
        disk_verify();
        fault_first(first, sizeof(first));
        if (fault_count() > 0)
                snprintf(answer, MAX_ANSWER, "error %" PRIu64 " faults; the first: %s", fault_count(), first);
        else
                snprintf(answer, MAX_ANSWER, "ok");
}

static void command_memory(char **words, char *answer)
{
        answer_word(answer, memory_resize(words[1], words[2]));
}

static void command_dirty(char **words, char *answer)
{
        answer_word(answer, memory_dirty(words[1], words[2], words[3], words[4]));
}

static void command_disk(char **words, char *answer)
{
        answer_word(answer, disk_rate(words[1]));
}

static void command_clock_reset(char **words, char *answer)
{
        clock_reset();
        answer_word(answer, NULL);
}

static void command_forget(char **words, char *answer)
{
        fault_forget();
        answer_word(answer, NULL);
}

static void command_reboot(char **words, char *answer)
{
        power_reboot();
}

static void command_power_off(char **words, char *answer)
{
        power_off();
}

static void command_crash(char **words, char *answer)
{
        power_crash();
}

/* COMMANDS */
static const struct command {
        const char *name;
        void (*run)(char **words, char *answer);
} commands[] = {
        {"status", command_status},           /* everything as one JSON object */
        {"verify", command_verify},           /* check all memory and all records now */
        {"memory", command_memory},           /* memory SIZE_MIB [CONTENT] */
        {"dirty", command_dirty},             /* dirty PAGES_PER_S [SPAN_MIB] [ORDER] [STYLE] */
        {"disk", command_disk},               /* disk RECORDS_PER_S */
        {"clock-reset", command_clock_reset}, /* forget the longest tick so far */
        {"forget", command_forget},           /* forget faults: only for tests of the guest itself */
        {"reboot", command_reboot},           /* no answer, as the next two */
        {"poweroff", command_power_off},
        {"crash", command_crash},
};

static void run_command(char *line, char *answer)
{
        char *words[MAX_WORDS + 1] = {NULL}, *rest = NULL;
        int n = 0;

        for (char *word = strtok_r(line, " \r\n", &rest); word != NULL && n < MAX_WORDS;
                word = strtok_r(NULL, " \r\n", &rest))
                words[n++] = word;
        snprintf(answer, MAX_ANSWER, "error unknown command; try status or verify");
        for (size_t i = 0; n > 0 && i < sizeof(commands) / sizeof(commands[0]); i++)
                if (strcmp(words[0], commands[i].name) == 0) {
                        commands[i].run(words, answer);
                        return;
                }
}

struct connection {
        int fd;
        uint16_t port;
};

static void serve_lines(FILE *in, int fd, uint16_t port)
{
        char line[256], answer[MAX_ANSWER + 1];
        uint64_t count = 0, sum = 0;

        while (fgets(line, sizeof(line), in) != NULL) {
                size_t length;

                if (port == COUNTER_PORT) {
                        uint64_t number = strtoull(line, NULL, 10);

                        count++;
                        sum += number;
                        snprintf(answer, sizeof(answer), "%" PRIu64 " %" PRIu64 " %" PRIu64 " %016" PRIx64,
                                number, count, sum, server.boot);
                } else {
                        run_command(line, answer);
                }
                length = strlen(answer);
                answer[length++] = '\n';
                if (send(fd, answer, length, MSG_NOSIGNAL) != (ssize_t)length)
                        return;
        }
}

static void *serve_connection(void *argument)
{
        struct connection *connection = argument;
        FILE *in = fdopen(connection->fd, "r");

        if (in != NULL) {
                serve_lines(in, connection->fd, connection->port);
                fclose(in);
        } else {
                close(connection->fd);
        }
        free(connection);
        pthread_mutex_lock(&server.lock);
        server.n_connections--;
        pthread_mutex_unlock(&server.lock);
        return NULL;
}

static bool admit(void)
{
        bool room;

        pthread_mutex_lock(&server.lock);
        room = server.n_connections < MAX_CONNECTIONS;
        if (room) {
                server.n_connections++;
                server.n_accepted++;
        }
        pthread_mutex_unlock(&server.lock);
        return room;
}

static void *accept_loop(void *argument)
{
        uint16_t port = (uint16_t)(uintptr_t)argument;
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
        int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
                bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 16) < 0) {
                fault("port %u: %s", port, strerror(errno));
                return NULL;
        }
        for (;;) {
                int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
                struct connection *connection;

                if (client < 0)
                        continue;
                setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
                connection = admit() ? malloc(sizeof(*connection)) : NULL;
                if (connection == NULL) {
                        close(client);
                        continue;
                }
                *connection = (struct connection){client, port};
                start_thread(serve_connection, connection);
        }
        return NULL;
}

void server_start(void)
{
        if (getrandom(&server.boot, sizeof(server.boot), GRND_INSECURE) != sizeof(server.boot))
                server.boot = mix64(monotonic_ns());
        start_thread(accept_loop, (void *)(uintptr_t)COUNTER_PORT);
        start_thread(accept_loop, (void *)(uintptr_t)COMMAND_PORT);
}

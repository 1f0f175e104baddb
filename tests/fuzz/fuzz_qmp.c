/* SPDX-License-Identifier: Apache-2.0 */

/* The QMP client against a QEMU that means harm: the input is what it sends, in pieces whose size is the first byte.
 * Commands are open meanwhile, one of them with a time limit that passes; every reply has to come once at most. */

#include <assert.h>
#include <sys/socket.h>

#include "vmm/migration_params.h"
#include "vmm/qmp.h"

#define COMMANDS 4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct loop *loop;

static void on_event(void *userdata, const char *name, const json_t *data, int64_t unix_us)
{
        assert(name && unix_us >= 0);
}

static void on_lost(void *userdata, const struct error *error)
{
        bool *lost = userdata;

        assert(error && !*lost);
        *lost = true;
}

static void on_reply(void *userdata, const json_t *result, const struct error *error)
{
        struct migration_info info = MIGRATION_INFO_INIT;
        bool *answered = userdata;

        assert(!result != !error && !*answered);
        *answered = true;
        if (result && migration_info_parse(result, &info, NULL) == 0)
                migration_info_deinit(&info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        bool lost = false, answered[COMMANDS] = {false};
        const struct qmp_callbacks callbacks = {.event = on_event, .lost = on_lost, .userdata = &lost};
        _cleanup_(qmp_freep) struct qmp *qmp = NULL;
        size_t piece;
        int fds[2];

        if (!size || (!loop && loop_new(&loop) < 0) ||
                socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                return 0;
        if (qmp_new(loop, fds[0], 10000, &callbacks, &qmp, NULL) < 0) {
                close(fds[0]);
                close(fds[1]);
                return 0;
        }
        for (size_t i = 0; i < COMMANDS; i++)
                (void)qmp_command(
                        qmp, "query-migrate", NULL, -1, i ? 10000 : 1, on_reply, &answered[i], NULL, NULL);
        piece = (size_t)*data++ + 1;
        size--;
        while (size && !lost) {
                ssize_t n = send(fds[1], data, size < piece ? size : piece, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n > 0) {
                        data += n;
                        size -= (size_t)n;
                }
                (void)loop_iterate(loop, 0);
                (void)loop_iterate(loop, 0);
        }
        close(fds[1]);
        while (!lost)
                (void)loop_iterate(loop, 1000);
        for (size_t i = 0; i < COMMANDS; i++)
                assert(answered[i]); /* loss answers what is open */
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The destination's end of the wire format: what a source that means harm may send. The first byte of the input
 * chooses the number of connections; a script for mover_world.h follows. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/log.h"
#include "mover/decode.h"
#include "mover/sink.h"
#include "mover_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A listener whose queue already holds the connections; the kernel makes up its name. */
static int listen_and_connect(struct world *world)
{
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        socklen_t len = sizeof(address);
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
                listen(listener, WORLD_CHANNELS_MAX) < 0 ||
                getsockname(listener, (struct sockaddr *)&address, &len) < 0)
                abort();
        for (unsigned int i = 0; i < world->n_channels; i++) {
                world->channel_fds[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
                if (world->channel_fds[i] < 0 ||
                        connect(world->channel_fds[i], (struct sockaddr *)&address, len) < 0)
                        abort();
        }
        return listener;
}

/* The decoder for people reads the same bytes. */
static void decode(const uint8_t *data, size_t size)
{
        static FILE *nowhere;
        _cleanup_error_ struct error *error = NULL;

        if (!nowhere)
                nowhere = fopen("/dev/null", "w");
        if (nowhere)
                (void)decode_frames(data, size, nowhere, &error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_fd_ int listener = -1, qemu = -1, control = -1;
        struct world world;
        int pair[2];

        if (size < 1)
                return 0;
        log_init("fuzz", LOG_LEVEL_ERROR);
        decode(data, size);
        world_init(&world, false, data, size);
        listener = listen_and_connect(&world);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                abort();
        world.qemu_fd = pair[0];
        qemu = pair[1];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                abort();
        world.control_fd = pair[0];
        control = pair[1];
        world_start(&world, "", (int[]){qemu, world.ram_fd, listener}, 3);
        (void)sink_run(control, false);
        world_deinit(&world);
        return 0;
}

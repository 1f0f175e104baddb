/* SPDX-License-Identifier: Apache-2.0 */

/* The source's end of the wire format: what a destination that means harm may answer, while QEMU's stream goes
 * by. The first byte of the input chooses connections, codec, verification and tunnel mode; a script for
 * mover_world.h follows. */

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/log.h"
#include "mover/source.h"
#include "mover_world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int connected(int *ret_other)
{
        int pair[2];

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                abort();
        *ret_other = pair[0];
        return pair[1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        static const char *const codecs[] = {"auto", "none", "lz4", "zstd"};
        int fds[2 + WORLD_CHANNELS_MAX], control[2];
        struct world world;
        char members[128];

        if (size < 1)
                return 0;
        log_init("fuzz", LOG_LEVEL_ERROR);
        world_init(&world, true, data, size);
        fds[0] = connected(&world.qemu_fd);
        fds[1] = world.ram_fd;
        for (unsigned int i = 0; i < world.n_channels; i++)
                fds[2 + i] = connected(&world.channel_fds[i]);
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0)
                abort();
        world.control_fd = control[0];
        snprintf(members, sizeof(members), ", \"codec\": \"%s\", \"verify\": %s, \"tunnel\": %s",
                codecs[data[0] >> 2 & 3], data[0] & 0x10 ? "true" : "false",
                data[0] & 0x20 ? "true" : "false");
        world_start(&world, members, fds, 2 + world.n_channels);
        /* The message in flight holds its own references. */
        close(fds[0]);
        for (unsigned int i = 0; i < world.n_channels; i++)
                close(fds[2 + i]);
        (void)source_run(control[1], false);
        close(control[1]);
        world_deinit(&world);
        return 0;
}

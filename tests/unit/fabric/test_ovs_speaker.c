/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs_speaker.h"

#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/macros.h"
#include "io/sock.h"

#define FRAME_LEN 1000
#define HEADER_LEN 24 /* of a packet-out, with its action */
#define HELLO_LEN 8
#define SAID_MAX 100000

/* Who would be ovs-vswitchd, and does not read before it is asked to. */
struct listener {
        char folder[32], path[64], db[64];
        int listening, connection;
};

static void listener_init(struct listener *its)
{
        *its = (struct listener){.folder = "/tmp/drover-speaker-XXXXXX", .connection = -1};
        assert_non_null(mkdtemp(its->folder));
        snprintf(its->path, sizeof(its->path), "%s/br0.mgmt", its->folder);
        snprintf(its->db, sizeof(its->db), "%s/db.sock", its->folder);
        assert_int_equal(sock_listen_unix(its->path, SOCK_STREAM, &its->listening), 0);
}

static void listener_deinit(struct listener *its)
{
        close(its->connection);
        close(its->listening);
        (void)unlink(its->path);
        assert_int_equal(rmdir(its->folder), 0);
}

/* Exactly so much, of what is there. */
static void take(struct listener *its, void *data, size_t len)
{
        if (its->connection < 0)
                its->connection = accept(its->listening, NULL, NULL); /* it blocks */
        assert_int_equal(recv(its->connection, data, len, MSG_WAITALL), len);
}

/* The number of the next frame; anything but a whole packet-out is a failure. */
static uint32_t take_frame(struct listener *its)
{
        uint8_t message[HEADER_LEN + FRAME_LEN];
        uint16_t length;
        uint32_t number;

        take(its, message, sizeof(message));
        memcpy(&length, message + 2, sizeof(length));
        assert_int_equal(message[0], 1);
        assert_int_equal(message[1], 13);
        assert_int_equal(be16toh(length), sizeof(message));
        memcpy(&number, message + HEADER_LEN, sizeof(number));
        return number;
}

static int say(struct ovs_speaker *speaker, uint32_t number)
{
        uint8_t frame[FRAME_LEN] = {0};

        memcpy(frame, &number, sizeof(number));
        return ovs_speaker_say(speaker, frame, sizeof(frame));
}

static void what_found_no_room_goes_before_the_next_frame(void **state _unused_)
{
        _cleanup_(ovs_speaker_freep) struct ovs_speaker *speaker = NULL;
        uint8_t hello[HELLO_LEN];
        struct listener its;
        uint32_t n = 0;
        int r = 0;

        listener_init(&its);
        assert_int_equal(ovs_speaker_new(its.db, "br0", 1, &speaker), 0);
        while (r == 0 && n < SAID_MAX)
                r = say(speaker, ++n);
        assert_int_equal(r, -EAGAIN);
        take(&its, hello, sizeof(hello));
        for (uint32_t i = 1; i < n; i++)
                assert_int_equal(take_frame(&its), i);
        assert_int_equal(say(speaker, n + 1), 0);
        assert_int_equal(take_frame(&its), n);
        assert_int_equal(take_frame(&its), n + 1);
        listener_deinit(&its);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_found_no_room_goes_before_the_next_frame),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

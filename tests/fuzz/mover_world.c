/* SPDX-License-Identifier: Apache-2.0 */
#include "mover_world.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "io/sock.h"

#define SECTION_ID 2
#define PATIENCE_TURNS 200 /* of at least TURN_NS, in which nothing moves */
#define TURN_NS 20000

static void must(bool ok)
{
        if (!ok)
                abort(); /* the harness is broken, not the mover */
}

/* Reads what the mover says and, as the agent, answers what a migration cannot go on without. */
static bool hear_agent(struct world *world)
{
        char text[65536];
        ssize_t n = recv(world->control_fd, text, sizeof(text) - 1, MSG_DONTWAIT);
        const char *answer = NULL;

        if (n <= 0)
                return false;
        text[n] = '\0';
        if (strstr(text, "\"device-state\""))
                answer = "{\"op\": \"handed-off\"}";
        else if (strstr(text, "\"post-copy\""))
                answer = "{\"op\": \"handed-off\"}";
        else if (strstr(text, "\"stream-end\"") || strstr(text, "\"loaded\""))
                answer = "{\"op\": \"commit\"}";
        else if (!world->source && strstr(text, "\"commit\""))
                answer = "{\"op\": \"result\", \"outcome\": \"running\"}";
        if (answer)
                (void)send(world->control_fd, answer, strlen(answer), MSG_NOSIGNAL | MSG_DONTWAIT);
        return true;
}

static bool drain(int fd, bool shut_on_vote)
{
        static const uint8_t vote[] = {0, 1, 0, 4, 0, 0, 0, 0}; /* QEMU's return path: SHUT */
        uint8_t data[65536];
        ssize_t n = recv(fd, data, sizeof(data), MSG_DONTWAIT);

        if (n <= 0)
                return false;
        if (shut_on_vote && memmem(data, (size_t)n, vote, sizeof(vote)))
                (void)shutdown(fd, SHUT_WR);
        return true;
}

static bool hear(struct world *world)
{
        bool moved = hear_agent(world);

        moved |= drain(world->qemu_fd, world->source);
        for (unsigned int i = 0; i < world->n_channels; i++)
                moved |= drain(world->channel_fds[i], false);
        return moved;
}

static int not_taken(int fd)
{
        int n = 0;

        return ioctl(fd, SIOCOUTQ, &n) == 0 ? n : 0;
}

static void turn(void)
{
        nanosleep(&(struct timespec){.tv_nsec = TURN_NS}, NULL);
}

/* Until the mover has taken what was sent and has nothing more to say. */
static void settle(struct world *world)
{
        int last = -1;

        for (int idle = 0; idle < PATIENCE_TURNS && !world->over; idle++) {
                int left = not_taken(world->qemu_fd);

                for (unsigned int i = 0; i < world->n_channels; i++)
                        left += not_taken(world->channel_fds[i]);
                if (left != last || hear(world))
                        idle = 0;
                else if (left == 0 && idle > 20)
                        return;
                last = left;
                turn();
        }
}

static void say(struct world *world, int fd, const void *data, size_t len)
{
        int idle = 0;

        if (fd == world->deaf_fd)
                return;
        for (; len > 0 && idle < PATIENCE_TURNS && !world->over; idle++) {
                ssize_t n = send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (n < 0 && errno != EAGAIN)
                        return;
                if (n > 0) {
                        data = (const uint8_t *)data + n;
                        len -= (size_t)n;
                }
                if (hear(world) || n > 0)
                        idle = 0;
                if (n < 0)
                        turn();
        }
        if (idle == PATIENCE_TURNS)
                world->deaf_fd = fd; /* a script may have thousands of things to say to it */
}

static void say_frame(struct world *world, int fd, uint8_t type, const void *payload, size_t len)
{
        struct wire_header_v1 header = {.payload_len = htole32((uint32_t)len), .type = type};

        say(world, fd, &header, sizeof(header));
        say(world, fd, payload, len);
}

static void mix(void *to, size_t to_len, const uint8_t *from, size_t len)
{
        for (size_t i = 0; i < MIN(to_len, len); i++)
                ((uint8_t *)to)[i] ^= from[i];
}

static void say_hello(struct world *world, unsigned int channel, const uint8_t *data, size_t len)
{
        struct wire_hello_v1 hello = {.magic = WIRE_MAGIC,
                .version = htole16(WIRE_VERSION),
                .compatible = htole16(WIRE_COMPATIBLE),
                .features = htole32(WIRE_FEATURES_ALL),
                .channel = htole16((uint16_t)channel),
                .n_channels = htole16((uint16_t)world->n_channels),
                .page_size = htole32(WIRE_PAGE_SIZE),
                .ram_bytes = htole64(WORLD_RAM_BYTES)};
        struct wire_hello_reply_v1 reply = {.magic = WIRE_MAGIC,
                .version = htole16(WIRE_VERSION),
                .compatible = htole16(WIRE_COMPATIBLE),
                /* With a checkpoint, the source would wait for HELD: an input that has some sets the bit. */
                .features = htole32(WIRE_FEATURES_ALL & ~WIRE_FEATURE_CHECKPOINT),
                .channel = htole16((uint16_t)channel),
                .n_channels = htole16((uint16_t)world->n_channels)};

        memcpy(hello.migration, WORLD_MIGRATION, sizeof(hello.migration));
        memcpy(hello.vm, WORLD_VM, sizeof(hello.vm));
        mix(&hello, sizeof(hello), data, len);
        mix(&reply, sizeof(reply), data, len);
        if (world->source)
                say_frame(world, world->channel_fds[channel], WIRE_HELLO_REPLY, &reply, sizeof(reply));
        else
                say_frame(world, world->channel_fds[channel], WIRE_HELLO, &hello, sizeof(hello));
}

static void say64(struct world *world, uint64_t value)
{
        uint64_t raw = htobe64(value);

        say(world, world->qemu_fd, &raw, sizeof(raw));
}

static void say_section(struct world *world, uint8_t type)
{
        say(world, world->qemu_fd, (uint8_t[]){type, 0, 0, 0, SECTION_ID}, 5);
}

static void say_stream_head(struct world *world)
{
        static const char head[] = "QEVM\0\0\0\3\7\0\0\0\2pc";
        static const uint8_t advise[] = {8, 0, 3, 0, 16, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0};

        say(world, world->qemu_fd, head, sizeof(head) - 1);
        if (world->post_copy)
                say(world, world->qemu_fd, advise, sizeof(advise));
        say_section(world, 1);
        say(world, world->qemu_fd, "\3ram\0\0\0\0\0\0\0\4", 12);
        say64(world, WORLD_RAM_BYTES | 0x04);
        say(world, world->qemu_fd, "\6pc.ram", 7);
        say64(world, WORLD_RAM_BYTES);
        say64(world, 0x10);
        say_section(world, 0x7e);
}

/* The pages are also changed in the guest's memory, as they would be. */
static void say_pages(struct world *world, uint8_t section, const uint8_t *data, size_t len)
{
        say_section(world, section);
        for (; len >= 2; data += 2, len -= 2) {
                uint64_t page = data[0] % WORLD_RAM_PAGES;
                uint8_t *content = world->ram + page * WIRE_PAGE_SIZE;

                memset(content, data[1], WIRE_PAGE_SIZE / 2); /* some blocks change, some stay */
                say64(world, page * WIRE_PAGE_SIZE | (data[1] ? 0x08 : 0x02));
                say(world, world->qemu_fd, "\6pc.ram", 7);
                say(world, world->qemu_fd, content, data[1] ? WIRE_PAGE_SIZE : 1);
        }
        say64(world, 0x10);
        say_section(world, 0x7e);
}

static void say_device_state(struct world *world, const uint8_t *data, size_t len)
{
        static const uint8_t description[] = {0, 6, 0, 0, 0, 2, '{', '}'};

        say_pages(world, 3, NULL, 0);
        say(world, world->qemu_fd, "\4", 1);
        say(world, world->qemu_fd, data, len);
        say(world, world->qemu_fd, description, sizeof(description));
}

static void step(
        struct world *world, enum world_step what, unsigned int channel, const uint8_t *data, size_t len)
{
        int fd = world->channel_fds[channel];

        switch (what) {
        case STEP_RAW:
                return say(world, fd, data, len);
        case STEP_HELLO:
                return say_hello(world, channel, data, len);
        case STEP_FRAME:
                if (len > 0)
                        say_frame(world, fd, data[0], data + 1, len - 1);
                return;
        case STEP_AGENT:
                (void)send(world->control_fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
                return;
        case STEP_WAIT:
                return settle(world);
        case STEP_QEMU:
                return say(world, world->qemu_fd, data, len);
        case STEP_QEMU_HEAD:
                return say_stream_head(world);
        case STEP_PAGES:
                return say_pages(world, 2, data, len);
        case STEP_DEVICE:
                return say_device_state(world, data, len);
        case N_WORLD_STEPS:
                return;
        }
}

static void *play(void *userdata)
{
        struct world *world = userdata;
        uint8_t what;

        while (!world->over && cursor_u8(&world->script, &what)) {
                const uint8_t *data = NULL;
                uint16_t len = 0;

                (void)cursor_u16le(&world->script, &len);
                len = (uint16_t)MIN((size_t)len, world->script.left);
                (void)cursor_bytes(&world->script, len, &data);
                step(world, (what >> 4) % N_WORLD_STEPS, (what & 15) % world->n_channels, data, len);
                hear(world);
        }
        settle(world);
        /* Agent and peer go away: whatever is left ends now. The rest is read so that nobody blocks. */
        (void)shutdown(world->control_fd, SHUT_WR);
        for (unsigned int i = 0; i < world->n_channels; i++)
                (void)shutdown(world->channel_fds[i], SHUT_WR);
        while (!world->over) {
                hear(world);
                turn();
        }
        return NULL;
}

void world_init(struct world *world, bool source, const uint8_t *script, size_t size)
{
        *world = (struct world){.source = source,
                .post_copy = script[0] >> 7,
                .n_channels = (script[0] & 3) % WORLD_CHANNELS_MAX + 1,
                .qemu_fd = -1,
                .deaf_fd = -1};
        world->script = cursor_of(script + 1, size - 1);
        for (unsigned int i = 0; i < WORLD_CHANNELS_MAX; i++)
                world->channel_fds[i] = -1;
        world->ram_fd = memfd_create("ram", MFD_CLOEXEC);
        must(world->ram_fd >= 0 && ftruncate(world->ram_fd, WORLD_RAM_BYTES) == 0);
        world->ram = mmap(NULL, WORLD_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, world->ram_fd, 0);
        must(world->ram != MAP_FAILED);
}

void world_start(struct world *world, const char *members, const int *fds, size_t n_fds)
{
        char text[1024];

        snprintf(text, sizeof(text),
                "{\"op\": \"start\", \"migration\": \"" WORLD_MIGRATION "\", \"vm\": \"" WORLD_VM
                "\", \"block\": \"pc.ram\", \"ram_bytes\": %d, \"cert_pem\": \"c\", \"key_pem\": \"k\", "
                "\"peer_fingerprint\": \"f\", \"timeout_ms\": 5000, \"post_copy\": %s%s}",
                WORLD_RAM_BYTES, world->post_copy ? "true" : "false", members);
        must(sock_send_fds(world->control_fd, text, strlen(text), fds, n_fds) == 0);
        must(pthread_create(&world->thread, NULL, play, world) == 0);
}

void world_deinit(struct world *world)
{
        world->over = true;
        pthread_join(world->thread, NULL);
        munmap(world->ram, WORLD_RAM_BYTES);
        fd_closep(&world->ram_fd);
        fd_closep(&world->control_fd);
        fd_closep(&world->qemu_fd);
        for (unsigned int i = 0; i < WORLD_CHANNELS_MAX; i++)
                fd_closep(&world->channel_fds[i]);
}

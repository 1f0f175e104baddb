/* SPDX-License-Identifier: Apache-2.0 */

/* A network link with a rate, a delay and loss, for kernels without netem:
 *
 *   lablink NETNS-FD-A NAME-A NETNS-FD-B NAME-B RATE-BPS DELAY-US LOSS-PPM
 *
 * Makes a tap called NAME-A in one network namespace and NAME-B in the other and carries frames between
 * them, each direction on its own: a frame leaves DELAY-US after it passed a serialiser of RATE-BPS (0: without
 * limit) that holds at most a tenth of a second, and is lost with LOSS-PPM in a million. Without loss the kernel
 * hands over unsegmented packets of up to 64 KiB, which makes gigabits cheap; with loss every frame is one that
 * would be on the wire. Prints "ready" when both taps are up. */

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
        MAX_FRAME = 65536 + 64,
        QUEUE_LENGTH = 65536,     /* frames in flight per direction */
        MAX_QUEUE_NS = 100000000, /* room of the serialiser */
        BURST = 64,               /* frames taken from a tap before the other one is looked at */
};

struct frame {
        uint64_t due_ns;
        size_t size;
        uint8_t *data;
};

struct direction {
        int from_fd;
        int to_fd;
        uint64_t free_ns; /* when the serialiser is free again */
        unsigned head, n;
        struct frame frames[QUEUE_LENGTH];
};

static struct {
        uint64_t rate_bps;
        uint64_t delay_ns;
        uint64_t loss_ppm;
        uint64_t random;
        struct direction directions[2];
} link_state = {.random = 88172645463325252};

static uint64_t now_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void fail(const char *what)
{
        fprintf(stderr, "lablink: %s: %s\n", what, strerror(errno));
        exit(1);
}

static bool lost(void)
{
        /* xorshift64, Marsaglia 2003. The same losses each time. */
        link_state.random ^= link_state.random << 13;
        link_state.random ^= link_state.random >> 7;
        link_state.random ^= link_state.random << 17;
        return link_state.random % 1000000 < link_state.loss_ppm;
}

static void set_up(const char *name)
{
        struct ifreq request = {0};
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
                fail(name);
        request.ifr_flags |= IFF_UP;
        if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
                fail(name);
        close(fd);
}

static int open_tap(int netns_fd, const char *name)
{
        struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
        unsigned offloads = TUN_F_CSUM | (link_state.loss_ppm > 0 ? 0 : TUN_F_TSO4 | TUN_F_TSO6);
        int fd;

        /* The descriptor belongs to the namespace that it was opened in. */
        if (setns(netns_fd, CLONE_NEWNET) < 0)
                fail("entering the network namespace");
        fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                fail("/dev/net/tun");
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETOFFLOAD, offloads) < 0)
                fail(name);
        set_up(name);
        return fd;
}

/* Takes one frame from the tap; false when there is none. */
static bool take(struct direction *direction, uint64_t at_ns)
{
        static uint8_t buffer[MAX_FRAME];
        ssize_t size = read(direction->from_fd, buffer, sizeof(buffer));
        uint64_t wire_bits, start_ns = at_ns > direction->free_ns ? at_ns : direction->free_ns;
        struct frame *frame;

        if (size < 0)
                return false;
        if (start_ns - at_ns > MAX_QUEUE_NS || direction->n == QUEUE_LENGTH || lost())
                return true;
        wire_bits = ((uint64_t)size - sizeof(struct virtio_net_hdr)) * 8;
        direction->free_ns =
                start_ns + (link_state.rate_bps > 0 ? wire_bits * 1000000000 / link_state.rate_bps : 0);
        frame = &direction->frames[(direction->head + direction->n) % QUEUE_LENGTH];
        frame->data = malloc((size_t)size);
        if (frame->data == NULL)
                return true;
        memcpy(frame->data, buffer, (size_t)size);
        frame->size = (size_t)size;
        frame->due_ns = direction->free_ns + link_state.delay_ns;
        direction->n++;
        return true;
}

/* Delivers what is due; the time of the next one, or UINT64_MAX. */
static uint64_t deliver(struct direction *direction, uint64_t at_ns)
{
        while (direction->n > 0) {
                struct frame *frame = &direction->frames[direction->head];

                if (frame->due_ns > at_ns)
                        return frame->due_ns;
                /* A tap that is down refuses: the frame is lost, as on a real cable. */
                if (write(direction->to_fd, frame->data, frame->size) < 0 && errno != EIO && errno != EINVAL)
                        fail("writing to a tap");
                free(frame->data);
                direction->head = (direction->head + 1) % QUEUE_LENGTH;
                direction->n--;
        }
        return UINT64_MAX;
}

_Noreturn static void carry(void)
{
        struct direction *directions = link_state.directions;

        for (;;) {
                struct pollfd polls[2] = {{.fd = directions[0].from_fd, .events = POLLIN},
                        {.fd = directions[1].from_fd, .events = POLLIN}};
                uint64_t at_ns = now_ns(), next_ns = deliver(&directions[0], at_ns),
                         other_ns = deliver(&directions[1], at_ns);
                struct timespec wait = {0};

                if (other_ns < next_ns)
                        next_ns = other_ns;
                if (next_ns != UINT64_MAX) {
                        wait.tv_sec = (time_t)((next_ns - at_ns) / 1000000000);
                        wait.tv_nsec = (long)((next_ns - at_ns) % 1000000000);
                }
                if (ppoll(polls, 2, next_ns == UINT64_MAX ? NULL : &wait, NULL) < 0 && errno != EINTR)
                        fail("waiting");
                at_ns = now_ns();
                for (int i = 0; i < 2; i++) {
                        if (!(polls[i].revents & POLLIN))
                                continue;
                        for (int n = 0; n < BURST && take(&directions[i], at_ns); n++)
                                ;
                }
        }
}

int main(int argc, char **argv)
{
        int a, b;

        if (argc != 8) {
                fprintf(stderr,
                        "usage: lablink NETNS-FD-A NAME-A NETNS-FD-B NAME-B RATE-BPS DELAY-US LOSS-PPM\n");
                return 2;
        }
        link_state.rate_bps = strtoull(argv[5], NULL, 10);
        link_state.delay_ns = strtoull(argv[6], NULL, 10) * 1000;
        link_state.loss_ppm = strtoull(argv[7], NULL, 10);
        a = open_tap((int)strtol(argv[1], NULL, 10), argv[2]);
        b = open_tap((int)strtol(argv[3], NULL, 10), argv[4]);
        link_state.directions[0].from_fd = link_state.directions[1].to_fd = a;
        link_state.directions[0].to_fd = link_state.directions[1].from_fd = b;
        puts("ready");
        fflush(stdout);
        carry();
}

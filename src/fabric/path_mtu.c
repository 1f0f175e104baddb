/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/path_mtu.h"

#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <sys/random.h>

#include "base/alloc.h"

/* Jumbo frames, Ethernet, and Ethernet with room for tunnels; IPv6's minimum. */
static const unsigned int common_sizes[] = {9000, 1500, 1450, 1400, 1280};
#define MAX_SIZES (ARRAY_SIZE(common_sizes) + 1)
#define MAX_PACKET 65535
/* After the first answer, larger packets get as long again, several times. */
#define SETTLE_FACTOR 3
#define MIN_SETTLE_MS 20

/* ICMP and ICMPv6 echo messages have the same form (RFC 792, RFC 4443). */
struct echo_v1 {
        uint8_t type, code;
        uint16_t checksum;
        uint16_t id_be, sequence_be;
        uint64_t cookie;
} __attribute__((packed));

struct path_mtu {
        struct loop *loop;
        struct loop_source *io, *timer;
        int fd;
        bool v6;
        uint16_t id;
        uint64_t cookie;
        unsigned int sizes[MAX_SIZES]; /* falling */
        size_t n_sizes;
        size_t best; /* index; n_sizes: no answer yet */
        uint64_t started_ms;
        path_mtu_fn fn;
        void *userdata;
};

/* `probe` may be gone afterwards. */
static void finish(void *userdata)
{
        struct path_mtu *probe = userdata;
        unsigned int mtu = probe->best < probe->n_sizes ? probe->sizes[probe->best] : 0;

        loop_source_free(TAKE_PTR(probe->io));
        loop_source_free(TAKE_PTR(probe->timer));
        probe->fn(probe->userdata, mtu);
}

/* RFC 1071. */
static uint16_t checksum(const uint8_t *data, size_t len)
{
        uint32_t sum = 0;

        for (size_t i = 0; i < len; i++)
                sum += i % 2 == 0 ? (uint32_t)data[i] << 8 : data[i];
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return htons((uint16_t)~sum);
}

static void send_request(struct path_mtu *probe, size_t index)
{
        size_t len = probe->sizes[index] - (probe->v6 ? 40 : sizeof(struct iphdr));
        struct echo_v1 echo = {.type = probe->v6 ? ICMP6_ECHO_REQUEST : ICMP_ECHO,
                .id_be = htons(probe->id),
                .sequence_be = htons((uint16_t)index),
                .cookie = probe->cookie};
        _cleanup_free_ uint8_t *packet = alloc_zero(len);

        if (!packet)
                return;
        memcpy(packet, &echo, sizeof(echo));
        if (!probe->v6) { /* for the other the kernel makes it */
                echo.checksum = checksum(packet, len);
                memcpy(packet, &echo, sizeof(echo));
        }
        (void)!send(probe->fd, packet, len, 0); /* what cannot leave is not answered */
}

/* Index of the request that this packet answers; n_sizes: none. */
static size_t read_answer(const struct path_mtu *probe, const uint8_t *packet, size_t len)
{
        size_t skip = 0, index;
        struct echo_v1 echo;

        if (!probe->v6 && len >= sizeof(struct iphdr))
                skip = (size_t)(packet[0] & 15) * 4;
        if (len < skip + sizeof(echo))
                return probe->n_sizes;
        memcpy(&echo, packet + skip, sizeof(echo));
        index = ntohs(echo.sequence_be);
        if (echo.type != (probe->v6 ? ICMP6_ECHO_REPLY : ICMP_ECHOREPLY) || ntohs(echo.id_be) != probe->id ||
                echo.cookie != probe->cookie || index >= probe->n_sizes)
                return probe->n_sizes;
        return index;
}

static void on_packet(void *userdata, int fd, uint32_t events _unused_)
{
        struct path_mtu *probe = userdata;
        bool first = probe->best == probe->n_sizes;
        uint8_t packet[256];
        ssize_t n;

        while ((n = recv(fd, packet, sizeof(packet), MSG_DONTWAIT)) >= 0) /* the rest of it is cut off */
                probe->best = MIN(probe->best, read_answer(probe, packet, (size_t)n));
        if (probe->best == 0)
                return finish(probe);
        if (first && probe->best < probe->n_sizes)
                loop_source_rearm(probe->timer,
                        MAX((clock_now_ms(loop_clock(probe->loop)) - probe->started_ms) * SETTLE_FACTOR,
                                (uint64_t)MIN_SETTLE_MS));
}

static int open_socket(struct path_mtu *probe, const struct sock_address *address, const char *device)
{
        const int mode = probe->v6 ? IPV6_PMTUDISC_PROBE : IP_PMTUDISC_PROBE;
        struct sock_address to = *address;

        sock_address_set_port(&to, 0);
        probe->fd = socket(address->storage.ss_family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK,
                probe->v6 ? (int)IPPROTO_ICMPV6 : (int)IPPROTO_ICMP);
        if (probe->fd < 0)
                return -errno;
        if (*device &&
                setsockopt(probe->fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) < 0)
                return -errno;
        if (setsockopt(probe->fd, probe->v6 ? (int)IPPROTO_IPV6 : (int)IPPROTO_IP,
                    probe->v6 ? IPV6_MTU_DISCOVER : IP_MTU_DISCOVER, &mode, sizeof(mode)) < 0 ||
                connect(probe->fd, (const struct sockaddr *)&to.storage, to.len) < 0)
                return -errno;
        return 0;
}

int path_mtu_start(struct loop *loop, const struct sock_address *address, const char *device,
        unsigned int largest, uint64_t limit_ms, path_mtu_fn fn, void *userdata, struct path_mtu **ret_probe,
        struct error **ret_error)
{
        _cleanup_(path_mtu_freep) struct path_mtu *probe = ALLOC(struct path_mtu);
        int r;

        if (!probe)
                return error_from_errno(ret_error, ENOMEM, "probe for large packets");
        *probe = (struct path_mtu){.loop = loop,
                .fd = -1,
                .v6 = address->storage.ss_family == AF_INET6,
                .started_ms = clock_now_ms(loop_clock(loop)),
                .fn = fn,
                .userdata = userdata};
        probe->sizes[probe->n_sizes++] = MIN(largest, (unsigned int)MAX_PACKET);
        for (size_t i = 0; i < ARRAY_SIZE(common_sizes); i++)
                if (common_sizes[i] < largest)
                        probe->sizes[probe->n_sizes++] = common_sizes[i];
        probe->best = probe->n_sizes;
        r = getrandom(&probe->cookie, sizeof(probe->cookie), 0) == sizeof(probe->cookie) ? 0 : -errno;
        probe->id = (uint16_t)probe->cookie;
        if (r == 0)
                r = open_socket(probe, address, device);
        if (r == 0)
                r = loop_add_io(loop, probe->fd, EPOLLIN, on_packet, probe, &probe->io);
        if (r == 0)
                r = loop_add_timer(loop, limit_ms, finish, probe, &probe->timer);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot probe how large packets may be");
        for (size_t i = 0; i < probe->n_sizes; i++)
                send_request(probe, i);
        *ret_probe = TAKE_PTR(probe);
        return 0;
}

void path_mtu_free(struct path_mtu *probe)
{
        if (!probe)
                return;
        loop_source_free(probe->io);
        loop_source_free(probe->timer);
        fd_closep(&probe->fd);
        free(probe);
}

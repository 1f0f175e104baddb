/* SPDX-License-Identifier: Apache-2.0 */
#include "io/sock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/alloc.h"
#include "base/text.h"
#include "base/torture.h"

#define HOST_MAX_CHARS 255
#define MAX_TCP_WINDOW 32767 /* of the kernel: larger segments cannot be asked for (include/net/tcp.h) */

/* Cuts "host:port" into its parts; a port that is not there leaves *ret_port NULL. */
static int split_host_port(const char *s, char host[static HOST_MAX_CHARS + 1], const char **ret_port)
{
        const char *from = s, *end, *colon = strchr(s, ':');

        *ret_port = NULL;
        if (*s == '[') {
                from = s + 1;
                end = strchr(from, ']');
                if (!end || (end[1] && end[1] != ':'))
                        return -EINVAL;
                if (end[1])
                        *ret_port = end + 2;
        } else if (colon && !strchr(colon + 1, ':')) {
                end = colon;
                *ret_port = colon + 1;
        } else {
                end = s + strlen(s); /* no colon, or a bare IPv6 address */
        }
        if (end == from || end - from > HOST_MAX_CHARS)
                return -EINVAL;
        memcpy(host, from, (size_t)(end - from));
        host[end - from] = '\0';
        return 0;
}

static int bad_address(struct error **ret_error, const char *s)
{
        return error_set(ret_error, ERROR_BAD_DOCUMENT,
                "Write it as ADDRESS:PORT, such as 192.0.2.1:8444 or [2001:db8::1]:8444.",
                "\"%.100s\" is not an address", s);
}

int sock_address_parse(const char *s, uint16_t default_port, bool resolve, struct sock_address *ret,
        struct error **ret_error)
{
        const struct addrinfo hints = {
                .ai_socktype = SOCK_STREAM, .ai_flags = resolve ? AI_ADDRCONFIG : AI_NUMERICHOST};
        char host[HOST_MAX_CHARS + 1];
        uint64_t port = default_port;
        struct addrinfo *info;
        const char *port_text;
        int r;

        if (split_host_port(s, host, &port_text) < 0)
                return bad_address(ret_error, s);
        if (port_text && text_parse_u64(port_text, 0, UINT16_MAX, &port) < 0)
                return bad_address(ret_error, s);
        if (torture_point())
                return error_from_errno(ret_error, ENOMEM, "address %s", s);
        r = getaddrinfo(host, NULL, &hints, &info);
        if (r != 0 && !resolve)
                return bad_address(ret_error, s);
        if (r != 0)
                return error_set(ret_error, ERROR_UNREACHABLE, "Check the name and the DNS servers.",
                        "the name %.100s cannot be resolved: %s", host, gai_strerror(r));
        *ret = (struct sock_address){.len = info->ai_addrlen};
        memcpy(&ret->storage, info->ai_addr, info->ai_addrlen);
        freeaddrinfo(info);
        sock_address_set_port(ret, (uint16_t)port);
        return 0;
}

static bool is_listed(const struct sock_address *list, size_t n, const struct sock_address *address)
{
        char text[64], other[64];

        sock_address_format(address, text);
        for (size_t i = 0; i < n; i++)
                if (strcmp(sock_address_format(&list[i], other), text) == 0)
                        return true;
        return false;
}

int sock_address_list_parse(const char *s, uint16_t default_port, size_t max, struct sock_address *ret,
        size_t *ret_n, struct error **ret_error)
{
        _cleanup_free_ char *copy = alloc_strdup(s);
        char *rest = copy, *word;
        size_t n = 0;

        if (!copy)
                return error_from_errno(ret_error, ENOMEM, "addresses %.100s", s);
        while ((word = strsep(&rest, ","))) {
                struct sock_address address;
                int r;

                word += strspn(word, " \t");
                if (word[strcspn(word, " \t") + strspn(word + strcspn(word, " \t"), " \t")] != '\0')
                        return bad_address(ret_error, word);
                word[strcspn(word, " \t")] = '\0';
                r = sock_address_parse(word, default_port, false, &address, ret_error);
                if (r < 0)
                        return r;
                if (is_listed(ret, n, &address))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Name each address once.",
                                "the address %s is listed twice", word);
                if (n == max)
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "\"%.100s\" has more than %zu addresses", s, max);
                ret[n++] = address;
        }
        *ret_n = n;
        return 0;
}

char *sock_address_format(const struct sock_address *address, char ret[static 64])
{
        const struct sockaddr_in6 *v6 = (const void *)&address->storage;
        const struct sockaddr_in *v4 = (const void *)&address->storage;
        char ip[INET6_ADDRSTRLEN];

        switch (address->storage.ss_family) {
        case AF_INET:
                inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof(ip));
                snprintf(ret, 64, "%s:%u", ip, ntohs(v4->sin_port));
                break;
        case AF_INET6:
                inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof(ip));
                snprintf(ret, 64, "[%s]:%u", ip, ntohs(v6->sin6_port));
                break;
        default:
                snprintf(ret, 64, "local");
        }
        return ret;
}

static in_port_t *port_of(struct sock_address *address)
{
        switch (address->storage.ss_family) {
        case AF_INET:
                return &((struct sockaddr_in *)&address->storage)->sin_port;
        case AF_INET6:
                return &((struct sockaddr_in6 *)&address->storage)->sin6_port;
        default:
                return NULL;
        }
}

uint16_t sock_address_port(const struct sock_address *address)
{
        switch (address->storage.ss_family) {
        case AF_INET:
                return ntohs(((const struct sockaddr_in *)&address->storage)->sin_port);
        case AF_INET6:
                return ntohs(((const struct sockaddr_in6 *)&address->storage)->sin6_port);
        default:
                return 0;
        }
}

void sock_address_set_port(struct sock_address *address, uint16_t port)
{
        in_port_t *at = port_of(address);

        if (at)
                *at = htons(port);
}

static const struct sockaddr *sockaddr_of(const struct sock_address *address)
{
        return (const struct sockaddr *)&address->storage;
}

/* A torture point in front of socket(). */
static int new_socket(int family, int type)
{
        int fd = -1;

        if (torture_point())
                errno = EMFILE;
        else
                fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        return fd < 0 ? -errno : fd;
}

int sock_listen_tcp(const struct sock_address *address, int backlog, int *ret_fd, struct error **ret_error)
{
        _cleanup_fd_ int fd = new_socket(address->storage.ss_family, SOCK_STREAM);
        char text[64];
        int on = 1;

        sock_address_format(address, text);
        if (fd < 0)
                return error_from_errno(ret_error, fd, "cannot listen on %s", text);
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
                bind(fd, sockaddr_of(address), address->len) < 0 || listen(fd, backlog) < 0)
                return error_from_errno(ret_error, errno, "cannot listen on %s", text);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int sock_local_address(int fd, struct sock_address *ret)
{
        struct sock_address a = {.len = sizeof(a.storage)};

        if (getsockname(fd, (struct sockaddr *)&a.storage, &a.len) < 0)
                return -errno;
        *ret = a;
        return 0;
}

int sock_peer_address(int fd, struct sock_address *ret)
{
        struct sock_address a = {.len = sizeof(a.storage)};

        if (getpeername(fd, (struct sockaddr *)&a.storage, &a.len) < 0)
                return -errno;
        *ret = a;
        return 0;
}

int sock_connect_tcp_start(const struct sock_address *address, int *ret_fd)
{
        return sock_connect_tcp_via(address, "", 0, ret_fd);
}

int sock_connect_tcp_via(
        const struct sock_address *address, const char *device, unsigned int mtu, int *ret_fd)
{
        _cleanup_fd_ int fd = new_socket(address->storage.ss_family, SOCK_STREAM);
        int headers = address->storage.ss_family == AF_INET6 ? 60 : 40;
        int on = 1, segment = (int)mtu - headers;

        if (fd < 0)
                return fd;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)); /* speed only */
        if (mtu > 0 && segment <= MAX_TCP_WINDOW &&
                setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof(segment)) < 0)
                return -errno;
        if (*device && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) < 0)
                return -errno;
        if (connect(fd, sockaddr_of(address), address->len) < 0 && errno != EINPROGRESS)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int sock_wait(int fd, short events, const struct clock *clock, uint64_t deadline_ms)
{
        for (;;) {
                struct pollfd poller = {.fd = fd, .events = events};
                uint64_t now = clock_now_ms(clock);
                int n;

                if (now >= deadline_ms || fd < 0)
                        return -ETIMEDOUT;
                n = poll(&poller, 1, (int)(deadline_ms - now));
                if (n > 0)
                        return 0;
                if (n == 0)
                        return -ETIMEDOUT;
                if (errno != EINTR)
                        return -errno;
        }
}

int sock_set_peer_limit(int fd, uint64_t limit_ms)
{
        const int idle_s = 5, interval_s = 2, on = 1;
        const unsigned int limit = (unsigned int)MIN(limit_ms, (uint64_t)INT_MAX);

        if (setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0 ||
                setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s)) < 0 ||
                setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s)) < 0 ||
                setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit)) < 0)
                return -errno;
        return 0;
}

int sock_measure_tcp(int fd, uint64_t *ret_rtt_us, unsigned int *ret_mtu)
{
        struct tcp_info info = {0};
        socklen_t len = sizeof(info);
        struct sock_address peer = {0};
        int r = sock_peer_address(fd, &peer);

        if (r < 0)
                return r;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
                return -errno;
        *ret_rtt_us = info.tcpi_rtt;
        /* The segment size leaves out the time stamps that go with each (RFC 7323). */
        *ret_mtu = info.tcpi_snd_mss + (peer.storage.ss_family == AF_INET6 ? 60 : 40) +
                   (info.tcpi_options & TCPI_OPT_TIMESTAMPS ? 12 : 0);
        return 0;
}

int sock_set_congestion(int fd, const char *name)
{
        return setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name)) < 0 ? -errno : 0;
}

int sock_congestion(int fd, char ret_name[static SOCK_CONGESTION_SIZE])
{
        socklen_t len = SOCK_CONGESTION_SIZE;

        if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, ret_name, &len) < 0)
                return -errno;
        ret_name[SOCK_CONGESTION_SIZE - 1] = '\0';
        return 0;
}

static const uint8_t *ip_of(const struct sockaddr *address)
{
        if (address->sa_family == AF_INET6)
                return (const uint8_t *)&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
        return (const uint8_t *)&((const struct sockaddr_in *)(const void *)address)->sin_addr;
}

static size_t ip_size(const struct sockaddr *address)
{
        return address->sa_family == AF_INET6 ? sizeof(struct in6_addr) : sizeof(struct in_addr);
}

static bool same_network(const struct sockaddr *a, const struct sockaddr *b, const struct sockaddr *mask)
{
        const uint8_t *x = ip_of(a), *y = ip_of(b), *m = ip_of(mask);
        bool same = a->sa_family == b->sa_family;

        for (size_t i = 0; same && i < ip_size(a); i++)
                same = same && ((x[i] ^ y[i]) & m[i]) == 0;
        return same;
}

static bool is_ip(const struct ifaddrs *entry)
{
        return entry->ifa_addr && entry->ifa_netmask &&
               (entry->ifa_addr->sa_family == AF_INET || entry->ifa_addr->sa_family == AF_INET6);
}

static bool is_among(char names[][IFNAMSIZ], size_t n, const char *name)
{
        for (size_t i = 0; i < n; i++)
                if (strcmp(names[i], name) == 0)
                        return true;
        return false;
}

size_t sock_devices_on_link(const struct sock_address *address, char ret[][IFNAMSIZ], size_t max)
{
        struct ifaddrs *list = NULL;
        size_t n = 0;

        if (getifaddrs(&list) < 0)
                return 0;
        for (const struct ifaddrs *i = list; i && n < max; i = i->ifa_next)
                if (is_ip(i) &&
                        (i->ifa_flags & (IFF_LOOPBACK | IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING) &&
                        same_network(i->ifa_addr, sockaddr_of(address), i->ifa_netmask) &&
                        !is_among(ret, n, i->ifa_name))
                        snprintf(ret[n++], IFNAMSIZ, "%s", i->ifa_name);
        freeifaddrs(list);
        return n;
}

bool sock_local_device(int fd, char ret[static IFNAMSIZ])
{
        struct ifaddrs *list = NULL;
        struct sock_address local = {0};
        bool found = false;

        if (sock_local_address(fd, &local) < 0 || getifaddrs(&list) < 0)
                return false;
        for (const struct ifaddrs *i = list; i && !found; i = i->ifa_next) {
                found = is_ip(i) && i->ifa_addr->sa_family == local.storage.ss_family &&
                        memcmp(ip_of(i->ifa_addr), ip_of(sockaddr_of(&local)), ip_size(i->ifa_addr)) == 0;
                if (found)
                        snprintf(ret, IFNAMSIZ, "%s", i->ifa_name);
        }
        freeifaddrs(list);
        return found;
}

int sock_connect_result(int fd)
{
        struct sock_address peer;
        socklen_t len = sizeof(int);
        int err = 0, r;

        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
                return -errno;
        if (err)
                return -err;
        r = sock_peer_address(fd, &peer);
        return r == -ENOTCONN ? -EINPROGRESS : r;
}

/* Fills the address of `path`. One that is too long for sun_path goes through its folder's descriptor, which
 * *ret_dir_fd keeps open for as long as the address is used. */
static int unix_address(const char *path, struct sockaddr_un *ret, socklen_t *ret_len, int *ret_dir_fd)
{
        const char *slash = strrchr(path, '/');
        _cleanup_free_ char *parent = NULL;
        size_t n;

        *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
        if (strlen(path) < sizeof(ret->sun_path)) {
                n = (size_t)snprintf(ret->sun_path, sizeof(ret->sun_path), "%s", path);
        } else {
                if (!slash || slash == path)
                        return -ENAMETOOLONG;
                parent = alloc_printf("%.*s", (int)(slash - path), path);
                if (!parent)
                        return -ENOMEM;
                *ret_dir_fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
                if (*ret_dir_fd < 0)
                        return -errno;
                n = (size_t)snprintf(
                        ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d%s", *ret_dir_fd, slash);
                if (n >= sizeof(ret->sun_path))
                        return -ENAMETOOLONG;
        }
        *ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
        return 0;
}

/* Removes a socket file that nobody listens on any more; -EADDRINUSE if somebody does. */
static int remove_stale(const char *path, const struct sockaddr_un *address, socklen_t len, int type)
{
        _cleanup_fd_ int fd = -1;
        struct stat st;

        if (lstat(path, &st) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!S_ISSOCK(st.st_mode))
                return -EEXIST;
        fd = new_socket(AF_UNIX, type);
        if (fd < 0)
                return fd;
        if (connect(fd, (const struct sockaddr *)address, len) == 0 || errno != ECONNREFUSED)
                return -EADDRINUSE;
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int sock_listen_unix(const char *path, int type, int *ret_fd)
{
        _cleanup_fd_ int fd = -1, dir_fd = -1;
        struct sockaddr_un address;
        socklen_t len = 0;
        int r;

        r = unix_address(path, &address, &len, &dir_fd);
        if (r < 0)
                return r;
        r = remove_stale(path, &address, len, type);
        if (r < 0)
                return r;
        fd = new_socket(AF_UNIX, type);
        if (fd < 0)
                return fd;
        /* The mode of the socket's inode becomes the file's: for its owner only, from the first moment. */
        if (fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&address, len) < 0 ||
                listen(fd, SOMAXCONN) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int sock_connect_unix(const char *path, int type, int *ret_fd)
{
        _cleanup_fd_ int fd = -1, dir_fd = -1;
        struct sockaddr_un address;
        socklen_t len = 0;
        int r;

        r = unix_address(path, &address, &len, &dir_fd);
        if (r < 0)
                return r;
        fd = new_socket(AF_UNIX, type);
        if (fd < 0)
                return fd;
        if (connect(fd, (const struct sockaddr *)&address, len) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

union fd_message {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int) * SOCK_MAX_FDS)];
};

int sock_send_fds(int fd, const void *data, size_t len, const int *fds, size_t n_fds)
{
        struct iovec iov = {.iov_base = (void *)data, .iov_len = len};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        union fd_message control;
        ssize_t n;

        if (!len || n_fds > SOCK_MAX_FDS) /* an empty message would look like the end of the connection */
                return -EINVAL;
        if (n_fds) {
                struct cmsghdr *c;

                memset(&control, 0, sizeof(control));
                msg.msg_control = &control;
                msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c = CMSG_FIRSTHDR(&msg);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
        }
        do
                n = sendmsg(fd, &msg, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        return (size_t)n == len ? 0 : -EMSGSIZE; /* a stream socket took only a part */
}

static void close_all(const int *fds, size_t n)
{
        for (size_t i = 0; i < n; i++)
                close(fds[i]);
}

/* Collects what SCM_RIGHTS brought; returns how many. */
static size_t take_fds(struct msghdr *msg, int got[static SOCK_MAX_FDS])
{
        size_t n = 0;

        for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
                size_t m;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                m = MIN((c->cmsg_len - CMSG_LEN(0)) / sizeof(int), SOCK_MAX_FDS - n);
                memcpy(got + n, CMSG_DATA(c), m * sizeof(int));
                n += m;
        }
        return n;
}

int sock_recv_fds(int fd, void *data, size_t size, size_t *ret_len, int *fds, size_t *n_fds)
{
        struct iovec iov = {.iov_base = data, .iov_len = size};
        union fd_message control;
        struct msghdr msg = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
        int got[SOCK_MAX_FDS];
        size_t n_got;
        ssize_t n;

        do
                n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        n_got = take_fds(&msg, got);
        if (n_got > *n_fds || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
                close_all(got, n_got);
                return -EMSGSIZE;
        }
        if (n_got)
                memcpy(fds, got, n_got * sizeof(int));
        *n_fds = n_got;
        *ret_len = (size_t)n;
        return 0;
}

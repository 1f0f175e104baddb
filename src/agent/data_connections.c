/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/data_connections.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/data_connector.h"
#include "base/alloc.h"
#include "base/log.h"
#include "fabric/netdev.h"
#include "fabric/path_mtu.h"
#include "io/file.h"

#define PROBE_LIMIT_MS 300
#define FAR_US 5000 /* of round trip: no local network is that long */
/* Paths that are down are tried again, and at most one channel is moved, this often. */
#define RETURN_MS 1000
#define MAX_RETURN_MS 30000 /* for one that stood still again and again */
#define MOVE_MS 2000
#define BETTER_TO_MOVE 3 /* of the mover's stats in turn, two a second: single measurements swing */

/* One for each path; its place tells which. */
struct probe {
        struct data_connections *connections;
        struct path_mtu *probe;
};

struct data_connections {
        struct loop *loop;
        struct data_connections_handler handler;
        struct data_paths paths;
        unsigned int n_wanted, max_channels;
        uint64_t window_bytes, limit_ms;
        struct probe probes[DATA_PATHS_MAX];
        unsigned int n_probing;
        int sockets[DATA_CHANNELS_MAX]; /* -1: not made yet, or handed over */
        struct data_connector *connectors[DATA_CHANNELS_MAX];
        uint64_t lost;   /* bit a channel: the mover waits for another connection */
        bool ended;      /* `connected` was called */
        uint64_t moving; /* bit a channel: it has a connection, and another is being made for it */
        unsigned int n_connected;
        bool may_move;
        struct loop_source *begin, *timer;
        uint64_t measured_ms, moved_ms;
        unsigned int n_better; /* times in turn that a channel's move seemed to be worth it */
};

/* Half of the largest buffer: the kernel keeps the rest for its own (tcp(7), tcp_adv_win_scale). */
static uint64_t window_of(const char *file)
{
        _cleanup_free_ char *text = NULL;
        char *rest;

        if (file_read(file, 128, &text, NULL) < 0)
                return 0;
        (void)strtoull(text, &rest, 10); /* least, usual, most */
        (void)strtoull(rest, &rest, 10);
        return strtoull(rest, NULL, 10) / 2;
}

uint64_t data_connections_send_window(void)
{
        return window_of("/proc/sys/net/ipv4/tcp_wmem");
}

uint64_t data_connections_receive_window(void)
{
        return window_of("/proc/sys/net/ipv4/tcp_rmem");
}

static void connected(struct data_connections *c, struct error *error)
{
        if (!c->ended)
                c->handler.connected(c->handler.userdata, error);
        c->ended = true;
}

static void connect_more(struct data_connections *c, unsigned int n);

/* Round trips are known now: with long ones on fast links it takes more connections to fill them. */
static void all_connected(struct data_connections *c)
{
        uint64_t rates[DATA_PATHS_MAX];
        unsigned int n;

        for (unsigned int i = 0; i < c->paths.n_channels; i++) {
                struct data_path *path = &c->paths.paths[c->paths.path_of[i]];
                unsigned int mtu = 0;

                if (!*path->device)
                        (void)sock_local_device(c->sockets[i], path->device);
                if (sock_measure_tcp(c->sockets[i], &path->rtt_us, &mtu) == 0 && !path->probed)
                        path->mtu = mtu;
        }
        for (unsigned int i = 0; i < c->paths.n_paths; i++)
                rates[i] = netdev_speed_bps(c->paths.paths[i].device) / 8;
        n = c->n_wanted ?: data_paths_count_channels(&c->paths, rates, c->window_bytes, c->max_channels);
        if (n > c->paths.n_channels)
                return connect_more(c, n);
        connected(c, NULL);
}

/* Over a long distance bbr keeps the line full in spite of losses, and the queues before it short: cubic fills them, which adds to the
 * pause. */
static void suit_distance(struct data_connections *c, unsigned int channel, int fd)
{
        /* Where there is none the default has to do; not asked for again, since the kernel looks for a module each time. */
        static bool has_no_bbr;
        struct data_path *path = &c->paths.paths[c->paths.path_of[channel]];
        uint64_t rtt_us = 0;
        unsigned int mtu;

        if (!has_no_bbr && sock_measure_tcp(fd, &rtt_us, &mtu) == 0 && rtt_us >= FAR_US)
                has_no_bbr = sock_set_congestion(fd, "bbr") == -ENOENT;
        (void)sock_congestion(fd, path->congestion);
}

static void on_connected(void *userdata, unsigned int channel, int fd, struct error *error)
{
        struct data_connections *c = userdata;

        data_connector_free(TAKE_PTR(c->connectors[channel]));
        if (error)
                return connected(c, error);
        suit_distance(c, channel, fd);
        c->sockets[channel] = fd;
        if (++c->n_connected == c->paths.n_channels)
                all_connected(c);
}

static int start_connector(struct data_connections *c, unsigned int channel, enum data_connector_mode mode,
        unsigned int path, data_connector_fn fn, struct error **ret_error)
{
        const struct data_connector_spec spec = {.paths = &c->paths,
                .limit_ms = c->limit_ms,
                .channel = channel,
                .path = path,
                .mode = mode,
                .fn = fn,
                .userdata = c};

        return data_connector_start(c->loop, &spec, &c->connectors[channel], ret_error);
}

/* Up to n channels. */
static void connect_more(struct data_connections *c, unsigned int n)
{
        unsigned int before = c->paths.n_channels;
        _cleanup_error_ struct error *error = NULL;

        data_paths_add_channels(&c->paths, n);
        for (unsigned int i = before; i < n; i++)
                if (start_connector(c, i, DATA_CONNECT, 0, on_connected, &error) < 0)
                        return connected(c, error);
}

static void connect_first(struct data_connections *c)
{
        const uint64_t unknown[DATA_PATHS_MAX] = {0};

        connect_more(c, c->n_wanted ?: data_paths_count_channels(&c->paths, unknown, 0, c->max_channels));
}

static void on_probed(void *userdata, unsigned int mtu)
{
        struct probe *probe = userdata;
        struct data_connections *c = probe->connections;
        struct data_path *path = &c->paths.paths[probe - c->probes];
        char address[64];

        path_mtu_free(TAKE_PTR(probe->probe));
        path->probed = mtu > 0;
        path->mtu = mtu;
        if (mtu > 0 && mtu < netdev_mtu(path->device))
                log_warning("%s is set up for packets of %u bytes, but only %u reach %s", path->device,
                        netdev_mtu(path->device), mtu, sock_address_format(&path->address, address));
        if (--c->n_probing == 0)
                connect_first(c);
}

/* What cannot be probed is taken as it is. */
static void begin(void *userdata)
{
        struct data_connections *c = userdata;

        loop_source_free(TAKE_PTR(c->begin));
        for (unsigned int i = 0; i < c->paths.n_paths; i++) {
                struct data_path *path = &c->paths.paths[i];
                unsigned int largest = *path->device ? netdev_mtu(path->device) : 0;
                _cleanup_error_ struct error *error = NULL;

                c->probes[i].connections = c;
                if (largest == 0)
                        continue;
                if (path_mtu_start(c->loop, &path->address, path->device, largest, PROBE_LIMIT_MS, on_probed,
                            &c->probes[i], &c->probes[i].probe, &error) == 0)
                        c->n_probing++;
                else
                        log_debug("%s", error_message(error));
        }
        if (c->n_probing == 0)
                connect_first(c);
}

/* With several addresses in one network, each gets an interface of its own as far as there are any: the routes would send all
 * through one. */
static void choose_device(struct data_connections *c, unsigned int path)
{
        char devices[DATA_PATHS_MAX][IFNAMSIZ];
        size_t n = sock_devices_on_link(&c->paths.paths[path].address, devices, ARRAY_SIZE(devices));
        unsigned int n_before = 0; /* paths in this network */

        if (n == 0)
                return;
        for (unsigned int i = 0; i < path; i++)
                for (size_t k = 0; k < n; k++)
                        n_before += strcmp(c->paths.paths[i].device, devices[k]) == 0;
        memcpy(c->paths.paths[path].device, devices[n_before % n], IFNAMSIZ);
        c->paths.paths[path].bound = c->paths.n_paths > 1;
}

int data_connections_new(struct loop *loop, const struct data_connections_spec *spec,
        const struct data_connections_handler *handler, struct data_connections **ret_connections,
        struct error **ret_error)
{
        _cleanup_(data_connections_freep) struct data_connections *c = ALLOC(struct data_connections);
        int r;

        if (!c)
                return error_from_errno(ret_error, ENOMEM, "data connections");
        *c = (struct data_connections){.loop = loop,
                .handler = *handler,
                .paths = {.n_paths = (unsigned int)MIN(spec->n_addresses, (size_t)DATA_PATHS_MAX)},
                .n_wanted = MIN(spec->n_channels, spec->max_channels),
                .max_channels = spec->max_channels,
                .window_bytes = spec->window_bytes,
                .limit_ms = spec->limit_ms};
        for (size_t i = 0; i < ARRAY_SIZE(c->sockets); i++)
                c->sockets[i] = -1;
        for (unsigned int i = 0; i < c->paths.n_paths; i++) {
                c->paths.paths[i] = (struct data_path){.address = spec->addresses[i], .up = true};
                choose_device(c, i);
        }
        r = loop_add_defer(loop, begin, c, &c->begin);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot connect to the destination");
        *ret_connections = TAKE_PTR(c);
        return 0;
}

static void close_sockets(struct data_connections *c)
{
        for (size_t i = 0; i < ARRAY_SIZE(c->sockets); i++)
                fd_closep(&c->sockets[i]);
}

void data_connections_free(struct data_connections *c)
{
        if (!c)
                return;
        for (size_t i = 0; i < ARRAY_SIZE(c->probes); i++)
                path_mtu_free(c->probes[i].probe);
        for (size_t i = 0; i < ARRAY_SIZE(c->connectors); i++)
                data_connector_free(c->connectors[i]);
        close_sockets(c);
        loop_source_free(c->begin);
        loop_source_free(c->timer);
        free(c);
}

unsigned int data_connections_count(const struct data_connections *c)
{
        return c->paths.n_channels;
}

const int *data_connections_sockets(const struct data_connections *c)
{
        return c->sockets;
}

json_t *data_connections_paths(const struct data_connections *c)
{
        json_t *list = json_array();

        for (unsigned int i = 0; i < c->paths.n_channels; i++)
                json_array_append_new(list, json_integer(c->paths.path_of[i]));
        return list;
}

/* --- While the mover runs -------------------------------------------------------------------------------- */

static void replaced(struct data_connections *c, unsigned int channel, int fd, struct error *error)
{
        c->handler.replaced(c->handler.userdata, channel, c->paths.path_of[channel], fd, error);
}

static void on_replacement(void *userdata, unsigned int channel, int fd, struct error *error);

static void reconnect(struct data_connections *c, unsigned int channel)
{
        _cleanup_error_ struct error *error = NULL;

        if (start_connector(c, channel, DATA_RECONNECT, 0, on_replacement, &error) < 0)
                replaced(c, channel, -1, error);
}

static void on_replacement(void *userdata, unsigned int channel, int fd, struct error *error)
{
        struct data_connections *c = userdata;
        uint64_t bit = UINT64_C(1) << channel;
        bool was_move = c->moving & bit, is_lost = c->lost & bit;
        _cleanup_fd_ int owned = fd;

        data_connector_free(TAKE_PTR(c->connectors[channel]));
        c->moving &= ~bit;
        if (fd < 0 && was_move) {
                if (is_lost)
                        reconnect(c, channel);
                return;
        }
        c->lost &= ~bit;
        if (fd >= 0)
                suit_distance(c, channel, fd);
        replaced(c, channel, fd, error);
}

void data_connections_lost(
        struct data_connections *c, unsigned int channel, unsigned int number, bool stalled)
{
        struct data_path *path = &c->paths.paths[MIN(number, c->paths.n_paths - 1)];

        path->n_lost++;
        if (stalled) { /* connections may be made there, and nothing else pass */
                path->up = false;
                path->return_delay_ms =
                        CLAMP(path->return_delay_ms * 2, (uint64_t)RETURN_MS, (uint64_t)MAX_RETURN_MS);
                path->return_at_ms = clock_now_ms(loop_clock(c->loop)) + path->return_delay_ms;
        }
        c->lost |= UINT64_C(1) << channel;
        if (!c->connectors[channel])
                reconnect(c, channel);
}

static void move(struct data_connections *c, unsigned int channel, unsigned int path)
{
        _cleanup_error_ struct error *error = NULL;

        if (c->connectors[channel] || c->lost >> channel & 1)
                return;
        if (start_connector(c, channel, DATA_TRY, path, on_replacement, &error) == 0)
                c->moving |= UINT64_C(1) << channel;
}

/* A path that is down is up when a connection can be made on it; then the channel that made it stays there. */
static void on_time(void *userdata)
{
        struct data_connections *c = userdata;
        uint64_t now_ms = clock_now_ms(loop_clock(c->loop));

        loop_source_rearm(c->timer, RETURN_MS);
        for (unsigned int i = 0; c->may_move && i < c->paths.n_paths; i++)
                if (!c->paths.paths[i].up && now_ms >= c->paths.paths[i].return_at_ms)
                        move(c, data_paths_find_returning(&c->paths, i), i);
}

void data_connections_handed_over(struct data_connections *c)
{
        close_sockets(c);
        c->measured_ms = c->moved_ms = clock_now_ms(loop_clock(c->loop));
        if (c->paths.n_paths > 1 && loop_add_timer(c->loop, RETURN_MS, on_time, c, &c->timer) < 0)
                log_warning("No timer to try lost paths again");
}

static void read_numbers(const json_t *stats, const char *key, uint64_t ret[static DATA_CHANNELS_MAX])
{
        const json_t *list = json_object_get(stats, key);

        for (size_t i = 0; i < DATA_CHANNELS_MAX; i++)
                ret[i] = (uint64_t)MAX(0, json_integer_value(json_array_get(list, i)));
}

void data_connections_take_stats(struct data_connections *c, const json_t *stats, bool may_move)
{
        uint64_t bytes[DATA_CHANNELS_MAX], write_us[DATA_CHANNELS_MAX];
        uint64_t now_ms = clock_now_ms(loop_clock(c->loop));
        unsigned int channel, path;

        read_numbers(stats, "channel_bytes", bytes);
        read_numbers(stats, "channel_write_us", write_us);
        data_paths_measure(&c->paths, bytes, write_us, (now_ms - c->measured_ms) * 1000);
        c->measured_ms = now_ms;
        c->may_move = may_move;
        c->n_better = may_move && data_paths_find_move(&c->paths, &channel, &path) ? c->n_better + 1 : 0;
        if (c->n_better < BETTER_TO_MOVE || now_ms - c->moved_ms < MOVE_MS)
                return;
        c->n_better = 0;
        log_notice("Channel %u moves to %s, which is less busy", channel, c->paths.paths[path].device);
        c->moved_ms = now_ms;
        move(c, channel, path);
}

json_t *data_connections_document(const struct data_connections *c)
{
        return data_paths_document(&c->paths);
}

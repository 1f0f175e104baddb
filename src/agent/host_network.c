/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/host_network.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fabric/netdev.h"

/* Network cards and what is made of them. A veth without a master is the way out of a host that is a container itself. */
static bool leads_out(const struct netlink_link *link)
{
        if (!link->up || !strcmp(link->name, "lo"))
                return false;
        return !*link->kind || !strcmp(link->kind, "bond") || !strcmp(link->kind, "team") ||
               (!strcmp(link->kind, "veth") && !link->master_index);
}

/* Of the interface's line: "  eth0: RX-BYTES packets errs drop fifo frame compressed multicast TX-BYTES ...". */
static bool read_counters(const char *text, struct host_network_device *device)
{
        uint64_t numbers[9];
        const char *at = text;
        size_t len = strlen(device->name);

        while ((at = strstr(at, device->name)) &&
                ((at != text && at[-1] != ' ' && at[-1] != '\n') || at[len] != ':'))
                at += len;
        if (!at)
                return false;
        at += len + 1;
        for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
                char *end;

                numbers[i] = strtoull(at, &end, 10);
                if (end == at)
                        return false;
                at = end;
        }
        device->rx_bytes = numbers[0];
        device->tx_bytes = numbers[8];
        return true;
}

static const struct host_network_device *find(const struct host_network *network, const char *name)
{
        for (size_t i = 0; i < network->n_devices; i++)
                if (!strcmp(network->devices[i].name, name))
                        return &network->devices[i];
        return NULL;
}

/* Counters that went backwards are those of another interface of this name. */
static uint64_t rate_bps(uint64_t before, uint64_t now, uint64_t ms)
{
        return now > before && ms ? (now - before) * 8000 / ms : 0;
}

void host_network_take(struct host_network *network, const char *proc_net_dev,
        const struct netlink_link *links, size_t n_links, uint64_t now_ms)
{
        uint64_t ms = now_ms - network->read_ms;
        struct host_network next = {.read_ms = now_ms};

        if (network->read_ms && ms < HOST_NETWORK_WINDOW_MS)
                return;
        for (size_t i = 0; i < n_links && next.n_devices < HOST_NETWORK_MAX; i++) {
                struct host_network_device *device = &next.devices[next.n_devices];
                const struct host_network_device *before;

                if (!leads_out(&links[i]))
                        continue;
                memcpy(device->name, links[i].name, sizeof(device->name));
                if (!read_counters(proc_net_dev, device))
                        continue;
                before = find(network, device->name);
                if (before) {
                        device->rx_bps = rate_bps(before->rx_bytes, device->rx_bytes, ms);
                        device->tx_bps = rate_bps(before->tx_bytes, device->tx_bytes, ms);
                        device->speed_bps = netdev_speed_bps(device->name);
                }
                next.n_devices++;
        }
        *network = next;
}

static double share(const struct host_network_device *device)
{
        return (double)MAX(device->rx_bps, device->tx_bps) / (double)device->speed_bps;
}

json_t *host_network_document(const struct host_network *network)
{
        const struct host_network_device *busiest = NULL;

        for (size_t i = 0; i < network->n_devices; i++) {
                const struct host_network_device *device = &network->devices[i];

                if (device->speed_bps && (!busiest || share(device) > share(busiest)))
                        busiest = device;
        }
        return busiest ? json_pack("{s:s, s:I, s:I, s:I}", "interface", busiest->name, "speed_bps",
                                 (json_int_t)busiest->speed_bps, "rx_bps", (json_int_t)busiest->rx_bps,
                                 "tx_bps", (json_int_t)busiest->tx_bps)
                       : NULL;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/netdev.h"

#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/macros.h"

/* Not sysfs, which shows the network namespace that it was mounted in. */
static int ask(const char *name, unsigned long request, struct ifreq *request_body)
{
        _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        snprintf(request_body->ifr_name, sizeof(request_body->ifr_name), "%s", name);
        return fd < 0 ? -1 : ioctl(fd, request, request_body);
}

unsigned int netdev_mtu(const char *name)
{
        struct ifreq request = {0};

        return ask(name, SIOCGIFMTU, &request) == 0 && request.ifr_mtu > 0 ? (unsigned int)request.ifr_mtu
                                                                           : 0;
}

uint64_t netdev_speed_bps(const char *name)
{
        struct ethtool_cmd command = {.cmd = ETHTOOL_GSET};
        struct ifreq request = {.ifr_data = (char *)&command};
        uint32_t mbps;

        if (ask(name, SIOCETHTOOL, &request) < 0)
                return 0;
        mbps = ethtool_cmd_speed(&command);
        return mbps == (uint32_t)SPEED_UNKNOWN || mbps == UINT16_MAX ? 0 : (uint64_t)mbps * 1000000;
}

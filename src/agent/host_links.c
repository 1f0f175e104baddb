/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/host_links.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include "base/macros.h"
#include "fabric/netdev.h"

static bool address_text(const struct sockaddr *address, char ret[static INET6_ADDRSTRLEN])
{
        if (address && address->sa_family == AF_INET)
                return inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)address)->sin_addr, ret,
                               INET6_ADDRSTRLEN) != NULL;
        if (address && address->sa_family == AF_INET6) {
                const struct in6_addr *ip = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;

                return !IN6_IS_ADDR_LINKLOCAL(ip) && inet_ntop(AF_INET6, ip, ret, INET6_ADDRSTRLEN) != NULL;
        }
        return false;
}

json_t *host_links(void)
{
        json_t *list = json_array();
        struct ifaddrs *all = NULL;

        if (!list || getifaddrs(&all) < 0)
                return list;
        for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
                char text[INET6_ADDRSTRLEN];

                if ((i->ifa_flags & IFF_LOOPBACK) || !address_text(i->ifa_addr, text))
                        continue;
                (void)json_array_append_new(
                        list, json_pack("{s:s, s:s, s:I}", "address", text, "device", i->ifa_name,
                                      "speed_bps", (json_int_t)netdev_speed_bps(i->ifa_name)));
        }
        freeifaddrs(all);
        return list;
}

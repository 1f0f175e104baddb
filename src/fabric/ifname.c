/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ifname.h"

#include <inttypes.h>
#include <string.h>

#define READABLE_MAX 12 /* characters of a switch name that fit behind "dv-" */

/* FNV-1a, 64 bits (Fowler, Noll, Vo): must never change, names on running hosts depend on it. */
static uint64_t stable_hash(const char *s)
{
        uint64_t h = UINT64_C(0xcbf29ce484222325);

        for (; *s; s++)
                h = (h ^ (uint8_t)*s) * UINT64_C(0x100000001b3);
        return h;
}

static uint32_t hash32(const char *s)
{
        uint64_t h = stable_hash(s);

        return (uint32_t)(h ^ h >> 32);
}

void ifname_bridge(const char *switch_name, char ret[static IFNAMSIZ])
{
        /* '+' cannot be in a switch name, so the two forms never meet. */
        if (strlen(switch_name) <= READABLE_MAX)
                snprintf(ret, IFNAMSIZ, "dv-%s", switch_name);
        else
                snprintf(ret, IFNAMSIZ, "dv+%.4s%08" PRIx32, switch_name, hash32(switch_name));
}

void ifname_vlan_bridge(const char *switch_name, uint16_t vlan, char ret[static IFNAMSIZ])
{
        snprintf(ret, IFNAMSIZ, "dvb%08" PRIx32 "%04u", hash32(switch_name), vlan % 10000u);
}

void ifname_vlan_link(const char *switch_name, uint16_t vlan, char ret[static IFNAMSIZ])
{
        snprintf(ret, IFNAMSIZ, "dvl%08" PRIx32 "%04u", hash32(switch_name), vlan % 10000u);
}

void ifname_station(const char *switch_name, uint16_t vlan, char ret[static IFNAMSIZ])
{
        snprintf(ret, IFNAMSIZ, "dvp%08" PRIx32 "%04u", hash32(switch_name), vlan % 10000u);
}

void ifname_bond(const char *switch_name, char ret[static IFNAMSIZ])
{
        snprintf(ret, IFNAMSIZ, "dvu%08" PRIx32, hash32(switch_name));
}

void ifname_tap(const char *vm_uid, unsigned int nic, char ret[static IFNAMSIZ])
{
        snprintf(ret, IFNAMSIZ, IFNAME_TAP_PREFIX "%010" PRIx64 "%02x",
                stable_hash(vm_uid) & UINT64_C(0xffffffffff), nic & 0xff);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/foreign_macs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/mac.h"
#include "fabric/tap.h"
#include "io/netlink.h"

struct foreign_macs {
        struct netlink_link *links;
        size_t n_links;
        struct netlink_fdb_entry *entries;
        size_t n_entries;
};

int foreign_macs_read(struct netlink *netlink, struct foreign_macs **ret_macs)
{
        _cleanup_(foreign_macs_freep) struct foreign_macs *macs = ALLOC(struct foreign_macs);
        int r;

        if (!macs)
                return -ENOMEM;
        r = netlink_list_links(netlink, &macs->links, &macs->n_links);
        if (r == 0)
                r = netlink_list_fdb(netlink, &macs->entries, &macs->n_entries);
        if (r < 0)
                return r;
        *ret_macs = TAKE_PTR(macs);
        return 0;
}

void foreign_macs_free(struct foreign_macs *macs)
{
        if (!macs)
                return;
        free(macs->links);
        free(macs->entries);
        free(macs);
}

static const struct netlink_link *link_at(const struct foreign_macs *macs, int index)
{
        for (size_t i = 0; i < macs->n_links; i++)
                if (macs->links[i].index == index)
                        return &macs->links[i];
        return NULL;
}

static bool is_one_of(const char *name, const char *const *names, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (!strcmp(names[i], name))
                        return true;
        return false;
}

/* Behind it is somebody on this host. */
static bool is_local_port(const struct netlink_link *port, const char *uplink)
{
        return (!strcmp(port->kind, "tun") || !strcmp(port->kind, "veth")) &&
               strcmp(port->name, uplink ?: "");
}

static bool is_foreign(
        const struct netlink_link *port, const struct netlink_fdb_entry *entry, const char *uplink)
{
        if (!strncmp(port->alias, TAP_ALIAS_PREFIX, strlen(TAP_ALIAS_PREFIX)))
                return false;
        return entry->own || is_local_port(port, uplink);
}

static int compare(const void *a, const void *b)
{
        const struct netlink_fdb_entry *x = a, *y = b;

        return x->port_index != y->port_index
                       ? (x->port_index > y->port_index) - (x->port_index < y->port_index)
                       : memcmp(x->mac, y->mac, sizeof(x->mac));
}

json_t *foreign_macs_on(
        const struct foreign_macs *macs, const char *const *bridges, size_t n_bridges, const char *uplink)
{
        const struct netlink_fdb_entry *before = NULL;
        json_t *out = json_array();

        if (macs->n_entries)
                qsort(macs->entries, macs->n_entries, sizeof(*macs->entries), compare);
        for (size_t i = 0; out && i < macs->n_entries && json_array_size(out) < FOREIGN_MACS_MAX; i++) {
                const struct netlink_fdb_entry *entry = &macs->entries[i];
                const struct netlink_link *port = link_at(macs, entry->port_index);
                const struct netlink_link *bridge = link_at(macs, entry->bridge_index);
                char mac[MAC_STRING_SIZE];

                if (!port || !bridge || !is_one_of(bridge->name, bridges, n_bridges) ||
                        !is_foreign(port, entry, uplink) || (before && compare(before, entry) == 0))
                        continue;
                before = entry; /* each VLAN of the bridge has one */
                if (json_array_append_new(out, json_pack("{s:s, s:s}", "mac", mac_format(entry->mac, mac),
                                                       "port", port->name)) < 0) {
                        json_decref(out);
                        out = NULL;
                }
        }
        return out;
}

bool foreign_macs_find_port(struct netlink *netlink, const char *bridge, const uint8_t mac[static 6],
        const char *own_port, const char *uplink, char ret_port[static IFNAMSIZ])
{
        struct netlink_link port;
        char name[IFNAMSIZ];

        if (netlink_fdb_find(netlink, bridge, mac, name) < 0 || !strcmp(name, own_port ?: "") ||
                netlink_get_link(netlink, name, &port) < 0)
                return false;
        if (!is_local_port(&port, uplink) && memcmp(port.mac, mac, sizeof(port.mac)) != 0)
                return false;
        memcpy(ret_port, name, IFNAMSIZ);
        return true;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* One NETLINK_ROUTE socket, used for one request at a time: send, then read until the kernel's acknowledgement
 * or the end of a dump. Requests are built in a fixed buffer; answers are read in 32 KiB pieces, as the kernel
 * makes them (NLMSG_GOODSIZE at most). Extended acknowledgements give the kernel's own sentence for a failure. */

#include "io/netlink.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/alloc.h"
#include "base/torture.h"

#define REQUEST_SIZE 1024
#define ANSWER_SIZE 32768
#define FDB_MAX 65536
#define LINKS_MAX 65536
#define DUMP_TRIES 3 /* a dump that ran into a change is read again */

struct netlink {
        struct mnl_socket *socket;
        uint32_t sequence;
        char cause[128]; /* the kernel's words for the last failure; "" if it said none */
};

/* Called for each message of an answer; negative ends with that error. */
typedef int (*message_fn)(void *userdata, const struct nlmsghdr *message);

int netlink_new(struct netlink **ret_netlink, struct error **ret_error)
{
        _cleanup_(netlink_freep) struct netlink *n = ALLOC(struct netlink);
        struct timeval limit = {.tv_sec = 1};
        int on = 1;

        if (!n)
                return error_from_errno(ret_error, ENOMEM, "cannot open a netlink socket");
        n->socket = torture_point() ? NULL : mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
        if (!n->socket || mnl_socket_bind(n->socket, 0, MNL_SOCKET_AUTOPID) < 0 ||
                setsockopt(mnl_socket_get_fd(n->socket), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0)
                return error_from_errno(ret_error, errno ?: EIO, "cannot open a netlink socket");
        /* Both only improve messages and strictness; an old kernel does without. */
        (void)mnl_socket_setsockopt(n->socket, NETLINK_EXT_ACK, &on, sizeof(on));
        (void)mnl_socket_setsockopt(n->socket, NETLINK_CAP_ACK, &on, sizeof(on));
        *ret_netlink = TAKE_PTR(n);
        return 0;
}

void netlink_free(struct netlink *netlink)
{
        if (!netlink)
                return;
        if (netlink->socket)
                mnl_socket_close(netlink->socket);
        free(netlink);
}

/* The kernel's error code, and its sentence (NLMSGERR_ATTR_MSG) into n->cause. */
static int read_ack(struct netlink *n, const struct nlmsghdr *message)
{
        const struct nlmsgerr *e = mnl_nlmsg_get_payload(message);
        const struct nlattr *attr;
        size_t skip = sizeof(*e);

        if (mnl_nlmsg_get_payload_len(message) < sizeof(*e))
                return -EBADMSG;
        if (!(message->nlmsg_flags & NLM_F_ACK_TLVS) || !e->error)
                return e->error;
        if (!(message->nlmsg_flags & NLM_F_CAPPED))
                skip += MNL_ALIGN(e->msg.nlmsg_len) - sizeof(e->msg);
        if (skip <= mnl_nlmsg_get_payload_len(message))
                mnl_attr_for_each(attr, message, skip) if (mnl_attr_get_type(attr) == NLMSGERR_ATTR_MSG &&
                                                           !mnl_attr_validate(attr, MNL_TYPE_NUL_STRING))
                        snprintf(n->cause, sizeof(n->cause), "%s", mnl_attr_get_str(attr));
        return e->error;
}

/* 1: the answer is complete; 0: read on; negative: the request failed. */
static int read_message(struct netlink *n, const struct nlmsghdr *message, message_fn fn, void *userdata)
{
        if (message->nlmsg_seq != n->sequence)
                return 0; /* the late answer to a request that was given up */
        if (message->nlmsg_flags & NLM_F_DUMP_INTR)
                return -EINTR;
        if (message->nlmsg_type == NLMSG_ERROR) {
                int r = read_ack(n, message);

                return r < 0 ? r : 1;
        }
        if (message->nlmsg_type == NLMSG_DONE)
                return 1;
        return fn ? fn(userdata, message) : 0;
}

static int transact(struct netlink *n, struct nlmsghdr *request, message_fn fn, void *userdata)
{
        char answer[ANSWER_SIZE] __attribute__((aligned(8)));
        ssize_t len;

        if (torture_point())
                return -ENOMEM;
        n->cause[0] = '\0';
        request->nlmsg_seq = ++n->sequence;
        request->nlmsg_flags |= NLM_F_REQUEST;
        /* Both bits: each alone has another meaning in a request that changes something. */
        if ((request->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP)
                request->nlmsg_flags |= NLM_F_ACK;
        if (mnl_socket_sendto(n->socket, request, request->nlmsg_len) < 0)
                return -errno;
        for (;;) {
                const struct nlmsghdr *message = (const struct nlmsghdr *)answer;
                int left;

                len = mnl_socket_recvfrom(n->socket, answer, sizeof(answer));
                if (len < 0 && errno == EINTR)
                        continue;
                if (len < 0)
                        return errno == EAGAIN ? -ETIMEDOUT : -errno;
                for (left = (int)len; mnl_nlmsg_ok(message, left); message = mnl_nlmsg_next(message, &left)) {
                        int r = read_message(n, message, fn, userdata);

                        if (r)
                                return r < 0 ? r : 0;
                }
        }
}

static struct nlmsghdr *start_request(char *buffer, uint16_t type, uint16_t flags)
{
        struct nlmsghdr *h;

        memset(buffer, 0, REQUEST_SIZE);
        h = mnl_nlmsg_put_header(buffer);
        h->nlmsg_type = type;
        h->nlmsg_flags = flags;
        return h;
}

static struct ifinfomsg *start_link_request(
        char *buffer, uint16_t type, uint16_t flags, struct nlmsghdr **ret)
{
        *ret = start_request(buffer, type, flags);
        return mnl_nlmsg_put_extra_header(*ret, sizeof(struct ifinfomsg));
}

/* An error object for a failed request: the kernel's sentence where it gave one. */
static int request_failed(
        struct netlink *n, int r, struct error **ret_error, const char *what, const char *name)
{
        enum error_code code = r == -EOPNOTSUPP ? ERROR_NOT_SUPPORTED
                               : r == -EEXIST   ? ERROR_EXISTS
                               : r == -ENODEV   ? ERROR_NOT_FOUND
                               : r == -EBUSY    ? ERROR_CONFLICT
                               : r == -EPERM    ? ERROR_DENIED
                                                : ERROR_INTERNAL;

        if (r == -ENOMEM || r == -ETIMEDOUT)
                return error_from_errno(ret_error, r, "%s %s", what, name);
        (void)error_set(ret_error, code,
                code == ERROR_DENIED ? "Run the agent with CAP_NET_ADMIN (as root)." : NULL, "%s %s: %s%s%s",
                what, name, strerror(-r), n->cause[0] ? ": " : "", n->cause);
        return r;
}

static void read_link_info(const struct nlattr *info, struct netlink_link *link)
{
        const struct nlattr *attr;

        mnl_attr_for_each_nested(attr, info) if (mnl_attr_get_type(attr) == IFLA_INFO_KIND &&
                                                 !mnl_attr_validate(attr, MNL_TYPE_STRING))
                snprintf(link->kind, sizeof(link->kind), "%.*s", (int)mnl_attr_get_payload_len(attr),
                        mnl_attr_get_str(attr));
}

static int read_link(const struct nlmsghdr *message, struct netlink_link *ret_link)
{
        const struct ifinfomsg *info = mnl_nlmsg_get_payload(message);
        struct netlink_link link = {};
        const struct nlattr *attr;

        if (message->nlmsg_type != RTM_NEWLINK || mnl_nlmsg_get_payload_len(message) < sizeof(*info))
                return -EBADMSG;
        link.index = info->ifi_index;
        link.up = info->ifi_flags & IFF_UP;
        mnl_attr_for_each(attr, message, sizeof(*info))
        {
                size_t len = mnl_attr_get_payload_len(attr);
                const void *value = mnl_attr_get_payload(attr);

                switch (mnl_attr_get_type(attr)) {
                case IFLA_IFNAME:
                        snprintf(link.name, sizeof(link.name), "%.*s", (int)len, (const char *)value);
                        break;
                case IFLA_IFALIAS:
                        snprintf(link.alias, sizeof(link.alias), "%.*s", (int)len, (const char *)value);
                        break;
                case IFLA_ADDRESS:
                        if (len == sizeof(link.mac))
                                memcpy(link.mac, value, len);
                        break;
                case IFLA_MTU:
                        if (len == sizeof(link.mtu))
                                memcpy(&link.mtu, value, len);
                        break;
                case IFLA_MASTER:
                        if (len == sizeof(link.master_index))
                                memcpy(&link.master_index, value, len);
                        break;
                case IFLA_CARRIER: /* IFF_RUNNING would lag behind by up to a second */
                        link.running = len == 1 && *(const uint8_t *)value && link.up;
                        break;
                case IFLA_LINK:
                        if (len == sizeof(link.parent_index))
                                memcpy(&link.parent_index, value, len);
                        break;
                case IFLA_LINKINFO:
                        read_link_info(attr, &link);
                        break;
                }
        }
        *ret_link = link;
        return 0;
}

static int on_one_link(void *userdata, const struct nlmsghdr *message)
{
        return read_link(message, userdata);
}

int netlink_get_link(struct netlink *netlink, const char *name, struct netlink_link *ret_link)
{
        struct netlink_link link = {};
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r;

        if (strlen(name) >= IFNAMSIZ)
                return -ENODEV;
        (void)start_link_request(buffer, RTM_GETLINK, 0, &h);
        mnl_attr_put_strz(h, IFLA_IFNAME, name);
        r = transact(netlink, h, on_one_link, &link);
        if (r < 0)
                return r;
        *ret_link = link;
        return 0;
}

struct link_array {
        struct netlink_link *links;
        size_t n;
        size_t room;
};

static int on_link(void *userdata, const struct nlmsghdr *message)
{
        struct link_array *array = userdata;
        int r;

        if (array->n == LINKS_MAX)
                return -E2BIG;
        if (array->n == array->room) {
                size_t room = MAX(2 * array->room, (size_t)16);
                struct netlink_link *more = alloc_resize(array->links, room, sizeof(*more));

                if (!more)
                        return -ENOMEM;
                array->links = more;
                array->room = room;
        }
        r = read_link(message, &array->links[array->n]);
        if (r < 0)
                return r;
        array->n++;
        return 0;
}

int netlink_list_links(struct netlink *netlink, struct netlink_link **ret_links, size_t *ret_n_links)
{
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct link_array array = {};

                (void)start_link_request(buffer, RTM_GETLINK, NLM_F_DUMP, &h);
                r = transact(netlink, h, on_link, &array);
                if (!r) {
                        *ret_links = array.links;
                        *ret_n_links = array.n;
                        return 0;
                }
                free(array.links);
        }
        return r == -EINTR ? -EAGAIN : r;
}

int netlink_add_bridge(struct netlink *netlink, const char *name, uint32_t mtu, struct error **ret_error)
{
        struct nlattr *info, *data;
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r;

        (void)start_link_request(buffer, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &h);
        mnl_attr_put_strz(h, IFLA_IFNAME, name);
        mnl_attr_put_u32(h, IFLA_MTU, mtu);
        info = mnl_attr_nest_start(h, IFLA_LINKINFO);
        mnl_attr_put_strz(h, IFLA_INFO_KIND, "bridge");
        data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
        /* No spanning tree, and a new port forwards at once: with a delay a migrated guest would be deaf. */
        mnl_attr_put_u32(h, IFLA_BR_STP_STATE, 0);
        mnl_attr_put_u32(h, IFLA_BR_FORWARD_DELAY, 0);
        mnl_attr_nest_end(h, data);
        mnl_attr_nest_end(h, info);
        r = transact(netlink, h, NULL, NULL);
        return r < 0 ? request_failed(netlink, r, ret_error, "cannot create bridge", name) : 0;
}

int netlink_add_vlan(struct netlink *netlink, const char *name, const char *parent, uint16_t vlan_id,
        struct error **ret_error)
{
        unsigned int parent_index = if_nametoindex(parent);
        struct nlattr *info, *data;
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r;

        if (!parent_index)
                return request_failed(netlink, -ENODEV, ret_error, "cannot make a VLAN on", parent);
        (void)start_link_request(buffer, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &h);
        mnl_attr_put_strz(h, IFLA_IFNAME, name);
        mnl_attr_put_u32(h, IFLA_LINK, parent_index);
        info = mnl_attr_nest_start(h, IFLA_LINKINFO);
        mnl_attr_put_strz(h, IFLA_INFO_KIND, "vlan");
        data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
        mnl_attr_put_u16(h, IFLA_VLAN_ID, vlan_id);
        mnl_attr_nest_end(h, data);
        mnl_attr_nest_end(h, info);
        r = transact(netlink, h, NULL, NULL);
        if (r == -EOPNOTSUPP)
                return error_set(ret_error, ERROR_NOT_SUPPORTED,
                        "Load the kernel module 8021q (modprobe 8021q), or use VLAN 0.",
                        "the kernel of this host has no VLAN support (8021q), so VLAN %u on %s cannot be "
                        "made",
                        vlan_id, parent);
        return r < 0 ? request_failed(netlink, r, ret_error, "cannot make VLAN interface", name) : 0;
}

int netlink_delete_link(struct netlink *netlink, const char *name)
{
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;

        (void)start_link_request(buffer, RTM_DELLINK, 0, &h);
        mnl_attr_put_strz(h, IFLA_IFNAME, name);
        return transact(netlink, h, NULL, NULL);
}

/* Starts a change of an existing link; with a name but no index the kernel looks it up. */
static struct ifinfomsg *start_change(char *buffer, const char *name, struct nlmsghdr **ret)
{
        struct ifinfomsg *info = start_link_request(buffer, RTM_NEWLINK, 0, ret);

        mnl_attr_put_strz(*ret, IFLA_IFNAME, name);
        return info;
}

int netlink_set_master(
        struct netlink *netlink, const char *name, const char *master_or_null, struct error **ret_error)
{
        unsigned int master = master_or_null ? if_nametoindex(master_or_null) : 0;
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r;

        if (master_or_null && !master)
                return request_failed(netlink, -ENODEV, ret_error, "cannot add a port to", master_or_null);
        (void)start_change(buffer, name, &h);
        mnl_attr_put_u32(h, IFLA_MASTER, master);
        r = transact(netlink, h, NULL, NULL);
        return r < 0 ? request_failed(netlink, r, ret_error,
                               master ? "cannot attach to its bridge" : "cannot detach from its bridge", name)
                     : 0;
}

/* Sets or clears one flag of the interface; `what` is for the error. */
static int set_flag(struct netlink *netlink, const char *name, unsigned int flag, bool on, const char *what,
        struct error **ret_error)
{
        char buffer[REQUEST_SIZE];
        struct ifinfomsg *info;
        struct nlmsghdr *h;
        int r;

        info = start_change(buffer, name, &h);
        info->ifi_change = flag;
        info->ifi_flags = on ? flag : 0;
        r = transact(netlink, h, NULL, NULL);
        return r < 0 ? request_failed(netlink, r, ret_error, what, name) : 0;
}

int netlink_set_up(struct netlink *netlink, const char *name, bool up, struct error **ret_error)
{
        return set_flag(netlink, name, IFF_UP, up, up ? "cannot set up" : "cannot set down", ret_error);
}

int netlink_set_no_arp(struct netlink *netlink, const char *name, struct error **ret_error)
{
        return set_flag(netlink, name, IFF_NOARP, true, "cannot switch off ARP on", ret_error);
}

int netlink_set_mtu(struct netlink *netlink, const char *name, uint32_t mtu, struct error **ret_error)
{
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r;

        (void)start_change(buffer, name, &h);
        mnl_attr_put_u32(h, IFLA_MTU, mtu);
        r = transact(netlink, h, NULL, NULL);
        return r < 0 ? request_failed(netlink, r, ret_error, "cannot set the MTU of", name) : 0;
}

int netlink_set_alias(struct netlink *netlink, const char *name, const char *alias, struct error **ret_error)
{
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;
        int r;

        if (strlen(alias) >= sizeof(((struct netlink_link *)NULL)->alias))
                return request_failed(netlink, -EINVAL, ret_error, "the alias is too long for", name);
        (void)start_change(buffer, name, &h);
        mnl_attr_put_str(h, IFLA_IFALIAS, alias);
        r = transact(netlink, h, NULL, NULL);
        return r < 0 ? request_failed(netlink, r, ret_error, "cannot set the alias of", name) : 0;
}

int netlink_set_no_ipv6(struct netlink *netlink, const char *name)
{
        struct nlattr *spec, *inet6;
        char buffer[REQUEST_SIZE];
        struct nlmsghdr *h;

        (void)start_change(buffer, name, &h);
        spec = mnl_attr_nest_start(h, IFLA_AF_SPEC);
        inet6 = mnl_attr_nest_start(h, AF_INET6);
        mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        mnl_attr_nest_end(h, inet6);
        mnl_attr_nest_end(h, spec);
        return transact(netlink, h, NULL, NULL);
}

struct address_search {
        unsigned int index;
        bool found;
};

static int on_address(void *userdata, const struct nlmsghdr *message)
{
        const struct ifaddrmsg *address = mnl_nlmsg_get_payload(message);
        struct address_search *search = userdata;

        if (message->nlmsg_type != RTM_NEWADDR || mnl_nlmsg_get_payload_len(message) < sizeof(*address))
                return -EBADMSG;
        if (address->ifa_index == search->index &&
                (address->ifa_family == AF_INET ||
                        (address->ifa_family == AF_INET6 && address->ifa_scope < RT_SCOPE_LINK)))
                search->found = true;
        return 0;
}

int netlink_has_address(struct netlink *netlink, const char *name, bool *ret_has_address)
{
        char buffer[REQUEST_SIZE];
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct address_search search = {.index = if_nametoindex(name)};
                struct nlmsghdr *h = start_request(buffer, RTM_GETADDR, NLM_F_DUMP);

                if (!search.index)
                        return -ENODEV;
                (void)mnl_nlmsg_put_extra_header(h, sizeof(struct ifaddrmsg));
                r = transact(netlink, h, on_address, &search);
                if (!r)
                        *ret_has_address = search.found;
        }
        return r == -EINTR ? -EAGAIN : r;
}

static int on_neighbour(void *userdata, const struct nlmsghdr *message)
{
        const struct ndmsg *neighbour = mnl_nlmsg_get_payload(message);

        if (message->nlmsg_type != RTM_NEWNEIGH || mnl_nlmsg_get_payload_len(message) < sizeof(*neighbour))
                return -EBADMSG;
        *(int *)userdata = neighbour->ndm_ifindex;
        return 0;
}

int netlink_fdb_find(struct netlink *netlink, const char *bridge, const uint8_t mac[static 6],
        char ret_port[static IFNAMSIZ])
{
        unsigned int index = if_nametoindex(bridge);
        char buffer[REQUEST_SIZE], name[IFNAMSIZ];
        struct ndmsg *neighbour;
        struct nlmsghdr *h;
        int port = 0, r;

        if (!index)
                return -ENODEV;
        h = start_request(buffer, RTM_GETNEIGH, 0);
        neighbour = mnl_nlmsg_put_extra_header(h, sizeof(*neighbour));
        neighbour->ndm_family = AF_BRIDGE;
        mnl_attr_put(h, NDA_LLADDR, 6, mac);
        mnl_attr_put_u32(h, NDA_MASTER, index);
        r = transact(netlink, h, on_neighbour, &port);
        if (r < 0)
                return r;
        if (!port || !if_indextoname((unsigned int)port, name))
                return -ENOENT;
        memcpy(ret_port, name, IFNAMSIZ);
        return 0;
}

struct fdb_array {
        struct netlink_fdb_entry *entries;
        size_t n;
        size_t room;
};

static int on_fdb_attribute(const struct nlattr *attribute, void *userdata)
{
        const struct nlattr **found = userdata;
        uint16_t type = mnl_attr_get_type(attribute);

        if ((type == NDA_LLADDR && mnl_attr_get_payload_len(attribute) == 6) ||
                (type == NDA_MASTER && mnl_attr_get_payload_len(attribute) == sizeof(uint32_t)))
                found[type] = attribute;
        return MNL_CB_OK;
}

static int on_fdb_entry(void *userdata, const struct nlmsghdr *message)
{
        const struct ndmsg *neighbour = mnl_nlmsg_get_payload(message);
        const struct nlattr *found[NDA_MAX + 1] = {};
        struct fdb_array *array = userdata;

        if (message->nlmsg_type != RTM_NEWNEIGH || mnl_nlmsg_get_payload_len(message) < sizeof(*neighbour))
                return -EBADMSG;
        (void)mnl_attr_parse(message, sizeof(*neighbour), on_fdb_attribute, found);
        /* Filters of network cards stand in the same table, without a bridge. */
        if (neighbour->ndm_family != AF_BRIDGE || !found[NDA_LLADDR] || !found[NDA_MASTER])
                return 0;
        if (array->n == FDB_MAX)
                return -E2BIG;
        if (array->n == array->room) {
                size_t room = MAX(2 * array->room, (size_t)64);
                struct netlink_fdb_entry *more = alloc_resize(array->entries, room, sizeof(*more));

                if (!more)
                        return -ENOMEM;
                array->entries = more;
                array->room = room;
        }
        array->entries[array->n] =
                (struct netlink_fdb_entry){.bridge_index = (int)mnl_attr_get_u32(found[NDA_MASTER]),
                        .port_index = neighbour->ndm_ifindex,
                        .own = (neighbour->ndm_state & NUD_PERMANENT) != 0};
        memcpy(array->entries[array->n++].mac, mnl_attr_get_payload(found[NDA_LLADDR]), 6);
        return 0;
}

int netlink_list_fdb(struct netlink *netlink, struct netlink_fdb_entry **ret_entries, size_t *ret_n_entries)
{
        char buffer[REQUEST_SIZE];
        int r = -EINTR;

        for (int i = 0; i < DUMP_TRIES && r == -EINTR; i++) {
                struct nlmsghdr *h = start_request(buffer, RTM_GETNEIGH, NLM_F_DUMP);
                struct fdb_array array = {};
                struct ifinfomsg *info = mnl_nlmsg_put_extra_header(h, sizeof(*info));

                /* Dumps of the table have been asked for with this header since iproute2 began to. */
                info->ifi_family = AF_BRIDGE;
                r = transact(netlink, h, on_fdb_entry, &array);
                if (!r) {
                        *ret_entries = array.entries;
                        *ret_n_entries = array.n;
                        return 0;
                }
                free(array.entries);
        }
        return r == -EINTR ? -EAGAIN : r;
}

int netlink_fdb_replace(struct netlink *netlink, const char *port, const uint8_t mac[static 6])
{
        unsigned int index = if_nametoindex(port);
        char buffer[REQUEST_SIZE];
        struct ndmsg *neighbour;
        struct nlmsghdr *h;

        if (!index)
                return -ENODEV;
        h = start_request(buffer, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
        neighbour = mnl_nlmsg_put_extra_header(h, sizeof(*neighbour));
        neighbour->ndm_family = AF_BRIDGE;
        neighbour->ndm_ifindex = (int)index;
        neighbour->ndm_state = NUD_REACHABLE;
        neighbour->ndm_flags = NTF_MASTER;
        mnl_attr_put(h, NDA_LLADDR, 6, mac);
        return transact(netlink, h, NULL, NULL);
}

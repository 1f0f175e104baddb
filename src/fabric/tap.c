/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/alloc.h"
#include "base/torture.h"
#include "fabric/ifname.h"
#include "fabric/ovs.h"

static int open_device(const char *name, bool persistent, int *ret_fd, struct error **ret_error)
{
        struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
        _cleanup_fd_ int fd = -1;

        fd = torture_point() ? -1 : open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 && (errno == ENOENT || errno == ENODEV))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Load the kernel module tun (modprobe tun).",
                        "this host cannot make network ports for guests: /dev/net/tun does not exist");
        if (fd < 0)
                return error_from_errno(ret_error, errno ?: EIO, "cannot open /dev/net/tun");
        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        if (ioctl(fd, TUNSETIFF, &request) < 0) {
                if (errno == EBUSY)
                        return error_set(ret_error, ERROR_CONFLICT, "Stop the process that holds it.",
                                "the network port %s is in use by another process", name);
                return error_from_errno(ret_error, errno, "cannot make the network port %s", name);
        }
        if (ioctl(fd, TUNSETPERSIST, (unsigned long)persistent) < 0)
                return error_from_errno(
                        ret_error, errno, "cannot set how long the network port %s lives", name);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* bridge NULL: it gets no master. */
static int set_up(struct netlink *netlink, const char *name, const char *port_group,
        const char *bridge_or_null, uint32_t mtu, struct error **ret_error)
{
        _cleanup_free_ char *alias = alloc_printf(TAP_ALIAS_PREFIX "%s", port_group);
        int r;

        if (!alias)
                return error_from_errno(ret_error, ENOMEM, "cannot set up the network port %s", name);
        r = netlink_set_alias(netlink, name, alias, ret_error);
        /* Before the port joins: a bridge takes over the MTU of its smallest port. */
        if (!r)
                r = netlink_set_mtu(netlink, name, mtu, ret_error);
        if (!r && bridge_or_null)
                r = netlink_set_master(netlink, name, bridge_or_null, ret_error);
        if (!r)
                r = netlink_set_up(netlink, name, true, ret_error);
        return r;
}

int tap_open(struct netlink *netlink, const struct tap_spec *spec, int *ret_fd, char ret_name[IFNAMSIZ],
        struct error **ret_error)
{
        _cleanup_fd_ int fd = -1;
        char name[IFNAMSIZ];
        int r;

        if (spec->nic > 0xff)
                return error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "NIC %u is more than a VM can have", spec->nic);
        ifname_tap(spec->vm_uid, spec->nic, name);
        r = open_device(name, spec->persistent, &fd, ret_error);
        if (r < 0)
                return r;
        (void)netlink_set_no_ipv6(netlink, name); /* nothing to do on a kernel without IPv6 */
        r = set_up(netlink, name, spec->port_group, spec->ovs ? NULL : spec->bridge, spec->mtu, ret_error);
        if (r == 0 && spec->ovs)
                r = ovs_attach(spec->ovs, spec->bridge, name, spec->port_group, spec->vlan, ret_error);
        if (r < 0) {
                /* A persistent one would stay behind; the other kind ends with the descriptor. */
                if (spec->persistent)
                        (void)tap_delete(netlink, name);
                return r;
        }
        *ret_fd = TAKE_FD(fd);
        if (ret_name)
                memcpy(ret_name, name, IFNAMSIZ);
        return 0;
}

int tap_attach(struct netlink *netlink, const char *name, const char *port_group, const char *bridge,
        uint32_t mtu, struct error **ret_error)
{
        return set_up(netlink, name, port_group, bridge, mtu, ret_error);
}

int tap_delete(struct netlink *netlink, const char *name)
{
        int r = netlink_delete_link(netlink, name);

        return r == -ENODEV ? 0 : r;
}

int tap_list(struct netlink *netlink, char (**ret_names)[IFNAMSIZ], size_t *ret_n_names)
{
        _cleanup_free_ struct netlink_link *links = NULL;
        _cleanup_free_ char(*names)[IFNAMSIZ] = NULL;
        size_t n_links, n = 0;
        int r = netlink_list_links(netlink, &links, &n_links);

        if (r < 0)
                return r;
        names = alloc_array(n_links + 1, sizeof(*names));
        if (!names)
                return -ENOMEM;
        for (size_t i = 0; i < n_links; i++)
                if (!strncmp(links[i].name, IFNAME_TAP_PREFIX, strlen(IFNAME_TAP_PREFIX)) &&
                        !strcmp(links[i].kind, "tun"))
                        memcpy(names[n++], links[i].name, IFNAMSIZ);
        *ret_names = TAKE_PTR(names);
        *ret_n_names = n;
        return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/vswitch.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/map.h"
#include "base/text.h"
#include "fabric/bridge.h"
#include "fabric/distributed.h"
#include "fabric/foreign_macs.h"
#include "fabric/ifname.h"
#include "fabric/tap.h"

#define ALIAS_PREFIX "drover switch "
#define VLAN_MAX 4094
#define FORMAT 1

struct vswitch {
        char *name;
        char *uplink;                    /* NULL: none */
        uint32_t wanted_mtu;             /* 0: the uplink's */
        struct distributed *distributed; /* NULL: a standard switch */
        /* As realised last: */
        uint32_t mtu;
        bool adopted; /* the uplink is a foreign bridge and is used as it is */
        char bridge[IFNAMSIZ];
        bool realised; /* at some time, as above */
        char *problem; /* why it is not now; NULL: it is */
};

struct port_group {
        char *name;
        char *vswitch;
        uint16_t vlan;
        char bridge[IFNAMSIZ];
        bool realised;
        char *problem;
};

struct vswitch_set {
        struct netlink *netlink;
        struct ovs *ovs; /* NULL: no distributed switches */
        const struct clock *clock;
        struct map switches;    /* struct vswitch */
        struct map port_groups; /* struct port_group */
};

static void vswitch_free(struct vswitch *sw)
{
        if (!sw)
                return;
        free(sw->name);
        free(sw->uplink);
        free(sw->problem);
        distributed_free(sw->distributed);
        free(sw);
}
DEFINE_CLEANUP(struct vswitch *, vswitch_free)

static void port_group_free(struct port_group *group)
{
        if (!group)
                return;
        free(group->name);
        free(group->vswitch);
        free(group->problem);
        free(group);
}
DEFINE_CLEANUP(struct port_group *, port_group_free)

int vswitch_set_new(struct netlink *netlink, struct vswitch_set **ret_set)
{
        struct vswitch_set *set = ALLOC(struct vswitch_set);

        if (!set)
                return -ENOMEM;
        set->netlink = netlink;
        map_init(&set->switches);
        map_init(&set->port_groups);
        *ret_set = set;
        return 0;
}

void vswitch_set_free(struct vswitch_set *set)
{
        struct map_item *item, *spare;

        if (!set)
                return;
        map_for_each (item, spare, &set->switches)
                vswitch_free(item->value);
        map_for_each (item, spare, &set->port_groups)
                port_group_free(item->value);
        map_deinit(&set->switches);
        map_deinit(&set->port_groups);
        free(set);
}

void vswitch_set_use_ovs(struct vswitch_set *set, struct ovs *ovs, const struct clock *clock)
{
        set->ovs = ovs;
        set->clock = clock;
}

/* Reading documents */

static int parse_type(const json_t *body, bool *ret_distributed, struct error **ret_error)
{
        const char *type = "standard";
        int r = doc_opt_string(body, "switch", "type", NAME_MAX_CHARS, &type, ret_error);

        if (r < 0)
                return r;
        *ret_distributed = !strcmp(type, "distributed");
        if (*ret_distributed || !strcmp(type, "standard"))
                return 0;
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use standard or distributed.",
                "switch.type: there is no type %s", type);
}

static int parse_switch(
        const char *name, const json_t *body, struct vswitch **ret_switch, struct error **ret_error)
{
        static const char *const keys[] = {"name", "type", "uplink", "mtu", NULL};
        _cleanup_(vswitch_freep) struct vswitch *sw = NULL;
        _cleanup_(distributed_freep) struct distributed *distributed = NULL;
        const char *uplink = NULL;
        bool is_distributed = false;
        uint64_t mtu = 0;
        int r;

        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use letters, digits, '.', '_' and '-'.",
                        "this is no name for a switch");
        r = parse_type(body, &is_distributed, ret_error);
        if (!r && is_distributed)
                r = distributed_new(body, &distributed, ret_error);
        else if (!r)
                r = doc_only_keys(body, "switch", keys, ret_error);
        if (!r && !is_distributed)
                r = doc_opt_string(body, "switch", "uplink", IFNAMSIZ - 1, &uplink, ret_error);
        if (!r)
                r = doc_opt_u64(body, "switch", "mtu", VSWITCH_MTU_MIN, VSWITCH_MTU_MAX, &mtu, ret_error);
        if (r < 0)
                return r;
        if (uplink &&
                (!text_is_name(uplink) || !strncmp(uplink, IFNAME_TAP_PREFIX, strlen(IFNAME_TAP_PREFIX))))
                return error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Name a network interface of the host, or null.",
                        "switch.uplink: this interface cannot be an uplink");
        sw = ALLOC(struct vswitch);
        if (!sw || alloc_replace(&sw->name, name) < 0 || alloc_replace(&sw->uplink, uplink) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot take in the switch");
        sw->wanted_mtu = (uint32_t)mtu;
        sw->distributed = TAKE_PTR(distributed);
        *ret_switch = TAKE_PTR(sw);
        return 0;
}

static int parse_port_group(
        const char *name, const json_t *body, struct port_group **ret_group, struct error **ret_error)
{
        static const char *const keys[] = {"name", "switch", "vlan", NULL};
        _cleanup_(port_group_freep) struct port_group *group = NULL;
        const char *vswitch = NULL;
        uint64_t vlan = 0;
        int r;

        if (!text_is_name(name))
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Use letters, digits, '.', '_' and '-'.",
                        "this is no name for a port group");
        r = doc_only_keys(body, "port group", keys, ret_error);
        if (!r)
                r = doc_need_string(body, "port group", "switch", NAME_MAX_CHARS, &vswitch, ret_error);
        if (!r)
                r = doc_opt_u64(body, "port group", "vlan", 0, VLAN_MAX, &vlan, ret_error);
        if (r < 0)
                return r;
        group = ALLOC(struct port_group);
        if (!group || alloc_replace(&group->name, name) < 0 || alloc_replace(&group->vswitch, vswitch) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot take in the port group");
        group->vlan = (uint16_t)vlan;
        *ret_group = TAKE_PTR(group);
        return 0;
}

/* Making the kernel follow */

/* Keeps the message of a failure for the status documents; without memory a fixed one. */
static void note_problem(char **problem, int r, const struct error *error)
{
        free(*problem);
        *problem = r < 0 ? alloc_strdup(error_message(error)) : NULL;
}

/* The interface that leads out of the host for a VLAN of the switch. */
static const char *outside(const struct vswitch *sw)
{
        return sw->adopted ? sw->bridge : sw->uplink;
}

static int look_at_uplink(
        struct vswitch_set *set, struct vswitch *sw, struct netlink_link *ret_link, struct error **ret_error)
{
        int r = netlink_get_link(set->netlink, sw->uplink, ret_link);

        if (r == -ENODEV)
                return error_set(ret_error, ERROR_NOT_FOUND,
                        "Name a network interface of this host (see `ip link`).",
                        "this host has no network interface %s, the uplink of switch %s", sw->uplink,
                        sw->name);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot read the state of interface %s", sw->uplink);
        if (!strcmp(ret_link->kind, "bridge") &&
                !strncmp(ret_link->alias, ALIAS_PREFIX, strlen(ALIAS_PREFIX)))
                return error_set(ret_error, ERROR_CONFLICT, "Add a port group to that switch instead.",
                        "the uplink %s is the bridge of another switch of drover", sw->uplink);
        if (sw->wanted_mtu > ret_link->mtu)
                return error_set(ret_error, ERROR_CHECK_FAILED,
                        "Raise the MTU of the uplink (and of the physical switch), or lower that of the "
                        "switch.",
                        "the uplink %s has MTU %u, the switch needs %u", sw->uplink, ret_link->mtu,
                        sw->wanted_mtu);
        return 0;
}

/* All port groups of the switch, one block that is the caller's; NULL without memory. */
static struct ovs_group *groups_of(const struct vswitch_set *set, const struct vswitch *sw, size_t *ret_n)
{
        struct ovs_group *groups = alloc_array(map_size(&set->port_groups) + 1, sizeof(*groups));
        struct map_item *item, *spare;
        size_t n = 0;

        if (!groups)
                return NULL;
        map_for_each (item, spare, &set->port_groups) {
                const struct port_group *group = item->value;

                if (!strcmp(group->vswitch, sw->name))
                        groups[n++] = (struct ovs_group){.name = group->name, .vlan = group->vlan};
        }
        *ret_n = n;
        return groups;
}

/* The smallest one of the uplinks that are there. */
static uint32_t uplinks_mtu(struct vswitch_set *set, const struct distributed *distributed)
{
        struct netlink_link link;
        uint32_t mtu = 0;
        json_t *uplink;
        size_t i;

        json_array_foreach ((json_t *)distributed_uplinks(distributed), i, uplink)
                if (!netlink_get_link(set->netlink, json_string_value(uplink), &link))
                        mtu = mtu ? MIN(mtu, link.mtu) : link.mtu;
        return mtu ?: VSWITCH_MTU_DEFAULT;
}

static void fill_spec(
        const struct vswitch *sw, const struct ovs_group *groups, size_t n_groups, struct ovs_spec *ret_spec)
{
        *ret_spec = (struct ovs_spec){.vswitch = sw->name,
                .bridge = sw->bridge,
                .mtu = sw->mtu,
                .groups = groups,
                .n_groups = n_groups};
        distributed_fill(sw->distributed, ret_spec);
}

static bool has_uplink(const struct vswitch *sw, const char *name)
{
        return sw->distributed ? doc_has_string(distributed_uplinks(sw->distributed), name)
                               : !strcmp(sw->uplink ?: "", name);
}

/* With those that work. Two switches on one bridge would take each other's ports away. A NIC in the userspace datapath has no master by which the kernel would refuse it to the
 * other one. */
static int check_other_switches(
        const struct vswitch_set *set, const struct vswitch *sw, struct error **ret_error)
{
        const json_t *uplinks = sw->distributed ? distributed_uplinks(sw->distributed) : NULL;
        struct map_item *item, *spare;

        map_for_each (item, spare, &set->switches) {
                const struct vswitch *other = item->value;
                const char *nic = NULL;

                if (!strcmp(other->name, sw->name) || (!sw->distributed && !other->distributed) ||
                        !other->bridge[0] || other->problem)
                        continue;
                if (sw->distributed && other->distributed && !strcmp(other->bridge, sw->bridge))
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Add the port groups to that switch, or name another bridge.",
                                "the bridge %s is that of the switch %s already", sw->bridge, other->name);
                for (size_t i = 0; !nic && i < json_array_size(uplinks); i++)
                        if (has_uplink(other, json_string_value(json_array_get(uplinks, i))))
                                nic = json_string_value(json_array_get(uplinks, i));
                if (!sw->distributed && sw->uplink && has_uplink(other, sw->uplink))
                        nic = sw->uplink;
                if (nic)
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Name another network interface, or add the port groups to that switch.",
                                "the uplink %s is that of the switch %s already", nic, other->name);
        }
        return 0;
}

/* Drift is what differs from a document that was applied before. */
static bool is_new_version(const struct vswitch_set *set, const struct vswitch *sw)
{
        const struct vswitch *known = map_get(&set->switches, sw->name);

        return !known || (known != sw && (!known->distributed || !distributed_same_version(known->distributed,
                                                                         sw->distributed)));
}

static int realise_distributed(struct vswitch_set *set, struct vswitch *sw, struct error **ret_error)
{
        _cleanup_free_ struct ovs_group *groups = NULL;
        json_t *differences = NULL, *left = NULL;
        struct ovs_spec spec;
        size_t n_groups = 0;
        int r;

        if (!set->ovs)
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Use a standard switch.",
                        "this agent does not use Open vSwitch");
        groups = groups_of(set, sw, &n_groups);
        if (!groups)
                return error_from_errno(ret_error, ENOMEM, "cannot set up switch %s", sw->name);
        sw->mtu = sw->wanted_mtu ?: uplinks_mtu(set, sw->distributed);
        if (distributed_adopts(sw->distributed))
                snprintf(sw->bridge, sizeof(sw->bridge), "%s", distributed_adopts(sw->distributed));
        else
                ifname_bridge(sw->name, sw->bridge);
        r = check_other_switches(set, sw, ret_error);
        if (r < 0)
                return r;
        fill_spec(sw, groups, n_groups, &spec);
        spec.is_new = is_new_version(set, sw);
        r = ovs_ensure(set->ovs, &spec, &differences, &left, ret_error);
        if (r == 0)
                distributed_note(sw->distributed, differences, left, spec.is_new, clock_unix_ms(set->clock));
        return r;
}

static int realise_switch(struct vswitch_set *set, struct vswitch *sw, struct error **ret_error)
{
        _cleanup_free_ char *alias = alloc_printf(ALIAS_PREFIX "%s", sw->name);
        struct netlink_link uplink = {.mtu = VSWITCH_MTU_DEFAULT};
        int r;

        if (sw->distributed)
                return realise_distributed(set, sw, ret_error);
        if (!alias)
                return error_from_errno(ret_error, ENOMEM, "cannot set up switch %s", sw->name);
        r = check_other_switches(set, sw, ret_error);
        if (r == 0 && sw->uplink)
                r = look_at_uplink(set, sw, &uplink, ret_error);
        if (r < 0)
                return r;
        sw->mtu = sw->wanted_mtu ?: uplink.mtu;
        sw->adopted = !strcmp(uplink.kind, "bridge");
        if (sw->adopted) {
                snprintf(sw->bridge, sizeof(sw->bridge), "%s", sw->uplink);
                return 0;
        }
        ifname_bridge(sw->name, sw->bridge);
        return bridge_ensure(set->netlink,
                &(struct bridge_spec){
                        .name = sw->bridge, .alias = alias, .uplink = sw->uplink, .mtu = sw->mtu},
                ret_error);
}

static int apply_switch(struct vswitch_set *set, struct vswitch *sw, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r = realise_switch(set, sw, &error);

        error_about(&error, "switch/%s", sw->name);
        note_problem(&sw->problem, r, error);
        sw->realised |= r == 0;
        if (r < 0)
                (void)error_propagate(ret_error, TAKE_PTR(error));
        return r;
}

static int realise_vlan(
        struct vswitch_set *set, struct vswitch *sw, struct port_group *group, struct error **ret_error)
{
        _cleanup_free_ char *alias = alloc_printf(ALIAS_PREFIX "%s vlan %u", sw->name, group->vlan);
        char link[IFNAMSIZ];
        int r;

        if (!alias)
                return error_from_errno(ret_error, ENOMEM, "cannot set up port group %s", group->name);
        ifname_vlan_bridge(sw->name, group->vlan, group->bridge);
        ifname_vlan_link(sw->name, group->vlan, link);
        if (sw->uplink) {
                r = bridge_ensure_vlan(set->netlink, link, outside(sw), group->vlan, sw->mtu, ret_error);
                if (r < 0)
                        return r;
        }
        return bridge_ensure(set->netlink,
                &(struct bridge_spec){.name = group->bridge,
                        .alias = alias,
                        .uplink = sw->uplink ? link : NULL,
                        .mtu = sw->mtu},
                ret_error);
}

static int realise_port_group(struct vswitch_set *set, struct port_group *group, struct error **ret_error)
{
        struct vswitch *sw = map_get(&set->switches, group->vswitch);
        int r;

        if (!sw)
                return error_set(ret_error, ERROR_NOT_FOUND, "Create the switch first.",
                        "port group %s is on switch %s, which this host does not have", group->name,
                        group->vswitch);
        r = apply_switch(set, sw, ret_error);
        if (r < 0)
                return r;
        if (group->vlan && !sw->distributed)
                return realise_vlan(set, sw, group, ret_error);
        memcpy(group->bridge, sw->bridge, sizeof(group->bridge));
        return 0;
}

static int apply_port_group(struct vswitch_set *set, struct port_group *group, struct error **ret_error)
{
        _cleanup_error_ struct error *error = NULL;
        int r = realise_port_group(set, group, &error);

        error_about(&error, "port-group/%s", group->name);
        note_problem(&group->problem, r, error);
        group->realised |= r == 0;
        if (r < 0)
                (void)error_propagate(ret_error, TAKE_PTR(error));
        return r;
}

/* A group of a distributed switch was realised with it. */
static void follow_switch(const struct vswitch *sw, struct port_group *group)
{
        free(group->problem);
        group->problem = sw->problem ? alloc_strdup(sw->problem) : NULL;
        memcpy(group->bridge, sw->bridge, sizeof(group->bridge));
        group->realised = sw->realised;
}

static void apply_groups_of(struct vswitch_set *set, const char *vswitch)
{
        const struct vswitch *sw = map_get(&set->switches, vswitch);
        struct map_item *item, *spare;

        map_for_each (item, spare, &set->port_groups) {
                struct port_group *group = item->value;

                if (strcmp(group->vswitch, vswitch))
                        continue;
                if (sw && sw->distributed)
                        follow_switch(sw, group);
                else
                        (void)apply_port_group(set, group, NULL);
        }
}

void vswitch_set_tend(struct vswitch_set *set)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &set->switches) {
                struct vswitch *sw = item->value;

                if (!sw->distributed)
                        continue;
                (void)apply_switch(set, sw, NULL);
                apply_groups_of(set, sw->name);
        }
}

void vswitch_set_apply(struct vswitch_set *set)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &set->switches) {
                struct vswitch *sw = item->value;

                (void)apply_switch(set, sw, NULL);
                apply_groups_of(set, sw->name);
        }
}

/* Use */

static bool is_tap_of(const struct netlink_link *link, const char *port_group)
{
        return !strncmp(link->alias, TAP_ALIAS_PREFIX, strlen(TAP_ALIAS_PREFIX)) &&
               !strcmp(link->alias + strlen(TAP_ALIAS_PREFIX), port_group);
}

/* CONFLICT while a tap is a port of the group. */
static int check_group_unused(struct vswitch_set *set, const char *port_group, struct error **ret_error)
{
        _cleanup_free_ struct netlink_link *links = NULL;
        size_t n_links;
        int r = netlink_list_links(set->netlink, &links, &n_links);

        if (r < 0)
                return error_from_errno(ret_error, r, "cannot list the ports of port group %s", port_group);
        for (size_t i = 0; i < n_links; i++)
                if (is_tap_of(&links[i], port_group))
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Stop or move the virtual machine that uses it.",
                                "port group %s is in use by the port %s", port_group, links[i].name);
        return 0;
}

static const struct port_group *other_group(
        const struct vswitch_set *set, const struct port_group *but, const char *vswitch, int vlan_or_any)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &set->port_groups) {
                const struct port_group *group = item->value;

                if (group != but && !strcmp(group->vswitch, vswitch) &&
                        (vlan_or_any < 0 || group->vlan == vlan_or_any))
                        return group;
        }
        return NULL;
}

/* Takes away the VLAN's bridge and link when `group` was the last one that needs them. */
static int unrealise_port_group(
        struct vswitch_set *set, const struct port_group *group, struct error **ret_error)
{
        char bridge[IFNAMSIZ], link[IFNAMSIZ];
        int r;

        const struct vswitch *sw = map_get(&set->switches, group->vswitch);

        if (!group->vlan || (sw && sw->distributed) || other_group(set, group, group->vswitch, group->vlan))
                return 0;
        ifname_vlan_bridge(group->vswitch, group->vlan, bridge);
        ifname_vlan_link(group->vswitch, group->vlan, link);
        r = bridge_remove(set->netlink, bridge, link, ret_error);
        if (r < 0)
                return r;
        r = netlink_delete_link(set->netlink, link);
        return r < 0 && r != -ENODEV
                       ? error_from_errno(ret_error, r, "cannot remove the VLAN interface %s", link)
                       : 0;
}

/* Switches */

static void release_uplink(struct vswitch_set *set, const struct vswitch *old, const struct vswitch *now)
{
        struct netlink_link uplink, bridge;

        if (old->distributed || !old->uplink || old->adopted ||
                (now->uplink && !strcmp(old->uplink, now->uplink)))
                return;
        if (netlink_get_link(set->netlink, old->uplink, &uplink) < 0 ||
                netlink_get_link(set->netlink, old->bridge, &bridge) < 0 ||
                uplink.master_index != bridge.index)
                return;
        if (netlink_set_master(set->netlink, old->uplink, NULL, NULL) < 0)
                log_warning("switch %s: the former uplink %s could not be released", old->name, old->uplink);
}

/* A bridge that was ours is of no use once a foreign one is the switch, or the other way round: ports would be
 * left on the wrong one. */
static int check_change(struct vswitch_set *set, const struct vswitch *old, const struct vswitch *now,
        struct error **ret_error)
{
        struct map_item *item, *spare;
        struct netlink_link uplink;
        bool adopted, same_uplink;
        int r;

        same_uplink = !strcmp(old->uplink ?: "", now->uplink ?: "");
        adopted = now->uplink && !netlink_get_link(set->netlink, now->uplink, &uplink) &&
                  !strcmp(uplink.kind, "bridge");
        if (same_uplink || (!old->adopted && !adopted))
                return 0;
        map_for_each (item, spare, &set->port_groups) {
                const struct port_group *group = item->value;

                if (strcmp(group->vswitch, old->name))
                        continue;
                r = check_group_unused(set, group->name, ret_error);
                if (r < 0)
                        return r;
        }
        return old->adopted ? 0 : bridge_remove(set->netlink, old->bridge, old->uplink, ret_error);
}

/* Ports would be left on the bridge of before. */
static int check_distributed_change(const struct vswitch_set *set, const struct vswitch *old,
        const struct vswitch *now, struct error **ret_error)
{
        if (!old->distributed != !now->distributed)
                return error_set(ret_error, ERROR_CONFLICT, "Remove it first, or choose another name.",
                        "this host has the %s switch %s already",
                        old->distributed ? "distributed" : "standard", old->name);
        if (strcmp(distributed_adopts(old->distributed) ?: "", distributed_adopts(now->distributed) ?: "") &&
                other_group(set, NULL, old->name, -1))
                return error_set(ret_error, ERROR_CONFLICT, "Remove its port groups first.",
                        "the switch %s has port groups on another bridge", old->name);
        return 0;
}

/* Of a distributed switch that has another one now, or none. */
static void leave_bridge(struct vswitch_set *set, const struct vswitch *old, const struct vswitch *now)
{
        _cleanup_error_ struct error *error = NULL;
        struct ovs_spec spec;

        if (!old->bridge[0] || !strcmp(old->bridge, now->bridge))
                return;
        fill_spec(old, NULL, 0, &spec);
        if (ovs_remove(set->ovs, &spec, &error) < 0)
                log_warning("switch %s: its former bridge %s stays: %s", old->name, old->bridge,
                        error_message(error));
}

static int change_switch(
        struct vswitch_set *set, struct vswitch *old, struct vswitch *now, struct error **ret_error)
{
        bool distributed = old->distributed || now->distributed;
        int r = distributed ? check_distributed_change(set, old, now, ret_error)
                            : check_change(set, old, now, ret_error);

        if (r < 0)
                return r;
        r = apply_switch(set, now, ret_error);
        if (r < 0) {
                /* As before, as far as possible; the status of the old one tells if not. */
                (void)apply_switch(set, old, NULL);
                return r;
        }
        if (distributed) {
                distributed_inherit(now->distributed, old->distributed);
                leave_bridge(set, old, now);
        }
        release_uplink(set, old, now);
        return 0;
}

int vswitch_set_put_switch(
        struct vswitch_set *set, const char *name, const json_t *body, struct error **ret_error)
{
        struct vswitch *old = map_get(&set->switches, name);
        _cleanup_(vswitch_freep) struct vswitch *now = NULL;
        void *replaced;
        int r = parse_switch(name, body, &now, ret_error);

        if (r < 0)
                return r;
        if (!old && map_size(&set->switches) >= VSWITCH_MAX_SWITCHES)
                return error_set(ret_error, ERROR_TOO_LARGE, "Remove one that is not used.",
                        "this host has %d switches already", VSWITCH_MAX_SWITCHES);
        r = old ? change_switch(set, old, now, ret_error) : apply_switch(set, now, ret_error);
        if (r == -ETIMEDOUT && !old && now->distributed)
                leave_bridge(set, now, &(struct vswitch){0}); /* it is written down there */
        if (r < 0)
                return r;
        if (map_put(&set->switches, name, now, &replaced) < 0) {
                if (!old && !now->adopted && !now->distributed)
                        (void)bridge_remove(set->netlink, now->bridge, now->uplink, NULL);
                return error_from_errno(ret_error, ENOMEM, "cannot take in the switch");
        }
        TAKE_PTR(now);
        vswitch_free(replaced);
        apply_groups_of(set, name);
        return 0;
}

int vswitch_set_remove_switch(struct vswitch_set *set, const char *name, struct error **ret_error)
{
        struct vswitch *sw = map_get(&set->switches, name);
        const struct port_group *group;
        int r;

        if (!sw)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "this host has no such switch");
        group = other_group(set, NULL, name, -1);
        if (group)
                return error_set(ret_error, ERROR_CONFLICT, "Remove its port groups first.",
                        "switch %s has the port group %s", name, group->name);
        if (sw->distributed && sw->bridge[0] && set->ovs) {
                struct ovs_spec spec;

                fill_spec(sw, NULL, 0, &spec);
                r = ovs_remove(set->ovs, &spec, ret_error);
                if (r < 0)
                        return r;
        } else if (!sw->distributed && !sw->adopted && sw->bridge[0]) {
                r = bridge_remove(set->netlink, sw->bridge, sw->uplink, ret_error);
                if (r < 0)
                        return r;
        }
        vswitch_free(map_remove(&set->switches, name));
        return 0;
}

/* Port groups */

int vswitch_set_put_port_group(
        struct vswitch_set *set, const char *name, const json_t *body, struct error **ret_error)
{
        struct port_group *old = map_get(&set->port_groups, name);
        _cleanup_(port_group_freep) struct port_group *now = NULL;
        bool moved;
        void *replaced;
        int r = parse_port_group(name, body, &now, ret_error);

        if (r < 0)
                return r;
        if (!old && map_size(&set->port_groups) >= VSWITCH_MAX_PORT_GROUPS)
                return error_set(ret_error, ERROR_TOO_LARGE, "Remove one that is not used.",
                        "this host has %d port groups already", VSWITCH_MAX_PORT_GROUPS);
        moved = old && (strcmp(old->vswitch, now->vswitch) || old->vlan != now->vlan);
        if (moved) {
                r = check_group_unused(set, name, ret_error);
                if (r < 0)
                        return r;
        }
        r = apply_port_group(set, now, ret_error);
        if (r < 0)
                return r;
        if (map_put(&set->port_groups, name, now, &replaced) < 0) {
                if (!old)
                        (void)unrealise_port_group(set, now, NULL);
                return error_from_errno(ret_error, ENOMEM, "cannot take in the port group");
        }
        TAKE_PTR(now);
        if (moved && unrealise_port_group(set, replaced, NULL) < 0)
                log_warning("port group %s: the bridge of its former VLAN could not be removed", name);
        port_group_free(replaced);
        return 0;
}

int vswitch_set_remove_port_group(struct vswitch_set *set, const char *name, struct error **ret_error)
{
        struct port_group *group = map_get(&set->port_groups, name);
        int r;

        if (!group)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "this host has no such port group");
        r = check_group_unused(set, name, ret_error);
        if (!r)
                r = unrealise_port_group(set, group, ret_error);
        if (r < 0)
                return r;
        port_group_free(map_remove(&set->port_groups, name));
        return 0;
}

static bool is_running(struct vswitch_set *set, const char *interface)
{
        struct netlink_link link;

        return !netlink_get_link(set->netlink, interface, &link) && link.running;
}

/* Of its uplink, or one of them; true without one. */
static bool has_carrier(struct vswitch_set *set, const struct vswitch *sw)
{
        const json_t *uplinks = sw->distributed ? distributed_uplinks(sw->distributed) : NULL;

        for (size_t i = 0; i < json_array_size(uplinks); i++)
                if (is_running(set, json_string_value(json_array_get(uplinks, i))))
                        return true;
        return !json_array_size(uplinks) && (!sw->uplink || is_running(set, sw->uplink));
}

static void fill_port_group(const struct vswitch_set *set, const struct port_group *group,
        const struct vswitch *sw, struct vswitch_port_group *ret_port_group)
{
        *ret_port_group = (struct vswitch_port_group){
                .mtu = sw->mtu, .vlan = group->vlan, .ovs = sw->distributed ? set->ovs : NULL};
        memcpy(ret_port_group->bridge, group->bridge, sizeof(ret_port_group->bridge));
        memcpy(ret_port_group->station, group->bridge, sizeof(ret_port_group->station));
        if (sw->distributed)
                ifname_station(sw->name, group->vlan, ret_port_group->station);
}

int vswitch_set_find_port_group(struct vswitch_set *set, const char *name,
        struct vswitch_port_group *ret_port_group, struct error **ret_error)
{
        struct port_group *group = map_get(&set->port_groups, name);
        int r;

        if (!group)
                return error_set(ret_error, ERROR_NOT_FOUND, "Add it to this host, or choose another one.",
                        "this host has no port group %s", name);
        r = apply_port_group(set, group, ret_error);
        if (r == 0)
                fill_port_group(set, group, map_get(&set->switches, group->vswitch), ret_port_group);
        return r;
}

int vswitch_set_look_up_port_group(
        const struct vswitch_set *set, const char *name, struct vswitch_port_group *ret_port_group)
{
        const struct port_group *group = map_get(&set->port_groups, name);
        const struct vswitch *sw = group ? map_get(&set->switches, group->vswitch) : NULL;

        if (!sw || !group->realised)
                return -ENOENT;
        fill_port_group(set, group, sw, ret_port_group);
        return 0;
}

/* Documents out */

/* Takes over both; NULL if either is. */
static json_t *with_item(json_t *array, json_t *item)
{
        if (array && item && !json_array_append_new(array, item))
                return array;
        if (!array)
                json_decref(item);
        json_decref(array);
        return NULL;
}

static json_t *switch_document(const struct vswitch *sw)
{
        json_t *mtu = sw->wanted_mtu ? json_integer(sw->wanted_mtu) : json_null(), *document;

        if (!sw->distributed)
                return json_pack("{s:s, s:s?, s:o}", "name", sw->name, "uplink", sw->uplink, "mtu", mtu);
        document = json_pack("{s:s, s:o}", "name", sw->name, "mtu", mtu);
        if (document && distributed_describe(sw->distributed, document) < 0) {
                json_decref(document);
                return NULL;
        }
        return document;
}

json_t *vswitch_set_to_json(const struct vswitch_set *set)
{
        json_t *switches = json_array(), *groups = json_array();
        struct map_item *item, *spare;

        map_for_each (item, spare, &set->switches) {
                const struct vswitch *sw = item->value;

                switches = with_item(switches, switch_document(sw));
        }
        map_for_each (item, spare, &set->port_groups) {
                const struct port_group *group = item->value;

                groups = with_item(groups, json_pack("{s:s, s:s, s:i}", "name", group->name, "switch",
                                                   group->vswitch, "vlan", group->vlan));
        }
        if (!switches || !groups) {
                json_decref(switches);
                json_decref(groups);
                return NULL;
        }
        return json_pack("{s:i, s:o, s:o}", "format", FORMAT, "switches", switches, "port_groups", groups);
}

/* On the switch's bridge and on those of its VLANs. */
static json_t *foreign_macs_of(
        const struct vswitch_set *set, const struct vswitch *sw, const struct foreign_macs *macs)
{
        _cleanup_free_ const char **bridges = alloc_array(map_size(&set->port_groups) + 1, sizeof(*bridges));
        struct map_item *item, *spare;
        size_t n = 0;

        if (!bridges)
                return NULL;
        bridges[n++] = sw->bridge;
        map_for_each (item, spare, &set->port_groups) {
                const struct port_group *group = item->value;

                if (!strcmp(group->vswitch, sw->name) && group->vlan)
                        bridges[n++] = group->bridge;
        }
        return foreign_macs_on(macs, bridges, n, sw->uplink);
}

/* "eth1, eth2"; NULL without any, or memory. The caller frees it. */
static char *uplinks_text(const struct vswitch *sw)
{
        const json_t *uplinks = sw->distributed ? distributed_uplinks(sw->distributed) : NULL;
        char *text = sw->uplink ? alloc_strdup(sw->uplink) : NULL;

        for (size_t i = 0; i < json_array_size(uplinks); i++) {
                char *longer = alloc_printf("%s%s%s", text ?: "", text ? ", " : "",
                        json_string_value(json_array_get(uplinks, i)));

                free(text);
                text = longer;
        }
        return text;
}

/* macs, learned: of standard and of distributed switches; NULL: they are not known. */
static json_t *switch_status(struct vswitch_set *set, const struct vswitch *sw,
        const struct foreign_macs *macs, const json_t *learned)
{
        _cleanup_free_ char *cut = NULL, *uplinks = uplinks_text(sw);
        bool carrier = has_carrier(set, sw), several = uplinks && strchr(uplinks, ',');
        const char *message = sw->problem;
        json_t *status;

        if (!carrier && !message) {
                cut = several ? alloc_printf("none of the uplinks %s has a carrier", uplinks)
                              : alloc_printf("the uplink %s has no carrier", uplinks);
                message = cut ?: "the uplink has no carrier";
        }
        status = json_pack("{s:s, s:s?, s:i, s:s, s:b, s:b, s:b, s:s?, s:o*}", "name", sw->name, "uplink",
                uplinks, "mtu", sw->mtu ?: sw->wanted_mtu, "bridge", sw->bridge, "realised", !sw->problem,
                "carrier", carrier, "ok", !message, "message", message, "foreign_macs",
                sw->distributed ? json_incref(json_object_get(learned, sw->name))
                : macs          ? foreign_macs_of(set, sw, macs)
                                : NULL);
        if (status && sw->distributed && distributed_add_status(sw->distributed, status) < 0) {
                json_decref(status);
                return NULL;
        }
        return status;
}

/* NULL: they cannot be read now, and are left out. */
static struct foreign_macs *read_foreign_macs(struct vswitch_set *set)
{
        struct foreign_macs *macs = NULL;
        int r = foreign_macs_read(set->netlink, &macs);

        if (r < 0)
                log_warning("the addresses that the switches know cannot be read: %s", strerror(-r));
        return macs;
}

json_t *vswitch_set_switch_status(struct vswitch_set *set, const char *name)
{
        const struct vswitch *sw = map_get(&set->switches, name);

        return sw ? switch_status(set, sw, NULL, NULL) : NULL;
}

json_t *vswitch_set_port_group_status(struct vswitch_set *set, const char *name)
{
        const struct port_group *group = map_get(&set->port_groups, name);

        if (!group)
                return NULL;
        return json_pack("{s:s, s:s, s:i, s:s, s:b, s:s?}", "name", group->name, "switch", group->vswitch,
                "vlan", group->vlan, "bridge", group->bridge, "ok", !group->problem, "message",
                group->problem);
}

json_t *vswitch_set_distributed_bridges(const struct vswitch_set *set)
{
        _cleanup_json_ json_t *bridges = json_object();
        struct map_item *item, *spare;

        if (!bridges)
                return NULL;
        map_for_each (item, spare, &set->switches) {
                const struct vswitch *sw = item->value;

                if (sw->distributed && set->ovs && !sw->problem &&
                        json_object_set_new(bridges, sw->name, json_string(sw->bridge)) < 0)
                        return NULL;
        }
        return TAKE_PTR(bridges);
}

json_t *vswitch_set_list_switches(struct vswitch_set *set, const json_t *learned)
{
        _cleanup_(foreign_macs_freep) struct foreign_macs *macs = read_foreign_macs(set);
        struct map_item *item, *spare;
        json_t *list = json_array();

        map_for_each (item, spare, &set->switches)
                list = with_item(list, switch_status(set, item->value, macs, learned));
        return list;
}

json_t *vswitch_set_list_port_groups(struct vswitch_set *set)
{
        struct map_item *item, *spare;
        json_t *list = json_array();

        map_for_each (item, spare, &set->port_groups)
                list = with_item(list, vswitch_set_port_group_status(set, item->key));
        return list;
}

/* Loading */

static int load_switch(struct vswitch_set *set, const json_t *document, struct error **ret_error)
{
        _cleanup_(vswitch_freep) struct vswitch *sw = NULL;
        const char *name;
        void *replaced;
        int r = doc_need_string(document, "switch", "name", NAME_MAX_CHARS, &name, ret_error);

        if (!r)
                r = parse_switch(name, document, &sw, ret_error);
        if (r < 0)
                return r;
        if (map_put(&set->switches, name, sw, &replaced) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot take in the switch");
        TAKE_PTR(sw);
        vswitch_free(replaced);
        return 0;
}

static int load_port_group(struct vswitch_set *set, const json_t *document, struct error **ret_error)
{
        _cleanup_(port_group_freep) struct port_group *group = NULL;
        const char *name;
        void *replaced;
        int r = doc_need_string(document, "port group", "name", NAME_MAX_CHARS, &name, ret_error);

        if (!r)
                r = parse_port_group(name, document, &group, ret_error);
        if (r < 0)
                return r;
        if (map_put(&set->port_groups, name, group, &replaced) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot take in the port group");
        TAKE_PTR(group);
        port_group_free(replaced);
        return 0;
}

int vswitch_set_load(struct vswitch_set *set, const json_t *desired, struct error **ret_error)
{
        static const char *const keys[] = {"format", "switches", "port_groups", NULL};
        json_t *switches = NULL, *groups = NULL, *document;
        uint64_t format;
        size_t i;
        int r;

        r = doc_only_keys(desired, "networks", keys, ret_error);
        if (!r)
                r = doc_need_u64(desired, "networks", "format", FORMAT, FORMAT, &format, ret_error);
        if (!r)
                r = doc_opt_array(
                        desired, "networks", "switches", VSWITCH_MAX_SWITCHES, &switches, ret_error);
        if (!r)
                r = doc_opt_array(
                        desired, "networks", "port_groups", VSWITCH_MAX_PORT_GROUPS, &groups, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (switches, i, document) {
                r = load_switch(set, document, ret_error);
                if (r < 0)
                        return r;
        }
        json_array_foreach (groups, i, document) {
                r = load_port_group(set, document, ret_error);
                if (r < 0)
                        return r;
        }
        vswitch_set_apply(set);
        return 0;
}

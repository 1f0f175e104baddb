/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about the VM's network cards: port group there, its switch working and connected, configured as it should be,
 * and nobody else with their MAC addresses. */

#include <errno.h>
#include <string.h>

#include "base/mac.h"
#include "cluster/check.h"

static json_t *nics_of(const json_t *vm)
{
        return json_object_get(json_object_get(vm, "spec"), "nics");
}

/* A NIC of the VM, and what the host has of its port group. */
struct port {
        const char *name;    /* of the port group */
        const json_t *group; /* as the host reports it; NULL: it has none */
        const char *switch_name;
        const json_t *its_switch; /* likewise */
};

static struct port port_on(const json_t *host_status, const json_t *nic)
{
        const char *name = check_text(nic, "port_group");
        const json_t *group = check_named(json_object_get(host_status, "port_groups"), name);
        const char *switch_name = check_text(group, "switch");

        return (struct port){.name = name,
                .group = group,
                .switch_name = switch_name,
                .its_switch = check_named(json_object_get(host_status, "switches"), switch_name)};
}

static bool is_first_of_its_group(const json_t *nics, size_t at)
{
        const char *name = check_text(json_array_get(nics, at), "port_group");

        for (size_t i = 0; i < at; i++)
                if (!strcmp(check_text(json_array_get(nics, i), "port_group"), name))
                        return false;
        return true;
}

/* Each port group of the VM once, as the destination has it. */
static void each_port(struct check *check, void (*fn)(struct check *check, const struct port *port))
{
        json_t *nics = json_object_get(check->spec, "nics"), *nic;
        size_t i;

        json_array_foreach (nics, i, nic) {
                struct port port = port_on(check->host, nic);

                if (is_first_of_its_group(nics, i))
                        fn(check, &port);
        }
}

static void tell_group(struct check *check, const struct port *port)
{
        const char *message = check_text(port->group, "message");

        if (json_is_false(json_object_get(port->group, "ok")) &&
                json_is_true(json_object_get(port->its_switch, "ok")))
                check_broken(check, port->name, NULL, "the port group %s does not work on host %s: %s",
                        port->name, check->host_name, *message ? message : "no reason given");
        else
                check_tell(check, port->name, !port->group, "host %s does not have the port group %s",
                        check->host_name, port->name);
}

void check_network_port_groups(struct check *check)
{
        each_port(check, tell_group);
}

/* The switch is there, and its uplink has no link. Agents of before only say that the one or the other is so. */
static bool lost_carrier(const struct port *port)
{
        return json_is_false(json_object_get(port->its_switch, "carrier")) &&
               !json_is_false(json_object_get(port->its_switch, "realised"));
}

static void tell_switch(struct check *check, const struct port *port)
{
        const char *message = check_text(port->its_switch, "message");
        bool fails = json_is_false(json_object_get(port->its_switch, "ok")) && !lost_carrier(port);

        if (port->group)
                check_tell(check, port->switch_name, !port->its_switch || fails,
                        "the switch %s of port group %s does not work on host %s: %s", port->switch_name,
                        port->name, check->host_name, *message ? message : "it is not there");
}

void check_network_switches(struct check *check)
{
        each_port(check, tell_switch);
}

static void tell_uplink(struct check *check, const struct port *port)
{
        const char *uplink = check_text(port->its_switch, "uplink");

        if (port->its_switch && *uplink)
                check_tell(check, port->switch_name, lost_carrier(port),
                        "the uplink %s of switch %s has no carrier on host %s, so port group %s leads "
                        "nowhere",
                        uplink, port->switch_name, check->host_name, port->name);
}

void check_network_uplinks(struct check *check)
{
        each_port(check, tell_uplink);
}

/* What the host said when it was applied last, as ": MESSAGE", or "". */
static char *excuse(const struct check *check, const json_t *wanted)
{
        const json_t *hosts = json_object_get(check_status(wanted), "hosts");
        const char *message = check_text(json_object_get(hosts, check->host_name), "message");

        return *message ? alloc_printf(" (%s)", message) : alloc_strdup("");
}

/* The uplink that a host should have: "" for none. */
static const char *wanted_uplink(const json_t *switch_spec, const char *host_name)
{
        const json_t *own = json_object_get(json_object_get(switch_spec, "uplinks"), host_name);

        return own ? (json_string_value(own) ?: "") : check_text(switch_spec, "uplink");
}

static bool is_distributed(const json_t *its_switch)
{
        return !strcmp(check_text(its_switch, "type"), "distributed");
}

/* By version: what a host of an older version should have is not what is in the document now. */
static char *version_difference(const struct check *check, const struct port *port, const json_t *wanted)
{
        const json_t *wanted_versions = json_object_get(check_status(wanted), "wanted");
        json_int_t should = json_integer_value(json_object_get(wanted_versions, check->host_name));
        json_int_t has = json_integer_value(json_object_get(port->its_switch, "version"));

        return should > 0 && has != should
                       ? alloc_printf("the switch %s on host %s has version %lld, and %lld is configured",
                                 port->switch_name, check->host_name, (long long)has, (long long)should)
                       : NULL;
}

static char *switch_difference(const struct check *check, const struct port *port, const json_t *wanted)
{
        const json_t *spec = json_object_get(wanted, "spec"), *mtu = json_object_get(spec, "mtu");
        json_int_t has_mtu = json_integer_value(json_object_get(port->its_switch, "mtu"));
        const char *uplink = wanted_uplink(spec, check->host_name),
                   *has = check_text(port->its_switch, "uplink");

        if (is_distributed(port->its_switch))
                return version_difference(check, port, wanted);
        if (strcmp(uplink, has))
                return alloc_printf("the switch %s on host %s has the uplink %s, and %s is configured",
                        port->switch_name, check->host_name, *has ? has : "none", *uplink ? uplink : "none");
        if (json_is_integer(mtu) && json_integer_value(mtu) != has_mtu)
                return alloc_printf("the switch %s on host %s has MTU %lld, and %lld is configured",
                        port->switch_name, check->host_name, (long long)has_mtu,
                        (long long)json_integer_value(mtu));
        return NULL;
}

static char *group_difference(const struct check *check, const struct port *port, const json_t *wanted)
{
        const json_t *spec = json_object_get(wanted, "spec");
        const char *own = check_text(json_object_get(spec, "switches"), check->host_name),
                   *its_switch = *own ? own : check_text(spec, "switch");
        long long has = json_integer_value(json_object_get(port->group, "vlan"));
        long long should = json_integer_value(json_object_get(spec, "vlan"));

        if (strcmp(its_switch, port->switch_name))
                return alloc_printf("the port group %s on host %s is on switch %s, and %s is configured",
                        port->name, check->host_name, port->switch_name, its_switch);
        if (has != should)
                return alloc_printf("the port group %s on host %s has VLAN %lld, and %lld is configured",
                        port->name, check->host_name, has, should);
        return NULL;
}

static void tell_applied(struct check *check, const struct port *port)
{
        const json_t *group = check_named(check->input->port_groups, port->name);
        const json_t *its_switch = check_named(check->input->switches, port->switch_name);
        _cleanup_free_ char *difference = NULL, *why = NULL;

        if (!port->group || (!group && !its_switch))
                return;
        difference = group ? group_difference(check, port, group) : NULL;
        if (!difference && its_switch && port->its_switch) {
                difference = switch_difference(check, port, its_switch);
                group = its_switch;
        }
        why = difference ? excuse(check, group) : NULL;
        check_tell(check, port->name, difference != NULL, "%s%s", difference ?: "", why ?: "");
}

void check_network_applied(struct check *check)
{
        each_port(check, tell_applied);
}

static void tell_mtu(struct check *check, const struct port *there)
{
        json_t *nic = json_pack("{s:s}", "port_group", there->name);
        struct port here = port_on(check_status(check->input->source), nic);
        json_int_t mtu_here = json_integer_value(json_object_get(here.its_switch, "mtu"));
        json_int_t mtu_there = json_integer_value(json_object_get(there->its_switch, "mtu"));

        if (mtu_here > 0 && mtu_there > 0)
                check_tell(check, there->name, mtu_there < mtu_here,
                        "the port group %s has MTU %lld on host %s and %lld on host %s: larger packets of "
                        "the guest "
                        "would be lost",
                        there->name, (long long)mtu_here, check_text(check->input->source, "name"),
                        (long long)mtu_there, check->host_name);
        json_decref(nic);
}

void check_network_mtu(struct check *check)
{
        each_port(check, tell_mtu);
}

/* The same port group where the VM is now. */
static struct port here(const struct check *check, const struct port *there)
{
        json_t *nic = json_pack("{s:s}", "port_group", there->name);
        struct port port = port_on(check_status(check->input->source), nic);

        json_decref(nic);
        port.name = there->name; /* the other one went with the NIC */
        return port;
}

static void tell_type(struct check *check, const struct port *there)
{
        struct port at_source = here(check, there);
        const json_t *group = check_named(check->input->port_groups, there->name);
        bool allowed = json_is_true(json_object_get(json_object_get(group, "spec"), "allow_standard"));

        if (there->its_switch)
                check_tell(check, there->name,
                        is_distributed(at_source.its_switch) && !is_distributed(there->its_switch) &&
                                !allowed,
                        "the port group %s is on the distributed switch %s on host %s, and on the standard "
                        "switch %s on host %s",
                        there->name, at_source.switch_name, check_text(check->input->source, "name"),
                        there->switch_name, check->host_name);
}

void check_network_switch_type(struct check *check)
{
        each_port(check, tell_type);
}

static void tell_version(struct check *check, const struct port *there)
{
        struct port at_source = here(check, there);
        json_int_t version_here = json_integer_value(json_object_get(at_source.its_switch, "version"));
        json_int_t version_there = json_integer_value(json_object_get(there->its_switch, "version"));

        if (version_here > 0 && version_there > 0 && !strcmp(at_source.switch_name, there->switch_name))
                check_tell(check, there->switch_name, version_here != version_there,
                        "the distributed switch %s has version %lld on host %s and %lld on host %s",
                        there->switch_name, (long long)version_here, check_text(check->input->source, "name"),
                        (long long)version_there, check->host_name);
}

void check_network_switch_version(struct check *check)
{
        each_port(check, tell_version);
}

static void tell_drift(struct check *check, const struct port *port)
{
        const json_t *drift = json_object_get(port->its_switch, "drift");
        const char *first = json_string_value(json_array_get(drift, 0));

        if (is_distributed(port->its_switch))
                check_tell(check, port->switch_name, first != NULL,
                        "the distributed switch %s on host %s is not as configured: %s", port->switch_name,
                        check->host_name, first ? first : "");
}

void check_network_drift(struct check *check)
{
        each_port(check, tell_drift);
}

/* Lower case with ':', as documents have it once they were checked; false for what is no MAC address. */
static bool normal_mac(const char *text, char ret[static MAC_STRING_SIZE])
{
        uint8_t mac[MAC_SIZE];

        if (mac_parse(text, mac) < 0)
                return false;
        mac_format(mac, ret);
        return true;
}

/* Once through all VMs, however many hosts are looked at. */
int check_network_prepare(struct checks *checks)
{
        json_t *vm, *nic, *mine = json_object();
        char mac[MAC_STRING_SIZE];
        size_t i, k;

        checks->mac_owners = mine;
        if (!mine)
                return -ENOMEM;
        json_array_foreach (nics_of(checks->input.vm), i, nic)
                if (normal_mac(check_text(nic, "mac"), mac) &&
                        json_object_set_new(mine, mac, json_null()) < 0)
                        return -ENOMEM;
        json_array_foreach ((json_t *)checks->input.vms, i, vm) {
                if (!strcmp(check_text(vm, "uid"), check_text(checks->input.vm, "uid")))
                        continue;
                json_array_foreach (nics_of(vm), k, nic)
                        if (normal_mac(check_text(nic, "mac"), mac) &&
                                json_is_null(json_object_get(mine, mac)) &&
                                json_object_set_new(mine, mac, json_string(check_text(vm, "name"))) < 0)
                                return -ENOMEM;
        }
        return 0;
}

void check_network_macs(struct check *check)
{
        const char *mac;
        json_t *owner;

        json_object_foreach (check->checks->mac_owners, mac, owner)
                check_tell(check, mac, json_is_string(owner),
                        "the MAC address %s is also that of the virtual machine %s", mac,
                        json_string_value(owner) ?: "");
}

/* {"mac", "port"} that the switches of the host see, or are, and that drover did not put there. */
static const json_t *foreign(const json_t *host_status, const char *mac)
{
        json_t *its_switch, *item;
        size_t i, k;

        json_array_foreach (json_object_get(host_status, "switches"), i, its_switch)
                json_array_foreach (json_object_get(its_switch, "foreign_macs"), k, item)
                        if (!strcmp(check_text(item, "mac"), mac))
                                return item;
        return NULL;
}

void check_network_foreign_macs(struct check *check)
{
        const char *mac;
        json_t *owner;

        json_object_foreach (check->checks->mac_owners, mac, owner) {
                const json_t *found = foreign(check->host, mac);

                check_tell(check, mac, found != NULL,
                        "the MAC address %s is in use on host %s, at %s, by something that is not drover's",
                        mac, check->host_name, check_text(found, "port"));
        }
}

/* --- What migrations may count on -------------------------------------------------------------------------------------- */

#define UNKNOWN_LINK_BPS UINT64_C(1000000000)
#define LINK_MAX_BPS (json_int_t)1000000000000000 /* whatever an agent claims */

/* True for "192.0.2.1" in "192.0.2.1:8444", "192.0.2.1, 192.0.2.2", "[2001:db8::1]:8444". */
static bool has_address(const char *list, const char *address)
{
        size_t n = strlen(address);

        for (const char *at = strstr(list, address); n && at; at = strstr(at + 1, address)) {
                bool begins = at == list || strchr(", [", at[-1]);
                bool ends = !at[n] || strchr(", ]", at[n]) || (at[n] == ':' && !strchr(address, ':'));

                if (begins && ends)
                        return true;
        }
        return false;
}

uint64_t checks_link_bps(const json_t *host)
{
        const json_t *spec = json_object_get(host, "spec"), *status = check_status(host);
        const char *used = check_text(spec, "migration_address");
        json_t *link;
        uint64_t sum = 0;
        size_t i;

        if (!*used)
                used = check_text(status, "migration_address");
        if (!*used)
                used = check_text(spec, "address");
        json_array_foreach (json_object_get(status, "links"), i, link)
                if (has_address(used, check_text(link, "address")))
                        sum += (uint64_t)CLAMP(json_integer_value(json_object_get(link, "speed_bps")),
                                (json_int_t)0, LINK_MAX_BPS);
        return sum;
}

uint64_t checks_promised_bps(const json_t *host)
{
        return checks_link_bps(host) ?: UNKNOWN_LINK_BPS;
}

static void tell_bandwidth(struct check *check, const json_t *host)
{
        uint64_t wanted = check->input->min_bandwidth_bps, has = checks_promised_bps(host);
        const char *name = check_text(host, "name");

        check_tell(check, name, wanted > has,
                "%.4g Gbit/s were asked for, and the link of host %s carries %.4g Gbit/s%s",
                (double)wanted / 1e9, name, (double)has / 1e9,
                checks_link_bps(host) ? "" : " (assumed: its interface does not say)");
}

/* A promise that no waiting makes possible. */
void check_network_bandwidth(struct check *check)
{
        if (!check->input->min_bandwidth_bps)
                return;
        if (*check_text(check->input->source, "uid"))
                tell_bandwidth(check, check->input->source);
        tell_bandwidth(check, check->target);
}

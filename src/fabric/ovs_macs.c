/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs_macs.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/mac.h"
#include "base/text.h"
#include "fabric/foreign_macs.h"
#include "fabric/ovs_plan.h"

#define N_FIELDS 4
#define FIELD_MAX 24

struct entry {
        char fields[N_FIELDS][FIELD_MAX]; /* port, VLAN, MAC, age */
};

/* One line of blank-separated fields. */
static bool read_line(const char *line, size_t len, struct entry *entry)
{
        size_t n = 0, at = 0;

        while (at < len && n < N_FIELDS) {
                size_t end;

                while (at < len && line[at] == ' ')
                        at++;
                for (end = at; end < len && line[end] != ' ';)
                        end++;
                if (end == at)
                        break;
                if (end - at >= FIELD_MAX)
                        return false;
                snprintf(entry->fields[n++], FIELD_MAX, "%.*s", (int)(end - at), line + at);
                at = end;
        }
        return n == N_FIELDS;
}

static int append(json_t *macs, const uint8_t mac[static MAC_SIZE], const char *port)
{
        _cleanup_json_ json_t *item = NULL;
        char text[MAC_STRING_SIZE];
        json_t *before;
        size_t i;

        item = json_pack("{s:s, s:s}", "mac", mac_format(mac, text), "port", port);
        if (!item)
                return -ENOMEM;
        json_array_foreach (macs, i, before)
                if (json_equal(before, item))
                        return 0; /* in another VLAN */
        if (json_array_size(macs) >= FOREIGN_MACS_MAX)
                return 0;
        return json_array_append(macs, item) < 0 ? -ENOMEM : 0;
}

/* Behind it is somebody on this host who is not drover's. */
static bool is_foreign(const struct ovs_view *view, const json_t *port)
{
        const struct netlink_link *link = ovs_view_link(view, ovs_row_text(port, "name"));

        if (!link || *ovs_row_id(port, OVS_ID_UPLINK) || *ovs_row_id(port, OVS_ID_GROUP) ||
                *ovs_row_id(port, OVS_ID_STATION))
                return false;
        return !strcmp(link->kind, "tun") || !strcmp(link->kind, "veth") ||
               !strcmp(link->kind, "openvswitch");
}

/* The address was learned at the port with this number. "LOCAL" is the bridge's own. */
static bool is_at(const struct ovs_view *view, const json_t *port, const char *bridge, const char *number)
{
        const json_t *interface = ovs_view_row(view->interfaces, json_object_get(port, "interfaces"), 0);
        json_int_t ofport = json_integer_value(json_array_get(json_object_get(interface, "ofport"), 0));
        uint64_t wanted;

        if (!strcmp(number, "LOCAL"))
                return !strcmp(ovs_row_text(port, "name"), bridge);
        return text_parse_u64(number, 1, 65279, &wanted) == 0 && ofport == (json_int_t)wanted;
}

static int add_learned(
        const struct ovs_view *view, const json_t *port, const char *bridge, const char *table, json_t *macs)
{
        while (*table) {
                size_t len = strcspn(table, "\n");
                struct entry entry;
                uint8_t mac[MAC_SIZE];

                if (read_line(table, len, &entry) && is_at(view, port, bridge, entry.fields[0]) &&
                        mac_parse(entry.fields[2], mac) == 0 &&
                        append(macs, mac, ovs_row_text(port, "name")) < 0)
                        return -ENOMEM;
                table += len + (table[len] == '\n');
        }
        return 0;
}

int ovs_macs_foreign(const struct ovs_view *view, const char *bridge, const char *table, json_t **ret_macs)
{
        const json_t *row = ovs_view_bridge(view, bridge), *ports = json_object_get(row, "ports");
        /* Which port of an adopted bridge is its way out is not known: what was learned there may be anywhere in the network. */
        bool adopted = !*ovs_row_id(row, OVS_ID_SWITCH);
        _cleanup_json_ json_t *macs = json_array();

        for (size_t i = 0; macs && i < json_array_size(ports); i++) {
                const json_t *port = ovs_view_row(view->ports, ports, i);

                if (!is_foreign(view, port))
                        continue;
                if (append(macs, ovs_view_link(view, ovs_row_text(port, "name"))->mac,
                            ovs_row_text(port, "name")) < 0 ||
                        (!adopted && add_learned(view, port, bridge, table, macs) < 0))
                        return -ENOMEM;
        }
        *ret_macs = TAKE_PTR(macs);
        return *ret_macs ? 0 : -ENOMEM;
}

bool ovs_macs_find_port(const struct ovs_view *view, const char *bridge, const char *table,
        const uint8_t mac[static 6], char ret_port[static IFNAMSIZ])
{
        _cleanup_json_ json_t *macs = NULL;
        char wanted[MAC_STRING_SIZE];
        json_t *item;
        size_t i;

        if (ovs_macs_foreign(view, bridge, table, &macs) < 0)
                return false;
        mac_format(mac, wanted);
        json_array_foreach (macs, i, item) {
                if (strcmp(json_string_value(json_object_get(item, "mac")), wanted) != 0)
                        continue;
                snprintf(ret_port, IFNAMSIZ, "%s", json_string_value(json_object_get(item, "port")));
                return true;
        }
        return false;
}

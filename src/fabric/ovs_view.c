/* SPDX-License-Identifier: Apache-2.0 */
#include "fabric/ovs_view.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"

#define COLUMNS_MAX 9

enum table { TABLE_ROOT, TABLE_BRIDGE, TABLE_PORT, TABLE_INTERFACE, N_TABLES };

static const struct {
        const char *name;
        const char *plain[COLUMNS_MAX];
        const char *sets[COLUMNS_MAX];
} tables[N_TABLES] = {
        [TABLE_ROOT] = {"Open_vSwitch", {"other_config", "next_cfg", "cur_cfg"}, {"datapath_types"}},
        [TABLE_BRIDGE] = {"Bridge",
                {"_uuid", "name", "datapath_type", "stp_enable", "rstp_enable", "external_ids"},
                {"ports", "fail_mode", "controller"}},
        [TABLE_PORT] = {"Port", {"_uuid", "name", "external_ids"},
                {"interfaces", "tag", "trunks", "vlan_mode", "bond_mode", "lacp"}},
        [TABLE_INTERFACE] = {"Interface", {"_uuid", "name", "external_ids"},
                {"error", "ofport", "mtu_request"}},
};

static json_t *selection(enum table table)
{
        json_t *columns = json_array();
        int r = columns ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < COLUMNS_MAX && tables[table].plain[i]; i++)
                r = json_array_append_new(columns, json_string(tables[table].plain[i]));
        for (size_t i = 0; r == 0 && i < COLUMNS_MAX && tables[table].sets[i]; i++)
                r = json_array_append_new(columns, json_string(tables[table].sets[i]));
        if (r < 0) {
                json_decref(columns);
                return NULL;
        }
        return json_pack("{s:s, s:s, s:[], s:o}", "op", "select", "table", tables[table].name, "where",
                "columns", columns);
}

static json_t *selections(void)
{
        json_t *operations = json_array();

        for (enum table table = 0; operations && table < N_TABLES; table++)
                if (json_array_append_new(operations, selection(table)) < 0) {
                        json_decref(operations);
                        return NULL;
                }
        return operations;
}

/* In place. */
static int normalise(json_t *row, enum table table)
{
        static const char *const maps[] = {"external_ids", "other_config"};
        int r = 0;

        for (size_t i = 0; r == 0 && i < COLUMNS_MAX && tables[table].sets[i]; i++)
                r = json_object_set_new(row, tables[table].sets[i],
                        ovsdb_set_items(json_object_get(row, tables[table].sets[i])));
        for (size_t i = 0; r == 0 && i < ARRAY_SIZE(maps); i++)
                if (json_object_get(row, maps[i]))
                        r = json_object_set_new(
                                row, maps[i], ovsdb_map_object(json_object_get(row, maps[i])));
        return r;
}

/* {uuid: row}; NULL without memory. */
static json_t *by_uuid(const json_t *rows, enum table table)
{
        json_t *object = json_object(), *row;
        size_t i;

        json_array_foreach ((json_t *)rows, i, row) {
                const char *uuid = ovsdb_uuid(json_object_get(row, "_uuid"));

                if (json_is_object(row) && object &&
                        (normalise(row, table) < 0 || json_object_set(object, uuid, row) < 0)) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}

static int compare_links(const void *a, const void *b)
{
        const struct netlink_link *one = a, *other = b;

        return strcmp(one->name, other->name);
}

/* The caller's; NULL without memory. */
static json_t *by_name(const json_t *rows)
{
        json_t *object = json_object(), *row;
        const char *uuid;

        json_object_foreach ((json_t *)rows, uuid, row)
                if (object && json_object_set(object, ovs_row_text(row, "name"), row) < 0) {
                        json_decref(object);
                        return NULL;
                }
        return object;
}

static json_t *by_port(const json_t *bridges)
{
        json_t *object = json_object(), *bridge, *port;
        const char *uuid;
        size_t i;

        json_object_foreach ((json_t *)bridges, uuid, bridge)
                json_array_foreach (json_object_get(bridge, "ports"), i, port)
                        if (object && json_object_set(object, ovsdb_uuid(port), bridge) < 0) {
                                json_decref(object);
                                return NULL;
                        }
        return object;
}

static int make_indexes(struct ovs_view *view)
{
        view->ports_by_name = by_name(view->ports);
        view->interfaces_by_name = by_name(view->interfaces);
        view->bridges_by_port = by_port(view->bridges);
        return view->ports_by_name && view->interfaces_by_name && view->bridges_by_port ? 0 : -ENOMEM;
}

/* On failure part of it may be there. */
static int fill(struct ovs_view *view, struct ovsdb *db, struct netlink *netlink, struct error **ret_error)
{
        _cleanup_json_ json_t *results = NULL;
        json_t *root;
        int r = ovsdb_transact(db, selections(), &results, ret_error);

        if (r < 0)
                return r;
        root = json_array_get(json_object_get(json_array_get(results, TABLE_ROOT), "rows"), 0);
        if (!json_is_object(root))
                return error_set(ret_error, ERROR_PROTOCOL, "Initialise it: ovs-vsctl init.",
                        "the database of Open vSwitch at %s is empty", ovsdb_path(db));
        view->root = json_incref(root);
        view->bridges = by_uuid(json_object_get(json_array_get(results, TABLE_BRIDGE), "rows"), TABLE_BRIDGE);
        view->ports = by_uuid(json_object_get(json_array_get(results, TABLE_PORT), "rows"), TABLE_PORT);
        view->interfaces =
                by_uuid(json_object_get(json_array_get(results, TABLE_INTERFACE), "rows"), TABLE_INTERFACE);
        if (normalise(root, TABLE_ROOT) < 0 || !view->bridges || !view->ports || !view->interfaces ||
                make_indexes(view) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = netlink_list_links(netlink, &view->links, &view->n_links);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot list the network interfaces");
        if (view->n_links)
                qsort(view->links, view->n_links, sizeof(*view->links), compare_links);
        return 0;
}

int ovs_view_init(struct ovs_view *view, struct ovsdb *db, struct netlink *netlink, struct error **ret_error)
{
        struct ovs_view fresh = {0};
        int r = fill(&fresh, db, netlink, ret_error);

        if (r < 0)
                ovs_view_deinit(&fresh);
        else
                *view = fresh;
        return r;
}

void ovs_view_deinit(struct ovs_view *view)
{
        json_decref(view->root);
        json_decref(view->bridges);
        json_decref(view->ports);
        json_decref(view->interfaces);
        json_decref(view->ports_by_name);
        json_decref(view->interfaces_by_name);
        json_decref(view->bridges_by_port);
        free(view->links);
        *view = (struct ovs_view){0};
}

const char *ovs_row_text(const json_t *row, const char *column)
{
        return json_string_value(json_object_get(row, column)) ?: "";
}

const char *ovs_row_id(const json_t *row, const char *key)
{
        return ovs_row_text(json_object_get(row, "external_ids"), key);
}

const char *ovs_row_optional(const json_t *row, const char *column)
{
        return json_string_value(json_array_get(json_object_get(row, column), 0)) ?: "";
}

json_t *ovs_view_row(const json_t *rows, const json_t *references, size_t i)
{
        return json_object_get(rows, ovsdb_uuid(json_array_get(references, i)));
}

static json_t *bridge_of(const struct ovs_view *view, const json_t *port)
{
        return json_object_get(view->bridges_by_port, ovsdb_uuid(json_object_get(port, "_uuid")));
}

json_t *ovs_view_bridge(const struct ovs_view *view, const char *name)
{
        const char *uuid;
        json_t *row;

        json_object_foreach (view->bridges, uuid, row)
                if (!strcmp(ovs_row_text(row, "name"), name))
                        return row;
        return NULL;
}

json_t *ovs_view_port(const struct ovs_view *view, const char *name, json_t **ret_bridge)
{
        json_t *port = json_object_get(view->ports_by_name, name);

        if (ret_bridge)
                *ret_bridge = bridge_of(view, port);
        return port;
}

json_t *ovs_view_port_with(const struct ovs_view *view, const char *interface, json_t **ret_bridge)
{
        const char *uuid;
        json_t *port;

        json_object_foreach (view->ports, uuid, port) {
                const json_t *interfaces = json_object_get(port, "interfaces");

                for (size_t i = 0; i < json_array_size(interfaces); i++) {
                        if (strcmp(ovs_row_text(ovs_view_row(view->interfaces, interfaces, i), "name"),
                                    interface))
                                continue;
                        *ret_bridge = bridge_of(view, port);
                        return port;
                }
        }
        return NULL;
}

json_t *ovs_view_interface(const struct ovs_view *view, const char *name)
{
        return json_object_get(view->interfaces_by_name, name);
}

const struct netlink_link *ovs_view_link(const struct ovs_view *view, const char *name)
{
        struct netlink_link wanted = {0};

        snprintf(wanted.name, sizeof(wanted.name), "%s", name);
        return view->n_links && strlen(name) < sizeof(wanted.name)
                       ? bsearch(&wanted, view->links, view->n_links, sizeof(*view->links), compare_links)
                       : NULL;
}

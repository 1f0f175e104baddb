/* SPDX-License-Identifier: Apache-2.0 */

/* Datastores, switches and port groups: objects that are realised on hosts. One mechanism for the three: the object is
 * stored at once, a task applies it. */

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "cluster/checks.h"
#include "manager/api.h"
#include "manager/datastores.h"
#include "manager/json.h"
#include "manager/manager.h"
#include "manager/switch_versions.h"

#define PATH_MAX_CHARS 1024
#define INTERFACE_MAX 15 /* IFNAMSIZ without the NUL */
#define UPLINKS_MAX 8    /* of a distributed switch */
#define UPLINKS_TEXT_MAX (UPLINKS_MAX * (INTERFACE_MAX + 1))
#define HOSTS_MAX 5000
#define OVERCOMMIT_MIN 0.1
#define OVERCOMMIT_MAX 1000.0

struct realised {
        const char *kind;
        const char *apply;
        const char *remove;
        /* Checks a spec and gives it its usual form (in place). */
        int (*check)(struct manager *manager, json_t *spec, struct error **ret_error);
        /* Says who needs the object: 0, or CONFLICT. */
        int (*unused)(struct manager *manager, const char *name, struct error **ret_error);
        /* The document (new) as it is shown; NULL: as it is in the store. */
        json_t *(*live)(struct manager *manager, const json_t *doc);
};

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
}

/* Sets `key` unless the spec has it; `value` is taken over. */
static int set_default(json_t *spec, const char *key, json_t *value, struct error **ret_error)
{
        if (json_object_get(spec, key)) {
                json_decref(value);
                return 0;
        }
        return json_object_set_new(spec, key, value) < 0 ? no_memory(ret_error) : 0;
}

static bool is_path(const char *path)
{
        return path[0] == '/' && (!path[1] || text_is_relative_path(path + 1));
}

static bool is_interface(const char *name)
{
        return text_is_name(name) && strlen(name) <= INTERFACE_MAX;
}

/* An object whose values are texts (or null) that `is` accepts. */
static int check_map(const json_t *spec, const char *key, bool (*is)(const char *), const char *what,
        struct error **ret_error)
{
        json_t *map = NULL, *value;
        const char *host;
        int r;

        r = doc_opt_object(spec, "spec", key, &map, ret_error);
        if (r < 0)
                return r;
        json_object_foreach (map, host, value)
                if (!text_is_name(host) ||
                        (!json_is_null(value) && (!json_is_string(value) || !is(json_string_value(value)))))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "field spec.%s.%.64s must be %s", key, host, what);
        return 0;
}

static int check_hosts(const json_t *spec, struct error **ret_error)
{
        json_t *hosts = NULL, *host;
        size_t i;
        int r = doc_opt_array(spec, "spec", "hosts", HOSTS_MAX, &hosts, ret_error);

        if (r < 0)
                return r;
        json_array_foreach (hosts, i, host)
                if (!text_is_name(json_string_value(host)))
                        return error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                                "field spec.hosts[%zu] must be a name", i);
        return 0;
}

/* How many times the capacity may be promised; absent or null: any number of times. */
static int check_overcommit(const json_t *spec, struct error **ret_error)
{
        const json_t *ratio = json_object_get(spec, "overcommit");

        if (!ratio || json_is_null(ratio) ||
                (json_is_number(ratio) && json_number_value(ratio) >= OVERCOMMIT_MIN &&
                        json_number_value(ratio) <= OVERCOMMIT_MAX))
                return 0;
        return error_set(ret_error, ERROR_BAD_DOCUMENT, "null sets no limit.",
                "field spec.overcommit must be a number from %.1f to %.0f, or null", OVERCOMMIT_MIN,
                OVERCOMMIT_MAX);
}

static int check_datastore(struct manager *manager, json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"path", "shared", "paths", "hosts", "overcommit", NULL};
        const char *path = NULL;
        bool shared;
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(spec, "spec", "path", PATH_MAX_CHARS, &path, ret_error);
        if (r >= 0 && !is_path(path))
                r = error_set(
                        ret_error, ERROR_BAD_DOCUMENT, NULL, "field spec.path must be an absolute path");
        if (r >= 0)
                r = doc_opt_bool(spec, "spec", "shared", &shared, ret_error);
        if (r >= 0)
                r = check_map(spec, "paths", is_path, "an absolute path", ret_error);
        if (r >= 0)
                r = check_hosts(spec, ret_error);
        if (r >= 0)
                r = check_overcommit(spec, ret_error);
        return r < 0 ? r : set_default(spec, "shared", json_true(), ret_error);
}

/* "eth1,eth2", none twice */
static bool is_interface_list(const char *text)
{
        char names[UPLINKS_MAX][INTERFACE_MAX + 1];
        size_t n = 0, len;

        do {
                len = strcspn(text, ",");
                if (len > INTERFACE_MAX || n >= UPLINKS_MAX)
                        return false;
                snprintf(names[n], sizeof(names[n]), "%.*s", (int)len, text);
                if (!is_interface(names[n]))
                        return false;
                for (size_t i = 0; i < n; i++)
                        if (!strcmp(names[i], names[n]))
                                return false;
                n++;
                text += len + (text[len] == ',');
        } while (*text);
        return true;
}

static int check_distributed(json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {
                "type", "uplink", "uplink_policy", "bridge", "mtu", "uplinks", "hosts", NULL};
        const char *uplink = NULL, *policy = "active-backup", *bridge = NULL;
        uint64_t mtu;
        int r = doc_only_keys(spec, "spec", keys, ret_error);

        if (r >= 0)
                r = doc_opt_string(spec, "spec", "uplink", UPLINKS_TEXT_MAX, &uplink, ret_error);
        if (r >= 0 && uplink && !is_interface_list(uplink))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.uplink must name up to %d network interfaces with commas between, none "
                        "twice",
                        UPLINKS_MAX);
        if (r >= 0)
                r = check_map(spec, "uplinks", is_interface_list, "names of network interfaces", ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "uplink_policy", NAME_MAX_CHARS, &policy, ret_error);
        if (r >= 0 && strcmp(policy, "active-backup") && strcmp(policy, "balance-slb") &&
                strcmp(policy, "lacp"))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.uplink_policy must be active-backup, balance-slb or lacp");
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "bridge", INTERFACE_MAX, &bridge, ret_error);
        if (r >= 0 && bridge &&
                (!is_interface(bridge) || uplink || json_object_size(json_object_get(spec, "uplinks"))))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT,
                        "Leave out the uplinks: a bridge that is used as it is keeps its own.",
                        "field spec.bridge must name a bridge of Open vSwitch, and goes without uplinks");
        if (r >= 0)
                r = doc_opt_u64(spec, "spec", "mtu", 576, 65520, &mtu, ret_error);
        if (r >= 0)
                r = check_hosts(spec, ret_error);
        if (r >= 0)
                r = set_default(spec, "uplink", json_null(), ret_error);
        if (r >= 0)
                r = set_default(spec, "uplink_policy", json_string("active-backup"), ret_error);
        return r < 0 ? r : set_default(spec, "mtu", json_null(), ret_error);
}

static int check_switch(struct manager *manager, json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"type", "uplink", "mtu", "uplinks", "hosts", NULL};
        const char *uplink = NULL;
        const char *type = "standard";
        uint64_t mtu = 1500;
        int r;

        r = doc_opt_string(spec, "spec", "type", NAME_MAX_CHARS, &type, ret_error);
        if (r >= 0 && !strcmp(type, "distributed"))
                return check_distributed(spec, ret_error);
        if (r >= 0 && strcmp(type, "standard"))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.type must be standard or distributed");
        if (r >= 0)
                r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = check_hosts(spec, ret_error);
        if (r >= 0)
                r = doc_opt_string(spec, "spec", "uplink", INTERFACE_MAX, &uplink, ret_error);
        if (r >= 0 && uplink && !is_interface(uplink))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL,
                        "field spec.uplink must name a network interface");
        if (r >= 0)
                r = doc_opt_u64(spec, "spec", "mtu", 576, 65535, &mtu, ret_error);
        if (r >= 0)
                r = check_map(spec, "uplinks", is_interface, "the name of a network interface", ret_error);
        if (r >= 0)
                r = set_default(spec, "type", json_string("standard"), ret_error);
        if (r >= 0)
                r = set_default(spec, "uplink", json_null(), ret_error);
        return r < 0 ? r : set_default(spec, "mtu", json_null(), ret_error);
}

/* Where it is another one than on most hosts. */
static int check_other_switches(struct manager *manager, const json_t *spec, struct error **ret_error)
{
        const char *host;
        json_t *name;
        int r = 0;

        json_object_foreach (json_object_get(spec, "switches"), host, name) {
                _cleanup_json_ json_t *its_switch = NULL;

                if (r >= 0 && json_is_string(name))
                        r = store_get(
                                manager->store, "switch", json_string_value(name), &its_switch, ret_error);
        }
        return r;
}

static bool is_on(const json_t *group_spec, const char *switch_name)
{
        const char *host;
        json_t *name;

        json_object_foreach (json_object_get(group_spec, "switches"), host, name)
                if (!strcmp(json_string_value(name) ?: "", switch_name))
                        return true;
        return !strcmp(json_text(group_spec, "switch"), switch_name);
}

static int check_port_group(struct manager *manager, json_t *spec, struct error **ret_error)
{
        static const char *const keys[] = {"switch", "vlan", "switches", "allow_standard", NULL};
        _cleanup_json_ json_t *its_switch = NULL;
        const char *name = NULL;
        bool allow_standard;
        uint64_t vlan = 0;
        int r;

        r = doc_only_keys(spec, "spec", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(spec, "spec", "switch", NAME_MAX_CHARS, &name, ret_error);
        if (r >= 0)
                r = doc_opt_u64(spec, "spec", "vlan", 0, 4094, &vlan, ret_error);
        if (r >= 0)
                r = doc_opt_bool(spec, "spec", "allow_standard", &allow_standard, ret_error);
        if (r >= 0)
                r = store_get(manager->store, "switch", name, &its_switch, ret_error);
        if (r >= 0)
                r = check_map(spec, "switches", text_is_name, "the name of a switch", ret_error);
        if (r >= 0)
                r = check_other_switches(manager, spec, ret_error);
        return r < 0 ? r : set_default(spec, "vlan", json_integer(0), ret_error);
}

static int is_that(void *userdata, const char *datastore)
{
        return !strcmp(userdata, datastore) ? -EBUSY : 0;
}

static int datastore_unused(struct manager *manager, const char *name, struct error **ret_error)
{
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        json_t *vm;
        size_t i;

        json_array_foreach (vms, i, vm)
                if (checks_each_datastore(json_spec(vm), is_that, (void *)name) < 0)
                        return error_set(ret_error, ERROR_CONFLICT,
                                "Move or delete that virtual machine first.",
                                "the virtual machine %s uses the datastore %s", json_text(vm, "name"), name);
        return vms ? 0 : no_memory(ret_error);
}

static int switch_unused(struct manager *manager, const char *name, struct error **ret_error)
{
        struct store_query query = {.kind = "port-group", .limit = STORE_LIMIT_NONE};
        _cleanup_json_ json_t *groups = NULL;
        json_t *group;
        size_t i;
        int r;

        r = store_list(manager->store, &query, &groups, NULL, ret_error);
        if (r < 0)
                return r;
        json_array_foreach (groups, i, group)
                if (is_on(json_spec(group), name))
                        return error_set(ret_error, ERROR_CONFLICT, "Remove its port groups first.",
                                "the port group %s is on the switch %s", json_text(group, "name"), name);
        return 0;
}

static int port_group_unused(struct manager *manager, const char *name, struct error **ret_error)
{
        _cleanup_json_ json_t *vms = inventory_vms(manager->inventory);
        json_t *vm, *nic;
        size_t i, k;

        json_array_foreach (vms, i, vm)
                json_array_foreach (json_object_get(json_spec(vm), "nics"), k, nic)
                        if (!strcmp(json_text(nic, "port_group"), name))
                                return error_set(ret_error, ERROR_CONFLICT,
                                        "Delete or change that virtual machine first.",
                                        "the virtual machine %s is plugged into the port group %s",
                                        json_text(vm, "name"), name);
        return vms ? 0 : no_memory(ret_error);
}

static json_t *datastore_live(struct manager *manager, const json_t *doc)
{
        _cleanup_json_ json_t *reserved = datastores_reserved(manager, NULL);

        return reserved ? datastores_with_facts(manager, doc, reserved) : NULL;
}

static const struct realised datastores = {"datastore", "datastore.apply", "datastore.remove",
        check_datastore, datastore_unused, datastore_live};
static const struct realised switches = {
        "switch", "network.apply", "network.remove", check_switch, switch_unused, NULL};
static const struct realised port_groups = {
        "port-group", "network.apply", "network.remove", check_port_group, port_group_unused, NULL};

static void submit(struct http_request *request, struct manager *manager, const char *action,
        const char *kind, const char *name, const json_t *input, struct store_batch *batch)
{
        _cleanup_free_ char *object = alloc_printf("%s/%s", kind, name);
        _cleanup_json_ json_t *data = json_pack("{s:s, s:s}", "kind", kind, "name", name);

        if (!object || !data)
                http_request_reply_error(request, NULL);
        else
                api_submit(request, manager,
                        &(struct task_request){.action = action,
                                .object = object,
                                .objects = (const char *const[]){object, NULL},
                                .input = input,
                                .data = data},
                        batch);
}

static void list(struct http_request *request, struct manager *manager, const struct realised *realised)
{
        api_reply_list(
                request, manager, &(struct api_listing){.kind = realised->kind, .live = realised->live});
}

/* What the hosts say now, in place of what they said when it was applied. */
static void take_newest(struct manager *manager, json_t *doc)
{
        _cleanup_json_ json_t *hosts = inventory_live_hosts(manager->inventory);
        json_t *answers = json_object_get(json_object_get(doc, "status"), "hosts"), *host, *item;
        size_t i, k;

        json_array_foreach (hosts, i, host)
                json_array_foreach (json_object_get(json_status(host), "switches"), k, item)
                        if (!strcmp(json_text(item, "name"), json_text(doc, "name")) &&
                                json_object_set(answers, json_text(host, "name"), item) < 0)
                                log_warning("switch %s: shown without what host %s says now",
                                        json_text(doc, "name"), json_text(host, "name"));
}

static void get(struct http_request *request, struct manager *manager, const struct realised *realised)
{
        struct error *error = NULL;
        json_t *doc = NULL;

        if (api_get_object(request, manager, realised->kind, &doc, &error) < 0) {
                http_request_reply_error(request, error);
                return;
        }
        if (switch_is_distributed(doc))
                take_newest(manager, doc);
        if (realised->live) {
                json_t *live = realised->live(manager, doc);

                json_decref(doc);
                doc = live;
        }
        api_reply_object(request, 200, doc);
}

static json_t *new_object(const struct realised *realised, const char *name, json_t *spec)
{
        bool datastore = !strcmp(realised->kind, "datastore");
        char uid[UUID_STRING_SIZE];

        if (text_uuid_new(uid) < 0)
                return NULL;
        return datastore ? json_pack("{s:s, s:s, s:s, s:O, s:{s:n, s:{}}}", "kind", realised->kind, "name",
                                   name, "uid", uid, "spec", spec, "status", "id", "hosts")
                         : json_pack("{s:s, s:s, s:s, s:O, s:{s:{}}}", "kind", realised->kind, "name", name,
                                   "uid", uid, "spec", spec, "status", "hosts");
}

static void create(struct http_request *request, struct manager *manager, const struct realised *realised)
{
        static const char *const keys[] = {"kind", "name", "spec", NULL};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *empty = json_object();
        json_t *body = NULL, *spec = NULL, *doc;
        struct error *error = NULL;
        const char *name = NULL;
        int r;

        r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = api_body_name(body, &name, &error);
        if (r >= 0 && realised->live && !strcmp(name, DATASTORE_BEST))
                r = error_set(&error, ERROR_BAD_DOCUMENT, "Choose another name.",
                        "\"%s\" is what the best datastore is asked for by, and no name of one", name);
        if (r >= 0)
                r = doc_opt_object(body, "", "spec", &spec, &error);
        spec = spec ?: empty;
        if (r >= 0)
                r = realised->check(manager, spec, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        doc = new_object(realised, name, spec);
        if (!doc || (switch_is_distributed(doc) && switch_versions_add(doc) < 0)) {
                json_decref(doc);
                http_request_reply_error(request, NULL);
                return;
        }
        store_batch_put(&batch, STORE_ABSENT, doc);
        submit(request, manager, realised->apply, realised->kind, name, body, &batch);
}

/* A change of a distributed switch is one more version, that hosts get by an upgrade. */
static int replace_spec(json_t *doc, json_t *spec, struct error **ret_error)
{
        bool distributed = switch_is_distributed(doc), same = json_equal(json_spec(doc), spec);

        if (json_object_set(doc, "spec", spec) < 0)
                return no_memory(ret_error);
        if (distributed != switch_is_distributed(doc))
                return error_set(ret_error, ERROR_CONFLICT, "Make another switch, and move the port groups.",
                        "a standard switch cannot become a distributed one, nor the other way round");
        return distributed && !same && switch_versions_add(doc) < 0 ? no_memory(ret_error) : 0;
}

static void update(struct http_request *request, struct manager *manager, const struct realised *realised)
{
        static const char *const keys[] = {"spec", NULL};
        _cleanup_batch_ struct store_batch batch = STORE_BATCH_INIT;
        _cleanup_json_ json_t *doc = NULL;
        json_t *body = NULL, *spec = NULL;
        struct error *error = NULL;
        uint64_t revision;
        int r;

        r = api_get_object(request, manager, realised->kind, &doc, &error);
        if (r >= 0)
                r = api_body(request, keys, &body, &error);
        if (r >= 0)
                r = doc_opt_object(body, "", "spec", &spec, &error);
        if (r >= 0 && !spec)
                r = error_set(&error, ERROR_BAD_DOCUMENT, NULL, "field spec is missing");
        if (r >= 0)
                r = realised->check(manager, spec, &error);
        if (r >= 0)
                r = replace_spec(doc, spec, &error);
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        revision = json_revision(doc);
        store_batch_put(&batch, revision, json_incref(doc));
        submit(request, manager, realised->apply, realised->kind, json_text(doc, "name"), body, &batch);
}

static void delete (struct http_request *request, struct manager *manager, const struct realised *realised)
{
        _cleanup_json_ json_t *doc = NULL;
        struct error *error = NULL;
        int r;

        r = api_get_object(request, manager, realised->kind, &doc, &error);
        if (r >= 0)
                r = realised->unused(manager, json_text(doc, "name"), &error);
        if (r < 0)
                http_request_reply_error(request, error);
        else
                submit(request, manager, realised->remove, realised->kind, json_text(doc, "name"), NULL,
                        NULL);
}

#define HANDLERS(name, realised) \
        void api_##name##_list(struct http_request *request, void *userdata) \
        { \
                list(request, userdata, &(realised)); \
        } \
        void api_##name##_create(struct http_request *request, void *userdata) \
        { \
                create(request, userdata, &(realised)); \
        } \
        void api_##name##_get(struct http_request *request, void *userdata) \
        { \
                get(request, userdata, &(realised)); \
        } \
        void api_##name##_update(struct http_request *request, void *userdata) \
        { \
                update(request, userdata, &(realised)); \
        } \
        void api_##name##_delete(struct http_request *request, void *userdata) \
        { \
                delete (request, userdata, &(realised)); \
        }
HANDLERS(datastore, datastores)
HANDLERS(switch, switches)
HANDLERS(port_group, port_groups)

static int read_upgrade(struct http_request *request, struct manager *manager, const json_t *doc,
        json_t *data, struct error **ret_error)
{
        static const char *const keys[] = {"host", "version", NULL};
        uint64_t version = (uint64_t)switch_versions_newest(doc);
        const char *name = NULL;
        const json_t *host, *hosts;
        json_t *body = NULL;
        int r = api_body(request, keys, &body, ret_error);

        if (r >= 0)
                r = doc_opt_string(body, "", "host", NAME_MAX_CHARS, &name, ret_error);
        if (r >= 0)
                r = doc_opt_u64(body, "", "version", 1, INT64_MAX, &version, ret_error);
        if (r < 0)
                return r;
        if (!switch_is_distributed(doc))
                return error_set(ret_error, ERROR_CONFLICT,
                        "A change of a standard switch is applied at once.",
                        "the switch %s is not distributed, and has no versions", json_text(doc, "name"));
        if (!switch_versions_spec(doc, (json_int_t)version))
                return error_set(ret_error, ERROR_NOT_FOUND, "Its status lists the versions.",
                        "the switch %s has no version %llu", json_text(doc, "name"),
                        (unsigned long long)version);
        host = name ? inventory_host(manager->inventory, name) : NULL;
        if (name && !host)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "there is no host %s", name);
        hosts = json_object_get(json_spec(doc), "hosts");
        if (host && json_is_array(hosts) && !doc_has_string(hosts, json_text(host, "name")))
                return error_set(ret_error, ERROR_CONFLICT, "Add the host to the switch (--host) first.",
                        "the switch %s is not for host %s", json_text(doc, "name"), name);
        if (host && !inventory_connected(manager->inventory, json_text(host, "uid")))
                return error_set(ret_error, ERROR_UNREACHABLE, "Wait until it is connected.",
                        "host %s cannot be reached now", name);
        if (json_object_set_new(data, "version", json_integer((json_int_t)version)) < 0 ||
                (host && json_object_set_new(data, "only", json_string(json_text(host, "uid"))) < 0))
                return no_memory(ret_error);
        return 0;
}

void api_switch_upgrade(struct http_request *request, void *userdata)
{
        struct manager *manager = userdata;
        _cleanup_json_ json_t *doc = NULL, *data = NULL;
        _cleanup_free_ char *object = NULL;
        struct error *error = NULL;
        int r;

        if (api_repeated(request, manager))
                return;
        r = api_get_object(request, manager, "switch", &doc, &error);
        if (r >= 0) {
                data = json_pack("{s:s, s:s}", "kind", "switch", "name", json_text(doc, "name"));
                object = alloc_printf("switch/%s", json_text(doc, "name"));
                r = data && object ? read_upgrade(request, manager, doc, data, &error) : no_memory(&error);
        }
        if (r < 0) {
                http_request_reply_error(request, error);
                return;
        }
        api_submit(request, manager,
                &(struct task_request){.action = "network.upgrade",
                        .object = object,
                        .objects = (const char *const[]){object, NULL},
                        .input = data,
                        .data = data},
                NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Requests about the host itself: facts, datastores, switches and port groups. What is set here is kept on disk and
 * applied again at the next start. */

#include <errno.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/host.h"
#include "agent/host_list.h"
#include "agent/stores.h"
#include "agent/switch_list.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "fabric/vswitch.h"
#include "io/file.h"

#define NETWORKS_MAX_BYTES (1 << 20)

void api_host_get(struct http_request *request, void *agent)
{
        http_request_reply_json(request, 200, host_document(agent));
}

void api_cpu_get(struct http_request *request, void *userdata)
{
        const struct agent *agent = userdata;
        struct error *error = NULL;

        if (agent->host->cpu) {
                http_request_reply_json(request, 200, json_incref(agent->host->cpu));
                return;
        }
        error_set(&error, ERROR_NOT_FOUND, "Ask again later; the agent's log says what is wrong.",
                "which processors guests can have here is not known yet");
        api_reply_error(request, error);
}

static void put_host_list(struct http_request *request, struct host_list *list)
{
        struct error *error = NULL;
        json_t *body;
        int r = http_request_json(request, &body, &error);

        if (r == 0)
                r = host_list_set(list, body, &error);
        if (r < 0)
                api_reply_error(request, error);
        else
                api_reply_json(request, 200, json_object());
}

void api_removed_hosts_put(struct http_request *request, void *userdata)
{
        const struct agent *agent = userdata;

        put_host_list(request, agent->removed_hosts);
}

/* Migrations that wait for one of them see it at their next tick. */
void api_fenced_hosts_put(struct http_request *request, void *userdata)
{
        const struct agent *agent = userdata;

        put_host_list(request, agent->fenced_hosts);
}

/* --- Datastores ------------------------------------------------------------------------------------------------- */

void api_datastore_list(struct http_request *request, void *userdata)
{
        const struct agent *agent = userdata;

        http_request_reply_json(request, 200, stores_list(agent->stores));
}

static bool vm_uses(const struct vm *vm, const char *store)
{
        _cleanup_free_ const char **names = NULL;
        size_t n_names;

        if (!vm_has_qemu(vm))
                return false;
        if (vm_store_names(vm->config, &names, &n_names) < 0)
                return true; /* to be on the safe side */
        for (size_t i = 0; i < n_names; i++) {
                if (strcmp(names[i], store) == 0)
                        return true;
        }
        return false;
}

static int check_unused(struct agent *agent, const char *store, struct error **ret_error)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &agent->vms) {
                const struct vm *vm = item->value;

                if (vm_uses(vm, store))
                        return error_set(ret_error, ERROR_CONFLICT, "Stop or migrate the VMs that use it.",
                                "datastore %s is in use by VM %s", store, vm->name);
        }
        return 0;
}

/* Another path or id under a name that running VMs know would mislead their next start. */
static int check_change(struct agent *agent, const char *name, const json_t *body, struct error **ret_error)
{
        _cleanup_json_ json_t *now = stores_status(agent->stores, name);
        const json_t *id = json_object_get(body, "id");
        bool same_path = json_equal(json_object_get(now, "path"), json_object_get(body, "path"));
        bool same_id = !id || json_is_null(id) || json_equal(json_object_get(now, "id"), id);

        return !now || (same_path && same_id) ? 0 : check_unused(agent, name, ret_error);
}

static void on_datastore_put(void *userdata, struct error *error)
{
        struct http_request *request = userdata;

        if (error)
                api_reply_error_copy(request, error);
        else
                api_reply_json(request, 200,
                        stores_status(api_agent(request)->stores, http_request_param(request, "name")));
}

void api_datastore_put(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        json_t *body;
        int r = http_request_json(request, &body, &error);

        if (r == 0)
                r = check_change(agent, name, body, &error);
        if (r == 0)
                r = stores_put(agent->stores, name, body, on_datastore_put, request, &error);
        if (r < 0)
                api_reply_error(request, error);
}

void api_datastore_delete(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        int r = check_unused(agent, name, &error);

        if (r == 0)
                r = stores_remove(agent->stores, name, &error);
        if (r < 0)
                api_reply_error(request, error);
        else
                api_reply_json(request, 200, json_object());
}

/* --- Networks --------------------------------------------------------------------------------------------------- */

static char *networks_path(const struct agent *agent)
{
        return alloc_printf("%s/networks.json", agent->config.state_dir);
}

int api_config_load_networks(struct agent *agent, struct error **ret_error)
{
        _cleanup_free_ char *path = networks_path(agent);
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *desired = NULL;
        size_t len;
        int r = path ? file_read(path, NETWORKS_MAX_BYTES, &text, &len) : -ENOMEM;

        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return error_from_errno(ret_error, r, "switches of this host");
        r = doc_parse(text, len, &desired, ret_error);
        return r < 0 ? r : vswitch_set_load(agent->switches, desired, ret_error);
}

static int save_networks(const struct agent *agent, struct error **ret_error)
{
        _cleanup_json_ json_t *desired = vswitch_set_to_json(agent->switches);
        _cleanup_free_ char *text = desired ? doc_to_text(desired) : NULL;
        _cleanup_free_ char *path = networks_path(agent);
        int r = text && path ? file_write_atomic(path, text, strlen(text), 0600) : -ENOMEM;

        return r < 0 ? error_from_errno(ret_error, r, "the change works but cannot be written down") : 0;
}

void api_switch_list(struct http_request *request, void *userdata)
{
        switch_list_answer(userdata, request);
}

void api_port_group_list(struct http_request *request, void *userdata)
{
        const struct agent *agent = userdata;

        http_request_reply_json(request, 200, vswitch_set_list_port_groups(agent->switches));
}

/* The four changes differ in which function of the fabric does them. */
typedef int (*put_fn)(
        struct vswitch_set *set, const char *name, const json_t *body, struct error **ret_error);
typedef int (*remove_fn)(struct vswitch_set *set, const char *name, struct error **ret_error);
typedef json_t *(*status_fn)(struct vswitch_set *set, const char *name);

static void change(struct http_request *request, struct agent *agent, put_fn put, status_fn status)
{
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        json_t *body;
        int r = http_request_json(request, &body, &error);

        if (r == 0)
                r = put(agent->switches, name, body, &error);
        if (r == 0)
                r = save_networks(agent, &error);
        if (r < 0)
                api_reply_error(request, error);
        else
                api_reply_json(request, 200, status(agent->switches, name));
}

static void drop(struct http_request *request, struct agent *agent, remove_fn remove_one)
{
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        int r = remove_one(agent->switches, name, &error);

        if (r == 0)
                r = save_networks(agent, &error);
        if (r < 0)
                api_reply_error(request, error);
        else
                api_reply_json(request, 200, json_object());
}

void api_switch_put(struct http_request *request, void *agent)
{
        change(request, agent, vswitch_set_put_switch, vswitch_set_switch_status);
}

void api_switch_delete(struct http_request *request, void *agent)
{
        drop(request, agent, vswitch_set_remove_switch);
}

void api_port_group_put(struct http_request *request, void *agent)
{
        change(request, agent, vswitch_set_put_port_group, vswitch_set_port_group_status);
}

void api_port_group_delete(struct http_request *request, void *agent)
{
        drop(request, agent, vswitch_set_remove_port_group);
}

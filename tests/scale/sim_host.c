/* SPDX-License-Identifier: Apache-2.0 */

/* One simulated host: the server with its certificate, the rules about callers, epochs and repeats, and the documents that say
 * what the host is and has. */

#include "sim.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "io/pki.h"
#include "io/sock.h"
#include "manager/json.h"

#define MANAGER_NAME "manager.drover"
#define LISTEN_BACKLOG 16
#define IDLE_TIMEOUT_S 120

/* What hangs on each admitted request. */
struct sim_call {
        struct sim_host *host;
        struct request_entry *entry; /* NULL: the answer is not kept */
};

static void call_free(void *context)
{
        struct sim_call *call = context;

        if (call->entry)
                request_entry_drop(call->entry);
        free(call);
}

struct sim_host *sim_host_of(const struct http_request *request)
{
        const struct sim_call *call = http_request_context(request);

        return call->host;
}

void sim_reply(struct http_request *request, int status, json_t *json)
{
        struct sim_call *call = http_request_context(request);

        if (call->entry && json)
                request_entry_done(TAKE_PTR(call->entry), status, json);
        http_request_reply_json(request, status, json);
}

void sim_reply_error(struct http_request *request, struct error *error)
{
        struct sim_call *call = http_request_context(request);
        _cleanup_json_ json_t *json = error_to_json(error);

        if (call->entry && json)
                request_entry_done(TAKE_PTR(call->entry), error_code_to_http(error->code), json);
        http_request_reply_error(request, error);
}

/* --- Admission --------------------------------------------------------------------------------------------------- */

static int check_caller(struct sim_host *host, const struct http_request *request, struct error **ret_error)
{
        const char *name = http_request_peer_name(request), *header;
        bool changes = strcmp(http_request_method(request), "GET") != 0;
        uint64_t epoch;

        if (!name || strcmp(name, MANAGER_NAME) != 0)
                return error_set(ret_error, ERROR_DENIED, NULL, "this path is for the manager alone");
        header = http_request_header(request, "X-Drover-Epoch");
        if (!header)
                return changes ? error_set(ret_error, ERROR_BAD_REQUEST, NULL,
                                         "the header X-Drover-Epoch is missing")
                               : 0;
        if (text_parse_u64(header, 0, INT64_MAX, &epoch) < 0)
                return error_set(
                        ret_error, ERROR_BAD_REQUEST, NULL, "the header X-Drover-Epoch is no number");
        if (epoch < host->epoch)
                return error_set(ret_error, ERROR_STALE_EPOCH, NULL, "another manager leads now");
        host->epoch = epoch;
        return 0;
}

static void on_first_answered(void *userdata, int status, json_t *json, struct error *error)
{
        if (json)
                http_request_reply_json(userdata, status, json);
        else
                http_request_reply_error(userdata, error);
}

/* 0: go on; 1: it is a repeat, which was or will be answered; negative: an error. */
static int check_repeat(
        struct sim_host *host, struct http_request *request, struct sim_call *call, struct error **ret_error)
{
        const char *id = http_request_header(request, "X-Drover-Request");
        _cleanup_free_ char *what =
                alloc_printf("%s %s", http_request_method(request), http_request_path(request));
        json_t *json = NULL;
        int status = 0, r;

        if (!id || !what)
                return 0;
        r = request_cache_begin(host->requests, id, what, on_first_answered, request, &call->entry, &status,
                &json, ret_error);
        if (r == REQUEST_KNOWN)
                http_request_reply_json(request, status, json);
        return r < 0 ? r : r != REQUEST_NEW;
}

static bool admit(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        struct sim_call *call = ALLOC(struct sim_call);
        struct error *error = NULL;
        int r;

        host->sim->counts.calls++;
        if (!call) {
                http_request_reply_error(request, NULL);
                return false;
        }
        call->host = host;
        http_request_set_context(request, call, call_free);
        r = check_caller(host, request, &error);
        if (r == 0 && strcmp(http_request_method(request), "GET") != 0)
                r = check_repeat(host, request, call, &error);
        if (r < 0)
                http_request_reply_error(request, error);
        return r == 0;
}

/* --- Facts ------------------------------------------------------------------------------------------------------- */

static double wobble(struct sim *sim, double around, double by)
{
        return around + by * ((double)sim_random(sim, 2001) / 1000.0 - 1.0);
}

/* A rack in eight has 25 Gbit/s. */
static json_int_t link_bps(const struct sim_host *host)
{
        return host->number / 40 % 8 ? 10000000000 : 25000000000;
}

static json_t *network(struct sim_host *host)
{
        return json_pack("{s:s, s:I, s:I, s:I}", "interface", "eno1", "speed_bps", link_bps(host), "rx_bps",
                (json_int_t)wobble(host->sim, 4e8, 3e8), "tx_bps", (json_int_t)wobble(host->sim, 4e8, 3e8));
}

static json_t *qemu(void)
{
        return json_pack("{s:s, s:s, s:s, s:[s,s,s,s,s,s,s,s,s,s,s,s]}", "binary",
                "/usr/bin/qemu-system-x86_64", "version", "7.2.17", "package", "1:7.2+dfsg-7+deb12u16",
                "machines", "pc-q35-7.2", "q35", "pc-q35-7.1", "pc-q35-7.0", "pc-q35-6.2", "pc-q35-6.1",
                "pc-i440fx-7.2", "pc", "pc-i440fx-7.1", "pc-i440fx-7.0", "pc-i440fx-6.2", "microvm");
}

static void on_host(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        struct sim *sim = host->sim;
        json_int_t free_bytes = sim->host_memory - host->promised - 4 * SIM_GIB;
        json_t *doc = json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:I, s:I, s:I, s:f, s:s, s:i, s:I, s:O, s:o}",
                "uid", host->uid, "name", host->name, "version", DROVER_VERSION, "accelerator", "kvm", "qemu",
                qemu(), "cpus", SIM_HOST_CPUS, "memory_bytes", sim->host_memory, "memory_free_bytes",
                MAX(free_bytes, (json_int_t)0), "memory_vms_bytes", host->promised, "load1",
                wobble(sim, 16, 8), "cgroup", "delegated", "n_vms", (int)json_object_size(host->vms),
                "uptime_s", (json_int_t)(clock_now_ms(loop_clock(sim->loop)) / 1000), "cpu_id",
                json_object_get(sim->cpu, "id"), "network", network(host));

        if (doc)
                json_object_update_new(doc,
                        json_pack("{s:{s:b, s:n, s:b, s:b, s:b}, s:{s:f, s:f, s:f}, s:[{s:s, s:s, s:I}]}",
                                "capabilities", "kvm", 1, "kvm_reason", "cgroup", 1, "switchover", 1,
                                "limits", 1, "pressure", "cpu", wobble(sim, 2, 2), "memory", 0.0, "io",
                                wobble(sim, 1, 1), "links", "address", host->ip, "device", "eno1",
                                "speed_bps", link_bps(host)));
        http_request_reply_json(request, 200, doc);
}

static void on_cpu(struct http_request *request, void *userdata)
{
        const struct sim_host *host = userdata;

        http_request_reply_json(request, 200, json_incref(host->sim->cpu));
}

/* --- Datastores and networks ------------------------------------------------------------------------------------- */

static json_t *values_of(json_t *object)
{
        json_t *array = json_array(), *value;
        const char *key;

        json_object_foreach (object, key, value)
                json_array_append(array, value);
        return array;
}

static void on_datastores(struct http_request *request, void *userdata)
{
        const struct sim_host *host = userdata;

        http_request_reply_json(request, 200, values_of(host->datastores));
}

/* The same store on all hosts, hence an id that only depends on the path. */
static void on_datastore_put(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        const char *name = http_request_param(request, "name");
        char hash[PKI_FINGERPRINT_SIZE], id[37];
        struct error *error = NULL;
        json_t *body = NULL, *doc;
        const char *path;

        if (http_request_json(request, &body, &error) < 0) {
                sim_reply_error(request, error);
                return;
        }
        path = json_text(body, "path");
        (void)pki_sha256_hex(path, strlen(path), hash);
        snprintf(id, sizeof(id), "%.8s-%.4s-4%.3s-8%.3s-%.12s", hash, hash + 8, hash + 13, hash + 17,
                hash + 20);
        doc = json_pack("{s:s, s:s, s:s, s:I, s:I, s:s, s:b, s:b, s:f, s:b, s:n}", "name", name, "id", id,
                "path", path, "capacity_bytes", 1 << 10, "free_bytes", 400 * SIM_GIB, "file_system", "nfs4",
                "locks", 1, "shared", 1, "latency_ms", wobble(host->sim, 3, 2), "ok", 1, "message");
        json_object_set_new(doc, "capacity_bytes", json_integer(1024 * SIM_GIB));
        json_object_set(host->datastores, name, doc);
        sim_reply(request, 200, doc);
}

static void on_switches(struct http_request *request, void *userdata)
{
        const struct sim_host *host = userdata;

        http_request_reply_json(request, 200, values_of(host->switches));
}

static void on_switch_put(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        json_t *body = NULL, *doc;

        if (http_request_json(request, &body, &error) < 0) {
                sim_reply_error(request, error);
                return;
        }
        doc = json_pack("{s:s, s:O?, s:i, s:s, s:b, s:b, s:b, s:n, s:[]}", "name", name, "uplink",
                json_object_get(body, "uplink"), "mtu", 1500, "bridge", name, "realised", 1, "carrier", 1,
                "ok", 1, "message", "foreign_macs");
        json_object_set(host->switches, name, doc);
        sim_reply(request, 200, doc);
}

static void on_port_groups(struct http_request *request, void *userdata)
{
        const struct sim_host *host = userdata;

        http_request_reply_json(request, 200, values_of(host->port_groups));
}

static void on_port_group_put(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        const char *name = http_request_param(request, "name");
        struct error *error = NULL;
        json_t *body = NULL, *doc;

        if (http_request_json(request, &body, &error) < 0) {
                sim_reply_error(request, error);
                return;
        }
        doc = json_pack("{s:s, s:s, s:I, s:b, s:n}", "name", name, "switch", json_text(body, "switch"),
                "vlan", json_integer_value(json_object_get(body, "vlan")), "ok", 1, "message");
        json_object_set(host->port_groups, name, doc);
        sim_reply(request, 200, doc);
}

static void on_object_delete(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        const char *path = http_request_path(request), *name = http_request_param(request, "name");

        json_object_del(strstr(path, "/datastores/") ? host->datastores
                        : strstr(path, "/switches/") ? host->switches
                                                     : host->port_groups,
                name);
        sim_reply(request, 200, json_object());
}

static void on_host_list(struct http_request *request, void *userdata)
{
        sim_reply(request, 200, json_object());
}

static void on_events(struct http_request *request, void *userdata)
{
        struct sim_host *host = userdata;
        _cleanup_json_ json_t *initial = json_array();
        const char *key;
        json_t *vm;

        json_object_foreach (host->vms, key, vm)
                json_array_append_new(initial, json_pack("[s, O]", "vm", vm));
        events_subscribe(host->events, request, initial);
}

/* --- Server ------------------------------------------------------------------------------------------------------ */

static const struct http_route routes[] = {
        {"GET", "/agent/v1/host", on_host},
        {"GET", "/agent/v1/vms", sim_vm_list},
        {"GET", "/agent/v1/migrations/{id}", sim_migration_get},
        {"GET", "/agent/v1/vms/{uid}", sim_vm_get},
        {"GET", "/agent/v1/cpu", on_cpu},
        {"GET", "/agent/v1/events", on_events},
        {"PUT", "/agent/v1/removed-hosts", on_host_list},
        {"PUT", "/agent/v1/fenced-hosts", on_host_list},
        {"GET", "/agent/v1/datastores", on_datastores},
        {"PUT", "/agent/v1/datastores/{name}", on_datastore_put},
        {"DELETE", "/agent/v1/datastores/{name}", on_object_delete},
        {"GET", "/agent/v1/switches", on_switches},
        {"PUT", "/agent/v1/switches/{name}", on_switch_put},
        {"DELETE", "/agent/v1/switches/{name}", on_object_delete},
        {"GET", "/agent/v1/port-groups", on_port_groups},
        {"PUT", "/agent/v1/port-groups/{name}", on_port_group_put},
        {"DELETE", "/agent/v1/port-groups/{name}", on_object_delete},
        {"GET", "/agent/v1/vms/{uid}/console", sim_vm_console},
        {"POST", "/agent/v1/vms/{uid}/{verb}", sim_vm_verb},
        {"POST", "/agent/v1/migrations", sim_migration_start},
        {"GET", "/agent/v1/migrations", sim_migration_list},
        {"POST", "/agent/v1/migrations/{id}/cancel", sim_migration_cancel},
        {"POST", "/agent/v1/migrations/{id}/switchover", sim_migration_switchover},
        {"POST", "/agent/v1/migrations/{id}/limits", sim_migration_limits},
        {"DELETE", "/agent/v1/migrations/{id}", sim_migration_forget},
};

int sim_host_init(struct sim *sim, struct sim_host *host, size_t number, struct error **ret_error)
{
        struct sock_address address;
        int r;

        *host = (struct sim_host){.sim = sim, .number = number, .listen_fd = -1};
        snprintf(host->name, sizeof(host->name), "host%04zu", number + 1);
        snprintf(host->ip, sizeof(host->ip), "127.1.%zu.%zu", number / 250, number % 250 + 1);
        snprintf(host->address, sizeof(host->address), "%s:0", host->ip);
        r = sock_address_parse(host->address, 0, false, &address, ret_error);
        if (r >= 0)
                r = sock_listen_tcp(&address, LISTEN_BACKLOG, &host->listen_fd, ret_error);
        if (r < 0)
                return r;
        r = sock_local_address(host->listen_fd, &address);
        if (r < 0)
                return error_from_errno(ret_error, r, "address of %s", host->name);
        sock_address_format(&address, host->address);
        host->vms = json_object();
        host->datastores = json_object();
        host->switches = json_object();
        host->port_groups = json_object();
        if (!host->vms || !host->datastores || !host->switches || !host->port_groups ||
                sim_guests_init(host) < 0 || events_new(sim->loop, &host->events) < 0 ||
                request_cache_new(loop_clock(sim->loop), &host->requests) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        return pki_key_new(&host->key_pem, ret_error);
}

int sim_host_serve(struct sim_host *host, const char *cert_pem, const char *ca_pem, struct error **ret_error)
{
        int r = http_server_new(host->sim->loop,
                &(struct http_server_config){.listen_fd = host->listen_fd,
                        .cert_pem = cert_pem,
                        .key_pem = host->key_pem,
                        .client_ca_pem = ca_pem,
                        .client_cert_required = true,
                        .connections_max = 64,
                        .idle_timeout_s = IDLE_TIMEOUT_S,
                        .routes = routes,
                        .n_routes = ARRAY_SIZE(routes),
                        .admit = admit,
                        .userdata = host},
                &host->server, ret_error);

        if (r >= 0)
                host->listen_fd = -1;
        return r;
}

void sim_host_deinit(struct sim_host *host)
{
        events_free(host->events);
        http_server_free(host->server);
        request_cache_free(host->requests);
        fd_closep(&host->listen_fd);
        pki_key_free(host->key_pem);
        json_decref(host->vms);
        json_decref(host->datastores);
        json_decref(host->switches);
        json_decref(host->port_groups);
}

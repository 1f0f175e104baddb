/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/identity.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "io/child.h"
#include "io/file.h"
#include "io/netlink.h"
#include "io/pki.h"

#define CALL_TIMEOUT_MS 60000
#define POWER_TIMEOUT_MS 20000

void rig_issue(struct rig *rig, const char *dns_name, char **ret_cert, char **ret_key)
{
        const char *const names[] = {dns_name, NULL};
        char *csr;

        assert_int_equal(pki_key_new(ret_key, NULL), 0);
        assert_int_equal(pki_csr_new(*ret_key, "test", &csr, NULL), 0);
        assert_int_equal(pki_sign(rig->ca_pem, rig->ca_key_pem, csr, names, NULL, 1, ret_cert, NULL), 0);
        free(csr);
}

static struct http_client *make_client(struct rig *rig, const char *dns_name)
{
        struct http_client *client;
        char *cert, *key;

        rig_issue(rig, dns_name, &cert, &key);
        assert_int_equal(http_client_new(rig->loop, &(struct http_client_config){rig->ca_pem, cert, key},
                                 &client, NULL),
                0);
        free(cert);
        pki_key_free(key);
        return client;
}

static void enrol_by_hand(struct rig *rig)
{
        _cleanup_free_ char *state = alloc_printf("%s/state", rig->folder);
        struct identity identity = {
                .host_uid = (char[]){RIG_HOST_UID}, .name = (char[]){"host1"}, .ca_pem = rig->ca_pem};

        rig_issue(rig, RIG_HOST_UID ".host.drover", &identity.cert_pem, &identity.key_pem);
        assert_int_equal(identity_store(state, &identity, NULL), 0);
        free(identity.cert_pem);
        pki_key_free(identity.key_pem);
}

static void enter_namespace(void)
{
        struct netlink *netlink;

        assert_int_equal(netlink_new(&netlink, NULL), 0);
        assert_int_equal(netlink_set_up(netlink, "lo", true, NULL), 0);
        netlink_free(netlink);
}

bool rig_setup(struct rig *rig)
{
        _cleanup_free_ char *store = NULL;

        *rig = (struct rig){.folder = "/tmp/dragXXXXXX", .epoch = "1"};
        if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0)
                return false;
        enter_namespace();
        assert_non_null(mkdtemp(rig->folder));
        store = alloc_printf("%s/store", rig->folder);
        assert_int_equal(mkdir(store, 0700), 0);
        assert_int_equal(loop_new(&rig->loop), 0);
        assert_int_equal(pki_ca_new("test CA", 1, &rig->ca_pem, &rig->ca_key_pem, NULL), 0);
        enrol_by_hand(rig);
        rig->manager = make_client(rig, "manager.drover");
        rig->host = make_client(rig, RIG_OTHER_UID ".host.drover");
        rig_start_agent(rig);
        return true;
}

static void on_ready(void *userdata)
{
        struct rig *rig = userdata;

        rig->ready = true;
}

void rig_start_agent(struct rig *rig)
{
        _cleanup_agent_config_ struct agent_config config;
        struct error *error = NULL;
        int r = agent_config_init(&config);

        free(config.state_dir);
        free(config.runtime_dir);
        config.state_dir = alloc_printf("%s/state", rig->folder);
        config.runtime_dir = alloc_printf("%s/run", rig->folder);
        r = r < 0 ? r : alloc_replace(&config.listen, "127.0.0.1:0");
        r = r < 0 ? r : alloc_replace(&config.accelerator, "tcg");
        if (r == 0 && getenv("DROVER_MOVER"))
                r = alloc_replace(&config.mover, getenv("DROVER_MOVER"));
        assert_int_equal(r, 0);
        rig->ready = false;
        r = agent_new(rig->loop, &config, &rig->agent, &error);
        if (r == 0)
                r = agent_start(rig->agent, on_ready, rig, &error);
        if (r < 0)
                fail_msg("agent: %s", error_message(error));
        assert_int_equal(loop_wait(rig->loop, &rig->ready, 30000), 0);
}

void rig_stop_agent(struct rig *rig)
{
        agent_free(TAKE_PTR(rig->agent));
}

static void kill_left_over(struct rig *rig)
{
        struct map_item *item, *spare;

        map_for_each (item, spare, &rig->agent->vms) {
                const struct vm *vm = item->value;

                if (vm->qemu)
                        (void)child_kill(vm->qemu, SIGKILL);
        }
}

void rig_teardown(struct rig *rig)
{
        if (!rig->loop)
                return;
        if (rig->agent)
                kill_left_over(rig);
        rig_stop_agent(rig);
        http_client_free(rig->manager);
        http_client_free(rig->host);
        loop_free(rig->loop);
        free(rig->ca_pem);
        pki_key_free(rig->ca_key_pem);
        assert_int_equal(file_remove_tree(rig->folder), 0);
}

struct reply {
        bool came;
        int status;
        json_t *body;
};

static void on_reply(void *userdata, int status, json_t *body, struct error *error)
{
        struct reply *reply = userdata;

        reply->came = true;
        reply->status = status;
        if (error)
                reply->body = json_pack("{s:s, s:s}", "code", error_code_to_string(error->code), "detail",
                        error_message(error));
        else
                reply->body = json_incref(body);
}

int rig_call(struct rig *rig, struct http_client *client, const char *method, const char *path, json_t *body,
        json_t **ret_body)
{
        _cleanup_free_ char *epoch = rig->epoch ? alloc_printf("X-Drover-Epoch: %s", rig->epoch) : NULL;
        _cleanup_free_ char *id =
                rig->request_id ? alloc_printf("X-Drover-Request: %s", rig->request_id) : NULL;
        const char *headers[3] = {NULL};
        size_t n = 0;
        struct reply reply = {0};
        struct http_call_spec spec = {.method = method,
                .address = agent_listen_address(rig->agent),
                .peer_name = RIG_HOST_UID ".host.drover",
                .path = path,
                .body = body,
                .headers = headers,
                .timeout_ms = CALL_TIMEOUT_MS};

        if (epoch)
                headers[n++] = epoch;
        if (id)
                headers[n++] = id;
        assert_int_equal(http_client_call(client, &spec, on_reply, &reply, NULL, NULL), 0);
        assert_int_equal(loop_wait(rig->loop, &reply.came, CALL_TIMEOUT_MS + 5000), 0);
        json_decref(body);
        if (ret_body)
                *ret_body = reply.body;
        else
                json_decref(reply.body);
        return reply.status;
}

void rig_configure(struct rig *rig)
{
        _cleanup_free_ char *store = alloc_printf("%s/store", rig->folder);

        assert_int_equal(rig_call(rig, rig->manager, "PUT", "/agent/v1/datastores/local",
                                 json_pack("{s:s, s:n}", "path", store, "id"), NULL),
                200);
        assert_int_equal(rig_call(rig, rig->manager, "PUT", "/agent/v1/switches/sw0",
                                 json_pack("{s:n, s:n}", "uplink", "mtu"), NULL),
                200);
        assert_int_equal(rig_call(rig, rig->manager, "PUT", "/agent/v1/port-groups/default",
                                 json_pack("{s:s, s:i}", "switch", "sw0", "vlan", 0), NULL),
                200);
}

json_t *rig_vm_document(void)
{
        return json_pack("{s:s, s:s, s:s, s:{s:i, s:I, s:s, s:s, s:[{s:s, s:s}]}}", "kind", "vm", "name",
                "t1", "uid", RIG_VM_UID, "spec", "cpus", 1, "memory_bytes", (json_int_t)(64 << 20),
                "accelerator", "tcg", "datastore", "local", "nics", "port_group", "default", "mac",
                "52:54:00:00:00:07");
}

int rig_vm(struct rig *rig, const char *verb, json_t *body, json_t **ret_body)
{
        _cleanup_free_ char *path = alloc_printf("/agent/v1/vms/%s%s%s", RIG_VM_UID, *verb ? "/" : "", verb);

        return rig_call(rig, rig->manager, *verb ? "POST" : "GET", path, body, ret_body);
}

bool rig_wait_power(struct rig *rig, const char *power)
{
        uint64_t until = clock_now_ms(&clock_system) + POWER_TIMEOUT_MS;
        enum vm_power wanted;

        assert_int_equal(vm_power_from_string(power, &wanted), 0);
        while (clock_now_ms(&clock_system) < until) {
                const struct vm *vm = vm_find(rig->agent, RIG_VM_UID);

                if (vm && vm_power(vm) == wanted && !vm->job)
                        return true;
                (void)loop_iterate(rig->loop, 100);
        }
        return false;
}

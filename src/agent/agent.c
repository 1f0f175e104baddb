/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "agent/api.h"
#include "agent/cgroup.h"
#include "agent/checkpoints.h"
#include "agent/events.h"
#include "agent/forecast.h"
#include "agent/handshake.h"
#include "agent/host.h"
#include "agent/host_list.h"
#include "agent/identity.h"
#include "agent/image_jobs.h"
#include "agent/migration.h"
#include "agent/request_cache.h"
#include "agent/siblings.h"
#include "agent/storage_move.h"
#include "agent/stores.h"
#include "agent/switch_list.h"
#include "agent/vm_adopt.h"
#include "agent/vm_create.h"
#include "agent/vm_job.h"
#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "fabric/ovs.h"
#include "fabric/vswitch.h"
#include "io/file.h"
#include "io/http_client.h"
#include "io/http_server.h"
#include "io/netlink.h"

/* sun_path has 108 bytes; "/vms/UUID/guest-agent.sock" and the NUL take 59 of them. */
#define RUNTIME_DIR_MAX_CHARS 49
#define TEND_MS 5000 /* between two looks at distributed switches */
/* While a guest is paused: a look takes milliseconds, and seconds where Open vSwitch hangs. */
#define TEND_PUT_OFF_MS 250
#define TEND_PUT_OFF_MAX 20

/* The way from agent_start() to the open port. */
struct agent_startup {
        struct vm_adoption *adoption;
        loop_fn ready;
        void *userdata;
};

/* --- Parts ------------------------------------------------------------------------------------------------------ */

static int make_folders(struct agent *agent, struct error **ret_error)
{
        _cleanup_free_ char *lock = NULL;
        int r;

        if (strlen(agent->config.runtime_dir) > RUNTIME_DIR_MAX_CHARS)
                return error_set(ret_error, ERROR_BAD_DOCUMENT, "Choose a shorter one.",
                        "runtime-dir %s has more than %d characters: socket paths below it would be too long",
                        agent->config.runtime_dir, RUNTIME_DIR_MAX_CHARS);
        r = file_make_dirs(agent->config.state_dir, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "state-dir %s", agent->config.state_dir);
        r = file_make_dirs(agent->config.runtime_dir, 0700);
        if (r < 0)
                return error_from_errno(ret_error, r, "runtime-dir %s", agent->config.runtime_dir);
        lock = alloc_printf("%s/lock", agent->config.state_dir);
        if (!lock)
                return error_from_errno(ret_error, ENOMEM, "agent");
        r = file_lock(lock, &agent->lock_fd);
        if (r == -EWOULDBLOCK)
                return error_set(ret_error, ERROR_CONFLICT, "Stop it first.",
                        "another agent uses state-dir %s already", agent->config.state_dir);
        if (r < 0)
                return error_from_errno(ret_error, r, "%s", lock);
        return 0;
}

static int load_identity(struct agent *agent, struct error **ret_error)
{
        int r = identity_load(agent->config.state_dir, &agent->identity, ret_error);

        if (r < 0)
                return r;
        /* The cluster knows the host by the name that it was enrolled with. */
        r = alloc_replace(&agent->config.name, agent->identity->name);
        return r < 0 ? error_from_errno(ret_error, r, "identity") : 0;
}

static int make_client(struct agent *agent, struct error **ret_error)
{
        const struct http_client_config config = {
                .ca_pem = agent->identity->ca_pem,
                .cert_pem = agent->identity->cert_pem,
                .key_pem = agent->identity->key_pem,
        };

        return http_client_new(agent->loop, &config, &agent->client, ret_error);
}

static int make_checkpoints(struct agent *agent, struct error **ret_error)
{
        uint64_t space = 0, hours = 1; /* checked when they were read */

        (void)text_parse_size(agent->config.checkpoint_space, &space);
        (void)text_parse_u64(agent->config.checkpoint_hours, 1, 8760, &hours);
        return checkpoints_new(agent->config.state_dir, space, hours * 3600, &agent->checkpoints, ret_error);
}

static int make_siblings(struct agent *agent, struct error **ret_error)
{
        uint64_t space = 0; /* checked when it was read */
        int r;

        (void)text_parse_size(agent->config.sibling_space, &space);
        r = siblings_new(agent->loop, space, &agent->siblings);
        return r < 0 ? error_from_errno(ret_error, r, "memory for pages of several guests") : 0;
}

/* Distributed switches can be changed by whoever may call ovs-vsctl. */
static void on_tending(void *userdata)
{
        struct agent *agent = userdata;
        bool put_off = agent->n_put_off < TEND_PUT_OFF_MAX && migration_pauses_guest(agent);

        agent->n_put_off = put_off ? agent->n_put_off + 1 : 0;
        if (!put_off)
                vswitch_set_tend(agent->switches);
        if (loop_source_rearm(agent->tending, put_off ? TEND_PUT_OFF_MS : TEND_MS) < 0)
                log_warning("distributed switches are no longer looked after: no timer");
}

static int make_networks(struct agent *agent, struct error **ret_error)
{
        int r = netlink_new(&agent->netlink, ret_error);

        if (r < 0)
                return r;
        r = vswitch_set_new(agent->netlink, &agent->switches);
        if (r == 0)
                r = ovs_new(agent->config.openvswitch, agent->netlink, loop_clock(agent->loop), &agent->ovs);
        if (r == 0)
                r = loop_add_timer(agent->loop, TEND_MS, on_tending, agent, &agent->tending);
        if (r < 0)
                return error_from_errno(ret_error, r, "switches");
        vswitch_set_use_ovs(agent->switches, agent->ovs, loop_clock(agent->loop));
        return api_config_load_networks(agent, ret_error);
}

static int make_parts(struct agent *agent, struct error **ret_error)
{
        int r = make_folders(agent, ret_error);

        if (r == 0)
                r = load_identity(agent, ret_error);
        if (r == 0)
                r = api_load_epoch(agent, ret_error);
        if (r == 0)
                r = host_list_new(agent->config.state_dir, "removed-hosts", &agent->removed_hosts, ret_error);
        if (r == 0)
                r = host_list_new(agent->config.state_dir, "fenced-hosts", &agent->fenced_hosts, ret_error);
        if (r == 0)
                r = handshake_new(agent, &agent->handshake, ret_error);
        if (r == 0)
                r = make_checkpoints(agent, ret_error);
        if (r == 0) {
                r = forecasts_new(agent, &agent->forecasts);
                if (r < 0)
                        error_from_errno(ret_error, r, "agent");
        }
        if (r == 0)
                r = make_siblings(agent, ret_error);
        if (r == 0)
                r = make_client(agent, ret_error);
        if (r == 0)
                r = make_networks(agent, ret_error);
        if (r == 0)
                r = stores_new(agent->loop, agent->config.state_dir, &agent->stores, ret_error);
        if (r == 0)
                r = storage_moves_new(agent, &agent->storage_moves, ret_error);
        if (r == 0)
                r = image_jobs_new(agent, &agent->image_jobs, ret_error);
        if (r < 0)
                return r;
        r = events_new(agent->loop, &agent->events);
        if (r == 0)
                r = request_cache_new(loop_clock(agent->loop), &agent->requests);
        if (r == 0)
                r = cgroup_new(agent->config.cgroup_root, &agent->cgroup);
        return r < 0 ? error_from_errno(ret_error, r, "agent") : 0;
}

int agent_new(
        struct loop *loop, struct agent_config *config, struct agent **ret_agent, struct error **ret_error)
{
        _cleanup_(agent_freep) struct agent *agent = ALLOC(struct agent);
        int r;

        if (!agent)
                return error_from_errno(ret_error, ENOMEM, "agent");
        *agent = (struct agent){.loop = loop, .config = *config, .lock_fd = -1};
        map_init(&agent->vms);
        list_init(&agent->creations);
        list_init(&agent->switch_lists);
        r = make_parts(agent, ret_error);
        if (r < 0) {
                *config = agent->config; /* the caller's still; a changed name is part of it */
                agent->config = (struct agent_config){0};
                return r;
        }
        *config = (struct agent_config){0};
        log_info("host %s (%s); %s", agent->config.name, agent->identity->host_uid,
                cgroup_status(agent->cgroup));
        *ret_agent = TAKE_PTR(agent);
        return 0;
}

/* --- Start ------------------------------------------------------------------------------------------------------ */

static void fail(struct agent *agent, struct error *error)
{
        log_error("%s%s%s", error_message(error), error && error->hint ? ". " : "",
                error && error->hint ? error->hint : "");
        error_free(error);
        loop_exit(agent->loop, EXIT_FAILURE);
}

static void on_adopted(void *userdata)
{
        struct agent *agent = userdata;
        struct agent_startup *startup = agent->startup;
        struct error *error = NULL;
        loop_fn ready = startup->ready;
        void *ready_userdata = startup->userdata;
        int r;

        vm_adoption_free(TAKE_PTR(startup->adoption));
        free(TAKE_PTR(agent->startup));
        agent->adopted = true;
        r = migration_recover_all(agent);
        if (r == 0)
                r = storage_move_recover_all(agent);
        if (r == 0)
                r = image_jobs_recover_all(agent);
        if (r < 0)
                (void)error_from_errno(&error, r, "migrations of the run before cannot be taken up");
        else
                r = api_start(agent, &error);
        if (r < 0) {
                fail(agent, error);
                return;
        }
        log_info("listening on %s", agent->address);
        if (ready)
                ready(ready_userdata);
}

static void on_probed(void *userdata, struct error *error)
{
        struct agent *agent = userdata;
        struct error *failure = NULL;

        if (error)
                (void)error_set(&failure, error->code, error->hint, "%s", error_message(error));
        if (error || vm_adopt_all(agent, on_adopted, agent, &agent->startup->adoption, &failure) < 0)
                fail(agent, failure);
}

int agent_start(struct agent *agent, loop_fn ready, void *userdata, struct error **ret_error)
{
        agent->startup = ALLOC(struct agent_startup);
        if (!agent->startup)
                return error_from_errno(ret_error, ENOMEM, "agent");
        agent->startup->ready = ready;
        agent->startup->userdata = userdata;
        return host_new(agent, on_probed, agent, &agent->host, ret_error);
}

/* --- End -------------------------------------------------------------------------------------------------------- */

void agent_free(struct agent *agent)
{
        struct map_item *item, *spare;

        if (!agent)
                return;
        if (agent->startup)
                vm_adoption_free(agent->startup->adoption);
        free(agent->startup);
        migration_free_all(agent);
        vm_create_cancel_all(agent);
        switch_list_cancel_all(agent);
        image_jobs_free(agent->image_jobs);
        agent->image_jobs = NULL;
        storage_moves_free(agent->storage_moves);
        agent->storage_moves = NULL;
        map_for_each (item, spare, &agent->vms)
                vm_free(item->value);
        map_deinit(&agent->vms);
        forecasts_free(agent->forecasts);
        events_free(agent->events);
        http_server_free(agent->server); /* unanswered requests end here, and let go of their cache entries */
        http_client_free(agent->client);
        request_cache_free(agent->requests);
        handshake_free(agent->handshake);
        host_list_free(agent->removed_hosts);
        host_list_free(agent->fenced_hosts);
        checkpoints_free(agent->checkpoints);
        siblings_free(agent->siblings);
        stores_free(agent->stores);
        host_free(agent->host);
        cgroup_free(agent->cgroup);
        loop_source_free(agent->tending);
        vswitch_set_free(agent->switches);
        ovs_free(agent->ovs);
        netlink_free(agent->netlink);
        identity_free(agent->identity);
        free(agent->address);
        fd_closep(&agent->lock_fd);
        agent_config_deinit(&agent->config);
        free(agent);
}

const char *agent_host_uid(const struct agent *agent)
{
        return agent->identity->host_uid;
}

const char *agent_listen_address(const struct agent *agent)
{
        return agent->address;
}

void agent_publish(struct agent *agent, const char *event, json_t *document)
{
        if (!document)
                return;
        events_publish(agent->events, event, document);
        json_decref(document);
}

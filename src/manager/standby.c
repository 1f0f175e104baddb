/* SPDX-License-Identifier: Apache-2.0 */
#include "manager/standby.h"

#include <string.h>

#include "base/alloc.h"
#include "io/http_server.h"
#include "manager/api.h"
#include "manager/ca.h"
#include "manager/store.h"
#include "manager/version.h"

#define CONNECTIONS_MAX 500
#define WHY_SIZE 512

struct standby {
        const char *name;
        struct ca ca;
        struct http_server *server;
        char leader[STORE_SERVER_SIZE];
        char why[WHY_SIZE];
};

static struct error *refusal(const struct standby *standby)
{
        struct error *error = NULL;

        if (*standby->leader)
                error_set(&error, ERROR_NOT_LEADING,
                        "Ask that one; give the CLI all of them: "
                        "DROVER_SERVER=https://A:8443,https://B:8443.",
                        "manager %s stands by: %s leads", standby->name, standby->leader);
        else
                error_set(&error, ERROR_NOT_LEADING, "Try again in a few seconds; its log says more.",
                        "manager %s does not lead: %s", standby->name,
                        *standby->why ? standby->why : "nobody does yet");
        return error;
}

/* Answers every request itself. */
static bool admit(struct http_request *request, void *userdata)
{
        const struct standby *standby = userdata;
        const char *path = http_request_path(request);

        if (!strcmp(path, "/healthz")) {
                http_request_reply_json(request, 200, json_pack("{s:s}", "status", "ok"));
        } else if (!strcmp(path, "/version")) {
                http_request_reply_json(request, 200,
                        json_pack("{s:s, s:s, s:s, s:n, s:s, s:b, s:s?}", "name", "drover-manager", "version",
                                DROVER_VERSION, "api", "v1", "epoch", "server", standby->name, "leads", 0,
                                "leader", *standby->leader ? standby->leader : NULL));
        } else {
                http_request_add_header(request, "Retry-After", "1");
                http_request_reply_error(request, refusal(standby));
        }
        return false;
}

int standby_new(struct loop *loop, const char *state_dir, const char *name, int listen_fd,
        struct standby **ret_standby, struct error **ret_error)
{
        struct standby *standby = ALLOC(struct standby);
        size_t n_routes;
        const struct http_route *routes = api_routes(&n_routes);
        int r;

        if (!standby)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        standby->name = name;
        r = ca_load(state_dir, clock_unix_ms(loop_clock(loop)), &standby->ca, ret_error);
        if (r >= 0)
                r = http_server_new(loop,
                        &(struct http_server_config){.listen_fd = listen_fd,
                                .cert_pem = standby->ca.manager_pem,
                                .key_pem = standby->ca.manager_key,
                                .connections_max = CONNECTIONS_MAX,
                                .routes = routes,
                                .n_routes = n_routes,
                                .admit = admit,
                                .admit_early = true,
                                .userdata = standby},
                        &standby->server, ret_error);
        if (r < 0) {
                standby_free(standby);
                return r;
        }
        *ret_standby = standby;
        return 0;
}

void standby_free(struct standby *standby)
{
        if (!standby)
                return;
        http_server_free(standby->server);
        ca_deinit(&standby->ca);
        free(standby);
}

void standby_tell(struct standby *standby, const char *leader, const char *why)
{
        snprintf(standby->leader, sizeof(standby->leader), "%s", leader ?: "");
        snprintf(standby->why, sizeof(standby->why), "%s", why ?: "");
}

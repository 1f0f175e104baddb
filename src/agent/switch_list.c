/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/switch_list.h"

#include "agent/agent.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "fabric/ovs.h"
#include "fabric/vswitch.h"
#include "io/http_server.h"

struct question {
        struct switch_list *list;
        struct ovs_find *find;
        char name[NAME_MAX_CHARS + 1]; /* of the switch */
};

struct switch_list {
        struct agent *agent;
        struct list link; /* in agent->switch_lists */
        struct http_request *request;
        struct question questions[VSWITCH_MAX_SWITCHES];
        size_t n, n_open;
        json_t *learned; /* by switch */
};

static void switch_list_free(struct switch_list *list)
{
        if (!list)
                return;
        for (size_t i = 0; i < list->n; i++)
                ovs_find_free(list->questions[i].find);
        list_remove(&list->link);
        json_decref(list->learned);
        free(list);
}

static void reply(struct switch_list *list)
{
        http_request_reply_json(
                list->request, 200, vswitch_set_list_switches(list->agent->switches, list->learned));
        switch_list_free(list);
}

static void on_listed(void *userdata, json_t *macs)
{
        struct question *question = userdata;
        struct switch_list *list = question->list;

        ovs_find_free(TAKE_PTR(question->find));
        if (macs)
                (void)json_object_set(list->learned, question->name, macs); /* else it is left out */
        if (--list->n_open == 0)
                reply(list);
}

void switch_list_answer(struct agent *agent, struct http_request *request)
{
        _cleanup_json_ json_t *bridges = vswitch_set_distributed_bridges(agent->switches);
        struct switch_list *list = ALLOC(struct switch_list);
        const char *name;
        json_t *bridge;

        if (!list || !bridges || !(list->learned = json_object())) {
                free(list);
                return http_request_reply_json(request, 200, NULL);
        }
        list->agent = agent;
        list->request = request;
        list_append(&agent->switch_lists, &list->link);
        json_object_foreach (bridges, name, bridge) {
                struct question *question = &list->questions[list->n];

                if (list->n == ARRAY_SIZE(list->questions))
                        break;
                question->list = list;
                snprintf(question->name, sizeof(question->name), "%s", name);
                if (ovs_list_macs(agent->ovs, agent->loop, json_string_value(bridge), on_listed, question,
                            &question->find) == 0) {
                        list->n++;
                        list->n_open++;
                }
        }
        if (list->n_open == 0)
                reply(list);
}

void switch_list_cancel_all(struct agent *agent)
{
        struct switch_list *list, *spare;

        list_for_each_safe (list, spare, &agent->switch_lists, link) {
                struct error *error = NULL;

                error_set(&error, ERROR_CANCELLED, NULL, "the agent is ending");
                http_request_reply_error(list->request, error);
                switch_list_free(list);
        }
}

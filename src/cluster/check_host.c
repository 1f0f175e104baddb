/* SPDX-License-Identifier: Apache-2.0 */

/* Rules about the destination as such: its state, what is done to it, the version of its agent. */

#include <string.h>

#include "cluster/check.h"

void check_host_connected(struct check *check)
{
        const char *state = check_text(check->host, "state");

        check_tell(check, check->host_name, strcmp(state, "connected") != 0, "host %s is %s",
                check->host_name, *state ? state : "not known");
}

void check_host_same(struct check *check)
{
        bool same = !strcmp(check_text(check->input->source, "uid"), check_text(check->target, "uid"));

        check_tell(
                check, check->host_name, same, "the virtual machine is on host %s already", check->host_name);
}

/* From its beginning on, while the host is being emptied. */
void check_host_maintenance(struct check *check)
{
        const json_t *maintenance = json_object_get(check->host, "maintenance");
        const char *reopening = check->input->reopening;
        bool reopens = reopening && *reopening && !strcmp(check_text(maintenance, "task"), reopening);

        check_tell(check, check->host_name, json_is_object(maintenance) && !reopens,
                "host %s is in maintenance, since %s, by %s", check->host_name,
                check_text(maintenance, "since"), check_text(maintenance, "by"));
}

/* After these a host takes no VM any more. */
static const char *const leaving[] = {"host.remove"};

static bool is_leaving(const char *action)
{
        for (size_t i = 0; i < ARRAY_SIZE(leaving); i++)
                if (!strcmp(action, leaving[i]))
                        return true;
        return false;
}

void check_host_task(struct check *check)
{
        json_t *task;
        size_t i;

        json_array_foreach ((json_t *)check->input->tasks, i, task) {
                if (strcmp(check_text(task, "host_uid"), check_text(check->target, "uid")) ||
                        !is_leaving(check_text(task, "action")))
                        continue;
                check_broken(check, check->host_name, NULL, "task %s (%s) works on host %s",
                        check_text(task, "name"), check_text(task, "action"), check->host_name);
                return;
        }
        check_met(check, check->host_name);
}

/* strverscmp() knows that 0.10 comes after 0.9. */
void check_host_version(struct check *check)
{
        const char *here = check_text(check_status(check->input->source), "version");
        const char *there = check_text(check->host, "version");
        bool older = *here && *there && strverscmp(there, here) < 0;

        check_tell(check, check->host_name, older, "host %s has drover %s, which is older than %s on host %s",
                check->host_name, there, here, check_text(check->input->source, "name"));
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Affinity rules (affinity.h): those that must be kept, and those that should. */

#include <errno.h>

#include "cluster/affinity.h"
#include "cluster/check.h"

int check_affinity_prepare(struct checks *checks)
{
        const struct checks_input *input = &checks->input;

        checks->affinity = affinity_of_vm(input->affinity_rules, input->vm, input->vms, input->tasks);
        return checks->affinity ? 0 : -ENOMEM;
}

static void tell_rules(struct check *check, bool must)
{
        json_t *item;
        size_t i;

        json_array_foreach (check->checks->affinity, i, item) {
                _cleanup_free_ char *cause = NULL;

                if (json_is_true(json_object_get(item, "must")) != must)
                        continue;
                if (affinity_judge(item, check->host_name, &cause) < 0)
                        check->result = -ENOMEM;
                else
                        check_tell(check, check_text(item, "name"), cause != NULL, "%s", cause ?: "");
        }
}

void check_affinity_must(struct check *check)
{
        tell_rules(check, true);
}

void check_affinity_should(struct check *check)
{
        tell_rules(check, false);
}

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Ranks hosts for a virtual machine. Pure: the same documents always give the same order. */

#include <jansson.h>

#include "base/error.h"

struct placement_input {
        const json_t *vm;     /* VM document */
        const json_t *source; /* document of the host it runs on, never ranked; NULL: to be started */
        const json_t *home;   /* see struct checks_input */
        const json_t *hosts;  /* array of host documents */
        const json_t *vms;    /* array of all VM documents; may be NULL */
};

/* Array of {"host", "ok", "score", "reasons": [...]}, best first, hosts that fail a check last; the caller's. NULL
 * without memory. The score is 0 (worst) to 100: two thirds free memory left after the placement, one third idle
 * CPU (load per CPU). The VM's home comes first when it passes the checks. Ties are broken by name. */
json_t *placement_rank(const struct placement_input *input);

/* Name of the first host that is ok (borrowed from the ranking), or sets NO_RESOURCES with the reasons. */
int placement_best(const json_t *ranking, const char **ret_host, struct error **ret_error);

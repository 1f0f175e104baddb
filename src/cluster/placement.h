/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Ranks hosts for a virtual machine. Pure: the same documents always give the same order. */

#include <jansson.h>

#include "base/error.h"
#include "cluster/checks.h"

/* Array of {"host", "ok", "score", "reasons": [...], "checks": [...]}, best first, hosts that fail a check last,
 * those that fail the fewest before the others; the
 * caller's. NULL without memory. The source is not ranked. The score is 0 (worst) to 100: the weighted mean of memory left
 * free after the placement, idle CPU, absence of pressure (PSI), spare bandwidth, quick storage and a cheap migration, of
 * what is known of the host; each warning takes WARNING_COST off, and the VM's home (where it was stopped) gets HOME_BONUS. `checks` are the rules that are broken, warnings
 * included; `reasons` says all of it in words. Ties are broken by
 * name.
 *
 * hosts: array of host documents. forecasts: {host name: {"total_ms", "path_bps"}}, may be NULL. */
json_t *placement_rank(const struct checks_input *checks, const json_t *hosts, const json_t *forecasts);

/* The same in pieces, for whoever has something else to do meanwhile. Borrows the documents; `input` is copied. */
struct placement;
struct placement *placement_new(
        const struct checks_input *input, const json_t *hosts, const json_t *forecasts);
void placement_free(struct placement *placement);
DEFINE_CLEANUP(struct placement *, placement_free)
/* Judges up to n_hosts more. 1: there are more; 0: that was all; -ENOMEM. */
int placement_step(struct placement *placement, size_t n_hosts);
/* Of what was judged, as placement_rank(). Once. */
json_t *placement_ranking(struct placement *placement);

/* Name of the first host that is ok (borrowed from the ranking), or sets NO_RESOURCES with the reasons. */
int placement_best(const json_t *ranking, const char **ret_host, struct error **ret_error);

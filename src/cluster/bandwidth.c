/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/bandwidth.h"

#include <errno.h>
#include <stdlib.h>

#include "base/alloc.h"

/* What is on one link. */
struct load {
        uint64_t promised_bps;
        uint64_t weights;
        unsigned int first_weight;
        size_t n_flows;
        bool uneven; /* weights differ, or something is promised */
};

static void add(struct load *load, const struct bandwidth_flow *flow)
{
        if (!load->n_flows++)
                load->first_weight = flow->weight;
        load->promised_bps += flow->min_bps;
        load->weights += flow->weight;
        load->uneven = load->uneven || flow->min_bps || flow->weight != load->first_weight;
}

/* 0: no limit. */
static uint64_t share_of(const struct load *load, uint64_t link_bps, const struct bandwidth_flow *flow)
{
        double promised, rest;

        if (!link_bps || load->n_flows < 2 || !load->uneven || !load->weights)
                return 0;
        promised = (double)flow->min_bps;
        if (load->promised_bps > link_bps)
                promised *= (double)link_bps / (double)load->promised_bps;
        rest = load->promised_bps < link_bps ? (double)(link_bps - load->promised_bps) : 0;
        return MAX((uint64_t)(promised + rest * flow->weight / (double)load->weights), UINT64_C(1));
}

int bandwidth_share(const uint64_t *links_bps, size_t n_links, struct bandwidth_flow *flows, size_t n_flows)
{
        _cleanup_free_ struct load *loads = alloc_array(n_links + 1, sizeof(*loads));

        if (!loads)
                return -ENOMEM;
        for (size_t i = 0; i < n_flows; i++)
                for (size_t k = 0; k < ARRAY_SIZE(flows[i].links); k++)
                        add(&loads[flows[i].links[k]], &flows[i]);
        for (size_t i = 0; i < n_flows; i++) {
                flows[i].limit_bps = 0;
                for (size_t k = 0; k < ARRAY_SIZE(flows[i].links); k++) {
                        size_t link = flows[i].links[k];
                        uint64_t share = share_of(&loads[link], links_bps[link], &flows[i]);

                        if (share && (!flows[i].limit_bps || share < flows[i].limit_bps))
                                flows[i].limit_bps = share;
                }
        }
        return 0;
}

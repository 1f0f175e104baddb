/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How much of a running guest's memory is still what another host keeps of it (checkpoint.h): what a forecast of a return visit
 * needs. The sampler tells the digests of some runs of its pages, and a `drover-mover compare` beside the checkpoint looks at the
 * same pages there. Only keyed digests travel, of a key that only the guest's host has (io/checkpoint_keys.h). */

#include <jansson.h>

#include "io/aead.h"
#include "mover/wire.h"

#define COMPARE_RUN_PAGES 8
#define COMPARE_RUNS_MAX \
        256 /* 2,048 digests and their places fit into a control message as hexadecimal digits */

/* Runs of pages by rising address, each within a stripe. */
struct compared_pages {
        uint8_t key[AEAD_KEY_SIZE]; /* the checkpoint's page key; of no use to one who only reads digests */
        uint64_t n_runs;
        uint64_t first[COMPARE_RUNS_MAX]; /* page number, a multiple of COMPARE_RUN_PAGES */
        uint64_t digests[COMPARE_RUNS_MAX *
                         COMPARE_RUN_PAGES]; /* checkpoint_page_digest(); 0: a page of zeros */
};

/* Adds the run at page `first`, of which `data` has the COMPARE_RUN_PAGES pages; the key is set. At most COMPARE_RUNS_MAX. */
void compared_pages_add(struct compared_pages *pages, uint64_t first, const uint8_t *data);
/* {runs: [first page], pages: digests}, all in hexadecimal digits but the numbers; the caller's. NULL without memory. */
json_t *compared_pages_to_json(const struct compared_pages *pages);
/* BAD_DOCUMENT when it is none, or names pages beyond ram_bytes. */
int compared_pages_from_json(
        const json_t *json, uint64_t ram_bytes, struct compared_pages *ret_pages, struct error **ret_error);

/* `drover-mover compare`: one op `compare`, one event `compared` or `failed` (docs/internals/mover-control.md). Exit code. */
int compare_run(int control_fd, bool sandbox);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Finds pages whose content one channel has sent before, so that a reference of 16 bytes goes in place of 4,096. One slot of
 * 8 bytes a page (0.2 % of RAM), at most 32 MiB a channel. Two slots make a set, which holds the two contents met last of all those
 * that fall into it: with one slot each, two contents that alternate would throw each other out, and never be found.
 *
 * What is found is certain as far as the page index is: all 16 keyed hashes of both pages are equal. A channel's thread owns
 * its table; it only ever names that channel's pages, whose versions at the sink are in the order in which they were sent. */

#include "mover/page_index.h"

struct duplicates;

/* For the `n_pages` pages of a channel. */
int duplicates_new(uint64_t n_pages, struct duplicates **ret_duplicates);
void duplicates_free(struct duplicates *duplicates);

/* A page before `page` (which the index must have recorded just now; `digest`: page_index_digest() of it) of the same content; otherwise remembers `page` and
 * returns false. Pages behind it never count: they may be sent anew before a reference to their old content is. */
bool duplicates_find(struct duplicates *duplicates, const struct page_index *index, uint64_t page,
        uint64_t digest, uint64_t *ret_from);

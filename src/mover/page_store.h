/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Contents of pages that reached this host of late, in memory that the sinks of one tenant's guests share: a page that another
 * of them has received need not come again. A ring: what is new takes the place of what is oldest. Nobody has to be trusted
 * and nothing is locked: whoever reads a page computes its digest (io/content_digest.h) again, so what is being
 * overwritten, or was made up, is not found. */

#include "io/content_digest.h"
#include "mover/wire.h"

struct page_store;

/* Bytes of memory for so many pages. */
uint64_t page_store_size(uint64_t n_pages);
/* Maps `fd`, all of its `size` bytes, which the agent filled with zeros before the first sink came; the fd stays the caller's.
 * -EINVAL: too small. */
int page_store_open(int fd, uint64_t size, struct page_store **ret_store);
void page_store_close(struct page_store *store);
DEFINE_CLEANUP(struct page_store *, page_store_close)

void page_store_add(
        struct page_store *store, const uint8_t digest[static CONTENT_DIGEST_SIZE], const uint8_t *page);
/* The page's content into ret_page; false when it is not there. */
bool page_store_find(struct page_store *store, struct content_digester *digester,
        const uint8_t digest[static CONTENT_DIGEST_SIZE], uint8_t *ret_page);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the source remembers of the last version sent of each page: a keyed 64-bit hash of each 256-byte block
 * (3.1 % of RAM), and whether the page is non-zero at the sink. From it follows which blocks of a new version
 * have to go. A hash that collides would leave an old block at the sink: 2^-64 a block, and the key is random
 * for each migration, so that a guest cannot aim for it.
 *
 * Rows of different stripes may be used by different threads at a time; a stripe belongs to one channel's
 * thread. The rows come in huge pages: the first page sent of each 64 MiB of guest costs 2 MiB. */

#include "mover/wire.h"

struct page_index;

/* `secret` (WIRE_SECRET_SIZE bytes) is borrowed. */
int page_index_new(uint64_t n_pages, const uint8_t *secret, struct page_index **ret_index);
void page_index_free(struct page_index *index);
DEFINE_CLEANUP(struct page_index *, page_index_free)

/* Records `data` (one page) as sent and returns the mask of blocks that differ from the last version; all of
 * them when there was none. */
uint16_t page_index_update(struct page_index *index, uint64_t page, const uint8_t *data);
/* Records a zero page as sent; false when the sink has zeros there already. */
bool page_index_set_zero(struct page_index *index, uint64_t page);
/* True if the last version sent was not zero. */
bool page_index_is_sent(const struct page_index *index, uint64_t page);
/* Of the page's last version sent: page_content_digest() of it. */
uint64_t page_index_digest(const struct page_index *index, uint64_t page);
/* Of one page's content, 64 bits, as in docs/protocol.md (HELD). */
uint64_t page_content_digest(const uint8_t *secret, const uint8_t *data);
/* True if neither page is zero at the sink and both have the same content there, as far as the hashes tell. */
bool page_index_same(const struct page_index *index, uint64_t a, uint64_t b);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which contents the movers of one tenant's guests have sent, or are about to send, from this host to the same destination: memory
 * that they share. Who claims a content first sends it; the others refer to it (docs/protocol.md, SIBLINGS). A wrong answer costs
 * a question and an answer, never a wrong page: the sink checks. 8 bytes a content, of its digest; the table forgets when it
 * is full. Nothing is locked. */

#include "io/content_digest.h"

#define PAGE_CLAIMS_BYTES (8 * 1024 * 1024) /* a million contents: 4 GB of memory that differs */

struct page_claims;

/* Maps PAGE_CLAIMS_BYTES of `fd` (zeros in the beginning; stays the caller's). Negative errno. */
int page_claims_open(int fd, struct page_claims **ret_claims);
void page_claims_close(struct page_claims *claims);
DEFINE_CLEANUP(struct page_claims *, page_claims_close)

/* True when this content was not claimed before: send it. */
bool page_claims_take(struct page_claims *claims, const uint8_t digest[static CONTENT_DIGEST_SIZE]);

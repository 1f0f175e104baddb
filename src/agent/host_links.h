/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The host's addresses and what their interfaces carry: the manager finds the links of migrations among them. */

#include <jansson.h>

/* Array of {"address", "device", "speed_bps" (0: its driver does not say)}, loopback and link-local addresses left out; the
 * caller's. NULL without memory. */
json_t *host_links(void);

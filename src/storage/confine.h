/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shuts a helper process (offload.h) in before it looks at what others may have written: what is open may be read and written, memory had, and
 * nothing else. Whoever finds a fault in how a file is read gets no further with it. */

#include "base/error.h"

/* For good. Calls that are not allowed fail with EPERM. Does nothing under a sanitizer, whose runtime needs more. */
int confine_to_descriptors(struct error **ret_error);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What of an agent's report about a VM goes into the VM's status. */

#include <jansson.h>

/* No VM is run so often; the next one can always be taken. */
#define VM_EPOCH_MAX (INT64_C(1) << 53)

/* The status of the report (a VM document) with the name of its host: of what is in docs/vm-document.md that which has the right type
 * and size; in place of what has not, what it was before (status; may be NULL). The caller's; NULL without memory. */
json_t *vm_status_reported(const json_t *report, const json_t *before, const char *host_name);
/* The owner epoch of a VM document, recorded or reported: 0 to VM_EPOCH_MAX, whatever it says. */
json_int_t vm_status_epoch(const json_t *vm);

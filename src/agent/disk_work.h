/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Changes of a VM's disk images that leave them where they are: a larger size, snapshots inside qcow2 images. With QEMU, which has the images
 * open, while there is one; with qemu-img for a VM that is off. Each is looked at first and again afterwards, and what is done
 * already is not done twice: so whoever got no answer asks again (docs/decisions/0036). docs/internals/agent-api.md has the documents. */

#include "io/http_server.h"

struct disk_work;

/* POST /agent/v1/vms/{uid}/disk-work */
void api_vm_disk_work(struct http_request *request, void *agent);

/* Gives up what it waits for; of a VM's job. Accepts NULL. */
void disk_work_free(struct disk_work *work);

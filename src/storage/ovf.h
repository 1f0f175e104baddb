/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Descriptions of virtual machines from other products: OVF 1.x and 2.x (DMTF DSP0243), as VMware, VirtualBox and others write it, and the
 * manifests beside them. expat parses; entities, document types and anything that is not in the text itself are refused. Neither does I/O. */

#include <jansson.h>

#include "base/error.h"

#define OVF_MAX_BYTES ((size_t)4 << 20)
#define OVF_MANIFEST_MAX_BYTES ((size_t)256 << 10)

/* *ret_description, the caller's: {"name", "cpus", "memory_bytes", "firmware": "bios"|"uefi",
 * "disks": [{"id", "file", "capacity_bytes"}], in the order in which the machine has them,
 * "nics": [{"network", "model": "e1000"|"virtio"}]}. Files are names of one folder. BAD_DOCUMENT, NOT_SUPPORTED, TOO_LARGE; `name` is for
 * messages. */
int ovf_parse(
        const char *text, size_t len, const char *name, json_t **ret_description, struct error **ret_error);

/* Lines "SHA256(FILE)= HEX" as {"FILE": {"hash": "SHA256", "hex": HEX}}, the caller's. BAD_DOCUMENT. */
int ovf_parse_manifest(
        const char *text, size_t len, const char *name, json_t **ret_digests, struct error **ret_error);

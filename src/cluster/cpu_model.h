/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* CPU models as QEMU's -cpu takes them, MODEL[,+FEATURE|,-FEATURE]..., held against what hosts offer
 * (docs/internals/agent-api.md: GET /agent/v1/cpu). Pure. */

#include <stdbool.h>

#include <jansson.h>

#define CPU_MODEL_UNKNOWN 1 /* the host's QEMU has no such model */

/* Which features of the model a guest cannot have there: a sorted array of names, the caller's, empty when it lacks none.
 * "host" and "max" are whatever `here` offers (a document too; NULL or without them: nothing is known to be missing). 0,
 * CPU_MODEL_UNKNOWN or -ENOMEM. */
int cpu_model_missing(const char *model, const json_t *here, const json_t *there, json_t **ret_missing);

/* What a guest with the model has there: a sorted array of names, the caller's; empty for a model that is not known. 0 or
 * -ENOMEM. */
int cpu_model_features(const char *model, const json_t *there, json_t **ret_features);

/* The model of that name among those of a host (document), borrowed; NULL. */
const json_t *cpu_model_find(const json_t *cpu, const char *name);

/* "a, b, c" of an array of names, the caller's; NULL without memory. */
char *cpu_model_names_text(const json_t *names);

/* An agent's answer to GET /agent/v1/cpu is what docs/internals/agent-api.md says, and not too long. Nothing else here may see one that is
 * not. */
bool cpu_document_is_valid(const json_t *document);

/* Whatever features follow, it means another processor on each host: host. */
bool cpu_model_is_of_host(const char *model);

/* NAME[,+FEATURE|-FEATURE]..., as QEMU takes it (and src/vmm/vm_config.c checks it). */
bool cpu_model_is_valid(const char *model);

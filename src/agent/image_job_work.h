/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a job of image_jobs.h does, in its helper process (storage/offload.h). */

#include <jansson.h>

#include "base/error.h"

struct stores;

#define IMAGE_JOB_STEP_SIZE 16

/* In a file in memory that agent and helper share. */
struct image_job_progress {
        uint64_t done_bytes, total_bytes;
        char step[IMAGE_JOB_STEP_SIZE];
};

struct image_job_work {
        const char *id;
        const json_t *request;
        const char *made_path; /* of ID.made */
        struct stores *stores; /* for names, paths and ids alone */
        bool undo; /* image_job_clear(): remove what it has made, though it has its name already */
};

/* BAD_DOCUMENT unless it is a request: {"id", "kind": "read", "timeout_ms", "source": {"datastore", "path"}} for what an appliance says of itself
 * (storage/appliance.h; its disks have a "path", too), or {"id", "kind": "convert", "timeout_ms", "source": {"datastore", "path", "format", "offset", "length",
 * "digest": {"hash", "hex"}}, "target": {"datastore", "path", "format", "stream", "checksum"}}. */
int image_job_check(const json_t *request, struct error **ret_error);

/* For offload_start_stream(), with a file for the progress as descriptor; `arg` is a struct image_job_work. */
int image_job_run(void *arg, json_t **ret_result, struct error **ret_error);
/* For offload_start(): removes the half-made file. */
int image_job_clear(void *arg, json_t **ret_result, struct error **ret_error);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Work on images on this host's datastores that takes minutes: conversion of a disk from and to the formats of other products, with
 * checksums, and reading of appliances. A helper process does it (image_job_work.c); here are the jobs, their journals, and the routes for the
 * manager.
 *
 * A job writes a file of its own beside its target (".NAME.ID.part"), and gives it the target's name when it is whole and durable, never over
 * another file. The journal STATE-DIR/image-jobs/ID.json is written before it begins and is gone when the manager has forgotten the
 * job; ID.made, written before the file gets its name, says which file is the job's. An agent that finds the journal of a job that had not
 * ended removes what it has made, and begins it anew when the manager says so again: what nobody waits for any more is not done.
 *
 * docs/images.md tells the story, docs/internals/agent-api.md has the documents. */

#include <jansson.h>

#include "base/error.h"
#include "base/macros.h"

struct agent;
struct http_request;
struct image_jobs;

int image_jobs_new(struct agent *agent, struct image_jobs **ret_jobs, struct error **ret_error);
/* Ends what is under way; the next agent takes it up. Accepts NULL. */
void image_jobs_free(struct image_jobs *jobs);

/* Takes up every journal; before the API is open. 0 or negative errno. */
int image_jobs_recover_all(struct agent *agent);

/* Routes for the manager. */
void image_jobs_api_start(struct http_request *request, void *agent);
void image_jobs_api_get(struct http_request *request, void *agent);
/* With ?undo=1 also what it has made is removed. */
void image_jobs_api_forget(struct http_request *request, void *agent);

/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The answer to GET /agent/v1/switches. What the bridges of distributed switches have learned, ovs-vswitchd is asked from the event loop, all of them at once;
 * of one that does not answer in OVS_FIND_MS it is left out. */

struct agent;
struct http_request;

/* Answers the request, now or later. */
void switch_list_answer(struct agent *agent, struct http_request *request);
/* Refuses those that wait. */
void switch_list_cancel_all(struct agent *agent);

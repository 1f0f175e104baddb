/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Subscribers of GET /agent/v1/events (server-sent events). Each event carries a whole document; a subscriber that
 * is too slow is cut off and gets everything again when it comes back. */

#include <jansson.h>

#include "base/error.h"
#include "io/http_server.h"
#include "io/loop.h"

#define EVENT_SUBSCRIBERS_MAX 16
#define EVENT_BUFFER_MAX (8 << 20) /* unsent bytes of one subscriber */

struct events;

int events_new(struct loop *loop, struct events **ret_events);
/* Ends all streams. Accepts NULL. */
void events_free(struct events *events);
DEFINE_CLEANUP(struct events *, events_free)

/* Answers the request with the stream; `initial` (borrowed) is an array of [event, document] pairs sent first. */
void events_subscribe(struct events *events, struct http_request *request, const json_t *initial);
/* To all subscribers; `document` is borrowed. */
void events_publish(struct events *events, const char *event, const json_t *document);

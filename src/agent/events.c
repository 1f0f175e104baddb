/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/events.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"

#define KEEP_ALIVE_MS 15000 /* a comment line: a half-open connection is noticed, proxies keep it open */

struct subscriber {
        struct list all;
        struct events *events;
        struct http_stream *stream; /* NULL once closed */
};

struct events {
        struct list subscribers;
        size_t n_subscribers;
        struct loop_source *keep_alive;
};

static void send_to(struct subscriber *subscriber, const char *text)
{
        if (subscriber->stream)
                (void)http_stream_send(
                        subscriber->stream, text, strlen(text)); /* on_closed() follows a failure */
}

static void on_keep_alive(void *userdata)
{
        struct events *events = userdata;
        struct subscriber *subscriber, *spare;

        list_for_each_safe (subscriber, spare, &events->subscribers, all)
                send_to(subscriber, ":\n\n");
        (void)loop_source_rearm(events->keep_alive, KEEP_ALIVE_MS);
}

int events_new(struct loop *loop, struct events **ret_events)
{
        _cleanup_(events_freep) struct events *events = ALLOC(struct events);
        int r;

        if (!events)
                return -ENOMEM;
        list_init(&events->subscribers);
        r = loop_add_timer(loop, KEEP_ALIVE_MS, on_keep_alive, events, &events->keep_alive);
        if (r < 0)
                return r;
        *ret_events = TAKE_PTR(events);
        return 0;
}

static void subscriber_free(struct subscriber *subscriber)
{
        list_remove(&subscriber->all);
        subscriber->events->n_subscribers--;
        free(subscriber);
}

void events_free(struct events *events)
{
        struct subscriber *subscriber, *spare;

        if (!events)
                return;
        list_for_each_safe (subscriber, spare, &events->subscribers, all) {
                if (subscriber->stream)
                        http_stream_close(subscriber->stream);
                subscriber_free(subscriber);
        }
        loop_source_free(events->keep_alive);
        free(events);
}

static void on_closed(void *userdata)
{
        struct subscriber *subscriber = userdata;

        subscriber->stream = NULL;
        subscriber_free(subscriber);
}

/* The wire form (HTML standard, section 9.2): JSON on one line needs one data field only. */
static char *format_event(const char *event, const json_t *document)
{
        _cleanup_free_ char *text = doc_to_text(document);

        return text ? alloc_printf("event: %s\ndata: %s\n\n", event, text) : NULL;
}

void events_subscribe(struct events *events, struct http_request *request, const json_t *initial)
{
        struct subscriber *subscriber;
        struct error *error = NULL;
        size_t i;
        json_t *pair;

        if (events->n_subscribers >= EVENT_SUBSCRIBERS_MAX) {
                (void)error_set(&error, ERROR_RATE_LIMITED, "Close another one first.",
                        "there are %d event streams open already", EVENT_SUBSCRIBERS_MAX);
                http_request_reply_error(request, error);
                return;
        }
        subscriber = ALLOC(struct subscriber);
        if (!subscriber) {
                http_request_reply_error(request, NULL);
                return;
        }
        subscriber->events = events;
        list_append(&events->subscribers, &subscriber->all);
        events->n_subscribers++;
        subscriber->stream = http_request_reply_stream(
                request, "text/event-stream", EVENT_BUFFER_MAX, on_closed, subscriber);
        if (!subscriber->stream) {
                subscriber_free(subscriber);
                return;
        }
        json_array_foreach (initial, i, pair) {
                _cleanup_free_ char *text =
                        format_event(json_string_value(json_array_get(pair, 0)), json_array_get(pair, 1));

                if (text)
                        send_to(subscriber, text);
        }
}

void events_publish(struct events *events, const char *event, const json_t *document)
{
        struct subscriber *subscriber, *spare;
        _cleanup_free_ char *text = NULL;

        if (list_empty(&events->subscribers))
                return;
        text = format_event(event, document);
        if (!text) {
                log_error("out of memory: event '%s' is lost", event);
                return;
        }
        list_for_each_safe (subscriber, spare, &events->subscribers, all)
                send_to(subscriber, text);
}

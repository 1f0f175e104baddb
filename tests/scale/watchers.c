/* SPDX-License-Identifier: Apache-2.0 */

/* API clients that watch everything (GET /api/v1/events): how long it takes until each of them has heard of a change. The changes
 * are affinity rules that this program makes one after the other; the clock starts when it asks for one. Prints one line of JSON
 * at the end. Usage: dev/scale. */

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/file.h"
#include "io/http_client.h"
#include "io/loop.h"

#define FILE_MAX_BYTES 65536
#define CALL_TIMEOUT_MS 60000
#define STREAM_TIMEOUT_MS 3600000
#define LAST_WAIT_MS 10000 /* for those that have not heard of the last change */
#define PREFIX "watch-probe-"

struct probe {
        uint64_t asked_ms, answered_ms, last_ms;
        size_t n_heard;
};

struct watchers;

struct watcher {
        struct watchers *all;
        struct http_call *call;
        bool is_rule, stands;
};

struct watchers {
        struct loop *loop;
        struct http_client *client;
        const char *address;
        char *ca_pem, *authorization;
        const char *vms[2];
        uint64_t n_watchers, n_probes, interval_ms;
        struct watcher *watchers;
        struct probe *probes;
        size_t n_sent, n_standing, n_lost, n_refused;
        uint64_t n_events, n_bytes, n_resets;
        struct loop_source *timer;
};

static uint64_t now_ms(const struct watchers *all)
{
        return clock_now_ms(loop_clock(all->loop));
}

static int call(struct watchers *all, struct http_call_spec *spec, http_reply_fn reply, void *userdata,
        struct http_call **ret_call)
{
        _cleanup_error_ struct error *error = NULL;
        int r;

        spec->address = all->address;
        spec->peer_name = "manager.drover";
        spec->headers = (const char *const[]){all->authorization, NULL};
        r = http_client_call(all->client, spec, reply, userdata, ret_call, &error);
        if (r < 0)
                log_error("%s", error_message(error));
        return r;
}

/* --- Changes -------------------------------------------------------------------------------------------------------- */

static void on_changed(void *userdata, int status, json_t *body, struct error *error)
{
        struct watchers *all = userdata;

        if (error) {
                all->n_refused++;
                log_warning("a change was not made: %s", error_message(error));
                return;
        }
        for (size_t i = 0; i < all->n_sent; i++) {
                char name[48];

                snprintf(name, sizeof(name), PREFIX "%zu", i);
                if (!strcmp(name, json_string_value(json_object_get(body, "name")) ?: ""))
                        all->probes[i].answered_ms = now_ms(all);
        }
}

static void on_timer(void *userdata)
{
        struct watchers *all = userdata;
        _cleanup_json_ json_t *body = NULL;
        char name[48];

        if (all->n_sent == all->n_probes) {
                loop_exit(all->loop, 0);
                return;
        }
        snprintf(name, sizeof(name), PREFIX "%zu", all->n_sent);
        body = json_pack("{s:s, s:{s:s, s:s, s:[s,s]}}", "name", name, "spec", "type", "keep-apart", "mode",
                "should", "vms", all->vms[0], all->vms[1]);
        all->probes[all->n_sent++].asked_ms = now_ms(all);
        (void)call(all,
                &(struct http_call_spec){.method = "POST",
                        .path = "/api/v1/affinity-rules",
                        .body = body,
                        .timeout_ms = CALL_TIMEOUT_MS},
                on_changed, all, NULL);
        loop_source_rearm(all->timer, all->n_sent == all->n_probes ? LAST_WAIT_MS : all->interval_ms);
}

/* --- Streams -------------------------------------------------------------------------------------------------------- */

static bool all_heard(const struct watchers *all)
{
        for (size_t i = 0; i < all->n_probes; i++)
                if (all->probes[i].n_heard < all->n_watchers)
                        return false;
        return true;
}

static void take_rule(struct watchers *all, const char *line)
{
        const char *at = strstr(line, "\"name\":\"" PREFIX);
        struct probe *probe;
        uint64_t number = 0;

        if (!at)
                return;
        number = strtoull(at + strlen("\"name\":\"" PREFIX), NULL, 10);
        if (number >= all->n_sent)
                return;
        probe = &all->probes[number];
        probe->n_heard++;
        probe->last_ms = now_ms(all);
        if (all_heard(all))
                loop_exit(all->loop, 0);
}

static void on_line(void *userdata, const char *line)
{
        struct watcher *watcher = userdata;
        struct watchers *all = watcher->all;

        if (!watcher->stands) {
                watcher->stands = true;
                if (++all->n_standing == all->n_watchers) {
                        printf("{\"standing\": %zu}\n", all->n_standing);
                        fflush(stdout);
                        loop_source_rearm(all->timer, all->interval_ms);
                }
        }
        all->n_bytes += strlen(line) + 1;
        if (!strncmp(line, "event: ", 7)) {
                all->n_events++;
                all->n_resets += !strcmp(line + 7, "reset");
                watcher->is_rule = !strcmp(line + 7, "affinity-rule");
        } else if (watcher->is_rule && !strncmp(line, "data: ", 6))
                take_rule(all, line);
}

static void on_end(void *userdata, int status, json_t *body, struct error *error)
{
        struct watcher *watcher = userdata;

        watcher->call = NULL;
        watcher->all->n_lost++;
        log_warning("a stream has ended: %s", error ? error_message(error) : "without an error");
}

static int watch(struct watchers *all)
{
        all->watchers = alloc_array(all->n_watchers, sizeof(*all->watchers));
        all->probes = alloc_array(all->n_probes, sizeof(*all->probes));
        if (!all->watchers || !all->probes)
                return -ENOMEM;
        for (size_t i = 0; i < all->n_watchers; i++) {
                struct watcher *watcher = &all->watchers[i];
                int r;

                watcher->all = all;
                r = call(all,
                        &(struct http_call_spec){.method = "GET",
                                .path = "/api/v1/events",
                                .timeout_ms = STREAM_TIMEOUT_MS,
                                .connect_timeout_ms = CALL_TIMEOUT_MS,
                                .line = on_line},
                        on_end, watcher, &watcher->call);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* --- The program ----------------------------------------------------------------------------------------------------- */

static void print(const struct watchers *all)
{
        _cleanup_json_ json_t *reached = json_array(), *answered = json_array(), *doc = NULL;
        _cleanup_free_ char *text = NULL;
        size_t n_missed = 0;

        for (size_t i = 0; i < all->n_sent; i++) {
                const struct probe *probe = &all->probes[i];

                n_missed += all->n_watchers - MIN(probe->n_heard, (size_t)all->n_watchers);
                json_array_append_new(reached,
                        json_integer((json_int_t)(probe->last_ms - MIN(probe->asked_ms, probe->last_ms))));
                json_array_append_new(answered,
                        json_integer(
                                (json_int_t)(probe->answered_ms - MIN(probe->asked_ms, probe->answered_ms))));
        }
        doc = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:O}", "watchers",
                (json_int_t)all->n_watchers, "lost", (json_int_t)all->n_lost, "refused",
                (json_int_t)all->n_refused, "resets", (json_int_t)all->n_resets, "events",
                (json_int_t)all->n_events, "bytes", (json_int_t)all->n_bytes, "missed", (json_int_t)n_missed,
                "reached_all_ms", reached, "answered_ms", answered);
        text = doc ? doc_to_text(doc) : NULL;
        printf("%s\n", text ?: "{}");
}

static int run(struct watchers *all)
{
        _cleanup_error_ struct error *error = NULL;
        int r = loop_new(&all->loop);

        if (r >= 0)
                r = http_client_new(all->loop,
                        &(struct http_client_config){.ca_pem = all->ca_pem, .connections_kept = 1000},
                        &all->client, &error);
        if (r >= 0)
                r = loop_add_timer(all->loop, CALL_TIMEOUT_MS, on_timer, all, &all->timer);
        if (r >= 0)
                r = watch(all);
        if (r >= 0)
                r = loop_run(all->loop);
        if (r >= 0)
                print(all);
        else
                log_error("cannot watch: %s", error ? error_message(error) : strerror(-r));
        for (size_t i = 0; all->watchers && i < all->n_watchers; i++)
                http_call_cancel(all->watchers[i].call);
        http_client_free(all->client);
        loop_source_free(all->timer);
        loop_free(all->loop);
        free(all->watchers);
        free(all->probes);
        return r;
}

static int take_option(struct watchers *all, int option)
{
        _cleanup_free_ char *token = NULL;

        switch (option) {
        case 'm':
                all->address = optarg;
                return 0;
        case 'c':
                return file_read(optarg, FILE_MAX_BYTES, &all->ca_pem, NULL);
        case 't':
                if (file_read(optarg, FILE_MAX_BYTES, &token, NULL) < 0)
                        return -EINVAL;
                token[strcspn(token, "\n")] = '\0';
                all->authorization = alloc_printf("Authorization: Bearer %s", token);
                return all->authorization ? 0 : -ENOMEM;
        case 'w':
                return text_parse_u64(optarg, 1, 500, &all->n_watchers);
        case 'p':
                return text_parse_u64(optarg, 1, 1000, &all->n_probes);
        case 'i':
                return text_parse_u64(optarg, 1, 60000, &all->interval_ms);
        default:
                return -EINVAL;
        }
}

int main(int argc, char **argv)
{
        static const struct option long_options[] = {{"manager", required_argument, NULL, 'm'},
                {"ca", required_argument, NULL, 'c'}, {"token", required_argument, NULL, 't'},
                {"watchers", required_argument, NULL, 'w'}, {"probes", required_argument, NULL, 'p'},
                {"interval-ms", required_argument, NULL, 'i'}, {}};
        struct watchers all = {.n_watchers = 10, .n_probes = 10, .interval_ms = 500};
        struct rlimit files;
        int option, r = 0;

        log_init("scale-watchers", LOG_LEVEL_WARNING);
        while (r >= 0 && (option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
                r = take_option(&all, option);
        if (r < 0 || !all.address || !all.ca_pem || !all.authorization || optind + 2 != argc) {
                fputs("Usage: scale-watchers --manager A:P --ca FILE --token FILE [--watchers N] [--probes "
                      "N]\n"
                      "                      [--interval-ms N] VM VM\n",
                        stderr);
                return 2;
        }
        all.vms[0] = argv[optind];
        all.vms[1] = argv[optind + 1];
        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &files);
        }
        r = run(&all);
        free(all.ca_pem);
        free(all.authorization);
        return r < 0 ? 1 : 0;
}

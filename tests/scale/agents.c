/* SPDX-License-Identifier: Apache-2.0 */

/* Enrols simulated hosts with a manager and serves as their agents until SIGTERM; then prints what it counted, as JSON. sim.h has
 * the picture. Usage: dev/scale. */

#include "sim.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "base/text.h"
#include "io/file.h"
#include "io/pki.h"
#include "manager/json.h"

#define FILE_MAX_BYTES 65536
#define CALL_TIMEOUT_MS 120000
#define ENROL_AT_ONCE 8
#define CPU_FEATURES \
        "fpu", "sse2", "ssse3", "sse4.1", "sse4.2", "popcnt", "aes", "avx", "avx2", "bmi1", "bmi2", "fma"

uint64_t sim_random(struct sim *sim, uint64_t n)
{
        sim->random = sim->random * 6364136223846793005u + 1442695040888963407u;
        return (sim->random >> 33) % n;
}

/* --- Enrolment, as drover-agent enrol does it ----------------------------------------------------------------------- */

static void enrol_next(struct sim *sim);

static void fail(struct sim *sim, struct error *error, const char *what)
{
        log_error("%s: %s", what, error_message(error));
        sim->result = -EIO;
        loop_exit(sim->loop, 1);
}

static void call_manager(
        struct sim_host *host, const char *path, bool authorised, json_t *body, http_reply_fn reply)
{
        struct sim *sim = host->sim;
        struct error *error = NULL;

        if (http_client_call(sim->client,
                    &(struct http_call_spec){.method = "POST",
                            .address = sim->options.manager,
                            .peer_name = "manager.drover",
                            .path = path,
                            .body = body,
                            .headers = authorised ? (const char *const[]){sim->options.authorization, NULL}
                                                  : NULL,
                            .timeout_ms = CALL_TIMEOUT_MS},
                    reply, host, NULL, &error) < 0) {
                fail(sim, error, host->name);
                error_free(error);
        }
        json_decref(body);
}

static void on_certificate(void *userdata, int status, json_t *body, struct error *error)
{
        struct sim_host *host = userdata;
        struct sim *sim = host->sim;
        _cleanup_error_ struct error *own = NULL;

        if (error) {
                fail(sim, error, host->name);
                return;
        }
        snprintf(host->uid, sizeof(host->uid), "%s", json_text(body, "host_uid"));
        if (map_put(&sim->by_uid, host->uid, host, NULL) < 0 ||
                sim_host_serve(host, json_text(body, "certificate"), json_text(body, "ca"), &own) < 0) {
                fail(sim, own, host->name);
                return;
        }
        if (++sim->n_serving == sim->options.n_hosts) {
                printf("{\"serving\": %zu}\n", sim->n_serving);
                fflush(stdout);
        }
        enrol_next(sim);
}

static void on_token(void *userdata, int status, json_t *body, struct error *error)
{
        struct sim_host *host = userdata;
        const char *token = json_text(body, "enrol_token"), *secret = strrchr(token, '.');
        _cleanup_error_ struct error *own = NULL;
        _cleanup_free_ char *csr = NULL;

        if (error || !secret || pki_csr_new(host->key_pem, host->name, &csr, &own) < 0) {
                fail(host->sim, error ?: own, host->name);
                return;
        }
        call_manager(host, "/api/v1/enrol", false,
                json_pack("{s:s, s:s, s:s}", "token", secret + 1, "csr", csr, "name", host->name),
                on_certificate);
}

static void enrol_next(struct sim *sim)
{
        struct sim_host *host;

        if (sim->n_begun == sim->options.n_hosts)
                return;
        host = &sim->hosts[sim->n_begun++];
        call_manager(host, "/api/v1/hosts", true,
                json_pack("{s:s, s:s}", "name", host->name, "address", host->address), on_token);
}

/* --- The program ---------------------------------------------------------------------------------------------------- */

static int make_cpu(struct sim *sim)
{
        sim->cpu =
                json_pack("{s:s, s:s, s:s, s:[s,s,s,s,s,s,s,s,s,s,s,s], s:[{s:s, s:[], s:n, s:b, s:b, s:s, "
                          "s:[s,s,s,s,s,s,s,s,s,s,s,s]}]}",
                        "id", "simulated-1", "accelerator", "kvm", "vendor", "GenuineIntel", "features",
                        CPU_FEATURES, "models", "name", "qemu64", "missing", "alias_of", "migration_safe", 1,
                        "deprecated", 0, "vendor", "GenuineIntel", "features", CPU_FEATURES);
        return sim->cpu ? 0 : -ENOMEM;
}

static int make_hosts(struct sim *sim, struct error **ret_error)
{
        sim->hosts = alloc_array(sim->options.n_hosts, sizeof(*sim->hosts));
        if (!sim->hosts || make_cpu(sim) < 0)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        for (size_t i = 0; i < sim->options.n_hosts; i++) {
                int r = sim_host_init(sim, &sim->hosts[i], i, ret_error);

                if (r < 0)
                        return r;
        }
        return 0;
}

static void print_counts(const struct sim *sim)
{
        const struct sim_counts *c = &sim->counts;
        _cleanup_json_ json_t *doc = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "calls",
                (json_int_t)c->calls, "migrations", (json_int_t)c->migrations, "done", (json_int_t)c->done,
                "failed", (json_int_t)c->failed, "cancelled", (json_int_t)c->cancelled, "most_at_once",
                (json_int_t)c->most_at_once, "most_on_a_host", (json_int_t)c->most_on_a_host,
                "most_pauses_on_a_link", (json_int_t)c->most_on_a_link, "pauses_without_permit",
                (json_int_t)c->without_permit, "memory_exceeded", (json_int_t)c->memory_exceeded);
        _cleanup_free_ char *text = doc ? doc_to_text(doc) : NULL;

        printf("%s\n", text ?: "{}");
}

static void on_end(void *userdata)
{
        struct sim *sim = userdata;

        loop_exit(sim->loop, 0);
}

static int serve(struct sim *sim, struct error **ret_error)
{
        _cleanup_(loop_source_freep) struct loop_source *term = NULL, *interrupt = NULL;
        int r;

        r = loop_add_signal(sim->loop, SIGTERM, on_end, sim, &term);
        if (r >= 0)
                r = loop_add_signal(sim->loop, SIGINT, on_end, sim, &interrupt);
        if (r < 0)
                return error_from_errno(ret_error, r, "signals");
        r = http_client_new(sim->loop, &(struct http_client_config){.ca_pem = sim->options.ca_pem},
                &sim->client, ret_error);
        if (r >= 0)
                r = make_hosts(sim, ret_error);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ENROL_AT_ONCE; i++)
                enrol_next(sim);
        r = loop_run(sim->loop);
        if (r >= 0 && sim->result >= 0)
                print_counts(sim);
        return r < 0 ? error_from_errno(ret_error, r, "the event loop failed") : sim->result;
}

static void sim_deinit(struct sim *sim)
{
        sim_migrations_deinit(sim);
        for (size_t i = 0; sim->hosts && i < sim->options.n_hosts; i++)
                if (sim->hosts[i].sim)
                        sim_host_deinit(&sim->hosts[i]);
        free(sim->hosts);
        http_client_free(sim->client);
        map_deinit(&sim->by_uid);
        json_decref(sim->cpu);
        loop_free(sim->loop);
        free(sim->options.ca_pem);
        free(sim->options.authorization);
}

static int usage(void)
{
        fputs("Usage: scale-agents --manager A:P --ca FILE --token FILE [--hosts N] [--vms N] [--datastores "
              "N]\n"
              "                    [--copy-ms MIN-MAX] [--at-once N]\n",
                stderr);
        return 2;
}

static int read_token(struct sim_options *options, const char *path)
{
        _cleanup_free_ char *text = NULL;

        if (file_read(path, FILE_MAX_BYTES, &text, NULL) < 0)
                return -ENOENT;
        text[strcspn(text, "\n")] = '\0';
        options->authorization = alloc_printf("Authorization: Bearer %s", text);
        return options->authorization ? 0 : -ENOMEM;
}

static int take_range(struct sim_options *options, char *text)
{
        char *dash = strchr(text, '-');

        if (!dash)
                return -EINVAL;
        *dash = '\0';
        if (text_parse_u64(text, 1, 3600000, &options->copy_min_ms) < 0)
                return -EINVAL;
        return text_parse_u64(dash + 1, options->copy_min_ms, 3600000, &options->copy_max_ms);
}

static int take_option(struct sim_options *options, int option)
{
        uint64_t n = 1;
        int r = 0;

        switch (option) {
        case 'm':
                options->manager = optarg;
                break;
        case 'c':
                r = file_read(optarg, FILE_MAX_BYTES, &options->ca_pem, NULL);
                break;
        case 't':
                r = read_token(options, optarg);
                break;
        case 'h':
        case 'v':
        case 'd':
        case 'a':
                r = text_parse_u64(optarg, 1, 5000, &n);
                *(option == 'h'         ? &options->n_hosts
                        : option == 'v' ? &options->n_vms
                        : option == 'a' ? &options->at_once
                                        : &options->n_datastores) = n;
                break;
        case 'C':
                r = take_range(options, optarg);
                break;
        default:
                r = -EINVAL;
        }
        return r;
}

int main(int argc, char **argv)
{
        static const struct option long_options[] = {{"manager", required_argument, NULL, 'm'},
                {"ca", required_argument, NULL, 'c'}, {"token", required_argument, NULL, 't'},
                {"hosts", required_argument, NULL, 'h'}, {"vms", required_argument, NULL, 'v'},
                {"datastores", required_argument, NULL, 'd'}, {"copy-ms", required_argument, NULL, 'C'},
                {"at-once", required_argument, NULL, 'a'}, {}};
        struct sim sim = {.random = 1,
                .options = {.n_hosts = 10,
                        .n_vms = 20,
                        .n_datastores = 1,
                        .copy_min_ms = 5000,
                        .copy_max_ms = 20000}};
        struct rlimit files;
        struct error *error = NULL;
        int option, r;

        log_init("scale-agents", LOG_LEVEL_WARNING);
        while ((option = getopt_long(argc, argv, "", long_options, NULL)) != -1)
                if (take_option(&sim.options, option) < 0)
                        return usage();
        if (!sim.options.manager || !sim.options.ca_pem || !sim.options.authorization || optind < argc)
                return usage();
        if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
                files.rlim_cur = files.rlim_max;
                (void)setrlimit(RLIMIT_NOFILE, &files);
        }
        sim.host_memory = (json_int_t)sim.options.n_vms * SIM_MEMORY_A_VM;
        map_init(&sim.by_uid);
        map_init(&sim.migrations);
        r = loop_new(&sim.loop);
        if (r >= 0)
                r = serve(&sim, &error);
        if (r < 0 && error)
                log_error("%s", error_message(error));
        error_free(error);
        sim_deinit(&sim);
        return r < 0 ? 1 : 0;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* A job answers one request. The manager's: first the guest is sampled, then come the destinations that it named, one after the
 * other: a peer that keeps a checkpoint of the guest is asked how much of it is still the same; then the path is probed: ask the
 * peer to listen, connect, let the two movers measure. A path that cannot be measured has an error in the answer and fails
 * nothing. A peer's job only runs the other end of a probe, or the comparison. */

#include "agent/forecast.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/cgroup.h"
#include "agent/checkpoints.h"
#include "agent/config.h"
#include "agent/data_paths.h"
#include "agent/idle_meter.h"
#include "agent/mover_process.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/text.h"
#include "fabric/netdev.h"
#include "io/checkpoint_keys.h"
#include "io/http_client.h"
#include "io/pki.h"
#include "io/sock.h"

#define JOBS_MAX 8         /* at a time, of the manager's and of peers together */
#define DESTINATIONS_MAX 8 /* in one request */
#define SAMPLE_LIMIT_MS 30000
#define PROBE_LIMIT_MS 10000
/* Of a peer's comparison with its checkpoint, which reads at most 64 MiB: with eight destinations all of it fits into the manager's limit. */
#define COMPARE_LIMIT_MS 3000
#define COMPARE_CALL_MS 4000
#define COMPARED_PAGES_MAX 1000000
#define CONNECT_LIMIT_MS 3000
/* What a probe may cost a link that others use: a third of a second, never more than 32 MiB. */
#define PROBE_MS 350
#define PROBE_MAX_BYTES (32 * 1024 * 1024)
#define CERTIFICATE_HOURS 24

struct forecasts {
        struct agent *agent;
        struct list jobs;
        size_t n_jobs;
};

struct job {
        struct forecasts *owner;
        struct list order;
        struct http_request *request; /* NULL: answered */
        struct mover_process *mover;
        struct loop_source *limit, *connecting;
        struct http_call *call;
        json_t *sample, *destinations, *paths;
        const char *vm_uid; /* borrowed from the request */
        json_t *keys;       /* of the checkpoints that hosts have of the guest: {host uid: key} */
        json_t *digests; /* of the guest's pages, for each of those hosts that is asked: {host uid: digests} */
        json_t *held;    /* {pages, equal} of the destination that is being dealt with; NULL: not known */
        struct error *failure; /* of the mover under way */
        json_t *measured;      /* by the mover under way */
        char *cert_pem, *key_pem;
        char peer_fingerprint[PKI_FINGERPRINT_SIZE];
        char device[IFNAMSIZ];
        int socket_fd;
        size_t at; /* of the destinations */
        struct idle_meter idle;
};

/* No key of a checkpoint stays in memory that others get. */
static void wipe_keys(json_t *keys)
{
        const char *host;
        json_t *key;

        json_object_foreach (keys, host, key)
                doc_wipe_string(key);
        json_decref(keys);
}

static void job_free(struct job *job)
{
        if (!job)
                return;
        list_remove(&job->order);
        job->owner->n_jobs--;
        http_call_cancel(job->call);
        mover_process_free(job->mover);
        loop_source_free(job->limit);
        loop_source_free(job->connecting);
        json_decref(job->sample);
        json_decref(job->destinations);
        json_decref(job->paths);
        wipe_keys(job->keys);
        json_decref(job->digests);
        json_decref(job->held);
        json_decref(job->measured);
        error_free(job->failure);
        free(job->cert_pem);
        free(job->key_pem);
        fd_closep(&job->socket_fd);
        free(job);
}
DEFINE_CLEANUP(struct job *, job_free)

int forecasts_new(struct agent *agent, struct forecasts **ret_forecasts)
{
        struct forecasts *forecasts = ALLOC(struct forecasts);

        if (!forecasts)
                return -ENOMEM;
        forecasts->agent = agent;
        list_init(&forecasts->jobs);
        *ret_forecasts = forecasts;
        return 0;
}

void forecasts_free(struct forecasts *forecasts)
{
        struct job *job, *spare;

        if (!forecasts)
                return;
        list_for_each_safe (job, spare, &forecasts->jobs, order)
                job_free(job);
        free(forecasts);
}

static int job_new(
        struct agent *agent, struct http_request *request, struct job **ret_job, struct error **ret_error)
{
        struct forecasts *owner = agent->forecasts;
        struct job *job;

        if (owner->n_jobs >= JOBS_MAX)
                return error_set(ret_error, ERROR_BUSY, "Try again in some seconds.",
                        "%d forecasts and probes are under way on this host", JOBS_MAX);
        job = ALLOC(struct job);
        if (!job)
                return error_from_errno(ret_error, ENOMEM, "forecast");
        *job = (struct job){.owner = owner, .request = request, .socket_fd = -1};
        list_init(&job->order);
        list_append(&owner->jobs, &job->order);
        owner->n_jobs++;
        *ret_job = job;
        return 0;
}

static struct loop *loop_of(const struct job *job)
{
        return job->owner->agent->loop;
}

static void job_failed(struct job *job, struct error *error)
{
        if (job->request)
                api_reply_error(TAKE_PTR(job->request), error);
        else
                error_free(error);
        job_free(job);
}

/* --- A mover that measures ---------------------------------------------------------------------------------------- */

static void on_event(void *userdata, const char *event, const json_t *message)
{
        struct job *job = userdata;

        if (!strcmp(event, "digests")) {
                const char *host = json_string_value(json_object_get(message, "host"));

                if (host && json_object_get(job->keys, host))
                        json_object_set(job->digests, host, json_object_get(message, "digests"));
        } else if (!strcmp(event, "failed")) {
                error_free(TAKE_PTR(job->failure));
                error_set(&job->failure, ERROR_MOVER_FAILED,
                        json_string_value(json_object_get(message, "hint")), "%s",
                        json_string_value(json_object_get(message, "message")) ?: "it gave no reason");
        } else if (!strcmp(event, "sample") || !strcmp(event, "probe") || !strcmp(event, "compared")) {
                json_decref(job->measured);
                job->measured = json_copy((json_t *)message);
                json_object_del(job->measured, "event");
        }
}

static void on_limit(void *userdata)
{
        struct job *job = userdata;

        if (job->mover)
                mover_process_kill(job->mover); /* `ended` follows */
}

static int start_mover(struct job *job, enum mover_role role, uint64_t limit_ms, json_t *op, int fd,
        void (*ended)(void *userdata, struct error *failure), struct error **ret_error)
{
        const struct mover_process_handler handler = {on_event, ended, job};
        struct agent *agent = job->owner->agent;
        int r;

        loop_source_free(TAKE_PTR(job->limit));
        r = loop_add_timer(agent->loop, limit_ms, on_limit, job, &job->limit);
        if (r == 0)
                r = mover_process_start(agent->loop, agent->config.mover, role, cgroup_movers(agent->cgroup),
                        0, &handler, &job->mover, ret_error);
        if (r == 0)
                return mover_process_send(job->mover, op, &fd, 1, ret_error);
        json_decref(op);
        return r;
}

/* The mover has ended: frees it; its failure, or that of the process, is the caller's. */
static struct error *take_failure(struct job *job, const struct error *ended)
{
        struct error *failure = TAKE_PTR(job->failure);

        if (!failure && !job->measured)
                error_set(&failure, ERROR_MOVER_FAILED, NULL, "%s",
                        ended ? error_message(ended) : "it measured nothing");
        mover_process_free(TAKE_PTR(job->mover));
        loop_source_free(TAKE_PTR(job->limit));
        return failure;
}

static json_t *probe_op(const struct job *job)
{
        return json_pack("{s:s, s:s, s:s, s:s, s:i, s:i}", "op", "probe", "cert_pem", job->cert_pem,
                "key_pem", job->key_pem, "peer_fingerprint", job->peer_fingerprint, "max_ms", PROBE_MS,
                "max_bytes", PROBE_MAX_BYTES);
}

/* --- Paths -------------------------------------------------------------------------------------------------------- */

static void probe_next(struct job *job);

static const json_t *destination_of(const struct job *job)
{
        return json_array_get(job->destinations, job->at);
}

/* `error` is taken over; NULL: it was measured. */
static void path_done(struct job *job, struct error *error)
{
        const char *host = json_string_value(json_object_get(destination_of(job), "host"));
        json_t *path = error ? json_pack("{s:s, s:o}", "host", host, "error", error_to_json(error))
                             : TAKE_PTR(job->measured);

        error_free(error);
        json_decref(TAKE_PTR(job->measured));
        if (path) {
                json_object_set_new(path, "host", json_string(host));
                if (job->held)
                        json_object_set(path, "held", job->held);
                json_object_set_new(path, "device", json_string(job->device));
                json_object_set_new(
                        path, "device_bps", json_integer((json_int_t)netdev_speed_bps(job->device)));
                json_array_append_new(job->paths, path);
        }
        json_decref(TAKE_PTR(job->held));
        fd_closep(&job->socket_fd);
        loop_source_free(TAKE_PTR(job->connecting));
        loop_source_free(TAKE_PTR(job->limit));
        job->device[0] = '\0';
        job->at++;
        probe_next(job);
}

static void on_probe_ended(void *userdata, struct error *failure)
{
        struct job *job = userdata;

        path_done(job, take_failure(job, failure));
}

static void on_connected(void *userdata, int fd, uint32_t events _unused_)
{
        struct job *job = userdata;
        struct error *e = NULL;
        int r = sock_connect_result(fd);

        if (r == -EINPROGRESS)
                return;
        loop_source_free(TAKE_PTR(job->connecting));
        if (r < 0) {
                error_from_errno(&e, r, "cannot connect for a probe");
                return path_done(job, e);
        }
        (void)sock_local_device(fd, job->device);
        if (start_mover(job, MOVER_PROBE_SOURCE, PROBE_LIMIT_MS, probe_op(job), fd, on_probe_ended, &e) < 0)
                path_done(job, e);
        else
                fd_closep(&job->socket_fd);
}

static void on_connect_limit(void *userdata)
{
        struct job *job = userdata;
        struct error *e = NULL;

        error_set(&e, ERROR_UNREACHABLE, "Look at the migration network between the two hosts.",
                "a connection for a probe was not made within %d ms", CONNECT_LIMIT_MS);
        path_done(job, e);
}

static void on_peer_listens(void *userdata, int status _unused_, json_t *body, struct error *error)
{
        const char *address = NULL, *fingerprint = NULL;
        struct sock_address to;
        struct job *job = userdata;
        struct error *e = NULL;
        int r;

        job->call = NULL;
        if (error) {
                if (error->code == ERROR_NOT_FOUND)
                        error_set(&e, ERROR_NOT_SUPPORTED, "Upgrade that host.",
                                "its agent is of an earlier version and takes no probes");
                else
                        error_set(&e, error->code, error->hint, "%s", error_message(error));
                return path_done(job, e);
        }
        r = doc_need_string(body, "", "data_address", 80, &address, &e);
        if (r >= 0)
                r = doc_need_string(body, "", "fingerprint", PKI_FINGERPRINT_SIZE - 1, &fingerprint, &e);
        if (r >= 0)
                r = sock_address_parse(address, 0, false, &to, &e);
        if (r < 0)
                return path_done(job, e);
        snprintf(job->peer_fingerprint, sizeof(job->peer_fingerprint), "%s", fingerprint);
        r = sock_connect_tcp_start(&to, &job->socket_fd);
        if (r == 0)
                r = loop_add_io(loop_of(job), job->socket_fd, EPOLLOUT, on_connected, job, &job->connecting);
        if (r == 0) {
                loop_source_free(TAKE_PTR(job->limit));
                r = loop_add_timer(loop_of(job), CONNECT_LIMIT_MS, on_connect_limit, job, &job->limit);
        }
        if (r < 0) {
                error_from_errno(&e, r, "cannot connect for a probe");
                path_done(job, e);
        }
}

/* `body` is taken over; NULL: no memory. */
static int call_peer(struct job *job, const char *path, json_t *body, uint64_t limit_ms,
        http_reply_fn answered, struct error **ret_error)
{
        _cleanup_json_ json_t *owned = body;
        const json_t *to = destination_of(job);
        char name[64];

        if (!body)
                return error_from_errno(ret_error, ENOMEM, "forecast");
        snprintf(name, sizeof(name), "%s.host.drover", json_string_value(json_object_get(to, "host")));
        return http_client_call(job->owner->agent->client,
                &(struct http_call_spec){.method = "POST",
                        .address = json_string_value(json_object_get(to, "address")),
                        .peer_name = name,
                        .path = path,
                        .body = body,
                        .timeout_ms = limit_ms},
                answered, job, &job->call, ret_error);
}

static void ask_to_listen(struct job *job)
{
        const json_t *to = destination_of(job);
        char fingerprint[PKI_FINGERPRINT_SIZE];
        struct error *e = NULL;
        int r = pki_fingerprint(job->cert_pem, fingerprint, &e);

        if (r >= 0)
                r = call_peer(job, "/agent/v1/peer/probes",
                        json_pack("{s:s, s:O, s:O*}", "source_fingerprint", fingerprint, "address",
                                json_object_get(to, "address"), "migration_address",
                                json_object_get(to, "migration_address")),
                        PROBE_LIMIT_MS, on_peer_listens, &e);
        if (r < 0)
                path_done(job, e);
}

static void on_peer_compared(void *userdata, int status _unused_, json_t *body, struct error *error)
{
        uint64_t pages = 0, equal = 0;
        struct error *e = NULL;
        struct job *job = userdata;
        int r = error ? -EHOSTUNREACH
                      : doc_need_u64(body, "comparison", "pages", 0, COMPARED_PAGES_MAX, &pages, &e);

        job->call = NULL;
        if (r >= 0)
                r = doc_need_u64(body, "comparison", "equal", 0, pages, &equal, &e);
        if (r >= 0)
                job->held = json_pack("{s:I, s:I}", "pages", (json_int_t)pages, "equal", (json_int_t)equal);
        else /* it may keep nothing any more, or be of a version that cannot tell: the forecast is of all of the guest */
                log_debug("what host %s keeps of the guest is not known: %s",
                        json_string_value(json_object_get(destination_of(job), "host")),
                        error_message(error ?: e));
        error_free(e);
        ask_to_listen(job);
}

/* One of the keys that follow from a checkpoint's. */
static int derive(int (*from)(const uint8_t *key, uint8_t *ret_key), const json_t *key,
        char ret_hex[static CHECKPOINT_KEY_HEX + 1])
{
        uint8_t raw[AEAD_KEY_SIZE], derived[AEAD_KEY_SIZE];
        int r = text_hex_decode(json_string_value(key), raw, sizeof(raw));

        if (r >= 0)
                r = from(raw, derived);
        if (r >= 0)
                text_hex_encode(derived, sizeof(derived), ret_hex);
        explicit_bzero(raw, sizeof(raw));
        explicit_bzero(derived, sizeof(derived));
        return r;
}

/* The host gets a key that opens the digests which it keeps, and nothing else. */
static void ask_what_is_held(struct job *job, const json_t *key, json_t *digests)
{
        _cleanup_error_ struct error *e = NULL;
        char hex[CHECKPOINT_KEY_HEX + 1] = "";
        int r = derive(checkpoint_comparison_key, key, hex);
        json_t *comparison_key = json_string(hex);

        if (r >= 0)
                r = call_peer(job, "/agent/v1/peer/comparisons",
                        json_pack("{s:s, s:O, s:O, s:O}", "vm", job->vm_uid, "comparison_key", comparison_key,
                                "ram_bytes", json_object_get(job->sample, "ram_bytes"), "digests", digests),
                        COMPARE_CALL_MS, on_peer_compared, &e);
        explicit_bzero(hex, sizeof(hex));
        doc_wipe_string(comparison_key);
        json_decref(comparison_key);
        if (r < 0)
                ask_to_listen(job);
}

static void probe_next(struct job *job)
{
        const char *host = json_string_value(json_object_get(destination_of(job), "host"));
        const json_t *key = host ? json_object_get(job->keys, host) : NULL;
        json_t *digests = host ? json_object_get(job->digests, host) : NULL;
        json_t *answer;

        if (key && digests)
                return ask_what_is_held(job, key, digests);
        if (host)
                return ask_to_listen(job);
        answer = json_pack("{s:O, s:O}", "sample", job->sample, "paths", job->paths);
        api_reply_json(TAKE_PTR(job->request), 200, answer);
        job_free(job);
}

/* --- The manager's request ---------------------------------------------------------------------------------------- */

static void on_sample_ended(void *userdata, struct error *failure)
{
        struct job *job = userdata;
        struct error *e = take_failure(job, failure);
        double idle_cores, load1;

        if (e)
                return job_failed(job, e);
        job->sample = TAKE_PTR(job->measured);
        if (idle_meter_read(&job->idle, &idle_cores))
                json_object_set_new(job->sample, "idle_cores", json_real(idle_cores));
        if (getloadavg(&load1, 1) == 1)
                json_object_set_new(job->sample, "load1", json_real(load1));
        json_object_set_new(job->sample, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
        probe_next(job);
}

static int read_sample(struct job *job, struct error **ret_error)
{
        static const char *const keys[] = {"destinations", NULL};
        static const char *const of_destination[] = {"host", "address", "migration_address", NULL};
        json_t *body = NULL, *list = NULL, *item;
        const char *text = NULL;
        size_t i;
        int r = http_request_json(job->request, &body, ret_error);

        if (r >= 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r >= 0)
                r = doc_opt_array(body, "", "destinations", DESTINATIONS_MAX, &list, ret_error);
        json_array_foreach (list, i, item) {
                if (r >= 0)
                        r = doc_only_keys(item, "destinations[]", of_destination, ret_error);
                if (r >= 0)
                        r = doc_need_string(
                                item, "destinations[]", "host", UUID_STRING_SIZE - 1, &text, ret_error);
                if (r >= 0 && !text_is_uuid(text))
                        r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "destinations[].host is no uid");
                if (r >= 0)
                        r = doc_need_string(item, "destinations[]", "address", 256, &text, ret_error);
                if (r >= 0)
                        r = doc_opt_string(
                                item, "destinations[]", "migration_address", 1024, &text, ret_error);
        }
        if (r < 0)
                return r;
        job->destinations = list ? json_incref(list) : json_array();
        job->paths = json_array();
        return job->destinations && job->paths ? 0 : error_from_errno(ret_error, ENOMEM, "forecast");
}

static int find_vm(struct agent *agent, const char *uid, struct vm **ret_vm, struct error **ret_error)
{
        struct vm *vm = vm_find(agent, uid);

        if (!vm)
                return error_set(ret_error, ERROR_NOT_FOUND, NULL, "VM %.64s is not on this host", uid);
        if (vm_power(vm) != VM_POWER_RUNNING)
                return error_set(ret_error, ERROR_CONFLICT,
                        vm_power(vm) == VM_POWER_PAUSED ? "Resume it first." : "Start it first.",
                        "%s is %s; only of a running virtual machine can be told how it changes its memory",
                        vm->name, vm_power_to_string(vm_power(vm)));
        *ret_vm = vm;
        return 0;
}

/* {host uid: page key} of the destinations that keep something of the guest; wipe_keys() follows. */
static json_t *page_keys(const struct job *job)
{
        json_t *keys = json_object(), *to;
        char hex[CHECKPOINT_KEY_HEX + 1];
        size_t i;

        json_array_foreach (job->destinations, i, to) {
                const char *host = json_string_value(json_object_get(to, "host"));
                const json_t *key = json_object_get(job->keys, host);

                if (key && derive(checkpoint_page_key, key, hex) >= 0)
                        json_object_set_new(keys, host, json_string(hex));
        }
        explicit_bzero(hex, sizeof(hex));
        return keys;
}

static int begin_sample(struct job *job, const struct vm *vm, struct error **ret_error)
{
        _cleanup_fd_ int ram = -1;
        json_t *keys;
        double ignored;
        int r = pki_self_signed("drover-mover", CERTIFICATE_HOURS, &job->cert_pem, &job->key_pem, ret_error);

        if (r == 0)
                r = vm_open_ram(vm, &ram, ret_error);
        if (r < 0)
                return r;
        (void)idle_meter_read(&job->idle, &ignored);
        job->vm_uid = http_request_param(job->request, "uid");
        job->keys = checkpoints_keys(job->owner->agent->checkpoints, job->vm_uid);
        job->digests = json_object();
        keys = page_keys(job);
        r = start_mover(job, MOVER_SAMPLE, SAMPLE_LIMIT_MS,
                json_pack("{s:s, s:I, s:I, s:O*}", "op", "sample", "ram_address", (json_int_t)vm->ram_address,
                        "ram_bytes", (json_int_t)vm->config->status.memory_effective_bytes, "page_keys",
                        keys),
                ram, on_sample_ended, ret_error);
        wipe_keys(keys);
        return r;
}

void api_vm_sample(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        _cleanup_(job_freep) struct job *job = NULL;
        struct error *error = NULL;
        struct vm *vm = NULL;
        int r = find_vm(agent, http_request_param(request, "uid"), &vm, &error);

        if (r >= 0)
                r = job_new(agent, request, &job, &error);
        if (r >= 0)
                r = read_sample(job, &error);
        if (r >= 0)
                r = begin_sample(job, vm, &error);
        if (r < 0)
                api_reply_error(request, error);
        else
                TAKE_PTR(job);
}

/* --- A peer's request --------------------------------------------------------------------------------------------- */

static void on_sink_ended(void *userdata, struct error *failure _unused_)
{
        job_free(userdata); /* the source tells what there is to tell */
}

/* Where a migration's data would arrive: the first of the addresses for it, else the one that the source reaches us at. */
static int listen_for_probe(struct agent *agent, const json_t *body, int *ret_fd, char ret_address[static 64],
        struct error **ret_error)
{
        const char *text = json_string_value(json_object_get(body, "migration_address"))
                ?: agent->config.migration_address
                ?: json_string_value(json_object_get(body, "address"));
        struct sock_address addresses[DATA_PATHS_MAX], local;
        size_t n = 0;
        int r = sock_address_list_parse(text ?: "", 0, DATA_PATHS_MAX, addresses, &n, ret_error);

        if (r < 0)
                return r;
        sock_address_set_port(&addresses[0], 0);
        r = sock_listen_tcp(&addresses[0], 1, ret_fd, ret_error);
        if (r < 0)
                return r;
        r = sock_local_address(*ret_fd, &local);
        if (r < 0)
                return error_from_errno(ret_error, r, "cannot listen for a probe");
        sock_address_format(&local, ret_address);
        return 0;
}

static int begin_sink(struct agent *agent, struct job *job, json_t **ret_answer, struct error **ret_error)
{
        static const char *const keys[] = {"source_fingerprint", "address", "migration_address", NULL};
        char own[PKI_FINGERPRINT_SIZE], address[64];
        const char *fingerprint = NULL;
        _cleanup_fd_ int fd = -1;
        json_t *body = NULL;
        int r = http_request_json(job->request, &body, ret_error);

        if (r >= 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(
                        body, "", "source_fingerprint", PKI_FINGERPRINT_SIZE - 1, &fingerprint, ret_error);
        if (r >= 0)
                r = pki_self_signed(
                        "drover-mover", CERTIFICATE_HOURS, &job->cert_pem, &job->key_pem, ret_error);
        if (r >= 0)
                r = pki_fingerprint(job->cert_pem, own, ret_error);
        if (r >= 0)
                r = listen_for_probe(agent, body, &fd, address, ret_error);
        if (r < 0)
                return r;
        snprintf(job->peer_fingerprint, sizeof(job->peer_fingerprint), "%s", fingerprint);
        r = start_mover(job, MOVER_PROBE_SINK, PROBE_LIMIT_MS, probe_op(job), fd, on_sink_ended, ret_error);
        if (r < 0)
                return r;
        *ret_answer = json_pack("{s:s, s:s}", "data_address", address, "fingerprint", own);
        return 0;
}

void api_peer_probe(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        _cleanup_(job_freep) struct job *job = NULL;
        struct error *error = NULL;
        json_t *answer = NULL;
        int r = job_new(agent, request, &job, &error);

        if (r >= 0)
                r = begin_sink(agent, job, &answer, &error);
        if (r < 0)
                return api_reply_error(request, error);
        job->request = NULL;
        TAKE_PTR(job); /* until the mover ends */
        api_reply_json(request, 200, answer);
}

static void on_comparison_ended(void *userdata, struct error *failure)
{
        struct job *job = userdata;
        struct error *e = take_failure(job, failure);

        if (e)
                return job_failed(job, e);
        api_reply_json(TAKE_PTR(job->request), 200, TAKE_PTR(job->measured));
        job_free(job);
}

/* The body goes on to the mover, which looks at all of it but the VM. */
static int begin_comparison(struct agent *agent, struct job *job, struct error **ret_error)
{
        static const char *const keys[] = {"vm", "comparison_key", "ram_bytes", "digests", NULL};
        _cleanup_fd_ int checkpoint = -1;
        const char *vm = NULL, *key = NULL;
        json_t *body = NULL, *digests = NULL;
        uint64_t ram_bytes = 0;
        int r = http_request_json(job->request, &body, ret_error);

        if (r >= 0)
                r = doc_only_keys(body, "", keys, ret_error);
        if (r >= 0)
                r = doc_need_string(body, "", "vm", UUID_STRING_SIZE - 1, &vm, ret_error);
        if (r >= 0 && !text_is_uuid(vm))
                r = error_set(ret_error, ERROR_BAD_DOCUMENT, NULL, "vm is no uid");
        if (r >= 0)
                r = doc_need_string(body, "", "comparison_key", CHECKPOINT_KEY_HEX, &key, ret_error);
        if (r >= 0)
                r = doc_need_u64(body, "", "ram_bytes", 1, INT64_MAX, &ram_bytes, ret_error);
        if (r >= 0)
                r = doc_opt_object(body, "", "digests", &digests, ret_error);
        if (r >= 0 && checkpoints_open(agent->checkpoints, vm, &checkpoint) < 0)
                r = error_set(ret_error, ERROR_NOT_FOUND, NULL, "nothing is kept of VM %.64s here", vm);
        if (r < 0)
                return r;
        r = start_mover(job, MOVER_COMPARE, COMPARE_LIMIT_MS,
                json_pack("{s:s, s:O, s:I, s:O*}", "op", "compare", "comparison_key",
                        json_object_get(body, "comparison_key"), "ram_bytes", (json_int_t)ram_bytes,
                        "digests", digests),
                checkpoint, on_comparison_ended, ret_error);
        doc_wipe_string(json_object_get(body, "comparison_key"));
        return r;
}

void api_peer_compare(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        _cleanup_(job_freep) struct job *job = NULL;
        struct error *error = NULL;
        int r = job_new(agent, request, &job, &error);

        if (r >= 0)
                r = begin_comparison(agent, job, &error);
        if (r < 0)
                api_reply_error(request, error);
        else
                TAKE_PTR(job);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/image_jobs.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/api.h"
#include "agent/image_job_work.h"
#include "agent/stores.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/list.h"
#include "base/log.h"
#include "base/text.h"
#include "io/crash_point.h"
#include "io/file.h"
#include "storage/offload.h"

#define RUNNING_MAX 2 /* each reads and writes as fast as its datastores allow */
#define KEPT_MAX 256  /* that a manager has not forgotten; the oldest that has ended goes then */
#define JOURNAL_MAX_BYTES ((size_t)512 * 1024)
#define CLEAR_TIMEOUT_MS 60000

enum phase { PHASE_RUNNING, PHASE_CLEARING, PHASE_DONE, PHASE_FAILED, PHASE_INTERRUPTED, N_PHASES };
static const char *const phases[] = {"running", "clearing", "done", "failed", "interrupted"};
static_assert(ARRAY_SIZE(phases) == N_PHASES, "every phase has a name");

struct image_jobs {
        struct agent *agent;
        struct list all;
        char *folder;
};

struct job {
        struct list all; /* in struct image_jobs */
        struct image_jobs *jobs;
        char id[UUID_STRING_SIZE];
        json_t *request;
        enum phase phase;
        struct stores_wait *wait;
        struct offload *offload;
        int progress_fd; /* of a struct image_job_progress */
        json_t *result;
        struct error *error;
        char *left;                 /* why something could not be removed */
        bool forget, undo;          /* when it has been cleared; asked by `asker` */
        struct http_request *asker; /* who waits for that */
};

/* --- Memory and journal ---------------------------------------------------------------------------------------------- */

static void job_free(struct job *job)
{
        if (!job)
                return;
        list_remove(&job->all);
        stores_wait_free(job->wait);
        offload_free(job->offload);
        fd_closep(&job->progress_fd);
        json_decref(job->request);
        json_decref(job->result);
        error_free(job->error);
        free(job->left);
        free(job);
}
DEFINE_CLEANUP(struct job *, job_free)

static char *file_of(const struct job *job, const char *suffix)
{
        return alloc_printf("%s/%s.%s", job->jobs->folder, job->id, suffix);
}

static int journal(const struct job *job, struct error **ret_error)
{
        _cleanup_json_ json_t *json = json_pack("{s:i, s:O, s:O*, s:o*}", "format", 1, "request",
                job->request, "result", job->result, "error", job->error ? error_to_json(job->error) : NULL);
        _cleanup_free_ char *text = json ? doc_to_text(json) : NULL, *path = file_of(job, "json");
        int r = text && path ? file_write_atomic(path, text, strlen(text), 0600) : -ENOMEM;

        return r < 0 ? error_from_errno(ret_error, r, "journal of work on an image") : 0;
}

static int new_job(struct image_jobs *jobs, json_t *request, struct job **ret_job, struct error **ret_error)
{
        _cleanup_(job_freep) struct job *job = ALLOC(struct job);

        if (!job)
                return error_from_errno(ret_error, ENOMEM, "work on an image");
        list_init(&job->all);
        job->jobs = jobs;
        job->request = json_incref(request);
        snprintf(job->id, sizeof(job->id), "%s", json_string_value(json_object_get(request, "id")) ?: "");
        job->progress_fd = memfd_create("progress", MFD_CLOEXEC);
        if (job->progress_fd < 0)
                return error_from_errno(ret_error, errno, "work on an image");
        *ret_job = TAKE_PTR(job);
        return 0;
}

int image_jobs_new(struct agent *agent, struct image_jobs **ret_jobs, struct error **ret_error)
{
        struct image_jobs *jobs = ALLOC(struct image_jobs);
        int r;

        if (!jobs)
                return error_from_errno(ret_error, ENOMEM, "work on images");
        jobs->agent = agent;
        list_init(&jobs->all);
        jobs->folder = alloc_printf("%s/image-jobs", agent->config.state_dir);
        r = jobs->folder ? file_make_dirs(jobs->folder, 0700) : -ENOMEM;
        if (r < 0) {
                image_jobs_free(jobs);
                return error_from_errno(ret_error, r, "folder for journals of work on images");
        }
        *ret_jobs = jobs;
        return 0;
}

void image_jobs_free(struct image_jobs *jobs)
{
        struct job *job, *spare;

        if (!jobs)
                return;
        list_for_each_safe (job, spare, &jobs->all, all)
                job_free(job);
        free(jobs->folder);
        free(jobs);
}

static struct job *find(struct image_jobs *jobs, const char *id)
{
        struct job *job;

        list_for_each (job, &jobs->all, all)
                if (!strcmp(job->id, id ?: ""))
                        return job;
        return NULL;
}

static struct image_job_work work_of(const struct job *job, const char *made_path)
{
        return (struct image_job_work){.id = job->id,
                .request = job->request,
                .made_path = made_path,
                .stores = job->jobs->agent->stores,
                .undo = job->undo};
}

/* --- Ends ------------------------------------------------------------------------------------------------------------ */

static void forget(struct job *job)
{
        struct http_request *asker = TAKE_PTR(job->asker);
        _cleanup_free_ char *path = file_of(job, "json");

        if (path)
                (void)unlink(path);
        if (asker)
                api_reply_json(asker, 200, json_pack("{s:s?}", "left", job->left));
        job_free(job);
}

static void on_cleared(void *userdata, json_t *result, struct error *error)
{
        struct job *job = userdata;

        job->offload = NULL;
        if (error) {
                log_warning("work on an image, %s: %s", job->id, error_message(error));
                free(job->left);
                job->left = alloc_strdup(error_message(error));
        }
        if (job->forget) {
                forget(job);
                return;
        }
        job->phase = job->error ? PHASE_FAILED : PHASE_INTERRUPTED;
        if (job->error && journal(job, NULL) < 0)
                log_warning("work on an image, %s: its end could not be written down", job->id);
}

/* Removes what was half made; whatever comes of that, the job has ended then. */
static void clear(struct job *job)
{
        _cleanup_free_ char *made_path = file_of(job, "made");
        struct image_job_work work = work_of(job, made_path);
        _cleanup_error_ struct error *error = NULL;

        job->phase = PHASE_CLEARING;
        if (!made_path)
                (void)error_from_errno(&error, ENOMEM, "image");
        else if (offload_start(job->jobs->agent->loop, "removal of a half-made image", image_job_clear, &work,
                         CLEAR_TIMEOUT_MS, on_cleared, job, &job->offload, &error) >= 0)
                return;
        on_cleared(job, NULL, error);
}

/* Takes the error over. */
static void fail(struct job *job, struct error *error)
{
        job->error = error;
        if (!error)
                (void)error_set(&job->error, ERROR_NO_MEMORY, NULL, "out of memory");
        job->undo = true; /* what has its name already is no good without the rest */
        clear(job);
}

static void fail_with(struct job *job, const struct error *cause)
{
        struct error *copy = NULL;

        if (cause->code == ERROR_TIMED_OUT)
                (void)error_set(&copy, ERROR_TIMED_OUT, "Give it more time, or look at the datastores.",
                        "work on the image did not end within its time limit");
        else
                (void)error_set(&copy, cause->code, cause->hint, "%s", error_message(cause));
        fail(job, copy);
}

static void on_worked(void *userdata, json_t *result, struct error *error)
{
        struct job *job = userdata;
        struct error *failure = NULL;

        job->offload = NULL;
        if (error && error->code == ERROR_INTERNAL)
                crash_point("image-job-lost");
        if (error) {
                fail_with(job, error);
                return;
        }
        crash_point("image-job-done");
        job->result = json_incref(result);
        if (journal(job, &failure) < 0) {
                fail(job, failure);
                return;
        }
        job->phase = PHASE_DONE;
}

/* --- Beginning -------------------------------------------------------------------------------------------------------- */

static void on_stores(void *userdata, struct error *error)
{
        struct job *job = userdata;
        _cleanup_free_ char *made_path = file_of(job, "made");
        struct image_job_work work = work_of(job, made_path);
        uint64_t timeout_ms = (uint64_t)json_integer_value(json_object_get(job->request, "timeout_ms"));
        struct error *failure = NULL;

        job->wait = NULL;
        if (error)
                fail_with(job, error);
        else if (!made_path)
                fail(job, NULL);
        else if (offload_start_stream(job->jobs->agent->loop, "work on an image", image_job_run, &work,
                         job->progress_fd, timeout_ms, on_worked, job, &job->offload, &failure) < 0)
                fail(job, failure);
}

/* NULL: the job has no such end. */
static const char *datastore_of(const struct job *job, const char *end)
{
        return json_string_value(json_object_get(json_object_get(job->request, end), "datastore"));
}

static void begin(struct job *job)
{
        const char *names[2];
        size_t n_names = 1;
        struct error *error = NULL;

        names[0] = datastore_of(job, "target") ?: datastore_of(job, "source");
        names[1] = datastore_of(job, "source");
        if (names[1] && strcmp(names[0], names[1]) != 0)
                n_names = 2;
        job->phase = PHASE_RUNNING;
        job->undo = false;
        if (stores_ensure(job->jobs->agent->stores, names, n_names, on_stores, job, &job->wait, &error) < 0)
                fail(job, error);
}

/* --- After a restart --------------------------------------------------------------------------------------------------- */

static void on_interrupted_stores(void *userdata, struct error *error)
{
        struct job *job = userdata;

        job->wait = NULL;
        if (error)
                on_cleared(job, NULL, error);
        else
                clear(job);
}

/* An agent before us had begun it. */
static void interrupt(struct job *job)
{
        const char *name = datastore_of(job, "target") ?: datastore_of(job, "source");
        _cleanup_error_ struct error *error = NULL;

        job->undo = true;
        job->phase = PHASE_CLEARING;
        if (stores_ensure(
                    job->jobs->agent->stores, &name, 1, on_interrupted_stores, job, &job->wait, &error) < 0)
                on_cleared(job, NULL, error);
}

static int read_journal(struct image_jobs *jobs, const char *name)
{
        _cleanup_free_ char *path = alloc_printf("%s/%s", jobs->folder, name), *text = NULL;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *json = NULL;
        json_t *request, *problem;
        struct job *job = NULL;
        size_t len;
        int r = path ? file_read(path, JOURNAL_MAX_BYTES, &text, &len) : -ENOMEM;

        if (r == -ENOMEM)
                return r;
        if (r >= 0)
                r = doc_parse(text, len, &json, &error);
        request = json_object_get(json, "request");
        if (r >= 0)
                r = image_job_check(request, &error);
        if (r < 0) {
                log_error("journal %s of work on an image makes no sense and is left alone: %s", path ?: "",
                        error_message(error));
                return 0;
        }
        if (new_job(jobs, request, &job, NULL) < 0)
                return -ENOMEM;
        list_append(&jobs->all, &job->all);
        problem = json_object_get(json, "error");
        job->result = json_incref(json_object_get(json, "result"));
        job->error = problem ? error_from_json(problem) : NULL;
        if (job->result || problem)
                job->phase = job->result ? PHASE_DONE : PHASE_FAILED;
        else
                interrupt(job);
        return 0;
}

int image_jobs_recover_all(struct agent *agent)
{
        struct image_jobs *jobs = agent->image_jobs;
        DIR *dir = opendir(jobs->folder);
        const struct dirent *entry;
        int r = 0;

        if (!dir)
                return -errno;
        while (r == 0 && (entry = readdir(dir))) {
                size_t len = strlen(entry->d_name);

                if (len == UUID_STRING_SIZE - 1 + strlen(".json") &&
                        !strcmp(entry->d_name + UUID_STRING_SIZE - 1, ".json"))
                        r = read_journal(jobs, entry->d_name);
        }
        closedir(dir);
        return r;
}

/* --- Routes ------------------------------------------------------------------------------------------------------------ */

static json_t *document(const struct job *job)
{
        struct image_job_progress progress = {};

        if (pread(job->progress_fd, &progress, sizeof(progress), 0) != sizeof(progress))
                progress = (struct image_job_progress){};
        progress.step[IMAGE_JOB_STEP_SIZE - 1] = '\0';
        return json_pack("{s:s, s:s, s:s, s:{s:I, s:I}, s:O?, s:o?, s:s?}", "id", job->id, "phase",
                phases[job->phase], "step", progress.step, "progress", "done_bytes",
                (json_int_t)progress.done_bytes, "total_bytes", (json_int_t)progress.total_bytes, "result",
                job->result, "error", job->error ? error_to_json(job->error) : NULL, "left", job->left);
}

/* Its manager is gone, or its word that it may be forgotten was lost; what was made stays. */
static void drop(struct job *job)
{
        _cleanup_free_ char *made_path = file_of(job, "made");

        log_info("work on an image, %s, has ended and nobody has asked for it: forgotten", job->id);
        if (made_path)
                (void)unlink(made_path);
        forget(job);
}

static int check_number(struct image_jobs *jobs, struct error **ret_error)
{
        size_t n = 0, n_running = 0;
        struct job *job, *oldest = NULL;

        list_for_each (job, &jobs->all, all) {
                n++;
                n_running += job->phase <= PHASE_CLEARING;
                if (!oldest && job->phase > PHASE_CLEARING)
                        oldest = job;
        }
        if (n >= KEPT_MAX && oldest)
                drop(oldest);
        if (n_running >= RUNNING_MAX)
                return error_set(ret_error, ERROR_BUSY, "Wait for them to end.",
                        "this host works on %zu images already", n_running);
        return 0;
}

void image_jobs_api_start(struct http_request *request, void *userdata)
{
        struct agent *agent = userdata;
        struct image_jobs *jobs = agent->image_jobs;
        struct error *error = NULL;
        struct job *job = NULL;
        json_t *body = NULL;
        int r = http_request_json(request, &body, &error);

        if (r >= 0)
                r = image_job_check(body, &error);
        if (r >= 0) {
                struct job *same = find(jobs, json_string_value(json_object_get(body, "id")));

                if (same && same->phase == PHASE_INTERRUPTED)
                        begin(same);
                if (same) /* or a manager that lost our answer */
                        return api_reply_json(request, 202, document(same));
                r = check_number(jobs, &error);
        }
        if (r >= 0)
                r = new_job(jobs, body, &job, &error);
        if (r >= 0)
                r = journal(job, &error);
        if (r < 0) {
                job_free(job);
                return api_reply_error(request, error);
        }
        crash_point("image-job-journalled");
        list_append(&jobs->all, &job->all);
        begin(job);
        api_reply_json(request, 202, document(job));
}

static struct job *request_job(struct http_request *request)
{
        const char *id = http_request_param(request, "id");
        struct job *job = find(api_agent(request)->image_jobs, id);
        struct error *error = NULL;

        if (job)
                return job;
        (void)error_set(&error, ERROR_NOT_FOUND, NULL, "this host knows no work on an image %.40s", id ?: "");
        api_reply_error(request, error);
        return NULL;
}

void image_jobs_api_get(struct http_request *request, void *agent)
{
        const struct job *job = request_job(request);

        if (job)
                http_request_reply_json(request, 200, document(job));
}

void image_jobs_api_forget(struct http_request *request, void *agent)
{
        struct job *job = request_job(request);
        struct error *error = NULL;

        if (!job)
                return;
        job->undo = http_request_query(request, "undo") != NULL;
        if (job->asker || (job->phase <= PHASE_CLEARING && !job->undo)) {
                (void)error_set(&error, ERROR_BUSY, NULL, "work on an image %s has not ended", job->id);
                return api_reply_error(request, error);
        }
        if (!job->undo && job->phase == PHASE_DONE) {
                _cleanup_free_ char *made_path = file_of(job, "made");

                if (made_path)
                        (void)unlink(made_path);
                job->asker = request;
                return forget(job);
        }
        job->asker = request;
        job->forget = true;
        stores_wait_free(TAKE_PTR(job->wait));
        offload_free(TAKE_PTR(job->offload)); /* with qemu-img, which ends with the helper */
        clear(job);
}

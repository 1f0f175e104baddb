/* SPDX-License-Identifier: Apache-2.0 */

/* The worker reads "HASH\nPASSWORD" ("\nPASSWORD": make a hash) from a file in memory, so that neither is on a command line, and prints the
 * hash, or "yes" or "no". */

#include "manager/password.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <string.h>
#include <sys/mman.h>

#include "base/alloc.h"
#include "base/list.h"
#include "io/child.h"

#define AT_ONCE 4
#define JOBS_MAX 64
#define STRANGERS_MAX 32 /* of these, of who may be anybody: however many try, there is room for the others */
#define TIMEOUT_MS 30000
#define OUTPUT_MAX_BYTES 4096
#define PASSES 2u
#define MEMORY_BYTES (19u << 20)
#define INPUT_MAX_BYTES (PASSWORD_HASH_SIZE + PASSWORD_MAX_CHARS + 2)

static_assert(PASSWORD_HASH_SIZE >= crypto_pwhash_STRBYTES, "a hash fits");

/* Of no password: what an unknown user's is compared with takes as long. */
static const char no_hash[] =
        "$argon2id$v=19$m=19456,t=2,p=1$z9tgORWHrwyq8z6J7A/zFg$Cfxsqr1xdDBIkAl8i6eysPuqunKPCZp97NiSV+MlHLo";

struct job {
        struct list link;
        struct password_pool *pool;
        struct child *child; /* NULL: waits */
        int input_fd;
        bool nobody;   /* compared with no_hash */
        bool stranger; /* waits behind those who are not */
        password_hash_fn hashed;
        password_verify_fn verified;
        void *userdata;
};

struct password_pool {
        struct loop *loop;
        const char *program;
        struct list waiting[2]; /* in order of arrival; the second: strangers' */
        struct list running;    /* at most AT_ONCE */
        size_t n_jobs, n_strangers, n_running;
        bool ending; /* takes no jobs any more */
};

static void job_free(struct job *job)
{
        list_remove(&job->link);
        job->pool->n_jobs--;
        job->pool->n_strangers -= job->stranger;
        job->pool->n_running -= job->child != NULL;
        child_free(job->child);
        if (job->input_fd >= 0)
                close(job->input_fd);
        free(job);
}

int password_pool_new(struct loop *loop, const char *program, struct password_pool **ret_pool)
{
        struct password_pool *pool = ALLOC(struct password_pool);

        if (!pool)
                return -ENOMEM;
        pool->loop = loop;
        pool->program = program;
        list_init(&pool->waiting[0]);
        list_init(&pool->waiting[1]);
        list_init(&pool->running);
        *ret_pool = pool;
        return 0;
}

/* Tells whoever asked, after the job is gone: they may ask again from there. */
static void end(struct job *job, const char *output, struct error *error)
{
        struct job done = *job;
        char text[PASSWORD_HASH_SIZE];

        snprintf(text, sizeof(text), "%.*s", (int)strcspn(output, "\n"), output);
        job_free(job);
        if (done.hashed)
                done.hashed(done.userdata, error ? NULL : text, error);
        else
                done.verified(done.userdata, !error && !done.nobody && !strcmp(text, "yes"), error);
        explicit_bzero(text, sizeof(text));
}

static void cancel_all(struct list *jobs)
{
        struct job *job, *spare;

        list_for_each_safe (job, spare, jobs, link) {
                _cleanup_error_ struct error *error = NULL;

                error_set(&error, ERROR_CANCELLED, "Try again.", "the manager ends");
                end(job, "", error);
        }
}

void password_pool_free(struct password_pool *pool)
{
        if (!pool)
                return;
        pool->ending = true;
        cancel_all(&pool->running);
        cancel_all(&pool->waiting[0]);
        cancel_all(&pool->waiting[1]);
        free(pool);
}

static void start_waiting(struct password_pool *pool);

static void on_worker_exit(void *userdata, const struct child_result *result)
{
        struct job *job = userdata;
        struct password_pool *pool = job->pool;
        _cleanup_error_ struct error *error = NULL;
        char text[64];

        if (!result->exited || result->code != EXIT_SUCCESS)
                error_set(&error, ERROR_INTERNAL, "See the manager's log; is there enough memory?",
                        "the password could not be checked: the worker %s",
                        child_result_format(result, text));
        end(job, result->output, error);
        start_waiting(pool);
}

/* Of a job that is in neither list. */
static int start(struct job *job, struct error **ret_error)
{
        struct child_spec spec = CHILD_SPEC_INIT;

        spec.argv = (const char *const[]){job->pool->program, "password-worker", NULL};
        spec.stdin_fd = job->input_fd;
        spec.output_max = OUTPUT_MAX_BYTES;
        spec.timeout_ms = TIMEOUT_MS;
        int r = child_start(job->pool->loop, &spec, on_worker_exit, job, &job->child, ret_error);

        if (r < 0)
                return r;
        list_append(&job->pool->running, &job->link);
        job->pool->n_running++;
        return 0;
}

static struct list *next_waiting(struct password_pool *pool)
{
        return list_empty(&pool->waiting[0]) ? &pool->waiting[1] : &pool->waiting[0];
}

static void start_waiting(struct password_pool *pool)
{
        /* From the front again each time: what end() calls may have ended others. */
        while (!list_empty(next_waiting(pool)) && pool->n_running < AT_ONCE) {
                struct job *job = CONTAINER_OF(list_pop(next_waiting(pool)), struct job, link);
                _cleanup_error_ struct error *error = NULL;

                if (start(job, &error) < 0)
                        end(job, "", error);
        }
}

static int write_input(const char *hash, const char *password, int *ret_fd, struct error **ret_error)
{
        _cleanup_fd_ int fd = memfd_create("password", MFD_CLOEXEC);
        char text[INPUT_MAX_BYTES];
        int n = snprintf(text, sizeof(text), "%s\n%s", hash, password);
        ssize_t written = fd < 0 || n < 0 || n >= (int)sizeof(text) ? -1 : write(fd, text, (size_t)n);

        explicit_bzero(text, sizeof(text));
        if (written != n || lseek(fd, 0, SEEK_SET) < 0)
                return error_from_errno(ret_error, ENOMEM, "cannot hand the password to its worker");
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Takes the job's functions from `job`. */
static int submit(struct password_pool *pool, const char *hash, const char *password,
        const struct job *wanted, struct error **ret_error)
{
        struct job *job;
        int fd = -1, r;

        if (pool->ending || pool->n_jobs >= JOBS_MAX ||
                (wanted->stranger && pool->n_strangers >= STRANGERS_MAX))
                return error_set(ret_error, ERROR_RATE_LIMITED, "Try again in a few seconds.",
                        "too many passwords are being checked");
        job = ALLOC(struct job);
        if (!job)
                return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory");
        r = write_input(hash, password, &fd, ret_error);
        if (r < 0) {
                free(job);
                return r;
        }
        *job = *wanted;
        job->pool = pool;
        job->input_fd = fd;
        pool->n_jobs++;
        pool->n_strangers += job->stranger;
        if (pool->n_running >= AT_ONCE) {
                list_append(&pool->waiting[job->stranger], &job->link);
                return 0;
        }
        r = start(job, ret_error);
        if (r < 0)
                job_free(job);
        return r;
}

int password_hash(struct password_pool *pool, const char *password, password_hash_fn fn, void *userdata,
        struct error **ret_error)
{
        return submit(pool, "", password, &(struct job){.hashed = fn, .userdata = userdata}, ret_error);
}

int password_verify(struct password_pool *pool, const struct password_attempt *attempt, password_verify_fn fn,
        void *userdata, struct error **ret_error)
{
        return submit(pool, attempt->hash ?: no_hash, attempt->password,
                &(struct job){.verified = fn,
                        .nobody = !attempt->hash,
                        .stranger = attempt->stranger,
                        .userdata = userdata},
                ret_error);
}

int password_worker(int fd)
{
        char input[INPUT_MAX_BYTES] = "", hash[crypto_pwhash_STRBYTES];
        ssize_t n = read(fd, input, sizeof(input) - 1);
        char *password = n > 0 ? strchr(input, '\n') : NULL;
        int r = EXIT_FAILURE;

        if (!password || sodium_init() < 0)
                return r;
        *password++ = '\0';
        if (*input) {
                r = EXIT_SUCCESS;
                puts(crypto_pwhash_str_verify(input, password, strlen(password)) == 0 ? "yes" : "no");
        } else if (crypto_pwhash_str_alg(hash, password, strlen(password), PASSES, MEMORY_BYTES,
                           crypto_pwhash_ALG_ARGON2ID13) == 0) {
                r = EXIT_SUCCESS;
                puts(hash);
        }
        sodium_memzero(input, sizeof(input));
        return r;
}

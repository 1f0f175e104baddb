/* SPDX-License-Identifier: Apache-2.0 */
/* The monitor of the throw-away process is one end of a socketpair, so nothing is left on disk. Its answers come
 * from a program of the host's administrator, but are bounded and checked like everybody's. */
#include "vmm/qemu_binary.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "io/child.h"
#include "vmm/qmp.h"

#define QMP_FD 3 /* number of the monitor's socket in the child */
#define OUTPUT_MAX 4096
#define MACHINES_MAX 4096
#define CAPABILITIES_MAX 256
#define WORD_MAX 255

struct qemu_probe {
        struct child *child;
        struct qmp *qmp;
        struct qemu_binary *binary;
        struct error *error; /* first failure, until it is known how the process ended */
        size_t n_open;       /* answers that are still to come */
        bool answered;       /* everything was asked and answered */
        uint64_t timeout_ms;
        qemu_probe_fn done;
        void *userdata;
};

void qemu_binary_free(struct qemu_binary *binary)
{
        if (!binary)
                return;
        for (size_t i = 0; i < binary->n_machines; i++) {
                free(binary->machines[i].name);
                free(binary->machines[i].alias);
        }
        for (size_t i = 0; i < binary->n_capabilities; i++)
                free(binary->capabilities[i]);
        free(binary->machines);
        free(binary->capabilities);
        free(binary->package);
        free(binary->path);
        free(binary);
}

const char *qemu_binary_resolve_machine(const struct qemu_binary *binary, const char *machine)
{
        for (size_t i = 0; i < binary->n_machines; i++) {
                const struct qemu_machine *m = &binary->machines[i];

                if (!strcmp(m->name, machine) || (m->alias && !strcmp(m->alias, machine)))
                        return m->name;
        }
        return NULL;
}

bool qemu_binary_has_capability(const struct qemu_binary *binary, const char *name)
{
        for (size_t i = 0; i < binary->n_capabilities; i++)
                if (!strcmp(binary->capabilities[i], name))
                        return true;
        return false;
}

bool qemu_binary_at_least(const struct qemu_binary *binary, unsigned int major, unsigned int minor)
{
        return binary->major > major || (binary->major == major && binary->minor >= minor);
}

char *qemu_binary_version(const struct qemu_binary *binary)
{
        return alloc_printf("%u.%u.%u", binary->major, binary->minor, binary->micro);
}

/* Keeps the first failure and ends the process; done is called when it has ended. `error` is taken over. */
static void fail(struct qemu_probe *probe, struct error *error)
{
        if (probe->error)
                error_free(error);
        else
                probe->error = error;
        (void)child_kill(probe->child, SIGKILL);
}

static int bad_answer(struct error **ret_error, const char *command)
{
        return error_set(ret_error, ERROR_PROTOCOL, NULL, "QEMU's answer to %s is not understood", command);
}

static int no_memory(struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_MEMORY, NULL, "out of memory while probing QEMU");
}

/* query-version: {"qemu": {"major", "minor", "micro"}, "package"} */
static int read_version(struct qemu_binary *binary, const json_t *result, struct error **ret_error)
{
        const json_t *qemu = json_object_get(result, "qemu");
        uint64_t major, minor, micro;
        const char *package = "";

        if (doc_need_u64(qemu, "qemu", "major", 0, 1000, &major, NULL) < 0 ||
                doc_need_u64(qemu, "qemu", "minor", 0, 1000, &minor, NULL) < 0 ||
                doc_need_u64(qemu, "qemu", "micro", 0, 1000, &micro, NULL) < 0 ||
                doc_opt_string(result, "", "package", WORD_MAX, &package, NULL) < 0)
                return bad_answer(ret_error, "query-version");
        binary->major = (unsigned int)major;
        binary->minor = (unsigned int)minor;
        binary->micro = (unsigned int)micro;
        binary->package = alloc_strdup(package);
        if (!binary->package)
                return no_memory(ret_error);
        if (!qemu_binary_at_least(binary, 7, 2))
                return error_set(ret_error, ERROR_NOT_SUPPORTED, "Install QEMU 7.2 or later.",
                        "%s is QEMU %u.%u", binary->path, binary->major, binary->minor);
        return 0;
}

/* query-machines: [{"name", "alias", "cpu-max", "deprecated"}] */
static int read_machines(struct qemu_binary *binary, const json_t *result, struct error **ret_error)
{
        size_t n = json_array_size(result);

        if (!json_is_array(result) || n > MACHINES_MAX)
                return bad_answer(ret_error, "query-machines");
        binary->machines = alloc_array(n, sizeof(*binary->machines));
        if (!binary->machines)
                return no_memory(ret_error);
        for (size_t i = 0; i < n; i++) {
                const json_t *item = json_array_get(result, i);
                struct qemu_machine *machine = &binary->machines[i];
                const char *name, *alias = NULL;
                uint64_t cpus_max = 0;

                if (doc_need_string(item, "", "name", WORD_MAX, &name, NULL) < 0 ||
                        doc_opt_string(item, "", "alias", WORD_MAX, &alias, NULL) < 0 ||
                        doc_opt_u64(item, "", "cpu-max", 0, UINT32_MAX, &cpus_max, NULL) < 0 ||
                        doc_opt_bool(item, "", "deprecated", &machine->deprecated, NULL) < 0)
                        return bad_answer(ret_error, "query-machines");
                binary->n_machines = i + 1;
                machine->cpus_max = (unsigned int)cpus_max;
                machine->name = alloc_strdup(name);
                if (!machine->name || (alias && !(machine->alias = alloc_strdup(alias))))
                        return no_memory(ret_error);
        }
        return 0;
}

/* query-migrate-capabilities: [{"capability", "state"}] */
static int read_capabilities(struct qemu_binary *binary, const json_t *result, struct error **ret_error)
{
        size_t n = json_array_size(result);

        if (!json_is_array(result) || n > CAPABILITIES_MAX)
                return bad_answer(ret_error, "query-migrate-capabilities");
        binary->capabilities = alloc_array(n, sizeof(*binary->capabilities));
        if (!binary->capabilities)
                return no_memory(ret_error);
        for (size_t i = 0; i < n; i++) {
                const char *name;

                if (doc_need_string(json_array_get(result, i), "", "capability", WORD_MAX, &name, NULL) < 0)
                        return bad_answer(ret_error, "query-migrate-capabilities");
                binary->capabilities[i] = alloc_strdup(name);
                if (!binary->capabilities[i])
                        return no_memory(ret_error);
                binary->n_capabilities = i + 1;
        }
        return 0;
}

/* query-kvm: {"enabled", "present"} */
static int read_kvm(struct qemu_binary *binary, const json_t *result, struct error **ret_error)
{
        return doc_opt_bool(result, "", "present", &binary->kvm_present, NULL) < 0
                       ? bad_answer(ret_error, "query-kvm")
                       : 0;
}

typedef int (*read_fn)(struct qemu_binary *binary, const json_t *result, struct error **ret_error);

static void handle_answer(
        struct qemu_probe *probe, read_fn read_answer, const json_t *result, const struct error *error)
{
        struct error *failure = NULL;

        if (error) {
                error_set(&failure, error->code, error->hint, "%s", error_message(error));
                fail(probe, failure);
        } else if (read_answer(probe->binary, result, &failure) < 0) {
                fail(probe, failure);
        } else if (--probe->n_open == 0) {
                probe->answered = true;
                (void)child_kill(probe->child, SIGKILL); /* it has nothing to save */
        }
}

/* One reply function for each query: what to do with the answer is in the code, not in a context object. */
#define QUERIES(X) \
        X(version, "query-version") \
        X(machines, "query-machines") \
        X(capabilities, "query-migrate-capabilities") \
        X(kvm, "query-kvm")

#define X(what, command) \
        static void on_##what(void *userdata, const json_t *result, const struct error *error) \
        { \
                handle_answer(userdata, read_##what, result, error); \
        }
QUERIES(X)
#undef X

static int ask(struct qemu_probe *probe, const char *command, qmp_reply_fn reply, struct error **ret_error)
{
        int r = qmp_command(probe->qmp, command, NULL, -1, probe->timeout_ms, reply, probe, NULL, ret_error);

        if (r == 0)
                probe->n_open++;
        return r;
}

static int ask_all(struct qemu_probe *probe, struct error **ret_error)
{
        int r = 0;

#define X(what, command) \
        if (r == 0) \
                r = ask(probe, command, on_##what, ret_error);
        QUERIES(X)
#undef X
        return r;
}

static void on_lost(void *userdata, const struct error *error)
{
        struct qemu_probe *probe = userdata;
        struct error *copy = NULL;

        /* The process may be about to end by itself: then how it ended says more. */
        if (!probe->answered && !probe->error && error->code != ERROR_UNREACHABLE) {
                error_set(&copy, error->code, error->hint, "%s", error_message(error));
                fail(probe, copy);
        }
}

static void on_exit_of_child(void *userdata, const struct child_result *result)
{
        struct qemu_probe *probe = userdata;
        _cleanup_error_ struct error *error = TAKE_PTR(probe->error);
        char how[64];

        qmp_free(TAKE_PTR(probe->qmp)); /* no answer may come any more */
        if (probe->answered) {
                probe->done(probe->userdata, TAKE_PTR(probe->binary), NULL);
                return;
        }
        if (!error || error->code == ERROR_UNREACHABLE) {
                error_free(TAKE_PTR(error));
                if (result->timed_out)
                        error_set(&error, ERROR_TIMED_OUT, "Run it by hand with -machine none.",
                                "%s did not answer in time", probe->binary->path);
                else
                        error_set(&error, ERROR_QEMU_DIED, "Run it by hand with -machine none.",
                                "%s %s: %.*s", probe->binary->path, child_result_format(result, how),
                                (int)strcspn(result->output, "\n"), result->output);
        }
        probe->done(probe->userdata, NULL, error);
}

/* Starts the process with one end of *qmp_fd's pair. */
static int start_child(struct loop *loop, struct qemu_probe *probe, int *ret_fd, struct error **ret_error)
{
        const char *const argv[] = {probe->binary->path, "-machine", "none", "-S", "-nodefaults",
                "-no-user-config", "-display", "none", "-chardev", "socket,id=qmp,fd=3", "-mon",
                "chardev=qmp,mode=control", NULL};
        _cleanup_fd_ int ours = -1, theirs = -1;
        struct child_spec spec = CHILD_SPEC_INIT;
        int fds[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                return error_from_errno(ret_error, errno, "cannot make a socket pair");
        ours = fds[0];
        theirs = fds[1];
        spec.argv = argv;
        spec.fds = &(struct child_fd){.fd = theirs, .target = QMP_FD};
        spec.n_fds = 1;
        spec.output_max = OUTPUT_MAX;
        spec.timeout_ms = probe->timeout_ms;
        r = child_start(loop, &spec, on_exit_of_child, probe, &probe->child, ret_error);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(ours);
        return 0;
}

int qemu_probe_start(struct loop *loop, const char *path, uint64_t timeout_ms, qemu_probe_fn done,
        void *userdata, struct qemu_probe **ret_probe, struct error **ret_error)
{
        _cleanup_(qemu_probe_freep) struct qemu_probe *probe = ALLOC(struct qemu_probe);
        const struct qmp_callbacks callbacks = {.lost = on_lost, .userdata = probe};
        _cleanup_fd_ int fd = -1;
        int r;

        if (!probe || !(probe->binary = ALLOC(struct qemu_binary)) ||
                !(probe->binary->path = alloc_strdup(path)))
                return no_memory(ret_error);
        probe->timeout_ms = timeout_ms;
        probe->done = done;
        probe->userdata = userdata;
        if ((r = start_child(loop, probe, &fd, ret_error)) < 0 ||
                (r = qmp_new(loop, fd, timeout_ms, &callbacks, &probe->qmp, ret_error)) < 0)
                return r;
        (void)TAKE_FD(fd);
        r = ask_all(probe, ret_error);
        if (r < 0)
                return r;
        *ret_probe = TAKE_PTR(probe);
        return 0;
}

void qemu_probe_free(struct qemu_probe *probe)
{
        if (!probe)
                return;
        qmp_free(probe->qmp);
        child_free(probe->child);
        qemu_binary_free(probe->binary);
        error_free(probe->error);
        free(probe);
}

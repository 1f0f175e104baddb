/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_binary.h"

#include <errno.h>
#include <string.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "vmm/qemu_query.h"

#define MACHINES_MAX 4096
#define CAPABILITIES_MAX 256
#define WORD_MAX 255

struct qemu_probe {
        struct qemu_query *query;
        struct qemu_binary *binary;
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

/* What is asked, and what takes the answer. */
#define QUERIES(X) \
        X(version, "query-version") \
        X(machines, "query-machines") \
        X(capabilities, "query-migrate-capabilities") \
        X(kvm, "query-kvm")

#define X(what, command) \
        static int on_##what(struct qemu_query *query, void *userdata, const json_t *result, \
                const struct error *refusal, struct error **ret_error) \
        { \
                struct qemu_probe *probe = userdata; \
\
                if (refusal) \
                        return error_set( \
                                ret_error, refusal->code, refusal->hint, "%s", error_message(refusal)); \
                return read_##what(probe->binary, result, ret_error); \
        }
QUERIES(X)
#undef X

static int ask_all(struct qemu_probe *probe, struct error **ret_error)
{
        int r = 0;

#define X(what, command) \
        if (r == 0) \
                r = qemu_query_ask(probe->query, command, NULL, on_##what, ret_error);
        QUERIES(X)
#undef X
        return r;
}

static void on_done(void *userdata, const struct error *error)
{
        struct qemu_probe *probe = userdata;

        probe->done(probe->userdata, error ? NULL : TAKE_PTR(probe->binary), error);
}

int qemu_probe_start(struct loop *loop, const char *path, uint64_t timeout_ms, qemu_probe_fn done,
        void *userdata, struct qemu_probe **ret_probe, struct error **ret_error)
{
        _cleanup_(qemu_probe_freep) struct qemu_probe *probe = ALLOC(struct qemu_probe);
        int r;

        if (!probe || !(probe->binary = ALLOC(struct qemu_binary)) ||
                !(probe->binary->path = alloc_strdup(path)))
                return no_memory(ret_error);
        probe->done = done;
        probe->userdata = userdata;
        r = qemu_query_start(loop, path, NULL, timeout_ms, on_done, probe, &probe->query, ret_error);
        if (r == 0)
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
        qemu_query_free(probe->query);
        qemu_binary_free(probe->binary);
        free(probe);
}

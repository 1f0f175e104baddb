/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/host.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "agent/agent.h"
#include "agent/cgroup.h"
#include "agent/host_links.h"
#include "agent/migration_disks.h"
#include "agent/vm.h"
#include "base/alloc.h"
#include "base/doc.h"
#include "base/log.h"
#include "io/file.h"
#include "vmm/accel_probe.h"
#include "vmm/cpu_probe.h"

#define QEMU_PROBE_TIMEOUT_MS 20000
#define PROC_MAX_BYTES 65536
#ifndef DROVER_VERSION
#define DROVER_VERSION "0"
#endif

static void finish(struct host *host, struct error *error)
{
        host->done(host->userdata, error);
}

static void on_cpu_probed(void *userdata, json_t *document, const struct error *error)
{
        struct host *host = userdata;

        if (!document)
                log_warning("which processors guests can have here is not known: %s", error_message(error));
        host->cpu = document;
}

static void start_cpu_probe(struct host *host)
{
        _cleanup_error_ struct error *error = NULL;

        if (cpu_probe_start(host->agent->loop, host->qemu->path, host->accelerator, QEMU_PROBE_TIMEOUT_MS,
                    on_cpu_probed, host, &host->cpu_probe, &error) < 0)
                log_warning("which processors guests can have here is not known: %s", error_message(error));
}

static void settle_accelerator(struct host *host)
{
        log_info("accelerator: %s (KVM: %s)", vm_accelerator_to_string(host->accelerator),
                host->kvm_reason ?: "not probed");
        if (host->accelerator == VM_ACCELERATOR_TCG && strcmp(host->agent->config.accelerator, "kvm") == 0) {
                struct error *error = NULL;

                (void)error_set(&error, ERROR_NOT_SUPPORTED, "Set accelerator = auto in the configuration.",
                        "the configuration says accelerator kvm, but KVM does not work here: %s",
                        host->kvm_reason);
                finish(host, error);
                error_free(error);
                return;
        }
        start_cpu_probe(host);
        finish(host, NULL);
}

/* --- What the KVM probe saw, kept until the next boot: an agent that starts again must not make migrations under way
 * wait for a probe that hangs until its time limit. RUNTIME-DIR/kvm-probe.json. -------------------------------- */

static char *probe_path(const struct host *host)
{
        return alloc_printf("%s/kvm-probe.json", host->agent->config.runtime_dir);
}

/* Another QEMU may fare differently. */
static char *probe_subject(const struct qemu_binary *qemu)
{
        return alloc_printf(
                "%s %u.%u.%u %s", qemu->path, qemu->major, qemu->minor, qemu->micro, qemu->package);
}

static void probe_remember(const struct host *host)
{
        _cleanup_free_ char *path = probe_path(host);
        _cleanup_free_ char *subject = probe_subject(host->qemu);
        _cleanup_json_ json_t *doc = json_pack("{s:i, s:s*, s:b, s:s*}", "format", 1, "qemu", subject,
                "works", host->kvm_works, "reason", host->kvm_reason);
        _cleanup_free_ char *text = doc ? doc_to_text(doc) : NULL;

        if (!path || !text || file_write_atomic(path, text, strlen(text), 0600) < 0)
                log_warning("the result of the KVM probe cannot be kept: the next start probes again");
}

static bool probe_recall(struct host *host)
{
        _cleanup_free_ char *path = probe_path(host);
        _cleanup_free_ char *subject = probe_subject(host->qemu);
        _cleanup_free_ char *text = NULL;
        _cleanup_json_ json_t *doc = NULL;
        const char *qemu = NULL, *reason = NULL;
        bool works = false;
        size_t len;

        if (!path || !subject || file_read(path, PROC_MAX_BYTES, &text, &len) < 0 ||
                doc_parse(text, len, &doc, NULL) < 0 ||
                doc_need_string(doc, "probe", "qemu", 4096, &qemu, NULL) < 0 ||
                doc_need_string(doc, "probe", "reason", 4096, &reason, NULL) < 0 ||
                doc_opt_bool(doc, "probe", "works", &works, NULL) < 0 || strcmp(qemu, subject) != 0 ||
                alloc_replace(&host->kvm_reason, reason) < 0)
                return false;
        host->kvm_works = works;
        host->accelerator = works ? VM_ACCELERATOR_KVM : VM_ACCELERATOR_TCG;
        return true;
}

static void on_kvm_probed(void *userdata, bool works, const char *reason)
{
        struct host *host = userdata;

        host->kvm_works = works;
        host->accelerator = works ? VM_ACCELERATOR_KVM : VM_ACCELERATOR_TCG;
        if (alloc_replace(&host->kvm_reason, reason) < 0)
                log_error("out of memory for the result of the KVM probe");
        probe_remember(host);
        settle_accelerator(host);
}

static void on_qemu_probed(void *userdata, struct qemu_binary *binary, const struct error *error)
{
        struct host *host = userdata;
        struct error *cause = NULL;

        if (!binary) {
                (void)error_set(&cause, error->code,
                        "Install QEMU 7.2 or later, or name it in the configuration (qemu).", "%s",
                        error_message(error));
                finish(host, cause);
                error_free(cause);
                return;
        }
        host->qemu = binary;
        host->accelerator = VM_ACCELERATOR_TCG;
        if (strcmp(host->agent->config.accelerator, "tcg") == 0 || !binary->kvm_present) {
                if (alloc_replace(&host->kvm_reason, binary->kvm_present
                                                             ? "not probed: the configuration says tcg"
                                                             : "there is no /dev/kvm") < 0)
                        log_error("out of memory");
                settle_accelerator(host);
                return;
        }
        if (probe_recall(host)) {
                log_info("KVM is not probed again: %s/kvm-probe.json has the result since the last boot",
                        host->agent->config.runtime_dir);
                settle_accelerator(host);
                return;
        }
        if (accel_probe_start(host->agent->loop, binary->path, VM_ACCELERATOR_KVM, ACCEL_PROBE_TIMEOUT_MS,
                    on_kvm_probed, host, &host->accel_probe, &cause) < 0) {
                finish(host, cause);
                error_free(cause);
        }
}

int host_new(struct agent *agent, void (*done)(void *userdata, struct error *error), void *userdata,
        struct host **ret_host, struct error **ret_error)
{
        _cleanup_(host_freep) struct host *host = ALLOC(struct host);
        int r;

        if (!host)
                return error_from_errno(ret_error, ENOMEM, "facts about this host");
        *host = (struct host){.agent = agent, .done = done, .userdata = userdata};
        r = qemu_probe_start(agent->loop, agent->config.qemu, QEMU_PROBE_TIMEOUT_MS, on_qemu_probed, host,
                &host->qemu_probe, ret_error);
        if (r < 0)
                return r;
        *ret_host = TAKE_PTR(host);
        return 0;
}

void host_free(struct host *host)
{
        if (!host)
                return;
        qemu_probe_free(host->qemu_probe);
        accel_probe_free(host->accel_probe);
        cpu_probe_free(host->cpu_probe);
        json_decref(host->cpu);
        qemu_binary_free(host->qemu);
        free(host->kvm_reason);
        free(host);
}

/* --- Facts that change ---------------------------------------------------------------------------------------- */

/* Bytes, from the "KEY: N kB" of a file of /proc; 0 if it is not there. */
static uint64_t proc_kib(const char *text, const char *key)
{
        const char *at = text ? strstr(text, key) : NULL;

        return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

static char *proc_text(const char *path)
{
        char *text = NULL;

        return file_read(path, PROC_MAX_BYTES, &text, NULL) == 0 ? text : NULL;
}

/* "some avg10=0.12 ..." of /proc/pressure/WHAT as a number; null where the kernel has no PSI. */
static json_t *pressure(const char *what)
{
        _cleanup_free_ char *path = alloc_printf("/proc/pressure/%s", what);
        _cleanup_free_ char *text = path ? proc_text(path) : NULL;
        const char *at = text ? strstr(text, "some avg10=") : NULL;

        return at ? json_real(strtod(at + strlen("some avg10="), NULL)) : json_null();
}

static json_t *machines(const struct qemu_binary *qemu)
{
        json_t *list = json_array();

        for (size_t i = 0; list && i < qemu->n_machines; i++) {
                if (json_array_append_new(list, json_string(qemu->machines[i].name)) < 0) {
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}

static json_t *qemu_document(const struct qemu_binary *qemu)
{
        _cleanup_free_ char *version = qemu_binary_version(qemu);

        return json_pack("{s:s, s:s*, s:s*, s:o*}", "binary", qemu->path, "version", version, "package",
                qemu->package, "machines", machines(qemu));
}

static json_t *capabilities(const struct host *host)
{
        return json_pack("{s:b, s:s?, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "kvm", host->kvm_works,
                "kvm_reason", host->kvm_reason, "cgroup", cgroup_available(host->agent->cgroup), "switchover",
                true, "limits", true, "network_proof", true, "signed_spec", true, "storage_moves", true,
                "suspend", true, "disks_along", !strcmp(host->agent->config.disks_along, "yes"));
}

/* Guest RAM that is promised to VMs with a QEMU here. */
static uint64_t memory_of_vms(struct agent *agent, size_t *ret_n_running)
{
        struct map_item *item, *spare;
        uint64_t sum = 0;
        size_t n = 0;

        map_for_each (item, spare, &agent->vms) {
                const struct vm *vm = item->value;

                if (!vm_has_qemu(vm))
                        continue;
                sum += vm->config->status.memory_effective_bytes;
                n++;
        }
        *ret_n_running = n;
        return sum;
}

/* NULL: not known. */
static json_t *network_document(struct host *host)
{
        _cleanup_free_ char *text = proc_text("/proc/net/dev");
        _cleanup_free_ struct netlink_link *links = NULL;
        size_t n_links;

        if (text && netlink_list_links(host->agent->netlink, &links, &n_links) == 0)
                host_network_take(
                        &host->network, text, links, n_links, clock_now_ms(loop_clock(host->agent->loop)));
        return host_network_document(&host->network);
}

json_t *host_document(struct agent *agent)
{
        struct host *host = agent->host;
        _cleanup_free_ char *meminfo = proc_text("/proc/meminfo");
        _cleanup_free_ char *loadavg = proc_text("/proc/loadavg");
        _cleanup_free_ char *stat = proc_text("/proc/uptime");
        size_t n_running;
        uint64_t promised = memory_of_vms(agent, &n_running);
        json_t *doc = json_pack("{s:s, s:s, s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:f, s:s, s:o, s:I, s:I, "
                                "s:O*, s:o*, s:o*, s:s*}",
                "uid", agent_host_uid(agent), "name", agent->config.name, "version", DROVER_VERSION,
                "accelerator", vm_accelerator_to_string(host->accelerator), "qemu", qemu_document(host->qemu),
                "cpus", (json_int_t)sysconf(_SC_NPROCESSORS_ONLN), "memory_bytes",
                (json_int_t)proc_kib(meminfo, "MemTotal:"), "memory_free_bytes",
                (json_int_t)proc_kib(meminfo, "MemAvailable:"), "memory_vms_bytes", (json_int_t)promised,
                "load1", loadavg ? strtod(loadavg, NULL) : 0.0, "cgroup", cgroup_status(agent->cgroup),
                "capabilities", capabilities(host), "n_vms", (json_int_t)n_running, "uptime_s",
                (json_int_t)(stat ? strtoull(stat, NULL, 10) : 0), "cpu_id", json_object_get(host->cpu, "id"),
                "network", network_document(host), "links", host_links(), "migration_address",
                agent->config.migration_address);

        if (doc && (json_object_set_new(doc, "waiting_migrations", migration_disks_waiting(agent)) < 0 ||
                           json_object_set_new(doc, "pressure",
                                   json_pack("{s:o, s:o, s:o}", "cpu", pressure("cpu"), "memory",
                                           pressure("memory"), "io", pressure("io"))) < 0)) {
                json_decref(doc);
                return NULL;
        }
        return doc;
}

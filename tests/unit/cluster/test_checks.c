/* SPDX-License-Identifier: Apache-2.0 */

/* The rules before a start or a migration. Of documents that are good each rule says that it is met; each is then broken by
 * one change, which must break no other, and is told in the words that stand here. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "cluster/checks.h"

#define MAC "52:54:00:00:00:01"
#define GIB ((json_int_t)1 << 30)

struct state {
        json_t *vm, *source, *target;
        json_t *vms, *jobs, *tasks, *reserved, *datastores, *switches, *port_groups, *cpus, *rules, *pools,
                *hosts;
};

static json_t *host(const char *name)
{
        json_t *doc = json_pack("{s:s, s:s, s:{s:s, s:s, s:s, s:{s:s, s:[s,s]}, s:i, s:I, s:I, s:f,"
                                " s:[{s:s, s:s, s:b, s:b}, {s:s, s:s, s:b}],"
                                " s:[{s:s, s:s, s:i, s:b, s:b, s:n}], s:[{s:s, s:s, s:i, s:b, s:n}]}}",
                "name", name, "uid", name, "status", "state", "connected", "version", "0.9.2", "accelerator",
                "kvm", "qemu", "version", "7.2.22", "machines", "q35", "pc-q35-7.2", "cpus", 8,
                "memory_bytes", 16 * GIB, "memory_free_bytes", 8 * GIB, "load1", 1.0, "datastores", "name",
                "shared", "id", "id-1", "ok", 1, "locks", 1, "name", "images", "id", "id-2", "ok", 1,
                "switches", "name", "sw", "uplink", "eth1", "mtu", 1500, "carrier", 1, "ok", 1, "message",
                "port_groups", "name", "net", "switch", "sw", "vlan", 7, "ok", 1, "message");

        assert_non_null(doc);
        return doc;
}

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        state->vm = json_pack("{s:s, s:s, s:{s:i, s:I, s:s, s:[{s:s, s:s}], s:{s:s, s:s}, s:[{s:s, s:s}]},"
                              " s:{s:s, s:s, s:s, s:s, s:s, s:s}}",
                "name", "web", "uid", "u-web", "spec", "cpus", 2, "memory_bytes", GIB, "accelerator", "auto",
                "disks", "datastore", "shared", "path", "web/disk0.qcow2", "cdrom", "datastore", "images",
                "path", "debian.iso", "nics", "port_group", "net", "mac", MAC, "status", "power", "running",
                "host", "a", "machine", "pc-q35-7.2", "accelerator", "kvm", "qemu_version", "7.2.22",
                "cpu_model", "Nehalem,+aes");
        state->source = host("a");
        state->target = host("b");
        state->vms = json_pack("[O]", state->vm);
        state->cpus = json_pack(
                "{s:{s:s, s:s, s:[s,s,s]}, s:{s:s, s:s, s:[s,s], s:[{s:s, s:[]}, {s:s, s:[s,s]}]}}", "a",
                "accelerator", "kvm", "vendor", "GenuineIntel", "features", "aes", "avx", "sha-ni", "b",
                "accelerator", "kvm", "vendor", "GenuineIntel", "features", "aes", "avx", "models", "name",
                "Nehalem", "missing", "name", "Skylake", "missing", "avx512f", "pcid");
        assert_non_null(state->cpus);
        state->rules = json_pack("[{s:s, s:{s:s, s:s, s:[s,s], s:[]}}, {s:s, s:{s:s, s:s, s:[s], s:[s]}}]",
                "name", "spread", "spec", "type", "keep-apart", "mode", "must", "vms", "web", "db", "hosts",
                "name", "prefer", "spec", "type", "run-on", "mode", "should", "vms", "web", "hosts", "b");
        assert_non_null(state->rules);
        state->jobs = json_array();
        state->tasks = json_array();
        state->reserved = json_object();
        state->datastores = json_pack("[{s:s, s:{s:b}}]", "name", "shared", "spec", "shared", 1);
        state->switches = json_pack("[{s:s, s:{s:s, s:n}, s:{s:{}}}]", "name", "sw", "spec", "uplink", "eth1",
                "mtu", "status", "hosts");
        state->port_groups =
                json_pack("[{s:s, s:{s:s, s:i}}]", "name", "net", "spec", "switch", "sw", "vlan", 7);
        assert_non_null(state->vm);
        assert_non_null(state->switches);
        *ret = state;
        return 0;
}

static int teardown(void **data)
{
        struct state *state = *data;

        json_decref(state->vm);
        json_decref(state->source);
        json_decref(state->target);
        json_decref(state->vms);
        json_decref(state->jobs);
        json_decref(state->tasks);
        json_decref(state->reserved);
        json_decref(state->datastores);
        json_decref(state->switches);
        json_decref(state->port_groups);
        json_decref(state->cpus);
        json_decref(state->rules);
        json_decref(state->pools);
        json_decref(state->hosts);
        free(state);
        return 0;
}

static struct checks_input input_of(const struct state *state)
{
        return (struct checks_input){.vm = state->vm,
                .source = state->source,
                .vms = state->vms,
                .jobs = state->jobs,
                .tasks = state->tasks,
                .reserved = state->reserved,
                .datastores = state->datastores,
                .switches = state->switches,
                .port_groups = state->port_groups,
                .affinity_rules = state->rules,
                .pools = state->pools,
                .hosts = state->hosts,
                .cpus = state->cpus};
}

static json_t *run(const struct state *state)
{
        struct checks_input input = input_of(state);
        json_t *report = checks_of(&input, state->target);

        assert_non_null(report);
        return report;
}

/* To be started; on no host so far. */
static json_t *run_start(const struct state *state)
{
        struct checks_input input = input_of(state);
        json_t *report;

        input.source = NULL;
        report = checks_of(&input, state->target);
        assert_non_null(report);
        return report;
}

static const char *text(const json_t *item, const char *key)
{
        return json_string_value(json_object_get(item, key)) ?: "";
}

/* Exactly this one rule is broken, and says this. */
static void assert_only(const json_t *report, const char *severity, const char *code, const char *cause)
{
        size_t i, n = 0;
        json_t *item;

        json_array_foreach ((json_t *)report, i, item) {
                if (json_is_true(json_object_get(item, "ok"))) {
                        assert_true(json_is_null(json_object_get(item, "cause")));
                        assert_true(json_is_null(json_object_get(item, "way_out")));
                        continue;
                }
                assert_string_equal(text(item, "code"), code);
                assert_string_equal(text(item, "cause"), cause);
                assert_string_equal(text(item, "severity"), severity);
                assert_true(strlen(text(item, "way_out")) > 10);
                n++;
        }
        assert_int_equal(n, 1);
        assert_int_equal(checks_ok(report), !strcmp(severity, "warning"));
        assert_int_equal(checks_n_warnings(report), !strcmp(severity, "warning"));
}

static void assert_broken(
        const struct state *state, const char *severity, const char *code, const char *cause)
{
        _cleanup_json_ json_t *report = run(state);

        assert_only(report, severity, code, cause);
}

static json_t *status(json_t *doc)
{
        return json_object_get(doc, "status");
}

static json_t *spec(json_t *doc)
{
        return json_object_get(doc, "spec");
}

static json_t *first(json_t *object, const char *key)
{
        return json_array_get(json_object_get(object, key), 0);
}

static void set_text(json_t *object, const char *key, const char *value)
{
        assert_int_equal(json_object_set_new(object, key, json_string(value)), 0);
}

static void set_number(json_t *object, const char *key, json_int_t value)
{
        assert_int_equal(json_object_set_new(object, key, json_integer(value)), 0);
}

static void set_false(json_t *object, const char *key)
{
        assert_int_equal(json_object_set_new(object, key, json_false()), 0);
}

/* In the order of the table. */
static const char *const codes[] = {"host-connected", "same-host", "host-maintenance", "host-task",
        "host-version", "vm-running", "disks-active", "backup", "vm-task", "machine-type", "qemu-version",
        "accelerator", "cpu-model", "cpu-vendor", "cpus", "cpu-load", "memory", "datastore", "cdrom",
        "disk-lock", "disk-in-use", "port-group", "switch", "uplink", "network-applied", "mtu", "switch-type",
        "mac", "mac-on-host", "affinity", "affinity-preference"};

static void good_documents_meet_each_rule(void **data)
{
        _cleanup_json_ json_t *report = run(*data);
        size_t i;
        json_t *item;

        assert_int_equal(json_array_size(report), ARRAY_SIZE(codes));
        json_array_foreach (report, i, item) {
                assert_string_equal(text(item, "code"), codes[i]);
                assert_true(json_is_true(json_object_get(item, "ok")));
        }
        assert_true(checks_ok(report));
        assert_int_equal(checks_n_warnings(report), 0);
        assert_int_equal(checks_to_error(report, NULL), 0);
}

static void what_is_met_is_not_told_when_only_what_is_broken_is_asked_for(void **data)
{
        struct state *state = *data;
        struct checks_input input = input_of(state);
        _cleanup_(checks_freep) struct checks *checks = checks_new(&input);
        _cleanup_json_ json_t *none = checks_broken(checks, state->target), *one = NULL;

        assert_int_equal(json_array_size(none), 0);
        set_text(status(state->target), "state", "unreachable");
        one = checks_broken(checks, state->target);
        assert_int_equal(json_array_size(one), 1);
        assert_string_equal(text(json_array_get(one, 0), "code"), "host-connected");
}

static void task_that_asks_is_in_nobodys_way(void **data)
{
        struct state *state = *data;
        struct checks_input input = input_of(state);
        _cleanup_json_ json_t *report = NULL;

        json_array_append_new(state->tasks,
                json_pack("{s:s, s:s, s:s}", "name", "t1", "action", "vm.migrate", "vm_uid", "u-web"));
        assert_broken(state, "error", "vm-task", "task t1 (vm.migrate) works on the virtual machine");
        input.asking = "t1";
        report = checks_of(&input, state->target);
        assert_true(checks_ok(report));
}

static void links_must_carry_what_is_promised(void **data)
{
        struct state *state = *data;
        struct checks_input input = input_of(state);
        _cleanup_json_ json_t *good = NULL, *bad = NULL;

        input.min_bandwidth_bps = 1000000000;
        good = checks_of(&input, state->target);
        assert_true(checks_ok(good));
        assert_int_equal(
                json_array_size(good), ARRAY_SIZE(codes) + 2); /* one line for each of the two hosts */
        input.min_bandwidth_bps = 1000000001;
        bad = checks_of(&input, state->target);
        assert_false(checks_ok(bad));
}

static void host_must_be_connected(void **data)
{
        struct state *state = *data;

        set_text(status(state->target), "state", "unreachable");
        assert_broken(state, "error", "host-connected", "host b is unreachable");
}

static void target_must_be_another_host(void **data)
{
        struct state *state = *data;

        set_text(state->target, "uid", "a");
        json_object_del(state->cpus, "a");
        assert_broken(state, "error", "same-host", "the virtual machine is on host b already");
}

static void host_must_not_be_about_to_leave(void **data)
{
        struct state *state = *data;

        json_array_append_new(state->tasks,
                json_pack("{s:s, s:s, s:s}", "name", "task-9", "action", "host.remove", "host_uid", "b"));
        assert_broken(state, "error", "host-task", "task task-9 (host.remove) works on host b");
}

static void host_must_not_be_in_maintenance(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->target), "maintenance",
                json_pack("{s:s, s:s, s:s}", "state", "entering", "since", "yesterday", "by", "eve"));
        assert_broken(
                state, "error", "host-maintenance", "host b is in maintenance, since yesterday, by eve");
}

static void host_that_is_being_set_up_is_not_leaving(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_array_append_new(state->tasks,
                json_pack("{s:s, s:s, s:s}", "name", "task-9", "action", "host.sync", "host_uid", "b"));
        report = run(state);
        assert_true(checks_ok(report));
}

static void older_agent_is_worth_a_warning(void **data)
{
        struct state *state = *data;

        set_text(status(state->source), "version", "0.10.0");
        assert_broken(state, "warning", "host-version",
                "host b has drover 0.9.2, which is older than 0.10.0 on host a");
}

static void machine_must_run(void **data)
{
        struct state *state = *data;

        set_text(status(state->vm), "power", "paused");
        assert_broken(state, "error", "vm-running", "the virtual machine is paused, not running");
}

static void inactive_disks_are_told(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;
        const json_t *item;

        set_text(status(state->vm), "power", "outgoing-done");
        report = run(state);
        item = json_array_get(report, 6);
        assert_string_equal(text(item, "code"), "disks-active");
        assert_string_equal(text(item, "cause"),
                "its disks are inactive on host a: a migration has handed the virtual machine over");
        json_decref(report);
        set_text(status(state->vm), "power", "incoming");
        report = run(state);
        assert_string_equal(text(json_array_get(report, 6), "cause"),
                "its disks are inactive on host a: a migration to there has not ended");
}

static void running_backup_is_in_the_way(void **data)
{
        struct state *state = *data;

        json_array_append_new(state->jobs, json_pack("{s:s, s:s}", "id", "nightly", "type", "backup"));
        assert_broken(state, "error", "backup", "QEMU works on its disks: job nightly (backup)");
}

static void another_task_on_the_machine_is_in_the_way(void **data)
{
        struct state *state = *data;

        json_array_append_new(state->tasks,
                json_pack("{s:s, s:s, s:s}", "name", "task-8", "action", "vm.stop", "vm_uid", "u-other"));
        json_array_append_new(state->tasks,
                json_pack("{s:s, s:s, s:s}", "name", "task-9", "action", "vm.stop", "vm_uid", "u-web"));
        assert_broken(state, "error", "vm-task", "task task-9 (vm.stop) works on the virtual machine");
}

static void machine_type_must_be_known_there(void **data)
{
        struct state *state = *data;

        set_text(status(state->vm), "machine", "pc-q35-10.0");
        assert_broken(state, "error", "machine-type",
                "QEMU 7.2.22 on host b does not know the machine type pc-q35-10.0");
}

static void older_qemu_is_worth_a_warning(void **data)
{
        struct state *state = *data;

        set_text(status(state->vm), "qemu_version", "10.0.11");
        assert_broken(state, "warning", "qemu-version",
                "the virtual machine runs on QEMU 10.0.11 and host b has the older QEMU 7.2.22");
}

static void kvm_guest_needs_kvm(void **data)
{
        struct state *state = *data;

        set_text(status(state->target), "accelerator", "tcg");
        assert_broken(state, "error", "accelerator", "the virtual machine needs KVM and host b has tcg only");
}

static void each_missing_feature_of_the_model_is_named(void **data)
{
        struct state *state = *data;

        set_text(status(state->vm), "cpu_model", "Skylake,+sha_ni,-pcid");
        assert_broken(state, "error", "cpu-model",
                "guests on host b cannot have these features of the CPU model Skylake,+sha_ni,-pcid: "
                "avx512f, sha-ni");
}

static void features_of_the_whole_host_are_compared(void **data)
{
        struct state *state = *data;

        set_text(status(state->vm), "cpu_model", "host");
        assert_broken(state, "error", "cpu-model",
                "guests on host b cannot have these features of the CPU model host: sha-ni");
}

static void model_must_be_known_there(void **data)
{
        struct state *state = *data;

        set_text(status(state->vm), "cpu_model", "SapphireRapids");
        assert_broken(
                state, "error", "cpu-model", "QEMU on host b does not know the CPU model SapphireRapids");
}

static void host_that_does_not_tell_of_its_processors_is_not_asked(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        set_text(status(state->vm), "cpu_model", "SapphireRapids");
        json_object_del(state->cpus, "b");
        report = run(state);
        assert_true(checks_ok(report));
}

static void emulated_guest_is_not_held_against_what_kvm_offers(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        set_text(status(state->vm), "accelerator", "tcg");
        set_text(status(state->vm), "cpu_model", "SapphireRapids");
        report = run(state);
        assert_true(checks_ok(report));
}

static void processors_of_another_vendor_are_named(void **data)
{
        struct state *state = *data;
        json_t *there = json_object_get(state->cpus, "b");

        set_text(there, "vendor", "AuthenticAMD");
        assert_broken(state, "error", "cpu-vendor",
                "the virtual machine runs on processors of GenuineIntel, and those of host b are of "
                "AuthenticAMD");
}

/* Suspended on host a with KVM; there it can always be resumed. */
static void assert_resumption(struct state *state, const char *code, const char *cause)
{
        struct checks_input input = input_of(state);
        _cleanup_json_ json_t *report = NULL, *there = NULL;

        input.source = NULL;
        input.home = state->source;
        input.resumes = true;
        set_text(spec(state->vm), "accelerator", "kvm");
        report = checks_of(&input, state->target);
        assert_only(report, "error", code, cause);
        there = checks_of(&input, state->source);
        assert_true(checks_ok(there));
}

static void state_is_resumed_where_processor_and_qemu_suit_its_memory(void **data)
{
        struct state *state = *data;
        json_t *cpu = json_object_get(state->cpus, "b");

        set_text(cpu, "vendor", "AuthenticAMD");
        assert_resumption(state, "cpu-vendor",
                "the virtual machine runs on processors of GenuineIntel, and those of host b are of "
                "AuthenticAMD");
        set_text(cpu, "vendor", "GenuineIntel");
        set_text(json_object_get(status(state->target), "qemu"), "version", "7.1.90");
        assert_resumption(state, "saved-state",
                "it was suspended by QEMU 7.2.22, and host b has the older QEMU 7.1.90");
        set_text(json_object_get(status(state->target), "qemu"), "version", "7.2.1");
        set_text(spec(state->vm), "cpu_model", "host,-avx512f,-pcid,-sha-ni");
        assert_resumption(state, "saved-state",
                "it was suspended with the processor of its host (cpu_model host), which is not host b");
}

static void host_must_have_as_many_processors(void **data)
{
        struct state *state = *data;

        set_number(spec(state->vm), "cpus", 6);
        set_number(status(state->target), "cpus", 4);
        json_object_set_new(status(state->target), "load1", json_real(-10));
        assert_broken(state, "error", "cpus",
                "the virtual machine has 6 virtual processors and host b has 4 processors");
}

static void busy_host_is_worth_a_warning(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->target), "load1", json_real(6.4));
        assert_broken(state, "warning", "cpu-load",
                "host b has 8 processors, a load of 6.4, and 2 virtual processors to come");
}

static void processors_on_their_way_count_too(void **data)
{
        struct state *state = *data;

        json_object_set_new(state->reserved, "b", json_pack("{s:i}", "cpus", 6));
        assert_broken(state, "warning", "cpu-load",
                "host b has 8 processors, a load of 1.0, and 8 virtual processors to come");
}

static void memory_must_be_free(void **data)
{
        struct state *state = *data;

        set_number(status(state->target), "memory_free_bytes", GIB / 2);
        assert_broken(state, "error", "memory",
                "the virtual machine has 1.0 GiB of memory and host b has room for 512 MiB");
}

static void promised_memory_is_not_room(void **data)
{
        struct state *state = *data;

        set_number(status(state->target), "memory_vms_bytes", 16 * GIB - 4096);
        assert_broken(state, "error", "memory",
                "the virtual machine has 1.0 GiB of memory and host b has room for 4.0 KiB");
}

static void memory_of_those_on_their_way_is_not_room(void **data)
{
        struct state *state = *data;

        json_object_set_new(state->reserved, "b", json_pack("{s:I}", "memory_bytes", 7 * GIB + GIB / 2));
        assert_broken(state, "error", "memory",
                "the virtual machine has 1.0 GiB of memory and host b has room for 512 MiB, apart from 7.5 "
                "GiB for "
                "those on their way there");
}

static void datastore_must_be_there(void **data)
{
        struct state *state = *data;

        set_text(first(status(state->target), "datastores"), "name", "other");
        assert_broken(state, "error", "datastore", "host b does not have the datastore shared");
}

static void datastore_must_be_the_same_one(void **data)
{
        struct state *state = *data;

        set_text(first(status(state->target), "datastores"), "id", "id-9");
        assert_broken(state, "error", "datastore",
                "the datastore shared on host b is another one (id id-9) than on host a (id id-1)");
}

static void id_of_a_shared_datastore_is_known_though_its_host_says_nothing_any_more(void **data)
{
        struct state *state = *data;
        json_t *known = json_array_get(state->datastores, 0);
        _cleanup_json_ json_t *report = NULL;

        json_object_del(first(status(state->source), "datastores"), "id");
        json_object_set_new(known, "status", json_pack("{s:s}", "id", "id-1"));
        report = run(state);
        assert_true(checks_ok(report));
        set_text(json_object_get(known, "status"), "id", "id-7");
        assert_broken(state, "error", "datastore",
                "the datastore shared on host b is another one (id id-1) than on host a (id id-7)");
        set_false(spec(known), "shared");
        assert_broken(state, "error", "datastore",
                "the datastore shared on host b is another one (id id-1) than on host a (id none)");
}

static void datastore_must_work(void **data)
{
        struct state *state = *data;

        set_false(first(status(state->target), "datastores"), "ok");
        set_text(first(status(state->target), "datastores"), "message", "stale handle");
        assert_broken(
                state, "error", "datastore", "the datastore shared does not work on host b: stale handle");
}

static void local_cdrom_ties_it_to_its_host(void **data)
{
        struct state *state = *data;
        json_t *images = json_array_get(json_object_get(status(state->target), "datastores"), 1);

        set_text(images, "id", "id-8");
        assert_broken(state, "error", "cdrom",
                "the datastore images on host b is another one (id id-8) than on host a (id id-2)");
}

static void locks_must_pass_between_hosts(void **data)
{
        struct state *state = *data;

        set_false(first(status(state->target), "datastores"), "locks");
        assert_broken(state, "error", "disk-lock",
                "the datastore shared is mounted on host b so that its locks end at that host: two hosts "
                "could open "
                "one disk");
        json_object_del(first(status(state->target), "datastores"), "locks");
        set_false(first(status(state->source), "datastores"), "locks");
        assert_broken(state, "error", "disk-lock",
                "the datastore shared is mounted on host a so that its locks end at that host: two hosts "
                "could open "
                "one disk");
}

static json_t *user_of_the_image_on(const char *host, const char *power)
{
        return json_pack("{s:s, s:s, s:{s:[{s:s, s:s}]}, s:{s:s, s:s}}", "name", "twin", "uid", "u-twin",
                "spec", "disks", "datastore", "shared", "path", "web/disk0.qcow2", "status", "power", power,
                "host", host);
}

static json_t *user_of_the_image(const char *power)
{
        return user_of_the_image_on("c", power);
}

static void image_must_be_its_own(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_array_append_new(state->vms, user_of_the_image("running"));
        report = run_start(state);
        assert_only(report, "error", "disk-in-use",
                "the disk image shared:web/disk0.qcow2 is in use by the virtual machine twin on host c");
}

static void image_of_a_stopped_machine_is_free(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_array_append_new(state->vms, user_of_the_image("stopped"));
        report = run_start(state);
        assert_true(checks_ok(report));
}

static void image_that_both_only_read_is_free(void **data)
{
        struct state *state = *data;
        json_t *twin = user_of_the_image("running");
        _cleanup_json_ json_t *report = NULL;

        json_object_set_new(first(spec(twin), "disks"), "read_only", json_true());
        json_object_set_new(first(spec(state->vm), "disks"), "read_only", json_true());
        json_array_append_new(state->vms, twin);
        report = run_start(state);
        assert_true(checks_ok(report));
}

static void image_of_the_same_name_in_a_local_datastore_is_another(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        json_array_append_new(state->vms, user_of_the_image("running"));
        set_false(spec(json_array_get(state->datastores, 0)), "shared");
        report = run_start(state);
        assert_true(checks_ok(report));
}

static void each_user_of_an_image_counts(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        set_false(spec(json_array_get(state->datastores, 0)), "shared");
        json_array_append_new(state->vms, user_of_the_image_on("b", "running"));
        json_array_append_new(state->vms, user_of_the_image_on("c", "running"));
        report = run_start(state);
        assert_only(report, "error", "disk-in-use",
                "the disk image shared:web/disk0.qcow2 is in use by the virtual machine twin on host b");
}

static void port_group_must_be_there(void **data)
{
        struct state *state = *data;

        json_array_clear(json_object_get(status(state->target), "port_groups"));
        assert_broken(state, "error", "port-group", "host b does not have the port group net");
}

static void port_group_must_work(void **data)
{
        struct state *state = *data;

        set_false(first(status(state->target), "port_groups"), "ok");
        set_text(first(status(state->target), "port_groups"), "message", "the kernel has no VLANs");
        assert_broken(state, "error", "port-group",
                "the port group net does not work on host b: the kernel has no VLANs");
}

static void switch_of_the_port_group_must_work(void **data)
{
        struct state *state = *data;

        set_false(first(status(state->target), "switches"), "ok");
        set_text(first(status(state->target), "switches"), "message",
                "this host has no network interface eth1");
        assert_broken(state, "error", "switch",
                "the switch sw of port group net does not work on host b: this host has no network interface "
                "eth1");
}

static void uplink_must_have_a_carrier(void **data)
{
        struct state *state = *data;

        set_false(first(status(state->target), "switches"), "ok");
        set_false(first(status(state->target), "switches"), "carrier");
        assert_broken(state, "error", "uplink",
                "the uplink eth1 of switch sw has no carrier on host b, so port group net leads nowhere");
}

static void vlan_must_have_been_applied(void **data)
{
        struct state *state = *data;

        set_number(spec(json_array_get(state->port_groups, 0)), "vlan", 8);
        assert_broken(state, "error", "network-applied",
                "the port group net on host b has VLAN 7, and 8 is configured");
}

static void switch_of_the_group_must_have_been_applied(void **data)
{
        struct state *state = *data;

        set_text(spec(json_array_get(state->port_groups, 0)), "switch", "new");
        assert_broken(state, "error", "network-applied",
                "the port group net on host b is on switch sw, and new is configured");
}

static void mtu_must_have_been_applied_and_the_hosts_excuse_is_told(void **data)
{
        struct state *state = *data;
        json_t *sw = json_array_get(state->switches, 0);

        set_number(spec(sw), "mtu", 9000);
        json_object_set_new(json_object_get(status(sw), "hosts"), "b",
                json_pack("{s:b, s:s}", "ok", 0, "message", "the uplink eth1 has MTU 1500"));
        assert_broken(state, "error", "network-applied",
                "the switch sw on host b has MTU 1500, and 9000 is configured (the uplink eth1 has MTU "
                "1500)");
}

static void uplink_must_have_been_applied(void **data)
{
        struct state *state = *data;
        json_t *sw = json_array_get(state->switches, 0);

        json_object_set_new(spec(sw), "uplinks", json_pack("{s:s}", "b", "eth2"));
        assert_broken(state, "error", "network-applied",
                "the switch sw on host b has the uplink eth1, and eth2 is configured");
        json_object_set_new(spec(sw), "uplinks", json_pack("{s:n}", "b"));
        assert_broken(state, "error", "network-applied",
                "the switch sw on host b has the uplink eth1, and none is configured");
}

static void smaller_mtu_is_worth_a_warning(void **data)
{
        struct state *state = *data;

        set_number(first(status(state->source), "switches"), "mtu", 9000);
        assert_broken(state, "warning", "mtu",
                "the port group net has MTU 9000 on host a and 1500 on host b: larger packets of the guest "
                "would be "
                "lost");
}

/* Both hosts have the distributed switch sw, at these versions. */
static void make_distributed(struct state *state, int version_here, int version_there)
{
        json_t *here = first(status(state->source), "switches"),
               *there = first(status(state->target), "switches");

        json_object_set_new(spec(json_array_get(state->switches, 0)), "type", json_string("distributed"));
        json_object_set_new(here, "type", json_string("distributed"));
        json_object_set_new(there, "type", json_string("distributed"));
        json_object_set_new(here, "version", json_integer(version_here));
        json_object_set_new(there, "version", json_integer(version_there));
}

static void distributed_to_standard_switch_must_be_allowed(void **data)
{
        struct state *state = *data;

        make_distributed(state, 1, 1);
        json_object_del(first(status(state->target), "switches"), "type");
        assert_broken(state, "error", "switch-type",
                "the port group net is on the distributed switch sw on host a, and on the standard switch sw "
                "on "
                "host b");
}

static void distributed_to_standard_switch_may_be_allowed(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        make_distributed(state, 1, 1);
        json_object_del(first(status(state->target), "switches"), "type");
        json_object_set_new(spec(json_array_get(state->port_groups, 0)), "allow_standard", json_true());
        report = run(state);
        assert_true(checks_ok(report));
        assert_int_equal(checks_n_warnings(report), 0);
}

static void standard_to_distributed_switch_is_fine(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        make_distributed(state, 1, 1);
        json_object_del(first(status(state->source), "switches"), "type");
        json_object_del(first(status(state->source), "switches"), "version");
        report = run(state);
        assert_true(checks_ok(report));
        assert_int_equal(checks_n_warnings(report), 0);
}

static void another_version_of_the_switch_is_worth_a_warning(void **data)
{
        struct state *state = *data;

        make_distributed(state, 2, 1);
        assert_broken(state, "warning", "switch-version",
                "the distributed switch sw has version 2 on host a and 1 on host b");
}

static void version_must_have_been_applied(void **data)
{
        struct state *state = *data;

        make_distributed(state, 1, 1);
        json_object_set_new(status(json_array_get(state->switches, 0)), "wanted",
                json_pack("{s:i, s:i}", "a", 2, "b", 2));
        assert_broken(state, "error", "network-applied",
                "the switch sw on host b has version 1, and 2 is configured");
}

static void drift_at_the_destination_is_worth_a_warning(void **data)
{
        struct state *state = *data;

        make_distributed(state, 1, 1);
        json_object_set_new(first(status(state->target), "switches"), "drift",
                json_pack("[s]", "Open vSwitch cannot use dvt1: no such device"));
        assert_broken(state, "warning", "switch-drift",
                "the distributed switch sw on host b is not as configured: Open vSwitch cannot use dvt1: no "
                "such "
                "device");
}

static void mac_address_must_be_its_own(void **data)
{
        struct state *state = *data;

        json_array_append_new(state->vms, json_pack("{s:s, s:s, s:{s:[{s:s}]}}", "name", "twin", "uid",
                                                  "u-twin", "spec", "nics", "mac", "52-54-00-00-00-01"));
        assert_broken(
                state, "error", "mac", "the MAC address " MAC " is also that of the virtual machine twin");
}

static void mac_address_must_be_free_at_the_destination(void **data)
{
        struct state *state = *data;

        json_object_set_new(first(status(state->target), "switches"), "foreign_macs",
                json_pack("[{s:s, s:s}]", "mac", MAC, "port", "veth7"));
        assert_broken(state, "error", "mac-on-host",
                "the MAC address " MAC " is in use on host b, at veth7, by something that is not drover's");
}

static void rule_that_must_be_kept_forbids(void **data)
{
        struct state *state = *data;

        json_array_append_new(state->vms, json_pack("{s:s, s:s, s:{s:s, s:s}}", "name", "db", "uid", "u-db",
                                                  "status", "power", "running", "host", "b"));
        assert_broken(state, "error", "affinity", "rule spread keeps it apart from db on host b");
}

static void rule_that_should_be_kept_warns(void **data)
{
        struct state *state = *data;

        json_array_set_new(
                json_object_get(spec(json_array_get(state->rules, 1)), "hosts"), 0, json_string("c"));
        assert_broken(state, "warning", "affinity-preference", "rule prefer lets it run on c only");
}

/* The VM, which has 2 processors and 1 GiB, is of this pool. */
static void join_pool(struct state *state, json_int_t cpus, json_int_t memory_bytes, json_int_t vms)
{
        json_object_set_new(spec(state->vm), "labels", json_pack("{s:s}", "pool", "sales"));
        state->pools = json_pack("[{s:s, s:{s:{s:I, s:I, s:I}}, s:{s:{s:i, s:I, s:i}}}]", "name", "sales",
                "spec", "limits", "cpus", cpus, "memory_bytes", memory_bytes, "vms", vms, "status", "used",
                "cpus", 6, "memory_bytes", 3 * GIB, "vms", 2);
        assert_non_null(state->pools);
}

static void assert_start_broken(const struct state *state, const char *code, const char *cause)
{
        _cleanup_json_ json_t *report = run_start(state);

        assert_only(report, "error", code, cause);
}

static void start_within_the_limits_of_the_pool_is_told_as_met(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;
        size_t i, n = 0;
        json_t *item;

        join_pool(state, 8, 4 * GIB, 3);
        /* QEMU took a page more when it ran last: that is not the user's matter. */
        set_number(status(state->vm), "memory_effective_bytes", GIB + 4096);
        report = run_start(state);
        assert_true(checks_ok(report));
        json_array_foreach (report, i, item)
                if (!strcmp(text(item, "code"), "pool-limit")) {
                        assert_string_equal(text(item, "object"), "sales");
                        n++;
                }
        assert_int_equal(n, 1);
}

static void pool_limits_processors(void **data)
{
        join_pool(*data, 7, 4 * GIB, 3);
        assert_start_broken(*data, "pool-limit",
                "pool sales may use 7 virtual processors, 6 are in use, and the virtual machine has 2");
}

static void pool_limits_memory(void **data)
{
        join_pool(*data, 8, 4 * GIB - 1, 3);
        assert_start_broken(*data, "pool-limit",
                "pool sales may use 4.0 GiB of memory, 3.0 GiB are in use, and the virtual machine has 1.0 "
                "GiB");
}

static void pool_limits_machines(void **data)
{
        join_pool(*data, 8, 4 * GIB, 2);
        assert_start_broken(*data, "pool-limit", "at most 2 of pool sales may run at once, and 2 do");
}

static void what_a_pool_does_not_limit_is_free(void **data)
{
        struct state *state = *data;
        json_t *limits;
        _cleanup_json_ json_t *report = NULL;

        join_pool(state, 0, 4 * GIB, 3);
        limits = json_object_get(spec(json_array_get(state->pools, 0)), "limits");
        json_object_set_new(limits, "cpus", json_null());
        report = run_start(state);
        assert_true(checks_ok(report));
}

static void pool_that_is_over_its_limits_lets_its_machines_move(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        join_pool(state, 0, 0, 0);
        report = run(state);
        assert_true(checks_ok(report));
}

static void label_that_names_no_pool_limits_nothing(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        join_pool(state, 0, 0, 0);
        json_object_set_new(spec(state->vm), "labels", json_pack("{s:s}", "pool", "other"));
        report = run_start(state);
        assert_true(checks_ok(report));
}

/* The hosts have 16 GiB free, of which `kept` GiB are reserved for a pool that uses 3 of them. */
static void reserve(struct state *state, json_int_t kept)
{
        join_pool(state, 100, 100 * GIB, 100);
        json_object_set_new(spec(json_array_get(state->pools, 0)), "reservation",
                json_pack("{s:I}", "memory_bytes", kept * GIB));
        state->hosts = json_pack("[O, O]", state->source, state->target);
}

static void memory_that_a_pool_reserves_is_not_for_others(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        reserve(state, 18);
        json_object_set_new(spec(state->vm), "labels", json_object());
        report = run_start(state);
        assert_true(checks_ok(report)); /* the last GiB */
        json_object_set_new(state->reserved, "b", json_pack("{s:I}", "memory_bytes", GIB));
        assert_start_broken(state, "pool-reservation",
                "the virtual machine takes 1.0 GiB of memory that no resource pool reserves, and of that the "
                "hosts have 0 B (15 GiB free, 15 GiB reserved)");
}

static void memory_of_a_host_in_maintenance_keeps_no_reservation(void **data)
{
        struct state *state = *data;

        reserve(state, 18);
        json_object_set_new(spec(state->vm), "labels", json_object());
        json_object_set_new(status(state->source), "maintenance", json_pack("{s:s}", "state", "on"));
        assert_start_broken(state, "pool-reservation",
                "the virtual machine takes 1.0 GiB of memory that no resource pool reserves, and of that the "
                "hosts have 0 B (8.0 GiB free, 15 GiB reserved)");
}

static void memory_that_its_own_pool_reserves_is_for_the_machine(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        reserve(state, 100);
        report = run_start(state);
        assert_true(checks_ok(report));
}

static void reservation_does_not_keep_machines_from_moving(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        reserve(state, 100);
        json_object_set_new(spec(state->vm), "labels", json_object());
        report = run(state);
        assert_true(checks_ok(report));
}

static void all_that_is_wrong_is_told_at_once(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *report = NULL;

        set_text(status(state->vm), "power", "stopped");
        set_text(status(state->target), "accelerator", "tcg");
        set_text(status(state->source), "version", "0.10.0");
        report = run(state);
        assert_false(checks_ok(report));
        assert_int_equal(checks_n_warnings(report), 1);
        assert_true(checks_to_error(report, &error) < 0);
        assert_int_equal(error->code, ERROR_CHECK_FAILED);
        assert_string_equal(error->message, "vm-running: the virtual machine is stopped, not running (and 1 "
                                            "more; see them all with --check)");
        assert_string_equal(error->hint, "Start or resume it first.");
}

static void warnings_forbid_nothing(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        set_text(status(state->source), "version", "0.10.0");
        report = run(state);
        assert_int_equal(checks_to_error(report, NULL), 0);
}

static void start_does_not_ask_for_a_running_machine(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *report = NULL;

        set_text(status(state->vm), "power", "stopped");
        report = run_start(state);
        assert_true(checks_ok(report));
}

static void start_elsewhere_needs_the_home_datastore(void **data)
{
        struct state *state = *data;
        struct checks_input input = input_of(state);
        _cleanup_json_ json_t *report = NULL;

        input.source = NULL;
        input.home = state->source;
        set_text(first(status(state->target), "datastores"), "id", "id-9");
        report = checks_of(&input, state->target);
        assert_only(report, "error", "datastore",
                "the datastore shared on host b is another one (id id-9) than on host a (id id-1)");
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(good_documents_meet_each_rule),
                TEST(what_is_met_is_not_told_when_only_what_is_broken_is_asked_for),
                TEST(task_that_asks_is_in_nobodys_way),
                TEST(links_must_carry_what_is_promised),
                TEST(host_must_be_connected),
                TEST(target_must_be_another_host),
                TEST(host_must_not_be_about_to_leave),
                TEST(host_must_not_be_in_maintenance),
                TEST(host_that_is_being_set_up_is_not_leaving),
                TEST(older_agent_is_worth_a_warning),
                TEST(machine_must_run),
                TEST(inactive_disks_are_told),
                TEST(running_backup_is_in_the_way),
                TEST(another_task_on_the_machine_is_in_the_way),
                TEST(machine_type_must_be_known_there),
                TEST(older_qemu_is_worth_a_warning),
                TEST(kvm_guest_needs_kvm),
                TEST(each_missing_feature_of_the_model_is_named),
                TEST(features_of_the_whole_host_are_compared),
                TEST(model_must_be_known_there),
                TEST(host_that_does_not_tell_of_its_processors_is_not_asked),
                TEST(emulated_guest_is_not_held_against_what_kvm_offers),
                TEST(processors_of_another_vendor_are_named),
                TEST(state_is_resumed_where_processor_and_qemu_suit_its_memory),
                TEST(host_must_have_as_many_processors),
                TEST(busy_host_is_worth_a_warning),
                TEST(processors_on_their_way_count_too),
                TEST(memory_must_be_free),
                TEST(promised_memory_is_not_room),
                TEST(memory_of_those_on_their_way_is_not_room),
                TEST(datastore_must_be_there),
                TEST(datastore_must_be_the_same_one),
                TEST(id_of_a_shared_datastore_is_known_though_its_host_says_nothing_any_more),
                TEST(datastore_must_work),
                TEST(local_cdrom_ties_it_to_its_host),
                TEST(locks_must_pass_between_hosts),
                TEST(image_must_be_its_own),
                TEST(image_of_a_stopped_machine_is_free),
                TEST(image_that_both_only_read_is_free),
                TEST(each_user_of_an_image_counts),
                TEST(image_of_the_same_name_in_a_local_datastore_is_another),
                TEST(port_group_must_be_there),
                TEST(port_group_must_work),
                TEST(switch_of_the_port_group_must_work),
                TEST(uplink_must_have_a_carrier),
                TEST(vlan_must_have_been_applied),
                TEST(switch_of_the_group_must_have_been_applied),
                TEST(mtu_must_have_been_applied_and_the_hosts_excuse_is_told),
                TEST(uplink_must_have_been_applied),
                TEST(distributed_to_standard_switch_must_be_allowed),
                TEST(distributed_to_standard_switch_may_be_allowed),
                TEST(standard_to_distributed_switch_is_fine),
                TEST(another_version_of_the_switch_is_worth_a_warning),
                TEST(version_must_have_been_applied),
                TEST(drift_at_the_destination_is_worth_a_warning),
                TEST(smaller_mtu_is_worth_a_warning),
                TEST(mac_address_must_be_its_own),
                TEST(mac_address_must_be_free_at_the_destination),
                TEST(rule_that_must_be_kept_forbids),
                TEST(rule_that_should_be_kept_warns),
                TEST(start_within_the_limits_of_the_pool_is_told_as_met),
                TEST(pool_limits_processors),
                TEST(pool_limits_memory),
                TEST(pool_limits_machines),
                TEST(what_a_pool_does_not_limit_is_free),
                TEST(pool_that_is_over_its_limits_lets_its_machines_move),
                TEST(label_that_names_no_pool_limits_nothing),
                TEST(memory_that_a_pool_reserves_is_not_for_others),
                TEST(memory_of_a_host_in_maintenance_keeps_no_reservation),
                TEST(memory_that_its_own_pool_reserves_is_for_the_machine),
                TEST(reservation_does_not_keep_machines_from_moving),
                TEST(all_that_is_wrong_is_told_at_once),
                TEST(warnings_forbid_nothing),
                TEST(start_does_not_ask_for_a_running_machine),
                TEST(start_elsewhere_needs_the_home_datastore),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

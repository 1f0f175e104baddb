/* SPDX-License-Identifier: Apache-2.0 */

/* The rules before a start or a migration: each one met, and each one broken by one change of otherwise good documents. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "cluster/checks.h"

struct state {
        json_t *vm, *source, *target, *vms;
};

static json_t *host(const char *name)
{
        return json_pack("{s:s, s:s, s:{s:s, s:s, s:{s:s, s:[s,s]}, s:i, s:I, s:I, s:f, s:[{s:s, s:s, s:b}],"
                         " s:[{s:s, s:b}], s:[{s:s, s:s}]}}",
                "name", name, "uid", name, "status", "state", "connected", "accelerator", "kvm", "qemu",
                "version", "7.2", "machines", "q35", "pc-q35-7.2", "cpus", 8, "memory_bytes",
                (json_int_t)16 << 30, "memory_free_bytes", (json_int_t)8 << 30, "load1", 1.0, "datastores",
                "name", "shared", "id", "id-1", "ok", 1, "switches", "name", "sw", "ok", 1, "port_groups",
                "name", "net", "switch", "sw");
}

static int setup(void **ret)
{
        struct state *state = calloc(1, sizeof(*state));

        state->vm = json_pack("{s:s, s:s, s:{s:I, s:s, s:[{s:s}], s:[{s:s, s:s}]}, s:{s:s, s:s, s:s, s:s}}",
                "name", "web", "uid", "u-web", "spec", "memory_bytes", (json_int_t)1 << 30, "accelerator",
                "auto", "disks", "datastore", "shared", "nics", "port_group", "net", "mac",
                "52:54:00:00:00:01", "status", "power", "running", "host", "a", "machine", "pc-q35-7.2",
                "accelerator", "kvm");
        state->source = host("a");
        state->target = host("b");
        state->vms = json_pack("[O]", state->vm);
        assert_non_null(state->vm);
        assert_non_null(state->source);
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
        free(state);
        return 0;
}

static json_t *run(const struct state *state)
{
        json_t *checks = checks_run(&(struct checks_input){
                .vm = state->vm, .source = state->source, .target = state->target, .vms = state->vms});

        assert_non_null(checks);
        return checks;
}

/* Exactly this one rule is broken, and its cause names `part`. */
static void assert_broken(const struct state *state, const char *code, const char *part)
{
        _cleanup_json_ json_t *checks = run(state);
        size_t i, n = 0;
        json_t *check;

        json_array_foreach (checks, i, check) {
                if (json_is_true(json_object_get(check, "ok"))) {
                        assert_true(json_is_null(json_object_get(check, "cause")));
                        continue;
                }
                assert_string_equal(json_string_value(json_object_get(check, "code")), code);
                assert_non_null(strstr(json_string_value(json_object_get(check, "cause")), part));
                assert_non_null(json_string_value(json_object_get(check, "way_out")));
                n++;
        }
        assert_int_equal(n, 1);
}

static json_t *status(json_t *doc)
{
        return json_object_get(doc, "status");
}

static json_t *first(json_t *object, const char *key)
{
        return json_array_get(json_object_get(object, key), 0);
}

static void good_documents_meet_all_rules(void **data)
{
        _cleanup_json_ json_t *checks = run(*data);

        assert_true(checks_ok(checks));
        assert_int_equal(json_array_size(checks), 9);
        assert_int_equal(checks_to_error(checks, NULL), 0);
}

static void host_must_be_connected(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->target), "state", json_string("unreachable"));
        assert_broken(state, "host-connected", "unreachable");
}

static void target_must_be_another_host(void **data)
{
        struct state *state = *data;

        json_object_set_new(state->target, "uid", json_string("a"));
        assert_broken(state, "same-host", "already");
}

static void machine_must_run(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->vm), "power", json_string("paused"));
        assert_broken(state, "vm-running", "paused");
}

static void machine_type_must_be_known_there(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->vm), "machine", json_string("pc-q35-10.0"));
        assert_broken(state, "machine-type", "pc-q35-10.0");
}

static void kvm_guest_needs_kvm(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->target), "accelerator", json_string("tcg"));
        assert_broken(state, "accelerator", "tcg");
}

static void memory_must_be_free(void **data)
{
        struct state *state = *data;

        json_object_set_new(status(state->target), "memory_free_bytes", json_integer(1 << 29));
        assert_broken(state, "memory", "512");
}

static void promised_memory_is_not_room(void **data)
{
        struct state *state = *data;

        json_object_set_new(
                status(state->target), "memory_vms_bytes", json_integer(((json_int_t)16 << 30) - 4096));
        assert_broken(state, "memory", "4");
}

static void datastore_must_be_there(void **data)
{
        struct state *state = *data;

        json_array_clear(json_object_get(status(state->target), "datastores"));
        assert_broken(state, "datastore", "does not have");
}

static void datastore_must_be_the_same_one(void **data)
{
        struct state *state = *data;

        json_object_set_new(first(status(state->target), "datastores"), "id", json_string("id-2"));
        assert_broken(state, "datastore", "id-2");
}

static void datastore_must_work(void **data)
{
        struct state *state = *data;

        json_object_set_new(first(status(state->target), "datastores"), "ok", json_false());
        json_object_set_new(
                first(status(state->target), "datastores"), "message", json_string("stale handle"));
        assert_broken(state, "datastore", "stale handle");
}

static void port_group_must_be_there(void **data)
{
        struct state *state = *data;

        json_array_clear(json_object_get(status(state->target), "port_groups"));
        assert_broken(state, "port-group", "net");
}

static void switch_of_the_port_group_must_work(void **data)
{
        struct state *state = *data;

        json_object_set_new(first(status(state->target), "switches"), "ok", json_false());
        json_object_set_new(
                first(status(state->target), "switches"), "message", json_string("uplink eth1 is down"));
        assert_broken(state, "port-group", "uplink eth1 is down");
}

static void mac_address_must_be_its_own(void **data)
{
        struct state *state = *data;

        json_array_append_new(state->vms, json_pack("{s:s, s:s, s:{s:[{s:s}]}}", "name", "twin", "uid",
                                                  "u-twin", "spec", "nics", "mac", "52:54:00:00:00:01"));
        assert_broken(state, "mac", "twin");
}

static void error_names_the_first_and_counts_the_others(void **data)
{
        struct state *state = *data;
        _cleanup_error_ struct error *error = NULL;
        _cleanup_json_ json_t *checks = NULL;

        json_object_set_new(status(state->vm), "power", json_string("stopped"));
        json_object_set_new(status(state->target), "accelerator", json_string("tcg"));
        checks = run(state);
        assert_true(checks_to_error(checks, &error) < 0);
        assert_int_equal(error->code, ERROR_CHECK_FAILED);
        assert_non_null(strstr(error->message, "vm-running"));
        assert_non_null(strstr(error->message, "1 more"));
}

static void start_does_not_ask_for_a_running_machine(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *checks = NULL;

        json_object_set_new(status(state->vm), "power", json_string("stopped"));
        checks = checks_run(&(struct checks_input){.vm = state->vm, .target = state->target});
        assert_true(checks_ok(checks));
}

static void start_elsewhere_needs_the_home_datastore(void **data)
{
        struct state *state = *data;
        _cleanup_json_ json_t *checks = NULL;

        json_object_set_new(first(status(state->target), "datastores"), "id", json_string("id-2"));
        checks = checks_run(
                &(struct checks_input){.vm = state->vm, .home = state->source, .target = state->target});
        assert_false(checks_ok(checks));
}

int main(void)
{
        const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
                TEST(good_documents_meet_all_rules),
                TEST(host_must_be_connected),
                TEST(target_must_be_another_host),
                TEST(machine_must_run),
                TEST(machine_type_must_be_known_there),
                TEST(kvm_guest_needs_kvm),
                TEST(memory_must_be_free),
                TEST(promised_memory_is_not_room),
                TEST(datastore_must_be_there),
                TEST(datastore_must_be_the_same_one),
                TEST(datastore_must_work),
                TEST(port_group_must_be_there),
                TEST(switch_of_the_port_group_must_work),
                TEST(mac_address_must_be_its_own),
                TEST(error_names_the_first_and_counts_the_others),
                TEST(start_does_not_ask_for_a_running_machine),
                TEST(start_elsewhere_needs_the_home_datastore),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

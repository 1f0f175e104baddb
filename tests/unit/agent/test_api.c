/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "rig.h"

static struct rig rig;
static bool possible;

static int group_setup(void **state)
{
        possible = rig_setup(&rig);
        return 0;
}

static int group_teardown(void **state)
{
        rig_teardown(&rig);
        return 0;
}

static int each_setup(void **state)
{
        rig.epoch = "7"; /* as high as any test here goes */
        rig.request_id = NULL;
        return 0;
}

static const char *code_of(json_t *body)
{
        return json_string_value(json_object_get(body, "code"));
}

static void test_manager_reads_host_facts(void **state)
{
        json_t *body;

        if (!possible)
                skip();
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/host", NULL, &body), 200);
        assert_string_equal(json_string_value(json_object_get(body, "uid")), RIG_HOST_UID);
        assert_string_equal(json_string_value(json_object_get(body, "name")), "host1");
        assert_string_equal(json_string_value(json_object_get(body, "accelerator")), "tcg");
        assert_true(json_array_size(json_object_get(json_object_get(body, "qemu"), "machines")) > 5);
        assert_true(json_integer_value(json_object_get(body, "memory_bytes")) > 1 << 20);
        json_decref(body);
}

static void test_host_certificate_is_denied_on_managers_paths(void **state)
{
        json_t *body;

        if (!possible)
                skip();
        assert_int_equal(rig_call(&rig, rig.host, "GET", "/agent/v1/host", NULL, &body), 403);
        assert_string_equal(code_of(body), "denied");
        json_decref(body);
}

static void test_managers_certificate_is_denied_on_peer_paths(void **state)
{
        if (!possible)
                skip();
        assert_int_equal(
                rig_call(&rig, rig.manager, "GET", "/agent/v1/peer/migrations/" RIG_VM_UID, NULL, NULL), 403);
}

static void test_removed_host_begins_no_migration(void **state)
{
        json_t *body;

        if (!possible)
                skip();
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[s]}", "hosts", RIG_OTHER_UID), NULL),
                200);
        assert_int_equal(
                rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations", json_object(), &body), 403);
        assert_string_equal(code_of(body), "denied");
        json_decref(body);
        /* What it began before is settled. */
        assert_int_equal(
                rig_call(&rig, rig.host, "GET", "/agent/v1/peer/migrations/" RIG_VM_UID, NULL, NULL), 404);
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/removed-hosts",
                                 json_pack("{s:[]}", "hosts"), NULL),
                200);
        assert_int_equal(
                rig_call(&rig, rig.host, "POST", "/agent/v1/peer/migrations", json_object(), NULL), 422);
}

static void test_change_without_epoch_is_refused(void **state)
{
        json_t *body;

        if (!possible)
                skip();
        rig.epoch = NULL;
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", "/agent/v1/switches/none", NULL, &body), 400);
        assert_string_equal(code_of(body), "bad-request");
        json_decref(body);
}

static void test_lower_epoch_is_stale_even_after_restart(void **state)
{
        json_t *body;

        if (!possible)
                skip();
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/host", NULL, NULL), 200);
        rig_stop_agent(&rig);
        rig_start_agent(&rig);
        rig.epoch = "6";
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/host", NULL, &body), 409);
        assert_string_equal(code_of(body), "stale-epoch");
        json_decref(body);
        rig.epoch = "7";
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/host", NULL, NULL), 200);
}

static void test_repeated_request_gets_the_first_answer(void **state)
{
        json_t *first, *again;

        if (!possible)
                skip();
        rig.request_id = "44444444-4444-4444-8444-444444444444";
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", "/agent/v1/switches/gone", NULL, &first), 404);
        rig.request_id = NULL;
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/switches/gone",
                                 json_pack("{s:n, s:n}", "uplink", "mtu"), NULL),
                200);
        /* The switch exists now; the repeat is answered as the first time all the same, and deletes nothing. */
        rig.request_id = "44444444-4444-4444-8444-444444444444";
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", "/agent/v1/switches/gone", NULL, &again), 404);
        assert_true(json_equal(first, again));
        json_decref(first);
        json_decref(again);
        rig.request_id = NULL;
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", "/agent/v1/switches/gone", NULL, NULL), 200);
}

static void test_request_id_of_another_request_is_refused(void **state)
{
        if (!possible)
                skip();
        rig.request_id = "55555555-5555-4555-8555-555555555555";
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", "/agent/v1/switches/one", NULL, NULL), 404);
        assert_int_equal(rig_call(&rig, rig.manager, "DELETE", "/agent/v1/switches/two", NULL, NULL), 400);
}

static void test_configuration_survives_restart(void **state)
{
        json_t *list;

        if (!possible)
                skip();
        rig_configure(&rig);
        rig_stop_agent(&rig);
        rig_start_agent(&rig);
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/port-groups", NULL, &list), 200);
        assert_int_equal(json_array_size(list), 1);
        json_decref(list);
        assert_int_equal(rig_call(&rig, rig.manager, "GET", "/agent/v1/datastores", NULL, &list), 200);
        assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "name")), "local");
        json_decref(list);
}

static void test_datastore_with_another_id_is_refused(void **state)
{
        char path[64];

        if (!possible)
                skip();
        rig_configure(&rig);
        (void)snprintf(path, sizeof(path), "%s/store", rig.folder);
        assert_int_equal(rig_call(&rig, rig.manager, "PUT", "/agent/v1/datastores/local",
                                 json_pack("{s:s, s:s}", "path", path, "id", RIG_OTHER_UID), NULL),
                409);
}

static void test_unknown_vm_is_not_found(void **state)
{
        if (!possible)
                skip();
        assert_int_equal(rig_vm(&rig, "", NULL, NULL), 404);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup(name, each_setup)
        const struct CMUnitTest tests[] = {
                TEST(test_manager_reads_host_facts),
                TEST(test_host_certificate_is_denied_on_managers_paths),
                TEST(test_managers_certificate_is_denied_on_peer_paths),
                TEST(test_removed_host_begins_no_migration),
                TEST(test_change_without_epoch_is_refused),
                TEST(test_lower_epoch_is_stale_even_after_restart),
                TEST(test_repeated_request_gets_the_first_answer),
                TEST(test_request_id_of_another_request_is_refused),
                TEST(test_configuration_survives_restart),
                TEST(test_datastore_with_another_id_is_refused),
                TEST(test_unknown_vm_is_not_found),
        };

        return cmocka_run_group_tests(tests, group_setup, group_teardown);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Permissions, scopes and rate limits, without I/O. */

#include "fixture.h"

#include "base/clock.h"
#include "base/doc.h"
#include "manager/access.h"
#include "manager/rate_limit.h"

#define BIT(name) (UINT64_C(1) << PERMISSION_##name)

static uint64_t set_of(const char *name)
{
        _cleanup_json_ json_t *names = json_pack("[s]", name);
        uint64_t set = 0;

        (void)permission_set_read(names, "permissions", &set, NULL);
        return set;
}

static void pattern_stands_for_several_permissions(void **data)
{
        assert_int_equal(set_of("vm.read"), BIT(VM_READ));
        assert_int_equal(set_of("vm.*"), BIT(VM_READ) | BIT(VM_CREATE) | BIT(VM_DELETE) | BIT(VM_POWER) |
                                                 BIT(VM_MIGRATE) | BIT(VM_DISK) | BIT(VM_SNAPSHOT) |
                                                 BIT(VM_IMAGE) | BIT(VM_CONSOLE));
        assert_true(set_of("*.read") & BIT(AUDIT_READ));
        assert_false(set_of("*.read") & (BIT(VM_MIGRATE) | BIT(TOKEN_OWN)));
        assert_int_equal(set_of("*"), (UINT64_C(1) << N_PERMISSIONS) - 1);
}

static void what_is_no_permission_is_refused(void **data)
{
        static const char *const names[] = {
                "", "vm", "vm.", "vm.reads", "v.read", "*.", "vmx.*", "**", ".read"};

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                assert_int_equal(set_of(names[i]), 0);
}

static json_t *parse(const char *text)
{
        json_t *json = text ? json_loads(text, 0, NULL) : NULL;

        assert_true(!text || json);
        return json;
}

static struct access access_of(uint64_t permissions, const char *scope)
{
        _cleanup_json_ json_t *json = parse(scope);
        struct access access = {};

        assert_int_equal(access_add(&access, permissions, json), 0);
        return access;
}

/* `scope` and labels as JSON; NULL: none. */
static bool reaches(const char *scope, const char *vm, const char *host, const char *to)
{
        _cleanup_json_ json_t *vm_labels = parse(vm), *host_labels = parse(host), *to_labels = parse(to);
        _cleanup_access_ struct access access = access_of(BIT(VM_MIGRATE), scope);
        struct access_target target = {.has_vm = vm != NULL,
                .vm_labels = vm_labels,
                .n_hosts = (host != NULL) + (to != NULL),
                .host_labels = {host_labels, to_labels}};

        assert_false(access_permits(&access, PERMISSION_VM_READ, &target));
        return access_permits(&access, PERMISSION_VM_MIGRATE, &target);
}

#define EAST "{\"pool\": \"east\"}"
#define WEST "{\"pool\": \"west\"}"
#define POOL "{\"vms\": " EAST ", \"hosts\": " EAST "}"

static void scope_needs_every_label(void **data)
{
        assert_true(reaches("{\"vms\": " EAST "}", "{\"pool\": \"east\", \"tier\": \"web\"}", NULL, NULL));
        assert_false(reaches("{\"vms\": {\"pool\": \"east\", \"tier\": \"web\"}}", EAST, NULL, NULL));
        assert_false(reaches("{\"vms\": " EAST "}", WEST, NULL, NULL));
        assert_false(reaches("{\"vms\": " EAST "}", "{}", NULL, NULL));
}

static void both_hosts_of_a_move_have_to_be_in_the_scope(void **data)
{
        assert_true(reaches(POOL, EAST, EAST, EAST));
        assert_false(reaches(POOL, EAST, EAST, WEST));
        assert_false(reaches(POOL, EAST, WEST, EAST));
        assert_false(reaches(POOL, WEST, EAST, EAST));
        /* Where it does not speak of hosts, they may go to any. */
        assert_true(reaches("{\"vms\": " EAST "}", EAST, WEST, "{}"));
}

static void one_grant_has_to_reach_all(void **data)
{
        _cleanup_json_ json_t *east = parse(EAST), *west = parse(WEST),
                              *scope = parse("{\"vms\": " WEST ", \"hosts\": " WEST "}");
        _cleanup_access_ struct access access = access_of(BIT(VM_MIGRATE), POOL);
        struct access_target target = {
                .has_vm = true, .vm_labels = east, .n_hosts = 1, .host_labels = {west}};

        assert_int_equal(access_add(&access, BIT(VM_MIGRATE), scope), 0);
        assert_false(access_permits(&access, PERMISSION_VM_MIGRATE, &target));
        target.vm_labels = west;
        assert_true(access_permits(&access, PERMISSION_VM_MIGRATE, &target));
}

static void other_objects_are_in_the_widest_scope_only(void **data)
{
        assert_false(reaches(POOL, NULL, NULL, NULL));
        assert_true(reaches(NULL, NULL, NULL, NULL));
        assert_true(reaches("{}", NULL, NULL, NULL));
        assert_true(reaches("{\"vms\": {}}", NULL, NULL, NULL));
}

static void scope_with_one_half_is_closed_on_the_other(void **data)
{
        /* Of hosts alone: a VM by where it is, and none that is nowhere. */
        assert_true(reaches("{\"hosts\": " EAST "}", "{}", EAST, NULL));
        assert_false(reaches("{\"hosts\": " EAST "}", "{}", WEST, NULL));
        assert_false(reaches("{\"hosts\": " EAST "}", EAST, NULL, NULL));
        /* Of VMs alone: no host as such. */
        assert_false(reaches("{\"vms\": " EAST "}", NULL, EAST, NULL));
        assert_false(reaches("{\"vms\": " EAST "}", NULL, "{}", NULL));
}

static void new_machine_has_only_the_labels_of_its_scope(void **data)
{
        _cleanup_json_ json_t *east = parse(EAST), *more = parse("{\"pool\": \"east\", \"tenant\": \"hr\"}");
        _cleanup_access_ struct access access = access_of(BIT(VM_CREATE), POOL),
                                       all = access_of(BIT(VM_CREATE), NULL);
        struct access_target target = {.has_vm = true, .is_new = true, .vm_labels = east};

        assert_true(access_permits(&access, PERMISSION_VM_CREATE, &target));
        target.vm_labels = more;
        assert_false(access_permits(&access, PERMISSION_VM_CREATE, &target));
        assert_true(access_permits(&all, PERMISSION_VM_CREATE, &target));
}

static void folder_has_what_is_below_it(void **data)
{
        static const char scope[] = "{\"vms\": {\"folder\": \"prod/\"}}";

        assert_true(reaches(scope, "{\"folder\": \"prod\"}", NULL, NULL));
        assert_true(reaches(scope, "{\"folder\": \"prod/web/front\"}", NULL, NULL));
        assert_false(reaches(scope, "{\"folder\": \"production\"}", NULL, NULL));
        assert_false(reaches(scope, "{\"folder\": \"test/prod\"}", NULL, NULL));
}

static bool covers(const char *wide, const char *narrow)
{
        _cleanup_access_ struct access access = access_of(BIT(VM_READ) | BIT(VM_MIGRATE), wide),
                                       given = access_of(BIT(VM_MIGRATE), narrow);

        return access_covers(&access, &given.grants[0]);
}

static void only_what_one_has_can_be_given(void **data)
{
        static const char prod[] = "{\"vms\": {\"folder\": \"prod/\"}}",
                          web[] = "{\"vms\": {\"folder\": \"prod/web/\"}}";
        _cleanup_access_ struct access access = access_of(BIT(VM_READ), NULL),
                                       more = access_of(BIT(VM_MIGRATE), NULL);

        assert_true(covers(NULL, NULL));
        assert_true(covers(NULL, POOL));
        assert_false(covers(POOL, NULL));
        assert_true(covers("{\"vms\": " EAST "}", POOL));
        assert_false(covers(POOL, "{\"vms\": " EAST "}"));
        assert_true(covers(prod, web));
        assert_false(covers(web, prod));
        assert_false(access_covers(&access, &more.grants[0]));
}

static void bad_scope_is_refused(void **data)
{
        static const char *const scopes[] = {"{\"vm\": {}}", "{\"vms\": {\"a b\": \"c\"}}",
                "{\"vms\": {\"a\": 1}}", "{\"vms\": [\"a\"]}", "{\"hosts\": {\"a\": \"\"}}"};
        _cleanup_json_ json_t *good = parse(POOL);

        assert_int_equal(access_scope_check(good, "scope", NULL), 0);
        for (size_t i = 0; i < ARRAY_SIZE(scopes); i++) {
                _cleanup_json_ json_t *scope = parse(scopes[i]);

                assert_true(access_scope_check(scope, "scope", NULL) < 0);
        }
}

/* --- Rate limits ---------------------------------------------------------------------------------------------------- */

static void burst_is_allowed_then_one_each_interval(void **data)
{
        struct clock_manual clock;
        struct rate_limit *limit;
        uint64_t wait_ms = 0;

        clock_manual_init(&clock, 0);
        limit = rate_limit_new(&clock.clock, 64, 3, 1000);
        for (int i = 0; i < 3; i++)
                assert_true(rate_limit_take(limit, "alice", &wait_ms));
        assert_false(rate_limit_take(limit, "alice", &wait_ms));
        assert_int_equal(wait_ms, 1000);
        assert_true(rate_limit_take(limit, "bob", NULL));
        clock_manual_advance(&clock, 999);
        assert_false(rate_limit_take(limit, "alice", &wait_ms));
        assert_int_equal(wait_ms, 1);
        clock_manual_advance(&clock, 1);
        assert_true(rate_limit_take(limit, "alice", NULL));
        assert_false(rate_limit_take(limit, "alice", NULL));
        rate_limit_refund(limit, "alice");
        assert_true(rate_limit_take(limit, "alice", NULL));
        rate_limit_free(limit);
}

static void guesser_is_remembered_among_many_others(void **data)
{
        struct clock_manual clock;
        struct rate_limit *limit;
        char key[32];

        clock_manual_init(&clock, 0);
        limit = rate_limit_new(&clock.clock, 64, 5, 60000);
        for (int i = 0; i < 5; i++)
                assert_true(rate_limit_take(limit, "guesser", NULL));
        /* Far more keys than there is room for, each of which tries once. */
        for (int i = 0; i < 10000; i++) {
                snprintf(key, sizeof(key), "crowd%d", i);
                (void)rate_limit_take(limit, key, NULL);
        }
        assert_false(rate_limit_take(limit, "guesser", NULL));
        rate_limit_free(limit);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(pattern_stands_for_several_permissions),
                cmocka_unit_test(what_is_no_permission_is_refused),
                cmocka_unit_test(scope_needs_every_label),
                cmocka_unit_test(both_hosts_of_a_move_have_to_be_in_the_scope),
                cmocka_unit_test(one_grant_has_to_reach_all),
                cmocka_unit_test(other_objects_are_in_the_widest_scope_only),
                cmocka_unit_test(scope_with_one_half_is_closed_on_the_other),
                cmocka_unit_test(new_machine_has_only_the_labels_of_its_scope),
                cmocka_unit_test(folder_has_what_is_below_it),
                cmocka_unit_test(only_what_one_has_can_be_given),
                cmocka_unit_test(bad_scope_is_refused),
                cmocka_unit_test(burst_is_allowed_then_one_each_interval),
                cmocka_unit_test(guesser_is_remembered_among_many_others),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

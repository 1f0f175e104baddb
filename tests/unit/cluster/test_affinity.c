/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../torture_loop.h"
#include "base/doc.h"
#include "cluster/affinity.h"

/* Tests write ' where JSON has ". */
static json_t *json_of(const char *text)
{
        json_t *json = NULL;
        char copy[2048];

        assert_true(strlen(text) < sizeof(copy));
        snprintf(copy, sizeof(copy), "%s", text);
        for (char *c = copy; *c; c++)
                if (*c == '\'')
                        *c = '"';
        assert_int_equal(doc_parse(copy, strlen(copy), &json, NULL), 0);
        return json;
}

/* "NAME TYPE VM,VM [HOST,HOST]" */
static json_t *rule(const char *text)
{
        char name[32], type[32], vms[128], hosts[128] = "";
        json_t *doc, *lists[2] = {json_array(), json_array()};
        const char *words[2] = {vms, hosts};

        assert_true(sscanf(text, "%31s %31s %127s %127s", name, type, vms, hosts) >= 3);
        for (int i = 0; i < 2; i++)
                for (const char *at = words[i]; *at; at += strcspn(at, ","), at += *at == ',')
                        json_array_append_new(lists[i], json_stringn(at, strcspn(at, ",")));
        doc = json_pack("{s:s, s:{s:s, s:s, s:o, s:o}}", "name", name, "spec", "type", type, "mode", "must",
                "vms", lists[0], "hosts", lists[1]);
        assert_non_null(doc);
        return doc;
}

static json_t *rules(const char *const *texts, size_t n)
{
        json_t *list = json_array();

        for (size_t i = 0; i < n; i++)
                json_array_append_new(list, rule(texts[i]));
        return list;
}
#define RULES(...) rules((const char *const[]){__VA_ARGS__}, ARRAY_SIZE(((const char *const[]){__VA_ARGS__})))

/* --- Shape --------------------------------------------------------------------------------------------------------- */

static void assert_bad(const char *text, const char *message)
{
        _cleanup_json_ json_t *spec = json_of(text);
        _cleanup_error_ struct error *error = NULL;

        assert_true(affinity_check_spec(spec, &error) < 0);
        assert_int_equal(error->code, ERROR_BAD_DOCUMENT);
        assert_string_equal(error->message, message);
}

static void rule_must_be_kept_unless_it_says_otherwise(void **state)
{
        _cleanup_json_ json_t *spec = json_of("{'type': 'keep-apart', 'vms': ['a', 'b']}");

        assert_int_equal(affinity_check_spec(spec, NULL), 0);
        assert_string_equal(json_string_value(json_object_get(spec, "mode")), "must");
}

static void malformed_rules_are_refused(void **state)
{
        assert_bad("{'type': 'near', 'vms': ['a', 'b']}",
                "field spec.type is \"near\", allowed is keep-together, keep-apart, run-on or keep-off");
        assert_bad("{'type': 'keep-apart', 'mode': 'may', 'vms': ['a', 'b']}",
                "field spec.mode is \"may\", allowed is must or should");
        assert_bad("{'type': 'keep-apart', 'vms': ['a']}", "field spec.vms must name 2 at least");
        assert_bad("{'type': 'keep-apart', 'vms': ['a', 'a']}", "field spec.vms names a twice");
        assert_bad("{'type': 'keep-apart', 'vms': ['a', '/']}", "field spec.vms[1] must be a name");
        assert_bad("{'type': 'run-on', 'vms': ['a']}", "field spec.hosts must name 1 at least");
        assert_bad("{'type': 'keep-together', 'vms': ['a', 'b'], 'hosts': ['h']}",
                "field spec.hosts has no meaning for keep-together");
}

/* --- Contradictions ------------------------------------------------------------------------------------------------ */

static void assert_fits(const char *text, json_t *others)
{
        _cleanup_json_ json_t *doc = rule(text), *list = others;
        _cleanup_error_ struct error *error = NULL;

        if (affinity_check_others(doc, list, &error) < 0)
                fail_msg("%s: %s", text, error_message(error));
}

static void assert_conflict(const char *text, json_t *others, const char *message)
{
        _cleanup_json_ json_t *doc = rule(text), *list = others;
        _cleanup_error_ struct error *error = NULL;

        assert_true(affinity_check_others(doc, list, &error) < 0);
        assert_int_equal(error->code, ERROR_CONFLICT);
        assert_string_equal(error->message, message);
        assert_non_null(error->hint);
}

static void rules_that_agree_are_taken(void **state)
{
        assert_fits("new keep-apart a,b", json_array());
        assert_fits("new keep-apart a,b", RULES("one keep-together a,c", "two keep-together b,d"));
        assert_fits("new run-on a h1,h2",
                RULES("one run-on a h2,h3", "two keep-off a h3", "three keep-together a,b"));
        assert_fits("new keep-apart a,b", RULES("one run-on a h1", "two run-on b h1,h2"));
}

static void pair_that_is_kept_together_cannot_be_kept_apart(void **state)
{
        assert_conflict("new keep-apart a,b", RULES("one keep-together a,b"),
                "rule new keeps a and b apart, and they are kept together by rule one");
        assert_conflict("new keep-together a,b", RULES("one keep-apart b,a"),
                "rule one keeps b and a apart, and they are kept together by rule new");
}

/* The cycle a - b - c - d, closed by a rule against it. */
static void chain_of_rules_must_not_close_in_a_contradiction(void **state)
{
        assert_conflict("new keep-apart d,a",
                RULES("one keep-together a,b", "two keep-together b,c", "aside keep-together c,x",
                        "three keep-together c,d"),
                "rule new keeps d and a apart, and they are kept together by rules one, two and three");
        assert_conflict("new keep-together c,b",
                RULES("one keep-together a,b", "two keep-together c,d", "apart keep-apart a,d"),
                "rule apart keeps a and d apart, and they are kept together by rules new, one and two");
}

static void cycle_of_rules_that_agree_is_none(void **state)
{
        assert_fits("new keep-together c,a", RULES("one keep-together a,b", "two keep-together b,c"));
}

static void some_host_must_be_left(void **state)
{
        assert_conflict(
                "new run-on a h1", RULES("one run-on a h2"), "no host is left for a by rules new and one");
        assert_conflict("new keep-off a h1,h2", RULES("one run-on a h2"),
                "no host is left for a by rules new and one");
        assert_conflict("new keep-together a,b", RULES("one run-on a h1", "two run-on b h2"),
                "no host is left for b by rules new, one and two");
}

static void each_needs_a_host_of_its_own_to_be_apart(void **state)
{
        static const char *const words =
                "rule new keeps its virtual machines apart, and rules about hosts leave no host "
                "of its own for c";

        assert_conflict("new keep-apart a,b,c", RULES("one run-on a,b,c h1,h2"), words);
        /* Enough hosts in all, but not for these three. */
        assert_conflict(
                "new keep-apart a,b,c,d", RULES("one run-on a,b,c h1,h2", "two run-on d h3,h4"), words);
        /* Only when the others give way is there one for each. */
        assert_fits("new keep-apart a,b,c",
                RULES("one run-on a h1,h2", "two run-on b h1,h3", "three run-on c h1"));
}

/* As large as rules may be; the second one leaves the group no host. */
static void large_rules_are_held_against_each_other(void **state)
{
        _cleanup_json_ json_t *wide = rule("wide run-on v0 h0"), *off = rule("off keep-off v255 h0");
        _cleanup_json_ json_t *others = json_pack("[o]", rule("pair keep-together v0 v255"));
        _cleanup_error_ struct error *error = NULL;
        json_t *list = json_object_get(json_object_get(wide, "spec"), "vms");
        char name[16];

        json_array_clear(list);
        for (int i = 0; i < AFFINITY_VMS_MAX; i++) {
                snprintf(name, sizeof(name), "v%d", i);
                json_array_append_new(list, json_string(name));
        }
        for (int i = 1; i < AFFINITY_HOSTS_MAX; i++) {
                snprintf(name, sizeof(name), "h%d", i);
                json_array_append_new(
                        json_object_get(json_object_get(wide, "spec"), "hosts"), json_string(name));
                json_array_append_new(
                        json_object_get(json_object_get(off, "spec"), "hosts"), json_string(name));
        }
        json_array_append(others, wide);
        assert_true(affinity_check_others(off, others, &error) < 0);
        assert_int_equal(error->code, ERROR_CONFLICT);
        assert_non_null(strstr(error->message, "no host is left for v255 by rules "));
        json_array_remove(json_object_get(json_object_get(off, "spec"), "hosts"), 17);
        assert_int_equal(affinity_check_others(off, others, NULL), 0);
}

static void rule_is_not_held_against_itself_nor_those_that_should_be_kept(void **state)
{
        json_t *others = RULES("new keep-together a,b", "one keep-together a,b");

        json_object_set_new(
                json_object_get(json_array_get(others, 1), "spec"), "mode", json_string("should"));
        assert_fits("new keep-apart a,b", others);
}

static void check_once(void *arg)
{
        json_t *const *docs = arg;

        (void)torture_failed(affinity_check_others(docs[0], docs[1], NULL) == -ENOMEM);
}

static void memory_may_run_out_on_the_way(void **state)
{
        json_t *docs[2] = {rule("new keep-apart a,d"),
                RULES("one keep-together a,b", "two keep-together b,d", "three run-on a h1")};

        torture_loop(check_once, docs);
        json_decref(docs[0]);
        json_decref(docs[1]);
}

/* --- One VM -------------------------------------------------------------------------------------------------------- */

/* "NAME HOST POWER" */
static json_t *vm(const char *text)
{
        char name[32], host[32], power[32];

        assert_int_equal(sscanf(text, "%31s %31s %31s", name, host, power), 3);
        return json_pack("{s:s, s:s, s:{s:s, s:s}}", "name", name, "uid", name, "status", "host", host,
                "power", power);
}

struct judged {
        json_t *vms, *tasks, *list;
};

static struct judged world_of(const char *first_rule, const char *const *vms, size_t n)
{
        struct judged world = {.vms = json_array(), .tasks = json_array(), .list = json_array()};

        json_array_append_new(world.list, rule(first_rule));
        for (size_t i = 0; i < n; i++)
                json_array_append_new(world.vms, vm(vms[i]));
        return world;
}
#define WORLD(rule, ...) \
        world_of(rule, (const char *const[]){__VA_ARGS__}, ARRAY_SIZE(((const char *const[]){__VA_ARGS__})))

static void assert_judged(const struct judged *world, const char *host, const char *expected)
{
        _cleanup_json_ json_t *me = vm("me h1 running");
        _cleanup_json_ json_t *items = affinity_of_vm(world->list, me, world->vms, world->tasks);
        _cleanup_free_ char *cause = NULL;

        assert_int_equal(json_array_size(items), 1);
        assert_int_equal(affinity_judge(json_array_get(items, 0), host, &cause), 0);
        if (expected)
                assert_string_equal(cause, expected);
        else
                assert_null(cause);
}

static void end(struct judged *world)
{
        json_decref(world->vms);
        json_decref(world->tasks);
        json_decref(world->list);
}

static void together_is_where_the_others_are(void **state)
{
        struct judged world =
                WORLD("pair keep-together me,db,web", "me h1 running", "db h2 running", "web h2 paused");

        assert_judged(&world, "h2", NULL);
        assert_judged(&world, "h3", "rule pair keeps it together with db and web on host h2");
        end(&world);
}

static void scattered_group_can_come_together_again(void **state)
{
        struct judged world =
                WORLD("three keep-together me,a,b,c", "a h1 running", "b h2 running", "c h2 running");

        assert_judged(&world, "h2", NULL);
        assert_judged(&world, "h1", "rule three keeps it together with b and c on host h2");
        end(&world);
}

static void those_that_do_not_run_bind_nobody(void **state)
{
        struct judged world = WORLD("pair keep-together me,db,web", "db h2 stopped", "web h3 crashed");

        assert_judged(&world, "h1", NULL);
        end(&world);
}

static void apart_is_where_none_of_the_others_is(void **state)
{
        struct judged world =
                WORLD("spread keep-apart me,a,b", "me h1 running", "a h2 running", "b h3 running");

        assert_judged(&world, "h1", NULL);
        assert_judged(&world, "h2", "rule spread keeps it apart from a on host h2");
        end(&world);
}

static void one_on_its_way_counts_at_both_ends_for_apart_and_at_the_far_one_for_together(void **state)
{
        struct judged world = WORLD("spread keep-apart me,a", "a h2 running");

        json_array_append_new(world.tasks, json_pack("{s:s, s:s}", "vm_uid", "a", "to", "h3"));
        assert_judged(&world, "h2", "rule spread keeps it apart from a on host h2");
        assert_judged(&world, "h3", "rule spread keeps it apart from a on host h3");
        json_decref(world.list);
        world.list = RULES("pair keep-together me,a");
        assert_judged(&world, "h3", NULL);
        assert_judged(&world, "h2", "rule pair keeps it together with a on host h3");
        end(&world);
}

static void hosts_that_are_named_are_the_ones(void **state)
{
        struct judged world = WORLD("licence run-on me,db h1,h2", "db h1 running");

        assert_judged(&world, "h2", NULL);
        assert_judged(&world, "h3", "rule licence lets it run on h1 and h2 only");
        json_decref(world.list);
        world.list = RULES("old keep-off me h1,h2");
        assert_judged(&world, "h3", NULL);
        assert_judged(&world, "h2", "rule old keeps it off host h2");
        end(&world);
}

/* A rule may name thousands of hosts: the cause stays one that people can read, and is there at all. */
static void cause_names_the_first_of_many(void **state)
{
        _cleanup_json_ json_t *item =
                json_pack("{s:s, s:b, s:s, s:{}}", "name", "only", "must", 1, "type", "run-on", "hosts");
        _cleanup_free_ char *cause = NULL;
        char name[64];

        for (int i = 0; i < AFFINITY_HOSTS_MAX; i++) {
                snprintf(name, sizeof(name), "host-with-a-name-that-is-not-quite-short-%04d", i);
                json_object_set_new(json_object_get(item, "hosts"), name, json_array());
        }
        assert_int_equal(affinity_judge(item, "elsewhere", &cause), 0);
        assert_non_null(cause);
        assert_true(strlen(cause) < 1024);
        assert_non_null(strstr(cause, "host-with-a-name-that-is-not-quite-short-0000, "));
        assert_non_null(strstr(cause, " and 4992 more only"));
}

static void rules_about_others_are_not_its_business(void **state)
{
        _cleanup_json_ json_t *list = RULES("pair keep-together db,web"), *me = vm("me h1 running");
        _cleanup_json_ json_t *items = affinity_of_vm(list, me, NULL, NULL);

        assert_int_equal(json_array_size(items), 0);
}

static void what_breaks_a_rule_now_is_told(void **state)
{
        struct judged world = WORLD(
                "spread keep-apart a,b,c,d", "a h1 running", "b h1 running", "c h2 running", "d h2 stopped");
        _cleanup_json_ json_t *broken = affinity_broken(json_array_get(world.list, 0), world.vms);

        assert_int_equal(json_array_size(broken), 2);
        assert_string_equal(json_string_value(json_array_get(broken, 0)),
                "a is on host h1: rule spread keeps it apart from b on host h1");
        assert_string_equal(json_string_value(json_array_get(broken, 1)),
                "b is on host h1: rule spread keeps it apart from a on host h1");
        end(&world);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(rule_must_be_kept_unless_it_says_otherwise),
                cmocka_unit_test(malformed_rules_are_refused),
                cmocka_unit_test(rules_that_agree_are_taken),
                cmocka_unit_test(pair_that_is_kept_together_cannot_be_kept_apart),
                cmocka_unit_test(chain_of_rules_must_not_close_in_a_contradiction),
                cmocka_unit_test(cycle_of_rules_that_agree_is_none),
                cmocka_unit_test(some_host_must_be_left),
                cmocka_unit_test(each_needs_a_host_of_its_own_to_be_apart),
                cmocka_unit_test(large_rules_are_held_against_each_other),
                cmocka_unit_test(rule_is_not_held_against_itself_nor_those_that_should_be_kept),
                cmocka_unit_test(memory_may_run_out_on_the_way),
                cmocka_unit_test(together_is_where_the_others_are),
                cmocka_unit_test(scattered_group_can_come_together_again),
                cmocka_unit_test(those_that_do_not_run_bind_nobody),
                cmocka_unit_test(apart_is_where_none_of_the_others_is),
                cmocka_unit_test(
                        one_on_its_way_counts_at_both_ends_for_apart_and_at_the_far_one_for_together),
                cmocka_unit_test(hosts_that_are_named_are_the_ones),
                cmocka_unit_test(cause_names_the_first_of_many),
                cmocka_unit_test(rules_about_others_are_not_its_business),
                cmocka_unit_test(what_breaks_a_rule_now_is_told),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

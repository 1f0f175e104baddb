/* SPDX-License-Identifier: Apache-2.0 */

/* The ranking of hosts: order, reasons, stability. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "cluster/placement.h"

static json_t *host(const char *name, int free_gib, double load)
{
        return json_pack("{s:s, s:s, s:{s:s, s:s, s:i, s:I, s:I, s:f, s:[], s:[], s:[]}}", "name", name,
                "uid", name, "status", "state", "connected", "accelerator", "tcg", "cpus", 4, "memory_bytes",
                (json_int_t)16 << 30, "memory_free_bytes", (json_int_t)free_gib << 30, "load1", load,
                "datastores", "switches", "port_groups");
}

static json_t *machine(void)
{
        return json_pack("{s:s, s:s, s:{s:I}, s:{s:s}}", "name", "web", "uid", "u", "spec", "memory_bytes",
                (json_int_t)1 << 30, "status", "power", "stopped");
}

/* The names in the order of the ranking. */
static void assert_order(const struct checks_input *input, const json_t *hosts, const char *expected)
{
        _cleanup_json_ json_t *ranking = placement_rank(input, hosts, NULL);
        char got[64] = "";
        json_t *item;
        size_t i;

        assert_non_null(ranking);
        json_array_foreach (ranking, i, item)
                snprintf(got + i, sizeof(got) - i, "%s", json_string_value(json_object_get(item, "host")));
        assert_string_equal(got, expected);
}

static void most_free_memory_comes_first(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o,o,o]", host("a", 4, 0),
                                                       host("b", 12, 0), host("c", 8, 0));

        assert_order(&(struct checks_input){.vm = vm}, hosts, "bca");
}

static void ranking_in_pieces_is_the_same(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_array(), *whole = NULL, *pieces = NULL;
        const struct checks_input input = {.vm = vm, .home = NULL};
        struct placement *placement;
        int n = 1, r;

        for (int i = 0; i < 20; i++)
                json_array_append_new(hosts, host((char[]){(char)('a' + i), 0}, i * 7 % 16, i % 4));
        whole = placement_rank(&input, hosts, NULL);
        placement = placement_new(&input, hosts, NULL);
        assert_non_null(placement);
        while ((r = placement_step(placement, 3)) > 0)
                n++;
        assert_int_equal(r, 0);
        assert_int_equal(n, 7); /* three at a time, and no more */
        pieces = placement_ranking(placement);
        placement_free(placement);
        assert_int_equal(json_array_size(whole), 20);
        assert_true(json_equal(whole, pieces));
}

static void load_counts_too(void **data)
{
        _cleanup_json_ json_t *vm = machine(),
                              *hosts = json_pack("[o,o]", host("a", 8, 4.0), host("b", 7, 0));

        assert_order(&(struct checks_input){.vm = vm}, hosts, "ba");
}

static void ties_are_broken_by_name_whatever_the_input_order(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o,o,o]", host("c", 8, 0), host("a", 8, 0),
                                                       host("b", 8, 0));

        assert_order(&(struct checks_input){.vm = vm}, hosts, "abc");
}

static void home_is_preferred_among_hosts_that_are_about_as_good(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o,o]", host("a", 8, 0), host("b", 7, 0));

        assert_order(&(struct checks_input){.vm = vm}, hosts, "ab");
        assert_order(&(struct checks_input){.vm = vm, .home = json_array_get(hosts, 1)}, hosts, "ba");
}

static void much_better_host_comes_before_home(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o,o]", host("a", 14, 0), host("b", 4, 0));

        assert_order(&(struct checks_input){.vm = vm, .home = json_array_get(hosts, 1)}, hosts, "ab");
}

/* Its processors are all taken: a warning. */
static void home_with_a_warning_gives_way(void **data)
{
        _cleanup_json_ json_t *vm = machine(),
                              *hosts = json_pack("[o,o]", host("a", 8, 3), host("b", 8, 3.5));

        assert_order(&(struct checks_input){.vm = vm, .home = json_array_get(hosts, 1)}, hosts, "ab");
}

static void source_is_not_ranked(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o,o]", host("a", 12, 0), host("b", 4, 0));

        json_object_set_new(json_object_get(vm, "status"), "power", json_string("running"));
        assert_order(&(struct checks_input){.vm = vm, .source = json_array_get(hosts, 0)}, hosts, "b");
}

static void unfit_host_is_last_with_its_reason(void **data)
{
        _cleanup_json_ json_t *vm = machine(),
                              *hosts = json_pack("[o,o]", host("a", 0, 0), host("b", 2, 4.0)),
                              *ranking = NULL;
        const char *best = NULL, *reason;

        ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);
        assert_int_equal(placement_best(ranking, &best, NULL), 0);
        assert_string_equal(best, "b");
        reason = json_string_value(json_array_get(json_object_get(json_array_get(ranking, 1), "reasons"), 0));
        assert_non_null(strstr(reason, "memory"));
}

static void nowhere_to_go_says_why(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o]", host("a", 0, 0)), *ranking = NULL;
        _cleanup_error_ struct error *error = NULL;
        const char *best = "untouched";

        ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);
        assert_true(placement_best(ranking, &best, &error) < 0);
        assert_int_equal(error->code, ERROR_NO_RESOURCES);
        assert_non_null(strstr(error->message, "memory"));
        assert_string_equal(best, "untouched");
}

static json_t *with(json_t *doc, const char *key, json_t *value)
{
        assert_int_equal(json_object_set_new(json_object_get(doc, "status"), key, value), 0);
        return doc;
}

static json_t *pressure(double cpu, double memory, double io)
{
        return json_pack("{s:f, s:f, s:f}", "cpu", cpu, "memory", memory, "io", io);
}

static void pressure_counts_by_the_worst_of_the_three(void **data)
{
        _cleanup_json_ json_t *vm = machine();
        _cleanup_json_ json_t *hosts =
                json_pack("[o,o,o]", with(host("a", 8, 0), "pressure", pressure(0, 0, 60)),
                        with(host("b", 8, 0), "pressure", pressure(20, 20, 20)),
                        with(host("c", 8, 0), "pressure", pressure(0, 40, 0)));

        assert_order(&(struct checks_input){.vm = vm}, hosts, "bca");
}

static void busy_network_counts(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = NULL;

        hosts = json_pack("[o,o]",
                with(host("a", 8, 0), "network",
                        json_pack("{s:s, s:I, s:I, s:I}", "interface", "eth0", "speed_bps",
                                (json_int_t)1000000000, "rx_bps", (json_int_t)1000, "tx_bps",
                                (json_int_t)900000000)),
                with(host("b", 8, 0), "network",
                        json_pack("{s:s, s:I, s:I, s:I}", "interface", "eth0", "speed_bps",
                                (json_int_t)1000000000, "rx_bps", (json_int_t)1000, "tx_bps",
                                (json_int_t)100000000)));
        assert_order(&(struct checks_input){.vm = vm}, hosts, "ba");
}

static void slow_storage_of_the_machines_own_datastores_counts(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = NULL;
        static const char *const format = "[{s:s, s:s, s:b, s:f}, {s:s, s:s, s:b, s:f}]";

        json_object_set_new(json_object_get(vm, "spec"), "datastore", json_string("shared"));
        hosts = json_pack("[o,o]",
                with(host("a", 8, 0), "datastores",
                        json_pack(format, "name", "shared", "id", "1", "ok", 1, "latency_ms", 30.0, "name",
                                "other", "id", "2", "ok", 1, "latency_ms", 1.0)),
                with(host("b", 8, 0), "datastores",
                        json_pack(format, "name", "shared", "id", "1", "ok", 1, "latency_ms", 3.0, "name",
                                "other", "id", "2", "ok", 1, "latency_ms", 500.0)));
        assert_order(&(struct checks_input){.vm = vm}, hosts, "ba");
}

static void cheaper_migration_counts(void **data)
{
        _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o,o]", host("a", 8, 0), host("b", 8, 0)),
                              *forecasts = json_pack("{s:{s:f}, s:{s:f}}", "a", "total_ms", 90000.0, "b",
                                      "total_ms", 4000.0),
                              *ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, forecasts);
        const json_t *reasons = json_object_get(json_array_get(ranking, 0), "reasons");

        assert_string_equal(json_string_value(json_object_get(json_array_get(ranking, 0), "host")), "b");
        assert_string_equal(json_string_value(json_array_get(reasons, json_array_size(reasons) - 1)),
                "the migration would take about 4.0 s");
}

/* Nobody gains or loses by not telling. */
static void what_is_not_known_does_not_count(void **data)
{
        _cleanup_json_ json_t *vm = machine(),
                              *hosts = json_pack("[o,o]", with(host("a", 16, 0), "pressure", json_null()),
                                      with(host("b", 16, 0), "pressure", pressure(1, 1, 1))),
                              *ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);

        assert_true(json_number_value(json_object_get(json_array_get(ranking, 0), "score")) > 90);
        assert_true(json_number_value(json_object_get(json_array_get(ranking, 1), "score")) > 90);
}

static void warning_costs_points_and_is_told(void **data)
{
        _cleanup_json_ json_t *vm = machine(),
                              *hosts = json_pack("[o,o]", host("a", 12, 3.9), host("b", 2, 0)),
                              *ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);
        const json_t *warned = json_array_get(ranking, 1);

        assert_string_equal(json_string_value(json_object_get(warned, "host")), "a");
        assert_true(json_is_true(json_object_get(warned, "ok")));
        assert_string_equal(json_string_value(json_array_get(json_object_get(warned, "reasons"), 0)),
                "warning: cpu-load: host a has 4 processors, a load of 3.9, and 1 virtual processors to "
                "come");
        assert_int_equal(json_array_size(json_object_get(warned, "checks")), 1);
}

static void of_the_unfit_the_nearest_miss_comes_first(void **data)
{
        _cleanup_json_ json_t *vm = machine(),
                              *hosts = json_pack("[o,o,o]",
                                      with(host("a", 0, 0), "state", json_string("unreachable")),
                                      host("b", 0, 0), host("c", 8, 0)),
                              *ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);

        assert_order(&(struct checks_input){.vm = vm}, hosts, "cba");
        assert_int_equal(json_array_size(json_object_get(json_array_get(ranking, 2), "checks")), 2);
}

static json_t *on_interface(json_t *host, const char *interface)
{
        return with(host, "network",
                json_pack("{s:s, s:I, s:I, s:I}", "interface", interface, "speed_bps", (json_int_t)1000000000,
                        "rx_bps", (json_int_t)0, "tx_bps", (json_int_t)0));
}

/* A reason is cut to fit, perhaps between the two bytes of a letter: the ranking is made all the same. */
static void reason_that_is_cut_within_a_letter_is_a_reason(void **data)
{
        for (size_t before = 0; before < 2; before++) {
                _cleanup_json_ json_t *vm = machine(), *hosts = NULL, *ranking = NULL;
                char name[256] = "x";
                size_t i;
                json_t *reason;

                for (i = before; i + 2 < sizeof(name); i += 2)
                        memcpy(name + i, "\xc3\xa9", 2);
                name[i] = '\0';
                hosts = json_pack("[o]", on_interface(host("a", 8, 0), name));
                ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);
                assert_non_null(ranking);
                json_array_foreach (json_object_get(json_array_get(ranking, 0), "reasons"), i, reason)
                        assert_true(json_is_string(reason));
                assert_int_equal(i, 3);
        }
}

/* Agents may say anything. */
static void absurd_numbers_are_cut_to_what_can_be_told(void **data)
{
        static const double numbers[] = {1e300, -1e300, 0};

        for (size_t k = 0; k < 3; k++) {
                _cleanup_json_ json_t *vm = machine(), *hosts = json_pack("[o]", host("a", 8, 0)),
                                      *ranking = NULL;
                json_t *one = json_array_get(hosts, 0);
                _cleanup_free_ char *text = NULL;
                double score;

                with(one, "memory_bytes", json_real(numbers[k]));
                with(one, "load1", json_real(numbers[k]));
                with(one, "cpus", json_real(numbers[k]));
                with(one, "network",
                        json_pack("{s:s, s:f, s:f, s:f}", "interface", "eth0", "speed_bps", numbers[k],
                                "rx_bps", numbers[k], "tx_bps", numbers[k]));
                ranking = placement_rank(&(struct checks_input){.vm = vm}, hosts, NULL);
                assert_non_null(ranking);
                score = json_number_value(json_object_get(json_array_get(ranking, 0), "score"));
                assert_true(score >= 0 && score <= 100);
                text = json_dumps(ranking, 0);
                if (k == 0)
                        assert_non_null(strstr(text, "1000000 Tbit/s of 1000000 Tbit/s"));
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(most_free_memory_comes_first),
                cmocka_unit_test(ranking_in_pieces_is_the_same),
                cmocka_unit_test(load_counts_too),
                cmocka_unit_test(ties_are_broken_by_name_whatever_the_input_order),
                cmocka_unit_test(home_is_preferred_among_hosts_that_are_about_as_good),
                cmocka_unit_test(much_better_host_comes_before_home),
                cmocka_unit_test(home_with_a_warning_gives_way),
                cmocka_unit_test(source_is_not_ranked),
                cmocka_unit_test(unfit_host_is_last_with_its_reason),
                cmocka_unit_test(nowhere_to_go_says_why),
                cmocka_unit_test(pressure_counts_by_the_worst_of_the_three),
                cmocka_unit_test(busy_network_counts),
                cmocka_unit_test(slow_storage_of_the_machines_own_datastores_counts),
                cmocka_unit_test(cheaper_migration_counts),
                cmocka_unit_test(what_is_not_known_does_not_count),
                cmocka_unit_test(warning_costs_points_and_is_told),
                cmocka_unit_test(of_the_unfit_the_nearest_miss_comes_first),
                cmocka_unit_test(reason_that_is_cut_within_a_letter_is_a_reason),
                cmocka_unit_test(absurd_numbers_are_cut_to_what_can_be_told),
        };
        return cmocka_run_group_tests(tests, NULL, NULL);
}

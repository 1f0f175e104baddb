/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/doc.h"
#include "vmm/migration_params.h"

static json_t *parse(const char *text)
{
        json_t *json = json_loads(text, JSON_DECODE_ANY, NULL);

        assert_non_null(json);
        return json;
}

#define CAP(name, state) "{\"capability\": \"" name "\", \"state\": " state "}"

static void check_capabilities(
        enum migration_side side, const char *current, const char *expected_set, const char *expected_restore)
{
        _cleanup_json_ json_t *list = parse(current), *set = NULL, *restore = NULL;
        _cleanup_json_ json_t *want_set = parse(expected_set), *want_restore = parse(expected_restore);

        assert_int_equal(migration_capabilities_build(side, &(struct migration_needs){.throttle = true}, list,
                                 &set, &restore, NULL),
                0);
        assert_true(json_equal(json_object_get(set, "capabilities"), want_set));
        assert_true(json_equal(json_object_get(restore, "capabilities"), want_restore));
}

static void source_gets_events_and_return_path(void **state)
{
        check_capabilities(MIGRATION_SOURCE,
                "[" CAP("events", "false") "," CAP("return-path", "false") "," CAP("xbzrle", "false") "]",
                "[" CAP("events", "true") "," CAP("return-path", "true") "]",
                "[" CAP("events", "false") "," CAP("return-path", "false") "]");
}

static void what_would_change_the_stream_is_turned_off(void **state)
{
        check_capabilities(MIGRATION_SOURCE,
                "[" CAP("events", "true") "," CAP("return-path", "true") "," CAP("xbzrle", "true") "," CAP(
                        "postcopy-ram", "true") "," CAP("from-the-future", "true") "]",
                "[" CAP("xbzrle", "false") "," CAP("postcopy-ram", "false") "," CAP(
                        "from-the-future", "false") "]",
                "[" CAP("xbzrle", "true") "," CAP("postcopy-ram", "true") "," CAP(
                        "from-the-future", "true") "]");
}

static void destination_gets_late_block_activate_where_it_exists(void **state)
{
        check_capabilities(MIGRATION_DESTINATION,
                "[" CAP("events", "true") "," CAP("return-path", "false") "," CAP(
                        "late-block-activate", "false") "]",
                "[" CAP("late-block-activate", "true") "]", "[" CAP("late-block-activate", "false") "]");
        check_capabilities(MIGRATION_DESTINATION, "[" CAP("events", "true") "]", "[]", "[]");
}

static void source_without_return_path_is_not_supported(void **state)
{
        _cleanup_json_ json_t *list = parse("[" CAP("events", "false") "]");
        json_t *set = NULL, *restore = NULL;

        assert_int_equal(migration_capabilities_build(MIGRATION_SOURCE,
                                 &(struct migration_needs){.throttle = true}, list, &set, &restore, NULL),
                -EOPNOTSUPP);
        assert_null(set);
        assert_null(restore);
}

static void answers_that_are_none_are_refused(void **state)
{
        static const char *const answers[] = {"{}", "7", "[7]", "[{\"capability\": 7}]",
                "[{\"capability\": \"events\", \"state\": \"on\"}]"};
        json_t *set = NULL, *restore = NULL;

        for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
                _cleanup_json_ json_t *answer = parse(answers[i]);

                assert_int_equal(
                        migration_capabilities_build(MIGRATION_SOURCE,
                                &(struct migration_needs){.throttle = true}, answer, &set, &restore, NULL),
                        -EPROTO);
        }
        assert_null(set);
}

static void downtime_limit_is_never_zero(void **state)
{
        _cleanup_json_ json_t *current =
                parse("{\"downtime-limit\": 300, \"max-bandwidth\": 134217728, "
                      "\"throttle-trigger-threshold\": 50, \"cpu-throttle-initial\": 20, "
                      "\"cpu-throttle-increment\": 10, \"max-cpu-throttle\": 99}");
        _cleanup_json_ json_t *set = NULL, *restore = NULL;
        _cleanup_json_ json_t *want_set =
                parse("{\"max-bandwidth\": 0, \"downtime-limit\": 1, \"throttle-trigger-threshold\": 100, "
                      "\"cpu-throttle-initial\": 1, \"cpu-throttle-increment\": 1, \"max-cpu-throttle\": 1}");

        assert_int_equal(migration_parameters_build(0, current, &set, &restore, NULL), 0);
        assert_true(json_equal(set, want_set));
        assert_true(json_equal(restore, current));
}

static void progress_is_read(void **state)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        _cleanup_json_ json_t *answer =
                parse("{\"status\": \"active\", \"total-time\": 1500, \"setup-time\": 3, "
                      "\"cpu-throttle-percentage\": 20,"
                      "\"ram\": {\"total\": 1000, \"remaining\": 400, \"transferred\": 600, "
                      "\"dirty-pages-rate\": 7,"
                      "\"dirty-sync-count\": 2, \"page-size\": 4096, \"mbps\": 941.5}}");

        assert_int_equal(migration_info_parse(answer, &info, NULL), 0);
        assert_int_equal(info.status, MIGRATION_STATUS_ACTIVE);
        assert_int_equal(info.ram_remaining_bytes, 400);
        assert_int_equal(info.dirty_pages_per_s, 7);
        assert_int_equal(info.dirty_sync_count, 2);
        assert_int_equal(info.cpu_throttle_percent, 20);
        assert_true(info.mbps > 941 && info.mbps < 942);
        assert_null(info.error);
}

static void failure_and_blockers_are_read(void **state)
{
        _cleanup_migration_info_ struct migration_info info = MIGRATION_INFO_INIT;
        _cleanup_json_ json_t *answer = parse("{\"status\": \"failed\", \"error-desc\": \"no route\", "
                                              "\"blocked-reasons\": [\"vfio\", \"x\"]}");

        assert_int_equal(migration_info_parse(answer, &info, NULL), 0);
        assert_int_equal(info.status, MIGRATION_STATUS_FAILED);
        assert_true(migration_status_is_final(info.status));
        assert_string_equal(info.error, "no route");
        assert_string_equal(info.blocked, "vfio");
}

static void empty_answer_means_no_migration(void **state)
{
        _cleanup_migration_info_ struct migration_info info = {.status = MIGRATION_STATUS_OTHER};
        _cleanup_json_ json_t *answer = parse("{}");

        assert_int_equal(migration_info_parse(answer, &info, NULL), 0);
        assert_int_equal(info.status, MIGRATION_STATUS_NONE);
}

static void hostile_answers_do_no_harm(void **state)
{
        static const char *const refused[] = {"[]", "7", "{\"status\": 7}", "{\"status\": {}}"};
        static const char *const read[] = {"{\"status\": \"?\", \"ram\": 7, \"total-time\": -1}",
                "{\"ram\": {\"total\": -5, \"mbps\": \"x\"}, \"cpu-throttle-percentage\": 4711}",
                "{\"error-desc\": [], \"blocked-reasons\": [[]]}"};
        struct migration_info info = {.status = MIGRATION_STATUS_OTHER};

        for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
                _cleanup_json_ json_t *answer = parse(refused[i]);

                assert_int_equal(migration_info_parse(answer, &info, NULL), -EPROTO);
                assert_int_equal(info.status, MIGRATION_STATUS_OTHER);
        }
        for (size_t i = 0; i < ARRAY_SIZE(read); i++) {
                _cleanup_json_ json_t *answer = parse(read[i]);

                assert_int_equal(migration_info_parse(answer, &info, NULL), 0);
                assert_int_equal(info.ram_total_bytes, 0);
                assert_true(info.cpu_throttle_percent <= 100);
                migration_info_deinit(&info);
        }
}

static void every_status_of_qemu_is_known(void **state)
{
        assert_int_equal(migration_status_from_string("postcopy-recover"), MIGRATION_STATUS_POSTCOPY);
        assert_int_equal(migration_status_from_string("pre-switchover"), MIGRATION_STATUS_PRE_SWITCHOVER);
        assert_int_equal(migration_status_from_string("completed"), MIGRATION_STATUS_COMPLETED);
        assert_int_equal(migration_status_from_string("colo"), MIGRATION_STATUS_OTHER);
        assert_false(migration_status_is_final(MIGRATION_STATUS_CANCELLING));
        assert_string_equal(migration_status_to_string(MIGRATION_STATUS_DEVICE), "device");
}

/* What QEMU 8.1 and later have; the others are held by their bandwidth. */
static void held_source_waits_for_the_word(void **state _unused_)
{
        _cleanup_json_ json_t *list = json_pack("[{s:s, s:b}, {s:s, s:b}]", "capability", "return-path",
                "state", 0, "capability", "switchover-ack", "state", 0);
        _cleanup_json_ json_t *set = NULL, *restore = NULL;

        assert_int_equal(migration_capabilities_build(MIGRATION_SOURCE,
                                 &(struct migration_needs){.hold = true}, list, &set, &restore, NULL),
                0);
        assert_int_equal(json_array_size(json_object_get(set, "capabilities")), 2);
        json_decref(TAKE_PTR(set));
        json_decref(TAKE_PTR(restore));
        assert_int_equal(migration_capabilities_build(
                                 MIGRATION_SOURCE, &(struct migration_needs){}, list, &set, &restore, NULL),
                0);
        assert_int_equal(json_array_size(json_object_get(set, "capabilities")), 1);
}

static void source_with_disks_waits_before_its_device_state(void **state _unused_)
{
        _cleanup_json_ json_t *list = json_pack("[{s:s, s:b}, {s:s, s:b}]", "capability", "return-path",
                "state", 1, "capability", "pause-before-switchover", "state", 0);
        _cleanup_json_ json_t *set = NULL, *restore = NULL;
        const json_t *item;

        assert_int_equal(migration_capabilities_build(MIGRATION_SOURCE,
                                 &(struct migration_needs){.pause = true}, list, &set, &restore, NULL),
                0);
        item = json_array_get(json_object_get(set, "capabilities"), 0);
        assert_string_equal(
                json_string_value(json_object_get(item, "capability")), "pause-before-switchover");
        assert_true(json_is_true(json_object_get(item, "state")));
        json_decref(TAKE_PTR(set));
        json_decref(TAKE_PTR(restore));
        assert_int_equal(migration_capabilities_build(MIGRATION_DESTINATION,
                                 &(struct migration_needs){.pause = true}, list, &set, &restore, NULL),
                0);
        assert_false(json_is_true(
                json_object_get(json_array_get(json_object_get(set, "capabilities"), 0), "state")));
}

static void hold_leaves_a_byte_in_each_tenth_of_a_second(void **state _unused_)
{
        _cleanup_json_ json_t *on = migration_hold_build(true), *off = migration_hold_build(false);

        assert_int_equal(
                json_integer_value(json_object_get(on, "max-bandwidth")) / 10, 1); /* 0 would be no limit */
        assert_int_equal(json_integer_value(json_object_get(off, "max-bandwidth")), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(held_source_waits_for_the_word),
                cmocka_unit_test(source_with_disks_waits_before_its_device_state),
                cmocka_unit_test(hold_leaves_a_byte_in_each_tenth_of_a_second),
                cmocka_unit_test(source_gets_events_and_return_path),
                cmocka_unit_test(what_would_change_the_stream_is_turned_off),
                cmocka_unit_test(destination_gets_late_block_activate_where_it_exists),
                cmocka_unit_test(source_without_return_path_is_not_supported),
                cmocka_unit_test(answers_that_are_none_are_refused),
                cmocka_unit_test(downtime_limit_is_never_zero),
                cmocka_unit_test(progress_is_read),
                cmocka_unit_test(failure_and_blockers_are_read),
                cmocka_unit_test(empty_answer_means_no_migration),
                cmocka_unit_test(hostile_answers_do_no_harm),
                cmocka_unit_test(every_status_of_qemu_is_known),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

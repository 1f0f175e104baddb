/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include "base/doc.h"
#include "capture.h"
#include "cli/report.h"

static const char copying[] =
        "{\"spec\":{\"object\":\"vm/"
        "web1\"},\"status\":{\"state\":\"running\",\"step\":\"move\",\"progress\":{\"percent\":50,"
        "\"phase\":\"copying\",\"from\":\"h1\",\"to\":\"h2\",\"pass\":2,\"rate_bps\":941000000,\"remaining_"
        "bytes\":1073741824,"
        "\"dirty_pages_per_s\":5021.4,\"elapsed_ms\":1500}}}";

static json_t *document(const char *text)
{
        json_t *json = json_loads(text, 0, NULL);

        assert_non_null(json);
        return json;
}

static void test_line_of_a_migration_holds_all_its_numbers(void **state)
{
        _cleanup_json_ json_t *task = document(copying);
        char line[256];

        progress_line(task, 0, line, sizeof(line));
        assert_string_equal(line,
                "web1 h1 -> h2  copying  [##########----------]  50 %  pass 2  941 Mbit/s  1.0 GiB left  "
                "dirty 5021 pages/s  1.5 s");
}

static void test_line_never_passes_its_size(void **state)
{
        _cleanup_json_ json_t *task = document(copying);

        for (size_t size = 1; size < 130; size++) {
                char line[160];

                memset(line, 'x', sizeof(line));
                progress_line(task, 0, line, size);
                assert_true(strlen(line) < size);
                assert_int_equal(line[size], 'x');
        }
}

static void test_line_of_another_task_shows_its_step_and_message(void **state)
{
        _cleanup_json_ json_t *task = document(
                "{\"spec\":{\"object\":\"vm/a\"},\"status\":{\"state\":\"running\",\"step\":\"start\","
                "\"progress\":{\"percent\":null,\"message\":\"starting\"}}}");
        char line[128];

        progress_line(task, 2500, line, sizeof(line));
        assert_string_equal(line, "a  start  starting  2.5 s");
}

static void test_a_terminal_gets_one_line_that_is_rewritten(void **state)
{
        _cleanup_json_ json_t *task = document(copying);
        struct progress progress;
        struct capture err;
        struct cli cli = {.err_width = 20};

        capture_begin(&err);
        cli.err = err.file;
        progress_init(&progress, &cli);
        progress_show(&progress, task, 0);
        progress_show(&progress, task, 1);
        progress_end(&progress);
        assert_string_equal(
                capture_text(&err), "\r\033[Kweb1 h1 -> h2  copy\r\033[Kweb1 h1 -> h2  copy\r\033[K");
        capture_end(&err);
}

static void test_a_file_gets_a_line_per_phase_and_every_five_seconds(void **state)
{
        _cleanup_json_ json_t *task = document(copying);
        struct progress progress;
        struct capture err;
        struct cli cli = {0};
        size_t lines = 0;

        capture_begin(&err);
        cli.err = err.file;
        progress_init(&progress, &cli);
        for (uint64_t ms = 0; ms <= 5500; ms += 250)
                progress_show(&progress, task, ms);
        json_object_set_new(json_object_get(json_object_get(task, "status"), "progress"), "phase",
                json_string("switching"));
        progress_show(&progress, task, 5750);
        for (const char *c = capture_text(&err); *c; c++)
                lines += *c == '\n';
        assert_int_equal(lines, 3);
        assert_contains(capture_text(&err), "switching");
        capture_end(&err);
}

static void test_quiet_writes_nothing(void **state)
{
        _cleanup_json_ json_t *task = document(copying);
        struct progress progress;
        struct capture err;
        struct cli cli = {.quiet = true, .err_width = 80};

        capture_begin(&err);
        cli.err = err.file;
        progress_init(&progress, &cli);
        progress_show(&progress, task, 0);
        progress_end(&progress);
        assert_string_equal(capture_text(&err), "");
        capture_end(&err);
}

static void test_report_of_a_migration(void **state)
{
        _cleanup_json_ json_t *result = document(
                "{\"total_ms\":2100,\"pause_ms\":3.24,\"passes\":4,\"bytes_ram\":805306368,\"bytes_"
                "wire\":268435456,"
                "\"bytes_zero\":1048576,\"bytes_duplicate\":8192,\"bytes_delta\":2048,\"channels\":4,"
                "\"reconnects\":2,\"bytes_recalled\":4096,"
                "\"cipher\":\"TLS_AES_128_GCM_SHA256\",\"converged_by\":\"throttle\",\"from\":"
                "\"h1\",\"to\":\"h2\","
                "\"convergence\":[{\"step\":\"wait\",\"at_ms\":1000},"
                "{\"step\":\"pause\",\"at_ms\":31000,\"max_pause_ms\":600},"
                "{\"step\":\"pause\",\"at_ms\":33000,\"max_pause_ms\":1000},"
                "{\"step\":\"throttle\",\"at_ms\":35000,\"throttle_percent\":0},"
                "{\"step\":\"throttle\",\"at_ms\":38000,\"throttle_percent\":41}],"
                "\"network\":{\"ms\":270,\"checks\":[{\"code\":\"network-segment\",\"ok\":true},"
                "{\"code\":\"network-gateway\",\"severity\":\"warning\",\"ok\":false,\"cause\":\"it is not "
                "known\"}]},"
                "\"arrival\":{\"gap_ms\":21.5,\"nics\":[{\"nic\":0,\"verified_by\":\"answer\"}]},"
                "\"verified\":true,\"phases\":[{\"name\":\"copying\",\"ms\":1800},{\"name\":"
                "\"switching\",\"ms\":14}]}");
        struct capture out;
        struct cli cli = {0};

        capture_begin(&out);
        cli.out = out.file;
        assert_int_equal(report_migration(&cli, "web1", result, NULL), 0);
        assert_string_equal(capture_text(&out),
                "web1 moved from h1 to h2 in 2.1 s, paused for 3.2 ms\n"
                "  memory        768 MiB read in 4 passes, 256 MiB sent (3.0 : 1)\n"
                "  of that       1.0 MiB zero pages, 8.0 KiB duplicates, 4.0 KiB of them kept there, 2.0 KiB "
                "deltas\n"
                "  path          4 connections, TLS_AES_128_GCM_SHA256, 2 replaced\n"
                "  converged by  throttle\n"
                "  help          wait from 1.0 s on, pause up to 1.0 s from 31.0 s on, throttle up to 41 % "
                "from 35.0 s on\n"
                "  verified      memory is equal on both sides\n"
                "  warning       network-gateway: it is not known\n"
                "  arrival       its network answers it there; away for 22 ms\n"
                "  phases        copying 1.8 s, switching 14 ms\n");
        capture_end(&out);
}

static void test_report_of_post_copy_says_what_it_took(void **state)
{
        _cleanup_json_ json_t *result =
                document("{\"total_ms\":38000,\"pause_ms\":350,\"channels\":1,\"converged_by\":\"post-copy\","
                         "\"from\":\"h1\","
                         "\"to\":\"h2\",\"convergence\":[{\"step\":\"post-copy\",\"at_ms\":32000}],\"post_"
                         "copy\":{\"ms\":5700,"
                         "\"pages_requested\":78,\"bytes\":65011712},\"verified\":false}");
        struct capture out;
        struct cli cli = {0};

        capture_begin(&out);
        cli.out = out.file;
        assert_int_equal(report_migration(&cli, "web1", result, NULL), 0);
        assert_non_null(strstr(capture_text(&out), "  help          post-copy from 32.0 s on\n"));
        assert_non_null(strstr(capture_text(&out),
                "  post-copy     5.7 s until all of the memory had come, 62 MiB, 78 pages "
                "asked for; the memory was not compared\n"));
        capture_end(&out);
}

static void test_report_of_failed_checks_names_cause_and_way_out(void **state)
{
        _cleanup_json_ json_t *report = document(
                "{\"ok\":false,\"vm\":\"web1\",\"from\":\"h1\",\"to\":\"h2\",\"checks\":[{\"code\":"
                "\"datastore\",\"ok\":true},"
                "{\"code\":\"qemu-version\",\"severity\":\"warning\",\"ok\":false,\"cause\":\"h2 has QEMU "
                "7.2\",\"way_out\":"
                "\"upgrade it\"},"
                "{\"code\":\"port-group\",\"severity\":\"error\",\"ok\":false,\"cause\":\"h2 has no port "
                "group "
                "'lan'\",\"way_out\":\"add it\"}],"
                "\"ranking\":[{\"host\":\"h3\",\"ok\":true,\"score\":0.5,\"reasons\":[\"free memory\"]}]}");
        struct capture out;
        struct cli cli = {0};

        capture_begin(&out);
        cli.out = out.file;
        assert_int_equal(report_checks(&cli, report, NULL), 0);
        assert_string_equal(capture_text(&out), "web1 cannot move to h2\n"
                                                "  FAILED  port-group: h2 has no port group 'lan'\n"
                                                "          way out: add it\n"
                                                "  WARNING qemu-version: h2 has QEMU 7.2\n"
                                                "          way out: upgrade it\n"
                                                "  ok      datastore\n"
                                                "\n"
                                                "HOST  OK   SCORE  REASONS\n"
                                                "h3    yes  0.5    free memory\n");
        capture_end(&out);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_line_of_a_migration_holds_all_its_numbers),
                cmocka_unit_test(test_line_never_passes_its_size),
                cmocka_unit_test(test_line_of_another_task_shows_its_step_and_message),
                cmocka_unit_test(test_a_terminal_gets_one_line_that_is_rewritten),
                cmocka_unit_test(test_a_file_gets_a_line_per_phase_and_every_five_seconds),
                cmocka_unit_test(test_quiet_writes_nothing),
                cmocka_unit_test(test_report_of_a_migration),
                cmocka_unit_test(test_report_of_post_copy_says_what_it_took),
                cmocka_unit_test(test_report_of_failed_checks_names_cause_and_way_out),
        };

        return cmocka_run_group_tests_name("cli-progress", tests, NULL, NULL);
}

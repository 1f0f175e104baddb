/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include "base/doc.h"
#include "capture.h"

static const struct output_column columns[] = {{"NAME", "name", false},
        {"MEMORY", "spec.memory_bytes", false}, {"DISKS", "spec.disks", true},
        {"MESSAGE", "status.message", false}, {0}};

static json_t *document(const char *text)
{
        json_t *json = json_loads(text, 0, NULL);

        assert_non_null(json);
        return json;
}

static void assert_table(unsigned int width, const char *items, const char *expected)
{
        _cleanup_json_ json_t *json = document(items);
        struct capture out;
        struct cli cli = {.width = width};

        capture_begin(&out);
        cli.out = out.file;
        assert_int_equal(output_table(&cli, json, columns, NULL), 0);
        assert_string_equal(capture_text(&out), expected);
        capture_end(&out);
}

static void test_table_is_aligned_and_formats_sizes(void **state)
{
        assert_table(0,
                "[{\"name\":\"a\",\"spec\":{\"memory_bytes\":1073741824,\"disks\":[{},{}]}},"
                "{\"name\":\"longer\",\"spec\":{\"memory_bytes\":16777216},\"status\":{\"message\":\"m\"}}]",
                "NAME    MEMORY   DISKS  MESSAGE\n"
                "a       1.0 GiB  2      -\n"
                "longer  16 MiB   0      m\n");
}

static void test_empty_list_is_the_heading_alone(void **state)
{
        assert_table(0, "[]", "NAME  MEMORY  DISKS  MESSAGE\n");
}

static void test_table_is_cut_to_the_terminal(void **state)
{
        assert_table(36, "[{\"name\":\"a\",\"status\":{\"message\":\"a message that is too long for it\"}}]",
                "NAME  MEMORY  DISKS  MESSAGE\n"
                "a     -       0      a message that…\n");
}

static void test_cut_keeps_characters_of_several_bytes_whole(void **state)
{
        assert_table(28, "[{\"name\":\"a\",\"status\":{\"message\":\"äöüäöüäöüäöü\"}}]",
                "NAME  MEMORY  DISKS  MESSAGE\n"
                "a     -       0      äöüäöü…\n");
}

static void test_control_characters_never_reach_the_terminal(void **state)
{
        assert_table(0, "[{\"name\":\"a\",\"status\":{\"message\":\"x\\u001b[2Jy\\nz\\u009b\\u007f\"}}]",
                "NAME  MEMORY  DISKS  MESSAGE\n"
                "a     -       0      x?[2Jy?z??\n");
}

static void assert_document(enum output_format format, const char *text, const char *expected)
{
        _cleanup_json_ json_t *json = document(text);
        struct capture out;
        struct cli cli = {.format = format};

        capture_begin(&out);
        cli.out = out.file;
        assert_int_equal(output_document(&cli, json, NULL), 0);
        assert_string_equal(capture_text(&out), expected);
        capture_end(&out);
}

static void test_fields_of_a_document_are_listed_by_path(void **state)
{
        assert_document(OUTPUT_TABLE,
                "{\"name\":\"web1\",\"spec\":{\"memory_bytes\":4096,\"disks\":[{\"bus\":\"virtio\"}],"
                "\"tags\":[\"a\",\"b\"]},"
                "\"ok\":true,\"none\":null}",
                "name               web1\n"
                "spec.memory_bytes  4.0 KiB\n"
                "spec.disks[0].bus  virtio\n"
                "spec.tags          a, b\n"
                "ok                 yes\n"
                "none               -\n");
}

static void test_json_is_the_document_as_it_came(void **state)
{
        assert_document(
                OUTPUT_JSON, "{\"b\":1,\"a\":[\"x\"]}", "{\n  \"b\": 1,\n  \"a\": [\n    \"x\"\n  ]\n}\n");
}

static void test_yaml_quotes_what_would_be_read_as_another_type(void **state)
{
        assert_document(OUTPUT_YAML,
                "{\"a\":\"no\",\"b\":\"1.0\",\"c\":\"text\",\"d\":7,\"e\":null,\"f\":[],\"g\":\"\",\"h\":"
                "true}",
                "a: \"no\"\nb: \"1.0\"\nc: text\nd: 7\ne: null\nf: []\ng: \"\"\nh: true\n");
}

static void test_write_errors_are_reported(void **state)
{
        _cleanup_json_ json_t *json = document("{\"a\":1}");
        _cleanup_file_ FILE *full = fopen("/dev/full", "w");
        struct cli cli = {.out = full, .format = OUTPUT_TABLE};

        for (int format = 0; format < N_OUTPUT_FORMATS; format++) {
                _cleanup_error_ struct error *error = NULL;

                cli.format = (enum output_format)format;
                assert_true(output_document(&cli, json, &error) < 0);
                assert_non_null(error);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_table_is_aligned_and_formats_sizes),
                cmocka_unit_test(test_empty_list_is_the_heading_alone),
                cmocka_unit_test(test_table_is_cut_to_the_terminal),
                cmocka_unit_test(test_cut_keeps_characters_of_several_bytes_whole),
                cmocka_unit_test(test_control_characters_never_reach_the_terminal),
                cmocka_unit_test(test_fields_of_a_document_are_listed_by_path),
                cmocka_unit_test(test_json_is_the_document_as_it_came),
                cmocka_unit_test(test_yaml_quotes_what_would_be_read_as_another_type),
                cmocka_unit_test(test_write_errors_are_reported),
        };

        return cmocka_run_group_tests_name("cli-output", tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/arguments.h"

#include <errno.h>

#include "capture.h"

#define WORDS_MAX 16

/* Splits at blanks, in place; "drover" comes first. */
static int split(char *line, const char **argv)
{
        int argc = 0;

        argv[argc++] = "drover";
        for (char *save, *word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
                assert_true(argc < WORDS_MAX);
                argv[argc++] = word;
        }
        argv[argc] = NULL;
        return argc;
}

static int parse(const char *line, struct arguments *ret, struct error **ret_error)
{
        static char copy[512]; /* the arguments borrow from it */
        static const char *argv[WORDS_MAX + 1];

        snprintf(copy, sizeof(copy), "%s", line);
        return arguments_parse(ret, split(copy, argv), argv, ret_error);
}

static void assert_refused(const char *line, const char *message, const char *hint)
{
        _cleanup_error_ struct error *error = NULL;
        struct arguments arguments;

        assert_int_equal(parse(line, &arguments, &error), -EINVAL);
        assert_int_equal(error->code, ERROR_BAD_REQUEST);
        assert_contains(error->message, message);
        if (hint)
                assert_contains(error->hint, hint);
}

static void test_refuses_what_the_table_does_not_allow(void **state)
{
        static const struct {
                const char *line;
                const char *message;
                const char *hint;
        } cases[] = {
                {"", "'drover' needs one more word", "host, vm, task"},
                {"vm", "'drover vm' needs one more word", "list, show, create"},
                {"network switch", "'drover network switch' needs one more word",
                        "list, add, show, set, upgrade, remove"},
                {"vm lst", "there is no command 'vm lst'", "'drover vm list'"},
                {"vm mirgate web1", "there is no command 'vm mirgate'", "'drover vm migrate'"},
                {"frobnicate", "there is no command 'frobnicate'", "--help"},
                {"vm show", "'drover vm show' needs VM", "usage: drover vm show VM"},
                {"vm show a b", "'b' is one word too many", "usage: drover vm show VM"},
                {"vm show ../etc", "VM: '../etc' is not a name", NULL},
                {"vm create web1", "'drover vm create' needs option --memory", "--memory SIZE"},
                {"vm create web1 --memory", "option --memory needs a value", "--memory SIZE"},
                {"vm create web1 --memory much", "option --memory: 'much' is not valid", "4GiB"},
                {"vm create web1 --memory 1M", "option --memory: '1M' is not between 16 MiB and 16 TiB",
                        NULL},
                {"vm create web1 --memory 99T", "option --memory: '99T' is not between", NULL},
                {"vm create web1 --memory 1G --memory 2G", "option --memory is given twice", NULL},
                {"vm create web1 --memry 1G", "has no option '--memry'", "--memory"},
                {"vm create web1 --memory 1G --cpus 0", "option --cpus: '0' is not between 1 and 255", NULL},
                {"vm create web1 --memory 1G --cpus -1", "option --cpus: '-1' is not valid", NULL},
                {"vm create web1 --memory 1G --firmware efi", "option --firmware: 'efi' is not valid",
                        "bios|uefi"},
                {"vm create web1 --memory 1G --start=yes", "option --start takes no value", NULL},
                {"vm create web1 --memory 1G --host a/b", "option --host: 'a/b' is not valid", NULL},
                {"vm migrate web1 --max-pause 1y", "option --max-pause: '1y' is not valid", "300ms"},
                {"vm migrate web1 --max-pause 2h", "is not between 1 ms and 10 min", NULL},
                {"vm migrate web1 --channels 65", "option --channels: '65' is not between 0 and 64", NULL},
                {"vm migrate web1 --codec gzip", "option --codec: 'gzip' is not valid", "lz4"},
                {"vm migrate web1 --rate-limit fast", "option --rate-limit: 'fast' is not valid", "500mbit"},
                {"vm list --power asleep", "option --power: 'asleep' is not valid", "running"},
                {"network port-group add lan", "needs option --switch", NULL},
                {"network port-group add lan --switch s --vlan 4095", "option --vlan", "whole number"},
                {"network switch add s --mtu 9", "option --mtu: '9' is not between 576 and 65535", NULL},
                {"affinity add r --vm a --type near", "option --type: 'near' is not valid",
                        "keep-together|keep-apart|run-on|keep-off"},
                {"pool set sales --lift disks", "option --lift: 'disks' is not valid",
                        "cpus|memory|vms|reserve-memory"},
                {"pool create sales --memory much", "option --memory: 'much' is not valid", "4G"},
                {"-o xml vm list", "option --output: 'xml' is not valid", "table|json|yaml"},
                {"-x vm list", "has no option '-x'", NULL},
                {"vm list --server", "option --server needs a value", "--server URL"},
                {"vm list -o", "option --output needs a value", NULL},
                {"completion", "'drover completion' needs SHELL", NULL},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
                assert_refused(cases[i].line, cases[i].message, cases[i].hint);
}

/* A line with every operand and needed option of the command. */
static void minimal_line(const struct command *command, char *line, size_t size)
{
        size_t used = (size_t)snprintf(line, size, "%s", command->words);

        for (const struct operand_spec *p = command->operands; p->name; p++)
                used += (size_t)snprintf(
                        line + used, size - used, " %s", p->kind == VALUE_SIZE ? "1G" : "word");
        for (const struct option_spec *o = command->options; o && o->name; o++)
                if (o->required && o->kind == VALUE_CHOICE)
                        used += (size_t)snprintf(line + used, size - used, " --%s %.*s", o->name,
                                (int)strcspn(o->value, "|"), o->value);
                else if (o->required)
                        used += (size_t)snprintf(line + used, size - used, " --%s %s", o->name,
                                o->kind == VALUE_SIZE ? "1G" : "word");
}

static void test_each_command_takes_its_own_minimal_line(void **state)
{
        for (size_t i = 0; i < n_command_table; i++) {
                struct arguments arguments;
                char line[256];

                minimal_line(&command_table[i], line, sizeof(line));
                assert_int_equal(parse(line, &arguments, NULL), 0);
                assert_ptr_equal(arguments.command, &command_table[i]);
                assert_non_null(command_table[i].run);
        }
}

static void test_each_command_refuses_a_word_or_operand_too_few(void **state)
{
        for (size_t i = 0; i < n_command_table; i++) {
                const struct command *c = &command_table[i];
                struct arguments arguments;

                if (c->operands[0].name && !c->operands[0].optional)
                        assert_int_equal(parse(c->words, &arguments, NULL), -EINVAL);
        }
}

static void test_each_command_refuses_an_unknown_option_by_name(void **state)
{
        for (size_t i = 0; i < n_command_table; i++) {
                _cleanup_error_ struct error *error = NULL;
                struct arguments arguments;
                char line[320];
                size_t used;

                minimal_line(&command_table[i], line, sizeof(line));
                used = strlen(line);
                snprintf(line + used, sizeof(line) - used, " --no-such-thing");
                assert_int_equal(parse(line, &arguments, &error), -EINVAL);
                assert_contains(error->message, "--no-such-thing");
                assert_contains(error->message, command_table[i].words);
        }
}

static void test_every_value_option_refuses_an_empty_value(void **state)
{
        for (size_t i = 0; i < n_command_table; i++)
                for (const struct option_spec *o = command_table[i].options; o && o->name; o++) {
                        _cleanup_error_ struct error *error = NULL;
                        struct arguments arguments;
                        char line[320];
                        size_t used;

                        if (o->kind == VALUE_FLAG || o->required)
                                continue;
                        minimal_line(&command_table[i], line, sizeof(line));
                        used = strlen(line);
                        snprintf(line + used, sizeof(line) - used, " --%s=", o->name);
                        assert_int_equal(parse(line, &arguments, &error), -EINVAL);
                        assert_contains(error->message, o->name);
                }
}

static void test_reads_values_of_each_kind(void **state)
{
        struct arguments a;
        uint64_t number = 0;
        size_t position = 0;

        assert_int_equal(
                parse("-ojson vm create web1 --memory=1G --cpus 2 --disk shared:1G --disk=local:x.raw "
                      "--firmware uefi --start --timeout 20s",
                        &a, NULL),
                0);
        assert_string_equal(arguments_operand(&a, 0), "web1");
        assert_null(arguments_operand(&a, 1));
        assert_true(arguments_number(&a, "memory", &number));
        assert_int_equal(number, 1 << 30);
        assert_true(arguments_number(&a, "output", &number));
        assert_int_equal(number, 1);
        assert_true(arguments_number(&a, "timeout", &number));
        assert_int_equal(number, 20000);
        assert_true(arguments_flag(&a, "start"));
        assert_false(arguments_flag(&a, "host"));
        assert_string_equal(arguments_text(&a, "firmware"), "uefi");
        assert_string_equal(arguments_next(&a, "disk", &position), "shared:1G");
        assert_string_equal(arguments_next(&a, "disk", &position), "local:x.raw");
        assert_null(arguments_next(&a, "disk", &position));
}

static void test_global_options_stand_anywhere(void **state)
{
        static const char *const lines[] = {
                "-q -o yaml vm list", "vm -qo yaml list", "vm list -q --output=yaml"};

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                struct arguments a;

                assert_int_equal(parse(lines[i], &a, NULL), 0);
                assert_true(arguments_flag(&a, "quiet"));
                assert_string_equal(arguments_text(&a, "output"), "yaml");
        }
}

static void test_two_dashes_end_the_options(void **state)
{
        struct arguments a;

        assert_int_equal(parse("host add -- -strange", &a, NULL), 0);
        assert_string_equal(arguments_operand(&a, 0), "-strange");
}

static void test_help_needs_no_complete_command(void **state)
{
        static const char *const lines[] = {"--help", "vm --help", "vm create --help", "-h network switch"};

        for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
                struct arguments a;

                assert_int_equal(parse(lines[i], &a, NULL), 0);
                assert_true(arguments_flag(&a, "help"));
        }
}

static void test_refuses_more_options_than_it_has_room_for(void **state)
{
        static const char *argv[2 * ARGUMENTS_VALUES_MAX + 8];
        _cleanup_error_ struct error *error = NULL;
        struct arguments a;
        int argc = 0;

        argv[argc++] = "drover";
        argv[argc++] = "vm";
        argv[argc++] = "create";
        argv[argc++] = "web1";
        while (argc < 2 * ARGUMENTS_VALUES_MAX + 6)
                argv[argc++] = "--label=a=b";
        argv[argc] = NULL;
        assert_int_equal(arguments_parse(&a, argc, argv, &error), -EINVAL);
        assert_contains(error->message, "more than 256");
}

static void test_distance_counts_edits_and_transpositions(void **state)
{
        assert_int_equal(text_distance("migrate", "migrate", 3), 0);
        assert_int_equal(text_distance("mirgate", "migrate", 3), 1);
        assert_int_equal(text_distance("migrat", "migrate", 3), 1);
        assert_int_equal(text_distance("", "abc", 3), 3);
        assert_int_equal(text_distance("stop", "create", 3), 4);
}

static void test_exit_status_stands_for_the_kind_of_error(void **state)
{
        static const struct {
                enum error_code code;
                enum exit_status status;
        } cases[] = {{ERROR_BAD_REQUEST, 2}, {ERROR_NOT_FOUND, 3}, {ERROR_DENIED, 4},
                {ERROR_UNAUTHENTICATED, 4}, {ERROR_CONFLICT, 5}, {ERROR_BUSY, 5}, {ERROR_EXISTS, 5},
                {ERROR_OWNER_UNKNOWN, 5}, {ERROR_TIMED_OUT, 6}, {ERROR_INTERNAL, 1}, {ERROR_CHECK_FAILED, 1}};

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                struct error error = {.code = cases[i].code};

                assert_int_equal(exit_status_of(&error), cases[i].status);
        }
        assert_int_equal(exit_status_of(NULL), EXIT_STATUS_FAILED);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_refuses_what_the_table_does_not_allow),
                cmocka_unit_test(test_each_command_takes_its_own_minimal_line),
                cmocka_unit_test(test_each_command_refuses_a_word_or_operand_too_few),
                cmocka_unit_test(test_each_command_refuses_an_unknown_option_by_name),
                cmocka_unit_test(test_every_value_option_refuses_an_empty_value),
                cmocka_unit_test(test_reads_values_of_each_kind),
                cmocka_unit_test(test_global_options_stand_anywhere),
                cmocka_unit_test(test_two_dashes_end_the_options),
                cmocka_unit_test(test_help_needs_no_complete_command),
                cmocka_unit_test(test_refuses_more_options_than_it_has_room_for),
                cmocka_unit_test(test_distance_counts_edits_and_transpositions),
                cmocka_unit_test(test_exit_status_stands_for_the_kind_of_error),
        };

        return cmocka_run_group_tests_name("cli-arguments", tests, NULL, NULL);
}

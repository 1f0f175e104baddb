/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/completion.h"

#include <sys/wait.h>

#include "base/alloc.h"
#include "capture.h"
#include "io/file.h"

#define GOLDEN_MAX_BYTES (1 << 20)
#define ANSWER_SIZE 4096

/* The script as the golden file has it. DROVER_UPDATE_GOLDEN=1 writes the files anew, to be read in the diff. */
static void assert_golden(const char *shell)
{
        _cleanup_free_ char *path = alloc_printf("%s/completion.%s", getenv("DROVER_GOLDEN"), shell),
                            *golden = NULL;
        struct capture out;

        capture_begin(&out);
        assert_true(completion_write(out.file, shell));
        if (getenv("DROVER_UPDATE_GOLDEN"))
                assert_int_equal(
                        file_write_atomic(path, capture_text(&out), strlen(capture_text(&out)), 0644), 0);
        assert_int_equal(file_read(path, GOLDEN_MAX_BYTES, &golden, NULL), 0);
        assert_string_equal(capture_text(&out), golden);
        capture_end(&out);
}

static void test_bash_script_is_as_recorded(void **state)
{
        assert_golden("bash");
}

static void test_zsh_script_is_as_recorded(void **state)
{
        assert_golden("zsh");
}

static void test_fish_script_is_as_recorded(void **state)
{
        assert_golden("fish");
}

static void test_another_shell_is_refused(void **state)
{
        struct capture out;

        capture_begin(&out);
        assert_false(completion_write(out.file, "tcsh"));
        assert_string_equal(capture_text(&out), "");
        capture_end(&out);
}

/* What bash answers to TAB behind these words (the last one is being typed), with `drover names` replaced. */
static void complete(const char *words, char answer[static ANSWER_SIZE])
{
        static const char tail[] =
                "\ndrover() { echo \"name-of-$2\"; }\n"
                "COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _drover; echo \"${COMPREPLY[*]}\"\n";
        _cleanup_free_ char *command = NULL;
        struct capture script;
        int status, to[2];
        ssize_t n;
        pid_t pid;

        capture_begin(&script);
        assert_true(completion_write(script.file, "bash"));
        fputs(tail, script.file);
        command = alloc_printf("set -- %s\n%s", words, capture_text(&script));
        assert_int_equal(pipe(to), 0);
        pid = fork();
        if (pid == 0) {
                dup2(to[1], STDOUT_FILENO);
                close(to[0]);
                close(to[1]);
                execlp("bash", "bash", "--norc", "-c", command, (char *)NULL);
                _exit(127);
        }
        close(to[1]);
        n = read(to[0], answer, ANSWER_SIZE - 1);
        answer[MAX(n, 0)] = '\0';
        close(to[0]);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        capture_end(&script);
}

static void test_bash_completes_words_options_values_and_names(void **state)
{
        static const struct {
                const char *words;
                const char *answer;
        } cases[] = {
                {"drover net", "network\n"},
                {"drover vm mig", "migrate\n"},
                {"drover network port-group ''", "list add remove\n"},
                {"drover vm migrate ''", "name-of-vms\n"},
                {"drover vm migrate web1 --to ''", "name-of-hosts\n"},
                {"drover vm migrate web1 --prio", "--priority\n"},
                {"drover vm migrate web1 --priority h", "high\n"},
                {"drover -o ''", "table json yaml\n"},
                {"drover -o json vm li", "list\n"},
                {"drover vm show web1 ''", "\n"},
                {"drover completion f", "fish\n"},
        };

        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
                char answer[ANSWER_SIZE];

                complete(cases[i].words, answer);
                assert_string_equal(answer, cases[i].answer);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_bash_script_is_as_recorded),
                cmocka_unit_test(test_zsh_script_is_as_recorded),
                cmocka_unit_test(test_fish_script_is_as_recorded),
                cmocka_unit_test(test_another_shell_is_refused),
                cmocka_unit_test(test_bash_completes_words_options_values_and_names),
        };

        return cmocka_run_group_tests_name("cli-completion", tests, NULL, NULL);
}

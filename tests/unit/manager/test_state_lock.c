/* SPDX-License-Identifier: Apache-2.0 */

/* What a manager says that cannot have its state directory. */

#include "fixture.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "manager/state_lock.h"

static void assert_refused(const char *state_dir, enum error_code code, const char *words, const char *hint)
{
        _cleanup_error_ struct error *error = NULL;
        int fd = -1;

        assert_true(state_lock(state_dir, &fd, &error) < 0);
        assert_int_equal(fd, -1);
        assert_int_equal(error->code, code);
        assert_non_null(strstr(error->message, words));
        if (hint)
                assert_non_null(strstr(error->hint ?: "", hint));
        else
                assert_null(error->hint);
}

static void second_manager_is_refused(void **data)
{
        struct folder folder;
        int fd = -1, again = -1;

        folder_make(&folder);
        assert_int_equal(state_lock(folder.path, &fd, NULL), 0);
        assert_refused(folder.path, ERROR_CONFLICT, "another drover-manager runs on ", "Stop the other one");
        close(fd);
        assert_int_equal(state_lock(folder.path, &again, NULL), 0);
        close(again);
        folder_remove(&folder);
}

static void directory_that_is_not_there_is_to_be_made(void **data)
{
        assert_refused("/nonexistent/manager", ERROR_NOT_FOUND,
                "there is no state directory /nonexistent/manager", "drover-manager init");
}

static void directory_of_another_user_is_told_as_that(void **data)
{
        struct folder folder;
        int status = -1;
        pid_t pid;

        if (geteuid() != 0)
                skip(); /* only root can become somebody else */
        folder_make(&folder);
        assert_int_equal(chmod(folder.path, 0700), 0);
        pid = fork();
        if (pid == 0) {
                if (seteuid(65534) < 0)
                        _exit(1);
                assert_refused(folder.path, ERROR_DENIED, "this user may not write ", "sudo -u drover");
                _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        folder_remove(&folder);
}

static void anything_else_is_told_in_the_systems_words(void **data)
{
        struct folder folder;
        char path[96];

        folder_make(&folder);
        snprintf(path, sizeof(path), "%s/lock", folder.path);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_refused(folder.path, ERROR_INTERNAL, "Is a directory", NULL);
        assert_refused("/dev/null", ERROR_INTERNAL, "Not a directory", NULL);
        folder_remove(&folder);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(second_manager_is_refused),
                cmocka_unit_test(directory_that_is_not_there_is_to_be_made),
                cmocka_unit_test(directory_of_another_user_is_told_as_that),
                cmocka_unit_test(anything_else_is_told_in_the_systems_words),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

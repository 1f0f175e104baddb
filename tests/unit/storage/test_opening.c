/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "storage/opening.h"

struct outcome {
        bool done;
        int fds[OPENING_FILES_MAX];
        enum error_code code;
        char message[256];
};

static void on_done(void *userdata, const int *fds, struct error *error)
{
        struct outcome *outcome = userdata;

        outcome->done = true;
        memcpy(outcome->fds, fds, sizeof(outcome->fds));
        outcome->code = error ? error->code : N_ERROR_CODES;
        snprintf(outcome->message, sizeof(outcome->message), "%s", error ? error_message(error) : "");
}

static struct outcome opened(struct scratch *s, const struct opening_file *files, size_t n)
{
        struct outcome outcome = {};
        struct opening *opening;

        assert_int_equal(opening_start(s->loop, files, n, 10000, on_done, &outcome, &opening, NULL), 0);
        assert_false(outcome.done);
        assert_int_equal(loop_wait(s->loop, &outcome.done, 10000), 0);
        return outcome;
}

static void test_files_are_opened_by_a_child_and_used_here(void **state)
{
        struct scratch *s = *state;
        const struct opening_file files[] = {{.datastore = s->datastore, .path = "a.raw", .flags = O_RDONLY},
                {.datastore = s->datastore, .path = "new/b.raw", .flags = O_RDWR | O_CREAT | O_EXCL}};
        struct outcome outcome;
        char text[4] = "";

        scratch_write(s, "store/a.raw", "abc");
        outcome = opened(s, files, 2);
        if (outcome.code != N_ERROR_CODES)
                fail_msg("%s", outcome.message);
        assert_int_equal(read(outcome.fds[0], text, 3), 3);
        assert_string_equal(text, "abc");
        assert_int_equal(write(outcome.fds[1], "x", 1), 1);
        assert_true(fcntl(outcome.fds[0], F_GETFD) & FD_CLOEXEC);
        assert_true(scratch_exists(s, "store/new/b.raw"));
        close(outcome.fds[0]);
        close(outcome.fds[1]);
}

static void test_what_cannot_be_opened_says_why_and_leaves_no_descriptor(void **state)
{
        struct scratch *s = *state;
        const struct opening_file missing[] = {
                {.datastore = s->datastore, .path = "a.raw", .flags = O_RDONLY},
                {.datastore = s->datastore, .path = "b.raw", .flags = O_RDONLY}};
        const struct opening_file there = {
                .datastore = s->datastore, .path = "a.raw", .flags = O_RDWR | O_CREAT | O_EXCL};
        const struct opening_file outside = {
                .datastore = s->datastore, .path = "../secret", .flags = O_RDONLY};
        const struct opening_file image = {.datastore = s->datastore,
                .path = "a.raw",
                .flags = O_RDONLY,
                .is_image = true,
                .format = IMAGE_QCOW2};
        struct outcome outcome;

        scratch_write(s, "store/a.raw", "abc");
        outcome = opened(s, missing, 2);
        assert_int_equal(outcome.code, ERROR_NOT_FOUND);
        assert_int_equal(outcome.fds[0], -1);
        assert_int_equal(opened(s, &there, 1).code, ERROR_EXISTS);
        assert_true(opened(s, &outside, 1).code != N_ERROR_CODES);
        outcome = opened(s, &image, 1);
        assert_int_equal(outcome.code, ERROR_BAD_DOCUMENT);
        assert_non_null(strstr(outcome.message, "no qcow2 image"));
}

static void test_one_that_is_given_up_tells_nobody(void **state)
{
        struct scratch *s = *state;
        const struct opening_file file = {.datastore = s->datastore, .path = "a.raw", .flags = O_RDONLY};
        struct outcome outcome = {};
        struct opening *opening;

        scratch_write(s, "store/a.raw", "abc");
        assert_int_equal(opening_start(s->loop, &file, 1, 10000, on_done, &outcome, &opening, NULL), 0);
        opening_free(opening);
        assert_int_equal(loop_wait(s->loop, &outcome.done, 100), -ETIMEDOUT);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_files_are_opened_by_a_child_and_used_here),
                SCRATCH_TEST(test_what_cannot_be_opened_says_why_and_leaves_no_descriptor),
                SCRATCH_TEST(test_one_that_is_given_up_tells_nobody),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

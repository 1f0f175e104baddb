/* SPDX-License-Identifier: Apache-2.0 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "agent/journal.h"
#include "base/alloc.h"
#include "io/file.h"

#define ID "0b1c2d3e-0000-4000-8000-000000000001"
#define VM "0b1c2d3e-0000-4000-8000-000000000002"

struct fixture {
        char folder[64];
        char path[160];
};

static int setup(void **state)
{
        struct fixture *f = calloc(1, sizeof(*f));

        snprintf(f->folder, sizeof(f->folder), "/tmp/drover-journal-XXXXXX");
        if (!mkdtemp(f->folder))
                return -1;
        snprintf(f->path, sizeof(f->path), "%s/" ID "." VM ".journal", f->folder);
        *state = f;
        return 0;
}

static int teardown(void **state)
{
        struct fixture *f = *state;

        file_remove_tree(f->folder);
        free(f);
        return 0;
}

static struct journal *create(struct fixture *f)
{
        _cleanup_(json_decrefp) json_t *first = json_pack("{s:s, s:i}", "record", "outgoing", "epoch", 3);
        struct journal *j = NULL;

        assert_int_equal(journal_create(f->folder, ID, VM, first, &j, NULL), 0);
        return j;
}

static void append(struct journal *j, const char *record)
{
        _cleanup_(json_decrefp) json_t *line = json_pack("{s:s}", "record", record);

        assert_int_equal(journal_append(j, line, NULL), 0);
}

static void assert_last(struct fixture *f, size_t n, const char *record)
{
        _cleanup_(journal_freep) struct journal *j = NULL;
        const json_t *records;

        assert_int_equal(journal_open(f->folder, ID, VM, &j, NULL), 0);
        records = journal_records(j);
        assert_int_equal(json_array_size(records), n);
        assert_string_equal(
                json_string_value(json_object_get(json_array_get(records, n - 1), "record")), record);
}

static void records_survive_reopening(void **state)
{
        struct journal *j = create(*state);

        append(j, "handed-off");
        append(j, "released");
        journal_free(j);
        assert_last(*state, 3, "released");
}

static void second_creation_is_refused(void **state)
{
        _cleanup_(json_decrefp) json_t *first = json_object();
        struct fixture *f = *state;
        struct journal *again = NULL;

        journal_free(create(f));
        assert_int_equal(journal_create(f->folder, ID, VM, first, &again, NULL), -EEXIST);
        assert_null(again);
        assert_last(f, 1, "outgoing");
}

/* A crash in the middle of the last write, at every byte of it. */
static void torn_last_line_is_dropped_at_every_length(void **state)
{
        struct fixture *f = *state;
        struct journal *j = create(f);
        struct stat one, two;

        assert_int_equal(stat(f->path, &one), 0);
        append(j, "handed-off");
        journal_free(j);
        assert_int_equal(stat(f->path, &two), 0);
        for (off_t cut = two.st_size - 1; cut >= one.st_size; cut--) {
                assert_int_equal(truncate(f->path, cut), 0);
                assert_last(f, 1, "outgoing");
        }
}

static void record_after_a_torn_line_is_readable(void **state)
{
        _cleanup_(journal_freep) struct journal *j = NULL;
        struct fixture *f = *state;
        struct stat st;

        j = create(f);
        append(j, "handed-off");
        journal_free(TAKE_PTR(j));
        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(truncate(f->path, st.st_size - 5), 0);
        assert_int_equal(journal_open(f->folder, ID, VM, &j, NULL), 0);
        append(j, "taken-back");
        assert_last(f, 2, "taken-back");
}

/* A full disk, by the limit on the size of files: the line is written in part, and taken back by the next append. */
static void record_after_a_failed_one_takes_its_place(void **state)
{
        _cleanup_(json_decrefp) json_t *line = json_pack("{s:s}", "record", "owner");
        _cleanup_(journal_freep) struct journal *j = NULL;
        struct rlimit usual, tight;
        struct fixture *f = *state;
        struct stat st;

        j = create(f);
        assert_int_equal(stat(f->path, &st), 0);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &usual), 0);
        tight = (struct rlimit){(rlim_t)st.st_size + 10, usual.rlim_max};
        signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
        assert_true(journal_append(j, line, NULL) < 0);
        assert_true(journal_append(j, line, NULL) < 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &usual), 0);
        assert_int_equal(json_array_size(journal_records(j)), 1);
        append(j, "abandoned");
        assert_last(f, 2, "abandoned");
}

static void room_for_later_records_is_reserved(void **state)
{
        _cleanup_(journal_freep) struct journal *j = create(*state);
        struct fixture *f = *state;
        struct stat st;

        assert_int_equal(stat(f->path, &st), 0);
        assert_true(st.st_blocks * 512 >= st.st_size + 16 * 1024);
}

static void damage_before_the_end_is_an_error(void **state)
{
        _cleanup_error_ struct error *e = NULL;
        struct fixture *f = *state;
        struct journal *j = create(f);
        int fd;

        append(j, "handed-off");
        journal_free(TAKE_PTR(j));
        fd = open(f->path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "x", 1, 25), 1); /* in the first line */
        close(fd);
        assert_true(journal_open(f->folder, ID, VM, &j, &e) < 0);
        assert_int_equal(e->code, ERROR_OWNER_UNKNOWN);
        assert_null(j);
}

static void damage_in_the_only_record_is_an_error(void **state)
{
        _cleanup_error_ struct error *e = NULL;
        struct fixture *f = *state;
        struct journal *j = create(f);
        int fd;

        journal_free(TAKE_PTR(j));
        fd = open(f->path, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "x", 1, 25), 1);
        close(fd);
        assert_true(journal_open(f->folder, ID, VM, &j, &e) < 0);
        assert_int_equal(e->code, ERROR_OWNER_UNKNOWN);
}

static void first_record_that_was_never_finished_is_no_journal(void **state)
{
        static const off_t lengths[] = {0, 5, 25};
        struct fixture *f = *state;
        struct journal *j = create(f);

        journal_free(TAKE_PTR(j));
        for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
                _cleanup_error_ struct error *e = NULL;

                assert_int_equal(truncate(f->path, lengths[ARRAY_SIZE(lengths) - 1 - i]), 0);
                assert_true(journal_open(f->folder, ID, VM, &j, &e) < 0);
                assert_int_equal(e->code, ERROR_NOT_FOUND);
        }
}

static void bad_id_is_refused(void **state)
{
        struct fixture *f = *state;
        struct journal *j = NULL;

        assert_true(journal_open(f->folder, "../../etc/passwd", VM, &j, NULL) < 0);
        assert_null(j);
}

static void count(void *userdata, const char *id, const char *vm_uid)
{
        assert_string_equal(id, ID);
        assert_string_equal(vm_uid, VM);
        (*(int *)userdata)++;
}

static void listing_finds_journals_alone(void **state)
{
        struct fixture *f = *state;
        char other[160];
        int n = 0;

        journal_free(create(f));
        snprintf(other, sizeof(other), "%s/notes.journal", f->folder);
        assert_int_equal(file_write_atomic(other, "x", 1, 0600), 0);
        assert_int_equal(journal_for_each(f->folder, count, &n), 0);
        assert_int_equal(n, 1);
        assert_int_equal(journal_remove(f->folder, ID, VM), 0);
        assert_int_equal(journal_remove(f->folder, ID, VM), 0);
        n = 0;
        assert_int_equal(journal_for_each(f->folder, count, &n), 0);
        assert_int_equal(n, 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(records_survive_reopening, setup, teardown),
                cmocka_unit_test_setup_teardown(second_creation_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(torn_last_line_is_dropped_at_every_length, setup, teardown),
                cmocka_unit_test_setup_teardown(record_after_a_torn_line_is_readable, setup, teardown),
                cmocka_unit_test_setup_teardown(record_after_a_failed_one_takes_its_place, setup, teardown),
                cmocka_unit_test_setup_teardown(room_for_later_records_is_reserved, setup, teardown),
                cmocka_unit_test_setup_teardown(damage_before_the_end_is_an_error, setup, teardown),
                cmocka_unit_test_setup_teardown(damage_in_the_only_record_is_an_error, setup, teardown),
                cmocka_unit_test_setup_teardown(
                        first_record_that_was_never_finished_is_no_journal, setup, teardown),
                cmocka_unit_test_setup_teardown(bad_id_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(listing_finds_journals_alone, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include "storage/vm_folder.h"

#define UID "6f1cb2a4-0d5e-4c8f-9a55-0c5b6a1f2e3d"
#define HOST_A "aaaaaaaa-0000-4000-8000-000000000001"
#define HOST_B "bbbbbbbb-0000-4000-8000-000000000002"
#define NOW 1763719200123 /* 2025-11-21T10:00:00.123Z */

static struct vm_folder *folder_of(void **state)
{
        struct scratch *s = *state;
        json_t *doc = json_pack("{s:s}", "uid", UID);
        struct vm_folder *folder = NULL;

        assert_int_equal(vm_folder_create(s->datastore, "web1", UID, doc, &folder, NULL), 0);
        json_decref(doc);
        return folder;
}

static void take(const struct vm_folder *folder, const char *host, uint64_t expected, uint64_t epoch)
{
        _cleanup_error_ struct error *error = NULL;

        if (vm_folder_take_owner(folder, host, expected, epoch, NOW, &error) < 0)
                fail_msg("%s", error_message(error));
}

static void take_fails(const struct vm_folder *folder, const char *host, uint64_t expected, uint64_t epoch,
        enum error_code code, const char *words)
{
        _cleanup_error_ struct error *error = NULL;

        assert_true(vm_folder_take_owner(folder, host, expected, epoch, NOW, &error) < 0);
        assert_error(error, code, words);
}

static void assert_owner(const struct vm_folder *folder, const char *host, uint64_t epoch)
{
        struct vm_owner owner;

        assert_int_equal(vm_folder_read_owner(folder, &owner, NULL), 0);
        assert_string_equal(owner.host, host);
        assert_int_equal(owner.epoch, epoch);
}

static void test_nobody_owns_a_new_vm(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        assert_owner(folder, "", 0);
}

static void test_the_first_owner_takes_epoch_1(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        struct vm_owner owner;

        take(folder, HOST_A, 0, 1);
        assert_owner(folder, HOST_A, 1);
        assert_int_equal(vm_folder_read_owner(folder, &owner, NULL), 0);
        assert_int_equal(owner.since_unix_ms, NOW);
}

static void test_the_record_is_as_documented(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        _cleanup_free_ char *path = vm_folder_file_path(folder, VM_FOLDER_OWNER), *text = NULL;

        take(folder, HOST_A, 0, 1);
        assert_int_equal(file_read(path, 1000, &text, NULL), 0);
        assert_string_equal(text, "{\"format\":1,\"vm\":\"" UID "\",\"owner\":\"" HOST_A
                                  "\",\"epoch\":1,\"since\":\"2025-11-21T10:00:00.123Z\"}\n");
}

static void test_an_outdated_expectation_is_refused_and_names_the_owner(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        take(folder, HOST_A, 0, 1);
        take_fails(folder, HOST_B, 0, 1, ERROR_STALE_EPOCH, HOST_A);
        take_fails(folder, HOST_B, 0, 2, ERROR_STALE_EPOCH, HOST_A);
        take_fails(folder, HOST_A, 0, 2, ERROR_STALE_EPOCH, "epoch 1");
        assert_owner(folder, HOST_A, 1);
        take(folder, HOST_B, 1, 2);
        assert_owner(folder, HOST_B, 2);
}

static void test_a_record_that_is_behind_what_the_caller_knows_is_no_obstacle(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        take(folder, HOST_A, 0, 1);
        take(folder, HOST_B, 5, 6);
        assert_owner(folder, HOST_B, 6);
}

static void test_nobody_takes_a_vm_while_its_owner_writes(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        _cleanup_error_ struct error *error = NULL;
        int fd = -1;

        take(folder, HOST_A, 0, 3);
        assert_int_equal(vm_folder_lock_owner(folder, HOST_A, 0, &fd, NULL), 0);
        take_fails(folder, HOST_B, 3, 4, ERROR_BUSY, "another host is changing");
        close(fd);
        take(folder, HOST_B, 3, 4);
        assert_true(vm_folder_lock_owner(folder, HOST_A, 3, &fd, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, HOST_B);
}

static void test_the_check_refuses_only_a_later_epoch_of_another_host(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(vm_folder_check_owner(folder, HOST_A, 0, NULL), 0);
        take(folder, HOST_A, 0, 3);
        assert_int_equal(vm_folder_check_owner(folder, HOST_A, 0, NULL), 0);
        assert_int_equal(vm_folder_check_owner(folder, HOST_B, 3, NULL), 0);
        assert_true(vm_folder_check_owner(folder, HOST_B, 2, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, HOST_A);
}

static void test_an_epoch_may_be_skipped_but_never_goes_back(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        take(folder, HOST_A, 0, 1);
        take(folder, HOST_A, 1, 3);
        take_fails(folder, HOST_B, 3, 3, ERROR_BAD_REQUEST, "no change");
        take_fails(folder, HOST_B, 3, 2, ERROR_BAD_REQUEST, "no change");
        assert_owner(folder, HOST_A, 3);
}

static void test_a_repeated_call_succeeds(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        take(folder, HOST_A, 0, 1);
        take(folder, HOST_A, 0, 1);
        assert_owner(folder, HOST_A, 1);
}

static void test_a_damaged_record_is_never_taken_for_none(void **state)
{
        static const char *const bad[] = {"", "{}", "{\"format\":1",
                "{\"format\":2,\"vm\":\"" UID "\",\"owner\":\"" HOST_A
                "\",\"epoch\":1,\"since\":\"2025-11-21T10:00:00.123Z\"}",
                "{\"format\":1,\"vm\":\"" HOST_A "\",\"owner\":\"" HOST_A
                "\",\"epoch\":1,\"since\":\"2025-11-21T10:00:00.123Z\"}",
                "{\"format\":1,\"vm\":\"" UID "\",\"owner\":\"" HOST_A
                "\",\"epoch\":0,\"since\":\"2025-11-21T10:00:00.123Z\"}",
                "{\"format\":1,\"vm\":\"" UID "\",\"owner\":\"" HOST_A
                "\",\"epoch\":1,\"since\":\"yesterday\"}"};
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                struct vm_owner owner = {.epoch = 77};

                scratch_write(*state, "store/web1/owner.json", bad[i]);
                assert_true(vm_folder_read_owner(folder, &owner, NULL) < 0);
                assert_int_equal(owner.epoch, 77);
                take_fails(folder, HOST_B, 0, 1, ERROR_OWNER_UNKNOWN, "damaged");
        }
}

static void test_a_record_that_is_older_than_the_last_epoch_given_is_refused(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        _cleanup_free_ char *path = vm_folder_file_path(folder, VM_FOLDER_OWNER), *old = NULL;
        size_t len;

        take(folder, HOST_A, 0, 1);
        assert_int_equal(file_read(path, 1000, &old, &len), 0);
        take(folder, HOST_B, 1, 2);
        /* What a stale cache of a network file system shows. */
        assert_int_equal(file_write_atomic(path, old, len, 0640), 0);
        take_fails(folder, HOST_A, 1, 2, ERROR_OWNER_UNKNOWN, "old owner record");
}

static void test_a_held_lock_makes_the_other_try_again(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = openat(folder->fd, VM_FOLDER_OWNER_LOCK, O_RDWR | O_CREAT, 0600);

        assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
        take_fails(folder, HOST_A, 0, 1, ERROR_BUSY, "another host");
        close(fd);
        take(folder, HOST_A, 0, 1);
}

static void test_a_planted_lock_or_record_link_is_refused(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);
        struct scratch *s = *state;

        scratch_link(s, "../../made", "store/web1/owner.lock");
        take_fails(folder, HOST_A, 0, 1, ERROR_BAD_REQUEST, "symbolic link");
        assert_false(scratch_exists(s, "made"));
        scratch_write(s, "record",
                "{\"format\":1,\"vm\":\"" UID "\",\"owner\":\"" HOST_A
                "\",\"epoch\":1,\"since\":\"2025-11-21T10:00:00.123Z\"}");
        scratch_link(s, "../../record", "store/web1/owner.json");
        assert_true(vm_folder_read_owner(folder, &(struct vm_owner){}, NULL) < 0);
}

static void test_a_full_datastore_keeps_the_owner(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        char command[160];

        scratch_make_small(s, "size=256k");
        folder = folder_of(state);
        take(folder, HOST_A, 0, 1);
        snprintf(command, sizeof(command), "cat /dev/zero 2>/dev/null > %s/fill", s->store);
        assert_int_not_equal(system(command), 0);
        take_fails(folder, HOST_B, 1, 2, ERROR_NO_SPACE, "full");
        assert_owner(folder, HOST_A, 1);
}

/* Each process is a host that goes on until it either won the epoch or sees that it was lost. */
static int race(struct scratch *s, const char *host, uint64_t expected, int go_fd)
{
        struct datastore *ds = NULL;
        struct vm_folder *folder = NULL;
        char c;

        if (datastore_open("shared", s->store, NULL, &ds, NULL) < 0 ||
                vm_folder_open(ds, "web1", UID, &folder, NULL) < 0)
                return 2;
        (void)!read(go_fd, &c, 1); /* ends for all at once, when the parent closes */
        for (;;) {
                _cleanup_error_ struct error *error = NULL;

                if (!vm_folder_take_owner(folder, host, expected, expected + 1, NOW, &error))
                        return 0;
                if (error->code == ERROR_STALE_EPOCH)
                        return 1;
                if (error->code != ERROR_BUSY)
                        return 2;
        }
}

static void test_of_hosts_that_race_for_an_epoch_one_wins(void **state)
{
        enum { N_HOSTS = 4, N_ROUNDS = 25 };
        _cleanup_(vm_folder_freep) struct vm_folder *folder = folder_of(state);

        for (uint64_t epoch = 0; epoch < N_ROUNDS; epoch++) {
                int n[3] = {}, go[2], status;
                char host[UUID_STRING_SIZE];
                struct vm_owner owner;

                assert_int_equal(pipe(go), 0);
                for (int i = 0; i < N_HOSTS; i++) {
                        snprintf(host, sizeof(host), "%08x-0000-4000-8000-000000000000", i + 1);
                        if (!fork()) {
                                close(go[1]);
                                _exit(race(*state, host, epoch, go[0]));
                        }
                }
                close(go[0]);
                close(go[1]);
                while (wait(&status) > 0) {
                        assert_true(WIFEXITED(status) && WEXITSTATUS(status) < 3);
                        n[WEXITSTATUS(status)]++;
                }
                assert_int_equal(n[0], 1);
                assert_int_equal(n[1], N_HOSTS - 1);
                assert_int_equal(vm_folder_read_owner(folder, &owner, NULL), 0);
                assert_int_equal(owner.epoch, epoch + 1);
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_nobody_owns_a_new_vm),
                SCRATCH_TEST(test_the_first_owner_takes_epoch_1),
                SCRATCH_TEST(test_the_record_is_as_documented),
                SCRATCH_TEST(test_an_outdated_expectation_is_refused_and_names_the_owner),
                SCRATCH_TEST(test_a_record_that_is_behind_what_the_caller_knows_is_no_obstacle),
                SCRATCH_TEST(test_nobody_takes_a_vm_while_its_owner_writes),
                SCRATCH_TEST(test_the_check_refuses_only_a_later_epoch_of_another_host),
                SCRATCH_TEST(test_an_epoch_may_be_skipped_but_never_goes_back),
                SCRATCH_TEST(test_a_repeated_call_succeeds),
                SCRATCH_TEST(test_a_damaged_record_is_never_taken_for_none),
                SCRATCH_TEST(test_a_record_that_is_older_than_the_last_epoch_given_is_refused),
                SCRATCH_TEST(test_a_held_lock_makes_the_other_try_again),
                SCRATCH_TEST(test_a_planted_lock_or_record_link_is_refused),
                SCRATCH_TEST(test_a_full_datastore_keeps_the_owner),
                SCRATCH_TEST(test_of_hosts_that_race_for_an_epoch_one_wins),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

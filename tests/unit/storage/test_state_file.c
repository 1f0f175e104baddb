/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/alloc.h"
#include "base/doc.h"
#include "storage/state_file.h"
#include "storage/vm_folder.h"

#define UID "0e9d9f0e-6c37-4e0b-8b4a-0f5a3b1c9d01"
#define HOST "0e9d9f0e-6c37-4e0b-8b4a-0f5a3b1c9d02"
#define OTHER_HOST "0e9d9f0e-6c37-4e0b-8b4a-0f5a3b1c9d03"
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#else
#define UNDER_SANITIZER 0
#endif
#define STREAM_BYTES (3 * 1048576 + 12345)

/* The other end of the socket: gives the stream, or takes one. */
struct peer {
        pthread_t thread;
        int fd;
        uint8_t *data;
        size_t len;
};

static void *give(void *arg)
{
        struct peer *peer = arg;
        size_t at = 0;

        while (at < peer->len) {
                ssize_t n =
                        send(peer->fd, peer->data + at, MIN(peer->len - at, (size_t)100000), MSG_NOSIGNAL);

                if (n < 0)
                        break;
                at += (size_t)n;
        }
        close(peer->fd);
        return NULL;
}

static void *take(void *arg)
{
        struct peer *peer = arg;
        ssize_t n;

        while ((n = read(peer->fd, peer->data + peer->len, STREAM_BYTES + 4096 - peer->len)) > 0)
                peer->len += (size_t)n;
        close(peer->fd);
        return NULL;
}

/* Half of it compresses. */
static void fill(uint8_t *data)
{
        uint32_t x = 1;

        for (size_t i = 0; i < STREAM_BYTES; i++) {
                x = x * 1664525 + 1013904223;
                data[i] = i < STREAM_BYTES / 2 ? 0 : (uint8_t)(x >> 24);
        }
}

static int peer_begin(struct peer *peer, void *(*fn)(void *))
{
        int pair[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        peer->fd = pair[1];
        assert_int_equal(pthread_create(&peer->thread, NULL, fn, peer), 0);
        return pair[0];
}

static struct vm_folder *make_folder(struct scratch *s)
{
        _cleanup_json_ json_t *doc = json_pack("{s:s, s:s}", "uid", UID, "name", "web1");
        struct vm_folder *folder;

        assert_int_equal(vm_folder_create(s->datastore, "web1", UID, doc, &folder, NULL), 0);
        return folder;
}

static int write_state(struct vm_folder *folder, uint64_t epoch, const char *name, json_t **ret_written,
        struct error **ret_error)
{
        struct peer peer = {.data = test_malloc(STREAM_BYTES), .len = STREAM_BYTES};
        int fd, r;

        fill(peer.data);
        fd = peer_begin(&peer, give);
        r = state_file_write(folder, HOST, epoch, name, fd, ret_written, ret_error);
        close(fd);
        assert_int_equal(pthread_join(peer.thread, NULL), 0);
        test_free(peer.data);
        return r;
}

/* Suspended under the epoch that its owner has. */
static void suspend(struct vm_folder *folder, uint64_t epoch)
{
        _cleanup_json_ json_t *record = NULL;
        char name[STATE_FILE_NAME_MAX];

        assert_int_equal(vm_folder_take_owner(folder, HOST, epoch - 1, epoch, 1000, NULL), 0);
        assert_int_equal(state_file_name(name), 0);
        assert_int_equal(write_state(folder, epoch, name, &record, NULL), 0);
        assert_int_equal(json_object_set_new(record, "vm", json_string(UID)), 0);
        assert_int_equal(json_object_set_new(record, "document", json_object()), 0);
        assert_int_equal(state_file_commit(folder, HOST, epoch, 1000, record, NULL), 0);
}

static int read_state(struct vm_folder *folder, const json_t *record, struct error **ret_error)
{
        struct peer peer = {.data = test_malloc(STREAM_BYTES + 4096)};
        uint8_t *expected = test_malloc(STREAM_BYTES);
        int fd = peer_begin(&peer, take);
        int r = state_file_read(folder, record, fd, false, ret_error);

        close(fd);
        assert_int_equal(pthread_join(peer.thread, NULL), 0);
        fill(expected);
        if (r == 0)
                assert_int_equal(peer.len, STREAM_BYTES);
        assert_true(peer.len <= STREAM_BYTES);
        assert_memory_equal(peer.data, expected, peer.len); /* nothing that is damaged is given on */
        test_free(expected);
        test_free(peer.data);
        return r;
}

static void state_comes_back_as_it_was_written(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_json_ json_t *record = NULL;

        suspend(folder, 3);
        assert_int_equal(state_file_record(folder, &record, NULL), 0);
        assert_int_equal(json_integer_value(json_object_get(record, "stream_bytes")), STREAM_BYTES);
        assert_true(json_integer_value(json_object_get(record, "bytes")) < STREAM_BYTES * 6 / 10);
        assert_int_equal(read_state(folder, record, NULL), 0);
}

static void state_is_stale_once_the_vm_has_another_epoch(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_error_ struct error *error = NULL;
        json_t *record;

        suspend(folder, 3);
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 3, 4, 1000, NULL), 0);
        assert_true(state_file_record(folder, &record, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, "epoch 4");
}

static void damage_is_found_and_not_given_on(void **state)
{
        static const int64_t places[] = {0, 5, 40, 1000, 1000000, -1};
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_json_ json_t *record = NULL;
        _cleanup_free_ char *path = NULL;
        int64_t size;
        int fd;

        suspend(folder, 3);
        assert_int_equal(state_file_record(folder, &record, NULL), 0);
        size = json_integer_value(json_object_get(record, "bytes"));
        path = vm_folder_file_path(folder, json_string_value(json_object_get(record, "state")));
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
                off_t at = places[i] < 0 ? size - 1 : places[i];
                struct error *error = NULL;
                uint8_t byte;

                assert_int_equal(pread(fd, &byte, 1, at), 1);
                byte ^= 0x10;
                assert_int_equal(pwrite(fd, &byte, 1, at), 1);
                assert_true(read_state(folder, record, &error) < 0);
                assert_error(error, ERROR_CONFLICT, "damaged");
                error_free(error);
                byte ^= 0x10;
                assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        assert_int_equal(read_state(folder, record, NULL), 0);
        for (off_t len = 0; len < size; len += size / 7 + 1) {
                struct error *error = NULL;

                assert_int_equal(ftruncate(fd, len), 0);
                assert_true(read_state(folder, record, &error) < 0);
                assert_error(error, ERROR_CONFLICT, "damaged");
                error_free(error);
        }
        close(fd);
}

static void datastore_with_room_for_its_disks_alone_gets_no_file(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = NULL;
        _cleanup_error_ struct error *error = NULL;
        json_t *written, *record;

        scratch_make_small(s, "size=63M"); /* twenty times what the state takes */
        folder = make_folder(s);
        assert_true(write_state(folder, 3, "suspend.0123456789abcdef.state", &written, &error) < 0);
        assert_error(error, ERROR_NO_SPACE, "for the disks there");
        assert_false(scratch_exists(s, "store/web1/suspend.0123456789abcdef.state"));
        error_free(TAKE_PTR(error));
        assert_true(state_file_record(folder, &record, &error) < 0);
        assert_error(error, ERROR_NOT_FOUND, "not suspended");
}

/* Holds the lock of the owner record for a moment, as another host that looks at the VM does. */
static void *let_go(void *arg)
{
        const int *fd = arg;

        usleep(100000);
        close(*fd);
        return NULL;
}

static void record_is_written_although_the_owner_record_is_locked_for_a_moment(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_json_ json_t *record = NULL, *found = NULL;
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        pthread_t thread;
        int fd;

        assert_int_equal(vm_folder_take_owner(folder, HOST, 2, 3, 1000, NULL), 0);
        assert_int_equal(write_state(folder, 3, "suspend.0123456789abcdef.state", &record, NULL), 0);
        assert_int_equal(json_object_set_new(record, "vm", json_string(UID)), 0);
        assert_int_equal(json_object_set_new(record, "document", json_object()), 0);
        fd = openat(folder->fd, "owner.lock", O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
        assert_int_equal(pthread_create(&thread, NULL, let_go, &fd), 0);
        assert_int_equal(state_file_commit(folder, HOST, 3, 1000, record, NULL), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(state_file_record(folder, &found, NULL), 0);
}

static void stale_state_names_the_host_that_may_still_have_it(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_error_ struct error *error = NULL;
        json_t *record;

        suspend(folder, 3);
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 3, 4, 1000, NULL), 0);
        assert_true(state_file_record(folder, &record, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, OTHER_HOST);
        assert_non_null(strstr(error->hint, "Resume it there"));
        error_free(TAKE_PTR(error));
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 4, 5, 1000, NULL), 0);
        assert_true(state_file_record(folder, &record, &error) < 0);
        assert_null(strstr(error->hint, "Resume it there"));
}

static void good_state_keeps_the_disks_where_they_are(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(state_file_check_none(folder, NULL), 0);
        suspend(folder, 3);
        assert_true(state_file_check_none(folder, &error) < 0);
        assert_error(error, ERROR_CONFLICT, "is suspended");
        assert_int_equal(vm_folder_take_owner(folder, HOST, 3, 4, 1000, NULL), 0);
        assert_int_equal(state_file_check_none(folder, NULL), 0);
}

/* In a process of its own; says whether it could still open a file afterwards. */
static void who_reads_a_file_of_state_can_do_nothing_else(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        struct peer peer = {.data = test_malloc(STREAM_BYTES + 4096)};
        _cleanup_json_ json_t *record = NULL;
        int fd = peer_begin(&peer, take), status;
        pid_t pid;

        suspend(folder, 3);
        assert_int_equal(state_file_record(folder, &record, NULL), 0);
        pid = fork();
        if (pid == 0) {
                int r = state_file_read(folder, record, fd, true, NULL);

                _exit(r < 0 ? 2 : open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0 ? 1 : errno == EPERM ? 0 : 3);
        }
        close(fd);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(pthread_join(peer.thread, NULL), 0);
        assert_int_equal(peer.len, STREAM_BYTES);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), UNDER_SANITIZER);
        test_free(peer.data);
}

static void state_is_kept_for_the_epoch_that_an_attempt_took(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_json_ json_t *record = NULL;
        _cleanup_error_ struct error *error = NULL;
        uint64_t epoch = 0;

        suspend(folder, 3);
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 3, 4, 1000, NULL), 0);
        for (int i = 0; i < 2; i++) {
                assert_int_equal(state_file_keep(folder, OTHER_HOST, 3, 1000, &epoch, NULL), 0);
                assert_int_equal(epoch, 4);
        }
        assert_int_equal(state_file_record(folder, &record, NULL), 0);
        /* Another host's attempt does not bring back what ran. */
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 4, 5, 1000, NULL), 0);
        assert_true(state_file_keep(folder, HOST, 4, 1000, &epoch, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, OTHER_HOST);
}

static json_t *some_record(void)
{
        char sha256[65];

        memset(sha256, 'a', 64);
        sha256[64] = '\0';
        return json_pack("{s:s, s:s, s:i, s:i, s:s, s:{}}", "vm", UID, "state",
                "suspend.0123456789abcdef.state", "bytes", 1, "stream_bytes", 1, "sha256", sha256,
                "document");
}

/* It was told to be down, and comes back in the middle of its suspending. */
static void state_of_a_superseded_host_touches_nothing(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_json_ json_t *mine = some_record(), *record = NULL;
        _cleanup_error_ struct error *error = NULL;
        json_t *written = NULL;
        uint64_t epoch = 0;

        suspend(folder, 3);
        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 3, 4, 1000, NULL), 0);
        assert_int_equal(state_file_keep(folder, OTHER_HOST, 3, 1000, &epoch, NULL), 0);
        for (uint64_t behind = 3; behind <= 4; behind++) {
                assert_true(
                        write_state(folder, behind, "suspend.0123456789abcdef.state", &written, &error) < 0);
                assert_error(error, ERROR_STALE_EPOCH, OTHER_HOST);
                error_free(TAKE_PTR(error));
                assert_true(state_file_commit(folder, HOST, behind, 1000, mine, &error) < 0);
                assert_error(error, ERROR_STALE_EPOCH, OTHER_HOST);
                error_free(TAKE_PTR(error));
        }
        assert_int_equal(state_file_record(folder, &record, NULL), 0);
        assert_int_equal(read_state(folder, record, NULL), 0);
}

/* A host that took the VM back while the datastore did not answer runs it under an epoch that was never written. */
static void owner_record_that_is_behind_gets_the_epoch_of_the_state(void **state)
{
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(*state);
        _cleanup_json_ json_t *mine = some_record(), *record = NULL;
        _cleanup_error_ struct error *error = NULL;

        assert_int_equal(vm_folder_take_owner(folder, OTHER_HOST, 3, 4, 1000, NULL), 0);
        for (int i = 0; i < 2; i++)
                assert_int_equal(state_file_commit(folder, HOST, 6, 1000, mine, NULL), 0);
        assert_int_equal(state_file_record(folder, &record, NULL), 0);
        assert_int_equal(json_integer_value(json_object_get(record, "epoch")), 6);
        /* A commit that is late: the guest goes on already, under the next epoch. */
        assert_int_equal(vm_folder_take_owner(folder, HOST, 6, 7, 1000, NULL), 0);
        assert_true(state_file_commit(folder, HOST, 6, 1000, mine, &error) < 0);
        assert_error(error, ERROR_STALE_EPOCH, "epoch 7");
}

static void removal_takes_what_earlier_attempts_left(void **state)
{
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(s);

        suspend(folder, 3);
        scratch_write(s, "store/web1/suspend.feedfeedfeedfeed.state", "left");
        scratch_write(s, "store/web1/disk.state", "mine");
        assert_int_equal(state_file_remove(folder, NULL), 0);
        assert_int_equal(state_file_remove(folder, NULL), 0);
        assert_false(scratch_exists(s, "store/web1/suspend.json"));
        assert_false(scratch_exists(s, "store/web1/suspend.feedfeedfeedfeed.state"));
        assert_true(scratch_exists(s, "store/web1/disk.state"));
}

static void record_that_names_another_file_is_refused(void **state)
{
        static const char *const names[] = {"../x.state", "suspend.a/b.state", "vm.json", "suspend..state"};
        struct scratch *s = *state;
        _cleanup_(vm_folder_freep) struct vm_folder *folder = make_folder(s);

        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                _cleanup_free_ char *text =
                        alloc_printf("{\"format\": 1, \"vm\": \"" UID
                                     "\", \"epoch\": 1, \"bytes\": 1, \"stream_bytes\": 1, "
                                     "\"sha256\": \"ab\", \"document\": {}, \"state\": \"%s\"}",
                                names[i]);
                _cleanup_error_ struct error *error = NULL;
                json_t *record;

                scratch_write(s, "store/web1/suspend.json", text);
                assert_true(state_file_record(folder, &record, &error) < 0);
                assert_error(error, ERROR_CONFLICT, "damaged");
        }
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(state_comes_back_as_it_was_written),
                SCRATCH_TEST(state_is_stale_once_the_vm_has_another_epoch),
                SCRATCH_TEST(damage_is_found_and_not_given_on),
                SCRATCH_TEST(datastore_with_room_for_its_disks_alone_gets_no_file),
                SCRATCH_TEST(record_is_written_although_the_owner_record_is_locked_for_a_moment),
                SCRATCH_TEST(good_state_keeps_the_disks_where_they_are),
                SCRATCH_TEST(who_reads_a_file_of_state_can_do_nothing_else),
                SCRATCH_TEST(stale_state_names_the_host_that_may_still_have_it),
                SCRATCH_TEST(state_is_kept_for_the_epoch_that_an_attempt_took),
                SCRATCH_TEST(state_of_a_superseded_host_touches_nothing),
                SCRATCH_TEST(owner_record_that_is_behind_gets_the_epoch_of_the_state),
                SCRATCH_TEST(removal_takes_what_earlier_attempts_left),
                SCRATCH_TEST(record_that_names_another_file_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

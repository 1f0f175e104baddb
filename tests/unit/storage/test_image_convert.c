/* SPDX-License-Identifier: Apache-2.0 */
#include "scratch.h"

#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "io/child.h"
#include "storage/image_convert.h"
#include "storage/image_tool.h"

#define MIB 1048576

static int open_at(const struct scratch *s, const char *path, int flags)
{
        char full[256];
        int fd;

        snprintf(full, sizeof(full), "%s/%s", s->store, path);
        fd = open(full, flags | O_CLOEXEC, 0640);
        assert_true(fd >= 0);
        return fd;
}

static void shell(const struct scratch *s, const char *script)
{
        char line[1024];

        snprintf(line, sizeof(line), "cd %s && { %s; } >/dev/null 2>%s/errors", s->store, script, s->path);
        if (system(line) != 0) {
                (void)!system("cat /tmp/drover-test-*/errors >&2");
                fail_msg("%s", script);
        }
}

static int convert_part(const struct scratch *s, const char *from, enum image_kind kind, uint64_t offset,
        uint64_t length, const char *to, enum image_kind to_kind, bool stream, struct image_converted *ret,
        struct error **ret_error)
{
        _cleanup_fd_ int fd = open_at(s, from, O_RDONLY), to_fd = open_at(s, to, O_RDWR | O_CREAT);

        return image_convert(&(struct image_conversion){.name = from,
                                     .fd = fd,
                                     .kind = kind,
                                     .offset = offset,
                                     .length = length,
                                     .to_fd = to_fd,
                                     .to_kind = to_kind,
                                     .stream = stream},
                ret, ret_error);
}

static int convert(const struct scratch *s, const char *from, enum image_kind kind, const char *to,
        enum image_kind to_kind, struct error **ret_error)
{
        struct image_converted converted;

        return convert_part(s, from, kind, 0, 0, to, to_kind, false, &converted, ret_error);
}

static void assert_refused(const struct scratch *s, const char *from, enum image_kind kind,
        enum error_code code, const char *words)
{
        struct error *error = NULL;

        assert_true(convert(s, from, kind, "out", IMAGE_KIND_RAW, &error) < 0);
        assert_error(error, code, words);
        error_free(error);
}

#define MAKE_DISK "head -c 700000 /dev/urandom > disk && truncate -s 8M disk"

static void test_content_survives_every_format(void **state)
{
        static const enum image_kind kinds[] = {
                IMAGE_KIND_QCOW2, IMAGE_KIND_VMDK, IMAGE_KIND_VHDX, IMAGE_KIND_VDI, IMAGE_KIND_RAW};
        struct scratch *s = *state;
        struct error *error = NULL;

        shell(s, MAKE_DISK);
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
                shell(s, "rm -f there back");
                if (convert(s, "disk", IMAGE_KIND_RAW, "there", kinds[i], &error) < 0 ||
                        convert(s, "there", kinds[i], "back", IMAGE_KIND_RAW, &error) < 0)
                        fail_msg("%s: %s", image_kind_to_string(kinds[i]), error_message(error));
                shell(s, "cmp disk back");
        }
}

static void test_disk_within_an_archive_is_read_from_where_it_is(void **state)
{
        struct scratch *s = *state;
        struct image_converted converted = {};
        struct error *error = NULL;

        shell(s, MAKE_DISK);
        assert_int_equal(convert_part(s, "disk", IMAGE_KIND_RAW, 0, 0, "stream", IMAGE_KIND_VMDK, true,
                                 &converted, &error),
                0);
        assert_int_equal(converted.virtual_bytes, 8 * MIB);
        shell(s, "head -c 5120 /dev/urandom > archive && cat stream >> archive && echo tail >> archive");
        if (convert_part(s, "archive", IMAGE_KIND_VMDK, 5120, converted.bytes, "back", IMAGE_KIND_RAW, false,
                    &converted, &error) < 0)
                fail_msg("%s", error_message(error));
        shell(s, "cmp disk back");
}

static void test_image_that_names_a_file_of_the_host_is_refused(void **state)
{
        struct scratch *s = *state;

        shell(s, "echo secret > ../secret && truncate -s 1M ../secret && "
                 "qemu-img create -q -f qcow2 -b ../secret -F raw backed.qcow2");
        assert_refused(s, "backed.qcow2", IMAGE_KIND_QCOW2, ERROR_CHECK_FAILED, "backing file");
        shell(s, "qemu-img create -q -f qcow2 -o data_file=../outside,data_file_raw=on external.qcow2 1M");
        assert_refused(s, "external.qcow2", IMAGE_KIND_QCOW2, ERROR_CHECK_FAILED, "external data file");
        shell(s, "qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 1M");
        assert_refused(s, "flat.vmdk", IMAGE_KIND_VMDK, ERROR_CHECK_FAILED, "descriptor");
        shell(s, "qemu-img create -q -f vmdk base.vmdk 1M && qemu-img create -q -f vmdk -b base.vmdk -F vmdk "
                 "child.vmdk");
        assert_refused(s, "child.vmdk", IMAGE_KIND_VMDK, ERROR_CHECK_FAILED, "parent");
}

/* A header without a capacity makes QEMU read the descriptor in it as one that names other files. */
static void test_vmdk_without_a_capacity_is_refused(void **state)
{
        struct scratch *s = *state;

        shell(s, "qemu-img create -q -f vmdk none.vmdk 1M && "
                 "dd if=/dev/zero of=none.vmdk bs=1 seek=12 count=8 conv=notrunc");
        assert_refused(s, "none.vmdk", IMAGE_KIND_VMDK, ERROR_CHECK_FAILED, "capacity");
}

/* QEMU reads the descriptor at 0x200 whatever the header says: one that is harmless elsewhere says nothing. By its header: before qemu-img. */
static void test_vmdk_that_says_its_descriptor_is_elsewhere_is_refused(void **state)
{
        struct scratch *s = *state;
        struct error *error = NULL;
        int fd;

        shell(s, MAKE_DISK " && qemu-img convert -f raw -O vmdk disk moved.vmdk && "
                           "dd if=moved.vmdk of=text bs=512 skip=1 count=20 && "
                           "dd if=text of=moved.vmdk bs=512 seek=100 conv=notrunc && "
                           "printf '\\144' | dd of=moved.vmdk bs=1 seek=28 conv=notrunc");
        fd = open_at(s, "moved.vmdk", O_RDONLY);
        assert_true(image_kind_check(fd, 0, 0, IMAGE_KIND_VMDK, "moved", &error) < 0);
        assert_error(error, ERROR_CHECK_FAILED, "in another place");
        error_free(error);
        close(fd);
}

static void test_what_is_no_such_image_is_refused(void **state)
{
        struct scratch *s = *state;

        shell(s, "head -c 100000 /dev/urandom > noise && : > empty");
        assert_refused(s, "noise", IMAGE_KIND_QCOW2, ERROR_BAD_DOCUMENT, "no qcow2 image");
        assert_refused(s, "noise", IMAGE_KIND_VMDK, ERROR_BAD_DOCUMENT, "no vmdk image");
        assert_refused(s, "noise", IMAGE_KIND_VHDX, ERROR_BAD_DOCUMENT, "no vhdx image");
        assert_refused(s, "noise", IMAGE_KIND_VDI, ERROR_BAD_DOCUMENT, "no vdi image");
        assert_refused(s, "empty", IMAGE_KIND_VMDK, ERROR_BAD_DOCUMENT, "no vmdk image");
        assert_refused(s, "empty", IMAGE_KIND_RAW, ERROR_BAD_DOCUMENT, "holds no disk");
}

static void test_damaged_image_is_an_error(void **state)
{
        struct scratch *s = *state;
        struct error *error = NULL;

        shell(s, MAKE_DISK " && qemu-img convert -f raw -O qcow2 disk good.qcow2 && "
                           "cp good.qcow2 bad.qcow2 && "
                           "dd if=/dev/urandom of=bad.qcow2 bs=1 seek=24 count=40 conv=notrunc");
        assert_true(convert(s, "bad.qcow2", IMAGE_KIND_QCOW2, "out", IMAGE_KIND_RAW, &error) < 0);
        error_free(error);
}

/* 256 MiB of one letter are less than one as a compressed qcow2; on a datastore of 96 MiB it is refused before it is unpacked. */
static void test_image_that_would_unpack_to_more_than_there_is_room_for_is_refused(void **state)
{
        struct scratch *s = *state;

        shell(s, "head -c 268435456 /dev/zero | tr '\\0' a > ../letters && "
                 "qemu-img convert -c -f raw -O qcow2 ../letters ../bomb && rm ../letters");
        scratch_make_small(s, "size=96m");
        shell(s, "cp ../bomb bomb && rm ../bomb && : > out");
        assert_refused(s, "bomb", IMAGE_KIND_QCOW2, ERROR_NO_SPACE, "unpacks to 256 MiB");
        shell(s, "test ! -s out");
}

static int run(const struct scratch *s, const char *const *argv, char **ret_output, struct error **ret_error)
{
        _cleanup_fd_ int fd = open_at(s, "given", O_RDONLY);
        const struct image_tool tool = {
                .argv = argv, .files = {{.fd = fd}}, .n_files = 1, .name = "the test"};

        return image_tool_run(&tool, ret_output, ret_error);
}

static void assert_shut_in(const struct scratch *s, const char *script, const char *words)
{
        const char *argv[] = {"bash", "-c", script, NULL};
        struct error *error = NULL;

        assert_true(run(s, argv, NULL, &error) < 0);
        assert_error(error, ERROR_QEMU_FAILED, words);
        error_free(error);
}

/* Whatever takes qemu-img over: what is tried here with a shell in its place. */
static void test_program_reaches_what_it_was_given_and_nothing_else(void **state)
{
        const char *read_given[] = {"cat", IMAGE_TOOL_FIRST, NULL};
        struct scratch *s = *state;
        _cleanup_free_ char *output = NULL;
        char script[256];

        shell(s, "echo content > given && echo secret > other");
        assert_int_equal(run(s, read_given, &output, NULL), 0);
        assert_string_equal(output, "content\n");
        assert_shut_in(s, "read line < /etc/hostname", "Permission denied");
        snprintf(script, sizeof(script), "read line < %s/other", s->store);
        assert_shut_in(s, script, "Permission denied");
        assert_shut_in(s, "echo more >> " IMAGE_TOOL_FIRST, "Permission denied");
        snprintf(script, sizeof(script), "echo more >> %s/made", s->store);
        assert_shut_in(s, script, "Permission denied");
        assert_shut_in(s, "echo more > /dev/tcp/127.0.0.1/9", "not permitted");
        assert_shut_in(s, "kill -0 $PPID", "not permitted");
        shell(s, "test \"$(cat given)\" = content && test ! -e made");
}

/* --- What a program in qemu-img's place tries, in this program, executed anew ------------------------------------------------------ */

#define PROBE "try-all"

static int n_allowed;

static void must_fail(const char *what, long result, int expected)
{
        if (result >= 0 || errno != expected) {
                printf("%s: %ld, %s\n", what, result, result < 0 ? strerror(errno) : "done");
                n_allowed++;
        }
}

static void *in_thread(void *arg)
{
        *(bool *)arg = true;
        return NULL;
}

static void try_to_make_a_process(void)
{
        uint64_t clone_args[8] = {};
        long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

        if (!pid)
                _exit(0);
        must_fail("clone", pid, EPERM);
        pid = syscall(SYS_fork);
        if (!pid)
                _exit(0);
        must_fail("fork", pid, EPERM);
        pid = syscall(SYS_clone3, clone_args, sizeof(clone_args));
        if (!pid)
                _exit(0);
        must_fail("clone3", pid, ENOSYS);
}

static void try_files(void)
{
        const char *given = IMAGE_TOOL_FIRST;
        uint64_t how[3] = {O_RDONLY};

        must_fail("openat, mode 3", syscall(SYS_openat, AT_FDCWD, given, O_ACCMODE), EPERM);
        must_fail(
                "openat, mode 3, empty it", syscall(SYS_openat, AT_FDCWD, given, O_ACCMODE | O_TRUNC), EPERM);
        must_fail("openat, empty it", syscall(SYS_openat, AT_FDCWD, given, O_RDONLY | O_TRUNC), EPERM);
        must_fail("open, empty it", syscall(SYS_open, given, O_WRONLY | O_TRUNC), EPERM);
        must_fail("creat", syscall(SYS_creat, given, 0600), EPERM);
        must_fail("openat2", syscall(SYS_openat2, AT_FDCWD, given, how, sizeof(how)), ENOSYS);
        must_fail("utimes", syscall(SYS_utimes, given, NULL), EPERM);
        must_fail("fchmodat2", syscall(452, AT_FDCWD, given, 0600, 0), EPERM);
}

static void try_others(pid_t other)
{
        siginfo_t info = {.si_code = SI_QUEUE};
        unsigned long cpus = 1;

        must_fail("kill", syscall(SYS_kill, other, 0), EPERM);
        must_fail("tgkill", syscall(SYS_tgkill, other, other, 0), EPERM);
        must_fail("rt_sigqueueinfo", syscall(SYS_rt_sigqueueinfo, other, 0, &info), EPERM);
        must_fail("rt_tgsigqueueinfo", syscall(SYS_rt_tgsigqueueinfo, other, other, 0, &info), EPERM);
        must_fail("pidfd_open", syscall(SYS_pidfd_open, other, 0), EPERM);
        must_fail("sched_setaffinity", syscall(SYS_sched_setaffinity, other, sizeof(cpus), &cpus), EPERM);
        must_fail("setpriority", syscall(SYS_setpriority, 0, other, 0), EPERM);
        must_fail("ioprio_set", syscall(SYS_ioprio_set, 1, other, 2 << 13), EPERM);
        must_fail("shmget", syscall(SYS_shmget, 0, 4096, 01600), EPERM);
        must_fail("F_SETOWN", fcntl(3, F_SETOWN, other), EPERM);
        must_fail("F_SETSIG", fcntl(3, F_SETSIG, SIGKILL), EPERM);
        must_fail("PR_SET_PDEATHSIG", prctl(PR_SET_PDEATHSIG, 0), EPERM);
}

static int try_all(void)
{
        struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
        bool ran = false;
        pthread_t thread;

        try_to_make_a_process();
        try_files();
        try_others(getppid());
        if (syscall(SYS_capget, &header, data) < 0 || data[0].permitted & ~(1u << CAP_DAC_OVERRIDE) ||
                data[1].permitted) {
                printf("capabilities are left: %x %x\n", data[0].permitted, data[1].permitted);
                n_allowed++;
        }
        if (pthread_create(&thread, NULL, in_thread, &ran) != 0 || pthread_join(thread, NULL) != 0 || !ran) {
                printf("no thread can be had\n");
                n_allowed++;
        }
        return n_allowed ? 1 : 0;
}

static void test_program_empties_no_file_signals_nobody_and_makes_no_process(void **state)
{
        const char *argv[] = {"test_image_convert", PROBE, NULL};
        struct scratch *s = *state;
        struct error *error = NULL;
        char folder[PATH_MAX] = "", *slash;
        _cleanup_free_ char *before = NULL;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
        skip(); /* whose runtime needs more than the program may have */
#endif
        assert_true(readlink("/proc/self/exe", folder, sizeof(folder) - 1) > 0);
        slash = strrchr(folder, '/');
        *slash = '\0';
        argv[0] = slash + 1;
        before = strdup(getenv("PATH"));
        assert_non_null(before);
        assert_int_equal(setenv("PATH", folder, 1), 0);
        shell(s, "/bin/echo content > given");
        if (run(s, argv, NULL, &error) < 0)
                fail_msg("%s", error_message(error));
        assert_int_equal(setenv("PATH", before, 1), 0);
        shell(s, "test \"$(cat given)\" = content");
}

static int no_room(void *userdata, struct error **ret_error)
{
        return error_set(ret_error, ERROR_NO_SPACE, NULL, "no room in the test");
}

/* Without an end it would sleep for longer than this test may last. */
static void test_program_is_ended_by_the_tick(void **state)
{
        const char *argv[] = {"sleep", "1000", NULL};
        const struct image_tool tool = {.argv = argv, .name = "the test", .tick = no_room};
        struct error *error = NULL;

        assert_true(image_tool_run(&tool, NULL, &error) < 0);
        assert_error(error, ERROR_NO_SPACE, "no room in the test");
        error_free(error);
}

static void on_qemu_exit(void *userdata, const struct child_result *result)
{
        *(bool *)userdata = true;
}

/* qemu-img is shut in, and sees the locks of others all the same. */
static void test_image_that_a_qemu_writes_is_not_read(void **state)
{
        struct scratch *s = *state;
        _cleanup_(child_freep) struct child *qemu = NULL;
        struct child_spec spec = CHILD_SPEC_INIT;
        bool exited = false;
        char path[160];
        int in[2], out[2];
        char c;

        shell(s, MAKE_DISK);
        snprintf(path, sizeof(path), "%s/disk", s->store);
        assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        spec.argv = (const char *const[]){"qemu-io", "-f", "raw", path, NULL};
        spec.stdin_fd = in[0];
        spec.output_fd = out[1];
        assert_int_equal(child_start(s->loop, &spec, on_qemu_exit, &exited, &qemu, NULL), 0);
        close(out[1]);
        assert_int_equal(read(out[0], &c, 1), 1); /* its prompt: the image is open */
        assert_refused(s, "disk", IMAGE_KIND_RAW, ERROR_LOCKED, "in use");
        close(in[0]);
        close(in[1]);
        close(out[0]);
        assert_int_equal(loop_wait(s->loop, &exited, 30000), 0);
}

static void test_checksum_is_of_the_part_that_was_asked_for(void **state)
{
        struct scratch *s = *state;
        char hex[IMAGE_HASH_HEX_SIZE];
        uint64_t bytes = 0;
        int fd;

        shell(s, "printf 'xxabcyy' > text");
        fd = open_at(s, "text", O_RDONLY);
        assert_int_equal(image_digest(fd, 2, 3, IMAGE_SHA256, NULL, NULL, hex, &bytes, NULL), 0);
        /* FIPS 180-2, appendix B.1 and A.1. */
        assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_int_equal(bytes, 3);
        assert_int_equal(image_digest(fd, 2, 3, IMAGE_SHA1, NULL, NULL, hex, &bytes, NULL), 0);
        assert_string_equal(hex, "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_int_equal(image_digest(fd, 0, 0, IMAGE_SHA256, NULL, NULL, hex, &bytes, NULL), 0);
        assert_int_equal(bytes, 7);
        close(fd);
}

int main(int argc, char *argv[])
{
        if (argc == 2 && !strcmp(argv[1], PROBE))
                return try_all();

        const struct CMUnitTest tests[] = {
                SCRATCH_TEST(test_content_survives_every_format),
                SCRATCH_TEST(test_disk_within_an_archive_is_read_from_where_it_is),
                SCRATCH_TEST(test_image_that_names_a_file_of_the_host_is_refused),
                SCRATCH_TEST(test_vmdk_without_a_capacity_is_refused),
                SCRATCH_TEST(test_vmdk_that_says_its_descriptor_is_elsewhere_is_refused),
                SCRATCH_TEST(test_what_is_no_such_image_is_refused),
                SCRATCH_TEST(test_damaged_image_is_an_error),
                SCRATCH_TEST(test_program_reaches_what_it_was_given_and_nothing_else),
                SCRATCH_TEST(test_program_empties_no_file_signals_nobody_and_makes_no_process),
                SCRATCH_TEST(test_program_is_ended_by_the_tick),
                SCRATCH_TEST(test_image_that_a_qemu_writes_is_not_read),
                SCRATCH_TEST(test_checksum_is_of_the_part_that_was_asked_for),
                /* The last one: it has a mount namespace of its own. */
                SCRATCH_TEST(test_image_that_would_unpack_to_more_than_there_is_room_for_is_refused),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}

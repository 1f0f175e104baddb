/* SPDX-License-Identifier: Apache-2.0 */

/* What the sandbox lets a mover do with the file that is QEMU's memory, each tried in a process of its own. */

// clang-format off
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
// clang-format on
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "mover/sandbox.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTERED false /* see sandbox.c */
#else
#define FILTERED true
#endif

#define ADDRESS (UINT64_C(7) * WIRE_PAGE_SIZE)
#define BYTES (UINT64_C(155) * WIRE_PAGE_SIZE)
#define FILE_BYTES (UINT64_C(1) << 34)

struct attempt {
        struct ram ram;
        uint64_t address; /* of the memory in the file; 0: ADDRESS */
        uint64_t offset;  /* in the file */
        size_t len;
        bool writable;
};

static void try_write(const struct attempt *a)
{
        static uint8_t data[2 * WIRE_STRIPE_BYTES];

        _exit(pwrite(a->ram.fd, data, a->len, (off_t)a->offset) == (ssize_t)a->len ? 0 : 1);
}

static void try_read(const struct attempt *a)
{
        static uint8_t data[2 * WIRE_STRIPE_BYTES];

        _exit(pread(a->ram.fd, data, a->len, (off_t)a->offset) == (ssize_t)a->len ? 0 : 1);
}

static void try_seek(const struct attempt *a)
{
        _exit(lseek(a->ram.fd, (off_t)a->offset, SEEK_SET) < 0 ? 1 : 0);
}

static void try_map(const struct attempt *a)
{
        (void)a;
        _exit(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
}

static void try_log(const struct attempt *a)
{
        (void)a;
        log_notice("a line from inside the sandbox");
        _exit(0);
}

#define N_PIECES 400

static void *allocate(void *userdata)
{
        void **pieces = userdata;

        for (size_t i = 0; i < N_PIECES; i++) {
                pieces[i] = malloc(100 * 1024);
                if (pieces[i])
                        memset(pieces[i], 1, 100 * 1024);
        }
        return NULL;
}

/* A channel's thread leaves its memory to main, as when a connection is replaced. */
static void try_memory(const struct attempt *a)
{
        void *pieces[N_PIECES];
        pthread_t thread;

        (void)a;
        if (pthread_create(&thread, NULL, allocate, pieces) != 0)
                _exit(98);
        pthread_join(thread, NULL);
        for (size_t i = N_PIECES; i > 0; i--)
                free(pieces[i - 1]);
        _exit(0);
}

#define HEAPS_MAX 8 /* as sandbox.c has it; above it glibc would open a file to decide on more */

static size_t count_heaps(void)
{
        char *text = NULL;
        size_t len = 0, n = 0;
        FILE *out = open_memstream(&text, &len);

        if (!out || malloc_info(0, out) != 0 || fclose(out) != 0)
                _exit(96);
        for (const char *at = text; (at = strstr(at, "<heap nr=")) != NULL; at++)
                n++;
        free(text);
        return n;
}

static void *allocate_beside_others(void *barrier)
{
        void *volatile piece; /* so that the compiler leaves it in */

        pthread_barrier_wait(barrier);
        piece = malloc(100 * 1024);
        free(piece);
        pthread_barrier_wait(barrier); /* so that no heap is free for the next */
        return NULL;
}

static void try_many_threads(const struct attempt *a)
{
        pthread_t threads[WIRE_MAX_CHANNELS];
        pthread_barrier_t barrier;

        (void)a;
        pthread_barrier_init(&barrier, NULL, ARRAY_SIZE(threads));
        for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
                if (pthread_create(&threads[i], NULL, allocate_beside_others, &barrier) != 0)
                        _exit(98);
        for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
                pthread_join(threads[i], NULL);
        _exit(count_heaps() <= HEAPS_MAX ? 0 : 97);
}

static void try_open(const struct attempt *a)
{
        (void)a;
        _exit(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? 0 : 1);
}

/* The exit code, or minus the signal that ended it. */
static int run(void (*fn)(const struct attempt *), struct attempt a)
{
        int status;
        pid_t pid;

        a.ram = (struct ram){
                .fd = memfd_create("ram", MFD_CLOEXEC), .address = a.address ?: ADDRESS, .bytes = BYTES};
        assert_int_equal(ftruncate(a.ram.fd, (off_t)FILE_BYTES), 0);
        pid = fork();
        if (pid == 0) {
                if (sandbox_enter(NULL, 0, -1, &a.ram, a.writable, NULL) < 0)
                        _exit(99);
                fn(&a);
        }
        assert_true(pid > 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        close(a.ram.fd);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int write_at(uint64_t offset, size_t len)
{
        return run(try_write, (struct attempt){.offset = offset, .len = len, .writable = true});
}

static void test_every_page_of_the_guest_can_be_written(void **state)
{
        assert_int_equal(write_at(ADDRESS, WIRE_PAGE_SIZE), 0);
        assert_int_equal(write_at(ADDRESS, WIRE_STRIPE_BYTES), 0);
        assert_int_equal(write_at(ADDRESS + BYTES - WIRE_PAGE_SIZE, WIRE_PAGE_SIZE), 0);
        for (uint64_t page = 0; page < BYTES / WIRE_PAGE_SIZE; page += 9)
                assert_int_equal(write_at(ADDRESS + page * WIRE_PAGE_SIZE, 1), 0);
}

static void test_nothing_else_can_be_written(void **state)
{
        static const uint64_t elsewhere[] = {0, ADDRESS - 1, ADDRESS - WIRE_PAGE_SIZE, ADDRESS + BYTES,
                ADDRESS + BYTES + WIRE_PAGE_SIZE, FILE_BYTES - 1, UINT64_C(1) << 33};

        if (!FILTERED)
                skip();
        for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++)
                assert_int_equal(write_at(elsewhere[i], 1), -SIGSYS);
        assert_int_equal(write_at(ADDRESS, WIRE_STRIPE_BYTES + 1), -SIGSYS);
        assert_int_equal(write_at(ADDRESS + BYTES - WIRE_PAGE_SIZE, WIRE_PAGE_SIZE + 1), -SIGSYS);
}

/* Its upper and lower half are compared apart. */
static void test_memory_across_a_multiple_of_4_gib(void **state)
{
        const uint64_t middle = UINT64_C(2) << 32,
                       start = middle - BYTES / 2 / WIRE_PAGE_SIZE * WIRE_PAGE_SIZE;
        struct attempt a = {.address = start, .writable = true, .len = WIRE_STRIPE_BYTES};

        a.offset = middle - WIRE_PAGE_SIZE;
        assert_int_equal(run(try_write, a), 0);
        a.offset = start;
        assert_int_equal(run(try_write, a), 0);
        a.offset = start + BYTES - a.len;
        assert_int_equal(run(try_write, a), 0);
        if (!FILTERED)
                skip();
        a.offset++;
        assert_int_equal(run(try_write, a), -SIGSYS);
        a.offset = start - 1;
        assert_int_equal(run(try_write, a), -SIGSYS);
        a.offset = start + (UINT64_C(1) << 32);
        assert_int_equal(run(try_write, a), -SIGSYS);
        a.offset = start - (UINT64_C(1) << 32);
        assert_int_equal(run(try_write, a), -SIGSYS);
}

static void test_a_source_only_reads(void **state)
{
        assert_int_equal(run(try_read, (struct attempt){.offset = ADDRESS, .len = WIRE_PAGE_SIZE}), 0);
        if (!FILTERED)
                skip();
        assert_int_equal(run(try_read, (struct attempt){.offset = ADDRESS - 1, .len = 1}), -SIGSYS);
        assert_int_equal(run(try_write, (struct attempt){.offset = ADDRESS, .len = 1}), -SIGSYS);
}

static void test_no_way_around(void **state)
{
        if (!FILTERED)
                skip();
        assert_int_equal(run(try_seek, (struct attempt){.offset = 0, .writable = true}), -SIGSYS);
        assert_int_equal(run(try_map, (struct attempt){.writable = true}), -SIGSYS);
        assert_int_equal(run(try_open, (struct attempt){.writable = true}), 0);
}

static void test_the_mover_can_log(void **state)
{
        assert_int_equal(run(try_log, (struct attempt){.writable = true}), 0);
}

static void test_each_channel_may_have_a_thread(void **state)
{
        assert_int_equal(run(try_many_threads, (struct attempt){.writable = true}), 0);
}

static void test_memory_of_a_thread_can_be_given_back(void **state)
{
        assert_int_equal(run(try_memory, (struct attempt){.writable = true}), 0);
}

int main(void)
{
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_every_page_of_the_guest_can_be_written),
                cmocka_unit_test(test_nothing_else_can_be_written),
                cmocka_unit_test(test_memory_across_a_multiple_of_4_gib),
                cmocka_unit_test(test_a_source_only_reads),
                cmocka_unit_test(test_no_way_around),
                cmocka_unit_test(test_the_mover_can_log),
                cmocka_unit_test(test_each_channel_may_have_a_thread),
                cmocka_unit_test(test_memory_of_a_thread_can_be_given_back),
        };

        unsetenv("JOURNAL_STREAM"); /* lines with a time, which reads the time zone at first use */
        log_init("test", LOG_LEVEL_INFO);
        return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Bench for docs/decisions/0001-guest-ram-access.md and 0004-guest-ram-stays-anonymous.md: how fast another process can
 * write a guest's memory, how fast the guest's process works on it afterwards, and what it costs to look at memory that was
 * never used.
 *
 *   memfd          shared mapping of a memfd in both processes
 *   memfd+populate the same, MADV_POPULATE_WRITE for each 256 KiB before it is written
 *   memfd+huge     the same with MADV_HUGEPAGE (needs shmem_enabled=advise)
 *   vm_writev      anonymous memory of the guest's process, written by process_vm_writev
 *   vm_writev+huge the same with MADV_HUGEPAGE in the guest's process
 *   proc_mem       anonymous memory, written by pwrite() on /proc/PID/mem
 *   proc_mem+huge  the same with MADV_HUGEPAGE
 *
 * Usage: placement [MIB [FOLDER]]   FOLDER: files there instead of memfds, to try a tmpfs with huge=always; prints one line of JSON per method, rates in MB per second of
 * CPU time */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "base/macros.h"
#include "base/text.h"

#define PAGE 4096
#define STRIPE (64 * PAGE)

/* CPU time, not wall time: other programs on the machine then disturb less. */
static uint64_t cpu_ns(void)
{
        struct timespec t;

        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

enum method { MEMFD, MEMFD_POPULATE, MEMFD_HUGE, WRITEV, WRITEV_HUGE, PROC_MEM, PROC_MEM_HUGE, N_METHODS };
static const char *const names[N_METHODS] = {
        "memfd", "memfd+populate", "memfd+huge", "vm_writev", "vm_writev+huge", "proc_mem", "proc_mem+huge"};

/* The guest's process: waits for a byte, works on the memory, answers with the time of each phase. */
struct times {
        uint64_t first_read_ns, read_ns, write_ns, random_ns;
};

static uint64_t work_read(const uint8_t *memory, size_t bytes)
{
        uint64_t started = cpu_ns(), sum = 0;

        for (size_t i = 0; i < bytes; i += 64)
                sum += memory[i];
        __asm__ volatile("" : : "r"(sum));
        return cpu_ns() - started;
}

static uint64_t work_random(const uint8_t *memory, size_t bytes)
{
        uint64_t started = cpu_ns(), x = 1, sum = 0;

        /* Each address depends on the last value: page walks cannot hide behind each other. */
        for (int i = 0; i < 2000000; i++) {
                x = x * 6364136223846793005u + 1442695040888963407u + (sum & 1);
                sum += memory[(x >> 20) % bytes];
        }
        __asm__ volatile("" : : "r"(sum));
        return cpu_ns() - started;
}

static void guest(uint8_t *memory, size_t bytes, int in, int out)
{
        struct times t;
        uint64_t started;
        char byte;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (read(in, &byte, 1) != 1)
                _exit(1);
        t.first_read_ns = work_read(memory, bytes); /* takes the minor faults, if any */
        t.read_ns = work_read(memory, bytes);
        t.random_ns = work_random(memory, bytes);
        started = cpu_ns();
        memset(memory, 7, bytes);
        t.write_ns = cpu_ns() - started;
        _exit(write(out, &t, sizeof(t)) == sizeof(t) ? 0 : 1);
}

static int place_mapped(uint8_t *memory, size_t bytes, const uint8_t *stripe, bool populate)
{
        for (size_t at = 0; at < bytes; at += STRIPE) {
                if (populate && madvise(memory + at, STRIPE, MADV_POPULATE_WRITE) < 0)
                        return -errno;
                memcpy(memory + at, stripe, STRIPE);
        }
        return 0;
}

static int place_writev(pid_t pid, uint8_t *memory, size_t bytes, const uint8_t *stripe)
{
        for (size_t at = 0; at < bytes; at += STRIPE) {
                struct iovec local = {.iov_base = (void *)stripe, .iov_len = STRIPE};
                struct iovec remote = {.iov_base = memory + at, .iov_len = STRIPE};

                if (process_vm_writev(pid, &local, 1, &remote, 1, 0) != STRIPE)
                        return -errno;
        }
        return 0;
}

static int place_proc_mem(pid_t pid, const uint8_t *memory, size_t bytes, const uint8_t *stripe)
{
        _cleanup_fd_ int fd = -1;
        char path[32];

        snprintf(path, sizeof(path), "/proc/%d/mem", pid);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        for (size_t at = 0; fd >= 0 && at < bytes; at += STRIPE)
                if (pwrite(fd, stripe, STRIPE, (off_t)((uintptr_t)memory + at)) != STRIPE)
                        return -errno;
        return fd < 0 ? -errno : 0;
}

static int place(enum method method, pid_t pid, uint8_t *memory, size_t bytes, const uint8_t *stripe)
{
        if (method >= PROC_MEM)
                return place_proc_mem(pid, memory, bytes, stripe);
        if (method >= WRITEV)
                return place_writev(pid, memory, bytes, stripe);
        return place_mapped(memory, bytes, stripe, method == MEMFD_POPULATE);
}

static double mb_per_s(size_t bytes, uint64_t ns)
{
        return (double)bytes * 1e3 / (double)ns;
}

static uint8_t *make_memory(enum method method, size_t bytes, const char *folder)
{
        _cleanup_fd_ int fd = -1;
        uint8_t *memory;

        if (method < WRITEV) {
                fd = folder ? open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)
                            : memfd_create("ram", MFD_CLOEXEC);
                if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
                        return NULL;
                memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        } else {
                memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        }
        if (memory == MAP_FAILED)
                return NULL;
        (void)madvise(memory, bytes,
                method == MEMFD_HUGE || method == WRITEV_HUGE || method == PROC_MEM_HUGE ? MADV_HUGEPAGE
                                                                                         : MADV_NOHUGEPAGE);
        return memory;
}

/* What QEMU does to find the zero pages. */
static uint64_t look_at_unused(enum method method, size_t bytes, const char *folder)
{
        uint8_t *memory = make_memory(method, bytes, folder);
        uint64_t ns = memory ? work_read(memory, bytes) : 0;

        if (memory)
                munmap(memory, bytes);
        return ns;
}

static int measure(enum method method, size_t bytes, const char *folder, const uint8_t *stripe)
{
        uint8_t *memory = make_memory(method, bytes, folder);
        int to_guest[2], from_guest[2], r;
        uint64_t started, first_ns, again_ns, unused_ns = look_at_unused(method, bytes, folder);
        struct times t;
        pid_t pid;

        if (!memory || pipe(to_guest) < 0 || pipe(from_guest) < 0)
                return -errno;
        pid = fork();
        if (pid == 0)
                guest(memory, bytes, to_guest[0], from_guest[1]);
        started = cpu_ns();
        r = place(method, pid, memory, bytes, stripe);
        first_ns = cpu_ns() - started;
        started = cpu_ns();
        if (r >= 0)
                r = place(method, pid, memory, bytes, stripe);
        again_ns = cpu_ns() - started;
        if (r >= 0 && (write(to_guest[1], "", 1) != 1 || read(from_guest[0], &t, sizeof(t)) != sizeof(t)))
                r = -EIO;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        munmap(memory, bytes);
        for (int i = 0; i < 2; i++) {
                close(to_guest[i]);
                close(from_guest[i]);
        }
        if (r < 0)
                return r;
        printf("{\"method\": \"%s\", \"unused_read\": %.0f, \"first_touch\": %.0f, \"rewrite\": %.0f, "
               "\"guest_first_read\": %.0f, "
               "\"guest_read\": %.0f, \"guest_write\": %.0f, \"guest_random_ns\": %.1f}\n",
                names[method], mb_per_s(bytes, unused_ns), mb_per_s(bytes, first_ns),
                mb_per_s(bytes, again_ns), mb_per_s(bytes, t.first_read_ns), mb_per_s(bytes, t.read_ns),
                mb_per_s(bytes, t.write_ns), (double)t.random_ns / 2000000);
        return 0;
}

int main(int argc, char **argv)
{
        static uint8_t stripe[STRIPE];
        uint64_t mib = 1024;

        if (argc > 3 || (argc > 1 && text_parse_u64(argv[1], 1, 65536, &mib) < 0)) {
                fputs("Usage: placement [MIB [FOLDER]]\n", stderr);
                return 2;
        }
        memset(stripe, 0x5a, sizeof(stripe));
        for (enum method i = 0; i < N_METHODS; i++) {
                int r = measure(i, mib * 1024 * 1024, argc == 3 ? argv[2] : NULL, stripe);

                if (r < 0)
                        fprintf(stderr, "placement: %s: %s\n", names[i], strerror(-r));
        }
        return 0;
}

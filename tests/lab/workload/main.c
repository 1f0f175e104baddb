/* SPDX-License-Identifier: Apache-2.0 */

/* Start of the workload program: PID 1 of the guest, after the initrd's script has loaded the modules and set up
 * the network. Options come from the kernel command line, fields separated by commas:
 *
 *   workload.memory=SIZE_MIB,CONTENT  workload.dirty=PAGES_PER_S,SPAN_MIB,ORDER,STYLE
 *   workload.disk=RECORDS_PER_S       workload.device=PATH (of the disk for the records; "none": no records) */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

enum {
        MAX_COMMAND_LINE = 4096,
        THREAD_STACK_BYTES = 64 * 1024,
};

static struct {
        pthread_mutex_t lock;
        uint64_t n;
        char first[512];
} faults = {.lock = PTHREAD_MUTEX_INITIALIZER};

void say(const char *format, ...)
{
        char line[768];
        va_list arguments;
        int n;

        va_start(arguments, format);
        n = vsnprintf(line, sizeof(line), format, arguments);
        va_end(arguments);
        if (n >= 0)
                dprintf(STDOUT_FILENO, "workload: %s\n", line);
}

void fault(const char *format, ...)
{
        char text[512];
        va_list arguments;
        uint64_t n;

        va_start(arguments, format);
        vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        pthread_mutex_lock(&faults.lock);
        n = ++faults.n;
        if (n == 1)
                memcpy(faults.first, text, sizeof(text));
        pthread_mutex_unlock(&faults.lock);
        /* A lost page can be found thousands of times; the console is slow. */
        if (n <= 20)
                say("FAULT %s", text);
}

void fault_forget(void)
{
        pthread_mutex_lock(&faults.lock);
        faults.n = 0;
        faults.first[0] = '\0';
        pthread_mutex_unlock(&faults.lock);
}

uint64_t fault_count(void)
{
        uint64_t n;

        pthread_mutex_lock(&faults.lock);
        n = faults.n;
        pthread_mutex_unlock(&faults.lock);
        return n;
}

void fault_first(char *buffer, size_t size)
{
        pthread_mutex_lock(&faults.lock);
        snprintf(buffer, size, "%s", faults.first);
        pthread_mutex_unlock(&faults.lock);
}

uint64_t monotonic_ns(void)
{
        struct timespec now;

        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void sleep_until(uint64_t at_ns)
{
        struct timespec at = {(time_t)(at_ns / 1000000000), (long)(at_ns % 1000000000)};

        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
                ;
}

uint64_t mix64(uint64_t x)
{
        x += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

void start_thread(void *(*run)(void *), void *argument)
{
        pthread_attr_t attributes;
        pthread_t thread;

        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
        if (pthread_create(&thread, &attributes, run, argument) != 0) {
                say("cannot start a thread");
                abort();
        }
        pthread_attr_destroy(&attributes);
}

/* Splits "a,b,c" in place; absent fields are NULL. */
static void split(char *text, char *fields[4])
{
        char *rest = NULL;

        for (int i = 0; i < 4; i++)
                fields[i] = strtok_r(i == 0 ? text : NULL, ",", &rest);
}

static void apply_option(char *option)
{
        char *fields[4], *value = strchr(option, '=');
        const char *problem = NULL;

        if (strncmp(option, "workload.", 9) != 0 || value == NULL)
                return;
        *value++ = '\0';
        split(value, fields);
        option += 9;
        if (strcmp(option, "memory") == 0)
                problem = memory_resize(fields[0], fields[1]);
        else if (strcmp(option, "dirty") == 0)
                problem = memory_dirty(fields[0], fields[1], fields[2], fields[3]);
        else if (strcmp(option, "disk") == 0)
                problem = disk_rate(fields[0]);
        else if (strcmp(option, "device") == 0)
                problem = disk_choose(fields[0]);
        if (problem != NULL)
                fault("workload.%s on the kernel command line: %s", option, problem);
}

static void apply_command_line(void)
{
        char line[MAX_COMMAND_LINE], *rest = NULL;
        int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

        if (fd >= 0)
                close(fd);
        if (n < 0) {
                fault("cannot read the kernel command line");
                return;
        }
        line[n] = '\0';
        for (char *option = strtok_r(line, " \n", &rest); option != NULL;
                option = strtok_r(NULL, " \n", &rest))
                apply_option(option);
}

int main(void)
{
        /* The kernel reaps what PID 1 inherits. */
        signal(SIGCHLD, SIG_IGN);
        power_start();
        memory_start();
        apply_command_line();
        disk_start();
        clock_start();
        server_start();
        say("ready");
        for (;;)
                pause();
}

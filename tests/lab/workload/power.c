/* SPDX-License-Identifier: Apache-2.0 */

/* The ways a guest ends: the power button (ACPI, seen as a key), and what the command port asks for. */

#include <fcntl.h>
#include <linux/input.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "workload.h"

/* Other programs of the guest (a database) get a signal that makes them end in order, and ten seconds. */
static void end_others(void)
{
        kill(-1, SIGINT);
        for (int i = 0; i < 100; i++) {
                if (waitpid(-1, NULL, WNOHANG) < 0)
                        return;
                sleep_until(monotonic_ns() + 100000000);
        }
}

_Noreturn static void end(int how, const char *word)
{
        disk_stop();
        end_others();
        sync();
        say("%s", word);
        reboot(how);
        /* The kernel does not come back from this; if it does, the test must see that the guest is stuck. */
        for (;;)
                pause();
}

void power_off(void)
{
        end(RB_POWER_OFF, "power off");
}

void power_reboot(void)
{
        end(RB_AUTOBOOT, "reboot");
}

void power_crash(void)
{
        int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);

        if (fd < 0 || write(fd, "c", 1) != 1)
                abort();
}

static void *button_loop(void *argument)
{
        int fd = (int)(intptr_t)argument;
        struct input_event event;

        while (read(fd, &event, sizeof(event)) == sizeof(event))
                if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
                        power_off();
        close(fd);
        return NULL;
}

void power_start(void)
{
        for (int i = 0; i < 8; i++) {
                char path[32];
                int fd;

                snprintf(path, sizeof(path), "/dev/input/event%d", i);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd >= 0)
                        start_thread(button_loop, (void *)(intptr_t)fd);
        }
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Makes the machines of a lab out of namespaces: labinit DIR NODE...
 *
 * The first process becomes the lab itself: PID 1 of a process namespace in which everything else lives, in the network namespace
 * of the "fabric" (switches and links). For each NODE it starts a child in namespaces of its own (network, mounts,
 * processes, host name): that machine's PID 1. All they do is to reap orphans. So the lab has one process whose
 * end takes everything with it: programs, namespaces, mounts; and a lab is found by the folder in
 * its command line, without a file that says which process it is.
 *
 * Returns when all machines exist; prints nothing; exit status 1 with a message when it could not. */

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* fork() into new namespaces: the child is PID 1 of its own. */
static pid_t fork_into(int namespaces)
{
        return (pid_t)syscall(SYS_clone, namespaces | SIGCHLD, NULL, NULL, NULL, 0);
}

static void fail(const char *what)
{
        fprintf(stderr, "labinit: %s: %s\n", what, strerror(errno));
        _exit(1);
}

static void become_machine(const char *name)
{
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                fail("making mounts private");
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                fail("mounting /proc");
        if (mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                fail("mounting /sys");
        if (sethostname(name, strlen(name)) < 0)
                fail("setting the host name");
        prctl(PR_SET_NAME, name);
}

/* PID 1 must take what its children leave behind. Nothing but SIGKILL from outside ends it. */
_Noreturn static void reap_for_ever(void)
{
        sigset_t child;

        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        for (;;) {
                while (waitpid(-1, NULL, WNOHANG) > 0)
                        ;
                sigwaitinfo(&child, NULL);
        }
}

/* Tells the waiting process that this machine, or all of the lab, is complete. */
static void report(int fd)
{
        if (write(fd, "", 1) != 1)
                _exit(1);
        close(fd);
}

static bool await(int fd)
{
        char byte;

        return read(fd, &byte, 1) == 1;
}

_Noreturn static void run_node(const char *name, int ready_fd)
{
        become_machine(name);
        report(ready_fd);
        reap_for_ever();
}

_Noreturn static void run_lab(char **nodes, int ready_fd)
{
        become_machine("fabric");
        for (; *nodes != NULL; nodes++) {
                int node_ready[2];
                pid_t pid;

                if (pipe(node_ready) < 0)
                        fail("making a pipe");
                pid = fork_into(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUTS);
                if (pid < 0)
                        fail("starting a machine");
                if (pid == 0) {
                        close(node_ready[0]);
                        close(ready_fd);
                        run_node(*nodes, node_ready[1]);
                }
                close(node_ready[1]);
                if (!await(node_ready[0]))
                        _exit(1);
                close(node_ready[0]);
        }
        report(ready_fd);
        reap_for_ever();
}

int main(int argc, char **argv)
{
        int ready[2];
        sigset_t child;
        pid_t pid;

        if (argc < 2) {
                fprintf(stderr, "usage: labinit DIR NODE...\n");
                return 2;
        }
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigprocmask(SIG_BLOCK, &child, NULL);
        if (pipe(ready) < 0)
                fail("making a pipe");
        pid = fork_into(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUTS);
        if (pid < 0)
                fail("making namespaces (this needs root)");
        if (pid == 0) {
                close(ready[0]);
                setsid();
                run_lab(argv + 2, ready[1]);
        }
        close(ready[1]);
        return await(ready[0]) ? 0 : 1;
}

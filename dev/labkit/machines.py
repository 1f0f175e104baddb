# SPDX-License-Identifier: Apache-2.0
"""The machines of a lab: namespaces kept by tests/lab/labinit.c, and the processes in them.

Nothing is remembered in files: a lab is found by its folder in the command line of its first process, a machine by its
name as its host's PID 1, a process by the process namespace it is in. So what a crash left behind is found as well."""

import contextlib
import os
import pathlib
import select
import signal
import subprocess

FABRIC = "fabric"


class LabError(Exception):
    """What went wrong with the lab, for people."""


def _read(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _pid_namespace(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _parent(pid):
    text = _read(f"/proc/{pid}/stat").decode(errors="replace")
    return int(text.rsplit(")", 1)[1].split()[1]) if ")" in text else 0


def command_line(pid):
    return _read(f"/proc/{pid}/cmdline").decode(errors="replace").split("\0")[:-1]


class Machines:
    """The machines of the lab in `folder`; they need not exist."""

    def __init__(self, folder):
        self.folder = str(folder)

    def create(self, labinit, names):
        """Makes the machines. The lab must not exist."""
        if self.root() is not None:
            raise LabError(f"there is a lab in {self.folder} already: dev/lab down --dir {self.folder}")
        # Not captured by a pipe: the lab would hold it open for ever.
        with open(pathlib.Path(self.folder) / "labinit.log", "w+", encoding="utf-8") as log:
            done = subprocess.run([str(labinit), self.folder, *names], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                  check=False)
            if done.returncode != 0:
                log.seek(0)
                raise LabError(f"cannot make the machines: {log.read().strip()}")

    def _members(self):
        """{pid: parent} of the first processes of the lab and its machines."""
        found = {}
        for pid in _pids():
            words = command_line(pid)
            if len(words) > 1 and os.path.basename(words[0]) == "labinit" and words[1] == self.folder:
                found[pid] = _parent(pid)
        return found

    def root(self):
        """PID of the lab's first process, or None."""
        members = self._members()
        return next((pid for pid, parent in members.items() if parent not in members), None)

    def all(self):
        """{name: pid of the machine's first process}, the fabric included."""
        members = self._members()
        return {FABRIC if parent not in members else _read(f"/proc/{pid}/comm").decode().strip(): pid
                for pid, parent in members.items()}

    def pid(self, name):
        machines = self.all()
        if name not in machines:
            known = ", ".join(sorted(machines)) or "none: is the lab up?"
            raise LabError(f"no machine {name!r} in this lab; there are: {known}")
        return machines[name]

    def enter(self, name):
        """The command prefix that runs a command on machine `name`."""
        namespaces = ("--mount", "--net", "--pid", "--uts")
        return ["nsenter", "--target", str(self.pid(name)), *namespaces, "--"]

    def run(self, name, *command, **options):
        """Runs a command on a machine to its end; its output as text. LabError with the output when it fails."""
        done = subprocess.run([*self.enter(name), *map(str, command)], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, **options)
        if done.returncode != 0:
            raise LabError(f"{name}: {' '.join(map(str, command))}: {done.stdout.strip()}")
        return done.stdout

    def start(self, name, log, *command, environment=None):
        """Starts a program on a machine as a service: child of the machine's first process, output into log."""
        with open(log, "ab") as output:
            subprocess.run([*self.enter(name), "setsid", "--fork", *map(str, command)], stdin=subprocess.DEVNULL,
                           stdout=output, stderr=output, env=environment, check=True)

    def processes(self, name):
        """PIDs (as seen here) of what runs on a machine, without its first process."""
        first = self.pid(name)
        namespace = _pid_namespace(first)
        return [pid for pid in _pids() if pid != first and _pid_namespace(pid) == namespace]

    def kill(self, pids):
        """SIGKILL, and waits until they are gone. A process number cannot be taken over in between: the descriptor
        is opened first, and what it means checked by whoever chose the numbers is then still what is killed."""
        for descriptor in [opened for opened in map(_open_pid, pids) if opened is not None]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], 30)
            os.close(descriptor)

    def destroy(self):
        """Ends the lab: its first process, and with it every process, namespace and mount in it."""
        while (root := self.root()) is not None:
            self.kill([root])


def _open_pid(pid):
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None

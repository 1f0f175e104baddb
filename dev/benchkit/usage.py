# SPDX-License-Identifier: Apache-2.0
"""What the programs on the lab's hosts use while something is measured: processor time and memory of each, bytes on a NIC.

Read from /proc every few milliseconds by a thread, because the processes of a migration end with it. The samples are
kept, so that a window can be laid over them when its limits are known."""

import mmap
import os
import pathlib
import threading
import time

INTERVAL_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def _text(path):
    try:
        return pathlib.Path(path).read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wire_bytes(lab, host, interface="eth0"):
    """Bytes that the NIC of a host has sent."""
    return int(lab.machines.run(host, "cat", f"/sys/class/net/{interface}/statistics/tx_bytes"))


def _cpu_s(pid):
    """User and system time so far, or None when the process has gone."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S if fields else None


def _memory_kib(pid):
    """{"VmRSS": KiB, "RssAnon": KiB}"""
    lines = dict(line.split(":", 1) for line in _text(f"/proc/{pid}/status").splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) for name in ("VmRSS", "RssAnon") if name in lines}


def _children(pid):
    return [int(word) for word in _text(f"/proc/{pid}/task/{pid}/children").split()]


def machine_busy_s():
    """Processor time that anything on this machine has used, hypervisors below it included (steal)."""
    fields = [int(word) for word in _text("/proc/stat").splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) * TICK_S


WARM_BYTES = 3 << 30  # three guests' worth
POPULATE_WRITE = getattr(mmap, "MADV_POPULATE_WRITE", 23)


def warm_memory():
    """Takes memory from the kernel and gives it back. On a virtual machine whose host takes back what lies free, the first touch
    of a page is twenty times as slow as the next, and whoever ran after a break would pay for that."""
    with mmap.mmap(-1, WARM_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(POPULATE_WRITE)


class Usage:
    """From start to stop(): every process of these hosts."""

    def __init__(self, lab, hosts):
        self._first = {host: lab.machines.pid(host) for host in hosts}
        self._names = {}  # pid: (host, program)
        self._cpu = {}  # pid: [(seconds since 1970, processor seconds), ...]
        self._peaks = {}  # (host, program): {"VmRSS", "RssAnon"}
        self._busy = []  # (seconds since 1970, processor seconds of the machine)
        self._stop = threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._stop.wait(INTERVAL_S):
            self._sample()

    def _processes(self, host):
        # Services are children of the machine's first process; movers and guests of the agent's.
        found, todo = [], [self._first[host]]
        while todo:
            children = _children(todo.pop())
            found += children
            todo += children
        return found

    def _sample(self):
        now = time.time()
        self._busy.append((now, machine_busy_s()))
        for host in self._first:
            for pid in self._processes(host):
                self._sample_process(host, pid, now)

    def _sample_process(self, host, pid, now):
        # A process can go between any two of these reads, and is another program before its exec.
        cpu, name, memory = _cpu_s(pid), _text(f"/proc/{pid}/comm").strip(), _memory_kib(pid)
        if cpu is None or not name:
            return
        self._names[pid] = host, name
        self._cpu.setdefault(pid, []).append((now, cpu))
        peak = self._peaks.setdefault((host, name), {})
        for kind, kib in memory.items():
            peak[kind] = max(peak.get(kind, 0), kib)

    def stop(self):
        self._stop.set()
        self._thread.join()
        self._sample()
        return self

    @staticmethod
    def _between(samples, begin, end):
        """Growth between two times; a series that begins later began at nothing."""
        before = [value for when, value in samples if when <= begin]
        until = [value for when, value in samples if when <= end] or [0]
        return max(until[-1] - (before[-1] if before else 0), 0)

    def cpu_s(self, host, begin, end):
        """Processor seconds of all programs of a host in this window."""
        return sum(self._between(samples, begin, end) for pid, samples in self._cpu.items()
                   if self._names.get(pid, ("",))[0] == host)

    def cpu_by_program_s(self, host, begin, end):
        """{program: processor seconds}"""
        total = {}
        for pid, samples in self._cpu.items():
            its_host, name = self._names.get(pid, ("", ""))
            if its_host == host:
                total[name] = total.get(name, 0) + self._between(samples, begin, end)
        return {name: round(value, 2) for name, value in total.items() if value >= TICK_S}

    def others_cpu_s(self, begin, end):
        """Processor seconds that went to anything but these hosts' programs: what disturbed the measurement."""
        return max(self._between(self._busy, begin, end) - sum(self.cpu_s(host, begin, end) for host in self._first), 0)

    def peaks_kib(self):
        """{HOST: {PROGRAM: {"VmRSS": KiB, "RssAnon": KiB}}}"""
        result = {host: {} for host in self._first}
        for (host, name), peak in self._peaks.items():
            result[host][name] = peak
        return result

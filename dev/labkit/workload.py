# SPDX-License-Identifier: Apache-2.0
"""A workload guest (tests/lab/workload) in a VM of the lab: made through the CLI, asked over its TCP ports from the client
machine, and the two witnesses of a migration outside it: a TCP session, and a ping every millisecond."""

import itertools
import json
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from . import guest, netns
from .lab import LabError, wait_for

COUNTER_PORT, COMMAND_PORT = 7000, 7001
BOOT_TIMEOUT_S = 90


def install(lab, name, host=None, datastore="shared"):
    """Copies the files of a guest (dev/guest) into a datastore as guests/NAME/; the folder there, relative."""
    base = lab.folder / "shared" if datastore == "shared" else lab.local_path(host)
    target = base / "guests" / name
    if not target.exists():
        shutil.copytree(guest.build(name), target)
    return f"guests/{name}"


class Session:
    """One TCP connection to the guest's counter, asked every few milliseconds by a thread until close(). The guest keeps
    count and sum of this very connection; any loss, repetition or other guest behind the address shows."""

    INTERVAL_S = 0.005
    # Longer than any pause of a healthy migration: an answer that takes longer means the connection is dead.
    PATIENCE_S = 120

    def __init__(self, pid, address, patience_s=PATIENCE_S):
        self.count = 0
        self.longest_gap_ms = 0.0
        self.error = None
        self._sum = 0
        self._boot = None
        self._stop = threading.Event()
        self._patience_s = patience_s
        self._socket = netns.connect(pid, (address, COUNTER_PORT), timeout_s=patience_s)
        self._stream = self._socket.makefile("rw", encoding="ascii", newline="\n")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        last = time.monotonic()
        try:
            while not self._stop.wait(self.INTERVAL_S):
                self._ask()
                now = time.monotonic()
                self.longest_gap_ms = max(self.longest_gap_ms, (now - last) * 1000)
                last = now
        except (OSError, ValueError) as error:
            self.error = str(error) or type(error).__name__

    def _ask(self):
        number = self.count * 7 + 1
        self._stream.write(f"{number}\n")
        self._stream.flush()
        words = self._stream.readline().split()
        self.count += 1
        self._sum += number
        self._boot = self._boot or (words[3] if len(words) == 4 else None)
        expected = [str(number), str(self.count), str(self._sum), self._boot]
        if words != expected:
            raise ValueError(f"the guest answered {words}, expected {expected}")

    def reset_gap(self):
        self.longest_gap_ms = 0.0

    def abandon(self):
        """Ends a session whose guest is known to be dead, without a judgement."""
        self._stop.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def close(self):
        """Ends the session; LabError when it did not live up to here."""
        self._stop.set()
        self._thread.join(self._patience_s + 5)
        self._socket.close()
        if self.error or self._thread.is_alive():
            raise LabError(f"the TCP session died after {self.count} answers: {self.error or 'no answer'}")


class Ping:
    """A ping every millisecond (or interval_s) from the client; what the guest's absence looked like on the wire."""

    def __init__(self, lab, address, interval_s=0.001):
        words, environment = lab.command("client", "ping", "-n", "-D", "-i", str(interval_s), address)
        # Into a file: a pipe that nobody reads is full after a second, and the ping would stand still.
        self._output = tempfile.TemporaryFile("w+", encoding="ascii")
        self._process = subprocess.Popen(words, env=environment, stdout=self._output)

    def stop(self):
        """{"replies", "lost", "longest_gap_ms", "usual_gap_ms"}: the times between replies."""
        # ping itself, not the nsenter before it: that one only waits.
        subprocess.run(["kill", "-INT", *_children(self._process.pid)], check=False)
        self._process.wait(30)
        with self._output:
            self._output.seek(0)
            output = self._output.read()
        times = [float(at) for at in re.findall(r"^\[(\d+\.\d+)\] \d+ bytes", output, re.M)]
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        if len(times) < 2 or not counts:
            raise LabError(f"the ping got no replies: {output[-300:]!r}")
        gaps = [(b - a) * 1000 for a, b in zip(times, times[1:])]
        return {"replies": len(times), "lost": int(counts[1]) - int(counts[2]), "longest_gap_ms": max(gaps),
                "usual_gap_ms": statistics.median(gaps)}


def _children(pid):
    done = subprocess.run(["pgrep", "--parent", str(pid)], text=True, stdout=subprocess.PIPE, check=False)
    return done.stdout.split() or [str(pid)]


_numbers = itertools.count()


def next_address():
    """One that no other of the last 200 guests of this process has; MAC addresses say little, see address_of()."""
    return f"192.168.77.{next(_numbers) % 200 + 20}"


def address_of(mac):
    """The address that a guest without guest.ip= gives itself (dev/guests/init). Two guests may come to the same one."""
    return f"192.168.77.{int(mac.split(':')[5], 16) % 200 + 20}"


class Workload:
    """A VM with a test guest. create() makes and starts it through the CLI."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.address = None

    def create(self, *options, host=None, memory="256M", append="", disks=("shared:64M,format=raw",), start=True,
               image="workload", firmware="bios", port_group="default"):
        """options: more for `drover vm create`; append: more for the kernel command line."""
        words = ["vm", "create", self.name, "--memory", memory, "--net", port_group, "--firmware", firmware,
                 *options]
        for disk in disks:
            words += ["--disk", disk]
        if image:
            folder = install(self.lab, image)
            line = (guest.build(image) / "append").read_text(encoding="ascii")
            self.address = next_address()
            append = f"{append} guest.ip={self.address}/24"
            words += ["--kernel", f"shared:{folder}/vmlinuz", "--initrd", f"shared:{folder}/initrd",
                      "--append", f"{line} {append}".strip()]
        self.lab.drover(*words, *(["--host", host] if host else []))
        if not self.address:
            self.address = address_of(self.document()["spec"]["nics"][0]["mac"])
        if start:
            self.start(host)
        return self

    def start(self, host=None):
        self.lab.drover("vm", "start", self.name, *(["--host", host] if host else []))
        self.wait_ready()

    def wait_ready(self, timeout_s=BOOT_TIMEOUT_S):
        wait_for(f"the guest of {self.name} to answer", self._answers, timeout_s)

    def _answers(self):
        try:
            return self.status(timeout_s=2)
        except (OSError, ValueError):
            return None

    def document(self):
        return self.lab.drover_json("vm", "show", self.name)

    def uid(self):
        return self.document()["uid"]

    def host(self):
        return self.document()["status"]["host"]

    def power(self):
        return self.document()["status"]["power"]

    # Inside the guest

    def ask(self, command, timeout_s=60.0):
        """The guest's one-line answer to a command of its command port."""
        with netns.connect(self.lab.machines.pid("client"), (self.address, COMMAND_PORT), timeout_s) as connection:
            connection.sendall(command.encode() + b"\n")
            return connection.makefile(encoding="ascii").readline().strip()

    def tell(self, command, timeout_s=60.0):
        """A command that the guest does not answer: reboot, poweroff, crash."""
        with netns.connect(self.lab.machines.pid("client"), (self.address, COMMAND_PORT), timeout_s) as connection:
            connection.sendall(command.encode() + b"\n")

    def do(self, command):
        answer = self.ask(command)
        if answer != "ok":
            raise LabError(f"{self.name}: {command}: {answer}")

    def status(self, timeout_s=10.0):
        return json.loads(self.ask("status", timeout_s))

    def verify(self):
        """All memory, all disk records, the clock: LabError with the guest's words when anything is wrong."""
        self.do("verify")

    def session(self, patience_s=Session.PATIENCE_S):
        return Session(self.lab.machines.pid("client"), self.address, patience_s)

    def ping(self):
        return Ping(self.lab, self.address)

    # Moves

    def migrate(self, to, *options):
        """Migrates and returns the result document; LabError when it fails."""
        return self.lab.drover_json("vm", "migrate", self.name, "--to", to, *options)["status"]["result"]

    def begin_migration(self, to, *options):
        """The name of the task of a migration that was only started."""
        return self.lab.drover_json("--no-wait", "vm", "migrate", self.name, "--to", to, *options)["name"]

    def task(self, name):
        return self.lab.drover_json("task", "show", name)

    def wait_task(self, name, timeout_s=120):
        """The task when it has ended."""
        def ended():
            task = self.task(name)
            return task if task["status"]["state"] in ("succeeded", "failed", "cancelled") else None
        try:
            return wait_for(f"task {name} to end", ended, timeout_s)
        except LabError as error:
            raise LabError(f"{error}; it is: {self.task(name)['status']}") from error

    def wait_phase(self, name, phases, timeout_s=60):
        """Until a migration is in one of these phases (or over)."""
        def there():
            status = self.task(name)["status"]
            return status if status["progress"].get("phase") in phases or status["finished"] else None
        return wait_for(f"task {name} to reach {' or '.join(phases)}", there, timeout_s, 0.02)

    def wait_sent(self, name, size, timeout_s=60):
        """Until a migration has sent so many bytes (or is over)."""
        def there():
            status = self.task(name)["status"]
            return status if status["progress"].get("bytes_wire", 0) >= size or status["finished"] else None
        return wait_for(f"task {name} to have sent {size} bytes", there, timeout_s, 0.02)

    def wait_replaced(self, name, n, timeout_s=60):
        """Until a migration has replaced n connections (or is over)."""
        def there():
            status = self.task(name)["status"]
            return status if status["progress"].get("reconnects", 0) >= n or status["finished"] else None
        return wait_for(f"task {name} to have replaced {n} connections", there, timeout_s, 0.02)

    def discard(self):
        """Ends and deletes the VM in whatever state it is; a VM that does not exist (any more) is fine."""
        if self.lab.run_drover("vm", "show", self.name).returncode == 3:
            return
        self.lab.run_drover("vm", "stop", self.name, "--force")
        self.lab.drover("vm", "delete", self.name)

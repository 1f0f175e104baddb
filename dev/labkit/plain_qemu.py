# SPDX-License-Identifier: Apache-2.0
"""QEMU on a lab's machine without drover: to test the guests themselves, and to compare with QEMU's own migration."""

import collections
import itertools
import json
import re
import select
import socket
import subprocess
import time

from . import guest, netns, qemu
from .lab import LabError, wait_for
from .workload import BOOT_TIMEOUT_S, COMMAND_PORT, Ping, Session, address_of

_numbers = itertools.count()
# No multiple of 256 KiB: QEMU before 9.0 loses dirty pages of such guests under TCG, see docs/vm-document.md.
MEMORY_KIB = 262152


class Qmp:
    """A QMP connection; one command at a time, events kept as QEMU sends them, with its own time stamps."""

    # QEMU does not answer while it writes its final phase, which a slow cable can make long.
    ANSWER_TIMEOUT_S = 120

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._pending = b""
        self._answers = collections.deque()
        self.events = []
        self._answer()
        self.execute("qmp_capabilities")

    def _receive(self, wait_s):
        """Takes what has come, all whole messages of it, waiting for at most wait_s; False when nothing came."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return False
        data = self._socket.recv(65536)
        if not data:
            raise LabError("QEMU closed its QMP connection")
        *lines, self._pending = (self._pending + data).split(b"\n")
        for message in map(json.loads, lines):
            (self.events if "event" in message else self._answers).append(message)
        return True

    def _answer(self):
        deadline = time.monotonic() + self.ANSWER_TIMEOUT_S
        while not self._answers:
            if not self._receive(max(deadline - time.monotonic(), 0)):
                raise LabError(f"QEMU did not answer for {self.ANSWER_TIMEOUT_S} s")
        return self._answers.popleft()

    def execute(self, command, **arguments):
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        answer = self._answer()
        if "error" in answer:
            raise LabError(f"QMP {command}: {answer['error']['desc']}")
        return answer["return"]

    def poll(self, wait_s=0.0):
        """Takes the events of one read, waiting for it."""
        self._receive(wait_s)

    def find_event(self, name, **data):
        """The last event of this name with these data, or None."""
        return next((event for event in reversed(self.events) if event["event"] == name and all(
            event.get("data", {}).get(key) == value for key, value in data.items())), None)

    def event_s(self, name, **data):
        """When that event was, by QEMU's clock, in seconds since 1970; None without one."""
        event = self.find_event(name, **data)
        return event and event["timestamp"]["seconds"] + event["timestamp"]["microseconds"] / 1e6

    def wait_event(self, name, timeout_s=60, **data):
        """Such an event, also one that came before."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.find_event(name, **data)):
            if time.monotonic() > deadline:
                raise LabError(f"no event {name} of QEMU in {timeout_s} s")
            self.poll(0.1)
        return found

    def close(self):
        self._socket.close()


def _try_qmp(path):
    try:
        return Qmp(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None


class PlainGuest:
    """A guest in a QEMU process of its own on a machine of the lab, with a tap on the bridge of that machine's uplink vm0.
    Its memory is a file (memory_file) that tests look into, or with private_memory what QEMU has by default."""

    MACHINE_OPTIONS = ""

    def __init__(self, lab, machine, folder, mac="52:54:00:77:00:63", binary=None, machine_type="pc-q35-7.2",
                 memory_kib=MEMORY_KIB, private_memory=False, image="workload"):
        self.lab, self.machine, self.folder, self.mac = lab, machine, folder, mac
        self.binary = binary or qemu.BINARY
        self.machine_type = machine_type
        self.memory_kib = memory_kib
        self.private_memory = private_memory
        self.image = image
        self.address = address_of(mac)
        self._name = f"plain{next(_numbers)}"
        self.memory_file = folder / f"{self._name}.ram"
        self.pid = None
        self.qmp = None
        self.disk = None

    def _memory(self):
        if self.private_memory:
            return ["-machine", f"{self.machine_type}{self.MACHINE_OPTIONS}", "-m", f"{self.memory_kib}K"]
        return ["-machine", f"{self.machine_type}{self.MACHINE_OPTIONS},memory-backend=pc.ram", "-m", f"{self.memory_kib}K", "-object",
                f"memory-backend-file,id=pc.ram,size={self.memory_kib}K,mem-path={self.memory_file},share=on"]

    def start(self, disk, append="", incoming=None, more=(), drive="format=raw"):
        """Starts QEMU; the guest boots, or waits for a migration from incoming ("defer"). drive: how the disk is opened."""
        self.disk = disk
        self._plug_tap()
        files = guest.build(self.image)
        line = f"{(files / 'append').read_text(encoding='ascii')} {append}".strip()
        socket_path = self.folder / f"{self._name}.qmp"
        words = [self.binary, "-name", f"guest={self._name},debug-threads=on", "-accel", "tcg", "-cpu", "qemu64",
                 *self._memory(), "-display", "none", "-nodefaults", "-qmp", f"unix:{socket_path},server=on,wait=off",
                 "-kernel", files / "vmlinuz", "-initrd", files / "initrd", "-append", line,
                 "-chardev", f"file,id=serial,path={self.folder / self._name}.serial.log",
                 "-drive", f"file={disk},{drive},if=none,id=disk",
                 "-netdev", f"tap,id=n,ifname={self._name},script=no,downscript=no", *self._devices(), *more]
        if incoming:
            words += ["-incoming", incoming]
        self.lab.machines.start(self.machine, self.folder / f"{self._name}.log", *words)
        self.qmp = wait_for("QEMU's QMP socket", lambda: _try_qmp(socket_path), 20)
        self.pid = self.lab.find(self.machine, f"qemu:{self._name}")[0]
        return self

    def _devices(self):
        """For chardev serial, drive disk, netdev n."""
        return ["-device", "isa-serial,chardev=serial", "-device", "virtio-blk-pci,drive=disk",
                "-device", f"virtio-net-pci,netdev=n,mac={self.mac}", "-device", "virtio-balloon-pci"]

    def _plug_tap(self):
        run = self.lab.machines.run
        bridge = re.search(r"master (\S+)", run(self.machine, "ip", "link", "show", "vm0"))
        if not bridge:
            run(self.machine, "ip", "link", "add", "plain", "type", "bridge", "forward_delay", "0")
            run(self.machine, "ip", "link", "set", "plain", "up")
            run(self.machine, "ip", "link", "set", "vm0", "master", "plain")
        run(self.machine, "ip", "tuntap", "add", self._name, "mode", "tap")
        run(self.machine, "ip", "link", "set", self._name, "master", bridge[1] if bridge else "plain", "up")

    def wait_ready(self, timeout_s=BOOT_TIMEOUT_S):
        wait_for("the guest to answer", self._answers, timeout_s)
        return self

    def _answers(self):
        try:
            return json.loads(self.ask("status", 2))
        except (OSError, ValueError):
            return None

    def ask(self, command, timeout_s=60.0):
        with netns.connect(self.lab.machines.pid("client"), (self.address, COMMAND_PORT), timeout_s) as connection:
            connection.sendall(command.encode() + b"\n")
            return connection.makefile(encoding="ascii").readline().strip()

    def status(self):
        return json.loads(self.ask("status"))

    def session(self):
        return Session(self.lab.machines.pid("client"), self.address)

    def ping(self):
        return Ping(self.lab, self.address)

    def reboot(self):
        """Reboots from inside and waits for the next life."""
        boot = self.status()["boot"]
        with netns.connect(self.lab.machines.pid("client"), (self.address, COMMAND_PORT)) as connection:
            connection.sendall(b"reboot\n")
        wait_for("the guest to reboot", lambda: (self._answers() or {"boot": boot})["boot"] != boot, BOOT_TIMEOUT_S)

    def migrate_to(self, other, address, port, timeout_s=120):
        """QEMU's own migration, pre-copy with its defaults but for the rate limit. query-migrate of the source at the end."""
        other.qmp.execute("migrate-incoming", uri=f"tcp:0.0.0.0:{port}")
        self.qmp.execute("migrate-set-parameters", **{"max-bandwidth": 0})
        self.qmp.execute("migrate", uri=f"tcp:{address}:{port}")

        def ended():
            state = self.qmp.execute("query-migrate")
            return state if state.get("status") in ("completed", "failed", "cancelled") else None
        return wait_for("QEMU's migration to end", ended, timeout_s, 0.05)

    def kill(self):
        if self.qmp:
            self.qmp.close()
        if self.pid:
            self.lab.machines.kill([self.pid])
        subprocess.run([*self.lab.machines.enter(self.machine), "ip", "link", "delete", self._name], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

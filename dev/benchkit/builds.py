# SPDX-License-Identifier: Apache-2.0
"""The build workload: gcc in the guest compiles the files of this repository's test guest, one after the other, each from a fresh
copy on the guest's disk. Like the build of a kernel it starts many short programs, fills the page cache and never waits; unlike
it, it is small enough for a guest of 1 GiB without hardware support. (dev/guests/build-server is the guest's part.)"""

import socket
import time

from labkit import guest as guests
from labkit.lab import wait_for

from . import clients
from .clients import Client, both

PORT = 7002
# A second or two for each file, without hardware support.
SETTLE_S = 5.0
READY_TIMEOUT_S = 120
PATIENCE_S = 120
# Of the files, compiled again after each move; the clients compile all of them while it lasts.
VERIFIED = slice(0, 2)


class Connection:
    def __init__(self, connected):
        self._socket, self._replies = connected, connected.makefile("r", encoding="ascii")

    def compile(self, name):
        """The checksum of what a file compiled to; ValueError when the compiler failed."""
        self._socket.sendall(name.encode() + b"\n")
        reply = self._replies.readline().strip()
        if not reply.startswith("ok "):
            raise ValueError(f"{name}: {reply!r}")
        return reply

    def close(self):
        self._replies.close()
        self._socket.close()


class Requester:
    """For clients.py: one file after the other."""

    def __init__(self, address, *names):
        self._names, self._objects, self._turn = names, {}, 0
        self._connection = Connection(socket.create_connection((address, PORT), PATIENCE_S))

    def request(self):
        name = self._names[self._turn % len(self._names)]
        self._turn += 1
        self._objects.setdefault(name, []).append(self._connection.compile(name))
        return 1

    def state(self):
        return self._objects


class Work:
    def __init__(self, lab, guest):
        self._lab, self._guest = lab, guest
        self._files = sorted(path.name for path in guests.SOURCES.glob("*.c"))
        self._objects = {}  # file: what it compiled to at first
        self._wrong = []
        self._client = None
        self._mark = 0.0

    def _connect(self):
        return Connection(clients.connect(self._lab, self._guest, PORT, PATIENCE_S))

    def _compile(self, names):
        connection = self._connect()
        objects = {name: connection.compile(name) for name in names}
        connection.close()
        return objects

    def begin(self):
        wait_for("the guest's build service to answer", lambda: clients.answers(self._lab, self._guest, PORT), READY_TIMEOUT_S)
        self._objects = self._objects or self._compile(self._files)

    def settle(self):
        """Builds run, and have been for a while."""
        if self._client is None:
            self._client = Client(self._lab, "builds", self._guest.address, *self._files)
        time.sleep(SETTLE_S)
        self._mark = time.time()

    def seen(self):
        began, end = self._client.began, time.time()
        saw = self._client.stop()
        self._client = None
        self._wrong += [name for name, objects in saw["state"].items() if set(objects) != {self._objects[name]}]
        self._wrong += [saw["error"]] if saw["error"] else []
        return {**both(saw["samples"], began, self._mark, end, 1 if saw["error"] else 0), "error": saw["error"]}

    def rest(self):
        if self._client:
            self.seen()

    def verify(self):
        """No build failed, and what is compiled is still the same bytes."""
        return not self._wrong and self._compile(self._files[VERIFIED]).items() <= self._objects.items()

    def end(self):
        self.rest()

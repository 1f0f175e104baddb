# SPDX-License-Identifier: Apache-2.0
"""The redis workload: redis in the guest holds sessions in memory, a client rewrites them at a set rate and knows what each must be.

The order of writes is fixed, so their number tells which version each session has."""

import hashlib
import socket
import time

from labkit.lab import wait_for

from . import clients
from .clients import Client, both

PORT = 6379
SESSIONS = 65536
# Has no factor in common with their number: write i goes to session i * STEP % SESSIONS, an order that is none in memory.
STEP = 40503
# Of about 1 KiB each. An emulated guest at this rate is well below what it can do.
WRITES_PER_S = 4000
ROUND_S = 0.01
FILL_ROUND = 512
SETTLE_S = 3.0
READY_TIMEOUT_S = 120
# Longer than any pause: after that the connection is dead.
PATIENCE_S = 60


def session(number, version):
    """What a web application might keep: names and paths that repeat, identifiers that do not."""
    secret = hashlib.shake_128(b"%d:%d" % (number, version)).hexdigest(320)
    return (f'{{"session": "{secret[:64]}", "user": {number}, "version": {version}, "role": "customer", "language": "en", '
            f'"visited": ["/", "/products", "/products/{number % 97}", "/basket"], "basket": [{{"item": {number % 1009}, '
            f'"count": 1, "price": "19.90", "currency": "EUR"}}], "token": "{secret[64:]}"}}').encode()


def version_after(n_writes, number):
    """Of a session, after so many writes in all; each was filled in as version 0."""
    first = number * pow(STEP, -1, SESSIONS) % SESSIONS
    return (n_writes - first + SESSIONS - 1) // SESSIONS if n_writes > first else 0


def _command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Connection:
    def __init__(self, connected):
        self._socket, self._replies = connected, connected.makefile("rb")

    def write(self, versions):
        """Sets sessions, [(number, version), ...]; ValueError when redis does not acknowledge one."""
        self._socket.sendall(b"".join(_command(b"SET", b"session:%d" % number, session(number, version))
                                      for number, version in versions))
        for _ in versions:
            reply = self._replies.readline()
            if reply != b"+OK\r\n":
                raise ValueError(f"redis answered a write with {reply!r}")

    def read(self, numbers):
        """The contents of sessions."""
        self._socket.sendall(b"".join(_command(b"GET", b"session:%d" % number) for number in numbers))
        for _ in numbers:
            size = int(self._replies.readline()[1:])
            yield self._replies.read(size + 2)[:-2] if size >= 0 else None

    def close(self):
        self._replies.close()
        self._socket.close()


class Requester:
    """For clients.py: goes on writing where another one ended."""

    def __init__(self, address, n_writes):
        self._n_writes = int(n_writes)
        self._connection = Connection(socket.create_connection((address, PORT), PATIENCE_S))

    def request(self):
        count = int(WRITES_PER_S * ROUND_S)
        self._connection.write([(i * STEP % SESSIONS, i // SESSIONS + 1) for i in range(self._n_writes, self._n_writes + count)])
        self._n_writes += count
        return count

    def state(self):
        return self._n_writes


class Work:
    def __init__(self, lab, guest):
        self._lab, self._guest = lab, guest
        self._n_writes, self._errors = 0, []
        self._client = None
        self._mark = 0.0

    def _connect(self):
        return Connection(clients.connect(self._lab, self._guest, PORT, PATIENCE_S))

    def begin(self):
        wait_for("the guest's redis to answer", lambda: clients.answers(self._lab, self._guest, PORT), READY_TIMEOUT_S)
        connection = self._connect()
        for first in range(0, SESSIONS, FILL_ROUND):
            connection.write([(number, 0) for number in range(first, first + FILL_ROUND)])
        connection.close()

    def settle(self):
        """Writes come in, and have been for a while."""
        if self._client is None:
            self._client = Client(self._lab, "store", self._guest.address, self._n_writes, round_s=ROUND_S)
        time.sleep(SETTLE_S)
        self._mark = time.time()

    def seen(self):
        began, end = self._client.began, time.time()
        saw = self._client.stop()
        self._client, self._n_writes = None, saw["state"]
        self._errors += [saw["error"]] if saw["error"] else []
        return {**both(saw["samples"], began, self._mark, end, len(self._errors)), "error": saw["error"]}

    def rest(self):
        if self._client:
            self.seen()

    def verify(self):
        """No write was lost, and every session is what was last acknowledged."""
        connection, intact = self._connect(), not self._errors
        for first in range(0, SESSIONS, FILL_ROUND):
            numbers = range(first, first + FILL_ROUND)
            for number, found in zip(numbers, connection.read(numbers)):
                intact = intact and found == session(number, version_after(self._n_writes, number))
        connection.close()
        return intact

    def end(self):
        self.rest()

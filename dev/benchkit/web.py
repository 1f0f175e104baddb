# SPDX-License-Identifier: Apache-2.0
"""The web workload: nginx in the guest serves files out of its memory, wrk on the client machine asks for them."""

import contextlib
import hashlib
import http.client
import json
import pathlib
import subprocess
import time

from labkit import guest as guests
from labkit import netns
from labkit.lab import LabError, wait_for
from labkit.machines import command_line

SCRIPT = pathlib.Path(__file__).with_name("wrk.lua")
CONNECTIONS = 4
# So that every system meets the same load; an emulated guest at this rate is well below what it can do.
REQUESTS_PER_S = 60
SETTLE_S = 3.0
READY_TIMEOUT_S = 120
# What takes longer counts as lost.
TIMEOUT_S = 10
END_TRIES = 30


class Work:
    def __init__(self, lab, guest):
        self._lab, self._guest = lab, guest
        self._wrk = None
        self._before = {}
        self._digest = None

    def _answers(self):
        try:
            netns.connect(self._lab.machines.pid("client"), (self._guest.address, 80), 2).close()
        except OSError:
            return False
        return True

    def _fetch_all(self):
        """A digest of every file that there is; reading them also brings them into the guest's memory."""
        connection = http.client.HTTPConnection(self._guest.address, timeout=60)
        connection.sock = netns.connect(self._lab.machines.pid("client"), (self._guest.address, 80), 60)
        digest = hashlib.sha256()
        for kind, count in guests.WEB_FILES.items():
            for number in range(count):
                connection.request("GET", f"/{number}.{kind}")
                answer = connection.getresponse()
                digest.update(b"%d:" % answer.status + answer.read())
        connection.close()
        return digest.hexdigest()

    def begin(self):
        wait_for("the guest's web server to answer", self._answers, READY_TIMEOUT_S)
        self._digest = self._digest or self._fetch_all()

    def _load(self):
        words = ["wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", "86400", "--timeout", f"{TIMEOUT_S}s",
                 "--script", str(SCRIPT), f"http://{self._guest.address}", "--",
                 str(CONNECTIONS * 1000 // REQUESTS_PER_S), *(f"{kind}:{count}" for kind, count in guests.WEB_FILES.items())]
        return subprocess.Popen([*self._lab.machines.enter("client"), *words], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def _interrupt(self):
        pids = {pid: command_line(pid) for pid in self._lab.machines.processes("client")}
        mine = [pid for pid, line in pids.items() if line and line[0].endswith("wrk") and f"http://{self._guest.address}" in line]
        subprocess.run(["kill", "-INT", *map(str, mine)], check=False, stderr=subprocess.DEVNULL)

    def _ended(self):
        """Ends wrk; what it saw."""
        for _ in range(END_TRIES):
            self._interrupt()
            # wrk misses a signal that comes just before it goes to sleep.
            with contextlib.suppress(subprocess.TimeoutExpired):
                output = self._wrk.communicate(timeout=2)[0]
                break
        else:
            raise LabError("wrk did not end")
        self._wrk = None
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if not lines:
            raise LabError(f"wrk ended with {output[-300:]!r}")
        return json.loads(lines[-1])

    def settle(self):
        """Requests come in, and have been for a while. wrk sums up when it ends: one counts before, another one while the
        guest moves."""
        if self._wrk:
            self._ended()
        self._wrk = self._load()
        time.sleep(SETTLE_S)
        self._before = self._ended()
        self._wrk = self._load()

    def seen(self):
        return {**self._ended(), "before": self._before}

    def rest(self):
        if self._wrk:
            self._ended()

    def verify(self):
        """All files are what they were when the guest had just read them from its disk."""
        return self._fetch_all() == self._digest

    def end(self):
        self.rest()

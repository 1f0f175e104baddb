# SPDX-License-Identifier: Apache-2.0
"""The workload program of the guest fills memory and goes on writing to a part of it."""

import json
import time

from labkit.lab import LabError

SETTLE_S = 2.0  # after the guest began its work, before the migration


class MemoryWork:
    def __init__(self, _lab, guest, memory):
        """memory: MiB filled, its content, pages written a second, to how many MiB."""
        self._guest = guest
        self._memory, self._content, self._rate, self._span = memory
        self._before, self._marks = {}, None

    def _do(self, command):
        answer = self._guest.ask(command)
        if answer != "ok":
            raise LabError(f"the guest answered {command!r} with {answer!r}")

    def _status(self):
        return json.loads(self._guest.ask("status")), time.monotonic()

    def begin(self):
        self._do("dirty 0")
        self._do(f"memory {self._memory} {self._content}")

    def settle(self):
        """Hard at work, and has been for a while."""
        self._do(f"dirty {self._rate} {self._span} random line")
        since = self._status()
        time.sleep(SETTLE_S)
        self._before = self._rates(since, self._status())
        self._do("clock-reset")
        self._marks = self._status()

    def _rates(self, since, until):
        (first, begin), (last, end) = since, until
        rates = {name: (last[key] - first[key]) / (end - begin) for name, key in (
            ("writes_per_s", "page_writes"), ("records_per_s", "records_written"))}
        return {"per_s": round(rates["writes_per_s" if self._rate else "records_per_s"], 1),
                "writes_per_s": round(rates["writes_per_s"]), "records_per_s": round(rates["records_per_s"], 1)}

    def seen(self):
        """How the guest fared since settle()."""
        until = self._status()
        return {**self._rates(self._marks, until), "longest_tick_ms": until[0]["longest_tick_ms"], "before": self._before}

    def rest(self):
        self._do("dirty 0")

    def verify(self):
        return self._guest.ask("verify") == "ok"

    def end(self):
        self.rest()

# SPDX-License-Identifier: Apache-2.0
"""The database workload: PostgreSQL in the guest, pgbench on the client machine, which goes on while the guest is moved."""

import re
import shutil
import statistics
import subprocess
import time

from labkit import guest as guests
from labkit.lab import LabError, wait_for
from labkit.machines import command_line

SCALE = 3
CLIENTS = 4
# So that every system meets the same number of writes; an emulated guest on this rate is well below what it can do.
TRANSACTIONS_PER_S = 60
SETTLE_S = 3.0
READY_TIMEOUT_S = 180
BALANCES = ("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), "
            "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")


def disk(lab):
    """A copy of the guest's disk for one guest, in the shared datastore."""
    folder = lab.folder / "shared/bench"
    folder.mkdir(exist_ok=True)
    path = folder / f"postgres{len(list(folder.iterdir()))}.qcow2"
    shutil.copy(guests.build("postgres") / "disk.qcow2", path)
    return path


class Work:
    def __init__(self, lab, guest):
        self._lab, self._guest = lab, guest
        self._pgbench = None
        self._errors = []

    def _run(self, program, *words):
        return self._lab.machines.run("client", program, "-h", self._guest.address, "-U", "postgres", *words)

    def _answers(self):
        try:
            return self._run("pg_isready", "-q", "-t", "2") == ""
        except LabError:
            return False

    def begin(self):
        wait_for("the guest's database to answer", self._answers, READY_TIMEOUT_S)
        self._run("pgbench", "-i", "-q", "-s", str(SCALE), "postgres")

    def settle(self):
        """pgbench at work, and has been for a while."""
        words = ["pgbench", "-h", self._guest.address, "-U", "postgres", "-n", "-c", str(CLIENTS), "-T", "86400", "-R",
                 str(TRANSACTIONS_PER_S), "-P", "1", "postgres"]
        self._pgbench = subprocess.Popen(
            [*self._lab.machines.enter("client"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        time.sleep(SETTLE_S)

    def seen(self):
        """Ends pgbench; how it fared while it ran."""
        alive = self._pgbench.poll() is None
        self._kill()
        output = self._pgbench.communicate()[0]
        seconds = [(float(rate), float(latency)) for rate, latency in re.findall(
            r"^progress: .* ([\d.]+) tps, lat ([\d.]+) ms", output, re.M)]
        errors = re.findall(r"^pgbench: error.*", output, re.M)
        if not alive and not errors:
            errors = [output[-300:]]
        self._errors = errors
        return {"transactions_per_s": round(statistics.mean(rate for rate, _ in seconds), 1) if seconds else None,
                "slowest_second_ms": max((latency for _, latency in seconds), default=None), "errors": errors}

    def _kill(self):
        words = {pid: command_line(pid) for pid in self._lab.machines.processes("client")}
        self._lab.machines.kill([pid for pid, line in words.items() if line and line[0].endswith("pgbench")])

    def verify(self):
        """No client saw an error, and all four tables agree on the sum of what was ever added."""
        sums = self._run("psql", "-At", "-c", BALANCES, "postgres").strip().split("|")
        return not self._errors and len(set(sums)) == 1

    def end(self):
        self._kill()

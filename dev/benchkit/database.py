# SPDX-License-Identifier: Apache-2.0
"""The database workload: PostgreSQL in the guest, pgbench on the client machine, which goes on while the guest is moved."""

import pathlib
import re
import subprocess
import tempfile
import time

from labkit.lab import LabError, wait_for
from labkit.machines import command_line

from .clients import both

SCALE = 3
CLIENTS = 4
# So that every system meets the same number of writes; an emulated guest on this rate is well below what it can do.
TRANSACTIONS_PER_S = 60
SETTLE_S = 3.0
READY_TIMEOUT_S = 180
BALANCES = ("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches), "
            "(SELECT sum(tbalance) FROM pgbench_tellers), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")


class Work:
    def __init__(self, lab, guest):
        self._lab, self._guest = lab, guest
        self._pgbench = self._log = None
        self._began = self._mark = 0.0
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
        self.rest()
        self._log = tempfile.TemporaryDirectory(prefix="drover-pgbench-")
        words = ["pgbench", "-h", self._guest.address, "-U", "postgres", "-n", "-c", str(CLIENTS), "-T", "86400", "-R",
                 str(TRANSACTIONS_PER_S), "--log", "--log-prefix", f"{self._log.name}/log", "postgres"]
        self._began = time.time()
        self._pgbench = subprocess.Popen(
            [*self._lab.machines.enter("client"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        time.sleep(SETTLE_S)
        self._mark = time.time()

    def _transactions(self):
        """(when it ended, its latency in s, 1) of each in pgbench's log. The time that it waited for its turn, because the guest
        could not keep up with the rate, is no part of the latency: it would tell how long pgbench has been running."""
        lines = [line.split() for path in pathlib.Path(self._log.name).iterdir()
                 for line in path.read_text(encoding="ascii").splitlines()]
        return [(int(words[4]) + int(words[5]) / 1e6, (int(words[2]) - int(words[6])) / 1e6, 1) for words in lines if len(words) == 7]

    def seen(self):
        """Ends pgbench; how it fared while it ran."""
        alive, end = self._pgbench.poll() is None, time.time()
        self._end_pgbench()
        output = self._pgbench.communicate()[0]
        errors = re.findall(r"^pgbench: error.*", output, re.M)
        if not alive and not errors:
            errors = [output[-300:]]
        self._errors, self._pgbench = errors, None
        seen = both(self._transactions(), self._began, self._mark, end, len(errors))
        self._log.cleanup()
        return {**seen, "transactions_per_s": seen["per_s"], "errors": errors}

    def _end_pgbench(self):
        # As if its time were up: then it ends its transactions and writes its log to the end.
        words = {pid: command_line(pid) for pid in self._lab.machines.processes("client")}
        mine = [pid for pid, line in words.items() if line and line[0].endswith("pgbench") and self._guest.address in line]
        subprocess.run(["kill", "-ALRM", *map(str, mine)], check=False, stderr=subprocess.DEVNULL)

    def rest(self):
        if self._pgbench:
            self.seen()

    def verify(self):
        """No client saw an error, and all four tables agree on the sum of what was ever added."""
        sums = self._run("psql", "-At", "-c", BALANCES, "postgres").strip().split("|")
        return not self._errors and len(set(sums)) == 1

    def end(self):
        self.rest()

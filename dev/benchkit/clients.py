# SPDX-License-Identifier: Apache-2.0
"""How the clients of a guest see its move: requests answered and lost, and their latency, before and while it moves.

A client is a process of its own on the client machine, so that nothing that the bench does meanwhile delays it: this file run as
a program. It asks until its standard input ends, then prints what it saw."""

import importlib
import json
import math
import os
import pathlib
import select
import subprocess
import sys
import time

from labkit import netns

DEV = pathlib.Path(__file__).resolve().parent.parent


def percentile(values, share):
    """The smallest value that at least this share of them does not exceed; None of nothing."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


def view(samples, begin, end):
    """What clients saw between two times. samples: (when answered, latency in s, requests answered)."""
    inside = [(latency, n) for when, latency, n in samples if begin <= when <= end]
    latencies = [latency * 1000 for latency, n in inside for _ in range(n)]
    return {"per_s": round(len(latencies) / max(end - begin, 1e-3), 1),
            **{name: value if value is None else round(value, 2) for name, value in (
                ("p50_ms", percentile(latencies, 0.5)), ("p99_ms", percentile(latencies, 0.99)),
                ("slowest_ms", max(latencies, default=None)))}}


def both(samples, begin, mark, end, lost):
    """As `guest` of a row: while it moved, and before."""
    return {**view(samples, mark, end), "lost": lost, "before": view(samples, begin, mark)}


def connect(lab, guest, port, timeout_s):
    """A connection to the guest from the client machine."""
    return netns.connect(lab.machines.pid("client"), (guest.address, port), timeout_s)


def answers(lab, guest, port):
    """Whether somebody listens there."""
    try:
        connect(lab, guest, port, 2).close()
    except OSError:
        return False
    return True


class Client:
    """Such a process. MODULE.Requester(address, *arguments) asks: its request() does one round and returns how many were answered,
    its state() what the bench must know afterwards. With round_s rounds begin so far apart, or as soon as the one before has
    ended: what could not be done in time is not made up for."""

    def __init__(self, lab, module, address, *arguments, round_s=0.0):
        words = ["env", f"PYTHONPATH={DEV}", sys.executable, "-m", "benchkit.clients", module, address, str(round_s),
                 *map(str, arguments)]
        self.began = time.time()
        self._process = subprocess.Popen([*lab.machines.enter("client"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True)

    def stop(self):
        """{"samples", "error", "state"}"""
        output = self._process.communicate()[0]
        return json.loads(output)


def main(module, address, round_s, *arguments):
    requester = importlib.import_module(f"benchkit.{module}").Requester(address, *arguments)
    samples, error, due = [], None, time.time()
    try:
        while not select.select([sys.stdin], [], [], max(due - time.time(), 0))[0]:
            asked = time.time()
            due = max(due + float(round_s), asked)
            answered = requester.request()
            now = time.time()
            samples.append((now, now - asked, answered))
    except (OSError, ValueError) as failure:
        error = str(failure) or type(failure).__name__
    print(json.dumps({"samples": samples, "error": error, "state": requester.state()}))


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main(*sys.argv[1:])

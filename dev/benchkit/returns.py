# SPDX-License-Identifier: Apache-2.0
"""Guests that come back: each goes to the other host, all of them work there for a while, and each comes back. drover's hosts may
keep the memory of guests that leave (checkpoint-space); QEMU knows nothing of earlier visits."""

import contextlib
import dataclasses
import tempfile
import time

from . import limit, moves
from .boots import MEMORY_KIB, booted, work_of
from .plan import LINKS, SYSTEMS, WORKLOADS

TELL_S = 60


@dataclasses.dataclass
class _Stay:
    """A guest on its visit."""
    workload: str
    system: str
    guest: object
    work: object
    left: object = None  # limit.Left, of the first guest of a workload
    first: dict = dataclasses.field(default_factory=dict)  # the row of the way there


def run_returns(bench, lab, link, version, wanted):
    """bench: the migration.Bench whose rows these become; wanted: {workload: systems}."""
    for number in range(1, bench.choice.n_runs(link, "return") + 1):
        with contextlib.ExitStack() as stack:
            stays = [_boot(stack, lab, link, version, workload, system, place)
                     for place, (workload, system) in enumerate((w, s) for w, systems in wanted.items() for s in systems)]
            bench.compare_devices([stay.guest for stay in stays])
            for stay in stays:
                _leave(bench, stack, lab, link, stay, stays)
            _stay_away(bench, stays)
            for stay in stays:
                _come_back(bench, lab, link, stay, number)


def _boot(stack, lab, link, version, workload, system, place):
    guest = stack.enter_context(booted(lab, version, WORKLOADS[workload].guest, SYSTEMS[system][1] == "drover", place))
    work = work_of(workload, LINKS[link], lab, guest)
    work.begin()
    return _Stay(workload, system, guest, work)


def _leave(bench, stack, lab, link, stay, stays):
    if not any(other.left for other in stays if other.workload == stay.workload):
        file = stack.enter_context(tempfile.TemporaryFile())
        stay.left = limit.Left(stay.guest.pid, MEMORY_KIB << 10, file)
    stay.work.settle()
    stay.first = moves.measure(lab, [stay.guest], SYSTEMS[stay.system][1], LINKS[link].limit_s)
    stay.work.rest()
    bench.progress(f"{link:<18}{'return':<7}{stay.workload:<15}{stay.system:<24}left:  " + (
        f"{stay.first['total_ms']:>8.0f} ms, {stay.first['bytes_wire'] / 1e6:>6.1f} MB" if stay.first["finished"]
        else stay.first["status"]))


def _stay_away(bench, stays):
    """All are at work."""
    for stay in stays:
        stay.work.settle()
    ends = time.monotonic() + bench.choice.away_s
    while (rest := ends - time.monotonic()) > 0:
        bench.progress(f"guests are away for {rest:.0f} s more")
        time.sleep(min(rest, TELL_S))
    for stay in stays:
        stay.work.rest()


def _come_back(bench, lab, link, stay, number):
    key = "return", stay.workload, link
    if not stay.first["finished"]:
        return
    bench.measure(lab, [stay.guest], [stay.work], key, stay.system, number, left=stay.left, away_s=bench.choice.away_s,
                  first_bytes_wire=stay.first["bytes_wire"], first_total_ms=stay.first["total_ms"])
    if SYSTEMS[stay.system][1] == "drover" and number == bench.choice.n_runs(link, "return"):
        bench.check(lab, [stay.guest], [stay.work], key, stay.system)

# SPDX-License-Identifier: Apache-2.0
"""The migration bench: the same guest, over the same cable, moved by each system in turn.

A guest is booted once for each link and QEMU version, once under plain QEMU and once under drover, and then moved to and fro
between the same two hosts: each workload, each run, each mode. After every move it checks all that it has.

Four guests at once are as one guest, of which there are four. Guests that come back are booted for each run, and all of them are
away at the same time, because that takes ten minutes (returns.py)."""

import concurrent.futures
import contextlib
import os
import pathlib
import platform
import subprocess
import tempfile
import time

from labkit import qemu
from labkit.lab import Lab, LabError
from labkit.workload import Ping

from . import limit, moves, plan
from .boots import MAX_PAUSE_MS, MEMORY_KIB, HOSTS, booted, devices, work_of
from .plan import LINKS, SYSTEMS, VERSIONS
from .returns import run_returns
from .usage import warm_memory

PING_INTERVAL_S = 0.002
CHECKPOINT_SPACE = "4G"  # on each host, where guests come back
SIBLING_SPACE = "2G"  # on each host, where several guests of one tenant move at once


def machine():
    """What the rows were measured on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit = subprocess.run(["git", "-C", pathlib.Path(__file__).parent, "describe", "--always", "--dirty"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.strip()
    return {"cpu": model, "cpus": os.cpu_count(), "memory_bytes": memory, "kernel": platform.release(),
            "accelerator": "tcg", "load1_at_start": os.getloadavg()[0], "started": time.strftime("%Y-%m-%dT%H:%M:%SZ",
                                                                                              time.gmtime()),
            "qemu": {version: ".".join(map(str, qemu.version(qemu.find(version)))) for version in VERSIONS},
            "commit": commit or None}


def all_at_once(function, items):
    """function of each, in threads; the results in order."""
    with concurrent.futures.ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(function, items))


def together(views):
    """What the clients of several guests saw, as if it were one: the sum of the work, the worst of the rest."""
    if len(views) == 1:
        return views[0]

    def worst(name):
        return max((view[name] for view in views if view.get(name) is not None), default=None)

    return {"per_s": round(sum(view["per_s"] for view in views), 1), "p50_ms": worst("p50_ms"), "p99_ms": worst("p99_ms"),
            "slowest_ms": worst("slowest_ms"), "lost": sum(view.get("lost", 0) for view in views),
            "before": {"per_s": round(sum(view["before"]["per_s"] for view in views), 1)}, "each": views}


class Bench:
    """rows is what was measured, notes what was left out and why, limits what could not be avoided."""

    def __init__(self, choice, say, save):
        """choice: plan.Choice. say(line) tells people; save(bench) is called after each row."""
        self.choice, self.say, self.save = choice, say, save
        self.rows, self.checks, self.notes, self.limits = [], [], [], {}
        self.failures = []  # links and cases that ended early
        self._devices = None  # that all guests have
        self._lost = set()  # modes of QEMU that need no slower link
        self._begun = time.monotonic()

    def run(self):
        for link in self.choice.links:
            for case in self.choice.cases:
                for line in self.choice.left_out(case, link):
                    self._note(line)
                try:
                    self._run_link(case, link)
                except (LabError, OSError, subprocess.SubprocessError) as error:
                    # Two hours should not be lost with one guest; what was measured stays, and the exit status tells.
                    self.failures.append(f"{link}, {case}: {error}")
                    self._note(f"FAILED, and left: {link}, {case}: {error}")
            if link == "1gbit" and not self.choice.all and any(map(self._is_slower, self.choice.links)):
                self._find_losers()

    def document(self, about):
        return {"machine": about, "devices": self._devices, "max_pause_ms": MAX_PAUSE_MS, "memory_kib": MEMORY_KIB, "runs": self.rows,
                "untimed_checks": self.checks, "notes": self.notes, "failures": self.failures, "limits": list(self.limits.values())}

    def _note(self, text):
        self.notes.append(text)
        self.say(text)

    def progress(self, text):
        minutes, seconds = divmod(int(time.monotonic() - self._begun), 60)
        self.say(f"{minutes:3}:{seconds:02} {text}")

    # What is left of the choice

    def wanted(self, case, link, version):
        """{workload: systems}, without those that lost at 1 Gbit/s on slower links."""
        found = {workload: [system for system in systems if system not in self._lost or not self._is_slower(link)]
                 for workload, systems in self.choice.wanted(case, link, version).items()}
        return {workload: systems for workload, systems in found.items() if systems}

    @staticmethod
    def _is_slower(link):
        return (LINKS[link].bits_per_s or 1e12) < 1e9

    def _find_losers(self):
        """Modes of QEMU that were neither the fastest nor the thriftiest of any workload."""
        best, tried = set(), set()
        for workload in self.choice.workloads:
            for version in VERSIONS:
                rows = [row for row in self.rows if (row["workload"], row["link"], row["case"]) == (workload, "1gbit", "single")
                        and row["system"].startswith(f"qemu{version}")]
                tried |= {row["system"] for row in rows}
                ended = [row for row in rows if row["finished"]]
                best |= {min(ended, key=lambda row, name=name: row[name])["system"] for name in ("total_ms", "bytes_wire") if ended}
        self._lost = tried - best
        if self._lost:
            self._note(f"not run on slower links: {', '.join(sorted(self._lost))}: at 1 Gbit/s neither the fastest nor the one "
                       "with the fewest bytes, whatever the workload")

    # Labs and guests

    def _run_link(self, case, link):
        versions = [version for version in VERSIONS if self.wanted(case, link, version)]
        if not versions:
            return
        it = LINKS[link]
        self.progress(f"{link}, {case}: a lab of its own")
        with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/run") as folder:
            lab = Lab(pathlib.Path(folder) / "lab")
            try:
                lab.up(hosts=4, link=it.rate, rtt_ms=it.rtt_ms, loss_percent=it.loss_percent,
                       qemu_versions={host: version for version in VERSIONS for host in HOSTS[version]},
                       checkpoint_space=CHECKPOINT_SPACE if case == "return" else "0",
                       sibling_space=SIBLING_SPACE if case == "four" else "0")
                for version in versions:
                    self._run_version(lab, case, link, version)
            finally:
                lab.down()

    def _run_version(self, lab, case, link, version):
        wanted = self.wanted(case, link, version)
        if case == "return":
            run_returns(self, lab, link, version, wanted)
            return
        for kind in dict.fromkeys(plan.WORKLOADS[workload].guest for workload in wanted):
            for ours in (False, True):
                cases = {workload: [system for system in systems if (SYSTEMS[system][1] == "drover") == ours]
                         for workload, systems in wanted.items() if plan.WORKLOADS[workload].guest == kind}
                if any(cases.values()):
                    self._run_guests(lab, case, link, version, kind, ours, cases)

    def _run_guests(self, lab, case, link, version, kind, ours, cases):
        """All that one boot of the guests is for."""
        count = 4 if case == "four" else 1
        with contextlib.ExitStack() as stack:
            guests = [stack.enter_context(booted(lab, version, kind, ours, number)) for number in range(count)]
            self.compare_devices(guests)
            for workload, systems in cases.items():
                if systems:
                    works = [work_of(workload, LINKS[link], lab, guest) for guest in guests]
                    self._run_workload(lab, guests, works, (case, workload, link), systems)

    def compare_devices(self, guests):
        """The state of every device is part of the pause: a guest that has fewer proves nothing about the others."""
        for found in (devices(guest.pid) for guest in guests):
            self._devices = self._devices or found
            if found != self._devices:
                only = [", ".join(sorted(set(one) - set(other)))
                        for one, other in ((self._devices, found), (found, self._devices))]
                raise LabError(f"not all guests have the same machine. Only the first: {only[0]}. Only this one: {only[1]}")

    # One workload

    def _run_workload(self, lab, guests, works, key, systems):
        all_at_once(lambda work: work.begin(), works)
        endless, runs = set(), self.choice.n_runs(key[2], key[0])
        try:
            for number in range(1, runs + 1):
                for system in systems:
                    if system in endless:
                        continue
                    row = self.measure(lab, guests, works, key, system, number)
                    if not row["finished"]:
                        endless.add(system)
                        if number < runs:
                            self._note(f"{key[1]}/{system} at {key[2]}: did not end in run {number}, not repeated")
            for system in systems:
                if SYSTEMS[system][1] == "drover":
                    self.check(lab, guests, works, key, system)
        finally:
            for work in works:
                work.end()

    def limit_of(self, key, guests, left=None):
        """What is measured once for each case, workload and size of the guest. left: see limit.measure()."""
        case, workload, link = key
        it = LINKS[link]
        name = case, workload, it.divisor if plan.WORKLOADS[workload].memory else 1
        if name not in self.limits:
            began = time.monotonic()
            found = limit.measure([guest.pid for guest in guests], MEMORY_KIB << 10, left)
            self.limits[name] = {"case": case, "workload": workload, "divisor": name[2], "pages": found.pages,
                                 "zero": found.zero, "known": found.known, "bytes": found.bytes}
            self.progress(f"{workload:<15}{case:<7} cannot be avoided: {found.bytes / 1e6:.3f} MB "
                          f"(read in {time.monotonic() - began:.0f} s)")
        found = self.limits[name]["bytes"]
        return {"limit_bytes": found, "limit_ms": it.bits_per_s and round(found * 8000 / it.bits_per_s, 1)}

    def measure(self, lab, guests, works, key, system, number, left=None, **more):
        """One row: the guests move to the other host. more: further fields of it."""
        case, workload, link = key
        all_at_once(lambda work: work.settle(), works)
        bound = self.limit_of(key, guests, left)
        if left or not self._has_row(key):
            all_at_once(lambda work: work.settle(), works)  # reading took seconds
        if SYSTEMS[system][1] == "drover":
            all_at_once(lambda guest: guest.forecast(), guests)
        warm_memory()
        pings = [Ping(lab, guest.address, PING_INTERVAL_S) for guest in guests]
        time.sleep(0.2)
        load = os.getloadavg()[0]
        try:
            row = moves.measure(lab, guests, SYSTEMS[system][1], LINKS[link].limit_s)
            for guest in guests:
                guest.ask("status")  # an answer from the new place, so that the pings there have one too
        finally:
            gaps = [ping.stop() for ping in pings]
        seen = together([work.seen() for work in works])
        row = {"case": case, "workload": workload, "link": link, "system": system, "run": number, **row, **bound, **more,
               "gap_ms": round(max(gap["longest_gap_ms"] for gap in gaps), 1) if row["finished"] else None,
               "pings_lost": sum(gap["lost"] for gap in gaps) if row["finished"] else None, "load1": load, "guest": seen,
               "verified": all(all_at_once(lambda work: work.verify(), works)) if row["finished"] else None}
        self.rows.append(row)
        self.save(self)
        self.progress(f"{link:<18}{case:<7}{workload:<15}{system:<24}run {number}: " + (
            f"{row['total_ms']:>8.0f} ms, pause {row['pause_ms']:>7.1f} ms, gap {row['gap_ms']:>6.1f} ms, "
            f"{row['bytes_wire'] / 1e6:>6.1f} MB, guest {'intact' if row['verified'] else 'DAMAGED'}, "
            f"others' CPU {row['others_cpu_s']:.1f} s" if row["finished"] else f"{row['status']}"))
        return row

    def _has_row(self, key):
        return any((row["case"], row["workload"], row["link"]) == key for row in self.rows)

    def check(self, lab, guests, works, key, system):
        """One move more, not timed, in which drover compares the memory of both sides: it would lengthen the pause."""
        case, workload, link = key
        all_at_once(lambda work: work.settle(), works)
        row = moves.measure(lab, guests, "drover", LINKS[link].limit_s, verify=True)
        for work in works:
            work.rest()
        self.checks.append({"case": case, "workload": workload, "link": link, "system": system, "finished": row["finished"],
                            **{name: row.get(name) for name in ("verified", "ram_hash", "pages_resent_by_verify")},
                            "guest_intact": all(all_at_once(lambda work: work.verify(), works))})
        self.progress(f"{link:<18}{case:<7}{workload:<15}{system:<24}untimed: memory of both sides "
                      f"{'equal' if row.get('verified') else 'NOT COMPARED'}")

# SPDX-License-Identifier: Apache-2.0
"""The migration bench: the same guest, over the same cable, moved by each system in turn.

A guest is booted once for each link and QEMU version, once under plain QEMU and once under drover, and then moved to and fro
between the same two hosts: each workload, each run, each mode. After every move it checks all of its memory."""

import json
import os
import pathlib
import platform
import subprocess
import tempfile
import time

from labkit import qemu
from labkit.lab import Lab, LabError
from labkit.machines import command_line
from labkit.workload import Ping

from . import database, peers
from .drover import DroverGuest
from .usage import warm_memory

VERSIONS = ("7.2", "10.0")
HOSTS = {"7.2": ("host1", "host2"), "10.0": ("host3", "host4")}
MEMORY_KIB = 1 << 20
# QEMU before 9.0 loses dirty pages of TCG guests whose memory is a multiple of 256 KiB (docs/vm-document.md); drover
# adds this by itself, the peers' guest gets the same.
MEMORY_EXTRA_KIB = {"7.2": 8, "10.0": 0}
MAX_PAUSE_MS = 300  # QEMU's default, and drover's
PING_INTERVAL_S = 0.002
SETTLE_S = 2.0  # after the guest began its work, before the migration

# In the order in which a guest does them: (MiB of memory filled, its content, pages written a second, to how many MiB).
WORKLOADS = {
    "writes5k": (512, "mixed", 5000, 64),
    "idle": (768, "mixed", 0, 1),
    "writes60k": (768, "mixed", 60000, 256),
    "pgbench": None,
}
LINKS = {"100mbit": "100mbit", "1gbit": "1gbit", "unshaped": None}
# How long a migration may take before it counts as never ending: several times the copy of all memory in use.
LIMIT_S = {"100mbit": 150, "1gbit": 40, "unshaped": 40}

SYSTEMS = {f"qemu{version}-{mode}": (version, mode) for version in VERSIONS for mode in peers.MODES}
SYSTEMS.update({f"drover-{version}": (version, "drover") for version in VERSIONS})


def pruned(workload, link, system):
    """Why a combination is not run, or None: it could teach nothing that another does not."""
    version, mode = SYSTEMS[system]
    if link != "1gbit" and version == "7.2" and (mode != "drover" or link == "100mbit"):
        return "1 Gbit/s compares the versions of QEMU already"
    if link == "100mbit" and mode in ("plain", "multifd"):
        return "what sends every page whole repeats at 100 Mbit/s what 1 Gbit/s shows, ten times slower"
    if link == "100mbit" and mode == "xbzrle" and workload in ("idle", "pgbench"):
        return "xbzrle is for pages that are sent again, of which there are few here"
    if link == "100mbit" and mode == "postcopy" and workload in ("idle", "writes5k"):
        return "post-copy is for guests that change faster than the cable, which these do not"
    if link == "unshaped" and mode == "xbzrle":
        return "xbzrle saves bytes, of which an unshaped cable has plenty"
    return None


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


# Names of what is behind a device, and what differs by purpose.
BACK_ENDS = {"chardev", "rng", "drive", "netdev", "mac"}


def devices(pid):
    """Of a QEMU process: what its guest sees, a line each."""
    words = command_line(pid)
    pairs = list(zip(words, words[1:]))
    found = [json.loads(word) for option, word in pairs if option == "-device"]
    lines = [json.dumps({key: device[key] for key in sorted(device.keys() - BACK_ENDS)}) for device in found]
    machine = next(word for option, word in pairs if option == "-machine").split(",")
    # QEMU's version is part of the machine's name. The other options name the memory, or are for the host.
    return sorted(["machine " + machine[0].rpartition("-")[0] + "".join(f" {word}" for word in machine if word.startswith("vmport")),
                   "cpu " + next(word for option, word in pairs if option == "-cpu").removesuffix(",enforce"), *lines])


class Bench:
    """rows is what was measured, notes what was left out and why."""

    def __init__(self, workloads, links, systems, runs, say, save):
        """say(line) tells people; save(bench) is called after each row."""
        self.workloads, self.links, self.systems, self.runs = workloads, links, systems, runs
        self.say, self.save = say, save
        self.rows, self.checks, self.notes = [], [], []
        self._devices = None  # that all guests have

    def run(self):
        for link in self.links:
            for reason, names in self._pruned(link).items():
                self._note(f"not run at {link}: {', '.join(names)}: {reason}")
            versions = [version for version in VERSIONS if any(self._wanted(link, version).values())]
            if versions:
                self._run_link(link, versions)

    def document(self, about):
        return {"machine": about, "devices": self._devices, "max_pause_ms": MAX_PAUSE_MS, "memory_kib": MEMORY_KIB, "runs": self.rows,
                "untimed_checks": self.checks, "notes": self.notes}

    def _note(self, text):
        self.notes.append(text)
        self.say(text)

    def _pruned(self, link):
        """{reason: ["WORKLOAD/SYSTEM", ...]}"""
        reasons = {}
        for workload in self.workloads:
            for system in self.systems:
                reason = pruned(workload, link, system)
                if reason:
                    reasons.setdefault(reason, []).append(f"{workload}/{system}")
        return reasons

    def _wanted(self, link, version):
        """{workload: systems of this QEMU version}"""
        return {workload: [system for system in self.systems
                           if SYSTEMS[system][0] == version and not pruned(workload, link, system)]
                for workload in WORKLOADS if workload in self.workloads}

    def _run_link(self, link, versions):
        with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/run") as folder:
            lab = Lab(pathlib.Path(folder) / "lab")
            try:
                lab.up(hosts=4, link=LINKS[link],
                       qemu_versions={host: version for version in VERSIONS for host in HOSTS[version]})
                for version in versions:
                    self._run_version(lab, link, version)
            finally:
                lab.down()

    def _run_version(self, lab, link, version):
        wanted = self._wanted(link, version)
        for database_guest in (False, True):
            for ours in (False, True):
                cases = {workload: [system for system in systems if (SYSTEMS[system][1] == "drover") == ours]
                         for workload, systems in wanted.items() if (workload == "pgbench") == database_guest}
                if any(cases.values()):
                    self._run_guest(lab, link, version, cases, database_guest, ours)

    def _run_guest(self, lab, link, version, cases, database_guest, ours):
        """All cases of one guest."""
        guest = self._boot(lab, version, database_guest, ours)
        try:
            self._compare_devices(devices(guest.pid))
            for workload, systems in cases.items():
                if systems:
                    work = database.Work(lab, guest) if database_guest else MemoryWork(lab, guest, WORKLOADS[workload])
                    self._run_workload(lab, guest, work, (workload, link), systems)
        finally:
            guest.quit()

    def _compare_devices(self, found):
        """The state of every device is part of the pause: a guest that has fewer proves nothing about the others."""
        self._devices = self._devices or found
        if found != self._devices:
            only = [", ".join(sorted(set(one) - set(other))) for one, other in ((self._devices, found), (found, self._devices))]
            raise LabError(f"not all guests have the same machine. Only the first: {only[0]}. Only this one: {only[1]}")

    @staticmethod
    def _boot(lab, version, database_guest, ours):
        disk, image = ((database.disk(lab), "postgres") if database_guest else (None, "workload"))
        if ours:
            guest = DroverGuest(lab, HOSTS[version], "postgres" if database_guest else "workload", MAX_PAUSE_MS)
            disks = [f"shared:{disk.relative_to(lab.folder / 'shared')}"] if disk else ["shared:64M,format=raw"]
            guest.start(memory=f"{MEMORY_KIB}K", image=image, disks=disks)
            return guest
        folder = lab.folder / "peers" / f"{version}-{image}"
        guest = peers.PeerGuest(lab, HOSTS[version], folder, MAX_PAUSE_MS, binary=qemu.find(version), image=image,
                                machine_type=f"pc-q35-{version}", memory_kib=MEMORY_KIB + MEMORY_EXTRA_KIB[version])
        if disk is None:
            disk = folder / "disk.raw"
            with open(disk, "wb") as file:
                file.truncate(64 << 20)
        drive = f"format={'qcow2' if database_guest else 'raw'},cache.direct=on,discard=unmap"
        guest.start(disk, drive=drive)
        return guest

    def _run_workload(self, lab, guest, work, case, systems):
        work.begin()
        endless = set()
        try:
            for number in range(1, self.runs + 1):
                for system in systems:
                    if system in endless:
                        continue
                    row = self._measure(lab, guest, work, case, system, number)
                    if not row["finished"]:
                        endless.add(system)
                        if number < self.runs:
                            self._note(f"{case[0]}/{system} at {case[1]}: did not end in run {number}, not repeated")
            self._check(guest, work, case, [system for system in systems if SYSTEMS[system][1] == "drover"])
        finally:
            work.end()

    def _measure(self, lab, guest, work, case, system, number):
        workload, link = case
        work.settle()
        warm_memory()
        ping = Ping(lab, guest.address, PING_INTERVAL_S)
        time.sleep(0.2)
        load = os.getloadavg()[0]
        try:
            row = guest.migrate(SYSTEMS[system][1], LIMIT_S[link])
            guest.ask("status")  # an answer from the new place, so that the pings there have one too
        finally:
            gap = ping.stop()
        seen = work.seen()
        row = {"workload": workload, "link": link, "system": system, "run": number, **row,
               "gap_ms": round(gap["longest_gap_ms"], 1) if row["finished"] else None,
               "pings_lost": gap["lost"] if row["finished"] else None, "load1": load, "guest": seen,
               "verified": work.verify() if row["finished"] else None}
        self.rows.append(row)
        self.save(self)
        self.say(f"{link:<9}{workload:<10}{system:<22}run {number}: " + (
            f"{row['total_ms']:>8.0f} ms, pause {row['pause_ms']:>7.1f} ms, gap {row['gap_ms']:>6.1f} ms, "
            f"{row['bytes_wire'] / 1e6:>6.0f} MB, guest {'intact' if row['verified'] else 'DAMAGED'}, "
            f"others' CPU {row['others_cpu_s']:.1f} s" if row["finished"] else f"{row['status']}"))
        return row

    def _check(self, guest, work, case, systems):
        """One move more, not timed, in which drover compares the memory of both sides: it would lengthen the pause."""
        for system in systems:
            work.settle()
            row = guest.migrate("drover", LIMIT_S[case[1]], verify=True)
            self.checks.append({"workload": case[0], "link": case[1], "system": system, "finished": row["finished"],
                                **{name: row.get(name) for name in ("verified", "ram_hash", "pages_resent_by_verify")},
                                "guest_intact": work.verify()})
            self.say(f"{case[1]:<9}{case[0]:<10}{system:<22}untimed: memory of both sides "
                     f"{'equal' if row.get('verified') else 'NOT COMPARED'}")


class MemoryWork:
    """The workload program of the guest fills memory and goes on writing to a part of it."""

    def __init__(self, _lab, guest, workload):
        self._guest = guest
        self._memory, self._content, self._rate, self._span = workload

    def _do(self, command):
        answer = self._guest.ask(command)
        if answer != "ok":
            raise LabError(f"the guest answered {command!r} with {answer!r}")

    def begin(self):
        self._do("dirty 0")
        self._do(f"memory {self._memory} {self._content}")

    def settle(self):
        """Hard at work, and has been for a while."""
        self._do(f"dirty {self._rate} {self._span} random line")
        time.sleep(SETTLE_S)
        self._do("clock-reset")
        self._before = json.loads(self._guest.ask("status")), time.monotonic()

    def seen(self):
        """How the guest fared since settle()."""
        before, since = self._before
        after = json.loads(self._guest.ask("status"))
        seconds = time.monotonic() - since
        return {"writes_per_s": round((after["page_writes"] - before["page_writes"]) / seconds),
                "records_per_s": round((after["records_written"] - before["records_written"]) / seconds, 1),
                "longest_tick_ms": after["longest_tick_ms"]}

    def verify(self):
        return self._guest.ask("verify") == "ok"

    def end(self):
        self._do("dirty 0")


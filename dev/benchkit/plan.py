# SPDX-License-Identifier: Apache-2.0
"""What there is to compare, what of it is worth comparing, and how long that takes. Nothing is run here."""

import collections
import dataclasses

from . import peers

VERSIONS = ("7.2", "10.0")


@dataclasses.dataclass(frozen=True)
class Link:
    """Each host's cable, as dev/lab up makes it."""
    rate: str | None
    rtt_ms: float = 0
    loss_percent: float = 0
    # How long a migration may take before it counts as never ending: several times the copy of all memory in use.
    limit_s: int = 60
    runs: int = 3
    # The workload program fills so much less memory: nobody sends a guest over a line that takes an hour for it.
    divisor: int = 1

    @property
    def bits_per_s(self):
        return {"20mbit": 20e6, "100mbit": 100e6, "1gbit": 1e9, "10gbit": 1e10, None: None}[self.rate]


# 1 Gbit/s comes first: what lost there is not measured on the others.
LINKS = {
    "1gbit": Link("1gbit"),
    "20mbit-150ms": Link("20mbit", rtt_ms=150, limit_s=150, runs=1, divisor=8),
    "100mbit-50ms-loss": Link("100mbit", rtt_ms=50, loss_percent=0.1, limit_s=120, runs=1, divisor=4),
    "100mbit": Link("100mbit", limit_s=150, runs=1),
    "10gbit": Link("10gbit", runs=1),
    "unshaped": Link(None),
}


@dataclasses.dataclass(frozen=True)
class Workload:
    guest: str  # one boot does all workloads of a guest: "memory", or what runs in it
    whole_mb: int  # roughly what goes over the wire as whole pages, and packed: only for the estimate of the time
    packed_mb: int
    memory: tuple = ()  # MiB filled, its content, pages written a second, to how many MiB
    ends: bool = True  # whole pages get it over 1 Gbit/s

    def memory_for(self, link):
        """memory, smaller for the guests of slow links."""
        filled, content, rate, span = self.memory
        return filled // link.divisor, content, rate, min(span, filled // link.divisor // 2)


# In the order in which a guest does them.
WORKLOADS = {
    "writes5k": Workload("memory", 625, 285, (512, "mixed", 5000, 64)),
    "idle": Workload("memory", 808, 390, (768, "mixed", 0, 1)),
    "writes60k": Workload("memory", 1100, 600, (768, "mixed", 60000, 256), ends=False),
    "incompressible": Workload("memory", 830, 800, (768, "random", 0, 1)),
    "pgbench": Workload("pgbench", 280, 60),
    "web": Workload("web", 260, 110),
    "redis": Workload("redis", 260, 110),
    "build": Workload("build", 240, 70),
}
SYSTEMS = {f"qemu{version}-{mode}": (version, mode) for version in VERSIONS for mode in peers.MODES}
SYSTEMS.update({f"drover-{version}": (version, "drover") for version in VERSIONS})
CASES = {"single": "one guest moves", "four": "four guests of one image move at once",
         "return": "a guest comes back to the host that it left a while ago"}
# Of --quick, where nothing else is named.
QUICK = {"case": ["single"], "workload": ["writes5k", "web"], "link": ["1gbit"], "runs": 1,
         "system": ["qemu10.0-plain", "qemu10.0-multifd-zstd", "drover-10.0"]}

WRITING = ("writes5k", "writes60k", "redis")  # many pages again and again
# For links but 1 Gbit/s, which has all: what they can teach.
WORTH = {
    "20mbit-150ms": ("idle", "writes5k", "web"),
    "100mbit-50ms-loss": ("idle", "web", "redis"),
    "100mbit": ("idle", "web"),
    "10gbit": ("idle", "web"),
    "unshaped": ("idle", "incompressible"),
}


def _pruned_several(case, workload, link, version, mode):
    if version == "7.2" or link != "1gbit":
        return f"case {case}: the newer QEMU at 1 Gbit/s shows what it does"
    if case == "four" and workload != "web":
        return ("case four: one image is what the guest web is; the workload program would fill all guests with the very same bytes, "
                "as no real guests are")
    if case == "return" and workload not in ("idle", "web"):
        return "case return: a guest that changed all of its memory meanwhile is a new one"
    if mode not in ("drover", "multifd-zstd"):
        return f"case {case}: no mode of QEMU knows of other guests or earlier visits; its best one stands for all"
    return None


def _pruned_mode(workload, link, version, mode):
    rate = LINKS[link].bits_per_s
    if mode == "plain" and rate == 1e9 and workload not in ("idle", "writes5k", "writes60k", "incompressible"):
        return "memory that packs goes faster packed, whatever is in the guest; idle, writes5k and writes60k show by how much"
    if version == "7.2" and workload in ("redis", "build"):
        return "of the workloads with services pgbench and web compare the versions of QEMU"
    if version == "7.2" and mode in ("xbzrle", "multifd-zstd3", "postcopy") and workload != "writes60k":
        return "on QEMU 7.2 writes60k shows what these modes do; the newer QEMU has them with every workload that they can help"
    if mode == "autoconverge" and workload != "writes60k":
        return "auto-converge does nothing for a guest that whole pages move in time"
    if mode == "xbzrle" and (workload not in WRITING or link not in ("1gbit", "20mbit-150ms", "100mbit")):
        return "xbzrle is for pages that are sent again, and for links that are short of bytes"
    if mode == "postcopy" and (workload not in ("writes60k", "redis") or link != "1gbit"):
        return "post-copy is for guests that change faster than the cable"
    if mode == "multifd" and rate is not None and rate <= 1e9 and workload != "incompressible":
        return "one connection fills such a cable: more of them teach nothing"
    if mode == "plain" and rate is not None and rate < 1e9:
        return "what sends every page whole repeats on a slow link what 1 Gbit/s shows, many times slower"
    if mode == "multifd-zstd3" and (rate is None or rate > 1e9):
        return "level 1 is bound by the processor on such a link already"
    if mode == "multifd-zstd3" and link == "1gbit" and workload in ("writes5k", "redis", "build", "incompressible"):
        return "idle, writes60k, pgbench and web show what the level does"
    return None


def pruned(case, workload, link, system):
    """Why a combination is not run, or None: it could teach nothing that another does not."""
    version, mode = SYSTEMS[system]
    if case != "single":
        return _pruned_several(case, workload, link, version, mode)
    if link != "1gbit" and version == "7.2":
        return "1 Gbit/s compares the versions of QEMU already"
    if link in WORTH and workload not in WORTH[link]:
        return f"{link} shows what it does to others with {', '.join(WORTH[link])}"
    return _pruned_mode(workload, link, version, mode)


# Seconds, measured on two processors under TCG: around each move (settling, warming memory, the destination, verifying), a look at
# the memory for its limit, a forecast, a guest's boot, a lab.
AROUND_S, LIMIT_READ_S, FORECAST_S, LAB_S = 12, 12, 6, 25
BOOT_S = {"memory": 12, "pgbench": 35, "web": 25, "redis": 25, "build": 20}
# What two processors move, whatever the link: whole pages, packed ones.
WHOLE_MB_PER_S, PACKED_MB_PER_S = 300, 110


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a run of the bench is to measure; runs None: what each link has."""
    cases: list
    workloads: list
    links: list
    systems: list
    runs: int | None
    away_s: int = 600
    all: bool = False  # leave nothing out

    def why_not(self, case, workload, link, system):
        return None if self.all else pruned(case, workload, link, system)

    def n_runs(self, link, case):
        """A return takes as long as the guest is away: once, unless asked for."""
        return self.runs or (1 if case == "return" else LINKS[link].runs)

    def wanted(self, case, link, version):
        """{workload: systems of this QEMU version}"""
        found = {workload: [system for system in self.systems if SYSTEMS[system][0] == version
                            and not self.why_not(case, workload, link, system)]
                 for workload in WORKLOADS if workload in self.workloads}
        return {workload: systems for workload, systems in found.items() if systems}

    def left_out(self, case, link):
        """What is not run of a case on a link, and why: lines for people."""
        reasons = collections.defaultdict(list)
        for workload in self.workloads:
            for system in self.systems:
                reason = self.why_not(case, workload, link, system)
                if reason:
                    reasons[reason].append(f"{workload}/{system}")
        place = link if case == "single" else f"{link}, {case}"
        return [f"not run at {place}: {', '.join(names)}: {reason}" for reason, names in reasons.items()]

    def estimate_s(self, case, link):
        """(moves, seconds) of a case on a link; (0, 0) when nothing is left of it."""
        moves, seconds, guests = 0, 0.0, set()
        for version in VERSIONS:
            for workload, systems in self.wanted(case, link, version).items():
                n_guests = 4 if case == "four" else 1
                seconds += LIMIT_READ_S * n_guests
                for system in systems:
                    ours = SYSTEMS[system][1] == "drover"
                    guests.add((version, WORKLOADS[workload].guest, ours))
                    runs = self.n_runs(link, case)
                    # A verified move at the end, and for a return the way there.
                    n = 1 if _never_ends(workload, link, system) else runs * (2 if case == "return" else 1) + ours
                    moves += n
                    seconds += n * (AROUND_S + n_guests * _move_s(workload, link, system)) + runs * ours * FORECAST_S
        if not moves:
            return 0, 0
        n_boots = 4 if case == "four" else 1
        seconds += LAB_S + sum(BOOT_S[guest] * n_boots for _version, guest, _ours in guests)
        return moves, seconds + (self.away_s * self.n_runs(link, case) if case == "return" else 0)

    def lines(self):
        """The plan for people, and its seconds altogether."""
        text, total = [], 0
        for link in self.links:
            for case in self.cases:
                moves, seconds = self.estimate_s(case, link)
                if moves:
                    text.append(f"plan: {link}, {case}: {moves} moves, about {seconds / 60:.0f} minutes")
                    total += seconds
        return [*text, f"plan: about {total / 60:.0f} minutes in all"], total


def _never_ends(workload, link, system):
    return not WORKLOADS[workload].ends and SYSTEMS[system][1] in ("plain", "multifd")


def _move_s(workload, link, system):
    about, it = WORKLOADS[workload], LINKS[link]
    if _never_ends(workload, link, system):
        return it.limit_s
    packs = SYSTEMS[system][1].startswith(("drover", "multifd-zstd"))
    megabytes, most = (about.packed_mb, PACKED_MB_PER_S) if packs else (about.whole_mb, WHOLE_MB_PER_S)
    if about.memory:
        megabytes /= it.divisor
    rate = min(it.bits_per_s / 8e6, most) if it.bits_per_s else most
    return min(megabytes / rate, it.limit_s)

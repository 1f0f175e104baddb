# SPDX-License-Identifier: Apache-2.0
"""The fault matrix: whatever dies or is cut off at whatever point of a migration, the guest runs on exactly one host
afterwards, with every byte right, its TCP connection alive, and nothing left behind on the other.

A test (test_faults_*.py: one module per kind of victim, so that they can run side by side) holds the agent of one side at a
named point (src/io/crash_point.h), strikes, lets go, repairs what it broke, and looks. docs/handoff.md says what each cell
must lead to; where that depends on how far the bytes had come, the cell says "either". Where a mover does not exist yet, or
has ended by itself, there is no cell."""

import itertools
import time

import pytest
from labkit.lab import LabError, wait_for

# point: the side whose agent holds, and the crash point's name
POINTS = {
    "prepare": ("destination", "destination-prepare"),
    "copying": ("source", "source-copying"),
    "switching": ("source", "source-switching"),
    "handed-off": ("source", "source-handed-off"),
    "completed": ("source", "source-commit"),
    "loaded": ("destination", "destination-loaded"),
    "owner-written": ("destination", "destination-owner"),
    "done": ("source", "source-done"),
}
STAYS, MOVES, EITHER, CRASHES = {"source"}, {"destination"}, {"source", "destination"}, {"crashed"}
# victim: what it leads to at each of the points above, in their order; None: there is nothing to kill yet
OUTCOMES = {
    "source mover": (None, STAYS, STAYS, STAYS, EITHER, MOVES, MOVES, None),
    # While the source's agent holds at "switching" the movers go on, and the destination may have everything when its own is struck: the
    # guest then moved in 2 of 8 runs. Handed off: the source waits for another connection, so it may complete.
    "destination mover": (STAYS, STAYS, EITHER, EITHER, EITHER, MOVES, MOVES, None),
    "source agent": (STAYS, STAYS, STAYS, STAYS, EITHER, MOVES, MOVES, MOVES),
    # Its mover dies with it.
    "destination agent": (STAYS, STAYS, EITHER, EITHER, EITHER, MOVES, MOVES, MOVES),
    "manager": (MOVES, MOVES, MOVES, MOVES, MOVES, MOVES, MOVES, MOVES),
    "destination qemu": (STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, CRASHES),
    "network": (EITHER, EITHER, EITHER, EITHER, EITHER, EITHER, EITHER, MOVES),
}


def cells_of(*victims):
    """The parameters of strike_and_look() for these victims: one per point at which there is something to strike."""
    return [pytest.param(point, victim, outcome, id=f"{victim.replace(' ', '-')}-at-{point}")
            for victim in victims for point, outcome in zip(POINTS, OUTCOMES[victim]) if outcome]


# How long a client of the guest waits for it: longer than any outage here.
PATIENCE_S = 180
# How long a cut lasts at least, unless its effect is seen before.
NOTICE_S = 4

_numbers = itertools.count()


class Cell:
    """One migration of the guest with a fault in it; options: more words for `vm migrate`."""

    def __init__(self, lab, guest, *options):
        self.lab, self.guest, self.options = lab, guest, options
        self.source = guest.host()
        self.destination = next(host for host in lab.hosts if host != self.source)
        self.gate = self.task = None
        self.passed = False

    def host(self, side):
        return {"source": self.source, "destination": self.destination}[side]

    def begin(self, point, before=None):
        """Migrates up to a point of POINTS, and holds there until repair(). before: (point, what): an earlier one, at which the
        migration is held while what() is done."""
        self.gate = self._new_gate()
        gates = {point: self.gate} | ({before[0]: self._new_gate()} if before else {})
        for side in ("source", "destination"):
            holds = [f"{POINTS[p][1]}:{gate}" for p, gate in gates.items() if POINTS[p][0] == side]
            if holds:
                self.lab.restart(self.host(side), "agent", {"DROVER_HOLD_AT": ",".join(holds)})
        self.lab.wait_connected()
        self.task = self.guest.begin_migration(self.destination, *self.options)
        if before:
            self._wait_held(before[0], gates[before[0]])
            before[1]()
            gates[before[0]].touch()
        self._wait_held(point, self.gate)

    def _wait_held(self, point, gate):
        held = gate.with_name(f"{gate.name}.held")
        wait_for(f"the agent to hold at {point}", lambda: held.exists() or self._ended_early(), 60, 0.02)

    def _new_gate(self):
        return self.lab.folder / f"gate-{next(_numbers)}"

    def crash(self, side, name):
        """Migrates up to a crash point of one side's agent, where that agent kills itself, and starts it again."""
        self.gate = self._new_gate()
        self.lab.restart(self.host(side), "agent", {"DROVER_CRASH_AT": f"{name}:{self.gate}"})
        self.task = self.guest.begin_migration(self.destination, *self.options)
        wait_for(f"the agent to die at {name}", lambda: not self.lab.find(self.host(side), "agent"), 60, 0.05)
        assert self.gate.exists(), "the agent died somewhere else"
        self.lab.start(self.host(side), "agent")
        self.lab.wait_connected()

    def _ended_early(self):
        task = self.guest.task(self.task)
        if task["status"]["state"] in ("succeeded", "failed", "cancelled"):
            raise LabError(f"the migration ended before it came to the point: {task['status']}")

    def strike(self, victim):
        if victim == "network":
            self.lab.network.cut(self.destination, network="mgmt")
        elif victim == "manager":
            self.lab.kill("manager", "manager")
        else:
            side, program = victim.split()
            self.lab.kill(self.host(side), f"qemu:{self.guest.name}" if program == "qemu" else program)

    def repair(self, victim):
        self.gate.touch()
        if victim == "network":
            # Long enough for both sides to act on what they know, and to miss each other.
            self._wait_for_effect()
            self.lab.network.cut(self.destination, up=True, network="mgmt")
        elif victim == "manager":
            self.lab.start("manager", "manager")
        elif victim.endswith("agent"):
            self.lab.start(self.host(victim.split()[0]), "agent")
        self.lab.wait_connected()

    def clean_up(self):
        """After a failed cell: lets everything run again, so that the next one starts from a whole cluster."""
        if self.gate:
            self.gate.touch()
        self.lab.network.cut(self.destination, up=True, network="mgmt")
        for machine, program in (("manager", "manager"), *((host, "agent") for host in self.lab.hosts)):
            if not self.lab.find(machine, program):
                self.lab.start(machine, program)
        self.lab.wait_connected()
        if self.task:
            self.guest.wait_task(self.task)

    def _wait_for_effect(self):
        def settled():
            status = self.guest.task(self.task)["status"]
            return status["progress"].get("phase") in ("waiting-for-peer", "settling", "done", "failed")
        # A cut that nobody noticed has to be survived as well.
        end = time.monotonic() + NOTICE_S
        while not settled() and time.monotonic() < end:
            time.sleep(0.1)

    def qemus(self):
        return {host: self.lab.find(host, f"qemu:{self.guest.name}") for host in self.lab.hosts}

    def where(self):
        """The side whose host alone has a QEMU of the guest, once there is just one; "crashed" when there is none."""
        def one():
            running = [host for host, pids in self.qemus().items() if pids]
            return (running,) if len(running) <= 1 and self._movers() == 0 else None
        running, = wait_for("the guest's QEMU to be on one host at most, and the movers to end", one)
        if not running:
            return "crashed"
        return "source" if running == [self.source] else "destination"

    def _movers(self):
        return sum(len(self.lab.find(host, "mover")) for host in self.lab.hosts)

    def leftovers(self, host):
        """What a host without the guest must not have."""
        found = [f"QEMU {pid}" for pid in self.lab.find(host, f"qemu:{self.guest.name}")]
        found += [f"link {line.split()[0]}" for line in
                  self.lab.machines.run(host, "ip", "-brief", "link", "show", "type", "tun").splitlines() if line]
        found += [str(path) for path in (self.lab.folder_of(host) / "run").rglob("*")
                  if self.guest.document()["uid"] in path.name]
        return found


class DeadHost:
    """A host whose power fails, and what is asked and told about it."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name

    def die(self):
        """Silently: its cables are dead before its processes are, and what was in its memory is gone."""
        self.lab.network.cut(self.name)
        self.lab.kill(self.name, "power")
        links = self.lab.machines.run(self.name, "ip", "-brief", "link", "show", "type", "tun")
        for link in [line.split()[0] for line in links.splitlines()]:
            self.lab.machines.run(self.name, "ip", "link", "delete", link)
        self.lab.machines.run(self.name, "rm", "-rf", self.lab.folder_of(self.name) / "run")

    def confirm(self):
        """As soon as the manager has seen for itself that it cannot be reached."""
        def confirmed():
            done = self.lab.run_drover("host", "confirm-down", self.name, "--yes")
            assert done.returncode in (0, 5), done.stderr
            return done.returncode == 0
        wait_for(f"the manager to give {self.name} up", confirmed)
        assert self.status()["confirmed_down"]["by"]

    def return_(self):
        self.lab.network.cut(self.name, up=True)
        self.lab.start(self.name, "agent")
        self.lab.wait_connected()
        assert "confirmed_down" not in self.status()

    def status(self):
        return self.lab.drover_json("host", "show", self.name)["status"]


def check_settled(cell, task, side):
    """The task says what happened, and says it right; the other host is clean."""
    guest = cell.guest
    wait_for(f"the manager to know that the guest runs on {cell.host(side)}",
             lambda: (guest.host(), guest.power()) == (cell.host(side), "running"))
    assert (task["status"]["state"] == "succeeded") == (side == "destination"), task["status"]
    if side == "source":
        assert task["status"]["error"]["detail"]
    other = cell.host("source" if side == "destination" else "destination")
    wait_for(f"{other} to be clean", lambda: cell.leftovers(other) == [])


def look(cell, outcome, session):
    """What must be true when the dust has settled."""
    guest, task = cell.guest, cell.guest.wait_task(cell.task)
    side = cell.where()
    assert side in outcome, (side, task["status"])
    if side == "crashed":
        wait_for("the crash to be noticed", lambda: guest.power() == "crashed")
        session.abandon()
    else:
        check_settled(cell, task, side)
        guest.verify()
        session.close()
    cell.passed = True


def strike_and_look(cell, point, victim, outcome):
    """One cell of the matrix."""
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin(point)
    cell.strike(victim)
    cell.repair(victim)
    look(cell, outcome, session)

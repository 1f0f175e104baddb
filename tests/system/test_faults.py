# SPDX-License-Identifier: Apache-2.0
"""The fault matrix: whatever dies or is cut off at whatever point of a migration, the guest runs on exactly one host
afterwards, with every byte right, its TCP connection alive, and nothing left behind on the other.

A test holds the agent of one side at a named point (src/agent/crash_point.h), strikes, lets go, repairs what it broke, and
looks. docs/handoff.md says what each cell must lead to; where that depends on how far the bytes had come, the cell says
"either". Where a mover does not exist yet, or has ended by itself, there is no cell."""

import itertools

import pytest
from labkit import netns, network
from labkit.lab import AGENT_PORT, LabError, wait_for
from labkit.workload import Workload

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
    "destination mover": (STAYS, STAYS, STAYS, STAYS, EITHER, MOVES, MOVES, None),
    "source agent": (STAYS, STAYS, STAYS, STAYS, EITHER, MOVES, MOVES, MOVES),
    "destination agent": (STAYS, STAYS, STAYS, STAYS, EITHER, MOVES, MOVES, MOVES),
    "manager": (MOVES, MOVES, MOVES, MOVES, MOVES, MOVES, MOVES, MOVES),
    "destination qemu": (STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, STAYS, CRASHES),
    "network": (EITHER, EITHER, EITHER, EITHER, EITHER, EITHER, EITHER, MOVES),
}
CELLS = [pytest.param(point, victim, outcome, id=f"{victim.replace(' ', '-')}-at-{point}")
         for victim, outcomes in OUTCOMES.items() for point, outcome in zip(POINTS, outcomes) if outcome]

_numbers = itertools.count()


class Cell:
    """One migration of the guest with a fault in it."""

    def __init__(self, lab, guest):
        self.lab, self.guest = lab, guest
        self.source = guest.host()
        self.destination = next(host for host in lab.hosts if host != self.source)
        self.gate = self.task = None

    def host(self, side):
        return {"source": self.source, "destination": self.destination}[side]

    def begin(self, point):
        side, name = POINTS[point]
        self.gate = self.lab.folder_of(self.host(side)) / f"gate-{next(_numbers)}"
        self.lab.restart(self.host(side), "agent", {"DROVER_HOLD_AT": f"{name}:{self.gate}"})
        self.wait_agent(self.host(side))
        self.task = self.guest.begin_migration(self.destination)
        held = self.gate.with_name(f"{self.gate.name}.held")
        wait_for(f"the agent to hold at {name}", lambda: held.exists() or self._ended_early(), 60, 0.02)

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

    def wait_agent(self, host):
        """Until the agent of a host answers; the manager's idea of it may be older than its restart."""
        def answers():
            address = (network.host_address(self.lab.hosts.index(host) + 1), AGENT_PORT)
            try:
                netns.connect(self.lab.machines.pid("manager"), address, 1).close()
            except OSError:
                return False
            return True
        wait_for(f"the agent of {host}", answers)
        self.lab.wait_connected()

    def clean_up(self):
        """After a failed cell: lets everything run again, so that the next one starts from a whole cluster."""
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
        try:
            wait_for("the source to notice", settled, 4)
        except LabError:
            pass  # a cut that nobody noticed has to be survived as well

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


@pytest.fixture(scope="module")
def guest(lab):
    """One guest for the whole matrix: what it went through before makes it only harder."""
    made = Workload(lab, "matrix").create(
        host="host1", append="workload.memory=64,mixed workload.dirty=3000,32,random workload.disk=50")
    yield made
    made.discard()


@pytest.fixture
def cell(lab, guest):
    if guest.power() != "running":
        guest.start("host1")
    made = Cell(lab, guest)
    yield made
    if made.gate and not made.gate.exists():
        made.clean_up()


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


@pytest.mark.parametrize(("point", "victim", "outcome"), CELLS)
def test_fault(cell, point, victim, outcome):
    guest, session = cell.guest, cell.guest.session()
    cell.begin(point)
    cell.strike(victim)
    cell.repair(victim)
    task = guest.wait_task(cell.task)
    side = cell.where()
    assert side in outcome, task["status"]
    if side == "crashed":
        wait_for("the crash to be noticed", lambda: guest.power() == "crashed")
        with pytest.raises(LabError):
            session.close()
        return
    check_settled(cell, task, side)
    guest.verify()
    session.close()

# SPDX-License-Identifier: Apache-2.0
"""What dies, is cut off or is cancelled while the destination's network is tried: the guest runs on where the task says, nothing of the proof
is left behind, and the next migration, right afterwards, has a whole one."""


import pytest
from labkit.lab import wait_for
from labkit.workload import Workload

VERSION = "10.0"
LAB = {"hosts": 2, "store": "postgres", "managers": 2, "qemu_versions": {"host1": VERSION, "host2": VERSION}}
LISTENING = "0A"  # in /proc/net/tcp
JUDGED = b"the network at the destination was tried in"


class Gates:
    """Both agents hold their part of the proof as long as the gate of their side is shut."""

    def __init__(self, lab):
        self.lab = lab
        self._gates = {side: lab.folder / f"gate-{side}" for side in ("source", "destination")}
        self.environment = {"DROVER_HOLD_AT": ",".join(f"{side}-network:{gate}" for side, gate in self._gates.items())}
        self.open()

    def open(self):
        for gate in self._gates.values():
            gate.touch()

    def shut(self, side):
        self._held(side).unlink(missing_ok=True)
        self._gates[side].unlink()

    def _held(self, side):
        return self._gates[side].with_name(f"{self._gates[side].name}.held")

    def wait_held(self, guest, task, side):
        def held():
            assert not guest.task(task)["status"]["finished"], guest.task(task)["status"]
            return self._held(side).exists()
        wait_for(f"the {side} to be in the middle of the proof", held, 60, 0.02)


def links(lab, host, kind=()):
    text = lab.machines.run(host, "ip", "-brief", "link", "show", *kind)
    return sorted(line.split()[0] for line in text.splitlines())


def own_links(lab, host):
    """But the taps of guests."""
    return sorted(set(links(lab, host)) - set(links(lab, host, ("type", "tun"))))


def listening(lab, host):
    rows = [row.split() for row in lab.machines.run(host, "cat", "/proc/net/tcp", "/proc/net/tcp6").splitlines()]
    return sorted(row[1] for row in rows if row[3] == LISTENING)


def packet_sockets(lab, host):
    return len(lab.machines.run(host, "cat", "/proc/net/packet").splitlines()) - 1


def journals(lab, host):
    """Of migrations that its agent remembers."""
    return sorted(path.name for path in (lab.folder_of(host) / "state/migrations").iterdir())


@pytest.fixture(scope="module")
def gates(lab):
    made = Gates(lab)
    for host in lab.hosts:
        lab.restart(host, "agent", made.environment)
    lab.wait_connected()
    return made


@pytest.fixture(scope="module")
def guest(lab, gates):
    before = {host: (own_links(lab, host), listening(lab, host)) for host in lab.hosts}
    made = Workload(lab, "proven").create(host="host1", memory="128M", append="workload.memory=12,mixed workload.dirty=200,2,random")
    made.before = before
    yield made
    gates.open()
    made.discard()


class Proof:
    """One migration of the guest that comes to a proof, and what has to be true after whatever happens to it then."""

    def __init__(self, lab, guest, gates):
        self.lab, self.guest, self.gates = lab, guest, gates
        self.source = guest.host()
        self.destination = next(host for host in lab.hosts if host != self.source)
        self.session = guest.session(patience_s=180)
        self.task = None

    def begin(self, side, *options):
        self.gates.shut(side)
        self.task = self.guest.begin_migration(self.destination, *options)
        self.gates.wait_held(self.guest, self.task, side)

    def kill_agent(self, host):
        self.lab.kill(host, "agent")
        self.gates.open()
        self.lab.start(host, "agent", self.gates.environment)
        self.lab.wait_connected()

    def ended(self):
        return self.guest.wait_task(self.task)["status"]

    def check_clean(self, home):
        """The guest is there, and of its migration nothing is left anywhere."""
        lab = self.lab
        other = next(host for host in lab.hosts if host != home)
        wait_for(f"the guest to be known as running on {home}", lambda: (self.guest.host(), self.guest.power()) == (home, "running"))
        wait_for(f"{other} to be without it", lambda: not lab.find(other, "qemu") and not links(lab, other, ("type", "tun")))
        wait_for("the movers to end", lambda: not any(lab.find(host, "mover") for host in lab.hosts))
        wait_for("both agents to forget the migration", lambda: not any(journals(lab, host) for host in lab.hosts))
        # Where the guest is, its agent listens to it, at its only NIC.
        wait_for("the packet sockets of the proof to go", lambda: (packet_sockets(lab, home), packet_sockets(lab, other)) == (1, 0))
        for host in lab.hosts:
            assert (own_links(lab, host), listening(lab, host)) == self.guest.before[host]

    def check_stayed(self, state):
        """The task ended so, with the gate still shut or not, and a second one has a whole proof."""
        status = self.ended()
        assert status["state"] == state, status
        self.check_clean(self.source)
        self.gates.open()
        self.check_next(self.destination)
        return status["error"]["detail"] if state == "failed" else None

    def check_next(self, to):
        result = self.guest.migrate(to)
        found = {item["code"]: item for item in result["network"]["checks"]}
        assert "network-proof" not in found and found["network-segment"]["ok"] and found["network-mac"]["ok"], found
        self.check_clean(to)
        self.guest.verify()
        self.session.close()


@pytest.fixture
def proof(lab, guest, gates):
    yield Proof(lab, guest, gates)
    gates.open()


def test_cancelled_while_the_source_is_about_to_judge(proof, lab):
    proof.begin("source")
    lab.drover("task", "cancel", proof.task)
    proof.check_stayed("cancelled")


def test_cancelled_while_the_destination_tries_its_network(proof, lab):
    # Should the source have given up waiting before it is cancelled, it is still copying then.
    proof.begin("destination", "--rate-limit", "1mbit")
    lab.drover("task", "cancel", proof.task)
    proof.check_stayed("cancelled")


def test_time_limit_that_ends_in_the_proof(proof):
    proof.begin("source", "--give-up", "5s")
    assert "did not finish within its time limit" in proof.check_stayed("failed")


def test_source_agent_killed(proof):
    proof.begin("source")
    proof.kill_agent(proof.source)
    assert "the agent was restarted" in proof.check_stayed("failed")


def test_destination_agent_killed(proof):
    proof.begin("destination", "--rate-limit", "1mbit")
    proof.kill_agent(proof.destination)
    proof.check_stayed("failed")


def test_destination_qemu_killed(proof, lab):
    proof.begin("destination", "--rate-limit", "1mbit")
    lab.kill(proof.destination, f"qemu:{proof.guest.name}")
    proof.check_stayed("failed")


def test_destination_cut_off(proof, lab):
    """Longer than the source waits for the proof: it does without, and says so, or the migration ends."""
    log = lab.log_of(proof.source, "agent")
    n_judged = log.read_bytes().count(JUDGED)
    proof.begin("destination")
    lab.network.cut(proof.destination)
    try:
        wait_for("the source to do without its answer", lambda: log.read_bytes().count(JUDGED) > n_judged, 10)
    finally:
        lab.network.cut(proof.destination, up=True)
        proof.gates.open()
    lab.wait_connected()
    status = proof.ended()
    moved = status["state"] == "succeeded"
    if moved:
        assert [item["code"] for item in status["result"]["network"]["checks"]] == ["network-proof"]
    proof.check_clean(proof.destination if moved else proof.source)
    proof.check_next(proof.source if moved else proof.destination)


def test_leader_killed_and_the_standby_takes_over(proof, lab):
    leader = lab.leader()
    proof.begin("source")
    lab.kill(leader, "manager")
    wait_for("the standby to lead", lambda: lab.leader() not in (None, leader), 30, 0.1)
    lab.wait_connected()
    proof.gates.open()
    status = proof.ended()
    assert status["state"] == "succeeded", status
    assert all(item["ok"] or item["severity"] == "warning" for item in status["result"]["network"]["checks"])
    proof.check_clean(proof.destination)
    lab.start(leader, "manager")
    proof.check_next(proof.source)

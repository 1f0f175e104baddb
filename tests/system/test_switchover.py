# SPDX-License-Identifier: Apache-2.0
"""Final pauses one at a time, forced: a migration that is held at its pause keeps others on its links from theirs. QEMU 10.0, which
waits for the word by itself (test_queue.py has 7.2, which is held by its bandwidth)."""

import subprocess
import time

import pytest

from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 3, "qemu_versions": {f"host{number}": "10.0" for number in (1, 2, 3)}}


@pytest.fixture(scope="module")
def guests(lab):
    """Two with firmware only, on host1 and host2, and one with the workload on host2."""
    for name, host in (("first", "host1"), ("second", "host2")):
        lab.drover("vm", "create", name, "--memory", "32M", "--datastore", "shared", "--host", host, "--start")
    busy = Workload(lab, "busy")
    busy.create("--datastore", "shared", host="host2", memory="128M", disks=(),
                append="workload.memory=16,random workload.dirty=20,1,random")
    return busy


@pytest.fixture
def gate(lab, guests):
    """Migrations from host1 stay at their pause (or elsewhere: host(point)) until open() is called."""
    made = Gate(lab)
    yield made
    made.open()
    wait_for("all to have ended", lambda: not lab.drover_json("task", "list", "--active")["items"], 60)
    lab.restart("host1", "agent")
    for name, home in (("first", "host1"), ("second", "host2"), ("busy", "host2")):
        if lab.drover_json("vm", "show", name)["status"]["host"] != home:
            lab.drover("vm", "migrate", name, "--to", home)


class Gate:
    def __init__(self, lab):
        self.lab = lab
        self.file = lab.folder / "gate"
        self.file.unlink(missing_ok=True)

    def hold_at(self, point):
        held = self.file.with_name("gate.held")
        held.unlink(missing_ok=True)
        self.lab.restart("host1", "agent", {"DROVER_HOLD_AT": f"{point}:{self.file}"})
        return held

    def open(self):
        self.file.touch()


def begin(lab, vm, to, *options):
    return lab.drover_json("--no-wait", "vm", "migrate", vm, "--to", to, *options)["name"]


def status(lab, name):
    return lab.drover_json("task", "show", name)["status"]


def result(lab, name):
    """Of a migration that succeeds."""
    ended = wait_for(f"task {name} to end", lambda: status(lab, name)["finished"] and status(lab, name), 60)
    assert ended["state"] == "succeeded", ended["error"]
    return ended["result"]


def hold_first(lab, gate):
    """The task of "first", whose guest is paused on its way from host1 to host3."""
    held = gate.hold_at("source-switching")
    name = begin(lab, "first", "host3")
    wait_for("the first guest to be paused", held.exists, 30)
    return name


def wait_asking(lab, name):
    wait_for(f"task {name} to wait for its link",
             lambda: "waits until no other migration" in (status(lab, name)["progress"]["message"] or ""), 30, 0.05)


def pause_of(record):
    return record["switchover"]["stopped_unix_ms"], record["switchover"]["resumed_unix_ms"]


def test_second_guest_runs_on_while_the_first_is_paused(lab, gate):
    first = hold_first(lab, gate)
    second = begin(lab, "second", "host3")
    wait_asking(lab, second)
    gate.open()
    records = result(lab, first), result(lab, second)
    assert [record["switchover"]["permit"] for record in records] == ["manager", "manager"]
    assert pause_of(records[0])[1] <= pause_of(records[1])[0]
    assert records[1]["switchover"]["waited_ms"] > 0


def test_cancelled_while_it_waits_for_its_link(lab, gate, guests):
    first = hold_first(lab, gate)
    second = begin(lab, "busy", "host3")
    wait_asking(lab, second)
    lab.drover("task", "cancel", second)
    wait_for("the second to end", lambda: status(lab, second)["state"] == "cancelled", 20)
    gate.open()
    result(lab, first)
    assert lab.drover_json("vm", "show", "busy")["status"]["host"] == "host2"
    guests.verify()


def test_manager_that_is_away_holds_nobody_up(lab, gate):
    hold_first(lab, gate)
    second = begin(lab, "second", "host3")
    wait_asking(lab, second)
    lab.kill("manager", "manager")
    gate.open()
    # The agent's patience is 15 s from the manager's last word.
    wait_for("the guest to run on host3", lambda: lab.find("host3", "qemu:second") and not lab.find("host2", "qemu:second"), 40)
    lab.start("manager", "manager")
    lab.wait_connected()
    assert result(lab, second)["switchover"]["permit"] == "alone"


def test_manager_that_starts_again_gives_the_permit(lab, gate):
    first = hold_first(lab, gate)
    second = begin(lab, "second", "host3")
    wait_asking(lab, second)
    lab.restart("manager", "manager")
    lab.wait_connected()
    gate.open()
    records = result(lab, first), result(lab, second)
    assert [record["switchover"]["permit"] for record in records] == ["manager", "manager"]
    assert pause_of(records[0])[1] <= pause_of(records[1])[0]


def test_promised_bandwidth_is_kept_from_others_until_it_ends(lab, gate, guests):
    held = gate.hold_at("source-prepare")
    first = begin(lab, "first", "host3", "--min-bandwidth", "9990mbit")
    wait_for("the first to begin", held.exists, 30)
    # 10 Mbit/s are left, of 10 Gbit/s that the interfaces claim, and half of them are the other's: 16 MiB take 27 s.
    second = begin(lab, "busy", "host3")
    guests.wait_sent(second, 1 << 20)
    begun, sent = time.monotonic(), status(lab, second)["progress"]["bytes_wire"]
    time.sleep(2)
    opened, sent_then = time.monotonic(), status(lab, second)["progress"]["bytes_wire"]
    limited = (sent_then - sent) / (opened - begun)
    assert 0 < limited < 15e6 / 8, f"{limited * 8 / 1e6:.1f} Mbit/s"
    gate.open()
    result(lab, first)
    record = result(lab, second)
    assert record["bytes_wire"] > 16 << 20
    freely = (record["bytes_wire"] - sent_then) / (time.monotonic() - opened)
    assert freely > 2 * limited, "it was limited after the first had ended"
    guests.verify()


def test_movers_of_higher_priority_get_more_processor_time(lab, gate):
    held = gate.hold_at("source-switching")
    begin(lab, "first", "host3", "--priority", "critical")
    wait_for("the guest to be paused", held.exists, 30)
    movers = [*lab.find("host1", "mover"), *lab.find("host3", "mover")]
    nice = subprocess.run(["ps", "-o", "ni=", "-p", ",".join(map(str, movers))], text=True, stdout=subprocess.PIPE, check=True)
    assert nice.stdout.split() == ["-16", "-16"]

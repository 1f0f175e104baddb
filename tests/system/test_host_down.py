# SPDX-License-Identifier: Apache-2.0
"""A host that does not come back (docs/handoff.md). Its power fails, in the middle of a migration or not; somebody confirms
that it is down; the guest goes on, or can be started again. And when the host returns, nothing runs twice and nothing is left."""

import json
import time

import pytest
from fault_matrix import PATIENCE_S, DeadHost
from labkit.lab import wait_for


@pytest.fixture
def mortals(cell):
    """Both hosts of the cell, one of which will die: by side. They are alive again for the next test."""
    made = {side: DeadHost(cell.lab, cell.host(side)) for side in ("source", "destination")}
    yield made
    for host in made.values():
        if not cell.lab.find(host.name, "agent"):
            host.return_()


def unsettled(lab, host):
    """The journals of a host's agent that wait for something still."""
    journals = (lab.folder_of(host) / "state/migrations").glob("*.journal")
    return [path.name for path in journals if '"settled"' not in path.read_text(encoding="utf-8").splitlines()[-1]]


def phase(cell):
    return cell.guest.task(cell.task)["status"]["progress"].get("phase")


def wait_until_source_waits(cell):
    wait_for("the source to wait for its peer", lambda: phase(cell) == "waiting-for-peer", 90)


def assert_stands_still(session):
    count = session.count
    time.sleep(3)  # nothing may happen in it
    assert session.count == count, "the guest runs although nobody can know who owns it"


def owner(cell):
    """The VM's owner record."""
    return json.loads((cell.lab.folder / "shared" / cell.guest.name / "owner.json").read_text(encoding="utf-8"))


def uid_of(lab, host):
    return lab.drover_json("host", "show", host)["uid"]


def check_return(cell, dead, host):
    """The dead host is back: the guest stays on `host`, runs there alone, and nothing of it is left on the dead one."""
    dead.return_()
    for name in (dead.name, host):
        wait_for(f"{name} to settle", lambda name=name: unsettled(cell.lab, name) == [])
    wait_for(f"{dead.name} to be clean", lambda: cell.leftovers(dead.name) == [])
    time.sleep(3)  # nothing may happen in it: rounds of the manager, questions of the returned agent
    assert {name for name, pids in cell.qemus().items() if pids} == {host}
    assert (cell.guest.host(), cell.guest.power()) == (host, "running")
    assert owner(cell)["owner"] == uid_of(cell.lab, host)
    cell.guest.verify()


def test_guest_that_its_dead_destination_never_had_goes_on_at_the_source(cell, mortals):
    dead, session = mortals["destination"], cell.guest.session(patience_s=PATIENCE_S)
    epoch = owner(cell)["epoch"]
    cell.begin("handed-off")  # before anything of it has left the source
    dead.die()
    cell.gate.touch()
    wait_until_source_waits(cell)
    assert_stands_still(session)
    assert owner(cell)["epoch"] == epoch
    dead.confirm()
    count = session.count
    wait_for("the guest to go on", lambda: session.count > count + 20, 30)
    task = cell.guest.wait_task(cell.task)
    assert task["status"]["state"] == "failed"
    assert f"host {dead.name} was confirmed down" in task["status"]["error"]["detail"]
    cell.guest.verify()
    assert cell.where() == "source"
    assert (owner(cell)["owner"], owner(cell)["epoch"]) == (uid_of(cell.lab, cell.source), epoch + 2)
    check_return(cell, dead, cell.source)
    session.close()
    cell.passed = True


def test_guest_that_its_dead_destination_had_can_be_started_at_the_source(cell, mortals):
    dead, session = mortals["destination"], cell.guest.session(patience_s=PATIENCE_S)
    epoch = owner(cell)["epoch"]
    cell.begin("owner-written")
    cell.lab.network.cut(dead.name, network="mgmt")
    count = session.count
    cell.gate.touch()
    wait_for("the guest to go on at the destination", lambda: session.count > count + 20, 30)
    dead.die()
    session.abandon()
    wait_until_source_waits(cell)
    assert cell.qemus()[cell.source], "the source let its copy go"
    assert (owner(cell)["owner"], owner(cell)["epoch"]) == (uid_of(cell.lab, dead.name), epoch + 1)
    dead.confirm()
    task = cell.guest.wait_task(cell.task)
    assert task["status"]["state"] == "failed"
    assert f"handed over to host {dead.name}, which was confirmed down" in task["status"]["error"]["detail"]
    assert cell.where() == "crashed"
    wait_for(f"{cell.source} to be clean", lambda: cell.leftovers(cell.source) == [])
    status = cell.guest.document()["status"]
    assert (status["power"], status["owner_epoch"]) == ("crashed", epoch + 2)  # the latest there may be
    assert status["message"] == f"host {dead.name} was confirmed down"
    cell.guest.start(cell.source)
    assert owner(cell)["epoch"] == epoch + 3
    cell.guest.verify()
    check_return(cell, dead, cell.source)
    cell.passed = True


def test_guest_of_a_dead_host_starts_on_another_and_stays_there(cell, mortals):
    dead, other = mortals["source"], cell.destination
    assert cell.lab.run_drover("host", "confirm-down", dead.name, "--yes").returncode == 5
    dead.die()
    dead.confirm()
    assert cell.guest.document()["status"]["message"] == f"host {dead.name} was confirmed down"
    assert cell.guest.power() == "crashed"
    cell.guest.start()
    assert cell.guest.host() == other
    check_return(cell, dead, other)
    cell.passed = True

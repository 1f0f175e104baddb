# SPDX-License-Identifier: Apache-2.0
"""An agent is replaced by a newer one, as a package upgrade does it: ended by SIGTERM in the middle of everything. And hosts of two versions in one
cluster, with --earlier FOLDER: the build folder of a commit before, in a work tree of its own."""

import os
import signal

import pytest
from labkit.lab import Lab, wait_for
from labkit.workload import Workload

LAB = {"hosts": 2}


def end(lab, host):
    pid, = lab.find(host, "agent")
    os.kill(pid, signal.SIGTERM)
    wait_for("the agent to end", lambda: lab.find(host, "agent") == [], 20)


def upgrade(lab, host):
    end(lab, host)
    lab.start(host, "agent")
    lab.wait_connected()


@pytest.fixture(scope="module")
def guests(lab):
    made = [Workload(lab, f"up{number}").create(
        host="host1", append="workload.memory=16,mixed workload.dirty=500,8,random workload.disk=20")
        for number in range(3)]
    yield made
    for guest in made:
        guest.discard()


@pytest.mark.parametrize("host", ["host1", "host2"], ids=["source", "destination"])
def test_upgrade_during_a_migration_leaves_every_guest_alone(guests, lab, host):
    sessions = [guest.session() for guest in guests]
    processes = {guest.name: lab.find("host1", f"qemu:{guest.name}") for guest in guests}
    guests[0].do("memory 64 random")
    task = guests[0].begin_migration("host2", "--rate-limit", "20mbit")
    guests[0].wait_phase(task, ("copying",))
    upgrade(lab, host)
    ended = guests[0].wait_task(task)["status"]
    assert ended["state"] == "failed" and ended["error"]["detail"], ended
    for guest in guests:
        wait_for(f"{guest.name} to be known as running", lambda g=guest: (g.host(), g.power()) == ("host1", "running"))
        assert lab.find("host1", f"qemu:{guest.name}") == processes[guest.name]
    wait_for("the destination to be clean", lambda: lab.find("host2", "qemu") == [])
    for guest, session in zip(guests, sessions):
        session.close()
        guest.verify()


def test_every_guest_can_be_moved_and_stopped_after_upgrades(guests, lab):
    upgrade(lab, "host1")
    upgrade(lab, "host2")
    guests[0].do("memory 16 mixed")
    guests[0].migrate("host2", "--verify")
    upgrade(lab, "host2")
    for guest in guests:
        guest.verify()
    guests[0].migrate("host1", "--verify")
    guests[0].verify()


@pytest.fixture
def earlier(request, lab):
    """host2 has the programs of an earlier version; those of this one come when the test is over, or upgrades."""
    folder = request.config.getoption("--earlier")
    if not folder:
        pytest.skip("no programs of an earlier version: --earlier FOLDER")
    theirs, config = Lab(lab.folder, folder), lab.folder_of("host2") / "agent.conf"
    ours = config.read_text(encoding="utf-8")
    end(lab, "host2")
    config.write_text(ours.replace(str(lab.program("drover-mover")), str(theirs.program("drover-mover"))), encoding="utf-8")
    theirs.start("host2", "agent")
    lab.wait_connected()

    def replace():
        config.write_text(ours, encoding="utf-8")
        upgrade(lab, "host2")
    yield replace
    if config.read_text(encoding="utf-8") != ours:
        replace()


def test_hosts_of_two_versions_move_guests_both_ways(guests, lab, earlier):
    session = guests[0].session()
    guests[0].migrate("host2", "--verify")
    guests[0].verify()
    guests[0].migrate("host1", "--verify")
    guests[0].verify()
    session.close()


def test_guest_of_an_earlier_agent_is_the_newer_ones(guests, lab, earlier):
    session = guests[0].session()
    guests[0].migrate("host2", "--verify")
    process = lab.find("host2", "qemu:up0")
    earlier()
    wait_for("the guest to be known as running", lambda: (guests[0].host(), guests[0].power()) == ("host2", "running"))
    assert lab.find("host2", "qemu:up0") == process
    guests[0].migrate("host1", "--verify")
    guests[0].verify()
    session.close()

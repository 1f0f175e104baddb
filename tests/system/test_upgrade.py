# SPDX-License-Identifier: Apache-2.0
"""An agent is replaced by a newer one, as a package upgrade does it: ended by SIGTERM in the middle of everything."""

import os
import signal

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 2}


def upgrade(lab, host):
    pid, = lab.find(host, "agent")
    os.kill(pid, signal.SIGTERM)
    wait_for("the agent to end", lambda: lab.find(host, "agent") == [], 20)
    lab.start(host, "agent")
    lab.wait_answering(host)


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

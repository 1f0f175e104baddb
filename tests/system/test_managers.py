# SPDX-License-Identifier: Apache-2.0
"""Two managers over one PostgreSQL database: whatever happens to the one that leads, the other one takes over within ten seconds,
what runs goes on, and nobody obeys the old one any more."""

import os
import signal
import subprocess
import time

import pytest
from labkit.lab import wait_for
from manager_faults import POINTS, assert_moved, migrate_until_it_dies, other_host

LAB = {"store": "postgres", "managers": 2, "link": "200mbit", "migrations_per_host": 10}
TAKEOVER_MAX_S = 10
N_MIGRATIONS = 10


@pytest.fixture(autouse=True)
def both_managers(lab):
    """Each test begins with both; what a failed one left is mended."""
    yield
    for manager in lab.managers:
        lab.network.cut(manager, up=True)
        for pid in lab.find(manager, "manager"):
            os.kill(pid, signal.SIGCONT)
        if not lab.find(manager, "manager"):
            lab.start(manager, "manager")
    wait_for("a manager to lead, and the other to stand by", lambda: both_answer(lab))
    lab.wait_connected()


def both_answer(lab):
    return sorted(version["leads"] for version in map(lab.version_of, lab.managers) if version) == [False, True]


def other_manager(lab, manager):
    return next(name for name in lab.managers if name != manager)


def wait_takeover(lab, successor):
    """Seconds until `successor` leads."""
    began = time.monotonic()
    wait_for(f"{successor} to lead", lambda: (lab.version_of(successor) or {}).get("leads"), TAKEOVER_MAX_S, 0.05)
    return time.monotonic() - began


def log_of(lab, machine, program):
    return lab.log_of(machine, program).read_text(encoding="utf-8", errors="replace")


def test_leader_killed_while_ten_migrations_run_and_none_fails(lab, vm):
    guests = [vm(memory="128M", append="workload.memory=24,random workload.dirty=100,4,random") for _ in range(N_MIGRATIONS)]
    sessions = [guest.session(patience_s=120) for guest in guests]
    leader = lab.leader()
    tasks = [guest.begin_migration("host2") for guest in guests]
    wait_for("all migrations to run", lambda: all(guest.task(task)["status"]["step"] == "follow"
                                                  for guest, task in zip(guests, tasks)))
    lab.kill(leader, "manager")
    assert wait_takeover(lab, other_manager(lab, leader)) < TAKEOVER_MAX_S
    unfinished = [task for guest, task in zip(guests, tasks) if not guest.task(task)["status"]["finished"]]
    assert unfinished, "all migrations were over before the takeover: it was not seen"
    for guest, task in zip(guests, tasks):
        assert_moved(lab, guest, task, "host2")
    for session in sessions:
        session.close()


def test_leader_that_wakes_up_is_refused_by_agents_and_store(lab, busy_vm):
    leader = lab.leader()
    successor = other_manager(lab, leader)
    to = other_host(lab, busy_vm)
    task = busy_vm.begin_migration(to)
    busy_vm.wait_phase(task, ("copying",))
    epoch = lab.version_of(leader)["epoch"]
    pid, = lab.find(leader, "manager")
    os.kill(pid, signal.SIGSTOP)
    wait_takeover(lab, successor)
    lab.wait_connected()
    refused = f"epoch {epoch} is older than"
    before = [log_of(lab, host, "agent").count(refused) for host in lab.hosts]
    logged = len(log_of(lab, leader, "manager"))
    os.kill(pid, signal.SIGCONT)
    wait_for(f"{leader} to stand by", lambda: (lab.version_of(leader) or {}).get("leads") is False)
    assert lab.version_of(leader)["leader"] == lab.version_of(successor)["server"]
    # What it did before it knew: calls that the agents refused, and transactions that the store did.
    assert sum(log_of(lab, host, "agent").count(refused) for host in lab.hosts) > sum(before)
    assert "leads now" in log_of(lab, leader, "manager")[logged:]
    assert lab.find(leader, "manager") == [pid]
    assert_moved(lab, busy_vm, task, to)


def test_leader_cut_off_from_everything_is_replaced_and_stands_by_when_it_is_back(lab, busy_vm):
    leader = lab.leader()
    to = other_host(lab, busy_vm)
    task = busy_vm.begin_migration(to)
    busy_vm.wait_phase(task, ("copying",))
    lab.network.cut(leader)
    wait_takeover(lab, other_manager(lab, leader))
    lab.network.cut(leader, up=True)
    wait_for(f"{leader} to stand by", lambda: (lab.version_of(leader) or {}).get("leads") is False)
    assert_moved(lab, busy_vm, task, to)


def test_leader_that_is_restarted_hands_over_and_events_go_on(lab):
    leader = lab.leader()
    command, environment = lab.command("client", lab.program("drover"), "events", "--kinds", "token")
    with open(lab.folder / "events.txt", "w+", encoding="utf-8") as output:
        watch = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            time.sleep(1)  # the stream has no sign of its own that it stands; an event before it does not count
            lab.drover("token", "create", "before", "--role", "read-only")
            pid, = lab.find(leader, "manager")
            os.kill(pid, signal.SIGTERM)
            assert wait_takeover(lab, other_manager(lab, leader)) < 5, "nobody has to wait for one that ends"
            lab.drover("token", "create", "after", "--role", "read-only")

            def both_seen():
                output.seek(0)
                text = output.read()
                return "before" in text and "after" in text
            wait_for("the events of both leaders", both_seen)
        finally:
            subprocess.run(["pkill", "--signal", "INT", "--parent", str(watch.pid)], check=False)
            watch.kill()
            watch.wait()
    lab.drover("token", "delete", "before")
    lab.drover("token", "delete", "after")


def test_database_that_crashes_and_returns_costs_no_migration(lab, busy_vm):
    to = other_host(lab, busy_vm)
    task = busy_vm.begin_migration(to)
    busy_vm.wait_phase(task, ("copying",))
    lab.database.stop()
    time.sleep(7)  # longer than any lease
    assert lab.leader() is None
    assert "cannot open the store" in lab.run_drover("vm", "list").stderr
    lab.database.start()
    assert_moved(lab, busy_vm, task, to)


@pytest.mark.parametrize("point", POINTS)
def test_leader_killed_at_a_step_is_replaced_and_the_migration_goes_on(lab, matrix_guest, point):
    leader = lab.leader()
    task, to = migrate_until_it_dies(lab, matrix_guest, leader, point)
    wait_takeover(lab, other_manager(lab, leader))
    assert_moved(lab, matrix_guest, task, to)

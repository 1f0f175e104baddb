# SPDX-License-Identifier: Apache-2.0
"""Two managers over one PostgreSQL database: whatever happens to the one that leads, the other one takes over within ten seconds,
what runs goes on, and nobody obeys the old one any more."""

import os
import signal
import ssl
import subprocess
import time

import pytest
from labkit import netns, network
from labkit.lab import AGENT_PORT, LabError, wait_for
from manager_faults import POINTS, Submission, assert_moved, migrate_until_it_dies, other_host

LAB = {"store": "postgres", "managers": 2, "link": "100mbit",
       "manager_settings": {"host-cost-limit": 10, "network-cost-limit": 10, "network-cost-limit-10g": 10}}
TAKEOVER_MAX_S = 10
GAVE_UP = "gave up the lead: another manager may take over at once"


def pytest_generate_tests(metafunc):
    if "leader_point" in metafunc.fixturenames:
        metafunc.parametrize("leader_point", POINTS if metafunc.config.getoption("--all-points") else POINTS[2::4])


@pytest.fixture
def moving_vm(vm):
    """A guest whose migration takes about as long as a takeover."""
    return vm(append="workload.memory=96,random workload.dirty=100,4,random")


@pytest.fixture(autouse=True)
def both_managers(lab):
    """Each test begins with both; what a failed one left is mended."""
    yield
    lab.network.shape("host1", "eth0", network.MGMT, network.parse_rate(LAB["link"]))
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


def call_agent(lab, manager, host_number, epoch):
    """What the agent of a host answers to a change that a manager asks for under an epoch."""
    pki = lab.folder_of(manager) / "state/pki"
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.check_hostname = False
    context.load_cert_chain(pki / "manager.pem", pki / "manager.key")
    body = '{"hosts": []}'
    with netns.connect(lab.machines.pid(manager), (network.host_address(host_number), AGENT_PORT)) as plain, \
            context.wrap_socket(plain) as connection:
        connection.sendall((f"PUT /agent/v1/fenced-hosts HTTP/1.1\r\nHost: agent\r\nX-Drover-Epoch: {epoch}\r\n"
                            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}").encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_leader_killed_while_many_migrations_run_and_none_fails(lab, vm, request):
    guests = [vm(memory="128M", append="workload.memory=48,random", start=False)
              for _ in range(request.config.getoption("--takeover-migrations"))]
    for guest in guests:
        lab.drover("--no-wait", "vm", "start", guest.name, "--host", "host1")
    for guest in guests:
        guest.wait_ready(300)
    sessions = [guest.session(patience_s=120) for guest in guests[:2]]
    leader = lab.leader()
    # So slow that none is over before the takeover, whatever else this machine has to do.
    lab.network.shape("host1", "eth0", network.MGMT, 20 * 10**6)
    tasks = [submission.task() for submission in [Submission(lab, guest, "host2") for guest in guests]]
    wait_for("all migrations to copy", lambda: all(guest.task(task)["status"]["step"] == "follow"
                                                   for guest, task in zip(guests, tasks)), 120)
    lab.kill(leader, "manager")
    print(f"taken over in {wait_takeover(lab, other_manager(lab, leader)):.1f} s")
    assert [task for guest, task in zip(guests, tasks) if guest.task(task)["status"]["finished"]] == []
    lab.network.shape("host1", "eth0", network.MGMT, 10**9)
    for guest, task in zip(guests, tasks):
        assert_moved(lab, guest, task, "host2")
    for session in sessions:
        session.close()


def test_leader_that_wakes_up_is_refused_by_agents_and_store(lab, moving_vm):
    leader = lab.leader()
    successor = other_manager(lab, leader)
    to = other_host(lab, moving_vm)
    task = moving_vm.begin_migration(to)
    moving_vm.wait_phase(task, ("copying",))
    epoch = lab.version_of(leader)["epoch"]
    pid, = lab.find(leader, "manager")
    os.kill(pid, signal.SIGSTOP)
    wait_takeover(lab, successor)
    lab.wait_connected()
    os.kill(pid, signal.SIGCONT)
    new = lab.version_of(successor)
    wait_for(f"{leader} to know who leads", lambda: (lab.version_of(leader) or {}).get("leader") == new["server"])
    # Whatever it may have said in its term before it knew, in the middle of something: store and agents refuse it.
    with pytest.raises(LabError, match=f"ERROR: +{new['epoch']}\nDETAIL: +{new['server']}"):
        lab.database.sql(f"SELECT drover.commit_changes({epoch}, '{{f}}', '{{vm}}', '{{u}}', '{{n}}', '{{0}}', '{{\"{{}}\"}}')")
    for number in range(1, len(lab.hosts) + 1):
        answer = call_agent(lab, leader, number, epoch)
        assert b" 409 " in answer and b"stale-epoch" in answer and b"older than" in answer, answer
    assert lab.find(leader, "manager") == [pid]
    assert_moved(lab, moving_vm, task, to)


def test_leader_cut_off_from_everything_is_replaced_and_stands_by_when_it_is_back(lab, moving_vm):
    leader = lab.leader()
    to = other_host(lab, moving_vm)
    task = moving_vm.begin_migration(to)
    moving_vm.wait_phase(task, ("copying",))
    lab.network.cut(leader)
    wait_takeover(lab, other_manager(lab, leader))
    lab.network.cut(leader, up=True)
    wait_for(f"{leader} to stand by", lambda: (lab.version_of(leader) or {}).get("leads") is False)
    assert_moved(lab, moving_vm, task, to)


def test_leader_that_is_restarted_hands_over_and_events_go_on(lab):
    leader = lab.leader()
    given_up = log_of(lab, leader, "manager").count(GAVE_UP)
    command, environment = lab.command("client", lab.program("drover"), "events", "--kinds", "token")
    with open(lab.folder / "events.txt", "w+", encoding="utf-8") as output:
        watch = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            time.sleep(1)  # the stream has no sign of its own that it stands; an event before it does not count
            lab.drover("token", "create", "before", "--role", "read-only")
            pid, = lab.find(leader, "manager")
            os.kill(pid, signal.SIGTERM)
            wait_takeover(lab, other_manager(lab, leader))
            assert log_of(lab, leader, "manager").count(GAVE_UP) == given_up + 1
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
    lab.drover("token", "revoke", "before")
    lab.drover("token", "revoke", "after")


def test_database_that_crashes_and_returns_costs_no_migration(lab, moving_vm):
    to = other_host(lab, moving_vm)
    task = moving_vm.begin_migration(to)
    moving_vm.wait_phase(task, ("copying",))
    lab.database.stop()
    time.sleep(7)  # longer than any lease
    assert lab.leader() is None
    assert "its store cannot be reached" in lab.run_drover("vm", "list").stderr
    lab.database.start()
    assert_moved(lab, moving_vm, task, to)


def test_leader_killed_at_a_step_is_replaced_and_the_migration_goes_on(lab, matrix_guest, leader_point):
    leader = lab.leader()
    submission, to = migrate_until_it_dies(lab, matrix_guest, leader, leader_point)
    wait_takeover(lab, other_manager(lab, leader))
    assert_moved(lab, matrix_guest, submission.task(), to)

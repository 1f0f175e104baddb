# SPDX-License-Identifier: Apache-2.0
"""Guests that change their memory faster than the link carries: each kind of help moves one that nothing before it could move,
and one that nothing moves stays whole where it is. The policy of each test allows one step only, so that no other can have
done it.

On QEMU 10.0: what is judged here is drover, not QEMU 7.2's own loss of dirty pages under TCG."""

import json
import threading

import pytest
from labkit.lab import LabError, wait_for

LAB = {"hosts": 2, "link": "40mbit", "qemu_versions": {"host1": "10.0", "host2": "10.0"}}

# 4 KiB of noise each: twenty times what the link carries, so that it is too fast on a busy machine as well; over memory that takes two
# seconds to send.
TOO_FAST = "dirty 25000 10 random page"
QUIET = "dirty 10 10 random page"


@pytest.fixture
def wild_vm(vm):
    guest = vm(memory="128M", append="workload.memory=16,random workload.disk=50")
    guest.do(TOO_FAST)
    return guest


def steps(record):
    return [line["step"] for line in record]


def check_stays(guest, lab, session):
    assert (guest.host(), guest.power()) == ("host1", "running")
    assert lab.find("host2", f"qemu:{guest.name}") == []
    guest.do(QUIET)
    session.close()
    guest.verify()


def fails(guest, *options):
    """A migration that has to fail: {"status"} of its task."""
    task = guest.wait_task(guest.begin_migration("host2", *options), 300)
    assert task["status"]["state"] == "failed", json.dumps(task["status"].get("result"))
    return task["status"]


def test_throttling_moves_a_guest_that_precopy_cannot_move(wild_vm, lab):
    session = wild_vm.session(120)
    assert fails(wild_vm, "--converge", "none")["error"]["code"] == "not-converging"
    result = wild_vm.migrate("host2", "--converge", "throttle", "--verify")
    print(json.dumps(result, indent=1))
    assert result["converged_by"] == "throttle"
    assert result["throttle_percent"] >= 20 and set(steps(result["convergence"])) == {"throttle"}
    assert result["max_pause_ms"] == 300
    wild_vm.do(QUIET)
    session.close()
    wild_vm.verify()
    assert wild_vm.host() == "host2"


def test_longer_pause_moves_a_guest_in_stated_steps(wild_vm, lab):
    session = wild_vm.session(120)
    result = wild_vm.migrate("host2", "--converge", "pause=20s", "--verify")
    print(json.dumps(result, indent=1))
    assert result["converged_by"] == "longer-pause" and result["throttle_percent"] == 0
    bounds = [line["max_pause_ms"] for line in result["convergence"]]
    assert bounds == [min(600 << number, 20000) for number in range(len(bounds))]
    assert result["max_pause_ms"] == bounds[-1]
    wild_vm.do(QUIET)
    session.close()
    wild_vm.verify()


def test_migration_that_nothing_helps_gives_up_and_the_guest_runs_on(wild_vm, lab):
    session = wild_vm.session(120)
    status = fails(wild_vm, "--converge", "pause=400ms,throttle=10,wait=2s")
    error = status["error"]
    print(json.dumps(error), json.dumps(status["progress"].get("convergence")))
    assert error["code"] == "not-converging"
    assert "a pause of up to 400 ms" in json.dumps(error) and "throttling" in json.dumps(error)
    assert list(dict.fromkeys(steps(status["progress"]["convergence"]))) == ["pause", "throttle", "wait"]
    check_stays(wild_vm, lab, session)


def test_quiet_moment_of_a_breathing_load_is_taken(wild_vm, lab):
    """It is fast for 6 s and quiet for 6 s, by turns: neither throttle nor a longer pause is allowed."""
    stop = threading.Event()

    def breathe():
        while not stop.is_set():
            for load in (TOO_FAST, QUIET):
                try:
                    wild_vm.do(load)
                except (OSError, LabError):
                    pass  # it is moving just now; the next breath finds it
                if stop.wait(6):
                    return

    session = wild_vm.session(120)
    wild_vm.do(TOO_FAST)
    task = wild_vm.begin_migration("host2", "--converge", "wait=4m", "--verify")

    def waits():
        status = wild_vm.task(task)["status"]
        return status["finished"] or status["progress"].get("convergence")

    wait_for("the migration to wait for a quiet moment", waits, 120)
    breath = threading.Thread(target=breathe)
    breath.start()
    try:
        ended = wild_vm.wait_task(task, 300)
    finally:
        stop.set()
        breath.join()
    result = ended["status"]["result"]
    print(json.dumps(ended["status"], indent=1))
    assert ended["status"]["state"] == "succeeded"
    assert result["converged_by"] == "quiet-moment" and steps(result["convergence"]) == ["wait"]
    assert result["throttle_percent"] == 0 and result["max_pause_ms"] == 300
    wild_vm.do(QUIET)
    session.close()
    wild_vm.verify()
    assert wild_vm.host() == "host2"


def test_cancel_works_while_a_step_is_in_force(wild_vm, lab):
    session = wild_vm.session(120)
    task = wild_vm.begin_migration("host2", "--converge", "wait=1h")
    wait_for("a step", lambda: wild_vm.task(task)["status"]["progress"].get("convergence"), 120)
    lab.drover("task", "cancel", task)
    assert wild_vm.wait_task(task)["status"]["state"] == "cancelled"
    check_stays(wild_vm, lab, session)


def test_time_limit_ends_a_step_in_force(wild_vm, lab):
    session = wild_vm.session(120)
    status = fails(wild_vm, "--converge", "wait=1h", "--give-up", "15s")
    assert status["error"]["code"] == "timed-out"
    check_stays(wild_vm, lab, session)


def test_policy_that_makes_no_sense_is_refused_by_name(wild_vm, lab):
    for text, word in (("pray", "pray"), ("pause", "pause"), ("pause=100ms", "max_ms"), ("throttle=120", "120")):
        done = lab.run_drover("vm", "migrate", wild_vm.name, "--to", "host2", "--converge", text)
        assert done.returncode != 0 and word in done.stderr, done.stderr
    assert wild_vm.host() == "host1"

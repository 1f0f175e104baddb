# SPDX-License-Identifier: Apache-2.0
"""Post-copy: a guest that nothing else can move goes on at the destination before its memory is there. drover cannot compare the two
memories then, so the guest itself checks every byte of what it wrote."""

import json
import time

import pytest
from labkit.lab import wait_for

LAB = {"hosts": 2, "link": "100mbit", "qemu_versions": {"host1": "10.0", "host2": "10.0"}}

# 4 KiB of noise each: eight times what the link carries, over memory that takes more than three seconds to send.
TOO_FAST = "dirty 25000 40 random page"
QUIET = "dirty 10 24 random page"


@pytest.fixture
def wild_vm(vm):
    guest = vm(memory="160M", append="workload.memory=48,random workload.disk=50")
    guest.do(TOO_FAST)
    return guest


def other(guest):
    return "host2" if guest.host() == "host1" else "host1"


def test_guest_that_nothing_else_moves_goes_on_at_the_destination(wild_vm, lab):
    session = wild_vm.session(120)
    result = wild_vm.migrate("host2", "--converge", "post-copy")
    print(json.dumps(result, indent=1))
    assert result["converged_by"] == "post-copy"
    assert [line["step"] for line in result["convergence"]] == ["post-copy"]
    assert result["throttle_percent"] == 0 and result["verified"] is False and result["tunnel"] is False
    assert result["post_copy"]["pages_requested"] > 0 and result["post_copy"]["bytes"] > 16 << 20
    assert result["pause_ms"] < 1500
    wild_vm.do(QUIET)
    session.close()
    wild_vm.verify()
    assert (wild_vm.host(), wild_vm.power()) == ("host2", "running")
    assert lab.find("host1", f"qemu:{wild_vm.name}") == []


def begin(guest):
    """A migration whose guest runs at the destination already, while memory is still missing there."""
    destination = other(guest)
    task = guest.begin_migration(destination, "--converge", "post-copy")
    wait_for("post-copy", lambda: guest.task(task)["status"]["progress"].get("phase") == "post-copy", 120, 0.05)
    return task, destination


@pytest.mark.parametrize("victim", ["source mover", "destination mover", "source agent", "destination agent", "source qemu",
                                    "destination qemu"])
def test_loss_in_post_copy_ends_the_guest_on_both_sides(wild_vm, lab, victim):
    source = wild_vm.host()
    session = wild_vm.session(120)
    task, destination = begin(wild_vm)
    side, program = victim.split()
    host = {"source": source, "destination": destination}[side]
    lab.kill(host, f"qemu:{wild_vm.name}" if program == "qemu" else program)
    if program == "agent":
        lab.start(host, "agent")
        lab.wait_connected()
    ended = wild_vm.wait_task(task, 120)
    print(json.dumps(ended["status"], indent=1))
    assert ended["status"]["state"] == "failed" and "post-copy" in json.dumps(ended["status"]["error"])
    wait_for("no QEMU on either side", lambda: no_qemu(wild_vm, lab), 60)
    wait_for("the end to be noticed", lambda: wild_vm.power() == "crashed", 60)
    session.abandon()
    wild_vm.start(source)
    wait_for("the guest to run again", lambda: wild_vm.power() == "running", 60)


def no_qemu(guest, lab):
    return not any(lab.find(host, f"qemu:{guest.name}") for host in lab.hosts)


def test_path_that_is_cut_for_a_while_is_made_again(wild_vm, lab):
    session = wild_vm.session(120)
    task, destination = begin(wild_vm)
    lab.network.cut(destination, network="mgmt")
    time.sleep(12)  # the source takes a connection for lost after 10 s
    lab.network.cut(destination, up=True, network="mgmt")
    ended = wild_vm.wait_task(task, 120)
    print(json.dumps(ended["status"], indent=1))
    assert ended["status"]["state"] == "succeeded"
    assert ended["status"]["result"]["reconnects"] > 0
    wild_vm.do(QUIET)
    session.close()
    wild_vm.verify()


def test_path_that_stays_cut_ends_the_guest_on_both_sides(wild_vm, lab):
    session = wild_vm.session(120)
    task, destination = begin(wild_vm)
    lab.network.cut(destination, network="mgmt")
    try:
        wait_for("the destination to end the guest", lambda: not lab.find(destination, f"qemu:{wild_vm.name}"), 150)
    finally:
        lab.network.cut(destination, up=True, network="mgmt")
    ended = wild_vm.wait_task(task, 120)
    assert ended["status"]["state"] == "failed" and "post-copy" in json.dumps(ended["status"]["error"])
    wait_for("no QEMU on either side", lambda: no_qemu(wild_vm, lab), 60)
    wait_for("the end to be noticed", lambda: wild_vm.power() == "crashed", 60)
    session.abandon()


@pytest.mark.parametrize(("point", "victim"), [("source-switching", "mover"), ("source-switching", "agent"),
                                               ("source-handed-off", "mover")])
def test_loss_before_the_command_leaves_the_guest_at_the_source(wild_vm, lab, point, victim):
    source = wild_vm.host()
    session = wild_vm.session(120)
    gate = lab.folder_of(source) / f"gate-{point}-{victim}"
    lab.restart(source, "agent", {"DROVER_HOLD_AT": f"{point}:{gate}"})
    lab.wait_answering(source)
    task = wild_vm.begin_migration(other(wild_vm), "--converge", "post-copy")
    wait_for("the agent to hold", lambda: gate.with_name(f"{gate.name}.held").exists(), 120, 0.02)
    lab.kill(source, victim)
    gate.touch()
    if victim == "agent":
        lab.start(source, "agent")
    lab.wait_connected()
    ended = wild_vm.wait_task(task, 120)
    assert ended["status"]["state"] == "failed", json.dumps(ended["status"])
    wait_for("the guest to run on", lambda: (wild_vm.host(), wild_vm.power()) == (source, "running"), 60)
    wild_vm.do(QUIET)
    session.close()
    wild_vm.verify()


def test_verify_and_post_copy_exclude_each_other(wild_vm, lab):
    done = lab.run_drover("vm", "migrate", wild_vm.name, "--to", "host2", "--converge", "post-copy", "--verify")
    assert done.returncode != 0 and "post-copy" in done.stderr, done.stderr


def test_post_copy_is_the_last_step(wild_vm, lab):
    done = lab.run_drover("vm", "migrate", wild_vm.name, "--to", "host2", "--converge", "post-copy,throttle")
    assert done.returncode != 0 and "last" in done.stderr, done.stderr

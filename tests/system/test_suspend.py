# SPDX-License-Identifier: Apache-2.0
"""Suspending to the datastore and resuming from it, here and elsewhere, and what may go wrong (docs/suspend.md)."""

import contextlib
import itertools
import json
import os
import signal

import pytest
from labkit.lab import LabError, wait_for

PATIENCE_S = 600
_numbers = itertools.count()


def folder(lab, guest):
    return lab.folder / "shared" / guest.name


def states(lab, guest):
    return [*folder(lab, guest).glob("suspend.*")]


def suspend(lab, guest):
    return lab.drover_json("vm", "suspend", guest.name)["status"]["result"]


def resume(lab, guest, *words):
    result = lab.drover_json("vm", "resume", guest.name, *words)["status"]["result"]
    guest.wait_ready()
    return result


def test_suspended_guest_goes_on_where_it_was(busy_vm, lab):
    session = busy_vm.session(patience_s=PATIENCE_S)
    written = wait_for("records", lambda: busy_vm.status()["records_written"] or None, 60)
    result = suspend(lab, busy_vm)
    assert 0 < result["bytes"] < result["stream_bytes"]
    assert busy_vm.power() == "suspended"
    assert lab.find("host1", f"qemu:{busy_vm.name}") == []
    assert len(states(lab, busy_vm)) == 2
    result = resume(lab, busy_vm)
    assert result["resume_ms"] > 0
    assert busy_vm.power() == "running"
    assert states(lab, busy_vm) == []
    busy_vm.verify()
    assert busy_vm.status()["records_written"] >= written
    session.close()


def test_it_resumes_on_another_host_and_comes_back(busy_vm, lab):
    session = busy_vm.session(patience_s=PATIENCE_S)
    for host in ("host2", "host1"):
        suspend(lab, busy_vm)
        resume(lab, busy_vm, "--host", host)
        assert busy_vm.host() == host
        busy_vm.verify()
    busy_vm.migrate("host2")
    busy_vm.verify()
    session.close()


def test_plain_start_of_a_suspended_vm_is_refused_unless_its_state_is_discarded(vm, lab):
    guest = vm()
    suspend(lab, guest)
    with pytest.raises(LabError, match="discard-state"):
        guest.start()
    assert guest.power() == "suspended"
    lab.drover("vm", "start", guest.name, "--discard-state")
    guest.wait_ready()
    assert states(lab, guest) == []


def test_memory_is_not_put_beside_disks_that_have_changed(vm, lab):
    guest = vm()
    suspend(lab, guest)
    kept = {path.name: path.read_bytes() for path in states(lab, guest)}
    resume(lab, guest)
    lab.drover("vm", "stop", guest.name, "--force")
    for name, content in kept.items():
        (folder(lab, guest) / name).write_bytes(content)
    with pytest.raises(LabError, match="does not fit its disks"):
        lab.drover("vm", "resume", guest.name)
    guest.start()
    assert states(lab, guest) == []


def test_what_a_host_remembers_of_a_suspended_vm_does_not_keep_it_from_starting_there(vm, lab):
    guest = vm()
    suspend(lab, guest)
    resume(lab, guest, "--host", "host2")
    lab.drover("vm", "stop", guest.name, "--force")
    lab.drover("vm", "start", guest.name, "--host", "host1")
    guest.wait_ready()
    assert guest.host() == "host1"


def change_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [
    change_byte,
    lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    lambda path: path.write_bytes(path.read_bytes() + b"more"),
    lambda path: path.unlink(),
], ids=["changed", "short", "long", "gone"])
def test_damaged_state_is_refused_with_the_way_out(vm, lab, damage):
    guest = vm()
    suspend(lab, guest)
    state, = folder(lab, guest).glob("suspend.*.state")
    good = state.read_bytes()
    damage(state)
    with pytest.raises(LabError, match="damaged(.|\n)*discard-state"):
        lab.drover("vm", "resume", guest.name)
    assert guest.power() == "suspended"
    state.write_bytes(good)
    resume(lab, guest)
    guest.verify()


def test_state_of_another_vm_is_refused(vm, lab):
    guest, other = vm(), vm()
    suspend(lab, guest)
    suspend(lab, other)
    record = folder(lab, guest) / "suspend.json"
    own = record.read_bytes()
    record.write_bytes((folder(lab, other) / "suspend.json").read_bytes())
    with pytest.raises(LabError, match="damaged"):
        lab.drover("vm", "resume", guest.name)
    record.write_bytes(own)
    resume(lab, guest)


def test_paused_guest_can_be_suspended_and_runs_when_it_is_resumed(vm, lab):
    guest = vm()
    lab.drover("vm", "pause", guest.name)
    suspend(lab, guest)
    resume(lab, guest)
    assert guest.power() == "running"
    guest.verify()


def test_deleting_a_suspended_vm_leaves_nothing(vm, lab):
    guest = vm()
    suspend(lab, guest)
    lab.drover("vm", "delete", guest.name)
    assert not folder(lab, guest).exists()


def test_restarted_agent_knows_what_is_suspended(vm, lab):
    guest = vm()
    suspend(lab, guest)
    lab.restart("host1", "agent")
    lab.wait_connected()
    assert guest.power() == "suspended"
    resume(lab, guest)
    guest.verify()


# Where the agent kills itself; the task asks it again when it is back.
POINTS = ("suspend-stopped", "suspend-writing", "suspend-written", "suspend-complete", "suspend-noted",
          "restore-loaded", "restore-owner", "restore-continuing", "restore-running")


@pytest.mark.parametrize("point", POINTS)
def test_agent_that_dies_at_a_point_loses_nothing(busy_vm, lab, point):
    session = busy_vm.session(patience_s=PATIENCE_S)
    gate = lab.folder / f"gate-{next(_numbers)}"
    verb = point.partition("-")[0].replace("restore", "resume")
    if verb == "resume":
        suspend(lab, busy_vm)
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"{point}:{gate}"})
    lab.wait_connected()
    task = lab.drover_json("--no-wait", "vm", verb, busy_vm.name)["name"]
    wait_for(f"the agent to die at {point}", lambda: gate.exists() and not lab.find("host1", "agent"), 60, 0.05)
    lab.start("host1", "agent")
    lab.wait_connected()
    busy_vm.wait_task(task)
    if busy_vm.power() == "suspended":
        resume(lab, busy_vm)
    wait_for("the guest to run", lambda: busy_vm.power() == "running", 60)
    busy_vm.wait_ready()
    busy_vm.verify()
    session.close()
    lab.drover("vm", "suspend", busy_vm.name)
    assert json.loads((folder(lab, busy_vm) / "suspend.json").read_text())["vm"] == busy_vm.uid()
    resume(lab, busy_vm)
    busy_vm.verify()


def die_at(lab, guest, point, *words):
    """Runs the command and lets the agent end itself at this point of it; the command's task."""
    gate = lab.folder / f"gate-{next(_numbers)}"
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"{point}:{gate}"})
    lab.wait_connected()
    task = lab.drover_json("--no-wait", "vm", *words, guest.name)["name"]
    wait_for(f"the agent to die at {point}", lambda: gate.exists() and not lab.find("host1", "agent"), 60, 0.05)
    return task


# The record of the VM's owner as another host would have left it that ran the VM meanwhile.
@pytest.mark.parametrize("point", ["suspend-written", "suspend-complete", "restore-continuing"])
def test_guest_whose_vm_ran_elsewhere_meanwhile_never_goes_on(vm, lab, point):
    guest = vm()
    verb = point.partition("-")[0].replace("restore", "resume")
    if verb == "resume":
        suspend(lab, guest)
    task = die_at(lab, guest, point, verb)
    record = folder(lab, guest) / "owner.json"
    owner = json.loads(record.read_text())
    other = lab.drover_json("host", "show", "host2")["uid"]
    assert owner["owner"] != other
    owner.update(owner=other, epoch=owner["epoch"] + 1)
    record.write_text(json.dumps(owner))
    assert lab.find("host1", f"qemu:{guest.name}")
    told = len(lab.log_of("host1", "agent").read_text())
    lab.start("host1", "agent")
    wait_for("QEMU to be ended", lambda: not lab.find("host1", f"qemu:{guest.name}"), 60)
    lab.wait_connected()
    log = lab.log_of("host1", "agent").read_text()[told:]
    assert "took the virtual machine with epoch" in log
    assert f"({guest.uid()}): running" not in log
    assert guest.wait_task(task)["status"]["state"] == "failed"
    assert json.loads(record.read_text()) == owner
    owner.update(owner=lab.drover_json("host", "show", "host1")["uid"])
    record.write_text(json.dumps(owner))


def test_paused_guest_whose_agent_dies_is_suspended_all_the_same(vm, lab):
    guest = vm()
    lab.drover("vm", "pause", guest.name)
    task = die_at(lab, guest, "suspend-written", "suspend")
    lab.start("host1", "agent")
    lab.wait_connected()
    assert guest.wait_task(task)["status"]["state"] == "succeeded"
    assert guest.power() == "suspended"
    resume(lab, guest)
    guest.verify()


@pytest.fixture
def halted(vm, lab):
    """A guest whose QEMU stands still, with the task that suspends it, which therefore comes to nothing for now."""
    guest = vm()
    qemu, = lab.find("host1", f"qemu:{guest.name}")
    os.kill(qemu, signal.SIGSTOP)
    yield guest, qemu
    for pid in lab.find("host1", f"qemu:{guest.name}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def begin_suspend(lab, guest, *words):
    name = lab.drover_json("--no-wait", "vm", "suspend", guest.name, *words)["name"]
    wait_for("the suspending to begin", lambda: guest.power() == "suspending", 60)
    return name


def test_cancelled_suspending_leaves_the_guest_running(halted, lab):
    guest, qemu = halted
    task = begin_suspend(lab, guest)
    lab.drover("task", "cancel", task)
    os.kill(qemu, signal.SIGCONT)
    assert guest.wait_task(task)["status"]["state"] == "cancelled"
    wait_for("the guest to run on", lambda: guest.power() == "running", 60)
    guest.verify()
    suspend(lab, guest)
    resume(lab, guest)
    guest.verify()


def test_forced_stop_ends_a_guest_that_cannot_go_on(halted, lab):
    guest, _ = halted
    task = begin_suspend(lab, guest)
    lab.drover("task", "cancel", task)
    assert guest.wait_task(task)["status"]["state"] == "cancelled"
    lab.drover("vm", "stop", guest.name, "--force")
    wait_for("its end", lambda: guest.power() == "stopped", 60)
    assert lab.find("host1", f"qemu:{guest.name}") == []
    guest.start()
    guest.verify()


def test_suspending_ends_at_its_time_limit(halted, lab):
    guest, qemu = halted
    task = begin_suspend(lab, guest, "--patience", "1s")
    # Not before the agent has given up: it then waits for QEMU to let the guest go on.
    wait_for("the agent to give up", lambda: "not written in time" in lab.log_of("host1", "agent").read_text(), 60)
    os.kill(qemu, signal.SIGCONT)
    status = guest.wait_task(task)["status"]
    assert status["state"] == "failed" and "not written in time" in status["error"]["detail"]
    assert guest.power() == "running"
    assert states(lab, guest) == []
    guest.verify()


def test_qemu_that_dies_while_it_is_suspended_is_a_crash(halted, lab):
    guest, _ = halted
    task = begin_suspend(lab, guest)
    lab.kill("host1", f"qemu:{guest.name}")
    assert guest.wait_task(task)["status"]["state"] == "failed"
    wait_for("the crash to be known", lambda: guest.power() == "crashed", 60)
    with pytest.raises(LabError, match="not suspended"):
        lab.drover("vm", "resume", guest.name)
    guest.start()
    guest.verify()


def test_manager_that_is_killed_while_a_vm_is_suspended_goes_on(halted, lab):
    guest, qemu = halted
    task = begin_suspend(lab, guest)
    lab.kill("manager", "manager")
    lab.start("manager", "manager")
    lab.wait_connected()
    os.kill(qemu, signal.SIGCONT)
    assert guest.wait_task(task)["status"]["state"] == "succeeded"
    assert guest.power() == "suspended"
    resume(lab, guest)
    guest.verify()

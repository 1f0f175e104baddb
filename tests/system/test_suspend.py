# SPDX-License-Identifier: Apache-2.0
"""Suspending to the datastore and resuming from it, here and elsewhere, and what may go wrong (docs/suspend.md).

One guest with a workload goes through all that leaves it running; what it went through before makes it only harder. Where no guest is needed to
tell, machines take its place that show no more than their firmware."""

import contextlib
import fcntl
import itertools
import json
import os
import signal
import subprocess
import struct

import pytest
from labkit.lab import LabError, wait_for
from labkit.workload import Workload

PATIENCE_S = 600
_numbers = itertools.count()


class Machine:
    """A VM without a guest."""

    def __init__(self, lab):
        self.lab, self.name = lab, f"machine{next(_numbers)}"
        lab.wait_connected()
        lab.drover("vm", "create", self.name, "--memory", "32M", "--disk", "shared:1M,format=raw", "--net", "default", "--host", "host1",
                   "--start")

    def document(self):
        return self.lab.drover_json("vm", "show", self.name)

    def power(self):
        return self.document()["status"]["power"]

    def wait_ready(self):
        assert self.power() == "running"

    def wait_task(self, name):
        return Workload.wait_task(self, name)

    def task(self, name):
        return self.lab.drover_json("task", "show", name)

    def discard(self):
        self.lab.run_drover("vm", "stop", self.name, "--force")
        self.lab.run_drover("vm", "delete", self.name)


@pytest.fixture
def machine(lab):
    made = []

    def make():
        made.append(Machine(lab))
        return made[-1]

    yield make
    for one in made:
        one.discard()


@pytest.fixture(scope="module")
def shared_guest(lab):
    made = Workload(lab, "busy").create(host="host1", memory="128M", append="workload.memory=32,mixed workload.dirty=2000,16,random "
                                                                            "workload.disk=50")
    yield made
    made.discard()


@pytest.fixture
def guest(lab, shared_guest):
    """It runs, on host1."""
    lab.wait_connected()
    wait_for("the guest's state to be known", lambda: shared_guest.power() not in ("unknown", "starting"), 60)
    if shared_guest.power() == "running" and shared_guest.host() != "host1":
        lab.drover("vm", "suspend", shared_guest.name)
        lab.drover("vm", "resume", shared_guest.name, "--host", "host1")
    elif shared_guest.power() != "running":
        if shared_guest.power() in ("paused", "suspending"):
            lab.drover("vm", "stop", shared_guest.name, "--force")
        lab.drover("vm", "start", shared_guest.name, "--discard-state", "--host", "host1")
    shared_guest.wait_ready()
    return shared_guest


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


def test_suspended_guest_goes_on_where_it_was(guest, lab):
    session = guest.session(patience_s=PATIENCE_S)
    written = wait_for("records", lambda: guest.status()["records_written"] or None, 60)
    result = suspend(lab, guest)
    assert 0 < result["bytes"] < result["stream_bytes"]
    assert guest.power() == "suspended"
    assert lab.find("host1", f"qemu:{guest.name}") == []
    assert len(states(lab, guest)) == 2
    assert json.loads((folder(lab, guest) / "suspend.json").read_text())["vm"] == guest.uid()
    result = resume(lab, guest)
    assert result["resume_ms"] > 0
    assert guest.power() == "running"
    assert states(lab, guest) == []
    guest.verify()
    assert guest.status()["records_written"] >= written
    session.close()


def test_it_resumes_on_another_host_and_comes_back(guest, lab):
    session = guest.session(patience_s=PATIENCE_S)
    for host in ("host2", "host1"):
        suspend(lab, guest)
        resume(lab, guest, "--host", host)
        assert guest.host() == host
        guest.verify()
    guest.migrate("host2")
    guest.verify()
    session.close()


def test_plain_start_of_a_suspended_vm_is_refused_unless_its_state_is_discarded(machine, lab):
    vm = machine()
    suspend(lab, vm)
    with pytest.raises(LabError, match="discard-state"):
        lab.drover("vm", "start", vm.name)
    assert vm.power() == "suspended"
    lab.drover("vm", "start", vm.name, "--discard-state")
    assert vm.power() == "running"
    assert states(lab, vm) == []


def test_memory_is_not_put_beside_disks_that_have_changed(machine, lab):
    vm = machine()
    suspend(lab, vm)
    kept = {path.name: path.read_bytes() for path in states(lab, vm)}
    resume(lab, vm)
    lab.drover("vm", "stop", vm.name, "--force")
    for name, content in kept.items():
        (folder(lab, vm) / name).write_bytes(content)
    with pytest.raises(LabError, match="does not fit its disks"):
        lab.drover("vm", "resume", vm.name)
    lab.drover("vm", "start", vm.name)
    assert states(lab, vm) == []


def test_what_a_host_remembers_of_a_suspended_vm_does_not_keep_it_from_starting_there(machine, lab):
    vm = machine()
    suspend(lab, vm)
    resume(lab, vm, "--host", "host2")
    lab.drover("vm", "stop", vm.name, "--force")
    lab.drover("vm", "start", vm.name, "--host", "host1")
    assert (vm.power(), vm.document()["status"]["host"]) == ("running", "host1")


def change_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "changed": change_byte,
    "short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "long": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "gone": lambda path: path.unlink(),
}


def test_damaged_state_is_refused_with_the_way_out(guest, lab):
    suspend(lab, guest)
    state, = folder(lab, guest).glob("suspend.*.state")
    good = state.read_bytes()
    for kind, damage in DAMAGES.items():
        damage(state)
        with pytest.raises(LabError, match="damaged(.|\n)*discard-state"):
            lab.drover("vm", "resume", guest.name)
        assert guest.power() == "suspended", kind
        state.write_bytes(good)
    # A host that had not heard of it takes it for nothing else.
    change_byte(state)
    with pytest.raises(LabError, match="damaged"):
        lab.drover("vm", "resume", guest.name, "--host", "host2")
    assert f"({guest.uid()}): suspended: " in lab.log_of("host2", "agent").read_text()
    state.write_bytes(good)
    resume(lab, guest, "--host", "host1")
    guest.verify()


def test_state_of_another_vm_is_refused(machine, lab):
    vm, other = machine(), machine()
    suspend(lab, vm)
    suspend(lab, other)
    record = folder(lab, vm) / "suspend.json"
    own = record.read_bytes()
    record.write_bytes((folder(lab, other) / "suspend.json").read_bytes())
    with pytest.raises(LabError, match="damaged"):
        lab.drover("vm", "resume", vm.name)
    record.write_bytes(own)
    resume(lab, vm)


def test_paused_guest_can_be_suspended_and_runs_when_it_is_resumed(guest, lab):
    lab.drover("vm", "pause", guest.name)
    suspend(lab, guest)
    resume(lab, guest)
    assert guest.power() == "running"
    guest.verify()


def test_deleting_a_suspended_vm_leaves_nothing(machine, lab):
    vm = machine()
    suspend(lab, vm)
    lab.drover("vm", "delete", vm.name)
    assert not folder(lab, vm).exists()


def test_restarted_agent_knows_what_is_suspended(guest, lab):
    suspend(lab, guest)
    lab.restart("host1", "agent")
    lab.wait_connected()
    assert guest.power() == "suspended"
    resume(lab, guest)
    guest.verify()


def die_at(lab, vm, point, *words):
    """Runs the command and lets the agent end itself at this point of it; the command's task."""
    gate = lab.folder / f"gate-{next(_numbers)}"
    lab.restart("host1", "agent", {"DROVER_CRASH_AT": f"{point}:{gate}"})
    lab.wait_connected()
    task = lab.drover_json("--no-wait", "vm", *words, vm.name)["name"]
    wait_for(f"the agent to die at {point}", lambda: gate.exists() and not lab.find("host1", "agent"), 60, 0.05)
    return task


def verb_of(point):
    return point.partition("-")[0].replace("restore", "resume")


# Where the agent kills itself; the task asks it again when it is back.
POINTS = ("suspend-stopped", "suspend-writing", "suspend-written", "suspend-complete", "suspend-noted",
          "restore-loaded", "restore-owner", "restore-continuing", "restore-running")


# What is left of one is in nobody's way: the same guest is suspended again for the next.
@pytest.mark.parametrize("point", POINTS)
def test_agent_that_dies_at_a_point_loses_nothing(guest, lab, point):
    session = guest.session(patience_s=PATIENCE_S)
    if verb_of(point) == "resume":
        suspend(lab, guest)
    task = die_at(lab, guest, point, verb_of(point))
    lab.start("host1", "agent")
    lab.wait_connected()
    guest.wait_task(task)
    if guest.power() == "suspended":
        resume(lab, guest)
    wait_for("the guest to run", lambda: guest.power() == "running", 60)
    guest.wait_ready()
    guest.verify()
    session.close()


# The record of the VM's owner as another host would have left it that ran the VM meanwhile.
@pytest.mark.parametrize("point", ["suspend-written", "suspend-complete", "restore-continuing"])
def test_guest_whose_vm_ran_elsewhere_meanwhile_never_goes_on(machine, lab, point):
    vm = machine()
    if verb_of(point) == "resume":
        suspend(lab, vm)
    task = die_at(lab, vm, point, verb_of(point))
    record = folder(lab, vm) / "owner.json"
    owner = json.loads(record.read_text())
    other = lab.drover_json("host", "show", "host2")["uid"]
    assert owner["owner"] != other
    owner.update(owner=other, epoch=owner["epoch"] + 1)
    record.write_text(json.dumps(owner))
    assert lab.find("host1", f"qemu:{vm.name}")
    told = len(lab.log_of("host1", "agent").read_text())
    lab.start("host1", "agent")
    wait_for("QEMU to be ended", lambda: not lab.find("host1", f"qemu:{vm.name}"), 60)
    lab.wait_connected()
    log = lab.log_of("host1", "agent").read_text()[told:]
    assert "took the virtual machine with epoch" in log
    assert f"({vm.document()['uid']}): running" not in log
    assert vm.wait_task(task)["status"]["state"] == "failed"
    assert json.loads(record.read_text()) == owner
    owner.update(owner=lab.drover_json("host", "show", "host1")["uid"])
    record.write_text(json.dumps(owner))


def test_guest_goes_on_whatever_is_the_matter_with_the_record_of_a_storage_migration(guest, lab):
    task = die_at(lab, guest, "suspend-complete", "suspend")
    record = folder(lab, guest) / "storage-move.json"
    record.write_text("{")
    told = len(lab.log_of("host1", "agent").read_text())
    lab.start("host1", "agent")
    lab.wait_connected()
    wait_for("the guest to go on", lambda: "): running" in lab.log_of("host1", "agent").read_text()[told:], 60)
    record.unlink()
    guest.wait_task(task)
    if guest.power() == "suspended":
        resume(lab, guest)
    guest.verify()


def test_epochs_of_tries_that_failed_do_not_keep_another_host_from_starting_it(machine, lab):
    """The owner record can be changed, the document beside it cannot."""
    vm = machine()
    task = die_at(lab, vm, "suspend-complete", "suspend")
    document = folder(lab, vm) / "vm.json"
    if subprocess.run(["chattr", "+i", document], check=False).returncode:
        pytest.skip("no immutable files here")
    told = len(lab.log_of("host1", "agent").read_text())
    try:
        lab.start("host1", "agent")
        wait_for("a few tries", lambda: lab.log_of("host1", "agent").read_text()[told:].count("waits for its datastore") > 3, 60)
        lab.wait_connected()
        vm.wait_task(task)
        lab.drover("vm", "stop", vm.name, "--force")
    finally:
        subprocess.run(["chattr", "-i", document], check=True)
    wait_for("its end", lambda: vm.power() == "stopped", 60)
    lab.drover("vm", "start", vm.name, "--discard-state", "--host", "host2")
    assert vm.power() == "running" and vm.document()["status"]["host"] == "host2"


def test_paused_guest_whose_agent_dies_is_suspended_all_the_same(guest, lab):
    lab.drover("vm", "pause", guest.name)
    task = die_at(lab, guest, "suspend-written", "suspend")
    lab.start("host1", "agent")
    lab.wait_connected()
    assert guest.wait_task(task)["status"]["state"] == "succeeded"
    assert guest.power() == "suspended"
    resume(lab, guest)
    guest.verify()


def test_disks_of_one_that_crashed_in_the_last_moment_of_its_suspending_stay_where_its_memory_needs_them(machine, lab):
    vm = machine()
    task = die_at(lab, vm, "suspend-complete", "suspend")
    lab.kill("host1", f"qemu:{vm.name}")
    lab.start("host1", "agent")
    lab.wait_connected()
    vm.wait_task(task)
    wait_for("the crash to be known", lambda: vm.power() == "crashed", 60)
    with pytest.raises(LabError, match="suspended(.|\n)*drover vm resume"):
        lab.drover("vm", "migrate", vm.name, "--to-datastore", "local")
    resume(lab, vm)


def test_suspending_that_is_cancelled_too_late_says_so(machine, lab):
    vm = machine()
    task = die_at(lab, vm, "suspend-noted", "suspend")
    lab.drover("task", "cancel", task)
    lab.start("host1", "agent")
    lab.wait_connected()
    assert "too late: the virtual machine is suspended" in vm.wait_task(task)["status"]["error"]["detail"]
    wait_for("it to be known as suspended", lambda: vm.power() == "suspended", 60)


@contextlib.contextmanager
def locked_owner(lab, vm):
    """As while another host changes the owner record, but for as long as it takes."""
    with open(folder(lab, vm) / "owner.lock", "r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        yield


def begin_resume(lab, vm):
    """The task, once it has met the lock."""
    task = lab.drover_json("--no-wait", "vm", "resume", vm.name)["name"]
    wait_for("the lock to be met", lambda: "owner record" in str(vm.task(task)["status"]), 60)
    return task


def test_resumption_goes_on_as_soon_as_the_owner_record_can_be_changed(guest, lab):
    suspend(lab, guest)
    with locked_owner(lab, guest):
        task = begin_resume(lab, guest)
    assert guest.wait_task(task)["status"]["state"] == "succeeded"
    guest.wait_ready()
    guest.verify()


def test_cancelled_resumption_leaves_it_suspended(guest, lab):
    suspend(lab, guest)
    with locked_owner(lab, guest):
        task = begin_resume(lab, guest)
        lab.drover("task", "cancel", task)
        assert guest.wait_task(task)["status"]["state"] == "cancelled"
    wait_for("it to be known as suspended", lambda: guest.power() == "suspended", 60)
    resume(lab, guest)
    guest.verify()


@pytest.fixture
def halted(guest, lab):
    """The guest whose QEMU stands still, so that what suspends it comes to nothing for now."""
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


# The last two end the guest.


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

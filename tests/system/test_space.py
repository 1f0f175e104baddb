# SPDX-License-Identifier: Apache-2.0
"""Full disks and too little memory: refused with the cause, or the guest waits; nothing is half done."""

import contextlib
import itertools
import signal
import subprocess

import pytest
from labkit.lab import wait_for

LAB = {"hosts": 2}
DATASTORE_MIB = 48

_numbers = itertools.count()


class SmallDisk:
    """A file system of its own in memory on one machine of the lab."""

    def __init__(self, lab, host, path, size):
        self.lab, self.host, self.path = lab, host, path
        path.mkdir(exist_ok=True)
        lab.machines.run(host, "mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", path)

    def fill(self, spare_kib=0):
        """Takes all room but spare_kib."""
        # dd ends with an error when the disk is full, which is what is wanted here.
        script = (f"fallocate -l {spare_kib}K spare; " if spare_kib else "") + \
            "dd if=/dev/zero of=filler bs=4k 2>/dev/null; rm -f spare"
        self.lab.machines.run(self.host, "sh", "-c", f"cd {self.path}; {script}")

    def free(self):
        self.lab.machines.run(self.host, "rm", "-f", self.path / "filler")

    def unmount(self):
        self.lab.machines.run(self.host, "umount", "--lazy", self.path)


@pytest.fixture(scope="module")
def tight(lab):
    """The datastore "tight", local, small on host1."""
    paths = {host: lab.folder_of(host) / "datastores/tight" for host in lab.hosts}
    paths["host2"].mkdir()
    disk = SmallDisk(lab, "host1", paths["host1"], f"{DATASTORE_MIB}m")
    different = [part for host, path in paths.items() for part in ("--path-on", f"{host}={path}")]
    lab.drover("datastore", "add", "tight", paths["host1"], "--local", *different)
    yield disk
    disk.free()


def test_creation_on_a_full_datastore_is_refused_and_leaves_nothing(lab, tight):
    tight.fill()
    done = lab.run_drover("vm", "create", "full1", "--memory", "64M", "--disk", "tight:16M,format=qcow2", "--host", "host1")
    tight.free()
    assert done.returncode != 0
    assert "space" in done.stderr or "full" in done.stderr, done.stderr
    lab.run_drover("vm", "delete", "full1")
    assert not (tight.path / "full1").exists()
    assert "full1" not in lab.machines.run("host1", "ls", tight.path)


def test_guest_whose_disk_is_full_waits_and_goes_on_when_there_is_room(vm, lab, tight):
    guest = vm(disks=("tight:64M,format=qcow2",), append="workload.disk=0")
    tight.fill(spare_kib=512)
    guest.do("disk 2000")
    wait_for("the guest to be paused", lambda: guest.power() == "paused", 60)
    assert "I/O error" in guest.document()["status"]["message"]
    assert "room" in guest.document()["status"]["message"]
    done = lab.run_drover("vm", "migrate", guest.name, "--to", "host2")
    assert done.returncode != 0 and guest.host() == "host1"
    tight.free()
    lab.drover("vm", "resume", guest.name)
    guest.wait_ready()
    guest.do("disk 0")
    guest.verify()
    assert guest.document()["status"]["message"] is None


def test_datastore_that_fills_up_while_memory_is_written_leaves_the_guest_running(vm, lab, tight):
    guest = vm(disks=("tight:64M,format=qcow2",), append="workload.memory=64,random")
    session = guest.session()
    tight.fill(spare_kib=512)
    done = lab.run_drover("vm", "suspend", guest.name)
    assert done.returncode != 0 and "does not fit" in done.stderr, done.stderr
    tight.free()
    assert guest.power() == "running"
    assert "suspend." not in lab.machines.run("host1", "ls", tight.path / guest.name)
    guest.verify()
    session.close()


@pytest.fixture
def full_journals(lab, request):
    """full_journals(host): the folder of that host's journals is a file system that is full."""
    def make(host):
        disk = SmallDisk(lab, host, lab.folder_of(host) / "state/migrations", "128k")
        request.addfinalizer(lambda: (disk.unmount(), lab.restart(host, "agent")))
        return disk
    return make


def hold(lab, host, point):
    """Makes the agent of a host wait at a crash point until the file that is returned is there."""
    gate = lab.folder_of(host) / f"gate-{next(_numbers)}"
    lab.restart(host, "agent", {"DROVER_HOLD_AT": f"{point}:{gate}"})
    return gate


def wait_held(gate):
    wait_for("the agent to hold", gate.with_name(f"{gate.name}.held").exists, 60, 0.02)


@contextlib.contextmanager
def failing_fdatasync(lab, host):
    """While it lasts, each fdatasync() of the agent fails with EIO."""
    pid = min(lab.find(host, "agent"))  # a child of it looks the same until it executes its program
    log = lab.log_of(host, "strace")
    tracer = subprocess.Popen(["strace", "-q", "-o", log, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "-p",
                               str(pid)])
    try:
        status = f"/proc/{pid}/status"
        wait_for("strace to be attached", lambda: f"TracerPid:\t{tracer.pid}\n" in open(status, encoding="ascii").read())
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(10)


@pytest.mark.parametrize("host", ["host1", "host2"])
def test_migration_that_cannot_be_recorded_does_not_begin(busy_vm, lab, full_journals, host):
    session = busy_vm.session()
    full_journals(host).fill()
    done = lab.run_drover("vm", "migrate", busy_vm.name, "--to", "host2")
    assert done.returncode != 0
    assert "space" in done.stderr, done.stderr
    assert (busy_vm.host(), busy_vm.power()) == ("host1", "running")
    assert lab.find("host2", "qemu") == []
    session.close()
    busy_vm.verify()


@pytest.mark.parametrize(("host", "point"), [("host1", "source-switching"), ("host2", "destination-loaded")])
def test_disk_that_fills_up_during_the_migration_does_no_harm(busy_vm, lab, full_journals, host, point):
    disk = full_journals(host)
    gate = hold(lab, host, point)
    session = busy_vm.session()
    task = busy_vm.begin_migration("host2")
    wait_held(gate)
    disk.fill()
    gate.touch()
    assert busy_vm.wait_task(task)["status"]["state"] == "succeeded"
    session.close()
    busy_vm.verify()


@pytest.mark.parametrize(("host", "point"), [("host1", "source-switching"), ("host2", "destination-loaded")])
def test_migration_fails_when_a_record_cannot_be_written(busy_vm, lab, host, point):
    """An I/O error where handed-off or owner is written: strace makes the agent's fdatasync() fail, a few times."""
    gate = hold(lab, host, point)
    session = busy_vm.session()
    task = busy_vm.begin_migration("host2")
    wait_held(gate)
    def failures():
        return lab.log_of(host, "agent").read_text().count("cannot write the journal")
    before = failures()  # other tests of this lab have made the same agent say so
    with failing_fdatasync(lab, host):
        gate.touch()
        wait_for("the record to fail", lambda: failures() > before)
    assert busy_vm.wait_task(task)["status"]["state"] == "failed"
    wait_for("the guest to be known as running", lambda: (busy_vm.host(), busy_vm.power()) == ("host1", "running"))
    assert lab.find("host2", "qemu") == []
    session.close()
    busy_vm.verify()
    lab.restart(host, "agent")
    busy_vm.migrate("host2", "--verify")
    busy_vm.verify()


def test_destination_without_room_is_refused(busy_vm, lab, tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 524288 kB\nMemFree: 65536 kB\nMemAvailable: 65536 kB\n", encoding="ascii")
    lab.machines.run("host2", "mount", "--bind", meminfo, "/proc/meminfo")
    try:
        wait_for("the manager to know", lambda: host_status(lab, "host2")["memory_free_bytes"] == 64 << 20, 30)
        done = lab.run_drover("vm", "migrate", busy_vm.name, "--to", "host2")
        assert done.returncode != 0
        assert "host2" in done.stderr and "memory" in done.stderr and "room for 64" in done.stderr, done.stderr
        assert (busy_vm.host(), busy_vm.power()) == ("host1", "running")
    finally:
        lab.machines.run("host2", "umount", "/proc/meminfo")
        wait_for("the room to be back", lambda: host_status(lab, "host2")["memory_free_bytes"] != 64 << 20, 30)


def host_status(lab, host):
    return lab.drover_json("host", "show", host)["status"]

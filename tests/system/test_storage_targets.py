# SPDX-License-Identifier: Apache-2.0
"""Disks whose copy goes to a datastore that becomes full, gives errors, or hangs, and migrations that are cancelled at any time: QEMU
stays, the guest sees no error, and the disk is where it was. On the oldest and the newest QEMU; `--fault-rounds 20` is the long series."""

import os
import random
import time

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 2, "qemu_versions": {"host1": "7.2", "host2": "10.0"}}
MIB = 1 << 20
# Of all that is chosen by chance here; the same again with DROVER_TEST_SEED.
SEED = int(os.environ.get("DROVER_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
chance = random.Random(SEED)


class FailingDisk:
    """A file system on a loop device whose file is in memory: without memory, writes to it give EIO while it seems to have room."""

    def __init__(self, lab, host, path):
        self.lab, self.host, self.path = lab, host, path
        self.memory = path.with_name(f"{path.name}.memory")
        path.mkdir()
        self.memory.mkdir()
        self.run(f"mount -t tmpfs -o size=160m tmpfs {self.memory} && truncate -s 120m {self.memory}/image && "
                 f"mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=0 {self.memory}/image && mount -o loop {self.memory}/image {path}")

    def run(self, script):
        return self.lab.machines.run(self.host, "sh", "-c", script)

    def fill(self, folder):
        self.run(f"cd {folder}; fallocate -l $(($(stat -f -c '%a * %S' .))) filler; dd if=/dev/zero of=filler bs=64k oflag=append conv=notrunc 2>/dev/null; true")

    def break_(self, fault):
        if fault == "full":
            self.fill(self.path)
        elif fault == "error":
            self.fill(self.memory)
        elif fault == "hang":
            self.run(f"fsfreeze --freeze {self.path}")

    def mend(self):
        self.run(f"fsfreeze --unfreeze {self.path} 2>/dev/null; rm -f {self.memory}/filler {self.path}/filler; sync -f {self.path}; fstrim {self.path}; true")

    def close(self):
        self.mend()
        self.run(f"umount --lazy {self.path}; umount --lazy {self.memory}")  # QEMU may hold a descriptor of a copy


@pytest.fixture(scope="module")
def targets(lab):
    disks = {host: FailingDisk(lab, host, lab.folder_of(host) / "datastores/failing") for host in lab.hosts}
    different = [part for host, disk in disks.items() for part in ("--path-on", f"{host}={disk.path}")]
    lab.drover("datastore", "add", "failing", disks["host1"].path, "--local", *different)
    yield disks
    for disk in disks.values():
        disk.close()


# What depends on QEMU the least is tried with one version, with --all-points with both.
WITH_ONE = {"test_target_that_hangs_holds_neither_the_guest_nor_the_migration": "host1",
            "test_guest_that_writes_faster_than_the_copy_gets_help_or_stays": "host2"}
VERSIONS = {"host1": "qemu7.2", "host2": "qemu10.0"}


def pytest_generate_tests(metafunc):
    if "guest" in metafunc.fixturenames:
        one = WITH_ONE.get(metafunc.function.__name__) if not metafunc.config.getoption("--all-points") else None
        hosts = [one] if one else list(VERSIONS)
        metafunc.parametrize("guest", hosts, ids=[VERSIONS[host] for host in hosts], indirect=True, scope="module")


@pytest.fixture(scope="module")
def guest(request, lab, targets):
    """A guest that writes all the time, with 20 MiB besides that take a while to be copied."""
    made = Workload(lab, f"writer-{request.param}").create(host=request.param, append="workload.memory=32 workload.disk=200", start=False)
    disk = made.document()["spec"]["disks"][0]
    with open(lab.folder / disk["datastore"] / disk["path"], "r+b") as image:
        image.seek(40 * MIB)
        image.write(os.urandom(20 * MIB))
    made.start(request.param)
    yield made
    made.discard()


def check_unharmed(lab, guest, before, qemu):
    assert lab.find(before["host"], f"qemu:{guest.name}") == qemu, "QEMU must not end"
    assert guest.power() == "running"
    assert guest.document()["spec"]["disks"] == before["disks"]
    written = guest.status()["records_written"]
    wait_for("the guest to write on", lambda: guest.status()["records_written"] > written)
    guest.verify()


def begin(lab, guest, *words):
    return lab.drover_json("--no-wait", "vm", "migrate", guest.name, "--to-datastore", "failing", *words)["name"]


def copied(guest, task):
    return (guest.task(task)["status"]["progress"] or {}).get("copied_bytes", 0)


@pytest.mark.parametrize("fault", ["full", "error"])
def test_target_that_fails_ends_the_copy_and_not_the_guest(lab, guest, targets, fault, pytestconfig):
    before = {"host": guest.host(), "disks": guest.document()["spec"]["disks"]}
    disk, qemu = targets[before["host"]], lab.find(before["host"], f"qemu:{guest.name}")
    for number in range(pytestconfig.getoption("fault_rounds")):
        moment = chance.randrange(1, 4 * MIB)
        task = begin(lab, guest, "--rate-limit", "24mbit", "--format", chance.choice(("raw", "qcow2")))
        wait_for("some of it to be copied", lambda: copied(guest, task) > moment, 60, 0.02)
        disk.break_(fault)
        ended = guest.wait_task(task)
        disk.mend()
        print("seed", SEED, fault, number, ended["status"]["error"])
        assert ended["status"]["state"] == "failed", ended["status"]
        if fault == "full":
            assert ended["status"]["error"]["code"] == "no-space"
        check_unharmed(lab, guest, before, qemu)
        assert "disk" not in disk.run(f"find {disk.path}"), "what was copied is removed"


def test_migration_that_is_cancelled_at_any_time_leaves_the_guest_alone(lab, guest, targets, pytestconfig):
    before = {"host": guest.host(), "disks": guest.document()["spec"]["disks"]}
    disk, qemu = targets[before["host"]], lab.find(before["host"], f"qemu:{guest.name}")
    for number in range(pytestconfig.getoption("fault_rounds")):
        task = begin(lab, guest, "--rate-limit", "20mbit", "--format", chance.choice(("raw", "qcow2")))
        moment = chance.uniform(0, 2)  # any: not waited for anything
        time.sleep(moment)
        lab.run_drover("task", "cancel", task)
        ended = guest.wait_task(task)
        print("seed", SEED, "cancel", number, f"{moment:.2f} s", ended["status"]["state"])
        assert ended["status"]["state"] == "cancelled", ended["status"]
        check_unharmed(lab, guest, before, qemu)
        assert "disk" not in disk.run(f"find {disk.path}"), "what was copied is removed"


def test_target_that_hangs_holds_neither_the_guest_nor_the_migration(lab, guest, targets):
    before = {"host": guest.host(), "disks": guest.document()["spec"]["disks"]}
    disk, qemu = targets[before["host"]], lab.find(before["host"], f"qemu:{guest.name}")
    task = begin(lab, guest, "--rate-limit", "40mbit")
    wait_for("some of it to be copied", lambda: copied(guest, task) > MIB, 60, 0.02)
    disk.break_("hang")
    try:
        written = guest.status()["records_written"]
        wait_for("the guest to write on", lambda: guest.status()["records_written"] > written + 400)
        lab.drover("task", "cancel", task)
        ended = guest.wait_task(task)
        assert ended["status"]["state"] == "cancelled", ended["status"]
        left = ended["status"]["result"]["left"]
        assert "does not answer" in left or "did not answer" in left
        # QEMU's job is still there, unless nothing of it was under way: it would be wrong to wait for it with anything.
        for words in (["vm", "pause", guest.name], ["vm", "migrate", guest.name, "--to", "host2"]) if "does not answer" in left else ():
            done = lab.run_drover(*words)
            assert done.returncode != 0 and "QEMU works on" in done.stderr, (words, done.stderr)
        check_unharmed(lab, guest, before, qemu)
    finally:
        disk.mend()
    wait_for("QEMU's job to end", lambda: lab.run_drover("vm", "migrate", guest.name, "--to-datastore", "failing").returncode == 0, 60, 1)
    guest.verify()
    lab.drover("vm", "migrate", guest.name, "--to-datastore", "shared")
    guest.verify()


def test_guest_that_writes_faster_than_the_copy_gets_help_or_stays(lab, guest, targets):
    before = {"host": guest.host(), "disks": guest.document()["spec"]["disks"]}
    qemu = lab.find(before["host"], f"qemu:{guest.name}")
    slow = ("--rate-limit", "4mbit", "--max-pause", "10ms")
    task = begin(lab, guest, *slow, "--converge", "none")
    ended = guest.wait_task(task, timeout_s=240)
    assert ended["status"]["state"] == "failed" and ended["status"]["error"]["code"] == "not-converging", ended["status"]
    check_unharmed(lab, guest, before, qemu)
    result = lab.drover_json("vm", "migrate", guest.name, "--to-datastore", "failing", *slow, "--converge", "pause=60s")["status"]["result"]
    print("helped:", result["converged_by"], result["max_pause_ms"], result["pause_ms"], result["convergence"])
    assert result["converged_by"] == "longer-pause" and result["max_pause_ms"] > 10
    guest.verify()
    lab.drover("vm", "migrate", guest.name, "--to-datastore", "shared")
    guest.verify()

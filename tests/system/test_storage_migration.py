# SPDX-License-Identifier: Apache-2.0
"""Disks go to another datastore while their guest writes to them: converted, cancelled, and with whatever may die at each point.

A cell holds the agent at a named point (src/io/crash_point.h), kills something, lets go, and looks: exactly one image is there, the
document names it, and the guest finds all that it wrote. docs/decisions/0029 says what each cell must lead to."""

import itertools
import json

import pytest
from fault_matrix import DeadHost
from labkit.lab import wait_for
from labkit.workload import Workload
from test_space import SmallDisk

LAB = {"hosts": 2, "qemu_versions": {"host1": "7.2", "host2": "10.0"}}
# Point, and whether the disk has moved when QEMU dies there. An agent or a manager that dies never ends a migration that copies.
POINTS = {"storage-move-recorded": False, "storage-move-created": False, "storage-move-copying": False, "storage-move-ready": False,
          "storage-move-stopped": False, "storage-move-pivoted": False, "storage-move-committed": True,
          "storage-move-settling": True}
BEFORE_THE_COPY = ("storage-move-recorded", "storage-move-created")
# The others with --all-points.
USUAL = {("agent", "storage-move-created"), ("agent", "storage-move-copying"), ("agent", "storage-move-stopped"), ("agent", "storage-move-pivoted"),
         ("agent", "storage-move-committed"), ("qemu", "storage-move-pivoted"), ("qemu", "storage-move-committed"),
         ("manager", "storage-move-settling")}
PATIENCE_S = 180

_numbers = itertools.count()


@pytest.fixture(scope="module")
def second(lab):
    """The datastore "second", which both hosts share."""
    path = lab.folder / "second"
    path.mkdir()
    lab.drover("datastore", "add", "second", path)
    return path


@pytest.fixture(scope="module")
def tight(lab):
    """The datastore "tight", on both hosts a small file system in memory of its own."""
    disks = {host: SmallDisk(lab, host, lab.folder_of(host) / "datastores/tight", "96m") for host in lab.hosts}
    different = [part for host, disk in disks.items() for part in ("--path-on", f"{host}={disk.path}")]
    lab.drover("datastore", "add", "tight", disks["host1"].path, "--local", *different)
    yield disks
    for disk in disks.values():
        disk.free()


@pytest.fixture(scope="module")
def made_guest(lab, second):
    made = Workload(lab, "disks").create(host="host1", append="workload.memory=32,mixed workload.disk=100")
    yield made
    made.discard()


@pytest.fixture
def guest(lab, made_guest):
    """One guest for the module, running: what it went through before makes it only harder."""
    for machine, program in (("manager", "manager"), ("host1", "agent"), ("host2", "agent")):
        if not lab.find(machine, program):
            lab.start(machine, program)
    lab.wait_connected()
    if made_guest.host() != "host1":
        lab.run_drover("vm", "stop", made_guest.name, "--force")
    if made_guest.power() in ("stopped", "crashed"):
        made_guest.start("host1")
    yield made_guest


def disk_of(guest, number=0):
    return guest.document()["spec"]["disks"][number]


def other(guest):
    return "second" if disk_of(guest)["datastore"] == "shared" else "shared"


def path_of(lab, place):
    return lab.folder / place["datastore"] / place["path"]


def images(lab, guest):
    """All images that there are of the guest's disks."""
    return sorted(str(path) for name in ("shared", "second") for path in (lab.folder / name / guest.name).glob("disk*"))


def check_tidy(lab, guest):
    """The document names the images that there are, and nothing is left of a migration."""
    assert images(lab, guest) == sorted(str(path_of(lab, disk)) for disk in guest.document()["spec"]["disks"])
    assert not (lab.folder / "shared" / guest.name / "storage-move.json").exists()
    for host in lab.hosts:
        assert list((lab.folder_of(host) / "state/storage-moves").glob("*.json")) == []


def move(lab, guest, *words):
    return lab.drover_json("vm", "migrate", guest.name, *words)["status"]["result"]


def begin(lab, guest, *words):
    return lab.drover_json("--no-wait", "vm", "migrate", guest.name, *words)["name"]


def hold(lab, host, point):
    """Makes the agent of a host wait at a point until the file that is returned is there."""
    gate = lab.folder_of(host) / f"gate-{next(_numbers)}"
    lab.restart(host, "agent", {"DROVER_HOLD_AT": f"{point}:{gate}"})
    lab.wait_connected()
    return gate


def wait_held(gate):
    wait_for("the agent to hold", gate.with_name(f"{gate.name}.held").exists, 60, 0.02)


def test_disk_is_converted_there_and_back_while_the_guest_writes(lab, guest):
    session = guest.session()
    before = guest.status()["records_written"]
    first = path_of(lab, disk_of(guest))
    result = move(lab, guest, "--to-datastore", "second", "--format", "qcow2")
    print("raw -> qcow2:", result)
    assert (disk_of(guest)["datastore"], disk_of(guest)["format"]) == ("second", "qcow2")
    assert not first.exists()
    assert result["live"] and result["pause_ms"] is not None and result["left"] is None
    check_tidy(lab, guest)
    guest.verify()
    result = move(lab, guest, "--to-datastore", "shared", "--format", "raw")
    print("qcow2 -> raw:", result)
    assert (disk_of(guest)["datastore"], disk_of(guest)["format"]) == ("shared", "raw")
    check_tidy(lab, guest)
    guest.verify()
    assert guest.status()["records_written"] > before
    session.close()


def test_guest_whose_disk_moved_goes_to_another_host_and_its_disk_back(lab, guest):
    session = guest.session()
    move(lab, guest, "--to-datastore", other(guest))
    guest.migrate("host2", "--verify")
    move(lab, guest, "--to-datastore", other(guest), "--format", "qcow2")
    assert guest.host() == "host2" and guest.document()["status"]["qemu_version"].startswith("10.")
    check_tidy(lab, guest)
    guest.verify()
    session.close()
    lab.drover("vm", "stop", guest.name, "--force")
    guest.start("host1")
    guest.verify()


def test_disk_of_a_guest_that_is_off_is_copied(lab, guest):
    before = guest.status()["records_written"]
    lab.drover("vm", "stop", guest.name, "--force")
    there = "raw" if disk_of(guest)["format"] == "qcow2" else "qcow2"
    result = move(lab, guest, "--to-datastore", other(guest), "--format", there)
    assert not result["live"] and result["pause_ms"] is None
    check_tidy(lab, guest)
    guest.start("host1")
    assert guest.status()["records_before"] >= before
    guest.verify()


def test_copy_whose_agent_dies_is_removed(lab, guest):
    before = images(lab, guest)
    lab.drover("vm", "stop", guest.name, "--force")
    gate = hold(lab, "host1", "storage-move-ready")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    assert len(images(lab, guest)) == 2
    lab.kill("host1", "agent")
    lab.start("host1", "agent")
    lab.wait_connected()
    assert guest.wait_task(task)["status"]["state"] == "failed"
    assert images(lab, guest) == before
    check_tidy(lab, guest)
    guest.start("host1")
    guest.verify()


def test_only_what_is_allocated_is_copied_and_only_the_disk_that_was_named(lab, vm, second):
    guest = vm(disks=("shared:64M,format=raw", "shared:1G,format=raw"), append="workload.disk=20")
    result = move(lab, guest, "--to-datastore", "second", "--disk", "disk1", "--format", "qcow2")
    assert [disk["datastore"] for disk in guest.document()["spec"]["disks"]] == ["shared", "second"]
    assert result["bytes_copied"] < 64 << 20
    move(lab, guest, "--to-datastore", "second", "--format", "raw")
    assert {(disk["datastore"], disk["format"]) for disk in guest.document()["spec"]["disks"]} == {("second", "raw")}
    empty = path_of(lab, disk_of(guest, 1)).stat()
    assert empty.st_size == 1 << 30 and empty.st_blocks * 512 < 1 << 20
    check_tidy(lab, guest)
    guest.verify()
    guest.discard()
    assert images(lab, guest) == [], "a copy that a storage migration made goes with its virtual machine"


def test_cancelled_migration_leaves_the_guest_where_it_was(lab, guest):
    session, before = guest.session(), images(lab, guest)
    gate = hold(lab, "host1", "storage-move-copying")
    task = begin(lab, guest, "--to-datastore", other(guest), "--rate-limit", "1mbit")
    wait_held(gate)
    busy = lab.run_drover("vm", "migrate", guest.name, "--to-datastore", other(guest))
    assert busy.returncode == 5 and "task" in busy.stderr
    assert lab.run_drover("vm", "stop", guest.name).returncode == 5
    gate.touch()
    wait_for("some of it to be copied", lambda: (guest.task(task)["status"]["progress"] or {}).get("copied_bytes", 0) > 0)
    lab.drover("task", "cancel", task)
    ended = guest.wait_task(task)
    assert ended["status"]["state"] == "cancelled", ended["status"]
    assert images(lab, guest) == before
    check_tidy(lab, guest)
    guest.verify()
    session.close()


def test_time_limit_ends_a_migration(lab, guest):
    before = images(lab, guest)
    done = lab.run_drover("vm", "migrate", guest.name, "--to-datastore", other(guest), "--rate-limit", "1mbit", "--give-up", "1s")
    assert done.returncode == 6, done.stderr
    assert "time limit" in done.stderr
    assert images(lab, guest) == before
    check_tidy(lab, guest)
    guest.verify()


def test_full_datastore_is_refused_or_gives_the_copy_up(lab, guest, tight):
    before, host = images(lab, guest), guest.host()
    tight[host].fill(spare_kib=1024)
    done = lab.run_drover("vm", "migrate", guest.name, "--to-datastore", "tight")
    tight[host].free()
    assert done.returncode == 1 and "free" in done.stderr, done.stderr
    gate = hold(lab, host, "storage-move-created")
    task = begin(lab, guest, "--to-datastore", "tight")
    wait_held(gate)
    tight[host].fill()
    gate.touch()
    ended = guest.wait_task(task)
    tight[host].free()
    assert ended["status"]["state"] == "failed"
    assert ended["status"]["error"]["code"] == "no-space", ended["status"]["error"]
    assert "disk" not in lab.machines.run(host, "find", tight[host].path)
    assert images(lab, guest) == before
    check_tidy(lab, guest)
    guest.verify()


@pytest.mark.parametrize("words, status, cause", [
    (["--to-datastore", "nowhere"], 3, "no datastore"),
    (["--to-datastore", "../second"], 2, ""),
    (["--to-datastore", "SAME"], 5, "there already"),
    (["--to-datastore", "SAME", "--disk", "disk0"], 5, "already"),
    (["--to-datastore", "OTHER", "--disk", "nodisk"], 3, "no disk nodisk"),
    (["--to-datastore", "OTHER", "--disk", "../disk0"], None, "no name of a disk"),
    (["--to-datastore", "OTHER", "--format", "vmdk"], 2, ""),
    (["--to-datastore", "shared", "--to", "host2"], None, "on datastore shared already"),
    (["--to-datastore", "OTHER", "--to", "host2", "--disk", "disk0"], None, "stays on its host"),
    (["--disk", "disk0"], None, "--to-datastore"),
    (["--to-datastore", "local"], None, "does not exist"),
])
def test_what_is_not_possible_is_refused_with_the_cause(lab, guest, words, status, cause):
    before = images(lab, guest)
    names = {"SAME": disk_of(guest)["datastore"], "OTHER": other(guest)}
    if words[-1] == "local":
        lab.machines.run("host1", "mv", lab.local_path("host1"), f"{lab.local_path('host1')}.away")
    try:
        done = lab.run_drover("vm", "migrate", guest.name, *[names.get(word, word) for word in words])
    finally:
        if words[-1] == "local":
            lab.machines.run("host1", "mv", f"{lab.local_path('host1')}.away", lab.local_path("host1"))
    assert done.returncode == status if status else done.returncode != 0, (done.returncode, done.stderr)
    assert cause in done.stderr
    assert images(lab, guest) == before


def cells(config_all):
    return [(victim, point) for victim in ("agent", "qemu", "manager") for point in POINTS
            if config_all or (victim, point) in USUAL]


def pytest_generate_tests(metafunc):
    if "victim" in metafunc.fixturenames:
        found = cells(metafunc.config.getoption("all_points"))
        metafunc.parametrize("victim, point", found, ids=[f"{victim}-at-{point[13:]}" for victim, point in found])


def strike(lab, guest, gate, victim):
    if victim == "agent":
        lab.kill("host1", "agent")
        lab.start("host1", "agent")
    elif victim == "qemu":
        lab.kill("host1", f"qemu:{guest.name}")
        wait_for("QEMU to be gone", lambda: lab.find("host1", f"qemu:{guest.name}") == [])
        gate.touch()
    else:
        lab.kill("manager", "manager")
        gate.touch()
        lab.start("manager", "manager")
    lab.wait_connected()


def test_whatever_dies_one_image_is_the_disk(lab, guest, victim, point):
    before, there = disk_of(guest), other(guest)
    written = guest.status()["records_written"]
    session = guest.session(patience_s=PATIENCE_S)
    gate = hold(lab, "host1", point)
    task = begin(lab, guest, "--to-datastore", there, "--format", "raw" if before["format"] == "qcow2" else "qcow2")
    wait_held(gate)
    strike(lab, guest, gate, victim)
    ended = guest.wait_task(task)
    gate.touch()
    moves = POINTS[point] if victim == "qemu" else victim == "manager" or point not in BEFORE_THE_COPY
    assert ended["status"]["state"] == ("succeeded" if moves else "failed"), ended["status"]
    assert disk_of(guest)["datastore"] == (there if moves else before["datastore"])
    assert not moves or ended["status"]["result"]["bytes_copied"] > 0, ended["status"]
    check_tidy(lab, guest)
    if victim == "qemu":
        session.abandon()
        wait_for("the crash to be noticed", lambda: guest.power() == "crashed")
        guest.start("host1")
        assert guest.status()["records_before"] >= written
    else:
        wait_for("the guest to be known as running", lambda: guest.power() == "running")
        session.close()
    guest.verify()


def test_host_that_dies_before_the_manager_heard_leaves_the_copy_to_the_next(lab, guest):
    gate = hold(lab, "host1", "storage-move-pivoted")
    before = disk_of(guest)
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    lab.kill("manager", "manager")
    gate.touch()
    record = lab.folder / "shared" / guest.name / "storage-move.json"
    wait_for("the record to name the copy", lambda: '"switched":true' in record.read_text(encoding="utf-8").replace(" ", ""))
    # The guest runs on the copy alone now, and only its host knows.
    written = guest.status()["records_written"]
    wait_for("records that the old image does not have", lambda: guest.status()["records_written"] > written + 50)
    written = guest.status()["records_written"]
    dead = DeadHost(lab, "host1")
    dead.die()
    lab.start("manager", "manager")
    lab.wait_connected(["host2"])
    dead.confirm()
    assert guest.wait_task(task)["status"]["state"] == "failed"
    assert disk_of(guest) == before
    guest.start("host2")
    assert guest.status()["records_before"] >= written
    guest.verify()
    assert disk_of(guest)["datastore"] != before["datastore"]
    dead.return_()
    # The next start finds that the manager knows, and tidies up.
    lab.drover("vm", "stop", guest.name, "--force")
    guest.start("host2")
    wait_for("the old image to be removed", lambda: images(lab, guest) == [str(path_of(lab, disk_of(guest)))])
    wait_for("the record to be removed", lambda: not record.exists())
    guest.verify()


def test_host_that_commits_while_another_starts_the_vm_does_not_leave_two_disks(lab, guest):
    """host1 is taken for dead and lives: it commits after host2 has opened the images, before host2 takes the epoch. QEMU holds no lock on
    a raw image that a copy has taken over from."""
    if disk_of(guest)["format"] == "qcow2":
        move(lab, guest, "--to-datastore", other(guest), "--format", "raw")
    before = disk_of(guest)
    gate = hold(lab, "host1", "storage-move-pivoted")
    claim = hold(lab, "host2", "start-claiming")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    dead = DeadHost(lab, "host1")
    lab.network.cut("host1")
    dead.confirm()
    assert guest.wait_task(task)["status"]["state"] == "failed"
    started = lab.drover_json("--no-wait", "vm", "start", guest.name, "--host", "host2")["name"]
    wait_held(claim)
    gate.touch()
    record = lab.folder / "shared" / guest.name / "storage-move.json"
    wait_for("the record to name the copy", lambda: '"switched":true' in record.read_text(encoding="utf-8").replace(" ", ""))
    claim.touch()
    ended = guest.wait_task(started)
    assert ended["status"]["state"] == "failed" and "storage migration has moved disk" in str(ended["status"]["error"]), ended["status"]
    assert lab.find("host2", f"qemu:{guest.name}") == []
    dead.die()
    guest.start("host2")
    assert disk_of(guest)["datastore"] != before["datastore"]
    guest.verify()
    dead.return_()
    lab.drover("vm", "stop", guest.name, "--force")
    guest.start("host1")
    guest.verify()


def test_host_that_was_only_cut_off_tells_the_manager_where_the_disks_are(lab, guest):
    """Its task has failed when it commits: nobody asks for the outcome any more."""
    before = disk_of(guest)
    session = guest.session(patience_s=PATIENCE_S)
    gate = hold(lab, "host1", "storage-move-pivoted")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    lab.network.cut("host1")
    DeadHost(lab, "host1").confirm()
    assert guest.wait_task(task)["status"]["state"] == "failed"
    assert disk_of(guest) == before
    gate.touch()
    lab.network.cut("host1", up=True)
    lab.wait_connected()
    wait_for("the document to name the copy", lambda: disk_of(guest)["datastore"] != before["datastore"])
    assert guest.power() == "running"
    guest.migrate("host2", "--verify")
    guest.verify()
    session.close()
    lab.drover("vm", "stop", guest.name, "--force")
    guest.start("host1")
    wait_for("the old image to be removed", lambda: images(lab, guest) == [str(path_of(lab, disk_of(guest)))])


def test_destination_does_not_open_a_disk_from_which_a_copy_has_taken_over(lab, guest):
    record = lab.folder / "shared" / guest.name / "storage-move.json"
    disk = {key: disk_of(guest)[key] for key in ("datastore", "path", "format")}
    copy = {"datastore": other(guest), "path": f"{guest.name}/disk0-0123abcd4567.raw", "format": "raw"}
    record.write_text(json.dumps({"format": 1, "id": "0123abcd-4567-4c8f-9a55-0c5b6a1f2e3d", "disks": [
        {"name": "disk0", "from": disk, "to": copy, "switched": True}]}), encoding="utf-8")
    done = lab.run_drover("vm", "migrate", guest.name, "--to", "host2")
    record.unlink()
    assert done.returncode == 5 and "storage migration has moved disk disk0" in done.stderr, done.stderr
    assert guest.host() == "host1" and guest.power() == "running"
    guest.verify()


def test_disks_of_a_guest_whose_memory_is_kept_stay(lab, guest):
    before, written = disk_of(guest), guest.status()["records_written"]
    lab.drover("vm", "suspend", guest.name)
    done = lab.run_drover("vm", "migrate", guest.name, "--to-datastore", other(guest))
    assert done.returncode == 5 and "suspended" in done.stderr, done.stderr
    lab.drover("vm", "resume", guest.name)
    assert guest.status()["records_written"] >= written
    guest.verify()
    # Nor where nobody but the record of the state says so.
    lab.drover("vm", "stop", guest.name, "--force")
    state = lab.folder / "shared" / guest.name / "suspend.json"
    state.write_text("{", encoding="utf-8")
    done = lab.run_drover("vm", "migrate", guest.name, "--to-datastore", other(guest))
    state.unlink()
    assert done.returncode == 5 and "suspend.json is damaged" in done.stderr, done.stderr
    gate = hold(lab, "host1", "storage-move-ready")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    state.write_text("{", encoding="utf-8")
    gate.touch()
    status = guest.wait_task(task)["status"]
    assert status["state"] == "failed" and "suspend.json is damaged" in status["error"]["detail"], status
    state.unlink()
    assert disk_of(guest) == before and len(images(lab, guest)) == 1
    guest.start("host1")
    # Beside a guest that runs it is an old one.
    state.write_text("{", encoding="utf-8")
    move(lab, guest, "--to-datastore", other(guest))
    state.unlink()
    guest.verify()


def test_damaged_record_ends_a_migration_whose_qemu_is_gone(lab, guest):
    before = disk_of(guest)
    gate = hold(lab, "host1", "storage-move-stopped")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    record = lab.folder / "shared" / guest.name / "storage-move.json"
    good = record.read_text(encoding="utf-8")
    lab.kill("host1", "agent")
    lab.kill("host1", f"qemu:{guest.name}")
    record.write_text("{", encoding="utf-8")
    lab.start("host1", "agent")
    lab.wait_connected()
    ended = guest.wait_task(task)
    assert ended["status"]["state"] == "failed" and "damaged" in str(ended["status"]["error"]), ended["status"]
    assert disk_of(guest) == before and len(images(lab, guest)) == 2, "nothing is removed"
    wait_for("the crash to be noticed", lambda: guest.power() == "crashed")
    assert "damaged" in lab.run_drover("vm", "start", guest.name).stderr
    record.write_text(good, encoding="utf-8")
    guest.start("host1")
    wait_for("what was left to be removed", lambda: images(lab, guest) == [str(path_of(lab, disk_of(guest)))])
    guest.verify()


def test_damaged_journal_leaves_its_vm_alone_until_somebody_has_looked(lab, guest):
    gate = hold(lab, "host1", "storage-move-copying")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    lab.kill("host1", "agent")
    journal, = (lab.folder_of("host1") / "state/storage-moves").glob(f"*.{guest.document()['uid']}.json")
    good = journal.read_text(encoding="utf-8")
    journal.write_text("{", encoding="utf-8")
    lab.start("host1", "agent")
    lab.wait_connected()
    wait_for("the task to say so", lambda: "cannot be read" in str(guest.task(task)["status"]["progress"]))
    lab.kill("host1", "agent")
    journal.write_text(good, encoding="utf-8")
    lab.start("host1", "agent")
    assert guest.wait_task(task)["status"]["state"] == "succeeded"
    check_tidy(lab, guest)
    guest.verify()


def test_damaged_record_is_written_anew_while_qemu_lives(lab, guest):
    there = other(guest)
    session = guest.session(patience_s=PATIENCE_S)
    gate = hold(lab, "host1", "storage-move-copying")
    task = begin(lab, guest, "--to-datastore", there)
    wait_held(gate)
    lab.kill("host1", "agent")
    (lab.folder / "shared" / guest.name / "storage-move.json").write_text("{", encoding="utf-8")
    lab.start("host1", "agent")
    lab.wait_connected()
    assert guest.wait_task(task)["status"]["state"] == "succeeded"
    assert disk_of(guest)["datastore"] == there
    check_tidy(lab, guest)
    guest.verify()
    session.close()


def test_damaged_owner_record_ends_the_migration_before_the_guest_is_stopped(lab, guest):
    before, owner = disk_of(guest), lab.folder / "shared" / guest.name / "owner.json"
    qemu, good = lab.find("host1", f"qemu:{guest.name}"), owner.read_text(encoding="utf-8")
    gate = hold(lab, "host1", "storage-move-ready")
    task = begin(lab, guest, "--to-datastore", other(guest))
    wait_held(gate)
    owner.write_text("{", encoding="utf-8")
    gate.touch()
    ended = guest.wait_task(task)
    owner.write_text(good, encoding="utf-8")
    assert ended["status"]["state"] == "failed" and ended["status"]["error"]["code"] == "owner-unknown", ended["status"]
    assert disk_of(guest) == before and lab.find("host1", f"qemu:{guest.name}") == qemu
    written = guest.status()["records_written"]
    wait_for("the guest to write on", lambda: guest.status()["records_written"] > written)
    check_tidy(lab, guest)
    guest.verify()


def test_image_outside_of_the_folder_is_not_removed(lab, vm, second):
    image = lab.folder / "shared/images/extra.raw"
    image.parent.mkdir()
    image.write_bytes(b"somebody else's" + bytes(16 << 20))
    guest = vm(disks=("shared:64M,format=raw", "shared:images/extra.raw,format=raw"), append="workload.disk=20")
    result = move(lab, guest, "--to-datastore", "second", "--disk", "disk1")
    assert disk_of(guest, 1)["datastore"] == "second"
    assert image.read_bytes().startswith(b"somebody else's") and "shared:images/extra.raw stays" in result["left"]
    guest.verify()

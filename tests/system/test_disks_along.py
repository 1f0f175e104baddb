# SPDX-License-Identifier: Apache-2.0
"""A running guest goes to another host and takes its disks along: nothing is shared but its kernel. docs/decisions/0034."""

import itertools
import json
import random
import shutil
import time

import pytest
from fault_matrix import CRASHES as ENDS
from fault_matrix import EITHER, MOVES, PATIENCE_S, STAYS, Cell, DeadHost, look
from labkit.lab import wait_for
from labkit.workload import Workload
from test_space import SmallDisk

LAB = {"hosts": 2, "qemu_versions": {"host1": "7.2", "host2": "10.0"}}

_numbers = itertools.count()


STORED = random.Random(1).randbytes(4 << 20)  # in the second disk, which the guest does not write to


@pytest.fixture(scope="module")
def made_guest(lab):
    made = Workload(lab, "along").create(host="host1", disks=("local:64M,format=qcow2", "local:32M,format=raw"), start=False,
                                         append="workload.memory=32,mixed workload.disk=100")
    with open(image(lab, made, "host1", 1), "r+b") as file:
        file.seek(1 << 20)
        file.write(STORED)
    made.start("host1")
    yield made
    made.discard()


@pytest.fixture
def guest(lab, made_guest):
    yield made_guest


def other(guest):
    return "host2" if guest.host() == "host1" else "host1"


def folder(lab, guest, host):
    return lab.local_path(host) / guest.name


def image(lab, guest, host, number):
    return lab.local_path(host) / guest.document()["spec"]["disks"][number]["path"]


def tidy(lab, guest, host):
    """The document names the images that there are on its host, and the other has nothing."""
    spec = guest.document()["spec"]
    images = sorted(path.name for path in folder(lab, guest, host).glob("disk*"))
    left = [path for there in lab.hosts if there != host for path in folder(lab, guest, there).glob("*")]
    return spec["datastore"] == "local" and left == [] and \
        images == sorted(disk["path"].split("/")[1] for disk in spec["disks"])


def test_guest_goes_there_and_back_with_its_disks(lab, guest):
    session = guest.session()
    for _ in range(2):
        to = other(guest)
        before = guest.status()["records_written"]
        result = guest.migrate(to, "--to-datastore", "local")
        print(to, result["total_ms"], result["pause_ms"])
        assert guest.host() == to
        assert result["disks_along"]["left"] is None
        assert tidy(lab, guest, to)
        guest.verify()
        content = image(lab, guest, to, 1).read_bytes()
        assert content.strip(b"\0") == STORED.strip(b"\0") and len(content) == 32 << 20
        assert guest.status()["records_written"] >= before
    session.close()


def test_what_is_somebodys_stays_and_is_not_written_to(lab, guest):
    """Beside what is the migration's in its folders there may be what others use."""
    session = guest.session()
    source, to = guest.host(), other(guest)
    theirs = folder(lab, guest, source) / "tools.iso"
    theirs.write_bytes(b"theirs")
    assert guest.migrate(to, "--to-datastore", "local")["disks_along"]["left"] is None
    assert [path.name for path in folder(lab, guest, source).iterdir()] == ["tools.iso"]
    assert theirs.read_bytes() == b"theirs"
    task = guest.wait_task(guest.begin_migration(source, "--to-datastore", "local"))
    assert task["status"]["state"] == "failed"
    assert "with files on datastore local already" in task["status"]["error"]["detail"]
    assert [path.name for path in folder(lab, guest, source).iterdir()] == ["tools.iso"]
    assert guest.host() == to
    theirs.unlink()
    theirs.parent.rmdir()
    guest.verify()
    session.close()


# --- Whatever dies -----------------------------------------------------------------------------------------------------------------

# The agent that dies at its own crash point, and is started again: where the guest is then, and with it the disks that count.
CRASHES = {
    "source-mirroring": STAYS,
    "source-copying": STAYS,
    "source-mirrored": STAYS,
    "source-switching": STAYS,
    "source-handed-off": STAYS,
    "source-commit": EITHER,
    "source-done": MOVES,
    "destination-prepare": STAYS,
    "destination-loaded": MOVES,
    "destination-owner": MOVES,
    "destination-done": MOVES,
}
VICTIMS = {
    ("source-mirroring", "source mover"): STAYS,
    ("source-mirroring", "destination qemu"): STAYS,
    ("source-mirroring", "destination agent"): STAYS,
    ("source-mirrored", "destination mover"): STAYS,
    ("source-mirrored", "manager"): MOVES,
    ("destination-copying", "destination agent"): STAYS,
    ("source-handed-off", "network"): EITHER,
    ("source-handed-off", "source qemu"): ENDS,
    ("source-commit", "destination agent"): EITHER,
    ("source-done", "manager"): MOVES,
}
# The others with --all-points.
USUAL_CRASHES = ("source-mirrored", "source-commit", "source-done", "destination-prepare", "destination-owner")
USUAL_VICTIMS = (("source-mirroring", "destination qemu"), ("source-mirrored", "destination mover"), ("source-handed-off", "source qemu"),
                 ("source-done", "manager"))


def pytest_generate_tests(metafunc):
    every = metafunc.config.getoption("--all-points")
    if "crash_point" in metafunc.fixturenames:
        metafunc.parametrize("crash_point", CRASHES if every else USUAL_CRASHES)
    elif "victim" in metafunc.fixturenames:
        metafunc.parametrize(("point", "victim"), VICTIMS if every else USUAL_VICTIMS)
    elif "dying" in metafunc.fixturenames:
        metafunc.parametrize("dying", ("source",) if every else ())
    elif "after" in metafunc.fixturenames:
        metafunc.parametrize("after", ("return", "removal") if every else ("removal",))


def test_agent_that_dies_at_a_point_leaves_one_guest_and_its_disks(lab, guest, crash_point):
    session = guest.session(patience_s=PATIENCE_S)
    cell = Cell(lab, guest, "--to-datastore", "local")
    cell.crash(crash_point.partition("-")[0], crash_point)
    finish(lab, cell, CRASHES[crash_point], session)


def record(lab, guest, host):
    """The owner record in the guest's folder on a host; None: there is none."""
    path = folder(lab, guest, host) / "owner.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def uid_of(lab, host):
    return lab.drover_json("host", "show", host)["uid"]


def hold(lab, host, point):
    """Makes the agent of a host wait at a point until the file that is returned is there."""
    gate = lab.folder_of(host) / f"gate-{next(_numbers)}"
    lab.restart(host, "agent", {"DROVER_HOLD_AT": f"{point}:{gate}"})
    lab.wait_connected()
    return gate


def wait_held(gate):
    wait_for("the agent to hold", gate.with_name(f"{gate.name}.held").exists, 60, 0.02)


def begin(lab, guest, point, datastore="local"):
    """A migration that is held at a point of one of its agents: (cell, gate)."""
    cell = Cell(lab, guest, "--to-datastore", datastore)
    gate = hold(lab, cell.host(point.partition("-")[0]), point)
    cell.task = guest.begin_migration(cell.destination, *cell.options)
    wait_held(gate)
    return cell, gate


def finish(lab, cell, outcome, session):
    look(cell, outcome, session)
    wait_for("what is not used to be removed", lambda: tidy(lab, cell.guest, cell.guest.host()))


def test_what_dies_while_an_agent_holds_leaves_one_guest_and_its_disks(lab, guest, point, victim):
    session = guest.session(patience_s=PATIENCE_S)
    cell, gate = begin(lab, guest, point)
    cell.gate = gate
    cell.strike(victim)
    cell.repair(victim)
    finish(lab, cell, VICTIMS[point, victim], session)
    if VICTIMS[point, victim] == ENDS:  # with the disks of the source, which it starts from
        assert guest.host() == cell.source
        guest.start(cell.source)
        guest.verify()


def test_what_is_left_behind_names_the_destination_before_the_guest_runs_there(lab, guest):
    session = guest.session(patience_s=PATIENCE_S)
    epoch = guest.document()["status"]["owner_epoch"]
    cell, gate = begin(lab, guest, "source-commit")
    left, there = record(lab, guest, cell.source), record(lab, guest, cell.destination)
    assert (left["owner"], left["epoch"]) == (uid_of(lab, cell.destination), epoch + 1)
    assert there["epoch"] in (epoch, epoch + 1)
    gate.touch()
    finish(lab, cell, MOVES, session)
    there = record(lab, guest, cell.destination)
    assert (there["owner"], there["epoch"]) == (uid_of(lab, cell.destination), epoch + 1)


def test_migration_that_is_cancelled_while_the_disks_are_mirrored_leaves_nothing(lab, guest):
    session = guest.session(patience_s=PATIENCE_S)
    cell, gate = begin(lab, guest, "source-mirroring")
    lab.drover("task", "cancel", cell.task)
    gate.touch()
    finish(lab, cell, STAYS, session)
    assert "jobs" not in guest.document()["status"] or guest.document()["status"]["jobs"] == []


def test_destination_without_room_costs_the_guest_nothing(lab, guest):
    session = guest.session(patience_s=PATIENCE_S)
    to = other(guest)
    disk = SmallDisk(lab, to, lab.folder_of(to) / "datastores/tight", "160m")
    different = [part for host in lab.hosts for part in ("--path-on", f"{host}={lab.folder_of(host) / 'datastores/tight'}")]
    (lab.folder_of(guest.host()) / "datastores/tight").mkdir()
    lab.drover("datastore", "add", "tight", disk.path, "--local", *different)
    disk.fill(1024)
    cell = Cell(lab, guest, "--to-datastore", "tight")
    cell.task = guest.begin_migration(to, *cell.options)
    error = guest.wait_task(cell.task)["status"]["error"]
    assert error["code"] == "no-space" and "on datastore tight, which has" in error["detail"], error
    disk.free()
    cell, gate = begin(lab, guest, "destination-prepare", "tight")
    disk.fill()  # once folder and images are there
    gate.touch()
    look(cell, STAYS, session)
    error = guest.task(cell.task)["status"]["error"]
    assert error["code"] == "no-space" and "No space left" in error["detail"], error
    assert tidy(lab, guest, guest.host())
    assert list((lab.folder_of(to) / "datastores/tight").glob("along*")) == []


def test_datastore_that_the_folder_is_on_already_is_refused(lab, guest):
    done = lab.run_drover("vm", "migrate", guest.name, "--to", other(guest), "--to-datastore", "nowhere")
    assert done.returncode != 0 and "does not have the datastore nowhere" in done.stderr
    lab.drover("vm", "create", "plain", "--memory", "64M", "--disk", "shared:1M", "--host", "host1")
    lab.drover("vm", "start", "plain", "--host", "host1")
    done = lab.run_drover("vm", "migrate", "plain", "--to", "host2", "--to-datastore", "shared")
    assert done.returncode != 0 and "is on datastore shared already" in done.stderr
    assert lab.drover_json("vm", "show", "plain")["status"]["host"] == "host1"
    lab.drover("vm", "stop", "plain", "--force")
    lab.drover("vm", "delete", "plain")


def test_host_that_dies_before_commit_has_the_disks_that_count_and_the_task_names_the_others(lab, guest, dying):
    session = guest.session(patience_s=PATIENCE_S)
    epoch = guest.document()["status"]["owner_epoch"]
    cell, gate = begin(lab, guest, "source-commit")
    dead = DeadHost(lab, cell.host(dying))
    dead.die()
    dead.confirm()
    status = guest.wait_task(cell.task)["status"]
    assert status["state"] == "failed"
    there = f"the folder {guest.name} on datastore local of host {cell.destination}"
    assert f"what was left behind stays: {there}" in status["error"]["detail"], status["error"]
    assert guest.power() == "crashed"
    gate.touch()
    dead.return_()
    session.abandon()
    shutil.rmtree(folder(lab, guest, cell.destination))
    wait_for("nothing of it to be under way",
             lambda: lab.run_drover("vm", "start", guest.name, "--host", cell.source).returncode == 0)
    guest.wait_ready()
    guest.verify()
    assert (guest.host(), record(lab, guest, cell.source)["epoch"]) == (cell.source, epoch + 3)


def test_guest_waits_for_a_destination_that_died_until_that_says_or_is_removed(lab, guest, after):
    """The last one: the host may be gone afterwards."""
    session = guest.session(patience_s=PATIENCE_S)
    epoch = guest.document()["status"]["owner_epoch"]
    cell, gate = begin(lab, guest, "source-commit")
    dead = DeadHost(lab, cell.destination)
    dead.die()
    gate.touch()
    wait_for("the source to wait for its peer",
             lambda: guest.task(cell.task)["status"]["progress"].get("phase") == "waiting-for-peer", 90)
    dead.confirm()
    time.sleep(3)  # nothing may happen in it: the disks there may be the newest
    assert guest.task(cell.task)["status"]["state"] == "running"
    assert cell.qemus()[cell.source]
    if after == "return":
        dead.return_()
        finish(lab, cell, EITHER, session)
        return
    lab.drover("host", "remove", dead.name, "--force")
    task = guest.wait_task(cell.task)
    assert task["status"]["state"] == "failed"
    assert (guest.host(), guest.power()) == (cell.source, "running")
    left = record(lab, guest, cell.source)
    assert (left["owner"], left["epoch"]) == (uid_of(lab, cell.source), epoch + 2)
    guest.verify()
    session.close()

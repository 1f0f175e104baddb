# SPDX-License-Identifier: Apache-2.0
"""Disks that become larger, and snapshots of them, while their guest writes and while it is off; what dies on the way (docs/snapshots.md).

The guest numbers its records, and reads those of its life before when it boots: after a revert they must be exactly those of one moment
before the snapshot was asked for and after."""

import itertools
import json
import subprocess

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 2, "qemu_versions": {"host1": "7.2", "host2": "10.0"}}
MIB = 1 << 20
CELLS = [(f"disk-work-{point}", verb) for point in ("looked", "between", "changed") for verb in ("create", "revert", "delete")]
# The others with --all-points.
USUAL = [("disk-work-looked", "create"), ("disk-work-between", "create"), ("disk-work-between", "revert"), ("disk-work-changed", "revert"),
         ("disk-work-between", "delete")]
VERSIONS = {"host1": "qemu7.2", "host2": "qemu10.0"}
_numbers = itertools.count()


@pytest.fixture(scope="module")
def made(lab):
    """Two VMs with two disks each, "guest" with the workload and "machine" with nothing that runs: what they went through before makes it only harder."""
    both = {"guest": Workload(lab, "kept").create("--machine", "pc-q35-7.2", host="host1", memory="128M", append="workload.memory=16 workload.disk=100",
                                                  disks=("shared:64M", "shared:32M"), start=False),
            "machine": Workload(lab, "idle").create(host="host2", memory="32M", image=None, disks=("shared:16M", "shared:16M"), start=False)}
    yield both
    for one in both.values():
        one.discard()


def whole(lab, vm):
    """Everything runs that has to, and the VM has no snapshots."""
    for machine, program in (("manager", "manager"), ("host1", "agent"), ("host2", "agent")):
        if not lab.find(machine, program):
            lab.start(machine, program)
    lab.wait_connected()
    for one in snapshots(lab, vm):
        snapshot(lab, "delete", vm, one["name"])
    return vm


@pytest.fixture
def guest(lab, made):
    return whole(lab, made["guest"])


@pytest.fixture
def machine(lab, made):
    """It is off."""
    off(made["machine"])
    return whole(lab, made["machine"])


def off(vm):
    if vm.power() not in ("stopped", "crashed"):
        vm.lab.drover("vm", "stop", vm.name, "--force")


def snapshot(lab, verb, guest, *words):
    return lab.drover_json("vm", "snapshot", verb, guest.name, *words)["status"]["result"]


def snapshots(lab, guest):
    return lab.drover_json("vm", "snapshot", "list", guest.name)["items"]


def states(lab, guest):
    return {one["name"]: one["state"] for one in snapshots(lab, guest)}


def refused(lab, *words):
    """What a command says that has to fail: its error and hint."""
    done = lab.run_drover(*words)
    assert done.returncode != 0, done.stdout
    return done.stderr


def image(lab, guest, number=0):
    disk = guest.document()["spec"]["disks"][number]
    return lab.folder / disk["datastore"] / disk["path"]


def qemu_img(*words):
    return json.loads(subprocess.run(["qemu-img", *map(str, words)], stdout=subprocess.PIPE, check=True).stdout)


def in_images(lab, guest):
    """Names of the snapshots that each image has."""
    return [[one["name"] for one in qemu_img("info", "-U", "--output=json", image(lab, guest, number)).get("snapshots", [])] for number in (0, 1)]


def check_images(lab, guest):
    """None is damaged: those of a guest that is off."""
    for number in (0, 1):
        report = qemu_img("check", "--output=json", image(lab, guest, number))
        assert report.get("corruptions", 0) == report["check-errors"] == 0, report


def put(lab, vm, number):
    """What its disks hold from now on."""
    for disk in (0, 1):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {number} 0 1M", image(lab, vm, disk)], stdout=subprocess.DEVNULL, check=True)


def holds(lab, vm):
    """The numbers that its disks hold."""
    numbers = []
    for disk in (0, 1):
        done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "read -v 0 16", image(lab, vm, disk)], text=True, stdout=subprocess.PIPE, check=True)
        numbers.append(int(done.stdout.split()[1], 16))
    return numbers


def crash(lab, point):
    """Makes the agent of host2 kill itself at a point, once."""
    lab.restart("host2", "agent", {"DROVER_CRASH_AT": f"{point}:{lab.folder_of('host2') / f'crash-{next(_numbers)}'}"})
    lab.wait_connected()


def written(guest):
    return guest.status()["records_written"]


def test_guest_grows_and_is_reverted_to_what_it_had_written_while_it_ran(lab, guest, host):
    off(guest)
    guest.start(host)
    wait_for("records", lambda: written(guest) > 50)
    least = written(guest)
    result = snapshot(lab, "create", guest, "running", "--description", "before the upgrade")
    most = written(guest)
    assert result["live"] and {disk["name"] for disk in result["disks"]} == {"disk0", "disk1"}
    one = lab.drover_json("vm", "snapshot", "show", guest.name, "running")
    assert (one["state"], one["consistency"], one["current"], one["description"]) == ("ready", "crash", True, "before the upgrade")

    before = guest.status()["disk_bytes"]
    result = lab.drover_json("vm", "disk", "resize", guest.name, "disk0", str(before + 16 * MIB))["status"]["result"]
    assert (result["live"], result["disks"]) == (True, [{"name": "disk0", "size_bytes": before + 16 * MIB}])
    wait_for("the guest to see its new size", lambda: guest.status()["disk_bytes"] == before + 16 * MIB)
    assert guest.document()["spec"]["disks"][0]["size_bytes"] == before + 16 * MIB
    lab.drover("vm", "disk", "resize", guest.name, "disk0", str(before + 16 * MIB))  # it has that already
    stderr = refused(lab, "vm", "disk", "resize", guest.name, "disk0", str(before))
    assert "cannot be made smaller" in stderr and "make a smaller disk" in stderr

    wait_for("more records", lambda: written(guest) > most + 200)
    guest.verify()
    stderr = refused(lab, "vm", "snapshot", "revert", guest.name, "running")
    assert "is running" in stderr and "Stop it first" in stderr
    off(guest)
    snapshot(lab, "revert", guest, "running")
    check_images(lab, guest)
    guest.start(host)
    assert least <= guest.status()["records_before"] <= most
    assert guest.status()["disk_bytes"] == before == guest.document()["spec"]["disks"][0]["size_bytes"]
    guest.verify()
    snapshot(lab, "delete", guest, "running")
    assert in_images(lab, guest) == [[], []] and snapshots(lab, guest) == []
    guest.verify()


def test_snapshots_go_with_a_guest_that_moves_and_forbid_what_would_lose_them(lab, guest):
    if guest.power() != "running":
        guest.start("host1")
    there = "host1" if guest.host() == "host2" else "host2"
    snapshot(lab, "create", guest, "here")
    most = written(guest)
    stderr = refused(lab, "vm", "migrate", guest.name, "--to-datastore", "shared", "--format", "raw")
    assert "disk-snapshots" in stderr and "Delete its snapshots first" in stderr
    guest.migrate(there)
    wait_for("more records", lambda: written(guest) > most + 100)
    off(guest)
    snapshot(lab, "revert", guest, "here")
    guest.start(there)
    assert guest.status()["records_before"] <= most
    guest.verify()
    off(guest)


def test_disk_of_one_that_is_off_becomes_larger(lab, machine):
    result = lab.drover_json("vm", "disk", "resize", machine.name, "disk1", "100M")["status"]["result"]
    assert (result["live"], result["disks"]) == (False, [{"name": "disk1", "size_bytes": 100 * MIB}])
    assert qemu_img("info", "--output=json", image(lab, machine, 1))["virtual-size"] == 100 * MIB
    assert machine.document()["spec"]["disks"][1]["size_bytes"] == 100 * MIB


def test_raw_disk_becomes_larger_and_has_no_snapshots(lab):
    raw = Workload(lab, "raw").create(host="host2", image=None, memory="32M", disks=("shared:16M,format=raw",), start=False)
    lab.drover("vm", "disk", "resize", "raw", "disk0", "20M")
    lab.drover("vm", "start", "raw", "--host", "host2")
    lab.drover("vm", "disk", "resize", "raw", "disk0", "24M")
    assert (lab.folder / "shared/raw/disk0.raw").stat().st_size == 24 * MIB
    stderr = refused(lab, "vm", "snapshot", "create", "raw", "one")
    assert "disk-format" in stderr and "--format qcow2" in stderr
    raw.discard()


def test_tree_of_snapshots(lab, machine):
    put(lab, machine, 1)
    snapshot(lab, "create", machine, "first")
    put(lab, machine, 2)
    snapshot(lab, "create", machine, "second")
    snapshot(lab, "revert", machine, "first")
    assert holds(lab, machine) == [1, 1]
    snapshot(lab, "create", machine, "third")
    assert {one["name"]: one["parent"] for one in snapshots(lab, machine)} == {"first": None, "second": "first", "third": "first"}
    snapshot(lab, "delete", machine, "first")
    assert {one["name"]: (one["parent"], one["current"]) for one in snapshots(lab, machine)} == {"second": (None, False), "third": (None, True)}
    snapshot(lab, "revert", machine, "second")
    assert holds(lab, machine) == [2, 2]
    snapshot(lab, "revert", machine, "third")
    assert holds(lab, machine) == [1, 1]
    check_images(lab, machine)


def test_image_with_a_snapshot_of_somebody_else_does_not_lose_it(lab, machine):
    subprocess.run(["qemu-img", "snapshot", "-c", "foreign", image(lab, machine, 1)], check=True)
    assert "disk-snapshots" in refused(lab, "vm", "migrate", machine.name, "--to-datastore", "shared", "--format", "raw")
    subprocess.run(["qemu-img", "snapshot", "-d", "foreign", image(lab, machine, 1)], check=True)


def test_snapshot_that_was_removed_by_hand_is_not_half_reverted_to(lab, machine):
    put(lab, machine, 1)
    snapshot(lab, "create", machine, "one")
    put(lab, machine, 2)
    subprocess.run(["qemu-img", "snapshot", "-d", in_images(lab, machine)[1][0], image(lab, machine, 1)], check=True)
    assert "does not have the snapshot" in refused(lab, "vm", "snapshot", "revert", machine.name, "one")
    assert states(lab, machine) == {"one": "ready"}
    assert holds(lab, machine) == [2, 2]


def pytest_generate_tests(metafunc):
    everything = metafunc.config.getoption("--all-points")
    if "host" in metafunc.fixturenames:
        hosts = list(VERSIONS) if everything else ["host2"]  # tests/unit/agent/test_disk_work.c has the older one
        metafunc.parametrize("host", hosts, ids=[VERSIONS[host] for host in hosts])
    if "point" in metafunc.fixturenames:
        cells = CELLS if everything else USUAL
        metafunc.parametrize("point, verb", cells, ids=[f"{point}-{verb}" for point, verb in cells])


def test_agent_that_dies_is_asked_again(lab, machine, verb, point):
    put(lab, machine, 1)
    if verb != "create":
        snapshot(lab, "create", machine, "one")
        put(lab, machine, 2)
    crash(lab, point)
    task = lab.drover_json("--no-wait", "vm", "snapshot", verb, machine.name, "one")["name"]
    wait_for("the agent to die", lambda: not lab.find("host2", "agent"), 30, 0.02)
    assert states(lab, machine) == {"one": {"create": "creating", "revert": "reverting", "delete": "deleting"}[verb]}
    lab.start("host2", "agent")
    assert machine.wait_task(task)["status"]["state"] == "succeeded"
    check_images(lab, machine)
    assert [len(names) for names in in_images(lab, machine)] == ([0, 0] if verb == "delete" else [1, 1])
    assert states(lab, machine) == ({} if verb == "delete" else {"one": "ready"})
    assert holds(lab, machine) == ([2, 2] if verb == "delete" else [1, 1])


def test_disks_of_two_moments_start_only_when_somebody_accepts_them(lab, machine):
    """The next agent refuses, as the other image has lost the snapshot: that says nothing of the first one, which is reverted already."""
    put(lab, machine, 1)
    snapshot(lab, "create", machine, "one")
    put(lab, machine, 2)
    crash(lab, "disk-work-between")
    task = lab.drover_json("--no-wait", "vm", "snapshot", "revert", machine.name, "one")["name"]
    wait_for("the agent to die", lambda: not lab.find("host2", "agent"), 30, 0.02)
    subprocess.run(["qemu-img", "snapshot", "-d", in_images(lab, machine)[1][0], image(lab, machine, 1)], check=True)
    lab.start("host2", "agent")
    assert machine.wait_task(task)["status"]["error"]["code"] == "not-found"
    assert (states(lab, machine), holds(lab, machine)) == ({"one": "reverting"}, [1, 2])
    assert "--accept-mixed-disks" in refused(lab, "vm", "start", machine.name)
    assert "--accept-mixed-disks" in refused(lab, "vm", "snapshot", "delete", machine.name, "one")
    lab.drover("vm", "snapshot", "delete", machine.name, "one", "--accept-mixed-disks")
    assert (states(lab, machine), in_images(lab, machine), holds(lab, machine)) == ({}, [[], []], [1, 2])
    lab.drover("vm", "start", machine.name)


@pytest.mark.parametrize("program", ["agent", "manager", "qemu"])
def test_what_dies_while_it_runs_leaves_no_half_snapshot(lab, machine, program):
    gate = lab.folder_of("host2") / f"gate-{next(_numbers)}"
    lab.restart("host2", "agent", {"DROVER_HOLD_AT": f"disk-work-looked:{gate}"})
    lab.wait_connected()
    lab.drover("vm", "start", machine.name, "--host", "host2")
    task = lab.drover_json("--no-wait", "vm", "snapshot", "create", machine.name, "held")["name"]
    wait_for("the agent to hold", gate.with_name(f"{gate.name}.held").exists, 60, 0.02)
    if program == "qemu":
        lab.kill("host2", f"qemu:{machine.name}")
    elif program == "agent":
        lab.restart("host2", "agent")
    else:
        lab.restart("manager", "manager")
    gate.touch()
    lab.wait_connected()
    state = machine.wait_task(task)["status"]["state"]
    if program == "qemu":
        assert state == "failed"
        wait_for("it to be off", lambda: machine.power() == "crashed")
        assert (states(lab, machine), in_images(lab, machine)) == ({}, [[], []])
    else:
        assert state == "succeeded" and machine.power() == "running"
        assert states(lab, machine) == {"held": "ready"}
        assert [len(names) for names in in_images(lab, machine)] == [1, 1]

# SPDX-License-Identifier: Apache-2.0
"""Datastores of real hosts: what is known of them, how much may be promised, the best one for a disk; and one that is emptied under
load within the limits of the queue, also by a manager that is killed meanwhile."""

import json

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload
from manager_faults import Request, restart_to_die_at, wait_dead_at
from many_moves import wait_ended

LAB = {"hosts": 2}
# src/manager/operation_datastore.c, moves.c and operation_storage.c
POINTS = [f"datastore.maintenance-{when}-{step}" for step in ("close", "settle", "move", "conclude") for when in ("before", "after")] + [
    "moves-recorded", "moves-submitted"] + [f"vm.migrate-disks-{when}-{step}" for step in ("start", "record", "settle", "conclude")
                                            for when in ("before", "after")]
FEW = ["moves-submitted", "vm.migrate-disks-after-record"]
IDLE = 9
RUNNING = 3  # of these; the others are off
HOST_LIMIT, DATASTORE_LIMIT = 8, 128


def pytest_generate_tests(metafunc):
    if "point" in metafunc.fixturenames:
        metafunc.parametrize("point", POINTS if metafunc.config.getoption("--all-points") else FEW)


@pytest.fixture(scope="module")
def three(lab):
    """Datastores that both hosts share, beside "shared", which has the folders and takes no disk more."""
    names = ("one", "two", "three")
    for name in names:
        (lab.folder / name).mkdir()
        lab.drover("datastore", "add", name, lab.folder / name)
    gib = status_of(lab, "shared")["capacity_bytes"] >> 30
    create(lab, "ballast", f"shared:{gib}G,format=qcow2", start=False)
    lab.drover("datastore", "set", "shared", "--overcommit", "0.5")
    return names


def status_of(lab, name):
    return lab.drover_json("datastore", "show", name)["status"]


def disks_of(lab, name):
    return {disk["name"]: disk["datastore"] for disk in lab.drover_json("vm", "show", name)["spec"]["disks"]}


def create(lab, name, *disks, host="host1", start=True):
    lab.drover("vm", "create", name, "--memory", "32M", "--datastore", "shared", "--host", host, *(["--start"] if start else []),
               *[word for disk in disks for word in ("--disk", disk)])


def test_no_more_is_promised_than_the_limit_allows(lab, three):
    capacity = status_of(lab, "one")["capacity_bytes"]
    gib = capacity >> 30
    lab.drover("datastore", "set", "one", "--overcommit", "1.5")
    create(lab, "thin", f"one:{gib}G,format=qcow2", start=False)
    refused = lab.run_drover("vm", "create", "fat", "--memory", "32M", "--datastore", "shared", "--disk", f"one:{gib}G,format=qcow2")
    assert refused.returncode == 1 and "datastore-limit" in refused.stderr, refused.stderr
    create(lab, "fat", f"two:{gib}G,format=qcow2", start=False)
    refused = lab.run_drover("vm", "migrate", "fat", "--to-datastore", "one")
    assert refused.returncode == 1 and "datastore-limit" in refused.stderr, refused.stderr
    lab.drover("datastore", "set", "one", "--overcommit", "none")
    lab.drover("vm", "migrate", "fat", "--to-datastore", "one")
    assert status_of(lab, "one")["provisioned_bytes"] == 2 * (gib << 30)
    for name in ("thin", "fat"):
        lab.drover("vm", "delete", name)
    assert status_of(lab, "one")["provisioned_bytes"] == 0


def test_each_disk_goes_to_its_own_datastore_or_the_best(lab, three):
    create(lab, "pair", "one:32M,format=raw", "one:16M,format=raw")
    lab.drover("vm", "migrate", "pair", "--to-datastore", "disk0=two,disk1=three")
    assert disks_of(lab, "pair") == {"disk0": "two", "disk1": "three"}
    assert list((lab.folder / "one" / "pair").glob("disk*")) == []
    lab.drover("datastore", "set", "three", "--overcommit", "0.1")
    advice = lab.drover_json("vm", "advise", "pair", "--disks")
    assert [disk["ok"] for disk in advice["disks"]] == [True, True]
    lab.drover("vm", "migrate", "pair", "--to-datastore", "best")
    assert disks_of(lab, "pair") == {disk["disk"]: disk["to"] for disk in advice["disks"]}
    lab.drover("datastore", "set", "three", "--overcommit", "none")
    lab.drover("vm", "stop", "pair", "--force")
    lab.drover("vm", "delete", "pair")


@pytest.fixture(scope="module")
def ten(lab, three):
    """Small guests on both hosts, and one that writes; all have a disk on "one"."""
    names = [f"small{number}" for number in range(IDLE)]
    for number, name in enumerate(names):
        create(lab, name, "one:16M,format=raw", host=lab.hosts[number % 2], start=number < RUNNING)
    busy = Workload(lab, "busy")
    busy.create("--datastore", "shared", host="host1", append="workload.memory=32,mixed workload.disk=100", disks=("one:64M,format=raw",))
    return names, busy


def images_on(lab, datastore, ten):
    return [path for name in (*ten[0], "busy") for path in (lab.folder / datastore / name).glob("disk*")]


def watch_limits(lab, task):
    """The highest use of each resource that the queue showed until the task ended."""
    highest = {}

    def look():
        for item in lab.drover_json("queue", "show")["resources"]:
            highest[item["resource"]] = max(highest.get(item["resource"], 0), item["used"])
        return lab.drover_json("task", "show", task)["status"]["finished"]

    wait_for("the evacuation to end", look, 180, 0.1)
    return highest


def test_datastore_is_emptied_under_load_within_the_limits(lab, ten):
    names, busy = ten
    plan = lab.drover_json("datastore", "maintenance", "one", "--on", "--dry-run")
    assert {line["vm"]: line["outcome"] for line in plan["vms"]} == dict.fromkeys([*names, "busy"], "would-move")
    session, before = busy.session(), busy.status()["records_written"]
    task = lab.drover_json("--no-wait", "datastore", "maintenance", "one", "--on")["name"]
    highest = watch_limits(lab, task)
    print("highest use:", highest)
    ended = lab.drover_json("task", "show", task)
    assert ended["status"]["state"] == "succeeded", ended["status"]
    assert {line["vm"]: line["outcome"] for line in ended["status"]["result"]["vms"]} == dict.fromkeys([*names, "busy"], "moved")
    assert max(value for key, value in highest.items() if key.startswith("host/")) <= HOST_LIMIT
    assert 0 < highest["datastore/one"] <= DATASTORE_LIMIT
    assert status_of(lab, "one")["maintenance"]["state"] == "on"
    assert images_on(lab, "one", ten) == []
    busy.verify()
    assert busy.status()["records_written"] > before
    session.close()
    refused = lab.run_drover("vm", "create", "late", "--memory", "32M", "--datastore", "shared", "--disk", "one:16M")
    assert refused.returncode == 1 and "datastore-maintenance" in refused.stderr, refused.stderr
    lab.drover("datastore", "maintenance", "one", "--off")
    assert "maintenance" not in status_of(lab, "one")


def test_folder_of_a_virtual_machine_is_told_to_stay(lab, three):
    lab.drover("vm", "create", "homely", "--memory", "32M", "--disk", "three:16M,format=raw", "--host", "host1")
    done = lab.run_drover("-o", "json", "datastore", "maintenance", "three", "--on")
    assert done.returncode == 5 and "its folder cannot be moved by this" in done.stderr, done.stderr
    assert disks_of(lab, "homely")["disk0"] != "three"
    assert status_of(lab, "three")["maintenance"]["state"] == "incomplete"
    lab.drover("datastore", "maintenance", "three", "--off")
    lab.drover("vm", "delete", "homely")


def test_cancelled_evacuation_opens_the_datastore_and_leaves_the_guest_well(lab, ten):
    _, busy = ten
    place = disks_of(lab, "busy")["disk0"]
    task = lab.drover_json("--no-wait", "datastore", "maintenance", place, "--on", "--rate-limit", "1mbit")["name"]
    wait_for("a copy to be under way", lambda: [item for item in lab.drover_json("task", "list", "--active")["items"]
                                                if item["spec"]["action"] == "vm.migrate-disks" and item["status"]["state"] == "running"])
    lab.drover("task", "cancel", task)
    assert wait_ended(lab, task)["status"]["state"] == "cancelled"
    assert "maintenance" not in status_of(lab, place)
    assert lab.drover_json("task", "list", "--active")["items"] == []
    busy.verify()


def test_manager_that_dies_at_any_step_goes_on(lab, ten, point):
    names, busy = ten
    place = disks_of(lab, "busy")["disk0"]
    restart_to_die_at(lab, "manager", point)
    request = Request(lab, "datastore", "maintenance", place, "--on")
    wait_dead_at(lab, "manager", point)
    lab.start("manager", "manager")
    lab.wait_connected()
    ended = wait_ended(lab, request.task())
    assert ended["status"]["state"] == "succeeded", ended["status"]
    assert {line["outcome"] for line in ended["status"]["result"]["vms"]} == {"moved"}, json.dumps(ended["status"]["result"])
    assert place not in {disks_of(lab, name)["disk0"] for name in [*names, "busy"]}
    assert images_on(lab, place, ten) == []
    assert status_of(lab, place)["maintenance"]["state"] == "on"
    busy.verify()
    lab.drover("datastore", "maintenance", place, "--off")


def test_hosts_tell_what_their_datastores_have_and_how_quick_they_are(lab, three):
    status = wait_for("the rate to be measured", lambda: (found := status_of(lab, "one"))["write_bytes_per_s"] and found, 60)
    size = lab.machines.run("host1", "stat", "-f", "-c", "%b %S", lab.folder / "one").split()
    assert status["capacity_bytes"] == int(size[0]) * int(size[1])
    assert 0 < status["free_bytes"] < status["capacity_bytes"]
    assert status["latency_ms"] > 0 and status["read_bytes_per_s"] > 0
    assert set(status["hosts"]) == set(lab.hosts)
    assert list((lab.folder / "one").glob(".tmp-*")) == [], "measuring leaves nothing behind"
    print({key: value for key, value in status.items() if key != "hosts"})

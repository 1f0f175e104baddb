# SPDX-License-Identifier: Apache-2.0
"""Maintenance of a host with several virtual machines, one of which cannot move: it ends with one report. A schedule that recurs,
in real time. A manager that is killed at each recorded step of both (on SQLite; test_maintenance_standby.py has PostgreSQL)."""

import datetime
import json

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload
from many_moves import (END_POINTS, MAINTENANCE_POINTS, SCHEDULE_POINTS, assert_all_at, create_idle, moves_all_though_manager_dies,
                        newest_task, places, wait_ended)

LAB = {"hosts": 3}
POINTS = [*MAINTENANCE_POINTS, *END_POINTS, *SCHEDULE_POINTS]


def pytest_generate_tests(metafunc):
    if "point" in metafunc.fixturenames:
        few = ["moves-recorded", "host.maintenance-end-after-open", "schedule.run-after-move"]
        metafunc.parametrize("point", POINTS if metafunc.config.getoption("--all-points") else few)


@pytest.fixture(scope="module")
def idle(lab, request):
    names = [f"idle{number:02}" for number in range(request.config.getoption("--maintenance-vms"))]
    for name in names:
        create_idle(lab, name, "--label", "tier=web")
    return names


@pytest.fixture(scope="module")
def few(lab, idle):
    """Two of them; the others are off."""
    for name in idle[2:]:
        lab.drover("vm", "stop", name, "--force")
    return idle[:2]


def maintenance(lab, *words):
    """The task of a request that ends however it does."""
    return json.loads(lab.run_drover("-o", "json", "host", "maintenance", "host1", *words).stdout)


def by_name(task):
    return {item["vm"]: item for item in task["status"]["result"]["vms"]}


def test_host_with_a_guest_that_cannot_move_is_emptied_and_filled_again(lab, idle):
    busy = Workload(lab, "busy")
    busy.create(host="host1", append="workload.memory=32,mixed workload.dirty=500,8,random")
    (lab.local_path("host1") / "tools.iso").write_bytes(bytes(2 << 20))
    create_idle(lab, "tied", "--cdrom", "local:tools.iso")
    movable = [*idle, "busy"]

    plan = lab.drover_json("host", "maintenance", "host1", "--on", "--dry-run")
    assert {item["vm"]: item["outcome"] for item in plan["vms"]} == {**dict.fromkeys(movable, "would-move"), "tied": "would-wait"}

    task = maintenance(lab, "--on", "--policy", "other-host,wait=3s")
    report = by_name(task)
    assert task["status"]["state"] == "failed"
    assert {name: report[name]["outcome"] for name in report} == {**dict.fromkeys(movable, "moved"), "tied": "stays"}
    assert "datastore local" in report["tied"]["why"] and "tied: " in task["status"]["error"]["detail"]
    assert all(len(report[name]["tries"]) <= 3 for name in report) and not report["tied"]["tries"]
    assert all(place != "host1" for place, _ in places(lab, movable).values())
    busy.verify()
    assert lab.drover_json("host", "show", "host1")["status"]["maintenance"]["state"] == "incomplete"
    refused = json.loads(lab.run_drover("-o", "json", "vm", "migrate", "busy", "--to", "host1", "--check").stdout)
    assert [item["cause"] for item in refused["checks"] if item["code"] == "host-maintenance"][0].startswith("host host1 is in maint")

    task = maintenance(lab, "--on", "--policy", "power-off")
    assert task["status"]["state"] == "succeeded", task["status"]
    assert by_name(task)["tied"]["outcome"] == "stopped"
    decisions = [entry for entry in lab.drover_json("audit", "list", "--limit", 1000)["items"] if entry["action"] == "vm.decide"]
    assert {"migrate", "stays", "power-off"} <= {entry["detail"]["decision"] for entry in decisions}

    task = maintenance(lab, "--off", "--return")
    assert task["status"]["state"] == "succeeded", task["status"]
    assert_all_at(lab, movable, "host1")
    busy.verify()
    busy.discard()
    lab.drover("vm", "delete", "tied")
    assert lab.drover_json("audit", "verify")["ok"]


def test_maintenance_that_is_cancelled_leaves_the_host_open(lab, idle):
    lab.drover("queue", "drain")
    name = lab.drover("--no-wait", "host", "maintenance", "host1", "--on").strip()
    wait_for("its migrations to wait", lambda: len(lab.drover_json("queue", "show")["waiting"]) >= min(len(idle), 4), 30, 0.3)
    lab.drover("task", "cancel", name)
    task = wait_ended(lab, name)
    lab.drover("queue", "resume")
    assert task["status"]["state"] == "cancelled"
    assert "maintenance" not in lab.drover_json("host", "show", "host1")["status"]
    assert_all_at(lab, idle, "host1")


def test_schedule_that_recurs_runs_at_its_times(lab, few):
    before = newest_task(lab)
    lab.drover("schedule", "create", "rounds", "--calendar", "*:*:0/5", "--time-zone", "Europe/Berlin", "--label", "tier=web")
    coming = lab.drover_json("schedule", "next", "rounds", "--count", 20)["items"]
    runs = wait_for("three runs", lambda: len(found := [
        run for run in lab.drover_json("schedule", "show", "rounds")["status"]["runs"] if run["outcome"] == "run"]) >= 3 and found,
        90, 0.5)
    lab.drover("schedule", "pause", "rounds")
    due = [run["due"] for run in runs]
    assert {item["time"] for item in coming} & set(due), (coming, due)
    assert len(set(due)) == len(due) and all(datetime.datetime.fromisoformat(time[:-1]).second % 5 == 0 for time in due)
    for run in runs:
        task = wait_ended(lab, run["task"])
        assert task["name"] > before and task["status"]["state"] == "succeeded", task["status"]
        assert all(by_name(task)[name]["outcome"] == "moved" for name in few)
    lab.drover("schedule", "delete", "rounds")


def test_manager_killed_at_a_step_goes_on_after_its_restart(lab, few, point):
    def revive():
        lab.start("manager", "manager")
        lab.wait_connected()
    moves_all_though_manager_dies(lab, few, "manager", point, revive)

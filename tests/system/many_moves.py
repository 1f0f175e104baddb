# SPDX-License-Identifier: Apache-2.0
"""What tests of maintenance and of schedules share: guests of firmware only, and a manager that dies at each recorded step."""

import collections
import datetime

from labkit.lab import LabError, wait_for
from manager_faults import Request, restart_to_die_at, wait_dead_at

# src/manager/operation_maintenance.c, operation_schedule.c; before and after each of them is recorded
MAINTENANCE_POINTS = [f"host.maintenance-{when}-{step}" for step in ("close", "settle", "move", "conclude")
                      for when in ("before", "after")] + ["moves-recorded", "moves-submitted"]
END_POINTS = [f"host.maintenance-end-{when}-{step}" for step in ("open", "settle", "move", "conclude")
              for when in ("before", "after")]
SCHEDULE_POINTS = [f"schedule.run-{when}-{step}" for step in ("select", "move", "conclude")
                   for when in ("before", "after")] + ["schedule-due", "schedule-begun"]
# Moved cold: src/manager/moves_try.c and the steps of operation_vm.c
COLD_POINTS = [f"moves-{action}-{when}" for action in ("suspend", "resume") for when in ("decided", "submitted")] + [
    f"vm.{action}-{when}-{step}" for action in ("suspend", "resume") for when in ("before", "after")
    for step in ("find", action, "refresh")]
TASK_TIMEOUT_S = 180


def create_idle(lab, name, *options, host="host1"):
    lab.drover("vm", "create", name, "--memory", "32M", "--datastore", "shared", "--host", host, "--start", *options)


def places(lab, names):
    """{name: (host, power)}"""
    return {item["name"]: (item["status"]["host"], item["status"]["power"])
            for item in lab.drover_json("vm", "list")["items"] if item["name"] in names}


def wait_ended(lab, task, timeout_s=TASK_TIMEOUT_S):
    try:
        return wait_for(f"task {task} to end",
                        lambda: (document := lab.drover_json("task", "show", task))["status"]["finished"] and document,
                        timeout_s, 0.3)
    except LabError as error:
        raise LabError(f"{error}: {lab.drover_json('task', 'show', task)['status']}") from None


def children(lab, since):
    """Of the tasks after that one, but for those of hosts that came back: {(action, object): number}."""
    return collections.Counter((item["spec"]["action"], item["spec"]["object"])
                               for item in lab.drover_json("task", "list", "--limit", 1000)["items"]
                               if item["name"] > since and item["spec"]["action"] != "host.sync")


def newest_task(lab):
    return lab.drover_json("task", "list", "--limit", 1)["items"][0]["name"]


def assert_all_at(lab, names, host):
    """Each runs there, once, and nowhere else."""
    wait_for(f"all to run on {host}", lambda: set(places(lab, names).values()) == {(host, "running")}, 30, 0.3)
    for name in names:
        assert [other for other in lab.hosts if lab.find(other, f"qemu:{name}")] == [host], name


def assert_all_left(lab, names, host):
    """Each runs once, somewhere else."""
    wait_for(f"all to have left {host}",
             lambda: all(place not in (None, host) and power == "running" for place, power in places(lab, names).values()), 30, 0.3)
    for name in names:
        assert [other for other in lab.hosts if lab.find(other, f"qemu:{name}")] == [places(lab, names)[name][0]], name


def gather(lab, names):
    """Brings all to the host of the first one, whose name is returned."""
    home = places(lab, names)[names[0]][0]
    for name, (host, _) in places(lab, names).items():
        if host != home:
            lab.drover("vm", "migrate", name, "--to", home)
    return home


def in_seconds(seconds):
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def moves_all_though_manager_dies(lab, names, manager, point, revive):
    """Empties the guests' host, brings them back, or runs a schedule that moves them, with a manager that is killed at the point;
    `revive` makes one lead again. All must be where they were to go, moved once each."""
    home = gather(lab, names)
    away = next(host for host in lab.hosts if host != home)
    if point.startswith("host.maintenance-end"):
        lab.drover("host", "maintenance", home, "--on")
        assert_all_left(lab, names, home)
    restart_to_die_at(lab, manager, point)
    before = newest_task(lab)
    if point.startswith("schedule"):
        lab.drover("schedule", "create", "once", "--at", in_seconds(2), "--missed", "run-once", "--to", away,
                   *[word for name in names for word in ("--vm", name)])
        wait_dead_at(lab, manager, point)
        revive()
        run = wait_for("the run to be known", lambda: lab.drover_json("schedule", "show", "once")["status"]["runs"])[0]
        task = wait_ended(lab, run["task"])
    else:
        request = Request(lab, "host", "maintenance", home,
                          *(["--off", "--return"] if point.startswith("host.maintenance-end") else ["--on"]))
        wait_dead_at(lab, manager, point)
        revive()
        task = wait_ended(lab, request.task())
    assert task["status"]["state"] == "succeeded", task["status"]
    if point.startswith("host.maintenance-end"):
        assert_all_at(lab, names, home)
    elif point.startswith("schedule"):
        assert_all_at(lab, names, away)
    else:
        assert_all_left(lab, names, home)
    made = children(lab, before)
    wanted = {(task["spec"]["action"], task["spec"]["object"]): 1, **{("vm.migrate", f"vm/{name}"): 1 for name in names}}
    assert made == wanted, made
    if point.startswith("schedule"):
        assert [entry["outcome"] for entry in lab.drover_json("schedule", "show", "once")["status"]["runs"]] == ["run"]
        lab.drover("schedule", "delete", "once")
    elif point.startswith("host.maintenance-end"):
        assert "maintenance" not in lab.drover_json("host", "show", home)["status"]
    else:
        assert lab.drover_json("host", "show", home)["status"]["maintenance"]["state"] == "on"
        lab.drover("host", "maintenance", home, "--off")
    assert lab.drover_json("audit", "verify")["ok"]


def moves_cold_though_manager_dies(lab, name, manager, point, revive):
    """Empties the host of a guest that cannot move live, with a manager that is killed at the point, and opens it again: the guest was suspended once and
    resumed once, on the other host."""
    home = places(lab, [name])[name][0]
    restart_to_die_at(lab, manager, point)
    before = newest_task(lab)
    request = Request(lab, "host", "maintenance", home, "--on", "--policy", "suspend")
    wait_dead_at(lab, manager, point)
    revive()
    task = wait_ended(lab, request.task())
    assert task["status"]["state"] == "succeeded", task["status"]
    assert [item["outcome"] for item in task["status"]["result"]["vms"] if item["vm"] == name] == ["moved-cold"]
    assert_all_left(lab, [name], home)
    made = children(lab, before)
    assert {action: made[f"vm.{action}", f"vm/{name}"] for action in ("suspend", "resume", "stop")} == {
        "suspend": 1, "resume": 1, "stop": 0}, made
    lab.drover("host", "maintenance", home, "--off")
    assert lab.drover_json("audit", "verify")["ok"]


def resumes_though_manager_dies(lab, guest, manager, point, revive):
    """Ends a maintenance that has suspended the guest, with a manager that is killed at the point: the guest was resumed once, where it was."""
    home = guest.host()
    lab.drover("host", "maintenance", home, "--on", "--policy", "suspend=1s")
    assert guest.power() == "suspended"
    restart_to_die_at(lab, manager, point)
    before = newest_task(lab)
    request = Request(lab, "host", "maintenance", home, "--off")
    wait_dead_at(lab, manager, point)
    revive()
    task = wait_ended(lab, request.task())
    assert task["status"]["state"] == "succeeded", task["status"]
    assert_all_at(lab, [guest.name], home)
    assert children(lab, before)["vm.resume", f"vm/{guest.name}"] == 1
    assert "maintenance" not in lab.drover_json("host", "show", home)["status"]
    assert lab.drover_json("audit", "verify")["ok"]

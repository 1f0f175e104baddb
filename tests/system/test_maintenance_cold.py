# SPDX-License-Identifier: Apache-2.0
"""Maintenance whose policy suspends what cannot move live (docs/maintenance.md): it is resumed elsewhere with its memory, or stays
suspended until the maintenance ends. A manager that is killed at each recorded step of it. Cold migration of what is off."""

import json

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload
from many_moves import (COLD_POINTS, END_POINTS, assert_all_at, create_idle, moves_cold_though_manager_dies, places,
                        resumes_though_manager_dies, wait_ended)

LAB = {"migration_nics": 1}
MIGRATION_NETWORK = "mig1"
PATIENCE_S = 600
SUSPEND = ("--policy", "suspend=1s")


def pytest_generate_tests(metafunc):
    few = {"point": ["moves-suspend-submitted", "moves-resume-decided"], "end_point": ["host.maintenance-end-after-open"]}
    every = {"point": COLD_POINTS, "end_point": [*END_POINTS, "moves-resume-decided", "moves-resume-submitted"]}
    for name in few.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, (every if metafunc.config.getoption("--all-points") else few)[name])


@pytest.fixture
def no_way(lab):
    """No migration reaches its destination, while hosts and datastores do well."""
    lab.network.cut("host1", network=MIGRATION_NETWORK)
    yield
    lab.network.cut("host1", up=True, network=MIGRATION_NETWORK)


@pytest.fixture(scope="class")
def tied(lab):
    """A guest that no other host can take: its CD-ROM is on a datastore of its host's own."""
    (lab.local_path("host1") / "tools.iso").write_bytes(bytes(2 << 20))
    guest = Workload(lab, "tied").create("--cdrom", "local:tools.iso", host="host1")
    yield guest
    guest.discard()


def maintenance(lab, *words):
    """The task of a request that ends however it does."""
    return json.loads(lab.run_drover("-o", "json", "host", "maintenance", "host1", *words).stdout)


def line_of(task, guest):
    return {item["vm"]: item for item in task["status"]["result"]["vms"]}[guest.name]


def assert_runs_at(lab, guest, host):
    wait_for(f"it to run on {host}", lambda: (guest.host(), guest.power()) == (host, "running"), 30, 0.3)
    assert [other for other in lab.hosts if lab.find(other, f"qemu:{guest.name}")] == [host]
    guest.wait_ready()
    guest.verify()


def revive(lab):
    lab.start("manager", "manager")
    lab.wait_connected()


def test_guest_that_cannot_move_live_is_moved_cold_and_comes_back(busy_vm, lab, no_way):
    session = busy_vm.session(patience_s=PATIENCE_S)
    task = maintenance(lab, "--on", *SUSPEND)
    assert task["status"]["state"] == "succeeded", task["status"]
    line = line_of(task, busy_vm)
    assert (line["outcome"], line["to"]) == ("moved-cold", "host2")
    assert [(item["action"], item["result"]) for item in line["tries"]] == [
        ("migrate", "failed"), ("suspend", "succeeded"), ("resume", "succeeded")]
    assert_runs_at(lab, busy_vm, "host2")
    lab.network.cut("host1", up=True, network=MIGRATION_NETWORK)
    task = maintenance(lab, "--off", "--return")
    assert line_of(task, busy_vm)["outcome"] == "moved", task["status"]
    assert_runs_at(lab, busy_vm, "host1")
    session.close()


def test_suspended_guest_is_given_to_another_host_and_goes_on_there(busy_vm, lab):
    session = busy_vm.session(patience_s=PATIENCE_S)
    lab.drover("vm", "suspend", busy_vm.name)
    assert lab.drover("vm", "migrate", busy_vm.name, "--to", "host2") == f"{busy_vm.name}: on host2 now, and suspended as before\n"
    for host in lab.hosts:
        lab.restart(host, "agent")
    lab.wait_connected()
    assert (busy_vm.host(), busy_vm.power()) == ("host2", "suspended")
    lab.drover("vm", "resume", busy_vm.name)
    assert_runs_at(lab, busy_vm, "host2")
    session.close()


def test_guest_that_is_off_is_given_to_another_host_and_starts_there(lab):
    (lab.local_path("host1") / "tools.iso").write_bytes(bytes(2 << 20))
    create_idle(lab, "free")
    create_idle(lab, "bound", "--cdrom", "local:tools.iso")
    for name in ("free", "bound"):
        lab.drover("vm", "stop", name, "--force")
    lab.drover("vm", "migrate", "free", "--to", "host2")
    assert places(lab, ["free"]) == {"free": ("host2", "stopped")}
    lab.drover("vm", "start", "free")
    assert_all_at(lab, ["free"], "host2")
    lab.drover("vm", "stop", "free", "--force")
    lab.drover("vm", "migrate", "free", "--to", "host1")
    lab.drover("vm", "delete", "free")
    assert not (lab.folder / "shared/free").exists()
    done = lab.run_drover("vm", "migrate", "bound", "--to", "host2")
    assert done.returncode == 1 and "datastore local" in done.stderr
    assert places(lab, ["bound"]) == {"bound": ("host1", "stopped")}
    lab.drover("vm", "delete", "bound")


class TestGuestThatNoHostTakes:
    def test_guest_that_no_host_takes_stays_suspended_until_the_end(self, tied, lab):
        session = tied.session(patience_s=PATIENCE_S)
        plan = lab.drover_json("host", "maintenance", "host1", "--on", "--dry-run", *SUSPEND)["vms"]
        assert [(item["vm"], item["outcome"]) for item in plan] == [(tied.name, "would-suspend")]
        assert "datastore local" in plan[0]["why"]

        task = maintenance(lab, "--on", *SUSPEND)
        assert task["status"]["state"] == "succeeded", task["status"]
        assert line_of(task, tied)["outcome"] == "suspended" and "datastore local" in line_of(task, tied)["why"]
        assert tied.power() == "suspended" and lab.find("host1", f"qemu:{tied.name}") == []
        assert lab.drover_json("host", "show", "host1")["status"]["maintenance"]["state"] == "on"

        plan = lab.drover_json("host", "maintenance", "host1", "--off", "--dry-run")["vms"]
        assert [(item["outcome"], item["to"]) for item in plan] == [("would-resume", "host1")]
        task = maintenance(lab, "--off")
        assert (line_of(task, tied)["outcome"], line_of(task, tied)["to"]) == ("resumed", "host1"), task["status"]
        assert_runs_at(lab, tied, "host1")
        session.close()

    def test_cancelled_maintenance_resumes_the_guest_where_it_was(self, tied, lab):
        session = tied.session(patience_s=PATIENCE_S)
        name = lab.drover("--no-wait", "host", "maintenance", "host1", "--on", "--policy", "suspend=10m").strip()
        wait_for("the guest to be suspended", lambda: tied.power() == "suspended", 60, 0.2)
        lab.drover("task", "cancel", name)
        task = wait_ended(lab, name)
        assert task["status"]["state"] == "cancelled", task["status"]
        assert (line_of(task, tied)["outcome"], line_of(task, tied)["to"]) == ("resumed", "host1")
        assert "maintenance" not in lab.drover_json("host", "show", "host1")["status"]
        assert_runs_at(lab, tied, "host1")
        session.close()

    def test_manager_killed_at_the_end_resumes_once(self, lab, tied, end_point):
        resumes_though_manager_dies(lab, tied, "manager", end_point, lambda: revive(lab))
        tied.wait_ready()
        tied.verify()


@pytest.fixture(scope="module")
def idle(lab):
    create_idle(lab, "idle")
    return "idle"


def test_manager_killed_at_a_step_suspends_and_resumes_once(lab, idle, no_way, point):
    moves_cold_though_manager_dies(lab, idle, "manager", point, lambda: revive(lab))

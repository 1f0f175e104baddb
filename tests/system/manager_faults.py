# SPDX-License-Identifier: Apache-2.0
"""What tests of a manager that dies share: each recorded step of a migration, and what must be true afterwards."""

import json
import subprocess

from labkit.lab import wait_for

# src/manager/operation_migrate.c, before and after each of them is recorded
STEPS = ("check", "start", "follow", "settle", "forget", "refresh", "conclude")
POINTS = [f"vm.migrate-{when}-{step}" for step in STEPS for when in ("before", "after")]


def other_host(lab, guest):
    return next(host for host in lab.hosts if host != guest.host())


class Request:
    """A task that is asked for by a CLI of its own: its answer may be lost with the manager, and is then asked for again."""

    def __init__(self, lab, *words):
        command, environment = lab.command("client", lab.program("drover"), "-o", "json", "--no-wait", *words)
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def task(self):
        """The task's name, once a manager has answered."""
        output, errors = self._process.communicate(timeout=90)
        assert self._process.returncode == 0, errors
        return json.loads(output)["name"]


class Submission(Request):
    """A migration."""

    def __init__(self, lab, guest, to):
        super().__init__(lab, "vm", "migrate", guest.name, "--to", to)


def restart_to_die_at(lab, manager, point):
    """Restarts the manager so that it will kill itself at the point; it leads when this returns."""
    gate = lab.folder_of(manager) / f"{point}.gate"
    gate.unlink(missing_ok=True)
    lab.restart(manager, "manager", {"DROVER_CRASH_AT": f"{point}:{gate}"})
    wait_for(f"{manager} to lead", lambda: (lab.version_of(manager) or {}).get("leads"))
    lab.wait_connected()


def wait_dead_at(lab, manager, point):
    wait_for(f"{manager} to die at {point}", lambda: not lab.find(manager, "manager"), 60, 0.05)
    assert (lab.folder_of(manager) / f"{point}.gate").exists(), "the manager died somewhere else"


def migrate_until_it_dies(lab, guest, manager, point):
    """Migrates with a manager that kills itself at the point: (Submission, destination). The manager is dead then."""
    restart_to_die_at(lab, manager, point)
    to = other_host(lab, guest)
    submission = Submission(lab, guest, to)
    wait_dead_at(lab, manager, point)
    return submission, to


def assert_moved(lab, guest, task, to):
    """The migration ended well, as if nothing had happened, and the record is whole."""
    ended = guest.wait_task(task)
    assert ended["status"]["state"] == "succeeded", ended["status"]
    assert ended["status"]["result"]["to"] == to
    wait_for(f"the guest to be on {to}", lambda: (guest.host(), guest.power()) == (to, "running"))
    assert [host for host in lab.hosts if lab.find(host, f"qemu:{guest.name}")] == [to]
    guest.verify()
    assert lab.drover_json("audit", "verify")["ok"]

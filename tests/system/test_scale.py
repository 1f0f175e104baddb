# SPDX-License-Identifier: Apache-2.0
"""A small run of dev/scale: 50 simulated hosts with 1,000 VMs, 40 migrations and 20 clients that watch. What it measures is not judged
here, for the machine does other things at the same time; what must be so at any speed is."""

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOSTS, VMS, WATCHERS, PROBES, MIGRATIONS = 50, 20, 20, 10, 40


@pytest.fixture(scope="module", name="run")
def run_of_dev_scale(tmp_path_factory):
    file = tmp_path_factory.mktemp("scale") / "scale.json"
    words = {"hosts": HOSTS, "vms": VMS, "datastores": 4, "watchers": WATCHERS, "probes": PROBES, "migrations": MIGRATIONS,
             "repeats": 3, "idle": 1}
    done = subprocess.run([ROOT / "dev/scale", *(f"--{name}={value}" for name, value in words.items()), "--copy", "1000", "4000",
                           "--out", file], env=os.environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          check=False)
    assert done.returncode == 0, done.stdout
    return json.loads(file.read_text(encoding="utf-8"))


def test_each_host_and_vm_is_taken_up_and_again_after_a_restart(run):
    """dev/scale waits for all of them, and fails otherwise; here the phases are looked for."""
    phases = {row["phase"]: row for row in run["phases"]}
    assert phases["enrol and take up"]["agent_calls"] >= HOSTS
    assert phases["after a restart"]["agent_calls"] > 0
    assert run["figures"]["restart_all_connected_s"] > 0
    # What is measured meanwhile is a part of it, and not judged twice.
    assert {row["phase"]: row["within"] for row in run["phases"] if row["within"]} == {
        "lists, busy": "watched migrations", "advice, busy": "watched migrations"}


def test_migrations_end_well_and_never_exceed_a_limit(run):
    figures, agents = run["figures"], run["figures"]["agents"]
    assert figures["migrations"] == {"succeeded": MIGRATIONS * 3 // 2}, figures["first_error"]
    assert figures["exceeded"] == {}
    # The agents count by themselves.
    assert agents["done"] == MIGRATIONS * 3 // 2
    assert agents["most_on_a_host"] <= 8
    assert agents["memory_exceeded"] == 0
    assert agents["most_pauses_on_a_link"] == 1
    # No copy ends before, however long it takes until they have started.
    assert agents["most_at_once"] >= MIGRATIONS


def test_each_watcher_hears_of_each_change(run):
    watchers = run["figures"]["watchers"]
    assert (watchers["lost"], watchers["missed"], watchers["refused"]) == (0, 0, 0)
    assert run["figures"]["reached_all_ms"]["n"] == PROBES
    assert watchers["events"] >= WATCHERS * (PROBES + MIGRATIONS)

# SPDX-License-Identifier: Apache-2.0
"""The life of a VM on one host, and what the CLI refuses."""

import re

import pytest
from labkit.lab import LabError, wait_for


def test_guest_boots_and_verifies(busy_vm):
    assert busy_vm.power() == "running"
    busy_vm.verify()


def test_stop_presses_the_power_button(vm, lab):
    guest = vm()
    lab.drover("vm", "stop", guest.name, "--patience", "60s")
    assert guest.power() == "stopped"
    assert "power off" in lab.drover("vm", "console", guest.name) or lab.find("host1", f"qemu:{guest.name}") == []


def test_forced_stop_ends_qemu_and_start_finds_the_records(vm, lab):
    guest = vm(append="workload.disk=100")
    wait_for("records", lambda: guest.status()["records_written"] > 20, 30)
    before = guest.status()["records_written"]
    lab.drover("vm", "stop", guest.name, "--force")
    assert lab.find("host1", f"qemu:{guest.name}") == []
    guest.start()
    assert guest.status()["records_before"] >= before
    guest.verify()


def test_paused_guest_stands_still_until_resumed(vm, lab):
    guest = vm()
    session = guest.session()
    lab.drover("vm", "pause", guest.name)
    assert guest.power() == "paused"
    with pytest.raises(OSError):
        guest.ask("status", 1)
    lab.drover("vm", "resume", guest.name)
    guest.wait_ready()
    session.close()
    guest.verify()


def test_restarted_agent_adopts_the_running_guest(busy_vm, lab):
    session = busy_vm.session()
    qemu = lab.find("host1", f"qemu:{busy_vm.name}")
    lab.restart("host1", "agent")
    wait_for("the VM to be known as running again", lambda: busy_vm.power() == "running", 30)
    assert lab.find("host1", f"qemu:{busy_vm.name}") == qemu
    session.close()
    busy_vm.verify()


def test_dead_qemu_is_noticed_and_said(vm, lab):
    guest = vm()
    lab.kill("host1", f"qemu:{guest.name}")
    wait_for("the crash to be known", lambda: guest.power() == "crashed", 20)
    assert guest.document()["status"]["message"]


def test_deleted_vm_leaves_nothing(vm, lab):
    guest = vm()
    lab.drover("vm", "stop", guest.name, "--force")
    lab.drover("vm", "delete", guest.name)
    assert not (lab.folder / "shared" / guest.name).exists()
    assert lab.run_drover("vm", "show", guest.name).returncode == 3


@pytest.mark.parametrize("words, status", [
    (["vm", "create", "bad/name", "--memory", "64M", "--datastore", "shared"], None),
    (["vm", "create", "x1", "--memory", "1K", "--datastore", "shared"], None),
    (["vm", "create", "x1", "--memory", "64M", "--disk", "nowhere:1G"], None),
    (["vm", "create", "x1", "--memory", "64M", "--disk", "shared:../../etc/passwd"], None),
    (["vm", "create", "x1", "--memory", "64M", "--disk", "shared:1G,format=gold"], None),
    (["vm", "create", "x1", "--memory", "64M", "--datastore", "shared", "--net", "nonet"], None),
    (["vm", "create", "x1", "--memory", "64M", "--datastore", "shared", "--net", "default,mac=ff:ff:ff:ff:ff:ff"], None),
    (["vm", "create", "x1", "--memory", "64M", "--datastore", "shared", "--machine", "pc-q35-99.9", "--start"], None),
    (["vm", "show", "nobody"], 3),
    (["vm", "start", "nobody"], 3),
    (["vm", "migrate", "nobody", "--to", "host2"], 3),
    (["vm", "fly", "x1"], 2),
])
def test_bad_input_is_refused_with_a_cause_and_leaves_nothing(lab, words, status):
    done = lab.run_drover(*words)
    assert done.returncode == status if status else done.returncode != 0
    # A task's progress may stand before it.
    assert re.search(r"^drover: .{10,}", done.stderr, re.M)
    if words[:2] == ["vm", "create"]:
        lab.run_drover("vm", "delete", words[2])
        assert not (lab.folder / "shared" / words[2]).exists()


def test_wrong_token_is_denied(lab):
    token = lab.folder / "wrong"
    token.write_text("drv1.wrong\n", encoding="ascii")
    assert lab.run_drover("--token", token, "vm", "list").returncode == 4


def test_error_names_the_vm(lab):
    with pytest.raises(LabError, match="nobody"):
        lab.drover("vm", "show", "nobody")

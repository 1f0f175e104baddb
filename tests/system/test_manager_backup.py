# SPDX-License-Identifier: Apache-2.0
"""A manager that lost everything comes back from its backup; hosts and guests do not notice."""

import shutil

import pytest
from labkit.lab import LabError, wait_for


def manage(lab, *words):
    return lab.machines.run("manager", lab.program("drover-manager"), "--config", lab.folder_of("manager") / "manager.conf", *words)


def test_manager_restored_on_an_empty_disk_goes_on_with_hosts_and_guests(lab, vm):
    guest = vm()
    session = guest.session(patience_s=60)
    file, state = lab.folder / "manager.backup", lab.folder_of("manager") / "state"
    manage(lab, "backup", file)
    lab.drover("token", "create", "later", "--role", "read-only")
    with pytest.raises(LabError, match="another drover-manager runs"):
        manage(lab, "restore", file)
    # Leaders after the backup: the agents know later epochs than the backup has.
    for _ in range(3):
        lab.restart("manager", "manager")
        lab.wait_connected()
    lab.kill("manager", "manager")
    shutil.rmtree(state)
    manage(lab, "restore", file)
    lab.start("manager", "manager")
    wait_for("the manager to answer", lambda: lab.try_drover("host", "list"))
    lab.wait_connected()
    assert "later" not in lab.drover("token", "list")
    assert lab.drover_json("audit", "verify")["ok"]
    wait_for("the guest to be known", lambda: (guest.host(), guest.power()) == ("host1", "running"))
    assert guest.migrate("host2")["to"] == "host2"
    guest.verify()
    session.close()

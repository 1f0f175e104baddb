# SPDX-License-Identifier: Apache-2.0
"""Moves from the older QEMU to the newer, and of a UEFI guest."""

import shutil

import pytest
from labkit import guest as guests
from labkit.lab import LabError

LAB = {"hosts": 2, "qemu_versions": {"host1": "7.2", "host2": "10.0"}}


def test_move_from_7_2_to_10_0(busy_vm):
    session = busy_vm.session()
    assert busy_vm.document()["status"]["qemu_version"].startswith("7.2")
    assert busy_vm.migrate("host2", "--verify")["verified"]
    busy_vm.verify()
    session.close()
    assert busy_vm.document()["status"]["qemu_version"].startswith("10.0")


def test_suspended_by_7_2_resumes_on_10_0_and_not_the_other_way(busy_vm, lab):
    lab.drover("vm", "suspend", busy_vm.name)
    lab.drover("vm", "resume", busy_vm.name, "--host", "host2")
    busy_vm.wait_ready()
    busy_vm.verify()
    lab.drover("vm", "suspend", busy_vm.name)
    with pytest.raises(LabError, match="suspended by QEMU 10.0"):
        lab.drover("vm", "resume", busy_vm.name, "--host", "host1")
    assert busy_vm.power() == "suspended"
    lab.drover("vm", "resume", busy_vm.name, "--host", "host2")
    busy_vm.wait_ready()
    busy_vm.verify()


@pytest.fixture
def uefi_vm(vm, lab):
    folder = lab.folder / "shared/images"
    folder.mkdir(exist_ok=True)
    shutil.copy(guests.build("uefi") / "disk.raw", folder / "uefi.raw")
    return vm(firmware="uefi", image=None, disks=("shared:images/uefi.raw,format=raw", "shared:16M,format=raw"))


def test_uefi_guest_moves(uefi_vm):
    session = uefi_vm.session()
    uefi_vm.migrate("host2", "--verify")
    uefi_vm.verify()
    session.close()
    assert uefi_vm.status()["disk"] == "/dev/vdb"

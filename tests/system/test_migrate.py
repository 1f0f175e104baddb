# SPDX-License-Identifier: Apache-2.0
"""A running VM moves, and nobody loses anything."""

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 2, "link": "1gbit"}


@pytest.fixture(scope="module")
def still_vm(lab):
    """One guest for all moves that do not take place."""
    made = Workload(lab, "still").create(host="host1")
    yield made
    made.discard()


def other(host):
    return "host2" if host == "host1" else "host1"


def check_arrived(guest, host, lab):
    assert guest.host() == host
    assert guest.power() == "running"
    # The source lets go after the guest runs: the task waits for that too.
    assert lab.find(other(host), f"qemu:{guest.name}") == []
    # Killed at the latest when the migration is forgotten, but the kernel takes its time to unmap a guest.
    wait_for("the movers to end", lambda: lab.find("host1", "mover") + lab.find("host2", "mover") == [], 5)


def test_busy_guest_moves_with_its_session(busy_vm, lab):
    session = busy_vm.session()
    result = busy_vm.migrate("host2", "--verify")
    busy_vm.verify()
    check_arrived(busy_vm, "host2", lab)
    session.close()
    assert result["verified"]
    assert (result["from"], result["to"]) == ("host1", "host2")
    assert 0 < result["pause_ms"] < result["total_ms"]


@pytest.mark.parametrize("channels", [1, 16, 64])
def test_any_number_of_channels(busy_vm, lab, channels):
    to = other(busy_vm.host())
    result = busy_vm.migrate(to, "--verify", "--channels", str(channels))
    busy_vm.verify()
    check_arrived(busy_vm, to, lab)
    assert result["verified"] and result["channels"] == channels


def test_many_moves_back_and_forth(busy_vm, lab, request):
    """One guest, one boot, one TCP connection through all of them."""
    session = busy_vm.session()
    boot = busy_vm.status()["boot"]
    for number in range(request.config.getoption("--rounds")):
        to = "host2" if number % 2 == 0 else "host1"
        result = busy_vm.migrate(to, "--verify")
        print(f"{number + 1}: to {to} in {result['total_ms']} ms, pause {result['pause_ms']:.1f} ms, "
              f"hash {result.get('ram_hash')}")
        assert result["verified"]
        busy_vm.verify()
        check_arrived(busy_vm, to, lab)
    assert busy_vm.status()["boot"] == boot
    session.close()


def test_paused_guest_stays_and_the_way_out_is_told(still_vm, lab):
    lab.drover("vm", "pause", still_vm.name)
    done = lab.run_drover("vm", "migrate", still_vm.name, "--to", "host2")
    assert done.returncode != 0 and "paused" in done.stderr and "resume" in done.stderr
    assert (still_vm.host(), still_vm.power()) == ("host1", "paused")
    lab.drover("vm", "resume", still_vm.name)
    still_vm.wait_ready()
    still_vm.verify()


def slow_migration(guest):
    """Begins a migration that cannot end soon: 64 MiB of noise over 20 Mbit/s."""
    guest.do("memory 64 random")
    task = guest.begin_migration("host2", "--rate-limit", "20mbit")
    guest.wait_phase(task, ("copying",))
    return task


def test_cancelled_migration_leaves_the_guest_where_it_was(busy_vm, lab):
    session = busy_vm.session()
    task = slow_migration(busy_vm)
    lab.drover("task", "cancel", task)
    assert busy_vm.wait_task(task)["status"]["state"] == "cancelled"
    check_arrived(busy_vm, "host1", lab)
    session.close()
    busy_vm.verify()
    busy_vm.migrate("host2")
    busy_vm.verify()


def test_reboot_during_the_copy(busy_vm, lab):
    boot = busy_vm.status()["boot"]
    task = slow_migration(busy_vm)
    busy_vm.tell("reboot")
    ended = busy_vm.wait_task(task)
    assert ended["status"]["state"] == "succeeded"
    busy_vm.wait_ready()
    assert busy_vm.status()["boot"] != boot
    check_arrived(busy_vm, "host2", lab)
    busy_vm.verify()


def test_crash_of_the_guests_kernel_during_the_copy(busy_vm, lab):
    """It panics, and reboots by itself (panic=1): a reset like any other, and the migration goes on."""
    boot = busy_vm.status()["boot"]
    task = slow_migration(busy_vm)
    busy_vm.tell("crash")
    assert busy_vm.wait_task(task)["status"]["state"] == "succeeded"
    busy_vm.wait_ready()
    assert busy_vm.status()["boot"] != boot
    check_arrived(busy_vm, "host2", lab)
    busy_vm.verify()


def test_power_off_during_the_copy(busy_vm, lab):
    task = slow_migration(busy_vm)
    busy_vm.tell("poweroff")
    ended = busy_vm.wait_task(task)
    assert ended["status"]["state"] in ("failed", "cancelled", "succeeded")
    wait_for("the VM to be stopped", lambda: busy_vm.power() == "stopped", 30)
    assert [lab.find(host, f"qemu:{busy_vm.name}") for host in lab.hosts] == [[], []]
    busy_vm.start()
    busy_vm.verify()


def test_same_host_is_refused(still_vm, lab):
    done = lab.run_drover("vm", "migrate", still_vm.name, "--to", "host1")
    assert done.returncode != 0 and "host1" in done.stderr
    assert still_vm.power() == "running"


def test_unknown_host_is_refused(still_vm, lab):
    done = lab.run_drover("vm", "migrate", still_vm.name, "--to", "host9")
    assert done.returncode == 3 and "host9" in done.stderr


def test_check_says_what_would_happen_and_does_nothing(still_vm, lab):
    report = lab.drover_json("vm", "migrate", still_vm.name, "--to", "host2", "--check")
    assert report["ok"] and report["to"] == "host2"
    assert still_vm.host() == "host1"


def test_local_datastore_keeps_a_vm_at_home(vm, lab):
    guest = vm(disks=("local:16M,format=raw",))
    done = lab.run_drover("vm", "migrate", guest.name, "--to", "host2")
    assert done.returncode != 0 and "local" in done.stderr
    guest.verify()


@pytest.mark.parametrize("process, machine", [("mover", "host1"), ("mover", "host2"), ("qemu", "host2")])
def test_death_of_a_helper_during_the_copy_leaves_the_guest(busy_vm, lab, process, machine):
    session = busy_vm.session()
    task = slow_migration(busy_vm)
    lab.kill(machine, process)
    assert busy_vm.wait_task(task)["status"]["state"] == "failed"
    check_arrived(busy_vm, "host1", lab)
    session.close()
    busy_vm.verify()

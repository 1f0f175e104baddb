# SPDX-License-Identifier: Apache-2.0
"""A guest that comes back to a host where it was before sends only what changed (checkpoint-space in drover-agent.conf)."""

import json
import re

import pytest

LAB = {"hosts": 2, "link": "1gbit", "checkpoint_space": "1G"}


@pytest.fixture
def guest(vm):
    """96 MiB of every kind of content, of which little changes."""
    return vm(append="workload.memory=96,mixed workload.dirty=200,8,random workload.disk=50")


def kept(lab, host, guest):
    """Names of the guest's files, without its uid: "" is a checkpoint, ".new" an unfinished one."""
    names = (path.name for path in (lab.folder_of(host) / "state/checkpoints").iterdir())
    return [name.removeprefix(guest.uid()) for name in names if name.startswith(guest.uid())]


def keys(lab, host, guest):
    path = lab.folder_of(host) / f"state/checkpoint-keys/{guest.uid()}.json"
    return json.loads(path.read_text(encoding="ascii")) if path.exists() else {}


def memory_of(pid):
    """What a process has in memory that it can read, piece by piece."""
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for first, last, name in re.findall(r"^(\w+)-(\w+) r\S+ \S+ \S+ \S+ *(.*)$", maps.read(), re.M):
            if not name.startswith(("[v", "/memfd", "/proc")):  # the guest's own is none of the mover's
                memory.seek(int(first, 16))
                yield memory.read(int(last, 16) - int(first, 16))


def move(guest, to):
    result = guest.migrate(to, "--verify")
    guest.verify()
    assert result["verified"]
    return result


def test_guest_that_comes_back_sends_what_changed(guest, lab):
    session = guest.session()
    first = move(guest, "host2")
    assert first["bytes_recalled"] == 0 and first["checkpoint"]["bytes"] > 0
    assert kept(lab, "host1", guest) == [""] and kept(lab, "host2", guest) == []
    assert len(keys(lab, "host2", guest)) == 1
    forecast = lab.drover_json("vm", "forecast", guest.name, "--to", "host1")["destinations"][0]
    assert forecast["held_share"] > 0.8, forecast
    back = move(guest, "host1")
    print(f"forecast of the return: {forecast['bytes_wire']}, {forecast['held_share']} held")
    assert forecast["bytes_wire"]["expected"] < 0.3 * first["bytes_wire"]
    print(f"first {first['bytes_wire']} bytes, back {back['bytes_wire']}; kept in {first['checkpoint']['ms']} ms")
    assert back["bytes_wire"] < 0.15 * first["bytes_wire"]
    # What was used is gone, and the other host has something now; the key is where the guest is.
    assert kept(lab, "host1", guest) == [] and kept(lab, "host2", guest) == [""]
    assert keys(lab, "host1", guest) and not keys(lab, "host2", guest)
    assert move(guest, "host2")["bytes_recalled"] > 0
    session.close()


def test_mover_keeps_no_text_of_a_key(guest, lab):
    move(guest, "host2")
    key, = keys(lab, "host2", guest).values()
    task = guest.begin_migration("host1", "--rate-limit", "20mbit")
    guest.wait_phase(task, ("copying",))
    pid, = lab.find("host1", "mover")
    memory = list(memory_of(pid))
    # The second half: whoever gets memory that was freed may overwrite the first.
    assert not any(key.encode()[34:] in piece for piece in memory)
    assert guest.wait_task(task)["status"]["state"] == "succeeded"


def test_damaged_checkpoint_only_costs_time(guest, lab):
    move(guest, "host2")
    path = lab.folder_of("host1") / "state/checkpoints" / guest.uid()
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damage")
    assert move(guest, "host1")["bytes_recalled"] > 0
    path = lab.folder_of("host2") / "state/checkpoints" / guest.uid()
    path.write_bytes(b"rubbish")
    assert move(guest, "host2")["bytes_recalled"] == 0


def test_agent_that_restarts_still_has_the_keys(guest, lab):
    move(guest, "host2")
    lab.restart("host2", "agent")
    lab.wait_connected()
    assert move(guest, "host1")["bytes_recalled"] > 0


def test_failed_migration_leaves_nothing_half_written(guest, lab):
    move(guest, "host2")
    task = guest.begin_migration("host1", "--rate-limit", "1mbit")
    guest.wait_phase(task, ("copying",))
    lab.drover("task", "cancel", task)
    guest.wait_task(task)
    assert kept(lab, "host2", guest) == [] and kept(lab, "host1", guest) == [""]
    assert move(guest, "host1")["bytes_recalled"] > 0


def test_deleted_guest_takes_its_key_along(vm, lab):
    made = vm(append="workload.memory=16,mixed")
    move(made, "host2")
    uid = made.uid()
    made.discard()
    assert not (lab.folder_of("host2") / f"state/checkpoint-keys/{uid}.json").exists()

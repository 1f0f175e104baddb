# SPDX-License-Identifier: Apache-2.0
"""The workload guest itself, on QEMU without drover: it must notice everything that a bad migration could do to it."""

import struct
import subprocess

import pytest
from labkit import network, qemu
from labkit.lab import Lab, LabError, wait_for
from labkit.plain_qemu import PlainGuest
from test_lab import connect_hosts

PAGE = 4096
MAGIC = struct.pack("<Q", 0x64726F7665722031)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("guest"))
    try:
        connect_hosts(lab)
        yield lab
    finally:
        lab.machines.destroy()


@pytest.fixture(scope="module")
def start(bare, tmp_path_factory):
    """start(machine="host1", append=..., **PlainGuest's): a guest; all have one disk, DISK, unless told otherwise."""
    guests = []

    def make(disk, machine="host1", append="", incoming=None, **options):
        guest = PlainGuest(bare, machine, tmp_path_factory.mktemp("qemu"), **options)
        guests.append(guest)
        guest.start(disk, append, incoming)
        return guest if incoming else guest.wait_ready()

    yield make
    for guest in guests:
        guest.kill()


def make_disk(folder):
    subprocess.run(["truncate", "--size=16M", folder / "disk.raw"], check=True)
    return folder / "disk.raw"


@pytest.fixture(scope="module")
def shared_guest(start, tmp_path_factory):
    return start(make_disk(tmp_path_factory.mktemp("disk")))


@pytest.fixture
def guest(shared_guest):
    """A guest with small memory at rest and no faults: one life for many tests."""
    for command in ("dirty 0", "disk 50", "memory 4 text", "forget"):
        assert shared_guest.ask(command) == "ok"
    return shared_guest


def find_page(guest, number=5):
    """Offset in the RAM file of the guest's page `number`, by its header."""
    with open(guest.memory_file, "rb") as ram:
        offset = 0
        while chunk := ram.read(PAGE * 256):
            for at in range(0, len(chunk), PAGE):
                if chunk[at:at + 8] == MAGIC and struct.unpack_from("<Q", chunk, at + 8)[0] == number:
                    return offset + at
            offset += len(chunk)
    raise AssertionError("the page is not in the guest's memory")


def peek(guest, offset, size):
    with open(guest.memory_file, "rb") as ram:
        ram.seek(offset)
        return ram.read(size)


def poke(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("content", ["text", "random", "zero", "same", "mixed"])
@pytest.mark.parametrize("style", ["line", "page"])
def test_every_content_verifies_while_it_changes(guest, content, style):
    assert guest.ask(f"memory 8 {content}") == "ok"
    assert guest.ask(f"dirty 20000 8 hot {style}") == "ok"
    wait_for("some writes", lambda: guest.status()["page_writes"] > 5000, 30)
    assert guest.ask("verify") == "ok"


def test_flipped_byte_in_memory_is_noticed(guest):
    at = find_page(guest) + 777
    poke(guest.memory_file, at, bytes([peek(guest, at, 1)[0] ^ 1]))
    answer = guest.ask("verify")
    assert answer.startswith("error") and "memory page 5" in answer


def test_page_in_an_older_version_is_noticed(guest):
    at = find_page(guest)
    old = peek(guest, at, PAGE)
    assert guest.ask("dirty 20000") == "ok"
    wait_for("the page to change", lambda: peek(guest, at, PAGE) != old, 10)
    assert guest.ask("dirty 0") == "ok"
    poke(guest.memory_file, at, old)
    assert "memory page 5" in guest.ask("verify")


def test_page_in_another_pages_place_is_noticed(guest):
    poke(guest.memory_file, find_page(guest, 6), peek(guest, find_page(guest, 5), PAGE))
    assert "memory page 6" in guest.ask("verify")


def test_scan_notices_without_being_asked(guest):
    poke(guest.memory_file, find_page(guest) + 100, b"wrong")
    wait_for("the guest to notice", lambda: guest.status()["faults"] > 0, 15)


def test_damaged_disk_record_is_noticed(guest):
    wait_for("records", lambda: guest.status()["records_written"] > 20, 15)
    assert guest.ask("disk 0") == "ok"
    poke(guest.disk, 7 * PAGE, bytes(PAGE))
    assert "slot 7" in guest.ask("verify")


def test_session_dies_with_the_guest_it_began_with(guest):
    session = guest.session()
    guest.reboot()
    with pytest.raises(LabError):
        session.close()


@pytest.mark.parametrize("command", ["", "nonsense", "dirty", "dirty fast", "dirty 1 2 3", "memory 0", "memory 99999",
                                     "memory 1 gold", "disk -1", "x" * 1000])
def test_bad_command_is_refused(guest, command):
    assert guest.ask(command).startswith("error")


def test_reboot_keeps_the_records_and_is_another_boot(start, tmp_path):
    guest = start(make_disk(tmp_path), append="workload.disk=100", mac="52:54:00:77:00:64")
    wait_for("records", lambda: guest.status()["records_written"] > 20, 15)
    before = guest.status()
    guest.reboot()
    after = guest.status()
    assert after["boot"] != before["boot"]
    assert after["records_before"] >= before["records_written"]
    assert guest.ask("verify") == "ok"
    guest.qmp.execute("system_powerdown")
    assert guest.qmp.wait_event("SHUTDOWN")["data"]["guest"], "the power button must end the guest"


def test_session_and_memory_live_through_qemus_own_migration(start, tmp_path):
    options = {"append": "workload.memory=32,mixed workload.dirty=2000,16,random", "mac": "52:54:00:77:00:65",
               "binary": qemu.find("10.0")}
    disk = make_disk(tmp_path)
    guest = start(disk, **options)
    target = start(disk, "host2", incoming="defer", **options)
    session = guest.session()
    assert guest.migrate_to(target, network.host_address(2), 4444)["status"] == "completed"
    count = session.count
    wait_for("the session to go on", lambda: session.count > count + 20 or session.error, 10)
    session.close()
    assert target.ask("verify") == "ok"

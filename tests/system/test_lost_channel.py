# SPDX-License-Identifier: Apache-2.0
"""Data connections that end, and a network that stands still, while the guest is copied: the migration goes on."""

import ctypes
import os
import pathlib
import random
import socket
import time

import pytest

LAB = {"hosts": 2, "link": "1gbit"}
SYS_PIDFD_GETFD = 438  # linux/arch/x86/entry/syscalls/syscall_64.tbl; the same on all architectures
PATIENCE_S = 60

libc = ctypes.CDLL(None, use_errno=True)


def borrow(pid, number):
    """A process's socket, as ours: the one thing by which a single connection can be ended from outside."""
    process = os.pidfd_open(pid)
    fd = libc.syscall(SYS_PIDFD_GETFD, process, number, 0)
    os.close(process)
    if fd < 0:
        raise OSError(ctypes.get_errno(), f"descriptor {number} of process {pid}")
    return socket.socket(fileno=fd)


def connections(pid):
    """The mover's data connections; each has several descriptors."""
    found = {}
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        name = os.readlink(entry)
        if not name.startswith("socket:") or name in found:
            continue
        one = borrow(pid, int(entry.name))
        try:
            if one.family == socket.AF_INET and one.getpeername():
                found[name] = one
                continue
        except OSError:
            pass  # the listening one
        one.close()
    return list(found.values())


def end_one(lab, host):
    movers = lab.find(host, "mover")
    assert movers, "the migration is over already"
    all_of_them = connections(movers[0])
    random.choice(all_of_them).shutdown(socket.SHUT_RDWR)
    for one in all_of_them:
        one.close()


def given_up(lab):
    """How many connections the source has given up itself so far."""
    return lab.log_of("host1", "agent").read_text(encoding="utf-8").count("nothing was acknowledged for")


def begin(guest):
    """Takes some seconds: 64 MiB of noise over 100 Mbit/s."""
    guest.do("memory 64 random")
    task = guest.begin_migration("host2", "--verify", "--rate-limit", "100mbit")
    guest.wait_phase(task, ("copying",))
    return task


def check_arrived(guest, task):
    ended = guest.wait_task(task)
    assert ended["status"]["state"] == "succeeded", ended["status"]
    result = ended["status"]["result"]
    assert result["verified"]
    guest.verify()
    return result


def check_moved(guest, task, session):
    result = check_arrived(guest, task)
    assert guest.host() == "host2"
    session.close()
    return result


@pytest.mark.parametrize("side", ["host1", "host2"])
def test_ended_connections_are_replaced(busy_vm, lab, side):
    session = busy_vm.session(patience_s=PATIENCE_S)
    task = begin(busy_vm)
    for _ in range(4):
        time.sleep(0.4)
        end_one(lab, side)
    result = check_moved(busy_vm, task, session)
    assert 1 <= result["reconnects"] <= 4  # the same one may have been ended twice before it was noticed


@pytest.mark.parametrize("seconds", [5, 15], ids=["within-the-limit", "beyond-the-limit"])
def test_network_that_stands_still_is_waited_for(busy_vm, lab, seconds):
    """15 s are more than a connection is given (MIGRATION_PEER_LIMIT_MS): then it takes others. After 5 s the only ones that are
    replaced are those the source gives up because they stand still beside siblings that TCP has tried again earlier
    (source_look_for_stalls())."""
    given_up_before = given_up(lab)
    session = busy_vm.session(patience_s=PATIENCE_S)
    task = begin(busy_vm)
    lab.network.cut("host2", network="mgmt")
    try:
        time.sleep(seconds)
    finally:
        lab.network.cut("host2", up=True, network="mgmt")
    result = check_moved(busy_vm, task, session)
    if seconds > 10:
        assert result["reconnects"] > 0
    else:
        assert result["reconnects"] <= given_up(lab) - given_up_before

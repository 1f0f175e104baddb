# SPDX-License-Identifier: Apache-2.0
"""A source that went away when all was handed over: the destination's agent has to keep the migration in mind until the source
hears of its end, but the guest there is as free as any other meanwhile, and nothing that the old migration does may touch it."""

import contextlib
import ctypes
import os
import signal
import time

import pytest
from fault_matrix import PATIENCE_S, STAYS, look
from labkit.lab import wait_for

SYS_PIDFD_GETFD = 438
_LIBC = ctypes.CDLL(None, use_errno=True)


def stays(check, seconds=3):
    """The old migration looks at its world twice a second: whatever it would do, it does in this time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert check()
        time.sleep(0.1)


def test_guest_is_free_before_the_source_has_heard(cell):
    guest, lab = cell.guest, cell.lab
    session = guest.session(patience_s=PATIENCE_S)
    cell.begin("done")
    lab.kill(cell.source, "agent")
    task = guest.wait_task(cell.task)
    assert task["status"]["state"] == "succeeded", task["status"]
    assert task["status"]["result"]["measured"] is False
    assert guest.host() == cell.destination

    lab.drover("vm", "pause", guest.name)
    count = session.count
    stays(lambda: guest.power() == "paused" and session.count <= count + 1)
    lab.kill(cell.destination, "agent")
    lab.start(cell.destination, "agent")
    # The manager may notice late that the agent was away: until the new one has reported, it knows nothing.
    stays(lambda: guest.power() in ("paused", "unknown") and session.count <= count + 1)
    wait_for("the destination's agent to be back", lambda: guest.power() == "paused")
    lab.drover("vm", "resume", guest.name)
    wait_for("the guest to go on", lambda: session.count > count + 5)

    # Stopped and started anew: another QEMU, which the old migration has even less to do with.
    session.abandon()
    lab.drover("vm", "stop", guest.name, "--force")
    guest.start(cell.destination)
    stays(lambda: guest.power() == "running" and cell.qemus()[cell.destination])

    cell.gate.touch()
    lab.start(cell.source, "agent")
    lab.wait_connected()
    wait_for(f"{cell.source} to be clean", lambda: cell.leftovers(cell.source) == [], 60)
    stays(lambda: guest.power() == "running" and guest.host() == cell.destination)
    guest.verify()
    cell.passed = True


def test_cancel_counts_until_the_source_has_voted(cell):
    """The record says handed-off already, but QEMU at the source cannot have completed: it goes on there."""
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin("handed-off")
    cell.lab.drover("--no-wait", "task", "cancel", cell.task)
    log = cell.lab.log_of(cell.source, "agent")
    wait_for("the source's agent to be told", lambda: "the migration was cancelled" in log.read_text(encoding="utf-8"), 20)
    cell.gate.touch()
    look(cell, STAYS, session)


@pytest.mark.parametrize("victim", ["agent", "mover"])
def test_qemu_that_neither_loads_nor_ends_is_ended(cell, victim):
    """Somebody else keeps the stream open that it reads: it would wait for ever."""
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin("copying")
    with descriptors_of(*cell.lab.find(cell.destination, "mover")):
        cell.strike(f"destination {victim}")
        cell.repair(f"destination {victim}")
        cell.guest.wait_task(cell.task, 60)
        wait_for("its end", lambda: not cell.lab.find(cell.destination, f"qemu:{cell.guest.name}"), 60)
        look(cell, STAYS, session)


def test_destination_that_does_not_complete_alone_is_told_to_abandon(cell):
    """Its mover hangs before it has read COMMIT: the source gives up on the path, and the destination would wait for ever, with the guest stopped."""
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin("completed")
    mover, = cell.lab.find(cell.destination, "mover")
    os.kill(mover, signal.SIGSTOP)
    logs = {side: cell.lab.log_of(cell.host(side), "agent") for side in ("source", "destination")}
    before = {side: log.stat().st_size for side, log in logs.items()}

    def says(side, words):
        with open(logs[side], encoding="utf-8") as text:
            text.seek(before[side])
            return words in text.read()
    cell.gate.touch()
    wait_for("the source to ask", lambda: says("source", "the destination is asked what became of it"), 90)
    wait_for("the destination to be told", lambda: says("destination", "the source ended the migration"), 90)
    look(cell, STAYS, session)


@contextlib.contextmanager
def descriptors_of(pid):
    """All that a process has open, open here as well (pidfd_getfd())."""
    process = os.pidfd_open(pid)
    copies = [_LIBC.syscall(SYS_PIDFD_GETFD, process, int(number), 0) for number in os.listdir(f"/proc/{pid}/fd")]
    try:
        assert any(copy >= 0 for copy in copies)
        yield
    finally:
        for descriptor in (process, *copies):
            if descriptor >= 0:
                os.close(descriptor)

# SPDX-License-Identifier: Apache-2.0
"""A network that is gone for longer than any time limit of the data path, when the destination may have the guest already:
the one case in which the guest stands still until the hosts reach each other again (docs/handoff.md)."""

import time

from fault_matrix import EITHER, PATIENCE_S, look
from labkit.lab import wait_for


def phase(cell):
    return cell.guest.task(cell.task)["status"]["progress"].get("phase")


def test_guest_waits_for_the_peer_after_completion_and_then_runs_once(cell):
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin("completed")
    cell.strike("network")
    cell.gate.touch()
    wait_for("the source to wait for its peer", lambda: phase(cell) == "waiting-for-peer", 90)
    count = session.count
    time.sleep(3)  # nothing may happen in it
    assert session.count == count, "the guest runs although nobody can know who owns it"
    assert [host for host, pids in cell.qemus().items() if pids][0] == cell.source, "the source let its copy go"
    cell.lab.network.cut(cell.destination, up=True, network="mgmt")
    cell.lab.wait_connected()
    look(cell, EITHER, session)

# SPDX-License-Identifier: Apache-2.0
"""A network that is gone for longer than any time limit of the data path, when the destination may have the guest already:
the one case in which the guest stands still until the hosts reach each other again (docs/handoff.md)."""

import time

import pytest
from fault_matrix import EITHER, PATIENCE_S, STAYS, look
from labkit.lab import wait_for


def cut_until(cell, phases):
    cell.strike("network")
    cell.gate.touch()
    return wait_for(f"the source to be {' or '.join(phases)}", lambda: phase(cell) in phases and phase(cell), 90)


def phase(cell):
    return cell.guest.task(cell.task)["status"]["progress"].get("phase")


def heal_and_look(cell, outcome, session):
    cell.lab.network.cut(cell.destination, up=True, network="mgmt")
    cell.lab.wait_connected()
    look(cell, outcome, session)


def test_guest_waits_for_the_peer_after_completion_and_then_runs_once(cell):
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin("completed")
    cut_until(cell, ("waiting-for-peer",))
    count = session.count
    time.sleep(3)  # nothing may happen in it
    assert session.count == count, "the guest runs although nobody can know who owns it"
    assert [host for host, pids in cell.qemus().items() if pids][0] == cell.source, "the source let its copy go"
    heal_and_look(cell, EITHER, session)


@pytest.mark.parametrize("point", ["copying", "switching", "handed-off"])
def test_guest_goes_on_at_the_source_without_waiting_for_the_network(cell, point):
    """Before QEMU has completed, the source needs nobody's word; the guest runs on while the network is still away."""
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin(point)
    cut_until(cell, ("settling", "failed"))
    count = session.count
    wait_for("the guest to go on", lambda: session.count > count + 20, 30)
    heal_and_look(cell, STAYS, session)

# SPDX-License-Identifier: Apache-2.0
"""A network that is gone for longer than any time limit of the data path (docs/handoff.md). While pages are copied the source
goes on by itself. Once the guest is stopped, QEMU at the source completes without hearing of the cut, and the destination may
have everything: the one case in which the guest stands still until the hosts reach each other again."""

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


@pytest.mark.parametrize("point", ["switching", "handed-off", "completed"])
def test_guest_waits_for_the_peer_and_then_runs_once(cell, point):
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin(point)
    cut_until(cell, ("waiting-for-peer",))
    count = session.count
    time.sleep(3)  # nothing may happen in it
    assert session.count == count, "the guest runs although nobody can know who owns it"
    assert cell.qemus()[cell.source], "the source let its copy go"
    heal_and_look(cell, EITHER, session)


def test_guest_goes_on_at_the_source_without_waiting_for_the_network(cell):
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.begin("copying")
    cut_until(cell, ("settling", "failed"))
    count = session.count
    wait_for("the guest to go on", lambda: session.count > count + 20, 30)
    heal_and_look(cell, STAYS, session)

# SPDX-License-Identifier: Apache-2.0
"""The fault matrix of post-copy (docs/handoff.md, "Post-copy"). Before QEMU is told to begin, the guest stays where it is, whatever dies;
from then on until all of its memory has come, it is off on both sides, and can be started again."""

import json
import time

import post_copy
import pytest
from fault_matrix import CRASHES, MOVES, PATIENCE_S, POINTS, STAYS, Cell, look
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = post_copy.LAB
ALL = ("source mover", "destination mover", "source agent", "destination agent", "source qemu", "destination qemu")
# point: the victims and what their end leads to. "running": the guest runs at the destination, some of its memory is at the source.
CELLS = {
    "switching": {"source mover": STAYS, "source agent": STAYS, "destination agent": STAYS, "destination qemu": STAYS},
    "handed-off": {"source mover": STAYS, "source agent": STAYS, "destination agent": STAYS, "destination qemu": STAYS},
    "completed": dict.fromkeys(ALL, CRASHES) | {"manager": MOVES},
    # The destination has all of it, and takes over as it would without post-copy.
    "arrived": dict.fromkeys(("source mover", "source agent", "destination agent"), MOVES),
    "loaded": dict.fromkeys(("source mover", "source agent", "destination agent", "source qemu"), CRASHES),
    "owner-written": dict.fromkeys(("source mover", "destination agent", "destination qemu"), CRASHES),
    "running": dict.fromkeys(ALL, CRASHES) | {"manager": MOVES},
}


@pytest.fixture(scope="module")
def wild_guest(lab):
    made = Workload(lab, "wild").create(host="host1", memory=post_copy.MEMORY, append=post_copy.APPEND)
    yield made
    made.discard()


@pytest.fixture
def cell(lab, wild_guest):
    if wild_guest.power() != "running":
        wild_guest.start("host1")
        wild_guest.wait_ready()
    wild_guest.do(post_copy.TOO_FAST)
    made = Cell(lab, wild_guest, *post_copy.OPTIONS)
    yield made
    post_copy.set_rate(lab, post_copy.LINK_BPS)
    if not made.passed:
        made.clean_up()


def begin(cell, point):
    """At "running" nothing holds any more: the path is slow enough."""
    cell.begin("completed" if point in ("running", "arrived") else point)
    if point == "completed":
        post_copy.set_rate(cell.lab, post_copy.SLOW_BPS)
    if point == "arrived":
        time.sleep(8)  # 14 MB at 100 Mbit/s take a little more than one
    if point == "running":
        post_copy.set_rate(cell.lab, post_copy.SLOW_BPS)
        cell.gate.touch()
        post_copy.wait_running_there(cell.guest, cell.destination)


@pytest.mark.parametrize(("point", "victim", "outcome"),
                         [pytest.param(point, victim, outcome, id=f"{victim.replace(' ', '-')}-at-{point}")
                          for point, victims in CELLS.items() for victim, outcome in victims.items()])
def test_death_in_post_copy(cell, point, victim, outcome):
    guest = cell.guest
    session = guest.session(patience_s=PATIENCE_S)
    begin(cell, point)
    cell.strike(victim)
    cell.repair(victim)
    post_copy.set_rate(cell.lab, post_copy.LINK_BPS)
    ended = guest.wait_task(cell.task)
    if outcome is CRASHES:
        assert ended["status"]["state"] == "failed" and "post-copy" in json.dumps(ended["status"]["error"]), ended["status"]
    else:
        guest.do(post_copy.QUIET)
    look(cell, outcome, session)
    if outcome is CRASHES:  # whichever epoch it came to, it can be started
        guest.start(cell.source)
        wait_for("the guest to run again", lambda: guest.power() == "running", 60)


def test_every_point_of_the_matrix_exists():
    assert set(CELLS) <= {*POINTS, "arrived", "running"}

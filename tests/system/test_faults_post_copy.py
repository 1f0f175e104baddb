# SPDX-License-Identifier: Apache-2.0
"""The fault matrix of post-copy (docs/handoff.md, "Post-copy"). Before QEMU is told to begin, the guest stays where it is, whatever dies;
from then on until all of its memory has come, it is off on both sides, and can be started again."""

import json
import time

import post_copy
import pytest
from fault_matrix import CRASHES, EITHER, MOVES, PATIENCE_S, POINTS, STAYS, Cell, look
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = post_copy.LAB
ALL = ("source mover", "destination mover", "source agent", "destination agent", "source qemu", "destination qemu")
# point: the victims and what their end leads to. "arrived": COMMIT was not sent, but all of the memory is at the destination.
# "running": the guest runs there, and some of its memory is at the source.
CELLS = {
    "switching": dict.fromkeys(("source mover", "source agent", "destination agent", "destination qemu"), STAYS),
    "handed-off": dict.fromkeys(("source mover", "source agent", "destination agent", "destination qemu"), STAYS),
    "completed": dict.fromkeys(ALL, CRASHES) | {"manager": MOVES},
    "arrived": dict.fromkeys(("source mover", "source agent", "destination agent"), EITHER),
    "loaded": dict.fromkeys(("source mover", "source agent", "destination agent", "source qemu"), CRASHES),
    "owner-written": dict.fromkeys(("source mover", "destination agent", "destination qemu"), CRASHES),
    "running": dict.fromkeys(ALL, CRASHES) | {"manager": MOVES},
}
# The others with --all-points.
FIRST = {
    "handed-off": ("source agent",),
    "completed": ("source agent", "source qemu"),
    "arrived": ("source mover",),
    "loaded": ("destination agent",),
    "owner-written": ("destination qemu",),
    "running": ("source mover", "destination agent"),
}


def pytest_generate_tests(metafunc):
    if "victim" in metafunc.fixturenames:
        cells = CELLS if metafunc.config.getoption("--all-points") else FIRST
        metafunc.parametrize(("point", "victim", "outcome"),
                             [pytest.param(point, victim, CELLS[point][victim], id=f"{victim.replace(' ', '-')}-at-{point}")
                              for point, victims in cells.items() for victim in victims])


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
    if point == "arrived":
        cell.begin("completed")
        time.sleep(8)  # 6 MiB take the link two
    elif point == "running":
        post_copy.begin(cell)
    elif point in ("completed", "loaded", "owner-written"):
        cell.begin(point, before=post_copy.slow_down(cell))
    else:
        cell.begin(point)


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

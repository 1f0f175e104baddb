# SPDX-License-Identifier: Apache-2.0
"""The leading one of two managers over PostgreSQL is killed at each recorded step of maintenance and of a schedule's run: the
standby goes on with it, and nothing is done twice."""

import pytest
from labkit.lab import wait_for
from many_moves import END_POINTS, MAINTENANCE_POINTS, SCHEDULE_POINTS, create_idle, moves_all_though_manager_dies

LAB = {"store": "postgres", "managers": 2}
POINTS = [*MAINTENANCE_POINTS, *END_POINTS, *SCHEDULE_POINTS]
NAMES = ["idle00", "idle01"]


def pytest_generate_tests(metafunc):
    if "point" in metafunc.fixturenames:
        few = ["moves-submitted", "schedule-begun"]
        metafunc.parametrize("point", POINTS if metafunc.config.getoption("--all-points") else few)


@pytest.fixture(scope="module")
def guests(lab):
    for name in NAMES:
        create_idle(lab, name)
    return NAMES


def test_leader_killed_at_a_step_and_the_standby_goes_on(lab, guests, point):
    leader = lab.leader()

    def revive():
        wait_for("the standby to lead", lambda: lab.leader() not in (None, leader), 30, 0.1)
        lab.wait_connected()
    moves_all_though_manager_dies(lab, guests, leader, point, revive)
    lab.start(leader, "manager")
    wait_for("both to answer", lambda: all(map(lab.version_of, lab.managers)), 30, 0.2)

# SPDX-License-Identifier: Apache-2.0
"""A manager on SQLite that is killed at each recorded step of a migration, and started again: the migration goes on."""

import pytest
from manager_faults import POINTS, assert_moved, migrate_until_it_dies


@pytest.mark.parametrize("point", POINTS)
def test_manager_killed_at_a_step_goes_on_after_its_restart(lab, matrix_guest, point):
    submission, to = migrate_until_it_dies(lab, matrix_guest, "manager", point)
    lab.start("manager", "manager")
    lab.wait_connected()
    assert_moved(lab, matrix_guest, submission.task(), to)

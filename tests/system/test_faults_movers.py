# SPDX-License-Identifier: Apache-2.0
"""The fault matrix (fault_matrix.py): the data path, a process on each side."""

import pytest
from fault_matrix import cells_of, strike_and_look


@pytest.mark.parametrize(("point", "victim", "outcome"), cells_of("source mover", "destination mover"))
def test_fault(cell, point, victim, outcome):
    strike_and_look(cell, point, victim, outcome)

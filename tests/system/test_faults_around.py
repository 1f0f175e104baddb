# SPDX-License-Identifier: Apache-2.0
"""The fault matrix (fault_matrix.py): the manager, and the network between the hosts."""

import pytest
from fault_matrix import cells_of, strike_and_look


@pytest.mark.parametrize(("point", "victim", "outcome"), cells_of("manager", "network"))
def test_fault(cell, point, victim, outcome):
    strike_and_look(cell, point, victim, outcome)

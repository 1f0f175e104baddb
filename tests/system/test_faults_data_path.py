# SPDX-License-Identifier: Apache-2.0
"""The fault matrix (fault_matrix.py): the data path: both movers, and the QEMU that waits for the guest."""

import pytest
from fault_matrix import cells_of, strike_and_look


@pytest.mark.parametrize(("point", "victim", "outcome"), cells_of("source mover", "destination mover", "destination qemu"))
def test_fault(cell, point, victim, outcome):
    strike_and_look(cell, point, victim, outcome)

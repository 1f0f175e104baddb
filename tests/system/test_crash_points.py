# SPDX-License-Identifier: Apache-2.0
"""Every crash point of the agents (docs/handoff.md): the agent kills itself exactly there, and is started again."""

import pytest
from fault_matrix import EITHER, MOVES, PATIENCE_S, STAYS, look

# point: what it leads to, whichever side's agent dies there
OUTCOMES = {
    "source-prepare": STAYS,
    "source-copying": STAYS,
    "source-switching": STAYS,
    "source-handed-off": STAYS,
    "source-commit": EITHER,
    "source-done": MOVES,
    "destination-prepare": STAYS,
    "destination-copying": STAYS,
    "destination-loaded": MOVES,
    "destination-owner": MOVES,
    "destination-done": MOVES,
}


@pytest.mark.parametrize(("point", "outcome"), OUTCOMES.items(), ids=OUTCOMES)
def test_agent_that_dies_at_a_point_leaves_one_guest(cell, point, outcome):
    session = cell.guest.session(patience_s=PATIENCE_S)
    cell.crash(point.partition("-")[0], point)
    look(cell, outcome, session)

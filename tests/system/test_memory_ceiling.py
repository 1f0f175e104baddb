# SPDX-License-Identifier: Apache-2.0
"""What drover itself may take of a host's memory while it moves a guest: a bound that a host can be planned with."""

import pathlib
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "dev"))

from benchkit.usage import Usage  # noqa: E402 (the path comes first)

LAB = {"hosts": 2}
MEMORY_MIB = 512
MOVER_LIMIT_KIB = (64 << 10) + (MEMORY_MIB << 10) * 4 // 100
N_VMS = 2  # the one that is moved, and a neighbour
AGENT_LIMIT_KIB = (32 << 10) + N_VMS * (2 << 10)


@pytest.fixture
def peaks(lab, vm):
    """{host: {program: {"VmRSS", "RssAnon"}}} over two moves of a guest whose memory is full and changes all the time."""
    vm(memory="128M")
    # No two pages alike, nothing compresses: the index is at its largest, and every buffer is full.
    busy = vm(memory=f"{MEMORY_MIB}M", append=f"workload.memory={MEMORY_MIB // 2},random "
                                              f"workload.dirty=20000,{MEMORY_MIB // 2},random")
    usage = Usage(lab, lab.hosts)
    busy.migrate("host2")
    busy.migrate("host1", "--verify")
    usage.stop()
    busy.verify()
    return usage.peaks_kib()


def test_mover_and_agent_stay_under_their_ceilings(peaks):
    for host, programs in peaks.items():
        # The guest's own memory, which the mover maps, is not the mover's: only what it allocated counts.
        mover, agent = programs["drover-mover"]["RssAnon"], programs["drover-agent"]["VmRSS"]
        print(f"{host}: mover {mover / 1024:.1f} MiB of {MOVER_LIMIT_KIB / 1024:.1f}, "
              f"agent {agent / 1024:.1f} MiB of {AGENT_LIMIT_KIB / 1024:.1f}")
        assert mover <= MOVER_LIMIT_KIB
        assert agent <= AGENT_LIMIT_KIB

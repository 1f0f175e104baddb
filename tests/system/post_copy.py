# SPDX-License-Identifier: Apache-2.0
"""A guest that only post-copy moves, for the tests of that. drover cannot compare the two memories then, so the guest itself checks
every byte of what it wrote."""

from labkit import network
from labkit.lab import wait_for

LINK_BPS, SLOW_BPS = 25_000_000, 600_000
LAB = {"hosts": 2, "link": f"{LINK_BPS // 1_000_000}mbit", "qemu_versions": {"host1": "10.0", "host2": "10.0"}}
OPTIONS = ("--converge", "post-copy", "--max-pause", "1ms")
MEMORY = "160M"
APPEND = "workload.memory=12,random workload.disk=50"

# 4 KiB of noise each: thirty times what the link carries, and still more than that on a machine that is very busy; over memory that takes
# the link two seconds.
TOO_FAST = "dirty 25000 6 random page"
QUIET = "dirty 10 6 random page"


def set_rate(lab, rate_bps):
    """SLOW_BPS: what the guest misses takes a minute to come."""
    for host in lab.hosts:
        lab.network.shape(host, "eth0", network.MGMT, rate_bps)


def slow_down(cell):
    """For Cell.begin(): before QEMU is told to begin."""
    return "handed-off", lambda: set_rate(cell.lab, SLOW_BPS)


def begin(cell):
    """A migration whose guest runs at the destination, where a minute of its memory is missing."""
    cell.begin("loaded", before=slow_down(cell))
    cell.gate.touch()
    wait_for(f"the guest to run on {cell.destination}",
             lambda: (cell.guest.host(), cell.guest.power()) == (cell.destination, "running"), 60, 0.02)

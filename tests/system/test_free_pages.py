# SPDX-License-Identifier: Apache-2.0
"""Memory that a guest has freed goes back to the host."""

import time

from labkit.lab import wait_for

LAB = {"hosts": 2}
FREED = 96 * 2**20
PATIENCE_S = 60
ROUNDS = 4
# The guest's kernel reports two seconds after something was freed, a sixteenth at a time (mm/page_reporting.c).
REPORT_S = 2.5


def resident(lab, guest):
    """Bytes of the QEMU that are in the host's memory."""
    pid, = lab.find(guest.host(), f"qemu:{guest.name}")
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def fill_and_free(guest):
    guest.do("memory 192 random")
    guest.do("memory 1 random")


def work_a_little(guest):
    """Pages that wait in the kernel's lists of each processor keep their neighbours from becoming free pieces of 2 MiB; only more work
    gets them out of there."""
    guest.do("memory 48 random")
    guest.do("memory 1 random")


def is_given_back(lab, guest, full):
    work_a_little(guest)
    return resident(lab, guest) < full - FREED


def test_what_the_guest_freed_goes_back_to_the_host_before_and_after_moves(lab, vm):
    guest = vm(memory="384M")
    assert guest.document()["spec"]["free_page_reporting"]
    for to in ("host2", "host1"):
        fill_and_free(guest)
        full = resident(lab, guest)
        wait_for(f"much of {full} bytes to be given back", lambda size=full: is_given_back(lab, guest, size), PATIENCE_S, REPORT_S)
        assert guest.migrate(to, "--verify")["verified"]
        guest.verify()


def test_a_guest_may_keep_it(lab, vm):
    guest = vm("--keep-free-pages", memory="384M")
    assert "free_page_reporting" not in guest.document()["spec"]  # an agent that knows no such field must take it
    fill_and_free(guest)
    full = resident(lab, guest)
    for _ in range(ROUNDS):
        assert not is_given_back(lab, guest, full)
        time.sleep(REPORT_S)

# SPDX-License-Identifier: Apache-2.0
"""Post-copy over a path on which each page takes longer than a guest can live with: refused, with the numbers."""

# A link that even a guest on a machine with much else to do keeps ahead of.
LAB = {"hosts": 2, "link": "40mbit", "rtt_ms": 400, "qemu_versions": {"host1": "10.0", "host2": "10.0"}}


def test_round_trip_that_is_too_long_is_refused_before_the_guest_is_stopped(vm, lab):
    guest = vm(memory="160M", append="workload.memory=16,random")
    guest.do("dirty 25000 16 random page")
    session = guest.session(120)
    done = lab.run_drover("vm", "migrate", guest.name, "--to", "host2", "--converge", "post-copy")
    assert done.returncode != 0, done.stdout
    assert "post-copy was refused" in done.stderr and "round trip" in done.stderr, done.stderr
    assert (guest.host(), guest.power()) == ("host1", "running")
    guest.do("dirty 10 8 random page")
    guest.verify()
    session.close()

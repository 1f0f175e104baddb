# SPDX-License-Identifier: Apache-2.0
"""Guests of one tenant that go to the same host share what they have in common (sibling-space in drover-agent.conf)."""

import itertools

import pytest

LAB = {"hosts": 2, "link": "1gbit", "sibling_space": "512M"}
HOW = "workload.memory=64,mixed workload.dirty=100,4,random workload.disk=10"
_numbers = itertools.count()


@pytest.fixture
def guests(vm):
    def make(n, *options):
        return [vm(*options, memory="192M", append=HOW) for _ in range(n)]
    return make


def move_all(moved, to):
    """All at once; their results."""
    tasks = [(guest, guest.begin_migration(to, "--verify")) for guest in moved]
    results = []
    for guest, task in tasks:
        ended = guest.wait_task(task)
        assert ended["status"]["state"] == "succeeded", ended["status"]
        results.append(ended["status"]["result"])
        assert results[-1]["verified"]
    for guest in moved:
        guest.verify()
    return results


def wire(results):
    return sum(result["bytes_wire"] for result in results)


def test_four_siblings_at_once_send_what_they_share_once(guests):
    alone = wire(move_all(guests(1), "host2"))
    siblings = guests(4, "--label", "tenant=acme")
    together = move_all(siblings, "host2")
    print(f"one alone {alone} bytes; four siblings at once {wire(together)}: {wire(together) / (4 * alone):.2f} of four alone; "
          f"pauses {[round(result['pause_ms']) for result in together]} ms")
    assert wire(together) < 0.6 * 4 * alone
    assert all(result["bytes_shared"] > 0 for result in together)
    # One that comes later finds all of it there.
    late = move_all(guests(1, "--label", "tenant=acme"), "host2")
    print(f"one more, later: {wire(late)} bytes")
    assert wire(late) < 0.5 * alone
    # And back: nothing is known of the other direction.
    back = move_all(siblings[:1], "host1")
    assert back[0]["bytes_shared"] < late[0]["bytes_shared"]


def test_tenants_share_nothing_with_each_other(guests):
    move_all(guests(1, "--label", "tenant=acme"), "host2")
    other = move_all(guests(1, "--label", "tenant=emca"), "host2")[0]
    nobody = move_all(guests(1), "host2")[0]
    assert nobody["bytes_shared"] == 0
    assert other["bytes_shared"] < 0.2 * nobody["bytes_ram"]  # only what it has several times itself
    assert other["bytes_wire"] > 0.8 * nobody["bytes_wire"]

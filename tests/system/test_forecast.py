# SPDX-License-Identifier: Apache-2.0
"""What is forecast of migrations of real guests, against what they then took. How long things take is this machine's mood: only
shares of runs and relations between forecasts are asked for, and what does not depend on it is asked of every one."""

import pytest
from labkit.lab import wait_for
from labkit.workload import Workload

LAB = {"hosts": 3, "link": "1gbit"}
MOVES = 2  # of each guest
KINDS = ("total_ms", "pause_ms", "bytes_wire")
# MiB of memory filled, and what goes on in it: pages a second, over so many MiB.
GUESTS = {"idle": (160, ()), "writes5k": (128, (5000, 32)), "writes60k": (160, (60000, 96))}


def other(host):
    return "host2" if host == "host1" else "host1"


def forecast(lab, name, *options):
    return lab.drover_json("vm", "forecast", name, *options)


def only(report):
    assert len(report["destinations"]) == 1
    return report["destinations"][0]


@pytest.fixture(scope="module")
def guests(lab):
    made = []
    for name, (memory, dirty) in GUESTS.items():
        guest = Workload(lab, name)
        made.append(guest)
        guest.create(host="host1", memory="384M")
        guest.do(f"memory {memory} mixed")
        guest.do(f"dirty {dirty[0]} {dirty[1]} random line" if dirty else "dirty 0")
        if dirty:
            guest.do("dirty 0")
    yield {guest.name: guest for guest in made}
    for guest in made:
        guest.discard()


def work(guest, on):
    dirty = GUESTS[guest.name][1]
    guest.do(f"dirty {dirty[0]} {dirty[1]} random line" if dirty and on else "dirty 0")


@pytest.fixture(scope="module")
def moves(lab, guests):
    """[(guest, forecast, result)]: each guest forecast, then moved, in turns."""
    made = []
    for guest in guests.values():
        work(guest, True)
        for _ in range(MOVES):
            to = other(guest.host())
            expected = only(forecast(lab, guest.name, "--to", to))
            made.append((guest, expected, guest.migrate(to)))
        work(guest, False)
        guest.verify()
    for guest, expected, result in made:
        print(guest.name, {kind: (round(expected[kind]["low"]), round(expected[kind]["expected"]),
                                  round(expected[kind]["high"]), round(result[kind])) for kind in KINDS})
    return made


def in_range(expected, result, kind):
    return expected[kind]["low"] <= result[kind] <= expected[kind]["high"]


def test_outcome_lies_in_the_range_of_most(moves):
    within = sum(in_range(expected, result, kind) for _, expected, result in moves for kind in KINDS)
    assert within >= len(moves) * len(KINDS) * 0.6


def test_result_holds_the_forecast_it_began_with(moves):
    for _, expected, result in moves:
        assert result["forecast"]["taken_unix_ms"] == expected["taken_unix_ms"]
        assert result["forecast"]["to"] == expected["to"] == result["to"]


def test_path_says_where_its_rate_comes_from_and_stays_below_the_cable(moves):
    for _, expected, _ in moves:
        assert expected["path"]["method"] == "probe"
        assert 0 < expected["path"]["rate_bps"] <= 1.1e9


def test_score_counts_these_moves(lab, moves):
    score = lab.drover_json("vm", "forecast", "--score")
    assert score["n"] == len(moves)
    for kind in score["kinds"]:
        assert kind["n"] == len(moves)
        assert kind["in_range"] == sum(in_range(expected, result, kind["kind"]) for _, expected, result in moves)
    words = lab.drover("vm", "forecast", "--score")
    assert f"{len(moves)} migrations with a forecast" in words and "median error" in words


def test_guest_is_not_disturbed_and_what_it_writes_is_seen(lab, guests):
    guest = guests["writes60k"]
    work(guest, True)
    before = guest.status()["page_writes"]
    report = forecast(lab, guest.name, "--to", other(guest.host()))
    assert guest.status()["page_writes"] > before
    looks = report["sample"]["dirty"]
    assert [look["page_bytes"] for look in looks] == sorted(look["page_bytes"] for look in looks)
    # The working set, with what a random sample of it may be off by; its slots and the kernel's own pages come on top.
    assert 0 < looks[-1]["page_bytes"] < 1.5 * 96 * 2**20
    assert looks[-1]["block_bytes"] < looks[-1]["page_bytes"]
    work(guest, False)
    quiet = forecast(lab, guest.name, "--to", other(guest.host()))
    assert quiet["sample"]["dirty"][-1]["page_bytes"] < looks[-1]["page_bytes"] / 4
    assert quiet["destinations"][0]["converges"]
    guest.verify()


def test_shares_are_those_of_the_guests_memory(moves):
    """Zero and repeated pages, against what the migrations then found."""
    for guest, expected, result in moves:
        if guest.name == "idle":
            assert abs(expected["bytes_wire"]["expected"] / result["bytes_wire"] - 1) < 1


def test_guest_that_no_path_can_follow_is_told_so(lab, guests):
    guest = guests["writes60k"]
    work(guest, True)
    slow = only(forecast(lab, guest.name, "--to", other(guest.host()), "--rate-limit", "2mbit", "--max-pause", "20ms"))
    work(guest, False)
    assert not slow["converges"]
    assert "MB of pages" in slow["reason"] and "Migrate when" in slow["way_out"]


def test_slower_path_takes_longer(lab, guests):
    to = other(guests["idle"].host())
    fast = only(forecast(lab, "idle", "--to", to))
    slow = only(forecast(lab, "idle", "--to", to, "--rate-limit", "20mbit"))
    assert slow["total_ms"]["expected"] > 2 * fast["total_ms"]["expected"]


def test_without_a_destination_all_are_forecast(lab, guests):
    here = guests["idle"].host()
    report = forecast(lab, "idle")
    assert {to["to"] for to in report["destinations"]} == set(lab.hosts) - {here}
    words = lab.drover("vm", "forecast", "idle")
    assert all(word in words for word in ("memory", "total", "pause", "sent", "ends by itself", "tried just now"))


def test_paused_guest_and_unknown_places_are_refused_with_the_way_out(lab, guests):
    guest = guests["idle"]
    lab.drover("vm", "pause", guest.name)
    done = lab.run_drover("vm", "forecast", guest.name)
    lab.drover("vm", "resume", guest.name)
    assert done.returncode == 5 and "paused" in done.stderr and "Resume" in done.stderr
    assert lab.run_drover("vm", "forecast", guest.name, "--to", "host9").returncode == 3
    assert lab.run_drover("vm", "forecast", guest.name, "--to", guest.host()).returncode == 5
    assert lab.run_drover("vm", "forecast").returncode == 2
    guest.wait_ready()


def test_nothing_is_left_behind(lab, guests):
    forecast(lab, "idle")
    wait_for("the movers to be gone", lambda: not [found for host in lab.hosts for found in lab.find(host, "mover")])

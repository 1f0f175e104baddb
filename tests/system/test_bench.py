# SPDX-License-Identifier: Apache-2.0
"""The migration bench: what it plans, what it takes for unavoidable, what it makes of its rows. No guest runs here."""

import mmap
import os

import pytest

from benchkit import clients, limit, plan, report, store, summary
from labkit.lab import LabError

PAGE = limit.PAGE


def choice(**what):
    return plan.Choice(**{"cases": list(plan.CASES), "workloads": list(plan.WORKLOADS), "links": list(plan.LINKS),
                          "systems": list(plan.SYSTEMS), "runs": None, **what})


def test_whole_table_fits_two_hours_and_the_quick_one_ten_minutes():
    assert choice().lines()[1] < 2 * 3600
    quick = choice(**{f"{name}s".replace("runss", "runs"): value for name, value in plan.QUICK.items()})
    assert 0 < quick.lines()[1] < 600


def test_pruning_leaves_every_workload_link_case_and_mode_its_say():
    whole = choice()
    left = {(case, workload, link, system) for case in whole.cases for link in whole.links for version in plan.VERSIONS
            for workload, systems in whole.wanted(case, link, version).items() for system in systems}
    for position, names in enumerate((plan.CASES, plan.WORKLOADS, plan.LINKS, plan.SYSTEMS)):
        assert {combination[position] for combination in left} == set(names)


def test_what_is_left_out_has_a_reason_and_all_leaves_nothing_out():
    said = choice(cases=["single"], systems=["qemu7.2-plain"], workloads=["web"]).left_out("single", "unshaped")
    assert said == ["not run at unshaped: web/qemu7.2-plain: 1 Gbit/s compares the versions of QEMU already"]
    assert not any(choice(all=True).left_out(case, link) for case in plan.CASES for link in plan.LINKS)


def memory_of(*pages):
    """A mapping of its own size in this process, as if it were a guest's: of a file, for the kernel joins anonymous neighbours."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 37 << 20)
    mapped = mmap.mmap(fd, 37 << 20)
    os.close(fd)
    for number, page in enumerate(pages):
        mapped[number * PAGE:(number + 1) * PAGE] = page
    return mapped


def test_zero_and_equal_pages_are_avoidable_and_random_ones_are_not():
    random = os.urandom(PAGE)
    with memory_of(random, random, b"text" * 1024, os.urandom(PAGE)) as mapped:
        found = limit.measure([os.getpid()], len(mapped))
        assert (found.pages, found.zero, found.known) == (len(mapped) // PAGE, len(mapped) // PAGE - 4, 1)
        assert 2 * PAGE < found.bytes < 2 * PAGE + 500


def test_of_a_guest_that_comes_back_only_what_changed_counts(tmp_path):
    pages = [os.urandom(PAGE) for _ in range(4)]
    with memory_of(*pages) as mapped, open(tmp_path / "left", "w+b") as file:
        left = limit.Left(os.getpid(), len(mapped), file)
        mapped[0:64] = bytes(64)
        mapped[PAGE:3 * PAGE] = pages[2] + pages[1]  # moved, not new
        found = limit.measure([os.getpid()], len(mapped), left)
        assert found.known == 3 and found.bytes < 300


def test_guest_whose_memory_is_not_found_fails_and_hangs_nothing():
    with pytest.raises(LabError, match="cannot tell which mapping"):
        limit.measure([os.getpid()], 41 << 30)


def test_percentiles_are_of_requests_and_of_their_window():
    samples = [(second, 0.001, 99) for second in range(10)] + [(10, 0.5, 1), (99, 9.0, 1)]
    seen = clients.view(samples, 0, 10)
    assert (seen["p50_ms"], seen["slowest_ms"], seen["per_s"]) == (1, 500, 99.1)
    assert clients.percentile([], 0.5) is None and clients.percentile(range(1, 101), 0.99) == 99


def test_number_of_writes_tells_each_sessions_version():
    writes, versions = 2 * store.SESSIONS + 1000, [0] * store.SESSIONS
    for i in range(writes):
        versions[i * store.STEP % store.SESSIONS] += 1
    assert all(store.version_after(writes, number) == version for number, version in enumerate(versions))


def row(system, total_ms, megabytes, **more):
    return {"workload": "web", "link": "1gbit", "case": "single", "system": system, "run": 1, "finished": True,
            "total_ms": total_ms, "pause_ms": 10, "bytes_wire": megabytes * 1e6, "cpu_s_source": 1.0, "cpu_s_destination": 0.5,
            "limit_ms": 400.0, "guest": {"per_s": 50, "before": {"per_s": 100}}, "verified": True, **more}


ROWS = [row("qemu10.0-multifd-zstd", 1000, 100), row("qemu10.0-plain", 2000, 300), row("qemu10.0-postcopy", 500, 300),
        row("drover-10.0", 600, 80), row("drover-10.0", 700, 80, run=2), row("drover-10.0", 650, 80, run=3)]


def test_report_has_medians_and_ratios_to_the_fastest_precopy():
    assert report.reference(report.blocks(ROWS)["web", "1gbit", "single"]) == "qemu10.0-multifd-zstd"
    line = next(line for line in report.text(ROWS).splitlines() if line.startswith("drover-10.0"))
    assert line.split()[1:5] == ["3/3", "650", "0.65", "1.62"]
    assert report.slowdown(ROWS[0]) == 2


def test_rows_of_older_files_can_be_reported():
    old = [{key: value for key, value in one.items() if key not in ("case", "limit_ms", "guest")} for one in ROWS]
    assert "drover-10.0" in report.text(old) and report.svg(old, "total_ms")


def test_summary_compares_with_the_same_qemu_with_earlier_visits_and_with_single_guests():
    rows = ROWS + [row("drover-10.0", 50, 8, case="return", away_s=600, first_bytes_wire=80e6),
                   row("drover-10.0", 1500, 160, case="four"),
                   {**row("drover-7.2", 700, 90), "finished": False, "total_ms": None, "pause_ms": None, "bytes_wire": None}]
    text = summary.text(rows)
    assert "0.65 (0.65 to 0.65: web)" in text and "0.80 (0.80 to 0.80: web)" in text
    assert "0.100 of the 80.0 MB of its first visit" in text and "0.50 of four single migrations" in text
    assert "web: drover-7.2 did not end each time" in text

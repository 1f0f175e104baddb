# SPDX-License-Identifier: Apache-2.0
"""What the rows of a bench come to: drover against the best that QEMU can do, over all workloads of a link."""

import statistics

from .drover import FORECAST
from .plan import SYSTEMS
from .report import blocks, cpu_s, fastest, is_precopy, median, over_limit


def _share(value, base):
    return value / base if value is not None and base else None


def _comparisons(rows):
    """{(link, case, drover system): {workload: {what: ratio or value}}}"""
    found = {}
    for (workload, link, case), members in blocks(rows).items():
        for system in members:
            if SYSTEMS.get(system, ("", ""))[1] == "drover":
                found.setdefault((link, case, system), {})[workload] = _compare(members, system)
    return found


def _compare(members, system):
    ours, version = members[system], SYSTEMS[system][0]
    best = fastest(members, f"qemu{version}-")
    theirs = members.get(best, [])
    zstd = [median(members[name], "bytes_wire") for name in members if name.startswith(f"qemu{version}-multifd-zstd")]
    measured = any(is_precopy(name) and name.startswith(f"qemu{version}-") for name in members)
    return {"unmoved": measured and best is None, "finished": all(row["finished"] for row in ours), "pause_ms": median(ours, "pause_ms"),
            "over limit": median(ours, over_limit),
            **{what: _share(median(ours, value), median(theirs, value)) for what, value in (
                ("total", "total_ms"), ("pause", "pause_ms"), ("CPU", cpu_s))},
            "bytes": _share(median(ours, "bytes_wire"), min((size for size in zstd if size), default=None))}


def _spread(workloads, what):
    """"0.83 (0.47 to 0.95, web)": median, least and most with the workload that it is."""
    values = {workload: ratios[what] for workload, ratios in workloads.items() if ratios[what] is not None}
    if not values:
        return "-"
    worst = max(values, key=values.get)
    return f"{statistics.median(values.values()):.2f} ({min(values.values()):.2f} to {values[worst]:.2f}: {worst})"


def _against_qemu(rows):
    for (link, case, system), workloads in _comparisons(rows).items():
        version = SYSTEMS[system][0]
        yield (f"{link}{'' if case == 'single' else f', {case}'}: {system} to the fastest pre-copy mode of QEMU {version} of each "
               f"workload, median (least to most) of {len(workloads)} workloads")
        for what, of in (("total", ""), ("pause", ""), ("bytes", " (to multifd-zstd)"), ("CPU", ", both hosts"), ("over limit", "")):
            yield f"    {what + of:<26}{_spread(workloads, what)}"
        longest = max((ratios["pause_ms"] for ratios in workloads.values() if ratios["pause_ms"] is not None), default=None)
        if longest is not None:
            yield f"    {'longest pause':<26}{longest:.1f} ms"
        for workload, ratios in workloads.items():
            if ratios["unmoved"] and ratios["finished"]:
                yield f"    {workload}: no pre-copy mode of QEMU that was measured ended; {system} did"
            elif not ratios["finished"]:
                yield f"    {workload}: {system} did not end each time"


def _returns(rows):
    for (workload, link, case), members in blocks(rows).items():
        if case != "return":
            continue
        for system, runs in members.items():
            back, first = median(runs, "bytes_wire"), median(runs, "first_bytes_wire")
            if back is not None and first:
                yield (f"return, {workload}, {link}: {system} sent {back / 1e6:.1f} MB after {runs[0]['away_s']} s, "
                       f"{back / first:.3f} of the {first / 1e6:.1f} MB of its first visit")


def _siblings(rows):
    found = blocks(rows)
    for (workload, link, case), members in found.items():
        if case != "four":
            continue
        for system, runs in members.items():
            four = median(runs, "bytes_wire")
            single = median(found.get((workload, link, "single"), {}).get(system, []), "bytes_wire")
            if four is not None and single:
                yield (f"four, {workload}, {link}: {system} sent {four / 1e6:.1f} MB, {four / single / 4:.2f} of four single "
                       f"migrations of {single / 1e6:.1f} MB")


def _forecasts(rows):
    found = [move["forecast"] for row in rows for move in row.get("guests", [row]) if move.get("forecast")]
    if not found:
        return
    yield f"forecasts of {len(found)} moves"
    for kind in FORECAST:
        ranges = [expected[kind] for expected in found]
        hit = sum(it["low"] <= it["outcome"] <= it["high"] for it in ranges)
        error = statistics.median(abs(it["outcome"] - it["expected"]) / it["outcome"] for it in ranges)
        yield f"    {kind:<26}in the range {hit} of {len(ranges)} ({hit / len(ranges):.0%}), median error {error:.0%}"


def text(rows):
    """Lines for people; "" when there is nothing to compare."""
    return "\n".join([*_against_qemu(rows), *_returns(rows), *_siblings(rows), *_forecasts(rows)])

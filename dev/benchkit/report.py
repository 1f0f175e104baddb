# SPDX-License-Identifier: Apache-2.0
"""Tables and plots from the rows of a bench. Nothing is measured here, and nothing is averaged before it was written down."""

import math
import statistics

PLOTS = {"total_ms": "Total time of a migration, ms (median of the runs)",
         "pause_ms": "Pause of the guest, ms (median of the runs; logarithmic)"}
LOGARITHMIC = {"pause_ms"}
BAR, GAP, LEFT, WIDTH = 14, 5, 165, 475
COLUMN_GAP = 30


def blocks(rows):
    """{(workload, link, case): {system: rows}} in order of appearance."""
    found = {}
    for row in rows:
        block = found.setdefault((row["workload"], row["link"], row.get("case", "single")), {})
        block.setdefault(row["system"], []).append(row)
    return found


def title(key):
    workload, link, case = key
    return f"{workload}, {link}" + ("" if case == "single" else f", {case}")


def median(rows, value):
    """Of the runs that finished; None when one of them did not, or none has it. value: a row's field, or a function of a row."""
    values = [row.get(value) if isinstance(value, str) else value(row) for row in rows]
    return statistics.median(values) if values and None not in values else None


def is_precopy(system):
    """Of QEMU, and the guest has all its memory where it runs."""
    return system.startswith("qemu") and "postcopy" not in system


def fastest(members, prefix="qemu"):
    """The pre-copy mode with the shortest total among the systems that begin so; None when none ended each time."""
    totals = {system: median(rows, "total_ms") for system, rows in members.items()
              if is_precopy(system) and system.startswith(prefix)}
    ended = {system: total for system, total in totals.items() if total is not None}
    return min(ended, key=ended.get, default=None)


def reference(members):
    """What a block's ratios are to: the fastest pre-copy mode of QEMU 10.0 here, or of any QEMU where that was not measured."""
    return fastest(members, "qemu10.0") or fastest(members)


def cpu_s(row):
    """Processor seconds of both hosts."""
    return row["cpu_s_source"] + row["cpu_s_destination"] if row["finished"] else None


def slowdown(row):
    """How much less the guest, or its clients, got done while it moved: 1 as much as before, 2 half of it."""
    guest = row.get("guest", {})
    before, during = guest.get("before", {}).get("per_s"), guest.get("per_s")
    return before / during if row["finished"] and before and during else None


def over_limit(row):
    """Total time as a multiple of what the link needs for the bytes that nothing avoids."""
    return row["total_ms"] / row["limit_ms"] if row["finished"] and row.get("limit_ms") else None


def _number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def _ratio(value, base):
    return "-" if value is None or not base else f"{value / base:.2f}"


def _of_guest(name):
    return lambda row: row.get("guest", {}).get(name) if row["finished"] else None


# Heading, width, value, digits, whether a ratio to the reference follows.
COLUMNS = (
    ("total ms", 10, "total_ms", 0, True),
    ("over limit", 11, over_limit, 2, False),
    ("pause ms", 10, "pause_ms", 1, True),
    ("gap ms", 8, "gap_ms", 0, False),
    ("wire MB", 9, lambda row: row["bytes_wire"] / 1e6 if row["finished"] else None, 1, True),
    ("CPU s src", 10, "cpu_s_source", 1, False),
    ("dst", 6, "cpu_s_destination", 1, False),
    ("both", 6, cpu_s, 1, True),
    ("slowdown", 9, slowdown, 2, False),
    ("p50 ms", 8, _of_guest("p50_ms"), 1, False),
    ("p99 ms", 8, _of_guest("p99_ms"), 1, False),
    ("lost", 5, _of_guest("lost"), 0, False),
)
HEADER = f"{'system':<23}{'ended':>6}" + "".join(
    f"{heading:>{width}}{'ratio' if ratio else '':>{7 if ratio else 0}}" for heading, width, _, _, ratio in COLUMNS) + f"{'intact':>8}"


def _line(system, rows, base):
    ended, intact = sum(row["finished"] for row in rows), sum(bool(row["verified"]) for row in rows)
    text = f"{system:<23}{f'{ended}/{len(rows)}':>6}"
    for _, width, value, digits, ratio in COLUMNS:
        found = median(rows, value)
        text += f"{_number(found, digits):>{width}}"
        if ratio:
            text += f"{_ratio(found, base and median(base, value)):>7}"
    return text + f"{f'{intact}/{ended}':>8}"


def text(rows):
    """A table for each workload, link and case: medians, and ratios to the best pre-copy of QEMU 10.0."""
    lines = []
    for key, members in blocks(rows).items():
        best = reference(members)
        lines += ["", title(key) + (f" (ratios to {best})" if best else ""), HEADER]
        lines += [_line(system, rows_of, members.get(best)) for system, rows_of in members.items()]
    return "\n".join(lines[1:])


def _escape(value):
    return str(value).replace("&", "&amp;").replace("<", "&lt;")


def _block(x, y, title, members, name):
    """SVG of one workload at one link with a scale of its own, and the y after it."""
    values = {system: median(rows, name) for system, rows in members.items()}
    longest = max([value for value in values.values() if value] + [1])
    parts = [f'<text x="{x}" y="{y + 12}" class="h">{_escape(title)}</text>']
    y += 20
    for system, value in values.items():
        share = 1 if value is None else value / longest
        if name in LOGARITHMIC and value is not None:
            share = math.log10(1 + value) / math.log10(1 + longest)
        width = max((WIDTH - LEFT - 60) * share, 1)
        colour = "url(#hatch)" if value is None else "#1b7f5c" if system.startswith("drover") else "#9aa5b1"
        shown = "did not end" if value is None else _number(value, 1 if value < 100 else 0)
        # Over the hatching, where the bar takes all of the width.
        at = x + LEFT + (6 if value is None else width + 5)
        parts.append(f'<text x="{x}" y="{y + 11}">{_escape(system)}</text><rect x="{x + LEFT}" y="{y}" '
                     f'width="{width:.1f}" height="{BAR}" fill="{colour}"/><text x="{at:.1f}" y="{y + 11}">{shown}</text>')
        y += BAR + GAP
    return "".join(parts), y + 12


def svg(rows, name):
    """Bars: a column for each workload, in it a block for each link and case."""
    found = blocks(rows)
    columns = list(dict.fromkeys(workload for workload, _, _ in found))
    parts, bottom = [], 0
    for number, workload in enumerate(columns):
        y = 40
        for key, members in found.items():
            if key[0] == workload:
                part, y = _block(10 + number * (WIDTH + COLUMN_GAP), y, title(key), members, name)
                parts.append(part)
        bottom = max(bottom, y)
    width = 20 + len(columns) * (WIDTH + COLUMN_GAP)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom}" viewBox="0 0 {width} {bottom}">'
            '<style>text{font:12px sans-serif;fill:#222}.h{font-weight:bold}</style>'
            '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect width="6" height="6" fill="#fff"/><line x1="0" y1="0" x2="0" y2="6" stroke="#e8a0a0" stroke-width="3"/>'
            f'</pattern></defs><rect width="{width}" height="{bottom}" fill="#fff"/>'
            f'<text x="10" y="20" class="h">{_escape(PLOTS[name])}</text>' + "".join(parts) + "</svg>\n")

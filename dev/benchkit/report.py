# SPDX-License-Identifier: Apache-2.0
"""Tables and plots from the rows of a bench. Nothing is measured here, and nothing is averaged before it was written down."""

import math
import statistics

PLOTS = {"total_ms": "Total time of a migration, ms (median of the runs)",
         "pause_ms": "Pause of the guest, ms (median of the runs; logarithmic)"}
LOGARITHMIC = {"pause_ms"}
BAR, GAP, LEFT, WIDTH = 14, 5, 150, 460
COLUMN_GAP = 30


def groups(rows):
    """{(workload, link, system): rows} in order of appearance."""
    found = {}
    for row in rows:
        found.setdefault((row["workload"], row["link"], row["system"]), []).append(row)
    return found


def blocks(rows):
    """{(workload, link): {system: rows}}"""
    found = {}
    for (workload, link, system), members in groups(rows).items():
        found.setdefault((workload, link), {})[system] = members
    return found


def median(rows, name):
    """Of the runs that finished; None when one of them did not, or none has the value."""
    values = [row.get(name) for row in rows]
    return statistics.median(values) if values and None not in values else None


def reference(members):
    """(system, total_ms, pause_ms) of the fastest pre-copy mode of QEMU 10.0 here, or of any QEMU where that was not measured."""
    peers = {system: (median(rows, "total_ms"), median(rows, "pause_ms")) for system, rows in members.items()
             if system.startswith("qemu") and "postcopy" not in system}
    finished = {system: values for system, values in peers.items() if values[0] is not None}
    newest = {system: values for system, values in finished.items() if system.startswith("qemu10.0")} or finished
    best = min(newest, key=lambda system: newest[system][0], default=None)
    return (best, *newest[best]) if best else None


def _number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}"


def _ratio(value, base):
    return "-" if value is None or not base else f"{value / base:.2f}"


HEADER = (f"{'system':<21}{'ended':>6}{'total ms':>10}{'ratio':>7}{'pause ms':>10}{'ratio':>7}{'gap ms':>8}{'wire MB':>9}"
          f"{'CPU s src':>10}{'dst':>6}{'intact':>8}")


def _line(system, rows, best):
    total, pause = median(rows, "total_ms"), median(rows, "pause_ms")
    wire = median(rows, "bytes_wire")
    ended, intact = sum(row["finished"] for row in rows), sum(bool(row["verified"]) for row in rows)
    return (f"{system:<21}{f'{ended}/{len(rows)}':>6}{_number(total):>10}{_ratio(total, best and best[1]):>7}"
            f"{_number(pause, 1):>10}{_ratio(pause, best and best[2]):>7}{_number(median(rows, 'gap_ms')):>8}"
            f"{_number(wire and wire / 1e6):>9}{_number(median(rows, 'cpu_s_source'), 1):>10}"
            f"{_number(median(rows, 'cpu_s_destination'), 1):>6}{f'{intact}/{ended}':>8}")


def text(rows):
    """A table for each workload and link: medians, and ratios to the best pre-copy of QEMU 10.0."""
    lines = []
    for (workload, link), members in blocks(rows).items():
        best = reference(members)
        lines += ["", f"{workload}, {link}" + (f" (ratios to {best[0]})" if best else ""), HEADER]
        lines += [_line(system, rows_of, best) for system, rows_of in members.items()]
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
    """Bars: a column for each workload, in it a block for each link."""
    found = blocks(rows)
    columns = list(dict.fromkeys(workload for workload, _ in found))
    parts, bottom = [], 0
    for number, workload in enumerate(columns):
        y = 40
        for (its_workload, link), members in found.items():
            if its_workload == workload:
                part, y = _block(10 + number * (WIDTH + COLUMN_GAP), y, f"{workload}, {link}", members, name)
                parts.append(part)
        bottom = max(bottom, y)
    width = 20 + len(columns) * (WIDTH + COLUMN_GAP)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom}" viewBox="0 0 {width} {bottom}">'
            '<style>text{font:12px sans-serif;fill:#222}.h{font-weight:bold}</style>'
            '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
            '<rect width="6" height="6" fill="#fff"/><line x1="0" y1="0" x2="0" y2="6" stroke="#e8a0a0" stroke-width="3"/>'
            f'</pattern></defs><rect width="{width}" height="{bottom}" fill="#fff"/>'
            f'<text x="10" y="20" class="h">{_escape(PLOTS[name])}</text>' + "".join(parts) + "</svg>\n")

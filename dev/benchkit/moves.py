# SPDX-License-Identifier: Apache-2.0
"""One measured move of one guest, or of several at once: the same measure for every system.

A guest here is a peers.PeerGuest or a drover.DroverGuest: prepare(), move(), settle()."""

import concurrent.futures

from .usage import Usage, wire_bytes

NOTHING = {"total_ms": None, "pause_ms": None, "bytes_wire": None, "cpu_s_source": None, "cpu_s_destination": None}


def _own(peaks):
    """Of the peaks of all programs those of drover."""
    return {host: {name: peak for name, peak in programs.items() if name.startswith("drover-")}
            for host, programs in peaks.items()}


def measure(lab, guests, mode, limit_s, verify=False):
    """A row of these guests, which are all on one host and go to the other. Afterwards each is there, or where it was when the
    limit passed. verify: drover compares the memory of both sides."""
    source = guests[0].host
    for guest in guests:
        guest.prepare(mode)
    usage, wire = Usage(lab, guests[0].hosts), wire_bytes(lab, source)
    with concurrent.futures.ThreadPoolExecutor(len(guests)) as pool:
        moves = list(pool.map(lambda guest: guest.move(mode, limit_s, verify=verify), guests))
    usage.stop()
    wire = wire_bytes(lab, source) - wire
    for guest, move in zip(guests, moves):
        move.update(guest.settle(move["finished"]))
    ours = {"memory_kib": _own(usage.peaks_kib())} if mode == "drover" else {}
    failed = next((move for move in moves if not move["finished"]), None)
    if failed:
        return {**NOTHING, **ours, **failed}
    return {**_measured(moves, usage, source, guests[0].host), "bytes_wire": wire, **ours}


def _measured(moves, usage, source, target):
    began, ended = min(move["began"] for move in moves), max(move["ended"] for move in moves)
    row = {key: value for key, value in moves[0].items() if key not in ("began", "ended")} if len(moves) == 1 else {
        "finished": True, "status": moves[0]["status"],
        "guests": [{"start_ms": round((move["began"] - began) * 1000, 1), "total_ms": round((move["ended"] - move["began"]) * 1000, 1),
                    **{key: value for key, value in move.items() if key not in ("began", "ended", "finished", "status")}}
                   for move in moves]}
    if all("verified" in move for move in moves):
        row["verified"] = all(move["verified"] for move in moves)
    return {**row, "total_ms": round((ended - began) * 1000, 1), "pause_ms": max(move["pause_ms"] for move in moves),
            "cpu_s_source": round(usage.cpu_s(source, began, ended), 2),
            "cpu_s_destination": round(usage.cpu_s(target, began, ended), 2),
            "cpu_s_programs": {"source": usage.cpu_by_program_s(source, began, ended),
                               "destination": usage.cpu_by_program_s(target, began, ended)},
            "others_cpu_s": round(usage.others_cpu_s(began, ended), 2)}

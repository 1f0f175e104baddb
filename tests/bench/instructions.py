#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of the data path's innermost loops and of the ranking of 1,000 hosts (hot_loops.c) under callgrind, and fails when one needs more, or
fewer, than instructions.json says.

    meson test -C build instructions                          compares
    DROVER_UPDATE_GOLDEN=1 meson test -C build instructions   writes the file anew, to be read in the diff

Unlike times, counts do not depend on what else the machine does. Only instructions of the project's own functions count, those
of libzstd, liblz4, libxxhash and the C library do not: an update of them is not our regression. The compiler's version does
decide: with another one than the file names the test is skipped, and the file is to be renewed."""

import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

FILE = pathlib.Path(__file__).with_name("instructions.json")
MARGIN = 0.03
SKIPPED = 77  # as meson understands it


def own_instructions(profile, program):
    """Sum of what a callgrind profile has of the functions of this program, without what they call."""
    names, ours, total, called = {}, False, 0, False
    for line in profile.splitlines():
        found = re.match(r"ob=(\(\d+\))(?: (.*))?$", line)
        if found:
            number, name = found.groups()
            names.setdefault(number, name)
            ours = names[number] == str(program)
        elif line.startswith("cob="):
            number, _, name = line[4:].partition(" ")
            names.setdefault(number, name or None)
        elif line.startswith("calls="):
            called = True  # the next line is what the callee used
        elif re.match(r"[+\-*\d]", line):
            total += int(line.split()[1]) if ours and not called else 0
            called = False
    return total


def count(program, loop):
    with tempfile.TemporaryDirectory() as folder:
        profile = pathlib.Path(folder) / "profile"
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect=measured_{loop}",
             f"--callgrind-out-file={profile}", str(program), loop], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False)
        if done.returncode != 0:
            sys.exit(f"{loop} under valgrind ended with {done.returncode}:\n{done.stdout}")
        found = own_instructions(profile.read_text(encoding="utf-8"), program)
    if not found:
        sys.exit(f"callgrind counted nothing in measured_{loop}()")
    return found


def main(program, compiler):
    program = pathlib.Path(program).resolve()
    loops = subprocess.run([str(program)], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = dict(zip(loops, pool.map(lambda loop: count(program, loop), loops)))
    if os.environ.get("DROVER_UPDATE_GOLDEN"):
        FILE.write_text(json.dumps({"compiler": compiler, "instructions": counted}, indent=1) + "\n", encoding="utf-8")
        print(f"written: {FILE}")
        return 0
    known = json.loads(FILE.read_text(encoding="utf-8"))
    if known["compiler"] != compiler:
        print(f"{FILE.name} was counted with {known['compiler']}, this is {compiler}: nothing to compare")
        return SKIPPED
    wrong = 0
    for loop in sorted(counted.keys() | known["instructions"].keys()):
        before, now = known["instructions"].get(loop), counted.get(loop)
        differs = before is None or now is None or abs(now - before) > MARGIN * before
        change = f" ({(now - before) / before:+.1%})" if before and now else ""
        print(f"{loop}: {now} instructions, {before} expected{change}{' <-' if differs else ''}")
        wrong += differs
    if wrong:
        print(f"{wrong} of {len(counted)} differ by more than {MARGIN:.0%}. If that is meant, renew the file:\n"
              "    DROVER_UPDATE_GOLDEN=1 meson test -C build instructions")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

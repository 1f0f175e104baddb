# SPDX-License-Identifier: Apache-2.0
"""Finds a QEMU of a wanted version: the system's, or one from backports unpacked in the cache."""

import re
import shutil
import subprocess

from . import apt, cache

BINARY = "qemu-system-x86_64"

# A program unpacked under another root finds its own share folders relative to itself; only the network boot
# ROMs, which come from a package of the system, must be pointed at.
WRAPPER = """#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
root=$(dirname "$(readlink -f "$0")")/root
lib=$root/usr/lib/x86_64-linux-gnu
export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export QEMU_MODULE_DIR="$lib/qemu"
exec "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" \\
        -L /usr/lib/ipxe/qemu "$@"
"""


def version(binary):
    """(major, minor) of a QEMU binary."""
    text = subprocess.run([binary, "--version"], check=True, text=True, stdout=subprocess.PIPE).stdout
    found = re.search(r"version (\d+)\.(\d+)", text)
    if not found:
        raise SystemExit(f"{binary} --version does not tell a version: {text!r}")
    return int(found[1]), int(found[2])


def find(wanted):
    """Path of a QEMU whose version begins with wanted, such as "7.2" or "10.0"."""
    want = tuple(int(part) for part in wanted.split("."))[:2]
    system = shutil.which(BINARY)
    if system and version(system)[:len(want)] == want:
        return system

    def build(folder):
        apt.unpack_suite(f"{apt.codename()}-backports", "qemu-system-x86", folder / "root")
        (folder / BINARY).write_text(WRAPPER, encoding="ascii")
        (folder / BINARY).chmod(0o755)

    binary = str(cache.get("qemu", cache.recipe_hash(wanted, apt.codename(), WRAPPER), build) / BINARY)
    if version(binary)[:len(want)] != want:
        raise SystemExit(f"QEMU {wanted} is neither the system's ({system and version(system)}) nor that of "
                         f"{apt.codename()}-backports {version(binary)}")
    return binary

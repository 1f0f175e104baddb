# SPDX-License-Identifier: Apache-2.0
"""promtool, from Debian's package prometheus: unpacked beside the system, since to install the package starts a server."""

from . import apt, cache


def path():
    version = apt.answer("version of prometheus", _version)
    folder = cache.get("prometheus", cache.recipe_hash(version), lambda into: apt.unpack([f"prometheus={version}"], into))
    return folder / "usr/bin/promtool"


def _version():
    return apt._run("apt-cache", "show", "--no-all-versions", "prometheus").split("Version: ")[1].split()[0]

# SPDX-License-Identifier: Apache-2.0
"""Debian packages downloaded and unpacked beside the system, never installed.

The mirror's address comes from the machine's own apt sources, so that no host name stands in the tree."""

import os
import pathlib
import re
import subprocess
import tempfile

from . import cache


def _run(*command, **options):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, **options).stdout


def codename():
    for line in pathlib.Path("/etc/os-release").read_text(encoding="utf-8").splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise SystemExit("/etc/os-release names no VERSION_CODENAME: is this Debian?")


def mirror():
    """Address of the mirror that serves this release's main component."""
    output = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages",
                  f"Codename: {codename()}", "Component: main")
    if not output.strip():
        raise SystemExit(f"apt has no source for {codename()} main; add one to /etc/apt and run apt-get update")
    return output.split()[0]


def answer(question, ask):
    """ask()'s answer, a text, kept for as long as the machine's package lists stay the same: apt-cache takes seconds."""
    lists = os.stat("/var/lib/apt/lists").st_mtime_ns
    kept = cache.get("apt-answer", cache.recipe_hash(question, lists),
                     lambda folder: (folder / "answer").write_text(ask(), encoding="utf-8"))
    return (kept / "answer").read_text(encoding="utf-8")


def refresh():
    """Packages can only be found in an index: fetch it where the machine has none yet."""
    if not _run("apt-cache", "dumpavail").strip():
        _run("apt-get", "update", "-q")


def unpack(packages, folder):
    """Downloads packages of the machine's own sources and unpacks them into folder."""
    _fetch_and_unpack(packages, folder, os.environ)


def unpack_suite(suite, package, folder):
    """As unpack(), from a suite that the machine does not use (such as a backports suite), with whatever the
    package depends on that the machine lacks."""
    with tempfile.TemporaryDirectory() as temporary:
        os.chmod(temporary, 0o755)
        environment = _private_apt(pathlib.Path(temporary), suite)
        _run("apt-get", "update", "-q", env=environment)
        plan = _run("apt-get", "install", "--simulate", "--reinstall", "--no-install-recommends",
                    "--target-release", suite, package, env=environment)
        wanted = [f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", plan, re.M)]
        _fetch_and_unpack(wanted, folder, environment)


def _private_apt(folder, suite):
    """An apt configuration of its own: the machine's mirror and package state, one more suite."""
    (folder / "state/lists/partial").mkdir(parents=True)
    (folder / "cache/archives/partial").mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources.list").write_text("".join(
        f"deb [signed-by={keyring}] {mirror()} {name} main\n" for name in (codename(), suite)), encoding="ascii")
    (folder / "apt.conf").write_text(f'''
Dir::State "{folder}/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
''', encoding="ascii")
    return {**os.environ, "APT_CONFIG": str(folder / "apt.conf")}


def _fetch_and_unpack(packages, folder, environment):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        # apt drops to the user _apt for downloads; it must be able to write here.
        os.chmod(downloads, 0o777)
        _run("apt-get", "download", "-q", *packages, cwd=downloads, env=environment)
        for package in sorted(pathlib.Path(downloads).glob("*.deb")):
            _run("dpkg-deb", "--extract", str(package), str(folder))

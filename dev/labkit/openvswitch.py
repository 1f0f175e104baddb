# SPDX-License-Identifier: Apache-2.0
"""Open vSwitch on the machines of a lab: Debian's packages unpacked in the cache, never installed, so that no daemon of theirs runs on
this machine. Each machine has a database and an ovs-vswitchd of its own, without the kernel's module (--disable-system)."""

import os
import pathlib
import subprocess

from . import apt, cache

PACKAGES = ("openvswitch-switch", "openvswitch-common", "libxdp1", "libbpf1", "libunbound8", "libnuma1", "libcap-ng0",
            "libevent-2.1-7")
PROGRAMS = {"ovsdb-server": "usr/sbin", "ovs-vswitchd": "usr/lib/openvswitch-switch", "ovs-vsctl": "usr/bin",
            "ovsdb-tool": "usr/bin", "ovs-appctl": "usr/bin"}
SCHEMA = "usr/share/openvswitch/vswitch.ovsschema"


def root():
    """The folder that the packages are unpacked in."""
    versions = apt.answer("openvswitch", lambda: subprocess.run(
        ["apt-cache", "policy", *PACKAGES], check=True, text=True, stdout=subprocess.PIPE).stdout)

    def build(folder):
        apt.refresh()
        apt.unpack(PACKAGES, folder / "root")
        missing = [name for name, place in PROGRAMS.items() if not (folder / "root" / place / name).exists()]
        if missing:
            raise SystemExit(f"Debian's packages of Open vSwitch lack {', '.join(missing)}")

    return cache.get("openvswitch", cache.recipe_hash(*PACKAGES, versions), build) / "root"


class OpenVSwitch:
    """The one of a machine; its files are in the machine's folder."""

    def __init__(self, machines, machine, folder):
        self.machines, self.machine, self.folder = machines, machine, pathlib.Path(folder)
        self.socket = self.folder / "db.sock"

    def _environment(self):
        folders = {f"OVS_{name}DIR": str(self.folder) for name in ("RUN", "LOG", "DB", "SYSCONF")}
        return os.environ | folders | {"LD_LIBRARY_PATH": str(root() / "usr/lib/x86_64-linux-gnu"),
                                       "OVS_PKGDATADIR": str(root() / "usr/share/openvswitch")}

    def _run(self, program, *words):
        return self.machines.run(self.machine, root() / PROGRAMS[program] / program, *words, env=self._environment())

    def create(self):
        self.folder.mkdir()
        self._run("ovsdb-tool", "create", self.folder / "conf.db", root() / SCHEMA)
        self.start_database()
        self.vsctl("--no-wait", "init")
        # Guests and veths leave checksums to whoever is next; the userspace datapath passes that on only with this.
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true")
        self.start_switch()

    def _start(self, program, *words):
        self.machines.start(self.machine, self.folder / f"{program}.log", root() / PROGRAMS[program] / program, *words,
                            f"--pidfile={self.folder}/{program}.pid", "-vconsole:info", environment=self._environment())

    def start_database(self):
        self.socket.unlink(missing_ok=True)
        self._start("ovsdb-server", self.folder / "conf.db", f"--remote=punix:{self.socket}")
        self.machines.run(self.machine, "sh", "-c", f"for i in $(seq 200); do test -S {self.socket} && exit; sleep 0.05; done; exit 1")

    def start_switch(self):
        self._start("ovs-vswitchd", f"unix:{self.socket}", "--disable-system")

    def vsctl(self, *words):
        return self._run("ovs-vsctl", f"--db=unix:{self.socket}", "--retry", "--timeout=60", *words).strip()

    def appctl(self, *words):
        return self._run("ovs-appctl", *words).strip()


if __name__ == "__main__":
    print(root())

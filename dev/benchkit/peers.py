# SPDX-License-Identifier: Apache-2.0
"""QEMU's own migrations, as the peers of a bench: two QEMU processes on two of the lab's hosts, each mode set up as QEMU's
documents recommend (docs/devel/migration, qapi/migration.json), over the same cable that drover uses."""

import json
import os
import time

from labkit import network
from labkit.lab import wait_for
from labkit.plain_qemu import PlainGuest

PORT = 4711
# One stream for each core of the machine that this runs on, at least QEMU's default of two.
MULTIFD_CHANNELS = max(2, os.cpu_count() or 2)
# The cache finds a page by its address alone: twice what the busiest workload rewrites, so that few meet in one place.
XBZRLE_CACHE_BYTES = 512 << 20

MODES = {
    "plain": ([], {}),
    "xbzrle": (["xbzrle"], {"xbzrle-cache-size": XBZRLE_CACHE_BYTES}),
    "multifd": (["multifd"], {"multifd-channels": MULTIFD_CHANNELS}),
    "multifd-zstd": (["multifd"], {"multifd-channels": MULTIFD_CHANNELS, "multifd-compression": "zstd",
                                   "multifd-zstd-level": 1}),
    "multifd-zstd3": (["multifd"], {"multifd-channels": MULTIFD_CHANNELS, "multifd-compression": "zstd",
                                    "multifd-zstd-level": 3}),
    "autoconverge": (["auto-converge"], {}),
    "postcopy": (["postcopy-ram"], {}),
}
# All that any mode switches on, to switch the others off.
CAPABILITIES = sorted({name for names, _ in MODES.values() for name in names})


def _device(driver, **properties):
    return ["-device", json.dumps({"driver": driver, **properties})]


def _on_root_port(name, slot, driver, **properties):
    number = slot * 8  # and function 0
    return [*_device("pcie-root-port", id=f"rp-{name}", bus="pcie.0", addr=f"{slot:#x}.0x0", multifunction=True,
                     chassis=number, port=number, slot=0),
            *_device(driver, bus=f"rp-{name}", addr="0x0", **properties)]


class SameMachine(PlainGuest):
    """Has the devices of drover's machines (src/vmm/command_line.c): the state of each is saved and loaded in the pause."""

    MACHINE_OPTIONS = ",vmport=off"

    def _devices(self):
        return ["-chardev", f"socket,id=agent,path={self.folder / self._name}.agent,server=on,wait=off",
                "-object", "rng-builtin,id=entropy0", "-vnc", f"unix:{self.folder / self._name}.vnc",
                *_device("isa-serial", id="serial0", chardev="serial"),
                *_device("VGA", id="video0", bus="pcie.0", addr="0x1"),
                *_on_root_port("serial", 5, "virtio-serial-pci", id="vserial0"),
                *_device("virtserialport", id="agent0", bus="vserial0.0", nr=1, chardev="agent",
                         name="org.qemu.guest_agent.0"),
                *_on_root_port("rng", 6, "virtio-rng-pci", id="rng0", rng="entropy0"),
                *_on_root_port("balloon", 7, "virtio-balloon-pci", id="balloon0",
                               **{"deflate-on-oom": True, "free-page-reporting": True}),
                *_on_root_port("disk0", 16, "virtio-blk-pci", id="dev-disk0", drive="disk", bootindex=1, serial="disk0"),
                *_on_root_port("nic0", 2, "virtio-net-pci", id="nic0", netdev="n", mac=self.mac, romfile="")]


class PeerGuest:
    """One guest under plain QEMU, moved to and fro between two hosts by any mode."""

    def __init__(self, lab, hosts, folder, max_pause_ms, number=0, **options):
        """number: of the guests that are there at a time. options: PlainGuest's."""
        folder.mkdir(parents=True, exist_ok=True)
        self.lab, self.hosts, self.folder, self.max_pause_ms = lab, hosts, folder, max_pause_ms
        self.options = {"mac": f"52:54:00:77:00:{0x63 + number:02x}", **options}
        self._port = PORT + number
        self._start = {}
        self._guest = self._target = None

    def start(self, disk, **how):
        """how: PlainGuest.start()'s."""
        self._start = {"disk": disk, **how}
        self._guest = self._make(self.hosts[0])
        self._guest.start(**self._start)
        self._guest.wait_ready()

    def _make(self, host):
        return SameMachine(self.lab, host, self.folder, private_memory=True, **self.options)

    @property
    def host(self):
        return self._guest.machine

    @property
    def pid(self):
        return self._guest.pid

    @property
    def address(self):
        return self._guest.address

    def ask(self, command, timeout_s=120):
        return self._guest.ask(command, timeout_s)

    def _set_up(self, qmp, mode):
        wanted, parameters = MODES[mode]
        qmp.execute("migrate-set-capabilities", capabilities=[
            {"capability": "events", "state": True},
            *({"capability": name, "state": name in wanted} for name in CAPABILITIES)])
        # Limits of 0 mean none: the cable is the limit.
        qmp.execute("migrate-set-parameters", **{"max-bandwidth": 0, "max-postcopy-bandwidth": 0, "downtime-limit":
                                                 self.max_pause_ms, "multifd-compression": "none", **parameters})

    def prepare(self, mode):
        """The destination's QEMU, ready to be moved to."""
        target = self._target = self._make(next(host for host in self.hosts if host != self.host))
        target.start(**self._start, incoming="defer")
        for qmp in (target.qmp, self._guest.qmp):
            self._set_up(qmp, mode)
            qmp.events.clear()
        target.qmp.execute("migrate-incoming", uri=f"tcp:0.0.0.0:{self._port}")

    def move(self, mode, limit_s, **_how):
        """One move; "began" and "ended" in seconds since 1970. Afterwards settle() must be called."""
        source, target = self._guest, self._target
        began = time.time()
        address = network.host_address(1 + self.lab.hosts.index(target.machine))
        source.qmp.execute("migrate", uri=f"tcp:{address}:{self._port}")
        status = self._follow(source, target, mode, began + limit_s)
        if status != "completed":
            return {"finished": False, "status": status}
        resumed = target.qmp.wait_event("RESUME")
        resumed = resumed["timestamp"]["seconds"] + resumed["timestamp"]["microseconds"] / 1e6
        if mode == "postcopy":
            target.qmp.wait_event("MIGRATION", status="completed")
        ended = target.qmp.event_s("MIGRATION", status="completed") if mode == "postcopy" else resumed
        return {"finished": True, "status": status, "began": began, "ended": ended,
                "pause_ms": round((resumed - source.qmp.event_s("STOP")) * 1000, 2)}

    def settle(self, finished):
        """After a move: ends the QEMU that is not needed any more. What else is known of the move."""
        source, target = self._guest, self._target
        self._target = None
        if not finished:
            self._give_up(source, target)
            return {}
        info = source.qmp.execute("query-migrate")
        source.kill()
        self._guest = target
        return {"passes": info.get("ram", {}).get("dirty-sync-count")}

    @staticmethod
    def _follow(source, target, mode, deadline):
        postcopy = False
        while time.time() < deadline:
            source.qmp.poll(0.05)
            target.qmp.poll()
            # As the documents say: post-copy begins after one pass of pre-copy.
            if mode == "postcopy" and not postcopy and source.qmp.find_event("MIGRATION_PASS", **{"pass": 2}):
                source.qmp.execute("migrate-start-postcopy")
                postcopy = True
            for status in ("completed", "failed", "cancelled"):
                if source.qmp.find_event("MIGRATION", status=status):
                    return status
        return "did not end"

    def _give_up(self, source, target):
        def status():
            return source.qmp.execute("query-migrate").get("status")

        if status() == "active":
            source.qmp.execute("migrate_cancel")
        if status() in ("completed", "device"):  # it made up its mind in the last moment
            target.qmp.wait_event("RESUME")
            source.kill()
            self._guest = target
            return
        target.kill()  # a cancel can hang while the other side does not read
        wait_for("QEMU to have cancelled its migration", lambda: status() in ("cancelled", "failed"), 60)

    def quit(self):
        for guest in (self._target, self._guest):
            if guest:
                guest.kill()

# SPDX-License-Identifier: Apache-2.0
"""The guests of a bench: the same machine with the same image under plain QEMU and under drover, and the work in it."""

import contextlib
import json
import shutil

from labkit import guest as guests
from labkit import qemu
from labkit.machines import LabError, command_line

from . import builds, database, peers, store, web
from .drover import DroverGuest
from .memory_work import MemoryWork
from .plan import WORKLOADS

HOSTS = {"7.2": ("host1", "host2"), "10.0": ("host3", "host4")}
MEMORY_KIB = 1 << 20
# QEMU before 9.0 loses dirty pages of TCG guests whose memory is a multiple of 256 KiB (docs/vm-document.md); drover
# adds this by itself, the peers' guest gets the same.
MEMORY_EXTRA_KIB = {"7.2": 8, "10.0": 0}
MAX_PAUSE_MS = 300  # QEMU's default, and drover's

# What a guest boots (dev/guest), and the work that is done with it.
IMAGES = {"memory": "workload", "pgbench": "postgres", "web": "services", "redis": "services", "build": "services"}
WORKS = {"pgbench": database.Work, "web": web.Work, "redis": store.Work, "build": builds.Work}


def work_of(workload, link, lab, guest):
    """link: a plan.Link."""
    about = WORKLOADS[workload]
    return MemoryWork(lab, guest, about.memory_for(link)) if about.memory else WORKS[about.guest](lab, guest)


@contextlib.contextmanager
def booted(lab, version, kind, ours, number=0):
    """A guest that answers; it and its disk are gone afterwards. number: of those that are there at a time."""
    image = IMAGES[kind]
    disk = lab.folder / f"shared/bench/{'drover' if ours else 'qemu'}-{version}-{kind}{number}"
    disk.parent.mkdir(exist_ok=True)
    if image == "workload":
        with open(disk, "wb") as file:
            file.truncate(64 << 20)
    else:
        shutil.copy(guests.build(image) / "disk.qcow2", disk)
    append = f"guest.service={kind}" if image == "services" else ""
    disk_format = "raw" if image == "workload" else "qcow2"
    guest = _ours(lab, version, number, kind) if ours else _plain(lab, version, number, image)
    try:
        if ours:
            guest.start("--label", "tenant=bench", memory=f"{MEMORY_KIB}K", image=image, append=append,
                        disks=[f"shared:{disk.relative_to(lab.folder / 'shared')},format={disk_format}"])
        else:
            guest.start(disk, append=append, drive=f"format={disk_format},cache.direct=on,discard=unmap")
        yield guest
    except BaseException:
        # What went wrong is what people should read, not that a guest in the middle of a move cannot be deleted.
        with contextlib.suppress(LabError):
            guest.quit()
        raise
    guest.quit()
    disk.unlink(missing_ok=True)


def _ours(lab, version, number, kind):
    return DroverGuest(lab, HOSTS[version], f"{kind}{number}", MAX_PAUSE_MS)


def _plain(lab, version, number, image):
    return peers.PeerGuest(lab, HOSTS[version], lab.folder / "peers", MAX_PAUSE_MS, number, binary=qemu.find(version), image=image,
                           machine_type=f"pc-q35-{version}", memory_kib=MEMORY_KIB + MEMORY_EXTRA_KIB[version])


# Names of what is behind a device, and what differs by purpose.
BACK_ENDS = {"chardev", "rng", "drive", "netdev", "mac"}


def devices(pid):
    """Of a QEMU process: what its guest sees, a line each."""
    words = command_line(pid)
    pairs = list(zip(words, words[1:]))
    found = [json.loads(word) for option, word in pairs if option == "-device"]
    lines = [json.dumps({key: device[key] for key in sorted(device.keys() - BACK_ENDS)}) for device in found]
    machine = next(word for option, word in pairs if option == "-machine").split(",")
    # QEMU's version is part of the machine's name. The other options name the memory, or are for the host.
    return sorted(["machine " + machine[0].rpartition("-")[0] + "".join(f" {word}" for word in machine if word.startswith("vmport")),
                   "cpu " + next(word for option, word in pairs if option == "-cpu").removesuffix(",enforce"), *lines])

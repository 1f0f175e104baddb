# SPDX-License-Identifier: Apache-2.0
"""How few bytes a move can do with: what no system avoids, whatever it does.

Estimated from the memory of the guests themselves, read once while they run, before they move:

  - pages that are zero cost nothing
  - of pages with equal content one counts; with several guests, one of all of them
  - a guest that comes back: of pages that it had when it left, wherever they were, none; of others what differs from the page that
    was there then
  - the rest is packed as one piece by zstd at level 9 with a window of 128 MiB, and what comes out is the limit

It is an estimate: a slower codec gets below it by some per cent, and what the guest rewrites while it moves must go as well,
which is not in it. What the guest's kernel holds free but not zeroed counts, although a system that asks the guest could leave
it out."""

import dataclasses
import hashlib
import os
import re
import subprocess
import threading

from labkit.lab import LabError

PAGE = 4096
ZERO = bytes(PAGE)
CHUNK = 16 << 20
ZSTD = ["zstd", "-q", "-c", "-9", "--long=27", "-T0"]
# Differing pages of which so much stayed are counted by what differs.
LIKE = PAGE // 2


def _ram(pid, memory_bytes):
    """Where the guest's memory is in its QEMU: the only mapping of that size, code caches of TCG apart."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        found = [(int(start, 16), int(end, 16)) for start, end, rights in re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) (\S+)", maps.read(), re.M) if rights.startswith("rw-")]
    sized = [start for start, end in found if memory_bytes <= end - start < memory_bytes + (4 << 20)]
    if len(sized) != 1:
        raise LabError(f"cannot tell which mapping of QEMU {pid} is the guest's memory: {len(sized)} have its size")
    return sized[0]


def pages(pid, memory_bytes):
    """The guest's pages in order."""
    start = _ram(pid, memory_bytes)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for offset in range(0, memory_bytes, CHUNK):
            memory.seek(start + offset)
            chunk = memory.read(min(CHUNK, memory_bytes - offset))
            for at in range(0, len(chunk), PAGE):
                yield chunk[at:at + PAGE]


def _digest(page):
    return hashlib.blake2b(page, digest_size=16).digest()


class Left:
    """Memory of a guest at the moment when it left, for the limit of its return."""

    def __init__(self, pid, memory_bytes, file):
        """file: an open file of the caller's that keeps the contents."""
        self._file, self._digests = file, set()
        for page in pages(pid, memory_bytes):
            if page == ZERO:
                file.seek(PAGE, os.SEEK_CUR)  # a hole
            else:
                self._digests.add(_digest(page))
                file.write(page)
        file.truncate(memory_bytes)
        file.flush()

    def holds(self, digest):
        return digest in self._digests

    def difference(self, number, page):
        """What is to be packed of a page that is new."""
        self._file.seek(number * PAGE)
        before = self._file.read(PAGE)
        changed = (int.from_bytes(before, "little") ^ int.from_bytes(page, "little")).to_bytes(PAGE, "little")
        return changed if changed.count(0) >= LIKE else page


class _Counter(threading.Thread):
    """Reads a stream to its end and counts, so that its writer never waits."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self._stream, self._n = stream, 0
        self.start()

    def run(self):
        while data := self._stream.read1(1 << 20):
            self._n += len(data)

    def total(self):
        self.join()
        return self._n


@dataclasses.dataclass
class Limit:
    pages: int = 0
    zero: int = 0
    known: int = 0  # equal to another one, or to one of before
    bytes: int = 0


def _pack(pids, memory_bytes, left, limit, packer):
    seen = set()
    for pid in pids:
        for number, page in enumerate(pages(pid, memory_bytes)):
            limit.pages += 1
            if page == ZERO:
                limit.zero += 1
                continue
            digest = _digest(page)
            if digest in seen or (left and left.holds(digest)):
                limit.known += 1
                continue
            seen.add(digest)
            packer.write(left.difference(number, page) if left else page)


def measure(pids, memory_bytes, left=None):
    """The Limit of these guests, moved at once. left: the Left of one that comes back."""
    limit = Limit()
    with subprocess.Popen(ZSTD, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as zstd:
        counter = _Counter(zstd.stdout)
        try:
            _pack(pids, memory_bytes, left, limit, zstd.stdin)
        finally:
            zstd.stdin.close()
            limit.bytes = counter.total()  # it reads to the end also when a guest's memory could not be found
    if zstd.returncode != 0:
        raise LabError(f"zstd ended with {zstd.returncode}")
    return limit

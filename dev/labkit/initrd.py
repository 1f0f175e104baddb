# SPDX-License-Identifier: Apache-2.0
"""Writes an initrd: a cpio archive in the "newc" format, see Documentation/driver-api/early-userspace/buffer-format.rst
in the Linux source. By hand, so that it needs no rights, no extra tool, and gives the same bytes each time."""

import stat


class Archive:
    def __init__(self):
        self.data = bytearray()
        self._n = 0

    def _add(self, name, mode, content=b"", device=(0, 0)):
        self._n += 1
        fields = (self._n, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        self.data += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        self._pad()
        self.data += content
        self._pad()

    def _pad(self):
        self.data += bytes(-len(self.data) % 4)

    def folder(self, name):
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name, content, mode=0o644):
        self._add(name, stat.S_IFREG | mode, content)

    def link(self, name, target):
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name, major, minor):
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self):
        self._add("TRAILER!!!", 0)
        return bytes(self.data)

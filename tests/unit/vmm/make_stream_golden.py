#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Records the migration stream of a tiny stopped guest for test_stream_parser.c: 2 MiB of RAM, firmware of
zeros, every 7th RAM page filled with its number. Usage: make_stream_golden.py OUTPUT.zst"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time

PAGES = 512


def ask(sock, reader, name, **arguments):
    sock.sendall(json.dumps({"execute": name, "arguments": arguments}).encode())
    while True:
        reply = json.loads(reader.readline())
        if "return" in reply or "error" in reply:
            return reply["return"]


def main():
    with tempfile.TemporaryDirectory() as folder:
        path = lambda name: os.path.join(folder, name)
        with open(path("bios"), "wb") as bios:
            bios.write(bytes(65536))
        with open(path("ram"), "wb") as ram:
            for page in range(PAGES):
                ram.write(page.to_bytes(4, "little") * 1024 if page % 7 == 0 else bytes(4096))
        qemu = subprocess.Popen([
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S", "-vga", "none",
            "-machine", "pc-i440fx-7.2,memory-backend=pc.ram", "-m", "2M", "-bios", path("bios"), "-object",
            "memory-backend-file,id=pc.ram,mem-path=%s,share=on,size=2M" % path("ram"),
            "-qmp", "unix:%s,server=on,wait=off" % path("qmp")])
        try:
            while not os.path.exists(path("qmp")):
                time.sleep(0.05)
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path("qmp"))
            reader = sock.makefile()
            reader.readline()
            ask(sock, reader, "qmp_capabilities")
            ask(sock, reader, "migrate", uri="exec:cat >" + path("stream"))
            while ask(sock, reader, "query-migrate").get("status") != "completed":
                time.sleep(0.05)
        finally:
            qemu.kill()
            qemu.wait()
        subprocess.run(["zstd", "-q", "-19", "-f", path("stream"), "-o", sys.argv[1]], check=True)


main()
